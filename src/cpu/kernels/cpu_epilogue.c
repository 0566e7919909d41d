// SPDX-License-Identifier: MIT
// What is done to a finished tile of a matrix product while it is still in cache: bias, exact GELU,
// residual, gated GELU, and the rounding to the next product's operand.
//
// epilogue   out = t + b | gelu(t + b) | out + (t + b) | gelu(g + b) * (v + b)
// Shapes     tile [rows][cols] f32; out f32 or bf16; any number of columns
// Rounding   FP32 throughout, one rounding to bf16 at the end
// Traffic    4 B read from L2 an element, 2 or 4 written, of large results past the caches; gelu
//            about 45 operations, 27 where BF16 rounds it
// Order      element by element: nothing is reduced
// Ref        vnp_ref linear (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

VF_INLINE vf load_some(const float *p, int64_t left) {
    return left >= W ? vf_load(p) : vf_load_n(p, left);
}

VF_INLINE void epilogue_rows(const struct vnp_cpu_epilogue_args *a, const enum vnp_epilogue kind,
                             const bool is_bf16) {
    const int64_t n = a->n_cols;
    for (int64_t r = 0; r < a->n_rows; r++) {
        const float *t = a->tile + r * a->ld_tile;
        for (int64_t i = 0; i < n; i += W) {
            const int64_t left = n - i;
            vf y = load_some(t + i, left);
            if (a->bias) y += load_some(a->bias + i, left);
            if (kind == VNP_EPI_GELU) y = is_bf16 ? vf_gelu_coarse(y) : vf_gelu(y);
            if (kind == VNP_EPI_GEGLU) {
                vf v = load_some(t + n + i, left);
                if (a->bias) v += load_some(a->bias + n + i, left);
                y = (is_bf16 ? vf_gelu_coarse(y) : vf_gelu(y)) * v;
            }
            if (is_bf16) {
                uint16_t *out = (uint16_t *)a->out + r * a->ld_out + i;
                if (left >= W)
                    vf_store_bf16(out, y);
                else
                    vf_store_bf16_n(out, y, left);
            } else {
                float *out = (float *)a->out + r * a->ld_out + i;
                if (kind == VNP_EPI_RESIDUAL) {
                    __builtin_prefetch(out + a->ld_out, 1); /* rows lie pages apart */
                    y = load_some(out, left) + y;
                }
                if (left >= W && kind == VNP_EPI_NONE && a->is_streamed)
                    vf_stream(out, y);
                else if (left >= W)
                    vf_store(out, y);
                else
                    vf_store_n(out, y, left);
            }
        }
    }
    if (a->is_streamed) vf_stream_end();
}

void VNP_CPU_NAME(epilogue)(const struct vnp_cpu_epilogue_args *a) {
    switch (a->kind) {
    case VNP_EPI_NONE:
        if (a->is_bf16)
            epilogue_rows(a, VNP_EPI_NONE, true);
        else
            epilogue_rows(a, VNP_EPI_NONE, false);
        break;
    case VNP_EPI_GELU:
        if (a->is_bf16)
            epilogue_rows(a, VNP_EPI_GELU, true);
        else
            epilogue_rows(a, VNP_EPI_GELU, false);
        break;
    case VNP_EPI_RESIDUAL:
        epilogue_rows(a, VNP_EPI_RESIDUAL, false);
        break;
    case VNP_EPI_GEGLU:
        if (a->is_bf16)
            epilogue_rows(a, VNP_EPI_GEGLU, true);
        else
            epilogue_rows(a, VNP_EPI_GEGLU, false);
        break;
    }
}
