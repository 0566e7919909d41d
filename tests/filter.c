// SPDX-License-Identifier: MIT
// Linked into every test program: VNP_TEST_ONLY and VNP_TEST_SKIP name tests of it to run or to
// leave out, as patterns of a shell (* and ?). A program of which nothing is left runs no test,
// which tools/run-tests counts as a failure.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

__attribute__((constructor)) static void filter_install(void) {
    const char *only = getenv("VNP_TEST_ONLY"), *skip_these = getenv("VNP_TEST_SKIP");
    if (only) cmocka_set_test_filter(only);
    if (skip_these) cmocka_set_skip_filter(skip_these);
}
