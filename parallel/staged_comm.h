// Collectives between GPUs through the memory of their hosts: for ranks that share a GPU, which
// NCCL does not join. Slow; every call waits for the device. Sums are in rank order, the bits those
// of CPUs.
#pragma once

#include <memory>

#include "parallel/comm.h"

namespace mneme {

// The group of the transport's members. Takes tensors of any device; may not be recorded.
std::unique_ptr<Comm> MakeStagedComm(std::unique_ptr<Transport> transport);

}  // namespace mneme
