// What a plan says of runs that nobody can start here.
#include "engine/forecast/forecast.h"

#include <fstream>
#include <sstream>

#include "configs/load.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

RunConfig MustLoad(const std::string& name, const std::vector<std::string>& overrides) {
  const auto config = LoadConfig(std::string(MNEME_CONFIGS_FOLDER) + "/" + name, overrides);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : RunConfig();
}

Forecast MustForecast(const RunConfig& config, int ranks, const std::string& device) {
  ForecastOptions options;
  options.ranks = ranks;
  const auto rates = LoadDeviceRates(device);
  EXPECT_TRUE(rates.ok()) << rates.status();
  options.device = *rates;
  const auto forecast = MakeForecast(config, options);
  EXPECT_TRUE(forecast.ok()) << forecast.status();
  return forecast.ok() ? *forecast : Forecast();
}

// Weights with their copies, fp32 gradients, replicated dense parts and 14 of 55 experts on the
// fullest rank: about 108 GB a GPU.
TEST(Forecast, Engram27BOnFourH200s) {
  const std::vector<std::string> spread = {"train.precision=bf16", "parallel.expert=4",
                                           "parallel.memory=4"};
  // By itself it gives way until it fits, and says how.
  const Forecast forecast = MustForecast(MustLoad("models/engram_27b.yaml", spread), 4, "h200");
  EXPECT_NEAR(1e-9 * static_cast<double>(forecast.footprint.state()), 108.0, 7.0);
  EXPECT_EQ(forecast.breaks, "");
  EXPECT_LE(forecast.footprint.total(), forecast.available);
  EXPECT_THAT(forecast.warnings, Contains(HasSubstr("memory is short")));

  // What somebody chose stays; what the plan says mends it.
  std::vector<std::string> stated = spread;
  stated.insert(stated.end(), {"train.micro_batch=8", "train.recompute=[]"});
  const Forecast breaks = MustForecast(MustLoad("models/engram_27b.yaml", stated), 4, "h200");
  EXPECT_THAT(breaks.breaks, HasSubstr("memory"));
  ASSERT_FALSE(breaks.mend.empty());
  std::istringstream words(breaks.mend);
  for (std::string word; words >> word;) stated.push_back(word);
  const Forecast after = MustForecast(MustLoad("models/engram_27b.yaml", stated), 4, "h200");
  EXPECT_EQ(after.breaks, "");
}

TEST(Forecast, SpreadingIsProposedWhereEveryRankHoldsAll) {
  const RunConfig config = MustLoad("models/engram_27b.yaml", {"train.precision=bf16"});
  const Forecast forecast = MustForecast(config, 4, "h200");
  EXPECT_THAT(forecast.breaks, HasSubstr("alone"));
  EXPECT_THAT(forecast.mend, HasSubstr("parallel.expert=0 parallel.memory=0"));
}

// Of a size whose choices of experts nobody could keep: they are counted, not made.
TEST(Forecast, ABatchOfAnySizeIsRehearsed) {
  for (const std::string device : {"cpu", "h200"}) {
    const std::vector<std::string> huge = {"parallel.expert=8", "train.micro_batch=256",
                                           "train.batch_sequences=2048"};
    const Forecast forecast = MustForecast(MustLoad("models/moe_335m.yaml", huge), 8, device);
    EXPECT_EQ(forecast.stages[0].micro, 256) << device;
    EXPECT_GT(forecast.footprint.total(), int64_t{64} << 30) << device;
  }
}

TEST(Forecast, ASmallModelFitsAndItsTimesAddUp) {
  const RunConfig config =
      MustLoad("models/moe_335m.yaml", {"train.precision=bf16", "train.steps=100"});
  const Forecast forecast = MustForecast(config, 1, "h100");
  EXPECT_EQ(forecast.breaks, "");
  ASSERT_EQ(forecast.stages.size(), 1u);
  const StageForecast& stage = forecast.stages[0];
  EXPECT_EQ(stage.tokens, 100 * 16 * 2048);
  double parts = stage.time.calls + stage.time.exchange;
  for (size_t i = 0; i < kWorks; ++i)
    parts += stage.time.forward_backward[i] + stage.time.update[i];
  EXPECT_NEAR(parts, stage.time.total(), 1e-12);
  EXPECT_NEAR(forecast.seconds, 100 * parts, 1e-9);
  // Values and two moments in f32.
  EXPECT_EQ(forecast.checkpoint_bytes, 12 * forecast.counts.total());
}

// What a device's ops do not do breaks before memory does; the words mend all of it.
TEST(Forecast, TheLimitsOfADevicesOpsAreNamedAndMended) {
  const std::vector<std::string> asked = {
      "train.precision=f64", "model.mhc.streams=9",  "model.moe.experts=600",
      "model.moe.top_k=40",  "train.micro_batch=4",  "train.batch_sequences=1032",
      "train.steps=1",       "model.vocab_size=258", "model.engram.table.store=lazy"};
  const Forecast forecast = MustForecast(MustLoad("runs/tiny.yaml", asked), 1, "h100");
  EXPECT_THAT(forecast.breaks, HasSubstr("train.precision"));
  EXPECT_EQ(forecast.mend,
            "train.precision=f32 model.mhc.streams=8 model.moe.experts=512 model.moe.top_k=32 "
            "train.micro_batch=6");
  EXPECT_THAT(forecast.warnings, Contains(HasSubstr("planned as resident")));
  std::vector<std::string> mended = asked;
  std::istringstream words(forecast.mend);
  for (std::string word; words >> word;) mended.push_back(word);
  EXPECT_EQ(MustForecast(MustLoad("runs/tiny.yaml", mended), 1, "h100").breaks, "");
  const Forecast cpu = MustForecast(
      MustLoad("runs/tiny.yaml", {"train.precision=bf16", "model.vocab_size=258"}), 1, "cpu");
  EXPECT_THAT(cpu.breaks, HasSubstr("bf16 needs a GPU"));
  EXPECT_EQ(cpu.mend, "train.precision=f32");
}

// Rates of links are those within a host. An axis over several goes over NCCL, whatever is asked
// for, and NCCL gathers the tokens that it sends, which peers do not.
TEST(Forecast, SeveralHostsAreNamed) {
  const auto on = [](int ranks, const std::string& transport) {
    return MustForecast(MustLoad("models/engram_335m.yaml",
                                 {"train.precision=bf16", "parallel.expert=0",
                                  "train.batch_sequences=64", "parallel.transport=" + transport}),
                        ranks, "h200");
  };
  const auto warned = Contains(HasSubstr("several hosts of 8"));
  const Forecast one = on(8, "peer"), two = on(16, "peer");
  EXPECT_THAT(one.warnings, testing::Not(warned));
  EXPECT_THAT(two.warnings, warned);
  EXPECT_NE(one.footprint.needs(), on(8, "nccl").footprint.needs());
  EXPECT_EQ(two.footprint.needs(), on(16, "nccl").footprint.needs());
}

TEST(Forecast, ACorpusThatRepeatsIsNamed) {
  TempFolder temp;
  ForecastOptions options;
  options.device = *LoadDeviceRates("cpu");
  const auto passes = [&](const std::string& steps) {
    const RunConfig config =
        TinyRun(temp.path(), {"train.precision=f32", "evaluate.sets=[]", "train.steps=" + steps});
    const auto forecast = MakeForecast(config, options);
    EXPECT_TRUE(forecast.ok()) << forecast.status();
    const bool warned =
        testing::Matches(testing::Contains(HasSubstr("the corpus repeats")))(forecast->warnings);
    EXPECT_EQ(warned, forecast->stages[0].passes > 1.0) << steps;
    return forecast->stages[0].passes;
  };
  EXPECT_LT(passes("1"), 1.0);
  EXPECT_NEAR(passes("1000"), 1000 * passes("1"), 1e-6);
  EXPECT_GT(passes("1000"), 1.0);
}

TEST(Forecast, ErrorsNameWhatIsMissing) {
  ForecastOptions options;
  options.device = *LoadDeviceRates("cpu");
  const auto none = MakeForecast(MustLoad("models/tiny.yaml", {}), options);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("model.vocab_size"));
  options.ranks = 5;
  const auto uneven = MakeForecast(MustLoad("models/tiny.yaml", {"model.vocab_size=258"}), options);
  EXPECT_EQ(uneven.status().code(), absl::StatusCode::kInvalidArgument);
  options.ranks = 64;
  const auto thin = MakeForecast(
      MustLoad("models/sweep_2e20.yaml", {"parallel.expert=0", "model.moe.experts=46"}), options);
  EXPECT_EQ(thin.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(thin.status().message()), HasSubstr("64 ranks for 46 experts"));
  const auto unknown = LoadDeviceRates("h20O");
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("nearest: h200"));
  EXPECT_EQ(MatchDeviceRates("NVIDIA H100 80GB HBM3")->name, "NVIDIA H100");
  EXPECT_EQ(MatchDeviceRates("a slide rule").status().code(), absl::StatusCode::kNotFound);
}

TEST(Forecast, ADeviceWithoutRatesIsRefused) {
  TempFolder temp;
  const std::string path = temp.path() + "/device.yaml";
  const auto said = [&](const std::string& text) {
    std::ofstream(path) << text;
    return std::string(LoadDeviceRates(path).status().message());
  };
  EXPECT_THAT(said(""), AllOf(HasSubstr("name: is empty"), HasSubstr("rates.matmul: has no rate"),
                              HasSubstr("rates.orthogonal: has no rate")));
  EXPECT_THAT(said("name: mine\nlink: -1\nrates: {matmul: {flops: -5}}\n"),
              AllOf(HasSubstr("has a negative number"),
                    HasSubstr("rates.matmul: has a negative rate"), Not(HasSubstr("name: "))));
}

TEST(Forecast, EveryShippedDeviceHasRates) {
  for (const std::string& name : ShippedDevices()) {
    const auto rates = LoadDeviceRates(name);
    ASSERT_TRUE(rates.ok()) << rates.status();
    EXPECT_GT(rates->rates.matmul.flops, 0.0) << name;
    EXPECT_FALSE(rates->measured.empty()) << name;
  }
}

}  // namespace
}  // namespace mneme
