#include "engine/evaluation/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numbers>

#include "configs/json_text.h"
#include "engine/evaluation/score.h"

namespace mneme {
namespace {

// What one rank found, as it travels: sums of its own sequences, then sums by position.
struct RankSums {
  std::vector<int64_t> sequences;
  std::vector<double> losses;    // [sequences]
  std::vector<int64_t> counted;  // [sequences]
  std::vector<double> position_losses;
  std::vector<int64_t> position_counted;
  // The part of a document that stands in one sequence: sequence, document, counted tokens.
  std::vector<int64_t> pieces;       // [3 · parts]
  std::vector<double> piece_losses;  // [parts]
};

void TakePieces(const ScoredSequence& scored, const std::vector<int64_t>& documents,
                RankSums& sums) {
  int64_t open = -1;
  for (size_t p = 0; p < scored.losses.size(); ++p) {
    if (scored.targets[p] < 0) continue;
    if (documents[p] != open) {
      open = documents[p];
      sums.pieces.insert(sums.pieces.end(), {scored.sequence, open, 0});
      sums.piece_losses.push_back(0.0);
    }
    ++sums.pieces.back();
    sums.piece_losses.back() += scored.losses[p];
  }
}

void Take(const ScoredSequence& scored, RankSums& sums) {
  double loss = 0.0;
  int64_t counted = 0;
  for (size_t p = 0; p < scored.losses.size(); ++p) {
    if (scored.targets[p] < 0) continue;
    loss += scored.losses[p];
    ++counted;
    sums.position_losses[p] += scored.losses[p];
    ++sums.position_counted[p];
  }
  sums.sequences.push_back(scored.sequence);
  sums.losses.push_back(loss);
  sums.counted.push_back(counted);
}

template <class T>
void Append(std::string& bytes, const std::vector<T>& values) {
  const auto count = static_cast<int64_t>(values.size());
  bytes.append(reinterpret_cast<const char*>(&count), sizeof(count));
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
void Extract(const std::string& bytes, size_t& at, std::vector<T>& values) {
  int64_t count = 0;
  std::memcpy(&count, bytes.data() + at, sizeof(count));
  at += sizeof(count);
  values.resize(static_cast<size_t>(count));
  // copy, not memcpy: a rank without a sequence has nothing and a null pointer.
  at += bytes.copy(reinterpret_cast<char*>(values.data()), values.size() * sizeof(T), at);
}

std::vector<RankSums> Gather(World& world, const RankSums& mine) {
  std::string bytes;
  Append(bytes, mine.sequences);
  Append(bytes, mine.losses);
  Append(bytes, mine.counted);
  Append(bytes, mine.position_losses);
  Append(bytes, mine.position_counted);
  Append(bytes, mine.pieces);
  Append(bytes, mine.piece_losses);
  std::vector<RankSums> all;
  for (const std::string& text : world.AllGather(bytes)) {
    RankSums& sums = all.emplace_back();
    size_t at = 0;
    Extract(text, at, sums.sequences);
    Extract(text, at, sums.losses);
    Extract(text, at, sums.counted);
    Extract(text, at, sums.position_losses);
    Extract(text, at, sums.position_counted);
    Extract(text, at, sums.pieces);
    Extract(text, at, sums.piece_losses);
  }
  return all;
}

// Documents in their order, the pieces of each in the order of the sequences.
std::vector<DocumentScore> TotalDocuments(const std::vector<RankSums>& ranks) {
  std::map<std::pair<int64_t, int64_t>, DocumentScore> pieces;  // by document, sequence
  for (const RankSums& sums : ranks) {
    for (size_t i = 0; i < sums.piece_losses.size(); ++i) {
      pieces[{sums.pieces[3 * i + 1], sums.pieces[3 * i]}] = {sums.pieces[3 * i + 2],
                                                              sums.piece_losses[i]};
    }
  }
  std::vector<DocumentScore> documents;
  int64_t open = -1;
  for (const auto& [place, piece] : pieces) {
    if (place.first != open) documents.emplace_back();
    open = place.first;
    documents.back().tokens += piece.tokens;
    documents.back().nats += piece.nats;
  }
  return documents;
}

// Adds everything up, sequences in their order.
HeldOutResult Total(const std::vector<RankSums>& ranks, int64_t length, int64_t sequences) {
  HeldOutResult result;
  std::vector<double> losses(static_cast<size_t>(sequences));
  std::vector<double> position_losses(static_cast<size_t>(length));
  std::vector<int64_t> position_counted(static_cast<size_t>(length));
  for (const RankSums& sums : ranks) {
    for (size_t i = 0; i < sums.sequences.size(); ++i) {
      losses[static_cast<size_t>(sums.sequences[i])] = sums.losses[i];
      result.tokens += sums.counted[i];
    }
    for (size_t p = 0; p < position_losses.size(); ++p) {
      position_losses[p] += sums.position_losses[p];
      position_counted[p] += sums.position_counted[p];
    }
  }
  for (const double loss : losses) result.loss += loss;
  for (size_t p = 0; p < position_losses.size(); ++p) {
    const auto counted = static_cast<double>(position_counted[p]);
    result.loss_by_position.push_back(counted > 0.0 ? position_losses[p] / counted : 0.0);
  }
  return result;
}

}  // namespace

absl::StatusOr<HeldOutResult> Evaluate(World& world, Context& context, Stack& stack,
                                       const HeldOut& set, const std::string& name,
                                       int64_t micro_batch, bool memory_off) {
  const int64_t length = set.sequence_length();
  RankSums mine;
  mine.position_losses.resize(static_cast<size_t>(length));
  mine.position_counted.resize(static_cast<size_t>(length));
  ScoreOptions options;
  options.micro_batch = micro_batch;
  options.memory_off = memory_off;
  ScoreSequences(world, context, stack, set, options, [&](const ScoredSequence& scored) {
    Take(scored, mine);
    TakePieces(scored, set.TargetDocuments(scored.sequence), mine);
  });
  const std::vector<RankSums> ranks = Gather(world, mine);
  HeldOutResult result = Total(ranks, length, set.sequences());
  result.documents = TotalDocuments(ranks);
  result.name = name;
  if (result.tokens == 0) {
    return absl::InvalidArgumentError("held-out set " + name + " (" + set.corpus().folder() +
                                      ") has no token to score at sequence length " +
                                      std::to_string(length));
  }
  const double bytes = set.text_bytes();
  if (bytes > 0.0) result.bits_per_byte = result.loss / std::numbers::ln2 / bytes;
  result.loss /= static_cast<double>(result.tokens);
  return result;
}

double UnigramEntropy(const Loader& train, const HeldOut& set) {
  const auto ids = static_cast<size_t>(train.vocabulary().size);
  std::vector<double> counts(ids, 0.5);
  double total = 0.5 * static_cast<double>(ids);
  const int64_t length = train.sequence_length();
  const int64_t samples = std::max<int64_t>(1, std::min(train.tokens(), int64_t{1} << 24) / length);
  HostBatch sample(1, length);
  for (int64_t s = 0; s < samples; ++s) {
    train.Fill(s, 1, sample.View());
    for (const int32_t id : sample.tokens) counts[static_cast<size_t>(id)] += 1.0;
  }
  total += static_cast<double>(samples * length);
  HostBatch held_out(1, set.sequence_length());
  double nats = 0.0;
  int64_t counted = 0;
  for (int64_t s = 0; s < set.sequences(); ++s) {
    set.Fill(s, 1, held_out.View());
    for (const int32_t id : held_out.targets) {
      if (id < 0) continue;
      nats -= std::log(counts[static_cast<size_t>(id)] / total);
      ++counted;
    }
  }
  return counted > 0 ? nats / static_cast<double>(counted) : 0.0;
}

std::string HeldOutJson(const HeldOutResult& result) {
  JsonObject json;
  json.Add("name", result.name).Add("loss", result.loss).Add("bits_per_byte", result.bits_per_byte);
  return json.Add("tokens", result.tokens).Text();
}

}  // namespace mneme
