// mneme VERB ...: the only main().
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/trainer.h"
#include "launch/environment.h"
#include "launch/verbs.h"

namespace mneme {
namespace {

bool NeedsWorld(const std::string& verb) {
  return verb == "train" || verb == "evaluate" || verb == "generate" || verb == "analyze";
}

absl::StatusOr<int> RunAlone(const Arguments& arguments) {
  // Under mpirun every rank is a worker of the sweep: a process among others, no rank of one run.
  const bool works = arguments.verb == "sweep" && arguments.sweep.works();
  // Of the rest the first rank does it; the others have nothing to add.
  if (!works && !IsFirstOfLaunch()) return 0;
  if (arguments.verb == "report") return ReportVerb(arguments.report);
  if (arguments.verb == "plan") return PlanVerb(arguments.plan);
  if (arguments.verb == "sweep") return SweepVerb(arguments.sweep);
  if (arguments.verb == "prepare") return PrepareVerb(arguments.prepare);
  if (arguments.verb == "convert") return ConvertVerb(arguments.convert);
  if (arguments.verb == "inspect") return InspectVerb(arguments.inspect);
  return ConfigVerb(arguments.config);
}

absl::StatusOr<int> RunTogether(World& world, const Arguments& arguments) {
  if (arguments.verb == "train") return TrainVerb(world, arguments.train);
  if (arguments.verb == "evaluate") return EvaluateVerb(world, arguments.evaluate);
  if (arguments.verb == "generate") return GenerateVerb(world, arguments.generate);
  return AnalyzeVerb(world, arguments.analyze);
}

// Prints an error once and turns it into the exit code.
int End(const absl::StatusOr<int>& result, bool speaks) {
  if (result.ok()) return *result;
  if (speaks) std::fprintf(stderr, "mneme: %s\n", std::string(result.status().message()).c_str());
  return ExitCode(result.status());
}

// A stream that was closed before we began is one that nobody reads: else the next file that is
// opened would get its number, and with it what is printed. A file that may not grow any more
// (ulimit -f) is an error of its write, and has a message; the signal has none.
void MendProcess() {
  std::signal(SIGXFSZ, SIG_IGN);
  int descriptor = 0;
  while (descriptor >= 0 && descriptor <= STDERR_FILENO) descriptor = open("/dev/null", O_RDWR);
  if (descriptor > STDERR_FILENO) close(descriptor);
}

// A result that could not be written whole is a failure, however well it was made.
int Flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  if (errno != EPIPE) {
    std::fprintf(stderr, "mneme: standard output: cannot write: %s\n", std::strerror(errno));
  }
  return code == 0 ? 1 : code;
}

int Run(int argc, char** argv) {
  if (const std::string unmet = UnmetByThreads(); !unmet.empty()) {
    if (IsFirstOfLaunch()) std::fprintf(stderr, "mneme: %s\n", unmet.c_str());
    return 2;
  }
  MendMatrixLibrary(argv);
  const Arguments arguments = ParseArguments(argc, argv);
  if (arguments.verb.empty()) {
    // The first rank answers. Another that ended with its code might have the launcher kill the
    // first before it has spoken.
    if (!IsFirstOfLaunch()) return 0;
    std::fprintf(arguments.exit_code == 0 ? stdout : stderr, "%s\n", arguments.answer.c_str());
    return arguments.exit_code;
  }
  if (!NeedsWorld(arguments.verb)) return End(RunAlone(arguments), true);
  absl::StatusOr<std::unique_ptr<World>> world = MpiWorld::Start(&argc, &argv);
  if (!world.ok()) return End(world.status(), IsFirstOfLaunch());
  SetThreads(**world);
  return End(RunTogether(**world, arguments), (*world)->rank() == 0);
}

}  // namespace
}  // namespace mneme

int main(int argc, char** argv) {
  mneme::MendProcess();
  return mneme::Flushed(mneme::Run(argc, argv));
}
