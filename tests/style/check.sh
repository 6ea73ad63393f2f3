#!/usr/bin/env bash
# Fails on a wrong arrow or a cycle between folders or files, a backend #if, a line of C++ or CUDA over 100 columns, or their
# formatting; prints the other figures.
#
#   tests/style/check.sh [ROOT]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "${1:-$here/../..}" && pwd)
status=0
python3 "$here/check.py" "$root" || status=1

format=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$format" ]; then
  echo "style: no clang-format: launch/install.sh --tests" >&2
  exit 1
fi
rooms=(kernels configs parallel data models engine launch tests)
sources=$(cd "$root" && find "${rooms[@]}" -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | sort)
if ! bad=$(cd "$root" && xargs -r -d '\n' "$format" --dry-run --Werror <<<"$sources" 2>&1); then
  grep -oE '^[^ ]+:[0-9]+:[0-9]+: error' <<<"$bad" | cut -d: -f1 | sort | uniq -c |
    sed 's/^ *\([0-9]*\) \(.*\)/style: \2: not formatted in \1 places (clang-format-14 -i)/'
  status=1
fi
[ $status = 0 ] && echo "style: sound"
exit $status
