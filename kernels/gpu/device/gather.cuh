// Rows from anywhere into neighbouring rows of another array. Device code and its shape.
//
// A team of lanes takes a row, a few columns a lane; every lane has kGatherRows rows in flight, and
// neighbouring teams write neighbouring rows. Where a row stands is found once for all of its
// lanes, and that of every row of a tile before the first is read: a tile waits for numbers once
// and for rows once, however many it has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/gpu/device/vec.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

inline constexpr int kGatherThreads = 256;
inline constexpr int kGatherBlocks = 4;  // of a multiprocessor
inline constexpr int kGatherRows = 4;    // of a team
inline constexpr int kMostGatherTeams = 64;
inline constexpr int kMostGatherTile = kMostGatherTeams * kGatherRows;

struct GatherShape {
  int lanes, teams;  // of a team, of a block

  int threads() const { return lanes * teams; }
  int tile() const { return teams * kGatherRows; }  // rows of a block
};

// Of rows of `width` values, `columns` a lane. A row wider than a block's lanes takes equal
// turns of them.
inline GatherShape ShapeGather(int64_t width, int columns) {
  const int64_t lanes_of_row = CeilDiv(width, columns);
  const int64_t turns = CeilDiv(lanes_of_row, kGatherThreads);
  const auto lanes = static_cast<int>(CeilDiv(lanes_of_row, turns));
  return {lanes, std::max(1, std::min(kMostGatherTeams, kGatherThreads / lanes))};
}

// N values as accesses of at most 16 bytes.
template <class T, int N>
struct GatheredColumns {
  static constexpr int kEach = N < kVec<T> ? N : kVec<T>;
  Vec<T, kEach> part[N / kEach];

  __device__ __forceinline__ T& operator[](int i) { return part[i / kEach].v[i % kEach]; }
  __device__ __forceinline__ const T& operator[](int i) const {
    return part[i / kEach].v[i % kEach];
  }
  __device__ __forceinline__ void Load(const T* from) {
#pragma unroll
    for (int p = 0; p < N / kEach; ++p) {
      part[p] = reinterpret_cast<const Vec<T, kEach>*>(from)[p];
    }
  }
  __device__ __forceinline__ void Store(T* to) const {
#pragma unroll
    for (int p = 0; p < N / kEach; ++p) reinterpret_cast<Vec<T, kEach>*>(to)[p] = part[p];
  }
};

// A row of X.
template <class X>
struct RowAt {
  const X* at;

  template <int N>
  using Columns = GatheredColumns<X, N>;
  template <int N>
  __device__ __forceinline__ void Load(int column, Columns<N>& x) const {
    x.Load(at + column);
  }
  template <class Y, int N>
  __device__ __forceinline__ void Store(const Columns<N>& x, Y* to) const {
    if constexpr (std::is_same_v<X, Y>) {
      x.Store(to);
    } else {
      GatheredColumns<Y, N> y;
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = FromFloat<Y>(ToFloat(x[i]));
      y.Store(to);
    }
  }
};

// A row of float, or one of Y that is as it shall be. Lanes of both kinds do the same: they read
// as many bytes as they write, and of a float row, where those are more, the rest.
template <class Y>
class RowOfEither {
 public:
  RowOfEither() = default;
  static __device__ __forceinline__ RowOfEither Float(const float* at) {
    return RowOfEither(reinterpret_cast<uintptr_t>(at) | 1);
  }
  static __device__ __forceinline__ RowOfEither Ready(const Y* at) {
    return RowOfEither(reinterpret_cast<uintptr_t>(at));
  }

  static constexpr int kParts = static_cast<int>(sizeof(float) / sizeof(Y));
  template <int N>
  struct Columns {
    RawVec<Y, N> part[kParts];

    // Of a float row.
    __device__ __forceinline__ float operator[](int i) const {
      constexpr int kWords = RawVec<Y, N>::kWords;
      if constexpr (sizeof(typename RawVec<Y, N>::Word) == sizeof(float)) {
        return __uint_as_float(part[i / kWords].word[i % kWords]);
      } else {
        static_assert(N == 1 && kParts == 2);
        return __uint_as_float(uint32_t{part[1].word[0]} << 16 | part[0].word[0]);
      }
    }
  };
  template <int N>
  __device__ __forceinline__ void Load(int column, Columns<N>& x) const {
    const auto bytes = static_cast<uintptr_t>(column) * (is_float() ? sizeof(float) : sizeof(Y));
    const auto* from = reinterpret_cast<const RawVec<Y, N>*>((at_ & ~uintptr_t{1}) + bytes);
    x.part[0] = from[0];
    if constexpr (kParts > 1) {
#pragma unroll
      for (int p = 1; p < kParts; ++p) {
        if (is_float()) x.part[p] = from[p];
      }
    }
  }
  template <int N>
  __device__ __forceinline__ void Store(const Columns<N>& x, Y* to) const {
    RawVec<Y, N> out = x.part[0];
    if constexpr (kParts > 1) {
      Vec<Y, N> y;
#pragma unroll
      for (int i = 0; i < N; ++i) y.v[i] = FromFloat<Y>(x[i]);
      const auto& converted = reinterpret_cast<const RawVec<Y, N>&>(y);
#pragma unroll
      for (int w = 0; w < RawVec<Y, N>::kWords; ++w) {
        out.word[w] = is_float() ? converted.word[w] : out.word[w];
      }
    }
    *reinterpret_cast<RawVec<Y, N>*>(to) = out;
  }

 private:
  explicit __device__ __forceinline__ RowOfEither(uintptr_t at) : at_(at) {}
  __device__ __forceinline__ bool is_float() const { return at_ & 1; }

  uintptr_t at_;  // no row begins at an odd address: that bit says which it is
};

// out[first + j] = row_at(j), as converted, for the rows j of this block's tile, those before n.
// row_at: from what the block knows already; every lane calls it.
template <int N, class Y, class Find>
__device__ __forceinline__ void GatherTile(int64_t first, int64_t n, int width, int lanes, Y* out,
                                           const Find& row_at) {
  using Row = std::decay_t<decltype(row_at(0))>;
  const int team = static_cast<int>(threadIdx.x) / lanes;
  const int teams = static_cast<int>(blockDim.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const auto count = static_cast<int>(min(n - first, static_cast<int64_t>(teams * kGatherRows)));
  Y* to = out + first * width;
#pragma unroll 1
  for (int column = lane * N; column < width; column += lanes * N) {
    typename Row::template Columns<N> x[kGatherRows];
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
      const int j = r * teams + team;
      row_at(j < count ? j : 0).Load(column, x[r]);  // a row for each: no read is a branch
    }
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
      const int j = r * teams + team;
      if (j < count) row_at(j).Store(x[r], to + (j * width + column));
    }
  }
}

// Calls f with the dtypes of table and out and the columns of a lane: 16 bytes of the narrower
// dtype, of the wider one, or one value, as the width allows.
template <class F>
void WithGather(const Tensor& table, const Tensor& out, int64_t width, F&& f) {
  DispatchActivation(table.dtype(), [&](auto from) {
    DispatchActivation(out.dtype(), [&](auto to) {
      constexpr int kMost = std::max(kVec<decltype(from)>, kVec<decltype(to)>);
      constexpr int kLess = std::min(kVec<decltype(from)>, kVec<decltype(to)>);
      if (width % kMost == 0) return f(from, to, std::integral_constant<int, kMost>{});
      if constexpr (kLess < kMost) {
        if (width % kLess == 0) return f(from, to, std::integral_constant<int, kLess>{});
      }
      return f(from, to, std::integral_constant<int, 1>{});
    });
  });
}

}  // namespace mneme::gpu
