// Gradients of every layer in double against central differences, and what recomputation keeps.
#include <gtest/gtest.h>

#include "models/block.h"
#include "models/embedding.h"
#include "models/hyper_connection.h"
#include "models/mla.h"
#include "models/mlp.h"
#include "models/moe.h"
#include "models/norm.h"
#include "models/rotary.h"
#include "tests/models/fixture.h"

namespace mneme::test {
namespace {

constexpr int64_t kRows = 3;
constexpr int64_t kLength = 7;
constexpr int64_t kTokens = kRows * kLength;

// A pass over a random batch with two documents a row.
struct Stage {
  explicit Stage(Rank& rank, const ModelConfig& model, const YarnConfig& yarn = {})
      : batch(RandomBatch(kRows, kLength, model.vocab_size, true).Slice(rank.context, 0, kRows)),
        rotary(MakeRotary(rank.context, kLength, model.mla, yarn)),
        pass{batch, rotary, MakeTensor(rank.context, {1}, {0.3}),
             MakeTensor(rank.context, {1}, {0.0})} {}

  MicroBatch batch;
  Rotary rotary;
  Pass pass;
};

void Prepare(Rank& rank) {
  rank.store.Allocate(rank.stream, rank.context.dtype, rank.mesh.layout, 0);
  Randomise(rank.store);
  rank.store.ZeroGradients(rank.stream);
}

double Dot(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (int64_t i = 0; i < a.elements(); ++i) sum += GetValue(a, i) * GetValue(b, i);
  return sum;
}

void ExpectSum(const Tensor& sum, const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < sum.elements(); ++i) {
    EXPECT_NEAR(GetValue(sum, i), GetValue(a, i) + GetValue(b, i), 1e-12);
  }
}

// Gradients of <dy, Forward(x)> + balance loss.
template <Layer L>
void ExpectLayerGradients(Rank& rank, const L& layer, Stage& stage, Shape shape) {
  Context& c = rank.context;
  const Tensor x = RandomTensor(c, shape, "x");
  const Tensor dy = RandomTensor(c, shape, "dy");
  const auto loss = [&] {
    SetValue(stage.pass.balance_sum, 0, 0.0);
    typename L::Saved saved;
    const Tensor y = layer.Forward(c, stage.pass, x, {}, &saved);
    return Dot(y, dy) + GetValue(stage.pass.balance_sum, 0);
  };
  typename L::Saved saved;
  const Tensor kept = layer.Forward(c, stage.pass, x, {}, &saved);
  const Tensor evaluated = layer.Forward(c, stage.pass, x, {}, nullptr);
  EXPECT_EQ(Values(kept), Values(evaluated));
  EXPECT_GT(KeptBytes(saved), 0);
  const Tensor dx = layer.Backward(c, stage.pass, dy, {}, std::move(saved));
  ExpectGradient("x", x, dx, loss);
  ExpectParameterGradients(rank.store, loss);

  // What goes round the layer is added, on both ways.
  const Tensor skip = RandomTensor(c, shape, "skip");
  saved = {};
  ExpectSum(layer.Forward(c, stage.pass, x, skip, &saved), kept, skip);
  ExpectSum(layer.Backward(c, stage.pass, dy, skip, std::move(saved)), dx, skip);
}

TEST(LayerGradient, Mla) {
  for (const int64_t q_rank : {0, 5}) {
    OnOneRank(DType::kF64, [&](Rank& rank) {
      ModelConfig model = TinyModel();
      model.mla.q_lora_rank = q_rank;
      const YarnConfig yarn{.scale = 4.0, .beta = 8.0, .original_length = 64};
      Stage stage(rank, model, q_rank > 0 ? yarn : YarnConfig{});
      const Mla mla = Mla::Declare(rank.store, "attention", model);
      Prepare(rank);
      ExpectLayerGradients(rank, mla, stage, {kTokens, model.hidden});
    });
  }
}

TEST(LayerGradient, PreNormedMlp) {
  for (const bool on : {false, true}) {
    OnOneRank(DType::kF64, [&](Rank& rank) {
      const ModelConfig model = TinyModel();
      Stage stage(rank, model);
      const PreNormed<Mlp> inner{Norm::Declare(rank.store, "norm", 1, model.hidden, 1e-6),
                                 Mlp::Declare(rank.store, "mlp", model.hidden, 9, 0.1)};
      Prepare(rank);
      ExpectLayerGradients(rank, Recomputed<PreNormed<Mlp>>{inner, on}, stage,
                           {kTokens, model.hidden});
    });
  }
}

void ExpectMoeGradients(const ModelConfig& model, bool recompute) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    Stage stage(rank, model);
    RouterState router = MakeRouterState(rank.context, "moe", model.moe.experts);
    for (int64_t e = 0; e < model.moe.experts; ++e) {
      SetValue(router.bias, e, 0.1 * static_cast<double>(e % 3));
    }
    const Moe moe = Moe::Declare(rank.context, rank.store, "moe", model, recompute, router);
    Prepare(rank);
    ExpectLayerGradients(rank, moe, stage, {kTokens, model.hidden});
  });
}

TEST(LayerGradient, MoeSigmoid) {
  ModelConfig model = TinyModel();
  model.moe.route_scale = 1.7;
  ExpectMoeGradients(model, false);
  ExpectMoeGradients(model, true);
}

TEST(LayerGradient, MoeSoftmaxInGroups) {
  ModelConfig model = TinyModel();
  model.moe.experts = 6;
  model.moe.groups = 3;
  model.moe.groups_kept = 2;
  model.moe.score = "softmax";
  model.moe.normalize = false;
  model.moe.shared = 0;
  ExpectMoeGradients(model, false);
}

TEST(LayerGradient, HyperConnected) {
  for (const int64_t streams : {1, 2, 3}) {
    for (const bool recompute : {false, true}) {
      OnOneRank(DType::kF64, [&](Rank& rank) {
        ModelConfig model = TinyModel();
        model.mhc.streams = streams;
        Stage stage(rank, model);
        HyperConnected<Mlp> layer;
        layer.inner = Mlp::Declare(rank.store, "mlp", model.hidden, 5, 0.1);
        if (streams > 1) layer.mixes = HyperMixes::Declare(rank.store, "hyper", model);
        layer.recompute = recompute;
        Prepare(rank);
        const Tensor x = RandomTensor(rank.context, {kTokens, streams, model.hidden}, "x");
        const Tensor dy = RandomTensor(rank.context, x.shape(), "dy");
        const auto loss = [&] {
          return Dot(layer.Forward(rank.context, stage.pass, x, nullptr).Settle(rank.context), dy);
        };
        HyperConnected<Mlp>::Saved saved;
        layer.Forward(rank.context, stage.pass, x, &saved);
        const Tensor dx = layer.Backward(rank.context, stage.pass, dy, std::move(saved));
        ExpectGradient("x", x, dx, loss);
        ExpectParameterGradients(rank.store, loss);
      });
    }
  }
}

// From one into the next, where the way out of the first is made with the way in.
TEST(LayerGradient, HyperConnectedTwice) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    Context& c = rank.context;
    ModelConfig model = TinyModel();
    Stage stage(rank, model);
    HyperConnected<Mlp> layers[2];
    for (int i = 0; i < 2; ++i) {
      const std::string name = std::to_string(i);
      layers[i].inner = Mlp::Declare(rank.store, "mlp" + name, model.hidden, 5, 0.1);
      layers[i].mixes = HyperMixes::Declare(rank.store, "hyper" + name, model);
    }
    Prepare(rank);
    const Tensor x = RandomTensor(c, {kTokens, model.mhc.streams, model.hidden}, "x");
    const Tensor dy = RandomTensor(c, x.shape(), "dy");
    const auto forward = [&](HyperConnected<Mlp>::Saved* first,
                             HyperConnected<Mlp>::Saved* second) {
      const ResidualStreams between = layers[0].Forward(c, stage.pass, x, first);
      return layers[1].Forward(c, stage.pass, between, second).Settle(c);
    };
    const auto loss = [&] { return Dot(forward(nullptr, nullptr), dy); };
    HyperConnected<Mlp>::Saved first, second;
    const Tensor out = forward(&first, &second);
    const Tensor apart = layers[0].Forward(c, stage.pass, x, nullptr).Settle(c);
    EXPECT_EQ(Values(second.x), Values(apart));
    EXPECT_EQ(Values(out), Values(layers[1].Forward(c, stage.pass, apart, nullptr).Settle(c)));
    const Tensor between = layers[1].Backward(c, stage.pass, dy, std::move(second));
    ExpectGradient("x", x, layers[0].Backward(c, stage.pass, between, std::move(first)), loss);
    ExpectParameterGradients(rank.store, loss);
  });
}

TEST(LayerGradient, Readout) {
  for (const char* kind : {"learned", "mean", "sum"}) {
    OnOneRank(DType::kF64, [&](Rank& rank) {
      ModelConfig model = TinyModel();
      model.mhc.streams = 3;
      model.mhc.readout = kind;
      const Readout readout = Readout::Declare(rank.store, model);
      Prepare(rank);
      const Tensor x = RandomTensor(rank.context, {kTokens, 3, model.hidden}, "x");
      const Tensor dh = RandomTensor(rank.context, {kTokens, model.hidden}, "dh");
      const auto loss = [&] { return Dot(readout.Forward(rank.context, x, nullptr), dh); };
      Readout::Saved saved;
      readout.Forward(rank.context, x, &saved);
      const Tensor dx = readout.Backward(rank.context, dh, std::move(saved));
      ExpectGradient("x", x, dx, loss);
      ExpectParameterGradients(rank.store, loss);
    });
  }
}

TEST(LayerGradient, Embedding) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    const Embedding embedding = Embedding::Declare(rank.store, "embedding", 5, 3, 0.1);
    Prepare(rank);
    const Tensor ids = MakeIds(rank.context, {4}, {4, 0, 4, 2});
    const Tensor dy = RandomTensor(rank.context, {4, 3}, "dy");
    const auto loss = [&] { return Dot(embedding.Forward(rank.context, ids), dy); };
    embedding.Backward(rank.context, dy, ids);
    ExpectParameterGradients(rank.store, loss, 1e-5, 15);
  });
}

// The plain residual and the mixes that start as the identity.
TEST(HyperConnection, StartsAsMeanAndResidual) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    ModelConfig model = TinyModel();
    model.mhc.init = "identity";
    const int64_t n = model.mhc.streams;
    const HyperMixes mixes = HyperMixes::Declare(rank.store, "hyper", model);
    rank.store.Allocate(rank.stream, DType::kF64, rank.mesh.layout, 0);
    rank.store.Initialize(rank.stream, rank.context.kernels, 1);
    const Tensor x = RandomTensor(rank.context, {5, n, model.hidden}, "x");
    HyperMixes::Saved note;
    Tensor settled;
    const Tensor h = mixes.Enter(rank.context, x, settled, note);
    EXPECT_EQ(Values(settled), Values(x));
    for (int64_t i = 0; i < h.elements(); ++i) {
      double mean = 0.0;
      for (int64_t s = 0; s < n; ++s) {
        mean += GetValue(x, (i / model.hidden * n + s) * model.hidden + i % model.hidden) / 4.0;
      }
      EXPECT_NEAR(GetValue(h, i), mean, 1e-2);
    }
    for (int64_t i = 0; i < note.post.elements(); ++i) {
      EXPECT_NEAR(GetValue(note.post, i), 1.0, 1e-2);
    }
    for (int64_t i = 0; i < note.res.elements(); ++i) {
      EXPECT_NEAR(GetValue(note.res, i), i % (n * n) % (n + 1) == 0 ? 1.0 : 0.0, 2e-3);
    }
  });
}

// Evaluation and recomputation count no load.
TEST(Moe, CountsLoadsOnce) {
  for (const bool recompute : {false, true}) {
    OnOneRank(DType::kF64, [&](Rank& rank) {
      const ModelConfig model = TinyModel();
      Stage stage(rank, model);
      RouterState router = MakeRouterState(rank.context, "moe", model.moe.experts);
      const PreNormed<Moe> moe{
          Norm::Declare(rank.store, "norm", 1, model.hidden, 1e-6),
          Moe::Declare(rank.context, rank.store, "moe", model, recompute, router), recompute};
      Prepare(rank);
      const Tensor x = RandomTensor(rank.context, {kTokens, model.hidden}, "x");
      const auto total = [&] {
        double sum = 0.0;
        for (double v : Values(router.load)) sum += v;
        return sum;
      };
      moe.Forward(rank.context, stage.pass, x, x, nullptr);
      EXPECT_EQ(total(), 0.0);
      PreNormed<Moe>::Saved saved;
      moe.Forward(rank.context, stage.pass, x, x, &saved);
      moe.Backward(rank.context, stage.pass, x, x, std::move(saved));
      EXPECT_EQ(total(), static_cast<double>(kTokens * model.moe.top_k));
    });
  }
}

// `run(saved)` is one forward pass.
template <class Saved, class F>
int64_t KeptBy(F&& run) {
  Saved saved;
  run(&saved);
  return KeptBytes(saved);
}
template <Layer L>
int64_t KeptBy(Rank& rank, const L& layer, const Stage& stage, const Tensor& x) {
  return KeptBy<typename L::Saved>(
      [&](typename L::Saved* saved) { layer.Forward(rank.context, stage.pass, x, {}, saved); });
}
template <Layer L>
int64_t KeptBy(Rank& rank, const HyperConnected<L>& layer, const Stage& stage, const Tensor& x) {
  using Saved = typename HyperConnected<L>::Saved;
  return KeptBy<Saved>([&](Saved* saved) { layer.Forward(rank.context, stage.pass, x, saved); });
}

// What recomputation is for: a dense layer keeps its input alone, experts give up their
// pre-activations, hyper-connections their mixes and the inner input.
TEST(Recompute, KeepsLess) {
  OnOneRank(DType::kF64, [&](Rank& rank) {
    const ModelConfig model = TinyModel();
    Stage stage(rank, model);
    RouterState router = MakeRouterState(rank.context, "moe", model.moe.experts);
    Recomputed<Mlp> mlp{Mlp::Declare(rank.store, "mlp", model.hidden, 9, 0.1), false};
    Moe moe = Moe::Declare(rank.context, rank.store, "moe", model, false, router);
    HyperConnected<Recomputed<Mlp>> hyper;
    hyper.inner = mlp;
    hyper.mixes = HyperMixes::Declare(rank.store, "hyper", model);
    Prepare(rank);
    const Tensor x = RandomTensor(rank.context, {kTokens, model.hidden}, "x");
    const Tensor streams = RandomTensor(rank.context, {kTokens, 4, model.hidden}, "streams");

    const int64_t mlp_plain = KeptBy(rank, mlp, stage, x);
    const int64_t moe_plain = KeptBy(rank, moe, stage, x);
    const int64_t hyper_plain = KeptBy(rank, hyper, stage, streams);
    mlp.on = true;
    moe.recompute = true;
    hyper.recompute = true;
    EXPECT_EQ(KeptBy(rank, mlp, stage, x), x.bytes());
    EXPECT_EQ(mlp_plain, x.bytes() + kTokens * 3 * 9 * 8);
    // Pre-activations of the routed pairs and of the shared expert, and the latter's h.
    EXPECT_GE(moe_plain - KeptBy(rank, moe, stage, x),
              kTokens * 8 * (model.moe.top_k * 2 * 3 + 3 * 6));
    EXPECT_EQ(hyper_plain - KeptBy(rank, hyper, stage, streams),
              x.bytes() + kTokens * 8 * (1 + 24 + 4 + 4 + 16));
  });
}

// Each part of the plan saves in a whole block, dense or not.
TEST(Recompute, BlockKeepsLess) {
  const auto kept = [](int64_t index, const RecomputePlan& plan) {
    int64_t bytes = 0;
    OnOneRank(DType::kF64, [&](Rank& rank) {
      const ModelConfig model = TinyModel();
      Stage stage(rank, model);
      RouterState router = MakeRouterState(rank.context, "moe", model.moe.experts);
      const Block block =
          Block::Declare(rank.context, rank.store, index, model, plan, std::nullopt, &router);
      Prepare(rank);
      const Tensor x = RandomTensor(rank.context, {kTokens, 4, model.hidden}, "x");
      Block::Saved saved;
      block.Forward(rank.context, stage.pass, x, nullptr, &saved, nullptr);
      bytes = KeptBytes(saved);
    });
    return bytes;
  };
  for (const int64_t index : {0, 1}) {
    const int64_t all = kept(index, {});
    EXPECT_LT(kept(index, {.attention = true}), all);
    EXPECT_LT(kept(index, {.ffn = true}), all);
    EXPECT_LT(kept(index, {.mhc = true}), all);
    EXPECT_LT(kept(index, {true, true, true}), kept(index, {true, true, false}));
  }
}

}  // namespace
}  // namespace mneme::test
