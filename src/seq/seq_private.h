/* SPDX-License-Identifier: MIT
 * What the files of the seq room share with each other and with their own tests: the byte source
 * under the reader, and the reader over bytes in memory. Not for other rooms. */
#ifndef VNP_SEQ_PRIVATE_H
#define VNP_SEQ_PRIVATE_H

#include "seq/seq.h"

/* ---- byte source: stored bytes in, plain bytes out (seq_source.c) --------------------------- */

enum vnp_seq_packing { VNP_SEQ_PLAIN = 0, VNP_SEQ_GZIP, VNP_SEQ_BGZF, VNP_SEQ_ZSTD };

struct vnp_seq_source;

/* path "-" is stdin. Both paths and bytes in memory must outlive the source. */
vnp_status vnp_seq_source_open(const char *path, struct vnp_seq_source **out) VNP_WARN_UNUSED;
/* read_max: most bytes one raw read hands over, 0 = no limit (tests of the seams). */
vnp_status vnp_seq_source_open_memory(const void *data, size_t n, size_t read_max,
                                      struct vnp_seq_source **out) VNP_WARN_UNUSED;
/* As in vnp_seq_reader_options. */
void vnp_seq_source_cancel_set(struct vnp_seq_source *s, bool (*is_canceled)(void *ctx), void *ctx);
void vnp_seq_source_close(struct vnp_seq_source *s);
/* Up to cap > 0 plain bytes; *n = 0 is the sound end of the file, and only that. */
vnp_status vnp_seq_source_read(struct vnp_seq_source *s, uint8_t *dst, size_t cap,
                               size_t *n) VNP_WARN_UNUSED;
/* Stored bytes taken so far. */
int64_t vnp_seq_source_stored(const struct vnp_seq_source *s);
/* Known after the first read. */
enum vnp_seq_packing vnp_seq_source_packing(const struct vnp_seq_source *s);
/* Name of a known binary or packed format that these first bytes begin, or NULL. */
const char *vnp_seq_format_of_magic(const uint8_t *p, size_t n);

/* ---- reader (seq_reader.c) ------------------------------------------------------------------ */

/* One file that lies in memory; buf_bytes: size of the plain-text buffer, 0 = the usual one. */
vnp_status vnp_seq_reader_open_memory(const void *data, size_t n, const char *name, size_t read_max,
                                      size_t buf_bytes,
                                      struct vnp_seq_reader **out) VNP_WARN_UNUSED;

/* Length of the run of printable ASCII (0x21..0x7e) that p[0..n) begins with, copied to dst unless
 * it is NULL. dst has room for n + VNP_SEQ_SPAN_SLACK bytes. */
enum { VNP_SEQ_SPAN_SLACK = 16 };
size_t vnp_seq_span_graph(const uint8_t *p, size_t n, char *dst);

#endif
