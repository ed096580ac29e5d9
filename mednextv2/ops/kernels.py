"""Whether the Triton kernels can be used."""

import importlib.util


def available() -> tuple[bool, str]:
    """Return whether Triton is installed, and what to say about it."""
    if importlib.util.find_spec("triton") is None:
        return False, "Triton is not installed (it comes with PyTorch for CUDA on Linux)"
    return True, "Triton kernels"
