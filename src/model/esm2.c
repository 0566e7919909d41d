// SPDX-License-Identifier: MIT
// ESM-2 (Lin et al. 2023, Science 379:1123; fair-esm's ESM2 class): pre-norm layers with rotary
// attention, a final norm, and the masked-LM head. Straight-line op calls.
#include "model/model_room.h"

#include <math.h>
#include <stdio.h>

#define MASK_ID 32      /* <mask> in the published alphabet */
#define MAX_BY_TOKEN 64 /* tokens of a vocabulary whose first products are kept */

static vnp_status load_layer(struct vnp_encoder *e, const struct vnp_checkpoint *c, int64_t l) {
    struct vnp_model_layer *layer = &e->layers[l];
    static const char *const parts[] = {"attn.q", "attn.k",   "attn.v",    "attn.o",
                                        "ffn.up", "ffn.down", "attn_norm", "ffn_norm"};
    char text[VNP_COUNT(parts)][64];
    const char *names[VNP_COUNT(parts)];
    for (size_t i = 0; i < VNP_COUNT(parts); i++) {
        snprintf(text[i], sizeof text[i], "layer.%lld.%s", (long long)l, parts[i]);
        names[i] = text[i];
    }
    VNP_TRY(vnp_model_linear(e, c, names, 3, 0, VNP_SITE_ATTN_IN, &layer->qkv));
    VNP_TRY(vnp_model_linear(e, c, names + 3, 1, 0, VNP_SITE_ATTN_OUT, &layer->out));
    VNP_TRY(vnp_model_linear(e, c, names + 4, 1, 0, VNP_SITE_FFN_IN, &layer->up));
    VNP_TRY(vnp_model_linear(e, c, names + 5, 1, 0, VNP_SITE_FFN_MID, &layer->down));
    VNP_TRY(vnp_model_norm_load(e, c, names[6], &layer->attn_norm));
    return vnp_model_norm_load(e, c, names[7], &layer->ffn_norm);
}

/* logits = LN(gelu(x Wd + bd)) E^T + b */
static vnp_status load_lm_head(struct vnp_encoder *e, const struct vnp_checkpoint *c) {
    const char *dense = "lm.dense";
    struct vnp_view weight, bias;
    VNP_TRY(vnp_model_linear(e, c, &dense, 1, 0, VNP_SITE_FFN_IN, &e->lm_dense));
    VNP_TRY(vnp_model_norm_load(e, c, "lm.norm", &e->lm_norm));
    VNP_TRY(vnp_checkpoint_view(c, &weight, "embed.weight"));
    VNP_TRY(vnp_checkpoint_view(c, &bias, "lm.bias"));
    struct vnp_linear_desc desc = {.weight = &weight,
                                   .bias = &bias,
                                   .n_parts = 1,
                                   .n_out = weight.rows,
                                   .n_in = weight.cols,
                                   .site = VNP_SITE_FFN_IN};
    VNP_TRY(e->b->linear_create(e->dev, &desc, &e->lm_out));
    e->n_bytes += e->b->linear_bytes(e->lm_out);
    return VNP_OK;
}

static struct vnp_embed_params embedding(const struct vnp_encoder *e) {
    return (struct vnp_embed_params){.table = e->table,
                                     .vocab = e->spec.n_vocab,
                                     .has_token_dropout = e->spec.has_token_dropout,
                                     .mask_id = MASK_ID};
}

static vnp_status enqueue_first(struct vnp_encoder *e, const struct vnp_pack *pack,
                                struct vnp_tensor *x, struct vnp_tensor *a) {
    const struct vnp_backend *b = e->b;
    struct vnp_embed_params embed = embedding(e);
    struct vnp_norm_params norm = vnp_model_norm_params(e, &e->layers[0].attn_norm);
    VNP_TRY(b->batch_begin(e->first_ex, pack));
    VNP_TRY(b->embed(e->first_ex, &embed, x));
    VNP_TRY(b->layernorm(e->first_ex, &norm, x, NULL, a));
    return b->linear(e->first_ex, e->layers[0].qkv, VNP_EPI_NONE, a, &e->first_qkv);
}

/* Every token as a sequence of its own; another one in the place of <mask>, which nobody asks for.
 */
static vnp_status fill_first(struct vnp_encoder *e, struct vnp_tensor *x, struct vnp_tensor *a) {
    uint16_t tokens[MAX_BY_TOKEN];
    int32_t cu[MAX_BY_TOKEN + 1] = {0};
    int64_t n = e->spec.n_vocab;
    struct vnp_pack pack = {n, n, 1, tokens, cu}; /* borrowed until the wait */
    for (int i = 0; i < (int)n; i++) {
        tokens[i] = (uint16_t)(e->spec.has_token_dropout && i == MASK_ID ? 0 : i);
        cu[i + 1] = i + 1;
    }
    x->rows = a->rows = e->first_qkv.rows = n;
    VNP_TRY(vnp_model_drained(e->b, e->first_ex, enqueue_first(e, &pack, x, a)));
    return e->b->exec_wait(e->first_ex);
}

static vnp_status load_first(struct vnp_encoder *e) {
    const struct vnp_backend *b = e->b;
    int64_t n = e->spec.n_vocab, d = e->spec.n_hidden;
    struct vnp_exec_limits limits = {.max_tokens = n, .max_seqs = n, .max_cols = 3 * d};
    struct vnp_tensor x, a;
    if (!b->qkv_of_tokens || n > MAX_BY_TOKEN) return VNP_OK;
    VNP_TRY(b->exec_create(e->dev, &limits, &e->first_ex));
    VNP_TRY(b->tensor_create(e->first_ex, VNP_SITE_RESIDUAL, n, d, &x));
    VNP_TRY(b->tensor_create(e->first_ex, VNP_SITE_ATTN_IN, n, d, &a));
    VNP_TRY(b->tensor_create(e->first_ex, b->linear_qkv ? VNP_SITE_F32 : VNP_SITE_QKV, n, 3 * d,
                             &e->first_qkv));
    e->n_bytes += n * e->first_qkv.ld * (int64_t)vnp_dtype_bytes(e->first_qkv.dtype);
    return fill_first(e, &x, &a);
}

/* Does first_qkv serve the pack? */
static bool is_by_token(const struct vnp_encoder *e, const struct vnp_pack *pack) {
    if (!e->first_ex) return false;
    for (int64_t i = 0; e->spec.has_token_dropout && i < pack->n_tokens; i++)
        if (pack->tokens[i] == MASK_ID) return false;
    return true;
}

vnp_status vnp_esm2_load(struct vnp_encoder *e, const struct vnp_checkpoint *c) {
    if ((e->spec.n_hidden / e->spec.n_heads) % 2 != 0)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "'%s': heads of odd size %lld", e->spec.name,
                        (long long)(e->spec.n_hidden / e->spec.n_heads));
    VNP_TRY(vnp_model_const(e, c, "embed.weight", e->spec.n_vocab, &e->table));
    for (int64_t l = 0; l < e->spec.n_layers; l++) VNP_TRY(load_layer(e, c, l));
    VNP_TRY(vnp_model_norm_load(e, c, "final_norm", &e->final_norm));
    VNP_TRY(load_first(e));
    return e->spec.has_lm_head ? load_lm_head(e, c) : VNP_OK;
}

static vnp_status norm(struct vnp_encoder_session *s, const struct vnp_model_norm *n,
                       struct vnp_tensor *out_residual, struct vnp_tensor *out_operand) {
    struct vnp_norm_params p = vnp_model_norm_params(s->e, n);
    return s->e->b->layernorm(s->ex, &p, &s->x, out_residual, out_operand);
}

static vnp_status run_layer(struct vnp_encoder_session *s, const struct vnp_model_layer *layer,
                            bool has_first) {
    const struct vnp_backend *b = s->e->b;
    int64_t n_heads = s->e->spec.n_heads, head_dim = s->e->spec.n_hidden / n_heads;
    struct vnp_attention_params attention = {.n_heads = n_heads,
                                             .head_dim = head_dim,
                                             .scale = (float)(1 / sqrt((double)head_dim)),
                                             .has_rotary = true,
                                             .freq_dtype = s->e->spec.freq_dtype};
    if (has_first) {
        VNP_TRY(b->qkv_of_tokens(s->ex, &s->e->first_qkv, &attention, &s->qkv));
    } else {
        VNP_TRY(norm(s, &layer->attn_norm, NULL, &s->attn_in));
        VNP_TRY(vnp_encoder_qkv(s, layer->qkv, &attention));
    }
    VNP_TRY(b->attention(s->ex, &attention, &s->qkv, &s->attn_out));
    VNP_TRY(b->linear(s->ex, layer->out, VNP_EPI_RESIDUAL, &s->attn_out, &s->x));
    VNP_TRY(norm(s, &layer->ffn_norm, NULL, &s->ffn_in));
    VNP_TRY(b->linear(s->ex, layer->up, VNP_EPI_GELU, &s->ffn_in, &s->ffn_mid));
    return b->linear(s->ex, layer->down, VNP_EPI_RESIDUAL, &s->ffn_mid, &s->x);
}

/* Leaves the representation asked for in x, or the logits in theirs. The residual stream lends its
 * memory to the head's middle: nobody needs it any more. */
vnp_status vnp_esm2_run(struct vnp_encoder_session *s, const struct vnp_pack *pack,
                        const struct vnp_encoder_want *want) {
    const struct vnp_encoder *e = s->e;
    struct vnp_embed_params embed = embedding(e);
    VNP_TRY(e->b->embed(s->ex, &embed, &s->x));
    for (int64_t l = 0; l < want->layer; l++) {
        VNP_TRY(vnp_model_go_on(want));
        VNP_TRY(run_layer(s, &e->layers[l], l == 0 && is_by_token(e, pack)));
    }
    if (want->layer < e->spec.n_layers) return VNP_OK;
    if (!want->is_logits) return norm(s, &e->final_norm, &s->x, NULL);
    VNP_TRY(norm(s, &e->final_norm, NULL, &s->ffn_in));
    VNP_TRY(e->b->linear(s->ex, e->lm_dense, VNP_EPI_GELU, &s->ffn_in, &s->x));
    VNP_TRY(norm(s, &e->lm_norm, NULL, &s->ffn_in));
    return e->b->linear(s->ex, e->lm_out, VNP_EPI_NONE, &s->ffn_in, &s->logits);
}
