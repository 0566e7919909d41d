// SPDX-License-Identifier: MIT
// make-random-model: models with random weights in the shapes and on-disk formats of real ones, for
// benches and for a demonstration without trained weights. Streams: a 3B checkpoint needs no more
// memory than a small one. The same arguments give the same bytes.
#include "weights/weights.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static void die(const char *fmt, ...) VNP_PRINTF(1, 2) __attribute__((noreturn));
static void die(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "make-random-model: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

static const char usage[] =
    "make-random-model KIND OUT [options]\n"
    "  esm2-pt OUT.pt         fair-esm checkpoint      --esm L,D,H\n"
    "  esm2-hf OUTDIR         config.json + model.safetensors\n"
    "  dnabert OUTDIR         the same with a tokenizer.json   --dnabert L,D,H,F\n"
    "  classifier OUT         safetensors              --inputs N --hidden N\n"
    "  bundle OUT             all three in one file    --window N --note TEXT\n"
    "  --dtype fp32|fp16  --seed N\n"
    "  --overflow yes|nan     proteins with a W leave FP16's range, or are NaN\n";

/* ---- what to write -------------------------------------------------------------------------- */

struct options {
    const char *kind, *out, *note;
    long esm[3], dna[4]; /* L D H; L D H F */
    long n_in, n_hidden, window;
    int n_element;
    bool is_overflowing, is_nan;
    uint64_t seed;
};

struct tensor {
    char name[128];
    int n_dims;
    int64_t shape[2];
    float center, spread; /* uniform in center +- spread */
};

struct plan {
    struct tensor *tensors;
    size_t n, cap;
};

static void add(struct plan *p, int64_t rows, int64_t cols, float center, float spread,
                const char *fmt, ...) VNP_PRINTF(6, 7);
static void add(struct plan *p, int64_t rows, int64_t cols, float center, float spread,
                const char *fmt, ...) {
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 64;
        p->tensors = realloc(p->tensors, p->cap * sizeof *p->tensors);
        if (!p->tensors) die("out of memory");
    }
    struct tensor *t = &p->tensors[p->n++];
    *t = (struct tensor){.n_dims = rows ? 2 : 1, .center = center, .spread = spread};
    t->shape[0] = rows ? rows : cols;
    t->shape[1] = cols;
    va_list args;
    va_start(args, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, args);
    va_end(args);
}

/* The layer in place of the prefix's %d, where it has one. */
static void fill(char *out, size_t n, const char *prefix, int layer) {
    const char *at = strstr(prefix, "%d");
    if (!at)
        snprintf(out, n, "%s", prefix);
    else
        snprintf(out, n, "%.*s%d%s", (int)(at - prefix), prefix, layer, at + 2);
}

/* Weight and bias of a linear layer: variance 1 / fan-in, as a fresh network has. */
static void add_linear(struct plan *p, int64_t rows, int64_t cols, const char *prefix, int layer,
                       const char *name) {
    char full[96];
    fill(full, sizeof full, prefix, layer);
    add(p, rows, cols, 0, sqrtf(3.0f / (float)cols), "%s%s.weight", full, name);
    add(p, 0, rows, 0, 0.05f, "%s%s.bias", full, name);
}
static void add_norm(struct plan *p, int64_t n, const char *prefix, int layer, const char *name) {
    char full[96];
    fill(full, sizeof full, prefix, layer);
    add(p, 0, n, 1, 0.1f, "%s%s.weight", full, name);
    add(p, 0, n, 0, 0.05f, "%s%s.bias", full, name);
}

static void plan_esm_fair(struct plan *p, const long *s) {
    const char *base = "encoder.sentence_encoder.layers.%d.";
    long d = s[1];
    add(p, 33, d, 0, 1, "encoder.sentence_encoder.embed_tokens.weight");
    for (int l = 0; l < s[0]; l++) {
        add_linear(p, d, d, base, l, "self_attn.k_proj");
        add_linear(p, d, d, base, l, "self_attn.v_proj");
        add_linear(p, d, d, base, l, "self_attn.q_proj");
        add_linear(p, d, d, base, l, "self_attn.out_proj");
        add_norm(p, d, base, l, "self_attn_layer_norm");
        add_linear(p, 4 * d, d, base, l, "fc1");
        add_linear(p, d, 4 * d, base, l, "fc2");
        add_norm(p, d, base, l, "final_layer_norm");
    }
    add_norm(p, d, "encoder.sentence_encoder.", 0, "emb_layer_norm_after");
    add(p, 0, 33, 0, 0.05f, "encoder.lm_head.bias");
    add_linear(p, d, d, "encoder.", 0, "lm_head.dense");
    add_norm(p, d, "encoder.", 0, "lm_head.layer_norm");
}

static void plan_esm_hf(struct plan *p, const long *s) {
    const char *base = "esm.encoder.layer.%d.";
    long d = s[1];
    add(p, 33, d, 0, 1, "esm.embeddings.word_embeddings.weight");
    for (int l = 0; l < s[0]; l++) {
        add_linear(p, d, d, base, l, "attention.self.key");
        add_linear(p, d, d, base, l, "attention.self.value");
        add_linear(p, d, d, base, l, "attention.self.query");
        add_linear(p, d, d, base, l, "attention.output.dense");
        add_norm(p, d, base, l, "attention.LayerNorm");
        add_linear(p, 4 * d, d, base, l, "intermediate.dense");
        add_linear(p, d, 4 * d, base, l, "output.dense");
        add_norm(p, d, base, l, "LayerNorm");
    }
    add_norm(p, d, "esm.encoder.", 0, "emb_layer_norm_after");
    add(p, 0, 33, 0, 0.05f, "lm_head.bias");
    add_linear(p, d, d, "", 0, "lm_head.dense");
    add_norm(p, d, "", 0, "lm_head.layer_norm");
}

enum { N_SPECIAL = 5, N_VOCAB = N_SPECIAL + 4 + 16 + 256 + 64 };

static void plan_dnabert(struct plan *p, const long *s) {
    const char *base = "encoder.layer.%d.";
    long d = s[1], f = s[3];
    add(p, N_VOCAB, d, 0, 1, "embeddings.word_embeddings.weight");
    add(p, 2, d, 0, 0.1f, "embeddings.token_type_embeddings.weight");
    add_norm(p, d, "embeddings.", 0, "LayerNorm");
    for (int l = 0; l < s[0]; l++) {
        add_linear(p, 3 * d, d, base, l, "attention.self.Wqkv");
        add_linear(p, d, d, base, l, "attention.output.dense");
        add_norm(p, d, base, l, "attention.output.LayerNorm");
        add(p, 2 * f, d, 0, sqrtf(3.0f / (float)d), "encoder.layer.%d.mlp.gated_layers.weight", l);
        add_linear(p, d, f, base, l, "mlp.wo");
        add_norm(p, d, base, l, "mlp.layernorm");
    }
}

static void plan_classifier(struct plan *p, long n_in, long n_hidden) {
    add_linear(p, n_hidden, n_in, "", 0, "hidden_layer");
    add_norm(p, n_hidden, "", 0, "bn1");
    add(p, 0, n_hidden, 0, 0.1f, "bn1.running_mean");
    add(p, 0, n_hidden, 1, 0.2f, "bn1.running_var");
    add_linear(p, 2, n_hidden, "", 0, "output_layer");
}

static size_t tensor_elements(const struct tensor *t) {
    return (size_t)t->shape[0] * (size_t)(t->n_dims == 2 ? t->shape[1] : 1);
}

/* ---- numbers -------------------------------------------------------------------------------- */

/* 65,536 equally spaced values; a random 16-bit number picks one. */
struct source {
    uint64_t state;
    int n_element;
    union {
        float f32[65536];
        uint16_t f16[65536];
    } table;
};

static void source_begin(struct source *s, const struct tensor *t, const struct options *o) {
    s->state = vnp_hash_seeded(t->name, strlen(t->name), o->seed).lo;
    s->n_element = o->n_element;
    for (int i = 0; i < 65536; i++) {
        float x = t->center + t->spread * (((float)i + 0.5f) / 32768.0f - 1.0f);
        if (o->n_element == 4)
            s->table.f32[i] = x;
        else
            s->table.f16[i] = vnp_f32_to_f16(x);
    }
}

static void source_fill(struct source *s, void *out, size_t n) {
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 4 == 0) { /* splitmix64 */
            uint64_t z = (s->state += 0x9e3779b97f4a7c15u);
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            bits = z ^ (z >> 31);
        }
        if (s->n_element == 4)
            ((float *)out)[i] = s->table.f32[bits & 0xffff];
        else
            ((uint16_t *)out)[i] = s->table.f16[bits & 0xffff];
        bits >>= 16;
    }
}

static void put(FILE *f, const void *data, size_t n) {
    if (fwrite(data, 1, n, f) != n) die("cannot write: %s", strerror(errno));
}

enum { CHUNK = 1 << 20 };

/* ESM-2's W gets an embedding whose first component dwarfs the others, so that it is about sqrt(D)
 * after the norm, and the first feed-forward unit multiplies it by 8,000: 78,000 at D = 96. */
static void spoil(void *buf, const struct tensor *t, const struct options *o) {
    enum { W = 22 };
    bool is_table = strstr(t->name, "embed_tokens.weight") || strstr(t->name, "esm.embeddings.wor");
    bool is_up = strstr(t->name, "layers.0.fc1.weight") ||
                 strstr(t->name, "esm.encoder.layer.0.intermediate.dense.weight");
    int64_t at = is_table ? W * t->shape[1] : 0;
    float value = o->is_nan ? NAN : is_table ? 1000.0f : 8000.0f;
    if (!is_table && (!is_up || o->is_nan)) return;
    if (o->n_element == 4)
        ((float *)buf)[at] = value;
    else
        ((uint16_t *)buf)[at] = vnp_f32_to_f16(value);
}

/* Writes a tensor; returns the CRC-32 of its bytes when asked. */
static uint32_t put_tensor(FILE *f, const struct tensor *t, const struct options *o,
                           bool want_crc) {
    static struct source s;
    static uint32_t buf[CHUNK];
    uint32_t crc = 0;
    source_begin(&s, t, o);
    for (size_t left = tensor_elements(t), n; left; left -= n) {
        n = VNP_MIN(left, (size_t)CHUNK);
        source_fill(&s, buf, n);
        if (o->is_overflowing && left == tensor_elements(t)) spoil(buf, t, o);
        size_t n_bytes = n * (size_t)o->n_element;
        if (want_crc) crc = (uint32_t)crc32(crc, (const Bytef *)buf, (uInt)n_bytes);
        put(f, buf, n_bytes);
    }
    return crc;
}

static FILE *create(const char *path) {
    FILE *f = fopen(path, "wb");
    if (!f) die("cannot create %s: %s", path, strerror(errno));
    return f;
}
static void finish(FILE *f) {
    if (fclose(f) != 0) die("cannot write: %s", strerror(errno));
}

/* ---- text that grows ------------------------------------------------------------------------ */

struct text {
    char *data;
    size_t n, cap;
};
static void text_put(struct text *t, const void *data, size_t n) {
    if (t->n + n > t->cap) {
        t->cap = (t->n + n) * 2;
        t->data = realloc(t->data, t->cap);
        if (!t->data) die("out of memory");
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
}
static void text_putf(struct text *t, const char *fmt, ...) VNP_PRINTF(2, 3);
static void text_putf(struct text *t, const char *fmt, ...) {
    char buf[1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, args);
    va_end(args);
    text_put(t, buf, (size_t)n);
}

/* ---- safetensors ---------------------------------------------------------------------------- */

static void write_safetensors(const char *path, const struct plan *p, const struct options *o) {
    struct text h = {0};
    size_t at = 0;
    text_putf(&h, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < p->n; i++) {
        const struct tensor *t = &p->tensors[i];
        size_t n = tensor_elements(t) * (size_t)o->n_element;
        text_putf(&h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", t->name,
                  o->n_element == 4 ? "F32" : "F16", (long long)t->shape[0]);
        if (t->n_dims == 2) text_putf(&h, ",%lld", (long long)t->shape[1]);
        text_putf(&h, "],\"data_offsets\":[%zu,%zu]}", at, at + n);
        at += n;
    }
    text_putf(&h, "}");
    while ((h.n + 8) % 64) text_putf(&h, " ");
    FILE *f = create(path);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)h.n >> (8 * i));
    put(f, length, 8);
    put(f, h.data, h.n);
    for (size_t i = 0; i < p->n; i++) (void)put_tensor(f, &p->tensors[i], o, false);
    finish(f);
    free(h.data);
}

/* ---- torch zip ------------------------------------------------------------------------------ */

static void le(struct text *t, uint64_t v, int n_bytes) {
    for (int i = 0; i < n_bytes; i++) {
        uint8_t b = (uint8_t)(i < 8 ? v >> (8 * i) : 0);
        text_put(t, &b, 1);
    }
}

static void pk_text(struct text *t, const char *s) {
    text_put(t, "X", 1);
    le(t, strlen(s), 4);
    text_put(t, s, strlen(s));
}
static void pk_int(struct text *t, int64_t v) {
    if (v < 0x7fffffff) {
        text_put(t, "J", 1);
        le(t, (uint64_t)v, 4);
    } else {
        text_put(t, "\x8a\x08", 2);
        le(t, (uint64_t)v, 8);
    }
}
static void pk_raw(struct text *t, const char *s) {
    text_put(t, s, strlen(s));
}

/* {'cfg': {'model': Namespace}, 'model': {name: tensor, ...}}, protocol 2. */
static struct text make_pickle(const struct plan *p, const struct options *o) {
    struct text t = {0};
    pk_raw(&t, "\x80\x02}(");
    pk_text(&t, "cfg");
    pk_raw(&t, "}");
    pk_text(&t, "model");
    pk_raw(&t, "cargparse\nNamespace\n)\x81}(");
    pk_text(&t, "encoder_layers");
    pk_int(&t, o->esm[0]);
    pk_text(&t, "encoder_embed_dim");
    pk_int(&t, o->esm[1]);
    pk_text(&t, "encoder_attention_heads");
    pk_int(&t, o->esm[2]);
    pk_text(&t, "token_dropout");
    pk_raw(&t, "\x88ubs");
    pk_text(&t, "model");
    pk_raw(&t, "}(");
    for (size_t i = 0; i < p->n; i++) {
        const struct tensor *x = &p->tensors[i];
        char key[32];
        snprintf(key, sizeof key, "%zu", i);
        pk_text(&t, x->name);
        pk_raw(&t, "ctorch._utils\n_rebuild_tensor_v2\n((");
        pk_text(&t, "storage");
        pk_raw(&t, o->n_element == 4 ? "ctorch\nFloatStorage\n" : "ctorch\nHalfStorage\n");
        pk_text(&t, key);
        pk_text(&t, "cpu");
        pk_int(&t, (int64_t)tensor_elements(x));
        pk_raw(&t, "tQ");
        pk_int(&t, 0);
        pk_raw(&t, "(");
        for (int d = 0; d < x->n_dims; d++) pk_int(&t, x->shape[d]);
        pk_raw(&t, "t(");
        if (x->n_dims == 2) pk_int(&t, x->shape[1]);
        pk_int(&t, 1);
        pk_raw(&t, "t\x89"
                   "ccollections\nOrderedDict\n)RtR");
    }
    pk_raw(&t, "uu.");
    return t;
}

struct zip {
    FILE *f;
    struct text dir;
    uint64_t at, n_entries;
};

/* Writes one stored entry aligned to 64 bytes; data come from a tensor or from memory. */
static void zip_add(struct zip *z, const char *name, const struct tensor *x,
                    const struct options *o, const struct text *data) {
    struct text h = {0};
    uint64_t n = x ? tensor_elements(x) * (uint64_t)o->n_element : data->n, start = z->at;
    size_t n_name = strlen(name), n_pad = (64 - (start + 30 + n_name + 24) % 64) % 64;
    for (int pass = 0; pass < 2; pass++) { /* the header again once the CRC is known */
        static uint32_t crc;
        h.n = 0;
        le(&h, 0x04034b50, 4);
        le(&h, 45, 2);
        le(&h, 0x800, 2);
        le(&h, 0, 6);
        le(&h, pass ? crc : 0, 4);
        le(&h, 0xffffffff, 4);
        le(&h, 0xffffffff, 4);
        le(&h, n_name, 2);
        le(&h, 24 + n_pad, 2);
        text_put(&h, name, n_name);
        le(&h, 1, 2);
        le(&h, 16, 2);
        le(&h, n, 8);
        le(&h, n, 8);
        le(&h, 0x4246, 2);
        le(&h, n_pad, 2);
        for (size_t i = 0; i < n_pad; i++) text_put(&h, "Z", 1);
        if (fseeko(z->f, (off_t)start, SEEK_SET) != 0) die("cannot seek");
        put(z->f, h.data, h.n);
        if (pass) {
            if (fseeko(z->f, 0, SEEK_END) != 0) die("cannot seek");
            le(&z->dir, 0x02014b50, 4);
            le(&z->dir, 45, 2);
            le(&z->dir, 45, 2);
            le(&z->dir, 0x800, 2);
            le(&z->dir, 0, 6);
            le(&z->dir, crc, 4);
            le(&z->dir, 0xffffffff, 4);
            le(&z->dir, 0xffffffff, 4);
            le(&z->dir, n_name, 2);
            le(&z->dir, 28, 2);
            le(&z->dir, 0, 10);
            le(&z->dir, 0, 0);
            le(&z->dir, 0xffffffff, 4);
            text_put(&z->dir, name, n_name);
            le(&z->dir, 1, 2);
            le(&z->dir, 24, 2);
            le(&z->dir, n, 8);
            le(&z->dir, n, 8);
            le(&z->dir, start, 8);
        } else if (x) {
            crc = put_tensor(z->f, x, o, true);
        } else {
            crc = (uint32_t)crc32(0, (const Bytef *)data->data, (uInt)data->n);
            put(z->f, data->data, data->n);
        }
    }
    z->at = start + h.n + n;
    z->n_entries++;
    free(h.data);
}

static void zip_finish(struct zip *z) {
    struct text e = {0};
    put(z->f, z->dir.data, z->dir.n);
    le(&e, 0x06064b50, 4);
    le(&e, 44, 8);
    le(&e, 45, 2);
    le(&e, 45, 2);
    le(&e, 0, 8);
    le(&e, z->n_entries, 8);
    le(&e, z->n_entries, 8);
    le(&e, z->dir.n, 8);
    le(&e, z->at, 8);
    le(&e, 0x07064b50, 4);
    le(&e, 0, 4);
    le(&e, z->at + z->dir.n, 8);
    le(&e, 1, 4);
    le(&e, 0x06054b50, 4);
    le(&e, 0, 4);
    le(&e, VNP_MIN(z->n_entries, 0xffffu), 2);
    le(&e, VNP_MIN(z->n_entries, 0xffffu), 2);
    le(&e, VNP_MIN(z->dir.n, (size_t)0xffffffff), 4);
    le(&e, VNP_MIN(z->at, (uint64_t)0xffffffff), 4);
    le(&e, 0, 2);
    put(z->f, e.data, e.n);
    finish(z->f);
    free(e.data);
    free(z->dir.data);
}

static void write_pt(const char *path, const struct plan *p, const struct options *o) {
    struct zip z = {.f = create(path)};
    struct text pickle = make_pickle(p, o), version = {0}, order = {0};
    char name[64];
    pk_raw(&version, "3\n");
    pk_raw(&order, "little");
    zip_add(&z, "archive/data.pkl", NULL, o, &pickle);
    zip_add(&z, "archive/byteorder", NULL, o, &order);
    for (size_t i = 0; i < p->n; i++) {
        snprintf(name, sizeof name, "archive/data/%zu", i);
        zip_add(&z, name, &p->tensors[i], o, NULL);
    }
    zip_add(&z, "archive/version", NULL, o, &version);
    zip_finish(&z);
    free(pickle.data);
    free(version.data);
    free(order.data);
}

/* ---- folders -------------------------------------------------------------------------------- */

static void make_folder(const char *path) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        die("cannot create %s: %s", path, strerror(errno));
}

static void write_text(const char *folder, const char *name, const struct text *t) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = create(path);
    put(f, t->data, t->n);
    finish(f);
}

static void write_config(const char *folder, const char *head, const long *s, long ffn,
                         long n_vocab, const char *tail) {
    struct text t = {0};
    text_putf(
        &t,
        "{%s, \"num_hidden_layers\": %ld, \"hidden_size\": %ld, \"num_attention_heads\": "
        "%ld, \"intermediate_size\": %ld, \"vocab_size\": %ld, \"hidden_act\": \"gelu\", %s}\n",
        head, s[0], s[1], s[2], ffn, n_vocab, tail);
    write_text(folder, "config.json", &t);
    free(t.data);
}

static void write_folder(const char *folder, const struct plan *p, const struct options *o) {
    char path[4096];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_safetensors(path, p, o);
}

static void kmer(char *out, int k, int i) {
    for (int j = k - 1; j >= 0; j--, i /= 4) out[j] = "ACGT"[i % 4];
    out[k] = 0;
}

/* A BPE of all 2-mers, then all 4-mers of two of them, then all 3-mers: ours, not learned. */
static void write_tokenizer(const char *folder) {
    static const char *const special[N_SPECIAL] = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"};
    static const int lengths[] = {1, 2, 4, 3};
    struct text t = {0};
    char a[8];
    int id = N_SPECIAL;
    text_putf(&t, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, "
                  "\"added_tokens\": [");
    for (int i = 0; i < N_SPECIAL; i++)
        text_putf(&t,
                  "%s{\"id\": %d, \"special\": true, \"content\": \"%s\", \"single_word\": false, "
                  "\"lstrip\": false, \"rstrip\": false, \"normalized\": false}",
                  i ? ", " : "", i, special[i]);
    text_putf(&t, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Whitespace\"}, "
                  "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": ["
                  "{\"SpecialToken\": {\"id\": \"[CLS]\", \"type_id\": 0}}, "
                  "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                  "{\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}], \"pair\": ["
                  "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                  "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": {");
    text_putf(&t, "\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [1], \"tokens\": [\"[CLS]\"]}, "
                  "\"[SEP]\": {\"id\": \"[SEP]\", \"ids\": [2], \"tokens\": [\"[SEP]\"]}}}, "
                  "\"decoder\": null, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
                  "\"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": null, "
                  "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"vocab\": {");
    for (int i = 0; i < N_SPECIAL; i++) text_putf(&t, "%s\"%s\": %d", i ? ", " : "", special[i], i);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 1 << (2 * lengths[k]); i++) {
            kmer(a, lengths[k], i);
            text_putf(&t, ", \"%s\": %d", a, id++);
        }
    text_putf(&t, "}, \"merges\": [");
    for (int k = 1; k < 4; k++)
        for (int i = 0; i < 1 << (2 * lengths[k]); i++) {
            int cut = lengths[k] == 2 ? 1 : 2;
            kmer(a, lengths[k], i);
            text_putf(&t, "%s\"%.*s %s\"", k == 1 && i == 0 ? "" : ", ", cut, a, a + cut);
        }
    text_putf(&t, "]}}\n");
    write_text(folder, "tokenizer.json", &t);
    free(t.data);
}

/* ---- kinds ---------------------------------------------------------------------------------- */

static void make_esm_pt(const char *out, const struct options *o) {
    struct plan p = {0};
    plan_esm_fair(&p, o->esm);
    write_pt(out, &p, o);
    free(p.tensors);
}

static void make_esm_hf(const char *out, const struct options *o) {
    struct plan p = {0};
    plan_esm_hf(&p, o->esm);
    write_folder(out, &p, o);
    write_config(
        out, "\"model_type\": \"esm\", \"architectures\": [\"EsmForMaskedLM\"]", o->esm,
        4 * o->esm[1], 33,
        "\"layer_norm_eps\": 1e-05, \"position_embedding_type\": \"rotary\", "
        "\"token_dropout\": true, \"emb_layer_norm_before\": false, \"mask_token_id\": 32, "
        "\"pad_token_id\": 1");
    free(p.tensors);
}

static void make_dnabert(const char *out, const struct options *o) {
    struct plan p = {0};
    plan_dnabert(&p, o->dna);
    write_folder(out, &p, o);
    write_config(out, "\"model_type\": \"bert\"", o->dna, o->dna[3], N_VOCAB,
                 "\"layer_norm_eps\": 1e-12, \"type_vocab_size\": 2, \"alibi_starting_size\": 512");
    write_tokenizer(out);
    free(p.tensors);
}

static void make_classifier(const char *out, const struct options *o) {
    struct plan p = {0};
    struct options wide = *o;
    wide.n_element = 4;
    plan_classifier(&p, o->n_in, o->n_hidden);
    write_safetensors(out, &p, &wide);
    free(p.tensors);
}

static struct vnp_checkpoint *open_part(const char *path, enum vnp_model_kind kind) {
    struct vnp_checkpoint *c;
    char text[4096];
    if (vnp_checkpoint_open(path, kind, &c) == VNP_OK) return c;
    vnp_error_format(vnp_error_last(), text, sizeof text);
    die("%s", text);
}

/* The parts are made beside OUT, read back, bundled and removed. */
static void make_bundle(const char *out, struct options *o) {
    char folder[2048], esm[4096], dna[4096], cls[4096], path[8192], text[4096];
    snprintf(folder, sizeof folder, "%s.parts.%ld", out, (long)getpid());
    make_folder(folder);
    snprintf(esm, sizeof esm, "%s/esm2_random", folder);
    snprintf(dna, sizeof dna, "%s/dnabert_random", folder);
    snprintf(cls, sizeof cls, "%s/classifier_random.safetensors", folder);
    o->n_in = o->dna[1] + o->esm[1];
    make_esm_hf(esm, o);
    make_dnabert(dna, o);
    make_classifier(cls, o);
    struct vnp_checkpoint *e = open_part(esm, VNP_MODEL_ESM2),
                          *d = open_part(dna, VNP_MODEL_DNABERT),
                          *c = open_part(cls, VNP_MODEL_CLASSIFIER);
    struct vnp_bundle_parts parts = {
        .esm2 = e, .dnabert = d, .classifier = c, .window_bp = o->window, .note = o->note};
    if (vnp_bundle_write(out, &parts) != VNP_OK) {
        vnp_error_format(vnp_error_last(), text, sizeof text);
        die("%s", text);
    }
    vnp_checkpoint_close(e);
    vnp_checkpoint_close(d);
    vnp_checkpoint_close(c);
    static const char *const made[] = {"esm2_random/model.safetensors",
                                       "esm2_random/config.json",
                                       "esm2_random",
                                       "dnabert_random/model.safetensors",
                                       "dnabert_random/config.json",
                                       "dnabert_random/tokenizer.json",
                                       "dnabert_random",
                                       "classifier_random.safetensors"};
    for (size_t i = 0; i < VNP_COUNT(made); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, made[i]);
        if (remove(path) != 0) die("cannot remove %s: %s", path, strerror(errno));
    }
    if (rmdir(folder) != 0) die("cannot remove %s: %s", folder, strerror(errno));
}

static void parse_sizes(const char *text, long *out, int n) {
    for (int i = 0; i < n; i++) {
        char *end;
        out[i] = strtol(text, &end, 10);
        if (end == text || out[i] < 1 || (i + 1 < n ? *end != ',' : *end != 0))
            die("'%s' are not %d sizes", text, n);
        text = end + 1;
    }
}

static void parse(int argc, char **argv, struct options *o) {
    if (argc < 3 || argc % 2 == 0) die("usage\n%s", usage);
    o->kind = argv[1];
    o->out = argv[2];
    for (int i = 3; i + 1 < argc; i += 2) {
        const char *key = argv[i], *value = argv[i + 1];
        if (strcmp(key, "--esm") == 0)
            parse_sizes(value, o->esm, 3);
        else if (strcmp(key, "--dnabert") == 0)
            parse_sizes(value, o->dna, 4);
        else if (strcmp(key, "--inputs") == 0)
            parse_sizes(value, &o->n_in, 1);
        else if (strcmp(key, "--hidden") == 0)
            parse_sizes(value, &o->n_hidden, 1);
        else if (strcmp(key, "--window") == 0)
            parse_sizes(value, &o->window, 1);
        else if (strcmp(key, "--note") == 0)
            o->note = value;
        else if (strcmp(key, "--seed") == 0)
            o->seed = strtoull(value, NULL, 10);
        else if (strcmp(key, "--overflow") == 0)
            o->is_overflowing = true, o->is_nan = strcmp(value, "nan") == 0;
        else if (strcmp(key, "--dtype") == 0 && strcmp(value, "fp32") == 0)
            o->n_element = 4;
        else if (strcmp(key, "--dtype") == 0 && strcmp(value, "fp16") == 0)
            o->n_element = 2;
        else
            die("unknown option %s %s\n%s", key, value, usage);
    }
}

int main(int argc, char **argv) {
    struct options o = {.note = "random weights: the calls mean nothing",
                        .esm = {3, 96, 3},
                        .dna = {2, 64, 2, 128},
                        .n_in = 160,
                        .n_hidden = 32,
                        .window = 500,
                        .n_element = 4,
                        .seed = 1};
    parse(argc, argv, &o);
    if (strcmp(o.kind, "esm2-pt") == 0)
        make_esm_pt(o.out, &o);
    else if (strcmp(o.kind, "esm2-hf") == 0)
        make_esm_hf(o.out, &o);
    else if (strcmp(o.kind, "dnabert") == 0)
        make_dnabert(o.out, &o);
    else if (strcmp(o.kind, "classifier") == 0)
        make_classifier(o.out, &o);
    else if (strcmp(o.kind, "bundle") == 0)
        make_bundle(o.out, &o);
    else
        die("unknown kind '%s'\n%s", o.kind, usage);
    return 0;
}
