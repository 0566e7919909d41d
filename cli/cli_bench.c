// SPDX-License-Identifier: MIT
// bench WHAT: figures of this machine as tables or as one JSON list. A new bench is a row in
// `benches` and its options in `bench`.
#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_WIDTH = 22, CELL_WIDTH = 10 };

static const struct {
    const char *name;
    bool has_inputs;
} benches[] = {{"host", true}, {"pack", false}, {"device", false}};
enum { N_BENCHES = sizeof benches / sizeof benches[0] };

struct printer {
    bool is_json, has_rows;
    char table[512]; /* whose rows are being printed */
};

static int cell_width(const vnp_bench_cell *c) {
    int n = (int)strlen(c->title) + 2;
    return n > CELL_WIDTH ? n : CELL_WIDTH;
}

static void print_cell(const vnp_bench_cell *c) {
    double v = c->value;
    size_t n_title = strlen(c->title);
    int width = cell_width(c);
    if (!isfinite(v))
        printf("%*s", width, "-");
    else if (n_title > 0 && c->title[n_title - 1] == '?')
        printf("%*s", width, v != 0 ? "yes" : "no");
    else if (v == floor(v) || fabs(v) >= 1000)
        printf("%*.0f", width, v);
    else if (fabs(v) < 0.01)
        printf("%*.1e", width, v);
    else
        printf("%*.*f", width, fabs(v) >= 100 ? 2 : 3, v);
}

static void print_row(struct printer *p, const vnp_bench_row *row) {
    if (strcmp(p->table, row->table) != 0) {
        snprintf(p->table, sizeof p->table, "%s", row->table);
        printf("%s%s\n  %-*s", p->has_rows ? "\n" : "", row->table, NAME_WIDTH, "");
        for (size_t i = 0; i < row->n_cells; i++)
            printf("%*s", cell_width(&row->cells[i]), row->cells[i].title);
        printf("\n");
    }
    printf("  %-*s", NAME_WIDTH, row->name);
    for (size_t i = 0; i < row->n_cells; i++) print_cell(&row->cells[i]);
    printf("\n");
}

static void print_row_json(const struct printer *p, const vnp_bench_row *row) {
    printf("%s\n  {\"table\": ", p->has_rows ? "," : "[");
    vnp_cli_json_text(row->table);
    printf(", \"name\": ");
    vnp_cli_json_text(row->name);
    for (size_t i = 0; i < row->n_cells; i++) {
        printf(", \"%s\": ", row->cells[i].key);
        if (isfinite(row->cells[i].value))
            printf("%.6g", row->cells[i].value);
        else
            printf("null");
    }
    printf("}");
}

static void take_row(void *ctx, const vnp_bench_row *row) {
    struct printer *p = ctx;
    if (p->is_json)
        print_row_json(p, row);
    else
        print_row(p, row);
    p->has_rows = true;
    fflush(stdout); /* a bench takes its time: rows are shown as they come */
}

/* Closes the list and says what failed. */
static int end(const struct printer *p, vnp_status s) {
    if (p->is_json) printf("%s\n]\n", p->has_rows ? "" : "[");
    int rc = vnp_cli_flush(0);
    return s == VNP_OK ? rc : vnp_cli_fail();
}

static int run(const vnp_bench_options *o, bool is_json) {
    struct printer p = {.is_json = is_json};
    bool is_talking =
        strcmp(o->what, "device") == 0; /* of what it leaves out; a run of host talks more */
    if (is_talking) vnp_cli_report_open(&(struct vnp_cli_report_options){0});
    int rc = end(&p, vnp_bench(o, take_row, &p));
    if (is_talking) vnp_cli_report_close();
    return rc;
}

static int unknown(const char *what) {
    const char *names[N_BENCHES + 1] = {NULL};
    for (int i = 0; i < N_BENCHES; i++) names[i] = benches[i].name;
    const char *near = vnp_cli_nearest(what, names);
    return vnp_cli_usage("bench", "there is no 'bench %s'%s%s%s", what,
                         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int bench(int which, int argc, char **argv) {
    vnp_bench_options o = VNP_BENCH_OPTIONS_INIT;
    int64_t n_mb = 0, window = 0, n_threads = 0, n_seconds = 0;
    bool is_json = false;
    char name[32];
    const struct vnp_cli_option host[] = {{"json", 0, VNP_OPT_FLAG, &is_json, NULL, 0, 0},
                                          {"size", 0, VNP_OPT_INT, &n_mb, NULL, 1, 100000},
                                          {"window", 0, VNP_OPT_INT, &window, "window_bp", 0, 0},
                                          {"threads", 0, VNP_OPT_INT, &n_threads, NULL, 1, 16},
                                          {"models", 0, VNP_OPT_TEXT, &o.models, NULL, 0, 0},
                                          {"dnabert", 0, VNP_OPT_TEXT, &o.dnabert, NULL, 0, 0},
                                          {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    const struct vnp_cli_option pack[] = {
        {"json", 0, VNP_OPT_FLAG, &is_json, NULL, 0, 0},
        {"sequences", 0, VNP_OPT_INT, &o.n_sequences, NULL, 1, 1000000000},
        {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    const struct vnp_cli_option device[] = {
        {"json", 0, VNP_OPT_FLAG, &is_json, NULL, 0, 0},
        {"model", 0, VNP_OPT_TEXT, &o.model, NULL, 0, 0},
        {"device", 0, VNP_OPT_TEXT, &o.device, NULL, 0, 0},
        {"precision", 0, VNP_OPT_TEXT, &o.precision, NULL, 0, 0},
        {"seconds", 0, VNP_OPT_INT, &n_seconds, NULL, 1, 3600},
        {"tokens", 0, VNP_OPT_INT, &o.n_tokens, "n_tokens", 0, 0},
        {"threads", 0, VNP_OPT_INT, &n_threads, "n_threads", 0, 0},
        {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    const struct vnp_cli_option *const tables[N_BENCHES] = {host, pack, device};
    struct vnp_cli_args args = {.command = name};
    snprintf(name, sizeof name, "bench %s", benches[which].name);
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, tables[which], &args);
    o.what = benches[which].name;
    o.n_bytes = n_mb * 1000000;
    o.window_bp = (int32_t)window;
    o.n_seconds = (int32_t)n_seconds;
    o.n_threads = (int32_t)n_threads;
    o.inputs = args.positional;
    o.n_inputs = (size_t)args.n_positional;
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("bench");
    else if (rc == 0 && args.n_positional && !benches[which].has_inputs)
        rc = vnp_cli_usage(name, "takes no '%s'", args.positional[0]);
    else if (rc == 0)
        rc = run(&o, is_json);
    free(args.positional);
    return rc;
}

int vnp_cli_validate(int argc, char **argv) {
    vnp_validate_options o = VNP_VALIDATE_OPTIONS_INIT;
    struct printer p = {.is_json = false};
    int64_t window = 0, n_threads = 0;
    const struct vnp_cli_option table[] = {
        {"model", 0, VNP_OPT_TEXT, &o.model, NULL, 0, 0},
        {"models", 0, VNP_OPT_TEXT, &o.models, NULL, 0, 0},
        {"esm", 0, VNP_OPT_TEXT, &o.esm, NULL, 0, 0},
        {"dnabert", 0, VNP_OPT_TEXT, &o.dnabert, NULL, 0, 0},
        {"classifier", 0, VNP_OPT_TEXT, &o.classifier, NULL, 0, 0},
        {"device", 0, VNP_OPT_TEXT, &o.device, NULL, 0, 0},
        {"precision", 0, VNP_OPT_TEXT, &o.precisions, NULL, 0, 0},
        {"frames", 0, VNP_OPT_INT, &o.n_frames, NULL, 1, 10000000},
        {"window", 0, VNP_OPT_INT, &window, "window_bp", 0, 0},
        {"threads", 0, VNP_OPT_INT, &n_threads, "n_threads", 0, 0},
        {"json", 0, VNP_OPT_FLAG, &p.is_json, NULL, 0, 0},
        {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "model validate"};
    args.positional = calloc((size_t)argc + 1, sizeof *args.positional);
    if (!args.positional) return VNP_EXIT_INTERNAL;
    int rc = vnp_cli_parse(argc, argv, table, &args);
    o.inputs = args.positional;
    o.n_inputs = (size_t)args.n_positional;
    o.window_bp = (int32_t)window;
    o.n_threads = (int32_t)n_threads;
    if (rc == 0 && args.is_help) {
        rc = vnp_cli_help("model");
    } else if (rc == 0 && o.model && (o.models || o.esm || o.dnabert || o.classifier)) {
        rc = vnp_cli_usage("model validate", "--model is one encoder alone, without a classifier");
    } else if (rc == 0 && args.n_positional == 0) {
        rc = vnp_cli_usage("model validate", "no sequences; name FASTA or FASTQ files");
    } else if (rc == 0) {
        vnp_cli_report_open(&(struct vnp_cli_report_options){0});
        rc = end(&p, vnp_model_validate(&o, take_row, &p));
        vnp_cli_report_close();
    }
    free(args.positional);
    return rc;
}

int vnp_cli_bench(int argc, char **argv) {
    bool is_help = argc < 1 || strcmp(argv[0], "-h") == 0 || strcmp(argv[0], "--help") == 0;
    if (is_help) return vnp_cli_help("bench"); /* which says what there is */
    for (int i = 0; i < N_BENCHES; i++)
        if (strcmp(argv[0], benches[i].name) == 0) return bench(i, argc - 1, argv + 1);
    return unknown(argv[0]);
}
