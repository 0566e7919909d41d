// SPDX-License-Identifier: MIT
// A device's thread: pulls packs, keeps as many in flight as its worker has slots, delivers
// vectors, and judges faults.
//
// A worker that is lost (crashed, killed, hung: status DEVICE) is opened anew and must first answer
// a probe of three tokens. If it does not come back after three tries, or is lost again and again
// without one good pack between, the device is dropped and the others go on. Packs that were in
// flight become suspects: a suspect is computed alone, on another device where there is one. One
// that takes a second worker along is halved, halves of halves, until one sequence is left. Its
// last trial is the first thing that a new worker is given: only when that one is lost too does
// the sequence fail, with the reason. So an innocent one is blamed neither for its company nor for
// a worker that was about to fail anyway.
//
// A wrong answer (NaN, out of memory, a refused pack) costs no worker: its pack alone is judged,
// and only several in a row make the worker suspicious. Out of memory halves the device's budget,
// which grows back by an eighth after each RECOVER_PACKS good packs.
//
// The watchdog: a pack may take FACTOR times what the slowest pack so far would have taken for its
// tokens, and at least the floor of the options; before anything was measured, the time for
// starting. Only workers in processes of their own can be ended; see worker.h.
#include "run/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_SLOTS = 8,
    MAX_OPEN_TRIES = 3,
    MAX_LOST = 24, /* in a row, without a good pack: more than halving needs */
    MAX_WRONG = 4, /* wrong answers in a row that a worker may give */
    FAULTS_TO_HALVE = 2,
    FAULTS_TO_FAIL = 3,
    RECOVER_PACKS = 8,
    FACTOR = 20,
    DEFAULT_WATCHDOG_S = 120,
    DEFAULT_START_S = 1800,
    LONG_TOKENS = 2048 /* a sequence of this length costs twice as much a token */
};

struct driver {
    struct run_engine *e;
    struct run_device *dev;
    void *worker;
    int n_slots, n_in_flight, first; /* slots in flight: first .. first + n - 1, circular */
    struct run_pack *packs[MAX_SLOTS];
    double t_submit[MAX_SLOTS];
    struct run_pack *held;    /* a suspect that waits for the slots to be empty */
    double t_busy;            /* since when something has been in flight */
    double t_done;            /* when the last pack was done */
    double s_per_cost[N_ENC]; /* slowest measured, fading; 0 = none yet */
    int64_t n_since_nomem;
    int n_lost, n_wrong; /* in a row */
    bool is_fresh;       /* the worker has had nothing but probes */
};

/* ---- time --------------------------------------------------------------------------------------
 */

/* Attention makes a long sequence's tokens dearer. */
static double cost(const struct run_pack *p) {
    return (double)p->view.n_tokens * (1 + (double)p->view.max_len / LONG_TOKENS);
}

static struct run_patience patience_start(const struct run_engine *e) {
    double s = e->opt->start_s;
    return (struct run_patience){.limit_s = s > 0 ? s : DEFAULT_START_S,
                                 .is_abandoned = &e->is_abandoned};
}

/* For the oldest pack in flight. */
static struct run_patience patience_for(const struct driver *v, const struct run_pack *p) {
    struct run_patience out = patience_start(v->e);
    double floor_s = v->e->opt->watchdog_s > 0 ? v->e->opt->watchdog_s : DEFAULT_WATCHDOG_S;
    double known = v->s_per_cost[p->enc];
    if (known > 0) out.limit_s = FACTOR * known * cost(p);
    out.limit_s = VNP_MAX(out.limit_s, floor_s);
    return out;
}

/* A good pack of slot `slot`: seconds since it was the oldest in flight. */
static void measure(struct driver *v, int slot, const struct run_pack *p) {
    double now = vnp_now_s(), s = now - VNP_MAX(v->t_submit[slot], v->t_done);
    double *slowest = &v->s_per_cost[p->enc];
    *slowest = VNP_MAX(s / cost(p), 0.99 * *slowest);
    v->t_done = now;
    vnp_run_dispatch_measured(&v->e->dispatch, v->dev->idx, p->enc, p->view.n_tokens,
                              VNP_MAX(s, 1e-9));
}

static void nap(const struct driver *v, double s) {
    for (; s > 0 && !vnp_run_engine_is_ending(v->e); s -= 0.05) {
        struct timespec t = {.tv_nsec = (long)(VNP_MIN(s, 0.05) * 1e9)};
        nanosleep(&t, NULL);
    }
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static void close_worker(struct driver *v) {
    vnp_run_dispatch_ready(&v->e->dispatch, v->dev->idx, false);
    if (v->worker) v->dev->ops->close(v->worker);
    v->worker = NULL;
}

/* Three tokens that every encoder knows. */
static vnp_status probe(struct driver *v, int enc) {
    uint16_t tokens[3] = {1, 5, 2};
    int32_t cu[2] = {0, 3};
    struct run_pack p = {.enc = enc, .tokens = tokens, .cu = cu, .cap_tokens = 3, .cap_seqs = 1};
    struct run_patience patience = patience_start(v->e);
    p.view = (struct vnp_pack){3, 1, 3, tokens, cu};
    const float *out;
    VNP_TRY(v->dev->ops->submit(v->worker, 0, &p));
    VNP_TRY(v->dev->ops->wait(v->worker, 0, &patience, &out));
    for (int64_t i = 0; i < v->e->n_cols[enc]; i++)
        if (!isfinite(out[i]))
            return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "%s answers a probe with NaN",
                            v->dev->name);
    return VNP_OK;
}

static vnp_status open_worker(struct driver *v) {
    double t = vnp_now_s();
    struct run_patience patience = patience_start(v->e);
    vnp_status status = v->dev->ops->open(v->dev->ctx, &patience, &v->worker);
    v->dev->open_s += vnp_now_s() - t;
    if (status != VNP_OK) {
        v->worker = NULL;
        return status;
    }
    v->n_slots = VNP_MIN(MAX_SLOTS, v->dev->ops->n_slots(v->worker));
    v->n_in_flight = v->first = 0;
    v->n_wrong = 0;
    v->is_fresh = true;
    v->dev->span_end_s = 0; /* a clock of its own */
    return VNP_OK;
}

/* Opens again with growing pauses and probes; false when the device does not come back. */
static bool reopen_worker(struct driver *v, int enc) {
    double pause = 0.05;
    for (int i = 0; i < MAX_OPEN_TRIES && !vnp_run_engine_is_ending(v->e); i++) {
        atomic_fetch_add(&v->dev->n_restarts, 1);
        vnp_status status = open_worker(v);
        if (status == VNP_OK) status = probe(v, enc);
        if (status == VNP_OK) {
            vnp_run_dispatch_ready(&v->e->dispatch, v->dev->idx, true);
            return true;
        }
        struct vnp_error kept = *vnp_error_last();
        if (status == VNP_CANCELED) return false;
        vnp_run_engine_incident(v->e, v->dev->name, "restart failed", kept.text);
        close_worker(v);
        vnp_error_set(&kept);
        nap(v, pause);
        pause *= 4;
    }
    return false;
}

/* ---- judging ------------------------------------------------------------------------------------
 */

static void give_back(struct driver *v, struct run_pack *p) {
    vnp_run_dispatch_push_back(&v->e->dispatch, p);
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
    a->idx_blamed = b->idx_blamed = p->idx_blamed;
    vnp_run_dispatch_push_back(d, b);
    vnp_run_dispatch_push_back(d, a);
    vnp_run_dispatch_release(d, p);
    return true;
}

static void fail_items(struct driver *v, struct run_pack *p, const char *reason) {
    for (int64_t i = 0; i < p->view.n_seqs; i++)
        vnp_run_engine_item_done(v->e, p->items[i], NULL, reason);
    vnp_run_dispatch_release(&v->e->dispatch, p);
}

/* The pack is to blame: once more for another device, then its halves, then its failure. */
static void judge_pack(struct driver *v, struct run_pack *p, vnp_status status, const char *text) {
    bool is_one = p->view.n_seqs == 1;
    bool is_too_big = (status == VNP_DEVICE_NOMEM || status == VNP_NOMEM) && !is_one;
    p->idx_blamed = v->dev->idx;
    if (is_too_big) {
        v->dev->budget_tokens = VNP_MAX(64, VNP_MIN(v->dev->budget_tokens, p->view.n_tokens) / 2);
        v->n_since_nomem = 0;
        p->idx_blamed = -1; /* smaller, it is welcome here */
        if (split(v, p, p->n_faults)) return;
    }
    if (++p->n_faults < (is_one ? FAULTS_TO_FAIL : FAULTS_TO_HALVE)) {
        give_back(v, p);
        return;
    }
    if (!is_one && split(v, p, FAULTS_TO_HALVE - 1)) return;
    fail_items(v, p, text);
}

/* Gives back everything that is in flight. */
static void requeue_in_flight(struct driver *v, bool are_suspects) {
    for (int i = v->n_in_flight - 1; i >= 0; i--) {
        struct run_pack *p = v->packs[(v->first + i) % v->n_slots];
        if (are_suspects && p->n_faults == 0) p->n_faults = 1;
        if (are_suspects) p->idx_blamed = v->dev->idx;
        give_back(v, p);
    }
    v->n_in_flight = 0;
    if (v->held) give_back(v, v->held);
    v->held = NULL;
}

static void note(struct driver *v, vnp_status status, char *text, size_t n) {
    snprintf(text, n, "%.*s", (int)n - 1, vnp_error_last()->text);
    atomic_fetch_add(&v->dev->n_faults, 1);
    vnp_run_engine_incident(v->e, v->dev->name, vnp_status_text(status), text);
}

/* The worker is lost with p and whatever else was in flight. false: the device is dropped. */
static bool handle_loss(struct driver *v, struct run_pack *p, vnp_status status) {
    char text[256];
    struct vnp_error kept = *vnp_error_last();
    bool was_alone = v->n_in_flight == 0;
    int enc = p->enc;
    note(v, status, text, sizeof text);
    v->dev->busy_s += vnp_now_s() - v->t_busy;
    requeue_in_flight(v, true);
    close_worker(v);
    bool is_guilty = was_alone && p->n_faults > 0;
    if (!is_guilty) { /* others may go on with it while this device starts */
        p->n_faults = VNP_MAX(p->n_faults, 1);
        p->idx_blamed = v->dev->idx;
        give_back(v, p);
    }
    bool may_come_back = ++v->n_lost < MAX_LOST;
    bool is_back = may_come_back && reopen_worker(v, enc);
    if (is_guilty && is_back) {
        judge_pack(v, p, status, text);
    } else if (is_guilty) {
        give_back(v, p); /* the device's fault */
    }
    if (!may_come_back) vnp_error_set(&kept);
    return is_back;
}

/* The worker gave a wrong answer, or none, to p alone. false: the device is dropped. */
static bool handle_wrong(struct driver *v, struct run_pack *p, vnp_status status) {
    char text[256];
    if (++v->n_wrong > MAX_WRONG) return handle_loss(v, p, status);
    note(v, status, text, sizeof text);
    judge_pack(v, p, status, text);
    if (v->n_in_flight == 0) v->dev->busy_s += vnp_now_s() - v->t_busy;
    return true;
}

/* Grace is over: nobody waits for what is in flight. */
static bool abandon(struct driver *v, struct run_pack *p) {
    give_back(v, p);
    requeue_in_flight(v, false);
    v->dev->busy_s += vnp_now_s() - v->t_busy;
    return true;
}

static bool handle_fault(struct driver *v, struct run_pack *p, vnp_status status) {
    if (status == VNP_CANCELED && vnp_run_engine_is_ending(v->e)) return abandon(v, p);
    return status == VNP_DEVICE ? handle_loss(v, p, status) : handle_wrong(v, p, status);
}

/* ---- packs --------------------------------------------------------------------------------------
 */

/* n_bad: sequences with vectors that are not finite, to be found and failed. */
static void deliver(struct driver *v, struct run_pack *p, const float *out, int64_t n_bad) {
    int64_t n_cols = v->e->n_cols[p->enc], row = 0;
    for (int64_t i = 0; i < p->view.n_seqs; i++) {
        int64_t n_rows = p->items[i]->n_rows; /* the item may be gone after item_done */
        const float *vec = out + row * n_cols;
        if (n_bad > 0 && !vnp_vectors_are_finite(vec, n_rows * n_cols)) vec = NULL;
        vnp_run_engine_item_done(v->e, p->items[i], vec,
                                 "the encoder's answer is NaN or infinity, in fp32 too");
        row += n_rows;
    }
    atomic_fetch_add(&v->dev->n_packs, 1);
    atomic_fetch_add(&v->dev->n_tokens, p->view.n_tokens);
    atomic_fetch_add(&v->e->n_tokens, p->view.n_tokens);
    v->n_lost = v->n_wrong = 0;
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

static int64_t count_bad(const struct driver *v, const struct run_pack *p, const float *out) {
    int64_t n_cols = v->e->n_cols[p->enc], n_bad = 0;
    for (int64_t i = 0; i < p->view.n_seqs; i++) {
        int64_t n = p->items[i]->n_rows * n_cols;
        n_bad += !vnp_vectors_are_finite(out, n);
        out += n;
    }
    return n_bad;
}

/* What the worker knows of the pack beside its vectors; *n_bad sequences are to fail. Vectors that
 * are not finite are taken only where the worker has judged so, sequence by sequence; an answer
 * without any finite vector is the device's fault, not that of all its sequences. */
static bool is_sound(struct driver *v, int slot, const struct run_pack *p, const float *out,
                     int64_t *n_bad) {
    struct run_device *d = v->dev;
    struct run_outcome o = {0};
    if (d->ops->outcome) d->ops->outcome(v->worker, slot, &o);
    add_span(d, &o);
    d->n_reruns += o.n_rerun;
    d->n_rerun_tokens += o.n_rerun_tokens;
    *n_bad = count_bad(v, p, out);
    if (*n_bad == 0) return true;
    return o.is_judged && o.n_failed == *n_bad && (*n_bad < p->view.n_seqs || p->view.n_seqs == 1);
}

/* Waits for the oldest pack in flight. */
static bool take_result(struct driver *v) {
    int slot = v->first;
    struct run_pack *p = v->packs[slot];
    const float *out = NULL;
    struct run_patience patience = patience_for(v, p);
    vnp_status status = v->dev->ops->wait(v->worker, slot, &patience, &out);
    int64_t n_bad = 0;
    v->first = (v->first + 1) % v->n_slots;
    v->n_in_flight--;
    if (status == VNP_OK && !is_sound(v, slot, p, out, &n_bad)) {
        vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the encoder answered NaN or infinity");
        return handle_wrong(v, p, VNP_DEVICE);
    }
    if (status != VNP_OK) return handle_fault(v, p, status);
    measure(v, slot, p);
    if (v->n_in_flight == 0) v->dev->busy_s += v->t_done - v->t_busy;
    if (v->dev->t_first_s <= 0) v->dev->t_first_s = v->t_done - v->e->t_start;
    deliver(v, p, out, n_bad);
    return true;
}

/* A sequence that fails with the next fault is tried on a new worker. false: none came up. */
static bool renew_for_trial(struct driver *v, const struct run_pack *p) {
    if (v->is_fresh || p->view.n_seqs > 1 || p->n_faults < FAULTS_TO_FAIL - 1) return true;
    close_worker(v);
    return reopen_worker(v, p->enc);
}

static bool start_pack(struct driver *v, struct run_pack *p) {
    if (p->view.n_tokens > v->dev->budget_tokens && p->view.n_seqs > 1 && split(v, p, p->n_faults))
        return true;
    if (!renew_for_trial(v, p)) {
        give_back(v, p);
        return false;
    }
    v->is_fresh = false;
    int slot = (v->first + v->n_in_flight) % v->n_slots;
    v->t_submit[slot] = vnp_now_s();
    if (v->n_in_flight == 0) v->t_busy = v->t_submit[slot];
    vnp_status status = v->dev->ops->submit(v->worker, slot, p);
    if (status != VNP_OK) return handle_fault(v, p, status);
    v->packs[slot] = p;
    v->n_in_flight++;
    return true;
}

/* Nothing joins a suspect in flight. */
static bool is_alone_in_flight(const struct driver *v) {
    return v->n_in_flight > 0 && v->packs[v->first]->n_faults > 0;
}

/* A pack to start now: the held one, or the next of the line. */
static enum run_pop next_pack(struct driver *v, struct run_pack **p) {
    *p = v->held;
    if (v->held && v->n_in_flight == 0) {
        v->held = NULL;
        if (!vnp_run_engine_is_ending(v->e)) return RUN_POP_OK;
        give_back(v, *p);
    }
    if (v->held || v->n_in_flight >= v->n_slots || is_alone_in_flight(v)) return RUN_POP_TIMEOUT;
    double t = vnp_now_s();
    bool is_waiting = v->n_in_flight == 0;
    enum run_pop got = vnp_run_dispatch_pop(&v->e->dispatch, v->dev->idx, is_waiting, p);
    if (is_waiting) v->dev->wait_s += vnp_now_s() - t;
    if (got != RUN_POP_OK || (*p)->n_faults == 0 || v->n_in_flight == 0) return got;
    v->held = *p;
    return RUN_POP_TIMEOUT;
}

/* false: dropped; true: the work is at its end. */
static bool drive(struct driver *v) {
    for (;;) {
        struct run_pack *p = NULL;
        enum run_pop got = next_pack(v, &p);
        if (got == RUN_POP_OK) {
            if (!start_pack(v, p)) return false;
            continue;
        }
        if (v->n_in_flight == 0) return true;
        if (!take_result(v)) return false;
    }
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

/* The device is given up. Models that cannot be used end the run, and so does the last device. */
static void drop(struct driver *v, vnp_status status) {
    struct run_device *dev = v->dev;
    struct vnp_error last = *vnp_error_last();
    bool is_model = status != VNP_OK && last.origin != VNP_FROM_DEVICE && status != VNP_DEVICE &&
                    status != VNP_DEVICE_NOMEM;
    dev->is_dropped = true;
    vnp_run_engine_incident(v->e, dev->name, "dropped", last.text);
    bool has_more = vnp_run_dispatch_drop(&v->e->dispatch, dev->idx);
    if (is_model) {
        vnp_error_set(&last);
        vnp_run_engine_fail(v->e, status);
    } else if (!has_more) {
        vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE,
                 "no device is left; the last one said: %.500s%s%.300s", last.text,
                 last.file[0] ? ": " : "", last.file);
        vnp_error_hint("repeat the command to go on from what is finished");
        vnp_run_engine_fail(v->e, VNP_DEVICE);
    }
}

void *vnp_run_device_main(void *device) {
    struct run_device *dev = device;
    struct driver v = {.e = dev->engine, .dev = dev};
    vnp_status status = open_worker(&v);
    if (status == VNP_OK) {
        vnp_run_dispatch_ready(&v.e->dispatch, dev->idx, true);
    } else if (status == VNP_DEVICE || status == VNP_DEVICE_NOMEM) { /* once more, in a while */
        struct vnp_error kept = *vnp_error_last();
        vnp_run_engine_incident(v.e, dev->name, "start failed", kept.text);
        vnp_error_set(&kept);
        if (reopen_worker(&v, v.e->uses[ENC_DNA] ? ENC_DNA : ENC_PROTEIN)) status = VNP_OK;
    }
    bool is_whole = status == VNP_OK && drive(&v);
    if (!is_whole && !vnp_run_engine_is_ending(v.e)) drop(&v, status);
    close_worker(&v);
    struct run_stage s = {.busy_s = dev->busy_s, .wait_in_s = dev->wait_s};
    vnp_run_thread_ends(v.e, STAGE_DEVICE, &s);
    return NULL;
}
