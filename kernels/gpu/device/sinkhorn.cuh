// Sinkhorn's projection of one matrix in a thread's registers, and its gradient (cpu/sinkhorn.h
// tells it plainly); i = output stream, j = input. Device code only.
#pragma once

namespace mneme::gpu {

// Sinkhorn of n ≤ kN streams; rows and columns from n on stay 0. Half iterations 1, 3, … divide
// rows (over j), 2, 4, … columns (over i).
template <int kN>
struct Sinkhorn {
  float y[kN][kN];  // the matrix as it is now
  int n;            // streams
  int halves;       // 2 · iterations; the first is Softmax
  float eps;        // added to the softmax and to every divisor

  // y: logits on entry, the softmax over i plus eps on return; softmax[i][j] without it.
  __device__ __forceinline__ void Softmax(float (&softmax)[kN][kN]) {
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      float top = y[0][j];
#pragma unroll
      for (int i = 1; i < kN; ++i) top = i < n ? fmaxf(top, y[i][j]) : top;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        softmax[i][j] = i < n && j < n ? expf(y[i][j] - top) : 0.0f;
        sum += softmax[i][j];
      }
      const float inverse = j < n ? 1.0f / sum : 0.0f;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        softmax[i][j] *= inverse;
        y[i][j] = i < n && j < n ? softmax[i][j] + eps : 0.0f;
      }
    }
  }

  // One half iteration; `keep` takes the divisor of each line.
  template <bool kRows, class Keep>
  __device__ __forceinline__ void Divide(Keep&& keep) {
#pragma unroll
    for (int line = 0; line < kN; ++line) {
      if (line >= n) break;
      float sum = eps;
#pragma unroll
      for (int k = 0; k < kN; ++k) sum += kRows ? y[line][k] : y[k][line];
      keep(line, sum);
      const float inverse = __fdividef(1.0f, sum);
#pragma unroll
      for (int k = 0; k < kN; ++k) (kRows ? y[line][k] : y[k][line]) *= inverse;
    }
  }

  // From what Softmax made to the result, in y. keep(half, line, divisor) for every line of every
  // half iteration from 1 on: what Backward asks for.
  template <class Keep>
  __device__ __forceinline__ void Forward(Keep&& keep) {
    for (int half = 1; half < halves; half += 2) {
      Divide<true>([&](int line, float d) { keep(half, line, d); });
      if (half + 1 < halves) Divide<false>([&](int line, float d) { keep(half + 1, line, d); });
    }
  }

  // The gradient through one half iteration, and y as it was before.
  template <bool kRows, class Divisor>
  __device__ __forceinline__ void Back(float (&grad)[kN][kN], Divisor&& divisor) {
#pragma unroll
    for (int line = 0; line < kN; ++line) {
      if (line >= n) break;
      float inner = 0;
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        inner += kRows ? grad[line][k] * y[line][k] : grad[k][line] * y[k][line];
      }
      const float d = divisor(line);
      const float inverse = __fdividef(1.0f, d);
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        float& g = kRows ? grad[line][k] : grad[k][line];
        g = (g - inner) * inverse;
        (kRows ? y[line][k] : y[k][line]) *= d;
      }
    }
  }

  // grad: of the result on entry, of what Softmax made on return; y goes back to that. The
  // softmax's own gradient is left to the caller. divisor(half, line): what Forward kept.
  template <class Divisor>
  __device__ __forceinline__ void Backward(float (&grad)[kN][kN], Divisor&& divisor) {
    for (int half = halves - 1; half > 0; half -= 2) {
      Back<true>(grad, [&](int line) { return divisor(half, line); });
      if (half > 1) Back<false>(grad, [&](int line) { return divisor(half - 1, line); });
    }
  }
};

}  // namespace mneme::gpu
