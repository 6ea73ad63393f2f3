// Element types, and the one way to get from a runtime type to a compile-time one.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/core/check.h"

namespace mneme {

// kF64 exists on the CPU only, for gradient checks and reference runs. kBf16 is storage on GPUs.
enum class DType : uint8_t { kF32, kF64, kBf16, kU8, kI32, kI64 };

// Bytes of one element.
int64_t SizeOf(DType dtype);
// "f32", "f64", ...: as it stands in configs, logs and checkpoints.
const char* Name(DType dtype);

// What sums, statistics, gradients of parameters and master weights are kept in, where activations
// are `dtype`: f64 for f64, else f32 (docs/numerics.md).
inline DType Accurate(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

// A bf16 number at rest on the host: the upper half of an f32. No arithmetic.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  explicit BFloat16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  explicit operator double() const { return static_cast<float>(*this); }
};

// The dtype of a C++ type; other types do not compile.
template <class T>
struct DTypeOfT;
template <>
struct DTypeOfT<BFloat16> {
  static constexpr DType value = DType::kBf16;
};
template <>
struct DTypeOfT<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOfT<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOfT<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOfT<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOfT<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <class T>
inline constexpr DType DTypeOf = DTypeOfT<T>::value;

// Calls f(float{}) or f(double{}), as dtype says, and returns what it returns: one type for both.
// REQUIRES: dtype is kF32 or kF64.
template <class F>
decltype(auto) DispatchReal(DType dtype, F&& f) {
  CHECK(dtype == DType::kF32 || dtype == DType::kF64);
  if (dtype == DType::kF64) return f(double{});
  return f(float{});
}

}  // namespace mneme
