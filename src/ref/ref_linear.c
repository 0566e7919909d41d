// SPDX-License-Identifier: MIT
// out = epilogue(a W^T + b), FP64 sums in the order k = 0, 1, .. K-1 for every output, so that an
// output depends on its row and its weights alone. The weight is kept in transposed panels of COLS
// outputs, [n_in][COLS]: neighbouring outputs are then neighbouring in memory.
#include "ref/ref_room.h"

#include <math.h>
#include <stdlib.h>

#define ROWS VNP_REF_ROWS
#define COLS VNP_REF_COLS

/* Eight neighbours, at any address. */
typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef double doubles __attribute__((vector_size(64), aligned(8), may_alias));

double vnp_ref_gelu(double x) {
    return 0.5 * x * (1.0 + erf(x * 0.70710678118654752440));
}

void vnp_ref_linear_destroy(struct vnp_device *dev, struct vnp_linear *w) {
    (void)dev;
    if (!w) return;
    vnp_free_aligned(w->weight);
    vnp_free_aligned(w->bias);
    free(w);
}

int64_t vnp_ref_linear_bytes(const struct vnp_linear *w) {
    return (w->n_in + 1) * w->ld * (int64_t)sizeof(float);
}

/* Fills the panels and the bias from the parts, one output channel at a time; row [K]. */
static void fill(const struct vnp_device *dev, const struct vnp_linear_desc *d,
                 struct vnp_linear *w, float *row) {
    int64_t j = 0;
    for (int p = 0; p < d->n_parts; p++) {
        const struct vnp_view *v = &d->weight[p];
        size_t n_bytes = vnp_dtype_bytes(v->dtype) * (size_t)v->cols;
        if (d->bias && d->bias[p].data)
            vnp_convert_to_f32(d->bias[p].dtype, d->bias[p].data, v->rows, w->bias + j);
        for (int64_t r = 0; r < v->rows; r++, j++) {
            vnp_convert_to_f32(v->dtype, (const char *)v->data + (size_t)r * n_bytes, v->cols, row);
            vnp_ref_round(dev->rounding, v->cols, row, row);
            float *panel = w->weight + j / COLS * COLS * w->n_in;
            for (int64_t k = 0; k < v->cols; k++) panel[k * COLS + j % COLS] = row[k];
        }
    }
}

vnp_status vnp_ref_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                 struct vnp_linear **out) {
    *out = NULL;
    VNP_TRY(vnp_op_check_linear_desc(desc));
    size_t n_weights, n_bytes;
    int64_t ld = VNP_ALIGN_UP(desc->n_out, COLS);
    if (!vnp_size_mul((size_t)ld, (size_t)desc->n_in, &n_weights) ||
        !vnp_size_mul(n_weights, sizeof(float), &n_bytes))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ref: linear [%lld][%lld] is too large",
                        (long long)desc->n_out, (long long)desc->n_in);
    struct vnp_linear *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "ref: a linear");
    w->n_out = desc->n_out;
    w->n_in = desc->n_in;
    w->gate_rows = desc->gate_rows;
    w->ld = ld;
    w->weight = vnp_alloc_aligned(n_bytes);
    w->bias = vnp_alloc_aligned((size_t)ld * sizeof(float));
    float *row = vnp_alloc_aligned((size_t)desc->n_in * sizeof(float));
    if (!w->weight || !w->bias || !row) {
        vnp_free_aligned(row);
        vnp_ref_linear_destroy(dev, w);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "ref: %zu bytes for a linear [%lld][%lld]",
                        n_bytes, (long long)desc->n_out, (long long)desc->n_in);
    }
    fill(dev, desc, w, row);
    vnp_free_aligned(row);
    *out = w;
    return VNP_OK;
}

/* sums[r][j] = sum over k of a[r][k] * panel[k][j] for ROWS rows and COLS outputs. n_side rows are
 * summed at a time, what the instruction set has registers for; in vectors, since the compiler
 * keeps plain sums in memory, at half the speed.
 * The same source for every instruction set, and the bits agree though some contract the product
 * and the sum (room.cmake): a product of two FP32 values is exact in FP64. */
static inline __attribute__((always_inline)) void
tile_sums(int64_t n_in, const double *a, const float *panel, int n_side, double *sums) {
    for (int64_t top = 0; top < ROWS; top += n_side) {
        doubles acc[ROWS] = {{0}};
        for (int64_t k = 0; k < n_in; k++) {
            doubles w = __builtin_convertvector(*(const floats *)(panel + k * COLS), doubles);
            for (int r = 0; r < n_side; r++) acc[r] += a[(top + r) * n_in + k] * w;
        }
        for (int r = 0; r < n_side; r++) *(doubles *)(sums + (top + r) * COLS) = acc[r];
    }
}

typedef void tile_fn(int64_t n_in, const double *a, const float *panel, double *sums);

static void tile_plain(int64_t n_in, const double *a, const float *panel, double *sums) {
    tile_sums(n_in, a, panel, ROWS / 2, sums);
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void tile_avx2(int64_t n_in, const double *a,
                                                          const float *panel, double *sums) {
    tile_sums(n_in, a, panel, ROWS / 2, sums);
}

__attribute__((target("avx512f,fma"))) static void tile_avx512(int64_t n_in, const double *a,
                                                               const float *panel, double *sums) {
    tile_sums(n_in, a, panel, ROWS, sums);
}
#endif

static tile_fn *choose_tile(void) {
#ifdef __x86_64__
    bool has_fma = __builtin_cpu_supports("fma");
    if (has_fma && __builtin_cpu_supports("avx512f")) return tile_avx512;
    if (has_fma && __builtin_cpu_supports("avx2")) return tile_avx2;
#endif
    return tile_plain;
}

struct job {
    struct vnp_exec *ex;
    const struct vnp_linear *w;
    enum vnp_epilogue epi;
    const struct vnp_tensor *a, *out;
    tile_fn *tile;
};

/* y [n_out] is the finished row in FP64. */
static void store_row(const struct job *job, const double *y, float *out) {
    int64_t n_out = job->w->n_out, n_gate = job->w->gate_rows;
    switch (job->epi) {
    case VNP_EPI_NONE:
        for (int64_t j = 0; j < n_out; j++) out[j] = (float)y[j];
        break;
    case VNP_EPI_GELU:
        for (int64_t j = 0; j < n_out; j++) out[j] = (float)vnp_ref_gelu(y[j]);
        break;
    case VNP_EPI_RESIDUAL:
        for (int64_t j = 0; j < n_out; j++) out[j] = (float)((double)out[j] + y[j]);
        break;
    case VNP_EPI_GEGLU:
        for (int64_t j = 0; j < n_gate; j++) out[j] = (float)(vnp_ref_gelu(y[j]) * y[n_gate + j]);
        break;
    }
}

/* One task: ROWS rows. Missing rows of the last task are zeros. */
static void rows_task(void *ctx, int64_t task, int thread) {
    const struct job *job = ctx;
    const struct vnp_linear *w = job->w;
    int64_t first = task * ROWS, n_rows = VNP_MIN(ROWS, job->a->rows - first);
    double *y = vnp_ref_scratch(job->ex, thread); /* [ROWS][ld] */
    double *a = y + ROWS * w->ld;                 /* [ROWS][n_in] */
    float *row = (float *)(a + ROWS * w->n_in);   /* [n_in] */
    double sums[ROWS * COLS];
    for (int64_t k = 0; k < ROWS * w->n_in; k++) a[k] = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        const float *src = (const float *)job->a->data + (first + r) * job->a->ld;
        vnp_ref_round(job->ex->dev->rounding, w->n_in, src, row);
        for (int64_t k = 0; k < w->n_in; k++) a[r * w->n_in + k] = (double)row[k];
    }
    for (int64_t col = 0; col < w->ld; col += COLS) {
        job->tile(w->n_in, a, w->weight + col * w->n_in, sums);
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t j = 0; j < COLS; j++)
                y[r * w->ld + col + j] = sums[r * COLS + j] + (double)w->bias[col + j];
    }
    for (int64_t r = 0; r < n_rows; r++)
        store_row(job, y + r * w->ld, (float *)job->out->data + (first + r) * job->out->ld);
}

vnp_status vnp_ref_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                          const struct vnp_tensor *a, struct vnp_tensor *out) {
    VNP_TRY(
        vnp_op_check_linear(w->n_out, w->n_in, w->gate_rows, epi, a, out, ex->limits.max_tokens));
    size_t n = ROWS * (size_t)(w->ld + w->n_in) * sizeof(double) + (size_t)w->n_in * sizeof(float);
    if (n > ex->n_scratch)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "ref: linear [%lld][%lld] in a context of at most %lld columns",
                        (long long)w->n_out, (long long)w->n_in, (long long)ex->limits.max_cols);
    struct job job = {ex, w, epi, a, out, choose_tile()};
    vnp_ref_run(ex->dev, (a->rows + ROWS - 1) / ROWS, rows_task, &job);
    return VNP_OK;
}
