#include "parallel/resident_size.h"

#include <cstdio>
#include <string>

namespace mneme {
namespace {

// Of n things numbered from 0, those with number % stride == phase.
int64_t Every(int64_t n, int64_t stride, int64_t phase) {
  return n / stride + (n % stride > phase ? 1 : 0);
}

std::string Gib(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", bytes / (1 << 30));
  return text;
}

}  // namespace

RowsHeld ResidentRows(const RowTableSpec& spec, const RowShare& share) {
  const int64_t held = Every(spec.rows, share.stride, share.phase);
  const int64_t kept = Every(held, share.replicas, share.replica);
  return {kept, held - kept};
}

double ResidentBytes(const RowTableSpec& spec, const RowShare& share) {
  const RowsHeld held = ResidentRows(spec, share);
  const double row = static_cast<double>(spec.width) * static_cast<double>(SizeOf(spec.dtype));
  const auto kept = static_cast<double>(held.kept);
  const auto mirrored = static_cast<double>(held.mirrored);
  return 3 * kept * row + mirrored * row + (kept + mirrored) / 8;
}

absl::Status CheckResidentFits(const RowTableSpec& spec, const RowShare& share, int ranks_on_host,
                               const HostMemory& memory) {
  const double needed = ResidentBytes(spec, share) * ranks_on_host;
  if (needed <= static_cast<double>(memory.available)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      spec.name + ": " + std::to_string(spec.rows) + " resident rows of " +
      std::to_string(spec.width) + " values need " + Gib(needed) + " on a host with " +
      std::to_string(ranks_on_host) + (ranks_on_host == 1 ? " rank" : " ranks") + ", but " +
      memory.source + " leaves " + Gib(static_cast<double>(memory.available)) +
      "; make the store lazy, the table smaller, or parallel.memory larger over more hosts");
}

}  // namespace mneme
