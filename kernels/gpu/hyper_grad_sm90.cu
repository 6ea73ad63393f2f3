// The way back out of a sub-layer in one pass over the streams: dpre = ⟨dh, x_i⟩, what hangs on it
// in the gradient of the mixes, dx and dφ, from one read of dout, x and dh. Four streams, bf16.
//
// A cluster of blocks holds a step of 16 tokens, each block a share of the columns of all streams,
// each warp 32 of them, every lane reading back the bytes that it asked for. The dots need all
// columns: warps' and then blocks' partial sums are added in order, the latter sent straight into
// the other blocks' mailboxes. Everything else of the gradient of the mixes is known before. The
// next step is on its way meanwhile: x and dh, and dout where the block is small enough for a
// second one and for φ in registers. x̃ᵀ du stays in registers: one partial sum a cluster, added in
// order.
//
// Roofline at the 27B shape (T 16,384, C 2,560) and at the sweep's (T 32,768, C 512): dout, x, dh
// read, dx written, 1,091 and 436 MB; with the dots in a pass of their own it is 1,510 and 604.
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

// Up to kFewThreads, φ stays in registers and dout is on its way two steps deep.
constexpr int kFewThreads = 256;

template <int kThreads>
struct GradShared {
  static constexpr bool kFew = kThreads <= kFewThreads;
  static constexpr int kOutStages = kFew ? 2 : 1;
  uint2 weights_low[kFew ? 1 : kStreams * 4][kThreads];  // fragments of φ
  uint32_t weights_high[kFew ? 1 : kStreams * 4][kThreads];
  uint4 near[2][2 * (kStreams + 1)][kThreads];  // x and dh of a step
  uint4 dout[kOutStages][2 * kStreams][kThreads];
  TokenStage<kStreams> token[2];
  float late[2][kStep][kStreams];
  float parts[kMostWarps][kStep][kStreams];
  float dots[2][kMostBlocks][kStep][kStreams];  // from each block
  Mailbox mailbox;
};

template <int kThreads>
class Grad {
 public:
  __device__ __forceinline__ Grad(const GradArgs& a, GradShared<kThreads>& shared)
      : a_(a),
        shared_(shared),
        rank_(static_cast<int>(hopper::ClusterRank())),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        q_(static_cast<int>(threadIdx.x) % 4),
        warp_column_(rank_ * (a.width / a.blocks) + warp_ * kOwn),
        column_(warp_column_ + 8 * q_),
        bytes_(4 * a.blocks * kStep * kStreams) {}

  __device__ __forceinline__ void Run() {
    const int64_t clusters = gridDim.x / a_.blocks;
    const int64_t first = blockIdx.x / a_.blocks;
    const int64_t steps = (a_.tokens + kStep - 1) / kStep;
    const int64_t count = first < steps ? (steps - first - 1) / clusters + 1 : 0;
    if (count == 0) return;
    WeightSums<kStreams> sums = {};
    FetchNear(first, 0, true);
    FetchOut(first, 0, true);
    FetchNear(first + clusters, 1, count > 1);
    if constexpr (kOutStages == 2) FetchOut(first + clusters, 1, count > 1);
    LoadWeights();
    shared_.mailbox.Open(bytes_);
    CopyAsyncWait<1 + kOutStages>();
    __syncthreads();
    Dots(0);
    __syncthreads();
    Send(0);
    int64_t step = first;
    for (int64_t i = 0; i < count; ++i, step += clusters) {
      const int stage = static_cast<int>(i % 2);
      CopyAsyncWait<kOutStages>();  // dout of this step; the next one's bytes may still travel
      Complete(step, i);
      __syncthreads();
      Apply(step, stage, sums);
      if (i + 1 == count) break;
      if constexpr (kOutStages == 1) FetchOut(step + clusters, 0, true);
      CopyAsyncWait<1>();  // what is near of the next step
      __syncthreads();     // all are through with this step's stage, and see the next one's tokens
      FetchNear(step + 2 * clusters, stage, i + 2 < count);
      if constexpr (kOutStages == 2) FetchOut(step + 2 * clusters, stage, i + 2 < count);
      Dots(stage ^ 1);
      __syncthreads();
      Send(i + 1);
    }
    StoreSums(sums, a_.w, a_.width, warp_column_,
              a_.parts + first * kStreams * a_.width * a_.w.columns);
  }

 private:
  using Shared = GradShared<kThreads>;
  static constexpr bool kFew = Shared::kFew;
  static constexpr int kOutStages = Shared::kOutStages;

  __device__ __forceinline__ void LoadWeights() {
#pragma unroll
    for (int i = 0; i < kStreams * 4; ++i) {
      const uint3 w = WeightFragment(a_.w, a_.width, warp_column_, i / 4, i % 4);
      if constexpr (kFew) {
        weights_[i] = w;
      } else {
        shared_.weights_low[i][threadIdx.x] = make_uint2(w.x, w.y);
        shared_.weights_high[i][threadIdx.x] = w.z;
      }
    }
  }

  // Both ask for this thread's bytes of a step, as one group, empty if not wanted; zeros past the
  // end.
  __device__ __forceinline__ void FetchOut(int64_t step, int stage, bool wanted) {
    if (wanted) AskOut(step, stage);
    CopyAsyncCommit();
  }
  __device__ __forceinline__ void FetchNear(int64_t step, int stage, bool wanted) {
    if (wanted) AskNear(step, stage);
    CopyAsyncCommit();
  }

  __device__ __forceinline__ void AskOut(int64_t step, int stage) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = step * kStep + 8 * half + g_;
      const bool valid = t < a_.tokens;
      const bf16* from = a_.dout + (valid ? t * kStreams * a_.width + column_ : 0);
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        CopyAsync16(&shared_.dout[stage][half * kStreams + s][threadIdx.x],
                    valid ? from + s * a_.width : from, valid);
      }
    }
  }

  __device__ __forceinline__ void AskNear(int64_t step, int stage) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = step * kStep + 8 * half + g_;
      const bool valid = t < a_.tokens;
      const bf16* from = a_.x + (valid ? t * kStreams * a_.width + column_ : 0);
      uint4(*to)[kThreads] = shared_.near[stage] + half * (kStreams + 1);
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
    TokenStage<kStreams>& token = shared_.token[stage];
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
      const uint4(*from)[kThreads] = shared_.near[stage] + half * (kStreams + 1);
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

  __device__ __forceinline__ void Send(int64_t i) {
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
      if (block < a_.blocks) shared_.mailbox.Send(&shared_.dots[i % 2][rank_][t][s], block, i, sum);
    }
  }

  // dpre, and with it the rest of du and of the factor of x̃.
  __device__ __forceinline__ void Complete(int64_t step, int64_t i) {
    if (threadIdx.x >= kStep * kStreams) return;
    const auto stage = static_cast<int>(i % 2);
    shared_.mailbox.Wait(i, bytes_);
    const int t = static_cast<int>(threadIdx.x) / kStreams;
    const int s = static_cast<int>(threadIdx.x) % kStreams;
    float dot = 0;
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < a_.blocks) dot += shared_.dots[stage][block][t][s];
    }
    TokenStage<kStreams>& token = shared_.token[stage];
    token.du[t][s] *= dot;
    float more = shared_.late[stage][t][s] * dot;
    more += __shfl_xor_sync(0xffffffffu, more, 1);
    more += __shfl_xor_sync(0xffffffffu, more, 2);
    if (s == 0) token.factor[t] += more;
    if (rank_ == 0 && step * kStep + t < a_.tokens) {
      a_.dpre[(step * kStep + t) * kStreams + s] = dot;
    }
  }

  __device__ __forceinline__ void Apply(int64_t step, int stage, WeightSums<kStreams>& sums) {
    const auto& near = shared_.near[stage];
    StreamsStep<true>(
        shared_.token[stage],
        [&](int half, int s) { return near[half * (kStreams + 1) + s][threadIdx.x]; },
        [&](int half) { return near[half * (kStreams + 1) + kStreams][threadIdx.x]; },
        [&](int half, int s) {
          return shared_.dout[stage % kOutStages][half * kStreams + s][threadIdx.x];
        },
        [&](int s, int j) {
          if constexpr (kFew) return weights_[s * 4 + j];
          const uint2 low = shared_.weights_low[s * 4 + j][threadIdx.x];
          return make_uint3(low.x, low.y, shared_.weights_high[s * 4 + j][threadIdx.x]);
        },
        a_.width, a_.tokens - step * kStep, a_.dx + step * kStep * kStreams * a_.width + column_,
        sums);
  }

  const GradArgs& a_;
  Shared& shared_;
  const int rank_, warp_, g_, q_, warp_column_, column_;
  const int bytes_;                         // that arrive a step
  uint3 weights_[kFew ? kStreams * 4 : 1];  // fragments of φ
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1) GradKernel(const __grid_constant__ GradArgs a) {
  extern __shared__ uint4 memory[];
  Grad<kThreads>(a, *reinterpret_cast<GradShared<kThreads>*>(memory)).Run();
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
  const auto launch = [&](auto threads) {
    constexpr int kThreads = decltype(threads)::value;
    LaunchClusters(stream, GradKernel<kThreads>, sizeof(GradShared<kThreads>),
                   CeilDiv(a.tokens, kStep), a, [&](int64_t clusters, GradArgs& args) {
                     count = clusters;
                     parts = Tensor::Empty(stream, DType::kF32, {clusters, dw.elements()},
                                           MemoryTag::kWorkspace);
                     args.parts = Data<float>(parts);
                   });
  };
  if (a.width / (a.blocks * kOwn) * kWarp <= kFewThreads) {
    launch(std::integral_constant<int, kFewThreads>{});
  } else {
    launch(std::integral_constant<int, kMostThreads>{});
  }
  AddParts(stream, Data<float>(parts), count, dw.elements(), dw.elements(), Data<float>(dw));
}

}  // namespace mneme::gpu
