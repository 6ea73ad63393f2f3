#include "engine/convert/inspect.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kElementsAtOnce = int64_t{1} << 20;

int64_t ElementsOf(const TensorInfo& info) {
  int64_t elements = 1;
  for (const int64_t dim : info.shape) elements *= dim;
  return elements;
}

bool Wanted(const TensorInfo& info, const InspectOptions& options) {
  const bool moment = info.kind.starts_with("adam_") || info.kind == "muon_momentum";
  return (options.moments || !moment) && info.name.find(options.matching) != std::string::npos;
}

absl::StatusOr<TensorStatistics> StatisticsOf(TensorSet& set, size_t tensor) {
  TensorStatistics s;
  bool seen = false;
  double squares = 0.0;
  RETURN_IF_ERROR(set.Scan(tensor, [&](absl::Span<const double> values) {
    double part = 0.0;  // sums of parts: less is lost than in one long sum
    for (const double x : values) {
      if (!std::isfinite(x)) {
        (std::isnan(x) ? s.nans : s.infinities) += 1;
        continue;
      }
      s.least = seen ? std::min(s.least, x) : x;
      s.greatest = seen ? std::max(s.greatest, x) : x;
      seen = true;
      s.zeros += x == 0.0 ? 1 : 0;
      part += x * x;
    }
    squares += part;
    s.count += static_cast<int64_t>(values.size());
  }));
  s.norm = std::sqrt(squares);
  return s;
}

// "key: value" lines as a map.
std::map<std::string, std::string> Lines(const std::string& text) {
  std::map<std::string, std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    const size_t colon = line.find(": ");
    lines[line.substr(0, colon)] = colon == std::string::npos ? "" : line.substr(colon + 2);
    at = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

std::vector<std::string> CompareLines(const std::string& first, const std::string& second) {
  const auto a = Lines(first);
  const auto b = Lines(second);
  const auto value = [](const auto& lines, const std::string& key) {
    const auto it = lines.find(key);
    return it == lines.end() ? "(none)" : it->second;
  };
  std::map<std::string, bool> keys;
  for (const auto& [key, unused] : a) keys[key] = true;
  for (const auto& [key, unused] : b) keys[key] = true;
  std::vector<std::string> out;
  for (const auto& [key, unused] : keys) {
    if (value(a, key) != value(b, key))
      out.push_back(key + ": " + value(a, key) + " -> " + value(b, key));
  }
  return out;
}

struct Sums {
  int64_t differing = 0;
  double greatest = 0.0;
  double difference = 0.0;  // sum of squares
  double first = 0.0;

  void Add(absl::Span<const double> a, absl::Span<const double> b) {
    for (size_t i = 0; i < a.size(); ++i) {
      const bool both_nan = std::isnan(a[i]) && std::isnan(b[i]);
      if (std::isfinite(a[i])) first += a[i] * a[i];
      if (a[i] == b[i] || both_nan) continue;
      ++differing;
      const double gap = std::abs(a[i] - b[i]);
      greatest = std::max(greatest, std::isnan(gap) ? INFINITY : gap);
      difference += gap * gap;
    }
  }
  // Of rows of one length those that are marked.
  void AddRows(absl::Span<const double> a, absl::Span<const double> b,
               const std::vector<char>& marked) {
    const size_t row = a.size() / marked.size();
    for (size_t r = 0; r < marked.size(); ++r) {
      if (marked[r] != 0) Add(a.subspan(r * row, row), b.subspan(r * row, row));
    }
  }
};

// Marks the rows of a stretch that at least one of two tables has stored; returns how many.
absl::StatusOr<int64_t> MarkEither(TensorSet& first, size_t i, TensorSet& second, size_t j,
                                   int64_t begin, std::vector<char>& stored) {
  std::fill(stored.begin(), stored.end(), char{0});
  RETURN_IF_ERROR(first.MarkStored(i, begin, absl::MakeSpan(stored)));
  RETURN_IF_ERROR(second.MarkStored(j, begin, absl::MakeSpan(stored)));
  return std::count(stored.begin(), stored.end(), char{1});
}

absl::StatusOr<TensorDifference> CompareTensor(TensorSet& first, size_t i, TensorSet& second,
                                               size_t j) {
  const TensorInfo& a = first.tensors()[i];
  const TensorInfo& b = second.tensors()[j];
  TensorDifference out{a.name, a.kind, "", 0, 0.0, 0.0, 0};
  if (a.shape != b.shape) {
    out.why = "another shape";
    return out;
  }
  if (a.dtype != b.dtype) out.why = a.dtype + " and " + b.dtype;
  const bool tables = a.stored_rows >= 0 && b.stored_rows >= 0;
  const bool alike = tables && a.dtype == b.dtype && a.first_values == b.first_values;
  const int64_t elements = ElementsOf(a);
  const int64_t row = a.shape.empty() || a.shape[0] == 0 ? 1 : elements / a.shape[0];
  const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / std::max<int64_t>(row, 1)) * row;
  std::vector<double> x, y;
  std::vector<char> counted;  // rows
  Sums sums;
  for (int64_t begin = 0; begin < elements; begin += at_once) {
    const int64_t end = std::min(elements, begin + at_once);
    counted.assign(static_cast<size_t>((end - begin) / row), 1);
    if (alike) {
      ASSIGN_OR_RETURN(const int64_t count, MarkEither(first, i, second, j, begin / row, counted));
      out.rows_left_out += static_cast<int64_t>(counted.size()) - count;
      if (count == 0) continue;
    }
    x.resize(static_cast<size_t>(end - begin));
    y.resize(x.size());
    RETURN_IF_ERROR(first.Read(i, begin, absl::MakeSpan(x)));
    RETURN_IF_ERROR(second.Read(j, begin, absl::MakeSpan(y)));
    sums.AddRows(x, y, counted);
  }
  out.differing = sums.differing;
  out.greatest = sums.greatest;
  out.relative = sums.first > 0.0     ? std::sqrt(sums.difference / sums.first)
                 : sums.differing > 0 ? INFINITY
                                      : 0.0;
  return out;
}

}  // namespace

absl::StatusOr<Inspection> Inspect(TensorSet& set, const InspectOptions& options) {
  Inspection out{set.what(), set.path(), set.Facts(), set.Config(), {}};
  for (size_t i = 0; i < set.tensors().size(); ++i) {
    if (!Wanted(set.tensors()[i], options)) continue;
    InspectedTensor tensor{set.tensors()[i], {}};
    if (options.statistics) {
      ASSIGN_OR_RETURN(tensor.statistics, StatisticsOf(set, i));
    }
    out.tensors.push_back(std::move(tensor));
  }
  return out;
}

absl::StatusOr<Comparison> Compare(TensorSet& first, TensorSet& second,
                                   const InspectOptions& options) {
  Comparison out;
  out.first = first.path();
  out.second = second.path();
  out.config = CompareLines(first.Config(), second.Config());
  std::map<std::pair<std::string, std::string>, size_t> there;
  for (size_t j = 0; j < second.tensors().size(); ++j) {
    const TensorInfo& info = second.tensors()[j];
    if (Wanted(info, options)) there[{info.kind, info.name}] = j;
  }
  for (size_t i = 0; i < first.tensors().size(); ++i) {
    const TensorInfo& info = first.tensors()[i];
    if (!Wanted(info, options)) continue;
    const auto it = there.find({info.kind, info.name});
    if (it == there.end()) {
      out.only_in_first.push_back(info.kind + " " + info.name);
      continue;
    }
    ASSIGN_OR_RETURN(TensorDifference difference, CompareTensor(first, i, second, it->second));
    there.erase(it);
    if (difference.differing == 0 && difference.why.empty()) {
      ++out.same;
    } else {
      out.differing.push_back(std::move(difference));
    }
  }
  for (const auto& [key, unused] : there)
    out.only_in_second.push_back(key.first + " " + key.second);
  return out;
}

}  // namespace mneme
