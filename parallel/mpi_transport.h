// The whole MPI world as a Transport. Only mpi_transport.cc and mpi_world.cc know MPI.
#pragma once

#include <memory>

#include "parallel/transport.h"

namespace mneme {

// REQUIRES: MPI is initialised. Must be gone before MPI_Finalize.
std::unique_ptr<Transport> MakeMpiTransport();

}  // namespace mneme
