// SPDX-License-Identifier: MIT
// Packs on their way to devices: one list that every device pulls from, first come first served,
// whatever its speed; packs that come back after a fault stand first. A device is told the end
// only when no pack waits and none is in flight elsewhere, for that one may still come back.
#include "run/engine.h"

#include <stdlib.h>
#include <string.h>

static void pack_free(struct run_pack *p) {
    if (!p) return;
    free(p->tokens);
    free(p->cu);
    free(p->items);
    free(p);
}

struct run_pack *vnp_run_pack_create(int64_t cap_tokens, int64_t cap_seqs) {
    struct run_pack *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->is_extra = true;
    p->cap_tokens = cap_tokens;
    p->cap_seqs = cap_seqs;
    p->tokens = malloc((size_t)cap_tokens * sizeof *p->tokens);
    p->cu = malloc((size_t)(cap_seqs + 1) * sizeof *p->cu);
    p->items = malloc((size_t)cap_seqs * sizeof(struct run_item *));
    if (p->tokens && p->cu && p->items) return p;
    pack_free(p);
    return NULL;
}

void vnp_run_pack_fill(struct run_pack *p, int enc, struct run_item *const *items, int64_t n) {
    int64_t n_tokens = 0, max_len = 0;
    p->cu[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        struct run_item *it = items[i];
        memcpy(p->tokens + n_tokens, it->tokens, (size_t)it->n_tokens * sizeof *p->tokens);
        n_tokens += it->n_tokens;
        if (it->n_tokens > max_len) max_len = it->n_tokens;
        p->cu[i + 1] = (int32_t)n_tokens;
        p->items[i] = it;
    }
    p->enc = enc;
    p->n_faults = 0;
    p->view = (struct vnp_pack){.n_tokens = n_tokens,
                                .n_seqs = n,
                                .max_len = max_len,
                                .tokens = p->tokens,
                                .cu_seqlens = p->cu};
}

vnp_status vnp_run_dispatch_init(struct run_dispatch *d, int64_t n_packs, int64_t cap_tokens,
                                 int64_t cap_seqs) {
    *d = (struct run_dispatch){.cap_tokens = cap_tokens};
    pthread_mutex_init(&d->lock, NULL);
    vnp_run_cond_init(&d->has_pack);
    vnp_run_cond_init(&d->has_room);
    for (int64_t i = 0; i < n_packs; i++) {
        struct run_pack *p = vnp_run_pack_create(cap_tokens, cap_seqs);
        if (!p) {
            vnp_run_dispatch_fini(d);
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packs of %lld tokens",
                            (long long)cap_tokens);
        }
        p->is_extra = false;
        p->next = d->free_packs;
        d->free_packs = p;
    }
    return VNP_OK;
}

void vnp_run_dispatch_fini(struct run_dispatch *d) {
    struct run_pack *const lists[] = {d->head, d->free_packs};
    for (size_t i = 0; i < VNP_COUNT(lists); i++)
        for (struct run_pack *p = lists[i], *next; p; p = next) {
            next = p->next;
            pack_free(p);
        }
    pthread_cond_destroy(&d->has_pack);
    pthread_cond_destroy(&d->has_room);
    pthread_mutex_destroy(&d->lock);
}

struct run_pack *vnp_run_dispatch_pack_get(struct run_dispatch *d, double *wait_s) {
    pthread_mutex_lock(&d->lock);
    if (!d->free_packs && !d->is_aborted) {
        double t = vnp_now_s();
        while (!d->free_packs && !d->is_aborted) pthread_cond_wait(&d->has_room, &d->lock);
        *wait_s += vnp_now_s() - t;
    }
    struct run_pack *p = d->is_aborted ? NULL : d->free_packs;
    if (p) d->free_packs = p->next;
    pthread_mutex_unlock(&d->lock);
    return p;
}

static void give(struct run_dispatch *d, struct run_pack *p) {
    if (p->is_extra) {
        pack_free(p);
        return;
    }
    p->next = d->free_packs;
    d->free_packs = p;
    pthread_cond_signal(&d->has_room);
}

void vnp_run_dispatch_unget(struct run_dispatch *d, struct run_pack *p) {
    pthread_mutex_lock(&d->lock);
    give(d, p);
    pthread_mutex_unlock(&d->lock);
}

void vnp_run_dispatch_push(struct run_dispatch *d, struct run_pack *p, bool is_retry) {
    pthread_mutex_lock(&d->lock);
    p->next = NULL;
    if (is_retry) {
        p->next = d->head;
        d->head = p;
        if (!d->tail) d->tail = p;
    } else {
        *(d->tail ? &d->tail->next : &d->head) = p;
        d->tail = p;
        d->n_packs++;
        d->n_tokens += p->view.n_tokens;
        d->n_capacity += VNP_MAX(d->cap_tokens, p->view.n_tokens);
    }
    d->n_waiting_packs++;
    pthread_cond_signal(&d->has_pack);
    pthread_mutex_unlock(&d->lock);
}

enum run_pop vnp_run_dispatch_pop(struct run_dispatch *d, bool is_waiting, struct run_pack **out) {
    enum run_pop result = RUN_POP_END;
    pthread_mutex_lock(&d->lock);
    d->n_idle++;
    while (!d->head && !d->is_aborted && is_waiting && !(d->is_closed && d->n_in_flight == 0))
        pthread_cond_wait(&d->has_pack, &d->lock);
    d->n_idle--;
    if (d->head && !d->is_aborted) {
        *out = d->head;
        d->head = d->head->next;
        if (!d->head) d->tail = NULL;
        d->n_waiting_packs--;
        d->n_in_flight++;
        result = RUN_POP_OK;
    } else if (!d->is_aborted && !(d->is_closed && d->n_in_flight == 0)) {
        result = RUN_POP_TIMEOUT;
    }
    pthread_mutex_unlock(&d->lock);
    return result;
}

void vnp_run_dispatch_release(struct run_dispatch *d, struct run_pack *p) {
    pthread_mutex_lock(&d->lock);
    d->n_in_flight--;
    if (p) give(d, p);
    if (d->is_closed && d->n_in_flight == 0) pthread_cond_broadcast(&d->has_pack);
    pthread_mutex_unlock(&d->lock);
}

bool vnp_run_dispatch_drop(struct run_dispatch *d) {
    pthread_mutex_lock(&d->lock);
    bool has_more = --d->n_alive > 0;
    pthread_mutex_unlock(&d->lock);
    return has_more;
}

void vnp_run_dispatch_close(struct run_dispatch *d) {
    pthread_mutex_lock(&d->lock);
    d->is_closed = true;
    pthread_cond_broadcast(&d->has_pack);
    pthread_mutex_unlock(&d->lock);
}

void vnp_run_dispatch_abort(struct run_dispatch *d) {
    pthread_mutex_lock(&d->lock);
    d->is_aborted = true;
    pthread_cond_broadcast(&d->has_pack);
    pthread_cond_broadcast(&d->has_room);
    pthread_mutex_unlock(&d->lock);
}
