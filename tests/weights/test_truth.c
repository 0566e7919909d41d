// SPDX-License-Identifier: MIT
// The built-in facts of the published weights: equal to the goldens, and no wrong vectors pass.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

static const struct {
    enum vnp_model_kind kind;
    const char *file;
    int64_t n_cols;
} sets[] = {{VNP_MODEL_DNABERT, "dnabert_s_8x768_f32le.bin", 768},
            {VNP_MODEL_ESM2, "esm2_3b_8x2560_f32le.bin", 2560}};

static float *load(int i) {
    char path[8192];
    size_t n;
    snprintf(path, sizeof path, "%s/true_weights/%s", support_goldens(), sets[i].file);
    float *v = (float *)(void *)support_read_file(path, &n);
    assert_int_equal(n, 8 * sets[i].n_cols * 4);
    return v;
}

static double error_of(int i, const float *v) {
    double error;
    int worst = -1;
    assert_int_equal(vnp_truth_check(sets[i].kind, v, sets[i].n_cols, &error, &worst), VNP_OK);
    assert_in_range(worst, 0, 7);
    return error;
}

static void truth_passes_and_nothing_else(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t n = sets[i].n_cols;
        float *v = load(i), *w = malloc((size_t)(8 * n) * sizeof *w);
        double e = error_of(i, v);
        print_message("# %s: published %.3g", sets[i].file, e);
        assert_true(e < 1e-5);
        /* two frames exchanged */
        memcpy(w, v, (size_t)(8 * n) * sizeof *w);
        memcpy(w, v + n, (size_t)n * sizeof *w);
        memcpy(w + n, v, (size_t)n * sizeof *w);
        e = error_of(i, w);
        print_message(", exchanged %.3g", e);
        assert_true(e > 0.5);
        /* every frame the mean: what a cosine would pass */
        for (int64_t c = 0; c < n; c++) {
            double mean = 0;
            for (int f = 0; f < 8; f++) mean += (double)v[f * n + c] / 8;
            for (int f = 0; f < 8; f++) w[f * n + c] = (float)mean;
        }
        e = error_of(i, w);
        print_message(", mean %.3g", e);
        assert_true(e > 0.5);
        /* 5 % of the spread as noise on every component */
        uint64_t seed = 7;
        for (int64_t c = 0; c < n; c++) {
            double mean = 0, var = 0;
            for (int f = 0; f < 8; f++) mean += (double)v[f * n + c] / 8;
            for (int f = 0; f < 8; f++) var += pow((double)v[f * n + c] - mean, 2) / 8;
            for (int f = 0; f < 8; f++)
                w[f * n + c] =
                    v[f * n + c] + (float)(0.05 * sqrt(3 * var)) * support_random_f32(&seed);
        }
        e = error_of(i, w);
        print_message(", noise of 5 %% %.3g", e);
        assert_true(e > 0.02 && e < 0.15);
        /* one unsampled stretch zeroed: the signed sums see it */
        memcpy(w, v, (size_t)(8 * n) * sizeof *w);
        for (int f = 0; f < 8; f++) memset(w + f * n + n - 40, 0, 40 * sizeof *w);
        e = error_of(i, w);
        print_message(", tail zeroed %.3g\n", e);
        assert_true(e > 0.02);
        w[3] = NAN;
        assert_true(isnan(error_of(i, w)));
        free(v);
        free(w);
    }
}

static void facts_are_the_goldens(void **state) {
    (void)state;
    char path[8192];
    double error;
    int worst;
    snprintf(path, sizeof path, "%s/true_weights/index.tsv", support_goldens());
    char *text = support_read_file(path, NULL), *save = NULL;
    char *line = strtok_r(text, "\n", &save);
    int n = 0;
    while ((line = strtok_r(NULL, "\n", &save))) {
        const struct vnp_truth_frame *f = vnp_truth_at(n++);
        char want[4096];
        assert_non_null(f);
        snprintf(want, sizeof want, "%d\t%s\t%s\t%s\t%s\t", n - 1, f->id, f->nucleotide, f->protein,
                 f->is_virus ? "virus" : "others");
        assert_memory_equal(line, want, strlen(want));
        char *scores = line + strlen(want);
        assert_true(strtof(scores, &scores) == f->score1);
        assert_true(strtof(scores, &scores) == f->score2);
    }
    assert_int_equal(n, vnp_truth_count());
    assert_null(vnp_truth_at(n));
    free(text);
    assert_int_equal(vnp_truth_check(VNP_MODEL_ESM2, NULL, 128, &error, &worst), VNP_UNSUPPORTED);
    assert_int_equal(vnp_truth_check(VNP_MODEL_CLASSIFIER, NULL, 768, &error, &worst),
                     VNP_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truth_passes_and_nothing_else),
        cmocka_unit_test(facts_are_the_goldens),
    };
    return cmocka_run_group_tests_name("truth", tests, NULL, NULL);
}
