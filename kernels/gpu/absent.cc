// A build without CUDA.
#include "kernels/core/driver.h"
#include "kernels/core/part_clock.h"
#include "kernels/core/peer.h"
#include "kernels/kernels.h"

namespace mneme {

const Driver* GpuDriver() { return nullptr; }
const Kernels* GpuKernels() { return nullptr; }
const Marker* GpuMarker() { return nullptr; }
const PeerDriver* GpuPeers() { return nullptr; }

}  // namespace mneme
