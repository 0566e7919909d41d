// SPDX-License-Identifier: MIT
// Reading for exports, in key order (invariant 7 of ledger.h). SQLite's sorter spills to temporary
// files, so the order by window id costs no memory that grows with the input.
#include "ledger/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vnp_ledger_cursor {
    struct vnp_ledger *l;
    sqlite3_stmt *records, *frames;
    int64_t record;
    bool has_frame, is_given; /* frames stands on a row; it was already handed out */
};

static vnp_status count(struct vnp_ledger *l, struct vnp_ledger_counts *out) {
    sqlite3_stmt *s;
    VNP_TRY(
        vnp_store_prepare(l,
                          "SELECT count(*), total(n_records), total(n_windows), total(n_frames),"
                          " total(n_failed), total(n_duplicates), total(n_tokens_dna),"
                          " total(n_tokens_protein), total(n_unknown), total(n_rows) FROM blocks",
                          &s));
    int rc = sqlite3_step(s);
    int64_t *const to[] = {&out->n_blocks,     &out->n_records,        &out->n_windows,
                           &out->n_frames,     &out->n_failed_frames,  &out->n_duplicates,
                           &out->n_tokens_dna, &out->n_tokens_protein, &out->n_unknown_residues,
                           &out->n_rows};
    for (int i = 0; rc == SQLITE_ROW && i < (int)VNP_COUNT(to); i++)
        *to[i] = sqlite3_column_int64(s, i);
    vnp_status status = rc == SQLITE_ROW ? VNP_OK : vnp_store_fail(l, rc, "counting");
    sqlite3_finalize(s);
    return status;
}

vnp_status vnp_ledger_count(struct vnp_ledger *l, struct vnp_ledger_counts *out) {
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&l->lock);
    vnp_status status = count(l, out);
    pthread_mutex_unlock(&l->lock);
    return status;
}

vnp_status vnp_ledger_session_sum(struct vnp_ledger *l, struct vnp_ledger_session *sum,
                                  int64_t *n_sessions) {
    sqlite3_stmt *s;
    VNP_TRY(
        vnp_store_prepare(l,
                          "SELECT count(*), total(elapsed_s), total(n_packs), total(n_pack_tokens),"
                          " total(n_pack_capacity), total(n_incidents) FROM sessions",
                          &s));
    int rc = sqlite3_step(s);
    vnp_status status = VNP_OK;
    if (rc == SQLITE_ROW) {
        *n_sessions = sqlite3_column_int64(s, 0);
        sum->elapsed_s = sqlite3_column_double(s, 1);
        sum->n_packs = sqlite3_column_int64(s, 2);
        sum->n_pack_tokens = sqlite3_column_int64(s, 3);
        sum->n_pack_capacity = sqlite3_column_int64(s, 4);
        sum->n_incidents = sqlite3_column_int64(s, 5);
    } else {
        status = vnp_store_fail(l, rc, "summing sessions");
    }
    sqlite3_finalize(s);
    return status;
}

vnp_status vnp_ledger_cursor_open(struct vnp_ledger *l, struct vnp_ledger_cursor **out) {
    *out = NULL;
    struct vnp_ledger_cursor *c = calloc(1, sizeof *c);
    if (!c) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "reading the run database");
    c->l = l;
    c->record = -1;
    vnp_status status = vnp_store_prepare(
        l, "SELECT idx, id, length, n_windows, n_rows, reason FROM records ORDER BY idx",
        &c->records);
    if (status == VNP_OK)
        status =
            vnp_store_prepare(l,
                              "SELECT record, window, frame, score1, score2, reason FROM frames"
                              " ORDER BY record, window, frame",
                              &c->frames);
    int rc = status == VNP_OK ? sqlite3_step(c->frames) : SQLITE_DONE;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) status = vnp_store_fail(l, rc, "reading frames");
    c->has_frame = rc == SQLITE_ROW;
    if (status != VNP_OK) {
        vnp_ledger_cursor_close(c);
        return status;
    }
    *out = c;
    return VNP_OK;
}

void vnp_ledger_cursor_close(struct vnp_ledger_cursor *c) {
    if (!c) return;
    sqlite3_finalize(c->records);
    sqlite3_finalize(c->frames);
    free(c);
}

vnp_status vnp_ledger_cursor_record(struct vnp_ledger_cursor *c, struct vnp_ledger_record *out,
                                    bool *has) {
    int rc = sqlite3_step(c->records);
    *has = rc == SQLITE_ROW;
    if (rc == SQLITE_DONE) return VNP_OK;
    if (rc != SQLITE_ROW) return vnp_store_fail(c->l, rc, "reading records");
    const char *id = (const char *)sqlite3_column_text(c->records, 1);
    *out = (struct vnp_ledger_record){.idx = sqlite3_column_int64(c->records, 0),
                                      .id = id ? id : "",
                                      .length = sqlite3_column_int64(c->records, 2),
                                      .n_windows = sqlite3_column_int64(c->records, 3),
                                      .n_rows = sqlite3_column_int64(c->records, 4),
                                      .reason = (const char *)sqlite3_column_text(c->records, 5)};
    c->record = out->idx;
    return VNP_OK;
}

vnp_status vnp_ledger_cursor_frame(struct vnp_ledger_cursor *c, struct vnp_ledger_frame *out,
                                   bool *has) {
    *has = false;
    if (c->has_frame && c->is_given) {
        int rc = sqlite3_step(c->frames);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return vnp_store_fail(c->l, rc, "reading frames");
        c->has_frame = rc == SQLITE_ROW;
        c->is_given = false;
    }
    if (!c->has_frame) return VNP_OK;
    int64_t record = sqlite3_column_int64(c->frames, 0);
    if (record < c->record)
        return vnp_fail(VNP_BUG, VNP_FROM_OUTPUT, "frame of record %lld without its record",
                        (long long)record);
    if (record != c->record) return VNP_OK;
    *out = (struct vnp_ledger_frame){.record = record,
                                     .window = sqlite3_column_int64(c->frames, 1),
                                     .frame = sqlite3_column_int(c->frames, 2),
                                     .score1 = (float)sqlite3_column_double(c->frames, 3),
                                     .score2 = (float)sqlite3_column_double(c->frames, 4),
                                     .reason = (const char *)sqlite3_column_text(c->frames, 5)};
    c->is_given = true;
    *has = true;
    return VNP_OK;
}

vnp_status vnp_ledger_windows_walk(struct vnp_ledger *l, vnp_ledger_window_fn *fn, void *ctx) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l,
                              "SELECT r.id || '_chunk_' || (f.window + 1) AS wid,"
                              " max(f.score2) >= max(f.score1) FROM frames f"
                              " JOIN records r ON r.idx = f.record WHERE f.reason IS NULL"
                              " GROUP BY wid ORDER BY wid",
                              &s));
    int rc;
    vnp_status status = VNP_OK;
    while (status == VNP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        status = fn(ctx, (const char *)sqlite3_column_text(s, 0), sqlite3_column_int(s, 1) != 0);
    if (status == VNP_OK && rc != SQLITE_DONE) status = vnp_store_fail(l, rc, "sorting windows");
    sqlite3_finalize(s);
    return status;
}

static vnp_status rows_read(struct vnp_ledger *l, int64_t off_row, float *rows, int64_t n_rows) {
    char *p = (char *)rows;
    size_t left = (size_t)(n_rows * l->n_cols) * sizeof(float);
    off_t off = (off_t)(off_row * l->n_cols * (int64_t)sizeof(float));
    while (left > 0) {
        ssize_t k = pread(l->data_fd, p, left, off);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, k < 0 ? errno : EIO, "reading vectors");
            vnp_error_at(l->data_path, -1, (int64_t)off, NULL);
            return VNP_IO;
        }
        p += k;
        off += k;
        left -= (size_t)k;
    }
    return VNP_OK;
}

vnp_status vnp_ledger_rows_walk(struct vnp_ledger *l, vnp_ledger_rows_fn *fn, void *ctx) {
    enum { BATCH_BYTES = 4 << 20 };
    int64_t batch = VNP_MAX(1, BATCH_BYTES / (l->n_cols * (int64_t)sizeof(float)));
    float *rows = malloc((size_t)(batch * l->n_cols) * sizeof(float));
    if (!rows) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "reading vectors");
    sqlite3_stmt *s = NULL;
    vnp_status status = vnp_store_prepare(
        l, "SELECT off_row, n_rows FROM blocks WHERE n_rows > 0 ORDER BY idx", &s);
    int rc = SQLITE_DONE;
    while (status == VNP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t off = sqlite3_column_int64(s, 0), left = sqlite3_column_int64(s, 1);
        while (status == VNP_OK && left > 0) {
            int64_t n = VNP_MIN(left, batch);
            status = rows_read(l, off, rows, n);
            if (status == VNP_OK) status = fn(ctx, rows, n);
            off += n;
            left -= n;
        }
    }
    if (status == VNP_OK && rc != SQLITE_DONE) status = vnp_store_fail(l, rc, "reading vectors");
    sqlite3_finalize(s);
    free(rows);
    return status;
}

vnp_status vnp_ledger_extents_walk(struct vnp_ledger *l, vnp_ledger_extent_fn *fn, void *ctx) {
    sqlite3_stmt *s = NULL;
    VNP_TRY(vnp_store_prepare(l, "SELECT off_row, n_rows FROM blocks WHERE n_rows > 0 ORDER BY idx",
                              &s));
    int rc;
    vnp_status status = VNP_OK;
    while (status == VNP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        status = fn(ctx, sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1));
    if (status == VNP_OK && rc != SQLITE_DONE) status = vnp_store_fail(l, rc, "finding vectors");
    sqlite3_finalize(s);
    return status;
}

vnp_status vnp_ledger_spool_walk(struct vnp_ledger *l, vnp_ledger_spool_fn *fn, void *ctx) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l, "SELECT record, header, seq FROM spool ORDER BY record", &s));
    int rc;
    vnp_status status = VNP_OK;
    while (status == VNP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *header = (const char *)sqlite3_column_text(s, 1);
        const char *seq = sqlite3_column_blob(s, 2);
        status = fn(ctx, sqlite3_column_int64(s, 0), header ? header : "", seq ? seq : "",
                    (size_t)sqlite3_column_bytes(s, 2));
    }
    if (status == VNP_OK && rc != SQLITE_DONE)
        status = vnp_store_fail(l, rc, "reading kept records");
    sqlite3_finalize(s);
    return status;
}

vnp_status vnp_ledger_incidents_walk(struct vnp_ledger *l, vnp_ledger_incident_fn *fn, void *ctx) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l, "SELECT time, device, kind, text FROM incidents ORDER BY n", &s));
    int rc;
    vnp_status status = VNP_OK;
    while (status == VNP_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        status = fn(
            ctx, (const char *)sqlite3_column_text(s, 0), (const char *)sqlite3_column_text(s, 1),
            (const char *)sqlite3_column_text(s, 2), (const char *)sqlite3_column_text(s, 3));
    if (status == VNP_OK && rc != SQLITE_DONE) status = vnp_store_fail(l, rc, "reading incidents");
    sqlite3_finalize(s);
    return status;
}
