#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "configs/text.h"
#include "data/corpus.h"
#include "data/corpus_writer.h"
#include "data/document_router.h"
#include "data/documents.h"
#include "data/external_ids.h"
#include "data/files.h"
#include "data/inputs.h"
#include "data/own_folder.h"
#include "data/staging.h"
#include "data/tokenizer.h"
#include "data/vocabulary_file.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kProgressBytes = int64_t{16} << 20;
constexpr int64_t kMostDocumentBytes = int64_t{1} << 40;

absl::Status CheckOptions(const PrepareOptions& options) {
  if (options.output.empty()) return absl::InvalidArgumentError("no output folder named");
  if (options.blank_lines < 0 || options.document_bytes < 0) {
    return absl::InvalidArgumentError("blank lines and document bytes cannot be negative");
  }
  if (options.document_bytes > kMostDocumentBytes) {
    return absl::InvalidArgumentError("--document-bytes is " +
                                      std::to_string(options.document_bytes) +
                                      "; it must be at most " + std::to_string(kMostDocumentBytes));
  }
  if (!(options.held_out >= 0.0 && options.held_out < 1.0)) {
    return absl::InvalidArgumentError("the held-out share is " + NumberText(options.held_out) +
                                      "; it must be at least 0 and below 1");
  }
  if (options.shard_tokens < 1) {
    return absl::InvalidArgumentError("a shard holds at least one token");
  }
  return absl::OkStatus();
}

// An option that would change nothing was typed for another kind of input.
absl::Status CheckOptionsApply(const PrepareOptions& options, const InputFile& input) {
  const PrepareOptions unset;
  const ExternalIds& ids = options.ids;
  struct Option {
    const char* name;
    bool given;
    bool for_ids;
  };
  const Option all[] = {
      {"--eos", ids.eos != unset.ids.eos, true},
      {"--bos", ids.bos != unset.ids.bos, true},
      {"--pad", ids.pad != unset.ids.pad, true},
      {"--vocabulary", ids.vocabulary != unset.ids.vocabulary, true},
      {"--canonical", ids.canonical != unset.ids.canonical, true},
      {"--text-bytes", ids.text_bytes != unset.ids.text_bytes, true},
      {"--tokenizer-json", ids.tokenizer_json != unset.ids.tokenizer_json, true},
      {"--blank-lines", options.blank_lines != unset.blank_lines, false},
      {"--document-bytes", options.document_bytes != unset.document_bytes, false},
      {"--text-field", options.text_field != unset.text_field, false},
  };
  const bool has_ids = input.kind == InputKind::kIds;
  for (const Option& option : all) {
    if (!option.given || option.for_ids == has_ids) continue;
    return absl::InvalidArgumentError(std::string(option.name) +
                                      (option.for_ids
                                           ? " is for token ids (.npy); this input is text: "
                                           : " is for text; this input is token ids (.npy): ") +
                                      input.path);
  }
  return absl::OkStatus();
}

// What is replaced by a text of itself is lost.
absl::Status CheckInputsOutside(const PrepareOptions& options,
                                const std::vector<InputFile>& inputs) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path output = fs::weakly_canonical(options.output, error);
  if (error) return absl::OkStatus();  // no folder: nothing lies in it
  for (const InputFile& input : inputs) {
    const fs::path path = fs::weakly_canonical(input.path, error).lexically_relative(output);
    if (error || path.empty() || *path.begin() == ".." || *path.begin() == ".") continue;
    return absl::InvalidArgumentError(input.path + ": lies inside the output folder " +
                                      options.output +
                                      "; name another output, or move the input elsewhere");
  }
  return absl::OkStatus();
}

// All that decides what comes out, but for the inputs' bytes.
std::string Fingerprint(const PrepareOptions& options, const VocabularyInfo& vocabulary) {
  return "field=" + options.text_field + " blank_lines=" + std::to_string(options.blank_lines) +
         " document_bytes=" + std::to_string(options.document_bytes) +
         " held_out=" + ExactText(options.held_out) +
         " shard_tokens=" + std::to_string(options.shard_tokens) +
         " text_bytes=" + std::to_string(options.ids.text_bytes) +
         " vocabulary=" + vocabulary.digest;
}

absl::StatusOr<std::vector<ManifestFile>> DigestInputs(const std::vector<InputFile>& inputs) {
  std::vector<ManifestFile> files;
  for (const InputFile& input : inputs) {
    ASSIGN_OR_RETURN(std::string digest, FileDigest(input.path));
    files.push_back({.name = std::filesystem::path(input.path).filename().string(),
                     .bytes = input.bytes,
                     .digest = std::move(digest)});
  }
  return files;
}

std::vector<std::string> CorpusNames(const PrepareOptions& options) {
  if (options.held_out > 0.0) return {"/train", "/held_out"};
  return {""};
}

// Same bytes and options; where the inputs lie does not matter.
bool SameSource(const Manifest& a, const std::vector<ManifestFile>& inputs,
                const std::string& fingerprint) {
  const auto same = [](const ManifestFile& x, const ManifestFile& y) {
    return x.bytes == y.bytes && x.digest == y.digest;
  };
  return a.options == fingerprint &&
         std::equal(a.inputs.begin(), a.inputs.end(), inputs.begin(), inputs.end(), same);
}

PreparedCorpus Describe(const std::string& folder, const Manifest& manifest) {
  return {.folder = folder,
          .tokens = manifest.tokens,
          .documents = manifest.documents,
          .text_bytes = manifest.text_bytes,
          .shards = static_cast<int64_t>(manifest.shards.size()),
          .digest = CorpusDigest(manifest)};
}

// The report of an output that was made from the same before; nullopt-like false where it was not.
absl::StatusOr<bool> FindOutput(const PrepareOptions& options,
                                const std::vector<ManifestFile>& inputs,
                                const std::string& fingerprint, PrepareReport& report) {
  for (const std::string& name : CorpusNames(options)) {
    const std::string folder = options.output + name;
    const auto manifest = ReadManifest(folder);
    if (!manifest.ok() || !SameSource(*manifest, inputs, fingerprint)) return false;
    const absl::Status whole = Corpus::Open(folder).status();
    if (!whole.ok()) {
      return absl::Status(whole.code(), std::string(whole.message()) + ", replacing this one");
    }
    report.corpora.push_back(Describe(folder, *manifest));
  }
  report.already_there = true;
  return true;
}

constexpr char kMaker[] = "mneme prepare";
constexpr const char* kSides[] = {"", "/train", "/held_out"};

// What is made in a folder: a corpus, or the two of a split.
bool IsCorpusPath(std::string path, bool is_folder) {
  if (is_folder) return path == "train" || path == "held_out";
  if (path == kStagingLock) return true;
  for (const char* side : {"train/", "held_out/"}) {
    if (path.starts_with(side)) path.erase(0, std::string(side).size());
  }
  if (path == kManifestName || path == kVocabularyName) return true;
  const bool shard = path.size() > 9 && path.starts_with("shard-") && path.ends_with(".h5");
  return shard && path.find_first_not_of("0123456789", 6) == path.size() - 3;
}

// The same while it is made.
bool IsDraftPath(const std::string& path, bool is_folder) {
  const std::string name = std::filesystem::path(path).filename().string();
  const bool draft = name == "spool" || name == std::string(kManifestName) + ".tmp";
  return IsCorpusPath(path, is_folder) ||
         (draft && !is_folder &&
          IsCorpusPath(path.substr(0, path.size() - name.size()) + kManifestName, false));
}

// What --replace may take away: nothing but corpora, and these whole.
absl::Status CheckIsCorpus(const std::string& output) {
  RETURN_IF_ERROR(CheckOwn(output, IsCorpusPath, kMaker));
  for (const char* side : kSides) {
    const std::string folder = output + side;
    std::error_code error;
    bool files = false;
    const auto entries =
        ListFolder(folder).value_or(std::vector<std::filesystem::directory_entry>());
    for (const std::filesystem::directory_entry& entry : entries) {
      files = files || (!entry.is_directory(error) && entry.path().filename() != kStagingLock);
    }
    if (!files || HasCorpusManifest(folder)) continue;
    return absl::FailedPreconditionError(
        folder + ": has no manifest.json of a corpus, so that nothing says that " + kMaker +
        " made it; nothing was removed. Remove it yourself, or name another folder");
  }
  return absl::OkStatus();
}

// Ids of text, with the end of each document; a document of nothing but white space is dropped.
class TextEncoder final : public DocumentSink {
 public:
  TextEncoder(const Tokenizer& tokenizer, DocumentRouter& router)
      : tokenizer_(tokenizer), router_(router) {}

  absl::Status Text(const std::string& piece) override {
    ids_.clear();
    tokenizer_.Encode(piece, ids_);
    bytes_ += static_cast<int64_t>(piece.size());
    blank_ = blank_ && piece.find_first_not_of(" \t\r\n\v\f") == std::string::npos;
    return router_.Append(ids_);
  }
  absl::Status End() override {
    const int64_t bytes = std::exchange(bytes_, 0);
    if (std::exchange(blank_, true)) return router_.Drop();
    const auto eos = static_cast<int32_t>(tokenizer_.vocabulary().eos);
    RETURN_IF_ERROR(router_.Append({&eos, 1}));
    return router_.EndDocument(bytes);
  }

 private:
  const Tokenizer& tokenizer_;
  DocumentRouter& router_;
  std::vector<int32_t> ids_;
  int64_t bytes_ = 0;
  bool blank_ = true;
};

// Tells the caller how far we are, now and then.
class Meter {
 public:
  Meter(const PrepareOptions& options, const std::vector<InputFile>& inputs)
      : progress_(options.progress) {
    for (const InputFile& input : inputs) at_.bytes_total += input.bytes;
  }
  void Begin(const std::string& input) { at_.input = input; }
  void Add(int64_t bytes, int64_t tokens) {
    at_.bytes_done += bytes;
    at_.tokens = tokens;
    const bool due = at_.bytes_done - told_ >= kProgressBytes || at_.bytes_done == at_.bytes_total;
    if (!progress_ || !due || bytes == 0) return;
    told_ = at_.bytes_done;
    progress_(at_);
  }

 private:
  const std::function<void(const PrepareProgress&)>& progress_;
  PrepareProgress at_;
  int64_t told_ = 0;
};

absl::Status ReadInputs(const PrepareOptions& options, const std::vector<InputFile>& inputs,
                        const VocabularyInfo& vocabulary, DocumentRouter& router) {
  const std::unique_ptr<Tokenizer> tokenizer = ByteTokenizer();
  TextEncoder encoder(*tokenizer, router);
  Meter meter(options, inputs);
  const ReadMeter read = [&](int64_t bytes) { meter.Add(bytes, router.tokens()); };
  const TextRule rule = {.blank_lines = options.blank_lines,
                         .document_bytes = options.document_bytes};
  for (const InputFile& input : inputs) {
    meter.Begin(input.path);
    switch (input.kind) {
      case InputKind::kText:
        RETURN_IF_ERROR(ReadText(input.path, rule, encoder, read));
        break;
      case InputKind::kJsonLines:
        RETURN_IF_ERROR(ReadJsonLines(input.path, options.text_field, encoder, read));
        break;
      case InputKind::kIds:
        RETURN_IF_ERROR(ReadExternalIds(input.path, vocabulary, router, read));
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSides(const PrepareOptions& options,
                        const std::vector<std::unique_ptr<CorpusWriter>>& writers) {
  int64_t documents = 0;
  for (const auto& writer : writers) documents += writer->documents();
  if (documents == 0) {
    return absl::InvalidArgumentError(options.inputs.front() +
                                      (options.inputs.size() > 1 ? " and the other inputs" : "") +
                                      ": no text in it");
  }
  for (size_t side = 0; side < writers.size(); ++side) {
    if (writers[side]->documents() > 0) continue;
    return absl::InvalidArgumentError(
        "a held-out share of " + NumberText(options.held_out) + " of " + std::to_string(documents) +
        " documents leaves none for " + (side == 0 ? "training" : "the held-out side") +
        "; cut the text into more documents (document bytes, e.g. 20000) or change the share");
  }
  return absl::OkStatus();
}

absl::StatusOr<PrepareReport> Build(const PrepareOptions& options,
                                    const std::vector<InputFile>& inputs,
                                    const VocabularyInfo& vocabulary,
                                    const std::vector<ManifestFile>& sources,
                                    const std::string& fingerprint) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Staging> staging,
                   Staging::Begin(options.output, IsDraftPath, kMaker));
  const std::vector<std::string> names = CorpusNames(options);
  std::vector<std::unique_ptr<CorpusWriter>> writers;
  for (const std::string& name : names) {
    const std::string folder = staging->folder() + name;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return FileError(folder, "make", error.value());
    writers.push_back(std::make_unique<CorpusWriter>(folder, vocabulary, options.shard_tokens));
  }
  DocumentRouter router(*writers.front(), writers.size() > 1 ? writers.back().get() : nullptr,
                        options.held_out);
  RETURN_IF_ERROR(ReadInputs(options, inputs, vocabulary, router));
  RETURN_IF_ERROR(CheckSides(options, writers));

  PrepareReport report;
  const int64_t all_tokens = router.tokens();
  for (size_t side = 0; side < names.size(); ++side) {
    const double share =
        static_cast<double>(writers[side]->tokens()) / static_cast<double>(all_tokens);
    const auto text_bytes =
        static_cast<int64_t>(share * static_cast<double>(options.ids.text_bytes) + 0.5);
    ASSIGN_OR_RETURN(const Manifest manifest,
                     writers[side]->Finish(sources, fingerprint, text_bytes));
    report.corpora.push_back(Describe(options.output + names[side], manifest));
  }
  RETURN_IF_ERROR(staging->Publish(options.replace));
  return report;
}

}  // namespace

absl::StatusOr<PrepareReport> Prepare(const PrepareOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const std::vector<InputFile> inputs, FindInputs(options.inputs));
  RETURN_IF_ERROR(CheckOptionsApply(options, inputs.front()));
  RETURN_IF_ERROR(CheckInputsOutside(options, inputs));
  VocabularyInfo vocabulary;
  if (inputs.front().kind == InputKind::kIds) {
    ASSIGN_OR_RETURN(vocabulary, ExternalVocabulary(options.ids));
  } else {
    vocabulary = ByteTokenizer()->vocabulary();
  }
  ASSIGN_OR_RETURN(const std::vector<ManifestFile> sources, DigestInputs(inputs));
  const std::string fingerprint = Fingerprint(options, vocabulary);
  if (HoldsSomething(options.output)) {
    PrepareReport report;
    const auto found = FindOutput(options, sources, fingerprint, report);
    if (found.ok() && *found) return report;
    if (!options.replace) {
      RETURN_IF_ERROR(found.status());
      return absl::FailedPreconditionError(
          options.output +
          ": holds something else already; name another folder, or replace it if it is a corpus");
    }
    RETURN_IF_ERROR(CheckIsCorpus(options.output));
  }
  return Build(options, inputs, vocabulary, sources, fingerprint);
}

}  // namespace mneme
