/* SPDX-License-Identifier: MIT
 * Attention for heads of 64 columns and sequences of at most 64 tokens, which share tiles of 64
 * rows. That is all memory traffic, so the kernel is built as a stream: a fixed grid, every block
 * goes through its share of (tile, head) pairs, and while it works on one the rows of the next are
 * on their way to its other half of shared memory. Blocks side by side work on heads side by side:
 * what is fetched at one time lies together in memory. A thread rotates in place just the pieces
 * that it copied itself. Every warp multiplies only the keys of its own sequence, grouped from the
 * sequence's own first token, so the order of every sum is the sequence's. */
#include "cuda_attention.cuh"

namespace {

constexpr int ROWS = VNP_CUDA_TILE_ROWS, ROW = 128; /* bytes of a row of 64 columns */
constexpr int STAGE = 3 * ROWS * ROW, STAGES = 2, BLOCKS = 4;
constexpr float LOG2_E = 1.4426950408889634f;

/* A warp's share of a tile: 16 rows of a sequence. */
struct share {
    int row, seq, len; /* first row's token, the sequence's first token and length; 0: idle */
};
__device__ __forceinline__ share share_of(const vnp_cuda_tile *t, int warp) {
    share s = {__ldg(&t->q_row[warp]), __ldg(&t->seq_row[warp]), __ldg(&t->seq_len[warp])};
    return s;
}

/* The warp's 16 rows of q, k and v into a stage, zeros where the sequence has ended. */
__device__ __forceinline__ void copy_rows(uint32_t stage, const vnp_cuda_attention_args &p,
                                          const share &s, unsigned h) {
    int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    int u = lane & 3, r0 = piece_row() & 7;
    int64_t dim = p.n_heads * ROW;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = r0 + 8 * i, row = 16 * warp + r;
        bool is_there = s.row + r < s.seq + s.len;
        const char *from = static_cast<const char *>(p.qkv) +
                           (is_there ? s.row + r : 0) * p.ld_qkv * 2 + h * ROW + u * 16;
        copy_piece(stage, from, row, u, is_there);
        copy_piece(stage + ROWS * ROW, from + dim, row, u, is_there);
        copy_piece(stage + 2 * ROWS * ROW, from + 2 * dim, row, u, is_there);
    }
}

template <class T>
__device__ __forceinline__ void turn_rows(uint32_t stage, const float2 *rotary, const share &s) {
    int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    int u = lane & 3, r = piece_row() & 7, row = 16 * warp + r, pos = s.row + r - s.seq;
    turn8 t[2] = {turn_at<32>(rotary, pos, u), turn_at<32>(rotary, pos + 8, u)};
    copies_wait<1>();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        turn_piece<T>(stage, row + 8 * i, u, t[i]);
        turn_piece<T>(stage + ROWS * ROW, row + 8 * i, u, t[i]);
    }
}

/* A warp's 16 rows of one tile and head. */
template <class T, bool ALIBI>
__device__ __forceinline__ void attend(uint32_t stage, const vnp_cuda_attention_args &p,
                                       const share &s, unsigned h) {
    int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    int n = (s.len + 15) / 16, first = s.row - s.seq; /* groups of keys; the first query */
    uint32_t rows = stage + 16 * warp * ROW, keys = stage + (ROWS + 16 * warp - first) * ROW;
    uint32_t values = keys + ROWS * ROW, q[4][4], a[4][4];
    float w[8][4], o[8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}, shrink[2];
#pragma unroll
    for (int k = 0; k < 4; k++) ldmatrix4(rows + place<64>(lane & 15, 2 * k + (lane >> 4)), q[k]);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (c >= n) break;
#pragma unroll
        for (int i = 0; i < 4; i++) w[2 * c][i] = w[2 * c + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t b[4];
            ldmatrix4(keys + 16 * c * ROW +
                          place<64>((lane & 7) + ((lane >> 4) << 3), 2 * k + ((lane >> 3) & 1)),
                      b);
            mma(T(), w[2 * c], q[k], b[0], b[1]);
            mma(T(), w[2 * c + 1], q[k], b[2], b[3]);
        }
    }
    soften<T, ALIBI, false>(w, a, top, sum, shrink, n, s.len, p.scale * LOG2_E,
                            ALIBI ? p.slopes[h] * LOG2_E : 0.0f,
                            static_cast<float>(first + (lane >> 2) - 2 * (lane & 3)));
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) o[j][i] = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (c >= n) break;
#pragma unroll
        for (int d = 0; d < 4; d++) {
            uint32_t b[4];
            ldmatrix4_turned(values + 16 * c * ROW + place<64>(lane & 15, 2 * d + (lane >> 4)), b);
            mma(T(), o[2 * d], a[c], b[0], b[1]);
            mma(T(), o[2 * d + 1], a[c], b[2], b[3]);
        }
    }
    char *out = static_cast<char *>(p.out) + s.row * p.ld_out * 2 + h * ROW;
    put_rows<T>(o, sum, rows, out, p.ld_out * 2, s.seq + s.len - s.row);
}

/* attention_short<T, ROTARY, ALIBI>  sequences of at most 64 tokens
 * Math      out = softmax(scale q k^T - slope |i-j|) v; softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, out [N][H*64] T
 * Rounding  q and k to T after rotation, weights p = 2^(s - max) to T, o once to T
 * Traffic   8*N*D bytes, each once; the rotary table (16 kB) from L1
 * Bound     115 us at 3.0 TB/s for N = 16896, D = 2560; measured: docs/kernels/attention-cuda.md
 * Launch    4 blocks of 128 threads a multiprocessor, two stages of 24 kB each
 * Order     keys from the sequence's own start, one step: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <class T, bool ROTARY, bool ALIBI>
__global__ void __launch_bounds__(128, BLOCKS)
    attention_short(const __grid_constant__ vnp_cuda_attention_args p) {
    extern __shared__ __align__(1024) char smem[];
    int warp = static_cast<int>(threadIdx.x) >> 5;
    unsigned n_heads = static_cast<unsigned>(p.n_heads);
    unsigned n_units = static_cast<unsigned>(p.n_tiles) * n_heads, unit = blockIdx.x;
    unsigned next = unit + gridDim.x, after = next + gridDim.x;
    uint32_t stage = smem_at(smem), other = stage + STAGE;
    share mine = share_of(p.tiles + unit / n_heads, warp), then = mine, later = mine;
    if (next < n_units) then = share_of(p.tiles + next / n_heads, warp);
    copy_rows(stage, p, mine, unit % n_heads);
    copies_close();
    for (; unit < n_units; unit = next, next = after, after += gridDim.x) {
        if (after < n_units) later = share_of(p.tiles + after / n_heads, warp);
        if (next < n_units) copy_rows(other, p, then, next % n_heads);
        copies_close();
        if (ROTARY)
            turn_rows<T>(stage, p.rotary, mine);
        else
            copies_wait<1>();
        __syncthreads();
        if (mine.len > 0) attend<T, ALIBI>(stage, p, mine, unit % n_heads);
        __syncthreads();
        uint32_t swap = stage;
        stage = other;
        other = swap;
        mine = then;
        then = later;
    }
}

template <class T, bool ROTARY, bool ALIBI>
cudaError_t start(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    auto kernel = attention_short<T, ROTARY, ALIBI>;
    int64_t n_units = p->n_tiles * p->n_heads, n_blocks = static_cast<int64_t>(p->n_sms) * BLOCKS;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, STAGES * STAGE);
    if (e != cudaSuccess) return e;
    kernel<<<static_cast<unsigned>(n_units < n_blocks ? n_units : n_blocks), 128, STAGES * STAGE,
             stream>>>(*p);
    return cudaGetLastError();
}

template <class T> cudaError_t pick(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    if (p->rotary) return start<T, true, false>(p, stream);
    if (p->slopes) return start<T, false, true>(p, stream);
    return start<T, false, false>(p, stream);
}

} // namespace

extern "C" cudaError_t vnp_cuda_attention_short(const struct vnp_cuda_attention_args *p,
                                                cudaStream_t stream) {
    if (p->n_tiles == 0) return cudaSuccess;
    if (p->head_dim != 64 || (p->rotary && p->slopes)) return cudaErrorNotSupported;
    if (p->dtype == VNP_F16) return pick<tag_f16>(p, stream);
    if (p->dtype == VNP_BF16) return pick<tag_bf16>(p, stream);
    return cudaErrorNotSupported;
}
