// What a checkpoint or a file of weights holds, and how two of them differ. Bounded memory.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/convert/tensor_set.h"

namespace mneme {

// Of the stored numbers of one tensor; least, greatest and norm over the finite ones, 0 where there
// is none. Of a table the rows in the files only.
struct TensorStatistics {
  int64_t count = 0;
  int64_t nans = 0;
  int64_t infinities = 0;
  int64_t zeros = 0;
  double least = 0.0;
  double greatest = 0.0;
  double norm = 0.0;  // root of the sum of squares
};

struct InspectOptions {
  bool moments = false;    // also what the optimizer keeps
  bool statistics = true;  // read the values; else names and shapes only
  std::string matching;    // only tensors whose names contain this
};

struct InspectedTensor {
  TensorInfo info;
  TensorStatistics statistics;
};

struct Inspection {
  std::string what;
  std::string path;
  std::vector<std::pair<std::string, std::string>> facts;
  std::string config;  // "key: value" a line
  std::vector<InspectedTensor> tensors;
};
// Errors: DataLoss and the like of what is read.
absl::StatusOr<Inspection> Inspect(TensorSet& set, const InspectOptions& options);
// A table for people, one JSON object. `statistics`: as it was inspected with.
std::string InspectionText(const Inspection& inspection, bool statistics);
std::string InspectionJson(const Inspection& inspection, bool statistics);

// How two sets differ. Tensors are compared by kind and name; of tables every row is.
struct TensorDifference {
  std::string name;
  std::string kind;
  std::string why;        // of shape or dtype, where they are not the same; else empty
  int64_t differing = 0;  // elements; a NaN equals a NaN
  double greatest = 0.0;  // |a - b|
  // Norm of a - b over norm of a; infinite where a is 0. Of tables that begin alike both are of the
  // rows that at least one has stored.
  double relative = 0.0;
  int64_t rows_left_out = 0;  // those that neither has: equal, and in no norm
};
struct Comparison {
  std::string first, second;               // paths
  std::vector<std::string> config;         // "key: first -> second"
  std::vector<std::string> only_in_first;  // "kind name"
  std::vector<std::string> only_in_second;
  std::vector<TensorDifference> differing;
  int64_t same = 0;  // tensors of one shape and dtype whose numbers are equal; −0 equals 0
  bool equal() const {
    return config.empty() && only_in_first.empty() && only_in_second.empty() && differing.empty();
  }
};
// Reads both a few MiB at a time. Of `options` moments and matching count. Where tables begin alike
// no stretch is read that neither has a stored row of. Errors: of reading.
absl::StatusOr<Comparison> Compare(TensorSet& first, TensorSet& second,
                                   const InspectOptions& options);
std::string ComparisonText(const Comparison& comparison);
std::string ComparisonJson(const Comparison& comparison);

}  // namespace mneme
