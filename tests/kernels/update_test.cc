#include "kernels/ops/update.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <numeric>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

struct Room {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
};

Tensor none;  // no copy is kept

ValueFn Steps(double rate, double bias1, double bias2, double clip, double apply) {
  return [=](int64_t i) {
    const double values[kStepScalars] = {rate, bias1, bias2, clip, apply};
    return values[i];
  };
}

// The moments and the parameter stand in `m`, `v`, `p` and move in copies of them.
OpCase Adam(int64_t n, double apply) {
  OpCase c("adamw");
  c.Fixed("g", {n});
  c.FixedF64("step", {kStepScalars}, Steps(0.01, 0.271, 0.142625, 0.5, apply));
  c.Fixed("m0", {n});
  c.Fixed("v0", {n}, [](int64_t i) { return 0.5 + std::sin(static_cast<double>(i)) / 3; });
  c.Fixed("p0", {n});
  c.Output("m", {n});
  c.Output("v", {n});
  c.Output("p", {n});
  c.Output("copy", {n});
  c.Accurate({"g", "m0", "v0", "p0", "m", "v", "p"});
  c.forward = [](OpRun& r) {
    r.kernels.cast(r.stream, r["p0"], r["copy"]);
    for (const char* name : {"m", "v", "p"}) {
      r.kernels.copy(r.stream, r[std::string(name) + "0"], r[name]);
    }
    AdamOptions options;
    options.decay = 0.1;
    options.rate_mult = 5;
    r.kernels.adamw(r.stream, options, r["step"], r["g"], r["m"], r["v"], r["p"], r["copy"]);
  };
  c.gpu_alignment = 8;  // a range of a region begins anywhere
  return c;
}

TEST(AdamWTest, AnswersAll) {
  CheckOp(Adam(1, 1));
  CheckOp(Adam(137, 1));
  CheckOp(Adam(50021, 1));
}

TEST(AdamWTest, FastAgreesWithPlain) {
  ExpectAgrees(Adam(50021, 1), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32, 1e-6);
}

// Third update with gradients 1, -2, 0.5, written out.
TEST(AdamWTest, FollowsTheFormulaWithTheOldParameterInTheDecay) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    Room room;
    double p = 0.7;
    double m = 0;
    double v = 0;
    double expected_p = p;
    double expected_m = 0;
    double expected_v = 0;
    AdamOptions options;
    options.decay = 0.1;
    options.eps = 1e-3;
    const double gradients[] = {1, -2, 0.5};
    for (int u = 1; u <= 3; ++u) {
      double g = gradients[u - 1];
      double step[] = {0.02, 1 - std::pow(0.9, u), 1 - std::pow(0.95, u), 0.25, 1};
      Tensor mt = Tensor::Wrap(&m, DType::kF64, {1});
      Tensor vt = Tensor::Wrap(&v, DType::kF64, {1});
      Tensor pt = Tensor::Wrap(&p, DType::kF64, {1});
      kernels->adamw(room.stream, options, Tensor::Wrap(step, DType::kF64, {kStepScalars}),
                     Tensor::Wrap(&g, DType::kF64, {1}), mt, vt, pt, none);
      const double clipped = 0.25 * g;
      expected_m = 0.9 * expected_m + 0.1 * clipped;
      expected_v = 0.95 * expected_v + 0.05 * clipped * clipped;
      const double direction = expected_m / step[1] / (std::sqrt(expected_v / step[2]) + 1e-3);
      expected_p -= 0.02 * (direction + 0.1 * expected_p);
      EXPECT_NEAR(p, expected_p, 1e-15);
      EXPECT_NEAR(m, expected_m, 1e-15);
      EXPECT_NEAR(v, expected_v, 1e-15);
    }
  }
}

TEST(AdamWTest, ASkippedStepMovesNothingEvenWithoutNumbers) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    Room room;
    OpCase c = Adam(37, 0);
    c.args[0].value = [](int64_t) { return NAN; };
    const auto forward = c.forward;
    c.forward = [=](OpRun& r) {
      forward(r);
      for (const char* name : {"m", "v", "p"}) {
        EXPECT_EQ(Values(r[name]), Values(r[std::string(name) + "0"])) << name;
      }
    };
    ExpectBounds(c, *kernels, DType::kF32);
  }
}

// Dense semantics: a row touched once goes on moving; 5.84 rates in all (docs/mathematics.md).
// Touched only: 0.447.
TEST(AdamWTest, ARowTouchedOnceMovesAsFarAsTheDossierSays) {
  Room room;
  double p = 0;
  double m = 0;
  double v = 0;
  double first = 0;
  const int64_t start = 1000;  // late enough for bias corrections to be one
  for (int64_t u = start; u < start + 2000; ++u) {
    double g = u == start ? 1e-3 : 0;
    const double t = static_cast<double>(u);
    double step[] = {1, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t), 1, 1};
    Tensor mt = Tensor::Wrap(&m, DType::kF64, {1});
    Tensor vt = Tensor::Wrap(&v, DType::kF64, {1});
    Tensor pt = Tensor::Wrap(&p, DType::kF64, {1});
    CpuKernels().adamw(room.stream, {}, Tensor::Wrap(step, DType::kF64, {kStepScalars}),
                       Tensor::Wrap(&g, DType::kF64, {1}), mt, vt, pt, none);
    if (u == start) first = -p;
  }
  EXPECT_NEAR(first, 0.447, 0.0005);
  EXPECT_NEAR(-p, 5.84, 0.005);
}

// A gradient whose square is no float must not move its parameter by many rates.
TEST(AdamWTest, TinyGradientsMoveByOneRateAtMost) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    for (const float gradient : {1e-30f, 1e-20f, 1e-19f, 4e-19f, 1e-18f, 1e-10f}) {
      Room room;
      float g = gradient;
      float m = 0;
      float v = 0;
      float p = 0;
      double step[] = {1, 1 - 0.9, 1 - 0.95, 1, 1};
      Tensor mt = Tensor::Wrap(&m, DType::kF32, {1});
      Tensor vt = Tensor::Wrap(&v, DType::kF32, {1});
      Tensor pt = Tensor::Wrap(&p, DType::kF32, {1});
      kernels->adamw(room.stream, {}, Tensor::Wrap(step, DType::kF64, {kStepScalars}),
                     Tensor::Wrap(&g, DType::kF32, {1}), mt, vt, pt, none);
      EXPECT_LE(std::fabs(p), 1.01) << gradient;
      if (gradient >= 1e-18f) {
        EXPECT_NEAR(p, -1, 0.01) << gradient;
      }
    }
  }
}

TEST(AdamRowsTest, MovesTheNamedRowsAsAdamWDoesAndNoOthers) {
  Room room;
  const int64_t rows = 6;
  const int64_t width = 5;
  std::vector<int64_t> slots = {4, 0, 3};
  const OpCase c = Adam(rows * width, 1);
  std::vector<double> g(15);
  std::iota(g.begin(), g.end(), -7.5);
  std::vector<double> m(30, 0.1), v(30, 0.2), p(30, 0.3);
  double step[] = {0.01, 0.5, 0.25, 0.5, 1};
  const Tensor scalars = Tensor::Wrap(step, DType::kF64, {kStepScalars});
  Tensor mt = Tensor::Wrap(m.data(), DType::kF64, {rows, width});
  Tensor vt = Tensor::Wrap(v.data(), DType::kF64, {rows, width});
  Tensor pt = Tensor::Wrap(p.data(), DType::kF64, {rows, width});
  AdamOptions options;
  CpuKernels().adam_rows(room.stream, options, scalars,
                         Tensor::Wrap(g.data(), DType::kF64, {3, width}),
                         Tensor::Wrap(slots.data(), DType::kI64, {3}), mt, vt, pt);
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> m1(5, 0.1), v1(5, 0.2), p1(5, 0.3);
    Tensor mr = Tensor::Wrap(m1.data(), DType::kF64, {width});
    Tensor vr = Tensor::Wrap(v1.data(), DType::kF64, {width});
    Tensor pr = Tensor::Wrap(p1.data(), DType::kF64, {width});
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] != row) continue;
      CpuKernels().adamw(room.stream, options, scalars,
                         Tensor::Wrap(g.data() + 5 * i, DType::kF64, {width}), mr, vr, pr, none);
    }
    EXPECT_LE(RelativeDistance(Values(mt.Rows(row, row + 1)), m1), 1e-15);
    EXPECT_LE(RelativeDistance(Values(vt.Rows(row, row + 1)), v1), 1e-15);
    EXPECT_LE(RelativeDistance(Values(pt.Rows(row, row + 1)), p1), 1e-15);
  }
}

// Rows 4, 0 and 3 of 6.
OpCase Rows(int64_t width) {
  OpCase c("adam_rows");
  c.Fixed("g", {3, width});
  c.FixedF64("step", {kStepScalars}, Steps(0.01, 0.271, 0.142625, 0.5, 1));
  c.Integers("slots", DType::kI64, {3}, {4, 0, 3});
  c.Fixed("m0", {6, width});
  c.Fixed("v0", {6, width}, [](int64_t i) { return 0.5 + std::sin(static_cast<double>(i)) / 3; });
  c.Fixed("p0", {6, width});
  for (const char* name : {"m", "v", "p"}) c.Output(name, {6, width});
  c.forward = [](OpRun& r) {
    for (const char* name : {"m", "v", "p"}) {
      r.kernels.copy(r.stream, r[std::string(name) + "0"], r[name]);
    }
    r.kernels.adam_rows(r.stream, {}, r["step"], r["g"], r["slots"], r["m"], r["v"], r["p"]);
  };
  c.bf16 = false;
  return c;
}

TEST(AdamRowsTest, AnswersAll) {
  CheckOp(Rows(1));
  CheckOp(Rows(33));
  CheckOp(Rows(80));
  CheckOp(Rows(1280));
}

// All of a region of 1,031 numbers; some of it, at multiples of four and at others; more runs than
// one launch of the GPU takes.
const std::vector<FlatRun> kAll = {{0, 1031}};
const std::vector<FlatRun> kSome = {{8, 400}, {500, 100}, {1000, 20}};
const std::vector<FlatRun> kOdd = {{3, 401}, {404, 7}, {1000, 31}};
std::vector<FlatRun> Many() {
  std::vector<FlatRun> runs;
  for (int64_t i = 0; i < 150; ++i) runs.push_back({i * 6, i % 5 + 1});
  return runs;
}
const std::vector<std::vector<FlatRun>> kRuns = {kAll, kSome, kOdd, Many()};

int64_t CountOf(FlatRuns runs) {
  int64_t count = 0;
  for (const FlatRun& run : runs) count += run.count;
  return count;
}

OpCase Momentum(bool nesterov, double apply, const std::vector<FlatRun>& runs = kAll) {
  OpCase c("muon_momentum");
  c.Fixed("g", {1031});
  c.FixedF64("step", {kStepScalars}, Steps(0.01, 1, 1, 0.5, apply));
  c.Fixed("buf0", {1031});
  c.Output("buf", {1031});
  c.Output("u", {CountOf(runs)});
  c.Accurate({"g", "buf0", "buf"});
  c.forward = [=](OpRun& r) {
    r.kernels.copy(r.stream, r["buf0"], r["buf"]);
    r.kernels.muon_momentum(r.stream, 0.95, nesterov, r["step"], runs, r["g"], r["buf"], r["u"]);
  };
  c.gpu_alignment = 8;
  return c;
}

TEST(MuonTest, MomentumAnswersAll) {
  for (const std::vector<FlatRun>& runs : kRuns) {
    CheckOp(Momentum(true, 1, runs));
    CheckOp(Momentum(false, 1, runs));
  }
}

// What stands between runs stays as it was.
TEST(MuonTest, MomentumFollowsTheFormula) {
  for (const std::vector<FlatRun>& runs : kRuns) {
    for (const bool nesterov : {true, false}) {
      OpCase c = Momentum(nesterov, 1, runs);
      const auto forward = c.forward;
      c.forward = [=](OpRun& r) {
        forward(r);
        const std::vector<double> g = Values(r["g"]), u = Values(r["u"]),
                                  before = Values(r["buf0"]);
        std::vector<double> buf = before;
        size_t done = 0;
        for (const FlatRun& run : runs) {
          for (int64_t j = 0; j < run.count; ++j, ++done) {
            const auto i = static_cast<size_t>(run.at + j);
            buf[i] = 0.95 * before[i] + 0.5 * g[i];
            EXPECT_NEAR(u[done], nesterov ? 0.5 * g[i] + 0.95 * buf[i] : buf[i], 1e-15);
          }
        }
        const std::vector<double> now = Values(r["buf"]);
        for (size_t i = 0; i < now.size(); ++i) EXPECT_NEAR(now[i], buf[i], 1e-15);
      };
      ExpectBounds(c, CpuKernels(), DType::kF64);
    }
  }
}

TEST(MuonTest, ASkippedStepKeepsTheBufferAndGivesNoUpdate) {
  OpCase c = Momentum(true, 0);
  c.args[0].value = [](int64_t) { return NAN; };
  const auto forward = c.forward;
  c.forward = [=](OpRun& r) {
    forward(r);
    EXPECT_EQ(Values(r["buf"]), Values(r["buf0"]));
    EXPECT_EQ(Values(r["u"]), std::vector<double>(1031, 0.0));
    Tensor p = Tensor::Zeros(r.stream, r["buf"].dtype(), {1031});
    r.kernels.muon_apply(r.stream, 1, 0.1, r["step"], kAll, r["g"], p, none);
    EXPECT_EQ(Values(p), std::vector<double>(1031, 0.0));
  };
  ExpectBounds(c, CpuKernels(), DType::kF32);
}

OpCase Apply(const std::vector<FlatRun>& runs) {
  OpCase c("muon_apply");
  c.Fixed("o", {CountOf(runs)});
  c.FixedF64("step", {kStepScalars}, Steps(0.03, 1, 1, 1, 1));
  c.Fixed("p0", {1031});
  c.Output("p", {1031});
  c.Output("copy", {1031});
  c.Accurate({"p0", "p"});
  c.forward = [=](OpRun& r) {
    r.kernels.copy(r.stream, r["p0"], r["p"]);
    r.kernels.cast(r.stream, r["p0"], r["copy"]);
    r.kernels.muon_apply(r.stream, 2, 0.1, r["step"], runs, r["o"], r["p"], r["copy"]);
  };
  c.gpu_alignment = 8;
  return c;
}

TEST(MuonTest, ApplyMovesAndDecays) {
  for (const std::vector<FlatRun>& runs : kRuns) {
    OpCase c = Apply(runs);
    CheckOp(c);
    const auto forward = c.forward;
    c.forward = [=](OpRun& r) {
      forward(r);
      const std::vector<double> o = Values(r["o"]);
      std::vector<double> p = Values(r["p0"]);
      size_t done = 0;
      for (const FlatRun& run : runs) {
        for (int64_t j = 0; j < run.count; ++j, ++done) {
          double& at = p[static_cast<size_t>(run.at + j)];
          at -= 0.03 * (2 * o[done] + 0.1 * at);
        }
      }
      const std::vector<double> now = Values(r["p"]);
      for (size_t i = 0; i < now.size(); ++i) EXPECT_NEAR(now[i], p[i], 1e-12);
      EXPECT_EQ(Values(r["copy"]), now);
    };
    ExpectBounds(c, CpuKernels(), DType::kF64);
  }
}

OpCase Orthogonal(const Shape& shape) {
  OpCase c("newton_schulz");
  c.Fixed("x0", shape);
  c.Output("x", shape);
  c.forward = [](OpRun& r) {
    r.kernels.copy(r.stream, r["x0"], r["x"]);
    r.kernels.newton_schulz(r.stream, {}, r["x"]);
  };
  c.tolerance = 1e-4;  // what fp32 is asked for
  c.gpu_tolerance = 1e-4;
  c.bf16_tolerance = 5e-2;
  c.same_bits_on_teams = false;
  c.same_bits_moved = false;
  return c;
}

TEST(NewtonSchulzTest, AnswersAll) {
  CheckOp(Orthogonal({1, 1}));
  CheckOp(Orthogonal({7, 33}));
  CheckOp(Orthogonal({70, 13}));
  CheckOp(Orthogonal({3, 9, 17}));
  if (!TestingGpu()) return;
  CheckOp(Orthogonal({2, 768, 1000}));  // strips of symmetric products
  CheckOp(Orthogonal({2, 1088, 768}));
  // Too large for shared memory, and no multiples of anything.
  for (const Shape& shape : {Shape{2, 128, 768}, Shape{2, 131, 205}, Shape{2, 205, 131}}) {
    CheckOp(Orthogonal(shape));
  }
}

// Small ones, on a GPU in shared memory whole: both widths of its tiles, parts of them, turned.
TEST(NewtonSchulzTest, AnswersAllInSharedMemory) {
  if (!TestingGpu()) GTEST_SKIP() << "asks the GPU alone";
  for (const Shape& shape :
       {Shape{5, 128, 256}, Shape{3, 256, 128}, Shape{2, 64, 64}, Shape{2, 64, 1664},
        Shape{2, 24, 1024}, Shape{1, 1024, 24}, Shape{2, 94, 256}, Shape{2, 256, 72},
        Shape{2, 65, 129}, Shape{200, 16, 40}}) {
    CheckOp(Orthogonal(shape));
  }
  // Moved by a number, so that no vectors fit.
  for (const Shape& shape : {Shape{5, 128, 256}, Shape{3, 256, 128}}) {
    OpCase c = Orthogonal(shape);
    c.gpu_alignment = 2;
    CheckOp(c);
  }
}

TEST(NewtonSchulzTest, ABatchIsItsMatricesOneByOne) {
  OpCase c = Orthogonal({3, 17, 6});
  const auto forward = c.forward;
  c.forward = [=](OpRun& r) {
    forward(r);
    for (int64_t i = 0; i < 3; ++i) {
      Tensor one = Tensor::Empty(r.stream, r["x"].dtype(), {17, 6});
      r.kernels.copy(r.stream, r["x0"].Rows(i, i + 1), one);
      r.kernels.newton_schulz(r.stream, {}, one);
      EXPECT_LE(RelativeDistance(Values(r["x"].Rows(i, i + 1)), Values(one)), 1e-12);
    }
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
}

TEST(NewtonSchulzTest, GoldenOfTheDossier) {
  Room room;
  double x[6];
  double turned[6];
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) turned[j * 2 + i] = x[i * 3 + j] = std::sin(1 + 3 * i + j);
  }
  Tensor wide = Tensor::Wrap(x, DType::kF64, {2, 3});
  Tensor tall = Tensor::Wrap(turned, DType::kF64, {3, 2});
  CpuKernels().newton_schulz(room.stream, {}, wide);
  CpuKernels().newton_schulz(room.stream, {}, tall);
  EXPECT_NEAR(x[0], 0.7360245855, 1e-10);
  EXPECT_NEAR(x[1], 0.1563248287, 1e-10);
  EXPECT_NEAR(x[2], -0.5670992547, 1e-10);
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) EXPECT_NEAR(turned[j * 2 + i], x[i * 3 + j], 1e-14);
  }
}

TEST(NewtonSchulzTest, ZeroStaysZero) {
  Room room;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    Tensor x = Tensor::Zeros(room.stream, dtype, {3, 5});
    CpuKernels().newton_schulz(room.stream, {}, x);
    EXPECT_EQ(Values(x), std::vector<double>(15, 0.0));
  }
}

TEST(SumSquaresTest, AccumulatesInDoubleWhateverTheTeam) {
  Room room;
  const int64_t n = 300'001;
  Tensor x = Tensor::Empty(room.stream, DType::kF32, {n});
  for (int64_t i = 0; i < n; ++i) x.data<float>()[i] = i == 5 ? 3e4f : 1e-3f;
  const double small = static_cast<double>(1e-3f) * static_cast<double>(1e-3f);
  double first = 0;
  const int threads = omp_get_max_threads();
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    for (const int team : {1, 2, 3}) {
      omp_set_num_threads(team);
      double sum = 7;
      Tensor total = Tensor::Wrap(&sum, DType::kF64, {1});
      kernels->sum_squares(room.stream, x, total);
      // In floats the 0.3 of the small ones would vanish beside 9e8, whose last place is 64.
      EXPECT_NEAR(sum, 7 + 9e8 + static_cast<double>(n - 1) * small, 0.01);
      if (team == 1) first = sum;
      EXPECT_EQ(sum, first);
    }
  }
  omp_set_num_threads(threads);
}

OpCase Total(bool squares, int64_t n) {
  OpCase c(squares ? "sum_squares" : "sum");
  c.Fixed("x", {n});
  c.NoteOf("total", DType::kF64, {1});
  c.forward = [=](OpRun& r) {
    r.kernels.fill(r.stream, 7, r["total"]);
    (squares ? r.kernels.sum_squares : r.kernels.sum)(r.stream, r["x"], r["total"]);
  };
  c.same_bits_on_teams = true;
  c.gpu_alignment = 8;
  return c;
}

TEST(SumTest, AnswersAll) {
  for (const bool squares : {false, true}) {
    CheckOp(Total(squares, 1));
    CheckOp(Total(squares, 1031));
    CheckOp(Total(squares, 200'003));
  }
}

TEST(SumTest, AddsInDoubleToWhatIsThere) {
  Room room;
  Tensor x = Tensor::Empty(room.stream, DType::kF32, {200'001});
  for (int64_t i = 0; i < x.elements(); ++i) x.data<float>()[i] = i == 70'000 ? -1e9f : 0.5f;
  double sum = 7;
  Tensor total = Tensor::Wrap(&sum, DType::kF64, {1});
  CpuKernels().sum(room.stream, x, total);
  EXPECT_EQ(sum, 7 + 1e5 - 1e9);
}

TEST(SumSquaresTest, NonFiniteNumbersAreSeen) {
  Room room;
  for (const float bad : {NAN, INFINITY}) {
    Tensor x = Tensor::Zeros(room.stream, DType::kF32, {137});
    x.data<float>()[100] = bad;
    double sum = 0;
    Tensor total = Tensor::Wrap(&sum, DType::kF64, {1});
    CpuKernels().sum_squares(room.stream, x, total);
    EXPECT_FALSE(std::isfinite(sum));
  }
}

}  // namespace
}  // namespace mneme::test
