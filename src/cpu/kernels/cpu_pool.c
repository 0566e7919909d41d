// SPDX-License-Identifier: MIT
// Mean over a sequence's rows.
//
// pool       out = sum of rows / rows; no rows: zeros
// Rounding   FP32; sums of 32 rows first, then their sum, so that the error grows with n/32 + 32
// Traffic    4 D read a row: memory-bound
// Order      rows in order inside a group of 32 counted from the sequence's first, groups in order
// Ref        vnp_ref pool (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

void VNP_CPU_NAME(pool)(const struct vnp_cpu_pool_args *a) {
    const int64_t group = 32;
    const vf count = vf_set1((float)a->n_rows);
    for (int64_t i = 0; i < a->n_cols; i += W) {
        const int64_t left = a->n_cols - i;
        vf sum = vf_set1(0.0f);
        for (int64_t r = 0; r < a->n_rows; r += group) {
            const int64_t end = VNP_MIN(r + group, a->n_rows);
            vf part = vf_set1(0.0f);
            for (int64_t k = r; k < end; k++) {
                const float *x = a->x + k * a->ld + i;
                part += left >= W ? vf_load(x) : vf_load_n(x, left);
            }
            sum += part;
        }
        if (a->n_rows > 0) sum /= count;
        if (left >= W)
            vf_store(a->out + i, sum);
        else
            vf_store_n(a->out + i, sum, left);
    }
}
