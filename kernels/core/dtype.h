// Element types, and the one way to get from a runtime type to a compile-time one.
#pragma once

#include <cstdint>

#include "kernels/core/check.h"

namespace mneme {

// kF64 exists on the CPU only, for gradient checks and reference runs. kBf16 is storage on GPUs.
enum class DType : uint8_t { kF32, kF64, kBf16, kU8, kI32, kI64 };

// Bytes of one element.
int64_t SizeOf(DType dtype);
// "f32", "f64", ...: as it stands in configs, logs and checkpoints.
const char* Name(DType dtype);

template <class T>
struct DTypeOfT;
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

// Calls f(float{}) or f(double{}), as dtype says. REQUIRES: dtype is kF32 or kF64.
template <class F>
decltype(auto) DispatchReal(DType dtype, F&& f) {
  CHECK(dtype == DType::kF32 || dtype == DType::kF64);
  if (dtype == DType::kF64) return f(double{});
  return f(float{});
}

}  // namespace mneme
