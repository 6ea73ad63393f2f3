#!/usr/bin/env bash
# The runner must run what it should, stop where a line fails, and leave marked blocks alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{docs,launch,build}
touch "$tree/launch/env.sh"

printf '# A\n\n```sh\necho one >made\n```\n\n```sh no-run\nfalse\n```\n\n```yaml\nfalse\n```\n\n```sh\ntest -s made\n```\n' >"$tree/README.md"
out=$("$here/run_blocks.py" "$tree" "$tree/build") || { echo "$out"; echo "run_blocks_test: a sound page fails"; exit 1; }
grep -q '^2 blocks run, 1 marked no-run, 0 failed' <<<"$out" || { echo "$out"; exit 1; }
[ ! -e "$tree/made" ] || { echo "run_blocks_test: a block wrote into the checkout"; exit 1; }

printf '```sh\nfalse\ntrue\n```\n' >"$tree/docs/bad.md"
if out=$("$here/run_blocks.py" "$tree" "$tree/build"); then echo "run_blocks_test: a failing line passed"; exit 1; fi
grep -q 'docs/bad.md:1' <<<"$out" || { echo "$out"; exit 1; }
echo "run_blocks_test: sound"
