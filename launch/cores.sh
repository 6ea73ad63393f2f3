# shellcheck shell=bash
# Sourced by the scripts: the processors to build on. nproc alone would count the threads of a rank, which
# launch/env.sh sets to one.
processors() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }
