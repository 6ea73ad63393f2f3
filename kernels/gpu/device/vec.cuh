// Vector loads and stores, and numbers at rest against numbers in registers. Device code only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

namespace mneme::gpu {

// To a float, exactly, and back: bf16 rounds to nearest, ties to even.
__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// N numbers moved as one access of sizeof(T) * N <= 16 bytes. Addresses must be aligned to it.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};
// How many T fill 16 bytes.
template <class T>
inline constexpr int kVec = 16 / static_cast<int>(sizeof(T));

// N neighbouring numbers of T as floats, and back, as one access; `from` and `to` aligned as Vec
// is.
template <int N, class T>
__device__ __forceinline__ void LoadFloats(const T* from, float (&to)[N]) {
  const Vec<T, N> x = *reinterpret_cast<const Vec<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = ToFloat(x.v[i]);
}
template <int N, class T>
__device__ __forceinline__ void StoreFloats(T* to, const float (&from)[N]) {
  Vec<T, N> x;
#pragma unroll
  for (int i = 0; i < N; ++i) x.v[i] = FromFloat<T>(from[i]);
  *reinterpret_cast<Vec<T, N>*>(to) = x;
}

// N numbers as they lie in memory, two bf16 a register: what is on its way takes no more registers
// than bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) RawVec {
  using Word = std::conditional_t<sizeof(T) * N % 4 == 0, uint32_t, uint16_t>;
  static constexpr int kWords = static_cast<int>(sizeof(T) * N / sizeof(Word));
  Word word[kWords];  // zeros are N zeros

  // Number i as a float.
  __device__ __forceinline__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word[i]);
    } else if constexpr (sizeof(Word) == 2) {
      return __uint_as_float(uint32_t{word[i]} << 16);
    } else {
      return __uint_as_float(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
    }
  }
};
// As LoadFloats, unconverted.
template <int N, class T>
__device__ __forceinline__ RawVec<T, N> LoadRaw(const T* from) {
  return *reinterpret_cast<const RawVec<T, N>*>(from);
}

}  // namespace mneme::gpu
