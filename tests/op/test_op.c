// SPDX-License-Identifier: MIT
// op: conversions over every code and every tie between codes, names, and the shape checks.
#include "op/op.h"
#include "ref/ref.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* A narrow type by its definition: sign, exponent, mantissa. */
struct narrow {
    int n_man, bias;
    uint32_t largest, n_codes; /* largest finite positive code; codes without the sign */
    uint32_t (*narrow)(float x);
    float (*widen)(uint32_t code);
};

static uint32_t to_bf16(float x) {
    return vnp_f32_to_bf16(x);
}
static float from_bf16(uint32_t c) {
    return vnp_bf16_to_f32((uint16_t)c);
}
static uint32_t to_f16(float x) {
    return vnp_f32_to_f16(x);
}
static float from_f16(uint32_t c) {
    return vnp_f16_to_f32((uint16_t)c);
}
static uint32_t to_e4m3(float x) {
    return vnp_f32_to_e4m3(x);
}
static float from_e4m3(uint32_t c) {
    return vnp_e4m3_to_f32((uint8_t)c);
}

static const struct narrow types[] = {
    {7, 127, 0x7f7f, 0x8000, to_bf16, from_bf16},
    {10, 15, 0x7bff, 0x8000, to_f16, from_f16},
    {3, 7, 0x7e, 0x80, to_e4m3, from_e4m3},
};

static double value_of(const struct narrow *t, uint32_t code) {
    uint32_t man = code & ((1u << t->n_man) - 1), e = code >> t->n_man;
    if (e == 0) return ldexp((double)man, 1 - t->bias - t->n_man);
    return ldexp((double)(man | (1u << t->n_man)), (int)e - t->bias - t->n_man);
}

static void test_every_code(void **state) {
    (void)state;
    for (size_t i = 0; i < VNP_COUNT(types); i++) {
        const struct narrow *t = &types[i];
        for (uint32_t code = 0; code <= t->largest; code++) {
            float x = t->widen(code);
            assert_true((double)x == value_of(t, code));
            assert_int_equal(t->narrow(x), code);
            assert_int_equal(t->narrow(-x), code | t->n_codes);
            assert_int_equal(bits_of(t->widen(code | t->n_codes)), bits_of(-x));
        }
    }
}

/* Between neighbours: below the middle goes down, above goes up, the middle to the even code. */
static void test_every_tie(void **state) {
    (void)state;
    for (size_t i = 0; i < VNP_COUNT(types); i++) {
        const struct narrow *t = &types[i];
        for (uint32_t code = 0; code < t->largest; code++) {
            double a = value_of(t, code), b = value_of(t, code + 1);
            float middle = (float)((a + b) / 2), up = nextafterf(middle, INFINITY);
            float down = nextafterf(middle, 0);
            if ((double)middle != (a + b) / 2) fail_msg("no FP32 between %g and %g", a, b);
            assert_int_equal(t->narrow(middle), code + (code & 1));
            if (down > (float)a) assert_int_equal(t->narrow(down), code);
            assert_int_equal(t->narrow(up), code + 1);
            assert_int_equal(t->narrow(-middle), (code + (code & 1)) | t->n_codes);
        }
    }
}

static void test_beyond(void **state) {
    (void)state;
    assert_int_equal(vnp_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(vnp_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(vnp_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(vnp_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(vnp_f32_to_f16(0x1p-149f), 0);
    assert_int_equal(vnp_f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(vnp_f32_to_bf16(3.4028235e38f), 0x7f80);
    assert_int_equal(vnp_f32_to_bf16(0x1p-149f), 0);
    assert_int_equal(vnp_f32_to_e4m3(INFINITY), 0x7e);
    assert_int_equal(vnp_f32_to_e4m3(-1e9f), 0xfe);
    assert_int_equal(vnp_f32_to_e4m3(464.0f), 0x7e);
    assert_int_equal(vnp_f32_to_e4m3(1e-30f), 0);
    assert_true(isinf(vnp_f16_to_f32(0x7c00)) && vnp_f16_to_f32(0xfc00) < 0);
    /* every NaN stays a NaN and keeps its sign */
    for (uint32_t code = 0x7c01; code <= 0x7fff; code++) {
        assert_true(isnan(vnp_f16_to_f32((uint16_t)code)));
        assert_true(isnan(vnp_f16_to_f32((uint16_t)(code | 0x8000))));
    }
    for (uint32_t man = 1; man < 0x800000; man += 0x7ff) {
        uint32_t u = 0xff800000u | man;
        float x;
        memcpy(&x, &u, sizeof x);
        assert_true(isnan(vnp_bf16_to_f32(vnp_f32_to_bf16(x))));
        assert_true(isnan(vnp_f16_to_f32(vnp_f32_to_f16(x))));
        assert_true(isnan(vnp_e4m3_to_f32(vnp_f32_to_e4m3(x))));
        assert_true(vnp_f32_to_e4m3(x) == 0xff && vnp_f32_to_f16(x) & 0x8000);
    }
}

static void test_convert_arrays(void **state) {
    (void)state;
    uint8_t bytes[1 + 64];
    float out[8];
    uint16_t half[8];
    for (int i = 0; i < 8; i++) half[i] = vnp_f32_to_f16((float)i * 0.5f - 1);
    memcpy(bytes + 1, half, sizeof half); /* not aligned */
    vnp_convert_to_f32(VNP_F16, bytes + 1, 8, out);
    for (int i = 0; i < 8; i++) assert_true(out[i] == (float)i * 0.5f - 1);
    int64_t wide[3] = {-5, 0, 7};
    memcpy(bytes + 1, wide, sizeof wide);
    vnp_convert_to_f32(VNP_I64, bytes + 1, 3, out);
    assert_true(out[0] == -5 && out[1] == 0 && out[2] == 7);
    vnp_convert_to_f32(VNP_BOOL, "\0\1\2", 3, out);
    assert_true(out[0] == 0 && out[1] == 1 && out[2] == 1);
}

static void test_names(void **state) {
    (void)state;
    enum vnp_precision p = VNP_PREC_FP32;
    for (int i = 0; i < VNP_PREC_COUNT; i++) {
        const char *name = vnp_precision_name((enum vnp_precision)i);
        assert_int_equal(vnp_precision_parse(name, &p), VNP_OK);
        assert_int_equal(p, i);
    }
    assert_int_equal(vnp_precision_parse("BF16", &p), VNP_OK);
    assert_int_equal(p, VNP_PREC_BF16);
    assert_int_equal(vnp_precision_parse("bf16x", &p), VNP_INVAL);
    assert_int_equal(vnp_precision_parse(NULL, &p), VNP_INVAL);
    assert_int_equal(vnp_dtype_bytes(VNP_BF16), 2);
    assert_int_equal(vnp_dtype_bytes(VNP_DTYPE_NONE), 0);
    assert_string_equal(vnp_dtype_name(VNP_E4M3), "e4m3");
}

static void test_pack_checks(void **state) {
    (void)state;
    uint16_t tokens[6] = {0, 1, 2, 3, 4, 5};
    int32_t cu[4] = {0, 2, 3, 6}, empty[4] = {0, 3, 3, 6}, shifted[4] = {1, 2, 3, 6};
    struct vnp_pack pack = {6, 3, 3, tokens, cu};
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_OK);
    assert_int_equal(vnp_op_check_pack(&pack, 5, 3), VNP_INVAL);
    assert_int_equal(vnp_op_check_pack(&pack, 6, 2), VNP_INVAL);
    pack.max_len = 4;
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_INVAL);
    pack.max_len = 3, pack.cu_seqlens = empty;
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_INVAL);
    pack.cu_seqlens = shifted;
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_INVAL);
    pack.cu_seqlens = cu, pack.n_tokens = 0;
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_INVAL);
    pack.n_tokens = 6, pack.tokens = NULL;
    assert_int_equal(vnp_op_check_pack(&pack, 6, 3), VNP_INVAL);
    pack.tokens = tokens;
    assert_int_equal(vnp_op_check_tokens(&pack, 6), VNP_OK);
    assert_int_equal(vnp_op_check_tokens(&pack, 5), VNP_INVAL);
}

static void test_linear_checks(void **state) {
    (void)state;
    float data[64] = {0};
    struct vnp_view w[2] = {{data, VNP_F32, 3, 4}, {data, VNP_F32, 5, 4}};
    struct vnp_view b[2] = {{data, VNP_F32, 1, 3}, {data, VNP_F32, 1, 5}};
    struct vnp_linear_desc desc = {w, b, 2, 8, 4, 0, VNP_SITE_ATTN_IN};
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_OK);
    b[1].data = NULL;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    desc.bias = NULL;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_OK);
    desc.n_out = 9;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    desc.n_out = 7;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    desc.n_out = 8, desc.gate_rows = 3;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    desc.gate_rows = 4;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_OK);
    desc.site = VNP_SITE_RESIDUAL;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    desc.site = VNP_SITE_FFN_IN, w[0].dtype = VNP_I32;
    assert_int_equal(vnp_op_check_linear_desc(&desc), VNP_INVAL);
    struct vnp_tensor a = {data, VNP_F32, 2, 4, 4, NULL}, out = {data, VNP_F32, 2, 8, 8, NULL};
    assert_int_equal(vnp_op_check_linear(8, 4, 0, VNP_EPI_NONE, &a, &out, 2), VNP_OK);
    assert_int_equal(vnp_op_check_linear(8, 4, 0, VNP_EPI_NONE, &a, &out, 1), VNP_INVAL);
    assert_int_equal(vnp_op_check_linear(8, 4, 4, VNP_EPI_NONE, &a, &out, 2), VNP_INVAL);
    assert_int_equal(vnp_op_check_linear(8, 4, 4, VNP_EPI_GEGLU, &a, &out, 2), VNP_INVAL);
    out.cols = 4;
    assert_int_equal(vnp_op_check_linear(8, 4, 4, VNP_EPI_GEGLU, &a, &out, 2), VNP_OK);
    out.ld = 3;
    assert_int_equal(vnp_op_check_linear(8, 4, 4, VNP_EPI_GEGLU, &a, &out, 2), VNP_INVAL);
}

static void test_backend_checks(void **state) {
    (void)state;
    struct vnp_backend b = *vnp_ref_backend();
    unsigned all = VNP_NEED_ENCODER | VNP_NEED_CLASSIFIER;
    assert_int_equal(vnp_backend_check(&b, all), VNP_OK);
    assert_int_equal(vnp_backend_check(NULL, all), VNP_UNSUPPORTED);
    b.attention = NULL;
    assert_int_equal(vnp_backend_check(&b, all), VNP_UNSUPPORTED);
    assert_string_equal(vnp_error_last()->text, "the ref backend has no attention");
    assert_int_equal(vnp_backend_check(&b, VNP_NEED_CLASSIFIER), VNP_OK);
    b.version++;
    assert_int_equal(vnp_backend_check(&b, VNP_NEED_CLASSIFIER), VNP_MISMATCH);
}

/* What the backends in host memory share. */
static void host_sizes(void **state) {
    (void)state;
    struct vnp_exec_limits l = {.max_tokens = 16, .max_seqs = 16, .max_cols = 8};
    assert_int_equal(vnp_op_check_limits(&l), VNP_OK);
    l.max_seqs = 17; /* more sequences than tokens */
    assert_int_equal(vnp_op_check_limits(&l), VNP_INVAL);
    l = (struct vnp_exec_limits){.max_tokens = 16, .max_seqs = 1};
    assert_int_equal(vnp_op_check_limits(&l), VNP_INVAL);
    size_t n = 0;
    assert_int_equal(vnp_op_tensor_bytes(VNP_SITE_QKV, VNP_BF16, 3, 5, &n), VNP_OK);
    assert_int_equal(n, 30);
    assert_int_equal(vnp_op_tensor_bytes(VNP_SITE_COUNT, VNP_F32, 3, 5, &n), VNP_INVAL);
    assert_int_equal(vnp_op_tensor_bytes(VNP_SITE_F32, VNP_F32, 0, 5, &n), VNP_INVAL);
    assert_int_equal(vnp_op_tensor_bytes(VNP_SITE_F32, VNP_F32, INT64_MAX, 4, &n), VNP_INVAL);
    const uint16_t values[2] = {0x3c00, 0xc000}; /* 1, -2 */
    struct vnp_view v = {.data = values, .dtype = VNP_F16, .rows = 1, .cols = 2};
    float *out;
    assert_int_equal(vnp_op_host_const_create(NULL, &v, &out), VNP_OK);
    assert_true(out[0] == 1.0f && out[1] == -2.0f);
    vnp_op_host_const_destroy(NULL, out);
    v.rows = 0;
    assert_int_equal(vnp_op_host_const_create(NULL, &v, &out), VNP_INVAL);
    assert_null(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code),    cmocka_unit_test(test_every_tie),
        cmocka_unit_test(test_beyond),        cmocka_unit_test(test_convert_arrays),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_pack_checks),
        cmocka_unit_test(test_linear_checks), cmocka_unit_test(test_backend_checks),
        cmocka_unit_test(host_sizes),
    };
    return cmocka_run_group_tests_name("op", tests, NULL, NULL);
}
