// Rotary positions in place: one read and one write of the turned elements, bound by memory. A
// thread keeps the angles of a few pairs of one token in registers and turns them in several heads,
// whose elements it asks for first.
// Floor: T · H · 2 · pairs elements, twice, over the copy bandwidth; queries of the 27B shape
// (T 16,384, 32 heads, 32 pairs): 134 MB in bf16.
#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/rope.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 4;  // that a thread turns

struct Turn {
  int64_t tokens;
  int heads;
  int width;
  int begin;
  int pairs;
  float sign;
};

// kN elements, kN / 2 pairs at once.
template <class A, int kN>
__global__ void __launch_bounds__(kThreads)
    TurnKernel(A* x, const float* table, const int32_t* positions, Turn a) {
  const int groups = a.pairs * 2 / kN;
  const int head_groups = (a.heads + kHeads - 1) / kHeads;
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int per_token = groups * head_groups;
  const int64_t token = item / per_token;
  if (token >= a.tokens) return;
  const int rest = static_cast<int>(item % per_token);
  const int head = rest / groups * kHeads;
  const int column = rest % groups * kN;
  A* v = x + (token * a.heads + head) * a.width + a.begin + column;
  float value[kHeads][kN];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (head + h < a.heads) LoadFloats<kN>(v + h * a.width, value[h]);
  }
  float turn[kN];  // cos, sin of each pair
  const float* from = table + int64_t{positions[token]} * a.pairs * 2 + column;
#pragma unroll
  for (int i = 0; i < kN; i += 4) {
    const float4 two = *reinterpret_cast<const float4*>(from + i);
    turn[i] = two.x;
    turn[i + 1] = two.y;
    turn[i + 2] = two.z;
    turn[i + 3] = two.w;
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (head + h >= a.heads) break;
#pragma unroll
    for (int i = 0; i < kN; i += 2) {
      const float c = turn[i];
      const float s = a.sign * turn[i + 1];
      const float re = value[h][i];
      const float im = value[h][i + 1];
      value[h][i] = re * c - im * s;
      value[h][i + 1] = re * s + im * c;
    }
    StoreFloats<kN>(v + h * a.width, value[h]);
  }
}

// A pair of any alignment.
template <class A>
__global__ void __launch_bounds__(kThreads)
    TurnPairsKernel(A* x, const float* table, const int32_t* positions, Turn a) {
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = item / a.pairs;  // token and head
  if (row >= a.tokens * a.heads) return;
  const int64_t pair = item % a.pairs;
  const float* turn = table + (int64_t{positions[row / a.heads]} * a.pairs + pair) * 2;
  A* v = x + row * a.width + a.begin + 2 * pair;
  const float c = turn[0];
  const float s = a.sign * turn[1];
  const float re = ToFloat(v[0]);
  const float im = ToFloat(v[1]);
  v[0] = FromFloat<A>(re * c - im * s);
  v[1] = FromFloat<A>(re * s + im * c);
}

dim3 Blocks(int64_t items) { return dim3(static_cast<unsigned>(CeilDiv(items, kThreads))); }

}  // namespace

void Rope(Stream& stream, Tensor& x, int64_t begin, const Tensor& table, const Tensor& positions,
          bool inverse) {
  CHECK_EQ(x.shape().rank(), 3);
  const int64_t pairs = table.dim(1);
  CHECK_LE(begin + 2 * pairs, x.dim(2));
  CHECK_EQ(positions.elements(), x.dim(0));
  const Turn a{x.dim(0),
               static_cast<int>(x.dim(1)),
               static_cast<int>(x.dim(2)),
               static_cast<int>(begin),
               static_cast<int>(pairs),
               inverse ? -1.0f : 1.0f};
  if (x.elements() == 0 || pairs == 0) return;
  const auto* at = Data<int32_t>(positions);
  DispatchActivation(x.dtype(), [&](auto real) {
    using A = decltype(real);
    constexpr int kN = kVec<A>;
    if (a.width % kN == 0 && a.begin % kN == 0 && a.pairs * 2 % kN == 0) {
      const int64_t items = a.tokens * (a.pairs * 2 / kN) * CeilDiv(a.heads, kHeads);
      Launch(stream, TurnKernel<A, kN>, Blocks(items), kThreads, 0, Data<A>(x), Data<float>(table),
             at, a);
    } else {
      Launch(stream, TurnPairsKernel<A>, Blocks(a.tokens * a.heads * a.pairs), kThreads, 0,
             Data<A>(x), Data<float>(table), at, a);
    }
  });
}

}  // namespace mneme::gpu
