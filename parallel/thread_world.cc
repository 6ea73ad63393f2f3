#include <omp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/world.h"

namespace mneme {

void ThreadWorld::Run(int ranks, const std::function<void(World&)>& body) {
  std::vector<std::unique_ptr<Transport>> transports = MakeThreadTransports(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      if (ranks > 1) omp_set_num_threads(1);
      World world(std::move(transports[static_cast<size_t>(r)]), "localhost", nullptr);
      body(world);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void ThreadWorld::RunApart(int worlds, const std::function<void(int number, World&)>& body) {
  const int each = std::max(1, omp_get_max_threads() / std::max(1, worlds));
  std::vector<std::thread> threads;
  for (int number = 0; number < worlds; ++number) {
    threads.emplace_back([&, number] {
      omp_set_num_threads(each);
      World world(std::move(MakeThreadTransports(1).front()), "localhost", nullptr);
      body(number, world);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace mneme
