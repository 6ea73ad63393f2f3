// What a library finds out by itself while a rank waits for it: asked by watchdogs (watchdog.h).
#pragma once

#include <functional>

namespace mneme {

// Lives beside what it checks. `check` ends the job itself (Fatal) where something went wrong; it
// is called by watchdogs' threads, one at a time, until this is destroyed, and must not wait.
class FaultCheck {
 public:
  explicit FaultCheck(std::function<void()> check);
  ~FaultCheck();  // a call that runs is waited for
  FaultCheck(const FaultCheck&) = delete;
  FaultCheck& operator=(const FaultCheck&) = delete;

  static void RunAll();

 private:
  const std::function<void()> check_;
};

}  // namespace mneme
