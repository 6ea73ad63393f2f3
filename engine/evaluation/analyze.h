// What the gates of the memory do: where they open, and text shaded by them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "engine/evaluation/generate.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/world.h"

namespace mneme {

// A distinct n-gram of the held-out text and the mean gate where it ends.
struct NgramGate {
  std::vector<int32_t> ids;
  double gate = 0.0;
  int64_t count = 0;
};

struct GateReport {
  std::vector<NgramGate> largest;  // by mean gate, falling
  double mean = 0.0;               // over all positions that count
  int64_t positions = 0;
  std::vector<GeneratedToken> sample;  // the first sequence with its gates
};

struct AnalyzeOptions {
  int64_t order = 0;      // length of the n-grams; 0: the model's largest order
  int64_t least = 3;      // an n-gram counts if it stands at least so often
  int64_t count = 10;     // n-grams reported
  int64_t sequences = 0;  // of the set; 0: all
  int64_t micro_batch = 0;
};

// Gates over a held-out set, at each position the largest over layers and branches. Every position
// counts whose n-gram lies inside its document and whose next id is a counted target. The same
// report on every rank. REQUIRES: a model with Engram. Collective.
GateReport AnalyzeGates(World& world, Context& context, Stack& stack, const HeldOut& set,
                        const AnalyzeOptions& options);

// Ids as people read them: "Mr. B" in quotes, line ends as ↵; numbers where there is no tokenizer.
std::string ShowIds(const std::vector<int32_t>& ids, const Tokenizer* tokenizer);

// Tokens shaded by their gates, from the palest (least gate among them) to the strongest: ANSI
// background colours, or without colour a line of marks (. : #) under each line of text.
std::string ShadeText(const std::vector<GeneratedToken>& tokens, const Tokenizer* tokenizer,
                      bool colour);

// Whether text that goes to this file descriptor should be coloured: a terminal, and NO_COLOR
// unset.
bool WantsColour(int descriptor);

}  // namespace mneme
