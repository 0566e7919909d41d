/* SPDX-License-Identifier: MIT
 * Matrix products of Hopper: TMA copies, warpgroup matrix instructions, and the epilogues that the
 * library lacks (exact gelu, gated gelu, E4M3 with a row scale, FP32 residual added in memory).
 * One kernel template; the three .cu beside it instantiate it by operand type.
 *
 * Idea: a cluster of two blocks owns 256 rows x 256 columns of the result, a block 128 x 256. Both
 * need the same 256 rows of the weight: each fetches half and multicasts it. One warp only copies,
 * two warpgroups only multiply (64 x 256 each, accumulators in registers). Blocks are persistent;
 * while the two warpgroups write a tile, the copy warp fills the ring for the next.
 * Sums run over k in one fixed order whatever M is and wherever a row stands, so a row's result
 * does not depend on its neighbours. */
#ifndef VNP_CUDA_GEMM_SM90_CUH
#define VNP_CUDA_GEMM_SM90_CUH

#include "cuda_math.cuh"
#include "cuda_room.h"
#include "cuda_wgmma.cuh"

namespace {

constexpr int TILE_M = 128, TILE_N = 256, GROUP_M = 8, THREADS = 384;
constexpr int STAGE_A = TILE_M * 128, STAGE_B = TILE_N * 128, STAGE_BYTES = STAGE_A + STAGE_B;
constexpr int CHUNK_BYTES = 64 * 128; /* what a warpgroup stores at once: 64 rows of 128 bytes */
/* Shared memory: a ring of operand stages, chunks of the result on their way out (BUFFERS for each
 * of the two warpgroups), barriers. */
struct layout_of {
    static constexpr int STAGES = 4, BUFFERS = 2;
    static constexpr int OUT = STAGES * STAGE_BYTES;
    static constexpr int BARS = OUT + 2 * BUFFERS * CHUNK_BYTES;
    static constexpr int BYTES = BARS + 2 * STAGES * 8;
};

struct in_f16 {
    static constexpr int BYTES = 2;
    static constexpr bool HAS_SCALE = false;
};
struct in_bf16 {
    static constexpr int BYTES = 2;
    static constexpr bool HAS_SCALE = false;
};
struct in_e4m3 {
    static constexpr int BYTES = 1;
    static constexpr bool HAS_SCALE = true;
};
enum out_kind { OUT_F16, OUT_BF16, OUT_F32, OUT_E4M3 };

struct gemm_consts {
    const float *bias, *a_scale, *w_scale, *a_norm;
    float *out_scale;
    int m, n, n_pairs, n_cols_tiles, k_tiles;
    float *ragged; /* [M][n] of ld_ragged: rows that the copy engine cannot clip, or NULL */
    int64_t ld_ragged;
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
__device__ __forceinline__ void tma_load_both(uint32_t dst, const CUtensorMap *map, uint32_t bar,
                                              int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y), "h"(static_cast<uint16_t>(3))
                 : "memory");
}
__device__ __forceinline__ void tma_store(const CUtensorMap *map, uint32_t src, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
        "r"(src), "r"(x), "r"(y)
        : "memory");
}
__device__ __forceinline__ void tma_add(const CUtensorMap *map, uint32_t src, int x, int y) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group"
                 " [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(src), "r"(x), "r"(y)
                 : "memory");
}
/* Shared-memory operand, k-major, rows of 128 swizzled bytes, 8 rows every 1024 bytes. */
__device__ __forceinline__ uint64_t operand(uint32_t addr) {
    return (static_cast<uint64_t>(addr & 0x3ffff) >> 4) | (static_cast<uint64_t>(1) << 16) |
           (static_cast<uint64_t>(1024 >> 4) << 32) | (static_cast<uint64_t>(1) << 62);
}
__device__ __forceinline__ void stmatrix4(uint32_t addr, uint32_t a, uint32_t b, uint32_t c,
                                          uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(addr),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
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

template <class IN, int STAGES>
__device__ void produce(const CUtensorMap *map_a, const CUtensorMap *map_w, const gemm_consts &c,
                        uint32_t smem, uint32_t full, uint32_t rank, int first, int step) {
    uint32_t empty = full + STAGES * 8;
    constexpr int K_STEP = 128 / IN::BYTES;
    int stage = 0, phase = 0;
    for (int t = first; t < c.n_pairs * c.n_cols_tiles; t += step) {
        int pair, col;
        tile_at(c, t, &pair, &col);
        int row = (2 * pair + static_cast<int>(rank)) * TILE_M;
        int w_row = col * TILE_N + static_cast<int>(rank) * (TILE_N / 2);
        for (int k = 0; k < c.k_tiles; k++) {
            uint32_t a = smem + stage * STAGE_BYTES, w = a + STAGE_A + rank * (STAGE_B / 2);
            bar_wait(empty + stage * 8, phase ^ 1);
            bar_expect(full + stage * 8, STAGE_BYTES);
            tma_load(a, map_a, full + stage * 8, k * K_STEP, row);
            tma_load_both(w, map_w, full + stage * 8, k * K_STEP, w_row);
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
}

/* One warpgroup's 64 x 256 sums of a tile. */
template <class IN, int STAGES>
__device__ __forceinline__ void accumulate(float (&acc)[128], const gemm_consts &c, uint32_t smem,
                                           uint32_t full, int group, int *stage, int *phase) {
    uint32_t empty = full + STAGES * 8, lane = threadIdx.x & 31;
    int last = -1;
    for (int k = 0; k < c.k_tiles; k++) {
        uint32_t base = smem + *stage * STAGE_BYTES;
        uint64_t a = operand(base + group * (STAGE_A / 2)), b = operand(base + STAGE_A);
        bar_wait(full + *stage * 8, *phase);
#pragma unroll
        for (int i = 0; i < 128; i++) asm volatile("" : "+f"(acc[i])::"memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 4; i++) multiply<IN>(acc, a + 2 * i, b + 2 * i, k > 0 || i > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (last >= 0 && lane < 2) bar_arrive_at(empty + last * 8, lane);
        last = *stage;
        if (++*stage == STAGES) {
            *stage = 0;
            *phase ^= 1;
        }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < 128; i++) asm volatile("" : "+f"(acc[i])::"memory");
    if (lane < 2) bar_arrive_at(empty + last * 8, lane);
}

/* What a thread needs of its two rows. */
struct row_pair {
    float scale[2], inv[2]; /* of a; 1 / of out */
};

/* y for the two columns of block j in both rows: y[0..1] the upper row, y[2..3] the lower. */
template <class IN>
__device__ __forceinline__ void finish(const float (&acc)[128], const gemm_consts &c, int j,
                                       int col, const row_pair &r, float (&y)[4]) {
    float2 b = make_float2(0.0f, 0.0f), s = make_float2(1.0f, 1.0f);
    if (col < c.n) {
        if (c.bias) b = __ldg(reinterpret_cast<const float2 *>(c.bias + col));
        if (IN::HAS_SCALE) s = __ldg(reinterpret_cast<const float2 *>(c.w_scale + col));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float v = acc[4 * j + i];
        if (IN::HAS_SCALE) v *= r.scale[i / 2] * (i & 1 ? s.y : s.x);
        y[i] = v + (i & 1 ? b.y : b.x);
    }
}

template <int OUT> __device__ __forceinline__ uint32_t pack2(float a, float b) {
    return OUT == OUT_BF16 ? pack2_bf16(a, b) : pack2_f16(a, b);
}

/* Blocks of 8 columns that make a stored chunk of 128 bytes. */
template <int OUT, int EPI> struct chunk_of {
    static constexpr int BLOCKS = (OUT == OUT_F32    ? 4
                                   : OUT == OUT_E4M3 ? 16
                                                     : 8) *
                                  (EPI == VNP_CUDA_EPI_GEGLU ? 2 : 1);
    static constexpr int COLS = OUT == OUT_F32 ? 32 : OUT == OUT_E4M3 ? 128 : 64;
    static constexpr int COUNT = 32 / BLOCKS;
};

/* Chunk `i` of the warpgroup's tile into shared memory, swizzled as the store's map says. */
template <class IN, int EPI, int OUT>
__device__ __forceinline__ void fill_chunk(const float (&acc)[128], const gemm_consts &c, int i,
                                           int col0, const row_pair &r, uint32_t buf) {
    using chunk = chunk_of<OUT, EPI>;
    int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, q = lane & 3;
    int row = warp * 16 + (lane >> 2);
    constexpr int N_OUT = chunk::COLS / 8;
    uint32_t held[4] = {0, 0, 0, 0};
#pragma unroll
    for (int o = 0; o < N_OUT; o++) {
        float y[4];
        if (EPI == VNP_CUDA_EPI_GEGLU) {
            int j = i * chunk::BLOCKS + 2 * o;
            float g[4];
            finish<IN>(acc, c, j, col0 + 8 * j + 2 * q, r, g);
            finish<IN>(acc, c, j + 1, col0 + 8 * j + 8 + 2 * q, r, y);
#pragma unroll
            for (int e = 0; e < 4; e++) y[e] *= gelu_fast(g[e]);
        } else {
            int j = i * chunk::BLOCKS + o;
            finish<IN>(acc, c, j, col0 + 8 * j + 2 * q, r, y);
            if (EPI == VNP_CUDA_EPI_GELU) {
#pragma unroll
                for (int e = 0; e < 4; e++) y[e] = gelu_fast(y[e]);
            }
        }
        if (OUT == OUT_F32) {
            uint32_t unit = 2 * o + (q >> 1), in = (q & 1) * 8;
            uint32_t p0 = buf + row * 128 + ((unit ^ (row & 7)) << 4) + in, p1 = p0 + 1024;
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(p0), "f"(y[0]), "f"(y[1])
                         : "memory");
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(p1), "f"(y[2]), "f"(y[3])
                         : "memory");
        } else if (OUT == OUT_E4M3) {
            uint32_t unit = o >> 1, in = (o & 1) * 8 + 2 * q;
            uint32_t p0 = buf + row * 128 + ((unit ^ (row & 7)) << 4) + in, p1 = p0 + 1024;
            uint16_t v0 = static_cast<uint16_t>(pack2_e4m3(y[0] * r.inv[0], y[1] * r.inv[0]));
            uint16_t v1 = static_cast<uint16_t>(pack2_e4m3(y[2] * r.inv[1], y[3] * r.inv[1]));
            asm volatile("st.shared.b16 [%0], %1;" ::"r"(p0), "h"(v0) : "memory");
            asm volatile("st.shared.b16 [%0], %1;" ::"r"(p1), "h"(v1) : "memory");
        } else {
            held[(o & 1) * 2] = pack2<OUT>(y[0], y[1]);
            held[(o & 1) * 2 + 1] = pack2<OUT>(y[2], y[3]);
            if (o & 1) {
                int rr = warp * 16 + (lane & 7) + (lane & 8);
                uint32_t unit = (o - 1) + (lane >> 4);
                stmatrix4(buf + rr * 128 + ((unit ^ (rr & 7)) << 4), held[0], held[1], held[2],
                          held[3]);
            }
        }
    }
}

/* FP32 rows whose length is no multiple of 16 bytes (logits): element by element. */
template <class IN, int EPI>
__device__ __forceinline__ void write_ragged(const float (&acc)[128], const gemm_consts &c, int row,
                                             int col0, const row_pair &r) {
    int q = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < 32; j++) {
        float y[4];
        int col = col0 + 8 * j + 2 * q;
        finish<IN>(acc, c, j, col, r, y);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int at = row + 8 * (e >> 1), x = col + (e & 1);
            if (at < c.m && x < c.n)
                c.ragged[at * c.ld_ragged + x] = EPI == VNP_CUDA_EPI_GELU ? gelu_fast(y[e]) : y[e];
        }
    }
}

/* Scales of a thread's two rows, and the first touch of the tile's bias and column scales: read
 * before the sums, so that the epilogue finds them. */
template <class IN, int OUT>
__device__ __forceinline__ row_pair read_rows(const gemm_consts &c, int row0, int col0) {
    int lane = threadIdx.x & 31, row = row0 + ((threadIdx.x >> 5) & 3) * 16 + (lane >> 2);
    int col = col0 + (threadIdx.x & 7) * 32, which = (threadIdx.x >> 3) & 15;
    row_pair r = {{1.0f, 1.0f}, {1.0f, 1.0f}};
    if (which == 0 && c.bias && col < c.n)
        asm volatile("prefetch.global.L1 [%0];" ::"l"(c.bias + col) : "memory");
    if (which == 1 && IN::HAS_SCALE && col < c.n)
        asm volatile("prefetch.global.L1 [%0];" ::"l"(c.w_scale + col) : "memory");
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = row + 8 * i;
        if (at >= c.m) continue;
        if (IN::HAS_SCALE) r.scale[i] = __ldg(c.a_scale + at);
        if (OUT == OUT_E4M3) {
            float bound = fmaf(1.14f * __ldg(c.a_norm + at), c.w_bound, c.bias_bound);
            float s = fmaxf(bound, 0.17f) / E4M3_MAX; /* gelu(y) >= -0.17 */
            r.inv[i] = 1.0f / s;
            if (col0 == 0 && (lane & 3) == 0) c.out_scale[at] = s;
        }
    }
    return r;
}

template <int N> __device__ __forceinline__ void wait_stores() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* Writes a warpgroup's tile: chunk by chunk through its buffers, stored by the copy engine, which
 * clips at the edges of the tensor. ADD is a reduction in memory: one addition an element. Before a
 * buffer is filled again, at most the stores after its own last one may still be reading. */
template <class IN, int EPI, int OUT>
__device__ __forceinline__ void write_tile(const float (&acc)[128], const gemm_consts &c,
                                           const CUtensorMap *map_out, uint32_t buffers, int group,
                                           int row0, int col0, const row_pair &r) {
    using chunk = chunk_of<OUT, EPI>;
    constexpr int BUFFERS = layout_of::BUFFERS, FIRST = chunk::COUNT % BUFFERS;
    bool is_first = (threadIdx.x & 127) == 0;
    if (OUT == OUT_F32 && EPI != VNP_CUDA_EPI_ADD && c.ragged) {
        int lane = threadIdx.x & 31;
        write_ragged<IN, EPI>(acc, c, row0 + ((threadIdx.x >> 5) & 3) * 16 + (lane >> 2), col0, r);
        return;
    }
#pragma unroll
    for (int i = 0; i < chunk::COUNT; i++) {
        uint32_t buf = buffers + (group * BUFFERS + i % BUFFERS) * CHUNK_BYTES;
        if (is_first) {
            if (i < FIRST)
                wait_stores<(FIRST > 0 ? FIRST - 1 : 0)>();
            else
                wait_stores<BUFFERS - 1>();
        }
        asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
        fill_chunk<IN, EPI, OUT>(acc, c, i, col0, r, buf);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
        if (is_first) {
            int x = (EPI == VNP_CUDA_EPI_GEGLU ? col0 / 2 : col0) + i * chunk::COLS;
            if (EPI == VNP_CUDA_EPI_ADD)
                tma_add(map_out, buf, x, row0);
            else
                tma_store(map_out, buf, x, row0);
            asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        }
    }
}

#endif /* sm_90a */

/* gemm_sm90<IN, EPI, OUT>  out = epilogue(a w^T * scales + bias)
 * Math      see op.h linear; FP32 sums in the matrix units' order, k ascending
 * Shapes    a [M][K], w [n_out][K], out [M][n_out] (GEGLU [M][n_out/2]); rows 16-byte aligned;
 *           any M, n_out even, any K (the copy engine fills zeros outside)
 * Rounding  y in FP32, rounded once to the type of out; E4M3: scale of a row from the bound
 *           y <= |a_row| max|w_row| + max b (Cauchy-Schwarz), so that no second pass is needed
 * Traffic   2*M*n_out*K flop; operands once a wave from memory, 32 kB a k-step and block from L2
 * Bound     matrix units: docs/kernels/gemm-cuda.md has the share of the library's sustained rate
 * Launch    132 blocks of 384 threads in clusters of 2, 225 kB smem
 * Order     fixed by K alone: bit-identical for any M and any neighbours
 * Ref       vnp_ref linear     Tried  docs/kernels/gemm-cuda.md
 */
template <class IN, int EPI, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_sm90(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_w,
              const __grid_constant__ CUtensorMap map_out, const __grid_constant__ gemm_consts c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint8_t raw[];
    using layout = layout_of;
    constexpr int STAGES = layout::STAGES;
    uint32_t smem = smem_u32(raw), bars = smem + layout::BARS, rank = blockIdx.x & 1;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bar_init(bars + i * 8, 1);
            bar_init(bars + (STAGES + i) * 8, 16); /* 8 warps of each of the 2 blocks */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    int first = static_cast<int>(blockIdx.x >> 1), step = static_cast<int>(gridDim.x >> 1);
    int group = static_cast<int>(threadIdx.x >> 7) - 1;
    if (group < 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce<IN, STAGES>(&map_a, &map_w, c, smem, bars, rank, first, step);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        float acc[128];
        int stage = 0, phase = 0;
        for (int t = first; t < c.n_pairs * c.n_cols_tiles; t += step) {
            int pair, col;
            tile_at(c, t, &pair, &col);
            int row0 = (2 * pair + static_cast<int>(rank)) * TILE_M + group * 64;
            row_pair r = read_rows<IN, OUT>(c, row0, col * TILE_N);
            accumulate<IN, STAGES>(acc, c, smem, bars, group, &stage, &phase);
            write_tile<IN, EPI, OUT>(acc, c, &map_out, smem + layout::OUT, group, row0,
                                     col * TILE_N, r);
        }
        if ((threadIdx.x & 127) == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
#else
    (void)map_a, (void)map_w, (void)map_out, (void)c;
#endif
}

/* A row-major matrix as the copy engine sees it, in boxes of 128 bytes x box_rows. */
inline cudaError_t make_map(const struct vnp_cuda_gemm_args *p, CUtensorMap *map,
                            enum vnp_dtype dtype, const void *data, int64_t rows, int64_t cols,
                            int64_t ld, int box_rows) {
    CUtensorMapDataType type = dtype == VNP_F16    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                               : dtype == VNP_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                               : dtype == VNP_F32  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                                   : CU_TENSOR_MAP_DATA_TYPE_UINT8;
    uint64_t bytes = dtype == VNP_F32 ? 4 : dtype == VNP_E4M3 ? 1 : 2;
    cuuint64_t dims[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
    cuuint64_t strides[1] = {static_cast<cuuint64_t>(ld) * bytes};
    cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / bytes), static_cast<cuuint32_t>(box_rows)};
    cuuint32_t ones[2] = {1, 1};
    CUresult r = p->encode(map, type, 2, const_cast<void *>(data), dims, strides, box, ones,
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class IN, int EPI, int OUT>
cudaError_t launch_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    CUtensorMap map_a, map_w, map_out;
    int64_t n_stored = EPI == VNP_CUDA_EPI_GEGLU ? p->n / 2 : p->n;
    cudaError_t e = make_map(p, &map_a, p->in_dtype, p->a, p->m, p->k, p->ld_a, TILE_M);
    if (e == cudaSuccess)
        e = make_map(p, &map_w, p->in_dtype, p->w, p->n, p->k, p->ld_w, TILE_N / 2);
    if (e == cudaSuccess)
        e = make_map(p, &map_out, p->out_dtype, p->out, p->m, n_stored, p->ld_out, 64);
    if (e != cudaSuccess) return e;
    struct gemm_consts c = {};
    c.bias = p->bias;
    c.a_scale = p->a_scale;
    c.w_scale = p->w_scale;
    c.a_norm = p->a_norm;
    c.out_scale = p->out_scale;
    c.m = static_cast<int>(p->m);
    c.n = static_cast<int>(p->n);
    c.n_pairs = static_cast<int>((p->m + 2 * TILE_M - 1) / (2 * TILE_M));
    c.n_cols_tiles = static_cast<int>((p->n + TILE_N - 1) / TILE_N);
    c.k_tiles = static_cast<int>((p->k * IN::BYTES + 127) / 128);
    if (OUT == OUT_F32 && n_stored % 4 != 0) {
        c.ragged = static_cast<float *>(p->out);
        c.ld_ragged = p->ld_out;
    }
    c.w_bound = p->w_bound;
    c.bias_bound = p->bias_bound;
    e = cudaFuncSetAttribute(gemm_sm90<IN, EPI, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             layout_of::BYTES);
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
    config.dynamicSmemBytes = layout_of::BYTES;
    config.stream = stream;
    config.attrs = &pair;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, gemm_sm90<IN, EPI, OUT>, map_a, map_w, map_out, c);
}

} // namespace

#endif
