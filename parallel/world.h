// This rank among all: host-side agreement, and the way out together. One World a rank, made in
// main (MpiWorld) or by ThreadWorld::Run (ranks as threads of one process).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm.h"
#include "parallel/pulse.h"
#include "parallel/transport.h"

namespace mneme {

class Watchdog;
struct WatchdogOptions;

// Owned by main (or by ThreadWorld::Run), used by one thread of its rank. Every call but the
// accessors is collective. Comms made from it must be gone before it is.
class World {
 public:
  // `finish` runs last, after the transport is gone; may be empty.
  World(std::unique_ptr<Transport> transport, std::string host, std::function<void()> finish);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return transport_->rank(); }
  int size() const { return transport_->size(); }
  const std::string& host() const { return host_; }
  const std::string& name() const { return name_; }

  // What a message of Fatal calls a world of one rank that is not alone in its process.
  void SetName(const std::string& name) { name_ = name; }

  // What this rank shows of itself.
  Pulse& pulse() { return pulse_; }
  // From here to the world's end (watchdog.h). Again: with the new options.
  void StartWatchdog(const WatchdogOptions& options);

  // For Fatal: where this rank stands. Where another has said why all end, it gives that end its
  // time first, so that one line is printed and one exit code counts.
  std::string BeginFatal();

  void Barrier();
  // Root's bytes on every rank.
  std::string Broadcast(const std::string& bytes, int root = 0);
  // Everyone's bytes, by rank.
  std::vector<std::string> AllGather(const std::string& bytes);
  // Everyone's numbers, by rank; each gives equally many.
  std::vector<int64_t> Everyones(absl::Span<const int64_t> values);
  int64_t Sum(int64_t value);
  int64_t Max(int64_t value);

  // Whether two ranks compute on one GPU. `device` is this rank's.
  bool SharesGpus(const Device& device);
  // A Comm over all ranks for tensors of `device`, which is a CPU on all or a GPU on all. Its Split
  // makes the axes. GPUs: NCCL; with `peer` beside that each other's memory (peer_comm.h); or the
  // hosts' memory where ranks share one (staged_comm.h).
  std::unique_ptr<Comm> MakeComm(const Device& device = {}, bool peer = false);

  // Every phase that can fail on one rank ends here: all ranks get the status of the lowest rank
  // that failed, or OK. No rank enters a collective after another has failed.
  absl::Status Agree(const absl::Status& mine);

 private:
  InFlight Note(Collective collective);
  void Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv);

  std::unique_ptr<Transport> transport_;
  std::string host_;
  std::function<void()> finish_;
  Pulse pulse_;
  std::unique_ptr<Watchdog> watchdog_;
  std::string name_;
};

// Ranks as processes.
class MpiWorld {
 public:
  // Starts MPI; the World ends it (once a process: MPI cannot start again). Sets the abort hook: a
  // Fatal on one rank ends all. Without a launcher it is one rank and no MPI, whose start takes a
  // second and a daemon. Errors (FailedPrecondition): srun without PMIx, torchrun.
  static absl::StatusOr<std::unique_ptr<World>> Start(int* argc, char*** argv);
};

// Ranks as threads of one process: deterministic, clean under ThreadSanitizer.
class ThreadWorld {
 public:
  // A world of one rank for each of `worlds` bodies, on as many threads, which share the
  // processors: runs that have nothing to do with each other. Returns when all have returned.
  static void RunApart(int worlds, const std::function<void(int number, World&)>& body);
  // Runs body(world) on n threads (OpenMP limited to one thread each where n > 1) and returns when
  // all have returned.
  static void Run(int ranks, const std::function<void(World&)>& body);
};

}  // namespace mneme
