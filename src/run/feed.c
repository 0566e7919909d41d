// SPDX-License-Identifier: MIT
// The reading stage: records -> blocks of consecutive windows (predict) or whole records (embed).
// Where a block ends depends on the input and the options only, never on time or devices, so that
// a resumed run meets the same blocks and can leave out those that the ledger has.
#include "run/engine.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BLOCK_RECORDS = 1024, LOOK_RECORDS = 1000 };

struct feed {
    struct run_engine *e;
    struct run_block *block;    /* being filled, or NULL */
    int64_t n_blocks, n_stored; /* bytes of the input that closed blocks were read from */
    struct run_stage time;
};

static vnp_status block_open(struct feed *f) {
    if (f->block) return VNP_OK;
    VNP_TRY(vnp_run_engine_block_take(f->e, &f->block, &f->time.wait_out_s));
    f->block->idx = f->n_blocks++;
    return VNP_OK;
}

static vnp_status mismatch(struct run_engine *e, const struct run_block *b) {
    const struct run_record *r = b->records.data;
    const struct run_window *w = b->windows.data;
    long long record = b->n_records   ? (long long)r[0].idx
                       : b->n_windows ? (long long)w[0].record
                                      : 0;
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT,
             "this run was made from another input: it differs at record %lld or soon after it",
             record + 1);
    vnp_error_at(e->opt->out, -1, -1, NULL);
    vnp_error_hint("give the same input, another output, or --force to start over");
    return VNP_MISMATCH;
}

/* Hands the block on, or drops it when the ledger has it. */
static vnp_status block_close(struct feed *f) {
    struct run_engine *e = f->e;
    struct run_block *b = f->block;
    if (!b) return VNP_OK;
    f->block = NULL;
    b->n_stored = atomic_load(&e->n_bytes_read) - f->n_stored;
    f->n_stored += b->n_stored;
    b->content = vnp_run_block_content(b);
    struct vnp_hash128 known;
    bool is_there = false;
    VNP_TRY(vnp_ledger_block_find(e->ledger, b->idx, &is_there, &known));
    if (is_there) {
        bool is_same = known.lo == b->content.lo && known.hi == b->content.hi;
        if (!is_same) return mismatch(e, b);
        atomic_fetch_add(&e->n_records, b->n_records);
        atomic_fetch_add(&e->n_windows, b->n_windows);
        atomic_fetch_add(&e->n_bytes_done, b->n_stored);
        atomic_fetch_add(&e->n_bytes_skipped, b->n_stored);
        return vnp_run_queue_push(&e->free_blocks, b, NULL) ? VNP_OK : VNP_CANCELED;
    }
    pthread_mutex_lock(&e->lock);
    b->serial = e->n_serials++;
    pthread_mutex_unlock(&e->lock);
    return vnp_run_queue_push(&e->to_prep, b, &f->time.wait_out_s) ? VNP_OK : VNP_CANCELED;
}

static vnp_status add_record(struct feed *f, const struct vnp_seq_record *r, int64_t n_windows) {
    VNP_TRY(block_open(f));
    struct run_block *b = f->block;
    struct run_record rec = {.idx = r->idx,
                             .length = (int64_t)r->len,
                             .n_windows = n_windows,
                             .off_id = b->ids.n_bytes,
                             .frame = -1};
    VNP_TRY(vnp_run_buffer_append(&b->records, &rec, sizeof rec));
    VNP_TRY(vnp_run_buffer_append(&b->ids, r->id, r->id_len + 1));
    b->n_records++;
    return VNP_OK;
}

static vnp_status add_window(struct feed *f, const struct vnp_seq_record *r, int64_t k,
                             int64_t start, int64_t end) {
    VNP_TRY(block_open(f));
    struct run_block *b = f->block;
    struct run_window w = {r->idx, k, b->bases.n_bytes, (size_t)(end - start)};
    VNP_TRY(vnp_run_buffer_append(&b->windows, &w, sizeof w));
    VNP_TRY(vnp_run_buffer_append(&b->bases, r->seq + start, w.len));
    b->n_windows++;
    b->n_bases += end - start;
    if (b->n_windows < f->e->block_windows && b->n_bases < f->e->block_bases) return VNP_OK;
    return block_close(f);
}

bool vnp_run_kind_warn(const struct vnp_seq_record *r, bool is_dna_wanted) {
    enum vnp_seq_kind kind = vnp_seq_kind_of(r->seq, r->len);
    if (kind != (is_dna_wanted ? VNP_SEQ_KIND_PROTEIN : VNP_SEQ_KIND_DNA)) return false;
    vnp_log(VNP_LOG_WARN, "run",
            "%s: record '%s' looks like %s, but %s is wanted: is it the right file?", r->file,
            r->id, is_dna_wanted ? "protein" : "DNA", is_dna_wanted ? "DNA" : "protein");
    return true;
}

/* Said once. */
static void look_at_kind(struct feed *f, const struct vnp_seq_record *r) {
    struct run_engine *e = f->e;
    bool is_dna_wanted = !e->is_embed || e->uses[ENC_DNA];
    e->is_other_kind = vnp_run_kind_warn(r, is_dna_wanted);
}

static vnp_status feed_record(struct feed *f, const struct vnp_seq_record *r) {
    struct run_engine *e = f->e;
    struct vnp_windows w = {.n = r->len > 0, .len = (int64_t)r->len};
    if (!e->is_embed) VNP_TRY(vnp_windows_init((int64_t)r->len, e->window_bp, &w));
    if (e->is_spooled && !e->is_embed)
        VNP_TRY(vnp_ledger_spool_put(e->ledger, r->idx, r->header, r->seq, r->len));
    if (!e->is_other_kind && r->idx < LOOK_RECORDS) look_at_kind(f, r);
    VNP_TRY(add_record(f, r, w.n));
    for (int64_t k = 0; k < w.n; k++) {
        int64_t start = 0, end = (int64_t)r->len;
        if (!e->is_embed) vnp_windows_at(&w, k, &start, &end);
        VNP_TRY(add_window(f, r, k, start, end));
    }
    if (f->block && f->block->n_records >= MAX_BLOCK_RECORDS) VNP_TRY(block_close(f));
    return VNP_OK;
}

static vnp_status feed_all(struct feed *f, struct vnp_seq_reader *reader) {
    struct run_engine *e = f->e;
    int n_shards = VNP_MAX(1, e->opt->n_shards);
    for (;;) {
        struct vnp_seq_record r;
        bool has;
        if (vnp_run_engine_is_ending(e)) return VNP_CANCELED;
        VNP_TRY(vnp_seq_reader_next(reader, &r, &has));
        if (!has) break;
        if (r.idx % n_shards != e->opt->shard_idx) continue;
        struct vnp_seq_reader_stats stats;
        vnp_seq_reader_stats(reader, &stats);
        atomic_store(&e->n_bytes_read, stats.n_bytes_stored);
        VNP_TRY(feed_record(f, &r));
    }
    VNP_TRY(block_close(f));
    vnp_seq_reader_stats(reader, &e->input);
    e->n_blocks_input = f->n_blocks;
    return VNP_OK;
}

static bool is_ending(void *engine) {
    return vnp_run_engine_is_ending(engine);
}

void *vnp_run_feed_main(void *engine) {
    struct feed f = {.e = engine};
    struct run_engine *e = engine;
    struct vnp_seq_reader_options opt = {.is_canceled = is_ending, .cancel_ctx = engine};
    struct vnp_seq_reader *reader = NULL;
    double t = vnp_now_s();
    vnp_status status = vnp_seq_reader_open(e->opt->inputs, e->opt->n_inputs, &opt, &reader);
    if (status == VNP_OK) {
        atomic_store(&e->n_bytes_total, vnp_seq_reader_total_bytes(reader));
        status = feed_all(&f, reader);
    }
    if (status != VNP_OK && !vnp_run_engine_is_ending(e)) vnp_run_engine_fail(e, status);
    vnp_seq_reader_close(reader);
    vnp_run_queue_close(&e->to_prep);
    pthread_mutex_lock(&e->lock);
    e->is_feed_done = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    f.time.busy_s = vnp_now_s() - t - f.time.wait_out_s;
    vnp_run_thread_ends(e, STAGE_READ, &f.time);
    return NULL;
}
