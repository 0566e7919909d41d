// SPDX-License-Identifier: MIT
// Embeds the proteins named on the command line and prints how alike they are: the public C
// interface in one page.
//   cc embed.c -lvirnucpro -lm -o embed && ./embed MODEL MKTAYIAKQR MKTAYIAKQL GSHMRYLL
#include <virnucpro/virnucpro.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, vnp_last_error());
    return 1;
}

static double cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: embed MODEL PROTEIN...\n");
        return 2;
    }
    size_t n = (size_t)argc - 2;
    const char *const *seqs = (const char *const *)(argv + 2);
    int rc = 1;
    int64_t n_cols = 0;
    vnp_engine *engine = NULL;
    vnp_engine_options options = VNP_ENGINE_OPTIONS_INIT;
    options.purpose = VNP_FOR_EMBED;
    options.model = argv[1];

    size_t *lens = calloc(n, sizeof *lens);
    float *vectors = NULL;
    if (!lens) return 1;
    for (size_t i = 0; i < n; i++) lens[i] = strlen(seqs[i]);
    if (vnp_engine_create(&options, &engine) != VNP_OK) {
        failed("the model does not open");
        goto done;
    }
    if (vnp_engine_embed_cols(engine, &n_cols) != VNP_OK) {
        failed("no columns");
        goto done;
    }
    vectors = malloc(n * (size_t)n_cols * sizeof *vectors);
    if (!vectors) goto done;
    if (vnp_engine_embed(engine, vectors, n * (size_t)n_cols, seqs, lens, n, NULL) != VNP_OK) {
        failed("embedding failed");
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            printf("%s%.4f", j ? "\t" : "",
                   cosine(vectors + i * (size_t)n_cols, vectors + j * (size_t)n_cols, n_cols));
        printf("\n");
    }
    rc = 0;
done:
    free(vectors);
    free(lens);
    vnp_engine_destroy(engine);
    return rc;
}
