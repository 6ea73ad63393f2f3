// The versions of the attention op on a GPU. kernels/gpu/attention.cu chooses.
#pragma once

#include "kernels/core/stream.h"
#include "kernels/gpu/device/attention.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {

// attention.cu: any width, plain fp32 arithmetic.
template <class T>
void AttentionPlain(Stream& stream, const AttentionArgs<T>& n);
template <class T>
void AttentionGradPlain(Stream& stream, const AttentionArgs<T>& n);

// attention_mma.cu: bf16 tensor cores of any GPU since sm_80. REQUIRES: AttentionMmaServes.
bool AttentionMmaServes(const AttentionShape& n);
void AttentionMma(Stream& stream, const AttentionArgs<bf16>& n);
void AttentionGradMma(Stream& stream, const AttentionArgs<bf16>& n);

// attention_cudnn.cu: causal, without documents.
bool AttentionCudnnServes(Stream& stream, const AttentionArgs<bf16>& n, bool backward);
void AttentionCudnn(Stream& stream, const AttentionArgs<bf16>& n);
void AttentionGradCudnn(Stream& stream, const AttentionArgs<bf16>& n, bf16* dk_pe);

}  // namespace mneme::gpu
