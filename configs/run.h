// A whole run as one value.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "configs/data.h"
#include "configs/model.h"
#include "configs/optim.h"
#include "configs/parallel.h"
#include "configs/train.h"

namespace mneme {

// Where a run lives. Paths are resolved (configs/load.h); an empty dir is filled in as the config
// is loaded.
struct RunSection {
  std::string dir;
  std::string log;
  std::string resume = "auto";

  template <class V>
  void Visit(V& v) {
    v.Path("dir", dir, "folder of the run; empty means runs/<name of the file>");
    v.Path("log", log,
           "file that what the run says while it trains is appended to; empty: standard error");
    v("resume", resume,
      "auto: go on where the folder's newest whole checkpoint stands, begin where there is none; "
      "never: refuse a folder "
      "that holds a run; must: refuse one that does not",
      {"auto", "never", "must"});
  }
};

// After Load, `stages` is never empty and every stage is complete: a file without stages is one
// stage.
struct RunConfig {
  RunSection run;
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimConfig optim;
  ParallelConfig parallel;
  EvaluateConfig evaluate;
  std::string device = "auto";
  std::vector<StageConfig> stages;
  // "file:line" of every stated key (of "": the file), for messages; no part of the value.
  std::map<std::string, std::string> places;

  template <class V>
  void Visit(V& v) {
    v("run", run, "where the run lives and how it resumes");
    v("model", model, "architecture");
    v("data", data, "corpora");
    v("train", train, "steps, batch, cadences");
    v("optim", optim, "optimizers and learning rate");
    v("parallel", parallel, "how ranks share the work");
    v("evaluate", evaluate, "held-out scoring during the run");
    v("device", device, "what to compute on", {"auto", "cpu", "gpu", "cuda"});
    v("stages", stages, "one after the other; none means one stage made of the sections above");
  }
};

}  // namespace mneme
