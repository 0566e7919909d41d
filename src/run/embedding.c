// SPDX-License-Identifier: MIT
// embed: one encoder, a vector (or the rows of every token) a record, in input order. The run
// database and the vectors on their way stand beside the output as FILE.run.db, FILE.run.vectors.
#include "run/engine.h"
#include "out/out.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Blocks are small enough that their vectors stay small; per-token rows are D floats each. */
enum { BLOCK_RECORDS = 256, BLOCK_RESIDUES = 1 << 16, BLOCK_RESIDUES_UNPOOLED = 1 << 12 };

static vnp_status plan(struct run_setup *s) {
    static const char *const pools[] = {"none", "mean", "cls"};
    const struct vnp_run_options *opt = s->opt;
    const struct vnp_model_spec *spec = vnp_checkpoint_spec(opt->embed_model);
    struct run_engine *e = &s->e;
    int enc = spec->kind == VNP_MODEL_DNABERT ? ENC_DNA : ENC_PROTEIN;
    if (opt->layer > spec->n_layers || opt->layer < -1)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "layer %lld of a model with %lld",
                        (long long)opt->layer, (long long)spec->n_layers);
    e->is_embed = true;
    e->uses[enc] = true;
    e->n_cols[enc] = e->n_row_cols = spec->n_hidden;
    e->is_rows_kept = true;
    e->block_windows = opt->block_windows > 0 ? opt->block_windows : BLOCK_RECORDS;
    e->block_bases = opt->pool == VNP_POOL_NONE ? BLOCK_RESIDUES_UNPOOLED : BLOCK_RESIDUES;
    vnp_run_setup_fact(s, "command", "embed");
    vnp_run_setup_fact(s, "pooling", "%s", pools[opt->pool]);
    vnp_run_setup_fact(s, "layer", "%lld", (long long)opt->layer);
    return vnp_run_setup_digest(s, "model", opt->embed_model);
}

static vnp_status compute(struct run_setup *s) {
    struct vnp_bpe *bpe = NULL;
    if (s->e.uses[ENC_DNA]) VNP_TRY(vnp_run_tokenizer_load(s->opt->embed_model, &bpe));
    s->e.bpe = bpe;
    vnp_status status = vnp_run_setup_compute(s);
    vnp_bpe_destroy(bpe);
    return status;
}

static vnp_status embed(struct run_setup *s, struct vnp_run_counts *counts) {
    const struct vnp_run_options *opt = s->opt;
    if (!opt->embed_model) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "embed needs a model");
    if (!opt->out || !vnp_embed_suffix_is_known(opt->out))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "'%s': the output's suffix must be .npy, .safetensors, .h5 or .tsv",
                        opt->out ? opt->out : "");
    enum vnp_model_kind kind = vnp_checkpoint_spec(opt->embed_model)->kind;
    if (kind != VNP_MODEL_DNABERT && kind != VNP_MODEL_ESM2)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "embed needs ESM-2 or DNABERT-S");
    const struct vnp_checkpoint *checkpoints[N_ENC] = {NULL, NULL};
    checkpoints[kind == VNP_MODEL_DNABERT ? ENC_DNA : ENC_PROTEIN] = opt->embed_model;
    struct vnp_encoder_want want = {.layer = opt->layer, .pool = opt->pool};
    VNP_TRY(vnp_run_setup_workers(s, checkpoints, &want));
    VNP_TRY(plan(s));
    snprintf(s->path_db, sizeof s->path_db, "%s.run.db", opt->out);
    snprintf(s->path_data, sizeof s->path_data, "%s.run.vectors", opt->out);
    snprintf(s->e.path_status, sizeof s->e.path_status, "%s.run.status.json", opt->out);
    const char *const outputs[] = {opt->out};
    VNP_TRY(vnp_run_setup_ledger(s, outputs, 1));
    bool was_complete = vnp_ledger_state_get(s->e.ledger) == VNP_LEDGER_COMPLETE;
    VNP_TRY(compute(s));
    if (!was_complete) {
        VNP_TRY(vnp_run_export_embed(&s->e, NULL, counts));
        VNP_TRY(vnp_ledger_state_set(s->e.ledger, VNP_LEDGER_COMPLETE));
        return vnp_ledger_data_remove(s->e.ledger);
    }
    struct stat st;
    counts->was_complete = true;
    VNP_TRY(vnp_ledger_data_remove(s->e.ledger)); /* a run that ended just before it did so */
    if (stat(opt->out, &st) == 0) return vnp_run_export_tally(&s->e, counts);
    vnp_fail(VNP_NOT_FOUND, VNP_FROM_OUTPUT, "the run is complete, but its output is gone");
    vnp_error_at(opt->out, -1, -1, NULL);
    vnp_error_hint("--force computes it again");
    return VNP_NOT_FOUND;
}

vnp_status vnp_run_embed(const struct vnp_run_options *opt, struct vnp_run_counts *out) {
    struct run_setup s = {.opt = opt, .e = {.opt = opt}};
    memset(out, 0, sizeof *out);
    vnp_status status = embed(&s, out);
    vnp_run_setup_fini(&s);
    return status;
}
