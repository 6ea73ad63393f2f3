#include "parallel/parameter.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/region_cut.h"

namespace mneme {
namespace {

size_t RegionIndex(View view, UpdateKind kind) {
  return static_cast<size_t>(view) * 2 + static_cast<size_t>(kind);
}

int64_t Aligned(int64_t n) {
  return (n + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
}

// Multiplications of one Newton-Schulz iteration, up to a factor.
int64_t MatrixCost(const Piece& piece) {
  return piece.rows * piece.cols * std::min(piece.rows, piece.cols);
}

std::vector<int64_t> Cut(const Region& region, int64_t total, int parts) {
  std::vector<Stretch> stretches;
  for (const Parameter* parameter : region.parameters) {
    for (const Piece& piece : parameter->pieces) {
      stretches.push_back({parameter->region_offset + piece.offset, piece.elements(), piece.cols,
                           MatrixCost(piece)});
    }
  }
  return region.kind == UpdateKind::kMuon ? CutByCost(stretches, total, parts)
                                          : CutByElements(stretches, total, parts);
}

void Fill(Stream& stream, const Kernels& kernels, const Piece& piece, uint64_t seed, Tensor to) {
  switch (piece.init.kind) {
    case Init::Kind::kConstant:
      kernels.fill(stream, piece.init.value, to);
      return;
    case Init::Kind::kNormal:
      kernels.normal_rows(stream, MakeKey(seed, piece.name), 0, piece.init.value, to);
      return;
    case Init::Kind::kValues:
      CHECK_EQ(static_cast<int64_t>(piece.init.values.size()), piece.elements());
      DispatchReal(to.dtype(), [&](auto zero) {
        const std::vector<decltype(zero)> host(piece.init.values.begin(), piece.init.values.end());
        Upload(stream, host.data(), to.bytes(), to);
      });
      return;
  }
}

}  // namespace

std::vector<Region::Slice> Region::Slices(Range range) const {
  std::vector<Slice> slices;
  for (const Parameter* parameter : parameters) {
    for (const Piece& piece : parameter->pieces) {
      const int64_t begin = parameter->region_offset + piece.offset;
      const int64_t first = std::max(range.begin, begin);
      const int64_t last = std::min(range.end, begin + piece.elements());
      if (first >= last) continue;
      CHECK_EQ((first - begin) % piece.cols, int64_t{0});
      CHECK_EQ((last - begin) % piece.cols, int64_t{0});
      slices.push_back(
          {parameter, &piece, first, (first - begin) / piece.cols, (last - begin) / piece.cols});
    }
  }
  return slices;
}

Parameter* ParameterStore::Declare(std::string name, Shape shape, View view, UpdateKind kind,
                                   std::vector<Piece> pieces, Reading reading) {
  auto parameter = std::make_unique<Parameter>();
  parameter->name = std::move(name);
  parameter->shape = shape;
  parameter->view = view;
  parameter->kind = kind;
  parameter->reading = reading;
  parameter->pieces = std::move(pieces);
  int64_t offset = 0;
  for (Piece& piece : parameter->pieces) {
    CHECK(piece.rows > 0 && piece.cols > 0);
    piece.offset = offset;
    offset += piece.elements();
  }
  CHECK_EQ(offset, shape.elements());
  parameters_.push_back(std::move(parameter));
  return parameters_.back().get();
}

void ParameterStore::Allocate(Stream& stream, DType dtype, const Layout& layout, int rank) {
  dtype_ = dtype;
  const DType accurate = Accurate(dtype);
  int64_t totals[kRegions] = {};
  for (Region& region : regions_) region = Region();
  for (const auto& parameter : parameters_) {
    const size_t index = RegionIndex(parameter->view, parameter->kind);
    parameter->region_offset = totals[index];
    totals[index] += Aligned(parameter->shape.elements());
    regions_[index].parameters.push_back(parameter.get());
  }
  for (View view : {View::kDense, View::kExpert}) {
    const bool dense = view == View::kDense;
    const int members = dense ? layout.world : layout.expert_replicas();
    const auto me = static_cast<size_t>(dense ? rank : layout.expert_replica(rank));
    for (UpdateKind kind : {UpdateKind::kMuon, UpdateKind::kAdamW}) {
      const size_t index = RegionIndex(view, kind);
      Region& region = regions_[index];
      region.view = view;
      region.kind = kind;
      const Shape shape = {totals[index]};
      region.value = Tensor::Zeros(stream, accurate, shape, MemoryTag::kParameters);
      region.grad = Tensor::Zeros(stream, accurate, shape, MemoryTag::kGradients);
      if (dtype != accurate) {
        region.copy = Tensor::Zeros(stream, dtype, shape, MemoryTag::kParameters);
      }
      region.counts = Cut(region, totals[index], members);
      for (size_t r = 0; r < me; ++r) region.owned.begin += region.counts[r];
      region.owned.end = region.owned.begin + region.counts[me];
    }
  }
  for (const auto& parameter : parameters_) {
    Region& region = regions_[RegionIndex(parameter->view, parameter->kind)];
    const int64_t begin = parameter->region_offset;
    const int64_t end = begin + parameter->shape.elements();
    const bool rounded = region.copy.defined() && parameter->reading == Reading::kRounded;
    const Tensor& value = rounded ? region.copy : region.value;
    parameter->value = value.Flat(begin, end).Reshape(parameter->shape);
    parameter->grad = region.grad.Flat(begin, end).Reshape(parameter->shape);
  }
}

void ParameterStore::Initialize(Stream& stream, const Kernels& kernels, uint64_t seed) {
  for (const auto& parameter : parameters_) {
    Region& region = regions_[RegionIndex(parameter->view, parameter->kind)];
    for (const Piece& piece : parameter->pieces) {
      const int64_t begin = parameter->region_offset + piece.offset;
      Fill(stream, kernels, piece, seed, region.value.Flat(begin, begin + piece.elements()));
    }
  }
  RoundCopies(stream, kernels);
}

void ParameterStore::RoundCopies(Stream& stream, const Kernels& kernels) {
  for (Region& region : regions_) {
    if (region.copy.defined() && region.copy.elements() > 0)
      kernels.cast(stream, region.value, region.copy);
  }
}

void ParameterStore::ZeroGradients(Stream& stream) {
  for (Region& region : regions_) Zero(stream, region.grad);
}

Region& ParameterStore::region(View view, UpdateKind kind) {
  return regions_[RegionIndex(view, kind)];
}

std::vector<Region*> ParameterStore::regions() {
  std::vector<Region*> out;
  for (Region& region : regions_) out.push_back(&region);
  return out;
}

}  // namespace mneme
