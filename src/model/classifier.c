// SPDX-License-Identifier: MIT
// The classifier's parameters as FP32 host arrays, whatever the file stored, and its run on a host
// backend. The mathematics stands in op.h and is the backend's.
#include "model/model_room.h"

#include <math.h>
#include <stdlib.h>

struct vnp_classifier {
    const struct vnp_backend *b;
    struct vnp_device *dev;
    struct vnp_model_spec spec;
    struct vnp_classifier_params p;
    float *values; /* all of them, p points into it */
};

/* Appends tensor NAME of [rows][cols] to the values at *n. */
static vnp_status load(struct vnp_classifier *k, const struct vnp_checkpoint *c, const char *name,
                       int64_t rows, int64_t cols, int64_t *n, const float **out) {
    struct vnp_view v;
    VNP_TRY(vnp_checkpoint_view(c, &v, "%s", name));
    if (v.rows != rows || v.cols != cols)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "%s is [%lld][%lld], expected [%lld][%lld]",
                        name, (long long)v.rows, (long long)v.cols, (long long)rows,
                        (long long)cols);
    vnp_convert_to_f32(v.dtype, v.data, rows * cols, k->values + *n);
    *out = k->values + *n;
    *n += rows * cols;
    return VNP_OK;
}

static vnp_status load_all(struct vnp_classifier *k, const struct vnp_checkpoint *c) {
    struct vnp_classifier_params *p = &k->p;
    struct vnp_view w1;
    VNP_TRY(vnp_checkpoint_view(c, &w1, "hidden.weight"));
    p->n_in = w1.cols;
    p->n_hidden = w1.rows;
    p->bn_eps = 1e-5f;
    int64_t n_in = p->n_in, n_hidden = p->n_hidden, n = 0;
    size_t n_values, n_bytes;
    if (n_in < 1 || n_hidden < 1 || !vnp_size_mul((size_t)n_hidden, (size_t)n_in + 7, &n_values) ||
        !vnp_size_add(n_values, 2, &n_values) || !vnp_size_mul(n_values, sizeof(float), &n_bytes))
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "hidden.weight is [%lld][%lld]",
                        (long long)n_hidden, (long long)n_in);
    k->values = vnp_alloc_aligned(n_bytes);
    if (!k->values)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "%zu bytes for a classifier", n_bytes);
    VNP_TRY(load(k, c, "hidden.weight", n_hidden, n_in, &n, &p->w1));
    VNP_TRY(load(k, c, "hidden.bias", 1, n_hidden, &n, &p->b1));
    VNP_TRY(load(k, c, "bn.weight", 1, n_hidden, &n, &p->bn_gamma));
    VNP_TRY(load(k, c, "bn.bias", 1, n_hidden, &n, &p->bn_beta));
    VNP_TRY(load(k, c, "bn.mean", 1, n_hidden, &n, &p->bn_mean));
    VNP_TRY(load(k, c, "bn.var", 1, n_hidden, &n, &p->bn_var));
    VNP_TRY(load(k, c, "output.weight", 2, n_hidden, &n, &p->w2));
    return load(k, c, "output.bias", 1, 2, &n, &p->b2);
}

vnp_status vnp_classifier_create(const struct vnp_backend *host, struct vnp_device *dev,
                                 const struct vnp_checkpoint *c, struct vnp_classifier **out) {
    *out = NULL;
    VNP_TRY(vnp_backend_check(host, VNP_NEED_CLASSIFIER));
    const struct vnp_model_spec *spec = vnp_checkpoint_spec(c);
    if (spec->kind != VNP_MODEL_CLASSIFIER)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "'%s' is no classifier", spec->name);
    struct vnp_classifier *k = calloc(1, sizeof *k);
    if (!k) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "a classifier");
    k->b = host;
    k->dev = dev;
    k->spec = *spec;
    vnp_status status = load_all(k, c);
    if (status != VNP_OK) {
        vnp_classifier_destroy(k);
        return status;
    }
    *out = k;
    return VNP_OK;
}

void vnp_classifier_destroy(struct vnp_classifier *c) {
    if (!c) return;
    vnp_free_aligned(c->values);
    free(c);
}

const struct vnp_model_spec *vnp_classifier_spec(const struct vnp_classifier *c) {
    return &c->spec;
}

vnp_status vnp_classifier_run(const struct vnp_classifier *c, const float *z, int64_t n_rows,
                              float *scores) {
    if (n_rows < 0) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%lld rows", (long long)n_rows);
    return n_rows == 0 ? VNP_OK : c->b->classify(c->dev, &c->p, z, n_rows, scores);
}
