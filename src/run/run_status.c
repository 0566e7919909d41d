// SPDX-License-Identifier: MIT
// status: what a run has done. The database is locked while a run computes, so that run leaves a
// small file beside it every second; when nobody has the database open, it is asked itself.
#include "run/engine.h"
#include "out/out.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A small file, whole or not at all, but not made durable: whoever watches wants it now, and a
 * failure here is none of the run's. */
static bool replace_file(const char *path, const char *text, size_t n) {
    char temp[4200];
    snprintf(temp, sizeof temp, "%s.tmp", path);
    if (vnp_sysio_before("open", temp, NULL)) return false;
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return false;
    bool is_ok = !vnp_sysio_before("write", temp, NULL) && write(fd, text, n) == (ssize_t)n;
    is_ok &= close(fd) == 0;
    is_ok = is_ok && !vnp_sysio_before("rename", path, NULL) && rename(temp, path) == 0;
    if (!is_ok) unlink(temp);
    return is_ok;
}

void vnp_run_status_write(struct run_engine *e) {
    char text[1024];
    if (!e->path_status[0]) return;
    int n = snprintf(
        text, sizeof text,
        "{\"shard\": \"%d/%d\", \"sessions\": %lld, \"records\": %lld, \"windows\": %lld,"
        " \"frames\": %lld, \"tokens\": %lld, \"tokens_now\": %lld, \"failed_frames\": %lld,"
        " \"incidents\": %lld, \"bytes_done\": %lld, \"bytes_skipped\": %lld,"
        " \"bytes_total\": %lld, \"elapsed_s\": %.1f}\n",
        e->opt->shard_idx, VNP_MAX(1, e->opt->n_shards), (long long)e->n_sessions,
        (long long)atomic_load(&e->n_records), (long long)atomic_load(&e->n_windows),
        (long long)(e->before.n_frames + atomic_load(&e->n_frames)),
        (long long)(e->before.n_tokens_dna + e->before.n_tokens_protein +
                    atomic_load(&e->n_tokens_done)),
        (long long)atomic_load(&e->n_tokens_done),
        (long long)(e->before.n_failed_frames + atomic_load(&e->n_failed_done)),
        (long long)atomic_load(&e->n_incidents), (long long)atomic_load(&e->n_bytes_done),
        (long long)atomic_load(&e->n_bytes_skipped), (long long)atomic_load(&e->n_bytes_total),
        vnp_now_s() - e->t_start);
    if (!replace_file(e->path_status, text, (size_t)n))
        vnp_log(VNP_LOG_DEBUG, "run", "%s cannot be written", e->path_status);
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
    const char *shard = json_string_value(json_object_get(root, "shard"));
    snprintf(out->shard, sizeof out->shard, "%s", shard ? shard : "");
    out->n_sessions = number(root, "sessions");
    out->n_records = number(root, "records");
    out->n_windows = number(root, "windows");
    out->n_frames = number(root, "frames");
    out->n_tokens = number(root, "tokens");
    out->n_failed_frames = number(root, "failed_frames");
    out->n_incidents = number(root, "incidents");
    out->n_bytes_read = number(root, "bytes_done");
    out->n_bytes_total = number(root, "bytes_total");
    out->elapsed_s = json_number_value(json_object_get(root, "elapsed_s"));
    int64_t n_now = out->n_bytes_read - number(root, "bytes_skipped");
    if (out->elapsed_s > 0) out->tokens_per_s = (double)number(root, "tokens_now") / out->elapsed_s;
    if (out->n_bytes_total > 0 && n_now > 0)
        out->eta_s =
            out->elapsed_s * (double)(out->n_bytes_total - out->n_bytes_read) / (double)n_now;
    json_decref(root);
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

/* Folder of predict, or file of embed: its database, and the small file beside it. */
static void find_files(const char *path, char db[4096], char file[4096]) {
    struct stat st;
    bool is_folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    snprintf(db, 4096, "%s%s", path, is_folder ? "/run.db" : ".run.db");
    snprintf(file, 4096, "%s%s", path, is_folder ? "/run.status.json" : ".run.status.json");
}

bool vnp_run_precision_there(const char *path, const char *backend, enum vnp_precision *out) {
    char db[4096], file[4096], name[32], made_by[32];
    struct stat st;
    struct vnp_ledger_options opt = {.path = db, .is_read_only = true};
    struct vnp_ledger *l;
    find_files(path, db, file);
    if (stat(db, &st) != 0 || vnp_ledger_open(&opt, &l) != VNP_OK) return false;
    bool is_there = vnp_ledger_meta_get(l, "precision", name, sizeof name) == VNP_OK &&
                    vnp_ledger_meta_get(l, "backend", made_by, sizeof made_by) == VNP_OK &&
                    strcmp(made_by, backend) == 0 && vnp_precision_parse(name, out) == VNP_OK;
    vnp_ledger_close(l);
    return is_there;
}

vnp_status vnp_run_status(const char *path, struct vnp_run_status_info *out) {
    char db[4096], file[4096];
    struct stat st;
    *out = (struct vnp_run_status_info){.n_bytes_total = -1, .n_bytes_read = -1, .eta_s = -1};
    find_files(path, db, file);
    if (stat(db, &st) != 0) return vnp_run_not_here(path, "name the output of predict or embed");
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
