// A build without NCCL.
#include "kernels/core/check.h"
#include "parallel/nccl_comm.h"

namespace mneme {

bool HasNccl() { return false; }

std::unique_ptr<Comm> MakeNcclComm(std::unique_ptr<Transport>, Device) {
  Fatal(__FILE__, __LINE__, "this program was built without NCCL");
}

}  // namespace mneme
