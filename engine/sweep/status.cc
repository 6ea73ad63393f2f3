// What the cells of a sweep are at.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "configs/json_text.h"
#include "configs/text.h"
#include "engine/report/report.h"
#include "engine/sweep/sweep_folder.h"

namespace mneme {
namespace {

struct Overview {
  std::vector<CellState> states;
  int64_t done = 0, failed = 0, running = 0;
  double seconds_left = -1.0;  // below 0: not known
};

// Steps that are left, at the mean pace of what ran, over the workers that run now.
double SecondsLeft(const SweepConfig& sweep, const Overview& overview) {
  double pace = 0.0, known = 0.0, steps = 0.0;
  for (const CellState& state : overview.states) {
    if (state.seconds > 0.0) pace += state.seconds, known += 1.0;
    if (!state.done && !HasFailed(sweep, state)) steps += state.steps - state.step;
  }
  if (steps <= 0.0) return 0.0;
  if (known == 0.0) return -1.0;
  return steps * pace / known / std::max<double>(1.0, static_cast<double>(overview.running));
}

Overview Look(const SweepConfig& sweep, const SweepGrid& grid) {
  Overview overview;
  for (const SweepCell& cell : grid.cells) {
    CellState& state = overview.states.emplace_back(StateOf(sweep, cell));
    if (state.done && state.reason.empty())
      state.reason = std::string(CheckFinished(sweep, cell).message());
    overview.done += state.done;
    overview.failed += HasFailed(sweep, state);
    overview.running += !state.done && !state.lease.free();
  }
  overview.seconds_left = SecondsLeft(sweep, overview);
  return overview;
}

std::string Word(const SweepConfig& sweep, const CellState& state) {
  if (state.done) return "done";
  if (HasFailed(sweep, state)) return "failed";
  if (!state.lease.free()) return "running";
  return state.lease.generation > 0 || state.failures > 0 ? "waiting again" : "waiting";
}

std::string AxesOf(const SweepCell& cell) {
  std::vector<std::string> axes;
  for (const auto& [name, value] : cell.axes) axes.push_back(name + "=" + value);
  return Join(axes, " ");
}

}  // namespace

std::string StatusText(const SweepConfig& sweep, const SweepGrid& grid) {
  const Overview overview = Look(sweep, grid);
  std::string out = "key               state          step           loss      axes\n";
  for (size_t i = 0; i < grid.cells.size(); ++i) {
    const CellState& state = overview.states[i];
    std::array<char, 256> line;
    const std::string step = NumberText(state.step) + "/" + NumberText(state.steps);
    std::snprintf(line.data(), line.size(), "%-16s  %-13s  %-13s  %-8s  ",
                  grid.cells[i].key.c_str(), Word(sweep, state).c_str(), step.c_str(),
                  state.done && state.reason.empty()
                      ? NumberText(std::round(1e4 * state.validation_loss) / 1e4).c_str()
                      : "");
    out += line.data() + AxesOf(grid.cells[i]);
    if (!state.done && !state.lease.free()) out += "  (" + state.lease.owner() + ")";
    if (!state.done && state.failures > 0)
      out += "  failed " + std::to_string(state.failures) + " times";
    out += "\n";
    if (!state.reason.empty())
      out += "    " + state.reason.substr(0, state.reason.find('\n')) + "\n";
  }
  out += std::to_string(overview.done) + " of " + std::to_string(grid.cells.size()) + " done, " +
         std::to_string(overview.running) + " running, " + std::to_string(overview.failed) +
         " failed";
  if (overview.seconds_left > 0.0)
    out += "; about " + DurationText(overview.seconds_left) + " left";
  if (const int64_t others = OtherCells(sweep, grid); others > 0) {
    out +=
        "\n" + std::to_string(others) +
        " finished cells in the folder are none of this file's: they are left out of all results";
  }
  for (const std::string& line : ChangedSettings(sweep))
    out += "\nchanged since the first cell: " + line;
  return out + "\n";
}

std::string StatusJson(const SweepConfig& sweep, const SweepGrid& grid) {
  const Overview overview = Look(sweep, grid);
  std::vector<std::string> cells;
  for (size_t i = 0; i < grid.cells.size(); ++i) {
    const CellState& state = overview.states[i];
    JsonObject json;
    json.Add("key", grid.cells[i].key).Add("state", Word(sweep, state));
    json.Add("step", state.step).Add("steps", state.steps).Add("failures", state.failures);
    json.Add("taken", state.lease.generation);
    json.AddRaw("validation_loss", state.done ? JsonNumber(state.validation_loss) : "null");
    json.AddRaw("reason", state.reason.empty() ? "null" : JsonString(state.reason));
    cells.push_back(json.Text());
  }
  JsonObject json;
  json.Add("name", sweep.name).Add("folder", sweep.folder).Add("done", overview.done);
  json.Add("running", overview.running).Add("failed", overview.failed);
  json.AddRaw("seconds_left",
              overview.seconds_left < 0.0 ? "null" : JsonNumber(overview.seconds_left));
  return json.AddRaw("cells", JsonArray(cells)).Text();
}

}  // namespace mneme
