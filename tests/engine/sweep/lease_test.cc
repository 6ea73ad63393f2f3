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

// Names that no worker gives are nobody's lease, and what a damaged one says holds nobody for ever.
TEST_F(Leases, WhatIsNoneOfAWorkersHoldsNothing) {
  const std::string cell = folder_.string();
  for (const char* name : {"lease.9223372036854775807", "lease.99999999999999999999", "lease.-4",
                           "lease.", "lease.x", "lease.2.host.1.0.tmp"}) {
    Put(name, "someone beat 1\n");
  }
  EXPECT_EQ(ReadLease(cell).generation, 0);
  LeaseBook first("first", 60.0);
  std::optional<Lease> lease = first.Take(cell).value();
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(lease->generation(), 1);
  EXPECT_TRUE(lease->Beat());
  EXPECT_FALSE(first.Take(cell).value().has_value());
  LeaseBook second("second", 0.1);
  for (const std::string& content : {std::string(), std::string(5000, '\xff')}) {
    Put("lease.1", content);
    EXPECT_FALSE(second.Take(cell).value().has_value()) << "it may be a worker's after all";
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    EXPECT_TRUE(second.IsFree(cell, ReadLease(cell)));
    EXPECT_EQ(ReadLease(cell).owner(), "unknown");
  }
  std::filesystem::remove(Path("lease.1"));
  std::filesystem::create_directory(Path("lease.1"));
  EXPECT_FALSE(second.Take(cell).value().has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(second.Take(cell).value()->generation(), 2);
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
