#!/usr/bin/env bash
# Builds the program: build/mneme. Five minutes on two cores, with the GPU half more; seconds when nothing changed.
#
#   launch/build.sh            the program
#   launch/build.sh --tests    the program and the tests
#   launch/build.sh --tests TARGET...
#   BUILD=folder SANITIZE=address,undefined launch/build.sh --tests    a sanitizer build in its own folder, CPU only
#
# The GPU half is built where nvcc and a GPU are found; MNEME_GPU=1 builds it on a machine without a GPU, MNEME_GPU=0
# leaves it out. MNEME_CUDA_ARCHITECTURES=86-real, for instance, builds it for one kind of GPU alone; the least is 80.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/cores.sh
. launch/cuda.sh

build=${BUILD:-build}
tests=OFF
targets=(mneme)
if [ "${1:-}" = --tests ]; then
  tests=ON
  shift
  targets=("${@:-all}")
fi

gpu=OFF
options=()
if [ -z "${SANITIZE:-}" ] && gpu_build; then
  gpu=ON
  nvcc=$(nvcc_path)
  if [ -z "$nvcc" ]; then
    echo "build: MNEME_GPU=1, but no nvcc: install the CUDA Toolkit, 12.4 or newer, and cuDNN 9, from NVIDIA's" >&2
    echo "  apt repository: $(cuda_packages 13-0); or name the compiler: CUDACXX=/path/to/nvcc" >&2
    exit 1
  fi
  launch/fetch_headers.sh
  options+=("-DCMAKE_CUDA_COMPILER=$nvcc")
  [ -z "${MNEME_CUDA_ARCHITECTURES:-}" ] || options+=("-DMNEME_CUDA_ARCHITECTURES=$MNEME_CUDA_ARCHITECTURES")
fi

# One compiler a core, but no more than memory allows: about 1.5 GB each, twice as much for kernels.
cores=$(processors)
each=1500000
[ $gpu = OFF ] || each=3000000
memory=$(awk -v each=$each '/MemAvailable/ {print int($2 / each)}' /proc/meminfo)
jobs=$((memory < cores ? memory : cores))
[ "$jobs" -ge 1 ] || jobs=1

# A build folder that came along with a moved or copied checkout still names the old place. Only what CMake knows of it
# goes: what else lies in the folder may be somebody's.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt" 2>/dev/null || true; }
made_for=$(cached CMAKE_HOME_DIRECTORY)
if [ -n "$made_for" ] && [ "$(cached CMAKE_PROJECT_NAME)" != mneme ]; then
  echo "build: $build is the build folder of another project, $made_for; name another one (BUILD=)" >&2
  exit 2
fi
if [ -n "$made_for" ] && [ "$made_for" != "$(pwd -P)" ]; then
  echo "build: $build was made for $made_for; starting it again" >&2
  rm -rf "${build:?}/CMakeCache.txt" "${build:?}/CMakeFiles"
fi
mkdir -p "$build"
log=$build/configure.log
if ! cmake -S . -B "$build" -G Ninja -DMNEME_TESTS=$tests -DMNEME_SANITIZE="${SANITIZE:-}" -DMNEME_GPU=$gpu \
  "${options[@]}" >"$log" 2>&1; then
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
