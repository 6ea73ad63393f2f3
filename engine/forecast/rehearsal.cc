#include "engine/forecast/rehearsal.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/forecast/footprint.h"
#include "engine/machine/machine.h"
#include "engine/update/optimizer.h"
#include "kernels/core/check.h"
#include "kernels/core/side.h"
#include "models/count.h"
#include "parallel/dry.h"

namespace mneme {
namespace {

// More micro-batches than that repeat themselves, and their work is scaled. A table whole on a
// device keeps the gradients of all, one on the host sums them up; without either two are like
// many, and a table spread over devices is told of the others.
constexpr int64_t kMostWithTables = 64;
constexpr int64_t kMostWithout = 2;

// Without the map, which a dry device has no place for.
Vocabulary PlainVocabulary(int64_t size) {
  Vocabulary vocabulary;
  vocabulary.size = vocabulary.canonical_size = size;
  return vocabulary;
}

class DryRun {
 public:
  DryRun(const RunConfig& config, const StageConfig& stage, const Layout& layout, Device device,
         double expert_load, int64_t tokens)
      : config_(config),
        stage_(stage),
        allocator_(device),
        stream_(device, allocator_),
        mesh_(MakeDryMesh(layout, expert_load, tokens)),
        context_{DryKernels(), stream_, mesh_, PrecisionOf(config)} {}

  absl::Status Build(int64_t vocabulary) {
    ModelConfig model = config_.model;
    model.vocab_size = vocabulary;
    ASSIGN_OR_RETURN(stack_, Stack::Make(context_, model, PlainVocabulary(vocabulary),
                                         RecomputeOf(config_.train), 0, store_));
    store_.Allocate(stream_, context_.dtype, mesh_.layout, FullestRank());
    optimizer_ = std::make_unique<Optimizer>(context_, config_.optim, model, config_.train.skip,
                                             store_, *stack_);
    stack_->SetPositions(context_, stage_.sequence_length, stage_.yarn);
    if (!stream_.device().is_cpu()) allocator_.Reserve(Allocator::kAnyLength);
    if (mesh_.layout.world > 1) stream_.side().SetOverlap(config_.parallel.overlap);
    return absl::OkStatus();
  }

  void Step(const BatchPlan& plan, Rehearsal& out) {
    const int64_t length = stage_.sequence_length;
    const bool tables =
        !stack_->tables().empty() && (stream_.device().is_cpu() || mesh_.layout.memory == 1);
    const int64_t batches = std::min(plan.accumulation, tables ? kMostWithTables : kMostWithout);
    const auto scale = static_cast<double>(plan.accumulation) / static_cast<double>(batches);
    const bool documents = stage_.data.doc_boundary == "reset";
    Tensor ids[4];
    for (Tensor& t : ids) t = Other(DType::kI32, plan.per_rank * length);
    Tensor scale_of[3];
    for (Tensor& t : scale_of) t = Other(Accurate(context_.dtype), 1);
    const Tensor step_plan = Other(DType::kF64, kPlanScalars);
    Tensor sums = Other(DType::kF64, kSumScalars);
    Tensor report = Other(DType::kF64, kStepReportScalars);
    Tensor losses = sums.Flat(kSumLosses, kSumLosses + 1);
    Mark();
    out.timeline = {};
    out.timeline.recorded = RecordsSteps(config_, mesh_.layout, stream_.device());
    const auto batch = [&](int64_t i) {
      const int64_t begin = i * plan.micro * length;
      const auto part = [&](int n) { return ids[n].Flat(begin, begin + plan.micro * length); };
      return MicroBatch{plan.micro, length, part(0), part(1), part(2), part(3), documents};
    };
    stack_->Announce(context_, batch(0));
    for (int64_t i = 0; i < batches; ++i) {
      if (i + 1 < batches) stack_->Announce(context_, batch(i + 1));
      stack_->TrainStep(context_, batch(i), scale_of[0], scale_of[1], losses, scale_of[2],
                        i + 1 == batches ? optimizer_->Listen(context_) : GradientsFinal());
      LedgerOf(stream_).Give({.what = Queued::What::kLap});
      if (i == 0) SkipOn(plan.accumulation - batches);
    }
    Take(scale, out.forward_backward, out.timeline);
    const SentBytes before = sent_;
    sent_.experts = mesh_.expert->bytes_sent();
    sent_.rows = mesh_.memory->bytes_sent();
    out.sent.experts = static_cast<int64_t>(scale * Real(sent_.experts - before.experts));
    out.sent.rows = static_cast<int64_t>(scale * Real(sent_.rows - before.rows));
    optimizer_->Step(context_, step_plan, sums, report);
    LedgerOf(stream_).Give({.what = Queued::What::kLap});
    Take(1.0, out.update, out.timeline);
    sent_.gradients = mesh_.world->bytes_sent() + mesh_.expert_replicas->bytes_sent();
    out.sent.gradients = sent_.gradients - before.gradients;
  }

  void Report(Rehearsal& out) {
    const int64_t size = SizeOf(Accurate(context_.dtype));
    for (const RegionState& state : optimizer_->state()) {
      const int64_t values = state.region->elements * (state.muon ? 2 : 3);
      const bool expert = state.region->view == View::kExpert;
      out.checkpoint_bytes += size * values * (expert ? mesh_.layout.expert : 1);
    }
    if (!stack_->tables().empty()) out.checkpoint_bytes += 3 * size * Count(config_.model).tables;
    out.peak = allocator_.total().peak;
    out.taken = std::max(out.peak, allocator_.taken());
    out.reserved = allocator_.reserved_high();
    for (int tag = 0; tag < kMemoryTags; ++tag)
      out.bytes[static_cast<size_t>(tag)] = allocator_.use(static_cast<MemoryTag>(tag)).then;
  }

 private:
  // Whose owned ranges hold most. Experts are counted like those of the first rank, which has no
  // fewer of them.
  int FullestRank() {
    store_.LayOut(context_.dtype, mesh_.layout, 0);
    const auto owns = [&](int rank) {
      int64_t elements = 0;
      for (const Region* region : store_.regions()) {
        const bool muon = region->kind == UpdateKind::kMuon && config_.optim.matrices == "muon";
        const auto member = static_cast<size_t>(MemberOf(region->view, mesh_.layout, rank));
        elements += region->counts[member] * ((muon ? 1 : 2) + (region->rounded() ? 1 : 0));
      }
      return elements;
    };
    int fullest = 0;
    for (int rank = 1; rank < mesh_.layout.world; ++rank)
      if (owns(rank) > owns(fullest)) fullest = rank;
    return fullest;
  }
  // What the other micro-batches leave in spread tables, from before the last one on.
  void SkipOn(int64_t micro_batches) {
    for (RowExchange* table : stack_->tables()) {
      if (auto* dry = dynamic_cast<DryTable*>(table)) dry->Skip(stream_, micro_batches);
    }
  }

  static double Real(int64_t n) { return static_cast<double>(n); }
  Tensor Other(DType dtype, int64_t n) {
    return Tensor::Empty(stream_, dtype, {n}, MemoryTag::kOther);
  }

  void Mark() { LedgerOf(stream_) = LedgerOf(stream_.side().stream()) = {}; }
  // The work since the last mark.
  void Take(double scale, std::array<WorkDone, kWorks>& out, Timeline& timeline) {
    const auto add = [](const std::vector<Queued>& queued, std::vector<Queued>& all) {
      all.insert(all.end(), queued.begin(), queued.end());
    };
    out = LedgerOf(stream_).done;
    add(LedgerOf(stream_).queued, timeline.main);
    if (Stream& side = stream_.side().stream(); &side != &stream_) {
      for (size_t i = 0; i < out.size(); ++i) out[i].Add(LedgerOf(side).done[i]);
      add(LedgerOf(side).queued, timeline.side);
    }
    for (WorkDone& work : out) {
      work.calls = static_cast<int64_t>(scale * Real(work.calls));
      work.flops *= scale;
      work.bytes *= scale;
      work.exps *= scale;
    }
    Mark();
  }

  const RunConfig& config_;
  const StageConfig& stage_;
  Allocator allocator_;
  Stream stream_;
  Mesh mesh_;
  Context context_;
  ParameterStore store_;
  std::unique_ptr<Stack> stack_;
  std::unique_ptr<Optimizer> optimizer_;
  SentBytes sent_;  // so far
};

}  // namespace

Rehearsal Rehearse(const RunConfig& config, const StageConfig& stage, const Layout& layout,
                   int64_t vocabulary, Device device, int64_t shrink, Dealt dealt) {
  Rehearsal out;
  const int64_t length = stage.sequence_length;
  const auto plan = PlanBatch(stage.batch_sequences,
                              WantedMicroBatch(config.train, length, device, shrink), layout.world);
  if (!plan.ok()) return out;
  out.micro_batches = plan->accumulation;
  out.tokens = plan->per_rank * length;
  device.dry = true;
  const double load = dealt == Dealt::kMost ? layout.expert_room : 1.0;
  Layout here = layout;
  here.peer = here.peer && !device.is_cpu();
  DryRun run(config, stage, here, device, load, plan->micro * length);
  if (!run.Build(std::max<int64_t>(1, vocabulary)).ok()) return out;
  // On the host what the first step made room for stays.
  if (device.is_cpu()) run.Step(*plan, out);
  run.Step(*plan, out);
  run.Report(out);
  return out;
}

}  // namespace mneme
