#include "engine/sweep/publish.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "configs/text.h"
#include "data/files.h"
#include "data/own_folder.h"
#include "engine/sweep/report.h"
#include "engine/sweep/shared_files.h"
#include "engine/sweep/sweep_folder.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

// The columns that a reader asks for first; axes of the sweep's own come before them.
std::vector<std::string> UsualColumns(const SweepConfig& sweep) {
  std::vector<std::string> columns = {"key", "rho", "seed"};
  for (const SweepAxis& axis : sweep.axes) {
    if (axis.name == "budget" || axis.name == "table")
      columns.push_back(axis.name == "table" ? "table_rows" : "budget");
    else if (axis.name != "rho" && axis.name != "seed")
      columns.push_back(axis.name);
  }
  for (const char* name :
       {"validation_loss", "parameters_total", "parameters_active", "parameters_tables",
        "flops_per_token", "residual_total", "residual_flops", "tokens", "unique_tokens", "epochs",
        "tokens_per_active", "failures"}) {
    columns.emplace_back(name);
  }
  return columns;
}

absl::Status WriteFigure(const std::string& path, const Figure& figure,
                         std::vector<std::string>& written) {
  written.insert(written.end(), {path + ".svg", path + ".png"});
  RETURN_IF_ERROR(ReplaceFile(path + ".svg", figure.Svg()));
  return ReplaceFile(path + ".png", figure.Png());
}

}  // namespace

absl::StatusOr<std::vector<std::string>> WriteFigures(const SweepFit& fit,
                                                      const std::string& begin) {
  std::vector<std::string> written;
  const auto number = [](size_t i, size_t count) {
    return count > 1 ? "_" + std::to_string(i + 1) : std::string();
  };
  for (size_t i = 0; i < fit.allocations.size(); ++i) {
    RETURN_IF_ERROR(WriteFigure(begin + "loss_vs_rho" + number(i, fit.allocations.size()),
                                CurveFigure(fit.allocations[i], fit.config.level), written));
  }
  for (size_t i = 0; i < fit.scalings.size(); ++i) {
    RETURN_IF_ERROR(WriteFigure(begin + "loss_vs_table" + number(i, fit.scalings.size()),
                                ScalingFigure(fit.scalings[i]), written));
  }
  return written;
}

absl::Status CheckReport(const std::string& path) {
  std::error_code error;
  const bool folder = path.ends_with('/') || fs::is_directory(path, error);
  const fs::path file = folder ? fs::path(path) / "report.html" : fs::path(path);
  fs::path parent = fs::absolute(file, error).parent_path();
  // A folder is made with those above it.
  while (folder && !fs::exists(parent, error) && parent != parent.parent_path())
    parent = parent.parent_path();
  if (!fs::is_directory(parent, error)) {
    return absl::InvalidArgumentError("--report " + path + ": " + parent.string() +
                                      " is no folder; make it, or name another place");
  }
  if (access(parent.c_str(), W_OK | X_OK) != 0) {
    return absl::InvalidArgumentError(
        FileError("--report " + path, "write in " + parent.string(), errno).message());
  }
  return CheckMayWrite(file.string(), "<!DOCTYPE html>");
}

absl::StatusOr<std::string> WriteReport(const SweepFit& fit, const std::string& html,
                                        const std::string& path) {
  std::error_code error;
  const bool folder = path.ends_with('/') || fs::is_directory(path, error);
  const fs::path file = folder ? fs::path(path) / "report.html" : fs::path(path);
  fs::path stem = file;
  if (file.extension() == ".html") stem.replace_extension();
  std::string begin = stem.string() + "_";
  if (folder) {
    fs::create_directories(path, error);
    begin = (fs::path(path) / "").string();
  }
  RETURN_IF_ERROR(CheckMayWrite(file.string(), "<!DOCTYPE html>"));
  const absl::Status written = WriteFileAtomically(file.string(), html);
  if (!written.ok()) return absl::InvalidArgumentError(written.message());
  const auto figures = WriteFigures(fit, begin);
  if (!figures.ok()) return absl::InvalidArgumentError(figures.status().message());
  return "report: " + file.string() + "; figures: " + Join(*figures, ", ");
}

absl::Status PublishSweep(const SweepConfig& sweep, const SweepGrid& grid,
                          const std::string& report, std::string& note) {
  for (const SweepCell& cell : grid.cells) RETURN_IF_ERROR(CheckFinished(sweep, cell));
  ASSIGN_OR_RETURN(const int64_t finished, WriteResults(sweep, grid));
  if (finished == 0) {
    note = "no fit yet: no cell is finished";
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const CellTable table, ReadCells(sweep.folder + "/results.jsonl"));
  const absl::StatusOr<SweepFit> fit = FitCells(table, sweep.fit);
  if (!fit.ok()) {
    note = "no fit yet: " + std::string(fit.status().message());
    return absl::OkStatus();
  }
  ReportNotes notes;
  notes.title = "Sweep " + sweep.name;
  notes.held_out = grid.cells.front().config.evaluate.sets.front().name;
  notes.columns = sweep.columns.empty() ? UsualColumns(sweep) : sweep.columns;
  notes.config = sweep.text;
  const auto cells = static_cast<int64_t>(grid.cells.size());
  if (finished < cells) {
    notes.warnings.push_back(std::to_string(cells - finished) + " of " + std::to_string(cells) +
                             " cells are not finished.");
  }
  if (const int64_t others = OtherCells(sweep, grid); others > 0) {
    notes.warnings.push_back(
        std::to_string(others) +
        " finished cells in the sweep's folder are none of its file's as it is "
        "now, and are left out.");
  }
  for (const std::string& line : ChangedSettings(sweep))
    notes.warnings.push_back("Changed since the first cell was run: " + line);
  const std::string html = ReportHtml(*fit, notes);
  RETURN_IF_ERROR(ReplaceFile(sweep.folder + "/fit.json", FitJson(*fit) + "\n"));
  RETURN_IF_ERROR(ReplaceFile(sweep.folder + "/report.html", html));
  RETURN_IF_ERROR(WriteFigures(*fit, sweep.folder + "/").status());
  note = "report: " + sweep.folder + "/report.html";
  if (report.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(note, WriteReport(*fit, html, report));
  return absl::OkStatus();
}

}  // namespace mneme
