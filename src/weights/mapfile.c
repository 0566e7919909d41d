// SPDX-License-Identifier: MIT
// Read-only mappings of whole files, and the raw map: tensors under the names their file gives.
#include "weights_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

vnp_status vnp_bad(vnp_status status, const char *file, int64_t off, const char *record,
                   const char *fmt, ...) {
    char text[900];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)vnp_fail(status, VNP_FROM_MODEL, "%s", text);
    vnp_error_at(file, -1, off, record);
    return status;
}

static vnp_status fail_open(const char *path, int os_errno) {
    vnp_status status = os_errno == ENOMEM ? VNP_NOMEM : VNP_IO;
    (void)vnp_fail_errno(status, VNP_FROM_MODEL, os_errno, "cannot open the model");
    vnp_error_at(path, -1, -1, NULL);
    if (os_errno == ENOENT) vnp_error_hint("check the path");
    return status;
}

static struct vnp_hash128 stamp_of(const struct stat *st) {
    const int64_t facts[] = {(int64_t)st->st_dev, (int64_t)st->st_ino, (int64_t)st->st_size,
                             (int64_t)st->st_mtim.tv_sec, (int64_t)st->st_mtim.tv_nsec};
    return vnp_hash(facts, sizeof facts);
}

vnp_status vnp_mapping_open(const char *path, struct vnp_mapping **out) {
    *out = NULL;
    /* a pipe that nobody writes to must not hold up the refusal below */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_open(path, errno);
    struct stat st;
    vnp_status status = VNP_OK;
    struct vnp_mapping *m = calloc(1, sizeof *m);
    if (!m || !(m->path = strdup(path))) {
        status = fail_open(path, ENOMEM);
        goto done;
    }
    if (fstat(fd, &st) != 0) {
        status = fail_open(path, errno);
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = vnp_bad(VNP_FORMAT, path, -1, NULL, "is no regular file");
        goto done;
    }
    m->n_bytes = (size_t)st.st_size;
    m->stamp = stamp_of(&st);
    if (m->n_bytes) {
        void *p = mmap(NULL, m->n_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            status = fail_open(path, errno);
            goto done;
        }
        m->data = p;
    }
done:
    close(fd);
    if (status != VNP_OK) {
        vnp_mapping_close(m);
        return status;
    }
    *out = m;
    return VNP_OK;
}

void vnp_mapping_close(struct vnp_mapping *m) {
    if (!m) return;
    /* munmap wants a pointer to non-const; the pages are ours and were never written */
    if (m->data) munmap((void *)(uintptr_t)m->data, m->n_bytes);
    free(m->path);
    free(m);
}

void vnp_mapping_trim(const struct vnp_mapping *m) {
    /* only drops our page table entries; a failure costs memory, not correctness */
    if (m->data) (void)madvise((void *)(uintptr_t)m->data, m->n_bytes, MADV_DONTNEED);
}

struct vnp_raw *vnp_raw_create(const char *path) {
    struct vnp_raw *raw = calloc(1, sizeof *raw);
    if (!raw) return NULL;
    snprintf(raw->path, sizeof raw->path, "%s", path);
    raw->format = "unknown";
    raw->cfg_token_dropout = -1;
    return raw;
}

void vnp_raw_destroy(struct vnp_raw *raw) {
    if (!raw) return;
    for (int64_t i = 0; i < raw->n_tensors; i++) free(raw->tensors[i].name);
    free(raw->tensors);
    for (int64_t i = 0; i < raw->n_meta; i++) {
        free(raw->meta[i].key);
        free(raw->meta[i].value);
    }
    free(raw->meta);
    for (int64_t i = 0; i < raw->n_maps; i++) vnp_mapping_close(raw->maps[i]);
    free(raw->maps);
    json_decref(raw->config);
    free(raw);
}

vnp_status vnp_raw_own(struct vnp_raw *raw, struct vnp_mapping *m) {
    struct vnp_mapping **maps =
        realloc(raw->maps, (size_t)(raw->n_maps + 1) * sizeof(struct vnp_mapping *));
    if (!maps) {
        vnp_mapping_close(m);
        return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a list of files");
    }
    raw->maps = maps;
    raw->maps[raw->n_maps++] = m;
    return VNP_OK;
}

struct vnp_raw_tensor *vnp_raw_add(struct vnp_raw *raw, const char *name, size_t n_name,
                                   const char *file) {
    if (raw->n_tensors >= VNP_RAW_MAX_TENSORS) {
        (void)vnp_bad(VNP_UNSUPPORTED, file, -1, NULL, "holds more than %d tensors",
                      VNP_RAW_MAX_TENSORS);
        return NULL;
    }
    if (raw->n_tensors == raw->cap_tensors) {
        int64_t cap = raw->cap_tensors ? raw->cap_tensors * 2 : 64;
        struct vnp_raw_tensor *t = realloc(raw->tensors, (size_t)cap * sizeof *t);
        if (!t) goto nomem;
        raw->tensors = t;
        raw->cap_tensors = cap;
    }
    struct vnp_raw_tensor *t = &raw->tensors[raw->n_tensors];
    memset(t, 0, sizeof *t);
    t->name = malloc(n_name + 1);
    if (!t->name) goto nomem;
    memcpy(t->name, name, n_name);
    t->name[n_name] = 0;
    t->file = file;
    t->is_contiguous = true;
    raw->n_tensors++;
    return t;
nomem:
    (void)vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a list of tensors");
    return NULL;
}

static int compare_tensors(const void *a, const void *b) {
    const struct vnp_raw_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

vnp_status vnp_raw_finish(struct vnp_raw *raw) {
    if (raw->n_tensors == 0) return vnp_bad(VNP_FORMAT, raw->path, -1, NULL, "holds no tensors");
    qsort(raw->tensors, (size_t)raw->n_tensors, sizeof *raw->tensors, compare_tensors);
    for (int64_t i = 1; i < raw->n_tensors; i++)
        if (strcmp(raw->tensors[i - 1].name, raw->tensors[i].name) == 0)
            return vnp_bad(VNP_FORMAT, raw->tensors[i].file, -1, raw->tensors[i].name,
                           "the tensor is there twice");
    return VNP_OK;
}

const struct vnp_raw_tensor *vnp_raw_find(const struct vnp_raw *raw, const char *name) {
    int64_t lo = 0, hi = raw->n_tensors;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int order = strcmp(raw->tensors[mid].name, name);
        if (order == 0) return &raw->tensors[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const struct vnp_raw_meta *vnp_raw_meta_find(const struct vnp_raw *raw, const char *key) {
    for (int64_t i = 0; i < raw->n_meta; i++)
        if (strcmp(raw->meta[i].key, key) == 0) return &raw->meta[i];
    return NULL;
}

bool vnp_shape_count(const int64_t *shape, int n_dims, size_t *out) {
    size_t n = 1;
    bool has_zero = false;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0) return false;
        if (shape[i] == 0)
            has_zero = true;
        else if (!vnp_size_mul(n, (size_t)shape[i], &n))
            return false;
    }
    *out = has_zero ? 0 : n;
    return true;
}
