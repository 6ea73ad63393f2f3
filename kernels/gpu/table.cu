// Tables of rows on the device: gradients of a step's requests summed by row for the norm, Adam on
// the rows they touch.
//
// One update of n requests, u distinct rows of W values, gradients of a bytes a value, f32 rows and
// moments. Floor: n W a (the gradient) + 24 u W (three arrays read and written), over the copy
// bandwidth. n = 4 M requests Zipf 1.1 over 22 M rows of 80, bf16: u = 0.62 M; 0.64 + 1.19 GB,
// floor 0.43 ms at 4.3 TB/s. What is moved besides: the sort (a pass of 16 n bytes for each 8 bits
// of the row number, 25 bits here: 0.26 GB), and the gradient of groups of fewer than kLongGroup
// requests a second time, since that is cheaper than to write a sum of f32 and read it back.
//
// Measured on an H200 that copies 3.96 TB/s: 1.02 ms, 47.4 % of that rate; dense over all 36.2 M
// rows 19.5 ms, 91 % (docs/results.md).
//
// - ngram_gather: a block hashes its rows, a thread a row, then its teams gather them.
//   Floor: W (4 + b) a row, b bytes a value of the result. 32,768 tokens x 16 sub-tables, 80
//   values, bf16: 252 MB and 4 MB of row numbers, 65 µs at 3.96 TB/s; measured 82 µs.
// - group_rows: sort.cu.
// - sum_groups: device/row_sums.cuh; the norm of every sum, the sums of long groups kept.
// - adam_groups: a team a distinct row; under dense Adam a second pass over the marked rows that
//   had no request, so that every row is read and written once.
#include <algorithm>
#include <limits>

#include "kernels/gpu/device/adam.cuh"
#include "kernels/gpu/device/gather.cuh"
#include "kernels/gpu/device/ngram.cuh"
#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/row_sums.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/rows.h"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kReduceThreads = 1024;
constexpr int kMarks = 32;  // in a word

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

// Rows of a block that hashes them: about one a thread, in whole tiles.
__host__ __device__ constexpr int RowsOfBlock(int threads, int tile) {
  return threads < tile ? tile : threads / tile * tile;
}
constexpr int kMostRowsOfBlock = 256;
static_assert(kMostRowsOfBlock >= kGatherThreads &&
              kMostRowsOfBlock >= kMostGatherTeams * kGatherRows);

// A block hashes its rows, then gathers them tile by tile.
template <class Y, int N>
__global__ void __launch_bounds__(kGatherThreads)
    HashAndGather(const __grid_constant__ HashTables constants, HashedText text, const float* table,
                  int64_t table_rows, int64_t n, int width, int lanes, int64_t* rows, Y* out) {
  __shared__ HashTables hash;
  __shared__ int64_t rows_s[kMostRowsOfBlock];
  KeepTables(constants, hash);
  const int tile = static_cast<int>(blockDim.x) / lanes * kGatherRows;
  const int own = RowsOfBlock(static_cast<int>(blockDim.x), tile);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * own;
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < own; j += static_cast<int>(blockDim.x)) {
    if (first + j >= n) break;
    const auto i = static_cast<uint32_t>(first + j);
    const auto tables = static_cast<uint32_t>(hash.tables);
    const int64_t row = RowOf(hash, text, i / tables, i % tables);
    if (row < 0 || row >= table_rows) __trap();
    rows_s[j] = row;
    rows[i] = row;
  }
  __syncthreads();
  for (int from = 0; from < own && first + from < n; from += tile) {
    GatherTile<N>(first + from, n, width, lanes, out,
                  [&](int r) { return RowAt<float>{table + rows_s[from + r] * width}; });
  }
}

// The squares of all sums, and the sums of long groups.
struct KeepSquares {
  float* sums;
  const int32_t* keys;
  int n;
  int width;
  double* partial;  // one a block
  double squares = 0;

  template <int N>
  __device__ __forceinline__ void Whole(int place, int column, const float (&sum)[N]) {
    float q = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) q += sum[i] * sum[i];
    squares += q;
    const int last = place + static_cast<int>(kLongGroup) - 1;
    if (last >= n || keys[last] != keys[place]) return;
    StoreColumns<N>(sums + place / kLongGroup * width + column, sum);
  }
  __device__ __forceinline__ void Finish() const {
    __shared__ double all[kTeamThreads];
    const unsigned t = threadIdx.x;
    all[t] = squares;
    for (unsigned half = kTeamThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (t < half && t + half < blockDim.x) all[t] += all[t + half];
    }
    if (t == 0) partial[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = all[0];
  }
};

// sum += Σ x, in a fixed order. One block.
__global__ void __launch_bounds__(kReduceThreads)
    AddPartials(const double* x, int64_t n, double* sum) {
  __shared__ double all[kReduceThreads];
  double mine = 0;
  for (int64_t i = threadIdx.x; i < n; i += kReduceThreads) mine += x[i];
  all[threadIdx.x] = mine;
  for (unsigned half = kReduceThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) all[threadIdx.x] += all[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *sum += all[0];
}

struct Table {
  float *m, *v, *p;
  uint32_t* marks;
  int64_t rows;
  int width;
};

struct Groups {
  const int32_t *keys, *order, *heads;
  const int64_t* count;
  const float* sums;
  int n;
};

template <int N>
__device__ __forceinline__ void MoveColumns(const AdamStep& step, const Table& table, int64_t at,
                                            const float (&g)[N], float (&m)[N], float (&v)[N],
                                            float (&p)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) step.Move(g[i], m[i], v[i], p[i]);
  StoreColumns<N>(table.m + at, m);
  StoreColumns<N>(table.v + at, v);
  StoreColumns<N>(table.p + at, p);
}

// A team a distinct row. touched: marks of this step's rows, or null.
template <class T, int N>
__global__ void __launch_bounds__(kTeamThreads)
    MoveGroups(const __grid_constant__ PartsOf<T> parts, Groups groups, AdamOptions options,
               const double* scalars, int lanes, Table table, uint32_t* touched) {
  const AdamStep step(options, scalars);
  if (!step.apply) return;
  const Lane me(lanes, N, table.width);
  const int64_t count = *groups.count;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * me.teams;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * me.teams + me.team; u < count; u += stride) {
    const int head = groups.heads[u];
    const int end = u + 1 < count ? groups.heads[u + 1] : groups.n;
    const int32_t row = groups.keys[head];
    if (me.column == 0) {
      atomicOr(table.marks + row / kMarks, uint32_t{1} << (row % kMarks));
      if (touched != nullptr) atomicOr(touched + row / kMarks, uint32_t{1} << (row % kMarks));
    }
    if (!me.active) continue;
    const int64_t at = static_cast<int64_t>(row) * table.width + me.column;
    float m[N], v[N], p[N], g[N] = {};
    LoadColumns<N>(table.m + at, m);
    LoadColumns<N>(table.v + at, v);
    LoadColumns<N>(table.p + at, p);
    if (end - head >= kLongGroup) {
      LoadColumns<N>(groups.sums + head / kLongGroup * table.width + me.column, g);
    } else {
      float part[kLongGroup - 1][N] = {};
#pragma unroll
      for (int i = 0; i < kLongGroup - 1; ++i) {
        if (head + i >= end) continue;
        const auto request = static_cast<uint32_t>(groups.order[head + i]);
        LoadColumns<N>(parts.Row(request, table.width) + me.column, part[i]);
      }
#pragma unroll
      for (int i = 0; i < kLongGroup - 1; ++i) row_sums::AddTo<N>(g, part[i]);
    }
    MoveColumns<N>(step, table, at, g, m, v, p);
  }
}

// The marked rows that had no request, by a gradient of 0.
template <int N>
__global__ void __launch_bounds__(kTeamThreads)
    MoveOthers(AdamOptions options, const double* scalars, int lanes, Table table,
               const uint32_t* touched) {
  const AdamStep step(options, scalars);
  if (!step.apply) return;
  const Lane me(lanes, N, table.width);
  if (!me.active) return;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * me.teams;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * me.teams + me.team; row < table.rows;
       row += stride) {
    const uint32_t word = table.marks[row / kMarks] & ~touched[row / kMarks];
    if ((word >> (row % kMarks) & 1) == 0) continue;
    const int64_t at = row * table.width + me.column;
    float m[N], v[N], p[N];
    const float g[N] = {};
    LoadColumns<N>(table.m + at, m);
    LoadColumns<N>(table.v + at, v);
    LoadColumns<N>(table.p + at, p);
    MoveColumns<N>(step, table, at, g, m, v, p);
  }
}

template <class T, int N>
void SumGroupsWith(Stream& stream, RowParts grads, RowGroups& groups, Tensor& squares) {
  const int64_t n = groups.keys.elements();
  const int64_t width = groups.sums.dim(1);
  const RowSumGrid grid = PlanRowSums(n, width, N);
  const int64_t in_tiles = int64_t{grid.tiles.x} * grid.tiles.y;
  const int64_t in_joins = int64_t{grid.joins.x} * grid.joins.y;
  Tensor partial = Tensor::Empty(stream, DType::kF64, {in_tiles + in_joins}, MemoryTag::kWorkspace);
  KeepSquares keep{Data<float>(groups.sums), Data<int32_t>(groups.keys), static_cast<int>(n),
                   static_cast<int>(width), Data<double>(partial)};
  KeepSquares keep_joined = keep;
  keep_joined.partial += in_tiles;
  SumRows<T, N>(stream, grid, MakeParts<T>(grads), groups.keys, groups.order, width, keep,
                keep_joined);
  Launch(stream, AddPartials, 1, kReduceThreads, 0, Data<double>(partial), in_tiles + in_joins,
         Data<double>(squares));
}

template <class T, int N>
void AdamGroupsWith(Stream& stream, const AdamOptions& options, bool dense, const Tensor& step,
                    RowParts grads, const RowGroups& groups, Tensor& marks, Tensor& m, Tensor& v,
                    Tensor& p) {
  const int64_t n = groups.keys.elements();
  const Table table{Data<float>(m), Data<float>(v),
                    Data<float>(p), reinterpret_cast<uint32_t*>(Data<int32_t>(marks)),
                    p.dim(0),       static_cast<int>(p.dim(1))};
  const Groups sorted{Data<int32_t>(groups.keys),  Data<int32_t>(groups.order),
                      Data<int32_t>(groups.heads), Data<int64_t>(groups.count),
                      Data<float>(groups.sums),    static_cast<int>(n)};
  Tensor touched;
  uint32_t* touched_marks = nullptr;
  if (dense) {
    touched = Tensor::Zeros(stream, DType::kI32, {marks.elements()}, MemoryTag::kWorkspace);
    touched_marks = reinterpret_cast<uint32_t*>(Data<int32_t>(touched));
  }
  const TeamShape shape = ShapeTeams(table.width, N);
  const auto grid = [&](int64_t rows) {
    const int64_t most = int64_t{QueueOf(stream).multiprocessors} * 32;
    return dim3(static_cast<unsigned>(std::min(CeilDiv(rows, shape.teams), most)),
                static_cast<unsigned>(shape.slabs));
  };
  const auto block = static_cast<unsigned>(shape.threads());
  Launch(stream, MoveGroups<T, N>, grid(n), block, 0, MakeParts<T>(grads), sorted, options,
         Data<double>(step), shape.lanes, table, touched_marks);
  if (!dense) return;
  Launch(stream, MoveOthers<N>, grid(table.rows), block, 0, options, Data<double>(step),
         shape.lanes, table, touched_marks);
}

// Calls f with T of the gradients and the columns of a lane: 16 bytes of the table where they fit.
template <class F>
void WithColumns(DType dtype, int64_t width, F&& f) {
  DispatchActivation(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (width % 4 == 0) return f(zero, std::integral_constant<int, 4>{});
    return f(T{}, std::integral_constant<int, 1>{});
  });
}

__global__ void MarkIds(const int64_t* ids, int64_t n, uint32_t* marks) {
  for (int64_t i = ThreadNumber(); i < n; i += Threads()) {
    atomicOr(marks + ids[i] / kMarks, uint32_t{1} << (ids[i] % kMarks));
  }
}

__global__ void __launch_bounds__(kReduceThreads)
    CountBits(const uint32_t* marks, int64_t n, unsigned long long* count) {
  int64_t mine = 0;
  for (int64_t i = ThreadNumber(); i < n; i += Threads()) mine += __popc(marks[i]);
  mine = BlockReduce(mine);
  if (threadIdx.x == 0) atomicAdd(count, static_cast<unsigned long long>(mine));
}

__global__ void PutValues(const float* rows, const int64_t* ids, int64_t n, int width,
                          float* table) {
  for (int64_t i = ThreadNumber(); i < n * width; i += Threads()) {
    table[ids[i / width] * width + i % width] = rows[i];
  }
}

}  // namespace

void NgramGather(Stream& stream, const NgramHash& hash, const Tensor& tokens,
                 const Tensor& canonical, int64_t length, const Tensor& doc_start,
                 const Tensor& table, Tensor& rows, Tensor& out) {
  const int64_t n = rows.elements();
  const auto tables = static_cast<int64_t>(hash.primes.size());
  const int64_t width = table.dim(1);
  CHECK_EQ(n, tokens.elements() * tables);
  CHECK_EQ(out.elements(), n * width);
  if (tables > kMostTables) {
    NgramRows(stream, hash, tokens, canonical, length, doc_start, rows);
    return GatherRows(stream, table, rows.Reshape({n}), out);
  }
  CHECK_LT(n, int64_t{std::numeric_limits<int32_t>::max()});
  WithGather(table, out, width, [&](auto from, auto to, auto columns) {
    using Y = decltype(to);
    constexpr int kN = std::min(decltype(columns)::value, kVec<float>);
    if constexpr (std::is_same_v<decltype(from), float>) {
      const GatherShape shape = ShapeGather(width, kN);
      const int own = RowsOfBlock(shape.threads(), shape.tile());
      Launch(stream, HashAndGather<Y, kN>, dim3(static_cast<unsigned>(CeilDiv(n, own))),
             dim3(static_cast<unsigned>(shape.threads())), 0, MakeHashTables(hash, 0, tables),
             MakeHashedText(tokens, canonical, length, doc_start), Data<float>(table), table.dim(0),
             n, static_cast<int>(width), shape.lanes, Data<int64_t>(rows), Data<Y>(out));
    } else {
      Fatal(__FILE__, __LINE__, "tables are f32");
    }
  });
}

void SumGroups(Stream& stream, RowParts grads, RowGroups& groups, Tensor& squares) {
  const int64_t n = groups.keys.elements();
  if (n == 0) return;
  const int64_t width = grads[0].dim(1);
  groups.sums =
      Tensor::Empty(stream, DType::kF32, {n / kLongGroup + 1, width}, MemoryTag::kExchange);
  if (grads[0].dtype() == DType::kBf16 && width % 8 == 0) {
    return SumGroupsWith<bf16, 8>(stream, grads, groups, squares);
  }
  WithColumns(grads[0].dtype(), width, [&](auto zero, auto columns) {
    SumGroupsWith<decltype(zero), decltype(columns)::value>(stream, grads, groups, squares);
  });
}

void AdamGroups(Stream& stream, const AdamOptions& options, bool dense, const Tensor& step,
                RowParts grads, const RowGroups& groups, Tensor& marks, Tensor& m, Tensor& v,
                Tensor& p) {
  CHECK_EQ(marks.elements(), CeilDiv(p.dim(0), kMarks));
  const DType dtype = grads.empty() ? DType::kF32 : grads[0].dtype();
  WithColumns(dtype, p.dim(1), [&](auto zero, auto columns) {
    AdamGroupsWith<decltype(zero), decltype(columns)::value>(stream, options, dense, step, grads,
                                                             groups, marks, m, v, p);
  });
}

void PutRows(Stream& stream, const Tensor& rows, const Tensor& ids, Tensor& table) {
  CHECK_EQ(rows.elements() * table.dim(0), ids.elements() * table.elements());
  Launch(stream, PutValues, BlocksOf(stream, rows.elements()), kThreads, 0, Data<float>(rows),
         Data<int64_t>(ids), ids.elements(), static_cast<int>(table.elements() / table.dim(0)),
         Data<float>(table));
}

void MarkRows(Stream& stream, const Tensor& ids, Tensor& marks) {
  Launch(stream, MarkIds, BlocksOf(stream, ids.elements()), kThreads, 0, Data<int64_t>(ids),
         ids.elements(), reinterpret_cast<uint32_t*>(Data<int32_t>(marks)));
}

void CountMarks(Stream& stream, const Tensor& marks, Tensor& count) {
  Zero(stream, count);
  const int64_t blocks = std::min<int64_t>(CeilDiv(marks.elements(), 4 * kReduceThreads),
                                           QueueOf(stream).multiprocessors);
  Launch(stream, CountBits, dim3(static_cast<unsigned>(blocks)), kReduceThreads, 0,
         reinterpret_cast<const uint32_t*>(Data<int32_t>(marks)), marks.elements(),
         reinterpret_cast<unsigned long long*>(Data<int64_t>(count)));
}

}  // namespace mneme::gpu
