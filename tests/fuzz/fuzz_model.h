/* SPDX-License-Identifier: MIT
 * What the model fuzz targets share: a file of given bytes on a memory file system, and a walk over
 * everything that opens. Files live for the process. */
#ifndef VNP_FUZZ_MODEL_H
#define VNP_FUZZ_MODEL_H

#include "weights/weights.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct fuzz_file {
    const char *folder;
    char path[512];
};

static inline void fuzz_die(const char *what) {
    perror(what);
    abort();
}

static inline void fuzz_remove_folders(void);
static char fuzz_folders[4][64];

/* A fresh folder for f, removed at exit. */
static inline void fuzz_folder(struct fuzz_file *f) {
    struct stat st;
    static int n;
    if (n == 4) abort();
    if (n == 0) atexit(fuzz_remove_folders);
    char *made = fuzz_folders[n++];
    snprintf(made, sizeof fuzz_folders[0], "%s/vnp_fuzz_XXXXXX",
             stat("/dev/shm", &st) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(made)) fuzz_die("mkdtemp");
    f->folder = made;
}

static inline void fuzz_remove_folders(void) {
    static const char *const names[] = {"model.safetensors", "part-1", "config.json",
                                        "model.safetensors.index.json", ""};
    char path[512];
    for (size_t i = 0; i < 4 && fuzz_folders[i][0]; i++)
        for (size_t k = 0; k < VNP_COUNT(names); k++) {
            snprintf(path, sizeof path, "%s/%s", fuzz_folders[i], names[k]);
            (void)remove(path);
        }
}

/* Replaces the file's bytes. Without a folder the file has no name but that of its descriptor. */
static inline void fuzz_file_write(struct fuzz_file *f, const char *name, const uint8_t *data,
                                   size_t n) {
    if (!f->path[0] && f->folder)
        snprintf(f->path, sizeof f->path, "%s/%s", f->folder, name ? name : "");
    else if (!f->path[0])
        snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", memfd_create("model", 0));
    int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) fuzz_die(f->path);
    close(fd);
}

static inline void fuzz_open_all(const char *path) {
    unsigned kinds;
    char format[64];
    volatile uint8_t sum = 0;
    for (int kind = VNP_MODEL_NONE; kind <= VNP_MODEL_CLASSIFIER; kind++) {
        struct vnp_checkpoint *c;
        if (vnp_checkpoint_open(path, (enum vnp_model_kind)kind, &c) != VNP_OK) {
            if (vnp_error_last()->status == VNP_OK) abort(); /* every failure says why */
            if (!vnp_error_last()->text[0]) abort();
            continue;
        }
        for (int64_t i = 0; i < vnp_checkpoint_count(c); i++) {
            const struct vnp_tensor_info *t = vnp_checkpoint_at(c, i);
            const uint8_t *p = t->data;
            if (t->n_bytes) sum = (uint8_t)(sum + p[0] + p[t->n_bytes - 1]);
        }
        struct vnp_hash128 digest;
        const char *json;
        size_t n;
        (void)vnp_checkpoint_digest(c, &digest);
        (void)vnp_checkpoint_tokenizer(c, &json, &n);
        vnp_checkpoint_close(c);
    }
    (void)vnp_model_probe(path, &kinds, format, sizeof format);
}

#endif
