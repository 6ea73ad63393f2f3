// Matrix products on plain pointers: what the CPU ops build on. gemm.cc alone knows the BLAS
// library.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/ops/matmul.h"

namespace mneme::cpu {

// c = alpha · op(a) · op(b) + beta · c; op(a) is m × k, op(b) k × n, all row-major with the given
// row strides. Where beta is 0, c is not read. Empty products are legal. T is float or double.
template <class T>
void Gemm(Trans ta, Trans tb, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
          const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

// c = alpha · a · aᵀ (or aᵀ · a where `trans` is kYes), both triangles written. a has `n` rows
// (columns) and k columns (rows); c is n × n with row stride n. Costs half a Gemm.
template <class T>
void Gram(Trans trans, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, T* c);

// The library chooses its kernels by a list of processors; one that is newer than the list gets
// those of 2004 (measured: a fifth of the rate). Given the library's choice and what the processor
// has: the name that OPENBLAS_CORETYPE should have instead, empty where the choice will do.
std::string BlasCoreFor(const std::string& chosen, bool has_avx512);
// The same for this process on this processor.
std::string BetterBlasCore();

}  // namespace mneme::cpu
