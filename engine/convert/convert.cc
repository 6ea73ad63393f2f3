#include "engine/convert/convert.h"

#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>

#include "configs/json_text.h"
#include "configs/load.h"
#include "engine/convert/add_engram.h"
#include "engine/convert/convert_target.h"
#include "engine/convert/logits.h"
#include "engine/machine/machine.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kMostFiles = 10'000;          // of weights
constexpr int64_t kMostCompared = 300'000'000;  // parameters of a model that is also run

bool ToForeign(const ConvertOptions& options) { return options.format == "huggingface"; }

absl::Status CheckOptions(const ConvertOptions& options) {
  if (options.format != "mneme" && options.format != "huggingface") {
    return absl::InvalidArgumentError("--format " + options.format + ": mneme or huggingface");
  }
  if (options.dtype != "bf16" && options.dtype != "f32") {
    return absl::InvalidArgumentError("--dtype " + options.dtype + ": bf16 or f32");
  }
  if (options.file_bytes < 1) return absl::InvalidArgumentError("a file needs at least a byte");
  if (!options.add_engram.empty() && ToForeign(options)) {
    return absl::InvalidArgumentError("--add-engram makes a checkpoint: --format mneme");
  }
  return absl::OkStatus();
}

// The layout knows shared experts by their number, each as wide as a routed one.
absl::Status CheckSharedWidth(const ModelSource& source) {
  const MoeConfig& moe = source.config().model.moe;
  if (moe.experts == 0 || moe.shared_hidden() % moe.expert_width == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      source.path() + ": model.moe.shared_width: " + std::to_string(moe.shared_width) +
      " is no multiple of model.moe.expert_width (" + std::to_string(moe.expert_width) +
      "), and --format huggingface can only count shared experts of that width");
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenSource(const ConvertOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, OpenModelSource(options.from));
  if (ToForeign(options)) RETURN_IF_ERROR(CheckSharedWidth(*source));
  RETURN_IF_ERROR(source->TakeVocabulary(options.vocabulary, options.tokenizer_json));
  if (options.add_engram.empty()) {
    if (ToForeign(options) || source->format() != std::string("mneme")) return source;
    return absl::InvalidArgumentError(source->path() +
                                      ": is in that format already; a checkpoint is read on any "
                                      "number of ranks as it is");
  }
  absl::StatusOr<RunConfig> config = LoadConfig(options.add_engram, options.overrides);
  // The path was typed: a usage error where it cannot be read.
  if (!config.ok()) return absl::InvalidArgumentError(config.status().message());
  return AddEngram(std::move(source), config->model.engram);
}

absl::Status CheckFiles(const Conversion& conversion) {
  const auto count = static_cast<int64_t>(conversion.files.size());
  if (count <= kMostFiles) return absl::OkStatus();
  int64_t bytes = 0;
  for (const PlannedFile& file : conversion.files) bytes += file.bytes();
  return absl::InvalidArgumentError(
      "--file-bytes " + std::to_string(conversion.options.file_bytes) + ": would make " +
      std::to_string(count) + " files, at most " + std::to_string(kMostFiles) +
      " may be; the weights are " + std::to_string(bytes) + " bytes together");
}

// Some bias of a router is not 0: DeepSeek-V2's layout has no place for it.
absl::StatusOr<bool> HasRouterBias(ModelSource& source) {
  std::vector<double> bias;
  for (const ModelTensor& tensor : source.tensors()) {
    if (tensor.kind != "router_bias") continue;
    bias.resize(static_cast<size_t>(tensor.cols));
    RETURN_IF_ERROR(source.Read(tensor, 0, absl::MakeSpan(bias)));
    for (const double b : bias) {
      if (b != 0.0) return true;
    }
  }
  return false;
}

// DeepSeek-V2 has no bias of its routers: zeros are left out.
std::vector<ModelTensor> WantedTensors(const ModelSource& source, const std::string& architecture) {
  std::vector<ModelTensor> tensors = source.tensors();
  if (architecture == "deepseek_v2") {
    std::erase_if(tensors, [](const ModelTensor& t) { return t.kind == "router_bias"; });
  }
  return tensors;
}

std::string PlanText(const Conversion& conversion) {
  std::string text = conversion.source.Fingerprint() + "\n" + conversion.options.format + " " +
                     ElementName(conversion.element) + " " + conversion.source.vocabulary().digest +
                     "\n";
  for (const PlannedFile& file : conversion.files) {
    text += file.name + "\n";
    for (const PlannedPart& part : file.parts) {
      text += "  " + part.name + " " + std::to_string(part.begin) + " " + std::to_string(part.end) +
              "\n";
    }
  }
  return text;
}

// The difference of logits, or why there is none, as JSON.
absl::StatusOr<std::string> CompareLogits(const Conversion& conversion, const WorkFolder& work,
                                          ConvertResult& result) {
  const auto none = [](const std::string& why) {
    return JsonObject().Add("compared", false).Add("why", why).Text();
  };
  if (!conversion.options.logits) return none("not asked for");
  if (conversion.source.format() != std::string("mneme")) {
    return none("the source is another program's: tests/engine/convert compares with it");
  }
  int64_t parameters = 0;
  for (const ModelTensor& tensor : conversion.source.tensors()) parameters += tensor.elements();
  if (parameters > kMostCompared) {
    return none("more than " + std::to_string(kMostCompared) + " parameters: not run here");
  }
  const bool foreign = ToForeign(conversion.options);
  std::string written = work.path();
  if (foreign) {  // what was written, read back as an import would
    ConvertOptions back;
    back.from = work.path();
    back.to = work.path() + "/.logits";
    back.format = "mneme";
    back.replace = true;
    back.logits = false;
    RETURN_IF_ERROR(Convert(back).status());
    written = back.to;
  }
  const std::vector<int32_t> ids =
      FixedPrompt(conversion.source.vocabulary().size, kCertificateTokens);
  const absl::StatusOr<double> difference =
      LogitsDifference(conversion.source.path(), written, ids);
  std::error_code ignored;
  if (foreign) std::filesystem::remove_all(written, ignored);
  RETURN_IF_ERROR(difference.status());
  result.logits_difference = *difference;
  return JsonObject()
      .Add("compared", true)
      .Add("what", "the source, and the files written here read back; one prompt of fixed ids")
      .Add("tokens", kCertificateTokens)
      .Add("greatest_difference", *difference)
      .Text();
}

}  // namespace

absl::StatusOr<ConvertResult> Convert(const ConvertOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenSource(options));
  Conversion conversion{options, *source, "", Element::kF32, {}};
  if (ToForeign(options)) {
    ASSIGN_OR_RETURN(const bool bias, HasRouterBias(*source));
    conversion.architecture = ArchitectureOf(source->config().model, bias);
    if (options.dtype == "bf16") conversion.element = Element::kBf16;
  } else if (PrecisionOf(source->config()) == DType::kF64) {
    conversion.element = Element::kF64;
  }
  const std::vector<ModelTensor> tensors = WantedTensors(*source, conversion.architecture);
  conversion.files = ToForeign(options)
                         ? PlanForeignFiles(tensors, conversion.element, options.file_bytes)
                         : PlanCheckpointFiles(tensors, conversion.element, options.file_bytes,
                                               !options.add_engram.empty());
  RETURN_IF_ERROR(CheckFiles(conversion));
  ASSIGN_OR_RETURN(WorkFolder work,
                   WorkFolder::Open(options.to, PlanText(conversion), options.replace));

  ConvertResult result;
  result.to = options.to;
  result.architecture = conversion.architecture;
  if (ToForeign(options)) {
    RETURN_IF_ERROR(WriteForeignFiles(conversion, work));
    RETURN_IF_ERROR(WriteForeignSides(conversion, work));
  } else {
    RETURN_IF_ERROR(WriteCheckpointFiles(conversion, work));
    RETURN_IF_ERROR(WriteCheckpointSides(conversion, work));
  }
  ASSIGN_OR_RETURN(const std::string logits, CompareLogits(conversion, work, result));
  RETURN_IF_ERROR(WriteCertificate(conversion, work, logits));
  RETURN_IF_ERROR(work.Publish());
  result.tensors = static_cast<int64_t>(tensors.size());
  result.left_out = static_cast<int64_t>(source->left_out().size());
  result.made = static_cast<int64_t>(source->made().size());
  result.files = static_cast<int64_t>(conversion.files.size());
  for (const PlannedFile& file : conversion.files) result.bytes += file.bytes();
  result.notes = source->notes();
  return result;
}

}  // namespace mneme
