/* SPDX-License-Identifier: MIT
 * The conformance suite of qkv_of_tokens, for backends that have it: a table of products, then the
 * rows of a batch's tokens out of it, and attention on them, against the product of the tokens' own
 * operands: the same bits. See op_suite.h. */
#ifndef VNP_OP_SUITE_OF_TOKENS_H
#define VNP_OP_SUITE_OF_TOKENS_H

#include "op_suite_qkv.h"

/* What goes in: an operand for each token of the vocabulary, parameters and stored weights. */
struct suite_of_tokens {
    struct suite_qkv_case c;
    int64_t n_vocab, n_out;
    float *a, *w32, *bias32, slopes[64];
    char *w, *bias;
};

/* The product of every token, in a batch of its own. */
static struct suite_tensor suite_token_table(struct suite *s, const struct suite_of_tokens *m,
                                             const struct vnp_linear *w) {
    const struct vnp_backend *be = s->dut.b;
    enum vnp_site site = be->linear_qkv ? VNP_SITE_F32 : VNP_SITE_QKV;
    int length = (int)m->n_vocab;
    struct suite_batch b = suite_batch(s, 1, &length, 33);
    struct suite_tensor in = suite_tensor(s, &s->dut, VNP_SITE_ATTN_IN, m->n_vocab, m->c.n_in);
    struct suite_tensor table = suite_tensor(s, &s->dut, site, m->n_vocab, m->n_out);
    suite_ok(s, be->batch_begin(s->dut.ex, &b.pack), "batch_begin");
    suite_put(&in, m->a);
    suite_ok(s, be->linear(s->dut.ex, w, VNP_EPI_NONE, &in.t, &table.t), "linear");
    suite_ok(s, be->exec_wait(s->dut.ex), "exec_wait"); /* the pack is borrowed until then */
    suite_batch_free(&b);
    return table;
}

/* The bytes of a QKV tensor, then of attention's result on it, then its scales. */
struct suite_token_bytes {
    char *qkv, *out;
    float *scales;
    bool has_rotary;
};

static struct suite_token_bytes suite_token_run(struct suite *s, const struct suite_of_tokens *m,
                                                const struct vnp_linear *w, const float *slopes,
                                                const struct suite_tensor *table,
                                                struct suite_tensor *in, struct suite_tensor *qkv,
                                                struct suite_tensor *out) {
    const struct vnp_backend *be = s->dut.b;
    struct vnp_attention_params p = suite_qkv_params(&m->c.at, slopes);
    struct suite_token_bytes r;
    suite_poison(qkv), suite_poison(out);
    if (table)
        suite_ok(s, be->qkv_of_tokens(s->dut.ex, &table->t, &p, &qkv->t), "qkv_of_tokens");
    else if (be->linear_qkv)
        suite_ok(s, be->linear_qkv(s->dut.ex, w, &p, &in->t, &qkv->t), "linear_qkv");
    else
        suite_ok(s, be->linear(s->dut.ex, w, VNP_EPI_NONE, &in->t, &qkv->t), "linear");
    r.has_rotary = p.has_rotary;
    r.qkv = suite_get_bytes(qkv);
    suite_ok(s, be->attention(s->dut.ex, &p, &qkv->t, &out->t), "attention");
    r.out = suite_get_bytes(out), r.scales = suite_get_scales(out);
    suite_guards(s, qkv, "qkv"), suite_guards(s, out, "result");
    return r;
}

static void suite_of_tokens_dut(struct suite *s, const struct suite_of_tokens *m,
                                const struct suite_batch *b) {
    const struct vnp_backend *be = s->dut.b;
    int64_t n = b->pack.n_tokens, k = m->c.n_in;
    struct suite_linear_case l = suite_qkv_linear(&m->c, n);
    struct vnp_linear *w = suite_linear_make(s, &s->dut, &l, m->w, m->bias);
    float *slopes = suite_const(s, &s->dut, 1, m->c.at.n_heads, m->slopes),
          *a = suite_floats(n * k);
    if (!w) return;
    struct suite_tensor table = suite_token_table(s, m, w);
    struct suite_tensor in = suite_tensor(s, &s->dut, VNP_SITE_ATTN_IN, n, k);
    struct suite_tensor qkv = suite_tensor(s, &s->dut, VNP_SITE_QKV, n, m->n_out);
    struct suite_tensor out = suite_tensor(s, &s->dut, VNP_SITE_ATTN_OUT, n, m->n_out / 3);
    suite_ok(s, be->batch_begin(s->dut.ex, &b->pack), "batch_begin");
    for (int64_t row = 0; row < n; row++)
        memcpy(a + row * k, m->a + b->tokens[row] * k, (size_t)k * sizeof *a);
    suite_put(&in, a);
    suite_freeze(&table);
    struct suite_token_bytes want = suite_token_run(s, m, w, slopes, NULL, &in, &qkv, &out);
    struct suite_token_bytes got = suite_token_run(s, m, w, slopes, &table, &in, &qkv, &out);
    suite_thaw(s, &table, "the table");
    if (memcmp(got.qkv, want.qkv, suite_bytes(&qkv)) != 0)
        suite_bad(s, "rows of the table differ from the product");
    if (got.has_rotary != want.has_rotary) suite_bad(s, "has_rotary differs");
    if (memcmp(got.out, want.out, suite_bytes(&out)) != 0 ||
        (got.scales && memcmp(got.scales, want.scales, (size_t)n * sizeof(float)) != 0))
        suite_bad(s, "attention on them differs");
    qkv.t.cols--;
    struct vnp_attention_params p = suite_qkv_params(&m->c.at, slopes);
    if (be->qkv_of_tokens(s->dut.ex, &table.t, &p, &qkv.t) != VNP_INVAL)
        suite_bad(s, "a table of other columns was not refused");
    free(got.qkv), free(got.out), free(got.scales), free(want.qkv), free(want.out);
    free(want.scales), free(a);
    be->linear_destroy(s->dut.dev, w), be->const_destroy(s->dut.dev, slopes);
}

static void suite_of_tokens(struct suite *s, struct suite_qkv_case c, int64_t n_vocab) {
    const struct suite_attention_case *at = &c.at;
    if (!suite_begin(s, "qkv_of_tokens V=%lld H=%lld Dh=%lld K=%lld %s S=%d first=%d bias=%d %s",
                     (long long)n_vocab, (long long)at->n_heads, (long long)at->head_dim,
                     (long long)c.n_in, suite_position_names[at->positions], at->n_seqs,
                     at->lengths[0], c.has_bias, vnp_dtype_name(c.stored)))
        return;
    struct suite_batch b = suite_batch(s, at->n_seqs, at->lengths, (int)n_vocab);
    int64_t n_out = 3 * at->n_heads * at->head_dim;
    struct suite_of_tokens m = {.c = c, .n_vocab = n_vocab, .n_out = n_out};
    m.a = suite_normals(s, n_vocab * c.n_in, 1), m.bias32 = suite_normals(s, n_out, 0.5f);
    m.w32 = suite_normals(s, n_out * c.n_in, (float)(1 / sqrt((double)c.n_in)));
    m.w = suite_stored(c.stored, n_out * c.n_in, m.w32);
    m.bias = suite_stored(c.stored, n_out, m.bias32);
    suite_slopes(at->n_heads, m.slopes);
    if (suite_exec(s, &b.pack, VNP_MAX(c.n_in, n_out))) suite_of_tokens_dut(s, &m, &b);
    suite_exec_end(s);
    free(m.a), free(m.w32), free(m.bias32), free(m.w), free(m.bias);
    suite_batch_free(&b);
    suite_end(s);
}

static void suite_of_tokens_cases(struct suite *s) {
    static const int head_dims[] = {16, 24, 32, 64, 128};
    static const int short_ones[] = {33, 1, 2, 17, 64, 3, 50}, long_ones[] = {300, 1, 190, 65};
    static const enum vnp_dtype stored[] = {VNP_F32, VNP_F16, VNP_BF16};
    if (!s->dut.b->qkv_of_tokens) return;
    for (size_t k = 0; k < VNP_COUNT(head_dims); k++)
        for (int p = SUITE_NONE; p <= SUITE_ROTARY_F16; p++)
            for (int is_long = 0; is_long < 2; is_long++) {
                size_t turn = 8 * k + 2 * (size_t)p + (size_t)is_long;
                struct suite_attention_case at = {turn % 3 == 0 ? 5 : 2,
                                                  head_dims[k],
                                                  (enum suite_positions)p,
                                                  is_long ? (int)VNP_COUNT(long_ones)
                                                          : (int)VNP_COUNT(short_ones),
                                                  is_long ? long_ones : short_ones,
                                                  1,
                                                  false};
                struct suite_qkv_case c = {at, turn % 2 ? 96 : 64, turn % 2 ? 3 : 1, turn % 5 != 2,
                                           stored[turn % 3]};
                if (s->config->is_quick && (k + (size_t)p + (size_t)is_long) % 3) continue;
                suite_of_tokens(s, c, turn % 4 == 1 ? 2 : 33);
            }
}

#endif
