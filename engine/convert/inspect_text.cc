// The words of engine/convert/inspect.h.
#include <cstdarg>
#include <cstdio>

#include "configs/json_text.h"
#include "engine/convert/inspect.h"

namespace mneme {
namespace {

std::string Format(const char* format, ...) {
  va_list list;
  va_start(list, format);
  char text[512];
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  return text;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// "1.5 MB": powers of 1000.
std::string SizeText(int64_t bytes) {
  double value = static_cast<double>(bytes);
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; value >= 1000.0 && unit < 4; ++unit) value /= 1000.0;
  return Format(unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

std::string StatisticsText(const TensorStatistics& s) {
  std::string text = Format("  norm %-10.5g in [%.4g, %.4g]", s.norm, s.least, s.greatest);
  if (s.zeros == s.count && s.count > 0) text += "  all zero";
  if (s.nans > 0) text += Format("  %ld NaN", static_cast<long>(s.nans));
  if (s.infinities > 0) text += Format("  %ld infinite", static_cast<long>(s.infinities));
  return text;
}

std::string TensorText(const InspectedTensor& tensor, size_t width, bool statistics) {
  const TensorInfo& info = tensor.info;
  std::string name = info.name;
  if (info.kind != "value" && info.kind != "dataset" && info.kind != "rows") {
    name += " (" + info.kind + ")";
  }
  if (name.size() < width) name.resize(width, ' ');
  std::string line = "  " + name;
  line += Format("  %-8s %-18s %9s", info.dtype.c_str(), ShapeText(info.shape).c_str(),
                 SizeText(info.bytes).c_str());
  if (statistics) line += StatisticsText(tensor.statistics);
  if (info.stored_rows >= 0) {
    line += Format("  %ld rows stored", static_cast<long>(info.stored_rows));
  }
  return line + "\n";
}

std::string ShapeJson(const std::vector<int64_t>& shape) {
  std::vector<std::string> dims;
  for (const int64_t dim : shape) dims.push_back(std::to_string(dim));
  return JsonArray(dims);
}

std::string TextsJson(const std::vector<std::string>& texts) {
  std::vector<std::string> quoted;
  for (const std::string& text : texts) quoted.push_back(JsonString(text));
  return JsonArray(quoted);
}

std::string TensorJson(const InspectedTensor& tensor, bool statistics) {
  const TensorInfo& info = tensor.info;
  const TensorStatistics& s = tensor.statistics;
  JsonObject json;
  json.Add("name", info.name)
      .Add("kind", info.kind)
      .Add("dtype", info.dtype)
      .AddRaw("shape", ShapeJson(info.shape))
      .Add("bytes", info.bytes);
  if (info.stored_rows >= 0) json.Add("stored_rows", info.stored_rows);
  if (!statistics) return json.Text();
  json.Add("norm", s.norm)
      .Add("least", s.least)
      .Add("greatest", s.greatest)
      .Add("zeros", s.zeros)
      .Add("nans", s.nans)
      .Add("infinities", s.infinities);
  return json.Text();
}

}  // namespace

std::string InspectionText(const Inspection& inspection, bool statistics) {
  std::string out = inspection.path + ": " + inspection.what + "\n";
  for (const auto& [key, value] : inspection.facts) out += "  " + key + ": " + value + "\n";
  size_t width = 0;
  int64_t bytes = 0;
  int64_t bad = 0;
  for (const InspectedTensor& tensor : inspection.tensors) {
    width = std::max(width, std::min<size_t>(tensor.info.name.size(), 60));
    bytes += tensor.info.bytes;
    bad += tensor.statistics.nans + tensor.statistics.infinities;
  }
  for (const InspectedTensor& tensor : inspection.tensors) {
    out += TensorText(tensor, width, statistics);
  }
  out += std::to_string(inspection.tensors.size()) + " tensors, " + SizeText(bytes);
  if (statistics) out += bad == 0 ? ", all finite" : ", " + std::to_string(bad) + " not finite";
  return out + "\n";
}

std::string InspectionJson(const Inspection& inspection, bool statistics) {
  JsonObject facts;
  for (const auto& [key, value] : inspection.facts) facts.Add(key, value);
  std::vector<std::string> tensors;
  for (const InspectedTensor& tensor : inspection.tensors) {
    tensors.push_back(TensorJson(tensor, statistics));
  }
  JsonObject json;
  json.Add("path", inspection.path)
      .Add("what", inspection.what)
      .AddRaw("facts", facts.Text())
      .Add("config", inspection.config)
      .AddRaw("tensors", JsonArray(tensors));
  return json.Text() + "\n";
}

std::string ComparisonText(const Comparison& comparison) {
  std::string out = comparison.first + " -> " + comparison.second + "\n";
  for (const std::string& line : comparison.config) out += "  config  " + line + "\n";
  for (const std::string& name : comparison.only_in_first)
    out += "  only in the first: " + name + "\n";
  for (const std::string& name : comparison.only_in_second) {
    out += "  only in the second: " + name + "\n";
  }
  for (const TensorDifference& d : comparison.differing) {
    out += "  " + d.name + (d.kind == "value" ? "" : " (" + d.kind + ")") + ": ";
    if (!d.why.empty()) out += d.why + ", ";
    out += Format("%ld elements differ, by %.4g at most, %.3g of the norm",
                  static_cast<long>(d.differing), d.greatest, d.relative);
    if (d.rows_left_out > 0)
      out += Format(" without %ld rows that neither stores", static_cast<long>(d.rows_left_out));
    out += "\n";
  }
  out += std::to_string(comparison.same) + " tensors the same, " +
         std::to_string(comparison.differing.size()) + " differ";
  return out + (comparison.equal() ? ": equal\n" : "\n");
}

std::string ComparisonJson(const Comparison& comparison) {
  std::vector<std::string> differing;
  for (const TensorDifference& d : comparison.differing) {
    differing.push_back(JsonObject()
                            .Add("name", d.name)
                            .Add("kind", d.kind)
                            .Add("why", d.why)
                            .Add("differing", d.differing)
                            .Add("greatest", d.greatest)
                            .Add("relative", d.relative)
                            .Add("rows_left_out", d.rows_left_out)
                            .Text());
  }
  JsonObject json;
  json.Add("first", comparison.first)
      .Add("second", comparison.second)
      .Add("equal", comparison.equal())
      .Add("same", comparison.same)
      .AddRaw("config", TextsJson(comparison.config))
      .AddRaw("only_in_first", TextsJson(comparison.only_in_first))
      .AddRaw("only_in_second", TextsJson(comparison.only_in_second))
      .AddRaw("differing", JsonArray(differing));
  return json.Text() + "\n";
}

}  // namespace mneme
