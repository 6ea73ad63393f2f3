// Distinct ids by owner, without a sort: a table whose slots are claimed by requests.
//
// - Claim: every request looks for its id from the slot of the id's hash on. The first to come
//   takes a free slot, and the least request of an id keeps it (atomicMin). Which slot that is
//   depends on who came first, but nobody asks: of a slot only the request is read.
// - CountFirst: with all claims made, requests read the first request of their id; each block
// counts
//   by owner those that are first.
// - PlaceFirst: counts of the blocks before say where a block's first requests go, ballots where in
//   it. So places follow from the requests alone, the same every time.
// - PlaceAll: every request reads the place of the first one.
//
// n requests, a table of 2 n to 4 n slots: 8 n bytes of ids three times, 4 n of scattered slots
// twice, 4 n of numbers about eight times: 0.13 M requests, 9 MB in caches.
#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/rows.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kLeastTurns = 4;     // requests of a thread
constexpr int64_t kMostBlocks = 1024;  // each reads the counts of all others
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int32_t kFree = -1;

// What is asked for, and how it is cut: a block has `turns` requests a thread, neighbours in a
// warp.
struct Requests {
  const int64_t* ids;
  int32_t n;
  int32_t owners;
  int64_t rows;
  int32_t turns;

  __device__ __forceinline__ int64_t BlockBegin() const {
    return static_cast<int64_t>(blockIdx.x) * turns * kThreads;
  }
  __device__ __forceinline__ int Owner(int64_t id) const {
    return owners == 1 ? 0 : static_cast<int>(id % owners);
  }
};

__global__ void __launch_bounds__(kThreads)
    Claim(Requests asked, int bits, int32_t* slots, int32_t* slot_of) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= asked.n) return;
  const auto me = static_cast<int32_t>(i);
  const int64_t id = asked.ids[me];
  if (id < 0 || id >= asked.rows) __trap();
  auto at = static_cast<uint32_t>((static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15) >> (64 - bits));
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  for (;; at = (at + 1) & mask) {
    // What is read here may be old: then it is free, or a later request of the same id.
    int32_t held = *static_cast<volatile int32_t*>(slots + at);
    if (held == kFree) held = atomicCAS(slots + at, kFree, me);
    if (held == kFree) break;
    if (asked.ids[held] != id) continue;
    if (held > me) atomicMin(slots + at, me);
    break;
  }
  slot_of[me] = static_cast<int32_t>(at);
}

// slot_of becomes the first request of each. counts [owners, blocks].
__global__ void __launch_bounds__(kThreads)
    CountFirst(Requests asked, const int32_t* slots, int32_t* slot_of, int32_t* counts) {
  extern __shared__ int32_t of_owner[];
  const int t = static_cast<int>(threadIdx.x);
  for (int o = t; o < asked.owners; o += kThreads) of_owner[o] = 0;
  __syncthreads();
  for (int turn = 0; turn < asked.turns; ++turn) {
    const int64_t i = asked.BlockBegin() + turn * kThreads + t;
    if (i >= asked.n) break;
    const int32_t first = slots[slot_of[i]];
    slot_of[i] = first;
    if (first == i) atomicAdd(of_owner + asked.Owner(asked.ids[i]), 1);
  }
  __syncthreads();
  for (int o = t; o < asked.owners; o += kThreads) {
    counts[static_cast<int64_t>(o) * gridDim.x + blockIdx.x] = of_owner[o];
  }
}

// Where a block's first requests begin, by owner, and what all blocks have. All threads call.
struct Begin {
  int32_t distinct;  // of all blocks
  int32_t before;    // of the blocks before this one, over all owners
};
__device__ __forceinline__ Begin FindBegin(const Requests& asked, const int32_t* block_counts,
                                           int32_t* begins, int32_t* totals, int64_t* counts) {
  __shared__ Begin found;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int o = warp; o < asked.owners; o += kWarps) {
    int32_t before = 0;
    int32_t all = 0;
    for (unsigned b = static_cast<unsigned>(lane); b < gridDim.x; b += kWarp) {
      const int32_t count = block_counts[static_cast<int64_t>(o) * gridDim.x + b];
      all += count;
      before += b < blockIdx.x ? count : 0;
    }
    before = WarpReduce(before);
    all = WarpReduce(all);
    if (lane == 0) {
      begins[o] = before;
      totals[o] = all;
    }
  }
  __syncthreads();
  if (warp == 0) {
    Begin so_far = {0, 0};
    for (int from = 0; from < asked.owners; from += kWarp) {
      const int o = from + lane;
      const int32_t total = o < asked.owners ? totals[o] : 0;
      int32_t through = total;  // up to and with this owner
#pragma unroll
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const int32_t left = __shfl_up_sync(kAllLanes, through, distance);
        if (lane >= distance) through += left;
      }
      if (o < asked.owners) {
        so_far.before += begins[o];
        begins[o] += so_far.distinct + through - total;
        if (blockIdx.x == 0) counts[o] = total;
      }
      so_far.distinct += __shfl_sync(kAllLanes, through, kWarp - 1);
    }
    so_far.before = WarpReduce(so_far.before);
    if (lane == 0) found = so_far;
  }
  __syncthreads();
  return found;
}

// Shared memory: owners · (1 + kWarps) numbers.
__global__ void __launch_bounds__(kThreads)
    PlaceFirst(Requests asked, const int32_t* first, const int32_t* block_counts, int64_t* unique,
               int32_t* order, int32_t* place, int64_t* counts) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t firsts_s[kWarps];
  int32_t* begins = shared;               // [owners]
  int32_t* next = shared + asked.owners;  // [warps, owners]
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % kWarp;
  const int warp = t / kWarp;
  const Begin begin = FindBegin(asked, block_counts, begins, next, counts);
  for (int i = t; i < kWarps * asked.owners; i += kThreads) next[i] = 0;
  __syncthreads();
  int32_t* mine = next + warp * asked.owners;
  const int64_t warp_begin = asked.BlockBegin() + warp * asked.turns * kWarp;
  // f(request, whether it is first, its id, its owner, the lanes with first requests of that owner)
  const auto walk = [&](auto&& f) {
    for (int turn = 0; turn < asked.turns; ++turn) {
      const int64_t i = warp_begin + turn * kWarp + lane;
      const bool is_first = i < asked.n && first[i] == i;
      const int64_t id = is_first ? asked.ids[i] : 0;
      const int owner = is_first ? asked.Owner(id) : -1;
      f(i, is_first, id, owner, __match_any_sync(kAllLanes, owner));
    }
  };
  const auto add = [&](int owner, unsigned peers) {
    __syncwarp();
    if (owner >= 0 && lane == __ffs(static_cast<int>(peers)) - 1) mine[owner] += __popc(peers);
    __syncwarp();
  };
  int32_t firsts = 0;
  walk([&](int64_t, bool is_first, int64_t, int owner, unsigned peers) {
    firsts += __popc(__ballot_sync(kAllLanes, is_first));
    add(owner, peers);
  });
  if (lane == 0) firsts_s[warp] = firsts;
  __syncthreads();
  for (int o = t; o < asked.owners; o += kThreads) {
    int32_t from = begins[o];
    for (int w = 0; w < kWarps; ++w) {
      const int32_t count = next[w * asked.owners + o];
      next[w * asked.owners + o] = from;
      from += count;
    }
  }
  int32_t before = begin.before;
  for (int w = 0; w < warp; ++w) before += firsts_s[w];
  __syncthreads();
  const unsigned lower = (1u << lane) - 1;
  walk([&](int64_t i, bool is_first, int64_t id, int owner, unsigned peers) {
    const unsigned all = __ballot_sync(kAllLanes, is_first);
    if (is_first) {
      const int32_t at = mine[owner] + __popc(peers & lower);
      unique[at] = asked.owners == 1 ? id : id / asked.owners;
      place[i] = at;
      if (order != nullptr) order[at] = static_cast<int32_t>(i);
    } else if (i < asked.n && order != nullptr) {
      order[begin.distinct + i - (before + __popc(all & lower))] = static_cast<int32_t>(i);
    }
    before += __popc(all);
    add(owner, peers);
  });
}

__global__ void __launch_bounds__(kThreads)
    PlaceAll(int32_t n, const int32_t* place, int32_t* inverse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) inverse[i] = place[inverse[i]];
}

}  // namespace

void UniqueIds(Stream& stream, const Tensor& ids, int64_t rows, Tensor& unique, Tensor& inverse,
               Tensor& order, Tensor& counts) {
  const int64_t n = ids.elements();
  const int64_t owners = counts.elements();
  CHECK_EQ(unique.elements(), n);
  CHECK_EQ(inverse.elements(), n);
  CHECK(!order.defined() || order.elements() == n);
  CHECK_LT(n, int64_t{1} << 30);
  if (n == 0) return Zero(stream, counts);
  const int64_t turns = std::max(kLeastTurns, CeilDiv(n, kMostBlocks * kThreads));
  const int64_t blocks = CeilDiv(n, turns * kThreads);
  const Requests asked{Data<int64_t>(ids), static_cast<int32_t>(n), static_cast<int32_t>(owners),
                       rows, static_cast<int32_t>(turns)};
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(2 * n - 1)));
  const auto make = [&](int64_t size) {
    return Tensor::Empty(stream, DType::kI32, {size}, MemoryTag::kWorkspace);
  };
  Tensor slots = make(int64_t{1} << bits);
  Tensor place = make(n);
  Tensor block_counts = make(owners * blocks);
  // All bytes of kFree are the same.
  Check(cudaMemsetAsync(slots.raw(), kFree, static_cast<size_t>(slots.bytes()),
                        QueueOf(stream).stream));
  const auto each = static_cast<unsigned>(CeilDiv(n, kThreads));
  const auto grid = static_cast<unsigned>(blocks);
  const size_t an_owner = sizeof(int32_t) * static_cast<size_t>(owners);
  Launch(stream, Claim, each, kThreads, 0, asked, bits, Data<int32_t>(slots),
         Data<int32_t>(inverse));
  Launch(stream, CountFirst, grid, kThreads, an_owner, asked, Data<int32_t>(slots),
         Data<int32_t>(inverse), Data<int32_t>(block_counts));
  Launch(stream, PlaceFirst, grid, kThreads, an_owner * (1 + kWarps), asked, Data<int32_t>(inverse),
         Data<int32_t>(block_counts), Data<int64_t>(unique), Data<int32_t>(order),
         Data<int32_t>(place), Data<int64_t>(counts));
  Launch(stream, PlaceAll, each, kThreads, 0, asked.n, Data<int32_t>(place),
         Data<int32_t>(inverse));
}

}  // namespace mneme::gpu
