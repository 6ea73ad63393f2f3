// Grouped matrix products on Hopper: what grouped.cu calls where it can.
#pragma once

#include "kernels/core/stream.h"

namespace mneme::gpu {

// Rows [offsets[e], offsets[e + 1]) of a belong to group e; everything is bf16 unless said.
enum class GroupedForm {
  kRows,        // c [R, n] = a [R, k] · b[e]ᵀ, b [E, n, k]
  kRowsAcross,  // c [R, n] = a [R, k] · b[e], b [E, k, n]
  kSwiGlu,  // c [R, 2n] = a [R, k] · b[e]ᵀ, b [E, 2n, k]; act [R, n] = SiLU(c left) · c right
  kWeightGrad,   // c[e] [m, n] += a_rowsᵀ · b_rows, a [R, m], b [R, n]; c fp32
  kDownGrad,     // with z [R, n] = a [R, k] · b[e], b [E, k, n], and the weight w of a row's slot:
                 // of h = SwiGLU(gate_up [R, 2n]), c = gradient of gate_up where that of h is w z;
                 // act = w h; inner[i, r] = ⟨z, h⟩ over columns [256 i, 256 (i + 1))
  kFeedForward,  // as kSwiGlu, then out [R, k] = act · b2[e]ᵀ, b2 [E, k, n]; act stays inside
};

// Two blocks that share one operand: their tiles are neighbours in m or in n.
enum class GroupedPair { kAlongM, kAlongN };

// An operand whose rows are not stored one after another: its row p is row slots[p] / per_row.
enum class GroupedGather { kNone, kA, kB };

inline constexpr int64_t kGroupedSm90MaxGroups = 512;

struct GroupedProblem {
  int64_t groups = 0;
  int64_t rows = 0;  // R: capacity of the rows
  int64_t m = 0;     // of kWeightGrad
  int64_t n = 0;
  int64_t k = 0;                     // of the others
  const int64_t* offsets = nullptr;  // [E + 1], on the device
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  void* act = nullptr;
  const void* b2 = nullptr;  // of kFeedForward
  void* out = nullptr;
  int32_t* turns = nullptr;  // of kWeightGrad: zeros, as many as GroupedTurns; or none
  GroupedGather gather = GroupedGather::kNone;
  const int32_t* slots = nullptr;  // [R], on the device
  int64_t per_row = 1;
  const void* gate_up = nullptr;   // of kDownGrad
  const float* weights = nullptr;  // by slot
  float* inner = nullptr;
};

// Whether the Hopper kernel can take this problem: widths in steps of 8, not too many groups, and
// of gathers those that experts need: a of kSwiGlu, kFeedForward and kDownGrad (always) and of
// kWeightGrad, b of kWeightGrad.
bool GroupedSm90Takes(GroupedForm form, const GroupedProblem& problem);

// The pairing that measured best for this problem; a gathered operand is not shared.
GroupedPair GroupedSm90Pair(const GroupedProblem& problem);

// REQUIRES: GroupedSm90Takes; a Hopper device; a, b, c and act on 16 bytes. A gather fixes the
// pair.
void GroupedSm90(Stream& stream, GroupedForm form, GroupedPair pair, const GroupedProblem& problem);

// kFeedForward (feed_forward_sm90.cu) and kDownGrad (down_grad_sm90.cu).
void FeedForwardSm90(Stream& stream, const GroupedProblem& problem);
void DownGradSm90(Stream& stream, const GroupedProblem& problem);

}  // namespace mneme::gpu
