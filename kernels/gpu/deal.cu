// Tokens dealt to the owners of their experts, in two kernels: blocks of neighbouring tokens count
// the rows and pairs of each owner; then each block adds up the counts of all, which gives its rows
// their places, and writes them. Whoever adds, sums of integers are the same.
//
// A block takes 256 tokens at once, one a thread: a ballot of a warp for each owner puts its tokens
// in order, a list of them by owner stands in shared memory, and the rows of an owner, which lie
// side by side, are written as one run of elements, four at a time.
//
// Floor: T tokens of K experts that make S rows: 4 K T bytes read twice, though not from memory,
// the weights once, 8 K + 4 bytes a row written: 13,568 tokens of 6, 1.7 rows each, 2 MB, 217,095
// of them 32 MB, 1 and 8 µs of copying beside the time of two launches.
#include <algorithm>
#include <limits>

#include "kernels/core/deal_blocks.h"
#include "kernels/gpu/device/chain.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/deal.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = static_cast<int>(kDealTile);
constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kAtOnce = 8;  // experts of a token in registers
constexpr int kGroup = 4;   // elements written at once

struct Owners {
  int32_t starts[kMostOwners + 1];
  int32_t owners;
};

struct Thread {
  int number = static_cast<int>(threadIdx.x);
  int warp = number / kLanes;
  int lane = number % kLanes;
};

// The chosen experts of one token and their owners, kAtOnce at a time: f(owner), with kNobody where
// there is no expert. All threads of a warp call it together.
constexpr int kNobody = -1;
template <class F>
__device__ __forceinline__ void ForOwnersOf(const Owners& o, const int32_t* __restrict__ experts,
                                            int64_t tokens, int k, int64_t t, F&& f) {
  const int32_t* const chosen = experts + t * k;
  const int32_t total = o.starts[o.owners];
  for (int first = 0; first < k; first += kAtOnce) {
    int32_t expert[kAtOnce];
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) {
      const bool there = t < tokens && first + a < k;
      expert[a] = there ? __ldg(chosen + first + a) : kNobody;
      if (there && (expert[a] < 0 || expert[a] >= total)) __trap();
    }
    int owner[kAtOnce];
#pragma unroll
    for (int a = 0; a < kAtOnce; ++a) owner[a] = expert[a] < 0 ? kNobody : 0;
    for (int d = 1; d < o.owners; ++d) {
      const int32_t start = o.starts[d];
#pragma unroll
      for (int a = 0; a < kAtOnce; ++a) owner[a] += expert[a] >= start ? 1 : 0;
    }
    f(owner);
  }
}

// Bit d: whether owner d has any of them.
__device__ __forceinline__ uint64_t With(uint64_t mask, const int (&owner)[kAtOnce]) {
#pragma unroll
  for (int a = 0; a < kAtOnce; ++a) mask |= owner[a] < 0 ? 0 : uint64_t{1} << owner[a];
  return mask;
}

__device__ __forceinline__ unsigned Ballot(uint64_t mask, int d) {
  return __ballot_sync(kAllLanes, (mask >> d & 1) != 0);
}

// The warps of a block over all owners, several to one where they are few: f(owner, number, size)
// by whole warps, with a thread's number in the team that the owner has, and the team's threads.
template <class F>
__device__ __forceinline__ void ForEachOwner(int owners, F&& f) {
  const Thread thread;
  const int warps = max(1, kWarps / owners);
  for (int unit = thread.warp; unit < owners * warps; unit += kWarps) {
    f(unit / warps, unit % warps * kLanes + thread.lane, warps * kLanes);
  }
}

// rows, pairs [owners, blocks]. A block takes `each` tiles.
__global__ void __launch_bounds__(kThreads)
    Count(const __grid_constant__ Owners o, const int32_t* __restrict__ experts, int64_t tokens,
          int k, int each, uint32_t* rows, uint32_t* pairs) {
  __shared__ uint32_t block_rows[kMostOwners], block_pairs[kMostOwners];
  const Thread thread;
  LetTheNextStart();
  if (thread.number < o.owners) block_rows[thread.number] = block_pairs[thread.number] = 0;
  __syncthreads();
  for (int tile = 0; tile < each; ++tile) {
    const int64_t begin = (static_cast<int64_t>(blockIdx.x) * each + tile) * kDealTile;
    if (begin >= tokens) break;
    uint64_t mask = 0;
    ForOwnersOf(o, experts, tokens, k, begin + thread.number, [&](const int(&owner)[kAtOnce]) {
      mask = With(mask, owner);
      for (int d = 0; d < o.owners; ++d) {
        unsigned mine = 0;
#pragma unroll
        for (int a = 0; a < kAtOnce; ++a) mine += owner[a] == d ? 1 : 0;
        const unsigned all = __reduce_add_sync(kAllLanes, mine);
        if (thread.lane == 0) atomicAdd(&block_pairs[d], all);
      }
    });
    for (int d = 0; d < o.owners; ++d) {
      const unsigned all = __popc(Ballot(mask, d));
      if (thread.lane == 0) atomicAdd(&block_rows[d], all);
    }
  }
  __syncthreads();
  if (thread.number >= o.owners) return;
  const int at = thread.number * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  rows[at] = block_rows[thread.number];
  pairs[at] = block_pairs[thread.number];
}

// Four neighbours, from an element whose number divides by four.
__device__ __forceinline__ void Store(int32_t* to, const int32_t (&x)[kGroup]) {
  *reinterpret_cast<int4*>(to) = make_int4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void Store(float* to, const float (&x)[kGroup]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void Store(bf16* to, const bf16 (&x)[kGroup]) {
  const __nv_bfloat162 pairs[2] = {{x[0], x[1]}, {x[2], x[3]}};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
}

// Dynamic shared memory: a byte for each (owner, token of a tile).
template <class T>
__global__ void __launch_bounds__(kThreads)
    WriteRows(const __grid_constant__ Owners o, const int32_t* __restrict__ experts,
              const T* __restrict__ weights, int64_t tokens, int k, int each,
              const uint32_t* __restrict__ rows, const uint32_t* __restrict__ pairs, int32_t* sent,
              int32_t* sent_experts, T* sent_weights, int64_t* counts) {
  extern __shared__ uint8_t lists[];
  __shared__ uint32_t of_all[kMostOwners], pairs_of_all[kMostOwners], before[kMostOwners];
  __shared__ uint32_t first[kMostOwners];  // of the tile's rows
  __shared__ uint32_t of_tile[kMostOwners];
  __shared__ uint32_t of_warp[kWarps][kMostOwners];  // then what the warps before it have
  const Thread thread;
  const int blocks = static_cast<int>(gridDim.x);
  const int me = static_cast<int>(blockIdx.x);
  const int own = thread.number;  // the owner that this thread cares for, if there are as many
  if (own < o.owners) of_all[own] = pairs_of_all[own] = before[own] = of_tile[own] = 0;
  AwaitTheOneBefore();
  __syncthreads();
  ForEachOwner(o.owners, [&](int d, int number, int size) {
    unsigned all = 0, less = 0, all_pairs = 0;
#pragma unroll 8
    for (int b = number; b < blocks; b += size) {
      const unsigned n = __ldg(rows + d * blocks + b);
      all += n;
      less += b < me ? n : 0;
    }
    if (me == 0) {
      for (int b = number; b < blocks; b += size) all_pairs += __ldg(pairs + d * blocks + b);
    }
    all = __reduce_add_sync(kAllLanes, all);
    less = __reduce_add_sync(kAllLanes, less);
    all_pairs = __reduce_add_sync(kAllLanes, all_pairs);
    if (thread.lane != 0) return;
    atomicAdd(&of_all[d], all);
    atomicAdd(&before[d], less);
    atomicAdd(&pairs_of_all[d], all_pairs);
  });
  __syncthreads();
  if (own < o.owners) {
    uint32_t at = before[own];
    for (int d = 0; d < own; ++d) at += of_all[d];
    first[own] = at;
    if (me == 0) {
      counts[2 * own] = of_all[own];
      counts[2 * own + 1] = pairs_of_all[own];
    }
  }
  for (int tile = 0; tile < each; ++tile) {
    const int64_t begin = (static_cast<int64_t>(me) * each + tile) * kDealTile;
    if (begin >= tokens) break;
    uint64_t mask = 0;
    ForOwnersOf(o, experts, tokens, k, begin + thread.number,
                [&](const int(&owner)[kAtOnce]) { mask = With(mask, owner); });
    for (int d = 0; d < o.owners; ++d) {
      const unsigned with = Ballot(mask, d);
      if (thread.lane == 0) of_warp[thread.warp][d] = __popc(with);
    }
    __syncthreads();
    if (own < o.owners) {
      first[own] += of_tile[own];  // of the tile before
      uint32_t sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const uint32_t n = of_warp[w][own];
        of_warp[w][own] = sum;
        sum += n;
      }
      of_tile[own] = sum;
    }
    __syncthreads();
    for (int d = 0; d < o.owners; ++d) {
      const unsigned with = Ballot(mask, d);
      if ((with >> thread.lane & 1) == 0) continue;
      const unsigned at = of_warp[thread.warp][d] + __popc(with & ((1u << thread.lane) - 1));
      lists[d * kThreads + at] = static_cast<uint8_t>(thread.number);
    }
    __syncthreads();
    ForEachOwner(o.owners, [&](int d, int number, int size) {
      const uint8_t* const list = lists + d * kThreads;
      const int n = static_cast<int>(of_tile[d]);
      const int64_t row = first[d];
      for (int i = number; i < n; i += size) sent[row + i] = static_cast<int32_t>(begin) + list[i];
      // Their elements are [skew, skew + n k) from a multiple of four on.
      const int32_t first_expert = o.starts[d], end_expert = o.starts[d + 1];
      const int skew = static_cast<int>(row * k % kGroup);
      const int end = skew + n * k;
      int32_t* const to_experts = sent_experts + (row * k - skew);
      T* const to_weights = sent_weights + (row * k - skew);
      const int32_t* const of_experts = experts + begin * k;
      const T* const of_weights = weights + begin * k;
      for (int at = number * kGroup; at < end; at += size * kGroup) {
        const int from = max(at, skew);
        int i = (from - skew) / k;
        int j = (from - skew) - i * k;
        int32_t x[kGroup];
        T w[kGroup];
#pragma unroll
        for (int a = 0; a < kGroup; ++a) {
          if (at + a < from || at + a >= end) continue;
          const int pair = list[i] * k + j;
          const int32_t expert = __ldg(of_experts + pair);
          const bool here = expert >= first_expert && expert < end_expert;
          x[a] = here ? expert - first_expert : -1;
          w[a] = here ? of_weights[pair] : T(0.0f);
          if (++j == k) {
            j = 0;
            ++i;
          }
        }
        if (from == at && at + kGroup <= end) {
          Store(to_experts + at, x);
          Store(to_weights + at, w);
          continue;
        }
#pragma unroll
        for (int a = 0; a < kGroup; ++a) {
          if (at + a < from || at + a >= end) continue;
          to_experts[at + a] = x[a];
          to_weights[at + a] = w[a];
        }
      }
    });
  }
}

}  // namespace

void DealTokens(Stream& stream, const Tensor& experts, const Tensor& weights,
                absl::Span<const int64_t> starts, Tensor& sent, Tensor& sent_experts,
                Tensor& sent_weights, Tensor& counts) {
  const int64_t tokens = experts.dim(0);
  const int64_t k = experts.dim(1);
  const int64_t owners = counts.dim(0);
  CHECK_LE(owners, int64_t{kMostOwners});
  CHECK_EQ(owners + 1, static_cast<int64_t>(starts.size()));
  CHECK_EQ(starts[0], int64_t{0});
  CHECK_GE(sent.elements(), tokens * std::min(k, owners));
  CHECK_LT(tokens * std::max(owners, k), int64_t{std::numeric_limits<int32_t>::max()});
  if (tokens == 0) return Zero(stream, counts);
  Owners o = {};
  o.owners = static_cast<int32_t>(owners);
  for (size_t d = 0; d < starts.size(); ++d) o.starts[d] = static_cast<int32_t>(starts[d]);
  const int64_t blocks = DealBlocks(tokens, owners);
  const auto each = static_cast<int>(CeilDiv(CeilDiv(tokens, kDealTile), blocks));
  Tensor parts = Tensor::Empty(stream, DType::kI32, {2, owners, blocks}, MemoryTag::kWorkspace);
  auto* const rows = reinterpret_cast<uint32_t*>(Data<int32_t>(parts));
  uint32_t* const pairs = rows + owners * blocks;
  const dim3 grid(static_cast<unsigned>(blocks));
  Launch(stream, Count, grid, kThreads, 0, o, Data<int32_t>(experts), tokens, static_cast<int>(k),
         each, rows, pairs);
  const auto write = [&](auto zero) {
    using T = decltype(zero);
    const auto lists = static_cast<size_t>(owners * kThreads);
    LaunchChained(stream, WriteRows<T>, grid, kThreads, lists, o, Data<int32_t>(experts),
                  Data<T>(weights), tokens, static_cast<int>(k), each, rows, pairs,
                  Data<int32_t>(sent), Data<int32_t>(sent_experts), Data<T>(sent_weights),
                  Data<int64_t>(counts));
  };
  DispatchActivation(weights.dtype(), write);
}

}  // namespace mneme::gpu
