/* SPDX-License-Identifier: MIT
 * One vector of floats, as wide as the instruction set this file is compiled for: 16 lanes with
 * AVX-512, 8 with AVX2+FMA, 4 otherwise (SSE2, NEON, plain C). Kernels are written once over it and
 * compiled once a set (room.cmake). Compiler vector extensions carry the plain arithmetic; only
 * what they cannot say (fused multiply-add, half precision, BF16 dot products) is an intrinsic. */
#ifndef VNP_CPU_SIMD_H
#define VNP_CPU_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif

typedef float vf __attribute__((vector_size(4 * W), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * W), may_alias));
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t vu_any __attribute__((vector_size(4 * W), aligned(4), may_alias));

#define VF_INLINE static inline __attribute__((always_inline, unused))

VF_INLINE vf vf_load(const float *p) {
    return (vf) * (const vf_any *)p;
}
VF_INLINE void vf_store(float *p, vf v) {
    *(vf_any *)p = (vf_any)v;
}
/* A store that reads no line from memory and leaves none in the caches, where p is aligned to the
 * vector and the machine has one; vf_stream_end before others may look. */
VF_INLINE void vf_stream(float *p, vf v) {
#if W >= 8
    if ((uintptr_t)p % sizeof(vf) == 0) {
#if W == 16
        _mm512_stream_ps(p, (__m512)v);
#else
        _mm256_stream_ps(p, (__m256)v);
#endif
        return;
    }
#endif
    vf_store(p, v);
}
VF_INLINE void vf_stream_end(void) {
#if W >= 8
    _mm_sfence();
#endif
}
VF_INLINE vu vu_load(const uint32_t *p) {
    return (vu) * (const vu_any *)p;
}
VF_INLINE void vu_store(uint32_t *p, vu v) {
    *(vu_any *)p = (vu_any)v;
}

VF_INLINE vf vf_set1(float x) {
#if W == 16
    return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif W == 8
    return (vf){x, x, x, x, x, x, x, x};
#else
    return (vf){x, x, x, x};
#endif
}
VF_INLINE vu vu_set1(uint32_t x) {
#if W == 16
    return (vu){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif W == 8
    return (vu){x, x, x, x, x, x, x, x};
#else
    return (vu){x, x, x, x};
#endif
}
/* 0, 1, 2, ... */
VF_INLINE vf vf_iota(void) {
#if W == 16
    return (vf){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif W == 8
    return (vf){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vf){0, 1, 2, 3};
#endif
}

/* The first n lanes (0 <= n < W), the others zero. */
VF_INLINE vf vf_load_n(const float *p, int64_t n) {
#if W == 16
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = vf_set1(0);
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
#endif
}
VF_INLINE void vf_store_n(float *p, vf v, int64_t n) {
#if W == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    memcpy(p, &v, (size_t)n * sizeof(float));
#endif
}

/* a * b + c, rounded once where the machine can. */
VF_INLINE vf vf_fma(vf a, vf b, vf c) {
#if W == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif W == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* lanes of a where a < b holds, of b elsewhere: a NaN in b passes. */
VF_INLINE vf vf_select_lt(vf x, vf y, vf if_lt, vf otherwise) {
#if W == 16
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_LT_OQ),
                                    (__m512)otherwise, (__m512)if_lt);
#else
    vi m = (vi)(x < y);
    return (vf)(((vi)if_lt & m) | ((vi)otherwise & ~m));
#endif
}
/* lanes of v where !(x < y), else 0. */
VF_INLINE vf vf_zero_lt(vf x, vf y, vf v) {
#if W == 16
    return (vf)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_NLT_UQ),
                                   (__m512)v);
#else
    return (vf)((vi)v & ~(vi)(x < y));
#endif
}
/* a > b ? a : b, so that a NaN in b passes. */
VF_INLINE vf vf_max(vf a, vf b) {
#if W == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif W == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select_lt(b, a, a, b);
#endif
}
/* a < b ? a : b, so that a NaN in b passes. */
VF_INLINE vf vf_min(vf a, vf b) {
#if W == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif W == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select_lt(a, b, a, b);
#endif
}
VF_INLINE vf vf_abs(vf a) {
    return (vf)((vu)a & vu_set1(0x7fffffffu));
}
/* Lanes folded by halves: lane i takes lane i + W/2, then i + W/4, ... */
#if W == 16
#define VF_ROTATED(v, n)                                                                           \
    __builtin_shufflevector(v, v, (n), (n) + 1, (n) + 2, (n) + 3, (n) + 4, (n) + 5, (n) + 6,       \
                            (n) + 7, (n) + 8, (n) + 9, (n) + 10, (n) + 11, (n) + 12, (n) + 13,     \
                            (n) + 14, (n) + 15)
#elif W == 8
#define VF_ROTATED(v, n)                                                                           \
    __builtin_shufflevector(v, v, (n), (n) + 1, (n) + 2, (n) + 3, (n) + 4, (n) + 5, (n) + 6,       \
                            (n) + 7)
#else
#define VF_ROTATED(v, n) __builtin_shufflevector(v, v, (n), (n) + 1, (n) + 2, (n) + 3)
#endif
VF_INLINE float vf_sum(vf v) {
#if W == 16
    v += VF_ROTATED(v, 8);
#endif
#if W >= 8
    v += VF_ROTATED(v, 4);
#endif
    v += VF_ROTATED(v, 2);
    return v[0] + v[1];
}
VF_INLINE float vf_hmax(vf v) {
#if W == 16
    v = vf_max(v, VF_ROTATED(v, 8));
#endif
#if W >= 8
    v = vf_max(v, VF_ROTATED(v, 4));
#endif
    v = vf_max(v, VF_ROTATED(v, 2));
    return v[0] > v[1] ? v[0] : v[1];
}

/* exp(x) for x <= 88, about 1 ulp: 2^n * p(r), x = n ln 2 + r. Below -87.3 it is 0; NaN stays.
 * p is a minimax polynomial of our own, 3.4e-9. */
VF_INLINE vf vf_exp(vf x) {
    const vf magic = vf_set1(12582912.0f), lowest = vf_set1(-87.3f);
    vf c = vf_max(lowest, x);
    vf t = vf_fma(c, vf_set1(1.44269504088896341f), magic);
    vf n = t - magic;
    vf r = vf_fma(n, vf_set1(-0.693359375f), c);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(0.001395171933f);
    p = vf_fma(p, r, vf_set1(0.008369598216f));
    p = vf_fma(p, r, vf_set1(0.04166618725f));
    p = vf_fma(p, r, vf_set1(0.1666651289f));
    p = vf_fma(p, r, vf_set1(0.5000000101f));
    p = vf_fma(p, r * r, r) + vf_set1(1.0f);
    vf scale = (vf)(((vu)t << 23) + vu_set1(0x3f800000u));
    return vf_select_lt(x, lowest, vf_set1(0.0f), p * scale);
}

/* x = n + r, |r| <= 1/2, n whole and -126 <= n <= 127: 2^n, and r. */
VF_INLINE vf vf_exp2_split(vf x, vf *r) {
    const vf magic = vf_set1(12582912.0f);
    vf t = x + magic;
    *r = x - (t - magic);
    return (vf)(((vu)t << 23) + vu_set1(0x3f800000u));
}

/* 2^x for x <= 0, within 2.7e-6: for values that BF16 (2e-3) takes next. Below -126 it is 0; NaN
 * stays. The polynomial is a minimax of our own, exact range reduction. */
VF_INLINE vf vf_exp2_coarse(vf x) {
    vf r, scale = vf_exp2_split(x, &r);
    vf p = vf_set1(0.009570102207f);
    p = vf_fma(p, r, vf_set1(0.05591785908f));
    p = vf_fma(p, r, vf_set1(0.2402474433f));
    p = vf_fma(p, r, vf_set1(0.6931217909f));
    p = vf_fma(p, r, vf_set1(0.9999992847f));
    return vf_zero_lt(x, vf_set1(-126.0f), p * scale);
}

/* gelu(x) = x/2 (1 + erf(x / sqrt 2)). With a = |x| / sqrt 2 the tail erfc(a) = exp(-a^2) t P(t),
 * t = 1 / (1 + 0.4 a), P minimax of our own (7.8e-9); then x (1 - erfc/2) or x erfc/2 by the sign,
 * so that no cancellation happens on either side. */
VF_INLINE vf vf_gelu(vf x) {
    const vf one = vf_set1(1.0f), half = vf_set1(0.5f), zero = vf_set1(0.0f);
    vf a = vf_abs(x) * vf_set1(0.70710678118654752f);
    vf t = one / vf_fma(a, vf_set1(0.4f), one);
    vf p = vf_set1(-0.02959397649f);
    p = vf_fma(p, t, vf_set1(0.198011349f));
    p = vf_fma(p, t, vf_set1(-0.4988073318f));
    p = vf_fma(p, t, vf_set1(0.5474302f));
    p = vf_fma(p, t, vf_set1(-0.2843625867f));
    p = vf_fma(p, t, vf_set1(0.2720641732f));
    p = vf_fma(p, t, vf_set1(0.1296802674f));
    p = vf_fma(p, t, vf_set1(0.2149189681f));
    p = vf_fma(p, t, vf_set1(0.2249520365f));
    p = vf_fma(p, t, vf_set1(0.2257069085f));
    vf x2 = x * x * half; /* = a^2, one rounding less */
    vf e = vf_exp(zero - x2);
    vf tail = half * (p * t) * e;
    /* a far tail times an infinite x is 0, not NaN */
    vf neg = vf_select_lt(x, vf_set1(-13.5f), zero, x * tail);
    vf pos = vf_fma(zero - x, tail, x);
    pos = vf_select_lt(vf_set1(13.5f), x, x, pos);
    return vf_select_lt(x, zero, neg, pos);
}

/* The same for values that BF16 takes next: max(x, 0) - |x| 2^L(|x|), where L is log2 of the normal
 * distribution's tail, a polynomial of our own. Of the tail 6e-7 or 5e-4 of itself, whichever is
 * less; from |x| = 13 on it is 0. */
VF_INLINE vf vf_gelu_coarse(vf x) {
    const vf zero = vf_set1(0.0f);
    vf a = vf_min(vf_set1(13.3f), vf_abs(x));
    vf l = vf_set1(3.994932e-08f);
    l = vf_fma(l, a, vf_set1(-2.3974023e-06f));
    l = vf_fma(l, a, vf_set1(6.153318e-05f));
    l = vf_fma(l, a, vf_set1(-0.00089446607f));
    l = vf_fma(l, a, vf_set1(0.00830241f));
    l = vf_fma(l, a, vf_set1(-0.053535894f));
    l = vf_fma(l, a, vf_set1(-0.4588104f));
    l = vf_fma(l, a, vf_set1(-1.1511575f));
    l = vf_fma(l, a, vf_set1(-0.9999992f));
    vf r, scale = vf_exp2_split(l, &r);
    vf p = vf_set1(0.001327647217f); /* 7.5e-8 */
    p = vf_fma(p, r, vf_set1(0.009675541331f));
    p = vf_fma(p, r, vf_set1(0.05550713273f));
    p = vf_fma(p, r, vf_set1(0.2402211972f));
    p = vf_fma(p, r, vf_set1(0.6931469671f));
    p = vf_fma(p, r, vf_set1(1.000000072f));
    vf tail = vf_zero_lt(l, vf_set1(-126.0f), p * scale);
    return vf_fma(zero - a, tail, vf_max(zero, x));
}

/* ---- BF16: the upper half of an FP32, round to nearest even; NaN stays NaN --------------------
 */

VF_INLINE vu vf_bf16_bits(vf x) { /* in the low 16 bits of each lane */
#if defined(__AVX512BF16__)
    return (vu)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    vu u = (vu)x;
    vu r = (u + vu_set1(0x7fffu) + ((u >> 16) & vu_set1(1u))) >> 16;
    vi is_nan = (vi)(x != x);
    return (r & (vu)~is_nan) | (((u >> 16) | vu_set1(0x40u)) & (vu)is_nan);
#endif
}
VF_INLINE void vf_store_bf16(uint16_t *p, vf x) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#elif W == 16
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtepi32_epi16((__m512i)(__v16si)vf_bf16_bits(x)));
#else
    vu b = vf_bf16_bits(x);
    for (int i = 0; i < W; i++) p[i] = (uint16_t)b[i];
#endif
}
VF_INLINE void vf_store_bf16_n(uint16_t *p, vf x, int64_t n) {
    vu b = vf_bf16_bits(x);
    uint32_t t[W];
    memcpy(t, &b, sizeof t);
    for (int64_t i = 0; i < n; i++) p[i] = (uint16_t)t[i];
}
/* c + lo(a) lo(b) + hi(a) hi(b), a and b pairs of BF16 a lane. */
VF_INLINE vf vf_dot_bf16(vf c, vu a, vu b) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
    const vu high = vu_set1(0xffff0000u);
    c = vf_fma((vf)(a << 16), (vf)(b << 16), c);
    return vf_fma((vf)(a & high), (vf)(b & high), c);
#endif
}

/* ---- transpose of W x W words ------------------------------------------------------------------
 */

#if W == 16
#define VU_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VU_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define VU_STAGES 4
#elif W == 8
#define VU_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define VU_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define VU_STAGES 3
#else
#define VU_LOW 0, 4, 1, 5
#define VU_HIGH 2, 6, 3, 7
#define VU_STAGES 2
#endif
/* dst[j * ldd + i] = src[i * lds + j], i, j < W: log2 W perfect shuffles (Stone 1971). */
VF_INLINE void vu_transpose(const uint32_t *src, int64_t lds, uint32_t *dst, int64_t ldd) {
    vu a[W], b[W];
    for (int i = 0; i < W; i++) a[i] = vu_load(src + i * lds);
#pragma GCC unroll 4
    for (int stage = 0; stage < VU_STAGES; stage++) {
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + W / 2], VU_LOW);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + W / 2], VU_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) a[i] = b[i];
    }
    for (int i = 0; i < W; i++) vu_store(dst + i * ldd, a[i]);
}

#endif
