"""A stand-in for a GPU that computes nothing, with which a network's work can be followed without a GPU.

Tensors are PyTorch's fake tensors on the device `cuda`: they have shapes, strides, dtypes and a device, but no values.
All Python code of the operators therefore runs as on a GPU: autocast, the choice of kernels, fused optimizers. Two
things are missing in PyTorch for CPUs. It has no guard for CUDA devices; in this situation, PyTorch for CUDA uses one
that does nothing, and the same is compiled here in a second or two. And its autograd engine asks such devices for
streams: :func:`backward` walks over the graph instead.
"""

import contextlib
import functools
import heapq
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction, FunctionCtx

GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""


@contextlib.contextmanager
def stand_in(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """Inside a `with` block, let `cuda` be a device of this compute capability that computes nothing.

    Raises:
        RuntimeError: If there is no GPU and no C++ compiler.
    """
    if not torch.cuda.is_available():  # without a driver, PyTorch for CUDA fails, too: version 2.9 when it indexes
        _load_guard()
    properties = SimpleNamespace(
        name=f"stand-in of sm_{capability[0]}{capability[1]}", major=capability[0], minor=capability[1],
        multi_processor_count=132, total_memory=80 * 2**30,
    )  # fmt: skip
    answers: dict[str, Any] = {
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device=None: SimpleNamespace(cuda_stream=0),
        "current_device": lambda: 0,
        "_exchange_device": lambda index: index,
        "_maybe_exchange_device": lambda index: index,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        for module in ("torch.utils._foreach_utils", "torch.optim.optimizer"):  # one call for many tensors, as on a GPU
            users = import_module(module)  # `torch.optim` hides its module of this name
            types = [*users._foreach_supported_types, FakeTensor]
            stack.enter_context(patch.object(users, "_foreach_supported_types", types))
        stack.enter_context(patch.object(FunctionCtx, "set_materialize_grads", _set_materialize_grads))
        stack.enter_context(patch.object(FakeTensor, "data_ptr", _address, create=True))
        stack.enter_context(FakeTensorMode())
        yield


@functools.cache
def _load_guard() -> None:
    from torch.utils import cpp_extension

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "guard.cpp")
        source.write_text(GUARD, encoding="utf-8")
        try:
            cpp_extension.load("mednextv2_guard", [str(source)], build_directory=folder, is_python_module=False)
        except (RuntimeError, OSError) as error:
            why = str(error).splitlines()[0]
            raise RuntimeError(f"without a GPU this needs a C++ compiler (apt install g++): {why}") from None


def _address(self: Tensor) -> int:
    """Return an address that a tensor without memory could have: its own, aligned as PyTorch's allocator does."""
    return self.untyped_storage()._cdata * 512 + self.storage_offset() * self.dtype.itemsize


def _set_materialize_grads(self: FunctionCtx, value: bool) -> None:
    """Do as the method of this name, and remember it, since PyTorch does not let it be read."""
    self.materialize_grads = value
    self.missing_as_none = not value


def backward(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor], visit: Callable[[Any], None] = lambda node: None
) -> None:
    """Run a backward pass as PyTorch's engine does, and store gradients at the leaves.

    Args:
        outputs: The tensors at which it starts.
        gradients: The gradients of the outputs.
        visit: A function that is called with every node of the graph before it runs.
    """
    roots = {output.grad_fn: None for output in outputs}
    waiting = _edges_into(roots)
    inputs: dict[Any, list[Tensor | None]] = {node: [None] * len(node._input_metadata) for node in roots}
    for output, gradient in zip(outputs, gradients, strict=True):
        inputs[output.grad_fn][output.output_nr] = gradient
    ready = [(-node._sequence_nr(), i, node) for i, node in enumerate(roots) if not waiting[node]]
    heapq.heapify(ready)
    order = len(roots)
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            visit(node)
            own = _run(node, inputs.pop(node))
            for (following, index), gradient in zip(node.next_functions, own, strict=False):
                if following is None:
                    continue
                slots = inputs.setdefault(following, [None] * len(following._input_metadata))
                if gradient is not None:
                    gradient = _fitting(gradient, following._input_metadata[index])
                    slots[index] = gradient if slots[index] is None else slots[index] + gradient
                waiting[following] -= 1
                if waiting[following] == 0:
                    order += 1
                    heapq.heappush(ready, (-following._sequence_nr(), order, following))


def reachable(roots: Iterable[Any], known: Container[Any] = ()) -> Iterator[Any]:
    """Yield the nodes of the graph that can be reached from some nodes, and these, but not past a known node."""
    stack, seen = [node for node in roots if node is not None and node not in known], set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack += [n for n, _ in node.next_functions if n is not None and n not in known]


def _edges_into(roots: Iterable[Any]) -> Counter:
    """Count, for every node that can be reached, the edges that lead to it."""
    return Counter(following for node in reachable(roots) for following, _ in node.next_functions if following)


def _run(node: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients that a node passes on, one for each of its edges."""
    if hasattr(node, "variable"):  # a leaf
        _accumulate(node.variable, gradients[0])
        return []
    if all(gradient is None for gradient in gradients):
        return [None] * len(node.next_functions)
    if not isinstance(node, BackwardCFunction):
        result = node(*gradients)
        return list(result) if isinstance(result, tuple) else [result]
    if not getattr(node, "missing_as_none", False):
        # PyTorch gives neither the device nor the shape of an output without gradient, which then do not matter
        like = next(g for g in gradients if g is not None)
        pairs = zip(gradients, node._input_metadata, strict=True)
        gradients = [like.new_zeros(tuple(m.shape), dtype=m.dtype) if g is None else g for g, m in pairs]
    result = node.apply(*gradients)
    result = result if isinstance(result, tuple) else (result,)
    # a Python function returns gradients for all its arguments, while only tensors have edges
    wanted = iter([own for own, needed in zip(result, node.needs_input_grad, strict=False) if needed])
    return [None if following is None else next(wanted) for following, _ in node.next_functions]


def _fitting(gradient: Tensor, wanted: Any) -> Tensor:
    """Return a gradient in the shape and dtype that the next node needs, as the engine does."""
    shape = tuple(wanted.shape)
    gradient = gradient.sum_to_size(shape) if tuple(gradient.shape) != shape else gradient
    return gradient if gradient.dtype == wanted.dtype else gradient.to(wanted.dtype)


def _accumulate(leaf: Tensor, gradient: Tensor | None) -> None:
    """Keep a leaf's gradient: unchanged if it has the leaf's memory layout, else as a copy with that layout."""
    if gradient is None:
        return
    if leaf.grad is not None:
        leaf.grad = leaf.grad + gradient
        return
    places = [[s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1] for t in (leaf, gradient)]
    if places[0] == places[1]:
        leaf.grad = gradient.detach()
    else:
        leaf.grad = torch.empty_strided(
            leaf.shape, leaf.stride(), dtype=gradient.dtype, device=gradient.device
        ).copy_(gradient)  # fmt: skip
