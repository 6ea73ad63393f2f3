#include "kernels/cpu/gemm.h"

#include <cblas.h>
#include <strings.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/core/check.h"
#include "kernels/cpu/parallel_for.h"

namespace mneme::cpu {
namespace {

blasint Int(int64_t value) {
  CHECK_GE(value, 0);
  CHECK_LE(value, std::numeric_limits<blasint>::max());
  return static_cast<blasint>(value);
}

// BLAS insists on strides of at least one, even where there is nothing to read.
blasint Stride(int64_t value) { return std::max<blasint>(1, Int(value)); }

CBLAS_TRANSPOSE Flag(Trans t) { return t == Trans::kYes ? CblasTrans : CblasNoTrans; }

// The threads of the BLAS library are those of our own OpenMP team; each keeps the mode it was
// given.
void FlushDenormalsOnTeam() {
  FlushDenormals();
  if (omp_in_parallel() || omp_get_max_threads() == 1) return;
#pragma omp parallel
  FlushDenormals();
}

template <class T>
void ScaleRows(int64_t m, int64_t n, T beta, T* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T{0} ? T{0} : beta * c[i * ldc + j];
  }
}

constexpr int64_t kTile = 32;

// Copies the upper triangle onto the lower one, a tile at a time so that both sides stay in the
// cache.
template <class T>
void Mirror(int64_t n, T* c) {
  for (int64_t i0 = 0; i0 < n; i0 += kTile) {
    for (int64_t j0 = 0; j0 <= i0; j0 += kTile) {
      const int64_t i1 = std::min(n, i0 + kTile);
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t j1 = std::min(i, j0 + kTile);
        for (int64_t j = j0; j < j1; ++j) c[i * n + j] = c[j * n + i];
      }
    }
  }
}

}  // namespace

template <class T>
void Gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
          const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  FlushDenormalsOnTeam();
  if (m == 0 || n == 0) return;
  if (k == 0) {
    ScaleRows(m, n, beta, c, ldc);
    return;
  }
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, Flag(ta), Flag(tb), Int(m), Int(n), Int(k), alpha, a, Stride(lda), b,
                Stride(ldb), beta, c, Stride(ldc));
  } else {
    cblas_dgemm(CblasRowMajor, Flag(ta), Flag(tb), Int(m), Int(n), Int(k), alpha, a, Stride(lda), b,
                Stride(ldb), beta, c, Stride(ldc));
  }
}

template <class T>
void Gram(Trans trans, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, T* c) {
  FlushDenormalsOnTeam();
  if (n == 0) return;
  if (k == 0) {
    ScaleRows(n, n, T{0}, c, n);
    return;
  }
  if constexpr (std::is_same_v<T, float>) {
    cblas_ssyrk(CblasRowMajor, CblasUpper, Flag(trans), Int(n), Int(k), alpha, a, Stride(lda), T{0},
                c, Stride(n));
  } else {
    cblas_dsyrk(CblasRowMajor, CblasUpper, Flag(trans), Int(n), Int(k), alpha, a, Stride(lda), T{0},
                c, Stride(n));
  }
  Mirror(n, c);
}

template void Gemm<float>(Trans, Trans, int64_t, int64_t, int64_t, float, const float*, int64_t,
                          const float*, int64_t, float, float*, int64_t);
template void Gemm<double>(Trans, Trans, int64_t, int64_t, int64_t, double, const double*, int64_t,
                           const double*, int64_t, double, double*, int64_t);
template void Gram<float>(Trans, int64_t, int64_t, float, const float*, int64_t, float*);
template void Gram<double>(Trans, int64_t, int64_t, double, const double*, int64_t, double*);

std::string BlasCoreFor(const std::string& chosen, bool has_avx512) {
  for (const char* good : {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"}) {
    if (strcasecmp(chosen.c_str(), good) == 0) return "";
  }
  return has_avx512 ? "SkylakeX" : "Haswell";  // AVX2 is the least that the program runs on
}

std::string BetterBlasCore() {
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return BlasCoreFor(openblas_get_corename(), avx512);
}

}  // namespace mneme::cpu
