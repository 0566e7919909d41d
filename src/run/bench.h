/* SPDX-License-Identifier: MIT
 * Inside of the run room: what its benches share, also with bench/bench_pack.c, which holds the
 * packing rules that the packer was compared with. */
#ifndef VNP_RUN_BENCH_H
#define VNP_RUN_BENCH_H

#include "run/run.h"
#include "tok/tok.h"

enum {
    RUN_BENCH_BUDGET = 16896, /* tokens of a pack on a large device */
    RUN_BENCH_MAX_SEQS = 2113,
    RUN_BENCH_N_LENGTHS = 3 /* reads, windows, proteome */
};

/* Of all packs but those left at the end of the input. */
struct run_bench_fill {
    int64_t n_packs, n_tokens, n_capacity;
    double spread; /* sum over packs of (longest - shortest) / longest */
};
/* Packs n lengths in the order given. */
typedef vnp_status run_bench_rule(const int32_t *len, int64_t n, struct run_bench_fill *r);

extern const char *const vnp_run_bench_length_names[RUN_BENCH_N_LENGTHS];
/* Seeded random lengths of a kind, the same in every run. */
void vnp_run_bench_lengths(int kind, int32_t *len, int64_t n);
void vnp_run_bench_fill_add(struct run_bench_fill *r, int64_t n_tokens, int64_t min, int64_t max);
/* The packer itself as a rule. */
vnp_status vnp_run_bench_packer(const int32_t *len, int64_t n, struct run_bench_fill *r);
/* Runs a rule three times and gives one row. */
vnp_status vnp_run_bench_rule_measure(const char *table, const char *name, run_bench_rule *rule,
                                      const int32_t *len, int64_t n, vnp_run_bench_fn *fn,
                                      void *ctx) VNP_WARN_UNUSED;

/* Processor time of this process: what one core needs, whoever else is on the machine. */
double vnp_run_bench_cpu_s(void);
uint64_t vnp_run_bench_random(uint64_t *state);

/* bench_path.c: files through the whole engine, a stand-in for the encoders; one row. */
struct run_bench_path {
    const struct vnp_run_bench_options *opt;
    const char *table, *dir; /* dir: for the run database */
    const char *const *inputs;
    size_t n_inputs;
    double n_bytes;
    const struct vnp_bpe *bpe;
};
vnp_status vnp_run_bench_path(const struct run_bench_path *p, vnp_run_bench_fn *fn,
                              void *ctx) VNP_WARN_UNUSED;

#endif
