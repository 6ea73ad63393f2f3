#!/usr/bin/env bash
# kill -9 at random moments of an export and of the import of what it made: each goes on where it was and gives the bytes of
# an undisturbed conversion.
#
#   kill_test.sh MNEME ROUNDS [SEED]
set -euo pipefail
mneme=$(realpath "$1")
rounds=$2
RANDOM=${3:-1}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# About 60 MB of weights in files of 2 MB: a fraction of a second that can be cut anywhere.
cat >run.yaml <<'YAML'
model:
  layers: 4
  hidden: 256
  dense_width: 512
  mla: {heads: 4, kv_lora_rank: 64, qk_nope: 32, qk_rope: 16, v_head: 32}
  moe: {experts: 16, shared: 1, top_k: 2, expert_width: 256}
  engram: {blocks: [1], orders: [2, 3], heads: 4, d_mem: 64, vocab_size: [100000]}
data: {train: corpus}
train: {sequence_length: 32, batch_sequences: 1, steps: 1}
device: cpu
YAML
seq 1 2000 | tr '\n' ' ' >text.txt
"$mneme" prepare --input text.txt --output corpus >/dev/null 2>&1
"$mneme" train run.yaml run.dir=run >/dev/null 2>&1

digest() { (cd "$1" && find . -type f | sort | xargs -d '\n' sha256sum | sha256sum); }

killed=0
# convert_under_fire FROM FORMAT: conversions into folders of their own, killed until one gets through.
convert_under_fire() {
  local from=$1 format=$2 round begin micros pid tries delay
  local arguments=(convert --from "$from" --format "$format" --no-logits --dtype f32 --file-bytes 2000000)
  begin=$(date +%s%N)
  "$mneme" "${arguments[@]}" --to "whole-$format" >/dev/null 2>&1
  micros=$((($(date +%s%N) - begin) / 1000))
  for ((round = 0; round < rounds; ++round)); do
    # Later with every try: a machine that has become slower since the undisturbed conversion gets through as well.
    for ((tries = 1; ; ++tries)); do
      "$mneme" "${arguments[@]}" --to "killed" >/dev/null 2>&1 &
      pid=$!
      delay=$(((RANDOM * 32768 + RANDOM) % micros * (3 + tries) / 4))
      sleep "$(printf '%d.%06d' $((delay / 1000000)) $((delay % 1000000)))"
      if kill -9 "$pid" 2>/dev/null; then killed=$((killed + 1)); fi
      if wait "$pid" 2>/dev/null; then break; fi
      if [ -e killed ]; then
        "$mneme" inspect killed --names-only >/dev/null || { echo "kill_test: a published folder is not whole" >&2; exit 1; }
        break
      fi
    done
    if [ "$(digest killed)" != "$(digest "whole-$format")" ]; then
      echo "kill_test: $format, round $round: other bytes than an undisturbed conversion" >&2
      diff <(cd killed && sha256sum ./*) <(cd "whole-$format" && sha256sum ./*) >&2 || true
      exit 1
    fi
    rm -rf killed killed.converting
  done
}

convert_under_fire run huggingface
convert_under_fire whole-huggingface mneme
echo "kill_test: $((2 * rounds)) conversions, killed $killed times: all the same bytes"
