// SPDX-License-Identifier: MIT
// Encoders of any shape with random weights in memory, for benches: no file, and no more memory
// than the largest tensor needs, because all tensors are windows into one buffer of numbers.
#include "weights_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL_SPARE = 1000003, POOL_STEP = 7919 * 64 };

struct builder {
    struct vnp_checkpoint *c;
    const uint16_t *pool; /* [n_pool] FP16 */
    const float *ones;    /* [D] */
    int64_t n_pool;
    uint64_t at;
    bool is_full;
};

static void add(struct builder *b, int64_t rows, int64_t cols, bool is_gamma, const char *fmt, ...)
    VNP_PRINTF(5, 6);
static void add(struct builder *b, int64_t rows, int64_t cols, bool is_gamma, const char *fmt,
                ...) {
    char name[128];
    struct vnp_checkpoint *c = b->c;
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    char *copy = strdup(name);
    if (c->n_tensors == c->cap_tensors || !copy) {
        b->is_full = true; /* or out of memory */
        free(copy);
        return;
    }
    struct vnp_tensor_info *t = &c->tensors[c->n_tensors++];
    int64_t n = VNP_MAX(rows, 1) * cols;
    *t = (struct vnp_tensor_info){.name = copy,
                                  .dtype = is_gamma ? VNP_F32 : VNP_F16,
                                  .n_dims = rows ? 2 : 1,
                                  .shape = {rows ? rows : cols, rows ? cols : 0},
                                  .n_bytes = (size_t)n * (is_gamma ? 4 : 2)};
    t->data = is_gamma ? (const void *)b->ones : b->pool + b->at % (uint64_t)(b->n_pool - n);
    b->at += POOL_STEP;
    c->spec.n_params += n;
}

static void add_linear(struct builder *b, int64_t rows, int64_t cols, bool has_bias, int64_t layer,
                       const char *name) {
    add(b, rows, cols, false, "layer.%lld.%s.weight", (long long)layer, name);
    if (has_bias) add(b, 0, rows, false, "layer.%lld.%s.bias", (long long)layer, name);
}

static void add_norm(struct builder *b, const char *name) {
    add(b, 0, b->c->spec.n_hidden, true, "%s.weight", name);
    add(b, 0, b->c->spec.n_hidden, false, "%s.bias", name);
}

static void add_layer(struct builder *b, int64_t l) {
    const struct vnp_model_spec *s = &b->c->spec;
    int64_t d = s->n_hidden, f = s->n_ffn;
    char name[64];
    if (s->kind == VNP_MODEL_ESM2) {
        add_linear(b, d, d, true, l, "attn.q");
        add_linear(b, d, d, true, l, "attn.k");
        add_linear(b, d, d, true, l, "attn.v");
        add_linear(b, f, d, true, l, "ffn.up");
    } else {
        add_linear(b, 3 * d, d, true, l, "attn.qkv");
        add_linear(b, 2 * f, d, false, l, "ffn.gated");
    }
    add_linear(b, d, d, true, l, "attn.o");
    add_linear(b, d, f, true, l, "ffn.down");
    snprintf(name, sizeof name, "layer.%lld.attn_norm", (long long)l);
    add_norm(b, name);
    snprintf(name, sizeof name, "layer.%lld.ffn_norm", (long long)l);
    add_norm(b, name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct vnp_tensor_info *)a)->name,
                  ((const struct vnp_tensor_info *)b)->name);
}

static void add_all(struct builder *b) {
    const struct vnp_model_spec *s = &b->c->spec;
    add(b, s->n_vocab, s->n_hidden, false, "embed.weight");
    if (s->kind == VNP_MODEL_DNABERT) {
        add(b, 2, s->n_hidden, false, "embed.type");
        add_norm(b, "embed_norm");
    } else {
        add_norm(b, "final_norm");
    }
    for (int64_t l = 0; l < s->n_layers; l++) add_layer(b, l);
    qsort(b->c->tensors, (size_t)b->c->n_tensors, sizeof *b->c->tensors, by_name);
}

static void fill_pool(uint16_t *pool, int64_t n, double width, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        double u = (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
        pool[i] = vnp_f32_to_f16((float)((2 * u - 1) * width));
    }
}

static vnp_status fill(struct vnp_checkpoint *c, uint64_t seed) {
    const struct vnp_model_spec *s = &c->spec;
    int64_t d = s->n_hidden, n_pool = VNP_MAX(s->n_vocab, 2 * s->n_ffn) * d + POOL_SPARE;
    c->cap_tensors = 8 + 18 * s->n_layers;
    c->raw = vnp_raw_create("random weights");
    c->own_data = malloc((size_t)n_pool * sizeof(uint16_t) + (size_t)d * sizeof(float));
    c->tensors = calloc((size_t)c->cap_tensors, sizeof *c->tensors);
    if (!c->raw || !c->own_data || !c->tensors)
        return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for random weights");
    c->raw->format = "random weights";
    float *ones = c->own_data;
    uint16_t *pool = (uint16_t *)(ones + d);
    for (int64_t i = 0; i < d; i++) ones[i] = 1.0f;
    fill_pool(pool, n_pool, 1 / sqrt((double)d), seed); /* as a fresh linear layer has */
    struct builder b = {.c = c, .pool = pool, .ones = ones, .n_pool = n_pool};
    add_all(&b);
    return b.is_full ? vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for random weights") : VNP_OK;
}

vnp_status vnp_checkpoint_random(const struct vnp_model_spec *shape, uint64_t seed,
                                 struct vnp_checkpoint **out) {
    *out = NULL;
    bool is_encoder = shape->kind == VNP_MODEL_ESM2 || shape->kind == VNP_MODEL_DNABERT;
    if (!is_encoder || shape->n_layers < 1 || shape->n_hidden < 1 || shape->n_ffn < 1 ||
        shape->n_vocab < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_MODEL, "random weights: no encoder's shape");
    struct vnp_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for random weights");
    c->spec = *shape;
    c->spec.dtype = c->spec.freq_dtype = VNP_F16;
    c->spec.has_lm_head = false;
    c->spec.n_params = 0;
    c->prefix = "";
    vnp_status status = fill(c, seed);
    if (status != VNP_OK) {
        vnp_checkpoint_close(c);
        return status;
    }
    *out = c;
    return VNP_OK;
}
