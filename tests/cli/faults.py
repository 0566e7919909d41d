#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The whole program on a disk that fails: every system call of small runs that changes a file
(open to create, write, fsync, rename, ftruncate, unlink, mkdir; SQLite's own too) fails once with
ENOSPC, once with EIO, once as a short write on a disk that stays full, and once as a short write
alone. Each time: exit 74 and a message that names the file, nothing unfinished under a final name,
no temporary left; then the same command completes with the bytes of an undisturbed run.

usage: faults.py PROGRAM SHIM SCRATCH SOURCE GOLDENS   prints TAP
Some calls of each kind and file by default, every call with VNP_STRESS set. To repeat one fault:
VNP_FAULT_SCENARIO=train VNP_FAULT_ONLY=EIO:17 (the kind and the number of the call)."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys

program, shim, scratch, source, goldens = (os.path.abspath(a) for a in sys.argv[1:6])
TINY = source + "/models/virnucpro-random-tiny.safetensors"
ESM = goldens + "/esm2/t2_d64_h1_nodropout/model.pt"
KINDS = ("ENOSPC", "EIO", "full", "half")
# What a run can do without: it goes on, and says so in its log where it can.
HARMLESS = re.compile(r"\.status\.json(\.tmp)?$|/run\.log$")
# Left for the next run on purpose, and not the same bytes each time.
PRIVATE = re.compile(r"run\.(db|vectors|log|status\.json)|summary\.json|\.train(/|$)")
is_full = "VNP_STRESS" in os.environ
scenario, only = os.environ.get("VNP_FAULT_SCENARIO"), os.environ.get("VNP_FAULT_ONLY")
n_tests = 0


def tap(ok, name, notes=()):
    global n_tests
    n_tests += 1
    print("%s %d - %s" % ("ok" if ok else "not ok", n_tests, name))
    for note in list(notes)[:12]:
        print("# " + note.replace("\n", "\n# "))
    sys.stdout.flush()


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return path


def inputs():
    """Reads cut from the examples: some with open frames, some empty, some too short."""
    def cut(name, first, n, size):
        text = "".join(line.strip() for line in open("%s/examples/%s.fna" % (source, name)) if line[0] != ">")
        return ["%s_%d" % (name, i) for i in range(n)], [text[first + i * size:first + (i + 1) * size] for i in range(n)]

    def fasta(path, ids, seqs):
        return write(scratch + "/" + path, "".join(">%s\n%s\n" % p for p in zip(ids, seqs)))
    virus = fasta("virus.fa", *cut("sars_cov_2", 3000, 5, 700))
    other = fasta("other.fa", *cut("listeria", 2000, 5, 700))
    reads = write(scratch + "/reads.fa", open(virus).read() + ">none\n\n>short\nACGT\n" + open(other).read())
    proteins = write(scratch + "/proteins.faa", ">a\nMKVLAARNDC\n>none\n\n>b\nMKVL\n" + "".join(
        ">p%d\n%s\n" % (i, "ACDEFGHIKLMNPQRSTVWY"[i % 19:] + "MKV") for i in range(20)))
    return virus, other, reads, proteins


def scenarios():
    virus, other, reads, proteins = inputs()
    embed = [program, "embed", proteins, "--model", ESM, "--threads", "1", "-q"]
    shards = []
    for i in range(2):
        shards.append("%s/shard%d" % (scratch, i))
        subprocess.run([program, "predict", reads, "-o", shards[i], "--models", TINY, "--threads", "1", "-q",
                        "--shard", "%d/2" % i, "--save-embeddings"], check=True)
    whole = scratch + "/whole"
    subprocess.run([program, "predict", reads, "-o", whole, "--models", TINY, "--threads", "1", "-q"], check=True)
    parts = []
    for i in range(2):
        parts.append("%s/part%d.npy" % (scratch, i))
        subprocess.run(embed + ["--shard", "%d/2" % i, "-o", parts[i]], check=True)
    return [
        ("predict", [program, "predict", reads, "--models", TINY, "--threads", "1", "--save-embeddings", "-o", "OUT/run"]),
        ("embed .npy", embed + ["-o", "OUT/e.npy"]),
        ("embed .h5", embed + ["-o", "OUT/e.h5"]),
        ("translate", [program, "translate", reads, "-q", "-o", "OUT/run"]),
        ("merge", [program, "merge"] + shards + ["-o", "OUT/run"]),
        ("merge of embed", [program, "merge"] + parts + ["-o", "OUT/all.safetensors"]),
        ("train", [program, "train", "--virus", virus, "--other", other, "--models", TINY, "--threads", "1",
                   "--epochs", "3", "--hidden", "8", "-q", "-o", "OUT/h.safetensors", "--bundle", "OUT/b.safetensors"]),
        ("report", [program, "report", whole, "-q", "-o", "OUT/page.html"]),
        ("model convert", [program, "model", "convert", "--esm", ESM, "-o", "OUT/m.safetensors"]),
    ]


def run(command, out, kind="", at=0):
    """Exit code, what was said, and the calls counted: (number, call, path, mark); the mark is ! where
    the call failed, ~ where it was shortened."""
    report = scratch + "/report"
    if os.path.exists(report):
        os.unlink(report)
    env = dict(os.environ, LD_PRELOAD=shim, VNP_FAULT_UNDER=out, VNP_FAULT_AT=str(at), VNP_FAULT_KIND=kind,
               VNP_FAULT_REPORT=report, XDG_CACHE_HOME=scratch + "/xdg")
    p = subprocess.run([a.replace("OUT", out) for a in command], env=env, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    calls = []
    for line in open(report) if os.path.exists(report) else ():
        number, call, path = line.rstrip("\n").split(" ", 2)
        calls.append((int(number.lstrip("!~")), call, path, number[0] if number[0] in "!~" else ""))
    return p.returncode, p.stderr, calls


def fresh(name):
    out = scratch + "/" + name
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    return out


def public(out):
    """Final files below out, without those that are the run's own."""
    found = {}
    for folder, _, files in os.walk(out):
        for f in files:
            path = os.path.relpath(os.path.join(folder, f), out)
            if not PRIVATE.search(path) and ".tmp" not in path:
                found[path] = open(os.path.join(folder, f), "rb").read()
    return found


def base(path):
    """A file's name as a person knows it: of a temporary or a journal, the file behind it."""
    return re.sub(r"(\.tmp(\.\d+)?|-journal)$", "", os.path.basename(path))


def is_harmless(calls, i, clean, out):
    """Whether the run may go on when calls[i] fails; clean: the calls of an undisturbed run."""
    _, call, path, _ = calls[i]
    if HARMLESS.search(path) or call == "unlink" and re.search(r"\.tmp|-journal$", os.path.basename(path)):
        return True
    if call == "mkdir":  # of a folder that is there
        return path == out or ("mkdir", path, "") in [c[1:] for c in calls[:i]]
    before = calls[i - 1][1:3]
    if call == "fsync" and os.path.isdir(path):
        # SQLite does not look whether the folder of a new journal could be synced (unixSync); the
        # folder of a journal it has removed is synced as the database closes, all being committed.
        return before[0] in ("fsync", "unlink") and before[1].endswith("-journal")
    if call == "fsync" and path.endswith("-journal"):  # the last one: closing, too
        return len([c for c in calls[:i + 1] if c[1:3] == (call, path)]) == len([c for c in clean if c[1:3] == (call, path)])
    return False


def unfinished(out):
    """Temporaries, and journals that would roll something back."""
    found = []
    for path in glob.glob(out + "/**", recursive=True):
        is_hot = path.endswith("-journal") and open(path, "rb").read(8) == b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
        if is_hot or ".tmp" in os.path.basename(path):
            found.append(os.path.relpath(path, out))
    return sorted(found)


def compare(out, want, is_whole):
    got = public(out)
    for name in sorted(set(got) | (set(want) if is_whole else set())):
        # train's log tells the epochs so far: whole lines from the first on
        is_log = not is_whole and name.endswith(".log.tsv") and got[name].endswith(b"\n")
        if got.get(name) != want.get(name) and not (is_log and want[name].startswith(got[name])):
            return "%s is %s" % (name, "missing" if name not in got else "there and not whole")
    if is_whole and unfinished(out):
        return "%s left" % unfinished(out)
    for summary in glob.glob(out + "/*/summary.json"):
        json.load(open(summary))
    return None


def judge(rc, said, calls, out, want, clean):
    """What is wrong with a run that met a fault, or None."""
    failed = [i for i, c in enumerate(calls) if c[3] == "!"]
    bad = [calls[i] for i in failed if not is_harmless(calls, i, clean, out)]
    if rc != (74 if bad else 0):
        return "exit %d, not %d: %s" % (rc, 74 if bad else 0, said)
    if bad:
        names = [c[2] if os.path.isdir(c[2]) else base(c[2]) for c in bad]
        if "error: " not in said or not any(n in said for n in names):
            return "the message does not name %s: %s" % (names[0], said)
        if bad[0][1] != "unlink" and [t for t in unfinished(out) if not t.endswith("-journal")]:
            return "left %s" % unfinished(out)
    return compare(out, want, not bad)


def strike(command, want, kind, at, clean):
    """One fault and the repetition: what is wrong, or None; and whether the call was reached."""
    out = fresh("out")
    rc, said, calls = run(command, out, kind, at)
    struck = [c for c in calls if c[3]]
    where = "%s at call %d, %s of %s" % ((kind, at) + (struck[0][1], os.path.relpath(struck[0][2], out)) if struck
                                         else (kind, at, "nothing", ""))
    wrong = judge(rc, said, calls, out, want, clean)
    if not wrong and rc != 0:
        rc, said, _ = run(command, out)
        wrong = "exit %d: %s" % (rc, said) if rc != 0 else compare(out, want, True)
        wrong = wrong and "repeated: " + wrong
    return wrong and where + ": " + wrong, bool(struck)


def choose(calls, turn):
    """(kind, number) of the faults to make: all, or each kind of call on each file once in turns."""
    if only:
        return [(k, int(n)) for k, n in (f.split(":") for f in only.split(","))]
    if is_full:
        return [(k, c[0]) for k in KINDS for c in calls if k != "half" or c[1] == "write"]
    seen, chosen = set(), []
    for number, call, path, _ in calls:
        if (call, base(path)) in seen:
            continue
        seen.add((call, base(path)))
        if (len(seen) + turn) % 2 == 0:
            kind = KINDS[(len(seen) // 2 + turn) % 4]
            chosen.append(("ENOSPC" if kind == "half" and call != "write" else kind, number))
    return chosen


def sweep(turn, name, command):
    out = fresh("out")
    rc, said, calls = run(command, out)
    want = public(out)
    if rc != 0 or not want or len(calls) < 4:
        tap(False, name, ["exit %d, %d files, %d calls: %s" % (rc, len(want), len(calls), said)])
        return
    wrong, n_struck, chosen = [], 0, choose(calls, turn)
    for kind, at in chosen:
        what, is_struck = strike(command, want, kind, at, calls)
        n_struck += is_struck
        if what:
            wrong.append(what)
    tap(not wrong and n_struck >= 0.9 * len(chosen) and n_struck > 0,
        "%s: %d faults at %d calls" % (name, n_struck, len(calls)), wrong or ())
    if wrong:
        print("# %d of %d went wrong" % (len(wrong), n_struck))


for turn, (name, command) in enumerate(scenarios()):
    if not scenario or scenario == name:
        sweep(turn, name, command)
print("1..%d" % n_tests)
