// SPDX-License-Identifier: MIT
// What predict and embed share before and after the engine: facts that make two runs the same run,
// devices and their budget, the ledger, and the identity of the input.
#include "run/engine.h"
#include "out/out.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MIN_BUDGET = 64, MAX_BUDGET = 1 << 20, DEFAULT_BUDGET = 4096, BLOCKS_MIN = 128 };

void vnp_run_setup_fact(struct run_setup *s, const char *key, const char *fmt, ...) {
    VNP_ASSERT(s->n_facts < VNP_COUNT(s->facts));
    struct vnp_ledger_fact *f = &s->facts[s->n_facts++];
    va_list ap;
    f->key = key;
    va_start(ap, fmt);
    vsnprintf(f->value, sizeof f->value, fmt, ap);
    va_end(ap);
}

vnp_status vnp_run_setup_digest(struct run_setup *s, const char *key, struct vnp_checkpoint *c) {
    struct vnp_hash128 h;
    char hex[33];
    VNP_TRY(vnp_checkpoint_digest(c, &h));
    vnp_hash_hex(h, hex);
    vnp_run_setup_fact(s, key, "%s", hex);
    return VNP_OK;
}

static vnp_status check_options(const struct vnp_run_options *opt) {
    int n_shards = VNP_MAX(1, opt->n_shards);
    if (opt->n_inputs < 1 || !opt->inputs || !opt->out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no input or no output");
    if (opt->n_devices < 1) return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "no device to run on");
    for (int i = 0; i < opt->n_devices; i++)
        if (opt->devices[i].is_process && !opt->worker_program)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "worker processes without a program");
    if (opt->shard_idx < 0 || opt->shard_idx >= n_shards)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "shard %d of %d", opt->shard_idx, n_shards);
    return VNP_OK;
}

/* A host backend is asked here; a device's context is made only in the process that may die of
 * it. */
static vnp_status device_info(struct run_setup *s, int i, struct vnp_device_info *out) {
    struct run_process *p = &s->workers[i];
    const struct vnp_backend *b = p->plan.device.backend;
    struct vnp_device_options dev_opt = {.precision = p->plan.precision,
                                         .idx_device = b->is_host ? 0 : p->plan.device.idx_device,
                                         .n_threads = 1,
                                         .is_emulation = p->plan.device.is_emulation};
    struct vnp_device *dev;
    if (p->plan.device.is_process && !b->is_host) {
        struct run_patience patience = {.limit_s = s->opt->start_s > 0 ? s->opt->start_s : 1800};
        return vnp_run_process_info(p, &patience, out);
    }
    VNP_TRY(b->device_open(&dev_opt, &dev));
    vnp_status status = b->device_info(dev, out);
    b->device_close(dev);
    return status;
}

struct question {
    struct run_setup *s;
    int idx;
    struct vnp_device_info info;
    vnp_status status;
    struct vnp_error error;
    pthread_t thread;
    bool has_thread;
};

static void *ask_device(void *question) {
    struct question *q = question;
    q->status = device_info(q->s, q->idx, &q->info);
    if (q->status != VNP_OK) q->error = *vnp_error_last();
    return NULL;
}

/* The least of what the devices suggest, all asked at a time: a context takes a GPU a second. One
 * that does not answer is no reason to stop while others do; its thread will find out. */
static vnp_status ask_budget(struct run_setup *s, int64_t *budget) {
    int n = s->opt->n_devices, n_known = 0;
    struct question *q = calloc((size_t)n, sizeof *q);
    if (!q) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "devices");
    for (int i = 0; i < n; i++) {
        q[i].s = s;
        q[i].idx = i;
        q[i].has_thread = n > 1 && pthread_create(&q[i].thread, NULL, ask_device, &q[i]) == 0;
        if (!q[i].has_thread) ask_device(&q[i]);
    }
    vnp_status status = VNP_OK;
    for (int i = 0; i < n; i++) {
        if (q[i].has_thread) pthread_join(q[i].thread, NULL);
        if (q[i].status != VNP_OK) {
            vnp_error_set(&q[i].error);
            status = q[i].status;
            continue;
        }
        int64_t own = q[i].info.budget_tokens > 0 ? q[i].info.budget_tokens : DEFAULT_BUDGET;
        *budget = n_known++ == 0 ? own : VNP_MIN(*budget, own);
    }
    free(q);
    return n_known > 0 ? VNP_OK : status;
}

static vnp_status find_budget(struct run_setup *s) {
    int64_t budget = s->opt->budget_tokens;
    if (budget < 1) VNP_TRY(ask_budget(s, &budget));
    s->e.budget_tokens = VNP_MAX(MIN_BUDGET, VNP_MIN(MAX_BUDGET, budget));
    s->e.max_seqs = s->e.budget_tokens / 8 + 1;
    return VNP_OK;
}

static void plan_worker(struct run_setup *s, int i, const struct vnp_checkpoint *const *checkpoints,
                        const struct vnp_encoder_want *want) {
    const struct vnp_run_options *opt = s->opt;
    struct run_process *w = &s->workers[i];
    struct run_device *dev = &s->devices[i];
    bool is_process = opt->devices[i].is_process;
    w->program = opt->worker_program;
    w->plan = (struct run_inproc){.device = opt->devices[i],
                                  .precision = opt->precision,
                                  .n_threads = opt->n_threads,
                                  .cache_dir = opt->cache_dir,
                                  .want = *want};
    w->idx_device = (uint32_t)VNP_MAX(0, opt->devices[i].idx_device);
    if (opt->devices[i].backend->is_host) w->plan.device.idx_device = 0; /* the number is a name */
    w->plan.want.is_abandoned = &s->e.is_abandoned;
    for (int enc = 0; enc < N_ENC; enc++) w->plan.checkpoint[enc] = checkpoints[enc];
    dev->ops = is_process ? &vnp_run_process_ops : &vnp_run_inproc_ops;
    dev->ctx = is_process ? (void *)w : (void *)&w->plan;
    snprintf(dev->name, sizeof dev->name, "%s:%d", opt->devices[i].backend->name,
             opt->devices[i].idx_device);
    snprintf(w->name, sizeof w->name, "%s", dev->name);
}

vnp_status vnp_run_setup_workers(struct run_setup *s,
                                 const struct vnp_checkpoint *const *checkpoints,
                                 const struct vnp_encoder_want *want) {
    const struct vnp_run_options *opt = s->opt;
    int n_cpus = opt->n_threads > 0 ? opt->n_threads : vnp_cpu_count();
    VNP_TRY(check_options(opt));
    s->devices = calloc((size_t)opt->n_devices, sizeof *s->devices);
    s->workers = calloc((size_t)opt->n_devices, sizeof *s->workers);
    if (!s->devices || !s->workers) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "devices");
    for (int i = 0; i < opt->n_devices; i++) plan_worker(s, i, checkpoints, want);
    VNP_TRY(find_budget(s));
    for (int i = 0; i < opt->n_devices; i++) {
        s->workers[i].plan.budget_tokens = s->e.budget_tokens;
        s->workers[i].plan.max_seqs = s->e.max_seqs;
    }
    s->e.devices = s->devices;
    s->e.n_devices = opt->n_devices;
    s->e.n_blocks = BLOCKS_MIN + 16 * opt->n_devices;
    s->e.n_prep = VNP_MAX(1, VNP_MIN(8, n_cpus / 2));
    return VNP_OK;
}

static bool is_regular(const char *path) {
    struct stat st;
    return strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* An output without a run database is somebody else's. */
static vnp_status check_output(struct run_setup *s, const char *const *names, size_t n_names) {
    struct stat st;
    if (s->opt->is_forced || stat(s->path_db, &st) == 0) return VNP_OK;
    for (size_t i = 0; i < n_names; i++) {
        if (stat(names[i], &st) != 0) continue;
        vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "the output exists and no run database is with it");
        vnp_error_at(names[i], -1, -1, NULL);
        vnp_error_hint("name another output, or --force to replace it");
        return VNP_MISMATCH;
    }
    return VNP_OK;
}

static vnp_status refuse(vnp_status status, const char *path, const char *hint, const char *text) {
    vnp_fail(status, VNP_FROM_OUTPUT, "%s", text);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("%s", hint);
    return status;
}

vnp_status vnp_run_misfit(const char *path, const char *hint, const char *text) {
    return refuse(VNP_MISMATCH, path, hint, text);
}

vnp_status vnp_run_not_here(const char *path, const char *hint) {
    return refuse(VNP_NOT_FOUND, path, hint, "no run is here");
}

bool vnp_run_is_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool is_input(const struct vnp_run_options *opt, const char *path) {
    for (size_t i = 0; i < opt->n_inputs; i++)
        if (vnp_run_is_same_file(opt->inputs[i], path)) return true;
    return false;
}

void vnp_run_setup_clear(const struct vnp_run_options *opt, const char *output) {
    static const char *const tails[] = {"", ".ids.tsv"};
    struct stat st;
    for (size_t i = 0; i < VNP_COUNT(tails); i++) {
        char path[4200];
        snprintf(path, sizeof path, "%.4100s%s", output, tails[i]);
        bool is_other = lstat(path, &st) == 0 && S_ISREG(st.st_mode) && !is_input(opt, path);
        if (is_other && unlink(path) == 0) vnp_log(VNP_LOG_DEBUG, "run", "removed %s", path);
    }
}

vnp_status vnp_run_setup_ledger(struct run_setup *s, const char *const *outputs, size_t n_outputs) {
    const struct vnp_run_options *opt = s->opt;
    VNP_TRY(check_output(s, outputs, n_outputs));
    vnp_run_setup_fact(s, "precision", "%s", vnp_precision_name(opt->precision));
    vnp_run_setup_fact(s, "backend", "%s", opt->devices[0].backend->name);
    vnp_run_setup_fact(s, "shard", "%d/%d", opt->shard_idx, VNP_MAX(1, opt->n_shards));
    vnp_run_setup_fact(s, "block windows", "%lld", (long long)s->e.block_windows);
    for (size_t i = 0; i < opt->n_inputs; i++) s->e.is_spooled |= !is_regular(opt->inputs[i]);
    struct vnp_ledger_options ledger = {.path = s->path_db,
                                        .data_path = s->e.is_rows_kept ? s->path_data : NULL,
                                        .n_cols = s->e.n_row_cols,
                                        .facts = s->facts,
                                        .n_facts = s->n_facts,
                                        .is_forced = opt->is_forced};
    VNP_TRY(vnp_ledger_open(&ledger, &s->e.ledger));
    for (size_t i = 0; i < n_outputs; i++) { /* the run is ours alone from here on */
        char ids[4200];
        snprintf(ids, sizeof ids, "%.4100s.ids.tsv", outputs[i]);
        vnp_out_remove_temps(outputs[i]);
        vnp_out_remove_temps(ids);
        if (opt->is_forced) vnp_run_setup_clear(opt, outputs[i]);
    }
    return VNP_OK;
}

static void identity(const struct vnp_seq_reader_stats *stats, char out[64]) {
    char hex[33];
    vnp_hash_hex(stats->content, hex);
    snprintf(out, 64, "%s %lld", hex, (long long)stats->n_records);
}

static vnp_status other_input(struct run_setup *s, const char *text) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "this run was made from another input%s", text);
    vnp_error_at(s->opt->out, -1, -1, NULL);
    vnp_error_hint("give the same input, another output, or --force to start over");
    return VNP_MISMATCH;
}

/* Reads the whole input and compares it with what the ledger knows. */
static vnp_status check_input(struct run_setup *s) {
    struct vnp_seq_reader_options opt = {.is_canceled = vnp_run_is_stopping};
    struct vnp_seq_reader *reader;
    char known[64], now[64];
    VNP_TRY(vnp_ledger_meta_get(s->e.ledger, "input", known, sizeof known));
    VNP_TRY(vnp_seq_reader_open(s->opt->inputs, s->opt->n_inputs, &opt, &reader));
    vnp_status status;
    bool has = true;
    do {
        struct vnp_seq_record r;
        status = vnp_seq_reader_next(reader, &r, &has);
        if (status == VNP_OK && vnp_run_is_stop_requested())
            status = vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
    } while (status == VNP_OK && has);
    vnp_seq_reader_stats(reader, &s->e.input);
    vnp_seq_reader_close(reader);
    VNP_TRY(status);
    identity(&s->e.input, now);
    return strcmp(known, now) == 0 ? VNP_OK : other_input(s, "");
}

/* The engine, and what its GPUs do meanwhile. */
static vnp_status compute_watched(struct run_setup *s) {
    int n = s->e.n_devices;
    char(*pci)[32] = calloc((size_t)n, sizeof *pci);
    struct vnp_run_gpu_stats *stats = calloc((size_t)n, sizeof *stats);
    struct vnp_run_gpu_monitor *m = NULL;
    if (pci && stats) {
        for (int i = 0; i < n; i++) {
            const struct vnp_run_device *d = &s->opt->devices[i];
            bool is_known = d->backend->device_pci && d->backend->device_pci(d->idx_device, pci[i]);
            if (!is_known) pci[i][0] = 0;
        }
        m = vnp_run_gpu_monitor_start((const char(*)[32])pci, n);
    }
    vnp_status status = vnp_run_engine_run(&s->e);
    bool is_watched = m != NULL;
    vnp_run_gpu_monitor_stop(m, stats);
    for (int i = 0; is_watched && i < n; i++) s->devices[i].gpu = stats[i];
    free(pci);
    free(stats);
    return status;
}

vnp_status vnp_run_setup_compute(struct run_setup *s) {
    struct run_engine *e = &s->e;
    if (vnp_ledger_state_get(e->ledger) != VNP_LEDGER_RUNNING) return check_input(s);
    if (vnp_ledger_is_resumed(e->ledger)) vnp_log(VNP_LOG_INFO, "run", "resuming %s", s->path_db);
    VNP_TRY(vnp_run_cache_open(s));
    vnp_status status = compute_watched(s);
    vnp_run_cache_close(s);
    VNP_TRY(status);
    struct vnp_ledger_counts counts;
    VNP_TRY(vnp_ledger_count(e->ledger, &counts));
    if (counts.n_blocks != e->n_blocks_input) return other_input(s, ": it was longer");
    char now[64];
    identity(&e->input, now);
    VNP_TRY(vnp_ledger_meta_set(e->ledger, "input", now));
    return vnp_ledger_state_set(e->ledger, VNP_LEDGER_COMPUTED);
}

void vnp_run_setup_fini(struct run_setup *s) {
    vnp_ledger_close(s->e.ledger);
    free(s->devices);
    free(s->workers);
}
