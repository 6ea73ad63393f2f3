// The rows of one share of a table in the memory of one device, values and moments, in rising
// order.
//
// Everything is an op on the device's own tensors, so it runs on a GPU without a word from the
// host: what changes from step to step is read there. The CPU has it for tests; a CPU run has the
// stores of resident_store.cc and lazy_store.cc.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/bitmap.h"
#include "parallel/row_store.h"

namespace mneme {

// Queues on the stream that it was made with. Replicas of a share are equal in values and moments:
// to each it is as if it were alone (share().replicas is 1).
class DeviceStore : public RowStore {
 public:
  // The rows of coordinate `phase` of `stride`. first: of the replicas the one that tells of them.
  // Errors: ResourceExhausted, before memory is touched, where the device has less left than the
  // rows need.
  static absl::StatusOr<std::unique_ptr<DeviceStore>> Make(Stream& stream, const Kernels& kernels,
                                                           RowTableSpec spec, bool first = true,
                                                           int64_t phase = 0, int64_t stride = 1);

  // Read, Update and Import wait for the device where the table is spread: ids become numbers on
  // the host.
  void Read(Stream& stream, const Tensor& ids, Tensor& values) override;
  void Update(Stream& stream, const Tensor& step, const Tensor& ids, const Tensor& grads) override;
  // No other replica: no ids.
  void Write(Stream& stream, const Tensor& ids, const Tensor& values) override;
  // 0 where another replica tells of them. Waits for the device, as List, Export do.
  int64_t materialised(bool with_state) const override;
  // `begin` 0 takes the materialised rows as they then are; calls that go on from there see the
  // same.
  void List(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values) override;
  void Export(Stream& stream, int64_t begin, int64_t end, Tensor& ids, Tensor& values, Tensor& m,
              Tensor& v) override;
  void Import(Stream& stream, const Tensor& ids, const Tensor& values, const Tensor& m,
              const Tensor& v, bool with_state) override;
  int64_t bytes() const override;

  // The rows of all requests grouped and summed, by their numbers: the update of a step. parts:
  // their gradients.
  void Move(Stream& stream, const Tensor& step, RowParts parts, const RowGroups& groups);
  const Tensor& values() const { return values_; }  // [R, W] by number
  int64_t rows() const { return rows_; }
  // Replicas are equal; this one tells of them.
  bool first() const { return first_; }

 private:
  DeviceStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, RowShare share,
              bool first);
  void DrawFirstValues(Stream& stream);
  // The numbers of rows, on the device. ids: there or on the host.
  Tensor NumbersOf(Stream& stream, const Tensor& ids);
  // The materialised rows [begin, end): their ids, and returned their numbers, on the device.
  Tensor PutListed(Stream& stream, int64_t begin, int64_t end, Tensor& ids);

  Stream& stream_;
  const Kernels& kernels_;
  const bool first_;
  const int64_t rows_;     // R, of this share
  Tensor values_, m_, v_;  // [R, W]
  Tensor marks_;           // i32 [⌈R / 32⌉] which rows are materialised
  Bitmap listed_;          // on the host, while rows are listed
};

}  // namespace mneme
