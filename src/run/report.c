// SPDX-License-Identifier: MIT
// report: what a finished run of predict has found, gathered for one page. Reads the run database
// (records, scores) and summary.json (devices, times); writes through the out room. Memory: the
// records shown, whatever the input's size.
//
// A record's most viral stretch is the run of windows with the largest sum of (score - 1/2) over
// scored windows (maximum subarray; Kadane, in Bentley, CACM 27(9), 1984).
#include "run/engine.h"
#include "out/out.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    DEFAULT_SHOWN = 100,
    MAX_UNSCORED = 50,
    MAX_ROWS = 50,   /* of devices, of incidents */
    MIN_STRETCH = 3, /* viral windows in a record called other before it is shown */
    MAX_LINES = 32,
    MAX_CELLS = 1024
};

/* Records that are shown, the one to give way first at [0] (a heap by rank). */
struct shelf {
    struct vnp_report_record *records;
    int64_t n, cap, n_all;
};

struct gather {
    struct vnp_report r;
    struct shelf virus, stretches, other, unscored;
    int64_t window_bp;
    /* of the record being read */
    struct vnp_windows windows;
    struct vnp_report_record x;
    int64_t n_in_cell[VNP_REPORT_CELLS];
    double sum, sum_open; /* of score - 1/2: all; since open_first */
    int64_t open_first, open_scored, open_virus;
    /* text that the page points to */
    json_t *summary;
    char *texts[MAX_CELLS];
    size_t n_texts;
    struct vnp_report_line lines[MAX_LINES];
    const char *notes[MAX_LINES];
    const char **cells[2]; /* of the two tables */
    bool is_full;
};

/* ---- a record's windows --------------------------------------------------------------------- */

static int bin_of(double score) {
    int bin = (int)(score * VNP_REPORT_BINS);
    return VNP_MIN(VNP_MAX(bin, 0), VNP_REPORT_BINS - 1);
}

static void add_to_stretch(struct gather *g, const struct run_window_score *w, double evidence) {
    if (g->sum_open <= 0) {
        g->sum_open = 0;
        g->open_first = w->idx;
        g->open_scored = g->open_virus = 0;
    }
    g->sum_open += evidence;
    g->open_scored++;
    g->open_virus += w->max2 >= w->max1;
    if (g->sum_open <= g->x.stretch_sum) return;
    int64_t unused;
    g->x.stretch_sum = g->sum_open;
    g->x.stretch_scored = g->open_scored;
    g->x.stretch_virus = g->open_virus;
    vnp_windows_at(&g->windows, g->open_first, &g->x.stretch_begin, &unused);
    vnp_windows_at(&g->windows, w->idx, &unused, &g->x.stretch_end);
}

static void add_window(void *ctx, const struct run_window_score *w) {
    struct gather *g = ctx;
    double evidence = (double)w->max2 - 0.5;
    bool is_virus = w->max2 >= w->max1;
    int64_t cell = w->idx * g->x.n_cells / VNP_MAX(g->windows.n, 1);
    g->r.windows[is_virus][bin_of((double)w->max2)]++;
    g->r.n_windows_virus += is_virus;
    g->sum += evidence;
    add_to_stretch(g, w, evidence);
    if (cell < 0 || cell >= g->x.n_cells) return;
    float *mean = &g->x.cells[cell];
    int64_t n = ++g->n_in_cell[cell];
    *mean = n == 1 ? w->max2 : *mean + (w->max2 - *mean) / (float)n;
}

static vnp_status begin_record(struct gather *g, const struct vnp_ledger_record *rec) {
    VNP_TRY(vnp_windows_init(rec->length, g->window_bp, &g->windows));
    g->x = (struct vnp_report_record){.n_cells = (int)VNP_MIN(rec->n_windows, VNP_REPORT_CELLS)};
    for (int i = 0; i < g->x.n_cells; i++) g->x.cells[i] = NAN;
    memset(g->n_in_cell, 0, sizeof g->n_in_cell);
    g->sum = g->sum_open = 0;
    return VNP_OK;
}

/* ---- the records shown ---------------------------------------------------------------------- */

/* Larger is shown first; among equals the one that came first. */
static bool gives_way(const struct vnp_report_record *a, const struct vnp_report_record *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->idx > b->idx;
}

static void swap(struct vnp_report_record *a, struct vnp_report_record *b) {
    struct vnp_report_record t = *a;
    *a = *b;
    *b = t;
}

static void sift_down(struct shelf *s, int64_t i) {
    for (;;) {
        int64_t least = i;
        for (int64_t c = 2 * i + 1; c <= 2 * i + 2 && c < s->n; c++)
            if (gives_way(&s->records[c], &s->records[least])) least = c;
        if (least == i) return;
        swap(&s->records[i], &s->records[least]);
        i = least;
    }
}

static vnp_status shelf_init(struct shelf *s, int64_t cap) {
    s->cap = cap;
    s->records = calloc((size_t)cap, sizeof *s->records);
    return s->records ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report");
}

static void shelf_fini(struct shelf *s) {
    for (int64_t i = 0; i < s->n; i++) free(s->records[i].id);
    free(s->records);
}

static vnp_status shelf_put(struct shelf *s, const struct vnp_report_record *x, const char *id) {
    s->n_all++;
    if (s->n == s->cap && !gives_way(&s->records[0], x)) return VNP_OK;
    char *copy = strdup(id);
    if (!copy) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report");
    if (s->n == s->cap) {
        free(s->records[0].id);
        s->records[0] = *x;
        s->records[0].id = copy;
        sift_down(s, 0);
        return VNP_OK;
    }
    int64_t i = s->n++;
    s->records[i] = *x;
    s->records[i].id = copy;
    for (; i > 0 && gives_way(&s->records[i], &s->records[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&s->records[i], &s->records[(i - 1) / 2]);
    return VNP_OK;
}

static int by_rank(const void *a, const void *b) {
    return gives_way(a, b) ? 1 : gives_way(b, a) ? -1 : 0;
}

static struct vnp_report_list shelf_list(struct shelf *s) {
    qsort(s->records, (size_t)s->n, sizeof *s->records, by_rank);
    return (struct vnp_report_list){s->records, s->n, s->n_all};
}

/* ---- all records ---------------------------------------------------------------------------- */

static int class_of(int64_t length) {
    static const int64_t ends[] = {1000, 3000, 10000, 30000};
    int k = 0;
    while (k < (int)VNP_COUNT(ends) && length >= ends[k]) k++;
    return k;
}

static vnp_status end_record(struct gather *g, const struct vnp_ledger_record *rec,
                             const struct run_tally *t) {
    struct vnp_report *r = &g->r;
    struct vnp_report_record *x = &g->x;
    vnp_run_tally_row(rec, t, &x->row);
    bool is_virus = x->row.call[0] == 'v', is_unscored = x->row.call[0] == 'u';
    bool has_failed = t->n_failed > 0;
    snprintf(x->reason, sizeof x->reason, "%s", t->reason);
    x->row.seq_id = x->row.reason = NULL; /* they end with the cursor's next record */
    x->idx = rec->idx;
    r->n_records++;
    r->n_virus += is_virus;
    r->n_other += x->row.call[0] == 'o';
    r->n_unscored += is_unscored;
    r->n_failed += has_failed;
    r->n_bases += rec->length;
    r->n_virus_bases += is_virus ? rec->length : 0;
    r->n_windows += rec->n_windows;
    r->n_windows_scored += t->n_scored;
    r->classes[class_of(rec->length)][is_virus ? 0 : is_unscored ? 2 : 1]++;
    if (!is_unscored) r->records[is_virus][bin_of(x->row.virus_score)]++;
    if (is_unscored || has_failed) {
        x->rank = has_failed;
        VNP_TRY(shelf_put(&g->unscored, x, rec->id));
    }
    if (is_unscored) return VNP_OK;
    x->rank = is_virus ? g->sum : x->row.virus_score;
    VNP_TRY(shelf_put(is_virus ? &g->virus : &g->other, x, rec->id));
    if (is_virus || x->stretch_virus < MIN_STRETCH) return VNP_OK;
    x->rank = x->stretch_sum;
    return shelf_put(&g->stretches, x, rec->id);
}

static vnp_status walk(struct gather *g, struct vnp_ledger_cursor *cursor) {
    struct run_tally_watcher watcher = {.ctx = g, .window = add_window};
    for (;;) {
        struct vnp_ledger_record rec;
        struct run_tally t;
        bool has;
        VNP_TRY(vnp_ledger_cursor_record(cursor, &rec, &has));
        if (!has) return VNP_OK;
        if (vnp_run_is_stop_requested())
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
        VNP_TRY(begin_record(g, &rec));
        VNP_TRY(vnp_run_tally_record(cursor, &watcher, &t));
        VNP_TRY(end_record(g, &rec, &t));
    }
}

/* ---- text about the run --------------------------------------------------------------------- */

/* Kept until the page is written; "" when memory or room is out. */
static const char *keep(struct gather *g, const char *fmt, ...) VNP_PRINTF(2, 3);
static const char *keep(struct gather *g, const char *fmt, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int n = g->n_texts < MAX_CELLS ? vasprintf(&text, fmt, args) : -1;
    va_end(args);
    if (n < 0) {
        g->is_full = true;
        return "";
    }
    g->texts[g->n_texts++] = text;
    return text;
}

static void line(struct gather *g, const char *key, const char *value) {
    if (!value || !value[0] || g->r.n_lines == MAX_LINES) return;
    g->lines[g->r.n_lines++] = (struct vnp_report_line){key, value};
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static double number_of(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

static void add_run_lines(struct gather *g, struct vnp_ledger *l) {
    static const char *const facts[] = {"ESM-2 model", "DNABERT-S model", "classifier", "window",
                                        "precision",   "backend",         "shard"};
    const json_t *s = g->summary, *packing = json_object_get(s, "packing");
    char value[256];
    struct vnp_ledger_counts n;
    line(g, "version", text_of(s, "version"));
    line(g, "command", text_of(s, "command"));
    for (size_t i = 0; i < VNP_COUNT(facts); i++) {
        if (vnp_ledger_meta_get(l, facts[i], value, sizeof value) != VNP_OK) continue;
        if (strcmp(facts[i], "shard") == 0 && strcmp(value, "0/1") == 0) continue;
        line(g, facts[i], keep(g, "%s", value));
    }
    if (vnp_ledger_count(l, &n) == VNP_OK)
        line(g, "encoded",
             keep(g, "%lld open frames, %lld tokens of DNA, %lld of protein, %lld duplicates",
                  (long long)n.n_frames, (long long)n.n_tokens_dna, (long long)n.n_tokens_protein,
                  (long long)n.n_duplicates));
    if (number_of(s, "computing_s") > 0)
        line(g, "computing",
             keep(g, "%.1f s in %.0f session%s", number_of(s, "computing_s"),
                  number_of(s, "sessions"), number_of(s, "sessions") < 1.5 ? "" : "s"));
    if (number_of(packing, "packs") > 0)
        line(g, "batches",
             keep(g, "%.0f, filled to %.1f %%", number_of(packing, "packs"),
                  100 * number_of(packing, "fill")));
}

/* A table of `list`'s objects; strings as they are, numbers without digits behind the point. */
static vnp_status table(struct gather *g, const json_t *list, const char *const *keys,
                        const char *const *head, int64_t n_cols, struct vnp_report_table *out) {
    int64_t n_rows = VNP_MIN((int64_t)json_array_size(list), MAX_ROWS);
    const char **cells = malloc((size_t)(n_rows * n_cols + 1) * sizeof *cells);
    if (!cells) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report");
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t k = 0; k < n_cols; k++) {
            const json_t *v = json_object_get(json_array_get(list, (size_t)i), keys[k]);
            cells[i * n_cols + k] =
                json_is_string(v) ? json_string_value(v)
                : json_is_number(v)
                    ? keep(g, "%.*f", strstr(keys[k], "_s") ? 1 : 0, json_number_value(v))
                    : "";
        }
    g->cells[out == &g->r.incidents] = cells;
    *out = (struct vnp_report_table){head, cells, n_rows, n_cols};
    return VNP_OK;
}

static vnp_status add_summary(struct gather *g, struct vnp_ledger *l) {
    static const char *const device_keys[] = {"name",      "worker",       "packs",
                                              "tokens",    "tokens_per_s", "busy_s",
                                              "waiting_s", "faults",       "restarts"};
    static const char *const device_head[] = {"device",     "worker",   "batches",
                                              "tokens",     "tokens/s", "busy, s",
                                              "waiting, s", "faults",   "restarts"};
    static const char *const incident_keys[] = {"time", "device", "kind", "text"};
    const json_t *warnings = json_object_get(g->summary, "warnings");
    for (size_t i = 0; i < json_array_size(warnings) && g->r.n_notes < MAX_LINES; i++) {
        const char *text = json_string_value(json_array_get(warnings, i));
        if (text) g->notes[g->r.n_notes++] = text;
    }
    add_run_lines(g, l);
    g->r.lines = g->lines;
    g->r.notes = g->notes;
    VNP_TRY(table(g, json_object_get(g->summary, "devices"), device_keys, device_head,
                  (int64_t)VNP_COUNT(device_keys), &g->r.devices));
    return table(g, json_object_get(g->summary, "incidents"), incident_keys, incident_keys,
                 (int64_t)VNP_COUNT(incident_keys), &g->r.incidents);
}

/* "reads.fa and 2 more, finished 2026-11-24 20:11 UTC, virnucpro 0.1.0" */
static void add_subtitle(struct gather *g, const char *path_summary) {
    const json_t *inputs = json_object_get(g->summary, "inputs");
    const char *first = json_string_value(json_array_get(inputs, 0));
    size_t n = json_array_size(inputs);
    char more[48] = "", when[64] = "";
    struct stat st;
    struct tm tm;
    if (n > 1) snprintf(more, sizeof more, " and %zu more", n - 1);
    if (stat(path_summary, &st) == 0 && gmtime_r(&st.st_mtime, &tm))
        strftime(when, sizeof when, ", finished %Y-%m-%d %H:%M UTC", &tm);
    g->r.subtitle = keep(g, "%s%s%s, virnucpro %s", first ? first : "", more, when,
                         text_of(g->summary, "version"));
}

/* ---- the page ------------------------------------------------------------------------------- */

static vnp_status check_run(struct gather *g, struct vnp_ledger *l, const char *dir) {
    char value[256];
    if (vnp_ledger_meta_get(l, "command", value, sizeof value) != VNP_OK ||
        strcmp(value, "predict") != 0)
        return vnp_run_misfit(dir, "name the output folder of predict or merge",
                              "not a run of predict");
    if (vnp_ledger_state_get(l) != VNP_LEDGER_COMPLETE)
        return vnp_run_misfit(dir, "repeat its command, then report", "the run is not finished");
    VNP_TRY(vnp_ledger_meta_get(l, "window", value, sizeof value));
    g->window_bp = strtoll(value, NULL, 10);
    return VNP_OK;
}

static vnp_status gather_all(struct gather *g, struct vnp_ledger *l,
                             const struct vnp_run_report_options *opt) {
    char path[4096];
    int64_t n_shown = opt->n_records > 0 ? opt->n_records : DEFAULT_SHOWN;
    struct vnp_ledger_cursor *cursor;
    VNP_TRY(check_run(g, l, opt->dir));
    VNP_TRY(shelf_init(&g->virus, n_shown));
    VNP_TRY(shelf_init(&g->stretches, n_shown));
    VNP_TRY(shelf_init(&g->other, n_shown));
    VNP_TRY(shelf_init(&g->unscored, MAX_UNSCORED));
    VNP_TRY(vnp_ledger_cursor_open(l, &cursor));
    vnp_status status = walk(g, cursor);
    vnp_ledger_cursor_close(cursor);
    VNP_TRY(status);
    g->r.virus = shelf_list(&g->virus);
    g->r.stretches = shelf_list(&g->stretches);
    g->r.other = shelf_list(&g->other);
    g->r.unscored = shelf_list(&g->unscored);
    snprintf(path, sizeof path, "%s/summary.json", opt->dir);
    g->summary = json_load_file(path, 0, NULL); /* without it the page says less */
    g->r.title = "Viruses found by virnucpro";
    add_subtitle(g, path);
    VNP_TRY(add_summary(g, l));
    return g->is_full ? vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report") : VNP_OK;
}

vnp_status vnp_run_report(const struct vnp_run_report_options *opt) {
    char db[4096], out[4096];
    struct stat st;
    snprintf(db, sizeof db, "%s/run.db", opt->dir);
    if (opt->out)
        snprintf(out, sizeof out, "%s", opt->out);
    else
        snprintf(out, sizeof out, "%s/report.html", opt->dir);
    if (stat(db, &st) != 0)
        return vnp_run_not_here(opt->dir, "name the output folder of predict or merge");
    struct vnp_ledger_options ledger = {.path = db, .is_read_only = true};
    struct vnp_ledger *l;
    VNP_TRY(vnp_ledger_open(&ledger, &l));
    struct gather *g = calloc(1, sizeof *g);
    vnp_status status = g ? gather_all(g, l, opt) : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report");
    if (status == VNP_OK) status = vnp_out_report(out, &g->r);
    if (g) {
        shelf_fini(&g->virus);
        shelf_fini(&g->stretches);
        shelf_fini(&g->other);
        shelf_fini(&g->unscored);
        for (size_t i = 0; i < g->n_texts; i++) free(g->texts[i]);
        free(g->cells[0]);
        free(g->cells[1]);
        json_decref(g->summary);
        free(g);
    }
    vnp_ledger_close(l);
    return status;
}
