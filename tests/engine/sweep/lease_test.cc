#include "engine/sweep/lease.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include "engine/sweep/shared_files.h"
#include "tests/data/scratch.h"

namespace mneme {
namespace {

class Leases : public Scratch {};

TEST_F(Leases, ExactlyOneOfManyMakesAFile) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> made{0};
    std::vector<std::thread> threads;
    const std::string path = Path("file." + std::to_string(round));
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back(
          [&, i] { made += CreateExclusively(path, std::to_string(i)).value() ? 1 : 0; });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(made, 1);
  }
  int names = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) names += entry.exists();
  EXPECT_EQ(names, 20) << "drafts were left behind";
  EXPECT_FALSE(CreateExclusively("/no/such/folder/file", "").ok());
}

TEST_F(Leases, AHeldCellIsNotTakenUntilItsHolderIsSilent) {
  const std::string cell = folder_.string();
  LeaseBook first("first", 0.3), second("second", 0.3);
  std::optional<Lease> lease = first.Take(cell).value();
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(lease->generation(), 1);
  EXPECT_EQ(ReadLease(cell).owner(), "first");
  // As long as it beats, nobody else gets it.
  for (int i = 0; i < 8; ++i) {
    EXPECT_FALSE(second.Take(cell).value().has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_TRUE(lease->Beat());
  }
  // Silent: the second look at the same line, long enough after the first, takes it.
  EXPECT_FALSE(second.Take(cell).value().has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(350));
  const std::optional<Lease> taken = second.Take(cell).value();
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->generation(), 2);
  // Whoever comes back learns that it has lost, and its line does not disturb the new holder's.
  EXPECT_FALSE(lease->Beat());
  EXPECT_EQ(ReadLease(cell).owner(), "second");
  EXPECT_FALSE(first.Take(cell).value().has_value());
}

TEST_F(Leases, AReleasedCellIsFreeAtOnce) {
  const std::string cell = folder_.string();
  LeaseBook first("first", 60.0), second("second", 60.0);
  std::optional<Lease> lease = first.Take(cell).value();
  lease->Release();
  EXPECT_TRUE(ReadLease(cell).free());
  EXPECT_TRUE(second.Take(cell).value().has_value());
}

}  // namespace
}  // namespace mneme
