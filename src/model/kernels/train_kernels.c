// SPDX-License-Identifier: MIT
// Inner loops of the classifier's training by panels of 32 hidden units, in vectors of 16 floats
// that the compiler maps to the instruction set at hand.
//
// sweep    one pass over a panel's weights, in blocks of 64 inputs that stay in the first cache:
//          g = z^T d of the last batch, at once the step of SGD with momentum or AdamW, then the
//          block's part of h = z w of the next batch. 2 * 2*rows*n_in*32 flop for 512*n_in bytes
//          (AdamW 768): gradients never leave the registers, weights move once a batch
// forward  BatchNorm over the batch, ReLU, dropout, the panel's part of the two logits
// backward the way back, down to d = dL/dh
// Order    sums over k (product) and over samples (update, statistics) ascending, one accumulator
//          each; logits as a fixed tree: the bits do not depend on the thread that owns the panel,
//          nor on blocking, nor on AVX2 or AVX-512
// Ref      tests/model/test_train.c has the plain loops
#include "model/train_room.h"

#include <math.h>
#include <string.h>

#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)
#define KERNELS CAT(vnp_train_kernels_, VNP_TRAIN_ISA)

enum { P = VNP_TRAIN_PANEL, G = VNP_TRAIN_GROUP, BLOCK = 64 };

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

/* Accumulators of one inner loop: AVX-512 has 32 registers of 16 floats, AVX2 16 of 8. */
#if defined(__AVX512F__)
enum { R = 8, V = 2 };
#else
enum { R = 4, V = 1 };
#endif

static inline v16 load(const float *p) {
    return *(const v16 *)p;
}
static inline void store(float *p, v16 v) {
    *(v16 *)p = v;
}

static void pack(const float *const *rows, int n, int64_t n_in, int64_t n_pad, float *z) {
    for (int r0 = 0; r0 < n; r0 += G, z += n_pad * G) {
        int m = n - r0 < G ? n - r0 : G;
        const float *at[G];
        for (int r = 0; r < G; r++) at[r] = rows[r0 + (r < m ? r : 0)];
        for (int64_t k = 0; k < n_in; k++)
            for (int r = 0; r < G; r++) z[k * G + r] = at[r][k];
        for (int64_t k = 0; k < n_in && m < G; k++)
            for (int r = m; r < G; r++) z[k * G + r] = 0;
        memset(z + n_in * G, 0, (size_t)((n_pad - n_in) * G) * sizeof *z);
    }
}

/* ---- sweep ---------------------------------------------------------------------------------- */

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

/* Gradient and step of R inputs k and 16 V units. */
static inline __attribute__((always_inline)) void update_tile(const struct vnp_train_sweep *s,
                                                              int64_t k, int unit) {
    v16 g[R][V];
    for (int i = 0; i < R; i++)
        for (int c = 0; c < V; c++) g[i][c] = (v16){0};
    for (int b = 0; b < s->n_last; b++) {
        const float *x = s->z_last + (b * s->n_in + k) * G, *d = s->d + b * G * P + unit;
        for (int r = 0; r < G; r++) {
            v16 e[V];
            for (int c = 0; c < V; c++) e[c] = load(d + r * P + 16 * c);
#pragma GCC unroll 8
            for (int i = 0; i < R; i++)
                for (int c = 0; c < V; c++) g[i][c] += x[i * G + r] * e[c];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
        for (int c = 0; c < V; c++) {
            int64_t at = (k + i) * P + unit + 16 * c;
            if (s->step->is_adam)
                move_adam(s->step, g[i][c], s->w + at, s->v + at, s->u + at);
            else
                move_sgd(s->step, g[i][c], s->w + at, s->v + at);
        }
}

/* R samples of a group and 16 V units of the product over inputs k0..k1. */
static inline __attribute__((always_inline)) void
product_tile(const struct vnp_train_sweep *s, int b, int r0, int unit, int64_t k0, int64_t k1) {
    v16 a[R][V];
    float *h = s->h + (b * G + r0) * P + unit;
    const float *z = s->z_next + b * s->n_in * G + r0, *w = s->w + unit;
    for (int r = 0; r < R; r++)
        for (int c = 0; c < V; c++) a[r][c] = k0 ? load(h + r * P + 16 * c) : (v16){0};
    for (int64_t k = k0; k < k1; k++) {
        v16 x[V];
        for (int c = 0; c < V; c++) x[c] = load(w + k * P + 16 * c);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            for (int c = 0; c < V; c++) a[r][c] += z[k * G + r] * x[c];
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < V; c++) store(h + r * P + 16 * c, a[r][c]);
}

/* The lines that the next block will move. */
static inline void prefetch_block(const struct vnp_train_sweep *s, int64_t k0, int64_t k1) {
    for (int64_t k = k0; k < k1; k++)
        for (int c = 0; c < P; c += 16) {
            __builtin_prefetch(s->w + k * P + c, 1, 3);
            if (s->step) __builtin_prefetch(s->v + k * P + c, 1, 3);
        }
}

static void sweep(const struct vnp_train_sweep *s) {
    for (int64_t k0 = 0, k1; k0 < s->n_in; k0 = k1) {
        k1 = k0 + BLOCK < s->n_in ? k0 + BLOCK : s->n_in;
        int64_t k2 = k1 + BLOCK < s->n_in ? k1 + BLOCK : s->n_in;
        if (!s->step) prefetch_block(s, k1, k2);
        for (int64_t k = k0; s->step && k < k1; k += R) {
            int64_t p0 = k + BLOCK, p1 = p0 + R < s->n_in ? p0 + R : s->n_in;
            prefetch_block(s, p0, p1);
            for (int unit = 0; unit < P; unit += 16 * V) update_tile(s, k, unit);
        }
        for (int b = 0; s->z_next && b < s->n_next; b++)
            for (int r = 0; r < G; r += R)
                for (int unit = 0; unit < P; unit += 16 * V) product_tile(s, b, r, unit, k0, k1);
    }
}

/* ---- what follows the product --------------------------------------------------------------- */

static inline uint64_t mix(uint64_t x) { /* splitmix64's finaliser, as train.c has it */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void normalise(const struct vnp_train_units *u) {
    double sum[P] = {0}, square[P] = {0}, mean[P], inv[P];
    for (int i = 0; i < u->n; i++)
        for (int j = 0; j < P; j++) sum[j] += (double)u->h[i * P + j];
    for (int j = 0; j < P; j++) mean[j] = sum[j] / u->n;
    for (int i = 0; i < u->n; i++)
        for (int j = 0; j < P; j++) {
            double c = (double)u->h[i * P + j] - mean[j];
            square[j] += c * c;
        }
    for (int j = 0; j < P; j++) {
        inv[j] = 1 / sqrt(square[j] / u->n + (double)1e-5f);
        u->mean[j] = mean[j];
        u->var[j] = square[j] / u->n;
        u->inv[j] = (float)inv[j];
    }
    for (int i = 0; i < u->n; i++)
        for (int j = 0; j < P; j++)
            u->xhat[i * P + j] = (float)(((double)u->h[i * P + j] - mean[j]) * inv[j]);
}

/* Sum of 32 products as a fixed tree. */
static inline float dot32(const float *a, const float *b) {
    float t[16];
    for (int j = 0; j < 16; j++) t[j] = a[j] * b[j] + a[j + 16] * b[j + 16];
    for (int n = 8; n; n /= 2)
        for (int j = 0; j < n; j++) t[j] += t[j + n];
    return t[0];
}

static void forward(const struct vnp_train_units *u) {
    normalise(u);
    for (int i = 0; i < u->n; i++) {
        float *y = u->y + i * P, keep[P];
        const float *x = u->xhat + i * P;
        uint64_t first = (uint64_t)u->samples[i] * u->n_pad + u->first_unit;
        for (int j = 0; j < P; j++) {
            uint64_t draw = mix(u->key ^ mix(first + (uint64_t)j)) >> 11;
            keep[j] = draw < u->threshold ? 0.0f : u->scale;
        }
        for (int j = 0; j < P; j++) {
            float v = u->gamma[j] * x[j] + u->beta[j];
            y[j] = v <= 0 ? 0.0f : v * keep[j]; /* NaN stays NaN */
        }
        u->logits[2 * i] = dot32(y, u->w_other);
        u->logits[2 * i + 1] = dot32(y, u->w_virus);
    }
}

static void backward(const struct vnp_train_units *u) {
    int n_rows = (u->n + G - 1) / G * G;
    double mean_x[P], mean_1[P], factor[P];
    for (int j = 0; j < P; j++) u->g_other[j] = u->g_virus[j] = u->g_gamma[j] = u->g_beta[j] = 0;
    for (int i = 0; i < u->n; i++) {
        const float *y = u->y + i * P, *x = u->xhat + i * P;
        float *d = u->d + i * P, d0 = u->d_logits[2 * i], d1 = u->d_logits[2 * i + 1];
        for (int j = 0; j < P; j++) {
            float e = (d0 * u->w_other[j] + d1 * u->w_virus[j]) * u->scale;
            d[j] = y[j] > 0 ? e : 0.0f; /* not above 0, or dropped */
            u->g_other[j] += (double)(d0 * y[j]);
            u->g_virus[j] += (double)(d1 * y[j]);
            u->g_beta[j] += (double)d[j];
            u->g_gamma[j] += (double)d[j] * (double)x[j];
        }
    }
    for (int j = 0; j < P; j++) {
        factor[j] = (double)u->gamma[j] * (double)u->inv[j];
        mean_1[j] = u->g_beta[j] / u->n;
        mean_x[j] = u->g_gamma[j] / u->n;
    }
    for (int i = 0; i < u->n; i++)
        for (int j = 0; j < P; j++) {
            float *d = u->d + i * P + j;
            double xhat = (double)u->xhat[i * P + j];
            *d = (float)(factor[j] * ((double)*d - mean_1[j] - xhat * mean_x[j]));
        }
    memset(u->d + u->n * P, 0, (size_t)((n_rows - u->n) * P) * sizeof *u->d);
}

const struct vnp_train_kernels *KERNELS(void) {
    static const struct vnp_train_kernels kernels = {pack, sweep, forward, backward};
    return &kernels;
}
