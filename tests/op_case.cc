#include "tests/op_case.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/core/graph.h"
#include "kernels/core/random.h"

namespace mneme::test {
namespace {

using Role = OpArg::Role;

constexpr uint64_t kSeed = 20260101;
constexpr double kStart = 0.75;  // what sums and accumulated gradients start from

bool IsInput(const OpArg& a) {
  return a.role == Role::kActivation || a.role == Role::kWeight || a.role == Role::kFixed;
}
bool HasGradient(const OpArg& a) { return a.role == Role::kActivation || a.role == Role::kWeight; }
bool GivesGradient(const OpArg& a) {
  return a.real && (a.role == Role::kOutput || a.role == Role::kSum);
}

bool Real(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kBf16;
}

// Standard normals of a name, drawn once.
const std::vector<double>& Normals(const std::string& name, int64_t count) {
  static std::map<std::string, std::vector<double>> drawn;
  std::vector<double>& values = drawn[name];
  const auto have = static_cast<int64_t>(values.size());
  if (have < count) {
    values.resize(static_cast<size_t>(count));
    FillNormal(MakeKey(kSeed, name), static_cast<uint64_t>(have), count - have, 1.0,
               values.data() + have);
  }
  return values;
}

// The dtype of tensor `name`, an argument or a gradient of one, in a run of `real` activations.
DType DTypeIn(const OpCase& c, const OpArg& a, const std::string& name, DType real) {
  if (!a.real) return a.dtype;
  if (real != DType::kBf16) return real;
  if (c.rounded.contains(name)) return DType::kBf16;
  const bool accurate = c.accurate.contains(name) || c.accurate.contains(a.name) ||
                        (name != a.name && a.role == Role::kWeight);
  return accurate ? DType::kF32 : DType::kBf16;
}

void Set(DType dtype, void* to, const std::vector<double>& values) {
  const auto set = [&](auto* x) {
    std::transform(values.begin(), values.end(), x,
                   [](double v) { return static_cast<std::remove_pointer_t<decltype(x)>>(v); });
  };
  switch (dtype) {
    case DType::kI32:
      return set(static_cast<int32_t*>(to));
    case DType::kI64:
      return set(static_cast<int64_t*>(to));
    case DType::kU8:
      return set(static_cast<uint8_t*>(to));
    case DType::kBf16:
      std::transform(values.begin(), values.end(), static_cast<BFloat16*>(to),
                     [](double v) { return BFloat16(static_cast<float>(v)); });
      return;
    case DType::kF32:
      return set(static_cast<float*>(to));
    case DType::kF64:
      return set(static_cast<double*>(to));
  }
}

// How the tensors of a run are made.
struct Making {
  DType real = DType::kF32;
  DType as = real;    // inputs hold the numbers that a run of this dtype would read
  int64_t shift = 0;  // OpRun::shift
};

void Write(OpRun& r, const std::string& name, const std::vector<double>& values) {
  Tensor& t = r[name];
  if (t.device().is_cpu()) return Set(t.dtype(), t.raw(), values);
  std::string image(static_cast<size_t>(t.bytes()), '\0');
  Set(t.dtype(), image.data(), values);
  Upload(r.stream, image.data(), t.bytes(), t);
}

void Put(OpRun& r, const std::string& name, DType dtype, Shape shape) {
  Guarded memory = r.stream.device().is_cpu() ? Guarded(dtype, shape, r.shift)
                                              : Guarded(r.stream, dtype, shape, r.shift);
  CHECK(r.tensors.emplace(name, std::move(memory)).second);
}

// Values pass through float, or bf16, so that runs in all dtypes read the same numbers.
std::vector<double> Rounded(std::vector<double> values, DType dtype) {
  for (double& v : values) {
    v = static_cast<float>(v);
    if (dtype == DType::kBf16) v = static_cast<double>(BFloat16(static_cast<float>(v)));
  }
  return values;
}

// What an input holds when an op is called.
std::vector<double> InputValues(const OpCase& c, const OpArg& a, DType as) {
  const int64_t n = a.shape.elements();
  std::vector<double> values(static_cast<size_t>(n));
  if (a.value) {
    for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = a.value(i);
  } else {
    std::copy_n(Normals(a.name, n).begin(), n, values.begin());
  }
  return a.real ? Rounded(std::move(values), DTypeIn(c, a, a.name, as)) : values;
}

OpRun Prepare(const OpCase& c, Stream& stream, const Kernels& kernels, const Making& making) {
  OpRun r{stream, kernels, {}, making.real, making.shift};
  for (const OpArg& a : c.args) {
    const auto count = static_cast<size_t>(a.shape.elements());
    const auto put = [&](const std::string& name) {
      Put(r, name, DTypeIn(c, a, name, making.real), a.shape);
    };
    put(a.name);
    if (IsInput(a)) Write(r, a.name, InputValues(c, a, making.as));
    if (a.role == Role::kSum) Write(r, a.name, std::vector<double>(count, a.real ? kStart : 2));
    if (!c.backward) continue;
    const std::string d = "d" + a.name;
    if (GivesGradient(a) || HasGradient(a)) put(d);
    if (GivesGradient(a)) {
      const std::vector<double>& drawn = Normals(d, a.shape.elements());  // or more of them
      std::vector<double> values(drawn.begin(), drawn.begin() + a.shape.elements());
      Write(r, d, Rounded(std::move(values), DTypeIn(c, a, d, making.as)));
    }
    if (a.role == Role::kWeight) Write(r, d, std::vector<double>(count, kStart));
  }
  return r;
}

OpRun Prepare(const OpCase& c, Stream& stream, const Kernels& kernels, DType real,
              int64_t shift = 0) {
  return Prepare(c, stream, kernels, {.real = real, .as = real, .shift = shift});
}

void Run(const OpCase& c, OpRun& r) {
  c.forward(r);
  if (c.backward) c.backward(r);
}

OpRun RunAll(const OpCase& c, Stream& stream, const Kernels& kernels, const Making& making) {
  OpRun r = Prepare(c, stream, kernels, making);
  Run(c, r);
  return r;
}

OpRun RunAll(const OpCase& c, Stream& stream, const Kernels& kernels, DType real,
             int64_t shift = 0) {
  return RunAll(c, stream, kernels, {.real = real, .as = real, .shift = shift});
}

// Names of the tensors that the op writes.
std::vector<std::string> Written(const OpCase& c) {
  std::vector<std::string> names;
  for (const OpArg& a : c.args) {
    if (!IsInput(a)) names.push_back(a.name);
    if (c.backward && HasGradient(a)) names.push_back("d" + a.name);
  }
  return names;
}

bool Partial(const OpCase& c, const std::string& name) {
  return std::any_of(c.args.begin(), c.args.end(),
                     [&](const OpArg& a) { return a.name == name && a.partial; });
}

// One pool for all runs, never destroyed: what a case captures may outlive a run.
Allocator& Pool() {
  static auto* const pool = new Allocator(Device{});
  return *pool;
}

struct Scope {
  Stream stream{Device{}, Pool()};
};

// Σ ⟨d output, output⟩ at one input moved by `by`, as the outputs themselves.
std::vector<double> OutputsAt(const OpCase& c, const Kernels& kernels, const std::string& input,
                              int64_t element, double by) {
  Scope s;
  OpRun r = Prepare(c, s.stream, kernels, DType::kF64);
  r[input].data<double>()[element] += by;
  c.forward(r);
  std::vector<double> all;
  for (const OpArg& a : c.args) {
    if (!GivesGradient(a)) continue;
    const std::vector<double> y = Values(r[a.name]);
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

std::vector<double> OutputGradients(const OpCase& c, OpRun& r) {
  std::vector<double> all;
  for (const OpArg& a : c.args) {
    if (!GivesGradient(a)) continue;
    const std::vector<double> d = Values(r["d" + a.name]);
    all.insert(all.end(), d.begin(), d.end());
  }
  return all;
}

// Fourth order: (8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h, the differences taken output by
// output.
double Difference(const OpCase& c, const Kernels& kernels, const std::string& input,
                  int64_t element, const std::vector<double>& dy) {
  const double h = c.step;
  const auto up = OutputsAt(c, kernels, input, element, h);
  const auto down = OutputsAt(c, kernels, input, element, -h);
  const auto up2 = OutputsAt(c, kernels, input, element, 2 * h);
  const auto down2 = OutputsAt(c, kernels, input, element, -2 * h);
  double sum = 0;
  for (size_t i = 0; i < dy.size(); ++i) {
    sum += dy[i] * (8 * (up[i] - down[i]) - (up2[i] - down2[i]));
  }
  return sum / (12 * h);
}

void Add(OpCase& c, const std::string& name, Role role, Shape shape, ValueFn value) {
  c.args.push_back({.name = name,
                    .role = role,
                    .shape = shape,
                    .real = true,
                    .dtype = DType::kF32,
                    .value = std::move(value),
                    .partial = false});
}

}  // namespace

Tensor& OpRun::operator[](const std::string& name) {
  const auto it = tensors.find(name);
  if (it == tensors.end()) Fatal(__FILE__, __LINE__, "no tensor named " + name);
  return it->second.tensor();
}

void OpCase::Activation(const std::string& arg, Shape shape, ValueFn value) {
  Add(*this, arg, Role::kActivation, shape, std::move(value));
}
void OpCase::Weight(const std::string& arg, Shape shape, ValueFn value) {
  Add(*this, arg, Role::kWeight, shape, std::move(value));
}
void OpCase::Fixed(const std::string& arg, Shape shape, ValueFn value) {
  Add(*this, arg, Role::kFixed, shape, std::move(value));
}
void OpCase::FixedF64(const std::string& arg, Shape shape, ValueFn value) {
  Add(*this, arg, Role::kFixed, shape, std::move(value));
  args.back().real = false;
  args.back().dtype = DType::kF64;
}
void OpCase::Integers(const std::string& arg, DType dtype, Shape shape,
                      std::vector<int64_t> values) {
  CHECK_EQ(static_cast<int64_t>(values.size()), shape.elements());
  Add(*this, arg, Role::kFixed, shape, [values = std::move(values)](int64_t i) {
    return static_cast<double>(values[static_cast<size_t>(i)]);
  });
  args.back().real = false;
  args.back().dtype = dtype;
}
void OpCase::Output(const std::string& arg, Shape shape) {
  Add(*this, arg, Role::kOutput, shape, {});
}
void OpCase::Note(const std::string& arg, Shape shape) { Add(*this, arg, Role::kNote, shape, {}); }
void OpCase::NoteOf(const std::string& arg, DType dtype, Shape shape, bool partial) {
  Add(*this, arg, Role::kNote, shape, {});
  args.back().real = false;
  args.back().dtype = dtype;
  args.back().partial = partial;
}
void OpCase::Sum(const std::string& arg, Shape shape) { Add(*this, arg, Role::kSum, shape, {}); }
void OpCase::SumOf(const std::string& arg, DType dtype, Shape shape) {
  Add(*this, arg, Role::kSum, shape, {});
  args.back().real = false;
  args.back().dtype = dtype;
}
void OpCase::Accurate(std::initializer_list<const char*> names) {
  accurate.insert(names.begin(), names.end());
}
void OpCase::Rounded(std::initializer_list<const char*> names) {
  rounded.insert(names.begin(), names.end());
}

std::vector<double> Values(const Tensor& t) {
  std::vector<double> out(static_cast<size_t>(t.elements()));
  const std::string bytes = Bytes(t);
  const auto read = [&](const auto* x) {
    std::transform(x, x + out.size(), out.begin(), [](auto v) { return static_cast<double>(v); });
  };
  switch (t.dtype()) {
    case DType::kI32:
      read(reinterpret_cast<const int32_t*>(bytes.data()));
      break;
    case DType::kI64:
      read(reinterpret_cast<const int64_t*>(bytes.data()));
      break;
    case DType::kU8:
      read(reinterpret_cast<const uint8_t*>(bytes.data()));
      break;
    case DType::kBf16:
      read(reinterpret_cast<const BFloat16*>(bytes.data()));
      break;
    case DType::kF32:
      read(reinterpret_cast<const float*>(bytes.data()));
      break;
    case DType::kF64:
      read(reinterpret_cast<const double*>(bytes.data()));
      break;
  }
  return out;
}

double RelativeDistance(const std::vector<double>& a, const std::vector<double>& b) {
  CHECK_EQ(a.size(), b.size());
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

void ExpectGradient(const OpCase& c, const Kernels& kernels) {
  ASSERT_TRUE(c.backward) << c.name;
  Scope s;
  OpRun r = RunAll(c, s.stream, kernels, DType::kF64);
  const std::vector<double> dy = OutputGradients(c, r);
  for (const OpArg& a : c.args) {
    if (!HasGradient(a)) continue;
    const int64_t n = a.shape.elements();
    const int64_t checked = std::min(n, c.elements_checked);
    const std::vector<double> all = Values(r["d" + a.name]);
    std::vector<double> given;
    std::vector<double> expected;
    for (int64_t k = 0; k < checked; ++k) {
      const int64_t i = Permute(MakeKey(kSeed, a.name), k, n);
      given.push_back(all[static_cast<size_t>(i)] - (a.role == Role::kWeight ? kStart : 0));
      expected.push_back(Difference(c, kernels, a.name, i, dy));
    }
    EXPECT_LE(RelativeDistance(given, expected), c.gradient_tolerance)
        << c.name << ": d" << a.name << " [0] of the checked ones: " << given[0] << ", expected "
        << expected[0];
  }
}

namespace {

// Outputs written whole, nothing else touched; inputs as `before` has them.
void ExpectInside(const OpCase& c, OpRun& before, OpRun& after) {
  const std::vector<std::string> written = Written(c);
  for (auto& [name, guarded] : after.tensors) {
    EXPECT_TRUE(guarded.Intact()) << c.name << " wrote beside " << name;
    if (std::find(written.begin(), written.end(), name) == written.end()) {
      EXPECT_EQ(Bytes(guarded.tensor()), Bytes(before[name])) << c.name << " changed " << name;
    } else if (!Partial(c, name)) {
      EXPECT_EQ(guarded.Unwritten(), 0) << c.name << ": elements of " << name << " not written";
    }
  }
}

void ExpectClose(const OpCase& c, OpRun& a, OpRun& b, double tolerance, const std::string& what) {
  for (const std::string& name : Written(c)) {
    if (Partial(c, name)) continue;
    EXPECT_LE(RelativeDistance(Values(a[name]), Values(b[name])),
              Real(a[name].dtype()) ? tolerance : 0)
        << c.name << ": " << name << " " << what;
  }
}

void ExpectSameBits(const OpCase& c, OpRun& a, OpRun& b, const std::string& what) {
  for (const std::string& name : Written(c)) {
    if (Partial(c, name)) continue;
    EXPECT_TRUE(Bytes(a[name]) == Bytes(b[name])) << c.name << ": other bits in " << name << what;
  }
}

}  // namespace

void ExpectBounds(const OpCase& c, const Kernels& kernels, DType dtype) {
  Scope s;
  OpRun before = Prepare(c, s.stream, kernels, dtype);
  OpRun after = RunAll(c, s.stream, kernels, dtype);
  ExpectInside(c, before, after);
}

void ExpectRepeats(const OpCase& c, const Kernels& kernels, DType dtype) {
  Scope s;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  OpRun first = RunAll(c, s.stream, kernels, dtype);
  for (const int team : {1, 2, 3}) {
    if (team > 1 && !c.same_bits_on_teams) break;
    omp_set_num_threads(team);
    OpRun again = RunAll(c, s.stream, kernels, dtype, team);
    ExpectSameBits(
        c, first, again,
        " with a team of " + std::to_string(team) + ", at addresses moved by as many elements");
  }
  omp_set_num_threads(threads);
}

void ExpectAgrees(const OpCase& c, const Kernels& a, DType dtype_a, const Kernels& b, DType dtype_b,
                  double tolerance) {
  Scope s;
  OpRun run_a = RunAll(c, s.stream, a, dtype_a);
  OpRun run_b = RunAll(c, s.stream, b, dtype_b);
  ExpectClose(c, run_a, run_b, tolerance,
              std::string("of ") + a.name + " (" + Name(dtype_a) + ") against " + b.name + " (" +
                  Name(dtype_b) + ")");
}

namespace {

// The functions recorded once and replayed on the same inputs, outputs unwritten before.
void ExpectReplays(const OpCase& c, OpRun& first, DType dtype) {
  Stream& stream = GpuStream();
  OpRun run = RunAll(c, stream, *GpuKernels(), dtype);  // the pool now has what the work asks for
  Graph graph = Graph::Record(stream, [&] { Run(c, run); });
  OpRun fresh = Prepare(c, stream, *GpuKernels(), dtype);
  for (auto& [name, guarded] : run.tensors) {
    const std::string image = Bytes(fresh[name]);
    Upload(stream, image.data(), guarded.tensor().bytes(), guarded.tensor());
  }
  graph.Replay();
  ExpectSameBits(c, first, run, ", recorded and replayed");
}

void CheckOpOnGpu(const OpCase& c, DType dtype) {
  Stream& stream = GpuStream();
  const Kernels& kernels = *GpuKernels();
  Scope s;
  OpRun expected =
      RunAll(c, s.stream, CpuKernels(), {.real = DType::kF64, .as = dtype, .shift = 0});
  OpRun before = Prepare(c, stream, kernels, dtype);
  OpRun first = RunAll(c, stream, kernels, dtype);
  const std::string on = std::string(" on the GPU in ") + Name(dtype);
  const double tolerance = dtype == DType::kBf16 ? c.bf16_tolerance : c.gpu_tolerance;
  ExpectInside(c, before, first);
  ExpectClose(c, first, expected, tolerance, on);
  OpRun again = RunAll(c, stream, kernels, dtype);
  ExpectSameBits(c, first, again, ", twice" + on);
  OpRun moved = RunAll(c, stream, kernels, dtype, std::max(c.gpu_alignment, SizeOf(dtype)));
  ExpectInside(c, before, moved);
  if (c.same_bits_moved) {
    ExpectSameBits(c, first, moved, ", at other addresses" + on);
  } else {
    ExpectClose(c, moved, expected, tolerance, ", at other addresses" + on);
  }
  if (c.recordable) ExpectReplays(c, first, dtype);
}

}  // namespace

void CheckOpOnGpu(const OpCase& c) {
  if (!TestingGpu()) return;
  CheckOpOnGpu(c, DType::kF32);
  if (c.bf16) CheckOpOnGpu(c, DType::kBf16);
}

void CheckOp(const OpCase& c) {
  if (TestingGpu()) return CheckOpOnGpu(c);
  const Kernels& kernels = CpuKernels();
  if (c.backward) ExpectGradient(c, kernels);
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    ExpectBounds(c, kernels, dtype);
    ExpectRepeats(c, kernels, dtype);
  }
  ExpectAgrees(c, kernels, DType::kF32, kernels, DType::kF64, c.tolerance);
}

}  // namespace mneme::test
