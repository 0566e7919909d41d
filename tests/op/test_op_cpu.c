// SPDX-License-Identifier: MIT
// The CPU backend against the conformance suite: FP32 and BF16, the best variants and every variant
// of this machine forced in turn. No test framework: the suite prints TAP itself. With VNP_QUICK
// set, as under a memory checker, some cases of each op.
#include "op_suite.h"

#include "cpu/cpu.h"

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

int main(void) {
    const bool has_bf16 = has("avx512-bf16");
    run(VNP_PREC_FP32, NULL, 2);
    if (has("avx512")) run(VNP_PREC_FP32, "all=avx512", 2);
    if (has("avx2")) run(VNP_PREC_FP32, "all=avx2", 3);
    run(VNP_PREC_FP32, "all=generic", 1);
    if (has_bf16) {
        run(VNP_PREC_BF16, NULL, 2);
        run(VNP_PREC_BF16, "all=avx2", 2);
        run(VNP_PREC_BF16, "all=generic", 2);
    } else {
        printf("ok %d - bf16 # SKIP this processor has no BF16 instructions\n", ++n_lines);
    }
    printf("1..%d\n", n_lines);
    return n_bad ? 1 : 0;
}
