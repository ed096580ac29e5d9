"""Which implementations there are, and which of them a kind of device takes; why, too."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.ops.problems import Problem

NATIVE, TRITON, TORCH, REFERENCE = "native", "triton", "torch", "reference"
AUTO = "auto"
KERNEL_SIZES = (3, 5, 7)  # edges of the depthwise kernels that there are kernels of our own for
# environment: auto (default), torch (no own kernels), reference (the plain definition), triton (untried kernels, too)
SETTING = "MEDNEXTV2_OPS"
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Path:
    """The implementation that was chosen.

    Attributes:
        name: `native` (C++ on CPU), `triton` (CUDA), `torch` (PyTorch calls, still without storing the expanded
            tensor) or `reference` (the plain definition).
        reason: Why no faster one, or what it is.
    """

    name: str
    reason: str


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Let the operators take another implementation inside a `with` block, in the whole process.

    Args:
        name: `auto`, `torch` (no kernels of our own), `reference` (the plain definition) or `triton` (on CUDA, also
            kernels that were not tried on this GPU yet). Compiled graphs keep what they were compiled with.

    Raises:
        InputError: A ValueError, for another name.
    """
    global _wanted
    before, _wanted = _wanted, _checked(name, "name")
    try:
        yield
    finally:
        _wanted = before


def wanted() -> str:
    """Return what the user asked for: the innermost :func:`use`, else the environment, else `auto`."""
    return _wanted


def choose(device: str, dtype: torch.dtype, kernel_size: int | None = None) -> Path:
    """Decide for a tensor of this device and dtype; with the edge of the kernel for the depthwise convolution."""
    asked = wanted()
    if asked == REFERENCE:
        return Path(REFERENCE, "asked for")
    if asked == TORCH:
        return Path(TORCH, "asked for")
    if device == "cpu":
        return _choose_cpu(dtype, kernel_size)
    if device == "cuda":
        return _choose_cuda(dtype, kernel_size)
    return Path(TORCH, f"there are no kernels for {device} devices")


def of_kind(problem: Problem, device: str) -> Path:
    """Decide for one class of blocks on a kind of device, such as `cuda`, without a trial."""
    path = choose(device, problem.dtype, problem.kernel_size or None)
    if path.name == TRITON and problem.expanded and problem.dtype == torch.float32:
        return Path(TORCH, "products in float32 are cuBLAS's, on tensor cores only where PyTorch may use TF32")
    return path


def by_verdict(device: torch.device) -> bool:
    """Tell whether kernels are used there after a trial alone: on CUDA, where the user asked for no path."""
    return device.type == "cuda" and _wanted == AUTO


def _choose_cpu(dtype: torch.dtype, kernel_size: int | None) -> Path:
    from mednextv2.ops import native  # here, since the library is built or loaded at first use only

    if dtype not in (torch.float32, torch.bfloat16):
        return Path(TORCH, f"the CPU kernels take float32 and bfloat16, not {_name(dtype)}")
    if kernel_size is not None and kernel_size not in KERNEL_SIZES:
        return Path(TORCH, f"the CPU kernels take kernel sizes 3, 5 and 7, not {kernel_size}")
    available, reason = native.load()
    if dtype == torch.float32 and available and "bfloat16" in reason:
        reason = "AVX-512"  # what is beyond it is for bfloat16
    return Path(NATIVE if available else TORCH, reason)


def _choose_cuda(dtype: torch.dtype, kernel_size: int | None) -> Path:
    from mednextv2.ops import kernels

    if dtype not in (torch.float32, *_HALF):
        return Path(TORCH, f"the Triton kernels take float32, float16 and bfloat16, not {_name(dtype)}")
    if kernel_size is not None and kernel_size not in KERNEL_SIZES:
        return Path(TORCH, f"the Triton kernels take kernel sizes 3, 5 and 7, not {kernel_size}")
    available, reason = kernels.available()
    return Path(TRITON if available else TORCH, reason)


def half_is_fast(device: str | torch.device) -> bool:
    """Tell whether this device computes faster in half precision: CUDA, and CPUs whose instructions know bfloat16."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):  # no device; who uses it will say so
        return False
    if kind == "cpu":
        path = choose("cpu", torch.bfloat16)
        return path.name == NATIVE and "bfloat16" in path.reason
    return kind == "cuda"


def plain(x: Tensor | None = None) -> bool:
    """Tell whether the plain definition is wanted: asked for, or a trace or an export is under way.

    In what leaves this process only operators that exist everywhere may appear. An input `x` of no samples is left to
    the definition, too.
    """
    if _wanted == REFERENCE or torch.jit.is_tracing() or _exporting():
        return True
    return x is not None and x.shape[0] == 0  # not in a trace, where sizes are tensors


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Tell whether torch.export is at work: asked while a graph is traced, not in the graph.

    In a graph PyTorch 2.11 answers yes to `torch.compile`, too, and networks would be compiled without our operators.
    """
    return torch.compiler.is_exporting()


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of means, variances and norms of `x`: float32 for half precision, else that of `x`."""
    return torch.float32 if x.dtype in _HALF else x.dtype


def autocast(x: Tensor) -> Tensor:
    """Cast `x` as autocast would for a convolution; outside autocast, return it as it is."""
    return x.to(autocast_dtype(x))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast gives `x` in a convolution; outside autocast, its own."""
    device = x.device.type
    if device == "meta":  # has no autocast
        return x.dtype
    if x.is_floating_point() and x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def no_autocast(x: Tensor) -> torch.autocast:
    """Switch autocast off inside an operator, which decides for itself what is computed in half precision."""
    return torch.autocast(x.device.type if x.device.type != "meta" else "cuda", enabled=False)


def channels_last(x: Tensor) -> Tensor:
    """Return `x` in channels-last memory, as a view where it is already."""
    return x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """View a channels-last `(N, C, *spatial)` tensor as `(N, voxels, C)`."""
    return x.movedim(1, -1).flatten(1, -2)


def from_rows(x: Tensor, like: Tensor) -> Tensor:
    """View `(N, voxels, O)` rows as a channels-last `(N, O, *spatial of like)` tensor."""
    return x.unflatten(1, like.shape[2:]).movedim(-1, 1)


def _checked(name: str, setting: str) -> str:
    if name not in (AUTO, TORCH, REFERENCE, TRITON):
        raise InputError(f"{setting} is {AUTO}, {TORCH}, {REFERENCE} or {TRITON}, not {name!r}")
    return name


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_wanted = _checked(os.environ.get(SETTING) or AUTO, SETTING)
