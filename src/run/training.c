// SPDX-License-Identifier: MIT
// Training of a classifier from labelled files: vectors (training_set.c), epochs, the state on disk
// after each, the log, the calibrated head. What decides the head (data, models, options, seed) is
// summed up in a key, which stands in the state and in the head: a state or head with another key
// belongs to another training.
#include "run/training.h"
#include "out/out.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct training {
    const struct vnp_run_training_options *opt;
    struct training_set set;
    struct vnp_train_options train; /* with the class weights in force */
    struct vnp_train_data data[2];  /* train, valid */
    struct vnp_trainer *trainer;
    struct vnp_train_epoch *epochs; /* [max_epochs] */
    int n_epochs, best_epoch;
    char key[33], path_state[4096], path_log[4096];
    char digest[N_ENC][33];
    double t_start;
};

/* ---- what this training is ------------------------------------------------------------------ */

static vnp_status digests(struct training *t) {
    struct vnp_checkpoint *const c[N_ENC] = {t->opt->run.dnabert, t->opt->run.esm2};
    for (int enc = 0; enc < N_ENC; enc++) {
        struct vnp_hash128 h;
        VNP_TRY(vnp_checkpoint_digest(c[enc], &h));
        vnp_hash_hex(h, t->digest[enc]);
    }
    return VNP_OK;
}

static void make_key(struct training *t) {
    const struct vnp_train_options *o = &t->train;
    const struct vnp_run_options *run = &t->opt->run;
    char text[2048], ids[33];
    vnp_hash_hex(t->set.valid_ids, ids);
    snprintf(text, sizeof text,
             "1 %s %s %s %s %lld|%s|%s|%s %.17g %d|%d %lld %.17g %.17g %.17g %d %.17g %d %d %d "
             "%.17g %.17g %.17g %llu %d",
             t->digest[ENC_DNA], t->digest[ENC_PROTEIN], vnp_precision_name(run->precision),
             run->devices[0].backend->name, (long long)t->set.side[0].setup.e.window_bp,
             t->set.side[0].input, t->set.side[1].input, ids, t->opt->valid_share,
             t->opt->is_balanced, (int)o->optimizer, (long long)o->n_hidden, o->lr, o->momentum,
             o->weight_decay, o->step_epochs, o->step_gamma, o->batch, o->max_epochs, o->patience,
             o->dropout, o->class_weight[0], o->class_weight[1], (unsigned long long)o->seed,
             t->opt->is_uncalibrated);
    vnp_hash_hex(vnp_hash(text, strlen(text)), t->key);
}

static void weigh_classes(struct training *t) {
    const int64_t *n = t->set.n_frames[PART_TRAIN];
    t->train = t->opt->train;
    if (!t->opt->is_balanced) return;
    for (int c = 0; c < 2; c++)
        t->train.class_weight[c] = (double)(n[0] + n[1]) / (2 * (double)n[c]);
}

/* ---- state ---------------------------------------------------------------------------------- */

struct state_head {
    char magic[8], key[40];
    int64_t n_epochs, best_epoch;
};
static const char state_magic[8] = "vnphead";

static vnp_status state_write(struct training *t) {
    size_t n = vnp_trainer_state_bytes(t->trainer);
    struct state_head head = {.n_epochs = t->n_epochs, .best_epoch = t->best_epoch};
    struct vnp_outfile *f = NULL;
    void *state = malloc(n);
    if (!state) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "training state");
    memcpy(head.magic, state_magic, sizeof head.magic);
    memcpy(head.key, t->key, sizeof t->key);
    vnp_trainer_state_save(t->trainer, state);
    vnp_status status = vnp_outfile_open(t->path_state, &f);
    if (status == VNP_OK) status = vnp_outfile_write(f, &head, sizeof head);
    if (status == VNP_OK)
        status = vnp_outfile_write(f, t->epochs, (size_t)t->n_epochs * sizeof *t->epochs);
    if (status == VNP_OK) status = vnp_outfile_write(f, state, n);
    free(state);
    if (status == VNP_OK) return vnp_outfile_commit(f);
    vnp_outfile_abort(f);
    return status;
}

static bool state_parse(struct training *t, FILE *f, void *state, size_t n) {
    struct state_head head;
    if (fread(&head, sizeof head, 1, f) != 1 || memcmp(head.magic, state_magic, 8) != 0)
        return false;
    if (strncmp(head.key, t->key, sizeof t->key) != 0 || head.n_epochs < 0 ||
        head.n_epochs > t->train.max_epochs)
        return false;
    if (fread(t->epochs, sizeof *t->epochs, (size_t)head.n_epochs, f) != (size_t)head.n_epochs ||
        fread(state, 1, n, f) != n || fgetc(f) != EOF)
        return false;
    t->n_epochs = (int)head.n_epochs;
    t->best_epoch = (int)head.best_epoch;
    return true;
}

/* A state of this training is taken up; any other is left behind and replaced. */
static vnp_status state_read(struct training *t) {
    FILE *f = fopen(t->path_state, "rb");
    size_t n = vnp_trainer_state_bytes(t->trainer);
    if (!f) return VNP_OK;
    void *state = malloc(n);
    bool is_ours = state && state_parse(t, f, state, n);
    fclose(f);
    vnp_status status = VNP_OK;
    if (is_ours)
        status = vnp_trainer_state_load(t->trainer, state, n);
    else
        vnp_log(VNP_LOG_INFO, "train", "%s belongs to another training: the epochs start anew",
                t->path_state);
    free(state);
    if (is_ours && status == VNP_OK)
        vnp_log(VNP_LOG_INFO, "train", "going on after epoch %d", t->n_epochs);
    return status;
}

/* ---- log ------------------------------------------------------------------------------------ */

static vnp_status log_row(struct vnp_outfile *f, const char *epoch, double lr, double train_loss,
                          const struct vnp_train_metrics *m, const char *note) {
    return vnp_outfile_printf(f, "%s\t%.6g\t%.6f\t%.6f\t%.5f\t%.5f\t%.5f\t%.5f\t%.5f\t%.5f\t%s\n",
                              epoch, lr, train_loss, m->loss, m->accuracy, m->precision, m->recall,
                              m->f1, m->auroc, m->brier, note);
}

static vnp_status log_fill(const struct training *t, struct vnp_outfile *f,
                           const struct vnp_run_training_result *final) {
    const struct training_set *s = &t->set;
    char epoch[32];
    for (int part = 0; part < 2; part++)
        VNP_TRY(
            vnp_outfile_printf(f, "# %s: %lld virus and %lld other records, %lld and %lld frames\n",
                               part == PART_TRAIN ? "train" : "validation",
                               (long long)s->n_records[part][1], (long long)s->n_records[part][0],
                               (long long)s->n_frames[part][1], (long long)s->n_frames[part][0]));
    VNP_TRY(vnp_outfile_printf(f, "epoch\tlr\ttrain_loss\tvalid_loss\taccuracy\tprecision\trecall\t"
                                  "f1\tauroc\tbrier\tnote\n"));
    for (int i = 0; i < t->n_epochs; i++) {
        const struct vnp_train_epoch *e = &t->epochs[i];
        snprintf(epoch, sizeof epoch, "%d", e->epoch);
        VNP_TRY(log_row(f, epoch, e->lr, e->train_loss, &e->valid, e->is_best ? "best" : ""));
    }
    if (!final) return VNP_OK;
    snprintf(epoch, sizeof epoch, "%d", final->best_epoch);
    const struct vnp_train_epoch *best = &t->epochs[final->best_epoch - 1];
    return log_row(f, epoch, best->lr, best->train_loss, &final->valid,
                   t->opt->is_uncalibrated ? "head" : "head, calibrated");
}

/* Written anew after each epoch: at most a row an epoch. */
static vnp_status log_write(const struct training *t, const struct vnp_run_training_result *final) {
    struct vnp_outfile *f;
    VNP_TRY(vnp_outfile_open(t->path_log, &f));
    vnp_status status = log_fill(t, f, final);
    if (status == VNP_OK) return vnp_outfile_commit(f);
    vnp_outfile_abort(f);
    return status;
}

/* ---- epochs --------------------------------------------------------------------------------- */

static bool on_batches(void *ctx, int64_t n_done, int64_t n) {
    struct training *t = ctx;
    const struct vnp_run_options *run = &t->opt->run;
    if (vnp_run_is_stop_requested()) return false;
    struct vnp_run_progress p = {.n_frames = n * t->n_epochs + n_done,
                                 .n_bytes_read = n_done,
                                 .n_bytes_total = n,
                                 .elapsed_s = vnp_now_s() - t->t_start,
                                 .stage = "training"};
    return !run->progress || run->progress(run->progress_ctx, &p);
}

static vnp_status run_epochs(struct training *t) {
    while (!vnp_trainer_is_done(t->trainer)) {
        struct vnp_train_epoch *e = &t->epochs[t->n_epochs];
        if (vnp_run_is_stop_requested())
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
        VNP_TRY(vnp_trainer_epoch(t->trainer, &t->data[PART_TRAIN], &t->data[PART_VALID], e));
        t->n_epochs++;
        if (e->is_best) t->best_epoch = e->epoch;
        VNP_TRY(state_write(t));
        VNP_TRY(log_write(t, NULL));
        vnp_log(VNP_LOG_INFO, "train",
                "epoch %d: loss %.4f; validation: loss %.4f, accuracy %.3f, F1 %.3f, AUROC %.4f "
                "(%.1f s, %.0f frames/s)%s",
                e->epoch, e->train_loss, e->valid.loss, e->valid.accuracy, e->valid.f1,
                e->valid.auroc, e->seconds,
                e->seconds > 0 ? (double)t->data[PART_TRAIN].n / e->seconds : 0,
                e->is_best ? " *" : "");
    }
    return VNP_OK;
}

static vnp_status prepare(struct training *t) {
    for (int part = 0; part < 2; part++)
        t->data[part] = (struct vnp_train_data){.rows = t->set.rows[part],
                                                .labels = t->set.labels[part],
                                                .n = t->set.n[part],
                                                .n_in = t->set.n_cols};
    t->train.n_threads = t->opt->run.n_threads;
    t->train.progress = on_batches;
    t->train.progress_ctx = t;
    t->epochs = calloc((size_t)t->train.max_epochs + 1, sizeof *t->epochs);
    if (!t->epochs) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "epochs");
    VNP_TRY(vnp_trainer_create(&t->train, t->set.n_cols, &t->trainer));
    return state_read(t);
}

/* ---- head ----------------------------------------------------------------------------------- */

static vnp_status head_finish(struct training *t, struct vnp_run_training_result *out) {
    const struct vnp_train_data *valid = &t->data[PART_VALID];
    out->scale = 1;
    if (!t->opt->is_uncalibrated) {
        vnp_status status = vnp_trainer_calibrate(t->trainer, valid, &out->scale, &out->shift);
        if (status == VNP_INVAL) {
            vnp_log(VNP_LOG_WARN, "train", "not calibrated: %s", vnp_error_last()->text);
            out->scale = 1, out->shift = 0;
            vnp_error_clear();
        } else {
            VNP_TRY(status);
        }
    }
    return vnp_trainer_measure(t->trainer, valid, &out->valid);
}

static vnp_status head_write(struct training *t, const struct vnp_run_training_result *r,
                             const struct vnp_checkpoint *head) {
    char note[512], valid[512], data[256], calibration[64];
    const struct vnp_train_metrics *m = &r->valid;
    snprintf(note, sizeof note,
             "classifier trained with 'virnucpro train' on %lld virus and %lld other frames; "
             "AUROC %.3f on the validation part (%lld records)",
             (long long)r->n_frames[PART_TRAIN][1], (long long)r->n_frames[PART_TRAIN][0], m->auroc,
             (long long)(r->n_records[PART_VALID][0] + r->n_records[PART_VALID][1]));
    snprintf(valid, sizeof valid,
             "frames: accuracy %.4f, precision %.4f, recall %.4f, F1 %.4f, AUROC %.4f, Brier %.4f",
             m->accuracy, m->precision, m->recall, m->f1, m->auroc, m->brier);
    snprintf(data, sizeof data, "virus %s; other %s", t->set.side[1].input, t->set.side[0].input);
    snprintf(calibration, sizeof calibration, "%.9g %.9g", r->scale, r->shift);
    const struct vnp_bundle_meta meta[] = {{"trained_on.dnabert", t->digest[ENC_DNA]},
                                           {"trained_on.esm2", t->digest[ENC_PROTEIN]},
                                           {"training.key", t->key},
                                           {"training.data", data},
                                           {"training.valid", valid},
                                           {"training.calibration", calibration}};
    struct vnp_bundle_parts parts = {.classifier = head,
                                     .window_bp = t->set.side[0].setup.e.window_bp,
                                     .note = note,
                                     .meta = meta,
                                     .n_meta = VNP_COUNT(meta)};
    if (t->opt->bundle) { /* first: the head says that the training is complete */
        struct vnp_bundle_parts whole = parts;
        whole.esm2 = t->opt->run.esm2;
        whole.dnabert = t->opt->run.dnabert;
        VNP_TRY(vnp_bundle_write(t->opt->bundle, &whole));
    }
    return vnp_bundle_write(t->opt->out, &parts);
}

static vnp_status write_all(struct training *t, const struct vnp_run_training_result *r) {
    struct vnp_classifier_params params;
    struct vnp_checkpoint *head;
    const char *slash = strrchr(t->opt->out, '/');
    char name[128];
    snprintf(name, sizeof name, "%.100s", slash ? slash + 1 : t->opt->out);
    VNP_TRY(vnp_trainer_params(t->trainer, &params));
    VNP_TRY(vnp_checkpoint_from_classifier(&params, name,
                                           vnp_checkpoint_spec(t->opt->run.dnabert)->n_hidden,
                                           t->set.side[0].setup.e.window_bp, &head));
    vnp_status status = head_write(t, r, head);
    vnp_checkpoint_close(head);
    return status;
}

static vnp_status exists_already(const char *path, const char *text) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "%s", text);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("name another output, or --force to replace it");
    return VNP_MISMATCH;
}

static bool is_there(const char *path) {
    struct stat st;
    return path && stat(path, &st) == 0;
}

/* --force over a finished head: it and the state go, so that a repetition after a kill goes on. */
static vnp_status remove_old(const struct training *t) {
    const char *const paths[] = {t->path_state, t->opt->out};
    for (size_t i = 0; i < VNP_COUNT(paths); i++) {
        if (unlink(paths[i]) == 0 || errno == ENOENT) continue;
        vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, errno, "removing the old training");
        vnp_error_at(paths[i], -1, -1, NULL);
        return VNP_IO;
    }
    return VNP_OK;
}

/* A head with this key means that nothing is left to do. */
static vnp_status look_at_output(struct training *t, bool *is_complete) {
    struct vnp_checkpoint *head;
    const char *path = t->opt->out;
    *is_complete = false;
    if (!is_there(path)) return VNP_OK;
    if (t->opt->run.is_forced) return remove_old(t);
    if (vnp_checkpoint_open(path, VNP_MODEL_CLASSIFIER, &head) != VNP_OK)
        return exists_already(path, "the file exists and is no classifier");
    const char *key = vnp_checkpoint_meta(head, "x.training.key");
    bool is_ours = key && strcmp(key, t->key) == 0;
    vnp_checkpoint_close(head);
    if (!is_ours)
        return exists_already(path, "the file is a classifier of another training (other data, "
                                    "models, options or seed)");
    *is_complete = !t->opt->bundle || is_there(t->opt->bundle);
    return VNP_OK;
}

/* Before hours of embedding: outputs that cannot be this training's. */
static vnp_status check_outputs(const struct training *t) {
    char work[4096];
    const struct vnp_run_training_options *o = t->opt;
    snprintf(work, sizeof work, "%s.train", o->out);
    if (o->run.is_forced || is_there(work)) return VNP_OK;
    const char *const paths[] = {o->out, o->bundle};
    for (size_t i = 0; i < VNP_COUNT(paths); i++)
        if (is_there(paths[i])) return exists_already(paths[i], "the file exists already");
    return VNP_OK;
}

enum { FEW_RECORDS = 10 };

static void report(const struct training *t, struct vnp_run_training_result *out) {
    memcpy(out->n_records, t->set.n_records, sizeof out->n_records);
    memcpy(out->n_frames, t->set.n_frames, sizeof out->n_frames);
    for (int c = 0; c < 2; c++) {
        out->n_windows += t->set.side[c].n_windows;
        out->n_tokens += t->set.side[c].n_tokens;
    }
    for (int part = 0; part < 2; part++)
        vnp_log(VNP_LOG_INFO, "train",
                "%s: %lld virus and %lld other records, %lld and %lld frames",
                part == PART_TRAIN ? "training part" : "validation part",
                (long long)out->n_records[part][1], (long long)out->n_records[part][0],
                (long long)out->n_frames[part][1], (long long)out->n_frames[part][0]);
    for (int c = 0; c < 2; c++)
        if (out->n_records[PART_VALID][c] < FEW_RECORDS)
            vnp_log(VNP_LOG_WARN, "train",
                    "%lld %s record%s in the validation part: its figures, the choice of the epoch "
                    "and the calibration rest on little",
                    (long long)out->n_records[PART_VALID][c], c ? "virus" : "other",
                    out->n_records[PART_VALID][c] == 1 ? "" : "s");
}

static vnp_status train_head(struct training *t, struct vnp_run_training_result *out) {
    const struct vnp_run_training_options *o = t->opt;
    if (!o->run.esm2 || !o->run.dnabert || !o->out || !o->n_inputs[0] || !o->n_inputs[1])
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "training needs two encoders, files of both classes and an output");
    snprintf(t->path_state, sizeof t->path_state, "%s.train/state", o->out);
    snprintf(t->path_log, sizeof t->path_log, "%s.log.tsv", o->out);
    VNP_TRY(check_outputs(t));
    VNP_TRY(vnp_training_set_open(o, &t->set));
    weigh_classes(t);
    VNP_TRY(digests(t));
    make_key(t);
    report(t, out);
    t->t_start = vnp_now_s();
    VNP_TRY(look_at_output(t, &out->was_complete));
    VNP_TRY(prepare(t));
    if (out->was_complete && !vnp_trainer_is_done(t->trainer)) return VNP_OK; /* no state */
    VNP_TRY(run_epochs(t));
    out->n_epochs = t->n_epochs;
    out->best_epoch = VNP_MAX(1, t->best_epoch);
    VNP_TRY(head_finish(t, out));
    if (out->was_complete) return VNP_OK;
    VNP_TRY(log_write(t, out));
    return write_all(t, out);
}

vnp_status vnp_run_training(const struct vnp_run_training_options *opt,
                            struct vnp_run_training_result *out) {
    struct training *t = calloc(1, sizeof *t);
    memset(out, 0, sizeof *out);
    if (!t) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "training");
    t->opt = opt;
    vnp_status status = train_head(t, out);
    vnp_trainer_destroy(t->trainer);
    free(t->epochs);
    vnp_training_set_close(&t->set);
    free(t);
    return status;
}
