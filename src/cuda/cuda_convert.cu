/* SPDX-License-Identifier: MIT
 * Weights on their way in: stored FP32, FP16 or BF16 bytes (at any alignment, as the mapped file
 * has them) to the operand type, rows interleaved for gated products, E4M3 with a scale a row.
 * And any tensor to FP32 on its way out. Run once a weight; speed does not matter here. */
#include "cuda_math.cuh"
#include "cuda_room.h"

namespace {

__device__ float stored(const uint8_t *src, int dtype, int64_t i) {
    if (dtype == VNP_F32) {
        const uint8_t *p = src + 4 * i;
        uint32_t v = p[0] | (p[1] << 8) | (p[2] << 16) | (static_cast<uint32_t>(p[3]) << 24);
        return __uint_as_float(v);
    }
    const uint8_t *p = src + 2 * i;
    uint16_t v = static_cast<uint16_t>(p[0] | (p[1] << 8));
    return dtype == VNP_F16 ? __half2float(__ushort_as_half(v))
                            : __uint_as_float(static_cast<uint32_t>(v) << 16);
}

/* convert  dst[map(r)] = type(src[r])
 * Math      E4M3: codes of w / s, s = max|w| / 448 by row; length = |row|
 * Shapes    src [R][C] dense, dst [..][ld]; columns C .. ld become 0
 * Rounding  once, to nearest even     Traffic  2..4*R*C read, 1..4*R*C written
 * Bound     the upload before it      Launch   a block of 256 threads a row
 * Order     max is order-free; lengths are a bound only      Ref  vnp_f32_to_*      Tried  -
 */
__global__ void convert(const __grid_constant__ vnp_cuda_convert_args p) {
    __shared__ float part[2][256];
    const uint8_t *src = static_cast<const uint8_t *>(p.src);
    int64_t r = p.row0 + blockIdx.x, to = r;
    int t = static_cast<int>(threadIdx.x);
    if (p.n_gate > 0) {
        int64_t in = r % p.n_gate;
        to = in / 8 * 16 + in % 8 + (r >= p.n_gate ? 8 : 0);
    }
    float top = 0.0f, square = 0.0f;
    for (int64_t i = t; i < p.n_cols; i += 256) {
        float v = stored(src, p.src_dtype, blockIdx.x * p.n_cols + i);
        top = fmaxf(top, fabsf(v));
        square = fmaf(v, v, square);
    }
    part[0][t] = top;
    part[1][t] = square;
    for (int o = 128; o > 0; o >>= 1) {
        __syncthreads();
        if (t < o) {
            part[0][t] = fmaxf(part[0][t], part[0][t + o]);
            part[1][t] += part[1][t + o];
        }
    }
    __syncthreads();
    float s = part[0][0] > 0.0f ? part[0][0] / E4M3_MAX : 1.0f;
    if (t == 0 && p.scale) p.scale[to] = s;
    if (t == 0 && p.length) p.length[to] = sqrtf(part[1][0]);
    for (int64_t i = t; i < p.ld; i += 256) {
        float v = i < p.n_cols ? stored(src, p.src_dtype, blockIdx.x * p.n_cols + i) : 0.0f;
        int64_t at = to * p.ld + i;
        if (p.dst_dtype == VNP_F32)
            static_cast<float *>(p.dst)[at] = v;
        else if (p.dst_dtype == VNP_F16)
            static_cast<__half *>(p.dst)[at] = __float2half_rn(v);
        else if (p.dst_dtype == VNP_BF16)
            static_cast<__nv_bfloat16 *>(p.dst)[at] = __float2bfloat16_rn(v);
        else
            static_cast<uint8_t *>(p.dst)[at] = static_cast<uint8_t>(pack2_e4m3(v / s, 0.0f));
    }
}

__global__ void to_f32(const void *x, int dtype, const float *scale, int64_t n_rows, int64_t n_cols,
                       int64_t ld, float *out) {
    int64_t n = n_rows * n_cols;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        int64_t r = i / n_cols, at = r * ld + i % n_cols;
        if (dtype == VNP_F32)
            out[i] = static_cast<const float *>(x)[at];
        else if (dtype == VNP_F16)
            out[i] = __half2float(static_cast<const __half *>(x)[at]);
        else if (dtype == VNP_BF16)
            out[i] = __bfloat162float(static_cast<const __nv_bfloat16 *>(x)[at]);
        else
            out[i] = e4m3_to_f32(static_cast<const uint8_t *>(x)[at]) * scale[r];
    }
}

} // namespace

extern "C" cudaError_t vnp_cuda_convert(const struct vnp_cuda_convert_args *p,
                                        cudaStream_t stream) {
    if (p->n_rows == 0) return cudaSuccess;
    convert<<<static_cast<unsigned>(p->n_rows), 256, 0, stream>>>(*p);
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_to_f32(const void *x, enum vnp_dtype dtype, const float *scale,
                                       int64_t n_rows, int64_t n_cols, int64_t ld, float *out,
                                       cudaStream_t stream) {
    if (n_rows == 0 || n_cols == 0) return cudaSuccess;
    to_f32<<<1024, 256, 0, stream>>>(x, dtype, scale, n_rows, n_cols, ld, out);
    return cudaGetLastError();
}
