// SPDX-License-Identifier: MIT
// summary.json: counts that add up, where the time went, what the devices did, what was used.
#include "run/engine.h"
#include "out/out.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static json_t *counts_json(const struct vnp_run_counts *c) {
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "records",
        (json_int_t)c->n_records, "virus", (json_int_t)c->n_virus, "other", (json_int_t)c->n_other,
        "unscored", (json_int_t)c->n_unscored, "failed", (json_int_t)c->n_failed, "empty",
        (json_int_t)c->n_empty, "windows", (json_int_t)c->n_windows, "windows_scored",
        (json_int_t)c->n_windows_scored, "frames", (json_int_t)c->n_frames, "duplicates",
        (json_int_t)c->n_duplicates, "tokens_dna", (json_int_t)c->n_tokens_dna, "tokens_protein",
        (json_int_t)c->n_tokens_protein, "unknown_residues", (json_int_t)c->n_unknown_residues);
}

static json_t *stages_json(const struct run_engine *e) {
    static const char *const names[N_STAGES] = {"read", "prepare", "pack", "device", "finish"};
    json_t *stages = json_object();
    for (int i = 0; i < N_STAGES; i++)
        json_object_set_new(stages, names[i],
                            json_pack("{s:f,s:f,s:f}", "busy_s", e->stages[i].busy_s,
                                      "waiting_for_input_s", e->stages[i].wait_in_s,
                                      "waiting_for_output_s", e->stages[i].wait_out_s));
    return stages;
}

/* Minimum, mean and maximum while the engine ran; NULL when nothing was sampled. */
static json_t *gpu_json(const struct run_device *d) {
    static const char *const names[VNP_RUN_GPU_N] = {"temperature_c", "power_w", "sm_mhz",
                                                     "utilisation_percent", "memory_gb"};
    const struct vnp_run_gpu_stats *g = &d->gpu;
    char reasons[256];
    if (g->n_samples == 0) return NULL;
    json_t *o = json_object();
    for (int i = 0; i < VNP_RUN_GPU_N; i++)
        if (g->min[i] >= 0)
            json_object_set_new(o, names[i],
                                json_pack("[f,f,f]", g->min[i], g->mean[i], g->max[i]));
    vnp_run_gpu_reasons_text(g->reasons, reasons, sizeof reasons);
    json_object_set_new(o, "clocks_held_by", json_string(reasons));
    json_object_set_new(o, "samples", json_integer((json_int_t)g->n_samples));
    if (g->energy_j > 0) {
        double n = (double)atomic_load(&d->n_tokens);
        json_object_set_new(o, "energy_j", json_real(g->energy_j));
        json_object_set_new(o, "tokens_per_joule", json_real(n / g->energy_j));
    }
    return o;
}

/* Device-seconds without a pack, by what kept it back; of this session. */
static json_t *waits_json(const struct run_engine *e) {
    static const char *const names[RUN_N_CAUSES] = {"reading", "preparing", "packing",
                                                    "blocks_under_way", "the_end"};
    json_t *o = json_object();
    for (int i = 0; i < RUN_N_CAUSES; i++)
        json_object_set_new(o, names[i], json_real(e->dispatch.cause_s[i]));
    return o;
}

/* From the program's start to a moment of vnp_now_s's clock; -1 where the kernel does not say. */
static double since_start(double moment) {
    char text[1024];
    struct timespec now;
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/self/stat", "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) (void)fclose(f);
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name may hold anything; starttime is 20 fields behind it */
    for (int i = 0; p && i < 20; i++) p = strchr(p + 1, ' ');
    if (!p || sscanf(p, " %llu", &ticks) != 1 || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return -1;
    double age = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec -
                 (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return age - (vnp_now_s() - moment);
}

static json_t *devices_json(const struct run_setup *s) {
    json_t *list = json_array();
    for (int i = 0; i < s->e.n_devices; i++) {
        const struct run_device *d = &s->devices[i];
        double busy = d->busy_s;
        json_int_t n = (json_int_t)atomic_load(&d->n_tokens);
        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:I,s:I,s:f,s:f,s:f,s:f,s:I,s:I,s:b,s:I,s:I,s:f,s:f,s:f}", "name",
                      d->name, "worker", d->ops->kind, "packs",
                      (json_int_t)atomic_load(&d->n_packs), "tokens", n, "tokens_per_s",
                      busy > 0 ? (double)n / busy : 0.0, "busy_s", busy, "waiting_s", d->wait_s,
                      "loading_s", d->open_s, "faults", (json_int_t)atomic_load(&d->n_faults),
                      "restarts", (json_int_t)atomic_load(&d->n_restarts), "dropped",
                      (int)d->is_dropped, "rerun_in_fp32", (json_int_t)d->n_reruns, "rerun_tokens",
                      (json_int_t)d->n_rerun_tokens, "first_vectors_s",
                      d->t_first_s > 0 ? since_start(s->e.t_start + d->t_first_s) : -1.0,
                      "device_span_s", d->span_s, "device_busy_s", d->span_busy_s));
        json_t *gpu = gpu_json(d);
        if (gpu) json_object_set_new(json_array_get(list, (size_t)i), "gpu", gpu);
    }
    return list;
}

static json_t *cache_json(const struct run_setup *s) {
    const struct vnp_cache_stats *c = &s->e.cache_stats;
    if (!s->opt->cache_path) return json_null();
    return json_pack("{s:s?,s:I,s:I,s:I,s:I,s:s}", "file", s->opt->cache_path, "hits",
                     (json_int_t)c->n_hits, "misses", (json_int_t)c->n_misses, "kept",
                     (json_int_t)c->n_kept, "evicted", (json_int_t)c->n_evicted, "left_out_because",
                     c->off_reason);
}

static json_t *facts_json(const struct run_setup *s) {
    json_t *o = json_object();
    for (size_t i = 0; i < s->n_facts; i++)
        json_object_set_new(o, s->facts[i].key, json_string(s->facts[i].value));
    return o;
}

static vnp_status incident(void *ctx, const char *time, const char *device, const char *kind,
                           const char *text) {
    enum { MAX_LISTED = 200 };
    if (json_array_size(ctx) >= MAX_LISTED) return VNP_OK;
    json_t *o =
        json_pack("{s:s,s:s,s:s,s:s}", "time", time, "device", device, "kind", kind, "text", text);
    if (o) json_array_append_new(ctx, o);
    return VNP_OK;
}

static json_t *warnings_json(const struct run_setup *s, const struct vnp_run_counts *c) {
    json_t *list = json_array();
    if (s->opt->model_note && s->opt->model_note[0])
        json_array_append_new(list, json_string(s->opt->model_note));
    if (c->n_unknown_residues > 0)
        json_array_append_new(list, json_sprintf("%lld letters outside the alphabets were read as "
                                                 "unknown",
                                                 (long long)c->n_unknown_residues));
    if (s->e.is_other_kind)
        json_array_append_new(list, json_string("the input looks like protein where DNA is wanted, "
                                                "or like DNA where protein is: see run.log"));
    if (c->n_failed > 0)
        json_array_append_new(
            list, json_sprintf("%lld records failed: see contigs.tsv", (long long)c->n_failed));
    return list;
}

static json_t *inputs_json(const struct run_setup *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < s->opt->n_inputs; i++) {
        json_t *name = json_string(s->opt->inputs[i]);
        json_array_append_new(list, name ? name : json_string("(not UTF-8)"));
    }
    return list;
}

static vnp_status packing_json(struct run_setup *s, json_t *root) {
    struct vnp_ledger_session sum = {0};
    int64_t n_sessions = 0;
    VNP_TRY(vnp_ledger_session_sum(s->e.ledger, &sum, &n_sessions));
    double fill =
        sum.n_pack_capacity > 0 ? (double)sum.n_pack_tokens / (double)sum.n_pack_capacity : 0;
    json_object_set_new(root, "packing",
                        json_pack("{s:I,s:I,s:I,s:f}", "packs", (json_int_t)sum.n_packs, "tokens",
                                  (json_int_t)sum.n_pack_tokens, "budget_tokens",
                                  (json_int_t)s->e.budget_tokens, "fill", fill));
    json_object_set_new(root, "sessions", json_integer((json_int_t)n_sessions));
    json_object_set_new(root, "computing_s", json_real(sum.elapsed_s));
    return VNP_OK;
}

static vnp_status build(struct run_setup *s, const struct vnp_run_counts *counts, json_t *root) {
    json_t *incidents = json_array();
    json_object_set_new(root, "program", json_string("virnucpro"));
    json_object_set_new(root, "version", json_string(VNP_VERSION_STRING));
    json_object_set_new(root, "command", json_string(s->opt->command ? s->opt->command : ""));
    json_object_set_new(root, "inputs", inputs_json(s));
    json_object_set_new(root, "precision", json_string(vnp_precision_name(s->opt->precision)));
    json_object_set_new(root, "identity", facts_json(s));
    json_object_set_new(root, "counts", counts_json(counts));
    VNP_TRY(packing_json(s, root));
    json_object_set_new(root, "cache", cache_json(s));
    json_object_set_new(root, "stages", stages_json(&s->e));
    json_object_set_new(root, "devices_waited_for_s", waits_json(&s->e));
    json_object_set_new(root, "devices", devices_json(s));
    json_object_set_new(root, "warnings", warnings_json(s, counts));
    json_object_set_new(root, "incidents", incidents);
    return vnp_ledger_incidents_walk(s->e.ledger, incident, incidents);
}

vnp_status vnp_run_summary_write(struct run_setup *s, const char *path,
                                 const struct vnp_run_counts *counts) {
    json_t *root = json_object();
    if (!root) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "summary");
    vnp_status status = build(s, counts, root);
    char *text = status == VNP_OK ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (status == VNP_OK && !text) status = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "summary");
    struct vnp_outfile *f = NULL;
    if (status == VNP_OK) status = vnp_outfile_open(path, &f);
    if (status == VNP_OK) {
        status = vnp_outfile_write(f, text, strlen(text));
        if (status == VNP_OK) status = vnp_outfile_write(f, "\n", 1);
        if (status == VNP_OK)
            status = vnp_outfile_commit(f);
        else
            vnp_outfile_abort(f);
    }
    free(text);
    return status;
}
