/* SPDX-License-Identifier: MIT
 * Inside room tok: a loaded BPE model as its reader makes it and its encoder uses it. */
#ifndef VNP_TOK_BPE_H
#define VNP_TOK_BPE_H

#include "tok/tok.h"

enum {
    VNP_BPE_NO_RANK = 0xffff,
    VNP_BPE_NO_ID = 0xffff, /* also: a symbol that was merged into its left neighbour */
    VNP_BPE_MAX_ID = 0xfffe,
    VNP_BPE_MAX_MERGES = 0xfffe
};

enum vnp_bpe_split { VNP_BPE_SPLIT_NONE, VNP_BPE_SPLIT_SPACE, VNP_BPE_SPLIT_SPACE_PUNCTUATION };

struct vnp_bpe_pair { /* of symbols, one slot of the hash table */
    uint16_t left, right, rank, unused;
};

struct vnp_bpe_added {
    char *text;
    size_t len;
    uint16_t id;
    bool is_late; /* "normalized": matched in what the others leave */
};

struct vnp_bpe_path; /* bpe_path.h */

struct vnp_bpe {
    int64_t n_ids; /* largest id + 1 */
    enum vnp_bpe_split split;
    int32_t unk_id;   /* -1: unknown characters vanish */
    bool is_monotone; /* every merge that uses a merge's product comes after it */
    bool has_late;
    uint16_t id_of_byte[256]; /* VNP_BPE_NO_ID: none */
    bool is_added_first[256]; /* first bytes of added tokens */

    size_t n_merges;
    uint16_t *left, *right, *product; /* [n_merges], by rank */
    struct vnp_bpe_pair *pairs;       /* hash table [1 << pair_bits] */
    unsigned pair_bits;

    struct vnp_bpe_added *added;
    size_t n_added;
    uint16_t *prefix, *suffix; /* the template's tokens before and after the text */
    size_t n_prefix, n_suffix;
    struct vnp_bpe_path *path; /* NULL: words are merged */
};

/* The fast way for models that allow it; *out stays NULL for others. */
vnp_status vnp_bpe_path_create(const struct vnp_bpe *bpe,
                               struct vnp_bpe_path **out) VNP_WARN_UNUSED;
void vnp_bpe_path_destroy(struct vnp_bpe_path *t);
size_t vnp_bpe_path_scratch_bytes(size_t max_len);
/* A whole text of nothing but base letters; false: it is not, or the model's letters are not of the
 * kind that makes it one word. Scratch as below. */
bool vnp_bpe_path_encode_plain(const struct vnp_bpe *bpe, const char *text, size_t len,
                               void *scratch, uint16_t *out, size_t *n_out);
/* One word of ASCII letters; scratch aligned to 8. Returns the number of ids. */
size_t vnp_bpe_path_encode(const struct vnp_bpe *bpe, const char *text, size_t len, void *scratch,
                           uint16_t *out, size_t *n_unknown);

static inline uint32_t vnp_bpe_pair_slot(uint32_t left, uint32_t right, unsigned bits) {
    return (left << 16 | right) * UINT32_C(0x9e3779b1) >> (32 - bits);
}

static inline unsigned vnp_bpe_rank(const struct vnp_bpe *b, uint32_t left, uint32_t right) {
    uint32_t mask = (UINT32_C(1) << b->pair_bits) - 1;
    for (uint32_t i = vnp_bpe_pair_slot(left, right, b->pair_bits);; i = (i + 1) & mask) {
        const struct vnp_bpe_pair *p = &b->pairs[i];
        if (p->rank == VNP_BPE_NO_RANK || (p->left == left && p->right == right)) return p->rank;
    }
}

#endif
