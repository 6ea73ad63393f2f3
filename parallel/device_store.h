// All rows of a table in the memory of one device, values and moments in row order.
//
// Everything is an op on the device's own tensors, so it runs on a GPU without a word from the
// host: what changes from step to step is read there. The CPU has it for tests; a CPU run has the
// stores of resident_store.cc and lazy_store.cc, which may be spread.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/bitmap.h"
#include "parallel/row_store.h"

namespace mneme {

// Ids are those of the only share. Queues on the stream that it was made with.
class DeviceStore : public RowStore {
 public:
  // First values are written where they stay. first: of the replicas, which are equal in values and
  // moments, the one that tells of them. Errors: ResourceExhausted, before memory is touched, where
  // the device has less left than the rows need.
  static absl::StatusOr<std::unique_ptr<DeviceStore>> Make(Stream& stream, const Kernels& kernels,
                                                           RowTableSpec spec, bool first = true);

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

  // The rows of all requests grouped and summed: the update of a step. parts: their gradients.
  void Move(Stream& stream, const Tensor& step, RowParts parts, const RowGroups& groups);
  const Tensor& values() const { return values_; }  // [R, W]

 private:
  DeviceStore(Stream& stream, const Kernels& kernels, RowTableSpec spec, bool first);
  // Ids of the materialised rows [begin, end), to the device.
  void PutListed(Stream& stream, int64_t begin, int64_t end, Tensor& ids);

  Stream& stream_;
  const Kernels& kernels_;
  const bool first_;
  Tensor values_, m_, v_;  // [R, W]
  Tensor marks_;           // i32 [⌈R / 32⌉] which rows are materialised
  Bitmap listed_;          // on the host, while rows are listed
};

}  // namespace mneme
