#include "parallel/watchdog.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/core/end.h"
#include "parallel/fault_check.h"
#include "parallel/pulse_board.h"
#include "parallel/pulse_courier.h"
#include "parallel/watch.h"

namespace mneme {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Signals go to the rank's own thread, which has handlers for them.
template <class F>
std::thread QuietThread(F&& f) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::forward<F>(f));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

// Processes of other ranks of this host; each can be polled for its end. So can the wish to stop.
class Neighbours {
 public:
  Neighbours(PulseBoard& board, int rank) : stop_(eventfd(0, EFD_CLOEXEC)) {
    const auto& leaders = board.leaders();
    for (int r = 0; r < static_cast<int>(leaders.size()); ++r) {
      const int64_t process = board.slots()[static_cast<size_t>(r)].fields[kProcess];
      const bool here = leaders[static_cast<size_t>(r)] == leaders[static_cast<size_t>(rank)];
      if (!here || process == getpid()) continue;  // elsewhere, or a thread of this one
      const auto opened = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
      if (opened < 0) continue;  // an old kernel: then a death is met as a hang
      ranks_.push_back(r);
      polled_.push_back({opened, POLLIN, 0});
    }
  }
  ~Neighbours() {
    for (const pollfd& one : polled_) close(one.fd);
    if (stop_ >= 0) close(stop_);
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

  // From another thread: no wait is long from now on.
  void Stop() const { eventfd_write(stop_, 1); }

  // Waits at most so long; returns the ranks whose process has ended, each once.
  std::vector<int> Wait(double seconds) {
    std::vector<int> gone;
    polled_.push_back({stop_, POLLIN, 0});
    const int found = poll(polled_.data(), polled_.size(), static_cast<int>(seconds * 1e3));
    polled_.pop_back();
    if (found <= 0) return gone;
    for (size_t i = polled_.size(); i-- > 0;) {
      if (polled_[i].revents == 0) continue;
      gone.push_back(ranks_[i]);
      close(polled_[i].fd);
      polled_.erase(polled_.begin() + static_cast<int64_t>(i));
      ranks_.erase(ranks_.begin() + static_cast<int64_t>(i));
    }
    return gone;
  }

 private:
  const int stop_;
  std::vector<int> ranks_;
  std::vector<pollfd> polled_;
};

class ThreadWatchdog : public Watchdog {
 public:
  ThreadWatchdog(World& world, WatchdogOptions options)
      : options_(std::move(options)),
        rank_(world.rank()),
        board_(PulseBoard::Make(world, options_.host.empty() ? world.host() : options_.host)),
        watch_(board_->slots(), board_->hosts(), rank_, options_.timeout),
        neighbours_(*board_, rank_) {
    const auto& leaders = board_->leaders();
    const bool one_host = std::count(leaders.begin(), leaders.end(), 0) == world.size();
    if (!one_host && !options_.folder.empty()) {
      courier_.emplace(*board_, options_.folder, rank_);
      if (rank_ == 0) courier_->Clear();
      world.Barrier();
    }
    if (courier_) courier_thread_ = QuietThread([this] { Carry(); });
    thread_ = QuietThread([this] { Run(); });
  }
  ~ThreadWatchdog() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    neighbours_.Stop();
    thread_.join();
    if (!courier_) return;
    courier_thread_.join();
    if (acts_) courier_->Remove();
  }
  bool Claim() override { return board_->Claim(); }

 private:
  // How often it looks. Short against the timeout, so that the sum of looks is close to it.
  double Tick() const { return std::clamp(options_.timeout / 40, 0.01, 1.0); }

  bool Stopping() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stopping_;
  }
  void Sleep(double seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, Seconds(seconds), [this] { return stopping_; });
  }

  void Run() {
    Clock::time_point before = Clock::now();
    while (!Stopping()) {
      const std::vector<int> gone = neighbours_.Wait(Tick());
      ++board_->slots()[static_cast<size_t>(rank_)].fields[kBeats];
      const Clock::time_point now = Clock::now();
      const Watch::Verdict verdict = watch_.Look(Seconds(now - before).count(), gone);
      before = now;
      acts_ = IsCourier();
      if (verdict != Watch::Verdict::kFine) return End(verdict);
      FaultCheck::RunAll();  // after it: who is lost has the first word
    }
  }

  // The lowest rank of the host that lives carries for all.
  bool IsCourier() const {
    const auto& leaders = board_->leaders();
    for (int r = 0; r < rank_; ++r) {
      if (leaders[static_cast<size_t>(r)] == leaders[static_cast<size_t>(rank_)] &&
          !watch_.IsSilent(r))
        return false;
    }
    return true;
  }

  void Carry() {
    while (!Stopping()) {
      if (acts_) courier_->Round();
      Sleep(std::clamp(options_.timeout / 20, 0.02, 10.0));
    }
  }

  void End(Watch::Verdict verdict) {
    const std::string line = watch_.Line();
    if (!options_.on_end) {  // first, since what follows may hang with the disk or the launcher
      QuietThread([] {
        std::this_thread::sleep_for(Seconds(kLeaveSeconds));
        std::_Exit(kLostRankCode);
      }).detach();
    }
    const bool speaks = board_->Claim() && (!courier_ || courier_->Claim());
    if (options_.on_end) {
      if (speaks) options_.on_end(line);
      return;
    }
    if (speaks) {
      std::fprintf(stderr, "mneme: %s\n", line.c_str());
      std::fflush(stderr);
    }
    if (!speaks || verdict == Watch::Verdict::kDied) Sleep(kLauncherSeconds);
    if (!Stopping()) EndAllRanks(kLostRankCode);
  }

  const WatchdogOptions options_;
  const int rank_;
  std::unique_ptr<PulseBoard> board_;
  Watch watch_;
  Neighbours neighbours_;
  std::optional<PulseCourier> courier_;
  std::atomic<bool> acts_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
  std::thread courier_thread_;
};

}  // namespace

std::unique_ptr<Watchdog> Watchdog::Start(World& world, const WatchdogOptions& options) {
  if (world.size() == 1 || options.timeout <= 0.0) return nullptr;
  return std::make_unique<ThreadWatchdog>(world, options);
}

}  // namespace mneme
