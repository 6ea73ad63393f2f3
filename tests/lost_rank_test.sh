#!/usr/bin/env bash
# lost_rank_test.sh MNEME LOST_RANK_RUN [some|all] [cpu|gpu] [RANKS] [peer|nccl]: ranks (4) under mpirun; one of them is killed (-9),
# stopped (SIGSTOP) or fails (on a GPU by an address that is none; by what a library finds), in training, in saving or, stopped, when all is done. The job ends within
# train.collective_timeout and some, with one line that names the rank, the host, the collective, its axis and the step,
# and the documented exit code; nothing is left running, and on GPUs no memory taken; the same command goes on, and in the
# end the run has the bits of one that nothing disturbed. `all`: each rank in turn in every way; on GPUs one run a rank,
# side by side. Without a GPU, or with fewer than ranks, `gpu` ends with 77, or ranks share.
set -euo pipefail
program=$(readlink -f "$1"); runner=$(readlink -f "$2"); which=${3:-some}; device=${4:-cpu}; ranks=${5:-4}; transport=${6:-peer}
. "$(dirname "$(readlink -f "$0")")/reap.sh"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
# Of the GPUs that this test may use: what else runs on a machine says so by CUDA_VISIBLE_DEVICES.
memory_taken() {
  nvidia-smi ${CUDA_VISIBLE_DEVICES:+-i "$CUDA_VISIBLE_DEVICES"} --query-gpu=memory.used --format=csv,noheader,nounits |
    awk '{ sum += $1 } END { print sum }'
}
share=false
if [[ $device == gpu ]]; then
  gpus=$(nvidia-smi -L ${CUDA_VISIBLE_DEVICES:+-i "$CUDA_VISIBLE_DEVICES"} 2>/dev/null | grep -c '^GPU' || true)
  if ((gpus == 0)); then echo "lost_rank_test: no GPU on this machine"; exit 77; fi
  ((gpus >= ranks)) || share=true
  taken=$(memory_taken)
fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"

# Short, and only where a rank is lost: on a busy machine a healthy one may wait as long for its turn.
timeout=4; [[ $device == cpu ]] || timeout=8  # NCCL connects 16 ranks, side by side, in seconds
failure=fatal; [[ $device == cpu ]] || failure=cuda
# chains: runs that go on from fault to fault, all of as many.
chains=()
if [[ $which == all ]]; then
  for rank in $(seq 0 $((ranks - 1))); do
    chain=
    for kind in kill stop $failure found; do
      for phase in training saving; do
        [[ $kind == found && $phase == saving ]] || chain+="$kind $rank $phase;"  # a save may have no wait
      done
    done
    chains+=("$chain")
  done
  if [[ $device == cpu ]]; then chains=("$(printf %s "${chains[@]}")"); fi
  for i in "${!chains[@]}"; do chains[i]+="stop $i ending;"; done  # nothing can come after it
else
  last=$((ranks - 1))
  chains=("kill 0 training;kill $last saving;stop $((last / 2 + 1)) training;stop 0 saving;stop 1 training;$failure $last training;$failure $((last / 2 + 1)) saving;found 1 training;stop $last ending;")
fi
faults=$(grep -o ';' <<< "${chains[0]}" | wc -l)
steps=$((2 * faults + 2))

for i in $(seq 200); do echo "The ferry leaves at $((i * 7919 % 977)), and one passenger is missing."; done > text.txt
"$program" prepare --input text.txt --output corpus > log 2>&1 || { cat log; exit 1; }
store=lazy; [[ $device == cpu ]] || store=resident
config() {
  cat <<YAML
model:
  layers: 2
  hidden: 24
  dense_width: 48
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 4, shared: 1, top_k: 2, expert_width: 12}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 500, table: {store: $store}}
data: {train: $work/corpus}
train: {steps: $steps, sequence_length: 32, batch_sequences: 4, checkpoint_every: 1, keep_last: 1}
parallel: {expert: 2, memory: 0, share_device: $share, transport: $transport}
optim: {lr: 4e-3}
device: $device
run: {dir: run}
YAML
}
# Without the place where the run lives and its timeout, which its config has, and sums over it.
state() {
  local last="$1/checkpoints/step-$steps"
  awk '/"config.yaml"/ { left = 3 } left-- > 0 || /^ "digest"/ { next } { print }' "$last/manifest.json"
  grep -v '^  dir: \|^  collective_timeout: ' "$last/config.yaml"
  grep -o '"step": [0-9]*, "loss": [^,]*, "tokens": [0-9]*, "learning_rate": [^,]*, "grad_norm": [^,]*' "$1/metrics.jsonl"
}

# In the folder of a chain.
fail() { echo "lost_rank_test: $*"; tail -n 30 log 2>/dev/null || true; exit 1; }
# A rank that the launcher was told to kill may take a moment to be gone.
expect_nothing_left() {
  for _ in $(seq 20); do
    if ! pgrep -f "$PWD/run.yaml" > /dev/null; then return; fi
    sleep 0.1
  done
  fail "$1: left running: $(pgrep -af "$PWD/run.yaml")"
}
lose() {  # KIND RANK PHASE STEP
  local one="$1 $2 $3" rc=0 begin end seconds code line job
  local place='of axis [a-z ()]*, its call [0-9]* there, at step' who="rank $2 (host [^)]*)"
  mpirun -n "$ranks" "$runner" "$PWD/run.yaml" "$1" "$2" "$3" "$4" train.collective_timeout=$timeout < /dev/null > log 2>&1 & job=$!
  reap $job || rc=$?
  end=$(date +%s%3N)
  begin=$(sed -n 's/^fault at //p' log)
  [[ -n $begin ]] || fail "$one: the run ended with $rc before its fault"
  seconds=$(awk "BEGIN { print ($end - $begin) / 1000 }")
  case $1 in
    kill) code=137; line="^mneme: $who, process [0-9]*, died [a-z]* [a-z_]* $place $4 ($3); ending the job" ;;
    stop) code=5; line="^mneme: $who has not [a-z]* [a-z_]* of axis [a-z ()]* at step $4 for .* s: stopped" ;;
    fatal) code=1; line="^mneme: a_driver.cc:1: forced error; rank $2 of $ranks (host [^)]*) [a-z]* [a-z_]* $place $4 ($3)" ;;
    found) code=1; line="^mneme: a_library.cc:1: found by itself; rank $2 of $ranks (host [^)]*) [a-z]* [a-z_]* $place $4 ($3)" ;;
    cuda) code=1; line="^mneme: .*CUDA.*: cudaError[A-Za-z]*: .*; rank $2 of $ranks (host [^)]*) [a-z]* [a-z_]* $place $4 ($3)" ;;
  esac
  [[ $rc == "$code" ]] || fail "$one: exit code $rc, not $code"
  (($(grep -c '^mneme: ' log) == 1)) || fail "$one: $(grep -c '^mneme: ' log) lines"
  grep -q "$line" log || fail "$one: another line than $line"
  awk "BEGIN { exit !($seconds < $timeout + 15) }" || fail "$one: took $seconds s"
  expect_nothing_left "$one"
  echo "lost_rank_test: $one at step $4: exit code $rc after $seconds s"
  grep '^mneme: ' log | sed 's/^/    /'
}
run_chain() {  # NUMBER
  local step=0 kind rank phase
  mkdir "$work/chain$1"; cd "$work/chain$1"
  config > run.yaml
  while read -r -d ';' kind rank phase; do
    step=$((step + 2))
    [[ $phase != ending ]] || step=$steps
    lose "$kind" "$rank" "$phase" "$step"
  done <<< "${chains[$1]}"
  mpirun -n "$ranks" "$program" train "$PWD/run.yaml" > log 2>&1 || fail "going on to the end"
  state run > got
  [[ ! -e run/.pulses ]] || fail "run/.pulses is left behind"
}

mkdir undisturbed
(cd undisturbed; config > run.yaml; mpirun -n "$ranks" "$program" train "$PWD/run.yaml" > log 2>&1 || fail "the undisturbed run"
  state run > ../reference)
jobs=()
for i in "${!chains[@]}"; do run_chain "$i" & jobs+=($!); done
lost=0
for job in "${jobs[@]}"; do wait "$job" || lost=1; done
((lost == 0)) || exit 1
for i in "${!chains[@]}"; do
  diff reference "chain$i/got" || { echo "lost_rank_test: run $i differs from the undisturbed one"; exit 1; }
done
if [[ $device == gpu ]]; then
  for _ in $(seq 50); do (($(memory_taken) <= taken)) && break; sleep 0.1; done
  (($(memory_taken) <= taken)) || { echo "lost_rank_test: GPUs hold $(memory_taken) MiB, $taken before"; exit 1; }
fi
echo "lost_rank_test: ${#chains[@]} times $faults faults came to the same bits"
