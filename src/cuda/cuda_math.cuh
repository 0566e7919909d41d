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

/* gelu(x) = x Phi(x), Phi the normal distribution: x / (1 + 2^-q(x)), q the odd polynomial that
 * fits log2(Phi / (1 - Phi)) on |x| < 5.9 (beyond, q goes on in proportion to x, and saturates).
 * At most 5.4e-7 from the exact value anywhere, and within 0.5 % of half a step of FP16 where that
 * is normal: exact for every type it is used with. 14 FP32 and two special-function instructions;
 * erff would be about thirty. */
__device__ __forceinline__ float gelu_fast(float x) {
    float t = fminf(x * x, 34.81f), e, r;
    float q = fmaf(t, 1.731532126882096e-12f, -2.645191010675063e-10f);
    q = fmaf(t, q, 1.7355910486571702e-08f);
    q = fmaf(t, q, -6.385920983120741e-07f);
    q = fmaf(t, q, 1.4179041500028688e-05f);
    q = fmaf(t, q, -1.7486937576904893e-04f);
    q = fmaf(t, q, -5.1265862566651776e-05f);
    q = fmaf(t, q, 0.10478297621011734f);
    q = fmaf(t, q, 2.3022282123565674f);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(-q * x));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    return x * r;
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
