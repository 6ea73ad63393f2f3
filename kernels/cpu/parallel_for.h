// Ranges of rows across the OpenMP team, and flush-to-zero on every thread that computes.
#pragma once

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace mneme::cpu {

// Denormals are flushed to zero and read as zero on this thread from now on: decaying moments and
// vanishing probabilities would otherwise cost a hundred cycles an element. It stays set: an op
// must not depend on what ran before.
inline void FlushDenormals() {
  constexpr unsigned kFlushToZeroAndDenormalsAreZero = 0x8040;
  _mm_setcsr(_mm_getcsr() | kFlushToZeroAndDenormalsAreZero);
}

// Calls body(begin, end) for contiguous ranges that cover [0, n), at most one a thread and none
// shorter than `grain` unless n is. Where the cuts fall depends on the number of threads, so body
// must treat every index on its own. One thread means no parallel region at all: ranks that are
// threads stay visible to ThreadSanitizer.
template <class Body>
void ParallelFor(int64_t n, int64_t grain, const Body& body) {
  FlushDenormals();
  if (n <= 0) return;
  const int64_t most = std::max<int64_t>(1, n / std::max<int64_t>(1, grain));
  const int64_t threads = omp_in_parallel() ? 1 : std::min<int64_t>(omp_get_max_threads(), most);
  if (threads == 1) {
    body(int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    FlushDenormals();
    const int64_t team = omp_get_num_threads();
    const int64_t me = omp_get_thread_num();
    const int64_t begin = n * me / team;
    const int64_t end = n * (me + 1) / team;
    if (begin < end) body(begin, end);
  }
}

// How many threads ParallelTasks uses for so many tasks: the size of a workspace with a part for
// each worker.
inline int64_t Workers(int64_t tasks) {
  if (omp_in_parallel()) return 1;
  return std::clamp<int64_t>(tasks, 1, omp_get_max_threads());
}

// The same for a few large tasks of uneven length, dealt out as threads come free: which thread has
// a task, and when, varies, so a result must not depend on it. Inside another team it is a loop.
// Calls body(task), or body(task, worker) with worker in [0, Workers(tasks)).
template <class Body>
void ParallelTasks(int64_t tasks, const Body& body) {
  FlushDenormals();
  const auto call = [&](int64_t task, int64_t worker) {
    if constexpr (std::is_invocable_v<Body, int64_t, int64_t>) {
      body(task, worker);
    } else {
      body(task);
    }
  };
  const int64_t workers = Workers(tasks);
  if (workers == 1) {
    for (int64_t task = 0; task < tasks; ++task) call(task, 0);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(workers))
  {
    FlushDenormals();
    const int64_t me = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) call(task, me);
  }
}

// Elements that are worth a thread of their own in a loop that reads and writes them once.
inline constexpr int64_t kElementGrain = 16384;

// Rows of `width` elements that are worth a thread.
inline int64_t RowGrain(int64_t width) {
  return std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, width));
}

}  // namespace mneme::cpu
