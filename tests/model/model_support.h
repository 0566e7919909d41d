/* SPDX-License-Identifier: MIT
 * What the model tests share: the backends they run over, opening a model on one, running token
 * lists through it in packs, and the two measures of agreement. After cmocka and support.h. */
#ifndef VNP_TEST_MODEL_SUPPORT_H
#define VNP_TEST_MODEL_SUPPORT_H

#include "model/model.h"
#include "ref/ref.h"

#include <dirent.h>
#include <stdarg.h>

/* A backend and precision to be held against the goldens. A new backend adds a row. */
struct golden_row {
    const char *name;
    const struct vnp_backend *(*backend)(void);
    enum vnp_precision precision;
    bool is_emulation;           /* the reference's own: the measure of the fast ones */
    double limit, limit_outlier; /* FP32: largest relative error; else 0 */
};

struct model {
    const struct vnp_backend *b;
    struct vnp_device *dev;
    struct vnp_checkpoint *checkpoint;
    struct vnp_encoder *encoder;
    const struct vnp_model_spec *spec;
};

#define assert_ok(x)                                                                               \
    do {                                                                                           \
        vnp_status status_ = (x);                                                                  \
        char text_[2048];                                                                          \
        vnp_error_format(vnp_error_last(), text_, sizeof text_);                                   \
        if (status_ != VNP_OK) fail_msg("%s: %s: %s", #x, vnp_status_name(status_), text_);        \
    } while (0)

static inline void path_format(char *out, size_t n, const char *fmt, ...) VNP_PRINTF(3, 4);
static inline void path_format(char *out, size_t n, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(out, n, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= n) fail_msg("path is too long: %s", out);
}

static inline struct model model_open(const struct golden_row *row, const char *path,
                                      enum vnp_model_kind kind, int n_threads) {
    struct model m = {.b = row->backend()};
    struct vnp_device_options opt = {
        .precision = row->precision, .is_emulation = row->is_emulation, .n_threads = n_threads};
    assert_ok(m.b->device_open(&opt, &m.dev));
    assert_ok(vnp_checkpoint_open(path, kind, &m.checkpoint));
    assert_ok(vnp_encoder_create(m.b, m.dev, m.checkpoint, &m.encoder));
    m.spec = vnp_encoder_spec(m.encoder);
    return m;
}

static inline void model_close(struct model *m) {
    vnp_encoder_destroy(m->encoder);
    vnp_checkpoint_close(m->checkpoint);
    m->b->device_close(m->dev);
}

/* Sequences first .. first + n - 1 of a token list, in packs of at most `budget` tokens (more when
 * one sequence alone is longer). The caller frees. */
static inline float *model_run(const struct model *m, const uint16_t *tokens, const int32_t *cu,
                               int64_t n_seqs, int64_t budget,
                               const struct vnp_encoder_want *want) {
    struct vnp_encoder_session *session;
    int64_t longest = 1, n_done = 0;
    for (int64_t s = 0; s < n_seqs; s++) longest = VNP_MAX(longest, cu[s + 1] - cu[s]);
    budget = VNP_MAX(budget, longest);
    assert_ok(vnp_encoder_session_create(m->encoder, budget, n_seqs, &session));
    bool is_rows = want->is_logits || want->pool == VNP_POOL_NONE;
    int64_t n_cols = want->is_logits ? m->spec->n_vocab : m->spec->n_hidden;
    int64_t n_rows = is_rows ? cu[n_seqs] - cu[0] : n_seqs;
    float *out = calloc((size_t)(n_rows * n_cols), sizeof *out);
    int32_t *borders = calloc((size_t)n_seqs + 1, sizeof *borders);
    for (int64_t first = 0, end; first < n_seqs; first = end) {
        struct vnp_pack pack = {.tokens = tokens + cu[first], .cu_seqlens = borders};
        for (end = first; end < n_seqs && cu[end + 1] - cu[first] <= budget; end++) {
            borders[end - first + 1] = cu[end + 1] - cu[first];
            pack.max_len = VNP_MAX(pack.max_len, cu[end + 1] - cu[end]);
        }
        pack.n_seqs = end - first;
        pack.n_tokens = cu[end] - cu[first];
        int64_t rows, cols;
        vnp_encoder_out_shape(m->encoder, want, &pack, &rows, &cols);
        assert_int_equal(cols, n_cols);
        assert_ok(vnp_encoder_submit(session, &pack, want, out + n_done * n_cols));
        assert_ok(vnp_encoder_wait(session));
        n_done += rows;
    }
    assert_int_equal(n_done, n_rows);
    free(borders);
    vnp_encoder_session_destroy(session);
    return out;
}

/* max|e - r| / max|r| over n values. */
static inline double relative_error(const float *e, const double *r, int64_t n) {
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)e[i] - r[i]);
        worst = d > worst || isnan(d) ? (isnan(d) ? INFINITY : d) : worst;
        largest = fmax(largest, fabs(r[i]));
    }
    return largest > 0 ? worst / largest : worst;
}

static inline int compare_doubles(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct centred {
    double median, max;
};

/* ||e - r|| / ||r - r-bar|| over the vectors of a set, r-bar their mean: an outlier channel or a
 * common offset cannot hide an error. */
static inline struct centred centred_error(const float *e, const double *r, int64_t n, int64_t d) {
    double *mean = calloc((size_t)d, sizeof *mean), *errors = calloc((size_t)n, sizeof *errors);
    for (int64_t s = 0; s < n; s++)
        for (int64_t i = 0; i < d; i++) mean[i] += r[s * d + i] / (double)n;
    for (int64_t s = 0; s < n; s++) {
        double up = 0, down = 0;
        for (int64_t i = 0; i < d; i++) {
            double x = (double)e[s * d + i] - r[s * d + i], y = r[s * d + i] - mean[i];
            up += x * x, down += y * y;
        }
        errors[s] = sqrt(up / down);
        if (!isfinite(errors[s])) errors[s] = INFINITY;
    }
    qsort(errors, (size_t)n, sizeof *errors, compare_doubles);
    struct centred c = {(errors[(n - 1) / 2] + errors[n / 2]) / 2, errors[n - 1]};
    free(mean), free(errors);
    return c;
}

/* A folder of goldens of one encoder. */
struct golden {
    char path[4096], name[256], model[4200];
    enum vnp_model_kind kind;
    struct support_npy tokens_npy, cu_npy, mean_npy;
    uint16_t *tokens;
    const int32_t *cu;
    const double *mean; /* [S][D] */
    int64_t n_seqs, d;
};

static inline bool golden_has(const struct golden *g, const char *file) {
    char path[4300];
    path_format(path, sizeof path, "%s/%s", g->path, file);
    struct stat st;
    return stat(path, &st) == 0;
}

static inline struct support_npy golden_load(const struct golden *g, const char *file) {
    char path[4300];
    path_format(path, sizeof path, "%s/%s", g->path, file);
    return support_npy_load(path);
}

static inline void golden_open(struct golden *g, enum vnp_model_kind kind, const char *folder,
                               const char *name) {
    memset(g, 0, sizeof *g);
    g->kind = kind;
    path_format(g->path, sizeof g->path, "%s/%s", folder, name);
    path_format(g->name, sizeof g->name, "%s", name);
    bool has_pt = golden_has(g, "model.pt");
    path_format(g->model, sizeof g->model, "%s%s", g->path,
                kind == VNP_MODEL_DNABERT ? ""
                : has_pt                  ? "/model.pt"
                                          : "/hf");
    g->tokens_npy = golden_load(g, "tokens.npy");
    g->cu_npy = golden_load(g, "cu_seqlens.npy");
    g->mean_npy = golden_load(g, "mean.npy");
    assert_string_equal(g->tokens_npy.descr, "<i4");
    assert_string_equal(g->cu_npy.descr, "<i4");
    assert_string_equal(g->mean_npy.descr, "<f8");
    g->cu = g->cu_npy.data;
    g->mean = g->mean_npy.data;
    g->n_seqs = g->mean_npy.shape[0];
    g->d = g->mean_npy.shape[1];
    g->tokens = calloc((size_t)g->tokens_npy.n, sizeof *g->tokens);
    for (int64_t i = 0; i < g->tokens_npy.n; i++)
        g->tokens[i] = (uint16_t)((const int32_t *)g->tokens_npy.data)[i];
    assert_int_equal(g->cu_npy.n, g->n_seqs + 1);
    assert_int_equal(g->cu[g->n_seqs], g->tokens_npy.n);
}

static inline void golden_close(struct golden *g) {
    support_npy_free(&g->tokens_npy);
    support_npy_free(&g->cu_npy);
    support_npy_free(&g->mean_npy);
    free(g->tokens);
}

/* Calls fn for every golden of a kind, in name order; returns how many there were. */
typedef void golden_fn(const struct golden *g, void *ctx);
static inline int golden_each(enum vnp_model_kind kind, golden_fn *fn, void *ctx) {
    char folder[4096];
    struct dirent **names;
    path_format(folder, sizeof folder, "%s/%s", support_goldens(),
                kind == VNP_MODEL_ESM2 ? "esm2" : "dnabert_s");
    int n = scandir(folder, &names, NULL, alphasort), n_run = 0;
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') {
            struct golden *g = calloc(1, sizeof *g);
            golden_open(g, kind, folder, names[i]->d_name);
            fn(g, ctx);
            golden_close(g);
            free(g);
            n_run++;
        }
        free(names[i]);
    }
    if (n >= 0) free(names);
    if (n_run == 0) fail_msg("no goldens in %s", folder);
    return n_run;
}

#endif
