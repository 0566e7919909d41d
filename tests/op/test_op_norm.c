// SPDX-License-Identifier: MIT
// The suite's cases of linear_norm, tried on backends that have none of their own: the host
// backends behind a table whose linear_norm is their linear and their layernorm. Also such as keep
// operands in E4M3 with a scale a row. Then the same broken on purpose, which the suite must catch.
// No test framework: the suite prints TAP itself.
#include "op_plain.h"

#include "cpu/cpu.h"

enum {
    NO_FAULT,
    NOT_ADDED,     /* x = LN(a W^T + b) */
    BIAS_TWICE,    /* in the sum */
    EPS_OUTSIDE,   /* of the root */
    ONE_PASS,      /* the mean of squares less the square of the mean, in FP32 */
    NEXT_ROW,      /* mean and variance of the row behind */
    ONE_GAMMA,     /* of one column is its neighbour's */
    OPERAND_OF_X,  /* the operand is the sum, not its norm */
    X_LEFT,        /* x is the sum, not its norm */
    SPARES_NAN,    /* what is no number becomes 0 */
    LEAK_OF_ROWS,  /* 0 times the row behind */
    KNOWS_PLACE,   /* one bit in a last row */
    WRITES_BESIDE, /* x has a column more */
    NEXT_SCALE,    /* of E4M3: of the row behind */
    LARGE_SCALE,   /* of E4M3: results lose digits */
    SCALE_BESIDE,  /* of E4M3: of a row more */
    OLD_LENGTHS,   /* of E4M3: bounds of rows that stood in the operand before */
    OPERAND_EARLY, /* the operand's first row is written before a has been read */
};

static float lengths[4096]; /* of the rows of the operand last written */
static int64_t n_tokens;    /* of the batch in flight */

static float *row_of(const struct vnp_tensor *t, int64_t r) {
    return (float *)t->data + r * t->ld;
}

static vnp_status begin(struct vnp_exec *ex, const struct vnp_pack *p) {
    n_tokens = p->n_tokens;
    return real->batch_begin(ex, p);
}

/* ---- operands of E4M3 ------------------------------------------------------------------------ */

static vnp_status make_tensor(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                              int64_t cols, struct vnp_tensor *out) {
    struct vnp_tensor scale;
    VNP_TRY(real->tensor_create(ex, site, max_rows, cols, out));
    if (!is_narrow || site == VNP_SITE_RESIDUAL || site == VNP_SITE_QKV || site == VNP_SITE_F32)
        return VNP_OK;
    VNP_TRY(real->tensor_create(ex, VNP_SITE_F32, 1, max_rows, &scale));
    out->dtype = VNP_E4M3;
    out->scale = scale.data;
    return VNP_OK;
}

static void scale_rows(const struct vnp_tensor *y, struct vnp_tensor *out) {
    for (int64_t r = 0; r < y->rows; r++) {
        float top = 0;
        int64_t of = r + (fault == NEXT_SCALE && r + 1 < y->rows);
        for (int64_t i = 0; i < y->cols; i++) {
            float v = fabsf(row_of(y, of)[i]);
            if (!(v <= top)) top = v;
        }
        out->scale[r] = top > 0 || isnan(top) ? top / (fault == LARGE_SCALE ? 384 : 448) : 1;
    }
}

/* Writes what an op left in y, and lets go of y. */
static vnp_status put_narrow(vnp_status status, struct vnp_tensor *y, struct vnp_tensor *out,
                             bool is_scaled) {
    if (status == VNP_OK && !is_scaled) scale_rows(y, out);
    if (status == VNP_OK) narrowed(y, out);
    vnp_free_aligned(y->data);
    return status;
}

static void note_lengths(const struct vnp_tensor *y) {
    for (int64_t r = 0; r < y->rows; r++) lengths[r] = (float)suite_length(row_of(y, r), y->cols);
}

static vnp_status layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand) {
    if (!is_narrow || !out_operand) return real->layernorm(ex, p, x, out_residual, out_operand);
    struct vnp_tensor y = plain(out_operand);
    vnp_status status = real->layernorm(ex, p, x, out_residual, &y);
    if (status == VNP_OK) note_lengths(&y);
    return put_narrow(status, &y, out_operand, false);
}

/* GELU's results by a bound: rows of the suite's weights have lengths near 1. */
static vnp_status linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                         const struct vnp_tensor *a, struct vnp_tensor *out) {
    if (!is_narrow) return real->linear(ex, w, epi, a, out);
    struct vnp_tensor wide = widened(a), y = out->scale ? plain(out) : *out;
    bool is_bounded = epi == VNP_EPI_GELU && out->scale;
    vnp_status status = real->linear(ex, w, epi, &wide, &y);
    vnp_free_aligned(wide.data);
    for (int64_t r = 0; is_bounded && r < y.rows; r++) out->scale[r] = 4 * lengths[r] / 448;
    return out->scale ? put_narrow(status, &y, out, is_bounded) : status;
}

static vnp_status attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                            const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    if (!is_narrow) return real->attention(ex, p, qkv, out);
    struct vnp_tensor y = plain(out);
    return put_narrow(real->attention(ex, p, qkv, &y), &y, out, false);
}

/* ---- linear_norm ----------------------------------------------------------------------------- */

static vnp_status bias_again(struct vnp_exec *ex, const struct vnp_linear *w,
                             const struct vnp_tensor *a, struct vnp_tensor *x) {
    struct vnp_tensor in = {.dtype = VNP_F32, .rows = 1, .cols = a->cols}, out = in;
    out.cols = x->cols;
    in = plain(&in), out = plain(&out);
    memset(in.data, 0, (size_t)in.ld * sizeof(float));
    vnp_status status = real->linear(ex, w, VNP_EPI_NONE, &in, &out);
    for (int64_t r = 0; status == VNP_OK && r < x->rows; r++)
        for (int64_t i = 0; i < x->cols; i++) row_of(x, r)[i] += row_of(&out, 0)[i];
    vnp_free_aligned(in.data), vnp_free_aligned(out.data);
    return status;
}

/* The norm as some kernels would have it. */
static void wrong_norm(const struct vnp_norm_params *p, const struct vnp_tensor *x) {
    int64_t d = x->cols;
    for (int64_t r = 0; r < x->rows; r++) {
        const float *of = row_of(x, r + (fault == NEXT_ROW && r + 1 < x->rows));
        double mean = 0, var = 0;
        float squares = 0;
        for (int64_t i = 0; i < d; i++) mean += (double)of[i] / (double)d;
        for (int64_t i = 0; i < d; i++) var += ((double)of[i] - mean) * ((double)of[i] - mean);
        for (int64_t i = 0; i < d; i++) squares += of[i] * of[i] / (float)d;
        if (fault == ONE_PASS) var = fmax(0, (double)squares - mean * mean) * (double)d;
        double root = sqrt(var / (double)d + (double)p->eps);
        if (fault == EPS_OUTSIDE) root = sqrt(var / (double)d) + (double)p->eps;
        for (int64_t i = 0; i < d; i++) {
            float *v = &row_of(x, r)[i];
            *v = (float)(((double)*v - mean) / root * (double)p->gamma[i] + (double)p->beta[i]);
        }
    }
}

static vnp_status wrong_sum(struct vnp_exec *ex, const struct vnp_linear *w,
                            const struct vnp_tensor *a, struct vnp_tensor *x) {
    for (int64_t r = 0; fault == NOT_ADDED && r < x->rows; r++)
        memset(row_of(x, r), 0, (size_t)x->cols * sizeof(float));
    VNP_TRY(linear(ex, w, VNP_EPI_RESIDUAL, a, x));
    return fault == BIAS_TWICE ? bias_again(ex, w, a, x) : VNP_OK;
}

static void wrong_results(struct vnp_tensor *x) {
    int64_t last = x->rows - 1;
    for (int64_t r = 0; fault == LEAK_OF_ROWS && r < last; r++)
        row_of(x, r)[0] += 0 * row_of(x, r + 1)[0];
    for (int64_t r = 0; fault == SPARES_NAN && r <= last; r++)
        for (int64_t i = 0; i < x->cols; i++)
            if (isnan(row_of(x, r)[i])) row_of(x, r)[i] = 0;
    if (fault == KNOWS_PLACE && last % 8) row_of(x, last)[0] = nextafterf(row_of(x, last)[0], 1e9f);
    if (fault == WRITES_BESIDE && x->ld > x->cols) row_of(x, 0)[x->cols] = 0;
}

static vnp_status linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                              const struct vnp_norm_params *p, const struct vnp_tensor *a,
                              struct vnp_tensor *x, struct vnp_tensor *out_operand) {
    float gamma[1024];
    struct vnp_norm_params params = *p;
    VNP_TRY(vnp_op_check_linear(x->cols, a->cols, 0, VNP_EPI_RESIDUAL, a, x, n_tokens));
    if (fault == OPERAND_EARLY && out_operand)
        memset(row_of(out_operand, 0), 0, (size_t)x->cols * sizeof(float));
    VNP_TRY(wrong_sum(ex, w, a, x));
    VNP_TRY(vnp_op_check_norm(p, x, x, out_operand));
    memcpy(gamma, p->gamma, (size_t)x->cols * sizeof *gamma);
    if (fault == ONE_GAMMA) gamma[x->cols / 2] = gamma[x->cols / 2 - 1];
    params.gamma = gamma;
    if (fault == X_LEFT) return out_operand ? layernorm(ex, p, x, NULL, out_operand) : VNP_OK;
    if (fault == OPERAND_OF_X && out_operand)
        for (int64_t r = 0; r < x->rows; r++)
            memcpy(row_of(out_operand, r), row_of(x, r), (size_t)x->cols * sizeof(float));
    if (fault == EPS_OUTSIDE || fault == ONE_PASS || fault == NEXT_ROW) {
        wrong_norm(p, x); /* and the operand of what it left, unchanged by a norm */
        for (int64_t r = 0; out_operand && r < x->rows; r++)
            memcpy(row_of(out_operand, r), row_of(x, r), (size_t)x->cols * sizeof(float));
        return VNP_OK;
    }
    float before[VNP_COUNT(lengths)];
    memcpy(before, lengths, sizeof before);
    VNP_TRY(layernorm(ex, &params, x, x, fault == OPERAND_OF_X ? NULL : out_operand));
    if (fault == SCALE_BESIDE && out_operand) out_operand->scale[x->rows] = 1;
    if (fault == OLD_LENGTHS) memcpy(lengths, before, sizeof before);
    wrong_results(x);
    return VNP_OK;
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void put_ops(void) {
    table.batch_begin = begin;
    table.tensor_create = make_tensor;
    table.layernorm = layernorm;
    table.linear = linear;
    table.attention = attention;
    table.linear_norm = linear_norm;
}
static int every_case(void) {
    return getenv("VNP_QUICK") ? 13 : is_short() ? 3 : 0;
}

static int catches(void) {
    const char *some = "D=64 down", *rows = "K=64 D=96 down";
    int n_bad = must_fail("a sum without x", NOT_ADDED, VNP_PREC_FP32, some);
    n_bad += must_fail("a bias twice", BIAS_TWICE, VNP_PREC_FP32, some);
    n_bad += must_fail("eps outside the root", EPS_OUTSIDE, VNP_PREC_FP32, some);
    n_bad += must_fail("a variance in one pass", ONE_PASS, VNP_PREC_FP32, some);
    n_bad += must_fail("a neighbour's mean", NEXT_ROW, VNP_PREC_FP32, some);
    n_bad += must_fail("one wrong gamma", ONE_GAMMA, VNP_PREC_FP32, some);
    n_bad += must_fail("one wrong gamma in FP8", ONE_GAMMA, VNP_PREC_FP8, some);
    n_bad += must_fail("the operand of a sum", OPERAND_OF_X, VNP_PREC_FP32, some);
    n_bad += must_fail("an operand before its time", OPERAND_EARLY, VNP_PREC_FP32, "in place");
    n_bad += must_fail("an x without its norm", X_LEFT, VNP_PREC_FP32, some);
    n_bad += must_fail("an x without its norm in FP8", X_LEFT, VNP_PREC_FP8, some);
    n_bad += must_fail("a column more", WRITES_BESIDE, VNP_PREC_FP32, some);
    n_bad += must_fail("a bit that knows its place", KNOWS_PLACE, VNP_PREC_FP32, "norm places");
    n_bad += must_fail("0 times the neighbour", LEAK_OF_ROWS, VNP_PREC_FP32, rows);
    n_bad += must_fail("a NaN that is gone", SPARES_NAN, VNP_PREC_FP32, rows);
    n_bad += must_fail("a neighbour's scale", NEXT_SCALE, VNP_PREC_FP8, some);
    n_bad += must_fail("a neighbour's scale in company", NEXT_SCALE, VNP_PREC_FP8, "norm places");
    n_bad += must_fail("a scale above the bound", LARGE_SCALE, VNP_PREC_FP8, some);
    n_bad += must_fail("a scale more", SCALE_BESIDE, VNP_PREC_FP8, some);
    n_bad += must_fail("bounds of other rows", OLD_LENGTHS, VNP_PREC_FP8, "norm and a product");
    return n_bad;
}

int main(void) {
    const struct vnp_backend *ref = vnp_ref_backend(), *cpu = vnp_cpu_backend();
    const bool is_quick = is_short();
    int n_bad = run(ref, VNP_PREC_FP32, "linear_norm", true, NULL);
    n_bad |= run(ref, VNP_PREC_FP8, "linear_norm", true, NULL);
    if (!is_quick) n_bad |= run(ref, VNP_PREC_FP16, "linear_norm", true, NULL);
    n_bad |= run(cpu, VNP_PREC_FP32, "linear_norm", true, NULL);
    if (!is_quick) n_bad |= run(cpu, VNP_PREC_FP32, "company D=768", false, NULL);
    if (strstr(vnp_cpu_features(), "avx512-bf16"))
        n_bad |= run(cpu, VNP_PREC_BF16, "linear_norm", true, NULL);
    if (!is_quick) n_bad |= catches(); /* about the suite, not about memory */
    printf("1..%d\n", n_lines);
    return n_bad != 0;
}
