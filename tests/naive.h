// Matmul and attention again, in plain loops over double: who checks the reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/ops/attention.h"

namespace mneme::test {

using Doubles = std::vector<double>;

// op(a) [m, k] · op(b) [k, n]; a is stored [k, m] where `ta`, b is stored [n, k] where `tb`.
inline Doubles NaiveMatmul(int64_t m, int64_t n, int64_t k, const double* a, bool ta,
                           const double* b, bool tb) {
  Doubles c(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l) {
        c[static_cast<size_t>(i * n + j)] +=
            (ta ? a[l * m + i] : a[i * k + l]) * (tb ? b[j * k + l] : b[l * n + j]);
      }
    }
  }
  return c;
}

// out [T, H, value] by materialising each key whole, each score, each probability.
inline Doubles NaiveAttention(const AttentionShape& n, double scale, const Doubles& q,
                              const Doubles& kv, const Doubles& k_pe,
                              const std::vector<int64_t>& doc_start) {
  const int64_t tokens = n.rows * n.length;
  const int64_t dq = n.nope + n.rope;
  const int64_t dkv = n.nope + n.value;
  const auto at = [](const Doubles& x, int64_t i) { return x[static_cast<size_t>(i)]; };
  Doubles out(static_cast<size_t>(tokens * n.heads * n.value));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < n.heads; ++h) {
      const int64_t row = t / n.length * n.length;
      double total = 0;
      Doubles mix(static_cast<size_t>(n.value));
      for (int64_t s = row + doc_start[static_cast<size_t>(t)]; s <= t; ++s) {
        double score = 0;
        for (int64_t i = 0; i < dq; ++i) {
          const double key =
              i < n.nope ? at(kv, (s * n.heads + h) * dkv + i) : at(k_pe, s * n.rope + i - n.nope);
          score += at(q, (t * n.heads + h) * dq + i) * key;
        }
        const double weight = std::exp(scale * score);
        total += weight;
        for (int64_t i = 0; i < n.value; ++i) {
          mix[static_cast<size_t>(i)] += weight * at(kv, (s * n.heads + h) * dkv + n.nope + i);
        }
      }
      for (int64_t i = 0; i < n.value; ++i) {
        out[static_cast<size_t>((t * n.heads + h) * n.value + i)] = at(mix, i) / total;
      }
    }
  }
  return out;
}

}  // namespace mneme::test
