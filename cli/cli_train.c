// SPDX-License-Identifier: MIT
// train: options to an engine and a training, its result to closing lines.
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct train_options {
    const char *out, *bundle, *valid_ids, *models, *esm, *dnabert, *device, *precision, *optimizer;
    const char *weights;
    struct vnp_cli_list virus, other;
    int64_t window_bp, n_threads, n_tokens, batch, epochs, patience, hidden, step_epochs, seed;
    double valid_share, lr, momentum, weight_decay, step_gamma, dropout, weight_other, weight_virus;
    bool is_balanced, is_uncalibrated, is_forced, is_quiet, is_verbose, is_json;
};

static int read_weights(struct train_options *o) {
    char *end, *rest;
    if (!o->weights) return 0;
    o->is_balanced = strcmp(o->weights, "balanced") == 0;
    if (o->is_balanced || strcmp(o->weights, "none") == 0) return 0;
    o->weight_other = strtod(o->weights, &end);
    if (end != o->weights && *end == ':') {
        o->weight_virus = strtod(end + 1, &rest);
        if (rest != end + 1 && !*rest && o->weight_other > 0 && o->weight_virus > 0) return 0;
    }
    return vnp_cli_usage("train", "--class-weights is none, balanced or OTHER:VIRUS, not '%s'",
                         o->weights);
}

static int check(struct train_options *o, const struct vnp_cli_args *args) {
    if (args->n_positional)
        return vnp_cli_usage("train", "'%s': say of which class it is: --virus %s or --other %s",
                             args->positional[0], args->positional[0], args->positional[0]);
    if (!o->virus.n) return vnp_cli_usage("train", "no viral sequences; --virus names their files");
    if (!o->other.n)
        return vnp_cli_usage("train", "no cellular sequences; --other names their files");
    if (!o->out) return vnp_cli_usage("train", "no output; -o says where the classifier goes");
    for (int i = 0; i < o->virus.n + o->other.n; i++) {
        bool is_virus = i < o->virus.n;
        const char *path = is_virus ? o->virus.items[i] : o->other.items[i - o->virus.n];
        if (strcmp(path, "-") == 0)
            return vnp_cli_usage("train", "standard input cannot be read twice; name files");
    }
    if (o->is_quiet && o->is_verbose)
        return vnp_cli_usage("train", "--quiet and --verbose contradict each other");
    if (o->optimizer && strcmp(o->optimizer, "sgd") != 0 && strcmp(o->optimizer, "adamw") != 0)
        return vnp_cli_usage("train", "--optimizer is sgd or adamw, not '%s'", o->optimizer);
    return read_weights(o);
}

static vnp_status make_engine(const struct train_options *o, vnp_engine **engine) {
    vnp_engine_options e = VNP_ENGINE_OPTIONS_INIT;
    e.purpose = VNP_FOR_TRAIN;
    e.models = o->models;
    e.esm = o->esm;
    e.dnabert = o->dnabert;
    e.device = o->device;
    e.precision = o->precision;
    e.n_threads = (int32_t)o->n_threads;
    e.n_tokens = o->n_tokens;
    e.window_bp = (int32_t)o->window_bp;
    return vnp_engine_create(&e, engine);
}

static void fill(const struct train_options *o, vnp_training_options *t) {
    t->virus = o->virus.items;
    t->n_virus = (size_t)o->virus.n;
    t->other = o->other.items;
    t->n_other = (size_t)o->other.n;
    t->out = o->out;
    t->bundle = o->bundle;
    t->valid_ids = o->valid_ids;
    t->valid_share = o->valid_share / 100;
    t->optimizer = o->optimizer;
    t->lr = o->lr;
    t->momentum = o->momentum;
    t->weight_decay = o->weight_decay;
    t->step_epochs = (int32_t)o->step_epochs;
    t->step_gamma = o->step_gamma;
    t->batch = (int32_t)o->batch;
    t->max_epochs = (int32_t)o->epochs;
    t->patience = (int32_t)o->patience;
    t->n_hidden = (int32_t)o->hidden;
    t->dropout = o->dropout;
    t->weight_other = o->weight_other;
    t->weight_virus = o->weight_virus;
    t->is_balanced = o->is_balanced;
    t->is_uncalibrated = o->is_uncalibrated;
    t->is_forced = o->is_forced;
    t->seed = (uint64_t)o->seed;
    t->progress = vnp_cli_progress;
}

static void say_result(const struct train_options *o, const vnp_training_result *r) {
    if (r->was_complete)
        vnp_cli_say(2, "this training was complete already; nothing was done. --force starts anew");
    vnp_cli_say(2, "trained on %lld virus and %lld other frames of %lld records",
                (long long)r->n_virus_frames, (long long)r->n_other_frames,
                (long long)(r->n_virus_records + r->n_other_records));
    if (r->n_epochs)
        vnp_cli_say(2,
                    "judged on %lld frames of %lld other records: AUROC %.4f, accuracy %.4f, "
                    "F1 %.4f, Brier %.4f (epoch %d of %d)",
                    (long long)(r->n_valid_virus_frames + r->n_valid_other_frames),
                    (long long)(r->n_valid_virus_records + r->n_valid_other_records), r->auroc,
                    r->accuracy, r->f1, r->brier, r->best_epoch, r->n_epochs);
    vnp_cli_say(2, "classifier in %s, epochs in %s.log.tsv; %s.train keeps the vectors", o->out,
                o->out, o->out);
    if (o->bundle) vnp_cli_say(2, "encoders and classifier in %s", o->bundle);
}

static int train(const struct train_options *o, const char *command_line) {
    vnp_engine *engine = NULL;
    vnp_training_options t = VNP_TRAINING_OPTIONS_INIT;
    vnp_training_result r = {.size = sizeof r};
    vnp_engine_info info = {.size = sizeof info};
    struct vnp_cli_report_options report = {
        .is_quiet = o->is_quiet, .is_verbose = o->is_verbose, .is_json = o->is_json};
    vnp_cli_report_open(&report);
    fill(o, &t);
    vnp_status s = make_engine(o, &engine);
    if (s == VNP_OK && vnp_engine_info_get(engine, &info) == VNP_OK) {
        vnp_cli_say(2, "device %s, precision %s (%s)", info.device, info.precision, info.why);
        vnp_cli_say(2, "encoders %s; windows of %d bp", info.models, info.window_bp);
    }
    if (s == VNP_OK) s = vnp_training_run(engine, &t, &r);
    int rc = VNP_EXIT_OK;
    if (s == VNP_OK) {
        say_result(o, &r);
        vnp_cli_closing_lines(command_line, r.wall_s, 0);
    } else {
        rc = vnp_cli_fail();
    }
    vnp_engine_destroy(engine);
    vnp_cli_report_close();
    return rc;
}

int vnp_cli_train(int argc, char **argv, const char *command_line) {
    struct train_options options = {.batch = 32,
                                    .epochs = 200,
                                    .patience = 5,
                                    .hidden = 512,
                                    .step_epochs = 10,
                                    .seed = 42,
                                    .valid_share = 10,
                                    .lr = 2e-4,
                                    .momentum = 0.9,
                                    .weight_decay = 0.01,
                                    .step_gamma = 0.85,
                                    .dropout = 0.5,
                                    .weight_other = 1,
                                    .weight_virus = 1},
                         *o = &options;
    const struct vnp_cli_option table[] = {
        {"virus", 0, VNP_OPT_LIST, &o->virus, NULL, 0, 0},
        {"other", 0, VNP_OPT_LIST, &o->other, NULL, 0, 0},
        {"output", 'o', VNP_OPT_TEXT, &o->out, NULL, 0, 0},
        {"bundle", 0, VNP_OPT_TEXT, &o->bundle, NULL, 0, 0},
        {"models", 0, VNP_OPT_TEXT, &o->models, NULL, 0, 0},
        {"esm", 0, VNP_OPT_TEXT, &o->esm, NULL, 0, 0},
        {"dnabert", 0, VNP_OPT_TEXT, &o->dnabert, NULL, 0, 0},
        {"window", 0, VNP_OPT_INT, &o->window_bp, "window_bp", 0, 0},
        {"valid-share", 0, VNP_OPT_REAL, &o->valid_share, NULL, 0, 90},
        {"valid-ids", 0, VNP_OPT_TEXT, &o->valid_ids, NULL, 0, 0},
        {"optimizer", 0, VNP_OPT_TEXT, &o->optimizer, NULL, 0, 0},
        {"lr", 0, VNP_OPT_REAL, &o->lr, NULL, 0, 100},
        {"momentum", 0, VNP_OPT_REAL, &o->momentum, NULL, 0, 1},
        {"weight-decay", 0, VNP_OPT_REAL, &o->weight_decay, NULL, 0, 100},
        {"step-epochs", 0, VNP_OPT_INT, &o->step_epochs, NULL, 1, 100000},
        {"step-factor", 0, VNP_OPT_REAL, &o->step_gamma, NULL, 0, 10},
        {"batch", 0, VNP_OPT_INT, &o->batch, NULL, 2, 4096},
        {"epochs", 0, VNP_OPT_INT, &o->epochs, NULL, 1, 100000},
        {"patience", 0, VNP_OPT_INT, &o->patience, NULL, 1, 100000},
        {"hidden", 0, VNP_OPT_INT, &o->hidden, NULL, 1, 65536},
        {"dropout", 0, VNP_OPT_REAL, &o->dropout, NULL, 0, 1},
        {"class-weights", 0, VNP_OPT_TEXT, &o->weights, NULL, 0, 0},
        {"seed", 0, VNP_OPT_INT, &o->seed, NULL, 0, INT64_MAX},
        {"uncalibrated", 0, VNP_OPT_FLAG, &o->is_uncalibrated, NULL, 0, 0},
        {"force", 0, VNP_OPT_FLAG, &o->is_forced, NULL, 0, 0},
        {"device", 0, VNP_OPT_TEXT, &o->device, NULL, 0, 0},
        {"precision", 0, VNP_OPT_TEXT, &o->precision, NULL, 0, 0},
        {"threads", 0, VNP_OPT_INT, &o->n_threads, "n_threads", 0, 0},
        {"tokens", 0, VNP_OPT_INT, &o->n_tokens, "n_tokens", 0, 0},
        {"quiet", 'q', VNP_OPT_FLAG, &o->is_quiet, NULL, 0, 0},
        {"verbose", 'v', VNP_OPT_FLAG, &o->is_verbose, NULL, 0, 0},
        {"log-json", 0, VNP_OPT_FLAG, &o->is_json, NULL, 0, 0},
        {NULL, 0, VNP_OPT_FLAG, NULL, NULL, 0, 0}};
    struct vnp_cli_args args = {.command = "train"};
    const char **memory = calloc(3 * ((size_t)argc + 1), sizeof *memory);
    if (!memory) return VNP_EXIT_INTERNAL;
    args.positional = memory;
    o->virus.items = memory + argc + 1;
    o->other.items = memory + 2 * (argc + 1);
    int rc = vnp_cli_parse(argc, argv, table, &args);
    if (rc == 0 && args.is_help)
        rc = vnp_cli_help("train");
    else if (rc == 0 && (rc = check(o, &args)) == 0)
        rc = train(o, command_line);
    free(memory);
    return rc;
}
