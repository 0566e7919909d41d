// SPDX-License-Identifier: MIT
// The classifier head: two layers with batch norm between, softmax of two.
//
// classify   h = relu(bn(W1 z + b1)); out = softmax(W2 h + b2)
// Shapes     z [rows][n_in], few rows a call (they share each row of W1 from L1), out [rows][2]
// Rounding   FP32; dot products in four partial vectors
// Order      fixed by n_in, n_hidden
// Ref        vnp_ref classify (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

#include <math.h>

static float dot(const float *a, const float *b, int64_t n) {
    vf acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; j++)
            acc[j] = vf_fma(vf_load(a + i + j * W), vf_load(b + i + j * W), acc[j]);
    for (; i + W <= n; i += W) acc[0] = vf_fma(vf_load(a + i), vf_load(b + i), acc[0]);
    float rest = 0;
    for (; i < n; i++) rest += a[i] * b[i];
    return vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3])) + rest;
}

/* hidden: [n_rows][n_hidden] scratch */
void VNP_CPU_NAME(classify)(const struct vnp_classifier_params *p, const float *z, int64_t n_rows,
                            float *hidden, float *out) {
    for (int64_t j = 0; j < p->n_hidden; j++) {
        const float scale = p->bn_gamma[j] / sqrtf(p->bn_var[j] + p->bn_eps);
        for (int64_t r = 0; r < n_rows; r++) {
            float h = dot(p->w1 + j * p->n_in, z + r * p->n_in, p->n_in) + p->b1[j];
            h = (h - p->bn_mean[j]) * scale + p->bn_beta[j];
            hidden[r * p->n_hidden + j] = h > 0.0f || h != h ? h : 0.0f;
        }
    }
    for (int64_t r = 0; r < n_rows; r++) {
        const float *h = hidden + r * p->n_hidden;
        const float a = dot(p->w2, h, p->n_hidden) + p->b2[0];
        const float b = dot(p->w2 + p->n_hidden, h, p->n_hidden) + p->b2[1];
        const float top = a > b ? a : b;
        const float ea = expf(a - top), eb = expf(b - top);
        out[2 * r] = ea / (ea + eb);
        out[2 * r + 1] = eb / (ea + eb);
    }
}
