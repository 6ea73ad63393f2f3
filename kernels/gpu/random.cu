// First values of a table: the same bits as on the CPU, from the same source
// (kernels/core/normal.h; this file is compiled without contraction). A thread a Philox block, two
// numbers each. Bound by arithmetic in double: about 150 operations a number.
#include "kernels/core/normal.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/table.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    FillNormals(RandomKey key, uint64_t first, int64_t n, double std, float* values) {
  const int64_t blocks = (n + static_cast<int64_t>(first & 1) + 1) / 2;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; b < blocks;
       b += stride) {
    const uint64_t block = (first >> 1) + static_cast<uint64_t>(b);
    const auto words = normal::Block(
        key, {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0});
    for (int half = 0; half < 2; ++half) {
      const int64_t i = 2 * b + half - static_cast<int64_t>(first & 1);
      if (i < 0 || i >= n) continue;
      const double q = normal::CentredUniform(normal::Half(words, static_cast<uint64_t>(half)));
      const double x =
          std::fabs(q) <= normal::kCentre ? normal::CentreQuantile(q) : normal::TailQuantile(q);
      values[i] = static_cast<float>(std * x);
    }
  }
}

}  // namespace

void NormalRows(Stream& stream, RandomKey key, uint64_t first, double std, Tensor& values) {
  const int64_t n = values.elements();
  const int64_t blocks = std::min<int64_t>(CeilDiv(n + 1, 2 * kThreads),
                                           int64_t{QueueOf(stream).multiprocessors} * 64);
  Launch(stream, FillNormals, dim3(static_cast<unsigned>(blocks)), kThreads, 0, key, first, n, std,
         Data<float>(values));
}

}  // namespace mneme::gpu
