/* SPDX-License-Identifier: MIT
 * Between train.c and its inner loops. A panel is 32 hidden units: its weights lie [n_in][32], so
 * that one input value meets 32 neighbouring weights. A batch lies in groups of 8 samples,
 * [group][n_in][8]; the last group is filled up with zeros. Values of a panel's units lie
 * [8 * groups][32]. */
#ifndef VNP_TRAIN_ROOM_H
#define VNP_TRAIN_ROOM_H

#include <stdint.h>

#define VNP_TRAIN_PANEL 32
#define VNP_TRAIN_GROUP 8

/* One update's numbers. ADAMW when adam is set. */
struct vnp_train_step {
    float lr, momentum;
    int is_adam;
    float beta1, beta2, eps, decay; /* decay = lr * weight_decay */
    float correct1, correct2;       /* 1 / (1 - beta^t) */
};

/* A pass over a panel's weights: update from one batch, product with the next, or one of both. */
struct vnp_train_sweep {
    int64_t n_in;                      /* % 8 == 0 */
    float *w, *v, *u;                  /* weights and moments; u for Adam */
    const struct vnp_train_step *step; /* NULL: no update */
    const float *z_last, *d;           /* the batch of the update, [groups][n_in][8] and [][32] */
    int n_last;                        /* its groups */
    const float *z_next;               /* NULL: no product */
    float *h;                          /* [8 * n_next][32] = z_next w */
    int n_next;
};

/* Everything of a panel that follows the product, forward and backward. */
struct vnp_train_units {
    int n;                     /* samples */
    const float *gamma, *beta; /* [32], as w_other and w_virus */
    const float *w_other, *w_virus;
    float *h, *xhat, *y, *inv; /* [n][32], inv [32] */
    double *mean, *var;        /* [32] of the batch, var over n */
    float *logits;             /* [n][2]: this panel's part */
    uint64_t key, threshold;   /* a unit of a sample is dropped when its hash < threshold */
    float scale;               /* of what is kept */
    const int32_t *samples;    /* [n] */
    uint64_t n_pad, first_unit;
    const float *d_logits;                        /* [n][2] */
    float *d;                                     /* [8 * groups][32] */
    double *g_other, *g_virus, *g_gamma, *g_beta; /* [32] */
};

struct vnp_train_kernels {
    /* z = rows as groups; n_in elements a row, padded with zeros to n_pad. */
    void (*pack)(const float *const *rows, int n, int64_t n_in, int64_t n_pad, float *z);
    void (*sweep)(const struct vnp_train_sweep *s);
    /* BatchNorm, ReLU, dropout, logits from h. */
    void (*forward)(const struct vnp_train_units *u);
    /* Gradients of the vectors, and d = dL/dh, from d_logits, y and xhat. */
    void (*backward)(const struct vnp_train_units *u);
};

const struct vnp_train_kernels *vnp_train_kernels_generic(void);
const struct vnp_train_kernels *vnp_train_kernels_avx2(void);
const struct vnp_train_kernels *vnp_train_kernels_avx512(void);

#endif
