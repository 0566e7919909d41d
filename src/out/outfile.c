// SPDX-License-Identifier: MIT
// One file, all or nothing. Bytes gather in a buffer, go to a temporary beside the target, and the
// target's name appears by rename after fsync; the folder is synced last. Every call's result is
// checked, a failure is remembered so that a later commit cannot succeed, and every call passes
// the fault hook first.
#include "out/outfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 20 };

struct vnp_outfile {
    struct out_target target;
    int fd;
    size_t n_buffered;
    int64_t off_byte;  /* of the buffer's start */
    vnp_status status; /* first failure */
    struct vnp_error error;
    char *buffer; /* [BUFFER_BYTES] */
};

/* Set before threads start, read by all. */
static struct vnp_sysio sysio;

void vnp_sysio_set(const struct vnp_sysio *io) {
    static const struct vnp_sysio none;
    sysio = io ? *io : none;
}

int vnp_sysio_before(const char *call, const char *path, size_t *n) {
    size_t whole = n ? *n : 0, left = whole;
    int e = sysio.before ? sysio.before(sysio.ctx, call, path, &left) : 0;
    if (n) *n = VNP_MIN(left, whole);
    return e;
}

vnp_status vnp_out_fail(const char *shown, const char *call, int os_errno) {
    vnp_status s = vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, os_errno, "%s failed", call);
    vnp_error_at(shown, -1, -1, NULL);
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        vnp_error_hint("free space there or choose another place with -o");
        break;
    case EFBIG:
        vnp_error_hint("the file size limit is reached: see ulimit -f");
        break;
    case EIO:
        vnp_error_hint("the disk or network reports a fault; choose another place");
        break;
    case EACCES:
    case EPERM:
    case EROFS:
        vnp_error_hint("this place cannot be written; choose another with -o");
        break;
    case ENOENT:
    case ENOTDIR:
        vnp_error_hint("the folder does not exist; create it first");
        break;
    case EMFILE:
    case ENFILE:
        vnp_error_hint("too many open files: see ulimit -n");
        break;
    default:
        vnp_error_hint("nothing was left under the final name");
        break;
    }
    return s;
}

/* ---- target -------------------------------------------------------------------------------- */

static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    if (slash == path) return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

static vnp_status check_kind(struct out_target *t, const char *path) {
    struct stat st;
    if (!path[0]) {
        vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_OUTPUT, "the output's name is empty");
        vnp_error_hint("name a file");
        return s;
    }
    if (stat(path, &st) != 0) {
        if (errno != ENOENT) return vnp_out_fail(path, "stat", errno);
        t->path = strdup(path);
        return VNP_OK;
    }
    if (!S_ISREG(st.st_mode)) {
        vnp_status s = vnp_fail(VNP_IO, VNP_FROM_OUTPUT, "is %s, not a regular file",
                                S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("name a file that can be replaced");
        return s;
    }
    t->path = realpath(path, NULL);
    return t->path ? VNP_OK : vnp_out_fail(path, "realpath", errno);
}

vnp_status vnp_out_target_init(struct out_target *t, const char *path) {
    memset(t, 0, sizeof *t);
    vnp_status s = check_kind(t, path);
    if (s != VNP_OK) goto fail;
    t->shown = strdup(path);
    if (t->path) t->folder = folder_of(t->path);
    if (!t->shown || !t->path || !t->folder ||
        asprintf(&t->temp, "%s.tmp.%ld", t->path, (long)getpid()) < 0) {
        t->temp = NULL;
        s = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
        goto fail;
    }
    return VNP_OK;
fail:
    vnp_out_target_fini(t);
    return s;
}

/* "NAME.tmp.<digits>" */
static bool is_temp_of(const char *name, const char *base) {
    size_t n = strlen(base);
    if (strncmp(name, base, n) != 0 || strncmp(name + n, ".tmp.", 5) != 0) return false;
    const char *digits = name + n + 5;
    return digits[0] && digits[strspn(digits, "0123456789")] == 0;
}

void vnp_out_remove_temps(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *folder = folder_of(path);
    DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char *temp = NULL;
        if (!is_temp_of(e->d_name, base) || asprintf(&temp, "%s/%s", folder, e->d_name) < 0)
            continue;
        if (vnp_sysio_before("unlink", temp, NULL) == 0) (void)unlink(temp);
        free(temp);
    }
    if (dir) closedir(dir);
    free(folder);
}

void vnp_out_target_fini(struct out_target *t) {
    free(t->shown);
    free(t->path);
    free(t->temp);
    free(t->folder);
    memset(t, 0, sizeof *t);
}

void vnp_out_target_remove_temp(const struct out_target *t) {
    (void)vnp_sysio_before("unlink", t->temp, NULL); /* a clean-up is never made to fail */
    (void)unlink(t->temp);
}

int vnp_out_open(const char *path, int flags, int *fd) {
    int e = vnp_sysio_before("open", path, NULL);
    if (e) return e;
    do *fd = open(path, flags | O_CLOEXEC, 0666);
    while (*fd < 0 && errno == EINTR);
    return *fd < 0 ? errno : 0;
}

int vnp_out_open_temp(const struct out_target *t, int flags, int *fd) {
    int e = vnp_out_open(t->temp, flags | O_CREAT | O_EXCL, fd);
    if (e == EEXIST && unlink(t->temp) == 0) /* of a dead process with our number */
        e = vnp_out_open(t->temp, flags | O_CREAT | O_EXCL, fd);
    return e;
}

int vnp_out_fsync(int fd, const char *path) {
    int e = vnp_sysio_before("fsync", path, NULL);
    if (e) return e;
    while (fsync(fd) != 0)
        if (errno != EINTR) return errno;
    return 0;
}

int vnp_out_close(int fd, const char *path) {
    int e = vnp_sysio_before("close", path, NULL);
    /* EINTR of close means closed on Linux; only real write-back errors count */
    if (close(fd) != 0 && errno != EINTR && !e) e = errno;
    return e;
}

int vnp_out_write(int fd, const char *path, const void *data, size_t n, int64_t off) {
    const char *p = data;
    while (n > 0) {
        size_t part = VNP_MIN(n, (size_t)1 << 30);
        int e = vnp_sysio_before("write", path, &part);
        if (e) return e;
        ssize_t done = pwrite(fd, p, part, (off_t)off);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return errno;
        if (done == 0) return ENOSPC; /* no progress and no reason: treat as full */
        p += done;
        n -= (size_t)done;
        off += done;
    }
    return 0;
}

static int sync_folder(const char *folder) {
    int fd = -1, e = vnp_out_open(folder, O_RDONLY | O_DIRECTORY, &fd);
    if (e) return e;
    e = vnp_out_fsync(fd, folder);
    if (e == EINVAL || e == ENOTSUP) e = 0; /* file systems that cannot sync a folder */
    int closed = vnp_out_close(fd, folder);
    return e ? e : closed;
}

vnp_status vnp_out_target_publish(const struct out_target *t) {
    int e = vnp_sysio_before("rename", t->path, NULL);
    if (!e && rename(t->temp, t->path) != 0) e = errno;
    if (e) {
        vnp_out_target_remove_temp(t);
        return vnp_out_fail(t->shown, "rename", e);
    }
    e = sync_folder(t->folder);
    if (!e) return VNP_OK;
    (void)unlink(t->path); /* its name might not survive a crash: do not let it look finished */
    return vnp_out_fail(t->shown, "fsync of the folder", e);
}

/* ---- file ---------------------------------------------------------------------------------- */

/* Remembers the first failure; the thread's record is the one just made. */
static vnp_status keep_failure(struct vnp_outfile *f, vnp_status s) {
    f->status = s;
    f->error = *vnp_error_last();
    return s;
}

static vnp_status repeat_failure(const struct vnp_outfile *f) {
    vnp_error_set(&f->error);
    return f->status;
}

vnp_status vnp_outfile_open(const char *path, struct vnp_outfile **out) {
    *out = NULL;
    struct vnp_outfile *f = calloc(1, sizeof *f);
    if (!f) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
    f->fd = -1;
    vnp_status s = vnp_out_target_init(&f->target, path);
    if (s != VNP_OK) goto fail;
    f->buffer = malloc(BUFFER_BYTES);
    if (!f->buffer) {
        s = vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output buffer");
        goto fail;
    }
    int e = vnp_out_open_temp(&f->target, O_WRONLY, &f->fd);
    if (e) {
        s = vnp_out_fail(path, "open", e);
        goto fail;
    }
    *out = f;
    return VNP_OK;
fail:
    vnp_out_target_fini(&f->target);
    free(f->buffer);
    free(f);
    return s;
}

static vnp_status write_all(struct vnp_outfile *f, const char *data, size_t n, int64_t off) {
    int e = vnp_out_write(f->fd, f->target.path, data, n, off);
    return e ? keep_failure(f, vnp_out_fail(f->target.shown, "write", e)) : VNP_OK;
}

static vnp_status flush(struct vnp_outfile *f) {
    if (f->n_buffered == 0) return VNP_OK;
    VNP_TRY(write_all(f, f->buffer, f->n_buffered, f->off_byte));
    f->off_byte += (int64_t)f->n_buffered;
    f->n_buffered = 0;
    return VNP_OK;
}

vnp_status vnp_outfile_write(struct vnp_outfile *f, const void *data, size_t n) {
    if (f->status != VNP_OK) return repeat_failure(f);
    if (n > BUFFER_BYTES - f->n_buffered) VNP_TRY(flush(f));
    if (n >= BUFFER_BYTES) {
        VNP_TRY(write_all(f, data, n, f->off_byte));
        f->off_byte += (int64_t)n;
        return VNP_OK;
    }
    if (n) memcpy(f->buffer + f->n_buffered, data, n);
    f->n_buffered += n;
    return VNP_OK;
}

vnp_status vnp_outfile_printf(struct vnp_outfile *f, const char *fmt, ...) {
    char small[1024], *text = small;
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    vnp_status s = VNP_OK;
    if (n < 0) {
        s = keep_failure(f, vnp_fail(VNP_BUG, VNP_FROM_NONE, "a format of the program is bad"));
    } else if ((size_t)n >= sizeof small) {
        text = malloc((size_t)n + 1);
        if (!text)
            s = keep_failure(f, vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a line"));
        else
            (void)vsnprintf(text, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    if (s == VNP_OK) s = vnp_outfile_write(f, text, (size_t)n);
    if (text != small) free(text);
    return s;
}

vnp_status vnp_outfile_write_at(struct vnp_outfile *f, int64_t off_byte, const void *data,
                                size_t n) {
    if (f->status != VNP_OK) return repeat_failure(f);
    if (off_byte < 0 || off_byte > vnp_outfile_tell(f) - (int64_t)n)
        return keep_failure(f, vnp_fail(VNP_BUG, VNP_FROM_NONE, "write_at beyond the end"));
    VNP_TRY(flush(f));
    return write_all(f, data, n, off_byte);
}

int64_t vnp_outfile_tell(const struct vnp_outfile *f) {
    return f->off_byte + (int64_t)f->n_buffered;
}

static void release(struct vnp_outfile *f) {
    vnp_out_target_fini(&f->target);
    free(f->buffer);
    free(f);
}

void vnp_outfile_abort(struct vnp_outfile *f) {
    if (!f) return;
    (void)close(f->fd);
    vnp_out_target_remove_temp(&f->target);
    release(f);
}

vnp_status vnp_outfile_commit(struct vnp_outfile *f) {
    if (f->status != VNP_OK) {
        vnp_status s = repeat_failure(f);
        vnp_outfile_abort(f);
        return s;
    }
    vnp_status s = flush(f);
    if (s != VNP_OK) {
        vnp_outfile_abort(f);
        return s;
    }
    int e = vnp_out_fsync(f->fd, f->target.path);
    const char *call = "fsync";
    if (e) {
        (void)close(f->fd);
    } else {
        e = vnp_out_close(f->fd, f->target.path);
        call = "close";
    }
    if (e) {
        vnp_out_target_remove_temp(&f->target);
        s = vnp_out_fail(f->target.shown, call, e);
    } else {
        s = vnp_out_target_publish(&f->target);
    }
    release(f);
    return s;
}
