#include "engine/footprint.h"

#include <gtest/gtest.h>

#include "engine/machine.h"
#include "engine/optimizer.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

VocabularyInfo Bytes258() {
  VocabularyInfo v;
  v.size = 258;
  v.eos = 256;
  v.pad = 257;
  for (int32_t i = 0; i < 258; ++i) v.canonical.push_back(i);
  v.canonical_size = 258;
  return v;
}

// What is predicted stands beside what the pool then counts; gaps between parameters, the pool's
// rounding and the shares of uneven owners are all that may differ.
TEST(Footprint, PredictsWhatIsAllocated) {
  TempFolder temp;
  const RunConfig config =
      TinyRun(temp.path(), {"train.precision=f32", "model.engram.table.store=resident",
                            "parallel.expert=2", "parallel.memory=2"});
  const Footprint predicted = PredictFootprint(config, *MakeLayout(config.parallel, 2), 258);
  ThreadWorld::Run(2, [&](World& world) {
    Machine machine(world, *MakeLayout(config.parallel, 2), DType::kF32);
    auto model = BuildModel(world, machine, config, Bytes258());
    ASSERT_TRUE(model.ok()) << model.status();
    Optimizer optimizer(machine.context, config.optim, config.model, config.train.skip,
                        (*model)->store, *(*model)->stack);
    const auto live = [&](MemoryTag tag) {
      return static_cast<double>(machine.allocator.use(tag).live);
    };
    const auto expect_near = [](double got, int64_t want, const char* what) {
      EXPECT_NEAR(got / static_cast<double>(want), 1.0, 0.2) << what;
    };
    expect_near(live(MemoryTag::kParameters), predicted.parameters, "parameters");
    expect_near(live(MemoryTag::kGradients), predicted.gradients, "gradients");
    // Two moments are predicted, Muon keeps one: and the tables' moments count as optimizer there.
    EXPECT_LE(live(MemoryTag::kOptimizer), static_cast<double>(predicted.optimizer) * 1.1 +
                                               static_cast<double>(predicted.tables) * 0.7);
    EXPECT_LE(live(MemoryTag::kTables), static_cast<double>(predicted.tables) * 1.2);
    EXPECT_GT(live(MemoryTag::kTables), static_cast<double>(predicted.tables) * 0.3);
  });
}

TEST(Footprint, SpreadingExpertsAndRowsShrinksARank) {
  TempFolder temp;
  RunConfig config = TinyRun(temp.path(), {"model.engram.table.store=resident"});
  const Footprint one = PredictFootprint(config, *MakeLayout(config.parallel, 4), 258);
  config.parallel = {4, 4};
  const Footprint spread = PredictFootprint(config, *MakeLayout(config.parallel, 4), 258);
  EXPECT_LT(spread.parameters, one.parameters);
  EXPECT_LT(spread.tables, one.tables);
  EXPECT_EQ(spread.activations, one.activations);
}

TEST(Footprint, ARunThatDoesNotFitIsRefusedBeforeItBegins) {
  Footprint footprint;
  footprint.parameters = int64_t{3} << 30;
  EXPECT_TRUE(CheckFits(footprint, 2, int64_t{6} << 30).ok());
  const absl::Status status = CheckFits(footprint, 2, int64_t{5} << 30);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("6.0 GiB"), std::string::npos) << status;
  EXPECT_NE(status.message().find("5.0 GiB"), std::string::npos) << status;
  TempFolder temp;
  const Outcome outcome =
      TrainThreads(1, TinyRun(temp.path(), {"model.hidden=200000", "model.dense_width=2000000"}));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.message.find("not enough memory"), std::string::npos) << outcome.message;
}

TEST(Footprint, TheMachineSaysWhatIsFree) {
  EXPECT_GT(AvailableMemory(), int64_t{16} << 20);
  EXPECT_LT(AvailableMemory(), int64_t{1} << 50);
}

TEST(Footprint, FormatsBytes) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 40), "5.0 TiB");
}

}  // namespace
}  // namespace mneme
