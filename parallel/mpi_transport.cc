#include "parallel/mpi_transport.h"

#include <mpi.h>

#include <algorithm>
#include <string>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// MPI counts are int. Messages of one pair and tag keep their order, so pieces match by themselves.
constexpr int64_t kPiece = int64_t{1} << 30;
// An exchange of more than this tells its progress message by message.
constexpr int64_t kLongBytes = int64_t{64} << 20;
constexpr int kTag = 7;

// A failed call ends every rank with MPI's own text.
void Must(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  Fatal(__FILE__, __LINE__,
        std::string(call) + ": " + std::string(text, static_cast<size_t>(length)));
}

class MpiTransport : public Transport {
 public:
  // Owns `comm`.
  explicit MpiTransport(MPI_Comm comm) : comm_(comm) {
    Must(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    Must(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    Must(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiTransport() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Exchange(absl::Span<const SendBlock> send, absl::Span<const ReceiveBlock> recv) override {
    if (size_ == 1) return;
    CHECK_EQ(static_cast<int>(send.size()), size_);
    CHECK_EQ(static_cast<int>(recv.size()), size_);
    requests_.clear();
    int64_t bytes = 0;
    for (int i = 1; i < size_; ++i) {
      const int source = (rank_ - i + size_) % size_;
      const ReceiveBlock& block = recv[static_cast<size_t>(source)];
      bytes += block.bytes;
      ForEachPiece(block.bytes, [&](int64_t begin, int count) {
        Must(MPI_Irecv(static_cast<char*>(block.data) + begin, count, MPI_BYTE, source, kTag, comm_,
                       NextRequest()),
             "MPI_Irecv");
      });
    }
    for (int i = 1; i < size_; ++i) {
      const int target = (rank_ + i) % size_;
      const SendBlock& block = send[static_cast<size_t>(target)];
      bytes += block.bytes;
      ForEachPiece(block.bytes, [&](int64_t begin, int count) {
        Must(MPI_Isend(static_cast<const char*>(block.data) + begin, count, MPI_BYTE, target, kTag,
                       comm_, NextRequest()),
             "MPI_Isend");
      });
    }
    if (bytes > kLongBytes && pulse() != nullptr) WaitEach();
    Must(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE),
         "MPI_Waitall");
  }

  void Barrier() override { Must(MPI_Barrier(comm_), "MPI_Barrier"); }

  std::unique_ptr<Transport> Split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    Must(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
    return std::make_unique<MpiTransport>(part);
  }

 private:
  template <class F>
  static void ForEachPiece(int64_t bytes, F&& f) {
    for (int64_t begin = 0; begin < bytes; begin += kPiece) {
      f(begin, static_cast<int>(std::min(kPiece, bytes - begin)));
    }
  }
  void WaitEach() {
    for (size_t left = requests_.size(); left > 0; --left) {
      int which = 0;
      Must(MPI_Waitany(static_cast<int>(requests_.size()), requests_.data(), &which,
                       MPI_STATUS_IGNORE),
           "MPI_Waitany");
      pulse()->Progress();
    }
  }
  MPI_Request* NextRequest() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
  std::vector<MPI_Request> requests_;
};

}  // namespace

std::unique_ptr<Transport> MakeMpiTransport() {
  MPI_Comm world = MPI_COMM_NULL;
  Must(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  return std::make_unique<MpiTransport>(world);
}

}  // namespace mneme
