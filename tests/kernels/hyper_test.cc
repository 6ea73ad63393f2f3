#include "kernels/ops/hyper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

struct Sizes {
  int64_t tokens, n, width;
};

HyperOptions Options(int64_t n, double eps = 1e-6, double norm_eps = 1e-20,
                     int64_t iterations = 20) {
  return {.streams = n,
          .sinkhorn_iterations = iterations,
          .norm_eps = norm_eps,
          .eps = eps,
          .post_mult = 2.0};
}

ValueFn Scaled(const std::string& name, double mean, double std) {
  return [=](int64_t i) {
    return mean + std * RandomNormal(MakeKey(4, name), static_cast<uint64_t>(i));
  };
}

// phi of a size that keeps the mixes clear of saturation at any width.
double PhiScale(const Sizes& s) {
  return std::min(0.5, 3 / std::sqrt(static_cast<double>(s.n * s.width)));
}

// A sub-layer whose inner layer is seen as its input h and its output y.
OpCase SubLayer(const Sizes& s, const HyperOptions& options) {
  const int64_t mixes = s.n * s.n + 2 * s.n;
  OpCase c("hyper_enter, hyper_leave");
  c.Activation("x", {s.tokens, s.n, s.width});
  c.Weight("phi", {s.n * s.width, mixes}, Scaled("phi", 0, PhiScale(s)));
  c.Weight("alpha", {3}, Scaled("alpha", 0.7, 0.2));
  c.Weight("b", {mixes}, Scaled("b", 0, 0.5));
  c.Activation("y", {s.tokens, s.width});
  c.Note("r", {s.tokens});
  c.Note("m", {s.tokens, mixes});
  c.Note("pre", {s.tokens, s.n});
  c.Note("post", {s.tokens, s.n});
  c.Note("res", {s.tokens, s.n, s.n});
  c.Output("h", {s.tokens, s.width});
  c.Output("out", {s.tokens, s.n, s.width});
  c.Accurate({"phi", "alpha", "b", "r", "m", "pre", "post", "res"});
  c.forward = [options](OpRun& r) {
    r.kernels.hyper_enter(r.stream, options, r["x"], r["phi"], r["alpha"], r["b"], r["r"], r["m"],
                          r["pre"], r["post"], r["res"], r["h"]);
    r.kernels.hyper_leave(r.stream, r["x"], r["res"], r["post"], r["y"], r["out"]);
  };
  c.backward = [options](OpRun& r) {
    const auto like = [&](const char* name) {
      return Tensor::Empty(r.stream, r[name].dtype(), r[name].shape());
    };
    Tensor dres = like("res"), dpost = like("post");
    r.kernels.hyper_leave_grad(r.stream, r["dout"], r["x"], r["post"], r["y"], dres, dpost,
                               r["dy"]);
    r.kernels.hyper_enter_grad(r.stream, options, r["dout"], r["dh"], dres, dpost, r["x"], r["phi"],
                               r["alpha"], r["b"], r["r"], r["m"], r["pre"], r["res"], r["dx"],
                               r["dphi"], r["dalpha"], r["db"]);
  };
  return c;
}

TEST(HyperSubLayerTest, AnswersAll) {
  CheckOp(SubLayer({1, 4, 1}, Options(4)));
  CheckOp(SubLayer({7, 4, 5}, Options(4)));
  CheckOp(SubLayer({137, 4, 3}, Options(4)));
  CheckOp(SubLayer({5, 4, 137}, Options(4)));
  CheckOp(SubLayer({9, 2, 7}, Options(2)));
  CheckOp(SubLayer({6, 3, 4}, Options(3, 0.05, 0.5, 3)));
  CheckOp(SubLayer({6, 4, 4}, Options(4, 0.05, 0.5, 1)));
  CheckOp(SubLayer({3, 1, 4}, Options(1)));
}

// Widths and counts that reach the vector and tensor-core kernels of a GPU, and their ends.
TEST(HyperSubLayerTest, AnswersAllOfTheWideOnes) {
  for (const Sizes& s :
       {Sizes{1, 4, 32}, Sizes{17, 4, 64}, Sizes{70, 4, 192}, Sizes{150, 4, 512}, Sizes{33, 4, 40},
        Sizes{21, 2, 96}, Sizes{1, 2, 32}, Sizes{35, 2, 768}, Sizes{19, 3, 64}, Sizes{37, 3, 320},
        Sizes{9, 3, 40}, Sizes{5, 7, 24}, Sizes{37, 4, 320}, Sizes{35, 4, 1536}}) {
    OpCase c = SubLayer(s, Options(s.n));
    c.elements_checked = 4;
    c.same_bits_on_teams = false;
    CheckOp(c);
  }
}

// Out of a sub-layer and into the next.
OpCase LeaveEnter(const Sizes& s, const HyperOptions& options) {
  const int64_t mixes = s.n * s.n + 2 * s.n;
  OpCase c("hyper_leave_enter");
  c.Fixed("x", {s.tokens, s.n, s.width});
  c.Fixed("res", {s.tokens, s.n, s.n});
  c.Fixed("post", {s.tokens, s.n});
  c.Fixed("y", {s.tokens, s.width});
  c.Fixed("phi", {s.n * s.width, mixes}, Scaled("phi", 0, PhiScale(s)));
  c.Fixed("alpha", {3}, Scaled("alpha", 0.7, 0.2));
  c.Fixed("b", {mixes}, Scaled("b", 0, 0.5));
  c.Output("out", {s.tokens, s.n, s.width});
  c.Note("r", {s.tokens});
  c.Note("m", {s.tokens, mixes});
  c.Note("next_pre", {s.tokens, s.n});
  c.Note("next_post", {s.tokens, s.n});
  c.Note("next_res", {s.tokens, s.n, s.n});
  c.Output("h", {s.tokens, s.width});
  c.Accurate({"res", "post", "phi", "alpha", "b", "r", "m", "next_pre", "next_post", "next_res"});
  c.forward = [options](OpRun& r) {
    r.kernels.hyper_leave_enter(r.stream, options, r["x"], r["res"], r["post"], r["y"], r["out"],
                                r["phi"], r["alpha"], r["b"], r["r"], r["m"], r["next_pre"],
                                r["next_post"], r["next_res"], r["h"]);
  };
  return c;
}

TEST(HyperLeaveEnterTest, AnswersAll) {
  for (const Sizes& s :
       {Sizes{1, 4, 1}, Sizes{7, 4, 5}, Sizes{9, 2, 7}, Sizes{1, 4, 192}, Sizes{150, 4, 512},
        Sizes{37, 4, 320}, Sizes{35, 4, 1536}, Sizes{21, 2, 96}, Sizes{37, 3, 320}}) {
    OpCase c = LeaveEnter(s, Options(s.n));
    c.same_bits_on_teams = false;
    CheckOp(c);
  }
}

// Several steps of every cluster of blocks.
TEST(HyperSubLayerTest, AnswersAllOfTheLongOnes) {
  for (const Sizes& s : {Sizes{2200, 4, 384}, Sizes{300, 4, 2560}}) {
    CheckOpOnGpu(SubLayer(s, Options(s.n)));
    CheckOpOnGpu(LeaveEnter(s, Options(s.n)));
  }
}

TEST(HyperSubLayerTest, FastAgreesWithPlain) {
  for (const int64_t tokens : {1, 15, 16, 17, 100}) {
    ExpectAgrees(SubLayer({tokens, 4, 19}, Options(4)), CpuKernels(), DType::kF32,
                 PlainCpuKernels(), DType::kF32, 5e-6);
    ExpectAgrees(SubLayer({tokens, 4, 3}, Options(4, 0.05, 0.5, 3)), CpuKernels(), DType::kF32,
                 PlainCpuKernels(), DType::kF32, 5e-6);
  }
}

double Sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

// The mixes of one token, line by line as the formulas stand, with no thought for speed or
// overflow.
struct NaiveMix {
  NaiveMix(const HyperOptions& o, const double* x, int64_t width, const double* phi,
           const double* alpha, const double* b) {
    const int64_t n = o.streams, flat = n * width, mixes = n * n + 2 * n;
    double mean = 0;
    for (int64_t k = 0; k < flat; ++k) mean += x[k] * x[k] / static_cast<double>(flat);
    const double r = std::sqrt(mean + o.norm_eps);
    std::vector<double> z;
    for (int64_t c = 0; c < mixes; ++c) {
      double m = 0;
      for (int64_t k = 0; k < flat; ++k) m += x[k] * phi[k * mixes + c];
      z.push_back(alpha[c < n ? 0 : c < 2 * n ? 1 : 2] * m / r + b[c]);
    }
    for (int64_t i = 0; i < n; ++i) {
      pre.push_back(Sigmoid(z[static_cast<size_t>(i)]) + o.eps);
      post.push_back(o.post_mult * Sigmoid(z[static_cast<size_t>(n + i)]));
    }
    std::vector<std::vector<double>> h(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        h[static_cast<size_t>(i)].push_back(std::exp(z[static_cast<size_t>(2 * n + n * i + j)]));
    // comb of the official kernels is h transposed: its softmax runs over the output stream.
    const auto divide = [&](bool rows, double eps) {
      for (size_t a = 0; a < h.size(); ++a) {
        double sum = eps;
        for (size_t k = 0; k < h.size(); ++k) sum += rows ? h[a][k] : h[k][a];
        for (size_t k = 0; k < h.size(); ++k) (rows ? h[a][k] : h[k][a]) /= sum;
      }
    };
    divide(false, 0);
    for (auto& row : h)
      for (double& v : row) v += o.eps;
    divide(true, o.eps);
    for (int64_t k = 1; k < o.sinkhorn_iterations; ++k) {
      divide(false, o.eps);
      divide(true, o.eps);
    }
    for (const auto& row : h) res.insert(res.end(), row.begin(), row.end());
  }
  std::vector<double> pre, post, res;
};

// Large eps and few iterations, so that a misplaced one shows.
TEST(HyperSubLayerTest, AgreesWithTheFormulasLineByLine) {
  for (const int64_t n : {2, 3, 4}) {
    const Sizes s{11, n, 5};
    const HyperOptions options = Options(n, 0.05, 0.7, 3);
    OpCase c = SubLayer(s, options);
    c.backward = {};
    std::vector<double> naive, given;
    const auto forward = c.forward;
    c.forward = [&](OpRun& r) {
      forward(r);
      for (int64_t t = 0; t < s.tokens; ++t) {
        const NaiveMix mix(options, r["x"].data<double>() + t * n * s.width, s.width,
                           r["phi"].data<double>(), r["alpha"].data<double>(),
                           r["b"].data<double>());
        for (const auto& [name, part] :
             {std::pair{"pre", mix.pre}, std::pair{"post", mix.post}, std::pair{"res", mix.res}}) {
          naive.insert(naive.end(), part.begin(), part.end());
          const auto all = Values(r[name]);
          const auto size = static_cast<int64_t>(part.size());
          given.insert(given.end(), all.begin() + t * size, all.begin() + (t + 1) * size);
        }
      }
    };
    ExpectBounds(c, CpuKernels(), DType::kF64);
    EXPECT_LE(RelativeDistance(given, naive), 1e-13);
  }
}

// The residual mix of every token where phi counts for nothing: Sinkhorn of the logits b.
std::vector<double> SinkhornOf(const std::function<double(int, int)>& logit, double eps,
                               DType dtype = DType::kF64) {
  constexpr int64_t kTokens = 9;
  Allocator allocator{Device{}};
  Stream stream(Device{}, allocator);
  const auto zeros = [&](Shape shape) { return Tensor::Zeros(stream, dtype, shape); };
  Tensor x = zeros({kTokens, 4, 3}), phi = zeros({12, 24}), alpha = zeros({3}), b = zeros({24});
  Tensor r = zeros({kTokens}), m = zeros({kTokens, 24}), pre = zeros({kTokens, 4});
  Tensor post = zeros({kTokens, 4}), res = zeros({kTokens, 4, 4}), h = zeros({kTokens, 3});
  DispatchReal(dtype, [&](auto real) {
    using T = decltype(real);
    std::fill_n(x.data<T>(), x.elements(), T{1});
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) b.data<T>()[8 + 4 * i + j] = static_cast<T>(logit(i, j));
  });
  CpuKernels().hyper_enter(stream, Options(4, eps), x, phi, alpha, b, r, m, pre, post, res, h);
  return Values(res);
}

TEST(SinkhornTest, IsTheGoldenOne) {
  const auto logit = [](int i, int j) { return 2 * std::sin(1.0 + 4 * i + j); };
  const auto with = SinkhornOf(logit, 1e-6), without = SinkhornOf(logit, 0);
  const double golden_with[] = {0.3159791559, 0.4556433256, 0.1931844899, 0.0351920286};
  const double golden_without[] = {0.3159771810, 0.4556460693, 0.1931856448, 0.0351911049};
  for (size_t j = 0; j < 4; ++j) {
    EXPECT_NEAR(with[j], golden_with[j], 6e-11);
    EXPECT_NEAR(without[j], golden_without[j], 6e-11);
  }
}

TEST(SinkhornTest, WeightsOfEveryOutputStreamSumToOneAndInputsNearlySo) {
  const auto res = SinkhornOf([](int i, int j) { return std::cos(3.0 * i + 5 * j); }, 1e-6);
  for (size_t a = 0; a < 4; ++a) {
    double row = 0, column = 0;
    for (size_t k = 0; k < 4; ++k) {
      row += res[4 * a + k];
      column += res[4 * k + a];
    }
    EXPECT_NEAR(row, 1, 2e-6);
    EXPECT_NEAR(column, 1, 1e-4);
  }
}

TEST(SinkhornTest, HugeLogitsStayFiniteAndTheIdentityStaysItself) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const double v : SinkhornOf([](int i, int j) { return i == j ? 800 : -800; }, 1e-6, dtype))
      EXPECT_TRUE(std::isfinite(v));
    const auto identity = SinkhornOf([](int i, int j) { return i == j ? 0 : -8; }, 1e-6, dtype);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(identity[5 * i], 1, 2e-3);
  }
}

OpCase Read(const Sizes& s, const HyperOptions& options) {
  OpCase c("hyper_read");
  c.Activation("x", {s.tokens, s.n, s.width});
  c.Weight("fn", {s.n, s.n * s.width}, Scaled("fn", 0, PhiScale(s)));
  c.Weight("scale", {1}, Scaled("scale", 0.6, 0));
  c.Weight("base", {s.n}, Scaled("base", -1, 0.3));
  c.Note("r", {s.tokens});
  c.Note("logit", {s.tokens, s.n});
  c.Note("w", {s.tokens, s.n});
  c.Output("h", {s.tokens, s.width});
  c.Accurate({"fn", "scale", "base", "r", "logit", "w"});
  c.forward = [options](OpRun& r) {
    r.kernels.hyper_read(r.stream, options, r["x"], r["fn"], r["scale"], r["base"], r["r"],
                         r["logit"], r["w"], r["h"]);
  };
  c.backward = [options](OpRun& r) {
    r.kernels.hyper_read_grad(r.stream, options, r["dh"], r["x"], r["fn"], r["scale"], r["base"],
                              r["r"], r["logit"], r["w"], r["dx"], r["dfn"], r["dscale"],
                              r["dbase"]);
  };
  return c;
}

OpCase ExpandThenReduce(const Sizes& s, double factor) {
  OpCase c("hyper_expand, hyper_reduce");
  c.Activation("x", {s.tokens, s.n, s.width});
  c.Output("h", {s.tokens, s.width});
  c.forward = [=](OpRun& r) { r.kernels.hyper_reduce(r.stream, r["x"], factor, r["h"]); };
  c.backward = [=](OpRun& r) {
    r.kernels.hyper_expand(r.stream, r["dh"], r["dx"]);
    Tensor by = Tensor::Empty(r.stream, r["dx"].dtype(), {1});
    r.kernels.fill(r.stream, factor, by);
    r.kernels.scale(r.stream, by, r["dx"]);
  };
  return c;
}

TEST(HyperStreamsTest, AnswerAll) {
  for (const Sizes& s : {Sizes{1, 4, 1}, Sizes{7, 4, 7}, Sizes{137, 4, 5}, Sizes{5, 4, 137},
                         Sizes{6, 2, 9}, Sizes{4, 3, 33}, Sizes{3, 1, 5}, Sizes{37, 4, 288},
                         Sizes{33, 4, 40}, Sizes{21, 2, 96}, Sizes{19, 3, 64}}) {
    CheckOp(Read(s, Options(s.n)));
    CheckOp(ExpandThenReduce(s, 0.25));
  }
  CheckOp(Read({6, 4, 5}, Options(4, 0.05, 0.5)));
}

// Output stream i takes res[i, j] of input stream j, and post[i] of the layer's output.
TEST(HyperStreamsTest, LeaveMixesRowsOfRes) {
  Allocator allocator{Device{}};
  Stream stream(Device{}, allocator);
  double x[] = {1, 10}, res[] = {0.1, 0.2, 0.3, 0.4}, post[] = {5, 7}, y[] = {100}, out[2];
  Tensor result = Tensor::Wrap(out, DType::kF64, {1, 2, 1});
  CpuKernels().hyper_leave(
      stream, Tensor::Wrap(x, DType::kF64, {1, 2, 1}), Tensor::Wrap(res, DType::kF64, {1, 2, 2}),
      Tensor::Wrap(post, DType::kF64, {1, 2}), Tensor::Wrap(y, DType::kF64, {1, 1}), result);
  EXPECT_DOUBLE_EQ(out[0], 0.1 * 1 + 0.2 * 10 + 500);
  EXPECT_DOUBLE_EQ(out[1], 0.3 * 1 + 0.4 * 10 + 700);
}

TEST(HyperStreamsTest, ReadOutIsTheFormula) {
  Allocator allocator{Device{}};
  Stream stream(Device{}, allocator);
  double x[] = {1, 2, 3, 4}, fn[] = {1, 0, 0, 1, -1, 2, 0, 0}, scale[] = {0.5},
         base[] = {0.1, -0.2};
  double r[1], logit[2], w[2], h[2];
  Tensor t_r = Tensor::Wrap(r, DType::kF64, {1}),
         t_logit = Tensor::Wrap(logit, DType::kF64, {1, 2});
  Tensor t_w = Tensor::Wrap(w, DType::kF64, {1, 2}), t_h = Tensor::Wrap(h, DType::kF64, {1, 2});
  CpuKernels().hyper_read(stream, Options(2, 0.1, 0.5), Tensor::Wrap(x, DType::kF64, {1, 2, 2}),
                          Tensor::Wrap(fn, DType::kF64, {2, 4}),
                          Tensor::Wrap(scale, DType::kF64, {1}),
                          Tensor::Wrap(base, DType::kF64, {2}), t_r, t_logit, t_w, t_h);
  const double norm = std::sqrt(30.0 / 4 + 0.5);
  const double w0 = Sigmoid(0.5 * 5 / norm + 0.1) + 0.1, w1 = Sigmoid(0.5 * 3 / norm - 0.2) + 0.1;
  EXPECT_NEAR(h[0], w0 * 1 + w1 * 3, 1e-14);
  EXPECT_NEAR(h[1], w0 * 2 + w1 * 4, 1e-14);
}

TEST(HyperStreamsTest, ExpandCopiesIntoEveryStream) {
  Allocator allocator{Device{}};
  Stream stream(Device{}, allocator);
  double x[] = {1, 2, 3, 4}, out[12];
  Tensor result = Tensor::Wrap(out, DType::kF64, {2, 3, 2});
  CpuKernels().hyper_expand(stream, Tensor::Wrap(x, DType::kF64, {2, 2}), result);
  EXPECT_THAT(out, testing::ElementsAre(1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4));
}

}  // namespace
}  // namespace mneme::test
