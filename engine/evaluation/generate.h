// Text from a model.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/context.h"
#include "models/stack.h"

namespace mneme {

struct GenerateOptions {
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: the likeliest
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;        // the likeliest ids that together have this probability
  uint64_t seed = 0;
  int64_t context = 0;  // most ids that the model sees. REQUIRES: at least 1, at most its positions
  bool memory_off = false;
  bool with_gates = false;
};

struct GeneratedToken {
  int32_t id = 0;
  double gate = 0.0;  // largest alpha over Engram layers and branches where this token is the last
                      // of its n-grams; 0 without Engram or unless asked for
};

// Continues `prompt` (ids) until `tokens` are made or `eos` is drawn, which is not returned. Draw
// number i of a key made of the seed; rank 0 draws, so that all ranks go on with the same text.
// With gates a token is told once its gate is known, one step later, and `prompt_gates` (or null)
// is the prompt, as much of its end as the model sees; without them it is empty. REQUIRES: a
// prompt. Collective.
std::vector<GeneratedToken> Generate(
    Context& context, Stack& stack, const std::vector<int32_t>& prompt, int32_t eos,
    const GenerateOptions& options, const std::function<void(const GeneratedToken&)>& on_token = {},
    std::vector<GeneratedToken>* prompt_gates = nullptr);

// The id that a draw `u` in [0, 1) picks from logits. Pure.
int32_t PickToken(const std::vector<double>& logits, const GenerateOptions& options, double u);

}  // namespace mneme
