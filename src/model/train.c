// SPDX-License-Identifier: MIT
// Training of the classifier: h = W1 z + b1, BatchNorm, ReLU, dropout, W2 h + b2, cross entropy.
// Owns weights, optimiser state and the best weights so far; embeds nothing and reads no files.
//
// Idea: everything up to the logits is a matter of one hidden unit, so a task owns a panel of 32
// units from its product through BatchNorm to its update; only the two logits of a sample need all
// panels, and they are summed in panel order. So a batch costs one round of tasks: each panel takes
// the last batch's step and, block by block while the weights are in the cache, meets the next
// batch; the loss stands between rounds. Vectors are fetched one batch ahead by the same round.
// Random numbers are a hash of (seed, purpose, epoch, indices), so dropout and order do not depend
// on threads, and a training that is resumed draws what it would have drawn.
// Sources: Glorot and Bengio 2010 (initialisation), Ioffe and Szegedy 2015 (batch normalisation),
// Loshchilov and Hutter 2019 (AdamW), Platt 1999 (calibration); PyTorch's conventions: running
// variance unbiased with momentum 0.1, normalisation biased with eps 1e-5.
#include "model/model.h"
#include "model/train_room.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL = VNP_TRAIN_PANEL, SCORE_ROWS = 32 };
static const float BN_EPS = 1e-5f;
static const double BN_MOMENTUM = 0.1;

/* Per hidden unit, padded to whole panels. One array a name, in this order, [n_pad] each. */
enum vector { B1, GAMMA, BETA, W2_OTHER, W2_VIRUS, N_TRAINED, MEAN = N_TRAINED, VAR, N_VECTORS };

/* A set of weights: [w1 panels][vectors][b2]. Moments have the same layout. */
struct set {
    float *w1;           /* [n_panels][n_in_pad][32] */
    float *v[N_VECTORS]; /* [n_pad] */
    float *b2;           /* [2], padded to 16 */
};

struct vnp_trainer {
    struct vnp_train_options opt;
    int64_t n_in, n_in_pad, n_panels, n_pad, n_rows; /* n_rows: of a batch, whole groups */
    size_t n_set;                                    /* floats of a set */
    struct set now, best, moment1, moment2;
    float *memory, *row_major;
    const struct vnp_train_kernels *kernels;
    struct vnp_pool *pool;
    int64_t n_steps;
    int n_epochs, n_stale;
    double best_loss;
    /* one batch */
    float *z;                /* three batches of groups [n_in_pad][8] */
    float *h, *y, *xhat, *d; /* [n_panels][n_rows][32] */
    float *inv;              /* [n_pad] 1 / standard deviation of the batch */
    float *logits;           /* [n_panels][batch][2] */
    float *d_logits;         /* [batch][2] */
    float *score_z;          /* [threads][SCORE_ROWS][n_in_pad] */
    int32_t *order;
    int64_t n_order;
};

struct batch {
    const int32_t *samples; /* [n] indices into the data */
    int n;                  /* 0: there is none */
    float *z;               /* packed in groups */
};

/* What a round of tasks sees: the way back of the last batch, the way forward of the next, and the
 * packing of the one after it. */
struct round {
    struct vnp_trainer *t;
    const struct vnp_train_data *data;
    struct vnp_train_step step;
    struct batch last, next, later;
    uint64_t key; /* dropout */
};

static int groups_of(int n) {
    return (n + VNP_TRAIN_GROUP - 1) / VNP_TRAIN_GROUP;
}

void vnp_train_defaults(struct vnp_train_options *opt) {
    *opt = (struct vnp_train_options){.n_hidden = 512,
                                      .lr = 2e-4,
                                      .momentum = 0.9,
                                      .weight_decay = 0.01,
                                      .step_epochs = 10,
                                      .step_gamma = 0.85,
                                      .batch = 32,
                                      .max_epochs = 200,
                                      .patience = 5,
                                      .dropout = 0.5,
                                      .class_weight = {1, 1},
                                      .seed = 42};
}

/* ---- random numbers ------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) { /* splitmix64's finaliser */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

enum purpose { FOR_W1 = 1, FOR_W2, FOR_ORDER, FOR_DROPOUT };

static uint64_t key_of(const struct vnp_trainer *t, enum purpose purpose, int epoch) {
    return mix(mix(t->opt.seed ^ ((uint64_t)purpose << 56)) ^ (uint64_t)epoch);
}

static double uniform(uint64_t key, uint64_t i) {
    return (double)(mix(key ^ mix(i)) >> 11) * 0x1p-53;
}

/* ---- memory --------------------------------------------------------------------------------- */

static float *place_set(struct vnp_trainer *t, struct set *s, float *at) {
    s->w1 = at;
    at += t->n_panels * t->n_in_pad * PANEL;
    for (int i = 0; i < N_VECTORS; i++, at += t->n_pad) s->v[i] = at;
    s->b2 = at;
    return at + 16;
}

static vnp_status check_options(const struct vnp_train_options *o, int64_t n_in) {
    bool is_sound = n_in >= 1 && n_in <= 1 << 20 && o->n_hidden >= 1 && o->n_hidden <= 1 << 16 &&
                    o->batch >= 2 && o->batch <= 4096 && o->max_epochs >= 1 && o->patience >= 1 &&
                    o->step_epochs >= 1 && o->lr > 0 && o->momentum >= 0 && o->momentum < 1 &&
                    o->dropout >= 0 && o->dropout < 1 && o->class_weight[0] > 0 &&
                    o->class_weight[1] > 0 && o->weight_decay >= 0;
    if (is_sound) return VNP_OK;
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                    "training options: n_in %lld, hidden %lld, batch %d, epochs %d, patience %d, "
                    "rate %g, momentum %g, dropout %g",
                    (long long)n_in, (long long)o->n_hidden, o->batch, o->max_epochs, o->patience,
                    o->lr, o->momentum, o->dropout);
}

static const struct vnp_train_kernels *choose_kernels(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return vnp_train_kernels_avx512();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return vnp_train_kernels_avx2();
#endif
    return vnp_train_kernels_generic();
}

static void draw_weights(struct vnp_trainer *t) {
    int64_t n_hidden = t->opt.n_hidden;
    double a1 = sqrt(6.0 / (double)(t->n_in + n_hidden)), a2 = sqrt(6.0 / (double)(n_hidden + 2));
    uint64_t k1 = key_of(t, FOR_W1, 0), k2 = key_of(t, FOR_W2, 0);
    for (int64_t j = 0; j < n_hidden; j++) {
        float *panel = t->now.w1 + j / PANEL * t->n_in_pad * PANEL + j % PANEL;
        for (int64_t k = 0; k < t->n_in; k++)
            panel[k * PANEL] = (float)(a1 * (2 * uniform(k1, (uint64_t)(j * t->n_in + k)) - 1));
        for (int c = 0; c < 2; c++)
            t->now.v[W2_OTHER + c][j] =
                (float)(a2 * (2 * uniform(k2, (uint64_t)(c * n_hidden + j)) - 1));
        t->now.v[GAMMA][j] = 1;
        t->now.v[VAR][j] = 1;
    }
}

vnp_status vnp_trainer_create(const struct vnp_train_options *opt, int64_t n_in,
                              struct vnp_trainer **out) {
    *out = NULL;
    VNP_TRY(check_options(opt, n_in));
    struct vnp_trainer *t = calloc(1, sizeof *t);
    if (!t) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "trainer");
    t->opt = *opt;
    t->n_in = n_in;
    t->n_in_pad = VNP_ALIGN_UP(n_in, 8);
    t->n_panels = (opt->n_hidden + PANEL - 1) / PANEL;
    t->n_pad = t->n_panels * PANEL;
    t->n_rows = VNP_ALIGN_UP(opt->batch, VNP_TRAIN_GROUP);
    t->best_loss = INFINITY;
    t->kernels = choose_kernels();
    size_t batch = (size_t)opt->batch, n_rows = (size_t)t->n_rows, n_pad = (size_t)t->n_pad;
    t->n_set = n_pad * (size_t)t->n_in_pad + N_VECTORS * n_pad + 16;
    size_t n_batch = 3 * n_rows * (size_t)t->n_in_pad + 4 * n_rows * n_pad + n_pad +
                     2 * batch * (size_t)t->n_panels + 2 * batch + 64;
    t->memory = vnp_alloc_aligned((4 * t->n_set + n_batch) * sizeof(float));
    t->row_major = vnp_alloc_aligned(t->n_set * sizeof(float));
    vnp_status st = t->memory && t->row_major ? vnp_pool_create(opt->n_threads, &t->pool)
                                              : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "trainer");
    if (st == VNP_OK) {
        size_t n_threads = (size_t)vnp_pool_n_threads(t->pool);
        t->score_z =
            vnp_alloc_aligned(n_threads * SCORE_ROWS * (size_t)t->n_in_pad * sizeof(float));
        if (!t->score_z) st = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "trainer");
    }
    if (st != VNP_OK) {
        vnp_trainer_destroy(t);
        return st;
    }
    float *at = place_set(t, &t->now, t->memory);
    at = place_set(t, &t->best, at);
    at = place_set(t, &t->moment1, at);
    at = place_set(t, &t->moment2, at);
    t->z = at, at += 3 * n_rows * (size_t)t->n_in_pad;
    t->h = at, at += n_rows * n_pad;
    t->y = at, at += n_rows * n_pad;
    t->xhat = at, at += n_rows * n_pad;
    t->d = at, at += n_rows * n_pad;
    t->inv = at, at += n_pad;
    t->logits = at, at += 2 * batch * (size_t)t->n_panels;
    t->d_logits = at;
    draw_weights(t);
    memcpy(t->best.w1, t->now.w1, t->n_set * sizeof(float));
    *out = t;
    return VNP_OK;
}

void vnp_trainer_destroy(struct vnp_trainer *t) {
    if (!t) return;
    vnp_pool_destroy(t->pool);
    vnp_free_aligned(t->memory);
    vnp_free_aligned(t->row_major);
    vnp_free_aligned(t->score_z);
    free(t->order);
    free(t);
}

/* ---- one step ------------------------------------------------------------------------------- */

/* The panel's place in the buffers of a batch. */
static struct vnp_train_units units_of(const struct round *r, int64_t panel) {
    const struct vnp_trainer *t = r->t;
    int64_t off = panel * t->n_rows * PANEL, unit = panel * PANEL;
    double p = t->opt.dropout;
    return (struct vnp_train_units){.gamma = t->now.v[GAMMA] + unit,
                                    .beta = t->now.v[BETA] + unit,
                                    .w_other = t->now.v[W2_OTHER] + unit,
                                    .w_virus = t->now.v[W2_VIRUS] + unit,
                                    .h = t->h + off,
                                    .xhat = t->xhat + off,
                                    .y = t->y + off,
                                    .d = t->d + off,
                                    .inv = t->inv + unit,
                                    .logits = t->logits + panel * 2 * t->opt.batch,
                                    .d_logits = t->d_logits,
                                    .key = r->key,
                                    .threshold = (uint64_t)ceil(p * 0x1p53),
                                    .scale = (float)(1 / (1 - p)),
                                    .n_pad = (uint64_t)t->n_pad,
                                    .first_unit = (uint64_t)unit};
}

static void move(const struct vnp_train_step *s, float g, float *w, float *v, float *u,
                 bool has_decay) {
    if (!s->is_adam) {
        *v = s->momentum * *v + g;
        *w -= s->lr * *v;
        return;
    }
    *v = s->beta1 * *v + (1 - s->beta1) * g;
    *u = s->beta2 * *u + (1 - s->beta2) * g * g;
    if (has_decay) *w *= 1 - s->decay;
    *w -= s->lr * (*v * s->correct1) / (sqrtf(*u * s->correct2) + s->eps);
}

static void move_units(const struct round *r, enum vector which, int64_t first, const double *g) {
    struct vnp_trainer *t = r->t;
    for (int64_t j = 0; j < PANEL; j++)
        move(&r->step, (float)g[j], &t->now.v[which][first + j], &t->moment1.v[which][first + j],
             &t->moment2.v[which][first + j], true);
}

/* Gradients of the panel's vectors and their step. The bias before BatchNorm has no gradient (the
 * mean takes it away), so it is not moved: what rounding leaves there would be noise, and Adam
 * would make steps of it. */
static void go_back(const struct round *r, int64_t panel) {
    double g_other[PANEL], g_virus[PANEL], g_gamma[PANEL], g_beta[PANEL];
    struct vnp_train_units u = units_of(r, panel);
    u.n = r->last.n;
    u.g_other = g_other, u.g_virus = g_virus;
    u.g_gamma = g_gamma, u.g_beta = g_beta;
    r->t->kernels->backward(&u);
    move_units(r, W2_OTHER, panel * PANEL, g_other);
    move_units(r, W2_VIRUS, panel * PANEL, g_virus);
    move_units(r, GAMMA, panel * PANEL, g_gamma);
    move_units(r, BETA, panel * PANEL, g_beta);
}

/* BatchNorm to logits, and the batch's statistics into the running ones. */
static void go_forward(const struct round *r, int64_t panel) {
    struct vnp_trainer *t = r->t;
    double mean[PANEL], var[PANEL];
    struct vnp_train_units u = units_of(r, panel);
    int n = r->next.n;
    u.n = n;
    u.samples = r->next.samples;
    u.mean = mean, u.var = var;
    t->kernels->forward(&u);
    for (int64_t j = 0, unit = panel * PANEL; j < PANEL; j++, unit++) {
        float *m = &t->now.v[MEAN][unit], *v = &t->now.v[VAR][unit];
        double b1 = (double)t->now.v[B1][unit];
        *m = (float)((1 - BN_MOMENTUM) * (double)*m + BN_MOMENTUM * (mean[j] + b1));
        *v = (float)((1 - BN_MOMENTUM) * (double)*v + BN_MOMENTUM * (var[j] * n / (n - 1)));
    }
}

static void panel_task(const struct round *r, int64_t panel) {
    struct vnp_trainer *t = r->t;
    int64_t off_w = panel * t->n_in_pad * PANEL, off = panel * t->n_rows * PANEL;
    if (r->last.n) go_back(r, panel);
    struct vnp_train_sweep s = {.n_in = t->n_in_pad,
                                .w = t->now.w1 + off_w,
                                .v = t->moment1.w1 + off_w,
                                .u = t->moment2.w1 + off_w,
                                .step = r->last.n ? &r->step : NULL,
                                .z_last = r->last.z,
                                .d = t->d + off,
                                .n_last = groups_of(r->last.n),
                                .z_next = r->next.n ? r->next.z : NULL,
                                .h = t->h + off,
                                .n_next = groups_of(r->next.n)};
    t->kernels->sweep(&s);
    if (r->next.n) go_forward(r, panel);
}

/* A group of the batch after the next is fetched from wherever its vectors lie. */
static void pack_task(const struct round *r, int64_t group) {
    const struct vnp_trainer *t = r->t;
    const float *rows[VNP_TRAIN_GROUP];
    int64_t first = group * VNP_TRAIN_GROUP;
    int n = (int)VNP_MIN(VNP_TRAIN_GROUP, r->later.n - first);
    for (int i = 0; i < n; i++) rows[i] = r->data->rows[r->later.samples[first + i]];
    t->kernels->pack(rows, n, t->n_in, t->n_in_pad,
                     r->later.z + group * t->n_in_pad * VNP_TRAIN_GROUP);
}

static void round_task(void *ctx, int64_t task, int thread) {
    const struct round *r = ctx;
    int64_t n_panels = r->last.n || r->next.n ? r->t->n_panels : 0;
    (void)thread;
    if (task < n_panels)
        panel_task(r, task);
    else
        pack_task(r, task - n_panels);
}

static void run_round(struct round *r) {
    int64_t n_panels = r->last.n || r->next.n ? r->t->n_panels : 0;
    vnp_pool_run(r->t->pool, n_panels + groups_of(r->later.n), round_task, r);
}

/* Softmax and weighted cross entropy of the batch; fills d_logits. Returns the mean loss. */
static double take_loss(const struct round *r, const uint8_t *labels) {
    struct vnp_trainer *t = r->t;
    const struct batch *b = &r->next;
    double loss = 0, total = 0;
    for (int i = 0; i < b->n; i++) total += t->opt.class_weight[labels[b->samples[i]]];
    for (int i = 0; i < b->n; i++) {
        double x[2] = {(double)t->now.b2[0], (double)t->now.b2[1]};
        for (int64_t p = 0; p < t->n_panels; p++)
            for (int c = 0; c < 2; c++) x[c] += (double)t->logits[(p * t->opt.batch + i) * 2 + c];
        int label = labels[b->samples[i]];
        double top = fmax(x[0], x[1]), e0 = exp(x[0] - top), e1 = exp(x[1] - top);
        double weight = t->opt.class_weight[label] / total;
        double p[2] = {e0 / (e0 + e1), e1 / (e0 + e1)};
        loss += weight * (top + log(e0 + e1) - x[label]);
        for (int c = 0; c < 2; c++)
            t->d_logits[2 * i + c] = (float)(weight * (p[c] - (c == label ? 1 : 0)));
    }
    return loss;
}

static void set_step(struct vnp_trainer *t, double lr, struct vnp_train_step *s) {
    double n = (double)++t->n_steps;
    *s = (struct vnp_train_step){.lr = (float)lr,
                                 .momentum = (float)t->opt.momentum,
                                 .is_adam = t->opt.optimizer == VNP_TRAIN_ADAMW,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.999f,
                                 .eps = 1e-8f,
                                 .decay = (float)(lr * t->opt.weight_decay),
                                 .correct1 = (float)(1 / (1 - pow(0.9, n))),
                                 .correct2 = (float)(1 / (1 - pow(0.999, n)))};
}

static void move_output_bias(const struct round *r) {
    struct vnp_trainer *t = r->t;
    for (int c = 0; c < 2; c++) {
        double g = 0;
        for (int i = 0; i < r->next.n; i++) g += (double)t->d_logits[2 * i + c];
        move(&r->step, (float)g, &t->now.b2[c], &t->moment1.b2[c], &t->moment2.b2[c], true);
    }
}

/* ---- epochs --------------------------------------------------------------------------------- */

static vnp_status draw_order(struct vnp_trainer *t, int64_t n, int epoch) {
    if (t->n_order < n) {
        int32_t *order = realloc(t->order, (size_t)n * sizeof *order);
        if (!order)
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "order of %lld samples", (long long)n);
        t->order = order;
        t->n_order = n;
    }
    uint64_t key = key_of(t, FOR_ORDER, epoch);
    for (int64_t i = 0; i < n; i++) t->order[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) { /* Fisher and Yates */
        int64_t j = (int64_t)(uniform(key, (uint64_t)i) * (double)(i + 1));
        int32_t held = t->order[i];
        t->order[i] = t->order[j];
        t->order[j] = held;
    }
    return VNP_OK;
}

static vnp_status check_data(const struct vnp_trainer *t, const struct vnp_train_data *data,
                             int64_t n_least) {
    if (data->n < n_least || data->n > INT32_MAX || (data->n && data->n_in != t->n_in))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "%lld samples of %lld values for a trainer of %lld values",
                        (long long)data->n, (long long)data->n_in, (long long)t->n_in);
    for (int64_t i = 0; i < data->n; i++)
        if (data->labels[i] > 1)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "label %d of sample %lld", data->labels[i],
                            (long long)i);
    return VNP_OK;
}

/* Batch i of an epoch; a last batch of one has no variance and is left out. */
static struct batch batch_of(struct vnp_trainer *t, int64_t n, int64_t i) {
    int64_t first = i * t->opt.batch, left = n - first;
    struct batch b = {.samples = t->order + first, .n = (int)VNP_MIN(t->opt.batch, left)};
    if (left < 2) return (struct batch){0};
    b.z = t->z + i % 3 * t->n_rows * t->n_in_pad;
    return b;
}

/* A round a batch: while a panel's weights are at hand they take the last batch's step and meet
 * the next batch; between rounds stands the loss. */
static vnp_status run_batches(struct vnp_trainer *t, const struct vnp_train_data *train, double lr,
                              double *loss, double *n_seen) {
    struct round r = {.t = t, .data = train, .key = key_of(t, FOR_DROPOUT, t->n_epochs)};
    r.later = batch_of(t, train->n, 0);
    run_round(&r);
    for (int64_t i = 0; r.later.n || r.next.n; i++) {
        if (i % 100 == 99 && t->opt.progress &&
            !t->opt.progress(t->opt.progress_ctx, i * t->opt.batch, train->n))
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted in epoch %d",
                            t->n_epochs + 1);
        r.last = r.next;
        r.next = r.later;
        r.later = r.next.n ? batch_of(t, train->n, i + 1) : (struct batch){0};
        run_round(&r);
        if (r.next.n == 0) break;
        set_step(t, lr, &r.step);
        *loss += r.next.n * take_loss(&r, train->labels);
        *n_seen += r.next.n;
        move_output_bias(&r);
    }
    return VNP_OK;
}

vnp_status vnp_trainer_epoch(struct vnp_trainer *t, const struct vnp_train_data *train,
                             const struct vnp_train_data *valid, struct vnp_train_epoch *out) {
    double start = vnp_now_s(), loss = 0, n_seen = 0;
    VNP_TRY(check_data(t, train, 2));
    if (valid) VNP_TRY(check_data(t, valid, 0));
    VNP_TRY(draw_order(t, train->n, t->n_epochs));
    double lr = t->opt.lr * pow(t->opt.step_gamma, t->n_epochs / t->opt.step_epochs);
    VNP_TRY(run_batches(t, train, lr, &loss, &n_seen));
    *out = (struct vnp_train_epoch){.epoch = ++t->n_epochs, .lr = lr, .train_loss = loss / n_seen};
    if (!isfinite(out->train_loss))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "the loss is not finite in epoch %d",
                        t->n_epochs);
    struct set held = t->best;
    bool has_valid = valid && valid->n > 0;
    if (has_valid) {
        t->best = t->now; /* measures look at best */
        vnp_status st = vnp_trainer_measure(t, valid, &out->valid);
        t->best = held;
        if (st != VNP_OK) return st;
    }
    double judged = has_valid ? out->valid.loss : out->train_loss;
    out->is_best = judged < t->best_loss;
    t->n_stale = out->is_best ? 0 : t->n_stale + 1;
    if (out->is_best) {
        t->best_loss = judged;
        memcpy(t->best.w1, t->now.w1, t->n_set * sizeof(float));
    }
    out->seconds = vnp_now_s() - start;
    return VNP_OK;
}

bool vnp_trainer_is_done(const struct vnp_trainer *t) {
    return t->n_epochs >= t->opt.max_epochs || t->n_stale >= t->opt.patience;
}

/* ---- scores and measures -------------------------------------------------------------------- */

struct scoring {
    struct vnp_trainer *t;
    const struct vnp_train_data *data;
    float *logits; /* [n][2] */
};

/* BatchNorm with the running statistics, ReLU, and the unit's part of both logits. */
static void add_unit(const struct set *w, int64_t unit, double h, double x[2]) {
    double v = (h + (double)w->v[B1][unit] - (double)w->v[MEAN][unit]) /
               sqrt((double)w->v[VAR][unit] + (double)BN_EPS);
    v = v * (double)w->v[GAMMA][unit] + (double)w->v[BETA][unit];
    if (v <= 0) return;
    x[0] += v * (double)w->v[W2_OTHER][unit];
    x[1] += v * (double)w->v[W2_VIRUS][unit];
}

static void score_task(void *ctx, int64_t task, int thread) {
    const struct scoring *s = ctx;
    const struct vnp_trainer *t = s->t;
    const struct set *w = &t->best;
    float h[SCORE_ROWS * PANEL], *z = t->score_z + thread * SCORE_ROWS * t->n_in_pad;
    double x[SCORE_ROWS][2];
    int64_t first = task * SCORE_ROWS;
    int rows = (int)VNP_MIN(SCORE_ROWS, s->data->n - first);
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < 2; c++) x[i][c] = (double)w->b2[c];
    t->kernels->pack(s->data->rows + first, rows, t->n_in, t->n_in_pad, z);
    for (int64_t p = 0; p < t->n_panels; p++) {
        struct vnp_train_sweep product = {.n_in = t->n_in_pad,
                                          .w = w->w1 + p * t->n_in_pad * PANEL,
                                          .z_next = z,
                                          .h = h,
                                          .n_next = groups_of(rows)};
        t->kernels->sweep(&product);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < PANEL; j++)
                add_unit(w, p * PANEL + j, (double)h[i * PANEL + j], x[i]);
    }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < 2; c++) s->logits[2 * (first + i) + c] = (float)x[i][c];
}

static vnp_status take_logits(struct vnp_trainer *t, const struct vnp_train_data *data,
                              float *logits) {
    VNP_TRY(check_data(t, data, 0));
    struct scoring s = {t, data, logits};
    vnp_pool_run(t->pool, (data->n + SCORE_ROWS - 1) / SCORE_ROWS, score_task, &s);
    return VNP_OK;
}

vnp_status vnp_trainer_score(struct vnp_trainer *t, const struct vnp_train_data *data,
                             float *scores) {
    VNP_TRY(take_logits(t, data, scores));
    for (int64_t i = 0; i < data->n; i++) {
        double d = (double)scores[2 * i + 1] - (double)scores[2 * i];
        scores[2 * i] = (float)(1 / (1 + exp(d)));
        scores[2 * i + 1] = (float)(1 / (1 + exp(-d)));
    }
    return VNP_OK;
}

struct ranked {
    double d; /* logit difference */
    uint8_t label;
};

static int by_difference(const void *a, const void *b) {
    double x = ((const struct ranked *)a)->d, y = ((const struct ranked *)b)->d;
    return (x > y) - (x < y);
}

static double auroc(const struct ranked *r, int64_t n, double n_virus) {
    double below = 0, right = 0;
    for (int64_t i = 0, j; i < n; i = j) {
        double tied[2] = {0, 0};
        for (j = i; j < n && !(r[j].d > r[i].d); j++) tied[r[j].label]++;
        right += tied[1] * (below + tied[0] / 2);
        below += tied[0];
    }
    double pairs = n_virus * ((double)n - n_virus);
    return pairs > 0 ? right / pairs : NAN;
}

static struct ranked *rank(struct vnp_trainer *t, const struct vnp_train_data *data,
                           vnp_status *st) {
    size_t n = (size_t)data->n;
    float *logits = malloc((2 * n + 1) * sizeof *logits);
    struct ranked *r = malloc((n + 1) * sizeof *r);
    *st = logits && r ? take_logits(t, data, logits)
                      : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%zu scores", n);
    for (size_t i = 0; *st == VNP_OK && i < n; i++)
        r[i] = (struct ranked){(double)logits[2 * i + 1] - (double)logits[2 * i], data->labels[i]};
    free(logits);
    if (*st == VNP_OK) return r;
    free(r);
    return NULL;
}

vnp_status vnp_trainer_measure(struct vnp_trainer *t, const struct vnp_train_data *data,
                               struct vnp_train_metrics *out) {
    vnp_status st;
    struct ranked *r = rank(t, data, &st);
    if (!r) return st;
    double hits = 0, called = 0, n_virus = 0, right = 0, weight = 0, n = (double)data->n;
    *out = (struct vnp_train_metrics){0};
    for (int64_t i = 0; i < data->n; i++) {
        double d = r[i].d, w = t->opt.class_weight[r[i].label];
        double sign = r[i].label ? -d : d; /* log(1 + e^sign), without overflow */
        out->loss += w * (fmax(sign, 0) + log1p(exp(-fabs(sign))));
        weight += w;
        double miss = 1 / (1 + exp(-d)) - r[i].label;
        out->brier += miss * miss;
        n_virus += r[i].label;
        called += d > 0;
        hits += d > 0 && r[i].label;
        right += (d > 0) == r[i].label;
    }
    qsort(r, (size_t)data->n, sizeof *r, by_difference);
    out->auroc = auroc(r, data->n, n_virus);
    out->loss = weight > 0 ? out->loss / weight : NAN;
    out->brier = n > 0 ? out->brier / n : NAN;
    out->accuracy = n > 0 ? right / n : NAN;
    out->precision = called > 0 ? hits / called : NAN;
    out->recall = n_virus > 0 ? hits / n_virus : NAN;
    out->f1 = called + n_virus > 0 ? 2 * hits / (called + n_virus) : NAN;
    free(r);
    return VNP_OK;
}

/* Newton's method on the two parameters of p = 1 / (1 + exp(-(a d + b))), with Platt's targets: a
 * little inside 0 and 1, so that a part without an error does not make every score certain. */
vnp_status vnp_trainer_calibrate(struct vnp_trainer *t, const struct vnp_train_data *data,
                                 double *scale, double *shift) {
    vnp_status st;
    VNP_TRY(check_data(t, data, 2));
    struct ranked *r = rank(t, data, &st);
    if (!r) return st;
    double a = 1, b = 0, n_virus = 0;
    for (int64_t i = 0; i < data->n; i++) n_virus += r[i].label;
    const double target[2] = {1 / ((double)data->n - n_virus + 2), (n_virus + 1) / (n_virus + 2)};
    for (int step = 0; step < 100; step++) {
        double ga = 0, gb = 0, haa = 1e-9, hab = 0, hbb = 1e-9;
        for (int64_t i = 0; i < data->n; i++) {
            double p = 1 / (1 + exp(-(a * r[i].d + b))), e = p - target[r[i].label],
                   w = p * (1 - p);
            ga += e * r[i].d;
            gb += e;
            haa += w * r[i].d * r[i].d;
            hab += w * r[i].d;
            hbb += w;
        }
        double det = haa * hbb - hab * hab;
        double da = (hbb * ga - hab * gb) / det, db = (haa * gb - hab * ga) / det;
        double size = fmax(fabs(da), fabs(db)), damp = size > 1 ? 1 / size : 1;
        a -= damp * da;
        b -= damp * db;
        if (size < 1e-10) break;
    }
    free(r);
    *scale = *shift = NAN;
    if (!isfinite(a) || !isfinite(b) || a <= 0) /* no order to keep: left as it is */
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "the validation part cannot be calibrated on");
    *scale = a;
    *shift = b;
    for (int c = 0; c < 2; c++) {
        for (int64_t u = 0; u < t->n_pad; u++)
            t->best.v[W2_OTHER + c][u] = (float)((double)t->best.v[W2_OTHER + c][u] * a);
        t->best.b2[c] = (float)((double)t->best.b2[c] * a);
    }
    t->best.b2[1] = (float)((double)t->best.b2[1] + b);
    return VNP_OK;
}

/* ---- out and back --------------------------------------------------------------------------- */

vnp_status vnp_trainer_params(struct vnp_trainer *t, struct vnp_classifier_params *out) {
    int64_t n_in = t->n_in, n_hidden = t->opt.n_hidden;
    float *w1 = t->row_major, *w2 = w1 + n_hidden * n_in;
    for (int64_t j = 0; j < n_hidden; j++) {
        const float *panel = t->best.w1 + j / PANEL * t->n_in_pad * PANEL + j % PANEL;
        for (int64_t k = 0; k < n_in; k++) w1[j * n_in + k] = panel[k * PANEL];
        for (int c = 0; c < 2; c++) w2[c * n_hidden + j] = t->best.v[W2_OTHER + c][j];
    }
    *out = (struct vnp_classifier_params){.n_in = n_in,
                                          .n_hidden = n_hidden,
                                          .w1 = w1,
                                          .b1 = t->best.v[B1],
                                          .bn_gamma = t->best.v[GAMMA],
                                          .bn_beta = t->best.v[BETA],
                                          .bn_mean = t->best.v[MEAN],
                                          .bn_var = t->best.v[VAR],
                                          .bn_eps = BN_EPS,
                                          .w2 = w2,
                                          .b2 = t->best.b2};
    return VNP_OK;
}

struct state_head {
    char magic[8];
    struct vnp_train_options opt;
    int64_t n_in, n_steps;
    int32_t n_epochs, n_stale;
    double best_loss;
};

size_t vnp_trainer_state_bytes(const struct vnp_trainer *t) {
    return sizeof(struct state_head) + 4 * t->n_set * sizeof(float);
}

static struct state_head head_of(const struct vnp_trainer *t) {
    struct state_head head;
    memset(&head, 0, sizeof head); /* padding too: the same state is the same bytes */
    memcpy(head.magic, "vnptrn1", 8);
    head.opt.optimizer = t->opt.optimizer;
    head.opt.n_hidden = t->opt.n_hidden;
    head.opt.lr = t->opt.lr;
    head.opt.momentum = t->opt.momentum;
    head.opt.weight_decay = t->opt.weight_decay;
    head.opt.step_epochs = t->opt.step_epochs;
    head.opt.step_gamma = t->opt.step_gamma;
    head.opt.batch = t->opt.batch;
    head.opt.dropout = t->opt.dropout;
    head.opt.class_weight[0] = t->opt.class_weight[0];
    head.opt.class_weight[1] = t->opt.class_weight[1];
    head.opt.seed = t->opt.seed;
    head.n_in = t->n_in;
    return head;
}

void vnp_trainer_state_save(const struct vnp_trainer *t, void *out) {
    struct state_head head = head_of(t);
    head.n_steps = t->n_steps;
    head.n_epochs = t->n_epochs;
    head.n_stale = t->n_stale;
    head.best_loss = t->best_loss;
    memcpy(out, &head, sizeof head);
    memcpy((char *)out + sizeof head, t->memory, 4 * t->n_set * sizeof(float));
}

vnp_status vnp_trainer_state_load(struct vnp_trainer *t, const void *state, size_t n_bytes) {
    struct state_head want = head_of(t), head;
    if (n_bytes != vnp_trainer_state_bytes(t))
        return vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "a training state of %zu bytes, not %zu",
                        n_bytes, vnp_trainer_state_bytes(t));
    memcpy(&head, state, sizeof head);
    want.n_steps = head.n_steps;
    want.n_epochs = head.n_epochs;
    want.n_stale = head.n_stale;
    want.best_loss = head.best_loss;
    if (memcmp(&head, &want, sizeof head) != 0)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT,
                        "the training state was made with other options");
    t->n_steps = head.n_steps;
    t->n_epochs = head.n_epochs;
    t->n_stale = head.n_stale;
    t->best_loss = head.best_loss;
    memcpy(t->memory, (const char *)state + sizeof head, 4 * t->n_set * sizeof(float));
    return VNP_OK;
}
