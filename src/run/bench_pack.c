// SPDX-License-Identifier: MIT
// bench pack: how full the packer's packs are, how like the lengths in them, and how many sequences
// it takes a second on one core, for three mixes of lengths as they occur.
#include "run/bench.h"
#include "run/packer.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

const char *const vnp_run_bench_length_names[RUN_BENCH_N_LENGTHS] = {
    "reads (51-52)", "windows (167-168)", "proteome (32-1002)"};

double vnp_run_bench_cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t vnp_run_bench_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Tokens of one sequence: frames of reads of 150, of windows of 500, proteins of a proteome. */
static int32_t draw(int kind, uint64_t *seed) {
    uint64_t r = vnp_run_bench_random(seed);
    if (kind == 0) return r % 3 ? 51 : 52;
    if (kind == 1) return r % 6 < 4 ? 168 : 167;
    double a = (double)(r >> 11) * 0x1p-53;
    double b = (double)(vnp_run_bench_random(seed) >> 11) * 0x1p-53;
    double x = exp(5.6 + 0.65 * sqrt(-2 * log(a + 1e-300)) * cos(6.283185307179586 * b));
    return 2 + (int32_t)(x < 30 ? 30 : x > 1000 ? 1000 : x);
}

void vnp_run_bench_lengths(int kind, int32_t *len, int64_t n) {
    uint64_t seed = 1;
    for (int64_t i = 0; i < n; i++) len[i] = draw(kind, &seed);
}

void vnp_run_bench_fill_add(struct run_bench_fill *r, int64_t n_tokens, int64_t min, int64_t max) {
    r->n_packs++;
    r->n_tokens += n_tokens;
    r->n_capacity += RUN_BENCH_BUDGET;
    r->spread += (double)(max - min) / (double)max;
}

static void add_pack(const struct vnp_packed *pack, const int32_t *len, struct run_bench_fill *r) {
    int32_t min = len[pack->tags[0]];
    for (int64_t j = 1; j < pack->n_seqs; j++) min = VNP_MIN(min, len[pack->tags[j]]);
    vnp_run_bench_fill_add(r, pack->n_tokens, min, pack->max_len);
}

vnp_status vnp_run_bench_packer(const int32_t *len, int64_t n, struct run_bench_fill *r) {
    struct vnp_packer_options opt = {.budget_tokens = RUN_BENCH_BUDGET,
                                     .max_seqs = RUN_BENCH_MAX_SEQS};
    struct vnp_packer *p;
    uint64_t tags[RUN_BENCH_MAX_SEQS];
    struct vnp_packed pack = {.tags = tags};
    VNP_TRY(vnp_packer_create(&opt, &p));
    vnp_status status = VNP_OK;
    for (int64_t i = 0; i < n && status == VNP_OK; i++) {
        status = vnp_packer_push(p, len[i], (uint64_t)i);
        while (status == VNP_OK && vnp_packer_is_ready(p) && vnp_packer_pop(p, &pack))
            add_pack(&pack, len, r);
    }
    while (status == VNP_OK && vnp_packer_n_tokens(p) >= RUN_BENCH_BUDGET &&
           vnp_packer_pop(p, &pack))
        add_pack(&pack, len, r);
    vnp_packer_destroy(p);
    return status;
}

vnp_status vnp_run_bench_rule_measure(const char *table, const char *name, run_bench_rule *rule,
                                      const int32_t *len, int64_t n, vnp_run_bench_fn *fn,
                                      void *ctx) {
    struct run_bench_fill r = {0};
    double best = INFINITY;
    for (int i = 0; i < 3; i++) {
        r = (struct run_bench_fill){0};
        double t = vnp_run_bench_cpu_s();
        VNP_TRY(rule(len, n, &r));
        best = VNP_MIN(best, vnp_run_bench_cpu_s() - t);
    }
    double n_packs = (double)VNP_MAX(r.n_packs, 1), capacity = (double)VNP_MAX(r.n_capacity, 1);
    const struct vnp_run_bench_cell cells[] = {
        {"fill_percent", "fill %", 100.0 * (double)r.n_tokens / capacity},
        {"million_sequences_per_s", "M seqs/s", (double)n / best * 1e-6},
        {"million_tokens_per_s", "M tokens/s", (double)r.n_tokens / best * 1e-6},
        {"spread", "spread", r.spread / n_packs},
        {"packs", "packs", (double)r.n_packs}};
    struct vnp_run_bench_row row = {table, name, cells, VNP_COUNT(cells)};
    fn(ctx, &row);
    return VNP_OK;
}

vnp_status vnp_run_bench_pack(const struct vnp_run_bench_options *opt, vnp_run_bench_fn *fn,
                              void *ctx) {
    int64_t n = opt->n_sequences > 0 ? opt->n_sequences : 2000000;
    int32_t *len = malloc((size_t)n * sizeof *len);
    if (!len) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%lld sequences", (long long)n);
    vnp_status status = VNP_OK;
    for (int kind = 0; kind < RUN_BENCH_N_LENGTHS && status == VNP_OK; kind++) {
        vnp_run_bench_lengths(kind, len, n);
        status = vnp_run_bench_rule_measure("packer: budget of 16896 tokens, one core",
                                            vnp_run_bench_length_names[kind], vnp_run_bench_packer,
                                            len, n, fn, ctx);
    }
    free(len);
    return status;
}
