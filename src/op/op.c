// SPDX-License-Identifier: MIT
// Names and sizes of types and precisions, the scalar conversions, and the shape checks that all
// backends share. No tensor arithmetic lives here. Conversions round to nearest, ties to even, by
// integer arithmetic, so that they give the same bits on every machine and in every rounding mode.
#include "op/op.h"

#include <math.h>
#include <string.h>
#include <strings.h>

/* ---- types --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t n_bytes;
} dtypes[] = {
    [VNP_DTYPE_NONE] = {"none", 0}, [VNP_F64] = {"f64", 8},   [VNP_F32] = {"f32", 4},
    [VNP_F16] = {"f16", 2},         [VNP_BF16] = {"bf16", 2}, [VNP_E4M3] = {"e4m3", 1},
    [VNP_I64] = {"i64", 8},         [VNP_I32] = {"i32", 4},   [VNP_I16] = {"i16", 2},
    [VNP_I8] = {"i8", 1},           [VNP_U8] = {"u8", 1},     [VNP_BOOL] = {"bool", 1},
};

size_t vnp_dtype_bytes(enum vnp_dtype dtype) {
    return (size_t)dtype < VNP_COUNT(dtypes) ? dtypes[dtype].n_bytes : 0;
}

const char *vnp_dtype_name(enum vnp_dtype dtype) {
    return (size_t)dtype < VNP_COUNT(dtypes) ? dtypes[dtype].name : "?";
}

static const char *const precisions[VNP_PREC_COUNT] = {
    [VNP_PREC_FP32] = "fp32", [VNP_PREC_BF16] = "bf16", [VNP_PREC_FP16] = "fp16",
    [VNP_PREC_FP8] = "fp8",   [VNP_PREC_INT8] = "int8",
};

const char *vnp_precision_name(enum vnp_precision precision) {
    return (unsigned)precision < VNP_PREC_COUNT ? precisions[precision] : "?";
}

vnp_status vnp_precision_parse(const char *text, enum vnp_precision *out) {
    for (int i = 0; text && i < VNP_PREC_COUNT; i++) {
        if (strcasecmp(text, precisions[i]) == 0) {
            *out = (enum vnp_precision)i;
            return VNP_OK;
        }
    }
    vnp_status status =
        vnp_fail(VNP_INVAL, VNP_FROM_NONE, "'%s' is no precision", text ? text : "");
    vnp_error_hint("one of fp32, bf16, fp16, fp8, int8");
    return status;
}

/* ---- conversions --------------------------------------------------------------------------- */

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* u / 2^shift, nearest, ties to even; 1 <= shift <= 31. */
static inline uint32_t shift_rne(uint32_t u, unsigned shift) {
    uint32_t half = (1u << (shift - 1)) - 1u;
    return (u + half + ((u >> shift) & 1u)) >> shift;
}

/* |x| (bits of a finite FP32) in a type with n_man mantissa bits and exponent bias `bias`, as if
 * its exponent had no upper end. A carry out of the mantissa raises the exponent by itself. */
static inline uint32_t narrow(uint32_t u, unsigned n_man, uint32_t bias) {
    uint32_t e = u >> 23, e_min = 128 - bias; /* FP32 exponent of the smallest normal */
    if (e >= e_min) return shift_rne(u - ((127 - bias) << 23), 23 - n_man);
    uint32_t shift = 23 - n_man + (e_min - e);
    return shift > 25 ? 0 : shift_rne((u & 0x7fffffu) | 0x800000u, shift);
}

uint16_t vnp_f32_to_bf16(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float vnp_bf16_to_f32(uint16_t x) {
    return float_of((uint32_t)x << 16);
}

uint16_t vnp_f32_to_f16(float x) {
    uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, r;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((u >> 13) & 0x1ffu));
    if (u == 0x7f800000u) return (uint16_t)(sign | 0x7c00u);
    r = narrow(u, 10, 15);
    return (uint16_t)(sign | (r > 0x7c00u ? 0x7c00u : r));
}

/* No branch on the value, so that loops over it become SIMD: the product moves the exponent and
 * makes FP16's denormals normal; 2^112 is exact. */
static inline float widen_f16(uint16_t x) {
    uint32_t u = (uint32_t)(x & 0x7fffu) << 13, sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t finite = bits_of(float_of(u) * 0x1p112f), other = u | 0x7f800000u;
    return float_of(sign | (u >= 0x0f800000u ? other : finite));
}

float vnp_f16_to_f32(uint16_t x) {
    return widen_f16(x);
}

uint8_t vnp_f32_to_e4m3(float x) {
    uint32_t u = bits_of(x), sign = (u >> 24) & 0x80u, r;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    r = u == 0x7f800000u ? 0x7eu : narrow(u, 3, 7);
    return (uint8_t)(sign | (r > 0x7eu ? 0x7eu : r));
}

float vnp_e4m3_to_f32(uint8_t x) {
    uint32_t sign = (uint32_t)(x & 0x80u) << 24, m = x & 0x7fu;
    if (m == 0x7fu) return float_of(sign | 0x7fc00000u);
    return float_of(sign | bits_of(float_of(m << 20) * 0x1p120f));
}

#define VNP_CONVERT_LOOP(type, expr)                                                               \
    for (int64_t i = 0; i < n; i++) {                                                              \
        type v;                                                                                    \
        memcpy(&v, bytes + (size_t)i * sizeof v, sizeof v);                                        \
        dst[i] = (expr);                                                                           \
    }                                                                                              \
    break

void vnp_convert_to_f32(enum vnp_dtype dtype, const void *src, int64_t n, float *dst) {
    const char *bytes = src; /* at any alignment */
    switch (dtype) {
    case VNP_F32:
        memcpy(dst, src, (size_t)n * sizeof *dst);
        break;
    case VNP_F16:
        VNP_CONVERT_LOOP(uint16_t, widen_f16(v));
    case VNP_BF16:
        VNP_CONVERT_LOOP(uint16_t, float_of((uint32_t)v << 16));
    case VNP_F64:
        VNP_CONVERT_LOOP(double, (float)v);
    case VNP_E4M3:
        VNP_CONVERT_LOOP(uint8_t, vnp_e4m3_to_f32(v));
    case VNP_I64:
        VNP_CONVERT_LOOP(int64_t, (float)v);
    case VNP_I32:
        VNP_CONVERT_LOOP(int32_t, (float)v);
    case VNP_I16:
        VNP_CONVERT_LOOP(int16_t, (float)v);
    case VNP_I8:
        VNP_CONVERT_LOOP(int8_t, (float)v);
    case VNP_U8:
        VNP_CONVERT_LOOP(uint8_t, (float)v);
    case VNP_BOOL:
        VNP_CONVERT_LOOP(uint8_t, v ? 1.0f : 0.0f);
    case VNP_DTYPE_NONE:
    default:
        VNP_ASSERT(dtype != VNP_DTYPE_NONE);
        break;
    }
}

/* ---- checks -------------------------------------------------------------------------------- */

static vnp_status lacks(const struct vnp_backend *b, const char *op) {
    return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE, "the %s backend has no %s", b->name, op);
}

#define VNP_NEED(op)                                                                               \
    if (!b->op) return lacks(b, #op)

vnp_status vnp_backend_check(const struct vnp_backend *b, unsigned need) {
    if (!b) return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE, "no backend");
    if (b->version != VNP_BACKEND_VERSION)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_DEVICE, "the %s backend has version %d, not %d",
                        b->name ? b->name : "?", b->version, VNP_BACKEND_VERSION);
    if (!b->name) return vnp_fail(VNP_MISMATCH, VNP_FROM_DEVICE, "a backend without a name");
    VNP_NEED(device_count);
    VNP_NEED(device_open);
    VNP_NEED(device_close);
    VNP_NEED(device_info);
    if (need & VNP_NEED_ENCODER) {
        VNP_NEED(site_dtype);
        VNP_NEED(const_create);
        VNP_NEED(const_destroy);
        VNP_NEED(linear_create);
        VNP_NEED(linear_destroy);
        VNP_NEED(linear_bytes);
        VNP_NEED(exec_create);
        VNP_NEED(exec_destroy);
        VNP_NEED(tensor_create);
        VNP_NEED(batch_begin);
        VNP_NEED(read_f32);
        VNP_NEED(exec_wait);
        VNP_NEED(embed);
        VNP_NEED(layernorm);
        VNP_NEED(linear);
        VNP_NEED(attention);
        VNP_NEED(pool);
    }
    if (need & VNP_NEED_CLASSIFIER) VNP_NEED(classify);
    return VNP_OK;
}

#define bad(...) vnp_fail(VNP_INVAL, VNP_FROM_NONE, __VA_ARGS__)

/* Rows and columns multiplied, and their bytes; false when a size makes no sense. */
static bool count_bytes(int64_t rows, int64_t cols, size_t unit, size_t *n, size_t *n_bytes) {
    return rows > 0 && cols > 0 && vnp_size_mul((size_t)rows, (size_t)cols, n) &&
           vnp_size_mul(*n, unit, n_bytes);
}

vnp_status vnp_op_host_const_create(struct vnp_device *dev, const struct vnp_view *v, float **out) {
    (void)dev;
    size_t n, n_bytes;
    *out = NULL;
    if (!v->data || !count_bytes(v->rows, v->cols, sizeof(float), &n, &n_bytes))
        return bad("constant [%lld][%lld]", (long long)v->rows, (long long)v->cols);
    *out = vnp_alloc_aligned(n_bytes);
    if (!*out)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a constant (%zu bytes)", n_bytes);
    vnp_convert_to_f32(v->dtype, v->data, (int64_t)n, *out);
    return VNP_OK;
}

void vnp_op_host_const_destroy(struct vnp_device *dev, float *p) {
    (void)dev;
    vnp_free_aligned(p);
}

vnp_status vnp_op_check_limits(const struct vnp_exec_limits *l) {
    if (l->max_tokens >= 1 && l->max_tokens <= 1 << 24 && l->max_seqs >= 1 &&
        l->max_seqs <= l->max_tokens && l->max_cols >= 1 && l->max_cols <= 1 << 26)
        return VNP_OK;
    return bad("limits of %lld tokens, %lld sequences, %lld columns", (long long)l->max_tokens,
               (long long)l->max_seqs, (long long)l->max_cols);
}

vnp_status vnp_op_tensor_bytes(enum vnp_site site, enum vnp_dtype dtype, int64_t rows, int64_t cols,
                               size_t *out) {
    size_t n;
    if ((unsigned)site < VNP_SITE_COUNT && count_bytes(rows, cols, vnp_dtype_bytes(dtype), &n, out))
        return VNP_OK;
    return bad("tensor [%lld][%lld] at site %d", (long long)rows, (long long)cols, (int)site);
}

vnp_status vnp_op_check_pack(const struct vnp_pack *pack, int64_t max_tokens, int64_t max_seqs) {
    long long n = pack->n_tokens, s = pack->n_seqs;
    if (n < 1 || s < 1) return bad("pack of %lld tokens, %lld sequences", n, s);
    if (n > max_tokens || s > max_seqs)
        return bad("pack of %lld tokens, %lld sequences; the limits are %lld and %lld", n, s,
                   (long long)max_tokens, (long long)max_seqs);
    if (n > INT32_MAX) return bad("pack of %lld tokens: cu_seqlens has 32 bits", n);
    if (!pack->tokens || !pack->cu_seqlens) return bad("pack without tokens or borders");
    if (pack->cu_seqlens[0] != 0 || pack->cu_seqlens[s] != n)
        return bad("pack of %lld tokens: cu_seqlens goes from %d to %d", n, pack->cu_seqlens[0],
                   pack->cu_seqlens[s]);
    int64_t longest = 0;
    for (int64_t i = 0; i < s; i++) {
        int64_t len = (int64_t)pack->cu_seqlens[i + 1] - pack->cu_seqlens[i];
        if (len < 1)
            return bad("pack: sequence %lld has %lld tokens", (long long)i, (long long)len);
        longest = VNP_MAX(longest, len);
    }
    if (pack->max_len != longest)
        return bad("pack: max_len is %lld, the longest sequence has %lld tokens",
                   (long long)pack->max_len, (long long)longest);
    return VNP_OK;
}

vnp_status vnp_op_check_tokens(const struct vnp_pack *pack, int64_t vocab) {
    for (int64_t i = 0; i < pack->n_tokens; i++) {
        if (pack->tokens[i] >= vocab)
            return bad("token %d at %lld of a pack; the vocabulary has %lld", pack->tokens[i],
                       (long long)i, (long long)vocab);
    }
    return VNP_OK;
}

static bool is_weight_type(enum vnp_dtype dtype) {
    return dtype == VNP_F32 || dtype == VNP_F16 || dtype == VNP_BF16;
}

static vnp_status check_view(const struct vnp_view *v, const char *what, int part) {
    if (!v->data || v->rows < 1 || v->cols < 1 || !is_weight_type(v->dtype))
        return bad("linear: %s of part %d is [%lld][%lld] %s%s", what, part, (long long)v->rows,
                   (long long)v->cols, vnp_dtype_name(v->dtype), v->data ? "" : " without data");
    return VNP_OK;
}

vnp_status vnp_op_check_linear_desc(const struct vnp_linear_desc *d) {
    long long n_out = d->n_out, n_in = d->n_in, rows = 0;
    if (d->n_parts < 1 || !d->weight || n_out < 1 || n_in < 1)
        return bad("linear [%lld][%lld] of %d parts", n_out, n_in, d->n_parts);
    if (d->site != VNP_SITE_ATTN_IN && d->site != VNP_SITE_ATTN_OUT && d->site != VNP_SITE_FFN_IN &&
        d->site != VNP_SITE_FFN_MID)
        return bad("linear [%lld][%lld]: site %d is no operand's", n_out, n_in, (int)d->site);
    for (int p = 0; p < d->n_parts; p++) {
        const struct vnp_view *w = &d->weight[p];
        VNP_TRY(check_view(w, "weight", p));
        if (w->cols != n_in || w->rows > n_out - rows)
            return bad("linear [%lld][%lld]: weight of part %d is [%lld][%lld]", n_out, n_in, p,
                       (long long)w->rows, (long long)w->cols);
        rows += w->rows;
        if (!d->bias) continue;
        const struct vnp_view *b = &d->bias[p];
        if (!b->data != !d->bias[0].data)
            return bad("linear: part %d alone has or lacks a bias", p);
        if (!b->data) continue;
        VNP_TRY(check_view(b, "bias", p));
        if (b->rows * b->cols != w->rows || b->rows != 1)
            return bad("linear: bias of part %d is [%lld][%lld], the weight has %lld rows", p,
                       (long long)b->rows, (long long)b->cols, (long long)w->rows);
    }
    if (rows != n_out) return bad("linear: the parts have %lld rows, not %lld", rows, n_out);
    if (d->gate_rows < 0 || (d->gate_rows > 0 && d->gate_rows * 2 != n_out))
        return bad("linear: %lld gate rows of %lld", (long long)d->gate_rows, n_out);
    return VNP_OK;
}

static vnp_status check_tensor(const char *op, const char *what, const struct vnp_tensor *t,
                               int64_t rows, int64_t cols) {
    if (!t || !t->data || t->rows != rows || t->cols != cols || t->ld < cols)
        return bad("%s: %s is [%lld][%lld] with ld %lld, not [%lld][%lld]%s", op, what,
                   t ? (long long)t->rows : 0LL, t ? (long long)t->cols : 0LL,
                   t ? (long long)t->ld : 0LL, (long long)rows, (long long)cols,
                   t && t->data ? "" : " (no data)");
    return VNP_OK;
}

vnp_status vnp_op_check_linear(int64_t n_out, int64_t n_in, int64_t gate_rows,
                               enum vnp_epilogue epi, const struct vnp_tensor *a,
                               const struct vnp_tensor *out, int64_t n_tokens) {
    bool is_gated = epi == VNP_EPI_GEGLU;
    if ((unsigned)epi > VNP_EPI_GEGLU) return bad("linear: epilogue %d", (int)epi);
    if (is_gated != (gate_rows > 0))
        return bad("linear: epilogue %d on a weight with %lld gate rows", (int)epi,
                   (long long)gate_rows);
    if (!a || a->rows > n_tokens || a->rows < 0)
        return bad("linear: operand of %lld rows, batch of %lld tokens",
                   a ? (long long)a->rows : -1LL, (long long)n_tokens);
    VNP_TRY(check_tensor("linear", "operand", a, a->rows, n_in));
    return check_tensor("linear", "result", out, a->rows, is_gated ? gate_rows : n_out);
}

vnp_status vnp_op_check_embed(const struct vnp_embed_params *p, const struct vnp_tensor *out,
                              int64_t n_tokens) {
    if (!p->table || p->vocab < 1) return bad("embed: table of %lld rows", (long long)p->vocab);
    return check_tensor("embed", "result", out, n_tokens, out ? out->cols : 0);
}

vnp_status vnp_op_check_of_tokens(const struct vnp_tensor *table, const struct vnp_tensor *out,
                                  int64_t n_tokens) {
    if (table->rows < 1 || out->rows != n_tokens || out->cols != table->cols)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "rows of tokens: [%lld][%lld] of a table [%lld][%lld] for %lld tokens",
                        (long long)out->rows, (long long)out->cols, (long long)table->rows,
                        (long long)table->cols, (long long)n_tokens);
    return VNP_OK;
}

vnp_status vnp_op_check_norm(const struct vnp_norm_params *p, const struct vnp_tensor *x,
                             const struct vnp_tensor *out_residual,
                             const struct vnp_tensor *out_operand) {
    if (!p->gamma || !p->beta || !(p->eps >= 0)) return bad("layernorm: parameters are missing");
    if (!x || x->rows < 0 || x->cols < 1) return bad("layernorm: no operand");
    if (!out_residual && !out_operand) return bad("layernorm: no result");
    VNP_TRY(check_tensor("layernorm", "operand", x, x->rows, x->cols));
    if (out_residual) VNP_TRY(check_tensor("layernorm", "result", out_residual, x->rows, x->cols));
    if (out_operand)
        VNP_TRY(check_tensor("layernorm", "operand out", out_operand, x->rows, x->cols));
    return VNP_OK;
}

vnp_status vnp_op_check_pool(const struct vnp_pool_params *p, const struct vnp_tensor *x,
                             const struct vnp_tensor *out, int64_t n_tokens, int64_t n_seqs) {
    if (p->kind != VNP_POOL_MEAN && p->kind != VNP_POOL_CLS)
        return bad("pool: kind %d", (int)p->kind);
    if (p->skip_first < 0 || p->skip_last < 0 || p->max_count < 0)
        return bad("pool: skips %lld and %lld, at most %lld", (long long)p->skip_first,
                   (long long)p->skip_last, (long long)p->max_count);
    VNP_TRY(check_tensor("pool", "operand", x, n_tokens, x ? x->cols : 0));
    return check_tensor("pool", "result", out, n_seqs, x->cols);
}

vnp_status vnp_op_check_attention(const struct vnp_attention_params *p,
                                  const struct vnp_tensor *qkv, const struct vnp_tensor *out,
                                  int64_t n_tokens) {
    if (p->n_heads < 1 || p->head_dim < 1 || p->n_heads > INT32_MAX || p->head_dim > 4096)
        return bad("attention: %lld heads of %lld", (long long)p->n_heads, (long long)p->head_dim);
    if (p->has_rotary && p->head_dim % 2)
        return bad("attention: rotary on heads of odd size %lld", (long long)p->head_dim);
    if (!(p->scale > 0)) return bad("attention: scale %g", (double)p->scale);
    VNP_TRY(check_tensor("attention", "qkv", qkv, n_tokens, 3 * p->n_heads * p->head_dim));
    return check_tensor("attention", "result", out, n_tokens, p->n_heads * p->head_dim);
}

double vnp_op_rotary_freq(int64_t i, int64_t head_dim, enum vnp_dtype freq_dtype) {
    double freq = pow(10000.0, -2.0 * (double)i / (double)head_dim);
    if (freq_dtype == VNP_F16) return (double)vnp_f16_to_f32(vnp_f32_to_f16((float)freq));
    if (freq_dtype == VNP_BF16) return (double)vnp_bf16_to_f32(vnp_f32_to_bf16((float)freq));
    return freq;
}
