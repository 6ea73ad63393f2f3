// mneme report RUN: the loss curve and the results.
#include "engine/report/report.h"

#include <cstdio>

#include "configs/json_text.h"
#include "configs/load.h"
#include "data/files.h"
#include "data/own_folder.h"
#include "engine/report/plot.h"
#include "engine/report/result.h"
#include "engine/run_folder.h"
#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

// The training loss, and each held-out set's where the run has scored it.
absl::StatusOr<std::vector<Curve>> LossCurves(const RunFolder& folder) {
  std::vector<Curve> curves(1);
  curves[0].name = "training loss";
  std::string left_out;
  ASSIGN_OR_RETURN(curves[0].points, ReadSeries(folder.metrics(), "loss", &left_out));
  if (!left_out.empty()) std::fprintf(stderr, "warning: %s\n", left_out.c_str());
  const absl::StatusOr<RunConfig> config = LoadConfig(folder.config(), {});
  if (!config.ok()) return curves;
  for (const HeldOutConfig& set : config->evaluate.sets) {
    Curve curve{set.name, {}};
    ASSIGN_OR_RETURN(curve.points, ReadSeries(folder.metrics(), "evaluate/" + set.name + "/loss"));
    if (!curve.points.empty()) curves.push_back(curve);
  }
  return curves;
}

std::string CurvesJson(const std::vector<Curve>& curves) {
  std::vector<std::string> all;
  for (const Curve& curve : curves) {
    std::vector<std::string> points;
    for (const auto& [x, y] : curve.points)
      points.push_back("[" + JsonNumber(x) + ", " + JsonNumber(y) + "]");
    all.push_back(JsonObject().Add("name", curve.name).AddRaw("points", JsonArray(points)).Text());
  }
  return JsonArray(all);
}

}  // namespace

absl::StatusOr<int> ReportVerb(const ReportArguments& arguments) {
  const RunFolder folder{arguments.run};
  ASSIGN_OR_RETURN(const std::vector<Curve> curves, LossCurves(folder));
  // Written at the end of a run.
  const absl::StatusOr<StoredResult> result = ReadResult(folder.result());
  if (!result.ok() && !absl::IsNotFound(result.status())) {
    return absl::Status(result.status().code(), std::string(result.status().message()) +
                                                    "; mneme train " + folder.config() +
                                                    " writes it again");
  }
  if (!arguments.svg.empty()) {
    RETURN_IF_ERROR(CheckMayWrite(arguments.svg, "<svg"));
    const std::string svg = PlotSvg(curves, folder.dir, "step", "nats a token");
    const absl::Status written = WriteFileAtomically(arguments.svg, svg);
    // The path was typed: a usage error where it cannot be.
    if (!written.ok()) return absl::InvalidArgumentError(written.message());
  }
  if (arguments.json) {
    JsonObject json;
    json.Add("run", folder.dir).AddRaw("curves", CurvesJson(curves));
    json.AddRaw("result", result.ok() ? result->text : "null");
    std::printf("%s\n", json.Text().c_str());
    return 0;
  }
  std::printf("%s", PlotText(curves, 68, 16).c_str());
  std::printf("%s\n",
              result.ok() ? result->text.c_str() : "not finished: there is no result.json yet");
  return 0;
}

}  // namespace mneme
