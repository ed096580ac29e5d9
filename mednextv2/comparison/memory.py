"""The most memory that a process needed."""

import re
import sys
from contextlib import suppress
from pathlib import Path


def peak_memory() -> tuple[int, str]:
    """Return the most memory in bytes that this process needed so far, and what kind of memory that is.

    Returns:
        The bytes of tensors on the GPU, if it was used, as PyTorch counts them, or those of the process in the
        computer's memory, without its data loader's worker processes.
    """
    torch = sys.modules.get("torch")  # without it, nothing was on a GPU
    if torch is not None and torch.cuda.is_available() and (most := torch.cuda.max_memory_allocated()):
        return most, "GPU"
    with suppress(OSError):  # Linux: getrusage has the parent's, too, if that had more when it started this process
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")):
            return 1024 * int(found[1]), "process"
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most, "process"
