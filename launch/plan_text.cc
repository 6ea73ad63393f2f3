#include "launch/plan_text.h"

#include <cstdio>
#include <utility>
#include <vector>

#include "configs/json_text.h"
#include "configs/text.h"
#include "engine/report/report.h"

namespace mneme {
namespace {

using Named = std::vector<std::pair<const char*, int64_t>>;

std::string Line(const char* name, const std::string& value, const std::string& note = "") {
  char text[256];
  std::snprintf(text, sizeof text, "  %-22s %14s  %s", name, value.c_str(), note.c_str());
  std::string line = text;
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string Format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string Count(int64_t n) { return CountText(static_cast<double>(n)); }

std::string Span(double seconds) {
  if (seconds < 1.0) return Format("%.3g ms", 1e3 * seconds);
  if (seconds < 120.0) return Format("%.3g s", seconds);
  if (seconds < 7200.0) return Format("%.3g min", seconds / 60.0);
  return seconds < 172800.0 ? Format("%.3g h", seconds / 3600.0)
                            : Format("%.4g days", seconds / 86400.0);
}

// Groups of values that are trained.
Named Groups(const Counts& c) {
  return {{"embedding", c.embedding},
          {"head", c.head},
          {"attention", c.attention},
          {"dense feed-forward", c.dense_ffn},
          {"shared experts", c.shared_experts},
          {"routed experts", c.routed_experts},
          {"routers", c.routers},
          {"mHC", c.hyper + c.readout},
          {"Engram's projections", c.engram},
          {"Engram's tables", c.tables},
          {"norms", c.norms}};
}

Named Owners(const Footprint& f) {
  return {{"weights", f.parameters},      {"gradients", f.gradients},
          {"moments", f.optimizer},       {"tables", f.tables},
          {"activations", f.activations}, {"exchange", f.exchange},
          {"workspace", f.workspace},     {"other", f.other},
          {"freed blocks", f.kept}};
}

std::string ParametersText(const Forecast& f) {
  const Counts& c = f.counts;
  std::string out = "parameters\n";
  for (const auto& [name, values] : Groups(c)) {
    if (values > 0) out += Line(name, Count(values));
  }
  out += Line("total", Count(c.total()),
              "as the paper counts: " + Count(c.total_paper()) + " with one vocabulary matrix");
  out += Line("active a token", Count(c.active()), "without vocabulary");
  return out + Line("sparse", Count(c.sparse()), "unchosen experts and tables");
}

// What a device holds beside a rank's own.
int64_t LibraryBytes(const Forecast& f) {
  return f.device.reserved > 0.0 ? static_cast<int64_t>(f.device.memory) - f.available : 0;
}

std::string MemoryText(const RunConfig& config, const Forecast& f) {
  std::string out = "memory of the fullest of " + std::to_string(f.layout.world) +
                    " ranks (experts over " + std::to_string(f.layout.expert) + ", rows over " +
                    std::to_string(f.layout.memory) + "; " + config.train.precision + ")\n";
  for (const auto& [name, bytes] : Owners(f.footprint)) {
    if (bytes > 0) out += Line(name, FormatBytes(bytes));
  }
  const double gigabytes = 1e-9 * static_cast<double>(f.footprint.state());
  out += Line("state", FormatBytes(f.footprint.state()),
              (gigabytes < 1.0 ? "" : Format("%.1f GB: ", gigabytes)) + "what stays between steps");
  const int64_t reserved = LibraryBytes(f);
  std::string note;
  if (f.available >= 0) note = "of " + FormatBytes(f.available) + " of " + f.device.name;
  if (f.available >= 0 && reserved > 0)
    note += "; its driver and libraries keep " + FormatBytes(reserved);
  return out + Line("together", FormatBytes(f.footprint.needs()), note);
}

std::string StageText(const Forecast& f, const StageForecast& s) {
  std::string out = "a step" + (s.name.empty() ? "" : " of stage " + s.name) + ": " +
                    std::to_string(s.micro_batches) + " micro-batches of " +
                    std::to_string(s.micro) + " sequences a rank, " +
                    Format("%.4g FLOPs", s.flops) + "\n";
  for (size_t i = 0; i < kWorks; ++i) {
    const double seconds = s.time.forward_backward[i] + s.time.update[i];
    if (seconds <= 0.0) continue;
    out += Line(Name(static_cast<Work>(i)), Span(seconds),
                Format("%.1f %%", 100.0 * seconds / s.time.total()));
  }
  out += Line("forward and backward", Span(StepTime::Sum(s.time.forward_backward)));
  out += Line("update", Span(StepTime::Sum(s.time.update)));
  if (s.time.calls > 0.0) out += Line("calls", Span(s.time.calls));
  if (s.time.exchange > 1e-9) out += Line("between ranks", Span(s.time.exchange), "not hidden");
  const double rate = static_cast<double>(s.batch) / s.time.total();
  std::string note = CountText(rate) + " tokens/s";
  if (f.device.peak_flops > 0.0) {
    note += Format(", %.1f %% of the peak",
                   100.0 * s.flops / s.time.total() / f.device.peak_flops / f.layout.world);
  }
  out += Line("together", Span(s.time.total()), note);
  if (s.steps == 0) return out + Line("all steps", "unknown", "train.steps is 0");
  return out + Line("all steps", Span(s.seconds),
                    std::to_string(s.steps) + " steps, " + Count(s.tokens) + " tokens");
}

std::string NamedJson(const Named& named) {
  JsonObject json;
  for (const auto& [name, value] : named) json.Add(name, value);
  return json.Text();
}

std::string StageJson(const StageForecast& s) {
  JsonObject parts, works, json;
  for (size_t i = 0; i < kWorks; ++i) {
    const char* name = Name(static_cast<Work>(i));
    parts.Add(name, s.time.forward_backward[i] + s.time.update[i]);
    JsonObject work;
    work.Add("calls", s.work[i].calls).Add("flops", s.work[i].flops).Add("bytes", s.work[i].bytes);
    if (s.work[i].exps > 0.0) work.Add("exps", s.work[i].exps);
    works.AddRaw(name, work.Text());
  }
  parts.Add("forward_backward", StepTime::Sum(s.time.forward_backward));
  parts.Add("update", StepTime::Sum(s.time.update));
  parts.Add("calls", s.time.calls).Add("exchange", s.time.exchange);
  json.Add("name", s.name).Add("steps", s.steps).Add("tokens", s.tokens);
  json.Add("micro_batch", s.micro).Add("micro_batches", s.micro_batches);
  json.Add("flops_per_step", s.flops).Add("seconds_per_step", s.time.total());
  json.AddRaw("parts", parts.Text()).AddRaw("work", works.Text()).Add("seconds", s.seconds);
  return json.Add("passes", s.passes).Text();
}

}  // namespace

std::string PlanText(const RunConfig& config, const Forecast& f) {
  std::string out = ParametersText(f) + MemoryText(config, f);
  for (const StageForecast& stage : f.stages) out += StageText(f, stage);
  out += "checkpoint\n" + Line("size", FormatBytes(f.checkpoint_bytes)) +
         Line("time", Span(f.checkpoint_seconds));
  out += "the run\n" + Line("time", Span(f.seconds));
  if (f.cost > 0.0) out += Line("cost", Format("%.2f", f.cost));
  out += "limits\n";
  if (f.breaks.empty()) {
    out += "  none breaks\n";
  } else {
    out += "  breaks first: " + f.breaks + "\n  smallest change: " +
           (f.mend.empty() ? "none found; make the model smaller" : f.mend) + "\n";
  }
  for (const std::string& warning : f.warnings) out += "  warning: " + warning + "\n";
  return out + "rates of " + f.device.name + ": " + f.device.measured + "\n";
}

std::string PlanJson(const Forecast& f) {
  const Counts& c = f.counts;
  JsonObject parameters, memory, json;
  parameters.Add("total", c.total()).Add("total_paper", c.total_paper());
  parameters.Add("active", c.active()).Add("sparse", c.sparse()).Add("tables", c.tables);
  parameters.AddRaw("groups", NamedJson(Groups(c)));
  Named owners = Owners(f.footprint);
  owners.emplace_back("state", f.footprint.state());
  owners.emplace_back("total", f.footprint.needs());
  owners.emplace_back("available", f.available);
  owners.emplace_back("libraries", LibraryBytes(f));
  std::vector<std::string> stages, warnings, recompute;
  for (const StageForecast& stage : f.stages) stages.push_back(StageJson(stage));
  for (const std::string& warning : f.warnings) warnings.push_back(JsonString(warning));
  json.Add("device", f.device.name).Add("ranks", f.layout.world);
  json.Add("expert", f.layout.expert).Add("memory", f.layout.memory);
  json.AddRaw("parameters", parameters.Text()).AddRaw("bytes_per_rank", NamedJson(owners));
  json.AddRaw("stages", JsonArray(stages)).Add("checkpoint_bytes", f.checkpoint_bytes);
  json.Add("checkpoint_seconds", f.checkpoint_seconds).Add("hours", f.seconds / 3600.0);
  for (const std::string& part : f.savings.recompute) recompute.push_back(JsonString(part));
  json.AddRaw("recompute", JsonArray(recompute));
  json.Add("cost", f.cost).Add("breaks", f.breaks).Add("mend", f.mend);
  return json.AddRaw("warnings", JsonArray(warnings)).Text() + "\n";
}

}  // namespace mneme
