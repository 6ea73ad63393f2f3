// What was typed, as plain values: one struct a verb.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/device_rates.h"
#include "data/prepare.h"
#include "engine/analyze.h"
#include "engine/convert/convert.h"
#include "engine/convert/inspect.h"
#include "engine/generate.h"
#include "engine/sweep/fit.h"

namespace mneme {

// A config file and key=value overrides.
struct RunArguments {
  std::string config;
  std::vector<std::string> overrides;
};

struct TrainArguments {
  std::vector<RunArguments> runs;  // several: side by side in this process
  bool dry_run = false;
  int world_size = 0;  // 0: as many ranks as were started; --dry-run only
  bool json = false;
};

// A checkpoint, and how it is spread over ranks.
struct ModelArguments {
  std::string checkpoint;
  ParallelConfig parallel;
};

struct EvaluateArguments {
  ModelArguments model;
  std::vector<std::string> data;  // corpora; empty: evaluate.sets of the run
  int64_t sequences = 0;
  int64_t micro_batch = 0;
  int64_t sequence_length = 0;  // 0: the length it was trained at
  double yarn_scale = 0.0;      // 0: as it was trained; 1: plain extrapolation
  bool by_position = false;     // JSON: the mean loss at each position of a sequence
  bool memory_off = false;
  int64_t ngrams = 0;       // largest order of n-gram baselines; 0: none
  std::string ngrams_from;  // the corpus that they count; empty: the run's first
  bool json = false;
};

struct GenerateArguments {
  ModelArguments model;
  std::string prompt;
  std::vector<int32_t> prompt_ids;
  GenerateOptions options;
  bool gates = false;
  bool json = false;
};

struct AnalyzeArguments {
  ModelArguments model;
  std::string data;  // empty: the run's first held-out set
  AnalyzeOptions options;
  int64_t shown = 400;  // tokens of shaded text
  bool json = false;
};

struct ReportArguments {
  std::string run;
  std::string svg;
  bool json = false;
};

struct PlanArguments {
  RunArguments run;
  int ranks = 1;
  int threads = 0;  // of a rank on a CPU; 0: all cores alone, one of several
  std::string device = kUsualDevice;
  double price = 0.0;  // of a device and hour; 0: the device's own
  bool json = false;
};

struct SweepArguments {
  RunArguments sweep;  // a sweep file and overrides; empty with `fit`
  bool dry_run = false;
  bool status = false;
  std::vector<std::string> merge;  // folders of the same sweep
  std::string bundle;              // the folder to pack the results into
  std::string verify;              // a packed folder to check
  std::string fit;                 // a file of cells, JSONL or CSV
  std::string report;              // the HTML file to write
  FitConfig config;
  bool json = false;
  // Runs cells, where the rest only looks.
  bool works() const {
    return fit.empty() && verify.empty() && bundle.empty() && merge.empty() && !dry_run && !status;
  }
};

struct PrepareArguments {
  PrepareOptions options;
  bool json = false;
};

struct InspectArguments {
  std::string path;
  std::string other;  // empty: nothing to compare with
  InspectOptions options;
  bool config = false;  // the config too
  bool json = false;
};

struct ConvertArguments {
  ConvertOptions options;
  bool json = false;
};

struct ConfigArguments {
  std::string foreign;  // a config.json to map; else
  bool schema = false;  // else resolve
  RunArguments run;
  bool json = false;
};

struct Arguments {
  std::string verb;  // empty: nothing is left to do but to say `answer` and end with `exit_code`
  std::string answer;
  int exit_code = 0;

  TrainArguments train;
  EvaluateArguments evaluate;
  GenerateArguments generate;
  AnalyzeArguments analyze;
  ReportArguments report;
  PlanArguments plan;
  SweepArguments sweep;
  PrepareArguments prepare;
  InspectArguments inspect;
  ConvertArguments convert;
  ConfigArguments config;
};

// Reads the command line. Help, version and every mistake come back as an answer: one message, with
// the nearest word where one was mistyped.
Arguments ParseArguments(int argc, char** argv);

}  // namespace mneme
