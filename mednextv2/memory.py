"""Memory of the C allocator on CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, instead of returning it to the system.

    A network allocates and frees the same large tensors in every step. By default each comes fresh from the system,
    which clears its pages at the first touch: a third of a training step's time on a CPU. The process stays at its
    peak size instead. Nothing happens on systems without glibc.

    Returns:
        Whether the allocator took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings])
