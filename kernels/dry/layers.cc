// Ops of layers that compute products or ask for scratch. The sizes of the scratch are those of the
// files of the same names in kernels/cpu (the fast versions, in f32) and kernels/gpu (Hopper's);
// tests hold the sum against what a real step takes.
#include <omp.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/core/deal_blocks.h"
#include "kernels/dry/work.h"

namespace mneme::dry {
namespace {

bool OnCpu(Stream& stream) { return stream.device().is_cpu(); }

// Each query sees (length + 1) / 2 keys of its sequence on average; a product of scores and one of
// values, and an exponential of each score.
WorkDone AttentionWork(const AttentionShape& n, int64_t kernels, double products, double bytes) {
  const double pairs = 0.5 * Real(n.length + 1) * Real(n.length * n.rows * n.heads);
  return {kernels, products * 2.0 * pairs * Real(n.nope + n.rope + n.value), bytes, pairs};
}

int64_t Workers(int64_t tasks) { return std::clamp<int64_t>(tasks, 1, omp_get_max_threads()); }

constexpr int64_t kTileValues = 64 * 256;  // scores that a thread has in work (cpu/attention_fast)
constexpr int64_t kHeadChunk = 256;        // tokens (cpu/head_fast)
constexpr int64_t kLogitBytes = int64_t{2} << 30;  // of a chunk of logits (gpu/head)
constexpr int64_t kHeadStep = 256;                 // a chunk is a multiple of it
constexpr int64_t kNotesPadding = 384;             // rows of the notes (gpu/attention_grad_sm90)

// What mHC takes beside its bytes: Sinkhorn iterations on each token's mix, where a CPU does them
// one token at a time (other than four streams in f32: cpu/hyper_fast). A gradient is two passes.
double SinkhornFlops(Stream& stream, const HyperOptions& options, const Tensor& x, double passes) {
  const int64_t n = x.dim(1);
  if (!OnCpu(stream) || (n == 4 && x.dtype() == DType::kF32)) return 0;
  return passes * Real(x.dim(0) * n * n * options.sinkhorn_iterations);
}

// [owners, 2]: tokens that choose experts of each owner, and their pairs, where every token takes
// experts of its own, spread over all, as from a balanced router.
std::vector<int64_t> CountDealt(int64_t tokens, int64_t k, absl::Span<const int64_t> starts) {
  const auto owners = starts.size() - 1;
  const auto experts = static_cast<uint64_t>(starts.back());
  std::vector<int64_t> counts(2 * owners), last(owners, -1);
  for (int64_t t = 0; t < tokens; ++t) {
    const uint64_t mixed = (static_cast<uint64_t>(t) + 1) * 0x9e3779b97f4a7c15u;
    const uint64_t step = 1 + (mixed >> 20) % std::max<uint64_t>(1, experts - 1);
    uint64_t chosen = mixed >> 40;
    for (int64_t j = 0; j < k; ++j, chosen += step) {
      const auto after =
          std::upper_bound(starts.begin(), starts.end(), static_cast<int64_t>(chosen % experts));
      const auto owner = static_cast<size_t>(after - starts.begin()) - 1;
      counts[2 * owner] += last[owner] == t ? 0 : 1;
      last[owner] = t;
      ++counts[2 * owner + 1];
    }
  }
  return counts;
}

// Plan of the pairs of local experts: what the caller keeps (kernels/ops/experts.h).
int64_t PlanPairs(Stream& stream, const Tensor& experts, int64_t count, ExpertsSaved& saved) {
  int64_t pairs = saved.most_pairs >= 0 ? saved.most_pairs : experts.elements();
  if (!OnCpu(stream)) pairs = std::max<int64_t>(1, pairs);
  saved.offsets = Tensor::Empty(stream, DType::kI64, {count + 1});
  saved.order = Tensor::Empty(stream, DType::kI32, {pairs});
  saved.place = Tensor::Empty(stream, DType::kI32, experts.shape());
  return pairs;
}

}  // namespace

void Matmul(Stream& stream, const Tensor& a, Trans ta, const Tensor& b, Trans, const Tensor& addend,
            Tensor& c) {
  const int64_t inner = ta == Trans::kYes ? a.dim(0) : a.dim(1);
  const bool another = addend.defined() && addend.raw() != c.raw();
  LedgerOf(stream).Add(Work::kMatmul, 2.0 * Real(c.elements()) * Real(inner),
                       BytesOf(a) + BytesOf(b) + BytesOf(c) + (another ? BytesOf(addend) : 0));
}

// On a CPU the parts are copies.
void Latent(Stream& stream, const Tensor& x, const Tensor&, double, const Tensor&, const Tensor&,
            Tensor& normed, Tensor& rotary, Tensor&) {
  Tensor part;
  if (OnCpu(stream)) part = Scratch(stream, x.dtype(), normed.shape());
  LedgerOf(stream).Add(Work::kNorms, 0, BytesOf(x) + BytesOf(normed) + BytesOf(rotary));
}

void LatentGrad(Stream& stream, const Tensor& dnormed, const Tensor& drotary, const Tensor& x,
                const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor& dx, Tensor&) {
  Tensor parts[3];
  if (OnCpu(stream)) {
    parts[0] = Scratch(stream, x.dtype(), dnormed.shape());
    parts[1] = Scratch(stream, x.dtype(), dnormed.shape());
    parts[2] = Scratch(stream, x.dtype(), drotary.shape());
  }
  LedgerOf(stream).Add(Work::kNorms, 0,
                       BytesOf(dnormed) + BytesOf(drotary) + BytesOf(x) + BytesOf(dx));
}

void Attention(Stream& stream, const AttentionShape& n, double, const Tensor& q, const Tensor& kv,
               const Tensor& k_pe, const Tensor&, Tensor& out, Tensor&) {
  Tensor scratch;
  if (OnCpu(stream)) {
    const int64_t each = n.length * (n.nope + n.rope) + kTileValues;
    scratch = Scratch(stream, q.dtype(), {Workers(n.rows * n.heads), each});
  }
  const double bytes = BytesOf(q) + BytesOf(kv) + BytesOf(k_pe) + BytesOf(out);
  LedgerOf(stream).Add(Work::kAttention, AttentionWork(n, 1, 1.0, bytes));
}

void AttentionGrad(Stream& stream, const AttentionShape& n, double, const Tensor& dout,
                   const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor&,
                   const Tensor& out, const Tensor&, Tensor& dq, Tensor& dkv, Tensor&) {
  const int64_t pairs = n.rows * n.heads;
  Tensor scratch, parts, notes[2];
  if (OnCpu(stream)) {
    const int64_t each = 2 * n.length * (n.nope + n.rope) + 2 * kTileValues + n.length;
    scratch = Scratch(stream, q.dtype(), {Workers(pairs), each});
    parts = Scratch(stream, q.dtype(), {pairs, n.length, n.rope});
  } else {
    parts = Scratch(stream, DType::kF32, {n.rows * n.length, n.heads, n.rope});
    const int64_t padded = DivideUp(n.length, kNotesPadding) * kNotesPadding;
    for (Tensor& t : notes) t = Scratch(stream, DType::kF32, {pairs, padded});
  }
  const double bytes = BytesOf(dout) + BytesOf(q) + BytesOf(kv) + BytesOf(k_pe) + BytesOf(out) +
                       BytesOf(dq) + BytesOf(dkv);
  LedgerOf(stream).Add(Work::kAttentionGrad, AttentionWork(n, 4, 2.5, bytes));
}

void ShortConvGrad(Stream& stream, const Tensor& dy, const Tensor& n, const Tensor& w, int64_t,
                   int64_t, const Tensor&, Tensor& dn, Tensor& dw) {
  Tensor slope;
  // On a GPU the kernels of 2 to 4 taps keep it in registers.
  if (OnCpu(stream) || w.dim(1) > 4) {
    slope = Tensor::Empty(stream, OnCpu(stream) ? n.dtype() : DType::kF32, {n.dim(0), n.dim(1)});
  }
  LedgerOf(stream).Add(Work::kMemory,
                       {2, 0.0, BytesOf(dy) + BytesOf(n) + BytesOf(dn) + BytesOf(dw)});
}

// The counts, which the host reads, are those of a balanced router.
void DealTokens(Stream& stream, const Tensor& experts, const Tensor& weights,
                absl::Span<const int64_t> starts, Tensor& sent, Tensor& sent_experts,
                Tensor& sent_weights, Tensor& counts) {
  const int64_t tokens = experts.dim(0), owners = counts.dim(0);
  std::vector<int64_t> deal = {tokens, experts.dim(1)};
  deal.insert(deal.end(), starts.begin(), starts.end());
  std::vector<int64_t>& dealt = LedgerOf(stream).dealt[std::move(deal)];
  if (dealt.empty()) dealt = CountDealt(tokens, experts.dim(1), starts);
  std::copy(dealt.begin(), dealt.end(), counts.data<int64_t>());
  Tensor parts;
  if (!OnCpu(stream) && tokens > 0)
    parts = Scratch(stream, DType::kI32, {2, owners, DealBlocks(tokens, owners)});
  LedgerOf(stream).Add(Work::kRouting,
                       {2, 0.0,
                        2 * BytesOf(experts) + BytesOf(weights) + BytesOf(sent_experts) +
                            BytesOf(sent_weights) + BytesOf(sent)});
}

void Experts(Stream& stream, const Tensor& x, const Tensor& experts, const Tensor&,
             const Tensor& w_gate_up, const Tensor& w_down, const Tensor& addend, Tensor& y,
             ExpertsSaved& saved) {
  const int64_t width = w_down.dim(2), hidden = x.dim(1);
  const int64_t pairs = PlanPairs(stream, experts, w_gate_up.dim(0), saved);
  saved.gate_up = Tensor::Empty(stream, x.dtype(), {pairs, 2 * width});
  const Tensor act = Scratch(stream, x.dtype(), {pairs, width});
  const Tensor rows = Scratch(stream, x.dtype(), {pairs, hidden});
  const double bytes = BytesOf(x) + BytesOf(addend) + BytesOf(y) + 2 * BytesOf(rows) +
                       BytesOf(act) + BytesOf(saved.gate_up) + BytesOf(w_gate_up) + BytesOf(w_down);
  LedgerOf(stream).Add(Work::kExperts, {5, 6.0 * Real(pairs) * Real(width * hidden), bytes});
}

void ExpertsGrad(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor&,
                 const Tensor& w_gate_up, const Tensor& w_down, const ExpertsSaved& saved,
                 Tensor& dx, Tensor&, Tensor& d_w_gate_up, Tensor& d_w_down) {
  const int64_t width = w_down.dim(2), hidden = x.dim(1), pairs = saved.order.elements();
  const Tensor rows = Scratch(stream, x.dtype(), {pairs, hidden});
  const Tensor act = Scratch(stream, x.dtype(), {pairs, width});
  const Tensor d_gate_up = Scratch(stream, x.dtype(), {pairs, 2 * width});
  Tensor d_act;
  if (OnCpu(stream)) d_act = Scratch(stream, x.dtype(), {pairs, width});
  const double bytes = BytesOf(dy) + BytesOf(x) + BytesOf(dx) + 4 * BytesOf(rows) +
                       2 * BytesOf(act) + 3 * BytesOf(d_gate_up) + BytesOf(w_gate_up) +
                       BytesOf(w_down) + 2 * (BytesOf(d_w_gate_up) + BytesOf(d_w_down));
  LedgerOf(stream).Add(Work::kExperts, {6, 12.0 * Real(pairs) * Real(width * hidden), bytes});
}

void HyperEnter(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor& phi,
                const Tensor&, const Tensor&, Tensor&, Tensor&, Tensor&, Tensor&, Tensor&,
                Tensor& h) {
  LedgerOf(stream).Add(Work::kStreams, SinkhornFlops(stream, options, x, 1.0),
                       2 * BytesOf(x) + BytesOf(phi) + BytesOf(h));
}

void HyperLeaveEnter(Stream& stream, const HyperOptions& options, const Tensor& x, const Tensor&,
                     const Tensor&, const Tensor& y, Tensor& out, const Tensor& phi, const Tensor&,
                     const Tensor&, Tensor&, Tensor&, Tensor&, Tensor&, Tensor&, Tensor& h) {
  LedgerOf(stream).Add(Work::kStreams, SinkhornFlops(stream, options, x, 1.0),
                       BytesOf(x) + BytesOf(y) + BytesOf(out) + BytesOf(phi) + BytesOf(h));
}
void HyperEnterGrad(Stream& stream, const HyperOptions& options, const Tensor& dout,
                    const Tensor& dh, const Tensor&, const Tensor&, const Tensor& x,
                    const Tensor& phi, const Tensor&, const Tensor&, const Tensor&, const Tensor& m,
                    const Tensor&, const Tensor&, Tensor& dx, Tensor&, Tensor&, Tensor&) {
  const DType sums = OnCpu(stream) ? x.dtype() : DType::kF32;
  const Tensor du = Tensor::Empty(stream, sums, {x.dim(0), m.dim(1)});
  LedgerOf(stream).Add(Work::kStreams,
                       {3, SinkhornFlops(stream, options, x, 2.0),
                        BytesOf(dout) + BytesOf(dh) + 2 * BytesOf(x) + BytesOf(phi) + BytesOf(dx)});
}

void HyperReadGrad(Stream& stream, const HyperOptions&, const Tensor& dh, const Tensor& x,
                   const Tensor& fn, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                   const Tensor&, Tensor& dx, Tensor&, Tensor&, Tensor&) {
  const DType sums = OnCpu(stream) ? x.dtype() : DType::kF32;
  const Tensor du = Tensor::Empty(stream, sums, {x.dim(0), x.dim(1)});
  LedgerOf(stream).Add(Work::kStreams, 0, BytesOf(dh) + 2 * BytesOf(x) + BytesOf(fn) + BytesOf(dx));
}

void EngramGateGrad(Stream& stream, const GateOptions&, const Tensor& du, const Tensor& addend,
                    const Tensor& h, const Tensor& kv, const Tensor&, const Tensor&, const Tensor&,
                    const Tensor&, const Tensor&, const Tensor&, Tensor& dh, Tensor& dkv, Tensor&,
                    Tensor&) {
  LedgerOf(stream).Add(Work::kMemory, {2, 0.0,
                                       BytesOf(du) + BytesOf(addend) + BytesOf(h) + BytesOf(kv) +
                                           BytesOf(dh) + BytesOf(dkv)});
}

void HeadLoss(Stream& stream, const Tensor& x, const Tensor& w, const Tensor&, const Tensor&,
              Tensor&, Tensor& dx, Tensor& dw) {
  const int64_t tokens = x.dim(0), vocab = w.dim(0), row = vocab * SizeOf(x.dtype());
  int64_t chunk = std::min(tokens, kHeadChunk), chunks = 1;
  if (!OnCpu(stream)) {
    const int64_t most = std::max<int64_t>(kLogitBytes / row / kHeadStep, 1) * kHeadStep;
    chunks = std::max<int64_t>(1, DivideUp(tokens, most));
    chunk = std::min(tokens, DivideUp(DivideUp(tokens, chunks), kHeadStep) * kHeadStep);
  }
  const Tensor logits = Scratch(stream, x.dtype(), {chunk, vocab});
  const double products = dx.defined() ? 3.0 : 1.0;
  LedgerOf(stream).Add(
      Work::kHead,
      {4 * chunks, 2.0 * products * Real(tokens) * Real(vocab * x.dim(1)),
       BytesOf(x) + BytesOf(w) + BytesOf(dx) + 2 * BytesOf(dw) + 2 * Real(tokens) * Real(row)});
}

}  // namespace mneme::dry
