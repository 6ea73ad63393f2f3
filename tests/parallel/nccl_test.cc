// What only GPUs do with collectives: recordings, bf16, large uneven parts, the same bits twice.
// Run by the ranks of mpirun, each on a GPU of its own; over the hosts' memory the same holds but
// for recordings.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/core/graph.h"
#include "parallel/nccl_comm.h"
#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

std::vector<float> Waves(int rank, int64_t n) {
  std::vector<float> x;
  for (int64_t i = 0; i < n; ++i) {
    x.push_back(std::sin(static_cast<float>(rank * 17 + 1) * static_cast<float>(i + 1)));
  }
  return x;
}

// Counts that neither divide evenly nor stand on 16 bytes; the last member has none where there are
// several.
std::vector<int64_t> Uneven(int members, int64_t about) {
  std::vector<int64_t> counts;
  for (int r = 0; r < members; ++r) {
    counts.push_back(members > 1 && r == members - 1 ? 0 : about + 1 + 7 * r);
  }
  return counts;
}

// Ranks on GPUs of their own must meet over NCCL, or this suite proves nothing of it.
TEST(Nccl, JoinsGpusOfTheirOwn) {
  OnWorlds([](World& world) {
    const bool apart = !RankDevice().is_cpu() && !world.SharesGpus(RankDevice());
    if (!apart || world.size() == 1) GTEST_SKIP() << "no rank has a GPU of its own";
    ASSERT_TRUE(HasNccl());
    EXPECT_TRUE(world.MakeComm(RankDevice())->queues());
  });
}

TEST(Nccl, FloatSumsHaveTheSameBitsTwiceAndOnEachMember) {
  OnGroups([](Comm& comm) {
    TestStream t;
    for (int64_t n : {int64_t{5}, int64_t{3001}, int64_t{1} << 20}) {
      std::vector<std::vector<float>> got;
      for (int turn = 0; turn < 2; ++turn) {
        got.push_back(Waves(comm.rank(), n));
        Placed<float> there(t, got.back());
        comm.AllReduce(t.stream, there.tensor, Reduce::kSum);
        there.Back();
      }
      EXPECT_EQ(got[0], got[1]) << n;
      std::vector<float> first = got[0];
      Placed<float> there(t, first);
      comm.Broadcast(t.stream, there.tensor, 0);
      there.Back();
      EXPECT_EQ(first, got[0]) << n;
    }
  });
}

TEST(Nccl, ReducesAndGathersLargeUnevenParts) {
  OnGroups([](Comm& comm) {
    TestStream t;
    const std::vector<int64_t> counts = Uneven(comm.size(), 3 << 20);
    const int64_t n = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    const auto me = counts.begin() + comm.rank();
    const int64_t begin = std::accumulate(counts.begin(), me, int64_t{0});
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      x[static_cast<size_t>(i)] = static_cast<float>(i % 1000 + comm.rank());
    }
    Placed<float> there(t, x);
    Tensor mine = there.tensor.Flat(begin, begin + *me);
    comm.ReduceScatter(t.stream, there.tensor, counts, mine);
    comm.AllGather(t.stream, mine, counts, there.tensor);
    there.Back();
    const int64_t members = comm.size();
    for (int64_t i = 0; i < n; ++i) {
      const auto want = static_cast<float>(i % 1000 * members + members * (members - 1) / 2);
      ASSERT_EQ(x[static_cast<size_t>(i)], want) << i;
    }
  });
}

// bf16 is moved as it is.
TEST(Nccl, MovesBf16) {
  OnGroups([](Comm& comm) {
    TestStream t;
    const auto draw = [](int from, int to, int64_t i) {
      return BFloat16(static_cast<float>(from * 64 + to * 8 + i % 8));
    };
    const int64_t width = 5;
    const int64_t rows = 3;
    std::vector<BFloat16> in, want;
    for (int r = 0; r < comm.size(); ++r) {
      for (int64_t i = 0; i < rows * width; ++i) {
        in.push_back(draw(comm.rank(), r, i));
        want.push_back(draw(r, comm.rank(), i));
      }
    }
    std::vector<BFloat16> out(want.size());
    const Shape shape{rows * comm.size(), width};
    Placed<BFloat16> in_there(t, in, shape);
    Placed<BFloat16> out_there(t, out, shape);
    const std::vector<int64_t> counts(static_cast<size_t>(comm.size()), rows);
    comm.AllToAll(t.stream, in_there.tensor, counts, out_there.tensor, counts);
    out_there.Back();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(out[i].bits, want[i].bits) << i;
  });
}

// A step's collectives, recorded by all at once and replayed, give the bits of those queued one by
// one. Twice run before they are recorded, as a step is.
TEST(Nccl, RecordedCallsAreReplayed) {
  OnGroups([](Comm& comm) {
    if (!comm.queues()) return;
    TestStream t;
    const std::vector<int64_t> counts = Uneven(comm.size(), 5000);
    const int64_t n = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    const auto me = counts.begin() + comm.rank();
    const int64_t begin = std::accumulate(counts.begin(), me, int64_t{0});
    std::vector<std::vector<float>> results;
    for (const bool recorded : {false, true}) {
      std::vector<float> x = Waves(comm.rank(), n);
      std::vector<int64_t> load(13, comm.rank() + 1);
      Placed<float> there(t, x);
      Placed<int64_t> load_there(t, load);
      Tensor mine = there.tensor.Flat(begin, begin + *me);
      const auto step = [&] {
        comm.ReduceScatter(t.stream, there.tensor, counts, mine);
        comm.AllReduce(t.stream, load_there.tensor, Reduce::kSum);
        comm.AllGather(t.stream, mine, counts, there.tensor);
      };
      step();
      step();
      Graph graph;
      if (recorded) graph = Graph::Record(t.stream, step);
      for (int turn = 0; turn < 3; ++turn) recorded ? graph.Replay() : step();
      there.Back();
      load_there.Back();
      results.push_back(x);
      EXPECT_EQ(load[3], static_cast<int64_t>(comm.size() * (comm.size() + 1) / 2 *
                                              std::pow(comm.size(), 4)));
    }
    EXPECT_EQ(results[0], results[1]);
  });
}

}  // namespace
}  // namespace mneme
