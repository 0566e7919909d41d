/* SPDX-License-Identifier: MIT
 * The conformance suite of the op contract: compares any backend with the reference over shapes
 * that hurt. Needs no test framework, so that it also builds into a program for a machine with a
 * device; include it once, link the library, call op_suite_run. Prints one TAP line a case.
 *
 * How it looks at a backend: every tensor is a window inside a larger one (rows before and behind,
 * columns beside), the whole filled with 0xff bytes, which are NaN in every float type. After an
 * op the window must hold what the reference says, all around it must still be 0xff, and inputs
 * must be unchanged. Operands are put in already rounded to the tensor's own type, so both sides
 * compute on the same values.
 *
 * Tolerance, per element: what FP32 sums of that length may lose, times the sum of the magnitudes
 * that went in, plus half a step of the result's own type. The worst element is reported as its
 * share of its tolerance. */
#ifndef VNP_OP_SUITE_H
#define VNP_OP_SUITE_H

#include "op_suite_company.h"
#include "op_suite_of_tokens.h"

/* ---- the lists ----------------------------------------------------------------------------- */

static void suite_rows_cases(struct suite *s) {
    static const int64_t dims[] = {16, 24, 64, 80, 96, 256, 320, 480, 768};
    static const int64_t rows[] = {1, 2, 7, 16, 33, 61};
    for (size_t i = 0; i < VNP_COUNT(dims); i++) {
        for (int k = 0; k < 4; k++) suite_embed(s, dims[i], k & 1, k & 2);
        for (size_t r = 0; r < VNP_COUNT(rows); r++) {
            suite_norm(s, rows[r], dims[i], VNP_SITE_ATTN_IN, 1e-5f, false);
            suite_norm(s, rows[r], dims[i], VNP_SITE_FFN_IN, 1e-12f, true);
        }
        for (int site = 0; site < 2; site++) {
            enum vnp_site at = site ? VNP_SITE_F32 : VNP_SITE_RESIDUAL;
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 1, 1, 1024}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 0, 0, 0}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_MEAN, 2, 1, 5}, dims[i], at);
            suite_pool(s, (struct vnp_pool_params){VNP_POOL_CLS, 0, 0, 0}, dims[i], at);
        }
    }
}

static void suite_linear_cases(struct suite *s) {
    static const int64_t rows[] = {1, 2, 5, 16, 31, 64, 65, 129};
    static const int64_t dims[] = {16, 24, 48, 64, 80, 96, 128, 320};
    static const enum vnp_dtype stored[] = {VNP_F32, VNP_F16, VNP_BF16};
    for (size_t i = 0; i < VNP_COUNT(dims); i++) {
        for (size_t r = 0; r < VNP_COUNT(rows); r++) {
            if (s->config->is_quick && (i + r) % 3) continue;
            int64_t d = dims[i], n = rows[r];
            enum vnp_dtype type = stored[(i + r) % 3];
            suite_linear(s, (struct suite_linear_case){n, d, 3 * d, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                                       VNP_SITE_QKV, 3, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 3 * d, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                                       VNP_SITE_QKV, 1, false, type});
            suite_linear(s, (struct suite_linear_case){n, d, d, VNP_EPI_RESIDUAL, VNP_SITE_ATTN_OUT,
                                                       VNP_SITE_RESIDUAL, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 4 * d, VNP_EPI_GELU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 8 * d, VNP_EPI_GEGLU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, false, type});
            suite_linear(s,
                         (struct suite_linear_case){n, 4 * d, d, VNP_EPI_RESIDUAL, VNP_SITE_FFN_MID,
                                                    VNP_SITE_RESIDUAL, 1, true, type});
            suite_linear(s,
                         (struct suite_linear_case){n, 3 * d, d, VNP_EPI_RESIDUAL, VNP_SITE_FFN_MID,
                                                    VNP_SITE_RESIDUAL, 1, false, type});
            suite_linear(s, (struct suite_linear_case){n, d, 33, VNP_EPI_NONE, VNP_SITE_FFN_IN,
                                                       VNP_SITE_F32, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, d, VNP_EPI_GELU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_F32, 1, true, type});
            suite_linear(s, (struct suite_linear_case){n, d, 6 * d, VNP_EPI_GEGLU, VNP_SITE_FFN_IN,
                                                       VNP_SITE_FFN_MID, 1, true, type});
        }
    }
}

static void suite_linear_cases_large(struct suite *s) {
    /* 8.5 MB of FP32, more than caches keep: results may be written another way */
    suite_linear(s, (struct suite_linear_case){520, 16, 4104, VNP_EPI_NONE, VNP_SITE_ATTN_IN,
                                               VNP_SITE_QKV, 3, true, VNP_F16});
}

static void suite_attention_cases(struct suite *s) {
    static const int small[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    static const int tiles[] = {33, 1, 31, 32, 64, 2, 63, 65, 1, 127, 128, 129};
    static const int primes[] = {61, 97, 53, 1, 251};
    static const int borders[] = {176, 177, 191, 192, 193, 256, 257}; /* of ways to go about it */
    static const int one[] = {1}, two[] = {2}, longest[] = {517};
    static const struct {
        int n;
        const int *lengths;
    } packs[] = {{17, small}, {12, tiles},  {5, primes}, {1, one},
                 {1, two},    {1, longest}, {7, borders}};
    static const int64_t head_dims[] = {16, 24, 32, 64, 128};
    for (size_t k = 0; k < VNP_COUNT(head_dims); k++) {
        for (int64_t h = 1; h <= 5; h++) {
            for (size_t i = 0; i < VNP_COUNT(packs); i++) {
                if (s->config->is_quick && ((size_t)h + i + k) % 3) continue;
                bool is_slow = packs[i].lengths == longest || packs[i].lengths == borders;
                if (is_slow && h > (s->config->is_quick ? 1 : 2)) continue;
                for (int p = SUITE_NONE; p <= SUITE_ROTARY_F16; p++) {
                    if (p == SUITE_ROTARY_F16 && packs[i].n == 1) continue;
                    struct suite_attention_case c = {
                        h, head_dims[k], (enum suite_positions)p, packs[i].n, packs[i].lengths,
                        1, false};
                    suite_attention(s, c);
                    if (h != 2) continue;
                    c.size = 4;
                    suite_attention(s, c);
                    c.size = 1, c.is_equal = true;
                    suite_attention(s, c);
                }
            }
        }
    }
}

static void suite_qkv_cases(struct suite *s) {
    static const int small[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    static const int tiles[] = {33, 1, 31, 32, 64, 2, 63, 65, 1, 127, 128, 129};
    static const int kinds[] = {64, 100, 40, 193, 65, 150, 1, 300, 128, 192, 1000, 129};
    static const int one[] = {1}, borders[] = {128, 129}; /* whole tiles of rows, and one more */
    static const struct {
        int n;
        const int *lengths;
    } packs[] = {{17, small}, {12, tiles}, {12, kinds}, {1, one}, {1, borders}, {1, borders + 1}};
    static const int64_t head_dims[] = {16, 24, 32, 64, 128};
    static const int64_t n_in[] = {32, 80, 136, 24, 64, 48};
    static const enum vnp_dtype stored[] = {VNP_F32, VNP_F16, VNP_BF16};
    static const struct {
        int64_t n_heads, head_dim;
    } wide[] = {{20, 16}, {20, 32}, {20, 64}, {12, 64}};
    if (!s->dut.b->linear_qkv) return;
    size_t turn = 0;
    for (size_t k = 0; k < VNP_COUNT(head_dims); k++)
        for (int64_t h = 1; h <= 5; h++)
            for (size_t i = 0; i < VNP_COUNT(packs); i++)
                for (int p = SUITE_NONE; p <= SUITE_ROTARY_F16; p++, turn++) {
                    if (s->config->is_quick && ((size_t)h + i + k) % 3) continue;
                    if (packs[i].lengths == kinds && (h > 2 || p == SUITE_NONE)) continue;
                    struct suite_attention_case at = {
                        h, head_dims[k], (enum suite_positions)p, packs[i].n, packs[i].lengths,
                        1, false};
                    suite_linear_qkv(s, (struct suite_qkv_case){at, n_in[turn % VNP_COUNT(n_in)],
                                                                turn % 4 ? 3 : 1, turn % 4 != 1,
                                                                stored[turn % VNP_COUNT(stored)]});
                }
    for (size_t k = 0; k < VNP_COUNT(wide); k++) {
        enum suite_positions p = wide[k].n_heads == 12 ? SUITE_ALIBI : SUITE_ROTARY_F16;
        struct suite_attention_case at = {
            wide[k].n_heads, wide[k].head_dim, p, (int)VNP_COUNT(tiles), tiles, 1, false};
        int64_t d = wide[k].n_heads * wide[k].head_dim;
        suite_linear_qkv(s, (struct suite_qkv_case){at, d, 3, true, VNP_F16});
    }
    for (size_t k = 0; k < VNP_COUNT(head_dims); k++)
        for (int p = SUITE_ALIBI; p <= SUITE_ROTARY; p++)
            if (!s->config->is_quick || k % 3 == 0)
                suite_neighbours(s, 2, head_dims[k], (enum suite_positions)p);
    if (!s->config->is_quick) suite_neighbours(s, 20, 64, SUITE_ROTARY);
}

/* Runs everything; returns 0 when nothing failed. The caller prints the plan "1..n" if it wants. */
static int op_suite_run(const struct op_suite_config *config, int *n_passed, int *n_failed) {
    struct suite s = {.config = config, .random = config->seed ? config->seed : 20240229};
    struct vnp_device_options ref = config->device;
    s.ref.b = vnp_ref_backend();
    s.dut.b = config->backend;
    s.dut.config = config;
    ref.is_emulation = ref.precision != VNP_PREC_FP32;
    ref.idx_device = ref.n_threads = 0;
    s.out = config->out ? config->out : stdout;
    fprintf(s.out, "# op suite: %s, %s, seed %llu\n", s.dut.b->name,
            vnp_precision_name(ref.precision), (unsigned long long)s.random);
    if (vnp_backend_check(s.dut.b, VNP_NEED_ENCODER) != VNP_OK ||
        s.ref.b->device_open(&ref, &s.ref.dev) != VNP_OK ||
        s.dut.b->device_open(&config->device, &s.dut.dev) != VNP_OK) {
        fprintf(s.out, "not ok 1 - open %s: %s\n", s.dut.b->name, vnp_error_last()->text);
        s.ref.b->device_close(s.ref.dev);
        *n_passed = 0, *n_failed = 1;
        return 1;
    }
    suite_refusals(&s);
    suite_rows_cases(&s);
    suite_linear_cases(&s);
    suite_linear_cases_large(&s);
    suite_attention_cases(&s);
    suite_qkv_cases(&s);
    suite_of_tokens_cases(&s);
    suite_linear_norm_cases(&s);
    for (int is_plain = 1; is_plain >= 0; is_plain--) {
        suite_company(&s, 64, 2, 128, false, is_plain, false);
        suite_company(&s, 96, 6, 384, true, is_plain, false);
        suite_company(&s, 256, 4, 1024, false, is_plain, false);
        suite_company(&s, 96, 6, 384, true, is_plain, true);
        if (!config->is_quick || !config->backend->is_host) /* a minute on a host */
            suite_company(&s, 768, 12, 256, true, is_plain, true);
    }
    for (int i = 0; i < 3; i++)
        suite_classify(&s, (int64_t[]){64, 320, 3328}[i], (int64_t[]){8, 64, 512}[i], 13);
    s.ref.b->device_close(s.ref.dev);
    s.dut.b->device_close(s.dut.dev);
    *n_passed = s.n_passed, *n_failed = s.n_failed;
    return s.n_failed != 0;
}

#endif
