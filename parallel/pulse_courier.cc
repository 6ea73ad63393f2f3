#include "parallel/pulse_courier.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

namespace mneme {
namespace {

namespace fs = std::filesystem;

// What a file holds, once a rank of its host.
struct Entry {
  uint64_t job = 0;
  int64_t rank = 0;
  PulseNote note{};
};

}  // namespace

PulseCourier::PulseCourier(PulseBoard& board, std::string folder, int rank)
    : board_(board),
      folder_(std::move(folder)),
      leader_(board.leaders()[static_cast<size_t>(rank)]) {}

std::string PulseCourier::FileOf(int leader) const {
  return folder_ + "/host-of-rank-" + std::to_string(leader);
}

// A reader sees this file whole or the one before.
void PulseCourier::Write() const {
  std::string bytes;
  for (size_t r = 0; r < board_.leaders().size(); ++r) {
    if (board_.leaders()[r] != leader_) continue;
    const Entry entry{board_.job(), static_cast<int64_t>(r), board_.slots()[r].Read()};
    bytes.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  const std::string part = FileOf(leader_) + "." + std::to_string(getpid());
  std::ofstream(part, std::ios::binary) << bytes;
  std::error_code ignored;
  fs::rename(part, FileOf(leader_), ignored);
}

void PulseCourier::Read(int leader) {
  std::ifstream in(FileOf(leader), std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  for (size_t at = 0; at + sizeof(Entry) <= bytes.size(); at += sizeof(Entry)) {
    Entry entry;
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    const auto rank = static_cast<size_t>(entry.rank);
    if (entry.job != board_.job() || rank >= board_.leaders().size()) return;
    if (board_.leaders()[rank] == leader) board_.slots()[rank].Write(entry.note);
  }
}

void PulseCourier::Clear() const {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void PulseCourier::Round() {
  std::error_code ignored;
  fs::create_directories(folder_, ignored);
  Write();
  for (size_t r = 0; r < board_.leaders().size(); ++r) {
    const int leader = board_.leaders()[r];
    if (leader == static_cast<int>(r) && leader != leader_) Read(leader);
  }
}

bool PulseCourier::Claim() const {
  const std::string path = folder_ + "/claim-" + std::to_string(board_.job());
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return errno != EEXIST;
  close(descriptor);
  return true;
}

void PulseCourier::Remove() const {
  std::error_code ignored;
  fs::remove(FileOf(leader_), ignored);
  fs::remove(folder_, ignored);  // only where it is empty
}

}  // namespace mneme
