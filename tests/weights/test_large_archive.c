// SPDX-License-Identifier: MIT
// torch.save archives over 4 GiB, laid out as torch writes them (zip64 in the directory, sizes 0 in
// the local headers) but with a hole where the bulk would be: small tensors behind 4 GiB, and
// slices at both ends of a storage of 4 GiB. The model must be that of a small archive, byte by
// byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

enum { N_TENSORS = 8, HIDDEN = 4, INPUTS = 6 };
/* Elements of two bytes: a little more than 4 GiB, and than 2^32 elements (8 GiB). */
#define N_LARGE ((int64_t)0x80000000 + 4096)
#define N_LARGER ((int64_t)0x100000000 + 4096)

static const struct {
    const char *name;
    int64_t rows, cols; /* rows 0: a vector */
} tensors[N_TENSORS] = {{"hidden_layer.weight", HIDDEN, INPUTS},
                        {"hidden_layer.bias", 0, HIDDEN},
                        {"bn1.weight", 0, HIDDEN},
                        {"bn1.bias", 0, HIDDEN},
                        {"bn1.running_mean", 0, HIDDEN},
                        {"bn1.running_var", 0, HIDDEN},
                        {"output_layer.weight", 2, HIDDEN},
                        {"output_layer.bias", 0, 2}};

/* Where the tensors lie: each in a storage of its own, or in one of n_shared elements. */
struct layout {
    int64_t n_hole;   /* bytes of an entry in front of the storages; 0: there is none */
    int64_t n_shared; /* 0: a storage each */
    int64_t at[N_TENSORS];
};

struct buffer {
    uint8_t data[8192];
    size_t n;
};

static void add(struct buffer *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}
static void add_text(struct buffer *b, const char *text) {
    add(b, text, strlen(text));
}
static void add_number(struct buffer *b, uint64_t x, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++) add(b, &(uint8_t){i < 8 ? (uint8_t)(x >> 8 * i) : 0}, 1);
}

/* ---- pickle -------------------------------------------------------------------------------- */

static void pickle_text(struct buffer *b, const char *text) {
    add_text(b, "X");
    add_number(b, strlen(text), 4);
    add_text(b, text);
}
static void pickle_int(struct buffer *b, int64_t x) {
    if (x <= INT32_MAX) {
        add_text(b, "J");
        add_number(b, (uint64_t)x, 4);
    } else { /* as Python: no BININT from 2^31 on */
        add_text(b, "\x8a\x05");
        add_number(b, (uint64_t)x, 5);
    }
}

static int64_t count_of(int i) {
    return VNP_MAX(tensors[i].rows, 1) * tensors[i].cols;
}

static void pickle_tensor(struct buffer *b, const struct layout *l, int i) {
    char key[2] = {(char)('0' + (l->n_shared ? 0 : i)), 0};
    pickle_text(b, tensors[i].name);
    add_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(b, "storage");
    add_text(b, "ctorch\nHalfStorage\n");
    pickle_text(b, key);
    pickle_text(b, "cpu");
    pickle_int(b, l->n_shared ? l->n_shared : count_of(i));
    add_text(b, "tQ");
    pickle_int(b, l->n_shared ? l->at[i] : 0);
    add_text(b, "(");
    if (tensors[i].rows) pickle_int(b, tensors[i].rows);
    pickle_int(b, tensors[i].cols);
    add_text(b, "t(");
    if (tensors[i].rows) pickle_int(b, tensors[i].cols);
    pickle_int(b, 1);
    add_text(b, "t\x89"
                "ccollections\nOrderedDict\n)RtR");
}

static void pickle_all(struct buffer *b, const struct layout *l) {
    add_text(b, "\x80\x02"
                "ccollections\nOrderedDict\n)R(");
    for (int i = 0; i < N_TENSORS; i++) pickle_tensor(b, l, i);
    add_text(b, "u.");
}

/* ---- zip ----------------------------------------------------------------------------------- */

struct archive {
    int fd;
    int64_t at; /* end of what was written or left out */
    struct buffer directory;
    int n_entries;
};

static void put(struct archive *a, const void *data, size_t n, int64_t at) {
    assert_int_equal(pwrite(a->fd, data, n, (off_t)at), (ssize_t)n);
}

/* An entry of n bytes, of which nothing is written: a hole. Returns where they begin. */
static int64_t begin_entry(struct archive *a, const char *name, int64_t n) {
    struct buffer local = {.n = 0};
    int64_t off = a->at;
    add_text(&local, "PK\3\4");
    add_number(&local, 0, 2);
    add_number(&local, 0x0808, 2); /* flags: sizes come behind the data */
    add_number(&local, 0, 2 + 4 + 4 + 4 + 4);
    add_number(&local, strlen(name), 2);
    add_number(&local, 0, 2);
    add_text(&local, name);
    put(a, local.data, local.n, off);
    int64_t start = off + (int64_t)local.n;
    a->at = start + n;
    struct buffer *d = &a->directory;
    add_text(d, "PK\1\2");
    add_number(d, 0, 4);
    add_number(d, 0x0808, 2);
    add_number(d, 0, 2 + 4 + 4);
    add_number(d, n >= 0xffffffff ? 0xffffffff : (uint64_t)n, 4);
    add_number(d, n >= 0xffffffff ? 0xffffffff : (uint64_t)n, 4);
    add_number(d, strlen(name), 2);
    size_t n_extra = (n >= 0xffffffff ? 16u : 0u) + (off >= 0xffffffff ? 8u : 0u);
    add_number(d, n_extra ? n_extra + 4 : 0, 2);
    add_number(d, 0, 2 + 2 + 2 + 4);
    add_number(d, off >= 0xffffffff ? 0xffffffff : (uint64_t)off, 4);
    add_text(d, name);
    if (n_extra) {
        add_number(d, 1, 2);
        add_number(d, n_extra, 2);
        if (n >= 0xffffffff) add_number(d, (uint64_t)n, 8);
        if (n >= 0xffffffff) add_number(d, (uint64_t)n, 8);
        if (off >= 0xffffffff) add_number(d, (uint64_t)off, 8);
    }
    a->n_entries++;
    return start;
}

static void put_entry(struct archive *a, const char *name, const void *data, size_t n) {
    put(a, data, n, begin_entry(a, name, (int64_t)n));
}

static void end_archive(struct archive *a) {
    struct buffer b = a->directory;
    uint64_t off = (uint64_t)a->at, n_dir = b.n, n = (uint64_t)a->n_entries;
    add_text(&b, "PK\6\6");
    add_number(&b, 44, 8);
    add_number(&b, 0x2d001e, 4);
    add_number(&b, 0, 8);
    add_number(&b, n, 8);
    add_number(&b, n, 8);
    add_number(&b, n_dir, 8);
    add_number(&b, off, 8);
    add_text(&b, "PK\6\7");
    add_number(&b, 0, 4);
    add_number(&b, off + n_dir, 8);
    add_number(&b, 1, 4);
    add_text(&b, "PK\5\6");
    add_number(&b, 0, 4);
    add_number(&b, n, 2);
    add_number(&b, n, 2);
    add_number(&b, n_dir, 4);
    add_number(&b, off >= 0xffffffff ? 0xffffffff : off, 4);
    add_number(&b, 0, 2);
    put(a, b.data, b.n, a->at);
}

/* ---- the model ----------------------------------------------------------------------------- */

/* Element j of tensor i in FP16: one in [1, 2), never the zeros of a hole, all different. */
static uint16_t value(int i, int64_t j) {
    return (uint16_t)(0x3c00 + 32 * i + j);
}

static void path_of(char *path, size_t n, const char *name) {
    snprintf(path, n, "%s/large_%s_%ld.pth", VNP_TEST_BINARY_DIR, name, (long)getpid());
}

/* Writes the archive; its name goes to path. */
static void write_archive(const char *name, const struct layout *l, char path[4096]) {
    struct archive a = {.fd = -1};
    struct buffer pickle = {.n = 0};
    path_of(path, 4096, name);
    a.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    assert_true(a.fd >= 0);
    pickle_all(&pickle, l);
    put_entry(&a, "m/data.pkl", pickle.data, pickle.n);
    if (l->n_hole) (void)begin_entry(&a, "m/data/hole", l->n_hole);
    int64_t shared = l->n_shared ? begin_entry(&a, "m/data/0", 2 * l->n_shared) : 0;
    for (int i = 0; i < N_TENSORS; i++) {
        uint16_t x[HIDDEN * INPUTS];
        char key[] = {'m', '/', 'd', 'a', 't', 'a', '/', (char)('0' + i), 0};
        for (int64_t j = 0; j < count_of(i); j++) x[j] = value(i, j);
        size_t n = (size_t)count_of(i) * sizeof *x;
        if (!l->n_shared)
            put_entry(&a, key, x, n);
        else if (l->at[i] + count_of(i) <= l->n_shared)
            put(&a, x, n, shared + 2 * l->at[i]);
    }
    put_entry(&a, "m/version", "3\n", 2);
    end_archive(&a);
    assert_int_equal(close(a.fd), 0);
}

static vnp_status open_archive(const char *path, struct vnp_checkpoint **c) {
    *c = NULL;
    return vnp_checkpoint_open(path, VNP_MODEL_CLASSIFIER, c);
}

/* Holes are free here, and files may have 9 GiB: otherwise the test is skipped. */
static void need_holes(void) {
    char path[4096];
    struct stat st = {0};
    path_of(path, sizeof path, "probe");
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is then an error of pwrite */
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    bool is_sparse = pwrite(fd, "x", 1, 64 << 20) == 1 && fsync(fd) == 0 && fstat(fd, &st) == 0 &&
                     st.st_blocks < 16 << 11;
    bool is_large = is_sparse && pwrite(fd, "x", 1, (off_t)9 << 30) == 1;
    close(fd);
    unlink(path);
    if (is_large) return;
    print_message("# SKIP %s\n", is_sparse ? "files of 9 GiB are not allowed here"
                                           : "the file system has no sparse files");
    skip();
}

static void check_model(const char *path) {
    static const char *const canonical[N_TENSORS] = {"hidden.weight", "hidden.bias", "bn.weight",
                                                     "bn.bias",       "bn.mean",     "bn.var",
                                                     "output.weight", "output.bias"};
    char small[4096], text[4096];
    struct vnp_checkpoint *c, *s;
    struct vnp_hash128 got, want;
    if (open_archive(path, &c) != VNP_OK) {
        vnp_error_format(vnp_error_last(), text, sizeof text);
        fail_msg("%s", text);
    }
    assert_int_equal(vnp_checkpoint_count(c), N_TENSORS);
    assert_int_equal(vnp_checkpoint_spec(c)->n_classifier_hidden, HIDDEN);
    for (int i = 0; i < N_TENSORS; i++) {
        const struct vnp_tensor_info *t = vnp_checkpoint_find(c, canonical[i]);
        assert_non_null(t);
        assert_int_equal(t->dtype, VNP_F16);
        assert_int_equal(t->n_bytes, 2 * count_of(i));
        for (int64_t j = 0; j < count_of(i); j++) {
            uint16_t x;
            memcpy(&x, (const char *)t->data + 2 * j, 2);
            assert_int_equal(x, value(i, j));
        }
    }
    write_archive("small", &(struct layout){.n_hole = 0}, small);
    assert_int_equal(open_archive(small, &s), VNP_OK);
    assert_int_equal(vnp_checkpoint_digest(c, &got), VNP_OK);
    assert_int_equal(vnp_checkpoint_digest(s, &want), VNP_OK);
    assert_true(got.lo == want.lo && got.hi == want.hi);
    vnp_checkpoint_close(c);
    vnp_checkpoint_close(s);
    unlink(small);
}

static int64_t size_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void test_tensors_behind_4_gib(void **state) {
    (void)state;
    /* the limits of 32 bits in turn: size of the hole, offsets alone, both */
    static const int64_t holes[] = {0xfffffffe, 0xffffffff, 0x100000000 + 12345};
    char path[4096];
    need_holes();
    for (size_t i = 0; i < VNP_COUNT(holes); i++) {
        write_archive("behind", &(struct layout){.n_hole = holes[i]}, path);
        assert_true(size_of(path) > (int64_t)1 << 32);
        check_model(path);
        unlink(path);
    }
}

/* At both ends of n elements and on both sides of where 32 bits end. */
static struct layout at_both_ends(int64_t n) {
    return (struct layout){.n_shared = n,
                           .at = {n - 1000, 5, n - 4, 100, n > N_LARGE ? 0xfffffffe : 0x7ffffffe,
                                  0x80000010, 1 << 30, 200}};
}

static void test_slices_of_4_gib(void **state) {
    (void)state;
    static const int64_t n_elements[] = {N_LARGE, N_LARGER};
    char path[4096];
    need_holes();
    for (size_t i = 0; i < VNP_COUNT(n_elements); i++) {
        struct layout l = at_both_ends(n_elements[i]);
        write_archive("slices", &l, path);
        assert_true(size_of(path) > 2 * n_elements[i]);
        check_model(path);
        unlink(path);
    }
}

/* A slice that ends behind its storage, sizes that do not agree, and files cut off: errors. */
static void test_beyond_4_gib_and_the_end(void **state) {
    (void)state;
    char path[4096];
    struct vnp_checkpoint *c;
    need_holes();
    struct layout l = at_both_ends(N_LARGE), whole = l;
    l.at[2] = N_LARGE - 3;
    write_archive("beyond", &l, path);
    assert_int_equal(open_archive(path, &c), VNP_FORMAT);
    assert_non_null(strstr(vnp_error_last()->text, "reaches element 2147487744"));
    assert_string_equal(vnp_error_last()->record, "bn1.weight");
    l.at[2] = INT64_C(0x7fffffffff); /* the last that LONG1 holds in five bytes */
    write_archive("beyond", &l, path);
    assert_int_equal(open_archive(path, &c), VNP_FORMAT);
    write_archive("beyond", &whole, path);
    assert_int_equal(truncate(path, (off_t)size_of(path) - 1), 0);
    assert_int_equal(open_archive(path, &c), VNP_TRUNCATED);
    assert_int_equal(truncate(path, (off_t)1 << 32), 0);
    assert_int_equal(open_archive(path, &c), VNP_TRUNCATED);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_tensors_behind_4_gib),
        cmocka_unit_test(test_slices_of_4_gib),
        cmocka_unit_test(test_beyond_4_gib_and_the_end),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
