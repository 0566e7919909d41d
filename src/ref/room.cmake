# SPDX-License-Identifier: MIT
# The loops are plain C; -O3 lets the compiler make SIMD of them. Sums keep their written order.
target_compile_options(room_ref PRIVATE -O3)
# ref_linear.c may contract a*b+c: its products are of FP32 values in FP64, exact, so the bits are those of
# separate products and sums. A file's own options come last.
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/ref/ref_linear.c PROPERTIES COMPILE_OPTIONS -ffp-contract=fast)
