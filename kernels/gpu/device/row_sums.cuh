// Sums of gradient rows by group, in a fixed order whatever the groups' sizes. Device code and its
// launch.
//
// The requests stand sorted by row. A *team* of lanes takes a row's width, a few columns a lane,
// and walks up to kPlaces neighbouring places of the sorted order; a block of teams is a *tile*. A
// group inside a team is summed in registers; groups that cross teams are joined in shared memory,
// team after team; those that cross tiles leave a partial sum a tile, and a second kernel adds
// these up, long ones by all teams of a block. So a row that is asked for a million times costs
// what as many single rows cost, no thread waits for another block, and no sum depends on timing.
//
// Bytes: every gradient row once, 8 a request of keys and order, two partial rows a tile.
#pragma once

#include <algorithm>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"
#include "kernels/ops/table.h"

namespace mneme::gpu {

// Rows of several equal parts as one array: row i is row i % rows of part i / rows. Passed to a
// kernel by value.
template <class T>
struct PartsOf {
  const T* part[kMostParts];
  uint32_t rows;  // of a part
  uint32_t count;

  __device__ __forceinline__ const T* Row(uint32_t i, int width) const {
    const uint32_t p = count == 1 ? 0 : i / rows;
    return part[p] + static_cast<int64_t>(i - p * rows) * width;
  }
};

// REQUIRES: at most kMostParts parts of T, equally large; none is an array of no rows.
template <class T>
PartsOf<T> MakeParts(RowParts tensors) {
  CHECK_LE(tensors.size(), size_t{kMostParts});
  PartsOf<T> parts = {};
  for (const Tensor& t : tensors) {
    CHECK_EQ(t.elements(), tensors[0].elements());
    parts.part[parts.count++] = Data<T>(t);
  }
  parts.rows =
      tensors.empty() ? 1u : static_cast<uint32_t>(std::max<int64_t>(1, tensors[0].dim(0)));
  return parts;
}

// How a row's columns are dealt: `columns` a lane, `lanes` a team, the rest of a wide row to
// further slabs (gridDim.y).
struct TeamShape {
  int columns, lanes, teams, slabs;

  int threads() const { return lanes * teams; }
};

inline constexpr int kTeamThreads = 256;
inline constexpr int kMostTeams = 32;

// REQUIRES: columns divides the width.
inline TeamShape ShapeTeams(int64_t width, int columns) {
  const auto lanes_of_row = static_cast<int>(width / columns);
  TeamShape s;
  s.columns = columns;
  s.lanes = std::min(lanes_of_row, kTeamThreads);
  s.teams = std::min(kMostTeams, kTeamThreads / s.lanes);
  s.slabs = static_cast<int>(CeilDiv(lanes_of_row, s.lanes));
  return s;
}

// This thread's place in its block.
struct Lane {
  int team, teams, column;  // its team, how many the block has, the first column of its own
  bool active;              // has columns of the row

  __device__ __forceinline__ Lane(int lanes, int columns, int width)
      : team(static_cast<int>(threadIdx.x) / lanes),
        teams(static_cast<int>(blockDim.x) / lanes),
        column((static_cast<int>(blockIdx.y) * lanes + static_cast<int>(threadIdx.x) % lanes) *
               columns),
        active(column < width) {}
};

// N neighbouring numbers as accesses of at most 16 bytes, each aligned to its size. REQUIRES: N is
// below a vector of T, or a multiple of one.
template <int N, class T>
__device__ __forceinline__ void LoadColumns(const T* from, float (&to)[N]) {
  constexpr int kWidth = N < kVec<T> ? N : kVec<T>;
#pragma unroll
  for (int i = 0; i < N; i += kWidth) {
    LoadFloats<kWidth>(from + i, reinterpret_cast<float(&)[kWidth]>(to[i]));
  }
}
template <int N, class T>
__device__ __forceinline__ void StoreColumns(T* to, const float (&from)[N]) {
  constexpr int kWidth = N < kVec<T> ? N : kVec<T>;
#pragma unroll
  for (int i = 0; i < N; i += kWidth) {
    StoreFloats<kWidth>(to + i, reinterpret_cast<const float(&)[kWidth]>(from[i]));
  }
}

namespace row_sums {

inline constexpr int kPlaces = 32;  // of a team, at most
inline constexpr int kTiles = 256;  // enough for all multiprocessors
inline constexpr int kRows = 8;     // rows of gradients in flight a lane
inline constexpr int kAhead = 4;    // partial sums in flight a lane
inline constexpr int kAlone = 16;   // tiles that one team adds up without help

// The requests by rising row, as group_rows leaves them (kernels/ops/table.h).
struct Sorted {
  const int32_t* keys;   // [n] rows
  const int32_t* order;  // [n] numbers of the requests
  int n;

  // Whether a group begins here.
  __device__ __forceinline__ bool Opens(int place) const {
    return place == 0 || keys[place - 1] != keys[place];
  }
};

// sum += from, and to = from: one lane's columns, from or to shared memory or registers.
template <int N>
__device__ __forceinline__ void AddTo(float (&sum)[N], const float* from) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] += from[i];
}
template <int N>
__device__ __forceinline__ void Put(float* to, const float (&from)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = from[i];
}

// Sums the groups of a tile that begin and end there and gives them to `emit` with the place where
// they begin; leaving[tile]: the part of a group that goes on behind the tile, where it began in
// it; arriving[tile]: the part of a group that began before.
template <class T, int N, class Emit>
__global__ void __launch_bounds__(kTeamThreads)
    SumTiles(const __grid_constant__ PartsOf<T> parts, Sorted sorted, int width, int lanes,
             int places, Emit emit, float* leaving, float* arriving) {
  __shared__ int32_t keys_s[kMostTeams * kPlaces + 2];
  __shared__ int32_t order_s[kMostTeams * kPlaces];
  __shared__ float first_s[kTeamThreads * N];  // of each team: the run that came in
  __shared__ float last_s[kTeamThreads * N];   // of each team: the run that goes out
  __shared__ int last_place_s[kMostTeams];     // where that began; −1: none
  __shared__ bool through_s[kMostTeams];       // came in and goes out: first_s holds it
  const Lane me(lanes, N, width);
  const int tile_places = me.teams * places;
  const int tile_begin = static_cast<int>(blockIdx.x) * tile_places;
  const int count = min(tile_places, sorted.n - tile_begin);
  // keys_s[0] and the key behind the tile differ from every row where there is none.
  for (int i = static_cast<int>(threadIdx.x); i < count + 2; i += static_cast<int>(blockDim.x)) {
    const int place = tile_begin + i - 1;
    keys_s[i] = place >= 0 && place < sorted.n ? sorted.keys[place] : -1;
  }
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    order_s[i] = sorted.order[tile_begin + i];
  }
  if (static_cast<int>(threadIdx.x) < me.teams) {
    last_place_s[threadIdx.x] = -1;
    through_s[threadIdx.x] = false;
  }
  __syncthreads();
  const int32_t* key = keys_s + 1;
  const int begin = me.team * places;
  const int end = min(begin + places, count);
  float sum[N] = {};
  int head = begin;  // of the run in `sum`
  const auto flush = [&](int until) {
    const bool opens = key[head - 1] != key[head];
    const bool closes = key[until] != key[until - 1];
    if (opens && closes) {
      if (me.active) emit.template Whole<N>(tile_begin + head, me.column, sum);
    } else if (opens) {
      Put<N>(last_s + threadIdx.x * N, sum);
      last_place_s[me.team] = tile_begin + head;
    } else {
      Put<N>(first_s + threadIdx.x * N, sum);
      through_s[me.team] = !closes;
    }
  };
  for (int j = begin; j < end; j += kRows) {
    RawVec<T, N> row[kRows] = {};
#pragma unroll
    for (int a = 0; a < kRows; ++a) {
      if (me.active && j + a < end) {
        row[a] = LoadRaw<N>(parts.Row(static_cast<uint32_t>(order_s[j + a]), width) + me.column);
      }
    }
#pragma unroll
    for (int a = 0; a < kRows; ++a) {
      if (j + a >= end) break;
      if (j + a > head && key[j + a] != key[j + a - 1]) {
        flush(j + a);
        head = j + a;
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] = 0;
      }
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += row[a][i];
    }
  }
  if (begin < end) flush(end);
  __syncthreads();
  // The rest of a run that left team `from`, in teams behind it; whether it ends in this tile.
  const int used = (count + places - 1) / places;
  const auto follow = [&](int from) {
    int team = from + 1;
    for (; team < used; ++team) {
      AddTo<N>(sum, first_s + (team * lanes + static_cast<int>(threadIdx.x) % lanes) * N);
      if (!through_s[team]) return true;
    }
    return key[count] != key[count - 1];
  };
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * width + me.column;
  if (me.team < used && last_place_s[me.team] >= 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = last_s[threadIdx.x * N + i];
    const bool whole = follow(me.team);
    if (me.active) {
      if (whole) {
        emit.template Whole<N>(last_place_s[me.team], me.column, sum);
      } else {
        StoreColumns<N>(leaving + slot, sum);
      }
    }
  }
  if (me.team == 0 && count > 0 && key[-1] == key[0]) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = first_s[threadIdx.x * N + i];
    if (through_s[0]) follow(0);
    if (me.active) StoreColumns<N>(arriving + slot, sum);
  }
  emit.Finish();
}

// How many tiles behind tile t the group that leaves it reaches into; 0 where none began in t and
// left it. head: where it began.
__device__ __forceinline__ int Span(const Sorted& sorted, int t, int tile_places, int tiles,
                                    int* head) {
  if (t + 1 >= tiles) return 0;
  const int begin = t * tile_places;
  const int next = begin + tile_places;
  const int32_t key = sorted.keys[next];
  if (sorted.keys[next - 1] != key) return 0;
  if (begin > 0 && sorted.keys[begin - 1] == key) return 0;
  int low = begin;  // the first place of `key` lies in [low, high]
  int high = next - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (sorted.keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  *head = low;
  // Tiles that begin with `key`: doubling, then halving.
  const auto begins = [&](int tile) {
    return tile < tiles && sorted.keys[static_cast<int64_t>(tile) * tile_places] == key;
  };
  int span = 1;
  while (begins(t + 2 * span)) span *= 2;
  for (int by = span / 2; by > 0; by /= 2) {
    if (begins(t + span + by)) span += by;
  }
  return span;
}

// Sums the groups that cross tiles, from what SumTiles left, and gives each to `emit` once: the
// part that left the tile where it began, then those that arrived, in order of tiles. A team takes
// those that began in one tile.
template <int N, class Emit>
__global__ void __launch_bounds__(kTeamThreads)
    JoinTiles(Sorted sorted, int width, int lanes, int places, int tiles, Emit emit,
              const float* leaving, const float* arriving) {
  __shared__ float part_s[kTeamThreads * N];
  __shared__ int span_s[kMostTeams];
  __shared__ int head_s[kMostTeams];
  const Lane me(lanes, N, width);
  const int tile_places = me.teams * places;
  const int first = static_cast<int>(blockIdx.x) * me.teams;
  if (static_cast<int>(threadIdx.x) < me.teams) {
    int head = 0;
    span_s[threadIdx.x] =
        Span(sorted, first + static_cast<int>(threadIdx.x), tile_places, tiles, &head);
    head_s[threadIdx.x] = head;
  }
  __syncthreads();
  const auto row = [&](const float* partial, int tile) {
    return partial + static_cast<int64_t>(tile) * width + me.column;
  };
  // sum += arriving[from, until), several rows in flight.
  const auto add = [&](float(&sum)[N], int from, int until) {
    if (!me.active) return;
    for (int tile = from; tile < until; tile += kAhead) {
      float rows[kAhead][N] = {};
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (tile + a < until) LoadColumns<N>(row(arriving, tile + a), rows[a]);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) AddTo<N>(sum, rows[a]);
    }
  };
  const int mine = span_s[me.team];
  if (mine > 0 && mine <= kAlone && me.active) {
    float sum[N];
    LoadColumns<N>(row(leaving, first + me.team), sum);
    add(sum, first + me.team + 1, first + me.team + 1 + mine);
    emit.template Whole<N>(head_s[me.team], me.column, sum);
  }
  for (int t = 0; t < me.teams; ++t) {
    const int span = span_s[t];
    if (span <= kAlone) continue;
    const int share = (span + me.teams - 1) / me.teams;
    const int from = min(span, me.team * share);
    float sum[N] = {};
    add(sum, first + t + 1 + from, first + t + 1 + min(span, from + share));
    Put<N>(part_s + threadIdx.x * N, sum);
    __syncthreads();
    if (me.team == 0 && me.active) {
      LoadColumns<N>(row(leaving, first + t), sum);
      for (int team = 0; team < me.teams; ++team) {
        AddTo<N>(sum, part_s + (team * lanes + static_cast<int>(threadIdx.x)) * N);
      }
      emit.template Whole<N>(head_s[t], me.column, sum);
    }
    __syncthreads();
  }
  emit.Finish();
}

}  // namespace row_sums

// Blocks of the two kernels: what an Emit needs to know before they run.
struct RowSumGrid {
  TeamShape shape;
  int places;         // of a team
  dim3 tiles, joins;  // x: tiles, or teams' worth of them; y: slabs of a row
};

// Of n requests for rows of `width` values, `columns` a lane. REQUIRES: columns divides the width;
// n > 0. least_places: of few requests a team gets as few, a power of two; where an Emit reads what
// it adds to, a team's sums wait for each other, and then more teams are quicker.
inline RowSumGrid PlanRowSums(int64_t n, int64_t width, int columns,
                              int least_places = row_sums::kPlaces) {
  RowSumGrid grid;
  grid.shape = ShapeTeams(width, columns);
  grid.places = row_sums::kPlaces;
  const auto tiles_of = [&](int places) { return CeilDiv(n, grid.shape.teams * places); };
  while (grid.places > least_places && tiles_of(grid.places) < row_sums::kTiles) grid.places /= 2;
  const int64_t tiles = tiles_of(grid.places);
  const auto slabs = static_cast<unsigned>(grid.shape.slabs);
  grid.tiles = dim3(static_cast<unsigned>(tiles), slabs);
  grid.joins = dim3(static_cast<unsigned>(CeilDiv(tiles, grid.shape.teams)), slabs);
  return grid;
}

// Queues both kernels, with two rows of scratch a tile. parts: the gradients of all requests, T;
// keys and order i32 [n]; N columns a lane, as the grid was planned for. Sums are made in f32.
//
// Emit: copyable; Whole<N>(place, column, float (&sum)[N]) once for each group and lane, and
// Finish() by every thread at the end of a kernel. in_join: the Emit of the second kernel.
template <class T, int N, class Emit>
void SumRows(Stream& stream, const RowSumGrid& grid, const PartsOf<T>& parts, const Tensor& keys,
             const Tensor& order, int64_t width, const Emit& in_tiles, const Emit& in_join) {
  const row_sums::Sorted sorted{Data<int32_t>(keys), Data<int32_t>(order),
                                static_cast<int>(keys.elements())};
  const auto w = static_cast<int>(width);
  const int64_t tiles = grid.tiles.x;
  Tensor partial = Tensor::Empty(stream, DType::kF32, {2, tiles, width}, MemoryTag::kWorkspace);
  float* leaving = Data<float>(partial);
  float* arriving = leaving + tiles * width;
  const dim3 block(static_cast<unsigned>(grid.shape.threads()));
  Launch(stream, row_sums::SumTiles<T, N, Emit>, grid.tiles, block, 0, parts, sorted, w,
         grid.shape.lanes, grid.places, in_tiles, leaving, arriving);
  Launch(stream, row_sums::JoinTiles<N, Emit>, grid.joins, block, 0, sorted, w, grid.shape.lanes,
         grid.places, static_cast<int>(tiles), in_join, leaving, arriving);
}

}  // namespace mneme::gpu
