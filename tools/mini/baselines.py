#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Baselines on the very records that the program was judged on.

usage: baselines.py DATA_DIR EVAL_DIR RUNS_DIR LENGTH...
Trains logistic regression (square-rooted frequencies, standardised, ridge chosen as the best of
three on the judged records, which favours the baseline) on 4-mers, 6-mers and amino-acid pairs of
random 500-bp training windows and scores the records of make_eval.py whole. Prints AUROC over all
records and over those that the program scored (RUNS_DIR/LENGTH/contigs.tsv, made by
tools/mini/evaluate). Needs numpy."""
import csv
import os
import sys

import numpy as np

from pieces import Regions, auroc, frames_of, sample_windows

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
    """Amino-acid pairs of the open frames of the record's 500-bp windows."""
    out = []
    for at in range(0, max(len(codes) - 249, 1), 500):
        out += [aa[:-1].astype(np.int64) * 33 + aa[1:] for _, aa in frames_of(codes[at:at + 500]) if len(aa) > 1]
    return np.concatenate(out) if out else np.empty(0, np.int64)


KINDS = (("4-mers", lambda c: kmers(c, 4), 256), ("6-mers", lambda c: kmers(c, 6), 4096), ("amino-acid pairs", pairs, 33 * 33))


def matrix(pieces, f, dim):
    x = np.zeros((len(pieces), dim), np.float32)
    for i, codes in enumerate(pieces):
        v = f(codes)
        if len(v):
            x[i] = np.bincount(v, minlength=dim) / len(v)
    return np.sqrt(x, out=x)


def fit(x, y, decay, steps=200, lr=0.01):
    """Logistic regression by Adam on all rows at once."""
    n, dim = x.shape
    w, b = np.zeros(dim, np.float32), np.float32(0)
    m, v = np.zeros(dim + 1, np.float32), np.zeros(dim + 1, np.float32)
    for t in range(1, steps + 1):
        e = 1 / (1 + np.exp(-(x @ w + b))) - y
        g = np.append(x.T @ e / n + 2 * decay * w, e.mean()).astype(np.float32)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        move = lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
        w, b = (w - move[:-1]).astype(np.float32), np.float32(b - move[-1])
    return w, b


def judged(folder, runs, n):
    """[(is virus, codes, was scored)] of one length."""
    truth = {r["seq_id"]: r["class"] == "virus" for r in csv.DictReader(open(f"{folder}/eval_{n}.tsv"), delimiter="\t")}
    scored, path = None, f"{runs}/{n}/contigs.tsv"
    if os.path.exists(path):
        scored = {r["seq_id"] for r in csv.DictReader(open(path), delimiter="\t") if r["call"] != "unscored"}
    lines = open(f"{folder}/eval_{n}.fna").read().split("\n")
    return [(truth[h[1:]], CODE[np.frombuffer(s.encode(), np.uint8)], scored is None or h[1:] in scored)
            for h, s in zip(lines[0::2], lines[1::2])]


def main():
    data, folder, runs, lengths = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    reg = Regions(data)
    train = sample_windows(reg, reg.sampler(False), np.random.default_rng(3), 40000, lambda _: 500)
    y = np.array([w[0] for w in train], np.float32)
    sets = {n: judged(folder, runs, n) for n in lengths}
    print("kind\tlength\tall\tn\tscored\tn")
    for name, f, dim in KINDS:
        x = matrix([w[2] for w in train], f, dim)
        mean, std = x.mean(0), x.std(0) + 1e-6
        x -= mean
        x /= std
        test = {n: (matrix([p[1] for p in pieces], f, dim) - mean) / std for n, pieces in sets.items()}
        best = {n: [0, 0] for n in lengths}
        for decay in (1e-4, 1e-3, 1e-2):
            w, b = fit(x, y, decay)
            for n, pieces in sets.items():
                z, truth, ok = test[n] @ w + b, np.array([p[0] for p in pieces]), np.array([p[2] for p in pieces])
                best[n] = [max(best[n][0], auroc(z, truth)), max(best[n][1], auroc(z[ok], truth[ok]))]
        for n in lengths:
            ok = sum(p[2] for p in sets[n])
            print(f"{name}\t{n}\t{best[n][0]:.4f}\t{len(sets[n])}\t{best[n][1]:.4f}\t{ok}", flush=True)


if __name__ == "__main__":
    main()
