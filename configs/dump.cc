// Writing, describing and comparing configs.
#include <utility>

#include "configs/flatten.h"
#include "configs/load.h"
#include "configs/stages.h"
#include "configs/text.h"

namespace mneme {
namespace {

void DumpSection(const Section& section, const std::string& indent, const std::string& skip,
                 std::string& out) {
  for (const Field& field : section.fields) {
    if (field.key == skip) continue;
    out += indent + field.key + ":";
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      out += "\n";
      DumpSection(*inner, indent + "  ", "", out);
    } else if (const auto* list = std::get_if<SectionList>(&field.target)) {
      out += list->size() == 0 ? " []\n" : "\n";
      for (int64_t i = 0; i < list->size(); ++i) {
        out += indent + "  -\n";
        DumpSection(list->at(i), indent + "    ", "", out);
      }
    } else {
      out += " " + ValueText(field) + "\n";
    }
  }
}

}  // namespace

std::map<std::string, std::string> Flatten(const Section& section, const std::string& prefix) {
  std::map<std::string, std::string> flat;
  for (const Field& field : section.fields) {
    const std::string key = prefix + field.key;
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      flat.merge(Flatten(*inner, key + "."));
    } else if (const auto* list = std::get_if<SectionList>(&field.target)) {
      for (int64_t i = 0; i < list->size(); ++i) {
        flat.merge(Flatten(list->at(i), key + "." + std::to_string(i) + "."));
      }
    } else {
      flat[key] = ValueText(field);
    }
  }
  return flat;
}

std::string DumpConfig(const RunConfig& config) {
  RunConfig copy = config;
  std::string out;
  // Left out where they follow from the other sections, so that an override of those still moves
  // them.
  DumpSection(Reflector::Of(copy), "", IsSingleDerivedStage(config) ? "stages" : "", out);
  return out;
}

std::vector<ConfigDifference> CompareConfigs(const RunConfig& before, const RunConfig& after) {
  RunConfig a = before, b = after;
  const auto flat_a = Flatten(Reflector::Of(a), "");
  const auto flat_b = Flatten(Reflector::Of(b), "");
  std::map<std::string, std::pair<std::string, std::string>> all;
  for (const auto& [key, value] : flat_a) all[key] = {value, "(absent)"};
  for (const auto& [key, value] : flat_b) {
    const auto [at, fresh] = all.try_emplace(key, "(absent)", value);
    if (!fresh) at->second.second = value;
  }
  std::vector<ConfigDifference> differences;
  for (const auto& [key, values] : all) {
    if (values.first != values.second) differences.push_back({key, values.first, values.second});
  }
  return differences;
}

bool MayChangeOnResume(const std::string& key) {
  static const char* const kFree[] = {"run.",
                                      "parallel.",
                                      "evaluate.",
                                      "device",
                                      "train.steps",
                                      "train.log_every",
                                      "train.checkpoint_every",
                                      "train.checkpoint_last",
                                      "train.keep_last",
                                      "train.milestone_every",
                                      "train.tensorboard",
                                      "train.time_parts",
                                      "train.collective_timeout",
                                      "train.micro_batch",
                                      "train.recompute",
                                      "train.cuda_graph",
                                      "train.skip.limit",
                                      "data.train"};
  for (const std::string free : kFree) {
    if (key == free || (free.back() == '.' && key.rfind(free, 0) == 0)) return true;
  }
  // stages.N.<key>: the digest of the data is checked by the trainer, so that paths may change.
  if (key.rfind("stages.", 0) != 0) return false;
  const size_t dot = key.find('.', 7);
  const std::string rest = dot == std::string::npos ? "" : key.substr(dot + 1);
  return rest == "steps" || rest == "tokens" || rest == "name" || rest == "data.train" ||
         rest == "init_from";
}

}  // namespace mneme
