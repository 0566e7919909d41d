// SPDX-License-Identifier: MIT
// From a file's names to the canonical tensors: one table of rules a layout, every tensor present
// with its right shape and type, sizes checked against the configuration.
//
// Ignored, because the answers do not need them: contact_head.*, *regression*, position_ids,
// position_embeddings (rotary and ALiBi models do not use them), rotary inv_freq,
// num_batches_tracked, pooler.*, cls.*, *decoder.bias, the LM head's tied copy of the embedding.
// Other names that no rule has are ignored with a warning; those that would change the answer
// (adapters, a norm before the layers) are refused.
#include "weights_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256, MAX_LAYERS = 4096, MAX_HEAD_DIM = 128, MAX_SIZE = 1 << 24 };

/* Dimensions: V D F as in op.h, T token types, 3 = 3D, 2 = 2F, H hidden, I inputs, O = 2. */
struct rule {
    const char *canonical, *source; /* %d = layer */
    const char *dims;
    bool is_lm;
};

static const struct rule esm_fair[] = {
    {"embed.weight", "embed_tokens.weight", "VD", false},
    {"layer.%d.attn_norm.weight", "layers.%d.self_attn_layer_norm.weight", "D", false},
    {"layer.%d.attn_norm.bias", "layers.%d.self_attn_layer_norm.bias", "D", false},
    {"layer.%d.attn.q.weight", "layers.%d.self_attn.q_proj.weight", "DD", false},
    {"layer.%d.attn.q.bias", "layers.%d.self_attn.q_proj.bias", "D", false},
    {"layer.%d.attn.k.weight", "layers.%d.self_attn.k_proj.weight", "DD", false},
    {"layer.%d.attn.k.bias", "layers.%d.self_attn.k_proj.bias", "D", false},
    {"layer.%d.attn.v.weight", "layers.%d.self_attn.v_proj.weight", "DD", false},
    {"layer.%d.attn.v.bias", "layers.%d.self_attn.v_proj.bias", "D", false},
    {"layer.%d.attn.o.weight", "layers.%d.self_attn.out_proj.weight", "DD", false},
    {"layer.%d.attn.o.bias", "layers.%d.self_attn.out_proj.bias", "D", false},
    {"layer.%d.ffn_norm.weight", "layers.%d.final_layer_norm.weight", "D", false},
    {"layer.%d.ffn_norm.bias", "layers.%d.final_layer_norm.bias", "D", false},
    {"layer.%d.ffn.up.weight", "layers.%d.fc1.weight", "FD", false},
    {"layer.%d.ffn.up.bias", "layers.%d.fc1.bias", "F", false},
    {"layer.%d.ffn.down.weight", "layers.%d.fc2.weight", "DF", false},
    {"layer.%d.ffn.down.bias", "layers.%d.fc2.bias", "D", false},
    {"final_norm.weight", "emb_layer_norm_after.weight", "D", false},
    {"final_norm.bias", "emb_layer_norm_after.bias", "D", false},
    {"lm.dense.weight", "lm_head.dense.weight", "DD", true},
    {"lm.dense.bias", "lm_head.dense.bias", "D", true},
    {"lm.norm.weight", "lm_head.layer_norm.weight", "D", true},
    {"lm.norm.bias", "lm_head.layer_norm.bias", "D", true},
    {"lm.bias", "lm_head.bias", "V", true},
    {NULL, NULL, NULL, false}};

#define HF "encoder.layer.%d."
static const struct rule esm_hf[] = {
    {"embed.weight", "embeddings.word_embeddings.weight", "VD", false},
    {"layer.%d.attn_norm.weight", HF "attention.LayerNorm.weight", "D", false},
    {"layer.%d.attn_norm.bias", HF "attention.LayerNorm.bias", "D", false},
    {"layer.%d.attn.q.weight", HF "attention.self.query.weight", "DD", false},
    {"layer.%d.attn.q.bias", HF "attention.self.query.bias", "D", false},
    {"layer.%d.attn.k.weight", HF "attention.self.key.weight", "DD", false},
    {"layer.%d.attn.k.bias", HF "attention.self.key.bias", "D", false},
    {"layer.%d.attn.v.weight", HF "attention.self.value.weight", "DD", false},
    {"layer.%d.attn.v.bias", HF "attention.self.value.bias", "D", false},
    {"layer.%d.attn.o.weight", HF "attention.output.dense.weight", "DD", false},
    {"layer.%d.attn.o.bias", HF "attention.output.dense.bias", "D", false},
    {"layer.%d.ffn_norm.weight", HF "LayerNorm.weight", "D", false},
    {"layer.%d.ffn_norm.bias", HF "LayerNorm.bias", "D", false},
    {"layer.%d.ffn.up.weight", HF "intermediate.dense.weight", "FD", false},
    {"layer.%d.ffn.up.bias", HF "intermediate.dense.bias", "F", false},
    {"layer.%d.ffn.down.weight", HF "output.dense.weight", "DF", false},
    {"layer.%d.ffn.down.bias", HF "output.dense.bias", "D", false},
    {"final_norm.weight", "encoder.emb_layer_norm_after.weight", "D", false},
    {"final_norm.bias", "encoder.emb_layer_norm_after.bias", "D", false},
    {"lm.dense.weight", "lm_head.dense.weight", "DD", true},
    {"lm.dense.bias", "lm_head.dense.bias", "D", true},
    {"lm.norm.weight", "lm_head.layer_norm.weight", "D", true},
    {"lm.norm.bias", "lm_head.layer_norm.bias", "D", true},
    {"lm.bias", "lm_head.bias", "V", true},
    {NULL, NULL, NULL, false}};

static const struct rule dnabert[] = {
    {"embed.weight", "embeddings.word_embeddings.weight", "VD", false},
    {"embed.type", "embeddings.token_type_embeddings.weight", "TD", false},
    {"embed_norm.weight", "embeddings.LayerNorm.weight", "D", false},
    {"embed_norm.bias", "embeddings.LayerNorm.bias", "D", false},
    {"layer.%d.attn.qkv.weight", HF "attention.self.Wqkv.weight", "3D", false},
    {"layer.%d.attn.qkv.bias", HF "attention.self.Wqkv.bias", "3", false},
    {"layer.%d.attn.o.weight", HF "attention.output.dense.weight", "DD", false},
    {"layer.%d.attn.o.bias", HF "attention.output.dense.bias", "D", false},
    {"layer.%d.attn_norm.weight", HF "attention.output.LayerNorm.weight", "D", false},
    {"layer.%d.attn_norm.bias", HF "attention.output.LayerNorm.bias", "D", false},
    {"layer.%d.ffn.gated.weight", HF "mlp.gated_layers.weight", "2D", false},
    {"layer.%d.ffn.down.weight", HF "mlp.wo.weight", "DF", false},
    {"layer.%d.ffn.down.bias", HF "mlp.wo.bias", "D", false},
    {"layer.%d.ffn_norm.weight", HF "mlp.layernorm.weight", "D", false},
    {"layer.%d.ffn_norm.bias", HF "mlp.layernorm.bias", "D", false},
    {NULL, NULL, NULL, false}};

static const struct rule classifier[] = {{"hidden.weight", "hidden_layer.weight", "HI", false},
                                         {"hidden.bias", "hidden_layer.bias", "H", false},
                                         {"bn.weight", "bn1.weight", "H", false},
                                         {"bn.bias", "bn1.bias", "H", false},
                                         {"bn.mean", "bn1.running_mean", "H", false},
                                         {"bn.var", "bn1.running_var", "H", false},
                                         {"output.weight", "output_layer.weight", "OH", false},
                                         {"output.bias", "output_layer.bias", "O", false},
                                         {NULL, NULL, NULL, false}};

/* How a kind's names may begin; the anchor (with its prefix) tells the layout. */
static const struct layout {
    enum vnp_model_kind kind;
    const struct rule *rules;
    const char *prefix, *lm_prefix, *anchor;
    bool is_bundle; /* names are the canonical ones */
} layouts[] = {
    {VNP_MODEL_ESM2, esm_fair, "encoder.sentence_encoder.", "encoder.",
     "layers.0.self_attn.q_proj.weight", false},
    {VNP_MODEL_ESM2, esm_fair, "encoder.", "encoder.", "layers.0.self_attn.q_proj.weight", false},
    {VNP_MODEL_ESM2, esm_fair, "", "", "layers.0.self_attn.q_proj.weight", false},
    {VNP_MODEL_ESM2, esm_hf, "esm.", "", "encoder.layer.0.attention.self.query.weight", false},
    {VNP_MODEL_ESM2, esm_hf, "", "", "encoder.layer.0.attention.self.query.weight", false},
    {VNP_MODEL_DNABERT, dnabert, "bert.", "", "encoder.layer.0.attention.self.Wqkv.weight", false},
    {VNP_MODEL_DNABERT, dnabert, "", "", "encoder.layer.0.attention.self.Wqkv.weight", false},
    {VNP_MODEL_CLASSIFIER, classifier, "", "", "hidden_layer.weight", false},
    {VNP_MODEL_CLASSIFIER, classifier, "module.", "", "hidden_layer.weight", false},
    {VNP_MODEL_ESM2, esm_fair, "esm2.", "esm2.", "layer.0.attn.q.weight", true},
    {VNP_MODEL_DNABERT, dnabert, "dnabert.", "", "layer.0.attn.qkv.weight", true},
    {VNP_MODEL_CLASSIFIER, classifier, "classifier.", "", "hidden.weight", true},
};

const char *vnp_kind_prefix(enum vnp_model_kind kind) {
    if (kind == VNP_MODEL_ESM2) return "esm2.";
    if (kind == VNP_MODEL_DNABERT) return "dnabert.";
    return kind == VNP_MODEL_CLASSIFIER ? "classifier." : "";
}

bool vnp_raw_is_bundle(const struct vnp_raw *raw) {
    const struct vnp_raw_meta *m = vnp_raw_meta_find(raw, "format");
    return m && strcmp(m->value, "virnucpro-bundle") == 0;
}

static const struct layout *find_layout(const struct vnp_raw *raw, enum vnp_model_kind kind) {
    bool is_bundle = vnp_raw_is_bundle(raw);
    char name[NAME_BYTES];
    for (size_t i = 0; i < VNP_COUNT(layouts); i++) {
        const struct layout *l = &layouts[i];
        if (l->kind != kind || l->is_bundle != is_bundle) continue;
        snprintf(name, sizeof name, "%s%s", l->prefix, l->anchor);
        if (vnp_raw_find(raw, name)) return l;
    }
    return NULL;
}

unsigned vnp_raw_kinds(const struct vnp_raw *raw) {
    unsigned kinds = 0;
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++)
        if (find_layout(raw, (enum vnp_model_kind)k)) kinds |= 1u << k;
    return kinds;
}

/* ---- building ------------------------------------------------------------------------------- */

struct builder {
    struct vnp_checkpoint *c;
    const struct layout *layout;
    const char *file; /* for messages about the whole */
    int64_t n_types;
    bool *is_used; /* [raw n_tensors] */
};

/* Writes a rule's name with its layer: FORM's %d stands at most once. */
static void fill_name(char out[NAME_BYTES], const char *prefix, const char *form, int64_t layer) {
    const char *at = strstr(form, "%d");
    if (!at)
        snprintf(out, NAME_BYTES, "%s%s", prefix, form);
    else
        snprintf(out, NAME_BYTES, "%s%.*s%lld%s", prefix, (int)(at - form), form, (long long)layer,
                 at + 2);
}

static void source_name(const struct builder *b, const struct rule *r, int64_t layer,
                        char out[NAME_BYTES]) {
    fill_name(out, r->is_lm ? b->layout->lm_prefix : b->layout->prefix,
              b->layout->is_bundle ? r->canonical : r->source, layer);
}

/* A tensor by its name, or a norm by the names that transformers 5 and TensorFlow give: gamma for
 * weight, beta for bias. */
static const struct vnp_raw_tensor *find_named(const struct vnp_raw *raw, const char *name) {
    static const char *const aliases[][2] = {{".weight", ".gamma"}, {".bias", ".beta"}};
    const struct vnp_raw_tensor *t = vnp_raw_find(raw, name);
    for (size_t i = 0; !t && i < VNP_COUNT(aliases); i++) {
        char other[NAME_BYTES + 8];
        size_t n = strlen(name), n_tail = strlen(aliases[i][0]);
        if (n < n_tail || strcmp(name + n - n_tail, aliases[i][0]) != 0) continue;
        snprintf(other, sizeof other, "%.*s%s", (int)(n - n_tail), name, aliases[i][1]);
        t = vnp_raw_find(raw, other);
    }
    return t;
}

static const struct vnp_raw_tensor *find_source(const struct builder *b, const char *canonical,
                                                int64_t layer, char name[NAME_BYTES]) {
    for (const struct rule *r = b->layout->rules; r->canonical; r++)
        if (strcmp(r->canonical, canonical) == 0) {
            source_name(b, r, layer, name);
            return vnp_raw_find(b->c->raw, name);
        }
    return NULL;
}

static int64_t dim_of(const struct builder *b, char code) {
    const struct vnp_model_spec *s = &b->c->spec;
    switch (code) {
    case 'V':
        return s->n_vocab;
    case 'D':
        return s->n_hidden;
    case 'F':
        return s->n_ffn;
    case 'T':
        return b->n_types;
    case '3':
        return 3 * s->n_hidden;
    case '2':
        return 2 * s->n_ffn;
    case 'H':
        return s->n_classifier_hidden;
    case 'I':
        return s->n_dna + s->n_protein;
    default:
        return 2;
    }
}

static void format_shape(char *out, size_t n, const int64_t *shape, int n_dims) {
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < n_dims && used < n; i++)
        used +=
            (size_t)snprintf(out + used, n - used, "%s%lld", i ? " x " : "", (long long)shape[i]);
}

static vnp_status check_tensor(const struct builder *b, const struct rule *r,
                               const struct vnp_raw_tensor *t) {
    int64_t want[4];
    int n_dims = (int)strlen(r->dims);
    bool is_same = t->n_dims == n_dims;
    for (int i = 0; i < n_dims; i++) {
        want[i] = dim_of(b, r->dims[i]);
        if (is_same && t->shape[i] != want[i]) is_same = false;
    }
    if (!is_same) {
        char is[160], should[160];
        format_shape(is, sizeof is, t->shape, t->n_dims);
        format_shape(should, sizeof should, want, n_dims);
        return vnp_bad(VNP_MISMATCH, t->file, -1, t->name, "the tensor's shape is [%s], not [%s]",
                       is, should);
    }
    if (t->dtype != VNP_F32 && t->dtype != VNP_F16 && t->dtype != VNP_BF16) {
        (void)vnp_bad(VNP_UNSUPPORTED, t->file, -1, t->name, "the tensor's type is %s",
                      t->dtype_name);
        vnp_error_hint("weights in FP32, FP16 or BF16 are read");
        return VNP_UNSUPPORTED;
    }
    if (!t->is_contiguous) {
        (void)vnp_bad(VNP_UNSUPPORTED, t->file, -1, t->name,
                      "the tensor is a strided view (transposed or expanded) of its storage");
        vnp_error_hint("save it with .contiguous()");
        return VNP_UNSUPPORTED;
    }
    return VNP_OK;
}

static vnp_status add_tensor(struct builder *b, const struct rule *r, int64_t layer) {
    char source[NAME_BYTES], canonical[NAME_BYTES];
    struct vnp_checkpoint *c = b->c;
    source_name(b, r, layer, source);
    fill_name(canonical, "", r->canonical, layer);
    const struct vnp_raw_tensor *t = find_named(c->raw, source);
    if (!t) return vnp_bad(VNP_FORMAT, b->file, -1, source, "the tensor is missing");
    VNP_TRY(check_tensor(b, r, t));
    b->is_used[t - c->raw->tensors] = true;
    if (c->n_tensors == c->cap_tensors) {
        int64_t cap = c->cap_tensors ? c->cap_tensors * 2 : 64;
        struct vnp_tensor_info *grown = realloc(c->tensors, (size_t)cap * sizeof *grown);
        if (!grown) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a list of tensors");
        c->tensors = grown;
        c->cap_tensors = cap;
    }
    struct vnp_tensor_info *out = &c->tensors[c->n_tensors];
    *out = (struct vnp_tensor_info){.name = strdup(canonical),
                                    .dtype = t->dtype,
                                    .n_dims = t->n_dims,
                                    .data = t->data,
                                    .n_bytes = t->n_bytes};
    if (!out->name) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a name");
    for (int i = 0; i < t->n_dims; i++) out->shape[i] = t->shape[i];
    c->n_tensors++;
    return VNP_OK;
}

static bool is_in_layers(const struct rule *r) {
    return strstr(r->canonical, "%d") != NULL;
}

static int compare_infos(const void *a, const void *b) {
    const struct vnp_tensor_info *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static vnp_status shape_2d(const struct builder *b, const char *canonical, int64_t *rows,
                           int64_t *cols) {
    char name[NAME_BYTES];
    const struct vnp_raw_tensor *t = find_source(b, canonical, 0, name);
    if (!t) return vnp_bad(VNP_FORMAT, b->file, -1, name, "the tensor is missing");
    if (t->n_dims != 2 || t->shape[0] < 1 || t->shape[1] < 1 || t->shape[0] > MAX_SIZE ||
        t->shape[1] > MAX_SIZE) {
        char is[160];
        format_shape(is, sizeof is, t->shape, t->n_dims);
        return vnp_bad(VNP_MISMATCH, t->file, -1, name, "a matrix is expected, its shape is [%s]",
                       is);
    }
    *rows = t->shape[0];
    *cols = t->shape[1];
    return VNP_OK;
}

static int64_t count_layers(const struct builder *b) {
    const char *anchor =
        b->layout->kind == VNP_MODEL_ESM2 ? "layer.%d.attn.q.weight" : "layer.%d.attn.qkv.weight";
    char name[NAME_BYTES];
    int64_t n = 0;
    while (n < MAX_LAYERS && find_source(b, anchor, n, name)) n++;
    return n;
}

/* config.json's number; 0 when it has none. */
static vnp_status config_int(const struct vnp_raw *raw, const char *key, int64_t *out) {
    json_t *v = json_object_get(raw->config, key);
    *out = 0;
    if (!v || json_is_null(v)) return VNP_OK;
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > MAX_SIZE)
        return vnp_bad(VNP_FORMAT, raw->config_path, -1, key, "is no positive number");
    *out = json_integer_value(v);
    return VNP_OK;
}

static vnp_status config_agrees(const struct builder *b, const char *key, int64_t is) {
    const struct vnp_raw *raw = b->c->raw;
    int64_t said;
    VNP_TRY(config_int(raw, key, &said));
    if (said && said != is)
        return vnp_bad(VNP_MISMATCH, raw->config_path, -1, key,
                       "is %lld, but the weights (%s) have %lld", (long long)said, b->file,
                       (long long)is);
    return VNP_OK;
}

static vnp_status config_refuses(const struct vnp_raw *raw, const char *key, const char *wanted) {
    json_t *v = json_object_get(raw->config, key);
    if (!v || json_is_null(v)) return VNP_OK;
    if (!json_is_string(v) || strcmp(json_string_value(v), wanted) != 0)
        return vnp_bad(VNP_UNSUPPORTED, raw->config_path, -1, key, "is '%.64s'; only '%s' is known",
                       json_is_string(v) ? json_string_value(v) : "?", wanted);
    return VNP_OK;
}

static vnp_status config_flag(const struct vnp_raw *raw, const char *key, bool *out) {
    json_t *v = json_object_get(raw->config, key);
    if (!v || json_is_null(v)) return VNP_OK;
    if (!json_is_boolean(v))
        return vnp_bad(VNP_FORMAT, raw->config_path, -1, key, "is neither true nor false");
    *out = json_is_true(v);
    return VNP_OK;
}

static vnp_status read_eps(struct builder *b) {
    const struct vnp_raw *raw = b->c->raw;
    json_t *v = json_object_get(raw->config, "layer_norm_eps");
    if (!v || json_is_null(v)) return VNP_OK;
    double eps = json_number_value(v);
    if (!json_is_number(v) || !(eps > 0) || !(eps < 1))
        return vnp_bad(VNP_FORMAT, raw->config_path, -1, "layer_norm_eps",
                       "is no number between 0 and 1");
    b->c->spec.norm_eps = (float)eps;
    return VNP_OK;
}

/* A bundle's metadata "<prefix><key>" as a number. */
static vnp_status meta_number(const struct builder *b, const char *key, double lo, double hi,
                              double *out) {
    char full[NAME_BYTES], *end;
    snprintf(full, sizeof full, "%s%s", b->layout->prefix, key);
    const struct vnp_raw_meta *m = vnp_raw_meta_find(b->c->raw, full);
    if (!m) return vnp_bad(VNP_FORMAT, b->file, -1, full, "the bundle's metadata lack it");
    *out = strtod(m->value, &end);
    if (end == m->value || *end || !(*out >= lo) || !(*out <= hi))
        return vnp_bad(VNP_FORMAT, b->file, -1, full, "'%.64s' is no sensible number", m->value);
    return VNP_OK;
}

static vnp_status bundle_encoder(struct builder *b) {
    struct vnp_model_spec *s = &b->c->spec;
    double v;
    VNP_TRY(meta_number(b, "n_heads", 1, MAX_SIZE, &v));
    s->n_heads = (int64_t)v;
    VNP_TRY(meta_number(b, "n_layers", 1, MAX_LAYERS, &v));
    s->n_layers = (int64_t)v;
    VNP_TRY(meta_number(b, "norm_eps", 1e-30, 1, &v));
    s->norm_eps = (float)v;
    if (s->kind == VNP_MODEL_ESM2) {
        VNP_TRY(meta_number(b, "token_dropout", 0, 1, &v));
        s->has_token_dropout = v != 0;
    }
    return VNP_OK;
}

static vnp_status fail_no_heads(const struct builder *b) {
    (void)vnp_bad(VNP_NOT_FOUND, b->file, -1, NULL, "nothing tells the number of attention heads");
    vnp_error_hint(b->layout->rules == esm_fair ? "the checkpoint's 'cfg' is missing"
                                                : "config.json must lie beside the weights");
    return VNP_NOT_FOUND;
}

/* fair-esm: the Namespace, or the rotary table when a bare state dict was saved. */
static vnp_status fair_encoder(struct builder *b) {
    const struct vnp_raw *raw = b->c->raw;
    struct vnp_model_spec *s = &b->c->spec;
    s->n_layers = raw->cfg_layers ? raw->cfg_layers : count_layers(b);
    s->n_heads = raw->cfg_heads;
    s->has_token_dropout = raw->cfg_token_dropout != 0;
    if (raw->cfg_hidden && raw->cfg_hidden != s->n_hidden)
        return vnp_bad(VNP_MISMATCH, b->file, -1, "encoder_embed_dim",
                       "the checkpoint's cfg says %lld, its embedding has %lld columns",
                       (long long)raw->cfg_hidden, (long long)s->n_hidden);
    char name[NAME_BYTES];
    fill_name(name, b->layout->prefix, "layers.%d.self_attn.rot_emb.inv_freq", 0);
    const struct vnp_raw_tensor *t = vnp_raw_find(raw, name);
    if (!s->n_heads && t && t->n_dims == 1 && t->shape[0] > 0 && t->shape[0] < MAX_SIZE)
        s->n_heads = s->n_hidden / (2 * t->shape[0]);
    return s->n_heads ? VNP_OK : fail_no_heads(b);
}

static vnp_status hf_encoder(struct builder *b) {
    const struct vnp_raw *raw = b->c->raw;
    struct vnp_model_spec *s = &b->c->spec;
    bool has_norm_before = false, is_folding = false;
    if (!raw->config) return fail_no_heads(b);
    VNP_TRY(config_int(raw, "num_attention_heads", &s->n_heads));
    if (!s->n_heads)
        return vnp_bad(VNP_FORMAT, raw->config_path, -1, "num_attention_heads", "is missing");
    VNP_TRY(config_int(raw, "num_hidden_layers", &s->n_layers));
    if (!s->n_layers) s->n_layers = count_layers(b);
    VNP_TRY(config_agrees(b, "hidden_size", s->n_hidden));
    VNP_TRY(config_agrees(b, "intermediate_size", s->n_ffn));
    VNP_TRY(config_agrees(b, "vocab_size", s->n_vocab));
    VNP_TRY(config_refuses(raw, "hidden_act", "gelu"));
    VNP_TRY(read_eps(b));
    if (s->kind != VNP_MODEL_ESM2) return VNP_OK;
    VNP_TRY(config_refuses(raw, "model_type", "esm"));
    VNP_TRY(config_refuses(raw, "position_embedding_type", "rotary"));
    if (!json_object_get(raw->config, "position_embedding_type"))
        return vnp_bad(VNP_UNSUPPORTED, raw->config_path, -1, "position_embedding_type",
                       "is missing; only 'rotary' is known");
    VNP_TRY(config_flag(raw, "emb_layer_norm_before", &has_norm_before));
    VNP_TRY(config_flag(raw, "is_folding_model", &is_folding));
    VNP_TRY(config_flag(raw, "token_dropout", &s->has_token_dropout));
    json_t *theta = json_object_get(raw->config, "rope_theta");
    if (theta && json_number_value(theta) != 10000.0)
        return vnp_bad(VNP_UNSUPPORTED, raw->config_path, -1, "rope_theta",
                       "is not 10000, the only base that is known");
    if (has_norm_before || is_folding)
        return vnp_bad(VNP_UNSUPPORTED, raw->config_path, -1,
                       is_folding ? "is_folding_model" : "emb_layer_norm_before",
                       "is true: no ESM-2 encoder");
    return VNP_OK;
}

static vnp_status encoder_sizes(struct builder *b) {
    struct vnp_model_spec *s = &b->c->spec;
    bool is_esm = s->kind == VNP_MODEL_ESM2;
    int64_t cols;
    VNP_TRY(shape_2d(b, "embed.weight", &s->n_vocab, &s->n_hidden));
    VNP_TRY(shape_2d(b, is_esm ? "layer.%d.ffn.up.weight" : "layer.%d.ffn.gated.weight", &s->n_ffn,
                     &cols));
    if (!is_esm) {
        if (s->n_ffn % 2)
            return vnp_bad(VNP_MISMATCH, b->file, -1, "mlp.gated_layers.weight",
                           "has an odd number of rows");
        s->n_ffn /= 2;
        VNP_TRY(shape_2d(b, "embed.type", &b->n_types, &cols));
    }
    s->norm_eps = is_esm ? 1e-5f : 1e-12f;
    if (b->layout->is_bundle)
        VNP_TRY(bundle_encoder(b));
    else if (b->layout->rules == esm_fair)
        VNP_TRY(fair_encoder(b));
    else
        VNP_TRY(hf_encoder(b));
    if (s->n_hidden % s->n_heads)
        return vnp_bad(VNP_MISMATCH, b->file, -1, NULL,
                       "%lld columns do not divide into %lld heads", (long long)s->n_hidden,
                       (long long)s->n_heads);
    if (s->n_hidden / s->n_heads % 2 || s->n_hidden / s->n_heads > MAX_HEAD_DIM)
        return vnp_bad(VNP_UNSUPPORTED, b->file, -1, NULL,
                       "%lld columns in %lld heads: heads of even size up to %d are computed",
                       (long long)s->n_hidden, (long long)s->n_heads, MAX_HEAD_DIM);
    if (is_esm && s->n_vocab < 33)
        return vnp_bad(VNP_MISMATCH, b->file, -1, "embed.weight",
                       "has %lld rows, ESM-2's alphabet 33", (long long)s->n_vocab);
    int64_t n_there = count_layers(b);
    if (s->n_layers > MAX_LAYERS || n_there > s->n_layers)
        return vnp_bad(VNP_MISMATCH, b->file, -1, NULL,
                       "the configuration says %lld layers, the weights have %lld",
                       (long long)s->n_layers, (long long)n_there);
    return VNP_OK;
}

static vnp_status classifier_sizes(struct builder *b) {
    struct vnp_model_spec *s = &b->c->spec;
    int64_t n_in;
    VNP_TRY(shape_2d(b, "hidden.weight", &s->n_classifier_hidden, &n_in));
    s->n_protein = n_in;
    if (!b->layout->is_bundle) return VNP_OK;
    double v;
    VNP_TRY(meta_number(b, "n_dna", 0, MAX_SIZE, &v));
    s->n_dna = (int64_t)v;
    s->n_protein = n_in - s->n_dna;
    if (s->n_protein < 0)
        return vnp_bad(VNP_MISMATCH, b->file, -1, "classifier.n_dna",
                       "is %lld, the classifier has %lld inputs", (long long)s->n_dna,
                       (long long)n_in);
    return VNP_OK;
}

/* ---- the masked-LM head --------------------------------------------------------------------- */

/* The head multiplies with the embedding: a copy in the file must equal it. */
static bool is_untied(const struct builder *b) {
    static const char *const names[] = {"lm_head.decoder.weight", "lm_head.weight"};
    char name[NAME_BYTES];
    const struct vnp_raw_tensor *e = find_source(b, "embed.weight", 0, name);
    for (size_t i = 0; i < VNP_COUNT(names); i++) {
        snprintf(name, sizeof name, "%s%s", b->layout->lm_prefix, names[i]);
        const struct vnp_raw_tensor *t = vnp_raw_find(b->c->raw, name);
        if (!t || t->data == e->data) continue;
        if (t->dtype != e->dtype || !t->is_contiguous || t->n_bytes != e->n_bytes ||
            memcmp(t->data, e->data, e->n_bytes) != 0)
            return true;
    }
    return false;
}

static bool has_lm(const struct builder *b) {
    char name[NAME_BYTES];
    for (const struct rule *r = b->layout->rules; r->canonical; r++) {
        if (!r->is_lm) continue;
        source_name(b, r, 0, name);
        if (find_named(b->c->raw, name)) return true;
    }
    return false;
}

static bool is_ignored(const char *name) {
    static const char *const parts[] = {
        "contact_head.",  "regression", "position_ids",        "position_embeddings",
        "inv_freq",       "pooler.",    "num_batches_tracked", "lm_head.decoder.",
        "lm_head.weight", "rotary"};
    for (size_t i = 0; i < VNP_COUNT(parts); i++)
        if (strstr(name, parts[i])) return true;
    return strncmp(name, "cls.", 4) == 0;
}

/* What no rule took: ignored, warned of, or refused. */
static vnp_status check_rest(const struct builder *b) {
    static const char *const refused[] = {"lora_", "adapter", "emb_layer_norm_before"};
    const struct vnp_raw *raw = b->c->raw;
    int64_t n = 0;
    const char *first = NULL;
    for (int64_t i = 0; i < raw->n_tensors; i++) {
        const struct vnp_raw_tensor *t = &raw->tensors[i];
        if (b->is_used[i]) continue;
        for (size_t k = 0; k < VNP_COUNT(refused); k++)
            if (strstr(t->name, refused[k]))
                return vnp_bad(VNP_UNSUPPORTED, t->file, -1, t->name,
                               "the tensor changes the answer and is not supported");
        if (is_ignored(t->name) || b->layout->is_bundle) continue;
        if (b->layout->rules == esm_hf && strstr(t->name, "lm_head")) continue;
        n++;
        if (!first) first = t->name;
    }
    if (n)
        vnp_log(VNP_LOG_WARN, "weights", "%s: %lld tensors are not used (the first is %s)",
                raw->path, (long long)n, first);
    return VNP_OK;
}

/* ---- names ---------------------------------------------------------------------------------- */

/* A model's name: the bundle's, config.json's, else the file's or folder's. */
static void name_model(struct builder *b) {
    const struct vnp_raw *raw = b->c->raw;
    char *out = b->c->spec.name, key[64], path[4096];
    const size_t n = sizeof b->c->spec.name;
    snprintf(key, sizeof key, "%sname", b->layout->prefix);
    const struct vnp_raw_meta *m = b->layout->is_bundle ? vnp_raw_meta_find(raw, key) : NULL;
    const char *text = m ? m->value : NULL;
    if (!text) text = json_string_value(json_object_get(raw->config, "_name_or_path"));
    if (!text || !text[0]) text = raw->path;
    snprintf(path, sizeof path, "%s", text);
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') path[--len] = 0;
    char *base = strrchr(path, '/');
    base = base && base[1] ? base + 1 : path;
    snprintf(out, n, "%.*s", (int)n - 1, base);
    if (m || text != raw->path) return;
    char *dot = strrchr(out, '.');
    if (dot && dot > out &&
        (strcmp(dot, ".pt") == 0 || strcmp(dot, ".pth") == 0 || strcmp(dot, ".bin") == 0 ||
         strcmp(dot, ".safetensors") == 0))
        *dot = 0;
}

/* Upstream calls its classifiers 300_model.pth and 500_model.pth. */
static int64_t window_of(const struct builder *b) {
    const struct vnp_raw_meta *m =
        b->layout->is_bundle ? vnp_raw_meta_find(b->c->raw, "window_bp") : NULL;
    const char *text = m ? m->value : b->c->spec.name;
    char *end;
    long long n = strtoll(text, &end, 10);
    if (m) return n > 0 && n <= 1000000 && !*end ? n : 0;
    return (n == 300 || n == 500) && strncmp(end, "_model", 6) == 0 ? n : 0;
}

enum vnp_dtype vnp_most_of(const size_t *n_of) {
    enum vnp_dtype most = VNP_F32;
    if (n_of[VNP_F16] > n_of[most]) most = VNP_F16;
    if (n_of[VNP_BF16] > n_of[most]) most = VNP_BF16;
    return most;
}

static void sum_up(struct vnp_checkpoint *c) {
    size_t n_of[VNP_BOOL + 1] = {0};
    for (int64_t i = 0; i < c->n_tensors; i++) {
        size_t n = 0;
        (void)vnp_shape_count(c->tensors[i].shape, c->tensors[i].n_dims, &n);
        c->spec.n_params += (int64_t)n;
        n_of[c->tensors[i].dtype] += n;
    }
    c->spec.dtype = vnp_most_of(n_of);
}

static vnp_status rotary_of(struct builder *b) {
    char key[64];
    snprintf(key, sizeof key, "%srotary_freq", b->layout->prefix);
    const struct vnp_raw_meta *m = b->layout->is_bundle ? vnp_raw_meta_find(b->c->raw, key) : NULL;
    return vnp_rotary_freq_dtype(b->c->raw, &b->c->spec, m ? m->value : NULL,
                                 &b->c->spec.freq_dtype);
}

/* A classifier with a NaN, an infinity or a variance below zero answers NaN to everything. */
static vnp_status classifier_values(const struct builder *b) {
    enum { PIECE = 1024 };
    float values[PIECE];
    for (int64_t i = 0; i < b->c->n_tensors; i++) {
        const struct vnp_tensor_info *t = &b->c->tensors[i];
        bool is_variance = strcmp(t->name, "bn.var") == 0;
        size_t n = 0, n_done = 0, n_element = t->dtype == VNP_F32 ? 4 : 2;
        (void)vnp_shape_count(t->shape, t->n_dims, &n);
        for (; n_done < n; n_done += PIECE) {
            int64_t n_now = (int64_t)VNP_MIN(n - n_done, (size_t)PIECE);
            vnp_convert_to_f32(t->dtype, (const uint8_t *)t->data + n_done * n_element, n_now,
                               values);
            for (int64_t k = 0; k < n_now; k++) {
                if (isfinite(values[k]) && !(is_variance && values[k] < 0)) continue;
                char name[NAME_BYTES];
                (void)find_source(b, t->name, 0, name);
                (void)vnp_bad(VNP_FORMAT, b->file, -1, name, "value %lld is %g%s",
                              (long long)(n_done + (size_t)k), (double)values[k],
                              is_variance ? ", which is no variance" : "");
                vnp_error_hint("the classifier is damaged or its training went wrong; copy or "
                               "train it again");
                return VNP_FORMAT;
            }
        }
    }
    return VNP_OK;
}

static vnp_status build(struct builder *b) {
    struct vnp_checkpoint *c = b->c;
    bool is_encoder = c->spec.kind != VNP_MODEL_CLASSIFIER;
    if (is_encoder)
        VNP_TRY(encoder_sizes(b));
    else
        VNP_TRY(classifier_sizes(b));
    bool take_lm = c->spec.kind == VNP_MODEL_ESM2 && has_lm(b);
    if (take_lm && is_untied(b)) {
        vnp_log(VNP_LOG_WARN, "weights", "%s: the LM head is not tied to the embedding: left out",
                c->raw->path);
        take_lm = false;
    }
    c->spec.has_lm_head = take_lm;
    for (const struct rule *r = b->layout->rules; r->canonical; r++) {
        if (r->is_lm && !take_lm) continue;
        int64_t n = is_in_layers(r) ? c->spec.n_layers : 1;
        for (int64_t l = 0; l < n; l++) VNP_TRY(add_tensor(b, r, l));
    }
    VNP_TRY(check_rest(b));
    if (!is_encoder) VNP_TRY(classifier_values(b));
    qsort(c->tensors, (size_t)c->n_tensors, sizeof *c->tensors, compare_infos);
    name_model(b);
    if (!is_encoder) c->spec.window_bp = window_of(b);
    sum_up(c);
    return c->spec.kind == VNP_MODEL_ESM2 ? rotary_of(b) : VNP_OK;
}

vnp_status vnp_canon_build(struct vnp_checkpoint *c, enum vnp_model_kind kind) {
    struct builder b = {.c = c, .layout = find_layout(c->raw, kind)};
    if (!b.layout) return vnp_bad(VNP_MISMATCH, c->raw->path, -1, NULL, "holds no such model");
    b.file = c->raw->n_maps == 1 ? c->raw->maps[0]->path : c->raw->path;
    c->prefix = b.layout->is_bundle ? b.layout->prefix : "";
    c->spec.kind = kind;
    b.is_used = calloc((size_t)c->raw->n_tensors + 1, sizeof(bool));
    if (!b.is_used) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a list of tensors");
    vnp_status status = build(&b);
    free(b.is_used);
    return status;
}
