#include "engine/convert/exported_run.h"

#include "configs/load.h"
#include "engine/convert/json_tree.h"
#include "engine/json.h"
#include "kernels/core/check.h"

namespace mneme {

std::string DumpExportedRun(const RunConfig& config, const RunPosition& position) {
  JsonObject json;
  json.Add("format", "mneme-export")
      .Add("version", 1)
      .Add("step", position.step)
      .Add("stage", position.stage)
      .Add("tokens", position.tokens)
      .Add("config", DumpConfig(config));
  return json.Text() + "\n";
}

absl::Status ReadExportedRun(const std::string& path, RunConfig& config, RunPosition& position) {
  ASSIGN_OR_RETURN(const JsonTree tree, ReadJson(path));
  const auto number = [&](const char* key) -> int64_t {
    const JsonTree* value = tree.Find(key);
    return value != nullptr && value->kind == JsonTree::Kind::kInteger ? value->integer : -1;
  };
  const JsonTree* text = tree.Find("config");
  const bool whole = number("version") == 1 && number("step") >= 0 && number("stage") >= 0 &&
                     number("tokens") >= 0 && text != nullptr &&
                     text->kind == JsonTree::Kind::kText;
  if (!whole) {
    return absl::DataLossError(path +
                               ": is not what an export of this version writes; without the "
                               "file config.json alone is read");
  }
  ASSIGN_OR_RETURN(config, ParseConfig(text->text, path));
  position.step = number("step");
  position.stage = number("stage");
  position.tokens = number("tokens");
  if (position.stage < static_cast<int64_t>(config.stages.size())) return absl::OkStatus();
  return absl::DataLossError(path + ": stands in a stage that its config does not have");
}

}  // namespace mneme
