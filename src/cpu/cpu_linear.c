// SPDX-License-Identifier: MIT
// A prepared weight and its product. Columns are cut into chunks, each packed by itself so that it
// fits the second-level cache; a batch's rows are cut into blocks of a fixed height (cpu_matmul.c).
// One task is one chunk times a few blocks: oneDNN writes a tile of FP32 to the thread's scratch,
// our epilogue adds bias, GELU, gate or residual and rounds while the tile is in cache. Chunk
// borders are the weight's own and block heights are equal in bits, so neither threads nor
// neighbours show.
//
// A gated product's chunk holds equally many gate and value columns, so that its tile is complete.
#include "cpu/cpu_room.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (1 << 20) /* of packed weights: the second-level cache */
#define CHUNK_COLS_MAX 512
#define SUPER_BYTES                                                                                \
    (12 << 20)        /* of operand rows that all chunks pass over: a shared cache's part */
#define TASK_BLOCKS 4 /* blocks of rows a task takes at most */
#define STREAM_BYTES (8 << 20) /* of a result that no cache keeps for its reader */
#define HUGE_BYTES ((size_t)4 << 20)

struct vnp_linear {
    int64_t n_out, n_in, gate_rows;
    int64_t n_cols, n_tail; /* columns of a full chunk, of the last one (0: none) */
    int64_t n_chunks;       /* the last one included */
    bool is_bf16;
    const struct vnp_cpu_matmul *full, *tail;
    char *packed; /* [n_chunks] chunks, chunk_bytes apart */
    size_t chunk_bytes, packed_bytes;
    float *bias; /* [n_out] in the order of the chunks' columns, or NULL */
};

enum vnp_dtype vnp_cpu_site_dtype(const struct vnp_device *dev, enum vnp_site site) {
    if (dev->opt.precision != VNP_PREC_BF16) return VNP_F32;
    switch (site) {
    case VNP_SITE_ATTN_IN:
    case VNP_SITE_ATTN_OUT:
    case VNP_SITE_FFN_IN:
    case VNP_SITE_FFN_MID:
        return VNP_BF16;
    case VNP_SITE_QKV: /* attention rounds q and k once, after the rotation */
    case VNP_SITE_RESIDUAL:
    case VNP_SITE_F32:
    case VNP_SITE_COUNT:
        break;
    }
    return VNP_F32;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *vnp_cpu_alloc(size_t n_bytes) {
    if (n_bytes < HUGE_BYTES) return vnp_alloc_aligned(n_bytes);
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, n_bytes, MADV_HUGEPAGE); /* a wish: without it all still works */
    return p;
}

void vnp_cpu_free(void *p, size_t n_bytes) {
    if (n_bytes < HUGE_BYTES)
        vnp_free_aligned(p);
    else if (p)
        munmap(p, n_bytes);
}

void vnp_cpu_linear_destroy(struct vnp_device *dev, struct vnp_linear *w) {
    (void)dev;
    if (!w) return;
    vnp_cpu_free(w->packed, w->packed_bytes);
    vnp_free_aligned(w->bias);
    free(w);
}

int64_t vnp_cpu_linear_bytes(const struct vnp_linear *w) {
    return (int64_t)w->packed_bytes + (w->bias ? w->n_out * (int64_t)sizeof(float) : 0);
}

/* ---- packing --------------------------------------------------------------------------------- */

struct pack_job {
    struct vnp_device *dev;
    struct vnp_linear *w;
    const struct vnp_linear_desc *desc;
    const int64_t *off_full, *off_tail; /* [n_in]: element offsets along K; NULL when blocked */
    int64_t groups_per_chunk;
};

static int64_t chunk_cols(const struct vnp_linear *w, int64_t chunk) {
    return w->n_tail && chunk == w->n_chunks - 1 ? w->n_tail : w->n_cols;
}

/* The weight's row behind column `col` of a chunk. */
static int64_t row_of(const struct vnp_linear *w, int64_t chunk, int64_t col) {
    if (!w->gate_rows) return chunk * w->n_cols + col;
    const int64_t n_pairs = chunk_cols(w, chunk) / 2, first = chunk * (w->n_cols / 2);
    return col < n_pairs ? first + col : w->gate_rows + first + col - n_pairs;
}

/* Finds row r in the parts. */
static const char *row_data(const struct vnp_linear_desc *d, int64_t r, enum vnp_dtype *dtype) {
    int p = 0;
    while (r >= d->weight[p].rows) r -= d->weight[p++].rows;
    *dtype = d->weight[p].dtype;
    return (const char *)d->weight[p].data + (size_t)r * (size_t)d->n_in * vnp_dtype_bytes(*dtype);
}

/* A layout of oneDNN's that the pack kernel does not write: element by element. */
static void scatter_row(const struct pack_job *job, const struct vnp_cpu_matmul *m,
                        const int64_t *off_k, const char *src, enum vnp_dtype dtype, int64_t col,
                        void *dst) {
    const int64_t off_n = vnp_cpu_matmul_offset(m, 0, col) - vnp_cpu_matmul_offset(m, 0, 0);
    const size_t n_bytes = vnp_dtype_bytes(dtype);
    float value[256];
    for (int64_t k = 0; k < job->w->n_in; k += 256) {
        const int64_t n = VNP_MIN(job->w->n_in - k, 256);
        vnp_convert_to_f32(dtype, src + (size_t)k * n_bytes, n, value);
        for (int64_t i = 0; i < n; i++) {
            if (job->w->is_bf16)
                ((uint16_t *)dst)[off_k[k + i] + off_n] = vnp_f32_to_bf16(value[i]);
            else
                ((float *)dst)[off_k[k + i] + off_n] = value[i];
        }
    }
}

/* One task: 64 columns of a chunk. */
static void pack_task(void *ctx, int64_t task, int thread) {
    const struct pack_job *job = ctx;
    const struct vnp_linear *w = job->w;
    const int64_t chunk = task / job->groups_per_chunk;
    const int64_t first = task % job->groups_per_chunk * VNP_CPU_PACK_COLS;
    const int64_t n_cols = chunk_cols(w, chunk);
    const struct vnp_cpu_matmul *m = n_cols == w->n_cols ? w->full : w->tail;
    char *dst = w->packed + (size_t)chunk * w->chunk_bytes;
    struct vnp_cpu_pack_args args = {.n_in = w->n_in, .is_bf16 = w->is_bf16};
    (void)thread;
    if (first >= n_cols) return;
    for (int64_t i = 0; i < VNP_CPU_PACK_COLS && first + i < n_cols; i++) {
        args.row[i] = row_data(job->desc, row_of(w, chunk, first + i), &args.dtype[i]);
        if (!m->is_blocked)
            scatter_row(job, m, n_cols == w->n_cols ? job->off_full : job->off_tail, args.row[i],
                        args.dtype[i], first + i, dst);
    }
    if (!m->is_blocked) return;
    const int64_t n_words = VNP_ALIGN_UP(w->is_bf16 ? (w->n_in + 1) / 2 : w->n_in, 16);
    args.dst = (uint32_t *)(void *)dst + first * n_words;
    job->dev->kernels.pack(&args);
}

static int64_t *offsets_of(const struct vnp_cpu_matmul *m) {
    int64_t *off = malloc((size_t)m->n_in * sizeof *off);
    for (int64_t k = 0; off && k < m->n_in; k++) off[k] = vnp_cpu_matmul_offset(m, k, 0);
    return off;
}

static vnp_status pack(struct vnp_device *dev, struct vnp_linear *w,
                       const struct vnp_linear_desc *desc) {
    int64_t *off_full = NULL, *off_tail = NULL;
    vnp_status status = VNP_OK;
    if (!w->full->is_blocked) off_full = offsets_of(w->full);
    if (w->tail && !w->tail->is_blocked) off_tail = offsets_of(w->tail);
    if ((!w->full->is_blocked && !off_full) || (w->tail && !w->tail->is_blocked && !off_tail)) {
        status = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: packing a linear");
    } else {
        const int64_t groups = (w->n_cols + VNP_CPU_PACK_COLS - 1) / VNP_CPU_PACK_COLS;
        struct pack_job job = {dev, w, desc, off_full, off_tail, groups};
        vnp_cpu_run(dev, w->n_chunks * groups, pack_task, &job);
    }
    free(off_full);
    free(off_tail);
    return status;
}

static vnp_status fill_bias(struct vnp_linear *w, const struct vnp_linear_desc *desc) {
    if (!desc->bias || !desc->bias[0].data) return VNP_OK;
    float *plain = malloc((size_t)w->n_out * sizeof *plain);
    w->bias = vnp_alloc_aligned((size_t)w->n_out * sizeof *w->bias);
    if (!plain || !w->bias) {
        free(plain);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: a bias of %lld", (long long)w->n_out);
    }
    int64_t at = 0;
    for (int p = 0; p < desc->n_parts; at += desc->bias[p++].cols)
        vnp_convert_to_f32(desc->bias[p].dtype, desc->bias[p].data, desc->bias[p].cols, plain + at);
    for (int64_t chunk = 0; chunk < w->n_chunks; chunk++)
        for (int64_t i = 0; i < chunk_cols(w, chunk); i++)
            w->bias[chunk * w->n_cols + i] = plain[row_of(w, chunk, i)];
    free(plain);
    return VNP_OK;
}

/* Width of a chunk: as many 64-column groups (pairs of them when gated) as the cache takes. */
static void choose_chunks(struct vnp_linear *w) {
    const int64_t unit = w->gate_rows ? 2 * VNP_CPU_PACK_COLS : VNP_CPU_PACK_COLS;
    const int64_t col_bytes = w->n_in * (w->is_bf16 ? 2 : 4);
    int64_t n = CHUNK_BYTES / col_bytes / unit * unit;
    w->n_cols = VNP_MIN(VNP_MAX(n, unit), CHUNK_COLS_MAX);
    w->n_cols = VNP_MIN(w->n_cols, w->n_out);
    w->n_chunks = (w->n_out + w->n_cols - 1) / w->n_cols;
    w->n_tail = w->n_out % w->n_cols;
}

static vnp_status create(struct vnp_device *dev, struct vnp_linear *w,
                         const struct vnp_linear_desc *desc) {
    w->n_out = desc->n_out;
    w->n_in = desc->n_in;
    w->gate_rows = desc->gate_rows;
    w->is_bf16 = vnp_cpu_site_dtype(dev, desc->site) == VNP_BF16;
    choose_chunks(w);
    pthread_mutex_lock(&dev->lock);
    vnp_status status = vnp_cpu_matmul_get(dev, w->n_in, w->n_cols, w->is_bf16, &w->full);
    if (status == VNP_OK && w->n_tail)
        status = vnp_cpu_matmul_get(dev, w->n_in, w->n_tail, w->is_bf16, &w->tail);
    pthread_mutex_unlock(&dev->lock);
    VNP_TRY(status);
    w->chunk_bytes = VNP_ALIGN_UP(w->full->weight_bytes, 64);
    const size_t n_last = w->tail ? VNP_ALIGN_UP(w->tail->weight_bytes, 64) : w->chunk_bytes;
    size_t n_bytes;
    if (!vnp_size_mul(w->chunk_bytes, (size_t)w->n_chunks - 1, &n_bytes) ||
        !vnp_size_add(n_bytes, n_last, &n_bytes))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: linear [%lld][%lld] is too large",
                        (long long)w->n_out, (long long)w->n_in);
    w->packed = vnp_cpu_alloc(n_bytes);
    if (!w->packed)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: %zu bytes for a linear [%lld][%lld]",
                        n_bytes, (long long)w->n_out, (long long)w->n_in);
    w->packed_bytes = n_bytes;
    VNP_TRY(fill_bias(w, desc));
    return pack(dev, w, desc);
}

vnp_status vnp_cpu_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                 struct vnp_linear **out) {
    *out = NULL;
    VNP_TRY(vnp_op_check_linear_desc(desc));
    struct vnp_linear *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: a linear");
    vnp_status status = create(dev, w, desc);
    if (status != VNP_OK) {
        vnp_cpu_linear_destroy(dev, w);
        return status;
    }
    *out = w;
    return VNP_OK;
}

/* ---- the product ----------------------------------------------------------------------------- */

struct product {
    struct vnp_device *dev;
    const struct vnp_linear *w;
    enum vnp_epilogue epi;
    const struct vnp_tensor *a;
    const struct vnp_tensor *out;
    int64_t super_rows, task_rows; /* rows all chunks pass over; rows of a task */
    int64_t tasks_per_super, tasks_per_chunk;
    bool is_streamed;
    _Atomic int failure; /* a dnnl status; any thread writes, the caller reads after */
};

/* Height for `left` rows: one that wastes at most a quarter, else the largest that fits. */
static int choose_height(const struct vnp_cpu_matmul *m, int64_t left) {
    static const int heights[VNP_CPU_N_HEIGHTS] = VNP_CPU_HEIGHTS;
    int chosen = m->height[m->n_heights - 1];
    for (int i = 0; i < m->n_heights; i++) {
        const int h = heights[m->height[i]];
        if (h <= left) return m->height[i];
        if (h - left <= h / 4 || (left > 1 && i + 2 == m->n_heights && h <= 6)) return m->height[i];
    }
    return chosen;
}

/* Rows first..first+n-1 of the operand as `height` dense rows. */
static const void *block_rows(const struct product *p, struct vnp_cpu_lane *lane, int64_t first,
                              int64_t n, int64_t height) {
    const size_t n_element = p->w->is_bf16 ? 2 : 4, n_row = (size_t)p->w->n_in * n_element;
    const char *src = (const char *)p->a->data + (size_t)(first * p->a->ld) * n_element;
    if (n == height && p->a->ld == p->w->n_in) return src;
    char *rows = lane->rows;
    for (int64_t r = 0; r < n; r++)
        memcpy(rows + (size_t)r * n_row, src + (size_t)(r * p->a->ld) * n_element, n_row);
    memset(rows + (size_t)n * n_row, 0, (size_t)(height - n) * n_row);
    return rows;
}

static void product_task(void *ctx, int64_t task, int thread) {
    static const int heights[VNP_CPU_N_HEIGHTS] = VNP_CPU_HEIGHTS;
    struct product *p = ctx;
    const struct vnp_linear *w = p->w;
    struct vnp_cpu_lane *lane = &p->dev->lanes[thread];
    const int64_t chunk = task % p->tasks_per_super / p->tasks_per_chunk;
    const int64_t super = task / p->tasks_per_super * p->super_rows;
    int64_t row = super + task % p->tasks_per_chunk * p->task_rows;
    const int64_t end = VNP_MIN(VNP_MIN(row + p->task_rows, super + p->super_rows), p->a->rows);
    const int64_t n_cols = chunk_cols(w, chunk),
                  out_first = w->gate_rows ? chunk * (w->n_cols / 2) : chunk * w->n_cols;
    const struct vnp_cpu_matmul *m = n_cols == w->n_cols ? w->full : w->tail;
    const bool is_bf16 = p->out->dtype == VNP_BF16;
    while (row < end) {
        const int idx = choose_height(m, end - row);
        const int64_t n = VNP_MIN(end - row, heights[idx]);
        const void *a = block_rows(p, lane, row, n, heights[idx]);
        dnnl_status_t status =
            vnp_cpu_matmul_run(m, idx, lane, a, w->packed + (size_t)chunk * w->chunk_bytes);
        if (status != dnnl_success) p->failure = (int)status;
        const struct vnp_cpu_epilogue_args args = {
            .kind = p->epi,
            .tile = lane->tile,
            .bias = w->bias ? w->bias + chunk * w->n_cols : NULL,
            .out =
                (char *)p->out->data + (size_t)(row * p->out->ld + out_first) * (is_bf16 ? 2 : 4),
            .n_rows = n,
            .n_cols = w->gate_rows ? n_cols / 2 : n_cols,
            .ld_tile = n_cols,
            .ld_out = p->out->ld,
            .is_bf16 = is_bf16,
            .is_streamed = p->is_streamed,
        };
        p->dev->kernels.epilogue(&args);
        row += n;
    }
}

vnp_status vnp_cpu_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                          const struct vnp_tensor *a, struct vnp_tensor *out) {
    VNP_TRY(
        vnp_op_check_linear(w->n_out, w->n_in, w->gate_rows, epi, a, out, ex->limits.max_tokens));
    const enum vnp_dtype operand = w->is_bf16 ? VNP_BF16 : VNP_F32;
    if (a->dtype != operand || (out->dtype != VNP_F32 && out->dtype != VNP_BF16) ||
        (epi == VNP_EPI_RESIDUAL && out->dtype != VNP_F32))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cpu: linear of %s operand, %s result; weight %s",
                        vnp_dtype_name(a->dtype), vnp_dtype_name(out->dtype),
                        vnp_dtype_name(operand));
    if (a->rows == 0) return VNP_OK;
    struct product p = {.dev = ex->dev, .w = w, .epi = epi, .a = a, .out = out};
    const int64_t height = VNP_CPU_MAX_HEIGHT, row_bytes = w->n_in * (w->is_bf16 ? 2 : 4);
    const int64_t n_threads = vnp_pool_n_threads(ex->dev->pool);
    p.super_rows = VNP_MAX(SUPER_BYTES / row_bytes / height, 2) * height;
    p.super_rows = VNP_MIN(p.super_rows, VNP_ALIGN_UP(a->rows, height));
    int64_t n_blocks = p.super_rows / height * w->n_chunks; /* at least eight tasks a thread */
    p.task_rows = VNP_MAX(VNP_MIN(n_blocks / (8 * n_threads), TASK_BLOCKS), 1) * height;
    p.tasks_per_chunk = (p.super_rows + p.task_rows - 1) / p.task_rows;
    p.tasks_per_super = p.tasks_per_chunk * w->n_chunks;
    p.is_streamed = epi == VNP_EPI_NONE && out->dtype == VNP_F32 &&
                    (size_t)(a->rows * out->cols) * sizeof(float) > STREAM_BYTES;
    const int64_t n_supers = (a->rows + p.super_rows - 1) / p.super_rows;
    vnp_cpu_run(ex->dev, n_supers * p.tasks_per_super, product_task, &p);
    if (p.failure)
        return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "cpu: oneDNN failed in a product (status %d)",
                        p.failure);
    return VNP_OK;
}
