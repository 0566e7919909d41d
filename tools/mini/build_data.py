#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the data set of the bundled model from a folder of labelled FASTA files.

usage: build_data.py DATA_DIR EXAMPLES_DIR OUT_DIR

DATA_DIR has viral/ and nonviral/ FASTA (header: accession|split|class|family or group|genus|...)
and labels/sequence_index.tsv.gz, one row a sequence. Writes OUT_DIR/
  regions.npz     the bases, two bits each, cut at N: packed, region starts and lengths, and for each
                  region its record, class, group, family/genus, part (train or valid), source weight
  valid.fna       validation records whole, for the program itself to judge (truth in valid.tsv)
  tokenizer.json  the byte-pair tokenizer, trained on the training part
  report.txt      what went where

Rules. Whole families (viral) and genera (cellular) stand in the validation part, never random
windows. Viral genes without a family, and phage genes, that resemble a validation protein (mmseqs2,
E < 1e-3, >= 30 % identity over >= 50 % of the query) are dropped from training. Every 500-bp stretch
that shares 15-mers with an example sequence in most of its 50-bp bins (what >= 80 % identity
gives) is dropped. Needs numpy, tokenizers and the program mmseqs."""
import collections
import csv
import gzip
import hashlib
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

VALID_FAMILIES = {
    "Hepeviridae", "Secoviridae", "Tymoviridae", "Bornaviridae", "Hantaviridae", "Pneumoviridae",
    "Totiviridae", "Picobirnaviridae", "Baculoviridae", "Polyomaviridae", "Smacoviridae",
    "Anelloviridae", "Caulimoviridae", "Fuselloviridae", "Lipothrixviridae", "Leviviridae",
}
VALID_GENERA = {
    "Burkholderia", "Clostridium", "Listeria", "Yersinia", "Campylobacter", "Bacteroides",
    "Caulobacter", "Streptomyces", "Lactococcus", "Planktothrix", "Pyrococcus", "Methanosarcina",
    "Monodelphis", "Bos", "Canis", "Mus", "Leishmania", "clade:Alveolata", "clade:Basidiomycota",
    "clade:Hymenoptera", "clade:Cnidaria",
}
VALID_PHAGE_SHARE = 8   # every so-many-th genome of the phage fragments is held out
VALID_RECORD_SHARE = 6  # likewise pieces of Homo, Ustilago, Drosophila, Arabidopsis ("same genus")
SPLIT_BY_RECORD = {"Homo", "Ustilago", "Drosophila", "Arabidopsis", "clade:Streptophyta"}
VIRAL_CAP = {"Flaviviridae": 1_600_000, "Picornaviridae": 700_000, "Rhabdoviridae": 900_000,
             "Herpesviridae": 3_000_000, "family unassigned": 16_000_000}
K = 15
CODE = np.full(256, 4, np.uint8)
for base, code in zip(b"ACGT", range(4)):
    CODE[base] = CODE[base + 32] = code
TABLE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"


def read_fasta(path):
    head, parts = None, []
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt") as f:
        for line in f:
            if line.startswith(">"):
                if head is not None:
                    yield head, "".join(parts)
                head, parts = line[1:].strip(), []
            else:
                parts.append(line.strip())
    if head is not None:
        yield head, "".join(parts)


def kmers(codes):
    """All K-mers of a 2-bit sequence as integers; those with an N are -1."""
    n = len(codes) - K + 1
    if n <= 0:
        return np.empty(0, np.int64)
    value, bad = np.zeros(n, np.int64), np.zeros(n, bool)
    for i in range(K):
        part = codes[i:i + n]
        value = value * 4 + (part & 3)
        bad |= part > 3
    value[bad] = -1
    return value


def demo_bitmap(folder):
    seen = np.zeros(4 ** K, bool)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".fna"):
            for _, seq in read_fasta(os.path.join(folder, name)):
                codes = CODE[np.frombuffer(seq.encode(), np.uint8)]
                for c in (codes, np.where(codes < 4, 3 - codes, 4)[::-1].astype(np.uint8)):
                    v = kmers(c)
                    seen[v[v >= 0]] = True
    return seen


def demo_mask(codes, seen, bin_bp=50, window=500, share=0.6):
    """True for bases of windows that resemble a demo sequence."""
    mask = np.zeros(len(codes), bool)
    v = kmers(codes)
    if len(v) == 0:
        return mask
    hit = (v >= 0) & seen[np.maximum(v, 0)]
    if not hit.any():
        return mask
    bins = np.add.reduceat(hit, np.arange(0, len(hit), bin_bp)) > 0
    width = min(window // bin_bp, len(bins))
    run = np.convolve(bins, np.ones(width), "valid")
    for b in np.flatnonzero(run >= share * width):
        mask[b * bin_bp:(b + width) * bin_bp + K] = True
    return mask


def translate(seq):
    codes = CODE[np.frombuffer(seq.encode(), np.uint8)].astype(np.int64)
    n = len(codes) // 3
    c = codes[:3 * n].reshape(n, 3)
    idx = c[:, 0] * 16 + c[:, 1] * 4 + c[:, 2]
    return "".join(TABLE[i] if ok else "X" for i, ok in zip(idx, (c < 4).all(1)))


def best_frame(seq):
    """Protein of the longest stop-free stretch among the six frames (for similarity only)."""
    rc = seq.upper().translate(str.maketrans("ACGT", "TGCA"))[::-1]
    return max((p for s in (seq, rc) for f in range(3) for p in translate(s[f:]).split("*")), key=len)


def load(data):
    index = {}
    with gzip.open(os.path.join(data, "labels/sequence_index.tsv.gz"), "rt") as f:
        for row in csv.DictReader(f, delimiter="\t"):
            index.setdefault(row["file"], []).append(row)
    records = []
    for name in sorted(index):
        if not name.startswith(("viral/", "nonviral/")):
            continue
        by_md5 = {row["md5"]: row for row in index[name]}
        for head, seq in read_fasta(os.path.join(data, name)):
            row = by_md5.get(hashlib.md5(seq.encode()).hexdigest()) or by_md5.get(hashlib.md5(seq.upper().encode()).hexdigest())
            if row is None:
                raise SystemExit(f"{name}: {head} has no row in the index")
            records.append({"file": name, "head": head, "acc": head.split("|")[0], "seq": seq.upper(),
                            "viral": row["class"] == "viral", "family": row["family_or_genus"],
                            "group": row["group"], "kind": row["label_kind"]})
    return records


def assign_parts(records):
    phages = sorted({r["acc"].rsplit("_", 1)[0].split("_f")[0] for r in records if "phage_fragments" in r["file"]})
    held = set(phages[::VALID_PHAGE_SHARE])
    count = collections.Counter()
    for r in records:
        r["part"] = "train"
        if r["viral"]:
            if r["family"] in VALID_FAMILIES:
                r["part"] = "valid"
            if "phage_fragments" in r["file"] and r["acc"].rsplit("_", 1)[0].split("_f")[0] in held:
                r["part"] = "valid"
        else:
            if r["family"] in VALID_GENERA:
                r["part"] = "valid"
            elif r["family"] in SPLIT_BY_RECORD:
                count[r["family"]] += 1
                if count[r["family"]] % VALID_RECORD_SHARE == 0:
                    r["part"] = "valid"


def drop_lookalikes(records, work):
    """Training viral genes that resemble a validation protein leave the training part."""
    with open(f"{work}/query.faa", "w") as q, open(f"{work}/target.faa", "w") as t:
        for i, r in enumerate(records):
            if not r["viral"]:
                continue
            if r["part"] == "valid":
                for k in range(0, len(r["seq"]), 1500):
                    piece = r["seq"][k:k + 3000]
                    if len(piece) >= 150 and len(p := best_frame(piece)) >= 40:
                        q.write(f">{i}_{k}\n{p}\n")
            elif r["family"] in ("family unassigned", "Siphoviridae", "Myoviridae") or "phage" in r["group"]:
                for k in range(0, max(len(r["seq"]) - 600, 1), 1500):
                    piece = r["seq"][k:k + 3000]
                    if len(p := best_frame(piece)) >= 40:
                        t.write(f">{i}_{k}\n{p}\n")
    subprocess.run(["mmseqs", "easy-search", f"{work}/target.faa", f"{work}/query.faa", f"{work}/hits.tsv",
                    f"{work}/tmp", "-e", "1e-3", "--min-seq-id", "0.3", "-c", "0.5", "--cov-mode", "2",
                    "--threads", str(os.cpu_count()), "-v", "1", "--format-output", "query,target"], check=True)
    dropped = {int(line.split("_")[0]) for line in open(f"{work}/hits.tsv")}
    for i in dropped:
        records[i]["part"] = "dropped"
    return len(dropped)


def cap_families(records, rng):
    total = collections.Counter()
    order = list(range(len(records)))
    rng.shuffle(order)
    for i in order:
        r = records[i]
        if r["viral"] and r["part"] == "train" and r["family"] in VIRAL_CAP:
            if total[r["family"]] > VIRAL_CAP[r["family"]]:
                r["part"] = "dropped"
            total[r["family"]] += len(r["seq"])
        if not r["viral"] and "organelle" in r["file"] and "plant" in r["file"]:
            if total["plastid"] > 7_000_000:
                r["part"] = "dropped"
            total["plastid"] += len(r["seq"])


def train_tokenizer(records, out, vocab, rng):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE(unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    lines = []
    pool = [r["seq"] for r in records if r["part"] == "train" and len(r["seq"]) > 400]
    for _ in range(24000):
        s = rng.choice(pool)
        at = rng.randrange(max(len(s) - 500, 1))
        lines.append(s[at:at + 500].replace("N", ""))
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                                       initial_alphabet=list("ACGTN")))
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tok.save(os.path.join(out, "tokenizer.json"))
    n = sum(len(tok.encode(x).ids) for x in lines[:2000])
    return sum(map(len, lines[:2000])) / n


def main():
    data, examples, out = sys.argv[1:4]
    os.makedirs(out, exist_ok=True)
    rng = random.Random(20261123)
    records = load(data)
    assign_parts(records)
    with tempfile.TemporaryDirectory() as work:
        n_alike = drop_lookalikes(records, work)
    cap_families(records, rng)
    seen = demo_bitmap(examples)
    per_token = train_tokenizer(records, out, 1024, rng)

    packed, starts, lengths, meta = [], [], [], []
    n_demo = at = 0
    for r in records:
        if r["part"] == "dropped":
            continue
        codes = CODE[np.frombuffer(r["seq"].encode(), np.uint8)].copy()
        mask = demo_mask(codes, seen)
        n_demo += int(mask.sum())
        codes[mask] = 4
        good = np.concatenate(([0], (codes < 4).astype(np.int8), [0]))
        edges = np.flatnonzero(np.diff(good))
        for a, b in zip(edges[::2], edges[1::2]):
            if b - a >= 120:
                packed.append(codes[a:b])
                starts.append(at)
                lengths.append(b - a)
                at += b - a
                r.setdefault("whole", []).append((int(a), int(b)))
                meta.append((r["viral"], r["part"] == "valid", r["group"], r["family"], r["file"], r["acc"]))
    flat = np.concatenate(packed)
    flat = np.concatenate((flat, np.zeros(-len(flat) % 4, np.uint8)))
    two_bit = (flat[0::4] << 6 | flat[1::4] << 4 | flat[2::4] << 2 | flat[3::4]).astype(np.uint8)
    columns = {}
    for k, name in enumerate(("group", "family", "source"), 2):
        names, codes = np.unique([m[k] for m in meta], return_inverse=True)
        columns[name + "_names"], columns[name] = names, codes.astype(np.uint16)
    np.savez_compressed(os.path.join(out, "regions.npz"), two_bit=two_bit, start=np.array(starts),
                        length=np.array(lengths, np.int32), viral=np.array([m[0] for m in meta]),
                        valid=np.array([m[1] for m in meta]), **columns)
    with open(os.path.join(out, "valid.fna"), "w") as f, open(os.path.join(out, "valid.tsv"), "w") as t:
        t.write("seq_id\tclass\tgroup\tfamily_or_genus\tfile\n")
        for i, r in enumerate(records):
            for a, b in r.get("whole", []) if r["part"] == "valid" else []:
                if b - a >= 300:
                    f.write(f">v{i}_{a}\n{r['seq'][a:b]}\n")
                    t.write(f"v{i}_{a}\t{'virus' if r['viral'] else 'other'}\t{r['group']}\t{r['family']}\t{r['file']}\n")
    bp = collections.Counter()
    for m, n in zip(meta, lengths):
        bp[("valid" if m[1] else "train", "viral" if m[0] else "cellular", m[2] if m[0] else "/".join(m[4].split("/")[1:3]))] += int(n)
    with open(os.path.join(out, "report.txt"), "w") as f:
        f.write(f"viral records dropped as look-alikes of the validation part: {n_alike}\n"
                f"bases dropped as look-alikes of the examples: {n_demo}\n"
                f"bases a token: {per_token:.2f}\n")
        for key, n in sorted(bp.items()):
            f.write("\t".join(key) + f"\t{n}\n")
    print(open(os.path.join(out, "report.txt")).read())


if __name__ == "__main__":
    main()
