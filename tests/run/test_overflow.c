// SPDX-License-Identifier: MIT
// Sequences that leave FP16's range: found by their vectors, computed again in FP32, counted; the
// others keep their bits, whatever the pack. A backend of fp32 and emulated fp16 stands in for a
// device. What is not finite in FP32 either fails by itself.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_support.h"

#include <math.h>

enum { N_PROTEINS = 60, D = 96 };

static struct vnp_backend half; /* ref, which emulates where a device computes */
static bool is_full;            /* its memory, for FP32 */

static vnp_status open_emulated(const struct vnp_device_options *opt, struct vnp_device **out) {
    struct vnp_device_options o = *opt;
    o.is_emulation = o.precision != VNP_PREC_FP32;
    if (is_full && !o.is_emulation)
        return vnp_fail(VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, "full, to order");
    return vnp_ref_backend()->device_open(&o, out);
}

static void run_tool(const char *fmt, ...) VNP_PRINTF(1, 2);
static void run_tool(const char *fmt, ...) {
    char args[4096], command[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    put(command, sizeof command, "%s/tools/make-random-model %s", VNP_TEST_BINARY_DIR, args);
    if (system(command) != 0) fail_msg("%s", command);
}

/* Every seventh protein has a W. */
static void write_proteins(const char *path) {
    static const char letters[] = "LAGVSERTIDPKQNFYMHC";
    uint64_t seed = 3;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < N_PROTEINS; i++) {
        int len = 5 + (int)(support_random(&seed) % 60);
        fprintf(f, ">p%d\n", i);
        for (int k = 0; k < len; k++) fputc(letters[support_random(&seed) % 19], f);
        if (i % 7 == 3) fputc('W', f);
        fputs("LA\n", f);
    }
    fclose(f);
}

/* Rows of embed's .npy. */
static float *embed(const char *dir, const char *name, struct vnp_checkpoint *c,
                    enum vnp_precision precision, int64_t budget, struct vnp_run_counts *counts) {
    char input[4096], out[4096];
    const char *inputs[] = {input};
    struct vnp_run_device device = {.backend = &half};
    put(input, sizeof input, "%s/in.faa", dir);
    put(out, sizeof out, "%s/%s.npy", dir, name);
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = out,
                                  .devices = &device,
                                  .n_devices = 1,
                                  .precision = precision,
                                  .budget_tokens = budget,
                                  .n_threads = 1,
                                  .embed_model = c,
                                  .pool = VNP_POOL_MEAN,
                                  .layer = -1};
    assert_status(vnp_run_embed(&opt, counts), VNP_OK);
    size_t n;
    char *file = support_read_file(out, &n), *data = file + 10 + (uint8_t)file[8];
    size_t n_bytes = (size_t)N_PROTEINS * D * sizeof(float);
    data += (size_t)(uint8_t)file[9] << 8;
    assert_int_equal(n - (size_t)(data - file), n_bytes);
    memmove(file, data, n_bytes);
    return (float *)(void *)file;
}

static bool is_guilty(int i) {
    return i % 7 == 3;
}

/* The proteins, and an ESM-2 made with these options, in a scratch folder. */
static struct vnp_checkpoint *begin(const char *name, const char *options, char dir[4096]) {
    char path[4096];
    scratch(name, dir, 4096);
    put(path, sizeof path, "%s/in.faa", dir);
    write_proteins(path);
    run_tool("esm2-hf %s/m %s", dir, options);
    put(path, sizeof path, "%s/m", dir);
    return open_model(path, VNP_MODEL_ESM2);
}

static void test_embed(void **state) {
    (void)state;
    char dir[4096];
    struct vnp_run_counts counts;
    struct vnp_checkpoint *c = begin("overflow", "--esm 3,96,3 --overflow yes --dtype fp16", dir);
    float *fp32 = embed(dir, "fp32", c, VNP_PREC_FP32, 300, &counts);
    float *fp16 = embed(dir, "fp16", c, VNP_PREC_FP16, 300, &counts);
    assert_int_equal(counts.n_failed, 0);
    float *other = embed(dir, "other", c, VNP_PREC_FP16, 4000, &counts);
    assert_memory_equal(fp16, other, (size_t)N_PROTEINS * D * sizeof(float));
    int n_same = 0;
    for (int i = 0; i < N_PROTEINS; i++) {
        bool is_same = memcmp(fp16 + i * D, fp32 + i * D, D * sizeof(float)) == 0;
        assert_int_equal(is_same, is_guilty(i));
        n_same += is_same;
    }
    print_message("# %d of %d sequences were computed again\n", n_same, N_PROTEINS);
    free(fp32);
    free(fp16);
    free(other);
    vnp_checkpoint_close(c);
}

/* An embedding of NaN for W: FP32 does not help, those records fail and no other. */
static void test_hopeless(void **state) {
    (void)state;
    char dir[4096];
    struct vnp_run_counts counts;
    struct vnp_checkpoint *c = begin("hopeless", "--esm 2,96,3 --overflow nan", dir);
    static const enum vnp_precision precisions[] = {VNP_PREC_FP16, VNP_PREC_FP32};
    for (int k = 0; k < 2; k++) {
        float *rows = embed(dir, k ? "b" : "a", c, precisions[k], 300, &counts);
        int n_guilty = 0;
        for (int i = 0; i < N_PROTEINS; i++) {
            assert_int_equal(isnan(rows[i * D]), is_guilty(i));
            n_guilty += is_guilty(i);
        }
        assert_int_equal(counts.n_failed, n_guilty);
        free(rows);
    }
    vnp_checkpoint_close(c);
}

/* No memory for a second set of weights: the sequences concerned fail, the others keep theirs. */
static void test_full(void **state) {
    (void)state;
    char dir[4096];
    struct vnp_run_counts counts;
    struct vnp_checkpoint *c = begin("full", "--esm 2,96,3 --overflow yes --dtype fp16", dir);
    float *want = embed(dir, "roomy", c, VNP_PREC_FP16, 300, &counts);
    assert_int_equal(counts.n_failed, 0);
    is_full = true;
    float *got = embed(dir, "full", c, VNP_PREC_FP16, 300, &counts);
    is_full = false;
    int n_guilty = 0;
    for (int i = 0; i < N_PROTEINS; i++) {
        n_guilty += is_guilty(i);
        if (is_guilty(i))
            assert_true(isnan(got[i * D]));
        else
            assert_memory_equal(got + i * D, want + i * D, D * sizeof(float));
    }
    assert_int_equal(counts.n_failed, n_guilty);
    free(want);
    free(got);
    vnp_checkpoint_close(c);
}

static int64_t number_after(const char *text, const char *key) {
    const char *at = strstr(text, key);
    assert_non_null(at);
    return strtoll(at + strlen(key), NULL, 10);
}

/* n contigs with open frames in dir/in.fa; the odd one holds a tryptophan. */
static void write_contigs(const char *dir, int n, int odd, char *path, size_t n_path) {
    put(path, n_path, "%s/in.fa", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < n; i++)
        fprintf(f, ">c%d\n%s%s\n", i, i == odd ? "TGGGCTGCT" : "GCTGCAGCT",
                "GCTGCACTTGAAGCTCGTAGCCTTGACGAAGCTCTTGCAGGTGTTGCTCGTAAAGCTCTTGAAGCACTTGCT");
    fclose(f);
}

static void open_bundle(const char *dir, const char *options, struct models *m) {
    char path[4200];
    run_tool("bundle %s/m.safetensors --window 120 %s", dir, options);
    put(path, sizeof path, "%s/m.safetensors", dir);
    m->esm2 = open_model(path, VNP_MODEL_ESM2);
    m->dnabert = open_model(path, VNP_MODEL_DNABERT);
    m->classifier = open_model(path, VNP_MODEL_CLASSIFIER);
}

/* predict counts them in summary.json. */
static void test_summary(void **state) {
    (void)state;
    char dir[4096], path[4096], input[4096];
    struct models m;
    struct vnp_run_counts counts;
    const char *inputs[] = {input};
    struct vnp_run_device device = {.backend = &half};
    scratch("overflow_predict", dir, sizeof dir);
    write_contigs(dir, 6, 2, input, sizeof input);
    open_bundle(dir, "--overflow yes", &m);
    put(path, sizeof path, "%s/out", dir);
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = path,
                                  .devices = &device,
                                  .n_devices = 1,
                                  .host = vnp_cpu_backend(),
                                  .precision = VNP_PREC_FP16,
                                  .n_threads = 1,
                                  .esm2 = m.esm2,
                                  .dnabert = m.dnabert,
                                  .classifier = m.classifier,
                                  .pool = VNP_POOL_MEAN,
                                  .layer = -1};
    assert_status(vnp_run_predict(&opt, &counts), VNP_OK);
    assert_int_equal(counts.n_failed, 0);
    put(input, sizeof input, "%s/summary.json", path);
    char *text = support_read_file(input, NULL);
    assert_true(number_after(text, "\"rerun_in_fp32\": ") >= 1);
    assert_true(number_after(text, "\"rerun_tokens\": ") >= 20);
    free(text);
    models_close(&m);
}

/* A classifier whose second answer of each call is NaN. */
static vnp_status classify_badly(struct vnp_device *dev, const struct vnp_classifier_params *p,
                                 const float *z, int64_t n_rows, float *out) {
    vnp_status status = vnp_cpu_backend()->classify(dev, p, z, n_rows, out);
    if (n_rows > 1) out[2] = out[3] = NAN;
    return status;
}

/* A frame without a score counts for no class: its record fails, the others keep theirs. */
static void test_classifier(void **state) {
    (void)state;
    char dir[4096], path[4200], input[4200];
    const char *inputs[] = {input};
    struct models m = {0};
    struct vnp_run_counts counts;
    struct vnp_backend host = *vnp_cpu_backend();
    struct vnp_run_device device = {.backend = vnp_cpu_backend()};
    host.classify = classify_badly;
    scratch("overflow_classifier", dir, sizeof dir);
    write_contigs(dir, 3, 1, input, sizeof input);
    open_bundle(dir, "", &m);
    put(path, sizeof path, "%s/out", dir);
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = path,
                                  .devices = &device,
                                  .n_devices = 1,
                                  .host = &host,
                                  .precision = VNP_PREC_FP32,
                                  .n_threads = 1,
                                  .esm2 = m.esm2,
                                  .dnabert = m.dnabert,
                                  .classifier = m.classifier,
                                  .pool = VNP_POOL_MEAN,
                                  .layer = -1};
    assert_status(vnp_run_predict(&opt, &counts), VNP_OK);
    assert_int_equal(counts.n_failed, 1);
    assert_int_equal(counts.n_records, 3);
    put(input, sizeof input, "%s/contigs.tsv", path);
    char *text = support_read_file(input, NULL);
    assert_non_null(strstr(text, "\tfailed\tthe classifier's answer is NaN\n"));
    free(text);
    put(input, sizeof input, "%s/prediction_results.txt", path);
    text = support_read_file(input, NULL);
    int n_lines = 0;
    for (const char *p = text; *p; p++) n_lines += *p == '\n';
    assert_int_equal(n_lines, counts.n_frames); /* the header, and all frames but the failed one */
    free(text);
    models_close(&m);
}

int main(void) {
    half = *vnp_ref_backend();
    half.device_open = open_emulated;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed), cmocka_unit_test(test_hopeless), cmocka_unit_test(test_full),
        cmocka_unit_test(test_summary), cmocka_unit_test(test_classifier)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
