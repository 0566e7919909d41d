/* SPDX-License-Identifier: MIT
 * Hopper matrix products of BF16 operands: the instances of cuda_gemm_sm90.cuh that the models use.
 */
#include "cuda_gemm_sm90.cuh"

extern "C" cudaError_t vnp_cuda_gemm_bf16_sm90(const struct vnp_cuda_gemm_args *p,
                                               cudaStream_t stream) {
    bool is_f32 = p->out_dtype == VNP_F32;
    if (!is_f32 && p->out_dtype != VNP_BF16) return cudaErrorNotSupported;
    switch (p->epilogue) {
    case VNP_CUDA_EPI_STORE:
        return is_f32 ? launch_sm90<in_bf16, VNP_CUDA_EPI_STORE, OUT_F32>(p, stream)
                      : launch_sm90<in_bf16, VNP_CUDA_EPI_STORE, OUT_BF16>(p, stream);
    case VNP_CUDA_EPI_GELU:
        return is_f32 ? launch_sm90<in_bf16, VNP_CUDA_EPI_GELU, OUT_F32>(p, stream)
                      : launch_sm90<in_bf16, VNP_CUDA_EPI_GELU, OUT_BF16>(p, stream);
    case VNP_CUDA_EPI_ADD:
        return is_f32 ? launch_sm90<in_bf16, VNP_CUDA_EPI_ADD, OUT_F32>(p, stream)
                      : cudaErrorNotSupported;
    case VNP_CUDA_EPI_GEGLU:
        return is_f32 ? cudaErrorNotSupported
                      : launch_sm90<in_bf16, VNP_CUDA_EPI_GEGLU, OUT_BF16>(p, stream);
    }
    return cudaErrorNotSupported;
}
