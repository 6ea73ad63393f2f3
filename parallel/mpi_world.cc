#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>

#include "kernels/core/check.h"
#include "parallel/mpi_transport.h"
#include "parallel/world.h"

namespace mneme {
namespace {

// 0 where the variable is unset or no number.
int64_t Number(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::strtoll(text, nullptr, 10);
}

bool IsSet(const char* variable) { return std::getenv(variable) != nullptr; }

// Launches that MPI_Init would answer with a page of text, or as so many worlds of one rank.
absl::Status CheckLaunch() {
  const bool under_mpi = IsSet("PMIX_RANK") || IsSet("OMPI_COMM_WORLD_SIZE");
  if (Number("SLURM_NTASKS") > 1 && !under_mpi) {
    return absl::FailedPreconditionError(
        "started by srun without PMIx (SLURM_NTASKS is " + std::to_string(Number("SLURM_NTASKS")) +
        ", PMIX_RANK is not set): add --mpi=pmix to srun, or start with mpirun");
  }
  return absl::OkStatus();
}

// What launchers tell each process of its place: of Open MPI, PMIx, PMI 1 and 2 (MPICH, Intel,
// Cray), PALS, ALPS, Flux and JSM.
bool UnderLauncher() {
  constexpr const char* kPlaces[] = {"OMPI_COMM_WORLD_SIZE",
                                     "PMIX_RANK",
                                     "PMIX_NAMESPACE",
                                     "PMI_RANK",
                                     "PMI_SIZE",
                                     "PMI_FD",
                                     "PALS_RANKID",
                                     "ALPS_APP_PE",
                                     "FLUX_TASK_RANK",
                                     "JSM_NAMESPACE_RANK",
                                     "MPI_LOCALRANKID"};
  return std::any_of(std::begin(kPlaces), std::end(kPlaces), IsSet);
}

absl::Status CheckSize(int size) {
  if (size == 1 && IsSet("RANK") && Number("WORLD_SIZE") > 1) {
    return absl::FailedPreconditionError(
        "RANK and WORLD_SIZE=" + std::to_string(Number("WORLD_SIZE")) +
        " are set, but MPI sees one rank: torchrun is not a launcher for this program; start it "
        "with mpirun -n " +
        std::to_string(Number("WORLD_SIZE")) + " or srun --mpi=pmix, or unset them");
  }
  return absl::OkStatus();
}

std::string HostName() {
  char name[256] = "";
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

void AbortAll(int exit_code) { MPI_Abort(MPI_COMM_WORLD, exit_code); }

}  // namespace

absl::StatusOr<std::unique_ptr<World>> MpiWorld::Start(int* argc, char*** argv) {
  RETURN_IF_ERROR(CheckLaunch());
  if (!UnderLauncher()) {
    RETURN_IF_ERROR(CheckSize(1));
    return std::make_unique<World>(MakeSoloTransport(), HostName(), nullptr);
  }
  int provided = 0;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return absl::InternalError("MPI_Init failed");
  }
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (absl::Status launch = CheckSize(size); !launch.ok()) {
    MPI_Finalize();
    return launch;
  }
  // Alone there is no one to take along, and MPI_Abort would only add its own lines to the message.
  if (size > 1) SetAbortHook(AbortAll);
  return std::make_unique<World>(MakeMpiTransport(), HostName(), [] {
    SetAbortHook(nullptr);
    MPI_Finalize();
  });
}

}  // namespace mneme
