#!/usr/bin/env bash
# kill_test.sh PROGRAM KILLS MPI_KILLS [SEED]: a run is killed with -9 at random moments, of training and of saving, and
# started again, until it has been killed KILLS times (and MPI_KILLS times under mpirun -n 2, one rank at a time). Every run
# that comes to its end must have the checkpoint and the metrics of a run that nothing disturbed, bit for bit.
set -euo pipefail
program=$(readlink -f "$1"); kills=$2; mpi_kills=$3; RANDOM=${4:-1}
. "$(dirname "$(readlink -f "$0")")/reap.sh"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"

fail() { echo "kill_test: $*"; tail -n 20 log 2>/dev/null || true; exit 1; }
now() { date +%s%N; }

for i in $(seq 400); do
  echo "Under the old bridge boat $((i * 7919 % 977)) waits for the river to rise."
  if ((i % 20 == 0)); then echo; fi
done > text.txt
"$program" prepare --input text.txt --output corpus > log 2>&1 || fail "prepare"
cat > run.yaml <<'YAML'
model:
  layers: 2
  hidden: 24
  dense_width: 48
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  mhc: {streams: 2, sinkhorn_iterations: 5}
  moe: {experts: 4, shared: 1, top_k: 2, expert_width: 12}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 500}
data: {train: corpus}
train: {steps: 60, sequence_length: 32, batch_sequences: 4, checkpoint_every: 1, keep_last: 1, milestone_every: 20}
optim: {lr: 4e-3, schedule: {warmup: 5}}
run: {dir: run}
YAML

# What must be equal: manifests hold the digests of all files; metrics without their times.
state() {
  ls "$1/checkpoints"
  cat "$1"/checkpoints/step-{20,40,60}/manifest.json
  grep -o '"step": [0-9]*, "loss": [^,]*, "tokens": [0-9]*, "learning_rate": [^,]*, "grad_norm": [^,]*' "$1/metrics.jsonl"
}

# part NAME KILLS COMMAND...
part() {
  local name=$1 wanted=$2; shift 2
  local begin pid victim span kills_done=0 finished=0 saving=0 rc left seen=
  rm -rf run  # the part before may have ended with a kill
  begin=$(now)
  "$@" > log 2>&1 || fail "$name: the undisturbed run"
  : > attempts
  span=$((($(now) - begin) / 1000000))  # ms
  state run > reference; rm -rf run
  while ((kills_done < wanted || finished == 0)); do
    "$@" > log 2>&1 & pid=$!
    if ((kills_done < wanted)); then
      # Up to a third of a whole run: starting, training and saving are all met.
      sleep "$(printf '0.%03d' $((RANDOM % (span / 3 > 950 ? 950 : span / 3 + 1))))"
      victim=$pid
      if [[ $name == mpi ]]; then
        mapfile -t ranks < <(pgrep -P "$pid" || true)
        if ((${#ranks[@]} > 0)); then victim=${ranks[RANDOM % ${#ranks[@]}]}; fi
      fi
      if kill -9 "$victim" 2>/dev/null; then kills_done=$((kills_done + 1)); fi
      # What a kill inside a save leaves behind; the next save clears it.
      left=$(stat -c '%n %i' run/checkpoints/.saving-* run/checkpoints/.old-* 2>/dev/null || true)
      if [[ -n $left && $left != "$seen" ]]; then saving=$((saving + 1)); fi
      seen=$left
    fi
    rc=0; reap "$pid" || rc=$?
    { echo "exit code $rc, $kills_done kills:"; grep -E '^(batch|going on|passing over)' log || true; } >> attempts
    case $rc in
      0) state run > got
         cmp reference got || { cat attempts; diff reference got | head -n 40
           fail "$name: after $kills_done kills the run differs from the undisturbed one"; }
         finished=$((finished + 1)); rm -rf run; : > attempts ;;
      1 | 2 | 3 | 4 | 75) [[ $name == mpi ]] || fail "$name: exit code $rc after $kills_done kills" ;;
      *) ;;  # killed
    esac
    if [[ -d run ]] && grep -q 'passing over' log; then fail "$name: a published checkpoint was torn"; fi
  done
  echo "kill_test: $name: $kills_done kills, $saving while saving, $finished runs came to the same bits"
}

part single "$kills" "$program" train run.yaml
if ((mpi_kills > 0)); then part mpi "$mpi_kills" mpirun -n 2 "$program" train run.yaml; fi
