// Every key described, and a config as JSON.
#include "configs/fields.h"
#include "configs/json_text.h"
#include "configs/load.h"
#include "configs/text.h"

namespace mneme {
namespace {

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

std::string SchemaJson(const std::vector<SchemaRow>& rows) {
  std::vector<std::string> lines;
  for (const SchemaRow& row : rows) {
    lines.push_back("  " + JsonObject()
                               .Add("key", row.key)
                               .Add("type", row.type)
                               .Add("default", row.value)
                               .Add("choices", row.choices)
                               .Add("help", row.help)
                               .Text());
  }
  return "[\n" + Join(lines, ",\n") + "\n]\n";
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

// A leaf as JSON: texts quoted, lists of them too.
std::string JsonValue(const Field& field) {
  if (const auto* text = std::get_if<std::string*>(&field.target)) return JsonString(**text);
  if (const auto* texts = std::get_if<std::vector<std::string>*>(&field.target)) {
    std::vector<std::string> quoted;
    for (const std::string& each : **texts) quoted.push_back(JsonString(each));
    return JsonArray(quoted);
  }
  return ValueText(field);
}

std::string SectionJson(const Section& section) {
  JsonObject json;
  for (const Field& field : section.fields) {
    if (const auto* inner = std::get_if<Section>(&field.target)) {
      json.AddRaw(field.key, SectionJson(*inner));
    } else if (const auto* list = std::get_if<SectionList>(&field.target)) {
      std::vector<std::string> elements;
      for (int64_t i = 0; i < list->size(); ++i) elements.push_back(SectionJson(list->at(i)));
      json.AddRaw(field.key, JsonArray(elements));
    } else {
      json.AddRaw(field.key, JsonValue(field));
    }
  }
  return json.Text();
}

}  // namespace

std::string ConfigSchema(bool json) {
  RunConfig defaults;
  std::vector<SchemaRow> rows;
  CollectRows(Reflector::Of(defaults), "", true, rows);
  return json ? SchemaJson(rows) : SchemaMarkdown(rows);
}

std::string ConfigJson(const RunConfig& config) {
  RunConfig copy = config;
  return SectionJson(Reflector::Of(copy));
}

}  // namespace mneme
