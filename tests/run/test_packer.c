// SPDX-License-Identifier: MIT
// The packer: every sequence in exactly one pack, whatever the lengths, the look-ahead and the
// order; over-long ones alone; budgets kept; nothing held for ever; fill of the budget.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run/packer.h"
#include "support.h"

struct sim {
    struct vnp_packer *p;
    struct vnp_packer_options opt;
    struct vnp_packed pack;
    int32_t *len;   /* of each pushed sequence */
    uint8_t *times; /* how often it came back */
    int64_t n, n_out, n_packs, n_tokens, n_capacity;
    int64_t max_delay; /* packs between a sequence's push and its pack, at most */
    int64_t *pushed_at;
};

static void sim_open(struct sim *s, int64_t budget, int64_t max_seqs, int64_t lookahead,
                     int64_t n) {
    *s = (struct sim){.opt = {budget, max_seqs, lookahead}};
    assert_int_equal(vnp_packer_create(&s->opt, &s->p), VNP_OK);
    s->pack.tags = malloc((size_t)max_seqs * sizeof(uint64_t));
    s->len = calloc((size_t)n + 1, sizeof *s->len);
    s->times = calloc((size_t)n + 1, 1);
    s->pushed_at = calloc((size_t)n + 1, sizeof *s->pushed_at);
}

static void sim_close(struct sim *s) {
    assert_int_equal(vnp_packer_n_seqs(s->p), 0);
    assert_int_equal(vnp_packer_n_tokens(s->p), 0);
    assert_int_equal(s->n_out, s->n);
    for (int64_t i = 0; i < s->n; i++) assert_int_equal(s->times[i], 1);
    vnp_packer_destroy(s->p);
    free(s->pack.tags);
    free(s->len);
    free(s->times);
    free(s->pushed_at);
}

static void sim_pop(struct sim *s, bool is_last) {
    assert_true(vnp_packer_pop(s->p, &s->pack));
    int64_t n_tokens = 0, max_len = 0;
    assert_true(s->pack.n_seqs >= 1 && s->pack.n_seqs <= s->opt.max_seqs);
    for (int64_t i = 0; i < s->pack.n_seqs; i++) {
        int64_t k = (int64_t)s->pack.tags[i];
        assert_true(k >= 0 && k < s->n);
        s->times[k]++;
        n_tokens += s->len[k];
        max_len = s->len[k] > max_len ? s->len[k] : max_len;
        int64_t delay = s->n_packs - s->pushed_at[k];
        if (delay > s->max_delay) s->max_delay = delay;
    }
    assert_int_equal(n_tokens, s->pack.n_tokens);
    assert_int_equal(max_len, s->pack.max_len);
    if (n_tokens > s->opt.budget_tokens) assert_int_equal(s->pack.n_seqs, 1);
    s->n_out += s->pack.n_seqs;
    s->n_packs++;
    if (is_last || n_tokens > s->opt.budget_tokens) return;
    s->n_tokens += n_tokens;
    s->n_capacity += s->opt.budget_tokens;
}

static void sim_push(struct sim *s, int64_t len) {
    s->len[s->n] = (int32_t)len;
    s->pushed_at[s->n] = s->n_packs;
    assert_int_equal(vnp_packer_push(s->p, len, (uint64_t)s->n++), VNP_OK);
    while (vnp_packer_is_ready(s->p)) sim_pop(s, false);
}

static void sim_flush(struct sim *s) {
    while (vnp_packer_n_seqs(s->p) > 0)
        sim_pop(s, vnp_packer_n_tokens(s->p) < s->opt.budget_tokens);
}

static void test_exactly_once(void **state) {
    (void)state;
    uint64_t seed = 7;
    static const int64_t budgets[] = {1, 2, 63, 64, 65, 100, 4096, 16896, 70000};
    static const int64_t looks[] = {0, 1, 3, 1000, 1000000};
    static const int64_t max_lens[] = {1, 3, 64, 1000, 60000};
    for (size_t b = 0; b < VNP_COUNT(budgets); b++)
        for (size_t l = 0; l < VNP_COUNT(looks); l++)
            for (size_t m = 0; m < VNP_COUNT(max_lens); m++) {
                struct sim s;
                int64_t n = (int64_t)(support_random(&seed) % 700);
                sim_open(&s, budgets[b], 1 + (int64_t)(support_random(&seed) % 600), looks[l], n);
                for (int64_t i = 0; i < n; i++)
                    sim_push(&s, 1 + (int64_t)(support_random(&seed) % (uint64_t)max_lens[m]));
                sim_flush(&s);
                sim_close(&s);
            }
}

static void test_every_length(void **state) {
    (void)state;
    for (int is_down = 0; is_down < 2; is_down++) {
        struct sim s;
        sim_open(&s, 16896, 2113, 0, 60000);
        for (int64_t i = 1; i <= 60000; i++) sim_push(&s, is_down ? 60001 - i : i);
        sim_flush(&s);
        sim_close(&s);
    }
}

static void test_empty_and_wrong(void **state) {
    (void)state;
    struct sim s;
    sim_open(&s, 100, 10, 0, 0);
    assert_false(vnp_packer_is_ready(s.p));
    assert_false(vnp_packer_pop(s.p, &s.pack));
    assert_int_equal(vnp_packer_push(s.p, 0, 1), VNP_INVAL);
    assert_int_equal(vnp_packer_push(s.p, -5, 1), VNP_INVAL);
    sim_close(&s);
    struct vnp_packer *p;
    struct vnp_packer_options opt = {.budget_tokens = 0, .max_seqs = 1};
    assert_int_equal(vnp_packer_create(&opt, &p), VNP_INVAL);
    assert_null(p);
}

enum kind { READS, WINDOWS, PROTEOME };

static int64_t draw(enum kind kind, uint64_t *seed) {
    uint64_t r = support_random(seed);
    if (kind == READS) return r % 3 ? 51 : 52;         /* 150 bp: 50 or 49 residues + 2 */
    if (kind == WINDOWS) return r % 6 < 4 ? 168 : 167; /* 500 bp: 166, 166, 165 residues + 2 */
    double a = (double)(r >> 11) * 0x1p-53, b = (double)(support_random(seed) >> 11) * 0x1p-53;
    double x = exp(5.6 + 0.65 * sqrt(-2 * log(a + 1e-300)) * cos(6.283185307179586 * b));
    return 2 + (int64_t)(x < 30 ? 30 : x > 1000 ? 1000 : x); /* log-normal, median 270 */
}

static void test_fill(void **state) {
    (void)state;
    static const char *const names[] = {"reads", "windows", "proteome"};
    for (int kind = READS; kind <= PROTEOME; kind++) {
        struct sim s;
        uint64_t seed = 11;
        int64_t n = kind == READS ? 200000 : 50000;
        sim_open(&s, 16896, 2113, 0, n);
        for (int64_t i = 0; i < n; i++) sim_push(&s, draw((enum kind)kind, &seed));
        sim_flush(&s);
        double fill = (double)s.n_tokens / (double)s.n_capacity;
        print_message("# %s: fill %.3f %%, longest wait %lld packs\n", names[kind], 100 * fill,
                      (long long)s.max_delay);
        assert_true(fill >= 0.995);
        assert_true(s.max_delay <= 64); /* nothing waits for ever */
        sim_close(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_once),
        cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_empty_and_wrong),
        cmocka_unit_test(test_fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
