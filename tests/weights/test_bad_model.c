// SPDX-License-Identifier: MIT
// Every model of tests/data/bad_model gives the exit code and the message of its row, names its
// file, and leaves nothing open. Made by tools/make-bad-models.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

#include <dirent.h>
#include <errno.h>

/* As the program maps errors: any fault of a model is 78, a path that is not there, too. */
static int exit_code(vnp_status status) {
    const struct vnp_error *e = vnp_error_last();
    if (status == VNP_OK) return 0;
    if (status != e->status || e->origin != VNP_FROM_MODEL) return 70;
    return 78;
}

static int count_fds(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static int check_row(const char *name, int want, const char *fragment) {
    char path[4096], text[4096];
    struct vnp_checkpoint *c = NULL;
    snprintf(path, sizeof path, "%s/tests/data/bad_model/%s", VNP_TEST_SOURCE_DIR, name);
    vnp_error_clear();
    vnp_status status = vnp_checkpoint_open(path, VNP_MODEL_NONE, &c);
    vnp_error_format(vnp_error_last(), text, sizeof text);
    int is = exit_code(status);
    if (status == VNP_OK) snprintf(text, sizeof text, "%s", vnp_checkpoint_format(c));
    bool is_bad = is != want || !strstr(text, fragment);
    if (want && !strstr(text, name)) is_bad = true;
    if (want && c) is_bad = true;
    if (is_bad)
        print_error("%s: exit %d, wanted %d with '%s': %s\n", name, is, want, fragment, text);
    vnp_checkpoint_close(c);
    return is_bad;
}

static void every_row(void **state) {
    (void)state;
    char *table = support_read_file(VNP_TEST_SOURCE_DIR "/tests/data/bad_model/table.tsv", NULL);
    char *save = NULL;
    int n = 0, n_bad = 0, n_fds = count_fds();
    for (char *line = strtok_r(table, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (line[0] == '#') continue;
        char *code = strchr(line, '\t');
        assert_non_null(code);
        *code++ = 0;
        char *fragment = strchr(code, '\t');
        assert_non_null(fragment);
        *fragment++ = 0;
        n_bad += check_row(line, atoi(code), fragment);
        n++;
    }
    print_message("# %d models, %d wrong\n", n, n_bad);
    assert_true(n >= 60);
    assert_int_equal(n_bad, 0);
    assert_int_equal(count_fds(), n_fds);
    free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row)};
    return cmocka_run_group_tests_name("bad_model", tests, NULL, NULL);
}
