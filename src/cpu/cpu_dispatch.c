// SPDX-License-Identifier: MIT
// Which instruction sets may be used, and which variant of every op is. A set counts only when the
// processor has it (cpuid) and the operating system saves its registers (XCR0). Variants are rows
// of VNP_CPU_OPS; the first usable row of an op wins, VNP_FORCE chooses others in tests.
#include "cpu/cpu.h"
#include "cpu/cpu_kernels.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* bit 1: SSE, 2: AVX, 5-7: opmask and the upper halves and registers of AVX-512 */
static bool os_saves(uint64_t mask) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    return (xcr0() & mask) == mask;
}

static bool has_avx2(void) {
    uint32_t a, b, c, d;
    if (!os_saves(0x6) || !__get_cpuid(1, &a, &b, &c, &d)) return false;
    if (!(c & bit_FMA) || !(c & bit_F16C)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool has_avx512(void) {
    uint32_t a, b, c, d;
    const uint32_t need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!has_avx2() || !os_saves(0xe6)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & need) == need;
}

static bool has_avx512bf16(void) {
    uint32_t a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}
#endif

bool vnp_cpu_has(const char *isa) {
    if (strcmp(isa, "generic") == 0) return true;
#if defined(__x86_64__)
    if (strcmp(isa, "avx2") == 0) return has_avx2();
    if (strcmp(isa, "avx512") == 0) return has_avx512();
    if (strcmp(isa, "avx512bf16") == 0) return has_avx512bf16();
#endif
    return false;
}

const char *vnp_cpu_features(void) {
    if (vnp_cpu_has("avx512bf16")) return "avx512-bf16 avx512 avx2 generic";
    if (vnp_cpu_has("avx512")) return "avx512 avx2 generic";
    if (vnp_cpu_has("avx2")) return "avx2 generic";
    return "generic";
}

/* The variant that `force` names for an op ("" for none); the last mention wins. */
static void forced_variant(const char *force, const char *op, char *variant, size_t n) {
    variant[0] = 0;
    for (const char *p = force; p && *p; p += strcspn(p, ","), p += *p == ',') {
        size_t n_key = strcspn(p, "=,"), n_all = strcspn(p, ",");
        if (n_key == n_all) continue;
        bool is_op = n_key == strlen(op) && strncmp(p, op, n_key) == 0;
        bool is_all = n_key == 3 && strncmp(p, "all", 3) == 0;
        if (is_op || is_all) snprintf(variant, n, "%.*s", (int)(n_all - n_key - 1), p + n_key + 1);
    }
}

/* "all=avx512bf16" is meant for the ops that have it: others take the plain set. */
static bool row_applies(const char *isa, const char *wanted) {
    return wanted[0] ? strcmp(isa, wanted) == 0 : vnp_cpu_has(isa);
}

vnp_status vnp_cpu_kernels_choose(const char *force, struct vnp_cpu_kernels *out) {
    char wanted[32];
    memset(out, 0, sizeof *out);
#define VNP_CPU_TRY_ROW(name, isa)                                                                 \
    if (!out->name && row_applies(#isa, wanted) && vnp_cpu_has(#isa))                              \
        out->name = vnp_cpu_##name##_##isa;
#define VNP_CPU_CHOOSE(name, type)                                                                 \
    forced_variant(force, #name, wanted, sizeof wanted);                                           \
    VNP_CPU_ROWS_##name(VNP_CPU_TRY_ROW) if (!out->name) return vnp_fail(                          \
        VNP_UNSUPPORTED, VNP_FROM_DEVICE, "cpu: no variant '%s' of %s on this machine", wanted,    \
        #name);
    VNP_CPU_OPS(VNP_CPU_CHOOSE)
#undef VNP_CPU_CHOOSE
#undef VNP_CPU_TRY_ROW
    return VNP_OK;
}
