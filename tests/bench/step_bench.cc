// One whole training step of a model, against the rate of the matrix products that it is made of.
//
//   step_bench MODEL.yaml [STEPS] [key=value ...]
//
// Prints, as one table: the sgemm rate at the step's own shapes (each product of a dense model's
// forward and backward, measured here and now), the step's time, the share of the sgemm rate that
// it reaches, and the time of every op. Tokens are random; nothing is read or written. Under mpirun
// the ranks share the batch: the share is then per rank. CPU seconds stand beside wall seconds: on
// a shared machine they are the ones to believe.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "configs/load.h"
#include "engine/machine/machine.h"
#include "engine/update/optimizer.h"
#include "models/count.h"
#include "tests/bench/step_inputs.h"
#include "tests/bench/timed_kernels.h"
#include "tests/engine/host_step.h"

namespace mneme {
namespace {

struct Seconds {
  double wall = 0;
  double cpu = 0;
};

Seconds Now() {
  rusage use{};
  getrusage(RUSAGE_THREAD, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  const auto wall = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(wall).count(),
          seconds(use.ru_utime) + seconds(use.ru_stime)};
}

Seconds operator-(const Seconds& a, const Seconds& b) { return {a.wall - b.wall, a.cpu - b.cpu}; }

struct OpTime {
  Seconds total;
  int64_t calls = 0;
};
std::map<std::string, OpTime>& OpTimes() {
  static std::map<std::string, OpTime> times;
  return times;
}

// The clock of TimedKernels: an op on the CPU has run when it returns.
struct OpClock {
  static inline Seconds begin;
  static void Begin(Stream&) { begin = Now(); }
  static void End(Stream&, const char* op) {
    const Seconds spent = Now() - begin;
    OpTime& time = OpTimes()[op];
    time.total.wall += spent.wall;
    time.total.cpu += spent.cpu;
    ++time.calls;
  }
};

struct Product {
  int64_t out, in, count;  // y [T, out] = x [T, in] wᵀ
};

// The products of a dense model, the head in chunks of tokens as the head op has it.
std::vector<Product> Products(const ModelConfig& m) {
  const int64_t heads = m.mla.heads;
  return {{heads * (m.mla.qk_nope + m.mla.qk_rope), m.hidden, m.layers},
          {m.mla.kv_lora_rank + m.mla.qk_rope, m.hidden, m.layers},
          {heads * (m.mla.qk_nope + m.mla.v_head), m.mla.kv_lora_rank, m.layers},
          {m.hidden, heads * m.mla.v_head, m.layers},
          {2 * m.dense_width, m.hidden, m.layers},
          {m.hidden, m.dense_width, m.layers}};
}

// Flop and the fastest of three times of one product's forward, input gradient and weight gradient.
void MeasureProduct(Stream& stream, int64_t tokens, const Product& p, double count, double& flop,
                    double& seconds) {
  const Kernels& k = CpuKernels();
  Tensor x = Tensor::Zeros(stream, DType::kF32, {tokens, p.in});
  Tensor w = Tensor::Zeros(stream, DType::kF32, {p.out, p.in});
  Tensor y = Tensor::Zeros(stream, DType::kF32, {tokens, p.out});
  k.fill(stream, 0.5, x);
  k.fill(stream, 0.25, w);
  double best[3] = {1e30, 1e30, 1e30};
  for (int repeat = 0; repeat < 3; ++repeat) {
    const Seconds a = Now();
    k.matmul(stream, x, Trans::kNo, w, Trans::kYes, {}, y);
    const Seconds b = Now();
    k.matmul(stream, y, Trans::kNo, w, Trans::kNo, {}, x);
    const Seconds c = Now();
    k.matmul(stream, y, Trans::kYes, x, Trans::kNo, w, w);
    const Seconds d = Now();
    const double spent[3] = {(b - a).cpu, (c - b).cpu, (d - c).cpu};
    for (int i = 0; i < 3; ++i) best[i] = std::min(best[i], spent[i]);
    k.fill(stream, 0.5, x);  // numbers of ordinary size again
    k.fill(stream, 0.25, w);
  }
  flop += count * 6.0 * static_cast<double>(tokens * p.in * p.out);
  seconds += count * (best[0] + best[1] + best[2]);
}

// GFLOP/s over all products of a step, each weighted by its flop.
double SgemmRate(Stream& stream, const ModelConfig& model, int64_t tokens) {
  double flop = 0;
  double seconds = 0;
  for (const Product& p : Products(model)) {
    MeasureProduct(stream, tokens, p, static_cast<double>(p.count), flop, seconds);
  }
  const int64_t chunk = std::min<int64_t>(tokens, 256);
  MeasureProduct(stream, chunk, {model.vocab_size, model.hidden, 1},
                 static_cast<double>(tokens) / static_cast<double>(chunk), flop, seconds);
  return flop / seconds * 1e-9;
}

void PrintOps(int64_t steps, const Seconds& step) {
  std::printf("%-20s %8s %10s %10s %8s\n", "op", "calls", "wall s", "cpu s", "share");
  for (const auto& [name, time] : OpTimes()) {
    if (time.calls == 0) continue;
    const double n = static_cast<double>(steps);
    std::printf("%-20s %8.0f %10.4f %10.4f %7.1f%%\n", name.c_str(),
                static_cast<double>(time.calls) / n, time.total.wall / n, time.total.cpu / n,
                100 * time.total.cpu / n / step.cpu);
  }
}

absl::Status Run(World& world, const RunConfig& config, int64_t steps) {
  ASSIGN_OR_RETURN(const Layout layout, MakeLayout(config.parallel, world.size()));
  Machine machine(world, layout, DType::kF32);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Model> model,
      BuildModel(world, machine, config, bench::PlainVocabulary(config.model.vocab_size)));
  const Kernels kernels = bench::TimedKernels<OpClock>::Of(CpuKernels());
  Context context{kernels, machine.stream, machine.mesh, DType::kF32};
  Optimizer optimizer(context, config.optim, config.model, config.train.skip, model->store,
                      *model->stack);
  const int64_t length = config.train.sequence_length;
  const int64_t rows = config.train.batch_sequences / world.size();
  model->stack->SetPositions(context, length, {});
  const MicroBatch batch =
      bench::RandomBatch(machine.stream, rows, length, config.model.vocab_size, world.rank());
  Tensor scale = Tensor::Empty(machine.stream, DType::kF32, {1});
  kernels.fill(machine.stream, 1.0 / static_cast<double>(config.train.batch_sequences * length),
               scale);
  Tensor loss = Tensor::Zeros(machine.stream, DType::kF64, {1});
  Tensor balance = Tensor::Zeros(machine.stream, DType::kF32, {1});
  Seconds best{1e30, 1e30};
  for (int64_t step = 0; step <= steps; ++step) {
    if (step == 1) {  // the first one only warms up
      for (auto& [name, time] : OpTimes()) time = {};
    }
    world.Barrier();
    const Seconds begin = Now();
    model->stack->TrainStep(context, batch, scale, scale, loss, balance);
    test::HostStep(optimizer, context, step + 1, config.optim.lr);
    const Seconds spent = Now() - begin;
    if (step > 0) best = {std::min(best.wall, spent.wall), std::min(best.cpu, spent.cpu)};
  }
  const double rate = SgemmRate(machine.stream, config.model, rows * length);
  const double flop =
      Count(config.model).flops_per_token(length) * static_cast<double>(rows * length);
  world.Barrier();
  if (world.rank() != 0) return absl::OkStatus();
  std::printf("ranks %d, tokens a rank %ld, flop a step and rank %.1f G\n", world.size(),
              static_cast<long>(rows * length), flop * 1e-9);
  std::printf("sgemm at the step's shapes %.1f GFLOP/s\n", rate);
  std::printf(
      "step %.3f s wall, %.3f s cpu: %.1f tokens/s; %.1f GFLOP/s = %.1f %% of sgemm "
      "(cpu: %.1f %%)\n",
      best.wall, best.cpu, static_cast<double>(config.train.batch_sequences * length) / best.wall,
      flop / best.wall * 1e-9, flop / best.wall * 1e-7 / rate, flop / best.cpu * 1e-7 / rate);
  PrintOps(steps, best);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  auto world = MpiWorld::Start(&argc, &argv);
  if (!world.ok() || argc < 2) {
    std::fprintf(stderr, "usage: step_bench MODEL.yaml [STEPS] [key=value ...]\n");
    return 2;
  }
  const int64_t steps = argc > 2 ? std::max(1L, std::atol(argv[2])) : 3;
  const std::vector<std::string> overrides(argv + std::min(argc, 3), argv + argc);
  const auto config = LoadConfig(argv[1], overrides);
  const absl::Status status = config.ok() ? Run(**world, *config, steps) : config.status();
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) { return mneme::Main(argc, argv); }
