// One ordered group of ranks and its collectives.
//
// Calls return once queued on the stream (on the CPU: once done). Every member calls the same
// collectives in the same order; between GPUs that is an order of queues, so the calls of a step go
// to the side of its stream (kernels/core/side.h), and others come when all its jobs are joined. On
// CPUs the transport only moves bytes: sums of floats are made by our own code in rank order, so
// that threads and MPI give the same bits. Between GPUs NCCL makes the sums (nccl_comm.h), and GPUs
// of one host may write rows into each other's memory (peer_comm.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/side.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"
#include "parallel/transport.h"

namespace mneme {

enum class Reduce { kSum, kMax };

// What the members of a group can do beside that where they write into each other's memory
// (peer_comm.h): rows need no buffer to leave from, and the host need not know how many they are.
// At most kMostPutTensors tensors a call.
class DirectExchange {
 public:
  virtual ~DirectExchange() = default;
  // Comm::AllToAllOf of gathered rows: row i of in[0] is in[0][index[i]], index i32 [Σ send].
  virtual void GatherToAll(Stream& stream, absl::Span<const Tensor> in, const Tensor& index,
                           absl::Span<const int64_t> send, absl::Span<Tensor> out,
                           absl::Span<const int64_t> recv) = 0;
  // The same in two halves, with counts that were made on the device. leaving i64 [members, 2]:
  // rows and pairs to each. out: room for equally many rows in each tensor, of any number. told i64
  // [2 members + 1, 2]: leaving, then rows and pairs from each, then whether every member has room
  // for what comes to it, where others can write: the same on all. If not, nothing is put.
  virtual void Tell(Stream& stream, const Tensor& leaving, absl::Span<const Tensor> out,
                    Tensor& told) = 0;
  virtual void PutTold(Stream& stream, absl::Span<const Tensor> in, const Tensor& index,
                       absl::Span<Tensor> out) = 0;
  // What PutTold has sent to others, once the host knows.
  virtual void AddSent(int64_t bytes) = 0;
  // Multiprocessors that move rows, the same on all members: for measurements.
  virtual void SetBlocks(int) {}
};

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x <- reduction over the members, the same bits on each: ((x0 + x1) + x2) + …, element by
  // element (over NCCL in its own order). kMax keeps a NaN. f32, f64, i32, i64.
  virtual void AllReduce(Stream& stream, Tensor& x, Reduce op) = 0;
  // in is flat, the concatenation of one part a member, counts[r] elements; out (counts[rank()]
  // elements) receives the sum over members, in rank order, of this member's part. Parts may be
  // uneven or empty. out may be in's own part.
  virtual void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                             Tensor& out) = 0;
  // out is flat, the concatenation of every member's `in` (counts[r] elements). in may be out's own
  // part.
  virtual void AllGather(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                         Tensor& out) = 0;
  // Member r receives from here send[r] rows of `in` (outermost dim, in member order) and from r
  // come recv[r] rows of out. Both sides know the counts (ExchangeCounts). in and out do not
  // overlap. Any dtype.
  virtual void AllToAll(Stream& stream, const Tensor& in, absl::Span<const int64_t> send,
                        Tensor& out, absl::Span<const int64_t> recv) = 0;
  // The same for several tensors with the same counts, as one call.
  virtual void AllToAllOf(Stream& stream, absl::Span<const Tensor> in,
                          absl::Span<const int64_t> send, absl::Span<Tensor> out,
                          absl::Span<const int64_t> recv) {
    for (size_t i = 0; i < in.size(); ++i) AllToAll(stream, in[i], send, out[i], recv);
  }
  virtual void Broadcast(Stream& stream, Tensor& x, int root) = 0;
  // Everyone's send counts, transposed: returns how many rows each member will send here.
  virtual std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) = 0;
  // A new group of the members with equal `color`, ordered by (key, rank). `axis` is its name.
  virtual std::unique_ptr<Comm> Split(int color, int key, Axis axis) = 0;

  // While it lives, this rank shows that its host waits for queued calls, and so for other members
  // (pulse.h). Where calls return when they are done there is nothing to show.
  virtual InFlight Waiting(Collective, int64_t) const { return {nullptr, {}}; }
  // Whether calls are queued on the stream and read nothing from the host, so that a recording
  // (kernels/core/graph.h) may hold them. ExchangeCounts never is.
  virtual bool queues() const { return false; }
  // Members may from here on write straight into what each has reserved in the pool of its stream
  // (Allocator::Reserve, of which this needs 64 KiB to be free), in the all-to-alls of this group;
  // with null, and before a pool goes, not any more. Returns why not, where they could; nothing
  // where way() has said so before. Collective; waits for the devices.
  virtual std::string ShareMemory(Stream*) { return ""; }
  static constexpr int64_t kLeastShared = (int64_t{64} << 10) + 1;  // bytes: less lies elsewhere
  // null unless memory is shared.
  virtual DirectExchange* direct() { return nullptr; }
  // Bytes that came in pieces, slowly, since they found no room in what is shared; small tensors,
  // which never lie there, apart.
  virtual int64_t bytes_bounced() const { return 0; }
  // How bytes get from GPU to GPU, for people; empty on CPUs.
  virtual std::string way() const { return ""; }
  // Bytes that this member has sent to others so far (payload), for the metrics.
  virtual int64_t bytes_sent() const = 0;
};

// The collectives over a way to move bytes; owns it.
std::unique_ptr<Comm> MakeComm(std::unique_ptr<Transport> transport);
// A Comm of one.
std::unique_ptr<Comm> MakeSoloComm();

// A result on its way, with what the transfer still needs.
template <class T>
class Pending {
 public:
  Pending() = default;
  explicit Pending(T value) : value_(std::move(value)) {}
  // What `job` brings.
  Pending(SideJob job, T value) : job_(std::move(job)), value_(std::move(value)) {}
  // `rest` queues what is left to do, once the host knows what it has to know for that.
  static Pending After(std::function<T(Stream&)> rest) {
    Pending pending;
    pending.rest_ = std::move(rest);
    return pending;
  }
  // Makes `stream` wait for the result and hands it over. Once.
  T Wait(Stream& stream) {
    if (rest_) return std::exchange(rest_, nullptr)(stream);
    job_.Join();
    return std::move(value_);
  }

 private:
  SideJob job_;
  T value_{};
  std::function<T(Stream&)> rest_;
};

}  // namespace mneme
