/* SPDX-License-Identifier: MIT
 * model: ESM-2, DNABERT-S and the classifier as straight-line op calls over any backend, with
 * their memory plan. Never names a backend. The room's one door. */
#ifndef VNP_MODEL_H
#define VNP_MODEL_H

#include "op/op.h"
#include "weights/weights.h"

#include <stdatomic.h>

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
    const atomic_bool *is_abandoned; /* looked at between layers: CANCELED once true; may be NULL */
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
/* Of the pack last waited for: pooled elements that are NaN or infinite (-1: the backend did not
 * count), and when its device worked on it, in seconds since the device was opened (false: it
 * cannot tell). */
int64_t vnp_encoder_n_nonfinite(const struct vnp_encoder_session *s);
bool vnp_encoder_span(const struct vnp_encoder_session *s, double *begin_s, double *end_s);
/* For benches: the context, to read marks from. */
struct vnp_exec *vnp_encoder_session_exec(const struct vnp_encoder_session *s);
/* For benches: enqueues the matrix products of a pack's layers and nothing else, on whatever the
 * operands hold. Wait as for submit; there is no result. */
vnp_status vnp_encoder_submit_products(struct vnp_encoder_session *s,
                                       const struct vnp_pack *pack) VNP_WARN_UNUSED;

/* ---- safe.c: sequences that overflow -------------------------------------------------------- */

bool vnp_vectors_are_finite(const float *x, int64_t n);

/* What computes sequences once more in FP32 whose vectors are NaN or infinite: on the same device,
 * with weights of its own, both opened when the first such sequence is met. For encoders that share
 * a device, up to three; not shared by threads. */
struct vnp_safe;
struct vnp_safe_options {
    const struct vnp_backend *backend;
    int idx_device, n_threads;
    const char *cache_dir;        /* borrowed; may be NULL */
    enum vnp_precision precision; /* of the vectors; FP32 has no safer one */
};
struct vnp_safe_count {              /* sequences of a pack */
    int64_t n_rerun, n_rerun_tokens; /* computed again in FP32 */
    int64_t n_failed;                /* not finite now */
};
vnp_status vnp_safe_create(const struct vnp_safe_options *opt,
                           struct vnp_safe **out) VNP_WARN_UNUSED;
void vnp_safe_destroy(struct vnp_safe *s);
/* Looks at out, the vectors of a pack from the encoder of c (which must outlive s), and computes
 * those again that are not finite; the others are not touched. After NOMEM or DEVICE_NOMEM, where
 * FP32 does not fit, its memory is free again; count is right after any failure but that of the
 * first allocation. */
vnp_status vnp_safe_mend(struct vnp_safe *s, const struct vnp_checkpoint *c,
                         const struct vnp_encoder_want *want, const struct vnp_pack *pack,
                         float *out, struct vnp_safe_count *count) VNP_WARN_UNUSED;

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

/* ---- training the classifier ---------------------------------------------------------------- */

enum vnp_train_optimizer { VNP_TRAIN_SGD = 0, VNP_TRAIN_ADAMW };

/* Upstream's recipe is what vnp_train_defaults gives: SGD 2e-4, momentum 0.9, the rate times 0.85
 * every 10 epochs, batches of 32, at most 200 epochs, patience 5, dropout 0.5. */
struct vnp_train_options {
    enum vnp_train_optimizer optimizer;
    int64_t n_hidden;
    double lr, momentum, weight_decay; /* weight_decay: ADAMW only */
    int step_epochs;
    double step_gamma;
    int batch, max_epochs, patience;
    double dropout;
    double class_weight[2]; /* of other, virus */
    uint64_t seed;
    int n_threads; /* < 1 = all; the result does not depend on it */
    /* Called about every hundred batches of an epoch; false ends the epoch with CANCELED: then
     * only a state saved before it is whole. May be NULL. */
    bool (*progress)(void *ctx, int64_t n_done, int64_t n);
    void *progress_ctx;
};
void vnp_train_defaults(struct vnp_train_options *opt);

/* Labelled vectors, borrowed. */
struct vnp_train_data {
    const float *const *rows; /* [n], each [n_in] */
    const uint8_t *labels;    /* [n], 0 other, 1 virus */
    int64_t n, n_in;
};

/* Measures on labelled vectors; undefined ones (a class is missing) are NaN. */
struct vnp_train_metrics {
    double loss, accuracy, precision, recall, f1, auroc, brier;
};

struct vnp_train_epoch {
    int epoch; /* from 1 */
    double lr, train_loss, seconds;
    struct vnp_train_metrics valid;
    bool is_best; /* lowest validation loss so far: these weights are the result */
};

/* The training of one classifier: weights, optimiser state, best weights so far. Not shared by
 * threads; uses a team of its own. */
struct vnp_trainer;
/* Weights drawn by Xavier's uniform rule from the seed, biases 0, BatchNorm at 1, 0. */
vnp_status vnp_trainer_create(const struct vnp_train_options *opt, int64_t n_in,
                              struct vnp_trainer **out) VNP_WARN_UNUSED;
void vnp_trainer_destroy(struct vnp_trainer *t);
/* One epoch over `train` in an order drawn from seed and epoch, then measures on `valid` (may be
 * empty: then train_loss judges). INVAL when n_in differs or fewer than two samples are given. */
vnp_status vnp_trainer_epoch(struct vnp_trainer *t, const struct vnp_train_data *train,
                             const struct vnp_train_data *valid,
                             struct vnp_train_epoch *out) VNP_WARN_UNUSED;
/* max_epochs done, or `patience` epochs without a better validation loss. */
bool vnp_trainer_is_done(const struct vnp_trainer *t);
/* Scores of the best weights so far. */
vnp_status vnp_trainer_score(struct vnp_trainer *t, const struct vnp_train_data *data,
                             float *scores /* [n][2] */) VNP_WARN_UNUSED;
vnp_status vnp_trainer_measure(struct vnp_trainer *t, const struct vnp_train_data *data,
                               struct vnp_train_metrics *out) VNP_WARN_UNUSED;
/* Scales and shifts the output layer so that the scores fit `data` best (Platt 1999: a line
 * through the logit difference by maximum likelihood). Ranks and AUROC stay. */
vnp_status vnp_trainer_calibrate(struct vnp_trainer *t, const struct vnp_train_data *data,
                                 double *scale, double *shift) VNP_WARN_UNUSED;
/* The best weights so far, row-major as op.h has them; borrowed until the next call on t. */
vnp_status vnp_trainer_params(struct vnp_trainer *t,
                              struct vnp_classifier_params *out) VNP_WARN_UNUSED;
/* Everything that the next epoch depends on, as bytes: a training that is loaded goes on to the
 * same bits as one that was never stopped. load: MISMATCH when options or sizes differ. */
size_t vnp_trainer_state_bytes(const struct vnp_trainer *t);
void vnp_trainer_state_save(const struct vnp_trainer *t, void *out);
vnp_status vnp_trainer_state_load(struct vnp_trainer *t, const void *state,
                                  size_t n_bytes) VNP_WARN_UNUSED;

/* ALiBi slopes for H heads (Press et al. 2022, the published non-power-of-two rule). */
void vnp_alibi_slopes(int64_t n_heads, float *out);

#endif
