#include "engine/sweep/sweep_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/sweep/bundle.h"
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
    "{\"key\": \"abc\", \"rho\": 1, \"seed\": 9, \"validation_loss\": 2.5, "
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
  Put("cells/abc/documents.json", "{\"documents\": [[3, 6.5]]}");
  EXPECT_EQ(fault(), "");
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
