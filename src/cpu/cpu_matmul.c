// SPDX-License-Identifier: MIT
// Matrix products by oneDNN, one thread a call. A product is made for a fixed number of rows, so
// that a row is computed by the same instructions whatever stands around it; threads share out
// blocks, oneDNN itself never starts any. Whether smaller blocks give the same bits is not believed
// but tried when a product is made: every height must give every row, at each of its places, the
// bits of the others, else it is not used. A block of one row is always right.
#include "cpu/cpu_room.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static const int heights[VNP_CPU_N_HEIGHTS] = VNP_CPU_HEIGHTS;

/* ---- oneDNN's threads ------------------------------------------------------------------------ */

struct vnp_cpu_openmp vnp_cpu_openmp_find(void) {
    struct vnp_cpu_openmp omp = {0};
    void *get = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    void *set = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!get || !set) return omp;
    memcpy(&omp.get, &get, sizeof omp.get); /* ISO C has no cast from data to function */
    memcpy(&omp.set, &set, sizeof omp.set);
    return omp;
}

int vnp_cpu_openmp_single(const struct vnp_cpu_openmp *omp) {
    if (!omp->set) return 0;
    int before = omp->get();
    if (before != 1) omp->set(1);
    return before;
}

void vnp_cpu_openmp_restore(const struct vnp_cpu_openmp *omp, int n_threads) {
    if (n_threads > 1) omp->set(n_threads);
}

static vnp_status library_failed(dnnl_status_t status, const struct vnp_cpu_matmul *m) {
    return vnp_fail(status == dnnl_out_of_memory ? VNP_NOMEM : VNP_UNSUPPORTED, VNP_FROM_DEVICE,
                    "cpu: oneDNN refuses a %s product of %lld by %lld (status %d)",
                    m->is_bf16 ? "bf16" : "fp32", (long long)m->n_in, (long long)m->n_cols,
                    (int)status);
}

/* ---- making a product ------------------------------------------------------------------------ */

void vnp_cpu_matmul_destroy(struct vnp_cpu_matmul *m) {
    if (!m) return;
    for (int i = 0; i < VNP_CPU_N_HEIGHTS; i++)
        if (m->primitive[i]) dnnl_primitive_destroy(m->primitive[i]);
    free(m);
}

#define TRY_DNNL(x)                                                                                \
    do {                                                                                           \
        status = (x);                                                                              \
        if (status != dnnl_success) goto fail;                                                     \
    } while (0)

/* The product of one height. The first decides how the weights are laid out. */
static dnnl_status_t make_height(dnnl_engine_t engine, struct vnp_cpu_matmul *m, int i) {
    const dnnl_data_type_t type = m->is_bf16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t a_dims = {heights[i], m->n_in}, w_dims = {m->n_in, m->n_cols};
    const dnnl_dims_t out_dims = {heights[i], m->n_cols};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_matmul_desc_t op;
    dnnl_memory_desc_t weight;
    dnnl_status_t status;
    TRY_DNNL(dnnl_memory_desc_init_by_tag(&m->a[i], 2, a_dims, type, dnnl_ab));
    TRY_DNNL(dnnl_memory_desc_init_by_tag(&m->out[i], 2, out_dims, dnnl_f32, dnnl_ab));
    weight = m->weight;
    if (i == 0)
        TRY_DNNL(dnnl_memory_desc_init_by_tag(&weight, 2, w_dims, type, dnnl_format_tag_any));
    TRY_DNNL(dnnl_matmul_desc_init(&op, &m->a[i], &weight, NULL, &m->out[i]));
    TRY_DNNL(dnnl_primitive_attr_create(&attr));
    TRY_DNNL(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    TRY_DNNL(dnnl_primitive_desc_create(&desc, &op, attr, engine, NULL));
    TRY_DNNL(dnnl_primitive_create(&m->primitive[i], desc));
    if (i == 0) m->weight = *dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    size_t n =
        dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0));
    m->scratch_bytes = VNP_MAX(m->scratch_bytes, n);
fail:
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return status;
}

/* Is the layout [n / 64][ceil16(words)][64] of 32-bit words? */
static bool is_word_blocked(const struct vnp_cpu_matmul *m) {
    const dnnl_blocking_desc_t *b = &m->weight.format_desc.blocking;
    const int64_t per_word = m->is_bf16 ? 2 : 1;
    if (m->weight.format_kind != dnnl_blocked || b->inner_nblks != (m->is_bf16 ? 3 : 2))
        return false;
    if (b->inner_blks[0] != 16 || b->inner_idxs[0] != 0 || b->inner_blks[1] != 64 ||
        b->inner_idxs[1] != 1 || (m->is_bf16 && (b->inner_blks[2] != 2 || b->inner_idxs[2] != 0)))
        return false;
    return b->strides[0] == 16 * 64 * per_word &&
           b->strides[1] == VNP_ALIGN_UP(m->n_in, 16 * per_word) * 64;
}

int64_t vnp_cpu_matmul_offset(const struct vnp_cpu_matmul *m, int64_t k, int64_t n) {
    const dnnl_blocking_desc_t *b = &m->weight.format_desc.blocking;
    int64_t pos[2] = {k, n}, off = m->weight.offset0, inner = 1;
    for (int i = b->inner_nblks - 1; i >= 0; i--) {
        int64_t *p = &pos[b->inner_idxs[i]];
        off += *p % b->inner_blks[i] * inner;
        *p /= b->inner_blks[i];
        inner *= b->inner_blks[i];
    }
    return off + pos[0] * b->strides[0] + pos[1] * b->strides[1];
}

dnnl_status_t vnp_cpu_matmul_run(const struct vnp_cpu_matmul *m, int idx_height,
                                 struct vnp_cpu_lane *lane, const void *a, const void *weight) {
    dnnl_engine_t engine;
    dnnl_status_t status;
    TRY_DNNL(dnnl_stream_get_engine(lane->stream, &engine));
    if (lane->matmul != m || lane->idx_height != idx_height) {
        dnnl_memory_t *const handles[] = {&lane->a, &lane->out, &lane->weight, &lane->scratch};
        const dnnl_memory_desc_t *const descs[] = {&m->a[idx_height], &m->out[idx_height],
                                                   &m->weight, &m->scratch};
        lane->matmul = NULL;
        for (int i = 0; i < 4; i++) {
            if (*handles[i]) dnnl_memory_destroy(*handles[i]);
            *handles[i] = NULL;
            TRY_DNNL(dnnl_memory_create(handles[i], descs[i], engine, DNNL_MEMORY_NONE));
        }
        TRY_DNNL(dnnl_memory_set_data_handle(lane->out, lane->tile));
        TRY_DNNL(dnnl_memory_set_data_handle(lane->scratch, lane->library_scratch));
        lane->matmul = m;
        lane->idx_height = idx_height;
    }
    /* oneDNN's handles are not const; sources and weights are only read */
    TRY_DNNL(dnnl_memory_set_data_handle(lane->a, (void *)(uintptr_t)a));
    TRY_DNNL(dnnl_memory_set_data_handle(lane->weight, (void *)(uintptr_t)weight));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, lane->a},
                                    {DNNL_ARG_WEIGHTS, lane->weight},
                                    {DNNL_ARG_DST, lane->out},
                                    {DNNL_ARG_SCRATCHPAD, lane->scratch}};
    TRY_DNNL(dnnl_primitive_execute(m->primitive[idx_height], lane->stream, 4, args));
fail:
    return status;
}

/* Values in [-1, 1) that round differently in every order of summing. */
static float probe_value(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(*state >> 33) - (1 << 30)) * 0x1p-30f;
}

static void probe_fill(void *data, size_t n, bool is_bf16) {
    uint64_t state = n;
    for (size_t i = 0; i < n; i++) {
        float x = probe_value(&state);
        if (is_bf16)
            ((uint16_t *)data)[i] = vnp_f32_to_bf16(x);
        else
            ((float *)data)[i] = x;
    }
}

/* Runs height idx on rows that are all the same; true when every row of the result is `want`. The
 * highest block writes `want` from its row 0 first. */
static dnnl_status_t probe_height(const struct vnp_cpu_matmul *m, int idx,
                                  struct vnp_cpu_lane *lane, const void *a, const void *weight,
                                  float *want, bool *is_same) {
    const size_t n = (size_t)m->n_cols;
    dnnl_status_t status = vnp_cpu_matmul_run(m, idx, lane, a, weight);
    *is_same = true;
    const float *tile = lane->tile;
    if (idx == 0) memcpy(want, tile, n * sizeof *want);
    for (int r = 0; r < heights[idx]; r++)
        if (memcmp(tile + (size_t)r * n, want, n * sizeof *want) != 0) *is_same = false;
    return status;
}

/* Keeps the heights whose rows agree in every bit with the highest block's. Should even that block
 * disagree with itself from row to row, single rows are all that is left. */
static vnp_status probe(struct vnp_cpu_matmul *m, struct vnp_cpu_lane *lane) {
    const size_t n_in = (size_t)m->n_in, n_element = m->is_bf16 ? 2 : 4;
    char *a = vnp_alloc_aligned(VNP_CPU_MAX_HEIGHT * n_in * n_element);
    void *weight = vnp_alloc_aligned(m->weight_bytes);
    float *want = vnp_alloc_aligned((size_t)m->n_cols * sizeof *want);
    dnnl_status_t status = dnnl_out_of_memory;
    bool is_same, is_first_good = false;
    if (!a || !weight || !want) goto fail;
    probe_fill(a, n_in, m->is_bf16);
    for (int r = 1; r < VNP_CPU_MAX_HEIGHT; r++)
        memcpy(a + (size_t)r * n_in * n_element, a, n_in * n_element);
    probe_fill(weight, m->weight_bytes / n_element, m->is_bf16);
    m->n_heights = 0;
    for (int i = 0; i < VNP_CPU_N_HEIGHTS; i++) {
        TRY_DNNL(probe_height(m, i, lane, a, weight, want, &is_same));
        if (i == 0) is_first_good = is_same;
        bool is_kept = is_first_good ? is_same : heights[i] == 1;
        if (is_kept) m->height[m->n_heights++] = i;
    }
fail:
    vnp_free_aligned(a);
    vnp_free_aligned(weight);
    vnp_free_aligned(want);
    return status == dnnl_success ? VNP_OK : library_failed(status, m);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

vnp_status vnp_cpu_lanes_create(struct vnp_device *dev) {
    const int n = vnp_pool_n_threads(dev->pool);
    dev->lanes = calloc((size_t)n, sizeof *dev->lanes);
    if (!dev->lanes) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: %d lanes", n);
    for (int i = 0; i < n; i++) {
        struct vnp_cpu_lane *lane = &dev->lanes[i];
        if (dnnl_stream_create(&lane->stream, dev->engine, dnnl_stream_default_flags))
            return vnp_fail(VNP_NOMEM, VNP_FROM_DEVICE, "cpu: oneDNN gives no stream");
        lane->attention = vnp_alloc_aligned(VNP_CPU_ATTENTION_SCRATCH * sizeof(float));
        if (!lane->attention) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: attention scratch");
    }
    return VNP_OK;
}

void vnp_cpu_lanes_destroy(struct vnp_device *dev) {
    for (int i = 0; dev->lanes && i < vnp_pool_n_threads(dev->pool); i++) {
        struct vnp_cpu_lane *lane = &dev->lanes[i];
        dnnl_memory_t const handles[] = {lane->a, lane->out, lane->weight, lane->scratch};
        for (int j = 0; j < 4; j++)
            if (handles[j]) dnnl_memory_destroy(handles[j]);
        if (lane->stream) dnnl_stream_destroy(lane->stream);
        vnp_free_aligned(lane->tile);
        vnp_free_aligned(lane->rows);
        vnp_free_aligned(lane->library_scratch);
        vnp_free_aligned(lane->attention);
    }
    free(dev->lanes);
    dev->lanes = NULL;
}

static vnp_status grow(void **p, size_t *have, size_t need) {
    if (*have >= need && *p) return VNP_OK;
    vnp_free_aligned(*p);
    *have = 0;
    *p = vnp_alloc_aligned(need);
    if (!*p) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: %zu bytes of scratch", need);
    *have = need;
    return VNP_OK;
}

static vnp_status lanes_grow(struct vnp_device *dev, const struct vnp_cpu_matmul *m) {
    const size_t n_tile = VNP_CPU_MAX_HEIGHT * (size_t)m->n_cols * sizeof(float);
    const size_t n_rows = VNP_CPU_MAX_HEIGHT * (size_t)m->n_in * (m->is_bf16 ? 2 : 4);
    for (int i = 0; i < vnp_pool_n_threads(dev->pool); i++) {
        struct vnp_cpu_lane *lane = &dev->lanes[i];
        lane->matmul = NULL; /* its handles point to the old buffers */
        VNP_TRY(grow(&lane->tile, &lane->tile_bytes, n_tile));
        VNP_TRY(grow(&lane->rows, &lane->rows_bytes, n_rows));
        VNP_TRY(grow(&lane->library_scratch, &lane->library_bytes, m->scratch_bytes + 64));
    }
    return VNP_OK;
}

static vnp_status matmul_create(struct vnp_device *dev, struct vnp_cpu_matmul *m) {
    for (int i = 0; i < VNP_CPU_N_HEIGHTS; i++) {
        dnnl_status_t status = make_height(dev->engine, m, i);
        if (status != dnnl_success) return library_failed(status, m);
    }
    const dnnl_dims_t dims = {(dnnl_dim_t)(m->scratch_bytes + 64)};
    if (dnnl_memory_desc_init_by_tag(&m->scratch, 1, dims, dnnl_u8, dnnl_a))
        return library_failed(dnnl_invalid_arguments, m);
    m->weight_bytes = dnnl_memory_desc_get_size(&m->weight);
    m->is_blocked = is_word_blocked(m);
    VNP_TRY(lanes_grow(dev, m));
    return probe(m, &dev->lanes[0]);
}

vnp_status vnp_cpu_matmul_get(struct vnp_device *dev, int64_t n_in, int64_t n_cols, bool is_bf16,
                              const struct vnp_cpu_matmul **out) {
    struct vnp_cpu_matmul *m;
    for (m = dev->matmuls; m; m = m->next)
        if (m->n_in == n_in && m->n_cols == n_cols && m->is_bf16 == is_bf16) break;
    if (!m) {
        m = calloc(1, sizeof *m);
        if (!m) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "cpu: a product");
        m->n_in = n_in;
        m->n_cols = n_cols;
        m->is_bf16 = is_bf16;
        int n_threads = vnp_cpu_openmp_single(&dev->openmp);
        vnp_status status = matmul_create(dev, m);
        vnp_cpu_openmp_restore(&dev->openmp, n_threads);
        if (status != VNP_OK) {
            dev->lanes[0].matmul = NULL;
            vnp_cpu_matmul_destroy(m);
            return status;
        }
        m->next = dev->matmuls;
        dev->matmuls = m;
    }
    *out = m;
    return VNP_OK;
}
