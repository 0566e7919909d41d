// SPDX-License-Identifier: MIT
// predict, embed, translate and merge: options to an engine and a job, the job's counts to closing
// lines.
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What the three commands share. Zero is the default of everything but layer. */
struct run_options {
    const char *out, *device, *precision, *models, *esm, *dnabert, *classifier, *model, *pool;
    const char *cache;
    int64_t n_threads, n_tokens, n_workers, window_bp, layer, grace_s, cache_mb, shard[2];
    bool is_forced, is_quiet, is_verbose, is_json;
    bool are_embeddings_saved, are_upstream_files_left_out;
};

#define OPT_TEXT(name, letter, field)                                                              \
    { name, letter, VNP_OPT_TEXT, &o->field, NULL, 0, 0 }
#define OPT_FLAG(name, letter, field)                                                              \
    { name, letter, VNP_OPT_FLAG, &o->field, NULL, 0, 0 }
#define OPT_INT(name, field, bounds)                                                               \
    { name, 0, VNP_OPT_INT, &o->field, bounds, 0, 0 }
#define OPT_REPORT                                                                                 \
    OPT_FLAG("quiet", 'q', is_quiet), OPT_FLAG("verbose", 'v', is_verbose),                        \
        OPT_FLAG("log-json", 0, is_json)
#define OPT_DEVICE                                                                                 \
    OPT_TEXT("device", 0, device), OPT_TEXT("precision", 0, precision),                            \
        OPT_INT("threads", n_threads, "n_threads"), OPT_INT("tokens", n_tokens, "n_tokens"),       \
        OPT_INT("workers", n_workers, "n_workers"), OPT_INT("grace", grace_s, "grace_s"), {        \
        "shard", 0, VNP_OPT_SHARD, o->shard, NULL, 0, 0                                            \
    }
#define OPT_END                                                                                    \
    { NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0 }

/* Reads the options; *is_done when help was asked for. */
static int read_options(int argc, char **argv, const char *command,
                        const struct vnp_cli_option *table, struct run_options *o,
                        struct vnp_cli_args *args, bool *is_done) {
    *is_done = false;
    args->command = command;
    args->positional = calloc((size_t)argc + 1, sizeof *args->positional);
    if (!args->positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, args);
    if (rc) return rc;
    if (args->is_help) {
        *is_done = true;
        return vnp_cli_help(command);
    }
    if (args->n_positional == 0)
        return vnp_cli_usage(command,
                             strcmp(command, "merge") == 0
                                 ? "no input; name the folders (or embed's files) of all shards"
                                 : "no input; name FASTA or FASTQ files, or - for standard input");
    if (!o->out) return vnp_cli_usage(command, "no output; -o says where the results go");
    if (o->is_quiet && o->is_verbose)
        return vnp_cli_usage(command, "--quiet and --verbose contradict each other");
    int n_stdin = 0;
    for (int i = 0; i < args->n_positional; i++) n_stdin += strcmp(args->positional[i], "-") == 0;
    if (n_stdin > 1) return vnp_cli_usage(command, "standard input (-) is named twice");
    return 0;
}

static void open_report(const struct run_options *o, bool has_log_file) {
    struct vnp_cli_report_options r = {.is_quiet = o->is_quiet,
                                       .is_verbose = o->is_verbose,
                                       .is_json = o->is_json,
                                       .log_dir = has_log_file ? o->out : NULL};
    vnp_cli_report_open(&r);
}

static vnp_status make_engine(const struct run_options *o, uint32_t purpose, vnp_engine **engine) {
    vnp_engine_options e = VNP_ENGINE_OPTIONS_INIT;
    e.purpose = purpose;
    e.models = o->models;
    e.esm = o->esm;
    e.dnabert = o->dnabert;
    e.classifier = o->classifier;
    e.model = o->model;
    e.device = o->device;
    e.precision = o->precision;
    e.n_threads = (int32_t)o->n_threads;
    e.n_tokens = o->n_tokens;
    e.window_bp = (int32_t)o->window_bp;
    return vnp_engine_create(&e, engine);
}

static void say_engine(const vnp_engine *engine) {
    vnp_engine_info info = {.size = sizeof info};
    if (vnp_engine_info_get(engine, &info) != VNP_OK) return;
    vnp_cli_say(2, "device %s, precision %s (%s)", info.device, info.precision, info.why);
    vnp_cli_say(2, "model %s%s", info.models,
                info.is_bundled ? " (the one shipped with the program; --models names another)"
                                : "");
    if (info.note[0]) vnp_cli_say(2, "note on this model: %s", info.note);
}

static vnp_status run_job(const struct run_options *o, uint32_t kind, vnp_engine *engine,
                          const struct vnp_cli_args *args, const char *command_line,
                          vnp_job_counts *counts) {
    vnp_job *job = NULL;
    vnp_job_options j = VNP_JOB_OPTIONS_INIT;
    j.kind = kind;
    j.inputs = args->positional;
    j.n_inputs = (size_t)args->n_positional;
    j.out = o->out;
    j.shard_idx = (int32_t)o->shard[0];
    j.n_shards = (int32_t)o->shard[1];
    j.is_forced = o->is_forced;
    j.are_embeddings_saved = o->are_embeddings_saved;
    j.are_upstream_files_left_out = o->are_upstream_files_left_out;
    j.layer = (int32_t)o->layer;
    j.pool = o->pool;
    j.window_bp = (int32_t)o->window_bp;
    j.grace_s = (int32_t)o->grace_s;
    j.command = command_line;
    j.cache = o->cache;
    j.cache_mb = o->cache_mb;
    j.progress = vnp_cli_progress;
    j.n_workers = (int32_t)o->n_workers;
    j.worker_program = "/proc/self/exe"; /* the very file that runs, even if it was replaced */
    vnp_status s = vnp_job_create(engine, &j, &job);
    if (s == VNP_OK) s = vnp_job_run(job);
    if (s == VNP_OK) {
        counts->size = sizeof *counts;
        s = vnp_job_counts_get(job, counts);
    }
    vnp_job_destroy(job);
    return s;
}

static const char *plural(int64_t n) {
    return n == 1 ? "" : "s";
}

static int finish(vnp_status s, const vnp_job_counts *c, const char *command_line) {
    int rc = VNP_EXIT_OK;
    if (s != VNP_OK) {
        rc = vnp_cli_fail();
    } else {
        if (c->n_unknown_residues > 0)
            vnp_cli_say(1, "%lld letter%s outside the models' alphabets, read as unknown",
                        (long long)c->n_unknown_residues, plural(c->n_unknown_residues));
        if (c->n_failed > 0) {
            vnp_cli_say(1, "%lld record%s failed; the status and reason columns name them",
                        (long long)c->n_failed, plural(c->n_failed));
            rc = VNP_EXIT_SOME_FAILED;
        }
        if (c->was_complete)
            vnp_cli_say(2, "this run was complete already; nothing was done. --force starts anew");
        vnp_cli_closing_lines(command_line, c->wall_s, c->n_tokens_dna + c->n_tokens_protein);
    }
    vnp_cli_report_close();
    return rc;
}

static void say_predicted(const struct run_options *o, const vnp_job_counts *c) {
    vnp_cli_report_own_dir();
    vnp_cli_say(2,
                "%lld record%s: %lld virus, %lld other, %lld unscored; %lld window%s, %lld frame%s",
                (long long)c->n_records, plural(c->n_records), (long long)c->n_virus,
                (long long)c->n_other, (long long)c->n_unscored, (long long)c->n_windows,
                plural(c->n_windows), (long long)c->n_frames, plural(c->n_frames));
    vnp_cli_say(2, "results in %s: contigs.tsv, virus.fna, summary.json", o->out);
}

static void say_embedded(const struct run_options *o, const vnp_job_counts *c) {
    vnp_cli_say(2, "%lld record%s, %lld empty; embeddings in %s, ids in %s.ids.tsv",
                (long long)c->n_records, plural(c->n_records), (long long)c->n_empty, o->out,
                o->out);
}

/* predict and embed, from models to closing lines. */
static int run_models(const struct run_options *o, bool is_predict, const struct vnp_cli_args *args,
                      const char *command_line) {
    vnp_engine *engine = NULL;
    vnp_job_counts c = {0};
    open_report(o, is_predict);
    vnp_status s = make_engine(o, is_predict ? VNP_FOR_PREDICT : VNP_FOR_EMBED, &engine);
    if (s == VNP_OK) {
        say_engine(engine);
        s = run_job(o, is_predict ? VNP_JOB_PREDICT : VNP_JOB_EMBED, engine, args, command_line,
                    &c);
    }
    if (s == VNP_OK) (is_predict ? say_predicted : say_embedded)(o, &c);
    int rc = finish(s, &c, command_line);
    vnp_engine_destroy(engine);
    return rc;
}

int vnp_cli_predict(int argc, char **argv, const char *command_line) {
    struct run_options options = {.layer = -1}, *o = &options;
    struct vnp_cli_args args = {0};
    bool is_done;
    const struct vnp_cli_option table[] = {
        OPT_TEXT("output", 'o', out),
        OPT_TEXT("models", 0, models),
        OPT_TEXT("esm", 0, esm),
        OPT_TEXT("dnabert", 0, dnabert),
        OPT_TEXT("classifier", 0, classifier),
        OPT_INT("window", window_bp, "window_bp"),
        OPT_FLAG("save-embeddings", 0, are_embeddings_saved),
        OPT_FLAG("no-upstream-files", 0, are_upstream_files_left_out),
        OPT_TEXT("cache", 0, cache),
        {"cache-size", 0, VNP_OPT_INT, &o->cache_mb, NULL, 1, 1000000000},
        OPT_FLAG("force", 0, is_forced),
        OPT_DEVICE,
        OPT_REPORT,
        OPT_END};
    int rc = read_options(argc, argv, "predict", table, o, &args, &is_done);
    if (rc == 0 && !is_done) rc = run_models(o, true, &args, command_line);
    free(args.positional);
    return rc;
}

/* Files are shards of embed, folders of predict. */
static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int vnp_cli_merge(int argc, char **argv, const char *command_line) {
    struct run_options options = {.layer = -1}, *o = &options;
    struct vnp_cli_args args = {0};
    vnp_job_counts c = {.size = sizeof c};
    bool is_done;
    const struct vnp_cli_option table[] = {
        OPT_TEXT("output", 'o', out), OPT_FLAG("no-upstream-files", 0, are_upstream_files_left_out),
        OPT_FLAG("force", 0, is_forced), OPT_REPORT, OPT_END};
    int rc = read_options(argc, argv, "merge", table, o, &args, &is_done);
    bool is_predict = args.n_positional < 1 || is_folder(args.positional[0]);
    if (rc == 0 && !is_done) {
        open_report(o, is_predict);
        vnp_merge_options m = VNP_MERGE_OPTIONS_INIT;
        m.dirs = args.positional;
        m.n_dirs = (size_t)args.n_positional;
        m.out = o->out;
        m.is_forced = o->is_forced;
        m.are_upstream_files_left_out = o->are_upstream_files_left_out;
        m.command = command_line;
        vnp_status s = vnp_folder_merge(&m, &c);
        if (s == VNP_OK && is_predict) say_predicted(o, &c);
        if (s == VNP_OK && !is_predict) say_embedded(o, &c);
        rc = finish(s, &c, command_line);
    }
    free(args.positional);
    return rc;
}

static bool is_known_suffix(const char *path) {
    static const char *const known[] = {".npy", ".safetensors", ".h5", ".tsv"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t k = strlen(known[i]);
        if (n > k && strcmp(path + n - k, known[i]) == 0) return true;
    }
    return false;
}

int vnp_cli_embed(int argc, char **argv, const char *command_line) {
    struct run_options options = {.layer = -1}, *o = &options;
    struct vnp_cli_args args = {0};
    bool is_done;
    const struct vnp_cli_option table[] = {
        OPT_TEXT("output", 'o', out),
        OPT_TEXT("model", 0, model),
        OPT_TEXT("pool", 0, pool),
        {"layer", 0, VNP_OPT_INT, &o->layer, NULL, -1, 1000},
        OPT_TEXT("cache", 0, cache),
        {"cache-size", 0, VNP_OPT_INT, &o->cache_mb, NULL, 1, 1000000000},
        OPT_FLAG("force", 0, is_forced),
        OPT_DEVICE,
        OPT_REPORT,
        OPT_END};
    int rc = read_options(argc, argv, "embed", table, o, &args, &is_done);
    if (rc == 0 && !is_done) {
        if (!o->model)
            rc = vnp_cli_usage("embed", "no model; --model names an ESM-2 or DNABERT-S model");
        else if (!is_known_suffix(o->out))
            rc = vnp_cli_usage("embed", "'%s' must end in .npy, .safetensors, .h5 or .tsv", o->out);
        else if (o->pool && strcmp(o->pool, "mean") != 0 && strcmp(o->pool, "cls") != 0 &&
                 strcmp(o->pool, "none") != 0)
            rc = vnp_cli_usage("embed", "--pool is mean, cls or none, not '%s'", o->pool);
    }
    if (rc == 0 && !is_done) rc = run_models(o, false, &args, command_line);
    free(args.positional);
    return rc;
}

int vnp_cli_translate(int argc, char **argv, const char *command_line) {
    struct run_options options = {.layer = -1}, *o = &options;
    struct vnp_cli_args args = {0};
    vnp_job_counts c = {0};
    bool is_done;
    const struct vnp_cli_option table[] = {OPT_TEXT("output", 'o', out),
                                           OPT_INT("window", window_bp, "window_bp"),
                                           OPT_FLAG("force", 0, is_forced), OPT_REPORT, OPT_END};
    int rc = read_options(argc, argv, "translate", table, o, &args, &is_done);
    if (rc == 0 && !is_done) {
        open_report(o, false);
        vnp_status s = run_job(o, VNP_JOB_TRANSLATE, NULL, &args, command_line, &c);
        if (s == VNP_OK)
            vnp_cli_say(2,
                        "%lld record%s, %lld window%s, %lld open frame%s; chunked.fa, "
                        "nucleotide.fa and protein.faa in %s",
                        (long long)c.n_records, plural(c.n_records), (long long)c.n_windows,
                        plural(c.n_windows), (long long)c.n_frames, plural(c.n_frames), o->out);
        rc = finish(s, &c, command_line);
    }
    free(args.positional);
    return rc;
}
