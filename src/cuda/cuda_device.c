/* SPDX-License-Identifier: MIT
 * Devices, constants and weights. A weight goes from the mapped file through a pinned ring of two
 * pieces to the device as stored, and is converted there: the host only copies bytes. */
#include "cuda_room.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAGE_BYTES ((size_t)16 << 20)

vnp_status vnp_cuda_fail(cudaError_t e, const char *what) {
    (void)cudaGetLastError();
    if (e == cudaErrorMemoryAllocation) {
        vnp_status status =
            vnp_fail(VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, "cuda: out of device memory in %s", what);
        vnp_error_hint("use a smaller token budget, or a lower precision");
        return status;
    }
    return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "cuda: %s (%s) in %s", cudaGetErrorString(e),
                    cudaGetErrorName(e), what);
}

/* Devices this room can use: compute capability 8.0 and later come first in CUDA's own order. */
int vnp_cuda_device_count(void) {
    int n = 0, n_good = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    for (int i = 0; i < n; i++) {
        int major = 0;
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) != cudaSuccess ||
            major < 8)
            break;
        n_good++;
    }
    (void)cudaGetLastError();
    return n_good;
}

void vnp_cuda_device_close(struct vnp_device *dev) {
    if (!dev) return;
    (void)cudaSetDevice(dev->idx);
    vnp_cuda_lt_close(dev->lt);
    for (int i = 0; i < 2; i++) {
        if (dev->stage_free[i]) (void)cudaEventDestroy(dev->stage_free[i]);
        (void)cudaFreeHost(dev->h_stage[i]);
        (void)cudaFree(dev->d_stage[i]);
    }
    if (dev->born) (void)cudaEventDestroy(dev->born);
    if (dev->upload) (void)cudaStreamDestroy(dev->upload);
    (void)cudaGetLastError();
    free(dev);
}

static vnp_status check_precision(const struct vnp_device *dev) {
    if (dev->precision == VNP_PREC_INT8 || (dev->precision == VNP_PREC_FP8 && !dev->has_wgmma)) {
        vnp_status status = vnp_fail(
            VNP_UNSUPPORTED, VNP_FROM_DEVICE, "cuda: no %s on %s (compute capability %d.%d)",
            vnp_precision_name(dev->precision), dev->name, dev->major, dev->minor);
        vnp_error_hint("use fp16%s",
                       dev->precision == VNP_PREC_FP8 ? "; fp8 needs a Hopper GPU" : "");
        return status;
    }
    return VNP_OK;
}

/* The driver's tensor-map encoder, and with it the sm_90a kernels. */
static void find_encoder(struct vnp_device *dev) {
    void *fn = NULL;
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    if (dev->major != 9 || dev->minor != 0) return;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess || !fn) {
        (void)cudaGetLastError();
        return;
    }
    memcpy(&dev->encode, &fn, sizeof fn);
    dev->has_wgmma = true;
}

static vnp_status device_fill(struct vnp_device *dev, const struct vnp_device_options *opt) {
    struct cudaDeviceProp prop;
    VNP_CUDA(cudaSetDevice(dev->idx));
    VNP_CUDA(cudaGetDeviceProperties(&prop, dev->idx));
    snprintf(dev->name, sizeof dev->name, "%.127s", prop.name);
    dev->major = prop.major;
    dev->minor = prop.minor;
    dev->n_sms = prop.multiProcessorCount;
    dev->mem_bytes = (int64_t)prop.totalGlobalMem;
    find_encoder(dev);
    const char *force = getenv("VNP_FORCE"); /* tests: run a device on the other path */
    if (force && strcmp(force, "gemm=library") == 0 && dev->precision != VNP_PREC_FP8)
        dev->has_wgmma = false;
    VNP_TRY(check_precision(dev));
    if (dev->precision != VNP_PREC_FP32 && !dev->has_wgmma)
        VNP_TRY(vnp_cuda_lt_open(dev->idx, opt->cache_dir, &dev->lt));
    VNP_CUDA(cudaStreamCreateWithFlags(&dev->upload, cudaStreamNonBlocking));
    VNP_CUDA(cudaEventCreate(&dev->born));
    VNP_CUDA(cudaEventRecord(dev->born, dev->upload));
    for (int i = 0; i < 2; i++) {
        VNP_CUDA(cudaMallocHost(&dev->h_stage[i], STAGE_BYTES));
        VNP_CUDA(cudaMalloc(&dev->d_stage[i], STAGE_BYTES));
        VNP_CUDA(cudaEventCreateWithFlags(&dev->stage_free[i], cudaEventDisableTiming));
    }
    return VNP_OK;
}

vnp_status vnp_cuda_device_open(const struct vnp_device_options *opt, struct vnp_device **out) {
    *out = NULL;
    if ((unsigned)opt->precision >= VNP_PREC_COUNT || opt->is_emulation)
        return vnp_fail(VNP_INVAL, VNP_FROM_DEVICE, "cuda: precision %d%s", (int)opt->precision,
                        opt->is_emulation ? " emulated" : "");
    int n = vnp_cuda_device_count();
    if (opt->idx_device < 0 || opt->idx_device >= n) {
        vnp_status status = vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE,
                                     "cuda: there is no device %d, %d found", opt->idx_device, n);
        vnp_error_hint("see `virnucpro doctor`; a driver and a GPU of compute capability 8.0 or "
                       "later are needed");
        return status;
    }
    struct vnp_device *dev = calloc(1, sizeof *dev);
    if (!dev)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cuda: %zu bytes for a device", sizeof *dev);
    dev->idx = opt->idx_device;
    dev->precision = opt->precision;
    vnp_status status = device_fill(dev, opt);
    if (status != VNP_OK) {
        vnp_cuda_device_close(dev);
        return status;
    }
    *out = dev;
    return VNP_OK;
}

vnp_status vnp_cuda_device_info(struct vnp_device *dev, struct vnp_device_info *out) {
    size_t n_free = 0, n_total = 0;
    memset(out, 0, sizeof *out);
    VNP_CUDA(cudaSetDevice(dev->idx));
    VNP_CUDA(cudaMemGetInfo(&n_free, &n_total));
    snprintf(out->name, sizeof out->name, "%s", dev->name);
    out->mem_bytes = (int64_t)n_total;
    out->mem_free_bytes = (int64_t)n_free;
    out->row_quantum = dev->has_wgmma ? (int64_t)(dev->n_sms / 2) * 256 : VNP_CUDA_LT_ROWS;
    out->budget_tokens = dev->precision == VNP_PREC_FP32 ? 4096 : out->row_quantum;
    out->n_units = dev->n_sms;
    out->major = dev->major;
    out->minor = dev->minor;
    return VNP_OK;
}

bool vnp_cuda_device_pci(int idx_device, char out[32]) {
    bool is_known = cudaDeviceGetPCIBusId(out, 32, idx_device) == cudaSuccess;
    (void)cudaGetLastError();
    return is_known;
}

enum vnp_dtype vnp_cuda_site_dtype(const struct vnp_device *dev, enum vnp_site site) {
    enum vnp_dtype half = dev->precision == VNP_PREC_BF16 ? VNP_BF16 : VNP_F16;
    if (dev->precision == VNP_PREC_FP32) return VNP_F32;
    switch (site) {
    case VNP_SITE_ATTN_IN:
    case VNP_SITE_ATTN_OUT:
    case VNP_SITE_FFN_IN:
    case VNP_SITE_FFN_MID:
        return dev->precision == VNP_PREC_FP8 ? VNP_E4M3 : half;
    case VNP_SITE_QKV:
        return half;
    case VNP_SITE_RESIDUAL:
    case VNP_SITE_F32:
    case VNP_SITE_COUNT:
    default:
        return VNP_F32;
    }
}

/* ---- uploads ------------------------------------------------------------------------------- */

/* Rows of a stored view to `to` (src and n_rows filled in here), piece by piece. */
static vnp_status upload(struct vnp_device *dev, const struct vnp_view *v,
                         struct vnp_cuda_convert_args to) {
    size_t row_bytes = (size_t)v->cols * vnp_dtype_bytes(v->dtype);
    if (v->dtype != VNP_F32 && v->dtype != VNP_F16 && v->dtype != VNP_BF16)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL, "cuda: weights stored as %s",
                        vnp_dtype_name(v->dtype));
    if (!v->data || v->rows < 1 || v->cols < 1 || row_bytes > STAGE_BYTES)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: a weight of [%lld][%lld]",
                        (long long)v->rows, (long long)v->cols);
    int64_t step = (int64_t)(STAGE_BYTES / row_bytes), row0 = to.row0;
    int slot = 0;
    for (int64_t r = 0; r < v->rows; r += step, slot ^= 1) {
        int64_t n = VNP_MIN(step, v->rows - r);
        VNP_CUDA(cudaEventSynchronize(dev->stage_free[slot]));
        memcpy(dev->h_stage[slot], (const char *)v->data + (size_t)r * row_bytes,
               (size_t)n * row_bytes);
        VNP_CUDA(cudaMemcpyAsync(dev->d_stage[slot], dev->h_stage[slot], (size_t)n * row_bytes,
                                 cudaMemcpyHostToDevice, dev->upload));
        to.src = dev->d_stage[slot];
        to.src_dtype = v->dtype;
        to.n_rows = n;
        to.n_cols = v->cols;
        to.row0 = row0 + r;
        VNP_CUDA(vnp_cuda_convert(&to, dev->upload));
        VNP_CUDA(cudaEventRecord(dev->stage_free[slot], dev->upload));
    }
    return VNP_OK;
}

vnp_status vnp_cuda_const_create(struct vnp_device *dev, const struct vnp_view *v, float **out) {
    float *p = NULL;
    size_t n;
    *out = NULL;
    VNP_CUDA(cudaSetDevice(dev->idx));
    if (v->rows < 1 || v->cols < 1 || !vnp_size_mul((size_t)v->rows, (size_t)v->cols * 4, &n))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: constant [%lld][%lld]", (long long)v->rows,
                        (long long)v->cols);
    VNP_CUDA(cudaMalloc((void **)&p, n + 64));
    struct vnp_cuda_convert_args to = {.dst = p, .ld = v->cols, .dst_dtype = VNP_F32};
    vnp_status status = upload(dev, v, to);
    cudaError_t e = cudaStreamSynchronize(dev->upload);
    if (status == VNP_OK && e != cudaSuccess) status = vnp_cuda_fail(e, "the upload of a constant");
    if (status != VNP_OK) {
        (void)cudaFree(p);
        return status;
    }
    *out = p;
    return VNP_OK;
}

void vnp_cuda_const_destroy(struct vnp_device *dev, float *p) {
    (void)cudaSetDevice(dev->idx);
    (void)cudaFree(p);
    (void)cudaGetLastError();
}

void vnp_cuda_linear_destroy(struct vnp_device *dev, struct vnp_linear *w) {
    if (!w) return;
    (void)cudaSetDevice(dev->idx);
    (void)cudaFree(w->w);
    (void)cudaFree(w->bias);
    (void)cudaFree(w->scale);
    (void)cudaGetLastError();
    free(w);
}

int64_t vnp_cuda_linear_bytes(const struct vnp_linear *w) {
    return w->n_bytes;
}

/* Zeroed on the upload's own stream: the default stream would not wait for it, nor it for that. */
static vnp_status alloc_floats(struct vnp_device *dev, int64_t n, float **out, int64_t *n_bytes) {
    size_t bytes = (size_t)VNP_ALIGN_UP(n, 64) * sizeof(float);
    VNP_CUDA(cudaMalloc((void **)out, bytes));
    VNP_CUDA(cudaMemsetAsync(*out, 0, bytes, dev->upload));
    *n_bytes += (int64_t)bytes;
    return VNP_OK;
}

static vnp_status upload_bias(struct vnp_device *dev, const struct vnp_linear_desc *d,
                              struct vnp_linear *w) {
    int64_t row = 0;
    if (!d->bias || !d->bias[0].data) return VNP_OK;
    VNP_TRY(alloc_floats(dev, w->n_out, &w->bias, &w->n_bytes));
    for (int i = 0; i < d->n_parts; i++) {
        /* a column of one value a row, so that interleaving moves it as it moves the weight */
        struct vnp_view v = {d->bias[i].data, d->bias[i].dtype, d->bias[i].rows * d->bias[i].cols,
                             1};
        struct vnp_cuda_convert_args to = {
            .dst = w->bias, .ld = 1, .row0 = row, .n_gate = d->gate_rows, .dst_dtype = VNP_F32};
        for (int64_t j = 0; j < v.rows; j++) {
            float b;
            vnp_convert_to_f32(v.dtype, (const char *)v.data + (size_t)j * vnp_dtype_bytes(v.dtype),
                               1, &b);
            w->bias_bound = fmaxf(w->bias_bound, b);
        }
        VNP_TRY(upload(dev, &v, to));
        row += v.rows;
    }
    return VNP_OK;
}

static vnp_status upload_weight(struct vnp_device *dev, const struct vnp_linear_desc *d,
                                struct vnp_linear *w) {
    size_t n_rows = (size_t)VNP_ALIGN_UP(w->n_out, VNP_CUDA_WEIGHT_ROWS);
    size_t n_bytes = n_rows * (size_t)w->ld_w * vnp_dtype_bytes(w->dtype);
    int64_t row = 0, ignored = 0;
    float *d_length = NULL, *h_length = NULL;
    VNP_CUDA(cudaMalloc(&w->w, n_bytes));
    w->n_bytes += (int64_t)n_bytes;
    if (w->dtype == VNP_E4M3) {
        VNP_TRY(alloc_floats(dev, w->n_out, &w->scale, &w->n_bytes));
        VNP_TRY(alloc_floats(dev, w->n_out, &d_length, &ignored));
    }
    vnp_status status = VNP_OK;
    for (int i = 0; i < d->n_parts && status == VNP_OK; i++) {
        struct vnp_cuda_convert_args to = {.dst = w->w,
                                           .scale = w->scale,
                                           .length = d_length,
                                           .ld = w->ld_w,
                                           .row0 = row,
                                           .n_gate = d->gate_rows,
                                           .dst_dtype = w->dtype};
        status = upload(dev, &d->weight[i], to);
        row += d->weight[i].rows;
    }
    cudaError_t e = cudaStreamSynchronize(dev->upload);
    if (status == VNP_OK && e != cudaSuccess) status = vnp_cuda_fail(e, "the upload of a weight");
    if (status == VNP_OK && d_length) {
        h_length = malloc((size_t)w->n_out * sizeof *h_length);
        e = h_length ? cudaMemcpy(h_length, d_length, (size_t)w->n_out * sizeof *h_length,
                                  cudaMemcpyDeviceToHost)
                     : cudaErrorMemoryAllocation;
        if (e != cudaSuccess) status = vnp_cuda_fail(e, "row lengths of a weight");
        for (int64_t i = 0; status == VNP_OK && i < w->n_out; i++)
            w->w_bound = fmaxf(w->w_bound, h_length[i]);
    }
    free(h_length);
    (void)cudaFree(d_length);
    return status;
}

vnp_status vnp_cuda_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                  struct vnp_linear **out) {
    *out = NULL;
    VNP_TRY(vnp_op_check_linear_desc(desc));
    VNP_CUDA(cudaSetDevice(dev->idx));
    if (desc->gate_rows > 0 && desc->gate_rows % 8 != 0)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL,
                        "cuda: a gated product of %lld rows; a multiple of 8 is needed",
                        (long long)desc->gate_rows);
    struct vnp_linear *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cuda: %zu bytes for a weight", sizeof *w);
    w->n_out = desc->n_out;
    w->n_in = desc->n_in;
    w->ld_w = VNP_ALIGN_UP(desc->n_in, VNP_CUDA_LD_ALIGN);
    w->gate_rows = desc->gate_rows;
    w->site = desc->site;
    w->dtype = vnp_cuda_site_dtype(dev, desc->site);
    vnp_status status = upload_bias(dev, desc, w);
    if (status == VNP_OK) status = upload_weight(dev, desc, w);
    if (status != VNP_OK) {
        (void)cudaStreamSynchronize(dev->upload);
        vnp_cuda_linear_destroy(dev, w);
        return status;
    }
    *out = w;
    return VNP_OK;
}
