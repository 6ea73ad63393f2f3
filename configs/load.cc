#include "configs/load.h"

#include <filesystem>
#include <set>
#include <utility>

#include "configs/read.h"
#include "configs/source.h"
#include "configs/stages.h"
#include "configs/text.h"
#include "configs/validate.h"

namespace mneme {
namespace {

// Reads the stages over what each inherits. A stage that cannot be read still stands for itself.
void ReadStages(Tree* tree, RunConfig& config, std::vector<Complaint>& complaints) {
  if (tree != nullptr && tree->kind != Tree::Kind::kList && tree->kind != Tree::Kind::kNull) {
    complaints.push_back({tree->place, "stages", "expects a list of sections"});
  }
  const size_t count = tree == nullptr ? 0 : tree->list.size();
  for (size_t i = 0; i < count; ++i) {
    StageConfig stage = InheritedStage(config, i == 0 ? nullptr : &config.stages[i - 1]);
    const Tree& element = tree->list[i];
    const std::string key = "stages." + std::to_string(i);
    if (element.kind != Tree::Kind::kMap) {
      complaints.push_back({element.place, key, "expects a section"});
    } else {
      ReadSection(Reflector::Of(stage), element, key + ".", "", config.places, complaints);
    }
    const std::string fault = CompleteStage(config, stage);
    if (!fault.empty()) complaints.push_back({element.place, key + ".tokens", fault});
    config.stages.push_back(std::move(stage));
  }
  if (count == 0) {
    StageConfig stage = InheritedStage(config, nullptr);
    CompleteStage(config, stage);
    config.stages.push_back(std::move(stage));
  }
}

bool Concerns(const Fault& fault, const std::set<std::string>& bad_keys) {
  for (const std::string& key : fault.keys) {
    for (const std::string& bad : bad_keys) {
      if (key == bad || key.rfind(bad + ".", 0) == 0) return true;
    }
  }
  return false;
}

absl::StatusOr<RunConfig> Finish(Tree root, const std::string& name, int world,
                                 std::vector<Complaint> complaints) {
  RunConfig config;
  config.places[""] = name;
  ReadSection(Reflector::Of(config), root, "", "stages", config.places, complaints);
  ReadStages(root.Find("stages"), config, complaints);
  if (config.run.dir.empty()) {
    std::string why;
    const std::string stem = std::filesystem::path(name).stem().string();
    config.run.dir = ResolvePath("runs/" + stem, CurrentFolder(), &why).value_or("runs/" + stem);
  }
  std::vector<std::string> lines;
  std::set<std::string> bad_keys;
  bool whole = true;  // every source was read
  for (const Complaint& complaint : complaints) {
    lines.push_back(complaint.Text());
    if (complaint.key.empty()) whole = false;
    bad_keys.insert(complaint.key);
  }
  // Rules are judged only where what they speak of could be read.
  std::vector<Fault> faults = FindFaults(config);
  if (world > 0) {
    for (Fault& fault : FindWorldFaults(config, world)) faults.push_back(std::move(fault));
  }
  for (const Fault& fault : faults) {
    if (whole && !Concerns(fault, bad_keys)) lines.push_back(FaultText(config, fault));
  }
  if (!lines.empty()) return absl::InvalidArgumentError(Join(lines, "\n"));
  return config;
}

}  // namespace

absl::StatusOr<RunConfig> LoadConfig(const std::string& path,
                                     const std::vector<std::string>& overrides, int world) {
  std::vector<Complaint> complaints;
  Tree root = ReadSources(path, complaints);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::NotFoundError(complaints.front().what);
  ApplyOverrides(root, overrides, complaints);
  return Finish(std::move(root), path, world, std::move(complaints));
}

absl::StatusOr<RunConfig> ParseConfig(const std::string& text, const std::string& name) {
  std::vector<Complaint> complaints;
  Tree root = ParseYaml(text, {name, 0, CurrentFolder()}, complaints);
  if (root.kind == Tree::Kind::kScalar || root.kind == Tree::Kind::kList) {
    complaints.push_back({root.place, "", "a config is keys and values, not a list or a word"});
  }
  return Finish(std::move(root), name, 0, std::move(complaints));
}

}  // namespace mneme
