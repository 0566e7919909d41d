// SPDX-License-Identifier: MIT
// The reader over sound input: what a record is, however the bytes are packed and wherever the
// seams between reads fall; every cut and every flipped bit of packed files; several files, pipes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <unistd.h>

#include <zlib.h>
#include <zstd.h>

#include "seq/seq_private.h"
#include "support.h"

/* ---- packing -------------------------------------------------------------------------------- */

struct bytes {
    uint8_t *p;
    size_t n;
};

static size_t room_for(size_t n) {
    size_t room = 16;
    while (room <= n) room *= 2;
    return room;
}

static void append(struct bytes *b, const void *data, size_t n) {
    if (!b->p || room_for(b->n + n) != room_for(b->n)) b->p = realloc(b->p, room_for(b->n + n));
    assert_non_null(b->p);
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}

/* One gzip member, as BGZF block when is_bgzf. */
static void append_member(struct bytes *b, const char *text, size_t n, bool is_bgzf) {
    z_stream z = {0};
    uint8_t extra[6] = {'B', 'C', 2, 0, 0, 0};
    gz_header head = {.os = 255, .extra = extra, .extra_len = 6};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    if (is_bgzf) assert_int_equal(deflateSetHeader(&z, &head), Z_OK);
    size_t cap = deflateBound(&z, n) + 64;
    uint8_t *out = malloc(cap), *in = malloc(n + 1);
    assert_non_null(out);
    assert_non_null(in);
    if (n) memcpy(in, text, n);
    z.next_in = in;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t used = cap - z.avail_out;
    if (is_bgzf) {
        out[16] = (uint8_t)((used - 1) & 255);
        out[17] = (uint8_t)((used - 1) >> 8);
    }
    append(b, out, used);
    deflateEnd(&z);
    free(out);
    free(in);
}

static void append_zstd(struct bytes *b, const char *text, size_t n) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    size_t cap = ZSTD_compressBound(n);
    void *out = malloc(cap);
    assert_non_null(c);
    assert_non_null(out);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t used = ZSTD_compress2(c, out, cap, text, n);
    assert_false(ZSTD_isError(used));
    append(b, out, used);
    free(out);
    ZSTD_freeCCtx(c);
}

enum { PLAIN, GZIP, GZIP_MANY, BGZF, ZSTD, ZSTD_MANY, N_PACKINGS };

static struct bytes pack(const char *text, size_t n, int how) {
    struct bytes b = {0};
    bool is_many = how == GZIP_MANY || how == BGZF || how == ZSTD_MANY;
    size_t step = is_many ? n / 3 + 1 : n;
    if (how == PLAIN) append(&b, text, n);
    if (how == ZSTD_MANY) append(&b, "\x50\x2a\x4d\x18\x03\0\0\0abc", 11); /* skippable */
    for (size_t at = 0; how != PLAIN && (at < n || at == 0); at += step ? step : 1) {
        size_t len = VNP_MIN(step, n - at);
        if (how == ZSTD || how == ZSTD_MANY)
            append_zstd(&b, text + at, len);
        else
            append_member(&b, text + at, len, how == BGZF);
    }
    if (how == GZIP_MANY || how == BGZF) append_member(&b, "", 0, how == BGZF);
    return b;
}

/* ---- reading into a text that can be compared ----------------------------------------------- */

/* "id|header|sequence|line|byte\n" a record. */
static vnp_status dump(struct vnp_seq_reader *r, struct bytes *out,
                       struct vnp_seq_reader_stats *stats) {
    struct vnp_seq_record rec;
    bool has;
    vnp_status status;
    int64_t n = 0;
    while ((status = vnp_seq_reader_next(r, &rec, &has)) == VNP_OK && has) {
        char place[64];
        assert_int_equal(rec.idx, n++);
        assert_int_equal(strlen(rec.id), rec.id_len);
        assert_int_equal(strlen(rec.header), rec.header_len);
        append(out, rec.id, rec.id_len);
        append(out, "|", 1);
        append(out, rec.header, rec.header_len);
        append(out, "|", 1);
        append(out, rec.seq, rec.len);
        append(out, place,
               (size_t)snprintf(place, sizeof place, "|%lld|%lld\n", (long long)rec.line,
                                (long long)rec.off_byte));
    }
    append(out, "", 0);
    out->p[out->n] = 0;
    if (stats) vnp_seq_reader_stats(r, stats);
    return status;
}

static vnp_status dump_memory(const void *data, size_t n, size_t read_max, size_t buf,
                              struct bytes *out, struct vnp_seq_reader_stats *stats) {
    struct vnp_seq_reader *r;
    /* an exact copy, so that the sanitizers see a byte too far */
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, data, n);
    assert_int_equal(vnp_seq_reader_open_memory(copy, n, "mem", read_max, buf, &r), VNP_OK);
    vnp_status status = dump(r, out, stats);
    vnp_seq_reader_close(r);
    free(copy);
    return status;
}

static void expect_all_ways(const char *text, size_t n, const char *want) {
    static const size_t read_max[] = {0, 1, 2, 3, 7, 64}, bufs[] = {0, 16, 17, 31, 64, 1000};
    for (int how = 0; how < N_PACKINGS; how++) {
        struct bytes packed = pack(text, n, how);
        for (size_t i = 0; i < VNP_COUNT(read_max); i++)
            for (size_t k = 0; k < VNP_COUNT(bufs); k++) {
                struct bytes got = {0};
                struct vnp_seq_reader_stats stats;
                vnp_status status =
                    dump_memory(packed.p, packed.n, read_max[i], bufs[k], &got, &stats);
                if (status != VNP_OK || strcmp((char *)got.p, want) != 0)
                    fail_msg(
                        "packing %d, reads of %zu, buffer %zu: status %d (%s), got\n%s\nwant\n%s",
                        how, read_max[i], bufs[k], status, status ? vnp_error_last()->text : "",
                        (char *)got.p, want);
                assert_int_equal(stats.n_bytes_plain, n);
                assert_int_equal(stats.n_bytes_stored, packed.n);
                assert_int_equal(stats.n_files_done, 1);
                free(got.p);
            }
        free(packed.p);
    }
}

static void test_records(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"", ""},
        {"\n\n", ""},
        {" \t\r\n", ""},
        {">a\nACGT\n", "a|a|ACGT|1|0\n"},
        {">a\nACGT", "a|a|ACGT|1|0\n"},
        {">a", "a|a||1|0\n"},
        {">", "|||1|0\n"},
        {">\n", "|||1|0\n"},
        {">\nAC\n> \nGT\n", "||AC|1|0\n||GT|3|5\n"},
        {"> a b\nAC\n", "a| a b|AC|1|0\n"},
        {">\ta b \t\nAC\n", "a|\ta b|AC|1|0\n"},
        {">a\n>b\n\n>c\nA\n", "a|a||1|0\n"
                              "b|b||2|3\n"
                              "c|c|A|4|7\n"},
        {">a x y\nAC\nGT\n\nNN\n", "a|a x y|ACGTNN|1|0\n"},
        {">a\r\nAC\r\nGT\r\n>b\r\nT", "a|a|ACGT|1|0\n"
                                      "b|b|T|4|12\n"},
        {">a\nA C\tG\rT \t\r\n", "a|a|ACGT|1|0\n"},
        {"\n\r\n>a\nacgtRYKMSWBDHVNu\n", "a|a|acgtRYKMSWBDHVNu|3|3\n"},
        {">p|x\nMKV*LL-.X7<mask>\nB>A\n", "p|x|p|x|MKV*LL-.X7<mask>B>A|1|0\n"},
        {"\xef\xbb\xbf>a\nAC\n", "a|a|AC|1|3\n"},
        {">a \xc3\xa9t\xc3\xa9\nAC\n", "a|a \xc3\xa9t\xc3\xa9|AC|1|0\n"},
        {">a>b\nAC\n", "a>b|a>b|AC|1|0\n"},
        {">a\n;no comment\n", "a|a|;nocomment|1|0\n"},
        {"@a\nACGT\n+\nIIII\n", "a|a|ACGT|1|0\n"},
        {"@a\nACGT\n+\nIIII", "a|a|ACGT|1|0\n"},
        {"@a 1\nACGT\n+a 1\n@III\n@b\nA\n+\n+\n", "a|a 1|ACGT|1|0\n"
                                                  "b|b|A|5|20\n"},
        {"@a\r\nACGT\r\n+\r\nIIII\r\n\r\n@b\r\nA\r\n+b\r\nI\r\n", "a|a|ACGT|1|0\n"
                                                                  "b|b|A|6|21\n"},
        {"@a\nAC\nGT\n+\nI\n@I\nI\n@b\nA\n+\n>\n", "a|a|ACGT|1|0\n"
                                                   "b|b|A|8|18\n"},
        {"@a\n\n+\n\n@b\n+\n@c\nA\n+\nI\n", "a|a||1|0\n"
                                            "b|b||5|7\n"
                                            "c|c|A|7|12\n"},
        {"@a\n\n+\n", "a|a||1|0\n"},
        {"@a\n+", "a|a||1|0\n"},
        {"@\nAC\n+\nII \n", "||AC|1|0\n"},
        {"@a\nACGTACGTACGTACGTACGTACGTACGTACGTACGTAC\n+\n~~~~~~~~~~~~~~~~!!!!!!!!!!!!!!!!!!!!!!\n",
         "a|a|ACGTACGTACGTACGTACGTACGTACGTACGTACGTAC|1|0\n"},
    };
    for (size_t i = 0; i < VNP_COUNT(rows); i++)
        expect_all_ways(rows[i].text, strlen(rows[i].text), rows[i].want);
}

/* ---- random files --------------------------------------------------------------------------- */

/* Makes a file and, beside it, what must come out. */
static void make_random(uint64_t *seed, struct bytes *text, struct bytes *want) {
    static const char letters[] = "ACGTacgtNRYKMSWBDHVUu*-.";
    bool is_fastq = support_random(seed) % 2, is_crlf = support_random(seed) % 2;
    const char *nl = is_crlf ? "\r\n" : "\n";
    int64_t line = 1;
    for (int n = (int)(support_random(seed) % 12); n > 0; n--) {
        char s[512], q[512], id[32], buf[64];
        size_t len = support_random(seed) % (n % 4 ? 40 : 300),
               width = 1 + support_random(seed) % 80;
        if (is_fastq && support_random(seed) % 2) width = 512;
        for (size_t i = 0; i < len; i++) {
            s[i] = letters[support_random(seed) % (sizeof letters - 1)];
            q[i] = (char)(33 + support_random(seed) % 94);
        }
        snprintf(id, sizeof id, "r%d_%u", n, (unsigned)(support_random(seed) % 1000));
        append(want, id, strlen(id));
        append(want, "|", 1);
        append(want, id, strlen(id));
        append(want, " x|", 3);
        append(want, s, len);
        append(want, buf,
               (size_t)snprintf(buf, sizeof buf, "|%lld|%zu\n", (long long)line, text->n));
        append(text, buf,
               (size_t)snprintf(buf, sizeof buf, "%c%s x%s", is_fastq ? '@' : '>', id, nl));
        line++;
        for (size_t i = 0; i < len || (i == 0 && is_fastq); i += width, line++) {
            append(text, s + i, VNP_MIN(width, len - i));
            append(text, nl, strlen(nl));
        }
        if (!is_fastq) continue;
        append(text, "+", 1);
        append(text, nl, strlen(nl));
        line++;
        for (size_t i = 0; i < len || i == 0; i += width, line++) {
            append(text, q + i, VNP_MIN(width, len - i));
            append(text, nl, strlen(nl));
        }
    }
    append(want, "", 1);
    append(text, "", 0);
}

static void test_random(void **state) {
    (void)state;
    uint64_t seed = 7;
    print_message("# seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 60; i++) {
        struct bytes text = {0}, want = {0};
        make_random(&seed, &text, &want);
        expect_all_ways((char *)text.p, text.n, (char *)want.p);
        free(text.p);
        free(want.p);
    }
}

/* Larger than every buffer, lines of all lengths. */
static void test_large(void **state) {
    (void)state;
    uint64_t seed = 11;
    struct bytes text = {0}, seq = {0};
    static const size_t widths[] = {60, 1, 17, 70, 4096, 1 << 20};
    for (size_t k = 0; k < VNP_COUNT(widths); k++) {
        text.n = seq.n = 0;
        append(&text, ">a\n", 3);
        for (size_t len = 0; len < 1500000; len += widths[k]) {
            size_t n = widths[k];
            char *line = malloc(n);
            assert_non_null(line);
            for (size_t i = 0; i < n; i++) line[i] = "ACGT"[support_random(&seed) & 3];
            append(&text, line, n);
            append(&text, "\n", 1);
            append(&seq, line, n);
            free(line);
            if (widths[k] == 1 && len > 300000) break;
        }
        for (int how = 0; how < N_PACKINGS; how++) {
            struct bytes packed =
                pack((char *)text.p, how == BGZF ? VNP_MIN(text.n, (size_t)150000) : text.n, how);
            struct vnp_seq_reader *r;
            struct vnp_seq_record rec;
            bool has;
            assert_int_equal(vnp_seq_reader_open_memory(packed.p, packed.n, "mem", 0, 0, &r),
                             VNP_OK);
            assert_int_equal(vnp_seq_reader_next(r, &rec, &has), VNP_OK);
            assert_true(has);
            if (how != BGZF) assert_int_equal(rec.len, seq.n);
            assert_memory_equal(rec.seq, seq.p, rec.len);
            assert_int_equal(vnp_seq_reader_next(r, &rec, &has), VNP_OK);
            assert_false(has);
            vnp_seq_reader_close(r);
            free(packed.p);
        }
    }
    free(text.p);
    free(seq.p);
}

static void test_span(void **state) {
    (void)state;
    uint8_t in[80], *tight;
    char out[80 + VNP_SEQ_SPAN_SLACK];
    for (int c = 0; c < 256; c++)
        for (size_t n = 0; n <= 40; n++)
            for (size_t at = 0; at < n; at++) {
                memset(in, 'A', sizeof in);
                in[at] = (uint8_t)c;
                bool is_graph = c > 32 && c < 127;
                tight = malloc(n);
                assert_non_null(tight);
                memcpy(tight, in, n);
                size_t want = is_graph ? n : at;
                assert_int_equal(vnp_seq_span_graph(tight, n, out), want);
                assert_memory_equal(out, tight, want);
                assert_int_equal(vnp_seq_span_graph(tight, n, NULL), want);
                free(tight);
                if (at > 20 && c % 16) break;
            }
}

/* ---- damage --------------------------------------------------------------------------------- */

static const char sample[] =
    ">a first\nACGTACGTACGTNNNNACGTTTGACCA\nACCA\n>b\nGGGTTTAAACCC\n>c third\n"
    "TTTTTTTTTTTTTTTTTTTTTTTTTTTTGACGATCGATCGATCGACTAGC\n";

/* Every cut of a packed file is an error, but for a cut between gzip members or zstd frames, which
 * nothing can tell from a whole file. */
static void test_every_cut(void **state) {
    (void)state;
    for (int how = GZIP; how < N_PACKINGS; how++) {
        struct bytes packed = pack(sample, sizeof sample - 1, how);
        int n_sound = 0;
        for (size_t n = 1; n < packed.n; n++)
            for (size_t read_max = 0; read_max < 2; read_max++) {
                struct bytes got = {0};
                vnp_status status = dump_memory(packed.p, n, read_max, 0, &got, NULL);
                free(got.p);
                n_sound += status == VNP_OK;
                if (status == VNP_OK) continue;
                const struct vnp_error *e = vnp_error_last();
                assert_true(status == VNP_TRUNCATED || status == VNP_FORMAT);
                assert_int_equal(e->origin, VNP_FROM_INPUT);
                assert_string_equal(e->file, "mem");
                if (n >= 5 && status != VNP_TRUNCATED && how != ZSTD_MANY && how != GZIP_MANY)
                    fail_msg("packing %d cut at %zu: status %d (%s)", how, n, status, e->text);
            }
        int n_seams = how == GZIP_MANY ? 3 : how == ZSTD_MANY ? 3 : 0;
        assert_int_equal(n_sound, 2 * n_seams);
        free(packed.p);
    }
}

/* A flipped bit is an error or (fields of a header that carry no data) changes no record. */
static void test_every_bit(void **state) {
    (void)state;
    struct bytes want = {0};
    assert_int_equal(dump_memory(sample, sizeof sample - 1, 0, 0, &want, NULL), VNP_OK);
    for (int how = GZIP; how < N_PACKINGS; how++) {
        struct bytes packed = pack(sample, sizeof sample - 1, how);
        int n_unseen = 0;
        for (size_t bit = 0; bit < 8 * packed.n; bit++) {
            struct bytes got = {0};
            packed.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
            vnp_status status = dump_memory(packed.p, packed.n, bit % 3, 0, &got, NULL);
            packed.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (status == VNP_OK) {
                n_unseen++;
                if (strcmp((char *)got.p, (char *)want.p) != 0)
                    fail_msg("packing %d: bit %zu changes records unseen", how, bit);
            }
            free(got.p);
        }
        print_message("# packing %d: %d of %zu flipped bits leave the records as they are\n", how,
                      n_unseen, 8 * packed.n);
        free(packed.p);
    }
    free(want.p);
}

/* ---- identity ------------------------------------------------------------------------------- */

static struct vnp_hash128 identity(const char *text) {
    struct bytes got = {0};
    struct vnp_seq_reader_stats stats;
    assert_int_equal(dump_memory(text, strlen(text), 0, 0, &got, &stats), VNP_OK);
    free(got.p);
    return stats.content;
}

static bool is_same(const char *a, const char *b) {
    struct vnp_hash128 x = identity(a), y = identity(b);
    return x.lo == y.lo && x.hi == y.hi;
}

static void test_identity(void **state) {
    (void)state;
    assert_true(is_same(">a\nACGT\n>b\nAA\n", ">a other words\r\nAC\r\nGT\r\n>b\r\nAA"));
    assert_true(is_same(">a\nACGT\n", "@a\nACGT\n+\nIIII\n"));
    assert_false(is_same(">a\nACGT\n>b\nAA\n", ">b\nAA\n>a\nACGT\n"));
    assert_false(is_same(">a\nACGT\n>b\nAA\n", ">a\nACG\n>b\nTAA\n"));
    assert_false(is_same(">a\nACGT\n", ">a\nACGt\n"));
    assert_false(is_same(">a\nACGT\n", ">b\nACGT\n"));
    assert_false(is_same(">a\nACGT\n", ">a\nACGT\n>\n"));
    assert_false(is_same("", ">\n"));
}

/* ---- files ---------------------------------------------------------------------------------- */

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#define SCRATCH VNP_TEST_BINARY_DIR "/test_seq_reader."

static void test_files(void **state) {
    (void)state;
    static const char fa[] = ">a\nACGT\n>b\nGG", fq[] = "@c\nTT\n+\nII";
    struct bytes gz = pack(fq, sizeof fq - 1, GZIP), zst = pack(fa, sizeof fa - 1, ZSTD), got = {0};
    write_file(SCRATCH "1", fa, sizeof fa - 1);
    write_file(SCRATCH "2", "", 0);
    write_file(SCRATCH "3", gz.p, gz.n);
    write_file(SCRATCH "4", zst.p, zst.n);
    const char *paths[] = {SCRATCH "1", SCRATCH "2", SCRATCH "3", SCRATCH "4"};
    struct vnp_seq_reader *r;
    struct vnp_seq_reader_stats stats;
    assert_int_equal(vnp_seq_reader_open(paths, 4, NULL, &r), VNP_OK);
    assert_int_equal(vnp_seq_reader_total_bytes(r), sizeof fa - 1 + gz.n + zst.n);
    assert_int_equal(dump(r, &got, &stats), VNP_OK);
    vnp_seq_reader_close(r);
    assert_string_equal((char *)got.p,
                        "a|a|ACGT|1|0\nb|b|GG|3|8\nc|c|TT|1|0\na|a|ACGT|1|0\nb|b|GG|3|8\n");
    assert_int_equal(stats.n_records, 5);
    assert_int_equal(stats.n_residues, 14);
    assert_int_equal(stats.n_files_done, 4);
    assert_int_equal(stats.n_bytes_stored, sizeof fa - 1 + gz.n + zst.n);
    assert_int_equal(stats.n_bytes_plain, 2 * (sizeof fa - 1) + sizeof fq - 1);
    /* stdin, as a file and as a pipe */
    for (int is_pipe = 0; is_pipe < 2; is_pipe++) {
        int saved = dup(0), fds[2];
        if (is_pipe) {
            assert_int_equal(pipe(fds), 0);
            assert_int_equal(write(fds[1], gz.p, gz.n), gz.n);
            close(fds[1]);
        } else {
            fds[0] = open(SCRATCH "3", O_RDONLY);
        }
        assert_int_equal(dup2(fds[0], 0), 0);
        close(fds[0]);
        const char *dash[] = {SCRATCH "1", "-"};
        got.n = 0;
        assert_int_equal(vnp_seq_reader_open(dash, 2, NULL, &r), VNP_OK);
        assert_int_equal(vnp_seq_reader_total_bytes(r), -1);
        assert_int_equal(dump(r, &got, NULL), VNP_OK);
        vnp_seq_reader_close(r);
        assert_string_equal((char *)got.p, "a|a|ACGT|1|0\nb|b|GG|3|8\nc|c|TT|1|0\n");
        assert_true(saved < 0 || dup2(saved, 0) == 0);
        if (saved >= 0) close(saved);
    }
    for (size_t i = 0; i < 4; i++) unlink(paths[i]);
    free(gz.p);
    free(zst.p);
    free(got.p);
}

/* Proteins of the goldens' kind, reads, ambiguity codes, and what is too short to tell. */
static void test_kind(void **state) {
    (void)state;
    static const struct {
        const char *seq;
        enum vnp_seq_kind kind;
    } rows[] = {
        {"", VNP_SEQ_KIND_UNCLEAR},
        {"MKTAYIAKQR", VNP_SEQ_KIND_UNCLEAR},
        {"MKTAYIAKQRQISFVKSHFSRQ", VNP_SEQ_KIND_PROTEIN},
        {"mktayiakqrqisfvkshfsrq", VNP_SEQ_KIND_PROTEIN},
        {"ACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACG", VNP_SEQ_KIND_UNCLEAR},
        {"ACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGN", VNP_SEQ_KIND_DNA},
        {"acguacguacguacguacguacguacguacguacguacguacguacguacguacguacgn", VNP_SEQ_KIND_DNA},
        {"RYKMSWBDHVNACGTRYKMSWBDHVNACGTRYKMSWBDHVNACGTRYKMSWBDHVNACGT", VNP_SEQ_KIND_UNCLEAR},
        {"************************************************************", VNP_SEQ_KIND_UNCLEAR},
    };
    for (size_t i = 0; i < VNP_COUNT(rows); i++)
        if (vnp_seq_kind_of(rows[i].seq, strlen(rows[i].seq)) != rows[i].kind)
            fail_msg("row %zu: %s", i, rows[i].seq);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),   cmocka_unit_test(test_random),
        cmocka_unit_test(test_large),     cmocka_unit_test(test_span),
        cmocka_unit_test(test_every_cut), cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_identity),  cmocka_unit_test(test_files),
        cmocka_unit_test(test_kind),
    };
    return cmocka_run_group_tests_name("seq reader", tests, NULL, NULL);
}
