// SPDX-License-Identifier: MIT
// Sequences in memory: tokens, packs up to the budget, vectors; and for predict the windows, open
// frames, both encoders and the classifier of one group of records after the other. Plain and
// sequential; files go through the pipeline of the run room instead.
#include "api_internal.h"
#include "seq/seq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EMBED_LETTERS = 1 << 30 }; /* tokens of a pack are counted in 32 bits */
#define MAX_PREDICT_LETTERS ((size_t)1 << 40)

/* ---- embed ---------------------------------------------------------------------------------- */

/* A pack under construction; seq_of[s] is the row that pack sequence s belongs to. */
struct builder {
    struct vnp_engine *engine;
    struct vnp_api_embedding *job;
    bool is_dna;
    uint16_t *tokens;
    int32_t *cu;
    size_t *seq_of;
    float *rows;
    void *bpe_scratch;
    int64_t n_tokens, n_seqs, max_len, n_cols;
};

static void builder_fini(struct builder *b) {
    free(b->tokens);
    free(b->cu);
    free(b->seq_of);
    free(b->rows);
    free(b->bpe_scratch);
}

static size_t max_tokens_of(const struct vnp_engine *engine, bool is_dna, size_t len) {
    return is_dna ? vnp_bpe_max_tokens(engine->bpe, len) : len + 2;
}

static vnp_status builder_init(struct builder *b, size_t longest) {
    const struct vnp_api_encoder *e = b->job->encoder;
    size_t max_tokens = (size_t)e->max_tokens, max_seqs = (size_t)e->max_seqs;
    size_t n_scratch = b->is_dna ? vnp_bpe_scratch_bytes(b->engine->bpe, longest) : 1;
    max_tokens += max_tokens_of(b->engine, b->is_dna, longest);
    b->n_cols = vnp_encoder_spec(e->encoder)->n_hidden;
    b->tokens = malloc(max_tokens * sizeof *b->tokens);
    b->cu = malloc((max_seqs + 1) * sizeof *b->cu);
    b->seq_of = malloc(max_seqs * sizeof *b->seq_of);
    b->rows = malloc(max_seqs * (size_t)b->n_cols * sizeof *b->rows);
    b->bpe_scratch = malloc(n_scratch ? n_scratch : 1);
    if (b->tokens && b->cu && b->seq_of && b->rows && b->bpe_scratch) return VNP_OK;
    builder_fini(b);
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a batch");
}

/* The first sequence of the pack that is not finite, in FP32 either, is the call's failure. */
static vnp_status builder_blame(struct builder *b) {
    bool is_fp32 = b->engine->devices.precision == VNP_PREC_FP32;
    int64_t k = 0;
    while (k < b->n_seqs - 1 && vnp_vectors_are_finite(b->rows + k * b->n_cols, b->n_cols)) k++;
    b->job->idx_failed = b->seq_of[k];
    vnp_status s =
        vnp_fail(VNP_FORMAT, VNP_FROM_MODEL, "the %s encoder's answer is NaN or infinity%s",
                 b->is_dna ? "DNA" : "protein", is_fp32 ? " in fp32" : ", in fp32 too");
    vnp_error_hint("leave this sequence out; where ordinary ones fail, the weights are at fault");
    return s;
}

/* Vectors that are not finite, computed again in FP32. */
static vnp_status builder_mend(struct builder *b, const struct vnp_pack *pack) {
    struct vnp_engine *e = b->engine;
    const struct vnp_api_embedding *job = b->job;
    struct vnp_safe_count n;
    if (vnp_encoder_n_nonfinite(job->encoder->session) == 0) return VNP_OK;
    vnp_status s = vnp_safe_mend(e->safe, job->checkpoint, &job->want, pack, b->rows, &n);
    atomic_fetch_add(&e->n_reruns, n.n_rerun);
    atomic_fetch_add(&e->n_rerun_tokens, n.n_rerun_tokens);
    if (s == VNP_NOMEM || s == VNP_DEVICE_NOMEM)
        vnp_error_hint("sequences that overflow in %s need the weights in fp32 beside it; with "
                       "precision fp32 there is but one set",
                       vnp_precision_name(e->devices.precision));
    VNP_TRY(s);
    return n.n_failed > 0 ? builder_blame(b) : VNP_OK;
}

static vnp_status builder_flush(struct builder *b) {
    struct vnp_encoder_session *session = b->job->encoder->session;
    if (b->n_seqs == 0) return VNP_OK;
    b->cu[0] = 0;
    struct vnp_pack pack = {.n_tokens = b->n_tokens,
                            .n_seqs = b->n_seqs,
                            .max_len = b->max_len,
                            .tokens = b->tokens,
                            .cu_seqlens = b->cu};
    VNP_TRY(vnp_encoder_submit(session, &pack, &b->job->want, b->rows));
    VNP_TRY(vnp_encoder_wait(session));
    atomic_fetch_add(&b->engine->n_sequences, b->n_seqs);
    atomic_fetch_add(&b->engine->n_tokens_done, b->n_tokens);
    if (!b->job->is_raw) VNP_TRY(builder_mend(b, &pack));
    for (int64_t s = 0; s < b->n_seqs; s++)
        memcpy(b->job->out + b->seq_of[s] * (size_t)b->n_cols, b->rows + s * b->n_cols,
               (size_t)b->n_cols * sizeof *b->rows);
    b->n_tokens = b->n_seqs = b->max_len = 0;
    return VNP_OK;
}

/* Adds sequence i; the pack goes off first when it has no room. */
static vnp_status builder_add(struct builder *b, size_t i) {
    const char *seq = b->job->seqs[i];
    size_t len = b->job->lens[i], n = 0, n_unknown = 0;
    const struct vnp_api_encoder *e = b->job->encoder;
    uint16_t *at = b->tokens + b->n_tokens;
    if (b->is_dna)
        VNP_TRY(vnp_bpe_encode(b->engine->bpe, seq, len, b->bpe_scratch, at, &n, &n_unknown));
    else
        vnp_tok_esm_encode(seq, len, at, &n, &n_unknown);
    if (b->n_tokens + (int64_t)n > e->max_tokens || b->n_seqs == e->max_seqs) {
        VNP_TRY(builder_flush(b));
        memmove(b->tokens, at, n * sizeof *at);
    }
    b->n_tokens += (int64_t)n;
    b->seq_of[b->n_seqs++] = i;
    b->cu[b->n_seqs] = (int32_t)b->n_tokens;
    b->max_len = VNP_MAX(b->max_len, (int64_t)n);
    return VNP_OK;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Nothing but white space, which the tokenizers drop: no letter to pool over. */
static bool is_blank(const char *seq, size_t len) {
    size_t i = 0;
    while (i < len && is_space(seq[i])) i++;
    return i == len;
}

vnp_status vnp_api_embed_seqs(struct vnp_engine *engine, struct vnp_api_embedding *job) {
    struct vnp_checkpoint *c = job->checkpoint;
    bool is_dna = vnp_checkpoint_spec(c)->kind == VNP_MODEL_DNABERT;
    size_t longest = 1;
    struct builder b = {.engine = engine, .job = job, .is_dna = is_dna};
    job->idx_failed = SIZE_MAX;
    for (size_t i = 0; i < job->n; i++) longest = VNP_MAX(longest, job->lens[i]);
    if (is_dna) VNP_TRY(vnp_api_bpe_ready(engine, c));
    VNP_TRY(vnp_api_encoder_ready(engine, job->encoder, c,
                                  (int64_t)max_tokens_of(engine, is_dna, longest)));
    VNP_TRY(builder_init(&b, longest));
    vnp_status s = VNP_OK;
    for (size_t i = 0; s == VNP_OK && i < job->n; i++) {
        if (is_blank(job->seqs[i], job->lens[i]))
            for (int64_t k = 0; k < b.n_cols; k++) job->out[i * (size_t)b.n_cols + (size_t)k] = NAN;
        else
            s = builder_add(&b, i);
    }
    if (s == VNP_OK) s = builder_flush(&b);
    builder_fini(&b);
    return s;
}

/* The failure under way is that of the caller's sequence i. */
static void name_seq(size_t i) {
    char number[24];
    snprintf(number, sizeof number, "%zu", i);
    vnp_error_at(NULL, -1, -1, number);
}

static vnp_status fail_purpose(const char *purpose, const char *models) {
    vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "the engine was not made with %s", purpose);
    vnp_error_hint("make one with %s", models);
    return s;
}

/* A sequence of the caller's: there, and of a length that sums with it cannot exceed. */
static vnp_status check_seqs(const char *what, const char *const *seqs, const size_t *lens,
                             size_t n, size_t max_len) {
    for (size_t i = 0; i < n; i++) {
        if (lens[i] > max_len)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                            "%s: sequence %zu has %zu letters; at most %zu", what, i, lens[i],
                            max_len);
        if (!seqs[i] && lens[i] > 0)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%s: sequence %zu is NULL", what, i);
    }
    return VNP_OK;
}

vnp_status vnp_engine_embed_cols(const vnp_engine *engine, int64_t *n_cols) {
    if (!engine || !n_cols || !engine->embed_model)
        return fail_purpose("VNP_FOR_EMBED", "`model`, one encoder");
    *n_cols = vnp_checkpoint_spec(engine->embed_model)->n_hidden;
    return VNP_OK;
}

vnp_status vnp_engine_embed(vnp_engine *engine, float *out, size_t out_n, const char *const *seqs,
                            const size_t *lens, size_t n_seqs, const vnp_embed_options *options) {
    static const vnp_embed_options defaults = VNP_EMBED_OPTIONS_INIT;
    const vnp_embed_options *o = options ? options : &defaults;
    int64_t n_cols = 0;
    size_t need;
    VNP_TRY(vnp_api_check_struct("embed", o, o->size, sizeof *o, o->version));
    VNP_TRY(vnp_engine_embed_cols(engine, &n_cols));
    if (!vnp_size_mul(n_seqs, (size_t)n_cols, &need) || out_n < need)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed: out holds %zu floats, %zu x %lld needed",
                        out_n, n_seqs, (long long)n_cols);
    if (n_seqs > 0 && (!out || !seqs || !lens))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed: a pointer is NULL");
    VNP_TRY(check_seqs("embed", seqs, lens, n_seqs, MAX_EMBED_LETTERS));
    struct vnp_api_embedding job = {.encoder = &engine->embed,
                                    .checkpoint = engine->embed_model,
                                    .want = {.layer = o->layer, .pool = VNP_POOL_MEAN},
                                    .seqs = seqs,
                                    .lens = lens,
                                    .n = n_seqs,
                                    .out = out};
    if (o->pool && strcmp(o->pool, "cls") == 0)
        job.want.pool = VNP_POOL_CLS;
    else if (o->pool && strcmp(o->pool, "mean") != 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed: pool is 'mean' or 'cls', not '%s'",
                        o->pool);
    if (o->layer < -1 || o->layer > vnp_checkpoint_spec(engine->embed_model)->n_layers)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed: layer %d; the model has %lld layers",
                        o->layer, (long long)vnp_checkpoint_spec(engine->embed_model)->n_layers);
    pthread_mutex_lock(&engine->lock);
    vnp_status s = vnp_api_embed_seqs(engine, &job);
    pthread_mutex_unlock(&engine->lock);
    if (s != VNP_OK && job.idx_failed < n_seqs) name_seq(job.idx_failed);
    return s;
}

/* ---- predict -------------------------------------------------------------------------------- */

/* The open frames of a group of windows. nt and aa are copies, one block each. */
struct group {
    char *letters; /* frames' nt and aa, back to back */
    size_t n_letters, cap_letters;
    size_t *off;     /* [2 n]: nt, aa of frame f at letters + off */
    size_t *len;     /* [2 n] */
    int64_t *window; /* [n] number of the frame's window in the group */
    size_t n, cap;
};

static void group_fini(struct group *g) {
    free(g->letters);
    free(g->off);
    free(g->len);
    free(g->window);
}

static bool group_reserve(struct group *g, size_t n_letters) {
    if (g->n_letters + n_letters > g->cap_letters) {
        size_t cap = VNP_MAX(2 * g->cap_letters, g->n_letters + n_letters + 65536);
        char *p = realloc(g->letters, cap);
        if (!p) return false;
        g->letters = p;
        g->cap_letters = cap;
    }
    if (g->n == g->cap) {
        size_t cap = 2 * g->cap + 64;
        size_t *off = realloc(g->off, 2 * cap * sizeof *off);
        if (off) g->off = off;
        size_t *len = realloc(g->len, 2 * cap * sizeof *len);
        if (len) g->len = len;
        int64_t *window = realloc(g->window, cap * sizeof *window);
        if (window) g->window = window;
        if (!off || !len || !window) return false;
        g->cap = cap;
    }
    return true;
}

static bool group_add(struct group *g, const struct vnp_frames *f, int k, int64_t window) {
    size_t n_nt = (size_t)f->nt_len[k], n_aa = (size_t)f->aa_len[k];
    if (!group_reserve(g, n_nt + n_aa)) return false;
    g->off[2 * g->n] = g->n_letters;
    g->len[2 * g->n] = n_nt;
    memcpy(g->letters + g->n_letters, f->nt[k], n_nt);
    g->n_letters += n_nt;
    g->off[2 * g->n + 1] = g->n_letters;
    g->len[2 * g->n + 1] = n_aa;
    memcpy(g->letters + g->n_letters, f->aa[k], n_aa);
    g->n_letters += n_aa;
    g->window[g->n++] = window;
    return true;
}

static vnp_status group_cut(struct group *g, const char *seq, size_t len, int64_t window_bp,
                            vnp_result *r) {
    struct vnp_windows w;
    struct vnp_frames f;
    VNP_TRY(vnp_windows_init((int64_t)len, window_bp, &w));
    r->n_windows = w.n;
    void *scratch = malloc(vnp_frames_scratch_bytes(window_bp));
    if (!scratch) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for frames");
    bool is_ok = true;
    for (int64_t k = 0; is_ok && k < w.n; k++) {
        int64_t start, end;
        vnp_windows_at(&w, k, &start, &end);
        vnp_frames_find(seq + start, end - start, scratch, &f);
        for (int i = 0; is_ok && i < VNP_N_FRAMES; i++)
            if (f.kept & (1u << i)) is_ok = group_add(g, &f, i, k);
    }
    free(scratch);
    return is_ok ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for frames");
}

/* Both encoders over the frames, joined: z [n][D_dna + D_protein], then scores [n][2]. */
static vnp_status group_score(struct vnp_engine *e, const struct group *g, float *z, float *part,
                              const char **seqs, size_t *lens, float *scores) {
    size_t n_dna = (size_t)vnp_checkpoint_spec(e->models.dnabert)->n_hidden;
    size_t n_protein = (size_t)vnp_checkpoint_spec(e->models.esm2)->n_hidden;
    for (int kind = 0; kind < 2; kind++) {
        size_t n_cols = kind ? n_protein : n_dna;
        for (size_t i = 0; i < g->n; i++) {
            seqs[i] = g->letters + g->off[2 * i + (size_t)kind];
            lens[i] = g->len[2 * i + (size_t)kind];
        }
        struct vnp_api_embedding job = {.encoder = kind ? &e->esm2 : &e->dnabert,
                                        .checkpoint = kind ? e->models.esm2 : e->models.dnabert,
                                        .want = {.layer = -1, .pool = VNP_POOL_MEAN},
                                        .seqs = seqs,
                                        .lens = lens,
                                        .n = g->n,
                                        .out = part};
        VNP_TRY(vnp_api_embed_seqs(e, &job));
        for (size_t i = 0; i < g->n; i++)
            memcpy(z + i * (n_dna + n_protein) + (kind ? n_dna : 0), part + i * n_cols,
                   n_cols * sizeof *z);
    }
    VNP_TRY(vnp_classifier_run(e->classifier, z, (int64_t)g->n, scores));
    for (size_t i = 0; i < 2 * g->n; i++)
        if (!isfinite(scores[i]))
            return vnp_fail(VNP_FORMAT, VNP_FROM_MODEL, "the classifier's answer is NaN");
    return VNP_OK;
}

/* The window rule of upstream and the record rule of contigs.tsv. Frames come window by window. */
static void group_call(const struct group *g, const float *scores, vnp_result *r) {
    double sum = 0;
    for (size_t i = 0; i < g->n;) {
        float best1 = 0, best2 = 0;
        int64_t window = g->window[i];
        for (; i < g->n && g->window[i] == window; i++) {
            best1 = fmaxf(best1, scores[2 * i]);
            best2 = fmaxf(best2, scores[2 * i + 1]);
        }
        r->n_scored++;
        if (best2 >= best1) r->n_virus++;
        sum += (double)best2;
    }
    r->n_frames = (int64_t)g->n;
    r->virus_score = r->n_scored ? sum / (double)r->n_scored : NAN;
    r->call = r->n_scored == 0               ? VNP_CALL_UNSCORED
              : 2 * r->n_virus > r->n_scored ? VNP_CALL_VIRUS
                                             : VNP_CALL_OTHER;
}

static vnp_status predict_one(struct vnp_engine *e, const char *seq, size_t len, vnp_result *r) {
    struct group g = {0};
    memset(r, 0, sizeof *r);
    vnp_status s = group_cut(&g, seq, len, e->window_bp, r);
    if (s == VNP_OK && g.n > 0) {
        size_t n_dna = (size_t)vnp_checkpoint_spec(e->models.dnabert)->n_hidden;
        size_t n_protein = (size_t)vnp_checkpoint_spec(e->models.esm2)->n_hidden;
        float *z = malloc(g.n * (n_dna + n_protein) * sizeof *z);
        float *part = malloc(g.n * VNP_MAX(n_dna, n_protein) * sizeof *part);
        float *scores = malloc(g.n * 2 * sizeof *scores);
        const char **seqs = malloc(g.n * sizeof *seqs);
        size_t *lens = malloc(g.n * sizeof *lens);
        if (z && part && scores && seqs && lens)
            s = group_score(e, &g, z, part, seqs, lens, scores);
        else
            s = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for %zu frames", g.n);
        if (s == VNP_OK) group_call(&g, scores, r);
        free(z);
        free(part);
        free(scores);
        free(seqs);
        free(lens);
    } else if (s == VNP_OK) {
        group_call(&g, NULL, r);
    }
    group_fini(&g);
    return s;
}

/* The record as a file's reader gives it: white space belongs to no window. */
static vnp_status predict_text(struct vnp_engine *e, const char *seq, size_t len, vnp_result *r) {
    size_t n = 0, n_spaces = 0;
    for (size_t i = 0; i < len; i++) n_spaces += is_space(seq[i]);
    if (n_spaces == 0) return predict_one(e, seq, len, r);
    char *letters = malloc(len);
    if (!letters) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a record");
    for (size_t i = 0; i < len; i++)
        if (!is_space(seq[i])) letters[n++] = seq[i];
    vnp_status s = predict_one(e, letters, n, r);
    free(letters);
    return s;
}

vnp_status vnp_engine_predict(vnp_engine *e, vnp_result *out, const char *const *seqs,
                              const size_t *lens, size_t n_seqs) {
    if (!e || !(e->purpose & VNP_FOR_PREDICT))
        return fail_purpose("VNP_FOR_PREDICT", "`models`, or without `model`");
    if (n_seqs > 0 && (!out || !seqs || !lens))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "predict: a pointer is NULL");
    VNP_TRY(check_seqs("predict", seqs, lens, n_seqs, MAX_PREDICT_LETTERS));
    vnp_status s = VNP_OK;
    pthread_mutex_lock(&e->lock);
    if (!e->classifier) {
        struct vnp_device_options o = {.precision = VNP_PREC_FP32, .n_threads = e->n_threads};
        const struct vnp_backend *host = vnp_api_host_backend();
        if (!e->host_device) s = host->device_open(&o, &e->host_device);
        if (s == VNP_OK)
            s = vnp_classifier_create(host, e->host_device, e->models.classifier, &e->classifier);
    }
    for (size_t i = 0; s == VNP_OK && i < n_seqs; i++)
        if ((s = predict_text(e, seqs[i], lens[i], &out[i])) != VNP_OK && s != VNP_UNSUPPORTED)
            name_seq(i);
    pthread_mutex_unlock(&e->lock);
    return s;
}
