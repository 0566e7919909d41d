// SPDX-License-Identifier: MIT
// Embedding, layer norm, pooling and the classifier: row by row (or sequence by sequence), FP64
// sums in the order of the row.
#include "ref/ref_room.h"

#include <math.h>

struct job {
    struct vnp_exec *ex;
    const void *params;
    const struct vnp_tensor *x;
    struct vnp_tensor *out, *operand;
};

/* ---- embed --------------------------------------------------------------------------------- */

static void embed_task(void *ctx, int64_t s, int thread) {
    const struct job *job = ctx;
    const struct vnp_embed_params *p = job->params;
    const struct vnp_pack *pack = job->ex->pack;
    int64_t first = pack->cu_seqlens[s], end = pack->cu_seqlens[s + 1], n_masks = 0;
    double factor = 1;
    (void)thread;
    if (p->has_token_dropout) {
        for (int64_t row = first; row < end; row++) n_masks += pack->tokens[row] == p->mask_id;
        factor = (1 - 0.12) / (1 - (double)n_masks / (double)(end - first));
        if (n_masks == end - first) factor = 0; /* nothing but masks: every row is 0 */
    }
    for (int64_t row = first; row < end; row++) {
        const float *e = p->table + (int64_t)pack->tokens[row] * job->out->cols;
        float *out = (float *)job->out->data + row * job->out->ld;
        bool is_zero = p->has_token_dropout && pack->tokens[row] == p->mask_id;
        for (int64_t i = 0; i < job->out->cols; i++) {
            double x = is_zero ? 0.0 : (double)e[i] * factor;
            out[i] = (float)(p->type_row ? x + (double)p->type_row[i] : x);
        }
    }
}

vnp_status vnp_ref_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                         struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: embed without a batch");
    VNP_TRY(vnp_op_check_embed(p, out, ex->pack->n_tokens));
    VNP_TRY(vnp_op_check_tokens(ex->pack, p->vocab));
    struct job job = {ex, p, NULL, out, NULL};
    vnp_ref_run(ex->dev, ex->pack->n_seqs, embed_task, &job);
    return VNP_OK;
}

/* ---- layer norm ---------------------------------------------------------------------------- */

static void norm_task(void *ctx, int64_t row, int thread) {
    const struct job *job = ctx;
    const struct vnp_norm_params *p = job->params;
    const float *x = (const float *)job->x->data + row * job->x->ld;
    int64_t n = job->x->cols;
    double sum = 0, squares = 0;
    (void)thread;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double factor = 1 / sqrt(squares / (double)n + (double)p->eps);
    float *out = job->out ? (float *)job->out->data + row * job->out->ld : NULL;
    float *operand = job->operand ? (float *)job->operand->data + row * job->operand->ld : NULL;
    for (int64_t i = 0; i < n; i++) {
        float y =
            (float)(((double)x[i] - mean) * factor * (double)p->gamma[i] + (double)p->beta[i]);
        if (out) out[i] = y;
        if (operand) operand[i] = y;
    }
}

vnp_status vnp_ref_layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                             const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                             struct vnp_tensor *out_operand) {
    VNP_TRY(vnp_op_check_norm(p, x, out_residual, out_operand));
    struct job job = {ex, p, x, out_residual, out_operand};
    vnp_ref_run(ex->dev, x->rows, norm_task, &job);
    return VNP_OK;
}

/* ---- pooling ------------------------------------------------------------------------------- */

static void pool_task(void *ctx, int64_t s, int thread) {
    const struct job *job = ctx;
    const struct vnp_pool_params *p = job->params;
    const struct vnp_pack *pack = job->ex->pack;
    int64_t first = pack->cu_seqlens[s], end = pack->cu_seqlens[s + 1], n = job->x->cols;
    const float *x = job->x->data;
    float *out = (float *)job->out->data + s * job->out->ld;
    double *sums = vnp_ref_scratch(job->ex, thread); /* [D] */
    if (p->kind == VNP_POOL_CLS) {
        for (int64_t i = 0; i < n; i++) out[i] = x[first * job->x->ld + i];
        return;
    }
    first += p->skip_first;
    end -= p->skip_last;
    if (p->max_count > 0) end = VNP_MIN(end, first + p->max_count);
    for (int64_t i = 0; i < n; i++) sums[i] = 0;
    for (int64_t row = first; row < end; row++)
        for (int64_t i = 0; i < n; i++) sums[i] += (double)x[row * job->x->ld + i];
    for (int64_t i = 0; i < n; i++)
        out[i] = end > first ? (float)(sums[i] / (double)(end - first)) : 0.0f;
}

vnp_status vnp_ref_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                        const struct vnp_tensor *x, struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: pool without a batch");
    VNP_TRY(vnp_op_check_pool(p, x, out, ex->pack->n_tokens, ex->pack->n_seqs));
    if (x->cols > ex->limits.max_cols)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "ref: pool over %lld columns, the context has %lld", (long long)x->cols,
                        (long long)ex->limits.max_cols);
    struct job job = {ex, p, x, out, NULL};
    vnp_ref_run(ex->dev, ex->pack->n_seqs, pool_task, &job);
    return VNP_OK;
}

/* ---- classifier ---------------------------------------------------------------------------- */

struct classify {
    const struct vnp_classifier_params *p;
    const float *z;
    float *out;
};

/* Eight sums side by side, joined in a fixed order. */
static double dot(int64_t n, const float *a, const float *b) {
    double acc[8] = {0}, sum = 0;
    int64_t k = 0;
    for (; k + 8 <= n; k += 8)
        for (int i = 0; i < 8; i++) acc[i] += (double)a[k + i] * (double)b[k + i];
    for (; k < n; k++) acc[0] += (double)a[k] * (double)b[k];
    for (int i = 0; i < 8; i++) sum += acc[i];
    return sum;
}

static void classify_task(void *ctx, int64_t row, int thread) {
    const struct classify *c = ctx;
    const struct vnp_classifier_params *p = c->p;
    double logits[2] = {(double)p->b2[0], (double)p->b2[1]};
    (void)thread;
    for (int64_t j = 0; j < p->n_hidden; j++) {
        double h = dot(p->n_in, p->w1 + j * p->n_in, c->z + row * p->n_in) + (double)p->b1[j];
        h = (h - (double)p->bn_mean[j]) / sqrt((double)p->bn_var[j] + (double)p->bn_eps);
        h = h * (double)p->bn_gamma[j] + (double)p->bn_beta[j];
        h = h > 0 || isnan(h) ? h : 0;
        for (int i = 0; i < 2; i++) logits[i] += h * (double)p->w2[i * p->n_hidden + j];
    }
    double max = fmax(logits[0], logits[1]);
    double e0 = exp(logits[0] - max), e1 = exp(logits[1] - max);
    c->out[row * 2] = (float)(e0 / (e0 + e1));
    c->out[row * 2 + 1] = (float)(e1 / (e0 + e1));
}

vnp_status vnp_ref_classify(struct vnp_device *dev, const struct vnp_classifier_params *p,
                            const float *z, int64_t n_rows, float *out) {
    if (n_rows < 0 || p->n_in < 1 || p->n_hidden < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: classifier [%lld][%lld] on %lld rows",
                        (long long)p->n_hidden, (long long)p->n_in, (long long)n_rows);
    struct classify c = {p, z, out};
    vnp_ref_run(dev, n_rows, classify_task, &c);
    return VNP_OK;
}
