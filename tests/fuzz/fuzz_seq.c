// SPDX-License-Identifier: MIT
// Fuzzes the reader: byte 0 chooses how the rest is handed over (as it is, as the text of a gzip
// member, of a zstd frame, or of three gzip members), byte 1 the seams. Whatever comes out must be
// the same with other seams, and every record goes through windows and frames, whose promises are
// checked. Traps on a broken promise.
#include "seq/seq_private.h"

#include <stdlib.h>
#include <string.h>

#include <zlib.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
    if (!holds) __builtin_trap();
}

static size_t add_member(uint8_t *out, size_t cap, const uint8_t *text, size_t n) {
    z_stream z = {0};
    must(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    union {
        const uint8_t *in;
        uint8_t *zlib_takes;
    } u = {text};
    z.next_in = u.zlib_takes;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)cap;
    must(deflate(&z, Z_FINISH) == Z_STREAM_END);
    must(deflateEnd(&z) == Z_OK);
    return cap - z.avail_out;
}

static uint8_t *pack(const uint8_t *text, size_t n, int how, size_t *n_out) {
    size_t cap = ZSTD_compressBound(n) + n + 4096;
    uint8_t *out = malloc(cap);
    must(out != NULL);
    *n_out = 0;
    if (how == 0) {
        if (n) memcpy(out, text, n);
        *n_out = n;
    } else if (how == 1) {
        *n_out = ZSTD_compress(out, cap, text, n, 1);
        must(!ZSTD_isError(*n_out));
    } else {
        size_t step = how == 2 ? n : n / 3;
        for (int i = 0; i < (how == 2 ? 1 : 3); i++) {
            size_t beg = (size_t)i * step, len = i == 2 || how == 2 ? n - beg : step;
            *n_out += add_member(out + *n_out, cap - *n_out, text + beg, len);
        }
    }
    return out;
}

static void check_record(const struct vnp_seq_record *rec) {
    struct vnp_windows w;
    int64_t covered = 0;
    must(strlen(rec->id) == rec->id_len && strlen(rec->header) == rec->header_len);
    must(vnp_windows_init((int64_t)rec->len, 50, &w) == VNP_OK);
    must((w.n == 0) == (rec->len == 0));
    char *scratch = malloc(vnp_frames_scratch_bytes(50));
    must(scratch != NULL);
    for (int64_t k = 0; k < w.n; k++) {
        struct vnp_frames f;
        int64_t a, b;
        vnp_windows_at(&w, k, &a, &b);
        must(a >= 0 && a <= covered && b > covered && b <= w.len && b - a <= 50);
        covered = b;
        vnp_frames_find(rec->seq + a, b - a, scratch, &f);
        for (int i = 0; i < VNP_N_FRAMES; i++) {
            if (!(f.kept >> i & 1)) continue;
            must(f.aa_len[i] > 0 && 3 * f.aa_len[i] <= f.nt_len[i] && f.nt_len[i] <= b - a);
            must(memchr(f.aa[i], '*', (size_t)f.aa_len[i]) == NULL);
        }
    }
    must(covered == w.len);
    free(scratch);
}

struct answer {
    vnp_status status;
    struct vnp_seq_reader_stats stats;
    int64_t line, off_byte;
    bool is_corrupt; /* how much was unpacked before it shows depends on the seams */
};

static struct answer run(const uint8_t *data, size_t n, size_t read_max, size_t buf) {
    struct vnp_seq_reader *r;
    struct vnp_seq_record rec;
    struct answer a = {0};
    bool has = true;
    must(vnp_seq_reader_open_memory(data, n, "fuzz", read_max, buf, &r) == VNP_OK);
    while ((a.status = vnp_seq_reader_next(r, &rec, &has)) == VNP_OK && has) check_record(&rec);
    vnp_seq_reader_stats(r, &a.stats);
    if (a.status != VNP_OK) {
        const struct vnp_error *e = vnp_error_last();
        must(a.status == VNP_FORMAT || a.status == VNP_TRUNCATED);
        must(e->status == a.status && e->origin == VNP_FROM_INPUT && e->file[0] && e->hint[0]);
        must(e->line >= 1 && e->off_byte >= 0);
        a.line = e->line;
        a.off_byte = e->off_byte;
        a.is_corrupt = strncmp(e->text, "corrupt", 7) == 0;
    }
    vnp_seq_reader_close(r);
    return a;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > 1 << 16) return 0;
    size_t n;
    uint8_t *packed = pack(data + 2, size - 2, data[0] & 3, &n);
    struct answer a = run(packed, n, data[1] & 15, data[1] & 16 ? 16 + (data[1] >> 5) * 7 : 0);
    struct answer b = run(packed, n, 0, 0);
    must((a.status == VNP_OK) == (b.status == VNP_OK));
    if (!a.is_corrupt && !b.is_corrupt) {
        must(a.status == b.status);
        must(memcmp(&a.stats.content, &b.stats.content, sizeof a.stats.content) == 0);
        must(a.stats.n_records == b.stats.n_records && a.stats.n_residues == b.stats.n_residues);
        must(a.line == b.line && a.off_byte == b.off_byte);
    }
    free(packed);
    return 0;
}
