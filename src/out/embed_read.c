// SPDX-License-Identifier: MIT
// Embedding files as this program writes them, read again row by row (merge of shards): .npy,
// .safetensors and .tsv here, .h5 behind the same door. Not a general reader of these formats.
#include "out/outfile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vnp_embed_reader {
    char *path;
    FILE *file; /* all but .h5 */
    struct out_h5_reader *h5;
    bool is_text;
    int64_t n_cols, n_left; /* of text: n_left -1, the end tells */
    char *line;             /* text: the line read ahead, or NULL at the end */
    size_t cap_line;
};

static vnp_status bad_file(const struct vnp_embed_reader *r, const char *text) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_OUTPUT, "%s", text);
    vnp_error_at(r->path, -1, -1, NULL);
    vnp_error_hint("--force on the shard's command writes it again");
    return VNP_MISMATCH;
}

static bool has_suffix(const char *path, const char *suffix) {
    size_t n = strlen(path), k = strlen(suffix);
    return n > k && strcmp(path + n - k, suffix) == 0;
}

/* Heads of our own making: version 1, C order, FP32. */
static bool read_npy_head(struct vnp_embed_reader *r) {
    unsigned char start[10];
    char head[256];
    if (fread(start, 1, 10, r->file) != 10 || memcmp(start, "\x93NUMPY\x01", 7) != 0) return false;
    size_t n = (size_t)start[8] | (size_t)start[9] << 8;
    if (n >= sizeof head || fread(head, 1, n, r->file) != n) return false;
    head[n] = 0;
    const char *shape = strstr(head, "'shape': (");
    return strstr(head, "'<f4'") && strstr(head, "False") && shape &&
           sscanf(shape, "'shape': (%" SCNd64 ", %" SCNd64 ")", &r->n_left, &r->n_cols) == 2;
}

static bool read_safetensors_head(struct vnp_embed_reader *r) {
    uint64_t n;
    char head[512];
    if (fread(&n, 1, 8, r->file) != 8 || n >= sizeof head || fread(head, 1, n, r->file) != n)
        return false;
    head[n] = 0;
    return sscanf(head, "{\"embeddings\":{\"dtype\":\"F32\",\"shape\":[%" SCNd64 ",%" SCNd64 "]",
                  &r->n_left, &r->n_cols) == 2;
}

static void read_line(struct vnp_embed_reader *r) {
    ssize_t n = getline(&r->line, &r->cap_line, r->file);
    if (n > 0 && r->line[n - 1] == '\n') {
        r->line[n - 1] = 0;
        return;
    }
    free(r->line);
    r->line = NULL;
    r->cap_line = 0;
    if (n > 0) r->n_left = -2; /* torn in the last line */
}

static void read_text_head(struct vnp_embed_reader *r) {
    r->is_text = true;
    r->n_left = -1;
    read_line(r);
    for (const char *p = r->line; p && *p; p++) r->n_cols += *p == '\t';
}

static vnp_status open_file(struct vnp_embed_reader *r) {
    if (has_suffix(r->path, ".h5")) {
        VNP_TRY(vnp_out_h5_reader_open(r->path, &r->h5, &r->n_left, &r->n_cols));
        return VNP_OK;
    }
    r->file = fopen(r->path, "rb");
    if (!r->file) return vnp_out_fail(r->path, "open", errno);
    bool is_ok = true;
    if (has_suffix(r->path, ".npy"))
        is_ok = read_npy_head(r);
    else if (has_suffix(r->path, ".safetensors"))
        is_ok = read_safetensors_head(r);
    else
        read_text_head(r);
    return is_ok ? VNP_OK : bad_file(r, "these vectors were not written by this program");
}

vnp_status vnp_embed_reader_open(const char *path, struct vnp_embed_reader **out) {
    *out = NULL;
    struct vnp_embed_reader *r = calloc(1, sizeof *r);
    if (!r || !(r->path = strdup(path))) {
        free(r);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a file of vectors");
    }
    vnp_status status = open_file(r);
    if (status != VNP_OK) {
        vnp_embed_reader_close(r);
        return status;
    }
    *out = r;
    return VNP_OK;
}

void vnp_embed_reader_close(struct vnp_embed_reader *r) {
    if (!r) return;
    if (r->file) fclose(r->file);
    vnp_out_h5_reader_close(r->h5);
    free(r->line);
    free(r->path);
    free(r);
}

int64_t vnp_embed_reader_cols(const struct vnp_embed_reader *r) {
    return r->n_cols;
}

/* One line: an id, then a number a column; %.9g and shorter read back as they were. */
static vnp_status read_text_row(struct vnp_embed_reader *r, float *row) {
    if (!r->line) return bad_file(r, "the vectors end too early");
    char *p = strchr(r->line, '\t');
    for (int64_t c = 0; c < r->n_cols; c++) {
        char *end = p ? p + 1 : NULL;
        if (p) row[c] = strtof(p + 1, &end);
        if (!p || end == p + 1 || (*end != '\t' && *end != 0))
            return bad_file(r, "a row of the vectors is torn");
        p = *end ? end : NULL;
    }
    if (p) return bad_file(r, "a row of the vectors is longer than the first");
    read_line(r);
    return VNP_OK;
}

vnp_status vnp_embed_reader_read(struct vnp_embed_reader *r, float *rows, int64_t n_rows) {
    if (n_rows == 0) return VNP_OK;
    if (r->is_text) {
        for (int64_t i = 0; i < n_rows; i++) VNP_TRY(read_text_row(r, rows + i * r->n_cols));
        return VNP_OK;
    }
    size_t n = (size_t)(n_rows * r->n_cols);
    if (n_rows > r->n_left) return bad_file(r, "the vectors end too early");
    r->n_left -= n_rows;
    if (r->h5) return vnp_out_h5_reader_read(r->h5, rows, n_rows);
    if (fread(rows, sizeof *rows, n, r->file) == n) return VNP_OK;
    return ferror(r->file) ? vnp_out_fail(r->path, "read", errno)
                           : bad_file(r, "the vectors end too early");
}

vnp_status vnp_embed_reader_end(struct vnp_embed_reader *r) {
    bool is_end = r->is_text ? !r->line && r->n_left == -1 : r->n_left == 0;
    return is_end ? VNP_OK : bad_file(r, "more vectors than the run database knows of");
}
