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

struct SchemaRow {
  std::string key, type, value, choices, help;
};

void CollectRows(const Section& section, const std::string& prefix, bool with_values,
                 std::vector<SchemaRow>& rows) {
  for (const Field& field : section.fields) {
    const std::string key = prefix + field.key;
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      CollectRows(*inner, key + ".", with_values, rows);
      continue;
    }
    const auto* list = std::get_if<SectionList>(&field.target);
    const std::string value = list != nullptr ? "[]" : with_values ? ValueText(field) : "";
    rows.push_back({key, TypeName(field), value, Join(field.choices, ", "), field.help});
    if (list != nullptr) CollectRows(list->prototype, key + ".N.", false, rows);
  }
}

std::string JsonText(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string SchemaJson(const std::vector<SchemaRow>& rows) {
  std::string out = "[\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    const SchemaRow& row = rows[i];
    out += "  {\"key\": " + JsonText(row.key) + ", \"type\": " + JsonText(row.type) +
           ", \"default\": " + JsonText(row.value) + ", \"choices\": " + JsonText(row.choices) +
           ", \"help\": " + JsonText(row.help) + "}" + (i + 1 < rows.size() ? "," : "") + "\n";
  }
  return out + "]\n";
}

std::string TableCell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string TopSection(const std::string& key) { return key.substr(0, key.find('.')); }

std::string SchemaMarkdown(const std::vector<SchemaRow>& rows) {
  std::string out =
      "# Configuration\n\nEvery key of a run, as `mneme config schema` prints it: this page is "
      "generated from "
      "`configs/*.h`.\nHow files, includes and overrides combine is told in `configs/README.md`. "
      "Where a key of "
      "a list's\nelements has no default here, it is taken from elsewhere, as its sentence says, "
      "or is 0 or "
      "empty.\n";
  std::string section;
  for (const SchemaRow& row : rows) {
    if (TopSection(row.key) != section) {
      section = TopSection(row.key);
      out += "\n## " + section + "\n\n| key | type | default | meaning |\n|---|---|---|---|\n";
    }
    const std::string choices = row.choices.empty() ? "" : " (one of: " + row.choices + ")";
    const std::string value = row.value.empty() ? "" : "`" + row.value + "`";
    out += "| `" + row.key + "` | " + row.type + " | " + value + " | " +
           TableCell(row.help + choices) + " |\n";
  }
  return out;
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

std::string ConfigSchema(bool json) {
  RunConfig defaults;
  std::vector<SchemaRow> rows;
  CollectRows(Reflector::Of(defaults), "", true, rows);
  return json ? SchemaJson(rows) : SchemaMarkdown(rows);
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
                                      "train.keep_last",
                                      "train.milestone_every",
                                      "train.tensorboard",
                                      "train.micro_batch",
                                      "train.recompute",
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
