// How the grouped products on Hopper store a tile: through boxes in shared memory. Device code for
// sm_90a only.
#pragma once

#include "kernels/gpu/device/grouped.cuh"

namespace mneme::gpu::hopper {

// Stores the share of a tile that one warpgroup has. Boxes are written by all its threads and then
// copied out by one, while the next are written.
struct Store {
  uint32_t boxes;  // two, in shared memory
  int thread;      // of the warpgroup: 0 … 127
  int barrier;     // of the warpgroup: a NamedBarrier that nobody else uses
  int next = 0;    // which box comes next

  __device__ int lane() const { return thread % 32; }
  __device__ int warp() const { return thread / 32; }
  __device__ bool first() const { return thread == 0; }
  __device__ void Sync() const { NamedBarrier(barrier, 128); }

  // The next of two boxes, when what it held has been copied out.
  __device__ uint32_t Begin() {
    if (first()) StoresRead<1>();
    Sync();
    const uint32_t box = boxes + next * kBox;
    next ^= 1;
    return box;
  }
  // All threads have written; copies may begin.
  __device__ void End() const {
    FenceAsync();
    Sync();
  }
  // Where this lane's line and 16-byte unit (8 columns) of the matrices at columns 8 j stand.
  __device__ uint32_t At(int j) const {
    const int line = warp() * 16 + lane() % 16;
    return line * 128 + ((j + lane() / 16) ^ line % 8) * 16;
  }
};

// Where 64 rows x 64 columns go: in a tensor map, and in memory for the rows of the last, short
// part of a group.
struct Target {
  const CUtensorMap* map;
  Box box;
  __nv_bfloat16* memory;  // of the first row and column
  int64_t pitch;          // elements from one row to the next
  int rows, columns;      // that exist

  // A whole box goes by its map; a part of one would write into the next group's rows.
  __device__ bool whole() const { return rows >= 64; }
};

// The rows of a box that exist, by all threads.
__device__ inline void CopyPart(const Store& s, const Target& to, uint32_t box) {
  for (int i = s.thread; i < 64 * 8; i += 128) {
    const int line = i / 8, unit = i % 8;
    if (line >= to.rows || unit * 8 >= to.columns) continue;
    *reinterpret_cast<uint4*>(to.memory + line * to.pitch + unit * 8) =
        LoadUnit(box + line * 128 + (unit ^ line % 8) * 16);
  }
}

// After End: copies a box out. The caller commits.
__device__ inline void CopyOut(const Store& s, const Target& to, uint32_t box) {
  if (!to.whole()) {
    CopyPart(s, to, box);
  } else if (s.first()) {
    StoreBox(to.map, to.box, box);
  }
}

// Of a [R, 2n] tensor of gates (half 0) and ups (half 1), and of a [R, n] tensor. row, column: the
// first; rows: those that the group still has from there.
__device__ inline Target HalfTarget(const CUtensorMap* map, __nv_bfloat16* c, int n, int row,
                                    int half, int column, int rows) {
  const int64_t pitch = 2 * int64_t{n};
  return {map,       {column, half, row, 0}, c + row * pitch + half * n + column, pitch, rows,
          n - column};
}
__device__ inline Target WholeTarget(const CUtensorMap* map, __nv_bfloat16* c, int n, int row,
                                     int column, int rows) {
  return {map, {column, row, 0, 0}, c + int64_t{row} * n + column, int64_t{n}, rows, n - column};
}

}  // namespace mneme::gpu::hopper
