#!/usr/bin/env bash
# What may go wrong with a sweep beside workers that die: cells that hang are ended, tried again and told; the held-out set that
# the file names is the one that is fitted; files and folders that cannot be meant are refused at once.
#
#   mishaps_test.sh PROGRAM
set -euo pipefail
mneme=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "mishaps_test: $*" >&2; exit 1; }
cd "$work"
export OMP_NUM_THREADS=1

corpus() {
  awk -v s="$1" 'BEGIN { for (i = 0; i < 4000; ++i) { s = (s * 1103515245 + 12345) % 2147483648
    printf "%s%s", substr("the old river runs under a tall stone bridge and small boats wait there", s % 60 + 1, 7),
    i % 150 == 149 ? "\n\n\n" : " " } }' >"$2.txt"
  "$mneme" prepare --input "$2.txt" --blank-lines 2 --output "$2" >/dev/null 2>&1
}
corpus 7 train
corpus 8 near
corpus 9 far
cat >base.yaml <<'YAML'
model:
  layers: 1
  hidden: 16
  dense_width: 32
  mla: {heads: 2, kv_lora_rank: 8, qk_nope: 4, qk_rope: 4, v_head: 4}
data: {train: train}
train: {steps: 6, sequence_length: 64, batch_sequences: 4}
evaluate:
  sets: [{name: near, data: near, sequences: 8}, {name: far, data: far, sequences: 5}]
device: cpu
YAML
cat >sweep.yaml <<'YAML'
base: base.yaml
folder: out
axes: {seed: [0, 1]}
run: {lease_seconds: 2, attempts: 2, idle_seconds: 8}
fit: {held_out: far}
YAML

# A cell that hangs is ended and tried again.
launch='test {seed} = 1 || test -e hung_once || { touch hung_once; echo waiting for a rank; sleep 1000; }; exec {program} train {config}'
"$mneme" sweep sweep.yaml "run.launch=$launch" >hang.txt 2>&1 || fail "exit code $?: $(cat hang.txt)"
grep -q 'seed=0) failed, attempt 1 of 2: no progress for 8 s (run.idle_seconds), ended; its last line: waiting for a rank' hang.txt ||
  fail "the hanging cell was not told: $(cat hang.txt)"
grep -q '2 of 2 done, 0 running, 0 failed' hang.txt || fail "$(cat hang.txt)"
grep '"seed": 0' out/results.jsonl | grep -q '"failures": 1' || fail "its failure is not in the results: $(cat out/results.jsonl)"
# One that is deaf to SIGTERM is killed with all that it started; it fails for good.
launch='trap "" TERM; test {config}; while :; do sleep 0.5; echo $$ >deaf; done'
code=0
"$mneme" sweep sweep.yaml folder=deaf_sweep axes.seed=[0] run.idle_seconds=2 "run.launch=$launch" >deaf.txt 2>&1 || code=$?
[ $code = 1 ] || fail "exit code $code: $(cat deaf.txt)"
grep -q 'seed=0) failed, attempt 2 of 2: no progress for 2 s' deaf.txt || fail "$(cat deaf.txt)"
grep -q '0 of 1 done, 0 running, 1 failed' deaf.txt || fail "$(cat deaf.txt)"
if kill -0 "$(cat deaf)" 2>/dev/null; then fail "a hanging cell outlived its worker"; fi

# The fit is about the second set of the run: its loss, its documents.
key=$(cut -d'"' -f4 <<<"$(grep '"seed": 1' out/results.jsonl)")
loss_of() { grep -o "\"$1\": {[^}]*}" "out/cells/$key/run/result.json" | grep -o '"loss": [0-9.]*' | cut -d' ' -f2; }
[ "$(loss_of far)" != "$(loss_of near)" ] || fail "both sets have one loss: the test proves nothing"
grep '"seed": 1' out/results.jsonl | grep -q "\"held_out\": \"far\", \"validation_loss\": $(loss_of far)," ||
  fail "validation_loss is not that of fit.held_out: $(cat out/results.jsonl)"
tokens=$(grep -o '\[[0-9]*,' "out/cells/$key/documents.json" | tr -d '[,' | awk '{ sum += $1 } END { print sum }')
[ "$tokens" -gt $((4 * 63)) ] && [ "$tokens" -le $((5 * 64)) ] || fail "the documents have $tokens tokens, 5 sequences of 64 were scored"

# What stops by itself without a step, or ends well without a result, has failed.
for end in 75 0; do
  code=0
  "$mneme" sweep sweep.yaml folder=end_$end axes.seed=[0] "run.launch=test {config}; exit $end" >end.txt 2>&1 || code=$?
  [ $code = 1 ] || fail "a launch line that ends with $end: exit code $code: $(cat end.txt)"
  grep -q "failed, attempt 2 of 2: $([ $end = 75 ] && echo 'stopped by itself (exit code 75) without a step' || echo 'ended well but left no')" end.txt ||
    fail "$(cat end.txt)"
done

# What was trained must be the cell: another number of steps is refused at once, and its run is not gone on from afterwards.
code=0
"$mneme" sweep sweep.yaml folder=other_run axes.seed=[0] 'run.launch="{program} train {config} train.steps=3"' >steps.txt 2>&1 || code=$?
[ $code = 1 ] || fail "a cell that trained 3 of 6 steps: exit code $code: $(cat steps.txt)"
grep -q 'failed, attempt 1 of 2, the last: .*/run/config.yaml: another run .* the run has train.steps: 3, the cell train.steps: 6' steps.txt ||
  fail "$(cat steps.txt)"
[ "$(grep -c ' failed, attempt ' steps.txt)" = 1 ] || fail "it was tried again: $(cat steps.txt)"
"$mneme" sweep sweep.yaml folder=other_run axes.seed=[0] run.attempts=3 >steps.txt 2>&1 || fail "$(cat steps.txt)"
[ "$(wc -l <"$(echo other_run/cells/*/run/metrics.jsonl)")" = 6 ] || fail "it went on from another run: $(cat steps.txt)"
loss() { grep '"seed": 0' "$1/results.jsonl" | grep -o '"validation_loss": [0-9.]*'; }
[ "$(loss other_run)" = "$(loss out)" ] || fail "it went on from another run: $(loss other_run)"
# Device and folder settings are the launch line's to add. A config that is refused will be refused again.
"$mneme" sweep sweep.yaml folder=device_run axes.seed=[0] 'run.launch="{program} train {config} device=cpu train.log_every=2"' >steps.txt 2>&1 ||
  fail "$(cat steps.txt)"
code=0
"$mneme" sweep sweep.yaml folder=refused_run axes.seed=[0] 'run.launch="{program} train {config} train.stepz=3"' >steps.txt 2>&1 || code=$?
[ $code = 1 ] || fail "a refused config: exit code $code: $(cat steps.txt)"
[ "$(grep -c ' failed, attempt 1 of 2, the last: exit code 2' steps.txt):$(grep -c ' failed, attempt ' steps.txt)" = 1:1 ] || fail "$(cat steps.txt)"
# A finished cell's losses by document are its own.
cp -r out edited
sed -i 's/\[\[\([0-9]*\), [0-9.]*/[[\1, 1.5/' "edited/cells/$key/documents.json"
code=0
"$mneme" sweep sweep.yaml folder=edited >edited.txt 2>&1 || code=$?
if [ $code != 3 ] || ! grep -q "edited/cells/$key/documents.json: the documents of cell $key have a mean" edited.txt; then
  fail "edited documents: exit code $code: $(cat edited.txt)"
fi
"$mneme" sweep sweep.yaml folder=edited --status | grep -q 'documents.json: the documents of cell' || fail "--status does not show it"
# A folder that cannot be looked into ends the command.
ln -s loop loop
code=0
timeout 60 "$mneme" sweep sweep.yaml folder=loop/s --status >loop.txt 2>&1 || code=$?
if [ $code != 2 ] || ! grep -q 'loop/s/cells: cannot look at' loop.txt; then fail "a loop: exit code $code: $(cat loop.txt)"; fi

# Another file on the same folder: the first one's cells stay, are counted in nothing, and both say so.
"$mneme" sweep sweep.yaml set.optim.lr=1e-3 axes.seed=[0,2] >other.txt 2>&1 || fail "$(cat other.txt)"
grep -q '^2 finished cells in the folder are none of this file' other.txt || fail "$(cat other.txt)"
[ "$(wc -l <out/results.jsonl)" = 2 ] || fail "results of two files are mixed: $(cat out/results.jsonl)"
"$mneme" sweep sweep.yaml --status >status.txt
grep -q '^2 of 2 done' status.txt || fail "$(cat status.txt)"
"$mneme" sweep sweep.yaml folder=new --status >status.txt
grep -q '^0 of 2 done, 0 running, 0 failed' status.txt || fail "$(cat status.txt)"
[ ! -e new ] || fail "--status made a folder"

# Refused at once, in one line, with nothing left behind.
refused() {
  local code=0 want=$1
  shift
  "$mneme" sweep "$@" >refused.txt 2>&1 || code=$?
  if [ $code != "$want" ] || [ "$(grep -c ^mneme refused.txt)" != 1 ]; then fail "sweep $*: exit code $code: $(cat refused.txt)"; fi
}
refused 2 sweep.yaml fit.held_out=fa
grep -q "fit.held_out: 'fa' is not among .* near, far; nearest: far" refused.txt || fail "$(cat refused.txt)"
for slip in fit.by=[foo] fit.levels=[foo] 'fit.exclude=[{key: foo, value: 1}]'; do
  refused 2 sweep.yaml folder=new "$slip"
  grep -q "has no column 'foo'" refused.txt || fail "$slip: $(cat refused.txt)"
done
refused 2 sweep.yaml folder=new --report nodir/x.html
grep -q 'nodir is no folder' refused.txt || fail "$(cat refused.txt)"
refused 2 sweep.yaml folder=new 'run.launch="{program} train {config} {foo}"'
grep -q 'run.launch: {foo} is nothing that is filled in' refused.txt || fail "$(cat refused.txt)"
refused 3 sweep.yaml set.evaluate.sets=[] fit.held_out= folder=new
refused 3 sweep.yaml set.data.train=absent folder=new
refused 3 sweep.yaml --merge absent
refused 2 sweep.yaml folder=new --bundle bundle
# Nothing of somebody else's is written over.
mkdir mine && echo 'a,b' >mine/results.csv
refused 2 sweep.yaml folder=mine --status
refused 2 sweep.yaml folder=mine
grep -q 'mine/results.csv: is there already, and no sweep wrote it' refused.txt || fail "$(cat refused.txt)"
refused 2 sweep.yaml --bundle mine
[ "$(ls mine):$(cat mine/results.csv)" = results.csv:a,b ] || fail "somebody's folder was changed: $(ls mine)"
printf '%s\n' rho,seed,val 1,0,3.2 0.8,0,3 0.5,0,2.9 0.2,0,3.1 1,1,3.3 0.8,1,3.1 0.5,1,3 0.2,1,3.2 >cells.csv
sum=$(cksum <cells.csv)
refused 2 --fit cells.csv --report cells.csv
grep -q 'cells.csv: is something else already' refused.txt || fail "$(cat refused.txt)"
[ "$(cksum <cells.csv)" = "$sum" ] || fail "a report was written over the cells"
# What stands in the place of a run ends the worker at once: the cell would be taken and given back for ever.
mkdir -p blocked/cells/"$key" && touch blocked/cells/"$key"/run
refused 3 sweep.yaml folder=blocked
grep -q "blocked/cells/$key/run: cannot make the folder: Not a directory" refused.txt || fail "$(cat refused.txt)"
if [ -e new ] || [ -e bundle ]; then fail "what was refused left a folder: $(ls)"; fi
echo "mishaps_test: sound"
