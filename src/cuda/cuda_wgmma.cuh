/* SPDX-License-Identifier: MIT
 * The warpgroup matrix instructions of the room: d (64 x 256 FP32 sums, 128 registers a thread; or
 * 64 x 192, 96 registers) = or += a b^T over 32 bytes of k, both operands in shared memory. Written
 * out because the instruction takes its registers by name; the meaning stands in the PTX ISA,
 * chapter "wgmma.mma_async". */
#ifndef VNP_CUDA_WGMMA_CUH
#define VNP_CUDA_WGMMA_CUH

#include <stdint.h>

/* clang-format off */
#define VNP_R8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]),                      \
                  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define VNP_R64(i) VNP_R8(i), VNP_R8(i + 8), VNP_R8(i + 16), VNP_R8(i + 24),                       \
                   VNP_R8(i + 32), VNP_R8(i + 40), VNP_R8(i + 48), VNP_R8(i + 56)
#define VNP_WGMMA(NAME, TYPES, TRANSPOSES)                                                         \
__device__ __forceinline__ void NAME(float (&d)[128], uint64_t a, uint64_t b, int is_add) {        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                     \
        "wgmma.mma_async.sync.aligned.m64n256" TYPES " {"                                          \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                   \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "         \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "         \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "         \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "         \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "         \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "         \
        "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, "     \
        "%124, %125, %126, %127}, %128, %129, p, 1, 1" TRANSPOSES ";\n}\n"                         \
        : VNP_R64(0), VNP_R64(64) : "l"(a), "l"(b), "r"(is_add));                                  \
}
VNP_WGMMA(wgmma_f16, "k16.f32.f16.f16", ", 0, 0")
VNP_WGMMA(wgmma_bf16, "k16.f32.bf16.bf16", ", 0, 0")
VNP_WGMMA(wgmma_e4m3, "k32.f32.e4m3.e4m3", "")
#define VNP_WGMMA_192(NAME, TYPES, TRANSPOSES)                                                     \
__device__ __forceinline__ void NAME(float (&d)[96], uint64_t a, uint64_t b, int is_add) {         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"                                      \
        "wgmma.mma_async.sync.aligned.m64n192" TYPES " {"                                          \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                   \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "         \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "         \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "         \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "         \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "         \
        "%96, %97, p, 1, 1" TRANSPOSES ";\n}\n"                                                    \
        : VNP_R64(0), VNP_R8(64), VNP_R8(72), VNP_R8(80), VNP_R8(88)                               \
        : "l"(a), "l"(b), "r"(is_add));                                                            \
}
VNP_WGMMA_192(wgmma_f16, "k16.f32.f16.f16", ", 0, 0")
VNP_WGMMA_192(wgmma_bf16, "k16.f32.bf16.bf16", ", 0, 0")
VNP_WGMMA_192(wgmma_e4m3, "k32.f32.e4m3.e4m3", "")
#undef VNP_WGMMA_192
#undef VNP_WGMMA
#undef VNP_R64
#undef VNP_R8
/* clang-format on */

#endif
