// SPDX-License-Identifier: MIT
// What this machine offers: CPU, memory, libraries, the bundled model, GPUs; and what is missing.
#include "api_internal.h"
#include "cpu/cpu.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

struct doctor {
    vnp_report_callback *fn;
    void *ctx;
};

static void say(const struct doctor *d, int level, const char *what, const char *fmt, ...)
    VNP_PRINTF(4, 5);
static void say(const struct doctor *d, int level, const char *what, const char *fmt, ...) {
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    d->fn(d->ctx, level, what, text);
}

/* Value of a line "Key:  12345 kB" or "key : text" of a file below /proc; "" when not there. */
static void proc_value(const char *file, const char *key, char *out, size_t n) {
    char line[1024];
    out[0] = 0;
    FILE *f = fopen(file, "r");
    if (!f) return;
    while (!out[0] && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *p = strchr(line, ':');
        if (!p) continue;
        p += 1 + strspn(p + 1, " \t");
        p[strcspn(p, "\n")] = 0;
        snprintf(out, n, "%s", p);
    }
    fclose(f);
}

static void look_at_host(const struct doctor *d) {
    char model[256], total[64], avail[64];
    struct utsname u;
    if (uname(&u) == 0) say(d, 0, "system", "%s %s, %s", u.sysname, u.release, u.machine);
    proc_value("/proc/cpuinfo", "model name", model, sizeof model);
    say(d, 0, "cpu", "%s%s%d CPU%s usable", model, model[0] ? "; " : "", vnp_cpu_count(),
        vnp_cpu_count() == 1 ? "" : "s");
    const char *features = vnp_cpu_features();
    say(d, strstr(features, "avx2") ? 0 : 1, "cpu kernels", "%s%s", features,
        strstr(features, "avx2") ? "" : " (portable C only: correct, but slow)");
    proc_value("/proc/meminfo", "MemTotal", total, sizeof total);
    proc_value("/proc/meminfo", "MemAvailable", avail, sizeof avail);
    double total_gib = 0, avail_gib = 0;
    if (sscanf(total, "%lf", &total_gib) == 1 && sscanf(avail, "%lf", &avail_gib) == 1)
        say(d, avail_gib < 2 * 1048576 ? 1 : 0, "memory", "%.1f GiB, %.1f GiB available",
            total_gib / 1048576, avail_gib / 1048576);
    char limit[64] = "";
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "r");
    if (f) {
        double bytes = 0;
        if (fgets(limit, sizeof limit, f) && sscanf(limit, "%lf", &bytes) == 1)
            say(d, 0, "memory limit", "%.1f GiB (control group)", bytes / 1073741824);
        fclose(f);
    }
    const dnnl_version_t *v = dnnl_version();
    say(d, 0, "oneDNN", "%d.%d.%d", v->major, v->minor, v->patch);
}

static void look_at_model(const struct doctor *d) {
    char path[VNP_API_PATH];
    if (vnp_api_bundled_path(path, sizeof path))
        say(d, 0, "bundled model", "%s", path);
    else
        say(d, 1, "bundled model", "not installed: every predict needs --models");
}

/* One library; true when it loads. */
static bool look_at_library(const struct doctor *d, const char *what, const char *const *names,
                            int n, const char *missing) {
    for (int i = 0; i < n; i++) {
        void *lib = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
        if (!lib) continue;
        say(d, 0, what, "%s", names[i]); /* stays loaded: cuBLASLt leaks when it is closed */
        return true;
    }
    say(d, 1, what, "%s", missing);
    return false;
}

static void look_at_driver(const struct doctor *d) {
    void *lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!lib) {
        say(d, 1, "GPU driver",
            "libcuda.so.1 is missing: no NVIDIA driver here (not needed for "
            "--device cpu)");
        return;
    }
    union {
        void *object;
        int (*init)(unsigned);
        int (*version)(int *);
        int (*count)(int *);
    } init = {dlsym(lib, "cuInit")}, version = {dlsym(lib, "cuDriverGetVersion")},
      count = {dlsym(lib, "cuDeviceGetCount")};
    int n_version = 0, n_gpus = 0;
    int code = init.object ? init.init(0) : -1;
    if (version.object && version.version(&n_version) == 0)
        say(d, 0, "GPU driver", "libcuda.so.1, CUDA %d.%d", n_version / 1000,
            n_version % 1000 / 10);
    if (code == 0 && count.object && count.count(&n_gpus) == 0)
        say(d, n_gpus ? 0 : 1, "GPUs seen by driver", "%d", n_gpus);
    else
        say(d, 1, "GPUs seen by driver", "none: the driver answers %d%s", code,
            access("/dev/nvidiactl", F_OK) == 0 ? "" : "; /dev/nvidiactl is not there");
}

static void look_at_nvml(const struct doctor *d) {
    const char *why;
    bool is_there = vnp_run_gpu_is_there(&why);
    int n = vnp_run_gpu_count();
    say(d, is_there ? 0 : 1, "NVML", "%s", is_there ? "libnvidia-ml.so.1" : why);
    for (int i = 0; i < n; i++) {
        struct vnp_run_gpu_info g;
        char held[256];
        if (!vnp_run_gpu_look(i, &g)) continue;
        vnp_run_gpu_reasons_text(g.now.reasons, held, sizeof held);
        say(d, g.major < 8 ? 1 : 0, "GPU (NVML)",
            "%d: %s at %s, sm_%d%d, %.1f GB, %.1f in use, driver %s; %.0f C, %.0f W, SM %.0f "
            "MHz, %.0f %% busy%s%s%s",
            i, g.name, g.pci, g.major, g.minor, g.memory_gb, g.now.v[VNP_RUN_GPU_MEMORY_GB],
            g.driver, g.now.v[VNP_RUN_GPU_TEMPERATURE_C], g.now.v[VNP_RUN_GPU_POWER_W],
            g.now.v[VNP_RUN_GPU_SM_MHZ], g.now.v[VNP_RUN_GPU_USE_PERCENT],
            held[0] ? ", clocks held by " : "", held,
            g.major < 8 ? "; too old: 8.0 is needed" : "");
    }
}

static void look_at_gpus(const struct doctor *d) {
    static const char *const lt[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    char why[768];
    look_at_driver(d);
    look_at_library(d, "cuBLASLt", lt, 2,
                    "libcublasLt.so.12 is missing (CUDA 12 runtime libraries)");
    look_at_nvml(d);
    const struct vnp_backend *b = vnp_api_cuda(why, sizeof why);
    int n = b ? b->device_count() : 0;
    if (!b) say(d, 1, "CUDA plug-in", "%s", why);
    if (b) say(d, n ? 0 : 1, "CUDA plug-in", "loaded; %d GPU%s usable", n, n == 1 ? "" : "s");
    for (int i = 0; i < n; i++) {
        struct vnp_device_options o = {.precision = VNP_PREC_FP16, .idx_device = i};
        struct vnp_device *dev = NULL;
        struct vnp_device_info info;
        if (b->device_open(&o, &dev) == VNP_OK && b->device_info(dev, &info) == VNP_OK)
            say(d, 0, "GPU", "%d: %s, sm_%d%d, %.1f of %.1f GiB free", i, info.name, info.major,
                info.minor, (double)info.mem_free_bytes / 1073741824,
                (double)info.mem_bytes / 1073741824);
        else
            say(d, 2, "GPU", "%d: does not open: %s", i, vnp_last_error());
        if (dev) b->device_close(dev);
    }
    say(d, 0, "device auto", "%s", n ? "cuda, precision fp16" : "cpu, precision fp32");
}

vnp_status vnp_doctor(vnp_report_callback *fn, void *ctx) {
    if (!fn) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "doctor: nobody to report to");
    struct doctor d = {fn, ctx};
    say(&d, 0, "virnucpro", "%s", vnp_version());
    look_at_host(&d);
    look_at_model(&d);
    look_at_gpus(&d);
    return VNP_OK;
}
