// SPDX-License-Identifier: MIT
// What both encoders share: loading of prepared weights, a session's memory plan, and the frame of
// a run: checks, the architecture's own op calls, pooling, the copy back.
#include "model/model_room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- loading ------------------------------------------------------------------------------- */

vnp_status vnp_model_const(struct vnp_encoder *e, const struct vnp_checkpoint *c, const char *name,
                           int64_t n_rows, float **out) {
    struct vnp_view v;
    VNP_TRY(vnp_checkpoint_view(c, &v, "%s", name));
    if (v.rows < n_rows || v.cols != e->spec.n_hidden)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "%s is [%lld][%lld], expected [%lld][%lld]",
                        name, (long long)v.rows, (long long)v.cols, (long long)n_rows,
                        (long long)e->spec.n_hidden);
    v.rows = n_rows;
    VNP_TRY(e->b->const_create(e->dev, &v, out));
    e->n_bytes += v.rows * v.cols * (int64_t)sizeof(float);
    return VNP_OK;
}

vnp_status vnp_model_norm_load(struct vnp_encoder *e, const struct vnp_checkpoint *c,
                               const char *name, struct vnp_model_norm *out) {
    char full[160];
    snprintf(full, sizeof full, "%s.weight", name);
    VNP_TRY(vnp_model_const(e, c, full, 1, &out->gamma));
    snprintf(full, sizeof full, "%s.bias", name);
    return vnp_model_const(e, c, full, 1, &out->beta);
}

vnp_status vnp_model_linear(struct vnp_encoder *e, const struct vnp_checkpoint *c,
                            const char *const *names, int n_parts, int64_t gate_rows,
                            enum vnp_site site, struct vnp_linear **out) {
    struct vnp_view weights[3], biases[3];
    struct vnp_linear_desc desc = {.weight = weights, .bias = biases, .n_parts = n_parts};
    VNP_ASSERT(n_parts <= (int)VNP_COUNT(weights));
    for (int p = 0; p < n_parts; p++) {
        char bias[160];
        VNP_TRY(vnp_checkpoint_view(c, &weights[p], "%s.weight", names[p]));
        snprintf(bias, sizeof bias, "%s.bias", names[p]);
        memset(&biases[p], 0, sizeof biases[p]);
        if (vnp_checkpoint_find(c, bias)) VNP_TRY(vnp_checkpoint_view(c, &biases[p], "%s", bias));
        desc.n_out += weights[p].rows;
        desc.n_in = weights[p].cols;
    }
    desc.gate_rows = gate_rows;
    desc.site = site;
    vnp_status status = e->b->linear_create(e->dev, &desc, out);
    if (status != VNP_OK) {
        vnp_error_at(NULL, -1, -1, names[0]);
        return status;
    }
    e->n_bytes += e->b->linear_bytes(*out);
    vnp_checkpoint_trim(c); /* packed: the file's pages need not count as ours any longer */
    return VNP_OK;
}

static vnp_status check_spec(const struct vnp_model_spec *spec) {
    if (spec->kind != VNP_MODEL_ESM2 && spec->kind != VNP_MODEL_DNABERT)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "'%s' is no encoder", spec->name);
    if (spec->n_layers < 1 || spec->n_hidden < 1 || spec->n_heads < 1 || spec->n_ffn < 1 ||
        spec->n_vocab < 1 || spec->n_hidden % spec->n_heads != 0)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                        "'%s': %lld layers, width %lld, %lld heads, feed-forward %lld, vocabulary "
                        "%lld make no encoder",
                        spec->name, (long long)spec->n_layers, (long long)spec->n_hidden,
                        (long long)spec->n_heads, (long long)spec->n_ffn, (long long)spec->n_vocab);
    return VNP_OK;
}

vnp_status vnp_encoder_create(const struct vnp_backend *b, struct vnp_device *dev,
                              const struct vnp_checkpoint *c, struct vnp_encoder **out) {
    *out = NULL;
    VNP_TRY(vnp_backend_check(b, VNP_NEED_ENCODER));
    const struct vnp_model_spec *spec = vnp_checkpoint_spec(c);
    VNP_TRY(check_spec(spec));
    struct vnp_encoder *e = calloc(1, sizeof *e);
    if (!e) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "an encoder");
    e->b = b;
    e->dev = dev;
    e->spec = *spec;
    e->layers = calloc((size_t)spec->n_layers, sizeof *e->layers);
    vnp_status status = VNP_OK;
    if (!e->layers) status = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "an encoder's layers");
    if (status == VNP_OK)
        status = spec->kind == VNP_MODEL_ESM2 ? vnp_esm2_load(e, c) : vnp_dnabert_load(e, c);
    if (status != VNP_OK) {
        vnp_encoder_destroy(e);
        return status;
    }
    *out = e;
    return VNP_OK;
}

static void norm_destroy(const struct vnp_encoder *e, const struct vnp_model_norm *n) {
    e->b->const_destroy(e->dev, n->gamma);
    e->b->const_destroy(e->dev, n->beta);
}

void vnp_encoder_destroy(struct vnp_encoder *e) {
    if (!e) return;
    e->b->exec_destroy(e->first_ex);
    for (int64_t l = 0; e->layers && l < e->spec.n_layers; l++) {
        struct vnp_model_layer *layer = &e->layers[l];
        e->b->linear_destroy(e->dev, layer->qkv);
        e->b->linear_destroy(e->dev, layer->out);
        e->b->linear_destroy(e->dev, layer->up);
        e->b->linear_destroy(e->dev, layer->down);
        norm_destroy(e, &layer->attn_norm);
        norm_destroy(e, &layer->ffn_norm);
    }
    e->b->linear_destroy(e->dev, e->lm_dense);
    e->b->linear_destroy(e->dev, e->lm_out);
    norm_destroy(e, &e->lm_norm);
    norm_destroy(e, &e->final_norm);
    norm_destroy(e, &e->embed_norm);
    e->b->const_destroy(e->dev, e->slopes);
    e->b->const_destroy(e->dev, e->type_row);
    e->b->const_destroy(e->dev, e->table);
    free(e->layers);
    free(e);
}

const struct vnp_model_spec *vnp_encoder_spec(const struct vnp_encoder *e) {
    return &e->spec;
}

int64_t vnp_encoder_bytes(const struct vnp_encoder *e) {
    return e->n_bytes;
}

void vnp_encoder_out_shape(const struct vnp_encoder *e, const struct vnp_encoder_want *want,
                           const struct vnp_pack *pack, int64_t *rows, int64_t *cols) {
    bool is_every_token = want->is_logits || want->pool == VNP_POOL_NONE;
    *rows = is_every_token ? pack->n_tokens : pack->n_seqs;
    *cols = want->is_logits ? e->spec.n_vocab : e->spec.n_hidden;
}

/* ---- sessions ------------------------------------------------------------------------------ */

/* A tensor at `site`: a part of `lender`, which is wide enough, where the types agree; otherwise
 * memory of its own. */
static vnp_status share(struct vnp_encoder_session *s, enum vnp_site site, int64_t cols,
                        const struct vnp_tensor *lender, struct vnp_tensor *out) {
    bool is_same_type = s->e->b->site_dtype(s->e->dev, site) == lender->dtype;
    if (!is_same_type || cols > lender->cols)
        return s->e->b->tensor_create(s->ex, site, s->max_tokens, cols, out);
    *out = *lender;
    out->cols = cols;
    return VNP_OK;
}

static vnp_status plan(struct vnp_encoder_session *s) {
    const struct vnp_backend *b = s->e->b;
    const struct vnp_model_spec *spec = &s->e->spec;
    int64_t n = s->max_tokens, d = spec->n_hidden, f = spec->n_ffn;
    int64_t n_up = spec->kind == VNP_MODEL_DNABERT ? 2 * f : f;
    struct vnp_exec_limits limits = {
        .max_tokens = n,
        .max_seqs = s->max_seqs,
        .max_cols = VNP_MAX(VNP_MAX(3 * d, n_up), spec->n_vocab),
    };
    VNP_TRY(b->exec_create(s->e->dev, &limits, &s->ex));
    VNP_TRY(b->tensor_create(s->ex, VNP_SITE_RESIDUAL, n, d, &s->x));
    VNP_TRY(b->tensor_create(s->ex, VNP_SITE_ATTN_IN, n, d, &s->attn_in));
    VNP_TRY(share(s, VNP_SITE_ATTN_OUT, d, &s->attn_in, &s->attn_out));
    VNP_TRY(share(s, VNP_SITE_FFN_IN, d, &s->attn_in, &s->ffn_in));
    if (f >= 3 * d) {
        VNP_TRY(b->tensor_create(s->ex, VNP_SITE_FFN_MID, n, f, &s->ffn_mid));
        VNP_TRY(share(s, VNP_SITE_QKV, 3 * d, &s->ffn_mid, &s->qkv));
    } else {
        VNP_TRY(b->tensor_create(s->ex, VNP_SITE_QKV, n, 3 * d, &s->qkv));
        VNP_TRY(share(s, VNP_SITE_FFN_MID, f, &s->qkv, &s->ffn_mid));
    }
    VNP_TRY(b->tensor_create(s->ex, VNP_SITE_F32, s->max_seqs, d, &s->pooled));
    if (s->e->lm_out) VNP_TRY(b->tensor_create(s->ex, VNP_SITE_F32, n, spec->n_vocab, &s->logits));
    return VNP_OK;
}

vnp_status vnp_encoder_session_create(const struct vnp_encoder *e, int64_t max_tokens,
                                      int64_t max_seqs, struct vnp_encoder_session **out) {
    *out = NULL;
    if (max_tokens < 1 || max_seqs < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a session for %lld tokens in %lld sequences",
                        (long long)max_tokens, (long long)max_seqs);
    struct vnp_encoder_session *s = calloc(1, sizeof *s);
    if (!s) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "an encoder's session");
    s->e = e;
    s->max_tokens = max_tokens;
    s->max_seqs = max_seqs;
    vnp_status status = plan(s);
    if (status != VNP_OK) {
        vnp_encoder_session_destroy(s);
        return status;
    }
    *out = s;
    return VNP_OK;
}

void vnp_encoder_session_destroy(struct vnp_encoder_session *s) {
    if (!s) return;
    s->e->b->exec_destroy(s->ex);
    free(s);
}

static vnp_status check_want(const struct vnp_encoder *e, const struct vnp_encoder_want *want) {
    const struct vnp_model_spec *spec = &e->spec;
    if (want->layer < -1 || want->layer > spec->n_layers)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "layer %lld of '%s', which has %lld",
                        (long long)want->layer, spec->name, (long long)spec->n_layers);
    if ((unsigned)want->pool > VNP_POOL_CLS)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "pooling %d", (int)want->pool);
    if (want->is_logits && !e->lm_out)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL, "'%s' has no masked-LM head", spec->name);
    if (want->is_logits && want->layer != -1 && want->layer != spec->n_layers)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "logits of layer %lld: they are of the last",
                        (long long)want->layer);
    return VNP_OK;
}

static void set_rows(struct vnp_encoder_session *s, const struct vnp_pack *pack) {
    s->x.rows = s->attn_in.rows = s->qkv.rows = s->attn_out.rows = pack->n_tokens;
    s->ffn_in.rows = s->ffn_mid.rows = s->logits.rows = pack->n_tokens;
    s->pooled.rows = pack->n_seqs;
}

vnp_status vnp_model_drained(const struct vnp_backend *b, struct vnp_exec *ex, vnp_status status) {
    if (status == VNP_OK) return VNP_OK;
    struct vnp_error first = *vnp_error_last();
    (void)!b->exec_wait(ex);
    vnp_error_set(&first);
    return status;
}

static vnp_status enqueue(struct vnp_encoder_session *s, const struct vnp_pack *pack,
                          const struct vnp_encoder_want *want, float *out) {
    const struct vnp_backend *b = s->e->b;
    bool is_esm2 = s->e->spec.kind == VNP_MODEL_ESM2;
    struct vnp_encoder_want w = *want;
    if (w.layer < 0) w.layer = s->e->spec.n_layers;
    set_rows(s, pack);
    VNP_TRY(b->batch_begin(s->ex, pack));
    VNP_TRY(is_esm2 ? vnp_esm2_run(s, pack, &w) : vnp_dnabert_run(s, &w));
    if (w.is_logits) return b->read_f32(s->ex, &s->logits, out);
    if (w.pool == VNP_POOL_NONE) return b->read_f32(s->ex, &s->x, out);
    struct vnp_pool_params p = {.kind = w.pool};
    if (is_esm2 && w.pool == VNP_POOL_MEAN) {
        p.skip_first = p.skip_last = 1; /* <cls>, <eos> */
        p.max_count = 1024;
    }
    VNP_TRY(b->pool(s->ex, &p, &s->x, &s->pooled));
    return b->read_f32(s->ex, &s->pooled, out);
}

vnp_status vnp_encoder_submit(struct vnp_encoder_session *s, const struct vnp_pack *pack,
                              const struct vnp_encoder_want *want, float *out) {
    VNP_TRY(check_want(s->e, want));
    VNP_TRY(vnp_op_check_pack(pack, s->max_tokens, s->max_seqs));
    VNP_TRY(vnp_op_check_tokens(pack, s->e->spec.n_vocab));
    return vnp_model_drained(s->e->b, s->ex, enqueue(s, pack, want, out));
}

vnp_status vnp_encoder_wait(struct vnp_encoder_session *s) {
    return s->e->b->exec_wait(s->ex);
}

int64_t vnp_encoder_n_nonfinite(const struct vnp_encoder_session *s) {
    return s->e->b->exec_n_nonfinite ? s->e->b->exec_n_nonfinite(s->ex) : -1;
}

bool vnp_encoder_span(const struct vnp_encoder_session *s, double *begin_s, double *end_s) {
    return s->e->b->exec_span && s->e->b->exec_span(s->ex, begin_s, end_s);
}

struct vnp_exec *vnp_encoder_session_exec(const struct vnp_encoder_session *s) {
    return s->ex;
}

static vnp_status enqueue_products(struct vnp_encoder_session *s, const struct vnp_pack *pack) {
    const struct vnp_backend *b = s->e->b;
    enum vnp_epilogue up = s->e->spec.kind == VNP_MODEL_DNABERT ? VNP_EPI_GEGLU : VNP_EPI_GELU;
    set_rows(s, pack);
    VNP_TRY(b->batch_begin(s->ex, pack));
    for (int64_t l = 0; l < s->e->spec.n_layers; l++) {
        const struct vnp_model_layer *layer = &s->e->layers[l];
        VNP_TRY(b->linear(s->ex, layer->qkv, VNP_EPI_NONE, &s->attn_in, &s->qkv));
        VNP_TRY(b->linear(s->ex, layer->out, VNP_EPI_RESIDUAL, &s->attn_out, &s->x));
        VNP_TRY(b->linear(s->ex, layer->up, up, &s->ffn_in, &s->ffn_mid));
        VNP_TRY(b->linear(s->ex, layer->down, VNP_EPI_RESIDUAL, &s->ffn_mid, &s->x));
    }
    return VNP_OK;
}

vnp_status vnp_encoder_submit_products(struct vnp_encoder_session *s, const struct vnp_pack *pack) {
    VNP_TRY(vnp_op_check_pack(pack, s->max_tokens, s->max_seqs));
    return vnp_model_drained(s->e->b, s->ex, enqueue_products(s, pack));
}
