# shellcheck shell=bash
# Sourced by the scripts: whether the GPU half is built. MNEME_GPU=1 or MNEME_GPU=0 says so; left out, it is built where
# both the CUDA Toolkit and a GPU are found.

# The CUDA compiler, or nothing.
nvcc_path() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
}

gpu_present() { [ -e /dev/nvidiactl ] || [ -e /dev/nvidia0 ] || [ -e /dev/dxg ]; }

gpu_build() {
  case ${MNEME_GPU:-auto} in
    1) return 0 ;;
    0) return 1 ;;
    *) gpu_present && [ -n "$(nvcc_path)" ] ;;
  esac
}

# Packages of NVIDIA's apt repository that a GPU build needs, for a CUDA version spelled 13-0.
cuda_packages() { echo "cuda-nvcc-$1 cuda-cudart-dev-$1 libcublas-dev-$1 libcudnn9-dev-cuda-${1%%-*} libnccl-dev"; }
