// SPDX-License-Identifier: MIT
// Jobs, and what is done with their folders afterwards: the public options turned into those of the
// run room, and its counts back.
#include "api_internal.h"
#include "ref/ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct vnp_job {
    vnp_engine *engine; /* borrowed; NULL for translate */
    vnp_job_options options;
    struct vnp_run_device devices[VNP_API_MAX_DEVICES]; /* and how their workers live */
    char worker_program[VNP_API_PATH];
    struct vnp_run_counts counts;
    double wall_s;
};

static vnp_status check_options(const vnp_engine *engine, const vnp_job_options *o) {
    VNP_TRY(vnp_api_check_struct("job", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (o->kind < VNP_JOB_PREDICT || o->kind > VNP_JOB_TRANSLATE)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: kind %u is none", (unsigned)o->kind);
    if (o->n_inputs == 0 || !o->inputs || !o->out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: no input or no output named");
    VNP_TRY(vnp_api_check_paths("job", o->inputs, o->n_inputs));
    if (o->n_shards < 0 || o->shard_idx < 0 || o->shard_idx >= VNP_MAX(o->n_shards, 1))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: shard %d of %d", o->shard_idx, o->n_shards);
    if (o->n_workers < -1 || o->n_workers > VNP_API_MAX_DEVICES)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: %d workers", o->n_workers);
    uint32_t need = o->kind == VNP_JOB_PREDICT ? VNP_FOR_PREDICT
                    : o->kind == VNP_JOB_EMBED ? VNP_FOR_EMBED
                                               : 0;
    if (need && (!engine || !(engine->purpose & need)))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: the engine was not made for this kind");
    if (o->pool && strcmp(o->pool, "mean") != 0 && strcmp(o->pool, "cls") != 0 &&
        strcmp(o->pool, "none") != 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "pool is 'mean', 'cls' or 'none', not '%s'",
                        o->pool);
    if (o->kind == VNP_JOB_EMBED) {
        long long n_layers = vnp_checkpoint_spec(engine->embed_model)->n_layers;
        if (o->layer < -1 || o->layer > n_layers)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                            "layer %d: this model has layers 1 to %lld, 0 is the embedding",
                            o->layer, n_layers);
    }
    return VNP_OK;
}

vnp_status vnp_job_create(vnp_engine *engine, const vnp_job_options *options, vnp_job **out) {
    if (!out) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "job: nowhere to put the result");
    *out = NULL;
    VNP_TRY(check_options(engine, options));
    struct vnp_job *job = calloc(1, sizeof *job);
    if (!job) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a job");
    job->engine = engine;
    job->options = *options;
    *out = job;
    return VNP_OK;
}

vnp_progress vnp_api_progress_of(const struct vnp_run_progress *p) {
    return (vnp_progress){.n_records = p->n_records,
                          .n_windows = p->n_windows,
                          .n_frames = p->n_frames,
                          .n_tokens = p->n_tokens,
                          .n_bytes_read = p->n_bytes_read,
                          .n_bytes_total = p->n_bytes_total,
                          .elapsed_s = p->elapsed_s,
                          .tokens_per_s = p->tokens_per_s,
                          .stage = p->stage};
}

static bool forward_progress(void *ctx, const struct vnp_run_progress *p) {
    const struct vnp_job *job = ctx;
    vnp_progress q = vnp_api_progress_of(p);
    return job->options.progress(job->options.progress_ctx, &q) != 0;
}

/* A missing input is found before anything is made, even where a model takes minutes to load. */
static vnp_status check_inputs(const vnp_job_options *o) {
    for (size_t i = 0; i < o->n_inputs; i++) {
        struct stat st;
        if (strcmp(o->inputs[i], "-") == 0) continue;
        if (stat(o->inputs[i], &st) == 0 && !S_ISDIR(st.st_mode)) continue;
        vnp_status s =
            vnp_fail(VNP_NOT_FOUND, VNP_FROM_INPUT, "%s",
                     stat(o->inputs[i], &st) == 0 ? "cannot read the input: it is a folder"
                                                  : "cannot open the input: there is no such file");
        vnp_error_at(o->inputs[i], -1, -1, NULL);
        vnp_error_hint("name FASTA or FASTQ files, or - for standard input");
        return s;
    }
    return VNP_OK;
}

/* translate has no run database that could tell whose the files are: any of them is foreign. */
static vnp_status check_translate_output(const vnp_job_options *o) {
    static const char *const names[] = {"chunked.fa", "nucleotide.fa", "protein.faa"};
    char path[VNP_API_PATH];
    for (size_t i = 0; !o->is_forced && i < VNP_COUNT(names); i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", o->out, names[i]);
        if (stat(path, &st) != 0) continue;
        vnp_status s = vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "exists already");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("name another folder, or --force to replace it");
        return s;
    }
    return VNP_OK;
}

/* The program that worker processes run; false when there is none. */
static bool find_worker_program(struct vnp_job *job) {
    static const char *const places[] = {"/virnucpro", "/../bin/virnucpro", "/../../bin/virnucpro"};
    const char *named = job->options.worker_program;
    char dir[VNP_API_PATH];
    size_t n = sizeof job->worker_program;
    if (named) return (size_t)snprintf(job->worker_program, n, "%s", named) < n;
    for (size_t i = 0; vnp_api_own_dir(dir, sizeof dir) && i < VNP_COUNT(places); i++)
        if ((size_t)snprintf(job->worker_program, n, "%s%s", dir, places[i]) < n &&
            access(job->worker_program, X_OK) == 0)
            return true;
    return false;
}

/* Which devices compute, and which of them in processes of their own. */
static vnp_status fill_devices(struct vnp_job *job, struct vnp_run_options *r) {
    const struct vnp_engine *e = job->engine;
    int n_workers = job->options.n_workers;
    bool is_host = e->devices.list[0].backend->is_host;
    memcpy(job->devices, e->devices.list, sizeof job->devices);
    r->devices = job->devices;
    r->n_devices = e->devices.n;
    if (!is_host && n_workers > 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "workers are counted on the CPU only; every GPU has one");
    bool are_processes = n_workers > 0 || (!is_host && n_workers == 0);
    bool has_program = are_processes && find_worker_program(job);
    if (n_workers > 0 && !has_program) {
        vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no program for worker processes");
        vnp_error_hint("worker_program names it");
        return s;
    }
    if (are_processes && !has_program)
        vnp_log(VNP_LOG_WARN, "api",
                "the program virnucpro is not beside the library: GPUs are used in this process, "
                "and an error on one ends the run");
    r->worker_program = job->worker_program;
    if (n_workers > 0) { /* the threads are shared out */
        int n_threads = r->n_threads > 0 ? r->n_threads : vnp_cpu_count();
        r->n_devices = n_workers;
        r->n_threads = VNP_MAX(1, n_threads / n_workers);
    }
    for (int i = 0; i < r->n_devices; i++) {
        if (n_workers > 0)
            job->devices[i] =
                (struct vnp_run_device){.backend = e->devices.list[0].backend,
                                        .idx_device = i,
                                        .is_emulation = e->devices.list[0].is_emulation};
        job->devices[i].is_process = has_program;
    }
    return VNP_OK;
}

/* What `auto` takes may change between a run's beginning and its repetition (model validate): the
 * run goes on as it began. */
static enum vnp_precision choose_precision(const struct vnp_job *job) {
    const struct vnp_engine *e = job->engine;
    const struct vnp_backend *b = e->devices.list[0].backend;
    enum vnp_precision begun = e->devices.precision;
    if (!e->is_auto || job->options.is_forced || b == vnp_ref_backend() ||
        !vnp_run_precision_there(job->options.out, b->name, &begun) ||
        begun == e->devices.precision)
        return e->devices.precision;
    vnp_log(VNP_LOG_INFO, "api", "precision %s, with which this run began (auto would take %s now)",
            vnp_precision_name(begun), vnp_precision_name(e->devices.precision));
    return begun;
}

static vnp_status fill_run(struct vnp_job *job, struct vnp_run_options *r) {
    const vnp_job_options *o = &job->options;
    const struct vnp_engine *e = job->engine;
    *r = (struct vnp_run_options){.inputs = o->inputs,
                                  .n_inputs = o->n_inputs,
                                  .out = o->out,
                                  .host = vnp_api_host_backend(),
                                  .window_bp = o->window_bp,
                                  .shard_idx = o->shard_idx,
                                  .n_shards = VNP_MAX(o->n_shards, 1),
                                  .is_forced = o->is_forced,
                                  .are_embeddings_saved = o->are_embeddings_saved,
                                  .are_upstream_files_left_out = o->are_upstream_files_left_out,
                                  .grace_s = o->grace_s > 0 ? o->grace_s : 10,
                                  .cache_path = o->cache,
                                  .cache_mb = o->cache_mb,
                                  .command = o->command,
                                  .layer = o->layer,
                                  .pool = VNP_POOL_MEAN,
                                  .progress = o->progress ? forward_progress : NULL,
                                  .progress_ctx = job};
    if (o->pool && strcmp(o->pool, "cls") == 0) r->pool = VNP_POOL_CLS;
    if (o->pool && strcmp(o->pool, "none") == 0) r->pool = VNP_POOL_NONE;
    if (!e) return VNP_OK;
    r->precision = choose_precision(job);
    r->n_threads = e->n_threads;
    r->budget_tokens = e->n_tokens;
    r->cache_dir = e->cache_dir[0] ? e->cache_dir : NULL;
    if (o->kind == VNP_JOB_PREDICT) r->window_bp = e->window_bp;
    r->esm2 = e->models.esm2;
    r->dnabert = e->models.dnabert;
    r->classifier = e->models.classifier;
    r->embed_model = e->embed_model;
    r->model_note = e->models.note[0] ? e->models.note : NULL;
    const char *watchdog = getenv("VNP_TEST_WATCHDOG_S"); /* tests with the whole program */
    if (watchdog) r->watchdog_s = atof(watchdog);
    return fill_devices(job, r);
}

vnp_status vnp_job_run(vnp_job *job) {
    struct vnp_run_options r;
    if (!job) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no job");
    VNP_TRY(check_inputs(&job->options));
    if (job->options.kind == VNP_JOB_TRANSLATE) VNP_TRY(check_translate_output(&job->options));
    VNP_TRY(fill_run(job, &r));
    double start = vnp_now_s();
    vnp_status s = job->options.kind == VNP_JOB_PREDICT ? vnp_run_predict(&r, &job->counts)
                   : job->options.kind == VNP_JOB_EMBED ? vnp_run_embed(&r, &job->counts)
                                                        : vnp_run_translate(&r, &job->counts);
    job->wall_s = vnp_now_s() - start;
    return s;
}

static void counts_copy(const struct vnp_run_counts *c, double wall_s, vnp_job_counts *out) {
    *out = (vnp_job_counts){.size = sizeof *out,
                            .n_records = c->n_records,
                            .n_virus = c->n_virus,
                            .n_other = c->n_other,
                            .n_unscored = c->n_unscored,
                            .n_failed = c->n_failed,
                            .n_empty = c->n_empty,
                            .n_windows = c->n_windows,
                            .n_windows_scored = c->n_windows_scored,
                            .n_frames = c->n_frames,
                            .n_duplicates = c->n_duplicates,
                            .n_tokens_dna = c->n_tokens_dna,
                            .n_tokens_protein = c->n_tokens_protein,
                            .n_packs = c->n_packs,
                            .n_unknown_residues = c->n_unknown_residues,
                            .was_complete = c->was_complete,
                            .wall_s = wall_s};
}

vnp_status vnp_job_counts_get(const vnp_job *job, vnp_job_counts *out) {
    if (!job || !out || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "job counts: no job, or a struct of unknown size");
    counts_copy(&job->counts, job->wall_s, out);
    return VNP_OK;
}

void vnp_job_destroy(vnp_job *job) {
    free(job);
}

void vnp_stop_request(void) {
    vnp_run_request_stop();
}

vnp_status vnp_evaluate(const char *truth_path, const char *run_dir, char **out_text) {
    if (!truth_path || !run_dir || !out_text)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "evaluate: a truth file and a run folder are "
                        "needed");
    *out_text = NULL;
    return vnp_run_evaluate(truth_path, run_dir, out_text);
}

vnp_status vnp_folder_report(const char *run_dir, const char *out_path, int64_t n_records) {
    if (!run_dir || n_records < 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "report: no run folder, or a negative number");
    struct vnp_run_report_options o = {.dir = run_dir, .out = out_path, .n_records = n_records};
    return vnp_run_report(&o);
}

void vnp_text_free(char *text) {
    free(text);
}

vnp_status vnp_folder_status_get(const char *path, vnp_folder_status *out) {
    struct vnp_run_status_info i;
    if (!path || !out || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "status: no path, or a struct of unknown size");
    VNP_TRY(vnp_run_status(path, &i));
    *out = (vnp_folder_status){.size = sizeof *out,
                               .is_active = i.is_active,
                               .n_records = i.n_records,
                               .n_windows = i.n_windows,
                               .n_frames = i.n_frames,
                               .n_tokens = i.n_tokens,
                               .n_failed_frames = i.n_failed_frames,
                               .n_incidents = i.n_incidents,
                               .n_sessions = i.n_sessions,
                               .n_bytes_read = i.n_bytes_read,
                               .n_bytes_total = i.n_bytes_total,
                               .elapsed_s = i.elapsed_s,
                               .tokens_per_s = i.tokens_per_s,
                               .eta_s = i.eta_s};
    snprintf(out->state, sizeof out->state, "%s", i.state);
    snprintf(out->shard, sizeof out->shard, "%s", i.shard);
    return VNP_OK;
}

vnp_status vnp_folder_merge(const vnp_merge_options *o, vnp_job_counts *counts) {
    struct vnp_run_counts c = {0};
    VNP_TRY(vnp_api_check_struct("merge", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (o->n_dirs == 0 || !o->dirs || !o->out || (counts && counts->size != sizeof *counts))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "merge: no folders, no output, or counts of "
                        "unknown size");
    VNP_TRY(vnp_api_check_paths("merge", o->dirs, o->n_dirs));
    struct vnp_run_merge_options m = {.dirs = o->dirs,
                                      .n_dirs = o->n_dirs,
                                      .out = o->out,
                                      .is_forced = o->is_forced,
                                      .are_upstream_files_left_out = o->are_upstream_files_left_out,
                                      .command = o->command};
    double start = vnp_now_s();
    VNP_TRY(vnp_run_merge(&m, &c));
    if (counts) counts_copy(&c, vnp_now_s() - start, counts);
    return VNP_OK;
}
