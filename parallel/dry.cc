#include "parallel/dry.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/core/arrival.h"
#include "kernels/core/check.h"
#include "kernels/core/dry.h"
#include "parallel/carry.h"
#include "parallel/device_gradient.h"
#include "parallel/parts.h"
#include "parallel/resident_size.h"

namespace mneme {
namespace {

constexpr int64_t kStageBytes = 1 << 20;  // of a reduce-scatter (parallel/comm.cc)

// Kernels of making a device's ids unique (kernels/gpu/unique.cu), and of a sort of their places
// with what goes before and after.
constexpr int64_t kUniqueCalls = 5;
constexpr int64_t kSortCalls = 12;
constexpr double kSortPasses = 4;

int64_t Sum(absl::Span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

class DryComm : public Comm {
 public:
  explicit DryComm(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  int64_t bytes_sent() const override { return bytes_sent_; }

  void AllReduce(Stream& stream, Tensor& x, Reduce) override {
    Send(stream, Wire::kSums, 2 * ToOthers(x.bytes()));
  }

  void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor&) override {
    const int64_t item = SizeOf(in.dtype());
    const int64_t longest = *std::max_element(counts.begin(), counts.end());
    const int64_t stage = std::min(kStageBytes / item, longest);
    const Tensor staged =
        Tensor::Empty(stream, in.dtype(), {size_, size_ == 1 ? 0 : stage}, MemoryTag::kExchange);
    Send(stream, Wire::kSums, ToOthers(in.bytes()));
  }

  void AllGather(Stream& stream, const Tensor&, absl::Span<const int64_t>, Tensor& out) override {
    Send(stream, Wire::kValues, ToOthers(out.bytes()));
  }

  void AllToAll(Stream& stream, const Tensor& in, absl::Span<const int64_t> send, Tensor& out,
                absl::Span<const int64_t> recv) override {
    AllToAllOf(stream, {&in, 1}, send, {&out, 1}, recv);
  }

  // The others send here what this rank sends to them. Counts arrive, since the host reads them.
  void AllToAllOf(Stream& stream, absl::Span<const Tensor> in, absl::Span<const int64_t> send,
                  absl::Span<Tensor> out, absl::Span<const int64_t> recv) override {
    int64_t leaving = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      const Tensor& from = in[i];
      CHECK_EQ(from.dim(0), Sum(send));
      CHECK_EQ(out[i].dim(0), Sum(recv));
      const bool counts = from.dtype() == DType::kI64 && from.bytes() <= Driver::kMostSent;
      if (counts) {
        const int64_t bytes = std::min(from.bytes(), out[i].bytes());
        std::memcpy(out[i].raw(), from.raw(), static_cast<size_t>(bytes));
      }
      const int64_t rows = from.dim(0);
      leaving += rows > 0 ? from.bytes() / rows * (rows - send[0]) : 0;
    }
    Send(stream, Wire::kRows, leaving);
  }

  void Broadcast(Stream& stream, Tensor& x, int) override {
    Send(stream, Wire::kValues, ToOthers(x.bytes()));
  }

  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) override {
    return {send.begin(), send.end()};
  }

  std::unique_ptr<Comm> Split(int, int, Axis) override { return std::make_unique<DryComm>(size_); }

 protected:
  void Send(Stream& stream, Wire wire, int64_t bytes) {
    if (size_ == 1) return;
    bytes_sent_ += bytes;
    LedgerOf(stream).Send(wire, static_cast<double>(bytes));
  }

 private:
  int64_t ToOthers(int64_t bytes) const { return bytes / size_ * (size_ - 1); }

  int size_;
  int64_t bytes_sent_ = 0;
};

// Members that send more tokens to the experts here than this one sends to theirs. What is counted
// are [members, 2] rows and pairs (ExpertExchange).
class DryExpertAxis : public DryComm, public DirectExchange {
 public:
  DryExpertAxis(int size, double load, int64_t most_rows, bool direct)
      : DryComm(size), load_(load), most_rows_(most_rows), direct_(direct) {}
  DirectExchange* direct() override { return direct_ ? this : nullptr; }

  void AllToAllOf(Stream& stream, absl::Span<const Tensor> in, absl::Span<const int64_t> send,
                  absl::Span<Tensor> out, absl::Span<const int64_t> recv) override {
    DryComm::AllToAllOf(stream, in, send, out, recv);
    if (in[0].dtype() == DType::kI64) Load(out[0].data<int64_t>());
  }

  void GatherToAll(Stream& stream, absl::Span<const Tensor> in, const Tensor&,
                   absl::Span<const int64_t> send, absl::Span<Tensor> out,
                   absl::Span<const int64_t>) override {
    leaving_rows_ = Sum(send) - send[0];
    PutTold(stream, in, {}, out);
  }
  void Tell(Stream& stream, const Tensor& leaving, absl::Span<const Tensor> out,
            Tensor& told) override {
    const int64_t n = leaving.elements();
    const auto* from = leaving.data<int64_t>();
    auto* to = told.data<int64_t>();
    std::memmove(to, from, static_cast<size_t>(n) * sizeof(int64_t));
    std::memcpy(to + n, to, static_cast<size_t>(n) * sizeof(int64_t));
    Load(to + n);
    leaving_rows_ = 0;
    int64_t coming = to[n];
    for (int64_t i = 2; i < n; i += 2) {
      leaving_rows_ += to[i];
      coming += to[n + i];
    }
    const bool fits = coming <= out[0].dim(0);
    to[2 * n] = fits ? 1 : 0;
    to[2 * n + 1] = 0;
    if (!fits) leaving_rows_ = 0;
    Send(stream, Wire::kRows, leaving.bytes() / size() * (size() - 1));
  }
  void PutTold(Stream& stream, absl::Span<const Tensor> in, const Tensor&,
               absl::Span<Tensor>) override {
    int64_t row_bytes = 0;
    for (const Tensor& part : in) row_bytes += RowBytes(part);
    Send(stream, Wire::kRows, leaving_rows_ * row_bytes);
  }
  void AddSent(int64_t) override {}

 private:
  // [members, 2] as they come, from those that leave.
  void Load(int64_t* counts) const {
    for (int64_t i = 0; i < 2 * size(); ++i) {
      counts[i] = static_cast<int64_t>(load_ * static_cast<double>(counts[i]));
      if (i % 2 == 0) counts[i] = std::min(counts[i], most_rows_);
    }
  }

  const double load_;
  const int64_t most_rows_;
  const bool direct_;
  int64_t leaving_rows_ = 0;  // to others, of the call in hand, if there is room
};

// Rows of the sums of a step's gradient and entries of their index, as StepGradient and RowIndex
// grow them.
struct GrownRows {
  static constexpr int64_t kFirstEntries = 1024;
  int64_t distinct = 0;
  int64_t room = 0;
  int64_t entries = kFirstEntries;

  void Grow(int64_t rows) {
    distinct = std::max(distinct, rows);
    if (distinct > room) room = std::max(distinct, room + room / 2);
    while (distinct * 4 > entries * 3) entries += entries / 2;
  }
  int64_t bytes(int64_t row_bytes) const { return room * row_bytes + 8 * (entries + distinct); }
};

class DryExchange : public DryTable {
 public:
  DryExchange(Stream& stream, Mesh& mesh, RowTableSpec spec, bool resident)
      : mesh_(mesh),
        spec_(std::move(spec)),
        on_device_(!stream.device().is_cpu()),
        allocator_(stream.allocator()) {
    // On a device every replica keeps all moments.
    const RowShare share = {0, mesh.memory->size(), 0,
                            on_device_ ? 1 : mesh.memory_replicas->size()};
    if (resident) {
      const RowsHeld held = ResidentRows(spec_, share);
      Hold(MemoryTag::kTables,
           (held.kept + held.mirrored) * row_bytes() + (held.kept + held.mirrored + 7) / 8);
      Hold(MemoryTag::kOptimizer, 2 * held.kept * row_bytes());
    }
    Account();
  }
  ~DryExchange() override {
    for (const auto& [tag, bytes] : held_) allocator_.Account(-bytes, tag);
    allocator_.Account(-accounted_, MemoryTag::kGradients);
  }

  Pending<FetchedRows> Fetch(Stream&, const Tensor&, DType) override {
    CHECK(false);
    return {};
  }

  // What is kept between a micro-batch's announcement and its rows.
  void Announce(Stream& stream, const RowQuery& query) override {
    if (!on_device_) return;
    Question& next = announced_.emplace_back();
    next.requests = query.requests();
    next.distinct = Distinct(query.hash, query.canonical.elements(),
                             static_cast<double>(query.tokens.elements()));
    next.asking = SideJob::Run(stream, {}, [&](Stream& side) {
      const Tensor ids = Exchange(side, DType::kI64, {next.requests});
      next.unique = Exchange(side, DType::kI64, {next.requests});
      next.fetched.inverse = Exchange(side, DType::kI32, {next.requests});
      next.fetched.order = Exchange(side, DType::kI32, {next.requests});
      Tensor counts = Exchange(side, DType::kI64, {2 * members()});
      Unique(side, next.requests);
      Tensor here = counts.Flat(members(), 2 * members());
      const std::vector<int64_t> one_each(static_cast<size_t>(members()), 1);
      mesh_.memory->AllToAll(side, counts.Flat(0, members()), one_each, here, one_each);
      next.counts = Arrival(side, counts);
    });
  }

  Pending<FetchedRows> Fetch(Stream& stream, const RowQuery& query, DType dtype) override {
    auto coming = std::make_shared<Question>();
    tokens_ += query.tokens.elements();
    hash_ = query.hash;
    vocabulary_ = query.canonical.elements();
    step_distinct_ = Distinct(hash_, vocabulary_, static_cast<double>(tokens_));
    Tensor ids;
    if (on_device_) {
      if (announced_.empty()) Announce(stream, query);
      *coming = std::move(announced_.front());
      announced_.pop_front();
      Tell(stream, *coming);
    } else {
      ids = Exchange(stream, DType::kI64, {query.requests()});
      AskOnHost(stream, query, *coming);
    }
    coming->bringing =
        SideJob::Run(stream, {}, [&](Stream& side) { BringRows(side, dtype, *coming); });
    return Pending<FetchedRows>::After([this, coming](Stream&) {
      coming->bringing.Join();
      coming->asking.Join();
      coming->telling.Join();
      gradients_.Join();
      return std::move(coming->fetched);
    });
  }

  void PushGradient(Stream& stream, const FetchedRows& fetched, const Tensor& drows) override {
    const int64_t distinct = fetched.ids.elements();
    gradients_ = SideJob::Run(stream, {drows}, [&](Stream& side) {
      Tensor summed = Exchange(side, spec_.dtype, {distinct, spec_.width});
      if (on_device_) SortOthers(side, fetched.inverse.elements() - distinct);
      if (members() > 1) summed = Carried(side, *mesh_.memory, summed);
      if (on_device_) {
        AddPart(side, fetched.asked, summed);
      } else {
        sums_.Grow(step_distinct_);
        Account();
      }
      LedgerOf(side).Add(Work::kTables, 0, static_cast<double>(drows.bytes() + 2 * summed.bytes()));
    });
    for (Question& question : announced_) Tell(stream, question);
    ++pushed_;
  }

  // They leave the sums of all, and beside these so much that the last one starts their summing
  // again: then most stands there.
  void Skip(Stream& stream, int64_t micro_batches) override {
    if (!on_device_ || parts_.empty() || micro_batches < 1) return;
    Settle(stream);
    int64_t came = last_part_ * micro_batches;
    tokens_ += micro_batches * tokens_ / pushed_;
    pushed_ += micro_batches;
    if (merged_ + fresh_ + came >= kMergeFrom) {
      const int64_t sums = std::min(merged_ + fresh_ + came, DistinctHere());
      parts_ = {Part(stream, sums)};
      merged_ = sums;
      fresh_ = 0;
      came = std::min(came, DeviceGradient::MergeAt(merged_, kMergeFrom) - 1);
    }
    parts_.push_back(Part(stream, came));
    fresh_ += came;
  }

  void ReduceGradients(Stream& stream) override {
    if (on_device_) {
      gradients_ = SideJob::Run(stream, {}, [&](Stream& side) { Group(side); });
      return;
    }
    const int64_t n = step_distinct_;
    const auto make = [&](DType dtype, Shape shape) {
      return Tensor::Empty(stream, dtype, shape, MemoryTag::kGradients);
    };
    ids_ = make(DType::kI64, {n});
    grads_ = make(spec_.dtype, {n, spec_.width});
    if (mesh_.memory_replicas->size() == 1) return;
    const Tensor moved = Exchange(stream, spec_.dtype, {n, spec_.width});
    const Tensor theirs = Carried(stream, *mesh_.memory_replicas, moved);
  }

  void SumSquares(Stream&, Tensor&) override { gradients_.Join(); }

  void Update(Stream& stream, const Tensor&) override {
    gradients_.Join();
    const double rows = static_cast<double>(step_distinct_ * row_bytes());
    LedgerOf(stream).Add(Work::kTables, 0, 7.0 * rows);
    ids_ = grads_ = Tensor();
    parts_.clear();
    merged_ = fresh_ = 0;
    tokens_ = 0;
    pushed_ = 0;
  }

  RowStore& store() override {
    CHECK(false);
    return *none_;
  }
  RowTraffic traffic() const override { return {}; }
  void ResetTraffic() override {}

 private:
  // SpreadExchange's, with how many of the requests are distinct.
  struct Question {
    int64_t requests = 0, distinct = 0;
    Tensor unique;
    Arrival counts;
    FetchedRows fetched;
    SideJob asking, telling, bringing;
  };

  void Tell(Stream& stream, Question& question) {
    FetchedRows& fetched = question.fetched;
    if (fetched.ids.defined()) return;
    ReadCounts(*mesh_.memory, question.counts, 1);
    fetched.ids = question.unique.Rows(0, question.distinct);
    question.telling = SideJob::Run(stream, {}, [&](Stream& side) {
      fetched.asked = fetched.ids;
      if (members() > 1) fetched.asked = Carried(side, *mesh_.memory, fetched.ids);
    });
  }

  void AskOnHost(Stream& stream, const RowQuery& query, Question& question) {
    FetchedRows& fetched = question.fetched;
    question.requests = query.requests();
    question.distinct = Distinct(hash_, vocabulary_, static_cast<double>(query.tokens.elements()));
    fetched.inverse = Exchange(stream, DType::kI32, {question.requests});
    fetched.order = Exchange(stream, DType::kI32, {question.requests});
    question.unique = Exchange(stream, DType::kI64, {question.requests});
    fetched.ids = question.unique.Rows(0, question.distinct);
    fetched.asked = fetched.ids;
    if (members() > 1) fetched.asked = Carried(stream, *mesh_.memory, fetched.ids);
  }

  // On a device those that this rank holds itself do not travel.
  void BringRows(Stream& side, DType dtype, Question& question) {
    FetchedRows& fetched = question.fetched;
    std::vector<int64_t> parts = EqualParts(*mesh_.memory, question.distinct);
    const int64_t here = on_device_ ? std::exchange(parts[0], 0) : 0;
    const DType carried = on_device_ ? dtype : spec_.dtype;
    Tensor found = Exchange(side, carried, {question.distinct - here, spec_.width});
    const double read = static_cast<double>(found.bytes());
    if (on_device_) {
      found = Carry(side, *mesh_.memory, found, parts, parts);
    } else if (members() > 1) {
      found = Carried(side, *mesh_.memory, found);
    }
    fetched.rows = Tensor::Empty(side, dtype, {question.requests, spec_.width});
    LedgerOf(side).Add(Work::kTables, 0,
                       static_cast<double>(fetched.rows.bytes()) + 3.0 * read +
                           static_cast<double>(here * row_bytes()));
  }

  // Rows that came in one, or their sums: ids and gradients.
  struct Summed {
    Tensor ids, grads;
  };
  Summed Part(Stream& stream, int64_t rows) const {
    return {Exchange(stream, DType::kI64, {rows}),
            Exchange(stream, spec_.dtype, {rows, spec_.width})};
  }

  // The four that follow are DeviceGradient's.
  void AddPart(Stream& stream, const Tensor& ids, const Tensor& grads) {
    Settle(stream);
    parts_.push_back({ids, grads});
    last_part_ = ids.elements();
    fresh_ += last_part_;
    if (fresh_ >= DeviceGradient::MergeAt(merged_, kMergeFrom)) BeginMerge(stream);
  }
  void BeginMerge(Stream& stream) {
    int64_t rows = 0;
    for (const Summed& part : parts_) rows += part.ids.elements();
    const Tensor all_ids = Exchange(stream, DType::kI64, {rows});
    merging_ = {Exchange(stream, DType::kI64, {rows}), Exchange(stream, DType::kI32, {rows})};
    const Tensor count = Exchange(stream, DType::kI64, {1});
    Unique(stream, rows);
    distinct_ = Arrival(stream, count);
  }
  void Settle(Stream& stream) {
    if (!merging_.ids.defined()) return;
    distinct_.Wait({&came_distinct_, 1});
    merged_ = std::min(merging_.ids.elements(), DistinctHere());
    parts_ = {Part(stream, merged_)};
    merging_ = {};
    fresh_ = 0;
  }
  void Group(Stream& stream) {
    Settle(stream);
    if (parts_.size() > 1) {
      BeginMerge(stream);
      Settle(stream);
    }
    int64_t rows = parts_.empty() ? 0 : parts_[0].ids.elements();
    if (mesh_.memory_replicas->size() > 1) {
      rows *= mesh_.memory_replicas->size();
      parts_ = {Part(stream, rows)};
      for (Tensor* all : {&parts_[0].ids, &parts_[0].grads})
        mesh_.memory_replicas->AllGather(stream, {}, {}, *all);
    }
    const Tensor sort = Exchange(stream, DType::kI32, {5 * rows});
    Sort(stream, rows);
    grads_ = Exchange(stream, spec_.dtype, {rows / kLongGroup + 1, spec_.width});
  }

  // Of this step so far, the rows that this rank owns: the members' tokens ask for them.
  int64_t DistinctHere() const {
    const int members = mesh_.memory->size();
    return Distinct(hash_, vocabulary_, static_cast<double>(tokens_ * members)) / members;
  }

  static void Sort(Stream& stream, int64_t rows) {
    const double bytes = 2.0 * kSortPasses * static_cast<double>(rows) * (4.0 + 4.0);
    LedgerOf(stream).Add(Work::kTables, {kSortCalls, 0.0, bytes});
  }
  // The table of slots and the places of first requests.
  static void Unique(Stream& stream, int64_t requests) {
    const auto slots = static_cast<int64_t>(
        std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(2 * requests, 2))));
    const Tensor claimed = Tensor::Empty(stream, DType::kI32, {slots}, MemoryTag::kWorkspace);
    const Tensor place = Tensor::Empty(stream, DType::kI32, {requests}, MemoryTag::kWorkspace);
    const double bytes = static_cast<double>(2 * claimed.bytes() + requests * (3 * 8 + 8 * 4));
    LedgerOf(stream).Add(Work::kTables, {kUniqueCalls, 0.0, bytes});
  }
  // Requests that are not the first of their row, for their sums: keys and numbers, twice.
  void SortOthers(Stream& stream, int64_t others) const {
    if (others < 1) return;
    const Tensor sort = Exchange(stream, DType::kI32, {4 * others});
    Sort(stream, others);
  }
  int64_t members() const { return mesh_.memory->size(); }
  static std::vector<int64_t> EqualParts(const Comm& axis, int64_t rows) {
    std::vector<int64_t> parts;
    for (int r = 0; r < axis.size(); ++r) parts.push_back(PartOf(rows, axis.size(), r).size());
    return parts;
  }
  // An equal part of it to each member, and as much back.
  static Tensor Carried(Stream& stream, Comm& axis, const Tensor& x) {
    const std::vector<int64_t> parts = EqualParts(axis, x.dim(0));
    return Carry(stream, axis, x, parts, parts);
  }
  int64_t row_bytes() const { return spec_.width * SizeOf(spec_.dtype); }
  static Tensor Exchange(Stream& stream, DType dtype, Shape shape) {
    return Tensor::Empty(stream, dtype, shape, MemoryTag::kExchange);
  }

  int64_t Distinct(const NgramHash& hash, int64_t vocabulary, double tokens) const {
    double rows = 0.0;
    for (size_t i = 0; i < hash.primes.size(); ++i) {
      const int64_t order = hash.orders[i / static_cast<size_t>(hash.heads)];
      rows += DistinctNgrams(order, vocabulary, tokens, static_cast<double>(hash.primes[i]));
    }
    return static_cast<int64_t>(rows);
  }

  void Hold(MemoryTag tag, int64_t bytes) {
    allocator_.Account(bytes, tag);
    held_.emplace_back(tag, bytes);
  }
  void Account() {
    const int64_t now = sums_.bytes(row_bytes());
    allocator_.Account(now - accounted_, MemoryTag::kGradients);
    accounted_ = now;
  }

  Mesh& mesh_;
  const RowTableSpec spec_;
  const bool on_device_;
  Allocator& allocator_;
  NgramHash hash_;  // of the last query, and over how many ids
  int64_t vocabulary_ = 0;
  std::deque<Question> announced_;
  std::vector<Summed> parts_;  // of this step on a device, as DeviceGradient has them
  Summed merging_;             // distinct ids and places of parts that are being summed
  Arrival distinct_;           // how many these are, which is estimated here
  int64_t came_distinct_ = 0;
  int64_t merged_ = 0;     // rows summed before, the first part
  int64_t fresh_ = 0;      // rows of the others
  int64_t last_part_ = 0;  // rows
  std::vector<std::pair<MemoryTag, int64_t>> held_;
  GrownRows sums_;
  int64_t accounted_ = 0;
  int64_t tokens_ = 0;         // of this step
  int64_t step_distinct_ = 0;  // rows of this step's gradient
  int64_t pushed_ = 0;         // micro-batches of this step
  SideJob gradients_;          // what was last done with them
  Tensor ids_, grads_;
  RowStore* none_ = nullptr;
};

std::unique_ptr<Comm> MakeDryComm(int size) { return std::make_unique<DryComm>(size); }

}  // namespace

Mesh MakeDryMesh(const Layout& layout, double expert_load, int64_t tokens) {
  Mesh mesh;
  mesh.layout = layout;
  mesh.world = MakeDryComm(layout.world);
  mesh.expert = std::make_unique<DryExpertAxis>(layout.expert, expert_load, tokens,
                                                layout.ByPeers(layout.expert));
  mesh.expert_replicas = MakeDryComm(layout.expert_replicas());
  mesh.memory = MakeDryComm(layout.memory);
  mesh.memory_replicas = MakeDryComm(layout.memory_replicas());
  return mesh;
}

double DistinctNgrams(int64_t order, int64_t vocabulary, double tokens, double rows) {
  // Shares of distinct n-grams of English prose among kAt tokens, orders 1, 2, ...: of bytes, and
  // of a vocabulary of 32,768. Straight lines between them, in logarithms.
  constexpr size_t kPoints = 3, kOrders = 6;
  constexpr double kAt[kPoints] = {512, 4096, 65536};
  constexpr double kShares[2][kOrders][kPoints] = {{{0.1, 0.015, 0.001},
                                                    {0.410, 0.113, 0.014},
                                                    {0.736, 0.370, 0.074},
                                                    {0.868, 0.607, 0.205},
                                                    {0.928, 0.754, 0.372},
                                                    {0.959, 0.848, 0.530}},
                                                   {{0.45, 0.25, 0.1},
                                                    {0.800, 0.653, 0.539},
                                                    {0.891, 0.803, 0.767},
                                                    {0.929, 0.868, 0.856},
                                                    {0.95, 0.90, 0.88},
                                                    {0.96, 0.92, 0.90}}};
  constexpr int64_t kBytes = 1024;  // fewer ids are bytes and a few marks
  if (tokens < 1 || order < 1) return 0;
  const auto place = static_cast<size_t>(std::min<int64_t>(order, kOrders)) - 1;
  const auto& shares = kShares[vocabulary > kBytes ? 1 : 0][place];
  const size_t piece = tokens < kAt[1] ? 0 : 1;
  const double along = std::log(tokens / kAt[piece]) / std::log(kAt[piece + 1] / kAt[piece]);
  const double share = shares[piece] * std::pow(shares[piece + 1] / shares[piece], along);
  const double distinct = tokens * std::min(1.0, share);
  // Some of them meet in a row.
  return rows * -std::expm1(-distinct / rows);
}

std::unique_ptr<DryTable> MakeDryExchange(Stream& stream, Mesh& mesh, RowTableSpec spec,
                                          bool resident) {
  return std::make_unique<DryExchange>(stream, mesh, std::move(spec), resident);
}

}  // namespace mneme
