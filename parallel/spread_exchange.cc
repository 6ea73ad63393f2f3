// The exchange of a table that is spread over devices: a request goes to its owner by number, and
// the host knows of it how many ids each owner is asked for, and no more.
//
// Those counts are made where the ids are, exchanged there, and on their way to the host from the
// moment that a micro-batch is announced. Announced one micro-batch ahead, they have arrived long
// before its rows are asked for, and the device never waits for the host.
//
// All of it runs beside the stream (kernels/core/side.h): rows come while the blocks before their
// layer compute, gradients leave while those of the same blocks do.
#include <deque>
#include <memory>
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
    announced_.push_back(Ask(stream, query));
  }

  Pending<FetchedRows> Fetch(Stream& stream, const Tensor& ids, DType dtype) override {
    CHECK(announced_.empty());
    Question question;
    question.job = SideJob::Run(stream, {ids}, [&](Stream& side) { AskFor(side, ids, question); });
    return Bring(stream, std::move(question), dtype);
  }

  Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) override {
    if (announced_.empty()) return Bring(stream, Ask(stream, query), dtype);
    CHECK(announced_.front().tokens == query.tokens.raw());
    Question question = std::move(announced_.front());
    announced_.pop_front();
    return Bring(stream, std::move(question), dtype);
  }

  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) override {
    pushed_ = SideJob::Run(stream, {drows}, [&](Stream& side) {
      const int64_t sent_before = BytesSent();
      const Shape shape = {fetched.ids.elements(), store_->spec().width};
      Tensor summed = Tensor::Zeros(side, store_->spec().dtype, shape, MemoryTag::kExchange);
      kernels_.scatter_add_rows(side, drows, fetched.inverse, summed);
      const Tensor carried = Carry(side, axis_, summed, fetched.send, fetched.recv);
      Settle(side);
      gradient_.Add(side, fetched.asked, carried);
      traffic_.bytes += BytesSent() - sent_before;
    });
  }

  void ReduceGradients(Stream& stream) override {
    CHECK(announced_.empty());
    pushed_ = SideJob::Run(stream, {}, [&](Stream& side) {
      const int64_t sent_before = BytesSent();
      Tensor uncounted;
      Settle(side);
      gradient_.Reduce(side, uncounted);
      traffic_.bytes += BytesSent() - sent_before;
    });
  }
  void SumSquares(Stream& stream, Tensor& sum) override {
    pushed_.Join();
    gradient_.SumSquares(stream, sum);
  }
  void Update(Stream& stream, const Tensor& step) override {
    pushed_.Join();
    gradient_.Update(stream, step);
  }

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
    SideJob job;
  };

  // The host waits for the device here, and so for other members.
  void Settle(Stream& side) {
    const InFlight waiting = axis_.Waiting(Collective::kAllToAll, 0);
    gradient_.Settle(side);
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

  Question Ask(Stream& stream, const RowQuery& query) {
    Question question;
    question.tokens = query.tokens.raw();
    question.job = SideJob::Run(stream, {query.tokens, query.canonical, query.doc_start},
                                [&](Stream& side) { AskFor(side, IdsOf(side, query), question); });
    return question;
  }

  void AskFor(Stream& side, const Tensor& ids, Question& question) {
    const int64_t sent_before = BytesSent();
    const int64_t n = ids.elements();
    const int64_t members = axis_.size();
    question.unique = Tensor::Empty(side, DType::kI64, {n}, MemoryTag::kExchange);
    question.inverse = Tensor::Empty(side, DType::kI32, {n}, MemoryTag::kExchange);
    Tensor counts = Tensor::Empty(side, DType::kI64, {2 * members}, MemoryTag::kExchange);
    Tensor asked = counts.Flat(0, members);
    Tensor asked_here = counts.Flat(members, 2 * members);
    kernels_.unique_ids(side, ids, store_->spec().rows, question.unique, question.inverse, asked);
    const std::vector<int64_t> one_each(static_cast<size_t>(members), 1);
    axis_.AllToAll(side, asked, one_each, asked_here, one_each);
    question.counts = Arrival(side, counts);
    traffic_.bytes += BytesSent() - sent_before;
  }

  // The rows of a question on their way to whoever waits for them.
  struct Coming {
    FetchedRows fetched;
    SideJob asked, brought;
  };

  Pending<FetchedRows> Bring(Stream& stream, Question question, DType dtype) {
    auto coming = std::make_shared<Coming>();
    coming->asked = std::move(question.job);
    FetchedRows& fetched = coming->fetched;
    const std::vector<int64_t> counts = ReadCounts(axis_, question.counts, 1);
    fetched.send.assign(counts.begin(), counts.begin() + axis_.size());
    fetched.recv.assign(counts.begin() + axis_.size(), counts.end());
    fetched.inverse = question.inverse;
    fetched.ids = question.unique.Rows(0, Total(fetched.send));
    coming->brought =
        SideJob::Run(stream, {}, [&](Stream& side) { BringRows(side, dtype, fetched); });
    return Pending<FetchedRows>::After([this, coming](Stream&) {
      coming->brought.Join();
      // Jobs before it are done as well; what they were lent goes back.
      coming->asked.Join();
      pushed_.Join();
      return std::move(coming->fetched);
    });
  }

  void BringRows(Stream& side, DType dtype, FetchedRows& fetched) {
    const int64_t sent_before = BytesSent();
    const int64_t width = store_->spec().width;
    fetched.asked = Carry(side, axis_, fetched.ids, fetched.send, fetched.recv);
    // Converted before they travel: to the values that the requests get.
    Tensor found =
        Tensor::Empty(side, dtype, {fetched.asked.elements(), width}, MemoryTag::kExchange);
    kernels_.gather_rows(side, store_->values(), fetched.asked, found);
    found = Carry(side, axis_, found, fetched.recv, fetched.send);
    const int64_t requests = fetched.inverse.elements();
    fetched.rows = Tensor::Empty(side, dtype, {requests, width});
    kernels_.gather_rows(side, found, fetched.inverse, fetched.rows);
    traffic_.requested += requests;
    traffic_.unique += fetched.ids.elements();
    traffic_.remote += fetched.ids.elements() - fetched.send[static_cast<size_t>(axis_.rank())];
    traffic_.bytes += BytesSent() - sent_before;
  }

  Comm& axis_;
  Comm& replicas_;
  const Kernels& kernels_;
  std::unique_ptr<DeviceStore> store_;
  DeviceGradient gradient_;
  std::deque<Question> announced_;  // the oldest first
  SideJob pushed_;                  // the last gradients that left, then what became of all
  RowTraffic traffic_;
};

}  // namespace

std::unique_ptr<RowExchange> MakeSpreadExchange(Comm& axis, Comm& replicas, const Kernels& kernels,
                                                std::unique_ptr<DeviceStore> store,
                                                int64_t merge_from) {
  return std::make_unique<SpreadExchange>(axis, replicas, kernels, std::move(store), merge_from);
}

}  // namespace mneme
