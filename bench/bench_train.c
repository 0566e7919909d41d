// SPDX-License-Identifier: MIT
// One training epoch at the published classifier's size (3,328 -> 512 -> 2) beside oneDNN: its
// products of the same shapes (z w of a batch with w packed as it likes, and z^T d; without
// BatchNorm, dropout, loss and the step), and its best rate, a product of 1,536 cubed. All in CPU
// time and by turns, so that the ratios hold on a busy machine.
// usage: bench_train [samples] [batch] [threads] [rounds]
#include "model/model.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_IN = 3328, N_HIDDEN = 512, BEST = 1536 };

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void ok(dnnl_status_t status) {
    if (status == dnnl_success) return;
    fprintf(stderr, "oneDNN: status %d\n", (int)status);
    exit(1);
}

struct product {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, out;
};

/* out[m][n] = a[m][k] b[k][n]; a may lie transposed. */
static void product_create(struct product *p, dnnl_engine_t engine, int64_t m, int64_t n, int64_t k,
                           dnnl_format_tag_t tag_a) {
    const dnnl_dims_t a_dims = {m, k}, b_dims = {k, n}, out_dims = {m, n};
    dnnl_memory_desc_t a, b, out;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd;
    ok(dnnl_memory_desc_init_by_tag(&a, 2, a_dims, dnnl_f32, tag_a));
    ok(dnnl_memory_desc_init_by_tag(&b, 2, b_dims, dnnl_f32, dnnl_format_tag_any));
    ok(dnnl_memory_desc_init_by_tag(&out, 2, out_dims, dnnl_f32, dnnl_ab));
    ok(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &out));
    ok(dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL));
    ok(dnnl_primitive_create(&p->primitive, pd));
    b = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    ok(dnnl_primitive_desc_destroy(pd));
    ok(dnnl_memory_create(&p->a, &a, engine, DNNL_MEMORY_ALLOCATE));
    ok(dnnl_memory_create(&p->b, &b, engine, DNNL_MEMORY_ALLOCATE));
    ok(dnnl_memory_create(&p->out, &out, engine, DNNL_MEMORY_ALLOCATE));
    dnnl_memory_t const inputs[] = {p->a, p->b};
    for (int i = 0; i < 2; i++) {
        void *data;
        ok(dnnl_memory_get_data_handle(inputs[i], &data));
        memset(data, 0x3c, i ? dnnl_memory_desc_get_size(&b) : dnnl_memory_desc_get_size(&a));
    }
}

static void product_run(const struct product *p, dnnl_stream_t stream) {
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->out}};
    ok(dnnl_primitive_execute(p->primitive, stream, 3, args));
}

struct data {
    float *z;
    const float **rows;
    uint8_t *labels;
    struct vnp_train_data view;
};

static bool data_make(struct data *d, int64_t n) {
    d->z = malloc((size_t)(n * N_IN) * sizeof *d->z);
    d->rows = malloc((size_t)n * sizeof *d->rows);
    d->labels = malloc((size_t)n);
    if (!d->z || !d->rows || !d->labels) return false;
    uint64_t state = 1;
    for (int64_t i = 0; i < n * N_IN; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        d->z[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
    for (int64_t i = 0; i < n; i++) d->labels[i] = d->z[i * N_IN] > 0, d->rows[i] = d->z + i * N_IN;
    d->view = (struct vnp_train_data){d->rows, d->labels, n, N_IN};
    return true;
}

enum { PART_TRAIN, PART_SAME, PART_BEST, N_PARTS };

struct bench {
    struct vnp_trainer *t;
    struct data d;
    int64_t batch;
    dnnl_stream_t stream;
    struct product product, gradient, best;
    double cpu[N_PARTS];
};

static bool run_once(struct bench *b, struct vnp_train_epoch *e, double cpu[N_PARTS]) {
    double at[N_PARTS + 1] = {cpu_now()};
    if (vnp_trainer_epoch(b->t, &b->d.view, NULL, e) != VNP_OK) return false;
    at[1] = cpu_now();
    for (int64_t i = 0; i < b->d.view.n; i += b->batch) {
        product_run(&b->product, b->stream);
        product_run(&b->gradient, b->stream);
    }
    ok(dnnl_stream_wait(b->stream));
    at[2] = cpu_now();
    product_run(&b->best, b->stream);
    product_run(&b->best, b->stream);
    ok(dnnl_stream_wait(b->stream));
    at[3] = cpu_now();
    for (int p = 0; p < N_PARTS; p++) b->cpu[p] += cpu[p] = at[p + 1] - at[p];
    return true;
}

int main(int argc, char **argv) {
    int64_t n = argc > 1 ? atoll(argv[1]) : 8000;
    int n_rounds = argc > 4 ? atoi(argv[4]) : 3;
    struct vnp_train_options opt;
    struct bench b = {0};
    vnp_train_defaults(&opt);
    b.batch = opt.batch = argc > 2 ? atoi(argv[2]) : opt.batch;
    opt.n_threads = argc > 3 ? atoi(argv[3]) : 1;
    opt.max_epochs = 1000;
    if (!getenv("OMP_NUM_THREADS")) { /* read when the program starts: start again with it */
        char count[16];
        snprintf(count, sizeof count, "%d", opt.n_threads);
        setenv("OMP_NUM_THREADS", count, 1);
        execv("/proc/self/exe", argv);
    }
    if (!data_make(&b.d, n) || vnp_trainer_create(&opt, N_IN, &b.t) != VNP_OK) return 1;
    dnnl_engine_t engine;
    ok(dnnl_engine_create(&engine, dnnl_cpu, 0));
    ok(dnnl_stream_create(&b.stream, engine, dnnl_stream_default_flags));
    product_create(&b.product, engine, opt.batch, N_HIDDEN, N_IN, dnnl_ab);
    product_create(&b.gradient, engine, N_IN, N_HIDDEN, opt.batch, dnnl_ba);
    product_create(&b.best, engine, BEST, BEST, BEST, dnnl_ab);
    const double flop = (double)n * 4 * N_IN * N_HIDDEN, flop_best = 4.0 * BEST * BEST * BEST;
    printf("epoch\tsamples/CPU s\tGFLOP/s\toneDNN, same shapes\toneDNN, best\tratio to both\t"
           "samples/s of wall time\tloss\n");
    for (int i = 0; i <= n_rounds; i++) {
        struct vnp_train_epoch e = {0};
        double cpu[N_PARTS];
        if (i < n_rounds && !run_once(&b, &e, cpu)) return 1;
        for (int p = 0; p < N_PARTS && i == n_rounds; p++) cpu[p] = b.cpu[p] / n_rounds;
        double rate[N_PARTS] = {flop / cpu[0] / 1e9, flop / cpu[1] / 1e9, flop_best / cpu[2] / 1e9};
        printf("%s %d\t%.0f\t%.1f\t%.1f\t%.1f\t%.2f %.2f\t", i < n_rounds ? "" : "mean of",
               i + (i < n_rounds), (double)n / cpu[0], rate[0], rate[1], rate[2], rate[0] / rate[1],
               rate[0] / rate[2]);
        if (i < n_rounds) printf("%.0f\t%.4f", (double)n / e.seconds, e.train_loss);
        printf("\n");
    }
    vnp_trainer_destroy(b.t);
    return 0;
}
