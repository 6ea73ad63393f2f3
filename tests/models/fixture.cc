#include "tests/models/fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace mneme::test {

Rank::Rank(World& world, const Layout& layout, DType dtype)
    : pool(Device{}),
      stream(Device{}, pool),
      mesh(MakeMesh(world, layout)),
      context{CpuKernels(), stream, mesh, dtype} {}

void OnOneRank(DType dtype, const std::function<void(Rank&)>& body) {
  ThreadWorld::Run(1, [&](World& world) {
    Rank rank(world, Layout{}, dtype);
    body(rank);
  });
}

double GetValue(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::kF32:
      return t.data<float>()[i];
    case DType::kF64:
      return t.data<double>()[i];
    case DType::kI32:
      return t.data<int32_t>()[i];
    default:
      return static_cast<double>(t.data<int64_t>()[i]);
  }
}

void SetValue(Tensor t, int64_t i, double value) {
  DispatchReal(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    t.data<T>()[i] = static_cast<T>(value);
  });
}

std::vector<double> Values(const Tensor& t) {
  std::vector<double> values(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = GetValue(t, static_cast<int64_t>(i));
  return values;
}

Tensor MakeTensor(Context& c, Shape shape, const std::vector<double>& values) {
  Tensor t = c.Empty(shape);
  CHECK_EQ(t.elements(), static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) SetValue(t, static_cast<int64_t>(i), values[i]);
  return t;
}

Tensor MakeIds(Context& c, Shape shape, const std::vector<int32_t>& values) {
  Tensor t = Tensor::Empty(c.stream, DType::kI32, shape);
  Upload(c.stream, values.data(), t.bytes(), t);
  return t;
}

Tensor RandomTensor(Context& c, Shape shape, const std::string& name, double std) {
  Tensor t = c.Empty(shape);
  const RandomKey key = MakeKey(7, name);
  for (int64_t i = 0; i < t.elements(); ++i) {
    SetValue(t, i, std * RandomNormal(key, static_cast<uint64_t>(i)));
  }
  return t;
}

MicroBatch HostBatch::Slice(Context& c, int64_t begin, int64_t end) const {
  const auto cut = [&](const std::vector<int32_t>& v) {
    const std::vector<int32_t> part(v.begin() + begin * length, v.begin() + end * length);
    return MakeIds(c, {(end - begin) * length}, part);
  };
  MicroBatch batch;
  batch.rows = end - begin;
  batch.length = length;
  batch.tokens = cut(tokens);
  batch.targets = cut(targets);
  batch.doc_start = cut(doc_start);
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < batch.rows * length; ++i) {
    positions.push_back(static_cast<int32_t>(i % length));
  }
  batch.positions = MakeIds(c, {batch.rows * length}, positions);
  return batch;
}

int64_t HostBatch::counted() const {
  return std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; });
}

HostBatch RandomBatch(int64_t rows, int64_t length, int64_t vocabulary, bool documents) {
  const RandomKey key = MakeKey(11, "batch");
  HostBatch batch;
  batch.rows = rows;
  batch.length = length;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t cut = documents ? length / 2 : 0;
    for (int64_t t = 0; t < length; ++t) {
      const uint64_t i = static_cast<uint64_t>(r * (length + 1) + t);
      batch.tokens.push_back(static_cast<int32_t>(RandomInt(key, i, vocabulary)));
      const bool counted = !documents || t + 1 != cut;
      batch.targets.push_back(counted ? static_cast<int32_t>(RandomInt(key, i + 1, vocabulary))
                                      : -1);
      batch.doc_start.push_back(static_cast<int32_t>(t >= cut ? cut : 0));
    }
  }
  return batch;
}

Vocabulary PlainVocabulary(int64_t size) {
  Vocabulary vocabulary;
  vocabulary.size = size;
  vocabulary.canonical_size = size;
  vocabulary.pad = 2;
  for (int64_t i = 0; i < size; ++i) vocabulary.canonical.push_back(static_cast<int32_t>(i));
  return vocabulary;
}

ModelConfig TinyModel() {
  ModelConfig model;
  model.vocab_size = 23;
  model.layers = 3;
  model.hidden = 7;
  model.dense_width = 9;
  model.leading_dense = 1;
  model.mla = {.heads = 2, .kv_lora_rank = 5, .qk_nope = 3, .qk_rope = 4, .v_head = 5};
  model.mhc.streams = 4;
  model.mhc.init = "uniform";
  model.moe.experts = 5;
  model.moe.shared = 2;
  model.moe.top_k = 2;
  model.moe.expert_width = 3;
  model.moe.sequence_balance = 0.05;
  model.engram.blocks = {0, 2};
  model.engram.heads = 2;
  model.engram.d_mem = 12;
  model.engram.vocab_size = {17};
  model.engram.table.init_std = 0.7;
  return model;
}

void Randomise(ParameterStore& store) {
  for (const auto& parameter : store.parameters()) {
    for (const Piece& piece : parameter->pieces) {
      const RandomKey key = MakeKey(5, piece.name);
      const bool matrix = piece.init.kind == Init::Kind::kNormal;
      for (int64_t i = 0; i < piece.elements(); ++i) {
        double mean = 0.0;
        if (piece.init.kind == Init::Kind::kConstant) mean = piece.init.value;
        if (piece.init.kind == Init::Kind::kValues) {
          mean = piece.init.values[static_cast<size_t>(i)];
        }
        SetValue(parameter->value, piece.offset + i,
                 mean + (matrix ? 0.5 : 0.3) * RandomNormal(key, static_cast<uint64_t>(i)));
      }
    }
  }
}

void CollectOwnedGradients(ParameterStore& store, Pieces& out) {
  for (Region* region : store.regions()) {
    for (const Region::Slice& slice : region->Slices(region->owned)) {
      std::vector<double>& piece = out[slice.piece->name];
      piece.resize(static_cast<size_t>(slice.piece->elements()));
      const int64_t begin = slice.row_begin * slice.piece->cols;
      const int64_t end = slice.row_end * slice.piece->cols;
      for (int64_t i = begin; i < end; ++i) {
        piece[static_cast<size_t>(i)] += GetValue(region->grad, slice.region_begin + i - begin);
      }
    }
  }
}

Pieces Gradients(ParameterStore& store) {
  Pieces out;
  for (const auto& parameter : store.parameters()) {
    const std::vector<double> all = Values(parameter->grad);
    for (const Piece& piece : parameter->pieces) {
      const auto begin = all.begin() + piece.offset;
      out[piece.name] = std::vector<double>(begin, begin + piece.elements());
    }
  }
  return out;
}

double RelativeError(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return a.size() == b.size() ? std::sqrt(difference / std::max(size, 1e-300)) : 1e300;
}

void ExpectGradient(const std::string& what, const Tensor& value, const Tensor& grad,
                    const std::function<double()>& loss, double tolerance, int64_t count) {
  const double h = 2e-4;
  const int64_t n = value.elements();
  // Odd, so that rows of an even width are not met in one column only.
  const int64_t step = std::max<int64_t>(1, n / count) | 1;
  std::vector<double> analytic;
  std::vector<double> numeric;
  for (int64_t i = 0; i < n; i += step) {
    const double kept = GetValue(value, i);
    const auto at = [&](double shift) {
      SetValue(value, i, kept + shift);
      return loss();
    };
    const double derivative = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
    SetValue(value, i, kept);
    numeric.push_back(derivative);
    analytic.push_back(GetValue(grad, i));
  }
  double size = 0.0;
  for (double d : numeric) size += d * d;
  EXPECT_GT(std::sqrt(size), 1e-5) << what << " has no gradient to compare";
  EXPECT_LT(RelativeError(analytic, numeric), tolerance) << what;
}

void ExpectParameterGradients(ParameterStore& store, const std::function<double()>& loss,
                              double tolerance, int64_t count) {
  // The loss may add to any gradient while it is evaluated.
  std::map<std::string, std::vector<double>> before;
  for (const auto& parameter : store.parameters()) {
    before[parameter->name] = Values(parameter->grad);
  }
  for (const auto& parameter : store.parameters()) {
    const Tensor grad =
        Tensor::Wrap(before[parameter->name].data(), DType::kF64, parameter->grad.shape());
    ExpectGradient(parameter->name, parameter->value, grad, loss, tolerance, count);
  }
}

}  // namespace mneme::test
