/* SPDX-License-Identifier: MIT
 * model: ESM-2, DNABERT-S and the classifier as straight-line op calls over any backend, with
 * their memory plan. Never names a backend. The room's one door. */
#ifndef VNP_MODEL_H
#define VNP_MODEL_H

#include "op/op.h"
#include "weights/weights.h"

/* An encoder's weights on one device. Immutable after create; sessions share it. */
struct vnp_encoder;

vnp_status vnp_encoder_create(const struct vnp_backend *b, struct vnp_device *dev,
                              const struct vnp_checkpoint *c,
                              struct vnp_encoder **out) VNP_WARN_UNUSED;
void vnp_encoder_destroy(struct vnp_encoder *e);
const struct vnp_model_spec *vnp_encoder_spec(const struct vnp_encoder *e);
int64_t vnp_encoder_bytes(const struct vnp_encoder *e); /* prepared weights on the device */

/* What a run gives back. */
struct vnp_encoder_want {
    int64_t layer;           /* -1 = last (after the final norm); 0 = scaled embedding; 1..L */
    enum vnp_pool_kind pool; /* MEAN: upstream's rule for the model; CLS; NONE: every token */
    bool is_logits;          /* ESM-2 masked-LM logits of every token instead ([N][V]) */
};
/* Rows and columns of the result of a pack. */
void vnp_encoder_out_shape(const struct vnp_encoder *e, const struct vnp_encoder_want *want,
                           const struct vnp_pack *pack, int64_t *rows, int64_t *cols);

/* Buffers and a stream for one pack at a time. Two sessions of a device overlap. */
struct vnp_encoder_session;
vnp_status vnp_encoder_session_create(const struct vnp_encoder *e, int64_t max_tokens,
                                      int64_t max_seqs,
                                      struct vnp_encoder_session **out) VNP_WARN_UNUSED;
void vnp_encoder_session_destroy(struct vnp_encoder_session *s);
/* Enqueues a pack; `out` ([rows][cols] f32, host) and `pack` belong to the session until wait. */
vnp_status vnp_encoder_submit(struct vnp_encoder_session *s, const struct vnp_pack *pack,
                              const struct vnp_encoder_want *want, float *out) VNP_WARN_UNUSED;
vnp_status vnp_encoder_wait(struct vnp_encoder_session *s) VNP_WARN_UNUSED;

/* The classifier, on a host backend. Immutable; shared by threads. */
struct vnp_classifier;
vnp_status vnp_classifier_create(const struct vnp_backend *host, struct vnp_device *dev,
                                 const struct vnp_checkpoint *c,
                                 struct vnp_classifier **out) VNP_WARN_UNUSED;
void vnp_classifier_destroy(struct vnp_classifier *c);
const struct vnp_model_spec *vnp_classifier_spec(const struct vnp_classifier *c);
/* z [n][n_in] -> scores [n][2] = {score1 others, score2 virus}. */
vnp_status vnp_classifier_run(const struct vnp_classifier *c, const float *z, int64_t n_rows,
                              float *scores) VNP_WARN_UNUSED;

/* ALiBi slopes for H heads (Press et al. 2022, the published non-power-of-two rule). */
void vnp_alibi_slopes(int64_t n_heads, float *out);

#endif
