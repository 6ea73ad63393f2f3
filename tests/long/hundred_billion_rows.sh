#!/usr/bin/env bash
# configs/runs/engram_100b_rows.yaml on 1, 2 and 4 ranks, and what it took: start-up beside the same run with small tables,
# distinct rows touched, memory, deduplication and bytes a step.
#
#   tests/long/hundred_billion_rows.sh MNEME CORPUS OUTPUT [key=value]...
#
# CORPUS: a prepared corpus of 2 M ids or more over a vocabulary of 32,000 or more (docs/corpus.md).
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
mneme=$(realpath "$1") corpus=$(realpath "$2") output=$3; shift 3
. "$here/launch/env.sh"
export OMP_NUM_THREADS=1
config=$here/configs/runs/engram_100b_rows.yaml
mkdir -p "$output"

seconds() {  # of one step from start to end
  local begin; begin=$(date +%s.%N)
  "$@" >/dev/null 2>&1
  awk "BEGIN {printf \"%.2f\", $(date +%s.%N) - $begin}"
}
rm -rf "$output"/start-*
one_step=(train.steps=1 train.batch_sequences=1 data.train="$corpus")
echo "one step of one sequence, start to end: 100 billion rows" \
  "$(seconds "$mneme" train "$config" run.dir="$output/start-large" "${one_step[@]}") s, 32,000 rows" \
  "$(seconds "$mneme" train "$config" run.dir="$output/start-small" model.engram.vocab_size=1000 "${one_step[@]}") s"
rm -rf "$output"/start-*

for ranks in 1 2 4; do
  mpirun -n $ranks "$mneme" train "$config" run.dir="$output/ranks-$ranks" data.train="$corpus" "$@"
  python3 - "$output/ranks-$ranks" $ranks <<'PY'
import json, sys
folder, ranks = sys.argv[1], int(sys.argv[2])
steps = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
last = steps[-1]
mean = lambda key: sum(s[key] for s in steps) / len(steps)
print(f"{ranks} ranks: loss {steps[0]['loss']:.4f} -> {last['loss']:.6f}, {last['tokens'] / 1e6:.2f} M tokens, "
      f"{last['rows/materialised'] / 1e6:.2f} M distinct rows; memory of the fullest rank "
      f"{last['memory/peak_bytes'] / 2**30:.2f} GiB; deduplication {mean('rows/requested') / mean('rows/unique'):.2f}, "
      f"{mean('rows/bytes') / 1e6:.1f} MB of rows a step between ranks; {mean('seconds'):.2f} s a step")
PY
done
