/* SPDX-License-Identifier: MIT
 * The FP32 matrix product, true FP32 (no TF32): the GPU's own judge of the low precisions.
 * Register tiles of 8 x 8, sums in two levels, every epilogue fused. */
#include "cuda_math.cuh"
#include "cuda_room.h"

namespace {

constexpr int TILE = 128, DEPTH = 8;

/* gemm_f32  out = epilogue(a w^T + bias)
 * Math      FP32 fused multiply-adds, k ascending; partial sums of 256 products are added to a
 *           second accumulator, so that the error grows with K / 256 + 256 and not with K
 * Shapes    a [M][K], w [n_out][K], out [M][n_out] f32 (GEGLU: n_out/2, weight rows interleaved)
 * Rounding  FP32
 * Traffic   2*M*n_out*K flop at 2 flop an FP32 lane and clock: compute-bound
 * Bound     67 TFLOP/s by the datasheet; this is the judge, not the racer
 * Launch    256 threads a 128 x 128 tile, 8 kB smem
 * Order     k alone: bit-identical for any M and any neighbours
 * Ref       vnp_ref linear     Tried  -
 */
template <int EPI>
__global__ void __launch_bounds__(256) gemm_f32(const __grid_constant__ vnp_cuda_gemm_args p) {
    __shared__ float as[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
    int64_t row0 = static_cast<int64_t>(blockIdx.y) * TILE,
            col0 = static_cast<int64_t>(blockIdx.x) * TILE;
    const float *a = static_cast<const float *>(p.a), *w = static_cast<const float *>(p.w);
    float acc[8][8] = {}, part[8][8] = {};
    for (int64_t k0 = 0; k0 < p.k; k0 += DEPTH) {
        for (int i = t; i < TILE * DEPTH; i += 256) {
            int r = i / DEPTH, k = i % DEPTH;
            bool in_k = k0 + k < p.k;
            as[k][r] = in_k && row0 + r < p.m ? a[(row0 + r) * p.ld_a + k0 + k] : 0.0f;
            ws[k][r] = in_k && col0 + r < p.n ? w[(col0 + r) * p.ld_w + k0 + k] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float x[8], y[8];
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = as[k][ty * 8 + i];
#pragma unroll
            for (int i = 0; i < 8; i++) y[i] = ws[k][tx * 8 + i];
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) part[i][j] = fmaf(x[i], y[j], part[i][j]);
        }
        __syncthreads();
        if ((k0 / DEPTH) % 32 == 31 || k0 + DEPTH >= p.k)
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    acc[i][j] += part[i][j];
                    part[i][j] = 0.0f;
                }
    }
    float *out = static_cast<float *>(p.out);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        int64_t col = col0 + tx * 8 + j;
        float b = p.bias && col < p.n ? p.bias[col] : 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int64_t row = row0 + ty * 8 + i;
            float y = acc[i][j] + b;
            if (EPI == VNP_CUDA_EPI_GEGLU) { /* even tx: gates, odd tx: their values */
                float other = __shfl_xor_sync(0xffffffffu, y, 1);
                if ((tx & 1) == 0 && row < p.m && col < p.n)
                    out[row * p.ld_out + col / 16 * 8 + j] = gelu_exact(y) * other;
                continue;
            }
            if (row >= p.m || col >= p.n) continue;
            if (EPI == VNP_CUDA_EPI_ADD) y += out[row * p.ld_out + col];
            out[row * p.ld_out + col] = EPI == VNP_CUDA_EPI_GELU ? gelu_exact(y) : y;
        }
    }
}

} // namespace

extern "C" cudaError_t vnp_cuda_gemm_f32(const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    if (p->m == 0) return cudaSuccess;
    dim3 grid(static_cast<unsigned>((p->n + TILE - 1) / TILE),
              static_cast<unsigned>((p->m + TILE - 1) / TILE));
    switch (p->epilogue) {
    case VNP_CUDA_EPI_STORE:
        gemm_f32<VNP_CUDA_EPI_STORE><<<grid, 256, 0, stream>>>(*p);
        break;
    case VNP_CUDA_EPI_GELU:
        gemm_f32<VNP_CUDA_EPI_GELU><<<grid, 256, 0, stream>>>(*p);
        break;
    case VNP_CUDA_EPI_ADD:
        gemm_f32<VNP_CUDA_EPI_ADD><<<grid, 256, 0, stream>>>(*p);
        break;
    case VNP_CUDA_EPI_GEGLU:
        gemm_f32<VNP_CUDA_EPI_GEGLU><<<grid, 256, 0, stream>>>(*p);
        break;
    case VNP_CUDA_EPI_QKV:
        return cudaErrorNotSupported;
    }
    return cudaGetLastError();
}
