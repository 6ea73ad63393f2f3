// The versions of the attention op on a GPU. kernels/gpu/attention.cu chooses.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/attention.h"

namespace mneme::gpu {

// Pointers of one call in the activations' type T; what a pass does not touch is null. Layouts of
// kernels/ops/attention.h.
template <class T>
struct AttentionArgs {
  int64_t rows, length, heads;  // rows: samples
  int nope, rope, value;        // widths of a head
  float scale;                  // of the scores, YaRN's share included
  const T* q;                   // [T, H, nope + rope], T = rows · length
  const T* kv;                  // [T, H, nope + value]
  const T* k_pe;                // [T, rope]
  const int32_t* start;         // [T] position of the first key that a query sees
  T* out;                       // [T, H, value]
  float* lse_out;               // forward: [T, H], natural logarithm
  const float* lse;             // backward
  const T* saved_out;           // backward
  const T* dout;
  float* delta;  // [T, H] Σ dout · out
  T* dq;         // as q and kv, assigned
  T* dkv;
  float* dk_pe_head;  // [T, H, rope]: each head's share of dk_pe

  __host__ __device__ int width() const { return nope + rope; }
  __host__ __device__ int64_t tokens() const { return rows * length; }
};

// Rows of a matrix in one or two pieces: columns before `split` in a, the others in b.
template <class T>
struct AttentionRows {
  const T* a;
  int64_t a_stride;
  int split;
  const T* b;
  int64_t b_stride;

  // REQUIRES: where more than one column is read from here, they lie in one piece.
  __device__ const T* At(int64_t row, int column) const {
    return column < split ? a + row * a_stride + column : b + row * b_stride + (column - split);
  }
};

// One head of one sample, by positions of the sample. row_and_head: sample · heads + head.
template <class T>
struct AttentionHead {
  AttentionRows<T> q, k, v, dout;
  const int32_t* start;
  const float* lse;    // of position t at t · heads
  const float* delta;  // likewise
  int64_t first;       // token of position 0
  int64_t head;

  __device__ AttentionHead(const AttentionArgs<T>& n, int64_t row_and_head) {
    first = row_and_head / n.heads * n.length;
    head = row_and_head % n.heads;
    const int64_t pair = n.nope + n.value;
    const T* kv = n.kv + (first * n.heads + head) * pair;
    q = Whole(n.q, n.width(), n);
    k = {kv, n.heads * pair, n.nope, n.k_pe + first * n.rope, n.rope};
    v = {kv + n.nope, n.heads * pair, n.value, nullptr, 0};
    dout = Whole(n.dout, n.value, n);
    start = n.start + first;
    lse = n.lse + first * n.heads + head;
    delta = n.delta + first * n.heads + head;
  }

 private:
  __device__ AttentionRows<T> Whole(const T* all, int width, const AttentionArgs<T>& n) const {
    return {all + (first * n.heads + head) * width, n.heads * width, width, nullptr, 0};
  }
};

// Whether every tensor at hand begins on 16 bytes.
inline bool OnSixteenBytes(const AttentionArgs<bf16>& n) {
  const auto at = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  return (at(n.q) | at(n.kv) | at(n.k_pe) | at(n.out) | at(n.saved_out) | at(n.dout) | at(n.dq) |
          at(n.dkv)) %
             16 ==
         0;
}

// All queue their work on the stream. A gradient writes dq, dkv and dk_pe_head; that of cuDNN makes
// dk_pe itself. documents: false where `start` is 0 throughout.
//
// attention.cu: any width, plain fp32 arithmetic.
template <class T>
void AttentionPlain(Stream& stream, const AttentionArgs<T>& n);
template <class T>
void AttentionGradPlain(Stream& stream, const AttentionArgs<T>& n);

// attention_mma.cu: bf16 tensor cores of any GPU since sm_80. REQUIRES: AttentionMmaServes.
bool AttentionMmaServes(const AttentionShape& n);
void AttentionMma(Stream& stream, const AttentionArgs<bf16>& n);
void AttentionGradMma(Stream& stream, const AttentionArgs<bf16>& n);

// attention_sm90.cu: the paper's widths (128 + 64 and 128) and those of the sweeps (64 + 32 and 64,
// 48 + 16 and 64).
bool AttentionHopperServes(Stream& stream, const AttentionArgs<bf16>& n);
void AttentionHopper(Stream& stream, const AttentionArgs<bf16>& n, bool documents);
// attention_grad_sm90.cu: the same; makes its own deltas.
void AttentionGradHopper(Stream& stream, const AttentionArgs<bf16>& n, bool documents);

// attention_cudnn.cu: causal, without documents.
bool AttentionCudnnServes(Stream& stream, const AttentionArgs<bf16>& n, bool backward);
void AttentionCudnn(Stream& stream, const AttentionArgs<bf16>& n);
void AttentionGradCudnn(Stream& stream, const AttentionArgs<bf16>& n, bf16* dk_pe);

}  // namespace mneme::gpu
