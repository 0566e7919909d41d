/* SPDX-License-Identifier: MIT
 * base: what every room needs and no room owns. Status and the per-thread error record, log,
 * checked size arithmetic, clock, hashing, thread pool. This is the room's one door. */
#ifndef VNP_BASE_H
#define VNP_BASE_H

#include <virnucpro/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VNP_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define VNP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VNP_MAX(a, b) ((a) > (b) ? (a) : (b))
#define VNP_ALIGN_UP(n, a) (((n) + (a)-1) / (a) * (a))

/* ---- errors -------------------------------------------------------------------------------- */

/* What the failing thing belongs to; the program's exit code follows from it. */
enum vnp_origin {
    VNP_FROM_NONE = 0, /* usage, programming */
    VNP_FROM_INPUT,    /* the user's sequences: 65, or 66 when the file is missing */
    VNP_FROM_MODEL,    /* weights, tokenizer, bundle, configuration: 78 */
    VNP_FROM_OUTPUT,   /* 74, or 73 when it exists or belongs to another run */
    VNP_FROM_DEVICE,   /* 69 */
};

/* The last error of a thread. Unknown numbers are -1, unknown strings "". */
struct vnp_error {
    vnp_status status;
    enum vnp_origin origin;
    int os_errno;     /* 0 if none */
    int64_t off_byte; /* in the file as stored (compressed files: in the plain text) */
    int64_t line;     /* from 1 */
    char file[1024];  /* as the user named it */
    char record[256]; /* record id or tensor name */
    char text[1024];  /* what is wrong */
    char hint[512];   /* what to do */
};

/* Starts a new error record of this thread and returns `status`, so that a failing function ends
 * with `return vnp_fail(...)`. The first failure of a chain writes; callers add place and hint. */
vnp_status vnp_fail(vnp_status status, enum vnp_origin origin, const char *fmt, ...)
    VNP_PRINTF(3, 4);
/* As vnp_fail, and appends strerror(os_errno). */
vnp_status vnp_fail_errno(vnp_status status, enum vnp_origin origin, int os_errno, const char *fmt,
                          ...) VNP_PRINTF(4, 5);
/* Adds the place where it is not yet known: file/record may be NULL, line/off_byte -1. */
void vnp_error_at(const char *file, int64_t line, int64_t off_byte, const char *record);
/* Adds what the user can do. */
void vnp_error_hint(const char *fmt, ...) VNP_PRINTF(1, 2);
/* This thread's record; valid until the thread's next failure. */
const struct vnp_error *vnp_error_last(void);
void vnp_error_clear(void);
/* Makes `e` this thread's record: a worker's error handed to the thread that waits for it. */
void vnp_error_set(const struct vnp_error *e);
/* "FILE:LINE (byte B), record 'R': text; hint" into buf (always terminated). */
void vnp_error_format(const struct vnp_error *e, char *buf, size_t n);

#define VNP_TRY(x)                                                                                 \
    do {                                                                                           \
        vnp_status vnp_try_ = (x);                                                                 \
        if (vnp_try_ != VNP_OK) return vnp_try_;                                                   \
    } while (0)

/* Broken invariants: a message and abort in VERIFY builds (all tests), nothing elsewhere. */
#ifdef VNP_VERIFY
void vnp_assert_failed(const char *expr, const char *file, int line) __attribute__((noreturn));
#define VNP_ASSERT(e) ((e) ? (void)0 : vnp_assert_failed(#e, __FILE__, __LINE__))
#else
#define VNP_ASSERT(e) ((void)sizeof(!(e)))
#endif

/* ---- log ----------------------------------------------------------------------------------- */

enum vnp_log_level { VNP_LOG_ERROR, VNP_LOG_WARN, VNP_LOG_INFO, VNP_LOG_DEBUG, VNP_LOG_TRACE };
typedef void vnp_log_fn(void *ctx, enum vnp_log_level level, const char *room, const char *text);
/* Process-wide, set once before threads start; NULL silences. The callback may be called from any
 * thread, one call at a time. */
void vnp_log_set(vnp_log_fn *fn, void *ctx, enum vnp_log_level max_level);
bool vnp_log_is_on(enum vnp_log_level level);
void vnp_log(enum vnp_log_level level, const char *room, const char *fmt, ...) VNP_PRINTF(3, 4);

/* ---- sizes, clock, hash -------------------------------------------------------------------- */

/* true and *out = a*b / a+b when it fits in size_t, else false. */
static inline bool vnp_size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool vnp_size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
/* false when a JSON text has more values than any file that is read (2^21): parsing it would cost
 * gigabytes. It need not be valid. */
bool vnp_json_is_modest(const char *text, size_t n);
/* Seconds of a monotonic clock. */
double vnp_now_s(void);

struct vnp_hash128 {
    uint64_t lo, hi;
};
/* XXH3-128. Content identity inside a run and of models; not a defence against forgery. */
struct vnp_hash128 vnp_hash(const void *data, size_t n_bytes);
struct vnp_hash128 vnp_hash_seeded(const void *data, size_t n_bytes, uint64_t seed);
/* 32 hexadecimal digits and a NUL. */
void vnp_hash_hex(struct vnp_hash128 h, char out[33]);

/* Zeroed memory aligned to 64 bytes, or NULL; freed with vnp_free_aligned (NULL is legal). */
void *vnp_alloc_aligned(size_t n_bytes);
void vnp_free_aligned(void *p);

/* ---- thread pool --------------------------------------------------------------------------- */

/* A fixed team of n_threads (the caller counts as one). One vnp_pool_run at a time. */
struct vnp_pool;
/* n_threads < 1: one per CPU this process may run on. */
vnp_status vnp_pool_create(int n_threads, struct vnp_pool **out) VNP_WARN_UNUSED;
void vnp_pool_destroy(struct vnp_pool *pool);
int vnp_pool_n_threads(const struct vnp_pool *pool);
/* Calls fn(ctx, task, thread) for task 0..n_tasks-1, each once, in any order, on threads
 * 0..n_threads-1; returns when all are done. Tasks must not fail: they record in ctx. pool NULL
 * runs them all on the calling thread. */
typedef void vnp_pool_fn(void *ctx, int64_t task, int thread);
void vnp_pool_run(struct vnp_pool *pool, int64_t n_tasks, vnp_pool_fn *fn, void *ctx);
/* CPUs this process may run on (affinity and cgroup quota), at least 1. */
int vnp_cpu_count(void);

#endif
