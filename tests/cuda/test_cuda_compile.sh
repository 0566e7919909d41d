#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every .cu compiles for sm_80 and sm_90a with warnings as errors. Needs nvcc, and minutes: runs in
# CI and where VNP_TEST_CUDA is set; elsewhere it is skipped with the reason.
source_dir=$2 scratch=$3
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
echo 1..1
if [ ! -x "$nvcc" ]; then echo "ok 1 # SKIP no nvcc"; exit 0; fi
if [ -z "${VNP_TEST_CUDA:-}" ] && [ "${CI:-}" != true ]; then
    echo "ok 1 # SKIP takes minutes: set VNP_TEST_CUDA=1"; exit 0
fi
mkdir -p "$scratch"
for file in "$source_dir"/src/cuda/*.cu; do
    if ! "$nvcc" -std=c++17 -O1 -gencode=arch=compute_80,code=sm_80 \
        -gencode=arch=compute_90a,code=sm_90a -Werror all-warnings -Xcompiler -Wall,-Wextra \
        -D_GNU_SOURCE -I"$source_dir/include" -I"$source_dir/src" -c "$file" \
        -o "$scratch/$(basename "$file").o" > "$scratch/log" 2>&1; then
        sed 's/^/# /' "$scratch/log"; echo "not ok 1 - $(basename "$file") compiles"; exit 1
    fi
done
echo "ok 1 - all .cu compile for sm_80 and sm_90a"
