// SPDX-License-Identifier: MIT
// translate as a whole: the golden runs' three files byte by byte, counts, odd records, and
// failures that leave no file behind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "out/out.h"
#include "run/run.h"
#include "support.h"

#define OUT VNP_TEST_BINARY_DIR "/test_run_translate"
static const char *const names[3] = {"chunked.fa", "nucleotide.fa", "protein.faa"};

static void remove_out(void) {
    for (int i = 0; i < 3; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", OUT "/deep", names[i]);
        unlink(path);
    }
    rmdir(OUT "/deep");
    rmdir(OUT);
}

static vnp_status translate(const char *input, int64_t window, struct vnp_run_counts *counts) {
    struct vnp_run_options opt = {
        .inputs = &input, .n_inputs = 1, .out = OUT "/deep", .window_bp = window};
    return vnp_run_translate(&opt, counts);
}

static char *read_out(int i, size_t *n) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", OUT "/deep", names[i]);
    return support_read_file(path, n);
}

static void golden(const char *name, int64_t window) {
    char path[4400];
    struct vnp_run_counts counts;
    snprintf(path, sizeof path, "%s/pipeline/%s/input.fa", support_goldens(), name);
    assert_int_equal(translate(path, window, &counts), VNP_OK);
    int64_t n_headers[3] = {0};
    for (int i = 0; i < 3; i++) {
        size_t n, n_want;
        snprintf(path, sizeof path, "%s/pipeline/%s/%s", support_goldens(), name, names[i]);
        char *want = support_read_file(path, &n_want), *got = read_out(i, &n);
        if (n != n_want || memcmp(got, want, n) != 0) fail_msg("%s differs", path);
        for (size_t k = 0; k < n; k++) n_headers[i] += got[k] == '>';
        free(want);
        free(got);
    }
    assert_int_equal(counts.n_windows, n_headers[0]);
    assert_int_equal(counts.n_frames, n_headers[1]);
    assert_int_equal(counts.n_frames, n_headers[2]);
    assert_true(counts.n_records > 0 && counts.n_windows_scored <= counts.n_windows);
    remove_out();
}

static void test_goldens(void **state) {
    (void)state;
    golden("chunk500", 500);
    golden("chunk300", 300);
}

static void write_input(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void test_odd_records(void **state) {
    (void)state;
    const char *input = VNP_TEST_BINARY_DIR "/test_run_translate.fa";
    struct vnp_run_counts counts;
    size_t n;
    write_input(input, ">none\n>\nGCA\n>t\nTAA\n>n\nNNNNNN\n");
    assert_int_equal(translate(input, 0, &counts), VNP_OK);
    assert_int_equal(counts.n_records, 4);
    assert_int_equal(counts.n_empty, 1);
    assert_int_equal(counts.n_windows, 3);
    assert_int_equal(counts.n_windows_scored, 2);
    char *got = read_out(0, &n);
    assert_string_equal(got, ">_chunk_1\nGCA\n>t_chunk_1\nTAA\n>n_chunk_1\nNNNNNN\n");
    free(got);
    got = read_out(1, &n);
    assert_string_equal(got, ">_chunk_1F1\nGCA\n>_chunk_1R1\nTGC\n>t_chunk_1R1\nTTA\n");
    free(got);
    got = read_out(2, &n);
    assert_string_equal(got, ">_chunk_1F1\nA\n>_chunk_1R1\nC\n>t_chunk_1R1\nL\n");
    free(got);
    /* no record at all: three empty files, and again over those that are there */
    write_input(input, "");
    assert_int_equal(translate(input, 0, &counts), VNP_OK);
    assert_int_equal(counts.n_records, 0);
    for (int i = 0; i < 3; i++) {
        free(read_out(i, &n));
        assert_int_equal(n, 0);
    }
    unlink(input);
    remove_out();
}

struct fault {
    int64_t n_calls, at;
};

static int fault_before(void *ctx, const char *call, const char *path, size_t *n) {
    struct fault *f = ctx;
    (void)path;
    (void)n;
    if (strcmp(call, "unlink") == 0) return 0;
    return ++f->n_calls == f->at ? ENOSPC : 0;
}

static bool is_there(int i) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", OUT "/deep", names[i]);
    return access(path, F_OK) == 0;
}

/* Damage in the input, and every call that writes failing in turn: an error, no stray file, and a
 * file under its name is whole. */
static void test_failures(void **state) {
    (void)state;
    const char *input = VNP_TEST_BINARY_DIR "/test_run_translate.fa";
    struct vnp_run_counts counts;
    write_input(input, ">a\nGCAGCAGCA\n>b\nGCA\x01\n");
    assert_int_equal(translate(input, 0, &counts), VNP_FORMAT);
    for (int i = 0; i < 3; i++) assert_false(is_there(i));
    assert_int_equal(rmdir(OUT "/deep"), 0); /* nothing was left inside */
    write_input(input, ">a\nGCAGCAGCA\n");
    struct fault fault = {0};
    struct vnp_sysio io = {.ctx = &fault, .before = fault_before};
    vnp_sysio_set(&io);
    for (fault.at = 1;; fault.at++) {
        fault.n_calls = 0;
        vnp_status status = translate(input, 0, &counts);
        if (status == VNP_OK) break;
        assert_true(fault.at < 100);
        assert_int_equal(vnp_error_last()->origin, VNP_FROM_OUTPUT);
        assert_int_equal(vnp_error_last()->os_errno, ENOSPC);
        remove_out();
        assert_int_not_equal(access(OUT, F_OK), 0); /* no temporary was left */
    }
    vnp_sysio_set(NULL);
    assert_true(fault.at > 6);
    unlink(input);
    remove_out();
    /* the folder's name is a file's */
    write_input(OUT, "x");
    assert_int_equal(
        translate(VNP_TEST_SOURCE_DIR "/tests/data/bad_input/utf8_mark.fa", 0, &counts), VNP_IO);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_OUTPUT);
    unlink(OUT);
}

static bool cancel(void *ctx, const struct vnp_run_progress *p) {
    (void)ctx;
    return p->n_records < 0;
}

static void test_cancel(void **state) {
    (void)state;
    const char *input = VNP_TEST_BINARY_DIR "/test_run_translate.fa";
    FILE *f = fopen(input, "wb");
    assert_non_null(f);
    for (int i = 0; i < 10; i++) fputs(">a\nGCAGCAGCAGCAGCAGCAGCAGCA\n", f);
    assert_int_equal(fclose(f), 0);
    struct vnp_run_options opt = {
        .inputs = &input, .n_inputs = 1, .out = OUT "/deep", .progress = cancel};
    struct vnp_run_counts counts;
    assert_int_equal(vnp_run_translate(&opt, &counts), VNP_CANCELED);
    for (int i = 0; i < 3; i++) assert_false(is_there(i));
    unlink(input);
    remove_out();
}

/* The last test: the request stays for the life of the process. */
static void test_stop(void **state) {
    (void)state;
    struct vnp_run_counts counts;
    vnp_run_request_stop();
    assert_int_equal(
        translate(VNP_TEST_SOURCE_DIR "/tests/data/bad_input/utf8_mark.fa", 0, &counts),
        VNP_CANCELED);
    for (int i = 0; i < 3; i++) assert_false(is_there(i));
    remove_out();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),  cmocka_unit_test(test_odd_records),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests_name("run translate", tests, NULL, NULL);
}
