/* SPDX-License-Identifier: MIT
 * Matrix products of Hopper: TMA copies, warpgroup matrix instructions, and the epilogues that the
 * library lacks (exact gelu, gated gelu, E4M3 with a row scale, FP32 residual added in memory).
 * One kernel template; the three .cu beside it instantiate it by operand type.
 *
 * Idea: a cluster of two blocks owns 256 rows x 256 columns of the result, a block 128 x 256. Both
 * need the same 256 rows of the weight: each fetches half and multicasts it. One warp only copies,
 * two warpgroups only multiply (64 x 256 each, accumulators in registers). Blocks are persistent;
 * while the two warpgroups write a tile, the copy warp fills the ring for the next.
 * A tile goes from registers to memory with nothing between: the copy engine deals the weight's
 * rows so that every thread holds neighbouring columns. All that the epilogue reads comes with the
 * operands: bias and column scales, and, to be added to, the old values of the tile.
 * Sums run over k in one fixed order whatever M is and wherever a row stands, so a row's result
 * does not depend on its neighbours. */
#ifndef VNP_CUDA_GEMM_SM90_CUH
#define VNP_CUDA_GEMM_SM90_CUH

#include "cuda_math.cuh"
#include "cuda_room.h"
#include "cuda_wgmma.cuh"

namespace {

constexpr int TILE_M = 128, TILE_N = 256, THREADS = 384, STAGES = 4;
constexpr int GROUP_M = 8;
constexpr int STAGE_A = TILE_M * 128, STAGE_B = TILE_N * 128, STAGE_BYTES = STAGE_A + STAGE_B;
/* ADD: the tile's old values come through the ring too, behind the last k-step: boxes of 64 rows x
 * 32 columns, a warpgroup's beside the other's, three column blocks a stage. */
constexpr int OLD_BOX = 64 * 128, OLD_COLS = 32, OLD_A_STAGE = 3;
/* Shared memory: the ring, the bias and column scales of a tile (as many as tiles can be under way:
 * one a stage and one that is being written), barriers. */
constexpr int N_CONSTS = STAGES + 1, CONST_BYTES = TILE_N * 4;
constexpr int CONSTS = STAGES * STAGE_BYTES, BARS = CONSTS + 2 * N_CONSTS * CONST_BYTES;
constexpr int SMEM_BYTES = BARS + 2 * STAGES * 8;

enum out_kind { OUT_F16, OUT_BF16, OUT_F32, OUT_E4M3 };
struct in_f16 {
    static constexpr int BYTES = 2, OUT_HALF = OUT_F16;
    static constexpr bool HAS_SCALE = false;
};
struct in_bf16 {
    static constexpr int BYTES = 2, OUT_HALF = OUT_BF16;
    static constexpr bool HAS_SCALE = false;
};
struct in_e4m3 {
    static constexpr int BYTES = 1, OUT_HALF = OUT_F16;
    static constexpr bool HAS_SCALE = true;
};

/* Which weight row stands where in a tile. The accumulators give lane q of a quad columns 2q, 2q+1
 * of every 8; so that its results are SPAN columns side by side instead (16 bytes of them, or 8
 * codes), the copy engine deals the rows of the weight: row 8 BLOCKS g + SPAN q + 2 b + e comes to
 * place 8 (BLOCKS g + b) + 2 q + e. GEGLU: the SPAN rows are 8 gates, then their 8 values. */
template <int EPI, int OUT> struct deal_of {
    static constexpr int BLOCKS = EPI == VNP_CUDA_EPI_GEGLU ? 8 : OUT == OUT_F32 ? 2 : 4;
    static constexpr int SPAN = 2 * BLOCKS, ROWS = 8 * BLOCKS;
    static constexpr int COLS = EPI == VNP_CUDA_EPI_GEGLU ? 8 : SPAN; /* results of a lane */
};

struct gemm_consts {
    const float *bias, *a_scale, *w_scale, *a_norm;
    float *out_scale;
    void *out; /* [M][ld_out] */
    int64_t ld_out;
    int m, n, n_pairs, n_cols_tiles, k_tiles;
    int touch_rows; /* ADD: rows of the tile fetched into L2 at every k-step */
    float w_bound, bias_bound;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ uint32_t smem_u32(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void bar_init(uint32_t bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void bar_expect(uint32_t bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void bar_wait(uint32_t bar, int parity) {
    asm volatile("{\n.reg .pred p;\nWAIT:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra DONE;\nbra WAIT;\nDONE:\n}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
/* Arrives at the same barrier of block `rank` of the cluster. The default scope is meant: asking
 * for release.cluster costs a device-wide fence a k-step (462 instead of 660 TFLOP/s were
 * measured), and what is handed over, that a stage has been read, the wait for the matrix unit has
 * established. */
__device__ __forceinline__ void bar_arrive_at(uint32_t bar, uint32_t rank) {
    asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [r];\n}\n" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}
__device__ __forceinline__ void tma_load(uint32_t dst, const CUtensorMap *map, uint32_t bar, int x,
                                         int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y)
                 : "memory");
}
__device__ __forceinline__ void tma_load_dealt(uint32_t dst, const CUtensorMap *map, uint32_t bar,
                                               int x, int deal) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4, %4, %4, %5}], [%2], %6;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(0), "r"(deal), "h"(static_cast<uint16_t>(3))
                 : "memory");
}
__device__ __forceinline__ void bulk_load(uint32_t dst, const void *from, int bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
__device__ __forceinline__ float4 load_shared4(uint32_t at) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(at));
    return v;
}
/* Shared-memory operand, k-major, rows of 128 swizzled bytes, 8 rows every 1024 bytes. */
__device__ __forceinline__ uint64_t operand(uint32_t addr) {
    return (static_cast<uint64_t>(addr & 0x3ffff) >> 4) | (static_cast<uint64_t>(1) << 16) |
           (static_cast<uint64_t>(1024 >> 4) << 32) | (static_cast<uint64_t>(1) << 62);
}

template <class IN>
__device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b, int is_add);
template <>
__device__ __forceinline__ void multiply<in_f16>(float (&d)[128], uint64_t a, uint64_t b,
                                                 int is_add) {
    wgmma_f16(d, a, b, is_add);
}
template <>
__device__ __forceinline__ void multiply<in_bf16>(float (&d)[128], uint64_t a, uint64_t b,
                                                  int is_add) {
    wgmma_bf16(d, a, b, is_add);
}
template <>
__device__ __forceinline__ void multiply<in_e4m3>(float (&d)[128], uint64_t a, uint64_t b,
                                                  int is_add) {
    wgmma_e4m3(d, a, b, is_add);
}

/* Tiles in groups of GROUP_M row pairs, all columns of a group before the next: the operands of
 * the tiles in flight stay in the L2. */
__device__ __forceinline__ void tile_at(const gemm_consts &c, int t, int *pair, int *col) {
    int per_group = GROUP_M * c.n_cols_tiles, g = t / per_group, r = t - g * per_group;
    int height = min(GROUP_M, c.n_pairs - g * GROUP_M);
    *pair = g * GROUP_M + r % height;
    *col = r / height;
}

/* Where a party stands in the ring; the barriers of its stages (full, then empty) at `bars`. */
struct ring {
    uint32_t smem, bars;
    int stage, phase;
    __device__ uint32_t data() const { return smem + stage * STAGE_BYTES; }
    __device__ uint32_t full() const { return bars + stage * 8; }
    __device__ uint32_t empty() const { return bars + (STAGES + stage) * 8; }
    __device__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* ADD: `n` rows from `row` of a tile's result into L2: all tiles of a wave end together, and would
 * all wait for the memory then. */
__device__ __forceinline__ void touch_result(const gemm_consts &c, int row, int n, int col) {
    int bytes = min(TILE_N, c.n - col) * 4 & ~15, end = min(row + n, c.m);
    const float *at = static_cast<const float *>(c.out) + row * c.ld_out + col;
    for (; row < end && bytes > 0; row++, at += c.ld_out)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
}

/* Bias and column scales of the tile into the place of its turn; the arrays are padded to 64. */
template <class IN>
__device__ __forceinline__ void load_consts(const gemm_consts &c, const ring &r, int turn,
                                            int col0) {
    int bytes = min(CONST_BYTES, ((c.n - col0 + 63) & ~63) * 4);
    uint32_t to = r.smem + CONSTS + 2 * turn * CONST_BYTES;
    bar_expect(r.full(), STAGE_BYTES + (c.bias ? bytes : 0) + (IN::HAS_SCALE ? bytes : 0));
    if (c.bias) bulk_load(to, c.bias + col0, bytes, r.full());
    if (IN::HAS_SCALE) bulk_load(to + CONST_BYTES, c.w_scale + col0, bytes, r.full());
}

__device__ __forceinline__ void load_old(const CUtensorMap *map_old, ring *r, int row, int col0) {
    for (int b = 0; b < TILE_N / OLD_COLS; b += OLD_A_STAGE) {
        int n = 2 * min(OLD_A_STAGE, TILE_N / OLD_COLS - b);
        bar_wait(r->empty(), r->phase ^ 1);
        bar_expect(r->full(), n * OLD_BOX);
        for (int i = 0; i < n; i++)
            tma_load(r->data() + i * OLD_BOX, map_old, r->full(), col0 + (b + i / 2) * OLD_COLS,
                     row + i % 2 * 64);
        r->next();
    }
}

template <class IN, int EPI, int OUT>
__device__ void produce(const CUtensorMap *map_a, const CUtensorMap *map_w,
                        const CUtensorMap *map_old, const gemm_consts &c, ring r, uint32_t rank,
                        int first, int step) {
    constexpr int K_STEP = 128 / IN::BYTES, DEAL = deal_of<EPI, OUT>::ROWS;
    for (int t = first, turn = 0; t < c.n_pairs * c.n_cols_tiles; t += step) {
        int pair, col;
        tile_at(c, t, &pair, &col);
        int row = (2 * pair + static_cast<int>(rank)) * TILE_M;
        int w_row = col * TILE_N + static_cast<int>(rank) * (TILE_N / 2);
        for (int k = 0; k < c.k_tiles; k++) {
            bar_wait(r.empty(), r.phase ^ 1);
            if (k == 0)
                load_consts<IN>(c, r, turn, col * TILE_N);
            else
                bar_expect(r.full(), STAGE_BYTES);
            tma_load(r.data(), map_a, r.full(), k * K_STEP, row);
            tma_load_dealt(r.data() + STAGE_A + rank * (STAGE_B / 2), map_w, r.full(), k * K_STEP,
                           w_row / DEAL);
            int touched = k * c.touch_rows;
            if (EPI == VNP_CUDA_EPI_ADD && touched < TILE_M)
                touch_result(c, row + touched, min(c.touch_rows, TILE_M - touched), col * TILE_N);
            r.next();
        }
        if (EPI == VNP_CUDA_EPI_ADD) load_old(map_old, &r, row, col * TILE_N);
        if (++turn == N_CONSTS) turn = 0;
    }
}

/* A warp is done with a stage: said to both blocks, whose copies fill it. */
__device__ __forceinline__ void release(uint32_t empty) {
    uint32_t lane = threadIdx.x & 31;
    if (lane < 2) bar_arrive_at(empty, lane);
}

/* One warpgroup's 64 x 256 sums of a tile. */
template <class IN>
__device__ __forceinline__ void accumulate(float (&acc)[128], int k_tiles, int group, ring *r) {
    uint32_t last = 0;
    for (int k = 0; k < k_tiles; k++) {
        uint64_t a = operand(r->data() + group * (STAGE_A / 2)), b = operand(r->data() + STAGE_A);
        bar_wait(r->full(), r->phase);
#pragma unroll
        for (int i = 0; i < 128; i++) asm volatile("" : "+f"(acc[i])::"memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 4; i++) multiply<IN>(acc, a + 2 * i, b + 2 * i, k > 0 || i > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (k > 0) release(last);
        last = r->empty();
        r->next();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < 128; i++) asm volatile("" : "+f"(acc[i])::"memory");
    release(last);
}

/* What a thread needs of its two rows: scale of a, 1 / scale of out. */
struct row_pair {
    float scale[2], inv[2];
};

/* y of weight row `at` + x, of the thread's row i. */
template <class IN>
__device__ __forceinline__ float finish(float sum, float bias, float w_scale, const row_pair &r,
                                        int i) {
    return IN::HAS_SCALE ? fmaf(sum, r.scale[i] * w_scale, bias) : sum + bias;
}

/* The values of SPAN weight rows from shared memory. */
template <int SPAN> __device__ __forceinline__ void load_span(uint32_t from, float (&to)[SPAN]) {
#pragma unroll
    for (int i = 0; i < SPAN; i += 4) {
        float4 v = load_shared4(from + i * 4);
        to[i] = v.x;
        to[i + 1] = v.y;
        to[i + 2] = v.z;
        to[i + 3] = v.w;
    }
}

template <int OUT> __device__ __forceinline__ uint32_t pack2(float a, float b) {
    return OUT == OUT_BF16 ? pack2_bf16(a, b) : pack2_f16(a, b);
}

/* A lane's results side by side, aligned to their size. */
template <int OUT, int N>
__device__ __forceinline__ void store_span(void *out, int64_t at, const float (&y)[N], float inv) {
    if constexpr (OUT == OUT_F32) {
        *reinterpret_cast<float4 *>(static_cast<float *>(out) + at) =
            make_float4(y[0], y[1], y[2], y[3]);
    } else if constexpr (OUT == OUT_E4M3) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = pack2_e4m3(y[2 * i] * inv, y[2 * i + 1] * inv);
        *reinterpret_cast<uint2 *>(static_cast<uint8_t *>(out) + at) =
            make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    } else {
        *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(out) + at) =
            make_uint4(pack2<OUT>(y[0], y[1]), pack2<OUT>(y[2], y[3]), pack2<OUT>(y[4], y[5]),
                       pack2<OUT>(y[6], y[7]));
    }
}

/* One result, where a row's end cuts a span. */
template <int OUT>
__device__ __forceinline__ void store_one(void *out, int64_t at, float y, float inv) {
    if (OUT == OUT_F32)
        static_cast<float *>(out)[at] = y;
    else if (OUT == OUT_E4M3)
        static_cast<uint8_t *>(out)[at] = static_cast<uint8_t>(pack2_e4m3(y * inv, 0.0f));
    else
        static_cast<uint16_t *>(out)[at] = static_cast<uint16_t>(pack2<OUT>(y, 0.0f));
}

/* Where a warpgroup writes: its thread's row (and the row 8 below), the tile's first column. */
struct place {
    int group, row, col0, turn;
};

/* The COLS results of a thread's row i (0, or 1: the row 8 below) in group g of weight rows. */
template <class IN, int EPI, int OUT, bool IS_CUT>
__device__ __forceinline__ void
write_span(const float (&acc)[128], const gemm_consts &c, const place &p, const row_pair &rows,
           int g, int i, const float (&bias)[deal_of<EPI, OUT>::SPAN],
           const float (&scale)[deal_of<EPI, OUT>::SPAN], uint32_t old) {
    using deal = deal_of<EPI, OUT>;
    constexpr int SPAN = deal::SPAN, COLS = deal::COLS;
    int at = p.col0 + deal::ROWS * g + SPAN * (static_cast<int>(threadIdx.x) & 3);
    float y[COLS];
#pragma unroll
    for (int x = 0; x < SPAN; x++) {
        float sum = acc[4 * (deal::BLOCKS * g + x / 2) + 2 * i + x % 2];
        float v = finish<IN>(sum, bias[x], scale[x], rows, i);
        if (EPI == VNP_CUDA_EPI_GELU || (EPI == VNP_CUDA_EPI_GEGLU && x < COLS))
            v = OUT == OUT_E4M3 ? gelu_coarse(v) : gelu_fast(v);
        if (x < COLS)
            y[x] = v;
        else
            y[x - COLS] *= v;
    }
    if constexpr (EPI == VNP_CUDA_EPI_ADD) {
        float4 v = load_shared4(old);
        y[0] += v.x;
        y[1] += v.y;
        y[2] += v.z;
        y[3] += v.w;
    }
    int row = p.row + 8 * i;
    int64_t to = row * c.ld_out + (EPI == VNP_CUDA_EPI_GEGLU ? at / 2 : at);
    if (IS_CUT) {
#pragma unroll
        for (int x = 0; x < COLS; x++)
            if (row < c.m && at + x < c.n) store_one<OUT>(c.out, to + x, y[x], rows.inv[i]);
    } else if (row < c.m && at < c.n) {
        store_span<OUT, COLS>(c.out, to, y, rows.inv[i]);
    }
}

/* A warpgroup's part of a tile, from its registers to memory. ADD: one addition an element. */
template <class IN, int EPI, int OUT, bool IS_CUT>
__device__ __forceinline__ void write_tile(const float (&acc)[128], const gemm_consts &c,
                                           const place &p, const row_pair &rows, ring *r) {
    using deal = deal_of<EPI, OUT>;
    constexpr int SPAN = deal::SPAN, A_STAGE = OLD_A_STAGE * OLD_COLS / deal::ROWS;
    constexpr int GROUPS = TILE_N / deal::ROWS;
    uint32_t q = threadIdx.x & 3,
             consts = r->smem + CONSTS + 2 * p.turn * CONST_BYTES + q * SPAN * 4;
    uint32_t line = (threadIdx.x >> 2) & 7, at = ((threadIdx.x >> 5) & 3) * 2048 + line * 128;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        float bias[SPAN] = {}, scale[SPAN] = {};
        if (c.bias) load_span<SPAN>(consts + g * deal::ROWS * 4, bias);
        if (IN::HAS_SCALE) load_span<SPAN>(consts + CONST_BYTES + g * deal::ROWS * 4, scale);
        uint32_t old = 0;
        if (EPI == VNP_CUDA_EPI_ADD) {
            if (g % A_STAGE == 0) bar_wait(r->full(), r->phase);
            old = r->data() + (g % A_STAGE / 2 * 2 + p.group) * OLD_BOX + at +
                  (((g % 2 * 4 + q) ^ line) << 4);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
            write_span<IN, EPI, OUT, IS_CUT>(acc, c, p, rows, g, i, bias, scale, old + i * 1024);
        if (EPI == VNP_CUDA_EPI_ADD && (g % A_STAGE == A_STAGE - 1 || g == GROUPS - 1)) {
            __syncwarp();
            release(r->empty());
            r->next();
        }
    }
}

/* The numbers of a thread's two rows, read before the sums so that the epilogue need not wait. */
template <class IN, int OUT>
__device__ __forceinline__ void read_rows(const gemm_consts &c, int row, float (&read)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = min(row + 8 * i, c.m - 1);
        read[i] = 1.0f;
        if (IN::HAS_SCALE) read[i] = __ldg(c.a_scale + at);
        if (OUT == OUT_E4M3) read[2 + i] = __ldg(c.a_norm + at);
    }
}

/* Out in E4M3: the scale of a row from the bound of its values. */
template <int OUT>
__device__ __forceinline__ row_pair scale_rows(const gemm_consts &c, const place &p,
                                               const float (&read)[4]) {
    row_pair r = {{read[0], read[1]}, {1.0f, 1.0f}};
#pragma unroll
    for (int i = 0; OUT == OUT_E4M3 && i < 2; i++) {
        float bound = fmaf(1.14f * read[2 + i], c.w_bound, c.bias_bound);
        float s = fmaxf(bound, 0.17f) / E4M3_MAX; /* gelu(y) >= -0.17 */
        r.inv[i] = 1.0f / s;
        if (p.col0 == 0 && (threadIdx.x & 3) == 0 && p.row + 8 * i < c.m)
            c.out_scale[p.row + 8 * i] = s;
    }
    return r;
}

/* A warpgroup's tiles. */
template <class IN, int EPI, int OUT>
__device__ __forceinline__ void consume(const gemm_consts &c, ring r, int group, int rank,
                                        int first, int step) {
    float acc[128];
    int row = ((threadIdx.x >> 5) & 3) * 16 + ((threadIdx.x & 31) >> 2) + group * 64;
    for (int t = first, turn = 0; t < c.n_pairs * c.n_cols_tiles; t += step) {
        int pair, col;
        float read[4];
        tile_at(c, t, &pair, &col);
        place p = {group, row + (2 * pair + rank) * TILE_M, col * TILE_N, turn};
        read_rows<IN, OUT>(c, p.row, read);
        accumulate<IN>(acc, c.k_tiles, group, &r);
        row_pair rows = scale_rows<OUT>(c, p, read);
        if (c.n % deal_of<EPI, OUT>::SPAN != 0 && p.col0 + TILE_N > c.n)
            write_tile<IN, EPI, OUT, true>(acc, c, p, rows, &r);
        else
            write_tile<IN, EPI, OUT, false>(acc, c, p, rows, &r);
        if (++turn == N_CONSTS) turn = 0;
    }
}

#endif /* sm_90a */

/* gemm_sm90<IN, EPI, OUT>  out = epilogue(a w^T * scales + bias)
 * Math      see op.h linear; FP32 sums in the matrix units' order, k ascending; gelu: cuda_math.cuh
 * Shapes    a [M][K], w [n_out][K], out [M][n_out] (GEGLU [M][n_out/2]); rows 16-byte aligned;
 *           any M, n_out even, any K (the copy engine fills zeros outside); w, bias and w_scale are
 *           readable to the next multiple of 64 rows
 * Rounding  y in FP32, rounded once to the type of out; ADD: one FP32 addition an element; E4M3:
 *           scale of a row from the bound y <= |a_row| max|w_row| + max b (Cauchy-Schwarz), so that
 *           no second pass is needed
 * Traffic   2*M*n_out*K flop; operands once a wave from memory, 32 kB a k-step and block from L2;
 *           out once (ADD: read and written)
 * Bound     matrix units and 700 W: docs/kernels/gemm-cuda.md has the cycles beside a tile's
 *           multiplication and the share of the library's sustained rate
 * Launch    132 blocks of 384 threads in clusters of 2, 202 kB smem; 232 registers a multiplying
 *           thread, 128 of them sums, no spills
 * Order     fixed by K alone: bit-identical for any M and any neighbours
 * Ref       vnp_ref linear     Tried  docs/kernels/gemm-cuda.md
 */
template <class IN, int EPI, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_sm90(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_w,
              const __grid_constant__ CUtensorMap map_old, const __grid_constant__ gemm_consts c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint8_t raw[];
    ring r = {smem_u32(raw), smem_u32(raw) + BARS, 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bar_init(r.bars + i * 8, 1);
            bar_init(r.bars + (STAGES + i) * 8, 16); /* 8 warps of each of the 2 blocks */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    int first = static_cast<int>(blockIdx.x >> 1), step = static_cast<int>(gridDim.x >> 1);
    int group = static_cast<int>(threadIdx.x >> 7) - 1, rank = static_cast<int>(blockIdx.x & 1);
    if (group < 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            produce<IN, EPI, OUT>(&map_a, &map_w, &map_old, c, r, rank, first, step);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<IN, EPI, OUT>(c, r, group, rank, first, step);
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
#else
    (void)map_a, (void)map_w, (void)map_old, (void)c;
#endif
}

inline cudaError_t encode(const struct vnp_cuda_gemm_args *p, CUtensorMap *map,
                          enum vnp_dtype dtype, const void *data, int rank, const cuuint64_t *dims,
                          const cuuint64_t *strides, const cuuint32_t *box) {
    CUtensorMapDataType type = dtype == VNP_F16    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                               : dtype == VNP_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                               : dtype == VNP_F32  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                   : CU_TENSOR_MAP_DATA_TYPE_UINT8;
    cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    CUresult r =
        p->encode(map, type, static_cast<cuuint32_t>(rank), const_cast<void *>(data), dims, strides,
                  box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* A row-major matrix as the copy engine sees it, in boxes of 128 bytes x n_rows. */
inline cudaError_t encode_rows(const struct vnp_cuda_gemm_args *p, CUtensorMap *map,
                               enum vnp_dtype dtype, const void *data, int64_t rows, int64_t cols,
                               int64_t ld, int n_rows) {
    cuuint64_t bytes = dtype == VNP_F32 ? 4 : dtype == VNP_E4M3 ? 1 : 2;
    cuuint64_t dims[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
    cuuint64_t strides[1] = {static_cast<cuuint64_t>(ld) * bytes};
    cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / bytes), static_cast<cuuint32_t>(n_rows)};
    return encode(p, map, dtype, data, 2, dims, strides, box);
}

/* The weight in boxes of 128 bytes x TILE_N / 2 rows, dealt as deal_of says. */
inline cudaError_t encode_dealt(const struct vnp_cuda_gemm_args *p, CUtensorMap *map, int blocks) {
    cuuint64_t h = static_cast<cuuint64_t>(blocks), n = static_cast<cuuint64_t>(p->n);
    cuuint64_t bytes = p->in_dtype == VNP_E4M3 ? 1 : 2,
               row = static_cast<cuuint64_t>(p->ld_w) * bytes;
    cuuint64_t dims[5] = {static_cast<cuuint64_t>(p->k), 2, 4, h, (n + 8 * h - 1) / (8 * h)};
    cuuint64_t strides[4] = {row, 2 * h * row, 2 * row, 8 * h * row};
    cuuint32_t box[5] = {static_cast<cuuint32_t>(128 / bytes), 2, 4, static_cast<cuuint32_t>(h),
                         static_cast<cuuint32_t>(TILE_N / 2 / (8 * blocks))};
    return encode(p, map, p->in_dtype, p->w, 5, dims, strides, box);
}

template <class IN, int EPI, int OUT>
cudaError_t launch_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    CUtensorMap map_a, map_w, map_old;
    cudaError_t e = encode_rows(p, &map_a, p->in_dtype, p->a, p->m, p->k, p->ld_a, TILE_M);
    if (e == cudaSuccess) e = encode_dealt(p, &map_w, deal_of<EPI, OUT>::BLOCKS);
    map_old = map_a;
    if (e == cudaSuccess && EPI == VNP_CUDA_EPI_ADD)
        e = encode_rows(p, &map_old, VNP_F32, p->out, p->m, p->n, p->ld_out, 64);
    if (e != cudaSuccess) return e;
    struct gemm_consts c = {};
    c.bias = p->bias;
    c.a_scale = p->a_scale;
    c.w_scale = p->w_scale;
    c.a_norm = p->a_norm;
    c.out_scale = p->out_scale;
    c.out = p->out;
    c.ld_out = p->ld_out;
    c.m = static_cast<int>(p->m);
    c.n = static_cast<int>(p->n);
    c.n_pairs = static_cast<int>((p->m + 2 * TILE_M - 1) / (2 * TILE_M));
    c.n_cols_tiles = static_cast<int>((p->n + TILE_N - 1) / TILE_N);
    c.k_tiles = static_cast<int>((p->k * IN::BYTES + 127) / 128);
    c.touch_rows = (TILE_M + c.k_tiles - 1) / c.k_tiles;
    c.w_bound = p->w_bound;
    c.bias_bound = p->bias_bound;
    e = cudaFuncSetAttribute(gemm_sm90<IN, EPI, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             SMEM_BYTES);
    if (e != cudaSuccess) return e;
    int n_tiles = c.n_pairs * c.n_cols_tiles, n_clusters = p->n_sms / 2;
    if (n_tiles < n_clusters) n_clusters = n_tiles;
    cudaLaunchAttribute pair = {};
    pair.id = cudaLaunchAttributeClusterDimension;
    pair.val.clusterDim.x = 2;
    pair.val.clusterDim.y = pair.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(2 * n_clusters));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SMEM_BYTES;
    config.stream = stream;
    config.attrs = &pair;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, gemm_sm90<IN, EPI, OUT>, map_a, map_w, map_old, c);
}

/* The instances that the models use: results in FP32, in the operands' own 16-bit type (FP16 of
 * E4M3), and gelu's in E4M3. */
template <class IN> cudaError_t run_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    constexpr int HALF = IN::OUT_HALF;
    bool is_f32 = p->out_dtype == VNP_F32;
    bool is_half = p->out_dtype == (HALF == OUT_BF16 ? VNP_BF16 : VNP_F16);
    switch (p->epilogue) {
    case VNP_CUDA_EPI_STORE:
        if (is_f32) return launch_sm90<IN, VNP_CUDA_EPI_STORE, OUT_F32>(p, stream);
        if (is_half) return launch_sm90<IN, VNP_CUDA_EPI_STORE, HALF>(p, stream);
        break;
    case VNP_CUDA_EPI_GELU:
        if (is_f32) return launch_sm90<IN, VNP_CUDA_EPI_GELU, OUT_F32>(p, stream);
        if constexpr (IN::BYTES == 1) {
            if (p->out_dtype == VNP_E4M3)
                return launch_sm90<IN, VNP_CUDA_EPI_GELU, OUT_E4M3>(p, stream);
        } else if (is_half) {
            return launch_sm90<IN, VNP_CUDA_EPI_GELU, HALF>(p, stream);
        }
        break;
    case VNP_CUDA_EPI_ADD:
        if (is_f32) return launch_sm90<IN, VNP_CUDA_EPI_ADD, OUT_F32>(p, stream);
        break;
    case VNP_CUDA_EPI_GEGLU:
        if (is_half) return launch_sm90<IN, VNP_CUDA_EPI_GEGLU, HALF>(p, stream);
        break;
    }
    return cudaErrorNotSupported;
}

} // namespace

#endif
