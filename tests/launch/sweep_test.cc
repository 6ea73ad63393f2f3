// mneme sweep, as it is typed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/launch/program.h"

namespace mneme {
namespace {

using testing::HasSubstr;

// 2.8 + 0.2 (rho - 0.7)^2, with a little noise.
const char kCells[] =
    "rho,seed,val\n0.4,0,2.8182\n0.4,1,2.8184\n0.6,0,2.8019\n0.6,1,2.8022\n0.7,0,2.8001\n"
    "0.7,1,2.7999\n0.8,0,2.8018\n0.8,1,2.8021\n1.0,0,2.8181\n1.0,1,2.8178\n";

TEST(SweepFit, GivesMinimumIntervalAndReport) {
  Workplace place;
  place.Write("cells.csv", kCells);
  const Ran text = place.Run("sweep --fit cells.csv --report report.html");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("minimum at rho 0.70"));
  const std::vector<std::string> beside = {"cells.csv", "report.html", "report_loss_vs_rho.png",
                                           "report_loss_vs_rho.svg"};
  EXPECT_EQ(place.Files(), beside);
  EXPECT_THAT(text.err, HasSubstr("report: report.html; figures: report_loss_vs_rho.svg, "));
  const std::string html = place.Read("report.html");
  const std::string figure = place.Read("report_loss_vs_rho.svg");
  EXPECT_THAT(html, HasSubstr(figure)) << "the figure is the report's own";
  EXPECT_EQ(place.Read("report_loss_vs_rho.png").substr(1, 3), "PNG");
  EXPECT_EQ(place.Run("sweep --fit cells.csv --report new/folder/").code, 0);
  EXPECT_EQ(place.Read("new/folder/report.html"), html);
  EXPECT_EQ(place.Read("new/folder/loss_vs_rho.svg"), figure);
  EXPECT_EQ(place.Run("sweep --fit cells.csv --level 0.8 --report new/folder").code, 0);
  EXPECT_NE(place.Read("new/folder/report.html"), html);
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("a minimum is claimed"));
  EXPECT_THAT(html, testing::Not(HasSubstr("src=")));
  EXPECT_THAT(html, testing::Not(HasSubstr("href=")));

  const Ran json = place.Run("sweep --fit cells.csv --level 0.8 --exclude rho=0.6 --json");
  const auto fit = nlohmann::json::parse(json.out);
  EXPECT_EQ(fit["cells"], 8);
  EXPECT_EQ(fit["claim"], true);
  EXPECT_LT(fit["interval"][0], fit["minimum"]);
  EXPECT_GT(fit["interval"][1], fit["minimum"]);
  EXPECT_EQ(fit["left_out"].size(), 2u);
  EXPECT_EQ(place.Run("sweep --fit cells.csv --level 0.8 --exclude rho=0.6 --json").out, json.out);
}

TEST(SweepFit, SaysWhatIsWrong) {
  Workplace place;
  place.Write("cells.csv", "rho,seed,val\n0.4,0,2.8\n1.0,0,2.9\n");
  const auto error = [&](const std::string& words, int code) {
    const Ran ran = place.Run("sweep " + words);
    EXPECT_EQ(ran.code, code) << words << ran.err;
    EXPECT_EQ(Count(ran.err, "\n"), 1) << ran.err;
    return ran.err;
  };
  EXPECT_THAT(error("--fit cells.csv", 2), HasSubstr("nothing to fit in its 2 cells"));
  EXPECT_THAT(error("--fit absent.csv", 3), HasSubstr("absent.csv: cannot open"));
  EXPECT_THAT(error("--fit cells.csv --exclude rho", 2), HasSubstr("COLUMN=VALUE"));
  EXPECT_THAT(error("--fit cells.csv --exclude roh=1", 2),
              HasSubstr("cells.csv has no column 'roh'; nearest: rho"));
  EXPECT_THAT(error("--fit cells.csv --status", 2), HasSubstr("--status"));
  EXPECT_THAT(error("demo.yaml --level 0.8", 2), HasSubstr("--level requires --fit"));
  EXPECT_THAT(error("demo.yaml --dry-run --report x.html", 2), HasSubstr("--dry-run"));
  place.Write("cells.csv", kCells);
  EXPECT_THAT(error("--fit cells.csv --level 90", 2), HasSubstr("between 0.5 and 1"));
  EXPECT_THAT(error("--fit cells.csv --report no/such/folder.html", 2), HasSubstr("no/such"));
}

// Eight cells of two steps.
void PutSweep(const Workplace& place) {
  std::string text;
  for (int i = 0; i < 150; ++i)
    text += "the old river " + std::to_string(i * 7919 % 100) + " runs under a tall bridge\n\n";
  place.Write("text.txt", text);
  ASSERT_EQ(place
                .Run("prepare --input text.txt --output corpus --document-bytes 300 "
                     "--held-out 0.2")
                .code,
            0);
  place.Write("base.yaml", R"(
model:
  layers: 2
  hidden: 16
  dense_width: 32
  leading_dense: 1
  mla: {heads: 2, kv_lora_rank: 8, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 34, shared: 1, top_k: 2, expert_width: 16}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 2}
data: {train: corpus/train}
train: {steps: 2, sequence_length: 32, batch_sequences: 4}
evaluate: {sets: [{name: held_out, data: corpus/held_out}]}
device: cpu
)");
  place.Write("sweep.yaml", R"(
base: base.yaml
folder: out
axes: {rho: [1.0, 0.8, 0.5, 0.3], seed: [0, 1]}
allocation: {total_bound: 0.02, flops_bound: 0.05}
run: {side_by_side: 4}
fit: {exclude: [{key: rho, value: 0.3125, why: "too \"few\" experts"}]}
)");
}

TEST(Sweep, IsRunToldOfPackedAndVerified) {
  Workplace place;
  PutSweep(place);
  const auto status = [&] {
    const Ran ran = place.Run("sweep sweep.yaml --status --json");
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out, nullptr, false);
  };
  const auto before = status();
  EXPECT_EQ(before["done"], 0);
  ASSERT_EQ(before["cells"].size(), 8u);
  EXPECT_EQ(before["cells"][0]["state"], "waiting");
  EXPECT_TRUE(before["cells"][0]["validation_loss"].is_null());
  EXPECT_EQ(place.Run("sweep sweep.yaml --bundle early").code, 2);  // nothing to pack yet

  const Ran ran = place.Run("sweep sweep.yaml");
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto after = status();
  EXPECT_EQ(after["done"], 8);
  EXPECT_EQ(after["running"], 0);
  for (const auto& cell : after["cells"]) {
    EXPECT_EQ(cell["state"], "done");
    EXPECT_EQ(cell["steps"], 2);
    EXPECT_GT(cell["validation_loss"].get<double>(), 1.0);
  }
  const Ran bundle = place.Run("sweep sweep.yaml --bundle packed");
  ASSERT_EQ(bundle.code, 0) << bundle.err;
  EXPECT_THAT(bundle.out, HasSubstr("packed: 6 cells, "));  // two are left out, and said so
  EXPECT_THAT(place.Read("packed/fit.json"), HasSubstr("too \\\"few\\\" experts"));
  const Ran verified = place.Run("sweep --verify packed");
  EXPECT_EQ(verified.code, 0) << verified.err;
  EXPECT_THAT(verified.out, HasSubstr("and the fit of 6 cells comes to the same digits"));
  EXPECT_EQ(place.Run("sweep sweep.yaml --bundle packed").code, 2);

  // Into another folder of the same sweep all cells are taken over; a third of other losses is not.
  const Ran merged = place.Run("sweep sweep.yaml folder=other --merge packed --merge out");
  ASSERT_EQ(merged.code, 0) << merged.err;
  EXPECT_THAT(merged.err, HasSubstr("packed: 8 finished cells taken over, 0 were here already"));
  EXPECT_THAT(merged.err, HasSubstr("out: 0 finished cells taken over, 8 were here already"));
  const std::string results = place.Read("packed/results.jsonl");
  place.Write("packed/results.jsonl", results + "\n");
  const Ran changed = place.Run("sweep --verify packed");
  EXPECT_EQ(changed.code, 3);
  EXPECT_THAT(changed.err, HasSubstr("packed/results.jsonl: has changed"));
  EXPECT_EQ(place.Run("sweep sweep.yaml folder=third --merge packed").code, 3);
  place.Write("packed/results.jsonl", results);
  place.Write("packed/loss_vs_more.svg", "<svg>");
  EXPECT_THAT(place.Run("sweep --verify packed").err, HasSubstr("is not in the MANIFEST"));
}

TEST(Sweep, CellsBeginAtInitialValues) {
  Workplace place;
  PutSweep(place);
  place.Write("base.yaml",
              place.Read("base.yaml") + "stages: [{name: heir, init_from: elsewhere, steps: 2}]\n");
  const Ran ran = place.Run("sweep sweep.yaml --dry-run");
  EXPECT_EQ(ran.code, 2) << ran.out;
  EXPECT_THAT(ran.err, HasSubstr("elsewhere, and cells of a sweep begin at initial values"));
}

}  // namespace
}  // namespace mneme
