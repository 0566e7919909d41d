// SPDX-License-Identifier: MIT
// Writes a bundle: a safetensors file with our metadata, the same bytes for the same parts. Data
// first in FP32, then 2-byte types, so that every tensor stays aligned without holes; the header is
// padded with spaces to 64 bytes. The file appears under its name only when whole.
#include "weights_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a growing text ------------------------------------------------------------------------- */

struct text {
    char *data;
    size_t n, cap;
    bool is_failed;
};

static void put(struct text *t, const char *data, size_t n) {
    if (t->is_failed) return;
    if (t->n + n + 1 > t->cap) {
        size_t cap = (t->n + n + 1) * 2;
        char *grown = realloc(t->data, cap);
        if (!grown) {
            t->is_failed = true;
            return;
        }
        t->data = grown;
        t->cap = cap;
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
    t->data[t->n] = 0;
}

static void putf(struct text *t, const char *fmt, ...) VNP_PRINTF(2, 3);
static void putf(struct text *t, const char *fmt, ...) {
    char buf[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof buf)
        t->is_failed = true;
    else
        put(t, buf, (size_t)n);
}

/* A JSON string; the bytes are UTF-8 already. */
static void put_json(struct text *t, const char *s, size_t n) {
    put(t, "\"", 1);
    for (size_t i = 0, from = 0; i <= n; i++) {
        if (i < n && s[i] != '"' && s[i] != '\\' && (unsigned char)s[i] >= 0x20) continue;
        put(t, s + from, i - from);
        from = i + 1;
        if (i < n && (s[i] == '"' || s[i] == '\\')) {
            put(t, "\\", 1);
            put(t, s + i, 1);
        } else if (i < n) {
            putf(t, "\\u%04x", (unsigned)s[i]);
        }
    }
    put(t, "\"", 1);
}

static void put_meta(struct text *t, const char *prefix, const char *key, const char *value,
                     size_t n_value) {
    char full[128];
    int n = snprintf(full, sizeof full, "%s%s", prefix, key);
    if (n < 0 || n >= (int)sizeof full) {
        t->is_failed = true;
        return;
    }
    if (t->n && t->data[t->n - 1] != '{') put(t, ",", 1);
    put_json(t, full, (size_t)n);
    put(t, ":", 1);
    put_json(t, value, n_value);
}

static void put_meta_f(struct text *t, const char *prefix, const char *key, const char *fmt, ...)
    VNP_PRINTF(4, 5);
static void put_meta_f(struct text *t, const char *prefix, const char *key, const char *fmt, ...) {
    char buf[1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof buf)
        t->is_failed = true;
    else
        put_meta(t, prefix, key, buf, (size_t)n);
}

/* ---- what goes in --------------------------------------------------------------------------- */

struct item {
    const char *prefix;
    struct vnp_tensor_info info; /* as stored: type and bytes may differ from the source's */
    const struct vnp_tensor_info *source;
};

struct bundle {
    const struct vnp_bundle_parts *parts;
    struct item *items;
    int64_t n_items;
    void *scratch; /* a converted tensor */
    struct vnp_hash128 digests[VNP_MODEL_CLASSIFIER + 1];
};

static const struct vnp_checkpoint *part_of(const struct bundle *b, int kind) {
    if (kind == VNP_MODEL_ESM2) return b->parts->esm2;
    return kind == VNP_MODEL_DNABERT ? b->parts->dnabert : b->parts->classifier;
}

static bool is_left_out(const struct bundle *b, const struct vnp_tensor_info *t) {
    return b->parts->is_without_lm_head && strncmp(t->name, "lm.", 3) == 0;
}

/* Matrices of the encoders may shrink; vectors and the classifier stay as they are. */
static bool is_shrunk(const struct bundle *b, int kind, const struct vnp_tensor_info *t) {
    return b->parts->is_fp16 && kind != VNP_MODEL_CLASSIFIER && t->dtype == VNP_F32 &&
           t->n_dims == 2;
}

static vnp_status collect(struct bundle *b) {
    int64_t cap = 0;
    size_t n_scratch = 1;
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++)
        if (part_of(b, k)) cap += vnp_checkpoint_count(part_of(b, k));
    b->items = calloc((size_t)cap + 1, sizeof *b->items);
    if (!b->items) return vnp_fail(VNP_NOMEM, VNP_FROM_OUTPUT, "no memory for a bundle");
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++) {
        const struct vnp_checkpoint *c = part_of(b, k);
        for (int64_t i = 0; c && i < vnp_checkpoint_count(c); i++) {
            const struct vnp_tensor_info *t = vnp_checkpoint_at(c, i);
            if (is_left_out(b, t)) continue;
            struct item *item = &b->items[b->n_items++];
            *item = (struct item){vnp_kind_prefix((enum vnp_model_kind)k), *t, t};
            if (!is_shrunk(b, k, t)) continue;
            item->info.dtype = VNP_F16;
            item->info.n_bytes = t->n_bytes / 2;
            n_scratch = VNP_MAX(n_scratch, item->info.n_bytes);
        }
    }
    b->scratch = malloc(n_scratch);
    return b->scratch ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_OUTPUT, "no memory for a bundle");
}

/* The bytes as they will be stored: the source's, or converted into the scratch. */
static vnp_status bytes_of(const struct bundle *b, const struct item *item, const void **out) {
    *out = item->source->data;
    if (item->info.dtype == item->source->dtype) return VNP_OK;
    const char *src = item->source->data;
    uint16_t *dst = b->scratch;
    for (size_t i = 0; i < item->info.n_bytes / 2; i++) {
        float x;
        memcpy(&x, src + 4 * i, sizeof x);
        dst[i] = vnp_f32_to_f16(x);
        if ((dst[i] & 0x7c00) == 0x7c00)
            return vnp_bad(VNP_MISMATCH, NULL, -1, item->info.name,
                           "element %zu is %g and does not fit in FP16", i, (double)x);
    }
    *out = dst;
    return VNP_OK;
}

/* What a reader of the bundle will find: shrinking changes the type of most weights, not the
 * frequencies that the model was made with. */
static struct vnp_model_spec stored_spec(const struct bundle *b, int kind) {
    struct vnp_model_spec s = part_of(b, kind)->spec;
    size_t n_of[VNP_BOOL + 1] = {0};
    for (int64_t i = 0; i < b->n_items; i++) {
        const struct vnp_tensor_info *t = &b->items[i].info;
        if (strcmp(b->items[i].prefix, vnp_kind_prefix((enum vnp_model_kind)kind)) == 0)
            n_of[t->dtype] += t->n_bytes / vnp_dtype_bytes(t->dtype);
    }
    s.dtype = vnp_most_of(n_of);
    return s;
}

static vnp_status digest_parts(struct bundle *b) {
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++) {
        const struct vnp_checkpoint *c = part_of(b, k);
        if (!c) continue;
        struct vnp_model_spec spec = stored_spec(b, k);
        struct vnp_hash128 sum = vnp_digest_begin(&spec);
        for (int64_t i = 0; i < b->n_items; i++) {
            const struct item *item = &b->items[i];
            if (strcmp(item->prefix, vnp_kind_prefix((enum vnp_model_kind)k)) != 0) continue;
            struct vnp_tensor_info stored = item->info;
            VNP_TRY(bytes_of(b, item, &stored.data));
            sum = vnp_digest_add(sum, &stored);
        }
        b->digests[k] = sum;
    }
    return VNP_OK;
}

static int compare_items(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    bool is_small_x = x->info.dtype != VNP_F32, is_small_y = y->info.dtype != VNP_F32;
    if (is_small_x != is_small_y) return is_small_x ? 1 : -1;
    int order = strcmp(x->prefix, y->prefix);
    return order ? order : strcmp(x->info.name, y->info.name);
}

/* ---- header --------------------------------------------------------------------------------- */

/* DNA columns of the classifier's input. */
static vnp_status split_of(const struct bundle *b, int64_t *n_dna) {
    const struct vnp_bundle_parts *p = b->parts;
    *n_dna = 0;
    if (!p->classifier) return VNP_OK;
    const struct vnp_model_spec *s = &p->classifier->spec;
    int64_t n_in = s->n_dna + s->n_protein;
    *n_dna = s->n_dna ? s->n_dna : p->dnabert ? p->dnabert->spec.n_hidden : 0;
    if (!s->n_dna && !p->dnabert && p->esm2) *n_dna = n_in - p->esm2->spec.n_hidden;
    bool is_bad = (p->dnabert && *n_dna != p->dnabert->spec.n_hidden) ||
                  (p->esm2 && n_in - *n_dna != p->esm2->spec.n_hidden) || *n_dna < 0;
    if (is_bad)
        return vnp_bad(VNP_MISMATCH, p->classifier->raw->path, -1, NULL,
                       "the classifier has %lld inputs, the encoders give %lld + %lld",
                       (long long)n_in, (long long)(p->dnabert ? p->dnabert->spec.n_hidden : 0),
                       (long long)(p->esm2 ? p->esm2->spec.n_hidden : 0));
    return VNP_OK;
}

static vnp_status put_part(struct text *t, const struct bundle *b, int kind, int64_t n_dna) {
    const struct vnp_checkpoint *c = part_of(b, kind);
    const char *prefix = vnp_kind_prefix((enum vnp_model_kind)kind);
    char hex[33];
    if (!c) return VNP_OK;
    vnp_hash_hex(b->digests[kind], hex);
    put_meta_f(t, prefix, "name", "%s", c->spec.name);
    put_meta_f(t, prefix, "digest", "%s", hex);
    if (kind == VNP_MODEL_CLASSIFIER) {
        put_meta_f(t, prefix, "n_dna", "%lld", (long long)n_dna);
        return VNP_OK;
    }
    put_meta_f(t, prefix, "n_layers", "%lld", (long long)c->spec.n_layers);
    put_meta_f(t, prefix, "n_heads", "%lld", (long long)c->spec.n_heads);
    put_meta_f(t, prefix, "norm_eps", "%.9g", (double)c->spec.norm_eps);
    if (kind == VNP_MODEL_ESM2) {
        put_meta_f(t, prefix, "token_dropout", "%d", c->spec.has_token_dropout);
        if (stored_spec(b, kind).dtype != c->spec.freq_dtype)
            put_meta_f(t, prefix, "rotary_freq", "%s", vnp_dtype_name(c->spec.freq_dtype));
    }
    if (kind == VNP_MODEL_DNABERT) {
        const char *json;
        size_t n;
        VNP_TRY(vnp_checkpoint_tokenizer(c, &json, &n));
        json_t *parsed;
        VNP_TRY(vnp_json_parse(json, n, c->raw->path, 0, "its tokenizer.json is", &parsed));
        json_decref(parsed);
        put_meta(t, prefix, "tokenizer", json, n);
    }
    return VNP_OK;
}

static vnp_status put_metadata(struct text *t, const struct bundle *b) {
    const struct vnp_bundle_parts *p = b->parts;
    int64_t n_dna;
    VNP_TRY(split_of(b, &n_dna));
    put(t, "{\"__metadata__\":{", 17);
    put_meta_f(t, "", "format", "virnucpro-bundle");
    put_meta_f(t, "", "format_version", "1");
    int64_t window = p->window_bp;
    if (!window && p->classifier) window = p->classifier->spec.window_bp;
    if (window) put_meta_f(t, "", "window_bp", "%lld", (long long)window);
    if (p->note && p->note[0]) put_meta(t, "", "note", p->note, strlen(p->note));
    for (int64_t i = 0; i < p->n_meta; i++)
        put_meta(t, "x.", p->meta[i].key, p->meta[i].value, strlen(p->meta[i].value));
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++) VNP_TRY(put_part(t, b, k, n_dna));
    put(t, "}", 1);
    return VNP_OK;
}

static const char *type_name(enum vnp_dtype dtype) {
    return dtype == VNP_F32 ? "F32" : dtype == VNP_F16 ? "F16" : "BF16";
}

static vnp_status put_header(struct text *t, const struct bundle *b) {
    size_t at = 0;
    VNP_TRY(put_metadata(t, b));
    for (int64_t i = 0; i < b->n_items; i++) {
        const struct vnp_tensor_info *info = &b->items[i].info;
        putf(t, ",\"%s%s\":{\"dtype\":\"%s\",\"shape\":[", b->items[i].prefix, info->name,
             type_name(info->dtype));
        for (int d = 0; d < info->n_dims; d++)
            putf(t, "%s%lld", d ? "," : "", (long long)info->shape[d]);
        putf(t, "],\"data_offsets\":[%zu,%zu]}", at, at + info->n_bytes);
        at += info->n_bytes;
    }
    put(t, "}", 1);
    while (!t->is_failed && (t->n + 8) % 64) put(t, " ", 1);
    if (t->is_failed)
        return vnp_fail(VNP_NOMEM, VNP_FROM_OUTPUT, "no memory for a bundle's header");
    json_t *parsed; /* a note or a name that is no UTF-8 would make a file that nobody can read */
    VNP_TRY(vnp_json_parse(t->data, t->n, NULL, 0, "the bundle's metadata would be", &parsed));
    json_decref(parsed);
    return VNP_OK;
}

/* ---- file ----------------------------------------------------------------------------------- */

static vnp_status fail_io(const char *path, int os_errno, const char *what) {
    (void)vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, os_errno, "cannot %s the bundle", what);
    vnp_error_at(path, -1, -1, NULL);
    return VNP_IO;
}

static vnp_status write_all(int fd, const char *path, const void *data, size_t n) {
    const char *p = data;
    while (n) {
        ssize_t k = write(fd, p, VNP_MIN(n, (size_t)1 << 30));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return fail_io(path, k < 0 ? errno : EIO, "write");
        p += k;
        n -= (size_t)k;
    }
    return VNP_OK;
}

static vnp_status write_body(const struct bundle *b, int fd, const char *path,
                             const struct text *header) {
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header->n >> (8 * i));
    VNP_TRY(write_all(fd, path, length, sizeof length));
    VNP_TRY(write_all(fd, path, header->data, header->n));
    for (int64_t i = 0; i < b->n_items; i++) {
        const void *data;
        VNP_TRY(bytes_of(b, &b->items[i], &data));
        VNP_TRY(write_all(fd, path, data, b->items[i].info.n_bytes));
    }
    return fsync(fd) == 0 ? VNP_OK : fail_io(path, errno, "sync");
}

/* The name is durable when its folder is. */
static vnp_status sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_io(path, errno, "sync the folder of");
    int rc = fsync(fd), os_errno = errno;
    close(fd);
    /* some network file systems cannot sync a folder: the rename itself went well */
    if (rc != 0 && os_errno != EINVAL && os_errno != ENOTSUP)
        return fail_io(path, os_errno, "sync the folder of");
    return VNP_OK;
}

static vnp_status write_file(const struct bundle *b, const char *path, const struct text *header) {
    char temp[4200];
    if (strlen(path) > 4000) return fail_io(path, ENAMETOOLONG, "create");
    snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid());
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return fail_io(path, errno, "create");
    vnp_status status = write_body(b, fd, path, header);
    if (close(fd) != 0 && status == VNP_OK) status = fail_io(path, errno, "close");
    if (status == VNP_OK && rename(temp, path) != 0) status = fail_io(path, errno, "rename");
    if (status != VNP_OK) {
        unlink(temp);
        return status;
    }
    status = sync_folder(path);
    if (status != VNP_OK) unlink(path); /* it might not survive a crash: let it not look finished */
    return status;
}

vnp_status vnp_bundle_write(const char *path, const struct vnp_bundle_parts *parts) {
    struct bundle b = {.parts = parts};
    struct text header = {0};
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++)
        if (part_of(&b, k) && part_of(&b, k)->spec.kind != (enum vnp_model_kind)k)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a bundle's part has the wrong kind");
    if (!parts->esm2 && !parts->dnabert && !parts->classifier)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a bundle without parts");
    vnp_status status = collect(&b);
    if (status == VNP_OK) status = digest_parts(&b);
    if (status == VNP_OK) {
        qsort(b.items, (size_t)b.n_items, sizeof *b.items, compare_items);
        status = put_header(&header, &b);
    }
    if (status == VNP_OK) status = write_file(&b, path, &header);
    free(header.data);
    free(b.items);
    free(b.scratch);
    return status;
}
