// mneme sweep SWEEP [key=value]..., mneme sweep --fit FILE
#include <cstdio>
#include <filesystem>

#include "engine/sweep/bundle.h"
#include "engine/sweep/cell_plan.h"
#include "engine/sweep/fit.h"
#include "engine/sweep/publish.h"
#include "engine/sweep/report.h"
#include "engine/sweep/sweep_folder.h"
#include "engine/sweep/worker.h"
#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

absl::StatusOr<int> FitFile(const SweepArguments& arguments) {
  ASSIGN_OR_RETURN(const CellTable table, ReadCells(arguments.fit));
  ASSIGN_OR_RETURN(const SweepFit fit, FitCells(table, arguments.config));
  if (!arguments.report.empty()) {
    ReportNotes notes;
    notes.title = "Sweep: " + arguments.fit;
    ASSIGN_OR_RETURN(const std::string line,
                     WriteReport(fit, ReportHtml(fit, notes), arguments.report));
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::printf("%s", arguments.json ? (FitJson(fit) + "\n").c_str() : FitText(fit).c_str());
  return 0;
}

// Where this program is, for the processes of cells.
std::string ThisProgram() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

}  // namespace

absl::StatusOr<int> SweepVerb(const SweepArguments& arguments) {
  if (!arguments.report.empty()) RETURN_IF_ERROR(CheckReport(arguments.report));
  if (!arguments.fit.empty()) return FitFile(arguments);
  if (!arguments.verify.empty()) {
    ASSIGN_OR_RETURN(const std::string line, VerifyBundle(arguments.verify));
    std::printf("%s\n", line.c_str());
    return 0;
  }
  absl::StatusOr<SweepConfig> sweep = LoadSweep(arguments.sweep.config, arguments.sweep.overrides);
  if (!sweep.ok()) return absl::InvalidArgumentError(sweep.status().message());
  ASSIGN_OR_RETURN(const SweepGrid grid, MakeGrid(*sweep));
  RETURN_IF_ERROR(CheckFitColumns(*sweep, grid));
  if (arguments.dry_run) {
    ASSIGN_OR_RETURN(const std::vector<CellPlan> plans, PlanCells(*sweep, grid));
    std::printf("%s", arguments.json ? (GridJson(*sweep, grid, plans) + "\n").c_str()
                                     : GridText(*sweep, grid, plans).c_str());
    return 0;
  }
  if (!grid.data_fault.empty()) return absl::NotFoundError(grid.data_fault);
  RETURN_IF_ERROR(CheckSweepFolder(*sweep, grid));
  for (const std::string& other : arguments.merge) {
    ASSIGN_OR_RETURN(const std::string line, MergeFolder(*sweep, grid, other));
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  int code = 0;
  if (arguments.works()) {
    ASSIGN_OR_RETURN(const WorkerResult result, RunCells(*sweep, grid, ThisProgram()));
    code = result.exit_code;
  }
  if (!arguments.status || !arguments.report.empty()) {
    std::string note;
    RETURN_IF_ERROR(PublishSweep(*sweep, grid, arguments.report, note));
    std::fprintf(stderr, "%s\n", note.c_str());
  }
  if (!arguments.bundle.empty()) {
    ASSIGN_OR_RETURN(const std::string line, WriteBundle(*sweep, grid, arguments.bundle));
    std::printf("%s\n", line.c_str());
    return 0;
  }
  std::printf("%s", arguments.json ? (StatusJson(*sweep, grid) + "\n").c_str()
                                   : StatusText(*sweep, grid).c_str());
  return code;
}

}  // namespace mneme
