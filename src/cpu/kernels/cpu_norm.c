// SPDX-License-Identifier: MIT
// Layer norm by row, residual and operand written in one pass over the row.
//
// norm       y = (x - mean) / sqrt(var + eps) * gamma + beta, var of (x - mean), two passes
// Shapes     x, out [N][D] f32, operand [N][D] f32 or bf16; any D
// Rounding   FP32; the operand is rounded once from the FP32 result
// Traffic    4 D read (the second and third pass hit L1), 4 D and/or 4 D or 2 D written a row
// Order      four partial vectors over columns, folded by halves: fixed by D
// Ref        vnp_ref layernorm (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

#include <math.h>

/* Sum over the row of (x - mean) or (x - mean)^2. */
VF_INLINE float row_sum(const float *x, int64_t n, float mean, const bool squares) {
    vf acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    const vf m = vf_set1(mean);
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; j++) {
            vf d = vf_load(x + i + j * W) - m;
            acc[j] = squares ? vf_fma(d, d, acc[j]) : (vf)(acc[j] + d);
        }
    for (; i + W <= n; i += W) {
        vf d = vf_load(x + i) - m;
        acc[0] = squares ? vf_fma(d, d, acc[0]) : (vf)(acc[0] + d);
    }
    float rest = 0;
    for (; i < n; i++) {
        float d = x[i] - mean;
        rest += squares ? d * d : d;
    }
    return vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3])) + rest;
}

VF_INLINE void put(float *out, void *operand, const bool is_bf16, int64_t i, vf y, int64_t left) {
    if (left >= W) {
        if (out) vf_store(out + i, y);
        if (operand && is_bf16)
            vf_store_bf16((uint16_t *)operand + i, y);
        else if (operand)
            vf_store((float *)operand + i, y);
    } else {
        if (out) vf_store_n(out + i, y, left);
        if (operand && is_bf16)
            vf_store_bf16_n((uint16_t *)operand + i, y, left);
        else if (operand)
            vf_store_n((float *)operand + i, y, left);
    }
}

void VNP_CPU_NAME(norm)(const struct vnp_cpu_norm_args *a, int64_t first, int64_t end) {
    const int64_t n = a->n_cols;
    for (int64_t r = first; r < end; r++) {
        const float *x = a->x + r * a->ldx;
        float *out = a->out ? a->out + r * a->ld_out : NULL;
        char *operand = a->operand;
        if (operand) operand += r * a->ld_operand * (a->is_bf16 ? 2 : 4);
        const float mean = row_sum(x, n, 0.0f, false) / (float)n;
        const float var = row_sum(x, n, mean, true) / (float)n;
        const vf m = vf_set1(mean), inv = vf_set1(1.0f / sqrtf(var + a->eps));
        for (int64_t i = 0; i < n; i += W) {
            int64_t left = n - i;
            vf v, g, b;
            if (left >= W) {
                v = vf_load(x + i), g = vf_load(a->gamma + i), b = vf_load(a->beta + i);
            } else {
                v = vf_load_n(x + i, left), g = vf_load_n(a->gamma + i, left);
                b = vf_load_n(a->beta + i, left);
            }
            put(out, operand, a->is_bf16, i, vf_fma((v - m) * inv, g, b), left);
        }
    }
}
