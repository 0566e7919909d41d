// SPDX-License-Identifier: MIT
// Benches by name; each room measures its own part.
#include "api_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct relay {
    vnp_bench_callback *fn;
    void *ctx;
};

static void relay_row(void *ctx, const struct vnp_run_bench_row *row) {
    enum { MAX_CELLS = 16 };
    const struct relay *r = ctx;
    vnp_bench_cell cells[MAX_CELLS];
    size_t n = VNP_MIN(row->n_cells, (size_t)MAX_CELLS);
    for (size_t i = 0; i < n; i++)
        cells[i] = (vnp_bench_cell){row->cells[i].key, row->cells[i].title, row->cells[i].value};
    vnp_bench_row out = {row->table, row->name, cells, n};
    r->fn(r->ctx, &out);
}

static vnp_status bench_host(const vnp_bench_options *o, struct relay *relay) {
    struct vnp_api_models m;
    struct vnp_api_model_paths paths = {
        .models = o->models, .dnabert = o->dnabert, .is_partial = true};
    if (o->inputs) VNP_TRY(vnp_api_check_paths("bench", o->inputs, o->n_inputs));
    VNP_TRY(vnp_api_models_open(&paths, &m));
    struct vnp_run_bench_options run = {.inputs = o->inputs,
                                        .n_inputs = o->n_inputs,
                                        .dnabert = m.dnabert,
                                        .window_bp = o->window_bp,
                                        .n_bytes = o->n_bytes,
                                        .n_threads = o->n_threads};
    vnp_status status = vnp_run_bench_host(&run, relay_row, relay);
    vnp_api_models_close(&m);
    return status;
}

/* ---- device --------------------------------------------------------------------------------- */

static const struct {
    const char *name, *title;
    enum vnp_model_kind kind;
    int n_layers, n_hidden, n_heads, n_vocab;
} shapes[] = {{"3B", "ESM-2 3B", VNP_MODEL_ESM2, 36, 2560, 40, 33},
              {"650M", "ESM-2 650M", VNP_MODEL_ESM2, 33, 1280, 20, 33},
              {"150M", "ESM-2 150M", VNP_MODEL_ESM2, 30, 640, 20, 33},
              {"35M", "ESM-2 35M", VNP_MODEL_ESM2, 12, 480, 20, 33},
              {"8M", "ESM-2 8M", VNP_MODEL_ESM2, 6, 320, 20, 33},
              {"dnabert", "DNABERT-S", VNP_MODEL_DNABERT, 12, 768, 12, 4096}};

/* A shape by name with random weights, or a model's file. */
static vnp_status bench_model(const char *name, char *title, size_t n_title,
                              struct vnp_checkpoint **out) {
    for (size_t i = 0; i < VNP_COUNT(shapes); i++) {
        if (strcmp(shapes[i].name, name) != 0) continue;
        bool is_esm = shapes[i].kind == VNP_MODEL_ESM2;
        struct vnp_model_spec spec = {.kind = shapes[i].kind,
                                      .n_layers = shapes[i].n_layers,
                                      .n_hidden = shapes[i].n_hidden,
                                      .n_heads = shapes[i].n_heads,
                                      .n_ffn = (int64_t)4 * shapes[i].n_hidden,
                                      .n_vocab = shapes[i].n_vocab,
                                      .has_token_dropout = is_esm,
                                      .norm_eps = is_esm ? 1e-5f : 1e-12f};
        snprintf(title, n_title, "%s (random weights)", shapes[i].title);
        snprintf(spec.name, sizeof spec.name, "%s", shapes[i].title);
        return vnp_checkpoint_random(&spec, 1, out);
    }
    bool is_there = access(name, F_OK) == 0;
    vnp_status s = is_there ? vnp_checkpoint_open(name, VNP_MODEL_NONE, out)
                            : vnp_fail(VNP_NOT_FOUND, VNP_FROM_MODEL, "no such model or file");
    if (!is_there) vnp_error_at(name, -1, -1, NULL);
    if (!is_there || s == VNP_MISMATCH)
        vnp_error_hint("name 3B, 650M, 150M, 35M, 8M, dnabert, or the file of one encoder");
    VNP_TRY(s);
    snprintf(title, n_title, "%.100s", vnp_checkpoint_spec(*out)->name);
    return VNP_OK;
}

vnp_status vnp_api_precisions_parse(const char *text, enum vnp_precision *out, int *n) {
    static const enum vnp_precision all[] = {VNP_PREC_FP16, VNP_PREC_FP8, VNP_PREC_BF16,
                                             VNP_PREC_FP32};
    char part[32];
    *n = 0;
    if (!text || strcmp(text, "auto") == 0) {
        for (size_t i = 0; i < VNP_COUNT(all); i++) out[(*n)++] = all[i];
        return VNP_OK;
    }
    for (const char *p = text;; p += *p == ',') {
        size_t len = strcspn(p, ",");
        snprintf(part, sizeof part, "%.*s", (int)VNP_MIN(len, sizeof part - 1), p);
        if (*n == VNP_PREC_COUNT || vnp_precision_parse(part, &out[*n]) != VNP_OK) {
            vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no precision is called '%s'", part);
            vnp_error_hint("use fp32, bf16, fp16, fp8, int8, several with commas");
            return s;
        }
        bool is_again = false;
        for (int i = 0; i < *n; i++) is_again |= out[i] == out[*n];
        *n += !is_again;
        p += len;
        if (!*p) return VNP_OK;
    }
}

static vnp_status bench_one_model(const vnp_bench_options *o, const struct vnp_api_devices *d,
                                  const char *model, struct relay *relay) {
    char title[128], full[512];
    enum vnp_precision precisions[VNP_PREC_COUNT];
    struct vnp_checkpoint *c = NULL;
    struct vnp_run_bench_device_options run = {.device = d->list[0],
                                               .title = full,
                                               .precisions = precisions,
                                               .n_threads = o->n_threads,
                                               .seconds = o->n_seconds,
                                               .budget_tokens = o->n_tokens};
    VNP_TRY(vnp_api_precisions_parse(o->precision, precisions, &run.n_precisions));
    VNP_TRY(bench_model(model, title, sizeof title, &c));
    snprintf(full, sizeof full, "%s on %s", title, d->name);
    run.model = c;
    vnp_status status = vnp_run_bench_device(&run, relay_row, relay);
    vnp_checkpoint_close(c);
    return status;
}

static vnp_status bench_device(const vnp_bench_options *o, struct relay *relay) {
    struct vnp_api_devices d;
    VNP_TRY(vnp_api_devices_choose(o->device, NULL, o->n_threads, &d));
    bool is_host = d.list[0].backend->is_host;
    if (d.why_not[0])
        vnp_log(VNP_LOG_INFO, "api", "no GPU used: %s; `virnucpro doctor` says what is missing",
                d.why_not);
    VNP_TRY(bench_one_model(o, &d, o->model ? o->model : is_host ? "35M" : "3B", relay));
    return o->model || is_host ? VNP_OK : bench_one_model(o, &d, "dnabert", relay);
}

vnp_status vnp_bench(const vnp_bench_options *o, vnp_bench_callback *fn, void *ctx) {
    struct relay relay = {fn, ctx};
    VNP_TRY(vnp_api_check_struct("bench", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!o->what || !fn) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "bench: say what to measure");
    if (strcmp(o->what, "host") == 0) return bench_host(o, &relay);
    if (strcmp(o->what, "device") == 0) return bench_device(o, &relay);
    struct vnp_run_bench_options run = {.n_sequences = o->n_sequences};
    if (strcmp(o->what, "pack") == 0) return vnp_run_bench_pack(&run, relay_row, &relay);
    vnp_status status = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "there is no bench '%s'", o->what);
    vnp_error_hint("host, pack and device are there");
    return status;
}
