// Text from a model, and what its gates did.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/context.h"
#include "models/stack.h"

namespace mneme {

struct GenerateOptions {
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: the likeliest
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  uint64_t seed = 0;
  int64_t context = 0;       // most ids that the model sees; 0: the length it was trained at
  bool memory_off = false;
};

struct GeneratedToken {
  int32_t id = 0;
  double gate = 0.0;  // largest alpha over Engram layers and branches at this position; 0 without Engram
};

// Continues `prompt` (ids). Draw number i of a key made of the seed: the same text on every layout. Collective.
std::vector<GeneratedToken> Generate(Context& context, Stack& stack, const std::vector<int32_t>& prompt, int32_t eos,
                                     const GenerateOptions& options,
                                     const std::function<void(const GeneratedToken&)>& on_token = {});

}  // namespace mneme
