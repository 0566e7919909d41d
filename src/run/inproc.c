// SPDX-License-Identifier: MIT
// Encoders of one device in this process: the device, its encoders, two sessions an encoder where
// the device works beside the host, so that one pack's copies hide behind another's computing. A
// sequence longer than the budget gets a session of its own size.
#include "run/engine.h"

#include <stdlib.h>

enum { N_SESSIONS = 2 };

struct session {
    struct vnp_encoder_session *session[N_ENC];
    struct vnp_encoder_session *in_use; /* of the pack in flight */
    int64_t max_tokens[N_ENC];
    const struct run_pack *pack; /* in flight */
    float *out;
};

struct run_encoders {
    const struct run_inproc *plan;
    struct vnp_device *device;
    struct vnp_encoder *encoder[N_ENC];
    struct session sessions[N_SESSIONS];
    int n_sessions;
    struct vnp_safe *safe;
};

void vnp_run_encoders_close(struct run_encoders *w) {
    if (!w) return;
    for (int i = 0; i < N_SESSIONS; i++)
        for (int enc = 0; enc < N_ENC; enc++)
            vnp_encoder_session_destroy(w->sessions[i].session[enc]);
    vnp_safe_destroy(w->safe);
    for (int enc = 0; enc < N_ENC; enc++) vnp_encoder_destroy(w->encoder[enc]);
    w->plan->device.backend->device_close(w->device);
    free(w);
}

static vnp_status open_parts(struct run_encoders *w) {
    const struct run_inproc *plan = w->plan;
    const struct vnp_backend *b = plan->device.backend;
    struct vnp_device_options opt = {.precision = plan->precision,
                                     .idx_device = plan->device.idx_device,
                                     .is_emulation = plan->device.is_emulation,
                                     .n_threads = plan->n_threads,
                                     .cache_dir = plan->cache_dir};
    struct vnp_safe_options safe = {.backend = b,
                                    .idx_device = opt.idx_device,
                                    .n_threads = opt.n_threads,
                                    .cache_dir = opt.cache_dir,
                                    .precision = opt.precision};
    VNP_TRY(b->device_open(&opt, &w->device));
    VNP_TRY(vnp_safe_create(&safe, &w->safe));
    w->n_sessions = b->is_host ? 1 : N_SESSIONS;
    for (int enc = 0; enc < N_ENC; enc++) {
        if (!plan->checkpoint[enc]) continue;
        VNP_TRY(vnp_encoder_create(b, w->device, plan->checkpoint[enc], &w->encoder[enc]));
        for (int i = 0; i < w->n_sessions; i++) {
            VNP_TRY(vnp_encoder_session_create(w->encoder[enc], plan->budget_tokens, plan->max_seqs,
                                               &w->sessions[i].session[enc]));
            w->sessions[i].max_tokens[enc] = plan->budget_tokens;
        }
    }
    return VNP_OK;
}

vnp_status vnp_run_encoders_open(const struct run_inproc *plan, struct run_encoders **out) {
    *out = NULL;
    struct run_encoders *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    w->plan = plan;
    vnp_status status = open_parts(w);
    if (status != VNP_OK) {
        vnp_run_encoders_close(w);
        return status;
    }
    *out = w;
    return VNP_OK;
}

int vnp_run_encoders_n_sessions(const struct run_encoders *w) {
    return w->n_sessions;
}

struct vnp_device *vnp_run_encoders_device(struct run_encoders *w) {
    return w->device;
}

int64_t vnp_run_encoders_n_floats(const struct run_encoders *w, const struct run_pack *p) {
    int64_t rows, cols;
    if (!w->encoder[p->enc]) return 0;
    vnp_encoder_out_shape(w->encoder[p->enc], &w->plan->want, &p->view, &rows, &cols);
    return rows * cols;
}

/* The session of an encoder, made larger when a long sequence needs it. */
static vnp_status session_for(struct run_encoders *w, struct session *s, int enc,
                              int64_t n_tokens) {
    if (n_tokens <= s->max_tokens[enc] && s->session[enc]) return VNP_OK;
    vnp_encoder_session_destroy(s->session[enc]);
    s->session[enc] = NULL;
    s->max_tokens[enc] = 0;
    VNP_TRY(
        vnp_encoder_session_create(w->encoder[enc], n_tokens, w->plan->max_seqs, &s->session[enc]));
    s->max_tokens[enc] = n_tokens;
    return VNP_OK;
}

vnp_status vnp_run_encoders_submit(struct run_encoders *w, int session, const struct run_pack *p,
                                   float *out) {
    struct session *s = &w->sessions[session];
    int64_t budget = w->plan->budget_tokens, n_tokens = p->view.n_tokens;
    /* back to the ordinary size after a long sequence */
    if (s->max_tokens[p->enc] > budget && n_tokens <= budget) s->max_tokens[p->enc] = 0;
    VNP_TRY(session_for(w, s, p->enc, VNP_MAX(budget, n_tokens)));
    s->in_use = s->session[p->enc];
    s->pack = p;
    s->out = out;
    return vnp_encoder_submit(s->in_use, &p->view, &w->plan->want, out);
}

/* Vectors that are not finite, computed again where that helps. Without memory for FP32 the run
 * goes on: the sequences concerned fail by themselves. */
static vnp_status judge(struct run_encoders *w, const struct run_pack *p, float *out,
                        struct run_outcome *o) {
    struct vnp_safe_count n;
    vnp_status status =
        vnp_safe_mend(w->safe, w->plan->checkpoint[p->enc], &w->plan->want, &p->view, out, &n);
    bool is_nomem = status == VNP_NOMEM || status == VNP_DEVICE_NOMEM;
    if (is_nomem && n.n_failed > 0)
        vnp_log(VNP_LOG_WARN, "run", "%lld sequences overflow, and there is no memory for fp32: %s",
                (long long)n.n_failed, vnp_error_last()->text);
    else
        VNP_TRY(status);
    o->is_judged = true;
    o->n_rerun = n.n_rerun;
    o->n_rerun_tokens = n.n_rerun_tokens;
    o->n_failed = n.n_failed;
    return VNP_OK;
}

vnp_status vnp_run_encoders_wait(struct run_encoders *w, int session, struct run_outcome *o) {
    struct session *s = &w->sessions[session];
    const struct run_pack *p = s->pack;
    *o = (struct run_outcome){0};
    VNP_TRY(vnp_encoder_wait(s->in_use));
    o->has_span = vnp_encoder_span(s->in_use, &o->begin_s, &o->end_s);
    bool is_counted = w->plan->want.pool != VNP_POOL_NONE;
    if (is_counted && vnp_encoder_n_nonfinite(s->in_use) == 0) return VNP_OK;
    return judge(w, p, s->out, o);
}

/* ---- as a worker of the pool --------------------------------------------------------------------
 */

struct inproc {
    struct run_encoders *encoders;
    struct {
        float *out;
        size_t cap_bytes;
        struct run_outcome outcome;
    } slots[N_SESSIONS]; /* a slot is a session */
};

static void inproc_close(void *worker) {
    struct inproc *w = worker;
    for (int i = 0; i < N_SESSIONS; i++) free(w->slots[i].out);
    vnp_run_encoders_close(w->encoders);
    free(w);
}

static vnp_status inproc_open(void *ctx, const struct run_patience *patience, void **worker) {
    (void)patience; /* loading cannot be interrupted */
    struct inproc *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    vnp_status status = vnp_run_encoders_open(ctx, &w->encoders);
    if (status != VNP_OK) {
        free(w);
        return status;
    }
    *worker = w;
    return VNP_OK;
}

static int inproc_n_slots(void *worker) {
    return vnp_run_encoders_n_sessions(((struct inproc *)worker)->encoders);
}

static vnp_status inproc_submit(void *worker, int slot, const struct run_pack *p) {
    struct inproc *w = worker;
    size_t n = (size_t)vnp_run_encoders_n_floats(w->encoders, p) * sizeof(float);
    if (n > w->slots[slot].cap_bytes) {
        free(w->slots[slot].out);
        w->slots[slot].out = malloc(n);
        w->slots[slot].cap_bytes = w->slots[slot].out ? n : 0;
        if (!w->slots[slot].out)
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%zu bytes of vectors", n);
    }
    return vnp_run_encoders_submit(w->encoders, slot, p, w->slots[slot].out);
}

static vnp_status inproc_wait(void *worker, int slot, const struct run_patience *patience,
                              const float **out) {
    struct inproc *w = worker;
    (void)patience;
    *out = w->slots[slot].out;
    return vnp_run_encoders_wait(w->encoders, slot, &w->slots[slot].outcome);
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
