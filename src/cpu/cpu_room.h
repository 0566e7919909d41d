/* SPDX-License-Identifier: MIT
 * cpu, inside: device, execution context, prepared weights, and the thin layer over oneDNN. */
#ifndef VNP_CPU_ROOM_H
#define VNP_CPU_ROOM_H

#include "cpu/cpu.h"
#include "cpu/cpu_kernels.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>

/* ---- matrix products: a W^T for a fixed number of rows, one thread -------------------------- */

/* Heights of a block of rows, largest first. A batch is cut into the largest ones and its last rows
 * into smaller ones; vnp_cpu_matmul_create proves that a row's bits are the same in all of them, at
 * every place, and drops the heights for which that does not hold. */
#define VNP_CPU_N_HEIGHTS 5
#define VNP_CPU_MAX_HEIGHT 48
#define VNP_CPU_HEIGHTS                                                                            \
    { VNP_CPU_MAX_HEIGHT, 24, 12, 6, 1 }

/* Product [height][n_in] x [n_in][n_cols] for every height; shared by all weights of the shape. */
struct vnp_cpu_matmul {
    struct vnp_cpu_matmul *next;
    int64_t n_in, n_cols;
    bool is_bf16;
    bool is_blocked;     /* weights are 64-column blocks as kernels/cpu_pack.c writes them */
    size_t weight_bytes; /* packed */
    size_t scratch_bytes;
    int n_heights, height[VNP_CPU_N_HEIGHTS];
    dnnl_primitive_t primitive[VNP_CPU_N_HEIGHTS];
    dnnl_memory_desc_t a[VNP_CPU_N_HEIGHTS], out[VNP_CPU_N_HEIGHTS], weight, scratch;
};

/* A thread's handles and buffers. */
struct vnp_cpu_lane {
    dnnl_stream_t stream;
    dnnl_memory_t a, out, weight, scratch; /* of the product last used */
    const struct vnp_cpu_matmul *matmul;
    int idx_height;
    void *tile;            /* [MAX_HEIGHT][n_cols] f32 */
    void *rows;            /* [MAX_HEIGHT][n_in], the last rows of a batch */
    void *library_scratch; /* oneDNN's */
    float *attention;      /* VNP_CPU_ATTENTION_SCRATCH */
    size_t tile_bytes, rows_bytes, library_bytes;
};

/* oneDNN asks its OpenMP runtime for the team size of the calling thread. The runtime comes with
 * oneDNN; a build of it without OpenMP lacks these and there is nothing to set. */
struct vnp_cpu_openmp {
    int (*get)(void);
    void (*set)(int);
};

struct vnp_device {
    struct vnp_device_options opt;
    struct vnp_cpu_openmp openmp;
    struct vnp_cpu_kernels kernels;
    dnnl_engine_t engine;
    struct vnp_pool *pool;
    pthread_mutex_t lock;           /* pool, lanes, matmuls: one op at a time */
    struct vnp_cpu_lane *lanes;     /* [n_threads] */
    struct vnp_cpu_matmul *matmuls; /* list */
};

/* Finds or makes the product; grows the lanes' buffers. Caller holds dev->lock. */
vnp_status vnp_cpu_matmul_get(struct vnp_device *dev, int64_t n_in, int64_t n_cols, bool is_bf16,
                              const struct vnp_cpu_matmul **out) VNP_WARN_UNUSED;
void vnp_cpu_matmul_destroy(struct vnp_cpu_matmul *m);
/* tile[height][n_cols] = a[height][n_in] W^T on the calling thread. */
dnnl_status_t vnp_cpu_matmul_run(const struct vnp_cpu_matmul *m, int idx_height,
                                 struct vnp_cpu_lane *lane, const void *a, const void *weight);
/* Where weight (k, n) of a product stands in its packed memory, in elements. Blocked layouts are
 * separable: offset(k, n) = offset(k, 0) + offset(0, n) - offset(0, 0). */
int64_t vnp_cpu_matmul_offset(const struct vnp_cpu_matmul *m, int64_t k, int64_t n);
vnp_status vnp_cpu_lanes_create(struct vnp_device *dev) VNP_WARN_UNUSED;
void vnp_cpu_lanes_destroy(struct vnp_device *dev);

struct vnp_cpu_openmp vnp_cpu_openmp_find(void);
/* oneDNN's team of the calling thread becomes 1; returns what to restore (0: nothing). */
int vnp_cpu_openmp_single(const struct vnp_cpu_openmp *omp);
void vnp_cpu_openmp_restore(const struct vnp_cpu_openmp *omp, int n_threads);

/* Runs tasks on the device's team with oneDNN single-threaded in each. Takes dev->lock. */
void vnp_cpu_run(struct vnp_device *dev, int64_t n_tasks, vnp_pool_fn *fn, void *ctx);

/* Zeroed memory; large pieces ask for huge pages and are touched first by who writes them. */
void *vnp_cpu_alloc(size_t n_bytes);
void vnp_cpu_free(void *p, size_t n_bytes);

/* ---- weights --------------------------------------------------------------------------------- */

vnp_status vnp_cpu_linear_create(struct vnp_device *dev, const struct vnp_linear_desc *desc,
                                 struct vnp_linear **out);
void vnp_cpu_linear_destroy(struct vnp_device *dev, struct vnp_linear *w);
int64_t vnp_cpu_linear_bytes(const struct vnp_linear *w);
vnp_status vnp_cpu_linear(struct vnp_exec *ex, const struct vnp_linear *w, enum vnp_epilogue epi,
                          const struct vnp_tensor *a, struct vnp_tensor *out);
enum vnp_dtype vnp_cpu_site_dtype(const struct vnp_device *dev, enum vnp_site site);

/* ---- contexts -------------------------------------------------------------------------------- */

#define VNP_CPU_QUERY_BLOCK_MIN 120
struct vnp_cpu_queries { /* a block of queries of one sequence */
    int32_t seq, first, end;
};
struct vnp_cpu_memory {
    struct vnp_cpu_memory *next;
    void *data;
    size_t n_bytes;
};
struct vnp_exec {
    struct vnp_device *dev;
    struct vnp_exec_limits limits;
    const struct vnp_pack *pack;     /* in flight, borrowed */
    struct vnp_cpu_queries *queries; /* [max_tokens / QUERY_BLOCK_MIN + max_seqs] */
    int64_t n_queries;
    float *row_scale;            /* [max_tokens] */
    float *cosines, *sines;      /* [max_tokens][angle_dim / 2], filled as lengths come */
    enum vnp_dtype angle_dtype;  /* of the tables' frequencies */
    int64_t angle_dim, n_angles; /* head size and positions the tables hold */
    struct vnp_cpu_memory *tensors;
};

#endif
