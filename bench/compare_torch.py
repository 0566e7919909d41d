#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's CPU build and bench_encoder on the same layers and sequences, in turns.

usage: compare_torch.py BENCH_ENCODER SHAPE PRECISION LENGTH|mixed [TOKENS [ROUNDS [CLOCK]]]

PyTorch does its best: fused QKV, exact GELU, scaled_dot_product_attention, inference mode, BF16
weights and residual for bf16; batches sorted by length and padded to their longest, at most 2,048
padded tokens each; a mask only where lengths differ. CLOCK cpu (with OMP_NUM_THREADS=1) counts CPU
time of either process, for machines that are not idle; wall otherwise."""
import math
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

SHAPES = {"150m": (640, 20, 2560, 4, False), "650m": (1280, 20, 5120, 2, False),
          "3b": (2560, 40, 10240, 1, False), "dnabert": (768, 12, 3072, 4, True)}


def sequence_lengths(text, n_tokens):
    """The same as bench_encoder's."""
    state, out = 7, []
    while True:
        if text == "mixed":
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            n = 30 + int((state >> 11) * 2.0**-53 * 971)
        else:
            n = int(text)
        if sum(out) + n > n_tokens and out:
            return out
        out.append(n)


def batches(lengths, budget=2048):
    out, cur = [], []
    for n in sorted(lengths):
        if cur and n * (len(cur) + 1) > budget:
            out.append(cur)
            cur = []
        cur.append(n)
    return out + [cur]


class Layer:
    def __init__(self, d, heads, ffn, gated, dtype):
        r = lambda *s: (torch.rand(*s) * 2 - 1).mul_(1 / math.sqrt(s[-1])).to(dtype)
        self.d, self.h, self.gated = d, heads, gated
        self.qkv, self.qkv_b, self.o, self.o_b = r(3 * d, d), r(3 * d), r(d, d), r(d)
        self.up, self.up_b = r(2 * ffn if gated else ffn, d), None if gated else r(ffn)
        self.down, self.down_b, self.g, self.b = r(d, ffn), r(d), r(d), r(d)

    def norm(self, x):
        return F.layer_norm(x, (self.d,), self.g, self.b, 1e-5)

    def attention(self, h, cos, sin, mask):
        n_batch, n, _ = h.shape
        q, k, v = F.linear(h, self.qkv, self.qkv_b).view(n_batch, n, 3, self.h, -1).permute(2, 0, 3, 1, 4)
        if cos is not None:
            turn = lambda x: x * cos + torch.cat((-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]), -1) * sin
            q, k = turn(q), turn(k)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(o.transpose(1, 2).reshape(n_batch, n, self.d), self.o, self.o_b)

    def __call__(self, x, cos, sin, mask):
        if self.gated:
            x = self.norm(x + self.attention(x, cos, sin, mask))
            gate, value = F.linear(x, self.up).chunk(2, -1)
            return self.norm(x + F.linear(F.gelu(gate) * value, self.down, self.down_b))
        x = x + self.attention(self.norm(x), cos, sin, mask)
        return x + F.linear(F.gelu(F.linear(self.norm(x), self.up, self.up_b)), self.down, self.down_b)


def run_torch(shape, layer, table, groups, dtype):
    d, heads, _, n_layers, gated = shape
    for lengths in groups:
        n = max(lengths)
        x = F.embedding(torch.randint(4, 24, (len(lengths), n)), table)
        cos = sin = mask = None
        keep = torch.arange(n)[None] < torch.tensor(lengths)[:, None]
        if gated:
            at = torch.arange(n)
            mask = (torch.linspace(0.5, 0.01, heads)[:, None, None] * -(at[:, None] - at[None]).abs())[None]
            mask = mask.masked_fill(~keep[:, None, None], -math.inf).to(dtype)
        else:
            angle = torch.outer(torch.arange(n).float(), 10000 ** (-torch.arange(0, d // heads, 2) / (d // heads)))
            cos, sin = torch.cat((angle, angle), -1).cos().to(dtype), torch.cat((angle, angle), -1).sin().to(dtype)
            if min(lengths) < n:
                mask = keep[:, None, None]
        for _ in range(n_layers):
            x = layer(x, cos, sin, mask)
        x = layer.norm(x)
        keep = keep[..., None].to(dtype)
        (x * keep).sum(1).float() / keep.sum(1)


def main():
    bench, name, precision, text = sys.argv[1:5]
    n_tokens = sys.argv[5] if len(sys.argv) > 5 else "2048"
    rounds = int(sys.argv[6]) if len(sys.argv) > 6 else 5
    clock = sys.argv[7] if len(sys.argv) > 7 else "wall"
    now = time.process_time if clock == "cpu" else time.perf_counter
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    shape = SHAPES[name]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    groups = batches(sequence_lengths(text, int(n_tokens)))
    env = dict(os.environ, VNP_BENCH_CLOCK=clock)
    theirs, ours = [], []
    with torch.inference_mode():
        layer = Layer(*shape[:3], shape[4], dtype)
        table = torch.rand(33, shape[0]).to(dtype)
        run_torch(shape, layer, table, groups, dtype)
        for _ in range(rounds):
            start = now()
            run_torch(shape, layer, table, groups, dtype)
            theirs.append((now() - start) * 1e3)
            out = subprocess.run([bench, name, precision, text, n_tokens, "0"], env=env, check=True,
                                 capture_output=True, text=True).stdout.split("\n")
            ours.append(float(out[2].split()[5]))
    ratios = [t / o for t, o in zip(theirs, ours)]
    print(f"{name:8s} {precision:5s} {text:>6s} {len(groups):3d} batches  torch {statistics.median(theirs):9.2f} ms  "
          f"ours {statistics.median(ours):9.2f} ms  factor {statistics.median(ratios):5.2f} (of minima {min(theirs) / min(ours):5.2f})", flush=True)


if __name__ == "__main__":
    main()
