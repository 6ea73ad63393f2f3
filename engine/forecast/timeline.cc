#include "engine/forecast/timeline.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

const WorkRate& RateOf(const WorkRates& rates, Work work) {
  switch (work) {
    case Work::kMatmul:
      return rates.matmul;
    case Work::kExperts:
      return rates.experts;
    case Work::kAttention:
      return rates.attention;
    case Work::kAttentionGrad:
      return rates.attention_grad;
    case Work::kHead:
      return rates.head;
    case Work::kStreams:
      return rates.streams;
    case Work::kNorms:
      return rates.norms;
    case Work::kRouting:
      return rates.routing;
    case Work::kMemory:
      return rates.memory;
    case Work::kTables:
      return rates.tables;
    case Work::kOptimizer:
      return rates.optimizer;
    case Work::kOrthogonal:
      return rates.orthogonal;
  }
  return rates.matmul;
}

double Quotient(double work, double rate) { return rate > 0.0 ? work / rate : 0.0; }

class Player {
 public:
  Player(const Timeline& timeline, const DeviceRates& rates, int threads)
      : rates_(rates), threads_(threads), main_{timeline.main}, side_{timeline.side} {
    launch_ = timeline.recorded ? 0.0 : rates.launch_seconds;
    for (const Lane* lane : {&main_, &side_}) {
      for (const Queued& next : lane->all)
        if (next.what == Queued::What::kMark) reached_[next.number] = false;
    }
  }

  std::vector<Moment> Run() {
    while (true) {
      while (Give() || Settle(main_) || Settle(side_)) {
      }
      const double pace = side_.left < kNever && rates_.beside > 0.0 ? rates_.beside : 1.0;
      const double step = std::min({host_left_, main_.left / pace, side_.left});
      if (step == kNever) break;
      now_.seconds += step;
      host_left_ -= step;
      main_.left -= step * pace;
      side_.left -= step;
      // The shortest ends here, whatever rounding left of it.
      for (double* left : {&host_left_, &main_.left, &side_.left})
        if (*left <= 1e-12) *left = 0.0;
    }
    CHECK(main_.at == main_.all.size() && side_.at == side_.all.size());
    return std::move(laps_);
  }

 private:
  struct Lane {
    const std::vector<Queued>& all;
    size_t given = 0;      // by the host
    size_t at = 0;         // what it does, or waits for
    double left = kNever;  // of that, in seconds at full pace; kNever: nothing is begun
  };

  bool Reached(int64_t mark) const {
    const auto found = reached_.find(mark);
    return found == reached_.end() || found->second;
  }

  // The host gives what is next, when it has taken its time. false: nothing changed.
  bool Give() {
    const bool main_left = main_.given < main_.all.size();
    const bool side_left = side_.given < side_.all.size();
    if (!main_left && !side_left) return false;
    const bool takes_side =
        !main_left || (side_left && side_.all[side_.given].number < main_.all[main_.given].number);
    Lane& lane = takes_side ? side_ : main_;
    const Queued& next = lane.all[lane.given];
    if (next.what == Queued::What::kHost && !Reached(next.mark)) return false;
    if (host_left_ == kNever) host_left_ = launch_ * static_cast<double>(next.done.calls);
    if (host_left_ > 0.0) return false;
    host_left_ = kNever;
    ++lane.given;
    return true;
  }

  // Ends what has no time left, and begins the next. false: nothing changed.
  bool Settle(Lane& lane) {
    if (lane.left == 0.0) {
      lane.left = kNever;
      ++lane.at;
      return true;
    }
    if (lane.left < kNever || lane.at == lane.given) return false;
    const Queued& next = lane.all[lane.at];
    switch (next.what) {
      case Queued::What::kWork:
        lane.left = Begin(next, &lane == &main_);
        return true;
      case Queued::What::kWire:
        lane.left = WireSeconds(next);
        return true;
      case Queued::What::kAwait:
        if (!Reached(next.mark)) return false;
        break;
      case Queued::What::kMark:
        reached_[next.number] = true;
        break;
      case Queued::What::kHost:
        break;
      case Queued::What::kLap:
        laps_.push_back(now_);
        break;
    }
    ++lane.at;
    return true;
  }

  double Begin(const Queued& next, bool on_main) {
    const WorkRate& rate = RateOf(rates_.rates, static_cast<Work>(next.kind));
    const WorkDone& done = next.done;
    const double work = (Quotient(done.flops, rate.flops) + Quotient(done.bytes, rate.bytes) +
                         Quotient(done.exps, rate.exps)) /
                        static_cast<double>(threads_);
    const double calls = static_cast<double>(done.calls) * rates_.call_seconds;
    if (on_main) {
      now_.work[next.kind] += work;
      now_.calls += calls;
    }
    return work + calls;
  }

  double WireSeconds(const Queued& next) const {
    const double rates[kWires] = {rates_.link, rates_.link_sums, rates_.link_values};
    const double rate = rates[next.kind] > 0.0 ? rates[next.kind] : rates_.link;
    return rates_.link_seconds + Quotient(next.done.bytes, rate);
  }

  const DeviceRates& rates_;
  const int threads_;
  double launch_ = 0.0;
  Lane main_, side_;
  double host_left_ = kNever;
  std::unordered_map<int64_t, bool> reached_;  // by mark
  Moment now_;
  std::vector<Moment> laps_;
};

}  // namespace

double Moment::waiting() const {
  return seconds - calls - std::accumulate(work.begin(), work.end(), 0.0);
}

std::vector<Moment> Play(const Timeline& timeline, const DeviceRates& rates, int threads) {
  return Player(timeline, rates, threads).Run();
}

}  // namespace mneme
