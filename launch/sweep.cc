// mneme sweep --fit FILE
#include <cstdio>

#include "data/files.h"
#include "engine/sweep/fit.h"
#include "engine/sweep/report.h"
#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {

absl::StatusOr<int> SweepVerb(const SweepArguments& arguments) {
  ASSIGN_OR_RETURN(const CellTable table, ReadCells(arguments.fit));
  ASSIGN_OR_RETURN(const SweepFit fit, FitCells(table, arguments.config));
  if (!arguments.report.empty()) {
    ReportNotes notes;
    notes.title = "Sweep: " + arguments.fit;
    const absl::Status written = WriteFileAtomically(arguments.report, ReportHtml(fit, notes));
    // The path was typed: a usage error where it cannot be.
    if (!written.ok()) return absl::InvalidArgumentError(written.message());
  }
  std::printf("%s", arguments.json ? (FitJson(fit) + "\n").c_str() : FitText(fit).c_str());
  return 0;
}

}  // namespace mneme
