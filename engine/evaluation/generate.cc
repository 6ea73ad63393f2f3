#include "engine/evaluation/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/evaluation/score.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

struct NextToken {
  std::vector<double> logits;
  std::vector<double> gates;  // of the ids that the model saw; empty unless asked for
};

// The model on the last `options.context` ids of the text, as one row that begins a document or
// stands inside one.
NextToken Look(Context& context, Stack& stack, const std::vector<int32_t>& text,
               const GenerateOptions& options) {
  const auto seen = std::min(static_cast<int64_t>(text.size()), options.context);
  HostBatch row(1, seen);
  std::copy(text.end() - seen, text.end(), row.tokens.begin());
  std::fill(row.targets.begin(), row.targets.end(), -1);
  std::iota(row.positions.begin(), row.positions.end(), 0);
  std::vector<Tensor> gates;
  const Tensor logits = stack.LastLogits(context, row.Lift(context), options.memory_off,
                                         options.with_gates ? &gates : nullptr);
  NextToken next{ToHost(context, logits), {}};
  if (options.with_gates) next.gates = LargestGates(context, gates, seen);
  return next;
}

// The last ids of a text and their gates.
std::vector<GeneratedToken> WithGates(const std::vector<int32_t>& text,
                                      const std::vector<double>& gates) {
  std::vector<GeneratedToken> tokens;
  const size_t first = text.size() - gates.size();
  for (size_t i = 0; i < gates.size(); ++i) tokens.push_back({text[first + i], gates[i]});
  return tokens;
}

// Rank 0's choice on every rank: logits may differ in their last bits.
int32_t Agreed(Context& context, int32_t id) {
  Tensor choice = Tensor::Empty(context.stream, DType::kI32, {1});
  Upload(context.stream, &id, choice.bytes(), choice);
  context.mesh.world->Broadcast(context.stream, choice, 0);
  Download(context.stream, choice, &id, choice.bytes());
  return id;
}

}  // namespace

int32_t PickToken(const std::vector<double>& logits, const GenerateOptions& options, double u) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (options.temperature <= 0.0) return order.front();
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(order.size())) {
    order.resize(static_cast<size_t>(options.top_k));
  }
  std::vector<double> weights;
  double total = 0.0;
  for (const int32_t id : order) {
    weights.push_back(std::exp((logit(id) - logit(order.front())) / options.temperature));
    total += weights.back();
  }
  // The likeliest ids up to top_p of the mass; at least one.
  double kept = 0.0;
  size_t count = 0;
  while (count < weights.size() && (count == 0 || kept < options.top_p * total))
    kept += weights[count++];
  double mass = u * kept;
  for (size_t i = 0; i < count; ++i) {
    mass -= weights[i];
    if (mass < 0.0) return order[i];
  }
  return order[count - 1];
}

std::vector<GeneratedToken> Generate(Context& context, Stack& stack,
                                     const std::vector<int32_t>& prompt, int32_t eos,
                                     const GenerateOptions& options,
                                     const std::function<void(const GeneratedToken&)>& on_token,
                                     std::vector<GeneratedToken>* prompt_gates) {
  CHECK(!prompt.empty());
  CHECK_GE(options.context, 1);
  const RandomKey key = MakeKey(options.seed, "generate");
  std::vector<int32_t> text = prompt;
  std::vector<GeneratedToken> made;
  if (prompt_gates != nullptr) prompt_gates->clear();
  const auto tell = [&] {
    if (on_token && !made.empty()) on_token(made.back());
  };
  for (int64_t i = 0; i < options.tokens; ++i) {
    const NextToken next = Look(context, stack, text, options);
    if (i == 0 && prompt_gates != nullptr) *prompt_gates = WithGates(prompt, next.gates);
    if (options.with_gates && !made.empty()) {
      made.back().gate = next.gates.back();
      tell();
    }
    const double u = RandomUniform(key, static_cast<uint64_t>(i));
    const int32_t id = Agreed(context, PickToken(next.logits, options, u));
    if (id == eos) return made;
    text.push_back(id);
    made.push_back({id, 0.0});
    if (!options.with_gates) tell();
  }
  if (!options.with_gates || (made.empty() && prompt_gates == nullptr)) return made;
  // The last id has not been seen; where none was to be made, nor has the prompt.
  const std::vector<double> gates = Look(context, stack, text, options).gates;
  if (made.empty()) {
    *prompt_gates = WithGates(prompt, gates);
  } else {
    made.back().gate = gates.back();
    tell();
  }
  return made;
}

}  // namespace mneme
