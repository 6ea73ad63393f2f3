#include "parallel/parameter.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/region_cut.h"

namespace mneme {
namespace {

// Numbers drawn at once of what other ranks own.
constexpr int64_t kDrawn = int64_t{1} << 20;

size_t RegionIndex(View view, UpdateKind kind, Reading reading) {
  return static_cast<size_t>(view) * 4 + static_cast<size_t>(kind) * 2 +
         static_cast<size_t>(reading);
}

int64_t Aligned(int64_t n) {
  return (n + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
}

// Multiplications of one Newton-Schulz iteration, up to a factor.
int64_t MatrixCost(const Piece& piece) {
  return piece.rows * piece.cols * std::min(piece.rows, piece.cols);
}

std::vector<int64_t> Cut(const Region& region, int parts) {
  std::vector<Stretch> stretches;
  for (const Parameter* parameter : region.parameters) {
    for (const Piece& piece : parameter->pieces) {
      stretches.push_back({parameter->region_offset + piece.offset, piece.elements(), piece.cols,
                           MatrixCost(piece)});
    }
  }
  return region.kind == UpdateKind::kMuon ? CutByCost(stretches, region.elements, parts)
                                          : CutByElements(stretches, region.elements, parts);
}

// Elements of a piece from `first` on.
void Fill(Stream& stream, const Kernels& kernels, const Piece& piece, uint64_t seed, int64_t first,
          Tensor to) {
  switch (piece.init.kind) {
    case Init::Kind::kConstant:
      kernels.fill(stream, piece.init.value, to);
      return;
    case Init::Kind::kNormal:
      kernels.normal_rows(stream, MakeKey(seed, piece.name), static_cast<uint64_t>(first),
                          piece.init.value, to);
      return;
    case Init::Kind::kValues:
      CHECK_EQ(static_cast<int64_t>(piece.init.values.size()), piece.elements());
      DispatchReal(to.dtype(), [&](auto zero) {
        const auto begin = piece.init.values.begin() + first;
        const std::vector<decltype(zero)> host(begin, begin + to.elements());
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

Region& ParameterStore::RegionOf(const Parameter& parameter) {
  const bool rounds = dtype_ != Accurate(dtype_);
  const Reading reading = rounds ? parameter.reading : Reading::kAccurate;
  return region(parameter.view, parameter.kind, reading);
}

void ParameterStore::LayOut(DType dtype, const Layout& layout, int rank) {
  dtype_ = dtype;
  for (View view : {View::kDense, View::kExpert}) {
    for (UpdateKind kind : {UpdateKind::kMuon, UpdateKind::kAdamW}) {
      for (Reading reading : {Reading::kRounded, Reading::kAccurate}) {
        Region& fresh = region(view, kind, reading);
        fresh = Region();
        fresh.view = view;
        fresh.kind = kind;
        fresh.reading = reading;
      }
    }
  }
  // Of one decay together, so that an update of neighbours is one call. Few and small ones do not
  // decay: in front, where gradients are complete last anyway.
  for (const bool decays : {false, true}) {
    for (const auto& parameter : parameters_) {
      if (parameter->pieces.front().decays != decays) continue;
      Region& of = RegionOf(*parameter);
      parameter->region_offset = of.elements;
      of.elements += Aligned(parameter->shape.elements());
      of.parameters.push_back(parameter.get());
    }
  }
  for (Region& region : regions_) {
    const bool dense = region.view == View::kDense;
    region.counts = Cut(region, dense ? layout.world : layout.expert_replicas());
    const auto me = static_cast<size_t>(MemberOf(region.view, layout, rank));
    for (size_t r = 0; r < me; ++r) region.owned.begin += region.counts[r];
    region.owned.end = region.owned.begin + region.counts[me];
  }
}

void ParameterStore::Allocate(Stream& stream, DType dtype, const Layout& layout, int rank) {
  LayOut(dtype, layout, rank);
  const DType accurate = Accurate(dtype);
  for (Region& region : regions_) {
    const Shape all = {region.elements};
    const auto [begin, end] = region.owned;
    region.read =
        Tensor::Zeros(stream, region.rounded() ? dtype : accurate, all, MemoryTag::kParameters);
    region.master = region.rounded()
                        ? Tensor::Zeros(stream, accurate, {end - begin}, MemoryTag::kParameters)
                        : region.read.Flat(begin, end);
    region.grad = Tensor::Zeros(stream, accurate, all, MemoryTag::kGradients);
  }
  for (const auto& parameter : parameters_) {
    Region& region = RegionOf(*parameter);
    const int64_t begin = parameter->region_offset;
    const int64_t end = begin + parameter->shape.elements();
    parameter->value = region.read.Flat(begin, end).Reshape(parameter->shape);
    parameter->grad = region.grad.Flat(begin, end).Reshape(parameter->shape);
  }
}

void ParameterStore::Initialize(Stream& stream, const Kernels& kernels, uint64_t seed) {
  Tensor drawn;
  for (Region& region : regions_) {
    const auto [first, last] = region.owned;
    // Calls draw(piece, its first element, element of the region, number) for the slices of a
    // range.
    const auto each = [&](Range range, const auto& draw) {
      for (const Region::Slice& slice : region.Slices(range)) {
        const int64_t cols = slice.piece->cols;
        draw(*slice.piece, slice.row_begin * cols, slice.region_begin,
             (slice.row_end - slice.row_begin) * cols);
      }
    };
    each(region.owned, [&](const Piece& piece, int64_t element, int64_t at, int64_t count) {
      Fill(stream, kernels, piece, seed, element,
           region.master.Flat(at - first, at - first + count));
    });
    for (const Range others : {Range{0, first}, Range{last, region.elements}}) {
      each(others, [&](const Piece& piece, int64_t element, int64_t at, int64_t count) {
        if (!region.rounded())
          return Fill(stream, kernels, piece, seed, element, region.read.Flat(at, at + count));
        if (!drawn.defined())
          drawn = Tensor::Empty(stream, Accurate(dtype_), {kDrawn}, MemoryTag::kWorkspace);
        for (int64_t done = 0; done < count; done += kDrawn) {
          const int64_t now = std::min(kDrawn, count - done);
          const Tensor some = drawn.Flat(0, now);
          Fill(stream, kernels, piece, seed, element + done, some);
          Tensor to = region.read.Flat(at + done, at + done + now);
          kernels.cast(stream, some, to);
        }
      });
    }
  }
  RoundMasters(stream, kernels);
}

void ParameterStore::RoundMasters(Stream& stream, const Kernels& kernels) {
  for (Region& region : regions_) {
    if (!region.rounded() || region.owned.size() == 0) continue;
    Tensor read = region.read.Flat(region.owned.begin, region.owned.end);
    kernels.cast(stream, region.master, read);
  }
}

void ParameterStore::ZeroGradients(Stream& stream) {
  for (Region& region : regions_) Zero(stream, region.grad);
}

Region& ParameterStore::region(View view, UpdateKind kind, Reading reading) {
  return regions_[RegionIndex(view, kind, reading)];
}

std::vector<Region*> ParameterStore::regions() {
  std::vector<Region*> out;
  for (Region& region : regions_) out.push_back(&region);
  return out;
}

int MemberOf(View view, const Layout& layout, int rank) {
  return view == View::kDense ? rank : layout.expert_replica(rank);
}

}  // namespace mneme
