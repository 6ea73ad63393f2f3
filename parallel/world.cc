#include "parallel/world.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <utility>

#include "kernels/core/driver.h"
#include "kernels/core/end.h"
#include "parallel/nccl_comm.h"
#include "parallel/peer_comm.h"
#include "parallel/staged_comm.h"
#include "parallel/watchdog.h"

namespace mneme {
namespace {

// For the end of a message of Fatal: the rank of this thread, else of this process.
thread_local World* world_of_thread = nullptr;
std::atomic<World*> world_of_process{nullptr};

std::string PlaceInJob() {
  World* world = world_of_thread != nullptr ? world_of_thread : world_of_process.load();
  if (world == nullptr) return "";
  if (world->size() == 1) return world->name().empty() ? "" : "; " + world->name();
  return "; " + world->BeginFatal();
}

SendBlock Whole(const std::string& bytes) {
  return {bytes.data(), static_cast<int64_t>(bytes.size())};
}

}  // namespace

World::World(std::unique_ptr<Transport> transport, std::string host, std::function<void()> finish)
    : transport_(std::move(transport)), host_(std::move(host)), finish_(std::move(finish)) {
  transport_->ShowIn(&pulse_, Axis::kHost);
  world_of_thread = this;
  if (finish_) world_of_process = this;  // one a process then
  SetPlaceHook(PlaceInJob);
}

World::~World() {
  {
    const InFlight flight = Note(Collective::kFinish);
    transport_.reset();
    if (finish_) finish_();
  }
  world_of_thread = nullptr;
  if (world_of_process == this) world_of_process = nullptr;
  pulse_.SetEnded();
  pulse_.ShowIn(nullptr);
  watchdog_.reset();
}

std::string World::BeginFatal() {
  pulse_.SetEnded();  // what there is to say is being said
  if (watchdog_ != nullptr && !watchdog_->Claim())
    std::this_thread::sleep_for(std::chrono::duration<double>(Watchdog::kLauncherSeconds));
  return "rank " + std::to_string(rank()) + " of " + std::to_string(size()) + " (host " + host_ +
         ") " + PlaceText(pulse_.note());
}

void World::StartWatchdog(const WatchdogOptions& options) {
  std::unique_ptr<Watchdog> next = Watchdog::Start(*this, options);
  if (next == nullptr) pulse_.ShowIn(nullptr);
  watchdog_ = std::move(next);
}

InFlight World::Note(Collective collective) {
  return {size() == 1 ? nullptr : &pulse_, {collective, Axis::kHost, 0}};
}

void World::Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv) {
  transport_->Exchange(send, recv);
  pulse_.Progress();
}

void World::Barrier() {
  const InFlight flight = Note(Collective::kBarrier);
  transport_->Barrier();
}

std::vector<int64_t> World::Everyones(absl::Span<const int64_t> values) {
  const InFlight flight = Note(Collective::kAllGather);
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(int64_t));
  std::vector<int64_t> all(values.size() * static_cast<size_t>(size()));
  std::vector<SendBlock> send(static_cast<size_t>(size()), SendBlock{values.data(), bytes});
  std::vector<ReceiveBlock> recv;
  for (size_t r = 0; r < send.size(); ++r) recv.push_back({all.data() + r * values.size(), bytes});
  Exchange(send, recv);
  std::copy(values.begin(), values.end(),
            all.begin() + static_cast<int64_t>(values.size()) * rank());
  return all;
}

std::string World::Broadcast(const std::string& bytes, int root) {
  const InFlight flight = Note(Collective::kBroadcast);
  const std::vector<int64_t> sizes = Everyones({static_cast<int64_t>(bytes.size())});
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
  Exchange(send, recv);
  return out;
}

std::vector<std::string> World::AllGather(const std::string& bytes) {
  const InFlight flight = Note(Collective::kAllGather);
  const std::vector<int64_t> sizes = Everyones({static_cast<int64_t>(bytes.size())});
  std::vector<std::string> all(sizes.size());
  std::vector<SendBlock> send(sizes.size(), Whole(bytes));
  std::vector<ReceiveBlock> recv;
  for (size_t r = 0; r < all.size(); ++r) {
    all[r].assign(static_cast<size_t>(sizes[r]), '\0');
    recv.push_back({all[r].data(), sizes[r]});
  }
  Exchange(send, recv);
  all[static_cast<size_t>(rank())] = bytes;
  return all;
}

int64_t World::Sum(int64_t value) {
  int64_t sum = 0;
  for (int64_t one : Everyones({value})) sum += one;
  return sum;
}

int64_t World::Max(int64_t value) {
  const std::vector<int64_t> all = Everyones({value});
  return *std::max_element(all.begin(), all.end());
}

bool World::SharesGpus(const Device& device) {
  if (device.is_cpu()) return false;
  const std::string mine = host_ + " " + DriverOf(device).info(device.index).id;
  const std::vector<std::string> places = AllGather(mine);
  return std::set<std::string>(places.begin(), places.end()).size() < places.size();
}

std::unique_ptr<Comm> World::MakeComm(const Device& device, bool peer) {
  const InFlight flight = Note(Collective::kSplit);
  std::unique_ptr<Transport> all = transport_->Split(/*color=*/0, /*key=*/rank());
  all->ShowIn(&pulse_, Axis::kWorld);
  if (device.is_cpu() || size() == 1) return mneme::MakeComm(std::move(all));
  if (SharesGpus(device)) return MakeStagedComm(std::move(all));
  return peer ? MakePeerComm(std::move(all), device, host_) : MakeNcclComm(std::move(all), device);
}

absl::Status World::Agree(const absl::Status& mine) {
  const InFlight flight = Note(Collective::kAgree);
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
