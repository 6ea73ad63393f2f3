#include "engine/convert/exported_run.h"

#include <algorithm>
#include <string>
#include <vector>

#include "configs/json_fields.h"
#include "configs/json_text.h"
#include "configs/load.h"
#include "data/json_file.h"
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
  ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  std::vector<std::string> faults;
  JsonFields fields(json, "", faults);
  const int64_t version = fields.Integer("version");
  position.step = fields.Integer("step");
  position.stage = fields.Integer("stage");
  position.tokens = fields.Integer("tokens");
  const std::string text = fields.Text("config");
  if (version != 1 && faults.empty()) fields.Fault("version", "is not 1");
  if (std::min({position.step, position.stage, position.tokens}) < 0 && faults.empty()) {
    fields.Fault("step, stage or tokens", "is below 0");
  }
  if (!faults.empty()) {
    return absl::DataLossError(path + ": is not what an export of this version writes (" +
                               faults.front() + "); without the file config.json alone is read");
  }
  ASSIGN_OR_RETURN(config, ParseConfig(text, path));
  if (position.stage < static_cast<int64_t>(config.stages.size())) return absl::OkStatus();
  return absl::DataLossError(path + ": stands in a stage that its config does not have");
}

}  // namespace mneme
