// What the tests of models share: one rank with all it needs, batches, values and the check of a
// gradient against central differences.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "configs/model.h"
#include "kernels/core/random.h"
#include "models/context.h"
#include "models/stack.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/world.h"

namespace mneme::test {

// Pool, stream, mesh and context of one rank.
struct Rank {
  Rank(World& world, const Layout& layout, DType dtype);

  Allocator pool;
  Stream stream;
  Mesh mesh;
  Context context;
  ParameterStore store;
};

// Runs the body on one rank of its own.
void OnOneRank(DType dtype, const std::function<void(Rank&)>& body);

// Host values of a tensor as doubles (f32, f64, i32, i64), and a tensor of the run's dtype from
// them.
std::vector<double> Values(const Tensor& t);
Tensor MakeTensor(Context& c, Shape shape, const std::vector<double>& values);
Tensor MakeIds(Context& c, Shape shape, const std::vector<int32_t>& values);
// mean + std · N(0, 1), keyed by name.
Tensor RandomTensor(Context& c, Shape shape, const std::string& name, double std = 1.0);
void SetValue(Tensor t, int64_t i, double value);
double GetValue(const Tensor& t, int64_t i);

// A batch on the host; Rows [begin, end) of it go to a rank.
struct HostBatch {
  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> tokens, targets, doc_start;

  MicroBatch Slice(Context& c, int64_t begin, int64_t end) const;
  int64_t counted() const;
};
// Random ids; with documents: each row has a second one that begins in its middle, and the last
// target of the first is not counted.
HostBatch RandomBatch(int64_t rows, int64_t length, int64_t vocabulary, bool documents);
// Identity map over the model's ids; pad 2.
Vocabulary PlainVocabulary(int64_t size);

// A tiny model with every part on: 3 blocks, 4 streams, 5 experts, Engram in two blocks, odd sizes.
ModelConfig TinyModel();

// Every piece at a size where all gradients matter, keyed by its name: the same on every layout.
void Randomise(ParameterStore& store);

// Gradient of every piece this rank owns a part of, whole pieces zero elsewhere; added to `out`.
using Pieces = std::map<std::string, std::vector<double>>;
void CollectOwnedGradients(ParameterStore& store, Pieces& out);
Pieces Gradients(ParameterStore& store);  // all pieces, not reduced

// |a - b| / |b| over whole vectors.
double RelativeError(const std::vector<double>& a, const std::vector<double>& b);

// Compares `grad` with central differences (fourth order) of `loss` in up to `count` elements of
// `value`, as vectors.
void ExpectGradient(const std::string& what, const Tensor& value, const Tensor& grad,
                    const std::function<double()>& loss, double tolerance = 1e-5,
                    int64_t count = 10);
// The same for every parameter of a store.
void ExpectParameterGradients(ParameterStore& store, const std::function<double()>& loss,
                              double tolerance = 1e-5, int64_t count = 10);

}  // namespace mneme::test
