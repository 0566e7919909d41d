// SPDX-License-Identifier: MIT
// A fixed team of threads that shares out numbered tasks. Owns its threads; knows nothing of the
// work. Tasks are claimed one by one from an atomic counter, so uneven tasks balance; results must
// not depend on which thread runs a task (architecture.md, decision 8).
//
// Fields: job (fn, ctx, n_tasks) and generation are written by the caller of vnp_pool_run under
// lock and read by workers under lock; next_task is claimed atomically; n_active counts workers
// still inside the job, under lock.
#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct worker {
    struct vnp_pool *pool;
    pthread_t thread;
    int idx;
};

struct vnp_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    vnp_pool_fn *fn;
    void *ctx;
    int64_t n_tasks;
    atomic_int_fast64_t next_task;
    uint64_t generation;
    int n_active, n_threads, n_started;
    bool is_stopping;
    struct worker workers[];
};

static void run_tasks(struct vnp_pool *pool, int thread) {
    int64_t task;
    while ((task = atomic_fetch_add(&pool->next_task, 1)) < pool->n_tasks)
        pool->fn(pool->ctx, task, thread);
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    struct vnp_pool *pool = w->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->is_stopping && pool->generation == seen)
            pthread_cond_wait(&pool->wake, &pool->lock);
        if (pool->is_stopping) break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        run_tasks(pool, w->idx);
        pthread_mutex_lock(&pool->lock);
        if (--pool->n_active == 0) pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* CPUs granted by a cgroup v2 quota, or 0 for no limit. */
static int cgroup_cpus(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    long long quota = 0, period = 0;
    if (!f) return 0;
    int n = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int vnp_cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cgroup_cpus();
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}

vnp_status vnp_pool_create(int n_threads, struct vnp_pool **out) {
    *out = NULL;
    if (n_threads < 1) n_threads = vnp_cpu_count();
    if (n_threads > 4096) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%d threads", n_threads);
    struct vnp_pool *pool = calloc(1, sizeof *pool + (size_t)n_threads * sizeof pool->workers[0]);
    if (!pool) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "thread pool");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->n_threads = n_threads;
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &pool->workers[i];
        w->pool = pool;
        w->idx = i;
        int err = pthread_create(&w->thread, NULL, worker_main, w);
        if (err) {
            vnp_pool_destroy(pool);
            return vnp_fail_errno(VNP_NOMEM, VNP_FROM_NONE, err, "starting thread %d", i);
        }
        pool->n_started++;
    }
    *out = pool;
    return VNP_OK;
}

void vnp_pool_destroy(struct vnp_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 1; i <= pool->n_started; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int vnp_pool_n_threads(const struct vnp_pool *pool) {
    return pool ? pool->n_threads : 1;
}

void vnp_pool_run(struct vnp_pool *pool, int64_t n_tasks, vnp_pool_fn *fn, void *ctx) {
    if (!pool || pool->n_threads == 1 || n_tasks <= 1) {
        for (int64_t task = 0; task < n_tasks; task++) fn(ctx, task, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->ctx = ctx;
    pool->n_tasks = n_tasks;
    atomic_store(&pool->next_task, 0);
    pool->n_active = pool->n_started;
    pool->generation++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    run_tasks(pool, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->n_active > 0) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
