// SPDX-License-Identifier: MIT
// A device's thread: pulls packs, keeps as many in flight as its worker has slots, delivers
// vectors, and judges faults. After a fault the worker is opened anew and must first answer a
// probe of three tokens: if it does, the pack is to blame (twice blamed it is halved, until one
// sequence is left, which fails); if it does not, the device is, and after three tries it is
// dropped and its packs go to the others.
#include "run/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SLOTS = 8, MAX_OPEN_TRIES = 3, BLAMED_TWICE = 2, RECOVER_PACKS = 8 };

struct driver {
    struct run_engine *e;
    struct run_device *dev;
    void *worker;
    int n_slots, n_in_flight, first; /* slots in flight: first .. first + n - 1, circular */
    struct run_pack *packs[MAX_SLOTS];
    double t_busy; /* since when something has been in flight */
    int64_t n_since_nomem;
};

static void close_worker(struct driver *v) {
    if (v->worker) v->dev->ops->close(v->worker);
    v->worker = NULL;
}

static void nap(double s) {
    struct timespec t = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

/* Three tokens that every encoder knows. */
static vnp_status probe(struct driver *v, int enc) {
    uint16_t tokens[3] = {1, 5, 2};
    int32_t cu[2] = {0, 3};
    struct run_pack p = {.enc = enc, .tokens = tokens, .cu = cu, .cap_tokens = 3, .cap_seqs = 1};
    p.view = (struct vnp_pack){3, 1, 3, tokens, cu};
    const float *out;
    VNP_TRY(v->dev->ops->submit(v->worker, 0, &p));
    VNP_TRY(v->dev->ops->wait(v->worker, 0, &out));
    for (int64_t i = 0; i < v->e->n_cols[enc]; i++)
        if (!isfinite(out[i]))
            return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "%s answers a probe with NaN",
                            v->dev->name);
    return VNP_OK;
}

static vnp_status open_worker(struct driver *v) {
    double t = vnp_now_s();
    vnp_status status = v->dev->ops->open(v->dev->ctx, &v->worker);
    v->dev->open_s += vnp_now_s() - t;
    if (status != VNP_OK) {
        v->worker = NULL;
        return status;
    }
    v->dev->span_end_s = 0; /* a clock of its own */
    v->n_slots = VNP_MIN(MAX_SLOTS, v->dev->ops->n_slots(v->worker));
    v->n_in_flight = v->first = 0;
    return VNP_OK;
}

/* Opens again with growing pauses and probes; false when the device does not come back. */
static bool reopen_worker(struct driver *v, int enc) {
    double pause = 0.05;
    for (int i = 0; i < MAX_OPEN_TRIES && !vnp_run_engine_is_ending(v->e); i++) {
        vnp_status status = open_worker(v);
        if (status == VNP_OK) status = probe(v, enc);
        if (status == VNP_OK) return true;
        vnp_run_engine_incident(v->e, v->dev->name, "restart failed", vnp_error_last()->text);
        close_worker(v);
        nap(pause);
        pause *= 4;
    }
    return false;
}

/* Two packs of a pack's halves, to the front of the line; false when memory is out. */
static bool split(struct driver *v, struct run_pack *p, int n_faults) {
    struct run_dispatch *d = &v->e->dispatch;
    int64_t n = p->view.n_seqs, half = n / 2;
    int64_t mid = p->cu[half];
    struct run_pack *a = vnp_run_pack_create(mid, half);
    struct run_pack *b = vnp_run_pack_create(p->view.n_tokens - mid, n - half);
    if (!a || !b) {
        if (a) vnp_run_dispatch_unget(d, a);
        if (b) vnp_run_dispatch_unget(d, b);
        return false;
    }
    vnp_run_pack_fill(a, p->enc, p->items, half);
    vnp_run_pack_fill(b, p->enc, p->items + half, n - half);
    a->n_faults = b->n_faults = n_faults;
    vnp_run_dispatch_push(d, b, true);
    vnp_run_dispatch_push(d, a, true);
    vnp_run_dispatch_release(d, p);
    return true;
}

static void fail_items(struct driver *v, struct run_pack *p, const char *reason) {
    for (int64_t i = 0; i < p->view.n_seqs; i++)
        vnp_run_engine_item_done(v->e, p->items[i], NULL, reason);
    vnp_run_dispatch_release(&v->e->dispatch, p);
}

/* The pack is to blame, in the light of a status. */
static void judge_pack(struct driver *v, struct run_pack *p, vnp_status status, const char *text) {
    bool is_too_big = (status == VNP_DEVICE_NOMEM || status == VNP_NOMEM) && p->view.n_seqs > 1;
    if (!is_too_big && ++p->n_faults < BLAMED_TWICE) {
        vnp_run_dispatch_push(&v->e->dispatch, p, true);
        vnp_run_dispatch_release(&v->e->dispatch, NULL);
        return;
    }
    if (is_too_big) {
        v->dev->budget_tokens = VNP_MAX(64, VNP_MIN(v->dev->budget_tokens, p->view.n_tokens) / 2);
        v->n_since_nomem = 0;
    }
    if (p->view.n_seqs > 1 && split(v, p, is_too_big ? p->n_faults : BLAMED_TWICE - 1)) return;
    fail_items(v, p, text);
}

/* Gives back everything that is in flight beside the guilty pack. */
static void requeue_in_flight(struct driver *v) {
    for (int i = v->n_in_flight - 1; i >= 0; i--) {
        vnp_run_dispatch_push(&v->e->dispatch, v->packs[(v->first + i) % v->n_slots], true);
        vnp_run_dispatch_release(&v->e->dispatch, NULL);
    }
    v->n_in_flight = 0;
}

/* false: the device is dropped. */
static bool handle_fault(struct driver *v, struct run_pack *p, vnp_status status) {
    char text[256];
    snprintf(text, sizeof text, "%.200s", vnp_error_last()->text);
    atomic_fetch_add(&v->dev->n_faults, 1);
    vnp_run_engine_incident(v->e, v->dev->name, vnp_status_text(status), text);
    if (v->n_in_flight == 0) v->dev->busy_s += vnp_now_s() - v->t_busy;
    requeue_in_flight(v);
    close_worker(v);
    if (reopen_worker(v, p->enc)) {
        judge_pack(v, p, status, text);
        return true;
    }
    vnp_run_dispatch_push(&v->e->dispatch, p, true); /* not its fault */
    vnp_run_dispatch_release(&v->e->dispatch, NULL);
    return false;
}

static int64_t pack_rows(const struct run_pack *p) {
    int64_t n = 0;
    for (int64_t i = 0; i < p->view.n_seqs; i++) n += p->items[i]->n_rows;
    return n;
}

/* n_bad: sequences with vectors that are not finite, to be found and failed. */
static void deliver(struct driver *v, struct run_pack *p, const float *out, int64_t n_bad) {
    int64_t n_cols = v->e->n_cols[p->enc], row = 0;
    for (int64_t i = 0; i < p->view.n_seqs; i++) {
        int64_t n_rows = p->items[i]->n_rows; /* the item may be gone after item_done */
        const float *vec = out + row * n_cols;
        if (n_bad > 0 && !vnp_run_rows_are_finite(vec, n_rows * n_cols)) vec = NULL;
        vnp_run_engine_item_done(v->e, p->items[i], vec,
                                 "the encoder's answer is NaN or infinity, in fp32 too");
        row += n_rows;
    }
    atomic_fetch_add(&v->dev->n_packs, 1);
    atomic_fetch_add(&v->dev->n_tokens, p->view.n_tokens);
    atomic_fetch_add(&v->e->n_tokens, p->view.n_tokens);
    if (v->dev->budget_tokens < v->e->budget_tokens && ++v->n_since_nomem >= RECOVER_PACKS) {
        v->dev->budget_tokens = VNP_MIN(v->e->budget_tokens, v->dev->budget_tokens * 9 / 8 + 1);
        v->n_since_nomem = 0;
    }
    vnp_run_dispatch_release(&v->e->dispatch, p);
}

/* Device time of the packs, overlaps counted once; packs end in the order they were submitted. */
static void add_span(struct run_device *d, const struct run_outcome *o) {
    if (!o->has_span) return;
    bool is_first = d->span_end_s <= 0;
    if (is_first) d->span_end_s = o->begin_s;
    double begin = VNP_MAX(o->begin_s, d->span_end_s), end = VNP_MAX(o->end_s, d->span_end_s);
    d->span_busy_s += VNP_MAX(0.0, o->end_s - begin);
    d->span_s += end - d->span_end_s;
    d->span_end_s = end;
}

/* What the worker knows of the pack beside its vectors; *n_bad sequences are to fail. An answer
 * without any finite vector is the device's fault, not that of all its sequences. */
static vnp_status look_at_outcome(struct driver *v, int slot, struct run_pack *p, const float *out,
                                  int64_t *n_bad) {
    struct run_device *d = v->dev;
    struct run_outcome o = {0};
    if (d->ops->outcome) d->ops->outcome(v->worker, slot, &o);
    add_span(d, &o);
    d->n_reruns += o.n_rerun;
    d->n_rerun_tokens += o.n_rerun_tokens;
    *n_bad = o.n_failed;
    bool is_known = o.is_judged && (o.n_failed < p->view.n_seqs || p->view.n_seqs == 1);
    if (is_known || vnp_run_rows_are_finite(out, pack_rows(p) * v->e->n_cols[p->enc]))
        return VNP_OK;
    return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the encoder answered NaN or infinity");
}

/* Waits for the oldest pack in flight. */
static bool take_result(struct driver *v) {
    struct run_pack *p = v->packs[v->first];
    const float *out = NULL;
    int64_t n_bad = 0;
    vnp_status status = v->dev->ops->wait(v->worker, v->first, &out);
    if (status == VNP_OK) status = look_at_outcome(v, v->first, p, out, &n_bad);
    v->first = (v->first + 1) % v->n_slots;
    v->n_in_flight--;
    if (status != VNP_OK) return handle_fault(v, p, status);
    if (v->n_in_flight == 0) v->dev->busy_s += vnp_now_s() - v->t_busy;
    if (v->dev->t_first_s <= 0) v->dev->t_first_s = vnp_now_s() - v->e->t_start;
    deliver(v, p, out, n_bad);
    return true;
}

static bool start_pack(struct driver *v, struct run_pack *p) {
    if (p->view.n_tokens > v->dev->budget_tokens && p->view.n_seqs > 1 && split(v, p, p->n_faults))
        return true;
    int slot = (v->first + v->n_in_flight) % v->n_slots;
    if (v->n_in_flight == 0) v->t_busy = vnp_now_s();
    vnp_status status = v->dev->ops->submit(v->worker, slot, p);
    if (status != VNP_OK) return handle_fault(v, p, status);
    v->packs[slot] = p;
    v->n_in_flight++;
    return true;
}

/* false: dropped; true: the work is at its end. */
static bool drive(struct driver *v) {
    for (;;) {
        struct run_pack *p = NULL;
        enum run_pop got = RUN_POP_TIMEOUT;
        if (v->n_in_flight < v->n_slots) {
            double t = vnp_now_s();
            bool is_waiting = v->n_in_flight == 0;
            got = vnp_run_dispatch_pop(&v->e->dispatch, is_waiting, &p);
            if (is_waiting) v->dev->wait_s += vnp_now_s() - t;
        }
        if (got == RUN_POP_OK) {
            if (!start_pack(v, p)) return false;
            continue;
        }
        if (v->n_in_flight == 0) return true;
        if (!take_result(v)) return false;
    }
}

void *vnp_run_device_main(void *device) {
    struct run_device *dev = device;
    struct driver v = {.e = dev->engine, .dev = dev};
    vnp_status status = open_worker(&v);
    if (status == VNP_DEVICE || status == VNP_DEVICE_NOMEM) { /* once more, in a while */
        vnp_run_engine_incident(v.e, dev->name, "start failed", vnp_error_last()->text);
        if (reopen_worker(&v, v.e->uses[ENC_DNA] ? ENC_DNA : ENC_PROTEIN)) status = VNP_OK;
    }
    bool is_whole = status == VNP_OK && drive(&v);
    if (!is_whole && !vnp_run_engine_is_ending(v.e)) {
        dev->is_dropped = true;
        bool is_model = status != VNP_OK && vnp_error_last()->origin != VNP_FROM_DEVICE &&
                        status != VNP_DEVICE && status != VNP_DEVICE_NOMEM;
        vnp_run_engine_incident(v.e, dev->name, "dropped", vnp_error_last()->text);
        bool has_more = vnp_run_dispatch_drop(&v.e->dispatch);
        if (is_model) {
            vnp_run_engine_fail(v.e, status);
        } else if (!has_more) {
            char last[512];
            snprintf(last, sizeof last, "%.500s", vnp_error_last()->text);
            vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "no device is left; the last one said: %s", last);
            vnp_error_hint("repeat the command to go on from what is finished");
            vnp_run_engine_fail(v.e, VNP_DEVICE);
        }
    }
    close_worker(&v);
    struct run_stage s = {.busy_s = dev->busy_s, .wait_in_s = dev->wait_s};
    vnp_run_thread_ends(v.e, STAGE_DEVICE, &s);
    return NULL;
}
