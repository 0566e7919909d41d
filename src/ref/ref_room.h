/* SPDX-License-Identifier: MIT
 * ref, inside: the device, the execution context and the roundings of the emulation mode. Every
 * tensor of this backend is FP32; a precision shows only in what the operands were rounded to. */
#ifndef VNP_REF_ROOM_H
#define VNP_REF_ROOM_H

#include "ref/ref.h"

#include <pthread.h>

/* Rows of a matrix product done by one task, and outputs summed side by side. */
#define VNP_REF_ROWS 8
#define VNP_REF_COLS 8

struct vnp_device {
    struct vnp_device_options opt;
    enum vnp_precision rounding; /* of operands; FP32 = none */
    struct vnp_pool *pool;
    pthread_mutex_t lock; /* one vnp_pool_run at a time, whichever thread asks */
};

struct vnp_linear {
    int64_t n_out, n_in, gate_rows, ld; /* ld = n_out rounded up to VNP_REF_COLS */
    float *weight;                      /* [ld / COLS][n_in][COLS], rounded, zeros behind n_out */
    float *bias;                        /* [ld], zeros where there is none */
};

struct vnp_ref_tensor;
struct vnp_exec {
    struct vnp_device *dev;
    struct vnp_exec_limits limits;
    const struct vnp_pack *pack;    /* in flight; borrowed */
    int64_t *seq_of;                /* [max_tokens]: the sequence of a row */
    float *heads;                   /* [max_tokens][3][D]: q, k^T, v as attention wants them */
    char *scratch;                  /* [n_threads][n_scratch] bytes */
    size_t n_scratch;               /* for one thread, a multiple of 64 */
    struct vnp_ref_tensor *tensors; /* list of those created */
};

void *vnp_ref_scratch(const struct vnp_exec *ex, int thread);
void vnp_ref_run(struct vnp_device *dev, int64_t n_tasks, vnp_pool_fn *fn, void *ctx);

/* Emulation: n values rounded to what `rounding` can hold. FP8 and INT8 take one scale for the
 * vector, its largest magnitude over the type's; so call it once a row or output channel. */
void vnp_ref_round(enum vnp_precision rounding, int64_t n, const float *x, float *out);
/* The same without a scale of its own: FP8 and INT8 leave the values alone. */
void vnp_ref_round_attention(enum vnp_precision rounding, int64_t n, float *x);

double vnp_ref_gelu(double x);

vnp_status vnp_ref_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                         struct vnp_tensor *out);
vnp_status vnp_ref_layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                             const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                             struct vnp_tensor *out_operand);
vnp_status vnp_ref_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                 struct vnp_linear **out);
void vnp_ref_linear_destroy(struct vnp_device *dev, struct vnp_linear *w);
int64_t vnp_ref_linear_bytes(const struct vnp_linear *w);
vnp_status vnp_ref_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                          const struct vnp_tensor *a, struct vnp_tensor *out);
vnp_status vnp_ref_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                             const struct vnp_tensor *qkv, struct vnp_tensor *out);
vnp_status vnp_ref_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                        const struct vnp_tensor *x, struct vnp_tensor *out);
vnp_status vnp_ref_classify(struct vnp_device *dev, const struct vnp_classifier_params *p,
                            const float *z, int64_t n_rows, float *out);

#endif
