// SPDX-License-Identifier: MIT
// A worker of the device pool whose encoders live in this process: one device, its encoders, two
// sessions an encoder where the device works beside the host, so that one pack's copies hide
// behind another's computing. A sequence longer than the budget gets a session of its own size.
#include "run/engine.h"

#include <stdlib.h>

enum { N_SLOTS = 2 };

struct slot {
    struct vnp_encoder_session *session[N_ENC];
    struct vnp_encoder_session *in_use; /* of the pack in flight */
    int64_t max_tokens[N_ENC];
    const struct run_pack *pack; /* in flight */
    float *out;
    size_t cap_bytes;
    struct run_outcome outcome;
};

struct inproc {
    const struct run_inproc *plan;
    struct vnp_device *device;
    struct vnp_encoder *encoder[N_ENC];
    struct slot slots[N_SLOTS];
    int n_slots;
    struct run_safe safe;
};

static void inproc_close(void *worker) {
    struct inproc *w = worker;
    for (int i = 0; i < N_SLOTS; i++) {
        for (int enc = 0; enc < N_ENC; enc++) vnp_encoder_session_destroy(w->slots[i].session[enc]);
        free(w->slots[i].out);
    }
    vnp_run_safe_close(&w->safe);
    for (int enc = 0; enc < N_ENC; enc++) vnp_encoder_destroy(w->encoder[enc]);
    w->plan->device.backend->device_close(w->device);
    free(w);
}

static vnp_status open_parts(struct inproc *w) {
    const struct run_inproc *plan = w->plan;
    const struct vnp_backend *b = plan->device.backend;
    struct vnp_device_options opt = {.precision = plan->opt->precision,
                                     .idx_device = plan->device.idx_device,
                                     .n_threads = plan->opt->n_threads,
                                     .cache_dir = plan->opt->cache_dir};
    VNP_TRY(b->device_open(&opt, &w->device));
    w->n_slots = b->is_host ? 1 : N_SLOTS;
    for (int enc = 0; enc < N_ENC; enc++) {
        if (!plan->checkpoint[enc]) continue;
        VNP_TRY(vnp_encoder_create(b, w->device, plan->checkpoint[enc], &w->encoder[enc]));
        for (int i = 0; i < w->n_slots; i++) {
            VNP_TRY(vnp_encoder_session_create(w->encoder[enc], plan->budget_tokens, plan->max_seqs,
                                               &w->slots[i].session[enc]));
            w->slots[i].max_tokens[enc] = plan->budget_tokens;
        }
    }
    return VNP_OK;
}

static vnp_status inproc_open(void *ctx, void **worker) {
    struct inproc *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    w->plan = w->safe.plan = ctx;
    vnp_status status = open_parts(w);
    if (status != VNP_OK) {
        inproc_close(w);
        return status;
    }
    *worker = w;
    return VNP_OK;
}

static int inproc_n_slots(void *worker) {
    return ((struct inproc *)worker)->n_slots;
}

/* The slot's session of an encoder, made larger when a long sequence needs it. */
static vnp_status session_for(struct inproc *w, struct slot *s, int enc, int64_t n_tokens) {
    if (n_tokens <= s->max_tokens[enc] && s->session[enc]) return VNP_OK;
    vnp_encoder_session_destroy(s->session[enc]);
    s->session[enc] = NULL;
    s->max_tokens[enc] = 0;
    VNP_TRY(
        vnp_encoder_session_create(w->encoder[enc], n_tokens, w->plan->max_seqs, &s->session[enc]));
    s->max_tokens[enc] = n_tokens;
    return VNP_OK;
}

static vnp_status inproc_submit(void *worker, int slot, const struct run_pack *p) {
    struct inproc *w = worker;
    struct slot *s = &w->slots[slot];
    int64_t rows, cols, budget = w->plan->budget_tokens;
    vnp_encoder_out_shape(w->encoder[p->enc], &w->plan->want, &p->view, &rows, &cols);
    size_t n = (size_t)(rows * cols) * sizeof(float);
    if (n > s->cap_bytes) {
        free(s->out);
        s->out = malloc(n);
        s->cap_bytes = s->out ? n : 0;
        if (!s->out) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%zu bytes of vectors", n);
    }
    /* back to the ordinary size after a long sequence */
    if (s->max_tokens[p->enc] > budget && p->view.n_tokens <= budget) s->max_tokens[p->enc] = 0;
    VNP_TRY(session_for(w, s, p->enc, VNP_MAX(budget, p->view.n_tokens)));
    s->in_use = s->session[p->enc];
    s->pack = p;
    return vnp_encoder_submit(s->in_use, &p->view, &w->plan->want, s->out);
}

static vnp_status inproc_wait(void *worker, int slot, const float **out) {
    struct inproc *w = worker;
    struct slot *s = &w->slots[slot];
    const struct run_pack *p = s->pack;
    s->outcome = (struct run_outcome){0};
    *out = s->out;
    VNP_TRY(vnp_encoder_wait(s->in_use));
    struct run_outcome *o = &s->outcome;
    o->has_span = vnp_encoder_span(s->in_use, &o->begin_s, &o->end_s);
    bool is_counted = w->plan->want.pool != VNP_POOL_NONE;
    if (is_counted && vnp_encoder_n_nonfinite(s->in_use) == 0) return VNP_OK;
    return vnp_run_safe_judge(&w->safe, p, vnp_encoder_spec(w->encoder[p->enc])->n_hidden, s->out,
                              o);
}

static void inproc_outcome(void *worker, int slot, struct run_outcome *out) {
    *out = ((struct inproc *)worker)->slots[slot].outcome;
}

const struct run_worker_ops vnp_run_inproc_ops = {.kind = "in-process",
                                                  .open = inproc_open,
                                                  .close = inproc_close,
                                                  .n_slots = inproc_n_slots,
                                                  .submit = inproc_submit,
                                                  .wait = inproc_wait,
                                                  .outcome = inproc_outcome};
