// SPDX-License-Identifier: MIT
// A bounded queue (or stack) of pointers between threads, with time spent waiting as a by-product.
// Closing lets pops drain what is left; aborting ends both sides at once.
#include "run/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

void vnp_run_cond_init(pthread_cond_t *c) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

void vnp_run_cond_wait_s(pthread_cond_t *c, pthread_mutex_t *m, double timeout_s) {
    if (timeout_s < 0) {
        pthread_cond_wait(c, m);
        return;
    }
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = (int64_t)t.tv_nsec + (int64_t)(timeout_s * 1e9);
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    pthread_cond_timedwait(c, m, &t);
}

vnp_status vnp_run_queue_init(struct run_queue *q, size_t cap) {
    *q = (struct run_queue){.cap = cap};
    q->ring = calloc(cap, sizeof *q->ring);
    if (!q->ring) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "queue");
    pthread_mutex_init(&q->lock, NULL);
    vnp_run_cond_init(&q->can_push);
    vnp_run_cond_init(&q->can_pop);
    return VNP_OK;
}

void vnp_run_queue_fini(struct run_queue *q) {
    if (!q->ring) return;
    pthread_cond_destroy(&q->can_push);
    pthread_cond_destroy(&q->can_pop);
    pthread_mutex_destroy(&q->lock);
    free(q->ring);
    q->ring = NULL;
}

bool vnp_run_queue_push(struct run_queue *q, void *p, double *wait_s) {
    pthread_mutex_lock(&q->lock);
    if (q->n == q->cap && !q->is_aborted) {
        double t = vnp_now_s();
        while (q->n == q->cap && !q->is_aborted && !q->is_closed)
            pthread_cond_wait(&q->can_push, &q->lock);
        if (wait_s) *wait_s += vnp_now_s() - t;
    }
    bool is_in = !q->is_aborted && !q->is_closed;
    if (is_in) {
        q->ring[(q->head + q->n++) % q->cap] = p;
        pthread_cond_signal(&q->can_pop);
    }
    pthread_mutex_unlock(&q->lock);
    return is_in;
}

enum run_pop vnp_run_queue_pop(struct run_queue *q, double timeout_s, void **out, double *wait_s) {
    enum run_pop result = RUN_POP_END;
    double t0 = vnp_now_s();
    pthread_mutex_lock(&q->lock);
    while (q->n == 0 && !q->is_closed && !q->is_aborted) {
        double left = timeout_s < 0 ? -1 : t0 + timeout_s - vnp_now_s();
        if (timeout_s >= 0 && left <= 0) break;
        vnp_run_cond_wait_s(&q->can_pop, &q->lock, left);
    }
    if (q->n > 0 && !q->is_aborted) {
        *out = q->ring[(q->head + (q->is_stack ? q->n - 1 : 0)) % q->cap];
        if (!q->is_stack) q->head = (q->head + 1) % q->cap;
        q->n--;
        pthread_cond_signal(&q->can_push);
        result = RUN_POP_OK;
    } else if (!q->is_closed && !q->is_aborted) {
        result = RUN_POP_TIMEOUT;
    }
    pthread_mutex_unlock(&q->lock);
    if (wait_s) *wait_s += vnp_now_s() - t0;
    return result;
}

void vnp_run_queue_close(struct run_queue *q) {
    pthread_mutex_lock(&q->lock);
    q->is_closed = true;
    pthread_cond_broadcast(&q->can_pop);
    pthread_cond_broadcast(&q->can_push);
    pthread_mutex_unlock(&q->lock);
}

void vnp_run_queue_abort(struct run_queue *q) {
    pthread_mutex_lock(&q->lock);
    q->is_aborted = true;
    pthread_cond_broadcast(&q->can_pop);
    pthread_cond_broadcast(&q->can_push);
    pthread_mutex_unlock(&q->lock);
}

size_t vnp_run_queue_count(struct run_queue *q) {
    pthread_mutex_lock(&q->lock);
    size_t n = q->n;
    pthread_mutex_unlock(&q->lock);
    return n;
}
