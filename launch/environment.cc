#include "launch/environment.h"

#include <omp.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/machine/rank_table.h"
#include "kernels/cpu/gemm.h"

namespace mneme {

bool IsFirstOfLaunch() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(variable)) return std::string(rank) == "0";
  }
  const char* task = std::getenv("SLURM_PROCID");
  return task == nullptr || std::string(task) == "0";
}

std::string UnmetByThreads() {
  constexpr long kMost = 4096;
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr || *text == '\0') return "";
  char* end = nullptr;
  const long threads = std::strtol(text, &end, 10);
  const bool whole = end != text && (*end == '\0' || *end == ',');  // one a level of nesting
  if (whole && threads >= 1 && threads <= kMost) return "";
  return "OMP_NUM_THREADS: is '" + std::string(text) + "'; give a whole number of threads, 1 to " +
         std::to_string(kMost);
}

void MendMatrixLibrary(char** argv) {
  if (std::getenv("OPENBLAS_CORETYPE") != nullptr) return;
  const std::string core = cpu::BetterBlasCore();
  if (core.empty()) return;
  setenv("OPENBLAS_CORETYPE", core.c_str(), 1);
  execv("/proc/self/exe", argv);  // returns only where it failed: then slower, but right
}

void SetThreads(World& world) {
  if (world.size() > 1 && std::getenv("OMP_NUM_THREADS") == nullptr) omp_set_num_threads(1);
  const int64_t threads = omp_get_max_threads();
  const int64_t allowed = AllowedProcessors();
  const int64_t short_by = world.Max(allowed > 0 ? threads - allowed : 0);
  if (short_by > 0 && world.rank() == 0) {
    std::fprintf(stderr,
                 "warning: a rank has %ld threads for %ld processors that it may use; start with "
                 "mpirun --bind-to none, or --map-by slot:PE=%ld\n",
                 static_cast<long>(threads), static_cast<long>(threads - short_by),
                 static_cast<long>(threads));
  }
}

}  // namespace mneme
