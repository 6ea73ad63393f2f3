#!/usr/bin/env bash
# Builds the program: build/mneme. At most five minutes on two cores; seconds when nothing changed.
#
#   launch/build.sh            the program
#   launch/build.sh --tests    the program and the tests
#   launch/build.sh --tests TARGET...
#   BUILD=folder SANITIZE=address,undefined launch/build.sh --tests    a sanitizer build in its own folder
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}
tests=OFF
targets=(mneme)
if [ "${1:-}" = --tests ]; then
  tests=ON
  shift
  targets=("${@:-all}")
fi

# One compiler a core, but no more than memory allows: about 1.5 GB each.
cores=$(nproc)
memory=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo)
jobs=$((memory < cores ? memory : cores))
[ "$jobs" -ge 1 ] || jobs=1

mkdir -p "$build"
log=$build/configure.log
if ! cmake -S . -B "$build" -G Ninja -DMNEME_TESTS=$tests -DMNEME_SANITIZE="${SANITIZE:-}" >"$log" 2>&1; then
  cat "$log" >&2
  echo "build: configuring failed. If a library is missing: launch/install.sh" >&2
  exit 1
fi
# On a terminal ninja's own progress line; elsewhere only what goes wrong.
if [ -t 1 ]; then
  ninja -C "$build" -j "$jobs" "${targets[@]}"
else
  ninja -C "$build" -j "$jobs" "${targets[@]}" >"$build/build.log" 2>&1 || { tail -n 60 "$build/build.log" >&2; exit 1; }
fi
