// What a step leaves for the rows of a device's table: gradients stay in the tensors in which they
// came until the step ends, are grouped by row once, and summed for the norm and in the update.
//
// Replicas of a table give each other all that came, before it is grouped: equal parts as they
// come, beside the stream. Each then has every
// request of the step and makes the same update with the same bits: no row and no moment travels,
// at the price of moments on every replica.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/core/arrival.h"
#include "parallel/comm.h"
#include "parallel/device_store.h"

namespace mneme {

class DeviceGradient {
 public:
  // Every replica adds parts of the same shapes, so that nothing need be counted.
  static constexpr int64_t kEqual = -1;
  // merge_from: kEqual; or parts differ, and what came is summed by row as soon as it is
  // MergeAt rows, and at the end. Its distinct rows are counted on the device, and the host waits
  // for the number at the next part.
  DeviceGradient(const Kernels& kernels, DeviceStore& store, Comm& replicas, int64_t merge_from)
      : kernels_(kernels), store_(store), replicas_(replicas), merge_from_(merge_from) {}

  // Rows that come beside `merged` summed ones before all are summed: few sums of many rows, and a
  // quarter more memory than the summed rows take twice.
  static int64_t MergeAt(int64_t merged, int64_t merge_from) {
    return std::max(merged / 4, merge_from);
  }

  // Gradients grads [n, W], or as many values, of rows by their numbers, ids i64 [n]. Both may be
  // kept until Update.
  void Add(Stream& stream, const Tensor& ids, const Tensor& grads);

  // Waits for what Add began to count, and ends it. Add and Reduce do so first.
  void Settle(Stream& stream);

  // The steps of RowExchange. seen: as group_rows has it.
  void Reduce(Stream& stream, Tensor& seen);
  void SumSquares(Stream& stream, Tensor& sum);
  void Update(Stream& stream, const Tensor& step);

  // That a request sends to one other replica, once it is known.
  int64_t request_bytes() const { return request_bytes_; }

 private:
  bool equal() const { return merge_from_ == kEqual; }
  // All parts become one, of distinct rows: the first half, until they are counted.
  void BeginMerge(Stream& stream);

  const Kernels& kernels_;
  DeviceStore& store_;
  Comm& replicas_;
  const int64_t merge_from_;
  int64_t request_bytes_ = 0;
  int64_t merged_ = 0;  // rows summed before, the first part
  int64_t fresh_ = 0;   // rows of the others
  Tensor unique_, inverse_;
  Arrival distinct_;           // i64 [1]; unique_ is defined while it is on its way
  SideJob gathering_;          // the last of ids_, grads_ where equal parts come of all replicas
  std::vector<Tensor> ids_;    // of this step, until they are grouped
  std::vector<Tensor> grads_;  // [n, W] likewise, until the update
  RowGroups groups_;           // between Reduce and Update
  bool summed_ = false;
};

}  // namespace mneme
