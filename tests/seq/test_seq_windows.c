// SPDX-License-Identifier: MIT
// Windows against the table of spec upstream A.3 and against the original's list-of-overlaps
// procedure, written out plainly, for every length from 1 to 3,000.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "seq/seq.h"
#include "support.h"

/* The procedure in words: a list of overlaps, walked from window to window. */
static int64_t slow_windows(int64_t len, int64_t c, int64_t *starts, int64_t *ends) {
    int64_t n = (len + c - 1) / c, surplus = n * c - len,
            q = (int64_t)((double)surplus / (double)n);
    int64_t need = surplus - q * (n - 1), n_list = 0;
    int64_t *list = calloc((size_t)(n + need + 2), sizeof *list);
    assert_non_null(list);
    for (int64_t i = 0; i < need; i++) list[n_list++] = q + 1;
    for (int64_t i = 0; i < n - 1 - need; i++) list[n_list++] = q;
    list[n_list++] = 0;
    int64_t k = 0, shift = 0;
    for (int64_t at = 0; at < len && k < n_list; at += c, k++) {
        starts[k] = at - shift;
        ends[k] = starts[k] + c < len ? starts[k] + c : len;
        shift += list[k];
    }
    free(list);
    return k;
}

static void check(int64_t len, int64_t c) {
    static int64_t starts[4096], ends[4096];
    struct vnp_windows w;
    int64_t n = slow_windows(len, c, starts, ends);
    assert_int_equal(vnp_windows_init(len, c, &w), VNP_OK);
    if (w.n != n)
        fail_msg("L %lld C %lld: %lld windows, not %lld", (long long)len, (long long)c,
                 (long long)w.n, (long long)n);
    for (int64_t k = 0; k < n; k++) {
        int64_t a, b;
        vnp_windows_at(&w, k, &a, &b);
        if (a != starts[k] || b != ends[k])
            fail_msg("L %lld C %lld k %lld: [%lld,%lld), not [%lld,%lld)", (long long)len,
                     (long long)c, (long long)k, (long long)a, (long long)b, (long long)starts[k],
                     (long long)ends[k]);
        if (a < 0 || b <= a || (k && a > ends[k - 1]))
            fail_msg("L %lld C %lld: a gap", (long long)len, (long long)c);
    }
    assert_int_equal(starts[0], 0);
    assert_int_equal(ends[n - 1], len);
}

static void test_every_length(void **state) {
    (void)state;
    static const int64_t sizes[] = {1,   2,   3,   7,   50,   64,   299, 300,
                                    301, 499, 500, 501, 1000, 2999, 3001};
    for (size_t i = 0; i < VNP_COUNT(sizes); i++)
        for (int64_t len = 1; len <= 3000; len++) check(len, sizes[i]);
}

/* Rows of the table in A.3: starts of the first windows, start and length of the last. */
static void test_table(void **state) {
    (void)state;
    static const struct {
        int64_t c, len, n, starts[4], last_start, last_len;
    } rows[] = {
        {500, 501, 2, {0}, 250, 251},
        {500, 502, 2, {0}, 250, 252},
        {500, 503, 2, {0}, 251, 252},
        {500, 749, 2, {0}, 374, 375},
        {500, 750, 2, {0}, 374, 376},
        {500, 751, 2, {0}, 375, 376},
        {500, 999, 2, {0}, 499, 500},
        {500, 1000, 2, {0}, 500, 500},
        {500, 1001, 3, {0, 333}, 666, 335},
        {500, 1002, 3, {0, 333}, 666, 336},
        {500, 1250, 3, {0, 416}, 832, 418},
        {500, 1499, 3, {0, 499}, 999, 500},
        {500, 1501, 4, {0, 375, 750}, 1125, 376},
        {500, 2001, 5, {0, 400, 800, 1200}, 1600, 401},
        {500, 10001, 21, {0, 476, 952}, 9520, 481},
        {500, 29903, 60, {0, 498, 996}, 29403, 500},
        {300, 301, 2, {0}, 150, 151},
        {300, 302, 2, {0}, 150, 152},
        {300, 499, 2, {0}, 249, 250},
        {300, 500, 2, {0}, 249, 251},
        {300, 501, 2, {0}, 250, 251},
        {300, 750, 3, {0, 249}, 498, 252},
        {300, 1000, 4, {0, 249, 498}, 747, 253},
        {300, 1001, 4, {0, 250, 500}, 750, 251},
        {300, 2000, 7, {0, 285}, 1710, 290},
        {300, 10000, 34, {0, 294}, 9702, 298},
        {500, 1, 1, {0}, 0, 1},
        {500, 500, 1, {0}, 0, 500},
        {1, 3, 3, {0, 1}, 2, 1},
        {500, 44701, 90, {0}, 44201, 500},
    };
    for (size_t i = 0; i < VNP_COUNT(rows); i++) {
        struct vnp_windows w;
        int64_t a, b;
        assert_int_equal(vnp_windows_init(rows[i].len, rows[i].c, &w), VNP_OK);
        assert_int_equal(w.n, rows[i].n);
        for (int k = 0; k < 4 && (k == 0 || rows[i].starts[k]); k++) {
            vnp_windows_at(&w, k, &a, &b);
            assert_int_equal(a, rows[i].starts[k]);
            if (k < w.n - 1) assert_int_equal(b - a, rows[i].c);
        }
        vnp_windows_at(&w, w.n - 1, &a, &b);
        assert_int_equal(a, rows[i].last_start);
        assert_int_equal(b - a, rows[i].last_len);
    }
}

/* "Short last windows still occur up to L = 44,701 (C = 300) and 124,501 (C = 500)." */
static void test_last_short_length(void **state) {
    (void)state;
    static const int64_t rows[2][2] = {{300, 44701}, {500, 124501}};
    for (int i = 0; i < 2; i++) {
        int64_t longest = 0;
        for (int64_t len = rows[i][0] + 1; len <= 2 * rows[i][1]; len++) {
            struct vnp_windows w;
            int64_t a, b;
            assert_int_equal(vnp_windows_init(len, rows[i][0], &w), VNP_OK);
            vnp_windows_at(&w, w.n - 1, &a, &b);
            if (b - a < rows[i][0]) longest = len;
        }
        assert_int_equal(longest, rows[i][1]);
    }
}

static void test_edges(void **state) {
    (void)state;
    struct vnp_windows w;
    int64_t a, b;
    assert_int_equal(vnp_windows_init(0, 500, &w), VNP_OK);
    assert_int_equal(w.n, 0);
    assert_int_equal(vnp_windows_init(10, 0, &w), VNP_INVAL);
    assert_int_equal(vnp_windows_init(10, -1, &w), VNP_INVAL);
    assert_int_equal(vnp_windows_init(-1, 5, &w), VNP_INVAL);
    assert_int_equal(vnp_windows_init(10, INT64_MAX, &w), VNP_INVAL);
    assert_int_equal(vnp_windows_init(INT64_MAX, 500, &w), VNP_INVAL);
    assert_int_equal(vnp_windows_init(3000000007, 500, &w), VNP_OK);
    vnp_windows_at(&w, w.n - 1, &a, &b);
    assert_int_equal(b, 3000000007);
    assert_int_equal(b - a, 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_last_short_length),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests_name("seq windows", tests, NULL, NULL);
}
