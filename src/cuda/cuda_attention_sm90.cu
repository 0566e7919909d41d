/* SPDX-License-Identifier: MIT
 * Attention of Hopper for heads of 64 columns and sequences of more than 64 tokens: products by
 * warpgroup instructions, keys and values read from shared memory by the matrix unit itself, once
 * for 64 queries. Two kernels: a sequence of at most 192 tokens is worked on whole, by the streams
 * of a fixed grid; a longer one gets a block for every 128 queries. Everything is fetched by
 * asynchronous copies; a thread rotates in place just the pieces that it copied itself, so that
 * rotation needs no barrier. Keys are grouped by 64 from the sequence's own first token: the order
 * of every sum is the sequence's. Online softmax after Milakov & Gimelshein 2018 and Dao 2023; the
 * next step's scores are multiplied while this step's weights meet the values (Shah et al. 2024).
 */
#include "cuda_attention.cuh"

namespace {

constexpr int ROW = 128; /* bytes of a row of 64 columns */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr float LOG2_E = 1.4426950408889634f;

/* Rows of 128 swizzled bytes, 8 rows every 1024 bytes: keys with columns along k, or values,
 * turned, with rows along k. */
__device__ __forceinline__ uint64_t operand(uint32_t addr) {
    constexpr uint64_t EIGHT_ROWS = 1024 >> 4;
    return (static_cast<uint64_t>(addr & 0x3ffff) >> 4) | (EIGHT_ROWS << 16) | (EIGHT_ROWS << 32) |
           (static_cast<uint64_t>(1) << 62);
}
/* clang-format off */
#define VNP_ALL(d)                                                                                 \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),      \
    "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),      \
    "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),      \
    "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),      \
    "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),      \
    "+f"(d[7][2]), "+f"(d[7][3])
#define VNP_LEFT(a)                                                                                \
    "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(a[1][0]), "r"(a[1][1]),            \
    "r"(a[1][2]), "r"(a[1][3]), "r"(a[2][0]), "r"(a[2][1]), "r"(a[2][2]), "r"(a[2][3]),            \
    "r"(a[3][0]), "r"(a[3][1]), "r"(a[3][2]), "r"(a[3][3])
#define VNP_FIRST_32                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define VNP_NEXT_32                                                                                \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
/* d[64][64] (+)= left[64][16] right[16][64]; a step of 16 along k is `step` in units of 16 bytes */
#define VNP_PRODUCT(type, d, left, is_add, turned)                                                 \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                    \
    " {" d "}, {" left "}, b, " is_add ", 1, 1, " turned ";\n"
#define VNP_SCORES(type, l0, l1, l2, l3, right)                                                    \
    "mov.b64 b, " right ";\n" VNP_PRODUCT(type, VNP_FIRST_32, l0, "0", "0")                        \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l1, "1", "0")                             \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l2, "1", "0")                             \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l3, "1", "0")
#define VNP_VALUES(type, d, l0, l1, l2, l3, right)                                                 \
    "mov.b64 b, " right ";\n" VNP_PRODUCT(type, d, l0, "1", "1")                                   \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l1, "1", "1")                                      \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l2, "1", "1")                                      \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l3, "1", "1")
#define VNP_BATCH(body)                                                                            \
    "{\n.reg .b64 b;\nwgmma.fence.sync.aligned;\n" body "wgmma.commit_group.sync.aligned;\n}\n"
#define VNP_START_SCORES(type)                                                                     \
    asm volatile(VNP_BATCH(VNP_SCORES(type, "%32, %33, %34, %35", "%36, %37, %38, %39",            \
                                      "%40, %41, %42, %43", "%44, %45, %46, %47", "%48"))          \
                 : VNP_ALL(s) : VNP_LEFT(q), "l"(keys) : "memory")
#define VNP_START_VALUES(type)                                                                     \
    asm volatile(VNP_BATCH(VNP_VALUES(type, VNP_FIRST_32, "%32, %33, %34, %35",                    \
                                      "%36, %37, %38, %39", "%40, %41, %42, %43",                  \
                                      "%44, %45, %46, %47", "%48"))                                \
                 : VNP_ALL(o) : VNP_LEFT(a), "l"(values) : "memory")
#define VNP_START_BOTH(type)                                                                       \
    asm volatile(VNP_BATCH(                                                                        \
                     VNP_SCORES(type, "%64, %65, %66, %67", "%68, %69, %70, %71",                  \
                                "%72, %73, %74, %75", "%76, %77, %78, %79", "%96")                 \
                     VNP_VALUES(type, VNP_NEXT_32, "%80, %81, %82, %83", "%84, %85, %86, %87",     \
                                "%88, %89, %90, %91", "%92, %93, %94, %95", "%97"))                \
                 : VNP_ALL(s), VNP_ALL(o)                                                          \
                 : VNP_LEFT(q), VNP_LEFT(a), "l"(keys), "l"(values) : "memory")
/* clang-format on */

/* s = scores with 64 keys; rows beyond the sequence give what soften() throws away. */
__device__ __forceinline__ void start_scores(tag_f16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                             uint64_t keys) {
    VNP_START_SCORES("f16");
}
__device__ __forceinline__ void start_scores(tag_bf16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                             uint64_t keys) {
    VNP_START_SCORES("bf16");
}
/* o += weights times 64 values. */
__device__ __forceinline__ void start_values(tag_f16, float (&o)[8][4], const uint32_t (&a)[4][4],
                                             uint64_t values) {
    VNP_START_VALUES("f16");
}
__device__ __forceinline__ void start_values(tag_bf16, float (&o)[8][4], const uint32_t (&a)[4][4],
                                             uint64_t values) {
    VNP_START_VALUES("bf16");
}
/* The next keys' scores, then these values: one batch of the matrix unit. */
__device__ __forceinline__ void start_both(tag_f16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                           uint64_t keys, float (&o)[8][4],
                                           const uint32_t (&a)[4][4], uint64_t values) {
    VNP_START_BOTH("f16");
}
__device__ __forceinline__ void start_both(tag_bf16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                           uint64_t keys, float (&o)[8][4],
                                           const uint32_t (&a)[4][4], uint64_t values) {
    VNP_START_BOTH("bf16");
}
/* The sums, and the weights read for them, are ours again. */
__device__ __forceinline__ void matrix_wait(float (&s)[8][4], float (&o)[8][4],
                                            const uint32_t (&a)[4][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : VNP_ALL(s), VNP_ALL(o)
                 : VNP_LEFT(a)
                 : "memory");
}
/* A value that all threads of a warp have, so that the compiler knows. */
template <class V> __device__ __forceinline__ V same(V v) {
    return __shfl_sync(0xffffffffu, v, 0);
}
__device__ __forceinline__ void shared_to_matrix() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The state of 64 queries of a warpgroup. */
template <class T, bool ALIBI> struct queries {
    uint32_t q[4][4];
    float o[8][4], s[8][4], top[2], sum[2];

    __device__ __forceinline__ void begin(uint32_t rows, bool is_there) { /* 16, rotated */
        int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            q[k][0] = q[k][1] = q[k][2] = q[k][3] = 0;
            if (is_there) ldmatrix4(rows + place<64>(lane & 15, 2 * k + (lane >> 4)), q[k]);
        }
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[j][i] = 0.0f;
    }
    /* Weights of the scores in s, which had `left` keys; o is ready for the values after it. */
    template <bool IS_FULL>
    __device__ __forceinline__ void weigh(uint32_t (&a)[4][4], int left, float unit, float slope,
                                          float dist) {
        float shrink[2];
        soften<T, ALIBI, IS_FULL>(s, a, top, sum, shrink, (left + 15) / 16, left, unit, slope,
                                  dist);
        if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[j][i] *= shrink[i >> 1];
        }
    }
};

#endif /* sm_90a */

/* Shared memory of a whole sequence of up to 64 GROUPS tokens, worked on by as many warpgroups. */
template <int GROUPS> struct whole {
    static constexpr int THREADS = 128 * GROUPS, STAGES = GROUPS == 3 ? 3 : 2, ROWS = 64 * GROUPS;
    static constexpr int STAGE = 3 * ROWS * ROW, BYTES = STAGES * STAGE;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Queries q0 .. of a sequence and one head; len 0: nothing. */
struct work {
    int start, len, q0;
    unsigned h;

    __device__ __forceinline__ int steps() const { return (len + 63) / 64; }
    /* Columns of a row's queries that are the thread's piece; rows beyond the end give the first.
     */
    __device__ __forceinline__ const char *row(const vnp_cuda_attention_args &p, int r) const {
        int64_t token = start + (r < len ? r : 0);
        return static_cast<const char *>(p.qkv) + token * p.ld_qkv * 2 + h * ROW +
               (threadIdx.x & 3) * 16;
    }
};
__device__ __forceinline__ work work_at(const vnp_cuda_attention_args &p, unsigned unit) {
    unsigned n_heads = static_cast<unsigned>(p.n_heads);
    work w = {};
    if (unit >= static_cast<unsigned>(p.n_tiles) * n_heads) return w;
    const vnp_cuda_tile *tile = p.tiles + unit / n_heads;
    w.h = unit % n_heads;
    w.start = __ldg(&tile->seq_row[0]);
    w.len = __ldg(&tile->seq_len[0]);
    w.q0 = __ldg(&tile->q_row[0]) - w.start;
    return w;
}

/* A whole sequence into a stage; values with zeros to the end of the last step. */
template <int GROUPS>
__device__ __forceinline__ void copy_whole(uint32_t stage, const vnp_cuda_attention_args &p,
                                           const work &w) {
    int u = static_cast<int>(threadIdx.x) & 3;
    int64_t dim = p.n_heads * ROW;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = piece_row() + i * 32 * GROUPS;
        const char *from = w.row(p, r);
        if (r < ((w.len + 15) & ~15)) {
            copy_piece(stage, from, r, u, r < w.len);
            copy_piece(stage + whole<GROUPS>::ROWS * ROW, from + dim, r, u, r < w.len);
        }
        if (r < 64 * w.steps())
            copy_piece(stage + 2 * whole<GROUPS>::ROWS * ROW, from + 2 * dim, r, u, r < w.len);
    }
}

/* A warpgroup's 64 queries from q0 on with all keys of a stage. */
template <int GROUPS, class T, bool ALIBI>
__device__ __forceinline__ void attend_whole(uint32_t stage, const vnp_cuda_attention_args &p,
                                             int start, int len, int q0, unsigned h) {
    int lane = static_cast<int>(threadIdx.x) & 31, mine = q0 + 16 * ((threadIdx.x >> 5) & 3);
    uint32_t ks = stage + whole<GROUPS>::ROWS * ROW, vs = ks + whole<GROUPS>::ROWS * ROW;
    uint32_t a[4][4] = {};
    float unit = p.scale * LOG2_E, slope = ALIBI ? p.slopes[h] * LOG2_E : 0.0f;
    float dist = static_cast<float>(mine + (lane >> 2) - 2 * (lane & 3));
    int k0 = 0;
    queries<T, ALIBI> x;
    x.begin(stage + mine * ROW, mine < len);
    start_scores(T(), x.s, x.q, operand(ks));
    matrix_wait(x.s, x.o, a);
    for (; k0 + 64 < len; k0 += 64) {
        if (mine < len) x.template weigh<true>(a, 64, unit, slope, dist - k0);
        start_both(T(), x.s, x.q, operand(ks + (k0 + 64) * ROW), x.o, a, operand(vs + k0 * ROW));
        matrix_wait(x.s, x.o, a);
    }
    if (mine < len) x.template weigh<false>(a, len - k0, unit, slope, dist - k0);
    start_values(T(), x.o, a, operand(vs + k0 * ROW));
    matrix_wait(x.s, x.o, a);
    if (mine < len) {
        char *out = static_cast<char *>(p.out) + (start + mine) * p.ld_out * 2 + h * ROW;
        put_rows<T>(x.o, x.sum, stage + mine * ROW, out, p.ld_out * 2, len - mine);
    }
}
#endif

/* attention_whole<GROUPS, T, ROTARY, ALIBI>  sequences of 65 to 128 (2 groups) or 192 tokens (3)
 * Math      out = softmax(scale q k^T - slope |i-j|) v; online softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, out [N][H*64] T
 * Rounding  q and k to T after rotation, weights p = 2^(s - max) to T, o once to T
 * Traffic   8*N*D bytes, each once; a thread keeps its 32 numbers of the rotary table in registers:
 *           its rows stand at the same positions in every sequence; 4*n*D flop a token
 * Bound     115 us at 3.0 TB/s for N = 16896, D = 2560; measured: docs/kernels/attention-cuda.md
 * Launch    3 groups: a block of 384 threads a multiprocessor, 3 stages of 72 kB; 2 groups: two
 *           blocks of 256 threads, 2 stages of 48 kB. A (sequence, head) pair is worked on, 64
 *           queries a warpgroup, while those after it are on their way
 * Order     keys in steps of 64 from the sequence's own start: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <int GROUPS, class T, bool ROTARY, bool ALIBI>
__global__ void __launch_bounds__(128 * GROUPS, GROUPS == 2 && !ROTARY ? 2 : 1)
    attention_whole(const __grid_constant__ vnp_cuda_attention_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int STEP = 32 * GROUPS, STAGES = whole<GROUPS>::STAGES;
    extern __shared__ __align__(1024) char smem[];
    uint32_t base = smem_at(smem);
    int u = static_cast<int>(threadIdx.x) & 3, row = piece_row();
    int q0 = 64 * same(static_cast<int>(threadIdx.x) >> 7), i = 0;
    turn8 turns[2];
    if (ROTARY) {
        turns[0] = turn_at<32>(p.rotary, row, u);
        turns[1] = turn_at<32>(p.rotary, row + STEP, u);
    }
    unsigned unit = blockIdx.x;
    work now = work_at(p, unit), next = work_at(p, unit + gridDim.x);
    work after = STAGES == 3 ? work_at(p, unit + 2 * gridDim.x) : next;
    copy_whole<GROUPS>(base, p, now);
    copies_close();
    if (STAGES == 3) {
        copy_whole<GROUPS>(base + whole<GROUPS>::STAGE, p, next);
        copies_close();
    }
    for (;;) {
        int start = same(now.start), len = same(now.len);
        uint32_t stage = same(base + i * whole<GROUPS>::STAGE);
        if (len == 0) break;
        copies_wait<STAGES - 2>();
#pragma unroll
        for (int k = 0; ROTARY && k < 2; k++)
            if (row + STEP * k < len) {
                turn_piece<T>(stage, row + STEP * k, u, turns[k]);
                turn_piece<T>(stage + whole<GROUPS>::ROWS * ROW, row + STEP * k, u, turns[k]);
            }
        shared_to_matrix();
        __syncthreads(); /* this stage is whole, the one before is free */
        int free = i == 0 ? STAGES - 1 : i - 1;
        copy_whole<GROUPS>(base + free * whole<GROUPS>::STAGE, p, after);
        copies_close();
        unsigned h = same(now.h);
        unit += gridDim.x;
        now = next;
        if (STAGES == 3) {
            next = after;
            after = work_at(p, unit + 2 * gridDim.x);
        } else {
            after = next = work_at(p, unit + gridDim.x);
        }
        i = i + 1 == STAGES ? 0 : i + 1;
        if (q0 < len) attend_whole<GROUPS, T, ALIBI>(stage, p, start, len, q0, h);
    }
#else
    (void)p;
#endif
}

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

/* attention_long<T, ROTARY, ALIBI>  sequences of more than 192 tokens, a block for 128 queries
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
template <class T, bool ROTARY, bool ALIBI>
__global__ void __launch_bounds__(256, 2)
    attention_long(const __grid_constant__ vnp_cuda_attention_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char smem[];
    uint32_t qs = smem_at(smem), ring = qs + LONG_QUERIES * ROW;
    int warp = same(static_cast<int>(threadIdx.x) >> 5), lane = static_cast<int>(threadIdx.x) & 31;
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
    if (ROTARY) {
        turn_piece<T>(qs, row, u, turn_at<32>(p.rotary, q0 + row, u));
        turn_piece<T>(qs, row + 64, u, turn_at<32>(p.rotary, q0 + row + 64, u));
        turn_piece<T>(ring, row, u, turn_at<32>(p.rotary, row, u));
        turn_piece<T>(ring + 128 * ROW, row, u, turn_at<32>(p.rotary, row + 64, u));
    }
    shared_to_matrix();
    __syncthreads();
    float unit = p.scale * LOG2_E, slope = ALIBI ? p.slopes[h] * LOG2_E : 0.0f;
    float dist = static_cast<float>(mine + (lane >> 2) - 2 * (lane & 3));
    queries<T, ALIBI> x;
    uint32_t a[4][4] = {};
    x.begin(qs + 16 * warp * ROW, mine < len);
    start_scores(T(), x.s, x.q, operand(ring));
    matrix_wait(x.s, x.o, a);
    int c = 0;
    for (; c + 1 < n; c++) {
        uint32_t stage = ring + (c & 3) * 128 * ROW, next = ring + ((c + 1) & 3) * 128 * ROW;
        uint32_t after = ring + ((c + 2) & 3) * 128 * ROW, free = ring + ((c + 3) & 3) * 128 * ROW;
        if (mine < len) x.template weigh<true>(a, 64, unit, slope, dist - 64 * c);
        __syncthreads(); /* keys c+1 are rotated; the stage of c-1 is free */
        start_both(T(), x.s, x.q, operand(next), x.o, a, operand(stage + 64 * ROW));
        if (c + 3 < n) copy_chunk(free, src, ld, dim, row, u, 64 * (c + 3) + row, len);
        copies_close();
        if (c + 2 < n) {
            turn8 t;
            if (ROTARY) t = turn_at<32>(p.rotary, 64 * (c + 2) + row, u);
            copies_wait<1>();
            if (ROTARY) turn_piece<T>(after, row, u, t);
            shared_to_matrix();
        }
        matrix_wait(x.s, x.o, a);
    }
    if (mine < len) x.template weigh<false>(a, len - 64 * c, unit, slope, dist - 64 * c);
    start_values(T(), x.o, a, operand(ring + ((c & 3) * 128 + 64) * ROW));
    matrix_wait(x.s, x.o, a);
    if (mine < len) {
        char *out = static_cast<char *>(p.out) + (start + mine) * p.ld_out * 2 + h * ROW;
        put_rows<T>(x.o, x.sum, qs + 16 * warp * ROW, out, p.ld_out * 2, len - mine);
    }
#else
    (void)p;
#endif
}

template <class T, bool ROTARY, bool ALIBI>
cudaError_t start(const struct vnp_cuda_attention_args *p, enum vnp_cuda_tile_kind kind,
                  cudaStream_t stream) {
    auto kernel = attention_long<T, ROTARY, ALIBI>;
    int bytes = LONG_BYTES, n_threads = 256, per_sm = 0;
    if (kind == VNP_CUDA_WHOLE_128) {
        kernel = attention_whole<2, T, ROTARY, ALIBI>;
        bytes = whole<2>::BYTES;
        n_threads = whole<2>::THREADS;
        per_sm = ROTARY ? 1 : 2;
    } else if (kind == VNP_CUDA_WHOLE_192) {
        kernel = attention_whole<3, T, ROTARY, ALIBI>;
        bytes = whole<3>::BYTES;
        n_threads = whole<3>::THREADS;
        per_sm = 1;
    }
    int64_t n_units = p->n_tiles * p->n_heads, n_blocks = per_sm * p->n_sms;
    if (kind == VNP_CUDA_LONG || n_units < n_blocks) n_blocks = n_units;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess) return e;
    kernel<<<static_cast<unsigned>(n_blocks), n_threads, static_cast<size_t>(bytes), stream>>>(*p);
    return cudaGetLastError();
}

template <class T>
cudaError_t pick(const struct vnp_cuda_attention_args *p, enum vnp_cuda_tile_kind kind,
                 cudaStream_t stream) {
    if (p->rotary) return start<T, true, false>(p, kind, stream);
    if (p->slopes) return start<T, false, true>(p, kind, stream);
    return start<T, false, false>(p, kind, stream);
}

} // namespace

extern "C" cudaError_t vnp_cuda_attention_sm90(const struct vnp_cuda_attention_args *p,
                                               enum vnp_cuda_tile_kind kind, cudaStream_t stream) {
    if (p->n_tiles == 0) return cudaSuccess;
    if (p->head_dim != 64 || (p->rotary && p->slopes)) return cudaErrorNotSupported;
    if (p->dtype == VNP_F16) return pick<tag_f16>(p, kind, stream);
    if (p->dtype == VNP_BF16) return pick<tag_bf16>(p, kind, stream);
    return cudaErrorNotSupported;
}
