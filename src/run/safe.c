// SPDX-License-Identifier: MIT
// Sequences whose vectors came back NaN or infinite are computed once more on the same device in
// FP32, and only theirs are taken: the rest of the pack keeps its bits, and a sequence's vector
// does not depend on who stood beside it. FP32 and not BF16: it has the same range, the error of a
// BF16 vector would be ten times FP16's, and the few sequences concerned cost nothing either way.
// The weights in FP32 are loaded when the first such sequence is met. What is not finite then
// either is the sequence's own fault and fails by itself.
#include "run/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAFE_TOKENS = 4096, SAFE_SEQS = 512 };

static bool is_finite(const float *x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * 0.0f; /* NaN and infinity stay */
    return sum == 0.0f;
}

bool vnp_run_rows_are_finite(const float *x, int64_t n) {
    return is_finite(x, n);
}

void vnp_run_safe_close(struct run_safe *s) {
    for (int enc = 0; enc < N_ENC; enc++) {
        vnp_encoder_session_destroy(s->session[enc]);
        vnp_encoder_destroy(s->encoder[enc]);
    }
    if (s->device) s->plan->device.backend->device_close(s->device);
    free(s->tokens);
    free(s->cu);
    free(s->idx);
    free(s->out);
    *s = (struct run_safe){.plan = s->plan};
}

/* Device, weights and a session for sequences of up to n_tokens. */
static vnp_status make_ready(struct run_safe *s, int enc, int64_t n_tokens) {
    const struct run_inproc *plan = s->plan;
    const struct vnp_backend *b = plan->device.backend;
    struct vnp_device_options opt = {.precision = VNP_PREC_FP32,
                                     .idx_device = plan->device.idx_device,
                                     .n_threads = plan->n_threads,
                                     .cache_dir = plan->cache_dir};
    if (!s->device) VNP_TRY(b->device_open(&opt, &s->device));
    if (!s->encoder[enc]) {
        vnp_log(VNP_LOG_INFO, "run", "%s:%d: loading weights in fp32 for sequences that overflow",
                b->name, plan->device.idx_device);
        VNP_TRY(vnp_encoder_create(b, s->device, plan->checkpoint[enc], &s->encoder[enc]));
    }
    if (s->session[enc] && n_tokens <= s->max_tokens[enc]) return VNP_OK;
    vnp_encoder_session_destroy(s->session[enc]);
    s->session[enc] = NULL;
    n_tokens = VNP_MAX(n_tokens, SAFE_TOKENS);
    VNP_TRY(vnp_encoder_session_create(s->encoder[enc], n_tokens, SAFE_SEQS, &s->session[enc]));
    s->max_tokens[enc] = n_tokens;
    return VNP_OK;
}

static vnp_status reserve(struct run_safe *s, int64_t n_tokens, int64_t n_cols, int64_t n_rows) {
    if (n_tokens > s->cap_tokens) {
        free(s->tokens);
        s->tokens = malloc((size_t)n_tokens * sizeof *s->tokens);
        s->cap_tokens = s->tokens ? n_tokens : 0;
    }
    if (n_rows * n_cols > s->cap_out) {
        free(s->out);
        s->out = malloc((size_t)(n_rows * n_cols) * sizeof *s->out);
        s->cap_out = s->out ? n_rows * n_cols : 0;
    }
    if (!s->cu) s->cu = malloc((SAFE_SEQS + 1) * sizeof *s->cu);
    if (!s->idx) s->idx = malloc(SAFE_SEQS * sizeof *s->idx);
    if (s->tokens && s->out && s->cu && s->idx) return VNP_OK;
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for sequences that overflow");
}

/* One pack of guilty sequences, gathered in s; their rows replace those in out. */
static vnp_status run_gathered(struct run_safe *s, const struct run_pack *p, int64_t n,
                               int64_t n_cols, const int64_t *off_row, float *out) {
    int64_t max_len = 0, row = 0;
    for (int64_t k = 0; k < n; k++) max_len = VNP_MAX(max_len, s->cu[k + 1] - s->cu[k]);
    struct vnp_pack view = {s->cu[n], n, max_len, s->tokens, s->cu};
    VNP_TRY(vnp_encoder_submit(s->session[p->enc], &view, &s->plan->want, s->out));
    VNP_TRY(vnp_encoder_wait(s->session[p->enc]));
    for (int64_t k = 0; k < n; k++) {
        int64_t i = s->idx[k], n_rows = off_row[i + 1] - off_row[i];
        memcpy(out + off_row[i] * n_cols, s->out + row * n_cols,
               (size_t)(n_rows * n_cols) * sizeof *out);
        row += n_rows;
    }
    return VNP_OK;
}

/* Sequences whose rows are not finite, in packs of the safe session's size. */
static vnp_status rerun(struct run_safe *s, const struct run_pack *p, int64_t n_cols,
                        const int64_t *off_row, float *out, struct run_outcome *o) {
    int64_t i = 0, n_seqs = p->view.n_seqs;
    while (i < n_seqs) {
        int64_t n = 0;
        s->cu[0] = 0;
        for (; i < n_seqs && n < SAFE_SEQS; i++) {
            int64_t n_rows = off_row[i + 1] - off_row[i], begin = p->cu[i];
            int64_t len = p->cu[i + 1] - begin;
            if (is_finite(out + off_row[i] * n_cols, n_rows * n_cols)) continue;
            if (s->cu[n] + len > s->max_tokens[p->enc]) break;
            memcpy(s->tokens + s->cu[n], p->tokens + begin, (size_t)len * sizeof *s->tokens);
            s->idx[n] = i;
            s->cu[n + 1] = (int32_t)(s->cu[n] + len);
            n++;
        }
        if (n == 0) break;
        o->n_rerun += n;
        o->n_rerun_tokens += s->cu[n];
        VNP_TRY(run_gathered(s, p, n, n_cols, off_row, out));
    }
    return VNP_OK;
}

static int64_t count_guilty(const struct run_pack *p, int64_t n_cols, const int64_t *off_row,
                            const float *out, int64_t *n_tokens, int64_t *max_len) {
    int64_t n = 0;
    *n_tokens = *max_len = 0;
    for (int64_t i = 0; i < p->view.n_seqs; i++) {
        if (is_finite(out + off_row[i] * n_cols, (off_row[i + 1] - off_row[i]) * n_cols)) continue;
        int64_t len = p->cu[i + 1] - p->cu[i];
        *n_tokens += len;
        *max_len = VNP_MAX(*max_len, len);
        n++;
    }
    return n;
}

/* off_row [S+1]: where a sequence's rows begin in out. */
static vnp_status judge(struct run_safe *s, const struct run_pack *p, int64_t n_cols,
                        const int64_t *off_row, float *out, struct run_outcome *o) {
    int64_t n_tokens, max_len, ignored, n;
    n = count_guilty(p, n_cols, off_row, out, &n_tokens, &max_len);
    if (n == 0) return VNP_OK;
    o->n_failed = n;
    if (s->plan->precision == VNP_PREC_FP32) return VNP_OK;
    bool is_pooled = s->plan->want.pool != VNP_POOL_NONE;
    vnp_status status = make_ready(s, p->enc, VNP_MIN(n_tokens, VNP_MAX(max_len, SAFE_TOKENS)));
    if (status == VNP_OK)
        status = reserve(s, s->max_tokens[p->enc], n_cols,
                         is_pooled ? SAFE_SEQS : s->max_tokens[p->enc]);
    if (status == VNP_OK) status = rerun(s, p, n_cols, off_row, out, o);
    if (status == VNP_NOMEM || status == VNP_DEVICE_NOMEM) {
        vnp_log(VNP_LOG_WARN, "run", "%lld sequences overflow, and there is no memory for fp32: %s",
                (long long)n, vnp_error_last()->text);
        vnp_run_safe_close(s);
        o->n_rerun = o->n_rerun_tokens = 0;
        return VNP_OK;
    }
    VNP_TRY(status);
    o->n_failed = count_guilty(p, n_cols, off_row, out, &ignored, &ignored);
    return VNP_OK;
}

vnp_status vnp_run_safe_judge(struct run_safe *s, const struct run_pack *p, int64_t n_cols,
                              float *out, struct run_outcome *o) {
    int64_t n_seqs = p->view.n_seqs;
    int64_t *off_row = malloc((size_t)(n_seqs + 1) * sizeof *off_row);
    if (!off_row) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a pack's rows");
    off_row[0] = 0;
    for (int64_t i = 0; i < n_seqs; i++)
        off_row[i + 1] =
            off_row[i] + (s->plan->want.pool == VNP_POOL_NONE ? p->cu[i + 1] - p->cu[i] : 1);
    o->is_judged = true;
    vnp_status status = judge(s, p, n_cols, off_row, out, o);
    free(off_row);
    return status;
}
