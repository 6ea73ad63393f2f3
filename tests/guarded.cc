#include "tests/guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "tests/device_under_test.h"

namespace mneme::test {
namespace {
constexpr unsigned char kGapByte = 0xa5;
constexpr unsigned char kUnwrittenReal = 0xff;     // a NaN
constexpr unsigned char kUnwrittenInteger = 0x7f;  // 2139062143 or its like
constexpr int64_t kBand = 4096;                    // bytes on each side, on a GPU
constexpr int64_t kBlockAlignment = 256;           // of a GPU's pool

int64_t Page() { return sysconf(_SC_PAGESIZE); }

unsigned char UnwrittenByte(DType dtype) {
  const bool real = dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kBf16;
  return real ? kUnwrittenReal : kUnwrittenInteger;
}

bool AllGap(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](char c) { return static_cast<unsigned char>(c) == kGapByte; });
}

template <class T>
int64_t Untouched(const std::string& bytes) {
  T unwritten;
  std::memset(&unwritten, kUnwrittenInteger, sizeof unwritten);
  const auto* x = reinterpret_cast<const T*>(bytes.data());
  return std::count(x, x + bytes.size() / sizeof(T), unwritten);
}

template <class T>
int64_t NotNumbers(const std::string& bytes) {
  const auto* x = reinterpret_cast<const T*>(bytes.data());
  return std::count_if(x, x + bytes.size() / sizeof(T),
                       [](T v) { return std::isnan(static_cast<double>(v)); });
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
  std::memset(map_ + Page() + gap_, UnwrittenByte(dtype), static_cast<size_t>(bytes));
  tensor_ = Tensor::Wrap(map_ + Page() + gap_, dtype, shape);
}

Guarded::Guarded(Stream& stream, DType dtype, Shape shape, int64_t offset) {
  const int64_t bytes = shape.elements() * SizeOf(dtype);
  gap_ = kBand + offset;
  after_ = kBand;
  block_ = Tensor::Empty(stream, DType::kU8, {gap_ + bytes + after_}, MemoryTag::kOther);
  CHECK_EQ(reinterpret_cast<uintptr_t>(block_.raw()) % kBlockAlignment, 0u);
  std::string image(static_cast<size_t>(block_.bytes()), static_cast<char>(kGapByte));
  std::memset(image.data() + gap_, UnwrittenByte(dtype), static_cast<size_t>(bytes));
  Upload(stream, image.data(), block_.bytes(), block_);
  tensor_ = Tensor::Wrap(static_cast<char*>(block_.raw()) + gap_, dtype, shape, stream.device());
}

Guarded::Guarded(Guarded&& other) noexcept
    : map_(std::exchange(other.map_, nullptr)),
      map_bytes_(other.map_bytes_),
      block_(std::move(other.block_)),
      gap_(other.gap_),
      after_(other.after_),
      tensor_(std::move(other.tensor_)) {}

Guarded::~Guarded() {
  if (map_ != nullptr) munmap(map_, static_cast<size_t>(map_bytes_));
}

bool Guarded::Intact() const {
  std::string copy;
  std::string_view all;
  if (block_.defined()) {
    copy = Bytes(block_);
    all = copy;
  } else {
    all = {map_ + Page(), static_cast<size_t>(map_bytes_ - 2 * Page())};
  }
  return AllGap(all.substr(0, static_cast<size_t>(gap_))) &&
         AllGap(all.substr(all.size() - static_cast<size_t>(after_)));
}

int64_t Guarded::Unwritten() const {
  const std::string bytes = Bytes(tensor_);
  switch (tensor_.dtype()) {
    case DType::kI32:
      return Untouched<int32_t>(bytes);
    case DType::kI64:
      return Untouched<int64_t>(bytes);
    case DType::kU8:
      return 0;
    case DType::kBf16:
      return NotNumbers<BFloat16>(bytes);
    case DType::kF32:
      return NotNumbers<float>(bytes);
    case DType::kF64:
      return NotNumbers<double>(bytes);
  }
  return 0;
}

}  // namespace mneme::test
