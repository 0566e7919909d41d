// SPDX-License-Identifier: MIT
// A safetensors file or bundle, whole: written to memory, opened, every tensor's first and last
// byte read, digests taken.
#include "fuzz_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct fuzz_file file;
    fuzz_file_write(&file, NULL, data, size);
    fuzz_open_all(file.path);
    return 0;
}
