// SPDX-License-Identifier: MIT
// safetensors: 8 bytes of header length, a JSON object, the data. Checked as its specification
// says (github.com/huggingface/safetensors, README "Format"): header under 100 MB and inside the
// file, beginning with '{', no duplicate keys, known types, shapes that give the byte ranges, and
// ranges that cover the data without hole or overlap.
#include "weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000u

/* Types of the specification; those without a type of ours are known but no weight may have them.
 */
static const struct {
    const char *name;
    enum vnp_dtype dtype;
    int n_bytes;
} st_types[] = {
    {"F64", VNP_F64, 8},        {"F32", VNP_F32, 4},        {"F16", VNP_F16, 2},
    {"BF16", VNP_BF16, 2},      {"I64", VNP_I64, 8},        {"I32", VNP_I32, 4},
    {"I16", VNP_I16, 2},        {"I8", VNP_I8, 1},          {"U8", VNP_U8, 1},
    {"BOOL", VNP_BOOL, 1},      {"U64", VNP_DTYPE_NONE, 8}, {"U32", VNP_DTYPE_NONE, 4},
    {"U16", VNP_DTYPE_NONE, 2}, {"F8_E4M3", VNP_E4M3, 1},   {"F8_E5M2", VNP_DTYPE_NONE, 1},
    {"C64", VNP_DTYPE_NONE, 8}};

struct st_range {
    size_t begin, end;
    const char *name;
};

static vnp_status read_dtype(const char *file, const char *name, json_t *entry,
                             struct vnp_raw_tensor *t, int *n_bytes) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return vnp_bad(VNP_FORMAT, file, -1, name, "the header gives no dtype");
    for (size_t i = 0; i < VNP_COUNT(st_types); i++)
        if (strcmp(dtype, st_types[i].name) == 0) {
            t->dtype = st_types[i].dtype;
            *n_bytes = st_types[i].n_bytes;
            snprintf(t->dtype_name, sizeof t->dtype_name, "%s", dtype);
            return VNP_OK;
        }
    return vnp_bad(VNP_FORMAT, file, -1, name, "unknown dtype '%.32s'", dtype);
}

static vnp_status read_shape(const char *file, const char *name, json_t *entry,
                             struct vnp_raw_tensor *t) {
    json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return vnp_bad(VNP_FORMAT, file, -1, name, "the header gives no shape");
    if (json_array_size(shape) > VNP_RAW_MAX_DIMS)
        return vnp_bad(VNP_UNSUPPORTED, file, -1, name, "has %zu dimensions",
                       json_array_size(shape));
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return vnp_bad(VNP_FORMAT, file, -1, name, "size %d of the shape is no count", i);
        t->shape[i] = json_integer_value(size);
    }
    return VNP_OK;
}

static vnp_status read_range(const char *file, const char *name, json_t *entry, size_t n_data,
                             struct st_range *out) {
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return vnp_bad(VNP_FORMAT, file, -1, name, "data_offsets are not two integers");
    json_int_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin)
        return vnp_bad(VNP_FORMAT, file, -1, name, "data_offsets [%lld, %lld] are out of order",
                       (long long)begin, (long long)end);
    if ((uint64_t)end > n_data)
        return vnp_bad(VNP_TRUNCATED, file, -1, name,
                       "its data end at byte %lld, but only %zu bytes of data are in the file",
                       (long long)end, n_data);
    *out = (struct st_range){(size_t)begin, (size_t)end, name};
    return VNP_OK;
}

static vnp_status read_entry(struct vnp_raw *raw, const struct vnp_mapping *m, const char *name,
                             json_t *entry, size_t off_data, struct st_range *range) {
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return vnp_bad(VNP_FORMAT, m->path, -1, name,
                       "the header entry is not {dtype, shape, data_offsets}");
    struct vnp_raw_tensor *t = vnp_raw_add(raw, name, strlen(name), m->path);
    if (!t) return vnp_error_last()->status;
    int n_element = 0;
    VNP_TRY(read_dtype(m->path, name, entry, t, &n_element));
    VNP_TRY(read_shape(m->path, name, entry, t));
    VNP_TRY(read_range(m->path, name, entry, m->n_bytes - off_data, range));
    size_t n = 0;
    if (!vnp_shape_count(t->shape, t->n_dims, &n) || !vnp_size_mul(n, (size_t)n_element, &n))
        return vnp_bad(VNP_FORMAT, m->path, -1, name, "the sizes of the shape overflow");
    if (n != range->end - range->begin)
        return vnp_bad(VNP_FORMAT, m->path, -1, name,
                       "shape and dtype need %zu bytes, data_offsets give %zu", n,
                       range->end - range->begin);
    t->data = m->data + off_data + range->begin;
    t->n_bytes = n;
    return VNP_OK;
}

static vnp_status read_metadata(struct vnp_raw *raw, const char *file, json_t *meta) {
    if (!json_is_object(meta))
        return vnp_bad(VNP_FORMAT, file, -1, "__metadata__", "is no JSON object");
    if (json_object_size(meta) == 0) return VNP_OK;
    struct vnp_raw_meta *grown =
        realloc(raw->meta, ((size_t)raw->n_meta + json_object_size(meta)) * sizeof *raw->meta);
    if (!grown) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for metadata");
    raw->meta = grown;
    const char *key;
    json_t *value;
    json_object_foreach(meta, key, value) {
        if (!json_is_string(value))
            return vnp_bad(VNP_FORMAT, file, -1, "__metadata__", "'%.64s' is no string", key);
        struct vnp_raw_meta *out = &raw->meta[raw->n_meta];
        out->n_value = json_string_length(value);
        out->key = strdup(key);
        out->value = malloc(out->n_value + 1);
        raw->n_meta++;
        if (!out->key || !out->value)
            return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for metadata");
        memcpy(out->value, json_string_value(value), out->n_value + 1);
    }
    return VNP_OK;
}

static int compare_ranges(const void *a, const void *b) {
    const struct st_range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return 0;
}

static vnp_status check_ranges(const char *file, struct st_range *ranges, size_t n, size_t n_data) {
    size_t at = 0;
    qsort(ranges, n, sizeof *ranges, compare_ranges);
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].begin != at)
            return vnp_bad(VNP_FORMAT, file, -1, ranges[i].name,
                           "%s in the data: begins at byte %zu instead of %zu",
                           ranges[i].begin > at ? "a hole" : "an overlap", ranges[i].begin, at);
        at = ranges[i].end;
    }
    if (at != n_data)
        return vnp_bad(VNP_FORMAT, file, -1, NULL, "%zu bytes after the last tensor belong to none",
                       n_data - at);
    return VNP_OK;
}

static vnp_status read_header(struct vnp_raw *raw, const struct vnp_mapping *m, json_t *header,
                              size_t off_data) {
    size_t n = 0, cap = json_object_size(header);
    struct st_range *ranges = calloc(cap ? cap : 1, sizeof *ranges);
    if (!ranges) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a header");
    vnp_status status = VNP_OK;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            status = read_metadata(raw, m->path, entry);
        else
            status = read_entry(raw, m, name, entry, off_data, &ranges[n++]);
        if (status != VNP_OK) break;
    }
    if (status == VNP_OK) status = check_ranges(m->path, ranges, n, m->n_bytes - off_data);
    free(ranges);
    return status;
}

vnp_status vnp_safetensors_read(struct vnp_raw *raw, struct vnp_mapping *m) {
    if (m->n_bytes < 8)
        return vnp_bad(VNP_TRUNCATED, m->path, -1, NULL, "ends inside the header's length");
    uint64_t n_header = 0;
    for (int i = 0; i < 8; i++) n_header |= (uint64_t)m->data[i] << (8 * i);
    if (n_header > HEADER_MAX)
        return vnp_bad(VNP_FORMAT, m->path, 0, NULL,
                       "the safetensors header says it has %llu bytes (at most 100 MB are allowed)",
                       (unsigned long long)n_header);
    if (n_header > m->n_bytes - 8)
        return vnp_bad(VNP_TRUNCATED, m->path, 0, NULL,
                       "the safetensors header has %llu bytes, the file only %zu",
                       (unsigned long long)n_header, m->n_bytes);
    const char *text = (const char *)m->data + 8;
    if (n_header < 2 || text[0] != '{')
        return vnp_bad(VNP_FORMAT, m->path, 8, NULL, "the safetensors header is no JSON object");
    json_t *header;
    VNP_TRY(
        vnp_json_parse(text, (size_t)n_header, m->path, 8, "the safetensors header is", &header));
    vnp_status status = read_header(raw, m, header, 8 + (size_t)n_header);
    json_decref(header);
    return status;
}
