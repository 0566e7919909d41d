// SPDX-License-Identifier: MIT
// Embeddings as .npy, .safetensors and .tsv; .h5 is handed on. The binary heads have a fixed size
// and are written again at the end, when the number of rows is known.
// Sources: the NPY 1.0 description in numpy's manual; the safetensors format description.
#include "out/outfile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "embeddings are written as they lie in memory: little endian"
#endif

enum format { NPY, SAFETENSORS, H5, TSV, N_FORMATS };
enum { NPY_HEAD = 128, SAFETENSORS_HEAD = 256, MAX_HEAD = 256 };

struct vnp_embed_writer {
    enum format format;
    int64_t n_cols, n_rows;
    struct vnp_outfile *file; /* all but H5 */
    struct out_h5 *h5;
};

static enum format format_of(const char *path) {
    static const char *const suffix[N_FORMATS] = {".npy", ".safetensors", ".h5", ".tsv"};
    size_t n = strlen(path);
    for (int i = 0; i < N_FORMATS; i++) {
        size_t k = strlen(suffix[i]);
        if (n > k && strcmp(path + n - k, suffix[i]) == 0 && path[n - k - 1] != '/')
            return (enum format)i;
    }
    return N_FORMATS;
}

bool vnp_embed_suffix_is_known(const char *path) {
    return format_of(path) != N_FORMATS;
}

/* The head for the present counts, padded to its fixed size. Returns that size, 0 for none. */
static size_t make_head(const struct vnp_embed_writer *w, char head[MAX_HEAD + 1]) {
    memset(head, ' ', MAX_HEAD);
    if (w->format == NPY) {
        memcpy(head, "\x93NUMPY\x01\x00", 8);
        head[8] = NPY_HEAD - 10, head[9] = 0;
        int n = snprintf(head + 10, NPY_HEAD - 10,
                         "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64
                         "), }",
                         w->n_rows, w->n_cols);
        head[10 + n] = ' ';
        head[NPY_HEAD - 1] = '\n';
        return NPY_HEAD;
    }
    if (w->format == SAFETENSORS) {
        uint64_t n_json = SAFETENSORS_HEAD - 8;
        memcpy(head, &n_json, 8);
        int n = snprintf(head + 8, SAFETENSORS_HEAD - 8,
                         "{\"embeddings\":{\"dtype\":\"F32\",\"shape\":[%" PRId64 ",%" PRId64
                         "],\"data_offsets\":[0,%" PRId64 "]}}",
                         w->n_rows, w->n_cols, w->n_rows * w->n_cols * 4);
        head[8 + n] = ' ';
        return SAFETENSORS_HEAD;
    }
    return 0;
}

vnp_status vnp_embed_writer_open(const char *path, int64_t n_cols, struct vnp_embed_writer **out) {
    *out = NULL;
    enum format format = format_of(path);
    if (format == N_FORMATS) {
        vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE, "the suffix names no format");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("end the name with .npy, .safetensors, .h5 or .tsv");
        return s;
    }
    if (n_cols < 1 || n_cols > INT32_MAX)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%" PRId64 " columns", n_cols);
    struct vnp_embed_writer *w = calloc(1, sizeof *w);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an output file");
    w->format = format;
    w->n_cols = n_cols;
    vnp_status s =
        format == H5 ? vnp_out_h5_open(path, n_cols, &w->h5) : vnp_outfile_open(path, &w->file);
    char head[MAX_HEAD + 1];
    size_t n_head = make_head(w, head);
    if (s == VNP_OK && n_head) s = vnp_outfile_write(w->file, head, n_head);
    if (s != VNP_OK) {
        vnp_embed_writer_abort(w);
        return s;
    }
    *out = w;
    return VNP_OK;
}

static vnp_status append_text(struct vnp_embed_writer *w, const char *id, const float *row) {
    char cell[1 + VNP_F32_TEXT];
    cell[0] = '\t';
    if (id)
        VNP_TRY(vnp_outfile_write(w->file, id, strlen(id)));
    else
        VNP_TRY(vnp_outfile_printf(w->file, "%" PRId64, w->n_rows));
    for (int64_t c = 0; c < w->n_cols; c++) {
        int n = vnp_format_f32(row[c], cell + 1);
        VNP_TRY(vnp_outfile_write(w->file, cell, (size_t)n + 1));
    }
    return vnp_outfile_write(w->file, "\n", 1);
}

vnp_status vnp_embed_writer_append(struct vnp_embed_writer *w, const char *const *ids,
                                   const float *rows, int64_t n_rows) {
    int64_t n_bytes;
    if (n_rows < 0 || __builtin_mul_overflow(n_rows, w->n_cols * 4, &n_bytes) ||
        __builtin_mul_overflow(w->n_rows + n_rows, w->n_cols * 4, &(int64_t){0}))
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%" PRId64 " rows", n_rows);
    if (w->format == H5) {
        VNP_TRY(vnp_out_h5_append(w->h5, ids, rows, n_rows));
    } else if (w->format == TSV) {
        for (int64_t r = 0; r < n_rows; r++) {
            VNP_TRY(append_text(w, ids ? ids[r] : NULL, rows + r * w->n_cols));
            w->n_rows++;
        }
        return VNP_OK;
    } else {
        VNP_TRY(vnp_outfile_write(w->file, rows, (size_t)n_bytes));
    }
    w->n_rows += n_rows;
    return VNP_OK;
}

vnp_status vnp_embed_writer_commit(struct vnp_embed_writer *w) {
    vnp_status s = VNP_OK;
    if (w->format == H5) {
        s = vnp_out_h5_commit(w->h5);
    } else {
        char head[MAX_HEAD + 1];
        size_t n_head = make_head(w, head);
        if (n_head) s = vnp_outfile_write_at(w->file, 0, head, n_head);
        /* a failed write stays in the file: its commit then removes the temporary and says why */
        vnp_status done = vnp_outfile_commit(w->file);
        if (s == VNP_OK) s = done;
    }
    free(w);
    return s;
}

void vnp_embed_writer_abort(struct vnp_embed_writer *w) {
    if (!w) return;
    vnp_outfile_abort(w->file);
    vnp_out_h5_abort(w->h5);
    free(w);
}
