// SPDX-License-Identifier: MIT
// Embeddings as HDF5: dataset "embeddings" [rows][cols] FP32, chunked and extendable, and, when
// ids are given, dataset "ids" [rows] of UTF-8 strings of variable length. A file driver of ours
// carries libhdf5's bytes to the temporary. libhdf5 cannot close a file whose writes fail (1.10.8
// keeps it open and crashes in its exit handler), so the driver notes the first error, takes the
// rest in silence, and the note fails the append or the commit. libhdf5 is not safe for threads:
// one writer at a time.
#include "out/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__has_include)
#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>
#endif
#endif

enum { CHUNK_BYTES = 1 << 20 };

struct out_h5 {
    struct out_target target;
    int fd, os_errno; /* first error of the driver */
    hid_t driver, file, rows, ids, text;
    hsize_t n_cols, n_rows, n_ids;
    /* Rows are handed to libhdf5 in batches of one chunk, however they arrive: the same rows are
     * the same bytes. */
    hsize_t n_batch, n_held;
    float *held;       /* [n_batch][n_cols] */
    char **held_ids;   /* [n_batch], NULL where none */
    vnp_status status; /* first failure */
    struct vnp_error error;
};

/* libhdf5 prints its errors unless told not to; the caller's setting is restored after each use. */
struct quiet {
    H5E_auto2_t fn;
    void *data;
};
static struct quiet quiet_begin(void) {
    struct quiet q = {NULL, NULL};
    (void)H5Eget_auto2(H5E_DEFAULT, &q.fn, &q.data);
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return q;
}
static void quiet_end(struct quiet q) {
    (void)H5Eset_auto2(H5E_DEFAULT, q.fn, q.data);
}

/* ---- file driver --------------------------------------------------------------------------- */

struct driver_file {
    H5FD_t head; /* libhdf5's, first */
    struct out_h5 *w;
    haddr_t eoa, eof;
};
struct driver_info {
    struct out_h5 *w;
};

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t max_addr) {
    (void)name, (void)flags, (void)max_addr;
    const struct driver_info *info = H5Pget_driver_info(fapl);
    struct driver_file *f = info ? calloc(1, sizeof *f) : NULL;
    if (!f) return NULL;
    f->w = info->w;
    return &f->head;
}

static herr_t driver_close(H5FD_t *file) {
    free(file);
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const struct driver_file *)file)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr) {
    (void)type;
    ((struct driver_file *)file)->eoa = addr;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const struct driver_file *)file)->eof;
}

/* What lies behind the end reads as zeros. */
static herr_t driver_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t n,
                          void *data) {
    struct out_h5 *w = ((struct driver_file *)file)->w;
    char *p = data;
    (void)type, (void)dxpl;
    while (n > 0) {
        ssize_t got = pread(w->fd, p, n, (off_t)addr);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && !w->os_errno) w->os_errno = errno;
        if (got <= 0) break;
        p += got, n -= (size_t)got, addr += (haddr_t)got;
    }
    memset(p, 0, n);
    return 0;
}

static herr_t driver_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t n,
                           const void *data) {
    struct driver_file *f = (struct driver_file *)file;
    (void)type, (void)dxpl;
    if (!f->w->os_errno)
        f->w->os_errno = vnp_out_write(f->w->fd, f->w->target.path, data, n, (int64_t)addr);
    f->eof = VNP_MAX(f->eof, addr + n);
    return 0;
}

static herr_t driver_truncate(H5FD_t *file, hid_t dxpl, hbool_t is_closing) {
    struct driver_file *f = (struct driver_file *)file;
    struct out_h5 *w = f->w;
    (void)dxpl, (void)is_closing;
    if (f->eof == f->eoa) return 0;
    if (!w->os_errno) w->os_errno = vnp_sysio_before("ftruncate", w->target.path, NULL);
    if (!w->os_errno && ftruncate(w->fd, (off_t)f->eoa) != 0) w->os_errno = errno;
    f->eof = f->eoa;
    return 0;
}

static const H5FD_class_t driver_class = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600,
#endif
    .name = "virnucpro",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct driver_info),
    .open = driver_open,
    .close = driver_close,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

static hid_t create_file(struct out_h5 *w) {
    struct driver_info info = {w};
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), file = -1;
    w->driver = H5FDregister(&driver_class);
    if (fapl >= 0 && w->driver >= 0 && H5Pset_driver(fapl, w->driver, &info) >= 0)
        file = H5Fcreate(w->target.temp, H5F_ACC_TRUNC, H5P_DEFAULT, fapl);
    if (fapl >= 0) H5Pclose(fapl);
    return file;
}

/* ---- writer -------------------------------------------------------------------------------- */

static vnp_status fail_h5(struct out_h5 *w, const char *call, int os_errno) {
    if (!os_errno) os_errno = w->os_errno;
    if (os_errno) {
        w->status = vnp_out_fail(w->target.shown, call, os_errno);
    } else {
        w->status = vnp_fail(VNP_BUG, VNP_FROM_OUTPUT, "%s failed inside libhdf5", call);
        vnp_error_at(w->target.shown, -1, -1, NULL);
        vnp_error_hint("write .npy or .safetensors instead");
    }
    w->error = *vnp_error_last();
    return w->status;
}

static hid_t make_dataset(hid_t file, const char *name, hid_t type, int n_dims, hsize_t n_cols,
                          hsize_t n_chunk) {
    hsize_t now[2] = {0, n_cols}, most[2] = {H5S_UNLIMITED, n_cols}, chunk[2] = {n_chunk, n_cols};
    hid_t space = H5Screate_simple(n_dims, now, most), props = H5Pcreate(H5P_DATASET_CREATE);
    hid_t set = -1;
    /* no times inside: the same rows are the same bytes whenever they are written */
    if (space >= 0 && props >= 0 && H5Pset_chunk(props, n_dims, chunk) >= 0 &&
        H5Pset_obj_track_times(props, 0) >= 0)
        set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, props, H5P_DEFAULT);
    if (space >= 0) H5Sclose(space);
    if (props >= 0) H5Pclose(props);
    return set;
}

static hid_t make_string_type(void) {
    hid_t text = H5Tcopy(H5T_C_S1);
    if (text >= 0 && H5Tset_size(text, H5T_VARIABLE) >= 0 && H5Tset_cset(text, H5T_CSET_UTF8) >= 0)
        return text;
    if (text >= 0) H5Tclose(text);
    return -1;
}

/* Closes what libhdf5 has open; the descriptor stays. < 0 when it complains. */
static int close_all(struct out_h5 *w) {
    int bad = 0;
    if (w->rows >= 0) bad |= H5Dclose(w->rows) < 0;
    if (w->ids >= 0) bad |= H5Dclose(w->ids) < 0;
    if (w->text >= 0) bad |= H5Tclose(w->text) < 0;
    if (w->file >= 0) bad |= H5Fclose(w->file) < 0;
    if (w->driver >= 0) bad |= H5FDunregister(w->driver) < 0;
    w->rows = w->ids = w->text = w->file = w->driver = -1;
    return -bad;
}

static void free_writer(struct out_h5 *w) {
    for (hsize_t i = 0; w->held_ids && i < w->n_batch; i++) free(w->held_ids[i]);
    free(w->held_ids);
    free(w->held);
    free(w);
}

void vnp_out_h5_abort(struct out_h5 *w) {
    if (!w) return;
    struct quiet q = quiet_begin();
    if (!w->os_errno) w->os_errno = ECANCELED; /* no need to write the rest */
    (void)close_all(w);
    quiet_end(q);
    if (w->fd >= 0) (void)close(w->fd);
    vnp_out_target_remove_temp(&w->target);
    vnp_out_target_fini(&w->target);
    free_writer(w);
}

vnp_status vnp_out_h5_open(const char *path, int64_t n_cols, struct out_h5 **out) {
    *out = NULL;
    struct out_h5 *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
    w->fd = -1;
    w->driver = w->file = w->rows = w->ids = w->text = -1;
    w->n_cols = (hsize_t)n_cols;
    w->n_batch = VNP_MAX(CHUNK_BYTES / (w->n_cols * sizeof(float)), 1);
    w->held = malloc((size_t)(w->n_batch * w->n_cols) * sizeof *w->held);
    w->held_ids = calloc((size_t)w->n_batch, sizeof(char *));
    vnp_status s = w->held && w->held_ids
                       ? vnp_out_target_init(&w->target, path)
                       : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
    if (s != VNP_OK) {
        free_writer(w);
        return s;
    }
    struct quiet q = quiet_begin();
    int e = vnp_out_open_temp(&w->target, O_RDWR, &w->fd);
    if (!e) w->file = create_file(w);
    if (w->file >= 0) {
        w->rows = make_dataset(w->file, "embeddings", H5T_IEEE_F32LE, 2, w->n_cols, w->n_batch);
        w->text = make_string_type();
    }
    if (e || w->os_errno || w->rows < 0 || w->text < 0) s = fail_h5(w, "open", e);
    quiet_end(q);
    if (s != VNP_OK) {
        vnp_out_h5_abort(w);
        return s;
    }
    *out = w;
    return VNP_OK;
}

/* Appends n elements or rows behind the first n_old of a dataset. */
static int append_to(hid_t set, hid_t type, int n_dims, hsize_t n_cols, hsize_t n_old, hsize_t n,
                     const void *data) {
    hsize_t size[2] = {n_old + n, n_cols}, start[2] = {n_old, 0}, count[2] = {n, n_cols};
    int ok = H5Dset_extent(set, size) >= 0;
    hid_t in_file = ok ? H5Dget_space(set) : -1, in_memory = H5Screate_simple(n_dims, count, NULL);
    ok = ok && in_file >= 0 && in_memory >= 0 &&
         H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
         H5Dwrite(set, type, in_memory, in_file, H5P_DEFAULT, data) >= 0;
    if (in_file >= 0) H5Sclose(in_file);
    if (in_memory >= 0) H5Sclose(in_memory);
    return ok ? 0 : -1;
}

static int append_ids(struct out_h5 *w, char *const *ids, hsize_t n) {
    if (w->ids < 0) w->ids = make_dataset(w->file, "ids", w->text, 1, 1, 4096);
    if (w->ids < 0) return -1;
    if (append_to(w->ids, w->text, 1, 1, w->n_ids, n, ids) < 0) return -1;
    w->n_ids += n;
    return 0;
}

static vnp_status write_held(struct out_h5 *w) {
    hsize_t n = w->n_held;
    vnp_status s = VNP_OK;
    if (n == 0) return VNP_OK;
    struct quiet q = quiet_begin();
    if (append_to(w->rows, H5T_NATIVE_FLOAT, 2, w->n_cols, w->n_rows, n, w->held) ||
        (w->held_ids[0] && append_ids(w, w->held_ids, n)) || w->os_errno)
        s = fail_h5(w, "write", 0);
    quiet_end(q);
    w->n_rows += n;
    w->n_held = 0;
    for (hsize_t i = 0; i < n; i++) {
        free(w->held_ids[i]);
        w->held_ids[i] = NULL;
    }
    return s;
}

vnp_status vnp_out_h5_append(struct out_h5 *w, const char *const *ids, const float *rows,
                             int64_t n_rows) {
    if (w->status != VNP_OK) {
        vnp_error_set(&w->error);
        return w->status;
    }
    bool had_ids = w->n_ids > 0 || w->held_ids[0];
    if (n_rows > 0 && w->n_rows + w->n_held > 0 && (ids != NULL) != had_ids)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "ids for all rows or for none");
    for (int64_t i = 0; i < n_rows; i++) {
        memcpy(w->held + w->n_held * w->n_cols, rows + i * (int64_t)w->n_cols,
               (size_t)w->n_cols * sizeof *rows);
        if (ids && !(w->held_ids[w->n_held] = strdup(ids[i])))
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
        if (++w->n_held == w->n_batch) VNP_TRY(write_held(w));
    }
    return VNP_OK;
}

/* Everything out of libhdf5, then to the disk. */
static vnp_status finish_temp(struct out_h5 *w) {
    struct quiet q = quiet_begin();
    int bad = close_all(w);
    quiet_end(q);
    if (bad || w->os_errno) return fail_h5(w, "write", 0);
    int e = vnp_out_fsync(w->fd, w->target.path);
    if (e) return fail_h5(w, "fsync", e);
    e = vnp_out_close(w->fd, w->target.path);
    w->fd = -1;
    return e ? fail_h5(w, "close", e) : VNP_OK;
}

vnp_status vnp_out_h5_commit(struct out_h5 *w) {
    vnp_status s = w->status;
    if (s == VNP_OK) s = write_held(w);
    if (s == VNP_OK) s = finish_temp(w);
    if (s != VNP_OK) {
        struct vnp_error first = w->error;
        vnp_out_h5_abort(w);
        vnp_error_set(&first);
        return s;
    }
    s = vnp_out_target_publish(&w->target);
    vnp_out_target_fini(&w->target);
    free_writer(w);
    return s;
}
