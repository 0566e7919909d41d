// SPDX-License-Identifier: MIT
// model validate: every precision against FP32 on the user's own sequences, on the same device, and
// the verdict kept in the user's cache for --precision auto. Gates (docs/numerics.md): with a
// classifier at most 0.1 % of the labels may flip; for an encoder alone the centred error may be
// 0.02 in the median and 0.1 at most, the limits of `model verify`. Upstream's own gate, a cosine
// above 0.99, is reported and decides nothing: vectors of different sequences pass it too.
#include "api_internal.h"
#include "ref/ref.h"
#include "seq/seq.h"

#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DEFAULT_FRAMES = 2000,
    MIN_FRAMES = 2, /* one differs from no mean */
    MIN_KEPT = 1000,
    LOOK_RECORDS = 8, /* for the wrong kind of file */
    WARM_FRAMES = 64,
    GPU_TOKENS = 16896,
    KIND_DNA = 0,
    KIND_PROTEIN
};
static const double MAX_FLIPS = 0.001, MAX_MEDIAN = 0.02, MAX_CENTRED = 0.1, MIN_GAIN = 1.2;

struct frames {
    char **text[2]; /* DNA, protein */
    size_t *len[2];
    size_t n, cap;
};

struct answer {
    float *vectors[2], *scores; /* [n][D], [n][2]; NULL: no such part */
    double seconds;
    int64_t n_overflows[2];
};

struct agreement {
    double median, max, relative, cosine; /* of centred errors; largest relative; least cosine */
};

struct verdict {
    enum vnp_precision precision;
    bool passes;
    size_t n_frames, n_flips;
    struct agreement parts[2];
    int64_t n_overflows[2];
    double speedup, seqs_per_s, score_max, worst_median, worst_max;
};

struct validate {
    const vnp_validate_options *o;
    vnp_bench_callback *fn;
    void *ctx;
    struct vnp_api_devices devices;
    struct vnp_api_models models; /* predict */
    struct vnp_checkpoint *model; /* or one encoder */
    struct vnp_checkpoint *part[2];
    struct frames frames;
    struct answer truth;
    struct verdict verdicts[VNP_PREC_COUNT];
    int n_verdicts;
    char absent[64]; /* precisions that the device lacks: " fp8 int8" */
};

/* ---- sequences ------------------------------------------------------------------------------ */

static void frames_fini(struct frames *f) {
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; f->text[k] && i < f->n; i++) free(f->text[k][i]);
        free(f->text[k]);
        free(f->len[k]);
    }
}

static vnp_status frames_add(struct frames *f, const char *nt, size_t n_nt, const char *aa,
                             size_t n_aa) {
    const char *text[2] = {nt, aa};
    const size_t len[2] = {n_nt, n_aa};
    if (f->n == f->cap) return VNP_OK;
    for (int k = 0; k < 2; k++) {
        f->text[k][f->n] = strndup(text[k] ? text[k] : "", len[k]);
        f->len[k][f->n] = len[k];
        if (!f->text[k][f->n]) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for frames");
    }
    f->n++;
    return VNP_OK;
}

static vnp_status add_windows(struct validate *v, const struct vnp_seq_record *r, int64_t window) {
    struct vnp_windows w;
    struct vnp_frames found;
    VNP_TRY(vnp_windows_init((int64_t)r->len, window, &w));
    void *scratch = malloc(vnp_frames_scratch_bytes(window));
    vnp_status s = scratch ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for frames");
    for (int64_t k = 0; s == VNP_OK && k < w.n; k++) {
        int64_t start, end;
        vnp_windows_at(&w, k, &start, &end);
        vnp_frames_find(r->seq + start, end - start, scratch, &found);
        for (int i = 0; s == VNP_OK && i < VNP_N_FRAMES; i++)
            if (found.kept & (1u << i))
                s = frames_add(&v->frames, found.nt[i], (size_t)found.nt_len[i], found.aa[i],
                               (size_t)found.aa_len[i]);
    }
    free(scratch);
    return s;
}

/* The first frames (or records) of the input, as many as asked for. */
static vnp_status read_frames(struct validate *v) {
    struct vnp_seq_reader_options opt = {0};
    struct vnp_seq_reader *reader;
    struct vnp_seq_record r;
    bool has = true, is_warned = false;
    struct frames *f = &v->frames;
    f->cap = v->o->n_frames > 0 ? (size_t)v->o->n_frames : DEFAULT_FRAMES;
    if (f->cap < MIN_FRAMES)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "nothing to compare: %d frames are the least",
                        MIN_FRAMES);
    for (int k = 0; k < 2; k++) {
        f->text[k] = calloc(f->cap, sizeof *f->text[k]);
        f->len[k] = calloc(f->cap, sizeof *f->len[k]);
        if (!f->text[k] || !f->len[k])
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for %zu frames", f->cap);
    }
    int64_t trained = v->model ? 0 : vnp_checkpoint_spec(v->models.classifier)->window_bp;
    int64_t window = v->o->window_bp > 0 ? v->o->window_bp : trained > 0 ? trained : 500;
    VNP_TRY(vnp_seq_reader_open(v->o->inputs, v->o->n_inputs, &opt, &reader));
    vnp_status s = VNP_OK;
    while (s == VNP_OK && f->n < f->cap) {
        s = vnp_seq_reader_next(reader, &r, &has);
        if (s != VNP_OK || !has) break;
        if (!is_warned && r.idx < LOOK_RECORDS)
            is_warned = vnp_run_kind_warn(&r, v->part[KIND_DNA] != NULL);
        if (!v->model)
            s = add_windows(v, &r, window);
        else if (r.len > 0)
            s = frames_add(f, r.seq, r.len, r.seq, r.len);
    }
    vnp_seq_reader_close(reader);
    VNP_TRY(s);
    if (f->n >= MIN_FRAMES) return VNP_OK;
    s = vnp_fail(VNP_INVAL, VNP_FROM_INPUT, "nothing to compare: the input has %s %s",
                 f->n ? "but one" : "no", v->model ? "sequence" : "open frame");
    vnp_error_at(v->o->inputs[0], -1, -1, NULL);
    return s;
}

/* ---- one precision -------------------------------------------------------------------------- */

static void answer_fini(struct answer *a) {
    free(a->vectors[0]);
    free(a->vectors[1]);
    free(a->scores);
    memset(a, 0, sizeof *a);
}

static vnp_status classify(struct validate *v, struct answer *a) {
    const struct vnp_backend *host = vnp_api_host_backend();
    struct vnp_device_options opt = {.precision = VNP_PREC_FP32, .n_threads = 1};
    struct vnp_device *dev = NULL;
    struct vnp_classifier *c = NULL;
    size_t n = v->frames.n, n_dna = (size_t)vnp_checkpoint_spec(v->part[0])->n_hidden;
    size_t n_protein = (size_t)vnp_checkpoint_spec(v->part[1])->n_hidden;
    float *z = malloc(n * (n_dna + n_protein) * sizeof *z);
    a->scores = malloc(n * 2 * sizeof *a->scores);
    vnp_status s = z && a->scores ? host->device_open(&opt, &dev)
                                  : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for scores");
    for (size_t i = 0; s == VNP_OK && i < n; i++) {
        memcpy(z + i * (n_dna + n_protein), a->vectors[0] + i * n_dna, n_dna * sizeof *z);
        memcpy(z + i * (n_dna + n_protein) + n_dna, a->vectors[1] + i * n_protein,
               n_protein * sizeof *z);
    }
    if (s == VNP_OK) s = vnp_classifier_create(host, dev, v->models.classifier, &c);
    if (s == VNP_OK) s = vnp_classifier_run(c, z, (int64_t)n, a->scores);
    vnp_classifier_destroy(c);
    if (dev) host->device_close(dev);
    free(z);
    return s;
}

static vnp_status embed_part(struct validate *v, struct vnp_engine *e, int kind, struct answer *a) {
    size_t n = v->frames.n, n_cols = (size_t)vnp_checkpoint_spec(v->part[kind])->n_hidden;
    struct vnp_api_embedding job = {.encoder = kind == KIND_PROTEIN ? &e->esm2 : &e->dnabert,
                                    .checkpoint = v->part[kind],
                                    .want = {.layer = -1, .pool = VNP_POOL_MEAN},
                                    .seqs = (const char *const *)v->frames.text[kind],
                                    .lens = v->frames.len[kind],
                                    .n = VNP_MIN(n, (size_t)WARM_FRAMES)};
    job.out = a->vectors[kind] = malloc(n * n_cols * sizeof(float));
    if (!job.out) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for vectors");
    int64_t start = atomic_load(&e->n_reruns), before = start;
    vnp_status s = vnp_api_embed_seqs(e, &job);
    double seconds = 0;
    job.n = n;
    while (s == VNP_OK) { /* once more where the first overflow had to load weights */
        bool is_warm = atomic_load(&e->n_reruns) > start;
        double t = vnp_now_s();
        before = atomic_load(&e->n_reruns);
        s = vnp_api_embed_seqs(e, &job);
        seconds = vnp_now_s() - t;
        if (is_warm || atomic_load(&e->n_reruns) == start) break;
    }
    if (s != VNP_OK && job.idx_failed < n) vnp_error_at(v->o->inputs[0], -1, -1, NULL);
    a->seconds += seconds;
    a->n_overflows[kind] = atomic_load(&e->n_reruns) - before;
    return s;
}

static vnp_status compute(struct validate *v, enum vnp_precision precision, struct answer *a) {
    vnp_engine_options plain = VNP_ENGINE_OPTIONS_INIT;
    vnp_engine *e = NULL;
    plain.device = v->o->device;
    plain.precision = vnp_precision_name(precision);
    plain.n_threads = v->o->n_threads;
    plain.n_tokens =
        v->devices.list[0].backend->is_host || precision == VNP_PREC_FP32 ? 0 : GPU_TOKENS;
    VNP_TRY(vnp_engine_create(&plain, &e));
    vnp_status s = VNP_OK;
    for (int kind = 0; s == VNP_OK && kind < 2; kind++)
        if (v->part[kind]) s = embed_part(v, e, kind, a);
    vnp_engine_destroy(e);
    if (s == VNP_OK)
        vnp_log(VNP_LOG_INFO, "api", "%s on %s: %zu sequences in %.2f s",
                vnp_precision_name(precision), v->devices.name, v->frames.n, a->seconds);
    return s == VNP_OK && !v->model ? classify(v, a) : s;
}

/* ---- comparison ----------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Centred: the error's length over that of the true vector's difference from the mean vector, so
 * that what all sequences share does not flatter it; NaN where no vector differs from the mean.
 * Vectors are those that a run gives: what overflowed was computed again in FP32. */
static vnp_status compare(const float *want, const float *got, size_t n, size_t d,
                          struct agreement *r) {
    double *bar = calloc(d, sizeof *bar), *centred = calloc(n, sizeof *centred);
    size_t m = 0;
    *r = (struct agreement){.cosine = 1};
    if (!bar || !centred) {
        free(bar);
        free(centred);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a comparison");
    }
    for (size_t i = 0; i < n * d; i++) bar[i % d] += (double)want[i] / (double)n;
    for (size_t s = 0; s < n; s++) {
        double top = 0, size = 0, err2 = 0, ref2 = 0, dot = 0, w2 = 0, g2 = 0;
        for (size_t i = 0; i < d; i++) {
            double w = (double)want[s * d + i], g = (double)got[s * d + i];
            top = fmax(top, fabs(g - w));
            size = fmax(size, fabs(w));
            err2 += (g - w) * (g - w);
            ref2 += (w - bar[i]) * (w - bar[i]);
            dot += w * g;
            w2 += w * w;
            g2 += g * g;
        }
        if (size > 0) r->relative = fmax(r->relative, top / size);
        if (w2 > 0 && g2 > 0) r->cosine = fmin(r->cosine, dot / sqrt(w2 * g2));
        if (ref2 > 1e-12 * w2) centred[m++] = sqrt(err2 / ref2); /* less is the mean's rounding */
    }
    qsort(centred, m, sizeof *centred, by_value);
    r->median = m ? centred[m / 2] : NAN;
    r->max = m ? centred[m - 1] : NAN;
    free(bar);
    free(centred);
    return VNP_OK;
}

static vnp_status compare_parts(struct validate *v, const struct answer *a, struct verdict *out) {
    for (int kind = 0; kind < 2; kind++) {
        struct agreement *r = &out->parts[kind];
        if (!v->part[kind]) continue;
        VNP_TRY(compare(v->truth.vectors[kind], a->vectors[kind], v->frames.n,
                        (size_t)vnp_checkpoint_spec(v->part[kind])->n_hidden, r));
        out->n_overflows[kind] = a->n_overflows[kind];
        bool is_known = isfinite(r->max);
        out->worst_median = is_known ? fmax(out->worst_median, r->median) : INFINITY;
        out->worst_max = is_known ? fmax(out->worst_max, r->max) : INFINITY;
    }
    return VNP_OK;
}

static void compare_scores(const struct validate *v, const struct answer *a, struct verdict *out) {
    for (size_t i = 0; a->scores && i < v->frames.n; i++) {
        const float *w = v->truth.scores + 2 * i, *g = a->scores + 2 * i;
        out->n_flips += (w[1] > w[0]) != (g[1] > g[0]);
        out->score_max = fmax(out->score_max, fabs((double)w[1] - (double)g[1]));
    }
    out->passes = a->scores ? (double)out->n_flips <= MAX_FLIPS * (double)v->frames.n
                            : out->worst_median <= MAX_MEDIAN && out->worst_max <= MAX_CENTRED;
}

static vnp_status validate_one(struct validate *v, enum vnp_precision precision) {
    struct answer a = {0};
    struct verdict *out = &v->verdicts[v->n_verdicts];
    vnp_status s = compute(v, precision, &a);
    if (s == VNP_OK) {
        *out = (struct verdict){.precision = precision,
                                .n_frames = v->frames.n,
                                .seqs_per_s = (double)v->frames.n / a.seconds,
                                .speedup = v->truth.seconds / a.seconds};
        s = compare_parts(v, &a, out);
        compare_scores(v, &a, out);
        v->n_verdicts += s == VNP_OK;
    }
    answer_fini(&a);
    return s;
}

/* ---- tables --------------------------------------------------------------------------------- */

static void put_row(struct validate *v, const char *table, const char *name,
                    const vnp_bench_cell *cells, size_t n) {
    vnp_bench_row row = {table, name, cells, n};
    v->fn(v->ctx, &row);
}

static void put_part(struct validate *v, int kind) {
    static const char *const what[2] = {"DNA encoder", "protein encoder"};
    char table[512];
    snprintf(table, sizeof table, "%s against fp32 on %.100s, %zu sequences", what[kind],
             v->devices.name, v->frames.n);
    for (int i = 0; i < v->n_verdicts; i++) {
        const struct agreement *r = &v->verdicts[i].parts[kind];
        double n_overflows = (double)v->verdicts[i].n_overflows[kind];
        const vnp_bench_cell cells[] = {{"centred_median", "centred median", r->median},
                                        {"centred_max", "centred max", r->max},
                                        {"max_relative", "max relative", r->relative},
                                        {"least_cosine", "least cosine", r->cosine},
                                        {"overflows", "overflows", n_overflows}};
        put_row(v, table, vnp_precision_name(v->verdicts[i].precision), cells, VNP_COUNT(cells));
    }
}

/* An encoder alone has no labels. */
static void put_verdict(struct validate *v, const struct verdict *t) {
    const vnp_bench_cell cells[] = {
        {"passes", "passes?", t->passes},
        {"speedup", "x fp32", t->speedup},
        {"sequences_per_s", "seqs/s", t->seqs_per_s},
        {"label_flips", "label flips", (double)t->n_flips},
        {"label_flips_percent", "flips %", 100 * (double)t->n_flips / (double)v->frames.n},
        {"score_max_difference", "max score diff", t->score_max}};
    put_row(v,
            v->model ? "verdict: the centred error may be 0.02 in the median and 0.1 anywhere"
                     : "verdict: at most 0.1 % of the labels may flip",
            vnp_precision_name(t->precision), cells, v->model ? 3 : VNP_COUNT(cells));
}

static void put_tables(struct validate *v) {
    struct verdict fp32 = {.precision = VNP_PREC_FP32,
                           .passes = true,
                           .speedup = 1,
                           .seqs_per_s = (double)v->frames.n / v->truth.seconds};
    if (v->n_verdicts == 0) return;
    for (int kind = 0; kind < 2; kind++)
        if (v->part[kind]) put_part(v, kind);
    put_verdict(v, &fp32);
    for (int i = 0; i < v->n_verdicts; i++) put_verdict(v, &v->verdicts[i]);
}

/* ---- the verdict on disk -------------------------------------------------------------------- */

/* File of a model on a kind of device with this version; false when there is no cache folder, or
 * (reading) none of its files, so that a model's bytes need not be hashed for nothing. */
static bool verdict_path(const struct vnp_api_devices *d, struct vnp_checkpoint *const *parts,
                         int n, bool is_reading, char *out, size_t n_out) {
    char dir[VNP_API_PATH], device[256], hex[33];
    struct vnp_hash128 sum, part;
    if (is_reading && !vnp_api_cache_path(dir, sizeof dir)) return false;
    if (!is_reading && !vnp_api_cache_dir(dir, sizeof dir)) return false;
    strncat(dir, "/validated", sizeof dir - strlen(dir) - 1);
    if (!is_reading) (void)mkdir(dir, 0700);
    DIR *there = opendir(dir);
    if (!there) return false;
    (void)closedir(there);
    vnp_api_device_identity(d, device, sizeof device);
    size_t n_device = strlen(device); /* another version may compute otherwise */
    snprintf(device + n_device, sizeof device - n_device, " %s", vnp_version());
    sum = vnp_hash(device, strlen(device));
    for (int i = 0; i < n; i++) {
        if (!parts[i]) continue;
        if (vnp_checkpoint_digest(parts[i], &part) != VNP_OK) return false;
        uint64_t link[4] = {sum.lo, sum.hi, part.lo, part.hi};
        sum = vnp_hash(link, sizeof link);
    }
    vnp_hash_hex(sum, hex);
    return (size_t)snprintf(out, n_out, "%s/%s", dir, hex) < n_out;
}

struct row {
    enum vnp_precision precision;
    int passes;
    size_t n_frames, n_flips;
    double speedup, worst_median, worst_max; /* over fp32 */
};

/* Rows of a verdict's file; returns how many. */
static int verdict_read(const char *path, struct row *rows) {
    char line[256], name[16];
    int n = 0;
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    bool is_known = fgets(line, sizeof line, f) && strcmp(line, "virnucpro validate 1\n") == 0;
    while (is_known && n < VNP_PREC_COUNT && fgets(line, sizeof line, f)) {
        struct row *r = &rows[n];
        n += sscanf(line, "%15s %d %zu %zu %lf %lf %lf", name, &r->passes, &r->n_frames,
                    &r->n_flips, &r->speedup, &r->worst_median, &r->worst_max) == 7 &&
             vnp_precision_parse(name, &r->precision) == VNP_OK;
    }
    (void)fclose(f);
    return n;
}

/* Rows of precisions that were not looked at this time stay. */
static bool verdict_write(struct validate *v, const char *path) {
    char part[VNP_API_PATH + 128];
    struct row rows[2 * VNP_PREC_COUNT];
    int n = 0, n_before = verdict_read(path, rows + VNP_PREC_COUNT);
    for (; n < v->n_verdicts; n++) {
        const struct verdict *t = &v->verdicts[n];
        rows[n] = (struct row){t->precision, t->passes,       t->n_frames, t->n_flips,
                               t->speedup,   t->worst_median, t->worst_max};
    }
    for (int i = 0; i < n_before; i++) {
        const struct row *old = &rows[VNP_PREC_COUNT + i];
        bool is_new = false;
        for (int k = 0; k < v->n_verdicts; k++) is_new |= rows[k].precision == old->precision;
        if (!is_new) rows[n++] = *old;
    }
    snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid()); /* another may write, too */
    FILE *f = fopen(part, "w");
    if (!f) return false;
    fprintf(f, "virnucpro validate 1\n");
    for (int i = 0; i < n; i++)
        fprintf(f, "%s %d %zu %zu %.4f %.3e %.3e\n", vnp_precision_name(rows[i].precision),
                rows[i].passes, rows[i].n_frames, rows[i].n_flips, rows[i].speedup,
                rows[i].worst_median, rows[i].worst_max);
    if (fclose(f) == 0 && rename(part, path) == 0) return true;
    (void)unlink(part);
    return false;
}

/* The fastest that has passed; the default stays unless another is MIN_GAIN times as fast. */
static const struct row *choose(const struct row *rows, int n, const struct row *usual,
                                bool is_fp32) {
    const struct row *best = usual && usual->passes ? usual : NULL;
    double least = best ? MIN_GAIN * best->speedup : is_fp32 ? MIN_GAIN : 1;
    for (int i = 0; i < n; i++)
        if (&rows[i] != usual && rows[i].passes && rows[i].speedup >= least) {
            best = &rows[i];
            least = best->speedup;
        }
    return best;
}

/* FP32 where the default has failed and nothing else has passed, or all that passed is slower. */
bool vnp_api_verdict_find(const struct vnp_api_devices *d, struct vnp_checkpoint *const *parts,
                          int n, enum vnp_precision *out, char *why, size_t n_why) {
    char path[VNP_API_PATH + 64], errors[96];
    struct row rows[VNP_PREC_COUNT];
    const struct row *usual = NULL;
    bool has_labels = n > 2 && parts[2];
    if (!verdict_path(d, parts, n, true, path, sizeof path)) return false;
    int n_rows = verdict_read(path, rows);
    for (int i = 0; i < n_rows; i++)
        if (rows[i].precision == d->precision) usual = &rows[i];
    const struct row *best = choose(rows, n_rows, usual, d->precision == VNP_PREC_FP32);
    const struct row *said = best ? best : usual;
    if (!said) return false;
    if (has_labels)
        snprintf(errors, sizeof errors, "%zu of %zu labels differ from fp32", said->n_flips,
                 said->n_frames);
    else
        snprintf(errors, sizeof errors, "centred error of %zu vectors at most %.1e", said->n_frames,
                 said->worst_max);
    bool is_slow = best && MIN_GAIN * best->speedup < 1; /* overflows take their time twice */
    *out = best && !is_slow ? best->precision : VNP_PREC_FP32;
    if (best)
        snprintf(why, n_why, "auto: %s%svalidated, %s, %.2f times as fast",
                 is_slow ? vnp_precision_name(best->precision) : "", is_slow ? " is " : "", errors,
                 best->speedup);
    else
        snprintf(why, n_why, "auto: %s has failed validation, %s",
                 vnp_precision_name(usual->precision), errors);
    return true;
}

/* Texts with "; " between them. */
static void append(char *text, size_t n_text, const char *fmt, ...) VNP_PRINTF(3, 4);
static void append(char *text, size_t n_text, const char *fmt, ...) {
    size_t n = strlen(text);
    va_list args;
    if (n > 0) n += (size_t)snprintf(text + n, n_text - n, "; ");
    va_start(args, fmt);
    vsnprintf(text + n, n_text - n, fmt, args);
    va_end(args);
}

/* Precisions with a verdict, " fp16 bf16"; "" = none. */
static const char *name_verdicts(const struct validate *v, bool passes, char names[64]) {
    names[0] = 0;
    for (int i = 0; i < v->n_verdicts; i++) {
        size_t n = strlen(names);
        if (v->verdicts[i].passes == passes)
            snprintf(names + n, 64 - n, " %s", vnp_precision_name(v->verdicts[i].precision));
    }
    return names;
}

/* What passed, what failed, what becomes of it. */
static void put_conclusion(struct validate *v, bool is_kept) {
    char text[512] = "", names[64], why[256];
    enum vnp_precision best = VNP_PREC_FP32, chosen = v->devices.precision;
    struct vnp_checkpoint *parts[3] = {v->part[0], v->part[1], v->models.classifier};
    double fastest = 1;
    for (int i = 0; i < v->n_verdicts; i++)
        if (v->verdicts[i].passes && v->verdicts[i].speedup > fastest) {
            best = v->verdicts[i].precision;
            fastest = v->verdicts[i].speedup;
        }
    if (name_verdicts(v, true, names)[0]) append(text, sizeof text, "passed:%s", names);
    if (name_verdicts(v, false, names)[0]) append(text, sizeof text, "failed:%s", names);
    if (v->absent[0]) append(text, sizeof text, "not on this device:%s", v->absent);
    if (is_kept) {
        (void)vnp_api_verdict_find(&v->devices, parts, 3, &chosen, why, sizeof why);
        append(text, sizeof text, "kept: --precision auto takes %s on this device from now on",
               vnp_precision_name(chosen));
    } else if (v->n_verdicts > 0 && v->frames.n < MIN_KEPT) {
        append(text, sizeof text,
               "not kept for --precision auto: %zu sequences say little, %d are needed",
               v->frames.n, MIN_KEPT);
    } else if (v->n_verdicts > 0) {
        append(text, sizeof text, "not kept for --precision auto: no cache folder can be written");
    }
    const vnp_bench_cell cells[] = {{"speedup", "x fp32", fastest}, {"kept", "kept?", is_kept}};
    put_row(v, text, vnp_precision_name(best), cells, VNP_COUNT(cells));
}

/* ---- all ------------------------------------------------------------------------------------ */

static vnp_status open_models(struct validate *v) {
    const vnp_validate_options *o = v->o;
    if (o->model) {
        vnp_status s = vnp_checkpoint_open(o->model, VNP_MODEL_NONE, &v->model);
        if (s == VNP_MISMATCH)
            vnp_error_hint("--model is the file or folder of one encoder; --models is a bundle");
        VNP_TRY(s);
        enum vnp_model_kind kind = vnp_checkpoint_spec(v->model)->kind;
        if (kind == VNP_MODEL_CLASSIFIER)
            return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "a classifier alone has no precision");
        v->part[kind == VNP_MODEL_DNABERT ? KIND_DNA : KIND_PROTEIN] = v->model;
        return VNP_OK;
    }
    struct vnp_api_model_paths paths = {.models = o->models,
                                        .esm = o->esm,
                                        .dnabert = o->dnabert,
                                        .classifier = o->classifier,
                                        .window_bp = o->window_bp};
    VNP_TRY(vnp_api_models_open(&paths, &v->models));
    v->part[KIND_DNA] = v->models.dnabert;
    v->part[KIND_PROTEIN] = v->models.esm2;
    return VNP_OK;
}

/* One precision after the other. Those that the device lacks are left out; of named ones, not all
 * may be. */
static vnp_status validate_list(struct validate *v, const enum vnp_precision *list, int n) {
    bool are_named = v->o->precisions && strcmp(v->o->precisions, "auto") != 0;
    struct vnp_error absent;
    for (int i = 0; i < n; i++) {
        if (list[i] == VNP_PREC_FP32) continue;
        vnp_status s = validate_one(v, list[i]);
        if (s != VNP_OK && s != VNP_UNSUPPORTED) return s;
        if (s == VNP_OK) continue;
        absent = *vnp_error_last();
        size_t at = strlen(v->absent);
        snprintf(v->absent + at, sizeof v->absent - at, " %s", vnp_precision_name(list[i]));
    }
    if (v->n_verdicts > 0 || !v->absent[0] || !are_named) return VNP_OK;
    vnp_error_set(&absent);
    return VNP_UNSUPPORTED;
}

/* Named precisions of which the device has none are told before FP32 takes its time. */
static vnp_status check_named(struct validate *v, const enum vnp_precision *list, int n) {
    const struct vnp_run_device *d = &v->devices.list[0];
    vnp_status s = VNP_OK;
    if (!v->o->precisions || strcmp(v->o->precisions, "auto") == 0) return VNP_OK;
    for (int i = 0; i < n; i++) {
        struct vnp_device_options opt = {.precision = list[i],
                                         .idx_device = d->idx_device,
                                         .n_threads = 1,
                                         .is_emulation = d->backend == vnp_ref_backend()};
        struct vnp_device *dev = NULL;
        if (list[i] == VNP_PREC_FP32) continue;
        s = d->backend->device_open(&opt, &dev);
        if (dev) d->backend->device_close(dev);
        if (s != VNP_UNSUPPORTED) return s;
    }
    return s;
}

static vnp_status validate_all(struct validate *v) {
    enum vnp_precision list[VNP_PREC_COUNT];
    char path[VNP_API_PATH + 64];
    int n = 0;
    struct vnp_checkpoint *parts[3] = {v->part[0], v->part[1], v->models.classifier};
    VNP_TRY(vnp_api_precisions_parse(v->o->precisions, list, &n));
    if (n == 1 && list[0] == VNP_PREC_FP32)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "nothing to compare: fp32 is what the others are compared with");
    VNP_TRY(check_named(v, list, n));
    VNP_TRY(read_frames(v));
    VNP_TRY(compute(v, VNP_PREC_FP32, &v->truth));
    vnp_status s = validate_list(v, list, n);
    put_tables(v);
    VNP_TRY(s);
    bool is_kept = v->n_verdicts > 0 && v->frames.n >= MIN_KEPT &&
                   verdict_path(&v->devices, parts, 3, false, path, sizeof path) &&
                   verdict_write(v, path);
    put_conclusion(v, is_kept);
    return VNP_OK;
}

vnp_status vnp_model_validate(const vnp_validate_options *o, vnp_bench_callback *fn, void *ctx) {
    struct validate v = {.o = o, .fn = fn, .ctx = ctx};
    VNP_TRY(vnp_api_check_struct("validate", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!fn || !o->inputs || o->n_inputs < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "validate: no input, or nobody to report to");
    VNP_TRY(vnp_api_check_paths("validate", o->inputs, o->n_inputs));
    VNP_TRY(vnp_api_devices_choose(o->device, NULL, o->n_threads, &v.devices));
    if (v.devices.why_not[0])
        vnp_log(VNP_LOG_INFO, "api", "no GPU used: %s; `virnucpro doctor` says what is missing",
                v.devices.why_not);
    vnp_status s = open_models(&v);
    if (s == VNP_OK) {
        vnp_log(VNP_LOG_INFO, "api", "models %s", o->model ? o->model : v.models.what);
        s = validate_all(&v);
    }
    answer_fini(&v.truth);
    frames_fini(&v.frames);
    if (v.model) vnp_checkpoint_close(v.model);
    vnp_api_models_close(&v.models);
    return s;
}
