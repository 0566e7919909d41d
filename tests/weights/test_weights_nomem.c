// SPDX-License-Identifier: MIT
// Every allocation of opening, reading and bundling a model fails once: a status, no crash, no
// leak, no file left. The allocator is replaced in this program only; sanitizers bring their own,
// there the test is skipped.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support.h"
#include "weights/weights.h"

#include <dirent.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_REPLACED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_REPLACED 0
#else
#define IS_REPLACED 1
#endif
#else
#define IS_REPLACED 1
#endif

static volatile long fail_at, n_calls, n_live; /* fail_at 0: never; counted while is_on */
static volatile bool is_on; /* volatile: compilers think that malloc touches nothing of ours */

#if IS_REPLACED
#define EVERYWHERE __attribute__((visibility("default"))) /* shared libraries take ours too */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);
EVERYWHERE void *malloc(size_t n);
EVERYWHERE void *calloc(size_t n, size_t size);
EVERYWHERE void *realloc(void *p, size_t n);
EVERYWHERE void free(void *p);

static bool must_fail(void) {
    return is_on && ++n_calls == fail_at;
}
void *malloc(size_t n) {
    void *p = must_fail() ? NULL : __libc_malloc(n);
    if (is_on && p) n_live++;
    return p;
}
void *calloc(size_t n, size_t size) {
    void *p = must_fail() ? NULL : __libc_calloc(n, size);
    if (is_on && p) n_live++;
    return p;
}
void *realloc(void *old, size_t n) {
    void *p = must_fail() ? NULL : __libc_realloc(old, n);
    if (is_on && p && !old) n_live++;
    return p;
}
void free(void *p) {
    if (is_on && p) n_live--;
    __libc_free(p);
}
#endif

static struct vnp_hash128 last_digest;
static vnp_status open_once(const char *path) {
    struct vnp_checkpoint *c = NULL;
    vnp_status status = vnp_checkpoint_open(path, VNP_MODEL_NONE, &c);
    if (status != VNP_OK && c) return VNP_BUG;
    if (status == VNP_OK) status = vnp_checkpoint_digest(c, &last_digest);
    vnp_checkpoint_close(c);
    return status;
}

static struct vnp_bundle_parts bundle_parts;
static vnp_status bundle_once(const char *path) {
    return vnp_bundle_write(path, &bundle_parts);
}

/* Fails the first call, the second, ... until there are no more. jansson calls some of its own
 * failed allocations a syntax error and loses a key for others, so FORMAT and UNSUPPORTED pass too:
 * what must never come out is success with other weights. */
/* Sanitizers and valgrind put their own allocator before ours. */
static void skip_without_our_malloc(void) {
    n_calls = fail_at = 0;
    is_on = true;
    void *volatile p = malloc(1);
    free(p);
    is_on = false;
    if (n_calls > 0) return;
    print_message("# SKIP the sanitizer or valgrind owns the allocator\n");
    skip();
}

static void fail_each(vnp_status (*work)(const char *), const char *path) {
    assert_int_equal(work(path), VNP_OK);
    struct vnp_hash128 digest = last_digest;
    long n = 0;
    do {
        fail_at = ++n;
        n_calls = n_live = 0;
        is_on = true;
        vnp_status status = work(path);
        is_on = false;
        if (n_live) fail_msg("%s: %ld blocks leak when allocation %ld fails", path, n_live, n);
        if (status == VNP_OK && (digest.lo != last_digest.lo || digest.hi != last_digest.hi))
            fail_msg("%s: other weights when allocation %ld fails", path, n);
        if (status != VNP_OK && status != VNP_NOMEM && status != VNP_FORMAT &&
            status != VNP_UNSUPPORTED)
            fail_msg("%s: allocation %ld: %s (%s)", path, n, vnp_status_name(status),
                     vnp_error_last()->text);
        if (n > 100000) fail_msg("%s never succeeds", path);
    } while (n_calls >= fail_at);
    assert_true(n > 3);
    print_message("# %s: %ld allocations\n", path, n - 1);
}

static void every_allocation_fails(void **state) {
    (void)state;
    skip_without_our_malloc();
    static const char folder[] = VNP_TEST_SOURCE_DIR "/tests/data/bad_model";
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[8192];
        if (strncmp(e->d_name, "good_", 5) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        fail_each(open_once, path);
        n++;
    }
    closedir(d);
    assert_true(n >= 10);
}

static void bundling_without_memory(void **state) {
    (void)state;
    skip_without_our_malloc();
    struct vnp_checkpoint *c;
    char path[4096];
    snprintf(path, sizeof path, "%s/nomem_%ld.safetensors", VNP_TEST_BINARY_DIR, (long)getpid());
    assert_int_equal(vnp_checkpoint_open(VNP_TEST_SOURCE_DIR
                                         "/tests/data/bad_model/good_classifier.safetensors",
                                         VNP_MODEL_CLASSIFIER, &c),
                     VNP_OK);
    bundle_parts.classifier = c;
    bundle_parts.note = "x";
    fail_each(bundle_once, path);
    vnp_checkpoint_close(c);
    assert_int_equal(unlink(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_fails),
        cmocka_unit_test(bundling_without_memory),
    };
    return cmocka_run_group_tests_name("weights_nomem", tests, NULL, NULL);
}
