/* SPDX-License-Identifier: MIT
 * The device suite: the op contract's conformance suite, and whole encoders on the goldens, through
 * the CUDA plug-in on a real device. A program of its own, linked with nothing that a bare GPU
 * machine lacks; tools/cuda-device-suite runs it. Prints TAP lines; the last line is the sum.
 *
 * usage: vnp_cuda_suite PLUGIN ops PRECISION [quick|all [ONLY [I/N]]]    (I from 0)
 *        vnp_cuda_suite PLUGIN goldens FOLDER PRECISION...
 *        vnp_cuda_suite PLUGIN faults */
#include "cuda/cuda.h"
#include "model/model.h"
#include "ref/ref.h"
#include "weights/weights.h"

#include "../op/op_suite.h"

#include <cuda_runtime_api.h>
#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

static int n_good, n_bad;

static void check(bool is_good, const char *fmt, ...) VNP_PRINTF(2, 3);
static void check(bool is_good, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    printf("%s %d - ", is_good ? "ok" : "not ok", n_good + n_bad + 1);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    *(is_good ? &n_good : &n_bad) += 1;
}

static void stop(const char *what) {
    char text[2048];
    vnp_error_format(vnp_error_last(), text, sizeof text);
    printf("not ok %d - %s: %s\n%d passed, %d failed, 0 skipped\n", n_good + n_bad + 1, what, text,
           n_good, n_bad + 1);
    exit(1);
}

static vnp_status copy(void *ctx, void *dst, const void *src, size_t n, bool is_put) {
    (void)ctx;
    cudaError_t e =
        cudaMemcpy(dst, src, n, is_put ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost);
    if (e == cudaSuccess) e = cudaDeviceSynchronize();
    return e == cudaSuccess ? VNP_OK : VNP_DEVICE;
}

/* ---- goldens ------------------------------------------------------------------------------- */

struct npy {
    char *file;
    const void *data;
    int64_t shape[2], n;
};

static struct npy npy_load(const char *folder, const char *name) {
    struct npy a = {0};
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) exit(2);
    long n = ftell(f);
    rewind(f);
    a.file = malloc((size_t)n + 1);
    if (!a.file || fread(a.file, 1, (size_t)n, f) != (size_t)n) exit(2);
    fclose(f);
    a.file[n] = 0;
    size_t n_head = (uint8_t)a.file[8] | (size_t)(uint8_t)a.file[9] << 8;
    const char *p = strstr(a.file + 10, "'shape': (") + 10;
    a.shape[1] = 1;
    a.n = 1;
    for (int i = 0; i < 2 && *p != ')'; i++) {
        char *end;
        a.shape[i] = strtoll(p, &end, 10);
        if (end == p) break;
        a.n *= a.shape[i];
        p = end + strspn(end, ", ");
    }
    a.data = a.file + 10 + n_head;
    return a;
}

struct golden {
    struct vnp_pack pack;
    int64_t d;
    const double *mean; /* [S][D] */
};

static struct golden golden_load(const char *folder) {
    struct npy tokens = npy_load(folder, "tokens.npy"), cu = npy_load(folder, "cu_seqlens.npy"),
               mean = npy_load(folder, "mean.npy");
    struct golden g = {.d = mean.shape[1], .mean = mean.data};
    uint16_t *t = calloc((size_t)tokens.n, sizeof *t);
    if (!t) exit(2);
    for (int64_t i = 0; i < tokens.n; i++) t[i] = (uint16_t)((const int32_t *)tokens.data)[i];
    g.pack = (struct vnp_pack){tokens.n, cu.n - 1, 0, t, cu.data};
    for (int64_t s = 0; s < g.pack.n_seqs; s++)
        g.pack.max_len = VNP_MAX(g.pack.max_len, g.pack.cu_seqlens[s + 1] - g.pack.cu_seqlens[s]);
    return g;
}

static void run(const struct vnp_encoder *e, const struct vnp_pack *pack, float *out) {
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    struct vnp_encoder_session *s;
    if (vnp_encoder_session_create(e, pack->n_tokens, pack->n_seqs, &s) != VNP_OK ||
        vnp_encoder_submit(s, pack, &want, out) != VNP_OK || vnp_encoder_wait(s) != VNP_OK)
        stop("encoder");
    vnp_encoder_session_destroy(s);
}

/* Every sequence alone through one session: the same bits as in the pack. */
static int64_t count_differing(const struct vnp_encoder *e, const struct golden *g,
                               const float *packed) {
    struct vnp_encoder_want want = {.layer = -1, .pool = VNP_POOL_MEAN};
    struct vnp_encoder_session *s;
    float *alone = calloc((size_t)g->d, sizeof *alone);
    int64_t n = 0;
    if (!alone || vnp_encoder_session_create(e, g->pack.max_len, 1, &s) != VNP_OK) stop("session");
    for (int64_t i = 0; i < g->pack.n_seqs; i++) {
        int32_t begin = g->pack.cu_seqlens[i], cu[2] = {0, g->pack.cu_seqlens[i + 1] - begin};
        struct vnp_pack one = {cu[1], 1, cu[1], g->pack.tokens + begin, cu};
        if (vnp_encoder_submit(s, &one, &want, alone) != VNP_OK || vnp_encoder_wait(s) != VNP_OK)
            stop("alone");
        n += memcmp(alone, packed + i * g->d, (size_t)g->d * sizeof *alone) != 0;
    }
    vnp_encoder_session_destroy(s);
    free(alone);
    return n;
}

struct agreement {
    double max_relative, median, max;
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* goldens/README: max relative error, and the centred error's median and maximum. */
static struct agreement compare(const struct golden *g, const float *got) {
    struct agreement r = {0, 0, 0};
    int64_t n_seqs = g->pack.n_seqs, n = 0;
    double *bar = calloc((size_t)g->d, sizeof *bar), *centred = calloc((size_t)n_seqs, sizeof *bar);
    if (!bar || !centred) exit(2);
    for (int64_t i = 0; i < n_seqs * g->d; i++) bar[i % g->d] += g->mean[i] / (double)n_seqs;
    for (int64_t s = 0; s < n_seqs; s++) {
        double top = 0, size = 0, err2 = 0, ref2 = 0;
        for (int64_t i = 0; i < g->d; i++) {
            double m = g->mean[s * g->d + i], e = (double)got[s * g->d + i] - m;
            top = isfinite(e) ? fmax(top, fabs(e)) : INFINITY;
            size = fmax(size, fabs(m));
            err2 += e * e;
            ref2 += (m - bar[i]) * (m - bar[i]);
        }
        if (size == 0) continue;
        r.max_relative = fmax(r.max_relative, top / size);
        centred[n++] = isfinite(err2) ? sqrt(err2 / ref2) : INFINITY;
    }
    qsort(centred, (size_t)n, sizeof *centred, by_value);
    r.median = n ? centred[n / 2] : 0;
    r.max = n ? centred[n - 1] : 0;
    free(bar);
    free(centred);
    return r;
}

static struct agreement measure(const struct vnp_backend *b, enum vnp_precision precision,
                                const struct vnp_checkpoint *c, const struct golden *g,
                                int64_t *n_differing) {
    struct vnp_device_options opt = {.precision = precision,
                                     .is_emulation = b->is_host && precision != VNP_PREC_FP32};
    struct vnp_device *dev;
    struct vnp_encoder *e;
    float *got = calloc((size_t)(g->pack.n_seqs * g->d), sizeof *got);
    if (!got || b->device_open(&opt, &dev) != VNP_OK || vnp_encoder_create(b, dev, c, &e) != VNP_OK)
        stop("open");
    run(e, &g->pack, got);
    struct agreement r = compare(g, got);
    if (n_differing) *n_differing = count_differing(e, g, got);
    vnp_encoder_destroy(e);
    b->device_close(dev);
    free(got);
    return r;
}

static void golden_precision(const struct vnp_backend *cuda, const char *name,
                             enum vnp_precision precision, const struct vnp_checkpoint *c,
                             const struct golden *g) {
    int64_t n_differing = 0;
    const char *p = vnp_precision_name(precision);
    struct agreement ours = measure(cuda, precision, c, g, &n_differing);
    check(n_differing == 0, "%s %s: %lld of %lld sequences differ alone and packed", name, p,
          (long long)n_differing, (long long)g->pack.n_seqs);
    if (precision == VNP_PREC_FP32) {
        double limit = strstr(name, "outlier") ? 2e-4 : 2e-5;
        check(ours.max_relative <= limit, "%s %s: max relative error %.3g, at most %.0e", name, p,
              ours.max_relative, limit);
        return;
    }
    struct agreement theirs = measure(vnp_ref_backend(), precision, c, g, NULL);
    check(ours.median <= 1.25 * theirs.median && ours.max <= 1.25 * theirs.max,
          "%s %s: centred error median %.3g max %.3g, emulation %.3g %.3g: %.2f %.2f of it", name,
          p, ours.median, ours.max, theirs.median, theirs.max, ours.median / theirs.median,
          ours.max / theirs.max);
}

static void goldens(const struct vnp_backend *cuda, const char *folder, int n, char **precisions) {
    static const char *const kinds[] = {"esm2", "dnabert_s"};
    char path[1024], file[2048];
    for (int k = 0; k < 2; k++) {
        snprintf(path, sizeof path, "%s/%s", folder, kinds[k]);
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));) {
            if (e->d_name[0] == '.') continue;
            snprintf(file, sizeof file, "%s/%s", path, e->d_name);
            struct golden g = golden_load(file);
            if (k == 0) snprintf(file, sizeof file, "%s/%s/model.pt", path, e->d_name);
            if (access(file, R_OK) != 0) snprintf(file, sizeof file, "%s/%s/hf", path, e->d_name);
            struct vnp_checkpoint *c;
            enum vnp_model_kind kind = k == 0 ? VNP_MODEL_ESM2 : VNP_MODEL_DNABERT;
            if (vnp_checkpoint_open(file, kind, &c) != VNP_OK) stop(file);
            for (int i = 0; i < n; i++) {
                enum vnp_precision p;
                if (vnp_precision_parse(precisions[i], &p) != VNP_OK) stop(precisions[i]);
                golden_precision(cuda, e->d_name, p, c, &g);
            }
            vnp_checkpoint_close(c);
        }
        if (d) closedir(d);
    }
}

/* ---- faults -------------------------------------------------------------------------------- */

/* FP16 overflow is counted, out of memory is a status, and the device works on after both. */
static void faults(const struct vnp_backend *b) {
    struct vnp_device_options opt = {.precision = VNP_PREC_FP16};
    struct vnp_device *dev;
    struct vnp_exec *ex;
    struct vnp_exec_limits limits = {64, 4, 64}, huge = {1 << 24, 4, 1 << 22};
    struct vnp_tensor x, out, big;
    static float values[64 * 64];
    float pooled[64 * 4];
    int32_t cu[] = {0, 3, 64};
    uint16_t tokens[64] = {0};
    struct vnp_pack pack = {64, 2, 61, tokens, cu};
    struct vnp_pool_params pool = {.kind = VNP_POOL_MEAN};
    if (b->device_open(&opt, &dev) != VNP_OK) stop("open");
    opt.idx_device = 99;
    struct vnp_device *none = NULL;
    check(b->device_open(&opt, &none) == VNP_DEVICE && !none, "device 99 is refused: %s",
          vnp_error_last()->text);
    struct vnp_exec *too_much = NULL;
    vnp_status s = b->exec_create(dev, &huge, &too_much);
    for (int i = 0; s == VNP_OK && i < 8; i++)
        s = b->tensor_create(too_much, VNP_SITE_RESIDUAL, 1 << 24, 4096, &big);
    check(s == VNP_DEVICE_NOMEM, "out of memory is DEVICE_NOMEM: %s", vnp_error_last()->text);
    b->exec_destroy(too_much);
    if (b->exec_create(dev, &limits, &ex) != VNP_OK ||
        b->tensor_create(ex, VNP_SITE_RESIDUAL, 64, 64, &x) != VNP_OK ||
        b->tensor_create(ex, VNP_SITE_F32, 4, 64, &out) != VNP_OK)
        stop("context");
    for (int i = 0; i < 64 * 64; i++) values[i] = (float)(i % 7);
    for (int round = 0; round < 3; round++) {
        values[2] = round == 1 ? INFINITY : 1.0f;
        out.rows = 2;
        if (b->batch_begin(ex, &pack) != VNP_OK || b->exec_wait(ex) != VNP_OK ||
            copy(NULL, x.data, values, sizeof values, true) != VNP_OK ||
            b->pool(ex, &pool, &x, &out) != VNP_OK || b->read_f32(ex, &out, pooled) != VNP_OK ||
            b->exec_wait(ex) != VNP_OK)
            stop("pool");
        check(b->exec_n_nonfinite(ex) == (round == 1), "round %d: %lld elements not finite", round,
              (long long)b->exec_n_nonfinite(ex));
    }
    b->exec_destroy(ex);
    b->device_close(dev);
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!plugin) {
        printf("not ok 1 - %s\n", dlerror());
        return 1;
    }
    const struct vnp_backend *(*backend)(void);
    void (*bind)(vnp_cuda_error_fn *);
    void *p = dlsym(plugin, VNP_CUDA_ENTRY), *q = dlsym(plugin, VNP_CUDA_BIND);
    if (!p || !q) return 1;
    memcpy(&backend, &p, sizeof p);
    memcpy(&bind, &q, sizeof q);
    bind(vnp_error_set);
    if (strcmp(argv[2], "ops") == 0 && argc > 3) {
        struct op_suite_config config = {.backend = backend(), .copy = copy};
        if (vnp_precision_parse(argv[3], &config.device.precision) != VNP_OK) return 64;
        config.is_quick = argc > 4 && strcmp(argv[4], "quick") == 0;
        if (argc > 5) config.only = argv[5];
        if (argc > 6 && (sscanf(argv[6], "%d/%d", &config.first, &config.every) != 2 ||
                         config.first < 0 || config.first >= config.every))
            return 64;
        op_suite_run(&config, &n_good, &n_bad);
    } else if (strcmp(argv[2], "goldens") == 0 && argc > 4) {
        goldens(backend(), argv[3], argc - 4, argv + 4);
    } else if (strcmp(argv[2], "faults") == 0) {
        faults(backend());
    } else {
        return 64;
    }
    printf("%s %s %s: %d passed, %d failed, 0 skipped\n", argv[2], argc > 3 ? argv[3] : "",
           argc > 4 ? argv[4] : "", n_good, n_bad);
    return n_bad != 0 || n_good == 0;
}
