// SPDX-License-Identifier: MIT
// run: evaluate. Measures against answers worked out by hand and against a slow obvious reference.
#include "run/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "support.h"

static char dir[] = "/tmp/vnp_evaluate_XXXXXX";

static void put(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static const char *at(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

#define CONTIGS_HEAD                                                                               \
    "seq_id\tlength\tn_windows\tn_scored\tn_frames\tn_virus\tvirus_score\tcall\tstatus\treason\n"

/* Two virus (0.9, 0.4), two other (0.4, 0.1): of the 4 pairs 3 are right and one ties. */
static void test_hand_worked(void **state) {
    (void)state;
    char *text;
    put("truth.tsv", "id\tclass\tgroup\nv1\tvirus\tphage\nv2\tvirus\trna\no1\tother\thuman\n"
                     "o2\tother\thuman\nlost\tvirus\trna\nu\tother\thuman\n");
    put("contigs.tsv", CONTIGS_HEAD "v1\t600\t2\t1\t1\t1\t0.9\tvirus\tok\t\n"
                                    "v2\t500\t1\t1\t1\t0\t0.4\tother\tok\t\n"
                                    "o1\t500\t1\t1\t2\t0\t0.4\tother\tok\t\n"
                                    "o2\t500\t1\t1\t1\t0\t0.1\tother\tok\t\n"
                                    "u\t500\t1\t0\t0\t0\tnan\tunscored\tno_orf\t\n"
                                    "stranger\t500\t1\t1\t1\t1\t0.8\tvirus\tok\t\n");
    put("prediction_results.txt", "Sequence_ID\tPrediction\tscore1\tscore2\n"
                                  "v1_chunk_1F1\tvirus\t0.1\t0.9\n"
                                  "v2_chunk_1F2\tothers\t0.6\t0.4\n"
                                  "o1_chunk_1F1\tothers\t0.8\t0.2\n"
                                  "o1_chunk_1R3\tothers\t0.6\t0.4\n"
                                  "o2_chunk_1F1\tothers\t0.9\t0.1\n"
                                  "stranger_chunk_1F1\tvirus\t0.2\t0.8\n");
    assert_int_equal(vnp_run_evaluate(at("truth.tsv"), dir, &text), VNP_OK);
    assert_non_null(strstr(text, "4 scored, 1 without an open frame, 1 not in this run; records "
                                 "without a truth: 1\n"));
    /* auroc (1 + 1 + 0.5 + 1) / 4; auprc (1 * 1 + 1 * 2/3) / 2; f1 2 / 3; brier by hand */
    assert_non_null(strstr(text, "window\tall\t4\t2\t0.8750\t0.8333\t0.6667\t1.0000\t0.5000\t0."
                                 "7500\t0.1350\n"));
    assert_non_null(strstr(text, "record\tall\t4\t2\t0.8750\t0.8333\t0.6667"));
    assert_non_null(strstr(text, "record\tphage\t3\t1\t1.0000"));
    assert_non_null(strstr(text, "record\thuman\t4\t2\t0.8750"));
    free(text);
}

/* Three windows of 0.8 outweigh one of 0.9 and one of 0.95 with a doubt, though their mean does
 * not; p = 64/65, 0.9, 19/(19 + 9), 0.3: brier by hand. */
static void test_evidence(void **state) {
    (void)state;
    char *text;
    put("truth.tsv", "a\tvirus\nb\tother\nc\tvirus\nd\tother\n");
    put("contigs.tsv", CONTIGS_HEAD "a\t1500\t3\t3\t3\t3\t0.8\tvirus\tok\t\n"
                                    "b\t500\t1\t1\t1\t1\t0.9\tvirus\tok\t\n"
                                    "c\t1000\t2\t2\t2\t1\t0.525\tother\tok\t\n"
                                    "d\t500\t1\t1\t1\t0\t0.3\tother\tok\t\n");
    put("prediction_results.txt", "Sequence_ID\tPrediction\tscore1\tscore2\n"
                                  "a_chunk_1F1\tvirus\t0.2\t0.8\n"
                                  "a_chunk_2F1\tvirus\t0.2\t0.8\n"
                                  "a_chunk_2F2\tothers\t0.7\t0.3\n"
                                  "a_chunk_3F1\tvirus\t0.2\t0.8\n"
                                  "b_chunk_1F1\tvirus\t0.1\t0.9\n"
                                  "c_chunk_1F1\tvirus\t0.05\t0.95\n"
                                  "c_chunk_2F1\tothers\t0.9\t0.1\n"
                                  "d_chunk_1F1\tothers\t0.7\t0.3\n");
    assert_int_equal(vnp_run_evaluate(at("truth.tsv"), dir, &text), VNP_OK);
    assert_non_null(strstr(text, "record\tall\t4\t2\t0.5000\t"));
    /* auroc 3 of 4; auprc (1 + 2/3) / 2; calls a, b, c; brier mean of 1/65^2, .81, (9/28)^2, .09 */
    assert_non_null(strstr(text, "evidence\tall\t4\t2\t0.7500\t0.8333\t0.8000\t0.6667\t1.0000\t"
                                 "0.7500\t0.2509\n"));
    free(text);
}

/* Many random scores with ties: AUROC by comparing every pair. */
static void test_against_all_pairs(void **state) {
    (void)state;
    uint64_t seed = 12;
    enum { N = 400 };
    int score[N], is_virus[N];
    double right = 0, pairs = 0;
    char *truth = calloc(N, 32), *contigs = calloc(N + 2, 96), *text;
    strcpy(contigs, CONTIGS_HEAD);
    char *t = truth, *c = contigs + strlen(contigs);
    for (int i = 0; i < N; i++) {
        score[i] = (int)(support_random(&seed) % 50);
        is_virus[i] = (int)(support_random(&seed) % 100) < 30 + score[i];
        t += sprintf(t, "r%d\t%d\n", i, is_virus[i]);
        c += sprintf(c, "r%d\t9\t1\t1\t1\t1\t%.2f\tvirus\tok\t\n", i, score[i] / 50.0);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            if (is_virus[i] && !is_virus[j]) {
                pairs++;
                right += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
            }
    put("truth.tsv", truth);
    put("contigs.tsv", contigs);
    put("prediction_results.txt", "Sequence_ID\tPrediction\tscore1\tscore2\n");
    assert_int_equal(vnp_run_evaluate(at("truth.tsv"), dir, &text), VNP_OK);
    char want[64];
    int n_virus = 0;
    for (int i = 0; i < N; i++) n_virus += is_virus[i];
    snprintf(want, sizeof want, "record\tall\t%d\t%d\t%.4f\t", N, n_virus, right / pairs);
    assert_non_null(strstr(text, want));
    free(text);
    free(truth);
    free(contigs);
}

static void expect_error(const char *truth, vnp_status status, const char *fragment) {
    char *text = NULL, message[4096];
    put("truth.tsv", truth);
    assert_int_equal(vnp_run_evaluate(at("truth.tsv"), dir, &text), status);
    assert_null(text);
    vnp_error_format(vnp_error_last(), message, sizeof message);
    if (!strstr(message, fragment)) fail_msg("'%s' lacks '%s'", message, fragment);
}

static void test_bad_truth(void **state) {
    (void)state;
    char *text;
    expect_error("a\tvirus\nb\tmaybe\n", VNP_FORMAT, "line 2: class 'maybe'");
    expect_error("a\tvirus\nb\n", VNP_FORMAT, "line 2: a truth table has two columns");
    expect_error("a\tvirus\na\tother\n", VNP_FORMAT, "record 'a': the id stands twice");
    expect_error("", VNP_FORMAT, "is empty");
    assert_int_equal(vnp_run_evaluate(at("none.tsv"), dir, &text), VNP_IO);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_INPUT);
}

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    remove(at("truth.tsv"));
    remove(at("contigs.tsv"));
    remove(at("prediction_results.txt"));
    return remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hand_worked),
        cmocka_unit_test(test_evidence),
        cmocka_unit_test(test_against_all_pairs),
        cmocka_unit_test(test_bad_truth),
    };
    return cmocka_run_group_tests_name("evaluate", tests, make_dir, drop_dir);
}
