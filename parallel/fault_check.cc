#include "parallel/fault_check.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace mneme {
namespace {

struct Checks {
  std::mutex mutex;
  std::vector<const FaultCheck*> all;
};

Checks& Known() {
  static auto* checks = new Checks;  // threads may outlive what is static
  return *checks;
}

}  // namespace

FaultCheck::FaultCheck(std::function<void()> check) : check_(std::move(check)) {
  const std::lock_guard<std::mutex> lock(Known().mutex);
  Known().all.push_back(this);
}

FaultCheck::~FaultCheck() {
  const std::lock_guard<std::mutex> lock(Known().mutex);
  auto& all = Known().all;
  all.erase(std::find(all.begin(), all.end(), this));
}

void FaultCheck::RunAll() {
  const std::lock_guard<std::mutex> lock(Known().mutex);
  for (const FaultCheck* one : Known().all) one->check_();
}

}  // namespace mneme
