// SPDX-License-Identifier: MIT
// bench device: an encoder on one device over packs as the pool would send them. Sustained: a
// device that is limited by power is fast for the first second only, so every figure comes after a
// warm-up of a third of its time. Products alone: the same weights and packs, nothing but the four
// matrix products of each layer, in the same run; a mark on the device's own clock after each op
// says where the rest goes.
#include "run/bench.h"
#include "run/packer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PACKS = 12, N_KINDS = 3, N_SESSIONS = 2, PACK_SEQS_MIN = 16 };
static const char *const kind_names[2][N_KINDS] = {
    {"reads (50 aa)", "windows (166 aa)", "proteome"},
    {"reads (32 tokens)", "windows (104)", "reads and windows"}};

enum { OP_EMBED, OP_NORM, OP_QKV, OP_ATTENTION, OP_OUT, OP_UP, OP_DOWN, OP_POOL, N_OPS };

struct load {
    struct vnp_pack packs[MAX_PACKS];
    int n_packs;
};
struct rate {
    double tokens_per_s, seqs_per_s, watts, sm_mhz;
};
struct bench {
    const struct vnp_run_bench_device_options *opt;
    vnp_run_bench_fn *fn;
    void *ctx;
    enum vnp_precision precision;
    struct vnp_device *dev;
    struct vnp_encoder *encoder;
    struct vnp_encoder_session *session[N_SESSIONS];
    int n_sessions;
    float *out[N_SESSIONS];
    int64_t budget, max_seqs;
    char pci[32], table[256], ops_table[256];
};

/* ---- packs ---------------------------------------------------------------------------------- */

static int32_t draw_dna(int kind, uint64_t *seed) {
    uint64_t r = vnp_run_bench_random(seed);
    if (kind == 0) return 32;
    if (kind == 1) return 104;
    return (r & 1 ? 28 : 92) + (int32_t)(r >> 8 & 15);
}

static vnp_status take_pack(struct bench *b, struct vnp_packer *p, const int32_t *len,
                            uint64_t *tags, struct load *l) {
    int64_t vocab = vnp_encoder_spec(b->encoder)->n_vocab;
    int64_t first = vocab > 100 ? 5 : 4, n_plain = vocab > 100 ? vocab - 5 : 20;
    struct vnp_packed packed = {.tags = tags};
    uint64_t seed = 77 + (uint64_t)l->n_packs;
    if (!vnp_packer_pop(p, &packed)) return vnp_fail(VNP_BUG, VNP_FROM_NONE, "no pack");
    uint16_t *tokens = malloc((size_t)packed.n_tokens * sizeof *tokens);
    int32_t *cu = malloc((size_t)(packed.n_seqs + 1) * sizeof *cu);
    struct vnp_pack *pack = &l->packs[l->n_packs];
    *pack = (struct vnp_pack){packed.n_tokens, packed.n_seqs, packed.max_len, tokens, cu};
    l->n_packs++;
    if (!tokens || !cu) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packs of a bench");
    for (int64_t i = 0; i < packed.n_tokens; i++)
        tokens[i] = (uint16_t)(first + (int64_t)(vnp_run_bench_random(&seed) % (uint64_t)n_plain));
    cu[0] = 0;
    for (int64_t i = 0; i < packed.n_seqs; i++) cu[i + 1] = cu[i] + len[tags[i]];
    return VNP_OK;
}

static void load_fini(struct load *l) {
    for (int i = 0; i < l->n_packs; i++) {
        free((void *)(uintptr_t)l->packs[i].tokens);
        free((void *)(uintptr_t)l->packs[i].cu_seqlens);
    }
    l->n_packs = 0;
}

static vnp_status load_init(struct bench *b, int kind, struct load *l) {
    bool is_dna = vnp_encoder_spec(b->encoder)->kind == VNP_MODEL_DNABERT;
    int64_t n_packs = VNP_MAX(4, VNP_MIN(MAX_PACKS, 300000 / b->budget));
    int64_t n = 4096 + 2 * n_packs * b->max_seqs, total = 0, i = 0;
    struct vnp_packer_options opt = {.budget_tokens = b->budget, .max_seqs = b->max_seqs};
    struct vnp_packer *p = NULL;
    uint64_t seed = 3, *tags = malloc((size_t)b->max_seqs * sizeof *tags);
    int32_t *len = malloc((size_t)n * sizeof *len);
    l->n_packs = 0;
    vnp_status status = tags && len ? vnp_packer_create(&opt, &p)
                                    : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "lengths of a bench");
    if (status == VNP_OK && !is_dna) vnp_run_bench_lengths(kind, len, n);
    for (int64_t k = 0; status == VNP_OK && is_dna && k < n; k++) len[k] = draw_dna(kind, &seed);
    for (; status == VNP_OK && i < n && total < (n_packs + 2) * b->budget; i++) {
        len[i] = VNP_MIN(len[i], (int32_t)b->budget);
        total += len[i];
        status = vnp_packer_push(p, len[i], (uint64_t)i);
        while (status == VNP_OK && vnp_packer_is_ready(p) && l->n_packs < n_packs)
            status = take_pack(b, p, len, tags, l);
    }
    while (status == VNP_OK && l->n_packs < n_packs && vnp_packer_n_tokens(p) >= b->budget)
        status = take_pack(b, p, len, tags, l);
    vnp_packer_destroy(p);
    free(tags);
    free(len);
    return status;
}

/* ---- sustained runs ------------------------------------------------------------------------- */

static vnp_status submit(struct bench *b, int k, const struct vnp_pack *p, bool is_products) {
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    if (is_products) return vnp_encoder_submit_products(b->session[k], p);
    return vnp_encoder_submit(b->session[k], p, &want, b->out[k]);
}

/* Packs in turn until the time is over. */
static vnp_status run_for(struct bench *b, const struct load *l, double seconds, bool is_products,
                          struct rate *r) {
    double t0 = vnp_now_s(), n_tokens = 0, n_seqs = 0;
    bool is_busy[N_SESSIONS] = {false};
    vnp_status status = VNP_OK;
    for (int i = 0; status == VNP_OK && (i == 0 || vnp_now_s() - t0 < seconds); i++) {
        const struct vnp_pack *p = &l->packs[i % l->n_packs];
        int k = i % b->n_sessions;
        if (is_busy[k]) status = vnp_encoder_wait(b->session[k]);
        if (status == VNP_OK) status = submit(b, k, p, is_products);
        is_busy[k] = status == VNP_OK;
        n_tokens += (double)p->n_tokens;
        n_seqs += (double)p->n_seqs;
    }
    for (int k = 0; k < b->n_sessions; k++) {
        vnp_status s = is_busy[k] ? vnp_encoder_wait(b->session[k]) : VNP_OK;
        if (status == VNP_OK) status = s;
    }
    double t = vnp_now_s() - t0;
    r->tokens_per_s = n_tokens / t;
    r->seqs_per_s = n_seqs / t;
    return status;
}

static vnp_status measure(struct bench *b, const struct load *l, bool is_products, struct rate *r) {
    struct vnp_run_gpu_stats gpu = {0};
    *r = (struct rate){.watts = NAN, .sm_mhz = NAN};
    VNP_TRY(run_for(b, l, b->opt->seconds / 3, is_products, r));
    struct vnp_run_gpu_monitor *m = vnp_run_gpu_monitor_start((const char(*)[32])b->pci, 1);
    vnp_status status = run_for(b, l, b->opt->seconds, is_products, r);
    if (m) vnp_run_gpu_monitor_stop(m, &gpu);
    if (gpu.n_samples > 0) {
        double watts = gpu.mean[VNP_RUN_GPU_POWER_W], sm_mhz = gpu.mean[VNP_RUN_GPU_SM_MHZ];
        if (watts > 0) r->watts = watts;
        if (sm_mhz > 0) r->sm_mhz = sm_mhz;
    }
    return status;
}

/* Multiplications and additions of a token's products in all layers. */
static double product_flop(const struct vnp_model_spec *m) {
    double d = (double)m->n_hidden, f = (double)m->n_ffn;
    double up = m->kind == VNP_MODEL_DNABERT ? 2 * f : f;
    return 2.0 * (double)m->n_layers * (4 * d * d + d * up + f * d);
}

static void put_rate(struct bench *b, const char *name, const struct rate *r, double own_rate) {
    double flop = product_flop(vnp_encoder_spec(b->encoder));
    const struct vnp_run_bench_cell cells[] = {
        {"tokens_per_s", "tokens/s", r->tokens_per_s},
        {"sequences_per_s", "seqs/s", r->seqs_per_s},
        {"product_tflops", "TFLOP/s", r->tokens_per_s * flop * 1e-12},
        {"share_of_products_percent", "of products %", 100 * r->tokens_per_s / own_rate},
        {"watts", "watts", r->watts},
        {"sm_mhz", "SM MHz", r->sm_mhz},
        {"tokens_per_joule", "tokens/J", r->tokens_per_s / r->watts},
        {"budget_tokens", "budget", (double)b->budget}};
    struct vnp_run_bench_row row = {b->table, name, cells, VNP_COUNT(cells)};
    b->fn(b->ctx, &row);
}

/* ---- time by op: the backend's table with a mark after every call --------------------------- */

struct profile {
    const struct vnp_backend *real;
    int n, op[VNP_MAX_MARKS];
    double at[VNP_MAX_MARKS + 1]; /* host backends: the clock */
};
/* Ops get the context alone, so the profile of the calling thread hangs here while one is made. */
static _Thread_local struct profile *profiled;

static void put_mark(struct vnp_exec *ex, int i) {
    if (profiled->real->mark)
        (void)!profiled->real->mark(ex, i);
    else
        profiled->at[i] = vnp_now_s();
}

static vnp_status marked(struct vnp_exec *ex, int op, vnp_status status) {
    if (profiled->n + 1 >= VNP_MAX_MARKS) return status;
    profiled->op[profiled->n++] = op;
    put_mark(ex, profiled->n);
    return status;
}

static vnp_status p_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    vnp_status status = profiled->real->batch_begin(ex, pack);
    profiled->n = 0;
    put_mark(ex, 0);
    return status;
}
static vnp_status p_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                          struct vnp_tensor *out) {
    return marked(ex, OP_EMBED, profiled->real->embed(ex, p, out));
}
static vnp_status p_norm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                         const struct vnp_tensor *x, struct vnp_tensor *r, struct vnp_tensor *o) {
    return marked(ex, OP_NORM, profiled->real->layernorm(ex, p, x, r, o));
}
static vnp_status p_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                           const struct vnp_tensor *a, struct vnp_tensor *out) {
    int op = epi == VNP_EPI_NONE       ? OP_QKV
             : epi != VNP_EPI_RESIDUAL ? OP_UP
             : a->cols == out->cols    ? OP_OUT
                                       : OP_DOWN;
    return marked(ex, op, profiled->real->linear(ex, w, epi, a, out));
}
static vnp_status p_linear_qkv(struct vnp_exec *ex, const struct vnp_linear *w,
                               struct vnp_attention_params *p, const struct vnp_tensor *a,
                               struct vnp_tensor *out) {
    return marked(ex, OP_QKV, profiled->real->linear_qkv(ex, w, p, a, out));
}
static vnp_status p_qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                  struct vnp_attention_params *p, struct vnp_tensor *out) {
    return marked(ex, OP_QKV, profiled->real->qkv_of_tokens(ex, table, p, out));
}
/* The norm's time is the product's too. */
static vnp_status p_linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                                const struct vnp_norm_params *p, const struct vnp_tensor *a,
                                struct vnp_tensor *x, struct vnp_tensor *o) {
    return marked(ex, a->cols == x->cols ? OP_OUT : OP_DOWN,
                  profiled->real->linear_norm(ex, w, p, a, x, o));
}
static vnp_status p_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                              const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    return marked(ex, OP_ATTENTION, profiled->real->attention(ex, p, qkv, out));
}
static vnp_status p_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                         const struct vnp_tensor *x, struct vnp_tensor *out) {
    return marked(ex, OP_POOL, profiled->real->pool(ex, p, x, out));
}

static struct vnp_backend marking_table(const struct vnp_backend *real) {
    struct vnp_backend t = *real;
    t.batch_begin = p_begin;
    t.embed = p_embed;
    t.layernorm = p_norm;
    t.linear = p_linear;
    if (t.linear_qkv) t.linear_qkv = p_linear_qkv;
    if (t.qkv_of_tokens) t.qkv_of_tokens = p_qkv_of_tokens;
    if (t.linear_norm) t.linear_norm = p_linear_norm;
    t.attention = p_attention;
    t.pool = p_pool;
    return t;
}

static void put_ops(struct bench *b, const char *name, const double *s, double n_tokens) {
    static const char *const keys[N_OPS] = {"embed", "layernorm", "qkv",  "attention",
                                            "out",   "up",        "down", "pool"};
    struct vnp_run_bench_cell cells[N_OPS + 1];
    double total = 0;
    for (int i = 0; i < N_OPS; i++) {
        cells[i] = (struct vnp_run_bench_cell){keys[i], keys[i], s[i] / n_tokens * 1e9};
        total += s[i];
    }
    cells[N_OPS] = (struct vnp_run_bench_cell){"total", "total", total / n_tokens * 1e9};
    struct vnp_run_bench_row row = {b->ops_table, name, cells, VNP_COUNT(cells)};
    b->fn(b->ctx, &row);
}

/* One pack after the other through one session, a third of the time to warm. */
static vnp_status measure_ops(struct bench *b, struct vnp_encoder_session *session,
                              const struct load *l, const char *name) {
    struct vnp_exec *ex = vnp_encoder_session_exec(session);
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    double s[N_OPS] = {0}, n_tokens = 0, t0 = vnp_now_s();
    const struct vnp_backend *real = profiled->real;
    for (int i = 0; n_tokens <= 0 || vnp_now_s() - t0 < b->opt->seconds / 2; i++) {
        const struct vnp_pack *p = &l->packs[i % l->n_packs];
        VNP_TRY(vnp_encoder_submit(session, p, &want, b->out[0]));
        VNP_TRY(vnp_encoder_wait(session));
        if (i == 0 || vnp_now_s() - t0 < b->opt->seconds / 6) continue;
        n_tokens += (double)p->n_tokens;
        for (int k = 0; k < profiled->n; k++)
            s[profiled->op[k]] +=
                real->mark_s ? real->mark_s(ex, k, k + 1) : profiled->at[k + 1] - profiled->at[k];
    }
    put_ops(b, name, s, n_tokens);
    return VNP_OK;
}

/* An encoder of its own over the marking table: the weights are there twice meanwhile. */
static vnp_status bench_ops(struct bench *b, struct load *loads, const char *const *names) {
    struct profile *profile = calloc(1, sizeof *profile);
    if (!profile) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "profile");
    profile->real = b->opt->device.backend;
    struct vnp_backend table = marking_table(profile->real);
    struct vnp_encoder *e = NULL;
    struct vnp_encoder_session *session = NULL;
    profiled = profile;
    vnp_status status = vnp_encoder_create(&table, b->dev, b->opt->model, &e);
    if (status == VNP_OK) status = vnp_encoder_session_create(e, b->budget, b->max_seqs, &session);
    for (int kind = 0; status == VNP_OK && kind < N_KINDS; kind++)
        status = measure_ops(b, session, &loads[kind], names[kind]);
    vnp_encoder_session_destroy(session);
    vnp_encoder_destroy(e);
    profiled = NULL;
    free(profile);
    return status;
}

/* ---- one precision -------------------------------------------------------------------------- */

static void bench_close(struct bench *b) {
    for (int i = 0; i < N_SESSIONS; i++) {
        vnp_encoder_session_destroy(b->session[i]);
        free(b->out[i]);
        b->session[i] = NULL;
        b->out[i] = NULL;
    }
    vnp_encoder_destroy(b->encoder);
    if (b->dev) b->opt->device.backend->device_close(b->dev);
    b->encoder = NULL;
    b->dev = NULL;
}

static vnp_status bench_open(struct bench *b) {
    const struct vnp_backend *backend = b->opt->device.backend;
    struct vnp_device_options opt = {.precision = b->precision,
                                     .idx_device = b->opt->device.idx_device,
                                     .n_threads = b->opt->n_threads};
    struct vnp_device_info info;
    VNP_TRY(backend->device_open(&opt, &b->dev));
    VNP_TRY(backend->device_info(b->dev, &info));
    double t = vnp_now_s();
    VNP_TRY(vnp_encoder_create(backend, b->dev, b->opt->model, &b->encoder));
    t = vnp_now_s() - t;
    const struct vnp_model_spec *m = vnp_encoder_spec(b->encoder);
    b->budget = b->opt->budget_tokens > 0 ? b->opt->budget_tokens : info.budget_tokens;
    b->max_seqs = b->budget / PACK_SEQS_MIN + 1;
    b->n_sessions = backend->is_host ? 1 : N_SESSIONS;
    for (int i = 0; i < b->n_sessions; i++) {
        VNP_TRY(vnp_encoder_session_create(b->encoder, b->budget, b->max_seqs, &b->session[i]));
        b->out[i] = malloc((size_t)(b->max_seqs * m->n_hidden) * sizeof(float));
        if (!b->out[i]) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "vectors of a bench");
    }
    const char *precision = vnp_precision_name(b->precision);
    snprintf(b->table, sizeof b->table, "%s, %s (%.2f GB loaded in %.2f s)", b->opt->title,
             precision, (double)vnp_encoder_bytes(b->encoder) / 1e9, t);
    snprintf(b->ops_table, sizeof b->ops_table, "%s, %s: ns a token by op", b->opt->title,
             precision);
    return VNP_OK;
}

static vnp_status bench_loads(struct bench *b, struct load *loads) {
    bool is_dna = vnp_encoder_spec(b->encoder)->kind == VNP_MODEL_DNABERT;
    const char *const *names = kind_names[is_dna];
    struct rate rates[N_KINDS], own;
    for (int kind = 0; kind < N_KINDS; kind++) VNP_TRY(load_init(b, kind, &loads[kind]));
    for (int kind = 0; kind < N_KINDS; kind++)
        VNP_TRY(measure(b, &loads[kind], false, &rates[kind]));
    VNP_TRY(measure(b, &loads[1], true, &own));
    for (int kind = 0; kind < N_KINDS; kind++)
        put_rate(b, names[kind], &rates[kind], own.tokens_per_s);
    put_rate(b, "products alone", &own, own.tokens_per_s);
    return bench_ops(b, loads, names);
}

static vnp_status bench_precision(struct bench *b) {
    struct load loads[N_KINDS] = {{.n_packs = 0}};
    vnp_status status = bench_open(b);
    if (status == VNP_OK) status = bench_loads(b, loads);
    for (int kind = 0; kind < N_KINDS; kind++) load_fini(&loads[kind]);
    bench_close(b);
    return status;
}

vnp_status vnp_run_bench_device(const struct vnp_run_bench_device_options *opt,
                                vnp_run_bench_fn *fn, void *ctx) {
    struct vnp_run_bench_device_options o = *opt;
    struct bench b = {.opt = &o, .fn = fn, .ctx = ctx};
    const struct vnp_backend *backend = opt->device.backend;
    int n_done = 0;
    if (o.seconds <= 0) o.seconds = 10;
    if (!backend->device_pci || !backend->device_pci(opt->device.idx_device, b.pci)) b.pci[0] = 0;
    for (int i = 0; i < opt->n_precisions; i++) {
        b.precision = opt->precisions[i];
        vnp_status status = bench_precision(&b);
        bool is_absent = status == VNP_UNSUPPORTED && opt->n_precisions > 1;
        if (is_absent)
            vnp_log(VNP_LOG_INFO, "bench", "left out: %s", vnp_error_last()->text);
        else if (status != VNP_OK)
            return status;
        n_done += !is_absent;
    }
    return n_done > 0 ? VNP_OK : VNP_UNSUPPORTED;
}
