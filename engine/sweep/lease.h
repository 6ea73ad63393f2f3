// Who works at a cell, agreed through files on a shared folder, NFS among them.
//
// A lease has generations, files lease.1, lease.2, ... in the cell's folder; the highest counts. A
// generation is made by link(2), which exactly one of any number of processes can do, and is never
// removed, so that nobody can take away a lease that another has just taken. Its holder rewrites
// the file with a rising number; whoever sees the same content for `seconds` of its own clock may
// make the next generation. No clocks of two machines are compared.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace mneme {

// A lease that this process holds.
class Lease {
 public:
  // False where somebody else has made a later generation: this process has lost the cell.
  // Call several times in `seconds`; a beat that cannot be written shows as none.
  bool Beat();
  // Says that the cell is free at once.
  void Release();
  int64_t generation() const { return generation_; }

 private:
  friend class LeaseBook;
  Lease(std::string folder, int64_t generation, std::string owner)
      : folder_(std::move(folder)), generation_(generation), owner_(std::move(owner)) {}
  void Write(const std::string& state);

  std::string folder_;
  int64_t generation_ = 0;
  std::string owner_;
  int64_t beats_ = 0;
};

// The highest generation, 0 where there is none, and its holder's line.
struct LeaseState {
  int64_t generation = 0;
  std::string content;  // "owner beat 17" or "owner free"
  bool free() const { return generation == 0 || content.ends_with(" free\n"); }
  std::string owner() const;  // "unknown" where that is no such line
};
LeaseState ReadLease(const std::string& folder);

// What one process has seen of leases, and the leases that it makes.
class LeaseBook {
 public:
  // owner: names this process among all ("host:pid").
  LeaseBook(std::string owner, double seconds) : owner_(std::move(owner)), seconds_(seconds) {}

  // Whether the cell of `folder` may be taken: nobody holds it, or whoever does has not been heard
  // of for `seconds`, as far as this book has seen; a look counts as one.
  bool IsFree(const std::string& folder, const LeaseState& lease);
  // Takes the cell of `folder`, which exists; nothing where another holds it or was faster. Errors:
  // files that cannot be made there.
  absl::StatusOr<std::optional<Lease>> Take(const std::string& folder);

 private:
  struct Sight {
    int64_t generation = 0;
    std::string content;
    std::chrono::steady_clock::time_point since;
  };
  std::string owner_;
  double seconds_;
  std::map<std::string, Sight> seen_;
};

}  // namespace mneme
