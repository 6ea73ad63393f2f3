// TensorBoard event files, written by hand: TFRecord frames around the few protobuf fields that
// scalars need.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/report/report.h"

namespace mneme {

class TensorBoardLog {
 public:
  // Begins a new event file in `folder` (made if it is missing). Steps after `last_step` in earlier
  // files are declared void, so that a run that goes on after a crash draws one curve.
  static absl::StatusOr<std::unique_ptr<TensorBoardLog>> Open(const std::string& folder,
                                                              int64_t last_step);
  virtual ~TensorBoardLog() = default;
  // Every finite number of the report as a scalar.
  virtual absl::Status Write(const StepReport& report) = 0;
};

// CRC-32C (Castagnoli) of bytes, and TFRecord's masked form of it.
uint32_t Crc32c(const std::string& bytes);
uint32_t MaskedCrc(const std::string& bytes);

}  // namespace mneme
