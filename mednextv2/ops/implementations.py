"""The implementations of the operators, and the ones that a kind of device uses, with reasons.

:mod:`mednextv2.ops.implementation_choice` says what a device at hand uses after the trial of its kernels.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mednextv2.errors import InputError
from mednextv2.ops.memory_layout import HALF
from mednextv2.ops.problem_sizes import Problem

NATIVE, TRITON, TORCH, REFERENCE = "native", "triton", "torch", "reference"
AUTO = "auto"
KERNEL_SIZES = (3, 5, 7)  # sizes of the depthwise kernels for which we have our own kernels
# environment variable: auto (default), torch (no own kernels), reference (the plain definition), triton (untried
# kernels, too)
SETTING = "MEDNEXTV2_OPS"


@dataclass(frozen=True)
class Choice:
    """The implementation that was chosen.

    Attributes:
        name: `native` (C++ on CPU), `triton` (CUDA), `torch` (PyTorch calls, also without storing the expanded
            tensor) or `reference` (the plain definition).
        reason: The reason why no faster one was chosen, or its description, for people to read.
        fast_bfloat16: Whether it runs on a CPU and uses special instructions for products of bfloat16.
    """

    name: str
    reason: str
    fast_bfloat16: bool = False


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Let the operators use another implementation inside a `with` block, in the whole process.

    Args:
        name: `auto`, `torch` (none of our kernels), `reference` (the plain definition) or `triton` (on CUDA, also
            kernels that have not been tried on this GPU). Compiled graphs keep their implementation.

    Raises:
        InputError: If the name is another one; it is also a ValueError.
    """
    global _wanted
    before, _wanted = _wanted, _checked(name, "name")
    try:
        yield
    finally:
        _wanted = before


def wanted() -> str:
    """Return the user's choice: the innermost :func:`use`, else the environment variable, else `auto`.

    Raises:
        InputError: If the environment variable has another value.
    """
    return _wanted or _checked(os.environ.get(SETTING) or AUTO, SETTING)


def choose(device: str, dtype: torch.dtype, kernel_size: int | None = None) -> Choice:
    """Decide for a tensor of this device and dtype; for the depthwise convolution, also of this kernel size."""
    asked = wanted()
    if asked == REFERENCE:
        return Choice(REFERENCE, "asked for")
    if asked == TORCH:
        return Choice(TORCH, "asked for")
    if device == "cpu":
        return _choose_cpu(dtype, kernel_size)
    if device == "cuda":
        return _choose_cuda(dtype, kernel_size)
    return Choice(TORCH, f"there are no kernels for {device} devices")


def of_kind(problem: Problem, device: str) -> Choice:
    """Decide for one class of blocks on a kind of device, such as `cuda`, without a trial."""
    choice = choose(device, problem.dtype, problem.kernel_size or None)
    if choice.name == TRITON and problem.expanded and problem.dtype == torch.float32:
        return Choice(TORCH, "products in float32 are cuBLAS's, on tensor cores only where PyTorch may use TF32")
    return choice


def by_verdict(device: torch.device) -> bool:
    """Tell whether kernels are used only after a trial: on CUDA, if the user has chosen no implementation."""
    return device.type == "cuda" and wanted() == AUTO


def _choose_cpu(dtype: torch.dtype, kernel_size: int | None) -> Choice:
    from mednextv2.ops import native  # imported here, since the library is built or loaded only at first use

    if dtype not in (torch.float32, torch.bfloat16):
        return Choice(TORCH, f"the CPU kernels take float32 and bfloat16, not {_name(dtype)}")
    if kernel_size is not None and kernel_size not in KERNEL_SIZES:
        return Choice(TORCH, f"the CPU kernels take kernel sizes 3, 5 and 7, not {kernel_size}")
    library = native.load()
    if not library.loaded:
        return Choice(TORCH, library.reason)
    return Choice(NATIVE, *_instructions(dtype == torch.bfloat16))


@functools.cache
def _instructions(bfloat16: bool) -> tuple[str, bool]:
    """Return the instructions of the loaded library for bfloat16 or float32, and whether they are made for bfloat16."""
    name = torch.ops.mednextv2_native.instructions(bfloat16)
    return name, bfloat16 and torch.ops.mednextv2_native.fast_bfloat16()


def _choose_cuda(dtype: torch.dtype, kernel_size: int | None) -> Choice:
    from mednextv2.ops import triton_available

    if dtype not in (torch.float32, *HALF):
        return Choice(TORCH, f"the Triton kernels take float32, float16 and bfloat16, not {_name(dtype)}")
    if kernel_size is not None and kernel_size not in KERNEL_SIZES:
        return Choice(TORCH, f"the Triton kernels take kernel sizes 3, 5 and 7, not {kernel_size}")
    available, reason = triton_available.available()
    return Choice(TRITON if available else TORCH, reason)


def half_is_fast(device: str | torch.device) -> bool:
    """Tell whether this device computes faster in half precision: CUDA, and CPUs with instructions for bfloat16."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):  # not a device; whoever uses it reports that
        return False
    if kind == "cpu":
        return choose("cpu", torch.bfloat16).fast_bfloat16
    return kind == "cuda"


def plain(x: Tensor | None = None) -> bool:
    """Tell whether the plain definition is wanted: the user has chosen it, or a trace or an export is running.

    A network that leaves this process may contain only operators that exist everywhere. An input `x` without samples is
    also left to the definition.
    """
    if wanted() == REFERENCE or torch.jit.is_tracing() or _exporting():
        return True
    return x is not None and x.shape[0] == 0  # not evaluated in a trace, where sizes are tensors


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Tell whether torch.export is running; this is evaluated while a graph is traced, not in the graph.

    In a graph, PyTorch 2.11 also returns True for `torch.compile`, so networks would be compiled without our operators.
    """
    return torch.compiler.is_exporting()


def _checked(name: str, setting: str) -> str:
    if name not in (AUTO, TORCH, REFERENCE, TRITON):
        raise InputError(f"{setting} is {AUTO}, {TORCH}, {REFERENCE} or {TRITON}, not {name!r}")
    return name


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_wanted: str | None = None  # the choice of `use`; the environment variable is read later, so that an import never fails
