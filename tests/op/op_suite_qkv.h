/* SPDX-License-Identifier: MIT
 * The conformance suite of linear_qkv, for backends that have it: the product and its rotation
 * against the reference's product turned here in FP64; attention on what it left against its
 * definition on the values that it left. See op_suite.h. */
#ifndef VNP_OP_SUITE_QKV_H
#define VNP_OP_SUITE_QKV_H

#include "op_suite_ops.h"

struct suite_qkv_case {
    struct suite_attention_case at; /* size and is_equal are not looked at */
    int64_t n_in;
    int n_parts;
    bool has_bias;
    enum vnp_dtype stored;
};

static struct suite_linear_case suite_qkv_linear(const struct suite_qkv_case *c, int64_t rows) {
    int64_t d = c->at.n_heads * c->at.head_dim;
    return (struct suite_linear_case){rows,         c->n_in,          3 * d,
                                      VNP_EPI_NONE, VNP_SITE_ATTN_IN, VNP_SITE_QKV,
                                      c->n_parts,   c->has_bias,      c->stored};
}

static struct vnp_attention_params suite_qkv_params(const struct suite_attention_case *c,
                                                    const float *slopes) {
    return (struct vnp_attention_params){.n_heads = c->n_heads,
                                         .head_dim = c->head_dim,
                                         .scale = (float)(1 / sqrt((double)c->head_dim)),
                                         .has_rotary = suite_is_rotary(c->positions),
                                         .freq_dtype =
                                             c->positions == SUITE_ROTARY_F16 ? VNP_F16 : VNP_F32,
                                         .slopes = c->positions == SUITE_ALIBI ? slopes : NULL};
}

/* Values of the first head depend on column 1 alone where its weight is not 0: the last row of
 * every other sequence has large ones, so that a sequence's largest value is far above the averages
 * of its rows. Column 0 differs by sequence, so that a leak between them shows. */
static void suite_qkv_operands(const struct suite_qkv_case *c, const struct suite_batch *b,
                               float *a, float *w) {
    int64_t dh = c->at.head_dim, d = c->at.n_heads * dh, k = c->n_in;
    for (int64_t seq = 0; seq < b->pack.n_seqs; seq++)
        for (int64_t row = b->cu[seq]; row < b->cu[seq + 1]; row++) {
            a[row * k] += (float)(seq % 5) - 2;
            a[row * k + 1] = row == b->cu[seq + 1] - 1 && seq % 2 ? 40.0f : 0.0f;
        }
    for (int64_t j = 0; j < 3 * d; j++)
        w[j * k + 1] = j < 2 * d || j >= 2 * d + dh ? 0.0f : j % 2 ? 1.0f : -0.5f;
}

/* The error allowed in y = a W^T + b: what suite_linear_error allows, the magnitudes that went in
 * bounded by the lengths of the rows (Cauchy-Schwarz), since here there are many. */
static void suite_qkv_linear_error(const struct suite *s, const struct suite_linear_case *c,
                                   const float *a, const float *w, const float *bias, double *err) {
    double *w_len = malloc((size_t)c->n_out * 2 * sizeof *w_len), *w_max = w_len + c->n_out;
    for (int64_t j = 0; j < c->n_out; j++) {
        w_len[j] = suite_length(w + j * c->n_in, c->n_in), w_max[j] = 0;
        for (int64_t k = 0; k < c->n_in; k++)
            w_max[j] = fmax(w_max[j], fabs((double)w[j * c->n_in + k]));
    }
    for (int64_t r = 0; r < c->rows; r++) {
        double len = suite_length(a + r * c->n_in, c->n_in), max = 0;
        for (int64_t k = 0; k < c->n_in; k++) max = fmax(max, fabs((double)a[r * c->n_in + k]));
        for (int64_t j = 0; j < c->n_out; j++)
            err[r * c->n_out + j] =
                ((double)c->n_in + 4) * SUITE_U *
                    (len * w_len[j] + (c->has_bias ? fabs((double)bias[j]) : 0)) +
                suite_tie(s->config->device.precision, max * w_max[j]);
    }
    free(w_len);
}

/* Turns q and k of y [N][3][H][Dh] in FP64 and carries err along: both partners' errors, angles
 * and products in FP32. */
static void suite_qkv_turn(const struct suite_attention_case *c, const struct suite_batch *b,
                           float *y, double *err) {
    int64_t dh = c->head_dim, d = c->n_heads * dh, half = dh / 2;
    double *turns = suite_turns(c, b->pack.max_len);
    for (int64_t seq = 0; seq < b->pack.n_seqs; seq++)
        for (int64_t row = b->cu[seq]; row < b->cu[seq + 1]; row++)
            for (int64_t i = 0; i < d; i++) { /* 2 H pairs of halves */
                int64_t at = row * 3 * d + i / half * dh + i % half, t = row - b->cu[seq];
                const double *turn = &turns[2 * (t * half + i % half)];
                double x1 = (double)y[at], x2 = (double)y[at + half];
                double e1 = err[at], e2 = err[at + half];
                double angle = (double)t * vnp_op_rotary_freq(i % half, dh, VNP_F32);
                double own = (6 + 2 * angle) * SUITE_U * (fabs(x1) + fabs(x2));
                y[at] = (float)(x1 * turn[0] - x2 * turn[1]);
                y[at + half] = (float)(x2 * turn[0] + x1 * turn[1]);
                err[at] = fabs(turn[0]) * e1 + fabs(turn[1]) * e2 + own;
                err[at + half] = fabs(turn[0]) * e2 + fabs(turn[1]) * e1 + own;
            }
    free(turns);
}

/* A scale may stand for a whole sequence, but for no more than its largest value: no average
 * exceeds that. */
static void suite_qkv_scales(struct suite *s, const struct suite_batch *b, int64_t d,
                             const float *qkv, const float *scales) {
    for (int64_t seq = 0; scales && seq < b->pack.n_seqs; seq++) {
        double top = 0;
        for (int64_t row = b->cu[seq]; row < b->cu[seq + 1]; row++)
            for (int64_t i = 0; i < d; i++)
                top = fmax(top, fabs((double)qkv[row * 3 * d + 2 * d + i]));
        for (int64_t row = b->cu[seq]; row < b->cu[seq + 1]; row++)
            if (!(scales[row] > 0 && (double)scales[row] * 448 <= (top > 0 ? 1.02 * top : 448)))
                suite_bad(s, "row %lld has a scale of %.9g; the largest value is %.9g",
                          (long long)row, (double)scales[row], top);
    }
}

/* What one side left: the product [N][3D], and attention's result [N][D] with its scales. */
struct suite_qkv_result {
    float *qkv, *out, *scales;
    enum vnp_dtype qkv_dtype, out_dtype;
    bool is_turned;
};

static void suite_qkv_dut(struct suite *s, const struct suite_qkv_case *c, int64_t n, float *a,
                          const char *w, const char *bias, const float *slopes,
                          struct suite_qkv_result *r) {
    const struct vnp_backend *be = s->dut.b;
    struct suite_linear_case l = suite_qkv_linear(c, n);
    struct suite_tensor in = suite_tensor(s, &s->dut, VNP_SITE_ATTN_IN, n, c->n_in);
    struct suite_tensor qkv = suite_tensor(s, &s->dut, VNP_SITE_QKV, n, l.n_out);
    struct suite_tensor out = suite_tensor(s, &s->dut, VNP_SITE_ATTN_OUT, n, l.n_out / 3);
    struct vnp_linear *lin = suite_linear_make(s, &s->dut, &l, w, bias);
    float *sl = suite_const(s, &s->dut, 1, c->at.n_heads, slopes);
    struct vnp_attention_params p = suite_qkv_params(&c->at, sl);
    if (!lin) return;
    suite_put(&in, a);
    float *rounded = suite_get(&in);
    memcpy(a, rounded, (size_t)(n * c->n_in) * sizeof *a);
    suite_freeze(&in);
    suite_ok(s, be->linear_qkv(s->dut.ex, lin, &p, &in.t, &qkv.t), "linear_qkv");
    r->is_turned = suite_is_rotary(c->at.positions) && !p.has_rotary;
    p.has_rotary |= r->is_turned;
    struct vnp_attention_params was = suite_qkv_params(&c->at, sl);
    if (p.n_heads != was.n_heads || p.head_dim != was.head_dim || p.scale < was.scale ||
        p.scale > was.scale || p.slopes != was.slopes || p.has_rotary != was.has_rotary)
        suite_bad(s, "linear_qkv changed more than has_rotary");
    p.has_rotary &= !r->is_turned;
    r->qkv = suite_get(&qkv), r->qkv_dtype = qkv.t.dtype;
    suite_thaw(s, &in, "linear_qkv's operand"), suite_guards(s, &qkv, "qkv");
    suite_freeze(&qkv);
    suite_ok(s, be->attention(s->dut.ex, &p, &qkv.t, &out.t), "attention");
    r->out = suite_get(&out), r->scales = suite_get_scales(&out), r->out_dtype = out.t.dtype;
    suite_thaw(s, &qkv, "qkv"), suite_guards(s, &out, "result");
    be->linear_destroy(s->dut.dev, lin), be->const_destroy(s->dut.dev, sl);
    free(rounded);
}

/* The reference's product of a; its attention on what the device left. */
static void suite_qkv_ref(struct suite *s, const struct suite_qkv_case *c, int64_t n,
                          const float *a, const char *w, const char *bias, const float *slopes,
                          const struct suite_qkv_result *dut, struct suite_qkv_result *r) {
    struct suite_linear_case l = suite_qkv_linear(c, n);
    struct suite_tensor in = suite_tensor(s, &s->ref, VNP_SITE_ATTN_IN, n, c->n_in);
    struct suite_tensor qkv = suite_tensor(s, &s->ref, VNP_SITE_QKV, n, l.n_out);
    struct suite_tensor out = suite_tensor(s, &s->ref, VNP_SITE_ATTN_OUT, n, l.n_out / 3);
    struct vnp_linear *lin = suite_linear_make(s, &s->ref, &l, w, bias);
    struct vnp_attention_params p = suite_qkv_params(&c->at, slopes);
    p.has_rotary &= !dut->is_turned;
    suite_put(&in, a);
    suite_ok(s, s->ref.b->linear(s->ref.ex, lin, VNP_EPI_NONE, &in.t, &qkv.t), "linear");
    r->qkv = suite_get(&qkv);
    suite_put(&qkv, dut->qkv);
    suite_ok(s, s->ref.b->attention(s->ref.ex, &p, &qkv.t, &out.t), "attention");
    r->out = suite_get(&out);
    s->ref.b->linear_destroy(s->ref.dev, lin);
}

static void suite_qkv_compare(struct suite *s, const struct suite_qkv_case *c,
                              const struct suite_batch *b, const float *a, const float *w,
                              const float *bias, const float *slopes,
                              const struct suite_qkv_result *dut, struct suite_qkv_result *ref) {
    int64_t n = b->pack.n_tokens, d = c->at.n_heads * c->at.head_dim;
    struct suite_linear_case l = suite_qkv_linear(c, n);
    struct suite_attention_case left = c->at;
    double *err = calloc((size_t)(n * 3 * d), sizeof *err);
    suite_qkv_linear_error(s, &l, a, w, bias, err);
    if (dut->is_turned) {
        suite_qkv_turn(&c->at, b, ref->qkv, err);
        left.positions = SUITE_NONE;
    }
    suite_compare(s, "qkv", n, 3 * d, dut->qkv_dtype, ref->qkv, dut->qkv, err);
    memset(err, 0, (size_t)(n * d) * sizeof *err);
    suite_attention_errors(s, &left, b, dut->qkv, slopes, ref->out, err);
    if (dut->out_dtype == VNP_E4M3) suite_qkv_scales(s, b, d, dut->qkv, dut->scales);
    suite_compare_scaled(s, "attention", n, d, dut->out_dtype, dut->scales, ref->out, dut->out,
                         err);
    free(err);
}

static void suite_linear_qkv(struct suite *s, struct suite_qkv_case c) {
    const struct suite_attention_case *at = &c.at;
    if (!suite_begin(s, "linear_qkv H=%lld Dh=%lld K=%lld %s S=%d first=%d parts=%d bias=%d %s",
                     (long long)at->n_heads, (long long)at->head_dim, (long long)c.n_in,
                     suite_position_names[at->positions], at->n_seqs, at->lengths[0], c.n_parts,
                     c.has_bias, vnp_dtype_name(c.stored)))
        return;
    struct suite_batch b = suite_batch(s, at->n_seqs, at->lengths, 33);
    int64_t n = b.pack.n_tokens, n_out = 3 * at->n_heads * at->head_dim;
    float *a = suite_normals(s, n * c.n_in, 1), *bias32 = suite_normals(s, n_out, 0.5f);
    float *w32 = suite_normals(s, n_out * c.n_in, (float)(1 / sqrt((double)c.n_in))), slopes[64];
    struct suite_qkv_result dut = {0}, ref = {0};
    suite_qkv_operands(&c, &b, a, w32);
    char *w = suite_stored(c.stored, n_out * c.n_in, w32);
    char *bias = suite_stored(c.stored, n_out, bias32);
    suite_slopes(at->n_heads, slopes);
    if (suite_exec(s, &b.pack, VNP_MAX(c.n_in, n_out))) {
        suite_qkv_dut(s, &c, n, a, w, bias, slopes, &dut);
        if (!s->is_bad) suite_qkv_ref(s, &c, n, a, w, bias, slopes, &dut, &ref);
        if (!s->is_bad) suite_qkv_compare(s, &c, &b, a, w32, bias32, slopes, &dut, &ref);
    }
    suite_exec_end(s);
    free(dut.qkv), free(dut.out), free(dut.scales), free(ref.qkv), free(ref.out);
    free(a), free(bias32), free(w32), free(w), free(bias);
    suite_batch_free(&b);
    suite_end(s);
}

/* ---- neighbours ---------------------------------------------------------------------------- */

/* How a sequence is spoilt: in the operand's row; by columns 0 and 1, which only k's or only v's
 * weights know, until their products overflow; or in qkv itself. */
enum suite_spoil {
    SUITE_CLEAN,
    SUITE_ROW_NAN,
    SUITE_ROW_INF,
    SUITE_K_LARGE,
    SUITE_V_LARGE,
    SUITE_QKV_NAN,
    SUITE_QKV_INF,
    SUITE_SPOILS
};

struct suite_neighbours {
    struct suite_batch b;
    int64_t n_in, d;
    struct suite_tensor in, qkv, out;
    struct vnp_linear *w;
    float *a; /* [N][K] clean */
    char *qkv_bytes, *out_bytes;
    float *scales; /* of the clean run */
};

/* Row `row` of the operand, or of part 0..2 of qkv, becomes `x`. */
static void suite_spoil_qkv(struct suite_neighbours *m, int64_t row, int part, float x) {
    struct suite_tensor *t = &m->qkv;
    size_t size = vnp_dtype_bytes(t->t.dtype);
    char *bytes = suite_get_bytes(t);
    for (int64_t i = 0; i < m->d; i++)
        suite_store(
            t->t.dtype,
            bytes + ((size_t)(SUITE_PAD_ROWS + row) * (size_t)t->t.ld + (size_t)(part * m->d + i)) *
                        size,
            x);
    suite_copy(t->side, t->whole.data, bytes, suite_bytes(t), true);
    free(bytes);
}

static void suite_neighbours_run(struct suite *s, struct suite_neighbours *m,
                                 struct vnp_attention_params p, enum suite_spoil spoil, int seq,
                                 int turn) {
    const struct vnp_backend *be = s->dut.b;
    int64_t n = m->b.pack.n_tokens, k = m->n_in, row = m->b.cu[seq + 1] - 1;
    float *a = suite_floats(n * k), large = m->qkv.t.dtype == VNP_F16 ? 60000.0f : 1e38f;
    memcpy(a, m->a, (size_t)(n * k) * sizeof *a);
    for (int64_t i = 0; i < k && (spoil == SUITE_ROW_NAN || spoil == SUITE_ROW_INF); i++)
        a[row * k + i] = spoil == SUITE_ROW_NAN ? NAN : INFINITY;
    if (spoil == SUITE_K_LARGE) a[row * k] = large;
    if (spoil == SUITE_V_LARGE) a[row * k + 1] = large;
    if (turn % 2 == 0) suite_ok(s, be->batch_begin(s->dut.ex, &m->b.pack), "batch_begin");
    suite_put(&m->in, a);
    free(a);
    suite_ok(s, be->linear_qkv(s->dut.ex, m->w, &p, &m->in.t, &m->qkv.t), "linear_qkv");
    if (spoil == SUITE_QKV_NAN || spoil == SUITE_QKV_INF)
        suite_spoil_qkv(m, row, turn % 3, spoil == SUITE_QKV_NAN ? NAN : INFINITY);
    suite_ok(s, be->attention(s->dut.ex, &p, &m->qkv.t, &m->out.t), "attention");
}

/* The rows of all sequences but `seq` have the bytes of the clean run. */
static void suite_neighbours_check(struct suite *s, const struct suite_neighbours *m, int spoil,
                                   int seq) {
    char *bytes[2] = {suite_get_bytes(&m->qkv), suite_get_bytes(&m->out)};
    const char *clean[2] = {m->qkv_bytes, m->out_bytes};
    const struct suite_tensor *t[2] = {&m->qkv, &m->out};
    float *scales = suite_get_scales(&m->out);
    for (int i = 0; i < 2; i++) {
        size_t row_bytes = (size_t)t[i]->t.ld * vnp_dtype_bytes(t[i]->t.dtype);
        for (int other = 0; other < m->b.pack.n_seqs; other++) {
            size_t at = (size_t)(SUITE_PAD_ROWS + m->b.cu[other]) * row_bytes;
            int64_t n = m->b.cu[other + 1] - m->b.cu[other];
            if (spoil != SUITE_CLEAN && other == seq) continue;
            if (memcmp(bytes[i] + at, clean[i] + at, (size_t)n * row_bytes) != 0 ||
                (scales && memcmp(scales + m->b.cu[other], m->scales + m->b.cu[other],
                                  (size_t)n * sizeof *scales) != 0))
                suite_bad(s,
                          "%s: sequence %d (%lld tokens) knows that sequence %d is spoilt, way %d",
                          i ? "attention" : "qkv", other, (long long)n, seq, spoil);
        }
    }
    free(bytes[0]), free(bytes[1]), free(scales);
}

/* An overflow must be seen in the sequence's result: who pools it counts on that. */
static void suite_neighbours_seen(struct suite *s, const struct suite_neighbours *m, int spoil,
                                  int seq) {
    float *out = suite_get(&m->out);
    bool is_seen = false;
    for (int64_t i = m->b.cu[seq] * m->d; i < m->b.cu[seq + 1] * m->d; i++)
        is_seen |= !isfinite(out[i]);
    if (!is_seen) suite_bad(s, "nothing is left of what spoilt sequence %d, way %d", seq, spoil);
    free(out);
}

static void suite_neighbours_all(struct suite *s, struct suite_neighbours *m,
                                 const struct vnp_attention_params *p) {
    int turn = 0;
    suite_neighbours_run(s, m, *p, SUITE_CLEAN, 0, turn++);
    m->qkv_bytes = suite_get_bytes(&m->qkv), m->out_bytes = suite_get_bytes(&m->out);
    m->scales = suite_get_scales(&m->out);
    const int step = m->d > 512 ? 3 : 1; /* for time's sake */
    for (int seq = 0; seq < m->b.pack.n_seqs && !s->is_bad; seq += step)
        for (int spoil = SUITE_CLEAN; spoil < SUITE_SPOILS && !s->is_bad; spoil++) {
            suite_neighbours_run(s, m, *p, (enum suite_spoil)spoil, seq, turn++);
            suite_neighbours_check(s, m, spoil, seq);
            if (spoil != SUITE_CLEAN && spoil < SUITE_QKV_NAN)
                suite_neighbours_seen(s, m, spoil, seq);
        }
    free(m->qkv_bytes), free(m->out_bytes), free(m->scales);
}

/* One sequence of a pack is spoilt: the others keep their bits, in the same run and in the next. */
static void suite_neighbours(struct suite *s, int64_t n_heads, int64_t head_dim,
                             enum suite_positions positions) {
    static const int lengths[] = {40, 100, 64, 150, 33, 300, 65, 192, 1, 193, 128, 7, 129, 16};
    struct suite_attention_case at = {n_heads, head_dim, positions, VNP_COUNT(lengths),
                                      lengths, 1,        false};
    struct suite_qkv_case c = {at, n_heads * head_dim, 1, false, VNP_F32};
    struct suite_neighbours m = {.n_in = c.n_in, .d = c.n_in};
    if (!s->dut.b->linear_qkv) return;
    if (!suite_begin(s, "neighbours H=%lld Dh=%lld positions=%d", (long long)n_heads,
                     (long long)head_dim, (int)positions))
        return;
    m.b = suite_batch(s, at.n_seqs, lengths, 33);
    int64_t n = m.b.pack.n_tokens, d = m.d;
    struct suite_linear_case l = suite_qkv_linear(&c, n);
    float *w = suite_normals(s, 3 * d * d, (float)(1 / sqrt((double)d))), slopes[64];
    m.a = suite_normals(s, n * d, 1);
    for (int64_t row = 0; row < n; row++) m.a[row * d] = m.a[row * d + 1] = 0;
    for (int64_t j = 0; j < 3 * d; j++)
        w[j * d] = j / d == 1 ? 8.0f : 0.0f, w[j * d + 1] = j / d == 2 ? 8.0f : 0.0f;
    suite_slopes(n_heads, slopes);
    if (suite_exec(s, &m.b.pack, 3 * d)) {
        float *sl = suite_const(s, &s->dut, 1, n_heads, slopes);
        struct vnp_attention_params p = suite_qkv_params(&at, sl);
        m.in = suite_tensor(s, &s->dut, VNP_SITE_ATTN_IN, n, d);
        m.qkv = suite_tensor(s, &s->dut, VNP_SITE_QKV, n, 3 * d);
        m.out = suite_tensor(s, &s->dut, VNP_SITE_ATTN_OUT, n, d);
        m.w = suite_linear_make(s, &s->dut, &l, (const char *)w, NULL);
        if (m.w) suite_neighbours_all(s, &m, &p);
        suite_guards(s, &m.qkv, "qkv"), suite_guards(s, &m.out, "result");
        s->dut.b->linear_destroy(s->dut.dev, m.w), s->dut.b->const_destroy(s->dut.dev, sl);
    }
    suite_exec_end(s);
    free(w), free(m.a);
    suite_batch_free(&m.b);
    suite_end(s);
}

#endif
