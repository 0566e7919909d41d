// SPDX-License-Identifier: MIT
// The suite's cases of linear_qkv and of qkv_of_tokens, tried on backends that have none that turn:
// the host backends behind a table whose linear_qkv is their linear, turned here and rounded. Also
// such as keep activations in E4M3 with a scale a sequence. Then the same broken on purpose, which
// the suite must catch. No test framework: the suite prints TAP itself.
#include "op_plain.h"

#include "cpu/cpu.h"

enum {
    NO_FAULT,
    TURNS_BACK,     /* the rotation's sign */
    LATE_POSITION,  /* positions from 1 */
    PACK_POSITION,  /* positions of the pack */
    WRONG_PARTNER,  /* neighbours turned instead of halves */
    TURNS_VALUES,   /* v too */
    TURNS_TWICE,    /* has_rotary left as it was */
    FREQUENCIES,    /* not rounded */
    SMALL_SCALE,    /* of E4M3: results saturate */
    LARGE_SCALE,    /* of E4M3: results lose digits */
    PACK_SCALE,     /* of E4M3: one for the pack */
    LEAK_OF_VALUES, /* 0 times the next sequence's */
    NEXT_TOKEN,     /* of the table the row behind */
    TOKEN_PLACE,    /* of the table the row of the token's place */
    ONE_BIT,        /* of a row of the table another */
    WRITES_BESIDE,  /* qkv has a column more */
    ROWS_TURN_BACK, /* as above, but in the rows of a table alone */
    ROWS_OF_PACK,
    ROWS_TURN_TWICE,
};

static const struct vnp_pack *pack; /* in flight */

/* ---- the table ------------------------------------------------------------------------------ */

static vnp_status begin(struct vnp_exec *ex, const struct vnp_pack *p) {
    pack = p;
    return real->batch_begin(ex, p);
}

static vnp_status make_tensor(struct vnp_exec *ex, enum vnp_site site, int64_t max_rows,
                              int64_t cols, struct vnp_tensor *out) {
    struct vnp_tensor scale;
    VNP_TRY(real->tensor_create(ex, site, max_rows, cols, out));
    if (!is_narrow) return VNP_OK;
    if (site == VNP_SITE_QKV) out->dtype = VNP_F16;
    if (site != VNP_SITE_ATTN_IN && site != VNP_SITE_ATTN_OUT) return VNP_OK;
    VNP_TRY(real->tensor_create(ex, VNP_SITE_F32, 1, max_rows, &scale));
    out->dtype = VNP_E4M3;
    out->scale = scale.data;
    return VNP_OK;
}

/* A head at position t, wrong as `how` says. */
static void turn_head(const struct vnp_attention_params *p, int how, int64_t t, float *x) {
    int64_t half = p->head_dim / 2;
    enum vnp_dtype type = how == FREQUENCIES ? VNP_F32 : p->freq_dtype;
    for (int64_t i = 0; i < half; i++) {
        float *x1 = how == WRONG_PARTNER ? x + 2 * i : x + i;
        float *x2 = how == WRONG_PARTNER ? x1 + 1 : x1 + half;
        double angle = (double)t * vnp_op_rotary_freq(i, p->head_dim, type);
        double c = cos(angle), s = how == TURNS_BACK ? -sin(angle) : sin(angle);
        double a = (double)*x1, b = (double)*x2;
        *x1 = (float)(a * c - b * s);
        *x2 = (float)(b * c + a * s);
    }
}

/* y, turned, to out. */
static void put_turned(const struct vnp_attention_params *p, int how, struct vnp_tensor *y,
                       struct vnp_tensor *out) {
    int64_t n_parts = how == TURNS_VALUES ? 3 : 2;
    for (int64_t s = 0; p->has_rotary && s < pack->n_seqs; s++)
        for (int64_t row = pack->cu_seqlens[s]; row < pack->cu_seqlens[s + 1]; row++)
            for (int64_t h = 0; h < n_parts * p->n_heads; h++) {
                int64_t t = how == PACK_POSITION ? row : row - pack->cu_seqlens[s];
                turn_head(p, how, t + (how == LATE_POSITION),
                          (float *)y->data + row * y->ld + h * p->head_dim);
            }
    narrowed(y, out);
}

static vnp_status turning_linear(struct vnp_exec *ex, const struct vnp_linear *w,
                                 struct vnp_attention_params *p, const struct vnp_tensor *a,
                                 struct vnp_tensor *out) {
    struct vnp_tensor wide = is_narrow ? widened(a) : *a, y = plain(out);
    vnp_status status = real->linear(ex, w, VNP_EPI_NONE, &wide, &y);
    if (status == VNP_OK) put_turned(p, fault, &y, out);
    if (fault != TURNS_TWICE) p->has_rotary = false;
    if (is_narrow) vnp_free_aligned(wide.data);
    vnp_free_aligned(y.data);
    return status;
}

static vnp_status turning_rows(struct vnp_exec *ex, const struct vnp_tensor *rows,
                               struct vnp_attention_params *p, struct vnp_tensor *out) {
    (void)ex;
    VNP_TRY(vnp_op_check_of_tokens(rows, out, pack->n_tokens));
    struct vnp_tensor y = plain(out);
    int how = fault == ROWS_TURN_BACK ? TURNS_BACK : fault == ROWS_OF_PACK ? PACK_POSITION : fault;
    for (int64_t n = 0; n < out->rows; n++) {
        int64_t of = fault == TOKEN_PLACE ? n % rows->rows : pack->tokens[n];
        if (fault == NEXT_TOKEN) of = (of + 1) % rows->rows;
        float *to = (float *)y.data + n * y.ld;
        memcpy(to, (const float *)rows->data + of * rows->ld, (size_t)y.cols * sizeof *to);
        if (fault == ONE_BIT && n + 1 == out->rows) to[0] = nextafterf(to[0], 1e9f);
    }
    put_turned(p, how, &y, out);
    if (fault == WRITES_BESIDE) ((float *)out->data)[out->cols] = 0;
    if (fault != ROWS_TURN_TWICE) p->has_rotary = false;
    vnp_free_aligned(y.data);
    return VNP_OK;
}

/* E4M3 by the largest value of a sequence. */
static void sequence_scales(const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    float top_of_pack = 0;
    for (int64_t s = 0; s < pack->n_seqs; s++) {
        float top = 0;
        for (int64_t row = pack->cu_seqlens[s]; row < pack->cu_seqlens[s + 1]; row++)
            for (int64_t i = 2 * out->cols; i < qkv->cols; i++) {
                float v = fabsf(((const float *)qkv->data)[row * qkv->ld + i]);
                if (!(v <= top)) top = v;
            }
        top_of_pack = fmaxf(top_of_pack, top);
        if (fault == PACK_SCALE) top = top_of_pack;
        if (fault == SMALL_SCALE) top /= 64;
        if (fault == LARGE_SCALE) top *= 2;
        for (int64_t row = pack->cu_seqlens[s]; row < pack->cu_seqlens[s + 1]; row++)
            out->scale[row] = top > 0 || isnan(top) ? top / 448 : 1;
    }
}

static vnp_status narrow_attention(struct vnp_exec *ex, const struct vnp_attention_params *p,
                                   const struct vnp_tensor *qkv, struct vnp_tensor *out) {
    struct vnp_tensor wide = is_narrow ? widened(qkv) : *qkv, y = is_narrow ? plain(out) : *out;
    vnp_status status = real->attention(ex, p, &wide, &y);
    for (int64_t s = 0; fault == LEAK_OF_VALUES && s + 1 < pack->n_seqs; s++) {
        const float *next = (const float *)wide.data + pack->cu_seqlens[s + 1] * wide.ld;
        ((float *)y.data)[pack->cu_seqlens[s] * y.ld] += 0 * next[2 * y.cols];
    }
    if (!is_narrow) return status;
    sequence_scales(&wide, out);
    narrowed(&y, out);
    vnp_free_aligned(wide.data), vnp_free_aligned(y.data);
    return status;
}

/* ---- runs ----------------------------------------------------------------------------------- */

static void put_ops(void) {
    table.batch_begin = begin;
    table.tensor_create = make_tensor;
    table.linear_qkv = turning_linear;
    table.qkv_of_tokens = turning_rows;
    table.attention = narrow_attention;
}
static int every_case(void) {
    return is_short() ? 29 : 0;
}

static int catches(void) {
    const char *one = "linear_qkv H=1 Dh=16";
    int n_bad = must_fail("a turn backwards", TURNS_BACK, VNP_PREC_FP32, one);
    n_bad += must_fail("positions from 1", LATE_POSITION, VNP_PREC_FP32, one);
    n_bad += must_fail("positions of the pack", PACK_POSITION, VNP_PREC_FP32, one);
    n_bad += must_fail("the wrong partner", WRONG_PARTNER, VNP_PREC_FP32, one);
    n_bad += must_fail("turned values", TURNS_VALUES, VNP_PREC_FP32, one);
    n_bad += must_fail("two turns", TURNS_TWICE, VNP_PREC_FP32, one);
    n_bad += must_fail("frequencies not rounded", FREQUENCIES, VNP_PREC_FP32, one);
    n_bad += must_fail("a turn backwards in FP8", TURNS_BACK, VNP_PREC_FP8, one);
    n_bad += must_fail("positions from 1 in FP8", LATE_POSITION, VNP_PREC_FP8, one);
    n_bad += must_fail("saturated results", SMALL_SCALE, VNP_PREC_FP8, one);
    n_bad += must_fail("a scale above the bound", LARGE_SCALE, VNP_PREC_FP8, one);
    n_bad += must_fail("a scale of the pack", PACK_SCALE, VNP_PREC_FP8, "neighbours H=2 Dh=16");
    n_bad += must_fail("0 times the neighbour", LEAK_OF_VALUES, VNP_PREC_FP8, "neighbours");
    n_bad += must_fail("0 times the neighbour", LEAK_OF_VALUES, VNP_PREC_FP32, "neighbours");
    n_bad += must_fail("the next token's row", NEXT_TOKEN, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("the place's row", TOKEN_PLACE, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("another bit in one row", ONE_BIT, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("a column more", WRITES_BESIDE, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("rows turned backwards", ROWS_TURN_BACK, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("rows by the pack's places", ROWS_OF_PACK, VNP_PREC_FP32, "qkv_of_tokens");
    n_bad += must_fail("rows to be turned again", ROWS_TURN_TWICE, VNP_PREC_FP32, "qkv_of_tokens");
    return n_bad;
}

int main(void) {
    static const char *const kinds[] = {"linear_qkv", "linear_qkv H=", "neighbours"};
    const struct vnp_backend *ref = vnp_ref_backend(), *cpu = vnp_cpu_backend();
    const bool is_quick = is_short();
    int n_bad = 0;
    for (int i = 0; i < (is_quick ? 2 : 3);
         i++) { /* linear_qkv alone: company too, of ops on FP32 tensors */
        if (i != 1) n_bad |= run(ref, VNP_PREC_FP32, kinds[i], true, NULL);
        if (i != 0) n_bad |= run(ref, VNP_PREC_FP8, kinds[i], true, NULL);
        if (i != 0) n_bad |= run(cpu, VNP_PREC_FP32, kinds[i], true, NULL);
        if (i != 1 && strstr(vnp_cpu_features(), "avx512-bf16"))
            n_bad |= run(cpu, VNP_PREC_BF16, kinds[i], true, NULL);
    }
    n_bad |= run(ref, VNP_PREC_FP32, "qkv_of_tokens", true, NULL);
    if (!is_quick) n_bad |= run(ref, VNP_PREC_FP16, "qkv_of_tokens", true, NULL);
    if (!is_quick) n_bad |= catches(); /* about the suite, not about memory */
    printf("1..%d\n", n_lines);
    return n_bad != 0;
}
