// SPDX-License-Identifier: MIT
// DNABERT-S (DNABERT-2's MosaicBERT encoder; Zhou et al. 2024): post-norm layers with ALiBi
// attention and a gated feed-forward, no final norm. Straight-line op calls.
#include "model/model_room.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Press et al. 2022: for a power of two 2^(-8 i / H); otherwise the slopes of the power of two
 * below, then every other one of twice that power. */
void vnp_alibi_slopes(int64_t n_heads, float *out) {
    int64_t power = 1;
    while (power * 2 <= n_heads) power *= 2;
    for (int64_t h = 0; h < n_heads; h++) {
        double i = h < power ? (double)(h + 1) : (double)(2 * (h - power) + 1);
        out[h] = (float)exp2(-8 * i / (double)(h < power ? power : 2 * power));
    }
}

static vnp_status load_layer(struct vnp_encoder *e, const struct vnp_checkpoint *c, int64_t l) {
    struct vnp_model_layer *layer = &e->layers[l];
    static const char *const parts[] = {"attn.qkv", "attn.o",    "ffn.gated",
                                        "ffn.down", "attn_norm", "ffn_norm"};
    char text[VNP_COUNT(parts)][64];
    const char *names[VNP_COUNT(parts)];
    for (size_t i = 0; i < VNP_COUNT(parts); i++) {
        snprintf(text[i], sizeof text[i], "layer.%lld.%s", (long long)l, parts[i]);
        names[i] = text[i];
    }
    VNP_TRY(vnp_model_linear(e, c, names, 1, 0, VNP_SITE_ATTN_IN, &layer->qkv));
    VNP_TRY(vnp_model_linear(e, c, names + 1, 1, 0, VNP_SITE_ATTN_OUT, &layer->out));
    VNP_TRY(vnp_model_linear(e, c, names + 2, 1, e->spec.n_ffn, VNP_SITE_FFN_IN, &layer->up));
    VNP_TRY(vnp_model_linear(e, c, names + 3, 1, 0, VNP_SITE_FFN_MID, &layer->down));
    VNP_TRY(vnp_model_norm_load(e, c, names[4], &layer->attn_norm));
    return vnp_model_norm_load(e, c, names[5], &layer->ffn_norm);
}

static vnp_status load_slopes(struct vnp_encoder *e) {
    size_t n = (size_t)e->spec.n_heads;
    float *slopes = calloc(n, sizeof *slopes);
    if (!slopes) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "slopes of %zu heads", n);
    vnp_alibi_slopes(e->spec.n_heads, slopes);
    struct vnp_view v = {slopes, VNP_F32, 1, e->spec.n_heads};
    vnp_status status = e->b->const_create(e->dev, &v, &e->slopes);
    free(slopes);
    return status;
}

vnp_status vnp_dnabert_load(struct vnp_encoder *e, const struct vnp_checkpoint *c) {
    VNP_TRY(vnp_model_const(e, c, "embed.weight", e->spec.n_vocab, &e->table));
    VNP_TRY(vnp_model_const(e, c, "embed.type", 1, &e->type_row));
    VNP_TRY(vnp_model_norm_load(e, c, "embed_norm", &e->embed_norm));
    VNP_TRY(load_slopes(e));
    for (int64_t l = 0; l < e->spec.n_layers; l++) VNP_TRY(load_layer(e, c, l));
    return VNP_OK;
}

static vnp_status run_layer(struct vnp_encoder_session *s, const struct vnp_model_layer *layer,
                            bool is_last) {
    const struct vnp_backend *b = s->e->b;
    int64_t n_heads = s->e->spec.n_heads, head_dim = s->e->spec.n_hidden / n_heads;
    struct vnp_attention_params attention = {.n_heads = n_heads,
                                             .head_dim = head_dim,
                                             .scale = (float)(1 / sqrt((double)head_dim)),
                                             .slopes = s->e->slopes};
    VNP_TRY(vnp_encoder_qkv(s, layer->qkv, &attention));
    VNP_TRY(b->attention(s->ex, &attention, &s->qkv, &s->attn_out));
    VNP_TRY(vnp_encoder_linear_norm(s, layer->out, &layer->attn_norm, &s->attn_out, &s->ffn_in));
    VNP_TRY(b->linear(s->ex, layer->up, VNP_EPI_GEGLU, &s->ffn_in, &s->ffn_mid));
    return vnp_encoder_linear_norm(s, layer->down, &layer->ffn_norm, &s->ffn_mid,
                                   is_last ? NULL : &s->attn_in);
}

vnp_status vnp_dnabert_run(struct vnp_encoder_session *s, const struct vnp_encoder_want *want) {
    const struct vnp_encoder *e = s->e;
    struct vnp_embed_params embed = {
        .table = e->table, .type_row = e->type_row, .vocab = e->spec.n_vocab};
    struct vnp_norm_params embed_norm = vnp_model_norm_params(e, &e->embed_norm);
    VNP_TRY(e->b->embed(s->ex, &embed, &s->x));
    VNP_TRY(
        e->b->layernorm(s->ex, &embed_norm, &s->x, &s->x, want->layer > 0 ? &s->attn_in : NULL));
    for (int64_t l = 0; l < want->layer; l++) {
        VNP_TRY(vnp_model_go_on(want));
        VNP_TRY(run_layer(s, &e->layers[l], l + 1 == want->layer));
    }
    return VNP_OK;
}
