#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""usage: check_report.py REPORT RUN_DIR CHUNKS FASTA

Checks a page against the run's tables by the slow and obvious way: HTML whose tags close, nothing
from elsewhere; the records of each list with their numbers; the most viral stretch by trying every
run of windows, placed by searching the windows' text (CHUNKS, of `translate`) in FASTA."""
import csv
import html.parser
import re
import sys

page, run, chunks, fasta = sys.argv[1:5]
VOID = {"meta", "line", "rect", "br"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.heads, self.n_scripts = [], {}, [], 0
        self.cell = None

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.n_scripts += tag in ("script", "iframe", "object", "img", "link")
        assert not any(v and ("://" in v or v.startswith("//")) for _, v in attrs), attrs
        if tag == "tr" and self.heads:
            self.tables.setdefault(self.heads[-1], []).append([])
        if tag in ("td", "th", "h2"):
            self.cell = ""

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()
        if tag == "h2":
            self.heads.append(self.cell)
        if tag in ("td", "th") and self.heads:
            self.tables[self.heads[-1]][-1].append(self.cell)
        if tag in ("td", "th", "h2"):
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def read_fasta(path):
    out = {}
    for block in open(path, encoding="utf-8", errors="replace").read().split(">")[1:]:
        head, _, seq = block.partition("\n")
        out[head.split()[0] if head.split() else ""] = re.sub(r"\s", "", seq).upper()
    return out


text = open(page, encoding="utf-8").read()  # must be UTF-8
p = Page()
p.feed(text)
p.close()
assert p.open == [], p.open
assert p.n_scripts == 0
rows = list(csv.DictReader(open(f"{run}/contigs.tsv", encoding="utf-8", errors="replace"), delimiter="\t", quoting=csv.QUOTE_NONE))
windows = {}
for line in open(f"{run}/prediction_results.txt", encoding="utf-8", errors="replace").read().split("\n")[1:-1]:
    frame, _, s1, s2 = line.split("\t")
    m = re.fullmatch(r"(.*)_chunk_(\d+)[FR]\d", frame)
    w = windows.setdefault(m[1], {}).setdefault(int(m[2]) - 1, [0.0, 0.0])
    w[0], w[1] = max(w[0], float(s1)), max(w[1], float(s2))
texts, pieces = read_fasta(fasta), read_fasta(chunks)


def best_stretch(name):
    w, best = sorted(windows.get(name, {}).items()), (0.0, None)
    for i in range(len(w)):
        total = 0.0
        for j in range(i, len(w)):
            total += w[j][1][1] - 0.5
            if total > best[0] + 1e-9:
                best = (total, (i, j))
    if best[1] is None:
        return best[0], None, 0
    i, j = best[1]
    inside = w[i:j + 1]

    def at(k):
        piece = pieces[f"{name}_chunk_{k + 1}"]
        assert texts[name].count(piece) == 1
        return texts[name].index(piece)
    begin, end = at(inside[0][0]), at(inside[-1][0]) + len(pieces[f"{name}_chunk_{inside[-1][0] + 1}"])
    n_virus = sum(b >= a for _, (a, b) in inside)
    return best[0], f"{begin + 1:,}\u200a–\u200a{end:,}{n_virus} of {len(inside)} scored windows", n_virus


def expected(row):
    _, stretch, n_virus = best_stretch(row["seq_id"])
    return [row["seq_id"], f"{int(row['length']):,}", f"{row['n_virus']} / {row['n_scored']}",
            f"{float(row['virus_score']):.3f}", "", stretch if n_virus else ""]


def evidence(row):
    return sum(b - 0.5 for _, b in windows[row["seq_id"]].values())


virus = sorted((r for r in rows if r["call"] == "virus"), key=lambda r: -evidence(r))
other = sorted((r for r in rows if r["call"] == "other"), key=lambda r: -float(r["virus_score"]))
looked = [r for r in other if best_stretch(r["seq_id"])[2] >= 3]
looked.sort(key=lambda r: -best_stretch(r["seq_id"])[0])
unscored = [r for r in rows if r["call"] == "unscored"]
n_rows = 0
for title, want in (("Called virus", virus), ("Viral stretches in records called other", looked), ("Called other", other)):
    got = p.tables.get(title, [[]])[1:]
    assert got == [expected(r) for r in want], (title, got, [expected(r) for r in want])
    n_rows += len(got)
got = [r[:3] for r in p.tables.get("Not scored or failed", [[]])[1:]]
assert got == [[r["seq_id"], f"{int(r['length']):,}", r["status"]] for r in unscored], got
for number, what in ((len(rows), "records"), (len(virus), "called virus"), (len(other), "called other")):
    assert f"<b>{number:,}</b>{what}" in text, what
n = sum(int(r[1].replace(",", "")) for r in p.tables["By length"][1:])
assert n == len(rows), n
print(f"{n_rows} rows as computed the slow way")
