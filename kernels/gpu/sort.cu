// Requests in rising order of their rows: a radix sort (CUB) of 32-bit row numbers and request
// numbers over just the bits that rows have, and the list of places where a row begins. Stable, so
// requests of one row keep their order and the result is the same every time.
//
// n requests among R rows: ⌈log2 R / 8⌉ passes of 16 n bytes, 24 n to make the keys, 4 n to find
// the heads. 4 M requests among 22 M rows: 0.37 GB, 86 µs at 4.3 TB/s.
#include <thrust/iterator/counting_iterator.h>

#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_select.cuh>
#include <limits>

#include "kernels/gpu/launch.cuh"
#include "kernels/gpu/sort.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;

dim3 BlocksOf(Stream& stream, int64_t items) {
  const int64_t most = int64_t{QueueOf(stream).multiprocessors} * 16;
  return dim3(static_cast<unsigned>(std::min(CeilDiv(items, kThreads), most)));
}

__device__ __forceinline__ int64_t ThreadNumber() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t Threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

template <class Id>
struct IdParts {
  const Id* part[kMostParts];
  uint32_t rows;  // of a part
};

template <class Id>
__global__ void NumberRequests(const __grid_constant__ IdParts<Id> ids, int64_t n, int64_t rows,
                               uint32_t* keys, int32_t* order) {
  for (int64_t i = ThreadNumber(); i < n; i += Threads()) {
    const uint32_t p = static_cast<uint32_t>(i) / ids.rows;
    const int64_t row = ids.part[p][static_cast<uint32_t>(i) - p * ids.rows];
    if (row < 0 || row >= rows) __trap();
    keys[i] = static_cast<uint32_t>(row);
    order[i] = static_cast<int32_t>(i);
  }
}

template <class Id>
void NumberParts(Stream& stream, RowParts ids, int64_t n, int64_t rows, uint32_t* keys,
                 int32_t* order) {
  IdParts<Id> parts = {};
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK_EQ(ids[i].elements(), ids[0].elements());
    parts.part[i] = Data<Id>(ids[i]);
  }
  parts.rows = static_cast<uint32_t>(ids[0].elements());
  Launch(stream, NumberRequests<Id>, BlocksOf(stream, n), kThreads, 0, parts, n, rows, keys, order);
}

// Whether a new key begins at a place of the sorted keys.
struct Begins {
  const int32_t* keys;
  __device__ __forceinline__ bool operator()(int32_t place) const {
    return place == 0 || keys[place - 1] != keys[place];
  }
};

// Keys of some requests: ids[i], i = chosen[k].
__global__ void NumberChosen(const int32_t* ids, const int32_t* chosen, int64_t n, int64_t rows,
                             uint32_t* keys, int32_t* order) {
  for (int64_t k = ThreadNumber(); k < n; k += Threads()) {
    const int32_t i = chosen[k];
    const int32_t row = ids[i];
    if (row < 0 || row >= rows) __trap();
    keys[k] = static_cast<uint32_t>(row);
    order[k] = i;
  }
}

// Scratch of a CUB call: f(scratch, bytes) says how much where scratch is null, else runs.
template <class F>
void WithScratch(Stream& stream, F&& f) {
  size_t bytes = 0;
  Check(f(nullptr, bytes));
  Tensor scratch =
      Tensor::Empty(stream, DType::kU8, {static_cast<int64_t>(std::max(bytes, size_t{1}))},
                    MemoryTag::kWorkspace);
  Check(f(scratch.raw(), bytes));
}

__global__ void AddSeen(int64_t requests, const int64_t* distinct, int64_t* seen) {
  seen[0] += requests;
  seen[1] += *distinct;
}

// number(keys, order) queues what makes the n keys in [0, rows), and the requests that they are of.
template <class F>
void SortNumbered(Stream& stream, int64_t n, int64_t rows, RowGroups& groups, F&& number) {
  CHECK_LT(std::max(n, rows), int64_t{std::numeric_limits<int32_t>::max()});
  const auto make = [&] { return Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange); };
  Tensor keys[2] = {make(), make()};
  Tensor orders[2] = {make(), make()};
  groups.keys = keys[0];
  groups.order = orders[0];
  if (n == 0) return;
  const auto words = [](Tensor& t) { return reinterpret_cast<uint32_t*>(Data<int32_t>(t)); };
  cub::DoubleBuffer<uint32_t> key(words(keys[0]), words(keys[1]));
  cub::DoubleBuffer<int32_t> order(Data<int32_t>(orders[0]), Data<int32_t>(orders[1]));
  number(key.Current(), order.Current());
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(rows - 1))));
  WithScratch(stream, [&](void* scratch, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(scratch, bytes, key, order, static_cast<int>(n), 0, bits,
                                           QueueOf(stream).stream);
  });
  groups.keys = keys[key.selector];
  groups.order = orders[order.selector];
}

}  // namespace

void SortRows(Stream& stream, RowParts ids, int64_t rows, RowGroups& groups) {
  CHECK_LE(ids.size(), size_t{kMostParts});
  const int64_t n = ids.empty() ? 0 : ids[0].elements() * static_cast<int64_t>(ids.size());
  SortNumbered(stream, n, rows, groups, [&](uint32_t* keys, int32_t* order) {
    if (ids[0].dtype() == DType::kI32) {
      NumberParts<int32_t>(stream, ids, n, rows, keys, order);
    } else {
      NumberParts<int64_t>(stream, ids, n, rows, keys, order);
    }
  });
}

void SortChosen(Stream& stream, const Tensor& ids, const Tensor& chosen, int64_t rows,
                RowGroups& groups) {
  const int64_t n = chosen.elements();
  SortNumbered(stream, n, rows, groups, [&](uint32_t* keys, int32_t* order) {
    Launch(stream, NumberChosen, BlocksOf(stream, n), kThreads, 0, Data<int32_t>(ids),
           Data<int32_t>(chosen), n, rows, keys, order);
  });
}

void GroupRows(Stream& stream, RowParts ids, int64_t rows, RowGroups& groups, Tensor& seen) {
  SortRows(stream, ids, rows, groups);
  const int64_t n = groups.keys.elements();
  groups.heads = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
  groups.count = Tensor::Zeros(stream, DType::kI64, {1}, MemoryTag::kExchange);
  if (n == 0) return;
  const Begins begins{Data<int32_t>(groups.keys)};
  WithScratch(stream, [&](void* scratch, size_t& bytes) {
    return cub::DeviceSelect::If(scratch, bytes, thrust::counting_iterator<int32_t>(0),
                                 Data<int32_t>(groups.heads), Data<int64_t>(groups.count),
                                 static_cast<int>(n), begins, QueueOf(stream).stream);
  });
  if (!seen.defined()) return;
  Launch(stream, AddSeen, 1, 1, 0, n, Data<int64_t>(groups.count), Data<int64_t>(seen));
}

}  // namespace mneme::gpu
