#include "parallel/peer_comm.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/peer.h"
#include "parallel/carry.h"
#include "parallel/nccl_comm.h"
#include "parallel/parts.h"

namespace mneme {
namespace {

// Multiprocessors of a put; the others go on computing. One writes up to 22 GB/s into another GPU
// (two H200s), so these fill NVLink's 360.
constexpr int kPutBlocks = 16;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

// A line of text that travels between members.
struct Line {
  char text[200] = "";

  explicit Line(const std::string& from = "") { std::strncpy(text, from.c_str(), sizeof text - 1); }
  std::string str() const { return text; }
};

template <class T>
std::vector<T> Everyones(Transport& transport, const T& mine) {
  const auto bytes = static_cast<int64_t>(sizeof(T));
  std::vector<T> all(Size(transport.size()));
  std::vector<SendBlock> send(all.size(), SendBlock{&mine, bytes});
  std::vector<ReceiveBlock> recv;
  for (T& one : all) recv.push_back({&one, bytes});
  if (all.size() > 1) transport.Exchange(send, recv);
  all[Size(transport.rank())] = mine;
  return all;
}

// Blocks of device memory, one a member, that the others have opened. Collective.
class OpenedBlocks {
 public:
  OpenedBlocks(Transport& transport, Device device, const PeerDriver& driver)
      : transport_(transport), device_(device), driver_(driver) {}

  // Empty, or why some member has none (mine is null) or reaches not all; then none is open.
  std::string Open(void* mine) {
    struct Offer {
      bool there = false;
      PeerHandle handle{};
    };
    Offer offer;
    std::string why = mine == nullptr ? "it has none" : "";
    offer.there = mine != nullptr && driver_.share(mine, &offer.handle, &why);
    if (!why.empty())
      why = "member " + std::to_string(transport_.rank()) + " does not share its memory (" + why +
            ")";
    const std::vector<Offer> offers = Everyones(transport_, offer);
    at_.assign(offers.size(), nullptr);
    for (size_t r = 0; r < offers.size() && why.empty(); ++r) {
      if (!offers[r].there) {
        break;  // it says why itself
      } else if (r == Size(transport_.rank())) {
        at_[r] = mine;
      } else if (std::string text; !(at_[r] = driver_.open(device_.index, offers[r].handle, &text)))
        why = "member " + std::to_string(transport_.rank()) + " does not reach the memory of " +
              std::to_string(r) + " (" + text + ")";
    }
    for (const Line& line : Everyones(transport_, Line(why))) {
      if (line.str().empty()) continue;
      Close();
      return line.str();
    }
    return "";
  }
  // Every member may free its own after that.
  void Close() {
    if (at_.empty()) return;
    driver_.settle(device_.index);
    transport_.Barrier();
    for (size_t r = 0; r < at_.size(); ++r)
      if (r != Size(transport_.rank()) && at_[r] != nullptr) driver_.close(at_[r]);
    at_.clear();
    transport_.Barrier();
  }
  const std::vector<void*>& at() const { return at_; }

 private:
  Transport& transport_;
  const Device device_;
  const PeerDriver& driver_;
  std::vector<void*> at_;  // empty: none
};

class PeerComm : public Comm, public DirectExchange {
 public:
  PeerComm(std::unique_ptr<Transport> transport, Device device, const std::string& host)
      : transport_(transport->Split(/*color=*/0, transport->rank())),
        pulse_(transport->pulse()),
        device_(device),
        host_(host),
        driver_(*GpuPeers()),
        nccl_(MakeNcclComm(std::move(transport), device)),
        mailboxes_(*transport_, device, driver_),
        stretches_(*transport_, device, driver_) {
    why_not_ = WhyNot();
    group_ = {.members = size(), .me = rank(), .blocks = std::max(kPutBlocks, 2 * size())};
  }
  ~PeerComm() override {
    const InFlight flight = nccl_->Waiting(Collective::kFinish, 0);
    stretches_.Close();
    mailboxes_.Close();
    if (mailbox_ != nullptr) driver_.free_mailbox(mailbox_);
  }
  PeerComm(const PeerComm&) = delete;
  PeerComm& operator=(const PeerComm&) = delete;

  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  bool queues() const override { return true; }
  int64_t bytes_sent() const override { return bytes_sent_ + nccl_->bytes_sent(); }
  int64_t bytes_bounced() const override { return bytes_bounced_; }
  std::string way() const override {
    return why_not_.empty() ? "peer memory" : nccl_->way() + ", not peer memory: " + why_not_;
  }

  std::string ShareMemory(Stream* stream) override {
    if (!why_not_.empty() || size() == 1) return "";
    const InFlight flight = nccl_->Waiting(Collective::kSplit, 0);
    stretches_.Close();
    stretch_ = {};
    group_.stretches = {};
    if (stream == nullptr) return "";
    // Here and not before: most groups of a mesh never exchange.
    if (mailbox_ == nullptr) mailbox_ = driver_.make_mailbox(device_.index);
    if (mailboxes_.at().empty()) {
      if (why_not_ = mailboxes_.Open(mailbox_); !why_not_.empty()) return why_not_;
      std::copy(mailboxes_.at().begin(), mailboxes_.at().end(), group_.mailboxes.begin());
    }
    const auto mine = StretchOf(*stream);
    if (std::string why = stretches_.Open(mine.first); !why.empty()) return why;
    stretch_ = mine;
    std::copy(stretches_.at().begin(), stretches_.at().end(), group_.stretches.begin());
    return "";
  }
  DirectExchange* direct() override { return stretch_.first == nullptr ? nullptr : this; }

  void AllReduce(Stream& stream, Tensor& x, Reduce op) override { nccl_->AllReduce(stream, x, op); }
  void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor& out) override {
    nccl_->ReduceScatter(stream, in, counts, out);
  }
  void AllGather(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                 Tensor& out) override {
    nccl_->AllGather(stream, in, counts, out);
  }
  void Broadcast(Stream& stream, Tensor& x, int root) override {
    nccl_->Broadcast(stream, x, root);
  }
  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) override {
    return nccl_->ExchangeCounts(send);
  }
  InFlight Waiting(Collective collective, int64_t bytes) const override {
    return nccl_->Waiting(collective, bytes);
  }
  std::unique_ptr<Comm> Split(int color, int key, Axis axis) override {
    const InFlight flight = nccl_->Waiting(Collective::kSplit, 0);
    std::unique_ptr<Transport> part = transport_->Split(color, key);
    part->ShowIn(pulse_, axis);
    return MakePeerComm(std::move(part), device_, host_);
  }

  void AllToAll(Stream& stream, const Tensor& in, absl::Span<const int64_t> send, Tensor& out,
                absl::Span<const int64_t> recv) override {
    AllToAllOf(stream, {&in, 1}, send, {&out, 1}, recv);
  }
  void AllToAllOf(Stream& stream, absl::Span<const Tensor> in, absl::Span<const int64_t> send,
                  absl::Span<Tensor> out, absl::Span<const int64_t> recv) override {
    if (direct() == nullptr) return nccl_->AllToAllOf(stream, in, send, out, recv);
    GatherToAll(stream, in, {}, send, out, recv);
  }

  void GatherToAll(Stream& stream, absl::Span<const Tensor> in, const Tensor& index,
                   absl::Span<const int64_t> send, absl::Span<Tensor> out,
                   absl::Span<const int64_t> recv) override {
    CHECK_EQ(static_cast<int>(send.size()), size());
    CHECK_EQ(static_cast<int>(recv.size()), size());
    CHECK_EQ(send[Size(rank())], recv[Size(rank())]);
    // Rows that stand together are as many short ones: of any length, as far as that divides all.
    int64_t rows_of_one = index.defined() ? 1 : 0;
    for (const Tensor& x : in) {
      if (!index.defined()) rows_of_one = std::gcd(rows_of_one, RowBytes(x));
    }
    const auto scaled = [&](absl::Span<const int64_t> counts) {
      std::vector<int64_t> all(counts.begin(), counts.end());
      for (int64_t& n : all) n *= rows_of_one;
      return all;
    };
    int64_t row_bytes = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      row_bytes += RowBytes(in[i]);
      CHECK_EQ(out[i].dim(0), Total({recv.begin(), recv.end()}));
    }
    const int64_t leaving = Total({send.begin(), send.end()}) - send[Size(rank())];
    const InFlight flight = nccl_->Waiting(Collective::kAllToAll, leaving * row_bytes);
    const PeerRoom room = RoomOf(out, rows_of_one);
    for (const Tensor& x : out) {
      if (!room.in_stretch && x.bytes() >= kLeastShared) bytes_bounced_ += x.bytes();
    }
    driver_.rendezvous(stream, group_, room, scaled(send), scaled(recv));
    Put(stream, in, index, out, rows_of_one);
    bytes_sent_ += leaving * row_bytes;
  }

  void Tell(Stream& stream, const Tensor& leaving, absl::Span<const Tensor> out,
            Tensor& told) override {
    const InFlight flight = nccl_->Waiting(Collective::kAllToAll, leaving.bytes());
    driver_.rendezvous_counted(stream, group_, RoomOf(out, 1), leaving, told);
  }
  void PutTold(Stream& stream, absl::Span<const Tensor> in, const Tensor& index,
               absl::Span<Tensor> out) override {
    Put(stream, in, index, out, 1);
  }
  void AddSent(int64_t bytes) override { bytes_sent_ += bytes; }
  void SetBlocks(int blocks) override { group_.blocks = std::max(blocks, 2 * size()); }

 private:
  // Empty, or what is in the way before anybody has tried; the same on all.
  std::string WhyNot() {
    if (size() > kMostPeers) {
      return std::to_string(size()) + " ranks, and it takes at most " + std::to_string(kMostPeers);
    }
    struct Place {
      Line host;
      int64_t process;
    };
    const Place mine = {Line(host_), static_cast<int64_t>(getpid())};
    const std::vector<Place> places = Everyones(*transport_, mine);
    for (size_t r = 1; r < places.size(); ++r) {
      if (places[r].host.str() != places[0].host.str()) return "ranks on several hosts";
      for (size_t other = 0; other < r; ++other)
        if (places[r].process == places[other].process) return "ranks in one process";
    }
    return "";
  }

  // What large tensors of the stream's pool lie in; null where each has a block of its own.
  std::pair<void*, int64_t> StretchOf(Stream& stream) const {
    const Tensor probe = Tensor::Empty(stream, DType::kU8, {kLeastShared}, MemoryTag::kExchange);
    const auto block = driver_.block_of(probe.raw());
    return block.second >= 4 * kLeastShared ? block : std::pair<void*, int64_t>{nullptr, 0};
  }

  PeerRoom RoomOf(absl::Span<const Tensor> out, int64_t rows_of_one) const {
    PeerRoom room;
    CHECK_LE(out.size(), room.offsets.size());
    room.in_stretch = true;
    room.rows = out[0].dim(0) * rows_of_one;
    for (size_t i = 0; i < out.size(); ++i) {
      room.rows = std::min(room.rows, out[i].dim(0) * rows_of_one);
      room.offsets[i] = BytesOf(out[i]) - static_cast<const char*>(stretch_.first);
      room.in_stretch = room.in_stretch && room.offsets[i] >= 0 &&
                        room.offsets[i] + out[i].bytes() <= stretch_.second;
    }
    return room;
  }

  void Put(Stream& stream, absl::Span<const Tensor> in, const Tensor& index, absl::Span<Tensor> out,
           int64_t rows_of_one) {
    CHECK_EQ(stream.device().Name(), device_.Name());
    std::vector<PeerRows> rows;
    for (size_t i = 0; i < in.size(); ++i) {
      CHECK_EQ(RowBytes(in[i]), RowBytes(out[i]));
      rows.push_back({in[i].raw(), out[i].raw(), RowBytes(in[i]) / rows_of_one});
    }
    driver_.put(stream, group_, rows, index.defined() ? index.data<int32_t>() : nullptr);
  }

  std::unique_ptr<Transport> transport_;
  Pulse* pulse_;
  const Device device_;
  const std::string host_;
  const PeerDriver& driver_;
  std::unique_ptr<Comm> nccl_;  // the same members
  OpenedBlocks mailboxes_, stretches_;
  std::string why_not_;  // empty: they can
  void* mailbox_ = nullptr;
  PeerGroup group_;
  std::pair<void*, int64_t> stretch_;  // shared with the others: this one's, and its bytes
  int64_t bytes_sent_ = 0;
  int64_t bytes_bounced_ = 0;
};

}  // namespace

std::unique_ptr<Comm> MakePeerComm(std::unique_ptr<Transport> transport, Device device,
                                   const std::string& host) {
  return std::make_unique<PeerComm>(std::move(transport), device, host);
}

}  // namespace mneme
