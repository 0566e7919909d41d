/* SPDX-License-Identifier: MIT
 * Matrix products of Hopper: TMA copies, warpgroup matrix instructions, and the epilogues that the
 * library lacks (exact gelu, gated gelu, E4M3 with a row scale, FP32 residual added in memory).
 * One kernel template; the three .cu beside it instantiate it by operand type.
 *
 * Idea: a cluster of two blocks owns 256 rows x 256 columns of the result, a block 128 x 256. Both
 * need the same 256 rows of the weight: each fetches half and multicasts it. One warp only copies,
 * two warpgroups only multiply (64 x 256 each, accumulators in registers). Blocks are persistent;
 * while the two warpgroups write a tile, the copy warp fills the ring for the next.
 * The copy engine deals the weight's rows so that every thread holds neighbouring columns; what has
 * room in shared memory goes from there to the result by the copy engine while the next tile's sums
 * run (half of a 16-bit tile, all of an E4M3 or gated one), the rest straight from registers. Bias
 * and column scales come with the operands. A residual sum is the copy engine's: one addition an
 * element, in the L2.
 * Sums run over k in one fixed order whatever M is and wherever a row stands, so a row's result
 * does not depend on its neighbours. */
#ifndef VNP_CUDA_GEMM_SM90_CUH
#define VNP_CUDA_GEMM_SM90_CUH

#include "cuda_barrier.cuh"
#include "cuda_math.cuh"
#include "cuda_room.h"
#include "cuda_wgmma.cuh"

namespace {

constexpr int TILE_M = 128, TILE_N = 256, THREADS = 384, STAGES = 4;
constexpr int CLUSTER = 2;
constexpr int STAGE_A = TILE_M * 128, STAGE_B = TILE_N * 128, STAGE_BYTES = STAGE_A + STAGE_B;
constexpr int CONST_BYTES = TILE_N * 4;
constexpr int EPI_QKV_64 = 16; /* QKV with heads of 64 */
__host__ __device__ constexpr bool is_qkv(int epi) {
    return epi == VNP_CUDA_EPI_QKV || epi == EPI_QKV_64;
}

/* ADD: tiles end at the same time everywhere, and 17 MB go to the L2 at once. So the clusters start
 * in groups, LAG cycles apart, where a launch is long enough to earn it back. */
constexpr int LAG_GROUPS = 8, LAG = 2000;

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

/* Shared memory: the ring, results on their way, bias and column scales of a tile, barriers. */
template <class IN, int EPI> struct layout {
    static constexpr bool IS_ADD = EPI == VNP_CUDA_EPI_ADD;
    /* a warp's results on their way: ADD 8 rows x 32 columns, else 16 rows x 128 bytes */
    static constexpr int N_BOXES = IS_ADD ? 3 : 2, BOX = (IS_ADD ? 8 : 16) * 128;
    static constexpr int BOX_COLS = 32;
    static constexpr int BOXES = STAGES * STAGE_BYTES, CONSTS = BOXES + 8 * N_BOXES * BOX;
    static constexpr int BARS = CONSTS + (IN::HAS_SCALE ? 2 : 1) * CONST_BYTES;
    static constexpr int BYTES = BARS + 2 * STAGES * 8;
    static_assert(BYTES <= 232448, "of a block");
};
/* Bias and scales come with this k-step: its stage is free when nobody writes the tile before. */
constexpr int CONSTS_STEP = STAGES;

/* Results of 8 and 16 bits go to memory by the copy engine, as far as they have a place to wait in:
 * blocks of 32 columns. */
template <class IN, int EPI, int OUT> struct staged {
    static constexpr bool IS = EPI != VNP_CUDA_EPI_ADD && OUT != OUT_F32;
    static constexpr int A_BOX = OUT == OUT_E4M3 ? 4 : 2,
                         N = IS ? A_BOX * layout<IN, EPI>::N_BOXES : 0;
    static constexpr bool IS_ALL = N >= TILE_N / deal_of<EPI, OUT>::ROWS;
};

struct gemm_consts {
    const float *bias, *a_scale, *w_scale, *a_norm;
    float *out_scale;
    void *out; /* [M][ld_out] */
    int64_t ld_out;
    int m, n, n_row_tiles, n_cols_tiles, k_tiles; /* row tiles: of all blocks of a cluster */
    int group;                                    /* row tiles of a cluster, see tile_at */
    int lag;                                      /* ADD: cycles */
    int touch_rows; /* ADD: rows of the tile fetched into L2 at every k-step */
    float w_bound, bias_bound;
    const float2 *rotary;     /* QKV */
    const int32_t *row_start; /* QKV: first token of a row's sequence */
    float *v_top;             /* QKV: or NULL */
    int half, n_rotated, value_col;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

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
__device__ __forceinline__ void tma_load_dealt(uint32_t dst, const CUtensorMap *map, uint32_t bar,
                                               int x, int deal) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4, %4, %4, %5}], [%2], %6;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(0), "r"(deal),
                 "h"(static_cast<uint16_t>((1 << CLUSTER) - 1))
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

template <class IN, int N>
__device__ __forceinline__ void multiply(float (&d)[N], uint64_t a, uint64_t b, int is_add) {
    if constexpr (IN::BYTES == 1)
        wgmma_e4m3(d, a, b, is_add);
    else if constexpr (IN::OUT_HALF == OUT_BF16)
        wgmma_bf16(d, a, b, is_add);
    else
        wgmma_f16(d, a, b, is_add);
}

/* A cluster's tiles in groups of rows, all columns of a group before the next, there and back: the
 * operands of the tiles in flight stay in the L2, and so do the weight's last columns for the next
 * group to begin with. */
__device__ __forceinline__ void tile_at(const gemm_consts &c, int t, int *row, int *col) {
    int per_group = c.group * c.n_cols_tiles, g = t / per_group, r = t - g * per_group;
    int height = min(c.group, c.n_row_tiles - g * c.group);
    *row = g * c.group + r % height;
    *col = g % 2 ? c.n_cols_tiles - 1 - r / height : r / height;
}

/* Where a party stands in the ring; the barriers of its stages (full, then empty) at `bars`. */
template <int N, int BYTES> struct ring_of {
    uint32_t smem, bars;
    int stage, phase;
    __device__ uint32_t data() const { return smem + stage * BYTES; }
    __device__ uint32_t full() const { return bars + stage * 8; }
    __device__ uint32_t empty() const { return bars + (N + stage) * 8; }
    __device__ void next() {
        if (++stage == N) {
            stage = 0;
            phase ^= 1;
        }
    }
};
using ring = ring_of<STAGES, STAGE_BYTES>;

/* Rows row .. end - 1 of x [M][n], WIDTH columns from `col` on, into L2: all tiles of a wave end
 * together, and would all wait for the memory then. */
template <int WIDTH>
__device__ __forceinline__ void touch_rows(const float *x, int64_t ld, int row, int end, int col,
                                           int n) {
    int bytes = min(WIDTH, n - col) * 4 & ~15;
    const float *at = x + row * ld + col;
    for (; row < end && bytes > 0; row++, at += ld)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
}

/* Bias and column scales of the tile; the arrays are padded to 64. */
template <class IN, int EPI>
__device__ __forceinline__ void load_consts(const gemm_consts &c, const ring &r, int col0) {
    int bytes = min(CONST_BYTES, ((c.n - col0 + 63) & ~63) * 4);
    uint32_t to = r.smem + layout<IN, EPI>::CONSTS;
    bar_expect(r.full(), STAGE_BYTES + (c.bias ? bytes : 0) + (IN::HAS_SCALE ? bytes : 0));
    if (c.bias) bulk_load(to, c.bias + col0, bytes, r.full());
    if (IN::HAS_SCALE) bulk_load(to + CONST_BYTES, c.w_scale + col0, bytes, r.full());
}

__device__ __forceinline__ void start_late(int64_t cycles) {
    for (int64_t begin = clock64(); clock64() - begin < cycles;) __nanosleep(200);
}

template <class IN, int EPI, int OUT>
__device__ void produce(const CUtensorMap *map_a, const CUtensorMap *map_w, const gemm_consts &c,
                        ring r, uint32_t rank, int first, int step) {
    constexpr int K_STEP = 128 / IN::BYTES, DEAL = deal_of<EPI, OUT>::ROWS;
    if (EPI == VNP_CUDA_EPI_ADD) start_late(first % LAG_GROUPS * c.lag);
    constexpr int PART = TILE_N / CLUSTER; /* rows of the weight that a block fetches for all */
    for (int t = first; t < c.n_row_tiles * c.n_cols_tiles; t += step) {
        int rows, col;
        tile_at(c, t, &rows, &col);
        int row = (CLUSTER * rows + static_cast<int>(rank)) * TILE_M;
        int w_row = col * TILE_N + static_cast<int>(rank) * PART;
        for (int k = 0; k < c.k_tiles; k++) {
            bar_wait(r.empty(), r.phase ^ 1);
            if (k == CONSTS_STEP)
                load_consts<IN, EPI>(c, r, col * TILE_N);
            else
                bar_expect(r.full(), STAGE_BYTES);
            tma_load(r.data(), map_a, r.full(), k * K_STEP, row);
            tma_load_dealt(r.data() + STAGE_A + rank * (STAGE_B / CLUSTER), map_w, r.full(),
                           k * K_STEP, w_row / DEAL);
            int touched = k * c.touch_rows;
            if (EPI == VNP_CUDA_EPI_ADD && touched < TILE_M)
                touch_rows<TILE_N>(static_cast<const float *>(c.out), c.ld_out, row + touched,
                                   min(row + min(touched + c.touch_rows, TILE_M), c.m),
                                   col * TILE_N, c.n);
            r.next();
        }
    }
}

/* A warp is done with a stage: said to all blocks of the cluster, whose copies fill it. */
__device__ __forceinline__ void release(uint32_t empty) {
    uint32_t lane = threadIdx.x & 31;
    if (lane < CLUSTER) bar_arrive_at(empty, lane);
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

#endif /* sm_90a */

} // namespace

#include "cuda_gemm_epilogue.cuh"

namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A warpgroup's tiles. */
template <class IN, int EPI, int OUT>
__device__ __forceinline__ void consume(const gemm_consts &c, const CUtensorMap *map_out, ring r,
                                        int group, int rank, int first, int step) {
    float acc[128];
    int row = ((threadIdx.x >> 5) & 3) * 16 + ((threadIdx.x & 31) >> 2) + group * 64;
    for (int t = first; t < c.n_row_tiles * c.n_cols_tiles; t += step) {
        int at, col;
        float read[4];
        turns turn_of;
        tile_at(c, t, &at, &col);
        place p = {row + (CLUSTER * at + rank) * TILE_M, col * TILE_N};
        read_rows<IN, OUT>(c, p.row, read);
        if (is_qkv(EPI)) turn_of = read_turns(c, p);
        accumulate<IN>(acc, c.k_tiles, group, &r);
        row_pair rows = scale_rows<OUT>(c, p, read);
        if constexpr (is_qkv(EPI))
            write_qkv<IN, EPI, OUT>(acc, c, map_out, p, rows, turn_of, r);
        else if constexpr (EPI == VNP_CUDA_EPI_ADD)
            add_tile<IN, EPI>(acc, c, map_out, p, rows, r);
        else if (c.n % deal_of<EPI, OUT>::SPAN != 0 && p.col0 + TILE_N > c.n)
            write_tile<IN, EPI, OUT, true>(acc, c, map_out, p, rows, r);
        else
            write_tile<IN, EPI, OUT, false>(acc, c, map_out, p, rows, r);
    }
    if ((EPI == VNP_CUDA_EPI_ADD || staged<IN, EPI, OUT>::IS) && (threadIdx.x & 31) == 0)
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#endif /* sm_90a */

/* gemm_sm90<IN, EPI, OUT>  out = epilogue(a w^T * scales + bias)
 * Math      see op.h linear; FP32 sums in the matrix units' order, k ascending; gelu: cuda_math.cuh
 *           QKV: q and k rotated by heads, (x1 c - x2 s, x2 c + x1 s), angles by a row's place in
 *           its sequence; in FP8 each sequence's largest |v|
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
 * Launch    132 blocks of 384 threads in clusters of 2, 222 to 231 kB smem; 232 registers a
 *           multiplying thread, 128 of them sums; no spills
 * Order     fixed by K alone: bit-identical for any M and any neighbours
 * Ref       vnp_ref linear     Tried  docs/kernels/gemm-cuda.md
 */
template <class IN, int EPI, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_sm90(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_w,
              const __grid_constant__ CUtensorMap map_out, const __grid_constant__ gemm_consts c) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint8_t raw[];
    ring r = {smem_at(raw), smem_at(raw) + layout<IN, EPI>::BARS, 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bar_init(r.bars + i * 8, 1);
            bar_init(r.bars + (STAGES + i) * 8, 8 * CLUSTER); /* 8 warps of each block */
        }
        bars_show();
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    int first = static_cast<int>(blockIdx.x / CLUSTER),
        step = static_cast<int>(gridDim.x / CLUSTER);
    int group = static_cast<int>(threadIdx.x >> 7) - 1;
    int rank = static_cast<int>(blockIdx.x % CLUSTER);
    if (group < 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce<IN, EPI, OUT>(&map_a, &map_w, c, r, rank, first, step);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<IN, EPI, OUT>(c, &map_out, r, group, rank, first, step);
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
#else
    (void)map_a, (void)map_w, (void)map_out, (void)c;
#endif
}

/* A row-major matrix as the copy engine sees it, in boxes of 128 bytes x n_rows. */
inline cudaError_t encode_rows(const struct vnp_cuda_gemm_args *p, CUtensorMap *map,
                               enum vnp_dtype dtype, const void *data, int64_t rows, int64_t cols,
                               int64_t ld, int n_rows) {
    cuuint64_t bytes = dtype == VNP_F32 ? 4 : dtype == VNP_E4M3 ? 1 : 2;
    cuuint64_t dims[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
    cuuint64_t strides[1] = {static_cast<cuuint64_t>(ld) * bytes};
    cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / bytes), static_cast<cuuint32_t>(n_rows)};
    return encode(p->encode, map, dtype, data, 2, dims, strides, box);
}

/* The weight in boxes of 128 bytes x n_rows rows, dealt as deal_of says. */
inline cudaError_t encode_dealt(const struct vnp_cuda_gemm_args *p, CUtensorMap *map, int blocks,
                                int n_rows) {
    cuuint64_t h = static_cast<cuuint64_t>(blocks), n = static_cast<cuuint64_t>(p->n);
    cuuint64_t bytes = p->in_dtype == VNP_E4M3 ? 1 : 2,
               row = static_cast<cuuint64_t>(p->ld_w) * bytes;
    cuuint64_t dims[5] = {static_cast<cuuint64_t>(p->k), 2, 4, h, (n + 8 * h - 1) / (8 * h)};
    cuuint64_t strides[4] = {row, 2 * h * row, 2 * row, 8 * h * row};
    cuuint32_t box[5] = {static_cast<cuuint32_t>(128 / bytes), 2, 4, static_cast<cuuint32_t>(h),
                         static_cast<cuuint32_t>(n_rows / (8 * blocks))};
    return encode(p->encode, map, p->in_dtype, p->w, 5, dims, strides, box);
}

/* A kernel of this room's products in n_clusters clusters. */
template <class CONSTS>
cudaError_t launch_pairs(void (*kernel)(CUtensorMap, CUtensorMap, CUtensorMap, CONSTS),
                         int n_clusters, size_t smem_bytes, cudaStream_t stream,
                         const CUtensorMap &map_a, const CUtensorMap &map_w,
                         const CUtensorMap &map_out, const CONSTS &c) {
    cudaLaunchAttribute pair = {};
    pair.id = cudaLaunchAttributeClusterDimension;
    pair.val.clusterDim.x = CLUSTER;
    pair.val.clusterDim.y = pair.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(CLUSTER * n_clusters));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = smem_bytes;
    config.stream = stream;
    config.attrs = &pair;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, map_a, map_w, map_out, c);
}

template <class IN, int EPI, int OUT>
cudaError_t launch_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    CUtensorMap map_a, map_w, map_out;
    cudaError_t e = encode_rows(p, &map_a, p->in_dtype, p->a, p->m, p->k, p->ld_a, TILE_M);
    if (e == cudaSuccess) e = encode_dealt(p, &map_w, deal_of<EPI, OUT>::BLOCKS, TILE_N / CLUSTER);
    map_out = map_a;
    if (e == cudaSuccess && EPI == VNP_CUDA_EPI_ADD)
        e = encode_rows(p, &map_out, VNP_F32, p->out, p->m, p->n, p->ld_out, 8);
    if (e == cudaSuccess && staged<IN, EPI, OUT>::IS)
        e = encode_rows(p, &map_out, p->out_dtype, p->out, p->m,
                        EPI == VNP_CUDA_EPI_GEGLU ? p->n / 2 : p->n, p->ld_out, 16);
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
    c.n_row_tiles = static_cast<int>((p->m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M));
    c.n_cols_tiles = static_cast<int>((p->n + TILE_N - 1) / TILE_N);
    c.k_tiles = static_cast<int>((p->k * IN::BYTES + 127) / 128);
    if (c.k_tiles <= CONSTS_STEP) c.k_tiles = CONSTS_STEP + 1; /* of zeros */
    c.touch_rows = (TILE_M + c.k_tiles - 1) / c.k_tiles;
    c.group = IN::BYTES == 1 && c.n_cols_tiles >= 20 ? 16 : 8;
    c.w_bound = p->w_bound;
    c.bias_bound = p->bias_bound;
    c.rotary = p->rotary;
    c.row_start = p->row_start;
    c.v_top = p->v_top;
    c.half = static_cast<int>(p->head_dim / 2);
    c.n_rotated = static_cast<int>(p->n_rotated);
    c.value_col = static_cast<int>(p->n / 3 * 2);
    e = cudaFuncSetAttribute(gemm_sm90<IN, EPI, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (layout<IN, EPI>::BYTES));
    if (e != cudaSuccess) return e;
    int n_tiles = c.n_row_tiles * c.n_cols_tiles, n_clusters = p->n_sms / CLUSTER;
    if (n_tiles < n_clusters) n_clusters = n_tiles;
    if (n_tiles / n_clusters >= 5 && n_tiles / n_clusters * c.k_tiles >= 100) c.lag = LAG;
    return launch_pairs(gemm_sm90<IN, EPI, OUT>, n_clusters, (layout<IN, EPI>::BYTES), stream,
                        map_a, map_w, map_out, c);
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
    case VNP_CUDA_EPI_QKV:
        if (is_half && p->head_dim == 64) return launch_sm90<IN, EPI_QKV_64, HALF>(p, stream);
        if (is_half) return launch_sm90<IN, VNP_CUDA_EPI_QKV, HALF>(p, stream);
        break;
    case VNP_CUDA_EPI_GEGLU:
        if (is_half) return launch_sm90<IN, VNP_CUDA_EPI_GEGLU, HALF>(p, stream);
        break;
    }
    return cudaErrorNotSupported;
}

} // namespace

#endif
