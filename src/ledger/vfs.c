// SPDX-License-Identifier: MIT
// A shim over SQLite's default file system, so that tests can fail the database's n-th write, sync,
// truncation or deletion like any other of the program (vnp_sysio_before). Methods of version 1
// only: no memory maps, no shared memory, hence no WAL.
#include "ledger/store.h"
#include "out/out.h"

#include <errno.h>
#include <string.h>

struct shim {
    sqlite3_file base;
    const char *path; /* SQLite's, lives as long as the file; NULL for temporaries */
    sqlite3_file *real;
};

static sqlite3_file *real_of(sqlite3_file *f) {
    return ((struct shim *)f)->real;
}

static const char *path_of(sqlite3_file *f) {
    const char *path = ((struct shim *)f)->path;
    return path ? path : "(temporary)";
}

static int shim_close(sqlite3_file *f) {
    return real_of(f)->pMethods->xClose(real_of(f));
}
static int shim_read(sqlite3_file *f, void *buf, int n, sqlite3_int64 off) {
    return real_of(f)->pMethods->xRead(real_of(f), buf, n, off);
}
static int shim_write(sqlite3_file *f, const void *buf, int n, sqlite3_int64 off) {
    size_t k = (size_t)n;
    int err = vnp_sysio_before("write", path_of(f), &k);
    if (err) return err == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    int rc = real_of(f)->pMethods->xWrite(real_of(f), buf, (int)k, off);
    return rc == SQLITE_OK && k < (size_t)n ? SQLITE_FULL : rc;
}
static int shim_truncate(sqlite3_file *f, sqlite3_int64 size) {
    if (vnp_sysio_before("ftruncate", path_of(f), NULL)) return SQLITE_IOERR_TRUNCATE;
    return real_of(f)->pMethods->xTruncate(real_of(f), size);
}
static int shim_sync(sqlite3_file *f, int flags) {
    if (vnp_sysio_before("fsync", path_of(f), NULL)) return SQLITE_IOERR_FSYNC;
    return real_of(f)->pMethods->xSync(real_of(f), flags);
}
static int shim_size(sqlite3_file *f, sqlite3_int64 *size) {
    return real_of(f)->pMethods->xFileSize(real_of(f), size);
}
static int shim_lock(sqlite3_file *f, int level) {
    return real_of(f)->pMethods->xLock(real_of(f), level);
}
static int shim_unlock(sqlite3_file *f, int level) {
    return real_of(f)->pMethods->xUnlock(real_of(f), level);
}
static int shim_is_reserved(sqlite3_file *f, int *out) {
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), out);
}
static int shim_control(sqlite3_file *f, int op, void *arg) {
    return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}
static int shim_sector(sqlite3_file *f) {
    return real_of(f)->pMethods->xSectorSize(real_of(f));
}
static int shim_character(sqlite3_file *f) {
    return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 1,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_is_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector,
    .xDeviceCharacteristics = shim_character,
};

static sqlite3_vfs *default_of(sqlite3_vfs *vfs) {
    return vfs->pAppData;
}

static int shim_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *f, int flags, int *out) {
    struct shim *s = (struct shim *)f;
    s->base.pMethods = NULL;
    s->path = path;
    s->real = (sqlite3_file *)(void *)(s + 1);
    int rc = default_of(vfs)->xOpen(default_of(vfs), path, s->real, flags, out);
    if (rc == SQLITE_OK) s->base.pMethods = &shim_methods;
    return rc;
}

static int shim_delete(sqlite3_vfs *vfs, const char *path, int is_synced) {
    if (vnp_sysio_before("unlink", path, NULL)) return SQLITE_IOERR_DELETE;
    return default_of(vfs)->xDelete(default_of(vfs), path, is_synced);
}

/* Everything else is the default's: its functions take their own sqlite3_vfs, which the copy's
 * pAppData would mislead, so those that are called get it explicitly. */
static int shim_access(sqlite3_vfs *vfs, const char *path, int flags, int *out) {
    return default_of(vfs)->xAccess(default_of(vfs), path, flags, out);
}
static int shim_full(sqlite3_vfs *vfs, const char *path, int n, char *out) {
    return default_of(vfs)->xFullPathname(default_of(vfs), path, n, out);
}
static int shim_random(sqlite3_vfs *vfs, int n, char *out) {
    return default_of(vfs)->xRandomness(default_of(vfs), n, out);
}
static int shim_sleep(sqlite3_vfs *vfs, int us) {
    return default_of(vfs)->xSleep(default_of(vfs), us);
}
static int shim_time(sqlite3_vfs *vfs, double *out) {
    return default_of(vfs)->xCurrentTime(default_of(vfs), out);
}
static int shim_error(sqlite3_vfs *vfs, int n, char *out) {
    return default_of(vfs)->xGetLastError(default_of(vfs), n, out);
}

static sqlite3_vfs shim_vfs; /* written once, under shim_once */
static pthread_once_t shim_once = PTHREAD_ONCE_INIT;

static void shim_register(void) {
    sqlite3_vfs *base = sqlite3_vfs_find(NULL);
    if (!base) return;
    shim_vfs = (sqlite3_vfs){
        .iVersion = 1,
        .szOsFile = (int)sizeof(struct shim) + base->szOsFile,
        .mxPathname = base->mxPathname,
        .zName = "virnucpro",
        .pAppData = base,
        .xOpen = shim_open,
        .xDelete = shim_delete,
        .xAccess = shim_access,
        .xFullPathname = shim_full,
        .xRandomness = shim_random,
        .xSleep = shim_sleep,
        .xCurrentTime = shim_time,
        .xGetLastError = shim_error,
    };
    sqlite3_vfs_register(&shim_vfs, 0);
}

const char *vnp_store_vfs_name(void) {
    pthread_once(&shim_once, shim_register);
    return shim_vfs.zName; /* NULL, the default, where there was nothing to wrap */
}
