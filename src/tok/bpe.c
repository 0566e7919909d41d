// SPDX-License-Identifier: MIT
// Byte-pair encoding. Text is cut at added tokens, then into words. A word goes the fast way of
// bpe_path.c where the model allows it; else the pair of lowest rank, the leftmost of equals, is
// merged until none is left: linked arrays and a binary heap, O(n log n).
// Tried for this second way: one list per rank instead of the heap, 27 MB/s of DNA (bench_tok).
// Source: Sennrich et al. 2016; behaviour in detail that of the `tokenizers` library.
#include "tok/bpe.h"

#include <stdlib.h>
#include <string.h>

enum { WORD = 1, SPACE = 2, PUNCTUATION = 4 };

/* One thread's memory for merging, laid into the caller's scratch. Symbols 1..n of a word, 0 and
 * n + 1 are sentinels. */
struct work {
    void *scratch;         /* aligned to 8 */
    uint64_t *heap;        /* [3 * max_len] rank << 32 | position, smallest first */
    uint32_t *prev, *next; /* [max_len + 2] */
    uint16_t *sym;         /* [max_len + 2] */
    size_t n_heap;
};

size_t vnp_bpe_scratch_bytes(const struct vnp_bpe *b, size_t max_len) {
    if (b->path) return vnp_bpe_path_scratch_bytes(max_len) + 8;
    return (max_len + 2) * (3 * 8 + 2 * 4 + 2) + 8;
}

size_t vnp_bpe_max_tokens(const struct vnp_bpe *b, size_t len) {
    return len + b->n_prefix + b->n_suffix;
}

int64_t vnp_bpe_vocab_size(const struct vnp_bpe *b) {
    return b->n_ids;
}

static struct work lay_out(const struct vnp_bpe *b, void *scratch, size_t len) {
    struct work w = {.scratch = (void *)VNP_ALIGN_UP((uintptr_t)scratch, 8)};
    if (b->path) return w;
    w.heap = w.scratch;
    w.prev = (uint32_t *)(void *)(w.heap + (len + 2) * 3);
    w.next = w.prev + len + 2;
    w.sym = (uint16_t *)(void *)(w.next + len + 2);
    return w;
}

/* ---- merging ------------------------------------------------------------------------------- */

/* Merges the symbols at p and behind it into `product`. */
static inline void join(struct work *w, uint32_t p, uint16_t product) {
    uint32_t q = w->next[p], r = w->next[q];
    w->sym[p] = product;
    w->sym[q] = VNP_BPE_NO_ID;
    w->next[p] = r;
    w->prev[r] = p;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t x) {
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > x; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = x;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0], x = heap[--*n];
    size_t i = 0, c;
    for (; (c = 2 * i + 1) < *n; i = c) {
        if (c + 1 < *n && heap[c + 1] < heap[c]) c++;
        if (heap[c] >= x) break;
        heap[i] = heap[c];
    }
    heap[i] = x;
    return top;
}

static void heap_push_pair(const struct vnp_bpe *b, struct work *w, uint32_t p) {
    unsigned rank = vnp_bpe_rank(b, w->sym[p], w->sym[w->next[p]]);
    if (rank != VNP_BPE_NO_RANK) heap_push(w->heap, &w->n_heap, (uint64_t)rank << 32 | p);
}

static void merge_all(const struct vnp_bpe *b, struct work *w, uint32_t n) {
    w->n_heap = 0;
    for (uint32_t p = 1; p < n; p++) heap_push_pair(b, w, p);
    while (w->n_heap) {
        uint64_t x = heap_pop(w->heap, &w->n_heap);
        uint32_t p = (uint32_t)x, rank = (uint32_t)(x >> 32);
        if (w->sym[p] != b->left[rank] || w->sym[w->next[p]] != b->right[rank]) continue;
        join(w, p, b->product[rank]);
        if (w->prev[p] != 0) heap_push_pair(b, w, w->prev[p]);
        heap_push_pair(b, w, p);
    }
}

/* ---- words --------------------------------------------------------------------------------- */

/* Fills the symbols of a word; unknown characters become the unknown token or vanish. */
static uint32_t fill(const struct vnp_bpe *b, struct work *w, const char *text, size_t len,
                     size_t *n_unknown) {
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++) {
        uint16_t id = b->id_of_byte[(uint8_t)text[i]];
        if (id == VNP_BPE_NO_ID) {
            ++*n_unknown;
            if (b->unk_id < 0) continue;
            id = (uint16_t)b->unk_id;
        }
        n++;
        w->sym[n] = id;
        w->prev[n] = n - 1;
        w->next[n] = n + 1;
    }
    w->sym[0] = w->sym[n + 1] = VNP_BPE_NO_ID;
    w->next[0] = 1;
    w->prev[n + 1] = n;
    return n;
}

static size_t encode_word(const struct vnp_bpe *b, struct work *w, const char *text, size_t len,
                          uint16_t *out, size_t *n_unknown) {
    if (b->path) return vnp_bpe_path_encode(b, text, len, w->scratch, out, n_unknown);
    uint32_t n = fill(b, w, text, len, n_unknown);
    size_t n_out = 0;
    merge_all(b, w, n);
    for (uint32_t p = 1; p <= n; p = w->next[p]) out[n_out++] = w->sym[p];
    return n_out;
}

static unsigned byte_class(uint8_t c) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) return SPACE;
    if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_') return WORD;
    return PUNCTUATION;
}

static size_t encode_words(const struct vnp_bpe *b, struct work *w, const char *text, size_t len,
                           uint16_t *out, size_t *n_unknown) {
    if (b->split == VNP_BPE_SPLIT_NONE) return encode_word(b, w, text, len, out, n_unknown);
    unsigned same = b->split == VNP_BPE_SPLIT_SPACE ? WORD | PUNCTUATION : 0;
    size_t n_out = 0, i = 0;
    while (i < len) {
        unsigned kind = byte_class((uint8_t)text[i]);
        size_t start = i++;
        if (kind == SPACE) continue;
        if (kind & same) kind = same;
        while (i < len && (byte_class((uint8_t)text[i]) & kind)) i++;
        n_out += encode_word(b, w, text + start, i - start, out + n_out, n_unknown);
    }
    return n_out;
}

/* ---- added tokens -------------------------------------------------------------------------- */

/* The longest added token of the asked kind that begins at p, or NULL. */
static const struct vnp_bpe_added *added_at(const struct vnp_bpe *b, const char *p, size_t left,
                                            bool is_late) {
    const struct vnp_bpe_added *best = NULL;
    if (!b->is_added_first[(uint8_t)*p]) return NULL;
    for (size_t k = 0; k < b->n_added; k++) {
        const struct vnp_bpe_added *a = &b->added[k];
        if (a->is_late == is_late && a->len <= left && (!best || a->len > best->len) &&
            memcmp(a->text, p, a->len) == 0)
            best = a;
    }
    return best;
}

/* Cuts at added tokens, leftmost and longest first: those matched in the raw text, then, in what is
 * left between them, those matched after normalization. */
static size_t encode_between(const struct vnp_bpe *b, struct work *w, const char *text, size_t len,
                             bool is_late, uint16_t *out, size_t *n_unknown) {
    size_t n_out = 0, start = 0, i = 0;
    while (i <= len) {
        const struct vnp_bpe_added *a = i < len ? added_at(b, text + i, len - i, is_late) : NULL;
        if (!a && i < len) {
            i++;
            continue;
        }
        if (i > start && !is_late && b->has_late)
            n_out += encode_between(b, w, text + start, i - start, true, out + n_out, n_unknown);
        else if (i > start)
            n_out += encode_words(b, w, text + start, i - start, out + n_out, n_unknown);
        if (!a) break;
        out[n_out++] = a->id;
        i += a->len;
        start = i;
    }
    return n_out;
}

static vnp_status refuse_byte(const char *text, size_t len) {
    size_t i = 0;
    while (i < len && (uint8_t)text[i] < 0x80) i++;
    vnp_status s = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "byte 0x%02x at position %zu is no letter",
                            i < len ? (unsigned)(uint8_t)text[i] : 0U, i + 1);
    vnp_error_hint("sequences are ASCII text; save the file as plain text");
    return s;
}

/* Texts that are not one plain word. */
static vnp_status encode_any(const struct vnp_bpe *b, struct work *w, const char *text, size_t len,
                             uint16_t *out, size_t *n_out, size_t *n_unknown) {
    unsigned high = 0, is_added = 0;
    for (size_t i = 0; i < len; i++) {
        high |= (uint8_t)text[i];
        is_added |= b->is_added_first[(uint8_t)text[i]];
    }
    if (high & 0x80) return refuse_byte(text, len);
    *n_out = is_added ? encode_between(b, w, text, len, false, out, n_unknown)
                      : encode_words(b, w, text, len, out, n_unknown);
    return VNP_OK;
}

vnp_status vnp_bpe_encode(const struct vnp_bpe *b, const char *text, size_t len, void *scratch,
                          uint16_t *out, size_t *n_out, size_t *n_unknown) {
    if (len >= UINT32_MAX / 4)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_INPUT, "a sequence of %zu letters at once", len);
    struct work w = lay_out(b, scratch, len);
    size_t n = 0, n_text = 0, unknown = 0;
    for (size_t k = 0; k < b->n_prefix; k++) out[n++] = b->prefix[k];
    if (!b->path || !vnp_bpe_path_encode_plain(b, text, len, w.scratch, out + n, &n_text))
        VNP_TRY(encode_any(b, &w, text, len, out + n, &n_text, &unknown));
    n += n_text;
    for (size_t k = 0; k < b->n_suffix; k++) out[n++] = b->suffix[k];
    *n_out = n;
    if (n_unknown) *n_unknown = unknown;
    return VNP_OK;
}
