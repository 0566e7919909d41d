// SPDX-License-Identifier: MIT
// Starts the stages' threads, watches them from the calling thread (progress, stop requests),
// and ends them in the order of the data, so that what has been computed is still committed.
#include "run/engine.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_GRACE_S = 10 };

/* The one piece of state of the process: a handler can reach nothing else. Only ever set. */
static atomic_int is_stop_requested;

void vnp_run_request_stop(void) {
    atomic_store(&is_stop_requested, 1);
}

bool vnp_run_is_stop_requested(void) {
    return atomic_load(&is_stop_requested) != 0;
}

bool vnp_run_is_stopping(void *unused) {
    (void)unused;
    return vnp_run_is_stop_requested();
}

static void end_stages(struct run_engine *e) {
    vnp_run_queue_abort(&e->to_prep);
    vnp_run_queue_abort(&e->free_blocks);
    vnp_run_dispatch_abort(&e->dispatch);
    pthread_cond_broadcast(&e->changed);
}

void vnp_run_engine_fail(struct run_engine *e, vnp_status status) {
    pthread_mutex_lock(&e->lock);
    if (!e->has_failed) {
        e->has_failed = true;
        e->status = status;
        e->error = *vnp_error_last();
    }
    pthread_mutex_unlock(&e->lock);
    end_stages(e);
}

bool vnp_run_engine_is_ending(struct run_engine *e) {
    pthread_mutex_lock(&e->lock);
    bool is = e->has_failed || e->is_stopping;
    pthread_mutex_unlock(&e->lock);
    return is;
}

void vnp_run_engine_incident(struct run_engine *e, const char *device, const char *kind,
                             const char *text) {
    atomic_fetch_add(&e->n_incidents, 1);
    vnp_log(VNP_LOG_WARN, "run", "%s: %s: %s", device, kind, text);
    if (vnp_ledger_incident_put(e->ledger, device, kind, text) != VNP_OK)
        vnp_log(VNP_LOG_WARN, "run", "the incident could not be written: %s",
                vnp_error_last()->text);
}

vnp_status vnp_run_engine_block_take(struct run_engine *e, struct run_block **out, double *wait_s) {
    void *b = NULL;
    size_t high[RUN_N_BUFFERS];
    *out = NULL;
    if (vnp_run_queue_pop(&e->free_blocks, -1, &b, wait_s) != RUN_POP_OK) return VNP_CANCELED;
    *out = b;
    vnp_run_block_clear(*out);
    pthread_mutex_lock(&e->lock);
    memcpy(high, e->high, sizeof high);
    e->n_kept_bytes -= (int64_t)(*out)->rows.cap_bytes;
    pthread_mutex_unlock(&e->lock);
    vnp_status status = vnp_run_block_prepare(*out, high, e->n_blocks, e->cap_row_bytes);
    pthread_mutex_lock(&e->lock);
    e->n_kept_bytes += (int64_t)(*out)->rows.cap_bytes;
    pthread_mutex_unlock(&e->lock);
    return status;
}

vnp_status vnp_run_engine_rows_take(struct run_engine *e, struct run_block *b, size_t n_bytes,
                                    double *wait_s) {
    double t = vnp_now_s();
    int64_t n = (int64_t)n_bytes;
    pthread_mutex_lock(&e->lock);
    while (e->n_row_bytes + n > e->cap_row_bytes && b->serial != e->next_serial && !e->has_failed &&
           !e->is_stopping)
        pthread_cond_wait(&e->changed, &e->lock);
    bool is_ending = e->has_failed || e->is_stopping;
    e->n_row_bytes += n;
    b->n_row_bytes = n;
    e->n_kept_bytes -= (int64_t)b->rows.cap_bytes;
    pthread_mutex_unlock(&e->lock);
    *wait_s += vnp_now_s() - t;
    vnp_status status = vnp_run_buffer_reserve(&b->rows, n_bytes);
    pthread_mutex_lock(&e->lock);
    e->n_kept_bytes += (int64_t)b->rows.cap_bytes;
    pthread_mutex_unlock(&e->lock);
    return is_ending ? VNP_CANCELED : status;
}

bool vnp_run_engine_block_give(struct run_engine *e, struct run_block *b) {
    pthread_mutex_lock(&e->lock);
    vnp_run_block_learn(b, e->high);
    e->n_row_bytes -= b->n_row_bytes;
    b->n_row_bytes = 0;
    if (e->n_kept_bytes > 2 * e->cap_row_bytes) { /* blocks that were large and are not any more */
        e->n_kept_bytes -= (int64_t)b->rows.cap_bytes;
        vnp_run_buffer_fini(&b->rows);
    }
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    return vnp_run_queue_push(&e->free_blocks, b, NULL);
}

void vnp_run_engine_block_release(struct run_engine *e, struct run_block *b) {
    if (atomic_fetch_sub(&b->n_pending, 1) != 1) return;
    vnp_run_queue_push(&e->to_finish, b, NULL);
}

void vnp_run_engine_item_done(struct run_engine *e, struct run_item *it, const float *vec,
                              const char *reason) {
    int64_t n_cols = e->n_cols[it->enc];
    struct run_item *waiters = vnp_run_dedup_done(e->dedup[it->enc], it, vec);
    it->next_waiter = waiters;
    while (it) {
        struct run_item *next = it->next_waiter; /* the block may be used anew once released */
        for (int64_t r = 0; vec && vec != it->out && r < it->n_rows; r++)
            memcpy(it->out + r * e->n_row_cols, vec + r * n_cols, (size_t)n_cols * sizeof(float));
        if (!vec) vnp_run_block_frame_fail(it->block, it->frame, reason);
        vnp_run_engine_block_release(e, it->block);
        it = next;
    }
}

void vnp_run_thread_ends(struct run_engine *e, int stage, const struct run_stage *s) {
    pthread_mutex_lock(&e->lock);
    e->stages[stage].busy_s += s->busy_s;
    e->stages[stage].wait_in_s += s->wait_in_s;
    e->stages[stage].wait_out_s += s->wait_out_s;
    e->n_running--;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

static vnp_status create_parts(struct run_engine *e) {
    int64_t n_packs = 5 * e->n_devices + 2; /* three in flight, two waiting */
    e->blocks = calloc((size_t)e->n_blocks, sizeof *e->blocks);
    e->in_order = calloc((size_t)e->n_blocks, sizeof(struct run_block *));
    if (!e->blocks || !e->in_order) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "blocks");
    if (e->cap_row_bytes < 1) e->cap_row_bytes = ((int64_t)128 + 32 * e->n_devices) << 20;
    VNP_TRY(vnp_run_queue_init(&e->free_blocks, (size_t)e->n_blocks));
    e->free_blocks.is_stack = true;
    VNP_TRY(vnp_run_queue_init(&e->to_prep, (size_t)e->n_blocks));
    VNP_TRY(vnp_run_queue_init(&e->to_finish, (size_t)e->n_blocks));
    for (int i = 0; i < e->n_blocks; i++) {
        VNP_TRY(vnp_run_block_init(&e->blocks[i]));
        vnp_run_queue_push(&e->free_blocks, &e->blocks[i], NULL);
    }
    VNP_TRY(
        vnp_run_dispatch_init(&e->dispatch, e->n_devices, n_packs, e->budget_tokens, e->max_seqs));
    int64_t dedup_bytes = e->opt->dedup_bytes ? e->opt->dedup_bytes : (int64_t)384 << 20;
    int64_t n_cols_all = 0;
    for (int enc = 0; enc < N_ENC; enc++) n_cols_all += e->uses[enc] ? e->n_cols[enc] : 0;
    for (int enc = 0; enc < N_ENC; enc++) {
        if (!e->uses[enc]) continue;
        struct vnp_packer_options opt = {.budget_tokens = e->budget_tokens,
                                         .max_seqs = e->max_seqs};
        VNP_TRY(vnp_packer_create(&opt, &e->packers[enc]));
        if (dedup_bytes > 0)
            VNP_TRY(vnp_run_dedup_create(dedup_bytes / n_cols_all * e->n_cols[enc], e->n_cols[enc],
                                         &e->dedup[enc]));
    }
    return VNP_OK;
}

static void destroy_parts(struct run_engine *e) {
    for (int enc = 0; enc < N_ENC; enc++) {
        vnp_packer_destroy(e->packers[enc]);
        vnp_run_dedup_destroy(e->dedup[enc]);
        e->packers[enc] = NULL;
        e->dedup[enc] = NULL;
    }
    vnp_run_dispatch_fini(&e->dispatch);
    vnp_run_queue_fini(&e->free_blocks);
    vnp_run_queue_fini(&e->to_prep);
    vnp_run_queue_fini(&e->to_finish);
    for (int i = 0; e->blocks && i < e->n_blocks; i++) vnp_run_block_fini(&e->blocks[i]);
    free(e->blocks);
    free(e->in_order);
    e->blocks = NULL;
    e->in_order = NULL;
}

static void report(struct run_engine *e, const char *stage) {
    if (!e->opt->progress) return;
    double elapsed = vnp_now_s() - e->t_start;
    struct vnp_run_progress p = {.n_records = atomic_load(&e->n_records),
                                 .n_windows = atomic_load(&e->n_windows),
                                 .n_frames = atomic_load(&e->n_frames),
                                 .n_tokens = atomic_load(&e->n_tokens),
                                 .n_bytes_read = atomic_load(&e->n_bytes_done),
                                 .n_bytes_total = atomic_load(&e->n_bytes_total),
                                 .elapsed_s = elapsed,
                                 .stage = stage};
    p.tokens_per_s = elapsed > 0 ? (double)p.n_tokens / elapsed : 0;
    if (!e->opt->progress(e->opt->progress_ctx, &p)) vnp_run_request_stop();
}

struct team {
    pthread_t feed, pack, finish, prep[16];
    bool has_feed, has_pack, has_finish;
    int n_prep, n_devices;
};

static bool start(struct run_engine *e, pthread_t *t, void *(*fn)(void *), void *arg) {
    pthread_mutex_lock(&e->lock);
    e->n_running++;
    pthread_mutex_unlock(&e->lock);
    int err = pthread_create(t, NULL, fn, arg);
    if (err == 0) return true;
    pthread_mutex_lock(&e->lock);
    e->n_running--;
    pthread_mutex_unlock(&e->lock);
    vnp_fail_errno(VNP_NOMEM, VNP_FROM_NONE, err, "starting a thread");
    vnp_run_engine_fail(e, VNP_NOMEM);
    return false;
}

static void start_team(struct run_engine *e, struct team *t) {
    e->n_prep_running = e->n_prep;
    t->has_finish = start(e, &t->finish, vnp_run_finish_main, e);
    for (int i = 0; i < e->n_devices && !e->has_failed; i++) {
        e->devices[i].engine = e;
        e->devices[i].idx = i;
        e->devices[i].budget_tokens = e->budget_tokens;
        if (!start(e, &e->devices[i].thread, vnp_run_device_main, &e->devices[i])) break;
        t->n_devices++;
    }
    t->has_pack = start(e, &t->pack, vnp_run_pack_main, e);
    for (int i = 0; i < e->n_prep; i++) {
        if (!start(e, &t->prep[i], vnp_run_prep_main, e)) break;
        t->n_prep++;
    }
    t->has_feed = start(e, &t->feed, vnp_run_feed_main, e);
}

/* Until every thread but the finishing one has ended. After a stop request the packs in flight have
 * the grace time; then devices give them up, and what is complete is committed all the same. */
static void watch(struct run_engine *e, const struct team *t) {
    double t_report = vnp_now_s(), t_status = t_report, t_stop = 0;
    double grace_s = e->opt->grace_s > 0 ? e->opt->grace_s : DEFAULT_GRACE_S;
    int n_left = t->has_finish;
    pthread_mutex_lock(&e->lock);
    while (e->n_running > n_left) {
        vnp_run_cond_wait_s(&e->changed, &e->lock, 0.1);
        bool must_stop = vnp_run_is_stop_requested() && !e->is_stopping;
        if (must_stop) e->is_stopping = true;
        pthread_mutex_unlock(&e->lock);
        if (must_stop) {
            t_stop = vnp_now_s();
            end_stages(e);
        }
        if (t_stop > 0 && vnp_now_s() - t_stop >= grace_s) atomic_store(&e->is_abandoned, true);
        if (vnp_now_s() - t_report >= 0.5) {
            t_report = vnp_now_s();
            report(e, "running");
        }
        if (vnp_now_s() - t_status >= 1) {
            t_status = vnp_now_s();
            vnp_run_status_write(e);
        }
        pthread_mutex_lock(&e->lock);
        if (e->n_running == n_left - 1 && n_left) break; /* the finishing thread failed */
    }
    pthread_mutex_unlock(&e->lock);
}

static void join_team(struct run_engine *e, struct team *t) {
    if (t->has_feed) pthread_join(t->feed, NULL);
    for (int i = 0; i < t->n_prep; i++) pthread_join(t->prep[i], NULL);
    if (t->has_pack) pthread_join(t->pack, NULL);
    for (int i = 0; i < t->n_devices; i++) pthread_join(e->devices[i].thread, NULL);
    vnp_run_queue_close(&e->to_finish); /* what is complete is still written */
    if (t->has_finish) pthread_join(t->finish, NULL);
}

static void tell_reruns(const struct run_engine *e) {
    int64_t n = 0;
    for (int i = 0; i < e->n_devices; i++) n += e->devices[i].n_reruns;
    if (n > 0)
        vnp_log(VNP_LOG_INFO, "run", "%lld sequence%s overflowed in %s, computed again in fp32",
                (long long)n, n == 1 ? "" : "s", vnp_precision_name(e->opt->precision));
}

vnp_status vnp_run_engine_run(struct run_engine *e) {
    struct team t = {0};
    pthread_mutex_init(&e->lock, NULL);
    vnp_run_cond_init(&e->changed);
    e->t_start = vnp_now_s();
    e->n_prep = VNP_MAX(1, VNP_MIN((int)VNP_COUNT(t.prep), e->n_prep));
    report(e, "loading");
    struct vnp_ledger_session sum = {0};
    vnp_status status = create_parts(e);
    if (status == VNP_OK) status = vnp_ledger_count(e->ledger, &e->before);
    if (status == VNP_OK) status = vnp_ledger_session_sum(e->ledger, &sum, &e->n_sessions);
    e->n_sessions++;
    vnp_run_status_write(e);
    if (status == VNP_OK) {
        start_team(e, &t);
        watch(e, &t);
        join_team(e, &t);
        tell_reruns(e);
        if (e->has_failed) {
            vnp_error_set(&e->error);
            status = e->status;
        } else if (e->is_stopping) {
            status = vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
            vnp_error_hint("repeat the command to go on from what is finished");
        }
    }
    destroy_parts(e);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    return status;
}
