// The greatest difference of the logits of two checkpoints on a fixed prompt: what a certificate
// can say beyond names and checksums.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mneme {

inline constexpr int64_t kCertificateTokens = 64;

// Logits [tokens, V] of a checkpoint of ours on one row of ids, on this process alone, as it was
// trained; in f32, or f64 where it was trained in f64. `ids` at most as many as its sequence
// length.
absl::StatusOr<std::vector<double>> CheckpointLogits(const std::string& checkpoint,
                                                     const std::vector<int32_t>& ids);
// Ids below `vocabulary`, the same for a vocabulary.
std::vector<int32_t> FixedPrompt(int64_t vocabulary, int64_t tokens);
// FailedPrecondition where the two have other vocabularies.
absl::StatusOr<double> LogitsDifference(const std::string& first, const std::string& second,
                                        const std::vector<int32_t>& ids);

}  // namespace mneme
