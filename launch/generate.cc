// mneme generate CHECKPOINT --prompt TEXT
#include "engine/evaluation/generate.h"

#include <unistd.h>

#include <cstdio>

#include "configs/json_text.h"
#include "engine/evaluation/analyze.h"
#include "kernels/core/check.h"
#include "launch/model.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

std::string Decode(const std::vector<GeneratedToken>& tokens, const Tokenizer* tokenizer) {
  std::vector<int32_t> ids;
  for (const GeneratedToken& token : tokens) ids.push_back(token.id);
  return tokenizer != nullptr ? tokenizer->Decode(ids) : ShowIds(ids, nullptr);
}

void PrintJson(const GenerateArguments& arguments, const OpenModel& model,
               const std::vector<GeneratedToken>& tokens) {
  std::vector<double> ids, gates;
  for (const GeneratedToken& token : tokens) {
    ids.push_back(token.id);
    gates.push_back(token.gate);
  }
  JsonObject json;
  json.Add("checkpoint", model.loaded->path).Add("prompt", arguments.prompt);
  json.Add("text", Decode(tokens, model.tokenizer.get())).AddRaw("ids", JsonArray(ids));
  if (arguments.gates) json.AddRaw("gates", JsonArray(gates));
  std::printf("%s\n", json.Text().c_str());
}

}  // namespace

absl::StatusOr<int> GenerateVerb(World& world, const GenerateArguments& arguments) {
  ASSIGN_OR_RETURN(const OpenModel model, OpenCheckpoint(world, arguments.model));
  LoadedModel& loaded = *model.loaded;
  ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                   PromptIds(model, arguments.prompt, arguments.prompt_ids));
  GenerateOptions options = arguments.options;
  options.context = loaded.sequence_length;
  options.with_gates = arguments.gates;
  const bool streams = world.rank() == 0 && !arguments.json && !arguments.gates;
  if (streams) std::printf("%s", arguments.prompt.c_str());
  const auto tell = [&](const GeneratedToken& token) {
    if (!streams) return;
    std::printf("%s", Decode({token}, model.tokenizer.get()).c_str());
    std::fflush(stdout);
  };
  std::vector<GeneratedToken> text;
  const std::vector<GeneratedToken> tokens =
      Generate(loaded.context(), loaded.stack(), prompt,
               static_cast<int32_t>(loaded.meta.vocabulary.eos), options, tell, &text);
  if (world.rank() != 0) return 0;
  if (arguments.json) PrintJson(arguments, model, tokens);
  if (streams) std::printf("\n");
  if (!arguments.json && arguments.gates) {
    text.insert(text.end(), tokens.begin(), tokens.end());
    std::printf("%s", ShadeText(text, model.tokenizer.get(), WantsColour(STDOUT_FILENO)).c_str());
  }
  return 0;
}

}  // namespace mneme
