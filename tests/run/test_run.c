// SPDX-License-Identifier: MIT
// Whole runs against the goldens: predict's files, embed's vectors, resume and refusals, and that
// no score depends on packing, blocks, dedup or the number of workers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "run_support.h"

static const char *const predict_files[] = {
    "prediction_results.txt", "prediction_results_highestscore.csv", "contigs.tsv", "virus.fna"};

struct fixture {
    struct models m;
    struct vnp_run_device devices[5];
    struct vnp_run_options opt;
    const char *inputs[1];
    char input[4096], out[4096];
};

static void open_fixture(struct fixture *f, const char *goldens, const char *chunk,
                         const char *name) {
    char classifier[64];
    memset(f, 0, sizeof *f);
    put(classifier, sizeof classifier, "%s/classifier.pth", chunk);
    models_open(&f->m, goldens, classifier);
    put(f->input, sizeof f->input, "%s/pipeline/%s/input.fa", goldens, chunk);
    scratch(name, f->out, sizeof f->out);
    if (support_is_quick()) { /* not for the goldens, which are of the whole input */
        char whole[4096];
        put(whole, sizeof whole, "%s", f->input);
        put(f->input, sizeof f->input, "%s/head.fa", f->out);
        copy_head(whole, f->input, 1500);
    }
    for (size_t i = 0; i < VNP_COUNT(f->devices); i++) f->devices[i].backend = vnp_cpu_backend();
    f->inputs[0] = f->input;
    f->opt = (struct vnp_run_options){.inputs = f->inputs,
                                      .n_inputs = 1,
                                      .out = f->out,
                                      .devices = f->devices,
                                      .n_devices = 1,
                                      .host = vnp_cpu_backend(),
                                      .budget_tokens = 2048,
                                      .n_threads = 1,
                                      .window_bp = atoi(chunk + 5),
                                      .esm2 = f->m.esm2,
                                      .dnabert = f->m.dnabert,
                                      .classifier = f->m.classifier,
                                      .pool = VNP_POOL_MEAN,
                                      .layer = -1,
                                      .command = "test"};
}

/* prediction_results.txt: ids, order and labels equal; scores within 1e-4. */
static void compare_scores(const char *want_path, const char *got_path, double limit) {
    char *want = support_read_file(want_path, NULL), *got = support_read_file(got_path, NULL);
    char *pw, *pg, *w = strtok_r(want, "\n", &pw), *g = strtok_r(got, "\n", &pg);
    double worst = 0;
    int n = 0;
    assert_string_equal(w, g);
    for (;;) {
        char id_w[256], id_g[256], label_w[16], label_g[16];
        double w1, w2, g1, g2;
        w = strtok_r(NULL, "\n", &pw);
        g = strtok_r(NULL, "\n", &pg);
        if (!w || !g) break;
        assert_int_equal(sscanf(w, "%255s\t%15s\t%lf\t%lf", id_w, label_w, &w1, &w2), 4);
        assert_int_equal(sscanf(g, "%255s\t%15s\t%lf\t%lf", id_g, label_g, &g1, &g2), 4);
        assert_string_equal(id_w, id_g);
        assert_string_equal(label_w, label_g);
        worst = fmax(worst, fmax(fabs(w1 - g1), fabs(w2 - g2)));
        n++;
    }
    assert_true(w == NULL && g == NULL);
    print_message("# %d frames, largest score difference %.2e\n", n, worst);
    assert_true(n > 10);
    assert_true(worst <= limit);
    free(want);
    free(got);
}

static void golden_predict(const char *chunk) {
    const char *goldens = support_goldens();
    struct fixture f;
    struct vnp_run_counts c;
    char want[4096], got[4096], dir[4096];
    open_fixture(&f, goldens, chunk, chunk);
    if (strcmp(chunk, "chunk500") == 0) f.devices[0].backend = vnp_ref_backend();
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    put(want, sizeof want, "%s/pipeline/%s/%s", goldens, chunk, predict_files[0]);
    put(got, sizeof got, "%s/%s", f.out, predict_files[0]);
    compare_scores(want, got, 1e-4);
    put(dir, sizeof dir, "%s/pipeline/%s", goldens, chunk);
    assert_same_file(dir, f.out, predict_files[1]);
    assert_int_equal(c.n_records, c.n_virus + c.n_other + c.n_unscored);
    assert_int_equal(c.n_failed, 0);
    assert_true(c.n_virus > 0 && c.n_unscored > 0);
    assert_true(file_exists(f.out, "summary.json"));
    assert_true(file_exists(f.out, "run.db"));
    /* again: complete, nothing written */
    struct vnp_run_counts again;
    assert_status(vnp_run_predict(&f.opt, &again), VNP_OK);
    assert_true(again.was_complete);
    assert_int_equal(again.n_virus, c.n_virus);
    assert_int_equal(again.n_frames, c.n_frames);
    models_close(&f.m);
}

static void test_golden_500(void **state) {
    (void)state;
    golden_predict("chunk500");
}

static void test_golden_300(void **state) {
    (void)state;
    golden_predict("chunk300");
}

static void assert_same_run(const char *a, const char *b) {
    for (size_t i = 0; i < VNP_COUNT(predict_files); i++) assert_same_file(a, b, predict_files[i]);
}

/* Budgets, blocks, dedup, workers: the same bytes. */
static void test_independent_of_company(void **state) {
    (void)state;
    const char *goldens = support_goldens();
    static const struct {
        int64_t budget, block_windows, dedup;
        int n_devices;
    } cases[] = {{64, 3, -1, 1}, {300, 1, 0, 3}, {16384, 1000, 1 << 16, 2}, {512, 7, 0, 5}};
    struct fixture f;
    struct vnp_run_counts c;
    char first[4096];
    open_fixture(&f, goldens, "chunk300", "company");
    f.opt.are_embeddings_saved = true;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    put(first, sizeof first, "%s", f.out);
    for (size_t i = 0; i < VNP_COUNT(cases); i++) {
        char name[32];
        put(name, sizeof name, "company%zu", i);
        scratch(name, f.out, sizeof f.out);
        f.opt.budget_tokens = cases[i].budget;
        f.opt.block_windows = cases[i].block_windows;
        f.opt.dedup_bytes = cases[i].dedup;
        f.opt.n_devices = cases[i].n_devices;
        assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
        assert_same_run(first, f.out);
        assert_same_file(first, f.out, "embeddings.npy");
        assert_same_file(first, f.out, "embeddings.npy.ids.tsv");
        assert_false(file_exists(f.out, "run.vectors"));
    }
    models_close(&f.m);
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_refusals(void **state) {
    (void)state;
    const char *goldens = support_goldens();
    struct fixture f;
    struct vnp_run_counts c;
    char other[4096];
    open_fixture(&f, goldens, "chunk500", "refusals");
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    put(other, sizeof other, "%s/other.fa", f.out);
    write_text(other, ">a\nACGTACGTACGTACGATCGATCGATCGATC\n");
    f.inputs[0] = other; /* another input */
    assert_status(vnp_run_predict(&f.opt, &c), VNP_MISMATCH);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_OUTPUT);
    f.inputs[0] = f.input;
    f.opt.window_bp = 300; /* another option */
    assert_status(vnp_run_predict(&f.opt, &c), VNP_MISMATCH);
    f.opt.is_forced = true;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_false(c.was_complete);
    f.opt.is_forced = false;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_true(c.was_complete);
    char db[4096];
    put(db, sizeof db, "%s/run.db", f.out);
    unlink(db); /* outputs without their database */
    assert_status(vnp_run_predict(&f.opt, &c), VNP_MISMATCH);
    models_close(&f.m);
}

struct stopper {
    int n_calls, stop_at;
};

static void test_edge_inputs(void **state) {
    (void)state;
    const char *goldens = support_goldens();
    struct fixture f;
    struct vnp_run_counts c;
    char path[4096];
    open_fixture(&f, goldens, "chunk500", "edges");
    put(path, sizeof path, "%s/in.fa", f.out);
    write_text(path, ""); /* nothing at all */
    f.inputs[0] = path;
    char out[4096];
    put(out, sizeof out, "%s/empty", f.out);
    f.opt.out = out;
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_int_equal(c.n_records, 0);
    put(out, sizeof out, "%s/some/where/deep", f.out);
    write_text(path, ">e some text\n>t\nAC\n>n\nTAATTAATTAATTAA\n>e\nATGGCC\n>d\nATGGCC\n");
    assert_status(vnp_run_predict(&f.opt, &c), VNP_OK);
    assert_int_equal(c.n_records, 5);
    assert_int_equal(c.n_empty, 1);
    assert_int_equal(c.n_unscored, 3);
    assert_true(c.n_duplicates >= 2);
    size_t n;
    char tsv[4200];
    put(tsv, sizeof tsv, "%s/contigs.tsv", out);
    char *text = support_read_file(tsv, &n);
    assert_non_null(strstr(text, "e\t0\t0\t0\t0\t0\tnan\tunscored\tempty\t"));
    assert_non_null(strstr(text, "t\t2\t1\t0\t0\t0\tnan\tunscored\ttoo_short\t"));
    assert_non_null(strstr(text, "n\t15\t1\t0\t0\t0\tnan\tunscored\tno_orf\t"));
    free(text);
    f.inputs[0] = "/nonexistent/x.fa";
    assert_int_equal(vnp_run_predict(&f.opt, &c), VNP_IO);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_INPUT);
    models_close(&f.m);
}

/* Three shards, merged, are the bytes of one run; wrong sets are refused by name. */
static void test_shards(void **state) {
    (void)state;
    const char *goldens = support_goldens();
    struct fixture f;
    struct vnp_run_counts whole, part, merged;
    struct vnp_run_status_info info;
    char one[4096], dirs[3][4096], to[4096];
    const char *list[3] = {dirs[2], dirs[0], dirs[1]};
    int64_t n_frames = 0;
    open_fixture(&f, goldens, "chunk500", "shards");
    f.opt.are_embeddings_saved = true;
    assert_status(vnp_run_predict(&f.opt, &whole), VNP_OK);
    put(one, sizeof one, "%s", f.out);
    f.opt.n_shards = 3;
    for (int i = 0; i < 3; i++) {
        char name[32];
        put(name, sizeof name, "shard%d", i);
        scratch(name, dirs[i], sizeof dirs[i]);
        f.opt.out = dirs[i];
        f.opt.shard_idx = i;
        assert_status(vnp_run_predict(&f.opt, &part), VNP_OK);
        n_frames += part.n_frames;
    }
    assert_int_equal(n_frames, whole.n_frames);
    scratch("merged", to, sizeof to);
    struct vnp_run_merge_options opt = {.dirs = list, .n_dirs = 2, .out = to};
    assert_status(vnp_run_merge(&opt, &merged), VNP_MISMATCH);
    assert_non_null(strstr(vnp_error_last()->text, "missing: 1"));
    opt.n_dirs = 3;
    list[1] = dirs[2];
    assert_status(vnp_run_merge(&opt, &merged), VNP_MISMATCH);
    list[1] = dirs[0];
    assert_status(vnp_run_merge(&opt, &merged), VNP_OK);
    assert_same_run(one, to);
    assert_same_file(one, to, "embeddings.npy");
    assert_same_file(one, to, "embeddings.npy.ids.tsv");
    assert_int_equal(merged.n_virus, whole.n_virus);
    assert_int_equal(merged.n_tokens_protein, whole.n_tokens_protein);
    assert_status(vnp_run_merge(&opt, &merged), VNP_OK);
    assert_true(merged.was_complete);
    assert_status(vnp_run_status(to, &info), VNP_OK);
    assert_string_equal(info.state, "complete");
    assert_false(info.is_active);
    assert_int_equal(info.n_frames, whole.n_frames);
    assert_status(vnp_run_status(VNP_TEST_BINARY_DIR, &info), VNP_NOT_FOUND);
    models_close(&f.m);
}

/* The order of the rows, duplicates and empties; vectors within the limit of the ref backend. */
static void golden_embed(const char *model, const char *fasta, const char *name) {
    const char *goldens = support_goldens();
    char path[4096], input[4096], out[4096], dir[4096];
    struct vnp_run_device device = {.backend = vnp_ref_backend()};
    const char *inputs[1] = {input};
    scratch(name, dir, sizeof dir);
    put(path, sizeof path, "%s/%s", goldens, model);
    put(input, sizeof input, "%s/%s/%s", goldens, model, fasta);
    put(out, sizeof out, "%s/x.npy", dir);
    char file[4200];
    bool is_esm = strstr(model, "esm2") != NULL;
    put(file, sizeof file, is_esm ? "%s/model.pt" : "%s", path);
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = out,
                                  .devices = &device,
                                  .n_devices = 1,
                                  .n_threads = 1,
                                  .embed_model = open_model(file, VNP_MODEL_NONE),
                                  .pool = VNP_POOL_MEAN,
                                  .layer = -1,
                                  .block_windows = 5,
                                  .budget_tokens = 700};
    struct vnp_run_counts c;
    assert_status(vnp_run_embed(&opt, &c), VNP_OK);
    put(path, sizeof path, "%s/%s/mean.npy", goldens, model);
    struct support_npy want = support_npy_load(path), got = support_npy_load(out);
    assert_int_equal(want.shape[0], got.shape[0]);
    assert_int_equal(want.shape[1], got.shape[1]);
    assert_int_equal(c.n_records, got.shape[0]);
    assert_string_equal(got.descr, "<f4");
    const double *w = want.data;
    const char *g = got.data;
    double worst = 0;
    for (int64_t s = 0; s < want.shape[0]; s++) {
        double max = 0, diff = 0;
        for (int64_t i = 0; i < want.shape[1]; i++) {
            float v;
            double r;
            memcpy(&v, g + (s * want.shape[1] + i) * 4, 4);
            memcpy(&r, (const char *)w + (s * want.shape[1] + i) * 8, 8);
            max = fmax(max, fabs(r));
            diff = fmax(diff, fabs(r - (double)v));
        }
        worst = fmax(worst, diff / max);
    }
    print_message("# %s: %lld vectors, max relative error %.2e\n", model, (long long)got.shape[0],
                  worst);
    assert_true(worst <= 1e-5);
    assert_status(vnp_run_embed(&opt, &c), VNP_OK);
    assert_true(c.was_complete);
    support_npy_free(&want);
    support_npy_free(&got);
    vnp_checkpoint_close(opt.embed_model);
}

static void test_embed_protein(void **state) {
    (void)state;
    golden_embed("esm2/t2_d64_h1_nodropout", "proteins.faa", "embed_aa");
}

static void test_embed_dna(void **state) {
    (void)state;
    golden_embed("dnabert_s/l2_d96_h6_prefixed", "dna.fna", "embed_nt");
}

static void test_embed_rows(void **state) {
    (void)state;
    const char *goldens = support_goldens();
    char path[4096], input[4096], out[4096], dir[4096];
    struct vnp_run_device device = {.backend = vnp_ref_backend()};
    const char *inputs[1] = {input};
    scratch("embed_rows", dir, sizeof dir);
    put(path, sizeof path, "%s/esm2/t2_d64_h1_nodropout/model.pt", goldens);
    put(input, sizeof input, "%s/in.faa", dir);
    put(out, sizeof out, "%s/x.npy", dir);
    write_text(input, ">a x\nMKV\n>empty\n>b\nMKVLAW\n>a2\nmkv\n>e2\n");
    struct vnp_run_options opt = {.inputs = inputs,
                                  .n_inputs = 1,
                                  .out = out,
                                  .devices = &device,
                                  .n_devices = 1,
                                  .n_threads = 1,
                                  .embed_model = open_model(path, VNP_MODEL_ESM2),
                                  .pool = VNP_POOL_MEAN,
                                  .layer = -1,
                                  .budget_tokens = 700};
    struct vnp_run_counts c;
    assert_status(vnp_run_embed(&opt, &c), VNP_OK);
    assert_int_equal(c.n_duplicates, 1);
    assert_int_equal(c.n_empty, 2);
    struct support_npy got = support_npy_load(out);
    assert_int_equal(got.shape[0], 5);
    const char *g = got.data;
    size_t row = (size_t)got.shape[1] * 4;
    assert_memory_equal(g, g + 3 * row, row); /* a and a2 */
    for (int64_t i = 0; i < got.shape[1]; i++) {
        float v;
        memcpy(&v, g + row + (size_t)i * 4, 4);
        assert_true(isnan(v));
    }
    support_npy_free(&got);
    char ids[4200];
    put(ids, sizeof ids, "%s.ids.tsv", out);
    char *text = support_read_file(ids, NULL);
    assert_string_equal(text, "n\tid\tlength\tstatus\n0\ta\t3\tok\n1\tempty\t0\tempty\n"
                              "2\tb\t6\tok\n3\ta2\t3\tok\n4\te2\t0\tempty\n");
    free(text);
    opt.pool = VNP_POOL_NONE;
    assert_status(vnp_run_embed(&opt, &c), VNP_MISMATCH);
    opt.is_forced = true;
    assert_status(vnp_run_embed(&opt, &c), VNP_OK);
    got = support_npy_load(out);
    assert_int_equal(got.shape[0], 5 + 1 + 8 + 5 + 1);
    support_npy_free(&got);
    text = support_read_file(ids, NULL);
    assert_string_equal(text, "n\tid\tlength\tstatus\trow\tn_rows\n0\ta\t3\tok\t0\t5\n"
                              "1\tempty\t0\tempty\t5\t1\n2\tb\t6\tok\t6\t8\n3\ta2\t3\tok\t14\t5\n"
                              "4\te2\t0\tempty\t19\t1\n");
    free(text);
    vnp_checkpoint_close(opt.embed_model);
}

static vnp_status classify_evenly(struct vnp_device *dev, const struct vnp_classifier_params *p,
                                  const float *z, int64_t n_rows, float *out) {
    (void)dev, (void)p, (void)z;
    for (int64_t i = 0; i < 2 * n_rows; i++) out[i] = 0.5f;
    return VNP_OK;
}

/* Equal scores: upstream labels the frame 'others' and calls its window a virus. */
static void test_ties(void **state) {
    (void)state;
    struct fixture f;
    struct vnp_run_counts counts;
    struct vnp_backend host = *vnp_cpu_backend();
    char path[4200];
    open_fixture(&f, support_goldens(), "chunk500", "ties");
    host.classify = classify_evenly;
    f.opt.host = &host;
    assert_status(vnp_run_predict(&f.opt, &counts), VNP_OK);
    assert_true(counts.n_frames > 0);
    assert_int_equal(counts.n_virus + counts.n_unscored, counts.n_records);
    assert_true(counts.n_virus > 0);
    put(path, sizeof path, "%s/prediction_results.txt", f.out);
    char *text = support_read_file(path, NULL);
    assert_null(strstr(text, "\tvirus\t"));
    assert_non_null(strstr(text, "\tothers\t0.5\t0.5\n"));
    free(text);
    put(path, sizeof path, "%s/prediction_results_highestscore.csv", f.out);
    text = support_read_file(path, NULL);
    assert_null(strstr(text, "\tFalse\n"));
    assert_non_null(strstr(text, "\tTrue\n"));
    free(text);
    models_close(&f.m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_500),    cmocka_unit_test(test_golden_300),
        cmocka_unit_test(test_edge_inputs),   cmocka_unit_test(test_independent_of_company),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_shards),
        cmocka_unit_test(test_embed_protein), cmocka_unit_test(test_embed_dna),
        cmocka_unit_test(test_embed_rows),    cmocka_unit_test(test_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
