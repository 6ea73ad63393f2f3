// Which device the tests ask: the CPU, or, with MNEME_TEST_DEVICE=gpu, the first GPU.
//
// On a machine without a GPU a program under MNEME_TEST_DEVICE=gpu says so and exits with
// kSkippedExitCode, before its first test.
#pragma once

#include <string>

#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"

namespace mneme::test {

inline constexpr int kSkippedExitCode = 77;  // known to tests/CMakeLists.txt

// Whether the GPU is asked.
bool TestingGpu();
// The stream of all GPU tests; its pool is never destroyed: what a case captures may outlive a run.
// REQUIRES: TestingGpu().
Stream& GpuStream();

// The bytes of a tensor of either device, once all queued work is done.
std::string Bytes(const Tensor& t);

}  // namespace mneme::test
