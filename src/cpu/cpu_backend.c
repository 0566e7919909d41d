// SPDX-License-Identifier: MIT
// The CPU backend's devices, contexts, and the ops that share rows or sequences out to threads. The
// arithmetic stands in kernels/ and cpu_linear.c. Every call is done when it returns. Several
// contexts may be used from several threads: dev->lock lets one op at a time have the team.
#include "cpu/cpu_room.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS_PER_TASK 32
#define CLASSIFY_ROWS 8

static vnp_status no_memory(const char *what, size_t n_bytes) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: %zu bytes for %s", n_bytes, what);
}

/* ---- the team -------------------------------------------------------------------------------- */

struct team_job {
    const struct vnp_cpu_openmp *openmp;
    vnp_pool_fn *fn;
    void *ctx;
};

static void team_task(void *ctx, int64_t task, int thread) {
    const struct team_job *job = ctx;
    vnp_cpu_openmp_single(job->openmp);
    job->fn(job->ctx, task, thread);
}

void vnp_cpu_run(struct vnp_device *dev, int64_t n_tasks, vnp_pool_fn *fn, void *ctx) {
    struct team_job job = {&dev->openmp, fn, ctx};
    pthread_mutex_lock(&dev->lock);
    const int before = vnp_cpu_openmp_single(&dev->openmp);
    vnp_pool_run(dev->pool, n_tasks, team_task, &job);
    vnp_cpu_openmp_restore(&dev->openmp, before);
    pthread_mutex_unlock(&dev->lock);
}

/* ---- devices --------------------------------------------------------------------------------- */

static int device_count(void) {
    return 1;
}

static void device_close(struct vnp_device *dev) {
    if (!dev) return;
    vnp_cpu_lanes_destroy(dev);
    while (dev->matmuls) {
        struct vnp_cpu_matmul *m = dev->matmuls;
        dev->matmuls = m->next;
        vnp_cpu_matmul_destroy(m);
    }
    if (dev->engine) dnnl_engine_destroy(dev->engine);
    vnp_pool_destroy(dev->pool);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
}

static vnp_status check_options(const struct vnp_device_options *opt) {
    if (opt->idx_device != 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_DEVICE, "cpu: there is no device %d", opt->idx_device);
    if (opt->is_emulation)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                        "cpu: only the ref backend emulates a precision");
    if (opt->precision != VNP_PREC_FP32 && opt->precision != VNP_PREC_BF16) {
        vnp_status status = vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                                     "the cpu backend computes in fp32 and bf16, not in %s",
                                     vnp_precision_name(opt->precision));
        vnp_error_hint("use fp32 or bf16");
        return status;
    }
    if (opt->precision == VNP_PREC_BF16 && !vnp_cpu_has("avx512bf16")) {
        vnp_status status = vnp_fail(
            VNP_UNSUPPORTED, VNP_FROM_DEVICE,
            "this processor has no BF16 matrix instructions (AVX512_BF16 or AMX); it has %s",
            vnp_cpu_features());
        vnp_error_hint("use fp32: bf16 would only be slower here");
        return status;
    }
    return VNP_OK;
}

static vnp_status device_setup(struct vnp_device *dev) {
    VNP_TRY(vnp_cpu_kernels_choose(getenv("VNP_FORCE"), &dev->kernels));
    VNP_TRY(vnp_pool_create(dev->opt.n_threads, &dev->pool));
    dev->openmp = vnp_cpu_openmp_find();
    dnnl_status_t status = dnnl_engine_create(&dev->engine, dnnl_cpu, 0);
    if (status != dnnl_success)
        return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "cpu: oneDNN gives no engine (status %d)",
                        (int)status);
    return vnp_cpu_lanes_create(dev);
}

static vnp_status device_open(const struct vnp_device_options *opt, struct vnp_device **out) {
    *out = NULL;
    VNP_TRY(check_options(opt));
    struct vnp_device *dev = calloc(1, sizeof *dev);
    if (!dev) return no_memory("a device", sizeof *dev);
    dev->opt = *opt;
    pthread_mutex_init(&dev->lock, NULL);
    vnp_status status = device_setup(dev);
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
    snprintf(out->name, sizeof out->name, "CPU, %s, %d threads, %s",
             vnp_precision_name(dev->opt.precision), out->n_units, vnp_cpu_features());
    const int64_t page = sysconf(_SC_PAGESIZE);
    out->mem_bytes = page * sysconf(_SC_PHYS_PAGES);
    out->mem_free_bytes = page * sysconf(_SC_AVPHYS_PAGES);
    out->row_quantum = VNP_CPU_MAX_HEIGHT;
    out->budget_tokens = 2048;
    return VNP_OK;
}

/* ---- contexts -------------------------------------------------------------------------------- */

static void exec_destroy(struct vnp_exec *ex) {
    if (!ex) return;
    while (ex->tensors) {
        struct vnp_cpu_memory *t = ex->tensors;
        ex->tensors = t->next;
        vnp_cpu_free(t->data, t->n_bytes);
        free(t);
    }
    vnp_free_aligned(ex->queries);
    vnp_free_aligned(ex->row_scale);
    vnp_free_aligned(ex->cosines);
    vnp_free_aligned(ex->sines);
    free(ex);
}

static vnp_status exec_create(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                              struct vnp_exec **out) {
    *out = NULL;
    VNP_TRY(vnp_op_check_limits(limits));
    struct vnp_exec *ex = calloc(1, sizeof *ex);
    if (!ex) return no_memory("a context", sizeof *ex);
    ex->dev = dev;
    ex->limits = *limits;
    const size_t n = (size_t)limits->max_tokens, n_angles = n * VNP_CPU_MAX_HEAD_DIM / 2;
    const size_t n_queries = n / VNP_CPU_QUERY_BLOCK_MIN + (size_t)limits->max_seqs;
    ex->queries = vnp_alloc_aligned(n_queries * sizeof *ex->queries);
    ex->row_scale = vnp_alloc_aligned(n * sizeof(float));
    ex->cosines = vnp_alloc_aligned(n_angles * sizeof(float));
    ex->sines = vnp_alloc_aligned(n_angles * sizeof(float));
    if (!ex->queries || !ex->row_scale || !ex->cosines || !ex->sines) {
        exec_destroy(ex);
        return no_memory("a context", 2 * n_angles * sizeof(float));
    }
    *out = ex;
    return VNP_OK;
}

static vnp_status tensor_create(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                int64_t cols, struct vnp_tensor *out) {
    size_t n_bytes;
    memset(out, 0, sizeof *out);
    const enum vnp_dtype dtype = vnp_cpu_site_dtype(ex->dev, site);
    VNP_TRY(vnp_op_tensor_bytes(site, dtype, max_rows, cols, &n_bytes));
    struct vnp_cpu_memory *t = calloc(1, sizeof *t);
    if (!t) return no_memory("a tensor", sizeof *t);
    t->next = ex->tensors;
    ex->tensors = t;
    t->n_bytes = n_bytes;
    t->data = vnp_cpu_alloc(n_bytes);
    if (!t->data) return no_memory("a tensor", n_bytes);
#ifdef VNP_VERIFY
    memset(t->data, 0xff, n_bytes); /* NaN in every type */
#endif
    *out = (struct vnp_tensor){
        .data = t->data, .dtype = dtype, .rows = max_rows, .cols = cols, .ld = cols};
    return VNP_OK;
}

/* Cuts sequences into equal blocks of queries. A block packs all keys for itself, so blocks are
 * large unless threads would go idle; no query's result depends on its block. */
static void cut_queries(struct vnp_exec *ex, const struct vnp_pack *pack) {
    int64_t most = VNP_CPU_QUERY_BLOCK;
    while (most > VNP_CPU_QUERY_BLOCK_MIN &&
           pack->n_tokens < most * vnp_pool_n_threads(ex->dev->pool))
        most /= 2;
    ex->n_queries = 0;
    for (int64_t s = 0; s < pack->n_seqs; s++) {
        const int64_t n = pack->cu_seqlens[s + 1] - pack->cu_seqlens[s];
        const int64_t n_blocks = (n + most - 1) / most;
        const int64_t step = n_blocks ? ((n + n_blocks - 1) / n_blocks + 23) / 24 * 24 : 0;
        for (int64_t q = 0; q < n; q += step)
            ex->queries[ex->n_queries++] = (struct vnp_cpu_queries){
                .seq = (int32_t)s, .first = (int32_t)q, .end = (int32_t)VNP_MIN(q + step, n)};
    }
}

static vnp_status batch_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    ex->pack = NULL;
    VNP_TRY(vnp_op_check_pack(pack, ex->limits.max_tokens, ex->limits.max_seqs));
    cut_queries(ex, pack);
    ex->pack = pack;
    return VNP_OK;
}

static vnp_status read_f32(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out) {
    (void)ex;
    if (t->dtype != VNP_F32)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: reading a tensor of %s",
                        vnp_dtype_name(t->dtype));
    for (int64_t row = 0; row < t->rows; row++)
        memcpy(host_out + row * t->cols, (const float *)t->data + row * t->ld,
               (size_t)t->cols * sizeof(float));
    return VNP_OK;
}

static vnp_status exec_wait(struct vnp_exec *ex) {
    (void)ex;
    return VNP_OK;
}

static vnp_status need_f32(const char *op, const struct vnp_tensor *t) {
    if (t->dtype == VNP_F32) return VNP_OK;
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: %s of a tensor of %s", op,
                    vnp_dtype_name(t->dtype));
}

/* ---- embed ----------------------------------------------------------------------------------- */

struct rows_job {
    const struct vnp_device *dev;
    const void *args;
    int64_t n_rows;
};

static void embed_task(void *ctx, int64_t task, int thread) {
    const struct rows_job *job = ctx;
    const int64_t first = task * ROWS_PER_TASK;
    (void)thread;
    job->dev->kernels.embed(job->args, first, VNP_MIN(first + ROWS_PER_TASK, job->n_rows));
}

/* Token dropout: the factor of each row's sequence. */
static void row_scales(const struct vnp_pack *pack, int mask_id, float *scale) {
    for (int64_t s = 0; s < pack->n_seqs; s++) {
        const int64_t first = pack->cu_seqlens[s], end = pack->cu_seqlens[s + 1];
        int64_t n_masks = 0;
        for (int64_t row = first; row < end; row++) n_masks += pack->tokens[row] == mask_id;
        double factor = (1 - 0.12) / (1 - (double)n_masks / (double)(end - first));
        if (n_masks == end - first) factor = 0; /* nothing but masks: every row is 0 */
        for (int64_t row = first; row < end; row++) scale[row] = (float)factor;
    }
}

static vnp_status embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                        struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: embed without a batch");
    VNP_TRY(vnp_op_check_embed(p, out, ex->pack->n_tokens));
    VNP_TRY(vnp_op_check_tokens(ex->pack, p->vocab));
    VNP_TRY(need_f32("embed", out));
    if (p->has_token_dropout) row_scales(ex->pack, p->mask_id, ex->row_scale);
    const struct vnp_cpu_embed_args args = {
        .table = p->table,
        .type_row = p->type_row,
        .tokens = ex->pack->tokens,
        .row_scale = p->has_token_dropout ? ex->row_scale : NULL,
        .mask_id = p->has_token_dropout ? p->mask_id : -1,
        .out = out->data,
        .n_cols = out->cols,
        .ld = out->ld,
    };
    struct rows_job job = {ex->dev, &args, ex->pack->n_tokens};
    vnp_cpu_run(ex->dev, (job.n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, embed_task, &job);
    return VNP_OK;
}

/* ---- rows by token --------------------------------------------------------------------------- */

struct of_tokens {
    const struct vnp_tensor *table;
    struct vnp_tensor *out;
    const uint16_t *tokens;
};

static void of_tokens_task(void *ctx, int64_t task, int thread) {
    const struct rows_job *job = ctx;
    const struct of_tokens *a = job->args;
    const size_t size = vnp_dtype_bytes(a->out->dtype), n = (size_t)a->out->cols * size;
    const int64_t first = task * ROWS_PER_TASK, end = VNP_MIN(first + ROWS_PER_TASK, job->n_rows);
    (void)thread;
    for (int64_t row = first; row < end; row++)
        memcpy((char *)a->out->data + (size_t)(row * a->out->ld) * size,
               (const char *)a->table->data + (size_t)(a->tokens[row] * a->table->ld) * size, n);
}

/* Attention rotates: p stays as it is. */
static vnp_status qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                struct vnp_attention_params *p, struct vnp_tensor *out) {
    (void)p;
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: rows of tokens without a batch");
    VNP_TRY(vnp_op_check_of_tokens(table, out, ex->pack->n_tokens));
    VNP_TRY(vnp_op_check_tokens(ex->pack, table->rows));
    if (table->dtype != out->dtype || table->scale || out->scale)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: rows of %s from a table of %s",
                        vnp_dtype_name(out->dtype), vnp_dtype_name(table->dtype));
    const struct of_tokens args = {table, out, ex->pack->tokens};
    struct rows_job job = {ex->dev, &args, ex->pack->n_tokens};
    vnp_cpu_run(ex->dev, (job.n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, of_tokens_task, &job);
    return VNP_OK;
}

/* ---- layer norm ------------------------------------------------------------------------------ */

static void norm_task(void *ctx, int64_t task, int thread) {
    const struct rows_job *job = ctx;
    const int64_t first = task * ROWS_PER_TASK;
    (void)thread;
    job->dev->kernels.norm(job->args, first, VNP_MIN(first + ROWS_PER_TASK, job->n_rows));
}

static vnp_status layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand) {
    VNP_TRY(vnp_op_check_norm(p, x, out_residual, out_operand));
    VNP_TRY(need_f32("layernorm", x));
    if (out_residual) VNP_TRY(need_f32("layernorm", out_residual));
    if (out_operand && out_operand->dtype != VNP_BF16) VNP_TRY(need_f32("layernorm", out_operand));
    const struct vnp_cpu_norm_args args = {
        .x = x->data,
        .out = out_residual ? out_residual->data : NULL,
        .operand = out_operand ? out_operand->data : NULL,
        .gamma = p->gamma,
        .beta = p->beta,
        .n_cols = x->cols,
        .ldx = x->ld,
        .ld_out = out_residual ? out_residual->ld : 0,
        .ld_operand = out_operand ? out_operand->ld : 0,
        .eps = p->eps,
        .is_bf16 = out_operand && out_operand->dtype == VNP_BF16,
    };
    struct rows_job job = {ex->dev, &args, x->rows};
    vnp_cpu_run(ex->dev, (x->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, norm_task, &job);
    return VNP_OK;
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Tables for positions 0..n-1, computed in double, kept from batch to batch. */
static void fill_angles(struct vnp_exec *ex, const struct vnp_attention_params *p, int64_t n) {
    const int64_t head_dim = p->head_dim, half = head_dim / 2;
    if (ex->angle_dim != head_dim || ex->angle_dtype != p->freq_dtype) ex->n_angles = 0;
    ex->angle_dim = head_dim;
    ex->angle_dtype = p->freq_dtype;
    for (int64_t i = 0; i < half && ex->n_angles < n; i++) {
        const double rate = vnp_op_rotary_freq(i, head_dim, p->freq_dtype);
        for (int64_t t = ex->n_angles; t < n; t++) {
            ex->cosines[t * half + i] = (float)cos((double)t * rate);
            ex->sines[t * half + i] = (float)sin((double)t * rate);
        }
    }
    ex->n_angles = VNP_MAX(ex->n_angles, n);
}

struct attention_job {
    const struct vnp_exec *ex;
    const struct vnp_attention_params *p;
    const struct vnp_tensor *qkv, *out;
};

static void attention_task(void *ctx, int64_t task, int thread) {
    const struct attention_job *job = ctx;
    const struct vnp_exec *ex = job->ex;
    const struct vnp_attention_params *p = job->p;
    const struct vnp_cpu_queries *block = &ex->queries[task / p->n_heads];
    const int64_t h = task % p->n_heads, d = p->n_heads * p->head_dim;
    const int64_t row = ex->pack->cu_seqlens[block->seq];
    const int64_t n = ex->pack->cu_seqlens[block->seq + 1] - row;
    const bool is_bf16 = ex->dev->opt.precision == VNP_PREC_BF16;
    const float *qkv = (const float *)job->qkv->data + row * job->qkv->ld + h * p->head_dim;
    const struct vnp_cpu_attention_args args = {
        .q = qkv,
        .k = qkv + d,
        .v = qkv + 2 * d,
        .ld = job->qkv->ld,
        .n_keys = n,
        .q_first = block->first,
        .q_end = block->end,
        .head_dim = p->head_dim,
        .cosines = p->has_rotary ? ex->cosines : NULL,
        .sines = p->has_rotary ? ex->sines : NULL,
        .scale = p->scale,
        .slope = p->slopes ? p->slopes[h] : 0.0f,
        .out = (char *)job->out->data +
               (size_t)(row * job->out->ld + h * p->head_dim) * (is_bf16 ? 2 : 4),
        .ld_out = job->out->ld,
        .scratch = ex->dev->lanes[thread].attention,
    };
    if (is_bf16)
        ex->dev->kernels.attention_bf16(&args);
    else
        ex->dev->kernels.attention(&args);
}

static vnp_status attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                            const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: attention without a batch");
    VNP_TRY(vnp_op_check_attention(p, qkv, out, ex->pack->n_tokens));
    if (p->head_dim > VNP_CPU_MAX_HEAD_DIM || p->head_dim % 2)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                        "cpu: heads of size %lld (even, at most %d, can be done)",
                        (long long)p->head_dim, VNP_CPU_MAX_HEAD_DIM);
    if (qkv->dtype != VNP_F32 || out->dtype != vnp_cpu_site_dtype(ex->dev, VNP_SITE_ATTN_OUT))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: attention from %s to %s",
                        vnp_dtype_name(qkv->dtype), vnp_dtype_name(out->dtype));
    if (p->has_rotary) fill_angles(ex, p, ex->pack->max_len);
    struct attention_job job = {ex, p, qkv, out};
    vnp_cpu_run(ex->dev, ex->n_queries * p->n_heads, attention_task, &job);
    return VNP_OK;
}

/* ---- pooling --------------------------------------------------------------------------------- */

struct pool_job {
    const struct vnp_exec *ex;
    const struct vnp_pool_params *p;
    const struct vnp_tensor *x, *out;
};

static void pool_task(void *ctx, int64_t s, int thread) {
    const struct pool_job *job = ctx;
    const struct vnp_pool_params *p = job->p;
    int64_t first = job->ex->pack->cu_seqlens[s], end = job->ex->pack->cu_seqlens[s + 1];
    const float *x = job->x->data;
    float *out = (float *)job->out->data + s * job->out->ld;
    (void)thread;
    if (p->kind == VNP_POOL_CLS) {
        memcpy(out, x + first * job->x->ld, (size_t)job->x->cols * sizeof *out);
        return;
    }
    first += p->skip_first;
    end -= p->skip_last;
    if (p->max_count > 0) end = VNP_MIN(end, first + p->max_count);
    const struct vnp_cpu_pool_args args = {
        .x = end > first ? x + first * job->x->ld : x,
        .ld = job->x->ld,
        .n_rows = VNP_MAX(end - first, 0),
        .n_cols = job->x->cols,
        .out = out,
    };
    job->ex->dev->kernels.pool(&args);
}

static vnp_status pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                       const struct vnp_tensor *x, struct vnp_tensor *out) {
    if (!ex->pack) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: pool without a batch");
    VNP_TRY(vnp_op_check_pool(p, x, out, ex->pack->n_tokens, ex->pack->n_seqs));
    VNP_TRY(need_f32("pool", x));
    VNP_TRY(need_f32("pool", out));
    struct pool_job job = {ex, p, x, out};
    vnp_cpu_run(ex->dev, ex->pack->n_seqs, pool_task, &job);
    return VNP_OK;
}

/* ---- classifier ------------------------------------------------------------------------------ */

struct classify_job {
    const struct vnp_device *dev;
    const struct vnp_classifier_params *p;
    const float *z;
    int64_t n_rows;
    float *out;
};

static void classify_task(void *ctx, int64_t task, int thread) {
    const struct classify_job *job = ctx;
    const int64_t first = task * CLASSIFY_ROWS;
    const int64_t n = VNP_MIN(job->n_rows - first, CLASSIFY_ROWS);
    job->dev->kernels.classify(job->p, job->z + first * job->p->n_in, n,
                               job->dev->lanes[thread].attention, job->out + 2 * first);
}

static vnp_status classify(struct vnp_device *dev, const struct vnp_classifier_params *p,
                           const float *z, int64_t n_rows, float *out) {
    if (n_rows < 0 || p->n_in < 1 || p->n_hidden < 1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: classifier [%lld][%lld] on %lld rows",
                        (long long)p->n_hidden, (long long)p->n_in, (long long)n_rows);
    if (p->n_hidden > VNP_CPU_ATTENTION_SCRATCH / CLASSIFY_ROWS)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                        "cpu: a classifier of %lld hidden units (at most %d)",
                        (long long)p->n_hidden, VNP_CPU_ATTENTION_SCRATCH / CLASSIFY_ROWS);
    struct classify_job job = {dev, p, z, n_rows, out};
    vnp_cpu_run(dev, (n_rows + CLASSIFY_ROWS - 1) / CLASSIFY_ROWS, classify_task, &job);
    return VNP_OK;
}

const struct vnp_backend *vnp_cpu_backend(void) {
    static const struct vnp_backend backend = {
        .version = VNP_BACKEND_VERSION,
        .name = "cpu",
        .is_host = true,
        .device_count = device_count,
        .device_open = device_open,
        .device_close = device_close,
        .device_info = device_info,
        .site_dtype = vnp_cpu_site_dtype,
        .const_create = vnp_op_host_const_create,
        .const_destroy = vnp_op_host_const_destroy,
        .linear_create = vnp_cpu_linear_create,
        .linear_destroy = vnp_cpu_linear_destroy,
        .linear_bytes = vnp_cpu_linear_bytes,
        .exec_create = exec_create,
        .exec_destroy = exec_destroy,
        .tensor_create = tensor_create,
        .batch_begin = batch_begin,
        .read_f32 = read_f32,
        .exec_wait = exec_wait,
        .embed = embed,
        .layernorm = layernorm,
        .linear = vnp_cpu_linear,
        .qkv_of_tokens = qkv_of_tokens,
        .attention = attention,
        .pool = pool,
        .classify = classify,
    };
    return &backend;
}
