/* SPDX-License-Identifier: MIT
 * packer: sequences in, full packs out. Inside of the run room; knows lengths and tags, nothing of
 * tokens or devices. See docs/packing.md for the algorithm and what it was compared with. */
#ifndef VNP_RUN_PACKER_H
#define VNP_RUN_PACKER_H

#include "base/base.h"

struct vnp_packer;

struct vnp_packer_options {
    int64_t budget_tokens;    /* of a pack */
    int64_t max_seqs;         /* of a pack */
    int64_t lookahead_tokens; /* held back to choose from; < 1 = 8 budgets */
};
struct vnp_packed {
    int64_t n_seqs, n_tokens, max_len;
    uint64_t *tags; /* [max_seqs], the caller's */
};

vnp_status vnp_packer_create(const struct vnp_packer_options *opt,
                             struct vnp_packer **out) VNP_WARN_UNUSED;
void vnp_packer_destroy(struct vnp_packer *p);
/* One more sequence of len >= 1 tokens. */
vnp_status vnp_packer_push(struct vnp_packer *p, int64_t len, uint64_t tag) VNP_WARN_UNUSED;
/* A pack is due: the look-ahead is full, or a sequence longer than the budget waits. */
bool vnp_packer_is_ready(const struct vnp_packer *p);
/* Takes the next pack, ready or not; false when nothing is held. Every sequence leaves in exactly
 * one pack; one longer than the budget leaves alone. */
bool vnp_packer_pop(struct vnp_packer *p, struct vnp_packed *out);
int64_t vnp_packer_n_seqs(const struct vnp_packer *p);
int64_t vnp_packer_n_tokens(const struct vnp_packer *p);

#endif
