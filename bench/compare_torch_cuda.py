#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's anchors and vnp_cuda_bench on one GPU in one run: tokens/s, both sustained.

usage: compare_torch_cuda.py ANCHORS --compile-only CACHE [--only LIST] [--jobs N]
       compare_torch_cuda.py ANCHORS BENCH [--cache CACHE] [--log FILE] [--only LIST]
                             [--seconds S] [--budget-s S]

ANCHORS is the file torch_esm2_bench.py, whose models, batches and torch.compile calls are used as
they are; only its clock is replaced: warm for 2 s, then whole passes for at least SECONDS, mean time.
--compile-only compiles every configuration, each in a process of its own, over the first and the
last pack of each workload (the first decides Inductor's size hints, so it must be a true one), and
keeps what torch.compiler.save_cache_artifacts gives in CACHE/NAME.artifacts. The measuring run loads
these; each configuration is measured ours first, then theirs. It stops before --budget-s is over and
prints what it has. LIST: names from CONFIGS, or beginnings of them, with commas between."""
import argparse
import functools
import importlib.util
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib

ESM = ("reads150", "chunk500", "proteome")
CONFIGS = {  # name: model, precision, their budget, ours, our workloads
    "3B-fp16-16k": ("3B", "fp16", 16384, 16896, ESM),
    "3B-fp8-16k": ("3B", "fp8", 16384, 16896, ESM),
    "3B-fp16-64k": ("3B", "fp16", 65536, 16896, ESM),
    "dnabert-fp16": ("dnabert", "fp16", 16384, 16896, ("dna32", "dna104")),
    "650M-fp16-64k": ("650M", "fp16", 65536, 67584, ESM),
    "650M-fp8-16k": ("650M", "fp8", 16384, 16896, ESM),
}
SCRATCH = os.path.join(tempfile.gettempdir(), "vnp_torch_cache")
START = time.time()


class Lines(io.TextIOBase):
    """The anchors' standard output: their figures in our terms, the rest as comments."""

    def __init__(self, name, out, is_timed):
        self.name, self.out, self.is_timed, self.rest, self.failed = name, out, is_timed, "", False

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            try:
                d = json.loads(line)
            except ValueError:
                d = {}
            workload = d.get("workload") or f"dna{d.get('tokens_a_seq')}"
            if self.is_timed and "tok_s" in d and not d["cfg"].endswith("eager"):
                d = {"config": self.name, "workload": workload, "by": "torch", "tok_s": d["tok_s"]}
                print(json.dumps(d), file=self.out, flush=True)
            else:
                self.failed |= "error" in d or line.startswith("FAILED")
                print("# " + line, file=self.out, flush=True)
        return len(text)


def load_anchors(path):
    spec = importlib.util.spec_from_file_location("anchors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def worker(args):
    t0 = time.time()
    import torch
    from torch._dynamo.utils import counters
    name, artifacts = args.worker, os.path.join(args.cache or "", args.worker + ".artifacts")
    anchors = load_anchors(args.anchors)
    wait = torch.cuda.synchronize if anchors.dev == "cuda" else lambda: None
    is_loaded = not args.compile and bool(args.cache) and os.path.exists(artifacts)
    if is_loaded:
        with open(artifacts, "rb") as f:
            is_loaded = torch.compiler.load_cache_artifacts(zlib.decompress(f.read())) is not None
    first = {"s": 0.0}

    def passes(fn, seconds):
        n, t = 0, time.perf_counter()
        while time.perf_counter() - t < seconds:
            fn()
            wait()
            n += 1
        return (time.perf_counter() - t) / max(n, 1)

    def timeit(fn, _):
        f = inspect.getclosurevars(fn).nonlocals.get("f")  # dnabert's eager and compiled forward
        if f is not None and not hasattr(f, "_torchdynamo_orig_callable"):
            return 1.0
        t = time.perf_counter()
        fn()
        wait()
        first["s"] += time.perf_counter() - t
        if args.compile:
            return 1.0
        passes(fn, min(2, args.seconds))
        return passes(fn, args.seconds)

    anchors.timeit = timeit
    if args.compile:
        all_packs = anchors.packs
        anchors.packs = lambda lens, budget: [all_packs(lens, budget)[i] for i in (0, -1)]
    model, precision, budget = CONFIGS[name][:3]
    t1, stdout = time.time(), sys.stdout
    sys.stdout = lines = Lines(name, stdout, not args.compile)
    if model == "dnabert":
        anchors.step(anchors.dnabert)
    else:
        anchors.shape(model)
        dtype = torch.bfloat16 if precision == "fp8" else torch.float16
        anchors.step(anchors.packed_cfg, name, dtype, precision == "fp8", True, budget)
    sys.stdout = stdout
    fields = {k: v for group in ("inductor", "aot_autograd") for k, v in counters[group].items()
              if k.startswith(("fxgraph_cache_", "autograd_cache_"))}
    saved = torch.compiler.save_cache_artifacts() if args.compile and not lines.failed else None
    if saved:
        with open(artifacts, "wb") as f:
            f.write(zlib.compress(saved[0]))
        fields["bytes"] = os.path.getsize(artifacts)
    fields.update(config=name, phase="compile" if args.compile else "measure", failed=lines.failed,
                  loaded=is_loaded, graphs=counters["stats"]["unique_graphs"], torch=torch.__version__,
                  import_s=round(t1 - t0, 1), first_passes_s=round(first["s"], 1),
                  all_s=round(time.time() - t0, 1))
    print(json.dumps(fields), flush=True)
    return lines.failed


def start_worker(args, name, *more, **how):
    """Caches of its own: what another configuration compiled for other sizes must not serve."""
    scratch = os.path.join(SCRATCH, name)
    env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=os.path.join(scratch, "inductor"),
               TRITON_CACHE_DIR=os.path.join(scratch, "triton"), TORCHINDUCTOR_COMPILE_THREADS="2")
    command = [sys.executable, __file__, args.anchors, "--worker", name, "--seconds", str(args.seconds)]
    if args.compile_only or args.cache:
        command += ["--cache", args.compile_only or args.cache]
    return subprocess.Popen([*command, *more], env=env, **how)


def compile_all(args, names):
    os.makedirs(args.compile_only, exist_ok=True)
    waiting, running, n_failed = list(names), [], 0
    while waiting or running:
        while waiting and len(running) < args.jobs:
            running.append(start_worker(args, waiting.pop(0), "--compile"))
        time.sleep(0.2)
        n_failed += sum(p.poll() not in (None, 0) for p in running)
        running = [p for p in running if p.poll() is None]
    total = sum(f.stat().st_size for f in os.scandir(args.compile_only))
    print(json.dumps({"phase": "compile", "failed": n_failed, "bytes": total,
                      "all_s": round(time.time() - START, 1), "is_too_large": total > 60e6}), flush=True)
    return n_failed != 0


class Stop(Exception):
    pass


def lines_of(args, start, need_s):
    """Lines of a program's output as they come; it is killed when the budget is over."""
    left = args.budget_s - (time.time() - START) - 5
    if left < need_s:
        raise Stop(f"{left:.0f} s left, {need_s:.0f} s needed")
    process = start(stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(left, process.kill)
    timer.start()
    try:
        yield from process.stdout
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def measure(args, names, log):
    """Fills {(config, workload): {by: tokens/s}}."""
    got = {}

    def follow(name, start, need_s):
        for line in lines_of(args, start, need_s):
            print(line, end="", flush=True)
            if not line.startswith("{"):
                continue
            d = dict(json.loads(line), config=name)
            print(json.dumps(d), file=log, flush=True)
            if "tok_s" in d:
                got.setdefault((name, d["workload"]), {})[d.get("by", "ours")] = d["tok_s"]

    try:
        for name in names:
            model, precision, _, budget, workloads = CONFIGS[name]
            ours = [args.bench, model, precision, str(args.seconds), str(budget), *workloads]
            n, s = len(workloads), args.seconds
            follow(name, functools.partial(subprocess.Popen, ours), n * (s + min(3, s)) + 8)
            follow(name, functools.partial(start_worker, args, name), n * (s + 4) + 25)
    except Stop as why:
        print(f"# stopped before {name} was whole: {why}", flush=True)
    except KeyboardInterrupt:
        print("# stopped by a signal", flush=True)
    return got


def print_table(got):
    print("| configuration | workload | ours, tok/s | PyTorch, tok/s | ratio |\n|---|---|---|---|---|")
    for (name, workload), by in got.items():
        ours, theirs = by.get("ours"), by.get("torch")
        text = [f"{x:,.0f}" if x else "-" for x in (ours, theirs)]
        print(f"| {name} | {workload} | {text[0]} | {text[1]} | "
              f"{f'{ours / theirs:.2f}' if ours and theirs else '-'} |")
    sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("anchors")
    p.add_argument("bench", nargs="?")
    p.add_argument("--compile-only", metavar="CACHE")
    p.add_argument("--cache")
    p.add_argument("--log", default=os.devnull)
    p.add_argument("--only", default="")
    p.add_argument("--jobs", type=int, default=len(CONFIGS))
    p.add_argument("--seconds", type=float, default=10)
    p.add_argument("--budget-s", type=float, default=570)
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return worker(args)
    names = [n for n in CONFIGS if any(n.startswith(o) for o in args.only.split(","))]
    if args.compile_only:
        return compile_all(args, names)
    if not args.bench or not names:
        p.error("BENCH, and configurations")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(args.log, "a") as log:
        got = measure(args, names, log)
    print_table(got)
    return not got


if __name__ == "__main__":
    sys.exit(main())
