/* SPDX-License-Identifier: MIT
 * Hopper matrix products of E4M3 operands (a scale a row of a, a scale a row of w): the instances
 * of cuda_gemm_sm90.cuh that the models use. */
#include "cuda_gemm_sm90.cuh"

extern "C" cudaError_t vnp_cuda_gemm_e4m3_sm90(const struct vnp_cuda_gemm_args *p,
                                               cudaStream_t stream) {
    enum vnp_dtype out = p->out_dtype;
    switch (p->epilogue) {
    case VNP_CUDA_EPI_STORE:
        if (out == VNP_F32) return launch_sm90<in_e4m3, VNP_CUDA_EPI_STORE, OUT_F32>(p, stream);
        if (out == VNP_F16) return launch_sm90<in_e4m3, VNP_CUDA_EPI_STORE, OUT_F16>(p, stream);
        break;
    case VNP_CUDA_EPI_GELU:
        if (out == VNP_F32) return launch_sm90<in_e4m3, VNP_CUDA_EPI_GELU, OUT_F32>(p, stream);
        if (out == VNP_E4M3) return launch_sm90<in_e4m3, VNP_CUDA_EPI_GELU, OUT_E4M3>(p, stream);
        break;
    case VNP_CUDA_EPI_ADD:
        if (out == VNP_F32) return launch_sm90<in_e4m3, VNP_CUDA_EPI_ADD, OUT_F32>(p, stream);
        break;
    case VNP_CUDA_EPI_GEGLU:
        if (out == VNP_F16) return launch_sm90<in_e4m3, VNP_CUDA_EPI_GEGLU, OUT_F16>(p, stream);
        break;
    }
    return cudaErrorNotSupported;
}
