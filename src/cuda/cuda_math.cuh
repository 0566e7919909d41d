/* SPDX-License-Identifier: MIT
 * Small device functions shared by the kernels: 16-bit and E4M3 conversions, warp reductions of a
 * fixed shape, gelu. */
#ifndef VNP_CUDA_MATH_CUH
#define VNP_CUDA_MATH_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

#define E4M3_MAX 448.0f

/* gelu(x) = max(x, 0) - |x| 2^p(|x|), p the polynomial that fits log2 Phi(-u), Phi the normal
 * distribution, on u < 5.9 (beyond, |x| 2^p is taken at 5.9: 1.1e-8). The error of 2^p, 2.1e-6 of
 * it, is one of the result's as well, since |x| 2^p <= |gelu(x)|: below 1 % of half a step of FP16
 * where that is normal, so exact for every type it is used with. 11 instructions, one of them of
 * the special-function unit, which a form with a division would need twice; erff would be about
 * thirty. NaN stays NaN. */
__device__ __forceinline__ float gelu_ends(float x, float u, float p) {
    float e, top;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(p));
    asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(top) : "f"(x));
    return fmaf(-u, e, top);
}
__device__ __forceinline__ float gelu_fast(float x) {
    float u = fminf(fabsf(x), 5.9f);
    float p = fmaf(u, -1.1689245411616866e-06f, 5.1418501243460923e-05f);
    p = fmaf(u, p, -0.0008701223996467888f);
    p = fmaf(u, p, 0.008332852274179459f);
    p = fmaf(u, p, -0.053704675287008286f);
    p = fmaf(u, p, -0.4586374759674072f);
    p = fmaf(u, p, -1.151208519935608f);
    p = fmaf(u, p, -0.9999969601631165f);
    return gelu_ends(x, u, p);
}
/* The same to 3.1e-4 of the result, 0.5 % of half a step of E4M3. */
__device__ __forceinline__ float gelu_coarse(float x) {
    float u = fminf(fabsf(x), 5.5f);
    float p = fmaf(u, 0.0030295923352241516f, -0.03969278931617737f);
    p = fmaf(u, p, -0.47476547956466675f);
    p = fmaf(u, p, -1.1445413827896118f);
    p = fmaf(u, p, -1.000442624092102f);
    return gelu_ends(x, u, p);
}

/* The FP32 path's: to the last bits. */
__device__ __forceinline__ float gelu_exact(float x) {
    return 0.5f * x * erfcf(-0.70710678118654752f * x);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__device__ __forceinline__ uint32_t pack2_f16(float lo, float hi) {
    __half2 h = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
__device__ __forceinline__ uint32_t pack2_bf16(float lo, float hi) {
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
/* Two E4M3 codes, the first in the low byte; saturates at 448. */
__device__ __forceinline__ uint32_t pack2_e4m3(float lo, float hi) {
    return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ float2 unpack2_f16(uint32_t v) {
    return __half22float2(*reinterpret_cast<__half2 *>(&v));
}
__device__ __forceinline__ float2 unpack2_bf16(uint32_t v) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&v));
}
__device__ __forceinline__ float e4m3_to_f32(uint8_t v) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E4M3)));
}

/* One of a rotated pair. */
__device__ __forceinline__ float turned(float x, float partner, float cos, float sin) {
    return fmaf(partner, sin, __fmul_rn(x, cos));
}

/* What FP16 rounds to infinity. */
__device__ __forceinline__ bool exceeds_f16(float x) {
    return x >= 65520.0f;
}
/* The largest of a warp's values (>= 0) into v_top[at], if it is larger. */
__device__ __forceinline__ void note_warp_top(float *v_top, int at, float top, int lane) {
    int m = __reduce_max_sync(0xffffffffu, __float_as_int(top));
    if (lane == 0) atomicMax(reinterpret_cast<int *>(v_top) + at, m);
}

/* 16-bit types as template tags. */
struct tag_f16 {
    static __device__ __forceinline__ uint32_t pack2(float a, float b) { return pack2_f16(a, b); }
    static __device__ __forceinline__ float2 unpack2(uint32_t v) { return unpack2_f16(v); }
};
struct tag_bf16 {
    static __device__ __forceinline__ uint32_t pack2(float a, float b) { return pack2_bf16(a, b); }
    static __device__ __forceinline__ float2 unpack2(uint32_t v) { return unpack2_bf16(v); }
};

#endif
