/* SPDX-License-Identifier: MIT
 * cuda room, internal: the device, the execution context, the prepared weight and the launchers of
 * the kernels. C and CUDA C read it; every launcher has a plain C signature, enqueues on the stream
 * given, and returns the launch's error. Shape letters as in op.h. */
#ifndef VNP_CUDA_ROOM_H
#define VNP_CUDA_ROOM_H

#include <cuda.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "op/op.h"

/* ---- rows and tiles ------------------------------------------------------------------------ */

#define VNP_CUDA_LD_ALIGN 16    /* elements: rows of every operand start on 16 bytes or more */
#define VNP_CUDA_WEIGHT_ROWS 64 /* rows allocated of a weight: a multiple of these */
#define VNP_CUDA_LT_ROWS 2048   /* the library path runs in pieces of so many rows, always */
#define VNP_CUDA_TILE_ROWS 64   /* rows of an attention tile: 4 warps of 16 */
#define VNP_CUDA_MAX_TENSORS 64 /* tensors of one execution context */
#define VNP_CUDA_MAX_READS 8    /* read_f32 calls between two waits */

/* Work of a block of attention. Long (is_long): query rows q_row[0] .. of one sequence, in n_rounds
 * rounds of 64: all of them if the sequence is at most VNP_CUDA_WHOLE long, else 128. Otherwise
 * several sequences of at most 64 tokens share it: warp w serves rows q_row[w] .. +15 of the
 * sequence that begins at token seq_row[w] and has seq_len[w] tokens (0: idle), and the rows are
 * keys and values too. Tiles stand by kind. */
enum vnp_cuda_tile_kind {
    VNP_CUDA_SHORT = 0, /* sequences of at most 64 tokens */
    VNP_CUDA_WHOLE_128,
    VNP_CUDA_WHOLE_192,
    VNP_CUDA_LONG, /* more than 192 */
    VNP_CUDA_TILE_KINDS
};
#define VNP_CUDA_WHOLE 192
struct vnp_cuda_tile {
    int32_t q_row[4], seq_row[4], seq_len[4];
    int32_t is_long, n_rounds, unused[2];
};
#define VNP_CUDA_KEYS 176         /* keys in shared memory at a time, the general kernel */
#define VNP_CUDA_MAX_HALF 64      /* half of the widest head */
#define VNP_CUDA_ROTARY_SPARE 256 /* positions of the table beyond the longest sequence */

/* cuTensorMapEncodeTiled, asked of the driver at run time. */
typedef CUresult(vnp_cuda_encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                     const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                     const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                     CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* ---- launch parameters --------------------------------------------------------------------- */

struct vnp_cuda_norm_args {
    const float *x, *gamma, *beta; /* [N][D], [D], [D] */
    float *out_f32;                /* [N][D] or NULL; may be x */
    void *out;                     /* [N][D] out_dtype, or NULL */
    float *scale, *norm;           /* [N] for E4M3: value = code * scale; Euclidean length of y */
    int64_t n_rows, n_cols, ld_x, ld_f32, ld_out;
    enum vnp_dtype out_dtype;
    float eps;
};

struct vnp_cuda_embed_args {
    const float *table, *type_row; /* [V][D], [D] or NULL */
    const uint16_t *tokens;        /* [N] */
    const int32_t *cu_seqlens;     /* [S+1] */
    float *out;                    /* [N][D] */
    int64_t n_seqs, n_cols, ld, vocab;
    int mask_id;
    bool has_token_dropout;
};

struct vnp_cuda_of_tokens_args {
    const float *table;       /* [V][3D] */
    const uint16_t *tokens;   /* [N] */
    const int32_t *row_start; /* [N] first token of a row's sequence */
    const float2 *rotary;     /* [max position][head_dim / 2] {cos, sin} or NULL */
    void *out;                /* [N][3D] dtype */
    float *v_top;             /* [N] zeros before, or NULL: a sequence's at its first row */
    int64_t n_rows, n_cols, n_vocab, ld_table, ld_out, head_dim;
    enum vnp_dtype dtype; /* F32, F16, BF16 */
};

struct vnp_cuda_pool_args {
    const float *x;            /* [N][D] */
    const int32_t *cu_seqlens; /* [S+1] */
    float *out;                /* [S][D] */
    int32_t *n_bad;            /* counts vectors with NaN or infinity */
    int64_t n_seqs, n_cols, ld_x, ld_out, skip_first, skip_last, max_count;
    bool is_cls;
};

struct vnp_cuda_attention_args {
    const void *qkv;                    /* [N][3][H][Dh] */
    void *out;                          /* [N][H*Dh] same type */
    const struct vnp_cuda_tile *tiles;  /* [n_tiles] */
    const float2 *rotary;               /* [max position][Dh/2] {cos, sin} or NULL */
    const float *slopes;                /* [H] or NULL */
    const int32_t *row_start, *row_len; /* [N] first token and tokens of a row's sequence */
    float *scratch;                     /* [N][2][H*Dh] f32, the FP32 path only */
    /* Hopper, heads of 64: out in E4M3. The scale of all rows of a sequence is v_top / 448 (1 where
     * v_top is 0): no average of values exceeds the largest. Both NULL: out is of dtype. */
    const float *v_top; /* [N] at a sequence's first token: its largest |v|, over all heads */
    float *out_scale;   /* [N] written */
    int64_t n_tiles, n_tiles_of[VNP_CUDA_TILE_KINDS];
    int64_t n_rows, n_heads, head_dim, ld_qkv, ld_out;
    enum vnp_dtype dtype;
    float scale;
    int n_sms;
    bool has_wgmma;
    vnp_cuda_encode_fn *encode; /* with has_wgmma */
};

/* A matrix product out = epilogue(a w^T + bias). */
enum vnp_cuda_gemm_epilogue {
    VNP_CUDA_EPI_STORE = 0, /* out = y */
    VNP_CUDA_EPI_GELU,      /* out = gelu(y) */
    VNP_CUDA_EPI_ADD,       /* out += y, f32 */
    VNP_CUDA_EPI_GEGLU,     /* out = gelu(gate) * value; weight rows interleaved by eights */
    VNP_CUDA_EPI_QKV,       /* out = y, its first n_rotated columns rotated by heads; Hopper only */
};
#define VNP_CUDA_NORM_COLS 768
struct vnp_cuda_gemm_args {
    /* w, bias and w_scale are readable up to a multiple of VNP_CUDA_WEIGHT_ROWS rows */
    const void *a, *w;    /* [M][K] ld_a, [n_out][K] ld_w, in_dtype */
    const float *bias;    /* [n_out] or NULL */
    const float *a_scale; /* [M] E4M3 only */
    const float *w_scale; /* [n_out] E4M3 only */
    const float *a_norm;  /* [M] Euclidean length of a's rows; out E4M3 only */
    float *out_scale;     /* [M] written; out E4M3 only */
    void *out;            /* [M][n_out or n_out/2] */
    int64_t m, n, k, ld_a, ld_w, ld_out;
    float w_bound, bias_bound;   /* largest row length of w, largest bias >= 0; out E4M3 only */
    const float2 *rotary;        /* QKV: [max position][head_dim / 2] {cos, sin} */
    const int32_t *row_start;    /* QKV: [M] first token of a row's sequence */
    float *v_top;                /* QKV: [M] at a sequence's first token, its largest |v|; zeros
                                    before; NULL: not wanted */
    int64_t head_dim, n_rotated; /* QKV: 16, 32 or 64; 2 H Dh, or 0 */
    const struct vnp_cuda_norm_args *norm; /* ADD: NULL, or the norm of the sums, which become its
                                              residual as well; x and out_f32 are not looked at.
                                              Hopper only, n_out VNP_CUDA_NORM_COLS */
    enum vnp_dtype in_dtype, out_dtype;
    enum vnp_cuda_gemm_epilogue epilogue;
    int n_sms;
    vnp_cuda_encode_fn *encode;
};

/* ---- launchers ----------------------------------------------------------------------------- */

cudaError_t vnp_cuda_layernorm(const struct vnp_cuda_norm_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_embed(const struct vnp_cuda_embed_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_of_tokens(const struct vnp_cuda_of_tokens_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_pool(const struct vnp_cuda_pool_args *p, cudaStream_t stream);
/* row_start, row_len [N] from cu_seqlens. */
cudaError_t vnp_cuda_row_map(const int32_t *cu_seqlens, int64_t n_seqs, int32_t *row_start,
                             int32_t *row_len, cudaStream_t stream);
/* freq [head_dim / 2] host: 10000^(-2i/Dh), perhaps rounded (vnp_op_rotary_freq). */
cudaError_t vnp_cuda_rotary_table(float2 *table, int64_t n_pos, int64_t head_dim,
                                  const double *freq, cudaStream_t stream);
/* Rows of FP16 values to E4M3 with a scale a row. */
cudaError_t vnp_cuda_quantise(const void *x, int64_t n_rows, int64_t n_cols, int64_t ld_x,
                              void *out, int64_t ld_out, float *scale, cudaStream_t stream);
/* Lengths of dequantised E4M3 rows. */
cudaError_t vnp_cuda_row_lengths(const void *x, const float *scale, int64_t n_rows, int64_t n_cols,
                                 int64_t ld, float *out, cudaStream_t stream);
/* Epilogue of the library path: y [n_rows][..] f32 -> out [n_rows][n_cols]. */
cudaError_t vnp_cuda_finish(const float *y, int64_t ld_y, enum vnp_cuda_gemm_epilogue epi,
                            int64_t n_rows, int64_t n_cols, void *out, enum vnp_dtype dtype,
                            int64_t ld_out, cudaStream_t stream);
cudaError_t vnp_cuda_attention(const struct vnp_cuda_attention_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_attention_short(const struct vnp_cuda_attention_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_attention_whole(const struct vnp_cuda_attention_args *p,
                                     enum vnp_cuda_tile_kind kind, cudaStream_t stream);
cudaError_t vnp_cuda_attention_long(const struct vnp_cuda_attention_args *p, cudaStream_t stream);
/* without rotation */
cudaError_t vnp_cuda_attention_long_sm90(const struct vnp_cuda_attention_args *p,
                                         cudaStream_t stream);
cudaError_t vnp_cuda_attention_f32(const struct vnp_cuda_attention_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_gemm_f32(const struct vnp_cuda_gemm_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_gemm_f16_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_gemm_bf16_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream);
cudaError_t vnp_cuda_gemm_e4m3_sm90(const struct vnp_cuda_gemm_args *p, cudaStream_t stream);

/* Stored values (f32, f16, bf16, any alignment) to a weight's rows. row_map: interleave by eights
 * when n_gate > 0: stored row r lands at (r % n_gate / 8) * 16 + r % 8 + (r >= n_gate ? 8 : 0). */
struct vnp_cuda_convert_args {
    const void *src; /* [n_rows][n_cols] dense */
    void *dst;       /* [..][ld] */
    float *scale;    /* [..] E4M3: a scale a row; NULL otherwise */
    float *length;   /* [..] Euclidean length of the rows, or NULL */
    int64_t n_rows, n_cols, ld, row0, n_gate;
    enum vnp_dtype src_dtype, dst_dtype;
};
cudaError_t vnp_cuda_convert(const struct vnp_cuda_convert_args *p, cudaStream_t stream);
/* Any tensor to dense f32: what read_f32 copies. */
cudaError_t vnp_cuda_to_f32(const void *x, enum vnp_dtype dtype, const float *scale, int64_t n_rows,
                            int64_t n_cols, int64_t ld, float *out, cudaStream_t stream);

/* ---- the library, opened at run time ------------------------------------------------------- */

struct vnp_cuda_lt;
vnp_status vnp_cuda_lt_open(int idx_device, const char *cache_dir, struct vnp_cuda_lt **out);
void vnp_cuda_lt_close(struct vnp_cuda_lt *lt);
/* STORE and ADD epilogues; in F16, BF16, E4M3 (sm_90); out 16-bit for STORE, f32 for ADD. */
vnp_status vnp_cuda_lt_gemm(struct vnp_cuda_lt *lt, const struct vnp_cuda_gemm_args *p,
                            cudaStream_t stream);

/* ---- device objects ------------------------------------------------------------------------ */

struct vnp_device {
    int idx, major, minor, n_sms;
    enum vnp_precision precision;
    char name[128];
    int64_t mem_bytes;
    bool has_wgmma;             /* own sm_90a matrix products */
    vnp_cuda_encode_fn *encode; /* with has_wgmma */
    struct vnp_cuda_lt *lt;     /* NULL where own kernels serve */
    char cache_dir[512];
    cudaStream_t upload;
    cudaEvent_t born;              /* recorded when the device was opened: the zero of exec_span */
    void *h_stage[2], *d_stage[2]; /* pinned ring of the uploads and its device half */
    cudaEvent_t stage_free[2];
};

struct vnp_linear {
    void *w;             /* [n_out][ld_w] dtype */
    float *bias, *scale; /* [n_out] or NULL */
    int64_t n_out, n_in, ld_w, gate_rows, n_bytes;
    float w_bound, bias_bound;
    enum vnp_dtype dtype;
    enum vnp_site site;
};

struct vnp_cuda_read {
    float *host;
    const float *pinned;
    int64_t n_bytes;
};

struct vnp_exec {
    struct vnp_device *dev;
    struct vnp_exec_limits limits;
    cudaStream_t stream;
    cudaEvent_t uploaded, begun, done; /* done: after the last copy back */
    bool has_done;                     /* recorded for the batch in flight */
    cudaEvent_t *marks;                /* [VNP_MAX_MARKS], made at the first mark */
    /* the batch in flight: pinned halves and their device copies */
    void *h_batch, *d_batch;
    size_t batch_bytes;
    uint16_t *d_tokens;               /* [max_tokens] */
    int32_t *d_cu;                    /* [max_seqs+1] */
    struct vnp_cuda_tile *d_tiles;    /* [max_tiles] */
    int32_t *d_row_start, *d_row_len; /* [max_tokens] */
    int64_t n_tokens, n_seqs, n_tiles, n_tiles_of[VNP_CUDA_TILE_KINDS], max_len, max_tiles;
    float *v_top;       /* [max_tokens] at a sequence's first token: its largest |v| in top_of */
    const void *top_of; /* the qkv that v_top was taken from, or NULL */
    float2 *rotary;     /* [max_tokens][half] of rotary_dim */
    int64_t rotary_dim;
    enum vnp_dtype rotary_freq_dtype;
    void *scratch; /* FP32: rotated q and k; FP8: 16-bit results before they are quantised */
    size_t scratch_bytes;
    float *h_read; /* pinned, [read_bytes] */
    size_t read_bytes, read_used;
    struct vnp_cuda_read reads[VNP_CUDA_MAX_READS];
    int n_reads;
    int32_t *d_bad, *h_bad; /* pooled elements that are NaN or infinite in the batch */
    int64_t n_bad;          /* ... of the batch last waited for */
    int n_tensors;
    void *tensor[VNP_CUDA_MAX_TENSORS]; /* [rows] of them, E4M3: with scales and row lengths */
    float *tensor_scale[VNP_CUDA_MAX_TENSORS], *tensor_norm[VNP_CUDA_MAX_TENSORS];
    size_t tensor_bytes[VNP_CUDA_MAX_TENSORS];
    bool tensor_has_norm[VNP_CUDA_MAX_TENSORS]; /* written by a layer norm */
};

vnp_status vnp_cuda_fail(cudaError_t e, const char *what);
#define VNP_CUDA(x)                                                                                \
    do {                                                                                           \
        cudaError_t vnp_cuda_e_ = (x);                                                             \
        if (vnp_cuda_e_ != cudaSuccess) return vnp_cuda_fail(vnp_cuda_e_, #x);                     \
    } while (0)

vnp_status vnp_cuda_device_open(const struct vnp_device_options *opt, struct vnp_device **out);
void vnp_cuda_device_close(struct vnp_device *dev);
int vnp_cuda_device_count(void);
bool vnp_cuda_device_pci(int idx_device, char out[32]);
vnp_status vnp_cuda_device_info(struct vnp_device *dev, struct vnp_device_info *out);
enum vnp_dtype vnp_cuda_site_dtype(const struct vnp_device *dev, enum vnp_site site);
vnp_status vnp_cuda_const_create(struct vnp_device *dev, const struct vnp_view *v, float **out);
void vnp_cuda_const_destroy(struct vnp_device *dev, float *p);
vnp_status vnp_cuda_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                  struct vnp_linear **out);
void vnp_cuda_linear_destroy(struct vnp_device *dev, struct vnp_linear *w);
int64_t vnp_cuda_linear_bytes(const struct vnp_linear *w);
vnp_status vnp_cuda_exec_create(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                                struct vnp_exec **out);
void vnp_cuda_exec_destroy(struct vnp_exec *ex);
vnp_status vnp_cuda_tensor_create(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                  int64_t cols, struct vnp_tensor *out);
vnp_status vnp_cuda_batch_begin(struct vnp_exec *ex, const struct vnp_pack *pack);
vnp_status vnp_cuda_read_f32(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out);
vnp_status vnp_cuda_exec_wait(struct vnp_exec *ex);
bool vnp_cuda_exec_span(const struct vnp_exec *ex, double *begin_s, double *end_s);
vnp_status vnp_cuda_mark(struct vnp_exec *ex, int i);
double vnp_cuda_mark_s(const struct vnp_exec *ex, int i, int j);
int64_t vnp_cuda_exec_n_nonfinite(const struct vnp_exec *ex);
vnp_status vnp_cuda_op_embed(struct vnp_exec *ex, const struct vnp_embed_params *p,
                             struct vnp_tensor *out);
vnp_status vnp_cuda_op_layernorm(struct vnp_exec *ex, const struct vnp_norm_params *p,
                                 const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                                 struct vnp_tensor *out_operand);
vnp_status vnp_cuda_op_linear(struct vnp_exec *ex, const struct vnp_linear *w,
                              enum vnp_epilogue epi, const struct vnp_tensor *a,
                              struct vnp_tensor *out);
vnp_status vnp_cuda_op_linear_qkv(struct vnp_exec *ex, const struct vnp_linear *w,
                                  struct vnp_attention_params *p, const struct vnp_tensor *a,
                                  struct vnp_tensor *out);
vnp_status vnp_cuda_op_qkv_of_tokens(struct vnp_exec *ex, const struct vnp_tensor *table,
                                     struct vnp_attention_params *p, struct vnp_tensor *out);
vnp_status vnp_cuda_op_linear_norm(struct vnp_exec *ex, const struct vnp_linear *w,
                                   const struct vnp_norm_params *p, const struct vnp_tensor *a,
                                   struct vnp_tensor *x, struct vnp_tensor *out_operand);
vnp_status vnp_cuda_op_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                                 const struct vnp_tensor *qkv, struct vnp_tensor *out);
vnp_status vnp_cuda_op_pool(struct vnp_exec *ex, const struct vnp_pool_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
