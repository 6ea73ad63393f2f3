// YAML and key=value overrides -> RunConfig, and back.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "configs/run.h"

namespace mneme {

// Reads `path` with its include:s (later wins; a file's own keys win over what it includes), then
// the overrides
// ("a.b=c", "--a.b=c"; values are YAML), fills stages, resolves paths (~, ${VAR}, relative to the
// naming file; on the command line and in defaults to the current folder). Unknown keys, wrong
// types, duplicate keys and broken rules (FindFaults; with world > 0 also FindWorldFaults, for a
// run that is about to start on that many ranks): all reported at once, a line each "file:line:
// section.key: what; nearest key", as InvalidArgument (NotFound where the file is missing).
absl::StatusOr<RunConfig> LoadConfig(const std::string& path,
                                     const std::vector<std::string>& overrides, int world = 0);
// The same from text (a checkpoint's stored config); `name` stands in messages.
absl::StatusOr<RunConfig> ParseConfig(const std::string& text, const std::string& name);

// The whole config as YAML that LoadConfig reads back to the same value.
std::string DumpConfig(const RunConfig& config);
// The same as one JSON object, stages always included.
std::string ConfigJson(const RunConfig& config);
// Every key: dotted name, type, default, choices, sentence. As a table in Markdown, or JSON.
std::string ConfigSchema(bool json);

// Dotted keys whose values differ, "key: old -> new", by name.
struct ConfigDifference {
  std::string key;
  std::string before;
  std::string after;
};
std::vector<ConfigDifference> CompareConfigs(const RunConfig& before, const RunConfig& after);
// Whether a run may go on under a change of this key: steps, cadences, paths, rank counts, logging.
bool MayChangeOnResume(const std::string& key);

}  // namespace mneme
