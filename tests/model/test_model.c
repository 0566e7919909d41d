// SPDX-License-Identifier: MIT
// model: the slopes' rule, wants and limits, the properties of a session (company, repetition, no
// allocation, every allocation failing in turn), on small checkpoints written here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "support.h"
#include "model_support.h"

#include <unistd.h>

/* ---- allocations: counted, and made to fail on request -------------------------------------- */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HAS_HOOKS 1
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#undef HAS_HOOKS
#define HAS_HOOKS 0
#endif
#endif
#else
#define HAS_HOOKS 0
#endif

static struct {
    int64_t n_calls, fail_at; /* the n-th from the arming fails, 0 = none */
    int64_t n_live;
} heap;

#if HAS_HOOKS
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *aligned_alloc(size_t alignment, size_t n);
void free(void *p);

static bool refuses(void) {
    int64_t n = __atomic_add_fetch(&heap.n_calls, 1, __ATOMIC_RELAXED);
    return heap.fail_at && n == heap.fail_at;
}
static void *count(void *p) {
    if (p) __atomic_add_fetch(&heap.n_live, 1, __ATOMIC_RELAXED);
    return p;
}
void *malloc(size_t n) {
    return refuses() ? NULL : count(__libc_malloc(n));
}
void *calloc(size_t n, size_t size) {
    return refuses() ? NULL : count(__libc_calloc(n, size));
}
void *aligned_alloc(size_t alignment, size_t n) {
    return refuses() ? NULL : count(__libc_memalign(alignment, n));
}
void free(void *p) {
    if (p) __atomic_sub_fetch(&heap.n_live, 1, __ATOMIC_RELAXED);
    __libc_free(p);
}
#endif

/* ---- a small checkpoint -------------------------------------------------------------------- */

static const struct golden_row ref = {"ref", vnp_ref_backend, VNP_PREC_FP32, false, 0, 0};

struct writer {
    FILE *f;
    char *head;
    size_t n_head, n_data;
    float *data;
    uint64_t seed;
};

static void add(struct writer *w, float centre, float spread, int64_t rows, int64_t cols,
                const char *fmt, ...) VNP_PRINTF(6, 7);
static void add(struct writer *w, float centre, float spread, int64_t rows, int64_t cols,
                const char *fmt, ...) {
    char name[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    int64_t n = rows * (cols ? cols : 1);
    size_t at = w->n_data * 4, end = at + (size_t)n * 4;
    w->n_head += (size_t)sprintf(w->head + w->n_head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%lld",
                                 w->n_head > 1 ? "," : "", name, (long long)rows);
    if (cols) w->n_head += (size_t)sprintf(w->head + w->n_head, ",%lld", (long long)cols);
    w->n_head += (size_t)sprintf(w->head + w->n_head, "],\"data_offsets\":[%zu,%zu]}", at, end);
    for (int64_t i = 0; i < n; i++)
        w->data[w->n_data++] = centre + spread * support_random_f32(&w->seed);
}

static void add_pair(struct writer *w, int64_t rows, int64_t cols, const char *name) {
    add(w, 0, cols ? 1.7f / sqrtf((float)cols) : 0, rows, cols, "%s.weight", name);
    add(w, 0, 0.3f, rows, 0, "%s.bias", name);
}

static void add_norm(struct writer *w, int64_t d, const char *name) {
    add(w, 1, 0.3f, d, 0, "%s.weight", name);
    add(w, 0, 0.3f, d, 0, "%s.bias", name);
}

static void put_text(const char *dir, const char *file, const char *text, size_t n) {
    char path[256];
    path_format(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

/* A Hugging Face ESM folder in dir, random weights from seed. F is free; no head on request. */
static void make_esm2(char dir[64], int64_t n_layers, int64_t d, int64_t h, int64_t f,
                      bool has_lm) {
    static const char *const parts[] = {"attention.self.query", "attention.self.key",
                                        "attention.self.value", "attention.output.dense"};
    struct writer w = {.head = malloc(1 << 20), .data = malloc(64 << 20), .seed = 7};
    char config[512], name[128];
    strcpy(dir, "/tmp/vnp-model-XXXXXX");
    assert_non_null(mkdtemp(dir));
    w.n_head = 1;
    w.head[0] = '{';
    add(&w, 0, 1, 33, d, "esm.embeddings.word_embeddings.weight");
    for (int64_t l = 0; l < n_layers; l++) {
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "esm.encoder.layer.%d.%s", (int)l, parts[i]);
            add_pair(&w, d, d, name);
        }
        snprintf(name, sizeof name, "esm.encoder.layer.%d.attention.LayerNorm", (int)l);
        add_norm(&w, d, name);
        snprintf(name, sizeof name, "esm.encoder.layer.%d.LayerNorm", (int)l);
        add_norm(&w, d, name);
        snprintf(name, sizeof name, "esm.encoder.layer.%d.intermediate.dense", (int)l);
        add_pair(&w, f, d, name);
        snprintf(name, sizeof name, "esm.encoder.layer.%d.output.dense", (int)l);
        add_pair(&w, d, f, name);
    }
    add_norm(&w, d, "esm.encoder.emb_layer_norm_after");
    if (has_lm) {
        add_pair(&w, d, d, "lm_head.dense");
        add_norm(&w, d, "lm_head.layer_norm");
        add(&w, 0, 1, 33, 0, "lm_head.bias");
    }
    w.head[w.n_head++] = '}';
    while (w.n_head % 8) w.head[w.n_head++] = ' ';
    char *file = malloc(8 + w.n_head + w.n_data * 4);
    uint64_t n = w.n_head;
    memcpy(file, &n, 8);
    memcpy(file + 8, w.head, w.n_head);
    memcpy(file + 8 + w.n_head, w.data, w.n_data * 4);
    put_text(dir, "model.safetensors", file, 8 + w.n_head + w.n_data * 4);
    int len = snprintf(config, sizeof config,
                       "{\"model_type\":\"esm\",\"num_hidden_layers\":%d,\"hidden_size\":%d,"
                       "\"num_attention_heads\":%d,\"intermediate_size\":%d,\"vocab_size\":33,"
                       "\"position_embedding_type\":\"rotary\",\"token_dropout\":true,"
                       "\"layer_norm_eps\":1e-05,\"emb_layer_norm_before\":false,"
                       "\"hidden_act\":\"gelu\"}",
                       (int)n_layers, (int)d, (int)h, (int)f);
    put_text(dir, "config.json", config, (size_t)len);
    free(file), free(w.head), free(w.data);
}

static void drop(const char *dir) {
    char path[256];
    path_format(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    path_format(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}

#define N_SEQS 20
static const int lengths[N_SEQS] = {3,  17, 52, 4,  65, 130, 2,  33, 20, 9,
                                    64, 31, 5,  77, 12, 101, 40, 6,  19, 257};

struct list {
    uint16_t tokens[2048];
    int32_t cu[N_SEQS + 1];
};

static void make_list(struct list *l) {
    uint64_t seed = 11;
    l->cu[0] = 0;
    for (int s = 0; s < N_SEQS; s++) {
        l->cu[s + 1] = l->cu[s] + lengths[s];
        for (int i = l->cu[s]; i < l->cu[s + 1]; i++)
            l->tokens[i] = (uint16_t)(4 + support_random(&seed) % 20);
        l->tokens[l->cu[s]] = 0, l->tokens[l->cu[s + 1] - 1] = 2;
        if (s % 4 == 1) l->tokens[l->cu[s] + 1 + s % 7] = 32; /* <mask> */
    }
}

/* ---- tests --------------------------------------------------------------------------------- */

static void test_slopes(void **state) {
    (void)state;
    for (int n_heads = 1; n_heads <= 20; n_heads++) {
        float got[20];
        double want[20];
        int power = n_heads >= 16  ? 16
                    : n_heads >= 8 ? 8
                    : n_heads >= 4 ? 4
                    : n_heads >= 2 ? 2
                                   : 1,
            n = 0;
        double base = pow(2, -8.0 / power), wide = pow(2, -8.0 / (2 * power));
        for (int i = 1; i <= power; i++) want[n++] = pow(base, i);
        for (int i = 1; n < n_heads; i += 2) want[n++] = pow(wide, i);
        vnp_alibi_slopes(n_heads, got);
        for (int h = 0; h < n_heads; h++)
            if (fabs((double)got[h] - want[h]) > 1e-7 * want[h])
                fail_msg("H = %d, head %d: %g, expected %g", n_heads, h, (double)got[h], want[h]);
    }
    float twelve[12];
    vnp_alibi_slopes(12, twelve);
    assert_true(twelve[0] == 0.5f && twelve[7] == 0.00390625f && twelve[9] == 0.35355339f);
}

static void test_wants_and_limits(void **state) {
    char dir[64];
    struct list *l = calloc(1, sizeof *l);
    float out[1024];
    (void)state;
    make_list(l);
    make_esm2(dir, 2, 32, 2, 48, false);
    struct model m = model_open(&ref, dir, VNP_MODEL_ESM2, 1);
    assert_int_equal(m.spec->n_ffn, 48);
    assert_true(vnp_encoder_bytes(m.encoder) > 0);
    struct vnp_encoder_session *s;
    assert_int_equal(vnp_encoder_session_create(m.encoder, 0, 1, &s), VNP_INVAL);
    assert_ok(vnp_encoder_session_create(m.encoder, 24, 2, &s));
    struct vnp_pack pack = {20, 2, 17, l->tokens, l->cu};
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    assert_ok(vnp_encoder_submit(s, &pack, &want, out));
    assert_ok(vnp_encoder_wait(s));
    want.layer = 3;
    assert_int_equal(vnp_encoder_submit(s, &pack, &want, out), VNP_INVAL);
    want.layer = -2;
    assert_int_equal(vnp_encoder_submit(s, &pack, &want, out), VNP_INVAL);
    want.layer = -1, want.is_logits = true;
    assert_int_equal(vnp_encoder_submit(s, &pack, &want, out), VNP_UNSUPPORTED);
    want.is_logits = false;
    struct vnp_pack three = {72, 3, 52, l->tokens, l->cu};
    assert_int_equal(vnp_encoder_submit(s, &three, &want, out), VNP_INVAL);
    l->tokens[3] = 33;
    assert_int_equal(vnp_encoder_submit(s, &pack, &want, out), VNP_INVAL);
    l->tokens[3] = 0;
    assert_ok(vnp_encoder_submit(s, &pack, &want, out)); /* and the session still works */
    assert_ok(vnp_encoder_wait(s));
    vnp_encoder_session_destroy(s);
    model_close(&m);
    drop(dir);
    free(l);
}

/* Every sequence alone, then in packs, in a shuffled order, at places 0 and 17: the same bytes. */
static void test_company(void **state) {
    static const struct {
        int64_t d, h, f;
    } shapes[] = {{32, 2, 128}, {120, 5, 200}, {64, 1, 96}, {96, 3, 384}};
    struct list *l = calloc(1, sizeof *l), *mixed = calloc(1, sizeof *mixed);
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    (void)state;
    make_list(l);
    for (size_t i = 0; i < VNP_COUNT(shapes); i++) {
        char dir[64];
        int64_t d = shapes[i].d;
        make_esm2(dir, 2, d, shapes[i].h, shapes[i].f, true);
        struct model m = model_open(&ref, dir, VNP_MODEL_ESM2, 2);
        float *alone = model_run(&m, l->tokens, l->cu, N_SEQS, 1, &want);
        float *packed = model_run(&m, l->tokens, l->cu, N_SEQS, 4096, &want);
        size_t n_bytes = (size_t)(N_SEQS * d) * sizeof *alone;
        assert_memory_equal(alone, packed, n_bytes);
        int order[N_SEQS];
        for (int s = 0; s < N_SEQS; s++) order[s] = (s * 7 + 3) % N_SEQS;
        order[0] = order[17] = 5;
        for (int s = 0; s < N_SEQS; s++) {
            mixed->cu[s + 1] = mixed->cu[s] + lengths[order[s]];
            memcpy(mixed->tokens + mixed->cu[s], l->tokens + l->cu[order[s]],
                   (size_t)lengths[order[s]] * 2);
        }
        float *shuffled = model_run(&m, mixed->tokens, mixed->cu, N_SEQS, 4096, &want);
        for (int s = 0; s < N_SEQS; s++)
            assert_memory_equal(shuffled + s * d, alone + order[s] * d, (size_t)d * sizeof *alone);
        free(alone), free(packed), free(shuffled);
        model_close(&m);
        drop(dir);
    }
    free(l), free(mixed);
}

/* 10 identical batches: the same bytes, and nothing allocated after the first. */
static void test_steady(void **state) {
    char dir[64];
    struct list *l = calloc(1, sizeof *l);
    float *first = calloc(N_SEQS * 64, sizeof *first), *out = calloc(N_SEQS * 64, sizeof *out);
    (void)state;
    make_list(l);
    make_esm2(dir, 2, 64, 2, 256, true);
    struct model m = model_open(&ref, dir, VNP_MODEL_ESM2, 2);
    struct vnp_pack pack = {l->cu[N_SEQS], N_SEQS, 257, l->tokens, l->cu};
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    struct vnp_encoder_session *s;
    assert_ok(vnp_encoder_session_create(m.encoder, 1024, N_SEQS, &s));
    assert_ok(vnp_encoder_submit(s, &pack, &want, first));
    assert_ok(vnp_encoder_wait(s));
    int64_t n_calls = heap.n_calls;
    for (int i = 0; i < 9; i++) {
        assert_ok(vnp_encoder_submit(s, &pack, &want, out));
        assert_ok(vnp_encoder_wait(s));
        assert_memory_equal(first, out, N_SEQS * 64 * sizeof *out);
    }
    assert_int_equal(heap.n_calls, n_calls);
    vnp_encoder_session_destroy(s);
    model_close(&m);
    drop(dir);
    free(l), free(first), free(out);
}

/* The n-th allocation fails, for every n: NOMEM, nothing leaked, and it works afterwards. */
static void test_allocation_faults(void **state) {
    char dir[64];
    (void)state;
    if (!HAS_HOOKS) {
        print_message("# SKIP the sanitizer owns the allocator\n");
        skip();
    }
    make_esm2(dir, 1, 32, 2, 64, true);
    struct vnp_checkpoint *c;
    struct vnp_device *dev;
    struct vnp_device_options opt = {.n_threads = 1};
    const struct vnp_backend *b = vnp_ref_backend();
    assert_ok(vnp_checkpoint_open(dir, VNP_MODEL_ESM2, &c));
    int n_failures = 0;
    for (int64_t n = 1;; n++) {
        struct vnp_encoder *e = NULL;
        struct vnp_encoder_session *s = NULL;
        int64_t n_live = heap.n_live;
        heap.fail_at = heap.n_calls + n;
        vnp_status status = b->device_open(&opt, &dev);
        if (status == VNP_OK) status = vnp_encoder_create(b, dev, c, &e);
        if (status == VNP_OK) status = vnp_encoder_session_create(e, 64, 4, &s);
        bool is_reached = heap.n_calls >= heap.fail_at;
        heap.fail_at = 0;
        vnp_encoder_session_destroy(s);
        vnp_encoder_destroy(e);
        b->device_close(dev);
        assert_int_equal(heap.n_live, n_live);
        if (!is_reached) {
            assert_int_equal(status, VNP_OK);
            break;
        }
        assert_int_equal(status, VNP_NOMEM);
        n_failures++;
    }
    print_message("# %d allocations, each failed once\n", n_failures);
    assert_true(n_failures > 20);
    vnp_checkpoint_close(c);
    drop(dir);
}

/* Masks scale the others, <eos> stays out of the mean, and the mean ends at 1,024 residues. Layer
 * 0 is the scaled embedding, so the answer is known. */
static void test_pooling_rules(void **state) {
    char dir[64];
    const int64_t d = 16;
    int32_t cu[4] = {0, 7, 9, 9 + 1102};
    uint16_t tokens[9 + 1102] = {0, 5, 32, 6, 32, 7, 2, 0, 2};
    float out[3 * 16], *table;
    (void)state;
    make_esm2(dir, 1, d, 1, 32, false);
    struct model m = model_open(&ref, dir, VNP_MODEL_ESM2, 1);
    const struct vnp_tensor_info *t = vnp_checkpoint_find(m.checkpoint, "embed.weight");
    table = calloc(33 * 16, sizeof *table);
    vnp_convert_to_f32(t->dtype, t->data, 33 * d, table);
    for (int i = 10; i < 9 + 1101; i++) tokens[i] = i < 10 + 1024 ? 4 : 20;
    tokens[9] = 0, tokens[9 + 1101] = 2;
    struct vnp_pack pack = {9 + 1102, 3, 1102, tokens, cu};
    struct vnp_encoder_want want = {.layer = 0, .pool = VNP_POOL_MEAN};
    struct vnp_encoder_session *s;
    assert_ok(vnp_encoder_session_create(m.encoder, 2048, 3, &s));
    assert_ok(vnp_encoder_submit(s, &pack, &want, out));
    assert_ok(vnp_encoder_wait(s));
    for (int64_t i = 0; i < d; i++) {
        double sum = 0;
        for (int k = 5; k <= 7; k++) sum += (double)table[k * d + i];
        assert_true(fabs((double)out[i] - sum / 5 * 0.88 / (1 - 2.0 / 7)) < 1e-6);
        assert_true(out[d + i] == 0); /* no residue: nothing to average */
        assert_true(fabs((double)out[2 * d + i] - 0.88 * (double)table[4 * d + i]) < 1e-6);
    }
    vnp_encoder_session_destroy(s);
    model_close(&m);
    drop(dir);
    free(table);
}

/* Rotary knows distances only: one FP32 sequence whose 1,000 first residues are alike keeps to the
 * FP64 answer at position 1,000, taken from attention over turned vectors written out here. */
static void test_rotary_far_out(void **state) {
    const int64_t dh = 64, n = 1001;
    struct vnp_device *dev;
    struct vnp_exec *ex;
    struct vnp_device_options opt = {.n_threads = 1};
    const struct vnp_backend *b = vnp_ref_backend();
    struct vnp_exec_limits limits = {n, 1, 3 * dh};
    struct vnp_tensor qkv, out;
    int32_t cu[2] = {0, (int32_t)n};
    uint16_t *tokens = calloc((size_t)n, sizeof *tokens);
    struct vnp_pack pack = {n, 1, n, tokens, cu};
    uint64_t seed = 3;
    (void)state;
    assert_ok(b->device_open(&opt, &dev));
    assert_ok(b->exec_create(dev, &limits, &ex));
    assert_ok(b->tensor_create(ex, VNP_SITE_QKV, n, 3 * dh, &qkv));
    assert_ok(b->tensor_create(ex, VNP_SITE_ATTN_OUT, n, dh, &out));
    float *x = qkv.data, *y = out.data;
    for (int64_t i = 0; i < n * 3 * dh; i++) x[i] = 2 * support_random_f32(&seed);
    assert_ok(b->batch_begin(ex, &pack));
    struct vnp_attention_params p = {
        .n_heads = 1, .head_dim = dh, .scale = 0.125f, .has_rotary = true};
    assert_ok(b->attention(ex, &p, &qkv, &out));
    long double total = 0, sums[64] = {0};
    const float *q = x + 1000 * 3 * dh;
    for (int64_t j = 0; j < n; j++) {
        const float *k = x + j * 3 * dh + dh;
        long double score = 0;
        for (int64_t i = 0; i < dh / 2; i++) {
            long double angle = (1000 - j) * powl(10000, -2.0L * (long double)i / (long double)dh);
            long double re = (long double)q[i] * k[i] + (long double)q[32 + i] * k[32 + i];
            long double im = (long double)q[i] * k[32 + i] - (long double)q[32 + i] * k[i];
            score += re * cosl(angle) + im * sinl(angle);
        }
        long double e = expl(score * 0.125L);
        total += e;
        for (int64_t i = 0; i < dh; i++) sums[i] += e * k[dh + i];
    }
    double worst = 0;
    for (int64_t i = 0; i < dh; i++)
        worst = fmax(worst, fabs((double)(sums[i] / total - (long double)y[1000 * dh + i])));
    print_message("# rotary at position 1,000: error %.1e\n", worst);
    assert_true(worst < 1e-6);
    b->exec_destroy(ex);
    b->device_close(dev);
    free(tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_wants_and_limits),
        cmocka_unit_test(test_company),
        cmocka_unit_test(test_steady),
        cmocka_unit_test(test_pooling_rules),
        cmocka_unit_test(test_rotary_far_out),
        cmocka_unit_test(test_allocation_faults),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
