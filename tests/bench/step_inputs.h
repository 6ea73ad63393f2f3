// What the benchmarks of a whole step feed it: tokens that mean nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "data/corpus.h"
#include "kernels/core/random.h"
#include "kernels/core/tensor.h"
#include "models/context.h"

namespace mneme::bench {

// Every id is its own canonical id.
inline VocabularyInfo PlainVocabulary(int64_t size) {
  VocabularyInfo v;
  v.size = size;
  v.eos = 0;
  v.pad = 1;
  for (int64_t i = 0; i < size; ++i) v.canonical.push_back(static_cast<int32_t>(i));
  v.canonical_size = size;
  return v;
}

// One micro-batch of `rows` x `length` random tokens on the stream's device, another for each rank.
inline MicroBatch RandomBatch(Stream& stream, int64_t rows, int64_t length, int64_t vocab,
                              int rank) {
  const int64_t count = rows * length;
  const RandomKey key = MakeKey(static_cast<uint64_t>(rank), "tokens");
  const auto lift = [&](const auto& value) {
    std::vector<int32_t> host;
    for (int64_t t = 0; t < count; ++t) host.push_back(static_cast<int32_t>(value(t)));
    Tensor tensor = Tensor::Empty(stream, DType::kI32, {count}, MemoryTag::kOther);
    Upload(stream, host.data(), tensor.bytes(), tensor);
    return tensor;
  };
  const auto random = [&](uint64_t at) { return RandomInt(key, at, vocab); };
  MicroBatch batch;
  batch.rows = rows;
  batch.length = length;
  batch.tokens = lift([&](int64_t t) { return random(2 * static_cast<uint64_t>(t)); });
  batch.targets = lift([&](int64_t t) { return random(2 * static_cast<uint64_t>(t) + 1); });
  batch.positions = lift([&](int64_t t) { return t % length; });
  batch.doc_start = lift([](int64_t) { return 0; });
  batch.documents = false;
  return batch;
}

}  // namespace mneme::bench
