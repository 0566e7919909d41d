// SPDX-License-Identifier: MIT
// FASTA and FASTQ records from a list of files. One record's residues are held, everything else
// goes through one buffer of fixed size. Residues are copied and checked in one pass, sixteen bytes
// at a time (vnp_seq_span_graph stops at whatever is no printable ASCII: line ends, blanks,
// damage). Headers follow Biopython's reading (spec upstream A.2), which the original uses; where
// it would carry damage on in silence, reading stops with the place named.
#include "seq/seq_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { BUF_BYTES = 256 << 10, HEADER_MAX = 1 << 20, SNIFF_BYTES = 16 };

/* A growing text; NUL-terminated where it is a header. */
struct text {
    char *p;
    size_t n, cap;
};

struct vnp_seq_reader {
    const char *const *paths;
    size_t n_paths, idx_path;
    const void *mem; /* the one input lies here when is_mem */
    size_t mem_len, mem_read_max;
    const char *mem_name[1];
    bool is_mem, is_failed;
    struct vnp_seq_reader_options opt;
    struct vnp_error failure;

    struct vnp_seq_source *src; /* NULL between files */
    enum vnp_seq_format format; /* of this file */
    uint8_t *buf;               /* [cap] plain text; beg..end unread */
    size_t cap, beg, end;
    bool is_eof;
    int64_t base; /* offset of buf[0] in the file's plain text */
    int64_t line; /* of buf[beg], from 1 */

    struct text header, id, seq, plus;
    bool is_in_record; /* id names the record that a failure belongs to */
    struct vnp_seq_reader_stats stats;
    int64_t n_stored_done, n_total;
};

/* ---- spans ---------------------------------------------------------------------------------- */

static inline bool is_graph(uint8_t c) {
    return c > 0x20 && c < 0x7f;
}

size_t vnp_seq_span_graph(const uint8_t *p, size_t n, char *dst) {
    size_t i = 0;
#ifdef __SSE2__
    const __m128i low = _mm_set1_epi8(0x20), del = _mm_set1_epi8(0x7f);
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
        /* signed compare: bytes from 0x80 on are negative and fail the first test */
        __m128i good = _mm_andnot_si128(_mm_cmpeq_epi8(v, del), _mm_cmpgt_epi8(v, low));
        unsigned bad = ~(unsigned)_mm_movemask_epi8(good) & 0xffff;
        if (dst) _mm_storeu_si128((__m128i *)(void *)(dst + i), v);
        if (bad) return i + (size_t)__builtin_ctz(bad);
    }
#else
    for (; i + 8 <= n; i += 8) {
        uint64_t v, hi = UINT64_C(0x8080808080808080), ones = UINT64_C(0x0101010101010101);
        memcpy(&v, p + i, 8);
        if (dst) memcpy(dst + i, &v, 8);
        uint64_t below = (v - 0x21 * ones) & ~v, del = v ^ (0x7f * ones);
        if ((v | below | ((del - ones) & ~del)) & hi) break;
    }
#endif
    for (; i < n && is_graph(p[i]); i++)
        if (dst) dst[i] = (char)p[i];
    return i;
}

static vnp_status text_room(struct text *t, size_t more) {
    size_t want;
    if (t->cap - t->n >= more) return VNP_OK;
    if (!vnp_size_add(t->n, more, &want) || !vnp_size_add(want, want / 2, &want))
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "a record is too long for memory");
    char *p = realloc(t->p, want);
    if (!p)
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a record of %zu bytes",
                        t->n + more);
    t->p = p;
    t->cap = want;
    return VNP_OK;
}

static vnp_status text_append(struct text *t, const void *data, size_t n) {
    VNP_TRY(text_room(t, n + 1));
    memcpy(t->p + t->n, data, n);
    t->n += n;
    t->p[t->n] = 0;
    return VNP_OK;
}

/* ---- failures ------------------------------------------------------------------------------- */

static const char *file_name(const struct vnp_seq_reader *r) {
    return r->idx_path < r->n_paths ? r->paths[r->idx_path] : "";
}

/* Adds the place: the byte `ahead` of the next unread one. */
static vnp_status place(struct vnp_seq_reader *r, vnp_status status, size_t ahead) {
    vnp_error_at(file_name(r), r->line, r->base + (int64_t)(r->beg + ahead),
                 r->is_in_record ? r->id.p : NULL);
    return status;
}

#define FAIL_HERE(r, ...) place(r, vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, __VA_ARGS__), 0)

static vnp_status fail_byte(struct vnp_seq_reader *r, uint8_t c, const char *where, size_t ahead) {
    vnp_status status;
    if (c == 0) {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "a NUL byte in %s", where);
        vnp_error_hint("this is no plain text (binary, UTF-16, or a damaged file)");
    } else if (c < 0x80) {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "control byte 0x%02x in %s", c, where);
        vnp_error_hint("the file is damaged or no FASTA/FASTQ");
    } else {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "byte 0x%02x, which is not ASCII, in %s", c,
                          where);
        vnp_error_hint("residues are ASCII letters; the file is damaged or no FASTA/FASTQ");
    }
    return place(r, status, ahead);
}

static vnp_status fail_early_end(struct vnp_seq_reader *r, const char *where) {
    vnp_status status = vnp_fail(VNP_TRUNCATED, VNP_FROM_INPUT,
                                 "truncated: the file ends in %s of a FASTQ record", where);
    vnp_error_hint("the file is cut off; copy or make it again");
    return place(r, status, 0);
}

/* ---- the buffer ----------------------------------------------------------------------------- */

/* Makes *has true while there is an unread byte. */
static vnp_status have_byte(struct vnp_seq_reader *r, bool *has) {
    if (r->beg == r->end && !r->is_eof) {
        size_t n;
        r->base += (int64_t)r->end;
        r->beg = r->end = 0;
        vnp_status status = vnp_seq_source_read(r->src, r->buf, r->cap, &n);
        if (status != VNP_OK) return place(r, status, 0);
        r->end = n;
        r->is_eof = n == 0;
    }
    *has = r->beg < r->end;
    return VNP_OK;
}

/* The rest of the line, its end taken off, is appended to t; control bytes but tab are refused. */
static vnp_status read_text_line(struct vnp_seq_reader *r, struct text *t, const char *where) {
    bool has;
    int64_t off = r->base + (int64_t)r->beg;
    t->n = 0;
    VNP_TRY(text_append(t, "", 0));
    for (;;) {
        VNP_TRY(have_byte(r, &has));
        if (!has) break;
        const uint8_t *p = r->buf + r->beg, *nl = memchr(p, '\n', r->end - r->beg);
        size_t n = nl ? (size_t)(nl - p) : r->end - r->beg;
        if (t->n + n > HEADER_MAX) {
            vnp_status status = FAIL_HERE(r, "%s is longer than 1 MiB", where);
            vnp_error_hint("the file is damaged or no FASTA/FASTQ");
            return status;
        }
        VNP_TRY(text_append(t, p, n));
        r->beg += n;
        if (nl) break;
    }
    size_t n = t->n;
    while (n && strchr(" \t\r\f\v", t->p[n - 1]) && t->p[n - 1]) n--;
    t->p[n] = 0;
    t->n = n;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)t->p[i];
        if ((c >= 0x20 && c != 0x7f) || c == '\t') continue;
        r->beg = 0; /* place() counts from here */
        r->base = off + (int64_t)i;
        if (c != '\r') return fail_byte(r, c, where, 0);
        vnp_status status = FAIL_HERE(r, "a carriage return inside %s", where);
        vnp_error_hint("lines that end in CR alone: convert them, e.g. tr '\\r' '\\n'");
        return status;
    }
    if (has) r->beg++; /* the line feed */
    r->line += has;
    return VNP_OK;
}

/* ---- residues and qualities ----------------------------------------------------------------- */

/* One line of residues with its end, appended to seq. */
static vnp_status read_residue_line(struct vnp_seq_reader *r) {
    struct text *t = &r->seq;
    for (;;) {
        bool has;
        VNP_TRY(have_byte(r, &has));
        if (!has) return VNP_OK;
        VNP_TRY(text_room(t, r->end - r->beg + VNP_SEQ_SPAN_SLACK));
        size_t n = vnp_seq_span_graph(r->buf + r->beg, r->end - r->beg, t->p + t->n);
        t->n += n;
        r->beg += n;
        if (r->beg == r->end) continue;
        uint8_t c = r->buf[r->beg];
        if (c == '\n') {
            r->beg++;
            r->line++;
            return VNP_OK;
        }
        if (c != ' ' && c != '\t' && c != '\r') return fail_byte(r, c, "a sequence", 0);
        r->beg++;
        if (c != '\r') continue;
        VNP_TRY(have_byte(r, &has));
        if (has && (r->buf[r->beg] == '>' || r->buf[r->beg] == '@')) {
            vnp_status status = FAIL_HERE(r, "a header behind a carriage return");
            vnp_error_hint("lines that end in CR alone: convert them, e.g. tr '\\r' '\\n'");
            return status;
        }
    }
}

/* One line of qualities with its end; its values are counted, not kept. */
static vnp_status read_quality_line(struct vnp_seq_reader *r, size_t *n_values, bool *is_ended) {
    bool is_blank = false;
    *is_ended = true;
    for (;;) {
        bool has;
        VNP_TRY(have_byte(r, &has));
        if (!has) {
            *is_ended = false;
            return VNP_OK;
        }
        size_t n = vnp_seq_span_graph(r->buf + r->beg, r->end - r->beg, NULL);
        if (n && is_blank) {
            vnp_status status = FAIL_HERE(r, "white space inside the qualities");
            vnp_error_hint("a quality value is a character from '!' to '~'; the file is damaged");
            return status;
        }
        *n_values += n;
        r->beg += n;
        if (r->beg == r->end) continue;
        uint8_t c = r->buf[r->beg];
        if (c != '\n' && c != ' ' && c != '\t' && c != '\r')
            return fail_byte(r, c, "the qualities", 0);
        r->beg++;
        is_blank = true;
        if (c != '\n') continue;
        r->line++;
        return VNP_OK;
    }
}

/* ---- records -------------------------------------------------------------------------------- */

static vnp_status read_fasta_body(struct vnp_seq_reader *r) {
    for (;;) {
        bool has;
        VNP_TRY(have_byte(r, &has));
        if (!has || r->buf[r->beg] == '>') return VNP_OK;
        if (r->buf[r->beg] == '@') {
            vnp_status status = FAIL_HERE(r, "a line that begins with '@' in a FASTA file");
            vnp_error_hint("FASTA and FASTQ may be given together, but as different files");
            return status;
        }
        VNP_TRY(read_residue_line(r));
    }
}

/* The line of '+', which may repeat the header and then must be the same. */
static vnp_status read_plus(struct vnp_seq_reader *r) {
    int64_t line = r->line, off = r->base + (int64_t)r->beg;
    r->beg++;
    VNP_TRY(read_text_line(r, &r->plus, "the '+' line"));
    if (r->plus.n == 0) return VNP_OK;
    if (r->plus.n == r->header.n && memcmp(r->plus.p, r->header.p, r->plus.n) == 0) return VNP_OK;
    vnp_status status =
        vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "the '+' line does not repeat the record's header");
    vnp_error_at(file_name(r), line, off, r->id.p);
    vnp_error_hint("lines are missing or out of order; make the file again");
    return status;
}

/* Qualities behind a sequence of n_lines lines: as many values as residues. A sequence in one line
 * has its qualities in one line, so that a wrong length never eats the next record. */
static vnp_status read_qualities(struct vnp_seq_reader *r, int64_t n_lines) {
    size_t n = 0;
    bool has, is_ended = true;
    int64_t line = r->line, off = r->base + (int64_t)r->beg;
    VNP_TRY(have_byte(r, &has));
    if (r->seq.n == 0 && (!has || r->buf[r->beg] == '@')) return VNP_OK;
    if (!has) return fail_early_end(r, "the qualities");
    do {
        VNP_TRY(read_quality_line(r, &n, &is_ended));
        VNP_TRY(have_byte(r, &has));
    } while (n_lines > 1 && n < r->seq.n && has);
    if (n == r->seq.n) return VNP_OK;
    if (n < r->seq.n && !is_ended) return fail_early_end(r, "the qualities");
    vnp_status status =
        vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "unequal lengths: %zu quality values for %zu residues",
                 n, r->seq.n);
    vnp_error_at(file_name(r), line, off, r->id.p);
    vnp_error_hint("the file is damaged or not FASTQ; make it again");
    return status;
}

static vnp_status read_fastq_body(struct vnp_seq_reader *r) {
    int64_t n_lines = 0;
    for (;;) {
        bool has;
        VNP_TRY(have_byte(r, &has));
        if (!has) return fail_early_end(r, n_lines ? "the sequence" : "the header");
        uint8_t c = r->buf[r->beg];
        if (c == '+') break;
        if (c == '@' || c == '>') {
            vnp_status status =
                FAIL_HERE(r, "a header where the '+' line of a FASTQ record must stand");
            vnp_error_hint("lines are missing; make the file again");
            return status;
        }
        VNP_TRY(read_residue_line(r));
        n_lines++;
    }
    VNP_TRY(read_plus(r));
    return read_qualities(r, n_lines);
}

/* id: the header's first word. Leading white space does not count (Biopython's split). */
static vnp_status read_header(struct vnp_seq_reader *r) {
    r->beg++; /* '>' or '@' */
    r->is_in_record = false;
    vnp_status status = read_text_line(r, &r->header, "a header");
    const char *head = r->header.p ? r->header.p : "";
    size_t beg = strspn(head, " \t"), n = strcspn(head + beg, " \t\r");
    r->id.n = 0;
    if (status == VNP_OK) status = text_append(&r->id, head + beg, n);
    r->is_in_record = true;
    r->seq.n = 0;
    return status;
}

/* The input's identity: ids and residues, each bound to its place by the chain. */
static void chain(struct vnp_seq_reader *r) {
    struct {
        struct vnp_hash128 before, id, seq;
        uint64_t id_len, len;
    } link = {.before = r->stats.content, .id_len = r->id.n, .len = r->seq.n};
    link.id = vnp_hash(r->id.p, r->id.n);
    link.seq = vnp_hash(r->seq.n ? r->seq.p : "", r->seq.n);
    r->stats.content = vnp_hash(&link, sizeof link);
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Looks at the first bytes: byte order marks, known binary formats, something packed twice. */
static vnp_status sniff(struct vnp_seq_reader *r) {
    while (r->end < SNIFF_BYTES && !r->is_eof) {
        size_t n;
        vnp_status status = vnp_seq_source_read(r->src, r->buf + r->end, r->cap - r->end, &n);
        if (status != VNP_OK) return place(r, status, r->end);
        r->end += n;
        r->is_eof = n == 0;
    }
    const uint8_t *p = r->buf;
    bool is_packed = vnp_seq_source_packing(r->src) != VNP_SEQ_PLAIN;
    const char *name = vnp_seq_format_of_magic(p, r->end);
    vnp_status status = VNP_OK;
    if (r->end >= 2 && ((p[0] == 0xff && p[1] == 0xfe) || (p[0] == 0xfe && p[1] == 0xff))) {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "this is UTF-16 text");
        vnp_error_hint("convert it, e.g. iconv -f UTF-16 -t ASCII");
    } else if (name) {
        status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT,
                          is_packed ? "%s data inside a packed file"
                                    : "this is %s data, not FASTA or FASTQ",
                          name);
        vnp_error_hint(is_packed ? "unpack it once and try again"
                                 : "FASTA and FASTQ are read plain, gzip, BGZF or zstd");
    } else if (r->end >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) {
        r->beg = 3; /* UTF-8 mark */
    }
    return status == VNP_OK ? status : place(r, status, 0);
}

static vnp_status file_open(struct vnp_seq_reader *r) {
    vnp_status status;
    r->beg = r->end = 0;
    r->base = 0;
    r->line = 1;
    r->is_eof = r->is_in_record = false;
    r->format = VNP_SEQ_UNKNOWN;
    if (r->is_mem)
        status = vnp_seq_source_open_memory(r->mem, r->mem_len, r->mem_read_max, &r->src);
    else
        status = vnp_seq_source_open(file_name(r), &r->src);
    if (status != VNP_OK) {
        vnp_error_at(file_name(r), -1, -1, NULL);
        return status;
    }
    vnp_seq_source_cancel_set(r->src, r->opt.is_canceled, r->opt.cancel_ctx);
    return sniff(r);
}

static void file_close(struct vnp_seq_reader *r) {
    r->n_stored_done += vnp_seq_source_stored(r->src);
    r->stats.n_bytes_plain += r->base + (int64_t)r->end;
    r->stats.n_files_done++;
    vnp_seq_source_close(r->src);
    r->src = NULL;
    r->base = 0;
    r->beg = r->end = 0;
    r->idx_path++;
}

static vnp_status fail_no_header(struct vnp_seq_reader *r, uint8_t c) {
    bool is_first = r->format == VNP_SEQ_UNKNOWN;
    if (c < 0x20 || c >= 0x7f) return fail_byte(r, c, is_first ? "the first line" : "a header", 0);
    vnp_status status;
    if (is_first)
        status = FAIL_HERE(r,
                           "text before the first header: a record begins with '>' (FASTA) or '@' "
                           "(FASTQ), not '%c'",
                           c);
    else
        status = FAIL_HERE(r, "'%c' where a FASTQ record must begin with '@'", c);
    vnp_error_hint(is_first ? "remove what stands before the first header, or give another file"
                            : "lines are missing or qualities are too long; make the file again");
    return status;
}

/* Skips blank lines; *has is false at the file's end, else '>' or '@' is next. */
static vnp_status at_header(struct vnp_seq_reader *r, bool *has) {
    for (;;) {
        VNP_TRY(have_byte(r, has));
        if (!*has) return VNP_OK;
        uint8_t c = r->buf[r->beg];
        if (c == '\n' || c == '\r' || c == ' ' || c == '\t') {
            r->line += c == '\n';
            r->beg++;
            continue;
        }
        enum vnp_seq_format format = c == '>'   ? VNP_SEQ_FASTA
                                     : c == '@' ? VNP_SEQ_FASTQ
                                                : VNP_SEQ_UNKNOWN;
        bool is_right = r->format == VNP_SEQ_UNKNOWN || format == r->format;
        if (format == VNP_SEQ_UNKNOWN || !is_right) return fail_no_header(r, c);
        r->format = format;
        return VNP_OK;
    }
}

static vnp_status next_record(struct vnp_seq_reader *r, struct vnp_seq_record *out, bool *has) {
    for (;;) {
        if (!r->src) {
            *has = false;
            if (r->idx_path == r->n_paths) return VNP_OK;
            VNP_TRY(file_open(r));
        }
        VNP_TRY(at_header(r, has));
        if (*has) break;
        file_close(r);
    }
    *out =
        (struct vnp_seq_record){.idx = r->stats.n_records, .line = r->line, .file = file_name(r)};
    out->off_byte = r->base + (int64_t)r->beg;
    out->format = r->format;
    VNP_TRY(read_header(r));
    VNP_TRY(r->format == VNP_SEQ_FASTA ? read_fasta_body(r) : read_fastq_body(r));
    chain(r);
    r->stats.n_records++;
    r->stats.n_residues += (int64_t)r->seq.n;
    out->id = r->id.p;
    out->id_len = r->id.n;
    out->header = r->header.p;
    out->header_len = r->header.n;
    out->seq = r->seq.n ? r->seq.p : "";
    out->len = r->seq.n;
    return VNP_OK;
}

/* ---- the door ------------------------------------------------------------------------------- */

vnp_status vnp_seq_reader_next(struct vnp_seq_reader *r, struct vnp_seq_record *out,
                               bool *has_record) {
    *has_record = false;
    if (r->is_failed) {
        vnp_error_set(&r->failure);
        return r->failure.status;
    }
    vnp_status status = next_record(r, out, has_record);
    if (status == VNP_OK) return VNP_OK;
    *has_record = false;
    if (status == VNP_NOMEM) (void)place(r, status, 0);
    r->is_failed = true;
    r->failure = *vnp_error_last();
    return status;
}

static vnp_status reader_alloc(size_t buf_bytes, struct vnp_seq_reader **out) {
    struct vnp_seq_reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (r) {
        r->cap = buf_bytes ? VNP_MAX(buf_bytes, (size_t)SNIFF_BYTES) : (size_t)BUF_BYTES;
        r->buf = malloc(r->cap);
    }
    if (!r || !r->buf || text_append(&r->id, "", 0) != VNP_OK) {
        vnp_seq_reader_close(r);
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for reading the input");
    }
    *out = r;
    return VNP_OK;
}

/* Missing and unreadable files are found before anything is computed. */
static vnp_status check_path(const char *path, int64_t *n_total, bool *is_stdin) {
    struct stat st;
    if (strcmp(path, "-") == 0) {
        *n_total = -1;
        if (*is_stdin) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "stdin ('-') is named twice");
        *is_stdin = true;
        return VNP_OK;
    }
    vnp_status status = VNP_OK;
    if (stat(path, &st) != 0)
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot open the input");
    else if (S_ISDIR(st.st_mode))
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, EISDIR, "cannot read the input");
    else if (access(path, R_OK) != 0)
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot read the input");
    else if (!S_ISREG(st.st_mode))
        *n_total = -1;
    else if (*n_total >= 0)
        *n_total += (int64_t)st.st_size;
    if (status == VNP_OK) return VNP_OK;
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("give the path of a FASTA or FASTQ file that can be read, or '-' for stdin");
    return status;
}

vnp_status vnp_seq_reader_open(const char *const *paths, size_t n_paths,
                               const struct vnp_seq_reader_options *opt,
                               struct vnp_seq_reader **out) {
    *out = NULL;
    if (n_paths == 0) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no input is named");
    int64_t n_total = 0;
    bool is_stdin = false;
    for (size_t i = 0; i < n_paths; i++) VNP_TRY(check_path(paths[i], &n_total, &is_stdin));
    VNP_TRY(reader_alloc(0, out));
    (*out)->paths = paths;
    (*out)->n_paths = n_paths;
    (*out)->n_total = n_total;
    if (opt) (*out)->opt = *opt;
    return VNP_OK;
}

vnp_status vnp_seq_reader_open_memory(const void *data, size_t n, const char *name, size_t read_max,
                                      size_t buf_bytes, struct vnp_seq_reader **out) {
    VNP_TRY(reader_alloc(buf_bytes, out));
    struct vnp_seq_reader *r = *out;
    r->is_mem = true;
    r->mem = data;
    r->mem_len = n;
    r->mem_read_max = read_max;
    r->mem_name[0] = name;
    r->paths = r->mem_name;
    r->n_paths = 1;
    r->n_total = (int64_t)n;
    return VNP_OK;
}

void vnp_seq_reader_close(struct vnp_seq_reader *r) {
    if (!r) return;
    vnp_seq_source_close(r->src);
    free(r->header.p);
    free(r->id.p);
    free(r->seq.p);
    free(r->plus.p);
    free(r->buf);
    free(r);
}

void vnp_seq_reader_stats(const struct vnp_seq_reader *r, struct vnp_seq_reader_stats *out) {
    *out = r->stats;
    out->n_bytes_plain += r->base + (int64_t)r->beg;
    out->n_bytes_stored = r->n_stored_done + (r->src ? vnp_seq_source_stored(r->src) : 0);
}

int64_t vnp_seq_reader_total_bytes(const struct vnp_seq_reader *r) {
    return r->n_total;
}
