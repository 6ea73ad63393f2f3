#include "engine/evaluation/score.h"

#include <algorithm>

namespace mneme {
namespace {

Tensor LiftIds(Context& context, const std::vector<int32_t>& ids) {
  Tensor tensor = Tensor::Empty(context.stream, DType::kI32, {static_cast<int64_t>(ids.size())});
  Upload(context.stream, ids.data(), tensor.bytes(), tensor);
  return tensor;
}

}  // namespace

HostBatch::HostBatch(int64_t rows_in, int64_t length_in) : rows(rows_in), length(length_in) {
  const auto count = static_cast<size_t>(rows * length);
  for (std::vector<int32_t>* ids : {&tokens, &targets, &positions, &doc_start}) ids->resize(count);
}

BatchView HostBatch::View() {
  return {absl::MakeSpan(tokens), absl::MakeSpan(targets), absl::MakeSpan(positions),
          absl::MakeSpan(doc_start)};
}

MicroBatch HostBatch::Lift(Context& context) const {
  return {rows,
          length,
          LiftIds(context, tokens),
          LiftIds(context, targets),
          LiftIds(context, positions),
          LiftIds(context, doc_start),
          true};
}

std::vector<double> ToHost(Context& context, const Tensor& tensor) {
  return DispatchReal(tensor.dtype(), [&](auto zero) {
    std::vector<decltype(zero)> values(static_cast<size_t>(tensor.elements()));
    Download(context.stream, tensor, values.data(), tensor.bytes());
    return std::vector<double>(values.begin(), values.end());
  });
}

std::vector<double> LargestGates(Context& context, const std::vector<Tensor>& gates,
                                 int64_t positions) {
  std::vector<double> largest(static_cast<size_t>(positions));
  for (const Tensor& layer : gates) {
    const std::vector<double> alpha = ToHost(context, layer);
    const size_t branches = alpha.size() / largest.size();
    for (size_t i = 0; i < alpha.size(); ++i) {
      largest[i / branches] = std::max(largest[i / branches], alpha[i]);
    }
  }
  return largest;
}

void ScoreSequences(World& world, Context& context, Stack& stack, const HeldOut& set,
                    const ScoreOptions& options,
                    const std::function<void(const ScoredSequence&)>& take) {
  const int64_t length = set.sequence_length();
  const int64_t all =
      options.sequences > 0 ? std::min(options.sequences, set.sequences()) : set.sequences();
  const int64_t wanted =
      options.micro_batch > 0 ? options.micro_batch : std::max<int64_t>(1, 4096 / length);
  // No more rows than there are sequences to deal.
  const int64_t rows = std::min(wanted, (all + world.size() - 1) / world.size());
  if (all == 0) return;
  HostBatch batch(rows, length);
  // Every rank makes the same number of calls, since a call is collective; rows beyond the end are
  // padding.
  for (int64_t begin = 0; begin < all; begin += rows * world.size()) {
    const int64_t first = begin + rows * world.rank();
    set.Fill(first, rows, batch.View());
    const Scores scores =
        stack.Score(context, batch.Lift(context), options.memory_off, options.with_gates);
    const std::vector<double> losses = ToHost(context, scores.losses);
    const std::vector<double> gates = options.with_gates
                                          ? LargestGates(context, scores.gates, rows * length)
                                          : std::vector<double>();
    for (int64_t r = 0; r < rows && first + r < all; ++r) {
      const auto row = [&](const auto& values) {
        return absl::MakeConstSpan(values).subspan(static_cast<size_t>(r * length),
                                                   static_cast<size_t>(length));
      };
      take({first + r, row(batch.tokens), row(batch.targets), row(batch.doc_start), row(losses),
            gates.empty() ? absl::Span<const double>() : row(gates)});
    }
    world.pulse().Progress();
  }
}

}  // namespace mneme
