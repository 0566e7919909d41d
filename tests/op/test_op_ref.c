// SPDX-License-Identifier: MIT
// The op contract: the reference against the definitions and its own promises, in every precision
// it emulates; and backends broken on purpose, which the suite must catch. No test framework: the
// suite prints TAP itself. With VNP_QUICK set, as under a memory checker, some cases of each op.
#include "op_suite.h"

static int n_lines;

static int run(const struct vnp_backend *b, enum vnp_precision precision, const char *only,
               FILE *out) {
    const bool is_quick = getenv("VNP_QUICK") != NULL;
    int n_passed = 0, n_failed = 0;
    if (is_quick && only && strcmp(only, "company") == 0) only = "company D=64";
    struct op_suite_config config = {
        .backend = b,
        .device = {.precision = precision,
                   .n_threads = 2,
                   .is_emulation = precision != VNP_PREC_FP32},
        .is_quick = true,
        .only = only,
        .every = is_quick && (!only || strcmp(only, "N=65") == 0) ? 29 : 0,
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

int main(void) {
    const struct vnp_backend *ref = vnp_ref_backend();
    int n_bad = run(ref, VNP_PREC_FP32, NULL, NULL);
    for (int i = VNP_PREC_BF16; i < VNP_PREC_COUNT; i++) {
        n_bad |= run(ref, (enum vnp_precision)i, "company", NULL);
        n_bad |= run(ref, (enum vnp_precision)i, "N=65", NULL);
    }
    struct vnp_backend b = *ref;
    b.attention = leaky_attention, must_fail("a leak between sequences", &b, "attention H=1 Dh=16");
    b.attention = absolute_rotary, must_fail("a missing rotary", &b, "attention H=1 Dh=16");
    b = *ref, b.layernorm = wide_norm, must_fail("a write outside", &b, "layernorm N=7");
    b = *ref, b.pool = greedy_pool, must_fail("<eos> in the mean", &b, "pool");
    b = *ref, b.linear = plain_gelu, must_fail("an inexact gelu", &b, "linear N=5");
    b = *ref, b.embed = vain_embed, must_fail("a missing 0.88", &b, "embed D=16");
    b = *ref, b.linear = place_dependent,
    must_fail("a bit that knows its place", &b, "company D=64");
    printf("1..%d\n", n_lines);
    return n_bad != 0;
}
