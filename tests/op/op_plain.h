/* SPDX-License-Identifier: MIT
 * What tests of the conformance suite share that put a table of their own over a host backend:
 * plain copies of tensors, so that the backend computes in FP32 what the suite sees narrower. */
#ifndef VNP_OP_PLAIN_H
#define VNP_OP_PLAIN_H

#include "op_suite_frame.h"

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

/* Sanitized, as with VNP_QUICK, some cases: it is the suite that is tried here, and the backends'
 * own tests go through all of theirs. */
static bool is_short(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return getenv("VNP_QUICK") != NULL;
#endif
}

#endif
