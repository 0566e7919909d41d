#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs under random faults until they are whole, again and again: the same bytes as a run that was
left alone, whatever the sizes, batch budgets, worker processes and disturbances.

usage: stress.py PROGRAM SCRATCH [SECONDS = 600] [SEED = 1] [KIND]

KIND: only this disturbance, twice a try, always with worker processes: group, KILL, SEGV, STOP, TERM, INT.
A disturbance, at a random moment: SIGKILL to the whole process group; SIGKILL, SIGSEGV or SIGSTOP (for
a while) to one worker process; SIGTERM or SIGINT to the program (exit 75); or two of them. Each try is
the same command but for --workers, --threads and --tokens, which change no byte. Prints TAP lines for
what failed, and totals."""
import os
import random
import shutil
import signal
import subprocess
import sys
import time

program, scratch = os.path.abspath(sys.argv[1]), sys.argv[2]
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 600
seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
only = sys.argv[5] if len(sys.argv) > 5 else None
rnd = random.Random(seed)
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
tiny = os.path.join(root, "models/virnucpro-random-tiny.safetensors")
FILES = ["prediction_results.txt", "prediction_results_highestscore.csv", "contigs.tsv", "virus.fna",
         "embeddings.npy", "embeddings.npy.ids.tsv"]
CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
count = {}


def note(what):
    count[what] = count.get(what, 0) + 1


def make_input(path):
    pool = []
    with open(path, "w") as f:
        for i in range(rnd.choice([1, 3, 10, 40, 120])):
            n = int(2 ** rnd.uniform(0, 12))
            s = "".join(rnd.choices(CODONS, k=n // 3)) if rnd.random() < 0.8 else "".join(rnd.choices("ACGTN", k=n))
            if pool and rnd.random() < 0.2:
                s = rnd.choice(pool)
            pool.append(s)
            f.write(f">r{i} some text\n{s}\n")


def workers_of(pid):
    """Children of the program's threads: its worker processes."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += [int(p) for p in open(f"/proc/{pid}/task/{task}/children").read().split()]
    except OSError:
        pass
    return found


def kill(pid, sig):
    try:
        os.kill(pid, sig)
        return True
    except ProcessLookupError:
        return False


def disturb(run, kind):
    if kind == "group":
        os.killpg(run.pid, signal.SIGKILL)  # its own group: start_new_session below
    elif kind in ("TERM", "INT"):
        kill(run.pid, getattr(signal, "SIG" + kind))
    else:
        children = workers_of(run.pid)
        if not children:
            return False
        child = rnd.choice(children)
        if not kill(child, getattr(signal, "SIG" + kind)):
            return False
        if kind == "STOP":  # hangs for a while (the watchdog's own patience is minutes, see test_worker)
            time.sleep(rnd.uniform(0, 2))
            kill(child, signal.SIGCONT)
    return True


def try_once(command, span, is_calm):
    run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE)
    kinds = [] if is_calm else [only, only] if only else rnd.choice([["group"], ["group"], ["KILL"], ["KILL", "KILL"], ["SEGV"], ["STOP"],
                                           ["TERM"], ["INT"], ["KILL", "group"], ["STOP", "TERM"]])
    for kind in kinds:
        try:
            run.wait(rnd.uniform(0, span))
            break
        except subprocess.TimeoutExpired:
            if disturb(run, kind):
                note("disturbed: " + kind)
    err = run.communicate(timeout=300)[1].decode(errors="replace")
    return run.returncode, err


def compare(a, b):
    return [f for f in FILES if open(f"{a}/{f}", "rb").read() != open(f"{b}/{f}", "rb").read()]


def one_input(n):
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    fasta, calm, wild = (os.path.join(scratch, x) for x in ("in.fa", "calm", "wild"))
    make_input(fasta)
    base = [program, "predict", fasta, "--models", tiny, "--save-embeddings", "-q"]
    t = time.time()
    rc, err = try_once(base + ["-o", calm, "--threads", "1"], 0, True)
    span = max(0.05, 1.2 * (time.time() - t))
    if rc != 0:
        return f"the calm run ended with {rc}: {err}"
    for i in range(60):
        options = ["--threads", str(rnd.choice([1, 2])), "--tokens", str(rnd.choice([64, 300, 1024, 4096]))]
        n_workers = rnd.choice([1, 2, 5] if only else [0, 1, 2, 2, 5, 5])
        if n_workers:
            options += ["--workers", str(n_workers)]
        rc, err = try_once(base + ["-o", wild] + options, span, i > 30)
        note(f"exit {rc}")
        if rc == 0:
            bad = compare(calm, wild)
            left = [f for f in os.listdir(wild) if ".tmp" in f or f == "run.vectors"]
            return f"differ: {bad}" if bad else f"left behind: {left}" if left else None
        if rc not in (75, -9, -2, -15):  # a signal before its handler is there ends the program as usual
            return f"exit {rc}: {err}"
    return "it never ended"


def main():
    t_end, n, n_bad = time.time() + seconds, 0, 0
    while time.time() < t_end:
        n += 1
        why = one_input(n)
        if why:
            n_bad += 1
            print(f"not ok {n} - seed {seed}: {why}", flush=True)
            shutil.move(scratch, f"{scratch}.failed.{n}")
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"# {n} inputs in {seconds:.0f} s, seed {seed}: " + ", ".join(f"{k} {v}" for k, v in sorted(count.items())))
    print(f"{n - n_bad} passed, {n_bad} failed, 0 skipped")
    return 1 if n_bad else 0


sys.exit(main())
