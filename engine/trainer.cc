#include "engine/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "configs/device_rates.h"
#include "configs/load.h"
#include "configs/stages.h"
#include "configs/text.h"
#include "configs/validate.h"
#include "data/files.h"
#include "engine/banner.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/evaluation/evaluate.h"
#include "engine/forecast/footprint.h"
#include "engine/forecast/memory_fit.h"
#include "engine/forecast/step_time.h"
#include "engine/machine/device.h"
#include "engine/machine/machine.h"
#include "engine/machine/rank_table.h"
#include "engine/report/measured_time.h"
#include "engine/report/result.h"
#include "engine/report/tensorboard.h"
#include "engine/run_folder.h"
#include "engine/signals.h"
#include "engine/stage.h"
#include "engine/step.h"
#include "engine/update/optimizer.h"
#include "kernels/core/check.h"
#include "parallel/watchdog.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;

// Of a GPU, taken after its memory was looked at (the context is there by then): code and scratch
// of libraries, of which runs of one GPU were seen to take 0.1 GiB. Runs that share a device take
// as much each.
constexpr int64_t kLibraries = int64_t{128} << 20;

// Rows of a table mean what the hash brings to them.
absl::Status CheckSameHash(const std::string& checkpoint, const std::string& text,
                           const ModelConfig& model) {
  ASSIGN_OR_RETURN(const RunConfig donor, ParseConfig(text, checkpoint + "/config.yaml"));
  const EngramConfig& before = donor.model.engram;
  const EngramConfig& now = model.engram;
  if (before.blocks.empty() || now.blocks.empty()) return absl::OkStatus();
  const auto differs = [&](const std::string& key) {
    return absl::FailedPreconditionError(
        checkpoint + ": its memory is read by another hash (model.engram." + key +
        " differs), so its rows would be others'; take the checkpoint's value");
  };
  if (before.orders != now.orders) return differs("orders");
  if (before.hash_seed != now.hash_seed) return differs("hash_seed");
  const auto ids = [](const EngramConfig& engram) {
    return engram.hash_layer_ids.empty() ? engram.blocks : engram.hash_layer_ids;
  };
  if (ids(before) != ids(now)) return differs("hash_layer_ids");
  if (before.compression != now.compression) return differs("compression");
  return absl::OkStatus();
}

// A run from its folder to its result. Every method but the constructor is collective and returns
// the same status on every rank.
class Trainer {
 public:
  Trainer(World& world, const RunConfig& config, const TrainHooks& hooks)
      : world_(world), config_(config), hooks_(hooks), folder_{config.run.dir} {}

  absl::StatusOr<TrainResult> Run();

 private:
  bool first() const { return world_.rank() == 0; }
  void Say(const std::string& text) const;

  absl::StatusOr<bool> OpenFolder();  // true: the run is finished already
  absl::Status Build();
  absl::Status CheckMicroBatches(const Device& device) const;
  int64_t AvailableOn(const Device& device, const Layout& layout) const;
  absl::Status FitDevice(const Device& device, const Layout& layout);
  absl::Status TakeRoom(const Device& device, int64_t available) const;
  absl::Status Resume();
  absl::Status Begin();
  absl::Status StartFrom(const std::string& path);
  absl::Status CheckSameData(const std::string& checkpoint, bool data_too);
  absl::Status OpenLogs();
  void Watch();
  void TellRanks();

  absl::StatusOr<TrainResult> RunStages();
  absl::StatusOr<std::optional<TrainResult>> RunStage(Stage& stage);
  absl::Status EvaluateIfDue(const Stage& stage, StepReport& report);
  absl::Status Log(const StepReport& report);
  void LeaveNoTrace();
  absl::Status SaveNow();
  void Prune();
  absl::StatusOr<bool> AnswerSignals();  // true: stop
  absl::StatusOr<TrainResult> Finish();
  TrainResult Diverged() const;
  void AddMeasured(RunResult& result) const;  // collective
  std::string MeasuredText(const RunResult& result) const;
  TrainResult Stopped();

  World& world_;
  RunConfig config_;
  const TrainHooks& hooks_;
  SignalReader signals_;
  RunFolder folder_;
  std::optional<FolderLock> lock_;
  std::vector<Stage> stages_;
  Footprint footprint_;
  Savings savings_;                        // of what nobody chose
  std::vector<double> predicted_seconds_;  // of a step, by stage; empty without rates
  double peak_flops_ = 0.0;                // of all ranks; 0: unknown
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  CheckpointMeta meta_;
  RunPosition position_;
  int64_t saved_step_ = -1;
  std::unique_ptr<MetricsLog> metrics_;          // rank 0
  std::unique_ptr<TensorBoardLog> tensorboard_;  // rank 0, on request

  std::vector<HeldOutResult> last_scores_;
  int64_t scored_step_ = -1;
  bool made_folder_ = false;  // rank 0
  bool made_checkpoints_ = false;
  double last_loss_ = 0.0;
  double seconds_ = 0.0;
  MeasuredTime times_;  // of the stage at hand
  int64_t tokens_here_ = 0;
  int64_t steps_here_ = 0;
};

void Trainer::Say(const std::string& text) const {
  if (!first()) return;
  if (hooks_.say) return hooks_.say(text);
  std::fprintf(stderr, "%s\n", text.c_str());
}

absl::StatusOr<bool> Trainer::OpenFolder() {
  absl::Status status;
  bool finished = false;
  if (first()) {
    const auto open = [&]() -> absl::Status {
      std::error_code error;
      made_folder_ = !std::filesystem::exists(folder_.dir, error);
      ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Take(folder_.dir));
      lock_ = std::move(lock);
      made_checkpoints_ = std::filesystem::create_directories(folder_.checkpoints(), error);
      if (error) return FileError(folder_.checkpoints(), "make the folder", error.value());
      RETURN_IF_ERROR(CheckMayRun(folder_, config_));
      finished = IsFinished(folder_, config_, [&](const std::string& text) { Say(text); });
      return absl::OkStatus();
    };
    status = open();
  }
  RETURN_IF_ERROR(world_.Agree(status));
  return world_.Max(finished ? 1 : 0) == 1;
}

absl::Status Trainer::CheckMicroBatches(const Device& device) const {
  for (const Stage& stage : stages_) {
    if (const auto unmet = UnmetByUpdates(config_, stage.plan, device))
      return absl::InvalidArgumentError(unmet->message);
  }
  return absl::OkStatus();
}

// What this rank may take, as if it were alone.
int64_t Trainer::AvailableOn(const Device& device, const Layout& layout) const {
  const auto look = [&] {
    if (device.is_cpu()) return AvailableMemory();
    return GpuDriver()->info(device.index).free_bytes - kLibraries -
           CommunicatorBytes(device, layout);
  };
  return hooks_.room == nullptr ? look() : hooks_.room->Free(device, look);
}

// What nobody chose gives way before a run is refused; the ranks agree on how far.
absl::Status Trainer::FitDevice(const Device& device, const Layout& layout) {
  const int64_t vocabulary = config_.model.vocab_size;
  int ranks = 1;
  if (device.is_cpu()) {
    const std::vector<std::string> hosts = world_.AllGather(world_.host());
    ranks = static_cast<int>(std::count(hosts.begin(), hosts.end(), world_.host()));
  }
  const int64_t available = AvailableOn(device, layout);
  const auto way = static_cast<size_t>(
      world_.Max(FirstWayThatFits(config_, layout, vocabulary, device, ranks, available)));
  savings_ = way == 0 ? NoSavings(config_) : WaysToSave(config_, layout, vocabulary, device)[way];
  footprint_ = PredictFootprint(config_, savings_, layout, vocabulary, device);
  for (Stage& stage : stages_) {
    const int64_t wanted = WantedMicroBatch(config_.train, stage.length(), device, savings_.shrink);
    ASSIGN_OR_RETURN(stage.plan, PlanBatch(stage.config.batch_sequences, wanted, world_.size()));
  }
  if (way > 0) Say(Describe(config_, savings_, device));
  RETURN_IF_ERROR(CheckFits(footprint_, ranks, available, device));
  return TakeRoom(device, available);
}

// Beside the runs that share the device, if there are such.
absl::Status Trainer::TakeRoom(const Device& device, int64_t available) const {
  if (hooks_.room == nullptr) return absl::OkStatus();
  const int64_t wanted = footprint_.needs() + (device.is_cpu() ? 0 : kLibraries);
  if (hooks_.room->Take(hooks_.number, device, wanted)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      "no room beside the other runs on " + device.Name() + ": it needs " + FormatBytes(wanted) +
      ", and they hold " + FormatBytes(hooks_.room->HeldByOthers(hooks_.number, device)) + " of " +
      FormatBytes(available));
}

absl::Status Trainer::Build() {
  ASSIGN_OR_RETURN(const Device device, ChooseDevice(world_, config_));
  absl::StatusOr<std::vector<Stage>> stages = OpenStages(config_, world_.size(), device);
  RETURN_IF_ERROR(world_.Agree(stages.status()));
  stages_ = std::move(stages).value();
  Watch();
  meta_.vocabulary = stages_.front().loader->vocabulary();
  meta_.data_digest = DataDigest(stages_);
  meta_.config = DumpConfig(config_);

  absl::StatusOr<int64_t> vocabulary = ModelVocabularySize(config_.model, meta_.vocabulary);
  absl::StatusOr<Layout> layout = MakeLayout(config_.parallel, world_.size());
  RETURN_IF_ERROR(world_.Agree(vocabulary.ok() ? layout.status() : vocabulary.status()));
  config_.model.vocab_size = *vocabulary;
  layout->ranks_per_host = RanksPerHost(world_.AllGather(world_.host()));
  layout->peer = layout->peer && !device.is_cpu() && !world_.SharesGpus(device);
  RETURN_IF_ERROR(world_.Agree(FitDevice(device, *layout)));
  RETURN_IF_ERROR(CheckMicroBatches(device));
  if (const auto rates = RatesOf(device); rates.ok())
    peak_flops_ = rates->peak_flops * static_cast<double>(world_.size());
  if (first())
    predicted_seconds_ = PredictStageSeconds(WithSavings(config_, savings_), *layout, *vocabulary,
                                             device, savings_.shrink);
  if (first()) {
    Say(Banner(config_, Count(config_.model), *layout, stages_, footprint_, folder_,
               DescribeDevice(device)));
  }

  machine_ = std::make_unique<Machine>(world_, *layout, PrecisionOf(config_), device);
  if (world_.size() > 1) machine_->stream.side().SetOverlap(config_.parallel.overlap);
  TellRanks();
  ASSIGN_OR_RETURN(model_,
                   BuildModel(world_, *machine_, WithSavings(config_, savings_), meta_.vocabulary));
  optimizer_ = std::make_unique<Optimizer>(machine_->context, config_.optim, config_.model,
                                           config_.train.skip, model_->store, *model_->stack);
  if (!device.is_cpu()) machine_->allocator.Reserve(footprint_.reserved);
  // An axis has several groups, and one may reach what another does not.
  const std::vector<std::string> all =
      world_.AllGather(ShareMemory(machine_->mesh, machine_->stream));
  for (const std::string& why : std::set<std::string>(all.begin(), all.end())) {
    if (!why.empty())
      Say("parallel.transport: peer memory is not shared, exchanges go over NCCL: " + why);
  }
  return absl::OkStatus();
}

// From here on a rank that is lost ends the job. Not before: checksums of a large corpus take as
// long as its disk.
void Trainer::Watch() {
  WatchdogOptions options;
  options.timeout = static_cast<double>(config_.train.collective_timeout);
  options.folder = folder_.dir + "/.pulses";
  world_.StartWatchdog(options);
}

// Who computes where, and what the wires between them bear.
void Trainer::TellRanks() {
  if (world_.size() == 1) return;
  const RankTable table = MeasureRanks(world_, *machine_);
  Say(RankTableText(table));
  const absl::StatusOr<DeviceRates> rates = RatesOf(machine_->stream.device());
  if (!rates.ok()) return;
  const std::string slow = SlowAxesText(table, rates->link, "the file of " + rates->name);
  if (!slow.empty()) Say(slow);
}

absl::Status Trainer::CheckSameData(const std::string& checkpoint, bool data_too) {
  const auto check = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const CheckpointMeta meta, ReadCheckpointMeta(checkpoint));
    if (meta.vocabulary.digest != meta_.vocabulary.digest ||
        meta.vocabulary.canonical_size != meta_.vocabulary.canonical_size) {
      return absl::FailedPreconditionError(
          checkpoint + ": was trained on another vocabulary (" +
          std::to_string(meta.vocabulary.size) + " ids, V' " +
          std::to_string(meta.vocabulary.canonical_size) + ", digest " + meta.vocabulary.digest +
          "; the data has " + std::to_string(meta_.vocabulary.size) + " ids, V' " +
          std::to_string(meta_.vocabulary.canonical_size) + ", digest " + meta_.vocabulary.digest +
          ")");
    }
    RETURN_IF_ERROR(CheckSameHash(checkpoint, meta.config, config_.model));
    if (data_too && meta.data_digest != meta_.data_digest) {
      return absl::FailedPreconditionError(checkpoint + ": was trained on other data (digest " +
                                           meta.data_digest + ", now " + meta_.data_digest +
                                           "): bring the data back, or give another run.dir");
    }
    return absl::OkStatus();
  };
  return world_.Agree(first() ? check() : absl::OkStatus());
}

absl::Status Trainer::StartFrom(const std::string& path) {
  const CheckpointPart part = {&model_->store, optimizer_.get(), model_->stack.get()};
  ASSIGN_OR_RETURN(position_, LoadCheckpoint(world_, machine_->context, path, part));
  return absl::OkStatus();
}

absl::Status Trainer::Begin() {
  const std::string donor = config_.stages.front().init_from;
  if (donor.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string path,
                   FindCheckpoint(world_, donor, [&](const std::string& text) { Say(text); }));
  RETURN_IF_ERROR(CheckSameData(path, /*data_too=*/false));
  RETURN_IF_ERROR(StartFrom(path));
  // Moments and their update count go on; steps, samples and tokens are this run's own.
  RunPosition begin;
  begin.updates = position_.updates;
  position_ = begin;
  Say("starting from " + path);
  return absl::OkStatus();
}

absl::Status Trainer::Resume() {
  const InPhase loading(world_.pulse(), Phase::kLoading);
  const bool mine = first() && !ListCandidates(folder_.checkpoints()).empty();
  if (world_.Max(mine ? 1 : 0) == 0) {
    RETURN_IF_ERROR(Begin());
  } else {
    ASSIGN_OR_RETURN(
        const std::string path,
        FindCheckpoint(world_, folder_.dir, [&](const std::string& text) { Say(text); }));
    RETURN_IF_ERROR(CheckSameData(path, /*data_too=*/true));
    RETURN_IF_ERROR(StartFrom(path));
    if (position_.stage >= static_cast<int64_t>(stages_.size())) {
      return absl::FailedPreconditionError(path + ": stands in stage " +
                                           std::to_string(position_.stage) + ", the run has " +
                                           std::to_string(stages_.size()));
    }
    saved_step_ = position_.step;
    Say("going on from " + path);
    Prune();  // what a save that was interrupted left; the last one has no save behind it
  }
  return OpenLogs();
}

absl::Status Trainer::OpenLogs() {
  const auto open = [&]() -> absl::Status {
    RETURN_IF_ERROR(WriteFileAtomically(folder_.config(), meta_.config));
    ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(folder_.metrics(), position_.step));
    if (config_.train.tensorboard) {
      ASSIGN_OR_RETURN(tensorboard_, TensorBoardLog::Open(folder_.tensorboard(), position_.step));
    }
    return absl::OkStatus();
  };
  return world_.Agree(first() ? open() : absl::OkStatus());
}

absl::Status Trainer::SaveNow() {
  if (saved_step_ == position_.step) return absl::OkStatus();
  const InPhase saving(world_.pulse(), Phase::kSaving);
  // Metrics first: a step that a checkpoint holds is never missing from them.
  RETURN_IF_ERROR(world_.Agree(first() ? metrics_->Flush() : absl::OkStatus()));
  const CheckpointPart part = {&model_->store, optimizer_.get(), model_->stack.get()};
  const auto path =
      SaveCheckpoint(world_, machine_->context, folder_.checkpoints(), position_, meta_, part);
  RETURN_IF_ERROR(path.status());
  saved_step_ = position_.step;
  Prune();
  Say("saved " + *path);
  return absl::OkStatus();
}

void Trainer::Prune() {
  if (!first()) return;
  PruneCheckpoints(folder_.checkpoints(), position_.step, config_.train.keep_last,
                   config_.train.milestone_every);
}

absl::StatusOr<bool> Trainer::AnswerSignals() {
  SignalRequest request = signals_.Take();
  if (hooks_.stop_at_step >= 0 && position_.step >= hooks_.stop_at_step) request.stop = true;
  const int64_t agreed = world_.Max((request.stop ? 2 : 0) + (request.save ? 1 : 0));
  if (agreed > 0) RETURN_IF_ERROR(SaveNow());
  return agreed >= 2;
}

absl::Status Trainer::EvaluateIfDue(const Stage& stage, StepReport& report) {
  const int64_t every = config_.evaluate.every;
  const bool due = every > 0 && position_.step % every == 0;
  if (stage.sets.empty() || (!due && position_.stage_step < stage.steps)) return absl::OkStatus();
  const InPhase evaluating(world_.pulse(), Phase::kEvaluating);
  ASSIGN_OR_RETURN(last_scores_, EvaluateSets(world_, machine_->context, *model_->stack, stage));
  scored_step_ = position_.step;
  for (const HeldOutResult& set : last_scores_) {
    report.more.emplace_back("evaluate/" + set.name + "/loss", set.loss);
    report.more.emplace_back("evaluate/" + set.name + "/bits_per_byte", set.bits_per_byte);
  }
  return absl::OkStatus();
}

absl::Status Trainer::Log(const StepReport& report) {
  if (!first()) return absl::OkStatus();
  const int64_t every = std::max<int64_t>(1, config_.train.log_every);
  const bool scored = scored_step_ == report.step;
  if (report.step % every == 0 || report.step == report.steps || report.skipped || scored) {
    const double each = seconds_ / static_cast<double>(steps_here_);
    Say(ConsoleLine(report, each * static_cast<double>(report.steps - report.step)));
  }
  if (hooks_.on_step) hooks_.on_step(report);
  if (tensorboard_ != nullptr) RETURN_IF_ERROR(tensorboard_->Write(report));
  return metrics_->Write(report);
}

TrainResult Trainer::Stopped() {
  RunResult result;
  AddMeasured(result);
  return {75, "stopped after step " + std::to_string(position_.step) + " of " +
                  std::to_string(TotalSteps(config_)) + " with a checkpoint in " + folder_.dir +
                  "; " + MeasuredText(result) + "the same command goes on"};
}

absl::StatusOr<std::optional<TrainResult>> Trainer::RunStage(Stage& stage) {
  Context& context = machine_->context;
  times_ = {};
  const double stage_tokens = static_cast<double>(stage.plan.sequences * stage.length());
  const StepWork work = {stage_tokens,
                         stage_tokens * Count(config_.model).flops_per_token(stage.length()),
                         peak_flops_};
  model_->stack->SetPositions(context, stage.length(), stage.config.yarn);
  Stepper stepper(world_, context, config_, stage, *model_->stack, *optimizer_, position_);
  const int64_t every = config_.train.checkpoint_every;
  const InPhase training(world_.pulse(), Phase::kTraining);
  while (position_.stage_step < stage.steps) {
    ASSIGN_OR_RETURN(const bool stop, AnswerSignals());
    if (stop) return Stopped();
    StepReport report = stepper.Step(position_);
    report.steps = TotalSteps(config_);
    report.more.emplace_back("stage", static_cast<double>(position_.stage));
    report.more.emplace_back("memory/peak_bytes",
                             static_cast<double>(machine_->allocator.total().peak));
    report.more.emplace_back("memory/taken_bytes",
                             static_cast<double>(machine_->allocator.taken()));
    seconds_ += report.seconds;
    times_.Add(report);
    if (work.peak > 0.0) report.more.emplace_back("mfu", PeakShare(work, report.seconds));
    tokens_here_ += stage.plan.sequences * stage.length();
    ++steps_here_;
    last_loss_ = report.loss;
    RETURN_IF_ERROR(EvaluateIfDue(stage, report));
    RETURN_IF_ERROR(world_.Agree(Log(report)));
    if (position_.skipped_in_a_row >= config_.train.skip.limit) {
      return TrainResult{4, "diverged: " + std::to_string(position_.skipped_in_a_row) +
                                " steps in a row were skipped, the last at step " +
                                std::to_string(position_.step) +
                                "; lower optim.lr or raise train.skip.limit"};
    }
    // While steps are skipped no checkpoint takes the place of a good one.
    const bool due = every > 0 && position_.step % every == 0 && position_.skipped_in_a_row == 0;
    if (due) RETURN_IF_ERROR(SaveNow());
  }
  if (const std::string text = times_.Text(work); !text.empty()) Say(text);
  return std::optional<TrainResult>();
}

absl::StatusOr<TrainResult> Trainer::RunStages() {
  const int64_t stages = static_cast<int64_t>(stages_.size());
  while (true) {
    ASSIGN_OR_RETURN(std::optional<TrainResult> ended,
                     RunStage(stages_[static_cast<size_t>(position_.stage)]));
    if (ended.has_value()) {
      RETURN_IF_ERROR(world_.Agree(first() ? metrics_->Flush() : absl::OkStatus()));
      return *std::move(ended);
    }
    if (position_.stage + 1 == stages) return Finish();
    ++position_.stage;
    position_.stage_step = 0;
    position_.stage_sample = 0;
  }
}

TrainResult Trainer::Diverged() const {
  return {4, "diverged: the loss is not a number at the last step, " +
                 std::to_string(position_.step) + "; lower optim.lr and give another run.dir"};
}

absl::StatusOr<TrainResult> Trainer::Finish() {
  if (steps_here_ > 0 && !std::isfinite(last_loss_)) return Diverged();
  if (config_.train.checkpoint_last) RETURN_IF_ERROR(SaveNow());
  world_.pulse().SetPhase(Phase::kEnding);
  const Stage& stage = stages_.back();
  if (scored_step_ != position_.step && !stage.sets.empty()) {
    ASSIGN_OR_RETURN(last_scores_, EvaluateSets(world_, machine_->context, *model_->stack, stage));
  }
  if (!last_scores_.empty() && !std::isfinite(last_scores_.front().loss)) return Diverged();
  RunResult result;
  result.position = position_;
  result.sets = last_scores_;
  result.trained = steps_here_ > 0;
  result.train_loss = last_loss_;
  result.seconds = seconds_;
  result.tokens_here = tokens_here_;
  AddMeasured(result);
  result.ranks = world_.size();
  result.counts = Count(config_.model);
  absl::Status status;
  if (first()) {
    if (!stage.sets.empty()) {
      result.unigram_entropy = UnigramEntropy(*stage.loader, *stage.sets.front());
    }
    if (!last_scores_.empty()) {
      status = WriteFileAtomically(folder_.documents(),
                                   DocumentsJson(last_scores_.front().documents) + "\n");
    }
    if (status.ok()) status = WriteResult(folder_.result(), result);
  }
  RETURN_IF_ERROR(world_.Agree(status));
  return TrainResult{0, "finished " + std::to_string(position_.step) + " steps; " +
                            MeasuredText(result) + "results in " + folder_.result()};
}

// Adds what was predicted beside what came: memory, and the median step.
void Trainer::AddMeasured(RunResult& result) const {
  result.peak_memory = world_.Max(machine_->allocator.total().peak);
  result.predicted_memory = footprint_.total();
  if (predicted_seconds_.empty() || times_.empty()) return;
  result.step_seconds = times_.median();
  result.predicted_seconds = predicted_seconds_.back();
}

std::string Trainer::MeasuredText(const RunResult& result) const {
  std::string text = "memory at most " + FormatBytes(result.peak_memory) + " a rank, " +
                     FormatBytes(result.predicted_memory) + " predicted" +
                     (footprint_.tables_grow ? " without the rows that text touched; " : "; ");
  if (result.predicted_seconds == 0.0) return text;
  char times[96];
  std::snprintf(times, sizeof times, "a step %.4g s, %.4g s predicted; ", result.step_seconds,
                result.predicted_seconds);
  return text + times;
}

// A folder that was made for a run that could not begin is taken away again, if nothing is in it.
// Without the lock it is another's.
void Trainer::LeaveNoTrace() {
  if (!first() || !lock_.has_value()) return;
  std::error_code error;
  if (made_checkpoints_) std::filesystem::remove(folder_.checkpoints(), error);
  if (!made_folder_ || folder_.HoldsRun() || std::filesystem::exists(folder_.config(), error))
    return;
  std::filesystem::remove(folder_.dir + "/.lock", error);
  std::filesystem::remove(folder_.dir, error);
}

absl::StatusOr<TrainResult> Trainer::Run() {
  const absl::StatusOr<bool> finished = OpenFolder();
  if (finished.ok() && *finished) {
    return TrainResult{0, folder_.dir + ": this run is finished; results in " + folder_.result()};
  }
  absl::Status begun = finished.status();
  if (begun.ok()) begun = Build();
  if (begun.ok()) begun = Resume();
  if (begun.ok()) return RunStages();
  LeaveNoTrace();
  return begun;
}

absl::Status CheckConfig(const RunConfig& config, int world) {
  RETURN_IF_ERROR(Validate(config));
  RETURN_IF_ERROR(ValidateForWorld(config, world));
  if (config.run.dir.empty()) {
    return absl::InvalidArgumentError("run.dir: is empty; say where the run lives");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TrainResult> Train(World& world, const RunConfig& config, const TrainHooks& hooks) {
  RETURN_IF_ERROR(world.Agree(CheckConfig(config, world.size())));
  InstallSignalHandlers();
  Trainer trainer(world, config, hooks);
  return trainer.Run();
}

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
      return 2;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kNotFound:
      return 3;
    default:
      return 1;
  }
}

}  // namespace mneme
