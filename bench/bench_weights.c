// SPDX-License-Identifier: MIT
// What loading costs before any packing: opening a model and viewing every tensor (touches no
// weights), its digest (reads all), against read() of the same file from the page cache.
// usage: bench_weights PATH   (make one: make-random-model esm2-pt OUT.pt --esm 13,2560,40 ...)
#include "weights/weights.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static long peak_kib(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_maxrss;
}

/* Resident KiB of file mappings and of private memory. */
static void resident(long *file, long *anon) {
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    *file = *anon = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "RssFile:", 8) == 0) *file = strtol(line + 8, NULL, 10);
        if (strncmp(line, "RssAnon:", 8) == 0) *anon = strtol(line + 8, NULL, 10);
    }
    if (f) fclose(f);
}

static double read_once(const char *path, double *gb) {
    static char buf[1 << 22];
    int fd = open(path, O_RDONLY);
    double t = vnp_now_s();
    ssize_t n;
    *gb = 0;
    while (fd >= 0 && (n = read(fd, buf, sizeof buf)) > 0) *gb += (double)n * 1e-9;
    if (fd >= 0) close(fd);
    return vnp_now_s() - t;
}

static int bench(const char *path) {
    struct vnp_checkpoint *c;
    char text[4096];
    double gb;
    long file0, anon0, file1, anon1;
    double t_read = read_once(path, &gb);
    for (int i = 0; i < 2; i++) {
        double t = read_once(path, &gb);
        if (t < t_read) t_read = t;
    }
    resident(&file0, &anon0);
    double t = vnp_now_s();
    if (vnp_checkpoint_open(path, VNP_MODEL_NONE, &c) != VNP_OK) {
        vnp_error_format(vnp_error_last(), text, sizeof text);
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    int64_t n = vnp_checkpoint_count(c), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        struct vnp_view v;
        if (vnp_checkpoint_view(c, &v, "%s", vnp_checkpoint_at(c, i)->name) != VNP_OK) return 1;
        sum += v.rows * v.cols;
    }
    double t_open = vnp_now_s() - t;
    resident(&file1, &anon1);
    printf("%s: %.3f GB, %lld tensors, %lld parameters\n", path, gb, (long long)n, (long long)sum);
    printf("read()            %8.1f ms  %6.2f GB/s (best of 3)\n", t_read * 1e3, gb / t_read);
    printf("open + all views  %8.3f ms  +%ld KiB file pages, +%ld KiB private\n", t_open * 1e3,
           file1 - file0, anon1 - anon0);
    struct vnp_hash128 digest;
    t = vnp_now_s();
    if (vnp_checkpoint_digest(c, &digest) != VNP_OK) return 1;
    double t_digest = vnp_now_s() - t;
    resident(&file1, &anon1);
    char hex[33];
    vnp_hash_hex(digest, hex);
    printf("digest            %8.1f ms  %6.2f GB/s  %.2f x read()  %s\n", t_digest * 1e3,
           gb / t_digest, t_digest / t_read, hex);
    printf("private memory %ld KiB, peak with file pages %ld KiB\n", anon1, peak_kib());
    vnp_checkpoint_close(c);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        printf("bench_weights: skipped, give a model's path\n");
        return 0;
    }
    return bench(argv[1]);
}
