// SPDX-License-Identifier: MIT
// No allocation in steady state: malloc, calloc and realloc of everything that is linked into this
// program (our rooms; not SQLite, whose page cache is its own) are counted through the linker's
// --wrap while blocks go through the whole engine with a stand-in for the encoders.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "run/engine.h"
#include "run_support.h"

enum { COLS = 16, WINDOW = 300, N_RECORDS = 12000, BLOCK = 32, FROM_BLOCK = 200, TO_BLOCK = 340 };

static atomic_int_fast64_t n_allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(p, n);
}

static vnp_status instant_open(void *ctx, const struct run_patience *p, void **worker) {
    (void)ctx, (void)p;
    *worker = calloc(1024 * COLS, sizeof(float));
    return *worker ? VNP_OK : VNP_NOMEM;
}
static int instant_slots(void *worker) {
    (void)worker;
    return 2;
}
static vnp_status instant_submit(void *worker, int slot, const struct run_pack *p) {
    (void)worker, (void)slot, (void)p;
    return VNP_OK;
}
static vnp_status instant_wait(void *worker, int slot, const struct run_patience *p,
                               const float **out) {
    (void)slot, (void)p;
    *out = worker;
    return VNP_OK;
}
static const struct run_worker_ops instant_ops = {.kind = "stand-in",
                                                  .open = instant_open,
                                                  .close = free,
                                                  .n_slots = instant_slots,
                                                  .submit = instant_submit,
                                                  .wait = instant_wait};

struct watch {
    int n_blocks;
    int64_t n_at_from, n_at_to;
};

/* Called once a block by the finishing stage. */
static vnp_status classify(void *ctx, const float *z, int64_t n, float *scores) {
    struct watch *w = ctx;
    (void)z;
    w->n_blocks++;
    if (w->n_blocks == FROM_BLOCK) w->n_at_from = atomic_load(&n_allocations);
    if (w->n_blocks == TO_BLOCK) w->n_at_to = atomic_load(&n_allocations);
    for (int64_t i = 0; i < 2 * n; i++) scores[i] = 0.5f;
    return VNP_OK;
}

/* One window a record, open in its first frame. */
static void write_genes(const char *path) {
    uint64_t seed = 11;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < N_RECORDS; i++) {
        char seq[WINDOW + 1] = {0};
        for (int n = 0; n < WINDOW;) {
            for (int k = 0; k < 3; k++) seq[n + k] = "ACGT"[support_random(&seed) & 3];
            bool is_stop = !memcmp(seq + n, "TAA", 3) || !memcmp(seq + n, "TAG", 3) ||
                           !memcmp(seq + n, "TGA", 3);
            n += is_stop ? 0 : 3;
        }
        fprintf(f, ">r%06d\n%s\n", i, seq);
    }
    fclose(f);
}

static void plan(struct run_engine *e, struct run_device *device, struct watch *w) {
    *device = (struct run_device){.ops = &instant_ops, .name = "stand-in:0"};
    e->window_bp = WINDOW;
    e->block_windows = BLOCK;
    e->block_bases = 1 << 20;
    e->uses[ENC_DNA] = e->uses[ENC_PROTEIN] = true;
    e->n_cols[ENC_DNA] = e->n_cols[ENC_PROTEIN] = e->off_col[ENC_PROTEIN] = COLS;
    e->n_row_cols = 2 * COLS;
    e->classify = classify;
    e->classify_ctx = w;
    e->devices = device;
    e->n_devices = e->n_prep = 1;
    e->n_blocks = 24;
    e->budget_tokens = 2048;
    e->max_seqs = 257;
}

static void test_steady(void **state) {
    (void)state;
    char dir[4096], input[4200], db[4200], path[4200];
    const char *json, *inputs[1] = {input}, *goldens = support_goldens();
    struct run_device device;
    struct watch w = {0};
    struct vnp_bpe *bpe;
    size_t n;
    scratch("steady", dir, sizeof dir);
    put(input, sizeof input, "%s/in.fa", dir);
    put(db, sizeof db, "%s/run.db", dir);
    put(path, sizeof path, "%s/dnabert_s/l3_d192_h3", goldens);
    write_genes(input);
    struct vnp_checkpoint *model = open_model(path, VNP_MODEL_DNABERT);
    assert_status(vnp_checkpoint_tokenizer(model, &json, &n), VNP_OK);
    assert_status(vnp_bpe_load(json, n, path, &bpe), VNP_OK);
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = dir,
                                  .commit_s = 0.01,
                                  .dedup_bytes = 1 << 19}; /* full, and turning over, soon */
    struct run_engine e = {.opt = &opt, .bpe = bpe};
    static const struct vnp_ledger_fact fact = {.key = "test", .value = "steady"};
    struct vnp_ledger_options ledger = {.path = db, .facts = &fact, .n_facts = 1};
    plan(&e, &device, &w);
    assert_status(vnp_ledger_open(&ledger, &e.ledger), VNP_OK);
    assert_status(vnp_run_engine_run(&e), VNP_OK);
    vnp_ledger_close(e.ledger);
    print_message("# %d blocks, %lld allocations before block %d, %lld from there to block %d\n",
                  w.n_blocks, (long long)w.n_at_from, FROM_BLOCK,
                  (long long)(w.n_at_to - w.n_at_from), TO_BLOCK);
    assert_true(w.n_blocks > TO_BLOCK);
    assert_true(w.n_at_from > 100); /* the counter counts */
    assert_int_equal(w.n_at_to - w.n_at_from, 0);
    vnp_bpe_destroy(bpe);
    vnp_checkpoint_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steady)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
