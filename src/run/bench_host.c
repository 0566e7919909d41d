// SPDX-License-Identifier: MIT
// bench host: the path without a model. First its stages one after the other on one core, each
// line with all stages before it, in processor time; then the whole engine with a stand-in for the
// encoders. Without files: random DNA, and DNA made of genes without stops.
#include "run/bench.h"
#include "seq/seq.h"
#include "tok/tok.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ, FRAMES, PROTEIN_TOKENS, ALL_TOKENS, N_STEPS, RECORD_BP = 20000 };
static const char *const step_names[N_STEPS] = {"read", "+ windows, frames", "+ protein tokens",
                                                "+ DNA tokens"};

struct host {
    const struct vnp_run_bench_options *opt;
    vnp_run_bench_fn *fn;
    void *ctx;
    const char *const *inputs;
    size_t n_inputs;
    int64_t window;
    struct vnp_bpe *bpe;
    char *scratch, *bpe_scratch;
    uint16_t *ids;
    int64_t n_bytes, n_nt, n_tokens;
    uint64_t sum; /* of ids: nothing is optimised away */
    char dir[4096], path[4200];
};

static vnp_status run_window(struct host *h, const char *window, int64_t len, int step) {
    struct vnp_frames f;
    size_t n, n_unknown;
    vnp_frames_find(window, len, h->scratch, &f);
    for (int i = 0; i < VNP_N_FRAMES; i++) {
        if (!(f.kept >> i & 1)) continue;
        h->n_nt += f.nt_len[i];
        if (step < PROTEIN_TOKENS) continue;
        vnp_tok_esm_encode(f.aa[i], (size_t)f.aa_len[i], h->ids, &n, &n_unknown);
        h->n_tokens += (int64_t)n;
        h->sum += h->ids[n / 2];
        if (step < ALL_TOKENS) continue;
        VNP_TRY(vnp_bpe_encode(h->bpe, f.nt[i], (size_t)f.nt_len[i], h->bpe_scratch, h->ids, &n,
                               &n_unknown));
        h->n_tokens += (int64_t)n;
        h->sum += h->ids[n / 2];
    }
    return VNP_OK;
}

static vnp_status run_records(struct host *h, struct vnp_seq_reader *r, int step) {
    struct vnp_seq_record rec;
    struct vnp_seq_reader_stats stats;
    bool has;
    for (;;) {
        struct vnp_windows w;
        VNP_TRY(vnp_seq_reader_next(r, &rec, &has));
        if (!has) break;
        VNP_TRY(vnp_windows_init((int64_t)rec.len, h->window, &w));
        for (int64_t k = 0; k < w.n && step >= FRAMES; k++) {
            int64_t a, b;
            vnp_windows_at(&w, k, &a, &b);
            VNP_TRY(run_window(h, rec.seq + a, b - a, step));
        }
    }
    vnp_seq_reader_stats(r, &stats);
    h->n_bytes = stats.n_bytes_plain;
    return VNP_OK;
}

static vnp_status run_step(struct host *h, int step, double *best) {
    *best = 1e30;
    for (int i = 0; i < 3; i++) {
        struct vnp_seq_reader *r;
        h->n_nt = h->n_tokens = 0;
        double start = vnp_run_bench_cpu_s();
        VNP_TRY(vnp_seq_reader_open(h->inputs, h->n_inputs, NULL, &r));
        vnp_status status = run_records(h, r, step);
        vnp_seq_reader_close(r);
        VNP_TRY(status);
        *best = VNP_MIN(*best, vnp_run_bench_cpu_s() - start);
    }
    return VNP_OK;
}

static vnp_status measure(struct host *h, const char *name) {
    char table[512];
    snprintf(table, sizeof table, "%.300s: stages on one core, windows of %lld", name,
             (long long)h->window);
    for (int step = 0; step < N_STEPS; step++) {
        double best;
        if (step == ALL_TOKENS && !h->bpe) continue;
        VNP_TRY(run_step(h, step, &best));
        double n_bytes = (double)VNP_MAX(h->n_bytes, 1);
        const struct vnp_run_bench_cell cells[] = {
            {"mb_per_s", "MB/s", n_bytes * 1e-6 / best},
            {"million_tokens_per_s", "M tokens/s", (double)h->n_tokens * 1e-6 / best},
            {"bases_per_byte", "bases/byte", (double)h->n_nt / n_bytes},
            {"cpu_s", "CPU s", best}};
        struct vnp_run_bench_row row = {table, step_names[step], cells, VNP_COUNT(cells)};
        h->fn(h->ctx, &row);
    }
    if (!h->bpe) return VNP_OK;
    snprintf(table, sizeof table, "%.300s: whole path, a stand-in for the encoders", name);
    struct run_bench_path path = {.opt = h->opt,
                                  .table = table,
                                  .dir = h->dir,
                                  .inputs = h->inputs,
                                  .n_inputs = h->n_inputs,
                                  .n_bytes = (double)h->n_bytes,
                                  .bpe = h->bpe};
    return vnp_run_bench_path(&path, h->fn, h->ctx);
}

/* Genes: codons without stops for 300 to 1,500 bases, then 100 random bases. */
static size_t make_record(char *seq, bool is_genes, uint64_t *seed) {
    size_t n = 0;
    while (n < RECORD_BP) {
        size_t gene = is_genes ? 300 + vnp_run_bench_random(seed) % 1200 : 0, end = n + gene;
        while (n < end) {
            for (size_t i = 0; i < 3; i++) seq[n + i] = "ACGT"[vnp_run_bench_random(seed) & 3];
            bool is_stop = !memcmp(seq + n, "TAA", 3) || !memcmp(seq + n, "TAG", 3) ||
                           !memcmp(seq + n, "TGA", 3);
            n += is_stop ? 0 : 3;
        }
        for (int i = 0; i < 100; i++) seq[n++] = "ACGT"[vnp_run_bench_random(seed) & 3];
    }
    return n;
}

static vnp_status temp_fail(const char *path, const char *what) {
    vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, errno, "%s", what);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("TMPDIR names another folder for temporary files");
    return VNP_IO;
}

static vnp_status make_text(const char *path, int64_t n_bytes, bool is_genes) {
    uint64_t seed = 1;
    char seq[RECORD_BP + 2000];
    FILE *f = fopen(path, "wb");
    if (!f) return temp_fail(path, "making a temporary file");
    int64_t done = 0;
    while (done < n_bytes && !ferror(f)) {
        size_t n = make_record(seq, is_genes, &seed);
        done += fprintf(f, ">contig_%lld\n", (long long)done);
        for (size_t i = 0; i < n; i += 60)
            done += fprintf(f, "%.*s\n", (int)VNP_MIN((size_t)60, n - i), seq + i);
    }
    bool is_bad = ferror(f) != 0;
    if (fclose(f) == 0 && !is_bad) return VNP_OK;
    return temp_fail(path, "writing a temporary file");
}

static vnp_status bench(struct host *h) {
    size_t window = (size_t)h->window;
    h->scratch = malloc(vnp_frames_scratch_bytes(h->window));
    h->bpe_scratch = malloc(h->bpe ? vnp_bpe_scratch_bytes(h->bpe, window) : 1);
    h->ids = malloc(sizeof *h->ids *
                    VNP_MAX(window + 8, h->bpe ? vnp_bpe_max_tokens(h->bpe, window) : 0));
    if (!h->scratch || !h->bpe_scratch || !h->ids)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "windows of %zu", window);
    if (h->opt->n_inputs > 0) {
        h->inputs = h->opt->inputs;
        h->n_inputs = h->opt->n_inputs;
        return measure(h, h->opt->inputs[0]);
    }
    const char *const paths[] = {h->path};
    h->inputs = paths;
    h->n_inputs = 1;
    int64_t n_bytes = h->opt->n_bytes > 0 ? h->opt->n_bytes : 64000000;
    VNP_TRY(make_text(h->path, n_bytes, false));
    VNP_TRY(measure(h, "random DNA"));
    VNP_TRY(make_text(h->path, n_bytes, true));
    return measure(h, "genes");
}

vnp_status vnp_run_bench_host(const struct vnp_run_bench_options *opt, vnp_run_bench_fn *fn,
                              void *ctx) {
    struct host h = {.opt = opt, .fn = fn, .ctx = ctx};
    const char *tmp = getenv("TMPDIR");
    h.window = opt->window_bp > 0 ? opt->window_bp : 500;
    if (opt->dnabert) VNP_TRY(vnp_run_tokenizer_load(opt->dnabert, &h.bpe));
    snprintf(h.dir, sizeof h.dir, "%.4000s/virnucpro-bench-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    vnp_status status = VNP_OK;
    if (!mkdtemp(h.dir)) {
        status = temp_fail(h.dir, "making a temporary folder");
    } else {
        snprintf(h.path, sizeof h.path, "%s/in.fna", h.dir);
        status = bench(&h);
        unlink(h.path);
        rmdir(h.dir);
    }
    vnp_bpe_destroy(h.bpe);
    free(h.scratch);
    free(h.bpe_scratch);
    free(h.ids);
    return status;
}
