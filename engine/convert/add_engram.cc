#include "engine/convert/add_engram.h"

#include <algorithm>
#include <set>
#include <utility>

#include "configs/validate.h"
#include "kernels/core/check.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

class WithEngram : public ModelSource {
 public:
  explicit WithEngram(std::unique_ptr<ModelSource> base) : base_(std::move(base)) {
    path_ = base_->path();
    config_ = base_->config();
    vocabulary_ = base_->vocabulary();
    position_ = base_->position();
    left_out_ = base_->left_out();
    made_ = base_->made();
    notes_ = base_->notes();
    texts_ = base_->texts();
    for (const ModelTensor& tensor : base_->tensors()) old_.insert(tensor.piece);
  }

  absl::Status Add(const EngramConfig& engram) {
    if (!config_.model.engram.blocks.empty()) {
      return absl::InvalidArgumentError(path_ + ": has a memory already (model.engram.blocks)");
    }
    config_.model.engram = engram;
    if (engram.blocks.empty()) {
      return absl::InvalidArgumentError("the memory to add has no model.engram.blocks");
    }
    RETURN_IF_ERROR(Validate(config_));
    tensors_ = ModelTensors(config_.model);
    for (const ModelTensor& tensor : tensors_) {
      if (old_.contains(tensor.piece)) continue;
      made_.push_back(
          {tensor.piece, tensor.neutral          ? "zeros: what the memory adds is zero"
                         : tensor.kind == "rows" ? "the first values that its seed makes"
                         : tensor.init > 0.0     ? "drawn as for a fresh model, from its name"
                                                 : "constant as in a fresh model"});
    }
    return absl::OkStatus();
  }

  const char* format() const override { return base_->format(); }
  std::string Fingerprint() const override { return base_->Fingerprint() + " with a memory"; }
  std::vector<std::string> Files() const override { return base_->Files(); }
  std::pair<std::string, std::string> Origin(const ModelTensor& tensor) const override {
    if (!old_.contains(tensor.piece)) return {"", ""};
    return base_->Origin(tensor);
  }
  absl::Status Read(const ModelTensor& tensor, int64_t begin, absl::Span<double> to) override {
    if (old_.contains(tensor.piece)) return base_->Read(tensor, begin, to);
    const double constant = tensor.neutral ? 0.0 : 0.0 - tensor.init;
    if (tensor.neutral || tensor.init <= 0.0) {
      std::fill(to.begin(), to.end(), constant);
      return absl::OkStatus();
    }
    const RandomKey key = MakeKey(static_cast<uint64_t>(config_.train.seed), tensor.piece);
    FillNormal(key, static_cast<uint64_t>(begin * tensor.cols), static_cast<int64_t>(to.size()),
               tensor.init, to.data());
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<ModelSource> base_;
  std::set<std::string> old_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> AddEngram(std::unique_ptr<ModelSource> base,
                                                       const EngramConfig& engram) {
  auto model = std::make_unique<WithEngram>(std::move(base));
  RETURN_IF_ERROR(model->Add(engram));
  return model;
}

}  // namespace mneme
