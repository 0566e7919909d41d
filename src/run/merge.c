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

/* What shards of one run share, and what two runs must share to be the same; the input comes last:
 * it is known at the end. */
static const char *const predict_keys[] = {
    "command",    "window",    "saved embeddings", "ESM-2 model",   "DNABERT-S model",
    "classifier", "precision", "backend",          "block windows", "input"};
static const char *const embed_keys[] = {"command",   "pooling", "layer",         "model",
                                         "precision", "backend", "block windows", "input"};
enum { MAX_KEYS = VNP_COUNT(predict_keys), MAX_SHARDS = 4096 };

struct shard {
    const char *name;             /* folder of predict, file of embed */
    struct vnp_seq_reader *virus; /* its virus.fna */
    const char *virus_path;
    char path[4096];
    struct vnp_embed_reader *vectors;
};

struct merge {
    const struct vnp_run_merge_options *opt;
    struct vnp_run_options run;
    struct run_setup s;
    bool is_embed;
    const char *const *keys;
    int n_keys;
    char values[MAX_KEYS][160]; /* of the first shard */
    struct shard *shards;       /* by shard number */
    int n_shards;
    struct run_buffer rows;
};

/* Folders are shards of predict, files of embed; the first one decides. */
static void choose_kind(struct merge *m) {
    struct stat st;
    m->is_embed = !(stat(m->opt->dirs[0], &st) == 0 && S_ISDIR(st.st_mode));
    m->keys = m->is_embed ? embed_keys : predict_keys;
    m->n_keys = m->is_embed ? (int)VNP_COUNT(embed_keys) : (int)VNP_COUNT(predict_keys);
}

static const char *value_of(const struct merge *m, const char *key) {
    for (int i = 0; i < m->n_keys; i++)
        if (strcmp(m->keys[i], key) == 0) return m->values[i];
    return "";
}

static void db_path(const struct merge *m, const char *name, char *path, size_t n) {
    snprintf(path, n, m->is_embed ? "%s.run.db" : "%s/run.db", name);
}

static vnp_status compare_facts(struct merge *m, const char *name, struct vnp_ledger *l,
                                bool is_first) {
    char value[160], text[600];
    for (int i = 0; i < m->n_keys; i++) {
        VNP_TRY(vnp_ledger_meta_get(l, m->keys[i], value, sizeof value));
        if (is_first) snprintf(m->values[i], sizeof m->values[i], "%s", value);
        if (strcmp(value, m->values[i]) == 0) continue;
        snprintf(text, sizeof text, "this shard has another %s than %.200s: '%s', not '%s'",
                 m->keys[i], m->opt->dirs[0], value, m->values[i]);
        return vnp_run_misfit(name, "merge shards of one run only", text);
    }
    return VNP_OK;
}

static vnp_status take_facts(struct merge *m, const char *name, struct vnp_ledger *l,
                             bool is_first) {
    char shard[64], text[256], command[160];
    int idx, n;
    VNP_TRY(vnp_ledger_meta_get(l, "command", command, sizeof command));
    if (strcmp(command, m->is_embed ? "embed" : "predict") != 0)
        return vnp_run_misfit(name, "merge folders of predict, or files of embed",
                              "this is a run of another command");
    if (vnp_ledger_state_get(l) != VNP_LEDGER_COMPLETE)
        return vnp_run_misfit(name, "repeat its command, then merge", "this shard is not finished");
    VNP_TRY(vnp_ledger_meta_get(l, "shard", shard, sizeof shard));
    if (sscanf(shard, "%d/%d", &idx, &n) != 2 || idx < 0 || idx >= n || n > MAX_SHARDS)
        return vnp_run_misfit(name, "--force computes it again",
                              "this shard does not know its number");
    if (is_first) {
        m->n_shards = n;
        m->shards = calloc((size_t)n, sizeof *m->shards);
        if (!m->shards) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "shards");
    }
    VNP_TRY(compare_facts(m, name, l, is_first));
    snprintf(text, sizeof text, "shard %s: the others are of %d", shard, m->n_shards);
    if (n != m->n_shards) return vnp_run_misfit(name, "merge shards of one run only", text);
    snprintf(text, sizeof text, "shard %d is given twice", idx);
    if (m->shards[idx].name) return vnp_run_misfit(name, "name every shard once", text);
    m->shards[idx].name = name;
    return VNP_OK;
}

static vnp_status open_shards(struct merge *m) {
    for (size_t i = 0; i < m->opt->n_dirs; i++) {
        char path[4200];
        const char *name = m->opt->dirs[i];
        db_path(m, name, path, sizeof path);
        struct vnp_ledger_options opt = {.path = path, .is_read_only = true};
        struct vnp_ledger *l;
        struct stat st;
        bool has_run = stat(path, &st) == 0;
        if (!has_run && stat(name, &st) != 0) {
            vnp_status status =
                vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot open the shard");
            vnp_error_at(name, -1, -1, NULL);
            vnp_error_hint("name the %s of all shards",
                           m->is_embed ? "output files" : "output folders");
            return status;
        }
        if (vnp_run_is_same_file(name, m->opt->out))
            return vnp_run_misfit(name, "name another output", "this shard is the output, too");
        if (!has_run)
            return vnp_run_misfit(
                name,
                m->is_embed ? "name the output files of embed, with FILE.run.db beside"
                            : "name the output folders of the shards",
                m->is_embed ? "no run is with this file" : "no run is in this folder");
        VNP_TRY(vnp_ledger_open(&opt, &l));
        vnp_status status = take_facts(m, name, l, i == 0);
        vnp_ledger_close(l);
        VNP_TRY(status);
    }
    char missing[256] = "";
    for (int i = 0; i < m->n_shards; i++) {
        size_t n = strlen(missing);
        if (!m->shards[i].name && n + 16 < sizeof missing)
            snprintf(missing + n, sizeof missing - n, " %d", i);
    }
    if (!missing[0]) return VNP_OK;
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "of %d shards these are missing:%s", m->n_shards,
             missing);
    vnp_error_hint("compute them with --shard, then merge");
    return VNP_MISMATCH;
}

/* The result's chief file is where it was put. */
static bool is_whole(const struct merge *m) {
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, m->is_embed ? "%s" : "%s/contigs.tsv", m->opt->out);
    return stat(path, &st) == 0;
}

/* Results without a run database are somebody else's. */
static vnp_status check_output(const struct merge *m) {
    struct stat st;
    if (m->opt->is_forced || stat(m->s.path_db, &st) == 0 || !is_whole(m)) return VNP_OK;
    return vnp_run_misfit(m->opt->out, "name another output, or --force to replace it",
                          "the output exists and no run database is with it");
}

/* The merged run's own facts: those of the shards, but the whole input. */
static vnp_status open_ledger(struct merge *m) {
    struct run_setup *s = &m->s;
    for (int i = 0; i + 1 < m->n_keys; i++) vnp_run_setup_fact(s, m->keys[i], "%s", m->values[i]);
    vnp_run_setup_fact(s, "shard", "0/1");
    db_path(m, m->opt->out, s->path_db, sizeof s->path_db);
    VNP_TRY(check_output(m));
    struct vnp_ledger_options opt = {.path = s->path_db,
                                     .facts = s->facts,
                                     .n_facts = s->n_facts,
                                     .is_forced = m->opt->is_forced};
    VNP_TRY(vnp_ledger_open(&opt, &s->e.ledger));
    for (size_t i = 0; i < RUN_N_PREDICT_NAMES && opt.is_forced && !m->is_embed; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", m->opt->out, vnp_run_predict_names[i]);
        vnp_run_setup_clear(s->opt, path);
    }
    if (vnp_ledger_state_get(s->e.ledger) != VNP_LEDGER_RUNNING) {
        char input[160];
        VNP_TRY(vnp_ledger_meta_get(s->e.ledger, "input", input, sizeof input));
        if (strcmp(input, value_of(m, "input")) != 0)
            return vnp_run_misfit(m->opt->out, "name another output, or --force",
                                  "it holds a run over another input");
        return VNP_OK;
    }
    if (vnp_ledger_is_resumed(s->e.ledger)) { /* a merge that was cut off: from the start */
        vnp_ledger_close(s->e.ledger);
        s->e.ledger = NULL;
        opt.is_forced = true;
        VNP_TRY(vnp_ledger_open(&opt, &s->e.ledger));
    }
    for (int i = 0; i < m->n_shards; i++) {
        char path[4200];
        db_path(m, m->shards[i].name, path, sizeof path);
        VNP_TRY(vnp_ledger_absorb(s->e.ledger, path));
    }
    VNP_TRY(vnp_ledger_meta_set(s->e.ledger, "input", value_of(m, "input")));
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
        snprintf(sh->path, sizeof sh->path, "%s/virus.fna", sh->name);
        sh->virus_path = sh->path;
        VNP_TRY(vnp_seq_reader_open(&sh->virus_path, 1, &opt, &sh->virus));
    }
    VNP_TRY(vnp_seq_reader_next(sh->virus, out, &has));
    if (has && (int64_t)out->len == r->length && strcmp(out->id, r->id) == 0) return VNP_OK;
    return vnp_run_misfit(sh->path, "repeat the shard's command to write it again",
                          "this file does not belong to its run database");
}

/* Opens every shard's vectors; the columns are theirs, all alike. */
static vnp_status open_vectors(struct merge *m) {
    int64_t n_cols = 0;
    for (int i = 0; i < m->n_shards; i++) {
        struct shard *sh = &m->shards[i];
        snprintf(sh->path, sizeof sh->path, m->is_embed ? "%s" : "%s/embeddings.npy", sh->name);
        if (!vnp_embed_suffix_is_known(sh->path))
            return vnp_run_misfit(sh->path, "name the output files of embed",
                                  "not a file of vectors");
        VNP_TRY(vnp_embed_reader_open(sh->path, &sh->vectors));
        int64_t n = vnp_embed_reader_cols(sh->vectors);
        if (n > 0 && n_cols > 0 && n != n_cols)
            return vnp_run_misfit(sh->path,
                                  "repeat the shard's command with --force to write it again",
                                  "these vectors have another number of columns than the others");
        n_cols = VNP_MAX(n_cols, n);
    }
    m->s.e.n_row_cols = VNP_MAX(1, n_cols);
    return VNP_OK;
}

static vnp_status rows_of_record(struct merge *m, struct vnp_ledger_cursor *c,
                                 const struct vnp_ledger_record *r, int64_t *n) {
    bool has = !m->is_embed;
    for (*n = m->is_embed ? r->n_rows : 0; has; *n += has) {
        struct vnp_ledger_frame f;
        VNP_TRY(vnp_ledger_cursor_frame(c, &f, &has));
    }
    return VNP_OK;
}

static vnp_status walk_rows(struct merge *m, struct vnp_ledger_cursor *c, vnp_ledger_rows_fn *fn,
                            void *fn_ctx) {
    enum { BATCH_ROWS = 256 };
    size_t row_bytes = (size_t)m->s.e.n_row_cols * sizeof(float);
    VNP_TRY(vnp_run_buffer_reserve(&m->rows, BATCH_ROWS * row_bytes));
    for (;;) {
        struct vnp_ledger_record r;
        bool has;
        int64_t left;
        VNP_TRY(vnp_ledger_cursor_record(c, &r, &has));
        if (!has) break;
        struct vnp_embed_reader *from = m->shards[r.idx % m->n_shards].vectors;
        VNP_TRY(rows_of_record(m, c, &r, &left));
        while (left > 0) {
            int64_t n = VNP_MIN(left, BATCH_ROWS);
            VNP_TRY(vnp_embed_reader_read(from, m->rows.data, n));
            VNP_TRY(fn(fn_ctx, m->rows.data, n));
            left -= n;
        }
    }
    for (int i = 0; i < m->n_shards; i++) VNP_TRY(vnp_embed_reader_end(m->shards[i].vectors));
    return VNP_OK;
}

static vnp_status shard_rows(void *ctx, vnp_ledger_rows_fn *fn, void *fn_ctx) {
    struct merge *m = ctx;
    struct vnp_ledger_cursor *c;
    VNP_TRY(vnp_ledger_cursor_open(m->s.e.ledger, &c));
    vnp_status status = walk_rows(m, c, fn, fn_ctx);
    vnp_ledger_cursor_close(c);
    return status;
}

static vnp_status export_all(struct merge *m, struct vnp_run_counts *counts) {
    struct run_source source = {.ctx = m, .text = shard_text, .rows = shard_rows};
    struct run_engine *e = &m->s.e;
    char summary[4200];
    e->is_rows_kept = m->is_embed || strcmp(value_of(m, "saved embeddings"), "yes") == 0;
    if (e->is_rows_kept) VNP_TRY(open_vectors(m));
    if (m->is_embed) return vnp_run_export_embed(e, &source, counts);
    VNP_TRY(vnp_run_export_predict(e, &source, counts));
    snprintf(summary, sizeof summary, "%s/summary.json", m->opt->out);
    return vnp_run_summary_write(&m->s, summary, counts);
}

static vnp_status plan_embed(struct merge *m) {
    m->s.e.is_embed = true;
    const char *pool = value_of(m, "pooling");
    m->run.pool = strcmp(pool, "none") == 0  ? VNP_POOL_NONE
                  : strcmp(pool, "cls") == 0 ? VNP_POOL_CLS
                                             : VNP_POOL_MEAN;
    if (vnp_embed_suffix_is_known(m->opt->out)) return VNP_OK;
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                    "'%s': the output's suffix must be .npy, .safetensors, .h5 or .tsv",
                    m->opt->out);
}

static vnp_status merge(struct merge *m, struct vnp_run_counts *counts) {
    if (m->opt->n_dirs < 1 || !m->opt->out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no shards or no output");
    choose_kind(m);
    VNP_TRY(open_shards(m));
    VNP_TRY(vnp_precision_parse(value_of(m, "precision"), &m->run.precision));
    VNP_TRY(m->is_embed ? plan_embed(m) : vnp_run_make_folder(m->opt->out));
    VNP_TRY(open_ledger(m));
    counts->was_complete =
        vnp_ledger_state_get(m->s.e.ledger) == VNP_LEDGER_COMPLETE && is_whole(m);
    if (counts->was_complete) return vnp_run_export_tally(&m->s.e, counts);
    VNP_TRY(export_all(m, counts));
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
        vnp_embed_reader_close(m.shards[i].vectors);
    }
    free(m.shards);
    vnp_run_buffer_fini(&m.rows);
    vnp_run_setup_fini(&m.s);
    return status;
}
