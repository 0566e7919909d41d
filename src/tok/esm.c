// SPDX-License-Identifier: MIT
// The ESM-2 alphabet: 33 ids, one byte one residue but for the literal "<mask>".
// Source: Lin et al. 2023; the order of the letters is that of the published checkpoints.
#include "tok/tok.h"

#include <string.h>

enum { SKIP = 254 }; /* white space */

/* Ids 4.. in order. */
static const char letters[] = "LAGVSERTIDPKQNFYMHWCXBUZO.-";

static void make_table(uint8_t table[256]) {
    memset(table, VNP_ESM_UNK, 256);
    for (int i = 0; letters[i]; i++) {
        uint8_t c = (uint8_t)letters[i];
        table[c] = (uint8_t)(4 + i);
        if (c >= 'A' && c <= 'Z') table[c + 32] = (uint8_t)(4 + i);
    }
    for (const char *p = " \t\n\v\f\r"; *p; p++) table[(uint8_t)*p] = SKIP;
}

void vnp_tok_esm_encode(const char *seq, size_t len, uint16_t *out, size_t *n_out,
                        size_t *n_unknown) {
    uint8_t table[256];
    size_t n = 0, unknown = 0;
    make_table(table);
    out[n++] = VNP_ESM_CLS;
    for (size_t i = 0; i < len; i++) {
        uint8_t id = table[(uint8_t)seq[i]];
        if (id == SKIP) continue;
        if (id == VNP_ESM_UNK) {
            if (seq[i] == '<' && len - i >= 6 && memcmp(seq + i, "<mask>", 6) == 0) {
                out[n++] = VNP_ESM_MASK;
                i += 5;
                continue;
            }
            unknown++;
        }
        out[n++] = id;
    }
    out[n++] = VNP_ESM_EOS;
    *n_out = n;
    if (n_unknown) *n_unknown = unknown;
}
