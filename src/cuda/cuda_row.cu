/* SPDX-License-Identifier: MIT
 * Kernels that go over rows once: embedding, layer norm, pooling, quantisation, gelu passes of the
 * library path, and the map from rows to sequences. All are bound by memory; each reads and writes
 * what its mathematics needs and nothing else. One warp owns one row, so every reduction has the
 * shape of the row alone. */
#include "cuda_math.cuh"
#include "cuda_room.h"

namespace {

constexpr int WARPS = 4, EMBED_ROWS = 16, EMBED_PARTS = 16, TOKEN_ROWS = 16;

__device__ __forceinline__ float4 load4(const float *p) {
    return __ldg(reinterpret_cast<const float4 *>(p));
}

/* Four values of a row as the operand type; `i` counts groups of four. */
template <int TYPE> __device__ __forceinline__ void store4(void *row, int i, float4 v, float inv) {
    if (TYPE == VNP_F32) {
        reinterpret_cast<float4 *>(row)[i] = v;
    } else if (TYPE == VNP_E4M3) {
        uint32_t lo = pack2_e4m3(v.x * inv, v.y * inv), hi = pack2_e4m3(v.z * inv, v.w * inv);
        reinterpret_cast<uint32_t *>(row)[i] = (lo & 0xffffu) | (hi << 16);
    } else if (TYPE == VNP_BF16) {
        reinterpret_cast<uint2 *>(row)[i] = make_uint2(pack2_bf16(v.x, v.y), pack2_bf16(v.z, v.w));
    } else {
        reinterpret_cast<uint2 *>(row)[i] = make_uint2(pack2_f16(v.x, v.y), pack2_f16(v.z, v.w));
    }
}

/* layernorm<V, TYPE>  y = (x - mean) / sqrt(var + eps) * gamma + beta, by row
 * Math      mean, then the mean of (x - mean)^2, both FP32 over registers (two passes, one read)
 * Shapes    x [N][D] f32; out_f32 [N][D] or NULL (may be x); out [N][D] TYPE or NULL; D % 4 == 0,
 *           D <= 128 V; E4M3: scale [N] = max|y| / 448, norm [N] = |y|
 * Rounding  y in FP32, rounded once to TYPE
 * Traffic   4*N*D read, 2*N*D written (FP16; E4M3 half of that): D = 2560, N = 16896: 260 MB
 * Bound     86 us at 3.0 TB/s; measured: docs/kernels/layernorm-cuda.md
 * Launch    1 warp a row, 4 warps a block, no smem, 4 V + about 24 registers; the last rows first:
 *           those the product before has just written are in the L2, and the first rows, written
 *           last, are what the product after begins with
 * Order     fixed butterfly over the row: bit-identical for any N and any neighbours
 * Ref       vnp_ref layernorm     Tried  -
 */
template <int V, int TYPE> __global__ void layernorm(const __grid_constant__ vnp_cuda_norm_args p) {
    int64_t row = p.n_rows - 1 - static_cast<int64_t>(blockIdx.x) * WARPS - threadIdx.y;
    if (row < 0) return;
    int lane = static_cast<int>(threadIdx.x), n4 = static_cast<int>(p.n_cols) / 4;
    const float4 *x = reinterpret_cast<const float4 *>(p.x + row * p.ld_x);
    float4 v[V];
    float sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int i = 0; i < V; i++) {
        v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i * 32 + lane < n4) v[i] = x[i * 32 + lane];
    }
#pragma unroll
    for (int i = 0; i < V; i++) sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    float n = static_cast<float>(p.n_cols), mean = warp_sum(sum) / n;
#pragma unroll
    for (int i = 0; i < V; i++) {
        if (i * 32 + lane >= n4) continue;
        float a = v[i].x - mean, b = v[i].y - mean, c = v[i].z - mean, d = v[i].w - mean;
        v[i] = make_float4(a, b, c, d);
        square += fmaf(a, a, b * b) + fmaf(c, c, d * d);
    }
    float inv = 1.0f / sqrtf(warp_sum(square) / n + p.eps), top = 0.0f, length = 0.0f, code = 1.0f;
#pragma unroll
    for (int i = 0; i < V; i++) {
        int at = i * 32 + lane;
        if (at >= n4) continue;
        float4 g = load4(p.gamma + 4 * at), b = load4(p.beta + 4 * at), y = v[i];
        y.x = fmaf(y.x * inv, g.x, b.x);
        y.y = fmaf(y.y * inv, g.y, b.y);
        y.z = fmaf(y.z * inv, g.z, b.z);
        y.w = fmaf(y.w * inv, g.w, b.w);
        v[i] = y;
        if (TYPE == VNP_E4M3) {
            top = fmaxf(fmaxf(fmaxf(fabsf(y.x), fabsf(y.y)), fmaxf(fabsf(y.z), fabsf(y.w))), top);
            length += fmaf(y.x, y.x, y.y * y.y) + fmaf(y.z, y.z, y.w * y.w);
        }
    }
    if (TYPE == VNP_E4M3) {
        top = warp_max(top);
        length = warp_sum(length);
        float s = top > 0.0f ? top / E4M3_MAX : 1.0f;
        code = 1.0f / s;
        if (lane == 0) {
            p.scale[row] = s;
            p.norm[row] = sqrtf(length);
        }
    }
    constexpr int BYTES = TYPE == VNP_F32 ? 4 : TYPE == VNP_E4M3 ? 1 : 2;
    char *out = static_cast<char *>(p.out) + row * p.ld_out * BYTES;
#pragma unroll
    for (int i = 0; i < V; i++) {
        int at = i * 32 + lane;
        if (at >= n4) continue;
        if (p.out_f32) reinterpret_cast<float4 *>(p.out_f32 + row * p.ld_f32)[at] = v[i];
        if (p.out) store4<TYPE>(out, at, v[i], code);
    }
}

template <int V>
cudaError_t layernorm_run(const struct vnp_cuda_norm_args *p, cudaStream_t stream) {
    dim3 grid(static_cast<unsigned>((p->n_rows + WARPS - 1) / WARPS)), block(32, WARPS);
    enum vnp_dtype type = p->out ? p->out_dtype : VNP_F32;
    if (type == VNP_F16)
        layernorm<V, VNP_F16><<<grid, block, 0, stream>>>(*p);
    else if (type == VNP_BF16)
        layernorm<V, VNP_BF16><<<grid, block, 0, stream>>>(*p);
    else if (type == VNP_E4M3)
        layernorm<V, VNP_E4M3><<<grid, block, 0, stream>>>(*p);
    else
        layernorm<V, VNP_F32><<<grid, block, 0, stream>>>(*p);
    return cudaGetLastError();
}

/* embed  x[n] = table[tokens[n]] (+ type_row), ESM-2: times 0.88 / (1 - m/n), <mask> rows zero
 * Math      m and n counted per sequence, by every block of it
 * Shapes    table [V][D] f32, out [N][D] f32, D % 4 == 0
 * Rounding  FP32
 * Traffic   4*N*D written, the table from L2
 * Bound     58 us at 3.0 TB/s for N = 16896, D = 2560; once a pack
 * Launch    16 blocks of 256 threads a sequence, each every 16th group of 16 rows
 * Order     integer count, then elementwise
 * Ref       vnp_ref embed     Tried  a block a sequence: 700 us for 55 sequences of a proteome
 */
__global__ void embed(const __grid_constant__ vnp_cuda_embed_args p) {
    int begin = p.cu_seqlens[blockIdx.x], end = p.cu_seqlens[blockIdx.x + 1];
    int n4 = static_cast<int>(p.n_cols) / 4, n_masks = 0;
    int first = begin + static_cast<int>(blockIdx.y) * EMBED_ROWS;
    float scale = 1.0f;
    if (first >= end) return;
    if (p.has_token_dropout) {
        for (int i = begin; i < end; i += static_cast<int>(blockDim.x)) {
            int at = i + static_cast<int>(threadIdx.x);
            n_masks += __syncthreads_count(at < end && p.tokens[at] == p.mask_id);
        }
        scale = 0.88f / (1.0f - static_cast<float>(n_masks) / static_cast<float>(end - begin));
    }
    for (int row = first, k = 1; row < end;
         row += k % EMBED_ROWS ? 1 : (EMBED_PARTS - 1) * EMBED_ROWS + 1, k++) {
        int token = p.tokens[row];
        bool is_there = token < p.vocab && !(p.has_token_dropout && token == p.mask_id);
        for (int i = static_cast<int>(threadIdx.x); i < n4; i += static_cast<int>(blockDim.x)) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (is_there) v = load4(p.table + token * p.n_cols + 4 * i);
            if (p.has_token_dropout)
                v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
            if (p.type_row) {
                float4 t = load4(p.type_row + 4 * i);
                v = make_float4(v.x + t.x, v.y + t.y, v.z + t.z, v.w + t.w);
            }
            *reinterpret_cast<float4 *>(p.out + row * p.ld + 4 * i) = v;
        }
    }
}

__global__ void row_map(const int32_t *cu_seqlens, int32_t *row_start, int32_t *row_len) {
    int begin = cu_seqlens[blockIdx.x], end = cu_seqlens[blockIdx.x + 1];
    for (int i = begin + static_cast<int>(threadIdx.x); i < end;
         i += static_cast<int>(blockDim.x)) {
        row_start[i] = begin;
        row_len[i] = end - begin;
    }
}

/* Eight columns of a row from column `col` on. */
__device__ __forceinline__ void load8(const float *row, int col, float (&v)[8]) {
    float4 lo = load4(row + col), hi = load4(row + col + 4);
    v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w;
    v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}
/* v: columns col .. col + 7 of a head of 2 half columns at position pos, rotated as the QKV product
 * does it. */
__device__ __forceinline__ void turn8_of(const float2 *rotary, const float *row, int half, int pos,
                                         int col, float (&v)[8]) {
    int in_head = col & (2 * half - 1), eights = half / 8, u = (in_head & (half - 1)) / 8;
    bool is_low = in_head < half;
    const float4 *at =
        reinterpret_cast<const float4 *>(rotary + static_cast<int64_t>(pos) * half) + u;
    float other[8];
    load8(row, is_low ? col + half : col - half, other);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float4 t = __ldg(at + e * eights);
        v[2 * e] = turned(v[2 * e], is_low ? -other[2 * e] : other[2 * e], t.x, t.y);
        v[2 * e + 1] =
            turned(v[2 * e + 1], is_low ? -other[2 * e + 1] : other[2 * e + 1], t.z, t.w);
    }
}
/* The largest of a warp's values so far, to the sequence that begins at row `start`. */
__device__ __forceinline__ void note_top(float *v_top, int start, float top) {
    note_warp_top(v_top, start, exceeds_f16(top) ? INFINITY : top, static_cast<int>(threadIdx.x));
}

/* of_tokens<TYPE>  out[n] = table[tokens[n]], q and k rotated by heads
 * Math      (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) as in the QKV product, whose bits these are;
 *           with v_top each sequence's largest |v|, what FP16 cannot hold as infinity
 * Shapes    table [V][3D] f32, rows padded to 8 columns; out [N][3D] TYPE; heads of 16, 32, 64
 *           where they are rotated
 * Rounding  rotated in FP32, rounded once to TYPE
 * Traffic   6*N*D written (16 bits): D = 2560, N = 16896: 260 MB; a block's 256 columns of the
 *           table (34 kB) and the angles from the L1
 * Bound     87 us at 3.0 TB/s; once a pack, where the product takes 1,000
 * Launch    256 columns x 128 rows a block, 8 warps, 16 rows a warp one after another
 * Order     elementwise, and a maximum
 * Ref       linear_qkv     Tried  -
 */
template <int TYPE> __global__ void of_tokens(const __grid_constant__ vnp_cuda_of_tokens_args p) {
    int lane = static_cast<int>(threadIdx.x), col = static_cast<int>(blockIdx.x) * 256 + 8 * lane;
    int n_cols = static_cast<int>(p.n_cols), half = static_cast<int>(p.head_dim) / 2;
    int64_t first = (static_cast<int64_t>(blockIdx.y) * 8 + threadIdx.y) * TOKEN_ROWS;
    int64_t end = first + TOKEN_ROWS < p.n_rows ? first + TOKEN_ROWS : p.n_rows;
    bool is_there = col < n_cols, is_value = col >= n_cols / 3 * 2;
    int start = -1;
    float top = 0.0f;
    for (int64_t n = first; n < end; n++) {
        int token = min(static_cast<int>(p.tokens[n]), static_cast<int>(p.n_vocab) - 1);
        int begin = p.row_start[n];
        const float *row = p.table + token * p.ld_table;
        float v[8] = {};
        if (is_there) load8(row, col, v);
        if (is_there && p.rotary && !is_value)
            turn8_of(p.rotary, row, half, static_cast<int>(n) - begin, col, v);
        if (p.v_top) {
            if (begin != start && start >= 0) note_top(p.v_top, start, top);
            if (begin != start) top = 0.0f;
            start = begin;
#pragma unroll
            for (int k = 0; is_value && k < 8; k++)
                if (col + k < n_cols) top = fmaxf(top, fabsf(v[k]));
        }
        char *to = static_cast<char *>(p.out) + n * p.ld_out * (TYPE == VNP_F32 ? 4 : 2);
        float4 lo = make_float4(v[0], v[1], v[2], v[3]), hi = make_float4(v[4], v[5], v[6], v[7]);
        if (col + 4 <= n_cols) store4<TYPE>(to, col / 4, lo, 1.0f);
        if (col + 8 <= n_cols) store4<TYPE>(to, col / 4 + 1, hi, 1.0f);
    }
    if (p.v_top && start >= 0) note_top(p.v_top, start, top);
}

/* pool  out[s] = mean of rows cu[s]+skip_first .. (at most max_count), or row cu[s] (CLS)
 * Math      FP32 sums: 8 row classes (row mod 8), each in order in pieces of 16, then the classes
 * Shapes    x [N][D] f32 -> out [S][D] f32
 * Rounding  FP32
 * Traffic   4*N*D read: 58 us at 3.0 TB/s for N = 16896, D = 2560; once a pack
 * Launch    32 columns x 8 row classes a block, grid (ceil(D/32), S)
 * Order     fixed by the sequence: bit-identical for any neighbours
 * Ref       vnp_ref pool     Tried  -
 */
__global__ void pool(const __grid_constant__ vnp_cuda_pool_args p) {
    __shared__ float part[8][33];
    int s = static_cast<int>(blockIdx.y), col = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
    int64_t begin = p.cu_seqlens[s] + p.skip_first, end = p.cu_seqlens[s + 1] - p.skip_last;
    if (p.is_cls) {
        begin = p.cu_seqlens[s];
        end = begin + 1;
    } else if (p.max_count > 0 && end - begin > p.max_count) {
        end = begin + p.max_count;
    }
    float sum = 0.0f, piece = 0.0f;
    int n = 0;
    if (col < p.n_cols)
        for (int64_t i = begin + threadIdx.y; i < end; i += 8) {
            piece += p.x[i * p.ld_x + col];
            if (++n % 16 == 0) {
                sum += piece;
                piece = 0.0f;
            }
        }
    part[threadIdx.y][threadIdx.x] = sum + piece;
    __syncthreads();
    if (threadIdx.y != 0 || col >= p.n_cols) return;
    float total = 0.0f;
    for (int i = 0; i < 8; i++) total += part[i][threadIdx.x];
    float mean = end > begin ? total / static_cast<float>(end - begin) : 0.0f;
    p.out[s * p.ld_out + col] = mean;
    if (!isfinite(mean)) atomicAdd(p.n_bad, 1);
}

template <class T> __device__ __forceinline__ float4 widen4(uint2 v) {
    float2 a = T::unpack2(v.x), b = T::unpack2(v.y);
    return make_float4(a.x, a.y, b.x, b.y);
}

/* quantise  out = E4M3(x / s), s = max|x| / 448 by row
 * Math      two passes over the row, the second from L1
 * Shapes    x [N][C] FP16 -> out [N][C] E4M3, scale [N]; C % 4 == 0
 * Rounding  once
 * Traffic   3*N*C bytes: 16896 x 2560: 130 MB
 * Bound     43 us at 3.0 TB/s; measured: docs/kernels/attention-cuda.md
 * Launch    1 warp a row, 4 warps a block
 * Order     max: order-free
 * Ref       vnp_ref operand rounding     Tried  -
 */
__global__ void quantise(const char *x, int64_t n_rows, int n_cols, int64_t ld_x, char *out,
                         int64_t ld_out, float *scale) {
    int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.y;
    if (row >= n_rows) return;
    const uint2 *in = reinterpret_cast<const uint2 *>(x + row * ld_x * 2);
    float top = 0.0f;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < n_cols / 4; i += 32) {
        float4 v = widen4<tag_f16>(in[i]);
        top = fmaxf(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))), top);
    }
    top = warp_max(top);
    float s = top > 0.0f ? top / E4M3_MAX : 1.0f, inv = 1.0f / s;
    if (threadIdx.x == 0) scale[row] = s;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < n_cols / 4; i += 32)
        store4<VNP_E4M3>(out + row * ld_out, i, widen4<tag_f16>(in[i]), inv);
}

/* finish_rows  the epilogue of the library path: f32 sums with bias -> out, in the type of out
 * Math elementwise, rounded once; Traffic 6 bytes an element; Order elementwise. */
template <class T, bool IS_F32>
__global__ void finish_rows(const float *y, int64_t ld_y, int epi, int64_t n_rows, int64_t n_cols,
                            char *out, int64_t ld_out) {
    int64_t n2 = n_cols / 2 + n_cols % 2, n = n_rows * n2;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        int64_t row = i / n2, col = i % n2 * 2;
        bool is_gated = epi == VNP_CUDA_EPI_GEGLU, has_second = col + 1 < n_cols;
        const float *at = y + row * ld_y + (is_gated ? col / 8 * 16 + col % 8 : col);
        float v[2] = {at[0], has_second ? at[1] : 0.0f};
        for (int e = 0; e < 2; e++) {
            if (epi == VNP_CUDA_EPI_GELU) v[e] = gelu_fast(v[e]);
            if (is_gated) v[e] = gelu_fast(v[e]) * at[8 + e];
        }
        if (IS_F32) {
            float *to = reinterpret_cast<float *>(out) + row * ld_out + col;
            to[0] = v[0];
            if (has_second) to[1] = v[1];
        } else {
            *reinterpret_cast<uint32_t *>(out + (row * ld_out + col) * 2) = T::pack2(v[0], v[1]);
        }
    }
}

/* Lengths of dequantised E4M3 rows, where no layer norm has written them. */
__global__ void row_lengths(const uint8_t *x, const float *scale, int64_t n_rows, int64_t n_cols,
                            int64_t ld, float *out) {
    int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.y;
    if (row >= n_rows) return;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < n_cols; i += 32) {
        float v = e4m3_to_f32(x[row * ld + i]);
        sum = fmaf(v, v, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) out[row] = sqrtf(sum) * scale[row];
}

unsigned rows_grid(int64_t n_rows) {
    return static_cast<unsigned>((n_rows + WARPS - 1) / WARPS);
}

} // namespace

extern "C" cudaError_t vnp_cuda_layernorm(const struct vnp_cuda_norm_args *p, cudaStream_t stream) {
    int64_t v = (p->n_cols + 127) / 128;
    if (p->n_rows == 0) return cudaSuccess;
    if (v <= 1) return layernorm_run<1>(p, stream);
    if (v <= 2) return layernorm_run<2>(p, stream);
    if (v <= 4) return layernorm_run<4>(p, stream);
    if (v <= 6) return layernorm_run<6>(p, stream);
    if (v <= 10) return layernorm_run<10>(p, stream);
    if (v <= 20) return layernorm_run<20>(p, stream);
    if (v <= 40) return layernorm_run<40>(p, stream);
    return cudaErrorNotSupported;
}

extern "C" cudaError_t vnp_cuda_embed(const struct vnp_cuda_embed_args *p, cudaStream_t stream) {
    if (p->n_seqs == 0) return cudaSuccess;
    dim3 grid(static_cast<unsigned>(p->n_seqs), EMBED_PARTS);
    embed<<<grid, 256, 0, stream>>>(*p);
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_of_tokens(const struct vnp_cuda_of_tokens_args *p,
                                          cudaStream_t stream) {
    if (p->n_rows == 0) return cudaSuccess;
    dim3 grid(static_cast<unsigned>((p->n_cols + 255) / 256),
              static_cast<unsigned>((p->n_rows + 8 * TOKEN_ROWS - 1) / (8 * TOKEN_ROWS)));
    dim3 block(32, 8);
    if (p->dtype == VNP_F16)
        of_tokens<VNP_F16><<<grid, block, 0, stream>>>(*p);
    else if (p->dtype == VNP_BF16)
        of_tokens<VNP_BF16><<<grid, block, 0, stream>>>(*p);
    else
        of_tokens<VNP_F32><<<grid, block, 0, stream>>>(*p);
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_row_map(const int32_t *cu_seqlens, int64_t n_seqs,
                                        int32_t *row_start, int32_t *row_len, cudaStream_t stream) {
    if (n_seqs == 0) return cudaSuccess;
    row_map<<<static_cast<unsigned>(n_seqs), 128, 0, stream>>>(cu_seqlens, row_start, row_len);
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_pool(const struct vnp_cuda_pool_args *p, cudaStream_t stream) {
    for (int64_t done = 0; done < p->n_seqs; done += 65535) {
        struct vnp_cuda_pool_args part = *p;
        part.cu_seqlens += done;
        part.out += done * p->ld_out;
        int64_t n = p->n_seqs - done < 65535 ? p->n_seqs - done : 65535;
        dim3 grid(static_cast<unsigned>((p->n_cols + 31) / 32), static_cast<unsigned>(n));
        pool<<<grid, dim3(32, 8), 0, stream>>>(part);
    }
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_quantise(const void *x, int64_t n_rows, int64_t n_cols,
                                         int64_t ld_x, void *out, int64_t ld_out, float *scale,
                                         cudaStream_t stream) {
    if (n_rows == 0) return cudaSuccess;
    quantise<<<rows_grid(n_rows), dim3(32, WARPS), 0, stream>>>(
        static_cast<const char *>(x), n_rows, static_cast<int>(n_cols), ld_x,
        static_cast<char *>(out), ld_out, scale);
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_finish(const float *y, int64_t ld_y,
                                       enum vnp_cuda_gemm_epilogue epi, int64_t n_rows,
                                       int64_t n_cols, void *out, enum vnp_dtype dtype,
                                       int64_t ld_out, cudaStream_t stream) {
    if (n_rows == 0) return cudaSuccess;
    char *to = static_cast<char *>(out);
    if (dtype == VNP_F16)
        finish_rows<tag_f16, false>
            <<<2048, 256, 0, stream>>>(y, ld_y, epi, n_rows, n_cols, to, ld_out);
    else if (dtype == VNP_BF16)
        finish_rows<tag_bf16, false>
            <<<2048, 256, 0, stream>>>(y, ld_y, epi, n_rows, n_cols, to, ld_out);
    else if (dtype == VNP_F32)
        finish_rows<tag_f16, true>
            <<<2048, 256, 0, stream>>>(y, ld_y, epi, n_rows, n_cols, to, ld_out);
    else
        return cudaErrorNotSupported;
    return cudaGetLastError();
}

extern "C" cudaError_t vnp_cuda_row_lengths(const void *x, const float *scale, int64_t n_rows,
                                            int64_t n_cols, int64_t ld, float *out,
                                            cudaStream_t stream) {
    if (n_rows == 0) return cudaSuccess;
    row_lengths<<<rows_grid(n_rows), dim3(32, WARPS), 0, stream>>>(static_cast<const uint8_t *>(x),
                                                                   scale, n_rows, n_cols, ld, out);
    return cudaGetLastError();
}
