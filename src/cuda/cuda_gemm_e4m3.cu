/* SPDX-License-Identifier: MIT
 * Hopper matrix products of E4M3 operands with a scale a row of each: cuda_gemm_sm90.cuh. */
#include "cuda_gemm_norm_sm90.cuh"

extern "C" cudaError_t vnp_cuda_gemm_e4m3_sm90(const struct vnp_cuda_gemm_args *p,
                                               cudaStream_t stream) {
    return p->norm ? run_norm_sm90<in_e4m3>(p, stream) : run_sm90<in_e4m3>(p, stream);
}
