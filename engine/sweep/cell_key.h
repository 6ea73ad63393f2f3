// The name of a cell: a digest of what changes its numbers, and of nothing else.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "configs/run.h"

namespace mneme {

// What the digest is made of, a line "key: value" each, by name: keys of the config that are not at
// their default and that change numbers (not paths, names, cadences, rank counts, or how memory is
// used), corpora by the digest of their manifest. A key that is new and at its default changes no
// cell. Errors: NotFound and DataLoss of a corpus.
absl::StatusOr<std::string> CellText(const RunConfig& config);
// 16 hex digits of it.
absl::StatusOr<std::string> CellKey(const RunConfig& config);

}  // namespace mneme
