/* SPDX-License-Identifier: MIT
 * model, inside: prepared weights of an encoder, a session's buffers, and how one architecture is
 * plugged into both. */
#ifndef VNP_MODEL_ROOM_H
#define VNP_MODEL_ROOM_H

#include "model/model.h"

struct vnp_model_norm {
    float *gamma, *beta; /* [D] f32, on the device */
};

struct vnp_model_layer {
    struct vnp_linear *qkv, *out, *up, *down; /* DNABERT: up is the gated product [2F][D] */
    struct vnp_model_norm attn_norm, ffn_norm;
};

struct vnp_encoder {
    const struct vnp_backend *b;
    struct vnp_device *dev;
    struct vnp_model_spec spec;
    float *table;                     /* [V][D] f32 */
    float *type_row;                  /* DNABERT: [D] f32 */
    float *slopes;                    /* DNABERT: [H] f32 */
    struct vnp_model_norm embed_norm; /* DNABERT */
    struct vnp_model_norm final_norm; /* ESM-2 */
    struct vnp_linear *lm_dense, *lm_out;
    struct vnp_model_norm lm_norm;
    int64_t n_bytes;
    struct vnp_model_layer *layers; /* [L] */
    /* ESM-2: the first layer's QKV product of each token, [V][3D], and the context it lies in; NULL
     * where the backend has no qkv_of_tokens. <mask> has none: with it a whole sequence's
     * embeddings are scaled otherwise. */
    struct vnp_exec *first_ex;
    struct vnp_tensor first_qkv;
};

/* The memory plan. Three tensors of a layer are never alive together (the operand of the QKV
 * product, attention's result, the operand of the up product) and neither are the two wide ones
 * (QKV and the feed-forward middle); each group shares one piece of memory where the device gives
 * its sites the same type. */
struct vnp_encoder_session {
    const struct vnp_encoder *e;
    struct vnp_exec *ex;
    int64_t max_tokens, max_seqs;
    struct vnp_tensor x;        /* [N][D] residual stream */
    struct vnp_tensor attn_in;  /* [N][D] */
    struct vnp_tensor qkv;      /* [N][3][H][Dh] */
    struct vnp_tensor attn_out; /* [N][D] */
    struct vnp_tensor ffn_in;   /* [N][D] */
    struct vnp_tensor ffn_mid;  /* [N][F] */
    struct vnp_tensor pooled;   /* [S][D] f32 */
    struct vnp_tensor logits;   /* [N][V] f32, with a masked-LM head only */
};

/* Before each layer: CANCELED when the caller no longer wants the answer. */
static inline vnp_status vnp_model_go_on(const struct vnp_encoder_want *want) {
    if (!want->is_abandoned || !atomic_load(want->is_abandoned)) return VNP_OK;
    return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "the batch was abandoned");
}

/* After a failure nothing of a pack may stay in flight; the failure stays the last error. */
vnp_status vnp_model_drained(const struct vnp_backend *b, struct vnp_exec *ex, vnp_status status);

static inline struct vnp_norm_params vnp_model_norm_params(const struct vnp_encoder *e,
                                                           const struct vnp_model_norm *n) {
    return (struct vnp_norm_params){n->gamma, n->beta, e->spec.norm_eps};
}

/* The QKV product of a layer; q and k leave it rotated where the backend does that. */
static inline vnp_status vnp_encoder_qkv(struct vnp_encoder_session *s, const struct vnp_linear *w,
                                         struct vnp_attention_params *attention) {
    const struct vnp_backend *b = s->e->b;
    if (b->linear_qkv) return b->linear_qkv(s->ex, w, attention, &s->attn_in, &s->qkv);
    return b->linear(s->ex, w, VNP_EPI_NONE, &s->attn_in, &s->qkv);
}

/* x = LN(x + a W^T + b), a post-norm half layer's end; out_operand (may be NULL) is the operand of
 * the product that follows. */
static inline vnp_status vnp_encoder_linear_norm(struct vnp_encoder_session *s,
                                                 const struct vnp_linear *w,
                                                 const struct vnp_model_norm *n,
                                                 const struct vnp_tensor *a,
                                                 struct vnp_tensor *out_operand) {
    const struct vnp_backend *b = s->e->b;
    struct vnp_norm_params p = vnp_model_norm_params(s->e, n);
    if (b->linear_norm) return b->linear_norm(s->ex, w, &p, a, &s->x, out_operand);
    VNP_TRY(b->linear(s->ex, w, VNP_EPI_RESIDUAL, a, &s->x));
    return b->layernorm(s->ex, &p, &s->x, &s->x, out_operand);
}

/* Loading: every call names what failed. */
vnp_status vnp_model_const(struct vnp_encoder *e, const struct vnp_checkpoint *c, const char *name,
                           int64_t n_rows, float **out);
vnp_status vnp_model_norm_load(struct vnp_encoder *e, const struct vnp_checkpoint *c,
                               const char *name, struct vnp_model_norm *out);
/* names [n_parts]: NAME.weight stacked in order, with NAME.bias where the checkpoint has it. */
vnp_status vnp_model_linear(struct vnp_encoder *e, const struct vnp_checkpoint *c,
                            const char *const *names, int n_parts, int64_t gate_rows,
                            enum vnp_site site, struct vnp_linear **out);

vnp_status vnp_esm2_load(struct vnp_encoder *e, const struct vnp_checkpoint *c);
vnp_status vnp_esm2_run(struct vnp_encoder_session *s, const struct vnp_pack *pack,
                        const struct vnp_encoder_want *want);
vnp_status vnp_dnabert_load(struct vnp_encoder *e, const struct vnp_checkpoint *c);
vnp_status vnp_dnabert_run(struct vnp_encoder_session *s, const struct vnp_encoder_want *want);

#endif
