// Optimizers and the shape of the learning rate (docs/mathematics.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

// Muon of one matrix (docs/mathematics.md, Updates): B ← μB + g, U = g + μB under Nesterov, else B;
// X ← aX + (bA + cA²)X, A = XXᵀ, `steps` times; W ← W − η(rms_scale · √max(rows, cols) · X + λW).
struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  int64_t steps = 5;
  std::vector<double> coefficients = {3.4445, -4.7750, 2.0315};
  double rms_scale = 0.2;

  template <class V>
  void Visit(V& v) {
    v("momentum", momentum, "decay of the momentum buffer");
    v("nesterov", nesterov, "look ahead by one momentum step");
    v("steps", steps, "Newton-Schulz iterations");
    v("coefficients", coefficients, "a, b, c of one iteration");
    v("rms_scale", rms_scale, "an update is scaled by this times sqrt(larger dimension)");
  }
};

// AdamW: p ← p − η(m̂ / (√v̂ + eps) + λp). Of all that Muon does not move but the tables, which have
// their own (TableConfig).
struct AdamConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;

  template <class V>
  void Visit(V& v) {
    v("beta1", beta1, "decay of the first moment");
    v("beta2", beta2, "decay of the second moment");
    v("eps", eps, "added to the root of the second moment");
  }
};

// Learning rate over the updates of one stage, as a share of its peak
// (engine/update/learning_rate.h). Lists are of equal length, decay_at rising.
struct ScheduleConfig {
  std::string shape = "step";
  int64_t warmup = 0;
  std::vector<double> decay_at = {0.8, 0.9};
  std::vector<double> decay_to = {0.316, 0.1};
  double stable = 0.8;
  double final = 0.1;

  template <class V>
  void Visit(V& v) {
    v("shape", shape,
      "after the warm-up: constant, step, cosine, or wsd (warmup-stable-decay, linear)",
      {"constant", "step", "cosine", "wsd"});
    v("warmup", warmup, "updates over which the rate rises linearly to its peak");
    v("decay_at", decay_at, "step: shares of the stage after which the rate drops");
    v("decay_to", decay_to, "step: the rate after each drop, as a share of the peak");
    v("stable", stable, "wsd: share of the stage at which the decay begins");
    v("final", final, "cosine and wsd: the last rate as a share of the peak");
  }
};

struct OptimConfig {
  std::string matrices = "muon";
  double lr = 4e-4;
  double weight_decay = 0.1;
  double clip = 1.0;
  MuonConfig muon;
  AdamConfig adam;
  ScheduleConfig schedule;

  template <class V>
  void Visit(V& v) {
    v("matrices", matrices, "optimizer of backbone matrices; everything else takes AdamW",
      {"muon", "adamw"});
    v("lr", lr, "peak learning rate");
    v("weight_decay", weight_decay, "decoupled decay of matrices, embedding, head and norms");
    v("clip", clip, "largest global gradient norm; 0 is off");
    v("muon", muon, "Muon");
    v("adam", adam, "AdamW");
    v("schedule", schedule, "learning rate over a stage");
  }
};

}  // namespace mneme
