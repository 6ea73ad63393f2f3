// The way back out of a sub-layer in one pass over the streams: dpre = ⟨dh, x_i⟩, what hangs on it
// in the gradient of the mixes, dx and dφ, from one read of dout, x and dh. Four streams, bf16.
//
// A cluster of blocks holds a step of 16 tokens, each block a share of the columns of all streams,
// each warp 32 of them, every lane reading back the bytes that it asked for. The dots need all
// columns: warps' and then blocks' partial sums are added in order, the latter sent straight into
// the other blocks, while the next bytes are on their way. Everything else of the gradient of the
// mixes is known before. x and dh of the next step and dout of this one are in flight at a time.
// x̃ᵀ du stays in registers: one partial sum a cluster, added in order.
//
// Roofline at the 27B shape (T 16,384, C 2,560): dout, x, dh read, dx written, 1,091 MB; with the
// dots in a pass of their own it is 1,510.
#include "kernels/gpu/device/cluster.cuh"
#include "kernels/gpu/device/parts.cuh"
#include "kernels/gpu/hyper.h"

namespace mneme::gpu {
namespace {

struct GradArgs {
  const bf16* dout;
  const float* res;
  const bf16* dh;
  const float* pre;
  const bf16* x;
  const float* du;
  const float* factor;
  const float* late;
  Projection w;
  int64_t tokens;
  int width;
  int blocks;  // of a cluster
  float* dpre;
  bf16* dx;
  float* parts;  // [clusters, as w]
};

struct GradShared {
  uint2 weights_low[kStreams * 4][kMostThreads];  // fragments of φ
  uint32_t weights_high[kStreams * 4][kMostThreads];
  uint4 near[2][2 * (kStreams + 1)][kMostThreads];  // x and dh of a step
  uint4 dout[2 * kStreams][kMostThreads];
  TokenStage token[2];
  float late[2][kStep][kStreams];
  float parts[kMostWarps][kStep][kStreams];
  float dots[2][kMostBlocks][kStep][kStreams];  // from each block
};

class Grad {
 public:
  __device__ __forceinline__ Grad(const GradArgs& a, GradShared& shared)
      : a_(a),
        shared_(shared),
        rank_(static_cast<int>(hopper::ClusterRank())),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        q_(static_cast<int>(threadIdx.x) % 4),
        warp_column_(rank_ * (a.width / a.blocks) + warp_ * kOwn),
        column_(warp_column_ + 8 * q_) {}

  __device__ __forceinline__ void Run() {
    const int64_t clusters = gridDim.x / a_.blocks;
    const int64_t first = blockIdx.x / a_.blocks;
    const int64_t steps = (a_.tokens + kStep - 1) / kStep;
    const int64_t count = first < steps ? (steps - first - 1) / clusters + 1 : 0;
    if (count == 0) return;
    WeightSums sums = {};
    FetchNear(first, 0);
    CopyAsyncCommit();
    FetchOut(first);
    CopyAsyncCommit();
    if (count > 1) FetchNear(first + clusters, 1);
    CopyAsyncCommit();
    LoadWeights();
    CopyAsyncWait<2>();
    __syncthreads();
    Dots(0);
    __syncthreads();
    Send(0);
    ClusterArrive();
    int64_t step = first;
    for (int64_t i = 0; i < count; ++i, step += clusters) {
      const int stage = static_cast<int>(i % 2);
      CopyAsyncWait<1>();  // dout of this step; what is near of the next may still travel
      ClusterWait();
      Complete(step, stage);
      __syncthreads();
      Apply(step, stage, sums);
      if (i + 1 == count) break;
      FetchOut(step + clusters);
      CopyAsyncCommit();
      CopyAsyncWait<1>();  // what is near of the next step
      __syncthreads();     // all are through with this step's stage, and see the next one's tokens
      if (i + 2 < count) FetchNear(step + 2 * clusters, stage);
      CopyAsyncCommit();
      Dots(stage ^ 1);
      __syncthreads();
      Send(stage ^ 1);
      ClusterArrive();
    }
    StoreSums(sums, a_.w, a_.width, warp_column_,
              a_.parts + first * kStreams * a_.width * a_.w.columns);
  }

 private:
  __device__ __forceinline__ void LoadWeights() {
    for (int i = 0; i < kStreams * 4; ++i) {
      const uint3 w = WeightFragment(a_.w, a_.width, warp_column_, i / 4, i % 4);
      shared_.weights_low[i][threadIdx.x] = make_uint2(w.x, w.y);
      shared_.weights_high[i][threadIdx.x] = w.z;
    }
  }

  // Both ask for this thread's bytes of a step; zeros past the end.
  __device__ __forceinline__ void FetchOut(int64_t step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = step * kStep + 8 * half + g_;
      const bool valid = t < a_.tokens;
      const bf16* from = a_.dout + (valid ? t * kStreams * a_.width + column_ : 0);
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        CopyAsync16(&shared_.dout[half * kStreams + s][threadIdx.x],
                    valid ? from + s * a_.width : from, valid);
      }
    }
  }

  __device__ __forceinline__ void FetchNear(int64_t step, int stage) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = step * kStep + 8 * half + g_;
      const bool valid = t < a_.tokens;
      const bf16* from = a_.x + (valid ? t * kStreams * a_.width + column_ : 0);
      uint4(*to)[kMostThreads] = shared_.near[stage] + half * (kStreams + 1);
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        CopyAsync16(&to[s][threadIdx.x], valid ? from + s * a_.width : from, valid);
      }
      CopyAsync16(&to[kStreams][threadIdx.x], a_.dh + (valid ? t * a_.width + column_ : 0), valid);
    }
    FetchTokens(step, stage);
  }

  // The pieces of 16 bytes that the step's tokens need, dealt out over the threads.
  __device__ __forceinline__ void FetchTokens(int64_t step, int stage) {
    TokenStage& token = shared_.token[stage];
    const int64_t first = step * kStep;
    const int left = static_cast<int>(min(int64_t{kStep}, a_.tokens - first));
    const auto copy = [&](float* to, const float* from, int floats_of_token) {
      const int pieces = kStep * floats_of_token / 4;
      for (int i = threadIdx.x; i < pieces; i += static_cast<int>(blockDim.x)) {
        const bool valid = i * 4 / floats_of_token < left;
        CopyAsync16(to + i * 4, from + (valid ? first * floats_of_token + i * 4 : 0), valid);
      }
    };
    copy(&token.du[0][0], a_.du, kColumns);
    copy(&token.res[0][0][0], a_.res, kStreams * kStreams);
    copy(&token.pre[0][0], a_.pre, kStreams);
    copy(&shared_.late[stage][0][0], a_.late, kStreams);
    if (threadIdx.x < kStep) {
      const bool valid = static_cast<int>(threadIdx.x) < left;
      CopyFloatAsync(&token.factor[threadIdx.x], a_.factor + (valid ? first + threadIdx.x : 0),
                     valid);
    }
  }

  // This warp's part of ⟨dh, x_i⟩.
  __device__ __forceinline__ void Dots(int stage) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4(*from)[kMostThreads] = shared_.near[stage] + half * (kStreams + 1);
      const uint4 d = from[kStreams][threadIdx.x];
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        float dot = DotEight(d, from[s][threadIdx.x]);
        dot += __shfl_xor_sync(0xffffffffu, dot, 1);
        dot += __shfl_xor_sync(0xffffffffu, dot, 2);
        if (q_ == s) shared_.parts[warp_][g_ + 8 * half][s] = dot;
      }
    }
  }

  __device__ __forceinline__ void Send(int stage) {
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    if (threadIdx.x >= kStep * kStreams) return;
    const int t = static_cast<int>(threadIdx.x) / kStreams;
    const int s = static_cast<int>(threadIdx.x) % kStreams;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kMostWarps; ++w) {
      if (w < warps) sum += shared_.parts[w][t][s];
    }
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < a_.blocks) StoreRemote(&shared_.dots[stage][rank_][t][s], block, sum);
    }
  }

  // dpre, and with it the rest of du and of the factor of x̃.
  __device__ __forceinline__ void Complete(int64_t step, int stage) {
    if (threadIdx.x >= kStep * kStreams) return;
    const int t = static_cast<int>(threadIdx.x) / kStreams;
    const int s = static_cast<int>(threadIdx.x) % kStreams;
    float dot = 0;
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < a_.blocks) dot += shared_.dots[stage][block][t][s];
    }
    TokenStage& token = shared_.token[stage];
    token.du[t][s] *= dot;
    float more = shared_.late[stage][t][s] * dot;
    more += __shfl_xor_sync(0xffffffffu, more, 1);
    more += __shfl_xor_sync(0xffffffffu, more, 2);
    if (s == 0) token.factor[t] += more;
    if (rank_ == 0 && step * kStep + t < a_.tokens) {
      a_.dpre[(step * kStep + t) * kStreams + s] = dot;
    }
  }

  __device__ __forceinline__ void Apply(int64_t step, int stage, WeightSums& sums) {
    const auto& near = shared_.near[stage];
    StreamsStep<true>(
        shared_.token[stage],
        [&](int half, int s) { return near[half * (kStreams + 1) + s][threadIdx.x]; },
        [&](int half) { return near[half * (kStreams + 1) + kStreams][threadIdx.x]; },
        [&](int half, int s) { return shared_.dout[half * kStreams + s][threadIdx.x]; },
        [&](int s, int j) {
          const uint2 low = shared_.weights_low[s * 4 + j][threadIdx.x];
          return make_uint3(low.x, low.y, shared_.weights_high[s * 4 + j][threadIdx.x]);
        },
        a_.width, a_.tokens - step * kStep, a_.dx + step * kStep * kStreams * a_.width + column_,
        sums);
  }

  const GradArgs& a_;
  GradShared& shared_;
  const int rank_, warp_, g_, q_, warp_column_, column_;
};

__global__ void __launch_bounds__(kMostThreads, 1) GradKernel(const __grid_constant__ GradArgs a) {
  extern __shared__ uint4 memory[];
  Grad(a, *reinterpret_cast<GradShared*>(memory)).Run();
}

}  // namespace

void ProjectGradWithDots(Stream& stream, const StreamsGrad& g, const Tensor& late,
                         const Projection& w, Tensor& dpre, Tensor& dx, Tensor& dw) {
  const GradArgs a{Data<bf16>(g.dout),
                   Data<float>(g.res),
                   Data<bf16>(g.dh),
                   Data<float>(g.pre),
                   Data<bf16>(g.x),
                   Data<float>(g.du),
                   Data<float>(g.factor),
                   Data<float>(late),
                   w,
                   g.x.dim(0),
                   static_cast<int>(g.x.dim(2)),
                   ClusterBlocks(g.x.dim(2)),
                   Data<float>(dpre),
                   Data<bf16>(dx),
                   nullptr};
  Tensor parts;
  int64_t count = 0;
  LaunchClusters(stream, GradKernel, sizeof(GradShared), CeilDiv(a.tokens, kStep), a,
                 [&](int64_t clusters, GradArgs& args) {
                   count = clusters;
                   parts = Tensor::Empty(stream, DType::kF32, {clusters, dw.elements()},
                                         MemoryTag::kWorkspace);
                   args.parts = Data<float>(parts);
                 });
  AddParts(stream, Data<float>(parts), count, dw.elements(), dw.elements(), Data<float>(dw));
}

}  // namespace mneme::gpu
