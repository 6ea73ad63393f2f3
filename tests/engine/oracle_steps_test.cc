// Three updates of a whole model against the independent program of tests/golden: Muon, AdamW,
// dense Adam of the tables, clip, router biases.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "configs/load.h"
#include "data/hdf5_file.h"
#include "engine/machine/machine.h"
#include "engine/update/optimizer.h"
#include "parallel/world.h"
#include "tests/engine/host_step.h"

namespace mneme {
namespace {

const std::string kFolder = MNEME_GOLDEN_FOLDER;

class GoldenFile {
 public:
  GoldenFile() {
    auto file = H5File::Open(kFolder + "/full_model.h5");
    CHECK(file.ok());
    file_ = *std::move(file);
  }
  std::vector<int64_t> ShapeOf(const std::string& name) const {
    return file_->Info("full/" + name)->shape;
  }
  std::vector<double> Reals(const std::string& name) const {
    return Read<double>(name, H5Type::kF64);
  }
  std::vector<int32_t> Ids(const std::string& name) const {
    return Read<int32_t>(name, H5Type::kI32);
  }

 private:
  template <class T>
  std::vector<T> Read(const std::string& name, H5Type type) const {
    int64_t n = 1;
    for (const int64_t d : ShapeOf(name)) n *= d;
    std::vector<T> out(static_cast<size_t>(n));
    const absl::Status status =
        file_->Read("full/" + name, type, out.data(), n * static_cast<int64_t>(sizeof(T)));
    CHECK(status.ok());
    return out;
  }
  std::unique_ptr<H5File> file_;
};

VocabularyInfo VocabularyOf(const GoldenFile& golden) {
  VocabularyInfo vocabulary;
  vocabulary.canonical = golden.Ids("canonical");
  vocabulary.size = static_cast<int64_t>(vocabulary.canonical.size());
  vocabulary.canonical_size =
      1 + *std::max_element(vocabulary.canonical.begin(), vocabulary.canonical.end());
  vocabulary.pad = 2;  // the golden's pad is the canonical id of raw id 2
  return vocabulary;
}

MicroBatch BatchOf(const GoldenFile& golden, Stream& stream) {
  MicroBatch batch;
  batch.rows = golden.ShapeOf("tokens")[0];
  batch.length = golden.ShapeOf("tokens")[1];
  const auto lift = [&](const std::vector<int32_t>& ids) {
    Tensor t = Tensor::Empty(stream, DType::kI32, {static_cast<int64_t>(ids.size())});
    Upload(stream, ids.data(), t.bytes(), t);
    return t;
  };
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < batch.tokens_count(); ++i) {
    positions.push_back(static_cast<int32_t>(i % batch.length));
  }
  batch.tokens = lift(golden.Ids("tokens"));
  batch.targets = lift(golden.Ids("targets"));
  batch.doc_start = lift(golden.Ids("doc_start"));
  batch.positions = lift(positions);
  return batch;
}

Tensor AllIds(Stream& stream, int64_t rows) {
  Tensor ids = Tensor::Empty(stream, DType::kI64, {rows});
  for (int64_t i = 0; i < rows; ++i) ids.data<int64_t>()[i] = i;
  return ids;
}

// Calls f(name, values, n) for every piece, router bias and whole table. f may write where it is
// a piece or a bias; a table is handed over as a copy, and imported again if `import`.
template <class F>
void ForEachValue(Machine& machine, Model& model, bool import, const F& f) {
  for (const auto& parameter : model.store.parameters()) {
    for (const Piece& piece : parameter->pieces) {
      f(piece.name, parameter->value.data<double>() + piece.offset, piece.elements());
    }
  }
  for (RouterState& router : model.stack->routers()) {
    f(router.name, router.bias.data<double>(), router.bias.elements());
  }
  for (RowExchange* table : model.stack->tables()) {
    const RowTableSpec& spec = table->store().spec();
    const Tensor ids = AllIds(machine.stream, spec.rows);
    Tensor values = Tensor::Empty(machine.stream, DType::kF64, {spec.rows, spec.width});
    table->store().Read(machine.stream, ids, values);
    f(spec.name, values.data<double>(), values.elements());
    if (import) table->store().Import(machine.stream, ids, values, {}, {}, false);
  }
}

TEST(OracleSteps, ThreeUpdatesOfEverything) {
  const GoldenFile golden;
  const auto config = LoadConfig(kFolder + "/full.yaml", {"train.precision=f64"});
  ASSERT_TRUE(config.ok()) << config.status();
  ThreadWorld::Run(1, [&](World& world) {
    Machine machine(world, Layout{}, DType::kF64);
    auto model = BuildModel(world, machine, *config, VocabularyOf(golden));
    ASSERT_TRUE(model.ok()) << model.status();
    Stack& stack = *(*model)->stack;
    ForEachValue(machine, **model, true, [&](const std::string& name, double* values, int64_t n) {
      const std::vector<double> start = golden.Reals("params/" + name);
      ASSERT_EQ(static_cast<int64_t>(start.size()), n) << name;
      std::copy(start.begin(), start.end(), values);
    });
    Optimizer optimizer(machine.context, config->optim, config->model, config->train.skip,
                        (*model)->store, stack);
    const MicroBatch batch = BatchOf(golden, machine.stream);
    stack.SetPositions(machine.context, batch.length, {});
    const std::vector<int32_t> targets = golden.Ids("targets");
    const auto counted = static_cast<double>(
        std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; }));
    const auto scalar = [&](double x) {
      Tensor t = Tensor::Empty(machine.stream, DType::kF64, {1});
      t.data<double>()[0] = x;
      return t;
    };
    for (int64_t update = 1; update <= 3; ++update) {
      SCOPED_TRACE(update);
      const std::string step = "steps/" + std::to_string(update) + "/";
      Tensor loss = scalar(0.0), balance = scalar(0.0);
      const double weight = config->model.moe.sequence_balance / static_cast<double>(batch.rows);
      stack.TrainStep(machine.context, batch, scalar(1.0 / counted), scalar(weight), loss, balance);
      EXPECT_NEAR(loss.data<double>()[0] / counted / golden.Reals(step + "loss")[0], 1.0, 1e-9);
      const test::UpdateReport report =
          test::HostStep(optimizer, machine.context, update, golden.Reals(step + "rate")[0]);
      EXPECT_NEAR(report.grad_norm / golden.Reals(step + "grad_norm")[0], 1.0, 1e-9);
      ForEachValue(machine, **model, false,
                   [&](const std::string& name, const double* values, int64_t n) {
                     const std::vector<double> after = golden.Reals(step + "params/" + name);
                     double error = 0.0;
                     for (int64_t i = 0; i < n; ++i) {
                       error = std::max(error, std::abs(values[i] - after[static_cast<size_t>(i)]));
                     }
                     EXPECT_LT(error, 1e-8) << name;
                   });
    }
  });
}

}  // namespace
}  // namespace mneme
