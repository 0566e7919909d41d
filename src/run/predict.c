// SPDX-License-Identifier: MIT
// predict: which records are viral. Binds the two encoders and the classifier to the engine, then
// exports from the ledger.
#include "run/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK_WINDOWS = 256, BLOCK_BASES = 1 << 20, DEFAULT_WINDOW = 500 };

vnp_status vnp_run_make_folder(const char *path) {
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part - 64)
        return vnp_fail(VNP_INVAL, VNP_FROM_OUTPUT, "the output path is too long");
    for (char *p = part + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        mkdir(part, 0777);
        *p = '/';
    }
    struct stat st;
    if (mkdir(part, 0777) == 0) return VNP_OK;
    int err = errno;
    if (err == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return VNP_OK;
    vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, err, "making the output folder");
    vnp_error_at(path, -1, -1, NULL);
    return VNP_IO;
}

static vnp_status classify(void *ctx, const float *z, int64_t n, float *scores) {
    return vnp_classifier_run(ctx, z, n, scores);
}

/* A classifier that `train` made knows the encoders whose vectors it has seen. */
static void warn_of_others(const struct run_setup *s) {
    static const char *const keys[] = {"x.trained_on.esm2", "x.trained_on.dnabert"};
    static const char *const facts[] = {"ESM-2 model", "DNABERT-S model"};
    for (size_t k = 0; k < VNP_COUNT(keys); k++) {
        const char *want = vnp_checkpoint_meta(s->opt->classifier, keys[k]);
        for (size_t i = 0; want && i < s->n_facts; i++)
            if (strcmp(s->facts[i].key, facts[k]) == 0 && strcmp(s->facts[i].value, want) != 0)
                vnp_log(VNP_LOG_WARN, "run",
                        "the classifier was trained on another %s (digest %s): its scores mean "
                        "nothing unless both hold the same weights",
                        facts[k], want);
    }
}

static vnp_status plan(struct run_setup *s) {
    const struct vnp_run_options *opt = s->opt;
    if (!opt->esm2 || !opt->dnabert || !opt->classifier || !opt->host)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "predict needs two encoders, a classifier and a host");
    const struct vnp_model_spec *esm2 = vnp_checkpoint_spec(opt->esm2);
    const struct vnp_model_spec *dnabert = vnp_checkpoint_spec(opt->dnabert);
    const struct vnp_model_spec *classifier = vnp_checkpoint_spec(opt->classifier);
    struct run_engine *e = &s->e;
    e->uses[ENC_DNA] = e->uses[ENC_PROTEIN] = true;
    e->n_cols[ENC_DNA] = dnabert->n_hidden;
    e->n_cols[ENC_PROTEIN] = esm2->n_hidden;
    e->off_col[ENC_PROTEIN] = dnabert->n_hidden;
    e->n_row_cols = dnabert->n_hidden + esm2->n_hidden;
    e->is_rows_kept = opt->are_embeddings_saved;
    e->window_bp = opt->window_bp > 0          ? opt->window_bp
                   : classifier->window_bp > 0 ? classifier->window_bp
                                               : DEFAULT_WINDOW;
    e->block_windows = opt->block_windows > 0 ? opt->block_windows : BLOCK_WINDOWS;
    e->block_bases = BLOCK_BASES;
    bool is_split = classifier->n_dna > 0;
    if (classifier->n_dna + classifier->n_protein != e->n_row_cols ||
        (is_split && classifier->n_dna != dnabert->n_hidden))
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                        "the classifier takes %lld + %lld numbers, the encoders give %lld + %lld",
                        (long long)classifier->n_dna, (long long)classifier->n_protein,
                        (long long)dnabert->n_hidden, (long long)esm2->n_hidden);
    vnp_run_setup_fact(s, "command", "predict");
    vnp_run_setup_fact(s, "window", "%lld", (long long)e->window_bp);
    vnp_run_setup_fact(s, "saved embeddings", "%s", e->is_rows_kept ? "yes" : "no");
    VNP_TRY(vnp_run_setup_digest(s, "ESM-2 model", opt->esm2));
    VNP_TRY(vnp_run_setup_digest(s, "DNABERT-S model", opt->dnabert));
    warn_of_others(s);
    return vnp_run_setup_digest(s, "classifier", opt->classifier);
}

static vnp_status compute(struct run_setup *s) {
    const struct vnp_run_options *opt = s->opt;
    struct vnp_device_options dev_opt = {.precision = VNP_PREC_FP32, .n_threads = 1};
    struct vnp_device *host = NULL;
    struct vnp_classifier *classifier = NULL;
    struct vnp_bpe *bpe = NULL;
    vnp_status status = vnp_run_tokenizer_load(opt->dnabert, &bpe);
    if (status == VNP_OK) status = opt->host->device_open(&dev_opt, &host);
    if (status == VNP_OK)
        status = vnp_classifier_create(opt->host, host, opt->classifier, &classifier);
    if (status == VNP_OK) {
        s->e.bpe = bpe;
        s->e.classify = classify;
        s->e.classify_ctx = classifier;
        status = vnp_run_setup_compute(s);
    }
    vnp_classifier_destroy(classifier);
    opt->host->device_close(host);
    vnp_bpe_destroy(bpe);
    return status;
}

static bool is_whole(const struct run_setup *s, const char *const *paths, size_t n) {
    struct stat st;
    for (size_t i = 0; i < n; i++) {
        bool is_left_out = i < 2 && s->opt->are_upstream_files_left_out;
        if (!is_left_out && stat(paths[i], &st) != 0) return false;
    }
    return true;
}

static vnp_status export_all(struct run_setup *s, const char *summary,
                             struct vnp_run_counts *counts) {
    s->e.t_end = vnp_now_s();
    VNP_TRY(vnp_run_export_predict(&s->e, NULL, counts));
    VNP_TRY(vnp_run_summary_write(s, summary, counts));
    VNP_TRY(vnp_ledger_state_set(s->e.ledger, VNP_LEDGER_COMPLETE));
    return vnp_ledger_data_remove(s->e.ledger);
}

const char *const vnp_run_predict_names[RUN_N_PREDICT_NAMES] = {
    "prediction_results.txt",
    "prediction_results_highestscore.csv",
    "contigs.tsv",
    "virus.fna",
    "summary.json",
    "embeddings.npy", /* when asked for */
    "report.html"};   /* of `report`, about this run alone */

static vnp_status predict(struct run_setup *s, struct vnp_run_counts *counts) {
    enum { N_NAMES = RUN_N_PREDICT_NAMES };
    const char *paths[N_NAMES];
    char text[N_NAMES][4096];
    const struct vnp_checkpoint *checkpoints[N_ENC] = {s->opt->dnabert, s->opt->esm2};
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    VNP_TRY(vnp_run_setup_workers(s, checkpoints, &want));
    VNP_TRY(plan(s));
    VNP_TRY(vnp_run_make_folder(s->opt->out));
    for (size_t i = 0; i < N_NAMES; i++) {
        snprintf(text[i], sizeof text[i], "%s/%s", s->opt->out, vnp_run_predict_names[i]);
        paths[i] = text[i];
    }
    snprintf(s->path_db, sizeof s->path_db, "%s/run.db", s->opt->out);
    snprintf(s->path_data, sizeof s->path_data, "%s/run.vectors", s->opt->out);
    snprintf(s->e.path_status, sizeof s->e.path_status, "%s/run.status.json", s->opt->out);
    VNP_TRY(vnp_run_setup_ledger(s, paths, N_NAMES));
    bool was_complete = vnp_ledger_state_get(s->e.ledger) == VNP_LEDGER_COMPLETE;
    size_t n_files = 5 + s->e.is_rows_kept;
    VNP_TRY(compute(s));
    if (!was_complete) return export_all(s, paths[4], counts);
    counts->was_complete = true;
    VNP_TRY(vnp_ledger_data_remove(s->e.ledger)); /* a run that ended just before it did so */
    if (is_whole(s, paths, n_files)) return vnp_run_export_tally(&s->e, counts);
    if (s->e.is_rows_kept && !is_whole(s, paths + 5, 1)) {
        vnp_fail(VNP_NOT_FOUND, VNP_FROM_OUTPUT, "the run is complete, but its vectors are gone");
        vnp_error_at(paths[5], -1, -1, NULL);
        vnp_error_hint("--force computes them again");
        return VNP_NOT_FOUND;
    }
    s->e.is_rows_kept = false; /* they are there; write the other files again */
    return export_all(s, paths[4], counts);
}

vnp_status vnp_run_predict(const struct vnp_run_options *opt, struct vnp_run_counts *out) {
    struct run_setup s = {.opt = opt, .e = {.opt = opt}};
    memset(out, 0, sizeof *out);
    vnp_status status = predict(&s, out);
    vnp_run_setup_fini(&s);
    return status;
}
