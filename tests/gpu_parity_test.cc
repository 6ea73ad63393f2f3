// Ranks on GPUs: the same run as on one, whatever the layout. Run under mpirun; rank 0 then makes
// the same run alone, on its GPU and on the CPU. Where two ranks share a GPU they meet in the
// host's memory, else over NCCL.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>

#include "engine/machine/device.h"
#include "kernels/core/driver.h"
#include "kernels/kernels.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

constexpr int kSkippedExitCode = 77;  // known to tests/CMakeLists.txt

World* mpi_world = nullptr;

class GpuParity : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = mpi_world->Broadcast(temp_.path());
    if (mpi_world->rank() == 0) TinyRun(folder_, {});  // makes the corpora
    mpi_world->Barrier();
  }
  // Nobody's folder goes before all are done with it.
  void TearDown() override { mpi_world->Barrier(); }

  // As in gpu_run_test.cc: small enough a rate that rounding chooses no other experts.
  RunConfig Config(const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> all = {"run.dir=" + folder_ + "/" + name,
                                    "device=gpu",
                                    "parallel.share_device=true",
                                    "train.precision=f32",
                                    "train.sequence_length=64",
                                    "train.batch_sequences=" + std::to_string(12 * Ranks()),
                                    "train.micro_batch=4",
                                    "train.keep_last=0",
                                    "optim.lr=3e-4",
                                    "model.hidden=32",
                                    "model.moe.expert_width=16",
                                    "model.engram.table.store=resident"};
    all.insert(all.end(), more.begin(), more.end());
    return TinyRun(folder_, all);
  }
  static int Ranks() { return mpi_world->size(); }
  static std::string Axis(int size) { return "parallel.expert=" + std::to_string(size); }
  static std::string MemoryAxis(int size) { return "parallel.memory=" + std::to_string(size); }

  // Losses as rank 0 saw them; nothing elsewhere.
  std::vector<double> Together(const std::string& name, const std::vector<std::string>& more,
                               int64_t stop_at_step = -1) {
    const Outcome outcome = TrainOn(*mpi_world, Config(name, more), stop_at_step);
    EXPECT_EQ(outcome.exit_code, stop_at_step < 0 ? 0 : 75) << name << ": " << outcome.message;
    return Losses(outcome);
  }
  // By rank 0 alone, while the others wait.
  std::vector<double> Alone(const std::string& name, const std::vector<std::string>& more) {
    std::vector<double> losses;
    if (mpi_world->rank() == 0) {
      const Outcome outcome = TrainThreads(1, Config(name, more));
      EXPECT_EQ(outcome.exit_code, 0) << name << ": " << outcome.message;
      losses = Losses(outcome);
    }
    mpi_world->Barrier();
    return losses;
  }
  std::vector<std::pair<std::string, std::string>> State(const std::string& name) {
    if (mpi_world->rank() != 0) return {};
    return CheckpointState(folder_ + "/" + name + "/checkpoints/step-20");
  }

  TempFolder temp_;  // rank 0's is the one that counts
  std::string folder_;
};

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                const std::string& what) {
  if (mpi_world->rank() != 0) return;
  ASSERT_EQ(got.size(), want.size()) << what;
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(got[i] / want[i] - 1));
  EXPECT_LT(worst, tolerance) << what;
  std::printf("%s: largest relative difference of %zu losses %.2e\n", what.c_str(), want.size(),
              worst);
}

// 1, 2, … ranks of one expert axis, the rest data parallel; tables on every rank.
TEST_F(GpuParity, EveryLayoutIsTheSameRunInFloat) {
  for (const char* matrices : {"optim.matrices=muon", "optim.matrices=adamw"}) {
    const std::string kind = std::string(matrices).substr(15);
    const std::vector<double> one = Alone(kind + "_1", {matrices});
    for (int axis = 1; axis <= Ranks(); ++axis) {
      if (Ranks() % axis != 0) continue;
      const std::string name = kind + "_" + std::to_string(axis);
      ExpectNear(
          Together("n" + name, {matrices, Axis(axis)}), one, 1e-4,
          std::to_string(Ranks()) + " ranks, expert axis " + std::to_string(axis) + ", " + kind);
    }
  }
}

// Tables spread over 1, 2, … ranks, with replicas and without; dense Adam and touched rows only.
TEST_F(GpuParity, SpreadTablesAreTheSameRunInFloat) {
  for (const char* adam : {"dense", "touched"}) {
    const std::string key = std::string("model.engram.table.adam=") + adam;
    const std::string kind = std::string("table_") + adam;
    const std::vector<double> one = Alone(kind + "_1", {key});
    for (int axis = 1; axis <= Ranks(); ++axis) {
      if (Ranks() % axis != 0) continue;
      ExpectNear(
          Together(kind + "_n" + std::to_string(axis), {key, MemoryAxis(axis)}), one, 1e-4,
          std::to_string(Ranks()) + " ranks, memory axis " + std::to_string(axis) + ", " + adam);
    }
  }
}

// How many rows go where is the host's to know, and differs from step to step; what it takes does
// not reach the driver after the second.
TEST_F(GpuParity, SpreadTablesAskTheDriverForNothing) {
  for (const std::string transport : {"peer", "nccl"}) {
    const Outcome outcome = TrainOn(
        *mpi_world, Config("asks_" + transport,
                           {"train.precision=bf16", MemoryAxis(Ranks()), "train.steps=30",
                            "model.engram.vocab_size=3000", "parallel.transport=" + transport}));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.message;
    if (mpi_world->rank() != 0) continue;
    const std::vector<double> asked = Told(outcome, "gpu/driver_allocations");
    EXPECT_EQ(asked.size(), 30u) << transport;
    if (asked.size() < 2) continue;  // the others go on too
    EXPECT_EQ(asked.back(), asked[1]) << transport;
    for (const double bytes : Told(outcome, "exchange/bounced_bytes")) EXPECT_EQ(bytes, 0);
  }
}

// No rank has exactly an equal share: the fuller ones compute theirs in pieces, and once more.
TEST_F(GpuParity, ExpertsInPiecesAreTheSameRunInFloat) {
  const std::vector<double> one = Alone("pieces_1", {});
  for (const std::string transport : {"peer", "nccl"}) {
    ExpectNear(Together("pieces_" + transport, {Axis(Ranks()), "parallel.expert_room=1",
                                                "parallel.transport=" + transport}),
               one, 1e-4, std::to_string(Ranks()) + " ranks, experts in pieces, " + transport);
  }
}

TEST_F(GpuParity, Bf16FollowsOneRankOfBf16) {
  const std::vector<std::string> bf16 = {"train.precision=bf16", "train.steps=100"};
  const std::vector<double> one = Alone("bf16_1", bf16);
  for (const int axis : {1, Ranks()}) {
    std::vector<std::string> keys = bf16;
    keys.insert(keys.end(), {Axis(axis), MemoryAxis(axis)});
    const std::vector<double> many = Together("bf16_n" + std::to_string(axis), keys);
    if (mpi_world->rank() != 0) continue;
    EXPECT_EQ(many.size(), size_t{100});
    EXPECT_EQ(one.size(), size_t{100});
    if (many.size() != one.size() || one.size() < 20) continue;  // the others go on too
    double sums[2] = {};
    for (size_t i = one.size() - 20; i < one.size(); ++i) {
      sums[0] += one[i];
      sums[1] += many[i];
    }
    EXPECT_NEAR(sums[1] / sums[0], 1, 0.003) << "expert axis " << axis;
  }
}

// The same bits from run to run of a layout, recorded steps or not; experts and tables spread over
// all ranks or over none.
TEST_F(GpuParity, TwoRunsOfOneLayoutHaveTheSameBits) {
  for (const int axis : {1, Ranks()}) {
    for (const char* precision : {"f32", "bf16"}) {
      const std::string name = std::string(precision) + std::to_string(axis);
      const std::string key = std::string("train.precision=") + precision;
      const std::vector<std::string> keys = {key, Axis(axis), MemoryAxis(axis)};
      std::vector<std::string> plain = keys;
      plain.push_back("train.cuda_graph=false");
      const auto first = Together("first_" + name, keys);
      EXPECT_EQ(Together("second_" + name, keys), first) << name;
      EXPECT_EQ(Together("plain_" + name, plain), first) << name;
      EXPECT_EQ(State("first_" + name), State("second_" + name)) << name;
      EXPECT_EQ(State("first_" + name), State("plain_" + name)) << name;
    }
  }
}

// Exchanges beside the computing, or each in its turn: the same bits, recorded steps or not.
TEST_F(GpuParity, OverlapChangesNoBit) {
  for (const int axis : {1, Ranks() % 2 == 0 ? 2 : 1, Ranks()}) {
    for (const char* recorded : {"true", "false"}) {
      const std::string name = std::to_string(axis) + recorded;
      const std::vector<std::string> keys = {"train.precision=bf16", Axis(axis), MemoryAxis(axis),
                                             std::string("train.cuda_graph=") + recorded};
      std::vector<std::string> in_turn = keys;
      in_turn.push_back("parallel.overlap=false");
      const auto beside = Together("beside_" + name, keys);
      EXPECT_EQ(Together("in_turn_" + name, in_turn), beside) << name;
      EXPECT_EQ(State("in_turn_" + name), State("beside_" + name)) << name;
      if (axis == 1) continue;
      in_turn.push_back("parallel.transport=nccl");
      EXPECT_EQ(Together("nccl_in_turn_" + name, in_turn), beside) << name;
    }
  }
}

// Parts that are computed again on the way back, experts and tables spread over all: the same bits.
TEST_F(GpuParity, PartsMadeAgainChangeNoBit) {
  const std::vector<std::string> keys = {"train.precision=bf16", Axis(Ranks()),
                                         MemoryAxis(Ranks())};
  const auto with = [&](const std::string& parts) {
    std::vector<std::string> all = keys;
    all.push_back("train.recompute=[" + parts + "]");
    return all;
  };
  const auto want = Together("again_none", with(""));
  for (const std::string part : {"attention", "ffn", "mhc", "exchange", "engram", "all"}) {
    EXPECT_EQ(Together("again_" + part, with(part)), want) << part;
    EXPECT_EQ(State("again_" + part), State("again_none")) << part;
  }
}

// In bf16 a value stands with its owner alone, and every rank has it rounded: all the bits of a
// checkpoint come in and go out on any layout.
TEST_F(GpuParity, MastersPassThroughCheckpoints) {
  const auto path = [&](const std::string& name) { return folder_ + "/" + name + "/step-20"; };
  Together("masters", {"train.precision=bf16"});
  const auto want = State("masters");
  std::string from = folder_ + "/masters/checkpoints/step-20";
  const Device mine = ChooseDevice(*mpi_world, Config("masters", {})).value();
  for (int axis = 1; axis <= Ranks(); ++axis) {
    if (Ranks() % axis != 0) continue;
    const std::string name = "masters_" + std::to_string(axis);
    if (mpi_world->rank() == 0) std::filesystem::create_directories(folder_ + "/" + name);
    mpi_world->Barrier();
    const RunConfig config =
        Config("masters", {"train.precision=bf16", Axis(axis), MemoryAxis(axis)});
    const auto reads =
        LoadAndSave(*mpi_world, *GpuKernels(), mine, config, from, folder_ + "/" + name);
    if (mpi_world->rank() == 0) ExpectRoundedFrom(want, reads);
    from = path(name);
    if (mpi_world->rank() == 0) {
      EXPECT_EQ(CheckpointState(from), want) << name;
    }
  }
  if (mpi_world->rank() == 0) {  // and one rank alone
    const std::string to = folder_ + "/masters_alone";
    std::filesystem::create_directories(to);
    ThreadWorld::Run(1, [&](World& world) {
      const RunConfig config = Config("masters", {"train.precision=bf16"});
      ExpectRoundedFrom(want, LoadAndSave(world, *GpuKernels(), mine, config, from, to));
    });
    EXPECT_EQ(CheckpointState(to + "/step-20"), want);
  }
  mpi_world->Barrier();
}

// Tokens and rows written straight into the memory of other GPUs, or carried by NCCL; sent again on
// the way back or kept.
TEST_F(GpuParity, TransportChangesNoBit) {
  std::string why;
  if (Ranks() == 1 || GpuDriver()->count(&why) < Ranks())
    GTEST_SKIP() << "no rank has a GPU of its own";
  for (const int axis : std::set<int>{Ranks() % 2 == 0 ? 2 : Ranks(), Ranks()}) {
    for (const char* recompute : {"auto", "all"}) {
      const std::string name = std::to_string(axis) + recompute;
      const std::vector<std::string> keys = {"train.precision=bf16", Axis(axis), MemoryAxis(axis),
                                             std::string("train.recompute=[") + recompute + "]"};
      std::vector<std::string> over_nccl = keys;
      over_nccl.push_back("parallel.transport=nccl");
      const auto carried = Together("carried_" + name, over_nccl);
      EXPECT_EQ(Together("straight_" + name, keys), carried) << name;
      EXPECT_EQ(State("straight_" + name), State("carried_" + name)) << name;
    }
  }
}

// n GPUs, then one GPU or one CPU, and the other way round.
TEST_F(GpuParity, CheckpointsPassBetweenLayoutsAndDevices) {
  const std::vector<double> whole = Alone("whole", {"device=cpu"});
  for (const char* then : {"device=cpu", "device=gpu"}) {
    const std::string name = "passed_to_" + std::string(then).substr(7);
    std::vector<double> losses = Together(name, {Axis(Ranks()), MemoryAxis(Ranks())}, 10);
    const std::vector<double> rest = Alone(name, {then});
    losses.insert(losses.end(), rest.begin(), rest.end());
    ExpectNear(losses, whole, 1e-4, name);
  }
  const std::string name = "passed_to_all";
  std::vector<double> losses;
  if (mpi_world->rank() == 0) losses = Losses(TrainThreads(1, Config(name, {"device=cpu"}), 10));
  mpi_world->Barrier();
  const std::vector<double> rest = Together(name, {MemoryAxis(Ranks())});
  losses.insert(losses.end(), rest.begin(), rest.end());
  ExpectNear(losses, whole, 1e-4, name);
}

// What is not there yet is refused by name, on every rank.
TEST_F(GpuParity, LazyTablesAreRefused) {
  const Outcome outcome = TrainOn(*mpi_world, Config("lazy", {"model.engram.table.store=lazy"}));
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_NE(outcome.message.find("model.engram.table.store: lazy has no GPU half"),
            std::string::npos)
      << outcome.message;
}

}  // namespace
}  // namespace mneme

// Every rank must come to the same verdict, or the job fails as a whole.
int main(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<mneme::World>> world = mneme::MpiWorld::Start(&argc, &argv);
  if (!world.ok()) {
    std::fprintf(stderr, "%s\n", std::string(world.status().message()).c_str());
    return 2;
  }
  mneme::mpi_world = world->get();
  std::string why = "this program was built without a GPU";
  if (mneme::GpuDriver() == nullptr || mneme::GpuDriver()->count(&why) == 0) {
    std::fprintf(stderr, "skipped: no GPU (%s)\n", why.c_str());
    return mneme::kSkippedExitCode;
  }
  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if ((*world)->rank() != 0) delete listeners.Release(listeners.default_result_printer());
  const int failed = RUN_ALL_TESTS();
  return (*world)->Max(failed) == 0 ? 0 : 1;
}
