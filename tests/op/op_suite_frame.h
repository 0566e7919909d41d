/* SPDX-License-Identifier: MIT
 * What every case of the conformance suite stands on: random operands, tensors inside guards,
 * comparison element by element, batches. See op_suite.h. */
#ifndef VNP_OP_SUITE_FRAME_H
#define VNP_OP_SUITE_FRAME_H

#include "op/op.h"
#include "ref/ref.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct op_suite_config {
    const struct vnp_backend *backend;
    struct vnp_device_options device; /* precision, threads, ordinal */
    /* Copies between host and device memory; NULL = memcpy. Called after exec_wait. */
    vnp_status (*copy)(void *ctx, void *dst, const void *src, size_t n_bytes, bool is_to_device);
    void *ctx;
    uint64_t seed;
    bool is_quick;    /* a subset that takes seconds */
    const char *only; /* run only cases whose name contains this; NULL = all */
    int every;        /* of these run every n-th, from the first; 0 = each */
    int first;        /* its index; below every */
    FILE *out;        /* NULL = stdout */
};

#define SUITE_U 5.9604644775390625e-08 /* 2^-24 */
#define SUITE_PAD_ROWS 3
#define SUITE_PAD_COLS 32

struct suite_side {
    const struct vnp_backend *b;
    struct vnp_device *dev;
    struct vnp_exec *ex;
    const struct op_suite_config *config; /* NULL for the reference */
};

struct suite {
    const struct op_suite_config *config;
    struct suite_side ref, dut; /* dut: the device under test */
    uint64_t random;
    int n_passed, n_failed, n_begun;
    FILE *out;
    /* of the case now running */
    char name[256], why[1024];
    bool is_bad;
    double worst; /* largest error / tolerance seen */
};

/* ---- small things -------------------------------------------------------------------------- */

static uint64_t suite_random(struct suite *s) {
    uint64_t z = (s->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Nearly normal, variance 1. */
static float suite_normal(struct suite *s) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)(suite_random(s) >> 11) * 0x1p-53 - 0.5;
    return (float)(sum * 1.7320508);
}

static float *suite_floats(int64_t n) {
    float *p = calloc((size_t)(n > 0 ? n : 1), sizeof *p);
    if (!p) {
        fprintf(stderr, "op suite: out of memory\n");
        exit(2);
    }
    return p;
}

static float *suite_normals(struct suite *s, int64_t n, float factor) {
    float *p = suite_floats(n);
    for (int64_t i = 0; i < n; i++) p[i] = factor * suite_normal(s);
    return p;
}

static void suite_bad(struct suite *s, const char *fmt, ...) VNP_PRINTF(2, 3);
static void suite_bad(struct suite *s, const char *fmt, ...) {
    va_list args;
    if (!s->is_bad) {
        va_start(args, fmt);
        vsnprintf(s->why, sizeof s->why, fmt, args);
        va_end(args);
    }
    s->is_bad = true;
}

/* The reference itself against the definition, in FP64. */
static void suite_define(struct suite *s, const char *what, double ref, double want, double err) {
    if (!(fabs(ref - want) <= err + 2 * SUITE_U * fabs(want)))
        suite_bad(s, "%s: the reference says %.9g, the definition %.9g", what, ref, want);
}

static bool suite_ok(struct suite *s, vnp_status status, const char *what) {
    if (status == VNP_OK) return true;
    suite_bad(s, "%s: %s: %s", what, vnp_status_name(status), vnp_error_last()->text);
    return false;
}

static bool suite_begin(struct suite *s, const char *fmt, ...) VNP_PRINTF(2, 3);
static bool suite_begin(struct suite *s, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->name, sizeof s->name, fmt, args);
    va_end(args);
    s->is_bad = false;
    s->worst = 0;
    if (s->config->only && !strstr(s->name, s->config->only)) return false;
    return s->config->every < 2 || s->n_begun++ % s->config->every == s->config->first;
}

static void suite_end(struct suite *s) {
    int n = s->n_passed + s->n_failed + 1;
    if (s->is_bad) {
        s->n_failed++;
        fprintf(s->out, "not ok %d - %s\n# %s\n", n, s->name, s->why);
    } else {
        s->n_passed++;
        fprintf(s->out, "ok %d - %s, worst %.3f of tolerance\n", n, s->name, s->worst);
    }
    fflush(s->out);
}

/* ---- tensors inside guards ----------------------------------------------------------------- */

struct suite_tensor {
    struct vnp_tensor t, whole;
    struct suite_side *side;
    char *before; /* bytes of the whole at suite_freeze */
    int64_t whole_rows;
};

static void suite_copy(struct suite_side *side, void *dst, const void *src, size_t n, bool is_put) {
    side->b->exec_wait(side->ex);
    if (side->config && side->config->copy) {
        if (side->config->copy(side->config->ctx, dst, src, n, is_put) != VNP_OK) {
            fprintf(stderr, "op suite: copy failed\n");
            exit(2);
        }
    } else {
        memcpy(dst, src, n);
    }
}

static size_t suite_bytes(const struct suite_tensor *t) {
    return (size_t)t->whole_rows * (size_t)t->whole.ld * vnp_dtype_bytes(t->whole.dtype);
}

static char *suite_get_bytes(const struct suite_tensor *t) {
    char *bytes = (char *)suite_floats((int64_t)suite_bytes(t) / 4 + 1);
    suite_copy(t->side, bytes, t->whole.data, suite_bytes(t), false);
    return bytes;
}

/* The whole becomes NaN again, scales too. */
static void suite_poison(struct suite_tensor *t) {
    size_t n = suite_bytes(t), n_scales = (size_t)t->whole_rows * sizeof(float);
    char *poison = malloc(n > n_scales ? n : n_scales);
    if (!poison) exit(2);
    memset(poison, 0xff, n > n_scales ? n : n_scales);
    suite_copy(t->side, t->whole.data, poison, n, true);
    if (t->whole.scale) suite_copy(t->side, t->whole.scale, poison, n_scales, true);
    free(poison);
}

static struct suite_tensor suite_tensor(struct suite *s, struct suite_side *side,
                                        enum vnp_site site, int64_t rows, int64_t cols) {
    struct suite_tensor t = {.side = side, .whole_rows = rows + 2 * SUITE_PAD_ROWS};
    if (!suite_ok(
            s,
            side->b->tensor_create(side->ex, site, t.whole_rows, cols + SUITE_PAD_COLS, &t.whole),
            "tensor_create"))
        exit(2);
    suite_poison(&t);
    t.t = t.whole;
    t.t.rows = rows;
    t.t.cols = cols;
    t.t.data =
        (char *)t.whole.data + SUITE_PAD_ROWS * (size_t)t.whole.ld * vnp_dtype_bytes(t.whole.dtype);
    if (t.t.scale) t.t.scale += SUITE_PAD_ROWS;
    return t;
}

static void suite_store(enum vnp_dtype dtype, void *dst, float x) {
    if (dtype == VNP_F32) memcpy(dst, &x, 4);
    if (dtype == VNP_BF16) memcpy(dst, &(uint16_t){vnp_f32_to_bf16(x)}, 2);
    if (dtype == VNP_F16) memcpy(dst, &(uint16_t){vnp_f32_to_f16(x)}, 2);
    if (dtype == VNP_E4M3) memcpy(dst, &(uint8_t){vnp_f32_to_e4m3(x)}, 1);
    if (dtype == VNP_I8) memcpy(dst, &(int8_t){(int8_t)lrintf(x)}, 1);
}

/* x [rows][cols] rounded to the tensor's type, with scales by row where it has them. */
static void suite_put(struct suite_tensor *t, const float *x) {
    char *bytes = suite_get_bytes(t);
    size_t size = vnp_dtype_bytes(t->t.dtype);
    float *scales = suite_floats(t->t.rows);
    for (int64_t r = 0; r < t->t.rows; r++) {
        float amax = 0;
        for (int64_t c = 0; c < t->t.cols; c++) amax = fmaxf(amax, fabsf(x[r * t->t.cols + c]));
        float scale = amax > 0 ? amax / (t->t.dtype == VNP_I8 ? 127.0f : 448.0f) : 1.0f;
        if (!t->t.scale) scale = 1;
        scales[r] = scale;
        for (int64_t c = 0; c < t->t.cols; c++)
            suite_store(t->t.dtype,
                        bytes + ((size_t)(SUITE_PAD_ROWS + r) * (size_t)t->t.ld + (size_t)c) * size,
                        x[r * t->t.cols + c] / scale);
    }
    suite_copy(t->side, t->whole.data, bytes, suite_bytes(t), true);
    if (t->t.scale)
        suite_copy(t->side, t->t.scale, scales, (size_t)t->t.rows * sizeof *scales, true);
    free(scales);
    free(bytes);
}

/* The window's scales [rows], or NULL; the caller frees. */
static float *suite_get_scales(const struct suite_tensor *t) {
    if (!t->t.scale) return NULL;
    float *scales = suite_floats(t->t.rows);
    suite_copy(t->side, scales, t->t.scale, (size_t)t->t.rows * sizeof *scales, false);
    return scales;
}

/* The window's values as FP32, [rows][cols]; the caller frees. */
static float *suite_get(const struct suite_tensor *t) {
    char *bytes = suite_get_bytes(t);
    size_t size = vnp_dtype_bytes(t->t.dtype);
    float *x = suite_floats(t->t.rows * t->t.cols), *scales = suite_get_scales(t);
    for (int64_t r = 0; r < t->t.rows; r++) {
        vnp_convert_to_f32(t->t.dtype,
                           bytes + (size_t)(SUITE_PAD_ROWS + r) * (size_t)t->t.ld * size, t->t.cols,
                           x + r * t->t.cols);
        for (int64_t c = 0; scales && c < t->t.cols; c++) x[r * t->t.cols + c] *= scales[r];
    }
    free(scales);
    free(bytes);
    return x;
}

/* An input: remembers its bytes. suite_thaw then says whether an op wrote to it. */
static void suite_freeze(struct suite_tensor *t) {
    t->before = suite_get_bytes(t);
}

static void suite_thaw(struct suite *s, struct suite_tensor *t, const char *what) {
    char *now = suite_get_bytes(t);
    if (memcmp(now, t->before, suite_bytes(t)) != 0) suite_bad(s, "%s was written to", what);
    free(now);
    free(t->before);
    t->before = NULL;
}

/* All around the window is still 0xff. */
static void suite_guards(struct suite *s, const struct suite_tensor *t, const char *what) {
    char *bytes = suite_get_bytes(t);
    size_t size = vnp_dtype_bytes(t->t.dtype), row_bytes = (size_t)t->whole.ld * size;
    for (int64_t r = 0; r < t->whole_rows; r++) {
        bool is_inside = r >= SUITE_PAD_ROWS && r < SUITE_PAD_ROWS + t->t.rows;
        for (size_t i = is_inside ? (size_t)t->t.cols * size : 0; i < row_bytes; i++) {
            if ((uint8_t)bytes[(size_t)r * row_bytes + i] == 0xff) continue;
            suite_bad(s, "%s: written outside, row %lld of %lld, byte %zu of %zu", what,
                      (long long)(r - SUITE_PAD_ROWS), (long long)t->t.rows, i,
                      (size_t)t->t.cols * size);
            free(bytes);
            return;
        }
    }
    free(bytes);
}

/* ---- comparison ---------------------------------------------------------------------------- */

/* Half a step of the type around y, in a row whose largest magnitude is row_max. */
static double suite_half_step(enum vnp_dtype dtype, double y, double row_max) {
    switch ((int)dtype) {
    case VNP_BF16:
        return fabs(y) * 0x1p-8 * 1.01 + 1e-38; /* 8 significant bits */
    case VNP_F16:
        return fabs(y) * 0x1p-11 * 1.01 + 0x1p-25;
    case VNP_E4M3:
        return fmax(fabs(y) * 0x1p-4, row_max / 448 * 0x1p-10) * 1.05;
    case VNP_I8:
        return row_max / 127 * 0.51;
    default:
        return fabs(y) * SUITE_U * 1.01 + 1e-38;
    }
}

/* What of a row of the type lies below its rounding: operands of FP8 and INT8 may round the other
 * way at a tie, because a scale's reciprocal was used. In steps of one value. */
static double suite_tie(enum vnp_precision precision, double max_product) {
    if (precision == VNP_PREC_FP8) return 3 * 0x1p-3 * max_product;
    if (precision == VNP_PREC_INT8) return 3 * max_product / 64;
    return 0;
}

/* got against want [rows][cols] with err [rows][cols], the error allowed before the result is
 * rounded to `dtype`: by the scales [rows] that came with it, or where those are NULL by scales of
 * the rows' largest magnitudes. NaN and Inf must stand in the same places. */
static void suite_compare_scaled(struct suite *s, const char *what, int64_t rows, int64_t cols,
                                 enum vnp_dtype dtype, const float *scales, const float *want,
                                 const float *got, const double *err) {
    double worst = 0;
    int64_t idx_worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        double row_max = scales ? 448 * (double)scales[r] : 0;
        for (int64_t c = 0; !scales && c < cols; c++)
            row_max = fmax(row_max, fabs((double)want[r * cols + c]) + err[r * cols + c]);
        for (int64_t c = 0; c < cols; c++) {
            int64_t i = r * cols + c;
            double w = (double)want[i], g = (double)got[i], share;
            if (isfinite(w) && isfinite(g))
                share = fabs(g - w) / (err[i] + suite_half_step(dtype, fabs(w) + err[i], row_max));
            else
                share = (isnan(w) && isnan(g)) || w == g ? 0 : 1e30;
            if (share > worst) worst = share, idx_worst = i;
        }
    }
    s->worst = fmax(s->worst, worst);
    if (worst <= 1) return;
    suite_bad(s, "%s: [%lld][%lld] is %.9g, the reference says %.9g: %.3g times the tolerance",
              what, (long long)(idx_worst / cols), (long long)(idx_worst % cols),
              (double)got[idx_worst], (double)want[idx_worst], worst);
}

static void suite_compare(struct suite *s, const char *what, int64_t rows, int64_t cols,
                          enum vnp_dtype dtype, const float *want, const float *got,
                          const double *err) {
    suite_compare_scaled(s, what, rows, cols, dtype, NULL, want, got, err);
}

/* ---- batches ------------------------------------------------------------------------------- */

struct suite_batch {
    struct vnp_pack pack;
    uint16_t *tokens;
    int32_t *cu;
};

static struct suite_batch suite_batch(struct suite *s, int n_seqs, const int *lengths, int vocab) {
    struct suite_batch b = {.cu = calloc((size_t)n_seqs + 1, sizeof *b.cu)};
    for (int i = 0; i < n_seqs; i++) {
        b.cu[i + 1] = b.cu[i] + lengths[i];
        b.pack.max_len = VNP_MAX(b.pack.max_len, lengths[i]);
    }
    b.pack.n_seqs = n_seqs;
    b.pack.n_tokens = b.cu[n_seqs];
    b.tokens = calloc((size_t)b.pack.n_tokens, sizeof *b.tokens);
    for (int64_t i = 0; i < b.pack.n_tokens; i++)
        b.tokens[i] = (uint16_t)(suite_random(s) % (unsigned)vocab);
    b.pack.tokens = b.tokens;
    b.pack.cu_seqlens = b.cu;
    return b;
}

static void suite_batch_free(struct suite_batch *b) {
    free(b->tokens);
    free(b->cu);
}

static bool suite_exec(struct suite *s, const struct vnp_pack *pack, int64_t max_cols) {
    struct suite_side *sides[2] = {&s->ref, &s->dut};
    for (int i = 0; i < 2; i++) {
        struct vnp_exec_limits limits = {.max_tokens = pack->n_tokens + 2 * SUITE_PAD_ROWS,
                                         .max_seqs = pack->n_seqs + 2 * SUITE_PAD_ROWS,
                                         .max_cols = max_cols + SUITE_PAD_COLS};
        if (!suite_ok(s, sides[i]->b->exec_create(sides[i]->dev, &limits, &sides[i]->ex),
                      "exec_create") ||
            !suite_ok(s, sides[i]->b->batch_begin(sides[i]->ex, pack), "batch_begin"))
            return false;
    }
    return true;
}

static void suite_exec_end(struct suite *s) {
    suite_ok(s, s->dut.b->exec_wait(s->dut.ex), "exec_wait");
    s->ref.b->exec_destroy(s->ref.ex);
    s->dut.b->exec_destroy(s->dut.ex);
    s->ref.ex = s->dut.ex = NULL;
}

static float *suite_const(struct suite *s, struct suite_side *side, int64_t rows, int64_t cols,
                          const float *x) {
    struct vnp_view v = {x, VNP_F32, rows, cols};
    float *out = NULL;
    if (!suite_ok(s, side->b->const_create(side->dev, &v, &out), "const_create")) exit(2);
    return out;
}

#endif
