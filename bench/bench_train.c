// SPDX-License-Identifier: MIT
// Samples a second of one training epoch at the published classifier's size (3,328 -> 512 -> 2).
// usage: bench_train [samples] [batch] [threads]
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int64_t n = argc > 1 ? atoll(argv[1]) : 40000, n_in = 3328;
    struct vnp_train_options opt;
    vnp_train_defaults(&opt);
    opt.batch = argc > 2 ? atoi(argv[2]) : opt.batch;
    opt.n_threads = argc > 3 ? atoi(argv[3]) : 0;
    float *z = malloc((size_t)(n * n_in) * sizeof *z);
    const float **rows = malloc((size_t)n * sizeof *rows);
    uint8_t *labels = malloc((size_t)n);
    if (!z || !rows || !labels) return 1;
    uint64_t state = 1;
    for (int64_t i = 0; i < n * n_in; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        z[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
    for (int64_t i = 0; i < n; i++) labels[i] = z[i * n_in] > 0, rows[i] = z + i * n_in;
    struct vnp_train_data data = {rows, labels, n, n_in};
    struct vnp_train_epoch e;
    struct vnp_trainer *t;
    if (vnp_trainer_create(&opt, n_in, &t) != VNP_OK) return 1;
    for (int i = 0; i < 3; i++) {
        if (vnp_trainer_epoch(t, &data, NULL, &e) != VNP_OK) return 1;
        printf("epoch %d: %.0f samples/s, %.1f GFLOP/s, loss %.4f\n", e.epoch,
               (double)n / e.seconds, (double)n * 4 * (double)n_in * 512 / e.seconds / 1e9,
               e.train_loss);
    }
    vnp_trainer_destroy(t);
    free(z);
    free((void *)rows);
    free(labels);
    return 0;
}
