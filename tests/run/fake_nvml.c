/* SPDX-License-Identifier: MIT
 * A management library with one GPU at 0000:01:00.0 whose power rises by 100 W a look, for
 * test_gpu. Built as a module. */
#include <stdio.h>
#include <string.h>

static int n_looks;
static char gpu;

int nvmlInit_v2(void);
int nvmlInit_v2(void) {
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetCount_v2(unsigned *n) {
    *n = 1;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out);
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    *out = &gpu;
    return i == 0 ? 0 : 2;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **out);
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **out) {
    *out = &gpu;
    return strcmp(pci, "0000:01:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetName(void *d, char *out, unsigned n);
int nvmlDeviceGetName(void *d, char *out, unsigned n) {
    (void)d;
    snprintf(out, n, "Stand-in GPU");
    return 0;
}
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw);
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) {
    (void)d;
    *mw = 100000u * (unsigned)++n_looks;
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj);
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
    (void)d;
    *mj = 5000ull * (unsigned long long)n_looks;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *out);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *out) {
    (void)d;
    *out = 0x4;
    return 0;
}
