// SPDX-License-Identifier: MIT
// The two products of the classifier's training, by panels of 32 hidden units, in vectors of 16
// floats that the compiler maps to the instruction set at hand.
//
// forward  h = z w          2*rows*n_in*32 flop; reads the panel once for 8 rows: 128*n_in bytes
// update   g = z^T d, then SGD with momentum or AdamW in the same pass: reads and writes w and v
//          once, 512*n_in bytes (AdamW 768*n_in), gradients stay in registers
// Order    sums over k (forward) and over rows (update) ascending, one accumulator each: the bits
//          do not depend on the thread that owns the panel
// Ref      tests/model/test_train.c has the plain loops
#include "model/train_room.h"

#include <math.h>

#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)
#define KERNELS CAT(vnp_train_kernels_, VNP_TRAIN_ISA)

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

enum { ROWS = 8, KS = 8 };

static inline v16 load(const float *p) {
    return *(const v16 *)p;
}
static inline void store(float *p, v16 v) {
    *(v16 *)p = v;
}

static inline __attribute__((always_inline)) void
forward_rows(const float *z, int64_t ld, int rows, int64_t n_in, const float *w, float *h) {
    v16 a[ROWS][2];
    for (int r = 0; r < ROWS; r++) a[r][0] = a[r][1] = (v16){0};
    for (int64_t k = 0; k < n_in; k++) {
        v16 w0 = load(w + k * VNP_TRAIN_PANEL), w1 = load(w + k * VNP_TRAIN_PANEL + 16);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float s = z[r * ld + k];
            a[r][0] += s * w0;
            a[r][1] += s * w1;
        }
    }
    for (int r = 0; r < rows; r++) {
        store(h + r * VNP_TRAIN_PANEL, a[r][0]);
        store(h + r * VNP_TRAIN_PANEL + 16, a[r][1]);
    }
}

static void forward(const float *z, int64_t ld, int rows, int64_t n_in, const float *w, float *h) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        forward_rows(z + r * ld, ld, ROWS, n_in, w, h + r * VNP_TRAIN_PANEL);
    for (; r < rows; r++) forward_rows(z + r * ld, ld, 1, n_in, w, h + r * VNP_TRAIN_PANEL);
}

static inline void move_sgd(const struct vnp_train_step *s, v16 g, float *w, float *v) {
    v16 m = s->momentum * load(v) + g;
    store(v, m);
    store(w, load(w) - s->lr * m);
}

static inline void move_adam(const struct vnp_train_step *s, v16 g, float *w, float *v, float *u) {
    v16 m = s->beta1 * load(v) + (1.0f - s->beta1) * g;
    v16 q = s->beta2 * load(u) + (1.0f - s->beta2) * (g * g), root = q;
    store(v, m);
    store(u, q);
    for (int i = 0; i < 16; i++) root[i] = sqrtf(q[i] * s->correct2);
    v16 x = load(w) * (1.0f - s->decay);
    store(w, x - s->lr * (m * s->correct1) / (root + s->eps));
}

static void update(const float *z, int64_t ld, int rows, int64_t n_in, const float *d,
                   const struct vnp_train_step *step, float *w, float *v, float *u) {
    for (int64_t k0 = 0; k0 < n_in; k0 += KS) {
        v16 g[KS][2];
        for (int i = 0; i < KS; i++) g[i][0] = g[i][1] = (v16){0};
        for (int r = 0; r < rows; r++) {
            v16 d0 = load(d + r * VNP_TRAIN_PANEL), d1 = load(d + r * VNP_TRAIN_PANEL + 16);
            const float *x = z + r * ld + k0;
#pragma GCC unroll 8
            for (int i = 0; i < KS; i++) {
                g[i][0] += x[i] * d0;
                g[i][1] += x[i] * d1;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < KS; i++) {
            for (int half = 0; half < 2; half++) {
                int64_t at = (k0 + i) * VNP_TRAIN_PANEL + 16 * half;
                if (step->is_adam)
                    move_adam(step, g[i][half], w + at, v + at, u + at);
                else
                    move_sgd(step, g[i][half], w + at, v + at);
            }
        }
    }
}

const struct vnp_train_kernels *KERNELS(void) {
    static const struct vnp_train_kernels kernels = {forward, update};
    return &kernels;
}
