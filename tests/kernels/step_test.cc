#include "kernels/ops/step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/op_case.h"

namespace mneme::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

StepDecisionOptions Options() {
  StepDecisionOptions o;
  o.clip = 2;
  o.table_beta2 = 0.99;
  o.outlier_sigma = 3;
  o.window = 4;
  return o;
}

// Steps one after the other, as a run makes them; all numbers in host memory.
struct Steps {
  explicit Steps(const StepDecisionOptions& o)
      : options(o), history(static_cast<size_t>(kHistoryRing + o.window), 0.0) {}

  void Step(double losses, double counted, double dense, double tables) {
    double plan[kPlanScalars] = {0.01, counted};
    double sums[kSumScalars] = {losses, 0.25, dense, tables};
    Tensor past = Tensor::Wrap(history.data(), DType::kF64, {kHistoryRing + options.window});
    Tensor out = Tensor::Wrap(step, DType::kF64, {kStepScalars});
    Tensor table_out = Tensor::Wrap(table_step, DType::kF64, {kStepScalars});
    Tensor told = Tensor::Wrap(report, DType::kF64, {kReportScalars});
    CpuKernels().step_decision(stream, options, Tensor::Wrap(plan, DType::kF64, {kPlanScalars}),
                               Tensor::Wrap(sums, DType::kF64, {kSumScalars}), past, out, table_out,
                               told);
  }

  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  StepDecisionOptions options;
  std::vector<double> history;
  double step[kStepScalars] = {};
  double table_step[kStepScalars] = {};
  double report[kReportScalars] = {};
};

TEST(StepDecisionTest, WritesWhatAnUpdateReadsAndWhatIsReported) {
  Steps run(Options());
  run.Step(6, 4, 9, 16);
  EXPECT_EQ(run.report[kReportLoss], 1.5);
  EXPECT_EQ(run.report[kReportBalance], 0.25);
  EXPECT_EQ(run.report[kReportGradNorm], 5);
  EXPECT_EQ(run.report[kReportTableGradNorm], 4);
  EXPECT_EQ(run.report[kReportSkipped], 0);
  EXPECT_EQ(run.step[kStepRate], 0.01);
  EXPECT_EQ(run.step[kStepClip], 0.4);
  EXPECT_EQ(run.step[kStepApply], 1);
  EXPECT_EQ(run.step[kStepBias1], 1 - 0.9);
  EXPECT_EQ(run.table_step[kStepBias2], 1 - 0.99);
  EXPECT_EQ(run.history, (std::vector<double>{1, 1, 1, 1.5, 0, 0, 0}));
  run.Step(6, 4, 1, 1);
  EXPECT_EQ(run.step[kStepClip], 1);
  EXPECT_EQ(run.step[kStepBias2], 1 - std::pow(0.95, 2.0));
}

TEST(StepDecisionTest, TablesStandOutsideTheNormWhereTold) {
  StepDecisionOptions o = Options();
  o.tables_in_norm = false;
  Steps run(o);
  run.Step(6, 4, 9, 16);
  EXPECT_EQ(run.report[kReportGradNorm], 3);
  EXPECT_EQ(run.report[kReportTableGradNorm], 4);
  run.Step(6, 4, 9, kInfinity);  // but a broken one is still a broken step
  EXPECT_EQ(run.report[kReportSkipped], 1);
}

TEST(StepDecisionTest, WithoutATargetTheLossIsZero) {
  Steps run(Options());
  run.Step(0, 0, 0, 0);
  EXPECT_EQ(run.report[kReportLoss], 0);
  EXPECT_EQ(run.report[kReportSkipped], 0);
}

TEST(StepDecisionTest, ASkippedStepLeavesNoTrace) {
  for (const bool bad_loss : {true, false}) {
    Steps run(Options());
    run.Step(6, 4, 9, 16);
    const std::vector<double> before = run.history;
    run.Step(bad_loss ? NAN : 6, 4, bad_loss ? 9 : kInfinity, 16);
    EXPECT_EQ(run.history, before);
    EXPECT_EQ(run.step[kStepApply], 0);
    EXPECT_EQ(run.table_step[kStepApply], 0);
    EXPECT_EQ(run.report[kReportSkipped], 1);
  }
  StepDecisionOptions o = Options();
  o.skip_nonfinite = false;
  Steps run(o);
  run.Step(NAN, 4, 9, 16);
  EXPECT_EQ(run.report[kReportSkipped], 0);
}

// An update from a loss without a value counts as one, but no later loss is measured against it.
TEST(StepDecisionTest, ALossWithoutAValueStaysOutOfTheWindow) {
  StepDecisionOptions o = Options();
  o.skip_nonfinite = false;
  Steps run(o);
  for (const double loss : std::initializer_list<double>{2, 3, 4, NAN, 5}) run.Step(loss, 1, 0, 0);
  EXPECT_EQ(run.history, (std::vector<double>{5, 4, 0, 2, 3, 4, 5}));
  run.Step(6.9, 1, 0, 0);
  EXPECT_EQ(run.report[kReportSkipped], 1);
}

// Losses 2, 3, 4 and 5 in a window of four: mean 3.5, deviation 1.118.
TEST(StepDecisionTest, AnOutlierIsMeasuredAgainstTheLastLosses) {
  Steps run(Options());
  for (const double loss : {9, 2, 3, 4}) run.Step(loss, 1, 0, 0);
  run.Step(5, 1, 0, 0);
  EXPECT_EQ(run.history, (std::vector<double>{5, 4, 1, 5, 2, 3, 4}));
  run.Step(6.9, 1, 0, 0);
  EXPECT_EQ(run.report[kReportSkipped], 1);
  run.Step(6.8, 1, 0, 0);
  EXPECT_EQ(run.report[kReportSkipped], 0);
  EXPECT_EQ(run.history, (std::vector<double>{6, 4, 2, 5, 6.8, 3, 4}));
}

TEST(StepDecisionTest, NothingIsAnOutlierBeforeTheWindowIsFull) {
  Steps run(Options());
  for (const double loss : {2, 2, 2}) run.Step(loss, 1, 0, 0);
  run.Step(1e6, 1, 0, 0);
  EXPECT_EQ(run.report[kReportSkipped], 0);
}

TEST(LoadImbalanceTest, IsTheWorstOfAllCalls) {
  Allocator allocator{Device{}};
  Stream stream{Device{}, allocator};
  double worst = 0;
  Tensor out = Tensor::Wrap(&worst, DType::kF64, {1});
  const auto see = [&](std::vector<int64_t> load) {
    const int64_t experts = static_cast<int64_t>(load.size());
    CpuKernels().load_imbalance(stream, Tensor::Wrap(load.data(), DType::kI64, {experts}), out);
    return worst;
  };
  EXPECT_EQ(see({0, 0, 0}), 0);
  EXPECT_EQ(see({4, 2, 6}), 1.5);
  EXPECT_EQ(see({4, 4, 4}), 1.5);
  EXPECT_EQ(see({12, 0, 0}), 3);
}

// A full window, of which the next loss is at the edge or far above it.
OpCase Decision(double losses, double updates) {
  OpCase c("step_decision");
  c.FixedF64("plan", {kPlanScalars}, [](int64_t i) { return i == kPlanRate ? 0.01 : 8.0; });
  c.FixedF64("sums", {kSumScalars}, [=](int64_t i) {
    const double sums[kSumScalars] = {losses, 0.25, 9, 16};
    return sums[i];
  });
  c.FixedF64("past", {kHistoryRing + 4}, [=](int64_t i) {
    const double past[] = {updates, 4, 2, 3, 2.5, 3.5, 2};
    return past[i];
  });
  c.NoteOf("history", DType::kF64, {kHistoryRing + 4});
  c.NoteOf("step", DType::kF64, {kStepScalars});
  c.NoteOf("table_step", DType::kF64, {kStepScalars});
  c.NoteOf("report", DType::kF64, {kReportScalars});
  c.forward = [](OpRun& r) {
    r.kernels.copy(r.stream, r["past"], r["history"]);
    r.kernels.step_decision(r.stream, Options(), r["plan"], r["sums"], r["history"], r["step"],
                            r["table_step"], r["report"]);
  };
  c.bf16 = false;
  return c;
}

TEST(StepDecisionTest, AnswersAll) {
  CheckOp(Decision(20, 5));
  CheckOp(Decision(400, 5));
  CheckOp(Decision(20, 100'000));
}

OpCase Imbalance(std::vector<int64_t> load) {
  OpCase c("load_imbalance");
  const int64_t experts = static_cast<int64_t>(load.size());
  c.Integers("load", DType::kI64, {experts}, std::move(load));
  c.NoteOf("worst", DType::kF64, {1});
  c.forward = [](OpRun& r) {
    r.kernels.fill(r.stream, 1.25, r["worst"]);
    r.kernels.load_imbalance(r.stream, r["load"], r["worst"]);
  };
  c.bf16 = false;
  return c;
}

TEST(LoadImbalanceTest, AnswersAll) {
  CheckOp(Imbalance({3}));
  CheckOp(Imbalance({0, 0, 0}));
  CheckOp(Imbalance({4, 2, 6}));
  std::vector<int64_t> many(300, 7);
  many[299] = 4'000'000'000;
  CheckOp(Imbalance(many));
}

}  // namespace
}  // namespace mneme::test
