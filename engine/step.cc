#include "engine/step.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <string>

#include "engine/machine/machine.h"
#include "engine/update/learning_rate.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

// Steps that run op by op before one is recorded: the first fills the pool and the libraries'
// plans, the second must find all it needs there.
constexpr int64_t kStepsBeforeRecording = 2;

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// One number to the device.
void Put(Stream& stream, double value, Tensor& to) {
  DispatchReal(to.dtype(), [&](auto real) {
    using T = decltype(real);
    const T x = static_cast<T>(value);
    Upload(stream, &x, static_cast<int64_t>(sizeof x), to);
  });
}

// Sums over all ranks in rank order: the same bits on each.
template <size_t N>
std::array<double, N> SumOverRanks(World& world, std::array<double, N> values) {
  std::array<double, N> sums{};
  for (const std::string& bytes :
       world.AllGather(std::string(reinterpret_cast<const char*>(values.data()), sizeof values))) {
    CHECK_EQ(bytes.size(), sizeof values);
    std::memcpy(values.data(), bytes.data(), sizeof values);
    for (size_t i = 0; i < N; ++i) sums[i] += values[i];
  }
  return sums;
}

int64_t BytesBounced(const Mesh& mesh) {
  return mesh.expert->bytes_bounced() + mesh.memory->bytes_bounced();
}

}  // namespace

BatchStaging::BatchStaging(Context& context, const Stage& stage)
    : micro_(stage.plan.micro), length_(stage.length()), documents_(stage.loader->documents()) {
  const int64_t all = stage.plan.per_rank * stage.length();
  for (size_t i = 0; i < std::size(host_); ++i) {
    host_[i].resize(static_cast<size_t>(all));
    device_[i] = Tensor::Empty(context.stream, DType::kI32, {all}, MemoryTag::kOther);
  }
}

int64_t BatchStaging::Fill(const Stage& stage, int64_t first, int rank) {
  const BatchView view = {absl::MakeSpan(host_[0]), absl::MakeSpan(host_[1]),
                          absl::MakeSpan(host_[2]), absl::MakeSpan(host_[3])};
  return stage.loader->Fill(first + rank * stage.plan.per_rank, stage.plan.per_rank, view);
}

void BatchStaging::Lift(Context& context) {
  for (size_t i = 0; i < std::size(host_); ++i) {
    Upload(context.stream, host_[i].data(), device_[i].bytes(), device_[i]);
  }
}

MicroBatch BatchStaging::Batch(int64_t index) const {
  const int64_t begin = index * micro_ * length_;
  const auto part = [&](size_t i) { return device_[i].Flat(begin, begin + micro_ * length_); };
  return {micro_, length_, part(0), part(1), part(2), part(3), documents_};
}

Stepper::Stepper(World& world, Context& context, const RunConfig& config, const Stage& stage,
                 Stack& stack, Optimizer& optimizer, const RunPosition& position)
    : world_(world),
      context_(context),
      config_(config),
      stage_(stage),
      stack_(stack),
      optimizer_(optimizer),
      staging_(context, stage) {
  Stream& stream = context.stream;
  for (Tensor* t : {&loss_scale_, &balance_scale_, &balance_sum_}) {
    *t = Tensor::Zeros(stream, Accurate(context.dtype), {1}, MemoryTag::kOther);
  }
  plan_ = Tensor::Zeros(stream, DType::kF64, {kPlanScalars}, MemoryTag::kOther);
  sums_ = Tensor::Zeros(stream, DType::kF64, {kSumScalars}, MemoryTag::kOther);
  report_ = Tensor::Zeros(stream, DType::kF64, {kStepReportScalars}, MemoryTag::kOther);
  Put(stream, config.model.moe.sequence_balance / static_cast<double>(stage.plan.sequences),
      balance_scale_);
  optimizer.SetHistory(context, position.updates, position.recent_losses);
  if (config.train.time_parts) clock_ = std::make_unique<PartClock>(stream);
  context_.parts = clock_.get();
}

void Stepper::Read(int64_t sample) {
  if (read_sample_ == sample) return;
  read_counted_ = staging_.Fill(stage_, sample, world_.rank());
  read_sample_ = sample;
}

// How long the step before took each rank travels with the targets.
int64_t Stepper::Exchange() {
  const std::vector<int64_t> told = world_.Everyones({read_counted_, work_nanoseconds_});
  rank_seconds_.clear();
  int64_t counted = 0;
  for (size_t i = 0; i < told.size(); i += 2) {
    counted += told[i];
    if (told[i + 1] >= 0) rank_seconds_.push_back(static_cast<double>(told[i + 1]) * 1e-9);
  }
  return counted;
}

int64_t Stepper::Prepare(const RunPosition& position, double rate) {
  Read(position.stage_sample);
  const int64_t counted = Exchange();
  staging_.Lift(context_);
  Put(context_.stream, counted > 0 ? 1.0 / static_cast<double>(counted) : 0.0, loss_scale_);
  std::array<double, kPlanScalars> plan{};
  plan[kPlanRate] = rate;
  plan[kPlanCounted] = static_cast<double>(counted);
  Upload(context_.stream, plan.data(), plan_.bytes(), plan_);
  return counted;
}

// Losses are summed in double over micro-batches: a step of millions of tokens outgrows a float.
void Stepper::ForwardBackward() {
  Stream& stream = context_.stream;
  Zero(stream, sums_);
  Tensor losses = sums_.Flat(kSumLosses, kSumLosses + 1);
  Tensor balance = sums_.Flat(kSumBalance, kSumBalance + 1);
  stack_.Announce(context_, staging_.Batch(0));
  for (int64_t i = 0; i < stage_.plan.accumulation; ++i) {
    if (i + 1 < stage_.plan.accumulation) stack_.Announce(context_, staging_.Batch(i + 1));
    Zero(stream, balance_sum_);
    const bool last = i + 1 == stage_.plan.accumulation;
    stack_.TrainStep(context_, staging_.Batch(i), loss_scale_, balance_scale_, losses, balance_sum_,
                     last ? optimizer_.Listen(context_) : GradientsFinal());
    context_.kernels.sum(stream, balance_sum_, balance);
    world_.pulse().Progress();
  }
}

bool Stepper::Records() const {
  const Mesh& mesh = context_.mesh;
  return Graph::Supported(context_.stream) &&
         RecordsSteps(config_, mesh.layout, context_.stream.device()) &&
         (mesh.world->size() == 1 || mesh.world->queues());
}

void Stepper::Run() {
  Stream& stream = context_.stream;
  if (recorded_.defined()) {
    recorded_.Replay();
    return;
  }
  const auto queue = [&] {
    const Clock::time_point begin = Clock::now();
    if (world_.size() > 1) stream.side().StartClock();
    ForwardBackward();
    forward_backward_seconds_ = Seconds(begin, Clock::now());
    optimizer_.Step(context_, plan_, sums_, report_);
    if (world_.size() > 1) stream.side().StopClock();
  };
  const int64_t asked = stream.allocator().driver_allocations();
  const bool records = Records();
  if (!records || steps_run_ < kStepsBeforeRecording) {
    queue();
    // A step that still made a pool grow is no step to record. All ranks record the same one.
    if (records && world_.Max(stream.allocator().driver_allocations() - asked) == 0) ++steps_run_;
    return;
  }
  recorded_ = Graph::Record(stream, queue);
  recorded_.Replay();
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
  sums = SumOverRanks(world_, sums);
  report.more.emplace_back("rows/requested", sums[0]);
  report.more.emplace_back("rows/unique", sums[1]);
  report.more.emplace_back("rows/remote", sums[2]);
  report.more.emplace_back("rows/bytes", sums[3]);
  report.more.emplace_back("rows/materialised", sums[4]);
}

void Stepper::AddTimes(StepReport& report) const {
  double forward_backward = forward_backward_seconds_, update = update_seconds_;
  if (clock_ != nullptr) {
    report.part_seconds.assign(part_seconds_.begin(), part_seconds_.end());
    const auto border = part_seconds_.begin() + kFirstOfUpdate;
    forward_backward = std::accumulate(part_seconds_.begin(), border, 0.0);
    update = std::accumulate(border, part_seconds_.end(), 0.0);
    for (size_t part = 0; part < kParts; ++part)
      report.more.emplace_back(std::string("time/") + Name(static_cast<Part>(part)),
                               part_seconds_[part]);
  } else if (!context_.stream.device().is_cpu()) {
    return;
  }
  report.more.emplace_back("time/forward_backward", forward_backward);
  report.more.emplace_back("time/update", update);
}

StepReport Stepper::Report(const RunPosition& position, const std::vector<double>& told) const {
  StepReport report;
  report.step = position.step;
  report.tokens = position.tokens;
  report.loss = told[kReportLoss];
  report.grad_norm = told[kReportGradNorm];
  report.skipped = told[kReportSkipped] != 0.0;
  if (!stack_.routers().empty()) {
    if (config_.model.moe.sequence_balance > 0.0) {
      report.more.emplace_back("balance_loss", told[kReportBalance]);
    }
    report.more.emplace_back("experts/load_imbalance", told[kReportImbalance]);
  }
  if (!stack_.tables().empty()) {
    report.more.emplace_back("table_grad_norm", told[kReportTableGradNorm]);
  }
  return report;
}

StepReport Stepper::Step(RunPosition& position) {
  const Clock::time_point begin = Clock::now();
  const double in_calls = world_.pulse().seconds_in_calls();
  const int64_t bounced = BytesBounced(context_.mesh);
  world_.pulse().SetStep(position.step + 1);
  const double rate =
      LearningRate(stage_.config.schedule, stage_.peak_rate, position.stage_step + 1, stage_.steps);
  const int64_t counted = Prepare(position, rate);
  const Clock::time_point filled = Clock::now();
  if (clock_ != nullptr) clock_->Begin();
  Run();
  // The next step's samples, while the GPU computes; on a CPU there is no such while.
  const bool last = position.stage_step + 1 == stage_.steps;
  if (!last && !context_.stream.device().is_cpu())
    Read(position.stage_sample + stage_.plan.sequences);
  std::vector<double> told(kStepReportScalars);
  {
    // A GPU has only queued its collectives: here the host waits for what other ranks put into
    // them.
    const bool queued = world_.size() > 1 && !context_.stream.device().is_cpu();
    const InFlight waiting(queued ? &world_.pulse() : nullptr,
                           {Collective::kAllReduce, Axis::kWorld, report_.bytes()});
    Download(context_.stream, report_, told.data(), report_.bytes());
  }
  if (clock_ != nullptr) part_seconds_ = clock_->End();
  const Clock::time_point updated = Clock::now();
  update_seconds_ = Seconds(filled, updated) - forward_backward_seconds_;

  ++position.step;
  ++position.stage_step;
  position.stage_sample += stage_.plan.sequences;
  position.tokens += stage_.plan.sequences * stage_.length();
  StepReport report = Report(position, told);
  if (report.skipped) {
    ++position.skipped_in_a_row;
  } else {
    position.skipped_in_a_row = 0;
    ++position.updates;
    // As in the window on the device, where one loss without a value would hide all others' mean.
    if (std::isfinite(report.loss)) position.recent_losses.push_back(report.loss);
    while (static_cast<int64_t>(position.recent_losses.size()) > config_.train.skip.window) {
      position.recent_losses.erase(position.recent_losses.begin());
    }
  }
  report.learning_rate = rate;
  report.seconds = Seconds(begin, updated);
  const bool at_once = context_.stream.device().is_cpu();
  const double waited = world_.pulse().seconds_in_calls() - in_calls;
  if (world_.size() > 1) {
    report.rank_seconds = rank_seconds_;
    work_nanoseconds_ = std::max<int64_t>(0, static_cast<int64_t>((report.seconds - waited) * 1e9));
  }
  report.tokens_per_second =
      static_cast<double>(stage_.plan.sequences * stage_.length()) / report.seconds;
  report.more.emplace_back("counted_targets", static_cast<double>(counted));
  AddTraffic(report);
  report.more.emplace_back("time/data", Seconds(begin, filled));
  // What of the exchange was not hidden behind work, on this rank.
  if (world_.size() > 1)
    report.more.emplace_back("time/exposed", at_once ? waited : context_.stream.side().waited());
  AddTimes(report);
  if (context_.mesh.layout.peer) {
    report.more.emplace_back("exchange/bounced_bytes",
                             static_cast<double>(BytesBounced(context_.mesh) - bounced));
  }
  if (!at_once) {
    report.more.emplace_back("gpu/recorded", recorded_.defined() ? 1.0 : 0.0);
    report.more.emplace_back("gpu/driver_allocations",
                             static_cast<double>(context_.stream.allocator().driver_allocations()));
  }
  return report;
}

}  // namespace mneme
