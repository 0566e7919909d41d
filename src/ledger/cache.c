// SPDX-License-Identifier: MIT
// Vectors kept between runs: an SQLite file of its own, shared by any number of processes. It is
// worth nothing but time, so nothing about it is ever fatal: what is damaged, foreign, full or
// locked for long is said once and left out from there on. Hits are compared token by token, and a
// checksum guards what lies on the disk.
#include "ledger/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CACHE_ID = 0x764e5063, /* "vNPc" */
    CACHE_VERSION = 1,
    BUSY_MS = 1000,
    MAX_BUSY = 3, /* times that another process held it too long */
    EVICT_ROWS = 256
};

struct vnp_cache {
    pthread_mutex_t lock; /* guards everything */
    sqlite3 *db;
    sqlite3_stmt *find, *put;
    int64_t max_bytes;
    int64_t n_group; /* puts of the open group */
    int n_busy;
    bool is_off, is_read_only, has_open_group;
    struct vnp_cache_stats stats;
};

static const char *const cache_schema =
    "CREATE TABLE spaces(id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL);"
    "CREATE TABLE vectors(id INTEGER PRIMARY KEY, space INTEGER, hash INTEGER, sum INTEGER,"
    " tokens BLOB, vector BLOB);"
    "CREATE INDEX vectors_by_hash ON vectors(space, hash);";

static void turn_off(struct vnp_cache *c, const char *reason) {
    if (c->is_off) return;
    c->is_off = true;
    snprintf(c->stats.off_reason, sizeof c->stats.off_reason, "%s", reason);
    vnp_log(VNP_LOG_WARN, "run", "the cache is left out from here on: %s", reason);
}

/* A failure, or too many times another process in the way. */
static void note_failure(struct vnp_cache *c, int rc) {
    int base = rc & 0xff;
    bool is_busy = base == SQLITE_BUSY || base == SQLITE_LOCKED;
    if (is_busy && ++c->n_busy < MAX_BUSY) return;
    turn_off(c, is_busy                 ? "another process keeps it locked"
                : base == SQLITE_NOTADB ? "the file is not a cache"
                : c->db                 ? sqlite3_errmsg(c->db)
                                        : sqlite3_errstr(rc));
}

static int exec(struct vnp_cache *c, const char *sql) {
    return sqlite3_exec(c->db, sql, NULL, NULL, NULL);
}

static int get_i64(struct vnp_cache *c, const char *sql, int64_t *out) {
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    if (rc != SQLITE_OK) return rc;
    rc = sqlite3_step(s);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_finalize(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* An empty file becomes a cache; two processes may try at once. */
static int make_schema(struct vnp_cache *c) {
    char sql[96];
    int64_t id = 0, n_tables = 0;
    int rc = exec(c, "BEGIN IMMEDIATE");
    if (rc != SQLITE_OK) return rc;
    rc = get_i64(c, "PRAGMA application_id", &id);
    if (rc == SQLITE_OK) rc = get_i64(c, "SELECT count(*) FROM sqlite_master", &n_tables);
    if (rc == SQLITE_OK && id == 0 && n_tables == 0) {
        snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d", CACHE_ID,
                 CACHE_VERSION);
        rc = exec(c, cache_schema);
        if (rc == SQLITE_OK) rc = exec(c, sql);
    }
    if (rc == SQLITE_OK) rc = exec(c, "COMMIT");
    if (rc != SQLITE_OK) exec(c, "ROLLBACK");
    return rc;
}

static int open_db(struct vnp_cache *c, const char *path) {
    int64_t id = 0, version = 0;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
    int rc = sqlite3_open_v2(path, &c->db, flags, vnp_store_vfs_name());
    if (rc != SQLITE_OK) return rc;
    sqlite3_busy_timeout(c->db, BUSY_MS);
    rc = exec(c, "PRAGMA page_size=16384; PRAGMA auto_vacuum=INCREMENTAL;"
                 "PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=NORMAL;"
                 "PRAGMA cache_size=-32000");
    if (rc == SQLITE_OK) rc = get_i64(c, "PRAGMA application_id", &id);
    c->is_read_only = sqlite3_db_readonly(c->db, "main") == 1;
    if (rc == SQLITE_OK && id == 0 && !c->is_read_only) rc = make_schema(c);
    if (rc == SQLITE_OK) rc = get_i64(c, "PRAGMA application_id", &id);
    if (rc == SQLITE_OK) rc = get_i64(c, "PRAGMA user_version", &version);
    if (rc != SQLITE_OK) return rc;
    if (id != CACHE_ID || version != CACHE_VERSION) {
        turn_off(c, id != CACHE_ID ? "the file is not a cache" : "it is of another version");
        return SQLITE_OK;
    }
    rc = sqlite3_prepare_v2(c->db,
                            "SELECT tokens, vector, sum FROM vectors WHERE space=?1 AND hash=?2",
                            -1, &c->find, NULL);
    if (rc != SQLITE_OK || c->is_read_only) return rc;
    return sqlite3_prepare_v2(c->db,
                              "INSERT INTO vectors(space, hash, sum, tokens, vector)"
                              " SELECT ?1,?2,?3,?4,?5 WHERE NOT EXISTS (SELECT 1 FROM vectors"
                              " WHERE space=?1 AND hash=?2 AND tokens=?4)",
                              -1, &c->put, NULL);
}

vnp_status vnp_cache_open(const char *path, int64_t max_bytes, struct vnp_cache **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cache");
    struct vnp_cache *c = *out;
    pthread_mutex_init(&c->lock, NULL);
    c->max_bytes = max_bytes;
    c->n_busy = MAX_BUSY - 1; /* whoever holds it now holds it for long */
    int rc = open_db(c, path);
    if (rc != SQLITE_OK) note_failure(c, rc);
    c->n_busy = 0;
    return VNP_OK;
}

void vnp_cache_close(struct vnp_cache *c) {
    if (!c) return;
    sqlite3_finalize(c->find);
    sqlite3_finalize(c->put);
    if (c->has_open_group) exec(c, "ROLLBACK");
    sqlite3_close_v2(c->db);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int find_space(struct vnp_cache *c, const char *key, int64_t *out) {
    sqlite3_stmt *s;
    int rc = SQLITE_OK;
    for (int i = 0; i < 2 && rc == SQLITE_OK; i++) {
        if (i == 0 && c->is_read_only) continue;
        rc = sqlite3_prepare_v2(c->db,
                                i == 0 ? "INSERT OR IGNORE INTO spaces(key) VALUES(?)"
                                       : "SELECT id FROM spaces WHERE key=?",
                                -1, &s, NULL);
        if (rc != SQLITE_OK) break;
        sqlite3_bind_text(s, 1, key, -1, SQLITE_STATIC);
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW) *out = sqlite3_column_int64(s, 0);
        rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
        sqlite3_finalize(s);
    }
    return rc;
}

int64_t vnp_cache_space(struct vnp_cache *c, const char *key) {
    int64_t id = -1;
    pthread_mutex_lock(&c->lock);
    int rc = c->is_off ? SQLITE_OK : find_space(c, key, &id);
    if (rc != SQLITE_OK) {
        c->n_busy = MAX_BUSY - 1;
        note_failure(c, rc);
    }
    pthread_mutex_unlock(&c->lock);
    return id;
}

static int64_t hash_of(const void *data, size_t n) {
    return (int64_t)vnp_hash(data, n).lo;
}

/* The row that the statement stands on, if it is the wanted sequence. */
static bool take_row(struct vnp_cache *c, const struct vnp_cache_key *key, float *out) {
    size_t n_tokens = (size_t)key->n_tokens * sizeof *key->tokens;
    size_t n_vector = (size_t)key->n_cols * sizeof(float);
    if ((size_t)sqlite3_column_bytes(c->find, 0) != n_tokens ||
        memcmp(sqlite3_column_blob(c->find, 0), key->tokens, n_tokens) != 0)
        return false;
    const void *vector = sqlite3_column_blob(c->find, 1);
    if ((size_t)sqlite3_column_bytes(c->find, 1) != n_vector ||
        hash_of(vector, n_vector) != sqlite3_column_int64(c->find, 2)) {
        turn_off(c, "a vector in it is damaged");
        return false;
    }
    memcpy(out, vector, n_vector);
    return true;
}

bool vnp_cache_find(struct vnp_cache *c, const struct vnp_cache_key *key, float *out) {
    bool is_hit = false;
    int64_t hash = hash_of(key->tokens, (size_t)key->n_tokens * sizeof *key->tokens);
    pthread_mutex_lock(&c->lock);
    if (!c->is_off && key->space >= 0) {
        int rc;
        sqlite3_bind_int64(c->find, 1, key->space);
        sqlite3_bind_int64(c->find, 2, hash);
        while (!is_hit && !c->is_off && (rc = sqlite3_step(c->find)) == SQLITE_ROW)
            is_hit = take_row(c, key, out);
        if (!is_hit && !c->is_off && rc != SQLITE_DONE) note_failure(c, rc);
        sqlite3_reset(c->find);
    }
    c->stats.n_hits += is_hit;
    c->stats.n_misses += !is_hit;
    pthread_mutex_unlock(&c->lock);
    return is_hit;
}

static void give_up_group(struct vnp_cache *c, int rc) {
    note_failure(c, rc);
    if (c->has_open_group) exec(c, "ROLLBACK");
    c->has_open_group = false;
    c->stats.n_kept -= c->n_group;
    c->n_group = 0;
}

void vnp_cache_put(struct vnp_cache *c, const struct vnp_cache_key *key, const float *vector) {
    size_t n_tokens = (size_t)key->n_tokens * sizeof *key->tokens;
    size_t n_vector = (size_t)key->n_cols * sizeof(float);
    pthread_mutex_lock(&c->lock);
    if (!c->is_off && !c->is_read_only && key->space >= 0) {
        int rc = c->has_open_group ? SQLITE_OK : exec(c, "BEGIN IMMEDIATE");
        c->has_open_group |= rc == SQLITE_OK;
        if (rc == SQLITE_OK) {
            sqlite3_bind_int64(c->put, 1, key->space);
            sqlite3_bind_int64(c->put, 2, hash_of(key->tokens, n_tokens));
            sqlite3_bind_int64(c->put, 3, hash_of(vector, n_vector));
            sqlite3_bind_blob(c->put, 4, key->tokens, (int)n_tokens, SQLITE_STATIC);
            sqlite3_bind_blob(c->put, 5, vector, (int)n_vector, SQLITE_STATIC);
            rc = sqlite3_step(c->put);
            sqlite3_reset(c->put);
            sqlite3_clear_bindings(c->put);
        }
        if (rc == SQLITE_DONE) {
            int n = sqlite3_changes(c->db);
            c->n_group += n;
            c->stats.n_kept += n;
        } else {
            give_up_group(c, rc);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

/* Oldest first, until what is left fits. */
static int evict(struct vnp_cache *c) {
    char sql[160];
    int64_t n_page = 0, n_pages = 0, n_free = 0;
    snprintf(sql, sizeof sql,
             "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY id LIMIT %d)",
             EVICT_ROWS);
    int rc = get_i64(c, "PRAGMA page_size", &n_page);
    for (int n = 1; rc == SQLITE_OK && n > 0;) {
        rc = get_i64(c, "PRAGMA page_count", &n_pages);
        if (rc == SQLITE_OK) rc = get_i64(c, "PRAGMA freelist_count", &n_free);
        if (rc != SQLITE_OK || (n_pages - n_free) * n_page <= c->max_bytes) break;
        rc = exec(c, sql);
        n = rc == SQLITE_OK ? sqlite3_changes(c->db) : 0;
        c->stats.n_evicted += n;
    }
    if (rc == SQLITE_OK && n_pages * n_page > c->max_bytes)
        rc = exec(c, "PRAGMA incremental_vacuum");
    return rc;
}

void vnp_cache_commit(struct vnp_cache *c) {
    pthread_mutex_lock(&c->lock);
    if (c->has_open_group) {
        int rc = evict(c);
        if (rc == SQLITE_OK) rc = exec(c, "COMMIT");
        if (rc == SQLITE_OK) {
            c->has_open_group = false;
            c->n_group = 0;
        } else {
            give_up_group(c, rc);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

void vnp_cache_stats_get(struct vnp_cache *c, struct vnp_cache_stats *out) {
    pthread_mutex_lock(&c->lock);
    *out = c->stats;
    pthread_mutex_unlock(&c->lock);
}
