// One ordered group of ranks and its collectives.
//
// Calls return once queued on the stream (on the CPU: once done). Every member calls the same
// collectives in the same order; between GPUs that is an order of queues, so the calls of a step go
// to the side of its stream (kernels/core/side.h), and others come when all its jobs are joined. On
// CPUs the transport only moves bytes: sums of floats are made by our own code in rank order, so
// that threads and MPI give the same bits. Between GPUs NCCL makes the sums (nccl_comm.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/side.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"
#include "parallel/transport.h"

namespace mneme {

enum class Reduce { kSum, kMax };

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
