// SPDX-License-Identifier: MIT
// The finishing stage: blocks whose vectors are all there -> classifier -> ledger, and the commits.
// The ledger's only writer of blocks. Blocks arrive in any order.
#include "run/engine.h"

#include <math.h>
#include <stdlib.h>

struct finish {
    struct run_engine *e;
    struct run_buffer scores, records, frames;
    double t_commit; /* when the open group began; 0 = none */
    int64_t n_open_frames;
    struct run_stage time;
};

static vnp_status classify(struct finish *f, struct run_block *b) {
    struct run_engine *e = f->e;
    struct run_frame *frames = b->frames.data;
    if (!e->classify || b->n_frames == 0) return VNP_OK;
    VNP_TRY(vnp_run_buffer_reserve(&f->scores, (size_t)b->n_frames * 2 * sizeof(float)));
    float *scores = f->scores.data, *rows = b->rows.data;
    for (int64_t i = 0; i < b->n_frames; i++) /* a failed frame's row must not be computed with */
        for (int64_t c = 0; frames[i].has_reason && c < e->n_row_cols; c++)
            rows[i * e->n_row_cols + c] = 0.0f;
    VNP_TRY(e->classify(e->classify_ctx, rows, b->n_frames, scores));
    for (int64_t i = 0; i < b->n_frames; i++) {
        frames[i].score[0] = scores[2 * i];
        frames[i].score[1] = scores[2 * i + 1];
        if (!isfinite(scores[2 * i]) || !isfinite(scores[2 * i + 1]))
            vnp_run_block_frame_fail(b, (int32_t)i, "the classifier's answer is NaN");
        for (int64_t c = 0; frames[i].has_reason && c < e->n_row_cols; c++)
            rows[i * e->n_row_cols + c] = __builtin_nanf("");
    }
    return VNP_OK;
}

static vnp_status fill_records(struct finish *f, const struct run_block *b) {
    VNP_TRY(vnp_run_buffer_reserve(&f->records,
                                   (size_t)(b->n_records + 1) * sizeof(struct vnp_ledger_record)));
    struct vnp_ledger_record *to = f->records.data;
    const struct run_record *r = b->records.data;
    const struct run_frame *frames = b->frames.data;
    for (int64_t i = 0; i < b->n_records; i++) {
        to[i] = (struct vnp_ledger_record){.idx = r[i].idx,
                                           .id = (const char *)b->ids.data + r[i].off_id,
                                           .length = r[i].length,
                                           .n_windows = r[i].n_windows,
                                           .n_rows = 0};
        if (!f->e->is_embed) continue;
        to[i].n_rows = r[i].frame >= 0 ? frames[r[i].frame].n_rows : 1;
        if (r[i].frame >= 0 && frames[r[i].frame].has_reason)
            to[i].reason = frames[r[i].frame].reason;
    }
    return VNP_OK;
}

static vnp_status fill_frames(struct finish *f, const struct run_block *b, int64_t *n_failed) {
    VNP_TRY(vnp_run_buffer_reserve(&f->frames,
                                   (size_t)(b->n_frames + 1) * sizeof(struct vnp_ledger_frame)));
    struct vnp_ledger_frame *to = f->frames.data;
    const struct run_frame *frames = b->frames.data;
    *n_failed = 0;
    for (int64_t i = 0; i < b->n_frames; i++) {
        *n_failed += frames[i].has_reason;
        to[i] = (struct vnp_ledger_frame){.record = frames[i].record,
                                          .window = frames[i].window,
                                          .frame = frames[i].frame,
                                          .score1 = frames[i].score[0],
                                          .score2 = frames[i].score[1],
                                          .reason = frames[i].has_reason ? frames[i].reason : NULL};
    }
    return VNP_OK;
}

static vnp_status put_block(struct finish *f, struct run_block *b) {
    int64_t n_failed;
    vnp_run_cache_keep(f->e, b);
    VNP_TRY(classify(f, b));
    VNP_TRY(fill_records(f, b));
    VNP_TRY(fill_frames(f, b, &n_failed));
    bool is_embed = f->e->is_embed;
    struct vnp_ledger_block put = {
        .idx = b->idx,
        .content = b->content,
        .records = f->records.data,
        .n_records = b->n_records,
        .frames = f->frames.data,
        .n_frames = is_embed ? 0 : b->n_frames,
        .rows = f->e->is_rows_kept && b->n_rows > 0 ? b->rows.data : NULL,
        .n_rows = b->n_rows,
        .counts = {.n_records = b->n_records,
                   .n_windows = is_embed ? 0 : b->n_windows,
                   .n_frames = b->n_frames,
                   .n_failed_frames = n_failed,
                   .n_duplicates = b->n_duplicates,
                   .n_tokens_dna = b->n_tokens[ENC_DNA],
                   .n_tokens_protein = b->n_tokens[ENC_PROTEIN],
                   .n_unknown_residues = b->n_unknown},
    };
    VNP_TRY(vnp_ledger_block_put(f->e->ledger, &put));
    if (f->t_commit == 0) f->t_commit = vnp_now_s();
    f->n_open_frames += b->n_frames;
    atomic_fetch_add(&f->e->n_records, b->n_records);
    atomic_fetch_add(&f->e->n_windows, b->n_windows);
    atomic_fetch_add(&f->e->n_frames, b->n_frames);
    atomic_fetch_add(&f->e->n_bytes_done, b->n_stored);
    atomic_fetch_add(&f->e->n_tokens_done, b->n_tokens[ENC_DNA] + b->n_tokens[ENC_PROTEIN]);
    atomic_fetch_add(&f->e->n_failed_done, n_failed);
    return VNP_OK;
}

static vnp_status commit(struct finish *f) {
    struct run_engine *e = f->e;
    struct vnp_ledger_session s = {.elapsed_s = vnp_now_s() - e->t_start,
                                   .n_incidents = atomic_load(&e->n_incidents)};
    pthread_mutex_lock(&e->dispatch.lock);
    s.n_packs = e->dispatch.n_packs;
    s.n_pack_tokens = e->dispatch.n_tokens;
    s.n_pack_capacity = e->dispatch.n_capacity;
    pthread_mutex_unlock(&e->dispatch.lock);
    VNP_TRY(vnp_ledger_session_set(e->ledger, &s));
    VNP_TRY(vnp_ledger_commit(e->ledger));
    f->t_commit = 0;
    f->n_open_frames = 0;
    return VNP_OK;
}

static vnp_status finish_all(struct finish *f) {
    enum { MAX_OPEN_FRAMES = 200000 };
    struct run_engine *e = f->e;
    double commit_s = e->opt->commit_s > 0 ? e->opt->commit_s : 5;
    for (;;) {
        void *b = NULL;
        double left = f->t_commit > 0 ? VNP_MAX(0.0, f->t_commit + commit_s - vnp_now_s()) : -1;
        enum run_pop got = vnp_run_queue_pop(&e->to_finish, left, &b, &f->time.wait_in_s);
        if (got == RUN_POP_END) break;
        if (got == RUN_POP_OK) {
            VNP_TRY(put_block(f, b));
            if (!vnp_run_engine_block_give(e, b) && !vnp_run_engine_is_ending(e))
                return vnp_fail(VNP_BUG, VNP_FROM_NONE, "a block came back twice");
        }
        bool is_due = f->t_commit > 0 && vnp_now_s() - f->t_commit >= commit_s;
        if (is_due || f->n_open_frames >= MAX_OPEN_FRAMES) VNP_TRY(commit(f));
    }
    return commit(f);
}

void *vnp_run_finish_main(void *engine) {
    struct finish f = {.e = engine};
    double t = vnp_now_s();
    vnp_status status = finish_all(&f);
    if (status != VNP_OK) vnp_run_engine_fail(f.e, status);
    vnp_run_buffer_fini(&f.scores);
    vnp_run_buffer_fini(&f.records);
    vnp_run_buffer_fini(&f.frames);
    f.time.busy_s = vnp_now_s() - t - f.time.wait_in_s;
    vnp_run_thread_ends(f.e, STAGE_FINISH, &f.time);
    return NULL;
}
