#include "data/prepare.h"

#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <limits>

#include "data/files.h"
#include "data/manifest.h"
#include "data/npy.h"
#include "gmock/gmock.h"
#include "tests/data/corpora.h"

namespace mneme {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class PrepareTest : public CorpusScratch {
 protected:
  // The error of a preparation that must leave nothing behind but its inputs.
  absl::Status Fails(const PrepareOptions& options) const {
    const std::vector<std::string> before = Names(".");
    const absl::Status status = Prepare(options).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(Names("."), before);
    return status;
  }
  std::string Message(const PrepareOptions& options) const {
    return std::string(Fails(options).message());
  }
  PrepareOptions IdOptions(const std::string& input) const {
    PrepareOptions options = Options({input});
    options.ids.eos = 1;
    options.ids.vocabulary = 10;
    options.ids.text_bytes = 100;
    return options;
  }
};

TEST_F(PrepareTest, AFileIsADocument) {
  const std::string text = "one\n\n\ntwo \xE9 \x01";
  const auto corpus = Prepared(Options({Put("a.txt", text), Put("b.txt", "x")}));
  EXPECT_EQ(Text(*corpus), text + "|x|");
  EXPECT_EQ(corpus->documents(), 2);
  EXPECT_EQ(corpus->text_bytes(), 14);
  EXPECT_EQ(corpus->tokens(), 16);
  EXPECT_EQ(corpus->DocumentBegin(1), 14);
  EXPECT_EQ(corpus->vocabulary().tokenizer, "bytes");
  EXPECT_EQ(corpus->vocabulary().canonical_size, 229);
  EXPECT_THAT(Names("corpus"), ElementsAre("manifest.json", "shard-00000.h5", "vocabulary.h5"));
}

TEST_F(PrepareTest, BlankLinesCutDocuments) {
  PrepareOptions options = Options({Put("a.txt", "\n\na\nb\n \n\n\nc\n\nd\n\n\n\ne")});
  options.blank_lines = 2;
  EXPECT_EQ(Text(*Prepared(options)), "a\nb\n|c\n\nd\n|e|");
  options.blank_lines = 1;
  options.replace = true;
  EXPECT_EQ(Text(*Prepared(options)), "a\nb\n|c\n|d\n|e|");
}

TEST_F(PrepareTest, BlocksAreGroupedToASize) {
  PrepareOptions options = Options({Put("a.txt", "aaa\n\nbbb\n\nccc\n\nddd\n")});
  options.document_bytes = 7;
  EXPECT_EQ(Text(*Prepared(options)), "aaa\n\nbbb\n|ccc\n\nddd\n|");
  // Text without blank lines is cut at lines, at four times the size.
  std::string lines;
  for (int i = 0; i < 20; ++i) lines += "1234567\n";
  options = Options({Put("b.txt", lines)});
  options.document_bytes = 10;
  options.output = Path("lines");
  const auto corpus = Prepared(options);
  EXPECT_EQ(corpus->documents(), 4);
  EXPECT_EQ(corpus->DocumentBegin(1), 41);
}

TEST_F(PrepareTest, JsonLinesAreDocuments) {
  const std::string lines =
      "{\"text\": \"a\\n\\u00e9\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"\"}\r\n{\"text\":\"b\"}";
  const auto corpus = Prepared(Options({Put("a.jsonl", lines)}));
  EXPECT_EQ(Text(*corpus), "a\n\xC3\xA9|b|");
  PrepareOptions options = Options({Put("b.ndjson", "{\"body\": \"x\"}\n")});
  options.text_field = "body";
  options.output = Path("other");
  EXPECT_EQ(Text(*Prepared(options)), "x|");
}

// Beyond what a router keeps until a document's side is known, and what a writer keeps in memory.
TEST_F(PrepareTest, BlankDocumentsOfAnyLengthAreLeftOut) {
  const std::string blanks(300'000, ' ');
  const std::string more(5'000'000, '\n');
  PrepareOptions options =
      Options({Put("a.txt", blanks), Put("b.txt", "one"), Put("c.txt", more),
               Put("d.txt", blanks + "two"), Put("e.txt", blanks), Put("f.txt", more)});
  auto corpus = Prepared(options);
  EXPECT_TRUE(Text(*corpus) == "one|" + blanks + "two|");
  EXPECT_EQ(corpus->documents(), 2);
  EXPECT_EQ(corpus->text_bytes(), 300'006);
  options.shard_tokens = 1;
  options.output = Path("shards");
  corpus = Prepared(options);
  EXPECT_TRUE(Text(*corpus) == "one|" + blanks + "two|");
  EXPECT_THAT(Names("shards"),
              ElementsAre("manifest.json", "shard-00000.h5", "shard-00001.h5", "vocabulary.h5"));
  options = Options({Path("a.txt"), Path("c.txt")});
  options.output = Path("nothing");
  EXPECT_THAT(Message(options), HasSubstr("no text in it"));
}

// A file is read a MiB at a time: lines and documents lie across the borders, one is longer.
TEST_F(PrepareTest, WhatLiesAcrossReadsStaysWhole) {
  std::string lines, blocks, expected;
  const auto add = [&](size_t bytes, char c) {
    const std::string text(bytes, c);
    lines += "{\"text\": \"" + text + "\"}\r\n";
    blocks += text + "\n \r\n\n";
    expected += text + "|";
  };
  for (size_t i = 0; i < 60; ++i) add(20'000 + 977 * i, static_cast<char>('a' + i % 26));
  add((3 << 20) + 5, 'Z');
  add(7, 'y');
  ASSERT_GT(lines.size(), size_t{5} << 20);
  PrepareOptions options = Options({Put("a.jsonl", lines)});
  EXPECT_TRUE(Text(*Prepared(options)) == expected);
  options = Options({Put("b.txt", blocks)});
  options.blank_lines = 2;
  options.output = Path("blocks");
  std::string cut = expected;
  for (size_t at = cut.find('|'); at != std::string::npos; at = cut.find('|', at + 2))
    cut.insert(at, "\n");
  EXPECT_TRUE(Text(*Prepared(options)) == cut);
}

// The kernel cannot read the first page of a process: a file like any other, on a broken disk.
TEST_F(PrepareTest, AnInputThatCannotBeReadIsSaid) {
  const std::string path = Path("a.txt");
  std::filesystem::create_symlink("/proc/self/mem", path);
  const absl::Status status = Fails(Options({path}));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path + ": cannot read: Input/output error"));
  EXPECT_EQ(ReadFileBytes(path).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(PrepareTest, FoldersAreReadInOrder) {
  Put("in/b/2.txt", "two");
  Put("in/a.md", "one");
  Put("in/c.jsonl", "{\"text\":\"three\"}");
  Put("in/.hidden.txt", "no");
  Put("in/picture.png", "no");
  EXPECT_EQ(Text(*Prepared(Options({Path("in")}))), "one|two|three|");
}

TEST_F(PrepareTest, AByteOrderMarkIsDropped) {
  EXPECT_EQ(Text(*Prepared(Options({Put("a.txt", "\xEF\xBB\xBFhi")}))), "hi|");
}

TEST_F(PrepareTest, ShardsEndAtDocumentsAndReadAsOne) {
  std::string lines;
  std::string expected;
  for (int i = 0; i < 200; ++i) {
    const std::string text(static_cast<size_t>(1 + i % 17), static_cast<char>('a' + i % 26));
    lines += "{\"text\":\"" + text + "\"}\n";
    expected += text + "|";
  }
  PrepareOptions options = Options({Put("a.jsonl", lines)});
  options.shard_tokens = 100;
  const auto report = Prepare(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->corpora[0].shards, 10);
  const auto corpus = Opened(options.output);
  EXPECT_EQ(Text(*corpus), expected);
  std::vector<int64_t> documents;
  const std::vector<int32_t> ids = Ids(*corpus, &documents);
  int64_t document = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(documents[i], document);
    if (i == 0 || documents[i - 1] != document) {
      EXPECT_EQ(corpus->DocumentBegin(document), static_cast<int64_t>(i));
    }
    if (ids[i] == 256) ++document;
  }
  EXPECT_EQ(document, corpus->documents());
  // Any window is the same as in the whole.
  for (int64_t begin = 0; begin + 150 <= corpus->tokens(); begin += 37) {
    std::vector<int32_t> window(150);
    std::vector<int64_t> numbers(150);
    corpus->Read(begin, absl::MakeSpan(window), absl::MakeSpan(numbers));
    EXPECT_TRUE(std::equal(window.begin(), window.end(), ids.begin() + begin));
    EXPECT_TRUE(std::equal(numbers.begin(), numbers.end(), documents.begin() + begin));
  }
}

TEST_F(PrepareTest, HeldOutIsSplitByDocumentAndKeepsEverything) {
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "{\"text\":\"document " + std::to_string(i) + "\"}\n";
  PrepareOptions options = Options({Put("a.jsonl", lines)});
  options.held_out = 0.1;
  const auto report = Prepare(options);
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->corpora.size(), 2u);
  const auto train = Opened(Path("corpus/train"));
  const auto held_out = Opened(Path("corpus/held_out"));
  EXPECT_EQ(train->documents() + held_out->documents(), 1000);
  EXPECT_NEAR(static_cast<double>(held_out->documents()), 100.0, 35.0);
  EXPECT_EQ(train->vocabulary().digest, held_out->vocabulary().digest);
  EXPECT_NE(train->digest(), held_out->digest());
  // A document's side does not depend on its neighbours.
  const std::string held_text = Text(*held_out);
  PrepareOptions half = Options({Put("b.jsonl", lines.substr(lines.size() / 2))});
  half.inputs[0] = Put("b.jsonl", lines.substr(lines.find('\n', lines.size() / 2) + 1));
  half.held_out = 0.1;
  half.output = Path("half");
  ASSERT_TRUE(Prepare(half).ok());
  const std::string half_held = Text(*Opened(Path("half/held_out")));
  EXPECT_THAT(held_text, testing::EndsWith(half_held));
  // A bare folder of two is not a corpus, and says so.
  EXPECT_THAT(std::string(Corpus::Open(Path("corpus")).status().message()),
              AllOf(HasSubstr("two corpora"), HasSubstr("train")));
}

TEST_F(PrepareTest, TheSameAgainDoesNothing) {
  const PrepareOptions options = Options({Put("a.txt", "some text")});
  ASSERT_TRUE(Prepare(options).ok());
  const auto before = std::filesystem::last_write_time(Path("corpus/manifest.json"));
  Put("moved.txt", "some text");
  PrepareOptions again = options;
  again.inputs = {Path("moved.txt")};
  const auto report = Prepare(again);
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->already_there);
  EXPECT_EQ(report->corpora[0].tokens, 10);
  EXPECT_EQ(report->corpora[0].digest, Opened(Path("corpus"))->digest());
  EXPECT_EQ(std::filesystem::last_write_time(Path("corpus/manifest.json")), before);
}

TEST_F(PrepareTest, AShareThatDiffersALittleIsAnother) {
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "{\"text\": \"" + std::to_string(i) + "\"}\n";
  PrepareOptions options = Options({Put("a.jsonl", lines)});
  options.held_out = 0.3;
  ASSERT_TRUE(Prepare(options).ok());
  EXPECT_THAT(ReadManifest(Path("corpus/train"))->options, HasSubstr(" held_out=0.300000 "));
  EXPECT_TRUE(Prepare(options)->already_there);
  options.held_out = 0.3 + 1e-9;
  EXPECT_EQ(Fails(options).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PrepareTest, AnotherCorpusIsNotOverwrittenUnlessAsked) {
  PrepareOptions options = Options({Put("a.txt", "some text")});
  ASSERT_TRUE(Prepare(options).ok());
  options.inputs = {Put("b.txt", "other text")};
  EXPECT_EQ(Fails(options).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(*Opened(Path("corpus"))), "some text|");
  options.replace = true;
  ASSERT_TRUE(Prepare(options).ok());
  EXPECT_EQ(Text(*Opened(Path("corpus"))), "other text|");
  EXPECT_THAT(Names("."), ElementsAre("a.txt", "b.txt", "corpus"));
  // A folder with other things in it is nobody's to replace by accident.
  Put("mine/notes", "x");
  options.replace = false;
  options.output = Path("mine");
  EXPECT_EQ(Fails(options).code(), absl::StatusCode::kFailedPrecondition);
}

// --replace takes corpora away, and nothing that is more than one.
TEST_F(PrepareTest, WhatIsNoCorpusIsNeverReplaced) {
  PrepareOptions options = Options({Put("in/a.txt", "some text")});
  ASSERT_TRUE(Prepare(options).ok());
  const auto copy = [&](const std::string& name) {
    std::filesystem::copy(Path("corpus"), Path(name), std::filesystem::copy_options::recursive);
  };
  const auto refused = [&](const std::string& name, const std::string& what) {
    const auto all = [&] {
      std::vector<std::string> paths;
      for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
        paths.push_back(entry.path().string());
      }
      std::sort(paths.begin(), paths.end());
      return paths;
    };
    PrepareOptions replace = options;
    replace.inputs = {Put("in/b.txt", "other text")};
    replace.output = Path(name);
    replace.replace = true;
    const std::vector<std::string> before = all();
    const absl::Status status = Prepare(replace).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << name;
    EXPECT_EQ(all(), before) << name;
    std::filesystem::remove(Path("in/b.txt"));
  };
  Put("home/letters/1.txt", "dear");
  Put("home/.profile", "export");
  refused("home", ".profile, letters/; nothing was removed");
  Put("many/a", ""), Put("many/b", ""), Put("many/c", ""), Put("many/d", ""), Put("many/e", "");
  refused("many", "a, b, c, d and 1 more");
  refused("in/a.txt", "is no folder");
  copy("with_notes");
  Put("with_notes/notes.txt", "mine");
  refused("with_notes", "notes.txt; nothing was removed. Move that elsewhere");
  copy("with_folder");
  Put("with_folder/train/thesis.tex", "mine");
  refused("with_folder", "train/thesis.tex");
  copy("headless");
  std::filesystem::remove(Path("headless/manifest.json"));
  refused("headless", "has no manifest.json of a corpus");
  copy("other_manifest");
  Put("other_manifest/manifest.json", "{\"name\": \"an app\"}\n");
  refused("other_manifest", "has no manifest.json of a corpus");
  copy("folder_as_shard");
  Put("folder_as_shard/shard-00001.h5/data", "mine");
  refused("folder_as_shard", "shard-00001.h5/");
  Put("shards/shard-00000.h5", "of another program");
  refused("shards", "has no manifest.json of a corpus");
  std::filesystem::create_directory_symlink(Path("corpus"), Path("link"));
  refused("link", "is a link to");
  refused("link/", "is a link to");
  std::filesystem::create_directory_symlink(Path("nowhere"), Path("dangling"));
  refused("dangling", "is a link to");
  copy("with_link");
  std::filesystem::remove(Path("with_link/vocabulary.h5"));
  std::filesystem::create_symlink(Path("in/a.txt"), Path("with_link/vocabulary.h5"));
  refused("with_link", "vocabulary.h5; nothing was removed");
  Put(".fresh.preparing/mine.txt", "not a corpus's");
  refused("fresh", "mine.txt");
  copy("moved");
  Put(".moved.preparing.old/mine.txt", "not a corpus's");
  refused("moved", "mine.txt");
  Put(".gone.preparing.old/mine.txt", "not a corpus's");
  refused("gone", "mine.txt");
}

// A corpus made of its own files would replace them.
TEST_F(PrepareTest, WhatLiesInsideTheOutputIsNoInput) {
  PrepareOptions options = Options({Put("in/a.txt", "some text")});
  ASSERT_TRUE(Prepare(options).ok());
  options.replace = true;
  std::filesystem::create_directory_symlink(Path("corpus"), Path("link"));
  for (const std::string name : {"corpus/manifest.json", "link/manifest.json",
                                 "in/../corpus/manifest.json", "corpus/shard-00000.h5"}) {
    options.inputs = {Path("in/a.txt"), Path(name)};
    EXPECT_THAT(Message(options), HasSubstr(name + ": lies inside the output folder"));
    EXPECT_EQ(Text(*Opened(Path("corpus"))), "some text|");
  }
  Put("in/corpus/b.txt", "more text");
  options = Options({Path("in")});
  options.output = Path("in/corpus");
  EXPECT_THAT(Message(options), HasSubstr("b.txt: lies inside the output folder"));
  // Beside it, and with a name that begins like its own, it is one.
  options = Options({Put("corpus.txt", "other text")});
  options.replace = true;
  EXPECT_EQ(Text(*Prepared(options)), "other text|");
}

// Damaged or of two sides, a corpus stays one.
TEST_F(PrepareTest, EveryCorpusCanBeReplaced) {
  const std::string input = Put("a.txt", "some text");
  const auto replaced = [&](const std::string& name) {
    PrepareOptions options = Options({input});
    options.output = Path(name);
    options.replace = true;
    EXPECT_TRUE(Prepare(options).ok()) << name;
    EXPECT_EQ(Text(*Opened(options.output)), "some text|") << name;
  };
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "{\"text\":\"document " + std::to_string(i) + "\"}\n";
  PrepareOptions split = Options({Put("b.jsonl", lines)});
  split.held_out = 0.5;
  ASSERT_TRUE(Prepare(split).ok());
  replaced("corpus");
  PrepareOptions sharded = Options({Path("b.jsonl")});
  sharded.shard_tokens = 100;
  for (const std::string damage : {"manifest.json", "vocabulary.h5", "shard-00001.h5"}) {
    sharded.replace = true;
    ASSERT_TRUE(Prepare(sharded).ok());
    Flip(Path("corpus/" + damage), 600);
    replaced("corpus");
    ASSERT_TRUE(Prepare(sharded).ok());
    std::filesystem::resize_file(Path("corpus/" + damage), 100);
    replaced("corpus");
  }
  // Killed before its lock was taken away.
  Put("corpus/.lock", "");
  ASSERT_TRUE(Prepare(sharded).ok());
  // Killed when the old one had been moved away, and the new one had no name yet.
  std::filesystem::rename(Path("corpus"), Path(".corpus.preparing.old"));
  Put(".corpus.preparing/vocabulary.h5", "");
  replaced("corpus");
  EXPECT_THAT(Names("."), ElementsAre("a.txt", "b.jsonl", "corpus"));
}

TEST_F(PrepareTest, WhatWasMovedAwayComesBack) {
  ASSERT_TRUE(Prepare(Options({Put("a.txt", "some text")})).ok());
  std::filesystem::rename(Path("corpus"), Path(".corpus.preparing.old"));
  EXPECT_FALSE(Prepare(Options({Put("b.txt", "other text")})).ok());
  EXPECT_EQ(Text(*Opened(Path("corpus"))), "some text|");
  EXPECT_THAT(Names("."), ElementsAre("a.txt", "b.txt", "corpus"));
}

TEST_F(PrepareTest, TheSameInputGivesTheSameBytes) {
  PrepareOptions options = Options({Put("a.txt", "text\n\nmore")});
  ASSERT_TRUE(Prepare(options).ok());
  options.output = Path("twin");
  ASSERT_TRUE(Prepare(options).ok());
  for (const std::string& name : Names("corpus")) {
    EXPECT_EQ(Bytes(Path("corpus/" + name)), Bytes(Path("twin/" + name))) << name;
  }
}

TEST_F(PrepareTest, WhatAKilledProcessLeftIsRemoved) {
  Put(".corpus.preparing/shard-00000.h5", "half");
  Put(".corpus.preparing/.lock", "");
  ASSERT_TRUE(Prepare(Options({Put("a.txt", "x")})).ok());
  EXPECT_THAT(Names("."), ElementsAre("a.txt", "corpus"));
  EXPECT_THAT(Names("corpus"), ElementsAre("manifest.json", "shard-00000.h5", "vocabulary.h5"));
}

TEST_F(PrepareTest, KilledAtAnyMomentThereIsAWholeCorpusOrNone) {
  PrepareOptions options = Options({Put("a.txt", std::string(2 << 20, 'a'))});
  options.document_bytes = 1000;
  options.shard_tokens = 300000;
  int whole = 0;
  for (useconds_t delay = 0; delay < 100000; delay += 4000) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      (void)Prepare(options);
      _exit(0);
    }
    usleep(delay);
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    if (!std::filesystem::exists(Path("corpus"))) continue;
    EXPECT_EQ(Opened(Path("corpus"))->text_bytes(), 2 << 20);
    std::filesystem::remove_all(Path("corpus"));
    ++whole;
  }
  EXPECT_LT(whole, 25);
  ASSERT_TRUE(Prepare(options).ok());
  EXPECT_THAT(Names("."), ElementsAre("a.txt", "corpus"));
}

TEST_F(PrepareTest, OnlyOneWorksOnAFolder) {
  const std::string lock = Put(".corpus.preparing/.lock", "");
  std::FILE* other = std::fopen(lock.c_str(), "r");
  ASSERT_EQ(flock(fileno(other), LOCK_EX | LOCK_NB), 0);
  const std::string input = Put("a.txt", "x");
  EXPECT_THAT(Message(Options({input})), HasSubstr("another process"));
  std::fclose(other);
  EXPECT_TRUE(Prepare(Options({input})).ok());
}

TEST_F(PrepareTest, AnEmptyFolderAndATrailingSlashAreFine) {
  std::filesystem::create_directories(Path("corpus"));
  PrepareOptions options = Options({Put("a.txt", "x")});
  options.output += "/";
  EXPECT_TRUE(Prepare(options).ok());
  EXPECT_EQ(Text(*Opened(Path("corpus"))), "x|");
}

TEST_F(PrepareTest, ProgressCountsUpToTheEnd) {
  PrepareOptions options = Options({Put("a.txt", std::string(40 << 20, 'a'))});
  std::vector<int64_t> done;
  options.progress = [&](const PrepareProgress& at) {
    done.push_back(at.bytes_done);
    EXPECT_EQ(at.bytes_total, 40 << 20);
  };
  ASSERT_TRUE(Prepare(options).ok());
  ASSERT_GE(done.size(), 3u);
  EXPECT_EQ(done.back(), 40 << 20);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
}

TEST_F(PrepareTest, AFullDiskIsSaidAndLeavesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  const PrepareOptions options = Options({Put("a.txt", std::string(9 << 20, 'a'))});
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  for (const rlim_t limit : {rlim_t{1} << 20, rlim_t{12} << 20, rlim_t{1000}}) {
    rlimit small = before;
    small.rlim_cur = limit;
    setrlimit(RLIMIT_FSIZE, &small);
    const absl::Status status = Fails(options);
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  }
}

TEST_F(PrepareTest, IdsMadeElsewhere) {
  PrepareOptions options = Options({Put("a.npy", Npy<uint16_t>({5, 6, 1, 7, 1, 8}, "<u2")),
                                    Put("b.npy", Npy<uint32_t>({9, 1}, "<u4"))});
  options.ids.eos = 1;
  options.ids.pad = 2;
  options.ids.bos = 0;
  options.ids.vocabulary = 12;
  options.ids.text_bytes = 34;
  options.ids.canonical = Put("map.npy", Npy<int32_t>({0, 1, 2, 3, 3, 3, 4, 4, 5, 6}, "<i4"));
  options.ids.tokenizer_json = Put("tokenizer.json", "{\"model\": {}}");
  const auto corpus = Prepared(options);
  std::vector<int64_t> documents;
  EXPECT_THAT(Ids(*corpus, &documents), ElementsAre(5, 6, 1, 7, 1, 8, 9, 1));
  EXPECT_THAT(documents, ElementsAre(0, 0, 0, 1, 1, 2, 3, 3));
  EXPECT_EQ(corpus->text_bytes(), 34);
  const VocabularyInfo& v = corpus->vocabulary();
  EXPECT_EQ(v.size, 12);
  EXPECT_EQ(v.canonical_size, 7);
  EXPECT_THAT(v.canonical, ElementsAre(0, 1, 2, 3, 3, 3, 4, 4, 5, 6, 2, 2));  // padding goes to pad
  EXPECT_EQ(v.tokenizer, "external");
  EXPECT_EQ(v.tokenizer_json, "{\"model\": {}}");
}

// Ids are read 2^18 at a time.
TEST_F(PrepareTest, DocumentsOfIdsLieAcrossReads) {
  std::vector<uint16_t> ids;
  std::vector<int64_t> documents;
  for (int64_t i = 0, document = 0; i < 600'000; ++i) {
    const bool ends = i % 50'021 == 50'020;
    ids.push_back(static_cast<uint16_t>(ends ? 1 : 2 + i % 8));
    documents.push_back(document);
    document += ends ? 1 : 0;
  }
  const auto corpus = Prepared(IdOptions(Put("a.npy", Npy(ids, "<u2"))));
  std::vector<int64_t> got;
  const std::vector<int32_t> want(ids.begin(), ids.end());
  EXPECT_TRUE(Ids(*corpus, &got) == want);
  EXPECT_TRUE(got == documents);
  ids[500'000] = 10;
  PrepareOptions options = IdOptions(Put("b.npy", Npy(ids, "<u2")));
  options.output = Path("bad");
  EXPECT_THAT(Message(options),
              HasSubstr("id 10 at position 500000 is outside the vocabulary of 10"));
}

TEST_F(PrepareTest, WideVocabulariesAreKept) {
  PrepareOptions options = IdOptions(Put("a.npy", Npy<int64_t>({70000, 99999, 1}, "<i8")));
  options.ids.vocabulary = 100000;
  const auto corpus = Prepared(options);
  EXPECT_THAT(Ids(*corpus), ElementsAre(70000, 99999, 1));
  EXPECT_EQ(corpus->vocabulary().canonical_size, 100000);
  EXPECT_EQ(corpus->vocabulary().canonical[99999], 99999);
}

TEST_F(PrepareTest, HeldOutIdsShareTheTextBytesByTokens) {
  std::vector<uint16_t> ids;
  for (int i = 0; i < 3000; ++i) ids.push_back(static_cast<uint16_t>(i % 3 == 2 ? 1 : 2 + i % 7));
  PrepareOptions options = IdOptions(Put("a.npy", Npy(ids, "<u2")));
  options.ids.text_bytes = 9000;
  options.held_out = 0.3;
  ASSERT_TRUE(Prepare(options).ok());
  const auto train = Opened(Path("corpus/train"));
  const auto held_out = Opened(Path("corpus/held_out"));
  EXPECT_EQ(train->tokens() + held_out->tokens(), 3000);
  EXPECT_EQ(train->text_bytes(), 3 * train->tokens());
  EXPECT_EQ(held_out->text_bytes(), 3 * held_out->tokens());
}

// Each case: one message that names the place, the right code, nothing left behind.
TEST_F(PrepareTest, BadTextInputs) {
  const auto code = [&](const PrepareOptions& options) { return Fails(options).code(); };
  EXPECT_EQ(code(Options({})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Options({Path("absent.txt")})), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Options({Path("absent.txt")})), HasSubstr("absent.txt"));
  Put("empty/notes.pdf", "x");
  EXPECT_THAT(Message(Options({Path("empty")})), HasSubstr("holds no *.txt"));
  EXPECT_THAT(Message(Options({Put("a.txt", "")})),
              AllOf(HasSubstr("a.txt"), HasSubstr("no text")));
  EXPECT_THAT(Message(Options({Put("b.txt", " \n\t\n")})), HasSubstr("no text"));
  EXPECT_THAT(Message(Options({Put("c.txt", std::string("\x1F\x8B\x08", 3))})),
              HasSubstr("gzip -dk"));
  EXPECT_THAT(Message(Options({Put("d.txt", std::string("\xFD"
                                                        "7zXZ\0",
                                                        6))})),
              HasSubstr("xz -dk"));
  EXPECT_THAT(Message(Options({Put("e.txt", "\xFF\xFEh")})), HasSubstr("iconv"));
  EXPECT_THAT(Message(Options({Put("g.txt", std::string("\xEF\xBB\xBFtext\0", 8))})),
              HasSubstr("g.txt: is no text: byte 0 at offset 7; give UTF-8 text"));
  EXPECT_THAT(Message(Options({Put("h.h5", std::string("\x89HDF\r\n\x1A\n\0", 9))})),
              HasSubstr("byte 0 at offset 8"));
  // Beyond the first read, and after what has been written.
  PrepareOptions late = Options({Put("i.jsonl", std::string(3 << 20, '\n') + '\0')});
  EXPECT_THAT(Message(late), HasSubstr("i.jsonl: is no text: byte 0 at offset 3145728"));
  late.inputs = {Put("j.txt", std::string(3 << 20, 'a') + '\0')};
  EXPECT_THAT(Message(late), HasSubstr("j.txt: is no text: byte 0 at offset 3145728"));
  late.document_bytes = 1000;
  EXPECT_THAT(Message(late), HasSubstr("j.txt: is no text: byte 0 at offset 3145728"));
  PrepareOptions none = Options({Put("f.txt", "x")});
  none.output = "";
  EXPECT_EQ(code(none), absl::StatusCode::kInvalidArgument);
  PrepareOptions share = Options({Put("f.txt", "x")});
  share.held_out = 1.0;
  EXPECT_THAT(Message(share), HasSubstr("share is 1;"));
  share.held_out = 0.5;
  EXPECT_THAT(Message(share), HasSubstr("leaves none"));
  PrepareOptions size = Options({Put("f.txt", "x")});
  size.document_bytes = int64_t{1} << 62;
  EXPECT_THAT(Message(size), HasSubstr("--document-bytes is 4611686018427387904; it must be"));
  PrepareOptions file = Options({Put("f.txt", "x")});
  file.output = Path("f.txt");
  EXPECT_EQ(code(file), absl::StatusCode::kFailedPrecondition);
  file.output = Path("f.txt/corpus");
  EXPECT_FALSE(Prepare(file).ok());
}

TEST_F(PrepareTest, BadJsonLines) {
  const auto message = [&](const std::string& lines) {
    return Message(Options({Put("a.jsonl", lines)}));
  };
  EXPECT_THAT(message("{\"text\":\"a\"}\n{\"text\":\"b\"\n"), HasSubstr("a.jsonl:2: is not JSON"));
  EXPECT_THAT(message("[1]\n"), HasSubstr("a.jsonl:1: is not a JSON object"));
  EXPECT_THAT(message("\n\n{\"body\":\"a\"}\n"), HasSubstr("a.jsonl:3: has no field 'text'"));
  EXPECT_THAT(message("{\"text\": 5}\n"), HasSubstr("'text' is not a string"));
  EXPECT_THAT(message("{\"text\": \"\xE9\"}\n"), HasSubstr("a.jsonl:1: is not JSON"));
  EXPECT_THAT(message("{\"text\": \"\\ud800\"}\n"), HasSubstr("a.jsonl:1:"));
}

TEST_F(PrepareTest, BadIds) {
  const auto with = [&](const std::string& bytes) {
    return Message(IdOptions(Put("a.npy", bytes)));
  };
  const std::vector<uint16_t> ids = {5, 1, 6, 1};
  EXPECT_THAT(with(Npy<float>({1.0f, 2.0f}, "<f4")), AllOf(HasSubstr("a.npy"), HasSubstr("<f4")));
  EXPECT_THAT(with(Npy(ids, ">u2")), HasSubstr(">u2"));
  EXPECT_THAT(with(Npy(ids, "<u2", "True")), HasSubstr("Fortran"));
  EXPECT_THAT(with(Npy(ids, "<u2", "False", "(2, 2)")), HasSubstr("(2, 2)"));
  EXPECT_THAT(with(Npy(ids, "<u2", "False", "()")), HasSubstr("()"));
  EXPECT_THAT(with(Npy(ids, "<u2").substr(0, 130)), HasSubstr("truncated"));
  EXPECT_THAT(with(Npy(ids, "<u2") + "x"), HasSubstr("something else follows its ids"));
  EXPECT_THAT(with("plain text"), HasSubstr("is not a .npy file"));
  EXPECT_THAT(with(""), HasSubstr("is not a .npy file"));
  EXPECT_THAT(with(Npy<uint16_t>({5, 1, 10, 1}, "<u2")), HasSubstr("id 10 at position 2"));
  EXPECT_THAT(with(Npy<int32_t>({5, 1, -3, 1}, "<i4")), HasSubstr("id -3 at position 2"));
  EXPECT_THAT(with(Npy<uint16_t>({}, "<u2")), HasSubstr("no text"));
}

TEST_F(PrepareTest, BadIdOptions) {
  const std::string input = Put("a.npy", Npy<uint16_t>({5, 1, 6, 1}, "<u2"));
  const auto with = [&](auto change) {
    PrepareOptions options = IdOptions(input);
    change(options);
    return Message(options);
  };
  EXPECT_THAT(with([](auto& o) { o.ids.eos = -1; }), HasSubstr("give --eos"));
  EXPECT_THAT(with([](auto& o) { o.ids.eos = -2; }),
              HasSubstr("--eos: the end-of-document id is -2"));
  EXPECT_THAT(with([](auto& o) { o.ids.eos = 10; }), HasSubstr("below the vocabulary's 10"));
  EXPECT_THAT(with([](auto& o) { o.ids.pad = 11; }), HasSubstr("pad id is 11"));
  EXPECT_THAT(with([](auto& o) { o.ids.bos = -2; }), HasSubstr("-2"));
  EXPECT_THAT(with([](auto& o) { o.ids.vocabulary = 0; }), HasSubstr("size of their vocabulary"));
  EXPECT_THAT(with([](auto& o) { o.ids.vocabulary = -1; }), HasSubstr("--vocabulary is -1;"));
  EXPECT_THAT(
      with([](auto& o) { o.ids.vocabulary = 1'000'000'001; }),
      HasSubstr("--vocabulary is 1000000001; it must be at least 1 and at most 1000000000"));
  EXPECT_THAT(with([](auto& o) { o.ids.text_bytes = 0; }), HasSubstr("UTF-8 bytes"));
  EXPECT_THAT(with([](auto& o) { o.ids.text_bytes = std::numeric_limits<int64_t>::max(); }),
              HasSubstr("--text-bytes is 9223372036854775807; it must be at most"));
  EXPECT_THAT(with([&](auto& o) { o.ids.tokenizer_json = Path("no.json"); }), HasSubstr("no.json"));
  const auto tokenizer = [&](const std::string& text) {
    const std::string path = Put("tokenizer.json", text);
    return with([&](auto& o) { o.ids.tokenizer_json = path; });
  };
  EXPECT_THAT(tokenizer("{\"model\": {"), HasSubstr("tokenizer.json: is not JSON: column 12: "));
  EXPECT_THAT(tokenizer("[]"), HasSubstr("tokenizer.json: is no JSON object"));
  EXPECT_THAT(tokenizer("\xEF\xBB\xBF{}"), HasSubstr("begins with a byte order mark"));
  const auto map = [&](const std::vector<int32_t>& values) {
    const std::string path = Put("map.npy", Npy(values, "<i4"));
    return with([&](auto& o) { o.ids.canonical = path; });
  };
  EXPECT_THAT(map({0, 1, 2, 9, 4, 5}), HasSubstr("maps id 3 to 9"));
  EXPECT_THAT(map({0, 1, -1}), HasSubstr("maps id 2 to -1"));
  EXPECT_THAT(map({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}), HasSubstr("maps 11 ids"));
  EXPECT_THAT(map({0, 1, 2, 3}), HasSubstr("name a pad id below 4"));
  EXPECT_THAT(map({}), HasSubstr("empty"));
  const std::string not_ids = " is for text; this input is token ids (.npy): ";
  EXPECT_THAT(with([](auto& o) { o.blank_lines = 1; }), HasSubstr("--blank-lines" + not_ids));
  EXPECT_THAT(with([](auto& o) { o.document_bytes = 9; }), HasSubstr("--document-bytes" + not_ids));
  EXPECT_THAT(with([](auto& o) { o.text_field = "body"; }), HasSubstr("--text-field" + not_ids));
  PrepareOptions mixed = IdOptions(input);
  mixed.inputs.push_back(Put("b.txt", "x"));
  EXPECT_THAT(Message(mixed), HasSubstr("mix"));
}

TEST_F(PrepareTest, OptionsOfIdsDoNotGoWithText) {
  const auto refused = [&](const std::string& option, auto change) {
    PrepareOptions options = Options({Put("a.txt", "some text")});
    change(options.ids);
    EXPECT_THAT(Message(options),
                HasSubstr(option + " is for token ids (.npy); this input is text: "));
  };
  refused("--eos", [](auto& ids) { ids.eos = 1; });
  refused("--bos", [](auto& ids) { ids.bos = 1; });
  refused("--pad", [](auto& ids) { ids.pad = 1; });
  refused("--vocabulary", [](auto& ids) { ids.vocabulary = 100; });
  refused("--canonical", [](auto& ids) { ids.canonical = "map.npy"; });
  refused("--text-bytes", [](auto& ids) { ids.text_bytes = 9; });
  refused("--tokenizer-json", [](auto& ids) { ids.tokenizer_json = "tokenizer.json"; });
}

}  // namespace
}  // namespace mneme
