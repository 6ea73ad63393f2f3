#include "tests/guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace mneme::test {
namespace {
constexpr unsigned char kGapByte = 0xa5;
constexpr unsigned char kUnwrittenReal = 0xff;     // a NaN
constexpr unsigned char kUnwrittenInteger = 0x7f;  // 2139062143 or its like

int64_t Page() { return sysconf(_SC_PAGESIZE); }

template <class T>
int64_t Untouched(const Tensor& t) {
  T unwritten;
  std::memset(&unwritten, kUnwrittenInteger, sizeof unwritten);
  return std::count(t.data<T>(), t.data<T>() + t.elements(), unwritten);
}
}  // namespace

Guarded::Guarded(DType dtype, Shape shape, int64_t shift) {
  after_ = shift * SizeOf(dtype);
  const int64_t bytes = shape.elements() * SizeOf(dtype);
  const int64_t usable = (std::max<int64_t>(bytes + after_, 1) + Page() - 1) / Page() * Page();
  map_bytes_ = usable + 2 * Page();
  map_ = static_cast<char*>(mmap(nullptr, static_cast<size_t>(map_bytes_), PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(map_ != MAP_FAILED);
  CHECK_EQ(mprotect(map_ + Page(), static_cast<size_t>(usable), PROT_READ | PROT_WRITE), 0);
  gap_ = usable - bytes - after_;
  std::memset(map_ + Page(), kGapByte, static_cast<size_t>(usable));
  const bool real = dtype == DType::kF32 || dtype == DType::kF64;
  std::memset(map_ + Page() + gap_, real ? kUnwrittenReal : kUnwrittenInteger,
              static_cast<size_t>(bytes));
  tensor_ = Tensor::Wrap(map_ + Page() + gap_, dtype, shape);
}

Guarded::Guarded(Guarded&& other) noexcept
    : map_(std::exchange(other.map_, nullptr)),
      map_bytes_(other.map_bytes_),
      gap_(other.gap_),
      after_(other.after_),
      tensor_(std::move(other.tensor_)) {}

Guarded::~Guarded() {
  if (map_ != nullptr) munmap(map_, static_cast<size_t>(map_bytes_));
}

bool Guarded::Intact() const {
  const auto* start = reinterpret_cast<const unsigned char*>(map_ + Page());
  const auto* end = start + gap_ + tensor_.bytes();
  const auto known = [](unsigned char c) { return c == kGapByte; };
  return std::all_of(start, start + gap_, known) && std::all_of(end, end + after_, known);
}

int64_t Guarded::Unwritten() const {
  switch (tensor_.dtype()) {
    case DType::kI32:
      return Untouched<int32_t>(tensor_);
    case DType::kI64:
      return Untouched<int64_t>(tensor_);
    case DType::kU8:
    case DType::kBf16:
      return 0;
    default:
      return DispatchReal(tensor_.dtype(), [&](auto real) {
        const auto* x = tensor_.data<decltype(real)>();
        return static_cast<int64_t>(
            std::count_if(x, x + tensor_.elements(), [](auto v) { return std::isnan(v); }));
      });
  }
}

}  // namespace mneme::test
