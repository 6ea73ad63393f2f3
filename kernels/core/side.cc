#include "kernels/core/side.h"

#include "kernels/core/check.h"

namespace mneme {

Side::Side(Stream& main) : main_(main) {
  CHECK(!main.is_side());
  if (!main.device().is_cpu()) {
    apart_.emplace(main.device(), main.allocator(), Stream::Role::kSide);
  }
}

Side::~Side() {
  for (void* stamp : stamps_) main_.driver().release_stamp(stamp);
}

double Side::waited() const {
  double seconds = 0.0;
  for (size_t i = 0; i + 1 < stamps_used_; i += 2) {
    seconds += main_.driver().seconds(stamps_[i], stamps_[i + 1]);
  }
  return seconds;
}

void Side::StartClock() {
  stamps_used_ = 0;
  clock_ = true;
}

void Side::Stamp() {
  if (!clock_) return;
  if (stamps_used_ == stamps_.size()) stamps_.push_back(nullptr);
  void*& stamp = stamps_[stamps_used_++];
  stamp = main_.driver().stamp(main_.queue(), stamp);
}

void Side::Open() {
  if (!apart_.has_value()) return;
  if (!overlap_) Stamp();
  apart_->driver().await(apart_->queue(), main_.driver().mark(main_.queue()));
  main_.allocator().OpenSide();
}

Side::End Side::Close() {
  if (!apart_.has_value()) return {};
  return {main_.allocator().CloseSide(), apart_->driver().mark(apart_->queue())};
}

void Side::Join(const End& end) {
  if (!apart_.has_value()) return;
  // A later job was joined: there is nothing to wait for.
  const bool waits = end.number > joined_;
  if (waits && overlap_) Stamp();
  main_.driver().await(main_.queue(), end.mark);
  main_.allocator().JoinSide(end.number);
  if (!waits) return;
  Stamp();
  joined_ = end.number;
}

SideJob::SideJob(Stream& stream, std::vector<Tensor> lent)
    : side_(&stream.side()), lent_(std::move(lent)) {}

SideJob& SideJob::operator=(SideJob&& other) noexcept {
  if (this == &other) return *this;
  Join();
  side_ = std::exchange(other.side_, nullptr);
  lent_ = std::exchange(other.lent_, {});
  open_ = std::exchange(other.open_, false);
  end_ = std::exchange(other.end_, std::nullopt);
  return *this;
}

void SideJob::Open() {
  CHECK(side_ != nullptr);
  side_->Open();
  open_ = true;
}

void SideJob::Close() {
  if (!open_) return;
  end_ = side_->Close();
  open_ = false;
  if (!side_->overlap_) side_->Join(*std::exchange(end_, std::nullopt));
}

void SideJob::CloseUnlessOverlapping() {
  if (!side_->overlap_) Close();
}

void SideJob::Join() {
  if (open_) Close();
  if (end_.has_value()) side_->Join(*std::exchange(end_, std::nullopt));
  lent_.clear();
}

}  // namespace mneme
