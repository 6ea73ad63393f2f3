// Measures ops on the GPU against what the machine can do: one line of a table an op.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"
#include "kernels/kernels.h"

namespace mneme::bench {

// What an op must at least do: the larger of bytes over the copy rate and flop over the matmul rate
// is its floor.
struct Work {
  double bytes = 0;
  double flop = 0;
};
// Bytes of all the tensors.
double Bytes(std::initializer_list<Tensor> tensors);

// What the machine can do.
struct Ceilings {
  double copy = 0;    // bytes a second, read and written
  double matmul = 0;  // flop a second, bf16
};

// A pool of its own, so that one shape's memory does not stand in the way of the next.
class GpuTimer {
 public:
  // `filter`: only ops whose name begins with it; empty: all.
  explicit GpuTimer(std::string filter);

  Stream& stream() { return stream_; }
  const Kernels& kernels() const { return kernels_; }

  // Normals of deviation `std`, repeated every million; ids in [0, n); zeros; uninitialised memory.
  Tensor Normal(DType dtype, Shape shape, double std = 1.0);
  Tensor Ids(DType dtype, Shape shape, int64_t n);
  Tensor Host(DType dtype, Shape shape, const std::vector<int64_t>& values);
  Tensor Zeros(DType dtype, Shape shape);
  Tensor Empty(DType dtype, Shape shape);

  // Copies and multiplies until the two rates are known, and prints them.
  Ceilings MeasureCeilings();

  // The shape that the next lines are about.
  void Begin(const std::string& shape, const Ceilings& ceilings) {
    shape_ = shape;
    ceilings_ = ceilings;
  }
  // Whether a line that begins with one of these may be wanted: where not, its tensors need not be
  // made.
  bool WantsAny(std::initializer_list<std::string> beginnings) const;
  // Records `run`, replays it with cold caches, and prints the median. `there`: the op's entry in
  // the table, which may be empty while it is being written.
  template <class Fn>
  void Line(const std::string& op, Fn* there, const Work& work, const std::function<void()>& run) {
    if (!op.starts_with(filter_)) return;
    if (there == nullptr) return Missing(op);
    Measure(op, work, run);
  }

 private:
  void Missing(const std::string& op) const;
  void Measure(const std::string& op, const Work& work, const std::function<void()>& run);
  // Seconds, the median of at least kRepeats replays.
  double Seconds(const std::function<void()>& run);

  std::string filter_;
  Allocator allocator_;
  Stream stream_;
  const Kernels& kernels_;
  std::string shape_;
  Ceilings ceilings_;
  Tensor flush_;  // zeros, read before each replay, so that nothing is left in the caches
};

}  // namespace mneme::bench
