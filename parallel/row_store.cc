#include "parallel/row_store.h"

#include "kernels/core/check.h"
#include "parallel/resident_size.h"

namespace mneme {

absl::StatusOr<std::unique_ptr<RowStore>> MakeRowStore(Stream& stream, const Kernels& kernels,
                                                       Mesh& mesh, RowTableSpec spec,
                                                       bool resident) {
  const Layout& layout = mesh.layout;
  const RowShare share{layout.memory_coordinate(mesh.rank), layout.memory,
                       layout.memory_replica(mesh.rank), layout.memory_replicas()};
  if (!resident) return MakeLazyStore(stream, kernels, std::move(spec), share);
  // All ranks look before any takes: the first one's memory must not look like a shortage to the
  // next.
  const absl::Status fits = CheckResidentFits(spec, share, mesh.ranks_on_host, ReadHostMemory());
  int64_t missing = fits.ok() ? 0 : 1;
  Tensor any = Tensor::Wrap(&missing, DType::kI64, {1});
  mesh.world->AllReduce(stream, any, Reduce::kMax);
  if (!fits.ok()) return fits;
  if (missing != 0) {
    return absl::ResourceExhaustedError(spec.name +
                                        ": the resident rows do not fit another host of this run");
  }
  return MakeResidentStore(stream, kernels, std::move(spec), share);
}

}  // namespace mneme
