// SPDX-License-Identifier: MIT
// The op contract: the reference against the definitions and its own promises, in every precision
// it emulates; and backends broken on purpose, which the suite must catch. No test framework: the
// suite prints TAP itself. With VNP_QUICK set, as under a memory checker, some cases of each op.
#include "op_suite.h"

static int n_lines;

static int run(const struct vnp_backend *b, enum vnp_precision precision, const char *only,
               FILE *out) {
    int n_passed = 0, n_failed = 0;
    struct op_suite_config config = {
        .backend = b,
        .device = {.precision = precision,
                   .n_threads = 2,
                   .is_emulation = precision != VNP_PREC_FP32},
        .is_quick = true,
        .only = only,
        .every = getenv("VNP_QUICK") ? 29 : 0,
        .out = out,
    };
    op_suite_run(&config, &n_passed, &n_failed);
    n_lines += n_passed + n_failed;
    return n_passed + n_failed == 0 ? -1 : n_failed;
}

/* ---- what the suite must catch ------------------------------------------------------------- */

static vnp_status leaky_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                                  const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    VNP_TRY(vnp_ref_backend()->attention(ex, p, qkv, out));
    float *rows = out->data;
    if (out->rows > 1) rows[(out->rows - 1) * out->ld] += 1e-3f * rows[0];
    return VNP_OK;
}

static vnp_status absolute_rotary(struct vnp_exec *ex, const struct vnp_attention_params *p,
                                  const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    struct vnp_attention_params wrong = *p;
    wrong.has_rotary = false;
    return vnp_ref_backend()->attention(ex, &wrong, qkv, out);
}

static vnp_status wide_norm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand) {
    VNP_TRY(vnp_ref_backend()->layernorm(ex, p, x, out_residual, out_operand));
    if (out_operand && out_operand->ld > out_operand->cols)
        ((float *)out_operand->data)[out_operand->cols] = 0;
    return VNP_OK;
}

static vnp_status greedy_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                              const struct vnp_tensor *x, struct vnp_tensor *out) {
    struct vnp_pool_params wrong = *p;
    wrong.skip_last = 0;
    return vnp_ref_backend()->pool(ex, &wrong, x, out);
}

static vnp_status plain_gelu(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                             const struct vnp_tensor *a, struct vnp_tensor *out) {
    VNP_TRY(vnp_ref_backend()->linear(ex, w, epi, a, out));
    float *x = out->data;
    for (int64_t r = 0; r < out->rows && epi == VNP_EPI_GELU; r++)
        for (int64_t j = 0; j < out->cols; j++) x[r * out->ld + j] *= 1.0003f; /* as tanh's */
    return VNP_OK;
}

static vnp_status vain_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                             struct vnp_tensor *out) {
    struct vnp_embed_params wrong = *p;
    wrong.has_token_dropout = false; /* the classic: 0.88 forgotten */
    return vnp_ref_backend()->embed(ex, &wrong, out);
}

static vnp_status place_dependent(struct vnp_exec *ex, const struct vnp_linear *w,
                                  enum vnp_epilogue epi, const struct vnp_tensor *a,
                                  struct vnp_tensor *out) {
    VNP_TRY(vnp_ref_backend()->linear(ex, w, epi, a, out));
    float *last = (float *)out->data + (out->rows - 1) * out->ld;
    if (out->rows % 8) last[0] = nextafterf(last[0], 1e9f); /* one bit, in a last odd row */
    return VNP_OK;
}

static void must_fail(const char *what, const struct vnp_backend *b, const char *only) {
    FILE *nowhere = fopen("/dev/null", "w");
    int before = n_lines, n_failed = run(b, VNP_PREC_FP32, only, nowhere);
    n_lines = before + 1;
    fclose(nowhere);
    printf("%s %d - the suite catches %s\n", n_failed > 0 ? "ok" : "not ok", n_lines, what);
}

/* ---- the order of the sums ----------------------------------------------------------------- */

/* a and w [n][n_in] of many magnitudes, whose second halves undo the first: what is left of a sum
 * is its rounding alone, another one in every other order. */
static void fill_undoing(uint64_t *seed, int64_t n, int64_t n_in, float *x, float sign) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n_in / 2; k++) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            float y = (float)(*seed >> 40) * 0x1p-24f - 0.5f;
            x[i * n_in + k] = ldexpf(y, (int)(*seed >> 32 & 15));
            x[i * n_in + n_in / 2 + k] = sign * x[i * n_in + k];
        }
}

/* The linear of one shape gives the bits of plain sums, whichever instruction set it has chosen. */
static bool is_plain_sum(struct vnp_device *dev, int64_t rows, int64_t n_in, int64_t n_out) {
    const struct vnp_backend *ref = vnp_ref_backend();
    struct vnp_exec *ex = NULL;
    struct vnp_linear *lin = NULL;
    struct vnp_tensor in, out;
    uint64_t seed = (uint64_t)(rows * n_in * n_out);
    float *w = calloc((size_t)(n_out * n_in), sizeof *w);
    struct vnp_view view = {w, VNP_F32, n_out, n_in};
    struct vnp_linear_desc desc = {&view, NULL, 1, n_out, n_in, 0, VNP_SITE_FFN_IN};
    struct vnp_exec_limits limits = {rows, 1, VNP_MAX(n_in, n_out)};
    fill_undoing(&seed, n_out, n_in, w, 1);
    bool ok = ref->linear_create(dev, &desc, &lin) == VNP_OK &&
              ref->exec_create(dev, &limits, &ex) == VNP_OK &&
              ref->tensor_create(ex, VNP_SITE_F32, rows, n_in, &in) == VNP_OK &&
              ref->tensor_create(ex, VNP_SITE_F32, rows, n_out, &out) == VNP_OK;
    if (ok) fill_undoing(&seed, rows, n_in, in.data, -1);
    ok = ok && ref->linear(ex, lin, VNP_EPI_NONE, &in, &out) == VNP_OK;
    int64_t n_left = 0;
    for (int64_t i = 0; ok && i < rows * n_out; i++) {
        const float *a = (const float *)in.data + i / n_out * n_in, *b = w + i % n_out * n_in;
        double sum = 0;
        for (int64_t k = 0; k < n_in; k++) sum += (double)a[k] * (double)b[k];
        float got = ((const float *)out.data)[i], want = (float)sum;
        ok = got == want;
        n_left += want != 0;
    }
    ref->exec_destroy(ex);
    ref->linear_destroy(dev, lin);
    free(w);
    return ok && n_left > rows * n_out / 2;
}

static int check_order(void) {
    struct vnp_device_options opt = {.precision = VNP_PREC_FP32, .n_threads = 2};
    struct vnp_device *dev = NULL;
    bool ok = vnp_ref_backend()->device_open(&opt, &dev) == VNP_OK;
    for (int64_t rows = 1; rows < 18; rows++)
        for (int64_t n_out = 7; n_out < 18; n_out++)
            ok = ok && is_plain_sum(dev, rows, 100, n_out) && is_plain_sum(dev, rows, 256, n_out);
    vnp_ref_backend()->device_close(dev);
    printf("%s %d - a linear sums in the order of the row\n", ok ? "ok" : "not ok", ++n_lines);
    return !ok;
}

static void catches(const struct vnp_backend *ref) {
    struct vnp_backend b = *ref;
    b.attention = leaky_attention, must_fail("a leak between sequences", &b, "attention H=1 Dh=16");
    b.attention = absolute_rotary, must_fail("a missing rotary", &b, "attention H=1 Dh=16");
    b = *ref, b.layernorm = wide_norm, must_fail("a write outside", &b, "layernorm N=7");
    b = *ref, b.pool = greedy_pool, must_fail("<eos> in the mean", &b, "pool");
    b = *ref, b.linear = plain_gelu, must_fail("an inexact gelu", &b, "linear N=5");
    b = *ref, b.embed = vain_embed, must_fail("a missing 0.88", &b, "embed D=16");
    b = *ref, b.linear = place_dependent,
    must_fail("a bit that knows its place", &b, "company D=64");
}

int main(void) {
    const struct vnp_backend *ref = vnp_ref_backend();
    const bool is_quick = getenv("VNP_QUICK") != NULL;
    int n_bad = run(ref, VNP_PREC_FP32, NULL, NULL);
    for (int i = VNP_PREC_BF16; i < VNP_PREC_COUNT; i++) {
        if (!is_quick || i == VNP_PREC_BF16)
            n_bad |= run(ref, (enum vnp_precision)i, is_quick ? "company D=64" : "company", NULL);
        n_bad |= run(ref, (enum vnp_precision)i, "N=65", NULL);
    }
    n_bad |= check_order();
    if (!is_quick) catches(ref); /* about the suite, not about memory */
    printf("1..%d\n", n_lines);
    return n_bad != 0;
}
