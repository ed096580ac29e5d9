"""Record what a program launches on a simulated GPU: Triton's kernels and PyTorch's operators."""

import re
from collections import Counter
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

OTHER = "other"  # the region of everything outside blocks
# Operators that allocate memory or view a tensor, and start no kernel, although their schemas do not say so
WITHOUT_KERNEL = re.compile(r"aten::((new_)?empty(_like|_strided|_permuted)?|_unsafe_view|resize_|set_|(sym|is)_\w+)")
COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
SYNCHRONISING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class TensorSpec(NamedTuple):
    """The description of a tensor that a kernel gets.

    Attributes:
        shape: Its sizes.
        stride: Its strides in elements.
        dtype: The name of its dtype, such as `bfloat16`.
        offset: Its offset in bytes from the start of its memory, which is a multiple of 512.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """The number of bytes from its first element to its last."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return (last + 1) * getattr(torch, self.dtype).itemsize


class Launch(NamedTuple):
    """One launch of a Triton kernel.

    Attributes:
        module: The module that defines the kernel.
        name: The name of the kernel.
        grid: The number of programs along each axis.
        arguments: The arguments by name: a :class:`TensorSpec`, a number, or the value of a constant.
        options: Options such as `num_warps` and `num_stages`.
        region: The part of the network to which it belongs, such as a kind of block.
    """

    module: str
    name: str
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]
    region: str

    def key(self) -> tuple:
        """Return a hashable key that is the same for launches that differ only in their region."""
        return (self.module, self.name, self.grid, tuple(self.arguments.items()), tuple(self.options.items()))


class Call(NamedTuple):
    """One call of a PyTorch operator that starts a kernel.

    Attributes:
        name: The name, such as `aten::addmm`.
        dtype: The dtype of its first tensor.
        devices: The devices of its tensors, in alphabetical order.
        region: The part of the network to which it belongs.
    """

    name: str
    dtype: str
    devices: tuple[str, ...]
    region: str


class Capture(TorchDispatchMode):
    """Record what is launched inside a `with` block on the device of :func:`gpu_standin.stand_in`.

    Attributes:
        launches: The launches of Triton kernels, in order.
        calls: The calls of PyTorch operators that start a kernel, in order.
        region: The region of the next launches and calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.calls: list[Call] = []
        self.region = OTHER
        self._patches: list[Any] = []

    def __enter__(self) -> "Capture":
        """Begin to record."""
        own = patch.object(JITFunction, "run", lambda kernel, *args, **kwargs: self._record(kernel, args, kwargs))
        own.start()
        self._patches.append(own)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """End the recording."""
        self._patches.pop().stop()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run our own operators by their Python functions; count the others."""
        kwargs = kwargs or {}
        if func.namespace == "mednextv2":
            with self, torch.no_grad():
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        if func.namespace == "aten" and func._can_decompose():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = None
        try:
            result = func(*args, **kwargs)
        finally:  # if the result is a number, a tensor without values raises an error
            if _starts_kernel(func):
                tensors = _tensors((args, kwargs, result))
                dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else ""
                devices = tuple(sorted({t.device.type for t in tensors}))
                self.calls.append(Call(func._schema.name, dtype, devices, self.region))
        return result

    def _record(self, kernel: JITFunction, args: tuple, kwargs: dict[str, Any]) -> None:
        grid = kwargs.pop("grid")
        if kwargs.pop("warmup", False):
            return
        given = dict(zip(kernel.arg_names, args, strict=False))
        given |= {name: kwargs.pop(name) for name in kernel.arg_names if name in kwargs}
        given = {p.name: given.get(p.name, p.default) for p in kernel.params}
        grid = tuple(int(n) for n in (grid(given) if callable(grid) else grid))
        arguments = {name: _spec(value) if isinstance(value, Tensor) else value for name, value in given.items()}
        self.launches.append(Launch(kernel.fn.__module__, kernel.fn.__name__, grid, arguments, kwargs, self.region))

    def count(self) -> "Counts":
        """Return the numbers of launches and calls."""
        launches: dict[str, Counter] = {}
        calls: dict[str, Counter] = {}
        for each, found in ((self.launches, launches), (self.calls, calls)):
            for item in each:
                found.setdefault(item.region, Counter())[item.name] += 1
        copies = Counter(c.name for c in self.calls if c.name in COPIES and len(c.devices) > 1)
        waits = Counter(c.name for c in self.calls if c.name in SYNCHRONISING)
        return Counts(launches, calls, copies, waits)


class Counts(NamedTuple):
    """The numbers of launches, calls, copies and waits.

    Attributes:
        launches: Launches of Triton kernels, by region and then by name.
        calls: Calls of PyTorch operators: by region and then by name.
        copies: Copies between devices, by name.
        waits: Calls that make the processor wait for the GPU, by name.
    """

    launches: dict[str, Counter]
    calls: dict[str, Counter]
    copies: Counter
    waits: Counter

    @property
    def total(self) -> int:
        """Return the sum over all launches and calls."""
        return sum(sum(c.values()) for by in (self.launches, self.calls) for c in by.values())


def find_kernel(module: str, name: str) -> JITFunction:
    """Return a kernel without its wrappers, such as heuristics."""
    kernel = getattr(import_module(module), name)
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    return kernel


def _starts_kernel(func: Any) -> bool:
    return func.namespace == "aten" and not func.is_view and not WITHOUT_KERNEL.fullmatch(func._schema.name)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        return []
    return [tensor for part in tree for tensor in _tensors(part)]


def _spec(x: Tensor) -> TensorSpec:
    dtype = str(x.dtype).removeprefix("torch.")
    return TensorSpec(tuple(x.shape), tuple(x.stride()), dtype, x.storage_offset() * x.dtype.itemsize)
