/* SPDX-License-Identifier: MIT
 * What the tests of the run room share: models of the goldens, scratch folders, whole-file
 * comparison. */
#ifndef VNP_TEST_RUN_SUPPORT_H
#define VNP_TEST_RUN_SUPPORT_H

#include "cpu/cpu.h"
#include "ref/ref.h"
#include "run/run.h"
#include "support.h"

#include <unistd.h>

/* snprintf that fails the test where the text does not fit. */
static inline void put(char *buf, size_t n, const char *fmt, ...) VNP_PRINTF(3, 4);
static inline void put(char *buf, size_t n, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(buf, n, fmt, ap);
    va_end(ap);
    if (k < 0 || (size_t)k >= n) fail_msg("a path is too long");
}

struct models {
    struct vnp_checkpoint *esm2, *dnabert, *classifier;
};

static inline struct vnp_checkpoint *open_model(const char *path, enum vnp_model_kind kind) {
    struct vnp_checkpoint *c = NULL;
    if (vnp_checkpoint_open(path, kind, &c) != VNP_OK)
        fail_msg("%s: %s", path, vnp_error_last()->text);
    return c;
}

static inline void models_open(struct models *m, const char *goldens, const char *classifier) {
    char path[4096];
    put(path, sizeof path, "%s/esm2/t3_d128_h2/model.pt", goldens);
    m->esm2 = open_model(path, VNP_MODEL_ESM2);
    put(path, sizeof path, "%s/dnabert_s/l3_d192_h3", goldens);
    m->dnabert = open_model(path, VNP_MODEL_DNABERT);
    put(path, sizeof path, "%s/pipeline/%s", goldens, classifier);
    m->classifier = open_model(path, VNP_MODEL_CLASSIFIER);
}

static inline void models_close(struct models *m) {
    vnp_checkpoint_close(m->esm2);
    vnp_checkpoint_close(m->dnabert);
    vnp_checkpoint_close(m->classifier);
}

/* A fresh folder below the build folder. */
static inline void scratch(const char *name, char *path, size_t n) {
    char command[8192];
    put(path, n, "%s/scratch/run_%s_%d", VNP_TEST_BINARY_DIR, name, (int)getpid());
    put(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", path, path);
    if (system(command) != 0) fail_msg("%s", command);
}

/* The first n_bytes of a file, whole lines, as another. */
static inline void copy_head(const char *from, const char *to, size_t n_bytes) {
    size_t n;
    char *text = support_read_file(from, &n);
    n = n_bytes < n ? n_bytes : n;
    while (n > 0 && text[n - 1] != '\n') n--;
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
    free(text);
}

static inline void assert_same_file(const char *dir_a, const char *dir_b, const char *name) {
    char path[4096];
    size_t n_a, n_b;
    put(path, sizeof path, "%s/%s", dir_a, name);
    char *a = support_read_file(path, &n_a);
    put(path, sizeof path, "%s/%s", dir_b, name);
    char *b = support_read_file(path, &n_b);
    if (n_a != n_b || memcmp(a, b, n_a) != 0)
        fail_msg("%s differs between %s (%zu bytes) and %s (%zu bytes)", name, dir_a, n_a, dir_b,
                 n_b);
    free(a);
    free(b);
}

static inline bool file_exists(const char *dir, const char *name) {
    char path[4096];
    struct stat st;
    put(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) == 0;
}

/* A progress callback that asks for a stop after some calls. */
struct support_stop {
    int after;
};

static inline bool support_stop_soon(void *ctx, const struct vnp_run_progress *p) {
    struct support_stop *s = ctx;
    (void)p;
    return s->after-- > 0;
}

static inline void assert_status(vnp_status status, vnp_status want) {
    if (status == want) return;
    char text[4096];
    vnp_error_format(vnp_error_last(), text, sizeof text);
    fail_msg("status %s, not %s: %s", vnp_status_name(status), vnp_status_name(want), text);
}

#endif
