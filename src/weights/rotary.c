// SPDX-License-Identifier: MIT
// Which rotary frequencies a checkpoint means. Programs that keep 10000^(-2i/Dh) in a buffer of the
// module save it with the weights and load it again, rounding and all; so where a table is stored,
// its values decide. Where none is, the model is taken as computed in the type it is stored in
// (docs/numerics.md), and a bundle says what its source meant.
#include "weights/weights_internal.h"

#include <math.h>
#include <string.h>

static bool is_rotary_table(const struct vnp_raw_tensor *t) {
    static const char end[] = "inv_freq";
    size_t n = strlen(t->name);
    return n >= sizeof end - 1 && strcmp(t->name + n - (sizeof end - 1), end) == 0;
}

/* Whether the table's values are the frequencies rounded to `dtype`; FP32 ones may differ by the
 * few units in the last place of another power function. */
static bool is_rounded_to(const float *table, int64_t n, enum vnp_dtype dtype) {
    for (int64_t i = 0; i < n; i++) {
        double want = vnp_op_rotary_freq(i, 2 * n, dtype);
        double limit = dtype == VNP_F32 ? 2e-6 : 1e-9;
        if (!(fabs((double)table[i] - want) <= limit * want)) return false;
    }
    return true;
}

static vnp_status read_table(const struct vnp_raw_tensor *t, int64_t head_dim,
                             enum vnp_dtype *out) {
    static const enum vnp_dtype kinds[] = {VNP_F32, VNP_F16, VNP_BF16};
    float table[1024];
    int64_t n = head_dim / 2;
    bool is_float = t->dtype == VNP_F32 || t->dtype == VNP_F16 || t->dtype == VNP_BF16;
    if (!is_float || t->n_dims != 1 || t->shape[0] != n || n > (int64_t)VNP_COUNT(table) ||
        !t->is_contiguous)
        return vnp_bad(VNP_MISMATCH, t->file, -1, t->name, "is no table of %lld rotary frequencies",
                       (long long)n);
    vnp_convert_to_f32(t->dtype, t->data, n, table);
    for (size_t k = 0; k < VNP_COUNT(kinds); k++) {
        *out = kinds[k];
        if (is_rounded_to(table, n, kinds[k])) return VNP_OK;
    }
    return vnp_bad(VNP_UNSUPPORTED, t->file, -1, t->name,
                   "holds other rotary frequencies than 10000^(-2i/%lld)", (long long)head_dim);
}

vnp_status vnp_rotary_freq_dtype(const struct vnp_raw *raw, const struct vnp_model_spec *spec,
                                 const char *stated, enum vnp_dtype *out) {
    static const enum vnp_dtype kinds[] = {VNP_F32, VNP_F16, VNP_BF16};
    *out = spec->dtype;
    if (stated) {
        for (size_t k = 0; k < VNP_COUNT(kinds); k++)
            if (strcmp(stated, vnp_dtype_name(kinds[k])) == 0) return *out = kinds[k], VNP_OK;
        return vnp_bad(VNP_FORMAT, raw->path, -1, "rotary_freq", "'%.64s' is no type", stated);
    }
    if (spec->n_heads < 1) return VNP_OK;
    for (int64_t i = 0; i < raw->n_tensors; i++) /* the layers' tables are the same */
        if (is_rotary_table(&raw->tensors[i]))
            return read_table(&raw->tensors[i], spec->n_hidden / spec->n_heads, out);
    return VNP_OK;
}
