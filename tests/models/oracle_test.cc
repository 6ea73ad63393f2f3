// Whole models against the independent program of tests/golden: loss, logits, addresses, every
// gradient.
#include <gtest/gtest.h>

#include <string>

#include "data/hdf5_file.h"
#include "tests/models/model_run.h"

namespace mneme::test {
namespace {

constexpr char kPath[] = MNEME_GOLDEN_FOLDER "/full_model.h5";

struct Golden {
  std::string name;
  ModelConfig model;
  YarnConfig yarn;
};

// tests/golden/full.yaml.
ModelConfig FullModel() {
  ModelConfig m;
  m.vocab_size = 0;
  m.layers = 3;
  m.hidden = 8;
  m.dense_width = 14;
  m.leading_dense = 1;
  m.mla = {.heads = 2, .kv_lora_rank = 6, .qk_nope = 4, .qk_rope = 4, .v_head = 5};
  m.mhc.streams = 4;
  m.moe = {.experts = 5, .shared = 2, .top_k = 2, .expert_width = 4, .route_scale = 1.7};
  m.moe.sequence_balance = 0.05;
  m.engram.blocks = {0, 2};
  m.engram.heads = 2;
  m.engram.d_mem = 8;
  m.engram.vocab_size = {13};
  return m;
}

// tests/golden/plain.yaml.
ModelConfig PlainModel() {
  ModelConfig m;
  m.layers = 2;
  m.hidden = 10;
  m.dense_width = 14;
  m.leading_dense = 0;
  m.norm_eps = 1e-6;
  m.tie_embeddings = true;
  m.mla = {.heads = 2, .kv_lora_rank = 6, .qk_nope = 4, .qk_rope = 8, .v_head = 5};
  m.mla.rope_theta = 50.0;
  m.moe = {.experts = 6, .shared = 1, .top_k = 2, .expert_width = 4, .score = "softmax"};
  m.moe.normalize = false;
  m.moe.route_scale = 1.3;
  m.moe.groups = 3;
  m.moe.groups_kept = 2;
  m.moe.sequence_balance = 0.03;
  m.engram.blocks = {1};
  m.engram.orders = {2, 4};
  m.engram.heads = 3;
  m.engram.d_mem = 12;
  m.engram.vocab_size = {11};
  m.engram.hash_seed = 7;
  m.engram.hash_layer_ids = {5};
  m.engram.gate.transform = "none";
  m.engram.gate.norm_eps = 1e-6;
  m.engram.conv.kernel = 3;
  m.engram.conv.dilation = 2;
  return m;
}

std::vector<Golden> Goldens() {
  ModelConfig q_lora = FullModel();
  q_lora.mla.q_lora_rank = 5;
  return {{"full", FullModel(), {}},
          {"q_lora", q_lora, {}},
          {"plain", PlainModel(), {.scale = 4.0, .beta = 8.0, .original_length = 64}}};
}

// One case of the file.
class GoldenFile {
 public:
  explicit GoldenFile(std::string prefix) : prefix_(std::move(prefix)) {
    auto file = H5File::Open(kPath);
    CHECK(file.ok());
    file_ = *std::move(file);
  }

  bool Has(const std::string& name) const { return file_->Info(prefix_ + "/" + name).ok(); }
  std::vector<int64_t> ShapeOf(const std::string& name) const {
    return file_->Info(prefix_ + "/" + name)->shape;
  }
  std::vector<double> Reals(const std::string& name) const {
    return Read<double>(name, H5Type::kF64);
  }
  std::vector<int32_t> Ids(const std::string& name) const {
    return Read<int32_t>(name, H5Type::kI32);
  }
  int64_t Number(const std::string& name) const { return Read<int64_t>(name, H5Type::kI64).at(0); }

 private:
  template <class T>
  std::vector<T> Read(const std::string& name, H5Type type) const {
    int64_t n = 1;
    for (const int64_t d : ShapeOf(name)) n *= d;
    std::vector<T> out(static_cast<size_t>(n));
    const absl::Status status =
        file_->Read(prefix_ + "/" + name, type, out.data(), n * static_cast<int64_t>(sizeof(T)));
    CHECK(status.ok());
    return out;
  }

  std::string prefix_;
  std::unique_ptr<H5File> file_;
};

HostBatch BatchOf(const GoldenFile& golden) {
  HostBatch host;
  host.rows = golden.ShapeOf("tokens")[0];
  host.length = golden.ShapeOf("tokens")[1];
  host.tokens = golden.Ids("tokens");
  host.targets = golden.Ids("targets");
  host.doc_start = golden.Ids("doc_start");
  return host;
}

Vocabulary VocabularyOf(const GoldenFile& golden) {
  Vocabulary vocabulary;
  vocabulary.canonical = golden.Ids("canonical");
  vocabulary.size = static_cast<int64_t>(vocabulary.canonical.size());
  vocabulary.canonical_size = golden.Number("canonical_size");
  vocabulary.pad = golden.Number("pad");
  return vocabulary;
}

void SetParameters(const GoldenFile& golden, ModelRun& run) {
  for (const auto& parameter : run.rank.store.parameters()) {
    for (const Piece& piece : parameter->pieces) {
      const std::vector<double> values = golden.Reals("params/" + piece.name);
      ASSERT_EQ(static_cast<int64_t>(values.size()), piece.elements()) << piece.name;
      for (size_t i = 0; i < values.size(); ++i) {
        SetValue(parameter->value, piece.offset + static_cast<int64_t>(i), values[i]);
      }
    }
  }
  for (RouterState& router : run.stack->routers()) {
    const std::vector<double> bias = golden.Reals("params/" + router.name);
    for (size_t i = 0; i < bias.size(); ++i) {
      SetValue(router.bias, static_cast<int64_t>(i), bias[i]);
    }
  }
  for (RowExchange* table : run.stack->tables()) {
    const RowTableSpec& spec = table->store().spec();
    const Tensor values =
        MakeTensor(run.rank.context, {spec.rows, spec.width}, golden.Reals("params/" + spec.name));
    table->store().Import(run.rank.stream, AllIds(run.rank, spec.rows), values, {}, {}, false);
  }
}

void ExpectCase(const Golden& test, DType dtype, double tolerance) {
  const GoldenFile golden(test.name);
  OnOneRank(dtype, [&](Rank& rank) {
    const HostBatch host = BatchOf(golden);
    ModelRun run(rank, test.model, VocabularyOf(golden), {});
    run.stack->SetPositions(rank.context, host.length, test.yarn);
    SetParameters(golden, run);
    const MicroBatch batch = host.Slice(rank.context, 0, host.rows);

    const Tensor logits = run.stack->LastLogits(rank.context, batch);
    const int64_t vocabulary = logits.dim(1);
    const std::vector<double> all = golden.Reals("logits");
    std::vector<double> last;
    for (int64_t r = 0; r < host.rows; ++r) {
      const auto row = all.begin() + ((r + 1) * host.length - 1) * vocabulary;
      last.insert(last.end(), row, row + vocabulary);
    }
    EXPECT_LT(RelativeError(Values(logits), last), tolerance) << "logits";

    const double loss = run.Step(batch, host);
    const double balance = golden.Reals("balance")[0];
    EXPECT_NEAR(GetValue(run.balance_sum, 0) / balance, 1.0, tolerance) << "balance";
    EXPECT_NEAR(loss / (golden.Reals("loss")[0] + balance), 1.0, tolerance) << "loss";
    Pieces pieces = Gradients(rank.store);
    run.CollectTableGradients(pieces);
    for (const auto& [name, values] : pieces) {
      ASSERT_TRUE(golden.Has("grads/" + name)) << name;
      EXPECT_LT(RelativeError(values, golden.Reals("grads/" + name)), tolerance) << name;
    }
  });
}

TEST(Oracle, WholeModelsInDouble) {
  for (const Golden& test : Goldens()) {
    SCOPED_TRACE(test.name);
    ExpectCase(test, DType::kF64, 1e-10);
  }
}

TEST(Oracle, WholeModelsInFloat) {
  for (const Golden& test : Goldens()) {
    SCOPED_TRACE(test.name);
    ExpectCase(test, DType::kF32, 1e-4);
  }
}

}  // namespace
}  // namespace mneme::test
