// SPDX-License-Identifier: MIT
// A classifier that was trained in memory, as a checkpoint like one from a file: so that it can be
// written as a bundle's part and read back by everything that reads models.
#include "weights_internal.h"

#include <stdlib.h>
#include <string.h>

enum { N_PARTS = 8 };

struct part {
    const char *name;
    const float *data;
    int64_t rows, cols; /* rows 0: a vector */
};

static vnp_status add_part(struct vnp_raw *raw, const struct part *p, float *to) {
    struct vnp_raw_tensor *t = vnp_raw_add(raw, p->name, strlen(p->name), raw->path);
    if (!t) return vnp_error_last()->status;
    size_t n = (size_t)(VNP_MAX(p->rows, 1) * p->cols);
    memcpy(to, p->data, n * sizeof *to);
    t->dtype = VNP_F32;
    strcpy(t->dtype_name, "F32");
    t->n_dims = p->rows ? 2 : 1;
    t->shape[0] = p->rows ? p->rows : p->cols;
    if (p->rows) t->shape[1] = p->cols;
    t->data = (const uint8_t *)to;
    t->n_bytes = n * sizeof *to;
    t->is_contiguous = true;
    return VNP_OK;
}

static vnp_status fill(struct vnp_checkpoint *c, const struct part *parts) {
    size_t n = 0;
    for (int i = 0; i < N_PARTS; i++) n += (size_t)(VNP_MAX(parts[i].rows, 1) * parts[i].cols);
    float *at = malloc(n * sizeof *at);
    c->own_data = at;
    if (!at) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a classifier");
    for (int i = 0; i < N_PARTS; i++) {
        VNP_TRY(add_part(c->raw, &parts[i], at));
        at += VNP_MAX(parts[i].rows, 1) * parts[i].cols;
    }
    VNP_TRY(vnp_raw_finish(c->raw));
    return vnp_canon_build(c, VNP_MODEL_CLASSIFIER);
}

vnp_status vnp_checkpoint_from_classifier(const struct vnp_classifier_params *p, const char *name,
                                          int64_t n_dna, int64_t window_bp,
                                          struct vnp_checkpoint **out) {
    const int64_t h = p->n_hidden;
    const struct part parts[N_PARTS] = {
        {"hidden_layer.weight", p->w1, h, p->n_in}, {"hidden_layer.bias", p->b1, 0, h},
        {"bn1.weight", p->bn_gamma, 0, h},          {"bn1.bias", p->bn_beta, 0, h},
        {"bn1.running_mean", p->bn_mean, 0, h},     {"bn1.running_var", p->bn_var, 0, h},
        {"output_layer.weight", p->w2, 2, h},       {"output_layer.bias", p->b2, 0, 2}};
    *out = NULL;
    if (n_dna < 0 || n_dna > p->n_in)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a classifier's DNA columns: %lld of %lld",
                        (long long)n_dna, (long long)p->n_in);
    struct vnp_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a classifier");
    c->raw = vnp_raw_create(name);
    vnp_status status =
        c->raw ? fill(c, parts) : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a classifier");
    if (status != VNP_OK) {
        vnp_checkpoint_close(c);
        return status;
    }
    c->raw->format = "trained in memory";
    c->spec.n_dna = n_dna;
    c->spec.n_protein = p->n_in - n_dna;
    c->spec.window_bp = window_bp;
    *out = c;
    return VNP_OK;
}
