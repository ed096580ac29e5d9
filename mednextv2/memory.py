"""Memory of the C allocator on CPU."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # parameters of glibc's mallopt(3)
_LARGE = 32 * 2**20  # the largest threshold that glibc takes
_kept = False


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, instead of returning it to the system.

    A network allocates and frees the same large tensors in every step. By default each comes fresh from the system,
    which clears its pages at the first touch: a third of a training step's time on a CPU. The process stays at its
    peak size instead. Nothing happens on systems without glibc.

    Returns:
        Whether the allocator took the settings.
    """
    global _kept
    _kept = _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20})
    return _kept


@contextmanager
def returning_large_tensors() -> Iterator[None]:
    """Within the block, let tensors from 32 MiB on go back to the system at once, also after `keep_freed_memory`.

    Kept memory has holes. Where tensors are hundreds of megabytes large and others stay between them, the process would
    grow to several times of what it uses.
    """
    if not _kept:
        yield
        return
    _set({_MMAP_MAX: 2**16, _MMAP_THRESHOLD: _LARGE})
    try:
        yield
    finally:
        keep_freed_memory()


def _set(settings: Mapping[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings.items()])
