// SPDX-License-Identifier: MIT
// out: files are whole or absent, whichever call fails; tables and embeddings to the byte.
#include "out/out.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/vnp_out_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* Removes everything in the folder and tells how many entries there were. */
static int empty_folder(void) {
    DIR *dir = opendir(folder);
    struct dirent *e;
    int n = 0;
    while ((e = readdir(dir))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        assert_int_equal(remove(path), 0);
        n++;
    }
    closedir(dir);
    return n;
}

static int drop_folder(void **state) {
    (void)state;
    vnp_sysio_set(NULL);
    empty_folder();
    return rmdir(folder);
}

static const char *in_folder(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void assert_file(const char *path, const char *text) {
    size_t n;
    char *data = support_read_file(path, &n);
    assert_string_equal(data, text);
    assert_int_equal(n, strlen(text));
    free(data);
}

static void assert_output_error(vnp_status s, const char *part_of_name) {
    const struct vnp_error *e = vnp_error_last();
    assert_int_equal(s, VNP_IO);
    assert_int_equal(e->status, VNP_IO);
    assert_int_equal(e->origin, VNP_FROM_OUTPUT);
    assert_non_null(strstr(e->file, part_of_name));
    assert_true(e->text[0] && e->hint[0]);
}

/* ---- fault hook ---------------------------------------------------------------------------- */

struct faults {
    int n_calls, fail_at; /* fail_at -1: never */
    int os_errno;
    bool are_writes_short;
    uint64_t seed;
};

static int before(void *ctx, const char *call, const char *path, size_t *n) {
    struct faults *f = ctx;
    assert_non_null(path);
    if (strcmp(call, "unlink") == 0) return 0;
    if (f->are_writes_short && n && strcmp(call, "write") == 0 && *n > 1)
        *n = 1 + support_random(&f->seed) % (*n > 70000 ? 70000 : *n);
    return f->n_calls++ == f->fail_at ? f->os_errno : 0;
}

enum { N_COLS = 37, N_ROWS = 60000, ROWS_A_CALL = 9973 };

/* One whole job on a file; the status of the step that failed. */
static vnp_status write_rows(const char *path) {
    struct vnp_embed_writer *w;
    VNP_TRY(vnp_embed_writer_open(path, N_COLS, &w));
    float *rows = malloc(sizeof(float) * N_COLS * ROWS_A_CALL);
    const char **ids = malloc(sizeof(char *) * ROWS_A_CALL);
    vnp_status s = VNP_OK;
    int n_rows = strstr(path, ".tsv") ? N_ROWS / 20 : N_ROWS;
    for (int64_t r = 0; r < n_rows && s == VNP_OK; r += ROWS_A_CALL) {
        int64_t n = VNP_MIN(ROWS_A_CALL, n_rows - r);
        for (int64_t i = 0; i < n * N_COLS; i++) rows[i] = (float)(r * N_COLS + i) * 0.5f;
        for (int64_t i = 0; i < n; i++) ids[i] = i % 2 ? "odd" : "an even id";
        s = vnp_embed_writer_append(w, ids, rows, n);
    }
    free(rows);
    free(ids);
    if (s != VNP_OK) {
        struct vnp_error first = *vnp_error_last();
        vnp_status again = vnp_embed_writer_commit(w); /* must not succeed after a failure */
        assert_int_equal(again, s);
        vnp_error_set(&first);
        return s;
    }
    return vnp_embed_writer_commit(w);
}

static const char *const names[] = {"e.npy", "e.safetensors", "e.h5", "e.tsv"};

static void every_call_may_fail(void **state) {
    (void)state;
    static const int errors[] = {ENOSPC, EIO};
    for (size_t k = 0; k < VNP_COUNT(names); k++) {
        struct faults f = {.fail_at = -1, .os_errno = EIO};
        vnp_sysio_set(&(struct vnp_sysio){.ctx = &f, .before = before});
        assert_int_equal(write_rows(in_folder(names[k])), VNP_OK);
        assert_int_equal(empty_folder(), 1);
        int n_calls = f.n_calls;
        assert_true(n_calls >= 8);
        for (int i = 0; i < n_calls; i++) {
            f = (struct faults){.fail_at = i, .os_errno = errors[i % 2]};
            vnp_status s = write_rows(in_folder(names[k]));
            assert_output_error(s, names[k]);
            assert_int_equal(vnp_error_last()->os_errno, errors[i % 2]);
            int left = empty_folder();
            if (left)
                fail_msg("%s: %d files left after call %d of %d failed", names[k], left, i,
                         n_calls);
        }
        vnp_sysio_set(NULL);
    }
}

/* A real limit instead of the hook: the system itself refuses to let the file grow. */
static void file_size_limit(void **state) {
    (void)state;
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (size_t k = 0; k < VNP_COUNT(names); k++) {
        low = old;
        low.rlim_cur = 300000;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        vnp_status s = write_rows(in_folder(names[k]));
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_output_error(s, names[k]);
        assert_int_equal(empty_folder(), 0);
    }
    signal(SIGXFSZ, old_handler);
}

static void short_writes_lose_nothing(void **state) {
    (void)state;
    for (size_t k = 0; k < VNP_COUNT(names); k++) {
        char other[512];
        size_t n_a, n_b;
        snprintf(other, sizeof other, "%s", in_folder("whole"));
        strcat(other, names[k]);
        assert_int_equal(write_rows(other), VNP_OK);
        struct faults f = {.fail_at = -1, .are_writes_short = true, .seed = 4};
        vnp_sysio_set(&(struct vnp_sysio){.ctx = &f, .before = before});
        assert_int_equal(write_rows(in_folder(names[k])), VNP_OK);
        vnp_sysio_set(NULL);
        char *a = support_read_file(other, &n_a), *b = support_read_file(in_folder(names[k]), &n_b);
        assert_int_equal(n_a, n_b);
        /* HDF5 keeps times in its objects only when asked to; the bytes are equal */
        assert_memory_equal(a, b, n_a);
        free(a);
        free(b);
        empty_folder();
    }
}

/* ---- one file ------------------------------------------------------------------------------ */

static void appears_only_at_commit(void **state) {
    (void)state;
    struct vnp_outfile *f;
    const char *path = in_folder("a.txt");
    assert_int_equal(vnp_outfile_open(path, &f), VNP_OK);
    assert_int_equal(vnp_outfile_printf(f, "%d-%s", 12, "x"), VNP_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(vnp_outfile_tell(f), 4);
    assert_int_equal(vnp_outfile_write_at(f, 1, "34", 2), VNP_OK);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    assert_file(path, "134x");
    /* replaced whole; an abort leaves the old one */
    assert_int_equal(vnp_outfile_open(path, &f), VNP_OK);
    assert_int_equal(vnp_outfile_write(f, "new", 3), VNP_OK);
    assert_file(path, "134x");
    vnp_outfile_abort(f);
    assert_file(path, "134x");
    assert_int_equal(vnp_outfile_open(path, &f), VNP_OK);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    assert_file(path, "");
    vnp_outfile_abort(NULL);
    assert_int_equal(empty_folder(), 1);
}

static void long_lines_and_big_blocks(void **state) {
    (void)state;
    enum { BIG = 3 << 20 };
    struct vnp_outfile *f;
    char *big = malloc(BIG + 1);
    size_t n;
    for (int i = 0; i < BIG; i++) big[i] = (char)('a' + i % 23);
    big[BIG] = 0;
    assert_int_equal(vnp_outfile_open(in_folder("big"), &f), VNP_OK);
    assert_int_equal(vnp_outfile_write(f, "12", 2), VNP_OK);
    assert_int_equal(vnp_outfile_printf(f, "%s", big), VNP_OK);
    assert_int_equal(vnp_outfile_write(f, big, BIG), VNP_OK);
    assert_int_equal(vnp_outfile_tell(f), 2 + 2 * BIG);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    char *got = support_read_file(in_folder("big"), &n);
    assert_int_equal(n, 2 + 2 * BIG);
    assert_memory_equal(got, "12", 2);
    assert_memory_equal(got + 2, big, BIG);
    assert_memory_equal(got + 2 + BIG, big, BIG);
    free(got);
    free(big);
    empty_folder();
}

static void bad_targets(void **state) {
    (void)state;
    struct vnp_outfile *f;
    assert_output_error(vnp_outfile_open(folder, &f), folder);
    assert_null(f);
    assert_output_error(vnp_outfile_open("/dev/null", &f), "/dev/null");
    assert_output_error(vnp_outfile_open(in_folder("no/such/file"), &f), "no/such/file");
    assert_int_equal(vnp_outfile_open("", &f), VNP_INVAL);
    assert_int_equal(empty_folder(), 0);
}

static void link_and_stale_temporary(void **state) {
    (void)state;
    struct vnp_outfile *f;
    char real[512], stale[600];
    snprintf(real, sizeof real, "%s", in_folder("real"));
    FILE *h = fopen(real, "w");
    fclose(h);
    assert_int_equal(symlink("real", in_folder("link")), 0);
    snprintf(stale, sizeof stale, "%s.tmp.%ld", real, (long)getpid());
    h = fopen(stale, "w");
    fputs("rubbish of a dead process", h);
    fclose(h);
    assert_int_equal(vnp_outfile_open(in_folder("link"), &f), VNP_OK);
    assert_int_equal(vnp_outfile_write(f, "new", 3), VNP_OK);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    assert_file(real, "new");
    struct stat st;
    assert_int_equal(lstat(in_folder("link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(empty_folder(), 2);
}

/* ---- tables -------------------------------------------------------------------------------- */

static void upstream_tables(void **state) {
    (void)state;
    struct vnp_outfile *f;
    assert_int_equal(vnp_outfile_open(in_folder("t"), &f), VNP_OK);
    assert_int_equal(vnp_out_frames_header(f), VNP_OK);
    assert_int_equal(vnp_out_frames_row(f, "synthetic_seq_1_chunk_1R1", 0.12100612f, 0.8789939f),
                     VNP_OK);
    assert_int_equal(vnp_out_frames_row(f, "synthetic_seq_1_chunk_1R2", 0.0011595711f, 0.9988405f),
                     VNP_OK);
    assert_int_equal(vnp_out_frames_row(f, "tie", 0.5f, 0.5f), VNP_OK);
    assert_int_equal(vnp_out_frames_row(f, "sure", 1.2e-5f, 1.0f), VNP_OK);
    assert_int_equal(vnp_out_windows_header(f), VNP_OK);
    assert_int_equal(vnp_out_windows_row(f, "synthetic_seq_1_chunk_1", true), VNP_OK);
    assert_int_equal(vnp_out_windows_row(f, "synthetic_seq_2_chunk_1", false), VNP_OK);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    assert_file(in_folder("t"), "Sequence_ID\tPrediction\tscore1\tscore2\n"
                                "synthetic_seq_1_chunk_1R1\tvirus\t0.12100612\t0.8789939\n"
                                "synthetic_seq_1_chunk_1R2\tvirus\t0.0011595711\t0.9988405\n"
                                "tie\tothers\t0.5\t0.5\n"
                                "sure\tvirus\t1.2e-05\t1.0\n"
                                "Modified_ID\tIs_Virus\n"
                                "synthetic_seq_1_chunk_1\tTrue\n"
                                "synthetic_seq_2_chunk_1\tFalse\n");
    empty_folder();
}

/* The published run's table, read and written again, is the same file. */
static void upstream_golden(void **state) {
    (void)state;
    static const char *const runs[] = {"chunk300", "chunk500"};
    const char *goldens = support_goldens();
    for (size_t i = 0; i < VNP_COUNT(runs); i++) {
        char path[4200], *save = NULL;
        struct vnp_outfile *f;
        size_t n;
        snprintf(path, sizeof path, "%s/pipeline/%s/prediction_results.txt", goldens, runs[i]);
        char *whole = support_read_file(path, &n), *text = strdup(whole);
        assert_int_equal(vnp_outfile_open(in_folder("t"), &f), VNP_OK);
        assert_int_equal(vnp_out_frames_header(f), VNP_OK);
        char *line = strtok_r(text, "\n", &save);
        int n_rows = 0;
        while ((line = strtok_r(NULL, "\n", &save))) {
            char id[256], label[16], a[32], b[32];
            assert_int_equal(sscanf(line, "%255s %15s %31s %31s", id, label, a, b), 4);
            assert_int_equal(vnp_out_frames_row(f, id, strtof(a, NULL), strtof(b, NULL)), VNP_OK);
            n_rows++;
        }
        assert_true(n_rows > 10);
        assert_int_equal(vnp_outfile_commit(f), VNP_OK);
        assert_file(in_folder("t"), whole);
        free(whole);
        free(text);
    }
    empty_folder();
}

static void contigs_and_fasta(void **state) {
    (void)state;
    struct vnp_outfile *f;
    struct vnp_contig_row row = {"c1", 1000, 2, 2, 5, 1, 0.75, "other", "ok", ""};
    assert_int_equal(vnp_outfile_open(in_folder("t"), &f), VNP_OK);
    assert_int_equal(vnp_out_contigs_header(f), VNP_OK);
    assert_int_equal(vnp_out_contigs_row(f, &row), VNP_OK);
    row = (struct vnp_contig_row){"", 5000000000,  0,          0,        0,
                                  0,  (double)NAN, "unscored", "failed", "a\tb\r\nc"};
    assert_int_equal(vnp_out_contigs_row(f, &row), VNP_OK);
    assert_int_equal(vnp_out_fasta(f, "r1 some  words", "ACGTACGTAC", 10, 4), VNP_OK);
    assert_int_equal(vnp_out_fasta(f, "r2", "ACGTACGT", 8, 4), VNP_OK);
    assert_int_equal(vnp_out_fasta(f, "r3", "ACGTACGTAC", 10, 0), VNP_OK);
    assert_int_equal(vnp_out_fasta(f, "r4", "", 0, 60), VNP_OK);
    assert_int_equal(vnp_outfile_commit(f), VNP_OK);
    assert_file(
        in_folder("t"),
        "seq_id\tlength\tn_windows\tn_scored\tn_frames\tn_virus\tvirus_score\tcall\tstatus\t"
        "reason\n"
        "c1\t1000\t2\t2\t5\t1\t0.75\tother\tok\t\n"
        "\t5000000000\t0\t0\t0\t0\tnan\tunscored\tfailed\ta b  c\n"
        ">r1 some  words\nACGT\nACGT\nAC\n>r2\nACGT\nACGT\n>r3\nACGTACGTAC\n>r4\n");
    empty_folder();
}

/* ---- embeddings ---------------------------------------------------------------------------- */

static void npy_and_safetensors(void **state) {
    (void)state;
    assert_int_equal(write_rows(in_folder("e.npy")), VNP_OK);
    struct support_npy a = support_npy_load(in_folder("e.npy"));
    assert_string_equal(a.descr, "<f4");
    assert_int_equal(a.n_dims, 2);
    assert_int_equal(a.shape[0], N_ROWS);
    assert_int_equal(a.shape[1], N_COLS);
    assert_int_equal(((uintptr_t)a.data - (uintptr_t)a.file) % 64, 0);
    const float *x = a.data;
    for (int64_t i = 0; i < a.n; i++) assert_true(x[i] == (float)i * 0.5f || i > 1 << 24);
    assert_int_equal(write_rows(in_folder("e.safetensors")), VNP_OK);
    size_t n;
    char *b = support_read_file(in_folder("e.safetensors"), &n), expected[200];
    uint64_t n_json;
    memcpy(&n_json, b, 8);
    assert_int_equal(n_json % 8, 0);
    assert_int_equal(n, 8 + n_json + (size_t)a.n * 4);
    assert_memory_equal(b + 8 + n_json, x, (size_t)a.n * 4);
    snprintf(expected, sizeof expected,
             "{\"embeddings\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%lld]}}",
             N_ROWS, N_COLS, (long long)a.n * 4);
    assert_memory_equal(b + 8, expected, strlen(expected));
    for (size_t i = strlen(expected); i < n_json; i++) assert_int_equal(b[8 + i], ' ');
    free(b);
    support_npy_free(&a);
    empty_folder();
}

static void hdf5(void **state) {
    (void)state;
    assert_int_equal(write_rows(in_folder("e.h5")), VNP_OK);
    hid_t file = H5Fopen(in_folder("e.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, "embeddings", H5P_DEFAULT), space = H5Dget_space(set);
    hsize_t size[2];
    assert_int_equal(H5Sget_simple_extent_dims(space, size, NULL), 2);
    assert_int_equal(size[0], N_ROWS);
    assert_int_equal(size[1], N_COLS);
    float *x = malloc(sizeof(float) * N_ROWS * N_COLS);
    assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
    for (int i = 0; i < N_ROWS * N_COLS; i++) assert_true(x[i] == (float)i * 0.5f);
    H5Sclose(space);
    H5Dclose(set);
    set = H5Dopen2(file, "ids", H5P_DEFAULT);
    space = H5Dget_space(set);
    hid_t text = H5Dget_type(set);
    assert_int_equal(H5Sget_simple_extent_dims(space, size, NULL), 1);
    assert_int_equal(size[0], N_ROWS);
    char **ids = malloc(sizeof(char *) * N_ROWS);
    assert_true(H5Dread(set, text, H5S_ALL, H5S_ALL, H5P_DEFAULT, ids) >= 0);
    for (int i = 0; i < N_ROWS; i++)
        assert_string_equal(ids[i], i % ROWS_A_CALL % 2 ? "odd" : "an even id");
    H5Dvlen_reclaim(text, space, H5P_DEFAULT, ids);
    free(ids);
    free(x);
    H5Tclose(text);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
    empty_folder();
}

static void tsv_and_no_rows(void **state) {
    (void)state;
    struct vnp_embed_writer *w;
    const float rows[] = {0.1f, NAN, 1.0f, -2.5e-6f};
    const char *const ids[] = {"a", "b"};
    assert_int_equal(vnp_embed_writer_open(in_folder("e.tsv"), 2, &w), VNP_OK);
    assert_int_equal(vnp_embed_writer_append(w, ids, rows, 2), VNP_OK);
    assert_int_equal(vnp_embed_writer_append(w, NULL, rows, 1), VNP_OK);
    assert_int_equal(vnp_embed_writer_commit(w), VNP_OK);
    assert_file(in_folder("e.tsv"), "a\t0.1\tnan\nb\t1.0\t-2.5e-06\n2\t0.1\tnan\n");
    empty_folder();
    for (size_t k = 0; k < VNP_COUNT(names); k++) {
        assert_int_equal(vnp_embed_writer_open(in_folder(names[k]), 5, &w), VNP_OK);
        assert_int_equal(vnp_embed_writer_append(w, ids, rows, 0), VNP_OK);
        assert_int_equal(vnp_embed_writer_commit(w), VNP_OK);
        assert_int_equal(vnp_embed_writer_open(in_folder(names[k]), 5, &w), VNP_OK);
        vnp_embed_writer_abort(w);
    }
    struct support_npy a = support_npy_load(in_folder("e.npy"));
    assert_int_equal(a.shape[0], 0);
    assert_int_equal(a.shape[1], 5);
    support_npy_free(&a);
    assert_int_equal(empty_folder(), VNP_COUNT(names));
    assert_int_equal(vnp_embed_writer_open(in_folder("e.txt"), 2, &w), VNP_INVAL);
    assert_false(vnp_embed_suffix_is_known(".npy"));
    assert_false(vnp_embed_suffix_is_known("a/.npy"));
    assert_true(vnp_embed_suffix_is_known("a/b.h5"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appears_only_at_commit),
        cmocka_unit_test(long_lines_and_big_blocks),
        cmocka_unit_test(bad_targets),
        cmocka_unit_test(link_and_stale_temporary),
        cmocka_unit_test(upstream_tables),
        cmocka_unit_test(upstream_golden),
        cmocka_unit_test(contigs_and_fasta),
        cmocka_unit_test(npy_and_safetensors),
        cmocka_unit_test(hdf5),
        cmocka_unit_test(tsv_and_no_rows),
        cmocka_unit_test(every_call_may_fail),
        cmocka_unit_test(short_writes_lose_nothing),
        cmocka_unit_test(file_size_limit),
    };
    return cmocka_run_group_tests_name("out", tests, make_folder, drop_folder);
}
