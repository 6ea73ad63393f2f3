#include "kernels/core/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace mneme {
namespace {
std::atomic<AbortHook> abort_hook{nullptr};
}  // namespace

void SetAbortHook(AbortHook hook) { abort_hook = hook; }

void Fatal(const char* file, int line, const std::string& message, int exit_code) {
  std::fprintf(stderr, "mneme: %s:%d: %s\n", file, line, message.c_str());
  std::fflush(stderr);
  if (AbortHook hook = abort_hook.exchange(nullptr)) hook(exit_code);
  std::_Exit(exit_code);
}

}  // namespace mneme
