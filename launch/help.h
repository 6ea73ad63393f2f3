// What mneme says of itself. Plain text.
#pragma once

#include <string>
#include <vector>

namespace mneme {

// Every verb but help, in the order in which they are used.
std::vector<std::string> Verbs();
// All verbs, common examples, environment, exit codes.
std::string GeneralHelp();
// One verb: what it is for, and examples that run.
std::string VerbHelp(const std::string& verb);

inline constexpr const char* kExitCodes =
    "Exit codes: 0 done; 1 the run failed; 2 usage or config; 3 data or checkpoint unreadable;\n"
    "4 the loss diverged; 5 a rank was lost: run the same command again; 75 stopped early with a\n"
    "checkpoint: run the same command again; 128+n ended by signal n.";

}  // namespace mneme
