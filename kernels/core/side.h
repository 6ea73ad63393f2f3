// Work beside a stream: what ranks exchange, while the stream computes.
//
// A stream has one side, a queue of its own on the same device, and all that the ranks of a step do
// together is queued there, one job after the other, in the order in which they are started. It is
// the same on every rank, so that calls of several groups never wait for each other crosswise (NCCL
// asks for such an order). A job begins when the stream has done what it was given before the job
// was; the stream goes on with the results from where it joins.
//
// Memory is the pool's, and the order of the stream is the pool's order. So what a job uses beside
// tensors made on the side itself, and may be let go before the job is joined, is lent to it: the
// job holds it. What was made on the side rests in the pool until the stream has joined
// (kernels/core/memory.h).
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/core/stream.h"
#include "kernels/core/tensor.h"

namespace mneme {

// Of one stream (Stream::side), used by its thread.
class Side {
 public:
  explicit Side(Stream& main);
  ~Side();
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  // The queue of the jobs: the stream itself where ops have run when they return.
  Stream& stream() { return apart_.has_value() ? *apart_ : main_; }
  // false: the stream joins a job as soon as it is queued. The same work in the same order, and
  // nothing beside it.
  void SetOverlap(bool overlap) { overlap_ = overlap; }

  // From here to StopClock it is noted for how long the stream stands still for jobs: what of them
  // was not hidden. In a recording it is noted anew with each replay.
  void StartClock();
  void StopClock() { clock_ = false; }
  // Seconds of the last such while; 0 where ops have run when they return. REQUIRES: the stream is
  // synchronised.
  double waited() const;

 private:
  friend class SideJob;
  struct End {
    int64_t number = 0;  // the pool's
    void* mark = nullptr;
  };

  // The side waits for what the stream was given so far.
  void Open();
  End Close();
  void Join(const End& end);
  void Stamp();

  Stream& main_;
  std::optional<Stream> apart_;
  bool overlap_ = true;
  bool clock_ = false;
  int64_t joined_ = 0;
  std::vector<void*> stamps_;  // in pairs, before and after the stream stands still
  size_t stamps_used_ = 0;
};

// One job. Movable; joins when it goes.
class SideJob {
 public:
  SideJob() = default;
  SideJob(SideJob&& other) noexcept { *this = std::move(other); }
  // Joins what was here.
  SideJob& operator=(SideJob&& other) noexcept;
  ~SideJob() { Join(); }

  // work(Stream& side) queues the whole of it.
  template <class F>
  static SideJob Run(Stream& stream, std::vector<Tensor> lent, F&& work) {
    SideJob job = Begin(stream, std::move(lent), std::forward<F>(work));
    job.Close();
    return job;
  }

  // The same in two halves: what the host has to know for the second comes out of the first. In
  // between the stream may be given more, for which the second half does not wait; until then no
  // memory comes back to the pool, so the time between should be short.
  template <class F>
  static SideJob Begin(Stream& stream, std::vector<Tensor> lent, F&& work) {
    SideJob job(stream, std::move(lent));
    job.Open();
    work(job.side_->stream());
    job.CloseUnlessOverlapping();
    return job;
  }
  template <class F>
  void Finish(F&& work) {
    if (!open_) Open();
    work(side_->stream());
    Close();
  }

  // The stream goes on when the job is done. More than once is nothing.
  void Join();

 private:
  SideJob(Stream& stream, std::vector<Tensor> lent);
  void Open();
  void Close();
  void CloseUnlessOverlapping();

  Side* side_ = nullptr;
  std::vector<Tensor> lent_;
  bool open_ = false;
  std::optional<Side::End> end_;  // closed and not joined
};

}  // namespace mneme
