// SPDX-License-Identifier: MIT
// The preparing stage: a block's windows -> open frames -> tokens of both encoders. Several
// threads, each with its own scratch; a block is one thread's at a time and goes to the packer in
// the order of its serial number.
#include "run/engine.h"

#include <stdlib.h>
#include <string.h>

struct prep {
    struct run_engine *e;
    struct run_buffer frames_scratch, bpe_scratch, upper;
    struct run_stage time;
};

static vnp_status add_tokens(struct prep *p, struct run_block *b, int enc, const char *text,
                             size_t len, struct run_item *it) {
    size_t max = enc == ENC_DNA ? vnp_bpe_max_tokens(p->e->bpe, len) : len + 2;
    size_t n = 0, n_unknown = 0;
    VNP_TRY(vnp_run_buffer_reserve(&b->tokens, b->tokens.n_bytes + max * sizeof(uint16_t)));
    uint16_t *out = (uint16_t *)b->tokens.data + b->tokens.n_bytes / sizeof(uint16_t);
    if (enc == ENC_DNA) {
        VNP_TRY(vnp_run_buffer_reserve(&p->bpe_scratch, vnp_bpe_scratch_bytes(p->e->bpe, len)));
        VNP_TRY(vnp_bpe_encode(p->e->bpe, text, len, p->bpe_scratch.data, out, &n, &n_unknown));
    } else {
        vnp_tok_esm_encode(text, len, out, &n, &n_unknown);
    }
    it->off_tokens = b->tokens.n_bytes / sizeof(uint16_t);
    it->n_tokens = (int32_t)n;
    it->n_rows = 1;
    it->dedup = -1;
    it->is_for_cache = false;
    it->enc = (uint8_t)enc;
    it->block = b;
    b->tokens.n_bytes += n * sizeof(uint16_t);
    b->n_tokens[enc] += (int64_t)n;
    b->n_unknown += (int64_t)n_unknown;
    return VNP_OK;
}

static vnp_status add_frame(struct run_block *b, const struct run_window *w, int frame) {
    struct run_frame f = {
        .record = w->record, .window = w->k, .frame = frame, .off_row = b->n_rows, .n_rows = 1};
    b->n_frames++;
    b->n_rows++;
    return vnp_run_buffer_append(&b->frames, &f, sizeof f);
}

/* Upstream trains on no window with one of these letters. */
static bool is_ambiguous(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (text[i] && strchr("NRYMKSWHBVDnrymkswhbvd", text[i])) return true;
    return false;
}

static vnp_status prep_predict(struct prep *p, struct run_block *b, const struct run_window *w) {
    struct vnp_frames found;
    const char *text = (const char *)b->bases.data + w->off;
    if (p->e->is_strict && is_ambiguous(text, w->len)) return VNP_OK;
    VNP_TRY(vnp_run_buffer_reserve(&p->frames_scratch, vnp_frames_scratch_bytes((int64_t)w->len)));
    vnp_frames_find(text, (int64_t)w->len, p->frames_scratch.data, &found);
    for (int f = 0; f < VNP_N_FRAMES; f++) {
        if (!(found.kept & 1u << f)) continue;
        struct run_item it[N_ENC] = {{.frame = (int32_t)b->n_frames},
                                     {.frame = (int32_t)b->n_frames}};
        VNP_TRY(add_frame(b, w, f));
        VNP_TRY(add_tokens(p, b, ENC_DNA, found.nt[f], (size_t)found.nt_len[f], &it[ENC_DNA]));
        VNP_TRY(
            add_tokens(p, b, ENC_PROTEIN, found.aa[f], (size_t)found.aa_len[f], &it[ENC_PROTEIN]));
        VNP_TRY(vnp_run_buffer_append(&b->items, it, sizeof it));
        b->n_items += N_ENC;
    }
    return VNP_OK;
}

static vnp_status prep_embed(struct prep *p, struct run_block *b, const struct run_window *w) {
    int enc = p->e->uses[ENC_DNA] ? ENC_DNA : ENC_PROTEIN;
    const char *text = (const char *)b->bases.data + w->off;
    if (enc == ENC_DNA) {
        VNP_TRY(vnp_run_buffer_reserve(&p->upper, w->len));
        char *up = p->upper.data;
        for (size_t i = 0; i < w->len; i++)
            up[i] = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 'a' + 'A') : text[i];
        text = up;
    }
    struct run_item it = {.frame = (int32_t)b->n_frames};
    VNP_TRY(add_frame(b, w, 0));
    VNP_TRY(add_tokens(p, b, enc, text, w->len, &it));
    if (p->e->opt->pool == VNP_POOL_NONE) {
        struct run_frame *f = (struct run_frame *)b->frames.data + it.frame;
        it.n_rows = f->n_rows = it.n_tokens;
        b->n_rows += it.n_tokens - 1;
    }
    b->n_items++;
    return vnp_run_buffer_append(&b->items, &it, sizeof it);
}

/* embed: every record has rows; an empty one gets a row of NaN like a failed one. */
static vnp_status place_records(struct run_block *b) {
    struct run_record *records = b->records.data;
    struct run_frame *frames = b->frames.data;
    int64_t f = 0, n_rows = 0;
    for (int64_t i = 0; i < b->n_records; i++) {
        if (records[i].n_windows == 0) {
            n_rows++;
            continue;
        }
        records[i].frame = f;
        frames[f].off_row = n_rows;
        n_rows += frames[f++].n_rows;
    }
    b->n_rows = n_rows;
    return f == b->n_frames ? VNP_OK
                            : vnp_fail(VNP_BUG, VNP_FROM_NONE, "a block cut inside a record");
}

static vnp_status place_rows(struct prep *p, struct run_block *b) {
    struct run_engine *e = p->e;
    size_t n;
    if (e->is_embed) VNP_TRY(place_records(b));
    if (!vnp_size_mul((size_t)b->n_rows, (size_t)e->n_row_cols * sizeof(float), &n))
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%lld rows", (long long)b->n_rows);
    VNP_TRY(vnp_run_engine_rows_take(e, b, n, &p->time.wait_out_s));
    float *rows = b->rows.data;
    for (int64_t i = 0; i < b->n_rows * e->n_row_cols; i++) rows[i] = __builtin_nanf("");
    struct run_item *items = b->items.data;
    const struct run_frame *frames = b->frames.data;
    for (int64_t i = 0; i < b->n_items; i++) {
        items[i].tokens = (const uint16_t *)b->tokens.data + items[i].off_tokens;
        items[i].out =
            rows + frames[items[i].frame].off_row * e->n_row_cols + e->off_col[items[i].enc];
    }
    return VNP_OK;
}

static vnp_status prep_block(struct prep *p, struct run_block *b) {
    const struct run_window *w = b->windows.data;
    for (int64_t i = 0; i < b->n_windows; i++)
        VNP_TRY(p->e->is_embed ? prep_embed(p, b, &w[i]) : prep_predict(p, b, &w[i]));
    VNP_TRY(place_rows(p, b));
    atomic_store(&b->n_pending, b->n_items + 1);
    return VNP_OK;
}

static void hand_on(struct run_engine *e, struct run_block *b) {
    pthread_mutex_lock(&e->lock);
    e->in_order[b->serial % e->n_blocks] = b;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void *vnp_run_prep_main(void *engine) {
    struct run_engine *e = engine;
    struct prep p = {.e = e};
    double t = vnp_now_s();
    void *b;
    while (vnp_run_queue_pop(&e->to_prep, -1, &b, &p.time.wait_in_s) == RUN_POP_OK) {
        if (vnp_run_engine_is_ending(e)) break;
        atomic_fetch_add(&e->n_preparing, 1);
        vnp_status status = prep_block(&p, b);
        atomic_fetch_sub(&e->n_preparing, 1);
        if (status != VNP_OK) {
            if (!vnp_run_engine_is_ending(e)) vnp_run_engine_fail(e, status);
            break;
        }
        hand_on(e, b);
    }
    vnp_run_buffer_fini(&p.frames_scratch);
    vnp_run_buffer_fini(&p.bpe_scratch);
    vnp_run_buffer_fini(&p.upper);
    pthread_mutex_lock(&e->lock);
    e->n_prep_running--;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    p.time.busy_s = vnp_now_s() - t - p.time.wait_in_s - p.time.wait_out_s;
    vnp_run_thread_ends(e, STAGE_PREP, &p.time);
    return NULL;
}
