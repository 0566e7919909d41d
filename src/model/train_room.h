/* SPDX-License-Identifier: MIT
 * Between train.c and its inner loops. A panel is 32 hidden units: its weights lie [n_in][32], so
 * that one input value meets 32 neighbouring weights. */
#ifndef VNP_TRAIN_ROOM_H
#define VNP_TRAIN_ROOM_H

#include <stdint.h>

#define VNP_TRAIN_PANEL 32

/* One update's numbers. ADAMW when adam is set. */
struct vnp_train_step {
    float lr, momentum;
    int is_adam;
    float beta1, beta2, eps, decay; /* decay = lr * weight_decay */
    float correct1, correct2;       /* 1 / (1 - beta^t) */
};

struct vnp_train_kernels {
    /* h[rows][32] = z[rows][n_in] w, sums over k in ascending order. n_in % 8 == 0. */
    void (*forward)(const float *z, int64_t ld, int rows, int64_t n_in, const float *w, float *h);
    /* g = z^T d for every k and the 32 units, and at once the update of w with its moments
     * v (and u for Adam): the gradient is never stored. */
    void (*update)(const float *z, int64_t ld, int rows, int64_t n_in, const float *d,
                   const struct vnp_train_step *step, float *w, float *v, float *u);
};

const struct vnp_train_kernels *vnp_train_kernels_generic(void);
const struct vnp_train_kernels *vnp_train_kernels_avx2(void);
const struct vnp_train_kernels *vnp_train_kernels_avx512(void);

#endif
