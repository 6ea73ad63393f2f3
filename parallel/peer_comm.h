// Collectives between GPUs of one host that write into each other's memory (kernels/core/peer.h);
// everything but all-to-alls is NCCL's.
//
// - A group goes over NCCL alone until its members share memory (Comm::ShareMemory), and for good
//   where they cannot: on several hosts, in one process, more than kMostPeers of them, GPUs that do
//   not reach each other. way() says why. All members take the same way.
// - Rows are only moved, and stand in the order that NCCL's have, so either way gives the same
//   bits. Calls are queued and may be recorded, as NCCL's.
// - What comes is put into the tensors themselves where they lie in the shared stretch; else, where
//   the stretch was full or they are small, it comes through a bounce buffer, slowly.
// - The transport's members are processes. 17 MiB of device memory a group that shares.
#pragma once

#include <memory>
#include <string>

#include "kernels/core/device.h"
#include "parallel/comm.h"

namespace mneme {

// The group of the transport's members, each on a GPU of its own; `host`: the name of this one's.
// Collective, waits for all. REQUIRES: HasNccl. Recordings that hold its calls, and what runs of
// them, are gone before it is.
std::unique_ptr<Comm> MakePeerComm(std::unique_ptr<Transport> transport, Device device,
                                   const std::string& host);

}  // namespace mneme
