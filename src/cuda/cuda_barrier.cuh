/* SPDX-License-Identifier: MIT
 * Hopper's barriers in shared memory, whose phase ends when all have arrived and the bytes promised
 * have come, the copy engine's plainest copy, and what it is told of a tensor. Addresses are of
 * the shared window. */
#ifndef VNP_CUDA_BARRIER_CUH
#define VNP_CUDA_BARRIER_CUH

#include "cuda_room.h"

#include <stdint.h>

namespace {

__device__ __forceinline__ uint32_t smem_at(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ void bar_init(uint32_t bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
/* What was initialised, to the copy engine and the cluster too; a barrier of the block follows. */
__device__ __forceinline__ void bars_show() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void bar_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
/* Arrives, and promises bytes. */
__device__ __forceinline__ void bar_expect(uint32_t bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}
/* A parity tells only the phase under way from the one before. */
__device__ __forceinline__ void bar_wait(uint32_t bar, int parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
/* A box of a matrix, from column x and row y on. */
__device__ __forceinline__ void tma_load(uint32_t dst, const CUtensorMap *map, uint32_t bar, int x,
                                         int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y)
                 : "memory");
}

/* Our stores to shared memory, before the matrix unit reads or the copy engine goes there. */
__device__ __forceinline__ void stores_show() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif

/* A tensor of `rank` dimensions in boxes whose rows are 128 swizzled bytes; zeros outside. */
inline cudaError_t encode(vnp_cuda_encode_fn *fn, CUtensorMap *map, enum vnp_dtype dtype,
                          const void *data, int rank, const cuuint64_t *dims,
                          const cuuint64_t *strides, const cuuint32_t *box,
                          CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B) {
    CUtensorMapDataType type = dtype == VNP_F16    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                               : dtype == VNP_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                               : dtype == VNP_F32  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                   : CU_TENSOR_MAP_DATA_TYPE_UINT8;
    cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    CUresult r = fn(map, type, static_cast<cuuint32_t>(rank), const_cast<void *>(data), dims,
                    strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                    promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

} // namespace

#endif
