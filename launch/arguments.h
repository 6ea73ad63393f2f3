// What was typed, as plain values: one struct a verb. Paths are as they were typed and have not
// been looked at. json: the result as one JSON object on standard output.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/device_rates.h"
#include "data/prepare.h"
#include "engine/convert/convert.h"
#include "engine/convert/inspect.h"
#include "engine/evaluation/analyze.h"
#include "engine/evaluation/generate.h"
#include "engine/sweep/fit.h"

namespace mneme {

// A config file and key=value overrides.
struct RunArguments {
  std::string config;                  // a YAML file
  std::vector<std::string> overrides;  // in their order; the last of a key counts
};

struct TrainArguments {
  std::vector<RunArguments> runs;  // several: side by side in this process
  bool dry_run = false;            // say what would be done, and write nothing
  int world_size = 0;              // 0: as many ranks as were started; --dry-run only
  bool json = false;
};

// A checkpoint, and how it is spread over ranks.
struct ModelArguments {
  std::string checkpoint;   // or the folder of a run: its newest whole one
  ParallelConfig parallel;  // expert and memory alone can be typed
};

struct EvaluateArguments {
  ModelArguments model;
  std::vector<std::string> data;  // corpora; empty: evaluate.sets of the run
  int64_t sequences = 0;          // of each of `data`, spread evenly; 0: all
  int64_t micro_batch = 0;        // sequences at once on a rank; 0: about 4,096 tokens
  int64_t sequence_length = 0;    // 0: the length it was trained at
  double yarn_scale = 0.0;        // 0: as it was trained; 1: plain extrapolation
  bool by_position = false;       // JSON: the mean loss at each position of a sequence
  bool memory_off = false;        // score once more as if Engram gave nothing
  int64_t ngrams = 0;             // largest order of n-gram baselines; 0: none
  std::string ngrams_from;        // the corpus that they count; empty: the run's first
  bool json = false;
};

struct GenerateArguments {
  ModelArguments model;
  std::string prompt;               // text, whose ids go behind prompt_ids; one of both is needed
  std::vector<int32_t> prompt_ids;  // for models whose ids were made elsewhere
  GenerateOptions options;          // but context and with_gates, which the verb sets
  bool gates = false;               // shade the text by them
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
  std::string run;  // its folder
  std::string svg;  // the loss curve goes to this file too; empty: nowhere
  bool json = false;
};

struct PlanArguments {
  RunArguments run;
  int ranks = 1;                      // as if on so many
  int threads = 0;                    // of a rank on a CPU; 0: all cores alone, one of several
  std::string device = kUsualDevice;  // a shipped one by name, or a file of rates
  double price = 0.0;                 // of a device and hour; 0: the device's own
  bool json = false;
};

struct SweepArguments {
  RunArguments sweep;              // a sweep file and overrides; empty with `fit`
  bool dry_run = false;            // print the grid, write nothing
  bool status = false;             // print what the cells are at
  std::vector<std::string> merge;  // folders of the same sweep
  std::string bundle;              // the folder to pack the results into
  std::string verify;              // a packed folder to check
  std::string fit;                 // a file of cells, JSONL or CSV
  std::string report;              // the HTML file to write
  FitConfig config;                // with `fit`; else the sweep file's counts
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
  std::string path;   // a checkpoint, a run, a file or a folder of weights
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

  // That of the verb counts; the others are as they were made.
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
// the nearest word where one was mistyped; exit_code is then 2, of help and version 0.
Arguments ParseArguments(int argc, char** argv);

}  // namespace mneme
