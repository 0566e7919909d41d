/* SPDX-License-Identifier: MIT
 * What several test programs need: where the goldens are, .npy files, whole files, a seeded
 * generator. Header only; include after cmocka's four headers. */
#ifndef VNP_TEST_SUPPORT_H
#define VNP_TEST_SUPPORT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Sanitized programs are several times slower: they prove no times. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SUPPORT_IS_SANITIZED 1
#else
#define SUPPORT_IS_SANITIZED 0
#endif

/* A memory checker makes a program a hundred times slower: with VNP_QUICK set the heaviest tests
 * take fewer or shorter sequences through the same code (tools/run-valgrind). */
static inline bool support_is_quick(void) {
    return getenv("VNP_QUICK") != NULL;
}

/* Folder of the goldens: $VNP_GOLDENS, else ../shared/goldens beside the source tree. When it is
 * absent the test is skipped with a reason, or fails where CI=true. Use at the start of a test. */
static inline const char *support_goldens(void) {
    static char path[4096];
    const char *env = getenv("VNP_GOLDENS");
    snprintf(path, sizeof path, "%s", env ? env : VNP_TEST_SOURCE_DIR "/../shared/goldens");
    struct stat st;
    if (stat(path, &st) == 0) return path;
    const char *ci = getenv("CI");
    if (ci && strcmp(ci, "true") == 0) fail_msg("goldens are missing: %s", path);
    print_message("# SKIP no goldens beside the source tree (%s)\n", path);
    skip();
    return NULL;
}

/* Whole file, NUL-terminated behind its end; the caller frees. Fails the test when unreadable. */
static inline char *support_read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    rewind(f);
    char *data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) fail_msg("cannot read %s", path);
    data[size] = 0;
    fclose(f);
    if (n) *n = (size_t)size;
    return data;
}

struct support_npy {
    char *file; /* owns */
    const void *data;
    char descr[8]; /* "<f8", "<i4", ... */
    int n_dims;
    int64_t shape[4], n;
};

/* Loads a C-ordered .npy (version 1 or 2); free with support_npy_free. */
static inline struct support_npy support_npy_load(const char *path) {
    struct support_npy a = {0};
    size_t n;
    a.file = support_read_file(path, &n);
    if (n < 10 || memcmp(a.file, "\x93NUMPY", 6) != 0) fail_msg("%s is no .npy", path);
    size_t n_head = (uint8_t)a.file[8] | (size_t)(uint8_t)a.file[9] << 8, off = 10;
    if (a.file[6] > 1) {
        n_head |= (size_t)(uint8_t)a.file[10] << 16 | (size_t)(uint8_t)a.file[11] << 24;
        off = 12;
    }
    char *head = a.file + off, *p = strstr(head, "'descr': '");
    if (!p) fail_msg("%s: no descr", path);
    sscanf(p + 10, "%7[^']", a.descr);
    p = strstr(head, "'shape': (");
    if (!p) fail_msg("%s: no shape", path);
    p += 10;
    a.n = 1;
    while (*p != ')' && a.n_dims < 4) {
        char *end;
        a.shape[a.n_dims] = strtoll(p, &end, 10);
        if (end == p) break;
        a.n *= a.shape[a.n_dims++];
        p = end + strspn(end, ", ");
    }
    a.data = a.file + off + n_head;
    return a;
}

static inline void support_npy_free(struct support_npy *a) {
    free(a->file);
    memset(a, 0, sizeof *a);
}

/* splitmix64: the seed is printed by the caller, so that a failure can be repeated. */
static inline uint64_t support_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* Uniform in [-1, 1). */
static inline float support_random_f32(uint64_t *state) {
    return (float)((double)(support_random(state) >> 11) * 0x1p-52 - 1.0);
}

#endif
