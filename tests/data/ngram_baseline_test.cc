#include "data/ngram_baseline.h"

#include <array>
#include <cmath>
#include <map>

#include "gmock/gmock.h"
#include "tests/data/corpora.h"

namespace mneme {
namespace {

class NgramTest : public CorpusScratch {
 protected:
  std::shared_ptr<const Corpus> Of(const std::string& name, const std::string& text) {
    PrepareOptions options = Options({Put(name + ".txt", text)});
    options.output = Path(name);
    options.blank_lines = 1;
    return Prepared(options);
  }
};

// A source that needs exactly `order` − 1 symbols of context: the next letter is drawn evenly from
// two that depend on the two before.
std::string Source(int length, unsigned seed) {
  std::string text = "ab";
  unsigned state = seed;
  for (int i = 2; i < length; ++i) {
    state = state * 1664525u + 1013904223u;
    const int a = text[text.size() - 2] - 'a';
    const int b = text[text.size() - 1] - 'a';
    text.push_back(
        static_cast<char>('a' + (3 * a + 5 * b + 4 * static_cast<int>(state >> 31)) % 8));
  }
  return text;
}

TEST_F(NgramTest, ReachesTheEntropyOfTheSourceAtItsOrder) {
  const auto train = Of("train", Source(200000, 1));
  const auto held_out = Of("held", Source(50000, 2));
  const auto baseline = FitNgrams(*train, *held_out, 5);
  ASSERT_TRUE(baseline.ok()) << baseline.status();
  for (const auto& nats : {baseline->nats, baseline->kneser_ney}) {
    ASSERT_EQ(nats.size(), 5u);
    EXPECT_NEAR(nats[2], std::log(2.0), 0.002);
    EXPECT_NEAR(nats[3], std::log(2.0), 0.01);
    EXPECT_GT(nats[1], std::log(2.0) + 0.3);
    EXPECT_GT(nats[0], nats[1]);
  }
  EXPECT_EQ(baseline->scored_on, 50000);  // 50,000 letters and the end, but for the first
  EXPECT_EQ(baseline->trained_on, 200001);
}

// The header's formula again, by scanning the training documents for every probability.
class Naive {
 public:
  using Text = std::vector<int>;

  explicit Naive(const std::vector<Text>& documents) : documents_(documents) {}

  // Of `w` after context h, by the model of order h.size() + 1; `top`: its highest order counts
  // plainly.
  double Probability(const Text& h, int w, bool kneser_ney, bool top) const {
    const double uniform = 1.0 / 258;
    const double lower =
        h.empty() ? uniform : Probability(Text(h.begin() + 1, h.end()), w, kneser_ney, false);
    const bool contexts = kneser_ney && !top;
    std::map<Text, double> counts;
    for (const auto& [gram, count] : Grams(h.size() + 1)) counts[gram] = count;
    if (contexts) {
      counts.clear();
      for (const auto& [gram, count] : Grams(h.size() + 2))
        counts[Text(gram.begin() + 1, gram.end())] += 1;
    }
    std::array<double, 5> of{};
    for (const auto& [gram, count] : counts) {
      if (count <= 4) of[static_cast<size_t>(count)] += 1;
    }
    const auto discount = [&](double count) {
      const auto i = static_cast<size_t>(std::min(count, 3.0));
      const double c = static_cast<double>(i);
      const double d = c - (c + 1) * of[1] / (of[1] + 2 * of[2]) * of[i + 1] / of[i];
      return d > 0 && d < c ? d : 0.5;
    };
    double total = 0;
    double freed = 0;
    double mine = 0;
    for (const auto& [gram, count] : counts) {
      if (!std::equal(h.begin(), h.end(), gram.begin())) continue;
      total += count;
      freed += discount(count);
      if (gram.back() == w) mine = count - discount(count);
    }
    return total == 0 ? lower : (mine + freed * lower) / total;
  }

 private:
  std::map<Text, double> Grams(size_t n) const {
    std::map<Text, double> grams;
    for (const Text& text : documents_) {
      for (size_t i = 0; i + n <= text.size(); ++i) {
        grams[Text(text.begin() + static_cast<int>(i), text.begin() + static_cast<int>(i + n))] +=
            1;
      }
    }
    return grams;
  }
  const std::vector<Text> documents_;
};

TEST_F(NgramTest, AgreesWithTheFormulaAndSumsToOne) {
  const auto ids = [](const std::string& text) {
    Naive::Text out(text.begin(), text.end());
    out.push_back(256);
    return out;
  };
  const Naive naive({ids("abracadabra abracadabra arba dacarba\n"), ids("xyz abra abrax")});
  const auto train = Of("train", "abracadabra abracadabra arba dacarba\n\nxyz abra abrax");
  const std::string text = "abraq xzabra";
  const auto fit = FitNgrams(*train, *Of("held", text), 3);
  ASSERT_TRUE(fit.ok());
  const Naive::Text held = ids(text);
  for (const bool kneser_ney : {false, true}) {
    for (size_t order = 1; order <= 3; ++order) {
      double nats = 0.0;
      for (size_t i = 1; i < held.size(); ++i) {
        // At the begin of the document shorter orders do; there Kneser and Ney's highest is the
        // document's length.
        const size_t n = std::min(order, i + 1);
        const Naive::Text h(held.begin() + static_cast<int>(i + 1 - n),
                            held.begin() + static_cast<int>(i));
        nats -= std::log(naive.Probability(h, held[i], kneser_ney, n == order));
        if (i == 4 || i == 6) {
          double sum = 0.0;
          for (int w = 0; w < 258; ++w) sum += naive.Probability(h, w, kneser_ney, n == order);
          EXPECT_NEAR(sum, 1.0, 1e-12);
        }
      }
      const auto& mine = kneser_ney ? fit->kneser_ney : fit->nats;
      EXPECT_NEAR(mine[order - 1] * static_cast<double>(held.size() - 1), nats, 1e-9)
          << kneser_ney << " " << order;
    }
  }
}

TEST_F(NgramTest, ContextStopsAtDocuments) {
  const auto train = Of("train", Source(3000, 1) + "\n\n" + Source(500, 3));
  const std::string one = Source(40, 7) + "\n";
  const std::string two = Source(60, 9) + "\n";
  const auto cost = [&](const std::string& name, const std::string& text) {
    const auto fit = FitNgrams(*train, *Of(name, text), 4);
    EXPECT_TRUE(fit.ok());
    return fit->nats[3] * static_cast<double>(fit->scored_on);
  };
  EXPECT_NEAR(cost("both", one + "\n" + two), cost("one", one) + cost("two", two), 1e-9);
}

TEST_F(NgramTest, TextWithoutRepetitionIsNoTrouble) {
  const auto train = Of("train", "q");
  const auto baseline = FitNgrams(*train, *Of("held", "zz top"), 7);
  ASSERT_TRUE(baseline.ok());
  for (const double nats : baseline->nats) EXPECT_TRUE(std::isfinite(nats));
  for (const double nats : baseline->kneser_ney) EXPECT_TRUE(std::isfinite(nats));
}

TEST_F(NgramTest, OrdersOutsideTheRangeAreRefused) {
  const auto train = Of("train", "abc");
  for (const int64_t order : {0, 8}) {
    EXPECT_EQ(FitNgrams(*train, *train, order).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(NgramTest, IdsMadeElsewhereAreRefused) {
  PrepareOptions options = Options({Put("ids.npy", Npy<uint16_t>({3, 4, 0}, "<u2"))});
  options.ids.eos = 0;
  options.ids.vocabulary = 300;
  options.ids.text_bytes = 10;
  const auto external = Prepared(options);
  EXPECT_EQ(FitNgrams(*external, *external, 3).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mneme
