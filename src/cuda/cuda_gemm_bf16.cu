/* SPDX-License-Identifier: MIT
 * Hopper matrix products of BF16 operands: cuda_gemm_sm90.cuh. */
#include "cuda_gemm_norm_sm90.cuh"

extern "C" cudaError_t vnp_cuda_gemm_bf16_sm90(const struct vnp_cuda_gemm_args *p,
                                               cudaStream_t stream) {
    return p->norm ? run_norm_sm90<in_bf16>(p, stream) : run_sm90<in_bf16>(p, stream);
}
