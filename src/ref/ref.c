// SPDX-License-Identifier: MIT
// The reference backend's devices, contexts and memory. The mathematics stands in the files beside
// this one. All memory is host memory, every call is done when it returns, and every tensor is FP32
// whatever the precision, so that a reader sees the mathematics and nothing else.
#include "ref/ref_room.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vnp_ref_tensor {
    struct vnp_ref_tensor *next;
    float *data;
};

static vnp_status no_memory(const char *what, size_t n_bytes) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "ref: %zu bytes for %s", n_bytes, what);
}

void *vnp_ref_scratch(const struct vnp_exec *ex, int thread) {
    return ex->scratch + (size_t)thread * ex->n_scratch;
}

void vnp_ref_run(struct vnp_device *dev, int64_t n_tasks, vnp_pool_fn *fn, void *ctx) {
    pthread_mutex_lock(&dev->lock);
    vnp_pool_run(dev->pool, n_tasks, fn, ctx);
    pthread_mutex_unlock(&dev->lock);
}

/* ---- devices ------------------------------------------------------------------------------- */

static int device_count(void) {
    return 1;
}

static void device_close(struct vnp_device *dev) {
    if (!dev) return;
    vnp_pool_destroy(dev->pool);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
}

static vnp_status device_open(const struct vnp_device_options *opt, struct vnp_device **out) {
    *out = NULL;
    if ((unsigned)opt->precision >= VNP_PREC_COUNT)
        return vnp_fail(VNP_INVAL, VNP_FROM_DEVICE, "ref: precision %d", (int)opt->precision);
    if (opt->precision != VNP_PREC_FP32 && !opt->is_emulation) {
        vnp_status status = vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                                     "the ref backend computes in fp32, not in %s",
                                     vnp_precision_name(opt->precision));
        vnp_error_hint("use fp32, or ask for its emulation of %s",
                       vnp_precision_name(opt->precision));
        return status;
    }
    if (opt->idx_device != 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_DEVICE, "ref: there is no device %d", opt->idx_device);
    struct vnp_device *dev = calloc(1, sizeof *dev);
    if (!dev) return no_memory("a device", sizeof *dev);
    dev->opt = *opt;
    dev->rounding = opt->precision;
    pthread_mutex_init(&dev->lock, NULL);
    vnp_status status = vnp_pool_create(opt->n_threads, &dev->pool);
    if (status != VNP_OK) {
        device_close(dev);
        return status;
    }
    *out = dev;
    return VNP_OK;
}

static vnp_status device_info(struct vnp_device *dev, struct vnp_device_info *out) {
    memset(out, 0, sizeof *out);
    out->n_units = vnp_pool_n_threads(dev->pool);
    snprintf(out->name, sizeof out->name, "reference, %s%s, %d threads",
             vnp_precision_name(dev->opt.precision),
             dev->rounding == VNP_PREC_FP32 ? "" : " emulated", out->n_units);
    out->row_quantum = 1;
    out->budget_tokens = 4096;
    return VNP_OK;
}

static enum vnp_dtype site_dtype(const struct vnp_device *dev, enum vnp_site site) {
    (void)dev, (void)site;
    return VNP_F32;
}

/* ---- execution contexts -------------------------------------------------------------------- */

static void exec_destroy(struct vnp_exec *ex) {
    if (!ex) return;
    while (ex->tensors) {
        struct vnp_ref_tensor *t = ex->tensors;
        ex->tensors = t->next;
        vnp_free_aligned(t->data);
        free(t);
    }
    vnp_free_aligned(ex->scratch);
    vnp_free_aligned(ex->heads);
    vnp_free_aligned(ex->seq_of);
    free(ex);
}

static vnp_status exec_create(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                              struct vnp_exec **out) {
    *out = NULL;
    VNP_TRY(vnp_op_check_limits(limits));
    struct vnp_exec *ex = calloc(1, sizeof *ex);
    if (!ex) return no_memory("a context", sizeof *ex);
    size_t n_tokens = (size_t)limits->max_tokens, n_cols = (size_t)limits->max_cols;
    size_t n_heads = n_tokens * n_cols * sizeof(float);
    /* a thread's products and rounded rows of a linear; its scores and sums in attention */
    size_t n_linear = (n_cols + VNP_REF_COLS) * (2 * VNP_REF_ROWS * sizeof(double) + sizeof(float));
    size_t n_attention = (n_tokens + 2 * n_cols) * sizeof(double);
    ex->dev = dev;
    ex->limits = *limits;
    ex->n_scratch = VNP_ALIGN_UP(VNP_MAX(n_linear, n_attention), 64);
    size_t n_scratch = ex->n_scratch * (size_t)vnp_pool_n_threads(dev->pool);
    ex->seq_of = vnp_alloc_aligned(n_tokens * sizeof *ex->seq_of);
    ex->heads = vnp_alloc_aligned(n_heads);
    ex->scratch = vnp_alloc_aligned(n_scratch);
    if (!ex->seq_of || !ex->heads || !ex->scratch) {
        exec_destroy(ex);
        return no_memory("a context", n_heads + n_scratch + n_tokens * sizeof *ex->seq_of);
    }
    *out = ex;
    return VNP_OK;
}

static vnp_status tensor_create(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                int64_t cols, struct vnp_tensor *out) {
    size_t n_bytes;
    memset(out, 0, sizeof *out);
    VNP_TRY(vnp_op_tensor_bytes(site, VNP_F32, max_rows, cols, &n_bytes));
    struct vnp_ref_tensor *t = calloc(1, sizeof *t);
    if (!t) return no_memory("a tensor", sizeof *t);
    t->next = ex->tensors;
    ex->tensors = t;
    t->data = vnp_alloc_aligned(n_bytes);
    if (!t->data) return no_memory("a tensor", n_bytes);
#ifdef VNP_VERIFY
    for (size_t i = 0; i < n_bytes / sizeof *t->data; i++) t->data[i] = NAN;
#endif
    *out = (struct vnp_tensor){
        .data = t->data, .dtype = VNP_F32, .rows = max_rows, .cols = cols, .ld = cols};
    return VNP_OK;
}

static vnp_status batch_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    ex->pack = NULL;
    VNP_TRY(vnp_op_check_pack(pack, ex->limits.max_tokens, ex->limits.max_seqs));
    for (int64_t s = 0; s < pack->n_seqs; s++)
        for (int64_t row = pack->cu_seqlens[s]; row < pack->cu_seqlens[s + 1]; row++)
            ex->seq_of[row] = s;
    ex->pack = pack;
    return VNP_OK;
}

static vnp_status read_f32(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out) {
    (void)ex;
    const float *data = t->data;
    for (int64_t row = 0; row < t->rows; row++)
        memcpy(host_out + row * t->cols, data + row * t->ld, (size_t)t->cols * sizeof *data);
    return VNP_OK;
}

static vnp_status exec_wait(struct vnp_exec *ex) {
    (void)ex;
    return VNP_OK;
}

const struct vnp_backend *vnp_ref_backend(void) {
    static const struct vnp_backend backend = {
        .version = VNP_BACKEND_VERSION,
        .name = "ref",
        .is_host = true,
        .device_count = device_count,
        .device_open = device_open,
        .device_close = device_close,
        .device_info = device_info,
        .site_dtype = site_dtype,
        .const_create = vnp_op_host_const_create,
        .const_destroy = vnp_op_host_const_destroy,
        .linear_create = vnp_ref_linear_create,
        .linear_destroy = vnp_ref_linear_destroy,
        .linear_bytes = vnp_ref_linear_bytes,
        .exec_create = exec_create,
        .exec_destroy = exec_destroy,
        .tensor_create = tensor_create,
        .batch_begin = batch_begin,
        .read_f32 = read_f32,
        .exec_wait = exec_wait,
        .embed = vnp_ref_embed,
        .layernorm = vnp_ref_layernorm,
        .linear = vnp_ref_linear,
        .attention = vnp_ref_attention,
        .pool = vnp_ref_pool,
        .classify = vnp_ref_classify,
    };
    return &backend;
}
