#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws windows of the validation records evenly, for studies of precisions and of speed.

usage: make_windows.py DATA_DIR NUMBER OUT
DATA_DIR is what build_data.py wrote (valid.fna, valid.tsv: held-out families and genera only). Cuts
every record into windows of 500 bp from its start, draws NUMBER of them, none twice, turns half of
them to the other strand and writes OUT.fna and OUT.tsv (id, virus or other, group) in the order
drawn, so that a smaller NUMBER gives the first part of the same. The seed is fixed. Unlike
those of make_eval.py, the shares are those of the data (four fifths cellular)."""
import csv
import random
import sys

from make_eval import group_of, write_piece

LENGTH = 500


def main():
    data, number, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    rows = {r["seq_id"]: r for r in csv.DictReader(open(f"{data}/valid.tsv"), delimiter="\t")}
    lines = open(f"{data}/valid.fna").read().split("\n")
    seqs = {head[1:]: seq for head, seq in zip(lines[0::2], lines[1::2])}
    windows = [(name, at) for name, seq in seqs.items() for at in range(0, len(seq) - LENGTH + 1, LENGTH)]
    rng = random.Random(LENGTH)
    rng.shuffle(windows)
    with open(f"{out}.fna", "w") as f, open(f"{out}.tsv", "w") as t:
        t.write("seq_id\tclass\tgroup\n")
        for name, at in windows[:number]:
            row = rows[name]
            write_piece(f, t, rng, name, at, seqs[name][at:at + LENGTH], row["class"], group_of(row))


if __name__ == "__main__":
    main()
