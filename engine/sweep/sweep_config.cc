#include "engine/sweep/sweep_config.h"

#include <algorithm>
#include <filesystem>
#include <functional>

#include "configs/device_rates.h"
#include "configs/flatten.h"
#include "configs/read.h"
#include "configs/source.h"
#include "configs/text.h"
#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// Of one cell: a number that cannot be meant is a slip.
constexpr int64_t kMostRanks = 1 << 20;
constexpr int64_t kMostSideBySide = 64;

// Values of a run's keys as YAML on one line, for its overrides.
class ValueWriter {
 public:
  explicit ValueWriter(std::vector<Complaint>& complaints)
      : complaints_(complaints), run_(Reflector::Of(defaults_)) {}

  // `key`: of the run, dotted, or an axis that is no key. Relative paths start where they stand:
  // an override would take them from the current folder.
  std::string Text(const std::string& key, const Tree& tree) {
    return Text(key, tree, Find(run_, key));
  }

 private:
  static const Field* Find(const Section& section, const std::string& key) {
    const size_t dot = key.find('.');
    const auto field = std::find_if(section.fields.begin(), section.fields.end(),
                                    [&](const Field& f) { return f.key == key.substr(0, dot); });
    if (field == section.fields.end()) return nullptr;
    if (dot == std::string::npos) return &*field;
    const std::string rest = key.substr(dot + 1);
    if (const auto* inner = std::get_if<Section>(&field->target)) return Find(*inner, rest);
    const auto* list = std::get_if<SectionList>(&field->target);
    const size_t index = rest.find('.');
    if (list == nullptr || index == std::string::npos) return list == nullptr ? nullptr : &*field;
    return Find(list->prototype, rest.substr(index + 1));
  }

  static const Field* Child(const Field* field, const std::string& key) {
    if (field == nullptr) return nullptr;
    if (const auto* section = std::get_if<Section>(&field->target)) return Find(*section, key);
    const auto* list = std::get_if<SectionList>(&field->target);
    return list == nullptr ? nullptr : Find(list->prototype, key);
  }

  std::string Text(const std::string& key, const Tree& tree, const Field* field) {
    std::vector<std::string> parts;
    switch (tree.kind) {
      case Tree::Kind::kScalar:
        return ScalarText(key, tree, field != nullptr && field->is_path);
      case Tree::Kind::kMap:
        for (const auto& [name, child] : tree.map)
          parts.push_back(name + ": " + Text(key + "." + name, child, Child(field, name)));
        return "{" + Join(parts, ", ") + "}";
      case Tree::Kind::kList:
        for (const Tree& element : tree.list) parts.push_back(Text(key, element, field));
        return "[" + Join(parts, ", ") + "]";
      case Tree::Kind::kNull:
        break;
    }
    complaints_.push_back({tree.place, key, "has no value"});
    return "";
  }

  std::string ScalarText(const std::string& key, const Tree& tree, bool is_path) {
    std::string text = tree.scalar;
    if (is_path && !text.empty()) {
      std::string why;
      const std::optional<std::string> path = ResolvePath(text, tree.place.folder, &why);
      if (!path.has_value()) complaints_.push_back({tree.place, key, why});
      text = path.value_or(text);
    }
    // Numbers and words stay what they are; the rest must not look like YAML.
    const bool plain = text.find_first_of(",[]{}:#\"' &*!|>%@`") == std::string::npos;
    return plain && !text.empty() ? text : QuotedIfNeeded(text);
  }

  std::vector<Complaint>& complaints_;
  RunConfig defaults_;
  const Section run_;
};

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

// run.device as LoadDeviceRates takes it: a name, or the path of a file, from where it was stated.
void TakeDevice(Tree& root, SweepConfig& config, std::vector<Complaint>& complaints) {
  Tree* run = root.Find("run");
  const Tree* stated = run == nullptr ? nullptr : run->Find("device");
  if (config.run.device == "auto") config.run.device = kUsualDevice;
  if (stated == nullptr) return;
  const std::vector<std::string> shipped = ShippedDevices();
  std::string& device = config.run.device;
  if (std::find(shipped.begin(), shipped.end(), device) != shipped.end()) return;
  std::string why;
  const auto path = ResolvePath(device, stated->place.folder, &why);
  std::error_code error;
  if (path.has_value() && std::filesystem::exists(*path, error)) device = *path;
  const absl::Status known = LoadDeviceRates(device).status();
  if (known.ok()) return;
  const std::string message(known.message()), prefix = "device: ";
  const bool named = message.rfind(prefix, 0) == 0;
  complaints.push_back(
      {stated->place, "run.device", named ? message.substr(prefix.size()) : message});
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
  ValueWriter writer(complaints);
  for (const auto& [name, values] : leaves) {
    if (values->kind != Tree::Kind::kList || values->list.empty()) {
      complaints.push_back({values->place, "axes." + name, "expects a list of values"});
      continue;
    }
    SweepAxis axis{name, {}};
    for (const Tree& value : values->list) {
      const std::string text = writer.Text(name, value);
      if (std::find(axis.values.begin(), axis.values.end(), text) != axis.values.end())
        complaints.push_back({value.place, "axes." + name, text + " stands twice"});
      axis.values.push_back(text);
    }
    config.axes.push_back(std::move(axis));
  }
}

absl::Status AsStatus(const std::vector<Complaint>& complaints) {
  std::vector<std::string> lines;
  for (const Complaint& complaint : complaints) lines.push_back(complaint.Text());
  return lines.empty() ? absl::OkStatus() : absl::InvalidArgumentError(Join(lines, "\n"));
}

// Unless the file says by which columns, cells are told apart by the axes that have no meaning of
// their own to a fit.
void CompareAxes(SweepConfig& config) {
  if (!config.fit.by.empty()) return;
  const std::vector<std::string>& levels = config.fit.levels;
  for (const SweepAxis& axis : config.axes) {
    const bool own =
        axis.name == "rho" || axis.name == "seed" || axis.name == "budget" || axis.name == "table";
    if (!own && std::find(levels.begin(), levels.end(), axis.name) == levels.end())
      config.fit.by.push_back(axis.name);
  }
}

// One process has one launch line, and one rank for each of its cells.
void CheckSideBySide(const CellRunConfig& run,
                     const std::function<void(const std::string&, const std::string&)>& complain) {
  for (const char* word : {"{rho}", "{seed}"}) {
    if (run.launch.find(word) != std::string::npos)
      complain("run.launch", std::string("names ") + word +
                                 ", which cells side by side do not share; take it out, or set "
                                 "run.side_by_side to 1");
  }
  if (run.ranks > 1)
    complain("run.side_by_side", "must be 1 where a cell has several ranks (run.ranks)");
}

// Names that stand in braces and that nothing fills in, as a slip leaves them; ${NAME} is the
// shell's.
void CheckLaunchWords(const std::string& launch,
                      const std::function<void(const std::string&, const std::string&)>& complain) {
  const std::vector<std::string> known(std::begin(kLaunchWords), std::end(kLaunchWords));
  const auto in_name = [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  for (size_t at = launch.find('{'); at != std::string::npos; at = launch.find('{', at + 1)) {
    size_t end = at + 1;
    while (end < launch.size() && in_name(launch[end])) ++end;
    const std::string word = launch.substr(at + 1, end - at - 1);
    if (word.empty() || end == launch.size() || launch[end] != '}') continue;
    if (at > 0 && launch[at - 1] == '$') continue;
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    complain("run.launch", "{" + word + "} is nothing that is filled in; nearest: {" +
                               Nearest(word, known) + "}. What is the shell's has a space: { " +
                               word + " }");
  }
}

// Values that no cell could be run with, or that no fit could take once all have been run.
void CheckValues(const std::string& path, const SweepConfig& config,
                 std::vector<Complaint>& complaints) {
  const auto complain = [&](const std::string& key, const std::string& what) {
    complaints.push_back({{path, 0, ""}, key, what});
  };
  if (config.base.empty()) complain("base", "names no config of a run");
  if (config.axes.empty()) complain("axes", "has no axis: rho: [1.0, 0.8]");
  const CellRunConfig& run = config.run;
  if (run.launch.find("{config}") == std::string::npos)
    complain("run.launch", "must name {config}, what the cell trains: {program} train {config}");
  CheckLaunchWords(run.launch, complain);
  if (run.side_by_side < 1 || run.side_by_side > kMostSideBySide)
    complain("run.side_by_side",
             "must be at least 1 and at most " + std::to_string(kMostSideBySide));
  if (run.side_by_side > 1) CheckSideBySide(run, complain);
  if (run.attempts < 1) complain("run.attempts", "must be at least 1");
  if (run.ranks < 1 || run.ranks > kMostRanks)
    complain("run.ranks", "must be at least 1 and at most " + std::to_string(kMostRanks));
  if (!(run.lease_seconds >= 1.0)) complain("run.lease_seconds", "must be at least 1");
  if (!(run.idle_seconds >= 0.0))
    complain("run.idle_seconds", "must be at least 0, which is never");
  if (!(run.time_limit >= 0.0)) complain("run.time_limit", "must be at least 0, which is no limit");
  if (const absl::Status fit = CheckFit(config.fit); !fit.ok())
    complain("", std::string(fit.message()));
}

}  // namespace

absl::StatusOr<SweepConfig> LoadSweep(const std::string& path,
                                      const std::vector<std::string>& overrides) {
  std::vector<Complaint> complaints;
  Tree root = ReadSources(path, complaints);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::NotFoundError(complaints.front().what);
  RETURN_IF_ERROR(AsStatus(complaints));
  ApplyOverrides(root, overrides, complaints);
  SweepConfig config;
  const Tree axes = TakeSection(root, "axes", complaints);
  const Tree set = TakeSection(root, "set", complaints);
  TakeAxes(axes, config, complaints);
  std::vector<std::pair<std::string, const Tree*>> leaves;
  Leaves(set, "", leaves);
  ValueWriter writer(complaints);
  for (const auto& [key, value] : leaves)
    config.overrides.push_back(key + "=" + writer.Text(key, *value));
  std::map<std::string, std::string> places;
  ReadSection(Reflector::Of(config), root, "", "", places, complaints);
  TakeDevice(root, config, complaints);
  CompareAxes(config);
  CheckValues(path, config, complaints);
  RETURN_IF_ERROR(AsStatus(complaints));
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
