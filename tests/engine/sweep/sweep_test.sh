#!/usr/bin/env bash
# Four workers on one folder, killed and replaced at random moments: no cell is lost, none runs twice, and every number is
# the one of an undisturbed sweep in another folder under another cadence. A cell that runs out of memory ends alone.
#
#   sweep_test.sh PROGRAM [SEED]
set -euo pipefail
mneme=$(realpath "$1")
RANDOM=${2:-1}
work=$(mktemp -d)
workers=()
cleanup() {
  for pid in "${workers[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
fail() { echo "sweep_test: $*" >&2; exit 1; }
. "$(dirname "$0")/small_cells.sh"
cd "$work"
export OMP_NUM_THREADS=1

make_corpus "$mneme" 9000
make_base 60
cat >sweep.yaml <<'YAML'
base: base.yaml
folder: out
axes:
  rho: [1.0, 0.8, 0.6, 0.4, 0.2]
  seed: [0, 1]
allocation: {width_multiple: 1, total_bound: 0.005}
run: {lease_seconds: 2, attempts: 5}
YAML

start() { "$mneme" sweep sweep.yaml >"worker.$1" 2>&1 & workers[$(($1 % 4))]=$!; }
for i in 0 1 2 3; do start $i; done
next=4
for round in 1 2 3 4 5; do
  sleep 0.$((RANDOM % 9 + 1))
  victim=$((RANDOM % 4))
  kill -9 "${workers[$victim]}" 2>/dev/null || true
  wait "${workers[$victim]}" 2>/dev/null || true
  while [ $((next % 4)) != "$victim" ]; do next=$((next + 1)); done
  start $next
  next=$((next + 1))
done
for pid in "${workers[@]}"; do wait "$pid" || fail "a worker ended with $?: $(cat worker.*)"; done
workers=()

[ "$(wc -l <out/results.jsonl)" = 10 ] || fail "$(wc -l <out/results.jsonl) results instead of 10"
[ "$(cut -d, -f1 out/results.csv | tail -n +2 | sort -u | wc -l)" = 10 ] || fail "a key stands twice"
for cell in out/cells/*/; do
  key=$(basename "$cell")
  # A worker may be killed after a cell is done and before it says so.
  [ "$(cat worker.* | grep -c ": finished $key")" -le 1 ] || fail "$key was finished twice"
  steps=$(grep -o '"step": [0-9]*' "$cell/run/metrics.jsonl" | tr '\n' ' ')
  [ "$steps" = "$(for i in $(seq 60); do printf '"step": %d ' "$i"; done)" ] || fail "$key: its steps are $steps"
done
grep -q ': goes on with ' worker.* || fail "no killed cell was taken over"
grep -q '<svg' out/report.html || fail "no report"
if pgrep -f "$work/out" >/dev/null; then fail "a process outlived its worker: $(pgrep -af "$work/out")"; fi

# Undisturbed, moved, saving at another pace: the same keys and the same numbers.
mkdir moved && cp -r corpus base.yaml sweep.yaml moved/
(cd moved && "$mneme" sweep sweep.yaml set.train.checkpoint_every=25 run.lease_seconds=30 >worker 2>&1) || fail "undisturbed: $(cat moved/worker)"
numbers() { cut -d, -f1-4 "$1" | sort; }
diff <(numbers out/results.csv) <(numbers moved/out/results.csv) || fail "killing workers changed a number"
diff <(cat out/fit.json) <(cat moved/out/fit.json) || fail "the fit is another"
# A finished sweep runs nothing; its cells may be taken over by key.
"$mneme" sweep sweep.yaml >again.txt 2>&1
if grep -q begins again.txt; then fail "a finished sweep ran a cell"; fi
"$mneme" sweep sweep.yaml folder=merged --merge out >merge.txt 2>&1
grep -q '10 finished cells taken over' merge.txt || fail "$(cat merge.txt)"
diff <(numbers out/results.csv) <(numbers merged/results.csv) || fail "merging changed a number"

# Packed, it proves itself, and any change shows.
"$mneme" sweep sweep.yaml --bundle bundle >bundle.txt 2>&1 || fail "$(cat bundle.txt)"
mv bundle carried
"$mneme" sweep --verify carried >verify.txt 2>&1 || fail "$(cat verify.txt)"
grep -q 'the fit of 10 cells comes to the same digits' verify.txt || fail "$(cat verify.txt)"
[ "$(head -c 8 carried/loss_vs_rho.png | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] || fail "no PNG"
# A bundle is enough to go on from: merged into a fresh folder it comes to the same bundle, and runs nothing.
"$mneme" sweep sweep.yaml folder=again --merge carried --bundle again_bundle >again.txt 2>&1 || fail "$(cat again.txt)"
grep -q '^carried: 10 finished cells taken over, 0 were here' again.txt || fail "$(cat again.txt)"
diff -r carried again_bundle || fail "a bundle that was merged is another"
code=0
"$mneme" sweep sweep.yaml folder=again run.wait=false >again.txt 2>&1 || code=$?
if [ $code != 0 ] || grep -q ': begins ' again.txt; then fail "merged cells were run again: $(cat again.txt)"; fi
# Two cells, too few for a fit, are packed without one, and can be merged.
"$mneme" sweep sweep.yaml "axes.rho=[1.0]" folder=few --merge carried --bundle few_bundle >few.txt 2>&1 || fail "$(cat few.txt)"
grep -q '^few_bundle: 5 files; its cells are too few for a fit' few.txt || fail "$(cat few.txt)"
"$mneme" sweep --verify few_bundle >few.txt 2>&1 || fail "$(cat few.txt)"
grep -q '5 files are as they were; its cells are too few for a fit' few.txt || fail "$(cat few.txt)"
"$mneme" sweep sweep.yaml folder=again --merge few_bundle >few.txt 2>&1 || fail "$(cat few.txt)"
grep -q '^few_bundle: 0 finished cells taken over, 2 were here' few.txt || fail "$(cat few.txt)"
# One cell with two numbers is refused, and so is a bundle that has changed.
cp -r again torn
sed -i 's/"validation_loss": [0-9.]*/"validation_loss": 9.5/; s/, "documents": "[^"]*"//' torn/cells/"$(ls again/cells | head -n 1)"/done.json
if "$mneme" sweep sweep.yaml folder=torn --merge carried >torn.txt 2>&1; then fail "two numbers of one cell: $(cat torn.txt)"; fi
grep -q 'one cell, two numbers' torn.txt || fail "$(cat torn.txt)"
# A record that is cut off is named before another cell runs: its own is neither run again nor left out of results that look whole.
record=torn/cells/$(ls again/cells | head -n 1)/done.json
rm -r torn/cells/"$(ls again/cells | tail -n 1)"
head -c 60 again/cells/"$(ls again/cells | head -n 1)"/done.json >"$record"
for more in "run.wait=false" "--bundle torn_bundle" "--merge out"; do
  code=0
  # shellcheck disable=SC2086
  "$mneme" sweep sweep.yaml folder=torn $more >torn.txt 2>&1 || code=$?
  if [ $code != 3 ] || ! grep -q "$record:1: is not JSON: column 61" torn.txt || grep -q ': begins ' torn.txt || [ -e torn_bundle ]; then
    fail "a torn record, $more: exit code $code: $(cat torn.txt)"
  fi
done
"$mneme" sweep sweep.yaml folder=torn --status >torn.txt 2>&1 || fail "$(cat torn.txt)"
grep -q "$record:1: is not JSON" torn.txt || fail "$(cat torn.txt)"
sed -i 's/0/1/' carried/results.jsonl
code=0
"$mneme" sweep sweep.yaml folder=fresh --merge carried >fresh.txt 2>&1 || code=$?
if [ $code != 3 ] || ! grep -q 'results.jsonl: has changed' fresh.txt; then fail "$(cat fresh.txt)"; fi
code=0
"$mneme" sweep --verify carried >verify.txt 2>&1 || code=$?
if [ $code != 3 ] || ! grep -q 'results.jsonl: has changed' verify.txt; then fail "$(cat verify.txt)"; fi

# Another sweep with cells in common takes them over, under its own names, and runs the others. A worker that has no time for
# one begins none; one that is not to wait goes while another holds the last.
cat >parts.yaml <<'YAML'
base: base.yaml
axes:
  rho: [0.6]
  ablation: [no_gate, reference]
  seed: [0, 1]
allocation: {width_multiple: 1, total_bound: 0.005}
run: {lease_seconds: 2}
YAML
"$mneme" sweep parts.yaml --merge out >parts.txt 2>&1 || fail "$(cat parts.txt)"
grep -q '^out: 2 finished cells taken over' parts.txt || fail "the references are no cells of the first sweep: $(cat parts.txt)"
code=0
"$mneme" sweep parts.yaml run.time_limit=0.001 >late.txt 2>&1 || code=$?
[ $code = 75 ] || fail "no time: exit code $code: $(cat late.txt)"
grep -q 'begins no more: .* of 0.001 s are left (run.time_limit)' late.txt || fail "$(cat late.txt)"
if grep -q ': begins [0-9a-f]' late.txt; then fail "it began a cell that it had no time for"; fi
"$mneme" sweep parts.yaml "run.launch=touch begun.{seed}; sleep 2; exec {program} train {config}" axes.seed=[0] >slow.txt 2>&1 &
workers=($!)
until [ -e begun.0 ]; do sleep 0.1; done
code=0
"$mneme" sweep parts.yaml axes.seed=[0] run.wait=false >gone.txt 2>&1 || code=$?
[ $code = 75 ] || fail "all cells held: exit code $code: $(cat gone.txt)"
grep -q 'no cell is free (run.wait)' gone.txt || fail "$(cat gone.txt)"
wait "${workers[0]}" || fail "$(cat slow.txt)"
workers=()
"$mneme" sweep parts.yaml >parts.txt 2>&1 || fail "$(cat parts.txt)"
[ "$(grep -c '"ablation": "reference"' sweeps/parts/results.jsonl)" = 2 ] || fail "a cell of another sweep kept its columns: $(cat sweeps/parts/results.jsonl)"
grep -q '"column": "ablation"' sweeps/parts/fit.json || fail "nothing was compared: $(cat sweeps/parts/fit.json)"
"$mneme" sweep parts.yaml --bundle parts_bundle >bundle.txt 2>&1 || fail "$(cat bundle.txt)"
"$mneme" sweep --verify parts_bundle >verify.txt 2>&1 || fail "$(cat verify.txt)"

# Out of memory: the cell of rho 0.6 alone is lost, after as many attempts as it has.
# What the program maps before it begins does not count: a CUDA build's libraries alone are larger than this model.
mapped=$({ ldd "$mneme" | awk '$3 ~ /^\// { print $3 }'; echo "$mneme"; } | xargs -d '\n' stat -L -c %s | awk '{ sum += $1 } END { print int(sum / 1024) }')
launch="test {rho} = 0.59375 && ulimit -v $((mapped + 600000)) && more=model.dense_width=800000; exec {program} train {config} \$more"
code=0
"$mneme" sweep sweep.yaml folder=small axes.seed=[0] run.attempts=2 "run.launch=$launch" >small.txt 2>&1 || code=$?
[ $code = 1 ] || fail "a failed cell gives exit 1, not $code"
[ "$(wc -l <small/results.jsonl)" = 4 ] || fail "the other cells were not finished: $(cat small.txt)"
grep -q 'out of memory on cpu' small/cells/*/log.txt || fail "it did not run out of memory: $(cat small.txt)"
grep -q '4 of 5 done, 0 running, 1 failed' small.txt || fail "$(cat small.txt)"
[ "$(ls small/cells/*/failed.2.json | wc -l)" = 1 ] || fail "it was not tried twice"
echo "sweep_test: sound"
