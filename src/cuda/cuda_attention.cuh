/* SPDX-License-Identifier: MIT
 * What the attention kernels share: swizzled rows in shared memory, matrix instructions of a warp,
 * asynchronous copies, the rotation of a piece of a row, a softmax step. */
#ifndef VNP_CUDA_ATTENTION_CUH
#define VNP_CUDA_ATTENTION_CUH

#include "cuda_barrier.cuh"
#include "cuda_math.cuh"
#include "cuda_room.h"

namespace {

/* Byte offset of 16-byte unit `u` of row `r`, units exchanged so that 8 rows hit 8 banks. With 64
 * columns it is the 128-byte swizzle of the warpgroup instructions. */
template <int DP> __device__ __forceinline__ uint32_t place(int r, int u) {
    constexpr int UNITS = DP / 8;
    int x = UNITS >= 8 ? (r & 7) : UNITS == 4 ? ((r >> 1) & 3) : ((r >> 2) & 1);
    return static_cast<uint32_t>(r * DP * 2 + ((u ^ x) << 4));
}
__device__ __forceinline__ void ldmatrix4(uint32_t addr, uint32_t (&r)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix4_turned(uint32_t addr, uint32_t (&r)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr)
                 : "memory");
}
__device__ __forceinline__ void mma(tag_f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
                 " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(tag_bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3},"
                 " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* c = a b: the first of a sum. */
__device__ __forceinline__ void mma_first(tag_f16, float (&c)[4], const uint32_t (&a)[4],
                                          uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
                 " {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}
__device__ __forceinline__ void mma_first(tag_bf16, float (&c)[4], const uint32_t (&a)[4],
                                          uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3},"
                 " {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* 16 bytes to shared memory; zeros when there is nothing to copy. */
__device__ __forceinline__ void copy16(uint32_t to, const char *from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copies_close() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ uint4 shared_get(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}
/* The same for a whole warp, read by lane 0 alone: the lane that will say that its warp is done. */
__device__ __forceinline__ uint4 shared_get_by_one(uint32_t at) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if ((threadIdx.x & 31) == 0) v = shared_get(at);
    return make_uint4(__shfl_sync(0xffffffffu, v.x, 0), __shfl_sync(0xffffffffu, v.y, 0),
                      __shfl_sync(0xffffffffu, v.z, 0), __shfl_sync(0xffffffffu, v.w, 0));
}
__device__ __forceinline__ void shared_put(uint32_t at, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

/* Where the table keeps frequency i of a position: pairs of eights side by side, so that the
 * threads of a row read neighbours. Heads of 24 have it plain. */
__host__ __device__ __forceinline__ int rotary_slot(int half, int i) {
    return half % 8 ? i : (i % 8 / 2 * (half / 8) + i / 8) * 2 + i % 2;
}
/* {cos, sin} of frequencies 8u .. 8u+7 at a position. */
struct turn8 {
    float4 of[4];
};
template <int HALF> __device__ __forceinline__ turn8 turn_at(const float2 *rotary, int pos, int u) {
    const float4 *f = reinterpret_cast<const float4 *>(rotary + pos * HALF) + u;
    turn8 t;
#pragma unroll
    for (int e = 0; e < 4; e++) t.of[e] = __ldg(f + e * (HALF / 8));
    return t;
}
/* Columns 8u .. 8u+7 and their partners: (x1, x2) -> (x1 c - x2 s, x2 c + x1 s). */
template <class T>
__device__ __forceinline__ void turn2(uint32_t &a, uint32_t &b, const float4 &g) {
    float2 x = T::unpack2(a), y = T::unpack2(b);
    a = T::pack2(x.x * g.x - y.x * g.y, x.y * g.z - y.y * g.w);
    b = T::pack2(y.x * g.x + x.x * g.y, y.y * g.z + x.y * g.w);
}
template <class T> __device__ __forceinline__ void turn(uint4 &lo, uint4 &hi, const turn8 &t) {
    uint32_t a[4] = {lo.x, lo.y, lo.z, lo.w}, b[4] = {hi.x, hi.y, hi.z, hi.w};
#pragma unroll
    for (int e = 0; e < 4; e++) turn2<T>(a[e], b[e], t.of[e]);
    lo = make_uint4(a[0], a[1], a[2], a[3]);
    hi = make_uint4(b[0], b[1], b[2], b[3]);
}

/* The row, of 8 for each warp, whose piece u = lane & 3 is a thread's: rows 4 apart side by side,
 * so that 8 lanes reach all banks. */
__device__ __forceinline__ int piece_row() {
    int t = static_cast<int>(threadIdx.x);
    return (t >> 5) * 8 + ((t >> 3) & 3) + (t & 4);
}
/* A thread's pieces of rows: row `r`, columns 8u .. and their partners 32 further. */
__device__ __forceinline__ void copy_piece(uint32_t to, const char *from, int r, int u,
                                           bool is_there) {
    copy16(to + place<64>(r, u), from, is_there);
    copy16(to + place<64>(r, u + 4), from + 64, is_there);
}
template <class T>
__device__ __forceinline__ void turn_piece(uint32_t rows, int r, int u, const turn8 &t) {
    uint32_t at = rows + place<64>(r, u), at2 = rows + place<64>(r, u + 4);
    uint4 lo = shared_get(at), hi = shared_get(at2);
    turn<T>(lo, hi, t);
    shared_put(at, lo);
    shared_put(at2, hi);
}

/* Where a warp's results go: its first row's token, the sequence's first token, the head. */
struct result {
    int row, seq, n_rows;
    unsigned h;
};
/* What a thread writes of them, and the scale of the codes. */
struct results {
    uint4 v[4];
    float scale;
};

/* Tiles of 8 x 8 as the matrix unit leaves them: rows 0 and 8 of a unit, then of the next; `at` is
 * the place of row lane & 15, unit + lane / 16. */
__device__ __forceinline__ void put_tiles(uint32_t at, const uint32_t (&v)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
#else
    int lane = static_cast<int>(threadIdx.x) & 31;
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(
                         __shfl_sync(0xffffffffu, at, (lane >> 2) + 8 * i) + 4 * (lane & 3)),
                     "r"(v[i])
                     : "memory");
#endif
}
/* To memory, in place of a branch. */
__device__ __forceinline__ void put16(void *to, uint4 v, bool is_there) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
                 "@p st.global.v4.u32 [%0], {%1, %2, %3, %4};\n}\n" ::"l"(to),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(static_cast<int>(is_there))
                 : "memory");
}

/* As E4M3 codes: o * inv, rows of 64 bytes. */
__device__ __forceinline__ void collect_codes(const float (&o)[8][4], const float (&inv)[2],
                                              uint32_t rows, results *r) {
    int lane = static_cast<int>(threadIdx.x) & 31;
    uint32_t line = rows + place<64>(lane >> 2, 0), to = line + 2 * (lane & 3);
    __syncwarp(); /* all lanes have read the queries that stood there */
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t v = pack2_e4m3(o[j][2 * i] * inv[i], o[j][2 * i + 1] * inv[i]);
            asm volatile(
                "st.shared.u16 [%0], %1;" ::"r"((to ^ (j / 2 << 4)) + 8 * (j & 1) + 1024 * i),
                "h"(static_cast<uint16_t>(v))
                : "memory");
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++) r->v[i] = shared_get((line ^ ((lane & 3) << 4)) + 1024 * i);
}

/* o / sum of a warp's 16 rows, dealt to its threads by way of 16 of its own rows in shared memory,
 * which are free after it. */
template <class T>
__device__ __forceinline__ void collect_rows(const float (&o)[8][4], float (&sum)[2], uint32_t rows,
                                             const vnp_cuda_attention_args &p, const result &to,
                                             results *r) {
    int lane = static_cast<int>(threadIdx.x) & 31;
    float inv[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inv[i]) : "f"(sum[i]));
    }
    if (p.v_top) {
        float top = __ldg(p.v_top + to.seq), per;
        r->scale = top > 0.0f ? top / E4M3_MAX : 1.0f;
        asm("rcp.approx.f32 %0, %1;" : "=f"(per) : "f"(r->scale));
        inv[0] *= per;
        inv[1] *= per;
        collect_codes(o, inv, rows, r);
        return;
    }
    uint32_t at = rows + place<64>(lane & 15, lane >> 4);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = T::pack2(o[j + i / 2][i % 2 * 2] * inv[i % 2],
                            o[j + i / 2][i % 2 * 2 + 1] * inv[i % 2]);
        put_tiles(at ^ (j << 4), v);
    }
    __syncwarp();
    at = rows + place<64>(lane >> 3, lane & 7);
#pragma unroll
    for (int i = 0; i < 4; i++) r->v[i] = shared_get((at ^ (i % 2 * 64)) + 512 * i);
}
/* Those, to memory. */
__device__ __forceinline__ void store_rows(const vnp_cuda_attention_args &p, const result &to,
                                           const results &r) {
    int lane = static_cast<int>(threadIdx.x) & 31;
    if (p.v_top) {
        int row = lane >> 2;
        char *at =
            static_cast<char *>(p.out) + (to.row + row) * p.ld_out + to.h * 64 + (lane & 3) * 16;
#pragma unroll
        for (int i = 0; i < 2; i++) put16(at + i * 8 * p.ld_out, r.v[i], row + 8 * i < to.n_rows);
        if (to.h == 0 && lane < 16 && lane < to.n_rows) p.out_scale[to.row + lane] = r.scale;
        return;
    }
    int row = lane >> 3;
    int64_t step = p.ld_out * 8;
    char *at =
        static_cast<char *>(p.out) + (to.row + row) * p.ld_out * 2 + to.h * 128 + (lane & 7) * 16;
#pragma unroll
    for (int i = 0; i < 4; i++, at += step) put16(at, r.v[i], row + 4 * i < to.n_rows);
}
template <class T>
__device__ __forceinline__ void put_rows(const float (&o)[8][4], float (&sum)[2], uint32_t rows,
                                         const vnp_cuda_attention_args &p, const result &to) {
    results r;
    collect_rows<T>(o, sum, rows, p, to, &r);
    store_rows(p, to, r);
}

/* A softmax step over at most 64 keys of a warp's 16 rows: raw sums s become weights a, packed as
 * the left operand of the next product. top and sum are the rows' own (a thread's two); shrink is
 * what earlier sums must be multiplied by. Groups of 16 keys beyond the first n, and keys from
 * `left` on, count as absent. unit = scale * log2 e. ALIBI: slope in units of log2, dist the
 * distance of the thread's first row from its first key. */
template <class T, bool ALIBI, bool IS_FULL>
__device__ __forceinline__ void soften(float (&s)[8][4], uint32_t (&a)[4][4], float (&top)[2],
                                       float (&sum)[2], float (&shrink)[2], int n, int left,
                                       float unit, float slope, float dist) {
    int first = 2 * (static_cast<int>(threadIdx.x) & 3);
    float m[2] = {top[0], top[1]}, f = ALIBI ? 1.0f : unit;
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (!IS_FULL && c >= n) break;
        if (ALIBI) {
#pragma unroll
            for (int j = 2 * c; j < 2 * c + 2; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float d = dist + static_cast<float>(8 * (i >> 1) - 8 * j - (i & 1));
                    s[j][i] = fmaf(-slope, fabsf(d), s[j][i] * unit);
                }
        }
        if (!IS_FULL && 16 * c + 16 > left) {
#pragma unroll
            for (int j = 2 * c; j < 2 * c + 2; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (8 * j + first + (i & 1) >= left) s[j][i] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
            m[i] = fmaxf(m[i], fmaxf(fmaxf(s[2 * c][2 * i], s[2 * c][2 * i + 1]),
                                     fmaxf(s[2 * c + 1][2 * i], s[2 * c + 1][2 * i + 1])));
    }
    float l[2] = {0.0f, 0.0f}, base[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 1));
        m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 2));
        base[i] = -m[i] * f;
        shrink[i] =
            exp2_fast(__fadd_rn(base[i], __fmul_rn(top[i], f))); /* exactly 1 where the top stays */
        top[i] = m[i];
    }
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (!IS_FULL && c >= n) {
            a[c][0] = a[c][1] = a[c][2] = a[c][3] = 0;
            continue;
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float w[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[i] = exp2_fast(fmaf(s[2 * c + j][i], f, base[i >> 1]));
                l[i >> 1] += w[i];
            }
            a[c][2 * j] = T::pack2(w[0], w[1]);
            a[c][2 * j + 1] = T::pack2(w[2], w[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) sum[i] = fmaf(sum[i], shrink[i], l[i]);
}

/* Raw scores of a warp's 16 queries with N - 15 .. N keys to weights, packed as the left operand
 * of the next product; sum: of a thread's part of its two rows. bend, of ALIBI, is the slope in
 * units of raw scores, dist the distance of the thread's first row from its first key. */
template <int N, class T, bool ALIBI>
__device__ __forceinline__ void soften_all(float (&s)[N / 8][4], uint32_t (&a)[N / 16][4],
                                           float (&sum)[2], int len, float unit, float bend,
                                           float dist) {
    int left = len - 2 * (static_cast<int>(threadIdx.x) & 3);
    float m[2] = {-INFINITY, -INFINITY}, base[2];
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (ALIBI) {
                float d = dist + static_cast<float>(8 * (i >> 1) - 8 * j - (i & 1));
                s[j][i] = fmaf(-bend, fabsf(d), s[j][i]);
            }
            if (j >= N / 8 - 2 && 8 * j + (i & 1) >= left) s[j][i] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) m[i] = fmaxf(m[i], fmaxf(s[j][2 * i], s[j][2 * i + 1]));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 1));
        m[i] = fmaxf(m[i], __shfl_xor_sync(0xffffffffu, m[i], 2));
        base[i] = -m[i] * unit;
        sum[i] = 0.0f;
    }
    bool is_half = len <= N - 8; /* of the last 16 keys the first 8 are there */
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        float w[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (j < N / 8 - 1 || !is_half) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[i] = exp2_fast(fmaf(s[j][i], unit, base[i >> 1]));
                sum[i >> 1] += w[i];
            }
        }
        a[j / 2][2 * (j & 1)] = T::pack2(w[0], w[1]);
        a[j / 2][2 * (j & 1) + 1] = T::pack2(w[2], w[3]);
    }
}

/* ---- launch --------------------------------------------------------------------------------- */

template <class KERNEL> cudaError_t allow_bytes(KERNEL kernel, int bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
/* Blocks of a fixed grid: as many as are resident, or as there is work. */
inline unsigned n_blocks(const struct vnp_cuda_attention_args *p, int per_sm) {
    int64_t n_units = p->n_tiles * p->n_heads, n = static_cast<int64_t>(per_sm) * p->n_sms;
    return static_cast<unsigned>(n_units < n ? n_units : n);
}

} // namespace

#endif
