// One Engram table spread over the memory axis: rows from their owners, gradients back to them.
//
// Unique ids travel (int64), rows come back, gradients are summed per unique row before they
// travel; owners add the sources in rank order. Replicas of the memory axis add theirs in rank
// order at the end of the step, and the rows' optimizer state is split among them
// (Layout::row_state_replica). Every call but the accessors is collective.
#pragma once

#include <memory>

#include "parallel/mesh.h"
#include "parallel/row_store.h"
#include "parallel/step_gradient.h"

namespace mneme {

// The rows of one micro-batch.
struct FetchedRows {
  Tensor rows;     // [U, W] one a distinct id, in the order of `ids`
  Tensor inverse;  // i32 [n] place of each requested id in `rows`
  // The route back, filled by Fetch.
  Tensor ids;                       // i64 [U] distinct ids, grouped by owner, rising inside
  std::vector<int64_t> send, recv;  // rows asked of each member, rows each member asks here
  Tensor asked;                     // i64 [Σ recv] ids asked of this rank
};

struct RowTraffic {       // since the last ResetTraffic
  int64_t requested = 0;  // ids before deduplication
  int64_t unique = 0;     // after
  int64_t remote = 0;     // of the unique ones, owned elsewhere
  int64_t bytes = 0;      // ids, rows and gradients sent to other ranks, replica exchange included
};

class RowExchange {
 public:
  RowExchange(Mesh& mesh, const Kernels& kernels, std::unique_ptr<RowStore> store);

  // ids i64 [n] on the device. Starts the exchange; rows are there when waited for.
  Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids);
  // drows [n, W]: gradient of each requested row (of rows gathered by `inverse`). Sums per distinct
  // row, sends to the owners, adds to this step's gradient there.
  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows);

  // End of step, first half: gradients summed over replicas at the state's owner. After it
  // SumSquares is of the whole table's gradient, each row once: sum f64 [1] += this rank's part.
  void ReduceGradients(Stream& stream);
  void SumSquares(Stream& stream, Tensor& sum);
  // Second half: owners update, replicas receive. Forgets this step's gradient.
  void Update(Stream& stream, const Tensor& step);

  RowStore& store() { return *store_; }
  const RowTraffic& traffic() const { return traffic_; }
  void ResetTraffic() { traffic_ = {}; }

 private:
  Mesh& mesh_;
  const Kernels& kernels_;
  std::unique_ptr<RowStore> store_;
  RowTraffic traffic_;
  // Adds to this step's gradient the parts of the sources, in rank order; counts: rows of each.
  void AddParts(const Tensor& ids, const Tensor& grads, const std::vector<int64_t>& counts);
  // Rows of others that moved in this update, written here; ours sent there.
  void Replicate(Stream& stream);
  int64_t BytesSent() const;

  StepGradient gradient_;
  Tensor ids_;    // i64 [m] rows of this step's gradient, rising: after ReduceGradients
  Tensor grads_;  // [m, W]
};

}  // namespace mneme
