#include "data/document_router.h"

#include <string>
#include <utility>

#include "data/files.h"
#include "kernels/core/check.h"

namespace mneme {

absl::Status DocumentRouter::Append(absl::Span<const int32_t> ids) {
  if (side_ != nullptr) return side_->Append(ids);
  waiting_.insert(waiting_.end(), ids.begin(), ids.end());
  return waiting_.size() >= kRoutedBy ? Decide() : absl::OkStatus();
}

absl::Status DocumentRouter::Decide() {
  side_ = &train_;
  if (held_out_ != nullptr) {
    const size_t count = std::min(waiting_.size(), kRoutedBy);
    const uint64_t hash = BytesHash(waiting_.data(), count * sizeof(int32_t));
    const double uniform = static_cast<double>(hash >> 11) * 0x1p-53;
    if (uniform < share_) side_ = held_out_;
  }
  const absl::Status status = side_->Append(waiting_);
  waiting_.clear();
  return status;
}

absl::Status DocumentRouter::EndDocument(int64_t text_bytes) {
  if (side_ == nullptr) RETURN_IF_ERROR(Decide());
  return std::exchange(side_, nullptr)->EndDocument(text_bytes);
}

absl::Status DocumentRouter::Drop() {
  waiting_.clear();
  CorpusWriter* const side = std::exchange(side_, nullptr);
  return side != nullptr ? side->DropDocument() : absl::OkStatus();
}

}  // namespace mneme
