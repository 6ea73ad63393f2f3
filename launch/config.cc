// mneme config schema | resolve FILE [key=value]... | from-hf CONFIG_JSON
#include <cstdio>

#include "configs/load.h"
#include "data/json_file.h"
#include "engine/convert/foreign_config.h"
#include "kernels/core/check.h"
#include "launch/describe.h"
#include "launch/load_run.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

absl::StatusOr<int> PrintForeign(const ConfigArguments& arguments) {
  const absl::StatusOr<Json> json = ReadJson(arguments.foreign);
  // The path was typed: a usage error where it is no such file.
  if (!json.ok()) return absl::InvalidArgumentError(json.status().message());
  ASSIGN_OR_RETURN(const ForeignConfig foreign, ReadForeignConfig(*json, arguments.foreign));
  for (const std::string& note : foreign.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  const std::string text =
      arguments.json ? ConfigJson(RunConfigOf(foreign)) + "\n" : ForeignConfigYaml(foreign);
  std::printf("%s", text.c_str());
  return 0;
}

}  // namespace

absl::StatusOr<int> ConfigVerb(const ConfigArguments& arguments) {
  if (arguments.schema) {
    std::printf("%s", ConfigSchema(arguments.json).c_str());
    return 0;
  }
  if (!arguments.foreign.empty()) return PrintForeign(arguments);
  ASSIGN_OR_RETURN(const RunConfig config, LoadRunAlone(arguments.run, 0));
  const std::string text = arguments.json ? ResolvedJson(config) : ResolvedYaml(config);
  std::printf("%s", text.c_str());
  return 0;
}

}  // namespace mneme
