// Dense matrix products through cuBLASLt: the matmuls that we do not write.
#pragma once

#include <cublasLt.h>

#include <source_location>

#include "kernels/ops/matmul.h"

namespace mneme::gpu {

// Ends the run where a cuBLASLt call failed.
void CheckBlas(cublasStatus_t status, std::source_location at = std::source_location::current());

// c[i] = alpha · op(a[i]) · op(b[i]) + beta · addend[i] for i < batch; row-major, op transposes as
// the flag says; op(a) [m, k], op(b) [k, n], c [m, n]. Leading dims are elements between rows,
// strides elements between members of the batch. a and b of one dtype (bf16 or f32), c of that or
// f32. Accumulates in f32 (no TF32); the same bits every time. Plans are chosen from
// cuBLASLt's offers once a shape and kept.
struct BlasProduct {
  Trans ta = Trans::kNo;
  Trans tb = Trans::kNo;
  int64_t m = 0, n = 0, k = 0;
  int64_t batch = 1;
  DType in = DType::kF32;
  DType out = DType::kF32;
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  const void* addend = nullptr;  // as c lies, of c's dtype; nullptr: c itself
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;
  float alpha = 1.0f;
  float beta = 0.0f;
};
void Multiply(Stream& stream, const BlasProduct& product);

}  // namespace mneme::gpu
