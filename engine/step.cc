#include "engine/step.h"

#include <array>
#include <chrono>
#include <cmath>

#include "engine/learning_rate.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// One number of the run's dtype, to the device and back.
void Put(Stream& stream, double value, Tensor& to) {
  DispatchReal(to.dtype(), [&](auto real) {
    using T = decltype(real);
    const T x = static_cast<T>(value);
    Upload(stream, &x, static_cast<int64_t>(sizeof x), to);
  });
}

double Get(Stream& stream, const Tensor& from) {
  return DispatchReal(from.dtype(), [&](auto real) {
    decltype(real) x{};
    Download(stream, from, &x, static_cast<int64_t>(sizeof x));
    return static_cast<double>(x);
  });
}

// Sums over all ranks in rank order: the same bits on each.
template <size_t N>
std::array<double, N> SumOverRanks(Context& context, std::array<double, N> values) {
  Tensor sums = Tensor::Empty(context.stream, DType::kF64, {int64_t{N}}, MemoryTag::kWorkspace);
  Upload(context.stream, values.data(), sums.bytes(), sums);
  context.mesh.world->AllReduce(context.stream, sums, Reduce::kSum);
  Download(context.stream, sums, values.data(), sums.bytes());
  return values;
}

}  // namespace

Staging::Staging(Context& context, const Stage& stage) {
  const size_t all = static_cast<size_t>(stage.plan.per_rank * stage.length());
  for (auto* host : {&tokens_, &targets_, &positions_, &doc_start_}) host->resize(all);
  device_.rows = stage.plan.micro;
  device_.length = stage.length();
  device_.documents = stage.loader->documents();
  const Shape shape = {device_.tokens_count()};
  for (Tensor* t : {&device_.tokens, &device_.targets, &device_.positions, &device_.doc_start}) {
    *t = Tensor::Empty(context.stream, DType::kI32, shape, MemoryTag::kOther);
  }
}

int64_t Staging::Fill(const Stage& stage, int64_t first, int rank) {
  const BatchView view = {absl::MakeSpan(tokens_), absl::MakeSpan(targets_),
                          absl::MakeSpan(positions_), absl::MakeSpan(doc_start_)};
  return stage.loader->Fill(first + rank * stage.plan.per_rank, stage.plan.per_rank, view);
}

MicroBatch Staging::Lift(Context& context, int64_t index) {
  const int64_t count = device_.tokens_count();
  const auto lift = [&](const std::vector<int32_t>& host, Tensor& to) {
    Upload(context.stream, host.data() + index * count, to.bytes(), to);
  };
  lift(tokens_, device_.tokens);
  lift(targets_, device_.targets);
  lift(positions_, device_.positions);
  lift(doc_start_, device_.doc_start);
  return device_;
}

Stepper::Stepper(World& world, Context& context, const RunConfig& config, const Stage& stage,
                 Stack& stack, Optimizer& optimizer)
    : world_(world),
      context_(context),
      config_(config),
      stage_(stage),
      stack_(stack),
      optimizer_(optimizer),
      staging_(context, stage) {
  for (Tensor* t : {&loss_scale_, &balance_scale_, &loss_sum_, &balance_sum_}) {
    *t = Tensor::Zeros(context.stream, context.dtype, {1}, MemoryTag::kOther);
  }
  Put(context.stream, config.model.moe.sequence_balance / static_cast<double>(stage.plan.sequences),
      balance_scale_);
}

Stepper::Losses Stepper::ForwardBackward(int64_t counted) {
  Stream& stream = context_.stream;
  Put(stream, counted > 0 ? 1.0 / static_cast<double>(counted) : 0.0, loss_scale_);
  std::array<double, 2> sums{};
  for (int64_t i = 0; i < stage_.plan.accumulation; ++i) {
    // Summed in double over micro-batches: a step of millions of tokens outgrows a float.
    Put(stream, 0.0, loss_sum_);
    Put(stream, 0.0, balance_sum_);
    stack_.TrainStep(context_, staging_.Lift(context_, i), loss_scale_, balance_scale_, loss_sum_,
                     balance_sum_);
    sums[0] += Get(stream, loss_sum_);
    sums[1] += Get(stream, balance_sum_);
  }
  sums = SumOverRanks(context_, sums);
  return {counted > 0 ? sums[0] / static_cast<double>(counted) : 0.0, sums[1]};
}

bool Stepper::Acceptable(double loss, const RunPosition& position) const {
  const SkipConfig& skip = config_.train.skip;
  if (!std::isfinite(loss)) return !skip.nonfinite;
  const auto& window = position.recent_losses;
  if (skip.outlier_sigma <= 0.0 || static_cast<int64_t>(window.size()) < skip.window) return true;
  const double n = static_cast<double>(window.size());
  double sum = 0.0;
  double squares = 0.0;
  for (double x : window) sum += x;
  const double mean = sum / n;
  for (double x : window) squares += (x - mean) * (x - mean);
  return loss <= mean + skip.outlier_sigma * std::sqrt(squares / n);
}

void Stepper::AddTraffic(StepReport& report) {
  if (stack_.tables().empty()) return;
  std::array<double, 5> sums{};
  for (RowExchange* table : stack_.tables()) {
    const RowTraffic& traffic = table->traffic();
    sums[0] += static_cast<double>(traffic.requested);
    sums[1] += static_cast<double>(traffic.unique);
    sums[2] += static_cast<double>(traffic.remote);
    sums[3] += static_cast<double>(traffic.bytes);
    sums[4] += static_cast<double>(table->store().materialised(/*with_state=*/true));
    table->ResetTraffic();
  }
  sums = SumOverRanks(context_, sums);
  report.more.emplace_back("rows/requested", sums[0]);
  report.more.emplace_back("rows/unique", sums[1]);
  report.more.emplace_back("rows/remote", sums[2]);
  report.more.emplace_back("rows/bytes", sums[3]);
  report.more.emplace_back("rows/materialised", sums[4]);
}

StepReport Stepper::Step(RunPosition& position) {
  const Clock::time_point begin = Clock::now();
  const int64_t mine = staging_.Fill(stage_, position.stage_sample, world_.rank());
  const int64_t counted = world_.Sum(mine);
  const Clock::time_point filled = Clock::now();
  const Losses losses = ForwardBackward(counted);
  const Clock::time_point computed = Clock::now();

  const double rate =
      LearningRate(stage_.config.schedule, stage_.peak_rate, position.stage_step + 1, stage_.steps);
  const UpdateReport update =
      optimizer_.Step(context_, position.updates + 1, rate, Acceptable(losses.loss, position),
                      config_.train.skip.nonfinite);
  const Clock::time_point updated = Clock::now();

  ++position.step;
  ++position.stage_step;
  position.stage_sample += stage_.plan.sequences;
  position.tokens += stage_.plan.sequences * stage_.length();
  if (update.skipped) {
    ++position.skipped_in_a_row;
  } else {
    position.skipped_in_a_row = 0;
    ++position.updates;
    position.recent_losses.push_back(losses.loss);
    while (static_cast<int64_t>(position.recent_losses.size()) > config_.train.skip.window) {
      position.recent_losses.erase(position.recent_losses.begin());
    }
  }

  StepReport report;
  report.step = position.step;
  report.tokens = position.tokens;
  report.loss = losses.loss;
  report.learning_rate = rate;
  report.grad_norm = update.grad_norm;
  report.seconds = Seconds(begin, updated);
  report.tokens_per_second =
      static_cast<double>(stage_.plan.sequences * stage_.length()) / report.seconds;
  report.skipped = update.skipped;
  report.more.emplace_back("counted_targets", static_cast<double>(counted));
  if (!stack_.routers().empty()) {
    if (config_.model.moe.sequence_balance > 0.0) {
      report.more.emplace_back("balance_loss", losses.balance);
    }
    report.more.emplace_back("experts/load_imbalance", update.load_imbalance);
  }
  if (!stack_.tables().empty()) {
    report.more.emplace_back("table_grad_norm", update.table_grad_norm);
  }
  AddTraffic(report);
  report.more.emplace_back("time/data", Seconds(begin, filled));
  report.more.emplace_back("time/forward_backward", Seconds(filled, computed));
  report.more.emplace_back("time/update", Seconds(computed, updated));
  return report;
}

}  // namespace mneme
