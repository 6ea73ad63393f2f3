// Rows by id: gather, with conversion, and scatter-add in a fixed order; rows of distinct ids to
// their requests, and sums back.
//
// gather_rows: device/gather.cuh. Floor: W (bytes read + bytes written) a row over the copy
// bandwidth; the paper's rows (80 f32 to bf16): 480 bytes.
// scatter_add_rows: requests sorted by row (sort.cu), summed in tiles (device/row_sums.cuh), each
// sum added to its row once. Floor: W a bytes a request, 8 W a distinct row; besides, the sort.
// Embedding of 32,768 tokens, D 512, bf16: 34 + 2 · 2 · (distinct tokens / 1,000) MB, 15 µs.
// sum_unique: the gradient of each first request is its sum so far, a gather; the other requests
// alone are sorted and added. Floor: W a bytes a request, 4 W a distinct row.
// deal_rows: a gather from two places. Floor: W b bytes a request, W b a row that came, 4 W one of
// the table.
#include "kernels/gpu/device/gather.cuh"
#include "kernels/gpu/device/row_sums.cuh"
#include "kernels/gpu/sort.h"
#include "kernels/ops/rows.h"

namespace mneme::gpu {
namespace {

// Finds the rows of the block's tile, find(request) each, and gathers them.
template <class Row, int N, class Y, class Find>
__device__ __forceinline__ void GatherFound(int64_t n, int width, int lanes, Y* out,
                                            const Find& find) {
  __shared__ Row rows_s[kMostGatherTile];
  const int tile = static_cast<int>(blockDim.x) / lanes * kGatherRows;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile;
  for (int j = static_cast<int>(threadIdx.x); j < tile; j += static_cast<int>(blockDim.x)) {
    if (first + j < n) rows_s[j] = find(first + j);
  }
  __syncthreads();
  GatherTile<N>(first, n, width, lanes, out, [&](int j) { return rows_s[j]; });
}

template <class X, class Y, int N, class Id>
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocks)
    Gather(const X* table, int64_t rows, const Id* ids, int64_t n, int width, int lanes, Y* out) {
  GatherFound<RowAt<X>, N>(n, width, lanes, out, [&](int64_t i) {
    const int64_t id = ids[i];
    if (id < 0 || id >= rows) __trap();
    return RowAt<X>{table + id * width};
  });
}

template <class F>
void WithIds(const Tensor& ids, F&& f) {
  if (ids.dtype() == DType::kI32) {
    f(Data<int32_t>(ids));
  } else {
    f(Data<int64_t>(ids));
  }
}

constexpr int kLeastPlaces = 4;  // of a team that adds to rows

// Every sum goes to its row.
struct AddToRows {
  const int32_t* keys;
  int width;
  float* table;

  template <int N>
  __device__ __forceinline__ void Whole(int place, int column, const float (&sum)[N]) const {
    float* to = table + static_cast<int64_t>(keys[place]) * width + column;
    float row[N];
    LoadColumns<N>(to, row);
#pragma unroll
    for (int i = 0; i < N; ++i) row[i] += sum[i];
    StoreColumns<N>(to, row);
  }
  __device__ __forceinline__ void Finish() const {}
};

template <class T, int N>
void ScatterWith(Stream& stream, const Tensor& dout, const RowGroups& sorted, int64_t width,
                 Tensor& dtable) {
  const AddToRows add{Data<int32_t>(sorted.keys), static_cast<int>(width), Data<float>(dtable)};
  const Tensor part = dout.Reshape({dout.elements() / width, width});
  SumRows<T, N>(stream, PlanRowSums(sorted.keys.elements(), width, N, kLeastPlaces),
                MakeParts<T>({&part, 1}), sorted.keys, sorted.order, width, add, add);
}

// Every sum goes to its row, those of `sorted` requests.
void AddSorted(Stream& stream, const Tensor& dout, const RowGroups& sorted, int64_t width,
               Tensor& table) {
  if (dout.dtype() == DType::kBf16 && width % 8 == 0) {
    return ScatterWith<bf16, 8>(stream, dout, sorted, width, table);
  }
  DispatchActivation(dout.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (width % 4 == 0) return ScatterWith<T, 4>(stream, dout, sorted, width, table);
    ScatterWith<T, 1>(stream, dout, sorted, width, table);
  });
}

// Where the row of a place stands.
template <class Y>
struct TwoPlaces {
  const float* table;
  int64_t rows;
  const int64_t* own;  // numbers there of places [first, first + count)
  int64_t first, count;
  const Y* came;
  int64_t came_rows;
};

template <class Y, int N>
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocks)
    Deal(TwoPlaces<Y> from, const int32_t* inverse, int64_t n, int width, int lanes, Y* out) {
  using Row = RowOfEither<Y>;
  GatherFound<Row, N>(n, width, lanes, out, [&](int64_t i) {
    const int64_t place = inverse[i];
    const int64_t own = place - from.first;
    if (own >= 0 && own < from.count) {
      const int64_t row = from.own[own];
      if (row < 0 || row >= from.rows) __trap();
      return Row::Float(from.table + row * width);
    }
    const int64_t other = own < 0 ? place : place - from.count;
    if (other < 0 || other >= from.came_rows) __trap();
    return Row::Ready(from.came + other * width);
  });
}

}  // namespace

void GatherRows(Stream& stream, const Tensor& table, const Tensor& ids, Tensor& out) {
  const int64_t rows = table.dim(0);
  const int64_t n = ids.elements();
  CHECK_EQ(out.elements() * rows, n * table.elements());
  if (n == 0) return;
  const int64_t width = table.elements() / rows;
  WithGather(table, out, width, [&](auto from, auto to, auto columns) {
    using X = decltype(from);
    using Y = decltype(to);
    constexpr int kN = decltype(columns)::value;
    const GatherShape shape = ShapeGather(width, kN);
    WithIds(ids, [&]<class Id>(const Id* id) {
      Launch(stream, Gather<X, Y, kN, Id>, dim3(static_cast<unsigned>(CeilDiv(n, shape.tile()))),
             dim3(static_cast<unsigned>(shape.threads())), 0, Data<X>(table), rows, id, n,
             static_cast<int>(width), shape.lanes, Data<Y>(out));
    });
  });
}

void ScatterAddRows(Stream& stream, const Tensor& dout, const Tensor& ids, Tensor& dtable) {
  const int64_t rows = dtable.dim(0);
  const int64_t n = ids.elements();
  CHECK_EQ(dout.elements() * rows, n * dtable.elements());
  if (n == 0) return;
  const int64_t width = dtable.elements() / rows;
  RowGroups sorted;
  SortRows(stream, {&ids, 1}, rows, sorted);
  AddSorted(stream, dout, sorted, width, dtable);
}

void SumUnique(Stream& stream, const Tensor& dout, const Tensor& inverse, const Tensor& order,
               Tensor& out) {
  const int64_t n = inverse.elements();
  if (n == 0) return;
  const int64_t distinct = out.dim(0);
  const int64_t width = out.elements() / distinct;
  CHECK_EQ(dout.elements(), n * width);
  GatherRows(stream, dout.Reshape({n, width}), order.Rows(0, distinct), out);
  if (distinct == n) return;
  RowGroups others;
  SortChosen(stream, inverse, order.Rows(distinct, n), distinct, others);
  AddSorted(stream, dout, others, width, out);
}

void DealRows(Stream& stream, const Tensor& table, const Tensor& own, int64_t first,
              const Tensor& came, const Tensor& inverse, Tensor& out) {
  const int64_t n = inverse.elements();
  if (n == 0) return;
  const int64_t width = out.elements() / n;
  CHECK_EQ(table.elements(), table.dim(0) * width);
  CHECK_EQ(came.elements(), came.dim(0) * width);
  WithGather(table, out, width, [&](auto of_table, auto to, auto columns) {
    using Y = decltype(to);
    constexpr int kN = decltype(columns)::value;
    if constexpr (std::is_same_v<decltype(of_table), float>) {
      const GatherShape shape = ShapeGather(width, kN);
      const TwoPlaces<Y> from{Data<float>(table), table.dim(0),  Data<int64_t>(own), first,
                              own.elements(),     Data<Y>(came), came.dim(0)};
      Launch(stream, Deal<Y, kN>, dim3(static_cast<unsigned>(CeilDiv(n, shape.tile()))),
             dim3(static_cast<unsigned>(shape.threads())), 0, from, Data<int32_t>(inverse), n,
             static_cast<int>(width), shape.lanes, Data<Y>(out));
    } else {
      Fatal(__FILE__, __LINE__, "tables are f32");
    }
  });
}

}  // namespace mneme::gpu
