#include "engine/side_by_side.h"

#include <mutex>

#include "configs/json_text.h"
#include "engine/run_log.h"
#include "engine/trainer.h"
#include "parallel/world.h"

namespace mneme {
namespace {

RunEnd TrainOne(World& world, const NamedRun& run, DeviceRoom& room, int number) {
  RunEnd end;
  end.config = run.config;
  absl::StatusOr<RunLog> log = RunLog::Open(run.run.run.log, run.config + ": ");
  if (!log.ok()) {
    end.exit_code = ExitCode(log.status());
    end.message = std::string(log.status().message());
    return end;
  }
  world.SetName("run " + run.run.run.dir);
  TrainHooks hooks;
  hooks.say = [&](const std::string& text) { log->Say(text); };
  hooks.room = &room;
  hooks.number = number;
  const absl::StatusOr<TrainResult> result = Train(world, run.run, hooks);
  end.no_room = room.refused(number);
  end.exit_code = result.ok() ? result->exit_code : end.no_room ? 75 : ExitCode(result.status());
  end.message = result.ok() ? result->message : std::string(result.status().message());
  log->Say(result.ok() ? end.message : "mneme: " + end.message);
  return end;
}

}  // namespace

std::string RunEndJson(const RunEnd& end) {
  return JsonObject()
      .Add("config", end.config)
      .Add("exit_code", end.exit_code)
      .Add("no_room", end.no_room)
      .Add("message", end.message)
      .Text();
}

int ExitCodeOf(const std::vector<RunEnd>& ends) {
  int code = 0;
  for (const RunEnd& end : ends) {
    if (end.exit_code == 75) code = 75;
  }
  for (const RunEnd& end : ends) {
    if (end.exit_code != 0 && end.exit_code != 75) return end.exit_code;
  }
  return code;
}

std::vector<RunEnd> TrainSideBySide(const std::vector<NamedRun>& runs,
                                    const SideBySideHooks& hooks) {
  std::vector<RunEnd> ends(runs.size());
  DeviceRoom room(static_cast<int>(runs.size()), hooks.memory);
  std::mutex telling;
  ThreadWorld::RunApart(static_cast<int>(runs.size()), [&](int number, World& world) {
    const auto i = static_cast<size_t>(number);
    ends[i] = TrainOne(world, runs[i], room, number);
    room.Leave(number);
    const std::lock_guard<std::mutex> lock(telling);
    if (hooks.on_end) hooks.on_end(ends[i]);
  });
  return ends;
}

}  // namespace mneme
