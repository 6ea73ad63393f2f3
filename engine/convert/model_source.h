// A model to convert, wherever it comes from: a checkpoint of ours on any number of ranks, or a
// folder in the Hugging Face layout. Read by rows; nothing is held but what is asked for.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "configs/run.h"
#include "data/corpus.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/convert/model_tensors.h"

namespace mneme {

// A tensor that is not carried over, or is made here, and why.
struct TensorNote {
  std::string name;
  std::string why;
};

// Used by one thread. Rows and files are as the source has them; a tensor that is made here
// (made()) has no origin: an empty name.
class ModelSource {
 public:
  virtual ~ModelSource() = default;

  virtual const char* format() const = 0;  // "mneme", "huggingface"
  // Whatever changes when the source does, cheaply: digests, sizes, times.
  virtual std::string Fingerprint() const = 0;
  // The files that the weights come from, whole paths.
  virtual std::vector<std::string> Files() const = 0;
  // What it is called there, and its dtype: "model.norm.weight", "BF16".
  virtual std::pair<std::string, std::string> Origin(const ModelTensor& tensor) const = 0;
  // Rows [begin, begin + to.size() / cols) of one of tensors(), as numbers. Rows of a table that no
  // file has, and what was made, are first values. Errors: DataLoss, files.
  virtual absl::Status Read(const ModelTensor& tensor, int64_t begin, absl::Span<double> to) = 0;

  // As it was given, or the checkpoint found there.
  const std::string& path() const { return path_; }
  const RunConfig& config() const { return config_; }  // vocab_size stated
  const VocabularyInfo& vocabulary() const { return vocabulary_; }
  const RunPosition& position() const { return position_; }
  const std::vector<ModelTensor>& tensors() const { return tensors_; }
  const std::vector<TensorNote>& left_out() const { return left_out_; }
  const std::vector<TensorNote>& made() const { return made_; }
  const std::vector<std::string>& notes() const { return notes_; }
  // Files beside the weights that go along: name -> text (tokenizer.json, …).
  const std::vector<std::pair<std::string, std::string>>& texts() const { return texts_; }

  // The stage that the model stands in: its length and rotary scaling.
  const StageConfig& stage() const {
    return config_.stages.at(static_cast<size_t>(position_.stage));
  }

  // Another vocabulary: of a prepared corpus, whose data the model is to be trained on; and a
  // tokenizer.json to go along. Empty: as they are. InvalidArgument where they do not fit.
  absl::Status TakeVocabulary(const std::string& corpus, const std::string& tokenizer_json);

 protected:
  std::string path_;
  RunConfig config_;
  VocabularyInfo vocabulary_;
  RunPosition position_;
  std::vector<ModelTensor> tensors_;
  std::vector<TensorNote> left_out_;
  std::vector<TensorNote> made_;
  std::vector<std::string> notes_;
  std::vector<std::pair<std::string, std::string>> texts_;
};

// `path`: a checkpoint or a run of ours, or a folder with config.json. Checksums of ours are
// verified. Errors: NotFound; DataLoss (damaged, a tensor missing, of a wrong shape or dtype, or
// unknown); InvalidArgument (a config.json that cannot be mapped).
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(const std::string& path);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenCheckpointModel(const std::string& path);
absl::StatusOr<std::unique_ptr<ModelSource>> OpenForeignModel(const std::string& path);

}  // namespace mneme
