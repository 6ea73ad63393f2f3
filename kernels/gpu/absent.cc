// A build without CUDA.
#include "kernels/core/driver.h"
#include "kernels/core/part_clock.h"
#include "kernels/kernels.h"

namespace mneme {

const Driver* GpuDriver() { return nullptr; }
const Kernels* GpuKernels() { return nullptr; }
const Marker* GpuMarker() { return nullptr; }

}  // namespace mneme
