#include "engine/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <initializer_list>
#include <utility>

namespace mneme {
namespace {

std::atomic<bool> stop_asked{false};
std::atomic<int64_t> saves_asked{0};
std::atomic<bool> installed{false};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free,
              "handlers may only touch lock-free atomics");

void OnStop(int number) {
  const bool again = stop_asked.exchange(true);
  // A person who asks twice does not want to wait. A closed terminal and the limit of processor
  // time ask twice by themselves.
  if (again && (number == SIGTERM || number == SIGINT)) _exit(128 + number);
}

void OnSave(int) { ++saves_asked; }

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
  for (int number : {SIGTERM, SIGINT, SIGUSR1, SIGXCPU}) Install(number, OnStop);
  // A terminal that is closed; nohup has the signal ignored, and so it stays.
  struct sigaction before = {};
  if (sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
    Install(SIGHUP, OnStop);
  // Whoever read what is said has gone: the run goes on.
  Install(SIGPIPE, SIG_IGN);
  Install(SIGUSR2, OnSave);
}

void ClearSignals() { stop_asked.store(false); }

SignalReader::SignalReader() : saves_heard_(saves_asked.load()) {}

SignalRequest SignalReader::Take() {
  const int64_t asked = saves_asked.load();
  return {stop_asked.load(), std::exchange(saves_heard_, asked) != asked};
}

}  // namespace mneme
