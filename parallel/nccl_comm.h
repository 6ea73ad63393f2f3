// Collectives between GPUs, one a rank, over NCCL.
//
// - Calls return once they are queued on the stream that they are given, and may be recorded
//   (kernels/core/graph.h) by all members at once. Ranks meet in order of their calls: every member
//   makes the same ones in the same order, on this group and across groups.
// - NCCL makes the sums, in an order of its own: the same bits on every member, and from run to run
//   of one layout on the same machine, but not those of rank order.
// - Kinds: sums of f32, f64, bf16, i32, i64; maxima of i32 and i64 only (NCCL's of floats lose a
//   NaN). What is only moved may be of any dtype.
// - ExchangeCounts is the host's, over the group's transport: it neither waits for the device nor
//   is queued.
// - bytes_sent counts a call when it is queued; what a recording repeats is counted once.
// - An error of NCCL, in the call or since the last one, ends the run with one line. NVLink
//   multicast is off, unless the environment turns it on (NCCL_NVLS_ENABLE).
#pragma once

#include <memory>

#include "kernels/core/device.h"
#include "parallel/comm.h"

namespace mneme {

// Whether this program was built with NCCL.
bool HasNccl();

// The group of the transport's members, each on a GPU of its own. Collective over them; waits for
// all. REQUIRES: HasNccl. Recordings that hold its calls are gone before it is.
std::unique_ptr<Comm> MakeNcclComm(std::unique_ptr<Transport> transport, Device device);

}  // namespace mneme
