// SPDX-License-Identifier: MIT
// FP32 as numpy prints a scalar: the fewest digits that read back as the same float and, of those,
// the nearest to it; positional for 1e-4 <= |x| < 1e16, else scientific. The digits come from
// printf and are tried with strtof as integer x 10^e, so that the locale's decimal point is never
// seen. The interval of a power of two reaches further up than down: there the nearest k-digit
// number may miss while the next one up reads back (2^-44 is an example), so both are tried.
#include "out/out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 9 };

struct decimal {
    uint32_t digits; /* n_digits of them, value digits * 10^(exp10 - n_digits + 1) */
    int n_digits, exp10;
};

static bool reads_back(struct decimal d, float x) {
    char text[32];
    snprintf(text, sizeof text, "%ue%d", d.digits, d.exp10 - d.n_digits + 1);
    return strtof(text, NULL) == x;
}

static bool try_digits(float x, int n_digits, struct decimal *out) {
    char text[48];
    struct decimal d = {0, n_digits, 0};
    snprintf(text, sizeof text, "%.*e", n_digits - 1, (double)x);
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') d.digits = d.digits * 10 + (uint32_t)(*p - '0');
    d.exp10 = *p ? atoi(p + 1) : 0;
    if (!reads_back(d, x)) {
        static const uint32_t limit[MAX_DIGITS + 1] = {
            1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000};
        if (++d.digits == limit[n_digits]) d.digits /= 10, d.exp10++;
        if (!reads_back(d, x)) return false;
    }
    *out = d;
    return true;
}

static struct decimal shortest(float x) {
    struct decimal best = {0, 1, 0}, d;
    int n = 8;
    if (!try_digits(x, n, &best)) n = MAX_DIGITS;
    if (n == MAX_DIGITS) (void)try_digits(x, n, &best);
    while (n > 1 && try_digits(x, --n, &d)) best = d;
    while (best.n_digits > 1 && best.digits % 10 == 0) best.digits /= 10, best.n_digits--;
    return best;
}

static int put_positional(struct decimal d, const char *digits, char *p) {
    int n = 0;
    if (d.exp10 < 0) {
        n += snprintf(p, VNP_F32_TEXT - 1, "0.%.*s%s", -d.exp10 - 1, "0000", digits);
        return n;
    }
    for (int i = 0; i <= d.exp10; i++) p[n++] = i < d.n_digits ? digits[i] : '0';
    p[n++] = '.';
    if (d.n_digits <= d.exp10 + 1) p[n++] = '0';
    for (int i = d.exp10 + 1; i < d.n_digits; i++) p[n++] = digits[i];
    p[n] = 0;
    return n;
}

int vnp_format_f32(float x, char buf[VNP_F32_TEXT]) {
    char digits[16], *p = buf;
    if (isnan(x)) return snprintf(buf, VNP_F32_TEXT, "nan");
    if (signbit(x)) *p++ = '-', x = -x;
    int n_sign = (int)(p - buf);
    if (isinf(x)) return n_sign + snprintf(p, VNP_F32_TEXT - 1, "inf");
    if (x == 0) return n_sign + snprintf(p, VNP_F32_TEXT - 1, "0.0");
    struct decimal d = shortest(x);
    snprintf(digits, sizeof digits, "%u", d.digits);
    if ((double)x >= 1e-4 && (double)x < 1e16) return n_sign + put_positional(d, digits, p);
    return n_sign + snprintf(p, VNP_F32_TEXT - 1, "%c%s%.*se%c%02d", digits[0],
                             d.n_digits > 1 ? "." : "", d.n_digits - 1, digits + 1,
                             d.exp10 < 0 ? '-' : '+', abs(d.exp10));
}
