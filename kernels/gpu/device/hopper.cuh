// What Hopper adds, one function an instruction: barriers in shared memory that count bytes, bulk
// copies of tensor boxes, products of warpgroups (128 threads). Device code for sm_90a only.
//
// Barriers, boxes and lines are named by their addresses in shared memory (SharedAddress).
//
// Boxes lie in shared memory with the 128-byte swizzle: a box is 64 lines of 128 bytes (8 KB,
// aligned to 1,024 bytes), and the 16-byte unit u of line l stands at unit u ^ (l % 8).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace mneme::gpu::hopper {

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Barriers ------------------------------------------------------------------------------------

// A phase is complete after so many arrivals, and when the bytes that were announced have come. One
// thread, before anyone uses it.
__device__ inline void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the cluster and to bulk copies.
__device__ inline void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One arrival, and `bytes` more to come by bulk copies.
__device__ inline void BarrierExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// One arrival; what this thread has done before is seen by who waits.
__device__ inline void BarrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// An arrival at the barrier of the same place in block `rank` of the cluster.
__device__ inline void BarrierArriveAt(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Returns when the phase of this parity is complete: 0 for the first, then by turns. Of a fresh
// barrier the phase before the first (parity 1) counts as complete.
__device__ inline void BarrierWait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A barrier of `threads` threads of the block; ids from 1 (0 is __syncthreads).
__device__ inline void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The same, without waiting for the others.
__device__ inline void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// This block's number in its cluster.
__device__ inline uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks of the cluster; what they wrote before is seen after it.
__device__ inline void ClusterSync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Bulk copies ---------------------------------------------------------------------------------

struct Box {
  int32_t x, y, z, w;  // coordinates in the tensor map's dims, innermost first
};

// A box to shared memory, by one thread; its bytes count at `barrier`. What lies outside the tensor
// comes as zeros and counts too.
__device__ inline void LoadBox(uint32_t to, const CUtensorMap* map, Box box, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(box.x), "r"(box.y), "r"(box.z), "r"(box.w)
      : "memory");
}

// The same bytes to the same place of every block in `mask`, whose barriers count them.
__device__ inline void LoadBoxTo(uint16_t mask, uint32_t to, const CUtensorMap* map, Box box,
                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(box.x), "r"(box.y), "r"(box.z), "r"(box.w), "h"(mask)
      : "memory");
}

// A box from shared memory, by one thread, after FenceAsync of who wrote it. What lies outside the
// tensor is not written. StoresCommit closes a group of them.
__device__ inline void StoreBox(const CUtensorMap* map, Box box, uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          map),
      "r"(from), "r"(box.x), "r"(box.y), "r"(box.z), "r"(box.w)
      : "memory");
}

// Adds the box to what is there. No element loses a sum, but boxes of several blocks come in no
// order: see AwaitTurn.
__device__ inline void AddBox(const CUtensorMap* map, Box box, uint32_t from) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.bulk_group "
      "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(from), "r"(box.x), "r"(box.y), "r"(box.z), "r"(box.w)
      : "memory");
}

__device__ inline void StoresCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Returns when all but the last `kPending` groups of this thread have been read from shared memory.
template <int kPending>
__device__ inline void StoresRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Returns when all groups of this thread have been written to memory.
__device__ inline void StoresDone() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Turns at a place in memory: `turn` counts the parts that are there. Await returns when there are
// `parts`, and what this thread adds by bulk copies comes after them; End says so, after
// StoresDone, when this thread's has made it `parts`.
__device__ inline void AwaitTurn(const int32_t* turn, int32_t parts) {
  int32_t there;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(there) : "l"(turn) : "memory");
  } while (there != parts);
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
__device__ inline void EndTurn(int32_t* turn, int32_t parts) {
  asm volatile("fence.proxy.async.global;" ::: "memory");
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(parts) : "memory");
}

// Orders this thread's ordinary accesses to shared memory before later bulk copies and products.
__device__ inline void FenceAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// 16 bytes by this thread, zeros where not `there`; not a bulk copy: FenceAsync stands between it
// and a product.
__device__ inline void CopyUnit(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

// One arrival, when this thread's CopyUnits so far have arrived.
__device__ inline void BarrierArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Products ------------------------------------------------------------------------------------

// Describes an operand: `line_groups` bytes between groups of 8 lines; `blocks` bytes between boxes
// where the operand's lines run along k (and more than 64 wide in the other dim).
__device__ inline uint64_t OperandOf(uint32_t address, uint32_t blocks, uint32_t line_groups) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(blocks >> 4) << 16 | static_cast<uint64_t>(line_groups >> 4) << 32 |
         uint64_t{1} << 62;
}

// Around products, by all threads of a warpgroup. Begin: orders their registers and shared memory
// before. Commit: closes a group. Wait: at most kPending groups still run, and the registers of the
// others may be read (Settle).
__device__ inline void ProductsBegin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void ProductsCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void ProductsWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// d = a · b + (add ? d : 0) for 64 x 256 x 16 in bf16. kAcross: the operand's lines run along k.
// d[4j + 2h + i] is row 16·warp + lane / 4 + 8h, column 8j + 2·(lane % 4) + i.
template <bool kAcrossA, bool kAcrossB>
__device__ inline void Product(float (&d)[128], uint64_t a, uint64_t b, int32_t add) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
      "%111, "
      " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127}, "
      "%128, %129, p, 1, 1, %131, %132;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]),
        "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]),
        "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
        "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]),
        "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]),
        "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
        "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]),
        "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]),
        "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]), "+f"(d[121]),
        "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
      : "l"(a), "l"(b), "r"(add), "n"(int{kAcrossA}), "n"(int{kAcrossB}));
}

// Moves registers from the warpgroup that loads to those that compute; all threads of a warpgroup,
// a multiple of 8 from 24 to 256 each. Up waits until as many are free.
template <int kRegisters>
__device__ inline void RegistersDown() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void RegistersUp() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Stores four 8 x 8 matrices of bf16: lane l gives the address of line l % 8 of matrix l / 8.
__device__ inline void StoreMatrices(uint32_t line, uint32_t m0, uint32_t m1, uint32_t m2,
                                     uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(line),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}

// The same, read.
__device__ inline void LoadMatrices(uint32_t line, uint32_t (&m)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(line)
               : "memory");
}

// Sixteen bytes of shared memory, by this thread.
__device__ inline uint4 LoadUnit(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

// Has the second-level cache give up what an access moves before other data.
__device__ inline uint64_t PassThroughCache() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// 16 bytes to global memory under a policy.
__device__ inline void StoreUnit(void* to, uint4 v, uint64_t policy) {
  asm volatile("st.global.L2::cache_hint.v4.b32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(to), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w), "l"(policy)
               : "memory");
}

}  // namespace mneme::gpu::hopper
