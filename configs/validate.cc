#include "configs/validate.h"

#include <algorithm>
#include <set>

#include "configs/rules.h"

namespace mneme {
namespace {

// Far beyond any run, and so small that sums of their products stay countable.
constexpr int64_t kMostSteps = int64_t{1} << 40;
constexpr int64_t kMostIterations = 1000;
constexpr int64_t kMostWindow = 1'000'000;
constexpr int64_t kMostSeconds = 365 * 24 * 3600;
constexpr double kMostTokens = 1e17;               // of a stage
constexpr double kMostBatchTokens = 2147483647.0;  // tokens have 32-bit numbers
constexpr double kMostActivations = 1e14;          // of one tensor of a batch

std::string N(int64_t value) { return std::to_string(value); }
double Real(int64_t value) { return static_cast<double>(value); }
std::string Count(size_t value) { return std::to_string(value); }

// The key under which a stage's value was stated: its own, or that of the section it came from.
std::string StageKey(const Rules& rules, size_t i, const std::string& own,
                     const std::string& section) {
  const std::string key = "stages." + Count(i) + "." + own;
  return rules.Stated(key) || (rules.Stated("stages") && !rules.Stated(section)) ? key : section;
}

void ScheduleRules(const ScheduleConfig& schedule, const std::string& prefix, Rules& rules) {
  rules.AtLeast(prefix + "warmup", schedule.warmup, 0);
  rules.Share(prefix + "stable", schedule.stable);
  rules.Share(prefix + "final", schedule.final);
  const std::string at = prefix + "decay_at", to = prefix + "decay_to";
  if (schedule.decay_at.size() != schedule.decay_to.size()) {
    rules.Add({at, to}, "has " + Count(schedule.decay_at.size()) + " places for the " +
                            Count(schedule.decay_to.size()) + " rates of decay_to");
  }
  for (size_t i = 0; i < schedule.decay_at.size(); ++i) {
    rules.Share(at, schedule.decay_at[i]);
    if (i > 0 && schedule.decay_at[i] <= schedule.decay_at[i - 1]) {
      rules.Add({at}, "must rise, but " + NumberText(schedule.decay_at[i]) + " follows " +
                          NumberText(schedule.decay_at[i - 1]));
    }
  }
  for (const double factor : schedule.decay_to) rules.AtLeast(to, factor, 0.0);
}

void OptimRules(const OptimConfig& optim, Rules& rules) {
  rules.Above("optim.lr", optim.lr, 0.0);
  rules.AtLeast("optim.weight_decay", optim.weight_decay, 0.0);
  rules.AtLeast("optim.clip", optim.clip, 0.0);
  rules.Rate("optim.muon.momentum", optim.muon.momentum);
  rules.Within("optim.muon.steps", optim.muon.steps, 1, kMostIterations);
  rules.Above("optim.muon.rms_scale", optim.muon.rms_scale, 0.0);
  if (optim.muon.coefficients.size() != 3) {
    rules.Add({"optim.muon.coefficients"},
              "has " + Count(optim.muon.coefficients.size()) + " numbers; a, b, c are 3");
  }
  rules.Rate("optim.adam.beta1", optim.adam.beta1);
  rules.Rate("optim.adam.beta2", optim.adam.beta2);
  rules.AtLeast("optim.adam.eps", optim.adam.eps, 0.0);
  ScheduleRules(optim.schedule, "optim.schedule.", rules);
}

// What a stage, or the run of one stage, computes: of `prefix`, "train." or "stages.0.".
void BatchRules(const ModelConfig& model, const std::string& prefix, int64_t steps, int64_t length,
                int64_t sequences, Rules& rules) {
  const Rules::Factor each = {prefix + "sequence_length", Real(length)};
  const Rules::Factor batch = {prefix + "batch_sequences", Real(sequences)};
  rules.ProductAtMost(kMostTokens, "tokens", {{prefix + "steps", Real(steps)}, batch, each});
  rules.ProductAtMost(kMostBatchTokens, "tokens of a batch", {batch, each});
  const auto most = [&](std::initializer_list<Rules::Factor> factors) {
    rules.ProductAtMost(kMostActivations, "values of a batch", factors);
  };
  const Rules::Factor heads = {"model.mla.heads", Real(model.mla.heads)};
  most({batch,
        each,
        {"model.hidden", Real(model.hidden)},
        {"model.mhc.streams", Real(model.mhc.streams)}});
  most({batch,
        each,
        heads,
        {"model.mla.qk_nope", Real(model.mla.qk_nope) + Real(model.mla.qk_rope)}});
  most({batch, each, heads, {"model.mla.v_head", Real(model.mla.v_head)}});
  most({batch, each, {"model.dense_width", Real(model.dense_width)}});
  if (model.moe.experts > 0) {
    const Rules::Factor experts = {"model.moe.experts", Real(model.moe.experts)};
    most({batch, each, experts});
    most({batch,
          each,
          {"model.moe.top_k", Real(model.moe.top_k)},
          {"model.moe.expert_width", Real(model.moe.expert_width)}});
    most({batch,
          each,
          {"model.moe.shared", Real(model.moe.shared)},
          {"model.moe.expert_width", Real(model.moe.expert_width)}});
    most({batch, each, {"model.moe.shared_width", Real(model.moe.shared_width)}});
  }
}

void TrainRules(const RunConfig& config, Rules& rules) {
  const TrainConfig& train = config.train;
  rules.Within("train.steps", train.steps, 0, kMostSteps);
  rules.Within("train.sequence_length", train.sequence_length, 1, kMostSequence);
  rules.Within("train.batch_sequences", train.batch_sequences, 1, kMostSequence);
  if (!rules.Stated("stages")) {
    BatchRules(config.model, "train.", train.steps, train.sequence_length, train.batch_sequences,
               rules);
  }
  rules.AtLeast("train.micro_batch", train.micro_batch, 0);
  rules.AtLeast("train.seed", train.seed, 0);
  rules.AtLeast("train.log_every", train.log_every, 1);
  rules.AtLeast("train.checkpoint_every", train.checkpoint_every, 0);
  rules.AtLeast("train.keep_last", train.keep_last, 0);
  rules.AtLeast("train.milestone_every", train.milestone_every, 0);
  rules.Within("train.collective_timeout", train.collective_timeout, 0, kMostSeconds);
  if (train.recompute.size() > 1 &&
      std::count(train.recompute.begin(), train.recompute.end(), "auto") > 0) {
    rules.Add({"train.recompute"},
              "auto chooses the parts; leave it alone in the list, or name "
              "parts without it");
  }
  if (train.milestone_every > 0 && train.checkpoint_every > 0 &&
      train.milestone_every % train.checkpoint_every != 0) {
    rules.Add({"train.milestone_every", "train.checkpoint_every"},
              N(train.milestone_every) + " is not a multiple of checkpoint_every " +
                  N(train.checkpoint_every) +
                  ", so that no checkpoint would be a milestone when due");
  }
  rules.AtLeast("train.skip.outlier_sigma", train.skip.outlier_sigma, 0.0);
  rules.Within("train.skip.window", train.skip.window, 2, kMostWindow);
  rules.AtLeast("train.skip.limit", train.skip.limit, 1);
}

void DataRules(const DataConfig& data, const std::string& prefix, Rules& rules) {
  if (!data.weights.empty() && data.weights.size() != data.train.size()) {
    rules.Add({prefix + "weights", prefix + "train"}, "has " + Count(data.weights.size()) +
                                                          " shares for " +
                                                          Count(data.train.size()) + " corpora");
  }
  for (const double weight : data.weights) rules.Above(prefix + "weights", weight, 0.0);
  for (const std::string& path : data.train) {
    if (path.empty()) rules.Add({prefix + "train"}, "names an empty path");
  }
  rules.AtLeast(prefix + "seed", data.seed, 0);
}

void EvaluateRules(const EvaluateConfig& evaluate, Rules& rules) {
  rules.AtLeast("evaluate.every", evaluate.every, 0);
  if (evaluate.every > 0 && evaluate.sets.empty()) {
    rules.Add({"evaluate.every", "evaluate.sets"}, "asks for an evaluation every " +
                                                       N(evaluate.every) +
                                                       " steps, but evaluate.sets names none");
  }
  std::set<std::string> names;
  for (size_t i = 0; i < evaluate.sets.size(); ++i) {
    const HeldOutConfig& set = evaluate.sets[i];
    const std::string prefix = "evaluate.sets." + Count(i) + ".";
    if (set.name.empty()) rules.Add({prefix + "name"}, "is empty; a held-out set needs a name");
    if (!set.name.empty() && !names.insert(set.name).second) {
      rules.Add({prefix + "name"}, "'" + set.name + "' is the name of an earlier set");
    }
    if (set.data.empty()) rules.Add({prefix + "data"}, "is empty; name a prepared corpus");
    rules.AtLeast(prefix + "sequences", set.sequences, 0);
  }
}

void YarnRules(const YarnConfig& yarn, const std::string& prefix, Rules& rules) {
  rules.AtLeast(prefix + "scale", yarn.scale, 1.0);
  rules.Above(prefix + "alpha", yarn.alpha, 0.0);
  rules.AtLeast(prefix + "mscale", yarn.mscale, 0.0);
  rules.AtLeast(prefix + "original_length", yarn.original_length, 1);
  if (yarn.beta <= yarn.alpha) {
    rules.Add({prefix + "beta", prefix + "alpha"},
              "beta " + NumberText(yarn.beta) + " must be above alpha " + NumberText(yarn.alpha));
  }
}

void StageRules(const RunConfig& config, Rules& rules) {
  // A run of one stage that states nothing has been judged by its sections.
  if (!rules.Stated("stages")) return;
  for (size_t i = 0; i < config.stages.size(); ++i) {
    const StageConfig& stage = config.stages[i];
    const std::string prefix = "stages." + Count(i) + ".";
    if (i > 0 && !stage.init_from.empty()) {
      rules.Add({prefix + "init_from"},
                "stands in stage " + Count(i) +
                    "; only the first (0) may start from another run, the others go on");
    }
    rules.Within(prefix + "steps", stage.steps, 0, kMostSteps);
    if (rules.Stated(prefix + "sequence_length"))
      rules.Within(prefix + "sequence_length", stage.sequence_length, 1, kMostSequence);
    if (rules.Stated(prefix + "batch_sequences"))
      rules.Within(prefix + "batch_sequences", stage.batch_sequences, 1, kMostSequence);
    BatchRules(config.model, prefix, stage.steps, stage.sequence_length, stage.batch_sequences,
               rules);
    if (rules.Stated(prefix + "lr")) rules.Above(prefix + "lr", stage.lr, 0.0);
    if (rules.Stated(prefix + "data")) DataRules(stage.data, prefix + "data.", rules);
    if (rules.Stated(prefix + "schedule"))
      ScheduleRules(stage.schedule, prefix + "schedule.", rules);
    if (rules.Stated(prefix + "yarn")) YarnRules(stage.yarn, prefix + "yarn.", rules);
  }
}

void ParallelRules(const RunConfig& config, Rules& rules) {
  const int64_t experts = config.model.moe.experts;
  rules.AtLeast("parallel.expert", config.parallel.expert, 0);
  rules.AtLeast("parallel.memory", config.parallel.memory, 0);
  if (!(config.parallel.expert_room >= 1.0)) {
    rules.Add({"parallel.expert_room"}, "is " + NumberText(config.parallel.expert_room) +
                                            "; must be at least 1: an equal share has to fit");
  }
  if (experts > 0 && config.parallel.expert > experts) {
    rules.Add({"parallel.expert", "model.moe.experts"}, "an axis of " + N(config.parallel.expert) +
                                                            " ranks is more than the " +
                                                            N(experts) + " experts to spread");
  }
}

// "3 or 6": the divisors of n next to value.
std::string NearestDivisors(int64_t n, int64_t value) {
  int64_t below = 1, above = n;
  const auto take = [&](int64_t divisor) {
    if (divisor <= value) below = std::max(below, divisor);
    if (divisor >= value) above = std::min(above, divisor);
  };
  for (int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    take(d);
    take(n / d);
  }
  return below == above || value > n ? N(below) : N(below) + " or " + N(above);
}

void AxisRules(const RunConfig& config, int64_t world, Rules& rules) {
  const auto axis = [&](const char* key, int64_t ranks) {
    if (ranks > 0 && world % ranks != 0) {
      rules.Add({key}, "an axis of " + N(ranks) + " does not divide " + N(world) +
                           " ranks; nearest: " + NearestDivisors(world, ranks));
    }
  };
  axis("parallel.expert", config.parallel.expert);
  axis("parallel.memory", config.parallel.memory);
  const int64_t experts = config.model.moe.experts;
  if (config.parallel.expert == 0 && experts > 0 && world > experts) {
    rules.Add({"parallel.expert", "model.moe.experts"},
              "0 means all " + N(world) + " ranks, but there are only " + N(experts) +
                  " experts to spread; give a divisor of " + N(world) + " up to " + N(experts));
  }
}

void StageWorldRules(const RunConfig& config, size_t i, int64_t world, Rules& rules) {
  const StageConfig& stage = config.stages[i];
  const std::string steps = StageKey(rules, i, "steps", "train.steps");
  if (stage.steps == 0)
    rules.Add({steps}, "is " + N(stage.steps) + "; a run needs at least 1 step");
  if (stage.data.train.empty()) {
    rules.Add({StageKey(rules, i, "data.train", "data.train")},
              "names no corpus; make one with `mneme prepare` and give its folder");
  }
  const int64_t batch = stage.batch_sequences;
  if (batch < 1 || batch % world == 0) return;
  const int64_t below = batch / world * world;
  rules.Add({StageKey(rules, i, "batch_sequences", "train.batch_sequences")},
            N(batch) + " sequences cannot be dealt evenly to " + N(world) +
                " ranks; nearest batches: " + (below > 0 ? N(below) + " or " : "") +
                N(below + world) + "; nearest numbers of ranks: " + NearestDivisors(batch, world));
}

absl::Status AsStatus(const RunConfig& config, const std::vector<Fault>& faults) {
  std::vector<std::string> lines;
  for (const Fault& fault : faults) lines.push_back(FaultText(config, fault));
  return lines.empty() ? absl::OkStatus() : absl::InvalidArgumentError(Join(lines, "\n"));
}

}  // namespace

std::vector<Fault> FindFaults(const RunConfig& config) {
  Rules rules(config);
  ModelRules(config.model, rules);
  OptimRules(config.optim, rules);
  TrainRules(config, rules);
  DataRules(config.data, "data.", rules);
  EvaluateRules(config.evaluate, rules);
  ParallelRules(config, rules);
  StageRules(config, rules);
  return rules.faults();
}

std::vector<Fault> FindWorldFaults(const RunConfig& config, int world) {
  Rules rules(config);
  AxisRules(config, world, rules);
  for (size_t i = 0; i < config.stages.size(); ++i) StageWorldRules(config, i, world, rules);
  return rules.faults();
}

std::string FaultText(const RunConfig& config, const Fault& fault) {
  const auto place = [&](const std::string& key) {
    const auto found = config.places.find(key);
    return found == config.places.end() ? std::string() : found->second;
  };
  std::string at;
  for (size_t i = 0; i < fault.keys.size() && at.empty(); ++i) at = place(fault.keys[i]);
  // None was stated: the section of the first, and at last the file.
  std::string key = fault.keys.front();
  while (at.empty() && !key.empty()) {
    const size_t dot = key.rfind('.');
    key.resize(dot == std::string::npos ? 0 : dot);
    at = place(key);
  }
  return (at.empty() ? "defaults" : at) + ": " + fault.keys.front() + ": " + fault.what;
}

absl::Status Validate(const RunConfig& config) { return AsStatus(config, FindFaults(config)); }

absl::Status ValidateForWorld(const RunConfig& config, int world) {
  return AsStatus(config, FindWorldFaults(config, world));
}

}  // namespace mneme
