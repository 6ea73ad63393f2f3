// mneme convert --from A --to B --format mneme|huggingface
#include "engine/convert/convert.h"

#include <cstdio>

#include "configs/json_text.h"
#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

std::string ResultText(const ConvertResult& result) {
  std::string text = result.to + ": " + std::to_string(result.tensors) + " tensors in " +
                     std::to_string(result.files) + " files of weights, " +
                     std::to_string(result.bytes) + " bytes";
  if (!result.architecture.empty()) text += ", model_type " + result.architecture;
  text += "\n";
  if (result.left_out > 0) text += "  left out: " + std::to_string(result.left_out) + ", named in ";
  if (result.left_out > 0) text += std::string(kCertificateName) + "\n";
  if (result.made > 0) text += "  made here: " + std::to_string(result.made) + " tensors\n";
  if (result.logits_difference >= 0.0) {
    text += "  greatest difference of logits: " + JsonNumber(result.logits_difference) + "\n";
  }
  for (const std::string& note : result.notes) text += "  note: " + note + "\n";
  return text;
}

std::string ResultJson(const ConvertResult& result) {
  std::vector<std::string> notes;
  for (const std::string& note : result.notes) notes.push_back(JsonString(note));
  JsonObject json;
  json.Add("to", result.to)
      .Add("architecture", result.architecture)
      .Add("tensors", result.tensors)
      .Add("left_out", result.left_out)
      .Add("made", result.made)
      .Add("files", result.files)
      .Add("bytes", result.bytes)
      .AddRaw("notes", JsonArray(notes));
  const bool compared = result.logits_difference >= 0.0;
  json.AddRaw("logits_difference", compared ? JsonNumber(result.logits_difference) : "null");
  return json.Text() + "\n";
}

}  // namespace

absl::StatusOr<int> ConvertVerb(const ConvertArguments& arguments) {
  ConvertOptions options = arguments.options;
  options.say = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  ASSIGN_OR_RETURN(const ConvertResult result, Convert(options));
  std::printf("%s", arguments.json ? ResultJson(result).c_str() : ResultText(result).c_str());
  return 0;
}

}  // namespace mneme
