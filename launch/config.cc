// mneme config schema | resolve FILE [key=value]...
#include <cstdio>

#include "configs/load.h"
#include "kernels/core/check.h"
#include "launch/describe.h"
#include "launch/load_run.h"
#include "launch/verbs.h"

namespace mneme {

absl::StatusOr<int> ConfigVerb(const ConfigArguments& arguments) {
  if (arguments.schema) {
    std::printf("%s", ConfigSchema(arguments.json).c_str());
    return 0;
  }
  ASSIGN_OR_RETURN(const RunConfig config, LoadRunAlone(arguments.run, 0));
  const std::string text = arguments.json ? ResolvedJson(config) : ResolvedYaml(config);
  std::printf("%s", text.c_str());
  return 0;
}

}  // namespace mneme
