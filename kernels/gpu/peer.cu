// Rows put straight into the memory of other GPUs of the host (kernels/core/peer.h).
//
// A warp puts a tile after another: a row (of tensors that are gathered) or 10 KiB, 16 bytes a lane
// and access, ten accesses in flight. It goes through the destinations in turn, so that all links
// are busy as long as rows are left, and claims the next tile of each from a counter while one is
// on its way: stores over a link that is full wait, those of some multiprocessors longer than those
// of others, and tiles dealt beforehand would leave the link to the slowest in the end. Which warp
// moves a tile changes nothing of where it lands. Floor: bytes that leave over the link's rate
// (NVLink 4: 450 GB/s a direction, of which payload is at most about 85 %), or the memory's for
// what stays; besides, two kernels and two messages there and back, about 10 µs.
//
// Order: the writes of a block come before its ticket, the tickets before `left` is written at the
// destination, both with fences of the system's scope; a destination's put ends when it has seen
// `left` of all. Numbers in slots only grow, so nothing is ever reset. A slot is written again when
// all members have left the call before.
#include <cuda.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/peer.h"
#include "kernels/gpu/device/chain.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kLanes = 32;
constexpr int kAhead = 10;  // accesses in flight of a lane
constexpr int64_t kTile = 2 * kAhead * kLanes * 16;
constexpr int64_t kBounce = kMostPutRow;  // from each member
constexpr int64_t kNotInStretch = -1;

// What one member says in a rendezvous.
struct Word {
  int64_t room;  // rows, or kNotInStretch
  int64_t offsets[kMostPutTensors];
  int64_t rows[kMostPeers];   // to each member
  int64_t pairs[kMostPeers];  // of these
};
constexpr int kWordLength = sizeof(Word) / sizeof(int64_t);

// Written by one other member, read by the owner of the mailbox.
struct alignas(128) Slot {
  uint64_t met;            // the last call whose word stands here
  uint64_t left;           // the last call whose rows have all been put
  uint64_t granted;        // pieces that may be put into the writer's bounce buffer: of a call,
                           // its number above
  uint64_t arrived;        // pieces put into the owner's, likewise
  alignas(128) Word word;  // of call `met`
};

// What the rendezvous found out, for the put that follows.
struct Session {
  uint64_t call;
  int64_t fits;
  int64_t first[kMostPeers];  // of the rows to each
  int64_t rows[kMostPeers];
  int64_t place[kMostPeers];  // of the first row there
  int64_t come_first[kMostPeers];
  int64_t come[kMostPeers];
  int64_t room[kMostPeers];
  int64_t offsets[kMostPeers][kMostPutTensors];
};

// How far the blocks of a put are; zero between puts.
struct Progress {
  uint32_t tickets;             // blocks that have put all
  uint32_t claims[kMostPeers];  // of tiles to each
};

struct Mailbox {
  alignas(128) Session session;  // of the owner, for itself
  alignas(128) Progress progress;
  Slot slots[kMostPeers];  // by writer
  alignas(128) char bounce[kMostPeers][kBounce];
};

struct Group {
  int members, me;
  Mailbox* mailboxes[kMostPeers];
  char* stretches[kMostPeers];

  __device__ __forceinline__ Mailbox& Mine() const { return *mailboxes[me]; }
  // The slot of this member at another, and another's here.
  __device__ __forceinline__ Slot& At(int r) const { return mailboxes[r]->slots[me]; }
  __device__ __forceinline__ Slot& Of(int r) const { return Mine().slots[r]; }
};

__device__ __forceinline__ void Publish(uint64_t& flag, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(&flag), "l"(value) : "memory");
}
__device__ __forceinline__ uint64_t Seen(const uint64_t& flag) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(&flag) : "memory");
  return value;
}
__device__ __forceinline__ void AwaitAtLeast(const uint64_t& flag, uint64_t value) {
  constexpr int kEager = 4096;
  for (int tries = 0; Seen(flag) < value; ++tries) {
    if (tries > kEager) __nanosleep(200);
  }
}

// What a call knows before its rendezvous. come: rows from each, where the host knows them.
struct Known {
  Word word;
  int64_t come[kMostPeers];
};

// Warp r speaks with member r. leaving, told: as in rendezvous_counted, or null.
__global__ void __launch_bounds__(kLanes* kMostPeers)
    Rendezvous(const __grid_constant__ Group g, const __grid_constant__ Known known,
               const int64_t* leaving, int64_t* told) {
  __shared__ Word words[kMostPeers];
  Session& session = g.Mine().session;
  const int r = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int m = g.members;
  const uint64_t call = session.call + 1;
  Word& mine = words[g.me];
  if (r == g.me) {
    for (int i = lane; i < kWordLength; i += kLanes) {
      reinterpret_cast<int64_t*>(&mine)[i] = reinterpret_cast<const int64_t*>(&known.word)[i];
    }
    __syncwarp();
    if (leaving != nullptr && lane < m) {
      mine.rows[lane] = leaving[2 * lane];
      mine.pairs[lane] = leaving[2 * lane + 1];
    }
  }
  __syncthreads();
  if (r != g.me) {
    auto* there = reinterpret_cast<volatile int64_t*>(&g.At(r).word);
    for (int i = lane; i < kWordLength; i += kLanes) {
      there[i] = reinterpret_cast<const int64_t*>(&mine)[i];
    }
    __syncwarp();
    if (lane == 0) {
      __threadfence_system();
      Publish(g.At(r).met, call);
      AwaitAtLeast(g.Of(r).met, call);
    }
    __syncwarp();
    const auto* here = reinterpret_cast<const volatile int64_t*>(&g.Of(r).word);
    for (int i = lane; i < kWordLength; i += kLanes) {
      reinterpret_cast<int64_t*>(&words[r])[i] = here[i];
    }
  }
  __syncthreads();
  const int d = static_cast<int>(threadIdx.x);
  bool fits = true;
  if (d < m) {
    int64_t before = 0, sum = 0, first = 0, come_first = 0;
    for (int s = 0; s < m; ++s) {
      if (s == g.me) before = sum;
      sum += words[s].rows[d];
      if (s < d) {
        first += mine.rows[s];
        come_first += words[s].rows[g.me];
      }
    }
    session.first[d] = first;
    session.rows[d] = mine.rows[d];
    session.place[d] = before;
    session.come_first[d] = come_first;
    session.come[d] = words[d].rows[g.me];
    session.room[d] = words[d].room;
    for (int t = 0; t < kMostPutTensors; ++t) session.offsets[d][t] = words[d].offsets[t];
    fits = words[d].room != kNotInStretch && sum <= words[d].room;
    if (told == nullptr) {
      if (words[d].rows[g.me] != known.come[d]) __trap();  // the two ends disagree
    } else {
      told[2 * d] = mine.rows[d];
      told[2 * d + 1] = mine.pairs[d];
      told[2 * (m + d)] = words[d].rows[g.me];
      told[2 * (m + d) + 1] = words[d].pairs[g.me];
    }
  }
  const bool all_fit = __syncthreads_and(fits) != 0;
  if (threadIdx.x == 0) {
    session.call = call;
    session.fits = told == nullptr || all_fit ? 1 : 0;
    if (told != nullptr) {
      told[4 * m] = all_fit ? 1 : 0;
      told[4 * m + 1] = 0;
    }
  }
}

// One unit of U after another, those of a warp side by side. Not from the multiprocessor's cache:
// a bounce buffer is written while the kernel runs.
template <class U>
__device__ __forceinline__ void CopyUnits(const char* from, char* to, int64_t bytes, int lane) {
  const auto* x = reinterpret_cast<const U*>(from);
  auto* y = reinterpret_cast<U*>(to);
  const int n = static_cast<int>(bytes / static_cast<int64_t>(sizeof(U)));
#pragma unroll 1
  for (int j = lane; j < n; j += kAhead * kLanes) {
    U unit[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (j + a * kLanes < n) unit[a] = __ldcg(x + j + a * kLanes);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (j + a * kLanes < n) __stcg(y + j + a * kLanes, unit[a]);
    }
  }
}

// By one warp. Not a call: that would wait for what is on its way, as the next claim.
__device__ __forceinline__ void Copy(const char* from, char* to, int64_t bytes, int lane) {
  const auto bits =
      static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) |
                            static_cast<uintptr_t>(bytes));
  if (bits % 16 == 0) return CopyUnits<uint4>(from, to, bytes, lane);
  if (bits % 8 == 0) return CopyUnits<uint2>(from, to, bytes, lane);
  if (bits % 4 == 0) return CopyUnits<unsigned int>(from, to, bytes, lane);
  CopyUnits<unsigned char>(from, to, bytes, lane);
}

struct Cargo {
  int tensors;
  const char* in[kMostPutTensors];
  char* out[kMostPutTensors];
  int64_t row_bytes[kMostPutTensors];
  const int32_t* index;

  __device__ __forceinline__ bool Gathers(int t) const { return t == 0 && index != nullptr; }
  __device__ __forceinline__ int64_t Tiles(int t, int64_t rows) const {
    return Gathers(t) ? rows : (rows * row_bytes[t] + kTile - 1) / kTile;
  }
  // Tile i of tensor t's rows [first, first + rows): where it lies, and how far from the first of
  // these rows it goes.
  struct Tile {
    const char* from;
    int64_t at, bytes;
  };
  __device__ __forceinline__ Tile TileOf(int t, int64_t first, int64_t rows, int64_t i) const {
    const int64_t row = row_bytes[t];
    if (Gathers(t)) return {in[t] + index[first + i] * row, i * row, row};
    const int64_t at = i * kTile;
    return {in[t] + first * row + at, at, min(kTile, rows * row - at)};
  }
};

struct Warp {
  int lane = static_cast<int>(threadIdx.x) % kLanes;
  int number = static_cast<int>(threadIdx.x) / kLanes;  // in its block
  static constexpr int kOfBlock = kThreads / kLanes;
};

// To every member whose room lies in its stretch, and to this one itself. Of a member's tiles what
// is smallest goes first, so that long rows are left to fill the end.
__device__ __forceinline__ void PutStraight(const Group& g, const Session& s, Progress& progress,
                                            const Cargo& cargo) {
  const Warp warp;
  unsigned left = 0;  // bit d: there may be tiles for member d that nobody has claimed
  for (int d = 0; d < g.members; ++d) {
    const bool straight = d == g.me || s.room[d] != kNotInStretch;
    if (straight && s.rows[d] > 0) left |= 1u << d;
  }
  int turn = (g.me + warp.number) % g.members;
  const auto claim = [&]() -> uint32_t {  // of the member whose turn it is; only lane 0 knows
    if (left == 0) return 0;
    do {
      turn = turn + 1 < g.members ? turn + 1 : 0;
    } while ((left >> turn & 1) == 0);
    return warp.lane == 0 ? atomicAdd(&progress.claims[turn], 1u) : 0;
  };
  uint32_t claimed = claim();
  while (left != 0) {
    const int d = turn;
    int64_t i = __shfl_sync(0xffffffffu, claimed, 0);
    int t = cargo.tensors - 1;
    for (; t >= 0; --t) {
      const int64_t tiles = cargo.Tiles(t, s.rows[d]);
      if (i < tiles) break;
      i -= tiles;
    }
    if (t < 0) left &= ~(1u << d);
    claimed = claim();
    if (t < 0) continue;
    const Cargo::Tile tile = cargo.TileOf(t, s.first[d], s.rows[d], i);
    char* const there = d == g.me ? cargo.out[t] : g.stretches[d] + s.offsets[d][t];
    Copy(tile.from, there + s.place[d] * cargo.row_bytes[t] + tile.at, tile.bytes, warp.lane);
  }
}

// The pieces of a way through a bounce buffer, the same on both ends. move(t, row, rows).
template <class F>
__device__ __forceinline__ void ForEachPiece(const Cargo& cargo, int64_t rows, F&& move) {
  for (int t = 0; t < cargo.tensors; ++t) {
    const int64_t most = kBounce / cargo.row_bytes[t];
    for (int64_t row = 0; row < rows; row += most) move(t, row, min(most, rows - row));
  }
}

// One block each.
__device__ void PutInPieces(const Group& g, const Session& s, const Cargo& cargo, int to) {
  const Warp warp;
  uint64_t piece = s.call << 32;
  ForEachPiece(cargo, s.rows[to], [&](int t, int64_t row, int64_t rows) {
    ++piece;
    if (threadIdx.x == 0) AwaitAtLeast(g.Of(to).granted, piece);
    __syncthreads();
    const int64_t tiles = cargo.Tiles(t, rows);
    for (int64_t i = warp.number; i < tiles; i += Warp::kOfBlock) {
      const Cargo::Tile tile = cargo.TileOf(t, s.first[to] + row, rows, i);
      Copy(tile.from, g.mailboxes[to]->bounce[g.me] + tile.at, tile.bytes, warp.lane);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence_system();
      Publish(g.At(to).arrived, piece);
    }
  });
}
__device__ void TakePieces(const Group& g, const Session& s, const Cargo& cargo, int from) {
  const Warp warp;
  uint64_t piece = s.call << 32;
  ForEachPiece(cargo, s.come[from], [&](int t, int64_t row, int64_t rows) {
    ++piece;
    if (threadIdx.x == 0) {
      Publish(g.At(from).granted, piece);
      AwaitAtLeast(g.Of(from).arrived, piece);
    }
    __syncthreads();
    const int64_t bytes = rows * cargo.row_bytes[t];
    char* to = cargo.out[t] + (s.come_first[from] + row) * cargo.row_bytes[t];
    for (int64_t at = warp.number * kTile; at < bytes; at += Warp::kOfBlock * kTile) {
      Copy(g.Mine().bounce[from] + at, to + at, min(kTile, bytes - at), warp.lane);
    }
    __syncthreads();
  });
}

// This member has put all, and so have the others.
__device__ __forceinline__ void LeaveTogether(const Group& g, Progress& progress, uint64_t call) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence_system();
    last = atomicAdd(&progress.tickets, 1u) == gridDim.x - 1;
    __threadfence_system();
  }
  __syncthreads();
  if (!last) return;
  const int r = static_cast<int>(threadIdx.x);
  if (r == 0) progress.tickets = 0;
  if (r < g.members) progress.claims[r] = 0;
  if (r >= g.members || r == g.me) return;
  Publish(g.At(r).left, call);
  AwaitAtLeast(g.Of(r).left, call);
}

// At least 2 members blocks, all of which must run at once where pieces are put.
__global__ void __launch_bounds__(kThreads)
    Put(const __grid_constant__ Group g, const __grid_constant__ Cargo cargo) {
  __shared__ Session s;
  const Session& session = g.Mine().session;
  Progress& progress = g.Mine().progress;
  AwaitTheOneBefore();
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(Session) / 8);
       i += kThreads) {
    reinterpret_cast<int64_t*>(&s)[i] = reinterpret_cast<const int64_t*>(&session)[i];
  }
  __syncthreads();
  if (s.fits != 0) {
    PutStraight(g, s, progress, cargo);
    const auto way = static_cast<int>(blockIdx.x);
    const int r = way % g.members;
    if (way < g.members && r != g.me && s.room[r] == kNotInStretch) PutInPieces(g, s, cargo, r);
    const bool takes = way >= g.members && way < 2 * g.members;
    if (takes && r != g.me && s.room[g.me] == kNotInStretch) TakePieces(g, s, cargo, r);
  }
  LeaveTogether(g, progress, s.call);
}

Group ToDevice(const PeerGroup& group) {
  CHECK(group.members > 1 && group.members <= kMostPeers);
  Group g = {};
  g.members = group.members;
  g.me = group.me;
  for (size_t r = 0; r < static_cast<size_t>(group.members); ++r) {
    g.mailboxes[r] = static_cast<Mailbox*>(group.mailboxes[r]);
    g.stretches[r] = static_cast<char*>(group.stretches[r]);
  }
  return g;
}

Word ToWord(const PeerRoom& room) {
  Word word = {};
  word.room = room.in_stretch ? room.rows : kNotInStretch;
  std::copy(room.offsets.begin(), room.offsets.end(), word.offsets);
  return word;
}

bool Share(void* block, PeerHandle* shared, std::string* why) {
  cudaIpcMemHandle_t handle = {};
  static_assert(sizeof handle == std::tuple_size_v<PeerHandle>);
  const cudaError_t error = cudaIpcGetMemHandle(&handle, block);
  if (error == cudaSuccess) {
    std::memcpy(shared->data(), &handle, sizeof handle);
    return true;
  }
  cudaGetLastError();
  *why = cudaGetErrorString(error);
  return false;
}

void* Open(int device, const PeerHandle& shared, std::string* why) {
  cudaIpcMemHandle_t handle = {};
  std::memcpy(&handle, shared.data(), sizeof handle);
  Check(cudaSetDevice(device));
  void* opened = nullptr;
  const cudaError_t error = cudaIpcOpenMemHandle(&opened, handle, cudaIpcMemLazyEnablePeerAccess);
  if (error == cudaSuccess) return opened;
  cudaGetLastError();
  *why = cudaGetErrorString(error);
  return nullptr;
}

void Close(void* opened) { Check(cudaIpcCloseMemHandle(opened)); }

// The runtime has no such call, and the driver's is found through it.
std::pair<void*, int64_t> BlockOf(const void* at) {
  using Call = CUresult(CUdeviceptr*, size_t*, CUdeviceptr);
  void* call = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  Check(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &call, 12000, cudaEnableDefault,
                                         &found));
  CHECK(found == cudaDriverEntryPointSuccess);
  CUdeviceptr base = 0;
  size_t bytes = 0;
  CHECK_EQ(static_cast<int>(
               reinterpret_cast<Call*>(call)(&base, &bytes, reinterpret_cast<CUdeviceptr>(at))),
           static_cast<int>(CUDA_SUCCESS));
  return {reinterpret_cast<void*>(base), static_cast<int64_t>(bytes)};
}

void* MakeMailbox(int device) {
  Check(cudaSetDevice(device));
  void* mailbox = nullptr;
  if (cudaMalloc(&mailbox, sizeof(Mailbox)) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  Check(cudaMemset(mailbox, 0, sizeof(Mailbox)));
  Check(cudaDeviceSynchronize());
  return mailbox;
}

void FreeMailbox(void* mailbox) { Check(cudaFree(mailbox)); }

void Settle(int device) {
  Check(cudaSetDevice(device));
  Check(cudaDeviceSynchronize());
}

void Meet(Stream& stream, const PeerGroup& group, const Known& known, const int64_t* leaving,
          int64_t* told) {
  Launch(stream, Rendezvous, dim3(1), dim3(static_cast<unsigned>(kLanes * group.members)), 0,
         ToDevice(group), known, leaving, told);
}

void RendezvousOf(Stream& stream, const PeerGroup& group, const PeerRoom& room,
                  absl::Span<const int64_t> send, absl::Span<const int64_t> recv) {
  CHECK_EQ(static_cast<int>(send.size()), group.members);
  CHECK_EQ(static_cast<int>(recv.size()), group.members);
  Known known = {ToWord(room), {}};
  std::copy(send.begin(), send.end(), known.word.rows);
  std::copy(recv.begin(), recv.end(), known.come);
  Meet(stream, group, known, nullptr, nullptr);
}

void RendezvousCounted(Stream& stream, const PeerGroup& group, const PeerRoom& room,
                       const Tensor& leaving, Tensor& told) {
  CHECK_EQ(leaving.elements(), int64_t{2} * group.members);
  CHECK_EQ(told.elements(), int64_t{4} * group.members + 2);
  Meet(stream, group, {ToWord(room), {}}, Data<int64_t>(leaving), Data<int64_t>(told));
}

void PutRows(Stream& stream, const PeerGroup& group, absl::Span<const PeerRows> rows,
             const int32_t* index) {
  CHECK_LE(rows.size(), size_t{kMostPutTensors});
  CHECK_GE(group.blocks, 2 * group.members);
  Cargo cargo = {};
  cargo.index = index;
  for (const PeerRows& r : rows) {
    CHECK(r.row_bytes > 0 && r.row_bytes <= kMostPutRow);
    cargo.in[cargo.tensors] = static_cast<const char*>(r.in);
    cargo.out[cargo.tensors] = static_cast<char*>(r.out);
    cargo.row_bytes[cargo.tensors++] = r.row_bytes;
  }
  LaunchChained(stream, Put, dim3(static_cast<unsigned>(group.blocks)), dim3(kThreads), 0,
                ToDevice(group), cargo);
}

constexpr PeerDriver kPeers = {
    .share = Share,
    .open = Open,
    .close = Close,
    .block_of = BlockOf,
    .make_mailbox = MakeMailbox,
    .free_mailbox = FreeMailbox,
    .settle = Settle,
    .rendezvous = RendezvousOf,
    .rendezvous_counted = RendezvousCounted,
    .put = PutRows,
};

}  // namespace
}  // namespace mneme::gpu

namespace mneme {

const PeerDriver* GpuPeers() { return &gpu::kPeers; }

}  // namespace mneme
