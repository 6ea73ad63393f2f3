// Versions of what this program was made with and runs on. The libraries' own headers stay in the
// files that use them; these three questions are declared here.
#include "launch/verbs.h"

extern "C" {
int MPI_Get_library_version(char* version, int* length);
int H5get_libversion(unsigned* major, unsigned* minor, unsigned* release);
char* openblas_get_config(void);
}

namespace mneme {

std::string VersionText() {
  char mpi[4096] = "";
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  // Open MPI adds the package and the build host.
  const std::string mpi_text = std::string(mpi).substr(0, std::string(mpi).find(", package"));
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return "mneme " MNEME_VERSION " (commit " MNEME_COMMIT ")\ncompiler: " MNEME_COMPILER "\nmpi: " +
         mpi_text + "\nhdf5: " + std::to_string(major) + "." + std::to_string(minor) + "." +
         std::to_string(release) + "\nblas: " + openblas_get_config();
}

}  // namespace mneme
