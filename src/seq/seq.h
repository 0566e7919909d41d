/* SPDX-License-Identifier: MIT
 * seq: FASTA/FASTQ streams over plain, gzip, BGZF and zstd (told by content), windows and six-frame
 * translation exactly as the original VirNucPro cuts them. The room's one door. */
#ifndef VNP_SEQ_H
#define VNP_SEQ_H

#include "base/base.h"

/* ---- reader -------------------------------------------------------------------------------- */

enum vnp_seq_format { VNP_SEQ_UNKNOWN = 0, VNP_SEQ_FASTA, VNP_SEQ_FASTQ };

struct vnp_seq_record {
    const char *id;     /* first word of the header, NUL-terminated, may be "" */
    const char *header; /* whole header line without '>' or '@', trailing white space removed */
    size_t id_len, header_len;
    const char *seq; /* residues, case kept, white space removed; not NUL-terminated */
    size_t len;
    int64_t idx;      /* number of the record in the whole input, from 0 */
    int64_t line;     /* of its header, from 1 in its file */
    int64_t off_byte; /* of its header in the file's plain text */
    const char *file; /* as the user named it */
    enum vnp_seq_format format;
};

struct vnp_seq_reader;

struct vnp_seq_reader_options {
    /* Asked ten times a second while a pipe or terminal gives nothing: true makes the read fail
     * with CANCELED. May be NULL. */
    bool (*is_canceled)(void *ctx);
    void *cancel_ctx;
};

/* Opens a list of inputs as one stream, "-" is stdin. Files are opened one after the other; a
 * missing one is found here already (IO, origin INPUT, os_errno ENOENT). paths must outlive it. */
vnp_status vnp_seq_reader_open(const char *const *paths, size_t n_paths,
                               const struct vnp_seq_reader_options *opt,
                               struct vnp_seq_reader **out) VNP_WARN_UNUSED;
void vnp_seq_reader_close(struct vnp_seq_reader *r);
/* The next record, borrowed until the next call. *has_record = false at the end of all input. A
 * file that is empty or blank holds no record and is sound; input without any record is a finished
 * job with empty tables, not an error. FORMAT/TRUNCATED with file, line, byte
 * and record for anything that is not sound. */
vnp_status vnp_seq_reader_next(struct vnp_seq_reader *r, struct vnp_seq_record *out,
                               bool *has_record) VNP_WARN_UNUSED;
struct vnp_seq_reader_stats {
    int64_t n_records, n_residues, n_bytes_plain, n_bytes_stored;
    int64_t n_files_done;
    struct vnp_hash128 content; /* chained over ids and residues of the records read so far: the
                                   input's identity for resume */
};
void vnp_seq_reader_stats(const struct vnp_seq_reader *r, struct vnp_seq_reader_stats *out);
/* Total stored bytes of all inputs, or -1 when one of them cannot be told (stdin, pipes). */
int64_t vnp_seq_reader_total_bytes(const struct vnp_seq_reader *r);

/* ---- windows (spec/upstream.md A.3) -------------------------------------------------------- */

/* The cut of a record of len bases into windows of `window` bases; plain numbers, no allocation. */
struct vnp_windows {
    int64_t len, window, n; /* n = ceil(len / window), 0 for len 0 */
    int64_t q, need;        /* the first `need` overlaps are q+1, the rest q */
};
vnp_status vnp_windows_init(int64_t len, int64_t window, struct vnp_windows *out);
/* Window k of 0..n-1: [start, end). */
void vnp_windows_at(const struct vnp_windows *w, int64_t k, int64_t *start, int64_t *end);

/* ---- DNA or protein ------------------------------------------------------------------------ */

enum vnp_seq_kind { VNP_SEQ_KIND_UNCLEAR, VNP_SEQ_KIND_DNA, VNP_SEQ_KIND_PROTEIN };
/* By the first 500 letters: protein where a tenth of 20 or more stand for no nucleotide, DNA where
 * 60 or more are all A, C, G, T, U or N. */
enum vnp_seq_kind vnp_seq_kind_of(const char *seq, size_t len);

/* ---- six frames (A.4) ---------------------------------------------------------------------- */

enum { VNP_N_FRAMES = 6 };
extern const char vnp_frame_names[VNP_N_FRAMES][3]; /* F1 F2 F3 R1 R2 R3 */

/* Open frames of one window, in the caller's buffers. */
struct vnp_frames {
    unsigned kept; /* bit f set: frame f has no stop and a protein that is not empty */
    const char *nt[VNP_N_FRAMES]; /* upper case, s[f : f + 3p + 1] */
    const char *aa[VNP_N_FRAMES];
    int64_t nt_len[VNP_N_FRAMES], aa_len[VNP_N_FRAMES];
};
/* Scratch for windows of up to max_len bases. */
size_t vnp_frames_scratch_bytes(int64_t max_len);
/* Upper-cases, reverse-complements and translates window[0..len). out points into scratch. */
void vnp_frames_find(const char *window, int64_t len, void *scratch, struct vnp_frames *out);

#endif
