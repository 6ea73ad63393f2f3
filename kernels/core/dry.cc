#include "kernels/core/dry.h"

#include <sys/mman.h>

#include <cstring>
#include <limits>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Small blocks can be written, for what the host reads back: counts. Large ones are addresses
// alone.
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
int64_t GiveMark(void* queue) {
  return static_cast<Ledger*>(queue)->Give({.what = Queued::What::kMark});
}
void HostWaits(void* queue, int64_t mark) {
  static_cast<Ledger*>(queue)->Give({.what = Queued::What::kHost, .mark = mark});
}
void Download(void* queue, const void*, void* host, int64_t bytes) {
  HostWaits(queue, GiveMark(queue));
  std::memset(host, 0, static_cast<size_t>(bytes));
}
// Counts, which can be read.
void* Send(void* queue, const void* from, int64_t bytes) {
  void* sent = CpuDriver().send(nullptr, from, bytes);
  static_cast<Ledger*>(queue)->sent[sent] = GiveMark(queue);
  return sent;
}
void Receive(void* queue, void* sent, void* host, int64_t bytes) {
  auto& on_the_way = static_cast<Ledger*>(queue)->sent;
  HostWaits(queue, on_the_way[sent]);
  on_the_way.erase(sent);
  CpuDriver().receive(nullptr, sent, host, bytes);
}
// A mark is its number.
void* Mark(void* queue) { return reinterpret_cast<void*>(GiveMark(queue)); }
void Await(void* queue, void* mark) {
  static_cast<Ledger*>(queue)->Give(
      {.what = Queued::What::kAwait, .mark = reinterpret_cast<int64_t>(mark)});
}
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

int64_t Ledger::Give(Queued next) {
  thread_local int64_t given = 0;
  next.number = ++given;
  queued.push_back(next);
  return next.number;
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
