/* SPDX-License-Identifier: MIT
 * Inside the run room: the labelled vectors that training.c gives the trainer. */
#ifndef VNP_RUN_TRAINING_H
#define VNP_RUN_TRAINING_H

#include "run/engine.h"

enum { PART_TRAIN = 0, PART_VALID = 1 };

/* One class: its run database stays open (and so locked) as long as its vectors are used. */
struct training_side {
    struct run_setup setup;
    struct vnp_run_options opt;
    char dir[4096], input[64]; /* folder; identity of the input */
    const float *vectors;      /* mapped */
    size_t n_map_bytes;
    int64_t n_windows, n_tokens;
};

struct training_set {
    struct training_side side[2]; /* other, virus */
    int64_t n_cols;
    /* [train, valid] */
    const float **rows[2];
    uint8_t *labels[2];
    int64_t n[2], cap[2];
    int64_t n_records[2][2], n_frames[2][2]; /* [train, valid][class] */
    struct vnp_hash128 valid_ids;            /* of the list's text; 0 without one */
};

/* Embeds what is not embedded yet, maps the vectors and splits the records. */
vnp_status vnp_training_set_open(const struct vnp_run_training_options *opt,
                                 struct training_set *set) VNP_WARN_UNUSED;
void vnp_training_set_close(struct training_set *set);

#endif
