// SPDX-License-Identifier: MIT
// The engine over stand-in devices of fixed speed with faults made to order: the same rows as
// without faults, failed rows named, dropped devices, an end when none is left, resume, and
// devices that are never kept waiting.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "run/engine.h"
#include "run_support.h"

enum { COLS = 4, SLOTS = 2 };

enum fault { NO_FAULT, ON_SUBMIT, ON_WAIT, ON_NAN, ON_NOMEM };

struct standin {
    double tokens_per_s;  /* 0: at once */
    int fault_every;      /* a fault each so many packs, kinds in turn; 0 = none */
    int64_t dead_after;   /* packs until it answers nothing any more; -1 = never */
    int n_open_failures;  /* the next so many opens fail */
    bool has_poison;      /* packs with a run of WWW never succeed */
    int64_t nomem_tokens; /* packs larger than this do not fit; 0 = all fit */
    int n_nomem;          /* the next so many packs do not fit */
    /* running */
    int64_t n_packs;
    int n_faults;
    struct {
        float *out;
        size_t cap;
        enum fault fault;
        double t_ready;
    } slots[SLOTS];
    double t_free; /* when the device has done everything submitted */
};

static vnp_status standin_open(void *ctx, const struct run_patience *patience, void **worker) {
    struct standin *d = ctx;
    (void)patience;
    if (d->dead_after >= 0 && d->n_packs >= d->dead_after)
        return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the stand-in is dead");
    if (d->n_open_failures > 0) {
        d->n_open_failures--;
        return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the stand-in does not start");
    }
    d->t_free = 0;
    *worker = d;
    return VNP_OK;
}

static void standin_close(void *worker) {
    struct standin *d = worker;
    for (int i = 0; i < SLOTS; i++) {
        free(d->slots[i].out);
        d->slots[i].out = NULL;
        d->slots[i].cap = 0;
    }
}

static int standin_slots(void *worker) {
    (void)worker;
    return SLOTS;
}

/* What an encoder would say: any function of the sequence alone. */
static void answer(const uint16_t *tokens, int64_t n, float *out) {
    struct vnp_hash128 h = vnp_hash(tokens, (size_t)n * sizeof *tokens);
    for (int i = 0; i < COLS; i++) out[i] = (float)((h.lo >> (16 * i)) & 0xffff) / 65536.0f;
}

static bool is_poisoned(const struct vnp_pack *p) {
    enum { W = 22 };
    for (int64_t i = 0; i + 2 < p->n_tokens; i++)
        if (p->tokens[i] == W && p->tokens[i + 1] == W && p->tokens[i + 2] == W) return true;
    return false;
}

static enum fault pick(struct standin *d, const struct vnp_pack *p, bool is_last_try) {
    static const enum fault kinds[] = {ON_WAIT, ON_NAN, ON_SUBMIT, ON_NOMEM};
    if (p->n_tokens == 3) return NO_FAULT; /* a probe */
    if (d->has_poison && is_poisoned(p)) return d->n_faults++ % 2 ? ON_NAN : ON_WAIT;
    if (d->n_nomem > 0) {
        d->n_nomem--;
        return ON_NOMEM;
    }
    if (d->nomem_tokens > 0 && p->n_tokens > d->nomem_tokens) return ON_NOMEM;
    d->n_packs++;
    if (d->dead_after >= 0 && d->n_packs > d->dead_after) return ON_WAIT;
    if (d->fault_every == 0 || d->n_packs % d->fault_every) return NO_FAULT;
    if (is_last_try) { /* the next pack instead: a third loss would rightly be the sequence's */
        d->n_packs--;
        return NO_FAULT;
    }
    enum fault fault = kinds[d->n_faults++ % 4];
    return fault == ON_NOMEM && p->n_tokens <= 512 ? NO_FAULT : fault; /* small ones would fit */
}

static vnp_status standin_submit(void *worker, int slot, const struct run_pack *p) {
    struct standin *d = worker;
    const struct vnp_pack *v = &p->view;
    size_t n = (size_t)v->n_seqs * COLS;
    if (n > d->slots[slot].cap) {
        free(d->slots[slot].out);
        d->slots[slot].out = malloc(n * sizeof(float));
        d->slots[slot].cap = n;
    }
    enum fault fault = pick(d, v, p->n_faults > 1);
    d->slots[slot].fault = fault;
    if (fault == ON_SUBMIT) return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "killed at submit");
    for (int64_t s = 0; s < v->n_seqs; s++)
        answer(v->tokens + v->cu_seqlens[s], v->cu_seqlens[s + 1] - v->cu_seqlens[s],
               d->slots[slot].out + s * COLS);
    if (fault == ON_NAN) d->slots[slot].out[n / 2] = (float)NAN;
    double now = vnp_now_s();
    double busy = d->tokens_per_s > 0 ? (double)v->n_tokens / d->tokens_per_s : 0;
    d->t_free = fmax(d->t_free, now) + busy;
    d->slots[slot].t_ready = d->t_free;
    return VNP_OK;
}

static vnp_status standin_wait(void *worker, int slot, const struct run_patience *patience,
                               const float **out) {
    struct standin *d = worker;
    for (;;) {
        double left = d->slots[slot].t_ready - vnp_now_s();
        if (left <= 0) break;
        if (atomic_load(patience->is_abandoned))
            return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "abandoned");
        left = fmin(left, 0.1);
        struct timespec t = {0, (long)(left * 1e9)};
        nanosleep(&t, NULL);
    }
    *out = d->slots[slot].out;
    if (d->slots[slot].fault == ON_WAIT) return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "crashed");
    if (d->slots[slot].fault == ON_NOMEM)
        return vnp_fail(VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, "no memory");
    return VNP_OK;
}

static const struct run_worker_ops standin_ops = {.kind = "stand-in",
                                                  .open = standin_open,
                                                  .close = standin_close,
                                                  .n_slots = standin_slots,
                                                  .submit = standin_submit,
                                                  .wait = standin_wait};

struct job {
    struct vnp_run_options opt;
    struct run_engine e;
    struct standin standins[8];
    struct run_device devices[8];
    const char *inputs[1];
    char input[4096], db[4096], data[4096];
    float *rows; /* after job_run: all of them, in order */
    int64_t n_rows;
};

static vnp_status collect(void *ctx, const float *rows, int64_t n_rows) {
    struct job *j = ctx;
    j->rows = realloc(j->rows, (size_t)(j->n_rows + n_rows) * COLS * sizeof(float));
    memcpy(j->rows + j->n_rows * COLS, rows, (size_t)n_rows * COLS * sizeof(float));
    j->n_rows += n_rows;
    return VNP_OK;
}

static void job_init(struct job *j, const char *dir, const char *input, const char *name, int n) {
    memset(j, 0, sizeof *j);
    put(j->input, sizeof j->input, "%s", input);
    put(j->db, sizeof j->db, "%s/%s.db", dir, name);
    put(j->data, sizeof j->data, "%s/%s.vectors", dir, name);
    j->inputs[0] = j->input;
    j->opt = (struct vnp_run_options){
        .inputs = j->inputs, .n_inputs = 1, .pool = VNP_POOL_MEAN, .commit_s = 0.02, .out = dir};
    struct run_engine *e = &j->e;
    e->opt = &j->opt;
    e->is_embed = true;
    e->uses[ENC_PROTEIN] = true;
    e->n_cols[ENC_PROTEIN] = e->n_row_cols = COLS;
    e->is_rows_kept = true;
    e->block_windows = 256;
    e->block_bases = 1 << 16;
    e->budget_tokens = 2048;
    e->max_seqs = 257;
    e->devices = j->devices;
    e->n_devices = n;
    e->n_prep = 1;
    e->n_blocks = 8 + 16 * n;
    for (int i = 0; i < n; i++) {
        j->standins[i].dead_after = -1;
        j->devices[i].ops = &standin_ops;
        j->devices[i].ctx = &j->standins[i];
        put(j->devices[i].name, sizeof j->devices[i].name, "stand-in:%d", i);
    }
}

static vnp_status job_run(struct job *j) {
    static const struct vnp_ledger_fact fact = {.key = "test", .value = "pool"};
    struct vnp_ledger_options opt = {
        .path = j->db, .data_path = j->data, .n_cols = COLS, .facts = &fact, .n_facts = 1};
    assert_status(vnp_ledger_open(&opt, &j->e.ledger), VNP_OK);
    vnp_status status = vnp_run_engine_run(&j->e);
    if (status == VNP_OK) assert_status(vnp_ledger_rows_walk(j->e.ledger, collect, j), VNP_OK);
    vnp_ledger_close(j->e.ledger);
    j->e.ledger = NULL;
    return status;
}

static void write_proteins(const char *path, int64_t n, bool has_poison, uint64_t seed) {
    static const char letters[] = "LAGVSERTIDPKQNFYMHC";
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int64_t i = 0; i < n; i++) {
        int len = 20 + (int)(support_random(&seed) % 150);
        fprintf(f, ">p%lld\n", (long long)i);
        for (int k = 0; k < len; k++) fputc(letters[support_random(&seed) % 19], f);
        if (has_poison && i % 997 == 500) fputs("WWW", f);
        fputc('\n', f);
    }
    fclose(f);
}

static void assert_same_rows(const struct job *a, const struct job *b) {
    assert_int_equal(a->n_rows, b->n_rows);
    assert_memory_equal(a->rows, b->rows, (size_t)a->n_rows * COLS * sizeof(float));
}

struct pool_fixture {
    char dir[4096], input[4096];
    struct job plain;
};

static void open_pool(struct pool_fixture *f, const char *name, int64_t n, bool has_poison) {
    scratch(name, f->dir, sizeof f->dir);
    put(f->input, sizeof f->input, "%s/in.faa", f->dir);
    write_proteins(f->input, n, has_poison, 5);
    job_init(&f->plain, f->dir, f->input, "plain", 1);
    assert_status(job_run(&f->plain), VNP_OK);
    assert_int_equal(f->plain.n_rows, n);
}

static void test_faults(void **state) {
    (void)state;
    struct pool_fixture f;
    open_pool(&f, "faults", 20000, false);
    struct job j;
    job_init(&j, f.dir, f.input, "faults", 3);
    for (int i = 0; i < 3; i++) j.standins[i].fault_every = 17 + i;
    j.standins[1].n_open_failures = 1;
    j.e.budget_tokens = 1024;
    assert_status(job_run(&j), VNP_OK);
    int n = 0;
    for (int i = 0; i < 3; i++) n += j.standins[i].n_faults;
    print_message("# %d faults\n", n);
    assert_true(n >= 100);
    assert_same_rows(&f.plain, &j);
    free(j.rows);
    free(f.plain.rows);
}

static void test_nomem(void **state) {
    (void)state;
    struct pool_fixture f;
    open_pool(&f, "nomem", 3000, false);
    struct job j;
    job_init(&j, f.dir, f.input, "nomem", 1);
    j.standins[0].nomem_tokens = 700;
    assert_status(job_run(&j), VNP_OK);
    assert_same_rows(&f.plain, &j);
    assert_true(j.devices[0].budget_tokens < 2048);
    free(j.rows);
    job_init(&j, f.dir, f.input, "recovers", 1); /* three packs fail, the rest would fit */
    j.standins[0].n_nomem = 3;
    assert_status(job_run(&j), VNP_OK);
    assert_same_rows(&f.plain, &j);
    assert_int_equal(atomic_load(&j.devices[0].n_faults), 3);
    assert_int_equal(j.devices[0].budget_tokens, 2048);
    print_message("# %lld packs, %lld at the full budget\n",
                  (long long)atomic_load(&j.devices[0].n_packs),
                  (long long)(atomic_load(&j.e.n_tokens) / 2048));
    assert_true(atomic_load(&j.devices[0].n_packs) > 150); /* slowly */
    free(j.rows);
    free(f.plain.rows);
}

static void test_poison(void **state) {
    (void)state;
    struct pool_fixture f;
    open_pool(&f, "poison", 3000, true);
    struct job j;
    job_init(&j, f.dir, f.input, "poison", 2);
    j.standins[0].has_poison = j.standins[1].has_poison = true;
    assert_status(job_run(&j), VNP_OK);
    int64_t n_failed = 0;
    for (int64_t i = 0; i < j.n_rows; i++) {
        const float *row = j.rows + i * COLS;
        if (isnan(row[0])) {
            assert_int_equal(i % 997, 500);
            n_failed++;
        } else {
            assert_memory_equal(row, f.plain.rows + i * COLS, COLS * sizeof(float));
        }
    }
    assert_int_equal(n_failed, 3);
    struct vnp_ledger_options opt = {.path = j.db, .is_read_only = true};
    struct vnp_ledger *l;
    struct vnp_ledger_cursor *c;
    struct vnp_ledger_record r;
    bool has;
    assert_status(vnp_ledger_open(&opt, &l), VNP_OK);
    assert_status(vnp_ledger_cursor_open(l, &c), VNP_OK);
    for (int64_t i = 0; i < 3000; i++) {
        assert_status(vnp_ledger_cursor_record(c, &r, &has), VNP_OK);
        assert_true(has);
        assert_int_equal(r.reason != NULL, i % 997 == 500);
        if (r.reason) assert_true(strlen(r.reason) > 0);
    }
    vnp_ledger_cursor_close(c);
    vnp_ledger_close(l);
    free(j.rows);
    free(f.plain.rows);
}

/* One device dies for good: the rest go on. All die: 69, and the run can be taken up again. */
static void test_dead_devices(void **state) {
    (void)state;
    struct pool_fixture f;
    open_pool(&f, "dead", 4000, false);
    struct job j, k;
    job_init(&j, f.dir, f.input, "onedead", 2);
    j.standins[1].dead_after = 5;
    j.standins[0].tokens_per_s = 2e6;
    assert_status(job_run(&j), VNP_OK);
    assert_same_rows(&f.plain, &j);
    assert_true(j.devices[1].is_dropped);
    assert_false(j.devices[0].is_dropped);
    free(j.rows);
    job_init(&j, f.dir, f.input, "alldead", 2);
    j.standins[0].dead_after = 60;
    j.standins[1].dead_after = 50;
    j.standins[0].tokens_per_s = j.standins[1].tokens_per_s = 1e6;
    assert_status(job_run(&j), VNP_DEVICE);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_DEVICE);
    job_init(&k, f.dir, f.input, "alldead", 1);
    assert_status(job_run(&k), VNP_OK);
    assert_same_rows(&f.plain, &k);
    int64_t n_done = atomic_load(&k.e.n_tokens), n_all = atomic_load(&f.plain.e.n_tokens);
    print_message("# resumed: %lld of %lld tokens computed again\n", (long long)n_done,
                  (long long)n_all);
    assert_true(n_done < n_all);
    free(k.rows);
    free(f.plain.rows);
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Devices of fixed speed are kept busy, in any mix of speeds. VNP_STRESS makes it full size. */
static void test_utilisation(void **state) {
    (void)state;
    bool is_full = getenv("VNP_STRESS") != NULL;
    static const double speeds[2][4] = {{1, 0, 0, 0}, {1, 1, 2, 4}};
    struct pool_fixture f;
    open_pool(&f, "speed", is_full ? 200000 : 20000, false);
    double n_tokens = (double)atomic_load(&f.plain.e.n_tokens);
    double seconds = is_full ? 20 : 2;
    for (int c = 0; c < 2; c++) {
        struct job j;
        double sum = 0, t = vnp_now_s(), cpu = cpu_s();
        int n = c == 0 ? 1 : 4;
        job_init(&j, f.dir, f.input, c == 0 ? "speed1" : "speed4", n);
        j.opt.commit_s = 5;
        j.e.budget_tokens = is_full ? 16896 : 2048; /* a GPU's; nine packs a device are too few */
        j.e.max_seqs = j.e.budget_tokens / 8 + 1;
        for (int i = 0; i < n; i++) sum += speeds[c][i];
        for (int i = 0; i < n; i++)
            j.standins[i].tokens_per_s = speeds[c][i] / sum * n_tokens / seconds;
        assert_status(job_run(&j), VNP_OK);
        t = vnp_now_s() - t;
        double busy = seconds / t, waiting = 0;
        for (int i = 0; i < n; i++) waiting += j.devices[i].wait_s * speeds[c][i] / sum;
        print_message("# %d devices: %.2f s for %.2f s of work, busy %.2f %%, waiting %.2f %%, "
                      "host %.2f s of CPU\n",
                      n, t, seconds, 100 * busy, 100 * waiting / t, cpu_s() - cpu);
        assert_same_rows(&f.plain, &j);
        /* a short run on a busy machine says less, and a sanitized one nothing */
        assert_true(busy >= (SUPPORT_IS_SANITIZED ? 0 : is_full ? (n == 1 ? 0.99 : 0.98) : 0.5));
        free(j.rows);
    }
    free(f.plain.rows);
}

static void test_dedup(void **state) {
    (void)state;
    char dir[4096], input[4096];
    scratch("dedup", dir, sizeof dir);
    put(input, sizeof input, "%s/in.faa", dir);
    FILE *file = fopen(input, "wb");
    assert_non_null(file);
    for (int i = 0; i < 5000; i++)
        fprintf(file, ">q%d\n%s%c%c\n", i, i % 2 ? "MKVLAT" : "mkvlat", "ACDEF"[i % 5],
                "ACDEFGHIKL"[i / 5 % 10]);
    fclose(file);
    struct job a, b;
    job_init(&a, dir, input, "with", 1);
    assert_status(job_run(&a), VNP_OK);
    assert_int_equal(atomic_load(&a.e.n_duplicates), 5000 - 50);
    job_init(&b, dir, input, "without", 2);
    b.opt.dedup_bytes = -1;
    assert_status(job_run(&b), VNP_OK);
    assert_int_equal(atomic_load(&b.e.n_duplicates), 0);
    assert_same_rows(&a, &b);
    free(a.rows);
    free(b.rows);
    job_init(&b, dir, input, "small", 2); /* a memory of a few sequences */
    b.opt.dedup_bytes = 8000;
    assert_status(job_run(&b), VNP_OK);
    assert_int_equal(b.n_rows, 5000);
    free(b.rows);
}

static bool stop_at_once(void *ctx, const struct vnp_run_progress *p) {
    (void)ctx;
    return strcmp(p->stage, "loading") == 0;
}

/* A stop request while packs of pack_s seconds are computed. In a child: it is for good. */
static int run_stopped(struct pool_fixture *f, double pack_s, double grace_s, double *seconds) {
    struct job j;
    job_init(&j, f->dir, f->input, "stopped", 2);
    j.opt.grace_s = grace_s;
    j.opt.progress = stop_at_once;
    j.e.block_windows = 8; /* packs complete blocks */
    for (int i = 0; i < 2; i++) j.standins[i].tokens_per_s = (double)j.e.budget_tokens / pack_s;
    double t = vnp_now_s();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) _exit(job_run(&j) == VNP_CANCELED ? 75 : 1);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    *seconds = vnp_now_s() - t;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int64_t n_frames_done(struct pool_fixture *f) {
    char path[4200];
    struct vnp_ledger *l;
    struct vnp_ledger_counts counts;
    put(path, sizeof path, "%s/stopped.db", f->dir);
    struct vnp_ledger_options opt = {.path = path, .is_read_only = true};
    assert_status(vnp_ledger_open(&opt, &l), VNP_OK);
    assert_status(vnp_ledger_count(l, &counts), VNP_OK);
    vnp_ledger_close(l);
    return counts.n_records;
}

/* Packs in flight are finished and committed within the grace time, given up after it. */
static void test_grace(void **state) {
    (void)state;
    struct pool_fixture f;
    double s;
    open_pool(&f, "grace", 1000, false);
    assert_int_equal(run_stopped(&f, 60, 0.3, &s), 75);
    print_message("# grace 0.3 s: ended after %.2f s, %lld records\n", s,
                  (long long)n_frames_done(&f));
    assert_true(s < 30);
    assert_int_equal(n_frames_done(&f), 0);
    assert_int_equal(run_stopped(&f, 2, 60, &s), 75);
    print_message("# grace 60 s: ended after %.2f s, %lld records\n", s,
                  (long long)n_frames_done(&f));
    assert_true(s > 1.5 && s < 50);
    assert_true(n_frames_done(&f) > 0);
    free(f.plain.rows);
}

/* An argument: only the tests whose names match it. */
int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_nomem),
        cmocka_unit_test(test_poison),      cmocka_unit_test(test_dead_devices),
        cmocka_unit_test(test_utilisation), cmocka_unit_test(test_dedup),
        cmocka_unit_test(test_grace),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
