// The projection of all streams that mHC's mixes and the learned read-out share, and its gradient;
// between hyper.cu and hyper_project.cu.
#pragma once

#include "kernels/core/tensor.h"

namespace mneme::gpu {

// phi [nC, columns] or fn [columns, nC]: element (k, c) at k · row_stride + c · column_stride.
struct Projection {
  const float* weights;
  int64_t row_stride;
  int64_t column_stride;
  int columns;
};

// r[t] = √(mean x̃² + eps), m[t, c] = Σ_k x̃[t, k] w[k, c] / r[t]. x [T, n, C].
void Project(Stream& stream, const Tensor& x, const Projection& w, double eps, Tensor& r,
             Tensor& m);

// The weights of h: w_i = σ(gain · m_i + bias_i) + eps of the first n columns.
struct Gate {
  const float* gain;
  const float* bias;
  float eps;
};

// Whether the one-pass forms below are there for x: on Hopper, four streams in bf16, widths
// that a cluster of blocks can hold.
bool InOnePass(Stream& stream, const Tensor& x);

// Project and h [T, C] = Σ w_i x_i. w has 4 or 24 columns.
void ProjectAndSum(Stream& stream, const Tensor& x, const Projection& w, double norm_eps,
                   const Gate& gate, Tensor& r, Tensor& m, Tensor& h);

// The way out of the sub-layer behind.
struct StreamsOut {
  const Tensor& x;     // [T, n, C]
  const Tensor& res;   // [T, n, n]
  const Tensor& post;  // [T, n]
  const Tensor& y;     // [T, C]
};
// out_i = Σ_j res_ij x_j + post_i y, then ProjectAndSum of out.
void LeaveProjectAndSum(Stream& stream, const StreamsOut& before, Tensor& out, const Projection& w,
                        double norm_eps, const Gate& gate, Tensor& r, Tensor& m, Tensor& h);

// What the gradient of the streams is made of. dout and res are undefined for the read-out.
struct StreamsGrad {
  const Tensor& dout;    // [T, n, C]
  const Tensor& res;     // [T, n, n]
  const Tensor& dh;      // [T, C]
  const Tensor& pre;     // [T, n] weights of h
  const Tensor& x;       // [T, n, C]
  const Tensor& du;      // [T, columns] f32
  const Tensor& factor;  // [T] f32
};

// dx_j = Σ_i res[i, j] dout_i + pre_j dh + factor x_j + (du wᵀ)_j; dw += x̃ᵀ du, laid out as w.
void ProjectGrad(Stream& stream, const StreamsGrad& g, const Projection& w, Tensor& dx, Tensor& dw);

// The same with dpre [T, n] = ⟨dh, x_i⟩ made on the way: the first n columns of du hold what dpre
// is to be multiplied with, late [T, n] what times dpre is to be added to the factor.
void ProjectGradWithDots(Stream& stream, const StreamsGrad& g, const Tensor& late,
                         const Projection& w, Tensor& dpre, Tensor& dx, Tensor& dw);

}  // namespace mneme::gpu
