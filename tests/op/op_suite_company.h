/* SPDX-License-Identifier: MIT
 * The conformance suite's chain of ops as an encoder calls them: a sequence has the same bits
 * alone, in any batch, in any order and at any number of threads. See op_suite.h. */
#ifndef VNP_OP_SUITE_COMPANY_H
#define VNP_OP_SUITE_COMPANY_H

#include "op_suite_norm_rows.h"

/* ---- company ------------------------------------------------------------------------------- */

struct suite_chain {
    int64_t d, h, f, vocab;
    bool is_gated; /* DNABERT-like: ALiBi and a gated product; else rotary and GELU */
    bool is_plain; /* linear and a rotating attention, though the backend has linear_qkv */
    bool is_post;  /* post-norm, with linear_norm */
    float *table, *wqkv, *wo, *wup, *wdown, *ones, *slopes;
};

/* The layer itself. w: qkv, out, up, down; t: x, the operand of qkv, qkv, attention's result, the
 * operand of up, the operand of down. */
static bool suite_chain_layer(struct suite *s, struct suite_side *side, const struct suite_chain *c,
                              struct vnp_linear **w, struct vnp_attention_params *pa,
                              const struct vnp_norm_params *pn, struct vnp_tensor *t) {
    const struct vnp_backend *b = side->b;
    struct vnp_exec *ex = side->ex;
    enum vnp_epilogue up = c->is_gated ? VNP_EPI_GEGLU : VNP_EPI_GELU;
    bool ok = suite_ok(s, b->layernorm(ex, pn, &t[0], c->is_post ? &t[0] : NULL, &t[1]), "norm");
    if (b->linear_qkv && !c->is_plain)
        ok = ok && suite_ok(s, b->linear_qkv(ex, w[0], pa, &t[1], &t[2]), "linear_qkv");
    else
        ok = ok && suite_ok(s, b->linear(ex, w[0], VNP_EPI_NONE, &t[1], &t[2]), "qkv");
    ok = ok && suite_ok(s, b->attention(ex, pa, &t[2], &t[3]), "attention");
    if (c->is_post)
        return ok && suite_ok(s, b->linear_norm(ex, w[1], pn, &t[3], &t[0], &t[4]), "out") &&
               suite_ok(s, b->linear(ex, w[2], up, &t[4], &t[5]), "up") &&
               suite_ok(s, b->linear_norm(ex, w[3], pn, &t[5], &t[0], NULL), "down");
    return ok && suite_ok(s, b->linear(ex, w[1], VNP_EPI_RESIDUAL, &t[3], &t[0]), "out") &&
           suite_ok(s, b->layernorm(ex, pn, &t[0], NULL, &t[4]), "layernorm") &&
           suite_ok(s, b->linear(ex, w[2], up, &t[4], &t[5]), "up") &&
           suite_ok(s, b->linear(ex, w[3], VNP_EPI_RESIDUAL, &t[5], &t[0]), "down");
}

/* One layer over a pack on a fresh context: pooled [S][D] and every row [N][D]. */
static bool suite_chain_run(struct suite *s, struct suite_side *side, const struct suite_chain *c,
                            const struct vnp_pack *pack, float *pooled, float *rows) {
    const struct vnp_backend *b = side->b;
    int64_t d = c->d, n = pack->n_tokens, n_up = c->is_gated ? 2 * c->f : c->f;
    struct vnp_exec_limits limits = {n, pack->n_seqs, VNP_MAX(3 * d, n_up)};
    struct {
        const float *w;
        int64_t n_out, n_in, gate;
        enum vnp_site site;
    } lin[4] = {{c->wqkv, 3 * d, d, 0, VNP_SITE_ATTN_IN},
                {c->wo, d, d, 0, VNP_SITE_ATTN_OUT},
                {c->wup, n_up, d, c->is_gated ? c->f : 0, VNP_SITE_FFN_IN},
                {c->wdown, d, c->f, 0, VNP_SITE_FFN_MID}};
    struct {
        enum vnp_site site;
        int64_t cols;
    } site[6] = {{VNP_SITE_RESIDUAL, d}, {VNP_SITE_ATTN_IN, d}, {VNP_SITE_QKV, 3 * d},
                 {VNP_SITE_ATTN_OUT, d}, {VNP_SITE_FFN_IN, d},  {VNP_SITE_FFN_MID, c->f}};
    struct vnp_linear *w[4] = {NULL};
    struct vnp_tensor t[6], out;
    bool ok = suite_ok(s, b->exec_create(side->dev, &limits, &side->ex), "exec_create");
    if (!ok) return false;
    for (int i = 0; i < 6; i++)
        ok = ok && suite_ok(s, b->tensor_create(side->ex, site[i].site, n, site[i].cols, &t[i]),
                            "tensor");
    ok = ok &&
         suite_ok(s, b->tensor_create(side->ex, VNP_SITE_F32, pack->n_seqs, d, &out), "tensor");
    for (int i = 0; i < 4; i++) {
        struct vnp_view v = {lin[i].w, VNP_F32, lin[i].n_out, lin[i].n_in};
        struct vnp_linear_desc desc = {&v,          NULL,        1,          lin[i].n_out,
                                       lin[i].n_in, lin[i].gate, lin[i].site};
        ok = ok && suite_ok(s, b->linear_create(side->dev, &desc, &w[i]), "linear_create");
    }
    float *table = suite_const(s, side, c->vocab, d, c->table),
          *ones = suite_const(s, side, 1, d, c->ones);
    float *slopes = suite_const(s, side, 1, c->h, c->slopes);
    struct vnp_embed_params pe = {table, NULL, c->vocab, !c->is_gated, 32};
    struct vnp_norm_params pn = {ones, ones, 1e-5f};
    struct vnp_attention_params pa = {c->h,
                                      d / c->h,
                                      (float)(1 / sqrt((double)(d / c->h))),
                                      !c->is_gated,
                                      c->is_gated ? slopes : NULL,
                                      VNP_F32};
    struct vnp_pool_params pp = {VNP_POOL_MEAN, 0, 0, 0};
    ok = ok && suite_ok(s, b->batch_begin(side->ex, pack), "batch_begin");
    ok = ok && suite_ok(s, b->embed(side->ex, &pe, &t[0]), "embed");
    ok = ok && suite_chain_layer(s, side, c, w, &pa, &pn, t);
    ok = ok && suite_ok(s, b->pool(side->ex, &pp, &t[0], &out), "pool");
    ok = ok && suite_ok(s, b->read_f32(side->ex, &out, pooled), "read_f32");
    ok = ok && suite_ok(s, b->read_f32(side->ex, &t[0], rows), "read_f32");
    ok = suite_ok(s, b->exec_wait(side->ex), "exec_wait") && ok;
    for (int i = 0; i < 4; i++) b->linear_destroy(side->dev, w[i]);
    b->const_destroy(side->dev, table), b->const_destroy(side->dev, ones),
        b->const_destroy(side->dev, slopes);
    b->exec_destroy(side->ex);
    side->ex = NULL;
    return ok;
}

#define SUITE_N_SEQS 21

struct suite_company {
    struct suite_batch all; /* the sequences in their own order */
    float *pooled, *rows;   /* what each gives alone */
};

/* The sequences in the order given (indices may repeat) must give the bits they give alone. */
static void suite_company_check(struct suite *s, struct suite_side *side,
                                const struct suite_chain *c, const struct suite_company *m,
                                int n_seqs, const int *order, const char *what) {
    int lengths[64];
    for (int i = 0; i < n_seqs; i++) lengths[i] = m->all.cu[order[i] + 1] - m->all.cu[order[i]];
    struct suite_batch b = suite_batch(s, n_seqs, lengths, 33);
    for (int i = 0; i < n_seqs; i++)
        memcpy(b.tokens + b.cu[i], m->all.tokens + m->all.cu[order[i]], (size_t)lengths[i] * 2);
    float *pooled = suite_floats(n_seqs * c->d), *rows = suite_floats(b.pack.n_tokens * c->d);
    if (suite_chain_run(s, side, c, &b.pack, pooled, rows)) {
        for (int i = 0; i < n_seqs; i++) {
            const float *p = m->pooled + order[i] * c->d;
            const float *r = m->rows + (int64_t)m->all.cu[order[i]] * c->d;
            size_t n_row_bytes = (size_t)(lengths[i] * c->d) * sizeof(float);
            if (memcmp(pooled + i * c->d, p, (size_t)c->d * sizeof *p) != 0 ||
                memcmp(rows + (int64_t)b.cu[i] * c->d, r, n_row_bytes) != 0)
                suite_bad(s,
                          "%s: sequence of %d tokens at place %d of %d differs from itself alone",
                          what, lengths[i], i, n_seqs);
        }
    }
    free(pooled), free(rows);
    suite_batch_free(&b);
}

static void suite_company_orders(struct suite *s, struct suite_side *side,
                                 const struct suite_chain *c, const struct suite_company *m,
                                 const char *what) {
    int order[SUITE_N_SEQS];
    for (int i = 0; i < SUITE_N_SEQS; i++) order[i] = i;
    suite_company_check(s, side, c, m, SUITE_N_SEQS, order, what);
    for (int i = 0; i < SUITE_N_SEQS; i++) order[i] = SUITE_N_SEQS - 1 - i;
    suite_company_check(s, side, c, m, SUITE_N_SEQS, order, what);
    for (int round = 0; round < 4; round++) {
        for (int i = SUITE_N_SEQS - 1; i > 0; i--) {
            int j = (int)(suite_random(s) % (unsigned)(i + 1)), t = order[i];
            order[i] = order[j], order[j] = t;
        }
        suite_company_check(s, side, c, m, 1 + (int)(suite_random(s) % SUITE_N_SEQS), order, what);
    }
    for (int i = 0; i < 18; i++) order[i] = i == 0 || i == 17 ? 9 : i;
    suite_company_check(s, side, c, m, 18, order, "places 0 and 17");
}

static void suite_company_threads(struct suite *s, const struct suite_chain *c,
                                  const struct suite_company *m) {
    for (int n = 1; s->dut.b->is_host && n <= 3; n++) {
        struct suite_side side = s->dut;
        struct vnp_device_options opt = s->config->device;
        char what[64];
        opt.n_threads = n;
        snprintf(what, sizeof what, "%d threads", n);
        if (!suite_ok(s, side.b->device_open(&opt, &side.dev), "device_open")) return;
        suite_company_orders(s, &side, c, m, what);
        side.b->device_close(side.dev);
    }
}

static void suite_company(struct suite *s, int64_t d, int64_t h, int64_t f, bool is_gated,
                          bool is_plain, bool is_post) {
    static const int lengths[SUITE_N_SEQS] = {1,  2,  3,  7,   8,   15,  16, 17,  31,  32, 33,
                                              63, 64, 65, 127, 128, 129, 51, 166, 257, 97};
    if (!s->dut.b->linear_qkv && !is_plain) return;
    if (!s->dut.b->linear_norm && is_post) return;
    if (!suite_begin(s, "company D=%lld H=%lld F=%lld gated=%d%s%s", (long long)d, (long long)h,
                     (long long)f, is_gated, is_plain ? "" : " linear_qkv",
                     is_post ? " linear_norm" : ""))
        return;
    int64_t n_up = is_gated ? 2 * f : f;
    float scale = (float)(1 / sqrt((double)d));
    struct suite_chain c = {d,
                            h,
                            f,
                            33,
                            is_gated,
                            is_plain,
                            is_post,
                            suite_normals(s, 33 * d, 1),
                            suite_normals(s, 3 * d * d, scale * 2),
                            suite_normals(s, d * d, scale),
                            suite_normals(s, n_up * d, scale),
                            suite_normals(s, d * f, scale / 2),
                            suite_normals(s, d, 1),
                            suite_normals(s, h, 0.1f)};
    struct suite_company m = {.all = suite_batch(s, SUITE_N_SEQS, lengths, 33)};
    m.pooled = suite_floats(SUITE_N_SEQS * d), m.rows = suite_floats(m.all.pack.n_tokens * d);
    for (int i = 0; i < SUITE_N_SEQS; i++) {
        int32_t cu[2] = {0, lengths[i]};
        if (lengths[i] > 1) m.all.tokens[m.all.cu[i]] = 0; /* never nothing but masks */
        if (lengths[i] == 1) m.all.tokens[m.all.cu[i]] %= 32;
        struct vnp_pack alone = {lengths[i], 1, lengths[i], m.all.tokens + m.all.cu[i], cu};
        suite_chain_run(s, &s->dut, &c, &alone, m.pooled + i * d, m.rows + m.all.cu[i] * d);
    }
    for (int64_t i = 0; i < m.all.pack.n_tokens * d; i++)
        if (!isfinite(m.rows[i])) suite_bad(s, "row %lld is not finite", (long long)(i / d));
    suite_company_orders(s, &s->dut, &c, &m, "same device");
    suite_company_orders(s, &s->dut, &c, &m, "same device again");
    suite_company_threads(s, &c, &m);
    free(c.table), free(c.wqkv), free(c.wo), free(c.wup), free(c.wdown), free(c.ones),
        free(c.slopes);
    free(m.pooled), free(m.rows);
    suite_batch_free(&m.all);
    suite_end(s);
}

#endif
