#include "parallel/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace mneme {
namespace {

class HostMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/host_memory";
    std::filesystem::remove_all(root_);
    Put("/proc/meminfo", "MemTotal:  2000 kB\nMemFree: 100 kB\nMemAvailable:   1000 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Put(const std::string& path, const std::string& text) {
    const std::filesystem::path whole(root_ + path);
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }
  std::string root_;
};

TEST_F(HostMemoryTest, TakesTheKernelsWordWhereThereAreNoGroups) {
  const HostMemory memory = ReadHostMemory(root_);
  EXPECT_EQ(memory.available, 1000 * 1024);
  EXPECT_EQ(memory.source, "/proc/meminfo");
}

TEST_F(HostMemoryTest, TheTightestGroupCounts) {
  Put("/proc/self/cgroup", "0::/job/step\n");
  Put("/sys/fs/cgroup/job/step/memory.max", "max\n");
  Put("/sys/fs/cgroup/job/step/memory.current", "70000\n");
  Put("/sys/fs/cgroup/job/memory.max", "100000\n");
  Put("/sys/fs/cgroup/job/memory.current", "70000\n");
  Put("/sys/fs/cgroup/job/memory.stat", "anon 50000\ninactive_file 20000\nfile 20000\n");
  const HostMemory memory = ReadHostMemory(root_);
  EXPECT_EQ(memory.available, 50000);  // cached files are given back on demand
  EXPECT_EQ(memory.source, root_ + "/sys/fs/cgroup/job/memory.max");
}

TEST_F(HostMemoryTest, ReadsTheOldHierarchyToo) {
  Put("/proc/self/cgroup", "9:cpu:/\n8:memory:/slice\n");
  Put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
  Put("/sys/fs/cgroup/memory/slice/memory.limit_in_bytes", "60000\n");
  Put("/sys/fs/cgroup/memory/slice/memory.usage_in_bytes", "90000\n");
  EXPECT_EQ(ReadHostMemory(root_).available, 0);
}

TEST(HostMemory, ThisMachineHasSome) { EXPECT_GT(ReadHostMemory().available, 1 << 20); }

}  // namespace
}  // namespace mneme
