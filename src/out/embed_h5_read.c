// SPDX-License-Identifier: MIT
// Rows of the dataset "embeddings" of an HDF5 file, in order, through libhdf5's own driver.
#include "out/outfile.h"

#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

struct out_h5_reader {
    const char *path; /* the caller's */
    hid_t file, set;
    hsize_t size[2], n_read;
    H5E_auto2_t said; /* how libhdf5 told of errors before */
    void *said_data;
};

static void be_quiet(struct out_h5_reader *r) { /* it prints unless told not to */
    (void)H5Eget_auto2(H5E_DEFAULT, &r->said, &r->said_data);
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void be_as_before(const struct out_h5_reader *r) {
    (void)H5Eset_auto2(H5E_DEFAULT, r->said, r->said_data);
}

static vnp_status fail_read(const char *path, const char *text) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "%s", text);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("--force on the shard's command writes it again");
    return VNP_MISMATCH;
}

static bool open_set(struct out_h5_reader *r, const char *path) {
    r->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (r->file < 0) return false;
    r->set = H5Dopen2(r->file, "embeddings", H5P_DEFAULT);
    hid_t space = r->set < 0 ? -1 : H5Dget_space(r->set);
    bool is_ok = space >= 0 && H5Sget_simple_extent_ndims(space) == 2 &&
                 H5Sget_simple_extent_dims(space, r->size, NULL) == 2;
    if (space >= 0) H5Sclose(space);
    return is_ok;
}

vnp_status vnp_out_h5_reader_open(const char *path, struct out_h5_reader **out, int64_t *n_rows,
                                  int64_t *n_cols) {
    *out = NULL;
    FILE *probe = fopen(path, "rb"); /* libhdf5 does not say why it cannot open */
    if (!probe) return fail_read(path, "the vectors cannot be opened");
    fclose(probe);
    struct out_h5_reader *r = calloc(1, sizeof *r);
    if (!r) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a file of vectors");
    r->file = r->set = -1;
    r->path = path;
    be_quiet(r);
    bool is_ok = open_set(r, path);
    be_as_before(r);
    if (!is_ok) {
        vnp_out_h5_reader_close(r);
        return fail_read(path, "these vectors were not written by this program");
    }
    *n_rows = (int64_t)r->size[0];
    *n_cols = (int64_t)r->size[1];
    *out = r;
    return VNP_OK;
}

void vnp_out_h5_reader_close(struct out_h5_reader *r) {
    if (!r) return;
    be_quiet(r);
    if (r->set >= 0) H5Dclose(r->set);
    if (r->file >= 0) H5Fclose(r->file);
    be_as_before(r);
    free(r);
}

vnp_status vnp_out_h5_reader_read(struct out_h5_reader *r, float *rows, int64_t n_rows) {
    hsize_t start[2] = {r->n_read, 0}, count[2] = {(hsize_t)n_rows, r->size[1]};
    be_quiet(r);
    hid_t in_file = H5Dget_space(r->set), in_memory = H5Screate_simple(2, count, NULL);
    bool is_ok = in_file >= 0 && in_memory >= 0 &&
                 H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                 H5Dread(r->set, H5T_NATIVE_FLOAT, in_memory, in_file, H5P_DEFAULT, rows) >= 0;
    if (in_file >= 0) H5Sclose(in_file);
    if (in_memory >= 0) H5Sclose(in_memory);
    be_as_before(r);
    r->n_read += (hsize_t)n_rows;
    return is_ok ? VNP_OK : fail_read(r->path, "libhdf5 cannot read a shard's vectors");
}
