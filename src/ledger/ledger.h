/* SPDX-License-Identifier: MIT
 * ledger: the run database. One SQLite file, one writer; it alone says what a run has finished.
 * The room's one door.
 *
 * Invariants
 *  1. One connection writes, under locking_mode=EXCLUSIVE, from open to close; a second run on the
 *     same file is refused.
 *  2. A block (a group of consecutive windows, cut the same way whoever computes it) is in the
 *     file whole or not at all: its row in `blocks`, its records, frames and incidents and the
 *     length of the data file change in one transaction.
 *  3. Vectors are appended to the data file and fdatasync'ed before the transaction that names
 *     them commits. Bytes behind the recorded length belong to nobody and are cut off at open.
 *  4. Facts (model digests, precision, window, shard, ...) are written in the transaction that
 *     creates the schema and never change. Other facts are another run: MISMATCH.
 *  5. A block's content hash is compared when a resumed run meets it again; another input under
 *     the same options is found at its first differing block.
 *  6. States only go forward: running -> computed (every block is in, the input's identity is
 *     known) -> complete (every export has its final name).
 *  7. Exports are functions of this file (and of the input's text for virus.fna) alone, read in
 *     key order; so they do not depend on the order in which blocks were finished.
 *  8. A record's row is written by the block that holds its first window; a block that ends inside
 *     a record says nothing about the record's end.
 *
 * Threads: every call takes the ledger's lock; reads for export belong to one thread. */
#ifndef VNP_LEDGER_H
#define VNP_LEDGER_H

#include "base/base.h"

struct vnp_ledger;

#define VNP_LEDGER_VERSION 1

enum vnp_ledger_state { VNP_LEDGER_RUNNING = 0, VNP_LEDGER_COMPUTED, VNP_LEDGER_COMPLETE };

/* Something that two runs must share to be the same run. */
struct vnp_ledger_fact {
    const char *key;
    char value[160];
};

struct vnp_ledger_options {
    const char *path;      /* the database */
    const char *data_path; /* vectors, or NULL */
    int64_t n_cols;        /* of a vector */
    const struct vnp_ledger_fact *facts;
    size_t n_facts;
    bool is_forced;    /* start over, whatever is there and not in use */
    bool is_read_only; /* facts are not compared, nothing is written */
};

/* Opens or creates. MISMATCH (origin OUTPUT) when it belongs to another run, program or newer
 * version or is in use; FORMAT when damaged. */
vnp_status vnp_ledger_open(const struct vnp_ledger_options *opt,
                           struct vnp_ledger **out) VNP_WARN_UNUSED;
/* What was not committed is lost. NULL is legal. */
void vnp_ledger_close(struct vnp_ledger *l);
bool vnp_ledger_is_resumed(const struct vnp_ledger *l); /* had blocks or a state at open */
enum vnp_ledger_state vnp_ledger_state_get(const struct vnp_ledger *l);
/* A fact or other text of the file; NOT_FOUND. */
vnp_status vnp_ledger_meta_get(struct vnp_ledger *l, const char *key, char *value, size_t n);
vnp_status vnp_ledger_meta_set(struct vnp_ledger *l, const char *key,
                               const char *value) VNP_WARN_UNUSED;

/* ---- writing -------------------------------------------------------------------------------- */

struct vnp_ledger_record {
    int64_t idx; /* in the whole input */
    const char *id;
    int64_t length, n_windows;
    int64_t n_rows;     /* embed: vector rows of the record */
    const char *reason; /* NULL, or why it failed or was skipped */
};
struct vnp_ledger_frame {
    int64_t record, window; /* window from 0 */
    int frame;              /* 0..5 */
    float score1, score2;
    const char *reason; /* NULL when scored */
};
struct vnp_ledger_counts {
    int64_t n_blocks, n_records, n_windows, n_frames, n_failed_frames, n_duplicates;
    int64_t n_tokens_dna, n_tokens_protein, n_unknown_residues, n_rows;
};
struct vnp_ledger_block {
    int64_t idx;
    struct vnp_hash128 content;
    struct vnp_ledger_counts counts; /* of this block; n_blocks unused, n_rows set by the ledger */
    const struct vnp_ledger_record *records;
    int64_t n_records;
    const struct vnp_ledger_frame *frames;
    int64_t n_frames;
    const float *rows; /* [n_rows][n_cols], or NULL */
    int64_t n_rows;
};
/* True when block idx is in the file; *content is then its hash. */
vnp_status vnp_ledger_block_find(struct vnp_ledger *l, int64_t idx, bool *is_there,
                                 struct vnp_hash128 *content) VNP_WARN_UNUSED;
/* Adds a block to the open group. */
vnp_status vnp_ledger_block_put(struct vnp_ledger *l,
                                const struct vnp_ledger_block *b) VNP_WARN_UNUSED;
/* A record's text for inputs that cannot be read twice; part of the open group. */
vnp_status vnp_ledger_spool_put(struct vnp_ledger *l, int64_t record, const char *header,
                                const char *seq, size_t len) VNP_WARN_UNUSED;
vnp_status vnp_ledger_incident_put(struct vnp_ledger *l, const char *device, const char *kind,
                                   const char *text) VNP_WARN_UNUSED;
/* What one process did for the run; kept up to date with every commit, summed for the summary. */
struct vnp_ledger_session {
    double elapsed_s;
    int64_t n_packs, n_pack_tokens, n_pack_capacity, n_incidents;
};
vnp_status vnp_ledger_session_set(struct vnp_ledger *l,
                                  const struct vnp_ledger_session *s) VNP_WARN_UNUSED;
vnp_status vnp_ledger_session_sum(struct vnp_ledger *l, struct vnp_ledger_session *sum,
                                  int64_t *n_sessions) VNP_WARN_UNUSED;
/* Takes over every row of another, finished ledger but its vectors (merge of shards); commits. */
vnp_status vnp_ledger_absorb(struct vnp_ledger *l, const char *path) VNP_WARN_UNUSED;
/* Makes the open group durable. */
vnp_status vnp_ledger_commit(struct vnp_ledger *l) VNP_WARN_UNUSED;
/* Moves the state and commits. */
vnp_status vnp_ledger_state_set(struct vnp_ledger *l, enum vnp_ledger_state state) VNP_WARN_UNUSED;

/* ---- reading -------------------------------------------------------------------------------- */

vnp_status vnp_ledger_count(struct vnp_ledger *l, struct vnp_ledger_counts *out) VNP_WARN_UNUSED;

/* Records in input order and their frames in order behind them. Strings live until the next call
 * on the same cursor. */
struct vnp_ledger_cursor;
vnp_status vnp_ledger_cursor_open(struct vnp_ledger *l,
                                  struct vnp_ledger_cursor **out) VNP_WARN_UNUSED;
void vnp_ledger_cursor_close(struct vnp_ledger_cursor *c);
vnp_status vnp_ledger_cursor_record(struct vnp_ledger_cursor *c, struct vnp_ledger_record *out,
                                    bool *has) VNP_WARN_UNUSED;
/* The next frame of the record last given. */
vnp_status vnp_ledger_cursor_frame(struct vnp_ledger_cursor *c, struct vnp_ledger_frame *out,
                                   bool *has) VNP_WARN_UNUSED;

/* Window ids with an open frame in byte order, each with upstream's verdict. */
typedef vnp_status vnp_ledger_window_fn(void *ctx, const char *window_id, bool is_virus);
vnp_status vnp_ledger_windows_walk(struct vnp_ledger *l, vnp_ledger_window_fn *fn,
                                   void *ctx) VNP_WARN_UNUSED;
/* Vectors in input order, a batch at a time. */
typedef vnp_status vnp_ledger_rows_fn(void *ctx, const float *rows, int64_t n_rows);
vnp_status vnp_ledger_rows_walk(struct vnp_ledger *l, vnp_ledger_rows_fn *fn,
                                void *ctx) VNP_WARN_UNUSED;
/* Where the vectors lie in the data file, block by block in input order. */
typedef vnp_status vnp_ledger_extent_fn(void *ctx, int64_t off_row, int64_t n_rows);
vnp_status vnp_ledger_extents_walk(struct vnp_ledger *l, vnp_ledger_extent_fn *fn,
                                   void *ctx) VNP_WARN_UNUSED;
/* Spooled records in input order; header and seq live for the call. */
typedef vnp_status vnp_ledger_spool_fn(void *ctx, int64_t record, const char *header,
                                       const char *seq, size_t len);
vnp_status vnp_ledger_spool_walk(struct vnp_ledger *l, vnp_ledger_spool_fn *fn,
                                 void *ctx) VNP_WARN_UNUSED;
typedef vnp_status vnp_ledger_incident_fn(void *ctx, const char *time, const char *device,
                                          const char *kind, const char *text);
vnp_status vnp_ledger_incidents_walk(struct vnp_ledger *l, vnp_ledger_incident_fn *fn,
                                     void *ctx) VNP_WARN_UNUSED;
/* Removes the data file (after its export has its final name). */
vnp_status vnp_ledger_data_remove(struct vnp_ledger *l) VNP_WARN_UNUSED;

/* ---- cache of vectors, shared by runs and processes (cache.c) ---------------------------------
 * Never fatal: what is wrong with the file is logged once, and from there on there are no hits. Any
 * thread. */

struct vnp_cache;
struct vnp_cache_key {
    int64_t space; /* of vnp_cache_space; below 0 = none */
    const uint16_t *tokens;
    int64_t n_tokens, n_cols;
};
struct vnp_cache_stats {
    int64_t n_hits, n_misses, n_kept, n_evicted;
    char off_reason[256]; /* "" while it is used */
};
/* NOMEM only. The file's size stays below max_bytes but for one group of puts. */
vnp_status vnp_cache_open(const char *path, int64_t max_bytes,
                          struct vnp_cache **out) VNP_WARN_UNUSED;
void vnp_cache_close(struct vnp_cache *c); /* NULL is legal; what was not committed is lost */
/* Vectors under one key (model, precision, device, ...) have nothing to do with those of others. */
int64_t vnp_cache_space(struct vnp_cache *c, const char *key);
bool vnp_cache_find(struct vnp_cache *c, const struct vnp_cache_key *key, float *out);
void vnp_cache_put(struct vnp_cache *c, const struct vnp_cache_key *key, const float *vector);
void vnp_cache_commit(struct vnp_cache *c);
void vnp_cache_stats_get(struct vnp_cache *c, struct vnp_cache_stats *out);

#endif
