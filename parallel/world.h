// This rank among all: host-side agreement, and the way out together. One World a rank, made in main (MpiWorld) or by
// ThreadWorld::Run (ranks as threads of one process).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "parallel/comm.h"

namespace mneme {

class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string host() const = 0;

  virtual void Barrier() = 0;
  // Root's bytes on every rank.
  virtual std::string Broadcast(const std::string& bytes, int root = 0) = 0;
  // Everyone's bytes, by rank.
  virtual std::vector<std::string> AllGather(const std::string& bytes) = 0;
  virtual int64_t Sum(int64_t value) = 0;
  virtual int64_t Max(int64_t value) = 0;

  // A Comm over all ranks. Its Split makes the axes.
  virtual std::unique_ptr<Comm> MakeComm() = 0;

  // Every phase that can fail on one rank ends here: all ranks get the status of the lowest rank that failed, or OK.
  // No rank enters a collective after another has failed.
  absl::Status Agree(const absl::Status& mine);
};

// Starts MPI (once a process) and ends it. Started without mpirun it is one rank. Sets the abort hook to MPI_Abort.
class MpiWorld : public World {
 public:
  // Refuses srun without PMIx and similar half-started launches with one message.
  static absl::StatusOr<std::unique_ptr<World>> Start(int* argc, char*** argv);
};

// n ranks as n threads with a barrier and a board of pointers: deterministic, clean under ThreadSanitizer.
class ThreadWorld : public World {
 public:
  // Runs body(world) on n threads (OpenMP limited to one thread each where n > 1) and returns when all have returned.
  static void Run(int ranks, const std::function<void(World&)>& body);
};

// A Comm of one.
std::unique_ptr<Comm> MakeSoloComm();

}  // namespace mneme
