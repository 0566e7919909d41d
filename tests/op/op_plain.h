/* SPDX-License-Identifier: MIT
 * What tests of the conformance suite share that put a table of their own over a host backend:
 * plain copies of tensors, so that the backend computes in FP32 what the suite sees narrower; runs
 * of the suite over the table, and over one broken on purpose. */
#ifndef VNP_OP_PLAIN_H
#define VNP_OP_PLAIN_H

#include "op_suite.h"

#include "ref/ref.h"

static struct vnp_backend table; /* what the suite sees */
static const struct vnp_backend *real;
static bool is_narrow; /* narrower types on top of a backend of FP32 tensors: FP8 over ref */
static int fault;      /* of the test's own; 0: none */
static int n_lines;    /* of TAP */

/* The test's: its ops, into `table`; of the suite's cases every n-th, 0: all. */
static void put_ops(void);
static int every_case(void);

/* ---- plain copies of tensors ---------------------------------------------------------------- */

static struct vnp_tensor plain(const struct vnp_tensor *t) {
    int64_t ld = VNP_ALIGN_UP(t->cols, 16);
    float *x = vnp_alloc_aligned((size_t)(t->rows * ld) * sizeof *x);
    if (!x) exit(2);
    return (struct vnp_tensor){
        .data = x, .dtype = VNP_F32, .rows = t->rows, .cols = t->cols, .ld = ld};
}

static struct vnp_tensor widened(const struct vnp_tensor *t) {
    struct vnp_tensor out = plain(t);
    for (int64_t r = 0; r < t->rows; r++) {
        float *x = (float *)out.data + r * out.ld;
        const char *row = (const char *)t->data + (size_t)(r * t->ld) * vnp_dtype_bytes(t->dtype);
        vnp_convert_to_f32(t->dtype, row, t->cols, x);
        for (int64_t c = 0; t->scale && c < t->cols; c++) x[c] *= t->scale[r];
    }
    return out;
}

static void narrowed(const struct vnp_tensor *x, struct vnp_tensor *out) {
    size_t size = vnp_dtype_bytes(out->dtype);
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++) {
            float y = ((const float *)x->data)[r * x->ld + c];
            if (out->scale) y /= out->scale[r];
            suite_store(out->dtype, (char *)out->data + (size_t)(r * out->ld + c) * size, y);
        }
}

/* ---- runs ----------------------------------------------------------------------------------- */

/* Sanitized, as with VNP_QUICK, some cases: it is the suite that is tried here, and the backends'
 * own tests go through all of theirs. */
static bool is_short(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return getenv("VNP_QUICK") != NULL;
#endif
}

/* The cases of the suite that failed; -1: there were none to run. */
static int run(const struct vnp_backend *b, enum vnp_precision precision, const char *only,
               bool is_quick, FILE *out) {
    int n_passed = 0, n_failed = 0;
    struct op_suite_config config = {
        .backend = &table,
        .device = {.precision = precision,
                   .n_threads = 2,
                   .is_emulation = b == vnp_ref_backend() && precision != VNP_PREC_FP32},
        .is_quick = is_quick,
        .only = only,
        .every = every_case(),
        .out = out,
    };
    is_narrow = b == vnp_ref_backend() && precision == VNP_PREC_FP8;
    real = b;
    table = *b;
    put_ops();
    op_suite_run(&config, &n_passed, &n_failed);
    n_lines += n_passed + n_failed;
    return n_passed + n_failed == 0 ? -1 : n_failed;
}

/* A line: does the suite fail with this fault? 0 if it does. */
static int must_fail(const char *what, int f, enum vnp_precision precision, const char *only) {
    FILE *nowhere = fopen("/dev/null", "w");
    fault = f;
    int before = n_lines, n_failed = run(vnp_ref_backend(), precision, only, true, nowhere);
    fault = 0;
    n_lines = before + 1;
    fclose(nowhere);
    printf("%s %d - the suite catches %s, %d cases\n", n_failed > 0 ? "ok" : "not ok", n_lines,
           what, n_failed);
    return n_failed <= 0;
}

#endif
