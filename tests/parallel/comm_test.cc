// The collectives against sums made by hand. Inputs are small integers, so that sums are exact and
// every comparison is bitwise; one test checks the order of float sums.
#include "parallel/comm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "tests/parallel/ranks.h"

namespace mneme {
namespace {

// A small integer, different for every rank and element, with both signs.
int64_t Draw(int rank, int64_t i) { return (rank * 131 + i * 37 + i / 97) % 101 - 50; }

template <class T>
std::vector<T> DrawMany(int rank, int64_t n) {
  std::vector<T> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<T>(Draw(rank, i)));
  return out;
}

// Parts of very different size, some empty; the largest is `longest`.
std::vector<int64_t> UnevenCounts(int members, int64_t longest) {
  std::vector<int64_t> counts;
  for (int r = 0; r < members; ++r) counts.push_back(r % 3 == 1 ? 0 : longest / (r / 3 + 1) - r);
  return counts;
}

template <class T>
class CommTest : public testing::Test {};
using Types = testing::Types<float, double, int32_t, int64_t>;
TYPED_TEST_SUITE(CommTest, Types);

TYPED_TEST(CommTest, AllReduceGivesSumsAndMaximaOnEachMember) {
  using T = TypeParam;
  OnGroups([](Comm& comm) {
    TestStream t;
    for (int64_t n :
         {0, 1, 3, 1000, 4999, 70001}) {  // small and large ways, and less elements than members
      std::vector<T> sum = DrawMany<T>(comm.rank(), n);
      std::vector<T> max = sum;
      Placed<T> sum_there(t, sum);
      Placed<T> max_there(t, max);
      comm.AllReduce(t.stream, sum_there.tensor, Reduce::kSum);
      const bool maxima = !comm.queues() || std::is_integral_v<T>;
      if (maxima) comm.AllReduce(t.stream, max_there.tensor, Reduce::kMax);
      sum_there.Back();
      max_there.Back();
      for (int64_t i = 0; i < n; ++i) {
        int64_t want_sum = 0;
        int64_t want_max = -1000;
        for (int r = 0; r < comm.size(); ++r) {
          want_sum += Draw(r, i);
          want_max = std::max(want_max, Draw(r, i));
        }
        ASSERT_EQ(sum[static_cast<size_t>(i)], static_cast<T>(want_sum)) << n << " " << i;
        if (!maxima) continue;
        ASSERT_EQ(max[static_cast<size_t>(i)], static_cast<T>(want_max)) << n << " " << i;
      }
    }
  });
}

// In place and into memory of its own; several rounds of staging; uneven and empty parts.
TYPED_TEST(CommTest, ReduceScatterSumsUnevenParts) {
  using T = TypeParam;
  OnGroups([](Comm& comm) {
    TestStream t;
    for (int64_t longest : {int64_t{40}, int64_t{1} << 18}) {
      if (longest > 40 && comm.size() > 3) continue;
      const std::vector<int64_t> counts = UnevenCounts(comm.size(), longest + 17);
      int64_t n = 0;
      int64_t begin = 0;
      for (int r = 0; r < comm.size(); ++r) {
        if (r < comm.rank()) begin += counts[static_cast<size_t>(r)];
        n += counts[static_cast<size_t>(r)];
      }
      const int64_t mine = counts[static_cast<size_t>(comm.rank())];
      std::vector<T> in = DrawMany<T>(comm.rank(), n);
      const std::vector<T> before = in;
      std::vector<T> out(static_cast<size_t>(mine) + 1, T{77});
      Placed<T> in_there(t, in);
      Placed<T> out_there(t, out, {mine});
      comm.ReduceScatter(t.stream, in_there.tensor, counts, out_there.tensor);
      in_there.Back();
      out_there.Back();
      ASSERT_EQ(in, before);
      for (int64_t i = 0; i < mine; ++i) {
        int64_t want = 0;
        for (int r = 0; r < comm.size(); ++r) want += Draw(r, begin + i);
        ASSERT_EQ(out[static_cast<size_t>(i)], static_cast<T>(want)) << i;
      }
      EXPECT_EQ(out.back(), T{77});
      Tensor own = in_there.tensor.Flat(begin, begin + mine);
      comm.ReduceScatter(t.stream, in_there.tensor, counts, own);
      in_there.Back();
      out.pop_back();
      EXPECT_TRUE(std::equal(out.begin(), out.end(), in.begin() + begin));
    }
  });
}

TYPED_TEST(CommTest, AllGatherConcatenatesUnevenParts) {
  using T = TypeParam;
  OnGroups([](Comm& comm) {
    TestStream t;
    const std::vector<int64_t> counts = UnevenCounts(comm.size(), 50);
    std::vector<T> want;
    int64_t begin = 0;
    for (int r = 0; r < comm.size(); ++r) {
      if (r == comm.rank()) begin = static_cast<int64_t>(want.size());
      for (T x : DrawMany<T>(r, counts[static_cast<size_t>(r)])) want.push_back(x);
    }
    std::vector<T> mine = DrawMany<T>(comm.rank(), counts[static_cast<size_t>(comm.rank())]);
    std::vector<T> out(want.size(), T{77});
    Placed<T> mine_there(t, mine);
    Placed<T> out_there(t, out);
    comm.AllGather(t.stream, mine_there.tensor, counts, out_there.tensor);
    out_there.Back();
    EXPECT_EQ(out, want);
    // In place: the part is already where it belongs.
    std::vector<T> again(want.size(), T{77});
    std::copy(mine.begin(), mine.end(), again.begin() + begin);
    Placed<T> again_there(t, again);
    const Tensor part = again_there.tensor.Flat(begin, begin + static_cast<int64_t>(mine.size()));
    comm.AllGather(t.stream, part, counts, again_there.tensor);
    again_there.Back();
    EXPECT_EQ(again, want);
  });
}

TYPED_TEST(CommTest, AllToAllSendsRowsOfAnyCount) {
  using T = TypeParam;
  constexpr int64_t kWidth = 3;
  OnGroups([](Comm& comm) {
    TestStream t;
    const auto rows_from_to = [](int from, int to) { return int64_t{(from * 5 + to * 3) % 4}; };
    std::vector<int64_t> send, want_recv;
    std::vector<T> in, want;
    for (int r = 0; r < comm.size(); ++r) {
      send.push_back(rows_from_to(comm.rank(), r));
      want_recv.push_back(rows_from_to(r, comm.rank()));
      for (int64_t i = 0; i < send.back() * kWidth; ++i) {
        in.push_back(static_cast<T>(comm.rank() * 1000 + r * 100 + i));
      }
      for (int64_t i = 0; i < want_recv.back() * kWidth; ++i) {
        want.push_back(static_cast<T>(r * 1000 + comm.rank() * 100 + i));
      }
    }
    const std::vector<int64_t> recv = comm.ExchangeCounts(send);
    EXPECT_EQ(recv, want_recv);
    std::vector<T> out(want.size(), T{77});
    const auto rows = [](const std::vector<T>& x) {
      return static_cast<int64_t>(x.size()) / kWidth;
    };
    Placed<T> in_there(t, in, {rows(in), kWidth});
    Placed<T> out_there(t, out, {rows(out), kWidth});
    comm.AllToAll(t.stream, in_there.tensor, send, out_there.tensor, recv);
    out_there.Back();
    EXPECT_EQ(out, want);
  });
}

TYPED_TEST(CommTest, BroadcastFromEveryRoot) {
  using T = TypeParam;
  OnGroups([](Comm& comm) {
    TestStream t;
    for (int root = 0; root < comm.size(); ++root) {
      std::vector<T> x = DrawMany<T>(comm.rank(), 301);
      Placed<T> there(t, x);
      comm.Broadcast(t.stream, there.tensor, root);
      there.Back();
      EXPECT_EQ(x, DrawMany<T>(root, 301));
    }
  });
}

// Numbers whose sum depends on the order: both ways must give ((x0 + x1) + x2) + ….
TEST(Comm, FloatSumsAreMadeInRankOrder) {
  OnGroups([](Comm& comm) {
    if (comm.queues()) return;  // NCCL has an order of its own
    TestStream t;
    const auto draw = [](int rank, int64_t i) {
      return std::ldexp(1.0f + static_cast<float>(Draw(rank, i)) / 128,
                        (rank * 7 + static_cast<int>(i)) % 23);
    };
    for (int64_t n : {int64_t{100}, int64_t{50000}}) {
      std::vector<float> x;
      for (int64_t i = 0; i < n; ++i) x.push_back(draw(comm.rank(), i));
      Placed<float> there(t, x);
      comm.AllReduce(t.stream, there.tensor, Reduce::kSum);
      there.Back();
      for (int64_t i = 0; i < n; ++i) {
        float want = draw(0, i);
        for (int r = 1; r < comm.size(); ++r) want += draw(r, i);
        ASSERT_EQ(x[static_cast<size_t>(i)], want) << n << " " << i;
      }
    }
  });
}

TEST(Comm, MaximumKeepsANan) {
  OnGroups([](Comm& comm) {
    TestStream t;
    if (comm.queues()) return;  // over NCCL only integers have one
    for (int culprit = 0; culprit < comm.size(); ++culprit) {
      std::vector<double> x = {comm.rank() == culprit ? std::numeric_limits<double>::quiet_NaN()
                                                      : comm.rank()};
      Placed<double> there(t, x);
      comm.AllReduce(t.stream, there.tensor, Reduce::kMax);
      there.Back();
      EXPECT_TRUE(std::isnan(x[0]));
    }
  });
}

TEST(Comm, SplitOrdersByKeyThenRank) {
  OnGroups([](Comm& comm) {
    // Two colours, falling keys: the ranks of a colour come in reverse.
    std::unique_ptr<Comm> part = comm.Split(comm.rank() % 2, -comm.rank(), Axis::kOther);
    const int members = (comm.size() + (comm.rank() % 2 == 0 ? 1 : 0)) / 2;
    EXPECT_EQ(part->size(), members);
    EXPECT_EQ(part->rank(), members - 1 - comm.rank() / 2);
    std::unique_ptr<Comm> again = part->Split(0, 0, Axis::kOther);
    EXPECT_EQ(again->rank(), part->rank());
  });
}

TEST(Comm, CountsThePayloadSentToOthers) {
  OnGroups([](Comm& comm) {
    TestStream t;
    const int64_t others = comm.size() - 1;
    std::vector<float> x(100, 1.0f);
    Placed<float> there(t, x);
    std::unique_ptr<Comm> fresh = comm.Split(0, comm.rank(), Axis::kOther);
    EXPECT_EQ(fresh->bytes_sent(), 0);
    fresh->AllReduce(t.stream, there.tensor, Reduce::kSum);
    // Few bytes: all to all; NCCL's are counted as a reduce-scatter and an all-gather.
    EXPECT_EQ(fresh->bytes_sent(), fresh->queues() ? 800 * others / comm.size() : 400 * others);
  });
}

}  // namespace
}  // namespace mneme
