#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Cuts the validation records into judged pieces for `virnucpro predict` and `evaluate`.

usage: make_eval.py DATA_DIR OUT_DIR
DATA_DIR is what build_data.py wrote (valid.fna, valid.tsv: held-out families and genera only). For
each length writes OUT_DIR/eval_LENGTH.fna and .tsv (id, virus or other, group). Half of the pieces
are viral; inside a class groups get equal shares as far as they reach, pieces never overlap
within a length, strands are mixed. The seed is fixed."""
import csv
import os
import random
import sys

PIECES = {300: 2400, 500: 3000, 1000: 700, 3000: 500, 5000: 400, 10000: 240}


def group_of(row):
    if row["class"] == "virus":
        return row["group"]
    kingdom, name = row["file"].split("/")[1:3]
    if "organelle" in name:
        return "organelle"
    if "plasmid" in name:
        return "plasmid"
    return "human" if row["family_or_genus"] == "Homo" else kingdom


def write_piece(fasta, truth, rng, name, at, seq, cls, group):
    """A piece on a strand by chance, and its row of the truth table."""
    if rng.random() < .5:
        seq = seq.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    fasta.write(f">{name}_{at}\n{seq}\n")
    truth.write(f"{name}_{at}\t{cls}\t{group}\n")


def main():
    data, out = sys.argv[1:3]
    os.makedirs(out, exist_ok=True)
    rows = {r["seq_id"]: r for r in csv.DictReader(open(f"{data}/valid.tsv"), delimiter="\t")}
    seqs, name = {}, None
    for line in open(f"{data}/valid.fna"):
        if line[0] == ">":
            name = line[1:].strip()
        else:
            seqs[name] = line.strip()
    for length, total in PIECES.items():
        rng = random.Random(length)
        pieces = {}
        for name, seq in seqs.items():
            for at in range(0, len(seq) - length + 1, length):
                key = (rows[name]["class"], group_of(rows[name]))
                pieces.setdefault(key, []).append((name, at))
        with open(f"{out}/eval_{length}.fna", "w") as f, open(f"{out}/eval_{length}.tsv", "w") as t:
            t.write("seq_id\tclass\tgroup\n")
            for cls in ("virus", "other"):
                left, keys = total // 2, sorted(k for k in pieces if k[0] == cls)
                keys.sort(key=lambda k: len(pieces[k]))
                for i, key in enumerate(keys):
                    n = min(len(pieces[key]), left // (len(keys) - i))
                    left -= n
                    for name, at in rng.sample(pieces[key], n):
                        write_piece(f, t, rng, name, at, seqs[name][at:at + length], cls, key[1])


if __name__ == "__main__":
    main()
