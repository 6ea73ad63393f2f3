// Attention beside cuDNN's own, at the shapes of a sweep model and of Engram-27B, and at 32,768
// tokens.
//
//   attention_bench
//
// A line a case: forward and backward of the op, without documents, with the mask asked, and with
// documents; and cuDNN alone, on keys that are packed already and without taking their gradient
// apart. All take turns, medians of kRounds with warm caches. TFLOP/s are of the pairs that a
// causal mask leaves, 2 (widths of a key and a value) a pair and head forward, backward 2 (3 keys
// and 2 values); for documents, milliseconds only. Then the workspace of the op alone.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/gpu/cudnn.h"
#include "kernels/gpu/queue.h"
#include "tests/bench/gpu_timer.h"

namespace mneme::bench {
namespace {

constexpr int kRounds = 9;

struct Case {
  const char* name;
  AttentionShape shape;
  int64_t document;  // tokens of one, where there are several
};

constexpr Case kCases[] = {
    {"cell", {64, 1024, 4, 48, 16, 64}, 700},
    {"sweep", {16, 2048, 8, 64, 32, 64}, 500},
    {"27b", {4, 4096, 32, 128, 64, 128}, 700},
    {"27b long", {1, 32768, 32, 128, 64, 128}, 0},
};

// Something to time.
struct Entry {
  std::string name;
  double flop;  // 0: unknown
  std::function<void()> run;
  std::vector<double> milliseconds;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + kRounds / 2, values.end());
  return values[kRounds / 2];
}

class Comparison {
 public:
  Comparison(GpuTimer& timer, const Case& problem)
      : stream_(timer.stream()), kernels_(timer.kernels()), n_(problem.shape) {
    const int64_t t = n_.rows * n_.length, width = n_.nope + n_.rope;
    const auto normal = [&](Shape shape) { return timer.Normal(DType::kBf16, shape); };
    q_ = normal({t, n_.heads, width}), dq_ = normal(q_.shape());
    k_ = normal(q_.shape()), dk_ = normal(q_.shape());
    kv_ = normal({t, n_.heads, n_.nope + n_.value}), dkv_ = normal(kv_.shape());
    pe_ = normal({t, n_.rope}), dpe_ = normal(pe_.shape());
    out_ = normal({t, n_.heads, n_.value}), dout_ = normal(out_.shape());
    lse_ = timer.Empty(DType::kF32, {t, n_.heads});
    whole_ = timer.Zeros(DType::kI32, {t});
    scale_ = 1 / std::sqrt(static_cast<double>(width));
    const double pairs = 0.5 * static_cast<double>(t) * static_cast<double>(n_.heads * n_.length);
    forward_ = 2 * pairs * static_cast<double>(width + n_.value);
    backward_ = 2 * pairs * static_cast<double>(3 * width + 2 * n_.value);
    Op("", whole_, false, true);
    Op(" masked", whole_, true, true);
    if (problem.document > 0) {
      std::vector<int64_t> starts;
      for (int64_t i = 0; i < t; ++i) {
        starts.push_back(i % n_.length / problem.document * problem.document);
      }
      parts_ = timer.Host(DType::kI32, {t}, starts);
      Op(" documents", parts_, true, false);
    }
    Cudnn();
  }

  // The op alone, whose needs the fresh pool then tells.
  void RunOnce() {
    entries_[0].run();
    entries_[1].run();
  }

  void Measure() {
    for (int round = -1; round < kRounds; ++round) {
      for (Entry& entry : entries_) {
        const double milliseconds = Milliseconds(entry.run);
        if (round >= 0) entry.milliseconds.push_back(milliseconds);
      }
    }
    for (const Entry& entry : entries_) {
      const double milliseconds = Median(entry.milliseconds);
      std::printf("  %-26s %8.3f ms", entry.name.c_str(), milliseconds);
      if (entry.flop > 0) std::printf(" %5.0f TFLOP/s", entry.flop / milliseconds * 1e-9);
      std::printf("\n");
    }
  }

 private:
  void Add(const std::string& name, double flop, std::function<void()> run) {
    entries_.push_back({name, flop, std::move(run), {}});
  }

  void Op(const std::string& suffix, const Tensor& start, bool documents, bool whole) {
    AttentionShape n = n_;
    n.documents = documents;
    Add("forward" + suffix, whole ? forward_ : 0, [this, n, start] {
      kernels_.attention(stream_, n, scale_, q_, kv_, pe_, start, out_, lse_);
    });
    Add("backward" + suffix, whole ? backward_ : 0, [this, n, start] {
      kernels_.attention_grad(stream_, n, scale_, dout_, q_, kv_, pe_, start, out_, lse_, dq_, dkv_,
                              dpe_);
    });
  }

  void Cudnn() {
    gpu::Sdpa p;
    p.rows = n_.rows;
    p.length = n_.length;
    p.heads = n_.heads;
    p.width = n_.nope + n_.rope;
    p.value = n_.value;
    p.v_step = n_.nope + n_.value;
    p.q_stride = n_.heads * p.width;
    p.v_stride = n_.heads * p.v_step;
    p.out_stride = n_.heads * n_.value;
    p.lse_stride = n_.heads;
    p.scale = static_cast<float>(scale_);
    const auto values = [this](Tensor& kv) { return static_cast<uint16_t*>(kv.raw()) + n_.nope; };
    if (gpu::SdpaServes(stream_, p, false)) {
      Add("cuDNN forward", forward_, [this, p, values] {
        gpu::SdpaForward(stream_, p, q_.raw(), k_.raw(), values(kv_), out_.raw(),
                         static_cast<float*>(lse_.raw()));
      });
    }
    // Deterministic, it keeps two bytes a pair and head: not beyond what a card holds.
    if (n_.rows * n_.heads * n_.length * n_.length > int64_t{8} << 30) return;
    if (!gpu::SdpaServes(stream_, p, true)) return;
    Add("cuDNN backward", backward_, [this, p, values] {
      gpu::SdpaBackward(stream_, p, q_.raw(), k_.raw(), values(kv_), out_.raw(),
                        static_cast<float*>(lse_.raw()), dout_.raw(), dq_.raw(), dk_.raw(),
                        values(dkv_));
    });
  }

  double Milliseconds(const std::function<void()>& run) {
    cudaStream_t stream = gpu::QueueOf(stream_).stream;
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin, stream);
    run();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return milliseconds;
  }

  Stream& stream_;
  const Kernels& kernels_;
  const AttentionShape n_;
  double scale_ = 0, forward_ = 0, backward_ = 0;
  Tensor q_, k_, kv_, pe_, out_, lse_, dout_, dq_, dk_, dkv_, dpe_, whole_, parts_;
  std::vector<Entry> entries_;
};

int Main() {
  std::string why;
  if (GpuDriver()->count(&why) == 0) {
    std::fprintf(stderr, "attention_bench: no GPU on this machine (%s)\n", why.c_str());
    return 1;
  }
  GpuTimer("").MeasureCeilings();
  for (const Case& problem : kCases) {
    GpuTimer timer("");
    std::printf("%s: %ld x %ld, %ld heads of %ld + %ld / %ld\n", problem.name,
                static_cast<long>(problem.shape.rows), static_cast<long>(problem.shape.length),
                static_cast<long>(problem.shape.heads), static_cast<long>(problem.shape.nope),
                static_cast<long>(problem.shape.rope), static_cast<long>(problem.shape.value));
    Comparison comparison(timer, problem);
    comparison.RunOnce();
    const int64_t workspace = timer.stream().allocator().use(MemoryTag::kWorkspace).peak;
    comparison.Measure();
    std::printf("  workspace of the op: %.3f GiB\n", static_cast<double>(workspace) / (1 << 30));
  }
  return 0;
}

}  // namespace
}  // namespace mneme::bench

int main() { return mneme::bench::Main(); }
