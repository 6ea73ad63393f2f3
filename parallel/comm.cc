#include "parallel/comm.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/core/check.h"
#include "parallel/layout.h"
#include "parallel/parts.h"

namespace mneme {
namespace {

// Up to this size everyone sends everything to everyone: one message instead of two.
constexpr int64_t kSmallBytes = 8 << 10;
// A reduce-scatter stages at most this much of one part at a time.
constexpr int64_t kStageBytes = 1 << 20;

// sum[i] <- sum[i] op x[i].
template <class T>
void Combine(const T* x, int64_t n, Reduce op, T* sum) {
  if (op == Reduce::kSum) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
  } else {
    for (int64_t i = 0; i < n; ++i) {
      if (x[i] > sum[i] || x[i] != x[i]) sum[i] = x[i];  // x != x: a NaN stays
    }
  }
}

// out[i] = ((x0[i] + x1[i]) + x2[i]) + …; out may be one of the inputs.
template <class T>
void CombineInOrder(const std::vector<const T*>& inputs, int64_t n, Reduce op, T* out) {
  constexpr int64_t kBlock = 512;
  T sum[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    std::copy_n(inputs[0] + begin, count, sum);
    for (size_t r = 1; r < inputs.size(); ++r) {
      Combine(inputs[r] + begin, count, op, sum);
    }
    std::copy_n(sum, count, out + begin);
  }
}

template <class F>
void DispatchNumber(DType dtype, F&& f) {
  if (dtype == DType::kI32) {
    f(int32_t{});
  } else if (dtype == DType::kI64) {
    f(int64_t{});
  } else {
    DispatchReal(dtype, f);
  }
}

void CopyUnlessSame(char* to, const char* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

class TransportComm : public Comm {
 public:
  explicit TransportComm(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  int64_t bytes_sent() const override { return bytes_sent_; }

  void AllReduce(Stream& stream, Tensor& x, Reduce op) override {
    if (size() == 1 || x.elements() == 0) return;
    const InFlight flight = Note(Collective::kAllReduce, x.bytes());
    if (x.bytes() <= kSmallBytes) {
      DispatchNumber(x.dtype(), [&](auto zero) { AllReduceSmall<decltype(zero)>(stream, x, op); });
      return;
    }
    std::vector<int64_t> counts;
    for (int r = 0; r < size(); ++r) counts.push_back(PartOf(x.elements(), size(), r).size());
    const Range mine = PartOf(x.elements(), size(), rank());
    Tensor part = x.Flat(mine.begin, mine.end);
    ScatterReduced(stream, x, counts, op, part);
    AllGather(stream, part, counts, x);
  }

  void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor& out) override {
    const InFlight flight = Note(Collective::kReduceScatter, in.bytes());
    ScatterReduced(stream, in, counts, Reduce::kSum, out);
  }

  void AllGather(Stream&, const Tensor& in, absl::Span<const int64_t> counts,
                 Tensor& out) override {
    const InFlight flight = Note(Collective::kAllGather, in.bytes());
    CHECK_EQ(static_cast<int>(counts.size()), size());
    const std::vector<int64_t> starts = PartStarts(counts);
    CHECK_EQ(in.elements(), counts[Me()]);
    CHECK_EQ(out.elements(), starts.back());
    const int64_t item = SizeOf(out.dtype());
    std::vector<SendBlock> send(counts.size(), SendBlock{in.raw(), in.bytes()});
    std::vector<ReceiveBlock> recv;
    for (size_t r = 0; r < counts.size(); ++r) {
      recv.push_back({BytesOf(out) + starts[r] * item, counts[r] * item});
    }
    CopyUnlessSame(static_cast<char*>(recv[Me()].data), BytesOf(in), in.bytes());
    Exchange(send, recv);
  }

  void AllToAll(Stream&, const Tensor& in, absl::Span<const int64_t> send_rows, Tensor& out,
                absl::Span<const int64_t> recv_rows) override {
    const InFlight flight = Note(Collective::kAllToAll, in.bytes());
    CHECK_EQ(static_cast<int>(send_rows.size()), size());
    CHECK_EQ(static_cast<int>(recv_rows.size()), size());
    const std::vector<int64_t> send_starts = PartStarts(send_rows);
    const std::vector<int64_t> recv_starts = PartStarts(recv_rows);
    CHECK_EQ(in.dim(0), send_starts.back());
    CHECK_EQ(out.dim(0), recv_starts.back());
    CHECK_EQ(RowBytes(in), RowBytes(out));
    const int64_t row = RowBytes(in);
    std::vector<SendBlock> send;
    std::vector<ReceiveBlock> recv;
    for (size_t r = 0; r < send_rows.size(); ++r) {
      send.push_back({BytesOf(in) + send_starts[r] * row, send_rows[r] * row});
      recv.push_back({BytesOf(out) + recv_starts[r] * row, recv_rows[r] * row});
    }
    CHECK_EQ(send[Me()].bytes, recv[Me()].bytes);
    CopyUnlessSame(static_cast<char*>(recv[Me()].data), static_cast<const char*>(send[Me()].data),
                   send[Me()].bytes);
    Exchange(send, recv);
  }

  void Broadcast(Stream&, Tensor& x, int root) override {
    const InFlight flight = Note(Collective::kBroadcast, x.bytes());
    std::vector<SendBlock> send(static_cast<size_t>(size()));
    std::vector<ReceiveBlock> recv(send.size());
    if (rank() == root) {
      std::fill(send.begin(), send.end(), SendBlock{x.raw(), x.bytes()});
    } else {
      recv[static_cast<size_t>(root)] = {x.raw(), x.bytes()};
    }
    Exchange(send, recv);
  }

  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send_counts) override {
    const InFlight flight =
        Note(Collective::kExchangeCounts, static_cast<int64_t>(sizeof(int64_t)) * size());
    CHECK_EQ(static_cast<int>(send_counts.size()), size());
    std::vector<int64_t> counts(send_counts.begin(), send_counts.end());
    std::vector<SendBlock> send;
    std::vector<ReceiveBlock> recv;
    for (size_t r = 0; r < counts.size(); ++r) {
      send.push_back({&send_counts[r], sizeof(int64_t)});
      recv.push_back({&counts[r], sizeof(int64_t)});
    }
    Exchange(send, recv);
    return counts;
  }

  std::unique_ptr<Comm> Split(int color, int key, Axis axis) override {
    const InFlight flight = Note(Collective::kSplit, 0);
    std::unique_ptr<Transport> part = transport_->Split(color, key);
    part->ShowIn(transport_->pulse(), axis);
    return std::make_unique<TransportComm>(std::move(part));
  }

 private:
  size_t Me() const { return static_cast<size_t>(rank()); }

  // Alone one waits for nobody.
  InFlight Note(Collective collective, int64_t bytes) const {
    return {size() == 1 ? nullptr : transport_->pulse(), {collective, transport_->axis(), bytes}};
  }

  void Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv) {
    if (size() == 1) return;
    for (size_t r = 0; r < send.size(); ++r) bytes_sent_ += r == Me() ? 0 : send[r].bytes;
    transport_->Exchange(send, recv);
    if (Pulse* pulse = transport_->pulse()) pulse->Progress();
  }

  template <class T>
  void AllReduceSmall(Stream& stream, Tensor& x, Reduce op) {
    Tensor all = Tensor::Empty(stream, x.dtype(), {size(), x.elements()}, MemoryTag::kExchange);
    const std::vector<int64_t> counts(static_cast<size_t>(size()), x.elements());
    AllGather(stream, x, counts, all);
    std::vector<const T*> inputs;
    for (int r = 0; r < size(); ++r) inputs.push_back(all.data<T>() + r * x.elements());
    CombineInOrder(inputs, x.elements(), op, x.data<T>());
  }

  void ScatterReduced(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts, Reduce op,
                      Tensor& out) {
    CHECK_EQ(static_cast<int>(counts.size()), size());
    const std::vector<int64_t> starts = PartStarts(counts);
    CHECK_EQ(in.elements(), starts.back());
    CHECK_EQ(out.elements(), counts[Me()]);
    DispatchNumber(in.dtype(), [&](auto zero) {
      ScatterReducedOf<decltype(zero)>(stream, in, counts, op, out);
    });
  }

  // In rounds, a stretch of every part at a time, so that staging stays small whatever the sizes.
  template <class T>
  void ScatterReducedOf(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                        Reduce op, Tensor& out) {
    const std::vector<int64_t> starts = PartStarts(counts);
    const T* own = in.data<T>() + starts[Me()];
    T* sum = out.data<T>();
    constexpr int64_t kStage = kStageBytes / static_cast<int64_t>(sizeof(T));
    const int64_t longest = *std::max_element(counts.begin(), counts.end());
    const int64_t stage = std::min(kStage, longest);
    Tensor staged =
        Tensor::Empty(stream, in.dtype(), {size(), size() == 1 ? 0 : stage}, MemoryTag::kExchange);
    for (int64_t begin = 0; begin < longest; begin += stage) {
      const auto in_round = [&](size_t r) {
        return std::clamp<int64_t>(counts[r] - begin, 0, stage);
      };
      const int64_t mine = in_round(Me());
      std::vector<SendBlock> send;
      std::vector<ReceiveBlock> recv;
      std::vector<const T*> inputs;
      for (size_t r = 0; r < counts.size(); ++r) {
        T* place = staged.data<T>() + static_cast<int64_t>(r) * stage;
        send.push_back(
            {in.data<T>() + starts[r] + begin, in_round(r) * static_cast<int64_t>(sizeof(T))});
        recv.push_back({place, mine * static_cast<int64_t>(sizeof(T))});
        inputs.push_back(r == Me() ? own + begin : place);
      }
      Exchange(send, recv);
      CombineInOrder(inputs, mine, op, sum + begin);
    }
  }

  std::unique_ptr<Transport> transport_;
  int64_t bytes_sent_ = 0;
};

}  // namespace

std::unique_ptr<Comm> MakeComm(std::unique_ptr<Transport> transport) {
  return std::make_unique<TransportComm>(std::move(transport));
}

std::unique_ptr<Comm> MakeSoloComm() { return MakeComm(MakeSoloTransport()); }

}  // namespace mneme
