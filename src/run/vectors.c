// SPDX-License-Identifier: MIT
// The joined vectors [dna ; protein] of every open frame, for training: predict's way without a
// classifier and without exports. Windows with an ambiguous letter are left out, as upstream does
// when it makes a training set. The run database and the vectors stay: repeated, nothing is
// computed twice, and an embedding that was interrupted goes on.
#include "run/engine.h"

#include <stdio.h>

enum { BLOCK_WINDOWS = 256, BLOCK_BASES = 1 << 20, DEFAULT_WINDOW = 500 };

static vnp_status plan(struct run_setup *s) {
    const struct vnp_run_options *opt = s->opt;
    const struct vnp_model_spec *esm2 = vnp_checkpoint_spec(opt->esm2);
    const struct vnp_model_spec *dnabert = vnp_checkpoint_spec(opt->dnabert);
    struct run_engine *e = &s->e;
    e->uses[ENC_DNA] = e->uses[ENC_PROTEIN] = true;
    e->n_cols[ENC_DNA] = dnabert->n_hidden;
    e->n_cols[ENC_PROTEIN] = esm2->n_hidden;
    e->off_col[ENC_PROTEIN] = dnabert->n_hidden;
    e->n_row_cols = dnabert->n_hidden + esm2->n_hidden;
    e->is_rows_kept = true;
    e->is_strict = true;
    e->window_bp = opt->window_bp > 0 ? opt->window_bp : DEFAULT_WINDOW;
    e->block_windows = opt->block_windows > 0 ? opt->block_windows : BLOCK_WINDOWS;
    e->block_bases = BLOCK_BASES;
    vnp_run_setup_fact(s, "command", "train");
    vnp_run_setup_fact(s, "window", "%lld", (long long)e->window_bp);
    VNP_TRY(vnp_run_setup_digest(s, "ESM-2 model", opt->esm2));
    return vnp_run_setup_digest(s, "DNABERT-S model", opt->dnabert);
}

vnp_status vnp_run_vectors(struct run_setup *s) {
    const struct vnp_checkpoint *checkpoints[N_ENC] = {s->opt->dnabert, s->opt->esm2};
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    struct vnp_bpe *bpe = NULL;
    VNP_TRY(vnp_run_setup_workers(s, checkpoints, &want));
    VNP_TRY(plan(s));
    VNP_TRY(vnp_run_make_folder(s->opt->out));
    snprintf(s->path_db, sizeof s->path_db, "%s/run.db", s->opt->out);
    snprintf(s->path_data, sizeof s->path_data, "%s/run.vectors", s->opt->out);
    snprintf(s->e.path_status, sizeof s->e.path_status, "%s/run.status.json", s->opt->out);
    VNP_TRY(vnp_run_setup_ledger(s, NULL, 0));
    VNP_TRY(vnp_run_tokenizer_load(s->opt->dnabert, &bpe));
    s->e.bpe = bpe;
    vnp_status status = vnp_run_setup_compute(s);
    vnp_bpe_destroy(bpe);
    s->e.bpe = NULL;
    return status;
}
