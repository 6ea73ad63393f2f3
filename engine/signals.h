// Signals that a run answers at its next step boundary (docs: exit codes). Process-wide.
#pragma once

#include <cstdint>

namespace mneme {

// What the signals received so far ask for.
struct SignalRequest {
  bool stop = false;  // SIGTERM, SIGUSR1, SIGINT: save and end with 75
  bool save = false;  // SIGUSR2: save and go on
};

// Call after MPI_Init. A second SIGTERM or SIGINT leaves at once with 128 + its number. Repeated
// calls do nothing.
void InstallSignalHandlers();
// Forgets a stop request: a new run in the same process.
void ClearSignals();

// One of those who answer signals: each run of the process, each of its ranks.
class SignalReader {
 public:
  // Hears save requests that come from now on, and a stop request that has come already.
  SignalReader();
  // Takes a save request with it; a stop request stays.
  SignalRequest Take();

 private:
  int64_t saves_heard_;
};

}  // namespace mneme
