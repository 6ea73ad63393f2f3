// A folder in the Hugging Face layout as something to convert.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "data/files.h"
#include "data/json_file.h"
#include "data/vocabulary_file.h"
#include "engine/convert/exported_run.h"
#include "engine/convert/foreign_config.h"
#include "engine/convert/model_source.h"
#include "engine/convert/weight_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kCompareElements = int64_t{1} << 20;
constexpr char kScaleSuffix[] = "_scale_inv";  // of FP8 weights, per block

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// N of "model.layers.N.…"; −1 for other names.
int64_t LayerOf(const std::string& name) {
  const std::string prefix = "model.layers.";
  if (!name.starts_with(prefix)) return -1;
  int64_t layer = -1;
  const auto [stop, error] =
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
  return error == std::errc() && stop != name.data() + name.size() && *stop == '.' ? layer : -1;
}

// A tensor of ours as it lies in the files: one tensor of theirs, or several by rows.
struct Placed {
  std::vector<WeightFolder::Place> parts;
  std::vector<int64_t> first_row;              // of each part
  const WeightFolder::Place* scale = nullptr;  // FP8: [rows / block, cols / block]
};

class ForeignModel : public ModelSource {
 public:
  absl::Status Prepare(const std::string& path) {
    path_ = path;
    RETURN_IF_ERROR(ReadConfig());
    tensors_ = ModelTensors(config_.model);
    RETURN_IF_ERROR(ReadVocabularyFiles());
    ASSIGN_OR_RETURN(weights_, WeightFolder::Open(path));
    for (const ModelTensor& tensor : tensors_) RETURN_IF_ERROR(PlaceTensor(tensor));
    return CheckOthers();
  }

  const char* format() const override { return "huggingface"; }
  std::string Fingerprint() const override {
    std::string text;
    for (const std::string& file : Files()) {
      std::error_code error;
      text += file + " " + std::to_string(fs::file_size(file, error)) + " " +
              std::to_string(fs::last_write_time(file, error).time_since_epoch().count()) + "\n";
    }
    return BytesDigest(text);
  }
  std::vector<std::string> Files() const override {
    std::vector<std::string> files = {path_ + "/config.json"};
    for (const char* name : {kIndexName, kExportedRunName, kVocabularyName, "tokenizer.json"}) {
      if (Exists(path_ + "/" + name)) files.push_back(path_ + "/" + name);
    }
    for (const auto& file : weights_->files()) files.push_back(file->path());
    return files;
  }
  std::pair<std::string, std::string> Origin(const ModelTensor& tensor) const override {
    const auto it = placed_.find(tensor.piece);
    if (it == placed_.end()) return {"", ""};
    return {tensor.foreign, ElementName(it->second.parts.front().tensor->element)};
  }

  absl::Status Read(const ModelTensor& tensor, int64_t begin, absl::Span<double> to) override {
    const auto it = placed_.find(tensor.piece);
    if (it == placed_.end()) {  // a bias that the format has no place for
      std::fill(to.begin(), to.end(), 0.0);
      return absl::OkStatus();
    }
    const int64_t rows = static_cast<int64_t>(to.size()) / tensor.cols;
    const bool turned = half_split_ && RotaryBegin(tensor, 0) >= 0;
    for (int64_t done = 0; done < rows;) {
      const int64_t row = begin + done;
      const int64_t from = turned ? ForeignRow(tensor, row) : row;
      const int64_t count = turned ? 1 : rows - done;
      int64_t read = 0;
      RETURN_IF_ERROR(ReadRows(tensor, it->second, from, count,
                               to.subspan(static_cast<size_t>(done * tensor.cols)), read));
      done += read;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadConfig() {
    const std::string path = path_ + "/config.json";
    ASSIGN_OR_RETURN(const Json json, ReadJson(path));
    const Json* type = json.Find("model_type");
    const bool own = type != nullptr && type->text() != nullptr && *type->text() == "mneme";
    if (own) foreign_.model_type = "mneme";
    if (!own) {
      ASSIGN_OR_RETURN(foreign_, ReadForeignConfig(json, path));
      config_ = RunConfigOf(foreign_);
      notes_ = foreign_.notes;
      half_split_ = foreign_.half_split_rotary;
    }
    const std::string run = path_ + "/" + kExportedRunName;
    if (!Exists(run)) {
      if (!own) return absl::OkStatus();
      return absl::NotFoundError(
          run + ": is missing; a model of type mneme needs it beside its config.json");
    }
    const int64_t stated = own ? 0 : config_.model.vocab_size;
    RETURN_IF_ERROR(ReadExportedRun(run, config_, position_));
    const ModelConfig& model = config_.model;
    const auto other = [&](const std::string& key) {
      return absl::DataLossError(run + ": is of another model than the config.json beside it (" +
                                 key + ")");
    };
    if (model.vocab_size < 1 || (stated > 0 && model.vocab_size != stated))
      return other("vocab_size");
    if (!own) return absl::OkStatus();
    // The model is what mneme.json says; a config.json that was changed meant another one.
    const std::pair<const char*, int64_t> sizes[] = {{"vocab_size", model.vocab_size},
                                                     {"hidden_size", model.hidden},
                                                     {"intermediate_size", model.dense_width},
                                                     {"num_hidden_layers", model.layers},
                                                     {"num_attention_heads", model.mla.heads}};
    for (const auto& [key, size] : sizes) {
      const Json* said = json.Find(key);
      if (said == nullptr || said->integer() == nullptr || *said->integer() != size)
        return other(key);
    }
    return absl::OkStatus();
  }

  absl::Status ReadVocabularyFiles() {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                             "generation_config.json"}) {
      if (!Exists(path_ + "/" + name)) continue;
      const std::string file = path_ + "/" + name;
      const bool whole = std::string_view(name) == "tokenizer.json";
      ASSIGN_OR_RETURN(const std::string text, whole ? ReadJsonText(file) : ReadFileBytes(file));
      texts_.emplace_back(name, text);
    }
    const std::string file = path_ + "/" + kVocabularyName;
    if (Exists(file)) {
      ASSIGN_OR_RETURN(vocabulary_, ReadVocabulary(file));
      if (vocabulary_.size <= config_.model.vocab_size) return absl::OkStatus();
      return absl::DataLossError(file + ": has more ids than the model");
    }
    // Nothing says which tokens share a row: each has its own.
    VocabularyInfo& v = vocabulary_;
    v.size = v.canonical_size = config_.model.vocab_size;
    v.eos = std::max<int64_t>(foreign_.eos, 0);
    v.bos = foreign_.bos;
    v.pad = foreign_.pad;
    v.canonical.resize(static_cast<size_t>(v.size));
    for (size_t id = 0; id < v.canonical.size(); ++id) v.canonical[id] = static_cast<int32_t>(id);
    v.tokenizer = "external";
    if (!texts_.empty() && texts_[0].first == "tokenizer.json") v.tokenizer_json = texts_[0].second;
    v.digest = VocabularyDigest(v);
    return absl::OkStatus();
  }

  absl::Status Wrong(const WeightFolder::Place& place, const std::string& why) const {
    return absl::DataLossError(place.file->path() + ": tensor '" + place.tensor->name + "' " + why);
  }

  absl::Status CheckDtype(const WeightFolder::Place& place, Placed& placed) {
    const Element element = place.tensor->element;
    if (element == Element::kF32 || element == Element::kBf16 || element == Element::kF16 ||
        element == Element::kF64) {
      return absl::OkStatus();
    }
    if (element != Element::kF8E4M3) {
      return Wrong(place, std::string("has dtype ") + ElementName(element) +
                              "; weights are F32, BF16, F16, F64, or F8_E4M3 with block scales");
    }
    const std::string name = place.tensor->name + kScaleSuffix;
    placed.scale = weights_->Find(name);
    if (placed.scale == nullptr || foreign_.scale_block == 0) {
      return Wrong(place, "is F8_E4M3, but " +
                              (placed.scale == nullptr
                                   ? "there is no '" + name + "'"
                                   : std::string("config.json has no quantization_config")) +
                              ": its numbers are not known without scales");
    }
    const int64_t block = foreign_.scale_block;
    std::vector<int64_t> blocks;
    for (const int64_t dim : place.tensor->shape) blocks.push_back((dim + block - 1) / block);
    const StoredTensor& scale = *placed.scale->tensor;
    if (scale.shape != blocks ||
        (scale.element != Element::kF32 && scale.element != Element::kBf16)) {
      return Wrong(*placed.scale, std::string("is ") + ElementName(scale.element) + " " +
                                      ShapeText(scale.shape) + "; scales of " +
                                      ShapeText(place.tensor->shape) + " per block of " +
                                      std::to_string(block) + " are F32 " + ShapeText(blocks));
    }
    used_.insert(name);
    return absl::OkStatus();
  }

  absl::Status PlaceTensor(const ModelTensor& tensor) {
    Placed placed;
    int64_t rows = 0;
    const bool table = tensor.kind == "rows";
    for (int64_t part = 0; table || part < 1; ++part) {
      const std::string name = table ? tensor.foreign + "." + std::to_string(part) : tensor.foreign;
      const WeightFolder::Place* place = weights_->Find(name);
      if (place == nullptr) break;
      std::vector<int64_t> wanted = tensor.shape();
      const std::vector<int64_t>& shape = place->tensor->shape;
      if (table && shape.size() == 2) wanted[0] = shape[0];
      if (shape != wanted) {
        return Wrong(*place, "has shape " + ShapeText(shape) + "; config.json makes it " +
                                 ShapeText(wanted));
      }
      RETURN_IF_ERROR(CheckDtype(*place, placed));
      used_.insert(name);
      placed.parts.push_back(*place);
      placed.first_row.push_back(rows);
      rows += tensor.vector ? 1 : shape[0];
    }
    if (placed.parts.empty() && tensor.kind == "router_bias" &&
        config_.model.moe.score == "softmax") {
      made_.push_back({tensor.piece, "zeros: a router of DeepSeek-V2 has no bias"});
      return absl::OkStatus();
    }
    if (rows != tensor.rows) {
      return absl::DataLossError(path_ + ": lacks the tensor '" + tensor.foreign + "'" +
                                 (rows == 0 ? ""
                                            : ": only " + std::to_string(rows) + " of its " +
                                                  std::to_string(tensor.rows) + " rows are there"));
    }
    placed_[tensor.piece] = std::move(placed);
    return absl::OkStatus();
  }

  // What no tensor of ours took: known and left out, or a fault.
  absl::Status CheckOthers() {
    for (const auto& [name, place] : weights_->tensors()) {
      if (used_.contains(name)) continue;
      const int64_t layer = LayerOf(name);
      const int64_t layers = config_.model.layers;
      if (layer >= layers && layer < layers + std::max<int64_t>(1, foreign_.prediction_layers)) {
        left_out_.push_back(
            {name, "of a multi-token prediction module, which models here do not have"});
      } else if (name.ends_with(".rotary_emb.inv_freq")) {
        left_out_.push_back({name, "rotary frequencies, which are computed"});
      } else if (name == "lm_head.weight" && config_.model.tie_embeddings) {
        RETURN_IF_ERROR(CheckTied(place));
        left_out_.push_back({name, "tied to model.embed_tokens.weight, and equal to it"});
      } else if (name.ends_with(kScaleSuffix)) {
        return Wrong(place, "scales a weight that is not F8_E4M3 or not there");
      } else {
        return Wrong(place, "is unknown: a " + foreign_.model_type +
                                " with this config.json has no such tensor");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckTied(const WeightFolder::Place& head) {
    const WeightFolder::Place& embedding = *weights_->Find("model.embed_tokens.weight");
    if (head.tensor->shape == embedding.tensor->shape) {
      const int64_t elements = head.tensor->elements();
      std::vector<double> a, b;
      int64_t at = 0;
      for (; at < elements; at += kCompareElements) {
        a.resize(static_cast<size_t>(std::min(kCompareElements, elements - at)));
        b.resize(a.size());
        RETURN_IF_ERROR(head.file->Read(*head.tensor, at, absl::MakeSpan(a)));
        RETURN_IF_ERROR(embedding.file->Read(*embedding.tensor, at, absl::MakeSpan(b)));
        if (a != b) break;
      }
      if (at >= elements) return absl::OkStatus();
    }
    return Wrong(
        head,
        "is not model.embed_tokens.weight, but config.json ties the two (tie_word_embeddings): "
        "which of them is the head cannot be told");
  }

  // First row of the rotary part that `row` is in; −1 where it is in none.
  int64_t RotaryBegin(const ModelTensor& tensor, int64_t row) const {
    const MlaConfig& a = config_.model.mla;
    if (tensor.piece.ends_with(".attention.kv_a")) return a.kv_lora_rank;
    if (!tensor.piece.ends_with(".attention.q") && !tensor.piece.ends_with(".attention.q_b"))
      return -1;
    const int64_t width = a.qk_nope + a.qk_rope;
    return row / width * width + a.qk_nope;
  }
  // Ours are pairs (2i, 2i + 1), theirs two halves.
  int64_t ForeignRow(const ModelTensor& tensor, int64_t row) const {
    const int64_t begin = RotaryBegin(tensor, row);
    if (row < begin) return row;
    const int64_t i = row - begin;
    return begin + i / 2 + (i % 2) * (config_.model.mla.qk_rope / 2);
  }

  // Up to `count` rows from `row`, as many as one part holds.
  absl::Status ReadRows(const ModelTensor& tensor, const Placed& placed, int64_t row, int64_t count,
                        absl::Span<double> to, int64_t& read) {
    const auto after = std::upper_bound(placed.first_row.begin(), placed.first_row.end(), row);
    const size_t part = static_cast<size_t>(after - placed.first_row.begin()) - 1;
    const WeightFolder::Place& place = placed.parts[part];
    const int64_t inside = row - placed.first_row[part];
    read = std::min(count, place.tensor->elements() / tensor.cols - inside);
    absl::Span<double> rows = to.subspan(0, static_cast<size_t>(read * tensor.cols));
    RETURN_IF_ERROR(place.file->Read(*place.tensor, inside * tensor.cols, rows));
    return placed.scale == nullptr ? absl::OkStatus() : Scale(tensor, *placed.scale, inside, rows);
  }

  // weight = number · scale of its block, in float as everywhere.
  absl::Status Scale(const ModelTensor& tensor, const WeightFolder::Place& scale, int64_t row,
                     absl::Span<double> rows) {
    const int64_t block = foreign_.scale_block;
    const int64_t across = (tensor.cols + block - 1) / block;
    std::vector<double> scales(static_cast<size_t>(across));
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(tensor.cols), ++row) {
      if (at == 0 || row % block == 0) {
        RETURN_IF_ERROR(
            scale.file->Read(*scale.tensor, row / block * across, absl::MakeSpan(scales)));
      }
      for (int64_t c = 0; c < tensor.cols; ++c) {
        double& x = rows[at + static_cast<size_t>(c)];
        x = static_cast<float>(x) * static_cast<float>(scales[static_cast<size_t>(c / block)]);
      }
    }
    return absl::OkStatus();
  }

  ForeignConfig foreign_;
  bool half_split_ = false;
  std::unique_ptr<WeightFolder> weights_;
  std::map<std::string, Placed> placed_;
  std::set<std::string> used_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenForeignModel(const std::string& path) {
  auto model = std::make_unique<ForeignModel>();
  RETURN_IF_ERROR(model->Prepare(path));
  return model;
}

}  // namespace mneme
