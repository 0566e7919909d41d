// SPDX-License-Identifier: MIT
// Equal sequences are encoded once. Keyed by the tokens (equal tokens give equal vectors, and
// sequences equal after upper-casing have equal tokens) through a 128-bit hash, then compared
// token by token. A fixed number of entries in one slab; chains by index; finished entries form a
// least-recently-used list and are the only ones that can be replaced.
#include "run/engine.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 4096 }; /* longer sequences are not kept: rare, and they cost slab memory */
enum entry_state { FREE = 0, PENDING, READY };

struct entry {
    struct vnp_hash128 hash;
    uint16_t *tokens;
    int32_t n_tokens, cap_tokens;
    int32_t chain;      /* next entry of the bucket, -1 = last */
    int32_t prev, next; /* READY: neighbours by age of use; FREE: next free */
    enum entry_state state;
    struct run_item *waiters;
};

struct run_dedup {
    pthread_mutex_t lock; /* guards everything */
    struct entry *entries;
    float *vectors; /* [n_entries][n_cols] */
    int32_t *buckets;
    int64_t n_cols;
    int32_t n_entries, n_buckets; /* n_buckets a power of two */
    int32_t free_head, oldest, newest;
};

vnp_status vnp_run_dedup_create(int64_t n_bytes, int64_t n_cols, struct run_dedup **out) {
    *out = NULL;
    int64_t n = n_bytes / (n_cols * (int64_t)sizeof(float) + (int64_t)sizeof(struct entry) + 512);
    n = VNP_MIN(n, 1 << 24);
    if (n < 1) return VNP_OK; /* off */
    struct run_dedup *d = calloc(1, sizeof *d);
    if (!d) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "dedup");
    pthread_mutex_init(&d->lock, NULL);
    d->n_cols = n_cols;
    d->n_entries = (int32_t)n;
    d->n_buckets = 1;
    while (d->n_buckets < 2 * d->n_entries) d->n_buckets *= 2;
    d->entries = calloc((size_t)n, sizeof *d->entries);
    d->vectors = malloc((size_t)(n * n_cols) * sizeof *d->vectors);
    d->buckets = malloc((size_t)d->n_buckets * sizeof *d->buckets);
    if (!d->entries || !d->vectors || !d->buckets) {
        vnp_run_dedup_destroy(d);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "dedup: %lld bytes", (long long)n_bytes);
    }
    for (int32_t i = 0; i < d->n_buckets; i++) d->buckets[i] = -1;
    for (int32_t i = 0; i < d->n_entries; i++) d->entries[i].next = i + 1 < n ? i + 1 : -1;
    d->oldest = d->newest = -1;
    *out = d;
    return VNP_OK;
}

void vnp_run_dedup_destroy(struct run_dedup *d) {
    if (!d) return;
    for (int32_t i = 0; d->entries && i < d->n_entries; i++) free(d->entries[i].tokens);
    free(d->entries);
    free(d->vectors);
    free(d->buckets);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static void lru_unlink(struct run_dedup *d, int32_t i) {
    struct entry *e = &d->entries[i];
    *(e->prev >= 0 ? &d->entries[e->prev].next : &d->oldest) = e->next;
    *(e->next >= 0 ? &d->entries[e->next].prev : &d->newest) = e->prev;
}

static void lru_append(struct run_dedup *d, int32_t i) {
    struct entry *e = &d->entries[i];
    e->prev = d->newest;
    e->next = -1;
    *(d->newest >= 0 ? &d->entries[d->newest].next : &d->oldest) = i;
    d->newest = i;
}

static int32_t *bucket_of(struct run_dedup *d, struct vnp_hash128 h) {
    return &d->buckets[h.lo & (uint64_t)(d->n_buckets - 1)];
}

static void chain_unlink(struct run_dedup *d, int32_t i) {
    int32_t *p = bucket_of(d, d->entries[i].hash);
    while (*p != i) p = &d->entries[*p].chain;
    *p = d->entries[i].chain;
}

/* An entry to use, or -1 when every one of them is on its way. */
static int32_t entry_get(struct run_dedup *d) {
    int32_t i = d->free_head;
    if (i >= 0) {
        d->free_head = d->entries[i].next;
        return i;
    }
    i = d->oldest;
    if (i < 0) return -1;
    lru_unlink(d, i);
    chain_unlink(d, i);
    return i;
}

static void entry_free(struct run_dedup *d, int32_t i) {
    d->entries[i].state = FREE;
    d->entries[i].next = d->free_head;
    d->free_head = i;
}

static int32_t entry_find(struct run_dedup *d, struct vnp_hash128 h, const struct run_item *it) {
    for (int32_t i = *bucket_of(d, h); i >= 0; i = d->entries[i].chain) {
        const struct entry *e = &d->entries[i];
        if (e->hash.lo == h.lo && e->hash.hi == h.hi && e->n_tokens == it->n_tokens &&
            memcmp(e->tokens, it->tokens, (size_t)it->n_tokens * sizeof *it->tokens) == 0)
            return i;
    }
    return -1;
}

static bool entry_fill(struct run_dedup *d, int32_t i, struct vnp_hash128 h,
                       const struct run_item *it) {
    struct entry *e = &d->entries[i];
    if (e->cap_tokens < it->n_tokens) {
        int32_t cap = VNP_ALIGN_UP(it->n_tokens, 64);
        uint16_t *tokens = realloc(e->tokens, (size_t)cap * sizeof *tokens);
        if (!tokens) return false;
        e->tokens = tokens;
        e->cap_tokens = cap;
    }
    memcpy(e->tokens, it->tokens, (size_t)it->n_tokens * sizeof *it->tokens);
    e->n_tokens = it->n_tokens;
    e->hash = h;
    e->state = PENDING;
    e->waiters = NULL;
    int32_t *bucket = bucket_of(d, h);
    e->chain = *bucket;
    *bucket = i;
    return true;
}

static enum run_dedup_found find(struct run_dedup *d, struct run_item *it, struct vnp_hash128 h) {
    int32_t i = entry_find(d, h, it);
    if (i < 0) {
        i = entry_get(d);
        if (i >= 0 && entry_fill(d, i, h, it))
            it->dedup = i;
        else if (i >= 0)
            entry_free(d, i);
        return RUN_DEDUP_NEW;
    }
    struct entry *e = &d->entries[i];
    if (e->state == PENDING) {
        it->next_waiter = e->waiters;
        e->waiters = it;
        return RUN_DEDUP_WAITS;
    }
    memcpy(it->out, d->vectors + (int64_t)i * d->n_cols, (size_t)d->n_cols * sizeof(float));
    lru_unlink(d, i);
    lru_append(d, i);
    return RUN_DEDUP_READY;
}

enum run_dedup_found vnp_run_dedup_find(struct run_dedup *d, struct run_item *it) {
    it->dedup = -1;
    it->next_waiter = NULL;
    if (!d || it->n_tokens > MAX_TOKENS || it->n_rows != 1) return RUN_DEDUP_NEW;
    struct vnp_hash128 h = vnp_hash(it->tokens, (size_t)it->n_tokens * sizeof *it->tokens);
    pthread_mutex_lock(&d->lock);
    enum run_dedup_found found = find(d, it, h);
    pthread_mutex_unlock(&d->lock);
    return found;
}

struct run_item *vnp_run_dedup_done(struct run_dedup *d, struct run_item *it, const float *vec) {
    if (!d || it->dedup < 0) return NULL;
    pthread_mutex_lock(&d->lock);
    struct entry *e = &d->entries[it->dedup];
    struct run_item *waiters = e->waiters;
    e->waiters = NULL;
    if (vec) {
        memcpy(d->vectors + (int64_t)it->dedup * d->n_cols, vec, (size_t)d->n_cols * sizeof(float));
        e->state = READY;
        lru_append(d, it->dedup);
    } else {
        chain_unlink(d, it->dedup);
        entry_free(d, it->dedup);
    }
    it->dedup = -1;
    pthread_mutex_unlock(&d->lock);
    return waiters;
}
