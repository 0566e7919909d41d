/* SPDX-License-Identifier: MIT
 * The conformance suite of linear_norm, row by row: the bits of a row in any company, rows spoilt
 * with NaN and infinity beside clean ones, a product on what the op left, and what must be refused.
 * See op_suite.h. */
#ifndef VNP_OP_SUITE_NORM_ROWS_H
#define VNP_OP_SUITE_NORM_ROWS_H

#include "op_suite_norm.h"

#define SUITE_KINDS_OF_ROWS 40 /* different rows; longer batches repeat them */

/* A context of the device with room for `max_rows`, its tensors and the operands to draw from. */
struct suite_company_of_rows {
    struct suite_linear_norm m; /* SUITE_KINDS_OF_ROWS rows */
    struct suite_linear_norm_args args;
    struct suite_batch b; /* one sequence of max_rows tokens */
    float *a, *x;         /* [max_rows] of what is put in */
};

/* The bits of every row of one run: x, operand and its scale, one behind the other. */
struct suite_rows {
    char *bytes;
    size_t row_bytes;
};

static bool suite_rows_open(struct suite *s, struct suite_linear_norm_case c, int64_t max_rows,
                            struct suite_company_of_rows *r) {
    int length = (int)max_rows;
    c.rows = SUITE_KINDS_OF_ROWS;
    r->m = suite_linear_norm_make(s, c);
    r->b = suite_batch(s, 1, &length, 33);
    r->a = suite_floats(max_rows * c.n_in), r->x = suite_floats(max_rows * c.d);
    return suite_exec(s, &r->b.pack, VNP_MAX(c.n_in, c.d)) &&
           suite_linear_norm_open(s, &s->dut, &r->m, max_rows, &r->args);
}

static void suite_rows_close(struct suite *s, struct suite_company_of_rows *r) {
    suite_linear_norm_close(&s->dut, &r->args);
    suite_exec_end(s);
    free(r->a), free(r->x);
    suite_linear_norm_free(&r->m);
    suite_batch_free(&r->b);
}

static void suite_rows_begin(struct suite *s, struct suite_company_of_rows *r, int64_t n) {
    int32_t cu[2] = {0, (int32_t)n};
    struct vnp_pack pack = {n, 1, n, r->b.tokens, cu};
    suite_ok(s, s->dut.b->batch_begin(s->dut.ex, &pack), "batch_begin");
    s->dut.b->exec_wait(s->dut.ex); /* the pack is borrowed until then */
}

/* Row i becomes row `kind` of those to draw from. */
static void suite_rows_draw(struct suite_company_of_rows *r, int64_t i, int64_t kind) {
    int64_t k = r->m.c.n_in, d = r->m.c.d;
    memcpy(r->a + i * k, r->m.a + kind * k, (size_t)k * sizeof(float));
    memcpy(r->x + i * d, r->m.x + kind * d, (size_t)d * sizeof(float));
}

static void suite_rows_take(const struct suite_tensor *t, size_t row_bytes, char *out) {
    char *bytes = suite_get_bytes(t);
    size_t ld = (size_t)t->t.ld * vnp_dtype_bytes(t->t.dtype);
    size_t n = (size_t)t->t.cols * vnp_dtype_bytes(t->t.dtype);
    for (int64_t i = 0; i < t->t.rows; i++)
        memcpy(out + (size_t)i * row_bytes, bytes + (size_t)(SUITE_PAD_ROWS + i) * ld, n);
    free(bytes);
}

/* The op over the first n rows; what they are afterwards, bit by bit. */
static struct suite_rows suite_rows_run(struct suite *s, struct suite_company_of_rows *r,
                                        int64_t n) {
    struct suite_linear_norm_args *a = &r->args;
    struct suite_tensor *tensors[3] = {&a->in, &a->x, &a->operand};
    size_t x_bytes = (size_t)r->m.c.d * vnp_dtype_bytes(a->x.t.dtype);
    size_t operand_bytes = (size_t)r->m.c.d * vnp_dtype_bytes(a->operand.t.dtype);
    struct suite_rows out = {.row_bytes = x_bytes + operand_bytes + sizeof(float)};
    for (int i = 0; i < 3; i++) suite_poison(tensors[i]), tensors[i]->t.rows = n;
    suite_put(&a->in, r->a), suite_put(&a->x, r->x);
    suite_freeze(&a->in);
    suite_ok(s, suite_linear_norm_call(s, &r->m, a), "linear_norm");
    suite_thaw(s, &a->in, "linear_norm's a");
    suite_guards(s, &a->x, "x"), suite_operand_guards(s, &a->operand);
    out.bytes = calloc((size_t)n, out.row_bytes);
    suite_rows_take(&a->x, out.row_bytes, out.bytes);
    suite_rows_take(&a->operand, out.row_bytes, out.bytes + x_bytes);
    float *scales = suite_get_scales(&a->operand);
    for (int64_t i = 0; scales && i < n; i++)
        memcpy(out.bytes + (size_t)i * out.row_bytes + x_bytes + operand_bytes, &scales[i],
               sizeof(float));
    free(scales);
    return out;
}

/* ---- places --------------------------------------------------------------------------------- */

/* Every row alone, then among others at any place: the same bits. */
static void suite_norm_places(struct suite *s, struct suite_linear_norm_case c) {
    static const int64_t rows[] = {2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300};
    if (!suite_begin(s, "linear_norm places K=%lld D=%lld down=%d bias=%d", (long long)c.n_in,
                     (long long)c.d, c.is_down, c.has_bias))
        return;
    struct suite_company_of_rows r = {.b = {.cu = NULL}};
    struct suite_rows alone[SUITE_KINDS_OF_ROWS] = {{NULL, 0}};
    bool is_open = suite_rows_open(s, c, 300, &r);
    suite_rows_begin(s, &r, 1);
    for (int64_t i = 0; is_open && i < SUITE_KINDS_OF_ROWS; i++) {
        suite_rows_draw(&r, 0, i);
        alone[i] = suite_rows_run(s, &r, 1);
    }
    for (size_t turn = 0; turn < VNP_COUNT(rows) && !s->is_bad; turn++) {
        int64_t n = rows[turn];
        suite_rows_begin(s, &r, n);
        for (int64_t i = 0; i < n; i++)
            suite_rows_draw(&r, i, (i * 7 + (int64_t)turn) % SUITE_KINDS_OF_ROWS);
        struct suite_rows got = suite_rows_run(s, &r, n);
        for (int64_t i = 0; i < n; i++) {
            int64_t kind = (i * 7 + (int64_t)turn) % SUITE_KINDS_OF_ROWS;
            if (memcmp(got.bytes + (size_t)i * got.row_bytes, alone[kind].bytes, got.row_bytes))
                suite_bad(s, "row %lld at place %lld of %lld differs from itself alone",
                          (long long)kind, (long long)i, (long long)n);
        }
        free(got.bytes);
    }
    for (int i = 0; i < SUITE_KINDS_OF_ROWS; i++) free(alone[i].bytes);
    suite_rows_close(s, &r);
    suite_end(s);
}

/* ---- spoilt rows ---------------------------------------------------------------------------- */

enum suite_spoilt_row {
    SUITE_NO_ROW,
    SUITE_A_NAN,
    SUITE_A_INF,
    SUITE_A_ONE_NAN,
    SUITE_A_ONE_INF,
    SUITE_X_NAN,
    SUITE_X_INF,
    SUITE_SPOILT_ROWS
};

static void suite_spoil_row(struct suite_company_of_rows *r, int64_t row, int way) {
    float x = way % 2 ? NAN : INFINITY;
    int64_t k = r->m.c.n_in, d = r->m.c.d;
    for (int64_t i = 0; i < k && (way == SUITE_A_NAN || way == SUITE_A_INF); i++)
        r->a[row * k + i] = x;
    if (way == SUITE_A_ONE_NAN || way == SUITE_A_ONE_INF) r->a[row * k + k / 2] = x;
    if (way == SUITE_X_NAN || way == SUITE_X_INF) r->x[row * d + d - 1] = x;
}

/* A spoilt row: nothing of it is a number any more, and all others have the bits of `clean`. */
static void suite_spoilt_check(struct suite *s, struct suite_company_of_rows *r, int64_t n,
                               int64_t row, int way, const struct suite_rows *clean) {
    struct suite_rows got = suite_rows_run(s, r, n);
    for (int64_t i = 0; i < n; i++) {
        size_t at = (size_t)i * got.row_bytes;
        if (i == row && way != SUITE_NO_ROW) continue;
        if (memcmp(got.bytes + at, clean->bytes + at, got.row_bytes) != 0)
            suite_bad(s, "row %lld of %lld knows that row %lld is spoilt, way %d", (long long)i,
                      (long long)n, (long long)row, way);
    }
    float *x = suite_get(&r->args.x);
    for (int64_t i = row * r->m.c.d; i < (row + 1) * r->m.c.d && way != SUITE_NO_ROW; i++)
        if (isfinite(x[i]))
            suite_bad(s, "row %lld is spoilt, way %d, and has a number", (long long)row, way);
    free(x);
    free(got.bytes);
}

static void suite_norm_spoilt(struct suite *s, struct suite_linear_norm_case c, int64_t n) {
    const int64_t victims[] = {0, 7, 8, 63, 64, 127, 128, n - 1};
    if (!suite_begin(s, "linear_norm spoilt rows N=%lld K=%lld D=%lld down=%d", (long long)n,
                     (long long)c.n_in, (long long)c.d, c.is_down))
        return;
    struct suite_company_of_rows r = {.b = {.cu = NULL}};
    bool is_open = suite_rows_open(s, c, n, &r);
    for (int64_t i = 0; i < n; i++) suite_rows_draw(&r, i, i % SUITE_KINDS_OF_ROWS);
    if (is_open) {
        struct suite_rows clean = suite_rows_run(s, &r, n);
        for (size_t v = 0; v < VNP_COUNT(victims); v++)
            for (int way = SUITE_SPOILT_ROWS - 1; way >= SUITE_NO_ROW && !s->is_bad; way--) {
                if (victims[v] >= n) continue;
                suite_spoil_row(&r, victims[v], way);
                if (way % 2) suite_rows_begin(s, &r, n);
                suite_spoilt_check(s, &r, n, victims[v], way, &clean);
                suite_rows_draw(&r, victims[v], victims[v] % SUITE_KINDS_OF_ROWS);
            }
        free(clean.bytes);
    }
    suite_rows_close(s, &r);
    suite_end(s);
}

/* ---- a product on what the op left ---------------------------------------------------------- */

/* The device's product of its operand [N][D] with w [D][D] against the reference's: GELU of it. */
static void suite_norm_product_check(struct suite *s, struct suite_linear_norm_args *a,
                                     const struct suite_linear_case *l, float *w) {
    float *operand = suite_get(&a->operand), *zeros = suite_floats(l->rows * l->n_out);
    float *got[2] = {NULL, NULL}, *scales = NULL;
    double *err = calloc((size_t)(l->rows * l->n_out), sizeof *err);
    enum vnp_dtype dtype = VNP_F32;
    struct suite_side *sides[2] = {&s->dut, &s->ref};
    for (int i = 0; i < 2; i++) {
        struct suite_tensor in =
            i == 0 ? a->operand : suite_tensor(s, &s->ref, l->site, l->rows, l->n_in);
        struct suite_tensor out = suite_tensor(s, sides[i], l->site_out, l->rows, l->n_out);
        struct vnp_linear *lin = suite_linear_make(s, sides[i], l, (const char *)w, NULL);
        if (i == 1) suite_put(&in, operand);
        suite_ok(s, sides[i]->b->linear(sides[i]->ex, lin, l->epi, &in.t, &out.t), "linear");
        got[i] = suite_get(&out);
        if (i == 0) scales = suite_get_scales(&out), dtype = out.t.dtype;
        sides[i]->b->linear_destroy(sides[i]->dev, lin);
    }
    suite_linear_error(s, l, operand, w, NULL, zeros, got[1], err);
    suite_compare_scaled(s, "product", l->rows, l->n_out, dtype, scales, got[1], got[0], err);
    free(operand), free(zeros), free(got[0]), free(got[1]), free(scales), free(err);
}

/* What a backend notes of an operand's rows beside the operand (their lengths bound results of
 * E4M3) must be of the rows that linear_norm wrote: others, much shorter, stood there before. */
static void suite_norm_product(struct suite *s, int64_t rows, int64_t d) {
    struct suite_linear_norm_case c = {rows, 64, d, false, true, true, 1e-5f, VNP_F32, false};
    struct suite_linear_case l = {
        rows, d, d, VNP_EPI_GELU, VNP_SITE_FFN_IN, VNP_SITE_FFN_MID, 1, false, VNP_F32};
    if (!suite_begin(s, "linear_norm and a product N=%lld D=%lld", (long long)rows, (long long)d))
        return;
    int length = (int)rows;
    struct suite_batch b = suite_batch(s, 1, &length, 33);
    struct suite_linear_norm m = suite_linear_norm_make(s, c);
    struct suite_linear_norm_args a = {.w = NULL};
    float *w = suite_normals(s, d * d, (float)(1 / sqrt((double)d))), *small = suite_floats(d);
    for (int64_t i = 0; i < d; i++) small[i] = m.gamma[i] / 64;
    if (suite_exec(s, &b.pack, VNP_MAX(c.n_in, d)) &&
        suite_linear_norm_open(s, &s->dut, &m, rows, &a)) {
        float *g = suite_const(s, &s->dut, 1, d, small);
        struct vnp_norm_params p = {g, g, 1e-5f};
        suite_put(&a.in, m.a), suite_put(&a.x, m.x);
        suite_ok(s, s->dut.b->layernorm(s->dut.ex, &p, &a.x.t, NULL, &a.operand.t), "layernorm");
        suite_ok(s, suite_linear_norm_call(s, &m, &a), "linear_norm");
        suite_norm_product_check(s, &a, &l, w);
        s->dut.b->const_destroy(s->dut.dev, g);
        suite_linear_norm_close(&s->dut, &a);
    }
    suite_exec_end(s);
    free(w), free(small);
    suite_linear_norm_free(&m);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void suite_norm_refusals(struct suite *s) {
    struct suite_linear_norm_case c = {5, 32, 64, false, true, true, 1e-5f, VNP_F32, false};
    if (!suite_begin(s, "linear_norm refusals")) return;
    struct suite_company_of_rows r = {.b = {.cu = NULL}};
    if (suite_rows_open(s, c, 5, &r)) {
        struct suite_linear_norm_args good = r.args, bad = good;
        bad.in.t.cols = 31;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "an operand with a column less");
        bad = good, bad.in.t.rows = 99, bad.x.t.rows = 99, bad.operand.t.rows = 99;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "99 rows for 5 tokens");
        bad = good, bad.x.t.rows = 4;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "x with a row less");
        bad = good, bad.x.t.cols = 60;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "x with columns less");
        bad = good, bad.operand.t.cols = 60;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "a result with columns less");
        bad = good, bad.operand.t.rows = 4;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "a result with a row less");
        bad = good, bad.p.gamma = NULL;
        suite_refuses(s, suite_linear_norm_call(s, &r.m, &bad), "a norm without gamma");
        suite_ok(s, s->dut.b->exec_wait(s->dut.ex), "exec_wait after refusals");
    }
    suite_rows_close(s, &r);
    suite_end(s);
}

/* ---- the list ------------------------------------------------------------------------------- */

static const int64_t suite_norm_dims[] = {16, 64, 96, 320, 384, 388, 512, 640, 764, 768, 1024};
static const int64_t suite_norm_rows_of[] = {1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300};
static const int64_t suite_norm_n_in[] = {32, 48, 64, 80, 136, 768, 3072};

static struct suite_linear_norm_case suite_norm_case(int64_t rows, int64_t n_in, int64_t d,
                                                     size_t turn) {
    static const enum vnp_dtype stored[] = {VNP_F32, VNP_F16, VNP_BF16};
    return (struct suite_linear_norm_case){rows,
                                           n_in,
                                           d,
                                           turn % 2 == 1,
                                           turn % 5 != 3,
                                           turn % 4 != 2,
                                           turn % 3 == 1 ? 1e-12f : 1e-5f,
                                           stored[turn / 2 % 3],
                                           false};
}

/* A session's way: its attention and its feed-forward's operand are one piece of memory. */
static void suite_norm_in_place(struct suite *s) {
    const struct suite_side *dut = &s->dut;
    if (dut->b->site_dtype(dut->dev, VNP_SITE_ATTN_OUT) !=
        dut->b->site_dtype(dut->dev, VNP_SITE_FFN_IN))
        return;
    for (size_t i = 0; i < VNP_COUNT(suite_norm_rows_of); i++)
        for (size_t k = 0; k < 3; k++) {
            static const int64_t dims[] = {64, 388, 768};
            struct suite_linear_norm_case c =
                suite_norm_case(suite_norm_rows_of[i], dims[k], dims[k], i);
            if (s->config->is_quick && (i + k) % 4) continue;
            c.is_down = false;
            c.has_operand = c.is_in_place = true;
            suite_linear_norm(s, c);
        }
}

static void suite_linear_norm_cases(struct suite *s) {
    static const struct {
        int64_t n_in, d;
    } shapes[] = {{64, 96}, {136, 768}, {48, 16}, {80, 388}, {768, 384}, {32, 1024}, {3072, 768}};
    const bool is_quick = s->config->is_quick;
    size_t turn = 0;
    if (!s->dut.b->linear_norm) return;
    suite_norm_refusals(s);
    for (size_t i = 0; i < VNP_COUNT(suite_norm_dims); i++)
        for (size_t r = 0; r < VNP_COUNT(suite_norm_rows_of); r++, turn++) {
            int64_t d = suite_norm_dims[i], rows = suite_norm_rows_of[r];
            if (is_quick && (i + r) % 3) continue;
            int64_t n_in = suite_norm_n_in[turn % (is_quick && rows > 65 ? 5 : 7)];
            suite_linear_norm(s, suite_norm_case(rows, n_in, d, turn + i));
        }
    for (size_t r = 0; r < VNP_COUNT(suite_norm_rows_of); r++) /* as the model has them */
        for (int k = 0; k < 2; k++) {
            if (is_quick && r % 5 != 1) continue;
            suite_linear_norm(s, suite_norm_case(suite_norm_rows_of[r], k ? 3072 : 768, 768, r));
        }
    suite_norm_in_place(s);
    for (size_t i = 0; i < VNP_COUNT(shapes) && !(is_quick && i == 2); i++) {
        struct suite_linear_norm_case c = suite_norm_case(0, shapes[i].n_in, shapes[i].d, i);
        c.has_operand = true;
        suite_norm_places(s, c);
        suite_norm_spoilt(s, c, i % 2 ? 300 : 129);
    }
    suite_norm_product(s, 65, 64), suite_norm_product(s, 129, 384), suite_norm_product(s, 2, 768);
}

#endif
