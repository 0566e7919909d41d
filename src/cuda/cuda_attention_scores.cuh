/* SPDX-License-Identifier: MIT
 * Products of a warpgroup for a whole sequence of keys: 64 queries by 80, 96 .. 192 keys at once,
 * both read from shared memory by the matrix unit, and weights by 16 values. Written out because
 * the instruction takes its registers by name (PTX ISA, chapter "wgmma.mma_async"). */
#ifndef VNP_CUDA_ATTENTION_SCORES_CUH
#define VNP_CUDA_ATTENTION_SCORES_CUH

#include "cuda_attention_sm90.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
namespace {

/* clang-format off */
#define VNP_S(s, j) "+f"(s[j][0]), "+f"(s[j][1]), "+f"(s[j][2]), "+f"(s[j][3])
#define VNP_NAMES_80                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define VNP_NAMES_96                                                                               \
    VNP_NAMES_80 ", "                                                                              \
    "%40, %41, %42, %43, %44, %45, %46, %47"
#define VNP_NAMES_112                                                                              \
    VNP_NAMES_96 ", "                                                                              \
    "%48, %49, %50, %51, %52, %53, %54, %55"
#define VNP_NAMES_128                                                                              \
    VNP_NAMES_112 ", "                                                                             \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define VNP_NAMES_144                                                                              \
    VNP_NAMES_128 ", "                                                                             \
    "%64, %65, %66, %67, %68, %69, %70, %71"
#define VNP_NAMES_160                                                                              \
    VNP_NAMES_144 ", "                                                                             \
    "%72, %73, %74, %75, %76, %77, %78, %79"
#define VNP_NAMES_176                                                                              \
    VNP_NAMES_160 ", "                                                                             \
    "%80, %81, %82, %83, %84, %85, %86, %87"
#define VNP_NAMES_192                                                                              \
    VNP_NAMES_176 ", "                                                                             \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define VNP_SUMS_80                                                                                \
    VNP_S(s, 0), VNP_S(s, 1), VNP_S(s, 2), VNP_S(s, 3), VNP_S(s, 4), VNP_S(s, 5), VNP_S(s, 6),     \
    VNP_S(s, 7), VNP_S(s, 8), VNP_S(s, 9)
#define VNP_SUMS_96 VNP_SUMS_80, VNP_S(s, 10), VNP_S(s, 11)
#define VNP_SUMS_112 VNP_SUMS_96, VNP_S(s, 12), VNP_S(s, 13)
#define VNP_SUMS_128 VNP_SUMS_112, VNP_S(s, 14), VNP_S(s, 15)
#define VNP_SUMS_144 VNP_SUMS_128, VNP_S(s, 16), VNP_S(s, 17)
#define VNP_SUMS_160 VNP_SUMS_144, VNP_S(s, 18), VNP_S(s, 19)
#define VNP_SUMS_176 VNP_SUMS_160, VNP_S(s, 20), VNP_S(s, 21)
#define VNP_SUMS_192 VNP_SUMS_176, VNP_S(s, 22), VNP_S(s, 23)
/* s[64][n] (+)= queries[64][16] keys[n][16]^T */
#define VNP_MULTIPLY_KEYS(type, n, a, b, add)                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                   \
                 " {" VNP_NAMES_##n "}, " a ", " b ", p, 1, 1, 0, 0;\n}\n"                         \
                 : VNP_SUMS_##n : "l"(queries), "l"(keys), "r"(is_add) : "memory")
#define VNP_ADD_KEYS(n, a, b, add)                                                                 \
__device__ __forceinline__ void add_keys(tag_f16, float (&s)[n / 8][4], uint64_t queries,          \
                                         uint64_t keys, int is_add) {                              \
    VNP_MULTIPLY_KEYS("f16", n, a, b, add);                                                        \
}                                                                                                  \
__device__ __forceinline__ void add_keys(tag_bf16, float (&s)[n / 8][4], uint64_t queries,         \
                                         uint64_t keys, int is_add) {                              \
    VNP_MULTIPLY_KEYS("bf16", n, a, b, add);                                                       \
}
VNP_ADD_KEYS(80, "%40", "%41", "%42")
VNP_ADD_KEYS(96, "%48", "%49", "%50")
VNP_ADD_KEYS(112, "%56", "%57", "%58")
VNP_ADD_KEYS(128, "%64", "%65", "%66")
VNP_ADD_KEYS(144, "%72", "%73", "%74")
VNP_ADD_KEYS(160, "%80", "%81", "%82")
VNP_ADD_KEYS(176, "%88", "%89", "%90")
VNP_ADD_KEYS(192, "%96", "%97", "%98")
#undef VNP_ADD_KEYS
/* o[64][64] (+)= a[64][16] values[16][64] */
#define VNP_MULTIPLY_VALUES(type)                                                                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                      \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                       \
                 " {" VNP_FIRST_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"                \
                 : VNP_ALL(o)                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(values), "r"(is_add)            \
                 : "memory")
/* clang-format on */

__device__ __forceinline__ void add_values(tag_f16, float (&o)[8][4], const uint32_t (&a)[4],
                                           uint64_t values, int is_add) {
    VNP_MULTIPLY_VALUES("f16");
}
__device__ __forceinline__ void add_values(tag_bf16, float (&o)[8][4], const uint32_t (&a)[4],
                                           uint64_t values, int is_add) {
    VNP_MULTIPLY_VALUES("bf16");
}
/* The low half of operand(), to which steps are added in units of 16 bytes; the high half is the
 * same everywhere. */
__device__ __forceinline__ uint32_t operand_low(uint32_t addr) {
    return static_cast<uint32_t>(operand(addr));
}
__device__ __forceinline__ uint64_t operand_of(uint32_t low) {
    return (operand(0) & 0xffffffff00000000u) | low;
}
__device__ __forceinline__ void matrix_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void matrix_close() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All products are done, the sums are ours. */
template <int N> __device__ __forceinline__ void sums_wait(float (&s)[N][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(s[j][i])::"memory");
}

} // namespace
#endif

#endif
