// SPDX-License-Identifier: MIT
// Writing blocks into the open group and making it durable (invariants 2, 3 and 8 of ledger.h).
#include "ledger/store.h"
#include "out/out.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static vnp_status data_fail(struct vnp_ledger *l, int os_errno, const char *what) {
    vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, os_errno, "%s", what);
    vnp_error_at(l->data_path, -1, -1, NULL);
    vnp_error_hint("free some space or choose another output, then repeat the command");
    return VNP_IO;
}

/* Appends at the recorded end, so that bytes of a failed try are written over. */
static vnp_status data_append(struct vnp_ledger *l, const float *rows, int64_t n_rows) {
    const char *p = (const char *)rows;
    size_t left = (size_t)(n_rows * l->n_cols) * sizeof(float);
    off_t off = (off_t)(l->n_rows * l->n_cols * (int64_t)sizeof(float));
    while (left > 0) {
        size_t n = left;
        int err = vnp_sysio_before("write", l->data_path, &n);
        ssize_t k = err ? -1 : pwrite(l->data_fd, p, n, off);
        if (k < 0 && !err && errno == EINTR) continue;
        if (k <= 0) return data_fail(l, err ? err : k < 0 ? errno : ENOSPC, "writing vectors");
        p += k;
        off += k;
        left -= (size_t)k;
    }
    return VNP_OK;
}

static vnp_status records_put(struct vnp_ledger *l, const struct vnp_ledger_block *b) {
    sqlite3_stmt *s = l->stmt[STMT_RECORD_PUT];
    for (int64_t i = 0; i < b->n_records; i++) {
        const struct vnp_ledger_record *r = &b->records[i];
        sqlite3_bind_int64(s, 1, r->idx);
        sqlite3_bind_text(s, 2, r->id, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 3, r->length);
        sqlite3_bind_int64(s, 4, r->n_windows);
        sqlite3_bind_int64(s, 5, r->n_rows);
        if (r->reason) sqlite3_bind_text(s, 6, r->reason, -1, SQLITE_STATIC);
        VNP_TRY(vnp_store_step_done(l, s, "writing a record"));
    }
    return VNP_OK;
}

static vnp_status frames_put(struct vnp_ledger *l, const struct vnp_ledger_block *b) {
    sqlite3_stmt *s = l->stmt[STMT_FRAME_PUT];
    for (int64_t i = 0; i < b->n_frames; i++) {
        const struct vnp_ledger_frame *f = &b->frames[i];
        sqlite3_bind_int64(s, 1, f->record);
        sqlite3_bind_int64(s, 2, f->window);
        sqlite3_bind_int(s, 3, f->frame);
        if (f->reason) {
            sqlite3_bind_text(s, 6, f->reason, -1, SQLITE_STATIC);
        } else {
            sqlite3_bind_double(s, 4, (double)f->score1);
            sqlite3_bind_double(s, 5, (double)f->score2);
        }
        VNP_TRY(vnp_store_step_done(l, s, "writing a frame"));
    }
    return VNP_OK;
}

static vnp_status block_row_put(struct vnp_ledger *l, const struct vnp_ledger_block *b) {
    sqlite3_stmt *s = l->stmt[STMT_BLOCK_PUT];
    const struct vnp_ledger_counts *c = &b->counts;
    sqlite3_bind_int64(s, 1, b->idx);
    sqlite3_bind_blob(s, 2, &b->content, sizeof b->content, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, b->n_records);
    sqlite3_bind_int64(s, 4, c->n_windows);
    sqlite3_bind_int64(s, 5, c->n_frames);
    sqlite3_bind_int64(s, 6, c->n_failed_frames);
    sqlite3_bind_int64(s, 7, c->n_duplicates);
    sqlite3_bind_int64(s, 8, c->n_tokens_dna);
    sqlite3_bind_int64(s, 9, c->n_tokens_protein);
    sqlite3_bind_int64(s, 10, c->n_unknown_residues);
    sqlite3_bind_int64(s, 11, l->n_rows);
    sqlite3_bind_int64(s, 12, b->rows ? b->n_rows : 0);
    return vnp_store_step_done(l, s, "writing a block");
}

static vnp_status block_put(struct vnp_ledger *l, const struct vnp_ledger_block *b) {
    VNP_TRY(vnp_store_begin(l));
    if (b->rows && l->data_fd >= 0) VNP_TRY(data_append(l, b->rows, b->n_rows));
    VNP_TRY(block_row_put(l, b));
    VNP_TRY(records_put(l, b));
    VNP_TRY(frames_put(l, b));
    if (b->rows) l->n_rows += b->n_rows;
    return VNP_OK;
}

vnp_status vnp_ledger_block_put(struct vnp_ledger *l, const struct vnp_ledger_block *b) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = block_put(l, b);
    pthread_mutex_unlock(&l->lock);
    return status;
}

vnp_status vnp_ledger_block_find(struct vnp_ledger *l, int64_t idx, bool *is_there,
                                 struct vnp_hash128 *content) {
    vnp_status status = VNP_OK;
    pthread_mutex_lock(&l->lock);
    sqlite3_stmt *s = l->stmt[STMT_BLOCK_FIND];
    sqlite3_bind_int64(s, 1, idx);
    int rc = sqlite3_step(s);
    *is_there = rc == SQLITE_ROW;
    if (*is_there && sqlite3_column_bytes(s, 0) == (int)sizeof *content)
        memcpy(content, sqlite3_column_blob(s, 0), sizeof *content);
    else if (*is_there)
        status = vnp_store_fail(l, SQLITE_CORRUPT, "reading a block");
    else if (rc != SQLITE_DONE)
        status = vnp_store_fail(l, rc, "reading a block");
    sqlite3_reset(s);
    pthread_mutex_unlock(&l->lock);
    return status;
}

vnp_status vnp_ledger_spool_put(struct vnp_ledger *l, int64_t record, const char *header,
                                const char *seq, size_t len) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = vnp_store_begin(l);
    if (status == VNP_OK) {
        sqlite3_stmt *s = l->stmt[STMT_SPOOL_PUT];
        sqlite3_bind_int64(s, 1, record);
        sqlite3_bind_text(s, 2, header, -1, SQLITE_STATIC);
        int rc = sqlite3_bind_blob64(s, 3, seq, len, SQLITE_STATIC);
        status = rc == SQLITE_OK ? vnp_store_step_done(l, s, "keeping a record of a stream")
                                 : vnp_store_fail(l, rc, "keeping a record of a stream");
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

vnp_status vnp_ledger_incident_put(struct vnp_ledger *l, const char *device, const char *kind,
                                   const char *text) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = vnp_store_begin(l);
    if (status == VNP_OK) {
        sqlite3_stmt *s = l->stmt[STMT_INCIDENT_PUT];
        sqlite3_bind_text(s, 1, device, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, kind, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 3, text, -1, SQLITE_STATIC);
        status = vnp_store_step_done(l, s, "writing an incident");
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

vnp_status vnp_ledger_session_set(struct vnp_ledger *l, const struct vnp_ledger_session *v) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = vnp_store_begin(l);
    if (status == VNP_OK) {
        sqlite3_stmt *s = l->stmt[STMT_SESSION_PUT];
        sqlite3_bind_int64(s, 1, l->session);
        sqlite3_bind_double(s, 2, v->elapsed_s);
        sqlite3_bind_int64(s, 3, v->n_packs);
        sqlite3_bind_int64(s, 4, v->n_pack_tokens);
        sqlite3_bind_int64(s, 5, v->n_pack_capacity);
        sqlite3_bind_int64(s, 6, v->n_incidents);
        status = vnp_store_step_done(l, s, "writing the session");
    }
    pthread_mutex_unlock(&l->lock);
    return status;
}

static vnp_status commit(struct vnp_ledger *l) {
    if (!l->has_open_group) return VNP_OK;
    if (l->data_fd >= 0) {
        int err = vnp_sysio_before("fsync", l->data_path, NULL);
        if (err || fdatasync(l->data_fd) != 0)
            return data_fail(l, err ? err : errno, "making vectors durable");
    }
    VNP_TRY(vnp_store_exec(l, "COMMIT"));
    l->has_open_group = false;
    return VNP_OK;
}

vnp_status vnp_ledger_commit(struct vnp_ledger *l) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = commit(l);
    pthread_mutex_unlock(&l->lock);
    return status;
}

static vnp_status absorb(struct vnp_ledger *l, const char *path) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l, "ATTACH ? AS shard", &s));
    sqlite3_bind_text(s, 1, path, -1, SQLITE_STATIC);
    vnp_status status = vnp_store_step_done(l, s, "opening a shard");
    sqlite3_finalize(s);
    VNP_TRY(status);
    status = vnp_store_exec(
        l, "BEGIN;"
           "INSERT INTO main.records SELECT * FROM shard.records;"
           "INSERT INTO main.frames SELECT * FROM shard.frames;"
           "INSERT INTO main.incidents(time, device, kind, text)"
           " SELECT time, device, kind, text FROM shard.incidents ORDER BY n;"
           "INSERT INTO main.sessions(started, elapsed_s, n_packs, n_pack_tokens, n_pack_capacity,"
           " n_incidents) SELECT started, elapsed_s, n_packs, n_pack_tokens, n_pack_capacity,"
           " n_incidents FROM shard.sessions ORDER BY n;"
           "INSERT INTO main.blocks(content, n_records, n_windows, n_frames, n_failed,"
           " n_duplicates, n_tokens_dna, n_tokens_protein, n_unknown, off_row, n_rows)"
           " SELECT content, n_records, n_windows, n_frames, n_failed, n_duplicates, n_tokens_dna,"
           " n_tokens_protein, n_unknown, 0, 0 FROM shard.blocks ORDER BY idx;"
           "COMMIT");
    if (status != VNP_OK) sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    if (status == VNP_OK) return vnp_store_exec(l, "DETACH shard");
    sqlite3_exec(l->db, "DETACH shard", NULL, NULL, NULL);
    return status;
}

vnp_status vnp_ledger_absorb(struct vnp_ledger *l, const char *path) {
    VNP_TRY(vnp_ledger_commit(l));
    pthread_mutex_lock(&l->lock);
    vnp_status status = absorb(l, path);
    pthread_mutex_unlock(&l->lock);
    return status;
}
