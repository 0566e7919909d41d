// SPDX-License-Identifier: MIT
// model: ops that a backend may lack change no bit. DNABERT-S over a host backend whose linear_norm
// is its own linear and layernorm gives the bits that it gives over the backend without one, every
// token of them; ESM-2 never asks for it. ESM-2 with and without qkv_of_tokens likewise, <mask> or
// not; DNABERT-S never asks for that.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "support.h"
#include "model_support.h"

#include "cpu/cpu.h"

static struct vnp_backend table; /* the backend with the op */
static const struct vnp_backend *real;
static int n_layernorms, n_linear_norms, n_last; /* last: without an operand */
static int n_of_tokens;

static vnp_status layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand) {
    n_layernorms++;
    return real->layernorm(ex, p, x, out_residual, out_operand);
}

static vnp_status linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                              const struct vnp_norm_params *p, const struct vnp_tensor *a,
                              struct vnp_tensor *x, struct vnp_tensor *out_operand) {
    n_linear_norms++;
    n_last += !out_operand;
    VNP_TRY(real->linear(ex, w, VNP_EPI_RESIDUAL, a, x));
    return real->layernorm(ex, p, x, x, out_operand);
}

static vnp_status qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *rows_of,
                                struct vnp_attention_params *p, struct vnp_tensor *out) {
    n_of_tokens++;
    return real->qkv_of_tokens(ex, rows_of, p, out);
}

static const struct vnp_backend *with_op(void) {
    return &table;
}

static const struct golden_row rows[] = {
    {"ref fp32", vnp_ref_backend, VNP_PREC_FP32, false, 0, 0},
    {"ref fp8 emulated", vnp_ref_backend, VNP_PREC_FP8, true, 0, 0},
    {"cpu fp32", vnp_cpu_backend, VNP_PREC_FP32, false, 0, 0},
    {"cpu bf16", vnp_cpu_backend, VNP_PREC_BF16, false, 0, 0},
};

/* The table of this row's backend with the op; no row where the processor lacks the precision. */
static bool begin(const struct golden_row *row, struct golden_row *with) {
    if (row->precision == VNP_PREC_BF16 && !strstr(vnp_cpu_features(), "avx512-bf16")) return false;
    real = row->backend();
    table = *real;
    table.layernorm = layernorm;
    table.linear_norm = linear_norm;
    if (real->qkv_of_tokens) table.qkv_of_tokens = qkv_of_tokens;
    *with = *row;
    with->backend = with_op;
    n_layernorms = n_linear_norms = n_last = n_of_tokens = 0;
    return true;
}

/* ---- random weights ------------------------------------------------------------------------- */

static struct model random_open(const struct golden_row *row, const struct vnp_model_spec *spec) {
    struct model m = {.b = row->backend()};
    struct vnp_device_options opt = {
        .precision = row->precision, .is_emulation = row->is_emulation, .n_threads = 2};
    assert_ok(m.b->device_open(&opt, &m.dev));
    assert_ok(vnp_checkpoint_random(spec, 5, &m.checkpoint));
    assert_ok(vnp_encoder_create(m.b, m.dev, m.checkpoint, &m.encoder));
    m.spec = vnp_encoder_spec(m.encoder);
    return m;
}

/* One pack of sequences of 1 to 40 tokens, below n_tokens each, through both; returns whether the
 * bits are the same. */
static bool is_same(const struct golden_row *row, const struct golden_row *with,
                    const struct vnp_model_spec *spec, int n_tokens,
                    const struct vnp_encoder_want *want) {
    enum { N = 12 };
    static const int lengths[N] = {17, 1, 40, 3, 33, 32, 31, 2, 8, 16, 5, 29};
    uint16_t tokens[512];
    int32_t cu[N + 1] = {0};
    uint64_t seed = 3;
    for (int s = 0; s < N; s++) cu[s + 1] = cu[s] + lengths[s];
    for (int i = 0; i < cu[N]; i++)
        tokens[i] = (uint16_t)(support_random(&seed) % (unsigned)n_tokens);
    struct model a = random_open(row, spec), b = random_open(with, spec);
    float *x = model_run(&a, tokens, cu, N, 512, want),
          *y = model_run(&b, tokens, cu, N, 512, want);
    bool is_rows = want->pool == VNP_POOL_NONE;
    int64_t n = (is_rows ? cu[N] : N) * spec->n_hidden;
    bool ok = memcmp(x, y, (size_t)n * sizeof *x) == 0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += fabs((double)x[i]);
    assert_true(isfinite(sum) && sum > 0);
    free(x), free(y);
    model_close(&a), model_close(&b);
    return ok;
}

static void test_random(void **state) {
    static const int64_t shapes[][4] = {{1, 64, 4, 96}, {3, 96, 3, 384}, {2, 120, 5, 200}};
    (void)state;
    for (size_t i = 0; i < VNP_COUNT(rows); i++)
        for (size_t k = 0; k < VNP_COUNT(shapes); k++)
            for (int layer = -1; layer < 2; layer++) {
                struct golden_row with;
                struct vnp_model_spec spec = {.kind = VNP_MODEL_DNABERT,
                                              .n_layers = shapes[k][0],
                                              .n_hidden = shapes[k][1],
                                              .n_heads = shapes[k][2],
                                              .n_ffn = shapes[k][3],
                                              .n_vocab = 100,
                                              .norm_eps = 1e-12f};
                struct vnp_encoder_want want = {.layer = layer, .pool = VNP_POOL_NONE};
                if (!begin(&rows[i], &with)) continue;
                if (!is_same(&rows[i], &with, &spec, 100, &want))
                    fail_msg("%s: D = %d, other vectors", rows[i].name, (int)spec.n_hidden);
                int n = layer < 0 ? (int)spec.n_layers : layer;
                assert_int_equal(n_layernorms, 1); /* the embeddings' */
                assert_int_equal(n_linear_norms, 2 * n);
                assert_int_equal(n_last, n > 0);
                assert_int_equal(n_of_tokens, 0);
            }
}

static void test_esm2(void **state) {
    struct golden_row with;
    struct vnp_model_spec spec = {.kind = VNP_MODEL_ESM2,
                                  .n_layers = 2,
                                  .n_hidden = 64,
                                  .n_heads = 4,
                                  .n_ffn = 256,
                                  .n_vocab = 33,
                                  .has_token_dropout = true,
                                  .norm_eps = 1e-5f};
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_NONE};
    (void)state;
    assert_true(begin(&rows[0], &with));
    assert_true(is_same(&rows[0], &with, &spec, 33, &want));
    assert_int_equal(n_linear_norms, 0);
    assert_true(n_layernorms > 0);
}

static const struct vnp_backend *without_op(void) {
    static struct vnp_backend plain;
    plain = *real;
    plain.qkv_of_tokens = NULL;
    return &plain;
}

/* With and without token dropout; in packs with <mask>, whose sequence is scaled, and without. */
static void test_by_token(void **state) {
    static const int64_t shapes[][4] = {{1, 64, 4, 96}, {3, 96, 3, 384}, {2, 120, 5, 200}};
    int n_asked = 0;
    (void)state;
    for (size_t i = 0; i < VNP_COUNT(rows); i++)
        for (int k = 0; k < 3 * 2 * 2 * 3; k++) {
            const struct golden_row *row = &rows[i];
            const int64_t *shape = shapes[k / 12];
            bool has_dropout = k % 2, has_masks = k / 2 % 2;
            struct golden_row with, without = *row;
            struct vnp_model_spec spec = {.kind = VNP_MODEL_ESM2,
                                          .n_layers = shape[0],
                                          .n_hidden = shape[1],
                                          .n_heads = shape[2],
                                          .n_ffn = shape[3],
                                          .n_vocab = 33,
                                          .has_token_dropout = has_dropout,
                                          .norm_eps = 1e-5f};
            struct vnp_encoder_want want = {.layer = k / 4 % 3 - 1, .pool = VNP_POOL_NONE};
            if (!begin(row, &with) || !real->qkv_of_tokens) continue;
            without.backend = without_op;
            if (!is_same(&without, &with, &spec, has_masks ? 33 : 32, &want))
                fail_msg("%s: D = %d, case %d, other vectors", row->name, (int)spec.n_hidden, k);
            assert_int_equal(n_of_tokens, want.layer != 0 && !(has_dropout && has_masks));
            n_asked += n_of_tokens;
        }
    assert_true(n_asked > 0);
}

/* ---- goldens -------------------------------------------------------------------------------- */

static void check_golden(const struct golden *g, void *ctx) {
    const struct golden_row *row = ctx;
    struct golden_row with;
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    if (!begin(row, &with)) return;
    struct model a = model_open(row, g->model, g->kind, 2);
    struct model b = model_open(&with, g->model, g->kind, 2);
    int64_t n_seqs = VNP_MIN(g->n_seqs, 12);
    float *x = model_run(&a, g->tokens, g->cu, n_seqs, 4096, &want);
    float *y = model_run(&b, g->tokens, g->cu, n_seqs, 4096, &want);
    if (memcmp(x, y, (size_t)(n_seqs * g->d) * sizeof *x) != 0)
        fail_msg("%s, %s: other vectors", g->name, row->name);
    assert_int_equal(n_linear_norms, 2 * a.spec->n_layers * n_last);
    assert_true(n_last > 0); /* one a pack */
    free(x), free(y);
    model_close(&a), model_close(&b);
}

static void test_goldens(void **state) {
    (void)state;
    for (size_t i = 0; i < VNP_COUNT(rows); i++) {
        struct golden_row row = rows[i];
        golden_each(VNP_MODEL_DNABERT, check_golden, &row);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_esm2),
        cmocka_unit_test(test_by_token),
        cmocka_unit_test(test_goldens),
    };
    return cmocka_run_group_tests_name("optional ops", tests, NULL, NULL);
}
