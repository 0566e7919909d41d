// SPDX-License-Identifier: MIT
// Benches by name; each room measures its own part.
#include "api_internal.h"

#include <string.h>

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

vnp_status vnp_bench(const vnp_bench_options *o, vnp_bench_callback *fn, void *ctx) {
    struct relay relay = {fn, ctx};
    VNP_TRY(vnp_api_check_struct("bench", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!o->what || !fn) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "bench: say what to measure");
    if (strcmp(o->what, "host") == 0) return bench_host(o, &relay);
    struct vnp_run_bench_options run = {.n_sequences = o->n_sequences};
    if (strcmp(o->what, "pack") == 0) return vnp_run_bench_pack(&run, relay_row, &relay);
    vnp_status status = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "there is no bench '%s'", o->what);
    vnp_error_hint("host and pack are there");
    return status;
}
