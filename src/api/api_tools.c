// SPDX-License-Identifier: MIT
// What a file holds, one bundle out of many files, and whether an installation is the published
// one.
#include "api_internal.h"

#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- info ----------------------------------------------------------------------------------- */

static void info_fill(struct vnp_checkpoint *c, vnp_model_info *o) {
    static const char *const kinds[] = {"", "esm2", "dnabert-s", "classifier"};
    const struct vnp_model_spec *s = vnp_checkpoint_spec(c);
    const char *json;
    size_t n_json, size = o->size;
    memset(o, 0, sizeof *o);
    o->size = size;
    o->kind = kinds[s->kind];
    snprintf(o->format, sizeof o->format, "%s", vnp_checkpoint_format(c));
    snprintf(o->name, sizeof o->name, "%s", s->name);
    snprintf(o->dtype, sizeof o->dtype, "%s", vnp_dtype_name(s->dtype));
    o->n_layers = s->n_layers;
    o->n_hidden = s->kind == VNP_MODEL_CLASSIFIER ? s->n_classifier_hidden : s->n_hidden;
    o->n_heads = s->n_heads;
    o->n_ffn = s->n_ffn;
    o->n_vocab = s->n_vocab;
    o->n_dna = s->n_dna;
    o->n_protein = s->n_protein;
    o->n_in = s->n_dna + s->n_protein;
    o->window_bp = s->window_bp;
    o->n_params = s->n_params;
    o->has_lm_head = s->has_lm_head;
    o->has_tokenizer =
        s->kind == VNP_MODEL_DNABERT && vnp_checkpoint_tokenizer(c, &json, &n_json) == VNP_OK;
    for (int64_t i = 0; i < vnp_checkpoint_count(c); i++)
        o->n_bytes += (int64_t)vnp_checkpoint_at(c, i)->n_bytes;
}

vnp_status vnp_model_info_get(const char *path, vnp_model_info *out, size_t n_max, size_t *n_out,
                              char *note, size_t n_note) {
    unsigned kinds = 0;
    char format[64];
    if (!path || !out || !n_out || n_max < 3 || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "model info: room for three answers is needed");
    *n_out = 0;
    if (note && n_note) note[0] = 0;
    VNP_TRY(vnp_model_probe(path, &kinds, format, sizeof format));
    for (int kind = VNP_MODEL_ESM2; kind <= VNP_MODEL_CLASSIFIER; kind++) {
        struct vnp_checkpoint *c;
        struct vnp_hash128 digest;
        if (!(kinds & (1u << kind))) continue;
        VNP_TRY(vnp_checkpoint_open(path, (enum vnp_model_kind)kind, &c));
        vnp_status s = vnp_checkpoint_digest(c, &digest);
        out[*n_out].size = sizeof *out;
        info_fill(c, &out[*n_out]);
        vnp_hash_hex(digest, out[*n_out].digest);
        if (note && n_note && !note[0]) snprintf(note, n_note, "%s", vnp_checkpoint_note(c));
        vnp_checkpoint_close(c);
        if (s != VNP_OK) return s;
        ++*n_out;
    }
    if (*n_out > 0) return VNP_OK;
    struct vnp_checkpoint *none; /* says why it is no model */
    VNP_TRY(vnp_checkpoint_open(path, VNP_MODEL_NONE, &none));
    vnp_checkpoint_close(none);
    return vnp_fail(VNP_BUG, VNP_FROM_NONE, "a model without a kind");
}

/* ---- convert -------------------------------------------------------------------------------- */

/* "500_model.pth" was trained for windows of 500. */
static int64_t window_of_name(const char *path) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    char *end;
    long n = strtol(base, &end, 10);
    return end != base && strncmp(end, "_model", 6) == 0 && n >= 1 && n <= 60000 ? n : 0;
}

vnp_status vnp_model_convert(const vnp_convert_options *o) {
    struct vnp_api_models m;
    VNP_TRY(vnp_api_check_struct("convert", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!o->out || (!o->models && !o->esm && !o->dnabert && !o->classifier))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "convert: no model or no output named");
    if (!o->is_forced && access(o->out, F_OK) == 0) {
        vnp_status s = vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "exists already");
        vnp_error_at(o->out, -1, -1, NULL);
        vnp_error_hint("--force replaces it");
        return s;
    }
    struct vnp_api_model_paths paths = {.models = o->models,
                                        .esm = o->esm,
                                        .dnabert = o->dnabert,
                                        .classifier = o->classifier,
                                        .window_bp = o->window_bp,
                                        .is_partial = true};
    VNP_TRY(vnp_api_models_open(&paths, &m));
    struct vnp_bundle_parts parts = {.esm2 = m.esm2,
                                     .dnabert = m.dnabert,
                                     .classifier = m.classifier,
                                     .window_bp = o->window_bp,
                                     .note = o->note     ? o->note
                                             : m.note[0] ? m.note
                                                         : NULL};
    if (!parts.window_bp && m.classifier) {
        parts.window_bp = vnp_checkpoint_spec(m.classifier)->window_bp;
        if (!parts.window_bp) parts.window_bp = window_of_name(m.classifier_path);
    }
    struct vnp_bpe *bpe = NULL; /* a bundle must not hide a tokenizer that cannot be used */
    vnp_status s = m.dnabert ? vnp_run_tokenizer_load(m.dnabert, &bpe) : VNP_OK;
    vnp_bpe_destroy(bpe);
    if (s == VNP_OK) s = vnp_bundle_write(o->out, &parts);
    vnp_api_models_close(&m);
    return s;
}

/* ---- verify --------------------------------------------------------------------------------- */

struct verify {
    vnp_report_callback *fn;
    void *ctx;
    vnp_engine *engine;
    int n_wrong, n_compared;
    float *vectors[2]; /* DNA, protein: [vnp_truth_count()][n_hidden], NULL until compared */
};

static void report(struct verify *v, int level, const char *what, const char *fmt, ...)
    VNP_PRINTF(4, 5);
static void report(struct verify *v, int level, const char *what, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (level == 2) v->n_wrong++;
    v->fn(v->ctx, level, what, text);
}

static vnp_status verify_encoder(struct verify *v, bool is_protein) {
    struct vnp_engine *e = v->engine;
    struct vnp_checkpoint *c = is_protein ? e->models.esm2 : e->models.dnabert;
    const char *what = is_protein ? "ESM-2 3B" : "DNABERT-S";
    enum { MAX_FACTS = 64 };
    const char *seqs[MAX_FACTS];
    size_t lens[MAX_FACTS], n = (size_t)VNP_MIN(vnp_truth_count(), (int)MAX_FACTS);
    double error,
        limit = e->devices.precision == VNP_PREC_FP32 || e->devices.precision == VNP_PREC_FP16
                    ? 0.02
                    : 0.1;
    int idx_worst;
    if (!c) {
        report(v, 1, what, "not given, left out");
        return VNP_OK;
    }
    v->n_compared++;
    int64_t n_cols = vnp_checkpoint_spec(c)->n_hidden;
    for (size_t i = 0; i < n; i++) {
        const struct vnp_truth_frame *f = vnp_truth_at((int)i);
        seqs[i] = is_protein ? f->protein : f->nucleotide;
        lens[i] = strlen(seqs[i]);
    }
    float *out = malloc(n * (size_t)n_cols * sizeof *out);
    if (!out) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for %zu vectors", n);
    v->vectors[is_protein] = out;
    struct vnp_api_embedding job = {.encoder = is_protein ? &e->esm2 : &e->dnabert,
                                    .checkpoint = c,
                                    .want = {.layer = -1, .pool = VNP_POOL_MEAN},
                                    .is_raw = true, /* it is the precision that is judged */
                                    .seqs = seqs,
                                    .lens = lens,
                                    .n = n,
                                    .out = out};
    VNP_TRY(vnp_api_embed_seqs(e, &job));
    if (vnp_truth_check(vnp_checkpoint_spec(c)->kind, out, n_cols, &error, &idx_worst) != VNP_OK) {
        report(v, 2, what, "%s has vectors of %lld columns: it is another model",
               vnp_checkpoint_spec(c)->name, (long long)n_cols);
        return VNP_OK;
    }
    report(v, error <= limit ? 0 : 2, what, "centred error of %zu frames at most %.2e (limit %g)",
           n, error, limit);
    return VNP_OK;
}

static vnp_status verify_classifier(struct verify *v) {
    struct vnp_engine *e = v->engine;
    const struct vnp_backend *host = vnp_api_host_backend();
    struct vnp_device_options o = {.precision = VNP_PREC_FP32};
    size_t n = (size_t)vnp_truth_count();
    size_t n_dna = (size_t)vnp_checkpoint_spec(e->models.dnabert)->n_hidden;
    size_t n_protein = (size_t)vnp_checkpoint_spec(e->models.esm2)->n_hidden;
    double worst = 0, limit = e->devices.precision == VNP_PREC_FP32 ? 1e-3 : 5e-2;
    float *z = malloc(n * (n_dna + n_protein) * sizeof *z);
    float *scores = malloc(n * 2 * sizeof *scores);
    vnp_status s = z && scores ? host->device_open(&o, &e->host_device)
                               : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for %zu vectors", n);
    if (s == VNP_OK)
        s = vnp_classifier_create(host, e->host_device, e->models.classifier, &e->classifier);
    for (size_t i = 0; s == VNP_OK && i < n; i++) {
        float *row = z + i * (n_dna + n_protein);
        memcpy(row, v->vectors[0] + i * n_dna, n_dna * sizeof *z);
        memcpy(row + n_dna, v->vectors[1] + i * n_protein, n_protein * sizeof *z);
    }
    if (s == VNP_OK) s = vnp_classifier_run(e->classifier, z, (int64_t)n, scores);
    for (size_t i = 0; s == VNP_OK && i < n; i++) {
        double d = fabs((double)scores[2 * i + 1] - (double)vnp_truth_at((int)i)->score2);
        if (!(d <= worst)) worst = d; /* a NaN is the worst */
    }
    if (s == VNP_OK)
        report(v, worst <= limit ? 0 : 2, "classifier (500)",
               "largest difference of a score: %.2e (limit %g)", worst, limit);
    free(z);
    free(scores);
    return s;
}

static vnp_status verify_all(struct verify *v, const vnp_engine_options *o) {
    vnp_engine_options plain = *o;
    plain.purpose = 0;
    VNP_TRY(vnp_engine_create(&plain, &v->engine));
    struct vnp_api_model_paths paths = {.models = o->models,
                                        .esm = o->esm,
                                        .dnabert = o->dnabert,
                                        .classifier = o->classifier,
                                        .window_bp = 500,
                                        .is_partial = true};
    VNP_TRY(vnp_api_models_open(&paths, &v->engine->models));
    VNP_TRY(verify_encoder(v, false));
    VNP_TRY(verify_encoder(v, true));
    if (v->engine->models.classifier && v->vectors[0] && v->vectors[1] && v->n_wrong == 0)
        VNP_TRY(verify_classifier(v));
    else
        report(v, 1, "classifier (500)", "left out: needs itself and both published encoders");
    if (v->n_wrong == 0 && v->n_compared > 0) return VNP_OK;
    vnp_status s = vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                            "this is not an installation of the published weights");
    vnp_error_hint("the lines above say what differs; other models never verify");
    return s;
}

vnp_status vnp_model_verify(const vnp_engine_options *o, vnp_report_callback *fn, void *ctx) {
    VNP_TRY(vnp_api_check_struct("verify", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!fn) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "verify: nobody to report to");
    struct verify v = {.fn = fn, .ctx = ctx};
    vnp_status s = verify_all(&v, o);
    vnp_engine_destroy(v.engine);
    free(v.vectors[0]);
    free(v.vectors[1]);
    return s;
}
