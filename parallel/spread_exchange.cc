// The exchange of a table that is spread over devices: a request goes to its owner by number, and
// the host knows of it how many ids each owner is asked for, and no more.
//
// Those counts are made where the ids are, exchanged there, and on their way to the host from the
// moment that a micro-batch is announced. Announced one micro-batch ahead, they arrive while it
// computes; then, with its gradients, the numbers go to their owners. When its rows are asked for,
// owners know what to send, and what is left is gather, wire, and the rows to their requests. Rows
// that this rank holds itself are read from the table by their requests, and travel nowhere.
//
// All of it runs beside the stream (kernels/core/side.h): rows come while the blocks before their
// layer compute, gradients leave while those of the same blocks do.
#include <deque>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

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
    question.asking =
        SideJob::Run(stream, {ids}, [&](Stream& side) { AskFor(side, ids, question); });
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
      Tensor summed = Tensor::Empty(side, store_->spec().dtype, shape, MemoryTag::kExchange);
      kernels_.sum_unique(side, drows, fetched.inverse, fetched.order, summed);
      const Tensor carried = Carry(side, axis_, summed, fetched.send, fetched.recv);
      Settle(side);
      gradient_.Add(side, fetched.asked, carried);
      traffic_.bytes += BytesSent() - sent_before;
    });
    // The counts of what was announced before this micro-batch are there, or will be before the
    // device has done what is queued.
    for (Question& question : announced_) Tell(stream, question);
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
  // What a micro-batch asks for. Asked: its ids are distinct and counted. Told: owners have them.
  struct Question {
    const void* tokens = nullptr;  // of the query
    Tensor unique;                 // i64 [n] numbers at their owners, by owner
    Arrival counts;                // i64 [2, members]: asked of each, asked here by each
    FetchedRows fetched;           // `order` and `inverse` from asking on; once told all but rows
    SideJob asking, telling, bringing;

    bool told() const { return !fetched.send.empty(); }
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
    question.asking =
        SideJob::Run(stream, {query.tokens, query.canonical, query.doc_start},
                     [&](Stream& side) { AskFor(side, IdsOf(side, query), question); });
    return question;
  }

  void AskFor(Stream& side, const Tensor& ids, Question& question) {
    const int64_t sent_before = BytesSent();
    const int64_t n = ids.elements();
    const int64_t members = axis_.size();
    FetchedRows& fetched = question.fetched;
    question.unique = Tensor::Empty(side, DType::kI64, {n}, MemoryTag::kExchange);
    fetched.inverse = Tensor::Empty(side, DType::kI32, {n}, MemoryTag::kExchange);
    fetched.order = Tensor::Empty(side, DType::kI32, {n}, MemoryTag::kExchange);
    Tensor counts = Tensor::Empty(side, DType::kI64, {2 * members}, MemoryTag::kExchange);
    Tensor asked = counts.Flat(0, members);
    Tensor asked_here = counts.Flat(members, 2 * members);
    kernels_.unique_ids(side, ids, store_->spec().rows, question.unique, fetched.inverse,
                        fetched.order, asked);
    const std::vector<int64_t> one_each(static_cast<size_t>(members), 1);
    axis_.AllToAll(side, asked, one_each, asked_here, one_each);
    question.counts = Arrival(side, counts);
    traffic_.bytes += BytesSent() - sent_before;
  }

  // The host waits for the counts, and the numbers go to their owners. Once.
  void Tell(Stream& stream, Question& question) {
    if (question.told()) return;
    FetchedRows& fetched = question.fetched;
    const std::vector<int64_t> counts = ReadCounts(axis_, question.counts, 1);
    fetched.send.assign(counts.begin(), counts.begin() + axis_.size());
    fetched.recv.assign(counts.begin() + axis_.size(), counts.end());
    fetched.ids = question.unique.Rows(0, Total(fetched.send));
    question.telling = SideJob::Run(stream, {}, [&](Stream& side) {
      const int64_t sent_before = BytesSent();
      fetched.asked = Carry(side, axis_, fetched.ids, fetched.send, fetched.recv);
      traffic_.bytes += BytesSent() - sent_before;
    });
  }

  Pending<FetchedRows> Bring(Stream& stream, Question question, DType dtype) {
    auto coming = std::make_shared<Question>(std::move(question));
    Tell(stream, *coming);
    coming->bringing =
        SideJob::Run(stream, {}, [&](Stream& side) { BringRows(side, dtype, coming->fetched); });
    return Pending<FetchedRows>::After([this, coming](Stream&) {
      coming->bringing.Join();
      // Jobs before it are done as well; what they were lent goes back.
      coming->asking.Join();
      coming->telling.Join();
      pushed_.Join();
      return std::move(coming->fetched);
    });
  }

  void BringRows(Stream& side, DType dtype, FetchedRows& fetched) {
    const int64_t sent_before = BytesSent();
    const auto me = static_cast<size_t>(axis_.rank());
    const int64_t own = fetched.send[me];
    std::vector<int64_t> leaving = fetched.recv;
    std::vector<int64_t> coming = fetched.send;
    leaving[me] = coming[me] = 0;
    const Tensor found = FoundForOthers(side, dtype, fetched, Total(leaving));
    const Tensor came = Carry(side, axis_, found, leaving, coming);
    const int64_t first =
        std::accumulate(coming.begin(), coming.begin() + axis_.rank(), int64_t{0});
    const int64_t requests = fetched.inverse.elements();
    fetched.rows = Tensor::Empty(side, dtype, {requests, store_->spec().width});
    kernels_.deal_rows(side, store_->values(), fetched.ids.Rows(first, first + own), first, came,
                       fetched.inverse, fetched.rows);
    traffic_.requested += requests;
    traffic_.unique += fetched.ids.elements();
    traffic_.remote += fetched.ids.elements() - own;
    traffic_.bytes += BytesSent() - sent_before;
  }

  // What the others asked for here: `rows` rows, by who asked. Converted before they travel: to the
  // values that the requests get.
  Tensor FoundForOthers(Stream& side, DType dtype, const FetchedRows& fetched, int64_t rows) const {
    Tensor found = Tensor::Empty(side, dtype, {rows, store_->spec().width}, MemoryTag::kExchange);
    const int64_t own_begin =
        std::accumulate(fetched.recv.begin(), fetched.recv.begin() + axis_.rank(), int64_t{0});
    const int64_t asked = fetched.asked.elements();
    const auto gather = [&](int64_t begin, int64_t end, int64_t to) {
      if (begin == end) return;
      Tensor part = found.Rows(to, to + end - begin);
      kernels_.gather_rows(side, store_->values(), fetched.asked.Rows(begin, end), part);
    };
    gather(0, own_begin, 0);
    gather(asked - (rows - own_begin), asked, own_begin);
    return found;
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
