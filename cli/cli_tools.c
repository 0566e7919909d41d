// SPDX-License-Identifier: MIT
// model info | convert | verify, status, report, evaluate and doctor. Their answers are data and go
// to stdout.
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void vnp_cli_json_text(const char *s) {
    putchar('"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

int vnp_cli_flush(int rc) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return rc;
    fprintf(stderr, "virnucpro: error: standard output cannot be written\n");
    return rc ? rc : VNP_EXIT_IO;
}

/* ---- model info ----------------------------------------------------------------------------- */

static void print_number(const char *name, int64_t v) {
    if (v > 0) printf("  %-10s %lld\n", name, (long long)v);
}

static void print_model(const char *path, const vnp_model_info *m) {
    printf("%s\n", path);
    printf("  %-10s %s\n", "kind", m->kind);
    if (m->name[0]) printf("  %-10s %s\n", "name", m->name);
    printf("  %-10s %s\n", "format", m->format);
    print_number("layers", m->n_layers);
    print_number("hidden", m->n_hidden);
    print_number("heads", m->n_heads);
    print_number("ffn", m->n_ffn);
    print_number("vocabulary", m->n_vocab);
    print_number("inputs", m->n_in);
    if (m->n_dna > 0)
        printf("  %-10s %lld DNA, %lld protein\n", "", (long long)m->n_dna,
               (long long)m->n_protein);
    print_number("window", m->window_bp);
    printf("  %-10s %lld\n", "parameters", (long long)m->n_params);
    printf("  %-10s %s, %lld bytes\n", "stored as", m->dtype, (long long)m->n_bytes);
    if (strcmp(m->kind, "dnabert-s") == 0)
        printf("  %-10s %s\n", "tokenizer", m->has_tokenizer ? "yes" : "no");
    if (strcmp(m->kind, "esm2") == 0)
        printf("  %-10s %s\n", "LM head", m->has_lm_head ? "yes" : "no");
    printf("  %-10s %s\n", "digest", m->digest);
}

static void print_model_json(const char *path, const vnp_model_info *m, bool is_first) {
    const struct {
        const char *name;
        int64_t v;
    } n[] = {{"layers", m->n_layers},    {"hidden", m->n_hidden},
             {"heads", m->n_heads},      {"ffn", m->n_ffn},
             {"vocabulary", m->n_vocab}, {"inputs", m->n_in},
             {"dna_columns", m->n_dna},  {"protein_columns", m->n_protein},
             {"window", m->window_bp},   {"parameters", m->n_params},
             {"bytes", m->n_bytes}};
    const struct {
        const char *name, *v;
    } t[] = {{"kind", m->kind},
             {"name", m->name},
             {"format", m->format},
             {"dtype", m->dtype},
             {"digest", m->digest}};
    printf("%s\n  {\"path\": ", is_first ? "[" : ",");
    vnp_cli_json_text(path);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        printf(", \"%s\": ", t[i].name);
        vnp_cli_json_text(t[i].v);
    }
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++)
        printf(", \"%s\": %lld", n[i].name, (long long)n[i].v);
    printf(", \"has_lm_head\": %s, \"has_tokenizer\": %s}", m->has_lm_head ? "true" : "false",
           m->has_tokenizer ? "true" : "false");
}

static int model_info(const struct vnp_cli_args *args, bool is_json) {
    bool is_first = true;
    if (args->n_positional == 0)
        return vnp_cli_usage("model info", "no model; name files or folders");
    for (int i = 0; i < args->n_positional; i++) {
        vnp_model_info m[3];
        char note[1024];
        size_t n;
        m[0].size = sizeof m[0];
        if (vnp_model_info_get(args->positional[i], m, 3, &n, note, sizeof note) != VNP_OK) {
            fflush(stdout);
            return vnp_cli_fail();
        }
        for (size_t k = 0; k < n; k++) {
            if (is_json)
                print_model_json(args->positional[i], &m[k], is_first);
            else
                print_model(args->positional[i], &m[k]);
            is_first = false;
        }
        if (!is_json && note[0]) printf("  %-10s %s\n", "note", note);
    }
    if (is_json) printf("\n]\n");
    return vnp_cli_flush(0);
}

/* ---- model convert, model verify ------------------------------------------------------------ */

struct model_options {
    const char *out, *models, *esm, *dnabert, *classifier, *note, *device, *precision;
    int64_t window_bp, n_threads;
    bool is_forced, is_json;
};

static int model_convert(const struct vnp_cli_args *args, const struct model_options *o) {
    vnp_convert_options c = VNP_CONVERT_OPTIONS_INIT;
    if (args->n_positional > 1)
        return vnp_cli_usage("model convert", "one folder or bundle at a time; parts have options");
    if (args->n_positional == 1 && o->models)
        return vnp_cli_usage("model convert", "--models and %s name the same thing",
                             args->positional[0]);
    c.models = args->n_positional ? args->positional[0] : o->models;
    c.esm = o->esm;
    c.dnabert = o->dnabert;
    c.classifier = o->classifier;
    c.note = o->note;
    c.out = o->out;
    c.window_bp = (int32_t)o->window_bp;
    c.is_forced = o->is_forced;
    if (!c.out) return vnp_cli_usage("model convert", "no output; -o names the bundle to write");
    if (!c.models && !c.esm && !c.dnabert && !c.classifier)
        return vnp_cli_usage("model convert", "no model; name a folder or --esm, --dnabert, "
                                              "--classifier");
    if (vnp_model_convert(&c) != VNP_OK) return vnp_cli_fail();
    vnp_cli_say(2, "wrote %s", c.out);
    return 0;
}

static void print_report(void *ctx, int level, const char *what, const char *text) {
    static const char *const marks[] = {"ok  ", "note", "BAD "};
    int *n_bad = ctx;
    if (level == 2) ++*n_bad;
    printf("%s  %-20s %s\n", marks[level < 0 ? 0 : level > 2 ? 2 : level], what, text);
}

static int model_verify(const struct vnp_cli_args *args, const struct model_options *o) {
    int n_bad = 0;
    vnp_engine_options e = VNP_ENGINE_OPTIONS_INIT;
    if (args->n_positional > 1)
        return vnp_cli_usage("model verify", "one folder or bundle at a time; parts have options");
    e.models = args->n_positional ? args->positional[0] : o->models;
    e.esm = o->esm;
    e.dnabert = o->dnabert;
    e.classifier = o->classifier;
    e.device = o->device;
    e.precision = o->precision;
    e.n_threads = (int32_t)o->n_threads;
    if (!e.models && !e.esm && !e.dnabert && !e.classifier)
        return vnp_cli_usage("model verify", "no model; name a folder or --esm, --dnabert, "
                                             "--classifier");
    vnp_status s = vnp_model_verify(&e, print_report, &n_bad);
    int rc = vnp_cli_flush(0);
    return s == VNP_OK ? rc : vnp_cli_fail();
}

int vnp_cli_model(int argc, char **argv) {
    static const char *const verbs[] = {"info", "convert", "verify", "validate", NULL};
    struct model_options options = {0}, *o = &options;
    struct vnp_cli_args args = {0};
    char name[32];
    if (argc > 0 && (strcmp(argv[0], "-h") == 0 || strcmp(argv[0], "--help") == 0))
        return vnp_cli_help("model");
    if (argc < 1) return vnp_cli_usage("model", "say what: info, convert, verify or validate");
    const char *verb = argv[0];
    if (strcmp(verb, "validate") == 0) return vnp_cli_validate(argc - 1, argv + 1);
    bool is_info = strcmp(verb, "info") == 0, is_convert = strcmp(verb, "convert") == 0;
    if (!is_info && !is_convert && strcmp(verb, "verify") != 0) {
        const char *near = vnp_cli_nearest(verb, verbs);
        return vnp_cli_usage("model", "there is no 'model %s'%s%s%s", verb,
                             near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    const struct vnp_cli_option info_table[] = {{"json", 0, VNP_OPT_FLAG, &o->is_json, NULL, 0, 0},
                                                {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    const struct vnp_cli_option table[] = {
        {"models", 0, VNP_OPT_TEXT, &o->models, NULL, 0, 0},
        {"esm", 0, VNP_OPT_TEXT, &o->esm, NULL, 0, 0},
        {"dnabert", 0, VNP_OPT_TEXT, &o->dnabert, NULL, 0, 0},
        {"classifier", 0, VNP_OPT_TEXT, &o->classifier, NULL, 0, 0},
        {is_convert ? "output" : "device", is_convert ? 'o' : 0, VNP_OPT_TEXT,
         is_convert ? &o->out : &o->device, NULL, 0, 0},
        {is_convert ? "note" : "precision", 0, VNP_OPT_TEXT, is_convert ? &o->note : &o->precision,
         NULL, 0, 0},
        {is_convert ? "window" : "threads", 0, VNP_OPT_INT,
         is_convert ? &o->window_bp : &o->n_threads, is_convert ? "window_bp" : "n_threads", 0, 0},
        {is_convert ? "force" : NULL, 0, VNP_OPT_FLAG, &o->is_forced, NULL, 0, 0},
        {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    snprintf(name, sizeof name, "model %s", verb);
    args.command = name;
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc - 1, argv + 1, is_info ? info_table : table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("model");
    else if (rc == 0)
        rc = is_info      ? model_info(&args, o->is_json)
             : is_convert ? model_convert(&args, o)
                          : model_verify(&args, o);
    free(args.positional);
    return rc;
}

/* ---- status --------------------------------------------------------------------------------- */

static void print_left(double s) {
    if (s < 120)
        printf("  %-10s about %.0f s\n", "left", s);
    else if (s < 2 * 3600)
        printf("  %-10s about %.0f min\n", "left", s / 60);
    else
        printf("  %-10s about %.1f h\n", "left", s / 3600);
}

static void print_status(const char *path, const vnp_folder_status *s) {
    char done[32] = "";
    bool is_running = strcmp(s->state, "running") == 0;
    if (s->n_bytes_total > 0 && s->n_bytes_read >= 0)
        snprintf(done, sizeof done, " %.1f%% of the input",
                 100.0 * (double)s->n_bytes_read / (double)s->n_bytes_total);
    printf("%s\n", path);
    printf("  %-10s %s%s\n", "state",
           !is_running    ? s->state
           : s->is_active ? "running"
                          : "stopped; "
                            "repeat its command to go on",
           is_running ? done : "");
    if (s->shard[0] && strcmp(s->shard, "0/1") != 0) printf("  %-10s %s\n", "shard", s->shard);
    printf("  %-10s %lld records, %lld windows, %lld frames, %lld tokens\n", "done",
           (long long)s->n_records, (long long)s->n_windows, (long long)s->n_frames,
           (long long)s->n_tokens);
    printf("  %-10s %.1f s in %lld session%s, %.0f tokens/s\n", "time", s->elapsed_s,
           (long long)s->n_sessions, s->n_sessions == 1 ? "" : "s", s->tokens_per_s);
    if (is_running && s->eta_s >= 0) print_left(s->eta_s);
    if (s->n_failed_frames)
        printf("  %-10s %lld frames\n", "failed", (long long)s->n_failed_frames);
    if (s->n_incidents)
        printf("  %-10s %lld, see run.log and summary.json\n", "incidents",
               (long long)s->n_incidents);
}

static void print_status_json(const char *path, const vnp_folder_status *s) {
    printf("{\"path\": ");
    vnp_cli_json_text(path);
    printf(", \"state\": \"%s\", \"is_active\": %s, \"shard\": \"%s\"", s->state,
           s->is_active ? "true" : "false", s->shard);
    printf(", \"records\": %lld, \"windows\": %lld, \"frames\": %lld, \"tokens\": %lld",
           (long long)s->n_records, (long long)s->n_windows, (long long)s->n_frames,
           (long long)s->n_tokens);
    printf(", \"failed_frames\": %lld, \"incidents\": %lld, \"sessions\": %lld",
           (long long)s->n_failed_frames, (long long)s->n_incidents, (long long)s->n_sessions);
    printf(", \"bytes_read\": %lld, \"bytes_total\": %lld, \"elapsed_s\": %.3f, "
           "\"tokens_per_s\": %.1f, \"eta_s\": %.1f}\n",
           (long long)s->n_bytes_read, (long long)s->n_bytes_total, s->elapsed_s, s->tokens_per_s,
           s->eta_s);
}

int vnp_cli_status(int argc, char **argv) {
    bool is_json = false;
    const struct vnp_cli_option table[] = {{"json", 0, VNP_OPT_FLAG, &is_json, NULL, 0, 0},
                                           {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "status"};
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("status");
    else if (rc == 0 && args.n_positional == 0)
        rc = vnp_cli_usage("status", "name a folder of predict, or a file of embed");
    for (int i = 0; rc == 0 && !args.is_help && i < args.n_positional; i++) {
        vnp_folder_status s = {.size = sizeof s};
        if (vnp_folder_status_get(args.positional[i], &s) != VNP_OK)
            rc = vnp_cli_fail();
        else if (is_json)
            print_status_json(args.positional[i], &s);
        else
            print_status(args.positional[i], &s);
    }
    free(args.positional);
    return vnp_cli_flush(rc);
}

/* ---- report --------------------------------------------------------------------------------- */

int vnp_cli_report(int argc, char **argv) {
    const char *out = NULL;
    int64_t n_records = 0;
    bool is_quiet = false;
    const struct vnp_cli_option table[] = {{"output", 'o', VNP_OPT_TEXT, &out, NULL, 0, 0},
                                           {"records", 0, VNP_OPT_INT, &n_records, NULL, 1, 10000},
                                           {"quiet", 'q', VNP_OPT_FLAG, &is_quiet, NULL, 0, 0},
                                           {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "report"};
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("report");
    else if (rc == 0 && args.n_positional != 1)
        rc = vnp_cli_usage("report", "name one folder that predict or merge has written");
    else if (rc == 0 && vnp_folder_report(args.positional[0], out, n_records) != VNP_OK)
        rc = vnp_cli_fail();
    else if (rc == 0 && !is_quiet)
        vnp_cli_say(2, "wrote %s%s", out ? out : args.positional[0], out ? "" : "/report.html");
    free(args.positional);
    return rc;
}

/* ---- evaluate ------------------------------------------------------------------------------- */

int vnp_cli_evaluate(int argc, char **argv) {
    const char *truth = NULL;
    char *text = NULL;
    const struct vnp_cli_option table[] = {{"truth", 0, VNP_OPT_TEXT, &truth, NULL, 0, 0},
                                           {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "evaluate"};
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("evaluate");
    else if (rc == 0 && args.n_positional != 1)
        rc = vnp_cli_usage("evaluate", "name one folder that predict has written");
    else if (rc == 0 && !truth)
        rc = vnp_cli_usage("evaluate", "no answers; --truth names a table: record, virus or other");
    else if (rc == 0 && vnp_evaluate(truth, args.positional[0], &text) != VNP_OK)
        rc = vnp_cli_fail();
    if (rc == 0 && text) {
        fputs(text, stdout);
        rc = vnp_cli_flush(0);
    }
    vnp_text_free(text);
    free(args.positional);
    return rc;
}

/* ---- doctor --------------------------------------------------------------------------------- */

int vnp_cli_doctor(int argc, char **argv) {
    const struct vnp_cli_option table[] = {{NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "doctor"};
    int n_bad = 0;
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("doctor");
    else if (rc == 0 && args.n_positional)
        rc = vnp_cli_usage("doctor", "takes no '%s'", args.positional[0]);
    else if (rc == 0)
        rc = vnp_cli_flush(vnp_doctor(print_report, &n_bad) == VNP_OK ? 0 : vnp_cli_fail());
    free(args.positional);
    return rc;
}
