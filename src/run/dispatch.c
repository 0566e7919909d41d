// SPDX-License-Identifier: MIT
// Packs on their way to devices: one list that every device pulls from, first come first served,
// whatever its speed; packs that come back after a fault stand first. A device is told the end
// only when no pack waits and none is in flight elsewhere, for that one may still come back.
//
// First come first served keeps devices of any mix of speeds busy while packs are plenty. At the
// end of the input it does not: a slow device that takes the last whole pack is waited for by all.
// So once no new packs will come, each device takes no more than it can compute until the moment
// at which all would be done together (share.c), and the last packs become small ones.
#include "run/engine.h"
#include "run/share.h"

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
    p->idx_blamed = p->idx_owner = -1;
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
    p->idx_blamed = -1;
    p->is_last = false;
    p->view = (struct vnp_pack){.n_tokens = n_tokens,
                                .n_seqs = n,
                                .max_len = max_len,
                                .tokens = p->tokens,
                                .cu_seqlens = p->cu};
}

vnp_status vnp_run_dispatch_init(struct run_dispatch *d, int n_devices, int64_t n_packs,
                                 int64_t cap_tokens, int64_t cap_seqs) {
    *d = (struct run_dispatch){
        .cap_tokens = cap_tokens, .n_devices = n_devices, .n_alive = n_devices};
    pthread_mutex_init(&d->lock, NULL);
    vnp_run_cond_init(&d->has_pack);
    vnp_run_cond_init(&d->has_room);
    d->shares = calloc((size_t)n_devices, sizeof *d->shares);
    bool is_full = !d->shares;
    for (int64_t i = 0; !is_full && i < n_packs; i++) {
        struct run_pack *p = vnp_run_pack_create(cap_tokens, cap_seqs);
        is_full = !p;
        if (is_full) break;
        p->is_extra = false;
        p->next = d->free_packs;
        d->free_packs = p;
    }
    if (!is_full) return VNP_OK;
    vnp_run_dispatch_fini(d);
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packs of %lld tokens", (long long)cap_tokens);
}

void vnp_run_dispatch_fini(struct run_dispatch *d) {
    struct run_pack *const lists[] = {d->head, d->free_packs};
    for (size_t i = 0; i < VNP_COUNT(lists); i++)
        for (struct run_pack *p = lists[i], *next; p; p = next) {
            next = p->next;
            pack_free(p);
        }
    free(d->shares);
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

/* A pack joins the line at its front or end. */
static void line_add(struct run_dispatch *d, struct run_pack *p, bool is_first) {
    p->next = NULL;
    if (is_first) {
        p->next = d->head;
        d->head = p;
        if (!d->tail) d->tail = p;
    } else {
        *(d->tail ? &d->tail->next : &d->head) = p;
        d->tail = p;
    }
    d->n_waiting_packs++;
    d->n_waiting_tokens[p->enc] += p->view.n_tokens;
}

/* Takes the pack after `before` (NULL: the first) out of the line. */
static struct run_pack *line_take(struct run_dispatch *d, struct run_pack *before) {
    struct run_pack **at = before ? &before->next : &d->head;
    struct run_pack *p = *at;
    *at = p->next;
    if (d->tail == p) d->tail = before;
    d->n_waiting_packs--;
    d->n_waiting_tokens[p->enc] -= p->view.n_tokens;
    return p;
}

static void own(struct run_dispatch *d, struct run_pack *p, int idx_device) {
    struct run_share *s = &d->shares[idx_device];
    bool is_first = true;
    for (int enc = 0; enc < N_ENC; enc++) is_first = is_first && s->n_tokens_in_flight[enc] == 0;
    if (is_first) s->t_head = vnp_now_s();
    s->n_tokens_in_flight[p->enc] += p->view.n_tokens;
    p->idx_owner = idx_device;
    d->n_in_flight++;
}

static void disown(struct run_dispatch *d, struct run_pack *p) {
    if (p->idx_owner < 0) return;
    d->shares[p->idx_owner].n_tokens_in_flight[p->enc] -= p->view.n_tokens;
    p->idx_owner = -1;
    d->n_in_flight--;
}

void vnp_run_dispatch_push(struct run_dispatch *d, struct run_pack *p) {
    pthread_mutex_lock(&d->lock);
    line_add(d, p, false);
    d->n_packs++;
    d->n_tokens += p->view.n_tokens;
    d->n_capacity += p->is_last ? p->view.n_tokens : VNP_MAX(d->cap_tokens, p->view.n_tokens);
    pthread_cond_signal(&d->has_pack);
    pthread_mutex_unlock(&d->lock);
}

void vnp_run_dispatch_push_back(struct run_dispatch *d, struct run_pack *p) {
    pthread_mutex_lock(&d->lock);
    disown(d, p);
    line_add(d, p, true);
    pthread_cond_broadcast(&d->has_pack); /* one waiter may not want it, another will */
    pthread_mutex_unlock(&d->lock);
}

/* The first n sequences of a waiting pack as a pack of their own, the rest stays; NULL when there
 * is no free pack. */
static struct run_pack *cut(struct run_dispatch *d, struct run_pack *p, int64_t n) {
    struct run_pack *part = d->free_packs;
    if (!part || n > part->cap_seqs || p->cu[n] > part->cap_tokens) return NULL;
    int n_faults = p->n_faults, idx_blamed = p->idx_blamed;
    d->free_packs = part->next;
    d->n_waiting_tokens[p->enc] -= p->cu[n];
    vnp_run_pack_fill(part, p->enc, p->items, n);
    vnp_run_pack_fill(p, p->enc, p->items + n, p->view.n_seqs - n);
    part->n_faults = p->n_faults = n_faults;
    part->idx_blamed = p->idx_blamed = idx_blamed;
    return part;
}

/* What device `idx` gets now, out of the line; NULL: nothing, although something may be there. */
static struct run_pack *choose(struct run_dispatch *d, int idx) {
    struct run_pack *before = NULL, *p = d->head;
    for (; p; before = p, p = p->next) /* a suspect goes to another device than the one it lost */
        if (p->idx_blamed != idx || d->n_ready < 2) break;
    if (!p) return NULL;
    /* nor is a suspect left to another one, which may be the one that lost it */
    if (!d->is_closed || d->n_ready < 2 || p->n_faults > 0) return line_take(d, before);
    int64_t n_tokens = vnp_run_share_of(d, idx, p->enc, p->view.n_tokens);
    if (n_tokens < 1) return NULL;
    if (n_tokens >= p->view.n_tokens) return line_take(d, before);
    int64_t n = 1;
    while (n < p->view.n_seqs && p->cu[n] < n_tokens) n++;
    struct run_pack *part = n < p->view.n_seqs ? cut(d, p, n) : NULL;
    return part ? part : line_take(d, before);
}

enum run_pop vnp_run_dispatch_pop(struct run_dispatch *d, int idx_device, bool is_waiting,
                                  struct run_pack **out) {
    enum run_pop result = RUN_POP_END;
    struct run_pack *p = NULL;
    pthread_mutex_lock(&d->lock);
    d->n_idle += is_waiting;
    for (;;) {
        bool is_end = d->is_aborted || (d->is_closed && d->n_in_flight == 0 && !d->head);
        p = is_end ? NULL : choose(d, idx_device);
        if (p || is_end || !is_waiting) break;
        /* Left to another device: look again, that one may never come. Else in slices, for the
         * cause of waiting may change meanwhile. */
        double t = vnp_now_s();
        vnp_run_cond_wait_s(&d->has_pack, &d->lock, d->head ? 0.02 : 0.05);
        d->cause_s[d->is_closed ? RUN_FOR_END : atomic_load(&d->cause)] += vnp_now_s() - t;
    }
    d->n_idle -= is_waiting;
    if (p) {
        own(d, p, idx_device);
        *out = p;
        result = RUN_POP_OK;
    } else if (!d->is_aborted && !(d->is_closed && d->n_in_flight == 0 && !d->head)) {
        result = RUN_POP_TIMEOUT;
    }
    pthread_mutex_unlock(&d->lock);
    return result;
}

void vnp_run_dispatch_release(struct run_dispatch *d, struct run_pack *p) {
    pthread_mutex_lock(&d->lock);
    disown(d, p);
    give(d, p);
    /* near the end every pack that is done may change who should take the next one */
    if (d->is_closed) pthread_cond_broadcast(&d->has_pack);
    pthread_mutex_unlock(&d->lock);
}

void vnp_run_dispatch_measured(struct run_dispatch *d, int idx_device, int enc, int64_t n_tokens,
                               double seconds) {
    pthread_mutex_lock(&d->lock);
    struct run_share *s = &d->shares[idx_device];
    double now = seconds / (double)n_tokens;
    double *mean = &s->s_per_token[enc];
    *mean = *mean > 0 ? 0.8 * *mean + 0.2 * now : now;
    s->t_head = vnp_now_s();
    pthread_mutex_unlock(&d->lock);
}

static void set_ready(struct run_dispatch *d, int idx_device, bool is_ready) {
    struct run_share *s = &d->shares[idx_device];
    d->n_ready += is_ready - s->is_ready;
    s->is_ready = is_ready;
    pthread_cond_broadcast(&d->has_pack);
}

void vnp_run_dispatch_ready(struct run_dispatch *d, int idx_device, bool is_ready) {
    pthread_mutex_lock(&d->lock);
    set_ready(d, idx_device, is_ready);
    pthread_mutex_unlock(&d->lock);
}

bool vnp_run_dispatch_drop(struct run_dispatch *d, int idx_device) {
    pthread_mutex_lock(&d->lock);
    bool has_more = --d->n_alive > 0;
    set_ready(d, idx_device, false);
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
