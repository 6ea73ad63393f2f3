// Ranks as threads: a barrier and a board on which every member shows what it sends; receivers
// copy.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <tuple>
#include <utility>

#include "kernels/core/check.h"
#include "parallel/transport.h"

namespace mneme {
namespace {

// What the members of one group share.
class Board {
 public:
  explicit Board(int size) : size_(size), shown_(static_cast<size_t>(size), nullptr) {}
  int size() const { return size_; }

  // Written by its member before a barrier, read by the others after it.
  void Show(int rank, const SendBlock* blocks) { shown_[static_cast<size_t>(rank)] = blocks; }
  const SendBlock* shown(int rank) const { return shown_[static_cast<size_t>(rank)]; }

  void Barrier() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      all_here_.notify_all();
      return;
    }
    all_here_.wait(lock, [&] { return round_ != round; });
  }

 private:
  const int size_;
  std::vector<const SendBlock*> shown_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  int64_t round_ = 0;
};

class ThreadTransport : public Transport {
 public:
  ThreadTransport(std::shared_ptr<Board> board, int rank) : board_(std::move(board)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return board_->size(); }

  void Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv) override {
    if (size() == 1) return;
    CHECK_EQ(static_cast<int>(send.size()), size());
    CHECK_EQ(static_cast<int>(recv.size()), size());
    board_->Show(rank_, send.data());
    board_->Barrier();
    // Everyone starts at another source, so that not all read the same memory at once.
    for (int i = 1; i < size(); ++i) {
      const int source = (rank_ + i) % size();
      const SendBlock& from = board_->shown(source)[rank_];
      const ReceiveBlock& to = recv[static_cast<size_t>(source)];
      CHECK_EQ(from.bytes, to.bytes);
      if (to.bytes > 0) std::memcpy(to.data, from.data, static_cast<size_t>(to.bytes));
    }
    board_->Barrier();
  }

  void Barrier() override { board_->Barrier(); }

  std::unique_ptr<Transport> Split(int color, int key) override {
    struct Wish {
      int color;
      int key;
    };
    const auto size_of_group = static_cast<size_t>(size());
    const Wish mine{color, key};
    std::vector<Wish> wishes(size_of_group);
    ShareAll(mine, wishes);
    std::vector<std::pair<int, int>> members;  // (key, rank) of my colour
    for (int r = 0; r < size(); ++r) {
      const Wish& wish = wishes[static_cast<size_t>(r)];
      if (wish.color == color) members.emplace_back(wish.key, r);
    }
    std::sort(members.begin(), members.end());
    const int leader = members.front().second;
    std::shared_ptr<Board> board;
    if (leader == rank_) board = std::make_shared<Board>(static_cast<int>(members.size()));
    std::vector<const std::shared_ptr<Board>*> boards(size_of_group);
    ShareAll<const std::shared_ptr<Board>*>(&board, boards);
    std::shared_ptr<Board> joined = *boards[static_cast<size_t>(leader)];
    Barrier();  // a leader keeps `board` until all have joined
    const auto place = std::find(members.begin(), members.end(), std::pair(key, rank_));
    return std::make_unique<ThreadTransport>(std::move(joined),
                                             static_cast<int>(place - members.begin()));
  }

 private:
  // all[r] <- member r's value.
  template <class T>
  void ShareAll(const T& mine, std::vector<T>& all) {
    std::vector<SendBlock> send(all.size(), SendBlock{&mine, sizeof(T)});
    std::vector<ReceiveBlock> recv;
    for (T& value : all) recv.push_back({&value, sizeof(T)});
    all[static_cast<size_t>(rank_)] = mine;
    Exchange(send, recv);
  }

  std::shared_ptr<Board> board_;
  const int rank_;
};

}  // namespace

std::unique_ptr<Transport> MakeSoloTransport() {
  return std::make_unique<ThreadTransport>(std::make_shared<Board>(1), 0);
}

std::vector<std::unique_ptr<Transport>> MakeThreadTransports(int ranks) {
  CHECK_GT(ranks, 0);
  auto board = std::make_shared<Board>(ranks);
  std::vector<std::unique_ptr<Transport>> out;
  for (int r = 0; r < ranks; ++r) out.push_back(std::make_unique<ThreadTransport>(board, r));
  return out;
}

}  // namespace mneme
