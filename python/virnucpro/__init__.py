# SPDX-License-Identifier: MIT
"""virnucpro: which sequences are viral, and what are their embeddings. A thin layer over the C
library libvirnucpro.so (ctypes and numpy; nothing else).

    import virnucpro
    with virnucpro.load(models="bundle.safetensors") as engine:
        for r in engine.predict(["ACGT...", "..."]):
            print(r.call, r.virus_score)
    with virnucpro.load(model="esm2_t33_650M_UR50D.pt") as engine:
        vectors = engine.embed(["MKTAYIAKQR", "GSHM"])      # float32, one row a sequence

The library is the file named by $VIRNUCPRO_LIBRARY, else libvirnucpro.so.0 where the system's loader
finds it. One engine may be used by several threads; the interpreter's lock is free meanwhile.
"""
import collections
import contextlib
import ctypes
import os
import threading

import numpy

__all__ = ["Counts", "Engine", "Error", "Info", "Result", "load", "version"]

_API_VERSION = 1
_FOR_PREDICT, _FOR_EMBED = 1, 2
_CALLS = ("other", "virus", "unscored")

Result = collections.namedtuple(
    "Result", "call virus_score n_windows n_scored n_frames n_virus")
Result.__doc__ = """One record's answer. call is "virus", "other" or "unscored"; virus_score is the mean over scored
windows of each window's largest score, NaN when there is none."""
Info = collections.namedtuple(
    "Info", "device precision why models note is_bundled window_bp n_dna n_protein")
Info.__doc__ = "What an engine consists of."
Counts = collections.namedtuple("Counts", "n_sequences n_tokens n_reruns n_rerun_tokens")
Counts.__doc__ = """What an engine has computed: sequences embedded (predict embeds a frame as DNA and as protein) and
their tokens; of them, those that overflowed in the engine's precision and were computed again in FP32."""


class Error(Exception):
    """A failure of the library. str() is one line: place, what is wrong, what to do.

    status     name of the status, e.g. "VNP_FORMAT"
    exit_code  what the program virnucpro would exit with
    file, record, text, hint (str), line, off_byte (int, -1 unknown)
    """

    def __init__(self, message, status, detail):
        super().__init__(message)
        self.status = status
        self.exit_code = detail.exit_code
        self.line, self.off_byte = detail.line, detail.off_byte
        self.file, self.record = _text(detail.file), _text(detail.record)
        self.text, self.hint = _text(detail.text), _text(detail.hint)


# ---- the C interface (include/virnucpro/virnucpro.h) -------------------------------------------

_c_size, _c_str, _c_i32, _c_i64 = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int64


class _ErrorDetail(ctypes.Structure):
    _fields_ = [("size", _c_size), ("status", ctypes.c_int), ("exit_code", ctypes.c_int), ("line", _c_i64),
                ("off_byte", _c_i64), ("file", _c_str), ("record", _c_str), ("text", _c_str), ("hint", _c_str)]


class _EngineOptions(ctypes.Structure):
    _fields_ = [("size", _c_size), ("version", ctypes.c_uint32), ("purpose", ctypes.c_uint32), ("models", _c_str),
                ("esm", _c_str), ("dnabert", _c_str), ("classifier", _c_str), ("model", _c_str), ("device", _c_str),
                ("precision", _c_str), ("n_threads", _c_i32), ("window_bp", _c_i32), ("n_tokens", _c_i64)]


class _EngineInfo(ctypes.Structure):
    _fields_ = [("size", _c_size), ("device", _c_str), ("precision", _c_str), ("why", _c_str), ("models", _c_str),
                ("note", _c_str), ("is_bundled", _c_i32), ("window_bp", _c_i32), ("n_dna", _c_i32),
                ("n_protein", _c_i32)]


class _EngineCounts(ctypes.Structure):
    _fields_ = [("size", _c_size), ("n_sequences", _c_i64), ("n_tokens", _c_i64), ("n_reruns", _c_i64),
                ("n_rerun_tokens", _c_i64)]


class _EmbedOptions(ctypes.Structure):
    _fields_ = [("size", _c_size), ("version", ctypes.c_uint32), ("layer", _c_i32), ("pool", _c_str)]


class _Result(ctypes.Structure):
    _fields_ = [("n_windows", _c_i64), ("n_scored", _c_i64), ("n_frames", _c_i64), ("n_virus", _c_i64),
                ("virus_score", ctypes.c_double), ("call", ctypes.c_int)]


def _open_library():
    name = os.environ.get("VIRNUCPRO_LIBRARY") or "libvirnucpro.so.0"
    try:
        lib = ctypes.CDLL(name)
    except OSError as e:
        raise ImportError(f"{e}; install virnucpro or set VIRNUCPRO_LIBRARY to libvirnucpro.so") from None
    seqs, lens = ctypes.POINTER(_c_str), ctypes.POINTER(_c_size)
    p = ctypes.c_void_p
    signatures = {
        "vnp_version": (_c_str, []),
        "vnp_status_name": (_c_str, [ctypes.c_int]),
        "vnp_last_error": (_c_str, []),
        "vnp_last_error_get": (ctypes.c_int, [ctypes.POINTER(_ErrorDetail)]),
        "vnp_engine_create": (ctypes.c_int, [ctypes.POINTER(_EngineOptions), ctypes.POINTER(p)]),
        "vnp_engine_destroy": (None, [p]),
        "vnp_engine_info_get": (ctypes.c_int, [p, ctypes.POINTER(_EngineInfo)]),
        "vnp_engine_counts_get": (ctypes.c_int, [p, ctypes.POINTER(_EngineCounts)]),
        "vnp_engine_embed_cols": (ctypes.c_int, [p, ctypes.POINTER(_c_i64)]),
        "vnp_engine_embed": (ctypes.c_int, [p, p, _c_size, seqs, lens, _c_size, ctypes.POINTER(_EmbedOptions)]),
        "vnp_engine_predict": (ctypes.c_int, [p, ctypes.POINTER(_Result), seqs, lens, _c_size]),
    }
    for function, (result, arguments) in signatures.items():
        f = getattr(lib, function)
        f.restype, f.argtypes = result, arguments
    return lib


_lib = _open_library()


def _text(value):
    return value.decode("utf-8", "replace") if value else ""


def _check(status):
    if status == 0:
        return
    message = _text(_lib.vnp_last_error())
    detail = _ErrorDetail(size=ctypes.sizeof(_ErrorDetail))
    _lib.vnp_last_error_get(ctypes.byref(detail))
    name = _text(_lib.vnp_status_name(status))
    raise Error(message or name, name, detail)


def _path(value):
    return None if value is None else os.fsencode(value)


def _name(value):
    return None if value is None else value.encode()


def _sequences(seqs):
    """Arrays of pointers and lengths; the first item keeps the bytes alive."""
    if isinstance(seqs, (str, bytes)):
        raise TypeError("a list of sequences is wanted, not one sequence")
    seqs = list(seqs)
    for i, s in enumerate(seqs):
        if not isinstance(s, (str, bytes)):
            raise TypeError(f"sequence {i} is of type {type(s).__name__}; str or bytes is wanted")
    # a letter that is not ASCII becomes "?", which the tokenizers count as unknown
    data = [s if isinstance(s, bytes) else s.encode("ascii", "replace") for s in seqs]
    return data, (_c_str * len(data))(*data), (_c_size * len(data))(*map(len, data))


# ---- the Python interface ----------------------------------------------------------------------

def version():
    """Version of the library, e.g. "0.1.0"."""
    return _text(_lib.vnp_version())


def load(models=None, *, model=None, esm=None, dnabert=None, classifier=None, device="auto", precision="auto",
         threads=0, window=0, tokens=0):
    """Opens models and returns an Engine.

    model                      one encoder (ESM-2 or DNABERT-S) for Engine.embed
    models                     bundle file or folder for Engine.predict; without it and without
                               `model`, the one shipped with the program
    esm, dnabert, classifier   each overrides its part of `models`
    device                     "auto", "cpu", "cuda", "cuda:0,2"
    precision                  "auto", "fp32", "bf16", "fp16", "fp8", "int8"
    threads, window, tokens    0: chosen by the library

    "auto" takes what `virnucpro model validate` has passed for these models on this machine, else FP16 on
    GPUs and FP32 on CPUs; Engine.info says what it took and why. None is "auto", too.
    """
    for name, value, most in (("threads", threads, 2**31 - 1), ("window", window, 2**31 - 1), ("tokens", tokens, 2**63 - 1)):
        if not -most <= value <= most:  # ctypes would cut it to size
            raise ValueError(f"{name} is {value}")
    is_predict = model is None or any(x is not None for x in (models, esm, dnabert, classifier))
    options = _EngineOptions(
        size=ctypes.sizeof(_EngineOptions), version=_API_VERSION,
        purpose=(_FOR_PREDICT if is_predict else 0) | (_FOR_EMBED if model is not None else 0),
        models=_path(models), esm=_path(esm), dnabert=_path(dnabert), classifier=_path(classifier),
        model=_path(model), device=_name(device), precision=_name(precision), n_threads=threads,
        window_bp=window, n_tokens=tokens)
    handle = ctypes.c_void_p()
    _check(_lib.vnp_engine_create(ctypes.byref(options), ctypes.byref(handle)))
    return Engine(handle)


class Engine:
    """Models on a device; made by load(). Close it, or use it in a with statement."""

    def __init__(self, handle):
        self._handle, self._n_calls, self._is_closed = handle, 0, False
        self._lock = threading.Lock()

    def close(self):
        """Frees models and devices, once the calls of other threads that are under way have ended."""
        with self._lock:
            self._is_closed = True
        self._free_unused()

    def _free_unused(self):
        with self._lock:
            handle = self._handle if self._is_closed and self._n_calls == 0 else None
            if handle:
                self._handle = None
        if handle:
            _lib.vnp_engine_destroy(handle)

    @contextlib.contextmanager
    def _open(self):
        """The handle for a call; it is not freed meanwhile."""
        with self._lock:
            if self._is_closed:
                raise ValueError("the engine is closed")
            self._n_calls += 1
        try:
            yield self._handle
        finally:
            with self._lock:
                self._n_calls -= 1
            self._free_unused()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None):
            self.close()

    @property
    def info(self):
        """Device, precision, models and sizes, as an Info."""
        info = _EngineInfo(size=ctypes.sizeof(_EngineInfo))
        with self._open() as handle:
            _check(_lib.vnp_engine_info_get(handle, ctypes.byref(info)))
            return Info(_text(info.device), _text(info.precision), _text(info.why), _text(info.models),
                        _text(info.note), bool(info.is_bundled), info.window_bp, info.n_dna, info.n_protein)

    @property
    def counts(self):
        """What embed and predict have computed on this engine so far, as Counts."""
        counts = _EngineCounts(size=ctypes.sizeof(_EngineCounts))
        with self._open() as handle:
            _check(_lib.vnp_engine_counts_get(handle, ctypes.byref(counts)))
            return Counts(counts.n_sequences, counts.n_tokens, counts.n_reruns, counts.n_rerun_tokens)

    def embed(self, seqs, layer=-1, pool="mean"):
        """Embeds a list of sequences (str or bytes): float32 array, a row for each, in order.

        layer -1 is the last one; pool is "mean" or "cls". An empty sequence has a row of NaN, any other finite
        numbers: what overflows in the engine's precision is computed again in FP32 (see counts). One that is NaN or
        infinite in FP32 too raises Error, whose record is its index.
        """
        n_cols = _c_i64()
        data, pointers, lens = _sequences(seqs)
        options = _EmbedOptions(size=ctypes.sizeof(_EmbedOptions), version=_API_VERSION, layer=layer,
                                pool=pool.encode())
        with self._open() as handle:
            _check(_lib.vnp_engine_embed_cols(handle, ctypes.byref(n_cols)))
            out = numpy.empty((len(data), n_cols.value), dtype=numpy.float32)
            if data:
                _check(_lib.vnp_engine_embed(handle, out.ctypes.data, out.size, pointers, lens, len(data),
                                             ctypes.byref(options)))
        return out

    def predict(self, seqs):
        """Predicts a list of DNA records (str or bytes): a list of Result, in order.

        Frames that overflow are computed again in FP32, as by embed; an Error's record is the index of the one
        that failed.
        """
        data, pointers, lens = _sequences(seqs)
        out = (_Result * len(data))()
        with self._open() as handle:
            if data:
                _check(_lib.vnp_engine_predict(handle, out, pointers, lens, len(data)))
        return [Result(_CALLS[r.call], r.virus_score, r.n_windows, r.n_scored, r.n_frames, r.n_virus) for r in out]
