// SPDX-License-Identifier: MIT
// Weights from the file's rows to the block the matrix kernels read: conversion and transpose in
// one pass, so that a model is read once and written once.
//
// pack       dst[word][row] = word of row, word = FP32 value or BF16 pair along K; 64 rows a block
// Shapes     64 rows [K] of F32, F16 or BF16, any alignment; dst [ceil16(words)][64]
// Rounding   F16 and BF16 to FP32 exactly; FP32 and F16 to BF16 to nearest even
// Traffic    memory-bound: 2 or 4 B read, 2 or 4 B written a weight
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

#define STRIP 64 /* words of a row handled at once: 64 x 64 x 4 B stay in L1 */

static void half_to_f32(const char *src, int64_t n, float *dst) {
    int64_t i = 0;
#if W == 16
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(src + 2 * i))));
#elif W == 8
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(src + 2 * i))));
#endif
    for (; i < n; i++) {
        uint16_t u;
        memcpy(&u, src + 2 * i, 2);
        dst[i] = vnp_f16_to_f32(u);
    }
}

static void bf16_to_f32(const char *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t u;
        memcpy(&u, src + 2 * i, 2);
        uint32_t w = (uint32_t)u << 16;
        memcpy(dst + i, &w, 4);
    }
}

/* Values first..first+n-1 of a row as FP32. */
static void row_values(const struct vnp_cpu_pack_args *a, int64_t row, int64_t first, int64_t n,
                       float *dst) {
    const char *src = a->row[row];
    if (a->dtype[row] == VNP_F32)
        memcpy(dst, src + 4 * first, (size_t)n * 4);
    else if (a->dtype[row] == VNP_F16)
        half_to_f32(src + 2 * first, n, dst);
    else
        bf16_to_f32(src + 2 * first, n, dst);
}

void VNP_CPU_NAME(pack)(const struct vnp_cpu_pack_args *a) {
    const int64_t per_word = a->is_bf16 ? 2 : 1;
    const int64_t n_words = VNP_ALIGN_UP((a->n_in + per_word - 1) / per_word, 16);
    float value[2 * STRIP + W];
    uint32_t strip[VNP_CPU_PACK_COLS][STRIP];
    for (int64_t w = 0; w < n_words; w += STRIP) {
        const int64_t n_here = VNP_MIN(n_words - w, STRIP);
        for (int64_t r = 0; r < VNP_CPU_PACK_COLS; r++) {
            int64_t n = VNP_MIN(a->n_in - w * per_word, n_here * per_word);
            if (!a->row[r] || n < 0) n = 0;
            if (n) row_values(a, r, w * per_word, n, value);
            memset(value + n, 0, (size_t)(n_here * per_word - n) * sizeof *value);
            if (!a->is_bf16) {
                memcpy(strip[r], value, (size_t)n_here * 4);
                continue;
            }
            uint16_t pairs[2 * STRIP];
            for (int64_t i = 0; i < 2 * n_here; i += W)
                vf_store_bf16(pairs + i, vf_load(value + i));
            memcpy(strip[r], pairs, (size_t)n_here * 4);
        }
        for (int64_t i = 0; i < n_here; i += W)
            for (int64_t r = 0; r < VNP_CPU_PACK_COLS; r += W)
                vu_transpose(&strip[r][i], STRIP, a->dst + (w + i) * VNP_CPU_PACK_COLS + r,
                             VNP_CPU_PACK_COLS);
    }
}
