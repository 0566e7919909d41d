// SPDX-License-Identifier: MIT
// The end of the input over devices of different speeds. Everything that is left is known then:
// the waiting packs, and what each device still has in flight. Pouring the waiting work over the
// devices like water over steps of different heights gives the time T from now at which all end
// together:  sum over devices of max(0, T - backlog) / (time the device alone would need) = 1.
// A device takes as much as it can have done by T; pieces are not made smaller than a sixteenth of
// a full pack, which no device computes with profit.
#include "run/share.h"

enum { LEAST_PART = 16, MAX_SHARED = 64 };

/* Seconds that what device s has in flight takes. */
static double in_flight_s(const struct run_share *s) {
    double sum = 0;
    for (int enc = 0; enc < N_ENC; enc++)
        sum += (double)s->n_tokens_in_flight[enc] * s->s_per_token[enc];
    return sum;
}

/* Seconds until it has done it. */
static double backlog_s(const struct run_share *s) {
    double sum = in_flight_s(s), left = sum - (vnp_now_s() - s->t_head);
    return sum > 0 && left > 0 ? left : 0;
}

/* It is late beyond doubt: nobody should count on it. */
static bool is_overdue(const struct run_share *s) {
    double sum = in_flight_s(s);
    return sum > 0 && vnp_now_s() - s->t_head > 2 * sum;
}

/* Seconds that device s alone would need for all waiting packs; 0: not known. */
static double alone_s(const struct run_dispatch *d, const struct run_share *s) {
    double sum = 0;
    for (int enc = 0; enc < N_ENC; enc++) {
        if (d->n_waiting_tokens[enc] == 0) continue;
        if (s->s_per_token[enc] <= 0) return 0;
        sum += (double)d->n_waiting_tokens[enc] * s->s_per_token[enc];
    }
    return sum;
}

/* T of the head comment; < 0: some device has not been measured yet. */
static double common_end_s(const struct run_dispatch *d) {
    double rate[MAX_SHARED], backlog[MAX_SHARED];
    int n = 0;
    for (int i = 0; i < d->n_devices; i++) {
        if (!d->shares[i].is_ready) continue;
        double alone = alone_s(d, &d->shares[i]);
        if (alone <= 0 || n == MAX_SHARED) return -1;
        rate[n] = 1 / alone;
        backlog[n++] = backlog_s(&d->shares[i]);
    }
    for (int round = 0; round < n; round++) { /* each round leaves out those who end later */
        double rates = 0, done = 1;
        int n_out = 0;
        for (int i = 0; i < n; i++) {
            rates += rate[i];
            done += rate[i] * backlog[i];
        }
        double t = done / rates;
        for (int i = 0; i < n; i++)
            if (backlog[i] > t) {
                rate[i] = rate[n - 1];
                backlog[i] = backlog[n - 1];
                n--, i--, n_out++;
            }
        if (n_out == 0) return t;
    }
    return -1;
}

/* Would another device, once it is free, have n_tokens done before `mine` seconds are over? */
static bool is_another_sooner(const struct run_dispatch *d, int idx, int enc, int64_t n_tokens,
                              double mine) {
    for (int i = 0; i < d->n_devices; i++) {
        const struct run_share *s = &d->shares[i];
        if (i == idx || !s->is_ready || s->s_per_token[enc] <= 0 || is_overdue(s)) continue;
        if (backlog_s(s) + (double)n_tokens * s->s_per_token[enc] < mine) return true;
    }
    return false;
}

int64_t vnp_run_share_of(const struct run_dispatch *d, int idx, int enc, int64_t n_tokens) {
    const struct run_share *s = &d->shares[idx];
    double speed = s->s_per_token[enc], end = common_end_s(d);
    if (end < 0 || speed <= 0) return n_tokens;
    int64_t least = VNP_MAX(1, d->cap_tokens / LEAST_PART);
    double backlog = backlog_s(s);
    double part = (end - backlog) / speed;
    if (part + (double)least / 2 >= (double)n_tokens) return n_tokens;
    if (part >= (double)least) return (int64_t)part;
    int64_t n = VNP_MIN(least, n_tokens);
    if (!is_another_sooner(d, idx, enc, n, backlog + (double)n * speed)) return n;
    return 0;
}
