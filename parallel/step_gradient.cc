#include "parallel/step_gradient.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/core/check.h"

namespace mneme {
namespace {

template <class T>
void AddRows(absl::Span<const int64_t> slots, int64_t known, int64_t width, const T* from,
             T* sums) {
  for (int64_t slot : slots) {
    T* sum = sums + slot * width;
    if (slot >= known) {
      std::copy_n(from, width, sum);
    } else {
      for (int64_t j = 0; j < width; ++j) sum[j] += from[j];
    }
    from += width;
  }
}

}  // namespace

StepGradient::StepGradient(Allocator& allocator, DType dtype, int64_t width)
    : allocator_(allocator), dtype_(dtype), width_(width), sums_(width * SizeOf(dtype)) {
  Account();
}

StepGradient::~StepGradient() { allocator_.Account(-accounted_, MemoryTag::kGradients); }

void StepGradient::Account() {
  const int64_t now = index_.bytes() + sums_.rows() * sums_.row_bytes();
  allocator_.Account(now - accounted_, MemoryTag::kGradients);
  accounted_ = now;
}

void StepGradient::Add(absl::Span<const int64_t> ids, const void* grads) {
  if (ids.empty()) return;
  const int64_t known = index_.size();
  std::vector<int64_t> slots(ids.size());
  index_.FindOrInsert(ids, slots.data());
  sums_.Reserve(index_.size());
  DispatchReal(dtype_, [&](auto zero) {
    using T = decltype(zero);
    AddRows<T>(slots, known, width_, static_cast<const T*>(grads), sums_.as<T>());
  });
  Account();
}

void StepGradient::Sorted(Stream& stream, Tensor& ids, Tensor& grads) {
  const int64_t m = index_.size();
  ids = Tensor::Empty(stream, DType::kI64, {m}, MemoryTag::kGradients);
  if (m > 0) Upload(stream, index_.ids(), ids.bytes(), ids);
  int64_t* id = ids.data<int64_t>();
  std::vector<std::pair<int64_t, int64_t>> order;  // (id, slot)
  order.reserve(static_cast<size_t>(m));
  for (int64_t slot = 0; slot < m; ++slot) order.emplace_back(id[slot], slot);
  std::sort(order.begin(), order.end());
  grads = Tensor::Empty(stream, dtype_, {m, width_}, MemoryTag::kGradients);
  char* to = static_cast<char*>(grads.raw());
  for (const auto& [row, slot] : order) {
    *id++ = row;
    std::memcpy(to, sums_.row(slot), static_cast<size_t>(sums_.row_bytes()));
    to += sums_.row_bytes();
  }
}

}  // namespace mneme
