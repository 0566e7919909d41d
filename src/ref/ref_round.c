// SPDX-License-Identifier: MIT
// The emulation mode's roundings: an FP32 value becomes the nearest one that the precision can hold
// and stays FP32. FP8 and INT8 carry one FP32 scale a row (activations) or output channel
// (weights): the largest magnitude over 448 or 127. See docs/numerics.md.
#include "ref/ref_room.h"

#include <math.h>
#include <string.h>

static float scale_of(int64_t n, const float *x, float largest) {
    float amax = 0;
    for (int64_t i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
    return amax > 0 ? amax / largest : 1.0f;
}

void vnp_ref_round(enum vnp_precision rounding, int64_t n, const float *x, float *out) {
    float scale;
    switch (rounding) {
    case VNP_PREC_BF16:
        for (int64_t i = 0; i < n; i++) out[i] = vnp_bf16_to_f32(vnp_f32_to_bf16(x[i]));
        break;
    case VNP_PREC_FP16:
        for (int64_t i = 0; i < n; i++) out[i] = vnp_f16_to_f32(vnp_f32_to_f16(x[i]));
        break;
    case VNP_PREC_FP8:
        scale = scale_of(n, x, 448.0f);
        for (int64_t i = 0; i < n; i++)
            out[i] = vnp_e4m3_to_f32(vnp_f32_to_e4m3(x[i] / scale)) * scale;
        break;
    case VNP_PREC_INT8:
        scale = scale_of(n, x, 127.0f);
        for (int64_t i = 0; i < n; i++) out[i] = nearbyintf(x[i] / scale) * scale;
        break;
    case VNP_PREC_FP32:
    case VNP_PREC_COUNT:
    default:
        if (out != x) memcpy(out, x, (size_t)n * sizeof *x);
        break;
    }
}

void vnp_ref_round_attention(enum vnp_precision rounding, int64_t n, float *x) {
    if (rounding == VNP_PREC_BF16 || rounding == VNP_PREC_FP16) vnp_ref_round(rounding, n, x, x);
}
