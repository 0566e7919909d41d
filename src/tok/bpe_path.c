// SPDX-License-Identifier: MIT
// Byte-pair encoding without merging, for models that were trained on few letters (DNA). A cut of a
// word into tokens is what merging gives if and only if every two neighbours stay apart when
// encoded alone; that is one bit of a table made at load. So the longest token that may follow the
// last one is taken, a shorter one where it may not, and a dead end is marked and left backwards:
// each place dies at most once.
//
// Why neighbours decide: take the first merge across a cut. Up to then all tokens have grown as if
// alone, so the same two symbols meet in the pair alone. Only in a run of one symbol does the
// further left matter, by parity, and every token left of the first cut that is crossed holds an
// even part of the run. Needs merges in building order, one merge a token, tokens that encode to
// themselves: checked here; other models keep to merging.
// Measured (bench_tok, published tokenizer, bacterial DNA, busy machine, CPU time): 63 MB/s against
// 23 with one list per rank; 2.7 tokens tried and 0.5 steps back a token of 4.6 letters.
// Source of the idea: the linear-time encoder of github/rust-gems (crate bpe); table and code ours.
#include "tok/bpe.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 8192, MAX_CLASSES = 16, TABLE_BITS = 12, DEAD = 0xffff };

/* A place in the tree of all tokens. Tokens count base letters first, then products by rank. */
struct vnp_bpe_path {
    unsigned n_tokens, class_bits, n_ahead; /* letters that one look into `ahead` reads */
    uint8_t class_of_byte[256];             /* MAX_CLASSES: unknown */
    uint16_t id[MAX_TOKENS], len[MAX_TOKENS];
    uint16_t shorter[MAX_TOKENS]; /* longest token that is a proper prefix, DEAD: none */
    size_t row_words;
    uint64_t *may_follow; /* [n_tokens][row_words]: bit b of row a */
    uint16_t *child;      /* [n_nodes][1 << class_bits], 0: none */
    uint16_t *best;       /* [n_nodes] longest token on the way to the node, DEAD: none */
    size_t n_nodes;
    struct {
        uint16_t node, best; /* node 0: the walk ends before, best is the answer */
    } ahead[1 << TABLE_BITS];
};

static inline bool get_bit(const uint64_t *row, unsigned i) {
    return row[i >> 6] >> (i & 63) & 1;
}

static inline void put_bit(uint64_t *row, unsigned i, bool bit) {
    row[i >> 6] = (row[i >> 6] & ~(UINT64_C(1) << (i & 63))) | (uint64_t)bit << (i & 63);
}

/* ---- load ---------------------------------------------------------------------------------- */

struct build {
    const struct vnp_bpe *bpe;
    struct vnp_bpe_path *t;
    unsigned n_base;
    uint16_t *token_of_id; /* [VNP_BPE_MAX_ID + 2], DEAD: none */
};

static unsigned left_of(const struct build *b, unsigned token) {
    return b->token_of_id[b->bpe->left[token - b->n_base]];
}

static unsigned right_of(const struct build *b, unsigned token) {
    return b->token_of_id[b->bpe->right[token - b->n_base]];
}

/* Numbers the tokens; false when the model is not of the kind that this file can do. */
static bool number_tokens(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    const struct vnp_bpe *m = b->bpe;
    memset(b->token_of_id, 0xff, sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    memset(t->class_of_byte, MAX_CLASSES, sizeof t->class_of_byte);
    for (unsigned c = 0; c < 128; c++) {
        if (m->id_of_byte[c] == VNP_BPE_NO_ID) continue;
        if (b->n_base == MAX_CLASSES) return false;
        t->class_of_byte[c] = (uint8_t)b->n_base;
        t->id[b->n_base] = m->id_of_byte[c];
        t->len[b->n_base] = 1;
        b->token_of_id[m->id_of_byte[c]] = (uint16_t)b->n_base++;
    }
    if (b->n_base == 0 || b->n_base + m->n_merges > MAX_TOKENS) return false;
    t->n_tokens = b->n_base + (unsigned)m->n_merges;
    for (unsigned k = b->n_base; k < t->n_tokens; k++) {
        unsigned r = k - b->n_base, a = b->token_of_id[m->left[r]], z = b->token_of_id[m->right[r]];
        if (a == DEAD || z == DEAD || b->token_of_id[m->product[r]] != DEAD) return false;
        if (m->left[r] == m->unk_id || m->right[r] == m->unk_id) return false;
        t->id[k] = m->product[r];
        t->len[k] = (uint16_t)(t->len[a] + t->len[z]);
        if (t->len[k] > 1000) return false;
        b->token_of_id[m->product[r]] = (uint16_t)k;
    }
    for (t->class_bits = 1; 1U << t->class_bits < b->n_base; t->class_bits++) {
    }
    t->n_ahead = TABLE_BITS / t->class_bits;
    return true;
}

/* Ranks of the merges whose left part is `a`, by right part; others stay DEAD. */
static void mark_merges(const struct build *b, const uint16_t *first, const uint16_t *after,
                        unsigned a, uint16_t *rank, bool is_set) {
    for (unsigned r = first[a]; r != DEAD; r = after[r])
        rank[right_of(b, b->n_base + r)] = is_set ? (uint16_t)r : DEAD;
}

/* Bit (a, z): no merge crosses the cut before a and z are whole. Of the two the one made last is
 * undone: until then its inner part stood at the cut, and that must not have merged with the other.
 * In one rank the left end goes first: a's merge before the cut's, the cut's before z's. */
static void fill_row(const struct build *b, unsigned a, const uint16_t *first,
                     const uint16_t *after, const uint16_t *rank) {
    struct vnp_bpe_path *t = b->t;
    uint64_t *row = t->may_follow + a * t->row_words;
    unsigned z = a;
    if (a < b->n_base) {
        for (z = 0; z < b->n_base; z++) put_bit(row, z, true);
    } else {
        unsigned inner = right_of(b, a);
        memcpy(row, t->may_follow + inner * t->row_words, t->row_words * 8);
        for (unsigned r = first[inner]; r != DEAD; r = after[r])
            if (b->n_base + r < a) put_bit(row, right_of(b, b->n_base + r), false);
    }
    for (; z < t->n_tokens; z++) {
        unsigned inner = left_of(b, z);
        put_bit(row, z, get_bit(row, inner) && b->n_base + rank[inner] > z);
    }
}

/* false: some token does not encode to itself. */
static vnp_status fill_may_follow(struct build *b, bool *is_sound) {
    struct vnp_bpe_path *t = b->t;
    unsigned n_merges = t->n_tokens - b->n_base;
    t->row_words = (t->n_tokens + 63) / 64;
    t->may_follow = calloc((size_t)t->n_tokens * t->row_words, 8);
    uint16_t *lists = malloc(sizeof(uint16_t) * 3 * MAX_TOKENS);
    if (!t->may_follow || !lists) {
        free(lists);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for the tokenizer");
    }
    uint16_t *first = lists, *after = lists + MAX_TOKENS, *rank = lists + 2 * MAX_TOKENS;
    memset(lists, 0xff, sizeof(uint16_t) * 3 * MAX_TOKENS);
    for (unsigned r = n_merges; r-- > 0;) {
        unsigned a = left_of(b, b->n_base + r);
        after[r] = first[a];
        first[a] = (uint16_t)r;
    }
    for (unsigned a = 0; a < t->n_tokens; a++) {
        mark_merges(b, first, after, a, rank, true);
        fill_row(b, a, first, after, rank);
        mark_merges(b, first, after, a, rank, false);
    }
    *is_sound = true;
    for (unsigned k = b->n_base; k < t->n_tokens; k++) /* ask all before the first bit is taken */
        *is_sound &= get_bit(t->may_follow + left_of(b, k) * t->row_words, right_of(b, k));
    for (unsigned k = b->n_base; k < t->n_tokens; k++)
        put_bit(t->may_follow + left_of(b, k) * t->row_words, right_of(b, k), false);
    free(lists);
    return VNP_OK;
}

/* The letters of a token, as classes, into out[len]. */
static void spell(const struct build *b, unsigned token, uint8_t *out) {
    while (token >= b->n_base) {
        spell(b, left_of(b, token), out);
        out += b->t->len[left_of(b, token)];
        token = right_of(b, token);
    }
    *out = (uint8_t)token;
}

static unsigned walk(const struct vnp_bpe_path *t, const uint8_t *letters, unsigned n) {
    unsigned node = 0;
    for (unsigned i = 0; i < n; i++) node = t->child[node << t->class_bits | letters[i]];
    return node;
}

static void grow_tree(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    uint8_t letters[1000];
    t->n_nodes = 1;
    for (unsigned k = 0; k < t->n_tokens; k++) {
        unsigned node = 0;
        spell(b, k, letters);
        for (unsigned i = 0; i < t->len[k]; i++) {
            uint16_t *child = &t->child[node << t->class_bits | letters[i]];
            if (!*child) *child = (uint16_t)t->n_nodes++;
            node = *child;
        }
        t->best[node] = (uint16_t)k;
    }
    for (size_t node = 0; node < t->n_nodes; node++) /* parents come before their children */
        for (unsigned c = 0; c < 1U << t->class_bits; c++) {
            unsigned child = t->child[node << t->class_bits | c];
            if (child && t->best[child] == DEAD) t->best[child] = t->best[node];
        }
    for (unsigned k = 0; k < t->n_tokens; k++) {
        spell(b, k, letters);
        t->shorter[k] = t->best[walk(t, letters, t->len[k] - 1U)];
    }
}

static vnp_status make_tree(struct build *b, bool *is_small) {
    struct vnp_bpe_path *t = b->t;
    size_t n_nodes = 1;
    for (unsigned k = 0; k < t->n_tokens; k++) n_nodes += t->len[k];
    *is_small = n_nodes < DEAD;
    if (!*is_small) return VNP_OK;
    t->child = calloc(n_nodes << t->class_bits, sizeof *t->child);
    t->best = malloc(n_nodes * sizeof *t->best);
    if (!t->child || !t->best)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for the tokenizer");
    memset(t->best, 0xff, n_nodes * sizeof *t->best);
    grow_tree(b);
    unsigned mask = (1U << t->class_bits) - 1;
    for (unsigned code = 0; code < 1U << (t->class_bits * t->n_ahead); code++) {
        unsigned node = 0, next = 0, i = 0;
        for (; i < t->n_ahead; i++, node = next) {
            next = t->child[node << t->class_bits | (code >> (i * t->class_bits) & mask)];
            if (!next) break;
        }
        t->ahead[code].best = t->best[node];
        t->ahead[code].node = i == t->n_ahead ? (uint16_t)node : 0;
    }
    return VNP_OK;
}

vnp_status vnp_bpe_path_create(const struct vnp_bpe *bpe, struct vnp_bpe_path **out) {
    *out = NULL;
    if (!bpe->is_monotone) return VNP_OK;
    struct build b = {.bpe = bpe, .t = calloc(1, sizeof *b.t)};
    b.token_of_id = malloc(sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    vnp_status s = VNP_OK;
    bool is_fit = false;
    if (!b.t || !b.token_of_id) {
        s = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for the tokenizer");
        goto done;
    }
    if (!number_tokens(&b)) goto done;
    s = make_tree(&b, &is_fit);
    if (s == VNP_OK && is_fit) s = fill_may_follow(&b, &is_fit);
done:
    free(b.token_of_id);
    if (s == VNP_OK && is_fit)
        *out = b.t;
    else
        vnp_bpe_path_destroy(b.t);
    return s;
}

void vnp_bpe_path_destroy(struct vnp_bpe_path *t) {
    if (!t) return;
    free(t->may_follow);
    free(t->child);
    free(t->best);
    free(t);
}

/* ---- encode -------------------------------------------------------------------------------- */

/* codes u16[len], dead bits of the places 0..len, letters u8[len] */
size_t vnp_bpe_path_scratch_bytes(size_t max_len) {
    return (max_len / 64 + 1) * 8 + max_len * 3;
}

static inline unsigned longest_at(const struct vnp_bpe_path *t, const uint16_t *code, size_t at,
                                  size_t n) {
    unsigned mask = (1U << t->class_bits) - 1, node = 0;
    size_t i = at;
    if (n - at >= t->n_ahead) {
        node = t->ahead[code[at]].node;
        if (!node) return t->ahead[code[at]].best;
        i += t->n_ahead;
    }
    for (; i < n; i++) {
        unsigned next = t->child[node << t->class_bits | (code[i] & mask)];
        if (!next) break;
        node = next;
    }
    return t->best[node];
}

/* Known letters only; out gets ids. */
static size_t encode_run(const struct vnp_bpe_path *t, const uint8_t *letters, size_t n,
                         uint16_t *code, uint64_t *dead, uint16_t *out) {
    unsigned ahead = 0, keep = (1U << (t->class_bits * t->n_ahead)) - 1;
    if (n == 0) return 0;
    memset(dead, 0, (n / 64 + 1) * 8);
    for (size_t i = n; i-- > 0;)
        code[i] = (uint16_t)(ahead = (ahead << t->class_bits | letters[i]) & keep);
    size_t k = 0, at = 0;
    const uint64_t *row = NULL; /* of the last token */
    unsigned token = longest_at(t, code, 0, n);
    for (;;) {
        size_t end = at + t->len[token];
        if ((!row || get_bit(row, token)) && !(dead[end >> 6] >> (end & 63) & 1)) {
            out[k++] = (uint16_t)token;
            at = end;
            if (at == n) break;
            row = t->may_follow + token * t->row_words;
            token = longest_at(t, code, at, n);
            continue;
        }
        token = t->shorter[token];
        while (token == DEAD) { /* nothing may stand here: the last token was wrong */
            VNP_ASSERT(k > 0);
            dead[at >> 6] |= UINT64_C(1) << (at & 63);
            unsigned last = out[--k];
            at -= t->len[last];
            token = t->shorter[last];
            row = k ? t->may_follow + out[k - 1] * t->row_words : NULL;
        }
    }
    for (size_t i = 0; i < k; i++) out[i] = t->id[out[i]];
    return k;
}

size_t vnp_bpe_path_encode(const struct vnp_bpe *bpe, const char *text, size_t len, void *scratch,
                           uint16_t *out, size_t *n_unknown) {
    const struct vnp_bpe_path *t = bpe->path;
    uint64_t *dead = scratch;
    uint16_t *code = (uint16_t *)(void *)(dead + len / 64 + 1);
    uint8_t *letters = (uint8_t *)(code + len);
    size_t n = 0, n_out = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = t->class_of_byte[(uint8_t)text[i]];
        letters[n] = c;
        if (c < MAX_CLASSES) {
            n++;
            continue;
        }
        ++*n_unknown;
        if (bpe->unk_id < 0) continue; /* it vanishes, its neighbours meet */
        n_out += encode_run(t, letters, n, code, dead, out + n_out);
        out[n_out++] = (uint16_t)bpe->unk_id;
        n = 0;
    }
    return n_out + encode_run(t, letters, n, code, dead, out + n_out);
}
