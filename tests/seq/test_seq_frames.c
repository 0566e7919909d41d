// SPDX-License-Identifier: MIT
// Six frames against a slow procedure that follows spec upstream A.4 word by word, over every short
// window and many random ones, and the three upstream files of the golden runs byte by byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <cmocka.h>

#include "seq/seq.h"
#include "support.h"

static const char amino_acids[] =
    "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG";

static char slow_codon(const char *s) {
    int idx = 0;
    for (int i = 0; i < 3; i++) {
        const char *at = s[i] ? strchr("TCAG", s[i]) : NULL;
        if (!at) return 0;
        idx = idx * 4 + (int)(at - "TCAG");
    }
    return amino_acids[idx];
}

struct slow_frame {
    bool is_kept;
    char nt[2048], aa[1024];
    int64_t nt_len, aa_len;
};

static void slow_frames(const char *window, int64_t len, struct slow_frame out[6]) {
    char up[2048], rc[2048];
    for (int64_t i = 0; i < len; i++) up[i] = (char)toupper((unsigned char)window[i]);
    for (int64_t i = 0; i < len; i++) {
        char c = up[len - 1 - i];
        rc[i] = (char)(c == 'A' ? 'T' : c == 'T' ? 'A' : c == 'C' ? 'G' : c == 'G' ? 'C' : c);
    }
    for (int f = 0; f < 6; f++) {
        const char *s = f < 3 ? up : rc;
        struct slow_frame *o = &out[f];
        bool has_stop = false;
        o->aa_len = 0;
        for (int64_t i = f % 3; i <= len - 3; i += 3) {
            char aa = slow_codon(s + i);
            if (aa == '*') has_stop = true;
            if (aa) o->aa[o->aa_len++] = aa;
        }
        o->is_kept = !has_stop && o->aa_len > 0;
        int64_t end = f % 3 + 3 * o->aa_len + 1;
        if (end > len) end = len;
        o->nt_len = end - f % 3;
        if (o->is_kept) memcpy(o->nt, s + f % 3, (size_t)o->nt_len);
    }
}

static void check(const char *window, int64_t len) {
    struct slow_frame want[6];
    struct vnp_frames got;
    /* exact allocations, so that the sanitizers see every byte too far */
    char *scratch = malloc(vnp_frames_scratch_bytes(len)), *copy = malloc((size_t)len + 1);
    assert_non_null(scratch);
    assert_non_null(copy);
    memcpy(copy, window, (size_t)len);
    memset(scratch, 0x5a, vnp_frames_scratch_bytes(len));
    slow_frames(window, len, want);
    vnp_frames_find(copy, len, scratch, &got);
    assert_memory_equal(copy, window, (size_t)len);
    for (int f = 0; f < 6; f++) {
        bool is_kept = got.kept >> f & 1, is_same = is_kept == want[f].is_kept;
        if (is_same && is_kept)
            is_same = got.aa_len[f] == want[f].aa_len && got.nt_len[f] == want[f].nt_len &&
                      memcmp(got.aa[f], want[f].aa, (size_t)want[f].aa_len) == 0 &&
                      memcmp(got.nt[f], want[f].nt, (size_t)want[f].nt_len) == 0;
        if (!is_same) fail_msg("frame %s of '%.*s' differs", vnp_frame_names[f], (int)len, window);
    }
    assert_int_equal(got.kept >> 6, 0);
    free(scratch);
    free(copy);
}

/* Every window of 0 to 5 bases over an alphabet with each class of character. */
static void test_all_short(void **state) {
    (void)state;
    static const char alphabet[] = "ACGTNaU";
    char w[6];
    for (int len = 0; len <= 5; len++) {
        int64_t n = 1;
        for (int i = 0; i < len; i++) n *= 7;
        for (int64_t k = 0; k < n; k++) {
            int64_t x = k;
            for (int i = 0; i < len; i++, x /= 7) w[i] = alphabet[x % 7];
            check(w, len);
        }
    }
}

/* Random windows; some with few stops, so that frames stay open. */
static void test_random(void **state) {
    (void)state;
    static const char *const alphabets[] = {
        "ACGT",        "ACGTacgt", "ACGTN", "ACGTACGTACGTRYKMSWBDHVNU-acgtnryu*",
        "CCCCCCCCGGA", "ACGC",     "N",     "GCAGCCGCTacn"};
    uint64_t seed = 20240717;
    char w[1024];
    print_message("# seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        const char *alphabet = alphabets[(size_t)i % VNP_COUNT(alphabets)];
        int64_t len = (int64_t)(support_random(&seed) % (i % 10 ? 120 : 1000));
        for (int64_t k = 0; k < len; k++) w[k] = alphabet[support_random(&seed) % strlen(alphabet)];
        check(w, len);
    }
}

/* All 256 bytes, each inside codons that would otherwise be translated. */
static void test_every_byte(void **state) {
    (void)state;
    char w[8] = "GCAGCAG";
    for (int c = 1; c < 256; c++)
        for (int at = 0; at < 7; at++) {
            if (c >= 0x80 || isprint(c)) {
                memcpy(w, "GCAGCAG", 7);
                w[at] = (char)c;
                check(w, 7);
            }
        }
}

static void expect(const char *window, int f, const char *nt, const char *aa) {
    struct vnp_frames got;
    char scratch[4096];
    vnp_frames_find(window, (int64_t)strlen(window), scratch, &got);
    if (!aa) {
        assert_false(got.kept >> f & 1);
        return;
    }
    assert_true(got.kept >> f & 1);
    assert_int_equal(got.nt_len[f], strlen(nt));
    assert_int_equal(got.aa_len[f], strlen(aa));
    assert_memory_equal(got.nt[f], nt, strlen(nt));
    assert_memory_equal(got.aa[f], aa, strlen(aa));
}

static void test_spec_examples(void **state) {
    (void)state;
    expect("ATGNNNAAA", 0, "ATGNNNA", "MK");
    expect("AUGAAA", 0, "AUGA", "K");
    expect("auGAaA", 0, "AUGA", "K");
    expect("TAATAATAA", 0, NULL, NULL);
    for (int f = 1; f < 6; f++) {
        struct vnp_frames got;
        char scratch[256];
        vnp_frames_find("TAATAATAA", 9, scratch, &got);
        assert_true(got.kept >> f & 1);
    }
    expect("GCATAA", 0, NULL, NULL); /* a stop at the end rejects, too */
    expect("NNNNNN", 0, NULL, NULL); /* an empty protein */
    /* the table of lengths for windows of plain bases */
    static const int rows[][7] = {{150, 150, 50, 148, 49, 148, 49},
                                  {151, 151, 50, 150, 50, 148, 49},
                                  {300, 300, 100, 298, 99, 298, 99},
                                  {499, 499, 166, 498, 166, 496, 165},
                                  {500, 499, 166, 499, 166, 498, 166}};
    char w[500], scratch[4096];
    memset(w, 'G', sizeof w);
    for (size_t i = 0; i < VNP_COUNT(rows); i++) {
        struct vnp_frames got;
        assert_true(vnp_frames_scratch_bytes(rows[i][0]) <= sizeof scratch);
        vnp_frames_find(w, rows[i][0], scratch, &got);
        assert_int_equal(got.kept, 63);
        for (int f = 0; f < 6; f++) {
            assert_int_equal(got.nt_len[f], rows[i][1 + 2 * (f % 3)]);
            assert_int_equal(got.aa_len[f], rows[i][2 + 2 * (f % 3)]);
        }
    }
}

struct sink {
    char *p;
    size_t n;
};

static void put(struct sink *s, const char *data, size_t n) {
    if (!s->p) s->p = calloc(1, 1 << 20); /* more than any golden file */
    assert_true(s->n + n <= 1 << 20);
    assert_non_null(s->p);
    memcpy(s->p + s->n, data, n);
    s->n += n;
}

static void put_fasta(struct sink *s, const char *id, int64_t k, const char *frame, const char *seq,
                      int64_t len, int64_t width) {
    char head[512];
    int n = snprintf(head, sizeof head, ">%s_chunk_%lld%s\n", id, (long long)k + 1, frame);
    put(s, head, (size_t)n);
    for (int64_t i = 0; i < len; i += width) {
        put(s, seq + i, (size_t)VNP_MIN(width, len - i));
        put(s, "\n", 1);
    }
}

static void compare(struct sink *s, const char *folder, const char *name) {
    char path[4400];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *want = support_read_file(path, &n);
    if (n != s->n || memcmp(want, s->p, n) != 0) fail_msg("%s differs", path);
    free(want);
    free(s->p);
}

static void golden(const char *name, int64_t window) {
    char folder[4200], path[4400], scratch[8192];
    snprintf(folder, sizeof folder, "%s/pipeline/%s", support_goldens(), name);
    snprintf(path, sizeof path, "%s/input.fa", folder);
    const char *paths[1] = {path};
    struct vnp_seq_reader *r;
    struct vnp_seq_record rec;
    struct sink chunked = {0}, nt = {0}, aa = {0};
    bool has;
    assert_int_equal(vnp_seq_reader_open(paths, 1, NULL, &r), VNP_OK);
    for (;;) {
        assert_int_equal(vnp_seq_reader_next(r, &rec, &has), VNP_OK);
        if (!has) break;
        struct vnp_windows w;
        assert_int_equal(vnp_windows_init((int64_t)rec.len, window, &w), VNP_OK);
        for (int64_t k = 0; k < w.n; k++) {
            struct vnp_frames got;
            int64_t a, b;
            vnp_windows_at(&w, k, &a, &b);
            put_fasta(&chunked, rec.id, k, "", rec.seq + a, b - a, 60);
            vnp_frames_find(rec.seq + a, b - a, scratch, &got);
            for (int f = 0; f < 6; f++) {
                if (!(got.kept >> f & 1)) continue;
                put_fasta(&nt, rec.id, k, vnp_frame_names[f], got.nt[f], got.nt_len[f], 1 << 20);
                put_fasta(&aa, rec.id, k, vnp_frame_names[f], got.aa[f], got.aa_len[f], 1 << 20);
            }
        }
    }
    vnp_seq_reader_close(r);
    compare(&chunked, folder, "chunked.fa");
    compare(&nt, folder, "nucleotide.fa");
    compare(&aa, folder, "protein.faa");
}

static void test_goldens(void **state) {
    (void)state;
    golden("chunk500", 500);
    golden("chunk300", 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_short),  cmocka_unit_test(test_random),
        cmocka_unit_test(test_every_byte), cmocka_unit_test(test_spec_examples),
        cmocka_unit_test(test_goldens),
    };
    return cmocka_run_group_tests_name("seq frames", tests, NULL, NULL);
}
