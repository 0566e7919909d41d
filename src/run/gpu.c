// SPDX-License-Identifier: MIT
// What NVIDIA's management library (NVML) says of the GPUs while a run works: temperature, power,
// clock, utilisation, memory and why clocks are held down. The library is opened at run time and
// nothing depends on it: where it is missing there are no figures. Declarations are our own, of the
// functions used alone, after NVIDIA's NVML API reference; the interface has been stable since
// version 8. VIRNUCPRO_NVML names another library (tests).
#include "run/run.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ML_SENSOR_GPU = 0, ML_CLOCK_SM = 1, SAMPLE_MS = 500 };
struct ml_use {
    unsigned gpu, memory; /* percent */
};
struct ml_memory {
    unsigned long long total, free, used;
};
struct ml_pci {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

/* X(name, parameters); all return an int, 0 is success. */
#define ML_FUNCTIONS(X)                                                                            \
    X(Init_v2, (void))                                                                             \
    X(SystemGetDriverVersion, (char *, unsigned))                                                  \
    X(DeviceGetCount_v2, (unsigned *))                                                             \
    X(DeviceGetHandleByIndex_v2, (unsigned, void **))                                              \
    X(DeviceGetHandleByPciBusId_v2, (const char *, void **))                                       \
    X(DeviceGetPciInfo_v3, (void *, struct ml_pci *))                                              \
    X(DeviceGetName, (void *, char *, unsigned))                                                   \
    X(DeviceGetCudaComputeCapability, (void *, int *, int *))                                      \
    X(DeviceGetTemperature, (void *, int, unsigned *))                                             \
    X(DeviceGetPowerUsage, (void *, unsigned *))                                                   \
    X(DeviceGetTotalEnergyConsumption, (void *, unsigned long long *))                             \
    X(DeviceGetClockInfo, (void *, int, unsigned *))                                               \
    X(DeviceGetUtilizationRates, (void *, struct ml_use *))                                        \
    X(DeviceGetMemoryInfo, (void *, struct ml_memory *))                                           \
    X(DeviceGetCurrentClocksThrottleReasons, (void *, unsigned long long *))

/* Written once under ml_once; a function that is missing stays NULL. */
static pthread_once_t ml_once = PTHREAD_ONCE_INIT;
static struct {
    bool is_there;
    char why[512];
#define ML_POINTER(name, parameters) int(*name) parameters;
    ML_FUNCTIONS(ML_POINTER)
#undef ML_POINTER
} ml;

static void ml_open(void) {
    const char *env = getenv("VIRNUCPRO_NVML");
    const char *name = env && env[0] ? env : "libnvidia-ml.so.1";
    void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(ml.why, sizeof ml.why, "%s is missing: no temperatures, power or clocks", name);
        return;
    }
#define ML_FIND(name, parameters)                                                                  \
    do {                                                                                           \
        void *p = dlsym(lib, "nvml" #name);                                                        \
        memcpy(&ml.name, &p, sizeof p);                                                            \
    } while (0);
    ML_FUNCTIONS(ML_FIND)
#undef ML_FIND
    int code = ml.Init_v2 ? ml.Init_v2() : -1;
    ml.is_there = code == 0;
    if (code) snprintf(ml.why, sizeof ml.why, "%s is there, but answers %d", name, code);
}

bool vnp_run_gpu_is_there(const char **why) {
    pthread_once(&ml_once, ml_open);
    if (why) *why = ml.why;
    return ml.is_there;
}

int vnp_run_gpu_count(void) {
    unsigned n = 0;
    if (!vnp_run_gpu_is_there(NULL) || !ml.DeviceGetCount_v2 || ml.DeviceGetCount_v2(&n) != 0)
        return 0;
    return (int)n;
}

/* ---- one look ------------------------------------------------------------------------------- */

static void read_values(void *dev, struct vnp_run_gpu_values *v) {
    unsigned n = 0;
    struct ml_use use;
    struct ml_memory memory;
    unsigned long long reasons = 0;
    for (int i = 0; i < VNP_RUN_GPU_N; i++) v->v[i] = -1;
    v->reasons = 0;
    if (ml.DeviceGetTemperature && ml.DeviceGetTemperature(dev, ML_SENSOR_GPU, &n) == 0)
        v->v[VNP_RUN_GPU_TEMPERATURE_C] = n;
    if (ml.DeviceGetPowerUsage && ml.DeviceGetPowerUsage(dev, &n) == 0)
        v->v[VNP_RUN_GPU_POWER_W] = n / 1e3;
    if (ml.DeviceGetClockInfo && ml.DeviceGetClockInfo(dev, ML_CLOCK_SM, &n) == 0)
        v->v[VNP_RUN_GPU_SM_MHZ] = n;
    if (ml.DeviceGetUtilizationRates && ml.DeviceGetUtilizationRates(dev, &use) == 0)
        v->v[VNP_RUN_GPU_USE_PERCENT] = use.gpu;
    if (ml.DeviceGetMemoryInfo && ml.DeviceGetMemoryInfo(dev, &memory) == 0)
        v->v[VNP_RUN_GPU_MEMORY_GB] = (double)memory.used / 1e9;
    if (ml.DeviceGetCurrentClocksThrottleReasons &&
        ml.DeviceGetCurrentClocksThrottleReasons(dev, &reasons) == 0)
        v->reasons = reasons;
}

static double energy_j(void *dev) {
    unsigned long long mj = 0;
    bool is_known =
        ml.DeviceGetTotalEnergyConsumption && ml.DeviceGetTotalEnergyConsumption(dev, &mj) == 0;
    return is_known ? (double)mj / 1e3 : -1;
}

static void *find_by_pci(const char *pci) {
    void *dev = NULL;
    if (!vnp_run_gpu_is_there(NULL) || !pci[0] || !ml.DeviceGetHandleByPciBusId_v2 ||
        ml.DeviceGetHandleByPciBusId_v2(pci, &dev) != 0)
        return NULL;
    return dev;
}

bool vnp_run_gpu_look(int idx, struct vnp_run_gpu_info *out) {
    void *dev = NULL;
    struct ml_pci pci = {.bus_id = ""};
    struct ml_memory memory = {0};
    memset(out, 0, sizeof *out);
    if (!vnp_run_gpu_is_there(NULL) || !ml.DeviceGetHandleByIndex_v2 ||
        ml.DeviceGetHandleByIndex_v2((unsigned)idx, &dev) != 0)
        return false;
    if (ml.DeviceGetName) (void)ml.DeviceGetName(dev, out->name, sizeof out->name);
    if (ml.SystemGetDriverVersion) (void)ml.SystemGetDriverVersion(out->driver, sizeof out->driver);
    if (ml.DeviceGetCudaComputeCapability)
        (void)ml.DeviceGetCudaComputeCapability(dev, &out->major, &out->minor);
    if (ml.DeviceGetPciInfo_v3 && ml.DeviceGetPciInfo_v3(dev, &pci) == 0)
        snprintf(out->pci, sizeof out->pci, "%s", pci.bus_id);
    if (ml.DeviceGetMemoryInfo && ml.DeviceGetMemoryInfo(dev, &memory) == 0)
        out->memory_gb = (double)memory.total / 1e9;
    read_values(dev, &out->now);
    return true;
}

void vnp_run_gpu_reasons_text(uint64_t reasons, char *out, size_t n) {
    static const struct {
        uint64_t bit;
        const char *text;
    } names[] = {{0x04, "power cap"},          {0x08, "hardware slowdown"},
                 {0x20, "thermal (software)"}, {0x40, "thermal (hardware)"},
                 {0x80, "power brake"},        {0x02, "application clocks"},
                 {0x10, "sync boost"}};
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < VNP_COUNT(names); i++)
        if (reasons & names[i].bit && at < n)
            at += (size_t)snprintf(out + at, n - at, "%s%s", at ? ", " : "", names[i].text);
}

/* ---- the monitor ---------------------------------------------------------------------------- */

struct watched {
    void *dev; /* NULL: unknown to the library */
    double energy_begin;
    struct vnp_run_gpu_stats stats; /* the thread's; read after it has ended */
};
struct vnp_run_gpu_monitor {
    pthread_t thread;
    pthread_mutex_t lock; /* guards is_ending */
    pthread_cond_t changed;
    bool is_ending, has_thread;
    int n;
    struct watched *gpus;
};

static void add_sample(struct watched *w) {
    struct vnp_run_gpu_values v;
    struct vnp_run_gpu_stats *s = &w->stats;
    if (!w->dev) return;
    read_values(w->dev, &v);
    for (int i = 0; i < VNP_RUN_GPU_N; i++) {
        if (s->n_samples == 0 || v.v[i] < s->min[i]) s->min[i] = v.v[i];
        if (s->n_samples == 0 || v.v[i] > s->max[i]) s->max[i] = v.v[i];
        s->mean[i] += (v.v[i] - s->mean[i]) / (double)(s->n_samples + 1);
    }
    s->reasons |= v.reasons;
    s->n_samples++;
}

static void *monitor_main(void *ctx) {
    struct vnp_run_gpu_monitor *m = ctx;
    pthread_mutex_lock(&m->lock);
    while (!m->is_ending) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += SAMPLE_MS * 1000000L;
        t.tv_sec += t.tv_nsec / 1000000000L;
        t.tv_nsec %= 1000000000L;
        (void)pthread_cond_timedwait(&m->changed, &m->lock, &t);
        pthread_mutex_unlock(&m->lock);
        for (int i = 0; i < m->n; i++) add_sample(&m->gpus[i]);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

struct vnp_run_gpu_monitor *vnp_run_gpu_monitor_start(const char (*pci)[32], int n) {
    bool has_any = false;
    struct vnp_run_gpu_monitor *m = calloc(1, sizeof *m);
    if (m) m->gpus = calloc((size_t)n, sizeof *m->gpus);
    if (!m || !m->gpus) {
        free(m);
        return NULL;
    }
    m->n = n;
    for (int i = 0; i < n; i++) {
        m->gpus[i].dev = find_by_pci(pci[i]);
        if (m->gpus[i].dev) m->gpus[i].energy_begin = energy_j(m->gpus[i].dev);
        has_any |= m->gpus[i].dev != NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    m->has_thread = has_any && pthread_create(&m->thread, NULL, monitor_main, m) == 0;
    return m;
}

void vnp_run_gpu_monitor_stop(struct vnp_run_gpu_monitor *m, struct vnp_run_gpu_stats *out) {
    if (!m) return;
    pthread_mutex_lock(&m->lock);
    m->is_ending = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (m->has_thread) pthread_join(m->thread, NULL);
    for (int i = 0; i < m->n; i++) {
        struct watched *w = &m->gpus[i];
        double now = w->dev ? energy_j(w->dev) : -1;
        w->stats.energy_j = now >= 0 && w->energy_begin >= 0 ? now - w->energy_begin : -1;
        if (out) out[i] = w->stats;
    }
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m->gpus);
    free(m);
}
