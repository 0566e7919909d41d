/* SPDX-License-Identifier: MIT
 * Attention of Hopper for heads of 64 columns and sequences of more than 192 tokens where q and k
 * are still to be rotated: a block for every 128 queries. A thread rotates in place just the pieces
 * that it copied itself. Keys are grouped by 64 from the sequence's own first token: the order of
 * every sum is the sequence's. Without rotation: cuda_attention_long_sm90.cu. */
#include "cuda_attention_sm90.cuh"

namespace {

constexpr int LONG_STAGES = 4, LONG_QUERIES = 128;
constexpr int LONG_BYTES = (LONG_QUERIES + LONG_STAGES * 128) * ROW;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Keys and values k0 .. k0+63 into a stage: a piece of each a thread, of 256. */
__device__ __forceinline__ void copy_chunk(uint32_t stage, const char *src, int64_t ld, int64_t dim,
                                           int row, int u, int key, int len) {
    const char *from = src + (key < len ? key : 0) * ld;
    copy_piece(stage, from + dim, row, u, key < len);
    copy_piece(stage + 64 * ROW, from + 2 * dim, row, u, key < len);
}
#endif

/* attention_long<T>  rotary, sequences of more than 192 tokens, a block for 128 queries
 * Math      as attention_whole
 * Shapes    qkv [N][3][H][64] T, out [N][H*64] T
 * Rounding  as attention_whole
 * Traffic   8*N*D bytes, keys and values and the table again from L2 for every 128 queries
 * Bound     matrix units: 4*n*D flop a token; measured: docs/kernels/attention-cuda.md
 * Launch    256 threads, a ring of 4 stages of 64 keys and values, 80 kB smem: 2 blocks a
 *           multiprocessor. While the matrix unit is at work on keys c+1 and values c, keys c+2 are
 *           rotated and chunk c+3 is on its way; one barrier a step
 * Order     keys in steps of 64 from the sequence's own start: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <class T>
__global__ void __launch_bounds__(256, 2)
    attention_long(const __grid_constant__ vnp_cuda_attention_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char smem[];
    uint32_t qs = smem_at(smem), ring = qs + LONG_QUERIES * ROW;
    int warp = same(static_cast<int>(threadIdx.x) >> 5);
    unsigned n_heads = static_cast<unsigned>(p.n_heads), h = blockIdx.x % n_heads;
    const vnp_cuda_tile *tile = p.tiles + blockIdx.x / n_heads;
    int start = same(__ldg(&tile->seq_row[0])), len = same(__ldg(&tile->seq_len[0]));
    int q0 = same(__ldg(&tile->q_row[0])) - start, mine = q0 + 16 * warp, n = (len + 63) / 64;
    int row = static_cast<int>(threadIdx.x) >> 2, u = static_cast<int>(threadIdx.x) & 3;
    int64_t ld = p.ld_qkv * 2, dim = p.n_heads * ROW;
    const char *src = static_cast<const char *>(p.qkv) + start * ld + h * ROW + u * 16;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int q = q0 + row + 64 * i;
        copy_piece(qs, src + (q < len ? q : 0) * ld, row + 64 * i, u, q < len);
    }
#pragma unroll
    for (int c = 0; c < 3; c++) {
        copy_chunk(ring + c * 128 * ROW, src, ld, dim, row, u, 64 * c + row, len);
        copies_close();
    }
    copies_wait<1>();
    turn_piece<T>(qs, row, u, turn_at<32>(p.rotary, q0 + row, u));
    turn_piece<T>(qs, row + 64, u, turn_at<32>(p.rotary, q0 + row + 64, u));
    turn_piece<T>(ring, row, u, turn_at<32>(p.rotary, row, u));
    turn_piece<T>(ring + 128 * ROW, row, u, turn_at<32>(p.rotary, row + 64, u));
    stores_show();
    __syncthreads();
    float unit = p.scale * LOG2_E;
    queries<T> x;
    uint32_t a[4][4] = {};
    x.begin(qs + 16 * warp * ROW, mine < len);
    start_scores(T(), x.s, x.q, operand(ring));
    matrix_wait(x.s, x.o, a);
    int c = 0;
    for (; c + 1 < n; c++) {
        uint32_t stage = ring + (c & 3) * 128 * ROW, next = ring + ((c + 1) & 3) * 128 * ROW;
        uint32_t after = ring + ((c + 2) & 3) * 128 * ROW, free = ring + ((c + 3) & 3) * 128 * ROW;
        if (mine < len) x.template weigh<true>(a, 64, unit);
        __syncthreads(); /* keys c+1 are rotated; the stage of c-1 is free */
        start_both(T(), x.s, x.q, operand(next), x.o, a, operand(stage + 64 * ROW));
        if (c + 3 < n) copy_chunk(free, src, ld, dim, row, u, 64 * (c + 3) + row, len);
        copies_close();
        if (c + 2 < n) {
            turn8 t = turn_at<32>(p.rotary, 64 * (c + 2) + row, u);
            copies_wait<1>();
            turn_piece<T>(after, row, u, t);
            stores_show();
        }
        matrix_wait(x.s, x.o, a);
    }
    if (mine < len) x.template weigh<false>(a, len - 64 * c, unit);
    start_values(T(), x.o, a, operand(ring + ((c & 3) * 128 + 64) * ROW));
    matrix_wait(x.s, x.o, a);
    if (mine < len)
        put_rows<T>(x.o, x.sum, qs + 16 * warp * ROW, p,
                    result{start + mine, start, len - mine, h});
#else
    (void)p;
#endif
}

template <class T> cudaError_t start(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    unsigned n_blocks = static_cast<unsigned>(p->n_tiles * p->n_heads);
    cudaError_t e = allow_bytes(attention_long<T>, LONG_BYTES);
    if (e != cudaSuccess) return e;
    attention_long<T><<<n_blocks, 256, LONG_BYTES, stream>>>(*p);
    return cudaGetLastError();
}

} // namespace

extern "C" cudaError_t vnp_cuda_attention_long(const struct vnp_cuda_attention_args *p,
                                               cudaStream_t stream) {
    if (!p->rotary) return vnp_cuda_attention_long_sm90(p, stream);
    if (p->n_tiles == 0) return cudaSuccess;
    if (p->head_dim != 64 || p->slopes) return cudaErrorNotSupported;
    if (p->dtype == VNP_F16) return start<tag_f16>(p, stream);
    if (p->dtype == VNP_BF16) return start<tag_bf16>(p, stream);
    return cudaErrorNotSupported;
}
