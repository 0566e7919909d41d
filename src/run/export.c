// SPDX-License-Identifier: MIT
// Exports: walks the ledger in input order beside a second reading of the input (for virus.fna)
// and writes the files of predict and embed. Nothing here grows with the input.
#include "run/engine.h"
#include "out/out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct export {
    struct run_engine *e;
    struct vnp_run_counts *counts;
    struct vnp_ledger_cursor *cursor;
    struct vnp_outfile *frames, *contigs, *virus; /* NULL: not written */
    const struct run_source *source;              /* NULL: input and data file */
    const char *record_id;
    struct run_buffer id;
};

static vnp_status frame_row(void *ctx, const struct vnp_ledger_frame *f) {
    struct export *x = ctx;
    const char *id = x->record_id;
    if (!x->frames || f->reason) return VNP_OK;
    size_t n = strlen(id) + 64;
    VNP_TRY(vnp_run_buffer_reserve(&x->id, n));
    snprintf(x->id.data, n, "%s_chunk_%lld%s", id, (long long)f->window + 1,
             vnp_frame_names[f->frame]);
    return vnp_out_frames_row(x->frames, x->id.data, f->score1, f->score2);
}

/* One record of the ledger; *is_virus tells the caller to write its text. */
static vnp_status export_record(struct export *x, const struct vnp_ledger_record *r,
                                bool *is_virus) {
    struct run_tally_watcher watcher = {.ctx = x, .frame = frame_row};
    struct run_tally t;
    struct vnp_contig_row row;
    struct vnp_run_counts *c = x->counts;
    x->record_id = r->id;
    VNP_TRY(vnp_run_tally_record(x->cursor, &watcher, &t));
    vnp_run_tally_row(r, &t, &row);
    *is_virus = row.call[0] == 'v';
    c->n_records++;
    c->n_virus += *is_virus;
    c->n_other += row.call[0] == 'o';
    c->n_unscored += row.call[0] == 'u';
    c->n_failed += t.n_failed > 0;
    c->n_empty += r->length == 0;
    c->n_windows_scored += t.n_scored;
    return x->contigs ? vnp_out_contigs_row(x->contigs, &row) : VNP_OK;
}

static vnp_status changed(const struct vnp_ledger_record *r) {
    return vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT,
                    "the input changed while it was used: record %lld ('%s') is another",
                    (long long)r->idx + 1, r->id);
}

static vnp_status next_match(struct export *x, int64_t idx, size_t len, bool *is_virus) {
    struct vnp_ledger_record r;
    bool has;
    VNP_TRY(vnp_ledger_cursor_record(x->cursor, &r, &has));
    if (!has) return vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT, "the input grew while it was used");
    if (r.idx != idx || r.length != (int64_t)len) return changed(&r);
    return export_record(x, &r, is_virus);
}

static vnp_status spooled(void *ctx, int64_t record, const char *header, const char *seq,
                          size_t len) {
    struct export *x = ctx;
    bool is_virus;
    VNP_TRY(next_match(x, record, len, &is_virus));
    return is_virus && x->virus ? vnp_out_fasta(x->virus, header, seq, len, 60) : VNP_OK;
}

static vnp_status reread(struct export *x, struct vnp_seq_reader *reader) {
    const struct vnp_run_options *opt = x->e->opt;
    int n_shards = VNP_MAX(1, opt->n_shards);
    struct vnp_seq_reader_stats stats;
    for (;;) {
        struct vnp_seq_record r;
        bool has, is_virus;
        VNP_TRY(vnp_seq_reader_next(reader, &r, &has));
        if (!has) break;
        if (vnp_run_is_stop_requested())
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
        if (r.idx % n_shards != opt->shard_idx) continue;
        VNP_TRY(next_match(x, r.idx, r.len, &is_virus));
        if (is_virus) VNP_TRY(vnp_out_fasta(x->virus, r.header, r.seq, r.len, 60));
    }
    vnp_seq_reader_stats(reader, &stats);
    struct vnp_hash128 a = stats.content, b = x->e->input.content;
    if (a.lo == b.lo && a.hi == b.hi) return VNP_OK;
    return vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT, "the input changed while it was used");
}

/* Every record of the ledger beside its text. */
static vnp_status walk_records(struct export *x) {
    const struct vnp_run_options *opt = x->e->opt;
    struct vnp_seq_reader_options reader_opt = {0};
    struct vnp_seq_reader *reader = NULL;
    struct vnp_ledger_record r;
    bool has = true;
    if (x->virus && !x->source && !x->e->is_spooled) {
        VNP_TRY(vnp_seq_reader_open(opt->inputs, opt->n_inputs, &reader_opt, &reader));
        vnp_status status = reread(x, reader);
        vnp_seq_reader_close(reader);
        VNP_TRY(status);
    } else if (x->virus && !x->source) {
        VNP_TRY(vnp_ledger_spool_walk(x->e->ledger, spooled, x));
    }
    while (has) { /* without the input's text; after a walk beside it nothing is left */
        bool is_virus = false;
        VNP_TRY(vnp_ledger_cursor_record(x->cursor, &r, &has));
        if (!has) break;
        if (x->virus && !x->source) return changed(&r);
        VNP_TRY(export_record(x, &r, &is_virus));
        if (!is_virus || !x->virus) continue;
        struct vnp_seq_record text;
        VNP_TRY(x->source->text(x->source->ctx, &r, &text));
        VNP_TRY(vnp_out_fasta(x->virus, text.header, text.seq, text.len, 60));
    }
    return VNP_OK;
}

static vnp_status window_row(void *file, const char *id, bool is_virus) {
    return vnp_out_windows_row(file, id, is_virus);
}

static vnp_status open_file(struct run_engine *e, const char *name, struct vnp_outfile **out) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", e->opt->out, name);
    return vnp_outfile_open(path, out);
}

static vnp_status commit_file(struct vnp_outfile **f) {
    struct vnp_outfile *file = *f;
    *f = NULL;
    return file ? vnp_outfile_commit(file) : VNP_OK;
}

static vnp_status export_windows(struct run_engine *e) {
    struct vnp_outfile *f;
    VNP_TRY(open_file(e, "prediction_results_highestscore.csv", &f));
    vnp_status status = vnp_out_windows_header(f);
    if (status == VNP_OK) status = vnp_ledger_windows_walk(e->ledger, window_row, f);
    if (status == VNP_OK) return vnp_outfile_commit(f);
    vnp_outfile_abort(f);
    return status;
}

static vnp_status export_tables(struct export *x) {
    bool is_upstream = !x->e->opt->are_upstream_files_left_out;
    if (is_upstream) {
        VNP_TRY(open_file(x->e, "prediction_results.txt", &x->frames));
        VNP_TRY(vnp_out_frames_header(x->frames));
    }
    VNP_TRY(open_file(x->e, "contigs.tsv", &x->contigs));
    VNP_TRY(vnp_out_contigs_header(x->contigs));
    VNP_TRY(open_file(x->e, "virus.fna", &x->virus));
    VNP_TRY(walk_records(x));
    VNP_TRY(commit_file(&x->frames));
    VNP_TRY(commit_file(&x->contigs));
    VNP_TRY(commit_file(&x->virus));
    return is_upstream ? export_windows(x->e) : VNP_OK;
}

static vnp_status count_rest(struct run_engine *e, struct vnp_run_counts *c) {
    struct vnp_ledger_counts n;
    struct vnp_ledger_session sum = {0};
    int64_t n_sessions;
    VNP_TRY(vnp_ledger_count(e->ledger, &n));
    VNP_TRY(vnp_ledger_session_sum(e->ledger, &sum, &n_sessions));
    c->n_windows = n.n_windows;
    c->n_frames = n.n_frames;
    c->n_duplicates = n.n_duplicates;
    c->n_tokens_dna = n.n_tokens_dna;
    c->n_tokens_protein = n.n_tokens_protein;
    c->n_unknown_residues = n.n_unknown_residues;
    c->n_packs = sum.n_packs;
    return VNP_OK;
}

/* Vectors beside the ids of their rows. */
struct rows {
    struct export *x;
    struct vnp_embed_writer *writer;
    struct vnp_outfile *ids_file;
    struct run_buffer text, offsets, pointers;
    struct vnp_ledger_record record;
    int64_t n_left; /* rows of the record still to come */
    int64_t n_row;
    bool is_unpooled;
};

static vnp_status embed_id(struct rows *w, size_t *off) {
    struct vnp_ledger_record *r = &w->record;
    bool has;
    while (w->n_left == 0) {
        VNP_TRY(vnp_ledger_cursor_record(w->x->cursor, r, &has));
        if (!has) return vnp_fail(VNP_BUG, VNP_FROM_OUTPUT, "more vectors than records");
        const char *status = r->length == 0 ? "empty" : r->reason ? "failed" : "ok";
        struct vnp_run_counts *c = w->x->counts;
        VNP_TRY(vnp_outfile_printf(w->ids_file, "%lld\t%s\t%lld\t%s", (long long)c->n_records,
                                   r->id, (long long)r->length, status));
        if (w->is_unpooled)
            VNP_TRY(vnp_outfile_printf(w->ids_file, "\t%lld\t%lld", (long long)w->n_row,
                                       (long long)r->n_rows));
        VNP_TRY(vnp_outfile_printf(w->ids_file, "\n"));
        c->n_records++;
        c->n_empty += r->length == 0;
        c->n_failed += r->reason != NULL;
        w->n_left = r->n_rows;
    }
    w->n_left--;
    w->n_row++;
    *off = w->text.n_bytes;
    return vnp_run_buffer_append(&w->text, r->id, strlen(r->id) + 1);
}

static vnp_status frame_id(struct rows *w, size_t *off) {
    struct vnp_ledger_frame f;
    bool has = false, has_record = true;
    while (!has) {
        if (w->n_row > 0 || w->n_left > 0) VNP_TRY(vnp_ledger_cursor_frame(w->x->cursor, &f, &has));
        if (has) break;
        VNP_TRY(vnp_ledger_cursor_record(w->x->cursor, &w->record, &has_record));
        if (!has_record) return vnp_fail(VNP_BUG, VNP_FROM_OUTPUT, "more vectors than frames");
        w->n_left = 1;
    }
    size_t n = strlen(w->record.id) + 64;
    *off = w->text.n_bytes;
    VNP_TRY(vnp_run_buffer_reserve(&w->text, *off + n));
    char *id = (char *)w->text.data + *off;
    int len = snprintf(id, n, "%s_chunk_%lld%s", w->record.id, (long long)f.window + 1,
                       vnp_frame_names[f.frame]);
    w->text.n_bytes += (size_t)len + 1;
    return vnp_outfile_printf(w->ids_file, "%lld\t%s\t%lld\t%s\n", (long long)w->n_row++, id,
                              (long long)w->record.length, f.reason ? "failed" : "ok");
}

static vnp_status take_rows(void *ctx, const float *rows, int64_t n_rows) {
    struct rows *w = ctx;
    if (vnp_run_is_stop_requested()) return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
    VNP_TRY(vnp_run_buffer_reserve(&w->offsets, (size_t)n_rows * sizeof(size_t)));
    VNP_TRY(vnp_run_buffer_reserve(&w->pointers, (size_t)n_rows * sizeof(char *)));
    size_t *off = w->offsets.data;
    const char **ids = w->pointers.data;
    w->text.n_bytes = 0;
    for (int64_t i = 0; i < n_rows; i++)
        VNP_TRY(w->x->e->is_embed ? embed_id(w, &off[i]) : frame_id(w, &off[i]));
    for (int64_t i = 0; i < n_rows; i++) ids[i] = (const char *)w->text.data + off[i];
    return vnp_embed_writer_append(w->writer, ids, rows, n_rows);
}

static vnp_status export_rows(struct export *x, const char *path, const char *path_ids) {
    struct rows w = {.x = x, .is_unpooled = x->e->is_embed && x->e->opt->pool == VNP_POOL_NONE};
    vnp_status status = vnp_ledger_cursor_open(x->e->ledger, &x->cursor);
    if (status == VNP_OK) status = vnp_outfile_open(path_ids, &w.ids_file);
    if (status == VNP_OK)
        status = vnp_outfile_printf(w.ids_file, "n\tid\tlength\tstatus%s\n",
                                    w.is_unpooled ? "\trow\tn_rows" : "");
    if (status == VNP_OK) status = vnp_embed_writer_open(path, x->e->n_row_cols, &w.writer);
    if (status == VNP_OK)
        status = x->source ? x->source->rows(x->source->ctx, take_rows, &w)
                           : vnp_ledger_rows_walk(x->e->ledger, take_rows, &w);
    if (status == VNP_OK) status = commit_file(&w.ids_file);
    if (status == VNP_OK) {
        status = vnp_embed_writer_commit(w.writer);
        w.writer = NULL;
    }
    if (w.writer) vnp_embed_writer_abort(w.writer);
    vnp_outfile_abort(w.ids_file);
    vnp_ledger_cursor_close(x->cursor);
    x->cursor = NULL;
    vnp_run_buffer_fini(&w.text);
    vnp_run_buffer_fini(&w.offsets);
    vnp_run_buffer_fini(&w.pointers);
    return status;
}

vnp_status vnp_run_export_predict(struct run_engine *e, const struct run_source *source,
                                  struct vnp_run_counts *counts) {
    struct export x = {.e = e, .counts = counts, .source = source};
    char path[4096], path_ids[4096];
    vnp_status status = vnp_ledger_cursor_open(e->ledger, &x.cursor);
    if (status == VNP_OK) status = export_tables(&x);
    vnp_outfile_abort(x.frames);
    vnp_outfile_abort(x.contigs);
    vnp_outfile_abort(x.virus);
    vnp_ledger_cursor_close(x.cursor);
    x.cursor = NULL;
    if (status == VNP_OK && e->is_rows_kept) {
        snprintf(path, sizeof path, "%s/embeddings.npy", e->opt->out);
        snprintf(path_ids, sizeof path_ids, "%s/embeddings.npy.ids.tsv", e->opt->out);
        status = export_rows(&x, path, path_ids);
    }
    vnp_run_buffer_fini(&x.id);
    return status == VNP_OK ? count_rest(e, counts) : status;
}

vnp_status vnp_run_export_embed(struct run_engine *e, const struct run_source *source,
                                struct vnp_run_counts *counts) {
    struct export x = {.e = e, .counts = counts, .source = source};
    char path_ids[4096];
    snprintf(path_ids, sizeof path_ids, "%s.ids.tsv", e->opt->out);
    VNP_TRY(export_rows(&x, e->opt->out, path_ids));
    return count_rest(e, counts);
}

vnp_status vnp_run_export_tally(struct run_engine *e, struct vnp_run_counts *counts) {
    struct export x = {.e = e, .counts = counts};
    VNP_TRY(vnp_ledger_cursor_open(e->ledger, &x.cursor));
    vnp_status status = walk_records(&x);
    vnp_ledger_cursor_close(x.cursor);
    vnp_run_buffer_fini(&x.id);
    return status == VNP_OK ? count_rest(e, counts) : status;
}
