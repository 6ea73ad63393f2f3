// Who computes where, and how fast bytes travel between them: said once at the start of a run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/machine/machine.h"
#include "parallel/world.h"

namespace mneme {

// One rank. Rates: bytes a second that it sends to others in an all-to-all, one an axis.
struct RankRow {
  std::string host;
  std::string device;
  int64_t processors = 0;  // that it may use
  std::vector<double> rates;
  std::string way = "";  // of its bytes to other GPUs; empty on CPUs
};

struct RankTable {
  std::vector<std::string> axes;  // of more than one rank
  std::vector<RankRow> ranks;
};

// Processors that this process may use; 0 where the system does not say.
int64_t AllowedProcessors();

// Sends for at most about a third of a second in all. Axes of equal size have the same members and
// are measured once. Collective; the same table on every rank.
RankTable MeasureRanks(World& world, Machine& machine);

// A line a rank under a line of titles, and one of each way between GPUs that some rank's bytes
// take; without the last line end.
std::string RankTableText(const RankTable& table);

// A line an axis on which some rank sends less than a tenth of `link` bytes a second, which is the
// figure of `device_file`; empty where there is none. Says nothing of a host with fewer processors
// than ranks.
std::string SlowAxesText(const RankTable& table, double link, const std::string& device_file);

}  // namespace mneme
