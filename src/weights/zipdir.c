// SPDX-License-Identifier: MIT
// The directory of a zip file, zip64 included. Only stored entries can be used: torch.save writes
// no others. Source: PKWARE APPNOTE 6.3.9, sections 4.3.7-4.3.16 and 4.5.3. Owns no data.
#include "weights_internal.h"

#include <stdlib.h>
#include <string.h>

static uint32_t get16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static uint32_t get32(const uint8_t *p) {
    return get16(p) | get16(p + 2) << 16;
}
static uint64_t get64(const uint8_t *p) {
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

struct zip_end {
    uint64_t n_entries, n_dir, off_dir, off_end;
};

/* The zip64 end record, when the plain one says that it does not suffice. */
static vnp_status read_end64(const struct vnp_mapping *m, size_t off_eocd, struct zip_end *out) {
    const uint8_t *d = m->data;
    if (off_eocd < 20 || get32(d + off_eocd - 20) != 0x07064b50)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off_eocd, NULL,
                       "the zip64 locator is missing");
    uint64_t off = get64(d + off_eocd - 20 + 8);
    if (off_eocd < 76 || off > off_eocd - 76 || get32(d + off) != 0x06064b50)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off_eocd, NULL,
                       "the zip64 end record is not where its locator says");
    out->n_entries = get64(d + off + 32);
    out->n_dir = get64(d + off + 40);
    out->off_dir = get64(d + off + 48);
    out->off_end = off;
    return VNP_OK;
}

static vnp_status read_end(const struct vnp_mapping *m, struct zip_end *out) {
    const uint8_t *d = m->data;
    size_t last = m->n_bytes < 22 ? 0 : m->n_bytes - 22;
    size_t stop = last > 65535 ? last - 65535 : 0;
    size_t off = last;
    bool is_found = false;
    if (m->n_bytes >= 22)
        for (;; off--) {
            is_found = get32(d + off) == 0x06054b50 && get16(d + off + 20) == last - off;
            if (is_found || off == stop) break;
        }
    if (!is_found) {
        (void)vnp_bad(VNP_TRUNCATED, m->path, (int64_t)m->n_bytes, NULL,
                      "the zip directory is missing: the file is cut off");
        vnp_error_hint("copy or download it again");
        return VNP_TRUNCATED;
    }
    if (get16(d + off + 4) != 0 || get16(d + off + 6) != 0)
        if (get16(d + off + 4) != 0xffff)
            return vnp_bad(VNP_UNSUPPORTED, m->path, (int64_t)off, NULL, "is a zip in volumes");
    out->n_entries = get16(d + off + 10);
    out->n_dir = get32(d + off + 12);
    out->off_dir = get32(d + off + 16);
    out->off_end = off;
    /* torch writes the zip64 record always, also where the plain one would do */
    bool has_locator = off >= 20 && get32(d + off - 20) == 0x07064b50;
    if (has_locator || out->n_entries == 0xffff || out->n_dir == 0xffffffff ||
        out->off_dir == 0xffffffff)
        VNP_TRY(read_end64(m, off, out));
    if (out->off_dir > out->off_end || out->n_dir != out->off_end - out->off_dir)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off, NULL,
                       "the zip directory (%llu bytes at %llu) does not end where its end record "
                       "begins (%llu)",
                       (unsigned long long)out->n_dir, (unsigned long long)out->off_dir,
                       (unsigned long long)out->off_end);
    if (out->n_entries > out->n_dir / 46)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off, NULL,
                       "%llu zip entries do not fit in a directory of %llu bytes",
                       (unsigned long long)out->n_entries, (unsigned long long)out->n_dir);
    return VNP_OK;
}

/* Sizes and offset from the zip64 extra field where the 32-bit ones are full. */
static bool read_extra64(const uint8_t *extra, size_t n_extra, uint64_t *n_plain,
                         uint64_t *n_packed, uint64_t *off) {
    bool need = *n_plain == 0xffffffff || *n_packed == 0xffffffff || *off == 0xffffffff;
    for (size_t i = 0; need && i + 4 <= n_extra;) {
        size_t id = get16(extra + i), n = get16(extra + i + 2), at = i + 4, end = at + n;
        if (end > n_extra) return false;
        if (id == 1) {
            uint64_t *fields[3] = {n_plain, n_packed, off};
            for (int f = 0; f < 3; f++) {
                if (*fields[f] != 0xffffffff) continue;
                if (at + 8 > end) return false;
                *fields[f] = get64(extra + at);
                at += 8;
            }
            return true;
        }
        i = end;
    }
    return !need;
}

/* Where the entry's bytes are: behind its local header, all of it before the directory. */
static vnp_status locate(const struct vnp_mapping *m, const struct zip_end *end, uint64_t off,
                         uint64_t n_bytes, struct vnp_zip_entry *e) {
    const char *name = e->name;
    int n_name = (int)VNP_MIN(e->n_name, (size_t)200);
    if (off > end->off_dir || end->off_dir - off < 30 || get32(m->data + off) != 0x04034b50)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off, NULL,
                       "zip entry '%.*s' has no local header", n_name, name);
    const uint8_t *local = m->data + off;
    uint64_t n_head = 30 + (uint64_t)get16(local + 26) + get16(local + 28);
    if (end->off_dir - off < n_head || n_bytes > end->off_dir - off - n_head)
        return vnp_bad(VNP_TRUNCATED, m->path, (int64_t)off, NULL,
                       "zip entry '%.*s' (%llu bytes) reaches beyond the data", n_name, name,
                       (unsigned long long)n_bytes);
    if (get16(local + 26) != e->n_name || memcmp(local + 30, name, e->n_name) != 0)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)off, NULL,
                       "zip entry '%.*s' has another name in its local header", n_name, name);
    e->data = local + n_head;
    e->n_bytes = (size_t)n_bytes;
    return VNP_OK;
}

static vnp_status read_entry(const struct vnp_mapping *m, const struct zip_end *end, uint64_t *at,
                             struct vnp_zip_entry *e) {
    const uint8_t *p = m->data + *at;
    uint64_t left = end->off_end - *at;
    if (left < 46 || get32(p) != 0x02014b50)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)*at, NULL, "the zip directory is damaged");
    size_t n_name = get16(p + 28), n_extra = get16(p + 30), n_comment = get16(p + 32);
    if (left - 46 < n_name + n_extra + n_comment)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)*at, NULL, "the zip directory is damaged");
    e->name = (const char *)p + 46;
    e->n_name = n_name;
    int n_shown = (int)VNP_MIN(n_name, (size_t)200);
    if (get16(p + 8) & 1)
        return vnp_bad(VNP_UNSUPPORTED, m->path, (int64_t)*at, NULL,
                       "zip entry '%.*s' is encrypted", n_shown, e->name);
    uint64_t n_packed = get32(p + 20), n_plain = get32(p + 24), off = get32(p + 42);
    if (!read_extra64(p + 46 + n_name, n_extra, &n_plain, &n_packed, &off))
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)*at, NULL,
                       "zip entry '%.*s' lacks its zip64 sizes", n_shown, e->name);
    e->method = get16(p + 10);
    if (e->method == 0 && n_packed != n_plain)
        return vnp_bad(VNP_FORMAT, m->path, (int64_t)*at, NULL,
                       "stored zip entry '%.*s' has two different sizes", n_shown, e->name);
    *at += 46 + n_name + n_extra + n_comment;
    return locate(m, end, off, n_packed, e);
}

vnp_status vnp_zip_check_stored(const struct vnp_mapping *m, const struct vnp_zip_entry *e) {
    if (e->method == 0) return VNP_OK;
    (void)vnp_bad(VNP_UNSUPPORTED, m->path, -1, NULL,
                  "zip entry '%.*s' is compressed (method %u); torch.save stores",
                  (int)VNP_MIN(e->n_name, (size_t)200), e->name, e->method);
    vnp_error_hint("unpack it and zip it again with 'zip -0 -r', or save it anew with torch");
    return VNP_UNSUPPORTED;
}

static int compare_names(const char *a, size_t n_a, const char *b, size_t n_b) {
    int order = memcmp(a, b, VNP_MIN(n_a, n_b));
    if (order) return order;
    return n_a < n_b ? -1 : n_a > n_b;
}
static int compare_entries(const void *a, const void *b) {
    const struct vnp_zip_entry *x = a, *y = b;
    return compare_names(x->name, x->n_name, y->name, y->n_name);
}

vnp_status vnp_zip_open(const struct vnp_mapping *m, struct vnp_zip *out) {
    struct zip_end end = {0};
    *out = (struct vnp_zip){0};
    VNP_TRY(read_end(m, &end));
    if (end.n_entries > 4 * (uint64_t)VNP_RAW_MAX_TENSORS)
        return vnp_bad(VNP_UNSUPPORTED, m->path, -1, NULL, "has %llu zip entries",
                       (unsigned long long)end.n_entries);
    out->entries = calloc(end.n_entries ? (size_t)end.n_entries : 1, sizeof *out->entries);
    if (!out->entries) return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a zip directory");
    uint64_t at = end.off_dir;
    vnp_status status = VNP_OK;
    for (uint64_t i = 0; i < end.n_entries && status == VNP_OK; i++)
        status = read_entry(m, &end, &at, &out->entries[out->n_entries++]);
    if (status == VNP_OK && at != end.off_end)
        status = vnp_bad(VNP_FORMAT, m->path, (int64_t)at, NULL,
                         "the zip directory holds more than its %llu entries",
                         (unsigned long long)end.n_entries);
    if (status == VNP_OK) {
        qsort(out->entries, (size_t)out->n_entries, sizeof *out->entries, compare_entries);
        for (int64_t i = 1; i < out->n_entries && status == VNP_OK; i++)
            if (compare_entries(&out->entries[i - 1], &out->entries[i]) == 0)
                status = vnp_bad(VNP_FORMAT, m->path, -1, NULL, "zip entry '%.*s' is there twice",
                                 (int)VNP_MIN(out->entries[i].n_name, (size_t)200),
                                 out->entries[i].name);
    }
    if (status != VNP_OK) vnp_zip_close(out);
    return status;
}

void vnp_zip_close(struct vnp_zip *z) {
    free(z->entries);
    *z = (struct vnp_zip){0};
}

const struct vnp_zip_entry *vnp_zip_find(const struct vnp_zip *z, const char *name, size_t n_name) {
    int64_t lo = 0, hi = z->n_entries;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int order = compare_names(z->entries[mid].name, z->entries[mid].n_name, name, n_name);
        if (order == 0) return &z->entries[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}
