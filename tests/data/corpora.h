// Small corpora for tests.
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/prepare.h"
#include "tests/data/scratch.h"

namespace mneme {

// A .npy file of format 1.0 as numpy writes it.
template <class T>
std::string Npy(const std::vector<T>& values, const std::string& dtype,
                const std::string& order = "False", const std::string& shape = "") {
  std::string header = "{'descr': '" + dtype + "', 'fortran_order': " + order + ", 'shape': " +
                       (shape.empty() ? "(" + std::to_string(values.size()) + ",)" : shape) + ", }";
  header += std::string(117 - header.size() % 64, ' ') + "\n";
  const std::string length = {static_cast<char>(header.size() & 255),
                              static_cast<char>(header.size() >> 8)};
  return std::string("\x93NUMPY\x01\x00", 8) + length + header +
         std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

class CorpusScratch : public Scratch {
 protected:
  PrepareOptions Options(const std::vector<std::string>& inputs) const {
    PrepareOptions options;
    options.inputs = inputs;
    options.output = Path("corpus");
    return options;
  }
  std::shared_ptr<const Corpus> Prepared(const PrepareOptions& options) const {
    const auto report = Prepare(options);
    EXPECT_TRUE(report.ok()) << report.status();
    return Opened(options.output);
  }
  static std::shared_ptr<const Corpus> Opened(const std::string& folder) {
    auto corpus = Corpus::Open(folder);
    EXPECT_TRUE(corpus.ok()) << corpus.status();
    return *corpus;
  }
  // All ids, and with `documents` the number of each one's document.
  static std::vector<int32_t> Ids(const Corpus& corpus, std::vector<int64_t>* documents = nullptr) {
    std::vector<int32_t> ids(static_cast<size_t>(corpus.tokens()));
    std::vector<int64_t> numbers(ids.size());
    corpus.Read(0, absl::MakeSpan(ids), absl::MakeSpan(numbers));
    if (documents != nullptr) *documents = numbers;
    return ids;
  }
  // The documents of a byte corpus as text, the end of each as "|".
  static std::string Text(const Corpus& corpus) {
    std::string text;
    for (const int32_t id : Ids(corpus)) text.push_back(id == 256 ? '|' : static_cast<char>(id));
    return text;
  }
  std::vector<std::string> Names(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / folder)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
};

}  // namespace mneme
