// SPDX-License-Identifier: MIT
// Whether letters are those of DNA or of protein, for a warning to who gave the wrong file: either
// kind is computed without complaint as the other, and the answer means nothing.
#include "seq/seq.h"

enum { LOOK_LETTERS = 500, LEAST_PROTEIN = 20, LEAST_DNA = 60 };

enum vnp_seq_kind vnp_seq_kind_of(const char *seq, size_t len) {
    /* E F I L P Q stand for no nucleotide, not even an ambiguous one: a third of a protein */
    static const uint8_t is_amino[32] = {['E' & 31] = 1, ['F' & 31] = 1, ['I' & 31] = 1,
                                         ['L' & 31] = 1, ['P' & 31] = 1, ['Q' & 31] = 1};
    static const uint8_t is_base[32] = {['A' & 31] = 1, ['C' & 31] = 1, ['G' & 31] = 1,
                                        ['T' & 31] = 1, ['U' & 31] = 1, ['N' & 31] = 1};
    size_t n = VNP_MIN(len, (size_t)LOOK_LETTERS), n_amino = 0, n_bases = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)seq[i] | 32;
        if (c < 'a' || c > 'z') continue;
        n_amino += is_amino[c & 31];
        n_bases += is_base[c & 31];
    }
    if (n >= LEAST_PROTEIN && 10 * n_amino >= n) return VNP_SEQ_KIND_PROTEIN;
    return n >= LEAST_DNA && n_bases == n ? VNP_SEQ_KIND_DNA : VNP_SEQ_KIND_UNCLEAR;
}
