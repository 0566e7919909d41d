// SPDX-License-Identifier: MIT
// Bundles: written, read back, byte for byte the same again; digests, notes, shrinking, faults.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

#include <errno.h>
#include <unistd.h>

static const char *scratch(const char *name) {
    static char path[4][4096];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/bundle_%ld_%s", VNP_TEST_BINARY_DIR, (long)getpid(),
             name);
    return path[i];
}

static struct vnp_checkpoint *must_open(const char *path, enum vnp_model_kind kind) {
    struct vnp_checkpoint *c = NULL;
    char text[4096];
    if (vnp_checkpoint_open(path, kind, &c) != VNP_OK) {
        vnp_error_format(vnp_error_last(), text, sizeof text);
        fail_msg("%s", text);
    }
    return c;
}

static struct vnp_checkpoint *golden(const char *rel) {
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", support_goldens(), rel);
    return must_open(path, VNP_MODEL_NONE);
}

struct parts {
    struct vnp_checkpoint *esm, *dna, *cls;
};
static struct parts golden_parts(void) {
    return (struct parts){golden("esm2/t3_d128_h2/model.pt"), golden("dnabert_s/l3_d192_h3"),
                          golden("pipeline/chunk500/classifier.pth")};
}
static void close_parts(struct parts *p) {
    vnp_checkpoint_close(p->esm);
    vnp_checkpoint_close(p->dna);
    vnp_checkpoint_close(p->cls);
}

static void check_equal(struct vnp_checkpoint *a, struct vnp_checkpoint *b) {
    struct vnp_hash128 x, y;
    assert_int_equal(vnp_checkpoint_count(a), vnp_checkpoint_count(b));
    for (int64_t i = 0; i < vnp_checkpoint_count(a); i++) {
        const struct vnp_tensor_info *s = vnp_checkpoint_at(a, i), *t = vnp_checkpoint_at(b, i);
        assert_string_equal(s->name, t->name);
        assert_int_equal(s->n_bytes, t->n_bytes);
        assert_memory_equal(s->data, t->data, s->n_bytes);
    }
    assert_int_equal(vnp_checkpoint_digest(a, &x), VNP_OK);
    assert_int_equal(vnp_checkpoint_digest(b, &y), VNP_OK);
    assert_true(x.lo == y.lo && x.hi == y.hi);
    const struct vnp_model_spec *s = vnp_checkpoint_spec(a), *t = vnp_checkpoint_spec(b);
    assert_string_equal(s->name, t->name);
    assert_int_equal(s->n_heads, t->n_heads);
    assert_int_equal(s->n_layers, t->n_layers);
    assert_int_equal(s->has_token_dropout, t->has_token_dropout);
    assert_int_equal(s->n_params, t->n_params);
    assert_true(s->norm_eps == t->norm_eps);
}

static void check_same_files(const char *a, const char *b) {
    size_t n_a, n_b;
    char *x = support_read_file(a, &n_a), *y = support_read_file(b, &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(x, y, n_a);
    free(x);
    free(y);
}

static void round_trip(void **state) {
    (void)state;
    struct parts p = golden_parts(), q;
    const struct vnp_bundle_meta meta[] = {{"calibration.500", "{\"t\":\"1.5\\n\"}"}};
    const char *json_a, *json_b, *path = scratch("a"), *again = scratch("b");
    size_t n_a, n_b;
    struct vnp_bundle_parts parts = {.esm2 = p.esm,
                                     .dnabert = p.dna,
                                     .classifier = p.cls,
                                     .window_bp = 500,
                                     .note = "for \"tests\"\tonly \\ here",
                                     .meta = meta,
                                     .n_meta = 1};
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_OK);
    q.esm = must_open(path, VNP_MODEL_ESM2);
    q.dna = must_open(path, VNP_MODEL_DNABERT);
    q.cls = must_open(path, VNP_MODEL_CLASSIFIER);
    check_equal(p.esm, q.esm);
    check_equal(p.dna, q.dna);
    check_equal(p.cls, q.cls);
    assert_string_equal(vnp_checkpoint_note(q.esm), "for \"tests\" only \\ here");
    assert_string_equal(vnp_checkpoint_meta(q.cls, "x.calibration.500"), meta[0].value);
    assert_null(vnp_checkpoint_meta(q.cls, "x.calibration.300"));
    assert_int_equal(vnp_checkpoint_spec(q.cls)->window_bp, 500);
    assert_int_equal(vnp_checkpoint_spec(q.cls)->n_dna, 192);
    assert_int_equal(vnp_checkpoint_spec(q.cls)->n_protein, 128);
    assert_int_equal(vnp_checkpoint_tokenizer(p.dna, &json_a, &n_a), VNP_OK);
    assert_int_equal(vnp_checkpoint_tokenizer(q.dna, &json_b, &n_b), VNP_OK);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(json_a, json_b, n_a);
    /* a bundle of a bundle is the bundle */
    parts.esm2 = q.esm;
    parts.dnabert = q.dna;
    parts.classifier = q.cls;
    assert_int_equal(vnp_bundle_write(again, &parts), VNP_OK);
    check_same_files(path, again);
    close_parts(&p);
    close_parts(&q);
    struct vnp_checkpoint *c;
    assert_int_equal(vnp_checkpoint_open(path, VNP_MODEL_NONE, &c), VNP_MISMATCH);
    unlink(path);
    unlink(again);
}

static void shrunk_to_fp16(void **state) {
    (void)state;
    struct parts p = golden_parts();
    const char *path = scratch("half");
    struct vnp_bundle_parts parts = {
        .esm2 = p.esm, .dnabert = p.dna, .is_fp16 = true, .is_without_lm_head = true};
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_OK);
    struct vnp_checkpoint *c = must_open(path, VNP_MODEL_ESM2);
    assert_false(vnp_checkpoint_spec(c)->has_lm_head);
    assert_int_equal(vnp_checkpoint_spec(c)->dtype, VNP_F16);
    assert_int_equal(vnp_checkpoint_spec(c)->freq_dtype, VNP_F32); /* the source's */
    assert_null(vnp_checkpoint_find(c, "lm.bias"));
    assert_int_equal(vnp_checkpoint_find(c, "final_norm.bias")->dtype, VNP_F32);
    struct vnp_view v, w;
    assert_int_equal(vnp_checkpoint_view(c, &v, "layer.1.attn.v.weight"), VNP_OK);
    assert_int_equal(vnp_checkpoint_view(p.esm, &w, "layer.1.attn.v.weight"), VNP_OK);
    assert_int_equal(v.dtype, VNP_F16);
    for (int64_t i = 0; i < v.rows * v.cols; i++) {
        float x;
        uint16_t h;
        memcpy(&x, (const char *)w.data + 4 * i, 4);
        memcpy(&h, (const char *)v.data + 2 * i, 2);
        assert_int_equal(h, vnp_f32_to_f16(x));
    }
    struct vnp_hash128 digest;
    assert_int_equal(vnp_checkpoint_digest(c, &digest), VNP_OK); /* equals the metadata's */
    vnp_checkpoint_close(c);
    close_parts(&p);
    unlink(path);
}

static void damage_is_found(void **state) {
    (void)state;
    struct parts p = golden_parts();
    const char *path = scratch("damaged");
    struct vnp_bundle_parts parts = {.esm2 = p.esm};
    struct vnp_hash128 digest;
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_OK);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    int byte = fgetc(f);
    assert_int_equal(fseek(f, -5, SEEK_END), 0);
    fputc(byte ^ 1, f);
    assert_int_equal(fclose(f), 0);
    struct vnp_checkpoint *c = must_open(path, VNP_MODEL_NONE);
    assert_int_equal(vnp_checkpoint_digest(c, &digest), VNP_MISMATCH);
    assert_non_null(strstr(vnp_error_last()->text, "damaged"));
    vnp_checkpoint_close(c);
    close_parts(&p);
    unlink(path);
}

static void faults(void **state) {
    (void)state;
    struct parts p = golden_parts();
    struct vnp_checkpoint *other = golden("esm2/t2_d80_h5/hf");
    const char *path = scratch("fault");
    struct vnp_bundle_parts parts = {.esm2 = p.esm};
    assert_int_equal(vnp_bundle_write("/nonexistent/folder/b.safetensors", &parts), VNP_IO);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_OUTPUT);
    assert_int_equal(vnp_error_last()->os_errno, ENOENT);
    assert_int_equal(vnp_bundle_write("/dev/full/b", &parts), VNP_IO);
    parts = (struct vnp_bundle_parts){.esm2 = other, .dnabert = p.dna, .classifier = p.cls};
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_MISMATCH); /* 192 + 80 != 320 */
    parts = (struct vnp_bundle_parts){.esm2 = p.dna};
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_INVAL);
    parts = (struct vnp_bundle_parts){0};
    assert_int_equal(vnp_bundle_write(path, &parts), VNP_INVAL);
    assert_int_not_equal(access(path, F_OK), 0); /* nothing half-written stays */
    vnp_checkpoint_close(other);
    close_parts(&p);
}

static void bundled_random_model(void **state) {
    (void)state;
    const char *path = VNP_TEST_SOURCE_DIR "/models/virnucpro-random-tiny.safetensors";
    struct stat st;
    unsigned kinds;
    char format[64];
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 3000000);
    assert_int_equal(vnp_model_probe(path, &kinds, format, sizeof format), VNP_OK);
    assert_int_equal(kinds,
                     1u << VNP_MODEL_ESM2 | 1u << VNP_MODEL_DNABERT | 1u << VNP_MODEL_CLASSIFIER);
    assert_string_equal(format, "virnucpro bundle");
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++) {
        struct vnp_checkpoint *c = must_open(path, (enum vnp_model_kind)k);
        struct vnp_hash128 digest;
        assert_int_equal(vnp_checkpoint_digest(c, &digest), VNP_OK);
        assert_string_equal(vnp_checkpoint_note(c), "random weights: the calls mean nothing");
        vnp_checkpoint_close(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),           cmocka_unit_test(shrunk_to_fp16),
        cmocka_unit_test(damage_is_found),      cmocka_unit_test(faults),
        cmocka_unit_test(bundled_random_model),
    };
    return cmocka_run_group_tests_name("bundle", tests, NULL, NULL);
}
