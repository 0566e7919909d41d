// SPDX-License-Identifier: MIT
// The public face of training: options checked and handed to the run room.
#include "api_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_within(double v, double min, double max) {
    return isfinite(v) && v >= min && v <= max;
}

static vnp_status check_numbers(const vnp_training_options *o) {
    const struct {
        const char *name;
        double value, min, max;
    } ranges[] = {{"validation share", o->valid_share, 0.001, 0.9},
                  {"rate", o->lr, 1e-12, 100},
                  {"momentum", o->momentum, 0, 0.9999},
                  {"weight decay", o->weight_decay, 0, 100},
                  {"epochs a step", o->step_epochs, 1, 1e6},
                  {"step factor", o->step_gamma, 1e-6, 10},
                  {"batch", o->batch, 2, 4096},
                  {"epochs", o->max_epochs, 1, 100000},
                  {"patience", o->patience, 1, 100000},
                  {"hidden size", o->n_hidden, 1, 65536},
                  {"dropout", o->dropout, 0, 0.99},
                  {"weight of other", o->weight_other, 1e-6, 1e6},
                  {"weight of virus", o->weight_virus, 1e-6, 1e6}};
    for (size_t i = 0; i < VNP_COUNT(ranges); i++)
        if (!is_within(ranges[i].value, ranges[i].min, ranges[i].max))
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "training: %s is %g; it must be %g to %g",
                            ranges[i].name, ranges[i].value, ranges[i].min, ranges[i].max);
    return VNP_OK;
}

static vnp_status check_options(const vnp_engine *engine, const vnp_training_options *o,
                                const vnp_training_result *out) {
    VNP_TRY(vnp_api_check_struct("training", o, o ? o->size : 0, sizeof *o, o ? o->version : 0));
    if (!engine || engine->purpose != VNP_FOR_TRAIN)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "training: the engine was not made for it");
    if (!out || out->size != sizeof *out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "training: a result of unknown size");
    if (!o->virus || !o->n_virus || !o->other || !o->n_other || !o->out)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                        "training: files of both classes and an output are needed");
    VNP_TRY(vnp_api_check_paths("training", o->virus, o->n_virus));
    VNP_TRY(vnp_api_check_paths("training", o->other, o->n_other));
    if (o->optimizer && strcmp(o->optimizer, "sgd") != 0 && strcmp(o->optimizer, "adamw") != 0)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "the optimizer is 'sgd' or 'adamw', not '%s'",
                        o->optimizer);
    return check_numbers(o);
}

static bool forward_progress(void *ctx, const struct vnp_run_progress *p) {
    const vnp_training_options *o = ctx;
    vnp_progress q = vnp_api_progress_of(p);
    return o->progress(o->progress_ctx, &q) != 0;
}

static void fill_options(const vnp_engine *e, const vnp_training_options *o,
                         struct vnp_run_training_options *r) {
    *r =
        (struct vnp_run_training_options){.run = {.devices = e->devices.list,
                                                  .n_devices = e->devices.n,
                                                  .host = vnp_api_host_backend(),
                                                  .precision = e->devices.precision,
                                                  .n_threads = e->n_threads,
                                                  .budget_tokens = e->n_tokens,
                                                  .window_bp = e->window_bp,
                                                  .n_shards = 1,
                                                  .is_forced = o->is_forced,
                                                  .grace_s = 10,
                                                  .esm2 = e->models.esm2,
                                                  .dnabert = e->models.dnabert,
                                                  .pool = VNP_POOL_MEAN,
                                                  .layer = -1,
                                                  .progress = o->progress ? forward_progress : NULL,
                                                  .progress_ctx = (void *)(uintptr_t)o},
                                          .inputs = {o->other, o->virus},
                                          .n_inputs = {o->n_other, o->n_virus},
                                          .out = o->out,
                                          .bundle = o->bundle,
                                          .valid_ids = o->valid_ids,
                                          .valid_share = o->valid_share,
                                          .is_balanced = o->is_balanced,
                                          .is_uncalibrated = o->is_uncalibrated};
    vnp_train_defaults(&r->train);
    bool is_adam = o->optimizer && strcmp(o->optimizer, "adamw") == 0;
    r->train.optimizer = is_adam ? VNP_TRAIN_ADAMW : VNP_TRAIN_SGD;
    r->train.n_hidden = o->n_hidden;
    r->train.lr = o->lr;
    r->train.momentum = o->momentum;
    r->train.weight_decay = o->weight_decay;
    r->train.step_epochs = o->step_epochs;
    r->train.step_gamma = o->step_gamma;
    r->train.batch = o->batch;
    r->train.max_epochs = o->max_epochs;
    r->train.patience = o->patience;
    r->train.dropout = o->dropout;
    r->train.class_weight[0] = o->weight_other;
    r->train.class_weight[1] = o->weight_virus;
    r->train.seed = o->seed;
}

vnp_status vnp_training_run(vnp_engine *engine, const vnp_training_options *options,
                            vnp_training_result *out) {
    struct vnp_run_training_options o;
    struct vnp_run_training_result r;
    VNP_TRY(check_options(engine, options, out));
    fill_options(engine, options, &o);
    double start = vnp_now_s();
    VNP_TRY(vnp_run_training(&o, &r));
    *out = (vnp_training_result){.size = sizeof *out,
                                 .n_virus_records = r.n_records[0][1],
                                 .n_other_records = r.n_records[0][0],
                                 .n_virus_frames = r.n_frames[0][1],
                                 .n_other_frames = r.n_frames[0][0],
                                 .n_valid_virus_records = r.n_records[1][1],
                                 .n_valid_other_records = r.n_records[1][0],
                                 .n_valid_virus_frames = r.n_frames[1][1],
                                 .n_valid_other_frames = r.n_frames[1][0],
                                 .n_tokens = r.n_tokens,
                                 .n_epochs = r.n_epochs,
                                 .best_epoch = r.best_epoch,
                                 .accuracy = r.valid.accuracy,
                                 .precision = r.valid.precision,
                                 .recall = r.valid.recall,
                                 .f1 = r.valid.f1,
                                 .auroc = r.valid.auroc,
                                 .brier = r.valid.brier,
                                 .loss = r.valid.loss,
                                 .scale = r.scale,
                                 .shift = r.shift,
                                 .was_complete = r.was_complete,
                                 .wall_s = vnp_now_s() - start};
    return VNP_OK;
}
