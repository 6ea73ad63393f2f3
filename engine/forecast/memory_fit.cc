#include "engine/forecast/memory_fit.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/forecast/rehearsal.h"

namespace mneme {
namespace {

// Tokens at once below which products lose more than computing a part again costs.
constexpr int64_t kFewestTokensCpu = 1024;
constexpr int64_t kFewestTokensGpu = 8192;
// Floating-point operations in the time of a byte, to add the two up; rates of devices differ, but
// all ranks must count alike.
constexpr double kOperationsOfAByte = 250.0;
constexpr double kBytesOfASentByte = 12.0;

bool Chooses(const TrainConfig& train) {
  return train.recompute == std::vector<std::string>{"auto"};
}

std::vector<std::string> PartsOf(const ModelConfig& model, const Layout& layout) {
  std::vector<std::string> parts = {"attention", "ffn"};
  if (model.mhc.streams > 1) parts.push_back("mhc");
  if (model.moe.experts > 0 && layout.expert > 1) parts.push_back("exchange");
  if (!model.engram.blocks.empty()) parts.push_back("engram");
  return parts;
}

// Of a step of each stage, in bytes.
double WorkOf(const RunConfig& config, const Savings& savings, const Layout& layout,
              int64_t vocabulary, const Device& device) {
  const RunConfig saving = WithSavings(config, savings);
  double work = 0.0;
  for (const StageConfig& stage : saving.stages) {
    const Rehearsal rehearsal = Rehearse(saving, stage, layout, vocabulary, device, savings.shrink);
    for (const WorkDone& done : rehearsal.forward_backward)
      work += done.bytes + done.flops / kOperationsOfAByte;
    work += kBytesOfASentByte * static_cast<double>(rehearsal.sent.experts);
  }
  return work;
}

}  // namespace

Savings NoSavings(const RunConfig& config) {
  if (Chooses(config.train)) return {};
  return {1, config.train.recompute};
}

RunConfig WithSavings(RunConfig config, const Savings& savings) {
  config.train.recompute = savings.recompute;
  return config;
}

Footprint PredictFootprint(const RunConfig& config, const Savings& savings, const Layout& layout,
                           int64_t vocabulary, const Device& device) {
  return PredictFootprint(WithSavings(config, savings), layout, vocabulary, device, savings.shrink);
}

std::vector<Savings> WaysToSave(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                                const Device& device) {
  const bool chooses = Chooses(config.train);
  const int64_t fewest = !chooses ? 0 : device.is_cpu() ? kFewestTokensCpu : kFewestTokensGpu;
  int64_t sequences = 1, tokens = 1;  // at once
  for (const StageConfig& stage : config.stages) {
    const int64_t wanted = WantedMicroBatch(config.train, stage.sequence_length, device);
    sequences = std::max(sequences, wanted);
    tokens = std::max(tokens, wanted * stage.sequence_length);
  }
  if (config.train.micro_batch > 0) sequences = 1;
  const auto last = [&](int64_t shrink) { return shrink >= sequences; };

  std::vector<Savings> ways;
  ways.push_back(NoSavings(config));
  int64_t shrink = 1;
  while (!last(shrink) && tokens / (2 * shrink) >= fewest)
    ways.push_back({shrink *= 2, ways.front().recompute});
  if (!chooses) return ways;

  const std::vector<std::string> parts = PartsOf(config.model, layout);
  std::vector<std::pair<double, Savings>> again;
  for (unsigned set = 1; set < 1u << parts.size(); ++set) {
    Savings savings{shrink, {}};
    for (size_t i = 0; i < parts.size(); ++i)
      if (set >> i & 1) savings.recompute.push_back(parts[i]);
    again.emplace_back(WorkOf(config, savings, layout, vocabulary, device), std::move(savings));
  }
  std::stable_sort(again.begin(), again.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [work, savings] : again) ways.push_back(std::move(savings));
  while (!last(shrink)) ways.push_back({shrink *= 2, parts});
  return ways;
}

int64_t FirstWayThatFits(const RunConfig& config, const Layout& layout, int64_t vocabulary,
                         const Device& device, int ranks_on_host, int64_t available) {
  const auto fits = [&](const Savings& savings) {
    return CheckFits(PredictFootprint(config, savings, layout, vocabulary, device), ranks_on_host,
                     available, device)
        .ok();
  };
  if (available < 0) return 0;
  // Without a rehearsal of all the others.
  const Footprint plain = PredictFootprint(config, NoSavings(config), layout, vocabulary, device);
  if (CheckFits(plain, ranks_on_host, available, device).ok()) return 0;
  if (plain.state() * ranks_on_host > available) return 0;  // which no way makes less
  const std::vector<Savings> ways = WaysToSave(config, layout, vocabulary, device);
  const auto found = std::find_if(ways.begin(), ways.end(), fits);
  return found == ways.end() ? 0 : found - ways.begin();
}

std::string Describe(const RunConfig& config, const Savings& savings, const Device& device) {
  std::string text;
  if (savings.shrink > 1) {
    const int64_t length = config.stages.front().sequence_length;
    const auto at_once = [&](int64_t shrink) {
      return std::to_string(WantedMicroBatch(config.train, length, device, shrink));
    };
    text = at_once(savings.shrink) + " sequences at once instead of " + at_once(1) +
           " (train.micro_batch sets them)";
  }
  if (Chooses(config.train) && !savings.recompute.empty()) {
    text += text.empty() ? "" : ", and ";
    for (size_t i = 0; i < savings.recompute.size(); ++i)
      text += (i == 0 ? "" : " and ") + savings.recompute[i];
    text += " computed again on the way back (train.recompute sets it)";
  }
  return text.empty() ? "" : "memory is short: " + text;
}

}  // namespace mneme
