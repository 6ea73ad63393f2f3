#include "engine/sweep/sweep_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/sweep/bundle.h"
#include "engine/sweep/publish.h"
#include "tests/data/scratch.h"

namespace mneme {
namespace {

using testing::HasSubstr;

class Folders : public Scratch {
 protected:
  Folders() {
    sweep_.folder = folder_.string();
    cell_.key = "abc";
    cell_.rho = 0.5;
    cell_.seed = 3;
  }
  void PutRecord(const std::string& text) const { Put("cells/abc/done.json", text); }
  SweepConfig sweep_;
  SweepCell cell_;
};

constexpr char kRecord[] =
    "{\"key\": \"abc\", \"rho\": null, \"seed\": 3, \"validation_loss\": 2.5, "
    "\"documents\": \"cells/abc/documents.json\"}\n";

TEST_F(Folders, ARecordIsThatOfItsCellAndHasTheAxesOfThisSweep) {
  EXPECT_FALSE(RecordOf(sweep_, cell_).value().has_value());
  EXPECT_TRUE(CheckFinished(sweep_, cell_).ok()) << "it is not finished";
  PutRecord(kRecord);
  const std::string record = RecordOf(sweep_, cell_).value().value();
  EXPECT_THAT(record, HasSubstr("\"rho\": 0.5, \"seed\": 3, \"validation_loss\": 2.5"));
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {R"({"key": "x", "validation_loss": 2})", R"(key: is "x", and "abc" in the record)"},
           {R"({"validation_loss": 2})", R"(key: is "", and "abc" in the record)"},
           {R"({"key": "abc", "validation_loss": 2, "documents": "/etc/passwd"})",
            R"(documents: is "/etc/passwd", and "cells/abc/documents.json" in the record)"},
           {R"({"key": "abc", "validation_loss": 2, "rho": 0.75})",
            "rho: is 0.75, and 0.5 in the record"},
           {R"({"key": "abc", "validation_loss": 2, "rho": 0.5, "seed": 9})",
            "seed: is 9, and 3 in the record"},
           {R"({"key": "abc", "validation_loss": "2"})",
            R"(validation_loss: is "2", not a number)"},
           {R"({"key": "abc", "validation_loss": 2, "seconds": []})",
            "seconds: is [], not a number"}}) {
    PutRecord(text + "\n");
    for (const absl::Status& status :
         {RecordOf(sweep_, cell_).status(), CheckFinished(sweep_, cell_)}) {
      EXPECT_TRUE(absl::IsDataLoss(status)) << text;
      EXPECT_THAT(std::string(status.message()), HasSubstr("done.json"));
      EXPECT_THAT(std::string(status.message()), HasSubstr(why));
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("Move " + Path("cells/abc") + " away to have the cell run again"));
    }
    EXPECT_THAT(StateOf(sweep_, cell_).reason, HasSubstr(why)) << "--status shows it";
  }
}

TEST_F(Folders, LossesByDocumentAreReadBeforeAnythingRuns) {
  PutRecord(kRecord);
  const auto fault = [&] { return std::string(CheckFinished(sweep_, cell_).message()); };
  EXPECT_THAT(fault(), HasSubstr("documents.json: cannot open"));
  Put("cells/abc/documents.json", "{\"documents\": [[3, \"x\"]]}");
  EXPECT_THAT(fault(), HasSubstr("documents.json: is no file of losses by document"));
  EXPECT_THAT(fault(), HasSubstr("away to have the cell run again"));
  Put("cells/abc/documents.json", "{\"documents\": [[3, 6.5], [1, 3.5002]]}");
  EXPECT_THAT(fault(), HasSubstr("documents.json: the documents of cell abc have a mean of 2.50005 "
                                 "nats a token, and its validation_loss is 2.5"));
  Put("cells/abc/documents.json", "{\"documents\": [[3, 6.5], [1, 3.5001]]}");
  EXPECT_EQ(fault(), "") << "half of what two documents are rounded to";
}

TEST_F(Folders, ABundleIsHeldToItsDocuments) {
  const std::string path = Put("bundle/results.jsonl",
                               "{\"key\": \"abc\", \"rho\": 1, \"validation_loss\": 2.5, "
                               "\"documents\": [[2, 4], [2, 6]]}\n");
  EXPECT_TRUE(ReadBundleCells(Path("bundle")).ok());
  Put("bundle/results.jsonl",
      "{\"key\": \"abc\", \"rho\": 1, \"validation_loss\": 2.4, \"documents\": [[2, 4], [2, "
      "6]]}\n");
  EXPECT_THAT(std::string(ReadBundleCells(Path("bundle")).status().message()),
              HasSubstr(path + ": the documents of cell abc have a mean of 2.5"));
}

// The count of failed attempts once took what cannot be looked at for one more of them.
TEST_F(Folders, WhatCannotBeLookedIntoIsAnErrorAndNoAttempt) {
  SweepGrid grid;
  grid.cells.push_back(cell_);
  EXPECT_TRUE(CheckSweepFolder(sweep_, grid).ok());
  Put("cells/abc/log.txt", "");
  EXPECT_TRUE(CheckSweepFolder(sweep_, grid).ok());
  std::filesystem::remove_all(Path("cells/abc"));
  std::filesystem::create_symlink("abc", Path("cells/abc"));
  EXPECT_THAT(std::string(CheckSweepFolder(sweep_, grid).message()),
              HasSubstr("cells/abc/done.json: cannot look at: Too many levels of symbolic links"));
  EXPECT_FALSE(StateOf(sweep_, cell_).done);
  EXPECT_EQ(StateOf(sweep_, cell_).failures, 0);
  std::filesystem::remove(Path("cells/abc"));
  Put("cells/abc", "a file");
  EXPECT_FALSE(LookFor(Path("cells/abc/done.json")).value());
  sweep_.folder = Path(std::string(300, 'x'));
  EXPECT_THAT(std::string(CheckSweepFolder(sweep_, grid).message()),
              HasSubstr("cells: cannot look at: File name too long"));
}

TEST_F(Folders, AHopelessFailureIsTheLastUntilMoreAttemptsAreAskedFor) {
  Put("cells/abc/failed.1.json", R"({"why": "exit code 2", "code": 2, "hopeless_of": 3})");
  EXPECT_TRUE(HasFailed(sweep_, StateOf(sweep_, cell_)));
  sweep_.run.attempts = 4;
  EXPECT_FALSE(HasFailed(sweep_, StateOf(sweep_, cell_)));
  Put("cells/abc/failed.2.json", R"({"why": "exit code 1", "code": 1})");
  sweep_.run.attempts = 3;
  EXPECT_FALSE(HasFailed(sweep_, StateOf(sweep_, cell_)));
}

TEST_F(Folders, AFitNamesColumnsThatCellsWillHave) {
  SweepGrid grid;
  cell_.axes = {{"optim.lr", "1e-3"}, {"rho", "0.5"}};
  cell_.config.evaluate.sets.resize(1);
  cell_.config.evaluate.sets.front().name = "far";
  grid.cells.push_back(cell_);
  const auto fault = [&] { return std::string(CheckFitColumns(sweep_, grid).message()); };
  sweep_.fit.by = {"optim.lr"};
  sweep_.fit.levels = {"loss.far", "asked_rho"};
  sweep_.fit.exclude = {{"seed", "3", ""}};
  EXPECT_EQ(fault(), "");
  sweep_.fit.exclude = {{"sed", "3", ""}};
  EXPECT_THAT(fault(), HasSubstr("fit.exclude: a cell of this sweep has no column 'sed'; nearest: "
                                 "seed"));
  sweep_.fit.exclude.clear();
  sweep_.fit.levels = {"loss.near"};
  EXPECT_THAT(fault(), HasSubstr("fit.levels: a cell of this sweep has no column 'loss.near'"));
}

TEST_F(Folders, AReportThatCannotBeWrittenIsKnownBefore) {
  EXPECT_TRUE(CheckReport(Path("a.html")).ok());
  EXPECT_TRUE(CheckReport(Path("new/and new/")).ok());
  EXPECT_TRUE(CheckReport(folder_.string()).ok());
  EXPECT_FALSE(std::filesystem::exists(Path("new"))) << "a look makes nothing";
  EXPECT_THAT(std::string(CheckReport(Path("new/a.html")).message()),
              HasSubstr("new is no folder"));
  Put("a.txt", "mine");
  EXPECT_THAT(std::string(CheckReport(Path("a.txt")).message()),
              HasSubstr("is something else already"));
  EXPECT_FALSE(CheckReport(Path("a.txt/")).ok());
}

// Whatever has that name: what cannot be looked at must not end a worker, nor be taken for nothing.
TEST_F(Folders, WhatLeadsNowhereIsThere) {
  Put("cells/abc/log.txt", "");
  const CellFolder folder = FolderOf(sweep_, cell_);
  EXPECT_FALSE(IsThere(folder.alone()));
  std::filesystem::create_symlink("alone", folder.alone());
  EXPECT_TRUE(IsThere(folder.alone()));
  std::filesystem::create_symlink("nowhere", folder.done());
  EXPECT_TRUE(StateOf(sweep_, cell_).done) << "a cell that is not done would be run for ever";
  EXPECT_THAT(std::string(CheckFinished(sweep_, cell_).message()),
              HasSubstr("done.json: cannot open: No such file or directory; it is no record"));
  std::filesystem::remove(folder.done());
  std::filesystem::create_directory(folder.done());
  EXPECT_THAT(std::string(CheckFinished(sweep_, cell_).message()), HasSubstr("is a folder"));
}

TEST_F(Folders, SettingsThatCannotBeReadAreNotTakenForUnchanged) {
  EXPECT_TRUE(ChangedSettings(sweep_).empty()) << "no cell was run";
  ASSERT_TRUE(KeepSettings(sweep_).ok());
  EXPECT_TRUE(ChangedSettings(sweep_).empty());
  std::filesystem::remove(Path("fit.txt"));
  std::filesystem::create_directory(Path("fit.txt"));
  EXPECT_THAT(ChangedSettings(sweep_),
              testing::ElementsAre(HasSubstr("fit.txt: is a folder, not a file")));
}

TEST_F(Folders, ABundleWithALinkToItselfIsNone) {
  Put("bundle/MANIFEST", "");
  Put("bundle/more/a.txt", "a");
  std::filesystem::create_symlink("b.txt", Path("bundle/b.txt"));
  EXPECT_THAT(std::string(CheckDigests(Path("bundle")).status().message()),
              HasSubstr("bundle/b.txt: is not in the MANIFEST"));
  Put("bundle/MANIFEST", "0  b.txt\n0  more/a.txt\n");
  EXPECT_FALSE(CheckDigests(Path("bundle")).ok());
}

}  // namespace
}  // namespace mneme
