// Element types as safetensors names them, and their numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/types/span.h"

namespace mneme {

enum class Element : uint8_t {
  kF64,
  kF32,
  kF16,
  kBf16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};
inline constexpr int kElements = 15;

int64_t BytesOf(Element element);  // of one
// "F32", "F8_E4M3", "BOOL", …
const char* ElementName(Element element);
// False where safetensors knows no such name, or packs it below a byte.
bool ParseElement(std::string_view name, Element& element);

// Little-endian elements at `from` as numbers: exact for all floats and for integers below 2^53.
// NaN and infinities stay what they are; E4M3 has NaN only (OCP FP8, "FN" form).
void Decode(Element element, const void* from, absl::Span<double> to);
// Numbers as F32, BF16 (by way of F32; each to nearest, ties to even), F64, I64 or I32 (towards 0,
// and only where they fit). REQUIRES: one of these.
void Encode(Element element, absl::Span<const double> from, void* to);

}  // namespace mneme
