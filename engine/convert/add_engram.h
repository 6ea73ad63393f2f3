// A model with an Engram put into it that changes nothing yet: value matrices are zero, so that
// what the memory adds is zero, bit for bit, and the first gradient moves them
// (docs/conversion.md).
#pragma once

#include <memory>

#include "configs/model.h"
#include "engine/convert/model_source.h"

namespace mneme {

// InvalidArgument where the model has a memory already, or the geometry does not fit it.
absl::StatusOr<std::unique_ptr<ModelSource>> AddEngram(std::unique_ptr<ModelSource> base,
                                                       const EngramConfig& engram);

}  // namespace mneme
