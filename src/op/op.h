/* SPDX-License-Identifier: MIT
 * op: THE CONTRACT between the models and the backends. Tensor views, precisions, the coarse ops
 * with their mathematics, and shape checks. No arithmetic lives here.
 *
 * Shape letters, used everywhere:
 *   N packed tokens of a batch   S sequences in it     D hidden size    H heads   Dh = D / H
 *   F feed-forward size          V vocabulary          L layers
 * A batch is packed: tokens[N] and cu_seqlens[S+1], sequence s owning rows cu[s] .. cu[s+1]-1.
 * Nothing crosses a sequence's borders: positions, attention and pooling restart at cu[s].
 *
 * Promises of every backend
 *  - A sequence's results are bit-identical in any company: alone, in any pack, at any place of a
 *    pack, at any thread count. So every reduction has an order fixed by the sequence itself.
 *  - Softmax, norm statistics, rotary angles, pooling and the classifier accumulate in FP32 or
 *    better in every precision; the residual stream is FP32 unless the backend's numerics say
 *    otherwise (then documented in docs/numerics.md).
 *  - After `*_create` / `plan` calls, ops allocate nothing.
 *  - A backend that lacks an op leaves its pointer NULL; vnp_backend_check says so (UNSUPPORTED)
 *    when a model is planned, never later. */
#ifndef VNP_OP_H
#define VNP_OP_H

#include "base/base.h"

/* ---- types --------------------------------------------------------------------------------- */

enum vnp_dtype {
    VNP_DTYPE_NONE = 0,
    VNP_F64,
    VNP_F32,
    VNP_F16,
    VNP_BF16,
    VNP_E4M3, /* FP8: 1-4-3, finite only, max 448 */
    VNP_I64,
    VNP_I32,
    VNP_I16,
    VNP_I8,
    VNP_U8,
    VNP_BOOL,
};
size_t vnp_dtype_bytes(enum vnp_dtype dtype); /* 0 for NONE */
const char *vnp_dtype_name(enum vnp_dtype dtype);

/* The type of the operands of matrix products and attention. */
enum vnp_precision {
    VNP_PREC_FP32 = 0,
    VNP_PREC_BF16,
    VNP_PREC_FP16,
    VNP_PREC_FP8,  /* E4M3, a scale per token for activations, per output channel for weights */
    VNP_PREC_INT8, /* symmetric, likewise */
    VNP_PREC_COUNT
};
const char *vnp_precision_name(enum vnp_precision precision); /* "fp32", ... */
vnp_status vnp_precision_parse(const char *text, enum vnp_precision *out);

/* A host view of a stored weight, as the file has it (row-major, contiguous, not owned). */
struct vnp_view {
    const void *data;
    enum vnp_dtype dtype; /* F32, F16 or BF16 for weights */
    int64_t rows, cols;   /* a vector has rows = 1 */
};

/* A tensor on a device (host memory for CPU backends). Does not own its memory. */
struct vnp_tensor {
    void *data;
    enum vnp_dtype dtype;
    int64_t rows,
        cols; /* rows in use, columns; row-major, row r starts at data + r * ld elements */
    int64_t ld;
    float *scale; /* [rows] f32, one a row, for E4M3 and I8 operands; NULL otherwise */
};

/* Where a tensor stands in an encoder; the device says which type it wants there. */
enum vnp_site {
    VNP_SITE_RESIDUAL = 0, /* x, the residual stream                        [N][D]          */
    VNP_SITE_ATTN_IN,      /* operand of the QKV product                    [N][D]          */
    VNP_SITE_QKV,          /* result of the QKV product, attention's input  [N][3*D]        */
    VNP_SITE_ATTN_OUT,     /* attention's result, out-projection's operand  [N][D]          */
    VNP_SITE_FFN_IN,       /* operand of the up (or gate+up) product        [N][D]          */
    VNP_SITE_FFN_MID,      /* operand of the down product                   [N][F]          */
    VNP_SITE_F32,          /* plain FP32: pooled vectors, logits, per-residue results        */
    VNP_SITE_COUNT
};

/* A packed batch, host side, built by the packer. Borrowed until the run has been waited for. */
struct vnp_pack {
    int64_t n_tokens;          /* N */
    int64_t n_seqs;            /* S */
    int64_t max_len;           /* longest sequence, tokens */
    const uint16_t *tokens;    /* [N] */
    const int32_t *cu_seqlens; /* [S+1], cu_seqlens[0] = 0, strictly increasing */
};

/* ---- devices ------------------------------------------------------------------------------- */

struct vnp_device; /* a backend's device: weights and execution contexts live on it */
struct vnp_exec;   /* an execution context: scratch, a stream, the batch in flight */
struct vnp_linear; /* a prepared weight of a matrix product with its bias (packed, quantised) */

struct vnp_device_options {
    enum vnp_precision precision;
    int idx_device;        /* CUDA ordinal; 0 otherwise */
    int n_threads;         /* CPU backends: team size, < 1 = all */
    bool is_emulation;     /* ref only: round operands to `precision`, everything else FP32 */
    const char *cache_dir; /* autotuning results; NULL = none */
};

struct vnp_device_info {
    char name[128];
    int64_t mem_bytes, mem_free_bytes; /* 0 = unknown */
    int64_t row_quantum;               /* rows that fill whole waves; 1 when it does not matter */
    int64_t budget_tokens;             /* suggested batch budget */
    int n_units;                       /* SMs or threads */
    int major, minor;                  /* compute capability, 0 otherwise */
};

struct vnp_exec_limits {
    int64_t max_tokens, max_seqs;
    int64_t max_cols; /* widest activation the scratch must hold */
};

/* ---- parameters of the ops ------------------------------------------------------------------ */

/* Rows of a weight: parts are stacked in the order given (q, k, v -> [3D][D]). A part without a
 * bias has bias.data = NULL (all parts or none). gate_rows > 0 marks a gated product: the first
 * gate_rows rows are the gate, the rest (as many) the value. */
struct vnp_linear_desc {
    const struct vnp_view *weight; /* [n_parts] of [rows_p][K] */
    const struct vnp_view *bias;   /* [n_parts] of [1][rows_p], or NULL */
    int n_parts;
    int64_t n_out, n_in; /* sum of rows, K */
    int64_t gate_rows;
    enum vnp_site site; /* of the operand it will be applied to */
};

enum vnp_epilogue {
    VNP_EPI_NONE = 0, /* out = a W^T + b */
    VNP_EPI_GELU,     /* out = gelu(a W^T + b), gelu(x) = x/2 (1 + erf(x / sqrt 2)) exactly */
    VNP_EPI_RESIDUAL, /* out += a W^T + b ; out is RESIDUAL [N][n_out] */
    VNP_EPI_GEGLU,    /* y = a W^T + b ; out = gelu(y[:, :F]) * y[:, F:], F = gate_rows */
};

struct vnp_embed_params {
    const float *table;    /* device, [V][D] f32 */
    const float *type_row; /* device, [D] f32 added to each row, or NULL (DNABERT token type 0) */
    int64_t vocab;
    bool has_token_dropout; /* ESM-2: rows of mask_id become 0, then all rows of sequence s are
                               multiplied by (1 - 0.12) / (1 - m/n), m masks among its n tokens */
    int mask_id;
};

struct vnp_norm_params {
    const float *gamma, *beta; /* device, [D] f32 */
    float eps;                 /* inside the root */
};

struct vnp_attention_params {
    int64_t n_heads, head_dim;
    float scale;         /* ESM-2: multiplies q before rotary; DNABERT: multiplies q k^T. Dh^-0.5 */
    bool has_rotary;     /* angles t * 10000^(-2i/Dh), t from 0 at cu[s]; halves rotated:
                            out = x cos + (-x2, x1) sin with x = (x1, x2); sin/cos from FP32 or
                            better angles in every precision */
    const float *slopes; /* device, [H] f32 (const_create), or NULL. ALiBi: score -=
                            slope_h * |i - j| */
    enum vnp_dtype freq_dtype; /* rotary: 10000^(-2i/Dh) is first rounded to this type, F16 or
                                  BF16; anything else leaves it as it is. Models stored in FP16
                                  keep their frequencies so, and their vectors show it */
};

enum vnp_pool_kind { VNP_POOL_NONE = 0, VNP_POOL_MEAN, VNP_POOL_CLS };

struct vnp_pool_params {
    enum vnp_pool_kind kind;
    int64_t skip_first, skip_last; /* ESM-2: 1 and 1 (<cls>, <eos>); DNABERT: 0 and 0 */
    int64_t max_count;             /* mean over at most the first so many; 0 = all. ESM-2: 1024 */
};

/* Classifier: h = W1 z + b1; BatchNorm (running statistics, eps); ReLU; logits = W2 h + b2;
 * softmax. Host only, FP32 values accumulated as the backend's numerics prescribe. */
struct vnp_classifier_params {
    int64_t n_in, n_hidden;
    const float *w1, *b1;                               /* [n_hidden][n_in], [n_hidden] */
    const float *bn_gamma, *bn_beta, *bn_mean, *bn_var; /* [n_hidden] */
    float bn_eps;
    const float *w2, *b2; /* [2][n_hidden], [2] */
};

/* ---- the backend --------------------------------------------------------------------------- */

#define VNP_BACKEND_VERSION 5

/* One struct of function pointers a backend, constant, returned by vnp_<name>_backend().
 * Ops on an exec run in call order and may be asynchronous; exec_wait makes results visible and
 * reports a deferred failure. Every op checks shapes with the vnp_op_check_* functions below. */
struct vnp_backend {
    int version;
    const char *name; /* "ref", "cpu", "cuda" */
    bool is_host;     /* device memory is host memory */

    /* devices */
    int (*device_count)(void);
    vnp_status (*device_open)(const struct vnp_device_options *opt, struct vnp_device **out);
    void (*device_close)(struct vnp_device *dev); /* NULL is legal */
    vnp_status (*device_info)(struct vnp_device *dev, struct vnp_device_info *out);
    /* Type of the tensors at a site under the device's precision. */
    enum vnp_dtype (*site_dtype)(const struct vnp_device *dev, enum vnp_site site);

    /* constant memory: norm parameters, tables. F32 on the device whatever the view's type. */
    vnp_status (*const_create)(struct vnp_device *dev, const struct vnp_view *v, float **out);
    void (*const_destroy)(struct vnp_device *dev, float *p);
    vnp_status (*linear_create)(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                struct vnp_linear **out);
    void (*linear_destroy)(struct vnp_device *dev, struct vnp_linear *w);
    int64_t (*linear_bytes)(const struct vnp_linear *w);

    /* execution contexts */
    vnp_status (*exec_create)(struct vnp_device *dev, const struct vnp_exec_limits *limits,
                              struct vnp_exec **out);
    void (*exec_destroy)(struct vnp_exec *ex);
    /* A tensor of `max rows` rows at a site, poisoned in VERIFY builds; lives as long as ex.
     * rows is set by the model before each use (0 <= rows <= max). */
    vnp_status (*tensor_create)(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                                int64_t cols, struct vnp_tensor *out);
    /* Makes `pack` the batch in flight: uploads tokens and borders, derives positions. */
    vnp_status (*batch_begin)(struct vnp_exec *ex, const struct vnp_pack *pack);
    /* Copies rows of an F32-site or residual tensor to host memory as FP32, [rows][cols] dense;
     * visible after exec_wait. */
    vnp_status (*read_f32)(struct vnp_exec *ex, const struct vnp_tensor *t, float *host_out);
    vnp_status (*exec_wait)(struct vnp_exec *ex);

    /* ops */
    /* x[n] = table[tokens[n]] (+ type_row), scaled as params say.  out: RESIDUAL [N][D] */
    vnp_status (*embed)(struct vnp_exec *ex, const struct vnp_embed_params *p,
                        struct vnp_tensor *out);
    /* y = (x - mean) / sqrt(var + eps) * gamma + beta by row, var over D (biased), two passes.
     * x RESIDUAL [N][D]; out_residual (may be NULL, may be x itself) RESIDUAL or F32;
     * out_operand (may be NULL) ATTN_IN / FFN_IN, rounded (and scaled by row) on the way. */
    vnp_status (*layernorm)(struct vnp_exec *ex, const struct vnp_norm_params *p,
                            const struct vnp_tensor *x, struct vnp_tensor *out_residual,
                            struct vnp_tensor *out_operand);
    /* out = epilogue(a W^T + b). a [N][K] at the weight's site; out [N][n_out] (GEGLU: [N][F]) of
     * the type its own site prescribes, or F32. */
    vnp_status (*linear)(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                         const struct vnp_tensor *a, struct vnp_tensor *out);
    /* out = a W^T + b, the product before attention p. A backend that can rotates q and k here,
     * before they are rounded, and clears p->has_rotary: attention then takes them as they are.
     * NULL: linear serves, attention rotates. */
    vnp_status (*linear_qkv)(struct vnp_exec *ex, const struct vnp_linear *w,
                             struct vnp_attention_params *p, const struct vnp_tensor *a,
                             struct vnp_tensor *out);
    /* out[n] = table[tokens[n]], a product before attention whose operand depends on the token
     * alone. table [V][n_out], V > every token of the batch: what linear left for each token, in
     * F32 where the backend has linear_qkv, at QKV where not; out as linear_qkv's, bit by bit, and
     * p likewise. NULL: the product serves. */
    vnp_status (*qkv_of_tokens)(struct vnp_exec *ex, const struct vnp_tensor *table,
                                struct vnp_attention_params *p, struct vnp_tensor *out);
    /* x = LN(x + a W^T + b), the end of a post-norm half layer. a [N][K] at the weight's site;
     * x RESIDUAL [N][n_out], read and written; out_operand (may be NULL; may be a itself where
     * K = n_out) as in layernorm. Every shape is served that linear and layernorm serve.
     * NULL: linear with VNP_EPI_RESIDUAL, then layernorm, serve. */
    vnp_status (*linear_norm)(struct vnp_exec *ex, const struct vnp_linear *w,
                              const struct vnp_norm_params *p, const struct vnp_tensor *a,
                              struct vnp_tensor *x, struct vnp_tensor *out_operand);
    /* qkv [N][3][H][Dh] at QKV; out [N][H*Dh] at ATTN_OUT: softmax(scale q k^T + bias) v inside
     * each sequence of the batch in flight. */
    vnp_status (*attention)(struct vnp_exec *ex, const struct vnp_attention_params *p,
                            const struct vnp_tensor *qkv, struct vnp_tensor *out);
    /* x RESIDUAL or F32 [N][D] -> out F32 [S][D]. Order fixed by the sequence. A sequence whose
     * range is empty gets zeros. */
    vnp_status (*pool)(struct vnp_exec *ex, const struct vnp_pool_params *p,
                       const struct vnp_tensor *x, struct vnp_tensor *out);
    /* Host backends only. z [S][n_in], out [S][2]: softmax {other, virus}; rows independent. */
    vnp_status (*classify)(struct vnp_device *dev, const struct vnp_classifier_params *p,
                           const float *z, int64_t n_rows, float *out);
    /* Elements of pooled vectors of the batch last waited for that are NaN or infinite (FP16
     * overflow: run that pack again in BF16 or FP32). NULL: the backend does not look. */
    int64_t (*exec_n_nonfinite)(const struct vnp_exec *ex);
    /* When the device worked on the batch last waited for, from its first copy to its last, in
     * seconds since device_open; false when that was not measured. NULL: the backend cannot tell.
     */
    bool (*exec_span)(const struct vnp_exec *ex, double *begin_s, double *end_s);
    /* Where device idx stands, "0000:01:00.0", without opening it; NULL: not on such a bus. */
    bool (*device_pci)(int idx_device, char out[32]);
    /* For benches. mark: point `i` (0 .. VNP_MAX_MARKS - 1) of the context's work; mark_s: after
     * exec_wait, seconds of device time between two of them. NULL: work is done when a call
     * returns, any clock tells. */
    vnp_status (*mark)(struct vnp_exec *ex, int i);
    double (*mark_s)(const struct vnp_exec *ex, int i, int j);
};
#define VNP_MAX_MARKS 1024

/* What a model needs; every pointer named must be there. */
enum vnp_backend_need { VNP_NEED_ENCODER = 1, VNP_NEED_CLASSIFIER = 2 };
vnp_status vnp_backend_check(const struct vnp_backend *b, unsigned need) VNP_WARN_UNUSED;

/* const_create and const_destroy of backends whose memory is the host's; dev is not looked at. */
vnp_status vnp_op_host_const_create(struct vnp_device *dev, const struct vnp_view *v,
                                    float **out) VNP_WARN_UNUSED;
void vnp_op_host_const_destroy(struct vnp_device *dev, float *p);

/* Shape checks shared by all backends; INVAL with a message that prints the shapes. */
vnp_status vnp_op_check_limits(const struct vnp_exec_limits *limits) VNP_WARN_UNUSED;
/* Bytes of a tensor [rows][cols] at a site. */
vnp_status vnp_op_tensor_bytes(enum vnp_site site, enum vnp_dtype dtype, int64_t rows, int64_t cols,
                               size_t *out) VNP_WARN_UNUSED;
vnp_status vnp_op_check_pack(const struct vnp_pack *pack, int64_t max_tokens,
                             int64_t max_seqs) VNP_WARN_UNUSED;
vnp_status vnp_op_check_linear_desc(const struct vnp_linear_desc *desc) VNP_WARN_UNUSED;
vnp_status vnp_op_check_attention(const struct vnp_attention_params *p,
                                  const struct vnp_tensor *qkv, const struct vnp_tensor *out,
                                  int64_t n_tokens) VNP_WARN_UNUSED;
/* Every token of a pack is below the vocabulary's size. The model calls it once a pack. */
vnp_status vnp_op_check_tokens(const struct vnp_pack *pack, int64_t vocab) VNP_WARN_UNUSED;
vnp_status vnp_op_check_embed(const struct vnp_embed_params *p, const struct vnp_tensor *out,
                              int64_t n_tokens) VNP_WARN_UNUSED;
vnp_status vnp_op_check_norm(const struct vnp_norm_params *p, const struct vnp_tensor *x,
                             const struct vnp_tensor *out_residual,
                             const struct vnp_tensor *out_operand) VNP_WARN_UNUSED;
/* The weight is [n_out][n_in]; a and out have at most n_tokens rows. */
vnp_status vnp_op_check_linear(int64_t n_out, int64_t n_in, int64_t gate_rows,
                               enum vnp_epilogue epi, const struct vnp_tensor *a,
                               const struct vnp_tensor *out, int64_t n_tokens) VNP_WARN_UNUSED;
vnp_status vnp_op_check_of_tokens(const struct vnp_tensor *table, const struct vnp_tensor *out,
                                  int64_t n_tokens) VNP_WARN_UNUSED;
vnp_status vnp_op_check_pool(const struct vnp_pool_params *p, const struct vnp_tensor *x,
                             const struct vnp_tensor *out, int64_t n_tokens,
                             int64_t n_seqs) VNP_WARN_UNUSED;

/* 10000^(-2i/Dh) as attention uses it, for the tables of a backend. */
double vnp_op_rotary_freq(int64_t i, int64_t head_dim, enum vnp_dtype freq_dtype);

/* Scalar conversions, round to nearest even; shared by all rooms that touch stored types. */
uint16_t vnp_f32_to_bf16(float x);
float vnp_bf16_to_f32(uint16_t x);
uint16_t vnp_f32_to_f16(float x); /* overflow becomes infinity, as hardware does */
float vnp_f16_to_f32(uint16_t x);
uint8_t vnp_f32_to_e4m3(float x); /* saturates at +-448; NaN stays NaN */
float vnp_e4m3_to_f32(uint8_t x);
/* n values of a stored type as FP32. */
void vnp_convert_to_f32(enum vnp_dtype dtype, const void *src, int64_t n, float *dst);

#endif
