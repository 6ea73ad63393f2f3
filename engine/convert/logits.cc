#include "engine/convert/logits.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/evaluation/score.h"
#include "engine/loaded_model.h"
#include "kernels/core/check.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

absl::StatusOr<std::vector<double>> LogitsOn(World& world, const std::string& checkpoint,
                                             const std::vector<int32_t>& ids) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadedModel> loaded, LoadModel(world, checkpoint));
  const int64_t length = static_cast<int64_t>(ids.size());
  if (length > loaded->sequence_length) loaded->SetLength(length, 0.0);
  HostBatch row(1, length);
  std::copy(ids.begin(), ids.end(), row.tokens.begin());
  std::fill(row.targets.begin(), row.targets.end(), -1);
  std::iota(row.positions.begin(), row.positions.end(), 0);
  Context& context = loaded->context();
  return ToHost(context, loaded->stack().Logits(context, row.Lift(context)));
}

}  // namespace

std::vector<int32_t> FixedPrompt(int64_t vocabulary, int64_t tokens) {
  const RandomKey key = MakeKey(0, "convert.prompt");
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(RandomInt(key, i, vocabulary));
  }
  return ids;
}

absl::StatusOr<std::vector<double>> CheckpointLogits(const std::string& checkpoint,
                                                     const std::vector<int32_t>& ids) {
  absl::StatusOr<std::vector<double>> logits = absl::InternalError("not computed");
  ThreadWorld::Run(1, [&](World& world) { logits = LogitsOn(world, checkpoint, ids); });
  return logits;
}

absl::StatusOr<double> LogitsDifference(const std::string& first, const std::string& second,
                                        const std::vector<int32_t>& ids) {
  ASSIGN_OR_RETURN(const std::vector<double> a, CheckpointLogits(first, ids));
  ASSIGN_OR_RETURN(const std::vector<double> b, CheckpointLogits(second, ids));
  if (a.size() != b.size()) {
    return absl::FailedPreconditionError(first + " and " + second + " have other vocabularies");
  }
  double greatest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double gap = std::abs(a[i] - b[i]);
    greatest = std::isnan(gap) ? INFINITY : std::max(greatest, gap);
  }
  return greatest;
}

}  // namespace mneme
