// Table rows and the optimizer's ops (see layers.cc).
#include <algorithm>

#include "kernels/dry/work.h"

namespace mneme::dry {
namespace {

constexpr int64_t kBatchBytes = int64_t{1} << 30;  // of matrices in work (gpu/update)
constexpr int64_t kRunsOfCall = 64;                // of Muon's (gpu/update)
// Products of small matrices in shared memory take three times as long as those of large ones:
// 0.386 ms for 940 of 128 x 256 (docs/results.md).
constexpr double kSmallPace = 3.0;

int64_t Rows(RowParts parts) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.dim(0);
  return rows;
}

int64_t MuonCalls(Stream& stream, FlatRuns runs) {
  const auto count = static_cast<int64_t>(runs.size());
  return stream.device().is_cpu() ? count : DivideUp(count, kRunsOfCall);
}

}  // namespace

void GatherRows(Stream& stream, const Tensor&, const Tensor& ids, Tensor& out) {
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(ids) + 2 * BytesOf(out));
}

void ScatterAddRows(Stream& stream, const Tensor& dout, const Tensor& ids, Tensor&) {
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(ids) + 3 * BytesOf(dout));
}

void NgramGather(Stream& stream, const NgramHash&, const Tensor& tokens, const Tensor&, int64_t,
                 const Tensor&, const Tensor& table, Tensor& rows, Tensor& out) {
  const double read = Real(out.elements()) * Real(SizeOf(table.dtype()));
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(tokens) + BytesOf(rows) + read + BytesOf(out));
}

void GroupRows(Stream& stream, RowParts ids, int64_t, RowGroups& groups, Tensor&) {
  int64_t n = 0;
  for (const Tensor& part : ids) n += part.elements();
  const auto make = [&] { return Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange); };
  groups.keys = make();
  groups.order = make();
  Tensor others[2];  // the sort's second buffers
  if (!stream.device().is_cpu()) {
    for (Tensor& other : others) other = make();
  }
  groups.heads = make();
  groups.count = Tensor::Empty(stream, DType::kI64, {1}, MemoryTag::kExchange);
  // Four passes of eight bits over keys and numbers.
  LedgerOf(stream).Add(Work::kTables, {14, 0.0, BytesOf(ids) + 4 * 4 * BytesOf(groups.keys)});
}

void SumGroups(Stream& stream, RowParts grads, RowGroups& groups, Tensor&) {
  const int64_t n = groups.keys.elements();
  if (n == 0) return;
  const bool on_cpu = stream.device().is_cpu();
  groups.sums = Tensor::Empty(stream, on_cpu ? grads[0].dtype() : DType::kF32,
                              {n / kLongGroup + 1, grads[0].dim(1)}, MemoryTag::kExchange);
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(grads) + 3 * BytesOf(groups.keys));
}

void AdamGroups(Stream& stream, const AdamOptions&, bool dense, const Tensor&, RowParts grads,
                const RowGroups&, Tensor& marks, Tensor& m, Tensor& v, Tensor& p) {
  Tensor touched;
  if (dense) touched = Scratch(stream, DType::kI32, {marks.elements()});
  const double moved =
      dense ? BytesOf(m) + BytesOf(v) + BytesOf(p)
            : 3.0 * std::min(Real(Rows(grads)), Real(p.dim(0))) * BytesOf(p) / Real(p.dim(0));
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(grads) + 2 * moved);
}

void AdamRows(Stream& stream, const AdamOptions&, const Tensor&, const Tensor& g,
              const Tensor& slots, Tensor&, Tensor&, Tensor&) {
  LedgerOf(stream).Add(Work::kTables, 0, BytesOf(slots) + 7 * BytesOf(g));
}

void AdamW(Stream& stream, const AdamOptions&, const Tensor&, const Tensor& g, Tensor& m, Tensor& v,
           Tensor& p, Tensor& copy) {
  LedgerOf(stream).Add(Work::kOptimizer, 0,
                       BytesOf(g) + 2 * (BytesOf(m) + BytesOf(v) + BytesOf(p)) + BytesOf(copy));
}

void MuonMomentum(Stream& stream, double, bool, const Tensor&, FlatRuns runs, const Tensor& g,
                  Tensor& buf, Tensor& u) {
  const double moved = Real(u.elements()) * Real(SizeOf(g.dtype()) + 2 * SizeOf(buf.dtype()));
  LedgerOf(stream).Add(Work::kOptimizer, {MuonCalls(stream, runs), 0, moved + BytesOf(u)});
}

void NewtonSchulz(Stream& stream, const NewtonSchulzOptions& options, Tensor& x) {
  const bool many = x.shape().rank() == 3;
  const int64_t batch = many ? x.dim(0) : 1, rows = x.dim(many ? 1 : 0), cols = x.dim(many ? 2 : 1);
  const int64_t n = std::min(rows, cols);
  // A step: X Xᵀ, its square, and the product with X.
  const double step = 2.0 * Real(n * n) * (2.0 * Real(std::max(rows, cols)) + Real(n));
  const double flops = Real(options.steps * batch) * step;
  if (!stream.device().is_cpu() && NewtonSchulzIsSmall(x.dtype(), rows, cols)) {
    return LedgerOf(stream).Add(Work::kOrthogonal, {1, kSmallPace * flops, 2 * BytesOf(x)});
  }
  // On a CPU one matrix after the other, on a GPU as many as fit the bound.
  int64_t at_once = 1;
  if (!stream.device().is_cpu()) {
    const int64_t each = (2 * n * n + rows * cols) * SizeOf(x.dtype());
    const int64_t most = std::max<int64_t>(1, kBatchBytes / each);
    const int64_t batches = (batch + most - 1) / most;
    at_once = (batch + batches - 1) / batches;
  }
  const Tensor gram = Scratch(stream, x.dtype(), {at_once, n, n});
  const Tensor poly = Scratch(stream, x.dtype(), {at_once, n, n});
  const Tensor next = Scratch(stream, x.dtype(), {at_once, rows, cols});
  const int64_t batches = DivideUp(batch, at_once);
  LedgerOf(stream).Add(Work::kOrthogonal, {(3 * options.steps + 2) * batches, flops,
                                           Real(options.steps) * 4.0 * BytesOf(x)});
}

void MuonApply(Stream& stream, double, double, const Tensor&, FlatRuns runs, const Tensor& o,
               Tensor& p, Tensor& copy) {
  const int64_t each = 2 * SizeOf(p.dtype()) + (copy.defined() ? SizeOf(copy.dtype()) : 0);
  LedgerOf(stream).Add(Work::kOptimizer,
                       {MuonCalls(stream, runs), 0, BytesOf(o) + Real(o.elements()) * Real(each)});
}

}  // namespace mneme::dry
