// SPDX-License-Identifier: MIT
// Checkpoints of every format of the goldens: same names, shapes, bytes and digests; specs.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

#include <unistd.h>

static struct vnp_checkpoint *open_golden(const char *rel, enum vnp_model_kind kind) {
    char path[8192], text[4096];
    struct vnp_checkpoint *c = NULL;
    snprintf(path, sizeof path, "%s/%s", support_goldens(), rel);
    vnp_status status = vnp_checkpoint_open(path, kind, &c);
    if (status != VNP_OK) {
        vnp_error_format(vnp_error_last(), text, sizeof text);
        fail_msg("%s: %s", rel, text);
    }
    return c;
}

static void check_same(const char *a_rel, const char *b_rel) {
    struct vnp_checkpoint *a = open_golden(a_rel, VNP_MODEL_NONE);
    struct vnp_checkpoint *b = open_golden(b_rel, VNP_MODEL_NONE);
    struct vnp_hash128 x, y;
    assert_int_equal(vnp_checkpoint_count(a), vnp_checkpoint_count(b));
    for (int64_t i = 0; i < vnp_checkpoint_count(a); i++) {
        const struct vnp_tensor_info *s = vnp_checkpoint_at(a, i), *t = vnp_checkpoint_at(b, i);
        assert_string_equal(s->name, t->name);
        assert_int_equal(s->dtype, t->dtype);
        assert_int_equal(s->n_dims, t->n_dims);
        for (int d = 0; d < s->n_dims; d++) assert_int_equal(s->shape[d], t->shape[d]);
        assert_int_equal(s->n_bytes, t->n_bytes);
        assert_memory_equal(s->data, t->data, s->n_bytes);
    }
    assert_int_equal(vnp_checkpoint_digest(a, &x), VNP_OK);
    assert_int_equal(vnp_checkpoint_digest(b, &y), VNP_OK);
    assert_int_equal(x.lo, y.lo);
    assert_int_equal(x.hi, y.hi);
    vnp_checkpoint_close(a);
    vnp_checkpoint_close(b);
}

static void formats_give_the_same_bytes(void **state) {
    (void)state;
    check_same("esm2/t3_d128_h2/model.pt", "esm2/t3_d128_h2/hf");
    check_same("esm2/t3_d128_h2/model.pt", "esm2/t3_d128_h2/hf/pytorch_model.bin");
    check_same("esm2/t2_d96_h4_fp16/model.pt", "esm2/t2_d96_h4_fp16/hf");
    check_same("esm2/t2_d96_h4_fp16/hf", "esm2/t2_d96_h4_fp16/hf/pytorch_model.bin");
    check_same("esm2/t2_d64_h1_nodropout/model.pt", "esm2/t2_d64_h1_nodropout/hf");
    for (int w = 300; w <= 500; w += 200) {
        char a[128], b[128];
        snprintf(a, sizeof a, "pipeline/chunk%d/classifier.pth", w);
        snprintf(b, sizeof b, "pipeline/chunk%d/classifier_state_dict.pth", w);
        check_same(a, b);
        snprintf(b, sizeof b, "pipeline/chunk%d/classifier.safetensors", w);
        check_same(a, b);
    }
}

/* A stored table decides; without one the weights' type does. */
static void rotary_frequencies(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum vnp_dtype freq;
    } cases[] = {
        {"good_hf", VNP_F16}, {"good_hf_freq_f16", VNP_F16}, {"good_hf_freq_f32", VNP_F32}};
    for (size_t i = 0; i < VNP_COUNT(cases); i++) {
        char path[4096];
        struct vnp_checkpoint *c;
        snprintf(path, sizeof path, "%s/tests/data/bad_model/%s", VNP_TEST_SOURCE_DIR,
                 cases[i].name);
        assert_int_equal(vnp_checkpoint_open(path, VNP_MODEL_ESM2, &c), VNP_OK);
        assert_int_equal(vnp_checkpoint_spec(c)->dtype, VNP_F16);
        assert_int_equal(vnp_checkpoint_spec(c)->freq_dtype, cases[i].freq);
        struct vnp_hash128 digest, again;
        struct vnp_bundle_parts parts = {.esm2 = c};
        assert_int_equal(vnp_checkpoint_digest(c, &digest), VNP_OK);
        snprintf(path, sizeof path, "%s/rotary_%ld", VNP_TEST_BINARY_DIR, (long)getpid());
        assert_int_equal(vnp_bundle_write(path, &parts), VNP_OK);
        vnp_checkpoint_close(c);
        assert_int_equal(vnp_checkpoint_open(path, VNP_MODEL_ESM2, &c), VNP_OK);
        assert_int_equal(vnp_checkpoint_spec(c)->freq_dtype, cases[i].freq);
        assert_int_equal(vnp_checkpoint_digest(c, &again), VNP_OK);
        assert_true(digest.lo == again.lo && digest.hi == again.hi);
        vnp_checkpoint_close(c);
        unlink(path);
    }
}

static void check_esm(const char *rel, int64_t layers, int64_t hidden, int64_t heads,
                      bool has_dropout, enum vnp_dtype dtype) {
    struct vnp_checkpoint *c = open_golden(rel, VNP_MODEL_ESM2);
    const struct vnp_model_spec *s = vnp_checkpoint_spec(c);
    struct vnp_view v;
    assert_int_equal(s->kind, VNP_MODEL_ESM2);
    assert_int_equal(s->n_layers, layers);
    assert_int_equal(s->n_hidden, hidden);
    assert_int_equal(s->n_heads, heads);
    assert_int_equal(s->n_ffn, 4 * hidden);
    assert_int_equal(s->n_vocab, 33);
    assert_int_equal(s->has_token_dropout, has_dropout);
    assert_true(s->has_lm_head);
    assert_true(s->norm_eps == 1e-5f);
    assert_int_equal(s->dtype, dtype);
    assert_int_equal(vnp_checkpoint_count(c), 16 * layers + 8);
    assert_int_equal(vnp_checkpoint_view(c, &v, "layer.%d.ffn.up.weight", (int)layers - 1), VNP_OK);
    assert_int_equal(v.rows, 4 * hidden);
    assert_int_equal(v.cols, hidden);
    assert_int_equal(vnp_checkpoint_view(c, &v, "final_norm.bias"), VNP_OK);
    assert_int_equal(v.rows, 1);
    assert_int_equal(v.cols, hidden);
    assert_int_equal(vnp_checkpoint_view(c, &v, "layer.%d.attn.q.bias", (int)layers),
                     VNP_NOT_FOUND);
    vnp_checkpoint_close(c);
}

static void esm_specs(void **state) {
    (void)state;
    check_esm("esm2/t3_d128_h2/model.pt", 3, 128, 2, true, VNP_F32);
    check_esm("esm2/t3_d128_h2/hf", 3, 128, 2, true, VNP_F32);
    check_esm("esm2/t2_d80_h5/hf", 2, 80, 5, true, VNP_F32);
    check_esm("esm2/t1_d256_h2_hd128/hf", 1, 256, 2, true, VNP_F32);
    check_esm("esm2/t2_d96_h4_fp16/model.pt", 2, 96, 4, true, VNP_F16);
    check_esm("esm2/t4_d128_h4_outlier/hf", 4, 128, 4, true, VNP_F32);
    check_esm("esm2/t2_d64_h1_nodropout/hf", 2, 64, 1, false, VNP_F32);
    check_esm("esm2/t2_d64_h1_nodropout/model.pt", 2, 64, 1, false, VNP_F32);
}

static void check_dnabert(const char *rel, int64_t layers, int64_t hidden, int64_t heads,
                          int64_t ffn) {
    struct vnp_checkpoint *c = open_golden(rel, VNP_MODEL_NONE);
    const struct vnp_model_spec *s = vnp_checkpoint_spec(c);
    const char *json;
    size_t n;
    assert_int_equal(s->kind, VNP_MODEL_DNABERT);
    assert_int_equal(s->n_layers, layers);
    assert_int_equal(s->n_hidden, hidden);
    assert_int_equal(s->n_heads, heads);
    assert_int_equal(s->n_ffn, ffn);
    assert_int_equal(s->n_vocab, 4096);
    assert_true(s->norm_eps == 1e-12f);
    assert_int_equal(vnp_checkpoint_count(c), 11 * layers + 4);
    assert_int_equal(vnp_checkpoint_tokenizer(c, &json, &n), VNP_OK);
    assert_int_equal(n, 167908);
    vnp_checkpoint_close(c);
}

static void dnabert_specs(void **state) {
    (void)state;
    check_dnabert("dnabert_s/l3_d192_h3", 3, 192, 3, 384);
    check_dnabert("dnabert_s/l2_d96_h6_prefixed", 2, 96, 6, 160);
    check_dnabert("dnabert_s/l2_d96_h6_prefixed/pytorch_model.bin", 2, 96, 6, 160);
}

static void classifier_spec(void **state) {
    (void)state;
    struct vnp_checkpoint *c =
        open_golden("pipeline/chunk500/classifier.pth", VNP_MODEL_CLASSIFIER);
    const struct vnp_model_spec *s = vnp_checkpoint_spec(c);
    assert_int_equal(s->n_dna + s->n_protein, 320);
    assert_int_equal(s->n_classifier_hidden, 64);
    assert_int_equal(s->window_bp, 0);
    assert_int_equal(vnp_checkpoint_count(c), 8);
    assert_string_equal(vnp_checkpoint_note(c), "");
    vnp_checkpoint_close(c);
}

static void wrong_kind_and_missing(void **state) {
    (void)state;
    struct vnp_checkpoint *c;
    char path[8192];
    unsigned kinds;
    char format[64];
    snprintf(path, sizeof path, "%s/esm2/t3_d128_h2/hf", support_goldens());
    assert_int_equal(vnp_checkpoint_open(path, VNP_MODEL_CLASSIFIER, &c), VNP_MISMATCH);
    assert_null(c);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_MODEL);
    assert_int_equal(vnp_model_probe(path, &kinds, format, sizeof format), VNP_OK);
    assert_int_equal(kinds, 1u << VNP_MODEL_ESM2);
    assert_string_equal(format, "Hugging Face folder (safetensors)");
    assert_int_equal(vnp_checkpoint_open("/nonexistent/model.pt", VNP_MODEL_NONE, &c), VNP_IO);
    assert_int_equal(vnp_error_last()->os_errno, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_give_the_same_bytes),
        cmocka_unit_test(rotary_frequencies),
        cmocka_unit_test(esm_specs),
        cmocka_unit_test(dnabert_specs),
        cmocka_unit_test(classifier_spec),
        cmocka_unit_test(wrong_kind_and_missing),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
