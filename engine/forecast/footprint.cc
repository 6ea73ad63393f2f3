#include "engine/forecast/footprint.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <sstream>

#include "configs/text.h"
#include "engine/forecast/rehearsal.h"

namespace mneme {
namespace {

// Tokens of a micro-batch that nobody chose.
constexpr int64_t kTokensAtOnceCpu = 4096;
constexpr int64_t kTokensAtOnceGpu = 65536;

int64_t FirstNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

// Sum of the named numbers of a "name number …" file; −1 where it cannot be read.
int64_t SumOf(const std::string& path, std::initializer_list<const char*> names) {
  std::ifstream file(path);
  int64_t sum = file ? 0 : -1;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (!(words >> name >> value)) continue;
    if (std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; })) {
      sum += value;
    }
  }
  return sum;
}

// What the control group of this process leaves, version 2 then 1; −1 without a limit.
int64_t GroupLeaves() {
  struct Version {
    const char *folder, *limit, *use;
  };
  constexpr Version kVersions[] = {
      {"/sys/fs/cgroup/", "memory.max", "memory.current"},
      {"/sys/fs/cgroup/memory/", "memory.limit_in_bytes", "memory.usage_in_bytes"}};
  for (const auto& [folder, limit_name, use_name] : kVersions) {
    const std::string root = folder;
    const int64_t limit = FirstNumber(root + limit_name);
    const int64_t use = FirstNumber(root + use_name);
    if (limit <= 0 || use < 0 || limit > std::numeric_limits<int64_t>::max() / 2) continue;
    // Cached file pages count as used but make room when asked.
    const int64_t cached = SumOf(root + "memory.stat", {"inactive_file", "active_file"});
    return std::clamp<int64_t>(limit - use + std::max<int64_t>(0, cached), 0, limit);
  }
  return -1;
}

}  // namespace

int64_t WantedMicroBatch(const TrainConfig& train, int64_t sequence_length, const Device& device,
                         int64_t shrink) {
  if (train.micro_batch > 0) return train.micro_batch;
  const int64_t tokens = device.is_cpu() ? kTokensAtOnceCpu : kTokensAtOnceGpu;
  return std::max<int64_t>(1, tokens / std::max<int64_t>(1, sequence_length) / shrink);
}

Footprint PredictFootprint(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                           const Device& device, int64_t shrink) {
  Rehearsal fullest;
  for (const StageConfig& stage : config.stages) {
    Rehearsal rehearsal = Rehearse(config, stage, layout, vocabulary, device, shrink, Dealt::kMost);
    if (rehearsal.taken > fullest.taken) fullest = rehearsal;
  }
  const auto of = [&](MemoryTag tag) { return fullest.bytes[static_cast<size_t>(tag)]; };
  Footprint f;
  f.parameters = of(MemoryTag::kParameters);
  f.gradients = of(MemoryTag::kGradients);
  f.optimizer = of(MemoryTag::kOptimizer);
  f.tables = of(MemoryTag::kTables);
  const EngramConfig& engram = config.model.engram;
  f.tables_grow = !engram.blocks.empty() && !engram.table.resident(device.is_cpu());
  f.activations = of(MemoryTag::kActivations);
  f.exchange = of(MemoryTag::kExchange);
  f.workspace = of(MemoryTag::kWorkspace);
  f.other = of(MemoryTag::kOther);
  // What a rehearsal does not see, such as the text's own counts, finds room in a little more.
  const int64_t more = fullest.reserved / 64;
  f.reserved = fullest.reserved + more;
  f.kept = fullest.taken - fullest.peak + more;
  return f;
}

std::string Describe(const Footprint& f) {
  const std::string tables = f.tables_grow  ? ", tables as rows are touched"
                             : f.tables > 0 ? ", tables " + FormatBytes(f.tables)
                                            : "";
  return "weights " + FormatBytes(f.parameters) + ", gradients " + FormatBytes(f.gradients) +
         ", optimizer " + FormatBytes(f.optimizer) + tables + ", activations " +
         FormatBytes(f.activations) + ", exchange " + FormatBytes(f.exchange) + ", workspace " +
         FormatBytes(f.workspace) + ", other " + FormatBytes(f.other) + "; together " +
         FormatBytes(f.total()) + " a rank" +
         (f.kept > 0 ? ", and " + FormatBytes(f.kept) + " in freed blocks" : "");
}

int64_t AvailableMemory() {
  const int64_t kilobytes = SumOf("/proc/meminfo", {"MemAvailable:"});
  const int64_t machine = kilobytes > 0 ? kilobytes * 1024 : -1;
  const int64_t group = GroupLeaves();
  if (machine < 0) return group;
  return group < 0 ? machine : std::min(machine, group);
}

absl::Status CheckFits(const Footprint& footprint, int ranks_on_host, int64_t available,
                       const Device& device) {
  const int64_t wanted = footprint.needs() * ranks_on_host;
  if (available < 0 || wanted <= available) return absl::OkStatus();
  const std::string who = device.is_cpu()
                              ? std::to_string(ranks_on_host) + " ranks on this host need"
                              : "a rank on " + device.Name() + " needs";
  std::string text = "not enough memory: " + who + " about " + FormatBytes(wanted) + " and " +
                     FormatBytes(available) + " are free. A rank: " + Describe(footprint) + ".";
  text += footprint.activations > footprint.total() / 2
              ? " Lower train.micro_batch, or set train.recompute to auto"
              : " Spread the model over more hosts (parallel.expert, parallel.memory)";
  if (!device.is_cpu()) {
    text += ", or set device=cpu";
  } else if (footprint.tables > footprint.total() / 4) {
    text += ", or set model.engram.table.store: lazy";
  }
  return absl::ResourceExhaustedError(text);
}

}  // namespace mneme
