// SPDX-License-Identifier: MIT
// status: what a run has done. The database is locked while a run computes, so that run leaves a
// small file beside it at every commit; when nobody has the database open, it is asked itself.
#include "run/engine.h"
#include "out/out.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Only for watchers: a failure here is no failure of the run. */
void vnp_run_status_write(struct run_engine *e, const struct vnp_ledger_session *s) {
    if (!e->path_status[0]) return;
    struct vnp_outfile *f;
    int64_t n_tokens = atomic_load(&e->n_tokens);
    if (vnp_outfile_open(e->path_status, &f) != VNP_OK) return;
    vnp_status status = vnp_outfile_printf(
        f,
        "{\"records\": %lld, \"windows\": %lld, \"frames\": %lld, \"tokens\": %lld,"
        " \"incidents\": %lld, \"bytes_read\": %lld, \"bytes_total\": %lld, \"elapsed_s\": %.1f}\n",
        (long long)atomic_load(&e->n_records), (long long)atomic_load(&e->n_windows),
        (long long)atomic_load(&e->n_frames), (long long)n_tokens, (long long)s->n_incidents,
        (long long)atomic_load(&e->n_bytes_read), (long long)atomic_load(&e->n_bytes_total),
        s->elapsed_s);
    if (status == VNP_OK)
        status = vnp_outfile_commit(f);
    else
        vnp_outfile_abort(f);
    if (status != VNP_OK) vnp_log(VNP_LOG_DEBUG, "run", "status: %s", vnp_error_last()->text);
}

static int64_t number(const json_t *root, const char *key) {
    return (int64_t)json_integer_value(json_object_get(root, key));
}

static vnp_status from_file(const char *path, struct vnp_run_status_info *out) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    snprintf(out->state, sizeof out->state, "running");
    out->is_active = true;
    if (!root) return VNP_OK; /* it has not committed yet */
    out->n_records = number(root, "records");
    out->n_windows = number(root, "windows");
    out->n_frames = number(root, "frames");
    out->n_tokens = number(root, "tokens");
    out->n_incidents = number(root, "incidents");
    out->n_bytes_read = number(root, "bytes_read");
    out->n_bytes_total = number(root, "bytes_total");
    out->elapsed_s = json_number_value(json_object_get(root, "elapsed_s"));
    json_decref(root);
    if (out->elapsed_s > 0) out->tokens_per_s = (double)out->n_tokens / out->elapsed_s;
    if (out->n_bytes_total > 0 && out->n_bytes_read > 0)
        out->eta_s = out->elapsed_s * ((double)out->n_bytes_total / (double)out->n_bytes_read - 1);
    return VNP_OK;
}

static vnp_status from_ledger(struct vnp_ledger *l, struct vnp_run_status_info *out) {
    static const char *const names[] = {"running", "computed", "complete"};
    struct vnp_ledger_counts n;
    struct vnp_ledger_session sum = {0};
    VNP_TRY(vnp_ledger_count(l, &n));
    VNP_TRY(vnp_ledger_session_sum(l, &sum, &out->n_sessions));
    VNP_TRY(vnp_ledger_meta_get(l, "shard", out->shard, sizeof out->shard));
    snprintf(out->state, sizeof out->state, "%s", names[vnp_ledger_state_get(l)]);
    out->n_records = n.n_records;
    out->n_windows = n.n_windows;
    out->n_frames = n.n_frames;
    out->n_tokens = n.n_tokens_dna + n.n_tokens_protein;
    out->n_failed_frames = n.n_failed_frames;
    out->n_incidents = sum.n_incidents;
    out->elapsed_s = sum.elapsed_s;
    if (sum.elapsed_s > 0) out->tokens_per_s = (double)out->n_tokens / sum.elapsed_s;
    return VNP_OK;
}

vnp_status vnp_run_status(const char *path, struct vnp_run_status_info *out) {
    char db[4096], file[4096];
    struct stat st;
    *out = (struct vnp_run_status_info){.n_bytes_total = -1, .n_bytes_read = -1, .eta_s = -1};
    bool is_folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    snprintf(db, sizeof db, "%s%s", path, is_folder ? "/run.db" : ".run.db");
    snprintf(file, sizeof file, "%s%s", path, is_folder ? "/run.status.json" : ".run.status.json");
    if (stat(db, &st) != 0) {
        vnp_fail(VNP_NOT_FOUND, VNP_FROM_OUTPUT, "no run is here");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("name the output of predict or embed");
        return VNP_NOT_FOUND;
    }
    struct vnp_ledger_options opt = {.path = db, .is_read_only = true};
    struct vnp_ledger *l;
    vnp_status status = vnp_ledger_open(&opt, &l);
    bool is_busy = status == VNP_MISMATCH && strstr(vnp_error_last()->hint, "another process");
    if (is_busy) return from_file(file, out);
    VNP_TRY(status);
    status = from_ledger(l, out);
    vnp_ledger_close(l);
    return status;
}
