// Rows by id: gather, with conversion, and scatter-add in a fixed order.
//
// gather_rows: device/gather.cuh. Floor: W (bytes read + bytes written) a row over the copy
// bandwidth; the paper's rows (80 f32 to bf16): 480 bytes.
// scatter_add_rows: requests sorted by row (sort.cu), summed in tiles (device/row_sums.cuh), each
// sum added to its row once. Floor: W a bytes a request, 8 W a distinct row; besides, the sort.
// Embedding of 32,768 tokens, D 512, bf16: 34 + 2 · 2 · (distinct tokens / 1,000) MB, 15 µs.
#include "kernels/gpu/device/gather.cuh"
#include "kernels/gpu/device/row_sums.cuh"
#include "kernels/gpu/sort.h"
#include "kernels/ops/rows.h"

namespace mneme::gpu {
namespace {

template <class X, class Y, int N, class Id>
__global__ void __launch_bounds__(kGatherThreads)
    Gather(const X* table, int64_t rows, const Id* ids, int64_t n, int width, int lanes, Y* out) {
  const int64_t tile = static_cast<int64_t>(blockDim.x) / lanes * kGatherRows;
  const int64_t first = blockIdx.x * tile;
  GatherTile<X, Y, N>(table, rows, first, n, width, lanes, out,
                      [&](int j) { return static_cast<int64_t>(ids[first + j]); });
}

template <class F>
void WithIds(const Tensor& ids, F&& f) {
  if (ids.dtype() == DType::kI32) {
    f(Data<int32_t>(ids));
  } else {
    f(Data<int64_t>(ids));
  }
}

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
  const Tensor part = dout.Reshape({sorted.keys.elements(), width});
  SumRows<T, N>(stream, PlanRowSums(sorted.keys.elements(), width, N), MakeParts<T>({&part, 1}),
                sorted.keys, sorted.order, width, add, add);
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
  if (dout.dtype() == DType::kBf16 && width % 8 == 0) {
    return ScatterWith<bf16, 8>(stream, dout, sorted, width, dtable);
  }
  DispatchActivation(dout.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (width % 4 == 0) return ScatterWith<T, 4>(stream, dout, sorted, width, dtable);
    ScatterWith<T, 1>(stream, dout, sorted, width, dtable);
  });
}

}  // namespace mneme::gpu
