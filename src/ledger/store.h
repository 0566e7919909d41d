/* SPDX-License-Identifier: MIT
 * Inside of the ledger room: the handle and what its files share. */
#ifndef VNP_LEDGER_STORE_H
#define VNP_LEDGER_STORE_H

#include "ledger/ledger.h"

#include <pthread.h>
#include <sqlite3.h>

enum stmt_idx {
    STMT_BLOCK_FIND,
    STMT_BLOCK_PUT,
    STMT_RECORD_PUT,
    STMT_FRAME_PUT,
    STMT_SPOOL_PUT,
    STMT_INCIDENT_PUT,
    STMT_SESSION_PUT,
    STMT_META_GET,
    STMT_META_SET,
    STMT_COUNT
};

struct vnp_ledger {
    pthread_mutex_t lock; /* guards everything below and the connection */
    sqlite3 *db;
    sqlite3_stmt *stmt[STMT_COUNT];
    char *path, *data_path;
    int data_fd;
    int64_t n_cols, n_rows; /* rows in the data file, committed or not */
    int64_t session;        /* key of this process's row */
    bool is_resumed, is_read_only, has_open_group;
    enum vnp_ledger_state state;
};

/* Turns the connection's last error into a status with origin OUTPUT that names the file. */
vnp_status vnp_store_fail(struct vnp_ledger *l, int rc, const char *what);
vnp_status vnp_store_exec(struct vnp_ledger *l, const char *sql);
vnp_status vnp_store_prepare(struct vnp_ledger *l, const char *sql, sqlite3_stmt **out);
/* Opens a transaction unless one is open. */
vnp_status vnp_store_begin(struct vnp_ledger *l);
/* Steps a statement that gives no rows, resets it. */
vnp_status vnp_store_step_done(struct vnp_ledger *l, sqlite3_stmt *s, const char *what);

/* vfs.c: SQLite's own files with every change announced to vnp_sysio_before first. */
const char *vnp_store_vfs_name(void);

#endif
