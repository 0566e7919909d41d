/* SPDX-License-Identifier: MIT
 * The conformance suite op by op: a case of each, against the reference and against its definition
 * in FP64, and what a backend must refuse. See op_suite.h. */
#ifndef VNP_OP_SUITE_OPS_H
#define VNP_OP_SUITE_OPS_H

#include "op_suite_frame.h"

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
static const char *const suite_position_names[] = {"none", "alibi", "rotary", "rotary-f16"};

static void suite_slopes(int64_t n_heads, float *slopes) {
    for (int64_t h = 0; h < n_heads; h++) slopes[h] = (float)exp2(-(double)h - 1);
}

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
    if (!suite_begin(s, "attention H=%lld Dh=%lld %s S=%d first=%d size=%g equal=%d",
                     (long long)c.n_heads, (long long)c.head_dim, suite_position_names[c.positions],
                     c.n_seqs, c.lengths[0], (double)c.size, c.is_equal))
        return;
    struct suite_batch b = suite_batch(s, c.n_seqs, c.lengths, 33);
    int64_t d = c.n_heads * c.head_dim, n = b.pack.n_tokens;
    float *qkv = suite_qkv(s, &c, &b), *got[2] = {NULL, NULL}, slopes[64];
    double *err = calloc((size_t)(n * d), sizeof *err);
    enum vnp_dtype dtype = VNP_F32;
    suite_slopes(c.n_heads, slopes);
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

#endif
