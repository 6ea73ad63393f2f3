// Collectives through copies on the host give the bits of those on the tensors themselves.
#include "parallel/staged_comm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

constexpr int kRanks = 3;

// Every collective once; what came of each, one after the other.
std::vector<float> RunAll(Comm& comm) {
  TestStream t;
  std::vector<float> result;
  const auto keep = [&](const std::vector<float>& x) {
    result.insert(result.end(), x.begin(), x.end());
  };
  std::vector<float> x;
  for (int i = 0; i < 12; ++i) x.push_back(std::sin(static_cast<float>(comm.rank() * 31 + i)));
  const std::vector<int64_t> counts = {5, 0, 7};
  const std::vector<int64_t> rows = {2, 2, 2};

  std::vector<float> sum = x;
  Placed<float> all(t, sum);
  comm.AllReduce(t.stream, all.tensor, Reduce::kSum);
  keep(sum);
  std::vector<float> part(static_cast<size_t>(counts[static_cast<size_t>(comm.rank())]));
  Placed<float> mine(t, part);
  comm.ReduceScatter(t.stream, Placed<float>(t, x).tensor, counts, mine.tensor);
  keep(part);
  std::vector<float> gathered(12);
  Placed<float> whole(t, gathered);
  comm.AllGather(t.stream, mine.tensor, counts, whole.tensor);
  keep(gathered);
  std::vector<float> dealt(12);
  Placed<float> out(t, dealt, {6, 2});
  comm.AllToAll(t.stream, Placed<float>(t, x, {6, 2}).tensor, rows, out.tensor, rows);
  keep(dealt);
  comm.Broadcast(t.stream, out.tensor, 2);
  keep(dealt);
  const std::unique_ptr<Comm> pair =
      comm.Split(comm.rank() == 0 ? 0 : 1, comm.rank(), Axis::kOther);
  Placed<float> again(t, x);
  pair->AllReduce(t.stream, again.tensor, Reduce::kMax);
  keep(x);
  return result;
}

TEST(StagedComm, GivesWhatTheHostsCollectivesGive) {
  std::vector<std::vector<float>> results[2];
  for (const bool staged : {false, true}) {
    auto transports = MakeThreadTransports(kRanks);
    results[staged].resize(kRanks);
    std::vector<std::thread> threads;
    for (size_t r = 0; r < kRanks; ++r) {
      threads.emplace_back([&, r] {
        const auto comm =
            staged ? MakeStagedComm(std::move(transports[r])) : MakeComm(std::move(transports[r]));
        EXPECT_FALSE(comm->queues());
        results[staged][r] = RunAll(*comm);
        EXPECT_GT(comm->bytes_sent(), 0);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace mneme
