// The exchange of a table that lives whole on the device. A step's row gradients stay in the
// tensors in which the micro-batches left them; at its end their ids are sorted once, and the sums
// are made for the norm and in the update.
//
// Replicas of a table (data parallel ranks) give each other what their micro-batches left, before
// it is sorted: how much is known beforehand, so nothing is counted. Each then has every request of
// the step and makes the same update with the same bits. No row and no moment travels, at the price
// of moments on every replica.
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "parallel/row_exchange.h"

namespace mneme {
namespace {

enum Seen : int { kRequested = 0, kDistinct = 1, kSeen = 2 };

// Parts of one shape and no more than an op takes: as they are, or all in one.
std::vector<Tensor> Regular(Stream& stream, const Kernels& kernels, std::vector<Tensor> parts) {
  int64_t rows = 0;
  bool regular = parts.size() <= size_t{kMostParts};
  for (const Tensor& part : parts) {
    rows += part.dim(0);
    regular = regular && part.dim(0) == parts[0].dim(0);
  }
  if (regular) return parts;
  const Tensor& first = parts[0];
  const Shape shape = first.shape().rank() == 1 ? Shape{rows} : Shape{rows, first.dim(1)};
  Tensor all = Tensor::Empty(stream, first.dtype(), shape, MemoryTag::kExchange);
  int64_t begin = 0;
  for (const Tensor& part : parts) {
    Tensor to = all.Rows(begin, begin + part.dim(0));
    if (part.dim(0) > 0) kernels.copy(stream, part, to);
    begin += part.dim(0);
  }
  return {all};
}

// The parts of every replica, on all: in order of replicas, then of micro-batches, as one rank that
// does all their work has them.
std::vector<Tensor> OfAllReplicas(Stream& stream, Comm& replicas,
                                  const std::vector<Tensor>& parts) {
  const auto n = static_cast<size_t>(replicas.size());
  std::vector<Tensor> all(n * parts.size());
  for (size_t p = 0; p < parts.size(); ++p) {
    const Tensor& part = parts[p];
    const int64_t rows = part.dim(0);
    const int64_t total = rows * replicas.size();
    const Shape shape = part.shape().rank() == 1 ? Shape{total} : Shape{total, part.dim(1)};
    const Tensor gathered = Tensor::Empty(stream, part.dtype(), shape, MemoryTag::kExchange);
    Tensor flat = gathered.Reshape({gathered.elements()});
    replicas.AllGather(stream, part.Reshape({part.elements()}),
                       std::vector<int64_t>(n, part.elements()), flat);
    for (size_t r = 0; r < n; ++r) {
      const int64_t begin = rows * static_cast<int64_t>(r);
      all[r * parts.size() + p] = gathered.Rows(begin, begin + rows);
    }
  }
  return all;
}

class DeviceExchange : public RowExchange {
 public:
  DeviceExchange(Stream& stream, Comm& replicas, const Kernels& kernels,
                 std::unique_ptr<DeviceStore> store)
      : stream_(stream),
        replicas_(replicas),
        kernels_(kernels),
        store_(std::move(store)),
        seen_(Tensor::Zeros(stream, DType::kI64, {kSeen}, MemoryTag::kOther)) {}

  Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids, DType dtype) override {
    FetchedRows fetched = MakeFetched(stream, ids.elements(), dtype);
    fetched.ids = ids;
    kernels_.gather_rows(stream, store_->values(), ids, fetched.rows);
    return Pending<FetchedRows>(std::move(fetched));
  }

  Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) override {
    const int64_t n = query.requests();
    FetchedRows fetched = MakeFetched(stream, n, dtype);
    Tensor ids =
        Tensor::Empty(stream, DType::kI64, {query.tokens.elements(), n / query.tokens.elements()});
    kernels_.ngram_gather(stream, query.hash, query.tokens, query.canonical, query.length,
                          query.doc_start, store_->values(), ids, fetched.rows);
    fetched.ids = ids.Reshape({n});
    return Pending<FetchedRows>(std::move(fetched));
  }

  void PushGradient(Stream&, const FetchedRows& fetched, const Tensor& drows) override {
    CHECK_EQ(drows.elements(), fetched.ids.elements() * store_->spec().width);
    ids_.push_back(fetched.ids);
    grads_.push_back(drows);
  }

  void ReduceGradients(Stream& stream) override {
    ids_ = Regular(stream, kernels_, std::move(ids_));
    grads_ = Regular(stream, kernels_, std::move(grads_));
    if (replicas_.size() > 1 && !ids_.empty()) {
      request_bytes_ = SizeOf(DType::kI64) + store_->spec().width * SizeOf(grads_[0].dtype());
      ids_ = Regular(stream, kernels_, OfAllReplicas(stream, replicas_, ids_));
      grads_ = Regular(stream, kernels_, OfAllReplicas(stream, replicas_, grads_));
    }
    kernels_.group_rows(stream, ids_, store_->spec().rows, groups_, seen_);
    ids_.clear();
    summed_ = false;
  }

  void SumSquares(Stream& stream, Tensor& sum) override {
    CHECK(groups_.keys.defined());
    if (First()) {
      kernels_.sum_groups(stream, grads_, groups_, sum);
    } else {  // every replica has the whole sum; it counts once
      Tensor unused = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
      kernels_.sum_groups(stream, grads_, groups_, unused);
    }
    summed_ = true;
  }

  void Update(Stream& stream, const Tensor& step) override {
    CHECK(groups_.keys.defined());
    if (!summed_) {
      Tensor unused = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
      SumSquares(stream, unused);
    }
    store_->Move(stream, step, grads_, groups_);
    groups_ = {};
    grads_.clear();
  }

  RowStore& store() override { return *store_; }

  RowTraffic traffic() const override {
    int64_t seen[kSeen] = {};
    Download(stream_, seen_, seen, seen_.bytes());
    RowTraffic traffic;
    traffic.bytes = seen[kRequested] / replicas_.size() * (replicas_.size() - 1) * request_bytes_;
    if (!First()) return traffic;  // each counts the requests of all
    traffic.requested = seen[kRequested];
    traffic.unique = seen[kDistinct];
    return traffic;
  }
  void ResetTraffic() override { Zero(stream_, seen_); }

 private:
  bool First() const { return replicas_.rank() == 0; }

  FetchedRows MakeFetched(Stream& stream, int64_t n, DType dtype) const {
    FetchedRows fetched;
    fetched.rows = Tensor::Empty(stream, dtype, {n, store_->spec().width});
    return fetched;
  }

  Stream& stream_;
  Comm& replicas_;
  const Kernels& kernels_;
  std::unique_ptr<DeviceStore> store_;
  int64_t request_bytes_ = 0;  // that a request sends to one other replica
  Tensor seen_;                // i64 [kSeen] since the last ResetTraffic
  std::vector<Tensor> ids_;    // of this step's micro-batches, until they are grouped
  std::vector<Tensor> grads_;  // [n, W] likewise, until the update
  RowGroups groups_;           // between ReduceGradients and Update
  bool summed_ = false;
};

}  // namespace

std::unique_ptr<RowExchange> MakeDeviceExchange(Stream& stream, Comm& replicas,
                                                const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store) {
  return std::make_unique<DeviceExchange>(stream, replicas, kernels, std::move(store));
}

}  // namespace mneme
