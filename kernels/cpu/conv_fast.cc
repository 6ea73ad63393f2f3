// The short convolution in one pass over the channels, for the four taps that every published model
// has.
#include <algorithm>
#include <vector>

#include "kernels/cpu/chunks.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/fast.h"

namespace mneme::cpu {
namespace {

constexpr int64_t kTaps = 4;

// Where each tap of a token reads, or a row of zeros where there is nothing to read.
struct Taps {
  const float* row[kTaps];
};

struct Rows {
  const float* data;  // [T, channels]
  const float* zeros;
  const int32_t* doc_start;
  int64_t channels, dilation, length;

  // What the taps of token t read.
  Taps Sources(int64_t t) const {
    Taps taps;
    for (int64_t j = 0; j < kTaps; ++j) {
      const int64_t back = dilation * (kTaps - 1 - j);
      taps.row[j] = t % length - back >= doc_start[t] ? data + (t - back) * channels : zeros;
    }
    return taps;
  }
  // The rows of the tokens whose taps read token t.
  Taps Readers(int64_t t) const {
    Taps taps;
    for (int64_t j = 0; j < kTaps; ++j) {
      const int64_t ahead = dilation * (kTaps - 1 - j), position = t % length;
      const bool reads = position + ahead < length && position >= doc_start[t + ahead];
      taps.row[j] = reads ? data + (t + ahead) * channels : zeros;
    }
    return taps;
  }
};

// w [C, 4] with taps outermost.
std::vector<float> ByTap(const Tensor& w) {
  const int64_t channels = w.dim(0);
  std::vector<float> out(static_cast<size_t>(channels * kTaps));
  for (int64_t i = 0; i < channels * kTaps; ++i)
    out[static_cast<size_t>(i % kTaps * channels + i / kTaps)] = w.data<float>()[i];
  return out;
}

bool Fits(const Tensor& n, const Tensor& w) {
  return n.dtype() == DType::kF32 && w.dim(1) == kTaps;
}

void ConvolveToken(const Taps& n, const float* w, int64_t channels, const float* u, float* y) {
  const float *n0 = n.row[0], *n1 = n.row[1], *n2 = n.row[2], *n3 = n.row[3];
  const float *w0 = w, *w1 = w + channels, *w2 = w + 2 * channels, *w3 = w + 3 * channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float x = w0[c] * n0[c] + w1[c] * n1[c] + w2[c] * n2[c] + w3[c] * n3[c];
    y[c] = u[c] + x / (1.0f + Exp(-x));
  }
}

// dc of one token, and its share of dw.
void TokenGrad(const Taps& n, const float* w, int64_t channels, const float* dy, float* dc,
               float* dw) {
  const float *n0 = n.row[0], *n1 = n.row[1], *n2 = n.row[2], *n3 = n.row[3];
  const float *w0 = w, *w1 = w + channels, *w2 = w + 2 * channels, *w3 = w + 3 * channels;
  float *d0 = dw, *d1 = dw + channels, *d2 = dw + 2 * channels, *d3 = dw + 3 * channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float x = w0[c] * n0[c] + w1[c] * n1[c] + w2[c] * n2[c] + w3[c] * n3[c];
    const float sigma = 1.0f / (1.0f + Exp(-x));
    const float d = dy[c] * sigma * (1.0f + x * (1.0f - sigma));
    dc[c] = d;
    d0[c] += d * n0[c];
    d1[c] += d * n1[c];
    d2[c] += d * n2[c];
    d3[c] += d * n3[c];
  }
}

void CollectToken(const Taps& dc, const float* w, int64_t channels, float* dn) {
  const float *c0 = dc.row[0], *c1 = dc.row[1], *c2 = dc.row[2], *c3 = dc.row[3];
  const float *w0 = w, *w1 = w + channels, *w2 = w + 2 * channels, *w3 = w + 3 * channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c)
    dn[c] = w0[c] * c0[c] + w1[c] * c1[c] + w2[c] * c2[c] + w3[c] * c3[c];
}

}  // namespace

void ShortConvFast(Stream& stream, const Tensor& n, const Tensor& u, const Tensor& addend,
                   const Tensor& w, int64_t dilation, int64_t length, const Tensor& doc_start,
                   Tensor& y) {
  if (!Fits(n, w)) return ShortConv(stream, n, u, addend, w, dilation, length, doc_start, y);
  const int64_t tokens = n.dim(0), channels = n.dim(1);
  CHECK_EQ(w.dim(0), channels);
  CHECK_EQ(tokens % length, 0);
  CHECK_EQ(doc_start.elements(), tokens);
  const std::vector<float> taps = ByTap(w), zeros(static_cast<size_t>(channels));
  const Rows rows{n.data<float>(), zeros.data(), doc_start.data<int32_t>(),
                  channels,        dilation,     length};
  const float* skip = u.data<float>();
  const float* more = addend.defined() ? addend.data<float>() : nullptr;
  float* out = y.data<float>();
  ForRows(tokens, channels, [&](int64_t t) {
    ConvolveToken(rows.Sources(t), taps.data(), channels, skip + t * channels, out + t * channels);
    if (more == nullptr) return;
#pragma omp simd
    for (int64_t i = t * channels; i < (t + 1) * channels; ++i) out[i] += more[i];
  });
}

void ShortConvGradFast(Stream& stream, const Tensor& dy, const Tensor& n, const Tensor& w,
                       int64_t dilation, int64_t length, const Tensor& doc_start, Tensor& dn,
                       Tensor& dw) {
  if (!Fits(n, w)) return ShortConvGrad(stream, dy, n, w, dilation, length, doc_start, dn, dw);
  const int64_t tokens = n.dim(0), channels = n.dim(1);
  const std::vector<float> taps = ByTap(w), zeros(static_cast<size_t>(channels));
  const auto* start = doc_start.data<int32_t>();
  Tensor slope = Tensor::Empty(stream, n.dtype(), {tokens, channels});
  const float* dout = dy.data<float>();
  float *dc = slope.data<float>(), *din = dn.data<float>();
  const Rows rows{n.data<float>(), zeros.data(), start, channels, dilation, length};
  const Rows slopes{dc, zeros.data(), start, channels, dilation, length};
  ChunkSums<float> sums(tokens, channels * kTaps);
  ForChunks(tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      TokenGrad(rows.Sources(t), taps.data(), channels, dout + t * channels, dc + t * channels,
                sums.row(chunk));
  });
  std::vector<float> total(static_cast<size_t>(channels * kTaps));
  sums.AddTo(total.data());
  for (int64_t i = 0; i < channels * kTaps; ++i)
    dw.data<float>()[i] += total[static_cast<size_t>(i % kTaps * channels + i / kTaps)];
  ForRows(tokens, channels, [&](int64_t t) {
    CollectToken(slopes.Readers(t), taps.data(), channels, din + t * channels);
  });
}

}  // namespace mneme::cpu
