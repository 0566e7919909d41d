# SPDX-License-Identifier: MIT
# The loops are plain C; -O3 lets the compiler make SIMD of them. Sums keep their written order.
target_compile_options(room_ref PRIVATE -O3)
