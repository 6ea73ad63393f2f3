// How ranks share the work. Degrees are of the whole job; every rank also takes its part of the
// batch.
#pragma once

#include <cstdint>
#include <string>

namespace mneme {

// What an axis of 0 comes to, and whether axes divide the world: MakeLayout (parallel/layout.h).
struct ParallelConfig {
  int64_t expert = 1;
  int64_t memory = 1;
  double expert_room = 1.5;
  std::string transport = "peer";
  bool overlap = true;
  bool share_device = false;

  template <class V>
  void Visit(V& v) {
    v("expert", expert,
      "ranks that the routed experts are spread over; divides the number of ranks; 0 means all "
      "ranks");
    v("memory", memory,
      "ranks that the Engram rows are spread over; divides the number of ranks; 0 means all ranks");
    v("expert_room", expert_room,
      "most (token, expert) pairs that a rank of a spread expert axis computes at once, as a "
      "multiple of an equal share (at least 1); more are computed in pieces, and once more on the "
      "way back");
    v("transport", transport,
      "how tokens and rows of tables get from GPU to GPU. peer: each GPU writes them straight into "
      "the memory of the others, where the ranks of an axis are on one host, and over NCCL where "
      "not; nccl: over NCCL everywhere; the same numbers",
      {"peer", "nccl"});
    v("overlap", overlap,
      "exchange with other ranks while this one computes; false waits for each exchange where it "
      "starts: the same numbers, for comparison");
    v("share_device", share_device, "allow two ranks on one GPU");
  }
};

}  // namespace mneme
