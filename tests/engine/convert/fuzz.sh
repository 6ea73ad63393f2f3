#!/usr/bin/env bash
# libFuzzer under AddressSanitizer on the readers of safetensors headers, index files and config.json.
#
#   fuzz.sh [SECONDS [FOLDER]]
#
# Needs clang++ and its runtimes (Debian: clang-14 libclang-rt-14-dev), and a build in build/ (BUILD): only the readers are
# compiled with clang, the rest is linked. FOLDER (default: a temporary one) keeps what was found interesting, and crashes.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
seconds=${1:-60}
work=${2:-$(mktemp -d)}
clang=$(command -v clang++ || command -v clang++-14 || command -v clang++-16 || true)
if [ -z "$clang" ]; then
  echo "fuzz: no clang++: apt-get install clang-14 libclang-rt-14-dev" >&2
  exit 77
fi
mkdir -p "$work/corpus"
cd "$root"
# A size, then the text of a header or a config: what the target reads.
for fixture in tests/engine/convert/fixtures/*; do
  for json in "$fixture"/*.json; do { printf '\0\0'; cat "$json"; } >"$work/corpus/$(basename "$fixture")-$(basename "$json")"; done
  for weights in "$fixture"/*.safetensors; do
    [ -e "$weights" ] || continue
    length=$(od -An -tu4 -N4 "$weights")
    { printf '\x00\x10'; dd if="$weights" bs=1 skip=8 count="${length// /}" status=none; } >"$work/corpus/$(basename "$fixture")-header"
  done
done
sources=(tests/engine/convert/weights_fuzz.cc
  engine/convert/{element,foreign_config,safetensors,safetensors_header}.cc configs/{json,json_fields,json_text}.cc data/files.cc
  kernels/core/check.cc)
build=${BUILD:-build}
"$clang" -std=c++20 -O1 -g -march=x86-64-v3 -I"$root" -fsanitize=fuzzer,address,undefined "${sources[@]}" "$build/configs/libmneme_configs.a" \
  $(pkg-config --cflags --libs yaml-cpp absl_status absl_statusor absl_strings libxxhash 2>/dev/null) -o "$work/weights_fuzz"
"$work/weights_fuzz" -max_total_time="$seconds" -max_len=20000 -timeout=120 -artifact_prefix="$work/" -print_final_stats=1 "$work/corpus"
