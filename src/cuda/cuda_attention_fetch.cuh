/* SPDX-License-Identifier: MIT
 * Rows of q, k and v by the copy engine of Hopper. A stage of shared memory has a barrier whose
 * phase ends when its bytes have come, one whose phase ends when all warps are done with it, and a
 * count that tells a warp whether it was the last. */
#ifndef VNP_CUDA_ATTENTION_FETCH_CUH
#define VNP_CUDA_ATTENTION_FETCH_CUH

#include "cuda_attention.cuh"

namespace {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ void count_init(uint32_t count) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(count), "r"(0) : "memory");
}
/* One thread of a warp: its warp is done with a stage, as the last of n? The barrier orders what
 * they did before what the last one does after waiting for it, which it need not wait for long. */
__device__ __forceinline__ bool is_last(uint32_t done, uint32_t count, uint32_t n) {
    uint32_t before;
    bar_arrive(done);
    asm volatile("atom.relaxed.cta.shared::cta.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "r"(count), "r"(n - 1)
                 : "memory");
    return before == n - 1;
}
/* A box of a head's rows from token `row` on; head counts through q's, k's and v's. */
__device__ __forceinline__ void fetch_rows(uint32_t to, const CUtensorMap *map, uint32_t bar,
                                           int head, int row) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(0), "r"(head), "r"(row)
                 : "memory");
}
#endif

/* What a grid is fed by: boxes of `base` + 8, + 16 .. + 64 rows, so that at most 7 rows are fetched
 * beyond a sequence's end; a party's next (tile, head) is so many further. */
struct feed {
    CUtensorMap box[8];
    unsigned n_tiles, n_heads;
};

/* qkv as the copy engine sees it, in boxes of n_rows rows of one head, swizzled as place<64> has
 * it; rows beyond the last token come as zeros. */
inline cudaError_t encode_heads(const struct vnp_cuda_attention_args *p, int n_rows,
                                CUtensorMap *map) {
    cuuint64_t dims[3] = {64, static_cast<cuuint64_t>(3 * p->n_heads),
                          static_cast<cuuint64_t>(p->n_rows)};
    cuuint64_t strides[2] = {128, static_cast<cuuint64_t>(p->ld_qkv) * 2};
    cuuint32_t box[3] = {64, 1, static_cast<cuuint32_t>(n_rows)};
    return encode(p->encode, map, p->dtype, p->qkv, 3, dims, strides, box);
}

inline cudaError_t make_feed(const struct vnp_cuda_attention_args *p, int base, unsigned step,
                             feed *out) {
    unsigned n_heads = static_cast<unsigned>(p->n_heads);
    cudaError_t e = cudaSuccess;
    out->n_tiles = step / n_heads;
    out->n_heads = step % n_heads;
    for (int i = 0; i < 8 && e == cudaSuccess; i++)
        e = encode_heads(p, base + 8 * (i + 1), &out->box[i]);
    return e;
}

} // namespace

#endif
