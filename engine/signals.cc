#include "engine/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <initializer_list>

namespace mneme {
namespace {

std::atomic<bool> stop_asked{false};
std::atomic<bool> save_asked{false};
std::atomic<bool> installed{false};
static_assert(std::atomic<bool>::is_always_lock_free, "handlers may only touch lock-free atomics");

void OnStop(int number) {
  const bool again = stop_asked.exchange(true);
  if (again && number != SIGUSR1) _exit(128 + number);
}

void OnSave(int) { save_asked.store(true); }

void Install(int number, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

void InstallSignalHandlers() {
  if (installed.exchange(true)) return;
  for (int number : {SIGTERM, SIGINT, SIGUSR1}) Install(number, OnStop);
  Install(SIGUSR2, OnSave);
}

SignalRequest TakeSignals() { return {stop_asked.load(), save_asked.exchange(false)}; }

void ClearSignals() {
  stop_asked.store(false);
  save_asked.store(false);
}

}  // namespace mneme
