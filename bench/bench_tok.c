// SPDX-License-Identifier: MIT
// Tokens a second on one core: BPE over windows of DNA, and the ESM-2 alphabet.
// usage: bench_tok TOKENIZER.json [WINDOW [FASTA]]; without a FASTA, random DNA.
#include "tok/tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_BASES = 8 << 20 };

static char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    size_t cap = 1 << 28;
    char *data = malloc(cap);
    if (data) *n = fread(data, 1, cap, f);
    fclose(f);
    return data;
}

/* This thread's CPU time: a busy machine does not count. */
static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t fill_bases(char *bases, const char *path) {
    size_t n = 0, n_file = 0;
    char *fasta = path ? read_file(path, &n_file) : NULL;
    uint64_t x = 88172645463325252u;
    bool is_header = false;
    for (size_t i = 0; i < n_file && n < N_BASES; i++) {
        if (fasta[i] == '>') is_header = true;
        if (fasta[i] == '\n')
            is_header = false;
        else if (!is_header)
            bases[n++] = (char)(fasta[i] & ~32);
    }
    while (!path && n < N_BASES) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        bases[n++] = "ACGT"[x >> 33 & 3];
    }
    free(fasta);
    return n;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        printf("usage: bench_tok TOKENIZER.json [WINDOW [FASTA]]\n");
        return 0; /* make bench without the published tokenizer */
    }
    size_t n_json = 0, window = argc > 2 ? strtoul(argv[2], NULL, 10) : 500;
    char *json = read_file(argv[1], &n_json), *bases = malloc(N_BASES);
    struct vnp_bpe *bpe = NULL;
    if (!json || !bases || !window || vnp_bpe_load(json, n_json, argv[1], &bpe) != VNP_OK) {
        printf("cannot load %s: %s\n", argv[1], vnp_error_last()->text);
        return 1;
    }
    size_t n = fill_bases(bases, argc > 3 ? argv[3] : NULL), n_tokens = 0;
    void *scratch = malloc(vnp_bpe_scratch_bytes(bpe, window));
    uint16_t *ids = malloc(2 * (vnp_bpe_max_tokens(bpe, window) + window + 2));
    double best = 1e9, best_esm = 1e9;
    for (int round = 0; round < 5; round++) {
        double start = cpu_s();
        n_tokens = 0;
        for (size_t i = 0; i < n; i += window) {
            size_t k = 0;
            if (vnp_bpe_encode(bpe, bases + i, VNP_MIN(window, n - i), scratch, ids, &k, NULL) !=
                VNP_OK)
                return 1;
            n_tokens += k;
        }
        best = VNP_MIN(best, cpu_s() - start);
        start = cpu_s();
        for (size_t i = 0; i < n; i += window) {
            size_t k = 0;
            vnp_tok_esm_encode(bases + i, VNP_MIN(window, n - i), ids, &k, NULL);
        }
        best_esm = VNP_MIN(best_esm, cpu_s() - start);
    }
    printf("bpe: window %zu, %.1f MB/s (%zu bases, %zu tokens, %.1f ns a base)\n", window,
           (double)n / best / 1e6, n, n_tokens, best / (double)n * 1e9);
    printf("esm: window %zu, %.1f MB/s\n", window, (double)n / best_esm / 1e6);
    free(ids);
    free(scratch);
    free(bases);
    free(json);
    vnp_bpe_destroy(bpe);
    return 0;
}
