// What a run will take: parameters, memory, time, checkpoints, and what breaks first. Arithmetic on
// a config and the rates of a device; the run's corpora are opened where they are there.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/device_rates.h"
#include "configs/run.h"
#include "engine/forecast/footprint.h"
#include "engine/forecast/memory_fit.h"
#include "engine/forecast/step_time.h"
#include "models/count.h"

namespace mneme {

struct ForecastOptions {
  int ranks = 1;
  int threads = 0;  // of a rank on a CPU; 0: all cores alone, one of several
  DeviceRates device;
  bool mend = true;  // look for the smallest change where a limit breaks, which takes a while
};

struct StageForecast {
  std::string name;
  int64_t steps = 0;
  int64_t batch = 0;   // tokens of a step
  int64_t tokens = 0;  // of all steps
  int64_t micro = 0;   // sequences at once
  int64_t micro_batches = 0;
  double flops = 0.0;                   // of a step, as the model counts them, all ranks
  StepTime time;                        // of a step
  std::array<WorkDone, kWorks> work{};  // likewise, of a rank
  double seconds = 0.0;
  double passes = 0.0;  // over the corpus that is read most often; 0: not to be seen from here
};

struct Forecast {
  Layout layout;
  DeviceRates device;
  ModelConfig model;  // with its vocabulary
  Counts counts;
  Savings savings;  // what a run gives up where memory is short
  Footprint footprint;
  int64_t available = 0;  // bytes that a rank may take; -1: unknown
  int64_t checkpoint_bytes = 0;
  double checkpoint_seconds = 0.0;
  std::vector<StageForecast> stages;
  double seconds = 0.0;
  double cost = 0.0;   // 0: no price
  std::string breaks;  // the first limit that breaks; empty: none
  std::string mend;    // the smallest change that mends it, as key=value words
  std::vector<std::string> warnings;
};

// Errors (InvalidArgument): a layout or a batch that cannot be dealt, a vocabulary that nobody
// knows.
absl::StatusOr<Forecast> MakeForecast(const RunConfig& config, const ForecastOptions& options);

}  // namespace mneme
