// SPDX-License-Identifier: MIT
// softmax(scale q k^T + bias) v inside each sequence, with rotary positions or ALiBi. First q and k
// of every sequence are scaled and rotated (angles in FP64, Su et al. 2021), k is laid out
// transposed; then each row's scores, softmax and sum are taken in FP64 in the order of positions.
// A row sees its own sequence only, so its result knows nothing of the pack. Emulation rounds what
// a backend of that type would hold in it: qkv as stored, q and k after the rotation, the weights
// after the division by their sum (docs/numerics.md).
#include "ref/ref_room.h"

#include <math.h>
#include <string.h>

#define ROWS 16 /* rows of one task */

typedef void add_rows_fn(int64_t n_rows, const double *x, const float *rows, int64_t ld, int64_t n,
                         double *out);

struct job {
    struct vnp_exec *ex;
    const struct vnp_attention_params *p;
    const struct vnp_tensor *qkv, *out;
    int64_t n_cols; /* D = H * Dh */
    add_rows_fn *add_rows;
};

/* Where sequence s, head h keeps its [Dh][n] transposed keys; q and v stay [N][D]. */
static float *keys_of(const struct job *job, int64_t s, int64_t h) {
    const struct vnp_pack *pack = job->ex->pack;
    int64_t n = pack->cu_seqlens[s + 1] - pack->cu_seqlens[s];
    float *keys = job->ex->heads + pack->n_tokens * job->n_cols;
    return keys + pack->cu_seqlens[s] * job->n_cols + h * job->p->head_dim * n;
}

/* The cosines, then the sines of position t, [Dh / 2] each. */
static void fill_turns(const struct vnp_attention_params *p, int64_t t, double *turns) {
    int64_t half = p->head_dim / 2;
    for (int64_t i = 0; p->has_rotary && i < half; i++) {
        double angle = (double)t * vnp_op_rotary_freq(i, p->head_dim, p->freq_dtype);
        turns[i] = cos(angle);
        turns[half + i] = sin(angle);
    }
}

/* x [Dh] times factor, then turned. */
static void turn(const struct vnp_attention_params *p, float *x, double factor,
                 const double *turns) {
    int64_t half = p->head_dim / 2;
    if (!p->has_rotary) {
        for (int64_t i = 0; i < p->head_dim; i++) x[i] = (float)(factor * (double)x[i]);
        return;
    }
    for (int64_t i = 0; i < half; i++) {
        double c = turns[i], s = turns[half + i];
        double a = factor * (double)x[i], b = factor * (double)x[half + i];
        x[i] = (float)(a * c - b * s);
        x[half + i] = (float)(b * c + a * s);
    }
}

static void prepare_task(void *ctx, int64_t task, int thread) {
    const struct job *job = ctx;
    const struct vnp_pack *pack = job->ex->pack;
    int64_t dh = job->p->head_dim, d = job->n_cols, n_heads = job->p->n_heads;
    enum vnp_precision rounding = job->ex->dev->rounding;
    double *turns = vnp_ref_scratch(job->ex, thread); /* [Dh] */
    float *k = (float *)(turns + dh);                 /* [Dh] */
    int64_t last = VNP_MIN((task + 1) * ROWS, pack->n_tokens);
    for (int64_t row = task * ROWS; row < last; row++) {
        int64_t s = job->ex->seq_of[row], t = row - pack->cu_seqlens[s];
        int64_t n = pack->cu_seqlens[s + 1] - pack->cu_seqlens[s];
        const float *src = (const float *)job->qkv->data + row * job->qkv->ld;
        float *q = job->ex->heads + row * d, *v = job->ex->heads + (2 * pack->n_tokens + row) * d;
        fill_turns(job->p, t, turns);
        memcpy(q, src, (size_t)d * sizeof *q);
        memcpy(v, src + 2 * d, (size_t)d * sizeof *v);
        vnp_ref_round_attention(rounding, d, q);
        vnp_ref_round_attention(rounding, d, v);
        for (int64_t h = 0; h < n_heads; h++) {
            float *keys = keys_of(job, s, h);
            turn(job->p, q + h * dh, (double)job->p->scale, turns);
            vnp_ref_round_attention(rounding, dh, q + h * dh);
            memcpy(k, src + d + h * dh, (size_t)dh * sizeof *k);
            vnp_ref_round_attention(rounding, dh, k);
            turn(job->p, k, 1.0, turns);
            vnp_ref_round_attention(rounding, dh, k);
            for (int64_t i = 0; i < dh; i++) keys[i * n + t] = k[i];
        }
    }
}

/* e[j] = exp(score_j - max); returns their sum. */
static double softmax(const struct job *job, int64_t n, int64_t t, float slope, double *e) {
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; job->p->slopes && j < n; j++)
        e[j] -= (double)slope * (double)(j < t ? t - j : j - t);
    for (int64_t j = 0; j < n; j++) max = e[j] > max ? e[j] : max;
    for (int64_t j = 0; j < n; j++) {
        e[j] = exp(e[j] - max);
        sum += e[j];
    }
    return sum;
}

/* e becomes the weights, rounded. */
static void finish_weights(enum vnp_precision rounding, int64_t n, double total, double *e) {
    for (int64_t j = 0; j < n; j++) e[j] /= total;
    if (rounding == VNP_PREC_FP32) return;
    for (int64_t j = 0; j < n; j++) {
        float p = (float)e[j];
        vnp_ref_round_attention(rounding, 1, &p);
        e[j] = (double)p;
    }
}

/* out[j] += sum over i = 0, 1, .. of x[i] * rows[i][j]. The same source for every instruction set:
 * products and sums stay separate, so the bits agree. */
static inline __attribute__((always_inline)) void
add_rows(int64_t n_rows, const double *x, const float *rows, int64_t ld, int64_t n, double *out) {
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < n; j++) out[j] += x[i] * (double)rows[i * ld + j];
}

static void add_rows_plain(int64_t n_rows, const double *x, const float *rows, int64_t ld,
                           int64_t n, double *out) {
    add_rows(n_rows, x, rows, ld, n, out);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void add_rows_avx2(int64_t n_rows, const double *x,
                                                          const float *rows, int64_t ld, int64_t n,
                                                          double *out) {
    add_rows(n_rows, x, rows, ld, n, out);
}
#endif

static add_rows_fn *choose_add_rows(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return add_rows_avx2;
#endif
    return add_rows_plain;
}

static void rows_task(void *ctx, int64_t task, int thread) {
    const struct job *job = ctx;
    const struct vnp_pack *pack = job->ex->pack;
    int64_t dh = job->p->head_dim, d = job->n_cols;
    double *e = vnp_ref_scratch(job->ex, thread);  /* [n] */
    double *sums = e + job->ex->limits.max_tokens; /* [Dh] */
    double *query = sums + dh;                     /* [Dh] */
    int64_t last = VNP_MIN((task + 1) * ROWS, pack->n_tokens);
    for (int64_t row = task * ROWS; row < last; row++) {
        int64_t s = job->ex->seq_of[row], first = pack->cu_seqlens[s];
        int64_t n = pack->cu_seqlens[s + 1] - first;
        const float *q = job->ex->heads + row * d;
        const float *v = job->ex->heads + (2 * pack->n_tokens + first) * d;
        float *out = (float *)job->out->data + row * job->out->ld;
        for (int64_t h = 0; h < job->p->n_heads; h++) {
            const float *keys = keys_of(job, s, h);
            for (int64_t i = 0; i < dh; i++) query[i] = (double)q[h * dh + i];
            for (int64_t j = 0; j < n; j++) e[j] = 0;
            job->add_rows(dh, query, keys, n, n, e);
            float slope = job->p->slopes ? job->p->slopes[h] : 0;
            double total = softmax(job, n, row - first, slope, e);
            finish_weights(job->ex->dev->rounding, n, total, e);
            for (int64_t i = 0; i < dh; i++) sums[i] = 0;
            job->add_rows(n, e, v + h * dh, d, dh, sums);
            for (int64_t i = 0; i < dh; i++) out[h * dh + i] = (float)sums[i];
        }
    }
}

vnp_status vnp_ref_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                             const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: attention without a batch");
    int64_t n_tokens = ex->pack->n_tokens;
    VNP_TRY(vnp_op_check_attention(p, qkv, out, n_tokens));
    struct job job = {ex, p, qkv, out, p->n_heads * p->head_dim, choose_add_rows()};
    if (3 * job.n_cols > ex->limits.max_cols)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: qkv of %lld columns, the context has %lld",
                        (long long)(3 * job.n_cols), (long long)ex->limits.max_cols);
    vnp_ref_run(ex->dev, (n_tokens + ROWS - 1) / ROWS, prepare_task, &job);
    vnp_ref_run(ex->dev, (n_tokens + ROWS - 1) / ROWS, rows_task, &job);
    return VNP_OK;
}
