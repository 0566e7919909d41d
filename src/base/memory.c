// SPDX-License-Identifier: MIT
// Aligned memory, clock and content hash.
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

void *vnp_alloc_aligned(size_t n_bytes) {
    size_t n = n_bytes ? n_bytes : 1;
    if (!vnp_size_add(n, 63, &n)) return NULL;
    n &= ~(size_t)63;
    void *p = aligned_alloc(64, n);
    if (p) memset(p, 0, n);
    return p;
}

void vnp_free_aligned(void *p) {
    free(p);
}

double vnp_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct vnp_hash128 vnp_hash_seeded(const void *data, size_t n_bytes, uint64_t seed) {
    XXH128_hash_t h = XXH3_128bits_withSeed(data, n_bytes, seed);
    return (struct vnp_hash128){.lo = h.low64, .hi = h.high64};
}

struct vnp_hash128 vnp_hash(const void *data, size_t n_bytes) {
    return vnp_hash_seeded(data, n_bytes, 0);
}

void vnp_hash_hex(struct vnp_hash128 h, char out[33]) {
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
}
