// SPDX-License-Identifier: MIT
// The packer against other rules by the measure of `virnucpro bench pack`; docs/packing.md has the
// table. usage: bench_pack [n_sequences]
#include "run/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUDGET = RUN_BENCH_BUDGET, MAX_SEQS = RUN_BENCH_MAX_SEQS };

static int64_t window_tokens; /* of the rules that take a window alone */

/* In the order of arrival, as a simple loop does. */
static vnp_status next_fit(const int32_t *len, int64_t n, struct run_bench_fill *r) {
    int64_t used = 0, n_seqs = 0, min = 0, max = 0;
    for (int64_t i = 0; i < n; i++) {
        if (used + len[i] > BUDGET || n_seqs == MAX_SEQS) {
            vnp_run_bench_fill_add(r, used, min, max);
            used = n_seqs = 0;
        }
        min = n_seqs == 0 || len[i] < min ? len[i] : min;
        max = n_seqs == 0 || len[i] > max ? len[i] : max;
        used += len[i];
        n_seqs++;
    }
    return VNP_OK;
}

static int descending(const void *a, const void *b) {
    return *(const int32_t *)b - *(const int32_t *)a;
}

/* First-fit decreasing inside each window, nothing carried over its end. */
static vnp_status ffd_window(const int32_t *len, int64_t n, struct run_bench_fill *r) {
    static int32_t sorted[1 << 16];
    static int64_t used[4096], min[4096], max[4096];
    for (int64_t i = 0; i < n;) {
        int64_t k = 0, tokens = 0, n_bins = 0;
        while (i < n && tokens < window_tokens) {
            tokens += len[i];
            sorted[k++] = len[i++];
        }
        qsort(sorted, (size_t)k, sizeof *sorted, descending);
        for (int64_t j = 0; j < k; j++) {
            int64_t b = 0;
            while (b < n_bins && used[b] + sorted[j] > BUDGET) b++;
            if (b == n_bins) {
                used[n_bins] = 0;
                max[n_bins++] = sorted[j];
            }
            used[b] += sorted[j];
            min[b] = sorted[j];
        }
        for (int64_t b = 0; b < n_bins; b++) vnp_run_bench_fill_add(r, used[b], min[b], max[b]);
    }
    return VNP_OK;
}

/* Longest first onto the fullest pack it fits, by histogram (LPFHP; Krell et al. 2021), inside
 * each window; packs of equal room are kept together. */
static vnp_status lpfhp_window(const int32_t *len, int64_t n, struct run_bench_fill *r) {
    static int32_t count[BUDGET + 1];
    static struct { int32_t room, min, max; } bins[4096];
    for (int64_t i = 0; i < n;) {
        int64_t tokens = 0;
        int n_bins = 0;
        memset(count, 0, sizeof count);
        while (i < n && tokens < window_tokens) {
            tokens += len[i];
            count[len[i++]]++;
        }
        for (int32_t l = BUDGET; l > 0; l--)
            for (; count[l] > 0; count[l]--) {
                int best = -1;
                for (int b = 0; b < n_bins; b++)
                    if (bins[b].room >= l && (best < 0 || bins[b].room < bins[best].room)) best = b;
                if (best < 0) {
                    best = n_bins++;
                    bins[best].room = BUDGET;
                    bins[best].max = l;
                }
                bins[best].room -= l;
                bins[best].min = l;
            }
        for (int b = 0; b < n_bins; b++)
            vnp_run_bench_fill_add(r, BUDGET - bins[b].room, bins[b].min, bins[b].max);
    }
    return VNP_OK;
}

static void print_row(void *ctx, const struct vnp_run_bench_row *row) {
    (void)ctx;
    printf("%-20s %-24s", row->table, row->name);
    for (size_t i = 0; i < row->n_cells; i++)
        printf("  %s %.3f", row->cells[i].title, row->cells[i].value);
    printf("\n");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        run_bench_rule *rule;
        int64_t window;
    } rules[] = {{"next fit, input order", next_fit, 0},    {"FFD, window of 8", ffd_window, 8},
                 {"FFD, window of 64", ffd_window, 64},     {"LPFHP, window of 8", lpfhp_window, 8},
                 {"LPFHP, window of 64", lpfhp_window, 64}, {"ours", vnp_run_bench_packer, 0}};
    int64_t n = argc > 1 ? atoll(argv[1]) : 2000000;
    int32_t *len = malloc((size_t)n * sizeof *len);
    if (!len) return 1;
    for (int kind = 0; kind < RUN_BENCH_N_LENGTHS; kind++) {
        vnp_run_bench_lengths(kind, len, n);
        for (size_t k = 0; k < VNP_COUNT(rules); k++) {
            window_tokens = rules[k].window * BUDGET;
            if (vnp_run_bench_rule_measure(vnp_run_bench_length_names[kind], rules[k].name,
                                           rules[k].rule, len, n, print_row, NULL) != VNP_OK)
                return 1;
        }
    }
    free(len);
    return 0;
}
