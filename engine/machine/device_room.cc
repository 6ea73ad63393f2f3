#include "engine/machine/device_room.h"

#include <algorithm>

namespace mneme {

DeviceRoom::DeviceRoom(int runs, std::optional<int64_t> free)
    : runs_(static_cast<size_t>(runs)), given_(free) {}

int64_t DeviceRoom::Free(const Device& device, const std::function<int64_t()>& look) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [at, fresh] = free_.try_emplace(device.Name());
  if (fresh) at->second = given_.has_value() ? *given_ : look();
  return at->second;
}

bool DeviceRoom::Take(int run, const Device& device, int64_t bytes) {
  std::unique_lock<std::mutex> lock(mutex_);
  turn_.wait(lock, [&] {
    return std::all_of(runs_.begin(), runs_.begin() + run, [](const Run& r) { return r.asked; });
  });
  Run& mine = runs_[static_cast<size_t>(run)];
  const std::string name = device.Name();
  const int64_t held = HeldByOthersLocked(run, name);
  const auto free = free_.find(name);
  const bool known = free != free_.end() && free->second >= 0;
  mine.refused = held > 0 && known && held + bytes > free->second;
  mine.asked = true;
  mine.device = name;
  mine.bytes = mine.refused ? 0 : bytes;
  turn_.notify_all();
  return !mine.refused;
}

int64_t DeviceRoom::HeldByOthersLocked(int run, const std::string& device) const {
  int64_t held = 0;
  for (size_t i = 0; i < runs_.size(); ++i) {
    if (i != static_cast<size_t>(run) && runs_[i].device == device) held += runs_[i].bytes;
  }
  return held;
}

int64_t DeviceRoom::HeldByOthers(int run, const Device& device) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return HeldByOthersLocked(run, device.Name());
}

void DeviceRoom::Leave(int run) {
  const std::lock_guard<std::mutex> lock(mutex_);
  runs_[static_cast<size_t>(run)].asked = true;
  runs_[static_cast<size_t>(run)].bytes = 0;
  turn_.notify_all();
}

bool DeviceRoom::refused(int run) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return runs_[static_cast<size_t>(run)].refused;
}

}  // namespace mneme
