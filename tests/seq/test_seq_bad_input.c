// SPDX-License-Identifier: MIT
// The reader over tests/data/bad_input: every row of its table names a file, the program's exit
// code, the place and a part of the message.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "seq/seq.h"
#include "support.h"

#define FOLDER VNP_TEST_SOURCE_DIR "/tests/data/bad_input"

/* The exit code that the program makes of an input's failure (design: cli.md). */
static int exit_code(vnp_status status) {
    const struct vnp_error *e = vnp_error_last();
    if (status == VNP_OK) return 0;
    if (e->origin != VNP_FROM_INPUT || e->status != status) return 70;
    if (status == VNP_FORMAT || status == VNP_TRUNCATED) return 65;
    return status == VNP_IO &&
                   (e->os_errno == ENOENT || e->os_errno == EISDIR || e->os_errno == EACCES)
               ? 66
               : 74;
}

static vnp_status read_all(const char *path, int64_t *n_records) {
    const char *paths[1] = {path};
    struct vnp_seq_reader *r;
    struct vnp_seq_record rec;
    bool has;
    *n_records = 0;
    vnp_status status = vnp_seq_reader_open(paths, 1, NULL, &r);
    if (status != VNP_OK) {
        assert_null(r);
        return status;
    }
    while ((status = vnp_seq_reader_next(r, &rec, &has)) == VNP_OK && has) ++*n_records;
    if (status != VNP_OK) {
        /* a failed reader says the same again */
        struct vnp_error first = *vnp_error_last();
        vnp_error_clear();
        assert_int_equal(vnp_seq_reader_next(r, &rec, &has), status);
        assert_false(has);
        assert_memory_equal(&first, vnp_error_last(), sizeof first);
    }
    vnp_seq_reader_close(r);
    return status;
}

struct row {
    char file[128], line[32], byte[32], record[64], message[256];
    int code;
};

static bool parse_row(const char *text, struct row *row) {
    memset(row, 0, sizeof *row);
    int n = sscanf(text, "%127[^\t]\t%d\t%31[^\t]\t%31[^\t]\t%63[^\t]\t%255[^\n]", row->file,
                   &row->code, row->line, row->byte, row->record, row->message);
    return n >= 5;
}

static bool check_row(const struct row *row) {
    char path[4096], text[4096];
    int64_t n_records;
    snprintf(path, sizeof path, FOLDER "/%s", row->file);
    vnp_status status = read_all(path, &n_records);
    const struct vnp_error *e = vnp_error_last();
    int code = exit_code(status);
    vnp_error_format(e, text, sizeof text);
    if (status == VNP_OK) text[0] = 0;
    bool is_good = code == row->code && strstr(text, row->message);
    if (status != VNP_OK) {
        is_good = is_good && strcmp(e->file, path) == 0 && e->hint[0];
        if (code == 65) is_good = is_good && e->line > 0 && e->off_byte >= 0;
        if (row->line[0] != '*') is_good = is_good && e->line == atoll(row->line);
        if (row->byte[0] != '*') is_good = is_good && e->off_byte == atoll(row->byte);
        if (row->record[0] != '*') is_good = is_good && strcmp(e->record, row->record) == 0;
    }
    if (!is_good)
        print_message("# %s: exit %d (%s), want %d line %s byte %s record %s '%s'\n", row->file,
                      code, text, row->code, row->line, row->byte, row->record, row->message);
    return is_good;
}

static void test_table(void **state) {
    (void)state;
    char *table = support_read_file(FOLDER "/table.tsv", NULL), *save = NULL;
    int n = 0, n_bad = 0, n_failed = 0;
    for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct row row;
        if (line[0] == '#') continue;
        if (!parse_row(line, &row)) fail_msg("table.tsv: '%s'", line);
        n++;
        n_bad += row.code != 0;
        n_failed += !check_row(&row);
    }
    free(table);
    print_message("# %d inputs, %d of them bad\n", n, n_bad);
    assert_int_equal(n_failed, 0);
    assert_true(n_bad >= 60);
}

/* Missing files are told before the first record of the files before them. */
static void test_open(void **state) {
    (void)state;
    struct vnp_seq_reader *r;
    const char *paths[2] = {FOLDER "/utf8_mark.fa", FOLDER "/does_not_exist.fa"};
    assert_int_equal(vnp_seq_reader_open(paths, 2, NULL, &r), VNP_IO);
    assert_int_equal(exit_code(VNP_IO), 66);
    assert_int_equal(vnp_error_last()->os_errno, ENOENT);
    assert_string_equal(vnp_error_last()->file, paths[1]);
    const char *twice[2] = {"-", "-"};
    assert_int_equal(vnp_seq_reader_open(twice, 2, NULL, &r), VNP_INVAL);
    assert_int_equal(vnp_seq_reader_open(twice, 0, NULL, &r), VNP_INVAL);
    assert_null(r);
}

static void test_unreadable(void **state) {
    (void)state;
    char path[] = VNP_TEST_BINARY_DIR "/unreadable.fa";
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(chmod(path, 0), 0);
    bool is_allowed = access(path, R_OK) == 0;
    int64_t n;
    vnp_status status = read_all(path, &n);
    int code = exit_code(status), os_errno = vnp_error_last()->os_errno;
    unlink(path);
    if (is_allowed) {
        assert_int_equal(status, VNP_OK); /* a privileged user may read everything */
        return;
    }
    assert_int_equal(code, 66);
    assert_int_equal(os_errno, EACCES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_unreadable),
    };
    return cmocka_run_group_tests_name("seq bad input", tests, NULL, NULL);
}
