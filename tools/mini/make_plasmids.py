#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes plasmids a held-out group, judged beside the viruses of make_eval.py.

usage: make_plasmids.py SOURCE_DIR DATA_DIR EVAL_DIR OUT_DIR
SOURCE_DIR is what build_data.py read. Its contigs/ are in no part of the data set; their records
whose header says plasmid are taken unless their genus has training records. DATA_DIR is what
build_data.py wrote, EVAL_DIR what make_eval.py wrote. For each length writes OUT_DIR/eval_LENGTH.fna
and .tsv: the viral pieces of EVAL_DIR and all pieces of the plasmids beside them, strands mixed by a
fixed seed. A piece is left out where a 500-bp window of its plasmid that it touches resembles the
training part (mmseqs2, nucleotides: at least 80 % identity over at least 100 bp). Prints the
counts. Needs numpy and mmseqs."""
import csv
import os
import random
import subprocess
import sys
import tempfile

from build_data import read_fasta
from make_eval import PIECES
from pieces import LETTER, Regions

WINDOW, IDENTITY, ALIGNED = 500, 0.8, 100


def plasmids(source, genera):
    """[(accession, genus, bases)] of unknown genera."""
    out = []
    for name in sorted(os.listdir(f"{source}/contigs")):
        for head, seq in read_fasta(f"{source}/contigs/{name}") if name.endswith(".fna.gz") else ():
            if "plasmid" in head:
                acc, genus = head.split()[:2]
                print(f"{acc}\t{genus}\t{len(seq)} bp\t{'genus in training: left out' if genus in genera else 'taken'}")
                if genus not in genera:
                    out.append((acc, genus, seq.upper()))
    return out


def known_windows(records, reg):
    """The windows (accession, start) that resemble a training region."""
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/target.fna", "w") as f:
            for i in (~reg.valid).nonzero()[0]:
                bases = reg.base[reg.start[i]:reg.start[i] + reg.length[i]]
                f.write(f">{i}\n{LETTER[bases].tobytes().decode()}\n")
        with open(f"{work}/query.fna", "w") as f:
            for acc, _, seq in records:
                for at in range(0, len(seq), WINDOW):
                    f.write(f">{acc}:{at}\n{seq[at:at + WINDOW]}\n")
        subprocess.run(["mmseqs", "easy-search", f"{work}/query.fna", f"{work}/target.fna", f"{work}/hits.tsv", f"{work}/tmp",
                        "--search-type", "3", "-s", "7.5", "--min-seq-id", str(IDENTITY), "--min-aln-len", str(ALIGNED),
                        "--threads", str(os.cpu_count()), "-v", "1", "--format-output", "query,target,pident,alnlen"], check=True)
        hits = {line.split("\t")[0] for line in open(f"{work}/hits.tsv")}
    return {(h.rsplit(":", 1)[0], int(h.rsplit(":", 1)[1])) for h in hits}


def main():
    source, data, judged, out = sys.argv[1:5]
    os.makedirs(out, exist_ok=True)
    reg = Regions(data)
    records = plasmids(source, set(reg.family[~reg.valid & ~reg.viral]))
    known = known_windows(records, reg)
    total = sum(-(-len(seq) // WINDOW) for _, _, seq in records)
    print(f"{len(known)} of {total} windows resemble the training part: {sorted(known)}")
    for length in PIECES:
        rng = random.Random(length)
        viral = {r["seq_id"]: r["group"] for r in csv.DictReader(open(f"{judged}/eval_{length}.tsv"), delimiter="\t") if r["class"] == "virus"}
        n = 0
        with open(f"{out}/eval_{length}.fna", "w") as f, open(f"{out}/eval_{length}.tsv", "w") as t:
            t.write("seq_id\tclass\tgroup\n")
            for head, seq in read_fasta(f"{judged}/eval_{length}.fna"):
                if head in viral:
                    f.write(f">{head}\n{seq}\n")
                    t.write(f"{head}\tvirus\t{viral[head]}\n")
            for acc, genus, seq in records:
                for at in range(0, len(seq) - length + 1, length):
                    if any((acc, w) in known for w in range(at - at % WINDOW, at + length, WINDOW)):
                        continue
                    piece = seq[at:at + length]
                    if rng.random() < .5:
                        piece = piece.translate(str.maketrans("ACGT", "TGCA"))[::-1]
                    f.write(f">{acc}_{at}\n{piece}\n")
                    t.write(f"{acc}_{at}\tother\tplasmid {genus}\n")
                    n += 1
        print(f"{length} bp: {len(viral)} viral pieces, {n} of plasmids")


if __name__ == "__main__":
    main()
