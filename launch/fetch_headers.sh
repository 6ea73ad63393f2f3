#!/usr/bin/env bash
# Fetches the headers that the GPU code includes and no Debian package holds, into third_party/ (not committed): about
# 3 MB, once. Versions and checksums are pinned; does nothing, and needs no network, when all is there.
#
#   launch/fetch_headers.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# name | PyPI package | sha256 of its wheel | folders of headers inside the wheel
headers=(
  "cudnn_frontend|nvidia-cudnn-frontend==1.18.0|382ea063b92cbfd5b442cb75ff8422932d78276aecf139e46713ed1ad3d07af4|include"
)

# Wheels for one Python of one platform, whatever runs here: the headers in them are the same, the checksum is not.
wheel=(--only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi none
  --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 --platform any)

for line in "${headers[@]}"; do
  IFS='|' read -r name package sum folders <<<"$line"
  stamp=third_party/$name/.sha256
  [ "$(cat "$stamp" 2>/dev/null || true)" = "$sum" ] && continue
  python3 -m pip --version >/dev/null 2>&1 || {
    echo "fetch_headers: needs pip: apt-get install python3-pip. Or build without the GPU: MNEME_GPU=0" >&2
    exit 1
  }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetch_headers: $package from PyPI"
  echo "$package --hash=sha256:$sum" >"$work/wanted.txt"
  if ! python3 -m pip download --quiet --no-deps --require-hashes "${wheel[@]}" -d "$work" -r "$work/wanted.txt" \
    >"$work/log" 2>&1; then
    cat "$work/log" >&2
    echo "fetch_headers: could not fetch $package. Build without the GPU: MNEME_GPU=0" >&2
    exit 1
  fi
  python3 -m zipfile -e "$work"/*.whl "$work/wheel"
  rm -rf "third_party/$name"
  mkdir -p "third_party/$name/include"
  for folder in $folders; do cp -r "$work/wheel/$folder/." "third_party/$name/include"; done
  # Licences travel with what they cover.
  find "$work/wheel" -ipath '*dist-info*' -iname '*LICEN*' -type f -exec cp -t "third_party/$name" {} +
  echo "$sum" >"$stamp"
  rm -rf "$work"
  trap - EXIT
done
