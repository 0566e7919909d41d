// SPDX-License-Identifier: MIT
// Runs that are killed, interrupted or run out of disk, again and again, and then completed: the
// same bytes as a run that was left alone. VNP_STRESS=1 makes 300 kills and every write boundary.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "out/out.h"
#include "run_support.h"

static const char *const files[] = {"prediction_results.txt",
                                    "prediction_results_highestscore.csv",
                                    "contigs.tsv",
                                    "virus.fna",
                                    "embeddings.npy",
                                    "embeddings.npy.ids.tsv"};

struct fixture {
    struct models m;
    struct vnp_run_device devices[5];
    struct vnp_run_options opt;
    const char *inputs[1];
    char input[4096], plain[4096], out[4096];
};

/* The first n_bytes of a golden input, whole lines, as the input; one undisturbed run of it. */
static void open_fixture(struct fixture *f, const char *name, size_t n_bytes) {
    const char *goldens = support_goldens();
    char path[4096];
    memset(f, 0, sizeof *f);
    models_open(&f->m, goldens, "chunk300/classifier.pth");
    scratch(name, f->plain, sizeof f->plain);
    put(path, sizeof path, "%s/pipeline/chunk300/input.fa", goldens);
    put(f->input, sizeof f->input, "%s/in.fa", f->plain);
    copy_head(path, f->input, support_is_quick() ? 700 : n_bytes);
    for (size_t i = 0; i < VNP_COUNT(f->devices); i++) f->devices[i].backend = vnp_cpu_backend();
    f->inputs[0] = f->input;
    f->opt = (struct vnp_run_options){.inputs = f->inputs,
                                      .n_inputs = 1,
                                      .out = f->plain,
                                      .devices = f->devices,
                                      .n_devices = 1,
                                      .host = vnp_cpu_backend(),
                                      .budget_tokens = 300,
                                      .n_threads = 1,
                                      .window_bp = 300,
                                      .block_windows = 4,
                                      .commit_s = 1e-6, /* every block */
                                      .are_embeddings_saved = true,
                                      .esm2 = f->m.esm2,
                                      .dnabert = f->m.dnabert,
                                      .classifier = f->m.classifier};
}

static void assert_equal_to_plain(const struct fixture *f) {
    for (size_t i = 0; i < VNP_COUNT(files); i++) assert_same_file(f->plain, f->out, files[i]);
    assert_false(file_exists(f->out, "run.vectors"));
    char command[4400];
    put(command, sizeof command, "ls '%s' | grep -q '\\.tmp' && exit 1; exit 0", f->out);
    assert_int_equal(system(command), 0); /* temporaries of killed processes are gone */
}

/* Runs in a child that is killed after a while; true when it had ended by itself. */
static bool run_and_kill(struct fixture *f, double after_s) {
    struct vnp_run_counts c;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(vnp_run_predict(&f->opt, &c) == VNP_OK ? 0 : 1);
    usleep((useconds_t)(after_s * 1e6));
    kill(pid, SIGKILL);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) assert_int_equal(WEXITSTATUS(status), 0);
    return WIFEXITED(status);
}

static void test_kills(void **state) {
    (void)state;
    int n_want = getenv("VNP_STRESS") ? 300 : 5;
    static const int workers[] = {1, 2, 5};
    struct fixture f;
    uint64_t seed = 3;
    int n_kills = 0, n_runs = 0;
    struct vnp_run_counts c;
    open_fixture(&f, "kills", 4000);
    double t = vnp_now_s();
    pid_t pid = fork(); /* a child, so that this process never has had threads */
    if (pid == 0) _exit(vnp_run_predict(&f.opt, &c) == VNP_OK ? 0 : 1);
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    t = vnp_now_s() - t;
    while (n_kills < n_want) {
        bool is_done = false;
        char cache[4200];
        scratch("killed", f.out, sizeof f.out);
        put(cache, sizeof cache, "%s/../cache_%d.db", f.out, (int)getpid());
        f.opt.out = f.out;
        f.opt.cache_path = n_runs % 2 ? cache : NULL; /* shared by every other run */
        for (int i = 0; !is_done; i++) {
            f.opt.n_devices = workers[i % 3];
            double u = (double)(support_random(&seed) >> 11) * 0x1p-53;
            is_done = run_and_kill(&f, i > 40 ? 60 : u * t);
            n_kills += !is_done;
        }
        assert_equal_to_plain(&f);
        n_runs++;
    }
    print_message("# %d kills in %d runs of %.2f s: the same bytes\n", n_kills, n_runs, t);
    models_close(&f.m);
}

/* Fails, shortens or kills at the n-th announced call. */
struct saboteur {
    int n_calls, at, err;
    bool is_short, has_struck;
    const char *only; /* paths that hold this text; NULL: all */
};

static int sabotage(void *ctx, const char *call, const char *path, size_t *n) {
    struct saboteur *s = ctx;
    if (s->only && (!path || !strstr(path, s->only))) return 0;
    int k = __atomic_add_fetch(&s->n_calls, 1, __ATOMIC_SEQ_CST);
    if (s->at <= 0 || k < s->at) return 0;
    if (s->is_short) { /* one short write, and the disk stays full */
        bool is_first = !s->has_struck;
        s->has_struck = true;
        if (is_first && strcmp(call, "write") == 0 && n && *n > 1) {
            *n /= 2;
            return 0;
        }
        return strcmp(call, "unlink") == 0 ? 0 : ENOSPC;
    }
    if (k != s->at) return 0;
    s->has_struck = true;
    return s->err;
}

/* One failing call, then a clean repetition. */
static void strike(struct fixture *f, struct saboteur *s) {
    struct vnp_sysio io = {.ctx = s, .before = sabotage};
    struct vnp_run_counts c;
    scratch("struck", f->out, sizeof f->out);
    f->opt.out = f->out;
    vnp_sysio_set(&io);
    vnp_status status = vnp_run_predict(&f->opt, &c);
    vnp_sysio_set(NULL);
    if (status != VNP_OK) {
        const struct vnp_error *e = vnp_error_last();
        if (status != VNP_IO || e->origin != VNP_FROM_OUTPUT || !e->file[0])
            fail_msg("call %d, errno %d: %s, origin %d, file '%s': %s", s->at, s->err,
                     vnp_status_name(status), (int)e->origin, e->file, e->text);
    }
    assert_status(vnp_run_predict(&f->opt, &c), VNP_OK);
    assert_equal_to_plain(f);
}

static void test_full_disk(void **state) {
    (void)state;
    bool is_full = getenv("VNP_STRESS") != NULL;
    static const struct {
        int err;
        bool is_short;
    } kinds[] = {{ENOSPC, false}, {EIO, false}, {0, true}};
    struct fixture f;
    struct saboteur s = {0};
    struct vnp_sysio io = {.ctx = &s, .before = sabotage};
    struct vnp_run_counts c;
    open_fixture(&f, "full", 1500);
    f.opt.commit_s = 60; /* one group and its end: few calls, all kinds */
    vnp_sysio_set(&io);
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    vnp_sysio_set(NULL);
    int n_calls = s.n_calls, step = is_full ? 1 : support_is_quick() ? 61 : 19, n = 0;
    for (size_t k = 0; k < VNP_COUNT(kinds); k++)
        for (int at = 1 + (int)k; at <= n_calls; at += step, n++) {
            s = (struct saboteur){.at = at, .err = kinds[k].err, .is_short = kinds[k].is_short};
            strike(&f, &s);
        }
    print_message("# %d calls that write; %d failed one by one\n", n_calls, n);
    assert_true(n_calls > 40);
    models_close(&f.m);
}

/* A cache whose file fails at the n-th call is left out: the run is whole all the same. */
static void test_cache_faults(void **state) {
    (void)state;
    bool is_full = getenv("VNP_STRESS") != NULL;
    struct fixture f;
    struct vnp_run_counts c;
    char cache[4200];
    open_fixture(&f, "cache", 1500);
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    int n_calls = 0, n = 0, step = is_full ? 1 : support_is_quick() ? 23 : 7;
    for (int at = 0; at <= n_calls; at += at == 0 ? 1 : step, n++) {
        struct saboteur s = {
            .at = at, .err = at % 2 ? ENOSPC : EIO, .is_short = at % 3 == 2, .only = "shared.db"};
        struct vnp_sysio io = {.ctx = &s, .before = sabotage};
        scratch("cached", f.out, sizeof f.out);
        put(cache, sizeof cache, "%s/shared.db", f.out);
        f.opt.out = f.out;
        f.opt.cache_path = cache;
        vnp_sysio_set(&io);
        vnp_status status = vnp_run_predict(&f.opt, &c);
        vnp_sysio_set(NULL);
        assert_status(status, VNP_OK);
        assert_equal_to_plain(&f);
        if (at == 0) n_calls = s.n_calls;
    }
    print_message("# %d calls of the cache that write; %d failed\n", n_calls, n - 1);
    assert_true(n_calls > 5);
    models_close(&f.m);
}

static void test_foreign_databases(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    char path[4200];
    open_fixture(&f, "foreign", 3000);
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    put(path, sizeof path, "%s/run.db", f.plain);
    size_t n;
    char *db = support_read_file(path, &n);
    for (int kind = 0; kind < 4; kind++) {
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        if (kind == 0) { /* torn in the middle */
            fwrite(db, 1, n / 2, file);
        } else if (kind == 1) { /* no database at all */
            fputs("this is a text of somebody else, long enough to be read as a header....", file);
            for (int i = 0; i < 100; i++) fputs("and on and on and on and on", file);
        } else { /* 2: another program's (application id at 68), 3: newer (user version at 60) */
            char *copy = malloc(n);
            memcpy(copy, db, n);
            copy[kind == 2 ? 68 : 60] ^= 0x55;
            fwrite(copy, 1, n, file);
            free(copy);
        }
        fclose(file);
        vnp_status status = vnp_run_predict(&f.opt, &c);
        assert_true(status == (kind < 2 ? VNP_FORMAT : VNP_MISMATCH));
        assert_int_equal(vnp_error_last()->origin, VNP_FROM_OUTPUT);
        assert_non_null(strstr(vnp_error_last()->file, "run.db"));
        assert_true(vnp_error_last()->hint[0] != 0);
    }
    f.opt.is_forced = true;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    free(db);
    models_close(&f.m);
}

/* Last: a stop request is for the whole process and for good. */
static void test_stop(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "stop", 4000);
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    scratch("stopped", f.out, sizeof f.out);
    f.opt.out = f.out;
    struct support_stop s = {.after = 0};
    f.opt.progress = support_stop_soon;
    f.opt.progress_ctx = &s;
    pid_t pid = fork();
    if (pid == 0) _exit(vnp_run_predict(&f.opt, &c) == VNP_CANCELED ? 7 : 1);
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_false(file_exists(f.out, "contigs.tsv"));
    f.opt.progress = NULL;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_equal_to_plain(&f);
    models_close(&f.m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_cache_faults),
        cmocka_unit_test(test_foreign_databases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
