/* SPDX-License-Identifier: MIT
 * Encoders of the true shapes with random weights on a CUDA device: tokens/s sustained over the
 * anchors' workloads, watts and tokens per joule, time by kind of kernel, and the share of the rate
 * that the matrix products alone reach, ours and the library's, in the same run. Prints one JSON
 * line a figure.
 *
 * usage: vnp_cuda_bench MODEL PRECISION SECONDS BUDGET [WORKLOAD...]
 *          MODEL 3B, 650M, dnabert; WORKLOAD reads150, chunk500, proteome, dna
 *        vnp_cuda_bench MODEL PRECISION SECONDS BUDGET ops [WORKLOAD...]   ns a token by op
 *        vnp_cuda_bench gemm SECONDS PRECISION ROWS    products of 3B: ours and the library's
 *        vnp_cuda_bench attention SECONDS PRECISION BUDGET WORKLOAD...    attention alone, of 3B on
 *          WORKLOAD reads150, chunk500, proteome, of DNABERT-S on dnabert32, dnabert104 */
#include "../src/cuda/cuda_room.h"
#include "cuda/cuda.h"
#include "model/model.h"
#include "weights/weights.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEQS 4096
#define MAX_PACKS 64

static uint64_t seed = 1;
static double uniform(void) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void stop(const char *what) {
    char text[2048];
    vnp_error_format(vnp_error_last(), text, sizeof text);
    printf("{\"failed\": \"%s\", \"error\": \"%s\"}\n", what, text);
    exit(1);
}

/* ---- a checkpoint of random numbers: one buffer that all views point into -------------------- */

struct vnp_checkpoint {
    struct vnp_model_spec spec;
    uint16_t *values; /* FP16, uniform like PyTorch's linear layers at 3B */
    int64_t n_values;
    float *ones;
};

const struct vnp_model_spec *vnp_checkpoint_spec(const struct vnp_checkpoint *c) {
    return &c->spec;
}

/* Shape from the canonical name; false when this model has no such tensor. */
static bool shape_of(const struct vnp_model_spec *m, const char *name, int64_t *rows,
                     int64_t *cols) {
    const char *dot = strstr(name, "layer.");
    const char *part = dot ? strchr(dot + 6, '.') + 1 : name;
    int64_t d = m->n_hidden, f = m->n_ffn;
    bool is_weight = strstr(part, ".weight") != NULL, is_esm = m->kind == VNP_MODEL_ESM2;
    *rows = 1;
    *cols = d;
    if (strstr(part, "norm.")) return true;
    if (strcmp(part, "embed.weight") == 0) return *rows = m->n_vocab, true;
    if (strcmp(part, "embed.type") == 0) return *rows = 2, !is_esm;
    if (strncmp(part, "attn.qkv.", 9) == 0)
        return *rows = is_weight ? 3 * d : 1, *cols = is_weight ? d : 3 * d, !is_esm;
    if (strncmp(part, "attn.", 5) == 0) return *rows = is_weight ? d : 1, true;
    if (strncmp(part, "ffn.up.", 7) == 0)
        return *rows = is_weight ? f : 1, *cols = is_weight ? d : f, is_esm;
    if (strncmp(part, "ffn.gated.", 10) == 0) return *rows = 2 * f, is_weight && !is_esm;
    if (strncmp(part, "ffn.down.", 9) == 0)
        return *rows = is_weight ? d : 1, *cols = is_weight ? f : d, true;
    return false;
}

static bool find(const struct vnp_checkpoint *c, const char *name, struct vnp_view *out) {
    static _Atomic uint64_t turn;
    if (!shape_of(&c->spec, name, &out->rows, &out->cols)) return false;
    bool is_gamma = strstr(name, "norm.weight") != NULL;
    int64_t n = out->rows * out->cols, room = c->n_values - n;
    uint64_t at = atomic_fetch_add(&turn, 1) * 7919u * 64u;
    out->dtype = is_gamma ? VNP_F32 : VNP_F16;
    out->data = is_gamma ? (const void *)c->ones : c->values + (room > 0 ? at % (uint64_t)room : 0);
    return room >= 0;
}

const struct vnp_tensor_info *vnp_checkpoint_find(const struct vnp_checkpoint *c,
                                                  const char *name) {
    static const struct vnp_tensor_info there = {.name = "there"};
    struct vnp_view v;
    return find(c, name, &v) ? &there : NULL;
}

void vnp_checkpoint_trim(const struct vnp_checkpoint *c) {
    (void)c;
}

vnp_status vnp_checkpoint_view(const struct vnp_checkpoint *c, struct vnp_view *out,
                               const char *fmt, ...) {
    char name[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (find(c, name, out)) return VNP_OK;
    return vnp_fail(VNP_NOT_FOUND, VNP_FROM_MODEL, "no tensor %s", name);
}

static struct vnp_checkpoint *random_checkpoint(const char *model) {
    static struct vnp_checkpoint c;
    bool is_dna = strcmp(model, "dnabert") == 0, is_3b = strcmp(model, "3B") == 0;
    struct vnp_model_spec *m = &c.spec;
    m->kind = is_dna ? VNP_MODEL_DNABERT : VNP_MODEL_ESM2;
    m->n_layers = is_dna ? 12 : is_3b ? 36 : 33;
    m->n_hidden = is_dna ? 768 : is_3b ? 2560 : 1280;
    m->n_heads = m->n_hidden / 64;
    m->n_ffn = 4 * m->n_hidden;
    m->n_vocab = is_dna ? 4096 : 33;
    m->has_token_dropout = !is_dna;
    m->norm_eps = is_dna ? 1e-12f : 1e-5f;
    m->dtype = VNP_F16;
    c.n_values = 10240 * 2560 + 1000003;
    c.values = malloc((size_t)c.n_values * 2);
    c.ones = malloc((size_t)m->n_hidden * 4);
    if (!c.values || !c.ones) exit(2);
    double width = 1 / sqrt((double)m->n_hidden);
    for (int64_t i = 0; i < c.n_values; i++)
        c.values[i] = vnp_f32_to_f16((float)((2 * uniform() - 1) * width));
    for (int64_t i = 0; i < m->n_hidden; i++) c.ones[i] = 1.0f;
    return &c;
}

/* ---- power ---------------------------------------------------------------------------------- */

static _Atomic int is_watching;
static double watts_sum, clock_sum;
static int n_watts;

static void *watch(void *ctx) {
    (void)ctx;
    FILE *f = popen("nvidia-smi --query-gpu=power.draw,clocks.sm --format=csv,noheader,nounits "
                    "-lms 500 2>/dev/null",
                    "r");
    char line[128];
    double w, mhz;
    while (f && atomic_load(&is_watching) >= 0 && fgets(line, sizeof line, f))
        if (atomic_load(&is_watching) > 0 && sscanf(line, "%lf, %lf", &w, &mhz) == 2) {
            watts_sum += w;
            clock_sum += mhz;
            n_watts++;
        }
    return NULL;
}

/* ---- workloads, as torch_esm2_bench.py draws them -------------------------------------------- */

static int draw(const char *workload) {
    if (strcmp(workload, "reads150") == 0) return 48 + (int)(uniform() * 3);
    if (strcmp(workload, "chunk500") == 0) return 158 + (int)(uniform() * 9);
    if (strcmp(workload, "dna32") == 0) return 30;
    if (strcmp(workload, "dna104") == 0) return 102;
    if (strcmp(workload, "dna") == 0) return (uniform() < 0.5 ? 26 : 90) + (int)(uniform() * 16);
    for (;;) {
        double g = sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform());
        int v = (int)exp(5.6 + 0.65 * g);
        if (v >= 30 && v <= 1000) return v;
    }
}

struct load {
    struct vnp_pack packs[MAX_PACKS];
    int n_packs;
    int64_t n_tokens, n_seqs;
    double attention_flop; /* a layer */
};

static void make_load(struct load *l, const char *workload, int64_t budget,
                      const struct vnp_model_spec *m) {
    int64_t next = draw(workload) + 2;
    l->n_packs = (int)VNP_MAX(4, VNP_MIN(MAX_PACKS / 4, 300000 / budget));
    l->n_tokens = l->n_seqs = 0;
    for (int i = 0; i < l->n_packs; i++) {
        struct vnp_pack *p = &l->packs[i];
        uint16_t *t = calloc((size_t)budget, sizeof *t);
        int32_t *cu = calloc((size_t)budget / 16 + 2, sizeof *cu);
        if (!t || !cu) exit(2);
        memset(p, 0, sizeof *p);
        while (p->n_tokens + next <= budget) {
            for (int64_t k = 0; k < next; k++)
                t[p->n_tokens + k] = (uint16_t)(m->kind == VNP_MODEL_ESM2 ? 4 + uniform() * 20
                                                                          : 5 + uniform() * 4000);
            p->n_tokens += next;
            cu[++p->n_seqs] = (int32_t)p->n_tokens;
            p->max_len = VNP_MAX(p->max_len, next);
            next = draw(workload) + 2;
        }
        p->tokens = t;
        p->cu_seqlens = cu;
        l->n_tokens += p->n_tokens;
        l->n_seqs += p->n_seqs;
    }
}

static void free_load(struct load *l) {
    for (int i = 0; i < l->n_packs; i++) {
        free((void *)(uintptr_t)l->packs[i].tokens);
        free((void *)(uintptr_t)l->packs[i].cu_seqlens);
    }
}

/* ---- one configuration ------------------------------------------------------------------------
 */

struct bench {
    const char *model, *precision;
    double seconds;
    int64_t budget;
    struct vnp_encoder *e;
    struct vnp_encoder_session *s[2];
};

static double run_for(struct bench *b, const struct load *l, double seconds, int64_t *n_tokens,
                      int64_t *n_seqs) {
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    static float *out[2];
    for (int i = 0; i < 2; i++)
        if (!out[i] && !(out[i] = malloc((size_t)MAX_SEQS * 2560 * 4))) exit(2);
    double t0 = vnp_now_s();
    bool is_busy[2] = {false, false};
    *n_tokens = *n_seqs = 0;
    for (int i = 0; vnp_now_s() - t0 < seconds || i % l->n_packs != 0; i++) {
        int k = i & 1;
        const struct vnp_pack *p = &l->packs[i % l->n_packs];
        if (is_busy[k] && vnp_encoder_wait(b->s[k]) != VNP_OK) stop("wait");
        if (vnp_encoder_submit(b->s[k], p, &want, out[k]) != VNP_OK) stop("submit");
        is_busy[k] = true;
        *n_tokens += p->n_tokens;
        *n_seqs += p->n_seqs;
    }
    for (int k = 0; k < 2; k++)
        if (is_busy[k] && vnp_encoder_wait(b->s[k]) != VNP_OK) stop("wait");
    for (int64_t i = 0; i < 2560; i++)
        if (!isfinite(out[0][i % vnp_encoder_spec(b->e)->n_hidden])) stop("not finite");
    return vnp_now_s() - t0;
}

static void bench_encoder(struct bench *b, const char *workload) {
    static struct load l;
    int64_t n_tokens, n_seqs;
    const struct vnp_model_spec *m = vnp_encoder_spec(b->e);
    make_load(&l, workload, b->budget, m);
    run_for(b, &l, VNP_MIN(3.0, b->seconds), &n_tokens, &n_seqs);
    watts_sum = clock_sum = 0;
    n_watts = 0;
    atomic_store(&is_watching, 1);
    double t = run_for(b, &l, b->seconds, &n_tokens, &n_seqs);
    atomic_store(&is_watching, 0);
    double w = n_watts ? watts_sum / n_watts : 0, d = (double)m->n_hidden;
    double flop = (double)m->n_layers * (m->kind == VNP_MODEL_ESM2 ? 24 : 32) * d * d;
    printf("{\"model\": \"%s\", \"precision\": \"%s\", \"workload\": \"%s\", \"budget\": %lld, "
           "\"s\": %.2f, \"tok_s\": %.0f, \"seq_s\": %.1f, \"gemm_tflops\": %.1f, \"watts\": %.0f, "
           "\"mhz\": %.0f, \"tok_j\": %.1f}\n",
           b->model, b->precision, workload, (long long)b->budget, t, (double)n_tokens / t,
           (double)n_seqs / t, flop * (double)n_tokens / t / 1e12, w,
           n_watts ? clock_sum / n_watts : 0, w > 0 ? (double)n_tokens / t / w : 0);
    fflush(stdout);
    free_load(&l);
}

/* ---- time by op: the table, with events around every call -------------------------------------
 */

#define MAX_MARKS 4096
enum { OP_EMBED, OP_NORM, OP_QKV, OP_OUT, OP_UP, OP_DOWN, OP_ATTENTION, OP_POOL, N_OPS };
static const char *const op_names[N_OPS] = {"embed", "layernorm", "qkv",       "out",
                                            "up",    "down",      "attention", "pool"};
static struct {
    const struct vnp_backend *real;
    struct vnp_backend table;
    cudaEvent_t mark[MAX_MARKS + 1];
    int op[MAX_MARKS], n;
} profile;

static vnp_status marked(struct vnp_exec *ex, int op, vnp_status status) {
    if (profile.n < MAX_MARKS) {
        profile.op[profile.n++] = op;
        cudaEventRecord(profile.mark[profile.n], ex->stream);
    }
    return status;
}
static vnp_status p_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    vnp_status status = profile.real->batch_begin(ex, pack);
    profile.n = 0;
    cudaEventRecord(profile.mark[0], ex->stream);
    return status;
}
static vnp_status p_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                          struct vnp_tensor *out) {
    return marked(ex, OP_EMBED, profile.real->embed(ex, p, out));
}
static vnp_status p_norm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                         const struct vnp_tensor *x, struct vnp_tensor *r, struct vnp_tensor *o) {
    return marked(ex, OP_NORM, profile.real->layernorm(ex, p, x, r, o));
}
static vnp_status p_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                           const struct vnp_tensor *a, struct vnp_tensor *out) {
    int op = epi == VNP_EPI_NONE       ? OP_QKV
             : epi != VNP_EPI_RESIDUAL ? OP_UP
             : w->n_in == w->n_out     ? OP_OUT
                                       : OP_DOWN;
    return marked(ex, op, profile.real->linear(ex, w, epi, a, out));
}
static vnp_status p_linear_qkv(struct vnp_exec *ex, const struct vnp_linear *w,
                               struct vnp_attention_params *p, const struct vnp_tensor *a,
                               struct vnp_tensor *out) {
    return marked(ex, OP_QKV, profile.real->linear_qkv(ex, w, p, a, out));
}
static vnp_status p_qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                  struct vnp_attention_params *p, struct vnp_tensor *out) {
    return marked(ex, OP_QKV, profile.real->qkv_of_tokens(ex, table, p, out));
}
/* The norm's time is the product's too. */
static vnp_status p_linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                                const struct vnp_norm_params *p, const struct vnp_tensor *a,
                                struct vnp_tensor *x, struct vnp_tensor *o) {
    return marked(ex, w->n_in == w->n_out ? OP_OUT : OP_DOWN,
                  profile.real->linear_norm(ex, w, p, a, x, o));
}
static vnp_status p_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                              const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    return marked(ex, OP_ATTENTION, profile.real->attention(ex, p, qkv, out));
}
static vnp_status p_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                         const struct vnp_tensor *x, struct vnp_tensor *out) {
    return marked(ex, OP_POOL, profile.real->pool(ex, p, x, out));
}

static const struct vnp_backend *profiled(const struct vnp_backend *real) {
    profile.real = real;
    profile.table = *real;
    profile.table.batch_begin = p_begin;
    profile.table.embed = p_embed;
    profile.table.layernorm = p_norm;
    profile.table.linear = p_linear;
    profile.table.linear_qkv = p_linear_qkv;
    profile.table.qkv_of_tokens = p_qkv_of_tokens;
    profile.table.linear_norm = p_linear_norm;
    profile.table.attention = p_attention;
    profile.table.pool = p_pool;
    for (int i = 0; i <= MAX_MARKS; i++)
        if (cudaEventCreate(&profile.mark[i]) != cudaSuccess) exit(2);
    return &profile.table;
}

/* Packs one after another; shares of the time between events. */
static void bench_ops(struct bench *b, const char *workload) {
    static struct load l;
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    double ms[N_OPS] = {0}, total = 0, n_tokens = 0, t0 = vnp_now_s();
    float *out = malloc((size_t)MAX_SEQS * 2560 * 4);
    make_load(&l, workload, b->budget, vnp_encoder_spec(b->e));
    for (int i = 0; vnp_now_s() - t0 < b->seconds; i++) {
        const struct vnp_pack *p = &l.packs[i % l.n_packs];
        if (!out || vnp_encoder_submit(b->s[0], p, &want, out) != VNP_OK ||
            vnp_encoder_wait(b->s[0]) != VNP_OK)
            stop("profile");
        if (vnp_now_s() - t0 < b->seconds / 3) continue; /* warm */
        n_tokens += (double)p->n_tokens;
        for (int k = 0; k < profile.n; k++) {
            float t = 0;
            cudaEventElapsedTime(&t, profile.mark[k], profile.mark[k + 1]);
            ms[profile.op[k]] += (double)t;
            total += (double)t;
        }
    }
    printf("{\"model\": \"%s\", \"precision\": \"%s\", \"workload\": \"%s\", \"budget\": %lld, "
           "\"ns_token\": %.1f",
           b->model, b->precision, workload, (long long)b->budget, total / n_tokens * 1e6);
    for (int i = 0; i < N_OPS; i++) printf(", \"%s\": %.1f", op_names[i], ms[i] / n_tokens * 1e6);
    printf("}\n");
    fflush(stdout);
    free(out);
}

/* ---- attention alone --------------------------------------------------------------------------
 */

/* The whole of a tensor becomes nearly normal values of variance 1. */
static void fill_normal(const struct vnp_tensor *t) {
    enum { N = 1 << 22 };
    static char values[N * 4];
    size_t size = vnp_dtype_bytes(t->dtype), n = (size_t)(t->rows * t->ld);
    for (size_t i = 0; i < N; i++) {
        float x = (float)(sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()));
        uint16_t half = t->dtype == VNP_BF16 ? vnp_f32_to_bf16(x) : vnp_f32_to_f16(x);
        memcpy(values + i * size, size == 2 ? (void *)&half : (void *)&x, size);
    }
    for (size_t at = 0; at < n; at += N)
        if (cudaMemcpy((char *)t->data + at * size, values, VNP_MIN(n - at, (size_t)N) * size,
                       cudaMemcpyHostToDevice) != cudaSuccess)
            exit(2);
}

/* n_calls of attention a pack, pack after pack: device time between events around them. */
static double attention_for(struct vnp_exec *ex, const struct load *l, int n_calls,
                            const struct vnp_attention_params *p, struct vnp_tensor *qkv,
                            struct vnp_tensor *out, double seconds, double *n_tokens) {
    const struct vnp_backend *be = vnp_cuda_backend();
    double t0 = vnp_now_s(), total = 0;
    *n_tokens = 0;
    for (int i = 0; vnp_now_s() - t0 < seconds || i % l->n_packs != 0; i++) {
        const struct vnp_pack *pack = &l->packs[i % l->n_packs];
        qkv->rows = out->rows = pack->n_tokens;
        if (be->batch_begin(ex, pack) != VNP_OK || be->mark(ex, 0) != VNP_OK) stop("batch");
        for (int k = 0; k < n_calls; k++)
            if (be->attention(ex, p, qkv, out) != VNP_OK) stop("attention");
        if (be->mark(ex, 1) != VNP_OK || be->exec_wait(ex) != VNP_OK) stop("wait");
        total += be->mark_s(ex, 0, 1);
        *n_tokens += (double)pack->n_tokens;
    }
    return total;
}

static void bench_attention(struct vnp_device *dev, const char *precision, double seconds,
                            int64_t budget, const char *workload) {
    static struct load l;
    const struct vnp_backend *be = vnp_cuda_backend();
    bool is_dna = strncmp(workload, "dnabert", 7) == 0;
    char drawn[64];
    int64_t n_heads = is_dna ? 12 : 40, d = 64 * n_heads;
    int n_layers = is_dna ? 12 : 36, n_calls = 144; /* a batch's start is a small part then */
    struct vnp_model_spec m = {.kind = is_dna ? VNP_MODEL_DNABERT : VNP_MODEL_ESM2};
    struct vnp_exec_limits limits = {budget, MAX_SEQS, 3 * d};
    struct vnp_exec *ex;
    struct vnp_tensor qkv, out;
    float slopes[12], *d_slopes;
    for (int h = 0; h < 12; h++) slopes[h] = (float)exp2(-8.0 * (h + 1) / 12);
    struct vnp_view v = {slopes, VNP_F32, 1, 12};
    snprintf(drawn, sizeof drawn, "%s%s", is_dna ? "dna" : "", workload + (is_dna ? 7 : 0));
    make_load(&l, drawn, budget, &m);
    if (be->exec_create(dev, &limits, &ex) != VNP_OK ||
        be->tensor_create(ex, VNP_SITE_QKV, budget, 3 * d, &qkv) != VNP_OK ||
        be->tensor_create(ex, VNP_SITE_ATTN_OUT, budget, d, &out) != VNP_OK ||
        be->const_create(dev, &v, &d_slopes) != VNP_OK)
        stop("context");
    fill_normal(&qkv);
    for (int is_rotary = 0; is_rotary <= !is_dna; is_rotary++) {
        struct vnp_attention_params p = {.n_heads = n_heads,
                                         .head_dim = 64,
                                         .scale = 0.125f,
                                         .has_rotary = is_rotary,
                                         .slopes = is_dna ? d_slopes : NULL};
        double n_tokens, t;
        attention_for(ex, &l, n_calls, &p, &qkv, &out, VNP_MIN(1.0, seconds), &n_tokens);
        watts_sum = clock_sum = 0;
        n_watts = 0;
        atomic_store(&is_watching, 1);
        t = attention_for(ex, &l, n_calls, &p, &qkv, &out, seconds, &n_tokens);
        atomic_store(&is_watching, 0);
        printf("{\"attention\": \"%s\", \"precision\": \"%s\", \"positions\": \"%s\", "
               "\"budget\": %lld, \"layers\": %d, \"s\": %.2f, \"ns_token\": %.1f, "
               "\"tb_s\": %.3f, \"watts\": %.0f, \"mhz\": %.0f}\n",
               workload, precision,
               is_dna      ? "alibi"
               : is_rotary ? "rotary"
                           : "none",
               (long long)budget, n_layers, t, t / n_tokens / n_calls * n_layers * 1e9,
               8.0 * (double)d * n_tokens * n_calls / t / 1e12, n_watts ? watts_sum / n_watts : 0,
               n_watts ? clock_sum / n_watts : 0);
        fflush(stdout);
    }
    be->const_destroy(dev, d_slopes);
    be->exec_destroy(ex);
    free_load(&l);
}

/* ---- products alone ---------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    int64_t n, k;
    enum vnp_cuda_gemm_epilogue epi;
} products[] = {{"qkv", 7680, 2560, VNP_CUDA_EPI_STORE},
                {"out", 2560, 2560, VNP_CUDA_EPI_ADD},
                {"fc1", 10240, 2560, VNP_CUDA_EPI_GELU},
                {"fc2", 2560, 10240, VNP_CUDA_EPI_ADD}};

/* Random operand in `dtype`, made by the room's own conversion. */
static void *operand(struct vnp_device *dev, int64_t rows, int64_t cols, enum vnp_dtype dtype,
                     float **scale) {
    static uint16_t *values;
    int64_t n = rows * cols;
    size_t bytes = (size_t)n * vnp_dtype_bytes(dtype);
    void *stored = NULL, *out = NULL;
    if (!values) {
        values = malloc((size_t)(1 << 24) * 2);
        if (!values) exit(2);
        for (int i = 0; i < 1 << 24; i++) {
            double g = sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform());
            values[i] = vnp_f32_to_f16((float)g);
        }
    }
    if (cudaMalloc(&stored, (size_t)n * 2) != cudaSuccess || cudaMalloc(&out, bytes) != cudaSuccess)
        exit(2);
    for (int64_t at = 0; at < n; at += 1 << 24)
        cudaMemcpy((char *)stored + at * 2, values, (size_t)VNP_MIN(n - at, 1 << 24) * 2,
                   cudaMemcpyHostToDevice);
    cudaMalloc((void **)scale, (size_t)rows * 4);
    struct vnp_cuda_convert_args c = {.src = stored,
                                      .dst = out,
                                      .n_rows = rows,
                                      .n_cols = cols,
                                      .ld = cols,
                                      .src_dtype = VNP_F16,
                                      .dst_dtype = dtype,
                                      .scale = dtype == VNP_E4M3 ? *scale : NULL};
    vnp_cuda_convert(&c, dev->upload);
    cudaStreamSynchronize(dev->upload);
    cudaFree(stored);
    return out;
}

static void bench_products(double seconds, enum vnp_precision precision, int64_t m) {
    struct vnp_device_options opt = {.precision = precision};
    struct vnp_device *dev;
    struct vnp_cuda_lt *lt;
    enum vnp_dtype dtype = precision == VNP_PREC_FP8 ? VNP_E4M3 : VNP_F16;
    if (vnp_cuda_device_open(&opt, &dev) != VNP_OK) stop("open");
    if (vnp_cuda_lt_open(0, NULL, &lt) != VNP_OK) stop("library");
    float *a_scale, *w_scale, *bias, *out_scale;
    void *a = operand(dev, m, 10240, dtype, &a_scale),
         *w = operand(dev, 10240, 2560, dtype, &w_scale);
    void *out;
    float *bias_half = operand(dev, 1, 10240, VNP_F16, &out_scale); /* of the type of out */
    cudaMalloc((void **)&out_scale, (size_t)m * 4);
    cudaMalloc((void **)&bias, 10240 * 4);
    cudaMemset(bias, 0, 10240 * 4);
    if (cudaMalloc(&out, (size_t)m * 10240 * 4) != cudaSuccess) exit(2);
    cudaMemset(out, 0, (size_t)m * 10240 * 4);
    for (int own = 1; own >= 0; own--)
        for (size_t i = 0; i <= VNP_COUNT(products); i++) {
            double t0 = 0, t = 0, flop = 0;
            int64_t n_runs = 0;
            bool is_all = i == VNP_COUNT(products), is_failed = false;
            for (int phase = 0; phase < 2 && !is_failed; phase++) {
                t0 = vnp_now_s();
                n_runs = 0;
                do {
                    flop = 0;
                    for (size_t j = is_all ? 0 : i; j < (is_all ? VNP_COUNT(products) : i + 1);
                         j++) {
                        struct vnp_cuda_gemm_args g = {.a = a,
                                                       .w = w,
                                                       .a_scale = a_scale,
                                                       .w_scale = w_scale,
                                                       .out = out,
                                                       .m = m,
                                                       .n = products[j].n,
                                                       .k = products[j].k,
                                                       .ld_a = products[j].k,
                                                       .ld_w = products[j].k,
                                                       .ld_out = products[j].n,
                                                       .in_dtype = dtype,
                                                       .out_scale = out_scale,
                                                       .a_norm = a_scale,
                                                       .w_bound = 200,
                                                       .n_sms = dev->n_sms,
                                                       .encode = dev->encode};
                        bool is_add = products[j].epi == VNP_CUDA_EPI_ADD;
                        g.epilogue = own || is_add ? products[j].epi : VNP_CUDA_EPI_STORE;
                        g.out_dtype = is_add ? VNP_F32 : VNP_F16;
                        if (own && dtype == VNP_E4M3 && products[j].epi == VNP_CUDA_EPI_GELU)
                            g.out_dtype = VNP_E4M3;
                        if (!own && is_add) g.epilogue = VNP_CUDA_EPI_STORE, g.out_dtype = VNP_F16;
                        g.bias = own ? bias : bias_half;
                        flop += 2.0 * (double)m * (double)g.n * (double)g.k;
                        if (!own)
                            is_failed |= vnp_cuda_lt_gemm(lt, &g, dev->upload) != VNP_OK;
                        else if (dtype == VNP_E4M3)
                            is_failed |= vnp_cuda_gemm_e4m3_sm90(&g, dev->upload) != cudaSuccess;
                        else
                            is_failed |= vnp_cuda_gemm_f16_sm90(&g, dev->upload) != cudaSuccess;
                    }
                    n_runs++;
                    if (n_runs % 8 == 0)
                        is_failed |= cudaStreamSynchronize(dev->upload) != cudaSuccess;
                } while (!is_failed &&
                         vnp_now_s() - t0 < (phase ? seconds * (is_all ? 2 : 1) : 0.5));
                cudaStreamSynchronize(dev->upload);
                t = vnp_now_s() - t0;
            }
            printf("{\"product\": \"%s\", \"by\": \"%s\", \"precision\": \"%s\", \"rows\": %lld, "
                   "\"us\": %.1f, \"tflops\": %.1f%s%s}\n",
                   is_all ? "all" : products[i].name, own ? "own" : "library",
                   vnp_precision_name(precision), (long long)m, t / (double)n_runs * 1e6,
                   flop * (double)n_runs / t / 1e12, is_failed ? ", \"failed\": 1, \"why\": " : "",
                   is_failed ? (own ? "\"launch\"" : "\"library\"") : "");
            if (is_failed && !own) printf("# %s\n", vnp_error_last()->text);
            fflush(stdout);
        }
}

int main(int argc, char **argv) {
    enum vnp_precision precision;
    if (argc < 5) return 64;
    if (strcmp(argv[1], "gemm") == 0) {
        if (vnp_precision_parse(argv[3], &precision) != VNP_OK) return 64;
        bench_products(atof(argv[2]), precision, atoll(argv[4]));
        return 0;
    }
    if (strcmp(argv[1], "attention") == 0) {
        struct vnp_device_options opt = {0};
        struct vnp_device *dev;
        pthread_t watcher;
        if (vnp_precision_parse(argv[3], &opt.precision) != VNP_OK) return 64;
        if (vnp_cuda_backend()->device_open(&opt, &dev) != VNP_OK) stop("open");
        if (pthread_create(&watcher, NULL, watch, NULL) != 0) return 2;
        for (int i = 5; i < argc; i++)
            bench_attention(dev, argv[3], atof(argv[2]), atoll(argv[4]), argv[i]);
        atomic_store(&is_watching, -1);
        return 0;
    }
    struct bench b = {argv[1], argv[2], atof(argv[3]), atoll(argv[4]), NULL, {NULL, NULL}};
    struct vnp_device *dev;
    bool is_profile = argc > 5 && strcmp(argv[5], "ops") == 0;
    const struct vnp_backend *be = is_profile ? profiled(vnp_cuda_backend()) : vnp_cuda_backend();
    pthread_t watcher;
    if (vnp_precision_parse(b.precision, &precision) != VNP_OK) return 64;
    struct vnp_device_options opt = {.precision = precision};
    struct vnp_checkpoint *c = random_checkpoint(b.model);
    double t0 = vnp_now_s();
    if (be->device_open(&opt, &dev) != VNP_OK) stop("open");
    double t1 = vnp_now_s();
    if (vnp_encoder_create(be, dev, c, &b.e) != VNP_OK) stop("load");
    printf("# open %.2f s, weights %.2f s, %.2f GB on the device\n", t1 - t0, vnp_now_s() - t1,
           (double)vnp_encoder_bytes(b.e) / 1e9);
    for (int i = 0; i < 2; i++)
        if (vnp_encoder_session_create(b.e, b.budget, MAX_SEQS, &b.s[i]) != VNP_OK) stop("session");
    if (pthread_create(&watcher, NULL, watch, NULL) != 0) return 2;
    for (int i = 5 + is_profile; i < argc; i++)
        (is_profile ? bench_ops : bench_encoder)(&b, argv[i]);
    atomic_store(&is_watching, -1);
    return 0;
}
