#include "parallel/growing_array.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kPage = 4096;
// Small arrays stay on small pages, so that they take what they use.
constexpr int64_t kHugeFrom = int64_t{64} << 20;

void Unmap(char* data, int64_t bytes) {
  if (data != nullptr) munmap(data, static_cast<size_t>(bytes));
}

}  // namespace

GrowingArray::~GrowingArray() { Unmap(data_, mapped_); }

void GrowingArray::Reserve(int64_t rows) {
  if (rows > rows_) Map(std::max(rows, rows_ + rows_ / 2));
}

void GrowingArray::Reset(int64_t rows) {
  Unmap(data_, mapped_);
  data_ = nullptr;
  mapped_ = 0;
  rows_ = 0;
  if (rows > 0) Map(rows);
}

void GrowingArray::Map(int64_t rows) {
  const int64_t bytes = (rows * row_bytes_ + kPage - 1) / kPage * kPage;
  void* moved = nullptr;
  if (data_ == nullptr) {
    moved = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  } else {
    moved = mremap(data_, static_cast<size_t>(mapped_), static_cast<size_t>(bytes), MREMAP_MAYMOVE);
  }
  if (moved == MAP_FAILED) {
    Fatal(__FILE__, __LINE__,
          "out of memory: a row store cannot grow to " + std::to_string(bytes) +
              " bytes: " + std::strerror(errno) + "; raise parallel.memory, or run on more hosts");
  }
  data_ = static_cast<char*>(moved);
  mapped_ = bytes;
  rows_ = bytes / row_bytes_;
  if (bytes >= kHugeFrom) madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
}

}  // namespace mneme
