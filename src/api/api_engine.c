// SPDX-License-Identifier: MIT
// The engine: models opened, devices chosen, precision settled. Encoders are put on a device only
// when a call in memory first needs them: a job does it for itself, once for each device.
#include "api_internal.h"
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static vnp_status check_range(const char *name, int64_t value) {
    int64_t min, max;
    VNP_TRY(vnp_option_bounds(name, &min, &max));
    if (value == 0 || (value >= min && value <= max)) return VNP_OK;
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%s is %lld; it must be between %lld and %lld", name,
                    (long long)value, (long long)min, (long long)max);
}

static vnp_status open_embed_model(struct vnp_engine *e, const char *path) {
    char bundled[VNP_API_PATH];
    if (!path) {
        vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed needs a model");
        if (vnp_api_bundled_path(bundled, sizeof bundled))
            vnp_error_hint("name an ESM-2 or DNABERT-S model with --model PATH");
        return s;
    }
    unsigned kinds = 0;
    char format[64];
    vnp_status probe = vnp_model_probe(path, &kinds, format, sizeof format);
    if (probe != VNP_OK) return probe;
    kinds &= 1u << VNP_MODEL_ESM2 | 1u << VNP_MODEL_DNABERT;
    if (kinds == 0 || (kinds & (kinds - 1)) != 0) {
        vnp_status s = vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                                kinds ? "this holds two encoders" : "this holds no encoder");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("name the file or folder of one ESM-2 or DNABERT-S model");
        return s;
    }
    enum vnp_model_kind kind = kinds == 1u << VNP_MODEL_ESM2 ? VNP_MODEL_ESM2 : VNP_MODEL_DNABERT;
    VNP_TRY(vnp_checkpoint_open(path, kind, &e->embed_model));
    snprintf(e->embed_what, sizeof e->embed_what, "%s: %s", path,
             vnp_checkpoint_spec(e->embed_model)->name);
    return VNP_OK;
}

/* `--precision auto` takes what `model validate` has found for this model on such a device. */
static void use_verdict(struct vnp_engine *e) {
    struct vnp_checkpoint *parts[3] = {e->models.dnabert, e->models.esm2, e->models.classifier};
    if (e->embed_model) {
        bool is_dna = vnp_checkpoint_spec(e->embed_model)->kind == VNP_MODEL_DNABERT;
        parts[is_dna ? 0 : 1] = e->embed_model;
    }
    if (vnp_api_verdict_find(&e->devices, parts, 3, &e->devices.precision, e->devices.why,
                             sizeof e->devices.why))
        vnp_api_devices_tell_why_not(&e->devices);
}

static vnp_status engine_fill(struct vnp_engine *e, const vnp_engine_options *o) {
    VNP_TRY(check_range("n_threads", o->n_threads));
    VNP_TRY(check_range("n_tokens", o->n_tokens));
    VNP_TRY(check_range("window_bp", o->window_bp));
    e->purpose = o->purpose;
    e->n_threads = o->n_threads;
    e->n_tokens = o->n_tokens;
    VNP_TRY(vnp_api_devices_choose(o->device, o->precision, o->n_threads, &e->devices));
    bool is_host = e->devices.list[0].backend->is_host; /* which has nothing to remember */
    if (is_host || !vnp_api_cache_dir(e->cache_dir, sizeof e->cache_dir)) e->cache_dir[0] = 0;
    if (o->purpose & VNP_FOR_PREDICT) {
        struct vnp_api_model_paths paths = {.models = o->models,
                                            .esm = o->esm,
                                            .dnabert = o->dnabert,
                                            .classifier = o->classifier,
                                            .window_bp = o->window_bp};
        VNP_TRY(vnp_api_models_open(&paths, &e->models));
        int64_t trained = vnp_checkpoint_spec(e->models.classifier)->window_bp;
        e->window_bp = o->window_bp > 0 ? o->window_bp : trained > 0 ? trained : 500;
    }
    if (o->purpose == VNP_FOR_TRAIN) {
        struct vnp_api_model_paths paths = {
            .models = o->models, .esm = o->esm, .dnabert = o->dnabert, .is_headless = true};
        VNP_TRY(vnp_api_models_open(&paths, &e->models));
        e->window_bp = o->window_bp > 0 ? o->window_bp : 500;
    }
    if (o->purpose & VNP_FOR_EMBED) VNP_TRY(open_embed_model(e, o->model));
    e->is_auto = !o->precision || strcmp(o->precision, "auto") == 0;
    if (e->is_auto && (e->models.esm2 || e->embed_model)) use_verdict(e);
    return VNP_OK;
}

vnp_status vnp_engine_create(const vnp_engine_options *options, vnp_engine **out) {
    if (!out) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "engine: nowhere to put the result");
    *out = NULL;
    VNP_TRY(vnp_api_check_struct("engine", options, options ? options->size : 0, sizeof *options,
                                 options ? options->version : 0));
    struct vnp_engine *e = calloc(1, sizeof *e);
    if (!e) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an engine");
    pthread_mutex_init(&e->lock, NULL);
    vnp_status s = engine_fill(e, options);
    if (s != VNP_OK) {
        vnp_engine_destroy(e);
        return s;
    }
    *out = e;
    return VNP_OK;
}

void vnp_engine_destroy(vnp_engine *e) {
    if (!e) return;
    vnp_api_encoder_drop(&e->esm2);
    vnp_api_encoder_drop(&e->dnabert);
    vnp_api_encoder_drop(&e->embed);
    vnp_safe_destroy(e->safe);
    vnp_classifier_destroy(e->classifier);
    vnp_bpe_destroy(e->bpe);
    if (e->device) e->devices.list[0].backend->device_close(e->device);
    if (e->host_device) vnp_api_host_backend()->device_close(e->host_device);
    vnp_api_models_close(&e->models);
    vnp_checkpoint_close(e->embed_model);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

vnp_status vnp_engine_info_get(const vnp_engine *e, vnp_engine_info *out) {
    if (!e || !out || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "engine info: no engine, or a struct of unknown "
                        "size");
    *out = (vnp_engine_info){.size = sizeof *out,
                             .device = e->devices.name,
                             .precision = vnp_precision_name(e->devices.precision),
                             .why = e->devices.why,
                             .models = e->models.what[0] ? e->models.what : e->embed_what,
                             .note = e->models.note,
                             .is_bundled = e->models.is_bundled,
                             .window_bp = (int32_t)e->window_bp};
    if (e->models.dnabert) out->n_dna = (int32_t)vnp_checkpoint_spec(e->models.dnabert)->n_hidden;
    if (e->models.esm2) out->n_protein = (int32_t)vnp_checkpoint_spec(e->models.esm2)->n_hidden;
    return VNP_OK;
}

vnp_status vnp_engine_counts_get(const vnp_engine *e, vnp_engine_counts *out) {
    if (!e || !out || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "engine counts: no engine, or a struct of unknown size");
    *out = (vnp_engine_counts){.size = sizeof *out,
                               .n_sequences = atomic_load(&e->n_sequences),
                               .n_tokens = atomic_load(&e->n_tokens_done),
                               .n_reruns = atomic_load(&e->n_reruns),
                               .n_rerun_tokens = atomic_load(&e->n_rerun_tokens)};
    return VNP_OK;
}

void vnp_api_encoder_drop(struct vnp_api_encoder *e) {
    vnp_encoder_session_destroy(e->session);
    vnp_encoder_destroy(e->encoder);
    e->session = NULL;
    e->encoder = NULL;
}

static vnp_status device_ready(struct vnp_engine *e) {
    if (e->device) return VNP_OK;
    struct vnp_device_options o = {.precision = e->devices.precision,
                                   .idx_device = e->devices.list[0].idx_device,
                                   .is_emulation = e->devices.list[0].is_emulation,
                                   .n_threads = e->n_threads,
                                   .cache_dir = e->cache_dir[0] ? e->cache_dir : NULL};
    struct vnp_safe_options safe = {.backend = e->devices.list[0].backend,
                                    .idx_device = o.idx_device,
                                    .n_threads = o.n_threads,
                                    .cache_dir = o.cache_dir,
                                    .precision = o.precision};
    if (!e->safe) VNP_TRY(vnp_safe_create(&safe, &e->safe));
    return e->devices.list[0].backend->device_open(&o, &e->device);
}

vnp_status vnp_api_encoder_ready(struct vnp_engine *engine, struct vnp_api_encoder *e,
                                 const struct vnp_checkpoint *c, int64_t max_len) {
    enum { DEFAULT_BUDGET = 4096 };
    VNP_TRY(device_ready(engine));
    if (!e->encoder)
        VNP_TRY(
            vnp_encoder_create(engine->devices.list[0].backend, engine->device, c, &e->encoder));
    int64_t budget = engine->n_tokens > 0 ? engine->n_tokens : DEFAULT_BUDGET;
    budget = VNP_MAX(budget, max_len);
    if (e->session && e->max_tokens >= budget) return VNP_OK;
    vnp_encoder_session_destroy(e->session);
    e->session = NULL;
    VNP_TRY(vnp_encoder_session_create(e->encoder, budget, budget / 2 + 1, &e->session));
    e->max_tokens = budget;
    e->max_seqs = budget / 2 + 1;
    return VNP_OK;
}

vnp_status vnp_api_bpe_ready(struct vnp_engine *engine, struct vnp_checkpoint *dna) {
    return engine->bpe ? VNP_OK : vnp_run_tokenizer_load(dna, &engine->bpe);
}
