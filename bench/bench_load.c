// SPDX-License-Identifier: MIT
// Loading: how long do conversion and packing of a model's matrices take against reading the file
// from the page cache, and how much memory beside the packed weights do they need? Writes a file of
// FP16 matrices (layers of ESM-2 3B's shape) to a folder, reads it, then packs it from its mapping.
//
// usage: bench_load [FOLDER [LAYERS]]      default: /tmp, 13 layers = 1.9 GiB
#include "cpu/cpu.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define D 2560
#define F 10240
#define LAYER_BYTES ((size_t)(4 * D + 2 * F) * D * 2)

static void ok(bool is_ok, const char *what) {
    if (is_ok) return;
    fprintf(stderr, "bench_load: %s: %s\n", what, vnp_error_last()->text);
    exit(1);
}

/* VmRSS less what is only mapped from the file, MiB. */
static double anonymous_mib(const char *key) {
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kib = atof(line + strlen(key));
    if (f) fclose(f);
    return kib / 1024;
}

/* VNP_BENCH_CLOCK=cpu: CPU time of all threads, for machines that are not idle. */
static double bench_now(void) {
    struct timespec t;
    const char *clock = getenv("VNP_BENCH_CLOCK");
    if (!clock || strcmp(clock, "cpu") != 0) return vnp_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Into one small buffer again and again, or into memory that holds it all, as a reader that wants
 * the file needs it; of the latter the kernel must clear every page first. */
static double read_file(const char *path, size_t n_bytes, bool is_kept) {
    const size_t n_piece = 1 << 20, n_buf = is_kept ? n_bytes : n_piece;
    const double start = bench_now();
    char *buf = malloc(n_buf);
    int fd = open(path, O_RDONLY);
    ok(buf && fd >= 0, "open");
    size_t at = 0;
    for (ssize_t n; (n = read(fd, buf + (is_kept ? at : 0), VNP_MIN(n_bytes - at, n_piece))) > 0;)
        at += (size_t)n;
    ok(at == n_bytes, "read");
    close(fd);
    free(buf);
    return bench_now() - start;
}

/* A virtual machine gets its memory from the host at first touch: not what is measured. */
static void warm_up(size_t n_bytes) {
    char *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ok(p != MAP_FAILED, "memory");
    (void)madvise(p, n_bytes, MADV_HUGEPAGE); /* as the weights ask: the same pages come back */
    memset(p, 1, n_bytes);
    munmap(p, n_bytes);
}

static void pack_file(const char *path, int n_layers, enum vnp_precision precision) {
    static const int64_t sizes[4][2] = {{3 * D, D}, {D, D}, {F, D}, {D, F}};
    static const enum vnp_site sites[4] = {VNP_SITE_ATTN_IN, VNP_SITE_ATTN_OUT, VNP_SITE_FFN_IN,
                                           VNP_SITE_FFN_MID};
    const struct vnp_backend *b = vnp_cpu_backend();
    const struct vnp_device_options opt = {.precision = precision};
    const size_t n_bytes = (size_t)n_layers * LAYER_BYTES;
    struct vnp_linear **w = calloc((size_t)n_layers * 4, sizeof(struct vnp_linear *));
    struct vnp_device *dev;
    warm_up(2 * n_bytes);
    const double read_s = read_file(path, n_bytes, false);
    const double kept_s = read_file(path, n_bytes, true);
    warm_up(2 * n_bytes);
    ok(w && b->device_open(&opt, &dev) == VNP_OK, "device");
    const double before = anonymous_mib("RssAnon:"), start = bench_now();
    int fd = open(path, O_RDONLY);
    char *map = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    ok(fd >= 0 && map != MAP_FAILED, "map");
    double packed = 0, most = 0;
    size_t at = 0;
    for (int i = 0; i < 4 * n_layers; i++) {
        const int64_t *s = sizes[i % 4];
        const struct vnp_view view = {map + at, VNP_F16, s[0], s[1]};
        const struct vnp_linear_desc desc = {
            .weight = &view, .n_parts = 1, .n_out = s[0], .n_in = s[1], .site = sites[i % 4]};
        ok(b->linear_create(dev, &desc, &w[i]) == VNP_OK, "pack");
        at += (size_t)(s[0] * s[1]) * 2;
        packed += (double)b->linear_bytes(w[i]) / (1 << 20);
        const double over = anonymous_mib("RssAnon:") - before - packed;
        if (over > most) most = over;
    }
    const double pack_s = bench_now() - start;
    printf("%s: file of %.0f MiB read from the page cache in %.3f s through a small buffer, %.3f s "
           "into memory; packed %.3f s: %.2f and %.2f times; packed %.0f MiB, at most %.0f MiB "
           "beside\n",
           vnp_precision_name(precision), (double)n_bytes / (1 << 20), read_s, kept_s, pack_s,
           pack_s / read_s, pack_s / kept_s, packed, most);
    for (int i = 0; i < 4 * n_layers; i++) b->linear_destroy(dev, w[i]);
    free(w);
    b->device_close(dev);
    munmap(map, n_bytes);
    close(fd);
}

int main(int argc, char **argv) {
    char path[4096];
    const int n_layers = argc > 2 ? atoi(argv[2]) : 13;
    snprintf(path, sizeof path, "%s/bench_load.bin", argc > 1 ? argv[1] : "/tmp");
    uint16_t *layer = malloc(LAYER_BYTES);
    FILE *f = fopen(path, "wb");
    ok(layer && f && n_layers > 0, "file");
    for (size_t i = 0; i < LAYER_BYTES / 2; i++) /* halves below 2 in size, no two rows alike */
        layer[i] = (uint16_t)((i * 2654435761u >> 13) & 0xbfff);
    for (int i = 0; i < n_layers; i++) ok(fwrite(layer, 1, LAYER_BYTES, f) == LAYER_BYTES, "write");
    ok(fclose(f) == 0, "write");
    free(layer);
    pack_file(path, n_layers, VNP_PREC_FP32);
    if (strstr(vnp_cpu_features(), "bf16")) pack_file(path, n_layers, VNP_PREC_BF16);
    unlink(path);
    return 0;
}
