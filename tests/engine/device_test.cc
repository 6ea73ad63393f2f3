#include "engine/machine/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/driver.h"
#include "parallel/nccl_comm.h"

namespace mneme {
namespace {

using testing::HasSubstr;

std::string Refusal(const std::vector<std::string>& places, bool share = false) {
  RunConfig config;
  config.parallel.share_device = share;
  return std::string(CheckPlaces(config, places).message());
}

GpuInfo Gpu(const char* name, int major, int minor) {
  GpuInfo info;
  info.name = name;
  info.major = major;
  info.minor = minor;
  return info;
}

TEST(Device, ARankTakesTheGpuOfItsNumberOrTheOnlyOne) {
  EXPECT_EQ(GpuOfRank(0, 4).value(), 0);
  EXPECT_EQ(GpuOfRank(3, 4).value(), 3);
  EXPECT_EQ(GpuOfRank(3, 1).value(), 0);  // the launcher shows each rank its own
  const auto beyond = GpuOfRank(2, 2);
  ASSERT_FALSE(beyond.ok());
  EXPECT_THAT(beyond.status().message(), HasSubstr("rank 2 of this host has no GPU: it has 2"));
}

TEST(Device, TwoRanksOnOneGpuAreRefusedByName) {
  EXPECT_THAT(Refusal({"a 0000:3b:00.0", "b 0000:3b:00.0", "a 0000:3b:00.0"}),
              HasSubstr("ranks 0 and 2 would share GPU a 0000:3b:00.0"));
  EXPECT_EQ(Refusal({"a 0000:3b:00.0", "a 0000:3b:00.0"}, /*share=*/true), "");
  EXPECT_EQ(Refusal({"a 0000:3b:00.0"}), "");
}

TEST(Device, RanksThatDifferAreRefused) {
  EXPECT_THAT(Refusal({"", "a 1"}), HasSubstr("rank 0 has no GPU and rank 1 has one"));
  EXPECT_THAT(Refusal({"a 1", "a 2", ""}, true),
              HasSubstr("rank 0 has GPU a 1 and rank 2 has none"));
  EXPECT_EQ(Refusal({"", "", ""}), "");
}

TEST(Device, SeveralGpusNeedNccl) {
  const std::string says = Refusal({"a 1", "a 2"});
  if (HasNccl()) {
    EXPECT_EQ(says, "");
  } else {
    EXPECT_THAT(says, HasSubstr("built without it"));
  }
}

TEST(Device, WithoutCodeTheBuildThatHasItIsNamed) {
  EXPECT_EQ(
      NoCodeFor(Gpu("NVIDIA A100", 8, 0)),
      "NVIDIA A100 has compute capability 8.0, and this program was built for others: rebuild "
      "with MNEME_CUDA_ARCHITECTURES=80 ./launch/build.sh");
  EXPECT_EQ(NoCodeFor(Gpu("Tesla T4", 7, 5)),
            "Tesla T4 has compute capability 7.5, and the kernels need 8.0 or newer");
}

}  // namespace
}  // namespace mneme
