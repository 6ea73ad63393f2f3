#include "engine/convert/element.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace mneme {
namespace {

struct Kind {
  const char* name;
  int64_t bytes;
};

constexpr std::array<Kind, kElements> kKinds = {{{"F64", 8},
                                                 {"F32", 4},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"F8_E4M3", 1},
                                                 {"F8_E5M2", 1},
                                                 {"I64", 8},
                                                 {"I32", 4},
                                                 {"I16", 2},
                                                 {"I8", 1},
                                                 {"U64", 8},
                                                 {"U32", 4},
                                                 {"U16", 2},
                                                 {"U8", 1},
                                                 {"BOOL", 1}}};

// A float of 1 sign bit, `exponent` and `mantissa` bits with subnormals. `finite`: no infinities,
// and all ones is the only NaN.
double SmallFloat(uint32_t bits, int exponent, int mantissa, bool finite) {
  const uint32_t fraction = bits & ((1u << mantissa) - 1);
  const uint32_t power = bits >> mantissa & ((1u << exponent) - 1);
  const uint32_t top = (1u << exponent) - 1;
  const double sign = (bits >> (exponent + mantissa) & 1u) != 0 ? -1.0 : 1.0;
  const int bias = (1 << (exponent - 1)) - 1;
  const bool all_ones = fraction == (1u << mantissa) - 1;
  if (power == top && (!finite || all_ones)) {
    const bool infinite = !finite && fraction == 0;
    return infinite ? sign * std::numeric_limits<double>::infinity()
                    : std::numeric_limits<double>::quiet_NaN();
  }
  if (power == 0) return sign * std::ldexp(static_cast<double>(fraction), 1 - bias - mantissa);
  return sign * std::ldexp(static_cast<double>(fraction + (1u << mantissa)),
                           static_cast<int>(power) - bias - mantissa);
}

template <class T, class F>
void Each(const void* from, absl::Span<double> to, F number) {
  const char* bytes = static_cast<const char*>(from);
  for (size_t i = 0; i < to.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    to[i] = number(value);
  }
}

template <class T>
void EachAs(const void* from, absl::Span<double> to) {
  Each<T>(from, to, [](T value) { return static_cast<double>(value); });
}

template <class T, class F>
void EachTo(absl::Span<const double> from, void* to, F value) {
  char* bytes = static_cast<char*>(to);
  for (size_t i = 0; i < from.size(); ++i) {
    const T element = value(from[i]);
    std::memcpy(bytes + i * sizeof(T), &element, sizeof(T));
  }
}

}  // namespace

int64_t BytesOf(Element element) { return kKinds[static_cast<size_t>(element)].bytes; }

const char* ElementName(Element element) { return kKinds[static_cast<size_t>(element)].name; }

bool ParseElement(std::string_view name, Element& element) {
  for (size_t i = 0; i < kKinds.size(); ++i) {
    if (name == kKinds[i].name) {
      element = static_cast<Element>(i);
      return true;
    }
  }
  return false;
}

void Decode(Element element, const void* from, absl::Span<double> to) {
  switch (element) {
    case Element::kF64:
      return EachAs<double>(from, to);
    case Element::kF32:
      return EachAs<float>(from, to);
    case Element::kF16:
      return Each<uint16_t>(from, to, [](uint16_t x) { return SmallFloat(x, 5, 10, false); });
    case Element::kBf16:
      return Each<uint16_t>(from, to, [](uint16_t x) {
        return static_cast<double>(std::bit_cast<float>(uint32_t{x} << 16));
      });
    case Element::kF8E4M3:
      return Each<uint8_t>(from, to, [](uint8_t x) { return SmallFloat(x, 4, 3, true); });
    case Element::kF8E5M2:
      return Each<uint8_t>(from, to, [](uint8_t x) { return SmallFloat(x, 5, 2, false); });
    case Element::kI64:
      return EachAs<int64_t>(from, to);
    case Element::kI32:
      return EachAs<int32_t>(from, to);
    case Element::kI16:
      return EachAs<int16_t>(from, to);
    case Element::kI8:
      return EachAs<int8_t>(from, to);
    case Element::kU64:
      return EachAs<uint64_t>(from, to);
    case Element::kU32:
      return EachAs<uint32_t>(from, to);
    case Element::kU16:
      return EachAs<uint16_t>(from, to);
    case Element::kU8:
    case Element::kBool:
      return EachAs<uint8_t>(from, to);
  }
}

void Encode(Element element, absl::Span<const double> from, void* to) {
  switch (element) {
    case Element::kF64:
      return EachTo<double>(from, to, [](double x) { return x; });
    case Element::kF32:
      return EachTo<float>(from, to, [](double x) { return static_cast<float>(x); });
    case Element::kBf16:
      return EachTo<uint16_t>(from, to,
                              [](double x) { return BFloat16(static_cast<float>(x)).bits; });
    case Element::kI64:
      return EachTo<int64_t>(from, to, [](double x) { return static_cast<int64_t>(x); });
    case Element::kI32:
      return EachTo<int32_t>(from, to, [](double x) { return static_cast<int32_t>(x); });
    default:
      CHECK(false);  // nothing here writes it
  }
}

}  // namespace mneme
