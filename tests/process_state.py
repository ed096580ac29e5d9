"""What a host program may have set in its process, for a test that it stays so; run in a process of its own."""

import ctypes
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings

import numpy as np
import torch

ALLOCATOR = ("mallopt", "malloc_trim")
asked: list[str] = []  # functions of C libraries that were looked up


class RecordedLibrary(ctypes.CDLL):
    """Notes which functions are asked for."""

    def __getattr__(self, name):
        asked.append(name)
        return super().__getattr__(name)


def record_libraries():
    ctypes.CDLL = RecordedLibrary


def _logger(logger):
    return [logger.level, *map(repr, [*logger.handlers, *logger.filters]), logger.propagate, logger.disabled]


def _loggers():
    """Describe all loggers that somebody has set; a new one that is as it was made is no change."""
    untouched = _logger(logging.Logger("new"))
    known = {name: _logger(each) for name, each in logging.root.manager.loggerDict.items() if hasattr(each, "handlers")}
    set_ones = {name: state for name, state in known.items() if state != untouched}
    return {"root": _logger(logging.root), "disabled": logging.root.manager.disable, **set_ones}


def _torch():
    cudnn = torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "threads between operators": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "cudnn": [cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32],
        "TF32": [torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()],
        "oneDNN": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "denormal numbers": float(torch.tensor(1e-40, dtype=torch.float32) * 1),
        "printing": repr(torch._tensor_str.PRINT_OPTS),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "safe globals": sorted(map(repr, torch.serialization.get_safe_globals())),
        "random numbers": torch.get_rng_state().tolist(),
    }


def _umask():
    before = os.umask(0)
    os.umask(before)
    return before


def state():
    """Return what is set now."""
    return {
        "environment": dict(os.environ),
        "loggers": _loggers(),
        "warnings": [*map(str, warnings.filters), repr(warnings.showwarning)],
        "hooks": list(map(repr, (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook))),
        "signals": {str(each): repr(signal.getsignal(each)) for each in signal.valid_signals()},
        "folder": os.getcwd(),
        "umask": _umask(),
        "sys.path": list(sys.path),
        "streams": list(map(repr, (sys.stdin, sys.stdout, sys.stderr))),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "allocator": [name for name in asked if name in ALLOCATOR],
        "random": repr(random.getstate()),
        "NumPy": [repr(np.random.get_state()), np.geterr(), repr(np.get_printoptions())],  # noqa: NPY002
        **{f"torch: {name}": value for name, value in _torch().items()},
    }


def changes(before, after):
    """Return a line for each thing that is not as before."""
    lines = []
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            lines += [f"{name}: {key}: {old.get(key)} -> {new.get(key)}" for key in keys]
        elif old != new:
            lines.append(f"{name}: {str(old)[:300]} -> {str(new)[:300]}")
    return lines
