#include "kernels/ops/engram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

struct Sizes {
  int64_t tokens, branches, width;
};

double Normal(const char* name, int64_t i) {
  return RandomNormal(MakeKey(9, name), static_cast<uint64_t>(i));
}

// Keys that lean towards or away from h, so that |s| keeps clear of the root's kink at 0; then the
// value.
double LeaningKey(const Sizes& s, double lean, int64_t i) {
  const int64_t row = (s.branches + 1) * s.width, token = i / row, column = i % row;
  if (column >= s.branches * s.width) return Normal("value", i);
  const double sign = (token + column / s.width) % 2 == 0 ? 1 : -1;
  return sign * lean * Normal("h", token * s.branches * s.width + column) + 0.3 * Normal("key", i);
}

// onto: h goes round the gate as well, and what comes back that way is the addend.
OpCase Gate(const Sizes& s, const GateOptions& options, double lean = 1, bool onto = false) {
  OpCase c("engram_gate");
  const int64_t keys = options.gated ? s.branches : 0;
  c.Activation("h", {s.tokens, s.branches, s.width}, [](int64_t i) { return Normal("h", i); });
  if (options.gated) {
    c.Activation("kv", {s.tokens, (keys + 1) * s.width},
                 [=](int64_t i) { return LeaningKey(s, lean, i); });
    c.Weight("w_h", {s.branches, s.width}, [](int64_t i) { return 1 + 0.2 * Normal("w_h", i); });
    c.Weight("w_k", {s.branches, s.width}, [](int64_t i) { return 1 + 0.2 * Normal("w_k", i); });
    c.Note("rh", {s.tokens, s.branches});
    c.Note("rk", {s.tokens, s.branches});
    c.Note("s", {s.tokens, s.branches});
    c.Accurate({"w_h", "w_k", "rh", "rk", "s"});
  } else {
    c.Activation("kv", {s.tokens, s.width});
  }
  if (onto) c.Output("same", {s.tokens, s.branches, s.width});
  c.Note("alpha", {s.tokens, s.branches});
  c.Accurate({"alpha"});
  c.Output("u", {s.tokens, s.branches, s.width});
  c.forward = [options, onto](OpRun& r) {
    if (onto) r.kernels.copy(r.stream, r["h"], r["same"]);
    Tensor none;
    const auto arg = [&](const char* name) -> Tensor& { return options.gated ? r[name] : none; };
    r.kernels.engram_gate(r.stream, options, r["h"], r["kv"], arg("w_h"), arg("w_k"), arg("rh"),
                          arg("rk"), arg("s"), r["alpha"], r["u"]);
  };
  c.backward = [options, onto](OpRun& r) {
    Tensor none;
    const Tensor addend = onto ? r["dsame"] : Tensor();
    const auto arg = [&](const char* name) -> Tensor& { return options.gated ? r[name] : none; };
    r.kernels.engram_gate_grad(r.stream, options, r["du"], addend, r["h"], r["kv"], arg("w_h"),
                               arg("w_k"), arg("rh"), arg("rk"), arg("s"), r["alpha"], r["dh"],
                               r["dkv"], arg("dw_h"), arg("dw_k"));
  };
  return c;
}

TEST(EngramGateTest, AnswersAll) {
  for (const bool root : {true, false}) {
    CheckOp(Gate({1, 1, 7}, {.signed_sqrt = root}));
    CheckOp(Gate({7, 4, 9}, {.signed_sqrt = root, .eps = 0.1}));
    CheckOp(Gate({137, 2, 6}, {.signed_sqrt = root}));
    CheckOp(Gate({5, 3, 137}, {.signed_sqrt = root}, 0.1));
  }
  CheckOp(Gate({7, 4, 12}, {}, 1, true));
  CheckOp(Gate({5, 2, 200}, {}, 1, true));
  CheckOp(Gate({6, 3, 7}, {}, 1, true));
  CheckOp(Gate({6, 2, 8}, {.gated = false}, 1, true));
}

// Whole vectors; on a GPU several tokens a block too.
TEST(EngramGateTest, WideOnesAnswerAll) {
  CheckOp(Gate({11, 4, 264}, {}, 0.1));
  CheckOp(Gate({5, 1, 1024}, {}, 0.05));
  CheckOp(Gate({9, 2, 64}, {}, 0.3));
  if (TestingGpu()) CheckOp(Gate({700, 4, 264}, {}, 0.1));
  CheckOpOnGpu(Gate({2500, 4, 264}, {}, 0.1, true));  // several tokens a block
}

TEST(EngramGateTest, WithoutAGateTheValueGoesToEveryBranch) {
  CheckOp(Gate({7, 4, 5}, {.gated = false}));
  OpCase c = Gate({3, 2, 5}, {.gated = false});
  const auto forward = c.forward;
  c.forward = [&](OpRun& r) {
    forward(r);
    const auto u = Values(r["u"]), v = Values(r["kv"]);
    for (int64_t i = 0; i < 30; ++i)
      EXPECT_EQ(u[static_cast<size_t>(i)], v[static_cast<size_t>(i / 10 * 5 + i % 5)]);
    for (const double a : Values(r["alpha"])) EXPECT_EQ(a, 1);
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
}

// Below the clamp the gate does not move with s: a region of its own, in which the gradient is 0.
TEST(EngramGateTest, BelowTheClampOnlyTheValueLearns) {
  OpCase c = Gate({7, 2, 9}, {.clamp = 100});
  ExpectGradient(c, CpuKernels());
  const auto backward = c.backward;
  c.backward = [&](OpRun& r) {
    backward(r);
    for (const double v : Values(r["dh"])) EXPECT_EQ(v, 0);
    for (const double v : Values(r["dw_h"])) EXPECT_EQ(v, 0.75);  // where the harness starts
    const auto dkv = Values(r["dkv"]), alpha = Values(r["alpha"]);
    for (size_t i = 0; i < dkv.size(); ++i) EXPECT_EQ(dkv[i] == 0, i % 27 < 18);
    for (const double a : alpha)
      EXPECT_NEAR(std::abs(a - 0.5), 1 / (1 + std::exp(-10.0)) - 0.5, 1e-15);
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
}

// One token, one branch, by hand in double.
struct One {
  One(std::vector<double> query, std::vector<double> key, const GateOptions& o = {})
      : options(o), h(std::move(query)), kv(std::move(key)), gain(h.size(), 1.0), u(h.size()) {
    const auto width = static_cast<int64_t>(h.size());
    kv.resize(2 * h.size(), 1.0);
    Tensor t_rh = Wrap(&rh, {1, 1}), t_rk = Wrap(&rk, {1, 1}), t_s = Wrap(&s, {1, 1});
    Tensor t_alpha = Wrap(&alpha, {1, 1}), t_u = Wrap(u.data(), {1, 1, width});
    const Tensor t_h = Wrap(h.data(), {1, 1, width}), t_kv = Wrap(kv.data(), {1, 2 * width});
    const Tensor t_gain = Wrap(gain.data(), {1, width});
    CpuKernels().engram_gate(stream, options, t_h, t_kv, t_gain, t_gain, t_rh, t_rk, t_s, t_alpha,
                             t_u);
    dh.resize(h.size());
    dkv.resize(kv.size());
    dw_h.resize(h.size());
    dw_k.resize(h.size());
    du.assign(h.size(), 1.0);
    Tensor t_dh = Wrap(dh.data(), {1, 1, width}), t_dkv = Wrap(dkv.data(), {1, 2 * width});
    Tensor t_dw_h = Wrap(dw_h.data(), {1, width}), t_dw_k = Wrap(dw_k.data(), {1, width});
    CpuKernels().engram_gate_grad(stream, options, Wrap(du.data(), {1, 1, width}), {}, t_h, t_kv,
                                  t_gain, t_gain, t_rh, t_rk, t_s, t_alpha, t_dh, t_dkv, t_dw_h,
                                  t_dw_k);
  }
  static Tensor Wrap(double* data, Shape shape) { return Tensor::Wrap(data, DType::kF64, shape); }

  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  GateOptions options;
  std::vector<double> h, kv, gain, u, dh, dkv, dw_h, dw_k, du;
  double rh = 0, rk = 0, s = 0, alpha = 0;
};

std::vector<double> Eight(double (*f)(int)) {
  std::vector<double> out;
  for (int i = 0; i < 8; ++i) out.push_back(f(i));
  return out;
}

TEST(EngramGateTest, IsTheGoldenOne) {
  const auto h = Eight([](int i) { return std::sin(1.0 + i); });
  const auto k = Eight([](int i) { return std::cos(2.0 * i); });
  const One root(h, k), plain(h, k, {.signed_sqrt = false});
  EXPECT_NEAR(root.s, 0.4713027142, 5e-11);
  EXPECT_NEAR(root.alpha, 0.6651912020, 5e-11);
  EXPECT_NEAR(plain.alpha, 0.6156920450, 5e-11);
}

TEST(EngramGateTest, AtTheKink) {
  // ⟨h, k⟩ = 0 exactly: sign(0) = 0, so the gate is a half and no gradient reaches h or k.
  const One zero({1, 1}, {1, -1});
  EXPECT_EQ(zero.s, 0);
  EXPECT_EQ(zero.alpha, 0.5);
  for (const double v : zero.dh) EXPECT_EQ(v, 0);
  for (const double v : zero.dw_k) EXPECT_EQ(v, 0);
  // |s| within the clamp: the root stands at √clamp with the sign of s.
  for (const double sign : {1.0, -1.0}) {
    const One clamped({1, 1}, {1, -1 + sign * 1e-7});
    EXPECT_NE(clamped.s, 0);
    EXPECT_LT(std::abs(clamped.s), 1e-6);
    EXPECT_NEAR(clamped.alpha, 1 / (1 + std::exp(-sign * 1e-3)), 1e-16);
    for (const double v : clamped.dh) EXPECT_EQ(v, 0);
    const One above({1, 1}, {1, -1 + sign * 1e-4});
    EXPECT_NE(above.dh[0], 0);
  }
}

TEST(EngramGateTest, ZeroAndNotANumberStayWhatTheyAre) {
  const One zero({0, 0, 0}, {1, 2, 3});
  EXPECT_EQ(zero.alpha, 0.5);
  for (const double v : zero.dkv) EXPECT_TRUE(std::isfinite(v));
  EXPECT_TRUE(std::isnan(One({std::numeric_limits<double>::quiet_NaN(), 1}, {1, 2}).alpha));
}

struct Text {
  int64_t rows, length, vocabulary;
};

NgramHash SomeHash(std::vector<int64_t> orders, int64_t heads, int64_t first_prime) {
  NgramHash hash;
  hash.orders = std::move(orders);
  hash.heads = heads;
  hash.pad = 3;
  for (int64_t i = 0; i < hash.orders.back(); ++i)
    hash.multipliers.push_back(
        (RandomInt(MakeKey(1, "m"), static_cast<uint64_t>(i), int64_t{1} << 50) | 1));
  int64_t offset = 0;
  for (int64_t k = 0; k < static_cast<int64_t>(hash.orders.size()) * heads; ++k) {
    hash.primes.push_back(first_prime + 2 * k);
    hash.offsets.push_back(offset);
    offset += hash.primes.back();
  }
  return hash;
}

OpCase Addresses(const Text& s, const NgramHash& hash) {
  const int64_t tokens = s.rows * s.length;
  std::vector<int64_t> ids, map, start;
  for (int64_t t = 0; t < tokens; ++t) {
    ids.push_back(RandomInt(MakeKey(1, "ids"), static_cast<uint64_t>(t), s.vocabulary));
    start.push_back(t % s.length / 5 * 5);
  }
  for (int64_t v = 0; v < s.vocabulary; ++v) map.push_back(v / 2);
  OpCase c("ngram_rows");
  c.Integers("tokens", DType::kI32, {tokens}, ids);
  c.Integers("canonical", DType::kI32, {s.vocabulary}, map);
  c.Integers("doc_start", DType::kI32, {tokens}, start);
  c.NoteOf("rows", DType::kI64, {tokens, static_cast<int64_t>(hash.primes.size())});
  c.bf16 = false;  // integers only
  c.forward = [=](OpRun& r) {
    r.kernels.ngram_rows(r.stream, hash, r["tokens"], r["canonical"], s.length, r["doc_start"],
                         r["rows"]);
  };
  return c;
}

TEST(NgramRowsTest, AnswersAll) {
  CheckOp(Addresses({1, 1, 1}, SomeHash({2}, 1, 101)));
  CheckOp(Addresses({3, 7, 50}, SomeHash({2, 3}, 8, 100003)));
  CheckOp(Addresses({1, 137, 9}, SomeHash({2, 4, 6}, 3, 3125000011)));
  CheckOp(Addresses({2, 40, 9}, SomeHash({2, 3, 4}, 30, 3125000011)));
}

TEST(NgramRowsTest, AgreesWithTheDefinition) {
  const Text s{2, 23, 40};
  const NgramHash hash = SomeHash({2, 3, 5}, 2, 3125000011);
  OpCase c = Addresses(s, hash);
  const auto forward = c.forward;
  c.forward = [&](OpRun& r) {
    forward(r);
    const auto* ids = r["tokens"].data<int32_t>();
    const auto* rows = r["rows"].data<int64_t>();
    int64_t above_32_bits = 0;
    for (int64_t t = 0; t < s.rows * s.length; ++t) {
      for (size_t k = 0; k < 6; ++k) {
        int64_t mix = 0;
        for (int64_t back = 0; back < hash.orders[k / 2]; ++back) {
          const bool inside = t % s.length % 5 >= back;  // documents of five tokens
          mix ^= (inside ? ids[t - back] / 2 : 3) * hash.multipliers[static_cast<size_t>(back)];
        }
        EXPECT_EQ(rows[t * 6 + static_cast<int64_t>(k)], mix % hash.primes[k] + hash.offsets[k]);
        above_32_bits +=
            rows[t * 6 + static_cast<int64_t>(k)] > std::numeric_limits<uint32_t>::max();
      }
    }
    EXPECT_GT(above_32_bits, 100);
  };
  ExpectBounds(c, CpuKernels(), DType::kF32);
}

}  // namespace
}  // namespace mneme::test
