// Memory that shows who steps over its border: the data end at a page that may not be touched, the
// gap before them is filled with a known byte.
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace mneme::test {

class Guarded {
 public:
  // Elements start NaN (reals) or at a number that no op writes (integers), so that an unwritten
  // one shows. The address is aligned to one element only: an op that needs more fails here.
  // `shift` elements of the known byte stand between the data and the forbidden page.
  Guarded(DType dtype, Shape shape, int64_t shift = 0);
  ~Guarded();
  Guarded(Guarded&& other) noexcept;
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  Tensor& tensor() { return tensor_; }
  const Tensor& tensor() const { return tensor_; }
  // Whether the bytes around the data are as they were.
  bool Intact() const;
  // How many elements still hold what the constructor wrote (any NaN for reals).
  int64_t Unwritten() const;

 private:
  char* map_ = nullptr;
  int64_t map_bytes_ = 0;
  int64_t gap_ = 0;    // bytes between the first usable page and the data
  int64_t after_ = 0;  // bytes between the data and the forbidden page
  Tensor tensor_;
};

}  // namespace mneme::test
