#!/usr/bin/env bash
# The style check must fail where it should: plants one fault at a time into a small sound tree.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

plant() {  # path, lines
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "${@:2}" >"$tree/$1"
}
fresh() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{kernels/{core,ops,cpu},configs,parallel,data,models,engine,launch,tests}
  cp "$here/../../.clang-format" "$tree/"
  plant kernels/core/check.h '#pragma once'
  plant kernels/core/tensor.h '#pragma once'
  plant kernels/ops/norm.h '#pragma once' '' '#include "kernels/core/tensor.h"'
  plant kernels/cpu/norm.cc '#include "kernels/ops/norm.h"'
  plant configs/model.h '#pragma once'
  plant data/order.cc '#include "configs/model.h"' '#include "kernels/core/check.h"'
  plant models/mla.cc '#include "kernels/ops/norm.h"'
  plant engine/plan/budget.h '#pragma once' '' '#include "models/count.h"'
  plant models/count.h '#pragma once'
  plant engine/trainer.h '#pragma once' '' '#include "engine/plan/budget.h"'
  plant engine/sweep/fit.h '#pragma once' '' '#include "engine/trainer.h"'
  plant tests/a_test.cc '#include "engine/trainer.h"'
}
must_fail() {  # words that the report has to hold
  if out=$("$here/check.sh" "$tree" 2>&1); then echo "check_test: passed, although: $1"; exit 1; fi
  grep -qF -- "$1" <<<"$out" || { echo "check_test: failed without saying: $1"; echo "$out"; exit 1; }
}

fresh
"$here/check.sh" "$tree" >/dev/null || { "$here/check.sh" "$tree"; echo "check_test: a sound tree fails"; exit 1; }
fresh; plant models/bad.cc '#include "engine/trainer.h"'; must_fail 'models may not include engine/trainer.h'
fresh; plant data/bad.cc '#include "kernels/core/tensor.h"'; must_fail 'data may not include kernels/core/tensor.h'
fresh; plant configs/bad.h '#pragma once' '' '#include "data/order.h"'; must_fail 'configs may not include data/order.h'
fresh; plant kernels/ops/bad.h '#pragma once' '' '#include "kernels/cpu/x.h"'; must_fail 'kernels/ops may not include'
fresh; plant kernels/core/bad.cc '#include "configs/model.h"'; must_fail 'kernels/core may not include configs'
fresh; plant engine/bad.cc '#include "kernels/gpu/queue.h"'; must_fail 'engine may not include kernels/gpu/queue.h'
fresh; plant engine/bad.cc '#include "tests/naive.h"'; must_fail 'engine may not include tests/naive.h'
fresh; plant engine/plan/bad.cc '#include "engine/trainer.h"'; must_fail 'engine/plan may not include engine/trainer.h'
fresh; plant engine/bad.cc '#include "engine/sweep/fit.h"'; must_fail 'engine may not include engine/sweep/fit.h'
fresh; plant engine/sweep/bad.cc '#include "engine/convert/convert.h"'; must_fail 'engine/sweep may not include engine/convert/convert.h'
fresh; plant engine/checkpoint/bad.cc '#include "engine/report/result.h"'; must_fail 'engine/checkpoint may not include engine/report/result.h'
fresh; plant engine/a.h '#pragma once' '' '#include "engine/b.h"'
plant engine/b.h '#pragma once' '' '#include "engine/a.h"'; must_fail 'files include each other: engine/a.h, engine/b.h'
fresh; plant kernels/cpu/bad.cc '#ifdef MNEME_GPU' '#endif'; must_fail '#if on a backend'
fresh; plant models/bad.cc "// $(printf 'x%.0s' {1..98})"; must_fail 'models/bad.cc:1: 101 columns, at most 100'
fresh; plant models/bad.cc 'int  x ;'; must_fail 'models/bad.cc: not formatted'
echo "check_test: sound"
