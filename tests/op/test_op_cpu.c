// SPDX-License-Identifier: MIT
// The CPU backend against the conformance suite: FP32 and BF16, the best variants and every variant
// of this machine forced in turn. No test framework: the suite prints TAP itself. With VNP_QUICK
// set, as under a memory checker, some cases of each op.
#include "op_suite.h"

#include "cpu/cpu.h"
#include "cpu/cpu_kernels.h"

static int n_lines, n_bad;

static void run(enum vnp_precision precision, const char *force, int n_threads) {
    int n_passed = 0, n_failed = 0;
    if (force)
        setenv("VNP_FORCE", force, 1);
    else
        unsetenv("VNP_FORCE");
    struct op_suite_config config = {
        .backend = vnp_cpu_backend(),
        .device = {.precision = precision, .n_threads = n_threads},
        .is_quick = true,
        .every = getenv("VNP_QUICK") ? 29 : 0,
        .out = stdout,
    };
    printf("# cpu %s, %s\n", vnp_precision_name(precision), force ? force : "best variants");
    op_suite_run(&config, &n_passed, &n_failed);
    n_lines += n_passed + n_failed;
    n_bad += n_passed + n_failed == 0 ? 1 : n_failed;
}

static bool has(const char *feature) {
    return strstr(vnp_cpu_features(), feature) != NULL;
}

/* The GELU that BF16 rounds next, over all its range: half a step of BF16 and, of the exact value,
 * 6e-4 or 7e-7 |x|, whichever is less; a tail below 2^-126 may be 0. Returns the worst share. */
static double gelu_share(const struct vnp_cpu_kernels *kernels) {
    enum { N = 1024 };
    static float x[N];
    static uint16_t y[N];
    const struct vnp_cpu_epilogue_args args = {.kind = VNP_EPI_GELU,
                                               .tile = x,
                                               .out = y,
                                               .n_rows = 1,
                                               .n_cols = N,
                                               .ld_tile = N,
                                               .ld_out = N,
                                               .is_bf16 = true};
    double worst = 0;
    for (int block = 0; block < 64; block++) { /* -16 to 16 */
        for (int i = 0; i < N; i++) x[i] = (float)((block - 32) * N + i) / (2 * N);
        kernels->epilogue(&args);
        for (int i = 0; i < N; i++) {
            const double v = (double)x[i], want = 0.5 * v * erfc(-v / sqrt(2));
            const double error = fabs((double)vnp_bf16_to_f32(y[i]) - want);
            const double near = fmin(6e-4 * fabs(want), 7e-7 * fabs(v));
            worst = fmax(worst, error / (fabs(want) * 0x1p-8 + near + 13 * 0x1p-126));
        }
    }
    const float edge[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3e38f, -3e38f};
    const float wanted[] = {0.0f, -0.0f, INFINITY, 0.0f, NAN, 3e38f, 0.0f};
    memcpy(x, edge, sizeof edge);
    kernels->epilogue(&args);
    for (size_t i = 0; i < VNP_COUNT(edge); i++) {
        const float got = vnp_bf16_to_f32(y[i]);
        const bool is_good = isnan(wanted[i])   ? isnan(got)
                             : isinf(wanted[i]) ? got == wanted[i]
                                                : fabsf(got - wanted[i]) <= fabsf(wanted[i]) / 256;
        if (!is_good) printf("# gelu(%g) is %g\n", (double)edge[i], (double)got), worst = 1e30;
    }
    return worst;
}

static void run_gelu(const char *force) {
    struct vnp_cpu_kernels kernels;
    const bool is_there = vnp_cpu_kernels_choose(force, &kernels) == VNP_OK;
    const double share = is_there ? gelu_share(&kernels) : 1e30;
    n_bad += !(share <= 1);
    printf("%sok %d - gelu to bf16, %s, worst %.3f of tolerance\n", share <= 1 ? "" : "not ",
           ++n_lines, force, share);
}

int main(void) {
    const bool has_bf16 = has("avx512-bf16");
    if (has_bf16) run_gelu("epilogue=avx512bf16");
    if (has("avx512")) run_gelu("epilogue=avx512");
    if (has("avx2")) run_gelu("epilogue=avx2");
    run_gelu("epilogue=generic");
    run(VNP_PREC_FP32, NULL, 2);
    if (has("avx512")) run(VNP_PREC_FP32, "all=avx512", 2);
    if (has("avx2")) run(VNP_PREC_FP32, "all=avx2", 3);
    run(VNP_PREC_FP32, "all=generic", 1);
    if (has_bf16) {
        run(VNP_PREC_BF16, NULL, 2);
        run(VNP_PREC_BF16, "all=avx512", 2);
        run(VNP_PREC_BF16, "all=avx2", 2);
        run(VNP_PREC_BF16, "all=generic", 2);
    } else {
        printf("ok %d - bf16 # SKIP this processor has no BF16 instructions\n", ++n_lines);
    }
    printf("1..%d\n", n_lines);
    return n_bad ? 1 : 0;
}
