#!/usr/bin/env bash
# lost_rank_test.sh MNEME LOST_RANK_RUN [all]: four ranks under mpirun; one of them is killed (-9), stopped (SIGSTOP) or fails, in
# training or in saving. The job ends within train.collective_timeout and some, with one line that names the rank, the
# host, the collective, its axis and the step, and the documented exit code; nothing is left running; the same command goes
# on, and in the end the run has the bits of one that nothing disturbed. `all`: each rank in turn in every way.
set -euo pipefail
program=$(readlink -f "$1"); runner=$(readlink -f "$2"); which=${3:-some}
. "$(dirname "$(readlink -f "$0")")/reap.sh"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "lost_rank_test: $*"; tail -n 30 log 2>/dev/null || true; exit 1; }

# Short, and only where a rank is lost: on a busy machine a healthy one may wait as long for its turn.
timeout=4
if [[ $which == all ]]; then
  cases=()
  for kind in kill stop fatal; do
    for phase in training saving; do
      for rank in 0 1 2 3; do cases+=("$kind $rank $phase"); done
    done
  done
else
  cases=("kill 0 training" "kill 3 saving" "stop 2 training" "stop 0 saving" "stop 1 training" "fatal 3 training" "fatal 2 saving")
fi
steps=$((2 * ${#cases[@]} + 2))

for i in $(seq 200); do echo "The ferry leaves at $((i * 7919 % 977)), and one passenger is missing."; done > text.txt
"$program" prepare --input text.txt --output corpus > log 2>&1 || fail "prepare"
cat > run.yaml <<YAML
model:
  layers: 2
  hidden: 24
  dense_width: 48
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 4, shared: 1, top_k: 2, expert_width: 12}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 500}
data: {train: corpus}
train: {steps: $steps, sequence_length: 32, batch_sequences: 4, checkpoint_every: 1, keep_last: 1}
parallel: {expert: 2, memory: 4}
optim: {lr: 4e-3}
run: {dir: run}
YAML
state() {
  cat "$1/checkpoints/step-$steps/manifest.json" "$1/checkpoints/step-$steps/config.yaml"
  grep -o '"step": [0-9]*, "loss": [^,]*, "tokens": [0-9]*, "learning_rate": [^,]*, "grad_norm": [^,]*' "$1/metrics.jsonl"
}
# A rank that the launcher was told to kill may take a moment to be gone.
expect_nothing_left() {
  for _ in $(seq 20); do
    if ! pgrep -f "$work/run.yaml" > /dev/null; then return; fi
    sleep 0.1
  done
  fail "$1: left running: $(pgrep -af "$work/run.yaml")"
}

mpirun -n 4 "$program" train "$work/run.yaml" > log 2>&1 || fail "the undisturbed run"
state run > reference; rm -rf run

place='of axis [a-z ()]*, its call [0-9]* there, at step'
step=0
for one in "${cases[@]}"; do
  read -r kind rank phase <<< "$one"
  step=$((step + 2))
  mpirun -n 4 "$runner" "$work/run.yaml" "$kind" "$rank" "$phase" "$step" train.collective_timeout=$timeout > log 2>&1 & job=$!
  rc=0; reap $job || rc=$?
  end=$(date +%s%3N)
  begin=$(sed -n 's/^fault at //p' log)
  [[ -n $begin ]] || fail "$one: the run ended with $rc before its fault"
  seconds=$(awk "BEGIN { print ($end - $begin) / 1000 }")
  case $kind in
    kill) code=137; line="^mneme: rank $rank (host [^)]*), process [0-9]*, died [a-z]* [a-z_]* $place $step ($phase); ending the job" ;;
    stop) code=5; line="^mneme: rank $rank (host [^)]*) has not [a-z]* [a-z_]* of axis [a-z ()]* at step $step for .* s: stopped" ;;
    fatal) code=1; line="^mneme: a_driver.cc:1: forced error; rank $rank of 4 (host [^)]*) [a-z]* [a-z_]* $place $step ($phase)" ;;
  esac
  [[ $rc == "$code" ]] || fail "$one: exit code $rc, not $code"
  (($(grep -c '^mneme: ' log) == 1)) || fail "$one: $(grep -c '^mneme: ' log) lines"
  grep -q "$line" log || fail "$one: another line than $line"
  awk "BEGIN { exit !($seconds < $timeout + 15) }" || fail "$one: took $seconds s"
  expect_nothing_left "$one"
  echo "lost_rank_test: $one at step $step: exit code $rc after $seconds s"
  grep '^mneme: ' log | sed 's/^/    /'
done
mpirun -n 4 "$program" train "$work/run.yaml" > log 2>&1 || fail "going on to the end"
state run > got
cmp reference got || fail "the run differs from the undisturbed one"
[[ ! -e run/.pulses ]] || fail "run/.pulses is left behind"
echo "lost_rank_test: ${#cases[@]} faults came to the same bits"
