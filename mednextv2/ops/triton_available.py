"""Whether the Triton kernels can be used."""

import functools
import importlib.util
import sys

import torch

OLDEST = (8, 0)  # compute capability that has bfloat16 in its tensor cores, and copies that need no registers


@functools.cache
def available() -> tuple[bool, str]:
    """Return whether Triton is installed, and a sentence about it."""
    if not sys.platform.startswith("linux"):
        return False, "the Triton kernels are for Linux"
    if importlib.util.find_spec("triton") is None:
        return False, "Triton is not installed (it comes with PyTorch for CUDA on Linux)"
    return True, "Triton kernels"


def unfit(device: torch.device) -> str | None:
    """Say why no kernel can be used on this CUDA device, whatever its kind, or return None."""
    installed, reason = available()
    if not installed:
        return reason
    if torch.version.hip is not None:
        return "the Triton kernels are for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "there is no GPU here that PyTorch can use"
    if device.index is not None and device.index >= torch.cuda.device_count():
        return f"there is no GPU {device.index} here"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        return f"the Triton kernels need compute capability {OLDEST[0]}.{OLDEST[1]}, {name} has {major}.{minor}"
    return None
