#include "kernels/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {
namespace {

// One head of one sample: pointers to position 0 and the stride from one position to the next.
template <class T>
struct Head {
  const AttentionShape& shape;
  double scale;
  const T* q;
  const T* kv;
  const T* k_pe;
  const int32_t* start;
  int64_t q_stride;
  int64_t kv_stride;

  Head(const AttentionShape& s, double factor, int64_t row, int64_t head, const Tensor& q_all,
       const Tensor& kv_all, const Tensor& k_pe_all, const Tensor& doc_start)
      : shape(s),
        scale(factor),
        q_stride(s.heads * (s.nope + s.rope)),
        kv_stride(s.heads * (s.nope + s.value)) {
    const int64_t first = row * s.length;
    q = q_all.data<T>() + first * q_stride + head * (s.nope + s.rope);
    kv = kv_all.data<T>() + first * kv_stride + head * (s.nope + s.value);
    k_pe = k_pe_all.data<T>() + first * s.rope;
    start = doc_start.data<int32_t>() + first;
  }

  double Score(int64_t t, int64_t s) const {
    double sum = 0;
    for (int64_t i = 0; i < shape.nope; ++i) {
      sum += static_cast<double>(q[t * q_stride + i]) * kv[s * kv_stride + i];
    }
    for (int64_t i = 0; i < shape.rope; ++i) {
      sum += static_cast<double>(q[t * q_stride + shape.nope + i]) * k_pe[s * shape.rope + i];
    }
    return scale * sum;
  }
};

void CheckShapes(const AttentionShape& s, const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                 const Tensor& doc_start, const Tensor& lse) {
  const int64_t tokens = s.rows * s.length;
  CHECK_EQ(q.elements(), tokens * s.heads * (s.nope + s.rope));
  CHECK_EQ(kv.elements(), tokens * s.heads * (s.nope + s.value));
  CHECK_EQ(k_pe.elements(), tokens * s.rope);
  CHECK_EQ(doc_start.elements(), tokens);
  CHECK_EQ(lse.elements(), tokens * s.heads);
}

// p [t + 1] = probabilities of position t; returns the log-sum-exp of its scores.
template <class T>
double Attend(const Head<T>& head, int64_t t, double* p) {
  const int64_t first = head.start[t];
  double most = -INFINITY;
  for (int64_t s = first; s <= t; ++s) most = std::max(most, p[s] = head.Score(t, s));
  double sum = 0;
  for (int64_t s = first; s <= t; ++s) sum += p[s] = std::exp(p[s] - most);
  for (int64_t s = first; s <= t; ++s) p[s] /= sum;
  return most + std::log(sum);
}

// Gradients of one head of one sample, added into dq, dkv and dk_pe.
template <class T>
void HeadGrad(const Head<T>& head, const T* dout, const T* out, T* dq, T* dkv, T* dk_pe) {
  const AttentionShape& n = head.shape;
  const int64_t out_stride = n.heads * n.value;
  std::vector<double> p(static_cast<size_t>(n.length));
  for (int64_t t = 0; t < n.length; ++t) {
    Attend(head, t, p.data());
    const T* d = dout + t * out_stride;
    double delta = 0;
    for (int64_t i = 0; i < n.value; ++i)
      delta += static_cast<double>(d[i]) * out[t * out_stride + i];
    for (int64_t s = head.start[t]; s <= t; ++s) {
      const double prob = p[static_cast<size_t>(s)];
      const T* v = head.kv + s * head.kv_stride + n.nope;
      T* dk = dkv + s * head.kv_stride;
      double dp = 0;
      for (int64_t i = 0; i < n.value; ++i) {
        dp += static_cast<double>(d[i]) * v[i];
        dk[n.nope + i] += static_cast<T>(prob * d[i]);
      }
      const T ds = static_cast<T>(head.scale * prob * (dp - delta));
      const T* q = head.q + t * head.q_stride;
      T* dqt = dq + t * head.q_stride;
      for (int64_t i = 0; i < n.nope; ++i) {
        dqt[i] += ds * head.kv[s * head.kv_stride + i];
        dk[i] += ds * q[i];
      }
      for (int64_t i = 0; i < n.rope; ++i) {
        dqt[n.nope + i] += ds * head.k_pe[s * n.rope + i];
        dk_pe[s * n.rope + i] += ds * q[n.nope + i];
      }
    }
  }
}

}  // namespace

void Attention(Stream&, const AttentionShape& n, double scale, const Tensor& q, const Tensor& kv,
               const Tensor& k_pe, const Tensor& doc_start, Tensor& out, Tensor& lse) {
  CheckShapes(n, q, kv, k_pe, doc_start, lse);
  DispatchReal(q.dtype(), [&](auto real) {
    using T = decltype(real);
    T* outs = out.data<T>();
    T* lses = lse.data<T>();
    ParallelTasks(n.rows * n.heads, [&](int64_t task) {
      const int64_t row = task / n.heads;
      const int64_t h = task % n.heads;
      const Head<T> head(n, scale, row, h, q, kv, k_pe, doc_start);
      std::vector<double> p(static_cast<size_t>(n.length));
      for (int64_t t = 0; t < n.length; ++t) {
        const int64_t at = (row * n.length + t) * n.heads + h;
        lses[at] = static_cast<T>(Attend(head, t, p.data()));
        for (int64_t i = 0; i < n.value; ++i) {
          double sum = 0;
          for (int64_t s = head.start[t]; s <= t; ++s) {
            sum += p[static_cast<size_t>(s)] * head.kv[s * head.kv_stride + n.nope + i];
          }
          outs[at * n.value + i] = static_cast<T>(sum);
        }
      }
    });
  });
}

// One task a sample: all heads of it add to the shared rotary key.
void AttentionGrad(Stream&, const AttentionShape& n, double scale, const Tensor& dout,
                   const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& doc_start,
                   const Tensor& out, const Tensor& lse, Tensor& dq, Tensor& dkv, Tensor& dk_pe) {
  CheckShapes(n, q, kv, k_pe, doc_start, lse);
  CHECK_EQ(dq.elements(), q.elements());
  CHECK_EQ(dkv.elements(), kv.elements());
  CHECK_EQ(dk_pe.elements(), k_pe.elements());
  DispatchReal(q.dtype(), [&](auto real) {
    using T = decltype(real);
    T* dqs = dq.data<T>();
    T* dkvs = dkv.data<T>();
    T* dk_pes = dk_pe.data<T>();
    std::fill_n(dqs, dq.elements(), T{0});
    std::fill_n(dkvs, dkv.elements(), T{0});
    std::fill_n(dk_pes, dk_pe.elements(), T{0});
    ParallelTasks(n.rows, [&](int64_t row) {
      const int64_t first = row * n.length;
      for (int64_t h = 0; h < n.heads; ++h) {
        const Head<T> head(n, scale, row, h, q, kv, k_pe, doc_start);
        const int64_t out_at = (first * n.heads + h) * n.value;
        HeadGrad<T>(head, dout.data<T>() + out_at, out.data<T>() + out_at,
                    dqs + first * head.q_stride + h * (n.nope + n.rope),
                    dkvs + first * head.kv_stride + h * (n.nope + n.value),
                    dk_pes + first * n.rope);
      }
    });
  });
}

}  // namespace mneme::cpu
