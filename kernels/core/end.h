// How a process that cannot go on ends, and takes the other ranks along (see check.h).
#pragma once

#include <string>

namespace mneme {

// Where this thread's rank stands, for the end of Fatal's line; World sets it. May be null.
using PlaceHook = std::string (*)();
void SetPlaceHook(PlaceHook hook);

// Runs the abort hook, exits with `exit_code`.
[[noreturn]] void EndAllRanks(int exit_code);

}  // namespace mneme
