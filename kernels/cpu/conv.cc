// Short depthwise causal convolution (docs/mathematics.md): y = u + SiLU(c), + an addend. dc = dy ·
// SiLU'(c), then each tap's gradient goes back where the tap read: dn[t] gathers dc of the later
// tokens that saw t, dw sums dc · n over tokens.
#include "kernels/ops/conv.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/chunks.h"

namespace mneme::cpu {
namespace {

// w [C, taps] with taps outermost, so that channels lie side by side.
template <class T>
std::vector<T> ByTap(const T* w, int64_t channels, int64_t taps) {
  std::vector<T> out(static_cast<size_t>(channels * taps));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t j = 0; j < taps; ++j) out[static_cast<size_t>(j * channels + c)] = w[c * taps + j];
  return out;
}

struct Geometry {
  int64_t channels, taps, dilation, length;
  const int32_t* doc_start;

  // Token that tap j of token t reads, or −1 where it falls before the document.
  int64_t Source(int64_t t, int64_t j) const {
    const int64_t back = dilation * (taps - 1 - j);
    return t % length - back >= doc_start[t] ? t - back : -1;
  }
  // Token whose tap j reads token t, or −1.
  int64_t Reader(int64_t t, int64_t j) const {
    const int64_t ahead = dilation * (taps - 1 - j);
    if (t % length + ahead >= length) return -1;
    return t % length >= doc_start[t + ahead] ? t + ahead : -1;
  }
};

// sum[c] = Σ_j w_j[c] · n[source_j, c].
template <class T>
void Convolve(const Geometry& g, const T* n, const T* w, int64_t t, T* sum) {
  std::fill_n(sum, g.channels, T(0));
  for (int64_t j = 0; j < g.taps; ++j) {
    const int64_t source = g.Source(t, j);
    if (source < 0) continue;
    const T *from = n + source * g.channels, *tap = w + j * g.channels;
#pragma omp simd
    for (int64_t c = 0; c < g.channels; ++c) sum[c] += tap[c] * from[c];
  }
}

Geometry MakeGeometry(const Tensor& n, const Tensor& w, int64_t dilation, int64_t length,
                      const Tensor& doc_start) {
  CHECK_EQ(w.dim(0), n.dim(1));
  CHECK_EQ(n.dim(0) % length, 0);
  CHECK_EQ(doc_start.elements(), n.dim(0));
  return {n.dim(1), w.dim(1), dilation, length, doc_start.data<int32_t>()};
}

}  // namespace

void ShortConv(Stream&, const Tensor& n, const Tensor& u, const Tensor& addend, const Tensor& w,
               int64_t dilation, int64_t length, const Tensor& doc_start, Tensor& y) {
  const Geometry g = MakeGeometry(n, w, dilation, length, doc_start);
  DispatchReal(n.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> taps = ByTap(w.data<T>(), g.channels, g.taps);
    const T *in = n.data<T>(), *skip = u.data<T>();
    const T* more = addend.defined() ? addend.data<T>() : nullptr;
    T* out = y.data<T>();
    ForChunks(n.dim(0), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<T> sum(static_cast<size_t>(g.channels));
      for (int64_t t = begin; t < end; ++t) {
        Convolve(g, in, taps.data(), t, sum.data());
        for (int64_t c = 0; c < g.channels; ++c) {
          const T x = sum[static_cast<size_t>(c)];
          const int64_t at = t * g.channels + c;
          out[at] = skip[at] + x / (T(1) + std::exp(-x));
          if (more != nullptr) out[at] += more[at];
        }
      }
    });
  });
}

void ShortConvGrad(Stream& stream, const Tensor& dy, const Tensor& n, const Tensor& w,
                   int64_t dilation, int64_t length, const Tensor& doc_start, Tensor& dn,
                   Tensor& dw) {
  const Geometry g = MakeGeometry(n, w, dilation, length, doc_start);
  const int64_t tokens = n.dim(0), channels = g.channels;
  DispatchReal(n.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> taps = ByTap(w.data<T>(), channels, g.taps);
    const T *in = n.data<T>(), *dout = dy.data<T>();
    T* din = dn.data<T>();
    Tensor slope = Tensor::Empty(stream, n.dtype(), {tokens, channels});
    T* dc = slope.data<T>();
    ChunkSums<T> sums(tokens, channels * g.taps);
    ForChunks(tokens, [&](int64_t chunk, int64_t begin, int64_t end) {
      T* dtaps = sums.row(chunk);
      for (int64_t t = begin; t < end; ++t) {
        T* d = dc + t * channels;
        Convolve(g, in, taps.data(), t, d);
        for (int64_t c = 0; c < channels; ++c) {
          const T sigma = T(1) / (T(1) + std::exp(-d[c]));
          d[c] = dout[t * channels + c] * sigma * (T(1) + d[c] * (T(1) - sigma));
        }
        for (int64_t j = 0; j < g.taps; ++j) {
          const int64_t source = g.Source(t, j);
          if (source < 0) continue;
          const T* from = in + source * channels;
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) dtaps[j * channels + c] += d[c] * from[c];
        }
      }
    });
    std::vector<T> total(static_cast<size_t>(channels * g.taps));
    sums.AddTo(total.data());
    T* dweight = dw.data<T>();
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t j = 0; j < g.taps; ++j)
        dweight[c * g.taps + j] += total[static_cast<size_t>(j * channels + c)];
    ForRows(tokens, channels, [&](int64_t t) {
      T* d = din + t * channels;
      std::fill_n(d, channels, T(0));
      for (int64_t j = 0; j < g.taps; ++j) {
        const int64_t reader = g.Reader(t, j);
        if (reader < 0) continue;
        const T *from = dc + reader * channels, *tap = taps.data() + j * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) d[c] += tap[c] * from[c];
      }
    });
  });
}

}  // namespace mneme::cpu
