// SPDX-License-Identifier: MIT
// model: training of the classifier. PyTorch's answer after one epoch, plain loops for the inner
// loops of every instruction set, threads, resume, early stop, calibration.
#include "model/model.h"
#include "model/train_room.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "support.h"

/* The data of tools/golden-train.py. */
enum { N = 150, N_IN = 37, H = 40 };

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
static double uniform(uint64_t key, uint64_t i) {
    return (double)(mix(key ^ mix(i)) >> 11) * 0x1p-53;
}

struct samples {
    float *z;
    const float **rows;
    uint8_t *labels;
    struct vnp_train_data data;
};

static struct samples make_samples(int64_t n, int64_t n_in) {
    struct samples s = {.z = malloc((size_t)(n * n_in) * sizeof(float)),
                        .rows = malloc((size_t)n * sizeof(const float *)),
                        .labels = malloc((size_t)n)};
    for (int64_t i = 0; i < n; i++) {
        s.labels[i] = uniform(mix(2), (uint64_t)i) < 0.4;
        s.rows[i] = s.z + i * n_in;
        for (int64_t k = 0; k < n_in; k++)
            s.z[i * n_in + k] = (float)(2 * uniform(mix(1), (uint64_t)(i * n_in + k)) - 1 +
                                        0.3 * s.labels[i] * sin((double)k));
    }
    s.data = (struct vnp_train_data){s.rows, s.labels, n, n_in};
    return s;
}

static void free_samples(struct samples *s) {
    free(s->z);
    free((void *)s->rows);
    free(s->labels);
}

static struct vnp_train_options options(enum vnp_train_optimizer optimizer) {
    struct vnp_train_options opt;
    vnp_train_defaults(&opt);
    opt.optimizer = optimizer;
    opt.n_hidden = H;
    opt.lr = optimizer == VNP_TRAIN_ADAMW ? 2e-3 : 2e-2;
    opt.class_weight[1] = 1.5;
    opt.n_threads = 2;
    return opt;
}

static void check_golden(const char *name, enum vnp_train_optimizer optimizer) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/model/data/train_%s.npy", VNP_TEST_SOURCE_DIR, name);
    struct support_npy want = support_npy_load(path);
    const float *g = want.data;
    struct samples s = make_samples(N, N_IN);
    struct vnp_train_options opt = options(optimizer);
    struct vnp_trainer *t;
    struct vnp_train_epoch e;
    struct vnp_classifier_params p;
    assert_int_equal(vnp_trainer_create(&opt, N_IN, &t), VNP_OK);
    assert_int_equal(vnp_trainer_epoch(t, &s.data, NULL, &e), VNP_OK);
    assert_int_equal(vnp_trainer_params(t, &p), VNP_OK);
    const struct {
        const float *have;
        int n;
    } parts[] = {{p.w1, H * N_IN}, {p.b1, H},     {p.bn_gamma, H}, {p.bn_beta, H},
                 {p.bn_mean, H},   {p.bn_var, H}, {p.w2, 2 * H},   {p.b2, 2}};
    int64_t at = 0;
    for (size_t k = 0; k < VNP_COUNT(parts); k++)
        for (int i = 0; i < parts[k].n; i++, at++)
            if (!(fabs((double)parts[k].have[i] - (double)g[at]) <= 1e-5))
                fail_msg("%s: part %zu, element %d: %.8g, PyTorch has %.8g", name, k, i,
                         (double)parts[k].have[i], (double)g[at]);
    assert_int_equal(at + 1, want.n);
    assert_true(fabs(e.train_loss - (double)g[at]) <= 1e-5);
    vnp_trainer_destroy(t);
    free_samples(&s);
    support_npy_free(&want);
}

static void test_one_epoch_equals_pytorch_sgd(void **state) {
    (void)state;
    check_golden("sgd", VNP_TRAIN_SGD);
}
static void test_one_epoch_equals_pytorch_adamw(void **state) {
    (void)state;
    check_golden("adamw", VNP_TRAIN_ADAMW);
}

/* Inner loops against plain ones in FP64: a pass that moves the weights by one batch and multiplies
 * them with another, in one go and in two. */
static void check_sweep(const struct vnp_train_kernels *kernels, int n_last, int n_next, int k_in,
                        bool is_adam) {
    enum { ROWS = 24, K = 200, P = VNP_TRAIN_PANEL };
    uint64_t seed = 5;
    static float last[ROWS][K], next[ROWS][K], d[ROWS * P], w[K * P], v[K * P], u[K * P];
    static float z_last[ROWS * K], z_next[ROWS * K], h[ROWS * P + 1], w0[K * P], v0[K * P];
    const float *rows[ROWS];
    int k_pad = (k_in + 7) / 8 * 8, g_last = (n_last + 7) / 8, g_next = (n_next + 7) / 8;
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < K; k++)
            last[r][k] = support_random_f32(&seed), next[r][k] = support_random_f32(&seed);
    for (int i = 0; i < ROWS * P; i++) d[i] = i < n_last * P ? support_random_f32(&seed) : 0.0f;
    for (int i = 0; i < K * P; i++) {
        w0[i] = w[i] = support_random_f32(&seed);
        v0[i] = v[i] = support_random_f32(&seed);
        u[i] = 0.5f;
    }
    for (size_t i = 0; i < VNP_COUNT(h); i++) h[i] = NAN;
    for (int i = 0; i < ROWS * K; i++) z_last[i] = z_next[i] = NAN;
    for (int r = 0; r < n_last; r++) rows[r] = last[r];
    kernels->pack(rows, n_last, k_in, k_pad, z_last);
    for (int r = 0; r < n_next; r++) rows[r] = next[r];
    kernels->pack(rows, n_next, k_in, k_pad, z_next);
    struct vnp_train_step step = {.lr = 0.1f, .momentum = 0.9f, .is_adam = is_adam};
    step.beta1 = 0.9f, step.beta2 = 0.999f, step.eps = 1e-8f;
    step.decay = 0.001f, step.correct1 = 2.0f, step.correct2 = 3.0f;
    struct vnp_train_sweep s = {.n_in = k_pad, .w = w, .v = v, .u = u, .z_last = z_last, .d = d};
    s.n_last = g_last, s.step = n_last ? &step : NULL;
    s.z_next = n_next ? z_next : NULL, s.h = h, s.n_next = g_next;
    kernels->sweep(&s);
    assert_true(isnan(h[g_next * 8 * P]));
    for (int k = 0; k < k_pad && n_last; k++)
        for (int j = 0; j < P; j++) {
            double g = 0, x = (double)w0[k * P + j], q = 0.5, first = (double)v0[k * P + j];
            for (int r = 0; r < n_last && k < k_in; r++)
                g += (double)last[r][k] * (double)d[r * P + j];
            if (is_adam) {
                first = 0.9 * first + 0.1 * g;
                q = 0.999 * q + 0.001 * g * g;
                x = x * 0.999 - 0.1 * first * 2 / (sqrt(q * 3) + 1e-8);
            } else {
                first = 0.9 * first + g;
                x -= 0.1 * first;
            }
            if (!(fabs(x - (double)w[k * P + j]) < 2e-6))
                fail_msg("update, adam %d, k %d, unit %d: %g, want %g", is_adam, k, j,
                         (double)w[k * P + j], x);
        }
    for (int r = 0; r < n_next; r++)
        for (int j = 0; j < P; j++) {
            double want = 0;
            for (int k = 0; k < k_in; k++) want += (double)next[r][k] * (double)w[k * P + j];
            if (!(fabs(want - (double)h[r * P + j]) < k_in * 1.2e-7 * 8))
                fail_msg("product, %d inputs, row %d, unit %d: %g, want %g", k_in, r, j,
                         (double)h[r * P + j], want);
        }
}

static void check_kernels(const struct vnp_train_kernels *kernels) {
    static const int sizes[] = {1, 7, 8, 63, 64, 65, 128, 200};
    for (size_t i = 0; i < VNP_COUNT(sizes); i++)
        for (int n_last = 0; n_last <= 19; n_last += n_last < 9 ? 4 : 11)
            for (int n_next = 0; n_next <= 17; n_next += n_next < 9 ? 4 : 9)
                for (int is_adam = 0; is_adam < 2; is_adam++)
                    check_sweep(kernels, n_last, n_next, sizes[i], is_adam);
}

static void test_kernels(void **state) {
    (void)state;
    check_kernels(vnp_train_kernels_generic());
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        check_kernels(vnp_train_kernels_avx2());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        check_kernels(vnp_train_kernels_avx512());
#endif
}

/* Trains to the end; returns the state's bytes. */
static void *train_all(int n_threads, int stop_at, size_t *n_bytes, int *n_epochs) {
    struct samples train = make_samples(300, 24), valid = make_samples(90, 24);
    struct vnp_train_options opt = options(VNP_TRAIN_SGD);
    struct vnp_trainer *t;
    struct vnp_train_epoch e = {0};
    opt.max_epochs = 12;
    opt.n_threads = n_threads;
    assert_int_equal(vnp_trainer_create(&opt, 24, &t), VNP_OK);
    while (!vnp_trainer_is_done(t)) {
        assert_int_equal(vnp_trainer_epoch(t, &train.data, &valid.data, &e), VNP_OK);
        if (e.epoch != stop_at) continue;
        size_t n = vnp_trainer_state_bytes(t);
        void *state = malloc(n);
        vnp_trainer_state_save(t, state);
        vnp_trainer_destroy(t);
        assert_int_equal(vnp_trainer_create(&opt, 24, &t), VNP_OK);
        assert_int_equal(vnp_trainer_state_load(t, state, n - 1), VNP_MISMATCH);
        assert_int_equal(vnp_trainer_state_load(t, state, n), VNP_OK);
        free(state);
    }
    *n_epochs = e.epoch;
    *n_bytes = vnp_trainer_state_bytes(t);
    void *state = malloc(*n_bytes);
    vnp_trainer_state_save(t, state);
    vnp_trainer_destroy(t);
    free_samples(&train);
    free_samples(&valid);
    return state;
}

static void test_same_bits_with_any_threads_and_resumed(void **state) {
    (void)state;
    size_t n, m;
    int epochs, other;
    void *want = train_all(1, 0, &n, &epochs);
    for (int threads = 1; threads <= 3; threads++) {
        void *have = train_all(threads, threads + 1, &m, &other);
        assert_int_equal(n, m);
        assert_int_equal(epochs, other);
        assert_memory_equal(want, have, n);
        free(have);
    }
    free(want);
}

static void test_learns_stops_and_keeps_the_best(void **state) {
    (void)state;
    struct samples train = make_samples(600, 24), valid = make_samples(200, 24);
    struct vnp_train_options opt = options(VNP_TRAIN_ADAMW);
    struct vnp_trainer *t;
    struct vnp_train_epoch e;
    struct vnp_train_metrics best = {.loss = INFINITY}, kept;
    int n_stale = 0;
    opt.patience = 3;
    assert_int_equal(vnp_trainer_create(&opt, 24, &t), VNP_OK);
    while (!vnp_trainer_is_done(t)) {
        assert_int_equal(vnp_trainer_epoch(t, &train.data, &valid.data, &e), VNP_OK);
        n_stale = e.is_best ? 0 : n_stale + 1;
        assert_int_equal(e.is_best, e.valid.loss < best.loss);
        if (e.is_best) best = e.valid;
    }
    assert_true(n_stale == 3 || e.epoch == opt.max_epochs);
    assert_true(best.auroc > 0.8);
    assert_int_equal(vnp_trainer_measure(t, &valid.data, &kept), VNP_OK);
    assert_memory_equal(&kept.loss, &best.loss, sizeof kept.loss);
    double a, b;
    assert_int_equal(vnp_trainer_calibrate(t, &valid.data, &a, &b), VNP_OK);
    struct vnp_train_metrics after;
    opt.class_weight[1] = 1;
    assert_int_equal(vnp_trainer_measure(t, &valid.data, &after), VNP_OK);
    assert_true(fabs(after.auroc - kept.auroc) < 1e-3);
    assert_true(after.brier <= kept.brier + 1e-6);
    vnp_trainer_destroy(t);
    free_samples(&train);
    free_samples(&valid);
}

static void test_refuses(void **state) {
    (void)state;
    struct samples s = make_samples(40, 24);
    struct vnp_train_options opt = options(VNP_TRAIN_SGD);
    struct vnp_trainer *t;
    struct vnp_train_epoch e;
    opt.batch = 1;
    assert_int_equal(vnp_trainer_create(&opt, 24, &t), VNP_INVAL);
    opt.batch = 8;
    assert_int_equal(vnp_trainer_create(&opt, 23, &t), VNP_OK);
    assert_int_equal(vnp_trainer_epoch(t, &s.data, NULL, &e), VNP_INVAL);
    vnp_trainer_destroy(t);
    assert_int_equal(vnp_trainer_create(&opt, 24, &t), VNP_OK);
    s.labels[7] = 2;
    assert_int_equal(vnp_trainer_epoch(t, &s.data, NULL, &e), VNP_INVAL);
    s.labels[7] = 0;
    s.z[9] = NAN;
    assert_int_equal(vnp_trainer_epoch(t, &s.data, NULL, &e), VNP_INVAL);
    vnp_trainer_destroy(t);
    free_samples(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_one_epoch_equals_pytorch_sgd),
        cmocka_unit_test(test_one_epoch_equals_pytorch_adamw),
        cmocka_unit_test(test_same_bits_with_any_threads_and_resumed),
        cmocka_unit_test(test_learns_stops_and_keeps_the_best),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests_name("train", tests, NULL, NULL);
}
