// A checkpoint of ours as something to convert.
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "configs/load.h"
#include "engine/checkpoint/source.h"
#include "engine/convert/element.h"
#include "engine/convert/model_source.h"
#include "engine/convert/table_rows.h"
#include "engine/machine/machine.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

class CheckpointModel : public ModelSource {
 public:
  explicit CheckpointModel(CheckpointManifest manifest, const std::string& path)
      : source_(path, std::move(manifest)) {
    path_ = path;
  }

  absl::Status Prepare() {
    const CheckpointManifest& m = source_.manifest();
    dtype_ = m.dtype == Name(DType::kF64) ? DType::kF64 : DType::kF32;
    ASSIGN_OR_RETURN(CheckpointMeta meta, ReadCheckpointMeta(path_));
    vocabulary_ = std::move(meta.vocabulary);
    position_ = m.position;
    ASSIGN_OR_RETURN(config_, ParseConfig(meta.config, path_ + "/config.yaml"));
    if (position_.stage < 0 || position_.stage >= static_cast<int64_t>(config_.stages.size())) {
      return absl::DataLossError(path_ + ": stands in stage " + std::to_string(position_.stage) +
                                 ", which its config.yaml does not have");
    }
    ASSIGN_OR_RETURN(config_.model.vocab_size, ModelVocabularySize(config_.model, vocabulary_));
    tensors_ = ModelTensors(config_.model);
    return CheckPieces();
  }

  const char* format() const override { return "mneme"; }
  std::string Fingerprint() const override {
    return BytesDigest(DumpCheckpointManifest(source_.manifest()));
  }
  std::vector<std::string> Files() const override {
    std::vector<std::string> files = {path_ + "/manifest.json"};
    for (const auto& [name, file] : source_.manifest().files) files.push_back(path_ + "/" + name);
    return files;
  }
  std::pair<std::string, std::string> Origin(const ModelTensor& tensor) const override {
    return {tensor.piece, source_.manifest().dtype};
  }
  absl::Status Read(const ModelTensor& tensor, int64_t begin, absl::Span<double> to) override {
    if (tensor.kind == "rows") return tables_.at(tensor.piece)->Read(begin, to);
    const int64_t end = begin + static_cast<int64_t>(to.size()) / tensor.cols;
    bytes_.resize(to.size() * static_cast<size_t>(SizeOf(dtype_)));
    RETURN_IF_ERROR(source_.Read(tensor.kind, tensor.piece, tensor.rows, tensor.cols, begin, end,
                                 dtype_, bytes_.data()));
    Decode(dtype_ == DType::kF64 ? Element::kF64 : Element::kF32, bytes_.data(), to);
    return absl::OkStatus();
  }

 private:
  // Everything that the configuration asks for is there, and nothing else.
  absl::Status CheckPieces() {
    const CheckpointManifest& m = source_.manifest();
    std::map<std::string, int64_t> held;  // elements by kind and name
    std::set<std::string> moments;
    for (const StoredSlice& slice : m.slices) {
      if (slice.kind == "value" || slice.kind == "router_bias") {
        held[slice.kind + " " + slice.name] += (slice.end - slice.begin) * slice.cols;
      } else {
        moments.insert(slice.kind);
      }
    }
    std::map<std::string, bool> tables;
    for (const StoredTable& part : m.tables) tables[part.name] = true;
    for (const ModelTensor& tensor : tensors_) {
      if (tensor.kind == "rows") {
        if (tables.erase(tensor.piece) == 0) {
          return ForeignCheckpoint(path_, "holds no table " + tensor.piece);
        }
        tables_[tensor.piece] = std::make_unique<TableRows>(source_, tensor.piece, config_);
        const TableRows& rows = *tables_[tensor.piece];
        if (rows.rows() != tensor.rows || rows.width() != tensor.cols) {
          return ForeignCheckpoint(path_, "has a table " + tensor.piece + " of another size");
        }
        continue;
      }
      const auto it = held.find(tensor.kind + " " + tensor.piece);
      if (it == held.end() || it->second != tensor.elements()) {
        return ForeignCheckpoint(path_, "holds no whole " + tensor.piece);
      }
      held.erase(it);
    }
    if (!held.empty()) return ForeignCheckpoint(path_, "holds " + held.begin()->first);
    if (!tables.empty()) return ForeignCheckpoint(path_, "holds a table " + tables.begin()->first);
    for (const std::string& kind : moments) {
      left_out_.push_back({"every " + kind, "state of the optimizer, not of the model"});
    }
    return absl::OkStatus();
  }

  CheckpointSource source_;
  DType dtype_ = DType::kF32;
  std::map<std::string, std::unique_ptr<TableRows>> tables_;
  std::vector<char> bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenCheckpointModel(const std::string& path) {
  ASSIGN_OR_RETURN(CheckpointManifest manifest, ReadCheckpointManifest(path));
  RETURN_IF_ERROR(VerifyFiles(path, manifest));
  auto model = std::make_unique<CheckpointModel>(std::move(manifest), path);
  RETURN_IF_ERROR(model->Prepare());
  return model;
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::exists(path + "/manifest.json", error)) return OpenCheckpointModel(path);
  if (fs::exists(path + "/config.json", error)) return OpenForeignModel(path);
  const std::string inside = path + "/checkpoints";
  const auto newest = NewestCheckpoint(fs::is_directory(inside, error) ? inside : path);
  if (newest.ok()) return OpenCheckpointModel(*newest);
  if (absl::IsDataLoss(newest.status())) return newest.status();
  return absl::NotFoundError(
      path +
      ": holds neither a checkpoint (manifest.json), nor a run with one, nor a "
      "model in the Hugging Face layout (config.json)");
}

}  // namespace mneme
