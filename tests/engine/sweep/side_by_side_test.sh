#!/usr/bin/env bash
# Cells side by side in one process: every number and every loss by document is that of the cell alone; a cell that fails leaves
# the others theirs; a process that dies costs nobody an attempt, and its cells go on alone; workers may be killed or stopped.
#
#   side_by_side_test.sh PROGRAM
set -euo pipefail
mneme=$(realpath "$1")
work=$(mktemp -d)
worker=
cleanup() {
  if [ -n "$worker" ]; then kill -9 "$worker" 2>/dev/null || true; fi
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
fail() { echo "side_by_side_test: $*" >&2; exit 1; }
wait_for() { for _ in $(seq 1200); do if eval "$1"; then return; fi; sleep 0.05; done; fail "waited in vain for: $1"; }
. "$(dirname "$0")/small_cells.sh"
cd "$work"
export OMP_NUM_THREADS=1

make_corpus "$mneme" 6000
make_base 40
cat >sweep.yaml <<'YAML'
base: base.yaml
axes:
  rho: [1.0, 0.6, 0.2]
  seed: [0, 1]
allocation: {width_multiple: 1, total_bound: 0.005}
run: {lease_seconds: 3, attempts: 2}
YAML
numbers() { cut -d, -f1-4 "$1/results.csv" | sort; }
documents() { (cd "$1/cells" && sha256sum ./*/documents.json | sort); }
same() { # what two folders say of the same cells
  diff <(numbers "$1") <(numbers "$2") || fail "$2 has other losses"
  diff <(documents "$1") <(documents "$2") || fail "$2 has other losses by document"
}
finished() { [ "$(wc -l <"$1/results.jsonl")" = 6 ] || fail "$(wc -l <"$1/results.jsonl") results in $1: $(cat worker.txt)"; }

"$mneme" sweep sweep.yaml folder=alone >worker.txt 2>&1 || fail "$(cat worker.txt)"
finished alone
[ ! -e alone/side_by_side ] || fail "one at a time needs no folder for several"

# Four, then the two that are left; what the process of several wrote is gone, each cell's log is its own.
"$mneme" sweep sweep.yaml folder=beside run.side_by_side=4 >worker.txt 2>&1 || fail "$(cat worker.txt)"
finished beside
same alone beside
[ ! -e beside/side_by_side ] || fail "side_by_side/ is left: $(ls beside/side_by_side/*)"
[ "$(grep -n begins worker.txt | sed -n '4s/:.*//p')" -lt "$(grep -n finished worker.txt | sed -n '1s/:.*//p')" ] ||
  fail "four did not begin before the first had finished: $(cat worker.txt)"
for cell in beside/cells/*/; do
  grep -q "^folder  $work/${cell}run" "$cell/log.txt" || fail "a log without its own run: $(cat "$cell/log.txt")"
  [ "$(grep -c ^folder "$cell/log.txt")" = 1 ] || fail "a log of several runs: $(cat "$cell/log.txt")"
  grep -q '^finished 40 steps' "$cell/log.txt" || fail "a log without an end: $(cat "$cell/log.txt")"
done

# Killed with its worker in the middle, then told to stop: the next worker goes on with all of them, to the same numbers.
long=(axes.rho=[0.6,0.2] set.train.steps=300)
"$mneme" sweep sweep.yaml folder=alone_long "${long[@]}" >worker.txt 2>&1 || fail "$(cat worker.txt)"
begin() { "$mneme" sweep sweep.yaml folder=broken run.side_by_side=4 "${long[@]}" >"$1" 2>&1 & worker=$!; }
saved() { find broken/cells -maxdepth 4 -name 'step-*[0-9]' -printf '%h\n' 2>/dev/null | sort -u | wc -l; } # cells
begin killed.txt
wait_for '(($(saved) == 4))'
kill -9 "$worker"
wait "$worker" 2>/dev/null || true
sleep 4  # its leases are stale then
begin stopped.txt
wait_for '(($(grep -c "goes on with" stopped.txt) == 4)) && (($(grep -c "going on from" broken/cells/*/log.txt | grep -c ":[1-9]") == 4))'
kill -TERM "$worker"
code=0
wait "$worker" || code=$?
worker=
[ $code = 75 ] || fail "a stopped worker ended with $code: $(cat stopped.txt)"
[ "$(grep -c 'stopped .* with what it had saved' stopped.txt)" = 4 ] || fail "$(cat stopped.txt)"
[ -z "$(find broken -name 'failed.*' -o -name alone)" ] || fail "a stop counts as a failure: $(cat stopped.txt)"
"$mneme" sweep sweep.yaml folder=broken run.side_by_side=4 "${long[@]}" >worker.txt 2>&1 || fail "$(cat worker.txt)"
same alone_long broken

# One of three diverges; its failure is its own, the others are done.
cat >diverging.yaml <<'YAML'
base: base.yaml
axes: {optim.lr: [4e-3, 1e30, 2e-3]}
set: {train.skip.limit: 3, optim.schedule.warmup: 0}
run: {lease_seconds: 3, attempts: 2, side_by_side: 3}
YAML
code=0; "$mneme" sweep diverging.yaml folder=diverging >worker.txt 2>&1 || code=$?
[ $code = 1 ] || fail "exit code $code: $(cat worker.txt)"
grep -q 'optim.lr=1e30) failed, attempt 2 of 2: exit code 4; its last line: diverged' worker.txt || fail "$(cat worker.txt)"
grep -q '2 of 3 done, 0 running, 1 failed' worker.txt || fail "$(cat worker.txt)"
if [ -n "$(find diverging -name alone)" ]; then fail "a cell that failed by itself is to be run alone"; fi

# A cell that takes its process with it: once with the others, who lose nothing by it, then alone until it is given up.
bad=$(cut -d, -f1 alone/results.csv | sed -n 3p)
launch="case \"{config}\" in *$bad*) sleep 0.3; kill -9 \$\$;; esac; exec {program} train {config}"
code=0; "$mneme" sweep sweep.yaml folder=killed run.side_by_side=3 "run.launch=$launch" >worker.txt 2>&1 || code=$?
[ $code = 1 ] || fail "exit code $code: $(cat worker.txt)"
grep -q "$bad .* failed, attempt 2 of 2: killed by signal 9" worker.txt || fail "$(cat worker.txt)"
[ "$(grep -c 'ended with the cells beside it: killed by signal 9' worker.txt)" = 3 ] || fail "$(cat worker.txt)"
[ "$(find killed -name 'failed.*' | wc -l)" = 2 ] || fail "others were blamed: $(find killed -name 'failed.*')"
[ "$(find killed -name alone | wc -l)" = 3 ] || fail "not three were marked: $(find killed -name alone)"
[ "$(find killed/side_by_side -name log.txt | wc -l)" = 1 ] || fail "the log of the process that died is not kept"
diff <(numbers alone | grep -v "$bad") <(numbers killed) || fail "a process that died changed a number"

# A process that hangs is ended; its cells go on alone.
launch='test -e hung_once || { touch hung_once; {program} train {config} & p=$!; sleep 0.1; kill -STOP $p; wait; }; exec {program} train {config}'
"$mneme" sweep sweep.yaml folder=hung axes.rho=[0.6] run.side_by_side=2 run.idle_seconds=8 run.attempts=3 "run.launch=$launch" >worker.txt 2>&1 ||
  fail "exit code $?: $(cat worker.txt)"
[ "$(grep -c 'failed, attempt 1 of 3: no progress for 8 s' worker.txt)" = 2 ] || fail "$(cat worker.txt)"
[ "$(find hung -name alone | wc -l)" = 2 ] || fail "they are not run alone: $(cat worker.txt)"
grep -q '2 of 2 done, 0 running, 0 failed' worker.txt || fail "$(cat worker.txt)"

# As a user types it: a line of JSON each, and a config that cannot be read ends alone.
sed "s/steps: 40/steps: 4/" base.yaml >a.yaml
sed "s/steps: 40/steps: 5/" base.yaml >b.yaml
echo 'train: {stepz: 3}' >c.yaml
code=0; "$mneme" train a.yaml c.yaml b.yaml train.log_every=1 >ends.txt 2>log.txt || code=$?
[ $code = 2 ] || fail "exit code $code: $(cat log.txt)"
grep -q '^{"config": "c.yaml", "exit_code": 2, "no_room": false, "message": ".*stepz' ends.txt || fail "$(cat ends.txt)"
for run in a b; do
  grep -q "^{\"config\": \"$run.yaml\", \"exit_code\": 0, \"no_room\": false, \"message\": \"finished" ends.txt || fail "$(cat ends.txt)"
  grep -q "^$run.yaml: step 3/" log.txt || fail "$(cat log.txt)"
  [ -e "runs/$run/result.json" ] || fail "no result of $run"
done
[ "$(wc -l <ends.txt)" = 3 ] || fail "$(cat ends.txt)"

refused() {
  local code=0
  "$mneme" sweep sweep.yaml "$@" >refused.txt 2>&1 || code=$?
  [ $code = 2 ] || fail "sweep $*: exit code $code: $(cat refused.txt)"
}
refused run.side_by_side=0
refused run.side_by_side=65
refused run.side_by_side=2 run.ranks=2
refused run.side_by_side=2 'run.launch="{program} train {config} train.seed={seed}"'
grep -q 'names {seed}, which cells side by side do not share' refused.txt || fail "$(cat refused.txt)"
echo "side_by_side_test: sound"
