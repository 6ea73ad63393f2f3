#include "engine/sweep/cells.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/data/scratch.h"

namespace mneme {
namespace {

class Cells : public Scratch {};

std::string ErrorOf(const std::string& path) {
  const auto table = ReadCells(path);
  return table.ok() ? "no error" : std::string(table.status().message());
}

TEST_F(Cells, ReadsJsonLinesWithDocumentsBesideThem) {
  const std::vector<DocumentScore> documents = {{3, 6.5}, {0, 0.0}, {10, 21.25}};
  Put("a.json", DocumentsJson(documents));
  const std::string path =
      Put("cells.jsonl",
          "{\"rho\": 0.5, \"seed\": 3, \"validation_loss\": 2.5, \"key\": \"k\", \"documents\": "
          "\"a.json\", \"layers\": [1, 3], \"note\": \"x\"}\n\n"
          "{\"rho\": 1, \"val\": 2.75, \"budget\": 2e20, \"documents\": [[3, 6.0], [7, 1.5]]}\n");
  const CellTable table = ReadCells(path).value();
  ASSERT_EQ(table.cells.size(), 2u);
  EXPECT_EQ(table.cells[0].key, "k");
  EXPECT_EQ(table.cells[0].seed, 3);
  EXPECT_EQ(table.cells[0].columns.at("note"), "x");
  EXPECT_EQ(table.cells[0].columns.count("layers"), 0u);
  ASSERT_EQ(table.cells[0].documents.size(), 3u);
  EXPECT_EQ(table.cells[0].documents[2].tokens, 10);
  EXPECT_EQ(table.cells[0].documents[2].nats, 21.25);
  EXPECT_TRUE(std::isnan(table.cells[0].table));
  EXPECT_EQ(table.cells[1].validation_loss, 2.75);
  EXPECT_EQ(table.cells[1].budget, 2e20);
  EXPECT_EQ(table.cells[1].key, "line 3");
  EXPECT_EQ(table.cells[1].documents.size(), 2u);
}

TEST_F(Cells, OneIsOneLineOfJson) {
  EXPECT_EQ(ReadCell(Put("done.json", "{\"rho\": null, \"val\": 2.5}\n"))->validation_loss, 2.5);
  EXPECT_EQ(ReadCell(Put("done.json", "{\"val\": 2.5}"))->columns.at("val"), "2.5");
  const std::pair<const char*, const char*> cases[] = {
      {"", "done.json:1: is not JSON: column 1"},
      {"{\"val\": 2.5", "done.json:1: is not JSON: column 12"},
      {"rho,val\n1,2\n", "done.json: has more than one line"},
      {"{\"val\": 2.5}\n{\"val\": 2.5}\n", "done.json: has more than one line"},
      {"[1]", "done.json:1: is not a JSON object"},
      {"{}", "done.json:1: has no validation_loss"},
      {"{\"val\": null}", "done.json:1: has no validation_loss"},
      {"{\"val\": \"a\\n\\u001b[2J\"}", R"(done.json:1: val: is "a\n\u001b[2J", not a number)"},
      {R"({"val": "2.5"})", R"(done.json:1: val: is "2.5", not a number)"},
      {R"({"val": 2, "seconds": "1"})", R"(done.json:1: seconds: is "1", not a number)"},
      {R"({"val": 2, "steps": [4]})", "done.json:1: steps: is [4], not a number"},
      {R"({"val": 2, "failures": 0.5})", "done.json:1: failures: is 0.5, not a whole number"},
      {R"({"val": 2, "loss.far": "x"})", R"(done.json:1: loss.far: is "x", not a number)"},
      {R"({"val": 2, "held_out": 1})", "done.json:1: held_out: is 1, not a text"},
  };
  for (const auto& [text, why] : cases) {
    const auto cell = ReadCell(Put("done.json", text));
    EXPECT_TRUE(absl::IsDataLoss(cell.status())) << text;
    EXPECT_THAT(std::string(cell.status().message()), testing::HasSubstr(why));
  }
}

// Some editors put a byte order mark before a text.
TEST_F(Cells, TakesAByteOrderMark) {
  for (const char* text :
       {"\xEF\xBB\xBFrho,val\n0.5,2\n", "\xEF\xBB\xBF{\"rho\": 0.5, \"val\": 2}\n"}) {
    const auto table = ReadCells(Put("cells", text));
    ASSERT_TRUE(table.ok()) << table.status();
    EXPECT_EQ(table->cells.at(0).rho, 0.5);
  }
}

TEST_F(Cells, ReadsTheDocumentsOfManyCellsFromOneFile) {
  const Documents a = {{3, 6.5}, {10, 21.25}}, b = {{3, 7.0}, {10, 20.5}}, other = {{4, 1.0}};
  Put("all.json", PackedDocuments({{"a", a}, {"b", b}, {"c", other}}));
  std::string lines;
  for (const char* key : {"a", "b", "c"})
    lines += std::string("{\"key\": \"") + key + "\", \"val\": 2, \"documents\": \"all.json\"}\n";
  const CellTable table = ReadCells(Put("cells.jsonl", lines)).value();
  for (size_t i = 0; i < 3; ++i) {
    const Documents& want = i == 0 ? a : i == 1 ? b : other;
    ASSERT_EQ(table.cells[i].documents.size(), want.size());
    EXPECT_EQ(table.cells[i].documents.back().nats, want.back().nats);
    EXPECT_EQ(table.cells[i].documents.back().tokens, want.back().tokens);
  }
  EXPECT_THAT(ErrorOf(Put("d.jsonl", "{\"key\": \"d\", \"val\": 2, \"documents\": \"all.json\"}")),
              testing::HasSubstr("all.json: has no documents of cell d"));
  Put("torn.json", "{\"sets\": [{\"tokens\": [3], \"nats\": {\"a\": [1, 2]}}]}");
  EXPECT_THAT(ErrorOf(Put("e.jsonl", "{\"key\": \"a\", \"val\": 2, \"documents\": \"torn.json\"}")),
              testing::HasSubstr("torn.json: is no file of losses by document"));
}

TEST(Columns, StandInTheirPlaceOrBehind) {
  const std::string line = "{\"key\": \"k\", \"rho\": null, \"loss\": 2.5}\n";
  EXPECT_EQ(WithColumns(line, {{"key", "\"k\""}, {"rho", "null"}}), line);
  EXPECT_EQ(WithColumns(line, {{"rho", "0.75"}, {"ablation", "\"no_gate\""}}),
            "{\"key\": \"k\", \"rho\": 0.75, \"loss\": 2.5, \"ablation\": \"no_gate\"}\n");
}

TEST_F(Cells, ReadsCsvWithQuotedFields) {
  const std::string path = Put("cells.csv",
                               "rho,seed,validation_loss,name,table_rows\r\n"
                               "0.5,1,2.5,\"a, \"\"b\"\"\",100\r\n1,2,2.75,c,\n");
  const CellTable table = ReadCells(path).value();
  ASSERT_EQ(table.cells.size(), 2u);
  EXPECT_EQ(table.cells[0].columns.at("name"), "a, \"b\"");
  EXPECT_EQ(table.table_column, "table_rows");
  EXPECT_EQ(table.cells[0].table, 100.0);
  EXPECT_TRUE(std::isnan(table.cells[1].table));
}

TEST_F(Cells, SaysFileLineAndWhatIsWrong) {
  const auto error = [&](const std::string& text) { return ErrorOf(Put("c", text)); };
  using testing::HasSubstr;
  EXPECT_THAT(ErrorOf(Path("absent")), HasSubstr("absent: cannot open"));
  EXPECT_THAT(ErrorOf(folder_.string()), HasSubstr("is a folder"));
  EXPECT_THAT(error(""), HasSubstr("holds no cell"));
  EXPECT_THAT(error("{\"rho\": 1}\n"), HasSubstr("c:1: has no validation_loss (or val)"));
  EXPECT_THAT(error("{\"rho\": 1, \"val\": 2}\n{\"rho\":\n"),
              HasSubstr("c:2: is not JSON: column 8: syntax error"));
  EXPECT_THAT(error("{\"rho\": \"much\", \"val\": 2}\n"),
              HasSubstr("rho: is \"much\", not a number"));
  EXPECT_THAT(error("{\"seed\": 0.5, \"val\": 2}\n"),
              HasSubstr("seed: is 0.5, not a whole number"));
  // A member of the wrong kind is never as if it were not there.
  EXPECT_THAT(error("{\"rho\": \"0.5\", \"val\": 2}\n"),
              HasSubstr("rho: is \"0.5\", not a number"));
  EXPECT_THAT(error("{\"rho\": [0.5], \"val\": 2}\n"), HasSubstr("rho: is [0.5], not a number"));
  EXPECT_THAT(error("{\"seed\": {}, \"val\": 2}\n"), HasSubstr("seed: is {}, not a number"));
  EXPECT_THAT(error("{\"val\": [2]}\n"), HasSubstr("c:1: val: is [2], not a number"));
  EXPECT_THAT(error("{\"table_rows\": true, \"val\": 2}\n"), HasSubstr("table_rows: is true"));
  EXPECT_THAT(error("{\"key\": [], \"val\": 2}\n"), HasSubstr("key: is [], not a text"));
  EXPECT_THAT(
      error("{\"documents\": 5, \"val\": 2}\n"),
      HasSubstr("documents: is 5, neither a list of [tokens, nats] nor the path of a file"));
  EXPECT_THAT(error("{\"val\": 2, \"documents\": [[1, 1e300]]}\n"),
              HasSubstr("no list of [tokens, nats]"));
  EXPECT_THAT(error("rho,val\n1.5,2\n"),
              HasSubstr("c:2: rho: is 1.5; a share lies between 0 and 1"));
  EXPECT_THAT(error("rho,val,budget\n1,2,-3\n"), HasSubstr("c:2: budget: is -3, below 0"));
  EXPECT_THAT(error("rho,val,table_rows\n1,2,-3\n"), HasSubstr("c:2: table_rows: is -3, below 0"));
  EXPECT_THAT(error("{\"val\": 2, \"documents\": [1, 2]}\n"),
              HasSubstr("no list of [tokens, nats]"));
  EXPECT_THAT(error("{\"val\": 2, \"documents\": \"gone.json\"}\n"), HasSubstr("c:1: documents: "));
  EXPECT_THAT(error("{\"val\": 2, \"documents\": \"gone.json\"}\n"),
              HasSubstr("gone.json: cannot open"));
  EXPECT_THAT(error("rho,val\n1\n"), HasSubstr("c:2: has 1 fields, the head line has 2"));
  EXPECT_THAT(error("rho,val\n1,\"2\n"), HasSubstr("not closed"));
}

}  // namespace
}  // namespace mneme
