// SPDX-License-Identifier: MIT
// What a run takes from the cache of vectors (--cache) and leaves there. A vector belongs to a
// model, precision, kind of device, program version, layer and pooling, and to the tokens of one
// sequence: the same numbers that computing it again would give.
#include "run/engine.h"

#include <stdio.h>
#include <string.h>

enum { MAX_TOKENS = 4096, DEFAULT_CACHE_MB = 4096 };

static const char *fact_of(const struct run_setup *s, const char *key) {
    for (size_t i = 0; i < s->n_facts; i++)
        if (strcmp(s->facts[i].key, key) == 0) return s->facts[i].value;
    return "";
}

/* The kinds of the devices: others round otherwise. */
static vnp_status device_names(const struct vnp_run_options *opt, char *out, size_t n_out) {
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < opt->n_devices; i++) {
        const struct vnp_backend *b = opt->devices[i].backend;
        struct vnp_device_options dev_opt = {.precision = opt->precision,
                                             .idx_device = opt->devices[i].idx_device,
                                             .n_threads = 1,
                                             .is_emulation = opt->devices[i].is_emulation};
        struct vnp_device_info info = {0};
        struct vnp_device *dev;
        VNP_TRY(b->device_open(&dev_opt, &dev));
        vnp_status status = b->device_info(dev, &info);
        b->device_close(dev);
        VNP_TRY(status);
        if (strstr(out, info.name)) continue;
        n += (size_t)snprintf(out + n, n_out - n, "%s%s", n ? "+" : "", info.name);
        if (n >= n_out) return vnp_fail(VNP_BUG, VNP_FROM_NONE, "too many kinds of devices");
    }
    return VNP_OK;
}

vnp_status vnp_run_cache_open(struct run_setup *s) {
    static const char *const model_keys[N_ENC] = {"DNABERT-S model", "ESM-2 model"};
    const struct vnp_run_options *opt = s->opt;
    struct run_engine *e = &s->e;
    char devices[512], key[1200];
    if (!opt->cache_path) return VNP_OK;
    if (e->is_embed && opt->pool == VNP_POOL_NONE) {
        vnp_log(VNP_LOG_WARN, "run", "the cache keeps pooled vectors only; it is left out");
        return VNP_OK;
    }
    int64_t mb = opt->cache_mb > 0 ? opt->cache_mb : DEFAULT_CACHE_MB;
    VNP_TRY(device_names(opt, devices, sizeof devices));
    VNP_TRY(vnp_cache_open(opt->cache_path, mb * 1000000, &e->cache));
    for (int enc = 0; enc < N_ENC; enc++) {
        if (!e->uses[enc]) continue;
        snprintf(key, sizeof key, "model %s; %s on %s (%s); layer %lld, pooling %d; version %s",
                 fact_of(s, e->is_embed ? "model" : model_keys[enc]), fact_of(s, "precision"),
                 fact_of(s, "backend"), devices, e->is_embed ? (long long)opt->layer : -1LL,
                 e->is_embed ? (int)opt->pool : (int)VNP_POOL_MEAN, VNP_VERSION_STRING);
        e->cache_space[enc] = vnp_cache_space(e->cache, key);
    }
    return VNP_OK;
}

void vnp_run_cache_close(struct run_setup *s) {
    if (!s->e.cache) return;
    vnp_cache_stats_get(s->e.cache, &s->e.cache_stats);
    vnp_cache_close(s->e.cache);
    s->e.cache = NULL;
}

static struct vnp_cache_key key_of(const struct run_engine *e, const struct run_item *it) {
    return (struct vnp_cache_key){.space = e->cache_space[it->enc],
                                  .tokens = it->tokens,
                                  .n_tokens = it->n_tokens,
                                  .n_cols = e->n_cols[it->enc]};
}

bool vnp_run_cache_find(struct run_engine *e, struct run_item *it) {
    it->is_for_cache = false;
    if (!e->cache || it->n_rows != 1 || it->n_tokens > MAX_TOKENS) return false;
    struct vnp_cache_key key = key_of(e, it);
    if (!vnp_cache_find(e->cache, &key, it->out)) {
        it->is_for_cache = true;
        return false;
    }
    return true;
}

void vnp_run_cache_keep(struct run_engine *e, const struct run_block *b) {
    const struct run_item *items = b->items.data;
    const struct run_frame *frames = b->frames.data;
    if (!e->cache) return;
    for (int64_t i = 0; i < b->n_items; i++) {
        if (!items[i].is_for_cache || frames[items[i].frame].has_reason) continue;
        struct vnp_cache_key key = key_of(e, &items[i]);
        vnp_cache_put(e->cache, &key, items[i].out);
    }
    vnp_cache_commit(e->cache);
}
