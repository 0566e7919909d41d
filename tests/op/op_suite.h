/* SPDX-License-Identifier: MIT
 * The conformance suite of the op contract: compares any backend with the reference over shapes
 * that hurt. Needs no test framework, so that it also builds into a program for a machine with a
 * device; include it once, link the library, call op_suite_run. Prints one TAP line a case.
 *
 * How it looks at a backend: every tensor is a window inside a larger one (rows before and behind,
 * columns beside), the whole filled with 0xff bytes, which are NaN in every float type. After an
 * op the window must hold what the reference says, all around it must still be 0xff, and inputs
 * must be unchanged. Operands are put in already rounded to the tensor's own type, so both sides
 * compute on the same values.
 *
 * Tolerance, per element: what FP32 sums of that length may lose, times the sum of the magnitudes
 * that went in, plus half a step of the result's own type. The worst element is reported as its
 * share of its tolerance. */
#ifndef VNP_OP_SUITE_H
#define VNP_OP_SUITE_H

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
    int every;        /* of these run every n-th; 0 = each */
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
    return s->config->every < 2 || s->n_begun++ % s->config->every == 0;
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

static struct suite_tensor suite_tensor(struct suite *s, struct suite_side *side,
                                        enum vnp_site site, int64_t rows, int64_t cols) {
    struct suite_tensor t = {.side = side, .whole_rows = rows + 2 * SUITE_PAD_ROWS};
    if (!suite_ok(
            s,
            side->b->tensor_create(side->ex, site, t.whole_rows, cols + SUITE_PAD_COLS, &t.whole),
            "tensor_create"))
        exit(2);
    size_t n = suite_bytes(&t), n_scales = (size_t)t.whole_rows * sizeof(float);
    char *poison = malloc(n > n_scales ? n : n_scales);
    if (!poison) exit(2);
    memset(poison, 0xff, n > n_scales ? n : n_scales);
    suite_copy(side, t.whole.data, poison, n, true);
    if (t.whole.scale) suite_copy(side, t.whole.scale, poison, n_scales, true);
    free(poison);
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

/* The window's values as FP32, [rows][cols]; the caller frees. */
static float *suite_get(const struct suite_tensor *t) {
    char *bytes = suite_get_bytes(t);
    size_t size = vnp_dtype_bytes(t->t.dtype);
    float *x = suite_floats(t->t.rows * t->t.cols), *scales = suite_floats(t->t.rows);
    if (t->t.scale)
        suite_copy(t->side, scales, t->t.scale, (size_t)t->t.rows * sizeof *scales, false);
    for (int64_t r = 0; r < t->t.rows; r++) {
        vnp_convert_to_f32(t->t.dtype,
                           bytes + (size_t)(SUITE_PAD_ROWS + r) * (size_t)t->t.ld * size, t->t.cols,
                           x + r * t->t.cols);
        for (int64_t c = 0; t->t.scale && c < t->t.cols; c++) x[r * t->t.cols + c] *= scales[r];
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
 * rounded to `dtype`. NaN and Inf must stand in the same places. */
static void suite_compare(struct suite *s, const char *what, int64_t rows, int64_t cols,
                          enum vnp_dtype dtype, const float *want, const float *got,
                          const double *err) {
    double worst = 0;
    int64_t idx_worst = 0;
    for (int64_t r = 0; r < rows; r++) {
        double row_max = 0;
        for (int64_t c = 0; c < cols; c++)
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

/* ---- embed --------------------------------------------------------------------------------- */

static void suite_embed(struct suite *s, int64_t d, bool has_dropout, bool has_type) {
    static const int lengths[] = {1, 2, 3, 7, 16, 17, 31, 64, 65, 129};
    int vocab = 33, n_seqs = (int)VNP_COUNT(lengths);
    if (!suite_begin(s, "embed D=%lld dropout=%d type=%d", (long long)d, has_dropout, has_type))
        return;
    struct suite_batch b = suite_batch(s, n_seqs, lengths, vocab);
    for (int64_t i = 0; i < b.pack.n_tokens; i += 5) b.tokens[i] = 32;
    for (int i = 0; i < n_seqs; i++) b.tokens[b.cu[i]] = 0;
    float *table = suite_normals(s, vocab * d, 1), *type = suite_normals(s, d, 1);
    table[0] = -0.0f, table[1] = 1e-41f, table[2] = 3e30f;
    float *got[2] = {NULL, NULL};
    enum vnp_dtype dtype = VNP_F32;
    if (suite_exec(s, &b.pack, 3 * d)) {
        struct suite_side *sides[2] = {&s->ref, &s->dut};
        for (int i = 0; i < 2; i++) {
            struct suite_tensor out =
                suite_tensor(s, sides[i], VNP_SITE_RESIDUAL, b.pack.n_tokens, d);
            float *c_table = suite_const(s, sides[i], vocab, d, table);
            float *c_type = suite_const(s, sides[i], 1, d, type);
            struct vnp_embed_params p = {c_table, has_type ? c_type : NULL, vocab, has_dropout, 32};
            suite_ok(s, sides[i]->b->embed(sides[i]->ex, &p, &out.t), "embed");
            got[i] = suite_get(&out);
            suite_guards(s, &out, "embed");
            dtype = out.t.dtype;
            sides[i]->b->const_destroy(sides[i]->dev, c_table);
            sides[i]->b->const_destroy(sides[i]->dev, c_type);
        }
        double *err = calloc((size_t)(b.pack.n_tokens * d), sizeof *err);
        for (int64_t i = 0; i < b.pack.n_tokens * d; i++)
            err[i] = 4 * SUITE_U *
                         (fabs((double)got[0][i]) + (has_type ? fabs((double)type[i % d]) : 0)) +
                     1e-44;
        suite_compare(s, "embed", b.pack.n_tokens, d, dtype, got[0], got[1], err);
        free(err);
    }
    suite_exec_end(s);
    free(got[0]), free(got[1]), free(table), free(type);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- layer norm ---------------------------------------------------------------------------- */

/* Rows of every unpleasant kind. */
static float *suite_norm_rows(struct suite *s, int64_t rows, int64_t d) {
    float *x = suite_normals(s, rows * d, 1);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < d; i++) {
            float *v = &x[r * d + i];
            switch (r % 8) {
            case 1:
                *v += 1000;
                break; /* far from 0: needs two passes */
            case 2:
                *v = 0.37f;
                break; /* no variance */
            case 3:
                *v *= 1e15f;
                break; /* large */
            case 4:
                *v *= 1e-40f;
                break; /* denormal */
            case 5:
                *v = i & 1 ? 0.0f : -0.0f;
                break; /* zeros of both signs */
            case 6:
                *v = i == d / 2 ? 3000.0f : *v;
                break; /* an outlier channel */
            default:
                break;
            }
        }
    }
    return x;
}

static void suite_norm_error(struct suite *s, int64_t rows, int64_t d, float eps, const float *x,
                             const float *gamma, const float *beta, const float *ref, double *err) {
    double n_steps = (double)d / 8 + 16;
    for (int64_t r = 0; r < rows; r++) {
        const float *row = x + r * d;
        double mean = 0, abs_mean = 0, var = 0;
        for (int64_t i = 0; i < d; i++) mean += (double)row[i], abs_mean += fabs((double)row[i]);
        mean /= (double)d, abs_mean /= (double)d;
        for (int64_t i = 0; i < d; i++) var += ((double)row[i] - mean) * ((double)row[i] - mean);
        double root = 1 / sqrt(var / (double)d + (double)eps);
        double mean_error = n_steps * SUITE_U * abs_mean;
        for (int64_t i = 0; i < d; i++) {
            double y = ((double)row[i] - mean) * root * (double)gamma[i];
            double shift = mean_error + 2 * SUITE_U * fabs((double)row[i]);
            err[r * d + i] = fabs((double)gamma[i]) * root * shift +
                             fabs(y) * (n_steps * SUITE_U + mean_error * root * mean_error * root) +
                             4 * SUITE_U * (fabs(y) + fabs((double)beta[i])) + 1e-38;
            suite_define(s, "layernorm", (double)ref[r * d + i], y + (double)beta[i],
                         err[r * d + i] / 2);
        }
    }
}

static void suite_norm(struct suite *s, int64_t rows, int64_t d, enum vnp_site site, float eps,
                       bool is_in_place) {
    if (!suite_begin(s, "layernorm N=%lld D=%lld site=%d eps=%g in_place=%d", (long long)rows,
                     (long long)d, (int)site, (double)eps, is_in_place))
        return;
    int length = (int)rows;
    struct suite_batch b = suite_batch(s, 1, &length, 33);
    float *x = suite_norm_rows(s, rows, d), *gamma = suite_normals(s, d, 1);
    float *beta = suite_normals(s, d, 0.5f), *got[2][2] = {{NULL}};
    double *err = calloc((size_t)(rows * d), sizeof *err);
    enum vnp_dtype dtype[2] = {VNP_F32, VNP_F32};
    if (suite_exec(s, &b.pack, 3 * d)) {
        struct suite_side *sides[2] = {&s->ref, &s->dut};
        for (int i = 0; i < 2; i++) {
            struct suite_tensor in = suite_tensor(s, sides[i], VNP_SITE_RESIDUAL, rows, d);
            struct suite_tensor res = suite_tensor(s, sides[i], VNP_SITE_RESIDUAL, rows, d);
            struct suite_tensor op = suite_tensor(s, sides[i], site, rows, d);
            float *g = suite_const(s, sides[i], 1, d, gamma),
                  *be = suite_const(s, sides[i], 1, d, beta);
            struct vnp_norm_params p = {g, be, eps};
            suite_put(&in, x);
            suite_freeze(&in);
            struct suite_tensor *out = is_in_place ? &in : &res;
            suite_ok(s, sides[i]->b->layernorm(sides[i]->ex, &p, &in.t, &out->t, &op.t),
                     "layernorm");
            got[i][0] = suite_get(out), got[i][1] = suite_get(&op);
            dtype[0] = out->t.dtype, dtype[1] = op.t.dtype;
            if (is_in_place)
                free(in.before);
            else
                suite_thaw(s, &in, "layernorm's x");
            suite_guards(s, &in, "x"), suite_guards(s, &res, "residual"),
                suite_guards(s, &op, "operand");
            sides[i]->b->const_destroy(sides[i]->dev, g),
                sides[i]->b->const_destroy(sides[i]->dev, be);
        }
        suite_norm_error(s, rows, d, eps, x, gamma, beta, got[0][0], err);
        suite_compare(s, "residual", rows, d, dtype[0], got[0][0], got[1][0], err);
        suite_compare(s, "operand", rows, d, dtype[1], got[0][1], got[1][1], err);
    }
    suite_exec_end(s);
    for (int i = 0; i < 4; i++) free(got[i / 2][i % 2]);
    free(err), free(x), free(gamma), free(beta);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- linear -------------------------------------------------------------------------------- */

struct suite_linear_case {
    int64_t rows, n_in, n_out; /* GEGLU: n_out counts gate and value */
    enum vnp_epilogue epi;
    enum vnp_site site, site_out;
    int n_parts;
    bool has_bias;
    enum vnp_dtype stored;
};

/* Stored weights [n] of a type; *as_f32 receives their values. */
static void *suite_stored(enum vnp_dtype dtype, int64_t n, float *as_f32) {
    char *bytes = malloc((size_t)n * 4);
    size_t size = vnp_dtype_bytes(dtype);
    for (int64_t i = 0; i < n; i++) suite_store(dtype, bytes + (size_t)i * size, as_f32[i]);
    vnp_convert_to_f32(dtype, bytes, n, as_f32);
    return bytes;
}

static struct vnp_linear *suite_linear_make(struct suite *s, struct suite_side *side,
                                            const struct suite_linear_case *c, const char *w,
                                            const char *bias) {
    struct vnp_view weights[4], biases[4];
    int64_t rows = 0;
    size_t size = vnp_dtype_bytes(c->stored);
    for (int p = 0; p < c->n_parts; p++) {
        int64_t n = p == c->n_parts - 1 ? c->n_out - rows : c->n_out / c->n_parts;
        weights[p] = (struct vnp_view){w + (size_t)(rows * c->n_in) * size, c->stored, n, c->n_in};
        biases[p] =
            (struct vnp_view){c->has_bias ? bias + (size_t)rows * size : NULL, c->stored, 1, n};
        rows += n;
    }
    struct vnp_linear_desc desc = {weights,  biases,  c->n_parts,
                                   c->n_out, c->n_in, c->epi == VNP_EPI_GEGLU ? c->n_out / 2 : 0,
                                   c->site};
    struct vnp_linear *out = NULL;
    suite_ok(s, side->b->linear_create(side->dev, &desc, &out), "linear_create");
    return out;
}

/* The error allowed in out, from the exact product and the magnitudes that went into it. */
static void suite_linear_error(struct suite *s, const struct suite_linear_case *c, const float *a,
                               const float *w, const float *bias, const float *out0,
                               const float *ref, double *err) {
    int64_t n_out = c->epi == VNP_EPI_GEGLU ? c->n_out / 2 : c->n_out;
    double u = ((double)c->n_in + 4) * SUITE_U, y[2], e[2];
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t j = 0; j < n_out; j++) {
            for (int part = 0; part < (c->epi == VNP_EPI_GEGLU ? 2 : 1); part++) {
                int64_t row = j + part * n_out;
                double sum = c->has_bias ? (double)bias[row] : 0, abs_sum = fabs(sum);
                double a_max = 0, w_max = 0;
                for (int64_t k = 0; k < c->n_in; k++) {
                    double wk = (double)w[row * c->n_in + k], ak = (double)a[r * c->n_in + k];
                    sum += ak * wk, abs_sum += fabs(ak * wk);
                    a_max = fmax(a_max, fabs(ak)), w_max = fmax(w_max, fabs(wk));
                }
                y[part] = sum;
                e[part] = u * abs_sum + suite_tie(s->config->device.precision, a_max * w_max);
            }
            double *out = &err[r * n_out + j];
            double gelu_error = 1.13 * e[0] + 16 * SUITE_U * fabs(y[0]);
            *out = e[0];
            if (c->epi == VNP_EPI_GELU) *out = gelu_error;
            if (c->epi == VNP_EPI_RESIDUAL)
                *out += 2 * SUITE_U * (fabs(y[0]) + fabs((double)out0[r * n_out + j]));
            if (c->epi == VNP_EPI_GEGLU)
                *out = (fabs(y[0]) + gelu_error) * e[1] +
                       fabs(y[1]) * (gelu_error + 4 * SUITE_U * fabs(y[0]));
            if (s->config->device.precision != VNP_PREC_FP32) continue;
            double g = 0.5 * y[0] * erfc(-y[0] / sqrt(2)), want = y[0];
            if (c->epi == VNP_EPI_GELU) want = g;
            if (c->epi == VNP_EPI_GEGLU) want = g * y[1];
            if (c->epi == VNP_EPI_RESIDUAL) want += (double)out0[r * n_out + j];
            suite_define(s, "linear", (double)ref[r * n_out + j], want, 1e-9 + *out / 100);
        }
    }
}

static void suite_linear_sides(struct suite *s, const struct suite_linear_case *c, const char *w,
                               const char *bias, float *a, const float *out0, float *got[2],
                               enum vnp_dtype *dtype) {
    struct suite_side *sides[2] = {&s->dut, &s->ref}; /* the device first: it rounds a */
    int64_t n_out = c->epi == VNP_EPI_GEGLU ? c->n_out / 2 : c->n_out;
    for (int i = 0; i < 2 && !s->is_bad; i++) {
        struct suite_tensor in = suite_tensor(s, sides[i], c->site, c->rows, c->n_in);
        struct suite_tensor out = suite_tensor(s, sides[i], c->site_out, c->rows, n_out);
        struct vnp_linear *lin = suite_linear_make(s, sides[i], c, w, bias);
        if (!lin) return;
        suite_put(&in, a);
        if (i == 0) {
            float *rounded = suite_get(&in);
            memcpy(a, rounded, (size_t)(c->rows * c->n_in) * sizeof *a);
            free(rounded);
        }
        suite_freeze(&in);
        if (c->epi == VNP_EPI_RESIDUAL) suite_put(&out, out0);
        suite_ok(s, sides[i]->b->linear(sides[i]->ex, lin, c->epi, &in.t, &out.t), "linear");
        got[i] = suite_get(&out);
        *dtype = i == 0 ? out.t.dtype : *dtype;
        suite_thaw(s, &in, "linear's operand");
        suite_guards(s, &out, "result");
        sides[i]->b->linear_destroy(sides[i]->dev, lin);
    }
}

static void suite_linear(struct suite *s, struct suite_linear_case c) {
    if (!suite_begin(s, "linear N=%lld K=%lld out=%lld epi=%d site=%d->%d parts=%d bias=%d %s",
                     (long long)c.rows, (long long)c.n_in, (long long)c.n_out, (int)c.epi,
                     (int)c.site, (int)c.site_out, c.n_parts, c.has_bias, vnp_dtype_name(c.stored)))
        return;
    int length = (int)c.rows;
    int64_t n_out = c.epi == VNP_EPI_GEGLU ? c.n_out / 2 : c.n_out;
    struct suite_batch b = suite_batch(s, 1, &length, 33);
    float *a = suite_normals(s, c.rows * c.n_in, 1), *bias32 = suite_normals(s, c.n_out, 1);
    float *w32 = suite_normals(s, c.n_out * c.n_in, (float)(1 / sqrt((double)c.n_in)));
    for (int64_t k = 0; k < c.n_in; k++) w32[k] *= 8, a[k] = c.rows > 4 ? 0 : a[k];
    float *out0 = suite_normals(s, c.rows * n_out, 10), *got[2] = {NULL, NULL};
    char *w = suite_stored(c.stored, c.n_out * c.n_in, w32);
    char *bias = suite_stored(c.stored, c.n_out, bias32);
    double *err = calloc((size_t)(c.rows * n_out), sizeof *err);
    enum vnp_dtype dtype = VNP_F32;
    if (suite_exec(s, &b.pack, VNP_MAX(c.n_in, c.n_out))) {
        suite_linear_sides(s, &c, w, bias, a, out0, got, &dtype);
        if (!s->is_bad) {
            suite_linear_error(s, &c, a, w32, bias32, out0, got[1], err);
            suite_compare(s, "result", c.rows, n_out, dtype, got[1], got[0], err);
        }
    }
    suite_exec_end(s);
    free(got[0]), free(got[1]), free(a), free(bias32), free(w32), free(out0), free(w), free(bias);
    free(err);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- attention ----------------------------------------------------------------------------- */

enum suite_positions { SUITE_NONE, SUITE_ALIBI, SUITE_ROTARY, SUITE_ROTARY_F16 };

static bool suite_is_rotary(enum suite_positions p) {
    return p == SUITE_ROTARY || p == SUITE_ROTARY_F16;
}

struct suite_attention_case {
    int64_t n_heads, head_dim;
    enum suite_positions positions;
    int n_seqs;
    const int *lengths;
    float size;    /* of q and k: large ones make sharp softmaxes */
    bool is_equal; /* all rows of a sequence alike */
};

/* What one type's rounding of q, k, p may add to a score or weight, relative. */
static double suite_operand_eps(enum vnp_precision precision) {
    return precision == VNP_PREC_FP32 ? 0 : precision == VNP_PREC_FP16 ? 0x1p-11 : 0x1p-8;
}

static double suite_length(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Row t of head h of a sequence of n rows at qkv: err [Dh]. p [n] are the exact weights there,
 * got by brute force; rotary leaves lengths alone, so |q||k| bounds a score's terms. */
static void suite_attention_error(const struct suite *s, const struct suite_attention_case *c,
                                  const float *qkv, int64_t n, int64_t t, int64_t h,
                                  const double *p, const double *k_len, double *err) {
    int64_t dh = c->head_dim, d = c->n_heads * dh;
    double eps = suite_operand_eps(s->config->device.precision);
    double q_len = suite_length(qkv + t * 3 * d + h * dh, dh) / sqrt((double)dh);
    double u =
        ((double)dh + 16 + (suite_is_rotary(c->positions) ? 2.0 * (double)n : 0)) * SUITE_U + eps;
    double mean_shift = 0;
    for (int64_t j = 0; j < n; j++) {
        double alibi = c->positions == SUITE_ALIBI ? 2 * SUITE_U * (double)n : 0;
        mean_shift += p[j] * (u * q_len * k_len[j] + alibi);
    }
    double base = mean_shift + ((double)n / 8 + 32) * SUITE_U + 2 * eps;
    for (int64_t i = 0; i < dh; i++) {
        double sum = 0;
        for (int64_t j = 0; j < n; j++)
            sum += p[j] * fabs((double)qkv[j * 3 * d + 2 * d + h * dh + i]) *
                   (u * q_len * k_len[j] + base);
        err[i] = 1.5 * sum + 1e-38;
    }
}

/* Exact weights of row t: the score's own definition in FP64. */
static void suite_weights(const struct suite_attention_case *c, const float *qkv, int64_t n,
                          int64_t t, int64_t h, const float *slopes, const double *turn,
                          double *p) {
    int64_t dh = c->head_dim, d = c->n_heads * dh, half = dh / 2;
    double max = -INFINITY, total = 0;
    const float *q = qkv + t * 3 * d + h * dh;
    for (int64_t j = 0; j < n; j++) {
        const float *k = qkv + j * 3 * d + d + h * dh;
        double sum = 0;
        for (int64_t i = 0; i < half; i++) {
            /* the turned product depends on the distance only */
            double re = (double)q[i] * (double)k[i] + (double)q[half + i] * (double)k[half + i];
            double im = (double)q[i] * (double)k[half + i] - (double)q[half + i] * (double)k[i];
            double cs = 1, sn = 0;
            if (suite_is_rotary(c->positions)) {
                int64_t lag = t - j;
                cs = turn[2 * ((lag < 0 ? -lag : lag) * half + i)];
                sn = (lag < 0 ? -1 : 1) * turn[2 * ((lag < 0 ? -lag : lag) * half + i) + 1];
            }
            sum += re * cs + im * sn;
        }
        p[j] = sum / sqrt((double)dh);
        if (c->positions == SUITE_ALIBI) p[j] -= (double)slopes[h] * fabs((double)(t - j));
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j < n; j++) total += p[j] = exp(p[j] - max);
    for (int64_t j = 0; j < n; j++) p[j] /= total;
}

static double *suite_turns(const struct suite_attention_case *c, int64_t n) {
    int64_t half = c->head_dim / 2;
    double *turn = malloc((size_t)(n * half) * 2 * sizeof *turn);
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < half; i++) {
            double freq = pow(10000.0, -2.0 * (double)i / (double)c->head_dim);
            if (c->positions == SUITE_ROTARY_F16)
                freq = (double)vnp_f16_to_f32(vnp_f32_to_f16((float)freq));
            double angle = (double)t * freq;
            turn[2 * (t * half + i)] = cos(angle), turn[2 * (t * half + i) + 1] = sin(angle);
        }
    return turn;
}

/* Errors allowed for the whole pack, and a check of the reference against the definition. */
static void suite_attention_errors(struct suite *s, const struct suite_attention_case *c,
                                   const struct suite_batch *b, const float *qkv,
                                   const float *slopes, const float *ref, double *err) {
    int64_t dh = c->head_dim, d = c->n_heads * dh, max_len = b->pack.max_len;
    double *p = malloc((size_t)max_len * sizeof *p), *k_len = malloc((size_t)max_len * sizeof *p);
    double *turn = suite_turns(c, max_len), worst = 0;
    for (int64_t seq = 0; seq < b->pack.n_seqs; seq++) {
        int64_t n = b->cu[seq + 1] - b->cu[seq];
        const float *rows = qkv + b->cu[seq] * 3 * d;
        for (int64_t h = 0; h < c->n_heads; h++) {
            for (int64_t j = 0; j < n; j++)
                k_len[j] = suite_length(rows + j * 3 * d + d + h * dh, dh);
            for (int64_t t = 0; t < n; t++) {
                double *e = err + (b->cu[seq] + t) * d + h * dh;
                suite_weights(c, rows, n, t, h, slopes, turn, p);
                suite_attention_error(s, c, rows, n, t, h, p, k_len, e);
                double sum = 0; /* one output of the definition itself, against the reference */
                int64_t i = (t + h) % dh;
                for (int64_t j = 0; j < n; j++)
                    sum += p[j] * (double)rows[j * 3 * d + 2 * d + h * dh + i];
                double r = (double)ref[(b->cu[seq] + t) * d + h * dh + i];
                worst = fmax(worst, fabs(r - sum) / (e[i] + 2 * SUITE_U * fabs(sum)));
            }
        }
    }
    if (!(worst <= 1)) suite_bad(s, "the reference is %.3g tolerances from the definition", worst);
    free(p), free(k_len), free(turn);
}

static float *suite_qkv(struct suite *s, const struct suite_attention_case *c,
                        const struct suite_batch *b) {
    int64_t d = c->n_heads * c->head_dim;
    float *qkv = suite_normals(s, b->pack.n_tokens * 3 * d, 1);
    for (int64_t seq = 0; seq < b->pack.n_seqs; seq++)
        for (int64_t row = b->cu[seq]; row < b->cu[seq + 1]; row++)
            for (int64_t i = 0; i < 3 * d; i++) {
                float *x = &qkv[row * 3 * d + i];
                if (i < 2 * d)
                    *x *= c->size;
                else
                    *x += (float)(seq + 1); /* a leak between sequences shows */
                if (c->is_equal) *x = qkv[b->cu[seq] * 3 * d + i];
            }
    return qkv;
}

static void suite_attention(struct suite *s, struct suite_attention_case c) {
    static const char *const positions[] = {"none", "alibi", "rotary", "rotary-f16"};
    if (!suite_begin(s, "attention H=%lld Dh=%lld %s S=%d first=%d size=%g equal=%d",
                     (long long)c.n_heads, (long long)c.head_dim, positions[c.positions], c.n_seqs,
                     c.lengths[0], (double)c.size, c.is_equal))
        return;
    struct suite_batch b = suite_batch(s, c.n_seqs, c.lengths, 33);
    int64_t d = c.n_heads * c.head_dim, n = b.pack.n_tokens;
    float *qkv = suite_qkv(s, &c, &b), *got[2] = {NULL, NULL}, slopes[64];
    double *err = calloc((size_t)(n * d), sizeof *err);
    enum vnp_dtype dtype = VNP_F32;
    for (int64_t h = 0; h < c.n_heads; h++) slopes[h] = (float)exp2(-(double)h - 1);
    if (suite_exec(s, &b.pack, 3 * d)) {
        struct suite_side *sides[2] = {&s->dut, &s->ref}; /* the device first: it rounds qkv */
        for (int i = 0; i < 2 && !s->is_bad; i++) {
            struct suite_tensor in = suite_tensor(s, sides[i], VNP_SITE_QKV, n, 3 * d);
            struct suite_tensor out = suite_tensor(s, sides[i], VNP_SITE_ATTN_OUT, n, d);
            float *sl = suite_const(s, sides[i], 1, c.n_heads, slopes);
            struct vnp_attention_params p = {
                .n_heads = c.n_heads,
                .head_dim = c.head_dim,
                .scale = (float)(1 / sqrt((double)c.head_dim)),
                .has_rotary = suite_is_rotary(c.positions),
                .freq_dtype = c.positions == SUITE_ROTARY_F16 ? VNP_F16 : VNP_F32,
                .slopes = c.positions == SUITE_ALIBI ? sl : NULL};
            suite_put(&in, qkv);
            if (i == 0) free(qkv), qkv = suite_get(&in);
            suite_freeze(&in);
            suite_ok(s, sides[i]->b->attention(sides[i]->ex, &p, &in.t, &out.t), "attention");
            got[i] = suite_get(&out);
            dtype = i == 0 ? out.t.dtype : dtype;
            suite_thaw(s, &in, "qkv");
            suite_guards(s, &out, "result");
            sides[i]->b->const_destroy(sides[i]->dev, sl);
        }
        if (!s->is_bad) {
            suite_attention_errors(s, &c, &b, qkv, slopes, got[1], err);
            suite_compare(s, "result", n, d, dtype, got[1], got[0], err);
        }
    }
    suite_exec_end(s);
    free(got[0]), free(got[1]), free(qkv), free(err);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- pooling ------------------------------------------------------------------------------- */

static void suite_pool_define(struct suite *s, const struct vnp_pool_params *p,
                              const struct suite_batch *b, int64_t d, const float *x,
                              const float *ref) {
    for (int64_t seq = 0; seq < b->pack.n_seqs; seq++) {
        int64_t first = b->cu[seq] + p->skip_first, n = b->cu[seq + 1] - p->skip_last - first;
        if (p->max_count > 0 && n > p->max_count) n = p->max_count;
        if (p->kind == VNP_POOL_CLS) first = b->cu[seq], n = 1;
        for (int64_t i = 0; i < d; i++) {
            double sum = 0;
            for (int64_t r = 0; r < n; r++) sum += (double)x[(first + r) * d + i];
            suite_define(s, "pool", (double)ref[seq * d + i], n > 0 ? sum / (double)n : 0, 0);
        }
    }
}

static void suite_pool(struct suite *s, struct vnp_pool_params p, int64_t d, enum vnp_site site) {
    static const int lengths[] = {1, 2, 3, 4, 17, 31, 32, 33, 130, 1100, 2, 1026, 1025};
    int n_seqs = (int)VNP_COUNT(lengths);
    if (!suite_begin(s, "pool kind=%d skip=%lld,%lld max=%lld D=%lld site=%d", (int)p.kind,
                     (long long)p.skip_first, (long long)p.skip_last, (long long)p.max_count,
                     (long long)d, (int)site))
        return;
    struct suite_batch b = suite_batch(s, n_seqs, lengths, 33);
    int64_t n = b.pack.n_tokens;
    float *x = suite_normals(s, n * d, 1), *got[2] = {NULL, NULL};
    double *err = calloc((size_t)(n_seqs * d), sizeof *err);
    for (int i = 0; i < n_seqs; i++) {
        int64_t end = b.cu[i + 1] - p.skip_last, first = b.cu[i] + p.skip_first;
        for (int64_t row = end; row < b.cu[i + 1]; row++) /* a row outside the range is huge */
            for (int64_t k = 0; k < d; k++) x[row * d + k] = 1e30f;
        if (p.max_count > 0) end = VNP_MIN(end, first + p.max_count);
        for (int64_t row = first; p.kind == VNP_POOL_MEAN && row < end; row++)
            for (int64_t k = 0; k < d; k++)
                err[i * d + k] += fabs((double)x[row * d + k]) * SUITE_U *
                                  ((double)(end - first) / 4 + 8) / (double)(end - first);
    }
    if (suite_exec(s, &b.pack, 3 * d)) {
        struct suite_side *sides[2] = {&s->dut, &s->ref};
        for (int i = 0; i < 2; i++) {
            struct suite_tensor in = suite_tensor(s, sides[i], site, n, d);
            struct suite_tensor out = suite_tensor(s, sides[i], VNP_SITE_F32, n_seqs, d);
            suite_put(&in, x);
            if (i == 0) free(x), x = suite_get(&in);
            suite_freeze(&in);
            suite_ok(s, sides[i]->b->pool(sides[i]->ex, &p, &in.t, &out.t), "pool");
            got[i] = suite_get(&out);
            suite_thaw(s, &in, "pool's x");
            suite_guards(s, &out, "result");
        }
        suite_compare(s, "result", n_seqs, d, VNP_F32, got[1], got[0], err);
        suite_pool_define(s, &p, &b, d, x, got[1]);
    }
    suite_exec_end(s);
    free(got[0]), free(got[1]), free(x), free(err);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- company ------------------------------------------------------------------------------- */

struct suite_chain {
    int64_t d, h, f, vocab;
    bool is_gated; /* DNABERT-like: ALiBi and a gated product; else rotary and GELU */
    float *table, *wqkv, *wo, *wup, *wdown, *ones, *slopes;
};

/* One layer over a pack on a fresh context: pooled [S][D] and every row [N][D]. */
static bool suite_chain_run(struct suite *s, struct suite_side *side, const struct suite_chain *c,
                            const struct vnp_pack *pack, float *pooled, float *rows) {
    const struct vnp_backend *b = side->b;
    int64_t d = c->d, n = pack->n_tokens, n_up = c->is_gated ? 2 * c->f : c->f;
    struct vnp_exec_limits limits = {n, pack->n_seqs, VNP_MAX(3 * d, n_up)};
    struct {
        const float *w;
        int64_t n_out, n_in, gate;
        enum vnp_site site;
    } lin[4] = {{c->wqkv, 3 * d, d, 0, VNP_SITE_ATTN_IN},
                {c->wo, d, d, 0, VNP_SITE_ATTN_OUT},
                {c->wup, n_up, d, c->is_gated ? c->f : 0, VNP_SITE_FFN_IN},
                {c->wdown, d, c->f, 0, VNP_SITE_FFN_MID}};
    struct {
        enum vnp_site site;
        int64_t cols;
    } site[6] = {{VNP_SITE_RESIDUAL, d}, {VNP_SITE_ATTN_IN, d}, {VNP_SITE_QKV, 3 * d},
                 {VNP_SITE_ATTN_OUT, d}, {VNP_SITE_FFN_IN, d},  {VNP_SITE_FFN_MID, c->f}};
    struct vnp_linear *w[4] = {NULL};
    struct vnp_tensor t[6], out;
    bool ok = suite_ok(s, b->exec_create(side->dev, &limits, &side->ex), "exec_create");
    if (!ok) return false;
    for (int i = 0; i < 6; i++)
        ok = ok && suite_ok(s, b->tensor_create(side->ex, site[i].site, n, site[i].cols, &t[i]),
                            "tensor");
    ok = ok &&
         suite_ok(s, b->tensor_create(side->ex, VNP_SITE_F32, pack->n_seqs, d, &out), "tensor");
    for (int i = 0; i < 4; i++) {
        struct vnp_view v = {lin[i].w, VNP_F32, lin[i].n_out, lin[i].n_in};
        struct vnp_linear_desc desc = {&v,          NULL,        1,          lin[i].n_out,
                                       lin[i].n_in, lin[i].gate, lin[i].site};
        ok = ok && suite_ok(s, b->linear_create(side->dev, &desc, &w[i]), "linear_create");
    }
    float *table = suite_const(s, side, c->vocab, d, c->table),
          *ones = suite_const(s, side, 1, d, c->ones);
    float *slopes = suite_const(s, side, 1, c->h, c->slopes);
    struct vnp_embed_params pe = {table, NULL, c->vocab, !c->is_gated, 32};
    struct vnp_norm_params pn = {ones, ones, 1e-5f};
    struct vnp_attention_params pa = {c->h,
                                      d / c->h,
                                      (float)(1 / sqrt((double)(d / c->h))),
                                      !c->is_gated,
                                      c->is_gated ? slopes : NULL,
                                      VNP_F32};
    struct vnp_pool_params pp = {VNP_POOL_MEAN, 0, 0, 0};
    ok = ok && suite_ok(s, b->batch_begin(side->ex, pack), "batch_begin");
    ok = ok && suite_ok(s, b->embed(side->ex, &pe, &t[0]), "embed");
    ok = ok && suite_ok(s, b->layernorm(side->ex, &pn, &t[0], NULL, &t[1]), "layernorm");
    ok = ok && suite_ok(s, b->linear(side->ex, w[0], VNP_EPI_NONE, &t[1], &t[2]), "qkv");
    ok = ok && suite_ok(s, b->attention(side->ex, &pa, &t[2], &t[3]), "attention");
    ok = ok && suite_ok(s, b->linear(side->ex, w[1], VNP_EPI_RESIDUAL, &t[3], &t[0]), "out");
    ok = ok && suite_ok(s, b->layernorm(side->ex, &pn, &t[0], NULL, &t[4]), "layernorm");
    ok = ok &&
         suite_ok(
             s, b->linear(side->ex, w[2], c->is_gated ? VNP_EPI_GEGLU : VNP_EPI_GELU, &t[4], &t[5]),
             "up");
    ok = ok && suite_ok(s, b->linear(side->ex, w[3], VNP_EPI_RESIDUAL, &t[5], &t[0]), "down");
    ok = ok && suite_ok(s, b->pool(side->ex, &pp, &t[0], &out), "pool");
    ok = ok && suite_ok(s, b->read_f32(side->ex, &out, pooled), "read_f32");
    ok = ok && suite_ok(s, b->read_f32(side->ex, &t[0], rows), "read_f32");
    ok = suite_ok(s, b->exec_wait(side->ex), "exec_wait") && ok;
    for (int i = 0; i < 4; i++) b->linear_destroy(side->dev, w[i]);
    b->const_destroy(side->dev, table), b->const_destroy(side->dev, ones),
        b->const_destroy(side->dev, slopes);
    b->exec_destroy(side->ex);
    side->ex = NULL;
    return ok;
}

#define SUITE_N_SEQS 21

struct suite_company {
    struct suite_batch all; /* the sequences in their own order */
    float *pooled, *rows;   /* what each gives alone */
};

/* The sequences in the order given (indices may repeat) must give the bits they give alone. */
static void suite_company_check(struct suite *s, struct suite_side *side,
                                const struct suite_chain *c, const struct suite_company *m,
                                int n_seqs, const int *order, const char *what) {
    int lengths[64];
    for (int i = 0; i < n_seqs; i++) lengths[i] = m->all.cu[order[i] + 1] - m->all.cu[order[i]];
    struct suite_batch b = suite_batch(s, n_seqs, lengths, 33);
    for (int i = 0; i < n_seqs; i++)
        memcpy(b.tokens + b.cu[i], m->all.tokens + m->all.cu[order[i]], (size_t)lengths[i] * 2);
    float *pooled = suite_floats(n_seqs * c->d), *rows = suite_floats(b.pack.n_tokens * c->d);
    if (suite_chain_run(s, side, c, &b.pack, pooled, rows)) {
        for (int i = 0; i < n_seqs; i++) {
            const float *p = m->pooled + order[i] * c->d;
            const float *r = m->rows + (int64_t)m->all.cu[order[i]] * c->d;
            size_t n_row_bytes = (size_t)(lengths[i] * c->d) * sizeof(float);
            if (memcmp(pooled + i * c->d, p, (size_t)c->d * sizeof *p) != 0 ||
                memcmp(rows + (int64_t)b.cu[i] * c->d, r, n_row_bytes) != 0)
                suite_bad(s,
                          "%s: sequence of %d tokens at place %d of %d differs from itself alone",
                          what, lengths[i], i, n_seqs);
        }
    }
    free(pooled), free(rows);
    suite_batch_free(&b);
}

static void suite_company_orders(struct suite *s, struct suite_side *side,
                                 const struct suite_chain *c, const struct suite_company *m,
                                 const char *what) {
    int order[SUITE_N_SEQS];
    for (int i = 0; i < SUITE_N_SEQS; i++) order[i] = i;
    suite_company_check(s, side, c, m, SUITE_N_SEQS, order, what);
    for (int i = 0; i < SUITE_N_SEQS; i++) order[i] = SUITE_N_SEQS - 1 - i;
    suite_company_check(s, side, c, m, SUITE_N_SEQS, order, what);
    for (int round = 0; round < 4; round++) {
        for (int i = SUITE_N_SEQS - 1; i > 0; i--) {
            int j = (int)(suite_random(s) % (unsigned)(i + 1)), t = order[i];
            order[i] = order[j], order[j] = t;
        }
        suite_company_check(s, side, c, m, 1 + (int)(suite_random(s) % SUITE_N_SEQS), order, what);
    }
    for (int i = 0; i < 18; i++) order[i] = i == 0 || i == 17 ? 9 : i;
    suite_company_check(s, side, c, m, 18, order, "places 0 and 17");
}

static void suite_company_threads(struct suite *s, const struct suite_chain *c,
                                  const struct suite_company *m) {
    for (int n = 1; s->dut.b->is_host && n <= 3; n++) {
        struct suite_side side = s->dut;
        struct vnp_device_options opt = s->config->device;
        char what[64];
        opt.n_threads = n;
        snprintf(what, sizeof what, "%d threads", n);
        if (!suite_ok(s, side.b->device_open(&opt, &side.dev), "device_open")) return;
        suite_company_orders(s, &side, c, m, what);
        side.b->device_close(side.dev);
    }
}

static void suite_company(struct suite *s, int64_t d, int64_t h, int64_t f, bool is_gated) {
    static const int lengths[SUITE_N_SEQS] = {1,  2,  3,  7,   8,   15,  16, 17,  31,  32, 33,
                                              63, 64, 65, 127, 128, 129, 51, 166, 257, 97};
    if (!suite_begin(s, "company D=%lld H=%lld F=%lld gated=%d", (long long)d, (long long)h,
                     (long long)f, is_gated))
        return;
    int64_t n_up = is_gated ? 2 * f : f;
    float scale = (float)(1 / sqrt((double)d));
    struct suite_chain c = {d,
                            h,
                            f,
                            33,
                            is_gated,
                            suite_normals(s, 33 * d, 1),
                            suite_normals(s, 3 * d * d, scale * 2),
                            suite_normals(s, d * d, scale),
                            suite_normals(s, n_up * d, scale),
                            suite_normals(s, d * f, scale / 2),
                            suite_normals(s, d, 1),
                            suite_normals(s, h, 0.1f)};
    struct suite_company m = {.all = suite_batch(s, SUITE_N_SEQS, lengths, 33)};
    m.pooled = suite_floats(SUITE_N_SEQS * d), m.rows = suite_floats(m.all.pack.n_tokens * d);
    for (int i = 0; i < SUITE_N_SEQS; i++) {
        int32_t cu[2] = {0, lengths[i]};
        if (lengths[i] > 1) m.all.tokens[m.all.cu[i]] = 0; /* never nothing but masks */
        if (lengths[i] == 1) m.all.tokens[m.all.cu[i]] %= 32;
        struct vnp_pack alone = {lengths[i], 1, lengths[i], m.all.tokens + m.all.cu[i], cu};
        suite_chain_run(s, &s->dut, &c, &alone, m.pooled + i * d, m.rows + m.all.cu[i] * d);
    }
    for (int64_t i = 0; i < m.all.pack.n_tokens * d; i++)
        if (!isfinite(m.rows[i])) suite_bad(s, "row %lld is not finite", (long long)(i / d));
    suite_company_orders(s, &s->dut, &c, &m, "same device");
    suite_company_orders(s, &s->dut, &c, &m, "same device again");
    suite_company_threads(s, &c, &m);
    free(c.table), free(c.wqkv), free(c.wo), free(c.wup), free(c.wdown), free(c.ones),
        free(c.slopes);
    free(m.pooled), free(m.rows);
    suite_batch_free(&m.all);
    suite_end(s);
}

/* ---- classifier ---------------------------------------------------------------------------- */

static void suite_classify(struct suite *s, int64_t n_in, int64_t n_hidden, int64_t n_rows) {
    if (!s->dut.b->classify) return;
    if (!suite_begin(s, "classify N=%lld in=%lld hidden=%lld", (long long)n_rows, (long long)n_in,
                     (long long)n_hidden))
        return;
    float *w[9], *z = suite_normals(s, n_rows * n_in, 1), *got[3];
    int64_t sizes[8] = {n_hidden * n_in, n_hidden, n_hidden,     n_hidden,
                        n_hidden,        n_hidden, 2 * n_hidden, 2};
    for (int i = 0; i < 8; i++)
        w[i] = suite_normals(s, sizes[i], i == 0 ? (float)(1 / sqrt((double)n_in)) : 0.5f);
    for (int64_t j = 0; j < n_hidden; j++) w[5][j] = 0.1f + w[5][j] * w[5][j]; /* a variance */
    struct vnp_classifier_params p = {n_in, n_hidden, w[0],  w[1], w[2], w[3],
                                      w[4], w[5],     1e-5f, w[6], w[7]};
    for (int i = 0; i < 3; i++) got[i] = suite_floats(n_rows * 2);
    suite_ok(s, s->ref.b->classify(s->ref.dev, &p, z, n_rows, got[0]), "classify");
    suite_ok(s, s->dut.b->classify(s->dut.dev, &p, z, n_rows, got[1]), "classify");
    for (int64_t r = 0; r < n_rows; r++)
        suite_ok(s, s->dut.b->classify(s->dut.dev, &p, z + r * n_in, 1, got[2] + r * 2),
                 "classify");
    if (memcmp(got[1], got[2], (size_t)n_rows * 2 * sizeof(float)) != 0)
        suite_bad(s, "a row alone differs from the row in company");
    double *err = calloc((size_t)(n_rows * 2), sizeof *err);
    for (int64_t i = 0; i < n_rows * 2; i++)
        err[i] = SUITE_U * (32 + sqrt((double)(n_in + n_hidden)));
    suite_compare(s, "scores", n_rows, 2, VNP_F32, got[0], got[1], err);
    for (int i = 0; i < 8; i++) free(w[i]);
    free(z), free(err), free(got[0]), free(got[1]), free(got[2]);
    suite_end(s);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void suite_refuses(struct suite *s, vnp_status status, const char *what) {
    if (status == VNP_OK) suite_bad(s, "%s was taken", what);
}

static void suite_refusals(struct suite *s) {
    static const int lengths[] = {5, 9};
    if (!suite_begin(s, "refusals")) return;
    struct suite_batch b = suite_batch(s, 2, lengths, 33);
    const struct vnp_backend *be = s->dut.b;
    struct vnp_exec_limits limits = {16, 3, 96};
    suite_ok(s, be->exec_create(s->dut.dev, &limits, &s->dut.ex), "exec_create");
    struct vnp_tensor qkv, out, x;
    suite_ok(s, be->tensor_create(s->dut.ex, VNP_SITE_QKV, 16, 96, &qkv), "tensor_create");
    suite_ok(s, be->tensor_create(s->dut.ex, VNP_SITE_ATTN_OUT, 16, 32, &out), "tensor_create");
    suite_ok(s, be->tensor_create(s->dut.ex, VNP_SITE_RESIDUAL, 16, 32, &x), "tensor_create");
    struct vnp_pack big = b.pack;
    big.n_tokens = 17;
    suite_refuses(s, be->batch_begin(s->dut.ex, &big), "a pack over the limit");
    big = b.pack;
    big.n_seqs = 0;
    suite_refuses(s, be->batch_begin(s->dut.ex, &big), "a pack of nothing");
    suite_ok(s, be->batch_begin(s->dut.ex, &b.pack), "batch_begin");
    struct vnp_attention_params p = {.n_heads = 2, .head_dim = 16, .scale = 0.25f};
    suite_refuses(s, be->attention(s->dut.ex, &p, &qkv, &out), "16 rows for 14 tokens");
    qkv.rows = out.rows = x.rows = 14;
    p.n_heads = 3;
    suite_refuses(s, be->attention(s->dut.ex, &p, &qkv, &out), "heads that do not fit");
    struct vnp_view w = {lengths, VNP_F32, 3, 5};
    struct vnp_linear_desc desc = {&w, NULL, 1, 4, 5, 0, VNP_SITE_ATTN_IN};
    struct vnp_linear *lin = NULL;
    suite_refuses(s, be->linear_create(s->dut.dev, &desc, &lin), "a weight with a row too few");
    if (lin) suite_bad(s, "a refused linear was handed out");
    suite_ok(s, be->exec_wait(s->dut.ex), "exec_wait after refusals");
    be->exec_destroy(s->dut.ex);
    s->dut.ex = NULL;
    be->exec_destroy(NULL), be->linear_destroy(s->dut.dev, NULL),
        be->const_destroy(s->dut.dev, NULL);
    be->device_close(NULL);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- the lists ----------------------------------------------------------------------------- */

static void suite_rows_cases(struct suite *s) {
    static const int64_t dims[] = {16, 24, 64, 80, 96, 256, 320, 480, 768};
    static const int64_t rows[] = {1, 2, 7, 16, 33, 61};
    for (size_t i = 0; i < VNP_COUNT(dims); i++) {
        for (int k = 0; k < 4; k++) suite_embed(s, dims[i], k & 1, k & 2);
        for (size_t r = 0; r < VNP_COUNT(rows); r++) {
            suite_norm(s, rows[r], dims[i], VNP_SITE_ATTN_IN, 1e-5f, false);
            suite_norm(s, rows[r], dims[i], VNP_SITE_FFN_IN, 1e-12f, true);
        }
        for (int site = 0; site < 2; site++) {
            enum vnp_site at = site ? VNP_SITE_F32 : VNP_SITE_RESIDUAL;
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 1, 1, 1024}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 0, 0, 0}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 2, 1, 5}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_CLS, 0, 0, 0}, dims[i], at);
        }
    }
}

static void suite_linear_cases(struct suite *s) {
    static const int64_t rows[] = {1, 2, 5, 16, 31, 64, 65, 129};
    static const int64_t dims[] = {16, 24, 48, 64, 80, 96, 128, 320};
    static const enum vnp_dtype stored[] = {VNP_F32, VNP_F16, VNP_BF16};
    for (size_t i = 0; i < VNP_COUNT(dims); i++) {
        for (size_t r = 0; r < VNP_COUNT(rows); r++) {
            if (s->config->is_quick && (i + r) % 3) continue;
            int64_t d = dims[i], n = rows[r];
            enum vnp_dtype type = stored[(i + r) % 3];
            suite_linear(s, (struct suite_linear_case){n, d, 3 * d, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                                       VNP_SITE_QKV, 3, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 3 * d, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                                       VNP_SITE_QKV, 1, false, type});
            suite_linear(s, (struct suite_linear_case){n, d, d, VNP_EPI_RESIDUAL, VNP_SITE_ATTN_OUT,
                                                       VNP_SITE_RESIDUAL, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 4 * d, VNP_EPI_GELU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 8 * d, VNP_EPI_GEGLU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, false, type});
            suite_linear(s,
                         (struct suite_linear_case){n, 4 * d, d, VNP_EPI_RESIDUAL, VNP_SITE_FFN_MID,
                                                    VNP_SITE_RESIDUAL, 1, true, type});
            suite_linear(s,
                         (struct suite_linear_case){n, 3 * d, d, VNP_EPI_RESIDUAL, VNP_SITE_FFN_MID,
                                                    VNP_SITE_RESIDUAL, 1, false, type});
            suite_linear(s, (struct suite_linear_case){n, d, 33, VNP_EPI_NONE, VNP_SITE_FFN_IN,
                                                       VNP_SITE_F32, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, d, VNP_EPI_GELU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_F32, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 6 * d, VNP_EPI_GEGLU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, true, type});
        }
    }
}

static void suite_linear_cases_large(struct suite *s) {
    /* 8.5 MB of FP32, more than caches keep: results may be written another way */
    suite_linear(s, (struct suite_linear_case){520, 16, 4104, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                               VNP_SITE_QKV, 3, true, VNP_F16});
}

static void suite_attention_cases(struct suite *s) {
    static const int small[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    static const int tiles[] = {33, 1, 31, 32, 64, 2, 63, 65, 1, 127, 128, 129};
    static const int primes[] = {61, 97, 53, 1, 251};
    static const int borders[] = {176, 177, 191, 192, 193, 256, 257}; /* of ways to go about it */
    static const int one[] = {1}, two[] = {2}, longest[] = {517};
    static const struct {
        int n;
        const int *lengths;
    } packs[] = {{17, small}, {12, tiles},  {5, primes}, {1, one},
                 {1, two},    {1, longest}, {7, borders}};
    static const int64_t head_dims[] = {16, 24, 32, 64, 128};
    for (size_t k = 0; k < VNP_COUNT(head_dims); k++) {
        for (int64_t h = 1; h <= 5; h++) {
            for (size_t i = 0; i < VNP_COUNT(packs); i++) {
                if (s->config->is_quick && ((size_t)h + i + k) % 3) continue;
                bool is_slow = packs[i].lengths == longest || packs[i].lengths == borders;
                if (is_slow && h > (s->config->is_quick ? 1 : 2)) continue;
                for (int p = SUITE_NONE; p <= SUITE_ROTARY_F16; p++) {
                    if (p == SUITE_ROTARY_F16 && packs[i].n == 1) continue;
                    struct suite_attention_case c = {
                        h, head_dims[k], (enum suite_positions)p, packs[i].n, packs[i].lengths,
                        1, false};
                    suite_attention(s, c);
                    if (h != 2) continue;
                    c.size = 4;
                    suite_attention(s, c);
                    c.size = 1, c.is_equal = true;
                    suite_attention(s, c);
                }
            }
        }
    }
}

/* Runs everything; returns 0 when nothing failed. The caller prints the plan "1..n" if it wants. */
static int op_suite_run(const struct op_suite_config *config, int *n_passed, int *n_failed) {
    struct suite s = {.config = config, .random = config->seed ? config->seed : 20240229};
    struct vnp_device_options ref = config->device;
    s.ref.b = vnp_ref_backend();
    s.dut.b = config->backend;
    s.dut.config = config;
    ref.is_emulation = ref.precision != VNP_PREC_FP32;
    ref.idx_device = ref.n_threads = 0;
    s.out = config->out ? config->out : stdout;
    fprintf(s.out, "# op suite: %s, %s, seed %llu\n", s.dut.b->name,
            vnp_precision_name(ref.precision), (unsigned long long)s.random);
    if (vnp_backend_check(s.dut.b, VNP_NEED_ENCODER) != VNP_OK ||
        s.ref.b->device_open(&ref, &s.ref.dev) != VNP_OK ||
        s.dut.b->device_open(&config->device, &s.dut.dev) != VNP_OK) {
        fprintf(s.out, "not ok 1 - open %s: %s\n", s.dut.b->name, vnp_error_last()->text);
        s.ref.b->device_close(s.ref.dev);
        *n_passed = 0, *n_failed = 1;
        return 1;
    }
    suite_refusals(&s);
    suite_rows_cases(&s);
    suite_linear_cases(&s);
    suite_linear_cases_large(&s);
    suite_attention_cases(&s);
    suite_company(&s, 64, 2, 128, false);
    suite_company(&s, 96, 6, 384, true);
    suite_company(&s, 256, 4, 1024, false);
    for (int i = 0; i < 3; i++)
        suite_classify(&s, (int64_t[]){64, 320, 3328}[i], (int64_t[]){8, 64, 512}[i], 13);
    s.ref.b->device_close(s.ref.dev);
    s.dut.b->device_close(s.dut.dev);
    *n_passed = s.n_passed, *n_failed = s.n_failed;
    return s.n_failed != 0;
}

#endif
