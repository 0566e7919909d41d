/* SPDX-License-Identifier: MIT
 * Attention for heads of 64 columns and sequences of at most 64 tokens, which share tiles of 64
 * rows. That is all memory traffic, so the kernels are built as streams: a fixed grid, every block
 * goes through its share of (tile, head) pairs, and while it works on some the rows of the next
 * are on their way to its shared memory. Blocks side by side work on heads side by side: what is
 * fetched at one time lies together in memory. Where rows are rotated here, and before Hopper, they
 * come by asynchronous copies and a thread rotates in place just the pieces that it copied itself;
 * otherwise by the copy engine, and no warp waits for another. Every warp multiplies only the keys
 * of its own sequence, grouped from the sequence's own first token, so the order of every sum is
 * the sequence's. */
#include "cuda_attention_fetch.cuh"

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
    put_rows<T>(o, sum, rows, p, result{s.row, s.seq, s.seq + s.len - s.row, h});
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

/* ---- Hopper, rotated beforehand -------------------------------------------------------------- */

/* A ring of stages for four teams of four warps, who take its pairs in turn. A stage is always the
 * same team's: of a barrier's phases one can wait for the next, not for the one after. Behind the
 * ring notes of what a stage holds, a share for each warp; its barriers; how many warps are done
 * with it. */
constexpr int TEAMS = 4, RING = 2 * TEAMS;
constexpr int NOTES = RING * STAGE, BARS = NOTES + 64 * RING, RING_BYTES = BARS + 24 * RING;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
struct place_in_ring {
    uint32_t smem;
    int stage, phase;

    __device__ __forceinline__ uint32_t data() const { return smem + stage * STAGE; }
    __device__ __forceinline__ uint32_t note() const { return smem + NOTES + 64 * stage; }
    __device__ __forceinline__ uint32_t full() const { return smem + BARS + 24 * stage; }
    __device__ __forceinline__ uint32_t done() const { return full() + 8; }
    __device__ __forceinline__ uint32_t n_done() const { return full() + 16; }
    __device__ __forceinline__ void next(int n) {
        stage += n;
        if (stage >= RING) {
            stage -= RING;
            phase ^= 1;
        }
    }
};

/* A lane's share of a tile, lanes 0 to 3 that of a warp each; -1 tokens beyond the last tile. */
__device__ __forceinline__ share share_ahead(const vnp_cuda_attention_args &p, unsigned tile) {
    share s = {0, 0, -1};
    int lane = static_cast<int>(threadIdx.x) & 31;
    if (lane < TEAMS && tile < static_cast<unsigned>(p.n_tiles)) s = share_of(p.tiles + tile, lane);
    return s;
}

/* A warp, of which four lanes act: a (tile, head) pair into a free stage, each sequence by boxes of
 * its own, and what each warp has to do. */
__device__ __forceinline__ void fill(const place_in_ring &r, const vnp_cuda_attention_args &p,
                                     const feed &f, const share &s, unsigned head) {
    int lane = static_cast<int>(threadIdx.x) & 31;
    int n_heads = static_cast<int>(p.n_heads), h = static_cast<int>(head);
    if (lane >= 4) return;
    shared_put(r.note() + 16 * lane,
               make_uint4(static_cast<uint32_t>(s.row), static_cast<uint32_t>(s.seq),
                          static_cast<uint32_t>(s.len), head));
    bool is_first = s.len > 0 && s.row == s.seq;
    bar_expect(r.full(), is_first ? 3 * ((s.len + 7) & ~7) * ROW : 0);
    if (!is_first) return;
    const CUtensorMap *map = &f.box[(s.len - 1) / 8];
    uint32_t to = r.data() + 16 * lane * ROW;
    fetch_rows(to, map, r.full(), h, s.row);
    fetch_rows(to + ROWS * ROW, map, r.full(), n_heads + h, s.row);
    fetch_rows(to + 2 * ROWS * ROW, map, r.full(), 2 * n_heads + h, s.row);
}

/* Of two 16-bit numbers side by side, the first at column i: those beyond n become zeros. */
__device__ __forceinline__ uint32_t mask_of(int i, int n) {
    return i + 1 < n ? 0xffffffffu : i < n ? 0xffffu : 0u;
}

/* The sums of a warp's 16 rows with the 16 N keys from `keys` on, of which the last 16 may end
 * earlier: there stands another sequence's, whose values become zeros in the registers. */
template <int N, class T, bool ALIBI>
__device__ __forceinline__ void attend_groups(float (&o)[8][4], float (&sum)[2], uint32_t rows,
                                              uint32_t keys, int len, float unit, float bend,
                                              float dist) {
    int lane = static_cast<int>(threadIdx.x) & 31, key = 16 * (N - 1) + 2 * (lane & 3);
    uint32_t values = keys + ROWS * ROW, a[N][4], b[4];
    float s[2 * N][4];
    rows += place<64>(lane & 15, lane >> 4);
    keys += place<64>((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
    values += place<64>(lane & 15, lane >> 4);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t q[4];
        ldmatrix4(rows ^ (k << 5), q);
#pragma unroll
        for (int c = 0; c < N; c++) {
            ldmatrix4((keys ^ (k << 5)) + 16 * c * ROW, b);
            if (k == 0) {
                mma_first(T(), s[2 * c], q, b[0], b[1]);
                mma_first(T(), s[2 * c + 1], q, b[2], b[3]);
            } else {
                mma(T(), s[2 * c], q, b[0], b[1]);
                mma(T(), s[2 * c + 1], q, b[2], b[3]);
            }
        }
    }
    soften_all<16 * N, T, ALIBI>(s, a, sum, len, unit, bend, dist);
    uint32_t mask[2] = {mask_of(key, len), mask_of(key + 8, len)};
#pragma unroll
    for (int c = 0; c < N; c++)
#pragma unroll
        for (int d = 0; d < 4; d++) {
            ldmatrix4_turned((values ^ (d << 5)) + 16 * c * ROW, b);
            if (c == N - 1) {
#pragma unroll
                for (int i = 0; i < 4; i++) b[i] &= mask[i & 1];
            }
            if (c == 0) {
                mma_first(T(), o[2 * d], a[c], b[0], b[1]);
                mma_first(T(), o[2 * d + 1], a[c], b[2], b[3]);
            } else {
                mma(T(), o[2 * d], a[c], b[0], b[1]);
                mma(T(), o[2 * d + 1], a[c], b[2], b[3]);
            }
        }
}

/* A warp's share of a pair, from its stage to what its threads will write. */
template <class T, bool ALIBI>
__device__ __forceinline__ void attend_share(uint32_t stage, const vnp_cuda_attention_args &p,
                                             const share &s, unsigned h, int warp, float unit,
                                             float bend, results *out) {
    int lane = static_cast<int>(threadIdx.x) & 31;
    int first = s.row - s.seq; /* query */
    uint32_t rows = stage + 16 * warp * ROW, keys = stage + (ROWS + 16 * warp - first) * ROW;
    float o[8][4], sum[2], dist = static_cast<float>(first + (lane >> 2) - 2 * (lane & 3));
    if (s.len > 48)
        attend_groups<4, T, ALIBI>(o, sum, rows, keys, s.len, unit, bend, dist);
    else if (s.len > 32)
        attend_groups<3, T, ALIBI>(o, sum, rows, keys, s.len, unit, bend, dist);
    else if (s.len > 16)
        attend_groups<2, T, ALIBI>(o, sum, rows, keys, s.len, unit, bend, dist);
    else
        attend_groups<1, T, ALIBI>(o, sum, rows, keys, s.len, unit, bend, dist);
    collect_rows<T>(o, sum, rows, p, result{s.row, s.seq, s.seq + s.len - s.row, h}, out);
}
#endif

/* attention_short_ring<T, ALIBI>  sequences of at most 64 tokens
 * Math      out = softmax(scale q k^T - slope |i-j|) v; softmax in FP32, exp as 2^x
 * Shapes    qkv [N][3][H][64] T, q and k rotated if they are to be; out [N][H*64] T
 * Rounding  weights p = 2^(s - max) to T, o once to T
 * Traffic   8*N*D bytes, each once, and at most 7 rows beyond a sequence's end
 * Bound     115 us at 3.0 TB/s for N = 16896, D = 2560; measured: docs/kernels/attention-cuda.md
 * Launch    a block of 16 warps a multiprocessor, 8 stages of 24 kB. A team of four warps has a
 *           pair; the last warp that is done with a stage has it filled again
 * Order     keys from the sequence's own start, one step: bit-identical for any neighbours
 * Ref       vnp_ref attention     Tried  docs/kernels/attention-cuda.md
 */
template <class T, bool ALIBI>
__global__ void __launch_bounds__(128 * TEAMS, 1)
    attention_short_ring(const __grid_constant__ vnp_cuda_attention_args p,
                         const __grid_constant__ feed f) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) char smem[];
    int lane = static_cast<int>(threadIdx.x) & 31;
    int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) >> 5, 0); /* so nvcc knows */
    unsigned n_heads = static_cast<unsigned>(p.n_heads);
    place_in_ring r = {smem_at(smem), 0, 0};
    if (threadIdx.x == 0) {
        for (place_in_ring i = r; i.phase == 0; i.next(1)) {
            bar_init(i.full(), 4);
            bar_init(i.done(), 4);
            count_init(i.n_done());
        }
        bars_show();
    }
    __syncthreads();
    r.stage = warp / 4;
    unsigned unit = blockIdx.x + static_cast<unsigned>(warp / 4) * gridDim.x;
    for (place_in_ring i = r; i.phase == 0; i.next(TEAMS), unit += TEAMS * gridDim.x)
        if (warp % 4 == 0) fill(i, p, f, share_ahead(p, unit / n_heads), unit % n_heads);
    __syncwarp();
    unsigned tile = unit / n_heads, head = unit % n_heads; /* what the stage will hold next */
    float per_scale = 1.0f / p.scale, to_log2 = p.scale * LOG2_E;
    for (;; r.next(TEAMS)) {
        bar_wait(r.full(), r.phase);
        uint4 note = shared_get_by_one(r.note() + 16 * (warp & 3));
        share s = {static_cast<int>(note.x), static_cast<int>(note.y), static_cast<int>(note.z)};
        if (s.len < 0) break;
        share after = share_ahead(p, tile);
        unsigned next_head = head;
        tile += f.n_tiles;
        head += f.n_heads;
        if (head >= n_heads) {
            head -= n_heads;
            tile++;
        }
        results out;
        if (s.len > 0)
            attend_share<T, ALIBI>(r.data(), p, s, note.w, warp & 3, to_log2,
                                   ALIBI ? p.slopes[note.w] * per_scale : 0.0f, &out);
        stores_show(); /* results, before the copy engine writes there */
        __syncwarp();
        bool has_all = lane == 0 && is_last(r.done(), r.n_done(), 4);
        if (__any_sync(0xffffffffu, has_all)) {
            bar_wait(r.done(), r.phase);
            fill(r, p, f, after, next_head);
            __syncwarp();
        }
        if (s.len > 0) store_rows(p, result{s.row, s.seq, s.seq + s.len - s.row, note.w}, out);
    }
#else
    (void)p, (void)f;
#endif
}

/* ---- launch --------------------------------------------------------------------------------- */

template <class T, bool ROTARY, bool ALIBI>
cudaError_t start(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    cudaError_t e = allow_bytes(attention_short<T, ROTARY, ALIBI>, STAGES * STAGE);
    if (e != cudaSuccess) return e;
    attention_short<T, ROTARY, ALIBI><<<n_blocks(p, BLOCKS), 128, STAGES * STAGE, stream>>>(*p);
    return cudaGetLastError();
}

template <class T, bool ALIBI>
cudaError_t start_ring(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    unsigned n = n_blocks(p, 1);
    feed f;
    cudaError_t e = make_feed(p, 0, TEAMS * n, &f);
    if (e == cudaSuccess) e = allow_bytes(attention_short_ring<T, ALIBI>, RING_BYTES);
    if (e != cudaSuccess) return e;
    attention_short_ring<T, ALIBI><<<n, 128 * TEAMS, RING_BYTES, stream>>>(*p, f);
    return cudaGetLastError();
}

template <class T> cudaError_t pick(const struct vnp_cuda_attention_args *p, cudaStream_t stream) {
    if (p->rotary) return start<T, true, false>(p, stream);
    if (p->has_wgmma)
        return p->slopes ? start_ring<T, true>(p, stream) : start_ring<T, false>(p, stream);
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
