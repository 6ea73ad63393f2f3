#include "parallel/world.h"

#include <algorithm>
#include <utility>

namespace mneme {
namespace {

SendBlock Whole(const std::string& bytes) {
  return {bytes.data(), static_cast<int64_t>(bytes.size())};
}

}  // namespace

World::World(std::unique_ptr<Transport> transport, std::string host, std::function<void()> finish)
    : transport_(std::move(transport)), host_(std::move(host)), finish_(std::move(finish)) {}

World::~World() {
  transport_.reset();
  if (finish_) finish_();
}

std::vector<int64_t> World::Everyones(int64_t value) {
  std::vector<int64_t> all(static_cast<size_t>(size()));
  std::vector<SendBlock> send(all.size(), SendBlock{&value, sizeof value});
  std::vector<ReceiveBlock> recv;
  for (int64_t& one : all) recv.push_back({&one, sizeof one});
  transport_->Exchange(send, recv);
  all[static_cast<size_t>(rank())] = value;
  return all;
}

std::string World::Broadcast(const std::string& bytes, int root) {
  const std::vector<int64_t> sizes = Everyones(static_cast<int64_t>(bytes.size()));
  const auto from = static_cast<size_t>(root);
  std::string out = bytes;
  std::vector<SendBlock> send(sizes.size());
  std::vector<ReceiveBlock> recv(sizes.size());
  if (rank() == root) {
    std::fill(send.begin(), send.end(), Whole(bytes));
  } else {
    out.assign(static_cast<size_t>(sizes[from]), '\0');
    recv[from] = {out.data(), sizes[from]};
  }
  transport_->Exchange(send, recv);
  return out;
}

std::vector<std::string> World::AllGather(const std::string& bytes) {
  const std::vector<int64_t> sizes = Everyones(static_cast<int64_t>(bytes.size()));
  std::vector<std::string> all(sizes.size());
  std::vector<SendBlock> send(sizes.size(), Whole(bytes));
  std::vector<ReceiveBlock> recv;
  for (size_t r = 0; r < all.size(); ++r) {
    all[r].assign(static_cast<size_t>(sizes[r]), '\0');
    recv.push_back({all[r].data(), sizes[r]});
  }
  transport_->Exchange(send, recv);
  all[static_cast<size_t>(rank())] = bytes;
  return all;
}

int64_t World::Sum(int64_t value) {
  int64_t sum = 0;
  for (int64_t one : Everyones(value)) sum += one;
  return sum;
}

int64_t World::Max(int64_t value) {
  const std::vector<int64_t> all = Everyones(value);
  return *std::max_element(all.begin(), all.end());
}

std::unique_ptr<Comm> World::MakeComm() {
  return mneme::MakeComm(transport_->Split(/*color=*/0, /*key=*/rank()));
}

absl::Status World::Agree(const absl::Status& mine) {
  // Nothing where all is well; otherwise the code, then the message.
  std::string verdict;
  if (!mine.ok()) {
    verdict.push_back(static_cast<char>(mine.code()));
    verdict.append(mine.message().data(), mine.message().size());
  }
  for (const std::string& other : AllGather(verdict)) {
    if (other.empty()) continue;
    return absl::Status(static_cast<absl::StatusCode>(other[0]), other.substr(1));
  }
  return absl::OkStatus();
}

}  // namespace mneme
