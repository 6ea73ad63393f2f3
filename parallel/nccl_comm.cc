// The only file that includes NCCL.
#include "parallel/nccl_comm.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/native_queue.h"
#include "parallel/fault_check.h"
#include "parallel/parts.h"

namespace mneme {
namespace {

// What NCCL is asked before its first call; the environment has the last word.
void SetDefaults() {
  constexpr int kKeep = 0;
  // Sums in the switch have no fixed order, and a process that dies in them can take a host's
  // GPUs out of service.
  setenv("NCCL_NVLS_ENABLE", "0", kKeep);
  // Recorded calls use NCCL's own buffers, as the others do: registering ours would be one more
  // exchange between the ranks while they record.
  setenv("NCCL_GRAPH_REGISTER", "0", kKeep);
}

ncclDataType_t NumberOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kBf16:
      return ncclBfloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      break;
  }
  Fatal(__FILE__, __LINE__, std::string("NCCL adds no ") + Name(dtype));
}

bool AllEqual(absl::Span<const int64_t> counts) {
  return std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n == counts[0]; });
}

size_t Size(int64_t n) { return static_cast<size_t>(n); }

class NcclComm : public Comm {
 public:
  NcclComm(std::unique_ptr<Transport> transport, Device device)
      : device_(device), transport_(*transport), host_(MakeComm(std::move(transport))) {
    CHECK(!device.is_cpu() && !device.dry);
    SetDefaults();
    CheckCuda(cudaSetDevice(device.index), Collective::kSplit);
    const ncclUniqueId id = ShareId();
    CheckCall(ncclCommInitRank(&comm_, size(), id, rank()), Collective::kSplit);
    // The host may wait for a call that an error of its GPU or a cable will never end. That another
    // process is gone is told by who lost it.
    found_since_.emplace([this] {
      ncclResult_t since = ncclSuccess;
      CheckCall(ncclCommGetAsyncError(comm_, &since), std::nullopt);
      if (since != ncclInProgress && since != ncclRemoteError) CheckCall(since, std::nullopt);
    });
  }
  ~NcclComm() override {
    found_since_.reset();
    CheckCuda(cudaSetDevice(device_.index), Collective::kFinish);
    CheckCall(ncclCommDestroy(comm_), Collective::kFinish);
  }
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool queues() const override { return true; }
  std::string way() const override { return "NCCL"; }
  int64_t bytes_sent() const override { return bytes_sent_ + host_->bytes_sent(); }

  void AllReduce(Stream& stream, Tensor& x, Reduce op) override {
    if (size() == 1 || x.elements() == 0) return;
    const bool exact = x.dtype() == DType::kI32 || x.dtype() == DType::kI64;
    CHECK(op == Reduce::kSum || exact);
    const InFlight flight = Note(Collective::kAllReduce, x.bytes());
    CheckQueued(ncclAllReduce(x.raw(), x.raw(), Size(x.elements()), NumberOf(x.dtype()),
                              op == Reduce::kSum ? ncclSum : ncclMax, comm_, QueueOf(stream)),
                Collective::kAllReduce);
    bytes_sent_ += 2 * x.bytes() * (size() - 1) / size();
  }

  // Uneven parts: one reduction a part, all in one launch.
  void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor& out) override {
    const InFlight flight = Note(Collective::kReduceScatter, in.bytes());
    const std::vector<int64_t> starts = CheckParts(counts, in, out);
    const int64_t item = SizeOf(in.dtype());
    const ncclDataType_t number = NumberOf(in.dtype());
    const cudaStream_t queue = QueueOf(stream);
    bytes_sent_ += in.bytes() - out.bytes();
    if (in.elements() == 0) return;
    if (AllEqual(counts)) {
      CheckQueued(ncclReduceScatter(in.raw(), out.raw(), Size(out.elements()), number, ncclSum,
                                    comm_, queue),
                  Collective::kReduceScatter);
      return;
    }
    InGroup(Collective::kReduceScatter, [&] {
      for (int r = 0; r < size(); ++r) {
        const int64_t count = counts[Size(r)];
        if (count == 0) continue;
        CheckCall(
            ncclReduce(BytesOf(in) + starts[Size(r)] * item, r == rank() ? out.raw() : nullptr,
                       Size(count), number, ncclSum, r, comm_, queue),
            Collective::kReduceScatter);
      }
    });
  }

  // Uneven parts: one broadcast a part, all in one launch.
  void AllGather(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                 Tensor& out) override {
    const InFlight flight = Note(Collective::kAllGather, in.bytes());
    const std::vector<int64_t> starts = CheckParts(counts, out, in);
    const int64_t item = SizeOf(out.dtype());
    CHECK_EQ(SizeOf(in.dtype()), item);
    const cudaStream_t queue = QueueOf(stream);
    bytes_sent_ += in.bytes() * (size() - 1);
    if (out.elements() == 0) return;
    if (AllEqual(counts)) {
      CheckQueued(ncclAllGather(in.raw(), out.raw(), Size(in.bytes()), ncclInt8, comm_, queue),
                  Collective::kAllGather);
      return;
    }
    InGroup(Collective::kAllGather, [&] {
      for (int r = 0; r < size(); ++r) {
        const int64_t bytes = counts[Size(r)] * item;
        if (bytes == 0) continue;
        char* part = BytesOf(out) + starts[Size(r)] * item;
        CheckCall(ncclBroadcast(r == rank() ? in.raw() : part, part, Size(bytes), ncclInt8, r,
                                comm_, queue),
                  Collective::kAllGather);
      }
    });
  }

  void AllToAll(Stream& stream, const Tensor& in, absl::Span<const int64_t> send, Tensor& out,
                absl::Span<const int64_t> recv) override {
    AllToAllOf(stream, {&in, 1}, send, {&out, 1}, recv);
  }

  // One launch for all.
  void AllToAllOf(Stream& stream, absl::Span<const Tensor> in, absl::Span<const int64_t> send,
                  absl::Span<Tensor> out, absl::Span<const int64_t> recv) override {
    int64_t bytes = 0;
    for (const Tensor& x : in) bytes += x.bytes();
    const InFlight flight = Note(Collective::kAllToAll, bytes);
    CHECK_EQ(static_cast<int>(send.size()), size());
    CHECK_EQ(static_cast<int>(recv.size()), size());
    CHECK_EQ(send[Size(rank())], recv[Size(rank())]);
    const Places places = {PartStarts(send), PartStarts(recv)};
    const cudaStream_t queue = QueueOf(stream);
    for (size_t i = 0; i < in.size(); ++i) {
      CHECK_EQ(in[i].dim(0), places.from.back());
      CHECK_EQ(out[i].dim(0), places.to.back());
      CHECK_EQ(RowBytes(in[i]), RowBytes(out[i]));
      KeepOwn(in[i], out[i], places, queue);
    }
    if (size() == 1) return;
    InGroup(Collective::kAllToAll, [&] {
      for (size_t i = 0; i < in.size(); ++i) ExchangeRows(in[i], out[i], places, queue);
    });
  }

  void Broadcast(Stream& stream, Tensor& x, int root) override {
    if (size() == 1 || x.elements() == 0) return;
    const InFlight flight = Note(Collective::kBroadcast, x.bytes());
    CheckQueued(
        ncclBroadcast(x.raw(), x.raw(), Size(x.bytes()), ncclInt8, root, comm_, QueueOf(stream)),
        Collective::kBroadcast);
    if (rank() == root) bytes_sent_ += x.bytes() * (size() - 1);
  }

  InFlight Waiting(Collective collective, int64_t bytes) const override {
    return Note(collective, bytes);
  }

  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) override {
    return host_->ExchangeCounts(send);
  }

  std::unique_ptr<Comm> Split(int color, int key, Axis axis) override {
    const InFlight flight = Note(Collective::kSplit, 0);
    std::unique_ptr<Transport> part = transport_.Split(color, key);
    part->ShowIn(transport_.pulse(), axis);
    return std::make_unique<NcclComm>(std::move(part), device_);
  }

 private:
  // Where the rows for each member begin, and those from each.
  struct Places {
    std::vector<int64_t> from, to;
    int64_t leaving(int r) const { return from[Size(r) + 1] - from[Size(r)]; }
    int64_t coming(int r) const { return to[Size(r) + 1] - to[Size(r)]; }
  };

  // The rows for this member itself.
  void KeepOwn(const Tensor& in, Tensor& out, const Places& places, cudaStream_t queue) const {
    const int64_t row = RowBytes(in);
    const int64_t own = places.leaving(rank()) * row;
    if (own == 0) return;
    CheckCuda(cudaMemcpyAsync(BytesOf(out) + places.to[Size(rank())] * row,
                              BytesOf(in) + places.from[Size(rank())] * row, Size(own),
                              cudaMemcpyDeviceToDevice, queue),
              Collective::kAllToAll);
  }
  // Peers in rising distance, so that no member is everyone's first. Inside a group.
  void ExchangeRows(const Tensor& in, Tensor& out, const Places& places, cudaStream_t queue) {
    const int64_t row = RowBytes(in);
    for (int distance = 1; distance < size(); ++distance) {
      const int there = (rank() + distance) % size();
      const int here = (rank() - distance + size()) % size();
      const int64_t leaving = places.leaving(there) * row;
      const int64_t coming = places.coming(here) * row;
      if (leaving > 0) {
        CheckCall(ncclSend(BytesOf(in) + places.from[Size(there)] * row, Size(leaving), ncclInt8,
                           there, comm_, queue),
                  Collective::kAllToAll);
      }
      if (coming > 0) {
        CheckCall(ncclRecv(BytesOf(out) + places.to[Size(here)] * row, Size(coming), ncclInt8, here,
                           comm_, queue),
                  Collective::kAllToAll);
      }
      bytes_sent_ += leaving;
    }
  }

  InFlight Note(Collective collective, int64_t bytes) const {
    return {size() == 1 ? nullptr : transport_.pulse(), {collective, transport_.axis(), bytes}};
  }

  // The id of the group: the first member's, on all.
  ncclUniqueId ShareId() {
    ncclUniqueId id = {};
    std::vector<SendBlock> send(Size(size()));
    std::vector<ReceiveBlock> recv(send.size());
    if (rank() == 0) {
      CheckCall(ncclGetUniqueId(&id), Collective::kSplit);
      std::fill(send.begin(), send.end(), SendBlock{&id, sizeof id});
    } else {
      recv[0] = {&id, sizeof id};
    }
    if (size() > 1) transport_.Exchange(send, recv);
    return id;
  }

  // Where the parts begin. REQUIRES: `whole` is all parts and `part` this member's.
  std::vector<int64_t> CheckParts(absl::Span<const int64_t> counts, const Tensor& whole,
                                  const Tensor& part) const {
    CHECK_EQ(static_cast<int>(counts.size()), size());
    std::vector<int64_t> starts = PartStarts(counts);
    CHECK_EQ(whole.elements(), starts.back());
    CHECK_EQ(part.elements(), counts[Size(rank())]);
    return starts;
  }

  // Calls that are launched as one.
  template <class F>
  void InGroup(Collective collective, F&& calls) {
    CheckCall(ncclGroupStart(), collective);
    calls();
    CheckQueued(ncclGroupEnd(), collective);
  }
  // Of what was launched now, and of earlier calls that went wrong since.
  void CheckQueued(ncclResult_t result, Collective collective) const {
    CheckCall(result, collective);
    ncclResult_t since = ncclSuccess;
    CheckCall(ncclCommGetAsyncError(comm_, &since), collective);
    CheckCall(since, collective);
  }

  cudaStream_t QueueOf(const Stream& stream) const {
    CHECK_EQ(stream.device().Name(), device_.Name());
    return static_cast<cudaStream_t>(NativeQueue(stream));
  }

  void CheckCall(ncclResult_t result, std::optional<Collective> collective) const {
    if (result == ncclSuccess) return;
    const char* detail = ncclGetLastError(comm_);
    Fail("NCCL", ncclGetErrorString(result), detail == nullptr ? "" : detail, collective);
  }
  void CheckCuda(cudaError_t error, Collective collective) const {
    if (error != cudaSuccess)
      Fail("CUDA", cudaGetErrorName(error), cudaGetErrorString(error), collective);
  }
  // collective: none where the error was found while the host waits; Fatal says for what.
  [[noreturn]] void Fail(const char* library, const char* what, std::string detail,
                         std::optional<Collective> collective) const {
    std::replace(detail.begin(), detail.end(), '\n', ' ');
    Fatal(__FILE__, __LINE__,
          library + (collective ? std::string(" in ") + Name(*collective) : "") + " of axis " +
              Name(transport_.axis()) + ", member " + std::to_string(rank()) + " of " +
              std::to_string(size()) + " on " + device_.Name() + ": " + what +
              (detail.empty() ? "" : ": " + detail));
  }

  const Device device_;
  Transport& transport_;        // host_'s own
  std::unique_ptr<Comm> host_;  // the same members
  ncclComm_t comm_ = nullptr;
  std::optional<FaultCheck> found_since_;
  int64_t bytes_sent_ = 0;
};

}  // namespace

bool HasNccl() { return true; }

std::unique_ptr<Comm> MakeNcclComm(std::unique_ptr<Transport> transport, Device device) {
  return std::make_unique<NcclComm>(std::move(transport), device);
}

}  // namespace mneme
