/* SPDX-License-Identifier: MIT
 * Matrix products by cuBLASLt, opened at run time (the plug-in needs no library at load): the path
 * of GPUs without the sm_90a kernels, and the yardstick of the benches. The algorithms offered for
 * a shape are timed once; the fastest without split-K is kept on disk per device and library
 * version, under a lock, so that all GPUs of one kind and all later runs take the same one: another
 * algorithm may sum in another order. Without such a file the library's first answer is taken,
 * untimed, for the same reason. */
#include "cuda_room.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define MAX_SHAPES 256
#define MAX_ALGOS 8
#define WORKSPACE_BYTES ((size_t)32 << 20)

/* All of the library that is used: X(result, name, parameters). */
#define LT_FUNCTIONS(X)                                                                            \
    X(cublasStatus_t, Create, (cublasLtHandle_t *))                                                \
    X(cublasStatus_t, Destroy, (cublasLtHandle_t))                                                 \
    X(size_t, GetVersion, (void))                                                                  \
    X(cublasStatus_t, MatmulDescCreate,                                                            \
      (cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t))                               \
    X(cublasStatus_t, MatmulDescDestroy, (cublasLtMatmulDesc_t))                                   \
    X(cublasStatus_t, MatmulDescSetAttribute,                                                      \
      (cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t))                \
    X(cublasStatus_t, MatrixLayoutCreate,                                                          \
      (cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t))                       \
    X(cublasStatus_t, MatrixLayoutDestroy, (cublasLtMatrixLayout_t))                               \
    X(cublasStatus_t, MatmulPreferenceCreate, (cublasLtMatmulPreference_t *))                      \
    X(cublasStatus_t, MatmulPreferenceDestroy, (cublasLtMatmulPreference_t))                       \
    X(cublasStatus_t, MatmulPreferenceSetAttribute,                                                \
      (cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t))    \
    X(cublasStatus_t, MatmulAlgoGetHeuristic,                                                      \
      (cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,     \
       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,            \
       cublasLtMatmulHeuristicResult_t *, int *))                                                  \
    X(cublasStatus_t, Matmul,                                                                      \
      (cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t, \
       const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,   \
       void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,               \
       cudaStream_t))

struct lt_shape {
    int64_t m, n, k, ld_a, ld_w, ld_out;
    int32_t in_dtype, out_dtype, is_add, has_bias;
};
struct lt_entry {
    struct lt_shape shape;
    cublasLtMatmulAlgo_t algo;
};
struct vnp_cuda_lt {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    char cache_path[640];
    int n_entries;
    struct lt_entry entry[MAX_SHAPES];
#define LT_POINTER(result, name, parameters) result(*name) parameters;
    LT_FUNCTIONS(LT_POINTER)
#undef LT_POINTER
};

/* One product, described; freed by plan_fini. */
struct lt_plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, a, out;
    float beta;
};

static vnp_status lt_fail(cublasStatus_t s, const char *what) {
    return vnp_fail(s == CUBLAS_STATUS_NOT_SUPPORTED ? VNP_UNSUPPORTED : VNP_DEVICE,
                    VNP_FROM_DEVICE, "cuda: cuBLASLt status %d in %s", (int)s, what);
}
#define LT(x)                                                                                      \
    do {                                                                                           \
        cublasStatus_t lt_s_ = (x);                                                                \
        if (lt_s_ != CUBLAS_STATUS_SUCCESS) return lt_fail(lt_s_, #x);                             \
    } while (0)

void vnp_cuda_lt_close(struct vnp_cuda_lt *lt) {
    if (!lt) return;
    if (lt->handle) (void)lt->Destroy(lt->handle);
    (void)cudaFree(lt->workspace);
    if (lt->library) (void)dlclose(lt->library);
    free(lt);
}

static vnp_status lt_bind(struct vnp_cuda_lt *lt) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    for (size_t i = 0; i < VNP_COUNT(names) && !lt->library; i++)
        lt->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lt->library) {
        vnp_status status =
            vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE, "cuda: no libcublasLt: %s", dlerror());
        vnp_error_hint("install the CUDA libraries or add their folder to LD_LIBRARY_PATH");
        return status;
    }
#define LT_FIND(result, name, parameters)                                                          \
    do {                                                                                           \
        void *p = dlsym(lt->library, "cublasLt" #name);                                            \
        if (!p)                                                                                    \
            return vnp_fail(VNP_UNSUPPORTED, VNP_FROM_DEVICE, "cuda: libcublasLt lacks %s",        \
                            "cublasLt" #name);                                                     \
        memcpy(&lt->name, &p, sizeof p);                                                           \
    } while (0);
    LT_FUNCTIONS(LT_FIND)
#undef LT_FIND
    return VNP_OK;
}

/* The file, locked against other processes and devices; NULL: there is none, or no place for it. */
static FILE *cache_open(const struct vnp_cuda_lt *lt) {
    FILE *f = lt->cache_path[0] ? fopen(lt->cache_path, "a+b") : NULL;
    if (!f) return NULL;
    if (flock(fileno(f), LOCK_EX) == 0) return f;
    (void)fclose(f);
    return NULL;
}

/* All entries anew; those in memory are a part of them, but for a full table. */
static void cache_read(struct vnp_cuda_lt *lt, FILE *f) {
    int n = 0;
    rewind(f);
    while (n < MAX_SHAPES && fread(&lt->entry[n], sizeof lt->entry[0], 1, f) == 1) n++;
    lt->n_entries = VNP_MAX(n, lt->n_entries);
}

vnp_status vnp_cuda_lt_open(int idx_device, const char *cache_dir, struct vnp_cuda_lt **out) {
    struct cudaDeviceProp prop;
    *out = NULL;
    struct vnp_cuda_lt *lt = calloc(1, sizeof *lt);
    if (!lt)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cuda: %zu bytes for the library", sizeof *lt);
    vnp_status status = lt_bind(lt);
    if (status == VNP_OK && lt->Create(&lt->handle) != CUBLAS_STATUS_SUCCESS)
        status = vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "cuda: cuBLASLt does not start");
    cudaError_t e = cudaMalloc(&lt->workspace, WORKSPACE_BYTES);
    if (status == VNP_OK && e != cudaSuccess) status = vnp_cuda_fail(e, "cuBLASLt's workspace");
    if (status != VNP_OK) {
        vnp_cuda_lt_close(lt);
        return status;
    }
    if (cache_dir && cudaGetDeviceProperties(&prop, idx_device) == cudaSuccess) {
        for (char *c = prop.name; *c; c++)
            if (*c == ' ' || *c == '/') *c = '-';
        snprintf(lt->cache_path, sizeof lt->cache_path, "%.300s/cublaslt-%.100s-%zu.bin", cache_dir,
                 prop.name, lt->GetVersion());
        FILE *f = cache_open(lt);
        if (f) {
            cache_read(lt, f);
            (void)fclose(f);
        }
    }
    *out = lt;
    return VNP_OK;
}

static cudaDataType_t lt_type(enum vnp_dtype dtype) {
    return dtype == VNP_F16    ? CUDA_R_16F
           : dtype == VNP_BF16 ? CUDA_R_16BF
           : dtype == VNP_E4M3 ? CUDA_R_8F_E4M3
                               : CUDA_R_32F;
}

static void plan_fini(const struct vnp_cuda_lt *lt, struct lt_plan *plan) {
    if (plan->out) (void)lt->MatrixLayoutDestroy(plan->out);
    if (plan->a) (void)lt->MatrixLayoutDestroy(plan->a);
    if (plan->w) (void)lt->MatrixLayoutDestroy(plan->w);
    if (plan->desc) (void)lt->MatmulDescDestroy(plan->desc);
}

#define SET(attribute, value)                                                                      \
    LT(lt->MatmulDescSetAttribute(plan->desc, attribute, &(value), sizeof(value)))

/* Row-major out [M][N] = a w^T is column-major out^T = w a^T: the weight is the library's A. */
static vnp_status plan_init(const struct vnp_cuda_lt *lt, const struct vnp_cuda_gemm_args *p,
                            struct lt_plan *plan) {
    cublasOperation_t turned = CUBLAS_OP_T;
    cudaDataType_t in = lt_type(p->in_dtype), to = lt_type(p->out_dtype);
    plan->beta = p->epilogue == VNP_CUDA_EPI_ADD ? 1.0f : 0.0f;
    LT(lt->MatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    SET(CUBLASLT_MATMUL_DESC_TRANSA, turned);
    if (p->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        SET(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        SET(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
        SET(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, to);
    }
    if (p->in_dtype == VNP_E4M3) {
        int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        int8_t fast = 1;
        SET(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
        SET(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
        SET(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p->w_scale);
        SET(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p->a_scale);
        SET(CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    }
    LT(lt->MatrixLayoutCreate(&plan->w, in, (uint64_t)p->k, (uint64_t)p->n, p->ld_w));
    LT(lt->MatrixLayoutCreate(&plan->a, in, (uint64_t)p->k, (uint64_t)p->m, p->ld_a));
    LT(lt->MatrixLayoutCreate(&plan->out, to, (uint64_t)p->n, (uint64_t)p->m, p->ld_out));
    return VNP_OK;
}

static cublasStatus_t multiply(const struct vnp_cuda_lt *lt, const struct lt_plan *plan,
                               const struct vnp_cuda_gemm_args *p, void *out,
                               const cublasLtMatmulAlgo_t *algo, cudaStream_t stream) {
    const float one = 1.0f;
    return lt->Matmul(lt->handle, plan->desc, &one, p->w, plan->w, p->a, plan->a, &plan->beta, out,
                      plan->out, out, plan->out, algo, lt->workspace, WORKSPACE_BYTES, stream);
}

/* Times the offered algorithms into a scrap result, the best of three runs each; or takes the
 * first one offered. */
static vnp_status tune(const struct vnp_cuda_lt *lt, const struct lt_plan *plan,
                       const struct vnp_cuda_gemm_args *p, bool is_timed, cublasLtMatmulAlgo_t *out,
                       cudaStream_t stream) {
    cublasLtMatmulHeuristicResult_t offer[MAX_ALGOS];
    cublasLtMatmulPreference_t wish = NULL;
    uint64_t n_bytes = WORKSPACE_BYTES;
    uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    int n = 0, best = -1;
    float best_ms = 0.0f;
    LT(lt->MatmulPreferenceCreate(&wish));
    (void)lt->MatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &n_bytes,
                                           sizeof n_bytes);
    (void)lt->MatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                           &no_split, sizeof no_split);
    cublasStatus_t s = lt->MatmulAlgoGetHeuristic(lt->handle, plan->desc, plan->w, plan->a,
                                                  plan->out, plan->out, wish, MAX_ALGOS, offer, &n);
    (void)lt->MatmulPreferenceDestroy(wish);
    if (s != CUBLAS_STATUS_SUCCESS || n == 0)
        return lt_fail(s != CUBLAS_STATUS_SUCCESS ? s : CUBLAS_STATUS_NOT_SUPPORTED,
                       "the choice of an algorithm");
    if (!is_timed) {
        *out = offer[0].algo;
        return VNP_OK;
    }
    void *scrap = NULL;
    cudaEvent_t t0 = NULL, t1 = NULL;
    cudaError_t e = cudaMalloc(&scrap, (size_t)(p->m * p->ld_out) * vnp_dtype_bytes(p->out_dtype));
    if (e == cudaSuccess) e = cudaEventCreate(&t0);
    if (e == cudaSuccess) e = cudaEventCreate(&t1);
    for (int i = 0; i < n && e == cudaSuccess; i++)
        for (int run = 0; run < 4 && e == cudaSuccess; run++) {
            float ms = 0.0f;
            (void)cudaEventRecord(t0, stream);
            if (multiply(lt, plan, p, scrap, &offer[i].algo, stream) != CUBLAS_STATUS_SUCCESS)
                break;
            (void)cudaEventRecord(t1, stream);
            e = cudaEventSynchronize(t1);
            (void)cudaEventElapsedTime(&ms, t0, t1);
            if (run > 0 && (best < 0 || ms < best_ms)) {
                best = i;
                best_ms = ms;
            }
        }
    if (t0) (void)cudaEventDestroy(t0);
    if (t1) (void)cudaEventDestroy(t1);
    (void)cudaFree(scrap);
    if (e != cudaSuccess) return vnp_cuda_fail(e, "timing the library");
    if (best < 0) return lt_fail(CUBLAS_STATUS_NOT_SUPPORTED, "every algorithm offered");
    *out = offer[best].algo;
    return VNP_OK;
}

static struct lt_entry *entry_find(struct vnp_cuda_lt *lt, const struct lt_shape *shape) {
    for (int i = 0; i < lt->n_entries; i++)
        if (memcmp(&lt->entry[i].shape, shape, sizeof *shape) == 0) return &lt->entry[i];
    return NULL;
}

/* From the file, where another device may have put it by now, else tuned and put there. */
static vnp_status entry_make(struct vnp_cuda_lt *lt, const struct lt_plan *plan,
                             const struct vnp_cuda_gemm_args *p, const struct lt_shape *shape,
                             cudaStream_t stream, struct lt_entry **out) {
    vnp_status status = VNP_OK;
    FILE *f = cache_open(lt);
    if (f) cache_read(lt, f);
    *out = entry_find(lt, shape);
    if (!*out) {
        if (lt->n_entries == MAX_SHAPES) lt->n_entries = 0; /* no model has so many: start over */
        struct lt_entry *e = &lt->entry[lt->n_entries];
        memset(e, 0, sizeof *e);
        e->shape = *shape;
        status = tune(lt, plan, p, f != NULL, &e->algo, stream);
        if (status == VNP_OK) {
            lt->n_entries++;
            *out = e;
            if (f) (void)fwrite(e, sizeof *e, 1, f);
        }
    }
    if (f) (void)fclose(f); /* and unlocked */
    return status;
}

static vnp_status run_planned(struct vnp_cuda_lt *lt, const struct lt_plan *plan,
                              const struct vnp_cuda_gemm_args *p, cudaStream_t stream) {
    struct lt_shape shape;
    memset(&shape, 0, sizeof shape);
    shape = (struct lt_shape){p->m,
                              p->n,
                              p->k,
                              p->ld_a,
                              p->ld_w,
                              p->ld_out,
                              (int32_t)p->in_dtype,
                              (int32_t)p->out_dtype,
                              p->epilogue == VNP_CUDA_EPI_ADD,
                              p->bias != NULL};
    struct lt_entry *e = entry_find(lt, &shape);
    if (!e) VNP_TRY(entry_make(lt, plan, p, &shape, stream, &e));
    LT(multiply(lt, plan, p, p->out, &e->algo, stream));
    return VNP_OK;
}

vnp_status vnp_cuda_lt_gemm(struct vnp_cuda_lt *lt, const struct vnp_cuda_gemm_args *p,
                            cudaStream_t stream) {
    struct lt_plan plan = {0};
    vnp_status status = plan_init(lt, p, &plan);
    if (status == VNP_OK) status = run_planned(lt, &plan, p, stream);
    plan_fini(lt, &plan);
    return status;
}
