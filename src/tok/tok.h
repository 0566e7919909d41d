/* SPDX-License-Identifier: MIT
 * tok: bytes in, token ids out. The ESM-2 alphabet and byte-pair encoding from tokenizer.json.
 * The room's one door. */
#ifndef VNP_TOK_H
#define VNP_TOK_H

#include "base/base.h"

/* ---- ESM-2 --------------------------------------------------------------------------------- */

enum {
    VNP_ESM_CLS = 0,
    VNP_ESM_PAD = 1,
    VNP_ESM_EOS = 2,
    VNP_ESM_UNK = 3,
    VNP_ESM_MASK = 32,
    VNP_ESM_VOCAB = 33
};

/* <cls> residues <eos>. Upper-cases, drops white space, reads "<mask>" as one token, anything
 * outside the vocabulary is <unk> and counted. out holds len + 2 ids. */
void vnp_tok_esm_encode(const char *seq, size_t len, uint16_t *out, size_t *n_out,
                        size_t *n_unknown);

/* ---- BPE ----------------------------------------------------------------------------------- */

struct vnp_bpe; /* immutable after load, shared by threads */

/* Reads a Hugging Face tokenizer.json of model type BPE; strict: what is not supported is refused
 * by name (UNSUPPORTED, origin MODEL). `path` is for messages only. */
vnp_status vnp_bpe_load(const char *json, size_t n_bytes, const char *path,
                        struct vnp_bpe **out) VNP_WARN_UNUSED;
void vnp_bpe_destroy(struct vnp_bpe *bpe);
int64_t vnp_bpe_vocab_size(const struct vnp_bpe *bpe);
/* Scratch that one thread needs to encode up to max_len bytes. */
size_t vnp_bpe_scratch_bytes(const struct vnp_bpe *bpe, size_t max_len);
/* Upper bound of ids for len bytes, special tokens included. */
size_t vnp_bpe_max_tokens(const struct vnp_bpe *bpe, size_t len);
/* Encodes text with the template's special tokens. Equal to the `tokenizers` library, id by id. */
vnp_status vnp_bpe_encode(const struct vnp_bpe *bpe, const char *text, size_t len, void *scratch,
                          uint16_t *out, size_t *n_out, size_t *n_unknown) VNP_WARN_UNUSED;

#endif
