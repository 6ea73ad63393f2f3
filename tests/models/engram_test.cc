// The Engram layer in double against central differences, the table's rows included, in all forms
// of gate and convolution.
#include "models/engram.h"

#include <gtest/gtest.h>

#include "models/ngram.h"
#include "models/rotary.h"
#include "tests/models/fixture.h"

namespace mneme::test {
namespace {

constexpr int64_t kRows = 3;
constexpr int64_t kLength = 9;

// A whole table in memory whose values the test may move and whose gradient it can read.
class OpenStore : public RowStore {
 public:
  OpenStore(Context& c, RowTableSpec spec)
      : RowStore(c.stream.allocator(), spec, RowShare{}),
        values(RandomTensor(c, {spec.rows, spec.width}, "table")),
        grads(Tensor::Zeros(c.stream, spec.dtype, {spec.rows, spec.width})) {}

  void Read(Stream&, const Tensor& ids, Tensor& out) override {
    for (int64_t i = 0; i < out.elements(); ++i) {
      SetValue(out, i, GetValue(values, Place(ids, i)));
    }
  }
  void Update(Stream&, const Tensor&, const Tensor& ids, const Tensor& g) override {
    for (int64_t i = 0; i < g.elements(); ++i) {
      SetValue(grads, Place(ids, i), GetValue(grads, Place(ids, i)) + GetValue(g, i));
    }
  }
  void Write(Stream&, const Tensor&, const Tensor&) override {}
  int64_t materialised(bool) const override { return 0; }
  void List(Stream&, int64_t, int64_t, Tensor&, Tensor&) override {}
  void Export(Stream&, int64_t, int64_t, Tensor&, Tensor&, Tensor&, Tensor&) override {}
  void Import(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) override {}
  int64_t bytes() const override { return 0; }

  Tensor values, grads;  // [rows, width]

 private:
  int64_t Place(const Tensor& ids, int64_t i) const {
    return ids.data<int64_t>()[i / spec_.width] * spec_.width + i % spec_.width;
  }
};

struct Memory {
  Memory(Rank& rank, const ModelConfig& model, bool documents)
      : batch(
            RandomBatch(kRows, kLength, model.vocab_size, documents).Slice(rank.context, 0, kRows)),
        rotary(MakeRotary(rank.context, kLength, model.mla, {})),
        pass{batch, rotary, {}, {}} {
    const NgramHash hash = MakeNgramHashes(model.engram, model.vocab_size, 2)[0];
    RowTableSpec spec;
    spec.name = "table";
    spec.rows = TableRows(hash);
    spec.width = model.engram.d_mem / static_cast<int64_t>(hash.primes.size());
    spec.dtype = DType::kF64;
    auto owned = std::make_unique<OpenStore>(rank.context, spec);
    store = owned.get();
    std::vector<int32_t> identity;
    for (int32_t i = 0; i < model.vocab_size; ++i) identity.push_back(i);
    engram = Engram::Declare(rank.store, "engram", model, hash,
                             MakeIds(rank.context, {model.vocab_size}, identity),
                             MakeHostExchange(rank.mesh, rank.context.kernels, std::move(owned)));
    rank.store.Allocate(rank.stream, DType::kF64, rank.mesh.layout, 0);
    Randomise(rank.store);
    rank.store.ZeroGradients(rank.stream);
  }

  Tensor Forward(Context& c, const Tensor& x, Engram::Saved* saved, Tensor* gates) const {
    return engram.Forward(c, pass, x, engram.Fetch(c, batch).Wait(c.stream), saved, gates);
  }

  MicroBatch batch;
  Rotary rotary;
  Pass pass;
  Engram engram;
  OpenStore* store = nullptr;
};

void ExpectEngramGradients(const ModelConfig& model, bool documents) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    Context& c = rank.context;
    Memory memory(rank, model, documents);
    const Tensor x = RandomTensor(c, {kRows * kLength, model.mhc.streams, model.hidden}, "x");
    const Tensor dy = RandomTensor(c, x.shape(), "dy");
    const auto loss = [&] {
      const Tensor y = memory.Forward(c, x, nullptr, nullptr);
      double sum = 0.0;
      for (int64_t i = 0; i < y.elements(); ++i) sum += GetValue(y, i) * GetValue(dy, i);
      return sum;
    };
    Engram::Saved saved;
    memory.Forward(c, x, &saved, nullptr);
    EXPECT_GT(KeptBytes(saved), 0);
    const Tensor dx = memory.engram.Backward(c, memory.pass, dy, std::move(saved));
    ExpectGradient("x", x, dx, loss);
    ExpectParameterGradients(rank.store, loss);
    memory.engram.rows->ReduceGradients(rank.stream);
    Tensor step = Tensor::Zeros(rank.stream, DType::kF64, {kStepScalars});
    step.data<double>()[kStepApply] = 1.0;
    memory.engram.rows->Update(rank.stream, step);
    ExpectGradient("table", memory.store->values, memory.store->grads, loss, 1e-5, 200);
  });
}

TEST(Engram, GradientPerBranch) {
  ExpectEngramGradients(TinyModel(), true);
  ExpectEngramGradients(TinyModel(), false);
}

TEST(Engram, GradientPlainGateOneStream) {
  ModelConfig model = TinyModel();
  model.mhc.streams = 1;
  model.engram.gate.transform = "none";
  ExpectEngramGradients(model, true);
}

TEST(Engram, GradientSingleGate) {
  ModelConfig model = TinyModel();
  model.engram.gate.branches = "single";
  ExpectEngramGradients(model, true);
}

TEST(Engram, GradientNoGate) {
  ModelConfig model = TinyModel();
  model.engram.gate.branches = "none";
  ExpectEngramGradients(model, true);
}

TEST(Engram, GradientNoConvolution) {
  ModelConfig model = TinyModel();
  model.engram.conv.enabled = false;
  ExpectEngramGradients(model, true);
  model.engram.gate.branches = "single";
  ExpectEngramGradients(model, true);
}

TEST(Engram, GradientOtherOrdersAndTaps) {
  ModelConfig model = TinyModel();
  model.engram.orders = {2, 3, 5};
  model.engram.heads = 1;
  model.engram.d_mem = 6;
  model.engram.conv.kernel = 3;
  model.engram.conv.dilation = 2;
  ExpectEngramGradients(model, true);
}

// What is made again is not kept, and every gradient has the same bits.
TEST(Engram, MadeAgainChangesNoBit) {
  ModelConfig single = TinyModel();
  single.engram.gate.branches = "single";
  ModelConfig plain = TinyModel();
  plain.engram.gate.branches = "none";
  plain.engram.conv.enabled = false;
  for (const ModelConfig& model : {TinyModel(), single, plain}) {
    std::vector<Pieces> gradients;
    std::vector<int64_t> kept;
    for (const bool again : {false, true}) {
      OnOneRank(DType::kF64, [&](Rank& rank) {
        Context& c = rank.context;
        Memory memory(rank, model, true);
        memory.engram.recompute = again;
        const Tensor x = RandomTensor(c, {kRows * kLength, model.mhc.streams, model.hidden}, "x");
        const Tensor dy = RandomTensor(c, x.shape(), "dy");
        Engram::Saved saved;
        memory.Forward(c, x, &saved, nullptr);
        kept.push_back(KeptBytes(saved));
        const Tensor dx = memory.engram.Backward(c, memory.pass, dy, std::move(saved));
        memory.engram.rows->ReduceGradients(rank.stream);
        Tensor step = Tensor::Zeros(rank.stream, DType::kF64, {kStepScalars});
        step.data<double>()[kStepApply] = 1.0;
        memory.engram.rows->Update(rank.stream, step);
        gradients.push_back(Gradients(rank.store));
        gradients.back()["x"] = Values(dx);
        gradients.back()["table"] = Values(memory.store->grads);
      });
    }
    EXPECT_LT(kept[1], kept[0]);
    EXPECT_EQ(gradients[1], gradients[0]) << model.engram.gate.branches;
  }
}

// With the convolution at its zero start Y = alpha v: the skip remains (docs/mathematics.md).
TEST(Engram, ZeroConvolutionIsTheSkip) {
  OnOneRank(DType::kF64, [](Rank& rank) {
    const ModelConfig model = TinyModel();
    Memory memory(rank, model, true);
    rank.store.Initialize(rank.stream, rank.context.kernels, 3);
    const int64_t n = model.mhc.streams;
    const Tensor x = RandomTensor(rank.context, {kRows * kLength, n, model.hidden}, "x");
    Engram::Saved saved;
    Tensor gates;
    const Tensor y = memory.Forward(rank.context, x, &saved, &gates);
    EXPECT_EQ(gates.shape(), (Shape{kRows * kLength, n}));
    for (int64_t i = 0; i < y.elements(); ++i) {
      const int64_t token = i / (n * model.hidden);
      const int64_t value = token * (n + 1) * model.hidden + n * model.hidden + i % model.hidden;
      EXPECT_NEAR(GetValue(y, i),
                  GetValue(x, i) + GetValue(gates, i / model.hidden) * GetValue(saved.kv, value),
                  1e-14);
    }
  });
}

// What a switch turns off declares nothing.
TEST(Engram, DeclaresWhatItUses) {
  const auto names = [](const ModelConfig& model) {
    std::vector<std::string> out;
    OnOneRank(DType::kF64, [&](Rank& rank) {
      Memory memory(rank, model, true);
      for (const auto& parameter : rank.store.parameters()) {
        for (const Piece& piece : parameter->pieces) out.push_back(piece.name);
      }
    });
    return out;
  };
  ModelConfig model = TinyModel();
  model.mhc.streams = 2;
  EXPECT_EQ(names(model), (std::vector<std::string>{"engram.key.0", "engram.key.1", "engram.value",
                                                    "engram.norm_h", "engram.norm_k",
                                                    "engram.conv_norm", "engram.conv"}));
  model.engram.gate.branches = "none";
  model.engram.conv.enabled = false;
  EXPECT_EQ(names(model), (std::vector<std::string>{"engram.value"}));
}

}  // namespace
}  // namespace mneme::test
