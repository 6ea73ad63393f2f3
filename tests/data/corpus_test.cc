#include "data/corpus.h"

#include <thread>

#include "data/files.h"
#include "data/hdf5_file.h"
#include "data/manifest.h"
#include "gmock/gmock.h"
#include "tests/data/corpora.h"

namespace mneme {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class CorpusTest : public CorpusScratch {
 protected:
  CorpusTest() {
    std::string lines;
    for (int i = 0; i < 300; ++i) lines += "{\"text\":\"line number " + std::to_string(i) + "\"}\n";
    PrepareOptions options = Options({Put("a.jsonl", lines)});
    options.shard_tokens = 2000;
    EXPECT_TRUE(Prepare(options).ok());
  }
  std::string In(const std::string& name) const { return Path("corpus/" + name); }
  // Opens the spoilt corpus: the code must be DataLoss, and the message name the file.
  std::string Spoilt(const std::string& file) const {
    const absl::Status status = Corpus::Open(Path("corpus")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("corpus/" + file));
    EXPECT_EQ(std::string(status.message()).find('\n'), std::string::npos);
    return std::string(status.message());
  }
  Manifest Read() const {
    auto manifest = ReadManifest(Path("corpus"));
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    return *manifest;
  }
  void Write(const Manifest& manifest) const {
    Put("corpus/manifest.json", ManifestText(manifest));
  }
  // A manifest entry as it would be for the file as it lies there now.
  ManifestFile Entry(const std::string& name) const {
    return {.name = name, .bytes = *FileSize(In(name)), .digest = *FileDigest(In(name))};
  }
};

TEST_F(CorpusTest, OneFlippedBitAnywhereIsSeen) {
  ASSERT_TRUE(Corpus::Open(Path("corpus")).ok());
  for (const std::string& name : Names("corpus")) {
    const std::string good = Bytes(In(name));
    for (size_t at = 0; at < good.size(); at += 1 + good.size() / 60) {
      Flip(In(name), at);
      Spoilt(name);
      Put("corpus/" + name, good);
    }
  }
  EXPECT_TRUE(Corpus::Open(Path("corpus")).ok());
}

TEST_F(CorpusTest, OneMissingOrAddedByteIsSeen) {
  for (const std::string& name : Names("corpus")) {
    const std::string good = Bytes(In(name));
    for (const size_t size : {size_t{0}, good.size() / 2, good.size() - 1}) {
      Put("corpus/" + name, good.substr(0, size));
      Spoilt(name);
    }
    Put("corpus/" + name, good + "x");
    Spoilt(name);
    Put("corpus/" + name, good);
  }
  EXPECT_TRUE(Corpus::Open(Path("corpus")).ok());
}

TEST_F(CorpusTest, MissingFilesAreNamed) {
  for (const char* name : {"shard-00001.h5", "vocabulary.h5"}) {
    std::filesystem::rename(In(name), Path("away"));
    EXPECT_THAT(Spoilt(name), HasSubstr("is missing"));
    std::filesystem::rename(Path("away"), In(name));
  }
  std::filesystem::rename(In("manifest.json"), Path("away"));
  const absl::Status status = Corpus::Open(Path("corpus")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("corpus"), HasSubstr("not a corpus")));
  EXPECT_THAT(std::string(Corpus::Open(Path("no such")).status().message()),
              HasSubstr("no such folder"));
  EXPECT_THAT(std::string(Corpus::Open(Path("a.jsonl")).status().message()),
              HasSubstr("no such folder"));
}

TEST_F(CorpusTest, ManifestsThatAreNone) {
  const std::string good = Bytes(In("manifest.json"));
  for (const char* text : {"[]", "{}", "null", "{\"format\": \"other\"}", "{\"format\": 1}"}) {
    Put("corpus/manifest.json", text);
    EXPECT_THAT(Spoilt("manifest.json"), HasSubstr("is not the manifest")) << text;
  }
  for (const auto& [text, why] :
       {std::pair<std::string, const char*>("", "is not JSON: column 1"),
        {good.substr(0, 60), "is not JSON: line 4, column "},
        {"{\"format\": " + std::string(1'000'000, '['), "deeper than 64"},
        {good.substr(0, 2) + "\"tokens\": 5," + good.substr(2), "twice"}}) {
    Put("corpus/manifest.json", text);
    EXPECT_THAT(Spoilt("manifest.json"), HasSubstr(why)) << text.substr(0, 40);
  }
  std::string later = good;
  later.replace(later.find("\"version\": 1"), 12, "\"version\": 2");
  Put("corpus/manifest.json", later);
  EXPECT_THAT(Spoilt("manifest.json"), HasSubstr("version 2, this program reads 1"));
  std::string edited = good;
  edited.replace(edited.find("\"text_bytes\""), 12, "\"text_Bytes\"");
  Put("corpus/manifest.json", edited);
  EXPECT_THAT(Spoilt("manifest.json"), HasSubstr("changed or damaged"));
}

// Bytes of a manifest as the first version wrote them, names that are no UTF-8 among them: a corpus
// of that day opens, and its digest is of this text.
constexpr char kManifestText[] = R"json({
  "format": "mneme-corpus",
  "version": 1,
  "tokens": 70,
  "documents": 3,
  "text_bytes": 69,
  "vocabulary_digest": "00112233445566ff",
  "vocabulary": {
    "file": "vocabulary.h5",
    "bytes": 4096,
    "digest": "0123456789abcdef"
  },
  "shards": [
    {
      "file": "shard-00000.h5",
      "bytes": 2048,
      "digest": "fedcba9876543210",
      "tokens": 50,
      "documents": 2,
      "text_bytes": 49,
      "content": "1111111111111111"
    },
    {
      "file": "shard-00001.h5",
      "bytes": 1024,
      "digest": "89abcdef01234567",
      "tokens": 20,
      "documents": 1,
      "text_bytes": 20,
      "content": "2222222222222222"
    }
  ],
  "inputs": [
    {
      "file": "/texts/été \"書\"\\\n.txt",
      "bytes": 69,
      "digest": "3333333333333333"
    },
    {
      "file": "/texts/�.txt\u0001�",
      "bytes": 0,
      "digest": "4444444444444444"
    }
  ],
  "options": "blank_lines=2",
  "digest": "b503bc1752551cd6"
}
)json";

TEST(ManifestText, IsWhatItWasFromTheFirstOneOn) {
  Manifest m;
  m.vocabulary_digest = "00112233445566ff";
  m.vocabulary = {"vocabulary.h5", 4096, "0123456789abcdef"};
  m.tokens = 70;
  m.documents = 3;
  m.text_bytes = 69;
  m.shards = {{{"shard-00000.h5", 2048, "fedcba9876543210"}, 50, 2, 49, "1111111111111111"},
              {{"shard-00001.h5", 1024, "89abcdef01234567"}, 20, 1, 20, "2222222222222222"}};
  m.inputs = {{"/texts/\u00e9t\u00e9 \"\u66f8\"\\\n.txt", 69, "3333333333333333"},
              {"/texts/\xE2\x82.txt\x01\xFF", 0, "4444444444444444"}};
  m.options = "blank_lines=2";
  EXPECT_EQ(ManifestText(m), kManifestText);
}

TEST_F(CorpusTest, AManifestOfTheFirstVersionIsRead) {
  Put("old/manifest.json", kManifestText);
  const auto old = ReadManifest(Path("old"));
  ASSERT_TRUE(old.ok()) << old.status();
  EXPECT_EQ(old->shards.at(1).content, "2222222222222222");
  EXPECT_EQ(old->inputs.at(0).name, "/texts/\u00e9t\u00e9 \"\u66f8\"\\\n.txt");
  EXPECT_EQ(ManifestText(*old), kManifestText);
}

TEST_F(CorpusTest, ManifestsThatDoNotFitTheirFiles) {
  Manifest manifest = Read();
  manifest.tokens += 1;
  Write(manifest);
  EXPECT_THAT(Spoilt("manifest.json"), HasSubstr("add up"));

  manifest.shards[0].tokens += 1;
  Write(manifest);
  EXPECT_THAT(Spoilt("shard-00000.h5"), HasSubstr("'tokens'"));

  manifest.shards[0].tokens -= 1;
  manifest.tokens -= 1;
  manifest.documents += 1;
  manifest.shards[0].documents += 1;
  Write(manifest);
  EXPECT_THAT(Spoilt("shard-00000.h5"), HasSubstr("'document_begins'"));

  manifest.documents -= 1;
  manifest.shards[0].documents -= 1;
  manifest.vocabulary_digest = "0123456789abcdef";
  Write(manifest);
  EXPECT_THAT(Spoilt("vocabulary.h5"), HasSubstr("0123456789abcdef"));
}

TEST_F(CorpusTest, AShardOfAnotherVocabularyIsRefused) {
  PrepareOptions options = Options({Put("ids.npy", Npy<uint16_t>({3, 4, 0}, "<u2"))});
  options.output = Path("other");
  options.ids = {.eos = 0,
                 .bos = -1,
                 .pad = -1,
                 .vocabulary = 258,
                 .canonical = "",
                 .text_bytes = 10,
                 .tokenizer_json = ""};
  ASSERT_TRUE(Prepare(options).ok());
  Put("corpus/shard-00001.h5", Bytes(Path("other/shard-00000.h5")));
  Manifest manifest = Read();
  manifest.shards[1].file = Entry("shard-00001.h5");
  Write(manifest);
  EXPECT_THAT(Spoilt("shard-00001.h5"), HasSubstr("was made for vocabulary"));
}

// A model takes no more; said before a map of that size is read.
TEST_F(CorpusTest, AVocabularyBeyondAModelsIsRefused) {
  auto file = H5File::Create(In("vocabulary.h5"));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<int64_t> ids = {2'000'000'000, 1, -1, -1, 2'000'000'000};
  ASSERT_TRUE((*file)->Write("ids", H5Type::kI64, {5}, ids.data()).ok());
  ASSERT_TRUE((*file)->Close().ok());
  Manifest manifest = Read();
  manifest.vocabulary = Entry("vocabulary.h5");
  Write(manifest);
  const absl::Status status = Corpus::Open(Path("corpus")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("vocabulary.h5: the vocabulary has 2000000000 ids, a model's at most"));
}

TEST_F(CorpusTest, FilesThatAreNotHdf5AreRefused) {
  Put("corpus/shard-00000.h5", std::string(5000, 'x'));
  Manifest manifest = Read();
  manifest.shards[0].file = Entry("shard-00000.h5");
  Write(manifest);
  EXPECT_THAT(Spoilt("shard-00000.h5"), HasSubstr("not an HDF5 file"));
}

TEST_F(CorpusTest, ManyThreadsReadTheSame) {
  const auto corpus = Opened(Path("corpus"));
  std::vector<int64_t> documents;
  const std::vector<int32_t> ids = Ids(*corpus, &documents);
  std::vector<std::thread> threads;
  std::array<bool, 4> same{};
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const auto mine = Corpus::Open(Path("corpus"));
      same[t] = mine.ok();
      for (int64_t begin = static_cast<int64_t>(t); begin + 100 <= corpus->tokens(); begin += 53) {
        std::vector<int32_t> window(100);
        std::vector<int64_t> numbers(100);
        const Corpus& from = begin % 2 == 0 || !mine.ok() ? *corpus : **mine;
        from.Read(begin, absl::MakeSpan(window), absl::MakeSpan(numbers));
        same[t] = same[t] && std::equal(window.begin(), window.end(), ids.begin() + begin) &&
                  std::equal(numbers.begin(), numbers.end(), documents.begin() + begin);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(same, testing::Each(true));
}

TEST_F(CorpusTest, TheDigestNamesTheData) {
  const std::string digest = Opened(Path("corpus"))->digest();
  std::filesystem::rename(Path("corpus"), Path("moved"));
  EXPECT_EQ(Opened(Path("moved"))->digest(), digest);
  EXPECT_NE(Prepared(Options({Put("b.txt", "x")}))->digest(), digest);
}

}  // namespace
}  // namespace mneme
