#include "engine/evaluation/analyze.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>

#include "configs/json_text.h"
#include "engine/evaluation/score.h"

namespace mneme {
namespace {

struct Sum {
  double gate = 0.0;
  int64_t count = 0;
};

// Sums of one rank by n-gram; ids are fixed-size texts of bytes, so that the map travels simply.
struct GateSums {
  std::map<std::string, Sum> ngrams;
  Sum all;
  std::string first;  // tokens and gates of sequence 0, where this rank has it
};

std::string KeyOf(absl::Span<const int32_t> ids) {
  return std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
}

void Take(const ScoredSequence& scored, int64_t order, GateSums& sums) {
  for (size_t p = 0; p < scored.gates.size(); ++p) {
    const auto begin = static_cast<int64_t>(p) - order + 1;
    if (begin < scored.doc_start[p] || scored.targets[p] < 0) continue;
    sums.all.gate += scored.gates[p];
    ++sums.all.count;
    Sum& sum = sums.ngrams[KeyOf(
        scored.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(order)))];
    sum.gate += scored.gates[p];
    ++sum.count;
  }
  if (scored.sequence != 0) return;
  for (size_t p = 0; p < scored.gates.size(); ++p) {
    const GeneratedToken token{scored.tokens[p], scored.gates[p]};
    sums.first.append(reinterpret_cast<const char*>(&token), sizeof(token));
  }
}

template <class T>
void Put(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <class T>
T Get(const std::string& bytes, size_t& at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  at += sizeof(value);
  return value;
}

std::string Pack(const GateSums& sums) {
  std::string bytes;
  Put(bytes, sums.all);
  Put(bytes, static_cast<int64_t>(sums.first.size()));
  bytes += sums.first;
  for (const auto& [key, sum] : sums.ngrams) {
    bytes += key;
    Put(bytes, sum);
  }
  return bytes;
}

// Adds a rank's sums to the whole, ranks in their order.
void Unpack(const std::string& bytes, int64_t order, GateSums& sums) {
  size_t at = 0;
  const auto add = [](Sum& to, const Sum& from) {
    to.gate += from.gate;
    to.count += from.count;
  };
  add(sums.all, Get<Sum>(bytes, at));
  const auto first = static_cast<size_t>(Get<int64_t>(bytes, at));
  sums.first += bytes.substr(at, first);
  at += first;
  const size_t key_bytes = static_cast<size_t>(order) * sizeof(int32_t);
  while (at < bytes.size()) {
    const std::string key = bytes.substr(at, key_bytes);
    at += key_bytes;
    add(sums.ngrams[key], Get<Sum>(bytes, at));
  }
}

std::vector<NgramGate> Largest(const GateSums& sums, const AnalyzeOptions& options) {
  std::vector<NgramGate> all;
  for (const auto& [key, sum] : sums.ngrams) {
    if (sum.count < options.least) continue;
    NgramGate& ngram = all.emplace_back();
    ngram.ids.resize(key.size() / sizeof(int32_t));
    std::memcpy(ngram.ids.data(), key.data(), key.size());
    ngram.gate = sum.gate / static_cast<double>(sum.count);
    ngram.count = sum.count;
  }
  const auto more = [](const NgramGate& a, const NgramGate& b) {
    return a.gate != b.gate ? a.gate > b.gate : a.ids < b.ids;
  };
  const size_t kept =
      std::min(all.size(), static_cast<size_t>(std::max<int64_t>(0, options.count)));
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept), all.end(), more);
  all.resize(kept);
  return all;
}

// Text and the gate that it is shaded by. A character of several tokens takes their largest gate.
struct ShadedText {
  std::string text;
  double gate = 0.0;
};

bool EndsInsideCharacter(const std::string& text) {
  size_t continuation = 0;
  while (continuation < text.size() && continuation < 3 &&
         (static_cast<unsigned char>(text[text.size() - 1 - continuation]) & 0xc0) == 0x80) {
    ++continuation;
  }
  if (continuation == text.size()) return false;
  const auto lead = static_cast<unsigned char>(text[text.size() - 1 - continuation]);
  const size_t needs = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
  return continuation < needs;
}

std::vector<ShadedText> ShadedTexts(const std::vector<GeneratedToken>& tokens,
                                    const Tokenizer* tokenizer) {
  std::vector<ShadedText> pieces;
  ShadedText open;
  for (const GeneratedToken& token : tokens) {
    const std::string text =
        tokenizer != nullptr ? tokenizer->Decode({token.id}) : std::to_string(token.id) + " ";
    // An id that stands for no text is shown by its name.
    open.text += text.empty() && tokenizer != nullptr ? tokenizer->Show(token.id) : text;
    open.gate = std::max(open.gate, token.gate);
    if (EndsInsideCharacter(open.text)) continue;
    open.text = CleanUtf8(open.text);
    pieces.push_back(std::move(open));
    open = ShadedText();
  }
  open.text = CleanUtf8(open.text);
  if (!open.text.empty()) pieces.push_back(std::move(open));
  return pieces;
}

int64_t Columns(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

// 0 to 3 by the place of a gate among all of them, so that some stand out whatever their range.
class Levels {
 public:
  explicit Levels(const std::vector<ShadedText>& pieces) {
    for (const ShadedText& piece : pieces) sorted_.push_back(piece.gate);
    std::sort(sorted_.begin(), sorted_.end());
  }
  int Of(double gate) const {
    const auto below = std::lower_bound(sorted_.begin(), sorted_.end(), gate) - sorted_.begin();
    const double share = static_cast<double>(below) / static_cast<double>(sorted_.size());
    return share >= 0.95 ? 3 : share >= 0.85 ? 2 : share >= 0.7 ? 1 : 0;
  }

 private:
  std::vector<double> sorted_;
};

std::string ShadeColour(const std::vector<ShadedText>& pieces, const Levels& levels) {
  // Backgrounds of the 256-colour palette, with black text on the strong ones.
  static constexpr const char* kBegin[] = {"", "\x1b[48;5;229;30m", "\x1b[48;5;221;30m",
                                           "\x1b[48;5;208;30m"};
  std::string out;
  for (const ShadedText& piece : pieces) {
    const int level = piece.text == "\n" ? 0 : levels.Of(piece.gate);
    out += kBegin[level] + piece.text + (level > 0 ? "\x1b[0m" : "");
  }
  return out + "\n";
}

std::string ShadeMarks(const std::vector<ShadedText>& pieces, const Levels& levels) {
  constexpr int64_t kWidth = 76;
  static constexpr char kMark[] = {' ', '.', ':', '#'};
  std::string out, line, marks;
  const auto flush = [&] {
    marks.erase(marks.find_last_not_of(' ') + 1);
    out += "  " + line + "\n" + (marks.empty() ? "" : "  " + marks + "\n");
    line.clear();
    marks.clear();
  };
  for (const ShadedText& piece : pieces) {
    if (piece.text == "\n") {
      flush();
      continue;
    }
    const int64_t columns = Columns(piece.text);
    if (Columns(line) + columns > kWidth) flush();
    line += piece.text;
    marks += std::string(static_cast<size_t>(columns), kMark[levels.Of(piece.gate)]);
  }
  if (!line.empty()) flush();
  return out;
}

}  // namespace

GateReport AnalyzeGates(World& world, Context& context, Stack& stack, const HeldOut& set,
                        const AnalyzeOptions& options) {
  const std::vector<int64_t>& orders = stack.config().engram.orders;
  CHECK(!stack.config().engram.blocks.empty());
  const int64_t order = options.order > 0 ? options.order : orders.back();
  ScoreOptions score;
  score.sequences = options.sequences;
  score.micro_batch = options.micro_batch;
  score.with_gates = true;
  GateSums mine;
  ScoreSequences(world, context, stack, set, score,
                 [&](const ScoredSequence& scored) { Take(scored, order, mine); });
  GateSums sums;
  for (const std::string& bytes : world.AllGather(Pack(mine))) Unpack(bytes, order, sums);
  GateReport report;
  report.largest = Largest(sums, options);
  report.positions = sums.all.count;
  if (sums.all.count > 0) report.mean = sums.all.gate / static_cast<double>(sums.all.count);
  report.sample.resize(sums.first.size() / sizeof(GeneratedToken));
  std::memcpy(report.sample.data(), sums.first.data(), sums.first.size());
  return report;
}

std::string ShowIds(const std::vector<int32_t>& ids, const Tokenizer* tokenizer) {
  std::string out;
  for (const int32_t id : ids) {
    out +=
        tokenizer != nullptr ? tokenizer->Show(id) : (out.empty() ? "" : " ") + std::to_string(id);
  }
  return tokenizer != nullptr ? "\"" + out + "\"" : "[" + out + "]";
}

std::string ShadeText(const std::vector<GeneratedToken>& tokens, const Tokenizer* tokenizer,
                      bool colour) {
  const std::vector<ShadedText> pieces = ShadedTexts(tokens, tokenizer);
  const Levels levels(pieces);
  return colour ? ShadeColour(pieces, levels) : ShadeMarks(pieces, levels);
}

bool WantsColour(int descriptor) {
  const bool forced = std::getenv("CLICOLOR_FORCE") != nullptr;
  return (forced || isatty(descriptor) != 0) && std::getenv("NO_COLOR") == nullptr;
}

}  // namespace mneme
