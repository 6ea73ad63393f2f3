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

}  // namespace
}  // namespace mneme
