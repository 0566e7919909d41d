/* SPDX-License-Identifier: MIT
 * Inside room tok: the tables of the fast way, made by bpe_tables.c, used by bpe_path.c. Tokens
 * count base letters first, then products by rank. */
#ifndef VNP_TOK_BPE_PATH_H
#define VNP_TOK_BPE_PATH_H

#include "tok/bpe.h"

enum {
    VNP_PATH_MAX_TOKENS = 8192,
    VNP_PATH_MAX_CLASSES = 16,
    VNP_PATH_LONE = 17,       /* class of a letter that no merge takes */
    VNP_PATH_MAX_CONTEXT = 8, /* letters; their classes fit in 16 bits */
    VNP_PATH_NO_TOKEN = 0xffff,
    VNP_PATH_OPEN = 0x8000 /* or-ed to the number of a choice */
};

/* What a context of letters leaves open. Two or three tokens: the first one that may follow its
 * predecessor, the last one untested. More, or tokens longer than the context: is_chain. */
struct vnp_bpe_choice {
    uint16_t token[3];
    uint16_t word[2];  /* of the tokens' columns in a row of `follow` */
    uint8_t up[2];     /* left shift that brings the column's bit to the top */
    uint8_t back[2];   /* the tokens' lengths */
    uint16_t is_chain; /* begin with token[0], or with the tree if that is NO_TOKEN */
};

struct vnp_bpe_path {
    unsigned n_tokens, n_base, class_bits, n_context;
    uint8_t class_of_byte[256]; /* MAX_CLASSES: unknown; or LONE */
    bool has_few_letters;       /* up to four, all of words: `letters` by class, else 0xff */
    uint8_t letters[4];
    uint16_t id[VNP_PATH_MAX_TOKENS], len[VNP_PATH_MAX_TOKENS];
    uint16_t shorter[VNP_PATH_MAX_TOKENS]; /* longest token that is a proper suffix, or NO_TOKEN */
    uint16_t column[VNP_PATH_MAX_TOKENS];
    uint32_t row[VNP_PATH_MAX_TOKENS + 1]; /* offset in `follow`; [n_tokens]: nothing before */
    uint64_t
        *follow;     /* bit column[b] of the row at row[a]: a and b stay apart when encoded alone */
    uint16_t *child; /* tree of the tokens read backwards, [n_nodes][1 << class_bits], 0: none */
    uint16_t *best;  /* [n_nodes] longest token on the way to the node, or NO_TOKEN */
    size_t n_nodes;
    /* The last token of a text that ends with these letters, or OPEN | its choice; of a text that
     * is these letters and no more, fewer than n_context: [1 << letters * class_bits | code]. */
    uint16_t last[1 << 16], whole[1 << 15];
    struct vnp_bpe_choice *choice;
    unsigned n_choices;
};

static inline unsigned vnp_path_child(const struct vnp_bpe_path *t, unsigned node,
                                      unsigned letter) {
    return t->child[node << t->class_bits | letter];
}

static inline bool vnp_path_may_follow(const struct vnp_bpe_path *t, unsigned a, unsigned b) {
    return t->follow[t->row[a] + (t->column[b] >> 6)] >> (t->column[b] & 63) & 1;
}

#endif
