// Sinkhorn's projection of one n x n matrix and its gradient (docs/mathematics.md); i = output
// stream, j = input.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace mneme::cpu {

// Keeps the matrix after every half iteration, for the way back. One a thread. With S = softmax
// over i of the logits and A = S + eps: half iteration 1 divides rows of A by (their sum + eps), 2
// columns, 3 rows and so on to 2 · iterations − 1, which divides rows: the weights of an output
// stream sum to 1.
template <class T>
class Sinkhorn {
 public:
  Sinkhorn(int64_t n, int64_t iterations, double eps)
      : n_(n),
        iterations_(iterations),
        eps_(static_cast<T>(eps)),
        softmax_(static_cast<size_t>(n * n)),
        states_(static_cast<size_t>(2 * iterations * n * n)),
        divisors_(static_cast<size_t>(2 * iterations * n)) {}

  // logits [n, n]. Result [n, n], valid until the next call.
  const T* Forward(const T* logits) {
    Softmax(logits);
    T* state = states_.data();
    for (int64_t k = 0; k < n_ * n_; ++k) state[k] = softmax_[static_cast<size_t>(k)] + eps_;
    for (int64_t half = 1; half < 2 * iterations_; ++half) {
      const T* before = State(half - 1);
      Normalize(half, before, State(half));
    }
    return State(2 * iterations_ - 1);
  }

  // grad [n, n]: of the result on entry, of the logits on return. Through a line y = v / d, d = Σv
  // + eps: dv = (dy − dy·y) / d. REQUIRES: Forward was called.
  void Backward(T* grad) {
    for (int64_t half = 2 * iterations_ - 1; half > 0; --half) {
      const T *y = State(half), *divisor = Divisors(half);
      for (int64_t line = 0; line < n_; ++line) {
        T inner = 0;
        for (int64_t k = 0; k < n_; ++k) inner += grad[At(half, line, k)] * y[At(half, line, k)];
        for (int64_t k = 0; k < n_; ++k) {
          T& g = grad[At(half, line, k)];
          g = (g - inner) / divisor[line];
        }
      }
    }
    for (int64_t j = 0; j < n_; ++j) {
      T inner = 0;
      for (int64_t i = 0; i < n_; ++i)
        inner += grad[i * n_ + j] * softmax_[static_cast<size_t>(i * n_ + j)];
      for (int64_t i = 0; i < n_; ++i)
        grad[i * n_ + j] = softmax_[static_cast<size_t>(i * n_ + j)] * (grad[i * n_ + j] - inner);
    }
  }

 private:
  // The matrix after a half iteration [n, n], and what its lines were divided by [n].
  T* State(int64_t half) { return states_.data() + half * n_ * n_; }
  T* Divisors(int64_t half) { return divisors_.data() + half * n_; }
  // Element k of a line: half iterations 1, 3, … divide rows (over j), 2, 4, … columns (over i).
  int64_t At(int64_t half, int64_t line, int64_t k) const {
    return half % 2 ? line * n_ + k : k * n_ + line;
  }

  // Over i, for each j.
  void Softmax(const T* logits) {
    for (int64_t j = 0; j < n_; ++j) {
      T top = logits[j], sum = 0;
      for (int64_t i = 1; i < n_; ++i) top = std::max(top, logits[i * n_ + j]);
      for (int64_t i = 0; i < n_; ++i)
        sum += softmax_[static_cast<size_t>(i * n_ + j)] = std::exp(logits[i * n_ + j] - top);
      for (int64_t i = 0; i < n_; ++i) softmax_[static_cast<size_t>(i * n_ + j)] /= sum;
    }
  }

  void Normalize(int64_t half, const T* before, T* after) {
    for (int64_t line = 0; line < n_; ++line) {
      T sum = eps_;
      for (int64_t k = 0; k < n_; ++k) sum += before[At(half, line, k)];
      Divisors(half)[line] = sum;
      for (int64_t k = 0; k < n_; ++k) after[At(half, line, k)] = before[At(half, line, k)] / sum;
    }
  }

  int64_t n_, iterations_;
  T eps_;
  std::vector<T> softmax_, states_, divisors_;
};

}  // namespace mneme::cpu
