/* SPDX-License-Identifier: MIT
 * Attention of Hopper for heads of 64 columns and sequences of more than 192 tokens, q and k ready
 * as they stand in qkv. A fixed grid of blocks; each works through units of 128 queries of one
 * sequence and head. The copy engine fills a ring of keys and values, and the queries of the unit
 * after, across the units' borders; the ring's barriers are all that joins the two warpgroups.
 * Weights are taken relative to a reference that is nearly always the greatest score of the
 * sequence's first 64 keys: it is raised only where weights grow out of FP16, so most steps look
 * for no maximum and multiply nothing anew. */
#include "cuda_attention_sm90.cuh"

namespace {

constexpr int THREADS = 256, GROUPS = THREADS / 128;
constexpr int CHUNK = 64 * ROW; /* bytes of 64 rows */
/* A chunk is asked for AHEAD chunks before its turn, when the one STAGES before it has been left
 * by this warpgroup a step ago; the other may be a step behind. Sequences have more chunks than
 * AHEAD, so what is asked for is of this unit or of the next. */
constexpr int STAGES = 5, AHEAD = STAGES - 2;
static_assert(VNP_CUDA_WHOLE / 64 + 1 > AHEAD, "the shortest sequence against the ring's lead");

/* Shared memory: queries of two units, the ring (keys, then values), barriers, and what the thread
 * that feeds the ring keeps there. */
constexpr int RING = 2 * GROUPS * CHUNK, BARS = RING + STAGES * 2 * CHUNK;
constexpr int UNITS = BARS + 16 * 8; /* two units: {first token, tokens, first query, head} */
constexpr int FEED = UNITS + 2 * 16; /* {next row, chunks left, column, number of the unit} */
constexpr int TILE = FEED + 16;      /* {first token, tokens, first query's row} of the next unit */
constexpr int BYTES = TILE + 16;

/* Sums of 16 weights from which on a row's reference is raised: below it each fits FP16, from it on
 * one is above 1, so its score above the reference. */
constexpr float HEAVY = 32768.0f;
static_assert(HEAVY > 16.0f && HEAVY < 65504.0f, "see there");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void copy4(uint32_t to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
/* The 128 threads of the warpgroup meet. */
__device__ __forceinline__ void group_meet() {
    if (threadIdx.x < 128)
        asm volatile("bar.sync 1, 128;" ::: "memory");
    else
        asm volatile("bar.sync 2, 128;" ::: "memory");
}

/* Barriers: full and empty of the stages, then of the two units' queries. */
__device__ __forceinline__ uint32_t full(uint32_t base, int stage) {
    return base + BARS + stage * 8;
}
__device__ __forceinline__ uint32_t empty(uint32_t base, int stage) {
    return base + BARS + (STAGES + stage) * 8;
}
__device__ __forceinline__ uint32_t queries_full(uint32_t base, int i) {
    return base + BARS + (2 * STAGES + i) * 8;
}
__device__ __forceinline__ uint32_t queries_empty(uint32_t base, int i) {
    return base + BARS + (2 * STAGES + 2 + i) * 8;
}

/* The block's k-th unit, there and back over the blocks: units stand longest first. */
__device__ __forceinline__ unsigned unit_at(unsigned k) {
    return k * gridDim.x + (k & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}
/* The tile of unit k on its way to shared memory. */
__device__ __forceinline__ void fetch_tile(const vnp_cuda_attention_args &p, uint32_t base,
                                           unsigned k) {
    unsigned unit = unit_at(k), n_heads = static_cast<unsigned>(p.n_heads);
    if (unit >= static_cast<unsigned>(p.n_tiles) * n_heads) return;
    const vnp_cuda_tile *tile = p.tiles + unit / n_heads;
    copy4(base + TILE, &tile->seq_row[0]);
    copy4(base + TILE + 4, &tile->seq_len[0]);
    copy4(base + TILE + 8, &tile->q_row[0]);
    copies_close();
}

/* Unit f.w begins for the feeding thread: its queries are asked for. Behind the last: a unit of no
 * tokens, and -1 chunks left. */
__device__ __forceinline__ uint4 feed_unit(const vnp_cuda_attention_args &p, const CUtensorMap *map,
                                           uint32_t base, uint4 f) {
    unsigned k = f.w, unit = unit_at(k), n_heads = static_cast<unsigned>(p.n_heads);
    int i = k & 1;
    uint32_t bar = queries_full(base, i), to = base + i * GROUPS * CHUNK;
    bar_wait(queries_empty(base, i), (k >> 1 & 1) ^ 1);
    if (unit >= static_cast<unsigned>(p.n_tiles) * n_heads) {
        shared_put(base + UNITS + i * 16, make_uint4(0, 0, 0, 0));
        bar_arrive(bar);
        f.y = ~0u;
        return f;
    }
    copies_wait<0>();
    uint4 t = shared_get(base + TILE);
    unsigned h = unit % n_heads, q0 = t.z - t.x;
    bool is_two = q0 + 64 < t.y;
    f = make_uint4(t.x, (t.y + 63) / 64, h * 64, k + 1);
    shared_put(base + UNITS + i * 16, make_uint4(t.x, t.y, q0, h));
    bar_expect(bar, is_two ? 2 * CHUNK : CHUNK);
    tma_load(to, map, bar, static_cast<int>(f.z), static_cast<int>(t.z));
    if (is_two) tma_load(to + CHUNK, map, bar, static_cast<int>(f.z), static_cast<int>(t.z + 64));
    fetch_tile(p, base, k + 1);
    return f;
}

/* One thread: the next chunk of the block's units into a stage. */
__device__ __forceinline__ void feed(const vnp_cuda_attention_args &p, const CUtensorMap *map,
                                     uint32_t base, int stage, int phase) {
    uint4 f = shared_get(base + FEED);
    uint32_t bar = full(base, stage), to = base + RING + stage * 2 * CHUNK;
    int dim = static_cast<int>(p.n_heads) * 64;
    if (f.y == 0) f = feed_unit(p, map, base, f);
    if (f.y != ~0u) {
        bar_wait(empty(base, stage), phase ^ 1);
        bar_expect(bar, 2 * CHUNK);
        tma_load(to, map, bar, static_cast<int>(f.z) + dim, static_cast<int>(f.x));
        tma_load(to + CHUNK, map, bar, static_cast<int>(f.z) + 2 * dim, static_cast<int>(f.x));
        f.x += 64;
        f.y--;
    }
    shared_put(base + FEED, f);
}

/* Where a warpgroup stands in the ring. */
struct place_in_ring {
    int stage, phase;
    __device__ __forceinline__ place_in_ring further(int n) const {
        return stage + n < STAGES ? place_in_ring{stage + n, phase}
                                  : place_in_ring{stage + n - STAGES, phase ^ 1};
    }
};

/* Scores with a head's queries in units of log2: how, and where ALiBi's diagonal is. */
struct scoring {
    float unit, slope, dist; /* dist: of the thread's first row from its first key of the step */
};

/* The state of a warp's 16 queries, and its share of the warpgroup's products. ref: what the rows'
 * weights are relative to, in units of log2. */
template <class T, bool ALIBI> struct rows16 {
    uint32_t q[4][4], a[4][4];
    float o[8][4], s[8][4], ref[2], sum[2];

    __device__ __forceinline__ void begin(uint32_t rows) {
        int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            ldmatrix4(rows + place<64>(lane & 15, 2 * k + (lane >> 4)), q[k]);
            a[k][0] = a[k][1] = a[k][2] = a[k][3] = 0;
        }
        ref[0] = ref[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[j][i] = 0.0f;
    }
    /* Score s[j][i] * unit less ALiBi's share, plus `add`. */
    __device__ __forceinline__ float scored(const scoring &by, int j, int i, float add) const {
        float x = fmaf(s[j][i], by.unit, add);
        if (!ALIBI) return x;
        return fmaf(-by.slope, fabsf(by.dist + static_cast<float>(8 * (i >> 1) - 8 * j - (i & 1))),
                    x);
    }
    /* Keys from `left` on count as absent, whatever their rows hold. */
    __device__ __forceinline__ void mask(int left) {
        int first = 2 * (static_cast<int>(threadIdx.x) & 3);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * j + first + (i & 1) >= left) s[j][i] = -INFINITY;
    }
    /* Rows where one of the four threads has a heavy sum take their greatest score as reference;
     * what they have summed so far shrinks. */
    __device__ __forceinline__ void raise(const scoring &by, const float (&l)[2]) {
        int quad = static_cast<int>(threadIdx.x) & 28;
        float shrink[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = scored(by, 0, 2 * i, 0.0f);
#pragma unroll
            for (int j = 0; j < 8; j++)
                m = fmaxf(m, fmaxf(scored(by, j, 2 * i, 0.0f), scored(by, j, 2 * i + 1, 0.0f)));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
            bool is_heavy = __ballot_sync(0xffffffffu, l[i] >= HEAVY) >> quad & 15;
            m = is_heavy ? m : ref[i];
            shrink[i] = is_heavy ? exp2_fast(ref[i] - m) : 1.0f;
            ref[i] = m;
            sum[i] *= shrink[i];
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[j][i] *= shrink[i >> 1];
    }
    /* Weights of the scores, packed, and the thread's sums of them. */
    template <bool IS_FULL>
    __device__ __forceinline__ void exponentials(const scoring &by, int left, float (&l)[2]) {
        l[0] = l[1] = 0.0f;
#pragma unroll
        for (int c = 0; c < 4; c++) {
            if (!IS_FULL && 16 * c >= left) {
                a[c][0] = a[c][1] = a[c][2] = a[c][3] = 0;
                continue;
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float w[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    w[i] = exp2_fast(scored(by, 2 * c + j, i, -ref[i >> 1]));
                    l[i >> 1] += w[i];
                }
                a[c][2 * j] = T::pack2(w[0], w[1]);
                a[c][2 * j + 1] = T::pack2(w[2], w[3]);
            }
        }
    }
    /* The scores of `left` keys become weights; o is ready for their values. After the first step
     * of a sequence a second round is rare, and not needed by NaN: it compares false. */
    template <bool IS_FULL>
    __device__ __forceinline__ void weigh(const scoring &by, int left, bool is_first) {
        float l[2] = {INFINITY, INFINITY};
        bool is_raised = is_first;
        if (!IS_FULL) mask(left);
#pragma unroll 1
        for (;;) {
            if (is_raised) raise(by, l);
            exponentials<IS_FULL>(by, left, l);
            if (is_raised || !__any_sync(0xffffffffu, fmaxf(l[0], l[1]) >= HEAVY)) break;
            is_raised = true;
        }
        sum[0] += l[0];
        sum[1] += l[1];
    }
};

/* Values of keys from `left` on, which are another sequence's, become zeros: their weights are 0,
 * but 0 * NaN is NaN. Each warpgroup does it for itself. */
__device__ __forceinline__ void clear_tail(uint32_t values, int left) {
    int t = static_cast<int>(threadIdx.x) & 127;
    for (int r = left + (t >> 3); r < 64; r += 16)
        shared_put(values + r * ROW + (t & 7) * 16, make_uint4(0, 0, 0, 0));
    stores_show();
}

/* A stage's keys or values for the matrix unit; addresses there are in units of 16 bytes. */
__device__ __forceinline__ uint64_t keys_in(uint64_t ring, int stage) {
    return ring + static_cast<uint32_t>(stage * (2 * CHUNK / 16));
}
__device__ __forceinline__ uint64_t values_in(uint64_t ring, int stage) {
    return keys_in(ring, stage) + CHUNK / 16;
}
/* A warp is done with what the barrier guards. */
__device__ __forceinline__ void leave(uint32_t bar) {
    if ((threadIdx.x & 31) == 0) bar_arrive(bar);
}

/* A warpgroup without queries in the unit lets n chunks pass. */
__device__ __forceinline__ void pass(uint32_t base, place_in_ring *at, int n) {
    for (int c = 0; c < n; c++) {
        bar_wait(full(base, at->stage), at->phase);
        __syncwarp();
        leave(empty(base, at->stage));
        *at = at->further(1);
    }
}

/* What the feeding thread says of the unit in place i. */
__device__ __forceinline__ uint4 unit_in(uint32_t base, int i) {
    return shared_get_by_one(base + UNITS + i * 16);
}
/* A warp's 16 queries of the unit in place i, and later its results. */
__device__ __forceinline__ uint32_t rows_in(uint32_t base, int i) {
    return base + i * GROUPS * CHUNK + (threadIdx.x >> 5) * 16 * ROW;
}

/* 64 queries of a warpgroup with all keys of the sequence. */
template <class T, bool ALIBI>
__device__ __forceinline__ void attend(const vnp_cuda_attention_args &p, const CUtensorMap *map,
                                       uint32_t base, place_in_ring *ring, int i) {
    int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5, c = 0;
    uint4 unit = unit_in(base, i);
    int len = static_cast<int>(unit.y), n = (len + 63) / 64;
    int mine = same(static_cast<int>(unit.z) + 16 * warp);
    uint64_t stages = operand(base + RING);
    place_in_ring at = *ring;
    scoring by = {p.scale * LOG2_E, ALIBI ? p.slopes[unit.w] * LOG2_E : 0.0f,
                  static_cast<float>(mine + (lane >> 2) - 2 * (lane & 3))};
    rows16<T, ALIBI> x;
    x.begin(rows_in(base, i));
    bar_wait(full(base, at.stage), at.phase);
    start_scores(T(), x.s, x.q, keys_in(stages, at.stage));
    matrix_wait(x.s, x.o, x.a);
#pragma unroll 1
    for (; c + 1 < n; c++) {
        place_in_ring next = at.further(1), ahead = at.further(AHEAD);
        if (mine < len) x.template weigh<true>(by, 64, c == 0);
        bar_wait(full(base, next.stage), next.phase);
        start_both(T(), x.s, x.q, keys_in(stages, next.stage), x.o, x.a,
                   values_in(stages, at.stage));
        if (threadIdx.x == 0) feed(p, map, base, ahead.stage, ahead.phase);
        __syncwarp();
        matrix_wait(x.s, x.o, x.a);
        leave(empty(base, at.stage));
        at = next;
        by.dist -= 64.0f;
    }
    place_in_ring ahead = at.further(AHEAD);
    clear_tail(base + RING + (2 * at.stage + 1) * CHUNK, len - 64 * c);
    if (mine < len) x.template weigh<false>(by, len - 64 * c, c == 0);
    group_meet();
    start_values(T(), x.o, x.a, values_in(stages, at.stage));
    if (threadIdx.x == 0) feed(p, map, base, ahead.stage, ahead.phase);
    __syncwarp();
    matrix_wait(x.s, x.o, x.a);
    leave(empty(base, at.stage));
    *ring = at.further(1);
    if (mine < len) {
        unit = unit_in(base, i);
        int start = static_cast<int>(unit.x);
        put_rows<T>(x.o, x.sum, rows_in(base, i), p,
                    result{start + mine, start, len - mine, unit.w});
    }
}
#endif

/* attention_long_sm90<T, ALIBI>  sequences of more than 192 tokens, no rotation
 * Math      out = softmax(scale q k^T - slope |i-j|) v; online softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, out [N][H*64] T or E4M3
 * Rounding  weights p = 2^(s - ref) to T, sums of them unrounded, o once to T; ref: see the file's
 *           head, moved by the row's own scores alone. Where one weight rules a row, it is not
 *           exactly 1 as with the true maximum, but off by a rounding to T
 * Traffic   8*N*D bytes, keys and values again from L2 for every 128 queries
 * Bound     64 x 64 scores: 256 cycles of the matrix units, and as many of the exponentials;
 *           measured: docs/kernels/attention-cuda.md
 * Launch    2 blocks of 2 warpgroups a multiprocessor, 128 registers a thread, no spills; 113 kB
 *           smem: queries of two units, a ring of 5 stages of 64 keys and values. One thread feeds
 *           the ring while the matrix unit is at work for its warp. The four warpgroups fall out of
 *           step: one's exponentials run beside another's products
 * Order     keys in steps of 64 from the sequence's own start: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <class T, bool ALIBI>
__global__ void __launch_bounds__(THREADS, 2)
    attention_long_sm90(const __grid_constant__ CUtensorMap map,
                        const __grid_constant__ vnp_cuda_attention_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char smem[];
    uint32_t base = smem_at(smem);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            bar_init(full(base, i), 1);
            bar_init(empty(base, i), THREADS / 32);
        }
        for (int i = 0; i < 2; i++) {
            bar_init(queries_full(base, i), 1);
            bar_init(queries_empty(base, i), THREADS / 32);
        }
        bars_show();
        shared_put(base + FEED, make_uint4(0, 0, 0, 0));
        fetch_tile(p, base, 0);
        for (int i = 0; i < AHEAD; i++) feed(p, &map, base, i, 0);
    }
    __syncthreads();
    place_in_ring at = {0, 0};
    for (int k = 0;; k++) {
        int i = k & 1;
        bar_wait(queries_full(base, i), k >> 1 & 1);
        uint4 unit = unit_in(base, i);
        int len = static_cast<int>(unit.y), q0 = static_cast<int>(unit.z);
        if (len == 0) break;
        if (q0 + 64 * same(static_cast<int>(threadIdx.x) >> 7) < len)
            attend<T, ALIBI>(p, &map, base, &at, i);
        else
            pass(base, &at, (len + 63) / 64);
        stores_show(); /* the rows of results, before queries are copied over them */
        __syncwarp();
        leave(queries_empty(base, i));
    }
#else
    (void)map, (void)p;
#endif
}

/* The columns of qkv in boxes of 64 rows x 64 columns. */
inline cudaError_t encode_qkv(const struct vnp_cuda_attention_args *p, CUtensorMap *map) {
    cuuint64_t dims[2] = {static_cast<cuuint64_t>(p->n_heads * 3 * 64),
                          static_cast<cuuint64_t>(p->n_rows)};
    cuuint64_t strides[1] = {static_cast<cuuint64_t>(p->ld_qkv) * 2};
    cuuint32_t box[2] = {64, 64};
    return encode(p->encode, map, p->dtype, p->qkv, 2, dims, strides, box,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
}

template <class T, bool ALIBI>
cudaError_t start(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    auto kernel = attention_long_sm90<T, ALIBI>;
    CUtensorMap map;
    cudaError_t e = encode_qkv(p, &map);
    if (e == cudaSuccess) e = allow_bytes(kernel, BYTES);
    if (e == cudaSuccess) /* both blocks of a multiprocessor */
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
    if (e != cudaSuccess) return e;
    kernel<<<n_blocks(p, 2), THREADS, BYTES, stream>>>(map, *p);
    return cudaGetLastError();
}

} // namespace

extern "C" cudaError_t vnp_cuda_attention_long_sm90(const struct vnp_cuda_attention_args *p,
                                                    cudaStream_t stream) {
    if (p->n_tiles == 0) return cudaSuccess;
    if (p->head_dim != 64 || p->rotary || !p->encode) return cudaErrorNotSupported;
    if (p->dtype == VNP_F16)
        return p->slopes ? start<tag_f16, true>(p, stream) : start<tag_f16, false>(p, stream);
    if (p->dtype == VNP_BF16)
        return p->slopes ? start<tag_bf16, true>(p, stream) : start<tag_bf16, false>(p, stream);
    return cudaErrorNotSupported;
}
