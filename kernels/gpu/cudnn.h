// cuDNN's fused attention. cudnn.cc alone knows cuDNN and its frontend.
#pragma once

#include <cstdint>

#include "kernels/core/stream.h"

namespace mneme::gpu {

// Causal attention of bf16 rows: token t of sample b, head h stands at b · length · stride +
// t · stride + h · width of its tensor, one stride a tensor; lse likewise [b, t, h] with
// `lse_stride`. Fewer heads than a stride holds make a group of heads.
struct Sdpa {
  int64_t rows = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t width = 0;  // of queries and keys
  int64_t value = 0;
  int64_t v_step = 0;    // from one head's value to the next
  int64_t q_stride = 0;  // likewise dq, k, dk
  int64_t v_stride = 0;  // likewise dv
  int64_t out_stride = 0;
  int64_t lse_stride = 0;
  float scale = 0;

  friend auto operator<=>(const Sdpa&, const Sdpa&) = default;
};

// Whether cuDNN has a plan for it; makes and keeps it on the stream. The backward one is always
// deterministic: it stores the gradients of all scores, rows · heads · length² · 2 bytes.
bool SdpaServes(Stream& stream, const Sdpa& n, bool backward);

// REQUIRES: SdpaServes of that direction.
void SdpaForward(Stream& stream, const Sdpa& n, const void* q, const void* k, const void* v,
                 void* out, float* lse);
void SdpaBackward(Stream& stream, const Sdpa& n, const void* q, const void* k, const void* v,
                  const void* out, const float* lse, const void* dout, void* dq, void* dk,
                  void* dv);

}  // namespace mneme::gpu
