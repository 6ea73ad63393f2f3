#include "tests/op_case.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

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

void Set(Tensor& t, int64_t i, double value) {
  switch (t.dtype()) {
    case DType::kI32:
      t.data<int32_t>()[i] = static_cast<int32_t>(value);
      break;
    case DType::kI64:
      t.data<int64_t>()[i] = static_cast<int64_t>(value);
      break;
    case DType::kU8:
      t.data<uint8_t>()[i] = static_cast<uint8_t>(value);
      break;
    case DType::kF32:
      t.data<float>()[i] = static_cast<float>(value);
      break;
    default:
      t.data<double>()[i] = value;
  }
}

double DefaultValue(const std::string& name, int64_t i) {
  return RandomNormal(MakeKey(kSeed, name), static_cast<uint64_t>(i));
}

// Values pass through float so that runs in both dtypes read the same numbers.
double InputValue(const OpArg& a, int64_t i) {
  const double v = a.value ? a.value(i) : DefaultValue(a.name, i);
  return a.real ? static_cast<double>(static_cast<float>(v)) : v;
}

void Put(OpRun& r, const std::string& name, DType dtype, Shape shape, const ValueFn& value) {
  auto [it, fresh] = r.tensors.emplace(name, Guarded(dtype, shape, r.shift));
  CHECK(fresh);
  if (!value) return;
  for (int64_t i = 0; i < shape.elements(); ++i) Set(it->second.tensor(), i, value(i));
}

OpRun Prepare(const OpCase& c, Stream& stream, const Kernels& kernels, DType real,
              int64_t shift = 0) {
  OpRun r{stream, kernels, {}, shift};
  for (const OpArg& a : c.args) {
    const DType dtype = a.real ? real : a.dtype;
    if (IsInput(a)) {
      Put(r, a.name, dtype, a.shape, [&](int64_t i) { return InputValue(a, i); });
    } else if (a.role == Role::kSum) {
      Put(r, a.name, dtype, a.shape, [&](int64_t) { return a.real ? kStart : 2; });
    } else {
      Put(r, a.name, dtype, a.shape, {});
    }
    if (!c.backward) continue;
    if (GivesGradient(a)) {
      const std::string d = "d" + a.name;
      Put(r, d, dtype, a.shape, [&](int64_t i) { return static_cast<float>(DefaultValue(d, i)); });
    }
    if (a.role == Role::kActivation) Put(r, "d" + a.name, dtype, a.shape, {});
    if (a.role == Role::kWeight) {
      Put(r, "d" + a.name, dtype, a.shape, [](int64_t) { return kStart; });
    }
  }
  return r;
}

OpRun RunAll(const OpCase& c, Stream& stream, const Kernels& kernels, DType real,
             int64_t shift = 0) {
  OpRun r = Prepare(c, stream, kernels, real, shift);
  c.forward(r);
  if (c.backward) c.backward(r);
  return r;
}

std::string Bytes(const Tensor& t) {
  return {static_cast<const char*>(t.raw()), static_cast<size_t>(t.bytes())};
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

std::vector<double> Values(const Tensor& t) {
  std::vector<double> out(static_cast<size_t>(t.elements()));
  const auto read = [&](const auto* x) { std::copy(x, x + t.elements(), out.begin()); };
  switch (t.dtype()) {
    case DType::kI32:
      read(t.data<int32_t>());
      break;
    case DType::kI64:
      std::transform(t.data<int64_t>(), t.data<int64_t>() + t.elements(), out.begin(),
                     [](int64_t v) { return static_cast<double>(v); });
      break;
    case DType::kU8:
      read(t.data<uint8_t>());
      break;
    case DType::kF32:
      read(t.data<float>());
      break;
    default:
      read(t.data<double>());
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

void ExpectBounds(const OpCase& c, const Kernels& kernels, DType dtype) {
  Scope s;
  OpRun before = Prepare(c, s.stream, kernels, dtype);
  OpRun after = RunAll(c, s.stream, kernels, dtype);
  const std::vector<std::string> written = Written(c);
  for (auto& [name, guarded] : after.tensors) {
    EXPECT_TRUE(guarded.Intact()) << c.name << " wrote before the start of " << name;
    if (std::find(written.begin(), written.end(), name) == written.end()) {
      EXPECT_EQ(Bytes(guarded.tensor()), Bytes(before[name])) << c.name << " changed " << name;
    } else if (!Partial(c, name)) {
      EXPECT_EQ(guarded.Unwritten(), 0) << c.name << ": elements of " << name << " not written";
    }
  }
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
    for (const std::string& name : Written(c)) {
      if (Partial(c, name)) continue;
      EXPECT_TRUE(Bytes(first[name]) == Bytes(again[name]))
          << c.name << ": other bits in " << name << " with a team of " << team
          << ", at addresses moved by as many elements";
    }
  }
  omp_set_num_threads(threads);
}

void ExpectAgrees(const OpCase& c, const Kernels& a, DType dtype_a, const Kernels& b, DType dtype_b,
                  double tolerance) {
  Scope s;
  OpRun run_a = RunAll(c, s.stream, a, dtype_a);
  OpRun run_b = RunAll(c, s.stream, b, dtype_b);
  for (const std::string& name : Written(c)) {
    if (Partial(c, name)) continue;
    const Tensor& t = run_a[name];
    const bool real = t.dtype() == DType::kF32 || t.dtype() == DType::kF64;
    EXPECT_LE(RelativeDistance(Values(t), Values(run_b[name])), real ? tolerance : 0)
        << c.name << ": " << name << " of " << a.name << " (" << Name(dtype_a) << ") against "
        << b.name << " (" << Name(dtype_b) << ")";
  }
}

void CheckOp(const OpCase& c) {
  const Kernels& kernels = CpuKernels();
  if (c.backward) ExpectGradient(c, kernels);
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    ExpectBounds(c, kernels, dtype);
    ExpectRepeats(c, kernels, dtype);
  }
  ExpectAgrees(c, kernels, DType::kF32, kernels, DType::kF64, c.tolerance);
}

}  // namespace mneme::test
