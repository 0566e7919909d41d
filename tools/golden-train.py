#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden of the classifier's training: one epoch by PyTorch from the same start.

usage: golden-train.py OUT_DIR      (development only; needs numpy and torch)
Draws data, initial weights, order and dropout masks with the hash of src/model/train.c, trains the
published module (Linear, BatchNorm1d, ReLU, Dropout, Linear) with torch's own autograd and
optimisers, and writes train_{sgd,adamw}.npy: float32 [w1 b1 gamma beta mean var w2 b2 loss]."""
import sys

import numpy as np
import torch

M = (1 << 64) - 1
N, N_IN, H, BATCH, SEED, DROPOUT = 150, 37, 40, 32, 42, 0.5
PAD = (H + 31) // 32 * 32


def mix(x):
    x = (x + 0x9e3779b97f4a7c15) & M
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & M
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & M
    return x ^ (x >> 31)


def uniform(key, i):
    return (mix(key ^ mix(i)) >> 11) * 2.0 ** -53


def key(purpose, epoch):
    return mix(mix(SEED ^ (purpose << 56)) ^ epoch)


def draw(k, n):
    return np.array([uniform(k, i) for i in range(n)])


def train(adamw):
    labels = (draw(mix(2), N) < 0.4).astype(np.int64)
    z = (2 * draw(mix(1), N * N_IN) - 1).reshape(N, N_IN) + 0.3 * labels[:, None] * np.sin(np.arange(N_IN))
    z = torch.tensor(z.astype(np.float32))
    y = torch.tensor(labels)
    hidden, bn, out = torch.nn.Linear(N_IN, H), torch.nn.BatchNorm1d(H), torch.nn.Linear(H, 2)
    with torch.no_grad():
        a1, a2 = np.sqrt(6 / (N_IN + H)), np.sqrt(6 / (H + 2))
        hidden.weight.copy_(torch.tensor(a1 * (2 * draw(key(1, 0), H * N_IN) - 1)).float().view(H, N_IN))
        out.weight.copy_(torch.tensor(a2 * (2 * draw(key(2, 0), 2 * H) - 1)).float().view(2, H))
        hidden.bias.zero_()
        out.bias.zero_()
    hidden.bias.requires_grad_(False)  # its gradient is zero but for rounding, which Adam would blow up
    params = [p for m in (hidden, bn, out) for p in m.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01) if adamw else torch.optim.SGD(params, lr=2e-2, momentum=0.9)
    order = list(range(N))
    for i in range(N - 1, 0, -1):
        j = int(uniform(key(3, 0), i) * (i + 1))
        order[i], order[j] = order[j], order[i]
    loss_sum = 0.0
    for at in range(0, N, BATCH):
        idx = order[at:at + BATCH]
        mask = np.array([[0.0 if uniform(key(4, 0), s * PAD + u) < DROPOUT else 1 / (1 - DROPOUT) for u in range(H)] for s in idx])
        h = torch.relu(bn(hidden(z[idx]))) * torch.tensor(mask).float()
        loss = torch.nn.functional.cross_entropy(out(h), y[idx], weight=torch.tensor([1.0, 1.5]))
        opt.zero_grad()
        loss.backward()
        opt.step()
        loss_sum += loss.item() * len(idx)
    return np.concatenate([t.detach().numpy().ravel() for t in (hidden.weight, hidden.bias, bn.weight, bn.bias, bn.running_mean,
                                                               bn.running_var, out.weight, out.bias)]
                          + [np.array([loss_sum / N])]).astype(np.float32)


for name, adamw in (("sgd", False), ("adamw", True)):
    np.save(f"{sys.argv[1]}/train_{name}.npy", train(adamw))
