// SPDX-License-Identifier: MIT
// A DNA encoder's tokenizer, checked against the encoder: tokens that its embedding has no row for
// can only come from another model's tokenizer.json.
#include "run/run.h"
#include "tok/tok.h"
#include "weights/weights.h"

vnp_status vnp_run_tokenizer_load(const struct vnp_checkpoint *dna, struct vnp_bpe **out) {
    const char *json, *path = vnp_checkpoint_tokenizer_path(dna);
    size_t n_bytes;
    *out = NULL;
    VNP_TRY(vnp_checkpoint_tokenizer(dna, &json, &n_bytes));
    VNP_TRY(vnp_bpe_load(json, n_bytes, path, out));
    int64_t n_ids = vnp_bpe_vocab_size(*out), n_rows = vnp_checkpoint_spec(dna)->n_vocab;
    if (n_ids <= n_rows) return VNP_OK;
    vnp_bpe_destroy(*out);
    *out = NULL;
    vnp_status status = vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                                 "the tokenizer has token numbers up to %lld, the model's "
                                 "embedding only %lld rows",
                                 (long long)n_ids - 1, (long long)n_rows);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("the tokenizer.json belongs to another model; put the model's own there");
    return status;
}
