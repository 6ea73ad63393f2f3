#include "data/ngram_baseline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "data/tokenizer.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int kIdBits = 9;
constexpr int64_t kPiece = int64_t{1} << 16;

static_assert(kByteVocabulary <= int64_t{1} << kIdBits);

// The last ids of a document, the newest in the low bits; n of them are an n-gram's key.
class History {
 public:
  void Reset() { size_ = 0; }
  void Push(int32_t id) {
    ids_ = ids_ << kIdBits | static_cast<uint64_t>(id);
    ++size_;
  }
  int64_t size() const { return size_; }
  uint64_t Key(int64_t n) const { return ids_ & ((uint64_t{1} << (kIdBits * n)) - 1); }

 private:
  uint64_t ids_ = 0;
  int64_t size_ = 0;
};

// Calls visit(id, begins_document) for the first `limit` ids.
template <class Visit>
void ForEachId(const Corpus& corpus, int64_t limit, const Visit& visit) {
  std::vector<int32_t> ids(static_cast<size_t>(kPiece));
  std::vector<int64_t> documents(static_cast<size_t>(kPiece));
  int64_t document = -1;
  for (int64_t begin = 0; begin < limit; begin += kPiece) {
    const auto count = static_cast<size_t>(std::min(kPiece, limit - begin));
    corpus.Read(begin, absl::MakeSpan(ids).first(count), absl::MakeSpan(documents).first(count));
    for (size_t i = 0; i < count; ++i) {
      visit(ids[i], documents[i] != document);
      document = documents[i];
    }
  }
}

struct Context {
  int64_t total = 0;
  std::array<int64_t, 4> grams{};  // [min(count, 3)] distinct continuations of that count
};

// Counts of one order, and what they say of an id after a context.
class Order {
 public:
  // Whether the n-gram is new.
  bool Add(uint64_t key) { return ++counts_[key] == 1; }

  void Finish() {
    std::array<double, 5> of_count{};  // n-grams seen 1 to 4 times
    for (const auto& [key, count] : counts_) {
      Context& context = contexts_[key >> kIdBits];
      context.total += count;
      ++context.grams[static_cast<size_t>(std::min<int64_t>(count, 3))];
      if (count <= 4) ++of_count[static_cast<size_t>(count)];
    }
    const double y = of_count[1] / (of_count[1] + 2.0 * of_count[2]);
    for (size_t i = 1; i <= 3; ++i) {
      const double c = static_cast<double>(i);
      const double d = c - (c + 1.0) * y * of_count[i + 1] / of_count[i];
      // Text so short or so regular that the estimate fails.
      discount_[i] = d > 0.0 && d < c ? d : 0.5;
    }
  }

  // The probability of the id that ends `key`; lower: its probability after the shorter context.
  double Probability(uint64_t key, double lower) const {
    const auto context = contexts_.find(key >> kIdBits);
    if (context == contexts_.end()) return lower;
    const auto found = counts_.find(key);
    const int64_t count = found == counts_.end() ? 0 : found->second;
    double kept = static_cast<double>(count);
    if (count > 0) kept -= discount_[static_cast<size_t>(std::min<int64_t>(count, 3))];
    double freed = 0.0;
    for (size_t i = 1; i <= 3; ++i) {
      freed += discount_[i] * static_cast<double>(context->second.grams[i]);
    }
    return (kept + freed * lower) / static_cast<double>(context->second.total);
  }

 private:
  absl::flat_hash_map<uint64_t, int64_t> counts_;
  absl::flat_hash_map<uint64_t, Context> contexts_;
  std::array<double, 4> discount_{};
};

// Of all orders: plain counts, and counts of contexts for the lower orders of Kneser and Ney.
struct Model {
  explicit Model(int64_t max_order)
      : plain(static_cast<size_t>(max_order)), contexts(static_cast<size_t>(max_order)) {}
  std::vector<Order> plain;     // [order − 1]
  std::vector<Order> contexts;  // [order − 1]; the highest stays empty
};

Model Count(const Corpus& train, int64_t max_order, int64_t limit) {
  Model model(max_order);
  History history;
  ForEachId(train, limit, [&](int32_t id, bool begins) {
    if (begins) history.Reset();
    history.Push(id);
    for (int64_t n = 1; n <= std::min(max_order, history.size()); ++n) {
      const bool is_new = model.plain[static_cast<size_t>(n - 1)].Add(history.Key(n));
      if (is_new && n > 1) model.contexts[static_cast<size_t>(n - 2)].Add(history.Key(n - 1));
    }
  });
  for (Order& order : model.plain) order.Finish();
  for (Order& order : model.contexts) order.Finish();
  return model;
}

absl::Status CheckBytes(const Corpus& corpus) {
  if (corpus.vocabulary().tokenizer == "bytes") return absl::OkStatus();
  return absl::InvalidArgumentError(corpus.folder() +
                                    ": n-grams are counted over bytes, this corpus has ids of '" +
                                    corpus.vocabulary().tokenizer + "'");
}

}  // namespace

absl::StatusOr<NgramBaseline> FitNgrams(const Corpus& train, const Corpus& held_out,
                                        int64_t max_order, int64_t max_train) {
  if (max_order < 1 || max_order * kIdBits >= 64) {
    return absl::InvalidArgumentError("n-grams of order " + std::to_string(max_order) +
                                      " cannot be counted; orders go from 1 to 7");
  }
  RETURN_IF_ERROR(CheckBytes(train));
  RETURN_IF_ERROR(CheckBytes(held_out));
  NgramBaseline baseline;
  baseline.trained_on = std::min(max_train, train.tokens());
  const Model model = Count(train, max_order, baseline.trained_on);

  const auto orders = static_cast<size_t>(max_order);
  baseline.nats.assign(orders, 0.0);
  baseline.kneser_ney.assign(orders, 0.0);
  History history;
  ForEachId(held_out, held_out.tokens(), [&](int32_t id, bool begins) {
    if (begins) history.Reset();
    history.Push(id);
    if (begins) return;
    double plain = 1.0 / static_cast<double>(kByteVocabulary);
    double lower = plain;
    for (size_t n = 0; n < orders; ++n) {
      // A longer order than the document so far has nothing to add.
      const bool known = static_cast<int64_t>(n) < history.size();
      const uint64_t key = history.Key(static_cast<int64_t>(n) + 1);
      if (known) plain = model.plain[n].Probability(key, plain);
      baseline.nats[n] -= std::log(plain);
      baseline.kneser_ney[n] -= std::log(known ? model.plain[n].Probability(key, lower) : lower);
      if (known && n + 1 < orders) lower = model.contexts[n].Probability(key, lower);
    }
    ++baseline.scored_on;
  });
  const double count = std::max(1.0, static_cast<double>(baseline.scored_on));
  for (double& nats : baseline.nats) nats /= count;
  for (double& nats : baseline.kneser_ney) nats /= count;
  return baseline;
}

}  // namespace mneme
