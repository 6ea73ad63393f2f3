#include "parallel/staged_comm.h"

#include <utility>

namespace mneme {
namespace {

class StagedComm : public Comm {
 public:
  explicit StagedComm(std::unique_ptr<Comm> host) : host_(std::move(host)) {}
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int64_t bytes_sent() const override { return host_->bytes_sent(); }
  std::string way() const override { return "the memory of the host"; }

  void AllReduce(Stream& stream, Tensor& x, Reduce op) override {
    Tensor here = ToHost(stream, x);
    host_->AllReduce(host_stream_, here, op);
    ToDevice(stream, here, x);
  }
  void ReduceScatter(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                     Tensor& out) override {
    Tensor here = Room(out);
    host_->ReduceScatter(host_stream_, ToHost(stream, in), counts, here);
    ToDevice(stream, here, out);
  }
  void AllGather(Stream& stream, const Tensor& in, absl::Span<const int64_t> counts,
                 Tensor& out) override {
    Tensor here = Room(out);
    host_->AllGather(host_stream_, ToHost(stream, in), counts, here);
    ToDevice(stream, here, out);
  }
  void AllToAll(Stream& stream, const Tensor& in, absl::Span<const int64_t> send, Tensor& out,
                absl::Span<const int64_t> recv) override {
    Tensor here = Room(out);
    host_->AllToAll(host_stream_, ToHost(stream, in), send, here, recv);
    ToDevice(stream, here, out);
  }
  void Broadcast(Stream& stream, Tensor& x, int root) override {
    Tensor here = ToHost(stream, x);
    host_->Broadcast(host_stream_, here, root);
    ToDevice(stream, here, x);
  }
  std::vector<int64_t> ExchangeCounts(absl::Span<const int64_t> send) override {
    return host_->ExchangeCounts(send);
  }
  std::unique_ptr<Comm> Split(int color, int key, Axis axis) override {
    return std::make_unique<StagedComm>(host_->Split(color, key, axis));
  }

 private:
  Tensor Room(const Tensor& x) {
    return Tensor::Empty(host_stream_, x.dtype(), x.shape(), MemoryTag::kExchange);
  }
  Tensor ToHost(Stream& stream, const Tensor& x) {
    Tensor here = Room(x);
    Download(stream, x, here.raw(), x.bytes());
    return here;
  }
  static void ToDevice(Stream& stream, const Tensor& here, Tensor& x) {
    Upload(stream, here.raw(), here.bytes(), x);
    stream.Synchronize();  // `here` may be handed out again
  }

  std::unique_ptr<Comm> host_;
  Allocator host_memory_{Device{}};
  Stream host_stream_{Device{}, host_memory_};
};

}  // namespace

std::unique_ptr<Comm> MakeStagedComm(std::unique_ptr<Transport> transport) {
  return std::make_unique<StagedComm>(MakeComm(std::move(transport)));
}

}  // namespace mneme
