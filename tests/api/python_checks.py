# SPDX-License-Identifier: MIT
"""What test_python.sh asks of the Python package. usage: python_checks.py NAME ARGS..."""
import math
import sys
import threading

import numpy
import virnucpro


def read_fasta(path):
    seqs = []
    for line in open(path):
        if line.startswith(">"):
            seqs.append("")
        elif seqs:
            seqs[-1] += line.strip()
    return seqs


def predict(models, fasta, table):
    rows = [line.rstrip("\n").split("\t") for line in open(table)]
    columns = {name: i for i, name in enumerate(rows.pop(0))}
    seqs = read_fasta(fasta)
    with virnucpro.load(models=models, device="cpu", precision="fp32") as engine:
        info = engine.info
        assert info.window_bp > 0 and info.n_dna > 0 and info.n_protein > 0 and "cpu" in info.device, info
        got = engine.predict(seqs)
        assert engine.predict([]) == []
        assert engine.predict([seqs[0].encode()])[0] == got[0]
    assert len(got) == len(rows) >= 3
    for r, row in zip(got, rows):
        for name in ("n_windows", "n_scored", "n_frames", "n_virus", "call"):
            assert str(getattr(r, name)) == row[columns[name]], (name, r, row)
        score = float(row[columns["virus_score"]])
        assert math.isnan(score) == math.isnan(r.virus_score), (r, row)
        assert math.isnan(score) or abs(score - r.virus_score) < 1e-6, (r, row)
    assert got[-1].call == "unscored" and any(r.n_scored for r in got)


def errors(models):
    assert virnucpro.version().count(".") == 2
    try:
        virnucpro.load(models="no/such/bundle", device="cpu")
        raise SystemExit("a missing bundle opened")
    except virnucpro.Error as e:
        assert e.exit_code == 78 and "no/such/bundle" in str(e) and e.status.startswith("VNP_") and e.text, vars(e)
    try:
        virnucpro.load(models=models, device="toaster")
        raise SystemExit("a toaster computes")
    except virnucpro.Error as e:
        assert e.exit_code == 2 and e.status == "VNP_INVAL", vars(e)
    with virnucpro.load(models=models, device=None, precision=None) as engine:  # the library's defaults
        assert engine.info.precision
    engine = virnucpro.load(models=models, device="cpu")
    try:
        engine.embed(["MK"])
    except virnucpro.Error as e:
        assert "`model`" in e.hint, vars(e)
    for wrong, kind in ((lambda: engine.embed(["MK"]), virnucpro.Error), (lambda: engine.predict("ACGT"), TypeError)):
        try:
            wrong()
            raise SystemExit("no exception")
        except kind:
            pass
    for wrong in (lambda: engine.predict([None]), lambda: engine.predict(["ACGT", 3])):
        try:
            wrong()
            raise SystemExit("no exception")
        except TypeError as e:
            assert "str or bytes" in str(e), e
    try:
        virnucpro.load(models=models, device="cpu", threads=2**32)
        raise SystemExit("no exception")
    except ValueError:
        pass
    record = "ATGGCTGCTAAAGGTGCTGCAGGTCGTAAACGTGCT" * 30
    lines = "\n".join(record[i:i + 60] for i in range(0, len(record), 60)) + "\r\n"
    assert engine.predict([record]) == engine.predict([lines])
    assert engine.predict(["ACGT" * 100])[0].n_windows == 1  # still usable
    engine.close()
    engine.close()
    try:
        engine.info
        raise SystemExit("a closed engine answers")
    except ValueError:
        pass


def embed(model, fasta, npy):
    due = numpy.load(npy)
    seqs = read_fasta(fasta)
    with virnucpro.load(model=model, device="cpu", precision="fp32") as engine:
        got = engine.embed(seqs)
        assert got.dtype == numpy.float32 and got.shape == due.shape
        assert got.tobytes() == due.tobytes()
        counts = engine.counts
        assert counts.n_sequences == len(seqs) and counts.n_tokens > len(seqs), counts
        assert counts.n_reruns == counts.n_rerun_tokens == 0, counts
        assert engine.embed([]).shape == (0, due.shape[1])
        assert numpy.isnan(engine.embed([""])).all()
        assert not numpy.array_equal(engine.embed(seqs[:2], pool="cls"), got[:2])
        parts = [None] * 4

        def work(i):
            parts[i] = engine.embed(seqs[i::4])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i in range(4):
            assert parts[i].tobytes() == due[i::4].tobytes()
    # closed under calls: they end well, or never began
    engine = virnucpro.load(model=model, device="cpu", precision="fp32")
    ended = []

    def until_closed():
        try:
            while True:
                assert engine.embed(seqs[:4]).tobytes() == due[:4].tobytes()
        except ValueError:
            ended.append(True)

    threads = [threading.Thread(target=until_closed) for _ in range(3)]
    for t in threads:
        t.start()
    engine.embed(seqs[:1])
    engine.close()
    for t in threads:
        t.join()
    assert len(ended) == 3


def overflow(model, hopeless):
    """In models whose tryptophan leaves FP16's range, or is NaN."""
    seqs = ["MKLAGV", "MKLAGW", "LLLLLLLLLL", "WLLL"]
    with virnucpro.load(model=model, device="ref", precision="fp32") as engine:
        single = engine.embed(seqs)
    with virnucpro.load(model=model, device="ref", precision="fp16") as engine:
        half = engine.embed(seqs)
        assert engine.counts == virnucpro.Counts(4, 34, 2, 14), engine.counts
    for i, is_rerun in enumerate((False, True, False, True)):
        assert (half[i].tobytes() == single[i].tobytes()) == is_rerun, i
        assert numpy.isfinite(half[i]).all()
    with virnucpro.load(model=hopeless, device="ref", precision="fp16") as engine:
        try:
            engine.embed(seqs)
            raise SystemExit("NaN passed for a vector")
        except virnucpro.Error as e:
            assert e.status == "VNP_FORMAT" and e.exit_code == 78 and e.record == "1" and "fp32" in e.text, vars(e)


{"predict": predict, "errors": errors, "embed": embed, "overflow": overflow}[sys.argv[1]](*sys.argv[2:])
