// The way into a sub-layer in one pass over the streams, and with it, where there is one, the way
// out of the sub-layer behind: out_i = Σ_j res_ij x_j + post_i y; then φ's product with the
// streams, the root mean square, the weights `pre` and the inner input h. Four streams, bf16.
//
// A cluster of blocks holds a step of 16 tokens in its shared memories, each block a share of the
// columns of all streams, each warp 32 of them: x arrives once, three steps deep, every lane
// reading back the bytes that it asked for; out stands in its place. A warp multiplies its columns
// with its part of φ, which never leaves its registers; the warps' and then the blocks' partial
// sums are added in order, the latter sent straight into the other blocks' mailboxes; from them
// every block makes the weights and sums its columns of h. The product of the next step runs while
// the sums of this one travel.
//
// Roofline at the 27B shape (T 16,384, C 2,560) and at the sweep's (T 32,768, C 512): x read, h
// written, 420 and 168 MB; with the way out x, y read, out, h written, 839 and 336 MB, where the
// ops apart move 1,175 and 470. Measured on an H100 that copies 2.98 TB/s, mixes included: 217 and
// 105 µs; with the way out 345 and 140 µs, 82 % of the copy's rate. A barrier of the cluster in
// place of the mailboxes took 264 and 133 µs: it waits for the stores before it.
#include "kernels/gpu/device/cluster.cuh"
#include "kernels/gpu/hyper.h"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {
namespace {

constexpr int kStages = 3;
constexpr int kEverywhere = kStreams + 1;  // sums that every block needs: of pre, and of squares

struct EnterArgs {
  const bf16* x;
  const bf16* y;  // these four of the way out only
  const float* res;
  const float* post;
  bf16* out;
  Projection w;
  Gate gate;
  float norm_eps;
  int64_t tokens;
  int width;
  int blocks;  // of a cluster
  float* r;
  float* m;
  bf16* h;
};

template <int kTiles, bool kLeave>
struct EnterShared {
  static constexpr int kVectors = kStreams + (kLeave ? 1 : 0);  // of a token
  static constexpr int kSums = 8 * kTiles + 1;                  // columns of φ, then the squares
  static constexpr int kRest = kSums - kEverywhere;
  uint4 vectors[kStages][2 * kVectors][kMostThreads];
  float parts[2][kMostWarps][kStep][kSums];
  float everywhere[2][kMostBlocks][kStep][kEverywhere];  // from each block
  float rest[2][kStep]
            [kRest > 0 ? kRest : 1];  // from each block, for the tokens that this one stores
  float pre[2][kStep][kStreams];
  float res[kLeave ? kStages : 1][kStep][kStreams][kStreams];
  float post[kLeave ? kStages : 1][kStep][kStreams];
  Mailbox mailbox;
};

template <int kTiles, bool kLeave>
class Enter {
 public:
  __device__ __forceinline__ Enter(const EnterArgs& a, EnterShared<kTiles, kLeave>& shared)
      : a_(a),
        shared_(shared),
        rank_(static_cast<int>(hopper::ClusterRank())),
        warp_(static_cast<int>(threadIdx.x) / kWarp),
        g_(static_cast<int>(threadIdx.x) % kWarp / 4),
        q_(static_cast<int>(threadIdx.x) % 4),
        column_(rank_ * (a.width / a.blocks) + warp_ * kOwn + 8 * q_),
        own_tokens_(kStep / a.blocks),
        bytes_(4 * kStep * (a.blocks * kEverywhere + Shared::kRest)) {}

  __device__ __forceinline__ void Run() {
    const int64_t clusters = gridDim.x / a_.blocks;
    const int64_t first = blockIdx.x / a_.blocks;
    const int64_t steps = (a_.tokens + kStep - 1) / kStep;
    if (first >= steps) return;
    const auto count = static_cast<int>((steps - first - 1) / clusters + 1);
    const auto step = [&](int i) { return first + i * clusters; };
    for (int i = 0; i < kStages; ++i) Fetch(step(i), i, i < count);
    LoadWeights();
    shared_.mailbox.Open(bytes_);
    CopyAsyncWait<kStages - 1>();
    if constexpr (kLeave) {
      __syncthreads();  // the mixes of the step's tokens
      Leave(step(0), 0);
    }
    Multiply(0, 0);
    __syncthreads();
    Send(0);
    for (int i = 0; i < count; ++i) {
      const bool more = i + 1 < count;
      if (more) {
        CopyAsyncWait<kStages - 2>();
        if constexpr (kLeave) {
          __syncthreads();
          Leave(step(i + 1), (i + 1) % kStages);
        }
        Multiply((i + 1) % kStages, (i + 1) % 2);
      }
      Weigh(step(i), i);
      __syncthreads();
      Sum(step(i), i % kStages, i % 2);
      Fetch(step(i + kStages), i % kStages, i + kStages < count);
      if (more) Send(i + 1);
    }
  }

 private:
  using Shared = EnterShared<kTiles, kLeave>;
  static constexpr int kVectors = Shared::kVectors;

  // Asks for this thread's bytes of a step; zeros past the end.
  __device__ __forceinline__ void Fetch(int64_t step, int stage, bool wanted) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = step * kStep + 8 * half + g_;
      const bool valid = wanted && t < a_.tokens;
      const bf16* from = a_.x + (valid ? t * kStreams * a_.width + column_ : 0);
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        if (wanted) {
          CopyAsync16(&shared_.vectors[stage][half * kVectors + s][threadIdx.x],
                      valid ? from + s * a_.width : from, valid);
        }
      }
      if constexpr (kLeave) {
        if (wanted) {
          CopyAsync16(&shared_.vectors[stage][half * kVectors + kStreams][threadIdx.x],
                      a_.y + (valid ? t * a_.width + column_ : 0), valid);
        }
      }
    }
    if constexpr (kLeave) {
      if (wanted) FetchMixes(step, stage);
    }
    CopyAsyncCommit();
  }

  __device__ __forceinline__ void FetchMixes(int64_t step, int stage) {
    constexpr int kPieces = kStep * (kStreams + 1);
    const auto i = static_cast<int>(threadIdx.x);
    if (i >= kPieces) return;
    const int t = i / (kStreams + 1);
    const int s = i % (kStreams + 1);
    const int64_t token = step * kStep + t;
    const bool valid = token < a_.tokens;
    if (s < kStreams) {
      CopyAsync16(shared_.res[stage][t][s],
                  a_.res + (valid ? (token * kStreams + s) * kStreams : 0), valid);
    } else {
      CopyAsync16(shared_.post[stage][t], a_.post + (valid ? token * kStreams : 0), valid);
    }
  }

  // The streams behind the sub-layer, in the place of those before it.
  __device__ __forceinline__ void Leave(int64_t step, int stage) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g_ + 8 * half;
      const int64_t t = step * kStep + row;
      uint4(*mine)[kMostThreads] = shared_.vectors[stage] + half * kVectors;
      uint4 x[kStreams];
#pragma unroll
      for (int s = 0; s < kStreams; ++s) x[s] = mine[s][threadIdx.x];
      const uint4 y = mine[kVectors - 1][threadIdx.x];
#pragma unroll
      for (int i = 0; i < kStreams; ++i) {
        float out[8] = {};
        AddScaled(out, shared_.post[stage][row][i], y);
#pragma unroll
        for (int j = 0; j < kStreams; ++j) {
          AddScaled(out, shared_.res[stage][row][i][j], x[j]);
        }
        const uint4 packed = make_uint4(PackBf16(out[0], out[1]), PackBf16(out[2], out[3]),
                                        PackBf16(out[4], out[5]), PackBf16(out[6], out[7]));
        mine[i][threadIdx.x] = packed;
        if (t < a_.tokens) {
          *reinterpret_cast<uint4*>(a_.out + (t * kStreams + i) * a_.width + column_) = packed;
        }
      }
    }
  }

  __device__ __forceinline__ void LoadWeights() {
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const int c = 8 * n + g_;
        const float* from =
            a_.w.weights + (s * a_.width + column_) * a_.w.row_stride + c * a_.w.column_stride;
        float v[8] = {};
        for (int k = 0; k < 8; ++k) {
          if (c < a_.w.columns) v[k] = from[k * a_.w.row_stride];
        }
        weights_[s * kTiles + n] = make_uint4(PackBf16(v[0], v[1]), PackBf16(v[2], v[3]),
                                              PackBf16(v[4], v[5]), PackBf16(v[6], v[7]));
      }
    }
  }

  // This warp's part of the sums.
  __device__ __forceinline__ void Multiply(int stage, int buffer) {
    float acc[kTiles][4] = {};
    float squares[2] = {};
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      const uint4 upper = shared_.vectors[stage][s][threadIdx.x];
      const uint4 lower = shared_.vectors[stage][kVectors + s][threadIdx.x];
      const uint32_t low[4] = {upper.x, lower.x, upper.y, lower.y};
      const uint32_t high[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const uint4 w = weights_[s * kTiles + n];
        Mma(acc[n], low, w.x, w.y);
        Mma(acc[n], high, w.z, w.w);
      }
      squares[0] += SquaresOf(upper);
      squares[1] += SquaresOf(lower);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      squares[half] += __shfl_xor_sync(0xffffffffu, squares[half], 1);
      squares[half] += __shfl_xor_sync(0xffffffffu, squares[half], 2);
      float* to = shared_.parts[buffer][warp_][g_ + 8 * half];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        to[8 * n + 2 * q_] = acc[n][2 * half];
        to[8 * n + 2 * q_ + 1] = acc[n][2 * half + 1];
      }
      if (q_ == 0) to[8 * kTiles] = squares[half];
    }
  }

  // The block's sums to whom they concern.
  __device__ __forceinline__ void Send(int i) {
    const int buffer = i % 2;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    for (int k = threadIdx.x; k < kStep * Shared::kSums; k += static_cast<int>(blockDim.x)) {
      const int t = k / Shared::kSums;
      const int c = k % Shared::kSums;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kMostWarps; ++w) {
        if (w < warps) sum += shared_.parts[buffer][w][t][c];
      }
      if (c < kStreams || c == 8 * kTiles) {
        float* to = &shared_.everywhere[buffer][rank_][t][c < kStreams ? c : kStreams];
#pragma unroll
        for (int block = 0; block < kMostBlocks; ++block) {
          if (block < a_.blocks) shared_.mailbox.Send(to, block, i, sum);
        }
      } else {
        shared_.mailbox.Send(
            &shared_.rest[buffer][rank_ * own_tokens_ + t % own_tokens_][c - kStreams],
            t / own_tokens_, i, sum);
      }
    }
  }

  __device__ __forceinline__ float Root(int buffer, int t) const {
    float sum = 0;
#pragma unroll
    for (int block = 0; block < kMostBlocks; ++block) {
      if (block < a_.blocks) sum += shared_.everywhere[buffer][block][t][kStreams];
    }
    return sqrtf(sum / static_cast<float>(kStreams * a_.width) + a_.norm_eps);
  }

  // The weights of h in every block; r and m of the block's own tokens.
  __device__ __forceinline__ void Weigh(int64_t step, int i) {
    constexpr int kGates = kStep * kStreams;
    const int buffer = i % 2;
    shared_.mailbox.Wait(i, bytes_);
    if (static_cast<int>(threadIdx.x) < kGates) {
      const int t = static_cast<int>(threadIdx.x) / kStreams;
      const int s = static_cast<int>(threadIdx.x) % kStreams;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < kMostBlocks; ++block) {
        if (block < a_.blocks) sum += shared_.everywhere[buffer][block][t][s];
      }
      const float root = Root(buffer, t);
      const float mix = sum / root;
      const float z = a_.gate.gain[0] * mix + a_.gate.bias[s];
      shared_.pre[buffer][t][s] = 1.0f / (1.0f + expf(-z)) + a_.gate.eps;
      const int64_t token = step * kStep + t;
      if (t / own_tokens_ == rank_ && token < a_.tokens) {
        a_.m[token * a_.w.columns + s] = mix;
        if (s == 0) a_.r[token] = root;
      }
      return;
    }
    const int rest = a_.w.columns - kStreams;
    for (int k = static_cast<int>(threadIdx.x) - kGates; k < own_tokens_ * rest;
         k += static_cast<int>(blockDim.x) - kGates) {
      const int own = k / rest;
      const int c = k % rest;
      const int t = rank_ * own_tokens_ + own;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < kMostBlocks; ++block) {
        if (block < a_.blocks) sum += shared_.rest[buffer][block * own_tokens_ + own][c];
      }
      const int64_t token = step * kStep + t;
      if (token < a_.tokens) {
        a_.m[token * a_.w.columns + kStreams + c] = sum / Root(buffer, t);
      }
    }
  }

  __device__ __forceinline__ void Sum(int64_t step, int stage, int buffer) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g_ + 8 * half;
      float out[8] = {};
#pragma unroll
      for (int s = 0; s < kStreams; ++s) {
        AddScaled(out, shared_.pre[buffer][row][s],
                  shared_.vectors[stage][half * kVectors + s][threadIdx.x]);
      }
      const int64_t t = step * kStep + row;
      if (t < a_.tokens) {
        StoreEight(a_.h + t * a_.width + column_, out);
      }
    }
  }

  const EnterArgs& a_;
  Shared& shared_;
  const int rank_, warp_, g_, q_, column_, own_tokens_;
  const int bytes_;  // that arrive a step
  uint4 weights_[kStreams * kTiles];
};

template <int kTiles, bool kLeave>
__global__ void __launch_bounds__(kMostThreads, 1)
    EnterKernel(const __grid_constant__ EnterArgs a) {
  extern __shared__ uint4 memory[];
  Enter<kTiles, kLeave>(a, *reinterpret_cast<EnterShared<kTiles, kLeave>*>(memory)).Run();
}

template <int kTiles, bool kLeave>
void LaunchEnter(Stream& stream, const EnterArgs& a) {
  LaunchClusters(stream, EnterKernel<kTiles, kLeave>, sizeof(EnterShared<kTiles, kLeave>),
                 CeilDiv(a.tokens, kStep), a, [](int64_t, EnterArgs&) {});
}

EnterArgs ArgsOf(const Tensor& x, const Projection& w, double norm_eps, const Gate& gate, Tensor& r,
                 Tensor& m, Tensor& h) {
  EnterArgs a = {};
  a.x = Data<bf16>(x);
  a.w = w;
  a.gate = gate;
  a.norm_eps = static_cast<float>(norm_eps);
  a.tokens = x.dim(0);
  a.width = static_cast<int>(x.dim(2));
  a.blocks = ClusterBlocks(x.dim(2));
  a.r = Data<float>(r);
  a.m = Data<float>(m);
  a.h = Data<bf16>(h);
  return a;
}

}  // namespace

bool InOnePass(Stream& stream, const Tensor& x) {
  return QueueOf(stream).hopper() && x.dtype() == DType::kBf16 && x.dim(1) == kStreams &&
         ClusterBlocks(x.dim(2)) > 0;
}

void ProjectAndSum(Stream& stream, const Tensor& x, const Projection& w, double norm_eps,
                   const Gate& gate, Tensor& r, Tensor& m, Tensor& h) {
  CHECK(w.columns == kStreams || w.columns == kColumns);
  EnterArgs a = ArgsOf(x, w, norm_eps, gate, r, m, h);
  if (w.columns == kStreams) {
    LaunchEnter<1, false>(stream, a);
  } else {
    LaunchEnter<3, false>(stream, a);
  }
}

void LeaveProjectAndSum(Stream& stream, const StreamsOut& before, Tensor& out, const Projection& w,
                        double norm_eps, const Gate& gate, Tensor& r, Tensor& m, Tensor& h) {
  CHECK_EQ(w.columns, kColumns);
  EnterArgs a = ArgsOf(before.x, w, norm_eps, gate, r, m, h);
  a.y = Data<bf16>(before.y);
  a.res = Data<float>(before.res);
  a.post = Data<float>(before.post);
  a.out = Data<bf16>(out);
  LaunchEnter<3, true>(stream, a);
}

}  // namespace mneme::gpu
