#include "kernels/core/driver.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

void* Allocate(int, int64_t bytes) {
  void* block = nullptr;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  if (posix_memalign(&block, static_cast<size_t>(alignment), static_cast<size_t>(bytes)) != 0) {
    return nullptr;
  }
  if (bytes >= kHugePage) madvise(block, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return block;
}

void* OpenQueue(int) { return nullptr; }
void CloseQueue(void*) {}
void Synchronize(void*) {}
void Zero(void*, void* to, int64_t bytes) { std::memset(to, 0, static_cast<size_t>(bytes)); }
void Upload(void*, const void* host, void* to, int64_t bytes) {
  std::memcpy(to, host, static_cast<size_t>(bytes));
}
void Download(void*, const void* from, void* host, int64_t bytes) {
  std::memcpy(host, from, static_cast<size_t>(bytes));
}
// The bytes, copied.
void* Send(void*, const void* from, int64_t bytes) {
  void* sent = std::malloc(static_cast<size_t>(bytes));
  CHECK(sent != nullptr);
  std::memcpy(sent, from, static_cast<size_t>(bytes));
  return sent;
}
void Receive(void*, void* sent, void* host, int64_t bytes) {
  if (bytes > 0) std::memcpy(host, sent, static_cast<size_t>(bytes));
  std::free(sent);
}
// What was given is done.
void* Mark(void*) { return nullptr; }
void Await(void*, void*) {}
void* Stamp(void*, void*) { return nullptr; }
double Seconds(void*, void*) { return 0.0; }
void ReleaseStamp(void*) {}
int Count(std::string* why) {
  *why = "this program was built without a GPU";
  return 0;
}

}  // namespace

const Driver& CpuDriver() {
  static constexpr Driver kDriver = {
      .allocate = Allocate,
      .release = std::free,
      .open_queue = OpenQueue,
      .open_side = OpenQueue,
      .close_queue = CloseQueue,
      .synchronize = Synchronize,
      .zero = Zero,
      .upload = Upload,
      .download = Download,
      .send = Send,
      .receive = Receive,
      .mark = Mark,
      .await = Await,
      .stamp = Stamp,
      .seconds = Seconds,
      .release_stamp = ReleaseStamp,
      .begin_record = nullptr,
      .end_record = nullptr,
      .replay = nullptr,
      .release_record = nullptr,
      .count = Count,
      .info = nullptr,
      .unsupported = nullptr,
  };
  return kDriver;
}

std::string NoCodeFor(const GpuInfo& info) {
  constexpr int kLeast = 8;  // mma.sync of bf16, cp.async
  const std::string major = std::to_string(info.major);
  const std::string minor = std::to_string(info.minor);
  const std::string what = info.name + " has compute capability " + major + "." + minor;
  if (info.major < kLeast) return what + ", and the kernels need 8.0 or newer";
  return what +
         ", and this program was built for others: rebuild with MNEME_CUDA_ARCHITECTURES=" + major +
         minor + " ./launch/build.sh";
}

const Driver& DriverOf(const Device& device) {
  if (device.dry) return DryDriver();
  if (device.is_cpu()) return CpuDriver();
  CHECK(GpuDriver() != nullptr);
  return *GpuDriver();
}

}  // namespace mneme
