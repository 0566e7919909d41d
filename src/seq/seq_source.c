// SPDX-License-Identifier: MIT
// The byte source under the reader: a file, stdin or memory, unpacked on the way when its first
// bytes say gzip, BGZF or zstd. Owns every check of the packing: member headers (RFC 1952), CRC and
// length of each member, the end marker of BGZF, frames of zstd, and what stands behind the last
// one. The end of the file is reported only when it is sound. What the plain text means is not its
// business. Inflating is done by ISA-L, a member at a time, and by libzstd.
#include "seq/seq_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

enum { IN_BYTES = 128 << 10 };

enum source_state {
    AT_START,   /* nothing read */
    IN_PLAIN,   /* handed on as it is */
    AT_MEMBER,  /* a gzip member or a zstd frame begins here, or the file ends */
    IN_MEMBER,  /* inside one */
    AT_END,     /* sound */
    AT_FAILURE, /* `failure` is what every further read reports */
};

struct vnp_seq_source {
    int fd; /* -1: memory */
    bool is_fd_owned, is_file_end;
    bool (*is_canceled)(void *ctx);
    void *cancel_ctx;
    const uint8_t *mem;
    size_t mem_len, mem_pos, read_max;
    uint8_t *in; /* [IN_BYTES] */
    size_t in_beg, in_end;
    int64_t n_stored; /* bytes taken from the file, the unread ones in `in` included */
    enum source_state state;
    enum vnp_seq_packing packing;
    int64_t n_members, off_member; /* the one begun last, and where in the file it begins */
    bool is_last_empty;            /* that member held no byte (the end marker of BGZF) */
    struct inflate_state *inflate;
    ZSTD_DStream *zstd;
    struct vnp_error failure;
};

/* ---- raw bytes ------------------------------------------------------------------------------ */

/* Until the file has something to say, or its end. */
static vnp_status wait_readable(const struct vnp_seq_source *s) {
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    while (s->is_canceled) {
        if (s->is_canceled(s->cancel_ctx))
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted");
        if (poll(&p, 1, 100) != 0 && p.revents) return VNP_OK; /* an error is read's to tell */
    }
    return VNP_OK;
}

static vnp_status raw_read(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    *n = 0;
    if (s->read_max && cap > s->read_max) cap = s->read_max;
    if (s->is_file_end) return VNP_OK;
    if (s->fd < 0) {
        *n = VNP_MIN(cap, s->mem_len - s->mem_pos);
        if (*n) memcpy(dst, s->mem + s->mem_pos, *n);
        s->mem_pos += *n;
    } else {
        ssize_t got;
        VNP_TRY(wait_readable(s));
        do got = read(s->fd, dst, cap);
        while (got < 0 && errno == EINTR);
        if (got < 0) return vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot read the input");
        *n = (size_t)got;
    }
    s->is_file_end = *n == 0;
    s->n_stored += (int64_t)*n;
    return VNP_OK;
}

/* Makes at least `want` unread bytes stand in `in`, fewer only at the end of the file. */
static vnp_status peek(struct vnp_seq_source *s, size_t want) {
    while (s->in_end - s->in_beg < want && !s->is_file_end) {
        if (s->in_beg) {
            memmove(s->in, s->in + s->in_beg, s->in_end - s->in_beg);
            s->in_end -= s->in_beg;
            s->in_beg = 0;
        }
        size_t n;
        VNP_TRY(raw_read(s, s->in + s->in_end, IN_BYTES - s->in_end, &n));
        s->in_end += n;
    }
    return VNP_OK;
}

static int64_t off_stored(const struct vnp_seq_source *s) {
    return s->n_stored - (int64_t)(s->in_end - s->in_beg);
}

static const char *member_word(const struct vnp_seq_source *s) {
    return s->packing == VNP_SEQ_ZSTD   ? "zstd frame"
           : s->packing == VNP_SEQ_BGZF ? "BGZF block"
                                        : "gzip member";
}

/* The file ends inside what `what` names. */
static vnp_status fail_truncated(const struct vnp_seq_source *s, const char *what) {
    vnp_status status = vnp_fail(VNP_TRUNCATED, VNP_FROM_INPUT,
                                 "truncated: the file ends after %lld stored bytes inside %s of %s "
                                 "%lld (begun at stored byte %lld)",
                                 (long long)s->n_stored, what, member_word(s),
                                 (long long)s->n_members, (long long)s->off_member);
    vnp_error_hint("copy or download the file again");
    return status;
}

static vnp_status fail_corrupt(const struct vnp_seq_source *s, const char *why) {
    vnp_status status =
        vnp_fail(VNP_FORMAT, VNP_FROM_INPUT, "corrupt: %s in %s %lld (begun at stored byte %lld)",
                 why, member_word(s), (long long)s->n_members, (long long)s->off_member);
    vnp_error_hint("copy or download the file again");
    return status;
}

static vnp_status fail_junk(const struct vnp_seq_source *s) {
    vnp_status status = vnp_fail(VNP_FORMAT, VNP_FROM_INPUT,
                                 "trailing junk: stored byte %lld, behind %s %lld, begins no other",
                                 (long long)off_stored(s), member_word(s), (long long)s->n_members);
    vnp_error_hint("the file was damaged or something was appended to it; copy it again");
    return status;
}

/* ---- gzip and BGZF -------------------------------------------------------------------------- */

struct gzip_head {
    uint32_t crc; /* over the header's bytes so far */
    bool is_bgzf;
};

/* n bytes of a member's header; kept when `keep` is not NULL. */
static vnp_status head_bytes(struct vnp_seq_source *s, struct gzip_head *h, uint8_t *keep,
                             size_t n) {
    while (n) {
        VNP_TRY(peek(s, 1));
        size_t have = VNP_MIN(s->in_end - s->in_beg, n);
        if (have == 0) return fail_truncated(s, "the header");
        h->crc = crc32_gzip_refl(h->crc, s->in + s->in_beg, have);
        if (keep) {
            memcpy(keep, s->in + s->in_beg, have);
            keep += have;
        }
        s->in_beg += have;
        n -= have;
    }
    return VNP_OK;
}

static vnp_status head_text(struct vnp_seq_source *s, struct gzip_head *h) {
    uint8_t c;
    do VNP_TRY(head_bytes(s, h, &c, 1));
    while (c);
    return VNP_OK;
}

/* The extra field; BGZF is told by a subfield "BC" of two bytes that comes first, as its writers
 * put it. */
static vnp_status head_extra(struct vnp_seq_source *s, struct gzip_head *h) {
    uint8_t len[2], sub[4] = {0};
    VNP_TRY(head_bytes(s, h, len, 2));
    size_t n = len[0] | (size_t)len[1] << 8;
    if (n >= 6) {
        VNP_TRY(head_bytes(s, h, sub, 4));
        n -= 4;
        h->is_bgzf = sub[0] == 'B' && sub[1] == 'C' && sub[2] == 2 && sub[3] == 0;
    }
    return head_bytes(s, h, NULL, n);
}

static vnp_status gzip_head(struct vnp_seq_source *s) {
    enum { FHCRC = 2, FEXTRA = 4, FNAME = 8, FCOMMENT = 16, RESERVED = 0xe0 };
    struct gzip_head h = {0};
    uint8_t b[10], crc[2];
    VNP_TRY(head_bytes(s, &h, b, 10));
    if (b[2] != 8) return fail_corrupt(s, "unknown compression method");
    if (b[3] & RESERVED) return fail_corrupt(s, "reserved flags are set");
    if (b[3] & FEXTRA) VNP_TRY(head_extra(s, &h));
    if (b[3] & FNAME) VNP_TRY(head_text(s, &h));
    if (b[3] & FCOMMENT) VNP_TRY(head_text(s, &h));
    if (b[3] & FHCRC) {
        uint32_t want = h.crc & 0xffff;
        VNP_TRY(head_bytes(s, &h, crc, 2));
        if ((crc[0] | (uint32_t)crc[1] << 8) != want)
            return fail_corrupt(s, "the header's checksum is wrong");
    }
    if (s->n_members == 1 && h.is_bgzf) s->packing = VNP_SEQ_BGZF;
    isal_inflate_reset(s->inflate);
    s->inflate->crc_flag = ISAL_GZIP_NO_HDR_VER;
    s->is_last_empty = true;
    s->state = IN_MEMBER;
    return VNP_OK;
}

static vnp_status gzip_begin(struct vnp_seq_source *s) {
    VNP_TRY(peek(s, 2));
    size_t have = s->in_end - s->in_beg;
    const uint8_t *p = s->in + s->in_beg;
    if (have == 0) {
        if (s->packing == VNP_SEQ_BGZF && !s->is_last_empty) {
            vnp_status status = vnp_fail(VNP_TRUNCATED, VNP_FROM_INPUT,
                                         "truncated: the file ends after %lld stored bytes without "
                                         "BGZF's end marker",
                                         (long long)s->n_stored);
            vnp_error_hint("copy or download the file again");
            return status;
        }
        s->state = AT_END;
        return VNP_OK;
    }
    if (p[0] != 0x1f || (have > 1 && p[1] != 0x8b)) return fail_junk(s);
    s->n_members++;
    s->off_member = off_stored(s);
    return gzip_head(s);
}

static const char *inflate_reason(int rc) {
    switch (rc) {
    case ISAL_INVALID_BLOCK:
        return "an invalid deflate block";
    case ISAL_INVALID_SYMBOL:
        return "an invalid deflate symbol";
    case ISAL_INVALID_LOOKBACK:
        return "a deflate distance that reaches too far back";
    case ISAL_INCORRECT_CHECKSUM:
        return "checksum (CRC-32 or length) does not match";
    default:
        return "invalid deflate data";
    }
}

static vnp_status gzip_run(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    VNP_TRY(peek(s, 1));
    struct inflate_state *z = s->inflate;
    z->next_in = s->in + s->in_beg;
    z->avail_in = (uint32_t)(s->in_end - s->in_beg);
    z->next_out = dst;
    z->avail_out = (uint32_t)cap;
    uint32_t before = z->avail_in;
    int rc = isal_inflate(z);
    s->in_beg = s->in_end - z->avail_in;
    *n = cap - z->avail_out;
    if (*n) s->is_last_empty = false;
    if (rc < 0) return fail_corrupt(s, inflate_reason(rc));
    if (z->block_state == ISAL_BLOCK_FINISH)
        s->state = AT_MEMBER;
    else if (*n == 0 && before == z->avail_in && s->is_file_end)
        return fail_truncated(s, "the data");
    return VNP_OK;
}

/* ---- zstd ----------------------------------------------------------------------------------- */

static bool is_zstd_magic(const uint8_t *p) {
    static const uint8_t frame[4] = {0x28, 0xb5, 0x2f, 0xfd};
    bool is_skippable = (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18;
    return memcmp(p, frame, 4) == 0 || is_skippable;
}

static vnp_status zstd_begin(struct vnp_seq_source *s) {
    VNP_TRY(peek(s, 4));
    size_t have = s->in_end - s->in_beg;
    if (have == 0) {
        s->state = AT_END;
        return VNP_OK;
    }
    if (have < 4 || !is_zstd_magic(s->in + s->in_beg)) return fail_junk(s);
    s->n_members++;
    s->off_member = off_stored(s);
    s->state = IN_MEMBER;
    return VNP_OK;
}

static vnp_status zstd_run(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    VNP_TRY(peek(s, 1));
    ZSTD_inBuffer in = {s->in + s->in_beg, s->in_end - s->in_beg, 0};
    ZSTD_outBuffer out = {dst, cap, 0};
    size_t rc = ZSTD_decompressStream(s->zstd, &out, &in);
    s->in_beg += in.pos;
    *n = out.pos;
    if (ZSTD_isError(rc)) return fail_corrupt(s, ZSTD_getErrorName(rc));
    if (rc == 0)
        s->state = AT_MEMBER;
    else if (out.pos == 0 && in.size == 0 && s->is_file_end)
        return fail_truncated(s, "the data");
    return VNP_OK;
}

/* ---- the source ----------------------------------------------------------------------------- */

const char *vnp_seq_format_of_magic(const uint8_t *p, size_t n) {
    static const struct {
        const char *bytes, *name;
        size_t n;
    } known[] = {
        {"\x1f\x8b", "gzip", 2},
        {"\x28\xb5\x2f\xfd", "zstd", 4},
        {"BZh", "bzip2", 3},
        {"\xfd\x37zXZ", "xz", 5},
        {"PK\x03\x04", "zip", 4},
        {"\x1f\x9d", "compress (.Z)", 2},
        {"\x04\x22\x4d\x18", "lz4", 4},
        {"7z\xbc\xaf", "7z", 4},
        {"BAM\x01", "BAM", 4},
        {"CRAM", "CRAM", 4},
        {"\x89HDF", "HDF5", 4},
        {"%PDF", "PDF", 4},
        {"SQLite format 3", "SQLite", 15},
        {"\x43\x27\x41\x1a", "2bit", 4},
        {"\x1a\x41\x27\x43", "2bit", 4},
    };
    for (size_t i = 0; i < VNP_COUNT(known); i++)
        if (n >= known[i].n && memcmp(p, known[i].bytes, known[i].n) == 0) return known[i].name;
    return NULL;
}

static vnp_status source_alloc(struct vnp_seq_source **out) {
    struct vnp_seq_source *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for reading the input");
    s->fd = -1;
    s->in = malloc(IN_BYTES);
    if (!s->in) {
        vnp_seq_source_close(s);
        *out = NULL;
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for reading the input");
    }
    return VNP_OK;
}

vnp_status vnp_seq_source_open(const char *path, struct vnp_seq_source **out) {
    VNP_TRY(source_alloc(out));
    struct vnp_seq_source *s = *out;
    vnp_status status = VNP_OK;
    struct stat st;
    s->is_fd_owned = strcmp(path, "-") != 0;
    s->fd = s->is_fd_owned ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (s->fd < 0)
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot open the input");
    else if (fstat(s->fd, &st) == 0 && S_ISDIR(st.st_mode))
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, EISDIR, "cannot read the input");
    if (status != VNP_OK) {
        vnp_seq_source_close(s);
        *out = NULL;
        return status;
    }
    if (s->is_fd_owned) (void)posix_fadvise(s->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return VNP_OK;
}

vnp_status vnp_seq_source_open_memory(const void *data, size_t n, size_t read_max,
                                      struct vnp_seq_source **out) {
    VNP_TRY(source_alloc(out));
    (*out)->mem = data;
    (*out)->mem_len = n;
    (*out)->read_max = read_max;
    return VNP_OK;
}

void vnp_seq_source_cancel_set(struct vnp_seq_source *s, bool (*is_canceled)(void *ctx),
                               void *ctx) {
    s->is_canceled = is_canceled;
    s->cancel_ctx = ctx;
}

void vnp_seq_source_close(struct vnp_seq_source *s) {
    if (!s) return;
    if (s->fd >= 0 && s->is_fd_owned) (void)close(s->fd); /* read only: nothing to lose */
    ZSTD_freeDStream(s->zstd);
    free(s->inflate);
    free(s->in);
    free(s);
}

static vnp_status source_begin(struct vnp_seq_source *s) {
    VNP_TRY(peek(s, 4));
    size_t have = s->in_end - s->in_beg;
    const uint8_t *p = s->in + s->in_beg;
    s->state = AT_MEMBER;
    if (have >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
        s->packing = VNP_SEQ_GZIP;
        /* zeroed: a damaged stream may point back before its begin, and ISA-L then reads there */
        s->inflate = calloc(1, sizeof *s->inflate);
        if (!s->inflate) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for inflating");
        isal_inflate_init(s->inflate);
    } else if (have >= 4 && is_zstd_magic(p)) {
        s->packing = VNP_SEQ_ZSTD;
        s->zstd = ZSTD_createDStream();
        if (!s->zstd) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for zstd");
    } else {
        s->state = IN_PLAIN;
    }
    return VNP_OK;
}

static vnp_status plain_read(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    size_t have = s->in_end - s->in_beg;
    if (have == 0) return raw_read(s, dst, cap, n);
    *n = VNP_MIN(have, cap);
    memcpy(dst, s->in + s->in_beg, *n);
    s->in_beg += *n;
    return VNP_OK;
}

static vnp_status source_step(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    bool is_zstd = s->packing == VNP_SEQ_ZSTD;
    switch (s->state) {
    case AT_START:
        return source_begin(s);
    case IN_PLAIN:
        VNP_TRY(plain_read(s, dst, cap, n));
        if (*n == 0) s->state = AT_END;
        return VNP_OK;
    case AT_MEMBER:
        return is_zstd ? zstd_begin(s) : gzip_begin(s);
    case IN_MEMBER:
        return is_zstd ? zstd_run(s, dst, cap, n) : gzip_run(s, dst, cap, n);
    case AT_FAILURE:
        vnp_error_set(&s->failure);
        return s->failure.status;
    case AT_END:
    default:
        return VNP_OK;
    }
}

vnp_status vnp_seq_source_read(struct vnp_seq_source *s, uint8_t *dst, size_t cap, size_t *n) {
    *n = 0;
    while (*n == 0 && s->state != AT_END) {
        vnp_status status = source_step(s, dst, cap, n);
        if (status == VNP_OK) continue;
        s->state = AT_FAILURE;
        s->failure = *vnp_error_last();
        if (*n == 0) return status; /* else: first what was unpacked before the bad place */
    }
    return VNP_OK;
}

int64_t vnp_seq_source_stored(const struct vnp_seq_source *s) {
    return off_stored(s);
}

enum vnp_seq_packing vnp_seq_source_packing(const struct vnp_seq_source *s) {
    return s->packing;
}
