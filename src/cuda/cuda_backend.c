/* SPDX-License-Identifier: MIT
 * The plug-in's door: the table, and errors handed to the host. The plug-in has its own copy of
 * base (its symbols are hidden), so a failing call copies its record over. */
#include "cuda/cuda.h"
#include "cuda_room.h"

#include <stdatomic.h>

static _Atomic(vnp_cuda_error_fn *) host_error; /* written once by vnp_cuda_bind */

void vnp_cuda_bind(vnp_cuda_error_fn *error_set) {
    atomic_store(&host_error, error_set);
}

static vnp_status tell(vnp_status status) {
    vnp_cuda_error_fn *set = atomic_load(&host_error);
    if (status != VNP_OK && set) set(vnp_error_last());
    return status;
}

static vnp_status device_open(const struct vnp_device_options *opt, struct vnp_device **out) {
    return tell(vnp_cuda_device_open(opt, out));
}
static vnp_status device_info(struct vnp_device *dev, struct vnp_device_info *out) {
    return tell(vnp_cuda_device_info(dev, out));
}
static vnp_status const_create(struct vnp_device *dev, const struct vnp_view *v, float **out) {
    return tell(vnp_cuda_const_create(dev, v, out));
}
static vnp_status linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                struct vnp_linear **out) {
    return tell(vnp_cuda_linear_create(dev, desc, out));
}
static vnp_status exec_create(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                              struct vnp_exec **out) {
    return tell(vnp_cuda_exec_create(dev, limits, out));
}
static vnp_status tensor_create(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                int64_t cols, struct vnp_tensor *out) {
    return tell(vnp_cuda_tensor_create(ex, site, max_rows, cols, out));
}
static vnp_status batch_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    return tell(vnp_cuda_batch_begin(ex, pack));
}
static vnp_status read_f32(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out) {
    return tell(vnp_cuda_read_f32(ex, t, host_out));
}
static vnp_status exec_wait(struct vnp_exec *ex) {
    return tell(vnp_cuda_exec_wait(ex));
}
static vnp_status embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                        struct vnp_tensor *out) {
    return tell(vnp_cuda_op_embed(ex, p, out));
}
static vnp_status layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand) {
    return tell(vnp_cuda_op_layernorm(ex, p, x, out_residual, out_operand));
}
static vnp_status linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                         const struct vnp_tensor *a, struct vnp_tensor *out) {
    return tell(vnp_cuda_op_linear(ex, w, epi, a, out));
}
static vnp_status linear_qkv(struct vnp_exec *ex, const struct vnp_linear *w,
                             struct vnp_attention_params *p, const struct vnp_tensor *a,
                             struct vnp_tensor *out) {
    return tell(vnp_cuda_op_linear_qkv(ex, w, p, a, out));
}
static vnp_status qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                struct vnp_attention_params *p, struct vnp_tensor *out) {
    return tell(vnp_cuda_op_qkv_of_tokens(ex, table, p, out));
}
static vnp_status linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                              const struct vnp_norm_params *p, const struct vnp_tensor *a,
                              struct vnp_tensor *x, struct vnp_tensor *out_operand) {
    return tell(vnp_cuda_op_linear_norm(ex, w, p, a, x, out_operand));
}
static vnp_status attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                            const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    return tell(vnp_cuda_op_attention(ex, p, qkv, out));
}
static vnp_status pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                       const struct vnp_tensor *x, struct vnp_tensor *out) {
    return tell(vnp_cuda_op_pool(ex, p, x, out));
}

static vnp_status mark(struct vnp_exec *ex, int i) {
    return tell(vnp_cuda_mark(ex, i));
}

const struct vnp_backend *vnp_cuda_backend(void) {
    static const struct vnp_backend backend = {
        .version = VNP_BACKEND_VERSION,
        .name = "cuda",
        .is_host = false,
        .device_count = vnp_cuda_device_count,
        .device_open = device_open,
        .device_close = vnp_cuda_device_close,
        .device_info = device_info,
        .site_dtype = vnp_cuda_site_dtype,
        .const_create = const_create,
        .const_destroy = vnp_cuda_const_destroy,
        .linear_create = linear_create,
        .linear_destroy = vnp_cuda_linear_destroy,
        .linear_bytes = vnp_cuda_linear_bytes,
        .exec_create = exec_create,
        .exec_destroy = vnp_cuda_exec_destroy,
        .tensor_create = tensor_create,
        .batch_begin = batch_begin,
        .read_f32 = read_f32,
        .exec_wait = exec_wait,
        .embed = embed,
        .layernorm = layernorm,
        .linear = linear,
        .linear_qkv = linear_qkv,
        .qkv_of_tokens = qkv_of_tokens,
        .linear_norm = linear_norm,
        .attention = attention,
        .pool = pool,
        .exec_n_nonfinite = vnp_cuda_exec_n_nonfinite,
        .exec_span = vnp_cuda_exec_span,
        .device_pci = vnp_cuda_device_pci,
        .mark = mark,
        .mark_s = vnp_cuda_mark_s,
    };
    return &backend;
}
