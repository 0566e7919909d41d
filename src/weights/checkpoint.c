// SPDX-License-Identifier: MIT
// One model of a file, folder or bundle as the other rooms see it. Opening reads descriptions
// only; a weight's pages are touched when somebody reads them.
#include "weights_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *kind_text(enum vnp_model_kind kind) {
    if (kind == VNP_MODEL_ESM2) return "an ESM-2 encoder";
    if (kind == VNP_MODEL_DNABERT) return "a DNABERT-S encoder";
    return kind == VNP_MODEL_CLASSIFIER ? "a classifier" : "a model";
}

static vnp_status pick_kind(const struct vnp_raw *raw, enum vnp_model_kind wanted,
                            enum vnp_model_kind *out) {
    unsigned kinds = vnp_raw_kinds(raw);
    enum vnp_model_kind only = VNP_MODEL_NONE;
    int n = 0;
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++)
        if (kinds & 1u << k) only = (enum vnp_model_kind)k, n++;
    if (n == 0) {
        (void)vnp_bad(VNP_UNSUPPORTED, raw->path, -1, NULL,
                      "its %lld tensors (the first is '%.100s') belong to no model that is known",
                      (long long)raw->n_tensors, raw->tensors[0].name);
        vnp_error_hint("ESM-2, DNABERT-S and VirNucPro classifiers are read");
        return VNP_UNSUPPORTED;
    }
    *out = wanted ? wanted : only;
    if (wanted && !(kinds & 1u << wanted))
        return vnp_bad(VNP_MISMATCH, raw->path, -1, NULL, "holds %s, not %s",
                       n == 1 ? kind_text(only) : "other models", kind_text(wanted));
    if (!wanted && n > 1)
        return vnp_bad(VNP_MISMATCH, raw->path, -1, NULL,
                       "holds %d models; which one is meant must be said", n);
    return VNP_OK;
}

/* The DNA encoder's tokenizer.json: the bundle's own, or the file beside the weights. */
static vnp_status find_tokenizer(struct vnp_checkpoint *c) {
    const struct vnp_raw_meta *m = vnp_raw_meta_find(c->raw, "dnabert.tokenizer");
    char path[4200];
    struct stat st;
    if (c->spec.kind != VNP_MODEL_DNABERT) return VNP_OK;
    if (m) {
        c->tokenizer = m->value;
        c->n_tokenizer = m->n_value;
        return VNP_OK;
    }
    if (!c->raw->dna_folder[0]) return VNP_OK;
    snprintf(path, sizeof path, "%s/tokenizer.json", c->raw->dna_folder);
    if (stat(path, &st) != 0) return VNP_OK;
    VNP_TRY(vnp_mapping_open(path, &c->tokenizer_map));
    c->tokenizer = c->tokenizer_map->data ? (const char *)c->tokenizer_map->data : "";
    c->n_tokenizer = c->tokenizer_map->n_bytes;
    return VNP_OK;
}

static vnp_status check_bundle(struct vnp_checkpoint *c) {
    if (!vnp_raw_is_bundle(c->raw)) return VNP_OK;
    const struct vnp_raw_meta *version = vnp_raw_meta_find(c->raw, "format_version");
    if (!version || strcmp(version->value, "1") != 0)
        return vnp_bad(VNP_UNSUPPORTED, c->raw->path, -1, "format_version",
                       "the bundle's version is '%.32s'; this program reads 1",
                       version ? version->value : "missing");
    c->raw->format = "virnucpro bundle";
    const struct vnp_raw_meta *note = vnp_raw_meta_find(c->raw, "note");
    if (!note) return VNP_OK;
    snprintf(c->note, sizeof c->note, "%s", note->value);
    for (char *p = c->note; *p; p++)
        if ((unsigned char)*p < 0x20) *p = ' ';
    return VNP_OK;
}

vnp_status vnp_checkpoint_open(const char *path, enum vnp_model_kind kind,
                               struct vnp_checkpoint **out) {
    *out = NULL;
    struct vnp_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a model's description");
    vnp_status status = vnp_raw_open(path, &c->raw);
    if (status == VNP_OK) status = check_bundle(c);
    if (status == VNP_OK) status = pick_kind(c->raw, kind, &kind);
    if (status == VNP_OK) status = vnp_canon_build(c, kind);
    if (status == VNP_OK) status = find_tokenizer(c);
    if (status != VNP_OK) {
        vnp_checkpoint_close(c);
        return status;
    }
    *out = c;
    return VNP_OK;
}

void vnp_checkpoint_close(struct vnp_checkpoint *c) {
    if (!c) return;
    for (int64_t i = 0; i < c->n_tensors; i++) free((void *)(uintptr_t)c->tensors[i].name);
    free(c->tensors);
    vnp_mapping_close(c->tokenizer_map);
    vnp_raw_destroy(c->raw);
    free(c->own_data);
    free(c);
}

const struct vnp_model_spec *vnp_checkpoint_spec(const struct vnp_checkpoint *c) {
    return &c->spec;
}

const char *vnp_checkpoint_path(const struct vnp_checkpoint *c) {
    return c->raw->path;
}

struct vnp_hash128 vnp_checkpoint_stamp(const struct vnp_checkpoint *c) {
    struct vnp_hash128 sum = {0, 0};
    for (int64_t i = 0; i < c->raw->n_maps; i++) {
        const struct vnp_hash128 both[] = {sum, c->raw->maps[i]->stamp};
        sum = vnp_hash(both, sizeof both);
    }
    return sum;
}

const char *vnp_checkpoint_note(const struct vnp_checkpoint *c) {
    return c->note;
}

const char *vnp_checkpoint_format(const struct vnp_checkpoint *c) {
    return c->raw->format;
}

const char *vnp_checkpoint_meta(const struct vnp_checkpoint *c, const char *key) {
    const struct vnp_raw_meta *m = vnp_raw_meta_find(c->raw, key);
    return m ? m->value : NULL;
}

const struct vnp_tensor_info *vnp_checkpoint_find(const struct vnp_checkpoint *c,
                                                  const char *name) {
    int64_t lo = 0, hi = c->n_tensors;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int order = strcmp(c->tensors[mid].name, name);
        if (order == 0) return &c->tensors[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

void vnp_checkpoint_trim(const struct vnp_checkpoint *c) {
    for (int64_t i = 0; i < c->raw->n_maps; i++) vnp_mapping_trim(c->raw->maps[i]);
}

int64_t vnp_checkpoint_count(const struct vnp_checkpoint *c) {
    return c->n_tensors;
}

const struct vnp_tensor_info *vnp_checkpoint_at(const struct vnp_checkpoint *c, int64_t i) {
    return i >= 0 && i < c->n_tensors ? &c->tensors[i] : NULL;
}

vnp_status vnp_checkpoint_view(const struct vnp_checkpoint *c, struct vnp_view *out,
                               const char *fmt, ...) {
    char name[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    const struct vnp_tensor_info *t = vnp_checkpoint_find(c, name);
    if (!t) return vnp_bad(VNP_NOT_FOUND, c->raw->path, -1, name, "the model has no such tensor");
    *out = (struct vnp_view){.data = t->data,
                             .dtype = t->dtype,
                             .rows = t->n_dims == 2 ? t->shape[0] : 1,
                             .cols = t->n_dims == 2 ? t->shape[1] : t->shape[0]};
    return VNP_OK;
}

vnp_status vnp_checkpoint_tokenizer(const struct vnp_checkpoint *c, const char **json,
                                    size_t *n_bytes) {
    if (!c->tokenizer) {
        (void)vnp_bad(VNP_NOT_FOUND, c->raw->path, -1, NULL, "there is no tokenizer.json");
        vnp_error_hint("the DNA encoder's tokenizer.json must lie beside its weights");
        return VNP_NOT_FOUND;
    }
    *json = c->tokenizer;
    *n_bytes = c->n_tokenizer;
    return VNP_OK;
}

const char *vnp_checkpoint_tokenizer_path(const struct vnp_checkpoint *c) {
    return c->tokenizer_map ? c->tokenizer_map->path : c->raw->path;
}

vnp_status vnp_model_probe(const char *path, unsigned *kinds, char *format, size_t n_format) {
    struct vnp_raw *raw;
    *kinds = 0;
    VNP_TRY(vnp_raw_open(path, &raw));
    *kinds = vnp_raw_kinds(raw);
    if (format && n_format)
        snprintf(format, n_format, "%s", vnp_raw_is_bundle(raw) ? "virnucpro bundle" : raw->format);
    vnp_raw_destroy(raw);
    return VNP_OK;
}

/* ---- digest --------------------------------------------------------------------------------- */

enum { DIGEST_TRIM_BYTES = 64 << 20 };

struct digest_head { /* no padding: hashed as bytes */
    int64_t kind, n_layers, n_hidden, n_heads, n_ffn, n_vocab, has_token_dropout, n_classifier;
    double norm_eps;
};

struct vnp_hash128 vnp_digest_begin(const struct vnp_model_spec *s) {
    struct digest_head head = {s->kind,
                               s->n_layers,
                               s->n_hidden,
                               s->n_heads,
                               s->n_ffn,
                               s->n_vocab,
                               s->has_token_dropout,
                               s->n_classifier_hidden,
                               (double)s->norm_eps};
    struct vnp_hash128 sum = vnp_hash(&head, sizeof head);
    if (s->kind != VNP_MODEL_ESM2 || s->freq_dtype == s->dtype) return sum;
    uint64_t link[3] = {sum.lo, sum.hi, (uint64_t)s->freq_dtype};
    return vnp_hash(link, sizeof link);
}

struct vnp_hash128 vnp_digest_add(struct vnp_hash128 sum, const struct vnp_tensor_info *t) {
    struct vnp_hash128 name = vnp_hash(t->name, strlen(t->name));
    struct vnp_hash128 data = vnp_hash(t->data, t->n_bytes);
    uint64_t link[12] = {sum.lo,  sum.hi, name.lo, name.hi, (uint64_t)t->dtype,
                         0,       0,      0,       0,       (uint64_t)t->n_dims,
                         data.lo, data.hi};
    for (int d = 0; d < t->n_dims; d++) link[5 + d] = (uint64_t)t->shape[d];
    return vnp_hash(link, sizeof link);
}

static struct vnp_hash128 digest_all(const struct vnp_checkpoint *c) {
    struct vnp_hash128 sum = vnp_digest_begin(&c->spec);
    size_t n_read = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        sum = vnp_digest_add(sum, &c->tensors[i]);
        n_read += c->tensors[i].n_bytes;
        if (n_read < DIGEST_TRIM_BYTES) continue;
        vnp_checkpoint_trim(c);
        n_read = 0;
    }
    return sum;
}

vnp_status vnp_checkpoint_digest(struct vnp_checkpoint *c, struct vnp_hash128 *out) {
    if (!c->has_digest) {
        c->spec.digest = digest_all(c);
        char key[64], hex[33];
        snprintf(key, sizeof key, "%sdigest", vnp_kind_prefix(c->spec.kind));
        vnp_hash_hex(c->spec.digest, hex);
        const struct vnp_raw_meta *m =
            vnp_raw_is_bundle(c->raw) ? vnp_raw_meta_find(c->raw, key) : NULL;
        if (m && strcmp(m->value, hex) != 0) {
            (void)vnp_bad(VNP_MISMATCH, c->raw->path, -1, key,
                          "the weights' digest is %s, the bundle says %.64s: it is damaged", hex,
                          m->value);
            vnp_error_hint("copy or download it again");
            return VNP_MISMATCH;
        }
        c->has_digest = true;
    }
    *out = c->spec.digest;
    return VNP_OK;
}
