#include "parallel/pulse_board.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Where a rank offers memory: /proc/PROCESS/fd/DESCRIPTOR, of which `mark` is the first word.
struct Offer {
  uint64_t mark = 0;
  int64_t process = 0;
  int64_t descriptor = -1;
};

constexpr const char* kMemoryName = "mneme-pulses";

// A descriptor of the memory that another process offers; -1 where there is none, or another file
// (processes of another container have numbers of their own).
int Open(const Offer& offer, size_t bytes) {
  const std::string path =
      "/proc/" + std::to_string(offer.process) + "/fd/" + std::to_string(offer.descriptor);
  char target[64] = "";
  if (readlink(path.c_str(), target, sizeof target - 1) < 0) return -1;
  if (std::strncmp(target, "/memfd:", 7) != 0 || std::strstr(target, kMemoryName) == nullptr)
    return -1;
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat info = {};
  if (descriptor >= 0 && fstat(descriptor, &info) == 0 && info.st_size == static_cast<off_t>(bytes))
    return descriptor;
  if (descriptor >= 0) close(descriptor);
  return -1;
}

uint64_t RandomWord() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) ^ device();
}

}  // namespace

// The first page. `claimed`: some rank of the host speaks for the job.
struct PulseBoard::Memory {
  uint64_t mark = 0;
  std::atomic<int64_t> claimed{0};
};

PulseBoard::PulseBoard(int descriptor, size_t ranks)
    : descriptor_(descriptor), bytes_(sizeof(PulseSlot) * (ranks + 1)) {
  static_assert(sizeof(Memory) <= sizeof(PulseSlot));
  void* memory = MAP_FAILED;
  if (descriptor >= 0)
    memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED)  // its own at least
    memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  memory_ = static_cast<Memory*>(memory);
  slots_ = reinterpret_cast<PulseSlot*>(static_cast<char*>(memory) + sizeof(PulseSlot));
}

PulseBoard::~PulseBoard() {
  munmap(memory_, bytes_);
  if (descriptor_ >= 0) close(descriptor_);
}

bool PulseBoard::Claim() { return memory_->claimed.exchange(1) == 0; }

std::unique_ptr<PulseBoard> PulseBoard::Make(World& world, const std::string& host) {
  const auto ranks = static_cast<size_t>(world.size());
  const auto me = static_cast<size_t>(world.rank());
  // Fresh pages are zero, and so is an untouched slot.
  int own = memfd_create(kMemoryName, MFD_CLOEXEC);
  const size_t bytes = sizeof(PulseSlot) * (ranks + 1);
  if (own >= 0 && ftruncate(own, static_cast<off_t>(bytes)) != 0) {
    close(own);
    own = -1;
  }
  std::unique_ptr<PulseBoard> board(new PulseBoard(own, ranks));
  board->memory_->mark = RandomWord();
  const Offer mine{board->memory_->mark, getpid(), own};
  const std::vector<std::string> hosts = world.AllGather(host);
  std::vector<Offer> offers;
  for (const std::string& text :
       world.AllGather(std::string(reinterpret_cast<const char*>(&mine), sizeof mine))) {
    CHECK_EQ(text.size(), sizeof mine);
    std::memcpy(&offers.emplace_back(), text.data(), sizeof mine);
  }
  const uint64_t job = offers.front().mark;

  size_t leader = 0;
  while (hosts[leader] != host) ++leader;
  if (leader != me) {
    std::unique_ptr<PulseBoard> joined(new PulseBoard(Open(offers[leader], bytes), ranks));
    if (joined->memory_->mark == offers[leader].mark) {
      board = std::move(joined);
    } else {
      leader = me;
    }
  }
  world.pulse().ShowIn(&board->slots_[me]);
  board->slots_[me].fields[kProcess] = getpid();
  board->hosts_ = hosts;
  board->job_ = job;
  // After this everyone has opened what was offered.
  for (const std::string& text : world.AllGather(std::to_string(leader)))
    board->leaders_.push_back(std::stoi(text));
  return board;
}

}  // namespace mneme
