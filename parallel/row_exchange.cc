// The exchange of a table that is spread over ranks, its counts on the host.
#include "parallel/row_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/carry.h"
#include "parallel/dry.h"
#include "parallel/step_gradient.h"

namespace mneme {
namespace {

// Rows of one message to the replicas.
constexpr int64_t kReplicateRows = 1 << 16;

std::vector<int64_t> Starts(const std::vector<int64_t>& counts) {
  std::vector<int64_t> starts(counts.size(), 0);
  std::partial_sum(counts.begin(), counts.end() - 1, starts.begin() + 1);
  return starts;
}

absl::Span<const int64_t> SpanOf(const Tensor& ids) {
  return {ids.data<int64_t>(), static_cast<size_t>(ids.elements())};
}

// Ids grouped by who gets them, their order kept inside a group.
struct Grouped {
  std::vector<int64_t> counts;
  std::vector<int32_t> places;  // where ids[i] stands among the grouped
};

template <class GroupOf>
Grouped GroupBy(absl::Span<const int64_t> ids, int groups, const GroupOf& group_of) {
  Grouped grouped;
  grouped.counts.assign(static_cast<size_t>(groups), 0);
  for (int64_t id : ids) ++grouped.counts[static_cast<size_t>(group_of(id))];
  std::vector<int64_t> next = Starts(grouped.counts);
  grouped.places.reserve(ids.size());
  for (int64_t id : ids) {
    grouped.places.push_back(static_cast<int32_t>(next[static_cast<size_t>(group_of(id))]++));
  }
  return grouped;
}

// out[places[i]] <- in[i].
Tensor Moved(Stream& stream, const Tensor& in, const std::vector<int32_t>& places) {
  Tensor out = Tensor::Empty(stream, in.dtype(), in.shape(), MemoryTag::kExchange);
  if (places.empty()) return out;
  const auto bytes = static_cast<size_t>(in.bytes()) / places.size();
  const char* from = static_cast<const char*>(in.raw());
  char* to = static_cast<char*>(out.raw());
  for (size_t i = 0; i < places.size(); ++i) {
    std::memcpy(to + static_cast<size_t>(places[i]) * bytes, from + i * bytes, bytes);
  }
  return out;
}

class HostExchange : public RowExchange {
 public:
  HostExchange(Mesh& mesh, const Kernels& kernels, std::unique_ptr<RowStore> store);

  Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids, DType dtype) override;
  Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) override;
  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) override;
  void ReduceGradients(Stream& stream) override;
  void SumSquares(Stream& stream, Tensor& sum) override;
  void Update(Stream& stream, const Tensor& step) override;
  RowStore& store() override { return *store_; }
  RowTraffic traffic() const override { return traffic_; }
  void ResetTraffic() override { traffic_ = {}; }

 private:
  // The distinct ids among `ids` and the way to their owners: all of `fetched` but the rows.
  void Ask(Stream& stream, const Tensor& ids, FetchedRows& fetched);
  // Adds to this step's gradient the parts of the sources, in rank order; counts: rows of each.
  void AddParts(const Tensor& ids, const Tensor& grads, const std::vector<int64_t>& counts);
  // Rows of others that moved in this update, written here; ours sent there.
  void Replicate(Stream& stream);
  int64_t BytesSent() const;

  Mesh& mesh_;
  const Kernels& kernels_;
  std::unique_ptr<RowStore> store_;
  RowTraffic traffic_;
  StepGradient gradient_;
  Tensor ids_;    // i64 [m] rows of this step's gradient, rising: after ReduceGradients
  Tensor grads_;  // [m, W]
};

HostExchange::HostExchange(Mesh& mesh, const Kernels& kernels, std::unique_ptr<RowStore> store)
    : mesh_(mesh),
      kernels_(kernels),
      store_(std::move(store)),
      gradient_(store_->allocator(), store_->spec().dtype, store_->spec().width) {
  CHECK_EQ(store_->share().stride, int64_t{mesh_.memory->size()});
  CHECK_EQ(store_->share().phase, int64_t{mesh_.memory->rank()});
  CHECK_EQ(store_->share().replicas, int64_t{mesh_.memory_replicas->size()});
  CHECK_EQ(store_->share().replica, int64_t{mesh_.memory_replicas->rank()});
}

int64_t HostExchange::BytesSent() const {
  return mesh_.memory->bytes_sent() + mesh_.memory_replicas->bytes_sent();
}

void HostExchange::Ask(Stream& stream, const Tensor& ids, FetchedRows& fetched) {
  Comm& axis = *mesh_.memory;
  const int64_t n = ids.elements();
  fetched.inverse = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
  fetched.order = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
  Tensor unique = Tensor::Empty(stream, DType::kI64, {n}, MemoryTag::kExchange);
  fetched.send.resize(static_cast<size_t>(axis.size()));
  Tensor counts = Tensor::Wrap(fetched.send.data(), DType::kI64, {axis.size()});
  kernels_.unique_ids(stream, ids, store_->spec().rows, unique, fetched.inverse, fetched.order,
                      counts);
  fetched.ids = unique.Rows(0, Total(fetched.send));
  if (axis.size() == 1) {
    fetched.recv = fetched.send;
    fetched.asked = fetched.ids;
    return;
  }
  fetched.recv = axis.ExchangeCounts(fetched.send);
  fetched.asked = Carry(stream, axis, fetched.ids, fetched.send, fetched.recv);
  int64_t* asked = fetched.asked.data<int64_t>();
  const RowShare& share = store_->share();
  for (int64_t i = 0; i < fetched.asked.elements(); ++i) asked[i] = share.row(asked[i]);
}

Pending<FetchedRows> HostExchange::Fetch(Stream& stream, const Tensor& ids, DType dtype) {
  Comm& axis = *mesh_.memory;
  const int64_t sent_before = BytesSent();
  const int64_t width = store_->spec().width;
  FetchedRows fetched;
  Ask(stream, ids, fetched);
  Tensor found = Tensor::Empty(stream, store_->spec().dtype, {fetched.asked.elements(), width},
                               MemoryTag::kExchange);
  store_->Read(stream, fetched.asked, found);
  if (axis.size() > 1) found = Carry(stream, axis, found, fetched.recv, fetched.send);
  fetched.rows = Tensor::Empty(stream, dtype, {ids.elements(), width});
  kernels_.gather_rows(stream, found, fetched.inverse, fetched.rows);
  traffic_.requested += ids.elements();
  traffic_.unique += fetched.ids.elements();
  traffic_.remote += fetched.ids.elements() - fetched.send[static_cast<size_t>(axis.rank())];
  traffic_.bytes += BytesSent() - sent_before;
  return Pending<FetchedRows>(std::move(fetched));
}

Pending<FetchedRows> HostExchange::Fetch(Stream& stream, const RowQuery& query, DType dtype) {
  const auto heads = static_cast<int64_t>(query.hash.primes.size());
  Tensor ids = Tensor::Empty(stream, DType::kI64, {query.tokens.elements(), heads});
  kernels_.ngram_rows(stream, query.hash, query.tokens, query.canonical, query.length,
                      query.doc_start, ids);
  return Fetch(stream, ids.Reshape({ids.elements()}), dtype);
}

void HostExchange::PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) {
  Comm& axis = *mesh_.memory;
  const int64_t sent_before = BytesSent();
  Tensor summed =
      Tensor::Empty(stream, store_->spec().dtype, {fetched.ids.elements(), store_->spec().width},
                    MemoryTag::kExchange);
  kernels_.sum_unique(stream, drows, fetched.inverse, fetched.order, summed);
  if (axis.size() > 1) summed = Carry(stream, axis, summed, fetched.send, fetched.recv);
  AddParts(fetched.asked, summed, fetched.recv);
  traffic_.bytes += BytesSent() - sent_before;
}

void HostExchange::AddParts(const Tensor& ids, const Tensor& grads,
                            const std::vector<int64_t>& counts) {
  int64_t begin = 0;
  for (int64_t count : counts) {
    const Tensor part = grads.Rows(begin, begin + count);
    gradient_.Add(SpanOf(ids.Rows(begin, begin + count)), part.raw());
    begin += count;
  }
}

void HostExchange::ReduceGradients(Stream& stream) {
  Comm& replicas = *mesh_.memory_replicas;
  const int64_t sent_before = BytesSent();
  gradient_.Sorted(stream, ids_, grads_);
  if (replicas.size() == 1) return;
  const Grouped grouped = GroupBy(SpanOf(ids_), replicas.size(), [this](int64_t row) {
    return mesh_.layout.row_state_replica(row);
  });
  const std::vector<int64_t> recv = replicas.ExchangeCounts(grouped.counts);
  const Tensor ids =
      Carry(stream, replicas, Moved(stream, ids_, grouped.places), grouped.counts, recv);
  const Tensor grads =
      Carry(stream, replicas, Moved(stream, grads_, grouped.places), grouped.counts, recv);
  gradient_.Clear();
  AddParts(ids, grads, recv);
  gradient_.Sorted(stream, ids_, grads_);
  traffic_.bytes += BytesSent() - sent_before;
}

void HostExchange::SumSquares(Stream& stream, Tensor& sum) {
  CHECK(ids_.defined());
  if (grads_.elements() > 0) kernels_.sum_squares(stream, grads_, sum);
}

void HostExchange::Update(Stream& stream, const Tensor& step) {
  CHECK(ids_.defined());
  const int64_t sent_before = BytesSent();
  store_->Update(stream, step, ids_, grads_);
  const bool moved = step.data<double>()[kStepApply] != 0.0;
  if (moved && mesh_.memory_replicas->size() > 1) Replicate(stream);
  traffic_.bytes += BytesSent() - sent_before;
  ids_ = Tensor();
  grads_ = Tensor();
  gradient_.Clear();
}

void HostExchange::Replicate(Stream& stream) {
  Comm& replicas = *mesh_.memory_replicas;
  const int64_t width = store_->spec().width;
  const DType dtype = store_->spec().dtype;
  // Under dense Adam every row with state has moved, else those with a gradient.
  const bool dense = store_->spec().dense_adam;
  const int64_t total = dense ? store_->materialised(/*with_state=*/true) : ids_.elements();
  for (int64_t begin = 0;; begin += kReplicateRows) {
    const int64_t mine = std::clamp<int64_t>(total - begin, 0, kReplicateRows);
    std::vector<int64_t> counts(static_cast<size_t>(replicas.size()), mine);
    counts = replicas.ExchangeCounts(counts);
    const int64_t all = Total(counts);
    if (all == 0) return;
    Tensor ids = Tensor::Empty(stream, DType::kI64, {all}, MemoryTag::kExchange);
    Tensor values = Tensor::Empty(stream, dtype, {all, width}, MemoryTag::kExchange);
    const std::vector<int64_t> starts = Starts(counts);
    const int64_t start = starts[static_cast<size_t>(replicas.rank())];
    Tensor my_ids = ids.Rows(start, start + mine);
    Tensor my_values = values.Rows(start, start + mine);
    if (dense) {
      store_->List(stream, begin, begin + mine, my_ids, my_values);
    } else if (mine > 0) {
      kernels_.copy(stream, ids_.Rows(begin, begin + mine), my_ids);
      store_->Read(stream, my_ids, my_values);
    }
    replicas.AllGather(stream, my_ids, counts, ids);
    std::vector<int64_t> elements = counts;
    for (int64_t& n : elements) n *= width;
    Tensor flat = values.Reshape({all * width});
    replicas.AllGather(stream, my_values, elements, flat);
    for (int r = 0; r < replicas.size(); ++r) {
      if (r == replicas.rank()) continue;
      const auto at = static_cast<size_t>(r);
      store_->Write(stream, ids.Rows(starts[at], starts[at] + counts[at]),
                    values.Rows(starts[at], starts[at] + counts[at]));
    }
  }
}

}  // namespace

std::unique_ptr<RowExchange> MakeHostExchange(Mesh& mesh, const Kernels& kernels,
                                              std::unique_ptr<RowStore> store) {
  return std::make_unique<HostExchange>(mesh, kernels, std::move(store));
}

absl::StatusOr<std::unique_ptr<RowExchange>> MakeRowExchange(Stream& stream, const Kernels& kernels,
                                                             Mesh& mesh, RowTableSpec spec,
                                                             bool resident) {
  const bool spread = mesh.memory->size() > 1;
  if (stream.device().dry && (stream.device().is_cpu() || !resident || spread))
    return MakeDryExchange(stream, mesh, std::move(spec), resident || !stream.device().is_cpu());
  if (stream.device().is_cpu()) {
    auto store = MakeRowStore(stream, kernels, mesh, std::move(spec), resident);
    RETURN_IF_ERROR(store.status());
    return MakeHostExchange(mesh, kernels, *std::move(store));
  }
  if (!resident) {
    return absl::UnimplementedError(
        spec.name +
        ": on GPUs a table lives in their memory, and a lazy store is not there yet; set "
        "model.engram.table.store: auto, or set device: cpu");
  }
  Comm& replicas = *mesh.memory_replicas;
  auto store = DeviceStore::Make(stream, kernels, std::move(spec), replicas.rank() == 0,
                                 mesh.memory->rank(), mesh.memory->size());
  RETURN_IF_ERROR(store.status());
  if (spread) return MakeSpreadExchange(*mesh.memory, replicas, kernels, *std::move(store));
  return MakeDeviceExchange(stream, replicas, kernels, *std::move(store));
}

}  // namespace mneme
