// SPDX-License-Identifier: MIT
// How much of an encoder's time is matrix products, and how good are they? Runs the layers of ESM-2
// and DNABERT-S shapes (few layers, random weights) through the CPU backend op by op, and in turns
// with it oneDNN's own matrix products of the same sizes over the whole batch with its own threads:
// plain products, no bias, no activation. The ratio oneDNN / encoder is the part of the time that
// a perfect encoder would need.
//
// usage: bench_encoder [SHAPE PRECISION LENGTH|mixed [TOKENS [SECONDS]]]
//   SHAPE 650m, 3b, 150m, dnabert; PRECISION fp32, bf16; without arguments: the table of the docs.
//   VNP_BENCH_CLOCK=cpu counts the process's CPU time instead of wall time: for one thread
//   (OMP_NUM_THREADS=1) on a machine that is not idle. VNP_BENCH_OPS=1 adds the time of every op.
//   Lengths "mixed": 30..1000, uniform, seed fixed.
#include "cpu/cpu.h"

#include <math.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct shape {
    const char *name;
    int64_t n_hidden, n_heads, n_ffn, n_layers;
    bool is_gated; /* DNABERT-S: post-norm, ALiBi, gated gelu */
};
static const struct shape shapes[] = {
    {"150m", 640, 20, 2560, 4, false},
    {"650m", 1280, 20, 5120, 2, false},
    {"3b", 2560, 40, 10240, 1, false},
    {"dnabert", 768, 12, 3072, 4, true},
};

enum { OP_NORM, OP_QKV, OP_ATTENTION, OP_OUT, OP_UP, OP_DOWN, OP_REST, N_OPS };
static const char *const op_names[N_OPS] = {"norm", "qkv",  "attention", "out",
                                            "up",   "down", "rest"};

struct model {
    const struct shape *shape;
    const struct vnp_backend *b;
    struct vnp_device *dev;
    struct vnp_exec *ex;
    struct vnp_linear *qkv, *out, *up, *down; /* one layer's, used for all: big enough for memory */
    float *gamma, *beta, *table, *slopes;
    struct vnp_tensor x, attn_in, qkv_t, attn_out, ffn_in, ffn_mid, pooled;
    struct vnp_pack pack;
    double op_s[N_OPS];
};

static void check(vnp_status status) {
    if (status == VNP_OK) return;
    fprintf(stderr, "%s; %s\n", vnp_error_last()->text, vnp_error_last()->hint);
    exit(status == VNP_UNSUPPORTED ? 77 : 1);
}

static double bench_now(void) {
    struct timespec t;
    const char *clock = getenv("VNP_BENCH_CLOCK");
    if (!clock || strcmp(clock, "cpu") != 0) return vnp_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t random_state = 1;
static double random_unit(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static float *random_values(int64_t n, double scale) {
    float *p = vnp_alloc_aligned((size_t)n * sizeof *p);
    for (int64_t i = 0; p && i < n; i++) p[i] = (float)((2 * random_unit() - 1) * scale);
    return p;
}

static struct vnp_linear *make_linear(struct model *m, int64_t n_out, int64_t n_in, int64_t gate,
                                      bool has_bias, enum vnp_site site) {
    float *w = random_values(n_out * n_in, sqrt(3.0 / (double)n_in));
    float *bias = random_values(n_out, 0.1);
    struct vnp_view weight_view = {w, VNP_F32, n_out, n_in}, bias_view = {bias, VNP_F32, 1, n_out};
    struct vnp_linear_desc desc = {.weight = &weight_view,
                                   .bias = has_bias ? &bias_view : NULL,
                                   .n_parts = 1,
                                   .n_out = n_out,
                                   .n_in = n_in,
                                   .gate_rows = gate,
                                   .site = site};
    struct vnp_linear *linear;
    check(m->b->linear_create(m->dev, &desc, &linear));
    vnp_free_aligned(w);
    vnp_free_aligned(bias);
    return linear;
}

static float *make_const(struct model *m, int64_t rows, int64_t cols) {
    float *v = random_values(rows * cols, 1), *out;
    struct vnp_view view = {v, VNP_F32, rows, cols};
    check(m->b->const_create(m->dev, &view, &out));
    vnp_free_aligned(v);
    return out;
}

static void model_create(struct model *m, const struct shape *s, enum vnp_precision precision) {
    const int64_t d = s->n_hidden, f = s->n_ffn, n = m->pack.n_tokens;
    const char *threads = getenv("OMP_NUM_THREADS");
    struct vnp_device_options opt = {.precision = precision,
                                     .n_threads = threads ? atoi(threads) : 0};
    m->shape = s;
    m->b = vnp_cpu_backend();
    check(m->b->device_open(&opt, &m->dev));
    m->qkv = make_linear(m, 3 * d, d, 0, true, VNP_SITE_ATTN_IN);
    m->out = make_linear(m, d, d, 0, true, VNP_SITE_ATTN_OUT);
    m->up = s->is_gated ? make_linear(m, 2 * f, d, f, false, VNP_SITE_FFN_IN)
                        : make_linear(m, f, d, 0, true, VNP_SITE_FFN_IN);
    m->down = make_linear(m, d, f, 0, true, VNP_SITE_FFN_MID);
    m->gamma = make_const(m, 1, d);
    m->beta = make_const(m, 1, d);
    m->table = make_const(m, 33, d);
    m->slopes = make_const(m, 1, s->n_heads);
    struct vnp_exec_limits limits = {n, m->pack.n_seqs, 2 * f};
    check(m->b->exec_create(m->dev, &limits, &m->ex));
    check(m->b->tensor_create(m->ex, VNP_SITE_RESIDUAL, n, d, &m->x));
    check(m->b->tensor_create(m->ex, VNP_SITE_ATTN_IN, n, d, &m->attn_in));
    check(m->b->tensor_create(m->ex, VNP_SITE_QKV, n, 3 * d, &m->qkv_t));
    check(m->b->tensor_create(m->ex, VNP_SITE_ATTN_OUT, n, d, &m->attn_out));
    check(m->b->tensor_create(m->ex, VNP_SITE_FFN_IN, n, d, &m->ffn_in));
    check(m->b->tensor_create(m->ex, VNP_SITE_FFN_MID, n, f, &m->ffn_mid));
    check(m->b->tensor_create(m->ex, VNP_SITE_F32, m->pack.n_seqs, d, &m->pooled));
}

static void model_destroy(struct model *m) {
    float *const consts[] = {m->gamma, m->beta, m->table, m->slopes};
    struct vnp_linear *const linears[] = {m->qkv, m->out, m->up, m->down};
    for (int i = 0; i < 4; i++) {
        m->b->const_destroy(m->dev, consts[i]);
        m->b->linear_destroy(m->dev, linears[i]);
    }
    m->b->exec_destroy(m->ex);
    m->b->device_close(m->dev);
}

#define OP(kind, call)                                                                             \
    do {                                                                                           \
        double op_start = bench_now();                                                             \
        check(m->b->call);                                                                         \
        m->op_s[kind] += bench_now() - op_start;                                                   \
    } while (0)

static double run_encoder(struct model *m) {
    const struct shape *s = m->shape;
    const int64_t dh = s->n_hidden / s->n_heads;
    const struct vnp_embed_params embed = {
        .table = m->table, .vocab = 33, .has_token_dropout = !s->is_gated, .mask_id = 32};
    const struct vnp_norm_params norm = {m->gamma, m->beta, 1e-5f};
    const struct vnp_attention_params attention = {.n_heads = s->n_heads,
                                                   .head_dim = dh,
                                                   .scale = 1 / sqrtf((float)dh),
                                                   .has_rotary = !s->is_gated,
                                                   .slopes = s->is_gated ? m->slopes : NULL};
    const struct vnp_pool_params pool = {VNP_POOL_MEAN, !s->is_gated, !s->is_gated, 1024};
    const enum vnp_epilogue up = s->is_gated ? VNP_EPI_GEGLU : VNP_EPI_GELU;
    const double start = bench_now();
    OP(OP_REST, batch_begin(m->ex, &m->pack));
    OP(OP_REST, embed(m->ex, &embed, &m->x));
    if (s->is_gated) OP(OP_NORM, layernorm(m->ex, &norm, &m->x, &m->x, &m->attn_in));
    for (int64_t l = 0; l < s->n_layers; l++) {
        if (!s->is_gated) OP(OP_NORM, layernorm(m->ex, &norm, &m->x, NULL, &m->attn_in));
        OP(OP_QKV, linear(m->ex, m->qkv, VNP_EPI_NONE, &m->attn_in, &m->qkv_t));
        OP(OP_ATTENTION, attention(m->ex, &attention, &m->qkv_t, &m->attn_out));
        OP(OP_OUT, linear(m->ex, m->out, VNP_EPI_RESIDUAL, &m->attn_out, &m->x));
        OP(OP_NORM, layernorm(m->ex, &norm, &m->x, s->is_gated ? &m->x : NULL, &m->ffn_in));
        OP(OP_UP, linear(m->ex, m->up, up, &m->ffn_in, &m->ffn_mid));
        OP(OP_DOWN, linear(m->ex, m->down, VNP_EPI_RESIDUAL, &m->ffn_mid, &m->x));
        if (s->is_gated) OP(OP_NORM, layernorm(m->ex, &norm, &m->x, &m->x, &m->attn_in));
    }
    if (!s->is_gated) OP(OP_NORM, layernorm(m->ex, &norm, &m->x, &m->x, NULL));
    OP(OP_REST, pool(m->ex, &pool, &m->x, &m->pooled));
    check(m->b->exec_wait(m->ex));
    return bench_now() - start;
}

/* ---- oneDNN's own products ------------------------------------------------------------------- */

struct product {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, w, out;
};

static void dnnl_ok(dnnl_status_t status) {
    if (status == dnnl_success) return;
    fprintf(stderr, "oneDNN: status %d\n", (int)status);
    exit(1);
}

static void product_create(struct product *p, dnnl_engine_t engine, int64_t m, int64_t n, int64_t k,
                           enum vnp_precision precision) {
    const dnnl_data_type_t type = precision == VNP_PREC_BF16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t a_dims = {m, k}, w_dims = {k, n}, out_dims = {m, n};
    dnnl_memory_desc_t a, w, out;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd;
    dnnl_ok(dnnl_memory_desc_init_by_tag(&a, 2, a_dims, type, dnnl_ab));
    dnnl_ok(dnnl_memory_desc_init_by_tag(&w, 2, w_dims, type, dnnl_format_tag_any));
    dnnl_ok(dnnl_memory_desc_init_by_tag(&out, 2, out_dims, dnnl_f32, dnnl_ab));
    dnnl_ok(dnnl_matmul_desc_init(&desc, &a, &w, NULL, &out));
    dnnl_ok(dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL));
    dnnl_ok(dnnl_primitive_create(&p->primitive, pd));
    w = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_ok(dnnl_memory_create(&p->a, &a, engine, DNNL_MEMORY_ALLOCATE));
    dnnl_ok(dnnl_memory_create(&p->w, &w, engine, DNNL_MEMORY_ALLOCATE));
    dnnl_ok(dnnl_memory_create(&p->out, &out, engine, DNNL_MEMORY_ALLOCATE));
    dnnl_memory_t const inputs[] = {p->a, p->w};
    for (int i = 0; i < 2; i++) { /* numbers of ordinary size, in either type */
        const dnnl_memory_desc_t *md;
        void *data;
        dnnl_ok(dnnl_memory_get_memory_desc(inputs[i], &md));
        dnnl_ok(dnnl_memory_get_data_handle(inputs[i], &data));
        memset(data, 0x3c, dnnl_memory_desc_get_size(md));
    }
    dnnl_primitive_desc_destroy(pd);
}

static void product_destroy(struct product *p) {
    dnnl_memory_destroy(p->a);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->out);
    dnnl_primitive_destroy(p->primitive);
}

static double run_products(struct product p[4], dnnl_stream_t stream, int64_t n_layers) {
    const double start = bench_now();
    for (int64_t l = 0; l < n_layers; l++)
        for (int i = 0; i < 4; i++) {
            const dnnl_exec_arg_t args[] = {
                {DNNL_ARG_SRC, p[i].a}, {DNNL_ARG_WEIGHTS, p[i].w}, {DNNL_ARG_DST, p[i].out}};
            dnnl_ok(dnnl_primitive_execute(p[i].primitive, stream, 3, args));
        }
    dnnl_ok(dnnl_stream_wait(stream));
    return bench_now() - start;
}

/* ---- one case -------------------------------------------------------------------------------- */

static void make_pack(struct vnp_pack *pack, const char *lengths, int64_t n_tokens) {
    const int64_t fixed = strtoll(lengths, NULL, 10);
    uint16_t *tokens = malloc((size_t)n_tokens * sizeof *tokens);
    int32_t *cu = malloc(((size_t)n_tokens + 1) * sizeof *cu);
    int64_t s = 0, longest = 0;
    cu[0] = 0;
    random_state = 7;
    for (;;) {
        int64_t n = fixed > 0 ? fixed : 30 + (int64_t)(random_unit() * 971);
        if (cu[s] + n > n_tokens && s > 0) break;
        cu[s + 1] = cu[s] + (int32_t)VNP_MIN(n, n_tokens);
        longest = VNP_MAX(longest, n);
        s++;
    }
    for (int64_t i = 0; i < cu[s]; i++) tokens[i] = (uint16_t)(4 + random_unit() * 20);
    *pack = (struct vnp_pack){cu[s], s, VNP_MIN(longest, n_tokens), tokens, cu};
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(const struct shape *s, enum vnp_precision precision, const char *lengths,
                  int64_t n_tokens, double seconds) {
    enum { MAX_RUNS = 200 };
    double ours[MAX_RUNS], theirs[MAX_RUNS], ratio[MAX_RUNS];
    struct model m = {0};
    struct product p[4];
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const int64_t d = s->n_hidden, f = s->n_ffn;
    make_pack(&m.pack, lengths, n_tokens);
    model_create(&m, s, precision);
    dnnl_ok(dnnl_engine_create(&engine, dnnl_cpu, 0));
    dnnl_ok(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    const int64_t sizes[4][2] = {{3 * d, d}, {d, d}, {s->is_gated ? 2 * f : f, d}, {d, f}};
    for (int i = 0; i < 4; i++)
        product_create(&p[i], engine, m.pack.n_tokens, sizes[i][0], sizes[i][1], precision);
    run_encoder(&m);
    run_products(p, stream, s->n_layers);
    memset(m.op_s, 0, sizeof m.op_s);
    int n = 0;
    for (double start = bench_now(); n < MAX_RUNS && (n < 3 || bench_now() - start < seconds);
         n++) {
        theirs[n] = run_products(p, stream, s->n_layers);
        ours[n] = run_encoder(&m);
        ratio[n] = theirs[n] / ours[n];
    }
    const int64_t n_all = m.pack.n_tokens * s->n_layers;
    double flop = 0;
    for (int i = 0; i < 4; i++) flop += 2.0 * (double)n_all * (double)(sizes[i][0] * sizes[i][1]);
    if (getenv("VNP_BENCH_OPS")) {
        for (int i = 0; i < N_OPS; i++)
            printf("#   %-10s %8.3f ms\n", op_names[i], m.op_s[i] / n * 1e3);
    }
    qsort(ours, (size_t)n, sizeof *ours, by_value);
    qsort(theirs, (size_t)n, sizeof *theirs, by_value);
    qsort(ratio, (size_t)n, sizeof *ratio, by_value);
    printf("%-8s %-5s %6s %6lld %4lld %10.2f %10.2f %8.1f %6.3f %6.3f\n", s->name,
           vnp_precision_name(precision), lengths, (long long)m.pack.n_tokens,
           (long long)s->n_layers, ours[n / 2] * 1e3, theirs[n / 2] * 1e3,
           flop / ours[n / 2] * 1e-9, ratio[n / 2], theirs[0] / ours[0]);
    fflush(stdout);
    for (int i = 0; i < 4; i++) product_destroy(&p[i]);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    model_destroy(&m);
    free((void *)(uintptr_t)m.pack.tokens);
    free((void *)(uintptr_t)m.pack.cu_seqlens);
}

static const struct shape *find_shape(const char *name) {
    for (size_t i = 0; i < VNP_COUNT(shapes); i++)
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    fprintf(stderr, "no shape %s\n", name);
    exit(64);
}

int main(int argc, char **argv) {
    printf("# CPU: %s; oneDNN %d.%d.%d\n", vnp_cpu_features(), dnnl_version()->major,
           dnnl_version()->minor, dnnl_version()->patch);
    printf(
        "# shape  prec   length tokens layers  encoder ms  oneDNN ms  GFLOP/s  ratio: median, of "
        "minima\n");
    if (argc > 3) {
        enum vnp_precision precision;
        check(vnp_precision_parse(argv[2], &precision));
        bench(find_shape(argv[1]), precision, argv[3], argc > 4 ? atoll(argv[4]) : 2048,
              argc > 5 ? atof(argv[5]) : 4);
        return 0;
    }
    static const char *const names[] = {"650m", "3b", "dnabert"};
    static const char *const lengths[] = {"51", "166", "mixed"};
    for (int i = 0; i < 3; i++)
        for (int p = VNP_PREC_FP32; p <= VNP_PREC_BF16; p++)
            for (int j = 0; j < 3; j++)
                if (p == VNP_PREC_FP32 || strstr(vnp_cpu_features(), "bf16"))
                    bench(find_shape(names[i]), (enum vnp_precision)p, lengths[j], 2048, 3);
    return 0;
}
