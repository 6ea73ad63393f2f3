// The Engram rows of a micro-batch from where they live, and their gradients back; one a table.
//
// Three exchanges stand behind it. MakeHostExchange: a table spread over the memory axis, its rows
// on the host; unique ids travel (int64), rows come back, gradients are summed per unique row
// before they travel; owners add the sources in rank order, replicas of the memory axis add theirs
// in rank order at the end of the step, and the rows' optimizer state is split among them
// (Layout::row_state_replica). MakeSpreadExchange: the same over devices, with all moments on every
// replica. MakeDeviceExchange: a table that lives whole on the device; of rows nothing travels but
// the gradients of replicas, and nothing is counted on the host. Every call but the accessors is
// collective.
#pragma once

#include <memory>

#include "parallel/device_store.h"
#include "parallel/mesh.h"
#include "parallel/row_store.h"

namespace mneme {

// The rows of one micro-batch.
struct FetchedRows {
  Tensor rows;  // [n, W] one a request, in the dtype asked for
  // The route back, filled by Fetch.
  Tensor ids;      // i64: the distinct ids by owner, each by its number there (RowShare), as
                   // unique_ids has them; where the table is whole on the device, all n requests
  Tensor inverse;  // i32 [n] place of each request among `ids`; not where the table is whole
  Tensor order;    // i32 [n] the first request of each of `ids`, then the others; likewise
  std::vector<int64_t> send, recv;  // rows asked of each member, rows each member asks here
  Tensor asked;                     // i64 [Σ recv] asked of this rank: ids; on a device numbers
};

// Rows asked for by the text that they are hashed from (kernels/ops/engram.h).
struct RowQuery {
  const NgramHash& hash;
  const Tensor& tokens;
  const Tensor& canonical;
  int64_t length;
  const Tensor& doc_start;

  int64_t requests() const { return tokens.elements() * static_cast<int64_t>(hash.primes.size()); }
};

struct RowTraffic {       // since the last ResetTraffic
  int64_t requested = 0;  // ids before deduplication
  int64_t unique = 0;     // after; on a device: of a step, not of each micro-batch
  int64_t remote = 0;     // of the unique ones, owned elsewhere
  int64_t bytes = 0;      // ids, rows and gradients sent to other ranks, replica exchange included
};

class RowExchange {
 public:
  virtual ~RowExchange() = default;

  // What a coming Fetch of this query will ask: what the host must know of it is on its way from
  // here, and with the next PushGradient owners are told. Worth it where the host can know it
  // before the device gets there, so a micro-batch ahead. Optional; queries are then fetched in the
  // order in which they were announced.
  virtual void Announce(Stream&, const RowQuery&) {}
  // ids i64 [n] on the device. Starts the exchange; rows in `dtype` are there when waited for.
  virtual Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids, DType dtype) = 0;
  virtual Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) = 0;
  // drows [n, W]: gradient of each requested row. Adds to this step's gradient at the owners. An
  // exchange may keep the tensors until Update: they must not be written again.
  virtual void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) = 0;

  // End of step, first half: gradients summed over replicas at the state's owner. After it
  // SumSquares is of the whole table's gradient, each row once: sum f64 [1] += this rank's part.
  virtual void ReduceGradients(Stream& stream) = 0;
  virtual void SumSquares(Stream& stream, Tensor& sum) = 0;
  // Second half: owners update, replicas receive. Forgets this step's gradient.
  virtual void Update(Stream& stream, const Tensor& step) = 0;

  virtual RowStore& store() = 0;
  // Waits for the device.
  virtual RowTraffic traffic() const = 0;
  virtual void ResetTraffic() = 0;
};

std::unique_ptr<RowExchange> MakeHostExchange(Mesh& mesh, const Kernels& kernels,
                                              std::unique_ptr<RowStore> store);
// axis, replicas: the ranks that hold the table together, and those that hold the same rows.
// merge_from: gradients of that many requests are summed by row during the step
// (device_gradient.h).
inline constexpr int64_t kMergeFrom = 1 << 18;
std::unique_ptr<RowExchange> MakeSpreadExchange(Comm& axis, Comm& replicas, const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store,
                                                int64_t merge_from = kMergeFrom);
// Queues on `stream` alone. replicas: the ranks that hold the table, each whole; every one pushes
// equally many gradients, of equal shapes, a step.
std::unique_ptr<RowExchange> MakeDeviceExchange(Stream& stream, Comm& replicas,
                                                const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store);

// The exchange of this rank, with its store: on the device where that is a GPU. Collective over the
// mesh's world; the same status on every rank. Errors: ResourceExhausted where a resident table
// does not fit; Unimplemented on a GPU where the store is lazy.
absl::StatusOr<std::unique_ptr<RowExchange>> MakeRowExchange(Stream& stream, const Kernels& kernels,
                                                             Mesh& mesh, RowTableSpec spec,
                                                             bool resident);

}  // namespace mneme
