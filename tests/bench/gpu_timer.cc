#include "tests/bench/gpu_timer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "kernels/core/graph.h"
#include "kernels/core/random.h"
#include "kernels/gpu/queue.h"
#include "tests/bench/gpu_rates.h"

namespace mneme::bench {
namespace {

constexpr int kRepeats = 9;
constexpr int64_t kFlushBytes = int64_t{256} << 20;  // several times the second-level cache
constexpr int64_t kDrawn = (int64_t{1} << 20) + 7;   // an odd count: rows differ
const Device kGpu = {.kind = Device::Kind::kGpu, .index = 0};

// Ends the program where a CUDA call failed.
void Check(cudaError_t error) {
  if (error != cudaSuccess) Fatal(__FILE__, __LINE__, cudaGetErrorString(error));
}

// `bytes` of the block at `data`, repeated over the whole of `to`.
void Tile(Stream& stream, const void* data, int64_t bytes, Tensor& to) {
  Tensor flat = Tensor::Wrap(to.raw(), DType::kU8, {to.bytes()}, to.device());
  int64_t done = std::min(bytes, to.bytes());
  Tensor head = flat.Flat(0, done);
  Upload(stream, data, done, head);
  while (done < to.bytes()) {
    const int64_t more = std::min(done, to.bytes() - done);
    Tensor next = flat.Flat(done, done + more);
    Check(cudaMemcpyAsync(next.raw(), flat.raw(), static_cast<size_t>(more),
                          cudaMemcpyDeviceToDevice, gpu::QueueOf(stream).stream));
    done += more;
  }
}

template <class T>
std::vector<T> Cast(const std::vector<float>& values) {
  std::vector<T> out;
  out.reserve(values.size());
  for (const float v : values) out.push_back(static_cast<T>(v));
  return out;
}

}  // namespace

double Bytes(std::initializer_list<Tensor> tensors) {
  double sum = 0;
  for (const Tensor& t : tensors) sum += static_cast<double>(t.bytes());
  return sum;
}

GpuTimer::GpuTimer(std::string filter)
    : filter_(std::move(filter)),
      allocator_(kGpu),
      stream_(kGpu, allocator_),
      kernels_(*GpuKernels()),
      flush_(Tensor::Zeros(stream_, DType::kU8, {kFlushBytes})) {}

Tensor GpuTimer::Normal(DType dtype, Shape shape, double std) {
  static const std::vector<float> drawn = [] {
    std::vector<float> values(static_cast<size_t>(kDrawn));
    FillNormal(MakeKey(1, "bench"), 0, kDrawn, 1.0, values.data());
    return values;
  }();
  std::vector<float> values = drawn;
  values.resize(static_cast<size_t>(std::min(shape.elements(), kDrawn)));
  for (float& v : values) v *= static_cast<float>(std);
  Tensor t = Empty(dtype, shape);
  const auto count = static_cast<int64_t>(values.size());
  if (dtype == DType::kBf16) {
    Tile(stream_, Cast<BFloat16>(values).data(), 2 * count, t);
  } else {
    CHECK(dtype == DType::kF32);
    Tile(stream_, values.data(), 4 * count, t);
  }
  return t;
}

Tensor GpuTimer::Ids(DType dtype, Shape shape, int64_t n) {
  std::vector<int64_t> values(static_cast<size_t>(shape.elements()));
  const RandomKey key = MakeKey(1, "ids");
  for (size_t i = 0; i < values.size(); ++i) values[i] = RandomInt(key, i, n);
  return Host(dtype, shape, values);
}

Tensor GpuTimer::Host(DType dtype, Shape shape, const std::vector<int64_t>& values) {
  Tensor t = Empty(dtype, shape);
  if (dtype == DType::kI64) {
    Upload(stream_, values.data(), t.bytes(), t);
  } else {
    CHECK(dtype == DType::kI32);
    const std::vector<int32_t> narrow(values.begin(), values.end());
    Upload(stream_, narrow.data(), t.bytes(), t);
  }
  return t;
}

Tensor GpuTimer::Zeros(DType dtype, Shape shape) { return Tensor::Zeros(stream_, dtype, shape); }
Tensor GpuTimer::Empty(DType dtype, Shape shape) { return Tensor::Empty(stream_, dtype, shape); }

double GpuTimer::Seconds(const std::function<void()>& run) {
  // Until plans are made and the pool has what the work asks for.
  for (int64_t before = -1; before != allocator_.driver_allocations();) {
    before = allocator_.driver_allocations();
    run();
  }
  Graph graph = Graph::Record(stream_, run);
  graph.Replay();
  cudaStream_t stream = gpu::QueueOf(stream_).stream;
  std::vector<cudaEvent_t> begins(kRepeats);
  std::vector<cudaEvent_t> ends(kRepeats);
  std::vector<double> seconds;
  for (size_t i = 0; i < kRepeats; ++i) {
    Check(cudaEventCreate(&begins[i]));
    Check(cudaEventCreate(&ends[i]));
    ReadAll(stream, flush_.raw(), flush_.bytes());
    Check(cudaEventRecord(begins[i], stream));
    graph.Replay();
    Check(cudaEventRecord(ends[i], stream));
  }
  stream_.Synchronize();
  for (size_t i = 0; i < kRepeats; ++i) {
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begins[i], ends[i]));
    seconds.push_back(1e-3 * static_cast<double>(milliseconds));
    Check(cudaEventDestroy(begins[i]));
    Check(cudaEventDestroy(ends[i]));
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
  return seconds[kRepeats / 2];
}

Ceilings GpuTimer::MeasureCeilings() {
  Ceilings found;
  {
    const Tensor from = Normal(DType::kF32, {int64_t{1} << 29});
    Tensor to = Empty(DType::kF32, from.shape());
    cudaStream_t stream = gpu::QueueOf(stream_).stream;
    found.copy =
        Bytes({from, to}) / Seconds([&] { CopyAll(stream, from.raw(), from.bytes(), to.raw()); });
  }
  const int64_t n = 8192;
  const Tensor a = Normal(DType::kBf16, {n, n});
  const Tensor b = Normal(DType::kBf16, {n, n});
  Tensor c = Empty(DType::kBf16, {n, n});
  const auto multiply = [&] { kernels_.matmul(stream_, a, Trans::kNo, b, Trans::kYes, {}, c); };
  found.matmul = 2.0 * static_cast<double>(n * n * n) / Seconds(multiply);
  std::printf("%s: copy %.2f TB/s, bf16 matmul of %ld %.0f TFLOP/s (random data, medians of %d)\n",
              GpuDriver()->info(0).name.c_str(), found.copy * 1e-12, static_cast<long>(n),
              found.matmul * 1e-12, kRepeats);
  std::printf("%-20s %-12s %10s %8s %8s %10s %7s\n", "op", "shape", "ms", "GB/s", "TFLOP/s",
              "floor ms", "share");
  return found;
}

bool GpuTimer::WantsAny(std::initializer_list<std::string> beginnings) const {
  return std::any_of(beginnings.begin(), beginnings.end(), [&](const std::string& beginning) {
    return beginning.starts_with(filter_) || filter_.starts_with(beginning);
  });
}

void GpuTimer::Missing(const std::string& op) const {
  std::printf("%-20s %-12s %10s\n", op.c_str(), shape_.c_str(), "absent");
}

void GpuTimer::Measure(const std::string& op, const Work& work, const std::function<void()>& run) {
  const double seconds = Seconds(run);
  const double floor = std::max(work.bytes / ceilings_.copy, work.flop / ceilings_.matmul);
  std::printf("%-20s %-12s %10.4f %8.0f %8.1f %10.4f %6.1f%%\n", op.c_str(), shape_.c_str(),
              1e3 * seconds, 1e-9 * work.bytes / seconds, 1e-12 * work.flop / seconds, 1e3 * floor,
              100 * floor / seconds);
  std::fflush(stdout);
}

}  // namespace mneme::bench
