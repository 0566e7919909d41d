/* SPDX-License-Identifier: MIT
 * cpu: backend 2, oneDNN matrix products and our own SIMD kernels (AVX-512, AVX2, portable C),
 * FP32 and BF16. The room's one door. */
#ifndef VNP_CPU_H
#define VNP_CPU_H
#include "op/op.h"
const struct vnp_backend *vnp_cpu_backend(void);
/* Instruction sets found and usable, for `doctor`: "avx512-bf16 avx512 avx2 generic". */
const char *vnp_cpu_features(void);
#endif
