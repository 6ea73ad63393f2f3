#include "engine/forecast/forecast.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "configs/stages.h"
#include "configs/text.h"
#include "data/corpus.h"
#include "engine/forecast/memory_fit.h"
#include "engine/machine/device.h"
#include "engine/machine/machine.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

double Real(int64_t n) { return static_cast<double>(n); }

std::string Text(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

Device DeviceOf(const DeviceRates& rates) {
  Device device;
  if (rates.kind == "gpu") device.kind = Device::Kind::kGpu;
  return device;
}

absl::StatusOr<int64_t> VocabularyOf(const RunConfig& config) {
  if (config.model.vocab_size > 0) return config.model.vocab_size;
  const std::vector<std::string>& train = config.stages.front().data.train;
  if (!train.empty()) {
    if (const auto corpus = Corpus::Open(train.front()); corpus.ok())
      return (*corpus)->vocabulary().size;
  }
  return absl::InvalidArgumentError(
      "model.vocab_size: is 0, which takes the vocabulary of the data, and " +
      (train.empty() ? std::string("data.train names none") : train.front() + " cannot be read") +
      "; state it: model.vocab_size=32768");
}

// How often the corpus that is read most is read, of those that can be opened.
double PassesOf(const StageConfig& stage, int64_t tokens) {
  std::vector<double> sizes;
  double all = 0.0;
  for (const std::string& path : stage.data.train) {
    const auto corpus = Corpus::Open(path);
    if (!corpus.ok()) return 0.0;
    sizes.push_back(Real((*corpus)->tokens()));
    all += sizes.back();
  }
  double shares = 0.0, most = 0.0;
  for (const double weight : stage.data.weights) shares += weight;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const double share =
        stage.data.weights.empty() ? sizes[i] / all : stage.data.weights[i] / shares;
    most = std::max(most, share * Real(tokens) / sizes[i]);
  }
  return most;
}

// An expert for each rank of the axis; without experts the axis means nothing.
bool CanSpread(const RunConfig& config, const Layout& layout) {
  const int64_t experts = config.model.moe.experts;
  return experts == 0 || layout.expert <= experts;
}

class Forecaster {
 public:
  Forecaster(const RunConfig& config, const ForecastOptions& options)
      : config_(config), options_(options), device_(DeviceOf(options.device)) {}

  absl::StatusOr<Forecast> Make();

 private:
  absl::Status Stages();
  void Limits();
  // A change of the config and of the ranks, in words that can be typed.
  struct Change {
    RunConfig config;
    int ranks;
    std::vector<std::string> words;

    std::string Text() const { return Join(words, " "); }
  };
  // On hosts of the device's file.
  absl::StatusOr<Layout> LayoutOf(const ParallelConfig& parallel, int ranks) const;
  std::optional<Footprint> Of(const Change& change) const;
  bool Fits(const Footprint& footprint) const {
    return forecast_.available < 0 || footprint.needs() <= forecast_.available;
  }
  // `change`, and what activations can give: smaller micro-batches, then recomputation.
  std::string FirstThatFits(const Change& change) const;
  Change Spread(Change change) const;
  std::string SmallestChange() const;

  const RunConfig& config_;
  const ForecastOptions& options_;
  const Device device_;
  int64_t vocabulary_ = 0;
  std::vector<Unmet> unmet_;
  Forecast forecast_;
};

absl::StatusOr<Layout> Forecaster::LayoutOf(const ParallelConfig& parallel, int ranks) const {
  ASSIGN_OR_RETURN(Layout layout, MakeLayout(parallel, ranks));
  layout.ranks_per_host = static_cast<int>(
      std::min<int64_t>(ranks, std::max<int64_t>(1, options_.device.ranks_per_host)));
  return layout;
}

std::optional<Footprint> Forecaster::Of(const Change& change) const {
  const auto layout = LayoutOf(change.config.parallel, change.ranks);
  if (!layout.ok() || !CanSpread(change.config, *layout)) return std::nullopt;
  for (const StageConfig& stage : change.config.stages) {
    if (!PlanBatch(stage.batch_sequences, 1, change.ranks).ok()) return std::nullopt;
  }
  return PredictFootprint(change.config, *layout, vocabulary_, device_);
}

std::string Forecaster::FirstThatFits(const Change& change) const {
  const std::optional<Footprint> now = Of(change);
  if (!now.has_value()) return "";
  if (Fits(*now)) return change.Text();
  if (forecast_.available >= 0 && now->state() > forecast_.available) return "";
  Change small = change;
  int64_t micro = 1;
  for (const StageConfig& stage : change.config.stages)
    micro = std::max(micro, WantedMicroBatch(change.config.train, stage.sequence_length, device_));
  for (micro /= 2; micro >= 1; micro /= 2) {
    small = change;
    small.config.train.micro_batch = micro;
    small.words.push_back("train.micro_batch=" + std::to_string(micro));
    if (const auto footprint = Of(small); footprint.has_value() && Fits(*footprint))
      return small.Text();
  }
  small.config.train.recompute = {"all"};
  small.words.push_back("train.recompute=[all]");
  if (const auto footprint = Of(small); footprint.has_value() && Fits(*footprint))
    return small.Text();
  return "";
}

Forecaster::Change Forecaster::Spread(Change change) const {
  if (change.config.model.moe.experts > 0 && change.config.parallel.expert != 0) {
    change.config.parallel.expert = 0;
    change.words.push_back("parallel.expert=0");
  }
  if (!change.config.model.engram.blocks.empty() && change.config.parallel.memory != 0) {
    change.config.parallel.memory = 0;
    change.words.push_back("parallel.memory=0");
  }
  return change;
}

std::string Forecaster::SmallestChange() const {
  const Change as_is = {config_, options_.ranks, {}};
  if (const std::string found = FirstThatFits(as_is); !found.empty()) return found;
  const Change spread = Spread(as_is);
  if (options_.ranks > 1 && !spread.words.empty()) {
    if (const std::string found = FirstThatFits(spread); !found.empty()) return found;
  }
  constexpr int kMostRanks = 4096;
  for (int ranks = 2 * options_.ranks; ranks <= kMostRanks; ranks *= 2) {
    Change more = Spread({config_, ranks, {"--ranks " + std::to_string(ranks)}});
    if (const std::string found = FirstThatFits(more); !found.empty()) return found;
  }
  return "";
}

void Forecaster::Limits() {
  const Footprint& footprint = forecast_.footprint;
  if (!unmet_.empty()) {
    forecast_.breaks = unmet_.front().message;
    std::vector<std::string> words;
    for (const Unmet& unmet : unmet_) words.push_back(unmet.mend);
    forecast_.mend = Join(words, " ");
  } else if (!Fits(footprint)) {
    const bool state = footprint.state() > forecast_.available;
    forecast_.breaks = "memory: a rank needs " + FormatBytes(footprint.needs()) + " and has " +
                       FormatBytes(forecast_.available) +
                       (state ? "; weights, gradients, moments and rows alone are " +
                                    FormatBytes(footprint.state())
                              : "");
    if (options_.mend) forecast_.mend = SmallestChange();
  }
  const EngramConfig& engram = config_.model.engram;
  if (!device_.is_cpu() && !engram.blocks.empty() && !engram.table.resident(/*on_cpu=*/false)) {
    forecast_.warnings.push_back(
        "model.engram.table.store: lazy has no GPU half in this version; planned as resident");
  }
  if (footprint.tables_grow && device_.is_cpu()) {
    const double rows =
        3.0 * Real(forecast_.counts.tables) * Real(SizeOf(Accurate(PrecisionOf(config_))));
    forecast_.warnings.push_back(
        "tables grow with the rows that text touches (model.engram.table.store: lazy), up to " +
        FormatBytes(static_cast<int64_t>(rows / forecast_.layout.memory)) + " a rank");
  }
  if (!device_.is_cpu() && options_.ranks > forecast_.layout.ranks_per_host) {
    forecast_.warnings.push_back(
        "several hosts of " + std::to_string(forecast_.layout.ranks_per_host) +
        ": calls between ranks are reckoned as within a host (link), since between hosts nothing "
        "was measured; the times are the least that they can be");
  }
  for (const StageForecast& stage : forecast_.stages) {
    if (stage.passes <= 1.0) continue;
    forecast_.warnings.push_back(
        "the corpus repeats" + (stage.name.empty() ? "" : " in stage " + stage.name) + ": " +
        Text("%.2f passes; tables memorise what they see again", stage.passes));
  }
}

absl::Status Forecaster::Stages() {
  const int threads = options_.threads > 0 ? options_.threads : options_.ranks > 1 ? 1 : Threads();
  const RunConfig saving = WithSavings(config_, forecast_.savings);
  for (const StageConfig& config : config_.stages) {
    const int64_t wanted =
        WantedMicroBatch(config_.train, config.sequence_length, device_, forecast_.savings.shrink);
    ASSIGN_OR_RETURN(const BatchPlan plan,
                     PlanBatch(config.batch_sequences, wanted, options_.ranks));
    if (const auto unmet = UnmetByUpdates(config_, plan, device_);
        unmet.has_value() && forecast_.layout.memory == 1) {
      unmet_.push_back(*unmet);
    }
    const Rehearsal rehearsal =
        Rehearse(saving, config, forecast_.layout, vocabulary_, device_, forecast_.savings.shrink);
    StageForecast stage;
    stage.name = config.name;
    stage.steps = StageSteps(config);
    stage.micro = plan.micro;
    stage.micro_batches = plan.accumulation;
    stage.batch = config.batch_sequences * config.sequence_length;
    stage.tokens = stage.steps * stage.batch;
    stage.flops = forecast_.counts.flops_per_token(config.sequence_length) * Real(stage.batch);
    for (size_t i = 0; i < kWorks; ++i) {
      const WorkDone &a = rehearsal.forward_backward[i], &b = rehearsal.update[i];
      stage.work[i] = a;
      stage.work[i].Add(b);
    }
    stage.time = PredictStepTime(rehearsal, options_.device, threads);
    stage.seconds = Real(stage.steps) * stage.time.total();
    stage.passes = PassesOf(config, stage.tokens);
    forecast_.seconds += stage.seconds;
    forecast_.checkpoint_bytes = std::max(forecast_.checkpoint_bytes, rehearsal.checkpoint_bytes);
    forecast_.stages.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

absl::StatusOr<Forecast> Forecaster::Make() {
  ASSIGN_OR_RETURN(vocabulary_, VocabularyOf(config_));
  ASSIGN_OR_RETURN(forecast_.layout, LayoutOf(config_.parallel, options_.ranks));
  if (!CanSpread(config_, forecast_.layout)) {
    return absl::InvalidArgumentError(
        "parallel.expert: " + std::to_string(forecast_.layout.expert) + " ranks for " +
        std::to_string(config_.model.moe.experts) + " experts to spread; give a divisor of " +
        std::to_string(options_.ranks) + " up to that");
  }
  RunConfig placed = config_;
  if (!device_.is_cpu()) placed.model.engram.table.store = "resident";
  unmet_ = WhatIsUnmet(placed, device_);
  const DeviceRates& rates = options_.device;
  forecast_.device = rates;
  forecast_.model = config_.model;
  forecast_.model.vocab_size = vocabulary_;
  forecast_.counts = Count(forecast_.model);
  const int64_t per_host = forecast_.layout.ranks_per_host;
  forecast_.available = rates.memory > 0.0 ? static_cast<int64_t>(rates.memory - rates.reserved) -
                                                 CommunicatorBytes(device_, forecast_.layout)
                                           : AvailableMemory() / options_.ranks;
  // As a run would give way (engine/trainer.cc).
  const int64_t way =
      FirstWayThatFits(config_, forecast_.layout, vocabulary_, device_, 1, forecast_.available);
  forecast_.savings = way == 0 ? NoSavings(config_)
                               : WaysToSave(config_, forecast_.layout, vocabulary_,
                                            device_)[static_cast<size_t>(way)];
  forecast_.footprint =
      PredictFootprint(config_, forecast_.savings, forecast_.layout, vocabulary_, device_);
  if (way > 0) forecast_.warnings.push_back(Describe(config_, forecast_.savings, device_));
  RETURN_IF_ERROR(Stages());
  const double hosts = Real((options_.ranks + per_host - 1) / per_host);
  if (rates.disk > 0.0)
    forecast_.checkpoint_seconds = Real(forecast_.checkpoint_bytes) / (rates.disk * hosts);
  forecast_.cost = rates.price * forecast_.seconds / 3600.0 * options_.ranks;
  Limits();
  return std::move(forecast_);
}

}  // namespace

absl::StatusOr<Forecast> MakeForecast(const RunConfig& config, const ForecastOptions& options) {
  return Forecaster(config, options).Make();
}

}  // namespace mneme
