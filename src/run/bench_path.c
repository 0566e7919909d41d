// SPDX-License-Identifier: MIT
// The whole engine as predict runs it (reading, windows, frames, tokens, dedup, packing, dispatch,
// joining, run database), with a device that answers every pack at once and a classifier that
// gives a half: what the host can feed.
#include "run/bench.h"
#include "run/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Columns of DNABERT-S and of ESM-2 3B. */
enum { DNA_COLS = 768, PROTEIN_COLS = 2560, N_SLOTS = 2 };

static vnp_status instant_open(void *ctx, const struct run_patience *patience, void **worker) {
    (void)patience;
    float *zeros = calloc((size_t)RUN_BENCH_MAX_SEQS * PROTEIN_COLS, sizeof *zeros);
    (void)ctx;
    *worker = zeros;
    return zeros ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "stand-in");
}

static int instant_slots(void *worker) {
    (void)worker;
    return N_SLOTS;
}

static vnp_status instant_submit(void *worker, int slot, const struct run_pack *p) {
    (void)worker;
    (void)slot;
    (void)p;
    return VNP_OK;
}

static vnp_status instant_wait(void *worker, int slot, const struct run_patience *patience,
                               const float **out) {
    (void)slot;
    (void)patience;
    *out = worker;
    return VNP_OK;
}

static const struct run_worker_ops instant_ops = {.kind = "stand-in",
                                                  .open = instant_open,
                                                  .close = free,
                                                  .n_slots = instant_slots,
                                                  .submit = instant_submit,
                                                  .wait = instant_wait};

static vnp_status half(void *ctx, const float *z, int64_t n, float *scores) {
    (void)ctx;
    (void)z;
    for (int64_t i = 0; i < 2 * n; i++) scores[i] = 0.5f;
    return VNP_OK;
}

static void plan(struct run_engine *e, struct run_device *device, int64_t window, int n_threads) {
    *device = (struct run_device){.ops = &instant_ops, .name = "stand-in:0"};
    e->window_bp = window;
    e->block_windows = 256;
    e->block_bases = 1 << 20;
    e->uses[ENC_DNA] = e->uses[ENC_PROTEIN] = true;
    e->n_cols[ENC_DNA] = e->off_col[ENC_PROTEIN] = DNA_COLS;
    e->n_cols[ENC_PROTEIN] = PROTEIN_COLS;
    e->n_row_cols = DNA_COLS + PROTEIN_COLS;
    e->classify = half;
    e->devices = device;
    e->n_devices = 1;
    e->n_prep = n_threads;
    e->n_blocks = 144;
    e->budget_tokens = RUN_BENCH_BUDGET;
    e->max_seqs = RUN_BENCH_MAX_SEQS;
}

static vnp_status run(struct run_engine *e, const char *db) {
    static const struct vnp_ledger_fact fact = {.key = "command", .value = "bench host"};
    struct vnp_ledger_options opt = {.path = db, .facts = &fact, .n_facts = 1};
    VNP_TRY(vnp_ledger_open(&opt, &e->ledger));
    vnp_status status = vnp_run_engine_run(e);
    vnp_ledger_close(e->ledger);
    return status;
}

vnp_status vnp_run_bench_path(const struct run_bench_path *p, vnp_run_bench_fn *fn, void *ctx) {
    char db[4200], name[64];
    struct run_device device;
    const struct vnp_run_bench_options *opt = p->opt;
    int n_threads = opt->n_threads > 0 ? opt->n_threads : VNP_MIN(8, vnp_cpu_count());
    struct vnp_run_options o = {.inputs = p->inputs, .n_inputs = p->n_inputs, .out = p->dir};
    struct run_engine e = {.opt = &o, .bpe = p->bpe};
    plan(&e, &device, opt->window_bp > 0 ? opt->window_bp : 500, n_threads);
    snprintf(db, sizeof db, "%s/run.db", p->dir);
    double wall = vnp_now_s(), cpu = vnp_run_bench_cpu_s();
    vnp_status status = run(&e, db);
    wall = vnp_now_s() - wall;
    cpu = vnp_run_bench_cpu_s() - cpu;
    unlink(db);
    VNP_TRY(status);
    double n_tokens = (double)atomic_load(&e.n_tokens), n_capacity = (double)e.dispatch.n_capacity;
    snprintf(name, sizeof name, "%d thread%s prepare", n_threads, n_threads == 1 ? "" : "s");
    const struct vnp_run_bench_cell cells[] = {
        {"mb_per_s", "MB/s", p->n_bytes * 1e-6 / wall},
        {"million_tokens_per_s", "M tokens/s", n_tokens * 1e-6 / wall},
        {"million_tokens_per_cpu_s", "M tokens/CPU s", n_tokens * 1e-6 / cpu},
        {"fill_percent", "fill %", n_capacity > 0 ? 100 * n_tokens / n_capacity : 0.0},
        {"packs", "packs", (double)e.dispatch.n_packs},
        {"wall_s", "wall s", wall},
        {"cpu_s", "CPU s", cpu}};
    struct vnp_run_bench_row row = {p->table, name, cells, VNP_COUNT(cells)};
    fn(ctx, &row);
    return VNP_OK;
}
