#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares results of runs; standard library only. Exit 0 when they agree, else says where not.

  compare.py scores OURS THEIRS [TOLERANCE]   prediction_results.txt: all but scores identical
  compare.py npy OURS THEIRS TOLERANCE        max error relative to the largest element of a row
  compare.py tsv OURS.tsv THEIRS.npy TOLERANCE    id, then columns
  compare.py safetensors OURS THEIRS.npy TOLERANCE
  compare.py counts DIR                       contigs.tsv, summary.json, virus.fna add up
  compare.py ids FILE.ids.tsv FASTA           one row a record, in order"""
import array
import ast
import json
import math
import os
import struct
import sys


def fail(text):
    print(text)
    sys.exit(1)


def npy(path):
    data = open(path, "rb").read()
    if data[:6] != b"\x93NUMPY":
        fail(f"{path} is no .npy")
    n, off = (struct.unpack_from("<H", data, 8)[0], 10) if data[6] == 1 else (struct.unpack_from("<I", data, 8)[0], 12)
    head = ast.literal_eval(data[off:off + n].decode("latin1"))
    kind = {"<f4": "f", "<f8": "d"}[head["descr"]]
    values = array.array(kind)
    values.frombytes(data[off + n:])
    rows, cols = head["shape"]
    if rows * cols != len(values) or head["fortran_order"]:
        fail(f"{path}: shape {head['shape']} but {len(values)} values")
    return [values[i * cols:(i + 1) * cols] for i in range(rows)]


def tsv(path):
    lines = open(path).read().split("\n")
    if lines.pop() != "":
        fail(f"{path}: no newline at the end")
    rows = [line.split("\t") for line in lines]
    if rows and not is_number(rows[0][1]):
        rows = rows[1:]
    return [[float(x) for x in row[1:]] for row in rows]


def is_number(x):
    try:
        float(x)
        return True
    except ValueError:
        return False


def safetensors(path):
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    t = json.loads(data[8:8 + n])["embeddings"]
    if t["dtype"] != "F32":
        fail(f"{path}: {t['dtype']}")
    values = array.array("f")
    values.frombytes(data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
    rows, cols = t["shape"]
    return [values[i * cols:(i + 1) * cols] for i in range(rows)]


def compare_rows(ours, theirs, limit):
    if len(ours) != len(theirs):
        fail(f"{len(ours)} rows, {len(theirs)} wanted")
    worst = (0, -1)
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if len(a) != len(b):
            fail(f"row {i}: {len(a)} columns, {len(b)} wanted")
        top = max(abs(x) for x in b)
        e = max(abs(x - y) for x, y in zip(a, b)) / top
        if not e <= worst[0]:
            worst = (e, i)
    print(f"{len(ours)} rows, largest relative error {worst[0]:.2e} in row {worst[1]}")
    if not worst[0] <= limit:
        fail(f"above {limit}")


def scores(ours, theirs, limit):
    a, b = open(ours).read().split("\n"), open(theirs).read().split("\n")
    if len(a) != len(b):
        fail(f"{len(a)} lines, {len(b)} wanted")
    worst = 0
    for n, (x, y) in enumerate(zip(a, b), 1):
        if x == y:
            continue
        p, q = x.split("\t"), y.split("\t")
        if len(p) != 4 or p[:2] != q[:2]:
            fail(f"line {n}: {x!r}, wanted {y!r}")
        e = max(abs(float(p[2]) - float(q[2])), abs(float(p[3]) - float(q[3])))
        worst = max(worst, e)
        if not e <= limit:
            fail(f"line {n}: {x!r}, wanted {y!r}: differs by {e}")
    print(f"{len(a) - 2} rows, largest difference of a score {worst:.2e}")


def counts(folder):
    lines = open(os.path.join(folder, "contigs.tsv")).read().split("\n")
    head = "seq_id length n_windows n_scored n_frames n_virus virus_score call status reason"
    if lines[0].split("\t") != head.split():
        fail(f"contigs.tsv: heading {lines[0]!r}")
    rows = [dict(zip(head.split(), line.split("\t"))) for line in lines[1:-1]]
    summary = json.load(open(os.path.join(folder, "summary.json")))
    said = {}

    def walk(node):
        for k, v in node.items():
            if isinstance(v, dict):
                walk(v)
            else:
                said.setdefault(k, v)
    walk(summary)
    n = {c: sum(r["call"] == c for r in rows) for c in ("virus", "other", "unscored")}
    want = {"records": len(rows), "virus": n["virus"], "other": n["other"], "unscored": n["unscored"],
            "windows": sum(int(r["n_windows"]) for r in rows), "frames": sum(int(r["n_frames"]) for r in rows)}
    for key, value in want.items():
        for name in (key, "n_" + key):
            if name in said:
                if said[name] != value:
                    fail(f"summary.json says {name} = {said[name]}, contigs.tsv has {value}")
                break
        else:
            fail(f"summary.json has no {key}")
    if sum(n.values()) != len(rows):
        fail("calls do not add up to records")
    for r in rows:
        w, s, v = int(r["n_windows"]), int(r["n_scored"]), int(r["n_virus"])
        call = "unscored" if s == 0 else "virus" if 2 * v > s else "other"
        if not v <= s <= w or r["call"] != call or math.isnan(float(r["virus_score"])) != (s == 0):
            fail(f"contigs.tsv: {r}")
    n_fna = open(os.path.join(folder, "virus.fna")).read().count(">")
    if n_fna != n["virus"]:
        fail(f"virus.fna has {n_fna} records, {n['virus']} called virus")
    print(f"{len(rows)} records: {n}")


def ids(path, fasta):
    rows = [line.split("\t") for line in open(path).read().split("\n")[:-1]]
    if rows[0][:4] != ["n", "id", "length", "status"]:
        fail(f"{path}: heading {rows[0]}")
    names = [(line[1:].split() or [""])[0] for line in open(fasta) if line.startswith(">")]
    if [r[1] for r in rows[1:]] != names:
        fail(f"{path}: ids differ from those of {fasta}")


def main():
    what, args = sys.argv[1], sys.argv[2:]
    if what == "scores":
        scores(args[0], args[1], float(args[2]) if len(args) > 2 else 1e-4)
    elif what == "counts":
        counts(args[0])
    elif what == "ids":
        ids(*args)
    else:
        reader = {"npy": npy, "tsv": tsv, "safetensors": safetensors}[what]
        compare_rows(reader(args[0]), npy(args[1]), float(args[2]))


main()
