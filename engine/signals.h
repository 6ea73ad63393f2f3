// Signals that a run answers at its next step boundary (docs: exit codes). Process-wide.
#pragma once

namespace mneme {

// What the signals received so far ask for.
struct SignalRequest {
  bool stop = false;  // SIGTERM, SIGUSR1, SIGINT: save and end with 75
  bool save = false;  // SIGUSR2: save and go on
};

// Call after MPI_Init. A second SIGTERM or SIGINT leaves at once with 128 + its number. Repeated
// calls do nothing.
void InstallSignalHandlers();
// Takes the save request with it; a stop request stays.
SignalRequest TakeSignals();
// Forgets a stop request: a new run in the same process.
void ClearSignals();

}  // namespace mneme
