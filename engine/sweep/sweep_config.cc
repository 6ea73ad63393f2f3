#include "engine/sweep/sweep_config.h"

#include <algorithm>
#include <filesystem>

#include "configs/flatten.h"
#include "configs/read.h"
#include "configs/source.h"
#include "configs/text.h"
#include "data/files.h"

namespace mneme {
namespace {

// A value as YAML on one line.
std::string FlowText(const Tree& tree) {
  if (tree.kind == Tree::Kind::kScalar) {
    // Numbers and words stay what they are; the rest must not look like YAML.
    const bool plain = tree.scalar.find_first_of(",[]{}:#\"' &*!|>%@`") == std::string::npos;
    return plain && !tree.scalar.empty() ? tree.scalar : QuotedIfNeeded(tree.scalar);
  }
  std::vector<std::string> parts;
  for (const Tree& element : tree.list) parts.push_back(FlowText(element));
  return "[" + Join(parts, ", ") + "]";
}

// Leaves of nested maps by dotted key.
void Leaves(const Tree& tree, const std::string& prefix,
            std::vector<std::pair<std::string, const Tree*>>& leaves) {
  for (const auto& [key, child] : tree.map) {
    if (child.kind == Tree::Kind::kMap) {
      Leaves(child, prefix + key + ".", leaves);
    } else {
      leaves.emplace_back(prefix + key, &child);
    }
  }
}

// Takes the section `key` out of the tree; a null tree where there is none.
Tree TakeSection(Tree& root, const std::string& key, std::vector<Complaint>& complaints) {
  const auto found = std::find_if(root.map.begin(), root.map.end(),
                                  [&](const auto& pair) { return pair.first == key; });
  if (found == root.map.end()) return {};
  Tree section = std::move(found->second);
  root.map.erase(found);
  if (section.kind == Tree::Kind::kMap || section.kind == Tree::Kind::kNull) return section;
  complaints.push_back({section.place, key, "expects keys and values"});
  return {};
}

void TakeAxes(const Tree& section, SweepConfig& config, std::vector<Complaint>& complaints) {
  std::vector<std::pair<std::string, const Tree*>> leaves;
  Leaves(section, "", leaves);
  for (const auto& [name, values] : leaves) {
    if (values->kind != Tree::Kind::kList || values->list.empty()) {
      complaints.push_back({values->place, "axes." + name, "expects a list of values"});
      continue;
    }
    SweepAxis axis{name, {}};
    for (const Tree& value : values->list) {
      const std::string text = FlowText(value);
      if (std::find(axis.values.begin(), axis.values.end(), text) != axis.values.end())
        complaints.push_back({value.place, "axes." + name, text + " stands twice"});
      axis.values.push_back(text);
    }
    config.axes.push_back(std::move(axis));
  }
}

}  // namespace

absl::StatusOr<SweepConfig> LoadSweep(const std::string& path,
                                      const std::vector<std::string>& overrides) {
  std::vector<Complaint> complaints;
  Tree root = ReadSources(path, complaints);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::NotFoundError(complaints.front().what);
  ApplyOverrides(root, overrides, complaints);
  SweepConfig config;
  const Tree axes = TakeSection(root, "axes", complaints);
  const Tree set = TakeSection(root, "set", complaints);
  TakeAxes(axes, config, complaints);
  std::vector<std::pair<std::string, const Tree*>> leaves;
  Leaves(set, "", leaves);
  for (const auto& [key, value] : leaves) config.overrides.push_back(key + "=" + FlowText(*value));
  std::map<std::string, std::string> places;
  ReadSection(Reflector::Of(config), root, "", "", places, complaints);
  const Place place{path, 0, ""};
  if (config.base.empty()) complaints.push_back({place, "base", "names no config of a run"});
  if (config.axes.empty()) complaints.push_back({place, "axes", "has no axis: rho: [1.0, 0.8]"});
  if (config.run.attempts < 1) complaints.push_back({place, "run.attempts", "must be at least 1"});
  if (!(config.run.lease_seconds >= 1.0))
    complaints.push_back({place, "run.lease_seconds", "must be at least 1"});
  if (!complaints.empty()) {
    std::vector<std::string> lines;
    for (const Complaint& complaint : complaints) lines.push_back(complaint.Text());
    return absl::InvalidArgumentError(Join(lines, "\n"));
  }
  if (config.name.empty()) config.name = std::filesystem::path(path).stem().string();
  if (config.folder.empty()) config.folder = CurrentFolder() + "/sweeps/" + config.name;
  config.text = ReadFileBytes(path).value_or("");
  return config;
}

std::string FitSectionText(const FitConfig& fit) {
  FitConfig copy = fit;
  std::string text;
  for (const auto& [key, value] : Flatten(Reflector::Of(copy), ""))
    text += key + ": " + value + "\n";
  return text;
}

}  // namespace mneme
