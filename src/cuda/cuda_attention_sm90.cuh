/* SPDX-License-Identifier: MIT
 * What the Hopper attention kernels for heads of 64 columns share: products by warpgroup
 * instructions, keys and values read from shared memory by the matrix unit itself, once for 64
 * queries. Online softmax after Milakov & Gimelshein 2018 and Dao 2023; the next step's scores are
 * multiplied while this step's weights meet the values (Shah et al. 2024). */
#ifndef VNP_CUDA_ATTENTION_SM90_CUH
#define VNP_CUDA_ATTENTION_SM90_CUH

#include "cuda_attention.cuh"

namespace {

constexpr int ROW = 128; /* bytes of a row of 64 columns */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr float LOG2_E = 1.4426950408889634f;

/* Rows of 128 swizzled bytes, 8 rows every 1024 bytes: keys with columns along k, or values,
 * turned, with rows along k. */
__device__ __forceinline__ uint64_t operand(uint32_t addr) {
    constexpr uint64_t EIGHT_ROWS = 1024 >> 4;
    return (static_cast<uint64_t>(addr & 0x3ffff) >> 4) | (EIGHT_ROWS << 16) | (EIGHT_ROWS << 32) |
           (static_cast<uint64_t>(1) << 62);
}
/* clang-format off */
#define VNP_ALL(d)                                                                                 \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),      \
    "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),      \
    "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),      \
    "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),      \
    "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),      \
    "+f"(d[7][2]), "+f"(d[7][3])
#define VNP_LEFT(a)                                                                                \
    "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(a[1][0]), "r"(a[1][1]),            \
    "r"(a[1][2]), "r"(a[1][3]), "r"(a[2][0]), "r"(a[2][1]), "r"(a[2][2]), "r"(a[2][3]),            \
    "r"(a[3][0]), "r"(a[3][1]), "r"(a[3][2]), "r"(a[3][3])
#define VNP_FIRST_32                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define VNP_NEXT_32                                                                                \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
/* d[64][64] (+)= left[64][16] right[16][64]; a step of 16 along k is `step` in units of 16 bytes */
#define VNP_PRODUCT(type, d, left, is_add, turned)                                                 \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                    \
    " {" d "}, {" left "}, b, " is_add ", 1, 1, " turned ";\n"
#define VNP_SCORES(type, l0, l1, l2, l3, right)                                                    \
    "mov.b64 b, " right ";\n" VNP_PRODUCT(type, VNP_FIRST_32, l0, "0", "0")                        \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l1, "1", "0")                             \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l2, "1", "0")                             \
    "add.s64 b, b, 2;\n" VNP_PRODUCT(type, VNP_FIRST_32, l3, "1", "0")
#define VNP_VALUES(type, d, l0, l1, l2, l3, right)                                                 \
    "mov.b64 b, " right ";\n" VNP_PRODUCT(type, d, l0, "1", "1")                                   \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l1, "1", "1")                                      \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l2, "1", "1")                                      \
    "add.s64 b, b, 128;\n" VNP_PRODUCT(type, d, l3, "1", "1")
#define VNP_BATCH(body)                                                                            \
    "{\n.reg .b64 b;\nwgmma.fence.sync.aligned;\n" body "wgmma.commit_group.sync.aligned;\n}\n"
#define VNP_START_SCORES(type)                                                                     \
    asm volatile(VNP_BATCH(VNP_SCORES(type, "%32, %33, %34, %35", "%36, %37, %38, %39",            \
                                      "%40, %41, %42, %43", "%44, %45, %46, %47", "%48"))          \
                 : VNP_ALL(s) : VNP_LEFT(q), "l"(keys) : "memory")
#define VNP_START_VALUES(type)                                                                     \
    asm volatile(VNP_BATCH(VNP_VALUES(type, VNP_FIRST_32, "%32, %33, %34, %35",                    \
                                      "%36, %37, %38, %39", "%40, %41, %42, %43",                  \
                                      "%44, %45, %46, %47", "%48"))                                \
                 : VNP_ALL(o) : VNP_LEFT(a), "l"(values) : "memory")
#define VNP_START_BOTH(type)                                                                       \
    asm volatile(VNP_BATCH(                                                                        \
                     VNP_SCORES(type, "%64, %65, %66, %67", "%68, %69, %70, %71",                  \
                                "%72, %73, %74, %75", "%76, %77, %78, %79", "%96")                 \
                     VNP_VALUES(type, VNP_NEXT_32, "%80, %81, %82, %83", "%84, %85, %86, %87",     \
                                "%88, %89, %90, %91", "%92, %93, %94, %95", "%97"))                \
                 : VNP_ALL(s), VNP_ALL(o)                                                          \
                 : VNP_LEFT(q), VNP_LEFT(a), "l"(keys), "l"(values) : "memory")
/* clang-format on */

/* s = scores with 64 keys; rows beyond the sequence give what soften() throws away. */
__device__ __forceinline__ void start_scores(tag_f16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                             uint64_t keys) {
    VNP_START_SCORES("f16");
}
__device__ __forceinline__ void start_scores(tag_bf16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                             uint64_t keys) {
    VNP_START_SCORES("bf16");
}
/* o += weights times 64 values. */
__device__ __forceinline__ void start_values(tag_f16, float (&o)[8][4], const uint32_t (&a)[4][4],
                                             uint64_t values) {
    VNP_START_VALUES("f16");
}
__device__ __forceinline__ void start_values(tag_bf16, float (&o)[8][4], const uint32_t (&a)[4][4],
                                             uint64_t values) {
    VNP_START_VALUES("bf16");
}
/* The next keys' scores, then these values: one batch of the matrix unit. */
__device__ __forceinline__ void start_both(tag_f16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                           uint64_t keys, float (&o)[8][4],
                                           const uint32_t (&a)[4][4], uint64_t values) {
    VNP_START_BOTH("f16");
}
__device__ __forceinline__ void start_both(tag_bf16, float (&s)[8][4], const uint32_t (&q)[4][4],
                                           uint64_t keys, float (&o)[8][4],
                                           const uint32_t (&a)[4][4], uint64_t values) {
    VNP_START_BOTH("bf16");
}
/* The sums, and the weights read for them, are ours again. */
__device__ __forceinline__ void matrix_wait(float (&s)[8][4], float (&o)[8][4],
                                            const uint32_t (&a)[4][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : VNP_ALL(s), VNP_ALL(o)
                 : VNP_LEFT(a)
                 : "memory");
}
/* A value that all threads of a warp have, so that the compiler knows. */
template <class V> __device__ __forceinline__ V same(V v) {
    return __shfl_sync(0xffffffffu, v, 0);
}

/* The state of 64 queries of a warpgroup, where q and k are rotated (so no ALiBi). */
template <class T> struct queries {
    uint32_t q[4][4];
    float o[8][4], s[8][4], top[2], sum[2];

    __device__ __forceinline__ void begin(uint32_t rows, bool is_there) { /* 16, rotated */
        int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            q[k][0] = q[k][1] = q[k][2] = q[k][3] = 0;
            if (is_there) ldmatrix4(rows + place<64>(lane & 15, 2 * k + (lane >> 4)), q[k]);
        }
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[j][i] = 0.0f;
    }
    /* Weights of the scores in s, which had `left` keys; o is ready for the values after it. */
    template <bool IS_FULL>
    __device__ __forceinline__ void weigh(uint32_t (&a)[4][4], int left, float unit) {
        float shrink[2];
        soften<T, false, IS_FULL>(s, a, top, sum, shrink, (left + 15) / 16, left, unit, 0.0f, 0.0f);
        if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[j][i] *= shrink[i >> 1];
        }
    }
};

#endif /* sm_90a */

} // namespace

#endif
