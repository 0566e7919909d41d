// SPDX-License-Identifier: MIT
// Byte-pair encoding without merging, for models that were trained on few letters (DNA). A cut of a
// word into tokens is what merging gives if and only if every two neighbours stay apart when
// encoded alone; that is one bit of a table made at load. So the beginning of a text up to any
// letter has one last token: of the tokens that end there, the one that may follow the last token
// of what stands before it. Eight letters decide it for two places of three, leave two or three
// tokens for nearly all others, and the text is read once, forwards, without a guess; then the
// tokens are picked up backwards.
//
// Why neighbours decide: take the first merge across a cut. Up to then all tokens have grown as if
// alone, so the same two symbols meet in the pair alone. Only in a run of one symbol does the
// further left matter, by parity, and every token left of the first cut that is crossed holds an
// even part of the run. Needs merges in building order, one merge a token, tokens that encode to
// themselves: bpe_tables.c checks it; other models keep to merging.
// Measured (bench_tok, published tokenizer, bacterial DNA, busy machine, CPU time): 220 MB/s.
// Tried: longest token first, stepping back from dead ends, 113 MB/s (2.7 tokens tried a token, all
// of them unforeseen branches); the same tables with a branch at each open place, 172; neighbours
// in a table of 2 MiB, 178; one list a rank for merging, 23. Source of the idea that neighbours
// decide: the linear-time encoder of github/rust-gems (crate bpe); tables and code ours.
#include "tok/bpe_path.h"

#include <string.h>

enum { DEAD = VNP_PATH_NO_TOKEN, BEFORE = VNP_PATH_MAX_CONTEXT, BLOCK = 1024 };

/* last u16[len + 1], then eight letters of any class and the text's u8[len] */
size_t vnp_bpe_path_scratch_bytes(size_t max_len) {
    return (max_len + 1) * 2 + BEFORE + max_len;
}

/* The codes of the contexts that end at letters[0..n); eight letters before them are read too. */
static void fill_codes(const struct vnp_bpe_path *t, const uint8_t *letters, size_t n,
                       uint16_t *restrict code) {
    uint16_t two[BLOCK + 6], four[BLOCK + 4]; /* letters that end six and four before */
    unsigned bits = t->class_bits;
    for (size_t i = 0; i < n + 6; i++)
        two[i] = (uint16_t)((letters - 6)[i] | (unsigned)(letters - 7)[i] << bits);
    for (size_t i = 0; i < n + 4; i++) four[i] = (uint16_t)(two[i + 2] | two[i] << 2 * bits);
    if (t->n_context == 4)
        memcpy(code, four + 4, n * sizeof *code);
    else
        for (size_t i = 0; i < n; i++) code[i] = (uint16_t)(four[i + 4] | four[i] << 4 * bits);
}

/* The last token at `at`, by trying all that end there, longest first: the last one needs no test,
 * since one of them is right. */
static unsigned try_chain(const struct vnp_bpe_path *t, const uint8_t *letters,
                          const uint16_t *last, size_t at, unsigned token) {
    if (token == DEAD) {
        unsigned node = 0;
        for (size_t i = at; i-- > 0;) {
            unsigned next = vnp_path_child(t, node, letters[i]);
            if (!next) break;
            node = next;
        }
        token = t->best[node];
    }
    while (t->shorter[token] != DEAD && !vnp_path_may_follow(t, last[at - t->len[token]], token))
        token = t->shorter[token];
    return token;
}

/* All bits set if the choice's token i may stand at `at`. */
static inline unsigned choice_mask(const struct vnp_bpe_path *t, const struct vnp_bpe_choice *x,
                                   unsigned i, const uint16_t *last, size_t at) {
    uint64_t word = t->follow[t->row[last[at - x->back[i]]] + x->word[i]];
    return (unsigned)((int64_t)(word << x->up[i]) >> 63);
}

/* last[i] for the beginnings of a text that end in its letters from..from + n. */
static void fill_last(const struct vnp_bpe_path *t, const uint8_t *letters, size_t from, size_t n,
                      uint16_t *last) {
    uint16_t code[BLOCK], open[BLOCK];
    size_t n_open = 0, i = 0;
    fill_codes(t, letters + from, n, code);
    for (; from + i + 1 < t->n_context && i < n; i++) {
        unsigned bit = 1U << ((from + i + 1) * t->class_bits);
        last[from + i + 1] = t->whole[bit | (code[i] & (bit - 1))];
    }
    for (; i < n; i++) {
        unsigned token = t->last[code[i]];
        last[from + i + 1] = (uint16_t)token;
        open[n_open] = (uint16_t)i;
        n_open += token >> 15;
    }
    for (size_t k = 0; k < n_open; k++) {
        size_t at = from + open[k] + 1;
        const struct vnp_bpe_choice *x = &t->choice[last[at] & (VNP_PATH_OPEN - 1)];
        if (x->is_chain) {
            last[at] = (uint16_t)try_chain(t, letters, last, at, x->token[0]);
            continue;
        }
        unsigned token = x->token[2]; /* masks, not branches: nobody can foresee them */
        token ^= (token ^ x->token[1]) & choice_mask(t, x, 1, last, at);
        token ^= (token ^ x->token[0]) & choice_mask(t, x, 0, last, at);
        last[at] = (uint16_t)token;
    }
}

/* Known letters only; out gets ids. */
static size_t encode_run(const struct vnp_bpe_path *t, const uint8_t *letters, size_t n,
                         uint16_t *last, uint16_t *out) {
    last[0] = (uint16_t)t->n_tokens;
    for (size_t from = 0; from < n; from += BLOCK)
        fill_last(t, letters, from, VNP_MIN(n - from, (size_t)BLOCK), last);
    size_t k =
        n; /* tokens gather at the end of `last`, never before the place they are read from */
    for (size_t at = n; at > 0; k--) {
        unsigned token = last[at];
        last[k] = (uint16_t)token;
        at -= t->len[token];
    }
    for (size_t i = 0; i < n - k; i++) out[i] = t->id[last[k + 1 + i]];
    return n - k;
}

static uint8_t *lay_out(void *scratch, size_t len, uint16_t **last) {
    *last = scratch;
    uint8_t *letters = (uint8_t *)(*last + len + 1);
    memset(letters, 0, BEFORE);
    return letters + BEFORE;
}

bool vnp_bpe_path_encode_plain(const struct vnp_bpe *bpe, const char *text, size_t len,
                               void *scratch, uint16_t *out, size_t *n_out) {
    const struct vnp_bpe_path *t = bpe->path;
    if (!t->has_few_letters) return false;
    uint16_t *last;
    uint8_t *letters = lay_out(scratch, len, &last);
    const uint8_t a = t->letters[0], b = t->letters[1], c = t->letters[2], d = t->letters[3];
    uint8_t is_other = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t x = (uint8_t)text[i];
        letters[i] = (uint8_t)((x == b) | (x == c) << 1 | (x == d) * 3);
        is_other |= (uint8_t)(((x != a) & (x != b) & (x != c) & (x != d)) | x >> 7);
    }
    if (is_other) return false;
    *n_out = encode_run(t, letters, len, last, out);
    return true;
}

size_t vnp_bpe_path_encode(const struct vnp_bpe *bpe, const char *text, size_t len, void *scratch,
                           uint16_t *out, size_t *n_unknown) {
    const struct vnp_bpe_path *t = bpe->path;
    uint16_t *last;
    uint8_t *letters = lay_out(scratch, len, &last);
    size_t n = 0, n_out = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = t->class_of_byte[(uint8_t)text[i]];
        letters[n] = c;
        if (c < VNP_PATH_MAX_CLASSES) {
            n++;
            continue;
        }
        bool is_lone = c == VNP_PATH_LONE;
        *n_unknown += !is_lone;
        if (!is_lone && bpe->unk_id < 0) continue; /* it vanishes, its neighbours meet */
        n_out += encode_run(t, letters, n, last, out + n_out);
        out[n_out++] = is_lone ? bpe->id_of_byte[(uint8_t)text[i]] : (uint16_t)bpe->unk_id;
        n = 0;
    }
    return n_out + encode_run(t, letters, n, last, out + n_out);
}
