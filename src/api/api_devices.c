// SPDX-License-Identifier: MIT
// Which backends, devices and precision a run uses. CUDA is a plug-in opened at run time, so that
// the same program works on a machine without driver or libraries.
#include "api_internal.h"
#include "cpu/cpu.h"
#include "ref/ref.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLUGIN_NAME "libvirnucpro_cuda.so"

/* Written once under cuda_once, read-only afterwards; the plug-in stays loaded. */
static pthread_once_t cuda_once = PTHREAD_ONCE_INIT;
static const struct vnp_backend *cuda_backend;
static char cuda_why[768];

bool vnp_api_own_dir(char *out, size_t n) {
    char path[PATH_MAX];
    Dl_info info;
    /* The file this code was loaded from: the program, or libvirnucpro.so inside another one. */
    if (!dladdr((const void *)(uintptr_t)vnp_version, &info) || !info.dli_fname) return false;
    if (!strchr(info.dli_fname, '/') || !realpath(info.dli_fname, path)) {
        ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
        if (len <= 0) return false;
        path[len] = 0;
    }
    char *slash = strrchr(path, '/');
    if (!slash) return false;
    *slash = 0;
    return (size_t)snprintf(out, n, "%s", path) < n;
}

bool vnp_api_cache_path(char *out, size_t n) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int len = 0;
    if (base && base[0] == '/')
        len = snprintf(out, n, "%s", base);
    else if (home && home[0] == '/')
        len = snprintf(out, n, "%s/.cache", home);
    if (len < 1 || (size_t)len + sizeof "/virnucpro" >= n) return false;
    strcat(out, "/virnucpro");
    return true;
}

bool vnp_api_cache_dir(char *out, size_t n) {
    if (!vnp_api_cache_path(out, n)) return false;
    char *slash = strrchr(out, '/');
    *slash = 0;
    (void)mkdir(out, 0700);
    *slash = '/';
    (void)mkdir(out, 0700);
    return access(out, W_OK | X_OK) == 0;
}

void vnp_api_device_identity(const struct vnp_api_devices *d, char *out, size_t n) {
    const struct vnp_backend *b = d->list[0].backend;
    char pci[32] = "";
    snprintf(out, n, "%s %s", b->name, b->is_host ? vnp_cpu_features() : "");
    if (!b->device_pci || !b->device_pci(d->list[0].idx_device, pci)) return;
    const char *bus = strchr(pci, ':'); /* the domain has more digits at NVML */
    for (int i = 0; bus && i < vnp_run_gpu_count(); i++) {
        struct vnp_run_gpu_info g;
        if (!vnp_run_gpu_look(i, &g)) continue;
        const char *there = strchr(g.pci, ':');
        if (there && strcasecmp(there, bus) == 0) snprintf(out, n, "%s %s", b->name, g.name);
    }
}

const struct vnp_backend *vnp_api_host_backend(void) {
    return vnp_cpu_backend();
}

/* Takes the backend of one plug-in file; 1 taken, 0 no such file, -1 there but unusable. */
static int plugin_try(const char *path) {
    if (access(path, F_OK) != 0) return 0;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(cuda_why, sizeof cuda_why, "plug-in does not load: %s", dlerror());
        return -1;
    }
    typedef const struct vnp_backend *backend_fn(void);
    union { /* ISO C has no cast from object to function pointer; POSIX promises that it works */
        void *object;
        backend_fn *function;
    } symbol = {dlsym(lib, "vnp_cuda_backend")};
    const struct vnp_backend *b = symbol.object ? symbol.function() : NULL;
    if (!b || b->version != VNP_BACKEND_VERSION) {
        snprintf(cuda_why, sizeof cuda_why,
                 "plug-in %s is of another version (backend %d, this program needs %d)", path,
                 b ? b->version : -1, VNP_BACKEND_VERSION);
        dlclose(lib);
        return -1;
    }
    /* The plug-in has its own copy of base: its failures become this program's record. */
    typedef void bind_fn(void (*error_set)(const struct vnp_error *));
    union {
        void *object;
        bind_fn *function;
    } bind = {dlsym(lib, "vnp_cuda_bind")};
    if (bind.object) bind.function(vnp_error_set);
    cuda_backend = b;
    return 1;
}

static void plugin_search(void) {
    char dir[PATH_MAX], path[PATH_MAX + 64];
    const char *env = getenv("VIRNUCPRO_PLUGIN_DIR");
    static const char *const places[] = {"",
                                         "/src/cuda",
                                         "/virnucpro",
                                         "/../lib",
                                         "/../lib/virnucpro",
                                         "/../lib64",
                                         "/../lib64/virnucpro",
                                         "/../lib/x86_64-linux-gnu",
                                         "/../lib/x86_64-linux-gnu/virnucpro"};
    int found = 0;
    if (env && env[0]) {
        snprintf(path, sizeof path, "%s/%s", env, PLUGIN_NAME);
        found = plugin_try(path);
        if (found == 0) snprintf(cuda_why, sizeof cuda_why, "no %s in %s", PLUGIN_NAME, env);
        if (found <= 0) return;
    } else if (vnp_api_own_dir(dir, sizeof dir)) {
        for (size_t i = 0; !found && i < VNP_COUNT(places); i++) {
            snprintf(path, sizeof path, "%s%s/%s", dir, places[i], PLUGIN_NAME);
            found = plugin_try(path);
        }
    }
    if (found == 0) snprintf(cuda_why, sizeof cuda_why, "plug-in %s is not installed", PLUGIN_NAME);
    if (cuda_backend && cuda_backend->device_count() < 1)
        snprintf(cuda_why, sizeof cuda_why, "plug-in found, but no usable GPU or driver");
}

const struct vnp_backend *vnp_api_cuda(char *why, size_t n_why) {
    pthread_once(&cuda_once, plugin_search);
    if (why) snprintf(why, n_why, "%s", cuda_why);
    return cuda_backend;
}

static const struct vnp_backend *backend_named(const char *name) {
    if (strcmp(name, vnp_cpu_backend()->name) == 0) return vnp_cpu_backend();
    if (strcmp(name, vnp_ref_backend()->name) == 0) return vnp_ref_backend();
    const struct vnp_backend *cuda = vnp_api_cuda(NULL, 0);
    return cuda && strcmp(name, cuda->name) == 0 ? cuda : NULL;
}

vnp_status vnp_worker_run(int fd) {
    return vnp_run_worker_serve(fd, backend_named);
}

static vnp_status bad_device(const char *text) {
    vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no device is called '%s'", text);
    vnp_error_hint("use auto, cpu, cuda or cuda:0,2");
    return s;
}

static vnp_status add_cuda(struct vnp_api_devices *d, const struct vnp_backend *b, long idx,
                           int n_there) {
    if (idx < 0 || idx >= n_there) {
        vnp_status s = vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE,
                                "there is no GPU %ld here; %d are visible", idx, n_there);
        vnp_error_hint("GPUs are counted from 0; CUDA_VISIBLE_DEVICES hides some");
        return s;
    }
    for (int i = 0; i < d->n; i++)
        if (d->list[i].idx_device == idx)
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "GPU %ld is named twice", idx);
    if (d->n == VNP_API_MAX_DEVICES)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "more than %d devices", VNP_API_MAX_DEVICES);
    d->list[d->n++] = (struct vnp_run_device){.backend = b, .idx_device = (int)idx};
    return VNP_OK;
}

/* "0,2": numbers with single commas between them. */
static bool is_list(const char *p) {
    for (;; p++) {
        size_t n = strspn(p, "0123456789");
        if (n < 1 || n > 6) return false;
        p += n;
        if (*p != ',') return *p == 0;
    }
}

/* "cuda" or "cuda:0,2" */
static vnp_status choose_cuda(const char *text, struct vnp_api_devices *d) {
    char why[768];
    if (text[4] && !is_list(text + 5)) return bad_device(text);
    const struct vnp_backend *b = vnp_api_cuda(why, sizeof why);
    int n_there = b ? b->device_count() : 0;
    if (n_there < 1) {
        vnp_status s = vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "no GPU can be used: %s", why);
        vnp_error_hint("`virnucpro doctor` says what is missing; --device cpu works everywhere");
        return s;
    }
    if (text[4] == 0) {
        for (int i = 0; i < VNP_MIN(n_there, VNP_API_MAX_DEVICES); i++)
            VNP_TRY(add_cuda(d, b, i, n_there));
        return VNP_OK;
    }
    for (const char *p = text + 5;;) {
        char *end;
        VNP_TRY(add_cuda(d, b, strtol(p, &end, 10), n_there));
        if (*end == 0) return VNP_OK;
        p = end + 1;
    }
}

static void describe(struct vnp_api_devices *d, int n_threads) {
    const struct vnp_backend *b = d->list[0].backend;
    if (!b->is_host) {
        size_t n = (size_t)snprintf(d->name, sizeof d->name, "%s:", b->name);
        for (int i = 0; i < d->n && n < sizeof d->name; i++)
            n += (size_t)snprintf(d->name + n, sizeof d->name - n, "%s%d", i ? "," : "",
                                  d->list[i].idx_device);
        return;
    }
    int n = n_threads > 0 ? n_threads : vnp_cpu_count();
    const char *features = b == vnp_cpu_backend() ? vnp_cpu_features() : "plain C";
    snprintf(d->name, sizeof d->name, "%s (%.*s, %d thread%s)", b->name,
             b == vnp_cpu_backend() ? (int)strcspn(features, " ") : 7, features, n,
             n == 1 ? "" : "s");
}

void vnp_api_devices_tell_why_not(struct vnp_api_devices *d) {
    size_t n = strlen(d->why);
    if (d->why_not[0]) snprintf(d->why + n, sizeof d->why - n, "; no GPU used: %.300s", d->why_not);
}

vnp_status vnp_api_devices_choose(const char *device, const char *precision, int n_threads,
                                  struct vnp_api_devices *d) {
    char why_not[768] = "";
    bool is_auto = !device || strcmp(device, "auto") == 0;
    memset(d, 0, sizeof *d);
    if (is_auto) {
        const struct vnp_backend *b = vnp_api_cuda(why_not, sizeof why_not);
        int n_there = b ? b->device_count() : 0;
        for (int i = 0; i < VNP_MIN(n_there, VNP_API_MAX_DEVICES); i++)
            VNP_TRY(add_cuda(d, b, i, n_there));
    } else if (strncmp(device, "cuda", 4) == 0 && (device[4] == 0 || device[4] == ':')) {
        VNP_TRY(choose_cuda(device, d));
    } else if (strcmp(device, "ref") == 0) { /* the judge: slow, for comparisons */
        d->list[d->n++] = (struct vnp_run_device){.backend = vnp_ref_backend()};
    } else if (strcmp(device, "cpu") != 0) {
        return bad_device(device);
    }
    if (d->n == 0) d->list[d->n++] = (struct vnp_run_device){.backend = vnp_cpu_backend()};
    describe(d, n_threads);
    bool is_host = d->list[0].backend->is_host;
    if (!precision || strcmp(precision, "auto") == 0) {
        d->precision = is_host ? VNP_PREC_FP32 : VNP_PREC_FP16;
        snprintf(d->why, sizeof d->why, "auto: fp%s on %s", is_host ? "32" : "16",
                 is_host ? "CPUs" : "GPUs");
    } else {
        if (vnp_precision_parse(precision, &d->precision) != VNP_OK) {
            vnp_status s =
                vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no precision is called '%s'", precision);
            vnp_error_hint("use auto, fp32, bf16, fp16, fp8 or int8");
            return s;
        }
        bool is_judge = d->list[0].backend == vnp_ref_backend();
        d->list[0].is_emulation = is_judge && d->precision != VNP_PREC_FP32;
        snprintf(d->why, sizeof d->why,
                 d->list[0].is_emulation ? "as asked, emulated" : "as asked");
    }
    if (is_auto && is_host) snprintf(d->why_not, sizeof d->why_not, "%.300s", why_not);
    vnp_api_devices_tell_why_not(d);
    return VNP_OK;
}
