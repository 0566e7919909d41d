// SPDX-License-Identifier: MIT
// Sequences whose vectors came back NaN or infinite are computed once more on the same device in
// FP32, and only theirs are taken: the rest of the pack keeps its bits, and a sequence's vector
// does not depend on who stood beside it. FP32 and not BF16: it has the same range, the error of a
// BF16 vector would be ten times FP16's, and the few sequences concerned cost nothing either way.
// The weights in FP32 are loaded when the first such sequence is met. What is not finite then
// either is the sequence's own fault and fails by itself.
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

enum { SAFE_TOKENS = 4096, SAFE_SEQS = 512, MAX_PARTS = 3 };

/* One model in FP32. */
struct part {
    const struct vnp_checkpoint *checkpoint; /* NULL: a free place */
    struct vnp_encoder *encoder;
    struct vnp_encoder_session *session;
    int64_t max_tokens;
};

struct vnp_safe {
    struct vnp_safe_options opt;
    struct vnp_device *device;
    struct part parts[MAX_PARTS];
    int64_t cap_tokens, cap_out;
    uint16_t *tokens;
    int32_t *cu;
    int64_t *idx;
    float *out;
};

/* A pack and its vectors. */
struct rows {
    const struct vnp_encoder_want *want;
    const struct vnp_pack *pack;
    int64_t n_cols;
    const int64_t *off; /* [S+1]: where a sequence's rows begin in out */
    float *out;
};

bool vnp_vectors_are_finite(const float *x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * 0.0f; /* NaN and infinity stay */
    return sum == 0.0f;
}

static bool is_finite(const struct rows *r, int64_t i) {
    return vnp_vectors_are_finite(r->out + r->off[i] * r->n_cols,
                                  (r->off[i + 1] - r->off[i]) * r->n_cols);
}

static int64_t length(const struct rows *r, int64_t i) {
    return r->pack->cu_seqlens[i + 1] - r->pack->cu_seqlens[i];
}

vnp_status vnp_safe_create(const struct vnp_safe_options *opt, struct vnp_safe **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for sequences that overflow");
    (*out)->opt = *opt;
    return VNP_OK;
}

/* Everything but the options: what is needed again is made again. */
static void release(struct vnp_safe *s) {
    for (int i = 0; i < MAX_PARTS; i++) {
        vnp_encoder_session_destroy(s->parts[i].session);
        vnp_encoder_destroy(s->parts[i].encoder);
    }
    if (s->device) s->opt.backend->device_close(s->device);
    free(s->tokens);
    free(s->cu);
    free(s->idx);
    free(s->out);
    *s = (struct vnp_safe){.opt = s->opt};
}

void vnp_safe_destroy(struct vnp_safe *s) {
    if (!s) return;
    release(s);
    free(s);
}

/* Device, weights and a session for sequences of up to n_tokens. */
static vnp_status make_ready(struct vnp_safe *s, const struct vnp_checkpoint *c, int64_t n_tokens,
                             struct part **out) {
    const struct vnp_backend *b = s->opt.backend;
    struct vnp_device_options opt = {.precision = VNP_PREC_FP32,
                                     .idx_device = s->opt.idx_device,
                                     .n_threads = s->opt.n_threads,
                                     .cache_dir = s->opt.cache_dir};
    int i = 0;
    while (i < MAX_PARTS && s->parts[i].checkpoint && s->parts[i].checkpoint != c) i++;
    if (i == MAX_PARTS)
        return vnp_fail(VNP_BUG, VNP_FROM_NONE, "more than %d models of one device", MAX_PARTS);
    struct part *p = *out = &s->parts[i];
    p->checkpoint = c;
    if (!s->device) VNP_TRY(b->device_open(&opt, &s->device));
    if (!p->encoder) {
        vnp_log(VNP_LOG_INFO, "model",
                "%s:%d: loading weights in fp32 for sequences that overflow in %s", b->name,
                s->opt.idx_device, vnp_precision_name(s->opt.precision));
        VNP_TRY(vnp_encoder_create(b, s->device, c, &p->encoder));
    }
    if (p->session && n_tokens <= p->max_tokens) return VNP_OK;
    vnp_encoder_session_destroy(p->session);
    p->session = NULL;
    n_tokens = VNP_MAX(n_tokens, SAFE_TOKENS);
    VNP_TRY(vnp_encoder_session_create(p->encoder, n_tokens, SAFE_SEQS, &p->session));
    p->max_tokens = n_tokens;
    return VNP_OK;
}

static vnp_status reserve(struct vnp_safe *s, int64_t n_tokens, int64_t n_cols, int64_t n_rows) {
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
static vnp_status run_gathered(struct vnp_safe *s, const struct part *p, const struct rows *r,
                               int64_t n) {
    int64_t max_len = 0, row = 0;
    for (int64_t k = 0; k < n; k++) max_len = VNP_MAX(max_len, s->cu[k + 1] - s->cu[k]);
    struct vnp_pack pack = {s->cu[n], n, max_len, s->tokens, s->cu};
    VNP_TRY(vnp_encoder_submit(p->session, &pack, r->want, s->out));
    VNP_TRY(vnp_encoder_wait(p->session));
    for (int64_t k = 0; k < n; k++) {
        int64_t i = s->idx[k], n_rows = r->off[i + 1] - r->off[i];
        memcpy(r->out + r->off[i] * r->n_cols, s->out + row * r->n_cols,
               (size_t)(n_rows * r->n_cols) * sizeof *r->out);
        row += n_rows;
    }
    return VNP_OK;
}

/* Sequences whose rows are not finite, in packs of the safe session's size. */
static vnp_status rerun(struct vnp_safe *s, const struct part *p, const struct rows *r,
                        struct vnp_safe_count *count) {
    int64_t i = 0, n_seqs = r->pack->n_seqs;
    while (i < n_seqs) {
        int64_t n = 0;
        s->cu[0] = 0;
        for (; i < n_seqs && n < SAFE_SEQS; i++) {
            int64_t len = length(r, i);
            if (is_finite(r, i)) continue;
            if (s->cu[n] + len > p->max_tokens) break;
            memcpy(s->tokens + s->cu[n], r->pack->tokens + r->pack->cu_seqlens[i],
                   (size_t)len * sizeof *s->tokens);
            s->idx[n] = i;
            s->cu[n + 1] = (int32_t)(s->cu[n] + len);
            n++;
        }
        if (n == 0) break;
        VNP_TRY(run_gathered(s, p, r, n));
        count->n_rerun += n;
        count->n_rerun_tokens += s->cu[n];
    }
    return VNP_OK;
}

static int64_t count_guilty(const struct rows *r, int64_t *n_tokens, int64_t *max_len) {
    int64_t n = 0;
    *n_tokens = *max_len = 0;
    for (int64_t i = 0; i < r->pack->n_seqs; i++) {
        if (is_finite(r, i)) continue;
        *n_tokens += length(r, i);
        *max_len = VNP_MAX(*max_len, length(r, i));
        n++;
    }
    return n;
}

static vnp_status mend(struct vnp_safe *s, const struct vnp_checkpoint *c, const struct rows *r,
                       struct vnp_safe_count *count) {
    int64_t n_tokens, max_len, ignored;
    struct part *p = NULL;
    count->n_failed = count_guilty(r, &n_tokens, &max_len);
    if (count->n_failed == 0 || s->opt.precision == VNP_PREC_FP32) return VNP_OK;
    vnp_log(VNP_LOG_DEBUG, "model", "%lld of %lld sequences are not finite in %s",
            (long long)count->n_failed, (long long)r->pack->n_seqs,
            vnp_precision_name(s->opt.precision));
    bool is_pooled = r->want->pool != VNP_POOL_NONE;
    vnp_status status = make_ready(s, c, VNP_MIN(n_tokens, VNP_MAX(max_len, SAFE_TOKENS)), &p);
    if (status == VNP_OK)
        status = reserve(s, p->max_tokens, r->n_cols, is_pooled ? SAFE_SEQS : p->max_tokens);
    if (status == VNP_OK) status = rerun(s, p, r, count);
    count->n_failed = count_guilty(r, &ignored, &ignored);
    if (status == VNP_NOMEM || status == VNP_DEVICE_NOMEM) {
        struct vnp_error kept = *vnp_error_last();
        release(s);
        vnp_error_set(&kept);
    }
    return status;
}

vnp_status vnp_safe_mend(struct vnp_safe *s, const struct vnp_checkpoint *c,
                         const struct vnp_encoder_want *want, const struct vnp_pack *pack,
                         float *out, struct vnp_safe_count *count) {
    struct rows r = {want, pack, vnp_checkpoint_spec(c)->n_hidden, NULL, out};
    int64_t *off = malloc((size_t)(pack->n_seqs + 1) * sizeof *off);
    *count = (struct vnp_safe_count){0};
    if (!off) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a pack's rows");
    r.off = off;
    off[0] = 0;
    for (int64_t i = 0; i < pack->n_seqs; i++)
        off[i + 1] = off[i] + (want->pool == VNP_POOL_NONE ? length(&r, i) : 1);
    vnp_status status = mend(s, c, &r, count);
    free(off);
    return status;
}
