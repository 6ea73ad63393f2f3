// cuDNN's fused attention in the op's layouts. cuDNN wants one tensor of keys: each head's own part
// and the shared rotary part are packed side by side, and the gradient is taken apart again; values
// are a strided view of kv. Its deterministic backward stores the gradient of every score, so heads
// or samples go through in groups that keep the workspace within kWorkspace.
//
// Roofline, 27B shape (4 rows of 4,096, 32 heads of 128 + 64 / 128): 0.69 TFLOP forward, 1.79
// backward, 0.7 and 1.8 ms at 989 TFLOP/s. Packing moves 0.34 GB, unpacking likewise: 0.1 ms each
// at 3.3 TB/s. On an H100: 544 TFLOP/s forward, 354 backward, packing included; 614 and 379
// without.
#include "kernels/gpu/attention.h"
#include "kernels/gpu/cudnn.h"
#include "kernels/gpu/device/vec.cuh"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWorkspace = int64_t{4} << 30;
constexpr int64_t kShortest = 256;  // sequences below this are not worth the packing

using Piece = Vec<bf16, 8>;

// k [T, H, nope + rope] from kv and k_pe. A thread 8 columns.
__global__ void PackKeys(AttentionArgs<bf16> n, bf16* k, int64_t pieces) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= pieces) return;
  const int width = n.width() / 8;
  const int64_t at = i / width;  // token and head
  const int c = static_cast<int>(i % width) * 8;
  const bf16* from = c < n.nope ? n.kv + at * (n.nope + n.value) + c
                                : n.k_pe + at / n.heads * n.rope + (c - n.nope);
  reinterpret_cast<Piece*>(k)[i] = *reinterpret_cast<const Piece*>(from);
}

// dk [T, H, nope + rope] into dkv and, summed over heads in a fixed order, dk_pe. A block a token.
__global__ void UnpackKeyGrads(AttentionArgs<bf16> n, const bf16* dk, bf16* dk_pe) {
  extern __shared__ float sums[];  // [groups][rope]
  const int64_t token = blockIdx.x;
  const int heads = static_cast<int>(n.heads);
  const bf16* own = dk + token * heads * n.width();
  const int pieces = n.nope / 8;
  for (int i = threadIdx.x; i < heads * pieces; i += kThreads) {
    const int h = i / pieces;
    const int c = i % pieces * 8;
    *reinterpret_cast<Piece*>(n.dkv + (token * heads + h) * (n.nope + n.value) + c) =
        *reinterpret_cast<const Piece*>(own + h * n.width() + c);
  }
  const int columns = n.rope / 8;
  const int groups = min(kThreads / columns, heads);
  const int group = threadIdx.x / columns;
  const int c = threadIdx.x % columns * 8;
  if (group < groups) {
    float sum[8] = {};
    for (int h = group; h < heads; h += groups) {
      float x[8];
      LoadFloats(own + h * n.width() + n.nope + c, x);
      for (int j = 0; j < 8; ++j) sum[j] += x[j];
    }
    for (int j = 0; j < 8; ++j) sums[group * n.rope + c + j] = sum[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n.rope; i += kThreads) {
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += sums[g * n.rope + i];
    dk_pe[token * n.rope + i] = FromFloat<bf16>(sum);
  }
}

Sdpa Problem(const AttentionArgs<bf16>& n) {
  Sdpa p;
  p.rows = n.rows;
  p.length = n.length;
  p.heads = n.heads;
  p.width = n.width();
  p.value = n.value;
  p.v_step = n.nope + n.value;
  p.q_stride = n.heads * n.width();
  p.v_stride = n.heads * p.v_step;
  p.out_stride = n.heads * n.value;
  p.lse_stride = n.heads;
  p.scale = n.scale;
  return p;
}

int64_t LargestDivisor(int64_t of, int64_t at_most) {
  for (int64_t d = std::min(of, at_most); d > 1; --d) {
    if (of % d == 0) return d;
  }
  return 1;
}

// The part of the problem that goes through at once: some samples whole, or some heads of one.
Sdpa BackwardGroup(Sdpa p) {
  const int64_t padded = CeilDiv(p.length, 128) * 128;
  const int64_t head = padded * padded * 2;
  const int64_t sample = p.heads * head;
  if (sample <= kWorkspace) {
    p.rows = LargestDivisor(p.rows, kWorkspace / sample);
  } else {
    p.rows = 1;
    p.heads = LargestDivisor(p.heads, kWorkspace / head);
  }
  return p;
}

Tensor Packed(Stream& stream, const AttentionArgs<bf16>& n) {
  const int64_t pieces = n.tokens() * n.heads * n.width() / 8;
  Tensor k =
      Tensor::Empty(stream, DType::kBf16, {n.tokens(), n.heads, n.width()}, MemoryTag::kWorkspace);
  Launch(stream, PackKeys, dim3(static_cast<unsigned>(CeilDiv(pieces, kThreads))), kThreads, 0, n,
         Data<bf16>(k), pieces);
  return k;
}

}  // namespace

bool AttentionCudnnServes(Stream& stream, const AttentionArgs<bf16>& n, bool backward) {
  if (n.nope % 8 != 0 || n.rope % 8 != 0 || n.value % 8 != 0 || n.rope == 0) return false;
  if (!OnSixteenBytes(n)) return false;
  if (n.width() > 256 || n.value > 256 || n.length < kShortest) return false;
  const Sdpa p = Problem(n);
  return SdpaServes(stream, backward ? BackwardGroup(p) : p, backward);
}

void AttentionCudnn(Stream& stream, const AttentionArgs<bf16>& n) {
  const Tensor k = Packed(stream, n);
  SdpaForward(stream, Problem(n), n.q, k.raw(), n.kv + n.nope, n.out, n.lse_out);
}

void AttentionGradCudnn(Stream& stream, const AttentionArgs<bf16>& n, bf16* dk_pe) {
  const Tensor k = Packed(stream, n);
  Tensor dk = Tensor::Empty(stream, DType::kBf16, k.shape(), MemoryTag::kWorkspace);
  const Sdpa all = Problem(n);
  const Sdpa part = BackwardGroup(all);
  for (int64_t row = 0; row < n.rows; row += part.rows) {
    for (int64_t h = 0; h < n.heads; h += part.heads) {
      const int64_t first = row * n.length;
      const int64_t q = first * all.q_stride + h * all.width;
      const int64_t v = first * all.v_stride + h * all.v_step + n.nope;
      const int64_t out = first * all.out_stride + h * all.value;
      SdpaBackward(stream, part, n.q + q, Data<bf16>(k) + q, n.kv + v, n.saved_out + out,
                   n.lse + first * n.heads + h, n.dout + out, n.dq + q, Data<bf16>(dk) + q,
                   n.dkv + v);
    }
  }
  const int groups = static_cast<int>(std::min<int64_t>(kThreads / (n.rope / 8), n.heads));
  Launch(stream, UnpackKeyGrads, dim3(static_cast<unsigned>(n.tokens())), kThreads,
         sizeof(float) * static_cast<size_t>(groups * n.rope), n, Data<bf16>(dk), dk_pe);
}

}  // namespace mneme::gpu
