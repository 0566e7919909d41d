// SPDX-License-Identifier: MIT
// Preloaded into the program by faults.py: counts the system calls that change files below a folder
// and makes the n-th fail, SQLite's own and those of every library included. Owns no policy: what a
// fault must lead to is faults.py's business.
//
//   VNP_FAULT_UNDER   the folder, absolute
//   VNP_FAULT_AT      the call, from 1; 0: none
//   VNP_FAULT_KIND    ENOSPC or EIO: this call alone; full: this and every later one but unlink, a
//                     write first being shortened; half: one short write, and all is well
//   VNP_FAULT_REPORT  every call counted, "number call path", behind a ! where it failed, behind a
//   ~
//                     where it was shortened
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define SHIM __attribute__((visibility("default")))

static atomic_int n_calls;

/* Of a descriptor; "" when it is no file. */
static void path_of_fd(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = 0;
}

static void report(int number, const char *mark, const char *call, const char *path) {
    const char *name = getenv("VNP_FAULT_REPORT");
    char line[PATH_MAX + 64];
    int n = snprintf(line, sizeof line, "%s%d %s %s\n", mark, number, call, path);
    long fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (fd < 0) return;
    (void)!syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

static bool is_under(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* The errno to fail with, 0: none, -1: a short write. */
static int fault_of(const char *kind, bool is_first, const char *call) {
    bool is_write = strcmp(call, "write") == 0, is_full = strcmp(kind, "full") == 0;
    if (is_full && strcmp(call, "unlink") == 0) return 0;
    if (is_first && is_write && (is_full || strcmp(kind, "half") == 0)) return -1;
    if (is_full) return ENOSPC;
    if (!is_first || strcmp(kind, "half") == 0) return 0;
    return strcmp(kind, "EIO") == 0 ? EIO : ENOSPC;
}

/* 0, or the errno to fail with; may lower *n of a write. */
static int before(const char *call, const char *path, size_t *n) {
    const char *folder = getenv("VNP_FAULT_UNDER"), *at = getenv("VNP_FAULT_AT");
    const char *kind = getenv("VNP_FAULT_KIND");
    if (!folder || !kind || !is_under(path, folder)) return 0;
    int number = atomic_fetch_add(&n_calls, 1) + 1, want = at ? atoi(at) : 0;
    int e = want > 0 && number >= want ? fault_of(kind, number == want, call) : 0;
    if (e < 0 && *n > 1) *n /= 2;
    report(number, e > 0 ? "!" : e < 0 ? "~" : "", call, path);
    return e > 0 ? e : 0;
}

/* The call behind ours, looked up once a name. */
#define REAL(name, result, ...)                                                                    \
    static result (*real)(__VA_ARGS__);                                                            \
    if (!real) {                                                                                   \
        void *symbol = dlsym(RTLD_NEXT, name);                                                     \
        memcpy(&real, &symbol, sizeof real);                                                       \
    }

#define FAIL(error)                                                                                \
    do {                                                                                           \
        errno = (error);                                                                           \
        return -1;                                                                                 \
    } while (0)

static int before_fd(const char *call, int fd, size_t *n) {
    char path[PATH_MAX];
    int saved = errno;
    path_of_fd(fd, path);
    int e = before(call, path, n);
    errno = saved;
    return e;
}

#define DEFINE_WRITE(name)                                                                         \
    SHIM ssize_t name(int fd, const void *data, size_t n);                                         \
    ssize_t name(int fd, const void *data, size_t n) {                                             \
        REAL(#name, ssize_t, int, const void *, size_t)                                            \
        int e = before_fd("write", fd, &n);                                                        \
        if (e) FAIL(e);                                                                            \
        return real(fd, data, n);                                                                  \
    }
#define DEFINE_PWRITE(name, offset)                                                                \
    SHIM ssize_t name(int fd, const void *data, size_t n, offset off);                             \
    ssize_t name(int fd, const void *data, size_t n, offset off) {                                 \
        REAL(#name, ssize_t, int, const void *, size_t, offset)                                    \
        int e = before_fd("write", fd, &n);                                                        \
        if (e) FAIL(e);                                                                            \
        return real(fd, data, n, off);                                                             \
    }
#define DEFINE_SYNC(name)                                                                          \
    SHIM int name(int fd);                                                                         \
    int name(int fd) {                                                                             \
        REAL(#name, int, int)                                                                      \
        int e = before_fd("fsync", fd, NULL);                                                      \
        if (e) FAIL(e);                                                                            \
        return real(fd);                                                                           \
    }
#define DEFINE_TRUNCATE(name, offset)                                                              \
    SHIM int name(int fd, offset size);                                                            \
    int name(int fd, offset size) {                                                                \
        REAL(#name, int, int, offset)                                                              \
        int e = before_fd("ftruncate", fd, NULL);                                                  \
        if (e) FAIL(e);                                                                            \
        return real(fd, size);                                                                     \
    }
#define DEFINE_OPEN(name)                                                                          \
    SHIM int name(const char *path, int flags, ...);                                               \
    int name(const char *path, int flags, ...) {                                                   \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;                                  \
        va_end(args);                                                                              \
        REAL(#name, int, const char *, int, ...)                                                   \
        int e = flags & O_CREAT ? before("open", path, NULL) : 0;                                  \
        if (e) FAIL(e);                                                                            \
        return real(path, flags, mode);                                                            \
    }

DEFINE_WRITE(write)
DEFINE_PWRITE(pwrite, off_t)
DEFINE_PWRITE(pwrite64, off64_t)
DEFINE_SYNC(fsync)
DEFINE_SYNC(fdatasync)
DEFINE_TRUNCATE(ftruncate, off_t)
DEFINE_TRUNCATE(ftruncate64, off64_t)
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

SHIM int rename(const char *from, const char *to);
int rename(const char *from, const char *to) {
    REAL("rename", int, const char *, const char *)
    int e = before("rename", to, NULL);
    if (e) FAIL(e);
    return real(from, to);
}

SHIM int unlink(const char *path);
int unlink(const char *path) {
    REAL("unlink", int, const char *)
    int e = before("unlink", path, NULL);
    if (e) FAIL(e);
    return real(path);
}

SHIM int mkdir(const char *path, mode_t mode);
int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", int, const char *, mode_t)
    int e = before("mkdir", path, NULL);
    if (e) FAIL(e);
    return real(path, mode);
}
