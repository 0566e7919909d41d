/* SPDX-License-Identifier: MIT
 * The ops of the contract as kernel launches: which kernel serves which precision and device. */
#include "cuda_room.h"

#include <string.h>

/* Tensor of this context that `t` is, or is a window of; -1 when it is none. */
static int tensor_index(const struct vnp_exec *ex, const struct vnp_tensor *t) {
    for (int i = 0; i < ex->n_tensors; i++) {
        const char *begin = ex->tensor[i], *at = t->data;
        if (at >= begin && at < begin + ex->tensor_bytes[i]) return i;
    }
    return -1;
}

vnp_status vnp_cuda_op_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                             struct vnp_tensor *out) {
    VNP_TRY(vnp_op_check_embed(p, out, ex->n_tokens));
    if (out->cols % 4 != 0)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL, "cuda: %lld columns; multiples of 4 only",
                        (long long)out->cols);
    struct vnp_cuda_embed_args a = {.table = p->table,
                                    .type_row = p->type_row,
                                    .tokens = ex->d_tokens,
                                    .cu_seqlens = ex->d_cu,
                                    .out = out->data,
                                    .n_seqs = ex->n_seqs,
                                    .n_cols = out->cols,
                                    .ld = out->ld,
                                    .vocab = p->vocab,
                                    .mask_id = p->mask_id,
                                    .has_token_dropout = p->has_token_dropout};
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(vnp_cuda_embed(&a, ex->stream));
    return VNP_OK;
}

/* What a norm writes as an operand. */
static vnp_status norm_operand(struct vnp_exec *ex, const struct vnp_tensor *out,
                               struct vnp_cuda_norm_args *a) {
    a->out = out->data;
    a->ld_out = out->ld;
    a->out_dtype = out->dtype;
    if (a->out_dtype == VNP_E4M3) {
        int i = tensor_index(ex, out);
        if (i < 0) return vnp_fail(VNP_BUG, VNP_FROM_NONE, "cuda: an operand of no context");
        a->scale = out->scale;
        a->norm = ex->tensor_norm[i] + (out->scale - ex->tensor_scale[i]);
        ex->tensor_has_norm[i] = true;
    }
    return VNP_OK;
}

vnp_status vnp_cuda_op_layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                                 const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                                 struct vnp_tensor *out_operand) {
    VNP_TRY(vnp_op_check_norm(p, x, out_residual, out_operand));
    if (x->cols % 4 != 0 || x->cols > 5120)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL,
                        "cuda: layer norm over %lld columns; multiples of 4 up to 5,120 only",
                        (long long)x->cols);
    struct vnp_cuda_norm_args a = {.x = x->data,
                                   .gamma = p->gamma,
                                   .beta = p->beta,
                                   .n_rows = x->rows,
                                   .n_cols = x->cols,
                                   .ld_x = x->ld,
                                   .eps = p->eps};
    if (out_residual) {
        a.out_f32 = out_residual->data;
        a.ld_f32 = out_residual->ld;
    }
    if (out_operand) VNP_TRY(norm_operand(ex, out_operand, &a));
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(vnp_cuda_layernorm(&a, ex->stream));
    return VNP_OK;
}

/* ---- matrix products ------------------------------------------------------------------------ */

/* One piece of at most VNP_CUDA_LT_ROWS rows by the library, always through scratch: one shape for
 * every piece, nothing behind the tensors is touched, and the sums stay FP32 until our epilogue
 * rounds them once. Costs copies, which only GPUs without kernels of their own here pay. */
static vnp_status library_piece(struct vnp_exec *ex, const struct vnp_cuda_gemm_args *g) {
    size_t in = vnp_dtype_bytes(g->in_dtype), rows = (size_t)g->m;
    int64_t ld_k = VNP_ALIGN_UP(g->k, VNP_CUDA_LD_ALIGN);
    char *room = ex->scratch;
    struct vnp_cuda_gemm_args part = *g;
    part.m = VNP_CUDA_LT_ROWS;
    part.a = room;
    part.ld_a = ld_k;
    part.out = room + (size_t)(VNP_CUDA_LT_ROWS * ld_k) * in;
    part.ld_out = VNP_ALIGN_UP(g->n, VNP_CUDA_LD_ALIGN);
    part.out_dtype = VNP_F32;
    if (g->epilogue != VNP_CUDA_EPI_ADD) part.epilogue = VNP_CUDA_EPI_STORE;
    size_t need = (size_t)VNP_CUDA_LT_ROWS * ((size_t)ld_k * in + (size_t)part.ld_out * 4);
    if (need > ex->scratch_bytes)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: %lld columns exceed the context's limit",
                        (long long)g->n);
    VNP_CUDA(cudaMemcpy2DAsync(room, (size_t)ld_k * in, g->a, (size_t)g->ld_a * in,
                               (size_t)g->k * in, rows, cudaMemcpyDeviceToDevice, ex->stream));
    size_t row_bytes = (size_t)g->n * 4, ld_room = (size_t)part.ld_out * 4,
           ld_bytes = (size_t)g->ld_out * 4;
    if (g->epilogue == VNP_CUDA_EPI_ADD)
        VNP_CUDA(cudaMemcpy2DAsync(part.out, ld_room, g->out, ld_bytes, row_bytes, rows,
                                   cudaMemcpyDeviceToDevice, ex->stream));
    VNP_TRY(vnp_cuda_lt_gemm(ex->dev->lt, &part, ex->stream));
    if (g->epilogue == VNP_CUDA_EPI_ADD)
        VNP_CUDA(cudaMemcpy2DAsync(g->out, ld_bytes, part.out, ld_room, row_bytes, rows,
                                   cudaMemcpyDeviceToDevice, ex->stream));
    else
        VNP_CUDA(vnp_cuda_finish(part.out, part.ld_out, g->epilogue, g->m,
                                 g->epilogue == VNP_CUDA_EPI_GEGLU ? g->n / 2 : g->n, g->out,
                                 g->out_dtype, g->ld_out, ex->stream));
    return VNP_OK;
}

/* The library's products come in pieces of one size, whatever N is: one shape, one algorithm, so a
 * row's bits do not depend on its neighbours. */
static vnp_status library_linear(struct vnp_exec *ex, const struct vnp_cuda_gemm_args *g) {
    size_t in = vnp_dtype_bytes(g->in_dtype), to = vnp_dtype_bytes(g->out_dtype);
    for (int64_t row = 0; row < g->m; row += VNP_CUDA_LT_ROWS) {
        struct vnp_cuda_gemm_args piece = *g;
        piece.m = VNP_MIN(g->m - row, VNP_CUDA_LT_ROWS);
        piece.a = (const char *)g->a + (size_t)(row * g->ld_a) * in;
        piece.out = (char *)g->out + (size_t)(row * g->ld_out) * to;
        VNP_TRY(library_piece(ex, &piece));
    }
    return VNP_OK;
}

static vnp_status run_gemm(struct vnp_exec *ex, const struct vnp_cuda_gemm_args *g) {
    if (g->m == 0) return VNP_OK;
    if (g->in_dtype == VNP_F32) {
        VNP_CUDA(vnp_cuda_gemm_f32(g, ex->stream));
    } else if (!ex->dev->has_wgmma) {
        VNP_TRY(library_linear(ex, g));
    } else if (g->in_dtype == VNP_F16) {
        VNP_CUDA(vnp_cuda_gemm_f16_sm90(g, ex->stream));
    } else if (g->in_dtype == VNP_BF16) {
        VNP_CUDA(vnp_cuda_gemm_bf16_sm90(g, ex->stream));
    } else {
        VNP_CUDA(vnp_cuda_gemm_e4m3_sm90(g, ex->stream));
    }
    return VNP_OK;
}

/* E4M3 results. gelu: the row scale is bounded beforehand, the epilogue writes codes. Gated: the
 * product of two bounds would be loose, so the rows are written in FP16 and quantised after. */
static vnp_status linear_to_e4m3(struct vnp_exec *ex, struct vnp_cuda_gemm_args *g,
                                 const struct vnp_tensor *a, struct vnp_tensor *out) {
    int i = tensor_index(ex, a);
    if (g->epilogue == VNP_CUDA_EPI_GELU && a->dtype == VNP_E4M3) {
        if (i < 0) return vnp_fail(VNP_BUG, VNP_FROM_NONE, "cuda: an operand of no context");
        float *norm = ex->tensor_norm[i] + (a->scale - ex->tensor_scale[i]);
        if (!ex->tensor_has_norm[i])
            VNP_CUDA(
                vnp_cuda_row_lengths(a->data, a->scale, a->rows, a->cols, a->ld, norm, ex->stream));
        g->a_norm = norm;
        g->out_scale = out->scale;
        return run_gemm(ex, g);
    }
    if (g->epilogue != VNP_CUDA_EPI_GEGLU)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_NONE, "cuda: an E4M3 result of epilogue %d",
                        (int)g->epilogue);
    g->out = ex->scratch;
    g->out_dtype = VNP_F16;
    g->ld_out = VNP_ALIGN_UP(out->cols, VNP_CUDA_LD_ALIGN);
    if ((size_t)(g->m * g->ld_out) * 2 > ex->scratch_bytes)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: %lld columns exceed the context's limit",
                        (long long)out->cols);
    VNP_TRY(run_gemm(ex, g));
    VNP_CUDA(vnp_cuda_quantise(ex->scratch, g->m, out->cols, g->ld_out, out->data, out->ld,
                               out->scale, ex->stream));
    return VNP_OK;
}

static vnp_status prepare_linear(struct vnp_exec *ex, const struct vnp_linear *w,
                                 enum vnp_epilogue epi, const struct vnp_tensor *a,
                                 const struct vnp_tensor *out, struct vnp_cuda_gemm_args *g) {
    static const enum vnp_cuda_gemm_epilogue kinds[] = {
        [VNP_EPI_NONE] = VNP_CUDA_EPI_STORE,
        [VNP_EPI_GELU] = VNP_CUDA_EPI_GELU,
        [VNP_EPI_RESIDUAL] = VNP_CUDA_EPI_ADD,
        [VNP_EPI_GEGLU] = VNP_CUDA_EPI_GEGLU,
    };
    VNP_TRY(vnp_op_check_linear(w->n_out, w->n_in, w->gate_rows, epi, a, out, ex->n_tokens));
    if (a->dtype != w->dtype)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: operand in %s, weight in %s",
                        vnp_dtype_name(a->dtype), vnp_dtype_name(w->dtype));
    *g = (struct vnp_cuda_gemm_args){.a = a->data,
                                     .w = w->w,
                                     .bias = w->bias,
                                     .a_scale = a->scale,
                                     .w_scale = w->scale,
                                     .out = out->data,
                                     .m = a->rows,
                                     .n = w->n_out,
                                     .k = w->n_in,
                                     .ld_a = a->ld,
                                     .ld_w = w->ld_w,
                                     .ld_out = out->ld,
                                     .w_bound = w->w_bound,
                                     .bias_bound = w->bias_bound,
                                     .in_dtype = a->dtype,
                                     .out_dtype = out->dtype,
                                     .epilogue = kinds[epi],
                                     .n_sms = ex->dev->n_sms,
                                     .encode = ex->dev->encode};
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    return VNP_OK;
}

vnp_status vnp_cuda_op_linear(struct vnp_exec *ex, const struct vnp_linear *w,
                              enum vnp_epilogue epi, const struct vnp_tensor *a,
                              struct vnp_tensor *out) {
    struct vnp_cuda_gemm_args g;
    VNP_TRY(prepare_linear(ex, w, epi, a, out, &g));
    if (out->data == ex->top_of) ex->top_of = NULL;
    if (out->dtype == VNP_E4M3) return linear_to_e4m3(ex, &g, a, out);
    return run_gemm(ex, &g);
}

/* One kernel for rows that a cluster of two blocks holds whole. */
vnp_status vnp_cuda_op_linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                                   const struct vnp_norm_params *p, const struct vnp_tensor *a,
                                   struct vnp_tensor *x, struct vnp_tensor *out_operand) {
    bool is_fused = ex->dev->has_wgmma && a->dtype != VNP_F32 && x->dtype == VNP_F32 &&
                    w->n_out == VNP_CUDA_NORM_COLS;
    if (!is_fused) {
        VNP_TRY(vnp_cuda_op_linear(ex, w, VNP_EPI_RESIDUAL, a, x));
        return vnp_cuda_op_layernorm(ex, p, x, x, out_operand);
    }
    struct vnp_cuda_gemm_args g;
    struct vnp_cuda_norm_args norm = {.gamma = p->gamma, .beta = p->beta, .eps = p->eps};
    VNP_TRY(prepare_linear(ex, w, VNP_EPI_RESIDUAL, a, x, &g));
    VNP_TRY(vnp_op_check_norm(p, x, x, out_operand));
    if (out_operand) VNP_TRY(norm_operand(ex, out_operand, &norm));
    g.norm = &norm;
    return run_gemm(ex, &g);
}

/* ---- attention and pooling ------------------------------------------------------------------ */

static vnp_status fill_rotary(struct vnp_exec *ex, int64_t head_dim, enum vnp_dtype freq_dtype) {
    double freq[VNP_CUDA_MAX_HALF];
    if (ex->rotary_dim == head_dim && ex->rotary_freq_dtype == freq_dtype) return VNP_OK;
    if (head_dim / 2 > VNP_CUDA_MAX_HALF)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL, "cuda: rotary heads of %lld",
                        (long long)head_dim);
    for (int64_t i = 0; i < head_dim / 2; i++)
        freq[i] = vnp_op_rotary_freq(i, head_dim, freq_dtype);
    VNP_CUDA(vnp_cuda_rotary_table(ex->rotary, ex->limits.max_tokens + VNP_CUDA_ROTARY_SPARE,
                                   head_dim, freq, ex->stream));
    ex->rotary_dim = head_dim;
    ex->rotary_freq_dtype = freq_dtype;
    return VNP_OK;
}

/* What q, k and v get besides where a kernel writes them in 16 bits: q and k are rotated, heads of
 * 16, 32 and 64 columns; in FP8 the largest |v| of every sequence is found, heads of 64, with which
 * attention can write E4M3 at once. NULL: not wanted. */
struct qkv_extras {
    const float2 *rotary;
    float *v_top;
};

static vnp_status begin_qkv(struct vnp_exec *ex, const struct vnp_attention_params *p,
                            bool has_kernel, bool is_e4m3, struct qkv_extras *out) {
    int64_t dh = p->head_dim;
    memset(out, 0, sizeof *out);
    ex->top_of = NULL;
    if (has_kernel && p->has_rotary && (dh == 16 || dh == 32 || dh == 64)) {
        VNP_TRY(fill_rotary(ex, dh, p->freq_dtype));
        out->rotary = ex->rotary;
    }
    if (has_kernel && is_e4m3 && dh == 64) {
        out->v_top = ex->v_top;
        VNP_CUDA(cudaMemsetAsync(ex->v_top, 0, (size_t)ex->n_tokens * sizeof(float), ex->stream));
    }
    return VNP_OK;
}

/* They are written: attention need not do again what was done. */
static void end_qkv(struct vnp_exec *ex, struct vnp_attention_params *p,
                    const struct qkv_extras *done, const struct vnp_tensor *out) {
    if (done->v_top) ex->top_of = out->data;
    if (done->rotary) p->has_rotary = false;
}

vnp_status vnp_cuda_op_linear_qkv(struct vnp_exec *ex, const struct vnp_linear *w,
                                  struct vnp_attention_params *p, const struct vnp_tensor *a,
                                  struct vnp_tensor *out) {
    struct vnp_cuda_gemm_args g;
    int64_t dh = p->head_dim, dim = p->n_heads * dh;
    VNP_TRY(prepare_linear(ex, w, VNP_EPI_NONE, a, out, &g));
    if (w->n_out != 3 * dim || a->rows != ex->n_tokens)
        return vnp_fail(
            VNP_INVAL, VNP_FROM_NONE,
            "cuda: a QKV product of %lld rows for %lld heads of %lld, %lld of %lld rows",
            (long long)w->n_out, (long long)p->n_heads, (long long)dh, (long long)a->rows,
            (long long)ex->n_tokens);
    bool has_kernel = ex->dev->has_wgmma && g.in_dtype != VNP_F32 && out->dtype != VNP_F32;
    struct qkv_extras x;
    VNP_TRY(begin_qkv(ex, p, has_kernel, a->dtype == VNP_E4M3, &x));
    if (!x.rotary && !x.v_top) return run_gemm(ex, &g);
    g.epilogue = VNP_CUDA_EPI_QKV;
    g.row_start = ex->d_row_start;
    g.head_dim = dh;
    g.rotary = x.rotary;
    g.n_rotated = x.rotary ? 2 * dim : 0;
    g.v_top = x.v_top;
    VNP_TRY(run_gemm(ex, &g));
    end_qkv(ex, p, &x, out);
    return VNP_OK;
}

vnp_status vnp_cuda_op_qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                     struct vnp_attention_params *p, struct vnp_tensor *out) {
    int64_t dh = p->head_dim, dim = p->n_heads * dh;
    VNP_TRY(vnp_op_check_of_tokens(table, out, ex->n_tokens));
    if (out->cols != 3 * dim || out->cols % 4 != 0 || table->dtype != VNP_F32)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "cuda: a table of %s of %lld columns for %lld heads of %lld",
                        vnp_dtype_name(table->dtype), (long long)table->cols, (long long)p->n_heads,
                        (long long)dh);
    bool has_kernel = ex->dev->has_wgmma && out->dtype != VNP_F32;
    struct qkv_extras x;
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_TRY(begin_qkv(ex, p, has_kernel, ex->dev->precision == VNP_PREC_FP8, &x));
    struct vnp_cuda_of_tokens_args a = {.table = table->data,
                                        .tokens = ex->d_tokens,
                                        .row_start = ex->d_row_start,
                                        .rotary = x.rotary,
                                        .out = out->data,
                                        .v_top = x.v_top,
                                        .n_rows = out->rows,
                                        .n_cols = out->cols,
                                        .n_vocab = table->rows,
                                        .ld_table = table->ld,
                                        .ld_out = out->ld,
                                        .head_dim = dh,
                                        .dtype = out->dtype};
    VNP_CUDA(vnp_cuda_of_tokens(&a, ex->stream));
    end_qkv(ex, p, &x, out);
    return VNP_OK;
}

vnp_status vnp_cuda_op_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                                 const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    int64_t dim = p->n_heads * p->head_dim, ld = VNP_ALIGN_UP(dim, VNP_CUDA_LD_ALIGN);
    VNP_TRY(vnp_op_check_attention(p, qkv, out, ex->n_tokens));
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    if (p->head_dim > 128 || p->head_dim % 2 != 0)
        return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_MODEL, "cuda: heads of %lld columns",
                        (long long)p->head_dim);
    if (p->has_rotary) VNP_TRY(fill_rotary(ex, p->head_dim, p->freq_dtype));
    struct vnp_cuda_attention_args a = {.qkv = qkv->data,
                                        .out = out->data,
                                        .tiles = ex->d_tiles,
                                        .rotary = p->has_rotary ? ex->rotary : NULL,
                                        .slopes = p->slopes,
                                        .row_start = ex->d_row_start,
                                        .row_len = ex->d_row_len,
                                        .scratch = ex->scratch,
                                        .n_tiles = ex->n_tiles,
                                        .n_rows = ex->n_tokens,
                                        .n_heads = p->n_heads,
                                        .head_dim = p->head_dim,
                                        .ld_qkv = qkv->ld,
                                        .ld_out = out->ld,
                                        .dtype = qkv->dtype,
                                        .scale = p->scale,
                                        .n_sms = ex->dev->n_sms,
                                        .has_wgmma = ex->dev->has_wgmma,
                                        .encode = ex->dev->encode};
    memcpy(a.n_tiles_of, ex->n_tiles_of, sizeof a.n_tiles_of);
    bool is_f32 = qkv->dtype == VNP_F32, is_e4m3 = out->dtype == VNP_E4M3;
    if (is_e4m3 && ex->top_of == qkv->data) {
        a.v_top = ex->v_top;
        a.out_scale = out->scale;
        is_e4m3 = false; /* nothing is left to quantise */
    }
    size_t need = is_f32    ? (size_t)(ex->n_tokens * 2 * dim) * 4
                  : is_e4m3 ? (size_t)(ex->n_tokens * out->ld) * 2
                            : 0;
    if (need > ex->scratch_bytes)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "cuda: %lld columns exceed the context's limit",
                        (long long)dim);
    if (is_f32) {
        VNP_CUDA(vnp_cuda_attention_f32(&a, ex->stream));
        return VNP_OK;
    }
    if (is_e4m3) {
        a.out = ex->scratch;
        a.ld_out = ld;
    }
    VNP_CUDA(vnp_cuda_attention(&a, ex->stream));
    if (is_e4m3)
        VNP_CUDA(vnp_cuda_quantise(ex->scratch, ex->n_tokens, dim, ld, out->data, out->ld,
                                   out->scale, ex->stream));
    return VNP_OK;
}

vnp_status vnp_cuda_op_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out) {
    VNP_TRY(vnp_op_check_pool(p, x, out, ex->n_tokens, ex->n_seqs));
    struct vnp_cuda_pool_args a = {.x = x->data,
                                   .cu_seqlens = ex->d_cu,
                                   .out = out->data,
                                   .n_bad = ex->d_bad,
                                   .n_seqs = ex->n_seqs,
                                   .n_cols = x->cols,
                                   .ld_x = x->ld,
                                   .ld_out = out->ld,
                                   .skip_first = p->skip_first,
                                   .skip_last = p->skip_last,
                                   .max_count = p->max_count,
                                   .is_cls = p->kind == VNP_POOL_CLS};
    VNP_CUDA(cudaSetDevice(ex->dev->idx));
    VNP_CUDA(vnp_cuda_pool(&a, ex->stream));
    return VNP_OK;
}
