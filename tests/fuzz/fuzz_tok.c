// SPDX-License-Identifier: MIT
// tokenizer.json bytes, a NUL, then a text: whatever loads must encode within its own bounds, and
// the fast way must give what merging gives. The text also goes through the ESM-2 alphabet.
#include "tok/bpe.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) abort();
}

/* Exact buffers, so that the sanitizer sees one byte too far. NULL when the text is refused. */
static uint16_t *encode(const struct vnp_bpe *bpe, const char *text, size_t len, size_t *n) {
    size_t n_unknown = 0, n_max = vnp_bpe_max_tokens(bpe, len);
    void *scratch = malloc(vnp_bpe_scratch_bytes(bpe, len));
    uint16_t *out = malloc(n_max * sizeof *out + 1);
    check(scratch && out);
    vnp_status s = vnp_bpe_encode(bpe, text, len, scratch, out, n, &n_unknown);
    free(scratch);
    if (s != VNP_OK) {
        check(vnp_error_last()->text[0]);
        free(out);
        return NULL;
    }
    check(*n <= n_max && n_unknown <= len);
    for (size_t i = 0; i < *n; i++) check(out[i] < vnp_bpe_vocab_size(bpe));
    return out;
}

static void encode_both_ways(const struct vnp_bpe *bpe, const char *text, size_t len) {
    struct vnp_bpe merging = *bpe;
    merging.path = NULL;
    size_t n = 0, n_merging = 0;
    uint16_t *ids = encode(bpe, text, len, &n), *due = encode(&merging, text, len, &n_merging);
    check(!ids == !due && n == n_merging);
    if (ids) check(memcmp(ids, due, n * sizeof *ids) == 0);
    free(ids);
    free(due);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *json = (const char *)data;
    const uint8_t *nul = memchr(data, 0, size);
    size_t n_json = nul ? (size_t)(nul - data) : size, n_text = nul ? size - n_json - 1 : 0;
    const char *text = nul ? json + n_json + 1 : json;
    struct vnp_bpe *bpe;
    if (vnp_bpe_load(json, n_json, "fuzz", &bpe) == VNP_OK)
        encode_both_ways(bpe, text, n_text);
    else
        check(!bpe && vnp_error_last()->text[0] && vnp_error_last()->origin <= VNP_FROM_MODEL);
    vnp_bpe_destroy(bpe);
    size_t n = 0, n_unknown = 0;
    uint16_t *out = malloc((n_text + 2) * sizeof *out);
    check(out);
    vnp_tok_esm_encode(text, n_text, out, &n, &n_unknown);
    check(n >= 2 && n <= n_text + 2 && n_unknown <= n_text);
    free(out);
    return 0;
}
