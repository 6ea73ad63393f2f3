#include "kernels/core/dry.h"

#include <sys/mman.h>

#include <cstring>
#include <limits>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Small blocks can be written, for what the host reads back: choices of experts, counts, ids. Large
// ones are addresses alone.
constexpr int64_t kWritable = int64_t{64} << 20;
constexpr int64_t kPage = 4096;  // before the block: how long it is

void* Allocate(int, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes + kPage);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, size, PROT_NONE, kFlags, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  const size_t writable = bytes <= kWritable ? size : static_cast<size_t>(kPage);
  if (mprotect(memory, writable, PROT_READ | PROT_WRITE) != 0) return nullptr;
  std::memcpy(memory, &size, sizeof size);
  return static_cast<char*>(memory) + kPage;
}

void Release(void* block) {
  void* memory = static_cast<char*>(block) - kPage;
  size_t size = 0;
  std::memcpy(&size, memory, sizeof size);
  munmap(memory, size);
}

void* OpenQueue(int) { return new Ledger(); }
void CloseQueue(void* queue) { delete static_cast<Ledger*>(queue); }
void Synchronize(void*) {}
void Zero(void* queue, void*, int64_t bytes) {
  static_cast<Ledger*>(queue)->Add(Work::kNorms, 0, static_cast<double>(bytes));
}
void Upload(void*, const void*, void*, int64_t) {}
void Download(void*, const void*, void* host, int64_t bytes) {
  std::memset(host, 0, static_cast<size_t>(bytes));
}
// Counts, which can be read.
void* Send(void*, const void* from, int64_t bytes) {
  return CpuDriver().send(nullptr, from, bytes);
}
void Receive(void*, void* sent, void* host, int64_t bytes) {
  CpuDriver().receive(nullptr, sent, host, bytes);
}
// What was given is done.
void* Mark(void*) { return nullptr; }
void Await(void*, void*) {}
void* Stamp(void*, void*) { return nullptr; }
double Seconds(void*, void*) { return 0.0; }
void ReleaseStamp(void*) {}
int Count(std::string*) { return 1; }
GpuInfo Info(int) {
  GpuInfo info;
  info.name = "dry";
  info.total_bytes = info.free_bytes = std::numeric_limits<int64_t>::max();
  return info;
}

}  // namespace

const char* Name(Work work) {
  static constexpr const char* kNames[kWorks] = {"matmul", "experts", "attention", "attention_grad",
                                                 "head",   "streams", "norms",     "routing",
                                                 "memory", "tables",  "optimizer", "orthogonal"};
  return kNames[static_cast<int>(work)];
}

Ledger& LedgerOf(Stream& stream) {
  CHECK(stream.device().dry);
  return *static_cast<Ledger*>(stream.queue());
}

const Driver& DryDriver() {
  static constexpr Driver kDriver = {
      .allocate = Allocate,
      .release = Release,
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
      .info = Info,
      .unsupported = nullptr,
  };
  return kDriver;
}

}  // namespace mneme
