/* SPDX-License-Identifier: MIT
 * ref: backend 1, plain loops in C, FP32 values and FP64 sums. The judge of the others, and a
 * shipped backend. With is_emulation it rounds the operands of matrix products and attention to
 * the precision asked for and keeps everything else FP32. The room's one door. */
#ifndef VNP_REF_H
#define VNP_REF_H
#include "op/op.h"
const struct vnp_backend *vnp_ref_backend(void);
#endif
