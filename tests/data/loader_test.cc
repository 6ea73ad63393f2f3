#include "data/loader.h"

#include <limits>
#include <thread>

#include "data/files.h"
#include "gmock/gmock.h"
#include "tests/data/corpora.h"

namespace mneme {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

// Memory of a batch, filled beforehand with what no loader writes.
struct Batch {
  Batch(int64_t rows, int64_t length) : n(static_cast<size_t>(rows * length)), memory(4 * n, -77) {}
  BatchView view() {
    const auto part = [&](size_t i) { return absl::MakeSpan(memory).subspan(i * n, n); };
    return {.tokens = part(0), .targets = part(1), .positions = part(2), .doc_start = part(3)};
  }
  std::vector<int32_t> operator[](size_t i) const {
    const auto begin = memory.begin() + static_cast<ptrdiff_t>(i * n);
    return {begin, begin + static_cast<ptrdiff_t>(n)};
  }
  size_t n;
  std::vector<int32_t> memory;
};

TEST(FillRowTest, ResetStopsAtDocuments) {
  Batch batch(1, 6);
  const std::vector<int32_t> ids = {10, 11, 12, 13, 14, 15, 16};
  const std::vector<int64_t> documents = {4, 4, 5, 5, 5, 6, 6};
  EXPECT_EQ(FillRow(ids, documents, true, batch.view()), 4);
  EXPECT_THAT(batch[0], ElementsAre(10, 11, 12, 13, 14, 15));
  EXPECT_THAT(batch[1], ElementsAre(11, -1, 13, 14, -1, 16));
  EXPECT_THAT(batch[2], ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(batch[3], ElementsAre(0, 0, 2, 2, 2, 5));
}

TEST(FillRowTest, IgnoreCrosses) {
  Batch batch(1, 6);
  const std::vector<int32_t> ids = {10, 11, 12, 13, 14, 15, 16};
  const std::vector<int64_t> documents = {4, 4, 5, 5, 5, 6, 6};
  EXPECT_EQ(FillRow(ids, documents, false, batch.view()), 6);
  EXPECT_THAT(batch[1], ElementsAre(11, 12, 13, 14, 15, 16));
  EXPECT_THAT(batch[2], ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(batch[3], Each(0));
}

class LoaderTest : public CorpusScratch {
 protected:
  // Documents of 7, 1, 30, … letters; different texts by `salt`.
  std::string Corpus(const std::string& name, int documents, int salt) {
    std::string lines;
    for (int i = 0; i < documents; ++i) {
      std::string text;
      for (int j = 0; j < 1 + (i * 13 + 6) % 31; ++j) {
        text.push_back(static_cast<char>('a' + (i * i + j * salt) % 26));
      }
      lines += "{\"text\":\"" + text + "\"}\n";
    }
    PrepareOptions options = Options({Put(name + ".jsonl", lines)});
    options.output = Path(name);
    options.shard_tokens = 700;
    EXPECT_TRUE(Prepare(options).ok());
    return options.output;
  }
  // External ids with a beginning-of-document id: documents of 4 ids and the end.
  std::string ExternalCorpus() {
    std::vector<uint16_t> ids;
    for (int i = 0; i < 50; ++i) {
      for (int j = 0; j < 4; ++j) ids.push_back(static_cast<uint16_t>(10 + 4 * i + j));
      ids.push_back(1);
    }
    PrepareOptions options = Options({Put("ids.npy", Npy(ids, "<u2"))});
    options.output = Path("external");
    options.ids = {.eos = 1,
                   .bos = 0,
                   .pad = 2,
                   .vocabulary = 300,
                   .canonical = "",
                   .text_bytes = 1000,
                   .tokenizer_json = ""};
    EXPECT_TRUE(Prepare(options).ok());
    return options.output;
  }
  static DataConfig Config(const std::vector<std::string>& train) {
    DataConfig config;
    config.train = train;
    return config;
  }
  static std::string Error(const DataConfig& config, int64_t length) {
    const absl::Status status = Loader::Open(config, length).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
};

TEST_F(LoaderTest, RowsAreWhatTheCorpusHasAtTheirPlace) {
  const std::string folder = Corpus("a", 200, 3);
  const auto loader = Loader::Open(Config({folder}), 16);
  ASSERT_TRUE(loader.ok()) << loader.status();
  const auto corpus = Opened(folder);
  std::vector<int64_t> documents;
  const std::vector<int32_t> ids = Ids(*corpus, &documents);
  EXPECT_EQ((*loader)->tokens(), corpus->tokens());
  const SampleOrder order({corpus->tokens()}, {}, 16, 0);
  Batch batch(5, 16);
  const int64_t counted = (*loader)->Fill(40, 5, batch.view());
  int64_t expected = 0;
  for (size_t row = 0; row < 5; ++row) {
    const auto at = static_cast<size_t>(order.At(40 + static_cast<int64_t>(row)).begin);
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_EQ(batch[0][16 * row + i], ids[at + i]);
      const bool counts = documents[at + i] == documents[at + i + 1];
      EXPECT_EQ(batch[1][16 * row + i], counts ? ids[at + i + 1] : -1);
      expected += counts ? 1 : 0;
    }
  }
  EXPECT_EQ(counted, expected);
}

TEST_F(LoaderTest, AFillIsAFunctionOfTheSampleNumber) {
  const auto open = [&] {
    DataConfig config = Config({Corpus("a", 200, 3), Corpus("b", 90, 5)});
    config.weights = {0.5, 0.5};
    config.seed = 11;
    return *Loader::Open(config, 16);
  };
  const auto loader = open();
  Batch whole(12, 16);
  loader->Fill(1000, 12, whole.view());
  // Any split over ranks, threads or loaders gives the same rows.
  const auto other = open();
  std::vector<std::thread> threads;
  std::vector<Batch> parts(4, Batch(3, 16));
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      (t % 2 == 0 ? loader : other)->Fill(1000 + 3 * static_cast<int64_t>(t), 3, parts[t].view());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t part = 0; part < 4; ++part) {
    for (size_t array = 0; array < 4; ++array) {
      const std::vector<int32_t> all = whole[array];
      EXPECT_EQ(parts[part][array],
                std::vector<int32_t>(all.begin() + static_cast<int>(48 * part),
                                     all.begin() + static_cast<int>(48 * part) + 48));
    }
  }
}

TEST_F(LoaderTest, TheDigestChangesWithWhatIsRead) {
  const std::string a = Corpus("a", 200, 3);
  const std::string b = Corpus("b", 200, 5);
  const auto digest = [](const DataConfig& config) {
    return (*Loader::Open(config, 16))->digest();
  };
  const DataConfig base = Config({a});
  std::vector<std::string> digests = {digest(base), digest(Config({b})), digest(Config({a, b}))};
  DataConfig changed = base;
  changed.seed = 1;
  digests.push_back(digest(changed));
  changed = base;
  changed.doc_boundary = "ignore";
  digests.push_back(digest(changed));
  changed = Config({a, b});
  changed.weights = {0.25, 0.75};
  digests.push_back(digest(changed));
  for (size_t i = 0; i < digests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(digests[i], digests[j]);
  }
  std::filesystem::rename(a, Path("moved"));
  EXPECT_EQ(digest(Config({Path("moved")})), digests[0]);
}

TEST_F(LoaderTest, TheDigestTellsSmallWeightsApart) {
  const std::vector<std::string> corpora = {Corpus("a", 200, 3), Corpus("b", 200, 5)};
  std::vector<std::string> digests;
  for (const std::vector<double>& weights : std::vector<std::vector<double>>{
           {1.0, 0.0}, {1.0, 1e-7}, {1.0, 2e-7}, {1.0, 0.3333333}, {1.0, 1.0 / 3.0}}) {
    DataConfig config = Config(corpora);
    config.weights = weights;
    digests.push_back((*Loader::Open(config, 16))->digest());
    for (size_t i = 0; i + 1 < digests.size(); ++i) EXPECT_NE(digests[i], digests.back()) << i;
  }
}

// Digests that checkpoints hold rest on these texts.
TEST(ExactTextTest, SixDecimalsWhereTheyAreAllOfIt) {
  for (const double value : {0.0, 0.25, 0.7, 0.1, 1.0, 1e-6, 12.345678, 3e9})
    EXPECT_EQ(ExactText(value), std::to_string(value));
  EXPECT_EQ(ExactText(0.7), "0.700000");
  EXPECT_EQ(ExactText(1e-7), "1e-07");
  EXPECT_EQ(ExactText(0.1234567), "0.1234567");
  EXPECT_EQ(ExactText(1.0 / 3.0), "0.3333333333333333");
}

TEST_F(LoaderTest, BosStandsBeforeEveryDocument) {
  DataConfig config = Config({ExternalCorpus()});
  config.bos = true;
  const auto loader = Loader::Open(config, 299);
  ASSERT_TRUE(loader.ok()) << loader.status();
  EXPECT_EQ((*loader)->tokens(), 300);
  Batch batch(1, 299);
  // 50 documents: the target is BOS 49 times, and is not counted.
  EXPECT_EQ((*loader)->Fill(0, 1, batch.view()), 299 - 49);
  for (size_t i = 0; i < 299; ++i) {
    const auto d = static_cast<int32_t>(i / 6);
    const auto j = static_cast<int32_t>(i % 6);
    EXPECT_EQ(batch[0][i], j == 0 ? 0 : j == 5 ? 1 : 10 + 4 * d + j - 1) << i;
    EXPECT_EQ(batch[3][i], 6 * d);
  }
  // Short rows from any place agree with the long one.
  const auto pieces = Loader::Open(config, 7);
  const SampleOrder order({300}, {}, 7, 0);
  Batch piece(1, 7);
  for (int64_t sample = 0; sample < 42; ++sample) {
    (*pieces)->Fill(sample, 1, piece.view());
    const auto at = static_cast<int>(order.At(sample).begin);
    const std::vector<int32_t> tokens = batch[0];
    EXPECT_EQ(piece[0], std::vector<int32_t>(tokens.begin() + at, tokens.begin() + at + 7));
  }
}

TEST_F(LoaderTest, BadConfigurations) {
  const std::string a = Corpus("a", 20, 3);
  EXPECT_THAT(Error(Config({}), 16), HasSubstr("data.train"));
  EXPECT_THAT(Error(Config({a, ExternalCorpus()}), 16),
              AllOf(HasSubstr("different vocabularies"), HasSubstr("258"), HasSubstr("300")));
  const int64_t tokens = Opened(a)->tokens();
  EXPECT_THAT(Error(Config({a}), tokens),
              AllOf(HasSubstr(std::to_string(tokens)), HasSubstr(std::to_string(tokens + 1))));
  EXPECT_TRUE(Loader::Open(Config({a}), tokens - 1).ok());
  DataConfig config = Config({a});
  config.bos = true;
  EXPECT_THAT(Error(config, 16), HasSubstr("data.bos"));
  config = Config({a, a});
  config.weights = {1.0};
  EXPECT_THAT(Error(config, 16), HasSubstr("1 numbers for the 2 corpora"));
  config.weights = {0.0, 0.0};
  EXPECT_THAT(Error(config, 16), HasSubstr("all 0"));
  config.weights = {1.0, -0.5};
  EXPECT_THAT(Error(config, 16), HasSubstr("-0.5"));
  config.weights = {1.0, std::numeric_limits<double>::quiet_NaN()};
  EXPECT_THAT(Error(config, 16), HasSubstr("nan"));
  EXPECT_EQ(Loader::Open(Config({Path("absent")}), 16).status().code(),
            absl::StatusCode::kNotFound);
}

class HeldOutTest : public LoaderTest {
 protected:
  static std::unique_ptr<HeldOut> Open(const std::string& folder, int64_t sequences, int64_t length,
                                       const std::string& boundary = "reset") {
    auto held_out =
        HeldOut::Open({.name = "h", .data = folder, .sequences = sequences}, boundary, length);
    EXPECT_TRUE(held_out.ok()) << held_out.status();
    return *std::move(held_out);
  }
};

TEST_F(HeldOutTest, AllSequencesCountEveryTargetOnce) {
  const std::string folder = Corpus("a", 100, 3);
  const auto corpus = Opened(folder);
  for (const int64_t length : {7, 16, 100, 5000}) {
    for (const char* boundary : {"reset", "ignore"}) {
      const auto held_out = Open(folder, 0, length, boundary);
      const int64_t n = held_out->sequences();
      EXPECT_EQ(n, (corpus->tokens() - 2 + length) / length);
      Batch batch(n + 2, length);
      const int64_t counted = held_out->Fill(0, n + 2, batch.view());
      const bool reset = std::string(boundary) == "reset";
      EXPECT_EQ(counted, corpus->tokens() - 1 - (reset ? corpus->documents() - 1 : 0));
      std::vector<int32_t> targets;
      for (const int32_t id : batch[1]) {
        if (id >= 0) targets.push_back(id);
      }
      EXPECT_EQ(static_cast<int64_t>(targets.size()), counted);
      // Padding stays inside the vocabulary, in every array.
      EXPECT_THAT(batch[0], Each(AllOf(testing::Ge(0), testing::Lt(258))));
      EXPECT_THAT(batch[3], Each(testing::Ge(0)));
      // A byte a counted target; the ends of documents stand for none.
      const auto ends = std::count(targets.begin(), targets.end(), 256);
      EXPECT_EQ(held_out->text_bytes(), static_cast<double>(counted - ends));
    }
  }
}

TEST_F(HeldOutTest, FewSequencesAreSpreadEvenly) {
  const std::string folder = Corpus("a", 300, 3);
  const auto ids = Ids(*Opened(folder));
  const auto held_out = Open(folder, 4, 10);
  ASSERT_EQ(held_out->sequences(), 4);
  Batch batch(4, 10);
  held_out->Fill(0, 4, batch.view());
  const int64_t all = (static_cast<int64_t>(ids.size()) - 2 + 10) / 10;
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t begin = i * all / 4 * 10;
    for (int64_t j = 0; j < 10; ++j) {
      EXPECT_EQ(batch[0][static_cast<size_t>(10 * i + j)], ids[static_cast<size_t>(begin + j)]);
    }
  }
  EXPECT_EQ(Open(folder, 1 << 20, 10)->sequences(), all);
}

TEST_F(HeldOutTest, ExternalTextBytesGoByTokens) {
  const auto held_out = Open(ExternalCorpus(), 0, 10, "ignore");
  EXPECT_DOUBLE_EQ(held_out->text_bytes(), 249 * 1000.0 / 250);
}

}  // namespace
}  // namespace mneme
