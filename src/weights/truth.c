// SPDX-License-Identifier: MIT
// What the published weights answer for eight frames, so that an installation can be checked with
// nothing but the program. Kept small: of each vector 16 components and 8 sums of all components
// with pseudo-random signs. Errors are measured against the spread between the eight frames,
// because a plain cosine cannot tell two proteins apart (component 1542 is about 90 % of every
// ESM-2 3B vector's norm; it is left out).
#include "weights_internal.h"

#include <math.h>

enum { TRUTH_FRAMES = 8, TRUTH_PICKS = 16, TRUTH_SUMS = 8, TRUTH_FACTS = 24 };
enum { DNABERT_COLS = 768, ESM2_COLS = 2560, ESM2_DOMINANT = 1542 };

#include "truth_table.h"

int vnp_truth_count(void) {
    return TRUTH_FRAMES;
}

const struct vnp_truth_frame *vnp_truth_at(int i) {
    return i >= 0 && i < TRUTH_FRAMES ? &truth_frames[i] : NULL;
}

/* +1 or -1 of component i in sum k, as tools/make-truth-table has it. */
static double sign(uint64_t k, uint64_t i) {
    uint64_t z = ((k << 32 | i) + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z >> 63 ? 1 : -1;
}

static double fact_of(const float *vector, int64_t n_cols, const int *at, int k) {
    if (k < TRUTH_PICKS) return (double)vector[at[k]];
    double sum = 0;
    for (int64_t i = 0; i < n_cols; i++)
        if (n_cols != ESM2_COLS || i != ESM2_DOMINANT)
            sum += sign((uint64_t)(k - TRUTH_PICKS), (uint64_t)i) * (double)vector[i];
    return sum;
}

/* Variance of a fact between the frames. */
static double spread_of(const float (*table)[TRUTH_FACTS], int k) {
    double mean = 0, sum = 0;
    for (int f = 0; f < TRUTH_FRAMES; f++) mean += (double)table[f][k] / TRUTH_FRAMES;
    for (int f = 0; f < TRUTH_FRAMES; f++)
        sum += ((double)table[f][k] - mean) * ((double)table[f][k] - mean);
    return sum / TRUTH_FRAMES;
}

vnp_status vnp_truth_check(enum vnp_model_kind kind, const float *vectors, int64_t n_cols,
                           double *error, int *idx_worst) {
    bool is_esm = kind == VNP_MODEL_ESM2;
    if ((!is_esm && kind != VNP_MODEL_DNABERT) || n_cols != (is_esm ? ESM2_COLS : DNABERT_COLS))
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL,
                        "nothing is known of vectors with %lld columns: the published DNABERT-S "
                        "gives %d, ESM-2 3B %d",
                        (long long)n_cols, DNABERT_COLS, ESM2_COLS);
    const float(*table)[TRUTH_FACTS] = is_esm ? truth_esm2 : truth_dnabert;
    const int *at = is_esm ? truth_esm2_at : truth_dnabert_at;
    *error = -1;
    for (int f = 0; f < TRUTH_FRAMES; f++) {
        double sum = 0;
        for (int k = 0; k < TRUTH_FACTS; k++) {
            double d = fact_of(vectors + f * n_cols, n_cols, at, k) - (double)table[f][k];
            sum += d * d / spread_of(table, k);
        }
        double e = sqrt(sum / TRUTH_FACTS);
        if (e > *error || isnan(e)) {
            *error = e;
            *idx_worst = f;
            if (isnan(e)) return VNP_OK;
        }
    }
    return VNP_OK;
}
