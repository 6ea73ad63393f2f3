// The exchange of a table that is spread over devices: a request goes to its owner by number, and
// the host knows of it how many ids each owner is asked for, and no more.
//
// Those counts are made where the ids are, exchanged there, and on their way to the host from the
// moment that a micro-batch is announced. Announced one micro-batch ahead, they have arrived long
// before its rows are asked for, and the device never waits for the host.
#include <deque>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/carry.h"
#include "parallel/device_gradient.h"
#include "parallel/row_exchange.h"

namespace mneme {
namespace {

class SpreadExchange : public RowExchange {
 public:
  SpreadExchange(Comm& axis, Comm& replicas, const Kernels& kernels,
                 std::unique_ptr<DeviceStore> store, int64_t merge_from)
      : axis_(axis),
        replicas_(replicas),
        kernels_(kernels),
        store_(std::move(store)),
        gradient_(kernels, *store_, replicas, merge_from) {
    CHECK_EQ(store_->share().stride, int64_t{axis.size()});
    CHECK_EQ(store_->share().phase, int64_t{axis.rank()});
  }

  void Announce(Stream& stream, const RowQuery& query) override {
    announced_.push_back(Ask(stream, IdsOf(stream, query)));
    announced_.back().tokens = query.tokens.raw();
  }

  Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids, DType dtype) override {
    CHECK(announced_.empty());
    return Bring(stream, Ask(stream, ids), dtype);
  }

  Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) override {
    if (announced_.empty()) return Bring(stream, Ask(stream, IdsOf(stream, query)), dtype);
    CHECK(announced_.front().tokens == query.tokens.raw());
    Question question = std::move(announced_.front());
    announced_.pop_front();
    return Bring(stream, std::move(question), dtype);
  }

  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) override {
    const int64_t sent_before = BytesSent();
    Tensor summed =
        Tensor::Zeros(stream, store_->spec().dtype, {fetched.ids.elements(), store_->spec().width},
                      MemoryTag::kExchange);
    kernels_.scatter_add_rows(stream, drows, fetched.inverse, summed);
    const Tensor carried = Carry(stream, axis_, summed, fetched.send, fetched.recv);
    Settle(stream);
    gradient_.Add(stream, fetched.asked, carried);
    traffic_.bytes += BytesSent() - sent_before;
  }

  void ReduceGradients(Stream& stream) override {
    CHECK(announced_.empty());
    const int64_t sent_before = BytesSent();
    Tensor uncounted;
    Settle(stream);
    gradient_.Reduce(stream, uncounted);
    traffic_.bytes += BytesSent() - sent_before;
  }
  void SumSquares(Stream& stream, Tensor& sum) override { gradient_.SumSquares(stream, sum); }
  void Update(Stream& stream, const Tensor& step) override { gradient_.Update(stream, step); }

  RowStore& store() override { return *store_; }
  RowTraffic traffic() const override { return traffic_; }
  void ResetTraffic() override { traffic_ = {}; }

 private:
  // What a micro-batch asks for, and the way back.
  struct Question {
    const void* tokens = nullptr;  // of the query
    Tensor unique;                 // i64 [n] numbers at their owners, by owner
    Tensor inverse;                // i32 [n]
    Arrival counts;                // i64 [2, members]: asked of each, asked here by each
  };

  // The host waits for the device here, and so for other members.
  void Settle(Stream& stream) {
    const InFlight waiting = axis_.Waiting(Collective::kAllToAll, 0);
    gradient_.Settle(stream);
  }

  int64_t BytesSent() const { return axis_.bytes_sent() + replicas_.bytes_sent(); }

  Tensor IdsOf(Stream& stream, const RowQuery& query) const {
    const int64_t tokens = query.tokens.elements();
    Tensor ids = Tensor::Empty(stream, DType::kI64, {tokens, query.requests() / tokens},
                               MemoryTag::kExchange);
    kernels_.ngram_rows(stream, query.hash, query.tokens, query.canonical, query.length,
                        query.doc_start, ids);
    return ids.Reshape({query.requests()});
  }

  Question Ask(Stream& stream, const Tensor& ids) {
    const int64_t sent_before = BytesSent();
    const int64_t n = ids.elements();
    const int64_t members = axis_.size();
    Question question;
    question.unique = Tensor::Empty(stream, DType::kI64, {n}, MemoryTag::kExchange);
    question.inverse = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
    Tensor counts = Tensor::Empty(stream, DType::kI64, {2 * members}, MemoryTag::kExchange);
    Tensor asked = counts.Flat(0, members);
    Tensor asked_here = counts.Flat(members, 2 * members);
    kernels_.unique_ids(stream, ids, store_->spec().rows, question.unique, question.inverse, asked);
    const std::vector<int64_t> one_each(static_cast<size_t>(members), 1);
    axis_.AllToAll(stream, asked, one_each, asked_here, one_each);
    question.counts = Arrival(stream, counts);
    traffic_.bytes += BytesSent() - sent_before;
    return question;
  }

  Pending<FetchedRows> Bring(Stream& stream, Question question, DType dtype) {
    const int64_t sent_before = BytesSent();
    const int64_t width = store_->spec().width;
    FetchedRows fetched;
    const std::vector<int64_t> counts = ReadCounts(axis_, question.counts, 1);
    fetched.send.assign(counts.begin(), counts.begin() + axis_.size());
    fetched.recv.assign(counts.begin() + axis_.size(), counts.end());
    fetched.inverse = question.inverse;
    fetched.ids = question.unique.Rows(0, Total(fetched.send));
    fetched.asked = Carry(stream, axis_, fetched.ids, fetched.send, fetched.recv);
    // Converted before they travel: to the values that the requests get.
    Tensor found =
        Tensor::Empty(stream, dtype, {fetched.asked.elements(), width}, MemoryTag::kExchange);
    kernels_.gather_rows(stream, store_->values(), fetched.asked, found);
    found = Carry(stream, axis_, found, fetched.recv, fetched.send);
    const int64_t requests = fetched.inverse.elements();
    fetched.rows = Tensor::Empty(stream, dtype, {requests, width});
    kernels_.gather_rows(stream, found, fetched.inverse, fetched.rows);
    traffic_.requested += requests;
    traffic_.unique += fetched.ids.elements();
    traffic_.remote += fetched.ids.elements() - fetched.send[static_cast<size_t>(axis_.rank())];
    traffic_.bytes += BytesSent() - sent_before;
    return Pending<FetchedRows>(std::move(fetched));
  }

  Comm& axis_;
  Comm& replicas_;
  const Kernels& kernels_;
  std::unique_ptr<DeviceStore> store_;
  DeviceGradient gradient_;
  std::deque<Question> announced_;  // the oldest first
  RowTraffic traffic_;
};

}  // namespace

std::unique_ptr<RowExchange> MakeSpreadExchange(Comm& axis, Comm& replicas, const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store,
                                                int64_t merge_from) {
  return std::make_unique<SpreadExchange>(axis, replicas, kernels, std::move(store), merge_from);
}

}  // namespace mneme
