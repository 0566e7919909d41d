// SPDX-License-Identifier: MIT
// The torch reader. An input that begins with "PK" is a whole zip; anything else is taken for the
// pickle of a zip that is made around it (four storages of 64 bytes), so that mutations reach the
// interpreter without having to keep a zip directory right.
#include "fuzz_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct buffer {
    uint8_t *data;
    size_t n;
};

static void le(struct buffer *b, uint64_t v, int n) {
    for (int i = 0; i < n; i++) b->data[b->n++] = (uint8_t)(i < 8 ? v >> (8 * i) : 0);
}
static void put(struct buffer *b, const void *data, size_t n) {
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void add_entry(struct buffer *zip, struct buffer *dir, const char *name, const uint8_t *data,
                      size_t n) {
    size_t start = zip->n, n_name = strlen(name);
    le(zip, 0x04034b50, 4);
    le(zip, 0, 14);
    le(zip, n, 4);
    le(zip, n, 4);
    le(zip, n_name, 2);
    le(zip, 0, 2);
    put(zip, name, n_name);
    put(zip, data, n);
    le(dir, 0x02014b50, 4);
    le(dir, 0, 16);
    le(dir, n, 4);
    le(dir, n, 4);
    le(dir, n_name, 2);
    le(dir, 0, 12);
    le(dir, start, 4);
    put(dir, name, n_name);
}

static struct buffer make_zip(const uint8_t *data, size_t size) {
    static const uint8_t storage[64] = {0};
    uint8_t dir_data[1024];
    struct buffer zip = {malloc(size + 4096), 0}, dir = {dir_data, 0};
    char name[16];
    if (!zip.data) return zip;
    add_entry(&zip, &dir, "a/data.pkl", data, size);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "a/data/%d", i);
        add_entry(&zip, &dir, name, storage, sizeof storage);
    }
    size_t off = zip.n;
    put(&zip, dir.data, dir.n);
    le(&zip, 0x06054b50, 4);
    le(&zip, 0, 4);
    le(&zip, 5, 2);
    le(&zip, 5, 2);
    le(&zip, dir.n, 4);
    le(&zip, off, 4);
    le(&zip, 0, 2);
    return zip;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct fuzz_file file;
    if (size >= 2 && memcmp(data, "PK", 2) == 0) {
        fuzz_file_write(&file, NULL, data, size);
    } else {
        struct buffer zip = make_zip(data, size);
        if (!zip.data) return 0;
        fuzz_file_write(&file, NULL, zip.data, zip.n);
        free(zip.data);
    }
    fuzz_open_all(file.path);
    return 0;
}
