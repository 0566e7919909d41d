/* SPDX-License-Identifier: MIT
 * Inside of the run room: the engine's parts and what passes between its threads.
 *
 *   feed (1 thread)    records -> blocks of consecutive windows, cut the same way in every run;
 *                      blocks the ledger already has are dropped here
 *   prep (n threads)   a block's open frames and their tokens
 *   packer (1 thread)  blocks in serial order -> dedup -> packs, one packer an encoder
 *   devices            one thread a device; pulls packs from the dispatcher, has its worker (in
 *                      this process or a child, worker.h) encode them, puts vectors straight into
 *                      the block's rows [dna ; protein]
 *   finish (1 thread)  blocks whose vectors are all there -> classifier -> ledger
 *
 * Blocks come from a fixed set and return to it; the reader waits when none is free. There are
 * many, for the packer to choose from and because sparse ones hold little; what bounds memory is
 * the bytes of the rows in flight: preparing waits for room, but never with the block that the
 * packer needs next. Order of finishing is free, the ledger sorts by key. Lock order: dispatcher,
 * then dedup, then a queue; no stage holds one while it computes. */
#ifndef VNP_RUN_ENGINE_H
#define VNP_RUN_ENGINE_H

#include "run/run.h"
#include "ledger/ledger.h"
#include "run/packer.h"
#include "run/worker.h"
#include "seq/seq.h"
#include "tok/tok.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- queue.c: bounded, many to many -----------------------------------------------------------
 */

struct run_queue {
    pthread_mutex_t lock;
    pthread_cond_t can_push, can_pop;
    void **ring;
    size_t cap, head, n;
    bool is_stack;   /* last in, first out: what has been used last is used again */
    bool is_closed;  /* no more pushes; pops drain */
    bool is_aborted; /* pushes and pops fail at once */
};
vnp_status vnp_run_queue_init(struct run_queue *q, size_t cap) VNP_WARN_UNUSED;
void vnp_run_queue_fini(struct run_queue *q);
/* false when aborted or closed. Waiting time is added to *wait_s (may be NULL). */
bool vnp_run_queue_push(struct run_queue *q, void *p, double *wait_s);
enum run_pop { RUN_POP_OK, RUN_POP_TIMEOUT, RUN_POP_END };
/* timeout_s < 0 waits for ever. */
enum run_pop vnp_run_queue_pop(struct run_queue *q, double timeout_s, void **out, double *wait_s);
void vnp_run_queue_close(struct run_queue *q);
void vnp_run_queue_abort(struct run_queue *q);
size_t vnp_run_queue_count(struct run_queue *q);
/* Waits on c until now + timeout_s. The condition must use CLOCK_MONOTONIC (vnp_run_cond_init). */
void vnp_run_cond_init(pthread_cond_t *c);
void vnp_run_cond_wait_s(pthread_cond_t *c, pthread_mutex_t *m, double timeout_s);

/* ---- block.c -----------------------------------------------------------------------------------
 */

struct run_block;

/* One sequence for one encoder. */
struct run_item {
    struct run_block *block;
    const uint16_t *tokens; /* in the block, from off_tokens */
    size_t off_tokens;
    int32_t n_tokens;
    int32_t frame; /* of the block */
    float *out;    /* [n_rows][cols of the encoder], rows of the block */
    int64_t n_rows;
    int32_t dedup; /* entry that waits for this item, or -1 */
    uint8_t enc;
    uint8_t n_faults;             /* workers it has taken along */
    bool is_for_cache;            /* not found there: kept when it is known */
    struct run_item *next_waiter; /* the same sequence, already on its way */
};
struct run_record {
    int64_t idx, length, n_windows;
    size_t off_id; /* in ids */
    int64_t frame; /* embed: its frame, or -1 */
};
struct run_window {
    int64_t record, k; /* record idx, window number */
    size_t off, len;   /* in bases */
};
struct run_frame {
    int64_t record, window;
    int32_t frame;
    int64_t off_row, n_rows; /* of rows */
    float score[2];
    const char *reason; /* failed; owned by the block's reasons */
    bool has_reason;
};
/* Grows, never shrinks, keeps its memory for the next block. */
struct run_buffer {
    void *data;
    size_t n_bytes, cap_bytes;
};
vnp_status vnp_run_buffer_reserve(struct run_buffer *b, size_t n_bytes) VNP_WARN_UNUSED;
vnp_status vnp_run_buffer_append(struct run_buffer *b, const void *data, size_t n) VNP_WARN_UNUSED;
void vnp_run_buffer_fini(struct run_buffer *b);

struct run_block {
    int64_t idx;    /* among all blocks of the input */
    int64_t serial; /* among those that are computed */
    struct vnp_hash128 content;
    struct run_buffer records, windows, frames, items; /* arrays of the structs above */
    struct run_buffer ids, bases, tokens, rows;
    int64_t n_records, n_windows, n_frames, n_items, n_rows;
    int64_t n_bases;
    int64_t n_row_bytes; /* counted in the engine's */
    int64_t n_stored;    /* bytes of the input, as stored, that were read for it */
    int64_t n_tokens[N_ENC], n_unknown, n_duplicates;
    atomic_int_fast64_t
        n_pending;        /* items without a result, plus one while they are being pushed */
    pthread_mutex_t lock; /* guards frames[].reason */
    char *reasons[8];     /* texts of failures in this block */
    int n_reasons;
};
vnp_status vnp_run_block_init(struct run_block *b) VNP_WARN_UNUSED;
void vnp_run_block_fini(struct run_block *b);
void vnp_run_block_clear(struct run_block *b);
/* Half as much again as the largest any block's arrays have held. A block that is opened gets as
 * much at once, so that a steady run allocates nothing; not where that would be more than cap_bytes
 * for all n_blocks. */
enum { RUN_N_BUFFERS = 8 };
void vnp_run_block_learn(const struct run_block *b, size_t high[RUN_N_BUFFERS]);
vnp_status vnp_run_block_prepare(struct run_block *b, const size_t high[RUN_N_BUFFERS],
                                 int n_blocks, int64_t cap_bytes) VNP_WARN_UNUSED;
void vnp_run_block_frame_fail(struct run_block *b, int32_t frame, const char *reason);
/* Hash of ids, lengths and bases: what a resumed run compares. */
struct vnp_hash128 vnp_run_block_content(const struct run_block *b);

/* ---- dedup.c -----------------------------------------------------------------------------------
 */

/* Bounded memory of sequences and their vectors, one an encoder. Entries on their way cannot be
 * evicted; finished ones leave least recently used first. */
struct run_dedup;
vnp_status vnp_run_dedup_create(int64_t n_bytes, int64_t n_cols,
                                struct run_dedup **out) VNP_WARN_UNUSED;
void vnp_run_dedup_destroy(struct run_dedup *d);
enum run_dedup_found {
    RUN_DEDUP_NEW,   /* encode it (it->dedup is set when others may wait for it) */
    RUN_DEDUP_READY, /* it->out is filled */
    RUN_DEDUP_WAITS, /* it will be given back by vnp_run_dedup_done of another item */
};
enum run_dedup_found vnp_run_dedup_find(struct run_dedup *d, struct run_item *it);
/* The item's vector (NULL: it failed). Returns the chain of items that waited for it. */
struct run_item *vnp_run_dedup_done(struct run_dedup *d, struct run_item *it, const float *vec);

/* ---- dispatch.c: packs and the devices that pull them
 * -------------------------------------------- */

struct run_pack {
    struct vnp_pack view; /* into tokens and cu */
    int enc;
    uint16_t *tokens;
    int32_t *cu;
    struct run_item **items; /* [view.n_seqs] */
    int64_t cap_tokens, cap_seqs;
    int n_faults;   /* workers lost or wrong with it; > 0: a suspect, computed alone */
    int idx_blamed; /* device of the last fault; others are asked first. -1 = none */
    int idx_owner;  /* device that has taken it; -1 = none. The dispatcher's, under its lock */
    bool is_last;   /* of its encoder: only the end of the input may leave it unfilled */
    bool is_extra;  /* made for a halved pack or a long sequence; freed after use */
    struct run_pack *next;
};

struct run_device {
    const struct run_worker_ops *ops;
    void *ctx;
    char name[64];
    int idx; /* among the engine's devices */
    /* written by the device's thread, read by others as counters */
    atomic_int_fast64_t n_packs, n_tokens, n_faults, n_restarts;
    /* the thread's own; read by others after it has ended */
    double busy_s, wait_s, open_s;
    int64_t n_reruns, n_rerun_tokens; /* sequences computed again in FP32 */
    double span_s, span_busy_s;       /* first pack's begin to last one's end; of it, working */
    double span_end_s;                /* of the worker that is open, on its device's clock */
    double t_first_s;                 /* first vectors, since e->t_start */
    struct vnp_run_gpu_stats gpu;
    bool is_dropped;
    int64_t budget_tokens; /* of a pack; falls when memory runs out, recovers slowly */
    pthread_t thread;
    struct run_engine *engine;
};

/* What keeps an idle device from its next pack. */
enum run_cause {
    RUN_FOR_READING,
    RUN_FOR_PREPARING,
    RUN_FOR_PACKING,
    RUN_FOR_BLOCKS, /* every block is on its way: to a device, to the ledger */
    RUN_FOR_END,    /* no more packs will come */
    RUN_N_CAUSES
};

/* What the dispatcher knows of a device. */
struct run_share {
    bool is_ready;             /* open, and not being opened anew */
    double s_per_token[N_ENC]; /* measured; 0 = not yet */
    int64_t n_tokens_in_flight[N_ENC];
    double t_head; /* since when the oldest pack in flight is computed */
};
/* Everything in it is guarded by its lock. */
struct run_dispatch {
    pthread_mutex_t lock;
    pthread_cond_t has_pack, has_room;
    struct run_pack *head, *tail;        /* waiting packs */
    int64_t n_waiting_packs, cap_tokens; /* cap_tokens: of a pack */
    int64_t n_waiting_tokens[N_ENC];
    struct run_pack *free_packs;
    struct run_share *shares; /* [n_devices] */
    int n_devices;
    int n_idle, n_alive, n_ready; /* devices waiting for a pack; not dropped; see is_ready */
    int64_t n_in_flight;          /* packs taken and not yet given back */
    _Atomic enum run_cause cause; /* said by the packing stage; not guarded */
    double cause_s[RUN_N_CAUSES]; /* device-seconds of waiting */
    bool is_closed;               /* no more packs will come but retries */
    bool is_aborted;
    int64_t n_packs, n_tokens, n_capacity; /* dispatched, for the fill */
};

/* ---- engine.c -----------------------------------------------------------------------------------
 */

struct run_stage { /* seconds; written by the stage's threads under engine.lock at their end */
    double busy_s, wait_in_s, wait_out_s;
};
enum { STAGE_READ, STAGE_PREP, STAGE_PACK, STAGE_DEVICE, STAGE_FINISH, N_STAGES };

struct run_engine {
    const struct vnp_run_options *opt;
    struct vnp_ledger *ledger;
    bool is_embed;
    /* plan */
    int64_t window_bp, block_windows, block_bases;
    bool uses[N_ENC];
    int64_t n_cols[N_ENC];     /* of an encoder's vector */
    int64_t off_col[N_ENC];    /* of its vector in a row */
    int64_t n_row_cols;        /* of a row */
    const struct vnp_bpe *bpe; /* DNA */
    bool is_rows_kept;         /* vectors go to the ledger's data file */
    bool is_strict;            /* windows with an ambiguous letter have no frames (training) */
    bool is_spooled;           /* records of inputs that cannot be read twice */
    vnp_status (*classify)(void *ctx, const float *z, int64_t n, float *scores); /* NULL: embed */
    void *classify_ctx;
    struct run_device *devices;
    int n_devices, n_prep;
    int64_t budget_tokens, max_seqs;
    int64_t cap_row_bytes; /* rows in flight; 0: the default */
    /* running */
    bool is_other_kind; /* protein where DNA is wanted or so: the reading stage's, then all's */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool has_failed, is_stopping;
    atomic_bool is_abandoned; /* grace is over: written by the watching thread, read by devices */
    vnp_status status;        /* first failure */
    struct vnp_error error;
    int n_running; /* threads that have not ended */
    struct run_block *blocks;
    int n_blocks;
    struct run_queue free_blocks, to_prep, to_finish;
    struct run_block **in_order;       /* [n_blocks] prepared blocks by serial modulo n_blocks */
    int64_t next_serial;               /* the packer's next; guarded by lock */
    int64_t n_serials;                 /* blocks pushed so far; final when is_feed_done */
    int64_t n_row_bytes, n_kept_bytes; /* rows in flight; kept by all blocks; under lock */
    size_t high[RUN_N_BUFFERS];        /* under lock */
    bool is_feed_done;
    int n_prep_running;
    struct vnp_cache *cache; /* NULL: none */
    int64_t cache_space[N_ENC];
    struct vnp_cache_stats cache_stats; /* when it has been closed */
    struct vnp_packer *packers[N_ENC];
    struct run_dedup *dedup[N_ENC];
    struct run_dispatch dispatch;
    struct run_stage stages[N_STAGES];
    /* counters, any thread */
    atomic_int_fast64_t n_records, n_windows, n_frames, n_tokens, n_bytes_read, n_bytes_total;
    atomic_int_fast64_t n_duplicates, n_incidents, n_preparing;
    atomic_int_fast64_t n_bytes_done,
        n_bytes_skipped; /* of finished blocks; of those that were there */
    atomic_int_fast64_t n_tokens_done, n_failed_done; /* of finished blocks */
    struct vnp_ledger_counts before;                  /* what the ledger held at the start */
    int64_t n_sessions;                               /* this one included */
    int64_t n_blocks_input; /* blocks of the whole input, known at its end */
    struct vnp_seq_reader_stats input;
    double t_start, t_end;
    char path_status[4096]; /* renewed every second, for those who watch; "" = none */
};

/* Runs all stages to the end of the input. Everything durable is committed when it returns;
 * CANCELED after a stop request. The plan part of e is the caller's. */
vnp_status vnp_run_engine_run(struct run_engine *e) VNP_WARN_UNUSED;
/* Records this thread's last error as the engine's and stops every stage. */
void vnp_run_engine_fail(struct run_engine *e, vnp_status status);
bool vnp_run_engine_is_ending(struct run_engine *e);
/* A vector has arrived (vec, [n_rows][n_cols]) or never will (vec NULL, reason). */
void vnp_run_engine_item_done(struct run_engine *e, struct run_item *it, const float *vec,
                              const char *reason);
void vnp_run_engine_block_release(struct run_engine *e, struct run_block *b); /* one pending less */
/* A cleared block to fill; CANCELED when the run ends. */
vnp_status vnp_run_engine_block_take(struct run_engine *e, struct run_block **out,
                                     double *wait_s) VNP_WARN_UNUSED;
/* Makes room for the rows of a block that is being prepared, waiting while too many bytes of rows
 * are in flight; CANCELED when the run ends. */
vnp_status vnp_run_engine_rows_take(struct run_engine *e, struct run_block *b, size_t n_bytes,
                                    double *wait_s) VNP_WARN_UNUSED;
/* The block is written: its rows are free, and so is the block. False when it cannot be put back.
 */
bool vnp_run_engine_block_give(struct run_engine *e, struct run_block *b);
void vnp_run_engine_incident(struct run_engine *e, const char *device, const char *kind,
                             const char *text);
bool vnp_run_is_stop_requested(void);
bool vnp_run_is_stopping(void *unused); /* the same, for a reader */

/* thread mains, each in its file */
void *vnp_run_feed_main(void *engine);
void *vnp_run_prep_main(void *engine);
void *vnp_run_pack_main(void *engine);
void *vnp_run_device_main(void *device);
void *vnp_run_finish_main(void *engine);
void vnp_run_thread_ends(struct run_engine *e, int stage, const struct run_stage *s);

/* dispatch.c */
vnp_status vnp_run_dispatch_init(struct run_dispatch *d, int n_devices, int64_t n_packs,
                                 int64_t cap_tokens, int64_t cap_seqs) VNP_WARN_UNUSED;
void vnp_run_dispatch_fini(struct run_dispatch *d);
/* A free pack; NULL when aborted. Waits while too many packs wait for devices. */
struct run_pack *vnp_run_dispatch_pack_get(struct run_dispatch *d, double *wait_s);
void vnp_run_dispatch_unget(struct run_dispatch *d, struct run_pack *p); /* it was not needed */
/* A pack of its own for long sequences and halves. */
struct run_pack *vnp_run_pack_create(int64_t cap_tokens, int64_t cap_seqs);
void vnp_run_pack_fill(struct run_pack *p, int enc, struct run_item *const *items, int64_t n);
void vnp_run_dispatch_push(struct run_dispatch *d, struct run_pack *p);
/* A popped pack comes back, or part of one: to the front of the line. */
void vnp_run_dispatch_push_back(struct run_dispatch *d, struct run_pack *p);
/* The next pack for a device. END: no pack will ever come; TIMEOUT: none now (is_waiting false).
 * Near the end of the input a device may get a part of a pack, or wait although packs are there:
 * when another one will have them done sooner. */
enum run_pop vnp_run_dispatch_pop(struct run_dispatch *d, int idx_device, bool is_waiting,
                                  struct run_pack **out);
/* A popped pack is finished with: delivered, or split into others that were pushed back. */
void vnp_run_dispatch_release(struct run_dispatch *d, struct run_pack *p);
/* A device has computed a pack of n_tokens in so many seconds and goes on with its next. */
void vnp_run_dispatch_measured(struct run_dispatch *d, int idx_device, int enc, int64_t n_tokens,
                               double seconds);
/* A device's worker is open, or lost. Ready devices alone are counted on. */
void vnp_run_dispatch_ready(struct run_dispatch *d, int idx_device, bool is_ready);
/* A device is given up; false when it was the last. */
bool vnp_run_dispatch_drop(struct run_dispatch *d, int idx_device);
void vnp_run_dispatch_close(struct run_dispatch *d);
void vnp_run_dispatch_abort(struct run_dispatch *d);

/* setup.c: what predict and embed share */
struct run_setup {
    struct run_engine e;
    const struct vnp_run_options *opt;
    struct vnp_ledger_fact facts[16];
    size_t n_facts;
    struct run_device *devices;
    struct run_process *workers; /* plans, also of those in this process */
    char path_db[4096], path_data[4096];
};
void vnp_run_setup_fact(struct run_setup *s, const char *key, const char *fmt, ...)
    VNP_PRINTF(3, 4);
vnp_status vnp_run_setup_digest(struct run_setup *s, const char *key,
                                struct vnp_checkpoint *c) VNP_WARN_UNUSED;
/* Checks inputs and devices, makes workers for the checkpoints (NULL: not used), the budget. */
vnp_status vnp_run_setup_workers(struct run_setup *s,
                                 const struct vnp_checkpoint *const *checkpoints,
                                 const struct vnp_encoder_want *want) VNP_WARN_UNUSED;
/* What MISMATCH and NOT_FOUND of a run's output look like: the path, what to do. */
vnp_status vnp_run_misfit(const char *path, const char *hint, const char *text);
vnp_status vnp_run_not_here(const char *path, const char *hint);
bool vnp_run_is_same_file(const char *a, const char *b);
/* Removes an output of an earlier run, and its ids, before a forced one: what the new run does not
 * write must not look like its own. Never a file that is read. */
void vnp_run_setup_clear(const struct vnp_run_options *opt, const char *output);
enum { RUN_N_PREDICT_NAMES = 7 };
extern const char *const vnp_run_predict_names[RUN_N_PREDICT_NAMES]; /* files in its folder */
/* outputs: final names that may exist only together with their run database. */
vnp_status vnp_run_setup_ledger(struct run_setup *s, const char *const *outputs,
                                size_t n_outputs) VNP_WARN_UNUSED;
/* Computes what the ledger lacks, or checks that the input is the one it was made from. */
vnp_status vnp_run_setup_compute(struct run_setup *s) VNP_WARN_UNUSED;
void vnp_run_setup_fini(struct run_setup *s);

vnp_status vnp_run_make_folder(const char *path) VNP_WARN_UNUSED;
/* vectors.c: the joined vectors of every open frame of opt->inputs, in opt->out/run.vectors with
 * opt->out/run.db, both kept; s->e.ledger is open and COMPUTED when this returns OK. */
vnp_status vnp_run_vectors(struct run_setup *s) VNP_WARN_UNUSED;
/* For those who watch; never fails the run. */
void vnp_run_status_write(struct run_engine *e);

/* reuse.c: the cache of vectors between runs */
vnp_status vnp_run_cache_open(struct run_setup *s) VNP_WARN_UNUSED; /* nothing without --cache */
void vnp_run_cache_close(struct run_setup *s);
/* True when the item's vector was there; it->out is filled. */
bool vnp_run_cache_find(struct run_engine *e, struct run_item *it);
/* Leaves there what the block's items had to be computed for. */
void vnp_run_cache_keep(struct run_engine *e, const struct run_block *b);

/* tally.c: what a record's frames add up to */
struct run_window_score {
    int64_t idx; /* of the record's */
    bool is_scored;
    float max1, max2; /* largest scores of its frames */
};
struct run_tally {
    int64_t n_scored, n_frames, n_virus, n_failed;
    double sum; /* of the windows' virus scores */
    char reason[160];
};
struct run_tally_watcher {
    void *ctx;
    vnp_status (*frame)(void *ctx, const struct vnp_ledger_frame *f); /* every frame, or NULL */
    void (*window)(void *ctx, const struct run_window_score *w); /* every scored window, or NULL */
};
/* The frames of the record that the cursor gave last. */
vnp_status vnp_run_tally_record(struct vnp_ledger_cursor *cursor,
                                const struct run_tally_watcher *watcher,
                                struct run_tally *out) VNP_WARN_UNUSED;
struct vnp_contig_row; /* out.h */
/* row's strings are those of r and t. */
void vnp_run_tally_row(const struct vnp_ledger_record *r, const struct run_tally *t,
                       struct vnp_contig_row *row);

/* export.c, summary.c */
/* Where exports get texts and vectors from instead of the input and the ledger's data file: the
 * shards of a merge. NULL where a run exports what it has itself. */
struct run_source {
    void *ctx;
    /* the next record called virus */
    vnp_status (*text)(void *ctx, const struct vnp_ledger_record *r, struct vnp_seq_record *out);
    /* all vectors in input order, in pieces of any size */
    vnp_status (*rows)(void *ctx, vnp_ledger_rows_fn *fn, void *fn_ctx);
};
vnp_status vnp_run_export_predict(struct run_engine *e, const struct run_source *source,
                                  struct vnp_run_counts *counts) VNP_WARN_UNUSED;
vnp_status vnp_run_export_embed(struct run_engine *e, const struct run_source *source,
                                struct vnp_run_counts *counts) VNP_WARN_UNUSED;
/* Counts of the calls alone, without writing. */
vnp_status vnp_run_export_tally(struct run_engine *e,
                                struct vnp_run_counts *counts) VNP_WARN_UNUSED;
vnp_status vnp_run_summary_write(struct run_setup *s, const char *path,
                                 const struct vnp_run_counts *counts) VNP_WARN_UNUSED;

#endif
