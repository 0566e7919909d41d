// SPDX-License-Identifier: MIT
// The public interface: options checked, errors told with exit codes, sequences in memory equal to
// goldens and to what a job writes, in any company.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"
#include "support.h"

#include <errno.h>
#include <virnucpro/virnucpro.h>

static int last_exit(void) {
    vnp_error_detail d = {.size = sizeof d};
    assert_int_equal(vnp_last_error_get(&d), VNP_OK);
    return d.exit_code;
}

/* Every origin and status to the exit code that design/cli.md promises. */
static void test_exit_codes(void **state) {
    (void)state;
    static const struct {
        vnp_status status;
        enum vnp_origin origin;
        int os_errno, exit_code;
    } rows[] = {
        {VNP_INVAL, VNP_FROM_NONE, 0, 2},         {VNP_UNSUPPORTED, VNP_FROM_NONE, 0, 2},
        {VNP_FORMAT, VNP_FROM_INPUT, 0, 65},      {VNP_TRUNCATED, VNP_FROM_INPUT, 0, 65},
        {VNP_UNSUPPORTED, VNP_FROM_INPUT, 0, 65}, {VNP_MISMATCH, VNP_FROM_INPUT, 0, 65},
        {VNP_IO, VNP_FROM_INPUT, ENOENT, 66},     {VNP_IO, VNP_FROM_INPUT, EACCES, 66},
        {VNP_NOT_FOUND, VNP_FROM_INPUT, 0, 66},   {VNP_IO, VNP_FROM_INPUT, EIO, 74},
        {VNP_DEVICE, VNP_FROM_DEVICE, 0, 69},     {VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, 0, 69},
        {VNP_DEVICE, VNP_FROM_NONE, 0, 69},       {VNP_UNSUPPORTED, VNP_FROM_DEVICE, 0, 69},
        {VNP_BUG, VNP_FROM_NONE, 0, 70},          {VNP_NOMEM, VNP_FROM_NONE, 0, 70},
        {VNP_NOMEM, VNP_FROM_MODEL, 0, 70},       {VNP_MISMATCH, VNP_FROM_OUTPUT, 0, 73},
        {VNP_IO, VNP_FROM_OUTPUT, EEXIST, 73},    {VNP_IO, VNP_FROM_OUTPUT, ENOSPC, 74},
        {VNP_IO, VNP_FROM_OUTPUT, EACCES, 74},    {VNP_IO, VNP_FROM_NONE, EIO, 74},
        {VNP_NOT_FOUND, VNP_FROM_OUTPUT, 0, 66},  {VNP_CANCELED, VNP_FROM_NONE, 0, 75},
        {VNP_CANCELED, VNP_FROM_OUTPUT, 0, 75},   {VNP_FORMAT, VNP_FROM_MODEL, 0, 78},
        {VNP_NOT_FOUND, VNP_FROM_MODEL, 0, 78},   {VNP_IO, VNP_FROM_MODEL, ENOENT, 78},
        {VNP_UNSUPPORTED, VNP_FROM_MODEL, 0, 78},
    };
    for (size_t i = 0; i < VNP_COUNT(rows); i++) {
        if (rows[i].os_errno)
            assert_int_equal(
                vnp_fail_errno(rows[i].status, rows[i].origin, rows[i].os_errno, "row %zu", i),
                rows[i].status);
        else
            assert_int_equal(vnp_fail(rows[i].status, rows[i].origin, "row %zu", i),
                             rows[i].status);
        if (last_exit() != rows[i].exit_code)
            fail_msg("row %zu: exit %d, %d wanted", i, last_exit(), rows[i].exit_code);
    }
    vnp_error_clear();
    assert_string_equal(vnp_last_error(), "");
    assert_int_equal(last_exit(), 0);
}

static void test_bad_options(void **state) {
    (void)state;
    vnp_engine *engine = NULL;
    vnp_job *job = NULL;
    vnp_engine_options o = VNP_ENGINE_OPTIONS_INIT;
    vnp_job_options j = VNP_JOB_OPTIONS_INIT;
    int64_t min, max;
    assert_int_equal(vnp_engine_create(NULL, &engine), VNP_INVAL);
    assert_null(engine);
    assert_int_equal(vnp_engine_create(&o, NULL), VNP_INVAL);
    o.size--;
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL);
    o.size++, o.version++;
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL);
    o.version--, o.n_threads = -1;
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL);
    o.n_threads = 0, o.device = "toaster";
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL);
    o.device = "cpu", o.precision = "fp31";
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL);
    o.precision = NULL, o.purpose = VNP_FOR_EMBED;
    assert_int_equal(vnp_engine_create(&o, &engine), VNP_INVAL); /* no model */
    assert_int_equal(vnp_job_create(NULL, &j, &job), VNP_INVAL);
    j.kind = VNP_JOB_PREDICT, j.inputs = (const char *const[]){"x"}, j.n_inputs = 1, j.out = "y";
    assert_int_equal(vnp_job_create(NULL, &j, &job), VNP_INVAL); /* no engine */
    j.kind = VNP_JOB_TRANSLATE, j.inputs = (const char *const[]){NULL};
    assert_int_equal(vnp_job_create(NULL, &j, &job), VNP_INVAL);
    vnp_merge_options m = VNP_MERGE_OPTIONS_INIT;
    m.dirs = (const char *const[]){NULL}, m.n_dirs = 1, m.out = "y";
    assert_int_equal(vnp_folder_merge(&m, NULL), VNP_INVAL);
    j.inputs = (const char *const[]){"x"}, j.shard_idx = 3, j.n_shards = 3;
    assert_int_equal(vnp_job_create(NULL, &j, &job), VNP_INVAL);
    assert_int_equal(vnp_job_run(NULL), VNP_INVAL);
    assert_null(job);
    vnp_job_destroy(NULL);
    vnp_engine_destroy(NULL);
    vnp_text_free(NULL);
    assert_int_equal(vnp_option_bounds("n_threads", &min, &max), VNP_OK);
    assert_true(min == 1 && max > min);
    assert_int_equal(vnp_option_bounds("colour", &min, &max), VNP_INVAL);
}

/* Reads the proteins of a golden: names dropped, lines joined. */
static size_t read_fasta(const char *path, char **text, const char **seqs, size_t *lens,
                         size_t n_max) {
    size_t n_bytes, n = 0;
    char *to;
    *text = support_read_file(path, &n_bytes);
    to = *text;
    for (char *p = *text, *end; p < *text + n_bytes; p = end + 1) {
        end = strchr(p, '\n');
        if (!end) end = *text + n_bytes;
        if (*p == '>') {
            assert_true(n < n_max);
            seqs[n] = to;
            lens[n++] = 0;
        } else {
            size_t len = (size_t)(end - p);
            memmove(to, p, len);
            to += len;
            lens[n - 1] += len;
        }
    }
    return n;
}

static vnp_engine *open_golden(const char *name, int n_threads, int64_t n_tokens) {
    char path[5000];
    vnp_engine *engine = NULL;
    vnp_engine_options o = VNP_ENGINE_OPTIONS_INIT;
    snprintf(path, sizeof path, "%s/esm2/%s/hf", support_goldens(), name);
    o.purpose = VNP_FOR_EMBED;
    o.model = path;
    o.device = "cpu";
    o.n_threads = n_threads;
    o.n_tokens = n_tokens;
    if (vnp_engine_create(&o, &engine) != VNP_OK) fail_msg("%s", vnp_last_error());
    return engine;
}

static void test_embed_golden(void **state) {
    enum { MAX = 64 };
    (void)state;
    char path[5000], *text;
    const char *seqs[MAX];
    size_t lens[MAX];
    int64_t n_cols = 0;
    snprintf(path, sizeof path, "%s/esm2/t3_d128_h2/proteins.faa", support_goldens());
    size_t n_all = read_fasta(path, &text, seqs, lens, MAX), rows[MAX], n = 0;
    snprintf(path, sizeof path, "%s/esm2/t3_d128_h2/mean.npy", support_goldens());
    struct support_npy want = support_npy_load(path);
    for (size_t i = 0; i < n_all; i++) { /* seqs[i] belongs to row rows[i] */
        if (support_is_quick() && lens[i] > 32) continue;
        seqs[n] = seqs[i], lens[n] = lens[i], rows[n++] = i;
    }
    vnp_engine *engine = open_golden("t3_d128_h2", 2, 0);
    assert_int_equal(vnp_engine_embed_cols(engine, &n_cols), VNP_OK);
    assert_int_equal(want.shape[0], n_all);
    assert_int_equal(want.shape[1], n_cols);
    float *got = malloc(n * (size_t)n_cols * sizeof *got),
          *one = malloc((size_t)n_cols * sizeof *one);
    assert_int_equal(vnp_engine_embed(engine, got, n * (size_t)n_cols - 1, seqs, lens, n, NULL),
                     VNP_INVAL);
    if (vnp_engine_embed(engine, got, n * (size_t)n_cols, seqs, lens, n, NULL) != VNP_OK)
        fail_msg("%s", vnp_last_error());
    const double *r = want.data;
    for (size_t i = 0; i < n; i++) {
        double top = 0, worst = 0;
        for (int64_t c = 0; c < n_cols; c++) {
            double x = r[rows[i] * (size_t)n_cols + (size_t)c];
            top = fmax(top, fabs(x));
            worst = fmax(worst, fabs((double)got[i * (size_t)n_cols + (size_t)c] - x));
        }
        if (!(worst <= 2e-5 * top)) fail_msg("row %zu: error %.2e of %.2e", i, worst, top);
    }
    /* Alone, by one thread and in small packs: the same bits. */
    vnp_engine *other = open_golden("t3_d128_h2", 1, 64);
    for (size_t i = 0; i < n; i++) {
        if (vnp_engine_embed(other, one, (size_t)n_cols, &seqs[i], &lens[i], 1, NULL) != VNP_OK)
            fail_msg("%s", vnp_last_error());
        assert_memory_equal(one, got + i * (size_t)n_cols, (size_t)n_cols * sizeof *one);
    }
    vnp_embed_options o = VNP_EMBED_OPTIONS_INIT;
    o.layer = 4;
    assert_int_equal(vnp_engine_embed(engine, got, n * (size_t)n_cols, seqs, lens, n, &o),
                     VNP_INVAL);
    o.layer = -1, o.pool = "median";
    assert_int_equal(vnp_engine_embed(engine, got, n * (size_t)n_cols, seqs, lens, n, &o),
                     VNP_INVAL);
    const char *const bad[] = {seqs[0], NULL};
    const size_t bad_lens[] = {lens[0], 3}, wild_lens[] = {lens[0], SIZE_MAX};
    o.pool = NULL;
    assert_int_equal(vnp_engine_embed(engine, got, n * (size_t)n_cols, bad, bad_lens, 2, &o),
                     VNP_INVAL);
    assert_int_equal(vnp_engine_embed(engine, got, n * (size_t)n_cols, seqs, wild_lens, 2, &o),
                     VNP_INVAL);
    o.pool = "cls";
    const size_t none = 0;
    assert_int_equal(vnp_engine_embed(engine, one, (size_t)n_cols, seqs, &none, 1, &o), VNP_OK);
    assert_true(isnan(one[0]) && isnan(one[n_cols - 1]));
    const char *const blank = " \n\t";
    const size_t n_blank = 3;
    one[0] = 0;
    assert_int_equal(vnp_engine_embed(engine, one, (size_t)n_cols, &blank, &n_blank, 1, NULL),
                     VNP_OK);
    assert_true(isnan(one[0]));
    assert_int_equal(vnp_engine_embed(engine, NULL, 0, NULL, NULL, 0, &o), VNP_OK);
    free(got);
    free(one);
    free(text);
    support_npy_free(&want);
    vnp_engine_destroy(other);
    vnp_engine_destroy(engine);
}

/* A file of one record, the first n bases of seq. */
static const char *write_head(const char *seq, size_t n) {
    static const char path[] = VNP_TEST_BINARY_DIR "/api_head.fa";
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, ">head\n%.*s\n", (int)n, seq);
    fclose(f);
    return path;
}

/* predict in memory and a job over the same records: the same numbers. */
static void test_predict_memory_is_job(void **state) {
    enum { MAX = 16 };
    (void)state;
    const char *input = VNP_TEST_SOURCE_DIR "/examples/sars_cov_2.fna";
    static const char out[] = VNP_TEST_BINARY_DIR "/scratch/api_predict";
    char *text, *table;
    const char *seqs[MAX];
    size_t lens[MAX];
    vnp_engine *engine = NULL;
    vnp_job *job = NULL;
    vnp_engine_options o = VNP_ENGINE_OPTIONS_INIT;
    vnp_job_options j = VNP_JOB_OPTIONS_INIT;
    o.purpose = VNP_FOR_PREDICT;
    o.models = VNP_TEST_SOURCE_DIR "/models/virnucpro-random-tiny.safetensors";
    o.device = "cpu";
    if (vnp_engine_create(&o, &engine) != VNP_OK) fail_msg("%s", vnp_last_error());
    size_t n = read_fasta(input, &text, seqs, lens, MAX);
    if (support_is_quick()) input = write_head(seqs[0], lens[0] = 1500);
    vnp_result r[MAX];
    if (vnp_engine_predict(engine, r, seqs, lens, n) != VNP_OK) fail_msg("%s", vnp_last_error());
    assert_int_equal(vnp_engine_predict(NULL, r, seqs, lens, n), VNP_INVAL);
    int64_t n_cols;
    assert_int_equal(vnp_engine_embed_cols(engine, &n_cols), VNP_INVAL);
    j.kind = VNP_JOB_PREDICT;
    j.inputs = &input;
    j.n_inputs = 1;
    j.out = out;
    j.is_forced = 1;
    assert_int_equal(vnp_job_create(engine, &j, &job), VNP_OK);
    if (vnp_job_run(job) != VNP_OK) fail_msg("%s", vnp_last_error());
    vnp_job_counts c = {.size = sizeof c};
    assert_int_equal(vnp_job_counts_get(job, &c), VNP_OK);
    assert_int_equal(c.n_records, n);
    assert_int_equal(c.n_windows, r[0].n_windows);
    assert_int_equal(c.n_windows_scored, r[0].n_scored);
    assert_int_equal(c.n_frames, r[0].n_frames);
    assert_int_equal(c.n_virus, r[0].call == VNP_CALL_VIRUS);
    table = support_read_file(VNP_TEST_BINARY_DIR "/scratch/api_predict/contigs.tsv", NULL);
    long long length, n_windows, n_scored, n_frames, n_virus;
    double score;
    char *row = strchr(table, '\n') + 1;
    assert_int_equal(sscanf(row, "%*s\t%lld\t%lld\t%lld\t%lld\t%lld\t%lf", &length, &n_windows,
                            &n_scored, &n_frames, &n_virus, &score),
                     6);
    assert_int_equal(length, lens[0]);
    assert_int_equal(n_virus, r[0].n_virus);
    assert_true(fabs(score - r[0].virus_score) < 1e-6);
    vnp_engine_info info = {.size = sizeof info};
    assert_int_equal(vnp_engine_info_get(engine, &info), VNP_OK);
    assert_true(info.n_dna > 0 && info.n_protein > 0 && info.window_bp > 0);
    free(table);
    free(text);
    vnp_job_destroy(job);
    vnp_engine_destroy(engine);
}

/* The bundle with the classifier's output layer set to zero: every frame scores 1/2 and 1/2. */
static const char *write_even_bundle(void) {
    static const char path[] = VNP_TEST_BINARY_DIR "/scratch/api_even.safetensors";
    size_t n;
    char *file =
        support_read_file(VNP_TEST_SOURCE_DIR "/models/virnucpro-random-tiny.safetensors", &n);
    uint64_t n_head;
    memcpy(&n_head, file, 8);
    char *head = strndup(file + 8, n_head);
    assert_non_null(head);
    for (const char *p = head; (p = strstr(p, "\"classifier.output.")); p++) {
        const char *at = strstr(p, "\"data_offsets\":[");
        size_t begin, end;
        assert_non_null(at);
        assert_int_equal(sscanf(at, "\"data_offsets\":[%zu,%zu]", &begin, &end), 2);
        memset(file + 8 + n_head + begin, 0, end - begin);
    }
    FILE *f = fopen(path, "wb");
    assert_true(f && fwrite(file, 1, n, f) == n && fclose(f) == 0);
    free(head);
    free(file);
    return path;
}

/* Equal scores make a window a virus (upstream's rule), in memory too. */
static void test_predict_memory_tie(void **state) {
    (void)state;
    char text[501];
    const char *seq = text;
    size_t len = 500;
    vnp_engine *engine = NULL;
    vnp_engine_options o = VNP_ENGINE_OPTIONS_INIT;
    memset(text, 'A', len);
    text[len] = 0;
    o.purpose = VNP_FOR_PREDICT;
    o.models = write_even_bundle();
    o.device = "cpu";
    if (vnp_engine_create(&o, &engine) != VNP_OK) fail_msg("%s", vnp_last_error());
    vnp_result r;
    if (vnp_engine_predict(engine, &r, &seq, &len, 1) != VNP_OK) fail_msg("%s", vnp_last_error());
    assert_int_equal(r.n_scored, 1);
    assert_int_equal(r.n_virus, 1);
    assert_true(r.virus_score > 0.499999 && r.virus_score < 0.500001);
    assert_int_equal(r.call, VNP_CALL_VIRUS);
    vnp_engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes), cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_embed_golden), cmocka_unit_test(test_predict_memory_is_job),
        cmocka_unit_test(test_predict_memory_tie)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
