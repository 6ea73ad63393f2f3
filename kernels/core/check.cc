#include "kernels/core/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "kernels/core/end.h"

namespace mneme {
namespace {
std::atomic<AbortHook> abort_hook{nullptr};
std::atomic<PlaceHook> place_hook{nullptr};
}  // namespace

void SetAbortHook(AbortHook hook) { abort_hook = hook; }
void SetPlaceHook(PlaceHook hook) { place_hook = hook; }

void Fatal(const char* file, int line, const std::string& message, int exit_code) {
  const PlaceHook hook = place_hook;
  const std::string place = hook != nullptr ? hook() : std::string();
  std::fprintf(stderr, "mneme: %s:%d: %s%s\n", file, line, message.c_str(), place.c_str());
  std::fflush(stderr);
  EndAllRanks(exit_code);
}

void EndAllRanks(int exit_code) {
  if (AbortHook hook = abort_hook.exchange(nullptr)) hook(exit_code);
  std::_Exit(exit_code);
}

}  // namespace mneme
