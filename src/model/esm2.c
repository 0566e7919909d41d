// SPDX-License-Identifier: MIT
// ESM-2 (Lin et al. 2023, Science 379:1123; fair-esm's ESM2 class): pre-norm layers with rotary
// attention, a final norm, and the masked-LM head. Straight-line op calls.
#include "model/model_room.h"

#include <math.h>
#include <stdio.h>

#define MASK_ID 32 /* <mask> in the published alphabet */

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

vnp_status vnp_esm2_load(struct vnp_encoder *e, const struct vnp_checkpoint *c) {
    if ((e->spec.n_hidden / e->spec.n_heads) % 2 != 0)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "'%s': heads of odd size %lld", e->spec.name,
                        (long long)(e->spec.n_hidden / e->spec.n_heads));
    VNP_TRY(vnp_model_const(e, c, "embed.weight", e->spec.n_vocab, &e->table));
    for (int64_t l = 0; l < e->spec.n_layers; l++) VNP_TRY(load_layer(e, c, l));
    VNP_TRY(vnp_model_norm_load(e, c, "final_norm", &e->final_norm));
    return e->spec.has_lm_head ? load_lm_head(e, c) : VNP_OK;
}

static vnp_status norm(struct vnp_encoder_session *s, const struct vnp_model_norm *n,
                       struct vnp_tensor *out_residual, struct vnp_tensor *out_operand) {
    struct vnp_norm_params p = {n->gamma, n->beta, s->e->spec.norm_eps};
    return s->e->b->layernorm(s->ex, &p, &s->x, out_residual, out_operand);
}

static vnp_status run_layer(struct vnp_encoder_session *s, const struct vnp_model_layer *layer) {
    const struct vnp_backend *b = s->e->b;
    int64_t n_heads = s->e->spec.n_heads, head_dim = s->e->spec.n_hidden / n_heads;
    struct vnp_attention_params attention = {.n_heads = n_heads,
                                             .head_dim = head_dim,
                                             .scale = (float)(1 / sqrt((double)head_dim)),
                                             .has_rotary = true,
                                             .freq_dtype = s->e->spec.freq_dtype};
    VNP_TRY(norm(s, &layer->attn_norm, NULL, &s->attn_in));
    VNP_TRY(vnp_encoder_qkv(s, layer->qkv, &attention));
    VNP_TRY(b->attention(s->ex, &attention, &s->qkv, &s->attn_out));
    VNP_TRY(b->linear(s->ex, layer->out, VNP_EPI_RESIDUAL, &s->attn_out, &s->x));
    VNP_TRY(norm(s, &layer->ffn_norm, NULL, &s->ffn_in));
    VNP_TRY(b->linear(s->ex, layer->up, VNP_EPI_GELU, &s->ffn_in, &s->ffn_mid));
    return b->linear(s->ex, layer->down, VNP_EPI_RESIDUAL, &s->ffn_mid, &s->x);
}

/* Leaves the representation asked for in x, or the logits in theirs. The residual stream lends its
 * memory to the head's middle: nobody needs it any more. */
vnp_status vnp_esm2_run(struct vnp_encoder_session *s, const struct vnp_encoder_want *want) {
    const struct vnp_encoder *e = s->e;
    struct vnp_embed_params embed = {.table = e->table,
                                     .vocab = e->spec.n_vocab,
                                     .has_token_dropout = e->spec.has_token_dropout,
                                     .mask_id = MASK_ID};
    VNP_TRY(e->b->embed(s->ex, &embed, &s->x));
    for (int64_t l = 0; l < want->layer; l++) {
        VNP_TRY(vnp_model_go_on(want));
        VNP_TRY(run_layer(s, &e->layers[l]));
    }
    if (want->layer < e->spec.n_layers) return VNP_OK;
    if (!want->is_logits) return norm(s, &e->final_norm, &s->x, NULL);
    VNP_TRY(norm(s, &e->final_norm, NULL, &s->ffn_in));
    VNP_TRY(e->b->linear(s->ex, e->lm_dense, VNP_EPI_GELU, &s->ffn_in, &s->x));
    VNP_TRY(norm(s, &e->lm_norm, NULL, &s->ffn_in));
    return e->b->linear(s->ex, e->lm_out, VNP_EPI_NONE, &s->ffn_in, &s->logits);
}
