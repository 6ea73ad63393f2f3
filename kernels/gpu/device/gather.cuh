// Rows of a table, by number, into neighbouring rows of another array. Device code and its shape.
//
// A team of lanes takes a row, 16 bytes a lane at the wider of the two dtypes; every lane has kRows
// rows in flight. Neighbouring teams write neighbouring rows.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

inline constexpr int kGatherThreads = 256;
inline constexpr int kGatherRows = 4;  // of a team
inline constexpr int kMostGatherTeams = 64;

struct GatherShape {
  int lanes, teams;  // of a team, of a block

  int threads() const { return lanes * teams; }
  int tile() const { return teams * kGatherRows; }  // rows of a block
};

// Of rows of `width` values, `columns` an access. A row wider than a block's lanes takes equal
// turns of them.
inline GatherShape ShapeGather(int64_t width, int columns) {
  const int64_t lanes_of_row = CeilDiv(width, columns);
  const int64_t turns = CeilDiv(lanes_of_row, kGatherThreads);
  const auto lanes = static_cast<int>(CeilDiv(lanes_of_row, turns));
  return {lanes, std::max(1, std::min(kMostGatherTeams, kGatherThreads / lanes))};
}

// out[first + j] = table[id_of(j)] for the rows j of this block's tile, those with first + j < n;
// table [rows, width], out [n, width], converted. id_of is asked once a row and lane; a number
// outside the table ends the kernel with a trap. REQUIRES: blocks of GatherShape::threads threads,
// N divides the width, rows on the bytes of an access.
template <class X, class Y, int N, class IdOf>
__device__ __forceinline__ void GatherTile(const X* table, int64_t rows, int64_t first, int64_t n,
                                           int width, int lanes, Y* out, const IdOf& id_of) {
  const int team = static_cast<int>(threadIdx.x) / lanes;
  const int teams = static_cast<int>(blockDim.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  // All numbers before any row: no row waits for another's number.
  int64_t ids[kGatherRows];
  bool found = true;
#pragma unroll
  for (int r = 0; r < kGatherRows; ++r) {
    const int j = r * teams + team;
    ids[r] = first + j < n ? id_of(j) : 0;
    found = found && ids[r] >= 0 && ids[r] < rows;
  }
  if (!found) __trap();
  for (int column = lane * N; column < width; column += lanes * N) {
    Vec<X, N> x[kGatherRows];
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
      x[r] = *reinterpret_cast<const Vec<X, N>*>(table + ids[r] * width + column);
    }
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
      const int64_t i = first + r * teams + team;
      if (i >= n) continue;
      Vec<Y, N> y;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if constexpr (std::is_same_v<X, Y>) {
          y.v[k] = x[r].v[k];
        } else {
          y.v[k] = FromFloat<Y>(ToFloat(x[r].v[k]));
        }
      }
      *reinterpret_cast<Vec<Y, N>*>(out + i * width + column) = y;
    }
  }
}

// Columns of an access: 16 bytes of the wider dtype where the width allows, else one.
template <class X, class Y>
inline constexpr int kGatherColumns = 16 / static_cast<int>(std::max(sizeof(X), sizeof(Y)));

// Calls f with the dtypes of table and out and the columns of an access.
template <class F>
void WithGather(const Tensor& table, const Tensor& out, int64_t width, F&& f) {
  DispatchActivation(table.dtype(), [&](auto from) {
    DispatchActivation(out.dtype(), [&](auto to) {
      constexpr int kWide = kGatherColumns<decltype(from), decltype(to)>;
      if (width % kWide == 0) return f(from, to, std::integral_constant<int, kWide>{});
      return f(from, to, std::integral_constant<int, 1>{});
    });
  });
}

}  // namespace mneme::gpu
