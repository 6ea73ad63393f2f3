// What differs between devices below the ops: memory, queues of work, copies, recorded work.
//
// Errors of the machine end in Fatal with the call's text, except where a return value says so.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/core/device.h"

namespace mneme {

// What the driver tells of one GPU.
struct GpuInfo {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // at the time of the call
  std::string id;          // "0000:3b:00.0": the same for every process that sees this GPU
};

// One table a kind of device, filled once, used by any thread; a queue is used by one thread at a
// time. `queue` is what open_queue or open_side returned; addresses are the device's.
struct Driver {
  // On the device of this number; bytes > 0. nullptr where the device has no such memory left.
  void* (*allocate)(int device, int64_t bytes);
  // What allocate returned, when no queue uses it any more; may wait for the device.
  void (*release)(void* block);
  // A queue with the library handles that ops on it need. On the CPU: nullptr.
  void* (*open_queue)(int device);
  // A queue for the exchanges of another one's work (kernels/core/side.h): where both have
  // something to do it goes first. Closed as the others are.
  void* (*open_side)(int device);
  void (*close_queue)(void* queue);  // waits for its work
  // Returns when all that the queue was given is done.
  void (*synchronize)(void* queue);
  void (*zero)(void* queue, void* to, int64_t bytes);
  // `host` may be reused when the call returns; the copy itself is ordered by the queue.
  void (*upload)(void* queue, const void* host, void* to, int64_t bytes);
  // Returns when the bytes have arrived.
  void (*download)(void* queue, const void* from, void* host, int64_t bytes);
  // The same in two halves (kernels/core/arrival.h), for at most kMostSent bytes. `receive` waits
  // for what was queued before `send` and no more; once for each; bytes may be 0.
  static constexpr int64_t kMostSent = int64_t{128} << 10;
  void* (*send)(void* queue, const void* from, int64_t bytes);
  void (*receive)(void* queue, void* sent, void* host, int64_t bytes);

  // What a queue was given so far; and another queue of the device goes on when that is done. Once
  // for each mark.
  void* (*mark)(void* queue);
  void (*await)(void* queue, void* mark);
  // The time at which the queue gets here: a new stamp, or `stamp` again. Seconds from one to
  // another, when both were reached. A recording stamps anew each time that it is replayed.
  void* (*stamp)(void* queue, void* stamp);
  double (*seconds)(void* from, void* to);
  void (*release_stamp)(void* stamp);

  // Recorded work (kernels/core/graph.h); null where the device cannot record.
  void (*begin_record)(void* queue);
  void* (*end_record)(void* queue);  // what was queued since, ready to be replayed
  void (*replay)(void* queue, void* record);
  void (*release_record)(void* record);

  // GPUs that this process sees; where there is none, `why` says so in the driver's words.
  int (*count)(std::string* why);
  GpuInfo (*info)(int device);  // null on a CPU, and so is unsupported
  // Empty, or NoCodeFor the device.
  std::string (*unsupported)(int device);
};

// Of a GPU that this program has no code for: why, and the command that rebuilds for it, or that it
// is too old for any.
std::string NoCodeFor(const GpuInfo& info);

const Driver& CpuDriver();
const Driver* GpuDriver();  // nullptr in a build without CUDA
// Memory that is counted but not there (kernels/core/dry.h).
const Driver& DryDriver();
// REQUIRES: a device that this build has.
const Driver& DriverOf(const Device& device);

}  // namespace mneme
