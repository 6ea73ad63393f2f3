// A row of RMSNorm, and of its gradient, in the registers of a warp. Device code only.
#pragma once

#include "kernels/gpu/device/reduce.cuh"
#include "kernels/gpu/device/vec.cuh"

namespace mneme::gpu {

// Lane `lane`'s share of a row: kN vectors of 16 bytes, a warp's width apart. Rows are whole
// vectors, at most kN · 32 of them, and begin on 16 bytes. width: columns of a row.
template <class A, int kN>
struct NormRow {
  static constexpr int kV = kVec<A>;
  Vec<A, kV> v[kN];

  // The first column of this lane's vector i; not below the width where the row has no such vector.
  static __device__ __forceinline__ int Column(int i, int lane) { return (i * kWarp + lane) * kV; }

  // Vectors beyond the width keep what they had.
  __device__ __forceinline__ void Load(const A* from, int width, int lane) {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const int column = Column(i, lane);
      if (column < width) v[i] = *reinterpret_cast<const Vec<A, kV>*>(from + column);
    }
  }

  // This lane's part of Σ x².
  __device__ __forceinline__ float Squares(int width, int lane) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (Column(i, lane) >= width) break;
#pragma unroll
      for (int j = 0; j < kV; ++j) sum += ToFloat(v[i].v[j]) * ToFloat(v[i].v[j]);
    }
    return sum;
  }

  // to = x · scale · gain, rounded once. scale: 1 / rms of the row; gain f32 [width].
  __device__ __forceinline__ void Store(float scale, const float* gain, int width, int lane,
                                        A* to) const {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const int column = Column(i, lane);
      if (column >= width) break;
      float out[kV];
#pragma unroll
      for (int j = 0; j < kV; j += 4) {
        const float4 g = *reinterpret_cast<const float4*>(gain + column + j);
        out[j] = ToFloat(v[i].v[j]) * scale * g.x;
        out[j + 1] = ToFloat(v[i].v[j + 1]) * scale * g.y;
        out[j + 2] = ToFloat(v[i].v[j + 2]) * scale * g.z;
        out[j + 3] = ToFloat(v[i].v[j + 3]) * scale * g.w;
      }
      StoreFloats<kV>(to + column, out);
    }
  }
};

// The gradient of rows that a warp walks over, one after another; the gain, and its gradient so
// far, stay in registers. With n = x · rstd: dx = rstd · (w dy − n · mean(n w dy)), dw = Σ n dy.
template <class A, int kN>
class NormGradient {
 public:
  static constexpr int kV = kVec<A>;
  // What a row reads.
  struct Row {
    NormRow<A, kN> x, dy, addend;
    float rstd;
  };

  // gain f32 [width], read once. Nothing is summed yet.
  __device__ __forceinline__ NormGradient(const float* gain, int width, int lane)
      : width_(width), lane_(lane) {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        const int column = NormRow<A, kN>::Column(i, lane) + j;
        gain_[i][j] = column < width ? gain[column] : 0.0f;
        sum_[i][j] = 0;
      }
    }
  }

  // dx [width] = the gradient, + the row's addend where kAdds; its n dy joins the sum of dw. All
  // lanes of the warp call, with the same row.
  template <bool kAdds>
  __device__ __forceinline__ void Store(const Row& row, A* dx) {
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (!Mine(i)) break;
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        dot += ToFloat(row.x.v[i].v[j]) * ToFloat(row.dy.v[i].v[j]) * gain_[i][j];
      }
    }
    const float mean = WarpReduce(dot * row.rstd) / static_cast<float>(width_);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      if (!Mine(i)) break;
      float out[kV];
#pragma unroll
      for (int j = 0; j < kV; ++j) {
        const float n = ToFloat(row.x.v[i].v[j]) * row.rstd;
        const float d = ToFloat(row.dy.v[i].v[j]);
        sum_[i][j] += n * d;
        out[j] = row.rstd * (gain_[i][j] * d - n * mean);
        if constexpr (kAdds) out[j] += ToFloat(row.addend.v[i].v[j]);
      }
      StoreFloats<kV>(dx + NormRow<A, kN>::Column(i, lane_), out);
    }
  }

  // part [width] = dw of the block's rows, its warps' sums added in order. `fold` is shared memory
  // of kWarps · kN · 32 · kV floats. All threads call.
  template <int kWarps>
  __device__ __forceinline__ void Finish(float* fold, float* part) const {
    constexpr int kRow = kN * kWarp * kV;
    float* mine = fold + static_cast<int>(threadIdx.x) / kWarp * kRow;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int j = 0; j < kV; ++j) mine[NormRow<A, kN>::Column(i, lane_) + j] = sum_[i][j];
    }
    __syncthreads();
    for (int column = static_cast<int>(threadIdx.x); column < width_; column += kWarps * kWarp) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += fold[w * kRow + column];
      part[column] = sum;
    }
  }

 private:
  __device__ __forceinline__ bool Mine(int i) const {
    return NormRow<A, kN>::Column(i, lane_) < width_;
  }

  int width_;
  int lane_;
  float gain_[kN][kV];
  float sum_[kN][kV];  // dw of the rows so far
};

}  // namespace mneme::gpu
