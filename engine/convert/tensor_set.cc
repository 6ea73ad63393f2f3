#include "engine/convert/tensor_set.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/text.h"
#include "data/json_file.h"
#include "engine/checkpoint/source.h"
#include "engine/convert/convert.h"
#include "engine/convert/table_rows.h"
#include "engine/convert/weight_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::pair<std::string, std::string>>;

constexpr int64_t kScanElements = int64_t{1} << 20;

// "a.b: 1" lines of a JSON object.
void FlattenJson(const Json& json, const std::string& prefix, std::string& out) {
  if (json.object() == nullptr) {
    out += prefix + ": " + JsonText(json) + "\n";
    return;
  }
  for (const auto& [key, value] : *json.object()) {
    FlattenJson(value, prefix.empty() ? key : prefix + "." + key, out);
  }
}

// Rows of a stored dtype as numbers.
template <class ReadBytes>
absl::Status ReadNumbers(Element element, absl::Span<double> to, ReadBytes read) {
  std::vector<char> bytes(to.size() * static_cast<size_t>(BytesOf(element)));
  RETURN_IF_ERROR(read(bytes.data(), static_cast<int64_t>(bytes.size())));
  Decode(element, bytes.data(), to);
  return absl::OkStatus();
}

// Elements [first, first + to.size()) of a matrix of `cols` by whole rows: `read` gives rows.
template <class ReadRows>
absl::Status ReadByRows(int64_t cols, int64_t first, absl::Span<double> to, ReadRows read) {
  if (to.empty()) return absl::OkStatus();
  const int64_t count = static_cast<int64_t>(to.size());
  const int64_t begin = first / cols;
  const int64_t end = (first + count + cols - 1) / cols;
  if (first % cols == 0 && count % cols == 0) return read(begin, end, to);
  std::vector<double> rows(static_cast<size_t>((end - begin) * cols));
  RETURN_IF_ERROR(read(begin, end, absl::MakeSpan(rows)));
  std::copy_n(rows.begin() + (first - begin * cols), count, to.begin());
  return absl::OkStatus();
}

// A verified checkpoint of ours.
class CheckpointTensors : public TensorSet {
 public:
  CheckpointTensors(std::string path, CheckpointManifest manifest, RunConfig config)
      : config_(std::move(config)), source_(std::move(path), std::move(manifest)) {
    const CheckpointManifest& m = source_.manifest();
    dtype_ = m.dtype == Name(DType::kF64) ? DType::kF64 : DType::kF32;
    std::map<std::pair<std::string, std::string>, const StoredSlice*> pieces;
    for (const StoredSlice& slice : m.slices) pieces[{slice.kind, slice.name}] = &slice;
    for (const auto& [key, slice] : pieces) {
      const int64_t bytes = slice->rows * slice->cols * SizeOf(dtype_);
      std::vector<int64_t> shape = {slice->cols};
      if (slice->rows > 1) shape.insert(shape.begin(), slice->rows);
      tensors_.push_back({slice->name, slice->kind, m.dtype, shape, bytes, -1, ""});
      tables_.push_back(nullptr);
    }
    std::map<std::string, bool> names;
    for (const StoredTable& part : m.tables) names[part.name] = true;
    for (const auto& [name, unused] : names) {
      auto rows = std::make_unique<TableRows>(source_, name, config_);
      const int64_t row_bytes = rows->width() * SizeOf(dtype_);
      tensors_.push_back({name,
                          "rows",
                          m.dtype,
                          {rows->rows(), rows->width()},
                          rows->stored() * row_bytes,
                          rows->stored(),
                          "seed " + std::to_string(config_.train.seed) + ", spread " +
                              NumberText(config_.model.engram.table.init_std)});
      tables_.push_back(std::move(rows));
    }
  }

  const char* what() const override { return "checkpoint"; }
  const std::string& path() const override { return source_.path(); }
  std::string Config() const override {
    std::string lines;
    const auto json = ParseJson(ConfigJson(config_));
    if (json.ok()) FlattenJson(*json, "", lines);
    return lines;
  }
  Texts Facts() const override {
    const CheckpointManifest& m = source_.manifest();
    int64_t bytes = 0;
    for (const auto& [name, file] : m.files) bytes += file.bytes;
    Texts facts = {{"step", std::to_string(m.position.step)},
                   {"stage", std::to_string(m.position.stage)},
                   {"tokens trained on", std::to_string(m.position.tokens)},
                   {"dtype", m.dtype},
                   {"ranks that wrote it", std::to_string(m.ranks)},
                   {"files", std::to_string(m.files.size()) + ", " + std::to_string(bytes) +
                                 " bytes, checksums sound"},
                   {"vocabulary", std::to_string(m.vocabulary.size) + " ids (" +
                                      m.vocabulary.tokenizer + "), digest " + m.vocabulary.digest},
                   {"data digest", m.data_digest}};
    for (const StageConfig& stage : config_.stages) {
      if (!stage.init_from.empty()) facts.emplace_back("started from", stage.init_from);
    }
    // Of a converted one its certificate says where it came from.
    const absl::StatusOr<Json> certificate = ReadJson(source_.path() + "/" + kCertificateName);
    if (absl::IsNotFound(certificate.status())) return facts;
    std::vector<std::string> faults;
    std::string origin;
    if (certificate.ok()) {
      origin = JsonFields(*certificate, "", faults).Fields("from").Text("path");
    } else {
      faults.emplace_back(certificate.status().message());
    }
    facts.emplace_back("converted from",
                       faults.empty()
                           ? origin
                           : std::string("not known: ") + kCertificateName + ": " + faults.front());
    return facts;
  }

  absl::Status Read(size_t tensor, int64_t first, absl::Span<double> to) override {
    const TensorInfo& info = tensors_[tensor];
    if (TableRows* table = tables_[tensor].get(); table != nullptr) {
      return ReadByRows(
          table->width(), first, to,
          [&](int64_t begin, int64_t, absl::Span<double> x) { return table->Read(begin, x); });
    }
    const int64_t rows = info.shape.size() == 1 ? 1 : info.shape[0];
    const int64_t cols = info.shape.back();
    return ReadByRows(cols, first, to, [&](int64_t begin, int64_t end, absl::Span<double> x) {
      const Element element = dtype_ == DType::kF64 ? Element::kF64 : Element::kF32;
      return ReadNumbers(element, x, [&](char* bytes, int64_t) {
        return source_.Read(info.kind, info.name, rows, cols, begin, end, dtype_, bytes);
      });
    });
  }
  absl::Status Scan(size_t tensor,
                    const std::function<void(absl::Span<const double>)>& see) override {
    if (TableRows* table = tables_[tensor].get(); table != nullptr) return table->Scan(see);
    return TensorSet::Scan(tensor, see);
  }
  absl::Status MarkStored(size_t tensor, int64_t begin, absl::Span<char> stored) override {
    if (tables_[tensor] == nullptr) return TensorSet::MarkStored(tensor, begin, stored);
    return tables_[tensor]->MarkStored(begin, stored);
  }

 private:
  RunConfig config_;
  CheckpointSource source_;
  DType dtype_ = DType::kF32;
  std::vector<std::unique_ptr<TableRows>> tables_;  // one a tensor; null where it is no table
};

Element ElementOf(H5Type type) {
  switch (type) {
    case H5Type::kF32:
      return Element::kF32;
    case H5Type::kF64:
      return Element::kF64;
    case H5Type::kI32:
      return Element::kI32;
    case H5Type::kI64:
      return Element::kI64;
    case H5Type::kU8:
      return Element::kU8;
    case H5Type::kU16:
      return Element::kU16;
    case H5Type::kU32:
      return Element::kU32;
  }
  return Element::kF32;
}

// One file of a checkpoint or a corpus, dataset by dataset.
class Hdf5Tensors : public TensorSet {
 public:
  static absl::StatusOr<std::unique_ptr<TensorSet>> Open(const std::string& path) {
    auto set = std::make_unique<Hdf5Tensors>();
    set->path_ = path;
    ASSIGN_OR_RETURN(set->file_, H5File::Open(path));
    for (const std::string& name : set->file_->Datasets()) {
      const absl::StatusOr<H5DatasetInfo> info = set->file_->Info(name);
      if (!info.ok()) continue;  // a text
      int64_t elements = 1;
      for (const int64_t dim : info->shape) elements *= dim;
      set->tensors_.push_back({name, "dataset", H5TypeName(info->type), info->shape,
                               elements * H5TypeBytes(info->type), -1, ""});
      set->types_.push_back(info->type);
    }
    return set;
  }

  const char* what() const override { return "HDF5 file"; }
  const std::string& path() const override { return path_; }
  Texts Facts() const override { return {}; }
  std::string Config() const override { return ""; }
  absl::Status Read(size_t tensor, int64_t first, absl::Span<double> to) override {
    const TensorInfo& info = tensors_[tensor];
    const H5Type type = types_[tensor];
    if (info.shape.empty()) {
      return ReadNumbers(ElementOf(type), to, [&](char* bytes, int64_t size) {
        return file_->Read(info.name, type, bytes, size);
      });
    }
    int64_t cols = 1;
    for (size_t i = 1; i < info.shape.size(); ++i) cols *= info.shape[i];
    return ReadByRows(cols, first, to, [&](int64_t begin, int64_t end, absl::Span<double> x) {
      return ReadNumbers(ElementOf(type), x, [&](char* bytes, int64_t size) {
        return file_->ReadRows(info.name, type, begin, end - begin, bytes, size);
      });
    });
  }

 private:
  std::string path_;
  std::unique_ptr<H5File> file_;
  std::vector<H5Type> types_;
};

// safetensors: a file, or a folder of shards beside its config.json.
class WeightTensors : public TensorSet {
 public:
  static absl::StatusOr<std::unique_ptr<TensorSet>> Open(const std::string& path) {
    auto set = std::make_unique<WeightTensors>();
    set->path_ = path;
    ASSIGN_OR_RETURN(set->weights_, WeightFolder::Open(path));
    for (const auto& [name, place] : set->weights_->tensors()) {
      const StoredTensor& tensor = *place.tensor;
      set->tensors_.push_back({name, "value", ElementName(tensor.element), tensor.shape,
                               tensor.end - tensor.begin, -1, ""});
      set->places_.push_back(place);
    }
    const std::string config = path + "/config.json";
    std::error_code error;
    if (!fs::is_directory(path, error) || !fs::exists(config, error)) return set;
    ASSIGN_OR_RETURN(const Json json, ReadJson(config));
    FlattenJson(json, "", set->config_);
    return set;
  }

  const char* what() const override {
    std::error_code error;
    return fs::is_directory(path_, error) ? "Hugging Face folder" : "safetensors file";
  }
  const std::string& path() const override { return path_; }
  std::string Config() const override { return config_; }
  Texts Facts() const override {
    Texts facts = {{"files", std::to_string(weights_->files().size())}};
    for (const auto& [key, value] : weights_->files().front()->header().metadata) {
      facts.emplace_back("metadata " + key, value);
    }
    return facts;
  }
  absl::Status Read(size_t tensor, int64_t first, absl::Span<double> to) override {
    return places_[tensor].file->Read(*places_[tensor].tensor, first, to);
  }

 private:
  std::string path_;
  std::unique_ptr<WeightFolder> weights_;
  std::vector<WeightFolder::Place> places_;
  std::string config_;
};

absl::StatusOr<std::unique_ptr<TensorSet>> OpenCheckpointTensors(const std::string& path) {
  ASSIGN_OR_RETURN(CheckpointManifest manifest, ReadCheckpointManifest(path));
  RETURN_IF_ERROR(VerifyFiles(path, manifest));
  ASSIGN_OR_RETURN(const std::string yaml, ReadFileBytes(path + "/config.yaml"));
  ASSIGN_OR_RETURN(RunConfig config, ParseConfig(yaml, path + "/config.yaml"));
  return std::make_unique<CheckpointTensors>(path, std::move(manifest), std::move(config));
}

// A file of a checkpoint is checked against the manifest beside it: HDF5 does not bear damage.
absl::Status VerifyBesideManifest(const std::string& path) {
  const fs::path file(path);
  const auto manifest = ReadCheckpointManifest(file.parent_path().string());
  if (!manifest.ok()) return absl::OkStatus();
  CheckpointManifest one;
  for (const auto& [name, stored] : manifest->files) {
    if (file.filename() == name) one.files[name] = stored;
  }
  return VerifyFiles(file.parent_path().string(), one);
}

}  // namespace

absl::Status TensorSet::Scan(size_t tensor,
                             const std::function<void(absl::Span<const double>)>& see) {
  int64_t elements = 1;
  for (const int64_t dim : tensors_[tensor].shape) elements *= dim;
  // Whole rows at once, where rows are that short.
  int64_t at_once = kScanElements;
  const std::vector<int64_t>& shape = tensors_[tensor].shape;
  if (!shape.empty() && shape[0] > 0) {
    const int64_t row = elements / shape[0];
    if (row > 0 && row < at_once) at_once = at_once / row * row;
  }
  std::vector<double> values;
  for (int64_t first = 0; first < elements; first += at_once) {
    values.resize(static_cast<size_t>(std::min(at_once, elements - first)));
    RETURN_IF_ERROR(Read(tensor, first, absl::MakeSpan(values)));
    see(values);
  }
  return absl::OkStatus();
}

absl::Status TensorSet::MarkStored(size_t, int64_t, absl::Span<char> stored) {
  std::fill(stored.begin(), stored.end(), char{1});
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TensorSet>> OpenTensorSet(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(path +
                               ": does not exist; give a checkpoint, a run, a .h5 or .safetensors "
                               "file, or a folder in the Hugging Face layout");
  }
  if (!fs::is_directory(path, error)) {
    if (!path.ends_with(".h5")) return WeightTensors::Open(path);
    RETURN_IF_ERROR(VerifyBesideManifest(path));
    return Hdf5Tensors::Open(path);
  }
  if (fs::exists(path + "/manifest.json", error)) return OpenCheckpointTensors(path);
  const std::string inside = path + "/checkpoints";
  const auto newest = NewestCheckpoint(fs::is_directory(inside, error) ? inside : path);
  if (newest.ok()) return OpenCheckpointTensors(*newest);
  if (absl::IsDataLoss(newest.status())) return newest.status();
  if (fs::is_directory(inside, error)) {
    return absl::NotFoundError(path + ": is a run without a whole checkpoint");
  }
  return WeightTensors::Open(path);
}

}  // namespace mneme
