#!/usr/bin/env bash
# Installs what is missing with apt. Says first what and how much; does nothing, and needs no network, when all is there.
#
#   launch/install.sh          what building and running the program needs
#   launch/install.sh --tests  and what the tests and the style check need
#
# Written for Debian 12 (tried there) and Ubuntu 24.04 (same names; not tried). Needs root or sudo.
set -euo pipefail
. "$(dirname "$0")/cuda.sh"

# The one list: what the program is built from, then what tests it.
program=(
  ca-certificates xz-utils                                            # corpus
  g++ cmake ninja-build pkg-config ccache                             # build
  libopenmpi-dev openmpi-bin                                          # ranks
  libhdf5-dev libaec-dev zlib1g-dev                                   # shards, checkpoints
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev                     # config, command line, JSON
  libabsl-dev libxxhash-dev libutf8proc-dev libopenblas-openmp-dev    # status, checksums, Unicode, matrix products
)
tests=(
  git procps python3 python3-h5py                                         # documents' examples
  libgtest-dev libgmock-dev clang-format-14
)

gpu=(python3 python3-pip)                                             # launch/fetch_headers.sh

wanted=("${program[@]}")
[ "${1:-}" = --tests ] && wanted+=("${tests[@]}")
if gpu_build && ! python3 -m pip --version >/dev/null 2>&1; then wanted+=("${gpu[@]}"); fi

# A GPU without the toolkit: it comes along where apt knows NVIDIA's packages; else they are named.
if [ "${MNEME_GPU:-auto}" != 0 ] && { [ "${MNEME_GPU:-auto}" = 1 ] || gpu_present; } && [ -z "$(nvcc_path)" ]; then
  found=''
  for version in 13-0 12-9 12-8 12-6 12-4; do
    if apt-cache show "cuda-nvcc-$version" >/dev/null 2>&1; then
      found=$version
      break
    fi
  done
  if [ -n "$found" ]; then
    read -ra packages <<<"$(cuda_packages "$found") ${gpu[*]}"
    wanted+=("${packages[@]}")
  else
    echo "install: no CUDA Toolkit here, so the program will run on the CPU only. For the GPU: 12.4 or newer and cuDNN 9," \
      "from NVIDIA's apt repository ($(cuda_packages 13-0)); Debian's own nvidia-cuda-toolkit is too old"
  fi
fi

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "install: no apt-get here. By hand, from your own package manager, what these Debian packages hold:" >&2
  echo "  ${missing[*]}" >&2
  exit 1
fi
root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "install: needs root: run as root, or install sudo, for: ${missing[*]}" >&2; exit 1; }
  root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
attempt() {  # runs quietly; shows the log if it fails
  "$@" >"$log" 2>&1 || { tail -n 15 "$log" >&2; echo "install: failed: $*" >&2; exit 1; }
}

echo "install: ${#missing[@]} packages are missing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
attempt "${root[@]}" apt-get update -q
plan=$(LC_ALL=C apt-get install --no-install-recommends --assume-no "${missing[@]}" 2>&1 || true)
grep -E '^Need to get|^After this' <<<"$plan" | sed 's/^/install: /' || { echo "$plan" >&2; exit 1; }
echo "install: $(grep -oE '[0-9]+ newly installed' <<<"$plan" || true), about a minute on a good line"
attempt "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
echo "install: done"
