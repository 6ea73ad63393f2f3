// Pure arithmetic: which ranks share which axis.
//
// The world has two views. Every rank takes its part of the batch (data parallel over all). The
// expert axis cuts the world into replicas of `expert` neighbouring ranks, each replica holding all
// experts once; the memory axis does the same for Engram rows. What is not spread over an axis is
// replicated over its replicas, with optimizer state split among them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/parallel.h"

namespace mneme {

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

// n things in `parts` contiguous ranges, the first n % parts one longer (55 over 4: 14, 14, 14,
// 13).
Range PartOf(int64_t n, int parts, int part);
// The part that holds thing i.
int OwnerOf(int64_t n, int parts, int64_t i);

// Ranks of an axis: each of them learns from every other how many rows come, in one message.
inline constexpr int kMostAxis = 2048;

struct Layout {
  int world = 1;
  int expert = 1;  // size of the expert axis
  int memory = 1;  // size of the memory axis
  // Pairs of (token, expert) that a rank computes at once, as a multiple of an equal share.
  double expert_room = ParallelConfig().expert_room;
  // Neighbouring ranks that share a host; 0: all do.
  int ranks_per_host = 0;
  // All-to-alls of the axes go by peer memory where they can (peer_comm.h). False where no axis
  // exchanges.
  bool peer = false;
  // Whether they can on an axis of this size, as far as hosts and sizes say.
  bool ByPeers(int axis) const;

  // Neighbouring ranks share a replica.
  int expert_coordinate(int rank) const { return rank % expert; }
  int expert_replica(int rank) const { return rank / expert; }
  int expert_replicas() const { return world / expert; }
  int memory_coordinate(int rank) const { return rank % memory; }
  int memory_replica(int rank) const { return rank / memory; }
  int memory_replicas() const { return world / memory; }

  // Ownership of an Engram row: a pure function of the row. Rows are interleaved, so hot and cold
  // ones spread evenly.
  int row_coordinate(int64_t row) const { return static_cast<int>(row % memory); }
  // Which replica keeps the row's optimizer state.
  int row_state_replica(int64_t row) const {
    return static_cast<int>(row / memory % memory_replicas());
  }
};

// How many neighbours share a host, all over: the largest number in whose blocks no host changes.
int RanksPerHost(const std::vector<std::string>& hosts_by_rank);

// Errors: an axis that does not divide the world, with both numbers and the legal values, or one of
// more than kMostAxis ranks.
absl::StatusOr<Layout> MakeLayout(const ParallelConfig& config, int world);

// How the sequences of one update are dealt: `per_rank` each, in `accumulation` micro-batches of
// `micro` (the largest divisor of per_rank that is <= the wanted size).
struct BatchPlan {
  int64_t sequences = 0;
  int64_t per_rank = 0;
  int64_t micro = 0;
  int64_t accumulation = 0;
};
// Errors: a batch that the ranks cannot share equally, with the nearest legal batch sizes and rank
// counts.
absl::StatusOr<BatchPlan> PlanBatch(int64_t sequences, int64_t micro_wanted, int world);

}  // namespace mneme
