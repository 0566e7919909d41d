/* SPDX-License-Identifier: MIT
 * A residual sum with its layer norm, x = LN(x + a w^T + b), in one kernel for rows of 768 columns
 * (DNABERT-S), of which a cluster of two blocks holds 128 whole.
 *
 * Idea: a block owns 128 rows x 384 columns, its neighbour the other 384. Both need the same rows
 * of a: each fetches half of them and multicasts it. Two warpgroups multiply, 64 x 384 each; the
 * old x comes through the ring behind the operands, as three steps of 128 columns. A row's half is
 * one quad's; the halves trade {mean, sum of squares about it} through the cluster's shared memory
 * and add up to the row's own (Chan et al. 1979). So x is read and written once and no sum is. */
#ifndef VNP_CUDA_GEMM_NORM_SM90_CUH
#define VNP_CUDA_GEMM_NORM_SM90_CUH

#include "cuda_gemm_sm90.cuh"

namespace {

constexpr int NORM_N = 384, NORM_STAGES = 3, NORM_HALF = NORM_N / 2; /* of one matrix instruction */
constexpr int NORM_A = TILE_M * 128, NORM_STAGE = NORM_A + NORM_N * 128;
constexpr int NORM_X_COLS = 128, NORM_X_STEPS = NORM_N / NORM_X_COLS; /* a stage of old x */
constexpr int NORM_X_BOX = TILE_M * 128;                              /* 32 columns of it */
constexpr int NORM_GROUPS = NORM_N / 16; /* a lane holds 4 columns side by side of every 16 */
static_assert(CLUSTER * NORM_N == VNP_CUDA_NORM_COLS, "a cluster holds whole rows");
static_assert(TILE_M * NORM_X_COLS * 4 == NORM_STAGE, "a step of x fills a stage");

/* Shared memory: the ring; bias, column scales, gamma, beta of the block's columns; two slots of
 * what a row's halves trade; barriers of the ring, then two for every multiplying warp. */
struct norm_layout {
    static constexpr int BIAS = NORM_STAGES * NORM_STAGE, SCALE = BIAS + NORM_N * 4;
    static constexpr int GAMMA = SCALE + NORM_N * 4, BETA = GAMMA + NORM_N * 4;
    static constexpr int TRADE = BETA + NORM_N * 4, SLOT = TILE_M * 8;
    static constexpr int BARS = TRADE + 2 * SLOT, TRADE_BARS = BARS + 2 * NORM_STAGES * 8;
    static constexpr int BYTES = TRADE_BARS + 8 * 2 * 8;
};

struct gemm_norm_consts {
    const float *bias, *a_scale, *w_scale, *gamma, *beta;
    float *x;                    /* [M][ld_x] old and new */
    void *out;                   /* [M][ld_out] or NULL */
    float *out_scale, *out_norm; /* [M] out in E4M3 */
    int64_t ld_x, ld_out;
    float eps;
    int m, n_tiles, k_tiles;
    int touch_rows; /* rows of the tile's old x fetched into L2 at every k-step */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

using norm_ring = ring_of<NORM_STAGES, NORM_STAGE>;

__device__ __forceinline__ void tma_load_shared(uint32_t dst, const CUtensorMap *map, uint32_t bar,
                                                int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y), "h"(static_cast<uint16_t>((1 << CLUSTER) - 1))
                 : "memory");
}
__device__ __forceinline__ void tma_load_own_dealt(uint32_t dst, const CUtensorMap *map,
                                                   uint32_t bar, int x, int deal) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %4, %4, %5}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(0), "r"(deal)
                 : "memory");
}

template <class IN>
__device__ void norm_produce(const CUtensorMap *map_a, const CUtensorMap *map_w,
                             const CUtensorMap *map_x, const gemm_norm_consts &c, norm_ring r,
                             int rank, int first, int step) {
    constexpr int K_STEP = 128 / IN::BYTES;
    int col0 = rank * NORM_N;
    for (int t = first; t < c.n_tiles; t += step) {
        int row = t * TILE_M;
        for (int k = 0; k < c.k_tiles; k++) {
            bar_wait(r.empty(), r.phase ^ 1);
            bar_expect(r.full(), NORM_STAGE);
            tma_load_shared(r.data() + rank * (NORM_A / CLUSTER), map_a, r.full(), k * K_STEP,
                            row + rank * (TILE_M / CLUSTER));
#pragma unroll
            for (int h = 0; h < 2; h++)
                tma_load_own_dealt(r.data() + NORM_A + h * NORM_HALF * 128, map_w, r.full(),
                                   k * K_STEP, (col0 + h * NORM_HALF) / 16);
            int touched = k * c.touch_rows;
            if (touched < TILE_M)
                touch_rows<NORM_N>(c.x, c.ld_x, row + touched,
                                   min(row + min(touched + c.touch_rows, TILE_M), c.m), col0,
                                   CLUSTER * NORM_N);
            r.next();
        }
        for (int s = 0; s < NORM_X_STEPS; s++) {
            bar_wait(r.empty(), r.phase ^ 1);
            bar_expect(r.full(), NORM_STAGE);
#pragma unroll
            for (int b = 0; b < NORM_X_COLS / 32; b++)
                tma_load(r.data() + b * NORM_X_BOX, map_x, r.full(),
                         col0 + s * NORM_X_COLS + b * 32, row);
            r.next();
        }
    }
}

/* The compiler takes the sums for changed. */
__device__ __forceinline__ void pin(float (&acc)[2][96]) {
#pragma unroll
    for (int i = 0; i < 192; i++) asm volatile("" : "+f"(acc[i / 96][i % 96])::"memory");
}

/* One warpgroup's 64 x 384 sums of a tile, columns 192 h .. in acc[h]. */
template <class IN>
__device__ __forceinline__ void norm_accumulate(float (&acc)[2][96], int k_tiles, int group,
                                                norm_ring *r) {
    uint32_t last = 0;
    for (int k = 0; k < k_tiles; k++) {
        uint64_t a = operand(r->data() + group * (NORM_A / 2)), b = operand(r->data() + NORM_A);
        bar_wait(r->full(), r->phase);
        pin(acc);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 4; i++) {
            multiply<IN>(acc[0], a + 2 * i, b + 2 * i, k > 0 || i > 0);
            multiply<IN>(acc[1], a + 2 * i, b + 2 * i + (NORM_HALF * 128 >> 4), k > 0 || i > 0);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (k > 0) release(last);
        last = r->empty();
        r->next();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    pin(acc);
    release(last);
}

/* Where a thread stands: its row in the tile (the other one is 8 below), its lane of the quad. */
struct norm_place {
    uint32_t smem;
    int row, q, rank;
};
/* Column of group g, within the block, of the lane's first value. */
__device__ __forceinline__ int norm_col(const norm_place &p, int g) {
    return 16 * g + 4 * p.q;
}
#define VNP_NORM_AT(acc, g, i, x) acc[(g) / 12][4 * (2 * ((g) % 12) + (x) / 2) + 2 * (i) + (x) % 2]

/* acc = x + (acc scale + bias). */
template <class IN>
__device__ __forceinline__ void add_old(float (&acc)[2][96], const norm_place &p,
                                        const row_pair &rows, norm_ring *r) {
    using lay = norm_layout;
#pragma unroll
    for (int g = 0; g < NORM_GROUPS; g++) {
        constexpr int A_STEP = NORM_X_COLS / 16;
        if (g % A_STEP == 0) bar_wait(r->full(), r->phase);
        float bias[4], scale[4] = {};
        int col = norm_col(p, g);
        load_span<4>(p.smem + lay::BIAS + col * 4, bias);
        if (IN::HAS_SCALE) load_span<4>(p.smem + lay::SCALE + col * 4, scale);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float old[4];
            int chunk = 4 * (g % 2) + p.q, line = p.row & 7;
            load_span<4>(r->data() + g % A_STEP / 2 * NORM_X_BOX + (p.row + 8 * i) * 128 +
                             ((chunk ^ line) << 4),
                         old);
#pragma unroll
            for (int x = 0; x < 4; x++) {
                float &v = VNP_NORM_AT(acc, g, i, x);
                v = old[x] + finish<IN>(v, bias[x], scale[x], rows, i);
            }
        }
        if (g % A_STEP == A_STEP - 1) {
            release(r->empty());
            r->next();
        }
    }
}

__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

/* The neighbour's two numbers for each of the thread's rows, for mine. Its warp sends while this
 * one sends; it cannot be two trades ahead, so two slots are enough. */
__device__ __forceinline__ void trade(const norm_place &p, int turn, const float2 (&mine)[2],
                                      float2 (&other)[2]) {
    using lay = norm_layout;
    int warp = static_cast<int>(threadIdx.x >> 5) - 4, slot = turn & 1;
    uint32_t to = p.smem + lay::TRADE + slot * lay::SLOT + p.row * 8;
    uint32_t bar = p.smem + lay::TRADE_BARS + (2 * warp + slot) * 8;
    if ((threadIdx.x & 31) == 0) bar_expect(bar, 16 * 8);
    if (p.q < 2)
        asm volatile(
            "{\n.reg .b32 at, done;\n"
            "mapa.shared::cluster.u32 at, %0, %2;\nmapa.shared::cluster.u32 done, %1, %2;\n"
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [at],"
            " {%3, %4}, [done];\n}\n" ::"r"(to + 64 * p.q),
            "r"(bar), "r"(p.rank ^ 1), "f"(p.q ? mine[1].x : mine[0].x),
            "f"(p.q ? mine[1].y : mine[0].y)
            : "memory");
    bar_wait(bar, (turn >> 1) & 1);
#pragma unroll
    for (int i = 0; i < 2; i++)
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                     : "=f"(other[i].x), "=f"(other[i].y)
                     : "r"(to + 64 * i)
                     : "memory");
}

/* Of a thread's two rows: mean, 1 / sqrt(variance + eps). */
struct norm_line {
    float mean[2], inv[2];
};
/* Both, from both halves of the rows, the first block's first. */
__device__ __forceinline__ norm_line norm_rows(const float (&acc)[2][96], const gemm_norm_consts &c,
                                               const norm_place &p, int turn) {
    norm_line l;
    float2 mine[2], other[2];
    constexpr float N_HALF = NORM_N, N = 2 * NORM_N;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = 0.0f, square = 0.0f;
#pragma unroll
        for (int g = 0; g < NORM_GROUPS; g++)
            sum += (VNP_NORM_AT(acc, g, i, 0) + VNP_NORM_AT(acc, g, i, 1)) +
                   (VNP_NORM_AT(acc, g, i, 2) + VNP_NORM_AT(acc, g, i, 3));
        float m = quad_sum(sum) / N_HALF;
#pragma unroll
        for (int g = 0; g < NORM_GROUPS; g++) {
            float a = VNP_NORM_AT(acc, g, i, 0) - m, b = VNP_NORM_AT(acc, g, i, 1) - m;
            float d = VNP_NORM_AT(acc, g, i, 2) - m, e = VNP_NORM_AT(acc, g, i, 3) - m;
            square += fmaf(a, a, b * b) + fmaf(d, d, e * e);
        }
        mine[i] = make_float2(m, quad_sum(square));
    }
    trade(p, turn, mine, other);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float2 lo = p.rank ? other[i] : mine[i], hi = p.rank ? mine[i] : other[i];
        float apart = hi.x - lo.x;
        l.mean[i] = fmaf(apart, 0.5f, lo.x);
        float square = fmaf(apart * apart, N_HALF / 2, lo.y + hi.y);
        l.inv[i] = 1.0f / sqrtf(square / N + c.eps);
    }
    return l;
}

__device__ __forceinline__ void load_norm(const norm_place &p, int g, float (&gamma)[4],
                                          float (&beta)[4]) {
    load_span<4>(p.smem + norm_layout::GAMMA + norm_col(p, g) * 4, gamma);
    load_span<4>(p.smem + norm_layout::BETA + norm_col(p, g) * 4, beta);
}
/* y = (acc - mean) inv gamma + beta: four columns of row i. */
__device__ __forceinline__ void norm_four(const float (&acc)[2][96], const norm_line &l, int g,
                                          int i, const float (&gamma)[4], const float (&beta)[4],
                                          float (&y)[4]) {
#pragma unroll
    for (int k = 0; k < 4; k++)
        y[k] = fmaf((VNP_NORM_AT(acc, g, i, k) - l.mean[i]) * l.inv[i], gamma[k], beta[k]);
}

/* Out in E4M3: scale and length of the rows from both halves; code: 1 / scale. */
__device__ __forceinline__ void norm_scales(const float (&acc)[2][96], const gemm_norm_consts &c,
                                            const norm_place &p, const norm_line &l, int row,
                                            int turn, float (&code)[2]) {
    float2 mine[2], other[2];
    float top[2] = {0.0f, 0.0f}, length[2] = {0.0f, 0.0f};
#pragma unroll
    for (int g = 0; g < NORM_GROUPS; g++) {
        float gamma[4], beta[4], y[4];
        load_norm(p, g, gamma, beta);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            norm_four(acc, l, g, i, gamma, beta, y);
            top[i] = fmaxf(fmaxf(fmaxf(fabsf(y[0]), fabsf(y[1])), fmaxf(fabsf(y[2]), fabsf(y[3]))),
                           top[i]);
            length[i] += fmaf(y[0], y[0], y[1] * y[1]) + fmaf(y[2], y[2], y[3] * y[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) mine[i] = make_float2(quad_max(top[i]), quad_sum(length[i]));
    trade(p, turn, mine, other);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float m = fmaxf(mine[i].x, other[i].x), s = m > 0.0f ? m / E4M3_MAX : 1.0f;
        code[i] = 1.0f / s;
        if (p.rank == 0 && p.q == 0 && row + 8 * i < c.m) {
            c.out_scale[row + 8 * i] = s;
            c.out_norm[row + 8 * i] = sqrtf(mine[i].y + other[i].y);
        }
    }
}

/* Four columns of a row: the new x, and the operand unless OUT is FP32. */
template <int OUT>
__device__ __forceinline__ void norm_store(float *x, char *out, int g, const float (&y)[4],
                                           float code) {
    store_span<OUT_F32, 4>(x, 16 * g, y);
    if (OUT == OUT_E4M3)
        reinterpret_cast<uint32_t *>(out)[4 * g] =
            pack2_e4m3(y[0] * code, y[1] * code) | pack2_e4m3(y[2] * code, y[3] * code) << 16;
    else if (OUT != OUT_F32)
        reinterpret_cast<uint2 *>(out)[4 * g] =
            make_uint2(pack2<OUT>(y[0], y[1]), pack2<OUT>(y[2], y[3]));
}

template <int OUT>
__device__ __forceinline__ void norm_write(const float (&acc)[2][96], const gemm_norm_consts &c,
                                           const norm_place &p, const norm_line &l, int row,
                                           const float (&code)[2]) {
    constexpr int BYTES = OUT == OUT_E4M3 ? 1 : 2;
    int64_t col = p.rank * NORM_N + 4 * p.q;
    float *x[2];
    char *out[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        x[i] = c.x + (row + 8 * i) * c.ld_x + col;
        out[i] = static_cast<char *>(c.out) + ((row + 8 * i) * c.ld_out + col) * BYTES;
    }
#pragma unroll
    for (int g = 0; g < NORM_GROUPS; g++) {
        float gamma[4], beta[4], y[4];
        load_norm(p, g, gamma, beta);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            norm_four(acc, l, g, i, gamma, beta, y);
            if (row + 8 * i < c.m) norm_store<OUT>(x[i], out[i], g, y, code[i]);
        }
    }
}

/* A warpgroup's tiles. */
template <class IN, int OUT>
__device__ __forceinline__ void norm_consume(const gemm_norm_consts &c, norm_ring r, int group,
                                             int rank, int first, int step) {
    norm_place p;
    p.smem = r.smem;
    p.row = group * 64 + ((threadIdx.x >> 5) & 3) * 16 + ((threadIdx.x & 31) >> 2);
    p.q = static_cast<int>(threadIdx.x) & 3;
    p.rank = rank;
    int turn = 0;
    for (int t = first; t < c.n_tiles; t += step) {
        float acc[2][96]; /* here, so that a tile's results need not live on */
        int row = t * TILE_M + p.row;
        row_pair rows = {{1.0f, 1.0f}, {1.0f, 1.0f}};
#pragma unroll
        for (int i = 0; IN::HAS_SCALE && i < 2; i++)
            rows.scale[i] = c.a_scale[min(row + 8 * i, c.m - 1)];
        norm_accumulate<IN>(acc, c.k_tiles, group, &r);
        add_old<IN>(acc, p, rows, &r);
        norm_line l = norm_rows(acc, c, p, turn++);
        float code[2] = {1.0f, 1.0f};
        if (OUT == OUT_E4M3) {
            norm_scales(acc, c, p, l, row, turn++, code);
            pin(acc); /* compute y again rather than keep 192 of them */
        }
        norm_write<OUT>(acc, c, p, l, row, code);
    }
}

#endif /* sm_90a */

/* gemm_norm_sm90<IN, OUT>  x = LN(x + (a w^T * scales + bias)), out = x rounded (OUT FP32: none)
 * Math      see op.h linear (residual) and layernorm; FP32 sums in the matrix units' order, k
 *           ascending; mean and sum of squares about it by halves of a row, two passes over
 *           registers, then d = m2 - m1: mean = m1 + d / 2, M2 = M2_1 + M2_2 + 192 d^2
 * Shapes    a [M][K], w [768][K], x [M][768] f32, out [M][768] OUT or NULL, which may be a (K =
 *           768): a block writes when both have read their rows; rows 16-byte aligned; any M and K;
 *           E4M3: scale [M] = max|x| / 448, norm [M] = |x|
 * Rounding  sum and norm in FP32, rounded once to OUT
 * Traffic   2*M*768*K flop; x read and written, out written beside the operands;
 *           M = 16896, K = 768: 156 MB and 20 Gflop, K = 3072: 234 MB and 80 Gflop
 * Bound     52 us and 121 us (memory at 3.0 TB/s; matrix units at 660 TFLOP/s)
 * Launch    132 blocks of 384 threads in clusters of 2, 206 kB smem; 232 registers a multiplying
 *           thread, 192 of them sums
 * Order     fixed by K alone: bit-identical for any M and any neighbours
 * Ref       vnp_ref linear, layernorm     Tried  docs/kernels/gemm-cuda.md
 */
template <class IN, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_norm_sm90(const __grid_constant__ CUtensorMap map_a,
                   const __grid_constant__ CUtensorMap map_w,
                   const __grid_constant__ CUtensorMap map_x,
                   const __grid_constant__ gemm_norm_consts c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using lay = norm_layout;
    extern __shared__ __align__(1024) uint8_t raw[];
    norm_ring r = {smem_at(raw), smem_at(raw) + lay::BARS, 0, 0};
    int rank = static_cast<int>(blockIdx.x % CLUSTER);
    for (int i = static_cast<int>(threadIdx.x); i < NORM_N; i += THREADS) {
        int col = rank * NORM_N + i;
        float *to = reinterpret_cast<float *>(raw + lay::BIAS) + i;
        to[0] = c.bias ? c.bias[col] : 0.0f;
        to[NORM_N] = IN::HAS_SCALE ? c.w_scale[col] : 0.0f;
        to[2 * NORM_N] = c.gamma[col];
        to[3 * NORM_N] = c.beta[col];
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < NORM_STAGES; i++) {
            bar_init(r.bars + i * 8, 1);
            bar_init(r.bars + (NORM_STAGES + i) * 8, 8 * CLUSTER);
        }
        for (int i = 0; i < 16; i++) bar_init(r.smem + lay::TRADE_BARS + i * 8, 1);
        bars_show();
    }
    __syncthreads();
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    int first = static_cast<int>(blockIdx.x / CLUSTER),
        step = static_cast<int>(gridDim.x / CLUSTER);
    int group = static_cast<int>(threadIdx.x >> 7) - 1;
    if (group < 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) norm_produce<IN>(&map_a, &map_w, &map_x, c, r, rank, first, step);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        norm_consume<IN, OUT>(c, r, group, rank, first, step);
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
#else
    (void)map_a, (void)map_w, (void)map_x, (void)c;
#endif
}

template <class IN, int OUT>
cudaError_t launch_norm_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    CUtensorMap map_a, map_w, map_x;
    cudaError_t e =
        encode_rows(p, &map_a, p->in_dtype, p->a, p->m, p->k, p->ld_a, TILE_M / CLUSTER);
    if (e == cudaSuccess) e = encode_dealt(p, &map_w, 2, NORM_HALF);
    if (e == cudaSuccess)
        e = encode_rows(p, &map_x, VNP_F32, p->out, p->m, p->n, p->ld_out, TILE_M);
    if (e != cudaSuccess) return e;
    const struct vnp_cuda_norm_args *norm = p->norm;
    struct gemm_norm_consts c = {};
    c.bias = p->bias;
    c.a_scale = p->a_scale;
    c.w_scale = p->w_scale;
    c.gamma = norm->gamma;
    c.beta = norm->beta;
    c.eps = norm->eps;
    c.x = static_cast<float *>(p->out);
    c.ld_x = p->ld_out;
    c.out = norm->out;
    c.ld_out = norm->ld_out;
    c.out_scale = norm->scale;
    c.out_norm = norm->norm;
    c.m = static_cast<int>(p->m);
    c.n_tiles = static_cast<int>((p->m + TILE_M - 1) / TILE_M);
    c.k_tiles = static_cast<int>((p->k * IN::BYTES + 127) / 128);
    c.touch_rows = (TILE_M + c.k_tiles - 1) / c.k_tiles;
    e = cudaFuncSetAttribute(gemm_norm_sm90<IN, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             norm_layout::BYTES);
    if (e != cudaSuccess) return e;
    return launch_pairs(gemm_norm_sm90<IN, OUT>,
                        c.n_tiles < p->n_sms / CLUSTER ? c.n_tiles : p->n_sms / CLUSTER,
                        norm_layout::BYTES, stream, map_a, map_w, map_x, c);
}

template <class IN> cudaError_t run_norm_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t s) {
    constexpr int OUT = IN::BYTES == 1 ? OUT_E4M3 : IN::OUT_HALF;
    if (p->n != VNP_CUDA_NORM_COLS) return cudaErrorNotSupported;
    if (!p->norm->out) return launch_norm_sm90<IN, OUT_F32>(p, s);
    if (p->norm->out_dtype != p->in_dtype) return cudaErrorNotSupported;
    return launch_norm_sm90<IN, OUT>(p, s);
}

} // namespace

#endif
