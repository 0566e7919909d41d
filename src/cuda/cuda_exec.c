/* SPDX-License-Identifier: MIT
 * Execution contexts: a stream, the batch in flight, tensors, results on their way back. After
 * exec_create and tensor_create nothing is allocated. The host enqueues and never waits but in
 * exec_wait and, in batch_begin, for the copies of the batch before. */
#include "cuda_room.h"

#include <stdlib.h>
#include <string.h>

#define MAX_READ_BYTES ((size_t)64 << 20)

void vnp_cuda_exec_destroy(struct vnp_exec *ex) {
    if (!ex) return;
    (void)cudaSetDevice(ex->dev->idx);
    if (ex->stream) (void)cudaStreamSynchronize(ex->stream);
    for (int i = 0; i < ex->n_tensors; i++) {
        (void)cudaFree(ex->tensor[i]);
        (void)cudaFree(ex->tensor_scale[i]);
    }
    (void)cudaFreeHost(ex->h_batch);
    (void)cudaFree(ex->d_batch);
    (void)cudaFree(ex->d_row_start);
    (void)cudaFree(ex->v_top);
    (void)cudaFree(ex->rotary);
    (void)cudaFree(ex->scratch);
    (void)cudaFreeHost(ex->h_read);
    (void)cudaFree(ex->d_bad);
    (void)cudaFreeHost(ex->h_bad);
    for (int i = 0; ex->marks && i < VNP_MAX_MARKS; i++)
        if (ex->marks[i]) (void)cudaEventDestroy(ex->marks[i]);
    free(ex->marks);
    if (ex->uploaded) (void)cudaEventDestroy(ex->uploaded);
    if (ex->begun) (void)cudaEventDestroy(ex->begun);
    if (ex->done) (void)cudaEventDestroy(ex->done);
    if (ex->stream) (void)cudaStreamDestroy(ex->stream);
    (void)cudaGetLastError();
    free(ex);
}

/* What device memory holds at first. Set it is in any case: compute-sanitizer's initcheck does not
 * count what the copy engine writes. */
#ifdef VNP_VERIFY
enum { FRESH = 0xff }; /* NaN in every type of the room */
#else
enum { FRESH = 0 };
#endif

/* Bytes of scratch: what a precision's paths need beside the model's own tensors. */
static size_t scratch_bytes(const struct vnp_device *dev, const struct vnp_exec_limits *l) {
    size_t rows = (size_t)l->max_tokens, cols = (size_t)l->max_cols;
    size_t piece = VNP_CUDA_LT_ROWS * (cols + 64); /* of a in 16 bits, of the sums in FP32 */
    if (dev->precision == VNP_PREC_FP32) return rows * 2 * cols * sizeof(float);
    if (dev->precision == VNP_PREC_FP8) return rows * (cols + 64) * 2;
    return dev->lt ? piece * (2 + sizeof(float)) : 0;
}

static vnp_status exec_fill(struct vnp_exec *ex) {
    int64_t n_tokens = ex->limits.max_tokens, n_seqs = ex->limits.max_seqs;
    size_t off_cu = (size_t)VNP_ALIGN_UP(n_tokens * 2, 256);
    size_t off_tiles = off_cu + (size_t)VNP_ALIGN_UP((n_seqs + 1) * 4, 256);
    ex->max_tiles = n_tokens / 32 + n_seqs + 1;
    ex->batch_bytes = off_tiles + (size_t)ex->max_tiles * sizeof(struct vnp_cuda_tile);
    ex->scratch_bytes = scratch_bytes(ex->dev, &ex->limits);
    size_t n_read = (size_t)n_seqs * (size_t)ex->limits.max_cols * sizeof(float);
    ex->read_bytes = VNP_MIN(n_read, MAX_READ_BYTES);
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(cudaStreamCreateWithFlags(&ex->stream, cudaStreamNonBlocking));
    VNP_CUDA(cudaEventCreateWithFlags(&ex->uploaded, cudaEventDisableTiming));
    VNP_CUDA(cudaEventCreate(&ex->begun));
    VNP_CUDA(cudaEventCreate(&ex->done));
    VNP_CUDA(cudaMallocHost(&ex->h_batch, ex->batch_bytes));
    VNP_CUDA(cudaMalloc(&ex->d_batch, ex->batch_bytes));
    ex->d_tokens = ex->d_batch;
    ex->d_cu = (void *)((char *)ex->d_batch + off_cu);
    ex->d_tiles = (void *)((char *)ex->d_batch + off_tiles);
    VNP_CUDA(cudaMalloc((void **)&ex->d_row_start, (size_t)n_tokens * 8));
    ex->d_row_len = ex->d_row_start + n_tokens;
    if (ex->dev->precision == VNP_PREC_FP8)
        VNP_CUDA(cudaMalloc((void **)&ex->v_top, (size_t)n_tokens * sizeof(float)));
    VNP_CUDA(cudaMalloc((void **)&ex->rotary,
                        (size_t)(n_tokens + VNP_CUDA_ROTARY_SPARE) * 64 * sizeof(float2)));
    if (ex->scratch_bytes > 0) {
        VNP_CUDA(cudaMalloc(&ex->scratch, ex->scratch_bytes));
        VNP_CUDA(cudaMemsetAsync(ex->scratch, FRESH, ex->scratch_bytes, ex->stream));
    }
    VNP_CUDA(cudaMallocHost((void **)&ex->h_read, ex->read_bytes));
    VNP_CUDA(cudaMalloc((void **)&ex->d_bad, sizeof *ex->d_bad));
    VNP_CUDA(cudaMallocHost((void **)&ex->h_bad, sizeof *ex->h_bad));
    return VNP_OK;
}

vnp_status vnp_cuda_exec_create(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                                struct vnp_exec **out) {
    *out = NULL;
    if (limits->max_tokens < 1 || limits->max_seqs < 1 || limits->max_cols < 1 ||
        limits->max_tokens > 1 << 24 || limits->max_seqs > 1 << 24 || limits->max_cols > 1 << 22)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "cuda: limits %lld tokens, %lld sequences, %lld columns",
                        (long long)limits->max_tokens, (long long)limits->max_seqs,
                        (long long)limits->max_cols);
    struct vnp_exec *ex = calloc(1, sizeof *ex);
    if (!ex) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cuda: %zu bytes for a context", sizeof *ex);
    ex->dev = dev;
    ex->limits = *limits;
    vnp_status status = exec_fill(ex);
    if (status != VNP_OK) {
        vnp_cuda_exec_destroy(ex);
        return status;
    }
    *out = ex;
    return VNP_OK;
}

vnp_status vnp_cuda_tensor_create(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                  int64_t cols, struct vnp_tensor *out) {
    memset(out, 0, sizeof *out);
    if ((unsigned)site >= VNP_SITE_COUNT || max_rows < 1 || cols < 1 || max_rows > 1 << 24 ||
        cols > 1 << 22)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: tensor [%lld][%lld] at site %d",
                        (long long)max_rows, (long long)cols, (int)site);
    if (ex->n_tensors == VNP_CUDA_MAX_TENSORS)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_NONE, "cuda: more than %d tensors in a context",
                        VNP_CUDA_MAX_TENSORS);
    int64_t rows = max_rows;
    int i = ex->n_tensors;
    out->dtype = vnp_cuda_site_dtype(ex->dev, site);
    out->rows = max_rows;
    out->cols = cols;
    out->ld = VNP_ALIGN_UP(cols, VNP_CUDA_LD_ALIGN);
    size_t n_bytes = (size_t)rows * (size_t)out->ld * vnp_dtype_bytes(out->dtype);
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(cudaMalloc(&ex->tensor[i], n_bytes));
    ex->tensor_scale[i] = NULL;
    ex->tensor_bytes[i] = n_bytes;
    ex->n_tensors++;
    out->data = ex->tensor[i];
    VNP_CUDA(cudaMemsetAsync(out->data, FRESH, n_bytes, ex->stream));
    if (out->dtype == VNP_E4M3) {
        VNP_CUDA(cudaMalloc((void **)&ex->tensor_scale[i], (size_t)rows * 2 * sizeof(float)));
        VNP_CUDA(cudaMemsetAsync(ex->tensor_scale[i], FRESH, (size_t)rows * 2 * sizeof(float),
                                 ex->stream));
        ex->tensor_norm[i] = ex->tensor_scale[i] + rows;
        out->scale = ex->tensor_scale[i];
    }
    return VNP_OK;
}

/* ---- the batch ----------------------------------------------------------------------------- */

static enum vnp_cuda_tile_kind kind_of(int32_t len) {
    if (len <= VNP_CUDA_TILE_ROWS) return VNP_CUDA_SHORT;
    if (len <= 128) return VNP_CUDA_WHOLE_128;
    return len <= VNP_CUDA_WHOLE ? VNP_CUDA_WHOLE_192 : VNP_CUDA_LONG;
}

/* Tiles of a sequence longer than 64 tokens: one if it is worked on whole, else one for every 128
 * queries. */
static int64_t plan_long(int32_t begin, int32_t len, struct vnp_cuda_tile *tiles) {
    int32_t n_groups = (len + VNP_CUDA_TILE_ROWS - 1) / VNP_CUDA_TILE_ROWS;
    int32_t step = len <= VNP_CUDA_WHOLE ? n_groups : 2, n = 0;
    for (int32_t g = 0; g < n_groups; g += step, n++) {
        memset(&tiles[n], 0, sizeof tiles[n]);
        tiles[n].q_row[0] = begin + g * VNP_CUDA_TILE_ROWS;
        tiles[n].seq_row[0] = begin;
        tiles[n].seq_len[0] = len;
        tiles[n].is_long = 1;
        tiles[n].n_rounds = VNP_MIN(step, n_groups - g);
    }
    return n;
}

/* Short sequences share tiles, next fit from the last one on: tiles stand from the pack's end to
 * its begin, for the QKV product has written the last rows last and they are in the L2 still. */
static int64_t plan_short(const struct vnp_pack *pack, struct vnp_cuda_tile *tiles) {
    int64_t n = 0;
    int used = VNP_CUDA_TILE_ROWS / 16; /* warps of the last tile */
    for (int64_t s = pack->n_seqs - 1; s >= 0; s--) {
        int32_t begin = pack->cu_seqlens[s], len = pack->cu_seqlens[s + 1] - begin;
        int warps = (len + 15) / 16;
        if (len > VNP_CUDA_TILE_ROWS) continue;
        if (used + warps > VNP_CUDA_TILE_ROWS / 16) {
            memset(&tiles[n], 0, sizeof tiles[n]);
            tiles[n++].n_rounds = 1;
            used = 0;
        }
        for (int w = 0; w < warps; w++, used++) {
            tiles[n - 1].q_row[used] = begin + 16 * w;
            tiles[n - 1].seq_row[used] = begin;
            tiles[n - 1].seq_len[used] = len;
        }
    }
    return n;
}

/* Longest sequences first, so that blocks that take every n-th tile get like shares. Shell sort: in
 * place, and packs hold hundreds of such tiles. Lengths of as many groups of 16 keys cost the same:
 * among them the pack's last rows come first, as in plan_short. */
static bool is_before(const struct vnp_cuda_tile *a, const struct vnp_cuda_tile *b) {
    int32_t n = (a->seq_len[0] + 15) / 16, m = (b->seq_len[0] + 15) / 16;
    return n != m ? n > m : a->q_row[0] > b->q_row[0];
}
static void sort_tiles(struct vnp_cuda_tile *tiles, int64_t n) {
    for (int64_t gap = n / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (int64_t i = gap; i < n; i++) {
            struct vnp_cuda_tile t = tiles[i];
            int64_t k = i;
            for (; k >= gap && is_before(&t, &tiles[k - gap]); k -= gap) tiles[k] = tiles[k - gap];
            tiles[k] = t;
        }
}

/* The tiles of the pack, by kind. */
static void plan_tiles(struct vnp_exec *ex, const struct vnp_pack *pack,
                       struct vnp_cuda_tile *tiles) {
    int64_t n = plan_short(pack, tiles);
    ex->n_tiles_of[VNP_CUDA_SHORT] = n;
    for (int kind = VNP_CUDA_WHOLE_128; kind <= VNP_CUDA_LONG; kind++) {
        int64_t first = n;
        for (int64_t s = 0; s < pack->n_seqs; s++) {
            int32_t begin = pack->cu_seqlens[s], len = pack->cu_seqlens[s + 1] - begin;
            if ((int)kind_of(len) == kind) n += plan_long(begin, len, tiles + n);
        }
        ex->n_tiles_of[kind] = n - first;
        sort_tiles(tiles + first, n - first);
    }
    ex->n_tiles = n;
}

vnp_status vnp_cuda_batch_begin(struct vnp_exec *ex, const struct vnp_pack *pack) {
    ex->n_tokens = ex->n_seqs = ex->n_tiles = 0;
    memset(ex->n_tiles_of, 0, sizeof ex->n_tiles_of);
    VNP_TRY(vnp_op_check_pack(pack, ex->limits.max_tokens, ex->limits.max_seqs));
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(cudaEventSynchronize(ex->uploaded)); /* the pinned half is free again */
    char *h = ex->h_batch;
    size_t off_cu = (size_t)((char *)ex->d_cu - (char *)ex->d_batch);
    size_t off_tiles = (size_t)((char *)ex->d_tiles - (char *)ex->d_batch);
    memcpy(h, pack->tokens, (size_t)pack->n_tokens * sizeof *pack->tokens);
    memcpy(h + off_cu, pack->cu_seqlens, (size_t)(pack->n_seqs + 1) * sizeof *pack->cu_seqlens);
    plan_tiles(ex, pack, (struct vnp_cuda_tile *)(void *)(h + off_tiles));
    VNP_ASSERT(ex->n_tiles <= ex->max_tiles);
    size_t n_bytes = off_tiles + (size_t)ex->n_tiles * sizeof(struct vnp_cuda_tile);
    VNP_CUDA(cudaEventRecord(ex->begun, ex->stream));
    ex->has_done = false;
    VNP_CUDA(cudaMemcpyAsync(ex->d_batch, h, (size_t)pack->n_tokens * 2, cudaMemcpyHostToDevice,
                             ex->stream));
    VNP_CUDA(cudaMemcpyAsync(ex->d_cu, h + off_cu, n_bytes - off_cu, cudaMemcpyHostToDevice,
                             ex->stream));
    VNP_CUDA(cudaEventRecord(ex->uploaded, ex->stream));
    VNP_CUDA(cudaMemsetAsync(ex->d_bad, 0, sizeof *ex->d_bad, ex->stream));
    VNP_CUDA(vnp_cuda_row_map(ex->d_cu, pack->n_seqs, ex->d_row_start, ex->d_row_len, ex->stream));
    ex->top_of = NULL;
    ex->n_tokens = pack->n_tokens;
    ex->n_seqs = pack->n_seqs;
    ex->max_len = pack->max_len;
    return VNP_OK;
}

/* ---- results ------------------------------------------------------------------------------- */

/* Tensors that are not FP32 are read by tests only: through a buffer of the moment. */
static vnp_status read_converted(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out) {
    size_t n_bytes = (size_t)(t->rows * t->cols) * sizeof(float);
    float *p = NULL;
    VNP_CUDA(cudaMalloc((void **)&p, n_bytes));
    cudaError_t e =
        vnp_cuda_to_f32(t->data, t->dtype, t->scale, t->rows, t->cols, t->ld, p, ex->stream);
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(host_out, p, n_bytes, cudaMemcpyDeviceToHost, ex->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(ex->stream);
    (void)cudaFree(p);
    return e == cudaSuccess ? VNP_OK : vnp_cuda_fail(e, "reading a tensor");
}

vnp_status vnp_cuda_read_f32(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out) {
    size_t row_bytes = (size_t)t->cols * sizeof(float), n_bytes = row_bytes * (size_t)t->rows;
    if (t->rows == 0 || t->cols == 0) return VNP_OK;
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    if (t->dtype != VNP_F32) return read_converted(ex, t, host_out);
    float *to = host_out;
    bool is_pinned = ex->n_reads < VNP_CUDA_MAX_READS && n_bytes <= ex->read_bytes - ex->read_used;
    if (is_pinned) to = ex->h_read + ex->read_used / sizeof(float);
    VNP_CUDA(cudaMemcpy2DAsync(to, row_bytes, t->data, (size_t)t->ld * sizeof(float), row_bytes,
                               (size_t)t->rows, cudaMemcpyDeviceToHost, ex->stream));
    VNP_CUDA(cudaEventRecord(ex->done, ex->stream));
    ex->has_done = true;
    if (is_pinned) {
        ex->reads[ex->n_reads++] = (struct vnp_cuda_read){host_out, to, (int64_t)n_bytes};
        ex->read_used += n_bytes;
    }
    return VNP_OK;
}

vnp_status vnp_cuda_exec_wait(struct vnp_exec *ex) {
    int n_reads = ex->n_reads;
    ex->n_reads = 0;
    ex->read_used = 0;
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(cudaMemcpyAsync(ex->h_bad, ex->d_bad, sizeof *ex->h_bad, cudaMemcpyDeviceToHost,
                             ex->stream));
    if (!ex->has_done) VNP_CUDA(cudaEventRecord(ex->done, ex->stream));
    VNP_CUDA(cudaStreamSynchronize(ex->stream));
    for (int i = 0; i < n_reads; i++)
        memcpy(ex->reads[i].host, ex->reads[i].pinned, (size_t)ex->reads[i].n_bytes);
    ex->n_bad = *ex->h_bad;
    return VNP_OK;
}

int64_t vnp_cuda_exec_n_nonfinite(const struct vnp_exec *ex) {
    return ex->n_bad;
}

/* ---- time ----------------------------------------------------------------------------------- */

bool vnp_cuda_exec_span(const struct vnp_exec *ex, double *begin_s, double *end_s) {
    float begin = 0, end = 0;
    bool is_known =
        cudaSetDevice(ex->dev->idx) == cudaSuccess &&
        cudaEventElapsedTime(&begin, ex->dev->born, ex->begun) == cudaSuccess &&
        cudaEventElapsedTime(&end, ex->begun, ex->done) == cudaSuccess; /* short: precise */
    (void)cudaGetLastError();
    *begin_s = (double)begin / 1e3;
    *end_s = *begin_s + (double)end / 1e3;
    return is_known;
}

vnp_status vnp_cuda_mark(struct vnp_exec *ex, int i) {
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    if (i < 0 || i >= VNP_MAX_MARKS)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: mark %d of %d", i, VNP_MAX_MARKS);
    if (!ex->marks) ex->marks = calloc(VNP_MAX_MARKS, sizeof(cudaEvent_t));
    if (!ex->marks) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cuda: no memory for marks");
    if (!ex->marks[i]) VNP_CUDA(cudaEventCreate(&ex->marks[i]));
    VNP_CUDA(cudaEventRecord(ex->marks[i], ex->stream));
    return VNP_OK;
}

double vnp_cuda_mark_s(const struct vnp_exec *ex, int i, int j) {
    float ms = 0;
    if (!ex->marks || cudaSetDevice(ex->dev->idx) != cudaSuccess ||
        cudaEventElapsedTime(&ms, ex->marks[i], ex->marks[j]) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return (double)ms / 1e3;
}
