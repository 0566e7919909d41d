// SPDX-License-Identifier: MIT
// torch.save files: a zip with <root>/data.pkl and <root>/data/<key>. Takes the tensors of a
// state dict, of a checkpoint that holds one (fair-esm: 'model' beside 'cfg'), or of a pickled
// module's _modules/_parameters/_buffers; several tensors may share a storage. The layout before
// torch 1.6 (no zip) is refused. Source: torch/serialization.py, torch/_utils.py.
#include "weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODULE_MAX_DEPTH = 32, MODULE_MAX_VISITS = 100000, NAME_MAX_BYTES = 1024 };

struct torch_file {
    struct vnp_raw *raw;
    const struct vnp_mapping *map;
    struct vnp_zip zip;
    const char *root; /* with its slash, not terminated */
    size_t n_root;
    int64_t n_visits;
};

static const struct {
    const char *global;
    enum vnp_dtype dtype;
} storages[] = {{"torch DoubleStorage", VNP_F64}, {"torch FloatStorage", VNP_F32},
                {"torch HalfStorage", VNP_F16},   {"torch BFloat16Storage", VNP_BF16},
                {"torch LongStorage", VNP_I64},   {"torch IntStorage", VNP_I32},
                {"torch ShortStorage", VNP_I16},  {"torch CharStorage", VNP_I8},
                {"torch ByteStorage", VNP_U8},    {"torch BoolStorage", VNP_BOOL}};

static size_t element_bytes(enum vnp_dtype dtype) {
    switch ((int)dtype) {
    case VNP_F64:
    case VNP_I64:
        return 8;
    case VNP_F32:
    case VNP_I32:
        return 4;
    case VNP_F16:
    case VNP_BF16:
    case VNP_I16:
        return 2;
    default:
        return 1;
    }
}

static vnp_status bad_tensor(const struct torch_file *f, const char *name, const char *what) {
    return vnp_bad(VNP_FORMAT, f->map->path, -1, name, "the tensor's record is damaged: %s", what);
}

/* The storage's type and bytes. */
static vnp_status read_storage(const struct torch_file *f, const char *name,
                               const struct vnp_pickle_value *storage, enum vnp_dtype *dtype,
                               const struct vnp_zip_entry **out) {
    const struct vnp_pickle_value *id = storage->kind == VNP_PK_STORAGE ? storage->a : NULL;
    if (!id || id->kind != VNP_PK_TUPLE || id->n != 5 ||
        !vnp_pickle_is_text(id->items[0], "storage") || id->items[1]->kind != VNP_PK_GLOBAL ||
        id->items[2]->kind != VNP_PK_STR || id->items[4]->kind != VNP_PK_INT)
        return bad_tensor(f, name, "no storage");
    const char *type = id->items[1]->text;
    *dtype = VNP_DTYPE_NONE;
    for (size_t i = 0; i < VNP_COUNT(storages); i++)
        if (strcmp(type, storages[i].global) == 0) *dtype = storages[i].dtype;
    if (*dtype == VNP_DTYPE_NONE)
        return vnp_bad(VNP_UNSUPPORTED, f->map->path, -1, name, "its storage is a %s",
                       strncmp(type, "torch ", 6) == 0 ? type + 6 : type);
    char path[NAME_MAX_BYTES];
    int n = snprintf(path, sizeof path, "%.*sdata/%.*s", (int)f->n_root, f->root,
                     (int)VNP_MIN(id->items[2]->n, 256u), id->items[2]->text);
    *out = n < (int)sizeof path ? vnp_zip_find(&f->zip, path, (size_t)n) : NULL;
    if (!*out)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, name, "its storage '%s' is not in the file",
                       path);
    VNP_TRY(vnp_zip_check_stored(f->map, *out));
    size_t n_bytes;
    int64_t n_elements = id->items[4]->i;
    if (n_elements < 0 || !vnp_size_mul((size_t)n_elements, element_bytes(*dtype), &n_bytes) ||
        n_bytes != (*out)->n_bytes)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, name,
                       "its storage '%s' has %zu bytes and should hold %lld elements of %zu", path,
                       (*out)->n_bytes, (long long)n_elements, element_bytes(*dtype));
    return VNP_OK;
}

/* Sizes, strides and the last element's place; everything inside the storage. */
static vnp_status read_layout(const struct torch_file *f, const struct vnp_pickle_value *args,
                              size_t n_stored, struct vnp_raw_tensor *t, size_t *offset) {
    const struct vnp_pickle_value *off = args->items[1], *size = args->items[2],
                                  *stride = args->items[3];
    if (off->kind != VNP_PK_INT || off->i < 0 || size->kind != VNP_PK_TUPLE ||
        stride->kind != VNP_PK_TUPLE || size->n != stride->n)
        return bad_tensor(f, t->name, "offset, size or stride");
    if (size->n > VNP_RAW_MAX_DIMS)
        return vnp_bad(VNP_UNSUPPORTED, f->map->path, -1, t->name, "has %u dimensions", size->n);
    t->n_dims = (int)size->n;
    size_t end = (size_t)off->i, n = 0, expected = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        const struct vnp_pickle_value *s = size->items[i], *d = stride->items[i];
        if (s->kind != VNP_PK_INT || d->kind != VNP_PK_INT || s->i < 0 || d->i < 0)
            return bad_tensor(f, t->name, "a size or stride is no count");
        t->shape[i] = s->i;
        size_t reach;
        if (s->i > 1 && (!vnp_size_mul((size_t)(s->i - 1), (size_t)d->i, &reach) ||
                         !vnp_size_add(end, reach, &end)))
            return bad_tensor(f, t->name, "its extent overflows");
        if (s->i > 1 && (size_t)d->i != expected) t->is_contiguous = false;
        if (s->i > 1 && !vnp_size_mul(expected, (size_t)s->i, &expected))
            return bad_tensor(f, t->name, "its extent overflows");
    }
    if (!vnp_shape_count(t->shape, t->n_dims, &n))
        return bad_tensor(f, t->name, "its size overflows");
    if (n == 0 ? (size_t)off->i > n_stored : end >= n_stored)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, t->name,
                       "reaches element %zu of a storage of %zu", end, n_stored);
    *offset = (size_t)off->i;
    t->n_bytes = n; /* elements; the caller knows the type */
    return VNP_OK;
}

static vnp_status add_tensor(struct torch_file *f, const char *name, size_t n_name,
                             const struct vnp_pickle_value *v) {
    const struct vnp_pickle_value *args = v->a;
    struct vnp_raw_tensor *t = vnp_raw_add(f->raw, name, n_name, f->map->path);
    if (!t) return vnp_error_last()->status;
    if (args->n < 4) return bad_tensor(f, t->name, "too few arguments");
    const struct vnp_zip_entry *entry = NULL;
    size_t offset = 0;
    VNP_TRY(read_storage(f, t->name, args->items[0], &t->dtype, &entry));
    size_t n_element = element_bytes(t->dtype);
    VNP_TRY(read_layout(f, args, entry->n_bytes / n_element, t, &offset));
    /* a stride of 0 can make a tensor larger than its storage: only what is laid out flat counts */
    if (!vnp_size_mul(t->n_bytes, n_element, &t->n_bytes)) return bad_tensor(f, t->name, "size");
    t->data = entry->data + offset * n_element;
    for (size_t i = 0; i < VNP_COUNT(storages); i++)
        if (storages[i].dtype == t->dtype)
            snprintf(t->dtype_name, sizeof t->dtype_name, "%.*s",
                     (int)(strlen(storages[i].global) - 6 - 7), storages[i].global + 6);
    return VNP_OK;
}

/* All tensors of a dict, names behind a prefix. */
static vnp_status add_dict(struct torch_file *f, const char *prefix,
                           const struct vnp_pickle_value *dict) {
    for (uint32_t i = 0; dict && dict->kind == VNP_PK_DICT && i + 1 < dict->n; i += 2) {
        const struct vnp_pickle_value *key = dict->items[i], *v = dict->items[i + 1];
        if (v->kind != VNP_PK_TENSOR) continue;
        char name[NAME_MAX_BYTES];
        int n = key->kind == VNP_PK_STR ? snprintf(name, sizeof name, "%s%.*s", prefix,
                                                   (int)VNP_MIN(key->n, 1000u), key->text)
                                        : -1;
        if (n < 0 || n >= (int)sizeof name || key->n > 1000)
            return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL, "a tensor's name is no short text");
        VNP_TRY(add_tensor(f, name, strlen(name), v));
    }
    return VNP_OK;
}

static vnp_status add_module(struct torch_file *f, const char *prefix,
                             const struct vnp_pickle_value *object, int depth) {
    const struct vnp_pickle_value *state = object->b;
    if (++f->n_visits > MODULE_MAX_VISITS || depth > MODULE_MAX_DEPTH)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL, "its modules are nested too deep");
    VNP_TRY(add_dict(f, prefix, vnp_pickle_get(state, "_parameters")));
    VNP_TRY(add_dict(f, prefix, vnp_pickle_get(state, "_buffers")));
    const struct vnp_pickle_value *modules = vnp_pickle_get(state, "_modules");
    for (uint32_t i = 0; modules && modules->kind == VNP_PK_DICT && i + 1 < modules->n; i += 2) {
        const struct vnp_pickle_value *key = modules->items[i], *child = modules->items[i + 1];
        if (child->kind != VNP_PK_OBJECT) continue;
        char name[NAME_MAX_BYTES];
        int n = key->kind == VNP_PK_STR && key->n <= 128
                    ? snprintf(name, sizeof name, "%s%.*s.", prefix, (int)key->n, key->text)
                    : -1;
        if (n < 0 || n >= (int)sizeof name)
            return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL, "a module's name is no short text");
        VNP_TRY(add_module(f, name, child, depth + 1));
    }
    return VNP_OK;
}

static int64_t cfg_int(const struct vnp_pickle_value *ns, const char *key) {
    const struct vnp_pickle_value *v = vnp_pickle_get(ns, key);
    return v && v->kind == VNP_PK_INT && v->i > 0 && v->i < (1 << 24) ? v->i : 0;
}

/* fair-esm: {'cfg': {'model': Namespace}}, earlier {'args': Namespace}. */
static void read_cfg(struct vnp_raw *raw, const struct vnp_pickle_value *root) {
    const struct vnp_pickle_value *ns = vnp_pickle_get(vnp_pickle_get(root, "cfg"), "model");
    if (!ns) ns = vnp_pickle_get(root, "args");
    if (ns && ns->kind == VNP_PK_OBJECT) ns = ns->b;
    if (!ns || ns->kind != VNP_PK_DICT) return;
    raw->has_cfg = true;
    raw->cfg_layers = cfg_int(ns, "encoder_layers");
    raw->cfg_hidden = cfg_int(ns, "encoder_embed_dim");
    raw->cfg_heads = cfg_int(ns, "encoder_attention_heads");
    const struct vnp_pickle_value *dropout = vnp_pickle_get(ns, "token_dropout");
    if (dropout && (dropout->kind == VNP_PK_BOOL || dropout->kind == VNP_PK_INT))
        raw->cfg_token_dropout = dropout->i != 0;
}

static vnp_status add_root(struct torch_file *f, const struct vnp_pickle_value *root) {
    static const char *const inner[] = {"model", "state_dict", "model_state_dict"};
    if (root->kind == VNP_PK_OBJECT) {
        f->raw->format = "torch module (.pth)";
        return add_module(f, "", root, 0);
    }
    if (root->kind != VNP_PK_DICT)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL,
                       "holds neither a state dict nor a module");
    f->raw->format = "torch state dict";
    for (size_t i = 0; i < VNP_COUNT(inner); i++) {
        const struct vnp_pickle_value *v = vnp_pickle_get(root, inner[i]);
        if (!v || (v->kind != VNP_PK_DICT && v->kind != VNP_PK_OBJECT)) continue;
        read_cfg(f->raw, root);
        if (f->raw->has_cfg) f->raw->format = "fair-esm checkpoint (.pt)";
        return v->kind == VNP_PK_DICT ? add_dict(f, "", v) : add_module(f, "", v, 0);
    }
    return add_dict(f, "", root);
}

/* The one entry ROOT/data.pkl. */
static vnp_status find_root(struct torch_file *f, const struct vnp_zip_entry **pkl) {
    static const char tail[] = "/data.pkl";
    *pkl = NULL;
    for (int64_t i = 0; i < f->zip.n_entries; i++) {
        const struct vnp_zip_entry *e = &f->zip.entries[i];
        size_t n = sizeof tail - 1;
        if (e->n_name <= n || e->n_name > 512 || memcmp(e->name + e->n_name - n, tail, n) != 0)
            continue;
        if (*pkl) return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL, "holds two data.pkl");
        *pkl = e;
        f->root = e->name;
        f->n_root = e->n_name - n + 1;
    }
    if (!*pkl)
        return vnp_bad(VNP_FORMAT, f->map->path, -1, NULL,
                       "is a zip without data.pkl, not one of torch.save");
    char name[600];
    int n = snprintf(name, sizeof name, "%.*sconstants.pkl", (int)f->n_root, f->root);
    if (vnp_zip_find(&f->zip, name, (size_t)n)) {
        (void)vnp_bad(VNP_UNSUPPORTED, f->map->path, -1, NULL, "is a TorchScript archive");
        vnp_error_hint("save the module's state_dict() with torch.save");
        return VNP_UNSUPPORTED;
    }
    VNP_TRY(vnp_zip_check_stored(f->map, *pkl));
    n = snprintf(name, sizeof name, "%.*sbyteorder", (int)f->n_root, f->root);
    const struct vnp_zip_entry *order = vnp_zip_find(&f->zip, name, (size_t)n);
    if (order && (order->n_bytes != 6 || memcmp(order->data, "little", 6) != 0))
        return vnp_bad(VNP_UNSUPPORTED, f->map->path, -1, NULL,
                       "its numbers are not little-endian");
    return VNP_OK;
}

static vnp_status refuse_legacy(const struct vnp_mapping *m) {
    (void)vnp_bad(VNP_UNSUPPORTED, m->path, 0, NULL,
                  "is in torch's old format (before 1.6, no zip)");
    vnp_error_hint("re-save it: python -c \"import torch; torch.save(torch.load('OLD', "
                   "map_location='cpu', weights_only=False), 'NEW')\" (only if you trust it)");
    return VNP_UNSUPPORTED;
}

vnp_status vnp_torch_read(struct vnp_raw *raw, struct vnp_mapping *m) {
    if (m->n_bytes >= 2 && m->data[0] == 0x80) return refuse_legacy(m);
    struct torch_file f = {.raw = raw, .map = m};
    const struct vnp_zip_entry *pkl;
    struct vnp_pickle *pickle = NULL;
    const struct vnp_pickle_value *root = NULL;
    VNP_TRY(vnp_zip_open(m, &f.zip));
    vnp_status status = find_root(&f, &pkl);
    if (status == VNP_OK)
        status = vnp_pickle_parse(pkl->data, pkl->n_bytes, m->path, &pickle, &root);
    if (status == VNP_OK) status = add_root(&f, root);
    vnp_pickle_free(pickle);
    vnp_zip_close(&f.zip);
    return status;
}
