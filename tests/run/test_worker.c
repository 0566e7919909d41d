// SPDX-License-Identifier: MIT
// Worker processes: the same bytes as encoders in this process, whatever happens to the workers.
// Real children of the program over the CPU backend and the tiny random model; faults to order
// (VNP_TEST_WORKER_FAULT, see worker.c). VNP_STRESS=1 makes 100 faults of each kind in one run of
// 20,000 frames.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "run/worker.h"
#include "run_support.h"

#define MODEL VNP_TEST_SOURCE_DIR "/models/virnucpro-random-tiny.safetensors"
#define PROGRAM VNP_TEST_BINARY_DIR "/virnucpro"

static const char *const files[] = {"prediction_results.txt",
                                    "prediction_results_highestscore.csv",
                                    "contigs.tsv",
                                    "virus.fna",
                                    "embeddings.npy",
                                    "embeddings.npy.ids.tsv"};

struct fixture {
    struct models m;
    struct vnp_run_device devices[4];
    struct vnp_run_options opt;
    const char *inputs[1];
    char input[4096], plain[4096], out[4096];
};

/* Codons without stops: every window has an open frame. */
static void write_genes(const char *path, int n_windows, int window_bp) {
    static const char *const codons[] = {"GCT", "GAC", "AAC", "CTG", "GTT", "ACC", "CGT", "ATC"};
    uint64_t seed = 11;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int w = 0; w < n_windows;) {
        fprintf(f, ">r%d\n", w);
        for (int k = 0; k < 8 && w < n_windows; k++, w++)
            for (int i = 0; i < window_bp; i += 3) fputs(codons[support_random(&seed) % 8], f);
        fputc('\n', f);
    }
    fclose(f);
}

static void open_fixture(struct fixture *f, const char *name, int n_windows) {
    memset(f, 0, sizeof *f);
    f->m.esm2 = open_model(MODEL, VNP_MODEL_ESM2);
    f->m.dnabert = open_model(MODEL, VNP_MODEL_DNABERT);
    f->m.classifier = open_model(MODEL, VNP_MODEL_CLASSIFIER);
    scratch(name, f->plain, sizeof f->plain);
    put(f->input, sizeof f->input, "%s/in.fa", f->plain);
    write_genes(f->input, n_windows, 99);
    for (size_t i = 0; i < VNP_COUNT(f->devices); i++)
        f->devices[i] = (struct vnp_run_device){.backend = vnp_cpu_backend(), .idx_device = 0};
    f->inputs[0] = f->input;
    f->opt = (struct vnp_run_options){.inputs = f->inputs,
                                      .n_inputs = 1,
                                      .out = f->plain,
                                      .devices = f->devices,
                                      .n_devices = 1,
                                      .worker_program = PROGRAM,
                                      .host = vnp_cpu_backend(),
                                      .budget_tokens = 400,
                                      .n_threads = 1,
                                      .window_bp = 99,
                                      .are_embeddings_saved = true,
                                      .watchdog_s = SUPPORT_IS_SANITIZED ? 5 : 0.5,
                                      .start_s = 20,
                                      .esm2 = f->m.esm2,
                                      .dnabert = f->m.dnabert,
                                      .classifier = f->m.classifier};
    struct vnp_run_counts c;
    assert_status(vnp_run_predict(&f->opt, &c), VNP_OK);
    assert_true(c.n_frames >= n_windows / 2);
    for (size_t i = 0; i < VNP_COUNT(f->devices); i++) {
        f->devices[i].is_process = true;
        f->devices[i].idx_device = (int)i;
    }
}

static void close_fixture(struct fixture *f) {
    unsetenv("VNP_TEST_WORKER_FAULT");
    models_close(&f->m);
}

static void assert_equal_to_plain(const struct fixture *f) {
    for (size_t i = 0; i < VNP_COUNT(files); i++) assert_same_file(f->plain, f->out, files[i]);
}

/* A run into a fresh folder with n workers and a fault order (NULL: none). */
static vnp_status run(struct fixture *f, int n_workers, const char *fault,
                      struct vnp_run_counts *c) {
    scratch("worker_out", f->out, sizeof f->out);
    f->opt.out = f->out;
    f->opt.n_devices = n_workers;
    if (fault)
        setenv("VNP_TEST_WORKER_FAULT", fault, 1);
    else
        unsetenv("VNP_TEST_WORKER_FAULT");
    return vnp_run_predict(&f->opt, c);
}

static int64_t n_incidents(const char *dir) {
    struct vnp_run_status_info info;
    assert_status(vnp_run_status(dir, &info), VNP_OK);
    return info.n_incidents;
}

static void test_same_bytes(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_same", 100);
    for (int n = 1; n <= 3; n++) {
        assert_status(run(&f, n, NULL, &c), VNP_OK);
        assert_equal_to_plain(&f);
        assert_int_equal(n_incidents(f.out), 0);
    }
    f.devices[1].is_process = false; /* both kinds together */
    assert_status(run(&f, 2, NULL, &c), VNP_OK);
    assert_equal_to_plain(&f);
    close_fixture(&f);
}

/* A device is asked in a process that ends with the answer. */
static void test_info(void **state) {
    (void)state;
    struct run_process p = {.plan = {.device = {.backend = vnp_cpu_backend()}, .n_threads = 1},
                            .program = PROGRAM,
                            .name = "cpu:0"};
    struct run_patience patience = {.limit_s = 60};
    struct vnp_device_info info;
    assert_status(vnp_run_process_info(&p, &patience, &info), VNP_OK);
    assert_int_equal(info.budget_tokens, 2048);
    assert_non_null(strstr(info.name, "CPU"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left */
    p.program = "/bin/false";
    assert_status(vnp_run_process_info(&p, &patience, &info), VNP_DEVICE);
}

/* Each kind alone: nothing is lost, and it has been noticed. */
static void test_each_fault(void **state) {
    (void)state;
    static const char *const faults[] = {"kill:9",   "segv:9",      "exit:9",  "garbage:9",
                                         "device:9", "nan:9",       "nomem:9", "hang:23",
                                         "stop:23",  "start,kill:9"};
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_faults", 100);
    for (size_t i = 0; i < VNP_COUNT(faults); i++) {
        assert_status(run(&f, 2, faults[i], &c), VNP_OK);
        assert_equal_to_plain(&f);
        int64_t n = n_incidents(f.out);
        print_message("# %s: %lld incidents\n", faults[i], (long long)n);
        assert_true(n > 0);
        assert_int_equal(c.n_failed, 0);
    }
    close_fixture(&f);
}

/* All kinds in one run, a fault at every sixth pack of a worker: many a sequence is in the way of
 * three of them, and none fails, for its last trial is a new worker's first pack. */
static void test_many_faults(void **state) {
    (void)state;
    bool is_full = getenv("VNP_STRESS") != NULL;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_many", is_full ? 6500 : 250); /* three frames a window */
    double t = vnp_now_s();
    f.opt.watchdog_s = SUPPORT_IS_SANITIZED ? 5 : 0.3;
    f.opt.budget_tokens = 200;
    assert_status(run(&f, 2, "kill,segv,exit,garbage,device,nan,nomem,hang,stop,start:6", &c),
                  VNP_OK);
    int64_t n = n_incidents(f.out);
    print_message("# %lld frames, %lld incidents, %.1f s\n", (long long)c.n_frames, (long long)n,
                  vnp_now_s() - t);
    assert_int_equal(c.n_failed, 0);
    assert_equal_to_plain(&f);
    assert_true(n >= (is_full ? 1000 : 20));
    close_fixture(&f);
}

/* ---- embed: guilty sequences, long sequences, every token ---------------------------------------
 */

static void write_proteins(const char *path, int n, int every_poisoned, int n_long) {
    static const char letters[] = "LAGVSERTIDPKQNFYMHC";
    uint64_t seed = 5;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        int len = 20 + (int)(support_random(&seed) % 100);
        if (i < n_long) len = 1500; /* above the budget: a pack and a slot of its own */
        fprintf(f, ">p%d\n", i);
        for (int k = 0; k < len; k++) fputc(letters[support_random(&seed) % 19], f);
        if (every_poisoned && i % every_poisoned == 7) fputs("WWW", f);
        fputc('\n', f);
    }
    fclose(f);
}

static vnp_status embed(struct fixture *f, const char *name, int n_workers, const char *fault,
                        struct vnp_run_counts *c) {
    static char path[4200];
    put(path, sizeof path, "%s/%s.npy", f->plain, name);
    f->opt.out = path;
    f->opt.embed_model = f->m.esm2;
    f->opt.layer = -1;
    f->opt.n_devices = VNP_MAX(1, n_workers);
    f->devices[0].is_process = n_workers > 0;
    if (fault)
        setenv("VNP_TEST_WORKER_FAULT", fault, 1);
    else
        unsetenv("VNP_TEST_WORKER_FAULT");
    return vnp_run_embed(&f->opt, c);
}

static void test_guilty(void **state) {
    (void)state;
    static const char *const kinds[] = {"kill@22", "nan@22", "device@22"};
    struct fixture f;
    struct vnp_run_counts c;
    enum { N = 150, EVERY = 60 };
    open_fixture(&f, "worker_guilty", 8);
    write_proteins(f.input, N, EVERY, 0);
    f.opt.pool = VNP_POOL_MEAN;
    assert_status(embed(&f, "plain", 0, NULL, &c), VNP_OK);
    char path[4200];
    put(path, sizeof path, "%s/plain.npy", f.plain);
    struct support_npy plain = support_npy_load(path);
    for (size_t k = 0; k < VNP_COUNT(kinds); k++) {
        char name[32];
        put(name, sizeof name, "guilty%zu", k);
        assert_status(embed(&f, name, 2, kinds[k], &c), VNP_OK);
        assert_int_equal(c.n_failed, 3); /* 7, 67, 127 */
        put(path, sizeof path, "%s/%s.npy", f.plain, name);
        struct support_npy a = support_npy_load(path);
        assert_int_equal(a.n, plain.n);
        size_t n_cols = (size_t)(a.n / N);
        for (size_t i = 0; i < N; i++) {
            const float *row = (const float *)a.data + i * n_cols;
            assert_int_equal(isnan(row[0]), i % EVERY == 7);
            if (!isnan(row[0]))
                assert_memory_equal(row, (const float *)plain.data + i * n_cols,
                                    n_cols * sizeof(float));
        }
        support_npy_free(&a);
        put(path, sizeof path, "%s/%s.npy.ids.tsv", f.plain, name);
        char *ids = support_read_file(path, NULL);
        assert_non_null(strstr(ids, "failed"));
        free(ids);
    }
    support_npy_free(&plain);
    close_fixture(&f);
}

static void test_every_token(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_tokens", 8);
    write_proteins(f.input, 60, 0, 2);
    f.opt.pool = VNP_POOL_NONE;
    assert_status(embed(&f, "one", 0, NULL, &c), VNP_OK);
    assert_status(embed(&f, "two", 2, "kill,nan:5", &c), VNP_OK);
    char a[4200], b[4200];
    put(a, sizeof a, "%s/one.npy", f.plain);
    put(b, sizeof b, "%s/two.npy", f.plain);
    size_t n_a, n_b;
    char *x = support_read_file(a, &n_a), *y = support_read_file(b, &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(x, y, n_a);
    free(x);
    free(y);
    close_fixture(&f);
}

/* ---- the end of devices and of the host ---------------------------------------------------------
 */

static void test_no_device_left(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_dead", 100);
    assert_status(run(&f, 2, "start:1", &c), VNP_DEVICE); /* none ever starts */
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_DEVICE);
    assert_non_null(strstr(vnp_error_last()->hint, "repeat the command"));
    unsetenv("VNP_TEST_WORKER_FAULT");
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_equal_to_plain(&f);
    f.opt.worker_program = VNP_TEST_BINARY_DIR "/there is no such program";
    assert_status(run(&f, 1, NULL, &c), VNP_DEVICE);
    assert_non_null(strstr(vnp_error_last()->text, "no such program"));
    f.opt.worker_program = "/bin/true"; /* a program, but not ours */
    assert_status(run(&f, 1, NULL, &c), VNP_DEVICE);
    f.devices[1].is_process = false; /* the rest go on */
    assert_status(run(&f, 2, NULL, &c), VNP_OK);
    assert_equal_to_plain(&f);
    close_fixture(&f);
}

/* A model that is replaced under a run must not be taken by a worker that starts later. */
static void test_model_replaced(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    char copy[4200], command[9000];
    open_fixture(&f, "worker_model", 8);
    put(copy, sizeof copy, "%s/model.safetensors", f.plain);
    put(command, sizeof command, "cp '%s' '%s'", MODEL, copy);
    assert_int_equal(system(command), 0);
    struct vnp_checkpoint *first = f.m.esm2;
    f.opt.esm2 = open_model(copy, VNP_MODEL_ESM2);
    put(command, sizeof command, "cp '%s' '%s.new' && mv '%s.new' '%s'", MODEL, copy, copy, copy);
    assert_int_equal(system(command), 0);
    assert_status(run(&f, 1, NULL, &c), VNP_MISMATCH);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_MODEL);
    assert_non_null(strstr(vnp_error_last()->text, "replaced"));
    assert_non_null(strstr(vnp_error_last()->file, "model.safetensors"));
    vnp_checkpoint_close((struct vnp_checkpoint *)(uintptr_t)f.opt.esm2);
    f.opt.esm2 = first;
    close_fixture(&f);
}

/* Children of a process; -1 ends the list. */
static void children_of(pid_t pid, pid_t *out, int max) {
    char command[128];
    put(command, sizeof command, "cat /proc/%d/task/*/children", (int)pid);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    int n = 0, child;
    while (n + 1 < max && fscanf(f, "%d", &child) == 1) out[n++] = child;
    out[n] = -1;
    pclose(f);
}

/* Workers end with their host, also when it gets no chance to say so. */
static void test_orphans(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_orphans", 100);
    scratch("worker_out", f.out, sizeof f.out);
    f.opt.out = f.out;
    f.opt.n_devices = 2;
    f.opt.watchdog_s = f.opt.start_s = 600;
    setenv("VNP_TEST_WORKER_FAULT", "hang:3", 1);
    pid_t host = fork();
    assert_true(host >= 0);
    if (host == 0) _exit(vnp_run_predict(&f.opt, &c) == VNP_OK ? 0 : 1);
    pid_t workers[16] = {-1};
    int n = 0;
    for (int i = 0; i < 500 && n < 2; i++) {
        usleep(20000);
        children_of(host, workers, 16);
        for (n = 0; workers[n] > 0;) n++;
    }
    assert_int_equal(n, 2);
    usleep(300000);
    kill(host, SIGKILL);
    waitpid(host, NULL, 0);
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < 500 && kill(workers[k], 0) == 0; i++) {
            char path[64], text[512] = "";
            put(path, sizeof path, "/proc/%d/stat", (int)workers[k]);
            FILE *file = fopen(path, "r");
            if (file && fgets(text, sizeof text, file) && strstr(text, ") Z")) i = 500;
            if (file) fclose(file);
            usleep(10000);
        }
    }
    for (int k = 0; k < n; k++) {
        char path[64], text[512] = "";
        put(path, sizeof path, "/proc/%d/stat", (int)workers[k]);
        FILE *file = fopen(path, "r");
        bool is_gone = !file || !fgets(text, sizeof text, file) || strstr(text, ") Z");
        if (file) fclose(file);
        assert_true(is_gone);
    }
    close_fixture(&f);
}

/* Grace: what hangs is given up, what is whole is committed, the next run goes on. Last, and in a
 * child: a stop request is for the whole process and for good. */
static void test_grace(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts c;
    open_fixture(&f, "worker_grace", support_is_quick() ? 200 : 2000);
    scratch("worker_out", f.out, sizeof f.out);
    struct support_stop s = {.after = 3};
    f.opt.out = f.out;
    f.opt.n_devices = 2;
    f.opt.block_windows = 16;
    f.opt.watchdog_s = f.opt.start_s = 600;
    f.opt.grace_s = 1;
    f.opt.progress = support_stop_soon;
    f.opt.progress_ctx = &s;
    setenv("VNP_TEST_WORKER_FAULT", "hang:5", 1);
    double t = vnp_now_s();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(vnp_run_predict(&f.opt, &c) == VNP_CANCELED ? 75 : 1);
    int status;
    waitpid(pid, &status, 0);
    t = vnp_now_s() - t;
    print_message("# ended after %.2f s\n", t);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 75);
    assert_true(t >= 1 && t < 15);
    unsetenv("VNP_TEST_WORKER_FAULT");
    f.opt.progress = NULL;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_equal_to_plain(&f);
    close_fixture(&f);
}

/* An argument: only the tests whose names match it. */
int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),           cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_each_fault),     cmocka_unit_test(test_many_faults),
        cmocka_unit_test(test_guilty),         cmocka_unit_test(test_every_token),
        cmocka_unit_test(test_no_device_left), cmocka_unit_test(test_model_replaced),
        cmocka_unit_test(test_orphans),        cmocka_unit_test(test_grace),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
