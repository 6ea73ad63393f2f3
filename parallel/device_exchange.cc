// The exchange of a table that lives whole on the device. Replicas (data parallel ranks) share the
// requests of a step (device_gradient.h): how many there are is known beforehand, so nothing is
// counted, and nothing is read by the host.
#include <utility>

#include "kernels/core/check.h"
#include "parallel/device_gradient.h"
#include "parallel/row_exchange.h"

namespace mneme {
namespace {

enum Seen : int { kRequested = 0, kDistinct = 1, kSeen = 2 };

class DeviceExchange : public RowExchange {
 public:
  DeviceExchange(Stream& stream, Comm& replicas, const Kernels& kernels,
                 std::unique_ptr<DeviceStore> store)
      : stream_(stream),
        replicas_(replicas),
        kernels_(kernels),
        store_(std::move(store)),
        gradient_(kernels, *store_, replicas, DeviceGradient::kEqual),
        seen_(Tensor::Zeros(stream, DType::kI64, {kSeen}, MemoryTag::kOther)) {
    CHECK_EQ(store_->share().stride, int64_t{1});
  }

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

  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) override {
    gradient_.Add(stream, fetched.ids, drows);
  }
  void ReduceGradients(Stream& stream) override { gradient_.Reduce(stream, seen_); }
  void SumSquares(Stream& stream, Tensor& sum) override { gradient_.SumSquares(stream, sum); }
  void Update(Stream& stream, const Tensor& step) override { gradient_.Update(stream, step); }

  RowStore& store() override { return *store_; }

  RowTraffic traffic() const override {
    int64_t seen[kSeen] = {};
    Download(stream_, seen_, seen, seen_.bytes());
    RowTraffic traffic;
    const int64_t others = replicas_.size() - 1;
    traffic.bytes = seen[kRequested] / replicas_.size() * others * gradient_.request_bytes();
    if (!store_->first()) return traffic;  // each counts the requests of all
    traffic.requested = seen[kRequested];
    traffic.unique = seen[kDistinct];
    return traffic;
  }
  void ResetTraffic() override { Zero(stream_, seen_); }

 private:
  FetchedRows MakeFetched(Stream& stream, int64_t n, DType dtype) const {
    FetchedRows fetched;
    fetched.rows = Tensor::Empty(stream, dtype, {n, store_->spec().width});
    return fetched;
  }

  Stream& stream_;
  Comm& replicas_;
  const Kernels& kernels_;
  std::unique_ptr<DeviceStore> store_;
  DeviceGradient gradient_;
  Tensor seen_;  // i64 [kSeen] since the last ResetTraffic
};

}  // namespace

std::unique_ptr<RowExchange> MakeDeviceExchange(Stream& stream, Comm& replicas,
                                                const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store) {
  return std::make_unique<DeviceExchange>(stream, replicas, kernels, std::move(store));
}

}  // namespace mneme
