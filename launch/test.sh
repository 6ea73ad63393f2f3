#!/usr/bin/env bash
# Installs what is missing, builds everything, and runs all CPU tests, the ones of several ranks under mpirun too; and
# those of the GPU where there is one. Nothing outside the checkout is needed. Arguments go to ctest, e.g. launch/test.sh -R kernels
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/env.sh

step() { printf '\n== %s\n' "$*"; }
step "install what is missing"
launch/install.sh --tests
step "build program and tests (up to 20 minutes on 2 cores)"
start=$SECONDS
launch/build.sh --tests
echo "built in $((SECONDS - start)) s"
step "test (up to 20 minutes on 2 cores)"
start=$SECONDS
ctest --test-dir build --output-on-failure -LE 'long|bench' -j 1 "$@"
echo "tested in $((SECONDS - start)) s"
