// SPDX-License-Identifier: MIT
// The packer against other rules: fill of the budget (last pack aside), spread of lengths within a
// pack, sequences a second on one core. usage: bench_pack [n_sequences]
#include "run/packer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUDGET = 16896, MAX_SEQS = 2113, LOOKAHEAD = 8 * BUDGET };

static int64_t window_tokens = LOOKAHEAD; /* of the rules that take a window alone */

struct result {
    int64_t n_packs, n_tokens, n_capacity;
    double spread; /* sum over packs of (max - min) / max */
    double seconds;
};

static uint64_t random_u64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int32_t draw(int kind, uint64_t *seed) {
    uint64_t r = random_u64(seed);
    if (kind == 0) return r % 3 ? 51 : 52;
    if (kind == 1) return r % 6 < 4 ? 168 : 167;
    double a = (double)(r >> 11) * 0x1p-53, b = (double)(random_u64(seed) >> 11) * 0x1p-53;
    double x = exp(5.6 + 0.65 * sqrt(-2 * log(a + 1e-300)) * cos(6.283185307179586 * b));
    return 2 + (int32_t)(x < 30 ? 30 : x > 1000 ? 1000 : x);
}

static void count_pack(struct result *r, int64_t n_tokens, int64_t min, int64_t max) {
    r->n_packs++;
    r->n_tokens += n_tokens;
    r->n_capacity += BUDGET;
    r->spread += (double)(max - min) / (double)max;
}

/* In the order of arrival, as a simple loop does. */
static void next_fit(const int32_t *len, int64_t n, struct result *r) {
    int64_t used = 0, n_seqs = 0, min = 0, max = 0;
    for (int64_t i = 0; i < n; i++) {
        if (used + len[i] > BUDGET || n_seqs == MAX_SEQS) {
            count_pack(r, used, min, max);
            used = n_seqs = 0;
        }
        min = n_seqs == 0 || len[i] < min ? len[i] : min;
        max = n_seqs == 0 || len[i] > max ? len[i] : max;
        used += len[i];
        n_seqs++;
    }
}

static int descending(const void *a, const void *b) {
    return *(const int32_t *)b - *(const int32_t *)a;
}

/* First-fit decreasing inside each window, nothing carried over its end. */
static void ffd_window(const int32_t *len, int64_t n, struct result *r) {
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
        for (int64_t b = 0; b < n_bins; b++) count_pack(r, used[b], min[b], max[b]);
    }
}

/* Longest first onto the fullest pack it fits, by histogram (LPFHP; Krell et al. 2021), inside
 * each window; packs of equal room are kept together. */
static void lpfhp_window(const int32_t *len, int64_t n, struct result *r) {
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
            count_pack(r, BUDGET - bins[b].room, bins[b].min, bins[b].max);
    }
}

static void ours(const int32_t *len, int64_t n, struct result *r) {
    struct vnp_packer_options opt = {.budget_tokens = BUDGET, .max_seqs = MAX_SEQS};
    struct vnp_packer *p;
    static uint64_t tags[MAX_SEQS];
    struct vnp_packed pack = {.tags = tags};
    if (vnp_packer_create(&opt, &p) != VNP_OK) exit(1);
    for (int64_t i = 0; i < n; i++) {
        if (vnp_packer_push(p, len[i], (uint64_t)i) != VNP_OK) exit(1);
        while (vnp_packer_is_ready(p) && vnp_packer_pop(p, &pack)) {
            int32_t min = len[tags[0]];
            for (int64_t j = 1; j < pack.n_seqs; j++) min = len[tags[j]] < min ? len[tags[j]] : min;
            count_pack(r, pack.n_tokens, min, pack.max_len);
        }
    }
    while (vnp_packer_n_tokens(p) >= BUDGET && vnp_packer_pop(p, &pack))
        count_pack(r, pack.n_tokens, pack.max_len, pack.max_len);
    vnp_packer_destroy(p);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*fn)(const int32_t *, int64_t, struct result *);
        int64_t window;
    } rules[] = {{"next fit, input order", next_fit, 0},    {"FFD, window of 8", ffd_window, 8},
                 {"FFD, window of 64", ffd_window, 64},     {"LPFHP, window of 8", lpfhp_window, 8},
                 {"LPFHP, window of 64", lpfhp_window, 64}, {"ours, look-ahead of 8", ours, 8}};
    static const char *const kinds[] = {"reads (51-52)", "windows (167-168)", "proteome (32-1002)"};
    int64_t n = argc > 1 ? atoll(argv[1]) : 2000000;
    int32_t *len = malloc((size_t)n * sizeof *len);
    if (!len) return 1;
    printf("budget %d tokens, look-ahead %d, %lld sequences\n", BUDGET, LOOKAHEAD, (long long)n);
    for (int kind = 0; kind < 3; kind++) {
        uint64_t seed = 1;
        for (int64_t i = 0; i < n; i++) len[i] = draw(kind, &seed);
        for (size_t k = 0; k < VNP_COUNT(rules); k++) {
            struct result best = {0};
            window_tokens = rules[k].window * BUDGET;
            for (int rep = 0; rep < 3; rep++) {
                struct result r = {0};
                double t = vnp_now_s();
                rules[k].fn(len, n, &r);
                r.seconds = vnp_now_s() - t;
                if (rep == 0 || r.seconds < best.seconds) best = r;
            }
            printf("%-20s %-24s fill %7.3f %%  spread %4.2f  %6.2f M seq/s\n", kinds[kind],
                   rules[k].name, 100.0 * (double)best.n_tokens / (double)best.n_capacity,
                   best.spread / (double)best.n_packs, (double)n / best.seconds * 1e-6);
        }
    }
    free(len);
    return 0;
}
