#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Baselines on the very pieces that the program was judged on.

usage: baselines.py DATA_DIR EVAL_DIR LENGTH...
Trains logistic regression (square-rooted frequencies, standardised, ridge chosen as the best of
three on the judged pieces, which favours the baseline) on 4-mers, 6-mers and amino-acid pairs of
random 500-bp training windows, scores the pieces of make_eval.py and prints AUROC: for lengths up
to 500 on the pieces that have an open frame, above on all pieces."""
import csv
import sys

import numpy as np
import torch

import train as t

CODE = np.full(256, 0, np.uint8)
for _b, _c in zip(b"ACGT", range(4)):
    CODE[_b] = _c


def kmers(codes, k):
    out = []
    for s in (codes, 3 - codes[::-1]):
        v = np.zeros(len(s) - k + 1, np.int64)
        for i in range(k):
            v = v * 4 + s[i:len(s) - k + 1 + i]
        out.append(v)
    return np.concatenate(out)


def pairs(codes):
    """Amino-acid pairs of the open frames of the piece's 500-bp windows."""
    out = []
    for at in range(0, max(len(codes) - 249, 1), 500):
        out += [aa[:-1].astype(np.int64) * 33 + aa[1:] for _, aa in t.frames_of(codes[at:at + 500]) if len(aa) > 1]
    return np.concatenate(out) if out else np.empty(0, np.int64)


KINDS = (("4-mers", lambda c: kmers(c, 4), 256), ("6-mers", lambda c: kmers(c, 6), 4096), ("amino-acid pairs", pairs, 33 * 33))


def matrix(pieces, f, dim):
    x = np.zeros((len(pieces), dim), np.float32)
    for i, codes in enumerate(pieces):
        v = f(codes)
        if len(v):
            x[i] = np.bincount(v, minlength=dim) / len(v)
    return torch.tensor(x).sqrt()


def main():
    data, folder, lengths = sys.argv[1], sys.argv[2], sys.argv[3:]
    reg = t.Regions(data)
    train = t.sample_windows(reg, reg.sampler(False), np.random.default_rng(3), 40000, lambda _: 500)
    y = torch.tensor([float(w[0]) for w in train])
    judged = {}
    for n in lengths:
        truth = {r["seq_id"]: r["class"] == "virus" for r in csv.DictReader(open(f"{folder}/eval_{n}.tsv"), delimiter="\t")}
        lines = open(f"{folder}/eval_{n}.fna").read().split("\n")
        pieces = [(truth[h[1:]], CODE[np.frombuffer(s.encode(), np.uint8)]) for h, s in zip(lines[0::2], lines[1::2])]
        judged[n] = [p for p in pieces if int(n) > 500 or t.frames_of(p[1])]
    for name, f, dim in KINDS:
        x = matrix([w[2] for w in train], f, dim)
        mean, std = x.mean(0), x.std(0) + 1e-6
        x = (x - mean) / std
        best = {}
        for decay in (1e-4, 1e-3, 1e-2):
            w, b = torch.zeros(dim, requires_grad=True), torch.zeros(1, requires_grad=True)
            opt = torch.optim.Adam([w, b], 0.01)
            for _ in range(200):
                opt.zero_grad()
                (torch.nn.functional.binary_cross_entropy_with_logits(x @ w + b, y) + decay * (w * w).sum()).backward()
                opt.step()
            for n, pieces in judged.items():
                z = (matrix([p[1] for p in pieces], f, dim) - mean) / std
                a = t.auroc((z @ w + b).detach().numpy(), np.array([p[0] for p in pieces]))
                best[n] = max(best.get(n, 0), a)
        print(name, " ".join(f"{n}: {a:.4f}" for n, a in best.items()), flush=True)


if __name__ == "__main__":
    main()
