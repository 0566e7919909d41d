// SPDX-License-Identifier: MIT
// Six-frame translation and the stop rule (spec upstream A.4, variant V): a frame is kept when none
// of its codons is a stop and at least one is translated; a codon with anything but A, C, G, T in
// it contributes nothing. Codons are looked up in the window as it stands, on both strands and in
// either case, and a frame is left at its first stop, so a window that keeps nothing costs some 20
// codons a frame. Copies (upper case, reverse complement) are made only for kept frames.
#include "seq/seq.h"

#include <string.h>

const char vnp_frame_names[VNP_N_FRAMES][3] = {"F1", "F2", "F3", "R1", "R2", "R3"};

// clang-format off
/* The standard code (NCBI table 1). */
#define CODONS(X) \
    X(T, T, T, 'F') X(T, T, C, 'F') X(T, T, A, 'L') X(T, T, G, 'L') \
    X(T, C, T, 'S') X(T, C, C, 'S') X(T, C, A, 'S') X(T, C, G, 'S') \
    X(T, A, T, 'Y') X(T, A, C, 'Y') X(T, A, A, '*') X(T, A, G, '*') \
    X(T, G, T, 'C') X(T, G, C, 'C') X(T, G, A, '*') X(T, G, G, 'W') \
    X(C, T, T, 'L') X(C, T, C, 'L') X(C, T, A, 'L') X(C, T, G, 'L') \
    X(C, C, T, 'P') X(C, C, C, 'P') X(C, C, A, 'P') X(C, C, G, 'P') \
    X(C, A, T, 'H') X(C, A, C, 'H') X(C, A, A, 'Q') X(C, A, G, 'Q') \
    X(C, G, T, 'R') X(C, G, C, 'R') X(C, G, A, 'R') X(C, G, G, 'R') \
    X(A, T, T, 'I') X(A, T, C, 'I') X(A, T, A, 'I') X(A, T, G, 'M') \
    X(A, C, T, 'T') X(A, C, C, 'T') X(A, C, A, 'T') X(A, C, G, 'T') \
    X(A, A, T, 'N') X(A, A, C, 'N') X(A, A, A, 'K') X(A, A, G, 'K') \
    X(A, G, T, 'S') X(A, G, C, 'S') X(A, G, A, 'R') X(A, G, G, 'R') \
    X(G, T, T, 'V') X(G, T, C, 'V') X(G, T, A, 'V') X(G, T, G, 'V') \
    X(G, C, T, 'A') X(G, C, C, 'A') X(G, C, A, 'A') X(G, C, G, 'A') \
    X(G, A, T, 'D') X(G, A, C, 'D') X(G, A, A, 'E') X(G, A, G, 'E') \
    X(G, G, T, 'G') X(G, G, C, 'G') X(G, G, A, 'G') X(G, G, G, 'G')
// clang-format on

enum { T = 1, C, A, G }; /* 0: anything else */
#define COMPLEMENT(x) ((((x) + 1) & 3) + 1)
#define INDEX(a, b, c) ((a) << 6 | (b) << 3 | (c))

static const uint8_t code_of[256] = {
    ['A'] = A, ['C'] = C, ['G'] = G, ['T'] = T, ['a'] = A, ['c'] = C, ['g'] = G, ['t'] = T};
/* Amino acid by INDEX of three codes as they stand on the forward strand; 0 where one is 0. */
static const char aa_forward[512] = {
#define FORWARD(a, b, c, aa) [INDEX(a, b, c)] = (aa),
    CODONS(FORWARD)
#undef FORWARD
};
static const char aa_reverse[512] = {
#define REVERSE(a, b, c, aa) [INDEX(COMPLEMENT(c), COMPLEMENT(b), COMPLEMENT(a))] = (aa),
    CODONS(REVERSE)
#undef REVERSE
};

/* Translates the codons at p, p + step, ... n of them; -1 at the first stop, else the number of
 * amino acids written to aa. */
static int64_t translate(const uint8_t *p, ptrdiff_t step, int64_t n, const char table[512],
                         char *aa) {
    int64_t n_aa = 0;
    for (int64_t k = 0; k < n; k++, p += step) {
        char x = table[INDEX(code_of[p[0]], code_of[p[1]], code_of[p[2]])];
        if (x == '*') return -1;
        aa[n_aa] = x;
        n_aa += x != 0;
    }
    return n_aa;
}

static void copy_upper(const char *s, int64_t len, char *out) {
    for (int64_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)s[i];
        out[i] = (char)(c - ((uint8_t)(c - 'a') < 26 ? 32 : 0));
    }
}

/* Of upper-case text: A <-> T, C <-> G, anything else stays as it is. */
static void copy_reverse_complement(const char *upper, int64_t len, char *out) {
    static const uint8_t flip[256] = {
        ['A'] = 'A' ^ 'T', ['T'] = 'A' ^ 'T', ['C'] = 'C' ^ 'G', ['G'] = 'C' ^ 'G'};
    for (int64_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)upper[len - 1 - i];
        out[i] = (char)(c ^ flip[c]);
    }
}

size_t vnp_frames_scratch_bytes(int64_t max_len) {
    /* upper case, reverse complement, six proteins with one byte to spare each */
    size_t n = max_len > 0 ? (size_t)max_len : 0;
    return 2 * n + VNP_N_FRAMES * (n / 3 + 1);
}

void vnp_frames_find(const char *window, int64_t len, void *scratch, struct vnp_frames *out) {
    char *upper = scratch, *reverse = upper + len, *aa = reverse + len;
    memset(out, 0, sizeof *out);
    for (int f = 0; f < VNP_N_FRAMES; f++, aa += len / 3 + 1) {
        int64_t shift = f % 3, n_codons = len > shift ? (len - shift) / 3 : 0, n_aa = 0;
        if (n_codons == 0) continue;
        const uint8_t *w = (const uint8_t *)window;
        if (f < 3)
            n_aa = translate(w + shift, 3, n_codons, aa_forward, aa);
        else
            n_aa = translate(w + len - 3 - shift, -3, n_codons, aa_reverse, aa);
        if (n_aa <= 0) continue;
        out->kept |= 1u << f;
        out->aa[f] = aa;
        out->aa_len[f] = n_aa;
        out->nt[f] = (f < 3 ? upper : reverse) + shift;
        out->nt_len[f] = VNP_MIN(3 * n_aa + 1, len - shift);
    }
    if (out->kept) copy_upper(window, len, upper);
    if (out->kept >> 3) copy_reverse_complement(upper, len, reverse);
}
