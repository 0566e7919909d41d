// SPDX-License-Identifier: MIT
// Attention of one head over one block of queries of one packed sequence, FP32 and BF16.
//
// The idea: keys of a pass (at most VNP_CPU_KEY_BLOCK) are rotated and transposed once into
// scratch, values copied beside them, queries rotated and scaled; then both products are the same
// small register tile C[TILE_ROWS][2 W] += A (broadcast) * B. Between them a softmax with running
// maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022), so a sequence may have any length.
// Scores never leave the cache. What is computed for a query depends on its sequence alone: passes
// start at key 0, padding lanes count as exp(-inf) = 0.
//
// In BF16 the rotated queries and keys, the values and exp(s - max) are rounded once, as operands;
// scores, maximum, sums and outputs stay FP32. There scores are in units of ln 2 (the factor is in
// the scale), so that a weight is a power of two.
//
// attention         out = softmax(scale q k^T - slope |i - j|) v
// Shapes            q, k, v [n][Dh] f32, ld apart; Dh even, <= 128
// Rounding          FP32; bf16 variant as above
// Cost              4 n Dh flop a query in the tiles, about 1/8 of that for exp; K and V packed
//                   once for a block of at most VNP_CPU_QUERY_BLOCK queries
// Layout            K^T and V in panels of 2 W columns, [panel][row][2 W]: a tile reads one panel
//                   from end to end
// Order             keys in order inside a lane, lanes folded by halves: fixed by (n, Dh)
// Ref               vnp_ref attention (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

#include <math.h>

#if W == 16
#define TILE_ROWS 8
#elif W == 8
#define TILE_ROWS 6
#else
#define TILE_ROWS 4
#endif
#define PREFETCH_ROWS 16
#define LOG2_E 1.44269504088896341f
#define LN_2 0.69314718055994531f
#define LD_Q VNP_CPU_MAX_HEAD_DIM     /* words from query to query */
#define LD_B (2 * W)                  /* words from row to row of a panel */
#define LD_S (VNP_CPU_KEY_BLOCK + 64) /* floats from score row to score row */

struct head {
    const struct vnp_cpu_attention_args *a;
    uint32_t *q, *kt, *v; /* packed words: [rows][LD_Q]; panels of n_words_pad, n_values rows */
    float *s, *o, *row;   /* [TILE_ROWS][LD_S], [queries][ld_v], [W][LD_Q] */
    float *top;           /* [TILE_ROWS][W] */
    uint16_t *p;          /* [TILE_ROWS][LD_S] bf16 weights */
    float *max, *sum;     /* [queries] */
    int64_t n_words, n_words_pad, n_values, ld_v;
};

/* acc[TILE_ROWS][nj] += A[TILE_ROWS][k] B[k][nj W]; words of A and B are floats or BF16 pairs. */
VF_INLINE void tile(vf acc[TILE_ROWS][2], const uint32_t *a, int64_t lda, const uint32_t *b,
                    int64_t k, const int nj, const bool is_bf16) {
    for (int64_t i = 0; i < k; i++) {
        vu bv[2];
#pragma GCC unroll 2
        for (int j = 0; j < nj; j++) bv[j] = vu_load(b + i * LD_B + j * W);
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) {
            vu av = vu_set1(a[r * lda + i]);
#pragma GCC unroll 2
            for (int j = 0; j < nj; j++)
                acc[r][j] = is_bf16 ? vf_dot_bf16(acc[r][j], av, bv[j])
                                    : vf_fma((vf)av, (vf)bv[j], acc[r][j]);
        }
    }
}

/* O[TILE_ROWS][nj W] (+)= P[TILE_ROWS][k] V[k][nj W]. */
VF_INLINE void value_tile(float *o, int64_t ldo, const uint32_t *p, int64_t ldp, const uint32_t *v,
                          int64_t k, const int nj, const bool is_bf16, bool adds) {
    vf acc[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 2
        for (int j = 0; j < nj; j++)
            acc[r][j] = adds ? vf_load(o + r * ldo + j * W) : vf_set1(0.0f);
    tile(acc, p, ldp, v, k, nj, is_bf16);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 2
        for (int j = 0; j < nj; j++) vf_store(o + r * ldo + j * W, acc[r][j]);
}

/* Scores of queries r.. of the block and a panel's keys j.. of a pass, in the units of the scale,
 * less slope times distance; -inf from key n on. Keeps the largest of each lane in top. */
VF_INLINE void score_tile(const struct head *h, int64_t r, int64_t first, int64_t j, int64_t n,
                          float slope, const bool is_bf16) {
    vf acc[TILE_ROWS][2];
    const vf key = vf_iota() + vf_set1((float)j), end = vf_set1((float)n);
    const float at = (float)(first - (h->a->q_first + r));
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++) acc[i][0] = acc[i][1] = vf_set1(0.0f);
    tile(acc, h->q + r * LD_Q, LD_Q, h->kt + j * h->n_words_pad, h->n_words, 2, is_bf16);
#pragma GCC unroll 8
    for (int i = 0; i < TILE_ROWS; i++) {
        vf top = vf_load(h->top + i * W);
#pragma GCC unroll 2
        for (int c = 0; c < 2; c++) {
            const vf k = key + vf_set1((float)(c * W));
            vf x = acc[i][c];
            if (slope != 0.0f) x -= vf_set1(slope) * vf_abs(k + vf_set1(at - (float)i));
            if (j + LD_B > n) x = vf_select_lt(k, end, x, vf_set1(-INFINITY));
            vf_store(h->s + i * LD_S + j + c * W, x);
            top = vf_max(top, x);
        }
        vf_store(h->top + i * W, top);
    }
}

/* Where column j (a multiple of W) of a packed matrix begins. */
VF_INLINE uint32_t *panel_at(uint32_t *b, int64_t rows, int64_t j) {
    return b + j / LD_B * LD_B * rows + j % LD_B;
}

/* dst[Dh] = rotated(mul * src) at position pos. */
static void load_row(const struct vnp_cpu_attention_args *a, const float *restrict src, int64_t pos,
                     float mul, float *restrict dst) {
    const int64_t half = a->head_dim / 2;
    if (!a->cosines) {
        for (int64_t i = 0; i < 2 * half; i++) dst[i] = src[i] * mul;
        return;
    }
    const float *restrict c = a->cosines + pos * half, *restrict s = a->sines + pos * half;
    for (int64_t i = 0; i < half; i++) {
        float x = src[i] * mul, y = src[i + half] * mul;
        dst[i] = x * c[i] - y * s[i];
        dst[i + half] = y * c[i] + x * s[i];
    }
}

/* Dh floats as words: themselves, or BF16 pairs (in place is allowed: stores stay behind loads). */
VF_INLINE void row_words(const float *row, uint32_t *words, int64_t head_dim, const bool is_bf16) {
    if (!is_bf16) {
        if ((const void *)row != (void *)words) memcpy(words, row, (size_t)head_dim * 4);
        return;
    }
    uint16_t *pairs = (uint16_t *)(void *)words;
    int64_t i = 0;
    for (; i + W <= head_dim; i += W) vf_store_bf16(pairs + i, vf_load(row + i));
    if (i < head_dim) vf_store_bf16_n(pairs + i, vf_load_n(row + i, head_dim - i), head_dim - i);
}

/* Rows of the packed batch lie 12 D bytes apart, in no order the hardware foresees. */
VF_INLINE void prefetch_row(const struct vnp_cpu_attention_args *a, const float *base,
                            int64_t row) {
    if (row >= a->n_keys) return;
    for (int64_t i = 0; i < a->head_dim; i += 16) __builtin_prefetch(base + row * a->ld + i);
}

VF_INLINE void pack_queries(const struct head *h, const bool is_bf16) {
    const struct vnp_cpu_attention_args *a = h->a;
    const int64_t n = a->q_end - a->q_first, n_pad = VNP_ALIGN_UP(n, TILE_ROWS);
    const float scale = is_bf16 ? a->scale * LOG2_E : a->scale;
    for (int64_t r = 0; r < n; r++) {
        prefetch_row(a, a->q, a->q_first + r + PREFETCH_ROWS);
        prefetch_row(a, a->k, r); /* the first keys come next */
        load_row(a, a->q + (a->q_first + r) * a->ld, a->q_first + r, scale, h->row);
        row_words(h->row, h->q + r * LD_Q, a->head_dim, is_bf16);
    }
    memset(h->q + n * LD_Q, 0, (size_t)((n_pad - n) * LD_Q) * sizeof *h->q);
}

/* Keys first..first+n-1 to the panels kt[word][key], W at a time; lanes past the end become 0. */
VF_INLINE void pack_keys(const struct head *h, int64_t first, int64_t n, const bool is_bf16) {
    const struct vnp_cpu_attention_args *a = h->a;
    uint32_t *rows = (uint32_t *)(void *)h->row;
    const int64_t n_words_pad = h->n_words_pad;
    for (int64_t j = 0; j < n; j += W) {
        for (int64_t i = 0; i < W; i++) {
            float *row = h->row + i * LD_Q;
            if (j + i < n) {
                prefetch_row(a, a->k, first + j + i + PREFETCH_ROWS);
                prefetch_row(a, a->v, first + j + i);
                load_row(a, a->k + (first + j + i) * a->ld, first + j + i, 1.0f, row);
                row_words(row, rows + i * LD_Q, a->head_dim, is_bf16);
                for (int64_t w = h->n_words; w < n_words_pad; w++) rows[i * LD_Q + w] = 0;
            } else {
                memset(row, 0, (size_t)n_words_pad * sizeof *row);
            }
        }
        for (int64_t w = 0; w < n_words_pad; w += W)
            vu_transpose(rows + w, LD_Q, panel_at(h->kt, n_words_pad, j) + w * LD_B, LD_B);
    }
}

VF_INLINE vf load_tail(const float *p, int64_t i, int64_t n) {
    return i + W <= n ? vf_load(p + i) : vf_load_n(p + i, n - i);
}

VF_INLINE void pack_values(const struct head *h, int64_t first, int64_t n, const bool is_bf16) {
    const struct vnp_cpu_attention_args *a = h->a;
    for (int64_t j = 0; j < n; j += is_bf16 ? 2 : 1) {
        const float *v0 = a->v + (first + j) * a->ld, *v1 = v0 + a->ld;
        const int64_t row = is_bf16 ? j / 2 : j;
        for (int64_t d = 0; d < h->ld_v; d += W) {
            uint32_t *dst = panel_at(h->v, h->n_values, d) + row * LD_B;
            vf x = load_tail(v0, d, a->head_dim);
            if (!is_bf16) {
                vu_store(dst, (vu)x);
                continue;
            }
            vu lo = vf_bf16_bits(x), hi = vu_set1(0);
            if (j + 1 < n) hi = vf_bf16_bits(load_tail(v1, d, a->head_dim)) << 16;
            vu_store(dst, lo | hi);
        }
    }
}

/* One row of scores (n real) to weights in place (FP32) or in p (BF16); keeps the running maximum
 * and sum of the query and rescales what it has gathered so far. */
VF_INLINE void softmax_row(const struct head *h, int64_t query, vf top, float *s, uint16_t *p,
                           int64_t first, int64_t n, const bool is_bf16) {
    const int64_t n_pad = VNP_ALIGN_UP(n, W);
    const float old = first ? h->max[query] : -INFINITY;
    float m = vf_hmax(top);
    if (!(m > old)) m = old;
    vf sum = vf_set1(0.0f);
    for (int64_t j = 0; j < n_pad; j += W) {
        vf x = vf_load(s + j) - vf_set1(m), e = is_bf16 ? vf_exp2_coarse(x) : vf_exp(x);
        sum += e;
        if (is_bf16)
            vf_store_bf16(p + j, e);
        else
            vf_store(s + j, e);
    }
    h->max[query] = m;
    if (first == 0) {
        h->sum[query] = vf_sum(sum);
        return;
    }
    vf keep = vf_exp(vf_set1(is_bf16 ? (old - m) * LN_2 : old - m));
    h->sum[query] = h->sum[query] * keep[0] + vf_sum(sum);
    float *o = h->o + query * h->ld_v;
    for (int64_t d = 0; d < h->ld_v; d += W) vf_store(o + d, vf_load(o + d) * keep);
}

VF_INLINE void write_out(const struct head *h, const bool is_bf16) {
    const struct vnp_cpu_attention_args *a = h->a;
    for (int64_t r = 0; r < a->q_end - a->q_first; r++) {
        const float *o = h->o + r * h->ld_v;
        const int64_t off = (a->q_first + r) * a->ld_out;
        vf inv = vf_set1(1.0f / h->sum[r]);
        for (int64_t d = 0; d < a->head_dim; d += W) {
            vf x = vf_load(o + d) * inv;
            int64_t left = a->head_dim - d;
            if (is_bf16) {
                uint16_t *out = (uint16_t *)a->out + off + d;
                if (left >= W)
                    vf_store_bf16(out, x);
                else
                    vf_store_bf16_n(out, x, left);
            } else {
                float *out = (float *)a->out + off + d;
                if (left >= W)
                    vf_store(out, x);
                else
                    vf_store_n(out, x, left);
            }
        }
    }
}

/* TILE_ROWS queries from r on over the n keys of a pass. */
VF_INLINE void attend_rows(const struct head *h, int64_t r, int64_t first, int64_t n,
                           const bool is_bf16) {
    const float slope = is_bf16 ? h->a->slope * LOG2_E : h->a->slope;
    for (int64_t i = 0; i < TILE_ROWS; i++) vf_store(h->top + i * W, vf_set1(-INFINITY));
    for (int64_t j = 0; j < n; j += LD_B) score_tile(h, r, first, j, n, slope, is_bf16);
    for (int64_t i = 0; i < TILE_ROWS; i++)
        softmax_row(h, r + i, vf_load(h->top + i * W), h->s + i * LD_S, h->p + i * LD_S, first, n,
                    is_bf16);
    const uint32_t *p =
        is_bf16 ? (const uint32_t *)(const void *)h->p : (const uint32_t *)(const void *)h->s;
    const int64_t ldp = is_bf16 ? LD_S / 2 : LD_S, k = is_bf16 ? (n + 1) / 2 : n;
    float *o = h->o + r * h->ld_v;
    int64_t j = 0;
    for (; j + LD_B <= h->ld_v; j += LD_B)
        value_tile(o + j, h->ld_v, p, ldp, h->v + j * h->n_values, k, 2, is_bf16, first > 0);
    if (j < h->ld_v)
        value_tile(o + j, h->ld_v, p, ldp, h->v + j * h->n_values, k, 1, is_bf16, first > 0);
}

VF_INLINE void attend(const struct vnp_cpu_attention_args *a, const bool is_bf16) {
    struct head h = {.a = a};
    const int64_t n_queries = VNP_ALIGN_UP(a->q_end - a->q_first, TILE_ROWS);
    h.n_words = is_bf16 ? a->head_dim / 2 : a->head_dim;
    h.n_words_pad = VNP_ALIGN_UP(h.n_words, W);
    h.n_values = VNP_MIN(a->n_keys, VNP_CPU_KEY_BLOCK);
    if (is_bf16) h.n_values = (h.n_values + 1) / 2;
    h.ld_v = VNP_ALIGN_UP(a->head_dim, W);
    float *at = a->scratch;
    h.s = at, at += TILE_ROWS * LD_S;
    h.p = (uint16_t *)(void *)at, at += TILE_ROWS * LD_S / 2;
    h.max = at, at += VNP_ALIGN_UP(n_queries, 16);
    h.sum = at, at += VNP_ALIGN_UP(n_queries, 16);
    h.row = at, at += W * LD_Q;
    h.top = at, at += TILE_ROWS * W;
    h.q = (uint32_t *)(void *)at, at += n_queries * LD_Q;
    h.o = at, at += n_queries * h.ld_v;
    h.kt = (uint32_t *)(void *)at, at += h.n_words_pad * (VNP_CPU_KEY_BLOCK + LD_B);
    h.v = (uint32_t *)(void *)at;
    pack_queries(&h, is_bf16);
    for (int64_t first = 0; first < a->n_keys; first += VNP_CPU_KEY_BLOCK) {
        const int64_t n = VNP_MIN(a->n_keys - first, VNP_CPU_KEY_BLOCK);
        pack_keys(&h, first, n, is_bf16);
        pack_values(&h, first, n, is_bf16);
        for (int64_t r = 0; r < n_queries; r += TILE_ROWS) attend_rows(&h, r, first, n, is_bf16);
    }
    write_out(&h, is_bf16);
}

#if !defined(__AVX512BF16__)
void VNP_CPU_NAME(attention)(const struct vnp_cpu_attention_args *a) {
    attend(a, false);
}
#endif

void VNP_CPU_NAME(attention_bf16)(const struct vnp_cpu_attention_args *a) {
    attend(a, true);
}
