// SPDX-License-Identifier: MIT
// What --precision auto makes of a validation's verdict: the fastest that has passed, the default
// where nothing is much faster, FP32 where the default has failed and nothing else has passed.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api_internal.h"
#include "base/base.h"
#include "support.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char dir[1024], verdict[2048]; /* scratch; the verdict's file */

static void ignore_row(void *ctx, const vnp_bench_row *row) {
    (void)ctx, (void)row;
}

/* A model, 1000 short proteins, and the verdict of bf16 as the reference emulates it. */
static int set_up(void **state) {
    char command[8192], model[1100], input[1100], folder[1100];
    (void)state;
    snprintf(dir, sizeof dir, "%s/scratch/verdict_%d", VNP_TEST_BINARY_DIR, (int)getpid());
    snprintf(
        command, sizeof command,
        "rm -rf '%s' && mkdir -p '%s' && %s/tools/make-random-model esm2-hf '%s/m' --esm 1,16,1",
        dir, dir, VNP_TEST_BINARY_DIR, dir);
    if (system(command) != 0 || setenv("XDG_CACHE_HOME", dir, 1) != 0) return -1;
    snprintf(model, sizeof model, "%s/m", dir);
    snprintf(input, sizeof input, "%s/in.faa", dir);
    FILE *f = fopen(input, "wb");
    for (int i = 0; f && i < 1000; i++) fprintf(f, ">%d\nM%cK%c\n", i, 'A' + i % 20, 'A' + i / 50);
    if (!f || fclose(f) != 0) return -1;
    const char *inputs[] = {input};
    vnp_validate_options o = VNP_VALIDATE_OPTIONS_INIT;
    o.model = model, o.device = "ref", o.precisions = "bf16", o.inputs = inputs, o.n_inputs = 1;
    if (vnp_model_validate(&o, ignore_row, NULL) != VNP_OK) {
        print_message("# %s\n", vnp_last_error());
        return -1;
    }
    snprintf(folder, sizeof folder, "%s/virnucpro/validated", dir);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') snprintf(verdict, sizeof verdict, "%s/%s", folder, e->d_name);
    if (d) closedir(d);
    return verdict[0] ? 0 : -1;
}

/* "" = nothing is known. */
static const char *found(const char *rows, enum vnp_precision usual, char *why, size_t n_why) {
    struct vnp_api_devices d;
    struct vnp_checkpoint *parts[3] = {NULL, NULL, NULL};
    enum vnp_precision out = VNP_PREC_COUNT;
    char model[1100];
    FILE *f = fopen(verdict, "wb");
    assert_non_null(f);
    fprintf(f, "virnucpro validate 1\n%s", rows);
    assert_int_equal(fclose(f), 0);
    snprintf(model, sizeof model, "%s/m", dir);
    assert_int_equal(vnp_checkpoint_open(model, VNP_MODEL_ESM2, &parts[1]), VNP_OK);
    assert_int_equal(vnp_api_devices_choose("ref", NULL, 1, &d), VNP_OK);
    d.precision = usual;
    bool is_known = vnp_api_verdict_find(&d, parts, 3, &out, why, n_why);
    vnp_checkpoint_close(parts[1]);
    return is_known ? vnp_precision_name(out) : "";
}

static void test_choice(void **state) {
    (void)state;
    static const struct {
        const char *rows, *want, *why;
        enum vnp_precision usual;
    } cases[] = {
        {"fp16 1 1000 0 4.0 1e-3 1e-2\nfp8 0 1000 0 7.0 1e-1 1e0\n", "fp16", "at most 1.0e-02",
         VNP_PREC_FP16},
        {"fp16 1 1000 0 4.0 1e-3 1e-2\nfp8 1 1000 0 7.0 1e-2 5e-2\n", "fp8", "7.00 times",
         VNP_PREC_FP16},
        {"fp16 1 1000 0 4.0 1e-3 1e-2\nbf16 1 1000 0 4.2 1e-2 5e-2\n", "fp16", "4.00 times",
         VNP_PREC_FP16},
        {"fp16 0 1000 0 4.0 1e-1 1e0\nbf16 1 1000 0 3.9 1e-2 5e-2\n", "bf16", "3.90 times",
         VNP_PREC_FP16},
        {"fp16 0 1000 0 4.0 1e-1 9e-1\n", "fp32",
         "fp16 has failed validation, centred error of 1000", VNP_PREC_FP16},
        {"fp16 0 1000 0 4.0 1e-1 inf\nbf16 1 1000 0 0.7 1e-2 5e-2\n", "fp32", "fp16 has failed",
         VNP_PREC_FP16},
        {"fp16 1 1000 0 0.6 1e-3 1e-2\n", "fp32", "fp16 is validated", VNP_PREC_FP16},
        {"fp16 1 1000 0 0.9 1e-3 1e-2\n", "fp16", "0.90 times", VNP_PREC_FP16},
        {"fp8 0 1000 0 7.0 1e-1 1e0\n", "", "", VNP_PREC_FP16},
        {"bf16 1 1000 0 1.1 1e-3 1e-2\n", "", "", VNP_PREC_FP32},
        {"bf16 1 1000 0 1.5 1e-3 1e-2\n", "bf16", "1.50 times", VNP_PREC_FP32},
        {"bf16 0 1000 0 1.5 1e-1 1e0\n", "", "", VNP_PREC_FP32},
        {"bf16 nonsense\n", "", "", VNP_PREC_FP16},
        {"", "", "", VNP_PREC_FP16},
    };
    for (size_t i = 0; i < VNP_COUNT(cases); i++) {
        char why[256] = "";
        const char *got = found(cases[i].rows, cases[i].usual, why, sizeof why);
        if (strcmp(got, cases[i].want) != 0 || !strstr(why, cases[i].why))
            fail_msg("case %zu: '%s', because '%s'", i, got, why);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choice)};
    return cmocka_run_group_tests(tests, set_up, NULL);
}
