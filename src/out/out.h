/* SPDX-License-Identifier: MIT
 * out: everything that leaves as a file. Files appear under their final name only when whole
 * (temporary beside it, fsync, rename, fsync of the folder), every error checked; numbers print as
 * numpy prints them. The room's one door. */
#ifndef VNP_OUT_H
#define VNP_OUT_H

#include "base/base.h"

/* ---- one file, all or nothing --------------------------------------------------------------- */

struct vnp_outfile;
/* Opens PATH.tmp.<pid> beside the target. Errors have origin OUTPUT and name the file. */
vnp_status vnp_outfile_open(const char *path, struct vnp_outfile **out) VNP_WARN_UNUSED;
vnp_status vnp_outfile_write(struct vnp_outfile *f, const void *data, size_t n) VNP_WARN_UNUSED;
vnp_status vnp_outfile_printf(struct vnp_outfile *f, const char *fmt, ...) VNP_PRINTF(2, 3);
/* Overwrites bytes already written (headers whose counts are known at the end). */
vnp_status vnp_outfile_write_at(struct vnp_outfile *f, int64_t off_byte, const void *data,
                                size_t n);
int64_t vnp_outfile_tell(const struct vnp_outfile *f);
/* Flush, fsync, rename, fsync folder; frees f in every case. On error the temporary is removed. */
vnp_status vnp_outfile_commit(struct vnp_outfile *f) VNP_WARN_UNUSED;
void vnp_outfile_abort(struct vnp_outfile *f); /* NULL is legal */
/* Removes temporaries of PATH that killed processes have left. Only for who knows that no living
 * process writes PATH. */
void vnp_out_remove_temps(const char *path);

/* All writes of the program go through this table, so that tests can fail the n-th call. NULL
 * entries mean the system's own. Set before threads start. */
struct vnp_sysio {
    void *ctx;
    int (*before)(void *ctx, const char *call, const char *path, size_t *n); /* 0, or an errno to
                   fail with; may lower *n for a short write. call: open write fsync rename
                   ftruncate unlink */
};
void vnp_sysio_set(const struct vnp_sysio *io); /* NULL: none */
int vnp_sysio_before(const char *call, const char *path, size_t *n);

/* ---- numbers -------------------------------------------------------------------------------- */

enum { VNP_F32_TEXT = 32 };
/* str(numpy.float32(x)) (before numpy 2.4): shortest digits that read back equal; scientific below
 * 1e-4 and from 1e16 on. Returns the length. */
int vnp_format_f32(float x, char buf[VNP_F32_TEXT]);

/* ---- embeddings ----------------------------------------------------------------------------- */

/* Rows of FP32 to .npy, .safetensors (tensor "embeddings"; metadata optional), .h5 (dataset
 * "embeddings", ids dataset "ids") or .tsv (id, then columns), told by the suffix. Rows arrive in
 * final order; the number of rows need not be known before. For per-residue output rows are tokens
 * and the .ids.tsv beside it tells the ranges. */
struct vnp_embed_writer;
vnp_status vnp_embed_writer_open(const char *path, int64_t n_cols,
                                 struct vnp_embed_writer **out) VNP_WARN_UNUSED;
/* ids[n_rows] may be NULL where the format keeps none. */
vnp_status vnp_embed_writer_append(struct vnp_embed_writer *w, const char *const *ids,
                                   const float *rows, int64_t n_rows) VNP_WARN_UNUSED;
/* Commits under the final name; frees w in every case. */
vnp_status vnp_embed_writer_commit(struct vnp_embed_writer *w) VNP_WARN_UNUSED;
void vnp_embed_writer_abort(struct vnp_embed_writer *w);
bool vnp_embed_suffix_is_known(const char *path);

/* A file that the writer above has made, read in order (merge of shards). Errors are MISMATCH with
 * origin OUTPUT and name the file. */
struct vnp_embed_reader;
vnp_status vnp_embed_reader_open(const char *path, struct vnp_embed_reader **out) VNP_WARN_UNUSED;
void vnp_embed_reader_close(struct vnp_embed_reader *r);         /* NULL is legal */
int64_t vnp_embed_reader_cols(const struct vnp_embed_reader *r); /* 0: a text without rows */
vnp_status vnp_embed_reader_read(struct vnp_embed_reader *r, float *rows,
                                 int64_t n_rows) VNP_WARN_UNUSED;
vnp_status vnp_embed_reader_end(struct vnp_embed_reader *r) VNP_WARN_UNUSED; /* nothing is left */

/* ---- tables of predict (design: cli.md, upstream A.9) --------------------------------------- */

/* prediction_results.txt */
vnp_status vnp_out_frames_header(struct vnp_outfile *f);
vnp_status vnp_out_frames_row(struct vnp_outfile *f, const char *frame_id, float score1,
                              float score2);
/* prediction_results_highestscore.csv; rows must arrive in lexicographic (byte) order of ids */
vnp_status vnp_out_windows_header(struct vnp_outfile *f);
vnp_status vnp_out_windows_row(struct vnp_outfile *f, const char *window_id, bool is_virus);

/* contigs.tsv */
struct vnp_contig_row {
    const char *seq_id;
    int64_t length, n_windows, n_scored, n_frames, n_virus;
    double virus_score; /* NaN prints as "nan" when nothing was scored */
    const char *call;   /* virus, other, unscored */
    const char *status; /* ok, no_orf, too_short, empty, failed */
    const char *reason; /* may be ""; tabs and newlines become spaces */
};
vnp_status vnp_out_contigs_header(struct vnp_outfile *f);
vnp_status vnp_out_contigs_row(struct vnp_outfile *f, const struct vnp_contig_row *row);
/* FASTA record, header untouched, sequence in lines of 60 (line_width 0: one line) */
vnp_status vnp_out_fasta(struct vnp_outfile *f, const char *header, const char *seq, size_t len,
                         int line_width);

/* ---- the report: one page of HTML without scripts or anything from elsewhere ---------------- */

enum { VNP_REPORT_CELLS = 120, VNP_REPORT_BINS = 20, VNP_REPORT_CLASSES = 5 };

/* A record shown by itself. Windows without an open frame have no score. */
struct vnp_report_record {
    char *id;
    int64_t idx;               /* in the input */
    double rank;               /* larger: further up */
    struct vnp_contig_row row; /* its seq_id and reason are not used */
    char reason[160];
    int n_cells;                   /* of its length, each one or several windows */
    float cells[VNP_REPORT_CELLS]; /* mean virus score, NaN: nothing scored */
    /* The run of windows with the largest sum of (virus score - 1/2): */
    double stretch_sum;
    int64_t stretch_begin, stretch_end, stretch_scored, stretch_virus; /* [begin, end) in bases */
};
struct vnp_report_list {
    const struct vnp_report_record *records; /* [n], in the order of the page */
    int64_t n, n_all;                        /* shown; there are */
};
struct vnp_report_line {
    const char *key, *value;
};
struct vnp_report_table { /* a few lines of text; cells[n_rows][n_cols] */
    const char *const *head;
    const char *const *cells;
    int64_t n_rows, n_cols;
};

struct vnp_report {
    const char *title, *subtitle;
    int64_t n_records, n_virus, n_other, n_unscored, n_failed; /* failed ones are in the others */
    int64_t n_bases, n_virus_bases, n_windows, n_windows_scored, n_windows_virus;
    /* by virus score, 0..1 in bins of equal width: [not virus, virus] */
    int64_t windows[2][VNP_REPORT_BINS], records[2][VNP_REPORT_BINS];
    /* by length: below 1, 3, 10, 30 kb and above: [virus, other, unscored] */
    int64_t classes[VNP_REPORT_CLASSES][3];
    struct vnp_report_list virus, stretches, other, unscored;
    const char *const *notes; /* [n_notes] warnings */
    int64_t n_notes;
    const struct vnp_report_line *lines; /* [n_lines] about the run */
    int64_t n_lines;
    struct vnp_report_table devices, incidents; /* no rows: left out */
};
/* All text is escaped; what is no UTF-8 becomes U+FFFD. */
vnp_status vnp_out_report(const char *path, const struct vnp_report *r) VNP_WARN_UNUSED;

#endif
