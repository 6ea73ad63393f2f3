// Sums and maxima over a warp and a block, in a fixed order. Device code only.
#pragma once

namespace mneme::gpu {

inline constexpr int kWarp = 32;

struct Plus {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Every lane gets the result, in the order of a butterfly: the same bits in every lane and run.
// REQUIRES: all 32 lanes call.
template <class T, class Op = Plus>
__device__ __forceinline__ T WarpReduce(T x, Op op = {}) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

// Every thread gets the result. REQUIRES: blockDim.x is a multiple of 32 and at most 1,024;
// `identity` of the operation; all threads call.
template <class T, class Op = Plus>
__device__ __forceinline__ T BlockReduce(T x, T identity = T{}, Op op = {}) {
  __shared__ T parts[kWarp];
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = WarpReduce(x, op);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = static_cast<int>(threadIdx.x % kWarp) < warps ? parts[threadIdx.x % kWarp] : identity;
  x = WarpReduce(x, op);
  __syncthreads();
  return x;
}

}  // namespace mneme::gpu
