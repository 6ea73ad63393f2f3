// Steps, batch, precision, cadences, and what happens when something goes wrong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/data.h"
#include "configs/model.h"
#include "configs/optim.h"

namespace mneme {

// When a step moves nothing (docs/numerics.md, The update): no weight, no moment, no row, no router
// bias, no update count.
struct SkipConfig {
  bool nonfinite = true;
  double outlier_sigma = 0.0;
  int64_t window = 128;
  int64_t limit = 10;

  template <class V>
  void Visit(V& v) {
    v("nonfinite", nonfinite, "a step whose loss or gradient norm is not finite changes nothing");
    v("outlier_sigma", outlier_sigma,
      "skip a step whose loss is this many deviations above the window's mean; 0 is off");
    v("window", window, "steps in that window");
    v("limit", limit, "skipped steps in a row after which the run ends with exit 4");
  }
};

struct TrainConfig {
  int64_t steps = 0;
  int64_t sequence_length = 256;
  int64_t batch_sequences = 24;
  int64_t micro_batch = 0;
  std::string precision = "f32";
  std::vector<std::string> recompute = {"auto"};
  bool cuda_graph = true;
  int64_t seed = 0;
  int64_t log_every = 10;
  int64_t checkpoint_every = 0;
  bool checkpoint_last = true;
  int64_t keep_last = 2;
  int64_t milestone_every = 0;
  bool tensorboard = false;
  bool time_parts = false;
  int64_t collective_timeout = 600;
  SkipConfig skip;

  template <class V>
  void Visit(V& v) {
    v("steps", steps, "updates of the run (of the stage, where stages are given)");
    v("sequence_length", sequence_length, "tokens of a sequence");
    v("batch_sequences", batch_sequences, "sequences of one update, over all ranks");
    v("micro_batch", micro_batch, "most sequences that a rank computes at once; 0 chooses");
    v("precision", precision,
      "of activations: f32; bf16 on GPUs, beside f32 master weights; f64 for reference runs on "
      "CPUs",
      {"f32", "bf16", "f64"});
    v("recompute", recompute,
      "parts whose activations are computed again on the way back (exchange: tokens are sent to "
      "experts of other ranks again); auto: as few as memory allows",
      {"auto", "attention", "ffn", "mhc", "exchange", "engram", "all"});
    v("cuda_graph", cuda_graph,
      "on a GPU: a whole step is recorded once and replayed as one; the numbers stay the same");
    v("seed", seed, "of the initial weights");
    v("log_every", log_every, "steps between lines on the console; metrics.jsonl has every step");
    v("checkpoint_every", checkpoint_every, "steps between checkpoints; 0 saves at the end only");
    v("checkpoint_last", checkpoint_last,
      "a checkpoint behind the last step; false for a run that is only timed");
    v("keep_last", keep_last, "checkpoints kept; 0 keeps all");
    v("milestone_every", milestone_every,
      "checkpoints at multiples of this are never deleted; 0 is off");
    v("tensorboard", tensorboard, "also write TensorBoard events under tb/");
    v("time_parts", time_parts,
      "metrics say where the time of a step goes, by part of the model; on a GPU such a step is "
      "not "
      "recorded (train.cuda_graph)");
    v("collective_timeout", collective_timeout,
      "seconds without progress of any rank, while one waits for others, after which the job ends "
      "with exit 5; 0 waits forever");
    v("skip", skip, "bad steps");
  }
};

// One stage of a run. What it does not state comes from the sections of the run.
struct StageConfig {
  std::string name;
  std::string init_from;
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t sequence_length = 0;
  int64_t batch_sequences = 0;
  double lr = 0.0;
  DataConfig data;
  ScheduleConfig schedule;
  YarnConfig yarn;

  template <class V>
  void Visit(V& v) {
    v("name", name, "as it stands in logs");
    v.Path("init_from", init_from, "a checkpoint of another run to start from; first stage only");
    v("steps", steps, "updates of this stage");
    v("tokens", tokens, "or: tokens of this stage");
    v("sequence_length", sequence_length, "0 takes train.sequence_length");
    v("batch_sequences", batch_sequences, "0 takes train.batch_sequences");
    v("lr", lr, "peak rate of this stage; 0 takes optim.lr");
    v("data", data, "corpora of this stage; unstated keys come from `data`");
    v("schedule", schedule, "rate over this stage; unstated keys come from optim.schedule");
    v("yarn", yarn, "rotary scaling of this stage; kept by later stages that do not state it");
  }
};

}  // namespace mneme
