// SPDX-License-Identifier: MIT
// The monitor over a stand-in for NVIDIA's management library: minimum, mean, maximum, energy; a
// function that is missing, a GPU that is unknown, no GPU at all.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run/run.h"
#include "support.h"

#include <time.h>

static void test_monitor(void **state) {
    (void)state;
    static const char pci[3][32] = {"0000:01:00.0", "", "0000:99:00.0"};
    struct vnp_run_gpu_stats stats[3];
    struct vnp_run_gpu_info info;
    char text[128];
    const char *why;
    setenv("VIRNUCPRO_NVML", VNP_TEST_BINARY_DIR "/tests/libfake_nvml.so", 1);
    if (!vnp_run_gpu_is_there(&why)) fail_msg("%s", why);
    assert_int_equal(vnp_run_gpu_count(), 1);
    assert_true(vnp_run_gpu_look(0, &info)); /* 100 W */
    assert_string_equal(info.name, "Stand-in GPU");
    assert_false(vnp_run_gpu_look(1, &info));
    struct vnp_run_gpu_monitor *m = vnp_run_gpu_monitor_start(pci, 3);
    struct timespec nap = {.tv_sec = 1, .tv_nsec = 200000000};
    nanosleep(&nap, NULL);
    vnp_run_gpu_monitor_stop(m, stats);
    const struct vnp_run_gpu_stats *s = &stats[0];
    assert_true(s->n_samples >= 2);
    assert_true(s->min[VNP_RUN_GPU_POWER_W] == 200.0);
    assert_true(s->max[VNP_RUN_GPU_POWER_W] == 100.0 + 100.0 * (double)s->n_samples);
    double mean = (s->min[VNP_RUN_GPU_POWER_W] + s->max[VNP_RUN_GPU_POWER_W]) / 2;
    assert_true(fabs(s->mean[VNP_RUN_GPU_POWER_W] - mean) < 1e-6);
    assert_true(s->max[VNP_RUN_GPU_TEMPERATURE_C] == -1.0);
    assert_true(s->energy_j == 5.0 * (double)s->n_samples);
    vnp_run_gpu_reasons_text(s->reasons, text, sizeof text);
    assert_string_equal(text, "power cap");
    assert_int_equal(stats[1].n_samples, 0);
    assert_int_equal(stats[2].n_samples, 0);
    m = vnp_run_gpu_monitor_start(&pci[1], 1);
    vnp_run_gpu_monitor_stop(m, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_monitor)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
