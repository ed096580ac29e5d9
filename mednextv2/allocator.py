"""The memory that the C allocator of this process keeps, which is changed only in our own process or on request."""

import ctypes
import sys
from functools import lru_cache
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt(3)
_keeping = False  # whether this process was asked to keep freed memory


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, instead of returning it to the system.

    A network allocates and frees the same large tensors in every step. By default, each one is new memory from the
    system, which clears its pages at the first access: this takes a third of a training step's time on a CPU. With this
    setting, the process stays at its peak size instead. Nothing happens on systems without glibc.

    This setting applies to the whole process, for the rest of its life. Only the workflows and `mednextv2 predict` make
    it, so a program that uses the package decides for itself.

    Returns:
        Whether the allocator took the settings.
    """
    global _keeping
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    _keeping = True
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings])


class _MallInfo2(ctypes.Structure):
    # fields of glibc's mallinfo2(3), since 2.33
    _before = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")
    _fields_ = [(name, ctypes.c_size_t) for name in (*_before, "fordblks", "keepcost")]


def return_freed_memory(limit: int) -> None:
    """Return the memory that the C allocator keeps to the system, if it is more than `limit` bytes.

    This is for loops whose tensors have hundreds of megabytes: kept memory has holes, most of them slightly too small
    for the next tensor, so a process that keeps all of it would grow to several times the size that it needs. Nothing
    happens before :func:`keep_freed_memory` has been called, since such an allocator returns large tensors by itself.
    """
    if not _keeping:
        return
    info, trim = _glibc("mallinfo2"), _glibc("malloc_trim")
    if info is not None:
        info.restype = _MallInfo2
    if trim is not None and (info is None or info().fordblks > limit):
        trim(ctypes.c_size_t(0))


@lru_cache
def _glibc(function: str) -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError):  # musl
        return None
