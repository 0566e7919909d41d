#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains the bundled model end to end on one GPU (or, slowly, a CPU).

usage: train.py DATA_DIR OUT_DIR [--seconds N] [--batch N] [--tiny]

DATA_DIR is what build_data.py wrote. An ESM-2-shaped protein encoder, a DNABERT-S-shaped DNA encoder
and the project's classifier see the open frames of random windows (150-500 bp) of the training
regions; first masked tokens (a tenth of the time), then labels. Every --eval steps windows of the held-out
families and genera are scored; the weights kept are a running average (EMA) of the last phase.
Writes OUT_DIR/{esm2,dnabert}/{config.json,model.safetensors}, dnabert/tokenizer.json,
classifier.safetensors (all FP16 but the classifier), log.jsonl, baselines.json.
Frames, strands and the drop rules are the program's own (spec: six frames, stop-free, no empty
protein). Seeds are fixed; the data order does not depend on timing, the number of steps does."""
import argparse
import json
import math
import multiprocessing as mp
import os
import threading
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from pieces import GROUPS, Regions, auroc, frames_of, sample_windows


def pick_length(rng):
    u = rng.random()
    return 500 if u < .6 else 300 if u < .85 else int(rng.integers(150, 501))


_reg = _tok = _sampler = None


def worker_init(folder):
    global _reg, _tok, _sampler
    from tokenizers import Tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _reg = Regions(folder)
    _tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    _sampler = _reg.sampler(False)


def make_block(job):
    """One block of training frames as flat arrays; job = (seed, number of windows)."""
    seed, n = job
    rng = np.random.default_rng(seed)
    dna, aa, virus, label = [], [], [], []
    for viral, r, codes in sample_windows(_reg, _sampler, rng, n, pick_length, 0.03):
        fr = frames_of(codes)
        if len(fr) > 2:  # short windows have many frames: at most two of each
            fr = [fr[i] for i in rng.choice(len(fr), 2, replace=False)]
        for nt, prot in fr:
            dna.append(nt)
            aa.append(np.concatenate(([0], prot, [2])).astype(np.uint8))
            virus.append(viral)
            label.append(_reg.label[r])
    dna = [np.array(e.ids, np.uint16) for e in _tok.encode_batch(dna)]
    return pad(dna, 3, np.uint16), pad(aa, 1, np.uint8), np.array(virus), np.array(label)


def pad(rows, value, dtype, multiple=8):
    width = -(-max(map(len, rows)) // multiple) * multiple
    out = np.full((len(rows), width), value, dtype)
    for i, r in enumerate(rows):
        out[i, :len(r)] = r
    return out


# ---- the encoders, as spec/models.md has them ---------------------------------------------------

def rotate(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class EsmLayer(nn.Module):
    def __init__(self, d, heads, f, drop):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down, self.drop = nn.Linear(d, f), nn.Linear(f, d), nn.Dropout(drop)

    def forward(self, x, cos, sin, bias):
        b, t, d = x.shape
        h = self.ln1(x)
        q, k, v = (m(h).view(b, t, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = q * cos + rotate(q) * sin, k * cos + rotate(k) * sin
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.drop(self.o(a.transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.down(F.gelu(self.up(self.ln2(x)))))


class Esm(nn.Module):
    def __init__(self, d, heads, layers, drop):
        super().__init__()
        self.emb = nn.Embedding(33, d)
        self.layers = nn.ModuleList(EsmLayer(d, heads, 4 * d, drop) for _ in range(layers))
        self.ln = nn.LayerNorm(d)
        self.dh = d // heads

    def forward(self, ids):
        keep = ids != 1
        x = self.emb(ids) * (ids != 32)[..., None]
        n = keep.sum(1)
        x = x * (0.88 / (1 - (ids == 32).sum(1) / n))[:, None, None]
        t = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
        inv = 10000 ** (-torch.arange(0, self.dh, 2, device=ids.device, dtype=torch.float32) / self.dh)
        ang = torch.outer(t, inv)
        ang = torch.cat((ang, ang), -1)
        bias = torch.zeros_like(keep, dtype=torch.bfloat16 if ids.is_cuda else torch.float32).masked_fill(~keep, -1e4)
        bias = bias[:, None, None, :].expand(-1, 1, ids.shape[1], -1).contiguous()
        cos, sin = ang.cos().to(bias.dtype), ang.sin().to(bias.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return self.ln(x), keep

    @staticmethod
    def pool(x, ids):
        inside = ((ids != 1) & (ids != 0) & (ids != 2)).float()[..., None]
        return (x.float() * inside).sum(1) / inside.sum(1)


def slopes(heads):
    def power(n):
        return [2 ** (-8 * i / n) for i in range(1, n + 1)]
    p = 2 ** int(math.log2(heads))
    return power(p) + (power(2 * p)[0::2][:heads - p] if p < heads else [])


class BertLayer(nn.Module):
    def __init__(self, d, heads, f, drop):
        super().__init__()
        self.heads, self.f = heads, f
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.gated, self.down = nn.Linear(d, 2 * f, bias=False), nn.Linear(f, d)
        self.ln1, self.ln2, self.drop = nn.LayerNorm(d, eps=1e-12), nn.LayerNorm(d, eps=1e-12), nn.Dropout(drop)

    def forward(self, x, bias):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(b, t, d)
        x = self.ln1(x + self.drop(self.o(a)))
        g = self.gated(x)
        return self.ln2(x + self.drop(self.down(F.gelu(g[..., :self.f]) * g[..., self.f:])))


class Bert(nn.Module):
    def __init__(self, vocab, d, heads, f, layers, drop):
        super().__init__()
        self.emb, self.typ, self.ln = nn.Embedding(vocab, d), nn.Embedding(2, d), nn.LayerNorm(d, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(d, heads, f, drop) for _ in range(layers))
        self.register_buffer("slopes", torch.tensor(slopes(heads)), persistent=False)

    def forward(self, ids):
        keep = ids != 3
        x = self.ln(self.emb(ids) + self.typ.weight[0])
        i = torch.arange(ids.shape[1], device=ids.device)
        dtype = torch.bfloat16 if ids.is_cuda else torch.float32
        bias = (-(i[None] - i[:, None]).abs() * self.slopes[:, None, None]).to(dtype)[None]
        bias = bias + torch.zeros_like(keep, dtype=dtype).masked_fill(~keep, -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return x, keep

    @staticmethod
    def pool(x, keep):
        w = keep.float()[..., None]
        return (x.float() * w).sum(1) / w.sum(1)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.esm = Esm(c["d_aa"], c["h_aa"], c["l_aa"], c["drop"])
        self.bert = Bert(c["vocab"], c["d_nt"], c["h_nt"], c["f_nt"], c["l_nt"], c["drop"])
        d = c["d_aa"] + c["d_nt"]
        self.hidden, self.bn, self.out = nn.Linear(d, c["hidden"]), nn.BatchNorm1d(c["hidden"]), nn.Linear(c["hidden"], 2)
        self.groups = nn.Linear(d, len(GROUPS))       # helps training, not exported
        self.mlm_aa, self.mlm_nt = nn.Linear(c["d_aa"], 33), nn.Linear(c["d_nt"], c["vocab"])
        self.z_drop = nn.Dropout(0.3)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)
                if getattr(m, "bias", None) is not None:
                    nn.init.zeros_(m.bias)
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.normal_(self.esm.emb.weight, std=0.5)

    def embed(self, dna, aa):
        x, keep = self.bert(dna)
        y, _ = self.esm(aa)
        return torch.cat((Bert.pool(x, keep), Esm.pool(y, aa)), 1)

    def forward(self, dna, aa):
        z = self.z_drop(self.embed(dna, aa))
        h = F.dropout(F.relu(self.bn(self.hidden(z.float()))), 0.5, self.training)
        return self.out(h), self.groups(z)

    def masked(self, dna, aa, dna_in, aa_in):
        x, _ = self.bert(dna_in)
        y, _ = self.esm(aa_in)
        m, k = dna_in != dna, aa_in != aa
        return F.cross_entropy(self.mlm_nt(x[m]).float(), dna[m]) + F.cross_entropy(self.mlm_aa(y[k]).float(), aa[k])


def mask_tokens(ids, special, mask_id, gen, share=None):
    """Masks `share` of the tokens; without it a share of 0..20 % drawn anew for every row."""
    u = torch.rand(ids.shape, device=ids.device, generator=gen)
    if share is None:
        share = 0.2 * torch.rand(ids.shape[0], 1, device=ids.device, generator=gen)
    return torch.where((u < share) & ~torch.isin(ids, special), mask_id, ids)


def eval_set(reg, tok, n, bp, seed):
    rng = np.random.default_rng(seed)
    windows = sample_windows(reg, reg.sampler(True), rng, n, lambda _: bp)
    windows = [w for w in windows if len(w[2]) == bp]
    dna, aa, owner = [], [], []
    for i, (_, _, codes) in enumerate(windows):
        for nt, prot in frames_of(codes):
            dna.append(nt)
            aa.append(np.concatenate(([0], prot, [2])).astype(np.uint8))
            owner.append(i)
    dna = pad([np.array(e.ids, np.uint16) for e in tok.encode_batch(dna)], 3, np.uint16)
    return windows, dna, pad(aa, 1, np.uint8), np.array(owner)


@torch.inference_mode()
def evaluate(model, reg, data, device, step=2048):
    windows, dna, aa, owner = data
    model.eval()
    score = np.full(len(windows), -1.0)
    for i in range(0, len(owner), step):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, _ = model(torch.as_tensor(dna[i:i + step].astype(np.int64), device=device),
                              torch.as_tensor(aa[i:i + step].astype(np.int64), device=device))
        p = logits.float().softmax(1)[:, 1].cpu().numpy()
        np.maximum.at(score, owner[i:i + step], p)
    model.train()
    ok = score >= 0
    truth = np.array([w[0] for w in windows])
    label = np.array([reg.label[w[1]] for w in windows])
    by_group = {}
    for g, name in enumerate(GROUPS):
        m = ok & (label == g)
        if m.sum() >= 20:
            against = ok & (truth != truth[label == g][0])
            by_group[name] = round(auroc(score[m | against], truth[m | against]), 4)
    return {"auroc": round(auroc(score[ok], truth[ok]), 4), "scored": int(ok.sum()), "windows": len(windows),
            "accuracy": round(float(((score[ok] >= .5) == truth[ok]).mean()), 4), "by_group": by_group}


def baselines(reg, valid, seed, device, n=120000):
    """Logistic regression on k-mers of the window and on amino-acid pairs of its frames; judged on
    the validation windows that have an open frame, the same that the model is judged on."""
    rng = np.random.default_rng(seed)
    train = sample_windows(reg, reg.sampler(False), rng, n, lambda _: 500)

    def kmer_counts(codes, k):
        both = []
        for s in (codes, 3 - codes[::-1]):
            v = np.zeros(len(s) - k + 1, np.int64)
            for i in range(k):
                v = v * 4 + s[i:len(s) - k + 1 + i]
            both.append(v)
        return np.concatenate(both)

    def pairs(codes):
        out = [aa[:-1].astype(np.int64) * 33 + aa[1:] for _, aa in frames_of(codes) if len(aa) > 1]
        return np.concatenate(out) if out else np.empty(0, np.int64)
    result = {}
    for name, f, dim in (("4-mers", lambda c: kmer_counts(c, 4), 256), ("6-mers", lambda c: kmer_counts(c, 6), 4096),
                         ("amino-acid pairs", pairs, 33 * 33)):
        def matrix(ws):
            x = np.zeros((len(ws), dim), np.float32)
            for i, w in enumerate(ws):
                v = f(w[2])
                if len(v):
                    x[i] = np.bincount(v, minlength=dim) / len(v)
            return torch.tensor(x, device=device).sqrt(), torch.tensor([float(w[0]) for w in ws], device=device)
        (x, y), (xv, yv) = matrix(train), matrix([valid[0][i] for i in np.unique(valid[3])])
        mean, std = x.mean(0), x.std(0) + 1e-6
        x, xv = (x - mean) / std, (xv - mean) / std
        best = None
        for decay in (1e-4, 1e-3, 1e-2):
            w = torch.zeros(dim, device=device, requires_grad=True)
            b = torch.zeros(1, device=device, requires_grad=True)
            opt = torch.optim.Adam([w, b], 0.01)
            for _ in range(400):
                opt.zero_grad()
                (F.binary_cross_entropy_with_logits(x @ w + b, y) + decay * (w * w).sum()).backward()
                opt.step()
            a = auroc((xv @ w + b).detach().cpu().numpy(), yv.cpu().numpy() > .5)
            best = max(best or 0, a)
        result[name] = round(best, 4)
    return result


def export(model, c, folder, data):
    from safetensors.torch import save_file
    half = lambda t: t.detach().to(torch.float16).contiguous().cpu()
    os.makedirs(f"{folder}/esm2", exist_ok=True)
    os.makedirs(f"{folder}/dnabert", exist_ok=True)
    e = {"esm.embeddings.word_embeddings.weight": model.esm.emb.weight,
         "esm.encoder.emb_layer_norm_after.weight": model.esm.ln.weight, "esm.encoder.emb_layer_norm_after.bias": model.esm.ln.bias}
    for i, l in enumerate(model.esm.layers):
        p = f"esm.encoder.layer.{i}."
        for name, m in (("attention.self.query", l.q), ("attention.self.key", l.k), ("attention.self.value", l.v),
                        ("attention.output.dense", l.o), ("attention.LayerNorm", l.ln1), ("LayerNorm", l.ln2),
                        ("intermediate.dense", l.up), ("output.dense", l.down)):
            e[p + name + ".weight"], e[p + name + ".bias"] = m.weight, m.bias
    save_file({k: half(v) for k, v in e.items()}, f"{folder}/esm2/model.safetensors")
    json.dump({"model_type": "esm", "architectures": ["EsmModel"], "hidden_size": c["d_aa"], "num_hidden_layers": c["l_aa"],
               "num_attention_heads": c["h_aa"], "intermediate_size": 4 * c["d_aa"], "vocab_size": 33, "layer_norm_eps": 1e-5,
               "position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 32, "pad_token_id": 1,
               "emb_layer_norm_before": False, "hidden_act": "gelu", "torch_dtype": "float16"}, open(f"{folder}/esm2/config.json", "w"), indent=1)
    b = {"embeddings.word_embeddings.weight": model.bert.emb.weight, "embeddings.token_type_embeddings.weight": model.bert.typ.weight,
         "embeddings.LayerNorm.weight": model.bert.ln.weight, "embeddings.LayerNorm.bias": model.bert.ln.bias}
    for i, l in enumerate(model.bert.layers):
        p = f"encoder.layer.{i}."
        for name, m in (("attention.self.Wqkv", l.qkv), ("attention.output.dense", l.o), ("attention.output.LayerNorm", l.ln1),
                        ("mlp.gated_layers", l.gated), ("mlp.wo", l.down), ("mlp.layernorm", l.ln2)):
            b[p + name + ".weight"] = m.weight
            if m.bias is not None:
                b[p + name + ".bias"] = m.bias
    save_file({k: half(v) for k, v in b.items()}, f"{folder}/dnabert/model.safetensors")
    json.dump({"model_type": "bert", "architectures": ["BertModel"], "vocab_size": c["vocab"], "hidden_size": c["d_nt"],
               "num_hidden_layers": c["l_nt"], "num_attention_heads": c["h_nt"], "intermediate_size": c["f_nt"], "type_vocab_size": 2,
               "layer_norm_eps": 1e-12, "pad_token_id": 3, "hidden_act": "gelu", "torch_dtype": "float16"},
              open(f"{folder}/dnabert/config.json", "w"), indent=1)
    open(f"{folder}/dnabert/tokenizer.json", "w").write(open(f"{data}/tokenizer.json").read())
    k = {"hidden_layer.weight": model.hidden.weight, "hidden_layer.bias": model.hidden.bias, "bn1.weight": model.bn.weight,
         "bn1.bias": model.bn.bias, "bn1.running_mean": model.bn.running_mean, "bn1.running_var": model.bn.running_var,
         "output_layer.weight": model.out.weight, "output_layer.bias": model.out.bias}
    save_file({n: v.detach().float().contiguous().cpu() for n, v in k.items()}, f"{folder}/classifier.safetensors")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("data")
    ap.add_argument("out")
    ap.add_argument("--seconds", type=float, default=150)
    ap.add_argument("--batch", type=int, default=1024)
    ap.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1))
    ap.add_argument("--lr", type=float, default=8e-4)
    ap.add_argument("--mlm", type=float, default=0.25, help="share of the time for masked tokens")
    ap.add_argument("--eval-windows", type=int, default=6000)
    ap.add_argument("--no-baselines", action="store_true")
    ap.add_argument("--tiny", action="store_true")
    ap.add_argument("--no-compile", action="store_true")
    a = ap.parse_args()
    t_begin = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(7)
    torch.set_float32_matmul_precision("high")
    c = dict(d_aa=256, h_aa=8, l_aa=5, vocab=1024, d_nt=192, h_nt=6, f_nt=448, l_nt=4, hidden=128, drop=0.15)
    if a.tiny:
        c.update(d_aa=64, h_aa=2, l_aa=2, d_nt=64, h_nt=2, f_nt=128, l_nt=2)
    os.makedirs(a.out, exist_ok=True)
    log = open(f"{a.out}/log.jsonl", "w")

    def note(**kw):
        kw["t"] = round(time.time() - t_begin, 1)
        print(json.dumps(kw), flush=True)
        log.write(json.dumps(kw) + "\n")
        log.flush()
    ctx = mp.get_context("fork")
    n_windows = int(a.batch / 1.35)
    pool = ctx.Pool(a.workers, worker_init, (a.data,))
    ahead = threading.Semaphore(4 * a.workers)  # blocks made but not yet used
    is_over = threading.Event()
    blocks = pool.imap(_job, jobs_ahead(n_windows, ahead, is_over), chunksize=1)
    reg = Regions(a.data)
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(f"{a.data}/tokenizer.json")
    sets = {bp: eval_set(reg, tok, a.eval_windows, bp, 5) for bp in (500, 300)}
    note(event="data", frames={bp: len(s[3]) for bp, s in sets.items()}, bases=int(reg.length.sum()))
    model = Model(c).to(device)
    note(event="model", parameters=sum(p.numel() for n, p in model.named_parameters() if not n.startswith(("groups", "mlm"))))
    if not a.no_baselines:
        base = baselines(reg, sets[500], 3, device, 120000 if device.type == "cuda" else 8000)
        json.dump(base, open(f"{a.out}/baselines.json", "w"))
        note(event="baselines 500 bp", **base)

    decay, plain = [], []
    for n, p in model.named_parameters():
        (decay if p.ndim > 1 and "emb" not in n else plain).append(p)
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                            lr=a.lr, betas=(0.9, 0.98), fused=device.type == "cuda")
    use_compile = device.type == "cuda" and not a.no_compile
    torch._dynamo.config.suppress_errors = True
    fwd = torch.compile(model, dynamic=False) if use_compile else model
    fwd_mlm = model.masked
    ema = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    gen = torch.Generator(device=device)
    gen.manual_seed(1)
    sp_nt, sp_aa = torch.tensor([1, 2, 3], device=device), torch.tensor([0, 1, 2], device=device)
    t_train = time.time()
    step, seen, next_eval, run_loss, best = 0, 0, 60, [], None
    waited, t_ask = 0.0, time.time()
    for dna, aa, virus, label in blocks:
        waited += time.time() - t_ask
        ahead.release()
        gone = (time.time() - t_train) / a.seconds
        if gone >= 1:
            break
        # one shape for all steps: pad to 144 DNA and 168 protein tokens, a.batch rows
        dna, aa, virus, label = fix_shape(dna, aa, virus, label, a.batch)
        to = lambda x: torch.as_tensor(x.astype(np.int64), device=device)
        d, p, y, g = to(dna), to(aa), to(virus), to(label)
        lr = a.lr * min(1, (step + 1) / 150) * (0.5 * (1 + math.cos(math.pi * min(gone, 1))) * 0.98 + 0.02)
        for group in opt.param_groups:
            group["lr"] = lr
        opt.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            if gone < a.mlm:
                loss = fwd_mlm(d, p, mask_tokens(d, sp_nt, 4, gen, .15), mask_tokens(p, sp_aa, 32, gen, .15))
            else:
                logits, groups = fwd(mask_tokens(d, sp_nt, 4, gen), mask_tokens(p, sp_aa, 32, gen))
                loss = F.cross_entropy(logits.float(), y, label_smoothing=0.05) + 0.3 * F.cross_entropy(groups.float(), g, ignore_index=GROUPS.index("unassigned"))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step, seen = step + 1, seen + len(virus)
        k = min(0.998, step / (step + 20))
        with torch.no_grad():
            for (name, v) in model.state_dict().items():
                if v.is_floating_point():
                    ema[name].lerp_(v.float(), 1 - k)
        if step % 50 == 0:
            run_loss.append(round(loss.item(), 4))
        if step in (1, 20, 100, 200, 500, 1000) or step % 2000 == 0:
            note(event="step", step=step, loss=round(loss.item(), 4), waited_s=round(waited, 1))
        if time.time() - t_train > next_eval:
            now = {k: v.detach().clone() for k, v in model.state_dict().items()}
            model.load_state_dict({k: ema[k].to(v.dtype) if v.is_floating_point() else v for k, v in now.items()})
            r = evaluate(model, reg, sets[500], device)
            r300 = evaluate(model, reg, sets[300], device)
            note(event="valid", step=step, frames=seen, lr=round(lr, 6), loss=run_loss[-4:], auroc300=r300["auroc"], **r)
            if gone > 0.35 and (best is None or r["auroc"] > best[0]):
                best = (r["auroc"], {k: v.detach().clone() for k, v in model.state_dict().items()})
            model.load_state_dict(now)
            next_eval = time.time() - t_train + max(a.seconds / 8, 18)
        t_ask = time.time()
    is_over.set()
    ahead.release(8)
    pool.terminate()
    now = model.state_dict()
    model.load_state_dict({k: ema[k].to(v.dtype) if v.is_floating_point() else v for k, v in now.items()})
    r, r300 = evaluate(model, reg, sets[500], device), evaluate(model, reg, sets[300], device)
    if best and best[0] > r["auroc"]:
        note(event="an earlier average was better", auroc=best[0])
        model.load_state_dict(best[1])
        r, r300 = evaluate(model, reg, sets[500], device), evaluate(model, reg, sets[300], device)
    note(event="final", steps=step, frames=seen, r500=r, r300=r300)
    export(model, c, a.out, a.data)


def _job(job):
    return make_block(((job[0], job[1]), job[2]))


def jobs_ahead(n_windows, ahead, is_over):
    for i in range(10 ** 9):
        ahead.acquire()
        if is_over.is_set():
            return
        yield 11, i, n_windows


def fix_shape(dna, aa, virus, label, rows, w_dna=144, w_aa=168):
    take = np.resize(np.arange(len(virus)), rows)
    d, p = np.full((rows, w_dna), 3, np.uint16), np.full((rows, w_aa), 1, np.uint8)
    w = min(w_dna, dna.shape[1])
    d[:, :w] = dna[take][:, :w]
    w = min(w_aa, aa.shape[1])
    p[:, :w] = aa[take][:, :w]
    return d, p, virus[take], label[take]


if __name__ == "__main__":
    main()
