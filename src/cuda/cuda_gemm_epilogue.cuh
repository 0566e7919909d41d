/* SPDX-License-Identifier: MIT
 * The epilogues of cuda_gemm_sm90.cuh, which includes this in its middle: a tile's sums from a
 * warpgroup's registers to memory. */
#ifndef VNP_CUDA_GEMM_EPILOGUE_CUH
#define VNP_CUDA_GEMM_EPILOGUE_CUH

namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

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

template <int OUT> __device__ __forceinline__ uint4 pack8(const float (&y)[8]) {
    return make_uint4(pack2<OUT>(y[0], y[1]), pack2<OUT>(y[2], y[3]), pack2<OUT>(y[4], y[5]),
                      pack2<OUT>(y[6], y[7]));
}

/* A lane's FP32 or 16-bit results side by side, aligned to their size. */
template <int OUT, int N>
__device__ __forceinline__ void store_span(void *out, int64_t at, const float (&y)[N]) {
    if constexpr (OUT == OUT_F32)
        *reinterpret_cast<float4 *>(static_cast<float *>(out) + at) =
            make_float4(y[0], y[1], y[2], y[3]);
    else
        *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(out) + at) = pack8<OUT>(y);
}

/* One result, where a row's end cuts a span. */
template <int OUT> __device__ __forceinline__ void store_one(void *out, int64_t at, float y) {
    if (OUT == OUT_F32)
        static_cast<float *>(out)[at] = y;
    else
        static_cast<uint16_t *>(out)[at] = static_cast<uint16_t>(pack2<OUT>(y, 0.0f));
}

/* Where a warpgroup writes: its thread's row (and the row 8 below), the tile's first column. */
struct place {
    int row, col0;
};

template <int N> __device__ __forceinline__ void wait_boxes() {
    if ((threadIdx.x & 31) == 0)
        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
    __syncwarp();
}
/* Where a warp's boxes begin. */
template <class IN, int EPI> __device__ __forceinline__ uint32_t boxes_at(const ring &r) {
    using lay = layout<IN, EPI>;
    return r.smem + lay::BOXES + ((threadIdx.x >> 5) - 4) * (lay::N_BOXES * lay::BOX);
}
__device__ __forceinline__ void add_box(const CUtensorMap *map, uint32_t box, int col, int row) {
    stores_show();
    __syncwarp();
    if ((threadIdx.x & 31) == 0)
        asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group"
                     " [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;" ::"l"(map),
                     "r"(box), "r"(col), "r"(row)
                     : "memory");
}
__device__ __forceinline__ void store_shared4(uint32_t at, const float (&y)[4]) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(y[0]), "f"(y[1]),
                 "f"(y[2]), "f"(y[3])
                 : "memory");
}

/* A warp's boxes of results, 16 rows x 128 bytes; from them the copy engine clips what lies
 * outside. */
template <class IN, int EPI, int OUT> struct boxes_of {
    using lay = layout<IN, EPI>;
    static constexpr int A_BOX = staged<IN, EPI, OUT>::A_BOX;
    uint32_t at, line, q;

    __device__ __forceinline__ explicit boxes_of(const ring &r)
        : at(boxes_at<IN, EPI>(r)), line((threadIdx.x & 31) >> 2), q(threadIdx.x & 3) {}
    /* Eight columns of row line + 8 i, in block g of 32. */
    __device__ __forceinline__ void put(int g, int i, const float (&y)[8], float inv) const {
        uint32_t row = at + g / A_BOX * lay::BOX + (line + 8 * i) * 128;
        if (OUT == OUT_E4M3) {
            uint32_t to = row + (((g % 4 * 2 + (q >> 1)) ^ line) << 4) + (q & 1) * 8, v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = pack2_e4m3(y[2 * k] * inv, y[2 * k + 1] * inv);
            asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(v[0] | v[1] << 16),
                         "r"(v[2] | v[3] << 16)
                         : "memory");
        } else {
            uint4 v = pack8<OUT>(y);
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(
                             row + (((g % 2 * 4 + q) ^ line) << 4)),
                         "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                         : "memory");
        }
    }
    /* Block g has been put: where its box is whole, that goes to the result's column col + .. */
    __device__ __forceinline__ void send(const CUtensorMap *map, const place &p, int g,
                                         int col) const {
        if (g % A_BOX != A_BOX - 1) return;
        stores_show();
        __syncwarp();
        if ((threadIdx.x & 31) == 0)
            asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group"
                         " [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;" ::"l"(map),
                         "r"(at + g / A_BOX * lay::BOX), "r"(col + g / A_BOX * A_BOX * 32),
                         "r"(p.row - static_cast<int>(line))
                         : "memory");
    }
};

/* The COLS results of a thread's row i (0, or 1: the row 8 below) in group g of weight rows. */
template <class IN, int EPI, int OUT>
__device__ __forceinline__ void span_of(const float (&acc)[128], const row_pair &rows, int g, int i,
                                        const float (&bias)[deal_of<EPI, OUT>::SPAN],
                                        const float (&scale)[deal_of<EPI, OUT>::SPAN],
                                        float (&y)[deal_of<EPI, OUT>::COLS]) {
    using deal = deal_of<EPI, OUT>;
    constexpr int SPAN = deal::SPAN, COLS = deal::COLS;
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
}
/* Those of one column a weight row, to memory. */
template <int EPI, int OUT, bool IS_CUT>
__device__ __forceinline__ void write_span(const gemm_consts &c, const place &p, int g, int i,
                                           const float (&y)[deal_of<EPI, OUT>::COLS]) {
    using deal = deal_of<EPI, OUT>;
    constexpr int COLS = deal::COLS;
    int at = p.col0 + deal::ROWS * g + deal::SPAN * (static_cast<int>(threadIdx.x) & 3);
    int row = p.row + 8 * i;
    int64_t to = row * c.ld_out + at;
    if (IS_CUT) {
#pragma unroll
        for (int x = 0; x < COLS; x++)
            if (row < c.m && at + x < c.n) store_one<OUT>(c.out, to + x, y[x]);
    } else if (row < c.m && at < c.n) {
        store_span<OUT, COLS>(c.out, to, y);
    }
}

/* A warpgroup's part of a tile, from its registers to memory. */
template <class IN, int EPI, int OUT, bool IS_CUT>
__device__ __forceinline__ void write_tile(const float (&acc)[128], const gemm_consts &c,
                                           const CUtensorMap *map, const place &p,
                                           const row_pair &rows, const ring &r) {
    using deal = deal_of<EPI, OUT>;
    constexpr int SPAN = deal::SPAN, N_STAGED = staged<IN, EPI, OUT>::N;
    boxes_of<IN, EPI, OUT> boxes(r);
    if (N_STAGED > 0) wait_boxes<0>();
    uint32_t q = threadIdx.x & 3, consts = r.smem + layout<IN, EPI>::CONSTS + q * SPAN * 4;
#pragma unroll
    for (int g = 0; g < TILE_N / deal::ROWS; g++) {
        float bias[SPAN] = {}, scale[SPAN] = {};
        if (c.bias) load_span<SPAN>(consts + g * deal::ROWS * 4, bias);
        if (IN::HAS_SCALE) load_span<SPAN>(consts + CONST_BYTES + g * deal::ROWS * 4, scale);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float y[deal::COLS];
            span_of<IN, EPI, OUT>(acc, rows, g, i, bias, scale, y);
            if constexpr (N_STAGED > 0) {
                if (g < N_STAGED) {
                    boxes.put(g, i, y, rows.inv[i]);
                    continue;
                }
            }
            if constexpr (!staged<IN, EPI, OUT>::IS_ALL)
                write_span<EPI, OUT, IS_CUT>(c, p, g, i, y);
        }
        if (g < N_STAGED) boxes.send(map, p, g, p.col0 * deal::COLS / SPAN);
    }
}

/* ADD: results through a warp's own boxes; the copy engine adds them in the L2, one addition an
 * element, and clips what lies outside. */
template <class IN, int EPI>
__device__ __forceinline__ void add_tile(const float (&acc)[128], const gemm_consts &c,
                                         const CUtensorMap *map, const place &p,
                                         const row_pair &rows, const ring &r) {
    using lay = layout<IN, EPI>;
    uint32_t lane = threadIdx.x & 31, q = lane & 3, line = lane >> 2;
    uint32_t consts = r.smem + lay::CONSTS + q * 16;
    uint32_t boxes = boxes_at<IN, EPI>(r);
#pragma unroll
    for (int k = 0; k < TILE_N / lay::BOX_COLS; k++) {
        float y[2][2][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int g = 2 * k + h;
            float bias[4] = {}, scale[4] = {};
            if (c.bias) load_span<4>(consts + g * 64, bias);
            if (IN::HAS_SCALE) load_span<4>(consts + CONST_BYTES + g * 64, scale);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int x = 0; x < 4; x++)
                    y[i][h][x] = finish<IN>(acc[4 * (2 * g + x / 2) + 2 * i + x % 2], bias[x],
                                            scale[x], rows, i);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t box = boxes + (2 * k + i) % lay::N_BOXES * lay::BOX;
            wait_boxes<lay::N_BOXES - 1>();
#pragma unroll
            for (int h = 0; h < 2; h++)
                store_shared4(box + line * 128 + (((4 * h + q) ^ line) << 4), y[i][h]);
            add_box(map, box, p.col0 + k * lay::BOX_COLS, p.row - static_cast<int>(line) + 8 * i);
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

/* ---- QKV: q and k rotated before they are rounded, the largest |v| of every sequence ----------
 */

/* A thread's two rows: their sequences' first tokens, {cos, sin} of its eight frequencies. */
struct turns {
    int start[2];
    float4 of[2][4];
};
__device__ __forceinline__ turns read_turns(const gemm_consts &c, const place &p) {
    turns t = {};
    int q = static_cast<int>(threadIdx.x) & 3, eights = c.half / 8, u = q & (eights - 1);
    bool has_turn = p.col0 < c.n_rotated;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int row = min(p.row + 8 * i, c.m - 1);
        t.start[i] = __ldg(c.row_start + row);
        const float4 *at = reinterpret_cast<const float4 *>(
                               c.rotary + static_cast<int64_t>(row - t.start[i]) * c.half) +
                           u;
#pragma unroll
        for (int e = 0; has_turn && e < 4; e++) t.of[i][e] = __ldg(at + e * eights);
    }
    return t;
}
/* y: a thread's columns 8q .. of a block of 64 and those 32 further, col the block's first:
 * (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) by heads of 2 half. The partner of a column is the
 * thread's own in heads of 64, a neighbour's in its quad in others. */
template <bool IS_64>
__device__ __forceinline__ void rotate(float (&y)[2][8], const gemm_consts &c, const float4 (&t)[4],
                                       int col) {
    int q = static_cast<int>(threadIdx.x) & 3;
#pragma unroll
    for (int x = 0; x < 8; x++) {
        float cos = x % 2 ? t[x / 2].z : t[x / 2].x, sin = x % 2 ? t[x / 2].w : t[x / 2].y;
        float lo = y[0][x], hi = y[1][x];
        if (IS_64) {
            y[0][x] = turned(lo, -hi, cos, sin);
            y[1][x] = turned(hi, lo, cos, sin);
        } else {
            int away = c.half / 8; /* lanes */
            float to_lo = __shfl_xor_sync(0xffffffffu, lo, away);
            float to_hi = __shfl_xor_sync(0xffffffffu, hi, away);
            float s = q & away ? sin : -sin;
            if (col + 8 * q < c.n_rotated) y[0][x] = turned(lo, to_lo, cos, s);
            if (col + 32 + 8 * q < c.n_rotated) y[1][x] = turned(hi, to_hi, cos, s);
        }
    }
}
/* The largest of a row's values so far, by the sequence; what FP16 cannot hold counts as infinite.
 * A NaN is not seen here and need not be: it stays one in attention. */
__device__ __forceinline__ void note_top(const gemm_consts &c, const turns &t, const place &p,
                                         float (&top)[2]) {
    bool is_one = true;
    int start = __shfl_sync(0xffffffffu, t.start[0], 0);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (exceeds_f16(top[i])) top[i] = INFINITY;
        if (p.row + 8 * i >= c.m) top[i] = 0.0f;
        is_one &= t.start[i] == start;
    }
    if (__all_sync(0xffffffffu, is_one)) {
        note_warp_top(c.v_top, start, fmaxf(top[0], top[1]), threadIdx.x & 31);
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int m = __float_as_int(top[i]);
        m = max(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = max(m, __shfl_xor_sync(0xffffffffu, m, 2));
        if ((threadIdx.x & 3) == 0) atomicMax(reinterpret_cast<int *>(c.v_top) + t.start[i], m);
    }
}

template <class IN, int EPI, int OUT>
__device__ __forceinline__ void write_qkv(const float (&acc)[128], const gemm_consts &c,
                                          const CUtensorMap *map, const place &p,
                                          const row_pair &rows, const turns &t, const ring &r) {
    constexpr int N_STAGED = staged<IN, EPI, OUT>::N;
    boxes_of<IN, EPI, OUT> boxes(r);
    if (N_STAGED > 0) wait_boxes<0>();
    int q = static_cast<int>(threadIdx.x) & 3;
    uint32_t consts = r.smem + layout<IN, EPI>::CONSTS + q * 32;
    float top[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < TILE_N / 64; j++) {
        int col = p.col0 + 64 * j;
        float bias[2][8] = {}, scale[2][8] = {};
#pragma unroll
        for (int g = 0; g < 2; g++) {
            if (c.bias) load_span<8>(consts + (2 * j + g) * 128, bias[g]);
            if (IN::HAS_SCALE) load_span<8>(consts + CONST_BYTES + (2 * j + g) * 128, scale[g]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float y[2][8];
#pragma unroll
            for (int g = 0; g < 2; g++)
#pragma unroll
                for (int x = 0; x < 8; x++)
                    y[g][x] = finish<IN>(acc[4 * (8 * j + 4 * g + x / 2) + 2 * i + x % 2],
                                         bias[g][x], scale[g][x], rows, i);
            if (col < c.n_rotated) rotate<EPI == EPI_QKV_64>(y, c, t.of[i], col);
#pragma unroll
            for (int g = 0; g < 2; g++) {
                int at = col + 32 * g + 8 * q, row = p.row + 8 * i;
                if (IN::HAS_SCALE && c.v_top && col >= c.value_col && at < c.n) {
#pragma unroll
                    for (int x = 0; x < 8; x++) top[i] = fmaxf(top[i], fabsf(y[g][x]));
                }
                if (2 * j < N_STAGED)
                    boxes.put(2 * j + g, i, y[g], 1.0f);
                else if (row < c.m && at < c.n)
                    store_span<OUT, 8>(c.out, row * c.ld_out + at, y[g]);
            }
        }
        if (2 * j < N_STAGED) boxes.send(map, p, 2 * j + 1, p.col0);
    }
    if (IN::HAS_SCALE && c.v_top && p.col0 + TILE_N > c.value_col) note_top(c, t, p, top);
}

#endif /* sm_90a */

} // namespace

#endif
