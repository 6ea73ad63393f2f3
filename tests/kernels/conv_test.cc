#include "kernels/ops/conv.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/random.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

struct Sizes {
  int64_t rows, length, channels, taps, dilation;
};

// Documents of uneven lengths inside each row.
std::vector<int64_t> DocStarts(const Sizes& s) {
  std::vector<int64_t> out;
  for (int64_t row = 0; row < s.rows; ++row) {
    int64_t start = 0;
    for (int64_t t = 0; t < s.length; ++t) {
      if (t > 0 && (t * 5 + row) % 13 == 0) start = t;
      out.push_back(start);
    }
  }
  return out;
}

OpCase Conv(const Sizes& s, bool onto = false) {
  const int64_t tokens = s.rows * s.length;
  OpCase c("short_conv");
  c.Activation("n", {tokens, s.channels});
  c.Fixed("u", {tokens, s.channels});
  if (onto) c.Fixed("addend", {tokens, s.channels});
  c.Weight("w", {s.channels, s.taps});
  c.Integers("doc_start", DType::kI32, {tokens}, DocStarts(s));
  c.Output("y", {tokens, s.channels});
  c.Accurate({"w"});
  c.forward = [s, onto](OpRun& r) {
    const Tensor addend = onto ? r["addend"] : Tensor();
    r.kernels.short_conv(r.stream, r["n"], r["u"], addend, r["w"], s.dilation, s.length,
                         r["doc_start"], r["y"]);
  };
  c.backward = [s](OpRun& r) {
    r.kernels.short_conv_grad(r.stream, r["dy"], r["n"], r["w"], s.dilation, s.length,
                              r["doc_start"], r["dn"], r["dw"]);
  };
  return c;
}

TEST(ShortConvTest, AnswersAll) {
  CheckOp(Conv({1, 1, 1, 1, 1}));
  CheckOp(Conv({1, 1, 5, 4, 3}));
  CheckOp(Conv({2, 7, 7, 4, 3}));
  CheckOp(Conv({3, 40, 5, 4, 3}));
  CheckOp(Conv({1, 137, 3, 3, 2}));
  CheckOp(Conv({2, 20, 137, 2, 6}));
  CheckOp(Conv({2, 60, 24, 6, 2}));    // more taps than are kept in registers
  CheckOp(Conv({2, 300, 264, 4, 3}));  // several blocks both ways
  CheckOp(Conv({2, 60, 24, 6, 2}, true));
  CheckOp(Conv({3, 40, 264, 4, 3}, true));
  CheckOp(Conv({2, 9, 5, 4, 3}, true));
}

TEST(ShortConvTest, FastAgreesWithPlain) {
  for (const Sizes& s : {Sizes{3, 50, 67, 4, 3}, Sizes{2, 9, 64, 4, 2}, Sizes{1, 33, 12, 3, 3}})
    ExpectAgrees(Conv(s), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32, 2e-6);
}

TEST(ShortConvTest, AgreesWithTheFormula) {
  const Sizes s{2, 30, 3, 4, 3};
  OpCase c = Conv(s);
  std::vector<double> naive, given;
  const auto forward = c.forward;
  c.backward = {};
  c.forward = [&](OpRun& r) {
    forward(r);
    const double *n = r["n"].data<double>(), *u = r["u"].data<double>(), *w = r["w"].data<double>();
    const auto* start = r["doc_start"].data<int32_t>();
    naive.clear();
    for (int64_t row = 0; row < s.rows; ++row) {
      for (int64_t pos = 0; pos < s.length; ++pos) {
        const int64_t t = row * s.length + pos;
        for (int64_t ch = 0; ch < s.channels; ++ch) {
          double sum = 0;
          for (int64_t back = 0; back < 4; ++back)  // reads t, t−3, t−6, t−9: the last tap first
            if (pos - 3 * back >= start[t])
              sum += w[ch * 4 + 3 - back] * n[(t - 3 * back) * s.channels + ch];
          naive.push_back(u[t * s.channels + ch] + sum / (1 + std::exp(-sum)));
        }
      }
    }
    given = Values(r["y"]);
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
  EXPECT_LE(RelativeDistance(given, naive), 1e-14);
}

TEST(ShortConvTest, ZeroWeightsLeaveTheSkipAndStillLearn) {
  OpCase c = Conv({1, 20, 4, 4, 3});
  for (OpArg& a : c.args)
    if (a.name == "w") a.value = [](int64_t) { return 0; };
  const auto forward = c.forward;
  c.forward = [&](OpRun& r) {
    forward(r);
    EXPECT_EQ(Values(r["y"]), Values(r["u"]));
  };
  const auto backward = c.backward;
  c.backward = [&](OpRun& r) {
    backward(r);
    const double before = 0.75;  // where the harness starts an accumulated gradient
    for (const double v : Values(r["dw"])) EXPECT_NE(v, before);
    for (const double v : Values(r["dn"])) EXPECT_EQ(v, 0);
  };
  ExpectBounds(c, CpuKernels(), DType::kF64);
}

// What stands before a document, or in another row, does not reach it.
TEST(ShortConvTest, DocumentsDoNotMix) {
  const Sizes s{2, 12, 3, 4, 1};
  std::vector<std::vector<double>> outputs;
  for (const double moved : {0.0, 5.0}) {
    OpCase c = Conv(s);
    c.backward = {};
    for (OpArg& a : c.args) {
      if (a.name == "n")
        a.value = [moved](int64_t i) {
          return RandomNormal(MakeKey(3, "n"), static_cast<uint64_t>(i)) +
                 (i / 3 < 6 ? moved : 0.0);
        };
      if (a.name == "doc_start") a.value = [](int64_t t) { return t % 12 < 6 ? 0.0 : 6.0; };
    }
    const auto forward = c.forward;
    c.forward = [&](OpRun& r) {
      forward(r);
      outputs.push_back(Values(r["y"]));
    };
    ExpectBounds(c, CpuKernels(), DType::kF64);
  }
  for (size_t i = 0; i < outputs[0].size(); ++i) {
    if (i / 3 < 6) {
      EXPECT_NE(outputs[0][i], outputs[1][i]);
    } else {
      EXPECT_EQ(outputs[0][i], outputs[1][i]);
    }
  }
}

}  // namespace
}  // namespace mneme::test
