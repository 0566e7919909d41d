/* SPDX-License-Identifier: MIT
 * Attention of Hopper for heads of 64 columns and sequences of 65 to 192 tokens: worked on whole,
 * by the streams of a fixed grid. Where q and k come rotated, the copy engine fetches the next
 * sequences while the warpgroups, each at its own pace, take 64 queries with all keys at once: the
 * softmax needs neither steps nor rescaling. Where they do not, everything is fetched by
 * asynchronous copies and a thread rotates in place just the pieces that it copied itself. The
 * order of every sum is the sequence's. */
#include "cuda_attention_fetch.cuh"
#include "cuda_attention_scores.cuh"

namespace {

/* Shared memory of a whole sequence of up to 64 GROUPS tokens, worked on by as many warpgroups. */
template <int GROUPS> struct whole {
    static constexpr int STAGES = GROUPS == 3 ? 3 : 2, ROWS = 64 * GROUPS;
    static constexpr int PLANE = ROWS * ROW, STAGE = 3 * PLANE, RING = STAGES * STAGE;
    /* Behind the ring, for each stage, what it holds, its barriers, how many warps are done with
     * it; rotated beforehand only. */
    static constexpr int NOTES = RING, BARS = NOTES + 16 * STAGES, BYTES = BARS + 24 * STAGES;
    static constexpr int THREADS = 128 * GROUPS, BLOCKS = GROUPS == 3 ? 1 : 2;
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
__device__ __forceinline__ work work_of(const vnp_cuda_attention_args &p, unsigned t, unsigned h) {
    work w = {};
    if (t >= static_cast<unsigned>(p.n_tiles)) return w;
    const vnp_cuda_tile *tile = p.tiles + t;
    w.h = h;
    w.start = __ldg(&tile->seq_row[0]);
    w.len = __ldg(&tile->seq_len[0]);
    w.q0 = __ldg(&tile->q_row[0]) - w.start;
    return w;
}
__device__ __forceinline__ work work_at(const vnp_cuda_attention_args &p, unsigned unit) {
    unsigned n_heads = static_cast<unsigned>(p.n_heads);
    return work_of(p, unit / n_heads, unit % n_heads);
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

/* A warpgroup's 64 queries from q0 on with the keys of a stage, 64 at a time. */
template <int GROUPS, class T>
__device__ __forceinline__ void attend_steps(uint32_t stage, const vnp_cuda_attention_args &p,
                                             int start, int len, int q0, unsigned h) {
    int mine = q0 + 16 * ((threadIdx.x >> 5) & 3);
    uint32_t ks = stage + whole<GROUPS>::ROWS * ROW, vs = ks + whole<GROUPS>::ROWS * ROW;
    uint32_t a[4][4] = {};
    float unit = p.scale * LOG2_E;
    int k0 = 0;
    queries<T> x;
    x.begin(stage + mine * ROW, mine < len);
    start_scores(T(), x.s, x.q, operand(ks));
    matrix_wait(x.s, x.o, a);
    for (; k0 + 64 < len; k0 += 64) {
        if (mine < len) x.template weigh<true>(a, 64, unit);
        start_both(T(), x.s, x.q, operand(ks + (k0 + 64) * ROW), x.o, a, operand(vs + k0 * ROW));
        matrix_wait(x.s, x.o, a);
    }
    if (mine < len) x.template weigh<false>(a, len - k0, unit);
    start_values(T(), x.o, a, operand(vs + k0 * ROW));
    matrix_wait(x.s, x.o, a);
    if (mine < len)
        put_rows<T>(x.o, x.sum, stage + mine * ROW, p, result{start + mine, start, len - mine, h});
}
#endif

/* attention_whole_rotary<GROUPS, T>  the same where q and k are rotated here
 * Math      out = softmax(scale q k^T) v; online softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, out [N][H*64] T
 * Rounding  q and k to T after rotation, weights p = 2^(s - max) to T, o once to T
 * Traffic   8*N*D bytes, each once; a thread keeps its 32 numbers of the rotary table in registers:
 *           its rows stand at the same positions in every sequence; 4*n*D flop a token
 * Bound     115 us at 3.0 TB/s for N = 16896, D = 2560; measured: docs/kernels/attention-cuda.md
 * Launch    3 groups: a block of 384 threads a multiprocessor, 3 stages of 72 kB; 2 groups: one of
 *           256 threads, 2 stages of 48 kB. A (sequence, head) pair is worked on, 64 queries a
 *           warpgroup, while those after it are on their way
 * Order     keys in steps of 64 from the sequence's own start: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <int GROUPS, class T>
__global__ void __launch_bounds__(128 * GROUPS, 1)
    attention_whole_rotary(const __grid_constant__ vnp_cuda_attention_args p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int STEP = 32 * GROUPS, STAGES = whole<GROUPS>::STAGES;
    extern __shared__ __align__(1024) char smem[];
    uint32_t base = smem_at(smem);
    int u = static_cast<int>(threadIdx.x) & 3, row = piece_row();
    int q0 = 64 * same(static_cast<int>(threadIdx.x) >> 7), i = 0;
    turn8 turns[2] = {turn_at<32>(p.rotary, row, u), turn_at<32>(p.rotary, row + STEP, u)};
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
        for (int k = 0; k < 2; k++)
            if (row + STEP * k < len) {
                turn_piece<T>(stage, row + STEP * k, u, turns[k]);
                turn_piece<T>(stage + whole<GROUPS>::ROWS * ROW, row + STEP * k, u, turns[k]);
            }
        stores_show();
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
        if (q0 < len) attend_steps<GROUPS, T>(stage, p, start, len, q0, h);
    }
#else
    (void)p;
#endif
}

/* ---- rotated beforehand --------------------------------------------------------------------- */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Where a warp stands in the ring. */
template <int GROUPS> struct ring {
    uint32_t smem;
    int stage, phase;

    __device__ __forceinline__ uint32_t data() const { return smem + stage * whole<GROUPS>::STAGE; }
    __device__ __forceinline__ uint32_t note() const {
        return smem + whole<GROUPS>::NOTES + 16 * stage;
    }
    __device__ __forceinline__ uint32_t full() const {
        return smem + whole<GROUPS>::BARS + 24 * stage;
    }
    __device__ __forceinline__ uint32_t done() const { return full() + 8; }
    __device__ __forceinline__ uint32_t n_done() const { return full() + 16; }
    __device__ __forceinline__ void next() {
        if (++stage == whole<GROUPS>::STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* One thread: a (sequence, head) pair into a free stage, with a note of what it is; a note of no
 * tokens when there is none. */
template <int GROUPS>
__device__ __forceinline__ void fill(const ring<GROUPS> &r, const vnp_cuda_attention_args &p,
                                     const feed &f, const work &w) {
    constexpr int PLANE = whole<GROUPS>::PLANE;
    int n_heads = static_cast<int>(p.n_heads), h = static_cast<int>(w.h);
    shared_put(r.note(),
               make_uint4(static_cast<uint32_t>(w.start), static_cast<uint32_t>(w.len), w.h, 0));
    bar_expect(r.full(), 3 * ((w.len + 7) & ~7) * ROW);
    if (w.len == 0) return;
    const CUtensorMap *map = &f.box[(w.len - 1) / 8 - 8 * (GROUPS - 1)];
    fetch_rows(r.data(), map, r.full(), h, w.start);
    fetch_rows(r.data() + PLANE, map, r.full(), n_heads + h, w.start);
    fetch_rows(r.data() + 2 * PLANE, map, r.full(), 2 * n_heads + h, w.start);
}

/* A warpgroup's zeros for the values from the sequence's end to the next multiple of 16 keys: their
 * weights are zero, but what stands there is another sequence's. Every group writes them, so none
 * waits for another. */
__device__ __forceinline__ void zero_tail(uint32_t values, int len, int group) {
    int n = (-len & 15) * (ROW / 16), i = static_cast<int>(threadIdx.x) & 127;
    if (n == 0) return;
    if (i < n) shared_put(values + len * ROW + 16 * i, make_uint4(0, 0, 0, 0));
    stores_show();
    if (group == 0)
        asm volatile("bar.sync 1, 128;" ::: "memory");
    else if (group == 1)
        asm volatile("bar.sync 2, 128;" ::: "memory");
    else
        asm volatile("bar.sync 3, 128;" ::: "memory");
}

/* A warpgroup's 64 queries with the N - 15 .. N keys of a stage; o / sum. */
template <int N, int GROUPS, class T, bool ALIBI>
__device__ __forceinline__ void attend_whole(float (&o)[8][4], float (&sum)[2], uint32_t stage,
                                             int len, int group, int mine, float unit, float bend) {
    constexpr int PLANE = whole<GROUPS>::PLANE;
    int lane = static_cast<int>(threadIdx.x) & 31;
    uint32_t q = operand_low(stage + 64 * group * ROW), k = operand_low(stage + PLANE);
    uint32_t v = operand_low(stage + 2 * PLANE), a[N / 16][4];
    float s[N / 8][4];
    matrix_fence();
#pragma unroll
    for (int c = 0; c < 4; c++)
        add_keys(T(), s, operand_of(q + 2 * c), operand_of(k + 2 * c), c > 0);
    matrix_close();
    zero_tail(stage + 2 * PLANE, len, group);
    sums_wait(s);
    /* a warp beyond the sequence's end does this too: a branch around it costs registers */
    soften_all<N, T, ALIBI>(s, a, sum, len, unit, bend,
                            static_cast<float>(mine + (lane >> 2) - 2 * (lane & 3)));
    matrix_fence();
#pragma unroll
    for (int c = 0; c < N / 16; c++) add_values(T(), o, a[c], operand_of(v + 128 * c), c > 0);
    matrix_close();
    sums_wait(o);
}

/* A warpgroup's share of what comes into the ring. The last warp that is done with a stage has it
 * filled again. */
template <int GROUPS, class T, bool ALIBI>
__device__ __forceinline__ void attend_all(ring<GROUPS> r, const vnp_cuda_attention_args &p,
                                           const feed &f) {
    constexpr int FROM = 64 * (GROUPS - 1);
    int group = same(static_cast<int>(threadIdx.x) >> 7);
    int mine = same(16 * static_cast<int>(threadIdx.x >> 5)); /* the warp's first query */
    unsigned n_heads = static_cast<unsigned>(p.n_heads);
    unsigned first = blockIdx.x + whole<GROUPS>::STAGES * gridDim.x;
    unsigned tile = first / n_heads, head = first % n_heads; /* what the stage will hold next */
    float unit = p.scale * LOG2_E, per_scale = 1.0f / p.scale;
    for (;; r.next()) {
        bar_wait(r.full(), r.phase);
        uint4 note = shared_get_by_one(r.note());
        int start = static_cast<int>(note.x), len = static_cast<int>(note.y);
        unsigned h = note.z;
        uint32_t stage = same(r.data());
        if (len == 0) break;
        work after = {}; /* of one lane, so that nobody waits for it */
        if ((threadIdx.x & 31) == 0) after = work_of(p, tile, head);
        tile += f.n_tiles;
        head += f.n_heads;
        if (head >= n_heads) {
            head -= n_heads;
            tile++;
        }
        float o[8][4], sum[2], bend = ALIBI ? p.slopes[h] * per_scale : 0.0f;
        if (len <= FROM + 16)
            attend_whole<FROM + 16, GROUPS, T, ALIBI>(o, sum, stage, len, group, mine, unit, bend);
        else if (len <= FROM + 32)
            attend_whole<FROM + 32, GROUPS, T, ALIBI>(o, sum, stage, len, group, mine, unit, bend);
        else if (len <= FROM + 48)
            attend_whole<FROM + 48, GROUPS, T, ALIBI>(o, sum, stage, len, group, mine, unit, bend);
        else
            attend_whole<FROM + 64, GROUPS, T, ALIBI>(o, sum, stage, len, group, mine, unit, bend);
        result to = {start + mine, start, len - mine, h};
        results out;
        if (mine < len) collect_rows<T>(o, sum, stage + mine * ROW, p, to, &out);
        stores_show(); /* zeros and results, before the copy engine writes there */
        __syncwarp();
        if ((threadIdx.x & 31) == 0 && is_last(r.done(), r.n_done(), 4 * GROUPS)) {
            bar_wait(r.done(), r.phase);
            fill(r, p, f, after);
        }
        __syncwarp();
        store_rows(p, to, out);
    }
}
#endif

/* attention_whole<GROUPS, T, ALIBI>  sequences of 65 to 128 (2 groups) or 192 tokens (3)
 * Math      out = softmax(scale q k^T - slope |i-j|) v; softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, q and k rotated if they are to be; out [N][H*64] T
 * Rounding  weights p = 2^(s - max) to T, o once to T
 * Traffic   8*N*D bytes, each once, and at most 7 rows of the next sequence; 4*n*D flop a token
 * Bound     115 us at 3.0 TB/s for N = 16896, D = 2560; measured: docs/kernels/attention-cuda.md
 * Launch    3 groups: a block of 3 warpgroups a multiprocessor, 3 stages of 72 kB; 2 groups: two
 *           blocks of 2, 2 stages of 48 kB each. A stage is a (sequence, head) pair; a warpgroup
 *           waits for nothing but its coming
 * Order     keys from the sequence's own start, the instruction by the sequence's length:
 *           bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <int GROUPS, class T, bool ALIBI>
__global__ void __launch_bounds__(whole<GROUPS>::THREADS, whole<GROUPS>::BLOCKS)
    attention_whole(const __grid_constant__ vnp_cuda_attention_args p,
                    const __grid_constant__ feed f) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char smem[];
    ring<GROUPS> r = {smem_at(smem), 0, 0};
    if (threadIdx.x == 0) {
        for (ring<GROUPS> i = r; i.phase == 0; i.next()) {
            bar_init(i.full(), 1);
            bar_init(i.done(), 4 * GROUPS);
            count_init(i.n_done());
        }
        bars_show();
    }
    __syncthreads();
    unsigned unit = blockIdx.x;
    for (ring<GROUPS> i = r; i.phase == 0; i.next(), unit += gridDim.x) /* a stage a warp */
        if (static_cast<int>(threadIdx.x) == 32 * i.stage) fill(i, p, f, work_at(p, unit));
    __syncwarp();
    attend_all<GROUPS, T, ALIBI>(r, p, f);
#else
    (void)p, (void)f;
#endif
}

/* ---- launch --------------------------------------------------------------------------------- */

template <int GROUPS, class T>
cudaError_t start_rotary(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    constexpr int BYTES = whole<GROUPS>::RING;
    cudaError_t e = allow_bytes(attention_whole_rotary<GROUPS, T>, BYTES);
    if (e != cudaSuccess) return e;
    attention_whole_rotary<GROUPS, T><<<n_blocks(p, 1), 128 * GROUPS, BYTES, stream>>>(*p);
    return cudaGetLastError();
}

template <int GROUPS, class T, bool ALIBI>
cudaError_t start(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    using shape = whole<GROUPS>;
    unsigned n = n_blocks(p, shape::BLOCKS);
    feed f;
    cudaError_t e = make_feed(p, 64 * (GROUPS - 1), n, &f);
    if (e == cudaSuccess) e = allow_bytes(attention_whole<GROUPS, T, ALIBI>, shape::BYTES);
    if (e != cudaSuccess) return e;
    attention_whole<GROUPS, T, ALIBI><<<n, shape::THREADS, shape::BYTES, stream>>>(*p, f);
    return cudaGetLastError();
}

template <int GROUPS, class T>
cudaError_t pick(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    if (p->rotary) return start_rotary<GROUPS, T>(p, stream);
    if (p->slopes) return start<GROUPS, T, true>(p, stream);
    return start<GROUPS, T, false>(p, stream);
}

} // namespace

extern "C" cudaError_t vnp_cuda_attention_whole(const struct vnp_cuda_attention_args *p,
                                                enum vnp_cuda_tile_kind kind, cudaStream_t stream) {
    bool is_128 = kind == VNP_CUDA_WHOLE_128;
    if (p->n_tiles == 0) return cudaSuccess;
    if (p->head_dim != 64 || (p->rotary && p->slopes)) return cudaErrorNotSupported;
    if (p->dtype == VNP_F16)
        return is_128 ? pick<2, tag_f16>(p, stream) : pick<3, tag_f16>(p, stream);
    if (p->dtype == VNP_BF16)
        return is_128 ? pick<2, tag_bf16>(p, stream) : pick<3, tag_bf16>(p, stream);
    return cudaErrorNotSupported;
}
