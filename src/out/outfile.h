/* SPDX-License-Identifier: MIT
 * Inside room out: the steps an outfile takes, for writers whose bytes go through a library
 * (HDF5) and not through vnp_outfile_write. */
#ifndef VNP_OUT_OUTFILE_H
#define VNP_OUT_OUTFILE_H

#include "out/out.h"

/* Where a file is made and where it goes. */
struct out_target {
    char *shown; /* as the user named it, for messages */
    char *path;  /* the final name, symbolic links of the target followed */
    char *temp;  /* beside it */
    char *folder;
};

/* Checks that PATH may become a file and names its temporary. */
vnp_status vnp_out_target_init(struct out_target *t, const char *path) VNP_WARN_UNUSED;
void vnp_out_target_fini(struct out_target *t);
/* Records an output error for `call` with a hint for the errno. */
vnp_status vnp_out_fail(const char *shown, const char *call, int os_errno);
/* Each: the system's call with retries behind the fault hook; 0 or an errno. */
int vnp_out_fsync(int fd, const char *path);
int vnp_out_close(int fd, const char *path);
/* All of n bytes at off, however short the single writes are. */
int vnp_out_write(int fd, const char *path, const void *data, size_t n, int64_t off);
/* Makes the temporary; one left by a dead process is replaced. */
int vnp_out_open_temp(const struct out_target *t, int flags, int *fd);
int vnp_out_open(const char *path, int flags, int *fd);
/* Temporary to final name, then fsync of the folder. On failure neither name exists. */
vnp_status vnp_out_target_publish(const struct out_target *t) VNP_WARN_UNUSED;
void vnp_out_target_remove_temp(const struct out_target *t);

/* HDF5 rows, behind the embedding writer. */
struct out_h5;
vnp_status vnp_out_h5_open(const char *path, int64_t n_cols, struct out_h5 **out) VNP_WARN_UNUSED;
vnp_status vnp_out_h5_append(struct out_h5 *w, const char *const *ids, const float *rows,
                             int64_t n_rows) VNP_WARN_UNUSED;
vnp_status vnp_out_h5_commit(struct out_h5 *w) VNP_WARN_UNUSED;
void vnp_out_h5_abort(struct out_h5 *w);
struct out_h5_reader;
vnp_status vnp_out_h5_reader_open(const char *path, struct out_h5_reader **out, int64_t *n_rows,
                                  int64_t *n_cols) VNP_WARN_UNUSED;
void vnp_out_h5_reader_close(struct out_h5_reader *r);
vnp_status vnp_out_h5_reader_read(struct out_h5_reader *r, float *rows,
                                  int64_t n_rows) VNP_WARN_UNUSED;

#endif
