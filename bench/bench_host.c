// SPDX-License-Identifier: MIT
// The host path on one core: bytes to records, to windows and frames, to tokens, no model. Prints
// MB of input text a second of processor time for each stage and all stages before it, and what
// came out, so that two runs can be compared.
// usage: bench_host [-t TOKENIZER_JSON] [-w WINDOW] [-m MEGABYTES] [FILE...]
// Without files: random DNA, and DNA made of genes without stops, one record of 20 kbp after the
// other, 60 columns. Files are repeated up to the size. The text lies in a temporary file, read
// from the page cache. Without a tokenizer only proteins become tokens.
#include "seq/seq.h"
#include "tok/tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { READ, FRAMES, PROTEIN_TOKENS, ALL_TOKENS, N_STAGES };
static const char *const stage_names[N_STAGES] = {"read", "+ windows, frames", "+ protein tokens",
                                                  "+ DNA tokens"};

struct host {
    const char *path;
    int64_t window;
    struct vnp_bpe *bpe;
    char *scratch, *bpe_scratch;
    uint16_t *ids;
    int64_t n_windows, n_frames, n_nt, n_tokens_protein, n_tokens_dna;
    uint64_t sum; /* of ids: nothing is optimised away */
};

static void must(vnp_status status) {
    if (status == VNP_OK) return;
    char text[4096];
    vnp_error_format(vnp_error_last(), text, sizeof text);
    fprintf(stderr, "bench_host: %s\n", text);
    exit(1);
}

static void *get(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) exit(1);
    return p;
}

static void run_window(struct host *h, const char *window, int64_t len, int stage) {
    struct vnp_frames f;
    size_t n, n_unknown;
    vnp_frames_find(window, len, h->scratch, &f);
    h->n_windows++;
    for (int i = 0; i < VNP_N_FRAMES; i++) {
        if (!(f.kept >> i & 1)) continue;
        h->n_frames++;
        h->n_nt += f.nt_len[i];
        if (stage < PROTEIN_TOKENS) continue;
        vnp_tok_esm_encode(f.aa[i], (size_t)f.aa_len[i], h->ids, &n, &n_unknown);
        h->n_tokens_protein += (int64_t)n;
        h->sum += h->ids[n / 2];
        if (stage < ALL_TOKENS) continue;
        must(vnp_bpe_encode(h->bpe, f.nt[i], (size_t)f.nt_len[i], h->bpe_scratch, h->ids, &n,
                            &n_unknown));
        h->n_tokens_dna += (int64_t)n;
        h->sum += h->ids[n / 2];
    }
}

/* Processor time of this process: what one core needs, whoever else is on the machine. */
static double cpu_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double run_stage(struct host *h, int stage) {
    struct vnp_seq_reader *r;
    struct vnp_seq_record rec;
    bool has;
    h->n_windows = h->n_frames = h->n_nt = h->n_tokens_protein = h->n_tokens_dna = 0;
    double start = cpu_now_s();
    must(vnp_seq_reader_open(&h->path, 1, NULL, &r));
    for (;;) {
        struct vnp_windows w;
        must(vnp_seq_reader_next(r, &rec, &has));
        if (!has) break;
        must(vnp_windows_init((int64_t)rec.len, h->window, &w));
        for (int64_t k = 0; k < w.n && stage >= FRAMES; k++) {
            int64_t a, b;
            vnp_windows_at(&w, k, &a, &b);
            run_window(h, rec.seq + a, b - a, stage);
        }
    }
    vnp_seq_reader_close(r);
    return cpu_now_s() - start;
}

static void bench(struct host *h, const char *name, double n_bytes) {
    printf("%s: %.1f MB, windows of %lld\n", name, n_bytes / 1e6, (long long)h->window);
    for (int stage = 0; stage < N_STAGES; stage++) {
        if (stage == ALL_TOKENS && !h->bpe) continue;
        double best = 1e9;
        for (int i = 0; i < 3; i++) best = VNP_MIN(best, run_stage(h, stage));
        printf("  %-20s %8.1f MB/s  (best of 3: %.3f s)\n", stage_names[stage],
               n_bytes / 1e6 / best, best);
    }
    printf("  %lld windows, %lld open frames, %.2f bases of frames a byte, %lld + %lld tokens\n",
           (long long)h->n_windows, (long long)h->n_frames, (double)h->n_nt / n_bytes,
           (long long)h->n_tokens_dna, (long long)h->n_tokens_protein);
}

static uint64_t random_u64(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Genes: codons without stops for 300 to 1,500 bases, then 100 random bases. */
static void make_text(FILE *f, double n_bytes, bool is_genes) {
    uint64_t seed = 1;
    char seq[20000 + 2000];
    for (double done = 0; done < n_bytes;) {
        size_t n = 0;
        while (n < 20000) {
            size_t gene = is_genes ? 300 + random_u64(&seed) % 1200 : 0, end = n + gene;
            while (n < end) {
                for (int i = 0; i < 3; i++) seq[n + (size_t)i] = "ACGT"[random_u64(&seed) & 3];
                bool is_stop = !memcmp(seq + n, "TAA", 3) || !memcmp(seq + n, "TAG", 3) ||
                               !memcmp(seq + n, "TGA", 3);
                n += is_stop ? 0 : 3;
            }
            for (int i = 0; i < 100; i++) seq[n++] = "ACGT"[random_u64(&seed) & 3];
        }
        done += fprintf(f, ">contig_%.0f\n", done);
        for (size_t i = 0; i < n; i += 60)
            done += fprintf(f, "%.*s\n", (int)VNP_MIN(60, n - i), seq + i);
    }
}

static void copy_files(FILE *f, double n_bytes, char **files, int n_files) {
    const char *const *paths = (const char *const *)files;
    for (double done = 0; done < n_bytes;) {
        struct vnp_seq_reader *r;
        struct vnp_seq_record rec;
        bool has;
        double before = done;
        must(vnp_seq_reader_open(paths, (size_t)n_files, NULL, &r));
        for (;;) {
            must(vnp_seq_reader_next(r, &rec, &has));
            if (!has) break;
            done += fprintf(f, ">%s\n", rec.header);
            for (size_t i = 0; i < rec.len; i += 60)
                done += fprintf(f, "%.*s\n", (int)VNP_MIN((size_t)60, rec.len - i), rec.seq + i);
        }
        vnp_seq_reader_close(r);
        if (done <= before) exit(1);
    }
}

static void load_bpe(struct host *h, const char *path) {
    FILE *f = fopen(path, "rb");
    size_t cap = 64 << 20;
    char *json = get(cap);
    size_t n = f ? fread(json, 1, cap, f) : 0;
    if (!f || n == 0 || n == cap) {
        fprintf(stderr, "bench_host: cannot read %s\n", path);
        exit(1);
    }
    fclose(f);
    must(vnp_bpe_load(json, n, path, &h->bpe));
    free(json);
}

int main(int argc, char **argv) {
    struct host h = {.window = 500};
    double n_bytes = 64e6;
    int opt;
    while ((opt = getopt(argc, argv, "t:w:m:")) != -1) {
        if (opt == 't') load_bpe(&h, optarg);
        if (opt == 'w') h.window = atoll(optarg);
        if (opt == 'm') n_bytes = 1e6 * atof(optarg);
        if (opt == '?' || h.window < 1) return 2;
    }
    size_t window = (size_t)h.window;
    h.scratch = get(vnp_frames_scratch_bytes(h.window));
    h.bpe_scratch = get(h.bpe ? vnp_bpe_scratch_bytes(h.bpe, window) : 1);
    h.ids = get(2 * VNP_MAX(window + 8, h.bpe ? vnp_bpe_max_tokens(h.bpe, window) : 0));
    for (int i = 0; i < (optind < argc ? 1 : 2); i++) {
        char path[] = "/tmp/bench_host_XXXXXX";
        int fd = mkstemp(path);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
        if (!f) return 1;
        if (optind < argc)
            copy_files(f, n_bytes, argv + optind, argc - optind);
        else
            make_text(f, n_bytes, i == 1);
        double n_text = (double)ftell(f);
        if (fclose(f) != 0) return 1;
        h.path = path;
        bench(&h, optind < argc ? argv[optind] : i ? "genes" : "random DNA", n_text);
        unlink(path);
    }
    printf("  (%llu)\n", (unsigned long long)h.sum);
    vnp_bpe_destroy(h.bpe);
    free(h.scratch);
    free(h.bpe_scratch);
    free(h.ids);
    return 0;
}
