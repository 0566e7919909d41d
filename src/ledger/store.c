// SPDX-License-Identifier: MIT
// Opening, identity and life cycle of the run database (invariants 1, 4, 6 of ledger.h). The
// rollback journal with synchronous=EXTRA is used instead of WAL: WAL needs shared memory, which
// network file systems do not give, and one group of blocks every few seconds costs nothing.
#include "ledger/store.h"
#include "out/out.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { APPLICATION_ID = 0x764e5072 }; /* "vNPr" */

static const char *const schema =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE blocks(idx INTEGER PRIMARY KEY, content BLOB NOT NULL, n_records INTEGER,"
    " n_windows INTEGER, n_frames INTEGER, n_failed INTEGER, n_duplicates INTEGER,"
    " n_tokens_dna INTEGER, n_tokens_protein INTEGER, n_unknown INTEGER,"
    " off_row INTEGER, n_rows INTEGER);"
    "CREATE TABLE records(idx INTEGER PRIMARY KEY, id TEXT, length INTEGER, n_windows INTEGER,"
    " n_rows INTEGER, reason TEXT);"
    "CREATE TABLE frames(record INTEGER, window INTEGER, frame INTEGER, score1 REAL, score2 REAL,"
    " reason TEXT, PRIMARY KEY(record, window, frame)) WITHOUT ROWID;"
    "CREATE TABLE spool(record INTEGER PRIMARY KEY, header TEXT, seq BLOB);"
    "CREATE TABLE incidents(n INTEGER PRIMARY KEY, time TEXT, device TEXT, kind TEXT, text TEXT);"
    "CREATE TABLE sessions(n INTEGER PRIMARY KEY, started TEXT, elapsed_s REAL, n_packs INTEGER,"
    " n_pack_tokens INTEGER, n_pack_capacity INTEGER, n_incidents INTEGER);"
    "CREATE VIEW windows AS SELECT record, window, count(*) AS n_frames, max(score1) AS score1,"
    " max(score2) AS score2, max(score2) >= max(score1) AS is_virus FROM frames"
    " WHERE reason IS NULL GROUP BY record, window;"
    "CREATE VIEW contigs AS SELECT r.idx, r.id, r.length, r.n_windows, count(w.window) AS n_scored,"
    " coalesce(sum(w.is_virus), 0) AS n_virus, avg(w.score2) AS virus_score FROM records r"
    " LEFT JOIN windows w ON w.record = r.idx GROUP BY r.idx;";

static const char *const stmt_sql[STMT_COUNT] = {
    [STMT_BLOCK_FIND] = "SELECT content FROM blocks WHERE idx = ?",
    [STMT_BLOCK_PUT] = "INSERT INTO blocks VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
    [STMT_RECORD_PUT] = "INSERT INTO records VALUES(?,?,?,?,?,?)",
    [STMT_FRAME_PUT] = "INSERT INTO frames VALUES(?,?,?,?,?,?)",
    [STMT_SPOOL_PUT] = "INSERT OR REPLACE INTO spool VALUES(?,?,?)",
    [STMT_INCIDENT_PUT] = "INSERT INTO incidents(time, device, kind, text)"
                          " VALUES(strftime('%Y-%m-%dT%H:%M:%SZ','now'),?,?,?)",
    [STMT_SESSION_PUT] = "INSERT OR REPLACE INTO sessions SELECT ?1, coalesce((SELECT started FROM"
                         " sessions WHERE n = ?1), strftime('%Y-%m-%dT%H:%M:%SZ','now')),?2,?3,?4,"
                         "?5,?6",
    [STMT_META_GET] = "SELECT value FROM meta WHERE key = ?",
    [STMT_META_SET] = "INSERT OR REPLACE INTO meta VALUES(?,?)",
};

vnp_status vnp_store_fail(struct vnp_ledger *l, int rc, const char *what) {
    int base = rc & 0xff;
    const char *text = l->db ? sqlite3_errmsg(l->db) : sqlite3_errstr(rc);
    vnp_status status = VNP_IO;
    if (base == SQLITE_NOMEM) status = VNP_NOMEM;
    if (base == SQLITE_CORRUPT || base == SQLITE_NOTADB) status = VNP_FORMAT;
    if (base == SQLITE_BUSY || base == SQLITE_LOCKED) status = VNP_MISMATCH;
    if (base == SQLITE_MISUSE || base == SQLITE_CONSTRAINT || base == SQLITE_ERROR)
        status = VNP_BUG;
    int os_errno = l->db ? sqlite3_system_errno(l->db) : 0;
    if (base == SQLITE_FULL) os_errno = ENOSPC;
    if (status == VNP_IO && os_errno)
        vnp_fail_errno(status, VNP_FROM_OUTPUT, os_errno, "%s: %s", what, text);
    else
        vnp_fail(status, VNP_FROM_OUTPUT, "%s: %s", what, text);
    vnp_error_at(l->path, -1, -1, NULL);
    if (status == VNP_FORMAT)
        vnp_error_hint("the run database is damaged; --force starts the run over");
    if (status == VNP_MISMATCH) vnp_error_hint("another process is using this run; wait for it");
    if (base == SQLITE_CANTOPEN || base == SQLITE_READONLY)
        vnp_error_hint("the output's folder must exist and be writable");
    if (base == SQLITE_FULL) vnp_error_hint("free some space, then repeat the command");
    return status;
}

vnp_status vnp_store_exec(struct vnp_ledger *l, const char *sql) {
    int rc = sqlite3_exec(l->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? VNP_OK : vnp_store_fail(l, rc, "run database");
}

vnp_status vnp_store_prepare(struct vnp_ledger *l, const char *sql, sqlite3_stmt **out) {
    int rc = sqlite3_prepare_v2(l->db, sql, -1, out, NULL);
    return rc == SQLITE_OK ? VNP_OK : vnp_store_fail(l, rc, "run database");
}

vnp_status vnp_store_begin(struct vnp_ledger *l) {
    if (l->has_open_group) return VNP_OK;
    VNP_TRY(vnp_store_exec(l, "BEGIN IMMEDIATE"));
    l->has_open_group = true;
    return VNP_OK;
}

vnp_status vnp_store_step_done(struct vnp_ledger *l, sqlite3_stmt *s, const char *what) {
    int rc = sqlite3_step(s);
    vnp_status status = rc == SQLITE_DONE ? VNP_OK : vnp_store_fail(l, rc, what);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    return status;
}

static vnp_status pragma_i64(struct vnp_ledger *l, const char *sql, int64_t *out) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l, sql, &s));
    int rc = sqlite3_step(s);
    vnp_status status = VNP_OK;
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    else
        status = vnp_store_fail(l, rc, "run database");
    sqlite3_finalize(s);
    return status;
}

static vnp_status check_sound(struct vnp_ledger *l) {
    sqlite3_stmt *s;
    VNP_TRY(vnp_store_prepare(l, "PRAGMA quick_check(1)", &s));
    int rc = sqlite3_step(s);
    vnp_status status = VNP_OK;
    if (rc != SQLITE_ROW) {
        status = vnp_store_fail(l, rc, "run database");
    } else if (strcmp((const char *)sqlite3_column_text(s, 0), "ok") != 0) {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_OUTPUT, "the run database is damaged: %s",
                          sqlite3_column_text(s, 0));
        vnp_error_at(l->path, -1, -1, NULL);
        vnp_error_hint("--force starts the run over");
    }
    sqlite3_finalize(s);
    return status;
}

/* *is_new tells an empty file. Foreign and newer files are refused. */
static vnp_status check_kind(struct vnp_ledger *l, bool *is_new) {
    int64_t id = 0, version = 0, n_tables = 0;
    VNP_TRY(pragma_i64(l, "PRAGMA application_id", &id));
    VNP_TRY(pragma_i64(l, "PRAGMA user_version", &version));
    VNP_TRY(pragma_i64(l, "SELECT count(*) FROM sqlite_master", &n_tables));
    *is_new = id == 0 && version == 0 && n_tables == 0;
    if (*is_new) return VNP_OK;
    vnp_status status = VNP_OK;
    if (id != APPLICATION_ID)
        status = vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "this database is not virnucpro's");
    else if (version > VNP_LEDGER_VERSION)
        status = vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT,
                          "the run database has version %lld; this program knows up to %d",
                          (long long)version, VNP_LEDGER_VERSION);
    if (status == VNP_OK) return check_sound(l);
    vnp_error_at(l->path, -1, -1, NULL);
    vnp_error_hint("name another output, or use the program that wrote it");
    return status;
}

static vnp_status meta_put(struct vnp_ledger *l, const char *key, const char *value) {
    sqlite3_stmt *s = l->stmt[STMT_META_SET];
    sqlite3_bind_text(s, 1, key, -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(s, 2, value, -1, SQLITE_TRANSIENT);
    return vnp_store_step_done(l, s, "writing the run database");
}

static vnp_status meta_find(struct vnp_ledger *l, const char *key, char *value, size_t n,
                            bool *has) {
    sqlite3_stmt *s = l->stmt[STMT_META_GET];
    sqlite3_bind_text(s, 1, key, -1, SQLITE_TRANSIENT);
    int rc = sqlite3_step(s);
    vnp_status status = VNP_OK;
    *has = rc == SQLITE_ROW;
    if (*has)
        snprintf(value, n, "%s", (const char *)sqlite3_column_text(s, 0));
    else if (rc != SQLITE_DONE)
        status = vnp_store_fail(l, rc, "reading the run database");
    sqlite3_reset(s);
    return status;
}

vnp_status vnp_ledger_meta_get(struct vnp_ledger *l, const char *key, char *value, size_t n) {
    bool has;
    pthread_mutex_lock(&l->lock);
    vnp_status status = meta_find(l, key, value, n, &has);
    pthread_mutex_unlock(&l->lock);
    if (status == VNP_OK && !has)
        return vnp_fail(VNP_NOT_FOUND, VNP_FROM_OUTPUT, "the run database has no '%s'", key);
    return status;
}

vnp_status vnp_ledger_meta_set(struct vnp_ledger *l, const char *key, const char *value) {
    pthread_mutex_lock(&l->lock);
    vnp_status status = vnp_store_begin(l);
    if (status == VNP_OK) status = meta_put(l, key, value);
    pthread_mutex_unlock(&l->lock);
    return status;
}

static vnp_status prepare_all(struct vnp_ledger *l) {
    for (int i = 0; i < STMT_COUNT; i++) VNP_TRY(vnp_store_prepare(l, stmt_sql[i], &l->stmt[i]));
    return VNP_OK;
}

static vnp_status create_schema(struct vnp_ledger *l, const struct vnp_ledger_options *opt) {
    char sql[96];
    VNP_TRY(vnp_store_begin(l));
    VNP_TRY(vnp_store_exec(l, schema));
    snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID,
             VNP_LEDGER_VERSION);
    VNP_TRY(vnp_store_exec(l, sql));
    VNP_TRY(prepare_all(l));
    for (size_t i = 0; i < opt->n_facts; i++)
        VNP_TRY(meta_put(l, opt->facts[i].key, opt->facts[i].value));
    VNP_TRY(meta_put(l, "state", "running"));
    return vnp_ledger_commit(l);
}

static vnp_status compare_facts(struct vnp_ledger *l, const struct vnp_ledger_options *opt) {
    for (size_t i = 0; i < opt->n_facts; i++) {
        char value[sizeof opt->facts[i].value] = "";
        bool has;
        VNP_TRY(meta_find(l, opt->facts[i].key, value, sizeof value, &has));
        if (has && strcmp(value, opt->facts[i].value) == 0) continue;
        vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "this run was made with another %s: '%s', not '%s'",
                 opt->facts[i].key, value, opt->facts[i].value);
        vnp_error_at(l->path, -1, -1, NULL);
        vnp_error_hint("give the same options, another output, or --force to start over");
        return VNP_MISMATCH;
    }
    return VNP_OK;
}

static vnp_status load_state(struct vnp_ledger *l) {
    char text[32] = "running";
    bool has;
    VNP_TRY(meta_find(l, "state", text, sizeof text, &has));
    l->state = strcmp(text, "complete") == 0   ? VNP_LEDGER_COMPLETE
               : strcmp(text, "computed") == 0 ? VNP_LEDGER_COMPUTED
                                               : VNP_LEDGER_RUNNING;
    VNP_TRY(pragma_i64(l, "SELECT coalesce(max(n), 0) + 1 FROM sessions", &l->session));
    VNP_TRY(pragma_i64(l, "SELECT coalesce(max(off_row + n_rows), 0) FROM blocks", &l->n_rows));
    int64_t n_blocks = 0;
    VNP_TRY(pragma_i64(l, "SELECT count(*) FROM blocks", &n_blocks));
    l->is_resumed = n_blocks > 0 || l->state != VNP_LEDGER_RUNNING;
    return VNP_OK;
}

static vnp_status data_fail(struct vnp_ledger *l, int os_errno, const char *what) {
    vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, os_errno, "%s", what);
    vnp_error_at(l->data_path, -1, -1, NULL);
    return VNP_IO;
}

/* Invariant 3: cut off what no block names. */
static vnp_status open_data(struct vnp_ledger *l) {
    if (!l->data_path || l->state == VNP_LEDGER_COMPLETE) return VNP_OK;
    int err = vnp_sysio_before("open", l->data_path, NULL);
    l->data_fd = err ? -1 : open(l->data_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (l->data_fd < 0) return data_fail(l, err ? err : errno, "opening the vectors of the run");
    struct stat st;
    if (fstat(l->data_fd, &st) != 0) return data_fail(l, errno, "opening the vectors of the run");
    off_t want = (off_t)(l->n_rows * l->n_cols * (int64_t)sizeof(float));
    if (st.st_size < want) {
        vnp_fail(VNP_TRUNCATED, VNP_FROM_OUTPUT, "the vectors of the run end at byte %lld of %lld",
                 (long long)st.st_size, (long long)want);
        vnp_error_at(l->data_path, -1, -1, NULL);
        vnp_error_hint("--force starts the run over");
        return VNP_TRUNCATED;
    }
    if (l->is_read_only || st.st_size == want) return VNP_OK;
    err = vnp_sysio_before("ftruncate", l->data_path, NULL);
    if (err || ftruncate(l->data_fd, want) != 0)
        return data_fail(l, err ? err : errno, "cutting the vectors of the run");
    return VNP_OK;
}

static vnp_status open_db(struct vnp_ledger *l, const struct vnp_ledger_options *opt) {
    /* Read-only opens may still have to roll back the journal of a killed writer. */
    int flags = SQLITE_OPEN_READWRITE | (opt->is_read_only ? 0 : SQLITE_OPEN_CREATE);
    int rc =
        sqlite3_open_v2(opt->path, &l->db, flags | SQLITE_OPEN_FULLMUTEX, vnp_store_vfs_name());
    if (rc != SQLITE_OK) return vnp_store_fail(l, rc, "opening the run database");
    sqlite3_extended_result_codes(l->db, 1);
    if (!opt->is_read_only)
        VNP_TRY(vnp_store_exec(l, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=DELETE;"
                                  "PRAGMA synchronous=EXTRA; PRAGMA temp_store=FILE;"
                                  "PRAGMA cache_size=-16000; BEGIN IMMEDIATE; COMMIT"));
    bool is_new;
    VNP_TRY(check_kind(l, &is_new));
    if (is_new && opt->is_read_only)
        return vnp_store_fail(l, SQLITE_NOTADB, "reading the run database");
    if (is_new) {
        VNP_TRY(create_schema(l, opt));
    } else {
        VNP_TRY(prepare_all(l));
        if (!opt->is_read_only) VNP_TRY(compare_facts(l, opt));
    }
    VNP_TRY(load_state(l));
    return open_data(l);
}

static vnp_status remove_old(const struct vnp_ledger_options *opt) {
    char journal[4096];
    snprintf(journal, sizeof journal, "%s-journal", opt->path);
    const char *const paths[] = {journal, opt->path, opt->data_path};
    for (size_t i = 0; i < VNP_COUNT(paths); i++) {
        if (!paths[i]) continue;
        int err = vnp_sysio_before("unlink", paths[i], NULL);
        if (!err && unlink(paths[i]) != 0 && errno != ENOENT) err = errno;
        if (!err) continue;
        vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, err, "removing the old run");
        vnp_error_at(paths[i], -1, -1, NULL);
        return VNP_IO;
    }
    return VNP_OK;
}

static vnp_status open_once(const struct vnp_ledger_options *opt, struct vnp_ledger **out) {
    struct vnp_ledger *l = calloc(1, sizeof *l);
    if (!l) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "run database");
    pthread_mutex_init(&l->lock, NULL);
    l->data_fd = -1;
    l->n_cols = opt->n_cols;
    l->is_read_only = opt->is_read_only;
    l->path = strdup(opt->path);
    l->data_path = opt->data_path ? strdup(opt->data_path) : NULL;
    vnp_status status = VNP_OK;
    if (!l->path || (opt->data_path && !l->data_path))
        status = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "run database");
    if (status == VNP_OK) status = open_db(l, opt);
    if (status != VNP_OK) {
        vnp_ledger_close(l);
        return status;
    }
    *out = l;
    return VNP_OK;
}

vnp_status vnp_ledger_open(const struct vnp_ledger_options *opt, struct vnp_ledger **out) {
    *out = NULL;
    vnp_status status = open_once(opt, out);
    if (!opt->is_forced || opt->is_read_only) return status;
    bool is_in_use = status == VNP_MISMATCH && strstr(vnp_error_last()->hint, "another process");
    if (is_in_use || status == VNP_NOMEM) return status;
    vnp_ledger_close(*out);
    *out = NULL;
    VNP_TRY(remove_old(opt));
    return open_once(opt, out);
}

void vnp_ledger_close(struct vnp_ledger *l) {
    if (!l) return;
    for (int i = 0; i < STMT_COUNT; i++) sqlite3_finalize(l->stmt[i]);
    if (l->db && l->has_open_group) sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close_v2(l->db);
    if (l->data_fd >= 0) close(l->data_fd);
    free(l->path);
    free(l->data_path);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

bool vnp_ledger_is_resumed(const struct vnp_ledger *l) {
    return l->is_resumed;
}

enum vnp_ledger_state vnp_ledger_state_get(const struct vnp_ledger *l) {
    return l->state;
}

vnp_status vnp_ledger_state_set(struct vnp_ledger *l, enum vnp_ledger_state state) {
    static const char *const names[] = {"running", "computed", "complete"};
    VNP_TRY(vnp_ledger_meta_set(l, "state", names[state]));
    VNP_TRY(vnp_ledger_commit(l));
    l->state = state;
    return VNP_OK;
}

vnp_status vnp_ledger_data_remove(struct vnp_ledger *l) {
    if (!l->data_path) return VNP_OK;
    if (l->data_fd >= 0) close(l->data_fd);
    l->data_fd = -1;
    int err = vnp_sysio_before("unlink", l->data_path, NULL);
    if (!err && unlink(l->data_path) != 0 && errno != ENOENT) err = errno;
    return err ? data_fail(l, err, "removing the run's vectors") : VNP_OK;
}
