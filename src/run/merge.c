// SPDX-License-Identifier: MIT
// merge: the ledgers of all shards of a run into one, then the same exports as one run makes. The
// text of virus.fna and the vectors come from the shards' own exports, taken in turn: record r of
// the input lies in shard r mod N, and each shard keeps input order.
#include "run/engine.h"
#include "out/out.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const keys[] = {
    "command",    "window",    "saved embeddings", "ESM-2 model",   "DNABERT-S model",
    "classifier", "precision", "backend",          "block windows", "input"};
enum { N_KEYS = VNP_COUNT(keys), MAX_SHARDS = 4096 };

struct shard {
    const char *dir;
    struct vnp_seq_reader *virus; /* its virus.fna */
    const char *virus_path;
    char path[4096];
    FILE *vectors;
};

struct merge {
    const struct vnp_run_merge_options *opt;
    struct vnp_run_options run;
    struct run_setup s;
    char values[N_KEYS][160]; /* of the first shard */
    struct shard *shards;     /* by shard number */
    int n_shards;
    struct run_buffer row;
};

static vnp_status misfit(const char *dir, const char *hint, const char *text) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "%s", text);
    vnp_error_at(dir, -1, -1, NULL);
    vnp_error_hint("%s", hint);
    return VNP_MISMATCH;
}

static vnp_status take_facts(struct merge *m, const char *dir, struct vnp_ledger *l,
                             bool is_first) {
    char shard[64], text[512];
    int idx, n;
    if (vnp_ledger_state_get(l) == VNP_LEDGER_RUNNING)
        return misfit(dir, "repeat its command, then merge", "this shard is not finished");
    VNP_TRY(vnp_ledger_meta_get(l, "shard", shard, sizeof shard));
    if (sscanf(shard, "%d/%d", &idx, &n) != 2 || idx < 0 || idx >= n || n > MAX_SHARDS)
        return misfit(dir, "--force computes it again", "this shard does not know its number");
    if (is_first) {
        m->n_shards = n;
        m->shards = calloc((size_t)n, sizeof *m->shards);
        if (!m->shards) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "shards");
    }
    for (int i = 0; i < N_KEYS; i++) {
        char value[160];
        VNP_TRY(vnp_ledger_meta_get(l, keys[i], value, sizeof value));
        if (is_first) snprintf(m->values[i], sizeof m->values[i], "%s", value);
        if (strcmp(value, m->values[i]) == 0) continue;
        snprintf(text, sizeof text, "this shard has another %s than %s: '%s', not '%s'", keys[i],
                 m->opt->dirs[0], value, m->values[i]);
        return misfit(dir, "merge shards of one run only", text);
    }
    snprintf(text, sizeof text, "shard %s: the others are of %d", shard, m->n_shards);
    if (n != m->n_shards) return misfit(dir, "merge shards of one run only", text);
    snprintf(text, sizeof text, "shard %d is given twice", idx);
    if (m->shards[idx].dir) return misfit(dir, "name every shard once", text);
    m->shards[idx].dir = dir;
    return VNP_OK;
}

static vnp_status open_shards(struct merge *m) {
    for (size_t i = 0; i < m->opt->n_dirs; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/run.db", m->opt->dirs[i]);
        struct vnp_ledger_options opt = {.path = path, .is_read_only = true};
        struct vnp_ledger *l;
        struct stat st;
        if (stat(path, &st) != 0)
            return misfit(m->opt->dirs[i], "name the output folders of the shards",
                          "no run is in this folder");
        VNP_TRY(vnp_ledger_open(&opt, &l));
        vnp_status status = take_facts(m, m->opt->dirs[i], l, i == 0);
        vnp_ledger_close(l);
        VNP_TRY(status);
    }
    char missing[256] = "";
    for (int i = 0; i < m->n_shards; i++) {
        size_t n = strlen(missing);
        if (!m->shards[i].dir && n + 16 < sizeof missing)
            snprintf(missing + n, sizeof missing - n, " %d", i);
    }
    if (!missing[0]) return VNP_OK;
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "of %d shards these are missing:%s", m->n_shards,
             missing);
    vnp_error_hint("compute them with --shard, then merge");
    return VNP_MISMATCH;
}

/* The merged run's own facts: those of the shards, but the whole input. */
static vnp_status open_ledger(struct merge *m) {
    struct run_setup *s = &m->s;
    for (int i = 0; i + 1 < N_KEYS; i++) vnp_run_setup_fact(s, keys[i], "%s", m->values[i]);
    vnp_run_setup_fact(s, "shard", "0/1");
    snprintf(s->path_db, sizeof s->path_db, "%s/run.db", m->opt->out);
    struct vnp_ledger_options opt = {.path = s->path_db,
                                     .facts = s->facts,
                                     .n_facts = s->n_facts,
                                     .is_forced = m->opt->is_forced};
    VNP_TRY(vnp_ledger_open(&opt, &s->e.ledger));
    if (vnp_ledger_state_get(s->e.ledger) != VNP_LEDGER_RUNNING) {
        char input[160];
        VNP_TRY(vnp_ledger_meta_get(s->e.ledger, "input", input, sizeof input));
        if (strcmp(input, m->values[N_KEYS - 1]) != 0)
            return misfit(m->opt->out, "name another output, or --force",
                          "the folder holds a run over another input");
        return VNP_OK;
    }
    if (vnp_ledger_is_resumed(s->e.ledger)) { /* a merge that was cut off: from the start */
        vnp_ledger_close(s->e.ledger);
        s->e.ledger = NULL;
        opt.is_forced = true;
        VNP_TRY(vnp_ledger_open(&opt, &s->e.ledger));
    }
    for (int i = 0; i < m->n_shards; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/run.db", m->shards[i].dir);
        VNP_TRY(vnp_ledger_absorb(s->e.ledger, path));
    }
    VNP_TRY(vnp_ledger_meta_set(s->e.ledger, "input", m->values[N_KEYS - 1]));
    return vnp_ledger_state_set(s->e.ledger, VNP_LEDGER_COMPUTED);
}

/* The next record of the shard's virus.fna. */
static vnp_status shard_text(void *ctx, const struct vnp_ledger_record *r,
                             struct vnp_seq_record *out) {
    struct merge *m = ctx;
    struct shard *sh = &m->shards[r->idx % m->n_shards];
    struct vnp_seq_reader_options opt = {0};
    bool has = false;
    if (!sh->virus) {
        snprintf(sh->path, sizeof sh->path, "%s/virus.fna", sh->dir);
        sh->virus_path = sh->path;
        VNP_TRY(vnp_seq_reader_open(&sh->virus_path, 1, &opt, &sh->virus));
    }
    VNP_TRY(vnp_seq_reader_next(sh->virus, out, &has));
    if (has && (int64_t)out->len == r->length && strcmp(out->id, r->id) == 0) return VNP_OK;
    return misfit(sh->path, "repeat the shard's command to write it again",
                  "this file does not belong to its run database");
}

/* Skips the .npy header of our own making. */
static vnp_status open_vectors(struct merge *m, struct shard *sh) {
    char path[4096];
    unsigned char head[12];
    snprintf(path, sizeof path, "%s/embeddings.npy", sh->dir);
    sh->vectors = fopen(path, "rb");
    bool is_ok =
        sh->vectors && fread(head, 1, 10, sh->vectors) == 10 && memcmp(head, "\x93NUMPY", 6) == 0;
    long n = is_ok ? 10 + (head[8] | head[9] << 8) : 0;
    if (is_ok && head[6] > 1)
        is_ok = fread(head + 10, 1, 2, sh->vectors) == 2 &&
                (n = 12 + (head[8] | head[9] << 8 | head[10] << 16)) > 0;
    if (is_ok && fseek(sh->vectors, n, SEEK_SET) == 0) return VNP_OK;
    (void)m;
    return misfit(path, "repeat the shard's command to write it again",
                  "the shard's vectors cannot be read");
}

static vnp_status merge_rows(struct merge *m, struct vnp_ledger_cursor *c, struct vnp_outfile *ids,
                             struct vnp_embed_writer *w) {
    size_t n_bytes = (size_t)m->s.e.n_row_cols * sizeof(float);
    struct vnp_ledger_record r;
    struct vnp_ledger_frame f;
    bool has;
    for (int64_t n = 0;;) {
        VNP_TRY(vnp_ledger_cursor_record(c, &r, &has));
        if (!has) return VNP_OK;
        struct shard *sh = &m->shards[r.idx % m->n_shards];
        for (;; n++) {
            VNP_TRY(vnp_ledger_cursor_frame(c, &f, &has));
            if (!has) break;
            if (!sh->vectors) VNP_TRY(open_vectors(m, sh));
            if (fread(m->row.data, 1, n_bytes, sh->vectors) != n_bytes)
                return misfit(sh->dir, "repeat the shard's command to write them again",
                              "the shard's vectors end too early");
            VNP_TRY(vnp_outfile_printf(ids, "%lld\t%s_chunk_%lld%s\t%lld\t%s\n", (long long)n, r.id,
                                       (long long)f.window + 1, vnp_frame_names[f.frame],
                                       (long long)r.length, f.reason ? "failed" : "ok"));
            VNP_TRY(vnp_embed_writer_append(w, NULL, m->row.data, 1));
        }
    }
}

/* Columns of the shards' vectors: what the classifier takes; told by the files' size. */
static vnp_status find_cols(struct merge *m, int64_t n_frames) {
    int64_t n_bytes = 0;
    for (int i = 0; i < m->n_shards; i++) {
        struct stat st;
        VNP_TRY(open_vectors(m, &m->shards[i]));
        if (fstat(fileno(m->shards[i].vectors), &st) != 0)
            return misfit(m->shards[i].dir, "look at the folder", "cannot stat the vectors");
        n_bytes += (int64_t)st.st_size - (int64_t)ftell(m->shards[i].vectors);
    }
    m->s.e.n_row_cols = n_frames > 0 ? n_bytes / (n_frames * (int64_t)sizeof(float)) : 1;
    if (n_frames > 0 && m->s.e.n_row_cols * n_frames * (int64_t)sizeof(float) != n_bytes)
        return misfit(m->opt->dirs[0], "repeat the shards' commands to write them again",
                      "the shards' vectors do not belong to their run databases");
    return vnp_run_buffer_reserve(&m->row, (size_t)m->s.e.n_row_cols * sizeof(float));
}

static vnp_status export_vectors(struct merge *m, int64_t n_frames) {
    char path[4096], path_ids[4096];
    struct vnp_outfile *ids = NULL;
    struct vnp_embed_writer *w = NULL;
    struct vnp_ledger_cursor *c = NULL;
    snprintf(path, sizeof path, "%s/embeddings.npy", m->opt->out);
    snprintf(path_ids, sizeof path_ids, "%s/embeddings.npy.ids.tsv", m->opt->out);
    VNP_TRY(find_cols(m, n_frames));
    vnp_status status = vnp_ledger_cursor_open(m->s.e.ledger, &c);
    if (status == VNP_OK) status = vnp_outfile_open(path_ids, &ids);
    if (status == VNP_OK) status = vnp_outfile_printf(ids, "n\tid\tlength\tstatus\n");
    if (status == VNP_OK) status = vnp_embed_writer_open(path, m->s.e.n_row_cols, &w);
    if (status == VNP_OK) status = merge_rows(m, c, ids, w);
    if (status == VNP_OK) {
        status = vnp_outfile_commit(ids);
        ids = NULL;
    }
    if (status == VNP_OK) {
        status = vnp_embed_writer_commit(w);
        w = NULL;
    }
    vnp_outfile_abort(ids);
    if (w) vnp_embed_writer_abort(w);
    vnp_ledger_cursor_close(c);
    return status;
}

static vnp_status merge(struct merge *m, struct vnp_run_counts *counts) {
    char summary[4096];
    if (m->opt->n_dirs < 1 || !m->opt->out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no shards or no output");
    VNP_TRY(open_shards(m));
    VNP_TRY(vnp_precision_parse(m->values[6], &m->run.precision));
    VNP_TRY(vnp_run_make_folder(m->opt->out));
    VNP_TRY(open_ledger(m));
    counts->was_complete = vnp_ledger_state_get(m->s.e.ledger) == VNP_LEDGER_COMPLETE;
    if (counts->was_complete) return vnp_run_export_tally(&m->s.e, counts);
    VNP_TRY(vnp_run_export_predict(&m->s.e, shard_text, m, counts));
    if (strcmp(m->values[2], "yes") == 0) VNP_TRY(export_vectors(m, counts->n_frames));
    snprintf(summary, sizeof summary, "%s/summary.json", m->opt->out);
    VNP_TRY(vnp_run_summary_write(&m->s, summary, counts));
    return vnp_ledger_state_set(m->s.e.ledger, VNP_LEDGER_COMPLETE);
}

vnp_status vnp_run_merge(const struct vnp_run_merge_options *opt, struct vnp_run_counts *out) {
    struct merge m = {.opt = opt};
    m.run = (struct vnp_run_options){
        .inputs = opt->dirs,
        .n_inputs = opt->n_dirs,
        .out = opt->out,
        .command = opt->command,
        .are_upstream_files_left_out = opt->are_upstream_files_left_out,
    };
    m.s.opt = m.s.e.opt = &m.run;
    memset(out, 0, sizeof *out);
    vnp_status status = merge(&m, out);
    for (int i = 0; i < m.n_shards && m.shards; i++) {
        vnp_seq_reader_close(m.shards[i].virus);
        if (m.shards[i].vectors) fclose(m.shards[i].vectors);
    }
    free(m.shards);
    vnp_run_buffer_fini(&m.row);
    vnp_run_setup_fini(&m.s);
    return status;
}
