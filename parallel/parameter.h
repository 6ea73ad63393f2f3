// Dense and expert parameters: named values with gradients, laid out in a few flat buffers.
//
// A layer declares its parameters when it is built; Allocate() lays them out. A Parameter is what a
// kernel reads (often several logical matrices fused); a Piece is one logical tensor of it, with
// the name that initial values, optimizer, checkpoint and conversion use. Names are the same on
// every layout.
//
// Flat regions. Parameters of one View, one UpdateKind and one Reading stand together, those that
// do not decay first, then in order of declaration, each from a multiple of kParameterAlignment
// elements (the gap holds zeros and belongs to the parameter before it). Within a region each
// member of the view's replica group owns one contiguous range for the optimizer: cut at piece
// borders for matrices (Muon needs whole ones; balanced by Newton-Schulz cost), at rows of a piece
// for AdamW.
//
// Every rank has what kernels read, whole. Accurate values behind rounded ones (masters) stand with
// their owner alone, like the optimizer's moments (arXiv 1910.02054, section 5.1).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/random.h"
#include "kernels/core/tensor.h"
#include "kernels/kernels.h"
#include "parallel/layout.h"

namespace mneme {

enum class View {
  kDense,
  kExpert
};  // replicated over all ranks | over the replicas of the expert axis
enum class UpdateKind { kMuon, kAdamW };
// What kernels read of a parameter: its value rounded to the run's dtype (operands of matrix
// products and lookups), or the accurate value itself (gains, scales, biases, taps). Where the
// run's dtype is accurate, all is read accurately.
enum class Reading { kRounded, kAccurate };
// Of a parameter in its region, in elements. Padding holds zeros, which every update leaves zeros.
inline constexpr int64_t kParameterAlignment = 16;
inline constexpr int kRegions = 8;  // View x UpdateKind x Reading

// First values of a piece.
struct Init {
  enum class Kind { kConstant, kNormal, kValues };
  Kind kind = Kind::kConstant;
  double value = 0.0;          // constant, or standard deviation
  std::vector<double> values;  // kValues: one an element
  static Init Constant(double v) { return {Kind::kConstant, v, {}}; }
  static Init Normal(double std) { return {Kind::kNormal, std, {}}; }
  static Init Values(std::vector<double> v) { return {Kind::kValues, 0.0, std::move(v)}; }
};

struct Piece {
  std::string name;  // "blocks.3.moe.experts.17.up"
  int64_t rows = 0;  // a matrix of rows x cols; a vector is 1 x n
  int64_t cols = 0;
  Init init;
  bool decays = true;  // weight decay applies
  int64_t offset = 0;  // first element inside the parameter: pieces stand one after the other

  int64_t elements() const { return rows * cols; }
};

struct Parameter {
  std::string name;
  Shape shape;
  View view = View::kDense;
  UpdateKind kind = UpdateKind::kAdamW;
  Reading reading = Reading::kRounded;
  std::vector<Piece> pieces;

  // Valid after Allocate().
  Tensor value;  // what kernels read: the run's dtype, or accurate
  Tensor grad;   // accurate (f32, or f64 where the run is f64); layers add into it
  int64_t region_offset = 0;
};

// One flat region and who owns which range of it.
struct Region {
  View view = View::kDense;
  UpdateKind kind = UpdateKind::kAdamW;
  Reading reading = Reading::kAccurate;
  std::vector<Parameter*> parameters;  // in order: those that do not decay first
  int64_t elements = 0;                // n
  std::vector<int64_t> counts;  // elements owned by each member of the replica group; sums to n
  Range owned;                  // this rank's range

  // Valid after Allocate().
  Tensor read;    // [n] what kernels read: the run's dtype where rounded, else accurate
  Tensor master;  // [owned] accurate: what the optimizer moves. Where rounded, memory of its own;
                  // else that range of `read`
  Tensor grad;    // [n] accurate

  bool rounded() const { return reading == Reading::kRounded; }

  // A part of a piece inside an element range of the region.
  struct Slice {
    const Parameter* parameter;
    const Piece* piece;
    int64_t region_begin;  // element of the region
    int64_t row_begin;  // rows [row_begin, row_end) of the piece; cols whole. A vector (rows == 1)
                        // is never cut.
    int64_t row_end;
  };
  // The slices of `range`, in order. REQUIRES: its ends fall on rows (or between pieces).
  std::vector<Slice> Slices(Range range) const;
};

// Owned by the run (engine/machine/machine.h); layers keep pointers to its parameters, which stay
// valid.
class ParameterStore {
 public:
  // Called by layers, before Allocate. Piece offsets are filled in here; their elements must sum to
  // the shape's.
  Parameter* Declare(std::string name, Shape shape, View view, UpdateKind kind,
                     std::vector<Piece> pieces, Reading reading = Reading::kRounded);

  // Lays regions out and cuts them for `rank` of `layout`. Takes no memory.
  void LayOut(DType dtype, const Layout& layout, int rank);
  // The same, and allocates values and gradients (zeroed).
  void Allocate(Stream& stream, DType dtype, const Layout& layout, int rank);
  // Every piece from its name: draw i of MakeKey(seed, name). The same weights on every layout;
  // what others own is drawn here too, and nothing travels.
  void Initialize(Stream& stream, const Kernels& kernels, uint64_t seed);
  // What is read of the owned ranges <- masters rounded: after masters came from elsewhere. What
  // other members own is theirs to bring (GatherRead).
  void RoundMasters(Stream& stream, const Kernels& kernels);
  void ZeroGradients(Stream& stream);

  const std::vector<std::unique_ptr<Parameter>>& parameters() const { return parameters_; }
  Region& region(View view, UpdateKind kind, Reading reading);
  std::vector<Region*> regions();         // the eight, some may be empty
  DType dtype() const { return dtype_; }  // the run's

 private:
  Region& RegionOf(const Parameter& parameter);

  std::vector<std::unique_ptr<Parameter>> parameters_;
  Region regions_[kRegions];
  DType dtype_ = DType::kF32;
};

// The place of `rank` in the replica group of a view.
int MemberOf(View view, const Layout& layout, int rank);

}  // namespace mneme
