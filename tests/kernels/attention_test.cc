#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/core/random.h"
#include "tests/naive.h"
#include "tests/op_case.h"

namespace mneme::test {
namespace {

// A document every `every` positions (0: one document), not in step with rows.
std::vector<int64_t> Starts(const AttentionShape& n, int64_t every) {
  std::vector<int64_t> starts;
  for (int64_t t = 0; t < n.rows * n.length; ++t) {
    const int64_t in_row = t % n.length;
    starts.push_back(every == 0 ? 0 : std::max<int64_t>(0, in_row - t % every));
  }
  return starts;
}

OpCase Case(AttentionShape n, int64_t document, double scale = 0.37) {
  OpCase c("attention");
  const int64_t tokens = n.rows * n.length;
  c.Activation("q", {tokens, n.heads, n.nope + n.rope});
  c.Activation("kv", {tokens, n.heads, n.nope + n.value});
  c.Activation("k_pe", {tokens, n.rope});
  c.Integers("doc_start", DType::kI32, {tokens}, Starts(n, document));
  c.Output("out", {tokens, n.heads, n.value});
  c.Note("lse", {tokens, n.heads});
  c.Accurate({"lse"});
  c.forward = [=](OpRun& r) {
    r.kernels.attention(r.stream, n, scale, r["q"], r["kv"], r["k_pe"], r["doc_start"], r["out"],
                        r["lse"]);
  };
  c.backward = [=](OpRun& r) {
    r.kernels.attention_grad(r.stream, n, scale, r["dout"], r["q"], r["kv"], r["k_pe"],
                             r["doc_start"], r["out"], r["lse"], r["dq"], r["dkv"], r["dk_pe"]);
  };
  return c;
}

AttentionShape Sizes(int64_t rows, int64_t length, int64_t heads, int64_t nope, int64_t rope,
                     int64_t value) {
  return {
      .rows = rows, .length = length, .heads = heads, .nope = nope, .rope = rope, .value = value};
}

TEST(AttentionTest, AnswersAll) {
  CheckOp(Case(Sizes(1, 2, 1, 1, 2, 1), 0));
  CheckOp(Case(Sizes(2, 7, 3, 5, 4, 3), 0));
  CheckOp(Case(Sizes(3, 9, 2, 3, 2, 5), 4));
  ExpectGradient(Case(Sizes(2, 9, 2, 3, 2, 5), 4), PlainCpuKernels());
}

TEST(AttentionTest, AnswersAllAcrossBlocks) {
  OpCase c = Case(Sizes(1, 137, 2, 4, 2, 3), 0);
  c.elements_checked = 10;
  CheckOp(c);
  c = Case(Sizes(2, 150, 1, 3, 2, 4), 67);
  c.elements_checked = 10;
  CheckOp(c);
  c = Case(Sizes(1, 300, 1, 3, 2, 2), 290);
  c.elements_checked = 6;
  CheckOp(c);
}

// The widths that a GPU has kernels of its own for, those of a library, and some of neither;
// lengths that end inside a tile, documents that begin inside one.
TEST(AttentionTest, AnswersAllInTheWidthsOfModels) {
  for (const int64_t document : {0, 61, 200}) {
    for (const AttentionShape n : {Sizes(2, 333, 2, 128, 64, 128), Sizes(3, 260, 3, 64, 32, 64),
                                   Sizes(1, 517, 1, 128, 64, 128), Sizes(3, 260, 3, 48, 16, 64),
                                   Sizes(1, 517, 2, 48, 16, 64), Sizes(1, 391, 2, 48, 16, 80),
                                   Sizes(1, 200, 2, 192, 64, 256), Sizes(1, 131, 1, 200, 100, 300),
                                   Sizes(2, 100, 2, 20, 12, 30)}) {
      CheckOpOnGpu(Case(n, document, 1.0 / std::sqrt(static_cast<double>(n.nope + n.rope))));
    }
  }
}

// The host knows that there are no documents: other versions may run.
TEST(AttentionTest, AnswersAllWithoutDocuments) {
  for (AttentionShape n :
       {Sizes(2, 333, 2, 128, 64, 128), Sizes(1, 300, 3, 64, 32, 64), Sizes(1, 300, 3, 48, 16, 64),
        Sizes(2, 391, 2, 48, 16, 80), Sizes(1, 40, 2, 48, 16, 80)}) {
    n.documents = false;
    CheckOpOnGpu(Case(n, 0, 1.0 / std::sqrt(static_cast<double>(n.nope + n.rope))));
  }
}

TEST(AttentionTest, AgreesWithThreeLoops) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    for (const int64_t document : {0, 5, 131}) {
      const AttentionShape n = Sizes(2, 140, 2, 6, 4, 5);
      const OpCase c = Case(n, document);
      Allocator allocator{Device{}};
      Stream stream{Device{}, allocator};
      const int64_t tokens = n.rows * n.length;
      const auto random = [&](const char* name, Shape shape) {
        Tensor t = Tensor::Empty(stream, DType::kF64, shape);
        FillNormal(MakeKey(1, name), 0, t.elements(), 1.0, t.data<double>());
        return t;
      };
      const Tensor q = random("q", {tokens, n.heads, n.nope + n.rope});
      const Tensor kv = random("kv", {tokens, n.heads, n.nope + n.value});
      const Tensor k_pe = random("k_pe", {tokens, n.rope});
      const std::vector<int64_t> starts = Starts(n, document);
      std::vector<int32_t> doc_start(starts.begin(), starts.end());
      Tensor out = Tensor::Empty(stream, DType::kF64, {tokens, n.heads, n.value});
      Tensor lse = Tensor::Empty(stream, DType::kF64, {tokens, n.heads});
      kernels->attention(stream, n, 0.5, q, kv, k_pe,
                         Tensor::Wrap(doc_start.data(), DType::kI32, {tokens}), out, lse);
      EXPECT_LE(RelativeDistance(Values(out), NaiveAttention(n, 0.5, Values(q), Values(kv),
                                                             Values(k_pe), starts)),
                1e-14)
          << kernels->name << " " << document;
    }
  }
}

TEST(AttentionTest, FastAgreesWithPlain) {
  for (const int64_t document : {0, 3, 200}) {
    for (const AttentionShape n :
         {Sizes(1, 1, 1, 64, 32, 64), Sizes(3, 65, 2, 16, 8, 24), Sizes(1, 517, 2, 64, 32, 64)}) {
      ExpectAgrees(Case(n, document), CpuKernels(), DType::kF32, PlainCpuKernels(), DType::kF32,
                   1e-5);
    }
  }
}

// Scores a thousand apart: the largest must be taken out before the exponential.
TEST(AttentionTest, LargeScoresStayFinite) {
  OpCase c = Case(Sizes(1, 70, 1, 4, 2, 3), 0);
  c.args[0].value = [](int64_t i) { return 40 * std::sin(static_cast<double>(i)); };
  c.args[1].value = [](int64_t i) { return 40 * std::cos(static_cast<double>(i)); };
  ExpectBounds(c, CpuKernels(), DType::kF32);
  ExpectAgrees(c, CpuKernels(), DType::kF64, PlainCpuKernels(), DType::kF64, 1e-9);
}

TEST(AttentionTest, NotANumberIsPassedOn) {
  for (const Kernels* kernels : {&CpuKernels(), &PlainCpuKernels()}) {
    const AttentionShape n = Sizes(1, 5, 1, 16, 8, 16);
    Allocator allocator{Device{}};
    Stream stream{Device{}, allocator};
    Tensor q = Tensor::Zeros(stream, DType::kF32, {5, 1, 24});
    Tensor kv = Tensor::Zeros(stream, DType::kF32, {5, 1, 32});
    Tensor k_pe = Tensor::Zeros(stream, DType::kF32, {5, 8});
    Tensor start = Tensor::Zeros(stream, DType::kI32, {5});
    Tensor out = Tensor::Empty(stream, DType::kF32, {5, 1, 16});
    Tensor lse = Tensor::Empty(stream, DType::kF32, {5, 1});
    q.data<float>()[2 * 24] = NAN;
    kernels->attention(stream, n, 0.5, q, kv, k_pe, start, out, lse);
    EXPECT_TRUE(std::isnan(out.data<float>()[2 * 16])) << kernels->name;
    EXPECT_EQ(out.data<float>()[1 * 16], 0) << kernels->name;
  }
}

}  // namespace
}  // namespace mneme::test
