// The corpus that we ship: whole, clean, and as hard for counting as the documents say.
#include <cstdlib>

#include "data/ngram_baseline.h"
#include "gmock/gmock.h"
#include "tests/data/corpora.h"

namespace mneme {
namespace {

class AustenTest : public CorpusScratch {
 protected:
  // Unpacks the novels to train/ and held_out/.
  void Unpack() {
    const auto novels = std::filesystem::path(MNEME_SOURCE_DIR) / "data/austen";
    for (const auto& entry : std::filesystem::directory_iterator(novels)) {
      if (entry.path().extension() != ".xz") continue;
      const std::string name = entry.path().stem().string();
      const std::string side = name == "persuasion.txt" ? "held_out" : "train";
      Put(side + "/" + name, "");
      const std::string command =
          "xz -dc '" + entry.path().string() + "' > '" + Path(side + "/" + name) + "'";
      ASSERT_EQ(std::system(command.c_str()), 0) << command;
    }
  }
  std::shared_ptr<const Corpus> Side(const std::string& side) {
    PrepareOptions options = Options({Path(side)});
    options.output = Path("corpora/" + side);
    return Prepared(options);
  }
};

TEST_F(AustenTest, NgramsReachWhatTheyReach) {
  Unpack();
  const auto train = Side("train");
  const auto held_out = Side("held_out");
  EXPECT_EQ(train->documents(), 5);
  EXPECT_EQ(held_out->documents(), 1);
  EXPECT_EQ(train->text_bytes() + held_out->text_bytes(), 4025029);
  for (const int32_t id : Ids(*held_out)) {
    EXPECT_TRUE(id == 256 || id == '\n' || (id >= ' ' && id < 127)) << id;
  }
  const auto baseline = FitNgrams(*train, *held_out, 5);
  ASSERT_TRUE(baseline.ok()) << baseline.status();
  using testing::DoubleNear;
  EXPECT_THAT(baseline->nats,
              testing::ElementsAre(DoubleNear(3.074, 0.002), DoubleNear(2.452, 0.002),
                                   DoubleNear(1.972, 0.002), DoubleNear(1.619, 0.002),
                                   DoubleNear(1.451, 0.002)));
  EXPECT_NEAR(baseline->kneser_ney[4], 1.380, 0.002);
}

}  // namespace
}  // namespace mneme
