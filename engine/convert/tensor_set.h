// Named tensors of anything that holds weights, read by ranges: a checkpoint, one of its HDF5
// files, a safetensors file, a folder in the Hugging Face layout.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mneme {

struct TensorInfo {
  std::string name;
  std::string kind;  // "value"; of checkpoints also "adam_m", "router_bias", …; of tables "rows"
  std::string dtype;
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t bytes = 0;           // stored
  int64_t stored_rows = -1;    // of a table: those that are stored; the rest is what its seed makes
  std::string first_values;    // and how: tables of one name and dtype with equal texts begin alike
};

class TensorSet {
 public:
  virtual ~TensorSet() = default;

  // "checkpoint", "HDF5 file", "safetensors file", "Hugging Face folder".
  virtual const char* what() const = 0;
  virtual const std::string& path() const = 0;
  // What is known beside the tensors, as texts: step, dtype, digests, metadata, ….
  virtual std::vector<std::pair<std::string, std::string>> Facts() const = 0;
  // The configuration, one "key: value" a line; empty where there is none.
  virtual std::string Config() const = 0;
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // Elements [first, first + to.size()), rows outermost; of a table its whole logical content.
  virtual absl::Status Read(size_t tensor, int64_t first, absl::Span<double> to) = 0;
  // Every stored number once, in pieces, in no stated order.
  virtual absl::Status Scan(size_t tensor,
                            const std::function<void(absl::Span<const double>)>& see);
  // Sets a 1 for each of rows [begin, begin + stored.size()) that is stored, and leaves the others'
  // marks. Only tables have others.
  virtual absl::Status MarkStored(size_t tensor, int64_t begin, absl::Span<char> stored);

 protected:
  std::vector<TensorInfo> tensors_;
};

// Checksums are checked first where there are any. `path` may be the folder of a run: its newest
// checkpoint. Errors: NotFound (nothing known is there), DataLoss, PermissionDenied.
absl::StatusOr<std::unique_ptr<TensorSet>> OpenTensorSet(const std::string& path);

}  // namespace mneme
