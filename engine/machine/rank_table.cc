#include "engine/machine/rank_table.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <set>

#include "engine/machine/device.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kFar = 0.1;             // below this share of a device's figure a rank is slow
constexpr double kLongSeconds = 0.06;    // of the rounds of one axis
constexpr int64_t kHostBytes = 4 << 20;  // that a rank sends in a round
constexpr int64_t kGpuBytes = 64 << 20;  // likewise; less would time the launch

std::string Rate(double bytes_per_second) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g GB/s", bytes_per_second / 1e9);
  return text;
}

struct Probed {
  double rate;      // bytes a second
  std::string way;  // as found: groups of peers try to share memory when they are asked to
};

// Sends equal parts to all members, again and again; the best round counts, since a busy machine
// can only make one longer.
Probed Probe(World& world, Comm& comm, Device device) {
  Allocator allocator(device);
  Stream stream(device, allocator);
  const int64_t members = comm.size();
  const int64_t part = (device.is_cpu() ? kHostBytes : kGpuBytes) / (members - 1) / 4;
  if (!device.is_cpu()) allocator.Reserve(2 * members * part * 4 + (int64_t{1} << 20));
  const std::string why = comm.ShareMemory(&stream);
  const auto make = [&] { return Tensor::Zeros(stream, DType::kI32, {members, part}); };
  const Tensor in = make();
  Tensor out = make();
  const std::vector<int64_t> one(static_cast<size_t>(members), 1);
  const auto time = [&] {
    stream.Synchronize();
    const Clock::time_point begin = Clock::now();
    comm.AllToAll(stream, in, one, out, one);
    stream.Synchronize();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  if (!device.is_cpu()) time();  // the first call makes the connections
  world.Barrier();
  double best = time();
  const double longest = static_cast<double>(world.Max(static_cast<int64_t>(best * 1e9))) / 1e9;
  const int rounds =
      longest > 2 * kLongSeconds ? 0 : std::clamp(static_cast<int>(kLongSeconds / longest), 2, 16);
  for (int i = 0; i < rounds; ++i) best = std::min(best, time());
  comm.ShareMemory(nullptr);
  const std::string way = comm.way();
  return {
      static_cast<double>(part * 4 * (members - 1)) / best,
      why.empty() || way.find(why) != std::string::npos ? way : "NCCL, not peer memory: " + why};
}

std::string Packed(RankRow row) {
  std::replace(row.way.begin(), row.way.end(), '\n', ' ');
  std::string bytes =
      row.host + "\n" + row.device + "\n" + row.way + "\n" + std::to_string(row.processors) + "\n";
  return bytes.append(reinterpret_cast<const char*>(row.rates.data()),
                      row.rates.size() * sizeof(double));
}

RankRow Unpacked(const std::string& bytes) {
  RankRow row;
  const size_t host = bytes.find('\n');
  const size_t device = bytes.find('\n', host + 1);
  const size_t way = bytes.find('\n', device + 1);
  const size_t processors = bytes.find('\n', way + 1);
  row.host = bytes.substr(0, host);
  row.device = bytes.substr(host + 1, device - host - 1);
  row.way = bytes.substr(device + 1, way - device - 1);
  row.processors = std::stoll(bytes.substr(way + 1, processors - way - 1));
  row.rates.resize((bytes.size() - processors - 1) / sizeof(double));
  bytes.copy(reinterpret_cast<char*>(row.rates.data()), row.rates.size() * sizeof(double),
             processors + 1);
  return row;
}

// A host with more ranks than processors: they wait for each other's turn, not for bytes.
bool Shares(const RankTable& table, const std::string& host) {
  int64_t ranks = 0;
  int64_t processors = 0;
  for (const RankRow& row : table.ranks) {
    if (row.host != host) continue;
    ++ranks;
    processors = std::max(processors, row.processors);
  }
  return ranks > processors;
}

}  // namespace

int64_t AllowedProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

RankTable MeasureRanks(World& world, Machine& machine) {
  RankTable table;
  const Device device = machine.stream.device();
  RankRow mine{world.host(), DescribeDevice(device), AllowedProcessors(), {}};
  std::map<int, Probed> by_size;
  const auto add = [&](Comm& comm, Axis axis) {
    if (comm.size() == 1) return;
    if (by_size.count(comm.size()) == 0) {
      // A group of its own: what training sends is counted apart.
      const std::unique_ptr<Comm> probe = comm.Split(0, comm.rank(), axis);
      by_size[comm.size()] = Probe(world, *probe, device);
    }
    const Probed& probed = by_size[comm.size()];
    table.axes.push_back(Name(axis));
    mine.rates.push_back(probed.rate);
    // Of what is spread, else of what is replicated.
    if (axis != Axis::kMemory || machine.mesh.expert->size() == 1) mine.way = probed.way;
  };
  add(*machine.mesh.world, Axis::kWorld);
  add(*machine.mesh.expert, Axis::kExpert);
  add(*machine.mesh.memory, Axis::kMemory);
  for (const std::string& bytes : world.AllGather(Packed(mine)))
    table.ranks.push_back(Unpacked(bytes));
  return table;
}

std::string RankTableText(const RankTable& table) {
  std::vector<std::vector<std::string>> lines = {{"rank", "host", "device", "cores"}};
  for (const std::string& axis : table.axes) lines.front().push_back("all-to-all " + axis);
  for (size_t r = 0; r < table.ranks.size(); ++r) {
    const RankRow& row = table.ranks[r];
    lines.push_back({std::to_string(r), row.host, row.device, std::to_string(row.processors)});
    for (const double rate : row.rates) lines.back().push_back(Rate(rate));
  }
  std::string text;
  for (const auto& line : lines) {
    if (!text.empty()) text += "\n";
    for (size_t column = 0; column < line.size(); ++column) {
      size_t width = 0;
      for (const auto& other : lines) width = std::max(width, other[column].size());
      text += line[column];
      if (column + 1 < line.size()) text += std::string(width - line[column].size() + 2, ' ');
    }
  }
  std::set<std::string> ways;
  for (const RankRow& row : table.ranks) ways.insert(row.way);
  ways.erase("");
  for (const std::string& way : ways) text += "\nbetween GPUs: " + way;
  return text;
}

std::string SlowAxesText(const RankTable& table, double link, const std::string& device_file) {
  std::string text;
  for (size_t axis = 0; axis < table.axes.size(); ++axis) {
    const auto slower = [&](const RankRow& a, const RankRow& b) {
      return a.rates[axis] < b.rates[axis];
    };
    const auto worst = std::min_element(table.ranks.begin(), table.ranks.end(), slower);
    if (worst->rates[axis] >= kFar * link || Shares(table, worst->host)) continue;
    if (!text.empty()) text += "\n";
    text += "warning: rank " + std::to_string(worst - table.ranks.begin()) + " (host " +
            worst->host + ") sends " + Rate(worst->rates[axis]) + " on the " + table.axes[axis] +
            " axis; " + device_file + " has " + Rate(link) +
            ": look at its link, or at what else uses it";
  }
  return text;
}

}  // namespace mneme
