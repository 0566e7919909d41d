// SPDX-License-Identifier: MIT
// Blocks: the unit of memory, of resume and of the ledger's transactions. All of a block's arrays
// keep their memory when the block is used again, so that a steady run allocates nothing.
#include "run/engine.h"

#include <stdlib.h>
#include <string.h>

/* Exactly as much: blocks that follow the largest one must not outgrow it. */
static vnp_status set_capacity(struct run_buffer *b, size_t cap) {
    void *data = realloc(b->data, cap);
    if (!data) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "a block of the input: %zu bytes", cap);
    b->data = data;
    b->cap_bytes = cap;
    return VNP_OK;
}

vnp_status vnp_run_buffer_reserve(struct run_buffer *b, size_t n_bytes) {
    if (n_bytes <= b->cap_bytes) return VNP_OK;
    size_t cap = VNP_MAX(b->cap_bytes + b->cap_bytes / 2, n_bytes);
    if (b->cap_bytes == 0) cap += n_bytes / 4; /* what is like it will fit as well */
    return set_capacity(b, VNP_ALIGN_UP(VNP_MAX(cap, 256), 64));
}

vnp_status vnp_run_buffer_append(struct run_buffer *b, const void *data, size_t n) {
    VNP_TRY(vnp_run_buffer_reserve(b, b->n_bytes + n));
    if (n) memcpy((char *)b->data + b->n_bytes, data, n);
    b->n_bytes += n;
    return VNP_OK;
}

void vnp_run_buffer_fini(struct run_buffer *b) {
    free(b->data);
    *b = (struct run_buffer){0};
}

vnp_status vnp_run_block_init(struct run_block *b) {
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    return VNP_OK;
}

void vnp_run_block_clear(struct run_block *b) {
    struct run_buffer *const buffers[] = {&b->records, &b->windows, &b->frames, &b->items,
                                          &b->ids,     &b->bases,   &b->tokens, &b->rows};
    for (size_t i = 0; i < VNP_COUNT(buffers); i++) buffers[i]->n_bytes = 0;
    for (int i = 0; i < b->n_reasons; i++) free(b->reasons[i]);
    b->n_reasons = 0;
    b->n_records = b->n_windows = b->n_frames = b->n_items = b->n_rows = b->n_bases = 0;
    b->n_tokens[ENC_DNA] = b->n_tokens[ENC_PROTEIN] = b->n_unknown = b->n_duplicates = 0;
    atomic_store(&b->n_pending, 0);
}

void vnp_run_block_learn(const struct run_block *b, size_t high[RUN_N_BUFFERS]) {
    const struct run_buffer *const buffers[RUN_N_BUFFERS] = {
        &b->records, &b->windows, &b->frames, &b->items, &b->ids, &b->bases, &b->tokens, &b->rows};
    for (int i = 0; i < RUN_N_BUFFERS; i++) {
        size_t used = buffers[i]->n_bytes;
        if (buffers[i] == &b->rows) used = (size_t)b->n_row_bytes;
        if (used + used / 4 > high[i]) /* in steps, so that it comes to rest */
            high[i] = VNP_ALIGN_UP(VNP_MAX(used + used / 2, (size_t)256), 64);
    }
}

vnp_status vnp_run_block_prepare(struct run_block *b, const size_t high[RUN_N_BUFFERS],
                                 int n_blocks, int64_t cap_bytes) {
    struct run_buffer *const buffers[RUN_N_BUFFERS] = {
        &b->records, &b->windows, &b->frames, &b->items, &b->ids, &b->bases, &b->tokens, &b->rows};
    for (int i = 0; i < RUN_N_BUFFERS; i++)
        if (high[i] > buffers[i]->cap_bytes && (int64_t)high[i] <= cap_bytes / n_blocks)
            VNP_TRY(set_capacity(buffers[i], high[i]));
    return VNP_OK;
}

void vnp_run_block_fini(struct run_block *b) {
    struct run_buffer *const buffers[] = {&b->records, &b->windows, &b->frames, &b->items,
                                          &b->ids,     &b->bases,   &b->tokens, &b->rows};
    vnp_run_block_clear(b);
    for (size_t i = 0; i < VNP_COUNT(buffers); i++) vnp_run_buffer_fini(buffers[i]);
    pthread_mutex_destroy(&b->lock);
}

/* Failures are rare; equal texts are kept once and the ninth different one shares the eighth. */
void vnp_run_block_frame_fail(struct run_block *b, int32_t frame, const char *reason) {
    struct run_frame *frames = b->frames.data;
    pthread_mutex_lock(&b->lock);
    int i = 0;
    while (i < b->n_reasons && strcmp(b->reasons[i], reason) != 0) i++;
    if (i == b->n_reasons && i < (int)VNP_COUNT(b->reasons)) {
        char *copy = strdup(reason);
        if (copy) b->reasons[b->n_reasons++] = copy;
    }
    i = VNP_MIN(i, b->n_reasons - 1);
    frames[frame].reason = i >= 0 ? b->reasons[i] : "failed";
    frames[frame].has_reason = true;
    pthread_mutex_unlock(&b->lock);
}

struct vnp_hash128 vnp_run_block_content(const struct run_block *b) {
    const struct run_record *records = b->records.data;
    const struct run_window *windows = b->windows.data;
    struct vnp_hash128 h[2] = {vnp_hash(b->bases.data ? b->bases.data : "", b->bases.n_bytes),
                               vnp_hash(b->ids.data ? b->ids.data : "", b->ids.n_bytes)};
    uint64_t chain = 0;
    for (int64_t i = 0; i < b->n_records; i++) {
        int64_t v[2] = {records[i].idx, records[i].length};
        chain = vnp_hash_seeded(v, sizeof v, chain).lo;
    }
    if (b->n_windows > 0) {
        int64_t v[2] = {windows[0].record, windows[0].k};
        chain = vnp_hash_seeded(v, sizeof v, chain).lo;
    }
    return vnp_hash_seeded(h, sizeof h, chain);
}
