// SPDX-License-Identifier: MIT
// Sequences in memory that leave FP16's range: computed again in FP32 and counted, by any number of
// threads with one set of FP32 weights; the others keep their bits. One that is not finite in FP32
// either is an error with its number. The reference's emulated FP16 overflows as a device does.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api_internal.h"
#include "base/base.h"
#include "support.h"

#include "ref/ref.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { N = 40, D = 96, MAX_LEN = 64 };

static atomic_int n_loads; /* of FP32 weights, as the log says */

static void on_log(void *ctx, int level, const char *room, const char *text) {
    (void)ctx, (void)level, (void)room;
    n_loads += strstr(text, "loading weights in fp32") != NULL;
}

/* A fresh folder and what make-random-model puts into it as `m`; the path of that. */
static const char *make_model(const char *name, const char *kind, const char *options) {
    static char path[1024];
    char command[8192];
    snprintf(path, sizeof path, "%s/scratch/api_%s_%d", VNP_TEST_BINARY_DIR, name, (int)getpid());
    snprintf(command, sizeof command,
             "rm -rf '%s' && mkdir -p '%s' && %s/tools/make-random-model %s '%s/m%s' %s", path,
             path, VNP_TEST_BINARY_DIR, kind, path,
             strcmp(kind, "bundle") == 0 ? ".safetensors" : "", options);
    if (system(command) != 0) fail_msg("%s", command);
    strcat(path, strcmp(kind, "bundle") == 0 ? "/m.safetensors" : "/m");
    return path;
}

static vnp_engine *open_engine(uint32_t purpose, const char *path, const char *precision) {
    vnp_engine *engine = NULL;
    vnp_engine_options o = VNP_ENGINE_OPTIONS_INIT;
    o.purpose = purpose;
    if (purpose == VNP_FOR_EMBED)
        o.model = path;
    else
        o.models = path;
    o.device = "ref";
    o.precision = precision;
    o.n_threads = 1;
    o.n_tokens = 200; /* several packs a call */
    if (vnp_engine_create(&o, &engine) != VNP_OK) fail_msg("%s", vnp_last_error());
    return engine;
}

static vnp_engine_counts counts_of(const vnp_engine *engine) {
    vnp_engine_counts c = {.size = sizeof c};
    assert_int_equal(vnp_engine_counts_get(engine, &c), VNP_OK);
    return c;
}

/* Proteins; every seventh has a W, which overflows in FP16. */
struct proteins {
    char text[N][MAX_LEN + 1];
    const char *seqs[N];
    size_t lens[N];
    int64_t n_guilty, n_guilty_tokens, n_tokens;
};

static bool is_guilty(size_t i) {
    return i % 7 == 3;
}

static void make_proteins(struct proteins *p) {
    static const char letters[] = "LAGVSERTIDPKQNFYMHC";
    uint64_t seed = 11;
    memset(p, 0, sizeof *p);
    for (size_t i = 0; i < N; i++) {
        p->lens[i] = 1 + (size_t)(support_random(&seed) % (MAX_LEN - 1));
        for (size_t k = 0; k < p->lens[i]; k++) p->text[i][k] = letters[support_random(&seed) % 19];
        if (is_guilty(i)) p->text[i][p->lens[i] / 2] = 'W';
        p->seqs[i] = p->text[i];
        p->n_tokens += (int64_t)p->lens[i] + 2; /* <cls>, <eos> */
        p->n_guilty += is_guilty(i);
        p->n_guilty_tokens += is_guilty(i) ? (int64_t)p->lens[i] + 2 : 0;
    }
}

static void embed(vnp_engine *engine, const struct proteins *p, const char *pool, float *out) {
    vnp_embed_options o = VNP_EMBED_OPTIONS_INIT;
    o.pool = pool;
    if (vnp_engine_embed(engine, out, N * D, p->seqs, p->lens, N, &o) != VNP_OK)
        fail_msg("%s", vnp_last_error());
}

static void assert_rows(const float *got, const float *guilty, const float *innocent) {
    for (size_t i = 0; i < N; i++)
        if (memcmp(got + i * D, (is_guilty(i) ? guilty : innocent) + i * D, D * sizeof *got) != 0)
            fail_msg("row %zu differs", i);
}

/* Rows of the innocent in FP16, each computed alone: nothing overflows beside them. */
static void embed_innocent(const char *path, const struct proteins *p, const char *pool,
                           float *out) {
    vnp_engine *engine = open_engine(VNP_FOR_EMBED, path, "fp16");
    vnp_embed_options o = VNP_EMBED_OPTIONS_INIT;
    o.pool = pool;
    for (size_t i = 0; i < N; i++)
        if (!is_guilty(i) &&
            vnp_engine_embed(engine, out + i * D, D, &p->seqs[i], &p->lens[i], 1, &o) != VNP_OK)
            fail_msg("%s", vnp_last_error());
    assert_int_equal(counts_of(engine).n_reruns, 0);
    vnp_engine_destroy(engine);
}

static void test_embed(void **state) {
    static const char *const pools[] = {"mean", "cls"};
    (void)state;
    static float got[N * D], fp32[N * D], alone[N * D];
    struct proteins p;
    const char *path =
        make_model("overflow", "esm2-hf", "--esm 3,96,3 --overflow yes --dtype fp16");
    make_proteins(&p);
    vnp_engine *half = open_engine(VNP_FOR_EMBED, path, "fp16");
    vnp_engine *single = open_engine(VNP_FOR_EMBED, path, "fp32");
    for (int k = 0; k < 2; k++) {
        n_loads = 0;
        embed_innocent(path, &p, pools[k], alone);
        embed(single, &p, pools[k], fp32);
        assert_int_equal(n_loads, 0);
        embed(half, &p, pools[k], got);
        assert_rows(got, fp32, alone);
        assert_int_equal(n_loads, k == 0);
        vnp_engine_counts c = counts_of(half);
        assert_int_equal(c.n_sequences, (k + 1) * N);
        assert_int_equal(c.n_tokens, (k + 1) * p.n_tokens);
        assert_int_equal(c.n_reruns, (k + 1) * p.n_guilty);
        assert_int_equal(c.n_rerun_tokens, (k + 1) * p.n_guilty_tokens);
    }
    assert_int_equal(counts_of(single).n_reruns, 0);
    vnp_engine_counts bad = {.size = 8};
    assert_int_equal(vnp_engine_counts_get(half, &bad), VNP_INVAL);
    assert_int_equal(vnp_engine_counts_get(NULL, &bad), VNP_INVAL);
    vnp_engine_destroy(half);
    vnp_engine_destroy(single);
}

/* ---- threads -------------------------------------------------------------------------------- */

enum { N_THREADS = 2, N_CALLS = 3 };

struct caller {
    pthread_t thread;
    vnp_engine *engine;
    const struct proteins *p;
    vnp_status status;
    float got[N_CALLS][N * D];
};

static void *call(void *arg) {
    struct caller *c = arg;
    for (int k = 0; k < N_CALLS && c->status == VNP_OK; k++)
        c->status = vnp_engine_embed(c->engine, c->got[k], N * D, c->p->seqs, c->p->lens, N, NULL);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    static float fp32[N * D], alone[N * D];
    static struct caller callers[N_THREADS];
    struct proteins p;
    const char *path = make_model("threads", "esm2-hf", "--esm 2,96,3 --overflow yes --dtype fp16");
    make_proteins(&p);
    embed_innocent(path, &p, "mean", alone);
    vnp_engine *single = open_engine(VNP_FOR_EMBED, path, "fp32");
    embed(single, &p, "mean", fp32);
    vnp_engine_destroy(single);
    n_loads = 0;
    vnp_engine *half = open_engine(VNP_FOR_EMBED, path, "fp16");
    for (int t = 0; t < N_THREADS; t++) {
        callers[t] = (struct caller){.engine = half, .p = &p};
        assert_int_equal(pthread_create(&callers[t].thread, NULL, call, &callers[t]), 0);
    }
    assert_true(counts_of(half).n_reruns <= N_THREADS * N_CALLS * p.n_guilty); /* meanwhile */
    for (int t = 0; t < N_THREADS; t++) assert_int_equal(pthread_join(callers[t].thread, NULL), 0);
    for (int t = 0; t < N_THREADS; t++) {
        assert_int_equal(callers[t].status, VNP_OK);
        for (int k = 0; k < N_CALLS; k++) assert_rows(callers[t].got[k], fp32, alone);
    }
    assert_int_equal(n_loads, 1);
    assert_int_equal(counts_of(half).n_reruns, N_THREADS * N_CALLS * p.n_guilty);
    vnp_engine_destroy(half);
}

/* ---- failures ------------------------------------------------------------------------------- */

static void assert_error(vnp_status status, const char *record, const char *text) {
    vnp_error_detail d = {.size = sizeof d};
    assert_int_equal(vnp_last_error_get(&d), VNP_OK);
    if (status != VNP_FORMAT || d.exit_code != 78 || strcmp(d.record, record) != 0 ||
        !strstr(d.text, text))
        fail_msg("%s, exit %d: %s", vnp_status_name(status), d.exit_code, vnp_last_error());
}

/* An embedding of NaN for W: FP32 does not help. The first such sequence is named. */
static void test_hopeless(void **state) {
    static const char *const precisions[] = {"fp16", "fp32"};
    static const char *const texts[] = {"protein encoder's answer is NaN or infinity, in fp32 too",
                                        "protein encoder's answer is NaN or infinity in fp32"};
    (void)state;
    static float got[N * D], alone[N * D];
    struct proteins p;
    const char *path = make_model("hopeless", "esm2-hf", "--esm 2,96,3 --overflow nan");
    make_proteins(&p);
    embed_innocent(path, &p, "mean", alone);
    for (int k = 0; k < 2; k++) {
        vnp_engine *engine = open_engine(VNP_FOR_EMBED, path, precisions[k]);
        vnp_status s = vnp_engine_embed(engine, got, N * D, p.seqs, p.lens, N, NULL);
        assert_error(s, "3", texts[k]);
        s = vnp_engine_embed(engine, got, N * D, p.seqs + 4, p.lens + 4, N - 4, NULL);
        assert_error(s, "6", texts[k]); /* 10 of the whole */
        assert_int_equal(counts_of(engine).n_reruns > 0, k == 0);
        if (vnp_engine_embed(engine, got, N * D, p.seqs, p.lens, 3, NULL) != VNP_OK)
            fail_msg("%s", vnp_last_error()); /* still usable */
        if (k == 0) assert_memory_equal(got, alone, 3 * D * sizeof *got);
        vnp_engine_destroy(engine);
    }
}

static struct vnp_backend small; /* the reference, without memory for FP32 while is_full */
static bool is_full;

static vnp_status open_small(const struct vnp_device_options *opt, struct vnp_device **out) {
    if (is_full && opt->precision == VNP_PREC_FP32)
        return vnp_fail(VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, "full, to order");
    return vnp_ref_backend()->device_open(opt, out);
}

/* No memory for a second set of weights is the call's error; the next one tries again. */
static void test_full(void **state) {
    (void)state;
    static float got[N * D];
    struct proteins p;
    vnp_error_detail d = {.size = sizeof d};
    const char *path = make_model("full", "esm2-hf", "--esm 2,96,3 --overflow yes --dtype fp16");
    make_proteins(&p);
    small = *vnp_ref_backend();
    small.device_open = open_small;
    is_full = true;
    vnp_engine *engine = open_engine(VNP_FOR_EMBED, path, "fp16");
    engine->devices.list[0].backend = &small;
    assert_int_equal(vnp_engine_embed(engine, got, N * D, p.seqs, p.lens, N, NULL),
                     VNP_DEVICE_NOMEM);
    assert_int_equal(vnp_last_error_get(&d), VNP_OK);
    assert_int_equal(d.exit_code, 69);
    assert_non_null(strstr(d.hint, "fp32"));
    assert_int_equal(counts_of(engine).n_reruns, 0);
    is_full = false;
    embed(engine, &p, "mean", got);
    for (size_t i = 0; i < N * D; i++) assert_true(isfinite(got[i]));
    assert_int_equal(counts_of(engine).n_reruns, p.n_guilty);
    vnp_engine_destroy(engine);
}

/* ---- predict -------------------------------------------------------------------------------- */

enum { N_CONTIGS = 6, ODD = 2 }; /* contig ODD holds a tryptophan */

static const char *contig(int i) {
    static char text[N_CONTIGS][200];
    snprintf(text[i], sizeof text[i], "%s%s", i == ODD ? "TGGGCTGCT" : "GCTGCAGCT",
             "GCTGCACTTGAAGCTCGTAGCCTTGACGAAGCTCTTGCAGGTGTTGCTCGTAAAGCTCTTGAAGCACTTGCT");
    return text[i];
}

/* The same scores as those of a job, which counts in summary.json. */
static void test_predict(void **state) {
    (void)state;
    char input[4200], out[4200], file[4300];
    const char *path = make_model("predict", "bundle", "--window 120 --overflow yes"),
               *seqs[N_CONTIGS];
    const char *inputs[] = {input};
    size_t lens[N_CONTIGS];
    snprintf(input, sizeof input, "%s.fa", path);
    snprintf(out, sizeof out, "%s.out", path);
    FILE *f = fopen(input, "wb");
    assert_non_null(f);
    for (int i = 0; i < N_CONTIGS; i++) {
        seqs[i] = contig(i), lens[i] = strlen(contig(i));
        fprintf(f, ">c%d\n%s\n", i, contig(i));
    }
    assert_int_equal(fclose(f), 0);
    vnp_result r[N_CONTIGS];
    vnp_engine *engine = open_engine(VNP_FOR_PREDICT, path, "fp16");
    if (vnp_engine_predict(engine, r, seqs, lens, N_CONTIGS) != VNP_OK)
        fail_msg("%s", vnp_last_error());
    vnp_engine_counts c = counts_of(engine);
    int64_t n_frames = 0;
    for (int i = 0; i < N_CONTIGS; i++) n_frames += r[i].n_frames;
    assert_int_equal(c.n_sequences, 2 * n_frames);
    assert_true(c.n_reruns >= 1 && c.n_reruns <= r[ODD].n_frames && c.n_rerun_tokens > 20);
    vnp_job *job = NULL;
    vnp_job_options j = VNP_JOB_OPTIONS_INIT;
    j.kind = VNP_JOB_PREDICT, j.inputs = inputs, j.n_inputs = 1, j.out = out;
    assert_int_equal(vnp_job_create(engine, &j, &job), VNP_OK);
    if (vnp_job_run(job) != VNP_OK) fail_msg("%s", vnp_last_error());
    vnp_job_destroy(job);
    assert_int_equal(counts_of(engine).n_sequences, c.n_sequences); /* jobs count for themselves */
    snprintf(file, sizeof file, "%s/contigs.tsv", out);
    char *table = support_read_file(file, NULL), *row = table;
    for (int i = 0; i < N_CONTIGS; i++) {
        long long n_row_frames, n_virus;
        double score;
        row = strchr(row, '\n') + 1;
        assert_int_equal(
            sscanf(row, "%*s\t%*s\t%*s\t%*s\t%lld\t%lld\t%lf", &n_row_frames, &n_virus, &score), 3);
        assert_int_equal(n_row_frames, r[i].n_frames);
        assert_int_equal(n_virus, r[i].n_virus);
        assert_true(fabs(score - r[i].virus_score) < 1e-6);
    }
    free(table);
    vnp_engine_destroy(engine);
}

static void test_predict_hopeless(void **state) {
    (void)state;
    const char *path = make_model("no_predict", "bundle", "--window 120 --overflow nan");
    const char *seqs[N_CONTIGS];
    size_t lens[N_CONTIGS];
    vnp_result r[N_CONTIGS];
    for (int i = 0; i < N_CONTIGS; i++) seqs[i] = contig(i), lens[i] = strlen(contig(i));
    vnp_engine *engine = open_engine(VNP_FOR_PREDICT, path, "fp16");
    assert_error(vnp_engine_predict(engine, r, seqs, lens, N_CONTIGS), "2",
                 "protein encoder's answer is NaN or infinity, in fp32 too");
    if (vnp_engine_predict(engine, r, seqs, lens, ODD) != VNP_OK) fail_msg("%s", vnp_last_error());
    vnp_engine_destroy(engine);
}

int main(void) {
    vnp_log_callback_set(on_log, NULL, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_hopeless), cmocka_unit_test(test_full),
        cmocka_unit_test(test_predict),  cmocka_unit_test(test_predict_hopeless)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
