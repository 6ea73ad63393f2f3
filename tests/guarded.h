// Memory that shows who steps over its border. On the host the data end at a page that may not be
// touched, and the gap before them is filled with a known byte; on a GPU bands of that byte stand
// on both sides.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/core/tensor.h"

namespace mneme::test {

class Guarded {
 public:
  // Elements start NaN (reals) or at a number that no op writes (integers), so that an unwritten
  // one shows. The address is aligned to one element only: an op that needs more fails here.
  // `shift` elements of the known byte stand between the data and the forbidden page.
  Guarded(DType dtype, Shape shape, int64_t shift = 0);
  // On the stream's device, `offset` bytes behind an address aligned to 256.
  Guarded(Stream& stream, DType dtype, Shape shape, int64_t offset);
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
  char* map_ = nullptr;  // on the host
  int64_t map_bytes_ = 0;
  Tensor block_;     // on a GPU: the data and their bands
  int64_t gap_ = 0;  // bytes between the first usable page, or the start of the block, and the data
  int64_t after_ = 0;  // bytes between the data and the forbidden page, or the end of the block
  Tensor tensor_;
};

}  // namespace mneme::test
