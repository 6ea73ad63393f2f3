// Ranks that measure what they do together, each with its GPU.
#pragma once

#include <nccl.h>

#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "parallel/mesh.h"

namespace mneme::bench {

struct Machine {
  Machine(World& of, Device mine);  // the first rank prints what lies between the GPUs

  World& world;
  Device device;
  Allocator allocator{device};
  Stream stream{device, allocator};
  Mesh mesh = MakeMesh(world, LayoutOf(false), device);  // over NCCL
  Mesh peers = MakeMesh(world, LayoutOf(true), device);  // over peer memory, where there is any

  // Bytes that look like nothing.
  Tensor Random(DType dtype, Shape shape);
  // Seconds of one call on the slowest rank, of `calls` in a row, by the hosts' clocks.
  double Time(int calls, const std::function<void()>& call);
  // Seconds of one call on the slowest rank, by the GPUs' clocks: all begin at once, behind work
  // that keeps them busy while the hosts queue the call. Several sums of ranks before it wake the
  // links.
  double Latency(const std::function<void()>& call);

 private:
  Layout LayoutOf(bool peer) const;  // experts and rows over all ranks
  double Slowest(double seconds);
  Tensor busy_, busier_, one_;
  void* stamps_[2] = {};
};

double Median(std::vector<double> x);

// Grouped sends and receives of NCCL, with nothing around them.
class RawNccl {
 public:
  explicit RawNccl(World& world);
  ~RawNccl();
  RawNccl(const RawNccl&) = delete;
  RawNccl& operator=(const RawNccl&) = delete;

  // part_bytes to each other rank, and as many from each.
  void AllToAll(Stream& stream, const Tensor& in, Tensor& out, int64_t part_bytes);

 private:
  int size_, rank_;
  ncclComm_t comm_ = nullptr;
};

// row_bench.cc: rows of a spread table, from text to what a layer reads, and its gradients back.
void MeasureRows(Machine& m, RawNccl& raw);

}  // namespace mneme::bench
