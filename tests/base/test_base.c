// SPDX-License-Identifier: MIT
// base: error record, sizes, hash, thread pool.
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_error_keeps_first_place(void **state) {
    (void)state;
    char text[512];
    assert_int_equal(vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "bad %s", "byte"), VNP_FORMAT);
    vnp_error_at("a.fa", 3, -1, NULL);
    vnp_error_at("b.fa", 9, 77, "seq1");
    vnp_error_hint("look at line %d", 3);
    vnp_error_format(vnp_error_last(), text, sizeof text);
    assert_string_equal(text, "a.fa: line 3, byte 77, record 'seq1': bad byte; look at line 3");
    vnp_error_format(vnp_error_last(), text, 8);
    assert_string_equal(text, "a.fa: l");
}

static void test_status_names(void **state) {
    (void)state;
    assert_string_equal(vnp_status_name(VNP_BUG), "VNP_BUG");
    assert_string_equal(vnp_status_text((vnp_status)-99), "unknown status");
}

static void test_hash_is_xxh3(void **state) {
    (void)state;
    char hex[33];
    vnp_hash_hex(vnp_hash("", 0), hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f"); /* XXH3_128bits of nothing */
}

/* Values count, what stands in strings does not, quoted quotes included. */
static void test_json_is_modest(void **state) {
    (void)state;
    static const char head[] = "[\"a,b\\\",[[\"";
    enum { MOST = 1 << 21 };
    size_t n_head = sizeof head - 1, n = n_head + MOST;
    char *text = malloc(n);
    memset(text, ',', n);
    memcpy(text, head, n_head);
    assert_true(vnp_json_is_modest(text, n - 1));
    assert_false(vnp_json_is_modest(text, n));
    memset(text + n_head, '1', MOST);
    assert_true(vnp_json_is_modest(text, n));
    assert_true(vnp_json_is_modest("", 0));
    free(text);
}

struct count {
    int64_t n_tasks;
    int *seen;
};
static void count_task(void *ctx, int64_t task, int thread) {
    struct count *c = ctx;
    (void)thread;
    c->seen[task]++;
}

static void test_pool_runs_each_task_once(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 5; n_threads++) {
        struct vnp_pool *pool;
        assert_int_equal(vnp_pool_create(n_threads, &pool), VNP_OK);
        for (int64_t n = 0; n < 300; n = n * 2 + 1) {
            struct count c = {.n_tasks = n, .seen = calloc((size_t)n + 1, sizeof(int))};
            vnp_pool_run(pool, n, count_task, &c);
            for (int64_t i = 0; i < n; i++) assert_int_equal(c.seen[i], 1);
            assert_int_equal(c.seen[n], 0);
            free(c.seen);
        }
        vnp_pool_destroy(pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_keeps_first_place),
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_hash_is_xxh3),
        cmocka_unit_test(test_json_is_modest),
        cmocka_unit_test(test_pool_runs_each_task_once),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
