#include "engine/footprint.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <sstream>

#include "engine/machine.h"
#include "models/count.h"

namespace mneme {
namespace {

// Tokens of a micro-batch that nobody chose.
constexpr int64_t kTokensAtOnceCpu = 4096;
constexpr int64_t kTokensAtOnceGpu = 32768;

int64_t DivideUp(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Values of one token that a block's notes hold on the way to the backward pass, by part.
int64_t BlockValuesPerToken(const RunConfig& config, bool moe) {
  const ModelConfig& m = config.model;
  const auto recomputed = [&](const char* part) {
    const auto& parts = config.train.recompute;
    return std::any_of(parts.begin(), parts.end(),
                       [&](const std::string& p) { return p == part || p == "all"; });
  };
  const int64_t d = m.hidden;
  const int64_t attention = m.mla.heads * (3 * (m.mla.qk_nope + m.mla.qk_rope) + 2 * m.mla.v_head) +
                            2 * m.mla.kv_lora_rank + 2 * d;
  const int64_t width = moe ? (m.moe.top_k + m.moe.shared) * m.moe.expert_width : m.dense_width;
  const int64_t ffn = 3 * width + (moe ? m.moe.top_k * d : 0) + 2 * d;
  const int64_t streams = 2 * (m.mhc.streams + 1) * d;
  return (recomputed("attention") ? d : attention) + (recomputed("ffn") ? d : ffn) +
         (recomputed("mhc") ? d : streams);
}

int64_t ActivationValuesPerToken(const RunConfig& config) {
  const ModelConfig& m = config.model;
  int64_t values = 2 * m.mhc.streams * m.hidden;
  for (int64_t block = 0; block < m.layers; ++block) {
    values += BlockValuesPerToken(config, m.is_moe_block(block));
  }
  const int64_t engram = m.engram.d_mem + (4 * m.mhc.streams + 1) * m.hidden;
  return values + static_cast<int64_t>(m.engram.blocks.size()) * engram;
}

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

int64_t WantedMicroBatch(const TrainConfig& train, int64_t sequence_length, const Device& device) {
  if (train.micro_batch > 0) return train.micro_batch;
  const int64_t tokens = device.is_cpu() ? kTokensAtOnceCpu : kTokensAtOnceGpu;
  return std::max<int64_t>(1, tokens / std::max<int64_t>(1, sequence_length));
}

Footprint PredictFootprint(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                           const Device& device) {
  ModelConfig model = config.model;
  model.vocab_size = vocabulary;
  const Counts counts = Count(model);
  const DType dtype = PrecisionOf(config);
  const int64_t size = SizeOf(Accurate(dtype));
  const int64_t copy = dtype == Accurate(dtype) ? 0 : SizeOf(dtype);
  const int64_t experts = DivideUp(counts.routed_experts, layout.expert);
  const int64_t dense = counts.total() - counts.routed_experts - counts.tables;

  Footprint f;
  f.parameters = (dense + experts) * (size + copy);
  f.gradients = (dense + experts) * size;
  // Muon keeps one moment, AdamW two: two is the most.
  f.optimizer =
      2 * size * (DivideUp(dense, layout.world) + DivideUp(experts, layout.expert_replicas()));
  if (model.engram.table.store == "resident") {
    const int64_t rows = DivideUp(counts.tables, layout.memory);
    f.tables = size * (rows + 2 * DivideUp(rows, layout.memory_replicas()));
  }
  f.tables_grow = counts.tables > 0 && f.tables == 0;
  for (const StageConfig& stage : config.stages) {
    const int64_t length = stage.sequence_length;
    const auto plan = PlanBatch(stage.batch_sequences,
                                WantedMicroBatch(config.train, length, device), layout.world);
    if (!plan.ok()) continue;  // refused elsewhere, with the legal values
    const int64_t tokens = plan->micro * length;
    f.activations =
        std::max(f.activations, tokens * ActivationValuesPerToken(config) * SizeOf(dtype));
  }
  return f;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string Describe(const Footprint& f) {
  const std::string tables = f.tables_grow  ? ", tables as rows are touched"
                             : f.tables > 0 ? ", tables " + FormatBytes(f.tables)
                                            : "";
  return "weights " + FormatBytes(f.parameters) + ", gradients " + FormatBytes(f.gradients) +
         ", optimizer " + FormatBytes(f.optimizer) + tables + ", activations about " +
         FormatBytes(f.activations) + "; together " + FormatBytes(f.total()) + " a rank";
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
  const int64_t wanted = footprint.total() * ranks_on_host;
  if (available < 0 || wanted <= available) return absl::OkStatus();
  const std::string who = device.is_cpu()
                              ? std::to_string(ranks_on_host) + " ranks on this host need"
                              : "a rank on " + device.Name() + " needs";
  std::string text = "not enough memory: " + who + " about " + FormatBytes(wanted) + " and " +
                     FormatBytes(available) + " are free. A rank: " + Describe(footprint) + ".";
  text += footprint.activations > footprint.total() / 2
              ? " Lower train.micro_batch or set train.recompute"
              : " Spread the model over more hosts (parallel.expert, parallel.memory)";
  if (!device.is_cpu()) {
    text += ", or set device=cpu";
  } else if (footprint.tables > footprint.total() / 4) {
    text += ", or set model.engram.table.store: lazy";
  }
  return absl::ResourceExhaustedError(text);
}

}  // namespace mneme
