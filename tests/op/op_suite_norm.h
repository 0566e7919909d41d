/* SPDX-License-Identifier: MIT
 * The conformance suite of linear_norm, for backends that have it: against the reference's linear
 * with VNP_EPI_RESIDUAL and its layernorm on the same rounded operands; the bits of a row in any
 * company; rows spoilt with NaN and infinity beside clean ones. See op_suite.h. */
#ifndef VNP_OP_SUITE_NORM_H
#define VNP_OP_SUITE_NORM_H

#include "op_suite_qkv.h"

struct suite_linear_norm_case {
    int64_t rows, n_in, d;
    bool is_down; /* FFN_MID to ATTN_IN, a layer's end; else ATTN_OUT to FFN_IN */
    bool has_operand, has_bias;
    float eps;
    enum vnp_dtype stored;
    bool is_in_place; /* the operand is a itself */
};

/* What goes in: a [N][K] and x [N][D] as the device holds them, parameters and stored weights. */
struct suite_linear_norm {
    struct suite_linear_norm_case c;
    struct suite_linear_case l; /* the product */
    enum vnp_site site_operand;
    float *a, *x, *w32, *bias32, *gamma, *beta;
    char *w, *bias;
};

/* The op's arguments on one side, inside guards. */
struct suite_linear_norm_args {
    struct suite_tensor in, x, operand;
    struct vnp_linear *w;
    float *gamma, *beta; /* on the device */
    struct vnp_norm_params p;
};

/* What comes out. */
struct suite_linear_norm_result {
    float *x, *operand, *scales;
    enum vnp_dtype x_dtype, operand_dtype;
};

/* Rows of every unpleasant kind, as suite_norm_rows has them, but of the sum. */
static void suite_linear_norm_rows(struct suite_linear_norm *m) {
    int64_t d = m->c.d, k = m->c.n_in;
    for (int64_t r = 0; r < m->c.rows; r++) {
        int kind = (int)((r + m->c.rows) % 8);
        float factor = kind == 2 || kind == 5 ? 0 : kind == 4 ? 1e-3f : 1;
        for (int64_t i = 0; i < k; i++) m->a[r * k + i] *= factor;
        for (int64_t i = 0; i < d; i++) {
            float *v = &m->x[r * d + i], bias = m->c.has_bias ? m->bias32[i] : 0;
            switch (kind) {
            case 1:
                *v += 1000;
                break; /* far from 0: needs two passes */
            case 2:
                *v = 0.37f - bias;
                break; /* no variance but that of roundings */
            case 3:
                *v *= i % 5 ? 1e-3f : 1e4f;
                break; /* large beside small */
            case 4:
                *v = *v * 1e-3f - bias;
                break; /* eps counts */
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
}

static struct suite_linear_norm suite_linear_norm_make(struct suite *s,
                                                       struct suite_linear_norm_case c) {
    struct suite_linear_norm m = {
        .c = c,
        .l = {c.rows, c.n_in, c.d, VNP_EPI_RESIDUAL,
              c.is_down ? VNP_SITE_FFN_MID : VNP_SITE_ATTN_OUT, VNP_SITE_RESIDUAL, 1, c.has_bias,
              c.stored},
        .site_operand = c.is_down ? VNP_SITE_ATTN_IN : VNP_SITE_FFN_IN,
        .a = suite_normals(s, c.rows * c.n_in, 1),
        .x = suite_normals(s, c.rows * c.d, 1),
        .w32 = suite_normals(s, c.d * c.n_in, (float)(1 / sqrt((double)c.n_in))),
        .bias32 = suite_normals(s, c.d, 0.5f),
        .gamma = suite_normals(s, c.d, 1),
        .beta = suite_normals(s, c.d, 0.5f),
    };
    m.w = suite_stored(c.stored, c.d * c.n_in, m.w32);
    m.bias = suite_stored(c.stored, c.d, m.bias32);
    suite_linear_norm_rows(&m);
    return m;
}

static void suite_linear_norm_free(struct suite_linear_norm *m) {
    free(m->a), free(m->x), free(m->w32), free(m->bias32), free(m->gamma), free(m->beta);
    free(m->w), free(m->bias);
}

static bool suite_linear_norm_open(struct suite *s, struct suite_side *side,
                                   const struct suite_linear_norm *m, int64_t rows,
                                   struct suite_linear_norm_args *a) {
    a->in = suite_tensor(s, side, m->l.site, rows, m->c.n_in);
    a->x = suite_tensor(s, side, VNP_SITE_RESIDUAL, rows, m->c.d);
    a->operand = m->c.is_in_place ? a->in : suite_tensor(s, side, m->site_operand, rows, m->c.d);
    a->w = suite_linear_make(s, side, &m->l, m->w, m->bias);
    a->gamma = suite_const(s, side, 1, m->c.d, m->gamma);
    a->beta = suite_const(s, side, 1, m->c.d, m->beta);
    a->p = (struct vnp_norm_params){a->gamma, a->beta, m->c.eps};
    return a->w != NULL;
}

static void suite_linear_norm_close(struct suite_side *side, struct suite_linear_norm_args *a) {
    side->b->linear_destroy(side->dev, a->w);
    side->b->const_destroy(side->dev, a->gamma), side->b->const_destroy(side->dev, a->beta);
}

static vnp_status suite_linear_norm_call(struct suite *s, const struct suite_linear_norm *m,
                                         struct suite_linear_norm_args *a) {
    return s->dut.b->linear_norm(s->dut.ex, a->w, &a->p, &a->in.t, &a->x.t,
                                 m->c.has_operand ? &a->operand.t : NULL);
}

/* All around the window, scales included, is still 0xff. */
static void suite_operand_guards(struct suite *s, const struct suite_tensor *t) {
    suite_guards(s, t, "operand");
    if (!t->t.scale) return;
    uint32_t *bits = malloc((size_t)t->whole_rows * sizeof *bits);
    suite_copy(t->side, bits, t->whole.scale, (size_t)t->whole_rows * sizeof *bits, false);
    for (int64_t r = 0; r < t->whole_rows; r++)
        if ((r < SUITE_PAD_ROWS || r >= SUITE_PAD_ROWS + t->t.rows) && bits[r] != UINT32_MAX)
            suite_bad(s, "operand: a scale of row %lld of %lld", (long long)(r - SUITE_PAD_ROWS),
                      (long long)t->t.rows);
    free(bits);
}

/* ---- against the reference ------------------------------------------------------------------ */

static void suite_linear_norm_dut(struct suite *s, struct suite_linear_norm *m,
                                  struct suite_linear_norm_result *r) {
    struct suite_linear_norm_args a;
    if (!suite_linear_norm_open(s, &s->dut, m, m->c.rows, &a)) return;
    suite_put(&a.in, m->a), suite_put(&a.x, m->x);
    free(m->a), free(m->x);
    m->a = suite_get(&a.in), m->x = suite_get(&a.x); /* as the device rounds them */
    if (!m->c.is_in_place) suite_freeze(&a.in);
    suite_ok(s, suite_linear_norm_call(s, m, &a), "linear_norm");
    r->x = suite_get(&a.x), r->x_dtype = a.x.t.dtype;
    r->operand = suite_get(&a.operand), r->operand_dtype = a.operand.t.dtype;
    r->scales = suite_get_scales(&a.operand);
    if (!m->c.is_in_place) suite_thaw(s, &a.in, "linear_norm's a");
    suite_guards(s, &a.x, "x");
    if (!m->c.has_operand) a.operand.t.rows = 0;
    suite_operand_guards(s, &a.operand);
    suite_linear_norm_close(&s->dut, &a);
}

/* sum: what the reference's linear leaves in x, before the norm. */
static void suite_linear_norm_ref(struct suite *s, const struct suite_linear_norm *m, float **sum,
                                  float **y) {
    const struct vnp_backend *be = s->ref.b;
    struct suite_linear_norm_args a;
    if (!suite_linear_norm_open(s, &s->ref, m, m->c.rows, &a)) return;
    suite_put(&a.in, m->a), suite_put(&a.x, m->x);
    suite_ok(s, be->linear(s->ref.ex, a.w, VNP_EPI_RESIDUAL, &a.in.t, &a.x.t), "linear");
    *sum = suite_get(&a.x);
    suite_ok(s, be->layernorm(s->ref.ex, &a.p, &a.x.t, &a.x.t, NULL), "layernorm");
    *y = suite_get(&a.x);
    suite_linear_norm_close(&s->ref, &a);
}

/* e [N][D], the error allowed in the sum: suite_linear's, and of a row of zeros the bias's alone,
 * since nothing is rounded when zeros are summed. */
static void suite_linear_norm_sums(struct suite *s, const struct suite_linear_norm *m,
                                   const float *sum, double *e) {
    int64_t d = m->c.d, k = m->c.n_in;
    suite_qkv_linear_error(s, &m->l, m->a, m->w32, m->bias32, e);
    for (int64_t r = 0; r < m->c.rows; r++) {
        bool is_zero = !(suite_length(m->a + r * k, k) > 0);
        for (int64_t i = r * d; i < (r + 1) * d; i++) {
            double x = (double)m->x[i], y = (double)sum[i] - x;
            e[i] = (is_zero ? 0 : e[i]) + 2 * SUITE_U * (fabs(y) + fabs(x));
        }
    }
}

/* The error allowed in y = LN(sum): the norm's own, and the sum's carried through it. A change e of
 * the row moves its mean by no more than the mean of |e| and its root sqrt(var + eps), a length in
 * D + 1 dimensions, by no more than the root mean square of e; whatever the change, no centred
 * value exceeds sqrt(D) roots. */
static void suite_linear_norm_error(struct suite *s, const struct suite_linear_norm *m,
                                    const float *sum, const float *y, double *err) {
    int64_t d = m->c.d, n = m->c.rows;
    double *e = calloc((size_t)(n * d), sizeof *e);
    suite_norm_error(s, n, d, m->c.eps, sum, m->gamma, m->beta, y, err);
    suite_linear_norm_sums(s, m, sum, e);
    for (int64_t r = 0; r < n; r++) {
        double mean = 0, var = 0, e_mean = 0, e_square = 0;
        for (int64_t i = r * d; i < (r + 1) * d; i++)
            mean += (double)sum[i] / (double)d, e_mean += e[i] / (double)d,
                e_square += e[i] * e[i] / (double)d;
        for (int64_t i = r * d; i < (r + 1) * d; i++)
            var += ((double)sum[i] - mean) * ((double)sum[i] - mean) / (double)d;
        double root = 1 / sqrt(var + (double)m->c.eps), q = sqrt(e_square) * root;
        for (int64_t i = r * d; i < (r + 1) * d; i++) {
            double z = fabs((double)sum[i] - mean) * root, most = z + sqrt((double)d);
            double carried = q < 1 ? ((e[i] + e_mean) * root + z * q) / (1 - q) : most;
            err[i] += fabs((double)m->gamma[i - r * d]) * fmin(carried, most);
        }
    }
    free(e);
}

/* The operand is x rounded, by the scale of its own row: its largest magnitude over 448. */
static void suite_linear_norm_operand(struct suite *s, const struct suite_linear_norm *m,
                                      const struct suite_linear_norm_result *dut) {
    int64_t d = m->c.d, n = m->c.rows;
    double *none = calloc((size_t)(n * d), sizeof *none);
    if (dut->x_dtype == VNP_F32)
        suite_compare_scaled(s, "operand beside x", n, d, dut->operand_dtype, dut->scales, dut->x,
                             dut->operand, none);
    for (int64_t r = 0; dut->scales && dut->operand_dtype == VNP_E4M3 && r < n; r++) {
        double top = 0, scale = (double)dut->scales[r];
        for (int64_t i = 0; i < d; i++) top = fmax(top, fabs((double)dut->x[r * d + i]));
        if (!(scale > 0 && (top <= 0 || fabs(448 * scale - top) <= 8 * SUITE_U * top)))
            suite_bad(s, "row %lld has a scale of %.9g; its largest value is %.9g", (long long)r,
                      scale, top);
    }
    free(none);
}

static void suite_linear_norm(struct suite *s, struct suite_linear_norm_case c) {
    if (!suite_begin(s, "linear_norm N=%lld K=%lld D=%lld down=%d operand=%d bias=%d eps=%g %s%s",
                     (long long)c.rows, (long long)c.n_in, (long long)c.d, c.is_down, c.has_operand,
                     c.has_bias, (double)c.eps, vnp_dtype_name(c.stored),
                     c.is_in_place ? " in place" : ""))
        return;
    int length = (int)c.rows;
    struct suite_batch b = suite_batch(s, 1, &length, 33);
    struct suite_linear_norm m = suite_linear_norm_make(s, c);
    struct suite_linear_norm_result dut = {0};
    float *sum = NULL, *y = NULL;
    double *err = calloc((size_t)(c.rows * c.d), sizeof *err);
    if (suite_exec(s, &b.pack, VNP_MAX(c.n_in, c.d))) {
        suite_linear_norm_dut(s, &m, &dut);
        if (!s->is_bad) suite_linear_norm_ref(s, &m, &sum, &y);
        if (!s->is_bad) {
            suite_linear_norm_error(s, &m, sum, y, err);
            suite_compare(s, "x", c.rows, c.d, dut.x_dtype, y, dut.x, err);
            if (c.has_operand) {
                suite_compare(s, "operand", c.rows, c.d, dut.operand_dtype, y, dut.operand, err);
                suite_linear_norm_operand(s, &m, &dut);
            }
        }
    }
    suite_exec_end(s);
    free(dut.x), free(dut.operand), free(dut.scales), free(sum), free(y), free(err);
    suite_linear_norm_free(&m);
    suite_batch_free(&b);
    suite_end(s);
}

#endif
