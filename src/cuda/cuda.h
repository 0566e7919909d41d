/* SPDX-License-Identifier: MIT
 * cuda: backend 3, built as the plug-in libvirnucpro_cuda.so and opened at run time, so that the
 * program itself needs neither driver nor CUDA libraries. This is the room's one door: it names
 * the two symbols the plug-in exports. */
#ifndef VNP_CUDA_H
#define VNP_CUDA_H

#include "op/op.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VNP_CUDA_ENTRY "vnp_cuda_backend"
#define VNP_CUDA_BIND "vnp_cuda_bind"

/* The table. Constant. device_count is 0 where there is no driver or no device of compute
 * capability 8.0 or later; nothing crashes there. */
__attribute__((visibility("default"))) const struct vnp_backend *vnp_cuda_backend(void);

/* The plug-in carries its own copy of base, so its error record is not the host's. After
 * vnp_cuda_bind every failing call of the table hands its record to `error_set` (vnp_error_set of
 * the host). NULL unbinds. Call once, before the first device is opened. */
typedef void vnp_cuda_error_fn(const struct vnp_error *e);
__attribute__((visibility("default"))) void vnp_cuda_bind(vnp_cuda_error_fn *error_set);

#ifdef __cplusplus
}
#endif
#endif
