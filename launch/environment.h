// What the launcher and the machine have set for this process.
#pragma once

#include <string>

#include "parallel/world.h"

namespace mneme {

// By the launcher's variables, before MPI has started: whether this is rank 0, or alone.
bool IsFirstOfLaunch();

// One OpenMP thread a rank where there is more than one, unless OMP_NUM_THREADS says otherwise.
// Warns (rank 0) where the processors that a rank may use are fewer than its threads.
void SetThreads(World& world);

// Why OMP_NUM_THREADS is no number of threads; empty where it is, or is not set. (The library takes
// what it cannot read for unset, and ends the program where so many cannot be started.)
std::string UnmetByThreads();

// Starts this program again, with OPENBLAS_CORETYPE set, where the matrix library has not
// recognised the processor and would run at a fraction of its rate; the library reads the variable
// only as it is loaded. Returns where there is nothing to mend or the variable is set already.
void MendMatrixLibrary(char** argv);

}  // namespace mneme
