// SPDX-License-Identifier: MIT
// Judges a finished run against known answers: AUROC, AUPRC, F1 at the program's own threshold,
// Brier score and a reliability curve, for windows and for whole records, in all and by group.
// Owns the reading of the truth table and of a run's two score tables; computes, never prints.
//
// AUROC is the probability that a virus scores above an other, ties counting half (Hanley and
// McNeil 1982), from ranks. AUPRC is average precision: the sum over distinct scores of
// (recall gained) * precision there (Davis and Goadrich 2006). A window's score is the largest
// score2 of its frames, its call upstream's rule (largest score2 >= largest score1); a record's
// score and call are those of contigs.tsv. Level `evidence` judges records by the sum of their
// windows' log odds instead of the mean: what independent windows would add up to, so it also
// counts how many there are (naive Bayes; calls virus when the sum is not negative).
#include "run/run.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_BINS = 10, MAX_GROUPS = 256 };

struct truth_row {
    char *id;
    bool is_virus, is_seen;
    int group;
    int64_t n_windows; /* scored ones of the run's record */
    double log_odds;   /* their sum */
};

struct truth {
    struct truth_row *rows; /* sorted by id */
    size_t n, cap;
    char *groups[MAX_GROUPS]; /* 0 is all */
    int n_groups;
};

/* One scored thing. */
struct point {
    double score, p; /* orders; probability of virus */
    bool is_virus, is_called;
    int group;
};

struct points {
    struct point *p;
    size_t n, cap;
    int64_t n_unscored, n_unknown; /* without a score; without a row in the truth table */
};

struct metrics {
    int64_t n, n_virus;
    double auroc, auprc, f1, precision, recall, accuracy, brier;
};

/* ---- text that grows ------------------------------------------------------------------------ */

struct text {
    char *s;
    size_t n, cap;
    bool is_full;
};

static void text_add(struct text *t, const char *fmt, ...) VNP_PRINTF(2, 3);
static void text_add(struct text *t, const char *fmt, ...) {
    char line[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (n < 0 || t->is_full) return;
    size_t len = VNP_MIN((size_t)n, sizeof line - 1);
    if (t->n + len + 1 > t->cap) {
        size_t cap = (t->cap + len + 1) * 2;
        char *s = realloc(t->s, cap);
        if (!s) {
            t->is_full = true;
            return;
        }
        t->s = s;
        t->cap = cap;
    }
    memcpy(t->s + t->n, line, len + 1);
    t->n += len;
}

/* ---- truth table ---------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b) {
    return strcmp(((const struct truth_row *)a)->id, ((const struct truth_row *)b)->id);
}

static void truth_free(struct truth *t) {
    for (size_t i = 0; i < t->n; i++) free(t->rows[i].id);
    for (int i = 0; i < t->n_groups; i++) free(t->groups[i]);
    free(t->rows);
}

static vnp_status group_of(struct truth *t, const char *name, int *out) {
    for (int i = 0; i < t->n_groups; i++)
        if (strcmp(t->groups[i], name) == 0) return *out = i, VNP_OK;
    if (t->n_groups == MAX_GROUPS)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_INPUT, "more than %d groups", MAX_GROUPS - 1);
    if (!(t->groups[t->n_groups] = strdup(name)))
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "truth table");
    *out = t->n_groups++;
    return VNP_OK;
}

/* virus, viral, 1, true / other, others, nonviral, cellular, 0, false; -1 = neither. */
static int class_of(const char *word) {
    static const char *const virus[] = {"virus", "viral", "1", "true", "True"};
    static const char *const other[] = {"other", "others",   "nonviral", "non-viral",
                                        "0",     "cellular", "false",    "False"};
    for (size_t i = 0; i < VNP_COUNT(virus); i++)
        if (strcmp(word, virus[i]) == 0) return 1;
    for (size_t i = 0; i < VNP_COUNT(other); i++)
        if (strcmp(word, other[i]) == 0) return 0;
    return -1;
}

static vnp_status truth_add(struct truth *t, char *line, int64_t n_line) {
    char *save = NULL, *id = strtok_r(line, "\t", &save), *word = strtok_r(NULL, "\t", &save);
    char *group = strtok_r(NULL, "\t", &save);
    if (!id || !word)
        return vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "a truth table has two columns: id, class");
    int is_virus = class_of(word);
    if (is_virus < 0 && n_line == 1) return VNP_OK; /* a heading */
    if (is_virus < 0)
        return vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "class '%.40s' is neither virus nor other",
                        word);
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 1024;
        struct truth_row *rows = realloc(t->rows, cap * sizeof *rows);
        if (!rows) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "truth table");
        t->rows = rows;
        t->cap = cap;
    }
    struct truth_row row = {.id = strdup(id), .is_virus = is_virus};
    if (!row.id) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "truth table");
    t->rows[t->n++] = row;
    return group ? group_of(t, group, &t->rows[t->n - 1].group) : VNP_OK;
}

/* Calls fn for every line of a text file, newline cut off. */
typedef vnp_status line_fn(void *ctx, char *line, int64_t n_line);
static vnp_status each_line(const char *path, line_fn *fn, void *ctx) {
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    int64_t n_line = 0;
    vnp_status st = VNP_OK;
    if (!f) {
        st = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot open");
        vnp_error_at(path, -1, -1, NULL);
        return st;
    }
    ssize_t n;
    while (st == VNP_OK && (n = getline(&line, &cap, f)) >= 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        n_line++;
        if (n) st = fn(ctx, line, n_line);
        if (st != VNP_OK) vnp_error_at(path, n_line, -1, NULL);
    }
    if (st == VNP_OK && ferror(f)) {
        st = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot read");
        vnp_error_at(path, -1, -1, NULL);
    }
    free(line);
    fclose(f);
    return st;
}

static vnp_status truth_line(void *ctx, char *line, int64_t n_line) {
    return truth_add(ctx, line, n_line);
}

static vnp_status truth_load(const char *path, struct truth *t) {
    int all;
    VNP_TRY(group_of(t, "all", &all));
    VNP_TRY(each_line(path, truth_line, t));
    if (t->n) qsort(t->rows, t->n, sizeof t->rows[0], by_id);
    for (size_t i = 1; i < t->n; i++) {
        if (strcmp(t->rows[i].id, t->rows[i - 1].id) == 0) {
            vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "the id stands twice in the truth table");
            vnp_error_at(path, -1, -1, t->rows[i].id);
            return VNP_FORMAT;
        }
    }
    if (t->n == 0) {
        vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "the truth table is empty");
        vnp_error_at(path, -1, -1, NULL);
        return VNP_FORMAT;
    }
    return VNP_OK;
}

static struct truth_row *truth_find(struct truth *t, const char *id) {
    char *key = strdup(id);
    if (!key) return NULL;
    struct truth_row probe = {.id = key};
    struct truth_row *found = bsearch(&probe, t->rows, t->n, sizeof probe, by_id);
    free(key);
    return found;
}

/* ---- the run's tables ----------------------------------------------------------------------- */

static vnp_status points_add(struct points *ps, struct point p) {
    if (ps->n == ps->cap) {
        size_t cap = ps->cap ? 2 * ps->cap : 4096;
        struct point *q = realloc(ps->p, cap * sizeof *q);
        if (!q) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "scores");
        ps->p = q;
        ps->cap = cap;
    }
    ps->p[ps->n++] = p;
    return VNP_OK;
}

struct reading {
    struct truth *truth;
    struct points *points;
    char window[1024]; /* frames of a window stand together */
    struct point open;
    double max_other;
    struct truth_row *record; /* of the open window */
};

/* contigs.tsv: seq_id length n_windows n_scored n_frames n_virus virus_score call status reason */
static vnp_status contig_line(void *ctx, char *line, int64_t n_line) {
    struct reading *r = ctx;
    char *cell[8] = {0};
    if (n_line == 1) return VNP_OK;
    /* An id may be empty, so cells are cut by hand, not by strtok. */
    char *p = line;
    for (int i = 0; i < 8 && p; i++) {
        cell[i] = p;
        if ((p = strchr(p, '\t'))) *p++ = 0;
    }
    if (!cell[7]) return vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "not a row of contigs.tsv");
    struct truth_row *t = truth_find(r->truth, cell[0]);
    if (!t) return r->points->n_unknown++, VNP_OK;
    t->is_seen = true;
    if (strcmp(cell[7], "unscored") == 0) return r->points->n_unscored++, VNP_OK;
    double score = strtod(cell[6], NULL);
    return points_add(r->points, (struct point){.score = score,
                                                .p = score,
                                                .is_virus = t->is_virus,
                                                .is_called = strcmp(cell[7], "virus") == 0,
                                                .group = t->group});
}

static double log_odds(double p) {
    p = fmin(fmax(p, 1e-7), 1 - 1e-7); /* FP32 scores reach 0 and 1 */
    return log(p / (1 - p));
}

static vnp_status close_window(struct reading *r) {
    if (!r->window[0]) return VNP_OK;
    r->record->log_odds += log_odds(r->open.score);
    r->record->n_windows++;
    r->window[0] = 0;
    r->open.is_called = r->open.score >= r->max_other;
    r->open.p = r->open.score;
    return points_add(r->points, r->open);
}

/* prediction_results.txt: Sequence_ID Prediction score1 score2 */
static vnp_status frame_line(void *ctx, char *line, int64_t n_line) {
    struct reading *r = ctx;
    if (n_line == 1) return VNP_OK;
    char *id = line, *tab = strchr(line, '\t');
    char *score1 = tab ? strchr(tab + 1, '\t') : NULL;
    char *score2 = score1 ? strchr(score1 + 1, '\t') : NULL;
    size_t len = tab ? (size_t)(tab - id) : 0;
    if (!score2 || len < 3 || len >= sizeof r->window)
        return vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "not a row of prediction_results.txt");
    id[len - 2] = 0; /* the frame's two letters */
    double other = strtod(score1 + 1, NULL), virus = strtod(score2 + 1, NULL);
    if (strcmp(id, r->window) == 0) {
        r->open.score = fmax(r->open.score, virus);
        r->max_other = fmax(r->max_other, other);
        return VNP_OK;
    }
    VNP_TRY(close_window(r));
    char window[1024];
    memcpy(window, id, len - 1);
    char *chunk = NULL;
    for (char *next = id; (next = strstr(next, "_chunk_")); next++) chunk = next;
    if (!chunk) return vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "an id without _chunk_N");
    *chunk = 0;
    struct truth_row *t = truth_find(r->truth, id);
    if (!t) return r->points->n_unknown++, VNP_OK;
    memcpy(r->window, window, len - 1);
    r->record = t;
    r->open = (struct point){.score = virus, .is_virus = t->is_virus, .group = t->group};
    r->max_other = other;
    return VNP_OK;
}

/* ---- measures ------------------------------------------------------------------------------- */

static int by_score(const void *a, const void *b) {
    double x = ((const struct point *)a)->score, y = ((const struct point *)b)->score;
    return (x < y) - (x > y); /* highest first */
}

static double ratio(double a, double b) {
    return b > 0 ? a / b : NAN;
}

/* p[n] sorted, highest first. */
static struct metrics measure(const struct point *p, size_t n) {
    struct metrics m = {.n = (int64_t)n};
    double hits = 0, called = 0, right = 0, above = 0, found = 0, seen = 0;
    for (size_t i = 0; i < n; i++) {
        m.n_virus += p[i].is_virus;
        hits += p[i].is_virus && p[i].is_called;
        called += p[i].is_called;
        right += p[i].is_virus == p[i].is_called;
        double d = p[i].p - (p[i].is_virus ? 1.0 : 0.0);
        m.brier += d * d;
    }
    double n_virus = (double)m.n_virus, n_other = (double)(m.n - m.n_virus);
    for (size_t i = 0, j; i < n; i = j) { /* groups of equal scores */
        double tied_virus = 0, tied = 0;
        for (j = i; j < n && !(p[j].score < p[i].score); j++) {
            tied_virus += p[j].is_virus;
            tied++;
        }
        above += (tied - tied_virus) * (found + tied_virus / 2);
        found += tied_virus;
        seen += tied;
        m.auprc += tied_virus * found / seen;
    }
    m.auroc = ratio(above, n_virus * n_other);
    m.auprc = ratio(m.auprc, n_virus);
    m.precision = ratio(hits, called);
    m.recall = ratio(hits, n_virus);
    m.f1 = ratio(2 * hits, called + n_virus);
    m.accuracy = ratio(right, (double)n);
    m.brier = ratio(m.brier, (double)n);
    return m;
}

static void report_row(struct text *t, const char *level, const char *group,
                       const struct metrics *m) {
    text_add(t, "%s\t%.120s\t%lld\t%lld\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\n", level, group,
             (long long)m->n, (long long)m->n_virus, m->auroc, m->auprc, m->f1, m->precision,
             m->recall, m->accuracy, m->brier);
}

/* A group of one class is judged against everything of the other class. */
static vnp_status report_group(struct text *t, const char *level, const char *name,
                               const struct points *ps, int group) {
    struct point *p = malloc((ps->n + 1) * sizeof *p);
    if (!p) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "scores");
    bool has[2] = {false, false};
    for (size_t i = 0; i < ps->n; i++)
        if (ps->p[i].group == group) has[ps->p[i].is_virus] = true;
    size_t n = 0;
    for (size_t i = 0; i < ps->n; i++) {
        bool is_against = has[0] != has[1] && ps->p[i].is_virus != has[1];
        if (ps->p[i].group == group || is_against) p[n++] = ps->p[i];
    }
    if (has[0] || has[1]) {
        struct metrics m = measure(p, n);
        report_row(t, level, name, &m);
    }
    free(p);
    return VNP_OK;
}

static void report_reliability(struct text *t, const char *level, const struct points *ps) {
    double sum[N_BINS] = {0};
    int64_t n[N_BINS] = {0}, n_virus[N_BINS] = {0};
    for (size_t i = 0; i < ps->n; i++) {
        int b = (int)(ps->p[i].p * N_BINS);
        b = VNP_MAX(0, VNP_MIN(b, N_BINS - 1));
        n[b]++;
        n_virus[b] += ps->p[i].is_virus;
        sum[b] += ps->p[i].p;
    }
    text_add(t, "# reliability, %s: score range, n, mean score, share of virus\n", level);
    for (int b = 0; b < N_BINS; b++)
        text_add(t, "#\t%.1f-%.1f\t%lld\t%.4f\t%.4f\n", (double)b / N_BINS,
                 (double)(b + 1) / N_BINS, (long long)n[b], ratio(sum[b], (double)n[b]),
                 ratio((double)n_virus[b], (double)n[b]));
}

static vnp_status report_level(struct text *t, const char *level, struct points *ps,
                               const struct truth *truth) {
    if (ps->n) qsort(ps->p, ps->n, sizeof ps->p[0], by_score);
    struct metrics m = measure(ps->p, ps->n);
    report_row(t, level, "all", &m);
    for (int g = 1; g < truth->n_groups; g++)
        VNP_TRY(report_group(t, level, truth->groups[g], ps, g));
    return VNP_OK;
}

static vnp_status read_table(const char *run_dir, const char *name, line_fn *fn,
                             struct reading *r) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    vnp_status st = each_line(path, fn, r);
    if (st != VNP_OK) vnp_error_hint("%s is a folder that predict has finished?", run_dir);
    return st;
}

/* Records by the evidence of all their windows. */
static vnp_status sum_evidence(const struct truth *t, struct points *out) {
    for (size_t i = 0; i < t->n; i++) {
        const struct truth_row *row = &t->rows[i];
        if (row->n_windows == 0) continue;
        VNP_TRY(points_add(out, (struct point){.score = row->log_odds,
                                               .p = 1 / (1 + exp(-row->log_odds)),
                                               .is_virus = row->is_virus,
                                               .is_called = row->log_odds >= 0,
                                               .group = row->group}));
    }
    return VNP_OK;
}

/* A run made with --no-upstream-files has no table of frames: its records can still be judged. */
static bool has_frames(const char *run_dir) {
    char path[4096];
    snprintf(path, sizeof path, "%s/prediction_results.txt", run_dir);
    return access(path, F_OK) == 0;
}

vnp_status vnp_run_evaluate(const char *truth_path, const char *run_dir, char **out_text) {
    struct truth truth = {0};
    struct points contigs = {0}, windows = {0}, evidence = {0};
    struct text text = {0};
    *out_text = NULL;
    vnp_status st = truth_load(truth_path, &truth);
    struct reading c = {.truth = &truth, .points = &contigs};
    struct reading w = {.truth = &truth, .points = &windows};
    if (st == VNP_OK) st = read_table(run_dir, "contigs.tsv", contig_line, &c);
    bool has_windows = st != VNP_OK || has_frames(run_dir);
    if (st == VNP_OK && has_windows)
        st = read_table(run_dir, "prediction_results.txt", frame_line, &w);
    if (st == VNP_OK) st = close_window(&w);
    if (st == VNP_OK) st = sum_evidence(&truth, &evidence);
    if (st != VNP_OK) goto fail;

    int64_t n_missing = 0;
    for (size_t i = 0; i < truth.n; i++) n_missing += !truth.rows[i].is_seen;
    text_add(&text,
             "# records with a truth: %zu scored, %lld without an open frame, %lld not in "
             "this run; records without a truth: %lld\n",
             contigs.n, (long long)contigs.n_unscored, (long long)n_missing,
             (long long)contigs.n_unknown);
    text_add(&text,
             "level\tgroup\tn\tn_virus\tauroc\tauprc\tf1\tprecision\trecall\taccuracy\tbrier\n");
    if (has_windows)
        st = report_level(&text, "window", &windows, &truth);
    else
        text_add(&text, "# no figures of windows: the run has no prediction_results.txt\n");
    if (st == VNP_OK) st = report_level(&text, "record", &contigs, &truth);
    if (st == VNP_OK && has_windows) st = report_level(&text, "evidence", &evidence, &truth);
    if (st != VNP_OK) goto fail;
    if (has_windows) report_reliability(&text, "window", &windows);
    report_reliability(&text, "record", &contigs);
    if (text.is_full) st = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "report");
fail:
    truth_free(&truth);
    free(contigs.p);
    free(windows.p);
    free(evidence.p);
    if (st == VNP_OK)
        *out_text = text.s;
    else
        free(text.s);
    return st;
}
