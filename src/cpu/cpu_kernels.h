/* SPDX-License-Identifier: MIT
 * The room's own kernels: one file an op in kernels/, compiled once an instruction set, and the
 * table that dispatch fills. Kernels take rows or one head of one sequence; threads, blocks and
 * checks are the callers'. Every kernel's result for a row depends on that row (or sequence) only.
 */
#ifndef VNP_CPU_KERNELS_H
#define VNP_CPU_KERNELS_H

#include "op/op.h"

struct vnp_cpu_embed_args {
    const float *table, *type_row; /* [V][D], [D] or NULL */
    const uint16_t *tokens;        /* [N] */
    const float *row_scale;        /* [N], or NULL */
    int mask_id;                   /* < 0: none */
    float *out;                    /* [N][ld] */
    int64_t n_cols, ld;
};

struct vnp_cpu_norm_args {
    const float *x; /* [N][ldx] */
    float *out;     /* [N][ld_out] or NULL */
    void *operand;  /* [N][ld_operand], f32 or bf16, or NULL */
    const float *gamma, *beta;
    int64_t n_cols, ldx, ld_out, ld_operand;
    float eps;
    bool is_bf16;
};

/* What happens to a finished tile of a matrix product while it is in cache. */
struct vnp_cpu_epilogue_args {
    enum vnp_epilogue kind;
    const float *tile; /* [rows][ld_tile]; GEGLU: value columns stand n_cols after the gate's */
    const float *bias; /* [n_cols], or NULL; GEGLU: [2 n_cols] */
    void *out;         /* [rows][ld_out] f32 or bf16 */
    int64_t n_rows, n_cols, ld_tile, ld_out;
    bool is_bf16;
    bool is_streamed; /* NONE to f32: out will have left the caches before anyone reads it */
};

#define VNP_CPU_KEY_BLOCK 512   /* keys of a pass of attention */
#define VNP_CPU_QUERY_BLOCK 480 /* queries of a task of attention, at most */
#define VNP_CPU_MAX_HEAD_DIM 128

struct vnp_cpu_attention_args {
    const float *q, *k, *v; /* row 0 of the sequence, this head; rows ld apart */
    int64_t ld;
    int64_t n_keys, q_first, q_end, head_dim;
    const float *cosines, *sines; /* [n_keys][head_dim / 2], or NULL */
    float scale, slope;           /* slope 0: no ALiBi */
    void *out;                    /* row 0 of the sequence, this head; f32 or bf16 */
    int64_t ld_out;
    float *scratch; /* VNP_CPU_ATTENTION_SCRATCH floats, 64-byte aligned */
};
/* keys and values of a pass, queries and outputs, a few rows, scores, maxima and sums */
#define VNP_CPU_ATTENTION_SCRATCH                                                                  \
    ((2 * (VNP_CPU_KEY_BLOCK + 32) + 2 * (VNP_CPU_QUERY_BLOCK + 16) + 16) * VNP_CPU_MAX_HEAD_DIM + \
     16 * (VNP_CPU_KEY_BLOCK + 64) + 2 * (VNP_CPU_QUERY_BLOCK + 64) + 128)

struct vnp_cpu_pool_args {
    const float *x; /* first row */
    int64_t ld, n_rows, n_cols;
    float *out; /* [n_cols], mean; zeros when n_rows = 0 */
};

/* 64 rows of a weight as the K-major block [ceil16(words)][64] of 32-bit words that the matrix
 * kernels read: FP32 values, or pairs of BF16 along K. */
struct vnp_cpu_pack_args {
    const char *row[64]; /* [n_in] of `dtype`, at any alignment; NULL: zeros */
    enum vnp_dtype dtype[64];
    int64_t n_in;
    uint32_t *dst;
    bool is_bf16;
};
#define VNP_CPU_PACK_COLS 64

typedef void vnp_cpu_embed_fn(const struct vnp_cpu_embed_args *a, int64_t first, int64_t end);
typedef void vnp_cpu_norm_fn(const struct vnp_cpu_norm_args *a, int64_t first, int64_t end);
typedef void vnp_cpu_epilogue_fn(const struct vnp_cpu_epilogue_args *a);
typedef void vnp_cpu_attention_fn(const struct vnp_cpu_attention_args *a);
typedef void vnp_cpu_pool_fn(const struct vnp_cpu_pool_args *a);
typedef void vnp_cpu_classify_fn(const struct vnp_classifier_params *p, const float *z,
                                 int64_t n_rows, float *hidden, float *out);
typedef void vnp_cpu_pack_fn(const struct vnp_cpu_pack_args *a);

/* op name, member and function stem, type: the one list that declarations, dispatch and tests
 * expand. Rows of an op: VNP_CPU_ROWS_<member> below, first that applies wins. */
#define VNP_CPU_OPS(X)                                                                             \
    X(embed, vnp_cpu_embed_fn)                                                                     \
    X(norm, vnp_cpu_norm_fn)                                                                       \
    X(epilogue, vnp_cpu_epilogue_fn)                                                               \
    X(attention, vnp_cpu_attention_fn)                                                             \
    X(attention_bf16, vnp_cpu_attention_fn)                                                        \
    X(pool, vnp_cpu_pool_fn)                                                                       \
    X(classify, vnp_cpu_classify_fn)                                                               \
    X(pack, vnp_cpu_pack_fn)

#if defined(__x86_64__)
#define VNP_CPU_ROWS_PLAIN(X, op) X(op, avx512) X(op, avx2) X(op, generic)
#define VNP_CPU_ROWS_BF16(X, op) X(op, avx512bf16) VNP_CPU_ROWS_PLAIN(X, op)
#else
#define VNP_CPU_ROWS_PLAIN(X, op) X(op, generic)
#define VNP_CPU_ROWS_BF16(X, op) VNP_CPU_ROWS_PLAIN(X, op)
#endif
#define VNP_CPU_ROWS_embed(X) VNP_CPU_ROWS_PLAIN(X, embed)
#define VNP_CPU_ROWS_norm(X) VNP_CPU_ROWS_PLAIN(X, norm)
#define VNP_CPU_ROWS_epilogue(X) VNP_CPU_ROWS_BF16(X, epilogue)
#define VNP_CPU_ROWS_attention(X) VNP_CPU_ROWS_PLAIN(X, attention)
#define VNP_CPU_ROWS_attention_bf16(X) VNP_CPU_ROWS_BF16(X, attention_bf16)
#define VNP_CPU_ROWS_pool(X) VNP_CPU_ROWS_PLAIN(X, pool)
#define VNP_CPU_ROWS_classify(X) VNP_CPU_ROWS_PLAIN(X, classify)
#define VNP_CPU_ROWS_pack(X) VNP_CPU_ROWS_PLAIN(X, pack)

#define VNP_CPU_DECLARE_ROW(op, isa) vnp_cpu_fn_##op vnp_cpu_##op##_##isa;
#define VNP_CPU_DECLARE_OP(op, type)                                                               \
    typedef type vnp_cpu_fn_##op;                                                                  \
    VNP_CPU_ROWS_##op(VNP_CPU_DECLARE_ROW)
VNP_CPU_OPS(VNP_CPU_DECLARE_OP)
#undef VNP_CPU_DECLARE_OP

struct vnp_cpu_kernels {
#define VNP_CPU_MEMBER(op, type) type *op;
    VNP_CPU_OPS(VNP_CPU_MEMBER)
#undef VNP_CPU_MEMBER
};
/* Fills every op with its best usable variant. `force` (may be NULL) is VNP_FORCE's text:
 * "op=variant,..." or "all=variant"; a variant this machine lacks, or unknown: UNSUPPORTED. */
vnp_status vnp_cpu_kernels_choose(const char *force, struct vnp_cpu_kernels *out) VNP_WARN_UNUSED;
/* Can this machine (and its operating system) run code of an instruction set? */
bool vnp_cpu_has(const char *isa);

/* In a kernel file: the name of this compilation's function. */
#define VNP_CPU_NAME3(op, isa) vnp_cpu_##op##_##isa
#define VNP_CPU_NAME2(op, isa) VNP_CPU_NAME3(op, isa)
#define VNP_CPU_NAME(op) VNP_CPU_NAME2(op, VNP_CPU_ISA)

#endif
