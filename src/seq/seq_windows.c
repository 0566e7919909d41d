// SPDX-License-Identifier: MIT
// The cut of a record into windows that overlap evenly (spec upstream A.3, variant V). With n =
// ceil(L / C) windows there are R = nC - L bases too many; they become the overlaps behind windows
// 0..n-2: the first `need` are q + 1, the others q. When `need` exceeds n - 1 the overlaps fall
// short and the last window is shorter than C: that is the original's arithmetic, kept as it is.
#include "seq/seq.h"

vnp_status vnp_windows_init(int64_t len, int64_t window, struct vnp_windows *out) {
    const int64_t most = INT64_C(1) << 61; /* n * window < len + window stays in range */
    *out = (struct vnp_windows){.len = len, .window = window};
    if (window < 1 || window > most)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a window of %lld bases", (long long)window);
    if (len < 0 || len > most)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "a record of %lld bases", (long long)len);
    if (len == 0) return VNP_OK;
    out->n = len / window + (len % window != 0);
    int64_t surplus = out->n * window - len;
    out->q = surplus / out->n;
    out->need = surplus - out->q * (out->n - 1);
    return VNP_OK;
}

void vnp_windows_at(const struct vnp_windows *w, int64_t k, int64_t *start, int64_t *end) {
    VNP_ASSERT(k >= 0 && k < w->n);
    *start = k * (w->window - w->q) - VNP_MIN(k, w->need);
    *end = VNP_MIN(*start + w->window, w->len);
}
