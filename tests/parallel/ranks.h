// One suite, several ways to be many: as threads of one process (thread_ranks.cc), and as the
// processes of mpirun (mpi_main.cc), where every rank runs every test, on CPUs or, with
// MNEME_TEST_DEVICE=gpu, each on a GPU.
#pragma once

#include <functional>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/world.h"

namespace mneme {

// Runs body on worlds of every size that can be had: 1, 2, 3, 4 and 6 threads; the ranks of this
// mpirun.
void OnWorlds(const std::function<void(World&)>& body);

// Runs body on groups of 1, 2, 3, ... members of those worlds (ranks left over sit out). They carry
// tensors of RankDevice().
void OnGroups(const std::function<void(Comm&)>& body);

// Runs body on groups of 2, 3, ... members that reach each other's memory (peer_comm.h), which each
// shares of the stream of a pool that has reserved some: room for all; so little that much does not
// find a place in it, and on odd members less than on even ones; and none. False, and nothing is
// run, where no rank has a GPU of its own.
struct TestStream;
bool OnPeerGroups(const std::function<void(Comm&, TestStream&)>& body);

// This rank's device: the CPU, or its GPU.
Device RankDevice();

// A stream of that device with a pool of its own.
struct TestStream {
  Allocator allocator{RankDevice()};
  Stream stream{RankDevice(), allocator};
};

// The first elements of a host's vector as a tensor of a stream's device: on a CPU the vector's own
// memory.
template <class T>
class Placed {
 public:
  Placed(TestStream& t, std::vector<T>& host, Shape shape)
      : tensor(Tensor::Wrap(host.data(), DTypeOf<T>, shape)), t_(t), host_(host) {
    if (t.stream.device().is_cpu()) return;
    tensor = Tensor::Empty(t.stream, DTypeOf<T>, shape);
    Upload(t.stream, host.data(), tensor.bytes(), tensor);
  }
  Placed(TestStream& t, std::vector<T>& host)
      : Placed(t, host, Shape{static_cast<int64_t>(host.size())}) {}

  // Once queued work is done the vector has what the tensor has.
  void Back() {
    if (tensor.device().is_cpu()) return;
    Download(t_.stream, tensor, host_.data(), tensor.bytes());
  }

  Tensor tensor;

 private:
  TestStream& t_;
  std::vector<T>& host_;
};

}  // namespace mneme
