# shellcheck shell=bash
# Sourced by the scripts: lets Open MPI run as root, in a container, on few cores and with a small /dev/shm. What is
# already set stays.
export OMPI_ALLOW_RUN_AS_ROOT=${OMPI_ALLOW_RUN_AS_ROOT:-1}
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}
# More ranks than cores are allowed, wait politely, and are not pinned: two runs at once would share core 0.
export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
# Ranks of one host read each other's memory where the kernel lets them (a two-rank step of dense_124m: 4.0 s against
# 4.7 s). Containers with a system-call filter often forbid it, and Open MPI would then say so at every start.
if [ "$(awk '/^Seccomp:/ {print $2}' /proc/self/status 2>/dev/null)" != 0 ] ||
  [ "$(cat /proc/sys/kernel/yama/ptrace_scope 2>/dev/null || echo 0)" != 0 ]; then
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
fi
# One thread a rank unless told otherwise.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Segments of shared memory go to a file where /dev/shm has less than 512 MB.
if [ -z "${OMPI_MCA_btl_vader_backing_directory:-}" ]; then
  shm_free=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1 || echo 0)
  if [ "${shm_free:-0}" -lt 524288 ]; then
    export OMPI_MCA_btl_vader_backing_directory=${TMPDIR:-/tmp}
  fi
  unset shm_free
fi
