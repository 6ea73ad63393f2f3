// Conversion against stored models of transformers (fixtures/, make_fixtures.py), and there and
// back.
#include "engine/convert/convert.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <tuple>

#include "configs/load.h"
#include "data/files.h"
#include "data/json_file.h"
#include "engine/convert/inspect.h"
#include "engine/convert/logits.h"
#include "engine/convert/tensor_set.h"
#include "engine/convert/weight_folder.h"
#include "tests/data/scratch.h"
#include "tests/engine/tiny_run.h"

namespace mneme {
namespace {

using testing::HasSubstr;

const std::string kFixtures = MNEME_FIXTURES;

template <class T>
std::vector<T> Numbers(const std::string& path) {
  const auto text = ReadFileBytes(path);
  EXPECT_TRUE(text.ok()) << text.status();
  std::vector<T> numbers(text.ok() ? text->size() / sizeof(T) : 0);
  if (text.ok()) text->copy(reinterpret_cast<char*>(numbers.data()), numbers.size() * sizeof(T));
  return numbers;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// The files of a folder and what they hold.
std::map<std::string, std::string> Contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    files[entry.path().lexically_relative(folder)] = ReadFileBytes(entry.path()).value_or("?");
  }
  return files;
}

class ConvertTest : public Scratch {
 protected:
  ConvertOptions Options(const std::string& from, const std::string& to,
                         const std::string& format) {
    ConvertOptions options;
    options.from = from;
    options.to = Path(to);
    options.format = format;
    options.logits = false;
    return options;
  }
  absl::Status Import(const std::string& from, const std::string& to) {
    return Convert(Options(from, to, "mneme")).status();
  }
  Json Certificate(const std::string& to) {
    return ReadJson(Path(to) + "/" + kCertificateName).value_or(Json());
  }
  // A copy of a fixture to spoil.
  std::string Copy(const std::string& fixture) {
    const std::string to = Path("source");
    std::filesystem::remove_all(to);
    std::filesystem::copy(kFixtures + "/" + fixture, to);
    return to;
  }
  // A run of a few steps; overrides on the tiny configuration.
  std::string Train(const std::string& name, std::vector<std::string> overrides, int ranks = 1) {
    overrides.push_back("run.dir=" + Path(name));
    const Outcome outcome = TrainThreads(ranks, TinyRun(runs_.path(), overrides));
    EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    return Path(name);
  }
  void ExpectSameValues(const std::string& first, const std::string& second) {
    auto a = OpenTensorSet(first);
    auto b = OpenTensorSet(second);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    const auto comparison = Compare(**a, **b, {});
    ASSERT_TRUE(comparison.ok());
    EXPECT_GT(comparison->same, 0);
    for (const TensorDifference& d : comparison->differing) EXPECT_EQ(d.differing, 0) << d.name;
    EXPECT_TRUE(comparison->only_in_first.empty());
    EXPECT_TRUE(comparison->only_in_second.empty());
  }

  TempFolder runs_;
};

class ConvertFixture : public ConvertTest, public testing::WithParamInterface<const char*> {};

// What transformers computes from these files, in float: docs/results.md has the live comparison.
TEST_P(ConvertFixture, LogitsAreThoseOfTransformers) {
  const std::string from = kFixtures + "/" + GetParam();
  ASSERT_TRUE(Import(from, "in").ok()) << Import(from, "in2");
  const std::vector<float> expected = Numbers<float>(from + "/logits.f32");
  const auto logits = CheckpointLogits(Path("in"), Numbers<int32_t>(from + "/ids.i32"));
  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->size(), expected.size());
  double greatest = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    greatest = std::max(greatest, std::abs((*logits)[i] - static_cast<double>(expected[i])));
  }
  EXPECT_LT(greatest, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Stored, ConvertFixture,
                         testing::Values("v2_bf16", "v3_bf16", "v3_halves_f32", "v3_fp8"));

// Import, then export: the names, shapes, dtypes and bits that transformers wrote.
TEST_F(ConvertTest, ImportThenExportIsTheSameFile) {
  for (const std::string name : {"v2_bf16", "v3_bf16"}) {
    const std::string from = kFixtures + "/" + name;
    ASSERT_TRUE(Import(from, name).ok());
    const auto result = Convert(Options(Path(name), name + "_out", "huggingface"));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->architecture, "deepseek_" + name.substr(0, 2));
    const auto before = WeightFolder::Open(from);
    const auto after = WeightFolder::Open(Path(name + "_out"));
    ASSERT_TRUE(before.ok() && after.ok()) << after.status();
    size_t same = 0;
    for (const auto& [tensor, place] : (*before)->tensors()) {
      if (tensor.starts_with("model.layers.2.")) continue;  // the prediction module
      const WeightFolder::Place* there = (*after)->Find(tensor);
      ASSERT_NE(there, nullptr) << tensor;
      // transformers rounds the bias with the rest; DeepSeek's own files have it in F32, as ours.
      const bool bias = tensor.ends_with("e_score_correction_bias");
      EXPECT_EQ(there->tensor->element, bias ? Element::kF32 : place.tensor->element) << tensor;
      EXPECT_EQ(there->tensor->shape, place.tensor->shape) << tensor;
      std::vector<double> a(static_cast<size_t>(place.tensor->elements())), b(a.size());
      ASSERT_TRUE(place.file->Read(*place.tensor, 0, absl::MakeSpan(a)).ok());
      ASSERT_TRUE(there->file->Read(*there->tensor, 0, absl::MakeSpan(b)).ok());
      EXPECT_EQ(a, b) << tensor;
      ++same;
    }
    EXPECT_EQ(same, (*after)->tensors().size());
  }
}

TEST_F(ConvertTest, CertificateSaysWhatBecameOfEachTensor) {
  ASSERT_TRUE(Import(kFixtures + "/v3_bf16", "v3").ok());
  const Json v3 = Certificate("v3");
  ASSERT_EQ(v3.Find("left_out")->list()->size(), 5u);
  EXPECT_THAT(*v3.Find("left_out")->list()->at(0).Find("why")->text(),
              HasSubstr("multi-token prediction"));
  EXPECT_EQ(v3.Find("made")->list()->size(), 0u);
  EXPECT_EQ(*v3.Find("logits")->Find("compared")->truth(), false);
  const Json& first = v3.Find("tensors")->list()->at(0);
  EXPECT_EQ(*first.Find("from")->text(), "model.embed_tokens.weight");
  EXPECT_EQ(*first.Find("to")->text(), "value/embedding");
  EXPECT_EQ(*first.Find("from_dtype")->text(), "BF16");
  EXPECT_EQ(*first.Find("to_dtype")->text(), "F32");
  for (const auto& [name, file] : *v3.Find("to")->Find("files")->object()) {
    EXPECT_EQ(FileDigest(Path("v3/" + name)).value_or(""), *file.Find("xxh3")->text()) << name;
  }
  EXPECT_EQ(FileDigest(kFixtures + "/v3_bf16/model.safetensors").value_or(""),
            *v3.Find("from")->Find("files")->Find("model.safetensors")->Find("xxh3")->text());
  ASSERT_TRUE(Import(kFixtures + "/v2_bf16", "v2").ok());
  const Json v2 = Certificate("v2");
  ASSERT_EQ(v2.Find("made")->list()->size(), 1u);
  EXPECT_EQ(*v2.Find("made")->list()->at(0).Find("tensor")->text(), "blocks.1.moe.router_bias");
}

// Memory, streams, a YaRN stage, an f64 run, four ranks: the same bits back, and the same logits.
TEST_F(ConvertTest, ExportThenImportGivesTheRunBack) {
  const std::vector<std::string> stages = {"train.precision=f32",
                                           "model.engram.conv.zero_init=false",
                                           "stages=[{steps: 1}, {steps: 1, sequence_length: 768, "
                                           "yarn: {scale: 4, original_length: 384}}]"};
  const std::string alone = Train("alone", stages);
  std::vector<std::string> spread = stages;
  spread.insert(spread.end(), {"parallel.memory=2", "parallel.expert=4"});
  const std::string together = Train("together", spread, 4);
  for (const std::string& run : {alone, together}) {
    ConvertOptions out = Options(run, "out", "huggingface");
    out.dtype = "f32";
    out.file_bytes = 30000;
    out.logits = true;
    out.replace = true;
    const auto result = Convert(out);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->architecture, "mneme");
    EXPECT_GT(result->files, 5);
    EXPECT_EQ(result->logits_difference, 0.0);
    EXPECT_TRUE(std::filesystem::exists(Path("out/modeling_mneme.py")));
    EXPECT_TRUE(std::filesystem::exists(Path("out/tokenizer.json")));
    ConvertOptions back = Options(Path("out"), "back", "mneme");
    back.file_bytes = 50000;
    back.replace = true;
    ASSERT_TRUE(Convert(back).ok());
    ExpectSameValues(run, Path("back"));
  }
  // Once rounded to bf16 nothing moves any more.
  ASSERT_TRUE(Convert(Options(alone, "b1", "huggingface")).ok());
  ASSERT_TRUE(Import(Path("b1"), "b1_in").ok());
  ASSERT_TRUE(Convert(Options(Path("b1_in"), "b2", "huggingface")).ok());
  EXPECT_EQ(Bytes(Path("b1/model.safetensors")), Bytes(Path("b2/model.safetensors")));
  EXPECT_EQ(Bytes(Path("b1/config.json")), Bytes(Path("b2/config.json")));
}

TEST_F(ConvertTest, SharedWidthsAreCountedInExperts) {
  const auto train = [&](const std::string& name, int width) {
    return Train(name, {"train.steps=1", "train.precision=f32", "model.moe.expert_width=16",
                        "model.moe.shared_width=" + std::to_string(width)});
  };
  const std::string run = train("run", 48);
  ConvertOptions out = Options(run, "out", "huggingface");
  out.dtype = "f32";
  ASSERT_TRUE(Convert(out).ok());
  EXPECT_THAT(ReadFileBytes(Path("out/config.json")).value(), HasSubstr("\"n_shared_experts\": 3"));
  ASSERT_TRUE(Import(Path("out"), "back").ok());
  ExpectSameValues(run, Path("back"));
  const absl::Status refused = Convert(Options(train("odd", 40), "no", "huggingface")).status();
  EXPECT_THAT(Message(refused), HasSubstr("model.moe.shared_width: 40 is no multiple"));
  EXPECT_FALSE(std::filesystem::exists(Path("no")));
}

TEST_F(ConvertTest, DoubleStaysDouble) {
  const std::string run = Train("run", {"train.steps=1"});
  ConvertOptions out = Options(run, "out", "huggingface");
  out.dtype = "f32";
  ASSERT_TRUE(Convert(out).ok());
  ASSERT_TRUE(Import(Path("out"), "back").ok());
  const auto gap = LogitsDifference(run, Path("back"), FixedPrompt(258, 32));
  ASSERT_TRUE(gap.ok()) << gap.status();
  EXPECT_LT(*gap, 1e-5);
}

// A memory that adds nothing: equal logits, bit for bit; and training goes on from there.
TEST_F(ConvertTest, AddEngramChangesNothingAndLearns) {
  const std::string run =
      Train("run", {"train.steps=8", "train.precision=f32", "model.engram.blocks=[]"});
  Put("memory.yaml",
      "model:\n  layers: 2\n  engram: {blocks: [0, 1], orders: [2, 3], heads: 2, d_mem: 16, "
      "vocab_size: 500}\n");
  ConvertOptions options = Options(run, "with", "mneme");
  options.add_engram = Path("memory.yaml");
  options.overrides = {"model.engram.d_mem=32"};
  options.logits = true;
  const auto result = Convert(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->logits_difference, 0.0);
  EXPECT_GT(result->made, 10);
  auto set = OpenTensorSet(Path("with"));
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT((*set)->Config(), HasSubstr("model.engram.d_mem: 32\n"));
  EXPECT_THAT((*set)->Facts(),
              testing::Contains(testing::Pair("converted from", HasSubstr("step-8"))));

  const std::vector<std::string> more = {
      "run.dir=" + Path("more"), "train.steps=6", "train.precision=f32",
      "model.engram={blocks: [0, 1], orders: [2, 3], heads: 2, d_mem: 32, vocab_size: 500}",
      "stages=[{init_from: " + Path("with") + "}]"};
  const Outcome outcome = TrainThreads(2, TinyRun(runs_.path(), more));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const std::vector<double> losses = Losses(outcome);
  EXPECT_LT(losses.back(), losses.front());
  auto after = OpenTensorSet(Path("more"));
  ASSERT_TRUE(after.ok());
  const auto moved =
      Inspect(**after, {.moments = false, .statistics = true, .matching = "engram.value"});
  ASSERT_TRUE(moved.ok());
  for (const InspectedTensor& value : moved->tensors) EXPECT_GT(value.statistics.norm, 0.0);

  // It has one now; and a checkpoint needs no conversion to itself.
  options.from = Path("with");
  options.to = Path("again");
  EXPECT_THAT(Message(Convert(options).status()), HasSubstr("has a memory already"));
  EXPECT_THAT(Message(Import(run, "again")), HasSubstr("is in that format already"));
}

// Ended after any file, a second call goes on there and the bytes are those of an undisturbed one.
TEST_F(ConvertTest, KilledAndTakenUpAgain) {
  const std::string run = Train("run", {"train.steps=1", "train.precision=f32"});
  for (const std::string format : {"huggingface", "mneme"}) {
    const std::string from = format == "mneme" ? Path("whole huggingface") : run;
    ConvertOptions whole = Options(from, "whole " + format, format);
    whole.file_bytes = 20000;
    ASSERT_TRUE(Convert(whole).ok());
    for (const int after : {1, 4}) {
      ConvertOptions options = whole;
      options.to = Path("killed " + format + std::to_string(after));
      const pid_t child = fork();
      if (child == 0) {
        int said = 0;
        options.say = [&](const std::string&) {
          if (++said == after) _exit(9);
        };
        (void)Convert(options);
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_EQ(WEXITSTATUS(status), 9);
      EXPECT_FALSE(std::filesystem::exists(options.to));
      Put(std::filesystem::path(options.to).filename().string() + ".converting/" +
              (format == "mneme" ? "rank-00009.h5.part" : "model-00009-of-00012.safetensors.part"),
          "half a file");
      int there = 0;
      options.say = [&](const std::string& line) { there += line.ends_with("was there") ? 1 : 0; };
      ASSERT_TRUE(Convert(options).ok());
      EXPECT_EQ(there, after);
      EXPECT_TRUE(Contents(options.to) == Contents(whole.to));
      EXPECT_FALSE(std::filesystem::exists(options.to + ".converting"));
    }
  }
}

TEST_F(ConvertTest, OptionsAreChecked) {
  const auto refused = [&](ConvertOptions options, const std::string& why) {
    const absl::Status status = Convert(options).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Message(status), HasSubstr(why));
  };
  const std::string from = kFixtures + "/v2_bf16";
  refused(Options(from, "x", "gguf"), "mneme or huggingface");
  refused(Options(Path("nowhere"), "x", "mneme"), "holds neither");
  ConvertOptions dtype = Options(from, "x", "huggingface");
  dtype.dtype = "fp4";
  refused(dtype, "bf16 or f32");
  ConvertOptions corpus = Options(from, "x", "mneme");
  corpus.vocabulary = Path("nowhere");
  refused(corpus, "no prepared corpus");
  std::filesystem::create_directory(Path("x"));
  refused(Options(from, "x", "mneme"), "is there already");
  ConvertOptions replace = Options(from, "x", "mneme");
  replace.replace = true;
  EXPECT_TRUE(Convert(replace).ok());
  EXPECT_TRUE(std::filesystem::exists(Path("x/manifest.json")));
}

// --replace takes away what a conversion made, and nothing that is more than that.
TEST_F(ConvertTest, WhatNoConversionMadeIsNeverReplaced) {
  const std::string from = kFixtures + "/v2_bf16";
  const auto refused = [&](const std::string& to, const std::string& why) {
    const auto before = Contents(folder_);
    ConvertOptions options = Options(from, to, "mneme");
    options.replace = true;
    const absl::Status status = Convert(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << to << ": " << status;
    EXPECT_THAT(Message(status), HasSubstr(why)) << to;
    auto after = Contents(folder_);
    std::erase_if(after, [](const auto& file) { return file.first.ends_with("/.lock"); });
    EXPECT_TRUE(after == before) << to;
  };
  Put("home/letters/1.txt", "dear");
  refused("home", "letters/; nothing was removed");
  Put("file", "x");
  refused("file", "is no folder");
  ASSERT_TRUE(Import(from, "made").ok());
  std::filesystem::create_directory_symlink(Path("made"), Path("link"));
  refused("link", "is a link to");
  std::filesystem::copy(Path("made"), Path("noted"));
  Put("noted/README.md", "mine");
  refused("noted", "README.md");
  std::filesystem::copy(Path("made"), Path("bare"));
  std::filesystem::remove(Path("bare/certificate.json"));
  refused("bare", "manifest.json");
  refused("bare", "There is no certificate.json, which names what a conversion made");
  // What is wrong with one that tells nothing is said, with the place.
  std::filesystem::copy(Path("made"), Path("torn"));
  const std::string whole = ReadFileBytes(Path("torn/certificate.json")).value();
  const auto certificate = [&](const std::string& text, const std::string& why) {
    Put("torn/certificate.json", text);
    refused("torn", "torn/certificate.json: " + why);
    refused("torn", "nothing was removed. Move that folder elsewhere, or name another one");
  };
  certificate(whole.substr(0, whole.size() / 2), "is not JSON");
  certificate("[1]", "certificate: is missing");
  certificate("{\"certificate\": \"mine\"}", "certificate: is \"mine\", not \"mneme convert\"");
  certificate("{\"certificate\": 5}", "certificate: is 5, not a text");
  certificate("{\"certificate\": \"mneme convert\"}", "to: is missing");
  certificate("{\"certificate\": \"mneme convert\", \"to\": {\"files\": [1]}}",
              "to.files: is [1], not an object");
  std::filesystem::remove(Path("torn/certificate.json"));
  std::filesystem::create_directory(Path("torn/certificate.json"));
  refused("torn", "certificate.json: is a folder, not a file");
  Put("fresh.converting/mine.txt", "mine");
  refused("fresh", "mine.txt");
  std::filesystem::copy(Path("made"), Path("twice"));
  Put("twice.replaced/mine.txt", "mine");
  ConvertOptions twice = Options(from, "twice", "mneme");
  twice.replace = true;
  EXPECT_THAT(Message(Convert(twice).status()), HasSubstr("mine.txt"));
  EXPECT_TRUE(std::filesystem::exists(Path("twice.replaced/mine.txt")));
  EXPECT_TRUE(std::filesystem::exists(Path("twice/manifest.json")));
  ConvertOptions again = Options(from, "made", "mneme");
  again.replace = true;
  EXPECT_TRUE(Convert(again).ok());
}

// What a damaged certificate says is not passed over in silence: it is not known where the weights
// are from.
TEST_F(ConvertTest, InspectionSaysWhetherTheOriginIsKnown) {
  ASSERT_TRUE(Import(kFixtures + "/v2_bf16", "made").ok());
  const auto origin = [&]() -> std::string {
    const auto set = OpenTensorSet(Path("made"));
    if (!set.ok()) return Message(set.status());
    for (const auto& [name, text] : (*set)->Facts()) {
      if (name == "converted from") return text;
    }
    return "";
  };
  EXPECT_THAT(origin(), testing::EndsWith("v2_bf16"));
  Put("made/certificate.json", "{\"from\": {\"path\": 5}}");
  EXPECT_EQ(origin(), "not known: certificate.json: from.path: is 5, not a text");
  Put("made/certificate.json", "{");
  EXPECT_THAT(origin(), HasSubstr("certificate.json: is not JSON"));
  std::filesystem::remove(Path("made/certificate.json"));
  EXPECT_EQ(origin(), "");
}

// --- damage
// -----------------------------------------------------------------------------------------

struct Damage {
  const char* name;
  const char* fixture;
  std::function<void(const std::string& folder)> spoil;
  std::vector<std::string> message;
};

void Rewrite(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = ReadFileBytes(path).value_or("");
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  ASSERT_TRUE(WriteFileAtomically(path, text).ok());
}

// Replaces inside a safetensors header; texts of the same length keep offsets and padding.
void InHeader(const std::string& folder, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  Rewrite(folder + "/model.safetensors", from, to);
}

void Truncate(const std::string& path, int64_t bytes) {
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  std::filesystem::resize_file(path, static_cast<uintmax_t>(bytes < 0 ? size + bytes : bytes));
}

// A further file of one tensor [2, 2] of ones, and an index of all.
void AddTensor(const std::string& folder, const std::string& name, Element element = Element::kF32,
               std::vector<int64_t> shape = {2, 2}) {
  auto old = WeightFolder::Open(folder);
  ASSERT_TRUE(old.ok());
  std::string map;
  for (const auto& [tensor, place] : (*old)->tensors()) {
    map += "\"" + tensor + "\": \"" +
           std::filesystem::path(place.file->path()).filename().string() + "\", ";
  }
  auto writer =
      SafetensorsWriter::Create(folder + "/extra.safetensors", {{name, element, shape}}, {});
  ASSERT_TRUE(writer.ok());
  const std::vector<double> ones(static_cast<size_t>(ShapeElements(shape)), 1.0);
  ASSERT_TRUE((*writer)->Append(ones).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  ASSERT_TRUE(
      WriteFileAtomically(folder + "/" + kIndexName,
                          "{\"weight_map\": {" + map + "\"" + name + "\": \"extra.safetensors\"}}")
          .ok());
}

const char* kShard = "/model-00002-of-00003.safetensors";

const std::vector<Damage> kDamage = {
    {"missing shard",
     "v2_bf16",
     [](const std::string& f) { std::filesystem::remove(f + kShard); },
     {"model-00002-of-00003.safetensors: is missing"}},
    {"missing weights",
     "v3_bf16",
     [](const std::string& f) { std::filesystem::remove(f + "/model.safetensors"); },
     {"no weights in the Hugging Face layout"}},
    {"truncated shard",
     "v2_bf16",
     [](const std::string& f) { Truncate(f + kShard, -10); },
     {"truncated"}},
    {"shard of nothing",
     "v2_bf16",
     [](const std::string& f) { Truncate(f + kShard, 0); },
     {"so short"}},
    {"header cut off",
     "v3_bf16",
     [](const std::string& f) { Truncate(f + "/model.safetensors", 200); },
     {"truncated"}},
    {"header over 100 MB",
     "v3_bf16",
     [](const std::string& f) {
       Rewrite(f + "/model.safetensors", ReadFileBytes(f + "/model.safetensors")->substr(0, 8),
               std::string("\0\0\0\x10\0\0\0\0", 8));
     },
     {"more than the 100000000"}},
    {"header that is no JSON",
     "v3_bf16",
     [](const std::string& f) { InHeader(f, "{\"__metadata__\":", "{\"__metadata__\";"); },
     {"not JSON"}},
    {"wrong shape",
     "v3_bf16",
     [](const std::string& f) {
       Rewrite(f + "/config.json", "\"q_lora_rank\": 10", "\"q_lora_rank\": 12");
     },
     {"q_a_proj.weight' has shape [10, 16]; config.json makes it [12, 16]"}},
    {"wrong dtype",
     "v3_bf16",
     [](const std::string& f) { InHeader(f, "\"dtype\":\"BF16\"", "\"dtype\":\"I16\" "); },
     {"has dtype I16"}},
    {"unknown dtype",
     "v3_bf16",
     [](const std::string& f) { InHeader(f, "\"dtype\":\"BF16\"", "\"dtype\":\"BF61\""); },
     {"dtype 'BF61'"}},
    {"dtype that does not make its bytes",
     "v3_bf16",
     [](const std::string& f) { InHeader(f, "\"dtype\":\"BF16\"", "\"dtype\":\"F32\" "); },
     {"its shape and dtype"}},
    {"overlapping offsets",
     "v3_bf16",
     [](const std::string& f) {
       InHeader(f, "\"data_offsets\":[1280,2560]", "\"data_offsets\":[1278,2558]");
     },
     {"overlaps the one before it"}},
    {"unknown tensor",
     "v3_bf16",
     [](const std::string& f) { AddTensor(f, "model.layers.0.self_attn.k_proj.weight"); },
     {"'model.layers.0.self_attn.k_proj.weight' is unknown"}},
    {"unknown layer",
     "v3_bf16",
     [](const std::string& f) { AddTensor(f, "model.layers.7.mlp.up_proj.weight"); },
     {"is unknown"}},
    {"missing tensor",
     "v3_bf16",
     [](const std::string& f) { InHeader(f, "\"lm_head.weight\"", "\"lm_heap.weight\""); },
     {"lacks the tensor 'lm_head.weight'"}},
    {"missing layer",
     "v3_bf16",
     [](const std::string& f) {
       Rewrite(f + "/config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4");
     },
     {"lacks the tensor 'model.layers.2."}},
    {"tied head that is another matrix",
     "v3_bf16",
     [](const std::string& f) {
       Rewrite(f + "/config.json", "\"tie_word_embeddings\": false",
               "\"tie_word_embeddings\": true");
     },
     {"is not model.embed_tokens.weight"}},
    {"FP8 without scales",
     "v3_fp8",
     [](const std::string& f) {
       InHeader(f, "mlp.down_proj.weight_scale_inv", "mlp.down_proj.weight_scale_dev");
     },
     {"there is no 'model.layers.0.mlp.down_proj.weight_scale_inv'"}},
    {"FP8 without a word of it",
     "v3_fp8",
     [](const std::string& f) {
       Rewrite(f + "/config.json", "\"quantization_config\"", "\"auto_map\"");
     },
     {"config.json has no quantization_config"}},
    {"scales of nothing",
     "v3_bf16",
     [](const std::string& f) { AddTensor(f, "model.norm.weight_scale_inv"); },
     {"scales a weight that is not"}},
    {"index that lies",
     "v2_bf16",
     [](const std::string& f) {
       Rewrite(f + "/" + kIndexName, "model-00001-of", "model-00003-of");
     },
     {"lacks the tensor"}},
    {"index out of its folder",
     "v2_bf16",
     [](const std::string& f) {
       Rewrite(f + "/" + kIndexName, "\"model-00001-of", "\"../0001-of");
     },
     {"no plain file name"}},
    {"config cut off",
     "v3_bf16",
     [](const std::string& f) { Truncate(f + "/config.json", 100); },
     {"config.json: is not JSON"}},
    {"tokenizer cut off",
     "v3_bf16",
     [](const std::string& f) { std::ofstream(f + "/tokenizer.json") << "{\"model\": {"; },
     {"tokenizer.json: is not JSON: column 12"}},
    {"config of another family",
     "v3_bf16",
     [](const std::string& f) { Rewrite(f + "/config.json", "\"deepseek_v3\"", "\"llama\""); },
     {"model_type: is \"llama\""}},
    {"config with a key that is not known",
     "v3_bf16",
     [](const std::string& f) { Rewrite(f + "/config.json", "{", "{\"sliding_window\": 5,"); },
     {"sliding_window: is a key that is not known"}},
};

TEST_F(ConvertTest, DamageIsOneClearMessageAndLeavesNothing) {
  for (const Damage& damage : kDamage) {
    SCOPED_TRACE(damage.name);
    const std::string source = Copy(damage.fixture);
    damage.spoil(source);
    const absl::Status status = Import(source, "out");
    ASSERT_FALSE(status.ok());
    for (const std::string& part : damage.message) EXPECT_THAT(Message(status), HasSubstr(part));
    EXPECT_THAT(Message(status), HasSubstr(source));
    EXPECT_THAT(Message(status), testing::Not(HasSubstr("\n")));
    EXPECT_FALSE(std::filesystem::exists(Path("out")));
    EXPECT_FALSE(std::filesystem::exists(Path("out.converting")));
  }
}

// A folder that says nothing of its vocabulary gets that of a corpus: it can be scored and trained
// on then, where a map of its own would be another vocabulary.
TEST_F(ConvertTest, AnImportedModelTakesTheVocabularyOfACorpus) {
  const std::vector<std::string> keys = {
      "train.steps=1",          "train.precision=f32", "train.sequence_length=32",
      "model.engram.blocks=[]", "model.mhc.streams=1", "model.moe.experts=0"};
  const std::string run = Train("run", keys);
  const std::string corpus = runs_.path() + "/train";
  ConvertOptions out = Options(run, "out", "huggingface");
  out.dtype = "f32";
  ASSERT_TRUE(Convert(out).ok());
  for (const char* name : {"mneme.json", "vocabulary.h5", "tokenizer.json"})
    EXPECT_TRUE(std::filesystem::remove(Path("out") + "/" + name)) << name;
  ASSERT_TRUE(Import(Path("out"), "plain").ok());
  ConvertOptions with = Options(Path("out"), "back", "mneme");
  with.vocabulary = corpus;
  ASSERT_TRUE(Convert(with).ok());
  const auto goes_on = [&](const std::string& from) {
    std::vector<std::string> heir = keys;
    heir.insert(heir.end(), {"run.dir=" + Path("heir_of_" + from),
                             "stages=[{init_from: " + Path(from) + ", steps: 1}]"});
    return TrainThreads(1, TinyRun(runs_.path(), heir));
  };
  const Outcome refused = goes_on("plain");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.message, HasSubstr("was trained on another vocabulary"));
  const Outcome taken = goes_on("back");
  EXPECT_EQ(taken.exit_code, 0) << taken.message;

  ConvertOptions small = Options(kFixtures + "/v2_bf16", "x", "mneme");
  small.vocabulary = corpus;
  EXPECT_THAT(Message(Convert(small).status()), HasSubstr("has 258 ids, the model 40"));
  // A tokenizer goes along in the place of the one that was there.
  ConvertOptions tokenizer = Options(run, "told", "huggingface");
  tokenizer.tokenizer_json = Put("own.json", "{\"model\": {\"type\": \"BPE\"}}");
  ASSERT_TRUE(Convert(tokenizer).ok());
  EXPECT_EQ(Bytes(Path("told/tokenizer.json")), "{\"model\": {\"type\": \"BPE\"}}");
  tokenizer.to = Path("y");
  tokenizer.tokenizer_json = Put("bad.json", "{");
  const absl::Status bad = Convert(tokenizer).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument) << bad;
  EXPECT_THAT(Message(bad), HasSubstr("bad.json"));
  EXPECT_FALSE(std::filesystem::exists(Path("x")) || std::filesystem::exists(Path("y")));
}

// mneme.json says where the run stood; what it cannot have stood at is refused.
TEST_F(ConvertTest, AnExportedRunThatCannotBeIsRefused) {
  const std::string run = Train("run", {"train.steps=1", "train.precision=f32"});
  const std::vector<std::tuple<const char*, const char*, const char*>> spoilt = {
      {"\"version\": 1", "\"version\": 2", "version: is not 1"},
      {"\"step\": 1", "\"step\": -1", "step, stage or tokens: is below 0"},
      {"\"step\": 1", "\"step\": \"1\"", "step: is \"1\", not a whole number"},
      {"\"stage\": 0", "\"stage\": 1", "stands in a stage that its config does not have"},
      {"\"config\": \"", "\"config\": \"nonsense: 1\\n", "nonsense: unknown key"},
      {"hidden: 24", "hidden: 25", "is of another model than the config.json beside it"}};
  for (const auto& [from, to, why] : spoilt) {
    ConvertOptions out = Options(run, "out", "huggingface");
    out.replace = true;
    ASSERT_TRUE(Convert(out).ok());
    Rewrite(Path("out/mneme.json"), from, to);
    const absl::Status status = Import(Path("out"), "back");
    EXPECT_THAT(Message(status), HasSubstr(Path("out/mneme.json:"))) << to;
    EXPECT_THAT(Message(status), HasSubstr(why)) << to;
    EXPECT_FALSE(std::filesystem::exists(Path("back")));
  }
}

}  // namespace
}  // namespace mneme
