// SPDX-License-Identifier: MIT
// Embedding rows: a gather, the token type's row, the token-dropout scale.
//
// embed      out = table[token] * scale + type, rows of mask_id are 0 first
// Traffic    4 D read and 4 D written a row: memory-bound
// Order      element by element
// Ref        vnp_ref embed (src/ref)
#include "cpu/cpu_kernels.h"
#include "cpu/cpu_simd.h"

void VNP_CPU_NAME(embed)(const struct vnp_cpu_embed_args *a, int64_t first, int64_t end) {
    const int64_t n = a->n_cols;
    for (int64_t r = first; r < end; r++) {
        const float *row = a->table + (int64_t)a->tokens[r] * n;
        const bool is_masked = a->mask_id >= 0 && a->tokens[r] == a->mask_id;
        const vf scale = vf_set1(a->row_scale ? a->row_scale[r] : 1.0f);
        float *out = a->out + r * a->ld;
        for (int64_t i = 0; i < n; i += W) {
            const int64_t left = n - i;
            vf x = vf_set1(0.0f);
            if (!is_masked) x = left >= W ? vf_load(row + i) : vf_load_n(row + i, left);
            x *= scale;
            if (a->type_row)
                x += left >= W ? vf_load(a->type_row + i) : vf_load_n(a->type_row + i, left);
            if (left >= W)
                vf_store(out + i, x);
            else
                vf_store_n(out + i, x, left);
        }
    }
}
