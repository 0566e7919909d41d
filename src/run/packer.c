// SPDX-License-Identifier: MIT
// Streaming best fit over a length histogram. Held sequences lie in one first-in first-out list a
// length, with a two-level bitmap of the lengths in use, so that "the longest not above x" costs a
// few instructions. A pack is built around the oldest sequence (nothing waits for ever) from
// lengths as near to it as there are, and its last gap is closed by the one or two sequences that
// fit it best. What does not fill a pack simply stays held: that is the open pack carried over
// from one look-ahead window to the next.
#include "run/packer.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };

struct item {
    uint64_t tag;
    uint64_t serial;   /* push order */
    int32_t next, len; /* list of its length; len 0 = free */
};

struct bucket {
    int32_t head, tail;
};

struct vnp_packer {
    struct vnp_packer_options opt;
    struct item *items; /* grows to the look-ahead's size, then stays */
    int32_t n_items_cap, free_head;
    struct bucket *buckets; /* [budget + 1]; length 0 holds the over-long ones */
    uint64_t *bits, *top;   /* lengths in use; words of bits in use */
    int64_t n_words, n_top;
    int64_t n_seqs, n_tokens;
    uint64_t serial;
    struct {
        uint64_t serial;
        int32_t len;
    } * order; /* ring: push order of held sequences, for the oldest */
    size_t order_head, order_n, order_cap;
};

static void bit_set(struct vnp_packer *p, int64_t len) {
    p->bits[len >> 6] |= 1ull << (len & 63);
    p->top[len >> 12] |= 1ull << ((len >> 6) & 63);
}

static void bit_clear(struct vnp_packer *p, int64_t len) {
    p->bits[len >> 6] &= ~(1ull << (len & 63));
    if (!p->bits[len >> 6]) p->top[len >> 12] &= ~(1ull << ((len >> 6) & 63));
}

/* Longest length in use in 1..x, or 0. */
static int64_t find_down(const struct vnp_packer *p, int64_t x) {
    if (x < 1) return 0;
    int64_t w = x >> 6;
    uint64_t v = p->bits[w] & (~0ull >> (63 - (x & 63)));
    if (v) return (w << 6) + 63 - __builtin_clzll(v);
    if (--w < 0) return 0;
    int64_t t = w >> 6;
    uint64_t u = p->top[t] & (~0ull >> (63 - (w & 63)));
    while (!u) {
        if (--t < 0) return 0;
        u = p->top[t];
    }
    w = (t << 6) + 63 - __builtin_clzll(u);
    return (w << 6) + 63 - __builtin_clzll(p->bits[w]);
}

/* Shortest length in use in x..budget, or 0. */
static int64_t find_up(const struct vnp_packer *p, int64_t x) {
    if (x > p->opt.budget_tokens) return 0;
    int64_t w = x >> 6;
    uint64_t v = p->bits[w] & (~0ull << (x & 63));
    if (v) return (w << 6) + __builtin_ctzll(v);
    if (++w >= p->n_words) return 0;
    int64_t t = w >> 6;
    uint64_t u = p->top[t] & (~0ull << (w & 63));
    while (!u) {
        if (++t >= p->n_top) return 0;
        u = p->top[t];
    }
    w = (t << 6) + __builtin_ctzll(u);
    return (w << 6) + __builtin_ctzll(p->bits[w]);
}

vnp_status vnp_packer_create(const struct vnp_packer_options *opt, struct vnp_packer **out) {
    *out = NULL;
    if (opt->budget_tokens < 1 || opt->budget_tokens > (1 << 24) || opt->max_seqs < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a pack of %lld tokens and %lld sequences",
                        (long long)opt->budget_tokens, (long long)opt->max_seqs);
    struct vnp_packer *p = calloc(1, sizeof *p);
    if (!p) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer");
    p->opt = *opt;
    if (p->opt.lookahead_tokens < 1) p->opt.lookahead_tokens = 8 * opt->budget_tokens;
    p->n_words = (opt->budget_tokens >> 6) + 1;
    p->n_top = (p->n_words >> 6) + 1;
    p->free_head = NONE;
    p->buckets = malloc((size_t)(opt->budget_tokens + 1) * sizeof *p->buckets);
    p->bits = calloc((size_t)p->n_words, sizeof *p->bits);
    p->top = calloc((size_t)p->n_top, sizeof *p->top);
    if (!p->buckets || !p->bits || !p->top) {
        vnp_packer_destroy(p);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer");
    }
    for (int64_t i = 0; i <= opt->budget_tokens; i++) p->buckets[i] = (struct bucket){NONE, NONE};
    *out = p;
    return VNP_OK;
}

void vnp_packer_destroy(struct vnp_packer *p) {
    if (!p) return;
    free(p->items);
    free(p->buckets);
    free(p->bits);
    free(p->top);
    free(p->order);
    free(p);
}

static vnp_status items_grow(struct vnp_packer *p) {
    int64_t cap = p->n_items_cap ? 2 * (int64_t)p->n_items_cap : 1024;
    if (cap > INT32_MAX) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer: too many sequences");
    struct item *items = realloc(p->items, (size_t)cap * sizeof *items);
    if (!items) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer");
    for (int64_t i = cap - 1; i >= p->n_items_cap; i--) {
        items[i].len = 0;
        items[i].next = p->free_head;
        p->free_head = (int32_t)i;
    }
    p->items = items;
    p->n_items_cap = (int32_t)cap;
    return VNP_OK;
}

/* Drops ring entries whose sequence has already left; the list heads are the oldest of a length. */
static void order_trim(struct vnp_packer *p) {
    while (p->order_n > 0) {
        int32_t head = p->buckets[p->order[p->order_head].len].head;
        if (head != NONE && p->items[head].serial <= p->order[p->order_head].serial) return;
        p->order_head = (p->order_head + 1) & (p->order_cap - 1);
        p->order_n--;
    }
}

static vnp_status order_push(struct vnp_packer *p, uint64_t serial, int32_t len) {
    if (p->order_n == p->order_cap) order_trim(p);
    if (p->order_n == p->order_cap) {
        size_t cap = p->order_cap ? 2 * p->order_cap : 1024;
        void *ring = malloc(cap * sizeof *p->order);
        if (!ring) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "packer");
        size_t first = VNP_MIN(p->order_n, p->order_cap - p->order_head);
        if (p->order_n) {
            memcpy(ring, p->order + p->order_head, first * sizeof *p->order);
            memcpy((char *)ring + first * sizeof *p->order, p->order,
                   (p->order_n - first) * sizeof *p->order);
        }
        free(p->order);
        p->order = ring;
        p->order_cap = cap;
        p->order_head = 0;
    }
    size_t at = (p->order_head + p->order_n++) & (p->order_cap - 1);
    p->order[at].serial = serial;
    p->order[at].len = len;
    return VNP_OK;
}

vnp_status vnp_packer_push(struct vnp_packer *p, int64_t len, uint64_t tag) {
    if (len < 1 || len > INT32_MAX)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a sequence of %lld tokens", (long long)len);
    if (p->free_head == NONE) VNP_TRY(items_grow(p));
    int64_t slot = len > p->opt.budget_tokens ? 0 : len;
    VNP_TRY(order_push(p, p->serial, (int32_t)slot));
    int32_t i = p->free_head;
    struct item *it = &p->items[i];
    p->free_head = it->next;
    *it = (struct item){tag, p->serial++, NONE, (int32_t)len};
    struct bucket *b = &p->buckets[slot];
    if (b->head == NONE) {
        b->head = i;
        if (slot > 0) bit_set(p, slot);
    } else {
        p->items[b->tail].next = i;
    }
    b->tail = i;
    p->n_seqs++;
    p->n_tokens += len;
    return VNP_OK;
}

static void take(struct vnp_packer *p, int64_t slot, struct vnp_packed *out) {
    struct bucket *b = &p->buckets[slot];
    int32_t i = b->head;
    struct item *it = &p->items[i];
    b->head = it->next;
    if (b->head == NONE && slot > 0) bit_clear(p, slot);
    out->tags[out->n_seqs++] = it->tag;
    out->n_tokens += it->len;
    if (it->len > out->max_len) out->max_len = it->len;
    p->n_seqs--;
    p->n_tokens -= it->len;
    it->len = 0;
    it->next = p->free_head;
    p->free_head = i;
}

/* Closes the last gap: the single best length, or the pair that leaves less. */
static void close_gap(struct vnp_packer *p, struct vnp_packed *out) {
    enum { MAX_TRIES = 64 };
    for (;;) {
        int64_t gap = p->opt.budget_tokens - out->n_tokens;
        int64_t room = p->opt.max_seqs - out->n_seqs;
        int64_t one = room > 0 ? find_down(p, gap) : 0;
        if (one == 0) return;
        int64_t best = one, best_a = one, best_b = 0;
        int64_t a = one;
        for (int t = 0; room > 1 && best < gap && a > 0 && t < MAX_TRIES; t++) {
            int64_t b = find_down(p, gap - a);
            if (b == a && p->items[p->buckets[a].head].next == NONE) b = find_down(p, a - 1);
            if (b > 0 && a + b > best) {
                best = a + b;
                best_a = a;
                best_b = b;
            }
            a = find_down(p, a - 1);
        }
        take(p, best_a, out);
        if (best_b > 0) take(p, best_b, out);
    }
}

bool vnp_packer_pop(struct vnp_packer *p, struct vnp_packed *out) {
    out->n_seqs = out->n_tokens = out->max_len = 0;
    if (p->n_seqs == 0) return false;
    if (p->buckets[0].head != NONE) {
        take(p, 0, out);
        return true;
    }
    order_trim(p);
    int64_t anchor = p->order[p->order_head].len;
    int64_t down = anchor, up = find_up(p, anchor + 1), reserve = 2 * anchor;
    while (out->n_seqs < p->opt.max_seqs) {
        int64_t gap = p->opt.budget_tokens - out->n_tokens;
        bool is_down = down > 0 && (up == 0 || anchor - down <= up - anchor);
        int64_t len = is_down ? down : up;
        if (len == 0 || len > gap || (out->n_seqs > 0 && gap - len < reserve && gap != len)) break;
        take(p, len, out);
        if (p->buckets[len].head != NONE) continue;
        if (is_down)
            down = find_down(p, len - 1);
        else
            up = find_up(p, len + 1);
    }
    close_gap(p, out);
    return true;
}

bool vnp_packer_is_ready(const struct vnp_packer *p) {
    return p->buckets[0].head != NONE || p->n_tokens >= p->opt.lookahead_tokens;
}

int64_t vnp_packer_n_seqs(const struct vnp_packer *p) {
    return p->n_seqs;
}

int64_t vnp_packer_n_tokens(const struct vnp_packer *p) {
    return p->n_tokens;
}
