#include "tests/parallel/ranks.h"

namespace mneme {

void OnWorlds(const std::function<void(World&)>& body) {
  for (int ranks : {1, 2, 3, 4, 6}) ThreadWorld::Run(ranks, body);
}

Device RankDevice() { return {}; }

bool OnPeerGroups(const std::function<void(Comm&, TestStream&)>&) { return false; }

void OnGroups(const std::function<void(Comm&)>& body) {
  OnWorlds([&](World& world) { body(*world.MakeComm()); });
}

}  // namespace mneme
