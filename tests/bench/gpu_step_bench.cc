// A whole training step of a model on the GPU: how fast, how close to the machine, and where the
// time goes.
//
//   gpu_step_bench RUN.yaml [key=value ...]
//
// Tokens are random; nothing is read or written. The global batch is one micro-batch. Prints the
// time from the start of the process to the end of the first step, the median of kRepeats replays
// of the recorded step, tokens a second, the share of 989 TFLOP/s (bf16, dense, as in
// docs/results.md), memory by tag, and the time of every op, taken inside a replayed step.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "configs/load.h"
#include "engine/machine/machine.h"
#include "engine/update/optimizer.h"
#include "kernels/core/graph.h"
#include "kernels/gpu/queue.h"
#include "models/count.h"
#include "tests/bench/step_inputs.h"
#include "tests/bench/timed_kernels.h"

namespace mneme::bench {
namespace {

constexpr int kRepeats = 9;
constexpr double kPeak = 989e12;
const auto kStart = std::chrono::steady_clock::now();

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - kStart).count();
}

// Ends the program where a CUDA call failed.
void Check(cudaError_t error) {
  if (error != cudaSuccess) Fatal(__FILE__, __LINE__, cudaGetErrorString(error));
}

// Events around every op, recorded with the step.
struct EventClock {
  struct Span {
    const char* op;
    cudaEvent_t begin, end;
  };
  static inline std::vector<Span> spans;

  static cudaEvent_t Mark(Stream& stream) {
    cudaEvent_t event = nullptr;
    Check(cudaEventCreate(&event));
    Check(cudaEventRecordWithFlags(event, gpu::QueueOf(stream).stream, cudaEventRecordExternal));
    return event;
  }
  static void Begin(Stream& stream) { spans.push_back({"", Mark(stream), nullptr}); }
  static void End(Stream& stream, const char* op) {
    spans.back().op = op;
    spans.back().end = Mark(stream);
  }
};

// What a step reads and writes beside the model.
struct Scalars {
  Scalars(Stream& stream, const RunConfig& config, double tokens) {
    const auto put = [&](DType dtype, const std::vector<double>& values) {
      Tensor t =
          Tensor::Empty(stream, dtype, {static_cast<int64_t>(values.size())}, MemoryTag::kOther);
      const std::vector<float> narrow(values.begin(), values.end());
      Upload(stream, dtype == DType::kF64 ? static_cast<const void*>(values.data()) : narrow.data(),
             t.bytes(), t);
      return t;
    };
    loss_scale = put(DType::kF32, {1 / tokens});
    balance_scale = put(DType::kF32, {config.model.moe.sequence_balance});
    balance = put(DType::kF32, {0});
    plan = put(DType::kF64, {config.optim.lr, tokens});
    sums = put(DType::kF64, std::vector<double>(kSumScalars));
    report = put(DType::kF64, std::vector<double>(kStepReportScalars));
  }
  Tensor loss_scale, balance_scale, balance, plan, sums, report;
};

void QueueStep(Context& context, Model& model, Optimizer& optimizer, const MicroBatch& batch,
               Scalars& s) {
  Zero(context.stream, s.sums);
  Zero(context.stream, s.balance);
  Tensor losses = s.sums.Flat(kSumLosses, kSumLosses + 1);
  model.stack->TrainStep(context, batch, s.loss_scale, s.balance_scale, losses, s.balance);
  optimizer.Step(context, s.plan, s.sums, s.report);
}

// Median seconds of a replay.
double Median(Stream& stream, Graph& graph) {
  std::vector<double> seconds;
  for (int i = 0; i < kRepeats; ++i) {
    stream.Synchronize();
    const double begin = Now();
    graph.Replay();
    stream.Synchronize();
    seconds.push_back(Now() - begin);
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("step %.2f ms (%.2f to %.2f)\n", 1e3 * seconds[kRepeats / 2], 1e3 * seconds.front(),
              1e3 * seconds.back());
  return seconds[kRepeats / 2];
}

void PrintOps(double step_seconds) {
  std::map<std::string, std::pair<int64_t, double>> ops;
  for (const EventClock::Span& span : EventClock::spans) {
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, span.begin, span.end));
    ++ops[span.op].first;
    ops[span.op].second += static_cast<double>(milliseconds);
  }
  std::vector<std::pair<std::string, std::pair<int64_t, double>>> rows(ops.begin(), ops.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.second > b.second.second; });
  double sum = 0;
  std::printf("%-28s %6s %10s %7s\n", "op", "calls", "ms", "share");
  for (const auto& [op, row] : rows) {
    std::printf("%-28s %6ld %10.3f %6.1f%%\n", op.c_str(), static_cast<long>(row.first), row.second,
                0.1 * row.second / step_seconds);
    sum += row.second;
  }
  std::printf("%-28s %6s %10.3f %6.1f%%\n", "all ops", "", sum, 0.1 * sum / step_seconds);
}

absl::Status Run(World& world, const RunConfig& config) {
  ASSIGN_OR_RETURN(const Layout layout, MakeLayout(config.parallel, world.size()));
  Machine machine(world, layout, PrecisionOf(config), {.kind = Device::Kind::kGpu, .index = 0});
  Stream& stream = machine.stream;
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                   BuildModel(world, machine, config, PlainVocabulary(config.model.vocab_size)));
  Optimizer optimizer(machine.context, config.optim, config.model, config.train.skip, model->store,
                      *model->stack);
  const int64_t length = config.train.sequence_length;
  const double tokens = static_cast<double>(config.train.batch_sequences * length);
  model->stack->SetPositions(machine.context, length, {});
  const MicroBatch batch =
      RandomBatch(stream, config.train.batch_sequences, length, config.model.vocab_size, 0);
  Scalars scalars(stream, config, tokens);
  optimizer.SetHistory(machine.context, 0, {});
  const auto step = [&](Context& context) {
    QueueStep(context, *model, optimizer, batch, scalars);
  };
  step(machine.context);
  stream.Synchronize();
  std::printf("start to end of the first step %.2f s\n", Now());
  step(machine.context);
  Graph graph = Graph::Record(stream, [&] { step(machine.context); });
  const double seconds = Median(stream, graph);
  const double flop = Count(config.model).flops_per_token(length) * tokens;
  std::printf("%.0f tokens: %.0f tokens/s, %.1f TFLOP/s, %.1f %% of %.0f\n", tokens,
              tokens / seconds, 1e-12 * flop / seconds, 100 * flop / seconds / kPeak,
              1e-12 * kPeak);
  std::printf("%s", machine.allocator.Report().c_str());

  const Kernels timed = TimedKernels<EventClock>::Of(*GpuKernels());
  Context context{timed, stream, machine.mesh, machine.context.dtype};
  Graph marked = Graph::Record(stream, [&] { step(context); });
  marked.Replay();
  marked.Replay();
  stream.Synchronize();
  PrintOps(seconds);
  std::array<double, kStepReportScalars> told{};
  Download(stream, scalars.report, told.data(), scalars.report.bytes());
  std::printf("loss after %d steps on one batch: %.4f\n", kRepeats + 4, told[kReportLoss]);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  auto world = MpiWorld::Start(&argc, &argv);
  if (!world.ok() || argc < 2) {
    std::fprintf(stderr, "usage: gpu_step_bench RUN.yaml [key=value ...]\n");
    return 2;
  }
  std::string why;
  if (GpuDriver()->count(&why) == 0) {
    std::fprintf(stderr, "gpu_step_bench: no GPU on this machine (%s)\n", why.c_str());
    return 1;
  }
  const auto config = LoadConfig(argv[1], std::vector<std::string>(argv + 2, argv + argc));
  const absl::Status status = config.ok() ? Run(**world, *config) : config.status();
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace mneme::bench

int main(int argc, char** argv) { return mneme::bench::Main(argc, argv); }
