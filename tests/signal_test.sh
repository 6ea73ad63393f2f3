#!/usr/bin/env bash
# signal_test.sh PROGRAM: SIGUSR1 and SIGUSR2 to mpirun reach the ranks: a run saves and ends with 75, or saves and goes on; the
# same command goes on and finishes with 0; a second job on the folder is refused.
set -euo pipefail
program=$(readlink -f "$1")
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "signal_test: $*"; cat log; exit 1; }

for i in $(seq 300); do echo "The river carries boat $((i * 7919 % 977)) past the old bridge."; done > text.txt
"$program" prepare --input text.txt --output corpus > log 2>&1 || fail "prepare"
cat > run.yaml <<'YAML'
model:
  layers: 2
  hidden: 24
  dense_width: 48
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 4, shared: 1, top_k: 2, expert_width: 12}
data: {train: corpus}
train: {steps: 100000000, sequence_length: 32, batch_sequences: 4, log_every: 1, keep_last: 0}
run: {dir: run}
YAML
wait_for() { for _ in $(seq 600); do if eval "$1"; then return; fi; sleep 0.1; done; fail "waited in vain for: $1"; }
saved() { find run/checkpoints -maxdepth 1 -name 'step-*' 2>/dev/null | wc -l; }

mpirun -n 2 "$program" train run.yaml > log 2>&1 & job=$!
wait_for 'grep -q "^step 3/" log'
rc=0; "$program" train run.yaml > log2 2>&1 || rc=$?
[[ $rc == 1 ]] && grep -q 'is writing this run' log2 || fail "a second job: exit code $rc, $(cat log2)"
kill -USR2 $job
# mpirun passes a signal on to one rank after the other: a step may end between them, and each then saves.
wait_for '(($(saved) >= 1))'
sleep 0.5
kill -0 $job || fail "SIGUSR2 ended the run"
before=$(saved)
kill -USR1 $job
rc=0; wait $job || rc=$?
[[ $rc == 75 ]] || fail "SIGUSR1: exit code $rc"
(($(saved) > before)) || fail "SIGUSR1: $(saved) checkpoints"
last=$(find run/checkpoints -maxdepth 1 -name 'step-*' -printf '%f\n' | sed 's/step-//' | sort -n | tail -1)
rc=0; mpirun -n 2 "$program" train run.yaml train.steps=$((last + 2)) > log 2>&1 || rc=$?
[[ $rc == 0 ]] || fail "going on: exit code $rc"
grep -q "going on from .*step-$last" log || fail "it did not go on from step $last"
echo "signal_test: saved, stopped with 75, went on from step $last and finished"
