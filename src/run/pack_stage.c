// SPDX-License-Identifier: MIT
// The packing stage: prepared blocks in serial order -> dedup -> one packer an encoder -> packs for
// the dispatcher. It holds sequences back to choose from, but never while a device is idle and
// nothing else can be done: then the fullest pack there is goes out.
#include "run/engine.h"

#include <stdlib.h>

struct stage {
    struct run_engine *e;
    uint64_t *tags; /* [max_seqs] of the pack being made, and the items they stand for */
    struct run_item **items;
    struct run_stage time;
};

/* Takes one pack from a packer to the dispatcher; false when aborted. */
static bool emit(struct stage *s, int enc, bool is_end) {
    struct run_engine *e = s->e;
    struct run_pack *p = vnp_run_dispatch_pack_get(&e->dispatch, &s->time.wait_out_s);
    if (!p) return false;
    struct vnp_packed packed = {.tags = s->tags};
    bool has = vnp_packer_pop(e->packers[enc], &packed);
    VNP_ASSERT(has);
    (void)has;
    for (int64_t i = 0; i < packed.n_seqs; i++)
        s->items[i] = (struct run_item *)(uintptr_t)s->tags[i];
    if (packed.n_tokens > p->cap_tokens) { /* one long sequence: a pack of its own size */
        struct run_pack *big = vnp_run_pack_create(packed.n_tokens, 1);
        if (!big) {
            vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "a sequence of %lld tokens",
                     (long long)packed.n_tokens);
            vnp_run_engine_fail(e, VNP_NOMEM);
            return false;
        }
        vnp_run_dispatch_unget(&e->dispatch, p);
        p = big;
    }
    vnp_run_pack_fill(p, enc, s->items, packed.n_seqs);
    p->is_last = is_end && vnp_packer_n_seqs(e->packers[enc]) == 0;
    vnp_run_dispatch_push(&e->dispatch, p);
    return true;
}

static vnp_status add_block(struct stage *s, struct run_block *b) {
    struct run_engine *e = s->e;
    struct run_item *items = b->items.data;
    for (int64_t i = 0; i < b->n_items; i++) {
        struct run_item *it = &items[i];
        enum run_dedup_found found = vnp_run_dedup_find(e->dedup[it->enc], it);
        if (found == RUN_DEDUP_NEW && vnp_run_cache_find(e, it)) {
            vnp_run_engine_item_done(e, it, it->out, NULL);
            continue;
        }
        if (found == RUN_DEDUP_NEW) {
            VNP_TRY(vnp_packer_push(e->packers[it->enc], it->n_tokens, (uintptr_t)it));
            continue;
        }
        atomic_fetch_add(&e->n_duplicates, 1);
        b->n_duplicates++;
        if (found == RUN_DEDUP_READY) vnp_run_engine_block_release(e, b);
    }
    vnp_run_engine_block_release(e, b);
    return VNP_OK;
}

static bool is_starving(struct run_engine *e) {
    pthread_mutex_lock(&e->dispatch.lock);
    bool is = e->dispatch.n_idle > 0 && e->dispatch.n_waiting_packs == 0;
    pthread_mutex_unlock(&e->dispatch.lock);
    return is;
}

/* Why there is no block to pack: what devices that run dry are waiting for. */
static enum run_cause find_cause(struct run_engine *e) {
    if (atomic_load(&e->n_preparing) > 0 || vnp_run_queue_count(&e->to_prep) > 0)
        return RUN_FOR_PREPARING;
    return vnp_run_queue_count(&e->free_blocks) == 0 ? RUN_FOR_BLOCKS : RUN_FOR_READING;
}

/* The next block in order; NULL at the end, or (*is_idle) when none came for a while. */
static struct run_block *next_block(struct stage *s, bool *is_idle) {
    struct run_engine *e = s->e;
    double t = vnp_now_s();
    struct run_block *b = NULL;
    *is_idle = false;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        struct run_block **at = &e->in_order[e->next_serial % e->n_blocks];
        if (e->has_failed || e->is_stopping) break;
        if (*at) {
            b = *at;
            *at = NULL;
            e->next_serial++;
            pthread_cond_broadcast(&e->changed); /* its follower may now be prepared at any size */
            break;
        }
        if (e->is_feed_done && e->n_prep_running == 0 && e->next_serial == e->n_serials) break;
        if (*is_idle) break;
        atomic_store(&e->dispatch.cause, find_cause(e));
        vnp_run_cond_wait_s(&e->changed, &e->lock, 0.005);
        *is_idle = vnp_now_s() - t >= 0.005 && e->in_order[e->next_serial % e->n_blocks] == NULL;
    }
    pthread_mutex_unlock(&e->lock);
    s->time.wait_in_s += vnp_now_s() - t;
    if (b) *is_idle = false;
    if (b) atomic_store(&e->dispatch.cause, RUN_FOR_PACKING);
    return b;
}

/* Sends one pack out of the packer that holds more. */
static bool emit_fullest(struct stage *s) {
    struct run_engine *e = s->e;
    int best = -1;
    for (int enc = 0; enc < N_ENC; enc++) {
        int64_t n = e->packers[enc] ? vnp_packer_n_tokens(e->packers[enc]) : 0;
        if (n > 0 && (best < 0 || n > vnp_packer_n_tokens(e->packers[best]))) best = enc;
    }
    return best < 0 || emit(s, best, false);
}

/* Sends out what is ready, and a full pack that could still be bettered rather than let a device
 * wait; false when aborted. */
static bool emit_ready(struct stage *s) {
    struct run_engine *e = s->e;
    for (int enc = 0; enc < N_ENC; enc++) {
        struct vnp_packer *p = e->packers[enc];
        while (p && (vnp_packer_is_ready(p) ||
                     (vnp_packer_n_tokens(p) >= e->budget_tokens && is_starving(e))))
            if (!emit(s, enc, false)) return false;
    }
    return true;
}

static void pack_all(struct stage *s) {
    struct run_engine *e = s->e;
    for (;;) {
        bool is_idle;
        struct run_block *b = next_block(s, &is_idle);
        if (vnp_run_engine_is_ending(e)) return;
        if (!b && !is_idle) break;
        if (!b) {
            if (is_starving(e) && !emit_fullest(s)) return;
            continue;
        }
        vnp_status status = add_block(s, b);
        if (status != VNP_OK) {
            vnp_run_engine_fail(e, status);
            return;
        }
        if (!emit_ready(s)) return;
    }
    for (int enc = 0; enc < N_ENC; enc++)
        while (e->packers[enc] && vnp_packer_n_seqs(e->packers[enc]) > 0)
            if (!emit(s, enc, true)) return;
}

void *vnp_run_pack_main(void *engine) {
    struct run_engine *e = engine;
    struct stage s = {.e = e};
    double t = vnp_now_s();
    s.tags = calloc((size_t)e->max_seqs, sizeof *s.tags);
    s.items = calloc((size_t)e->max_seqs, sizeof *s.items);
    if (s.tags && s.items) {
        pack_all(&s);
    } else {
        vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer");
        vnp_run_engine_fail(e, VNP_NOMEM);
    }
    free(s.tags);
    free(s.items);
    vnp_run_dispatch_close(&e->dispatch);
    s.time.busy_s = vnp_now_s() - t - s.time.wait_in_s - s.time.wait_out_s;
    vnp_run_thread_ends(e, STAGE_PACK, &s.time);
    return NULL;
}
